"""A worker dies, loses an answer, or comes back too late, at any step of its loop: one release or none, whichever is right.

The steps are counted as they happen and every one of them is tried: what is committed, stored and deleted, and for a worker that comes
back too late what is read and computed as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.engine import make_url

from deployments.embedded_postgres import DatabaseUrls
from deployments.purge import Purge
from deployments.transform_worker import GateWorker
from moderation.adapters import queue
from moderation.adapters import transform_statements as statements
from moderation.adapters.keeping import PostgresKeeping
from moderation.decision import Verdict
from moderation.errors import RecordUnavailable, StaleLease
from moderation.media import Stage, sha256_of
from moderation.ports import QueueState
from moderation.transform import Committed, State
from tests.faults.invariants import Dump, take, violations
from tests.gate_kit import Composing, Yard, face, in_yard, joined, marked, marker_halves, states, unchanged
from tests.postgres.test_gated_transform import held_at
from tests.postgres.test_record_faults import CuttingProxy

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

EFFECTS = {
    "queue": {"take", "fail"},
    "log": {"advance", "add_part", "release", "end"},
    "decisions": {"append"},
    "intake": {"put", "delete"},
    "quarantine": {"put", "delete"},
    "released": {"put", "delete"},
}
"""What a worker changes outside itself."""
COMMITS = {name: EFFECTS[name] for name in ("queue", "log", "decisions")}
STEPS = EFFECTS | {
    "log": EFFECTS["log"] | {"load"},
    "intake": {"get", "delete"},
    "quarantine": {"get", "put", "delete"},
    "renderer": {"render"},
    "signer": {"sign"},
}
"""The same with what it reads and computes."""
MOST = 60
"""Steps of one transform; more would be a loop."""
PATIENCE_S = 30.0

WAY = [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT]


# --- stopping a worker ----------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone: nothing catches this."""


Effect = Callable[[], Awaitable[Any]]


async def dies_before(_: Effect) -> None:
    raise Crash


async def dies_after(effect: Effect) -> None:
    await effect()
    raise Crash


async def fails_before(_: Effect) -> None:
    raise RecordUnavailable("cut off")


async def loses_the_answer(effect: Effect) -> None:
    await effect()
    raise RecordUnavailable("cut off before the answer came")


class Fuse:
    """Counts the steps of one worker and lets something `happen` to the n-th. After a death nothing more happens."""

    def __init__(self, at: int, happen: Callable[[Effect], Awaitable[Any]]) -> None:
        self.at = at
        self.happen = happen
        self.seen: list[str] = []
        self.is_dead = False
        self.was_stale = False

    @property
    def is_burnt(self) -> bool:
        return len(self.seen) >= self.at

    @property
    def where(self) -> str:
        return f"{self.happen.__name__}, step {self.at}: {self.seen[self.at - 1] if self.is_burnt else 'none'}"

    async def burn(self, name: str, effect: Effect) -> Any:
        if self.is_dead:
            raise Crash
        self.seen.append(name)
        try:
            return await (self.happen(effect) if len(self.seen) == self.at else effect())
        except Crash:
            self.is_dead = True
            raise
        except StaleLease:
            self.was_stale = True
            raise

    async def heeds(self, effect: Effect) -> Any:
        """It hears of it also between its steps, once they take long enough."""
        try:
            return await effect()
        except StaleLease:
            self.was_stale = True
            raise


class Led:
    """`inner`, some of whose coroutines are led `through` another."""

    def __init__(self, inner: Any, names: set[str], through: Callable[[str, Effect, tuple[Any, ...]], Awaitable[Any]]) -> None:
        self._inner = inner
        self._names = names
        self._through = through

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def led(*args: Any, **options: Any) -> Any:
            return await self._through(name, partial(found, *args, **options), args)

        return led


