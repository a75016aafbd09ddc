"""The service over real parts: decode children, the planted-marker classifier, Postgres where a test asks for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import SecretStr

from deployments.embedded_postgres import DatabaseUrls
from deployments.http.gateway import Bounds, Gateway
from deployments.http_api import create_api
from deployments.policy_file import shipped_policy
from deployments.screening_worker import HeldMedia, ScreeningWorker
from deployments.settings import Settings
from deployments.wiring import wire
from moderation.access import Scope
from moderation.adapters.classifiers.correlation import CorrelationClassifier
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.keys import MadeKey, PostgresKeys
from moderation.frames import Input, Limits
from moderation.policy import Policy
from moderation.scores import ClassifierVersion, InputScores
from moderation.screening import Screener
from tests.builders import TENANT
from tests.http_kit import Service, make_service


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
    changes: dict[str, Any] = field(default_factory=dict)
    """To the gateway, at the end."""

    @contextlib.asynccontextmanager
    async def make(self) -> AsyncIterator[FastAPI]:
        bucket = self.folder / "bucket"
        bucket.mkdir()
        settings = Settings(
            home=self.folder,
            database_url=SecretStr(self.urls.runtime),
            media_url=str(self.folder / "media"),
            buckets={"pictures": str(bucket)},
            decode_children=1,
        )
        wired = await wire(settings, (), behind_ray=False, swappers=frozenset({"auto", "classical"}))
        try:
            self.made = await _first_key(wired.gateway)
            self.gateway = replace(
                wired.gateway,
                classifiers=(self.classifier,),
                bounds=self.bounds,
                alarm=self.alarms.append,
                probes={name: wired.gateway.probes[name] for name in ("database", "store")},  # nothing is sealed here
                **self.changes,
            )
            self.worker = worker_of(self.gateway)
            yield create_api(self.gateway)
        finally:
            await wired.close()


async def _first_key(gateway: Gateway) -> MadeKey:
    """Of a tenant whose policy is `marker_policy()`; with every scope."""
    keys = gateway.keys
    assert isinstance(keys, PostgresKeys)
    tenant = await keys.make_tenant("local")
    await gateway.policies.publish(tenant, "marker", marker_policy(), "test")
    return await keys.make(tenant=tenant, scopes=list(Scope), policies=["marker"], actor="test", subject="reviewer-1", sigv4=True)


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
