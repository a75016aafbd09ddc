"""What the gate costs: one pair with and without it, and how fast the queue moves when screening and swapping cost nothing.

In one process, with the real record, decoder, stores, signer, detector and swapper; Ray and HTTP are left out, so that what is
measured is the gate and not the way there.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
from PIL import Image
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from bench import plain
from bench.recording import ThreadClassifier
from bench.table import Figure
from deployments import telemetry
from deployments.databases import upgrade_schema
from deployments.drawn_faces import PEOPLE, Pixels, draw, portrait
from deployments.embedded_postgres import EmbeddedPostgres
from deployments.policy_file import shipped_policy
from deployments.rendering import NOTHING_AT_HAND, AtHand, PictureRenderer, Product
from deployments.settings import Settings
from deployments.transform_worker import GateWorker
from deployments.wiring import WiredWorker, area, wire_worker
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import FrontalCascade
from face_pipeline.encoding import encode_picture
from moderation.adapters.areas import object_name
from moderation.adapters.database import Database
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.keys import PostgresKeys
from moderation.adapters.policies import PostgresPolicies
from moderation.decision import PolicyRef
from moderation.frames import Input
from moderation.media import sha256_of
from moderation.policy import Policy
from moderation.ports import Classifier
from moderation.scores import ClassifierVersion, InputScores
from moderation.transform import Basis, ConsentStatement, Options, Original, State, Transform

SIDE = 1024
QUEUED = 100
WARM_UP = 20
"""Transforms before those that count: every connection plans each of its questions once."""
SLACK_MS = 15.0
STEPS = ("decode", "recall", "record", "open", "frame_digest", "swap", "encode", "sign")


@dataclass(slots=True)
class Timed:
    """A classifier whose calls are noted, (start, seconds)."""

    inner: ThreadClassifier
    calls: list[tuple[float, float]] = field(default_factory=list)

    @property
    def version(self) -> ClassifierVersion:
        """The classifier's."""
        return self.inner.version

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        """As the classifier does."""
        started = time.perf_counter()
        try:
            return await self.inner.classify(inputs)
        finally:
            self.calls.append((started, time.perf_counter() - started))

    def critical_s(self) -> float:
        """Time of the calls since the last time, those side by side counted once; and forgets them."""
        total, until = 0.0, 0.0
        for started, seconds in sorted(self.calls):
            total += max(0.0, started + seconds - max(started, until))
            until = max(until, started + seconds)
        self.calls.clear()
        return total


@dataclass(frozen=True, slots=True)
class Constant:
    """Says at once that nothing is there."""

    version: ClassifierVersion

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        """See the port."""
        return [InputScores(scores=dict.fromkeys(self.version.categories, 0)) for _ in inputs]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A renderer that gives the same small picture whatever it is given."""

    data: bytes

    async def render(self, source: bytes, target: bytes, target_type: str, options: Options, at_hand: AtHand = NOTHING_AT_HAND) -> Product:  # noqa: ARG002  # the port
        """See the port."""
        return Product(
            data=self.data, type="image/jpeg", width=256, height=256, swapper="none 0", is_trained=False, faces_changed=1, faces_skipped=0
        )


@dataclass(frozen=True, slots=True)
class _Faces:
    detector: FrontalCascade
    swapper: ClassicalSwapper


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One tenant with its worker."""

    settings: Settings
    tenant: UUID
    policy: Policy
    worker: WiredWorker

    @property
    def gate(self) -> GateWorker:
        """The worker of transforms."""
        if self.worker.gate is None:
            raise LookupError("wired without faces")
        return self.worker.gate

    async def accept(self, source: bytes, target: bytes) -> UUID:
        """Store and commit as the Api does."""
        originals = [Original(sha256=sha256_of(data), size=len(data), type="image/jpeg") for data in (source, target)]
        transform = Transform(
            id=uuid7(),
            tenant=self.tenant,
            actor="bench",
            request_id="bench",
            created_at=datetime.now(UTC),
            policy=PolicyRef(name=self.policy.name, version=self.policy.version, digest=self.policy.digest),
            source=originals[0],
            target=originals[1],
            consent=ConsentStatement(basis=Basis.SELF),
        )
        intake = area(self.settings, "intake")
        for original, data in zip(originals, (source, target), strict=True):
            await intake.put(object_name(self.tenant, transform.id, original.sha256), data)
        await self.worker.transforms.accept(transform)
        return transform.id

    async def check(self, id: UUID) -> None:
        """Raise unless it was released: a bench of failures would be fast."""
        found = await self.worker.transforms.load(self.tenant, id)
        if found is None or found.state is not State.RELEASED:
            raise RuntimeError(f"not released: {found and found.events[-1]}")


