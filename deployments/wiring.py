"""From settings to working parts: what an `Api` replica and a `TransformWorker` hold, whoever runs them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from deployments import telemetry
from deployments.housekeeping import Housekeeper
from deployments.http.gateway import Bounds, Gateway, NoBuckets, NoReceipts, Probe, Seen
from deployments.job_loop import note_parked
from deployments.policy_watch import PolicyWatch
from deployments.purge import WRITTEN_DOWN_EVERY_S, CountedArea, Leftovers, Purge, Removals, of_intake, of_quarantine, of_released
from deployments.rendering import PictureRenderer
from deployments.screening_worker import HeldMedia, ScreeningWorker
from deployments.transform_worker import GateWorker
from deployments.video_rendering import FaceSwaps, VideoRenderer
from deployments.webhooks import WebhookSender
from moderation.adapters.appeals import PostgresAppeals
from moderation.adapters.areas import Area
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Database
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.erasures import PostgresErasures
from moderation.adapters.holds import PostgresHolds
from moderation.adapters.idempotency import PostgresIdempotency
from moderation.adapters.keeping import PostgresKeeping
from moderation.adapters.keys import PostgresKeys
from moderation.adapters.log_export import PostgresExport
from moderation.adapters.log_reader import PostgresLog
from moderation.adapters.media_store import Buckets, ObjectMediaStore
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.provenance import C2paSigner, SigningIdentity, load_identity, load_or_make_identity
from moderation.adapters.queue import PostgresQueue
from moderation.adapters.receipts import PostgresReceipts
from moderation.adapters.reports.reader import AT_ONCE, STATEMENT_S, PostgresReports
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.service_key import ServiceKey, load_service_key
from moderation.adapters.shadows import PostgresShadows, id_beside
from moderation.adapters.sources import PostgresSources
from moderation.adapters.sweeps import HOUSEKEEPING, PostgresSweeps
from moderation.adapters.transforms import PostgresTransforms
from moderation.errors import CannotJudge, DecoderUnavailable, Overloaded, RecordUnavailable
from moderation.screening import Screener
from moderation.shadow import Shadows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from deployments.handles import HandleClassifier
    from deployments.settings import Settings
    from face_pipeline.detector import Detector
    from face_pipeline.swapper import Swapper
    from moderation import media
    from moderation.decision import Decision
    from moderation.frames import DecodePlan, Picture, Sound
    from moderation.media import Facts
    from moderation.ports import (
        Classifier,
        DecisionLog,
        Decoder,
        Deliver,
        Film,
        FilmDecoder,
        Job,
        Keep,
        PictureDecoder,
        Recalled,
        ReuseKey,
        ScoreMemory,
    )
    from moderation.shadow import Find

    class AnyDecoder(Decoder, PictureDecoder, FilmDecoder, Protocol):
        """One that screens and shows."""


WORKER_LOOPS: Final = 2
KEEP_JOBS_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """An `Api` replica's parts."""

    gateway: Gateway
    decoder: ChildDecoder
    close_all: Callable[[], Awaitable[None]]

    def check(self) -> None:
        """Raise when this replica can no longer decode: only a fresh process helps then."""
        if not self.decoder.pids:
            raise DecoderUnavailable("no decode child is alive")

    async def close(self) -> None:
        """End children, threads and connections."""
        await self.close_all()


class Loop(Protocol):
    """Something that works until it is cancelled, or has nothing left to do."""

    async def run(self) -> None:
        """Work."""


class Faces(Protocol):
    """What a face swap needs; the methods of both may block."""

    @property
    def detector(self) -> Detector:
        """Finds faces."""

    @property
    def swapper(self) -> Swapper:
        """Swaps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WiredWorker:
    """A `TransformWorker`'s parts."""

    loops: tuple[Loop, ...]
    gate: GateWorker | None
    transforms: PostgresTransforms
    close_all: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in self.loops:
                group.create_task(loop.run())

    async def close(self) -> None:
        """End children, threads and connections."""
        await self.close_all()