@dataclass
class Witness:
    """Looks into the record at the moment when a picture is worked on, and when a file is put where it can be served."""

    yard: Yard
    id: UUID
    broken: list[str] = field(default_factory=list)

    async def at_render(self, _: str, effect: Effect, __: tuple[Any, ...]) -> Any:
        now = await self.yard.load(self.id)
        passed = {one.stage for one in now.decisions if one.verdict is Verdict.ALLOW or one.id in now.reviews}
        if not passed >= {Stage.SOURCE, Stage.TARGET}:
            self.broken.append(f"worked on while only {passed} were allowed")
        return await effect()

    async def at_put(self, _: str, effect: Effect, args: tuple[Any, ...]) -> Any:
        now, (_, data) = await self.yard.load(self.id), args
        if now.release is None or now.release.signed_sha256 != sha256_of(data):
            self.broken.append("put where it can be served without a release")
        return await effect()


def make_worker(yard: Yard, witness: Witness, fuse: Fuse | None = None, steps: dict[str, set[str]] = EFFECTS) -> GateWorker:
    """A worker of real parts, watched; with a fuse, its steps go through that."""
    watched = {"renderer": ({"render"}, witness.at_render), "released": ({"put"}, witness.at_put)}
    parts: dict[str, Any] = {name: yard.area(name) for name in ("intake", "quarantine", "released")}
    parts |= {"log": yard.log, "queue": yard.queue, "renderer": yard.renderer, "signer": yard.signer, "decisions": yard.record}
    for name, (methods, through) in watched.items():
        parts[name] = Led(parts[name], methods, through)
    if fuse is not None:
        parts["log"] = Led(parts["log"], {"heed"}, lambda _, effect, __: fuse.heeds(effect))
        for name, methods in steps.items():
            parts[name] = Led(parts[name], methods, lambda method, effect, _, name=name: fuse.burn(f"{name}.{method}", effect))
    screener = replace(yard, decisions=parts.pop("decisions")).screener()
    return yard.worker(screener=screener, lease_s=3600, **parts)


# --- what a transform goes through ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Course:
    """One way that a transform can go."""

    accept: Callable[[Yard], Awaitable[UUID]]
    renderer: Callable[[], Composing] = unchanged
    events: list[State]
    """What must have happened in the end, exactly."""

    @property
    def end(self) -> State:
        return self.events[-1]


PLAIN = Course(accept=lambda yard: yard.accept(face("ada"), face("bo")), events=[*WAY, State.RELEASED])
MADE_EXPLICIT = Course(
    accept=lambda yard: yard.accept(*marker_halves()), renderer=lambda: Composing(change=joined), events=[*WAY, State.DENIED]
)
LOOKED_AT = Course(
    accept=lambda yard: yard.accept(marked(face("ada")), face("bo")),
    events=[State.QUEUED, State.SCREENING, State.HELD, State.TRANSFORMING, State.SCREENING_OUTPUT, State.RELEASED],
)
"""Under a policy that holds what is marked; a person allows it."""


async def to_the_end(yard: Yard, id: UUID, fuse: Fuse, witness: Witness, steps: dict[str, set[str]] = EFFECTS) -> Committed:
    """Work until nothing is left to do: by a worker with this fuse as long as it lives, and by fresh ones. A person allows what is held."""
    fused, fresh = make_worker(yard, witness, fuse, steps), make_worker(yard, witness)
    for _ in range(8):
        await yard.lapse(id)
        try:
            has_worked = await asyncio.wait_for((fresh if fuse.is_dead else fused).run_once(), PATIENCE_S)
        except (Crash, RecordUnavailable):  # it died, or could not even take the work
            await nothing_is_served_unreleased(yard, id, fuse.where)
            continue
        now = await yard.load(id)
        if now.state is State.HELD:
            await yard.review(now, now.events[-1].held.stage, Verdict.ALLOW)
        elif not has_worked:
            return now
    pytest.fail(f"comes to no end: {fuse.where}")


def lying_in(yard: Yard, area: str, id: UUID) -> list[str]:
    """The files of a transform in an area."""
    folder = yard.folder / "media" / area / yard.tenant.hex / id.hex
    return sorted(file.name for file in folder.rglob("*")) if folder.is_dir() else []


