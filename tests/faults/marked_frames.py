"""Videos whose output shows a marker in some frame, with clients that watch and fetch: the frame never reaches one.

Each run makes one video: of a random length, with a marker of a random size at a random place in one or more random frames, or in none;
its workers die at a random step. Clients over real HTTP begin to watch at any time and ask for the file all the while. What they have
received is decoded at the end: frames before the segment with the first marker, and nothing else. A run without a marker is released, and
those who watch see all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.classifiers.correlation import CorrelationClassifier, plant_marker
from moderation.frames import Pixels
from moderation.transform import FINAL, State
from tests.faults.invariants import take, violations
from tests.gate_kit import Yard, face, yard
from tests.http_kit import Live, live
from tests.postgres.test_transform_faults import Fuse, Witness, dies_after, dies_before, fails_before, loses_the_answer, to_the_end
from tests.real_http import RealParts, marker_policy
from tests.video_kit import Changing, clip, drifting

RATE = 25
LONGEST = 24
SEGMENT = 5
"""Frames."""
MOST_STEPS = 30
CLIENTS = 2
STREAMED = replace(marker_policy(), stream="labelled")
BLOCK_AT = 500_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run does."""

    frames: int
    marked: frozenset[int]
    share: float
    left: float
    top: float
    dies_at: int
    how: int

    @classmethod
    def drawn(cls, chance: random.Random) -> Plan:
        frames = chance.randint(1, LONGEST)
        most = chance.choice((0, 1, 1, 1, 3))
        return cls(
            frames=frames,
            marked=frozenset(chance.randrange(frames) for _ in range(most)),
            share=chance.uniform(0.06, 0.3),
            left=chance.random(),
            top=chance.uniform(0, 0.3),  # the visible label lies at the bottom and would cover a small one
            dies_at=chance.randint(1, MOST_STEPS),
            how=chance.randrange(4),
        )

    @property
    def may_be_seen(self) -> int:
        """Frames in the segments before the first marker; all of them where there is none."""
        return min(self.marked) // SEGMENT * SEGMENT if self.marked else self.frames

    def change(self, number: int, frame: Pixels) -> Pixels:
        return plant_marker(frame, share=self.share, left=self.left, top=self.top) if number in self.marked else frame


@dataclass(kw_only=True)
class Client:
    """One who watches over HTTP and keeps what it was sent."""

    server: Live
    key: str
    path: str
    received: list[bytes] = field(default_factory=list)
    """Of each connection."""
    fetched: Counter[int] = field(default_factory=Counter)
    """Statuses of the file."""
    was_whole: bool = False
    has_ended: bool = False

    async def watch(self) -> None:
        """Connect again and again until the transform has ended and it was looked at once more after that."""
        async with httpx.AsyncClient(base_url=self.server.url, headers={"authorization": f"Bearer {self.key}"}, timeout=60) as client:
            while True:
                is_last = self.has_ended
                await self._connect(client)
                answer = await client.get(f"{self.path}/output")
                self.fetched[answer.status_code] += 1
                if answer.status_code == 200:
                    self.received.append(answer.content)
                if is_last:
                    return
                await asyncio.sleep(0.02)

    async def _connect(self, client: httpx.AsyncClient) -> None:
        body = bytearray()
        async with client.stream("GET", f"{self.path}/stream") as answer:
            if answer.status_code != 200:
                await answer.aread()
                return
            with contextlib.suppress(httpx.RemoteProtocolError):
                async for chunk in answer.aiter_raw():
                    body += chunk
                self.was_whole = True
        if body:
            self.received.append(bytes(body))


def shown_by(data: bytes) -> list[Pixels]:
    """The frames that a player shows of what has come so far."""
    with av.open(io.BytesIO(data), "r", format="mp4") as file:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in file.decode(video=0)]


def is_marked(frames: list[Pixels]) -> bool:
    judge = CorrelationClassifier()
    spec = judge.version.input
    if not frames:
        return False
    sized = [
        np.asarray(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(spec.width, spec.height).to_ndarray()) for frame in frames
    ]
    return any(answer.scores["test.marker"] >= BLOCK_AT for answer in judge.predict(np.stack(sized)))


async def one_run(made: Yard, server: Live, key: str, plan: Plan) -> State:
    """Make one video with everybody around it. Raises AssertionError."""
    made.swaps, made.segment_s = Changing(change=plan.change), Fraction(SEGMENT, RATE)
    id = await made.accept(face("ada"), clip(drifting(plan.frames, seed=plan.frames), rate=RATE, with_sound=plan.frames % 2 == 0))
    clients = [Client(server=server, key=key, path=f"/v1/transforms/trf_{id.hex}") for _ in range(CLIENTS)]
    watching = [asyncio.create_task(client.watch()) for client in clients]
    witness = Witness(made, id)
    how = (dies_after, dies_before, fails_before, loses_the_answer)[plan.how]
    done = await to_the_end(made, id, Fuse(plan.dies_at, how), witness)
    for client in clients:
        client.has_ended = True
    await asyncio.gather(*watching)
    assert witness.broken == []
    assert done.state is (State.DENIED if plan.marked else State.RELEASED), (plan, done.events[-1])
    for client in clients:
        check(client, plan)
    return done.state


def check(client: Client, plan: Plan) -> None:
    """What a client may have received."""
    for data in client.received:
        frames = shown_by(data)
        assert len(frames) <= plan.may_be_seen, (plan, len(frames))
        assert not is_marked(frames), plan
    if plan.marked:
        assert not client.was_whole, "what was cut is taken for the whole"
        assert set(client.fetched) <= {403, 409}, client.fetched
    else:
        assert client.was_whole, "the whole was cut"
        assert {len(shown_by(data)) for data in client.received[-2:]} == {plan.frames}, "the stream and the file"


@contextlib.contextmanager
def served(urls: DatabaseUrls, folder: Path, *, max_wait_s: float = 0.5) -> Iterator[tuple[RealParts, Live]]:
    """The service over HTTP; who watches waits so long for the first segment."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    parts = RealParts(urls=urls, folder=folder)
    parts.bounds = replace(parts.bounds, progress_s=0.05, max_wait_s=max_wait_s, heartbeat_s=0.5)
    with live(parts.make) as server:
        yield parts, server


async def run(urls: DatabaseUrls, folder: Path, parts: RealParts, server: Live, *, runs: int, seed: int) -> Counter[State]:
    """So many videos, one after the other; how they ended. Raises AssertionError with the seed."""
    chance, ends = random.Random(seed), Counter[State]()
    assert parts.made is not None
    tenant, key = parts.made.key.tenant, parts.made.text
    async with yard(urls, folder, policy=STREAMED, tenant=tenant) as made:
        for number in range(runs):
            plan = Plan.drawn(chance)
            try:
                ends[await one_run(made, server, key, plan)] += 1
            except Exception as broken:
                raise AssertionError(f"seed {seed}, run {number}, {plan}: {broken!r}") from broken
        assert violations(await take(made.database, made.tenant, folder / "media")) == []
    assert set(ends) <= FINAL
    return ends
