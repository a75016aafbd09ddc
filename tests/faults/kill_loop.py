"""Transforms of every kind under kill -9 of their worker at random times, and what must hold of the record and the stores afterwards."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Context
from moderation.audit import leaf_hash
from moderation.decision import Verdict
from moderation.media import Stage, sha256_of
from moderation.transform import FINAL, PartKind, State
from tests.gate_kit import Yard, face, marked, marker_halves, yard

KINDS = ("plain", "marked source", "marked target", "marker output", "cancelled")
EXPECTED = {
    "plain": {State.RELEASED},
    "marked source": {State.DENIED},
    "marked target": {State.DENIED},
    "marker output": {State.DENIED},
    "cancelled": {State.CANCELLED, State.RELEASED},
}
"""A cancel may come too late."""
LONGEST_LIFE_S = 2.5
SETTLED_WITHIN_S = 120.0


@dataclass
class Worker:
    """The worker process and its next life."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    output: Path = field(init=False)

    def __post_init__(self) -> None:
        self.output = self.folder / "worker.out"

    def start(self) -> None:
        with self.output.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", self.url, str(self.folder)],
                cwd=Path(__file__).parents[2],
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.output.read_text()[-3000:]
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


async def run(urls: DatabaseUrls, folder: Path, *, kills: int, seed: int) -> dict[str, int]:
    """Kill so often; how many transforms of each kind came to their end. Raises AssertionError with the seed."""
    chance = random.Random(seed)
    asked: dict[UUID, str] = {}
    worker = Worker(urls.runtime, folder)
    async with yard(urls, folder) as made:
        worker.start()
        try:
            for _ in range(kills):
                for _ in range(2):
                    kind = chance.choice(KINDS)
                    asked[await ask(made, kind)] = kind
                await asyncio.sleep(chance.uniform(0.2, LONGEST_LIFE_S))
                for id, kind in asked.items():
                    if kind == "cancelled" and chance.random() < 0.5:
                        await made.log.request_cancel(made.tenant, id, "key")
                worker.kill()
                worker.start()
            for id, kind in asked.items():
                if kind == "cancelled":
                    await made.log.request_cancel(made.tenant, id, "key")
            await settle(made, asked)
        finally:
            if worker.process is not None and worker.process.poll() is None:
                worker.kill()
        try:
            for id, kind in asked.items():
                await check(made, id, kind)
            await check_log(made)
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from broken
    return {kind: sum(one == kind for one in asked.values()) for kind in KINDS}


async def ask(made: Yard, kind: str) -> UUID:
    left, right = marker_halves() if kind == "marker output" else (face("ada"), face("bo"))
    return await made.accept(
        marked(left) if kind == "marked source" else left,
        marked(right) if kind == "marked target" else right,
    )


async def settle(made: Yard, asked: dict[UUID, str]) -> None:
    """Wait until all have ended. An attempt that dies counts, so what was given up is asked to go on as an operator would see it."""
    until = time.monotonic() + SETTLED_WITHIN_S
    for id in asked:
        while (await made.load(id)).state not in FINAL:
            assert time.monotonic() < until, f"{id} does not end: {(await made.load(id)).events}"
            await asyncio.sleep(0.1)


async def check(made: Yard, id: UUID, kind: str) -> None:
    """Invariants of one transform, from the record and the stores alone."""
    done = await made.load(id)
    failure = done.events[-1].failure
    gave_up = done.state is State.FAILED and failure is not None and failure.code == "attempts_exhausted"
    assert done.state in EXPECTED[kind] or gave_up, (kind, done.events)
    assert [event.sequence for event in done.events] == list(range(1, len(done.events) + 1))
    assert sum(event.state in FINAL for event in done.events) == 1
    data = await made.served(done)
    assert (done.release is not None) is (data is not None), kind
    if done.release is None or data is None:
        return
    assert kind in ("plain", "cancelled")
    assert sha256_of(data) == done.release.signed_sha256
    named = {one.id: one for one in done.decisions}
    for stage, sha256 in (
        (Stage.SOURCE, done.transform.source.sha256),
        (Stage.TARGET, done.transform.target.sha256),
        (Stage.OUTPUT, done.release.encoded_sha256),
    ):
        decision = named[done.release.decisions[stage]]
        assert (decision.verdict, decision.media.sha256) == (Verdict.ALLOW, sha256)
        assert decision.created_at <= done.release.released_at
    signed = done.part(PartKind.SIGNED)
    assert signed is not None
    assert signed.made_of == done.release.encoded_sha256


async def check_log(made: Yard) -> None:
    """Every decision, transform and release has its entry, and every entry its leaf."""
    missing = text("""
        SELECT count(*) FROM (SELECT id FROM facegate.decision UNION ALL SELECT id FROM facegate.transform UNION ALL SELECT id FROM facegate.release) one
        WHERE NOT EXISTS (SELECT FROM facegate.entry WHERE entry.id = one.id)
    """)
    entries = text("SELECT canonical, leaf FROM facegate.entry")
    count = await made.database.run(Context(tenant=made.tenant), lambda connection: connection.execute(missing).scalar_one())
    rows = await made.database.run(Context(tenant=made.tenant), lambda connection: connection.execute(entries).all())
    assert count == 0
    assert all(bytes(leaf) == leaf_hash(bytes(canonical)) for canonical, leaf in rows)
