"""A small memory of answers that may be about a second old."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BriefMemory(Generic[K, V]):
    """At most `size` answers, none older than `seconds` counted from when it was asked for. For one event loop.

    Callers that ask for the same thing at the same time share one load. Failures are not remembered.
    """

    def __init__(self, *, seconds: float = 1.0, size: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._size = size
        self._clock = clock
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._loading: dict[K, asyncio.Future[V]] = {}

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """The remembered answer if it is young enough, otherwise what `load` gives. Raises what `load` raises."""
        known = self._known.get(key)
        if known is not None and self._clock() - known[0] < self._seconds:
            self._known.move_to_end(key)
            return known[1]
        loading = self._loading.get(key)
        if loading is None:
            loading = asyncio.ensure_future(self._load(key, load, self._clock()))
            self._loading[key] = loading
            loading.add_done_callback(lambda done: self._loaded(key, done))
        # Shielded: the first caller's disconnect must not take the answer from those who wait with it.
        return await asyncio.shield(loading)

    def forget(self, key: K) -> None:
        """Do not use what is known, nor what is being loaded now."""
        self._known.pop(key, None)
        self._loading.pop(key, None)

    async def _load(self, key: K, load: Callable[[], Awaitable[V]], asked: float) -> V:
        value = await load()
        if self._loading.get(key) is asyncio.current_task():
            self._known[key] = (asked, value)
            self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return value

    def _loaded(self, key: K, done: asyncio.Future[V]) -> None:
        if self._loading.get(key) is done:
            del self._loading[key]
        if not done.cancelled():
            done.exception()  # seen, even if every caller has left
