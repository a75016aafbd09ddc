"""`/healthz`, `/readyz`, `/metrics`: for those who run the service. No key, and nothing about tenants."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.gateway import Gateway, Probe
from deployments.http.routing import Doc, add_public
from deployments.http.schemas import HealthView, ReadyView
from deployments.http.wire import json_response
from moderation.errors import ClassifierUnavailable, DecoderUnavailable, Overloaded, RecordUnavailable

_FRESH_S: Final = 1.0
_WORDS: Final = {
    TimeoutError: "no answer in time",
    RecordUnavailable: "unavailable",
    ClassifierUnavailable: "unavailable",
    DecoderUnavailable: "unavailable",
    Overloaded: "overloaded",
}


class Operation:
    """The three routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._checking: asyncio.Task[dict[str, str | None]] | None = None
        self._checked_at = float("-inf")
        self._rendering: asyncio.Future[str] | None = None

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002
        """The process lives."""
        return json_response({"status": "alive"})

    async def readyz(self, request: Request) -> Response:  # noqa: ARG002
        """Whether work can be done: each dependency by name, 503 if one is missing."""
        faults = await asyncio.shield(self._check())
        ready = not any(faults.values())
        dependencies = {name: {"ready": fault is None, "reason": fault} for name, fault in faults.items()}
        headers = {} if ready else {"retry-after": "1"}
        return json_response({"ready": ready, "dependencies": dependencies}, 200 if ready else 503, headers)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """Prometheus' exposition format. Whoever asks while it is being put together gets the same: nobody needs a key for this."""
        if self._rendering is None or self._rendering.done():
            self._rendering = asyncio.ensure_future(self._gateway.metrics())
        return Response(await asyncio.shield(self._rendering), media_type="text/plain; version=0.0.4")

    def _check(self) -> asyncio.Task[dict[str, str | None]]:
        """One round of probes at a time and at most one a second, however many ask: nobody needs a key for this."""
        now = time.monotonic()
        if self._checking is None or (self._checking.done() and now - self._checked_at > _FRESH_S):
            self._checking = asyncio.get_running_loop().create_task(self._probe_all())
            self._checked_at = now
        return self._checking

    async def _probe_all(self) -> dict[str, str | None]:
        names = list(self._gateway.probes)
        faults = await asyncio.gather(*(self._probe(self._gateway.probes[name]) for name in names))
        return dict(zip(names, faults, strict=True))

    async def _probe(self, probe: Probe) -> str | None:
        """None, or in our own words why the dependency cannot be used."""
        try:
            async with asyncio.timeout(self._gateway.bounds.probe_s):
                await probe()
        except Exception as error:  # noqa: BLE001  # whatever it is, the dependency is not ready
            return next((words for kind, words in _WORDS.items() if isinstance(error, kind)), "failed")
        return None


def add_operation(app: FastAPI, gateway: Gateway) -> None:
    """Add the routes."""
    operation = Operation(gateway)
    add_public(app, "GET", "/healthz", operation.healthz, doc=Doc(summary="Alive", answers={200: HealthView}, tag="operation"))
    ready = Doc(summary="Ready", answers={200: ReadyView, 503: ReadyView}, tag="operation")
    add_public(app, "GET", "/readyz", operation.readyz, doc=ready)
    add_public(app, "GET", "/metrics", operation.metrics, doc=Doc(summary="Metrics", answers={200: None}, tag="operation"))
    for path, endpoint in (("/healthz", operation.healthz), ("/readyz", operation.readyz)):  # some load balancers ask so
        app.add_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
