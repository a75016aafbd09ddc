"""Bytes whose time is over go, the record says so and stays; what is under hold stays.

`Purge` removes released files whose time is over or whose release was withdrawn, each with an entry. `Leftovers` removes, area by area,
what nobody needs any more: what was sent for transforms that have ended, whoever died before it could clean up; files in quarantine
past their time; and what lies among the released files without a release that stands, put there by a worker that came too late.

A hold that is placed while bytes are being removed comes too late for these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias
from uuid import UUID

import structlog

from moderation.adapters.areas import Area, object_name, object_of
from moderation.errors import RecordUnavailable
from moderation.ports import Keeping, Standing, StoredObject, TransformLog
from moderation.transform import Release, State

_BATCH: Final = 100
SETTLED_S: Final = 3600.0
"""What is younger may be in the hands of a worker: bytes are stored before the row that names them."""
_LOG = structlog.get_logger("facegate.purge")

MayGo: TypeAlias = Callable[[Standing, float], bool]
"""Whether bytes of this standing and age, in seconds, may go. Holds are not its business."""


class Purge:
    """A sweep for the housekeeper: released files."""

    def __init__(self, log: TransformLog, released: Area, keeping: Keeping) -> None:
        self._log = log
        self._released = released
        self._keeping = keeping

    async def __call__(self) -> int:
        """Purge what is due and not under hold, and say how much. Raises RecordUnavailable; what was purged until then stays recorded."""
        purged, last = 0, None
        while batch := await self._log.expired(_BATCH, after=last):
            for release in batch:
                if not await self._keeping.is_held(release.tenant, release.transform):
                    await self._purge(release)
                    purged += 1
            last = batch[-1].transform
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


class Leftovers:
    """A sweep for the housekeeper: what nobody needs any more in one area."""

    def __init__(self, area: Area, keeping: Keeping, may_go: MayGo, *, settled_s: float = SETTLED_S) -> None:
        self._area = area
        self._keeping = keeping
        self._may_go = may_go
        self._settled_s = settled_s

    async def __call__(self) -> int:
        """Remove what may go and say how much. Raises RecordUnavailable."""
        gone = 0
        async for batch in self._area.aged(older_than_s=self._settled_s):
            ages = {one.name: one.age_s for one in batch}
            for tenant, objects in _by_tenant(ages).items():
                standing = await self._keeping.look(tenant, objects)
                for one, stands in standing.items():
                    name = object_name(tenant, one.owner, one.sha256)
                    if not stands.is_held and self._may_go(stands, ages[name]):
                        await self._area.delete(name)
                        gone += 1
        return gone


def _by_tenant(names: Iterable[str]) -> dict[UUID, list[StoredObject]]:
    """What these are; names that no code of ours gives are left alone."""
    found: dict[UUID, list[StoredObject]] = defaultdict(list)
    for name in names:
        known = object_of(name)
        if known is not None:
            found[known[0]].append(known[1])
    return found


def of_intake(keep_s: float) -> MayGo:
    """What was sent goes when its transform has ended, and when it is `keep_s` old."""
    return lambda stands, age_s: stands.ended is not None or age_s > keep_s


def of_quarantine(keep_s: float) -> MayGo:
    """Files of transforms that came to nothing go; what was denied can be looked at until it is `keep_s` old, like all the rest."""
    return lambda stands, age_s: stands.ended in (State.FAILED, State.CANCELLED) or age_s > keep_s


def of_released(stands: Standing, _age_s: float) -> bool:
    """Only what a release that stands names may lie there."""
    return not stands.is_served
