"""Released files whose time is over, or whose release was withdrawn: the bytes go, the record says so and stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

import structlog

from moderation.adapters.areas import Area, object_name
from moderation.canonical import Json
from moderation.errors import RecordUnavailable
from moderation.transform import Release

_BATCH: Final = 100
_LOG = structlog.get_logger("facegate.purge")


class ReleaseShelf(Protocol):
    """The record of releases, over all tenants."""

    async def expired(self, limit: int) -> Sequence[Release]:
        """Releases past their time, or withdrawn, whose bytes are not purged yet. Raises RecordUnavailable."""

    async def record_purge(self, tenant: UUID, transform: UUID, result: Mapping[str, Json]) -> None:
        """Write with its entry what became of the bytes. Raises RecordUnavailable."""


class Purge:
    """A sweep for the housekeeper."""

    def __init__(self, shelf: ReleaseShelf, released: Area) -> None:
        self._shelf = shelf
        self._released = released

    async def __call__(self) -> int:
        """Purge what is due and say how much. Raises RecordUnavailable; what was purged until then stays recorded."""
        purged = 0
        while batch := await self._shelf.expired(_BATCH):
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
        await self._shelf.record_purge(release.tenant, release.transform, {"sha256": release.signed_sha256, "bytes": result})
        _LOG.info("release purged", transform=str(release.transform), result=result)
