"""Transforms of every kind under kill -9 of their workers at random times, and what must hold of the record and the stores afterwards.

Two worker processes share the work. At a random moment one of them is killed, or, now and then, stopped for longer than its lease and
then let go on, as if it had come back from the dead. Meanwhile transforms are accepted for two tenants, some of them twice with one key,
some are cancelled, and what is held is reviewed. Whoever could fetch a released file does, all the time.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import numpy as np
from sqlalchemy import ColumnElement, func, select

from deployments.embedded_postgres import DatabaseUrls
from deployments.policy_file import shipped_policy
from moderation.adapters import tables
from moderation.adapters.database import Context, Database
from moderation.adapters.queue import _LAPSED
from moderation.adapters.transforms import PostgresTransforms
from moderation.decision import Verdict
from moderation.policy import Policy
from moderation.ports import KeyUse
from moderation.transform import FINAL, Basis, Committed, ConsentStatement, State
from tests.faults.invariants import Dump, take, violations
from tests.faults.worker import LEASE_S, cued
from tests.gate_kit import Yard, face, marked, marker_halves, yard
from tests.pg import make_tenant
from tests.video_kit import clip, drifting

EXPECTED = {
    "plain": {State.RELEASED},
    "marked source": {State.DENIED},
    "marked target": {State.DENIED},
    "marker output": {State.DENIED},
    "cancelled": {State.CANCELLED, State.RELEASED},
    "held, then allowed": {State.RELEASED},
    "held, then blocked": {State.DENIED},
    "video": {State.RELEASED},
    "video that comes to show a marker": {State.DENIED},
}
"""How transforms of each kind may end; a cancel may come too late."""
REVIEWS = {"held, then allowed": Verdict.ALLOW, "held, then blocked": Verdict.BLOCK}

FRAMES = 20
SEGMENT = 13
"""Frames of the first segment."""
WORKERS = 2
LONGEST_PAUSE_S = 0.8
"""Between the moment when there is work in progress and the fault; a transform takes about a third of a second."""
STARTED_WITHIN_S = 60.0
SETTLED_WITHIN_S = 180.0
"""A release that was given up is tried again after half a minute."""
LOOKS_EVERY_S = 0.05
SAID = "Ada agreed to order 7731"
"""Personal: it must come up in no log and in no entry."""


# --- processes ------------------------------------------------------------------------------------


class Worker:
    """A worker process: one life."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def signal(self, how: signal.Signals) -> None:
        os.kill(self.pid, how)  # raises ProcessLookupError if it has ended by itself


