"""A gateway of fakes and a client that speaks to the application without a network."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import fastapi.routing
import httpx
import uvicorn
from fastapi import FastAPI

from deployments.http.gateway import Bounds, Gateway
from deployments.http_api import create_api
from moderation.access import Key, Scope, key_text, secret_digest
from moderation.adapters.areas import Area
from moderation.ports import Classifier
from tests.builders import OTHER_TENANT, TENANT, make_policy
from tests.fakes import (
    DictIdempotency,
    DictKeyRing,
    DictMediaStore,
    DictPolicyShelf,
    DictScoreMemory,
    EmptyReports,
    FixedClock,
    ListAppealLog,
    ListDecisionLog,
    ListErasureLog,
    ListHoldLog,
    ListQueue,
    ListReviewLog,
    ListSourceCatalogue,
    ListTransformLog,
    ScriptedClassifier,
    ScriptedDecoder,
    ScriptedPictures,
)
from tests.log_kit import ListLog

# Nearly every request of a test has an application of its own, and what FastAPI makes of an answer's schema is the same in all of them.
fastapi.routing.create_model_field = functools.cache(fastapi.routing.create_model_field)  # type: ignore[attr-defined]  # FastAPI's own

T = TypeVar("T")
KEY_ID = "k" * 20
SECRET = bytes(range(32))
KEY = key_text(KEY_ID, SECRET)


def make_key(key_id: str = KEY_ID, secret: bytes = SECRET, **changes: Any) -> Key:
    """A key of all scopes that is bound to a reviewer."""
    defaults = {
        "tenant": TENANT,
        "scopes": frozenset(Scope),
        "policies": ("default",),
        "secret_sha256": secret_digest(secret),
        "subject": "reviewer-1",
    }
    return Key(id=key_id, **{**defaults, **changes})


def bearer(text: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@dataclass(frozen=True)
class ReadOnly:
    """An area of which nothing but reading is there: whoever would write into it fails."""

    area: Area

    async def get(self, name: str) -> bytes | None:
        return await self.area.get(name)

    async def size(self, name: str) -> int | None:
        return await self.area.size(name)

    async def piece(self, name: str, start: int, stop: int) -> bytes | None:
        return await self.area.piece(name, start, stop)


@dataclass(kw_only=True)
class Service:
    """The application over fakes, each of which a test can reach and change."""

    decoder: ScriptedDecoder = field(default_factory=ScriptedDecoder)
    classifiers: tuple[ScriptedClassifier, ...] = field(default_factory=lambda: (ScriptedClassifier(),))
    memory: DictScoreMemory = field(default_factory=DictScoreMemory)
    log: ListDecisionLog
    queue: ListQueue
    keys: DictKeyRing = field(default_factory=lambda: DictKeyRing(keys={KEY_ID: make_key()}))
    policies: DictPolicyShelf
    idempotency: DictIdempotency = field(default_factory=DictIdempotency)
    store: DictMediaStore = field(default_factory=DictMediaStore)
    transforms: ListTransformLog
    reviews: ListReviewLog
    appeals: ListAppealLog
    holds: ListHoldLog = field(default_factory=ListHoldLog)
    erasures: ListErasureLog = field(default_factory=ListErasureLog)
    sources: ListSourceCatalogue
    sealed: ListLog = field(default_factory=ListLog)
    pictures: ScriptedPictures = field(default_factory=ScriptedPictures)
    areas: DictMediaStore = field(default_factory=DictMediaStore)
    alarms: list[str] = field(default_factory=list)
    clock: FixedClock = field(default_factory=FixedClock)
    probes: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    def gateway(self) -> Gateway:
        classifiers: tuple[Classifier, ...] = self.classifiers
        return replace(
            Gateway(
                decoder=self.decoder,
                classifiers=classifiers,
                log=self.log,
                memory=self.memory,
                reader=self.log,
                keys=self.keys,
                policies=self.policies,
                idempotency=self.idempotency,
                queue=self.queue,
                store=self.store,
                transforms=self.transforms,
                reviews=self.reviews,
                appeals=self.appeals,
                holds=self.holds,
                erasures=self.erasures,
                sources=self.sources,
                seals=self.sealed,
                exports=self.sealed,
                reports=EmptyReports(),
                pictures=self.pictures,
                intake=self.area("intake"),
                quarantine=self.area("quarantine"),
                released=ReadOnly(self.area("released")),
                catalogue=self.area("catalogue"),
                alarm=self.alarms.append,
                clock=self.clock,
                probes=self.probes,
                metrics=_metrics,
                bounds=Bounds(wait_s=5.0),
            ),
            **self.changes,
        )

    def area(self, name: str) -> Area:
        return Area(self.areas, name)

    def app(self) -> FastAPI:
        return create_api(self.gateway())

    def run(self, visit: Callable[[httpx.AsyncClient, FastAPI], Awaitable[T]]) -> T:
        """Let `visit` use a client of the application; all work that it began is finished before this returns."""

        async def main() -> T:
            app = self.app()
            async with client_of(app) as client:
                try:
                    return await visit(client, app)
                finally:
                    await app.state.screenings.drain()

        return asyncio.run(main())

    def request(self, method: str, url: str, *, headers: Any = None, **rest: Any) -> httpx.Response:
        """One request with the key of all scopes, unless `headers` say otherwise."""
        return self.run(lambda client, _: client.request(method, url, headers=bearer() if headers is None else headers, **rest))

    def screen(self, data: bytes, *, url: str = "/v1/screenings", **form: str) -> httpx.Response:
        return self.request("POST", url, files={"media": ("picture", data, "application/octet-stream")}, data=form)


def make_service(**changes: Any) -> Service:
    memory = DictScoreMemory()
    queue = ListQueue()
    log = ListDecisionLog(memory=memory, queue=queue)
    transforms = ListTransformLog(log=log, queue=queue)
    reviews = ListReviewLog(log=log, transforms=transforms)
    shelf = {(tenant, "default"): [make_policy()] for tenant in (TENANT, OTHER_TENANT)}
    defaults = {
        "memory": memory,
        "queue": queue,
        "log": log,
        "transforms": transforms,
        "reviews": reviews,
        "appeals": ListAppealLog(log=log, reviews=reviews),
        "sources": ListSourceCatalogue(log=log, reviews=reviews),
        "policies": DictPolicyShelf(shelf=shelf),
    }
    return Service(**{**defaults, **changes})


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which has exactly the one shape."""
    document = answer.json()
    assert list(document) == ["error"]
    error: dict[str, Any] = document["error"]
    assert list(error) == ["code", "message", "type", "param", "decision_id", "request_id"]
    return error