async def wire(
    settings: Settings,
    classifiers: Sequence[HandleClassifier],
    *,
    behind_ray: bool,
    swappers: frozenset[str] = frozenset(),
    shadows: Mapping[str, Find] = MappingProxyType({}),
) -> Wired:
    """Start decode children, connect to the rest. `behind_ray`: the server in front repeats `x-request-id`.

    `swappers` are those that a transform may name; without any, all are refused. `shadows` are asked about what was decided.
    """
    decoder = make_decoder(settings, settings.decode_children or os.cpu_count() or 1)
    record = PostgresRecord(settings.database(), observe=telemetry.committed)
    database = Database(settings.database(), connections=settings.database_connections)
    bounds = bounds_of(settings)
    exporting = Database(settings.database(), connections=bounds.exports)  # so that answers do not wait for exports
    reporting = Database(settings.database(), connections=AT_ONCE, statement_s=STATEMENT_S)
    store = ObjectMediaStore(settings.store_of("intake"))
    await decoder.start()
    for warm in (record.ping, database.ping):  # so that the first request does not wait for a connection
        with contextlib.suppress(RecordUnavailable):
            await warm()

    shadow = await make_shadows(settings, shadows, database)

    async def close() -> None:
        await shadow.close()
        await decoder.close()
        for open_one in (record, database, exporting, reporting):
            await asyncio.to_thread(open_one.close)

    service_key = _service_key(settings)
    keys = PostgresKeys(database, service_key=service_key)
    probes: dict[str, Probe] = {"database": record.ping, "store": store.ping, "sealer": PostgresLog(database).ping}
    probes |= {f"classifier:{classifier.version.name}": classifier.ping for classifier in classifiers}
    timed = TimedDecoder(decoder)
    gateway = Gateway(
        decoder=timed,
        classifiers=tuple(classifiers),
        log=CountedLog(record),
        memory=TimedMemory(record),
        reader=record,
        keys=keys,
        policies=PostgresPolicies(database),
        idempotency=PostgresIdempotency(database),
        queue=PostgresQueue(database, max_queued=settings.max_queued),
        store=store,
        shadow=shadow.listener,
        transforms=PostgresTransforms(database, max_queued=settings.max_queued),
        reviews=PostgresReviews(database),
        appeals=PostgresAppeals(database),
        holds=PostgresHolds(database),
        erasures=PostgresErasures(database),
        seals=PostgresLog(database),
        exports=PostgresExport(exporting),
        reports=PostgresReports(reporting),
        sources=PostgresSources(database),
        pictures=timed,
        intake=area(settings, "intake"),
        quarantine=area(settings, "quarantine"),
        released=area(settings, "released"),
        catalogue=area(settings, "catalogue"),
        clock=utc_now,
        probes=probes,
        metrics=_metrics,
        limits=settings.limits,
        bounds=bounds,
        receipts=PostgresReceipts(database, service_key, record.leaves) if service_key else NoReceipts(),
        buckets=Buckets(settings.buckets) if settings.buckets else NoBuckets(),
        url_hosts=frozenset(settings.url_hosts),
        openai_text=settings.openai_text,
        swappers=swappers,
        webhook_hosts=frozenset(host.lower() for host in settings.webhook_hosts),
        webhook_http=settings.webhook_insecure,
        seen=_seen,
        alarm=telemetry.alarm,
        request_id_echoed=behind_ray,
    )
    return Wired(gateway=gateway, decoder=decoder, close_all=close)