@asynccontextmanager
async def benched(classifier: Classifier) -> AsyncIterator[Bench]:
    """A record and a worker of its own, stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "db")
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            settings = Settings(home=Path(folder), database_url=SecretStr(urls.runtime))
            database = Database(urls.runtime)
            tenant = await PostgresKeys(database).make_tenant("bench")
            policy = await PostgresPolicies(database).publish(tenant, "default", shipped_policy("default"), "bench")
            worker = await wire_worker(settings, [classifier], _Faces(FrontalCascade(), ClassicalSwapper()))
            try:
                yield Bench(settings=settings, tenant=tenant, policy=policy, worker=worker)
            finally:
                await worker.close()
                database.close()
        finally:
            postgres.stop()


def pair(number: int, faces: tuple[Pixels, Pixels]) -> tuple[bytes, bytes]:
    """Source and target as JPEG, SIDE x SIDE; other bytes for every number, so that no scores are used again."""
    found = []
    for frame in faces:
        other = frame.copy()
        other[:8, :8] = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        found.append(encode_picture(other, "jpeg", 80))
    return found[0], found[1]


async def one_pair(rounds: int) -> list[Figure]:
    """Gated and ungated in turns."""
    source = draw(PEOPLE["ada"], side=SIDE, eyes_px=220).pixels
    target = np.asarray(Image.fromarray(portrait().pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    classifier = Timed(ThreadClassifier([plain.classifier(), plain.classifier()]))
    gated, ungated, classified, taken = [], [], [], []
    async with benched(classifier) as bench:
        decoder = ChildDecoder(children=2)
        await decoder.start()
        try:
            bare = PictureRenderer(pictures=decoder, detector=FrontalCascade(), swapper=ClassicalSwapper(), limits=bench.settings.limits)
            for number in range(rounds + 2):
                one, other = pair(number, (source, target))
                started = time.perf_counter()
                await bare.render(one, other, "image/jpeg", Options())
                without = time.perf_counter() - started
                id = await bench.accept(one, other)
                before = _steps()
                started = time.perf_counter()
                await bench.gate.run_once()
                with_gate = time.perf_counter() - started
                await bench.check(id)
                critical = classifier.critical_s()
                if number >= 2:  # two to warm up
                    ungated.append(without)
                    gated.append(with_gate)
                    classified.append(critical)
                    taken.append({step: now - before[step] for step, now in _steps().items()})
        finally:
            await decoder.close()
    added = [(a - b) * 1000 for a, b in zip(gated, ungated, strict=True)]
    room = [1.25 * seconds * 1000 + SLACK_MS for seconds in classified]
    note = f"{SIDE} x {SIDE} pair, in process"
    return [
        Figure(name="transform without the gate", value=statistics.median(ungated) * 1000, unit="ms", note=f"{note}: open, swap, encode"),
        Figure(name="transform through the gate", value=statistics.median(gated) * 1000, unit="ms", note=note),
        Figure(name="gated over ungated", value=statistics.median(a / b for a, b in zip(gated, ungated, strict=True)), unit="x"),
        Figure(name="classifier calls on its path", value=statistics.median(classified) * 1000, unit="ms"),
        Figure(
            name="what the gate adds over its bound",
            value=statistics.median(a / b for a, b in zip(added, room, strict=True)),
            unit="x",
            wanted="<= 1",
            note=f"bound: 1.25 x classifier calls + {SLACK_MS:g} ms",
        ),
        *(
            Figure(
                name=f"step {step}",
                value=statistics.median(one[step] for one in taken) * 1000,
                unit="ms",
                note="all calls of one transform",
            )
            for step in STEPS
        ),
    ]


def _steps() -> dict[str, float]:
    """Seconds spent in each step so far."""
    return {step: telemetry.STEPS.labels(step)._sum.get() for step in STEPS}  # noqa: SLF001  # the client offers no other way to read


async def queue(count: int = QUEUED) -> list[Figure]:
    """Transforms per second with a renderer and a classifier that cost nothing."""
    faces = draw(PEOPLE["ada"], side=256, eyes_px=64).pixels, draw(PEOPLE["bo"], side=256, eyes_px=64).pixels
    async with benched(Constant(plain.classifier().version)) as bench:
        gate = bench.gate
        gate._renderer = Unchanged(encode_picture(faces[1], "jpeg", 90))  # noqa: SLF001  # the one part that is replaced

        async def work() -> None:
            while await gate.run_once():
                pass

        async def take(numbers: range) -> tuple[list[UUID], float]:
            ids = [await bench.accept(*pair(number, faces)) for number in numbers]
            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(4)))
            return ids, time.perf_counter() - started

        await take(range(WARM_UP))
        ids, seconds = await take(range(WARM_UP, WARM_UP + count))
        for id in ids:
            await bench.check(id)
    return [
        Figure(
            name="queue with a no-op swapper",
            value=count / seconds,
            unit="transforms/s",
            wanted=">= 20",
            note="constant classifier, 4 at once",
        )
    ]


def figures(rounds: int = 10) -> list[Figure]:
    """All of them."""
    return [*asyncio.run(one_pair(rounds)), *asyncio.run(queue())]
