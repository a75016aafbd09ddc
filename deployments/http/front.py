"""The one ASGI layer around the application: request ids, bodies, headers of every answer, errors of every kind.

Pure ASGI and one layer only, since every layer is paid by every request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.errors import Problem, problem_of
from deployments.http.gateway import Gateway, Seen
from deployments.http.limits import Body, Budget
from deployments.http.rekognition_errors import aws_answer
from deployments.ids import to_wire

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
_ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_LOG = structlog.get_logger("facegate.http")


class Front:
    """Wraps the application. Nothing that goes wrong inside leaves as anything but a problem."""

    def __init__(self, app: ASGIApp, *, gateway: Gateway, budget: Budget) -> None:
        self._app = app
        self._gateway = gateway
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything but HTTP goes through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._gateway)
        scope["facegate.request_id"] = exchange.request_id
        try:
            exchange.body = Body(scope, receive, bounds=self._gateway.bounds, budget=self._budget)
            scope["facegate.body"] = exchange.body
            exchange.body.admit()
            await self._app(scope, exchange.body.receive, exchange.send)
        except ClientDisconnect:
            _LOG.info("client gone", request_id=exchange.request_id)
        except Exception as error:
            if exchange.status is not None:
                raise  # the answer has begun; the server cuts the connection
            await exchange.refuse(error)
        finally:
            exchange.end()


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, gateway: Gateway) -> None:
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        accepted = _REQUEST_ID.fullmatch(given) is not None
        self.request_id = given if accepted else to_wire("req", gateway.new_id())
        self.body: Body | None = None
        self.status: int | None = None
        self._says_id = not (accepted and gateway.request_id_echoed)
        self._scope = scope
        self._send = send
        self._gateway = gateway
        self._began = time.monotonic()

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            said = {name for name, _ in headers}
            headers += [pair for pair in _ALWAYS if pair[0] not in said]
            if self._says_id:
                headers.append((b"x-request-id", self.request_id.encode()))
            if self.body is None or self.body.is_unread:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, error: Exception) -> None:
        """Answer an exception."""
        found = problem_of(error)
        if found.code == "internal_error":
            _LOG.error("request failed", request_id=self.request_id, exc_info=error)
        linger = self.body.drop_rest if self.body is not None and self.body.is_unread else None
        await respond(self._scope, self.send, found, self.request_id, linger=linger)

    def end(self) -> None:
        """Give the memory back and tell what was seen."""
        if self.body is not None:
            self.body.let_go()
        route = getattr(self._scope.get("route"), "path", "unknown")
        seconds = time.monotonic() - self._began
        self._gateway.seen(
            Seen(method=self._scope["method"], route=route, status=self.status or 499, seconds=seconds, request_id=self.request_id)
        )


async def respond(
    scope: Scope, send: Send, found: Problem, request_id: str, *, linger: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Send a problem; on the Rekognition route in AWS's words. `linger` comes before its end, with which the connection may be closed."""
    if scope["path"] == "/" and scope["method"] == "POST":
        status, headers, body = aws_answer(found, request_id)
    else:
        status, headers, body = found.status, found.all_headers(), found.body(request_id)
    head = [(name.encode(), value.encode()) for name, value in headers] + [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": linger is not None})
    if linger is not None:
        await linger()
        await send({"type": "http.response.body", "body": b""})


def request_id_of(request: Request) -> str:
    """The id that the answer to this request carries."""
    return str(request.scope["facegate.request_id"])


def body_of(request: Request) -> Body:
    """The accounting of this request's body."""
    body: Body = request.scope["facegate.body"]
    return body