async def nothing_is_served_unreleased(yard: Yard, id: UUID, where: str) -> None:
    now = await yard.load(id)
    allowed = [] if now.release is None else [now.release.signed_sha256]
    assert set(lying_in(yard, "released", id)) <= set(allowed), where


async def check(yard: Yard, done: Committed, course: Course, where: str) -> None:
    """What must hold of one transform however often its workers died."""
    id = done.transform.id
    assert states(done) == course.events, where
    assert (done.release is not None) is (course.end is State.RELEASED), where
    assert lying_in(yard, "released", id) == ([done.release.signed_sha256] if done.release else []), where
    assert (await yard.served(done) is not None) is (done.release is not None), where
    is_interrupted_at_the_end = where.rpartition(" ")[2] in ("log.end", "intake.delete", "quarantine.delete")
    if not is_interrupted_at_the_end:
        assert lying_in(yard, "intake", id) == [], where
        kept = {part.sha256 for part in done.parts if course.end is State.DENIED}  # a denied output waits for whoever asks
        named = {part.sha256 for part in done.parts}
        left = set(lying_in(yard, "quarantine", id))
        assert left & named == kept, where
        assert left <= named or "quarantine.put" in where or "log.add_part" in where, where
    assert await yard.queue.state(yard.tenant, id, kind="transform") is QueueState.DONE, where


async def sweep(
    yard: Yard, course: Course, *happenings: Callable[[Effect], Awaitable[Any]], steps: dict[str, set[str]] = EFFECTS
) -> set[str]:
    """Let each of these happen at every step in turn, and let others finish; the steps at which it did."""
    yard.renderer = course.renderer()
    tried: set[str] = set()
    for happen in happenings:
        for at in range(1, MOST):
            id = await course.accept(yard)
            fuse, witness = Fuse(at, happen), Witness(yard, id)
            done = await to_the_end(yard, id, fuse, witness, steps)
            await check(yard, done, course, fuse.where)
            assert witness.broken == [], fuse.where
            if not fuse.is_burnt:
                break
            tried.add(fuse.seen[at - 1])
        else:
            pytest.fail(f"more than {MOST} steps")
    await nothing_is_broken(yard)
    return tried


async def nothing_is_broken(yard: Yard) -> None:
    """Nothing in the whole record and in the stores contradicts anything else; and what nobody names any more is found by its age."""
    dump = await take(yard.database, yard.tenant, yard.folder / "media")
    assert violations(dump) == []
    for area in ("intake", "quarantine"):
        await yard.empty(area)
        assert not (await take(yard.database, yard.tenant, yard.folder / "media")).files[area]


ALL_EFFECTS = {
    *("queue.take", "log.advance", "decisions.append", "log.add_part", "quarantine.put", "log.release", "released.put"),
    *("log.end", "intake.delete", "quarantine.delete"),
}
UNRELEASED = ALL_EFFECTS - {"log.release", "released.put", "quarantine.delete"}


