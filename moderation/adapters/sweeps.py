"""Sweeps in Postgres: what a run removed because its time was over, a row and an entry for each tenant and each thing gone through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, Database, set_context
from moderation.adapters.entries import new_nonce, write_entry
from moderation.adapters.tables import sweep as table
from moderation.audit import sweep_entry
from moderation.people import Sweep, Swept

HOUSEKEEPING: Final = "housekeeping"
"""Who sweeps."""


class PostgresSweeps:
    """Implements `moderation.ports.SweepLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, sweep: Sweep) -> None:
        """Write a sweep with its entry; the same id again is no error. Raises RecordUnavailable."""
        await self._database.run(Context(tenant=sweep.tenant), lambda connection: _write(connection, sweep))


def write_swept(connection: Connection, tenant: UUID, what: Swept, removed: int, ids: Sequence[UUID] = ()) -> None:
    """Write what this transaction of a worker's has removed of one tenant's from a table, with the ids if it had any."""
    set_context(connection, Context(tenant=tenant, worker=True))
    now = utc_now()
    sweep = Sweep(
        id=uuid7(),
        tenant=tenant,
        what=what,
        removed=removed,
        held=0,
        first=min(ids, default=None),
        last=max(ids, default=None),
        since=now,
        actor=HOUSEKEEPING,
        at=now,
    )
    _write(connection, sweep)


def _write(connection: Connection, sweep: Sweep) -> None:
    row = {
        "id": sweep.id,
        "tenant": sweep.tenant,
        "what": str(sweep.what),
        "removed": sweep.removed,
        "held": sweep.held,
        "first_id": sweep.first,
        "last_id": sweep.last,
        "since": sweep.since,
        "actor": sweep.actor,
        "at": sweep.at,
    }
    if connection.execute(insert(table).values(row).on_conflict_do_nothing().returning(table.c.id)).one_or_none() is not None:
        write_entry(connection, id=sweep.id, tenant=sweep.tenant, kind="purge", canonical=sweep_entry(sweep, nonce=new_nonce()))
