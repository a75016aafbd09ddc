"""Answers that are made while they are sent."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Final
from uuid import UUID

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from moderation.errors import Overloaded

_PIECE: Final = 64 * 1024
"""Bytes that are sent at once."""


class Cut(Exception):  # nobody's fault, and no answer
    """Nothing more may be sent; what was is not the whole."""


class Places:
    """How many streams of one kind are open in this process, by tenant: none has more than half of the places."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._open: Counter[UUID] = Counter()

    def take(self, tenant: UUID, places: int) -> None:
        """Take one of so many. Raises Overloaded where none is left for this tenant."""
        if self._open.total() >= places or self._open[tenant] >= math.ceil(places / 2):
            raise Overloaded(self._what)
        self._open[tenant] += 1

    def free(self, tenant: UUID) -> None:
        """Give one back."""
        self._open -= Counter([tenant])


class EndingStream(StreamingResponse):
    """A stream that says when it is over, however that comes about; what makes it is closed by then."""

    def __init__(self, pieces: AsyncIterator[bytes], ended: Callable[[], None], *, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


class CutStream(EndingStream):
    """A stream that may be cut. Who takes nothing for `send_s` is not waited for any longer."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        ended: Callable[[], None],
        *,
        media_type: str,
        headers: Mapping[str, str],
        send_s: float,
        status: int = 200,
    ) -> None:
        super().__init__(pieces, ended, media_type=media_type, headers=headers)
        self.status_code = status
        self._send_s = send_s

    async def stream_response(self, send: Send) -> None:
        """Without the end of the body where it is cut: the server then closes the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self.body_iterator:
                for at in range(0, len(chunk), _PIECE):
                    async with asyncio.timeout(self._send_s):
                        await send({"type": "http.response.body", "body": chunk[at : at + _PIECE], "more_body": True})
        except (Cut, TimeoutError):
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