async def wire_worker(
    settings: Settings, classifiers: Sequence[Classifier], faces: Faces | None = None, *, shadows: Mapping[str, Find] = MappingProxyType({})
) -> WiredWorker:
    """The same for durable work: a decode child for each loop, and for videos one that each loop of transforms stays with beside it.

    Without `faces`, transforms wait for a worker that has them.
    """
    signer = None if faces is None else await asyncio.to_thread(lambda: C2paSigner(signing_identity(settings)))
    decoder = make_decoder(settings, WORKER_LOOPS, videos=WORKER_LOOPS if faces is None else 3 * WORKER_LOOPS)
    record = PostgresRecord(settings.database(), observe=telemetry.committed)
    database = Database(settings.database(), connections=settings.database_connections)
    await decoder.start()

    shadow = await make_shadows(settings, shadows, database)
    forgotten = Removals(PostgresSweeps(database), "worker", clock=utc_now)

    async def close() -> None:
        await shadow.close()
        await decoder.close()
        with contextlib.suppress(RecordUnavailable):
            await forgotten()
        if signer is not None:
            await asyncio.to_thread(signer.close)
        await asyncio.to_thread(record.close)
        await asyncio.to_thread(database.close)

    timed, policies, queue = TimedDecoder(decoder), PostgresPolicies(database), PostgresQueue(database, on_parked=note_parked)
    screener = Screener(
        decoder=timed,
        classifiers=classifiers,
        log=CountedLog(record),
        memory=TimedMemory(record),
        clock=utc_now,
        limits=settings.limits,
        shadow=shadow.listener,
    )
    transforms, keeping, store = PostgresTransforms(database), PostgresKeeping(database), ObjectMediaStore(settings.store_of("intake"))
    intake, quarantine, released, catalogue = (area(settings, name) for name in ("intake", "quarantine", "released", "catalogue"))
    worker = ScreeningWorker(
        screener=screener,
        reader=record,
        policies=policies,
        queue=queue,
        store=store,
        keep=HeldMedia(quarantine, telemetry.alarm),
        lease_s=settings.lease_s,
        parallel=WORKER_LOOPS,
    )
    gate = None
    if faces is not None and signer is not None:
        renderer = PictureRenderer(pictures=timed, detector=faces.detector, swapper=faces.swapper, limits=settings.limits)
        gate = GateWorker(
            log=transforms,
            keeping=keeping,
            screener=screener,
            policies=policies,
            queue=queue,
            intake=CountedArea(store, intake.name, forgotten),
            quarantine=CountedArea(ObjectMediaStore(settings.store_of(quarantine.name)), quarantine.name, forgotten),
            released=released,
            renderer=renderer,
            videos=VideoRenderer(
                films=timed, pictures=timed, swaps=FaceSwaps(detector=faces.detector, swapper=faces.swapper), limits=settings.limits
            ),
            signer=signer,
            pictures=timed,
            clock=utc_now,
            limits=settings.limits,
            keep_released=timedelta(seconds=settings.keep_released_s),
            lease_s=settings.lease_s,
            parallel=WORKER_LOOPS,
        )
    webhooks = WebhookSender(
        log=transforms,
        queue=queue,
        key=load_service_key(settings.service_key, make=True),
        hosts=settings.webhook_hosts,
        clock=utc_now,
        insecure=settings.webhook_insecure,
        lease_s=settings.lease_s,
    )
    swept = Removals(PostgresSweeps(database), HOUSEKEEPING, clock=utc_now)
    housekeeper = Housekeeper(
        {
            "idempotency keys": PostgresIdempotency(database).purge,
            "ended jobs": partial(queue.purge, ended_before_s=KEEP_JOBS_S),
            "intake": Leftovers(intake, keeping, swept, of_intake(settings.keep_intake_s)),
            "quarantine": Leftovers(quarantine, keeping, swept, of_quarantine(settings.keep_quarantine_s)),
            "released files": Purge(transforms, released, keeping),
            "stray released files": Leftovers(released, keeping, swept, of_released),
            "stray faces": Leftovers(catalogue, keeping, swept, of_released),
        }
    )
    written_down = Housekeeper({"ended work": forgotten}, every_s=WRITTEN_DOWN_EVERY_S)
    loops: list[Loop] = [worker, webhooks, housekeeper, written_down, PolicyWatch(database, classifiers)]
    return WiredWorker(loops=(*loops, gate) if gate else tuple(loops), gate=gate, transforms=transforms, close_all=close)


@dataclass(frozen=True, slots=True, kw_only=True)
class WiredShadows:
    """Who listens to what is decided, if anybody does, with a decoder of its own."""

    listener: Shadows | None = None
    decoder: ChildDecoder | None = None

    async def close(self) -> None:
        """Give up what waits and end its child."""
        if self.listener is not None and self.decoder is not None:
            await self.listener.close()
            await self.decoder.close()


async def make_shadows(settings: Settings, shadows: Mapping[str, Find], database: Database) -> WiredShadows:
    """A decode child that has nothing to do with what is waited for, and who asks the shadow classifiers through it."""
    if not shadows:
        return WiredShadows()
    decoder = make_decoder(settings, 1, videos=1)
    await decoder.start()
    listener = Shadows(
        decoder=decoder,
        classifiers=shadows,
        log=PostgresShadows(database),
        clock=utc_now,
        id_beside=id_beside,
        fault=telemetry.fault,
    )
    return WiredShadows(listener=listener, decoder=decoder)


def _service_key(settings: Settings) -> ServiceKey | None:
    """The service key, made where it is ours to make; None where one is named and not there."""
    is_ours = settings.service_key_file is None
    return load_service_key(settings.service_key, make=is_ours) if is_ours or settings.service_key.exists() else None


def make_decoder(settings: Settings, children: int, *, videos: int | None = None) -> ChildDecoder:
    """A decoder that is not started yet. `videos` is how many are decoded at once, the settings' number where it is not given.

    Where it is given, whoever asks has a bounded number of them, so that there is room for all.
    """
    return ChildDecoder(
        children=children,
        max_bytes_in_flight=max(settings.decode_bytes_in_flight, (videos or 0) * settings.video_bytes),
        videos=videos or settings.video_children,
        max_media_bytes=settings.image_bytes,
        max_video_bytes=settings.video_bytes,
    )


