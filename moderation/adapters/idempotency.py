"""Idempotency keys in Postgres.

A claim holds a lease while its request is in intake. Once a decision, a job or another resource of the claimed id is
committed, the key is known for as long as it is kept; a claim whose lease ran out without either is
taken over under the same id, so that a retry continues what a dead process began.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, Connection, Interval, Row, Uuid, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from moderation.adapters.database import Context, Database
from moderation.adapters.sweeps import write_swept
from moderation.adapters.tables import appeal, decision, erasure, hold, idempotency, job, review, source, transform
from moderation.people import Swept
from moderation.ports import Begun

KEPT_FOR: Final = timedelta(hours=24)
LEASE: Final = timedelta(seconds=120)
_SWEEP: Final = 1000
_MINE: Final = idempotency.c
_RESOURCES: Final = (decision, job, transform, review, source, appeal, hold, erasure)


class PostgresIdempotency:
    """Implements `moderation.ports.Idempotency`. `lease_s` bounds how long a request may stay in intake."""

    def __init__(self, database: Database, *, lease_s: float = LEASE.total_seconds(), kept_for: timedelta = KEPT_FOR) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_s)
        self._kept_for = kept_for

    async def begin(self, tenant: UUID, key: str, fingerprint: str, resource: UUID) -> tuple[Begun, UUID]:
        """Claim `key` for `resource`; the id in the answer is the one to use. Raises RecordUnavailable."""
        return await self._database.run(
            Context(tenant=tenant),
            lambda connection: begin_within(connection, tenant, key, fingerprint, resource, lease=self._lease, kept_for=self._kept_for),
        )

    async def forget(self, tenant: UUID, key: str, resource: UUID, *, recorded: bool = False) -> None:
        """Release a claim after a 5xx or a refusal that is not stored. Raises RecordUnavailable.

        What is committed stays known, unless `recorded` says that it is a fault of ours which a retry must not meet again.
        """
        statement = delete(idempotency).where(_MINE.tenant == tenant, _MINE.key == key, _MINE.resource == resource)
        if not recorded:
            statement = statement.where(~_is_recorded(_MINE.tenant, _MINE.resource))
        await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement))

    async def purge(self) -> int:
        """Delete what is kept no longer, of all tenants; says how many. Raises RecordUnavailable."""
        expired = select(_MINE.tenant, _MINE.key).where(_is_expired(self._kept_for)).limit(_SWEEP)
        statement = delete(idempotency).where(func.row(_MINE.tenant, _MINE.key).in_(expired)).returning(_MINE.tenant)

        def sweep(connection: Connection) -> int:
            """A key is a text of the caller's: how many there were is all that is kept."""
            gone = Counter(connection.execute(statement).scalars())
            for tenant, count in gone.items():
                write_swept(connection, tenant, Swept.IDEMPOTENCY, count)
            return gone.total()

        total = 0
        while True:
            gone = await self._database.run(Context(worker=True), sweep)
            total += gone
            if gone < _SWEEP:
                return total


def begin_within(
    connection: Connection,
    tenant: UUID,
    key: str,
    fingerprint: str,
    resource: UUID,
    *,
    lease: timedelta = LEASE,
    kept_for: timedelta = KEPT_FOR,
    keep_lapsed_id: bool = True,
) -> tuple[Begun, UUID]:
    """`begin` in a transaction of the caller's, whose commit makes the claim.

    A claim that lapsed is taken over under its own id, or under `resource` without `keep_lapsed_id`.
    """
    claim = {"tenant": tenant, "key": key, "fingerprint": fingerprint, "resource": resource, "lease": lease}
    look = {"tenant_": tenant, "key_": key, "kept_for": kept_for}
    while True:
        # Waits for whoever is inserting the same key; afterwards the row is there to be read, or it may be inserted.
        if connection.execute(_CLAIM, claim).one_or_none() is not None:
            return Begun.NEW, resource
        row = connection.execute(_LOOK, look).one_or_none()
        if row is None:
            continue
        if row.expired:
            _claim_again(connection, row, fingerprint, resource, lease, afresh=True)
            return Begun.NEW, resource
        if row.fingerprint != fingerprint:
            return Begun.MISMATCH, row.resource
        # Asked only now that the row is locked: a statement sees what was committed before it began.
        if connection.execute(_RECORDED, {"tenant_": row.tenant, "resource_": row.resource}).scalar_one():
            return Begun.KNOWN, row.resource
        if not row.lapsed:
            return Begun.IN_PROGRESS, row.resource
        mine = row.resource if keep_lapsed_id else resource
        _claim_again(connection, row, fingerprint, mine, lease, afresh=False)
        return Begun.NEW, mine


def known_within(connection: Connection, tenant: UUID, key: str, fingerprint: str) -> tuple[Begun, UUID] | None:
    """What `begin` would answer about a key that was used before: KNOWN or MISMATCH; None for one that may be claimed, or is in intake."""
    row = connection.execute(_LOOK, {"tenant_": tenant, "key_": key, "kept_for": KEPT_FOR}).one_or_none()
    if row is None or row.expired:
        return None
    if row.fingerprint != fingerprint:
        return Begun.MISMATCH, row.resource
    is_recorded = connection.execute(_RECORDED, {"tenant_": tenant, "resource_": row.resource}).scalar_one()
    return (Begun.KNOWN, row.resource) if is_recorded else None


def _claim_again(connection: Connection, row: Row[Any], fingerprint: str, resource: UUID, lease: timedelta, *, afresh: bool) -> None:
    values: dict[str, Any] = {"fingerprint": fingerprint, "resource": resource, "lease_until": func.clock_timestamp() + lease}
    if afresh:
        values["created_at"] = func.clock_timestamp()
    connection.execute(update(idempotency).where(_MINE.tenant == row.tenant, _MINE.key == row.key).values(values))


def _is_recorded(tenant: Any, resource: Any) -> ColumnElement[bool]:
    """Whether something of this id is committed."""
    return or_(*(exists().where(table.c.tenant == tenant, table.c.id == resource) for table in _RESOURCES))


def _is_expired(kept_for: timedelta | BindParameter[timedelta]) -> ColumnElement[bool]:
    return _MINE.created_at < func.clock_timestamp() - kept_for


# Built once: every request with a key runs them, and putting them together costs more than running them.
_CLAIM: Final = (
    insert(idempotency)
    .values(
        tenant=bindparam("tenant"),
        key=bindparam("key"),
        fingerprint=bindparam("fingerprint"),
        resource=bindparam("resource"),
        lease_until=func.clock_timestamp() + bindparam("lease", type_=Interval),
    )
    .on_conflict_do_nothing()
    .returning(_MINE.key)
)
_LOOK: Final = (
    select(
        idempotency,
        _is_expired(bindparam("kept_for", type_=Interval)).label("expired"),
        (_MINE.lease_until < func.clock_timestamp()).label("lapsed"),
    )
    .where(_MINE.tenant == bindparam("tenant_"), _MINE.key == bindparam("key_"))
    .with_for_update()
)
_RECORDED: Final = select(_is_recorded(bindparam("tenant_", type_=Uuid), bindparam("resource_", type_=Uuid)))
