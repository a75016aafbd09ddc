"""The service over real parts: decode children, the planted-marker classifier, Postgres where a test asks for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from deployments.embedded_postgres import DatabaseUrls
from deployments.http.gateway import Bounds, Gateway
from deployments.http_api import create_api
from deployments.policy_file import shipped_policy
from deployments.screening_worker import HeldMedia, ScreeningWorker
from moderation.access import Scope
from moderation.adapters.appeals import PostgresAppeals
from moderation.adapters.areas import Area
from moderation.adapters.classifiers.correlation import CorrelationClassifier
from moderation.adapters.database import Database
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.erasures import PostgresErasures
from moderation.adapters.holds import PostgresHolds
from moderation.adapters.idempotency import PostgresIdempotency
from moderation.adapters.keys import MadeKey, PostgresKeys
from moderation.adapters.log_export import PostgresExport
from moderation.adapters.log_reader import PostgresLog
from moderation.adapters.media_store import Buckets, ObjectMediaStore
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.queue import PostgresQueue
from moderation.adapters.receipts import PostgresReceipts
from moderation.adapters.reports.reader import PostgresReports
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.service_key import ServiceKey
from moderation.adapters.sources import PostgresSources
from moderation.adapters.transforms import PostgresTransforms
from moderation.frames import Input, Limits
from moderation.policy import Policy
from moderation.scores import ClassifierVersion, InputScores
from moderation.screening import Screener
from tests.builders import TENANT
from tests.http_kit import Service, make_service

SERVICE_KEY = bytes(range(32))


class MarkerClassifier:
    """The planted-marker classifier, called from an event loop. `delay_s` makes it slow; it raises `fault`."""

    def __init__(self) -> None:
        self._model = CorrelationClassifier()
        self.delay_s = 0.0
        self.fault: Exception | None = None

    @property
    def version(self) -> ClassifierVersion:
        return self._model.version

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault
        return await asyncio.to_thread(self._model.predict, np.stack([item.pixels for item in inputs]))


def marker_policy() -> Policy:
    """The shipped policy that names the planted marker, without what would hold a picture for other reasons."""
    return shipped_policy("marker")


def over_fakes(
    *, bounds: Bounds | None = None, **limits: Any
) -> tuple[Service, Callable[[], contextlib.AbstractAsyncContextManager[FastAPI]]]:
    """A service whose decoder and classifier are real and whose record is a list."""
    service = make_service(changes={"bounds": bounds or Bounds(wait_s=30), "limits": Limits(**limits)})
    service.policies.shelf = {(TENANT, "default"): [replace(marker_policy(), name="default")]}

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[FastAPI]:
        decoder = ChildDecoder(children=2)
        await decoder.start()
        try:
            yield create_api(replace(service.gateway(), decoder=decoder, pictures=decoder, classifiers=(MarkerClassifier(),)))
        finally:
            await decoder.close()

    return service, make


@dataclass(kw_only=True)
class RealParts:
    """Everything a test may want to reach, once the service runs."""

    urls: DatabaseUrls
    folder: Path
    bounds: Bounds = field(default_factory=Bounds)
    classifier: MarkerClassifier = field(default_factory=MarkerClassifier)
    made: MadeKey | None = None
    gateway: Gateway | None = None
    worker: ScreeningWorker | None = None
    alarms: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    """What the record is made with, beside its URL."""

    @contextlib.asynccontextmanager
    async def make(self) -> AsyncIterator[FastAPI]:
        decoder, database = ChildDecoder(children=1), Database(self.urls.runtime)
        record = PostgresRecord(self.urls.runtime, **self.record)
        await decoder.start()
        try:
            self.gateway = await self._gateway(decoder, database, record)
            self.worker = worker_of(self.gateway)
            yield create_api(self.gateway)
        finally:
            await decoder.close()
            await asyncio.to_thread(record.close)
            await asyncio.to_thread(database.close)

    async def _gateway(self, decoder: ChildDecoder, database: Database, record: PostgresRecord) -> Gateway:
        keys, policies = PostgresKeys(database, service_key=ServiceKey(SERVICE_KEY)), PostgresPolicies(database)
        tenant = await keys.make_tenant("local")
        await policies.publish(tenant, "marker", marker_policy(), "test")
        self.made = await keys.make(tenant=tenant, scopes=list(Scope), policies=["marker"], actor="test", subject="reviewer-1", sigv4=True)
        bucket = self.folder / "bucket"
        bucket.mkdir()
        store = ObjectMediaStore(str(self.folder / "media"))
        return Gateway(
            decoder=decoder,
            classifiers=(self.classifier,),
            log=record,
            memory=record,
            reader=record,
            keys=keys,
            policies=policies,
            idempotency=PostgresIdempotency(database),
            queue=PostgresQueue(database),
            store=store,
            transforms=PostgresTransforms(database),
            reviews=PostgresReviews(database),
            appeals=PostgresAppeals(database),
            holds=PostgresHolds(database),
            erasures=PostgresErasures(database),
            sources=PostgresSources(database),
            seals=PostgresLog(database),
            exports=PostgresExport(database),
            reports=PostgresReports(database),
            receipts=PostgresReceipts(database, ServiceKey(SERVICE_KEY), record.leaves),
            pictures=decoder,
            intake=Area(store, "intake"),
            quarantine=Area(store, "quarantine"),
            released=Area(store, "released"),
            catalogue=Area(store, "catalogue"),
            alarm=self.alarms.append,
            clock=lambda: datetime.now(UTC),
            probes={"database": record.ping, "store": store.ping},
            metrics=_metrics,
            bounds=self.bounds,
            buckets=Buckets({"pictures": str(bucket)}),
        )


def worker_of(gateway: Gateway) -> ScreeningWorker:
    """One that does what the service puts off, over the same parts."""
    screener = Screener(
        decoder=gateway.decoder,
        classifiers=gateway.classifiers,
        log=gateway.log,
        memory=gateway.memory,
        clock=gateway.clock,
        limits=gateway.limits,
    )
    return ScreeningWorker(
        screener=screener,
        reader=gateway.reader,
        policies=gateway.policies,
        queue=gateway.queue,
        store=gateway.store,
        keep=HeldMedia(gateway.quarantine, gateway.alarm),
    )


async def _metrics() -> str:
    return ""