class Nursery:
    """Starts workers; see `tests.faults.worker`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log
        self.living: list[Worker] = []
        self.sessions: set[int] = set()
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start one and wait until it takes work."""
        self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)  # whoever goes away meanwhile leaves none that nobody knows of

    async def _start(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        said = await asyncio.wait_for(self._process.stdout.readline(), STARTED_WITHIN_S)
        assert said.strip().isdigit(), f"a worker did not start: {self.log.read_text()[-2000:]}"
        self.living.append(Worker(int(said)))
        self.sessions.add(int(said))

    def kill(self, victim: Worker) -> None:
        self.living.remove(victim)
        victim.signal(signal.SIGKILL)

    async def close(self) -> None:
        """No worker outlives this, nor what it has started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._starting is not None:
            await asyncio.wait({self._starting})
        for victim in list(self.living):
            self.kill(victim)
        await self._process.wait()
        await none_is_left(self.sessions)


@asynccontextmanager
async def nursery(urls: DatabaseUrls, made: Yard) -> AsyncIterator[Nursery]:
    """Two workers, and what starts more."""
    log = made.folder / "workers.log"
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.worker", urls.runtime, str(made.folder), str(made.tenant)),
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sink,
        )
    started = Nursery(process, log)
    try:
        for _ in range(WORKERS):
            await started.start()
        yield started
    finally:
        await started.close()


async def none_is_left(sessions: set[int]) -> None:
    """Wait until no process of these sessions lives: a decode child ends when its worker is gone."""
    until = time.monotonic() + 10
    while left := sessions & set(_sessions()):
        assert time.monotonic() < until, f"processes of {left} outlive their worker"
        await asyncio.sleep(LOOKS_EVERY_S)


def _sessions() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if state != "Z":
            yield int(session)


# --- the run --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did, and what was left."""

    ends: Counter[str]
    """How many transforms of each kind came to each end."""
    kills: int
    hits: int
    """Leases that ran out because whoever held them was killed or stopped."""
    dumps: tuple[Dump, ...]

    def __str__(self) -> str:
        ends = "\n".join(f"  {count:4} {end}" for end, count in sorted(self.ends.items()))
        return f"{self.kills} kills, {self.hits} transforms taken over, every invariant holds; {self.ends.total()} transforms:\n{ends}"


class Run:
    """One run: what was asked for, and the chance that decides."""

    def __init__(self, yards: list[Yard], careful: dict[UUID, Policy], chance: random.Random) -> None:
        self.yards = yards
        self.careful = careful
        self.chance = chance
        self.kinds: dict[UUID, str] = {}
        self.keys: dict[UUID, tuple[Yard, tuple[np.ndarray, np.ndarray | bytes], KeyUse]] = {}
        self.order = list(EXPECTED)
        self.served: set[str] = set()

    # --- what callers do ----------------------------------------------------------------------

    async def ask(self) -> None:
        """Accept a transform, of each kind in turn, for one of the tenants."""
        if len(self.kinds) % len(self.order) == 0:
            self.chance.shuffle(self.order)
        kind = self.order[len(self.kinds) % len(self.order)]
        left, right = marker_halves() if kind == "marker output" else (face("ada"), face("bo"))
        if kind in REVIEWS or kind == "marked source":
            left = marked(left)
        if kind == "marked target":
            right = marked(right)
        number = len(self.kinds)
        frames = (self._unlike(left), self._film(kind) if kind.startswith("video") else self._unlike(right))
        made = self.chance.choice(self.yards)
        if kind in REVIEWS:
            made = replace(made, policy=self.careful[made.tenant])
        use = KeyUse(key=f"order-{number}", fingerprint=f"sha256:{number}")
        id = await made.accept(*frames, use=use, consent=ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement=SAID))
        self.kinds[id], self.keys[id] = kind, (made, frames, use)

    def _unlike(self, frame: np.ndarray) -> np.ndarray:
        """Other bytes each time, so that no scores are remembered."""
        other = frame.copy()
        other[:8, :8] = self.chance.randrange(256)
        other[:8, 8:16] = self.chance.randrange(256)
        return other

    def _film(self, kind: str) -> bytes:
        """Two segments, in the second of which there may be a cue that the worker makes a marker of."""
        frames = [self._unlike(frame) for frame in drifting(FRAMES)]
        if kind != "video":
            frames[self.chance.randrange(SEGMENT, FRAMES)] = cued(frames[0])
        return clip(frames)

    async def ask_again(self) -> None:
        """The same request with the same key: the same transform."""
        id = self.chance.choice(list(self.keys))
        made, frames, use = self.keys[id]
        assert await made.accept(*frames, use=use, consent=ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement=SAID)) == id

    async def cancel(self, share: float) -> None:
        for id, kind in self.kinds.items():
            if kind == "cancelled" and self.chance.random() < share:
                made = self.keys[id][0]
                await made.log.request_cancel(made.tenant, id, "key")

    async def review(self, share: float) -> None:
        for id, kind in self.kinds.items():
            if kind in REVIEWS and self.chance.random() < share:
                now = await self.load(id)
                if now.state is State.HELD:
                    held = now.events[-1].held
                    assert held is not None
                    await self.keys[id][0].review(now, held.stage, REVIEWS[kind])

    async def load(self, id: UUID) -> Committed:
        return await self.keys[id][0].load(id)

    async def fetch(self) -> None:
        """Whatever lies in the released area can be served: a committed release must name it already."""
        for file in (self.yards[0].folder / "media" / "released").rglob("*"):
            if file.is_file() and file.name not in self.served:
                now = await self.load(UUID(file.parent.name))
                assert now.release is not None, f"{file.name} can be served and is not released"
                assert now.release.signed_sha256 == file.name
                self.served.add(file.name)

    async def keep_fetching(self) -> None:
        """Until cancelled."""
        while True:
            await self.fetch()
            await asyncio.sleep(LOOKS_EVERY_S)

    # --- faults -------------------------------------------------------------------------------

    async def strike(self, workers: Nursery) -> bool:
        """In the midst of work, kill a worker and start another, or stop one for longer than its lease; whether it was killed."""
        await self._until_busy()
        await asyncio.sleep(self.chance.uniform(0, LONGEST_PAUSE_S))
        victim = self.chance.choice(workers.living)
        if self.chance.random() < 0.2:
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(self.chance.uniform(1.2, 2.5) * LEASE_S)
            victim.signal(signal.SIGCONT)
            return False
        workers.kill(victim)
        await workers.start()
        return True

    async def _until_busy(self) -> None:
        until = time.monotonic() + SETTLED_WITHIN_S
        while await count_jobs(self.yards[0].database, tables.job.c.state == "running") == 0:
            assert time.monotonic() < until, "nobody works"
            if await count_jobs(self.yards[0].database, tables.job.c.state == "queued") == 0:
                await self.ask()  # all that was asked for came to its end before anybody looked
            await asyncio.sleep(LOOKS_EVERY_S)

    async def settle(self) -> None:
        """Wait until all have ended; what is held is reviewed."""
        until = time.monotonic() + SETTLED_WITHIN_S
        waiting = set(self.kinds)
        while waiting:
            await self.review(1.0)
            waiting = {id for id in waiting if (await self.load(id)).state not in FINAL}
            assert time.monotonic() < until, f"come to no end: {[(self.kinds[id], (await self.load(id)).events) for id in waiting]}"
            await asyncio.sleep(LOOKS_EVERY_S)


