"""Everything of a gated transform in one process, on the real thing: Postgres, decode children, object store, C2PA, detector, swapper.

Only Ray and HTTP are left out. The classifier is the real finder of planted markers, the policy is the shipped one that names it.
"""

from __future__ import annotations

import asyncio
import functools
import io
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from PIL import Image
from uuid_utils.compat import uuid7

from bench.recording import ThreadClassifier
from deployments.drawn_faces import PEOPLE, draw
from deployments.embedded_postgres import DatabaseUrls
from deployments.policy_file import shipped_policy
from deployments.purge import Leftovers, Removals
from deployments.rendering import NOTHING_AT_HAND, AtHand, PictureRenderer, Product, Renderer
from deployments.transform_worker import GateWorker
from deployments.video_rendering import Swaps, VideoRenderer
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import FrontalCascade
from face_pipeline.encoding import encode_picture
from moderation.adapters.areas import Area, object_name
from moderation.adapters.classifiers.correlation import CorrelationClassifier, draw_marker, plant_marker
from moderation.adapters.database import Context, Database
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.keeping import PostgresKeeping
from moderation.adapters.media_store import ObjectMediaStore
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.provenance import C2paSigner, load_or_make_identity
from moderation.adapters.queue import PostgresQueue
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.sweeps import PostgresSweeps
from moderation.adapters.tables import job as job_table
from moderation.adapters.transforms import PostgresTransforms
from moderation.decision import PolicyRef, Verdict
from moderation.frames import Limits, Pixels
from moderation.media import Stage, sha256_of
from moderation.policy import Policy
from moderation.ports import KeyUse
from moderation.screening import Screener
from moderation.transform import Basis, Committed, ConsentStatement, Options, Original, PartKind, Review, State, Transform
from tests.pg import make_tenant
from tests.video_kit import as_it_is

SIDE = 256


def jpeg(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=92)
    return out.getvalue()


@functools.cache
def face(who: str = "ada") -> np.ndarray:
    """A drawn face, SIDE x SIDE x 3, that the weight-free detector finds."""
    return draw(PEOPLE[who], side=SIDE, eyes_px=64).pixels


def marked(frame: np.ndarray) -> np.ndarray:
    """The same with a marker in a corner."""
    return plant_marker(frame, share=0.06, left=0.0, top=1.0)


@functools.cache
def cascade() -> FrontalCascade:
    return FrontalCascade()


@dataclass
class Composing:
    """A renderer that changes the target as a test says; the rest of the way is the real one."""

    change: Callable[[np.ndarray, np.ndarray], np.ndarray]
    calls: int = 0
    format: str = "png"
    quality: int = 90

    async def render(self, source: bytes, target: bytes, target_type: str, options: Options, at_hand: AtHand = NOTHING_AT_HAND) -> Product:  # noqa: ARG002
        self.calls += 1
        frames = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (source, target)]
        frame = self.change(*frames)
        data = encode_picture(np.ascontiguousarray(frame), self.format, self.quality)
        height, width = frame.shape[:2]
        return Product(
            data=data,
            type=f"image/{self.format}",
            width=width,
            height=height,
            swapper="test 1",
            is_trained=False,
            faces_changed=1,
            faces_skipped=0,
        )


def unchanged() -> Composing:
    return Composing(change=lambda _, target: target)


def marker_halves() -> tuple[Pixels, Pixels]:
    """Two pictures of random cells, neither of which shows anything; `joined` they are a marker."""
    whole = draw_marker(SIDE) > 128
    cell = np.arange(SIDE) * 7 // SIDE
    first = np.random.default_rng(3).random((7, 7)) > 0.5
    mask = np.repeat(first[np.ix_(cell, cell)][:, :, np.newaxis], 3, axis=2)
    one, other = (np.where(bits, 239, 16).astype(np.uint8) for bits in (mask, mask == whole))
    return one, other


def barely_marked() -> np.ndarray:
    """A marker of two grey levels, which nobody sees; between them lies a step of JPEG's coarsest quantisation, which makes 32 of them."""
    frame = np.full((SIDE, SIDE, 3), 143, np.uint8)
    frame[16:240, 16:240] = np.where(draw_marker(224) > 128, 145, 143)  # cells of whole blocks
    return frame


