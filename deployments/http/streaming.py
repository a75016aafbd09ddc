"""Answers that are made while they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


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