def status_and_code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, error_of(answer)["code"]


def multipart(*parts: tuple[str, bytes], boundary: str = "b0undary") -> tuple[bytes, dict[str, str]]:
    """A form from (header lines, data) as it is, however wrong, and its content type."""
    body = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts) + f"--{boundary}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}


async def _metrics() -> str:
    return "facegate_up 1\n"


@dataclass(kw_only=True)
class Live:
    """A server on loopback, run by uvicorn in a thread of its own."""

    port: int
    app: FastAPI
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, *pieces: bytes, timeout: float = 10.0) -> bytes:
        """Send bytes as they are and read until the server closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    connection.sendall(piece)
            received = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
            return received


@contextlib.contextmanager
def live(make: Callable[[], contextlib.AbstractAsyncContextManager[FastAPI]], *, http: str = "httptools") -> Iterator[Live]:
    """Serve what `make` yields, in the event loop in which it was made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        started: Future[tuple[FastAPI, uvicorn.Server, asyncio.AbstractEventLoop]] = Future()

        async def main() -> None:
            async with make() as app:
                config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None, access_log=False)
                server = uvicorn.Server(config)
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event for it
                    await asyncio.sleep(0.01)
                started.set_result((app, server, asyncio.get_running_loop()))
                await serving
                await app.state.screenings.drain()

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        thread = threading.Thread(target=run, name="uvicorn")
        thread.start()
        app, server, loop = started.result(timeout=60)
        try:
            yield Live(port=listener.getsockname()[1], app=app, loop=loop)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@contextlib.contextmanager
def live_fakes(service: Service, *, http: str = "httptools") -> Iterator[Live]:
    """The application over fakes on a real server."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[FastAPI]:
        yield service.app()

    with live(make, http=http) as running:
        yield running