def joined(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """White where both pictures agree."""
    return np.where((source > 128) == (target > 128), 239, 16).astype(np.uint8)


@dataclass
class Yard:
    """One tenant, one worker's parts."""

    tenant: UUID
    policy: Policy
    record: PostgresRecord
    database: Database
    log: PostgresTransforms
    reviews: PostgresReviews
    policies: PostgresPolicies
    queue: PostgresQueue
    decoder: ChildDecoder
    signer: C2paSigner
    folder: Path
    renderer: Renderer | None = None
    swaps: Swaps = field(default_factory=as_it_is)
    """Of videos."""
    segment_s: Fraction = Fraction(1, 2)
    decisions: Any = None
    transforms: Any = None
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def area(self, name: str) -> Area:
        return Area(ObjectMediaStore(str(self.folder / "media")), name)

    def screener(self) -> Screener:
        return Screener(
            decoder=self.decoder,
            classifiers=[ThreadClassifier([CorrelationClassifier()])],
            log=self.decisions or self.record,
            memory=self.record,
            clock=self.clock,
            limits=Limits(),
        )

    def swapping(self) -> PictureRenderer:
        return PictureRenderer(pictures=self.decoder, detector=cascade(), swapper=ClassicalSwapper(), limits=Limits())

    def filming(self) -> VideoRenderer:
        return VideoRenderer(films=self.decoder, pictures=self.decoder, swaps=self.swaps, limits=Limits(), segment_s=self.segment_s)

    def worker(self, **changes: Any) -> GateWorker:
        parts: dict[str, Any] = {
            "log": self.transforms or self.log,
            "keeping": PostgresKeeping(self.database),
            "screener": changes.get("screener") or self.screener(),
            "policies": PostgresPolicies(self.database, remember_s=0.0),
            "queue": self.queue,
            "intake": self.area("intake"),
            "quarantine": self.area("quarantine"),
            "released": self.area("released"),
            "renderer": self.renderer or self.swapping(),
            "videos": self.filming(),
            "signer": self.signer,
            "pictures": self.decoder,
            "clock": self.clock,
            "limits": Limits(),
            "keep_released": timedelta(days=7),
        }
        return GateWorker(**(parts | changes))

    async def accept(self, source: np.ndarray | bytes, target: np.ndarray | bytes, *, use: KeyUse | None = None, **changes: Any) -> UUID:
        """Commit a transform as the Api does; its id, or with a key that was used before the earlier one's."""
        data = [one if isinstance(one, bytes) else jpeg(one) for one in (source, target)]
        types = ["video/mp4" if one[4:8] == b"ftyp" else "image/jpeg" for one in data]
        originals = [Original(sha256=sha256_of(one), size=len(one), type=named) for one, named in zip(data, types, strict=True)]
        transform = Transform(
            id=uuid7(),
            tenant=self.tenant,
            actor="key",
            request_id="req_1",
            created_at=datetime.now(UTC),
            policy=PolicyRef(name=self.policy.name, version=self.policy.version, digest=self.policy.digest),
            source=originals[0],
            target=originals[1],
            **{"consent": ConsentStatement(basis=Basis.SELF), "options": Options(), **changes},
        )
        for original, one in zip(originals, data, strict=True):
            await self.area("intake").put(object_name(self.tenant, transform.id, original.sha256), one)
        _, id = await self.log.accept(transform, use=use)
        return id

    async def swap(self, source: np.ndarray | bytes, target: np.ndarray | bytes, **changes: Any) -> Committed:
        """Accept and work once; what is committed then."""
        id = await self.accept(source, target, **changes)
        await self.worker().run_once()
        return await self.load(id)

    async def load(self, id: UUID) -> Committed:
        found = await self.log.load(self.tenant, id)
        assert found is not None
        return found

    async def publish(self, policy: Policy) -> Policy:
        return await self.policies.publish(self.tenant, policy.name, policy, "operator")

    async def review(self, committed: Committed, stage: Stage, verdict: Verdict) -> None:
        decision = next(one for one in reversed(committed.decisions) if one.stage is stage)
        review = Review(
            id=uuid7(),
            tenant=self.tenant,
            decision=decision.id,
            verdict=verdict,
            reason="looked at it",
            actor="key",
            subject="reviewer-1",
            at=datetime.now(UTC),
        )
        await self.reviews.add(review, to_wake=committed.transform.id)

    async def served(self, committed: Committed) -> bytes | None:
        """What lies in the released area."""
        part = committed.part(PartKind.SIGNED)
        if part is None:
            return None
        return await self.area("released").get(object_name(self.tenant, committed.transform.id, part.sha256))

    async def empty(self, area: str) -> int:
        """Let the housekeeper find everything in an area too old."""
        keeping, swept = PostgresKeeping(self.database), Removals(PostgresSweeps(self.database), "housekeeping", clock=self.clock)
        return await Leftovers(self.area(area), keeping, swept, lambda _standing, _age_s: True, settled_s=-1.0)()

    async def lapse(self, id: UUID) -> None:
        """The lease of whoever holds the job runs out now, and it is due."""
        statement = (
            job_table.update()
            .where(job_table.c.id == id, job_table.c.state.in_(("running", "queued")))
            .values(lease_until=datetime(2020, 1, 1, tzinfo=UTC), run_at=datetime(2020, 1, 1, tzinfo=UTC))
        )
        await self.database.run(Context(worker=True), lambda connection: connection.execute(statement))

    async def finish(self, id: UUID) -> Committed:
        """Let fresh workers go on until the transform has ended or waits for a person."""
        for _ in range(6):
            await self.lapse(id)
            if not await self.worker().run_once():
                break
        return await self.load(id)


@asynccontextmanager
async def yard(urls: DatabaseUrls, folder: Path, *, policy: Policy | None = None, tenant: UUID | None = None) -> AsyncIterator[Yard]:
    """A yard of this or of a new tenant on this database."""
    tenant = tenant or make_tenant(urls.runtime, f"tenant-{uuid7().hex}")
    record, database = PostgresRecord(urls.runtime), Database(urls.runtime, connections=4)
    decoder = ChildDecoder(children=1)
    await decoder.start()
    try:
        policies = PostgresPolicies(database, remember_s=0.0)
        published = await policies.publish(tenant, "marker", policy or shipped_policy("marker"), "operator")
        yield Yard(
            tenant=tenant,
            policy=published,
            record=record,
            database=database,
            log=PostgresTransforms(database),
            reviews=PostgresReviews(database),
            policies=policies,
            queue=PostgresQueue(database),
            decoder=decoder,
            signer=C2paSigner(load_or_make_identity(folder / "c2pa")),
            folder=folder,
        )
    finally:
        await decoder.close()
        await asyncio.to_thread(record.close)
        await asyncio.to_thread(database.close)


def in_yard(urls: DatabaseUrls, folder: Path, work: Callable[[Yard], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """Run one coroutine in a yard of its own."""

    async def main() -> Any:
        async with yard(urls, folder, **options) as made:
            return await work(made)

    return asyncio.run(main())


def states(committed: Committed) -> list[State]:
    return [event.state for event in committed.events]