def test_a_release_happens_once_wherever_the_worker_dies(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        assert await sweep(yard, PLAIN, dies_after, dies_before) == ALL_EFFECTS

    in_yard(database, tmp_path, scenario)


def test_a_denied_output_is_never_released_wherever_the_worker_dies(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        assert await sweep(yard, MADE_EXPLICIT, dies_after, dies_before) == UNRELEASED
        assert not (yard.folder / "media" / "released").exists()
        assert not await yard.worker().run_once(), "a denial is never tried again"

    in_yard(database, tmp_path, scenario)


def test_what_a_person_allowed_is_released_once_wherever_the_worker_dies_before_and_after_the_review(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        assert await sweep(yard, LOOKED_AT, dies_after, dies_before) == ALL_EFFECTS

    in_yard(database, tmp_path, scenario, policy=held_at(300_000))


def test_a_step_that_fails_or_whose_answer_is_lost_is_done_once(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        assert await sweep(yard, PLAIN, loses_the_answer, fails_before) >= ALL_EFFECTS

    in_yard(database, tmp_path, scenario)


# --- what somebody says while the worker is dead --------------------------------------------------


async def interrupted(yard: Yard, at: int, said: Callable[[Committed], Awaitable[Any]]) -> tuple[Fuse, Committed, Committed]:
    """A worker dies after its n-th effect, somebody says something, others finish; what was committed before that and in the end."""
    yard.renderer = unchanged()
    id = await PLAIN.accept(yard)
    fuse, witness = Fuse(at, dies_after), Witness(yard, id)
    with contextlib.suppress(Crash):
        await make_worker(yard, witness, fuse).run_once()
    before = await yard.load(id)
    await said(before)
    done = await to_the_end(yard, id, fuse, witness)
    assert witness.broken == [], fuse.where
    return fuse, before, done


def test_a_cancel_after_a_death_ends_it_unless_the_release_was_committed(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        ends = set()
        for at in range(1, MOST):
            fuse, before, done = await interrupted(
                yard, at, lambda before: yard.log.request_cancel(yard.tenant, before.transform.id, "key")
            )
            is_late = before.release is not None
            events = [*WAY, State.RELEASED] if is_late else [*states(before), State.CANCELLED]
            await check(yard, done, replace(PLAIN, events=events), fuse.where)
            ends.add(done.state)
            if not fuse.is_burnt:
                break
        assert ends == {State.CANCELLED, State.RELEASED}
        await nothing_is_broken(yard)

    in_yard(database, tmp_path, scenario)


def test_a_block_after_a_death_denies_or_withdraws(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        async def block(before: Committed) -> None:
            if any(one.stage is Stage.TARGET for one in before.decisions):
                await yard.review(before, Stage.TARGET, Verdict.BLOCK)

        ends = set()
        for at in range(1, MOST):
            fuse, before, done = await interrupted(yard, at, block)
            is_late, is_blocked = before.release is not None, bool(done.reviews)
            events = [*states(before), State.DENIED] if is_blocked and not is_late else [*WAY, State.RELEASED]
            assert states(done) == events, fuse.where
            assert done.withdrawn is (is_blocked and is_late), fuse.where
            ends.add((done.state, done.withdrawn))
            if is_blocked:  # the next one has the same pictures
                await yard.review(done, Stage.TARGET, Verdict.ALLOW)
            if not fuse.is_burnt:
                break
        assert ends == {(State.RELEASED, False), (State.DENIED, False), (State.RELEASED, True)}
        assert await Purge(yard.log, yard.area("released"), PostgresKeeping(yard.database))() > 0
        await nothing_is_broken(yard)

    in_yard(database, tmp_path, scenario)


# --- a worker that comes back too late ------------------------------------------------------------


class Paused:
    """A worker that waits just before its n-th step until it is let go on."""

    def __init__(self, yard: Yard, witness: Witness, at: int, steps: dict[str, set[str]] = STEPS) -> None:
        self._reached, self._go_on = asyncio.Event(), asyncio.Event()
        self.fuse = Fuse(at, self._waits)
        self._work = asyncio.create_task(make_worker(yard, witness, self.fuse, steps).run_once())

    async def _waits(self, effect: Effect) -> Any:
        self._reached.set()
        await self._go_on.wait()
        return await effect()

    async def arrives(self) -> bool:
        """Whether it waits there; False if it came to its end before."""
        arrival = asyncio.create_task(self._reached.wait())
        await asyncio.wait({self._work, arrival}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        arrival.cancel()
        return self._reached.is_set()

    async def goes_on(self) -> bool:
        """Let it go on to its end; whether there was work."""
        self._go_on.set()
        return await asyncio.wait_for(self._work, PATIENCE_S)


async def takes_over(yard: Yard, id: UUID, witness: Witness) -> Paused | None:
    """Another worker that has just taken the work, once the first is not in the midst of a commit any more; None if none is left."""
    while await yard.queue.state(yard.tenant, id, kind="transform") is not QueueState.DONE:
        await yard.lapse(id)
        other = Paused(yard, witness, at=2)
        if await other.arrives():
            return other
    return None


def served(dump: Dump) -> dict[str, bytes]:
    return {file.sha256: file.data for file in dump.files["released"]}


async def too_late(yard: Yard, at: int, *, other_has_ended: bool) -> Fuse:
    """A worker stops just before its n-th step, another takes its work, and the first goes on: after the other's end or before."""
    yard.renderer = unchanged()
    id = await PLAIN.accept(yard)
    witness = Witness(yard, id)
    late = Paused(yard, witness, at)
    await late.arrives()
    other = await takes_over(yard, id, witness)
    if other is not None and other_has_ended:
        await other.goes_on()
    before = await take(yard.database, yard.tenant, yard.folder / "media")
    await late.goes_on()
    where, after = late.fuse.where, await take(yard.database, yard.tenant, yard.folder / "media")
    assert after.rows == before.rows, f"something was written too late: {where}"
    if other_has_ended:
        assert served(after) == served(before), where
    assert late.fuse.was_stale is (other is not None and not where.endswith("queue.take")), where
    if other is not None:
        await other.goes_on()
    assert states(await yard.load(id)) == PLAIN.events, where
    assert witness.broken == [], where
    return late.fuse


@pytest.mark.parametrize("other_has_ended", [True, False], ids=["after the other's end", "while the other works"])
def test_a_worker_that_comes_back_too_late_writes_nothing_wherever_it_was(database, tmp_path, other_has_ended):
    async def scenario(yard: Yard) -> None:
        tried: set[str] = set()
        for at in range(1, MOST):
            fuse = await too_late(yard, at, other_has_ended=other_has_ended)
            if not fuse.is_burnt:
                break
            tried.add(fuse.seen[at - 1])
        # What it has made itself it has at hand.
        assert tried == ALL_EFFECTS | {"log.load", "intake.get", "renderer.render", "signer.sign"}
        await nothing_is_broken(yard)

    in_yard(database, tmp_path, scenario)


def test_what_was_withdrawn_and_purged_does_not_come_back_by_a_worker_that_publishes_too_late(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()
        id = await PLAIN.accept(yard)
        witness = Witness(yard, id)
        late = Paused(yard, witness, at=1, steps={"released": {"put"}})
        assert await late.arrives()
        other = await takes_over(yard, id, witness)
        await other.goes_on()
        await yard.review(await yard.load(id), Stage.OUTPUT, Verdict.BLOCK)
        assert await Purge(yard.log, yard.area("released"), PostgresKeeping(yard.database))() == 1
        await late.goes_on()
        assert late.fuse.seen[0] == "released.put"
        assert lying_in(yard, "released", id) == []
        await nothing_is_broken(yard)

    in_yard(database, tmp_path, scenario)


# --- a commit whose answer is lost ----------------------------------------------------------------


@pytest.fixture
def cutter(database: DatabaseUrls) -> Iterator[tuple[CuttingProxy, str]]:
    """A proxy before the server, and the run-time URL through it."""
    url = make_url(database.runtime)
    alone = (queue.TAKE, statements.ADVANCE, statements.ADD_PART)  # committed by the message that asks
    made = CuttingProxy(f"{url.query['host']}/.s.PGSQL.5432", commits=[f"EXECUTE {question.name} ".encode() for question in alone])
    yield made, url.update_query_dict({"host": str(made.folder)}).render_as_string(hide_password=False)
    made.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_is_cut_around_any_commit_leaves_one_release(database, cutter, tmp_path, when):
    proxy, url = cutter
    cut: set[str] = set()

    async def is_cut(effect: Effect) -> Any:
        before = proxy.cuts
        proxy.arm(when)
        try:
            return await effect()
        finally:
            proxy.disarm()
            if proxy.cuts > before:
                cut.add(effect.func.__name__)

    async def scenario(yard: Yard) -> None:
        assert await sweep(yard, PLAIN, is_cut, steps=COMMITS) >= {name for name in ALL_EFFECTS if name.partition(".")[0] in COMMITS}
        assert cut == {"take", "advance", "append", "add_part", "release", "end"}

    in_yard(replace(database, runtime=url), tmp_path, scenario)
