"""Bytes whose time is over go, the record says so and stays; what is under hold stays.

`Purge` removes released files whose time is over or whose release was withdrawn, each with an entry. `Leftovers` removes, area by area,
what nobody needs any more: what was sent for work that has ended or was never accepted, whoever died before it could clean up; files in
quarantine past their time; what lies among the released files without a release that stands, put there by a worker that came too late; and
what lies in the catalogue and is no approved face, or not any more. Each of its runs is an entry for each tenant of which anything went. What workers delete at the end of their work is counted on the way
(`CountedArea`) and written down once a minute: of one that is killed, the last minute's is not.

A hold that is placed while bytes are being removed comes too late for these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

import structlog

from deployments.ids import new_id
from moderation.adapters.areas import Area, object_name, object_of
from moderation.adapters.media_store import ObjectMediaStore
from moderation.errors import RecordUnavailable
from moderation.people import Sweep, Swept
from moderation.ports import Clock, Keeping, Standing, StoredObject, SweepLog, TransformLog
from moderation.transform import Release, State

_BATCH: Final = 100
SETTLED_S: Final = 3600.0
"""What is younger may be in the hands of a worker: bytes are stored before the row that names them."""
WRITTEN_DOWN_EVERY_S: Final = 60.0
"""How often it is written down what workers have deleted."""
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


@dataclass(slots=True)
class _Count:
    since: datetime
    removed: int = 0
    held: int = 0
    first: UUID | None = None
    last: UUID | None = None

    def remove(self, owner: UUID) -> None:
        self.removed += 1
        self.first = owner if self.first is None else min(self.first, owner)
        self.last = owner if self.last is None else max(self.last, owner)


class Removals:
    """A sweep for the housekeeper: writes down what was removed since the last time. What cannot be written is tried again, as it was."""

    def __init__(self, log: SweepLog, actor: str, *, clock: Clock, new_id: Callable[[], UUID] = new_id) -> None:
        self._log = log
        self._actor = actor
        self._clock = clock
        self._new_id = new_id
        self._counts: dict[tuple[UUID, Swept], _Count] = {}
        self._unwritten: list[Sweep] = []

    def of(self, tenant: UUID, what: Swept) -> _Count:
        """Where what happens to something of this tenant's is counted."""
        return self._counts.setdefault((tenant, what), _Count(self._clock()))

    async def __call__(self) -> int:
        """Write everything down and say how much was removed. Raises RecordUnavailable."""
        at, counts, self._counts = self._clock(), self._counts, {}
        for (tenant, what), count in counts.items():
            if count.removed:  # that something stays under hold is no news by itself
                self._unwritten.append(Sweep(id=self._new_id(), tenant=tenant, what=what, actor=self._actor, at=at, **asdict(count)))
        removed = 0
        while self._unwritten:
            await self._log.write(self._unwritten[0])
            removed += self._unwritten.pop(0).removed
        return removed


class CountedArea(Area):
    """An area whose deletions are counted. One of what is not there is counted as well: a store does not tell."""

    def __init__(self, store: ObjectMediaStore, name: str, removals: Removals) -> None:
        super().__init__(store, name)
        self._removals = removals

    async def delete(self, name: str) -> None:
        """Remove; absent is no error. Raises RecordUnavailable."""
        await super().delete(name)
        known = object_of(name)
        if known is not None:
            self._removals.of(known[0], Swept(self.name)).remove(known[1].owner)


class Leftovers:
    """A sweep for the housekeeper: what nobody needs any more in one area."""

    def __init__(self, area: Area, keeping: Keeping, removals: Removals, may_go: MayGo, *, settled_s: float = SETTLED_S) -> None:
        self._area = area
        self._keeping = keeping
        self._removals = removals
        self._may_go = may_go
        self._settled_s = settled_s

    async def __call__(self) -> int:
        """Remove what may go, write it down and say how much. Raises RecordUnavailable; what was removed until then is written down."""
        try:
            await self._sweep()
        finally:
            removed = await self._removals()
        return removed

    async def _sweep(self) -> None:
        what = Swept(self._area.name)
        async for batch in self._area.aged(older_than_s=self._settled_s):
            ages = {one.name: one.age_s for one in batch}
            for tenant, objects in _by_tenant(ages).items():
                standing = await self._keeping.look(tenant, objects)
                count = self._removals.of(tenant, what)
                for one, stands in standing.items():
                    name = object_name(tenant, one.owner, one.sha256)
                    if not self._may_go(stands, ages[name]):
                        continue
                    if stands.is_held:
                        count.held += 1
                    else:
                        await self._area.delete(name)
                        count.remove(one.owner)


def _by_tenant(names: Iterable[str]) -> dict[UUID, list[StoredObject]]:
    """What these are; names that no code of ours gives are left alone."""
    found: dict[UUID, list[StoredObject]] = defaultdict(list)
    for name in names:
        known = object_of(name)
        if known is not None:
            found[known[0]].append(known[1])
    return found


def of_intake(keep_s: float) -> MayGo:
    """What was sent goes when its work has ended or never came to be, and when it is `keep_s` old."""
    return lambda stands, age_s: not stands.is_wanted or age_s > keep_s


def of_quarantine(keep_s: float) -> MayGo:
    """Files of transforms that came to nothing go; what was denied can be looked at until it is `keep_s` old, like all the rest."""
    return lambda stands, age_s: stands.ended in (State.FAILED, State.CANCELLED) or age_s > keep_s


def of_released(stands: Standing, _age_s: float) -> bool:
    """Among the released files only what a release that stands names may lie, in the catalogue only approved faces that were not removed."""
    return not stands.is_served
