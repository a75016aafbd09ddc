"""Released files whose time is over, or whose release was withdrawn: the bytes go, the record says so and stays."""

from __future__ import annotations

from typing import Final

import structlog

from moderation.adapters.areas import Area, object_name
from moderation.errors import RecordUnavailable
from moderation.ports import TransformLog
from moderation.transform import Release

_BATCH: Final = 100
_LOG = structlog.get_logger("facegate.purge")


class Purge:
    """A sweep for the housekeeper."""

    def __init__(self, log: TransformLog, released: Area) -> None:
        self._log = log
        self._released = released

    async def __call__(self) -> int:
        """Purge what is due and say how much. Raises RecordUnavailable; what was purged until then stays recorded."""
        purged = 0
        while batch := await self._log.expired(_BATCH):
            for release in batch:
                await self._purge(release)
            purged += len(batch)
        return purged

    async def _purge(self, release: Release) -> None:
        """First the bytes, then the record: served bytes are never said to be gone. A second try finds them gone and says so."""
        name = object_name(release.tenant, release.transform, release.signed_sha256)
        try:
            found = await self._released.get(name) is not None
        except RecordUnavailable:  # altered, or the store is away: deleting tells the two apart
            found = True
        await self._released.delete(name)
        result = "deleted" if found else "was_absent"
        await self._log.record_purge(release.tenant, release.transform, {"sha256": release.signed_sha256, "bytes": result})
        _LOG.info("release purged", transform=str(release.transform), result=result)
