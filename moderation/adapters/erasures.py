"""Erasures in Postgres: rows of `personal` go, salt and text, through the one function that may remove them; every proof stays valid.

`facegate.erase` finds the texts, leaves what is under hold or being worked on, and writes the row of `erasure`; the entry follows in the
same transaction, and without it nothing is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, DateTime, Row, Uuid, bindparam, select, text

from moderation.adapters.database import Context, Database
from moderation.adapters.entries import new_nonce, write_entry
from moderation.adapters.tables import erasure as table
from moderation.audit import erasure_entry
from moderation.people import Erasure, Selector

_ERASE: Final = text("SELECT facegate.erase(:id, :selector, :wanted, :actor, :at)").bindparams(
    bindparam("id", type_=Uuid), bindparam("at", type_=DateTime(timezone=True))
)


class PostgresErasures:
    """Implements `moderation.ports.ErasureLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase(self, *, id: UUID, tenant: UUID, selector: Selector, text: str, actor: str, at: datetime) -> Erasure:
        """Remove the texts that are found by `text`, but for what is under hold or being worked on, with entry; what came of it.

        The same id again gives what came of it then. Raises RecordUnavailable.
        """
        asked = {"id": id, "selector": str(selector), "wanted": text, "actor": actor, "at": at}
        return await self._database.run(Context(tenant=tenant), lambda connection: _erase(connection, tenant, asked))

    async def get(self, tenant: UUID, id: UUID) -> Erasure | None:
        """The erasure, or None (another tenant's as well). Raises RecordUnavailable."""
        return await self._database.run(Context(tenant=tenant), lambda connection: _get(connection, tenant, id))

    async def find(self, tenant: UUID, *, before: UUID | None = None, limit: int = 50) -> Sequence[Erasure]:
        """Newest first, at most `limit` + 1. Raises RecordUnavailable."""
        wanted = select(table).where(table.c.tenant == tenant).order_by(table.c.id.desc()).limit(limit + 1)
        if before is not None:
            wanted = wanted.where(table.c.id < before)
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(wanted).all())
        return [_erasure_of(row) for row in rows]


def _erase(connection: Connection, tenant: UUID, asked: Mapping[str, Any]) -> Erasure:
    known = _get(connection, tenant, asked["id"])
    if known is not None:
        return known
    outcome = connection.execute(_ERASE, asked).scalar_one()
    made = _get(connection, tenant, asked["id"])
    if made is None:
        raise ValueError("an erasure has left no row")
    canonical = erasure_entry(made, nonce=new_nonce(), texts=outcome["texts"])
    write_entry(connection, id=made.id, tenant=tenant, kind="erasure", canonical=canonical)
    return made


def _get(connection: Connection, tenant: UUID, id: UUID) -> Erasure | None:
    row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.id == id)).one_or_none()
    return None if row is None else _erasure_of(row)


def _erasure_of(row: Row[Any]) -> Erasure:
    return Erasure(
        id=row.id,
        tenant=row.tenant,
        selector=Selector(row.selector),
        erased=row.erased,
        held=row.held,
        in_progress=row.in_progress,
        holds=tuple(row.holds),
        is_complete=row.is_complete,
        actor=row.actor,
        at=row.at,
    )