def area(settings: Settings, name: str) -> Area:
    """One area of media: `intake`, `quarantine`, `released` or `catalogue`."""
    return Area(ObjectMediaStore(settings.store_of(name)), name)


def signing_identity(settings: Settings) -> SigningIdentity:
    """Who signs content credentials: what is configured, otherwise the development authority of this data directory.

    Raises IdentityRefused, in one line.
    """
    if settings.c2pa_certificate_file is None or settings.c2pa_key_file is None:
        return load_or_make_identity(settings.home / "c2pa")
    return load_identity(settings.c2pa_certificate_file, settings.c2pa_key_file)


def bounds_of(settings: Settings) -> Bounds:
    """What is received at most; a picture in base64 takes a third more, a form a little (see `Bounds`)."""
    return Bounds(
        picture=settings.image_bytes,
        video=settings.video_bytes,
        json=settings.image_bytes * 7 // 5,
        in_memory=2 * settings.decode_bytes_in_flight,
        body_s=settings.body_timeout_s,
        requests=settings.max_requests,
        max_wait_s=settings.max_wait_s,
        lease_s=settings.lease_s,
    )


class TimedDecoder:
    """A decoder whose time and faults are counted. The time of `decode` includes waiting for full classifiers."""

    def __init__(self, decoder: AnyDecoder) -> None:
        self._decoder = decoder

    @property
    def version(self) -> str:
        """The decoder's."""
        return self._decoder.version

    async def decode(self, data: bytes, plan: DecodePlan, deliver: Deliver, *, keep: Keep | None = None) -> Facts:
        """As the decoder does."""
        with _decoding("decode"):
            return await self._decoder.decode(data, plan, deliver, keep=keep)

    async def picture(self, data: bytes, plan: DecodePlan) -> Picture:
        """As the decoder does."""
        with _decoding("picture"):
            return await self._decoder.picture(data, plan)

    async def frame_digest(self, data: bytes, plan: DecodePlan) -> str:
        """As the decoder does."""
        with _decoding("frame_digest"):
            return await self._decoder.frame_digest(data, plan)

    async def probe(self, data: bytes, plan: DecodePlan) -> media.Probe:
        """As the decoder does."""
        with _decoding("probe"):
            return await self._decoder.probe(data, plan)

    def film(self, data: bytes, plan: DecodePlan, *, first: int = 0) -> AbstractAsyncContextManager[Film]:
        """As the decoder does. Its time is not the decoder's: it waits for whoever takes the frames."""
        return self._decoder.film(data, plan, first=first)

    async def digests(self, data: bytes, plan: DecodePlan) -> Sequence[str]:
        """As the decoder does."""
        with _decoding("digests"):
            return await self._decoder.digests(data, plan)

    async def sound(self, data: bytes, plan: DecodePlan) -> Sound | None:
        """As the decoder does."""
        with _decoding("sound"):
            return await self._decoder.sound(data, plan)


@contextlib.contextmanager
def _decoding(step: str) -> Iterator[None]:
    """Time one use of the decoder and count its faults."""
    with telemetry.step(step):
        try:
            yield
        except CannotJudge as fault:
            telemetry.fault(fault.code)
            raise
        except Overloaded as full:
            telemetry.fault(f"overloaded_{full.what}")
            raise


class CountedLog:
    """A decision log whose commits are timed and counted."""

    def __init__(self, log: DecisionLog) -> None:
        self._log = log

    async def append(self, decision: Decision, *, job: Job | None = None, keep_job: bool = False) -> None:
        """As the log does."""
        with telemetry.step("record"):
            try:
                await self._log.append(decision, job=job, keep_job=keep_job)
            except RecordUnavailable:
                telemetry.fault("record_unavailable")
                raise
            except Overloaded as full:
                telemetry.fault(f"overloaded_{full.what}")
                raise
        telemetry.decided(decision)


class TimedMemory:
    """A score memory whose time is counted."""

    def __init__(self, memory: ScoreMemory) -> None:
        self._memory = memory

    async def recall(self, key: ReuseKey) -> Recalled | None:
        """As the memory does."""
        with telemetry.step("recall"):
            return await self._memory.recall(key)


async def _metrics() -> str:
    return await asyncio.to_thread(telemetry.render)


def _seen(seen: Seen) -> None:
    telemetry.answered(seen.method, seen.route, seen.status, seen.seconds)
