"""Bodies on their way in: how large, how slow, how many at once.

Bytes are counted as they come, whatever the headers promise. Nothing is read before somebody asks for it, so a
request that is refused for its key or its declared length costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Final

from starlette.types import Message, Receive, Scope

from deployments.http.errors import Code, refused
from deployments.http.gateway import Bounds
from moderation.errors import Overloaded

FORM_OVERHEAD: Final = 64 * 1024
"""What the lines around the media may add in a multipart body."""

MOST_DIGITS: Final = 15
LINGER_S: Final = 1.0
"""How long what still comes is read after a refusal."""


class Budget:
    """Bytes of bodies that may be in memory at once in this process."""

    def __init__(self, total: int) -> None:
        self._left = total

    @property
    def left(self) -> int:
        """Bytes that are free."""
        return self._left

    def take(self, amount: int) -> None:
        """Raises Overloaded if they are not free."""
        if amount > self._left:
            raise Overloaded("bodies in memory")
        self._left -= amount

    def give(self, amount: int) -> None:
        """Back what was taken."""
        self._left += amount


class Body:
    """The body of one request. `receive` is what the application reads from.

    Raises ApiError on a body that is too large, too slow or ambiguous in length, and Overloaded.
    """

    def __init__(self, scope: Scope, receive: Receive, *, bounds: Bounds, budget: Budget) -> None:
        self._receive = receive
        self._bounds = bounds
        self._budget = budget
        self._declared, self._chunked = _framing(scope["headers"])
        self._limit = limit_of(scope, bounds)
        self._received = 0
        self._taken = 0
        self._deadline: float | None = None
        self._complete = not self._chunked and not self._declared
        self._holders = 1

    @property
    def picture_bytes(self) -> int:
        """The most bytes of one file that is no video."""
        return self._bounds.picture

    @property
    def is_unread(self) -> bool:
        """Whether bytes may still be on their way; the connection cannot be used again."""
        return not self._complete

    def admit(self) -> None:
        """Refuse by what the headers say, before a byte is read."""
        if self._declared is not None and self._declared > self._limit:
            raise refused(Code.PAYLOAD_TOO_LARGE)

    def also(self, amount: int) -> None:
        """Count bytes that come into memory for this request beside its own. Raises Overloaded if there is no room."""
        self._budget.take(amount)
        self._taken += amount

    def hold(self) -> None:
        """Somebody else needs the bytes too, perhaps longer than the request; it calls `let_go` once."""
        self._holders += 1

    def let_go(self) -> None:
        """One holder less; the request itself is the first. With the last one the memory is free."""
        self._holders -= 1
        if not self._holders:
            self._budget.give(self._taken)
            self._taken = 0

    def forget(self) -> None:
        """The bytes are needed no longer, though the request goes on. Does nothing while somebody else holds them."""
        if self._complete and self._holders == 1:
            self._budget.give(self._taken)
            self._taken = 0

    async def receive(self) -> Message:
        """The next message of the server."""
        if self._complete:
            return await self._receive()
        self._reserve(self._declared or 0)
        message = await self._in_time()
        if message["type"] != "http.request":
            return message
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise refused(Code.PAYLOAD_TOO_LARGE)
        self._reserve(self._received)
        self._complete = not message.get("more_body", False)
        return message

    async def drop_rest(self) -> None:
        """Read and forget what is still on its way, for a moment.

        Who is cut off while sending may never see the answer: TCP throws away what was not read yet (RFC 9112, section 9.6).
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._complete:
                    message = await self._receive()
                    self._complete = message["type"] != "http.request" or not message.get("more_body", False)

    def _reserve(self, amount: int) -> None:
        if amount > self._taken:
            self._budget.take(amount - self._taken)
            self._taken = amount

    async def _in_time(self) -> Message:
        now = time.monotonic()
        self._deadline = self._deadline or now + self._bounds.body_s
        left_s = self._deadline + self._received / self._bounds.slowest - now
        try:
            async with asyncio.timeout(min(self._bounds.idle_s, max(0.0, left_s))):
                return await self._receive()
        except TimeoutError:
            raise refused(Code.UPLOAD_TIMEOUT) from None


def limit_of(scope: Scope, bounds: Bounds) -> int:
    """The most bytes that a route's body may have. In a form, `uploads` bounds each file by what it is, as soon as that is known."""
    path = scope["path"]
    if path == "/v1/screenings":
        kind = _content_type(scope["headers"])
        if kind.startswith(b"multipart/"):
            return bounds.video + FORM_OVERHEAD
        return bounds.video if kind.startswith(b"video/") else bounds.picture
    if path == "/v1/transforms":
        return bounds.picture + bounds.video + FORM_OVERHEAD
    if path == "/v1/sources":
        return bounds.picture + FORM_OVERHEAD
    if path == "/v1/moderations":
        return bounds.json
    return bounds.rekognition if path == "/" else bounds.other


def _content_type(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return next((value.strip().lower() for name, value in headers if name == b"content-type"), b"")


def _framing(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int | None, bool]:
    """(declared length, whether chunked). Two ways to say where a body ends are two bodies: refused."""
    lengths = [value for name, value in headers if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    if len(lengths) > 1 or (lengths and chunked):
        raise refused(Code.BAD_REQUEST, message="The length of the body is ambiguous.")
    if not lengths:
        return None, chunked
    if not lengths[0].isdigit() or len(lengths[0]) > MOST_DIGITS:
        raise refused(Code.BAD_REQUEST, message="The length of the body is not a number.")
    return int(lengths[0]), chunked
