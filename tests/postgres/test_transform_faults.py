"""A worker that dies at any effect of its loop: all of them enumerated, for three ways a transform can go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deployments.policy_file import shipped_policy
from moderation.adapters.areas import Area
from moderation.decision import Verdict
from moderation.media import Stage, sha256_of
from moderation.transform import FINAL, Committed, PartKind, State
from tests.gate_kit import Composing, Yard, face, in_yard, joined, marked, marker_halves, states, unchanged
from tests.postgres.test_gated_transform import held_at

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

MOST = 60
"""Effects of one transform; more would be a loop."""


class Crash(BaseException):
    """The process is gone: nothing catches this."""


class Fuse:
    """Counts effects and dies at the n-th, just before it or just after."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at = at
        self.after = after
        self.seen = 0

    def guard(self, inner: object, names: set[str]) -> Any:
        """`inner` with these coroutines counted."""
        return _Guarded(inner, names, self)

    async def burn(self, effect: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.seen += 1
        is_now = self.seen == self.at
        if is_now and not self.after:
            raise Crash
        result = await effect(*args, **options)
        if is_now:
            raise Crash
        return result


class _Guarded:
    def __init__(self, inner: object, names: set[str], fuse: Fuse) -> None:
        self._inner = inner
        self._names = names
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def counted(*args: Any, **options: Any) -> Any:
            return await self._fuse.burn(found, *args, **options)

        return counted


def dying_worker(yard: Yard, fuse: Fuse) -> Any:
    """A worker all of whose effects go through the fuse."""
    yard.decisions = fuse.guard(yard.record, {"append"})
    areas: dict[str, Any] = {name: fuse.guard(yard.area(name), {"put", "delete"}) for name in ("intake", "quarantine", "released")}
    log = fuse.guard(yard.log, {"advance", "add_part", "release", "end"})
    worker = yard.worker(log=log, **areas)
    yard.decisions = None
    return worker


async def released_files(yard: Yard) -> list[bytes]:
    folder = yard.folder / "media" / "released"
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


async def check(yard: Yard, done: Committed, expected: State) -> None:
    """What must hold however often the worker died."""
    assert done.state is expected
    assert [event.sequence for event in done.events] == list(range(1, len(done.events) + 1))
    assert sum(event.state in FINAL for event in done.events) == 1
    assert (done.release is not None) is (expected is State.RELEASED)
    data = await yard.served(done)
    if done.release is None:
        assert data is None
    else:
        assert sha256_of(data) == done.release.signed_sha256 == done.part(PartKind.SIGNED).sha256
        assert done.release.encoded_sha256 == done.part(PartKind.ENCODED).sha256
        named = {one.id: one for one in done.decisions}
        assert {named[id].stage: named[id].verdict for id in done.release.decisions.values()}.keys() == {*Stage} - {Stage.UPLOAD}
        assert named[done.release.decisions[Stage.OUTPUT]].media.sha256 == done.release.encoded_sha256


async def sweep(yard: Yard, begin: Callable[[], Any], expected: State, *, between: Callable[[Committed], Any] | None = None) -> int:
    """Die at every effect in turn, before and after it, and let others finish; how many effects there were."""
    effects = 0
    for after in (True, False):
        for at in range(1, MOST):
            fuse = Fuse(at, after=after)
            id = await begin()
            survived = True
            try:
                await dying_worker(yard, fuse).run_once()
            except (Crash, BaseExceptionGroup):
                survived = False
            before = await yard.load(id)
            if before.release is None:
                assert await yard.served(before) is None, f"served before the release, effect {at}"
            done = await yard.finish(id)
            if between is not None and done.state is State.HELD:
                await between(done)
                done = await yard.finish(id)
            await check(yard, done, expected)
            if survived:
                effects = max(effects, fuse.seen)
                break
        else:
            pytest.fail(f"more than {MOST} effects")
    return effects


def test_a_release_happens_once_wherever_the_worker_dies(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()
        effects = await sweep(yard, lambda: yard.accept(face("ada"), face("bo")), State.RELEASED)
        assert effects >= 14, "decisions, states, parts, files, release, end and clean-up are all counted"

    in_yard(database, tmp_path, scenario)


def test_a_denied_output_is_never_released_wherever_the_worker_dies(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.renderer = Composing(change=joined)
        left, right = marker_halves()
        await sweep(yard, lambda: yard.accept(left, right), State.DENIED)
        assert await released_files(yard) == []

    in_yard(database, tmp_path, scenario)


def test_what_a_person_allowed_is_released_once_wherever_the_worker_dies(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()

        async def allow(held: Committed) -> None:
            assert not await released_files(yard) or held.release is None
            await yard.review(held, held.events[-1].held.stage, Verdict.ALLOW)

        await sweep(yard, lambda: yard.accept(marked(face("ada")), face("bo")), State.RELEASED, between=allow)

    in_yard(database, tmp_path, scenario, policy=held_at(300_000))


@pytest.mark.parametrize("stopped_at", ["intake.get", "render", "quarantine.put", "sign", "released.put"])
def test_a_stale_worker_writes_nothing_that_counts(database, tmp_path, stopped_at):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()
        reached, go_on = asyncio.Event(), asyncio.Event()

        def paused(inner: object, name: str) -> Any:
            class Pausing:
                def __getattr__(self, attribute: str) -> Any:
                    found = getattr(inner, attribute)
                    if attribute != name:
                        return found

                    async def wait_then(*args: Any, **options: Any) -> Any:
                        reached.set()
                        await go_on.wait()
                        return await found(*args, **options)

                    return wait_then

            return Pausing()

        part, _, name = stopped_at.partition(".")
        parts: dict[str, Any] = {
            "intake": lambda: {"intake": paused(yard.area("intake"), name)},
            "quarantine": lambda: {"quarantine": paused(yard.area("quarantine"), name)},
            "released": lambda: {"released": paused(yard.area("released"), name)},
            "render": lambda: {"renderer": paused(yard.renderer, "render")},
            "sign": lambda: {"signer": paused(yard.signer, "sign")},
        }
        id = await yard.accept(face("ada"), face("bo"))
        stale = asyncio.create_task(yard.worker(**parts[part](), lease_s=3600).run_once())
        await asyncio.wait_for(reached.wait(), 30)
        await yard.lapse(id)
        assert await yard.worker().run_once()
        done = await yard.load(id)
        assert done.state is State.RELEASED
        data = await yard.served(done)
        go_on.set()
        assert await stale
        assert await yard.load(id) == done, "nothing was added"
        assert await yard.served(done) == data
        assert states(done).count(State.RELEASED) == 1

    in_yard(database, tmp_path, scenario, policy=shipped_policy("marker"))


def test_an_area_has_no_other_way_in_than_its_own_name(tmp_path):
    """A name is hex only: none leads from one area into another."""

    async def main() -> None:
        from moderation.adapters.media_store import ObjectMediaStore  # noqa: PLC0415

        store = ObjectMediaStore(str(tmp_path))
        await Area(store, "quarantine").put("ab" * 16 + "/" + "cd" * 16 + "/" + sha256_of(b"x"), b"x")
        for name in ("../quarantine/" + "ab" * 16, "..%2fquarantine", "/quarantine", "ab" * 16 + "/../../quarantine"):
            with pytest.raises(ValueError, match="hex"):
                await Area(store, "released").get(name)

    asyncio.run(main())
