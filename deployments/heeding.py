"""Work that is left off once it is not wanted any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Never, Self, TypeVar

from moderation.errors import RecordUnavailable

EVERY_S: Final = 1.0

_T = TypeVar("_T")


class Heeding:
    """Asks `heed` every second, while it is open, whether the work is still wanted; a `heed` that raises says that it is not."""

    def __init__(self, heed: Callable[[], Awaitable[None]]) -> None:
        self._heed = heed
        self._listening: asyncio.Task[Never] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._listening is not None:
            await _ended(self._listening)

    async def over(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` comes to. Raises what `heed` raises meanwhile, or has raised since the last work.

        `work` is left off then wherever it is: what it has committed by now counts, and nothing else that it did does.
        """
        working = asyncio.create_task(work)
        listening = self._listening = self._listening or asyncio.create_task(self._listen())
        try:
            await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return await working
            self._listening = None  # it has said what it had to say
            return await listening
        finally:
            await _ended(working)

    async def _listen(self) -> Never:
        while True:
            await asyncio.sleep(EVERY_S)
            with contextlib.suppress(RecordUnavailable):
                await self._heed()


async def _ended(task: asyncio.Task[Any]) -> None:
    """Once a task has stopped, whatever it came to."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
