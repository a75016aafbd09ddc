"""Housekeeping: what is kept for a time only is removed when its time is over.

Decisions and entries are never among it: they are append-only, and partitions are dropped by a job of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from moderation.errors import RecordUnavailable

EVERY_S: Final = 3600.0
_LOG = structlog.get_logger("facegate.housekeeping")

Sweep = Callable[[], Awaitable[int]]
"""Removes what is over its time and says how many. Raises RecordUnavailable."""


class Housekeeper:
    """Runs every sweep at the start and then every `every_s`; one that fails is tried again the next time."""

    def __init__(self, sweeps: Mapping[str, Sweep], *, every_s: float = EVERY_S) -> None:
        self._sweeps = sweeps
        self._every_s = every_s

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self.run_once()
            await asyncio.sleep(self._every_s)

    async def run_once(self) -> dict[str, int]:
        """Sweep now; says what was removed, leaving out what could not be swept."""
        removed = {}
        for name, sweep in self._sweeps.items():
            try:
                removed[name] = await sweep()
            except RecordUnavailable as fault:
                _LOG.warning("sweep failed", what=name, why=str(fault))
        if any(removed.values()):
            _LOG.info("swept", **removed)
        return removed