async def count_jobs(database: Database, *where: ColumnElement[bool]) -> int:
    """Transforms whose job is like that, over all tenants."""
    statement = select(func.count()).select_from(tables.job).where(tables.job.c.kind == "transform", *where)
    return await database.run(Context(worker=True), lambda connection: connection.execute(statement).scalar_one())


async def run(urls: DatabaseUrls, folder: Path, *, kills: int, seed: int) -> Report:
    """Kill so often, while there is work, and check what is left. Raises AssertionError with the seed."""
    async with yard(urls, folder) as first:
        second = replace(first, tenant=make_tenant(urls.runtime, "another"))
        await second.policies.publish(second.tenant, "marker", first.policy, "operator")
        careful = {one.tenant: await publish_careful(one) for one in (first, second)}
        going = Run([first, second], careful, random.Random(seed))
        try:
            async with nursery(urls, first) as workers:
                done = await strike_and_settle(going, workers, kills)
            return await checked(going, done, urls)
        except Exception as broken:
            raise AssertionError(f"seed {seed}: {broken!r}") from broken


async def publish_careful(made: Yard) -> Policy:
    """Put a policy in force that holds what the marker policy blocks."""
    shipped = shipped_policy("marker")
    rules = tuple(replace(rule, block_at=None, review_at=300_000) if rule.category == "test.marker" else rule for rule in shipped.rules)
    return await made.policies.publish(made.tenant, "careful", replace(shipped, name="careful", rules=rules), "operator")


async def strike_and_settle(going: Run, workers: Nursery, kills: int) -> int:
    """Accept and strike until there were so many kills and one of them hit, then let everything end; how many kills there were."""
    done = 0
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(going.keep_fetching())  # what it finds ends all
        while done < kills or not await taken_over(going):
            assert done < kills + 20, "no kill hits any work"
            for _ in range(2):
                await going.ask()
            if going.chance.random() < 0.3:
                await going.ask_again()
            await going.cancel(0.5)
            await going.review(0.5)
            done += await going.strike(workers)
        await going.cancel(1.0)
        await going.settle()
        await going.fetch()
        fetching.cancel()
    return done


async def taken_over(going: Run) -> int:
    """Transforms whose worker was gone without a word."""
    return await count_jobs(going.yards[0].database, tables.job.c.last_error == _LAPSED)


# --- what must hold -------------------------------------------------------------------------------


async def checked(going: Run, kills: int, urls: DatabaseUrls) -> Report:
    """Everything that must hold once all has ended, from the record, the stores and the logs. Raises AssertionError."""
    media = going.yards[0].folder / "media"
    dumps = tuple([await take(one.database, one.tenant, media) for one in going.yards])
    broken = [finding for dump in dumps for finding in violations(dump)]
    assert broken == [], broken
    assert {row["id"] for dump in dumps for row in dump.rows["transform"]} == set(going.kinds), "one transform for each key"
    ends: Counter[str] = Counter()
    for id, kind in going.kinds.items():
        now = await going.load(id)
        failure = now.events[-1].failure
        gave_up = failure is not None and failure.code == "attempts_exhausted"
        assert now.state in EXPECTED[kind] or gave_up, (kind, now.events)
        ends[f"{kind}: {now.state}{' after three deaths' if gave_up else ''}"] += 1
    await tells_the_same_after_a_restart(going, urls)
    nothing_is_said(going, dumps, urls)
    for area in ("intake", "quarantine"):
        await going.yards[0].empty(area)
        assert not any(file.is_file() for file in (media / area).rglob("*")), f"{area} keeps what nobody names"
    return Report(ends=ends, kills=kills, hits=await taken_over(going), dumps=dumps)


async def tells_the_same_after_a_restart(going: Run, urls: DatabaseUrls) -> None:
    """I8 and I9: somebody who knows nothing reads the same, finds no work left, and shows a tenant nothing of another's."""
    database = Database(urls.runtime, connections=2)
    try:
        log = PostgresTransforms(database)
        for id in going.kinds:
            mine = going.keys[id][0].tenant
            assert await log.load(mine, id) == await going.load(id)
            for other in going.yards:
                assert other.tenant == mine or await log.load(other.tenant, id) is None
        assert not await going.yards[0].worker().run_once()
    finally:
        await asyncio.to_thread(database.close)
    for _ in range(3):
        await going.ask_again()


def nothing_is_said(going: Run, dumps: tuple[Dump, ...], urls: DatabaseUrls) -> None:
    """I10: no log holds bytes of a picture, what was said, or where the database is; no entry holds what was said."""
    files = [file.data for dump in dumps for area in dump.files.values() for file in area]
    heads = {data[:24] for data in files} | {b"\xff\xd8\xff", b"\x89PNG"}
    secret = {SAID.encode(), urls.runtime.encode(), *heads, *(base64.b64encode(data[:24]) for data in files)}
    said = (going.yards[0].folder / "workers.log").read_bytes()
    assert b"transform ended" in said, "the log was read"
    assert not [one for one in secret if one in said], "a log says too much"
    assert not any(SAID.encode() in entry["canonical"] for dump in dumps for entry in dump.rows["entry"])
