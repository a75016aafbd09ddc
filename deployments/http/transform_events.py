"""`/v1/transforms/{id}/events`: what happens to a transform, told while it happens (server-sent events).

Every process can tell of every transform, since all of it is read from the record. A client that was cut off goes on from
its last event. The key is looked at again with every heartbeat, so that a revoked one does not go on listening.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import ApiError, Code, refused
from deployments.http.gateway import Gateway
from deployments.http.routing import query_of
from deployments.http.schemas import NoQuery
from deployments.http.streaming import EndingStream, Places
from deployments.http.transform_documents import transform_document
from deployments.http.transform_lookup import named_transform
from deployments.http.wire import encode
from moderation.access import Key, Scope
from moderation.errors import RecordUnavailable
from moderation.transform import FINAL, Committed, State

TRANSFORM: Final = frozenset({Scope.TRANSFORM})
LAST_EVENT: Final = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "integer", "minimum": 0, "maximum": 10**9}}
_MOST_DIGITS: Final = 9
_HEARTBEAT: Final = b": heartbeat\n\n"
_AGAIN_MS: Final = 1000
"""After how long a client comes back whose stream has ended."""


class EventStreams:
    """The route, and who listens in this process."""

    def __init__(self, gateway: Gateway, door: Door) -> None:
        self._gateway = gateway
        self._door = door
        self._places = Places("event streams")

    async def get(self, request: Request, key: Key) -> Response:
        """Server-sent events: `state` for each change of state, with its number as id and the transform as it was then; between them `progress`.

        From the start, or after `Last-Event-ID`. Ends after a final state; otherwise after some minutes, and the client comes back.
        """
        query_of(request, NoQuery)
        after = _last_event(request)
        committed = await named_transform(self._gateway, request, key)
        self._places.take(key.tenant, self._gateway.bounds.streams)
        stream = _Stream(self._gateway, self._door, request, committed, after)
        ended = partial(self._places.free, key.tenant)
        return EndingStream(stream.messages(), ended, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


class _Stream:
    """One listener of one transform."""

    def __init__(self, gateway: Gateway, door: Door, request: Request, committed: Committed, after: int) -> None:
        self._gateway = gateway
        self._door = door
        self._request = request
        self._committed = committed
        self._told = after
        self._said_at = self._looked_at = time.monotonic()
        self._progress = transform_document(committed)["progress"]

    async def messages(self) -> AsyncIterator[bytes]:
        """What is sent, until a final state was told, the time is over, or the key is no good any more."""
        bounds, until = self._gateway.bounds, time.monotonic() + self._gateway.bounds.stream_s
        yield f"retry: {_AGAIN_MS}\n\n".encode()
        while True:
            for message in self._news():
                self._said_at = time.monotonic()
                yield message
            if self._is_over() or time.monotonic() >= until:
                return
            if time.monotonic() - self._said_at >= bounds.heartbeat_s:
                if not await self._is_welcome():
                    return
                self._said_at = time.monotonic()
                yield _HEARTBEAT
            await asyncio.sleep(bounds.poll_s)
            await self._look()

    def _is_over(self) -> bool:
        last = self._committed.events[-1]
        return last.state in FINAL and self._told >= last.sequence

    def _news(self) -> list[bytes]:
        """Events that were not told yet; without any, progress that was not."""
        events = [event for event in self._committed.events if event.sequence > self._told]
        found = [_message("state", transform_document(self._committed, event), id=event.sequence) for event in events]
        document = transform_document(self._committed)
        if events:
            self._told = events[-1].sequence
        elif document["progress"] != self._progress and self._committed.state is not State.HELD:
            found = [_message("progress", document)]
        self._progress = document["progress"]
        return found

    async def _look(self) -> None:
        """Read the record: all of the transform when something has happened to it, and every second for its progress."""
        transform = self._committed.transform
        try:
            is_due = time.monotonic() - self._looked_at >= self._gateway.bounds.progress_s
            if is_due or await self._gateway.transforms.events(transform.tenant, transform.id, after=self._committed.events[-1].sequence):
                self._committed = await self._gateway.transforms.load(transform.tenant, transform.id) or self._committed
                self._looked_at = time.monotonic()
        except RecordUnavailable:
            self._looked_at = time.monotonic()  # the listener hears the heartbeat and waits

    async def _is_welcome(self) -> bool:
        try:
            await self._door.bearer(self._request, TRANSFORM)
        except ApiError:
            return False
        except RecordUnavailable:
            return True
        return True


def _message(event: str, document: object, *, id: int | None = None) -> bytes:
    """One event; JSON as we write it has no line breaks."""
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {event}\ndata: ".encode() + encode(document) + b"\n\n"


def _last_event(request: Request) -> int:
    given = request.headers.getlist("last-event-id") or ["0"]
    if len(given) > 1 or not (given[0].isascii() and given[0].isdigit() and len(given[0]) <= _MOST_DIGITS):
        raise refused(Code.INVALID_PARAMETER, param="Last-Event-ID")
    return int(given[0])
