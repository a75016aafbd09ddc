"""Legal holds in Postgres. A hold is never changed: its release is a row of its own. What holds cover is said by `facegate.held()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, exists, select, text
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from uuid_utils.compat import uuid7

from moderation.adapters import tables
from moderation.adapters.database import Context, Database
from moderation.adapters.entries import keep_personal, new_nonce, write_entry
from moderation.adapters.transform_rows import ERASED, moment_of
from moderation.audit import hold_entry
from moderation.people import Hold

HOLD_REASON: Final = "hold_reason"
HOLD_REFERENCE: Final = "hold_reference"
"""Kinds of `personal`."""
_NEWEST: Final = UUID(int=(1 << 128) - 1)


class PostgresHolds:
    """Implements `moderation.ports.HoldLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def place(self, hold: Hold) -> None:
        """Write a hold with its entry; the same again is no error.

        Raises RecordUnavailable; ValueError where the decision or transform that it names is not there, and for texts that cannot
        be recorded. What is being erased at the moment may be gone before it.
        """
        await self._database.run(Context(tenant=hold.tenant), lambda connection: _place(connection, hold))

    async def release(self, tenant: UUID, id: UUID, *, reason: str, actor: str, at: datetime) -> Hold | None:
        """End a hold, with entry; the hold as it is then, also where it had ended before. None where there is none.

        Raises RecordUnavailable; ValueError for texts that cannot be recorded.
        """
        return await self._database.run(Context(tenant=tenant), lambda connection: _release(connection, tenant, id, reason, actor, at))

    async def get(self, tenant: UUID, id: UUID) -> Hold | None:
        """The hold as it stands, or None (another tenant's as well). Raises RecordUnavailable."""
        return await self._database.run(Context(tenant=tenant), lambda connection: _get(connection, tenant, id))

    async def find(self, tenant: UUID, *, in_force: bool | None = None, before: UUID | None = None, limit: int = 50) -> Sequence[Hold]:
        """Newest first, at most `limit` + 1. Raises RecordUnavailable."""
        where = {"tenant": tenant, "in_force": in_force, "before": before or _NEWEST, "limit": limit + 1}
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(_ALL, where).scalars().all())
        return [_hold_of(row) for row in rows]


def _place(connection: Connection, hold: Hold) -> None:
    connection.execute(_LOCK)
    _check_named(connection, hold)
    row = {
        "id": hold.id,
        "tenant": hold.tenant,
        "decision": hold.decision,
        "transform": hold.transform,
        "sha256": None if hold.sha256 is None else bytes.fromhex(hold.sha256),
        "actor": hold.actor,
        "at": hold.at,
    }
    statement = insert_or_leave(tables.hold).values(row).on_conflict_do_nothing().returning(tables.hold.c.id)
    if connection.execute(statement).one_or_none() is None:
        return
    texts = {HOLD_REASON: hold.reason, HOLD_REFERENCE: hold.reference}
    commitments = keep_personal(connection, about=hold.id, tenant=hold.tenant, texts=texts)
    canonical = hold_entry(hold, id=hold.id, event="placed", actor=hold.actor, at=hold.at, nonce=new_nonce(), commitments=commitments)
    write_entry(connection, id=hold.id, tenant=hold.tenant, kind="hold", canonical=canonical)


def _check_named(connection: Connection, hold: Hold) -> None:
    for table, id in ((tables.decision, hold.decision), (tables.transform, hold.transform)):
        is_there = select(exists().where(table.c.tenant == hold.tenant, table.c.id == id))
        if id is not None and not connection.execute(is_there).scalar_one():
            raise ValueError(f"there is no such {table.name}")


def _release(connection: Connection, tenant: UUID, id: UUID, reason: str, actor: str, at: datetime) -> Hold | None:
    connection.execute(_LOCK)
    hold = _get(connection, tenant, id)
    if hold is None or hold.released_at is not None:
        return hold
    own: UUID = uuid7()
    values = {"id": own, "tenant": tenant, "hold": id, "actor": actor, "at": at}
    connection.execute(tables.hold_release.insert().values(values))
    commitments = keep_personal(connection, about=own, tenant=tenant, texts={HOLD_REASON: reason})
    canonical = hold_entry(hold, id=own, event="released", actor=actor, at=at, nonce=new_nonce(), commitments=commitments)
    write_entry(connection, id=own, tenant=tenant, kind="hold", canonical=canonical)
    return _get(connection, tenant, id)


def _get(connection: Connection, tenant: UUID, id: UUID) -> Hold | None:
    row = connection.execute(_ONE, {"tenant": tenant, "id": id}).scalar_one_or_none()
    return None if row is None else _hold_of(row)


def _hold_of(row: Mapping[str, Any]) -> Hold:
    names_something = row["decision"] or row["transform"] or row["sha256"]
    released = row["released"]
    return Hold(
        id=UUID(row["id"]),
        tenant=UUID(row["tenant"]),
        reason=row["reason"] or ERASED,
        actor=row["actor"],
        at=moment_of(row["at"]),
        decision=None if row["decision"] is None else UUID(row["decision"]),
        transform=None if row["transform"] is None else UUID(row["transform"]),
        sha256=None if row["sha256"] is None else row["sha256"].removeprefix("\\x"),
        reference=None if names_something else row["reference"] or ERASED,
        released_at=None if released is None else moment_of(released["at"]),
        release_reason=None if released is None else row["release_reason"] or ERASED,
    )


# --- statements -----------------------------------------------------------------------------------

_LOCK: Final = text("SELECT facegate.lock_holds()")
_TEXT: Final = "(SELECT content FROM facegate.personal p WHERE p.tenant = h.tenant AND p.id = {id} AND p.kind = '{kind}')"
_HOLDS: Final = f"""
SELECT to_jsonb(h) || jsonb_build_object(
    'reason', {_TEXT.format(id="h.id", kind=HOLD_REASON)}, 'reference', {_TEXT.format(id="h.id", kind=HOLD_REFERENCE)},
    'released', to_jsonb(released), 'release_reason', {_TEXT.format(id="released.id", kind=HOLD_REASON)})
FROM facegate.hold h LEFT JOIN facegate.hold_release released ON released.tenant = h.tenant AND released.hold = h.id
WHERE h.tenant = :tenant
"""  # noqa: S608  # constants of ours
_ONE: Final = text(f"{_HOLDS} AND h.id = :id").bindparams(bindparam("tenant", type_=Uuid), bindparam("id", type_=Uuid))
_ALL: Final = text(f"""
{_HOLDS} AND h.id < :before AND (CAST(:in_force AS boolean) IS NULL OR (released.id IS NULL) = :in_force)
ORDER BY h.id DESC LIMIT :limit
""").bindparams(bindparam("tenant", type_=Uuid), bindparam("before", type_=Uuid))
