"""The catalogue of approved faces in Postgres: entries come and go by events, none is ever changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, LargeBinary, Uuid, bindparam, insert, text
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters import tables
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, Database
from moderation.adapters.entries import keep_personal, new_nonce, write_entry
from moderation.adapters.said import lock_bytes
from moderation.adapters.transform_rows import CONSENT, LABEL, source_of, source_row, source_texts
from moderation.audit import source_entry
from moderation.errors import RecordUnavailable
from moderation.ports import Clock
from moderation.transform import CatalogueSource

_NEWEST: Final = UUID(int=(1 << 128) - 1)


class PostgresSources:
    """Implements `moderation.ports.SourceCatalogue`."""

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def add(self, source: CatalogueSource) -> CatalogueSource:
        """Approve with event and entry; the same bytes again give the live entry that there is.

        Raises RecordUnavailable; ValueError where the decision that it names does not allow exactly these bytes as a source, where a
        person blocks these bytes, and for an entry that was removed: bytes come back under an id of their own, by a decision of their own.
        """
        try:
            return await self._database.run(Context(tenant=source.tenant), lambda connection: _add(connection, source))
        except IntegrityError as refused:
            raise RecordUnavailable("the record refuses this entry of the catalogue") from refused

    async def remove(self, tenant: UUID, id: UUID, actor: str) -> CatalogueSource | None:
        """Remove with event and entry, also what a person blocks; what it was, None if there is no such entry or it was removed before.

        Raises RecordUnavailable.
        """
        at = self._clock()
        return await self._database.run(Context(tenant=tenant), lambda connection: _remove(connection, tenant, id, actor, at))

    async def find(self, tenant: UUID, sha256: str) -> CatalogueSource | None:
        """The live entry of these bytes. Raises RecordUnavailable."""
        return await self._database.run(Context(tenant=tenant), lambda connection: _find(connection, tenant, sha256))

    async def get(self, tenant: UUID, id: UUID) -> CatalogueSource | None:
        """The live entry of this id. Raises RecordUnavailable."""
        where = {"tenant": tenant, "id": id}
        row = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(_ONE, where).scalar_one_or_none())
        return None if row is None else source_of(row)

    async def list(self, tenant: UUID, *, before: UUID | None = None, limit: int = 50) -> Sequence[CatalogueSource]:
        """The live entries, newest first, at most `limit` + 1. Raises RecordUnavailable."""
        where = {"tenant": tenant, "before": before or _NEWEST, "limit": limit + 1}
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(_ALL, where).scalars().all())
        return [source_of(row) for row in rows]


def _add(connection: Connection, source: CatalogueSource) -> CatalogueSource:
    # One at a time for the same bytes: the run-time role may not lock rows of an append-only table.
    lock_bytes(connection, source.tenant, bytes.fromhex(source.sha256))
    known = _find(connection, source.tenant, source.sha256)
    if known is not None:
        return known
    named = {"tenant": source.tenant, "decision": source.decision, "sha256": bytes.fromhex(source.sha256)}
    if not connection.execute(_IS_ALLOWED, named).scalar_one():
        raise ValueError("the decision does not allow these bytes as a source")
    if _removed(connection, source):
        raise ValueError("this entry of the catalogue was removed")
    connection.execute(insert(tables.source).values(source_row(source)))
    commitments = keep_personal(connection, about=source.id, tenant=source.tenant, texts=source_texts(source))
    _write_event(connection, source, "approved", source.actor, source.created_at, commitments)
    return source


def _removed(connection: Connection, source: CatalogueSource) -> bool:
    """Whether there was this very entry before."""
    row = connection.execute(_ANY, {"tenant": source.tenant, "id": source.id}).scalar_one_or_none()
    return row is not None and source_of(row).sha256 == source.sha256


def _remove(connection: Connection, tenant: UUID, id: UUID, actor: str, at: datetime) -> CatalogueSource | None:
    row = connection.execute(_ANY, {"tenant": tenant, "id": id}).scalar_one_or_none()
    if row is None:
        return None
    source = source_of(row)
    lock_bytes(connection, tenant, bytes.fromhex(source.sha256))  # a release that relies on it comes before, or knows
    return source if _write_event(connection, source, "removed", actor, at, None) else None


def _write_event(
    connection: Connection, source: CatalogueSource, event: str, actor: str, at: datetime, commitments: dict[str, str] | None
) -> bool:
    """The event with its entry; False if the same has happened before."""
    id: UUID = uuid7()
    values = {"id": id, "tenant": source.tenant, "source": source.id, "event": event, "actor": actor, "at": at}
    statement = insert_or_leave(tables.source_event).values(values).on_conflict_do_nothing().returning(tables.source_event.c.id)
    if connection.execute(statement).one_or_none() is None:
        return False
    canonical = source_entry(source, id=id, event=event, actor=actor, at=at, nonce=new_nonce(), commitments=commitments)
    write_entry(connection, id=id, tenant=source.tenant, kind="source", canonical=canonical)
    return True


def _find(connection: Connection, tenant: UUID, sha256: str) -> CatalogueSource | None:
    row = connection.execute(_OF_BYTES, {"tenant": tenant, "sha256": bytes.fromhex(sha256)}).scalar_one_or_none()
    return None if row is None else source_of(row)


# --- statements -----------------------------------------------------------------------------------

_SOURCES: Final = f"""
SELECT to_jsonb(s) || jsonb_build_object(
    '{CONSENT}', (SELECT content FROM facegate.personal p WHERE p.tenant = s.tenant AND p.id = s.id AND p.kind = '{CONSENT}'),
    '{LABEL}', (SELECT content FROM facegate.personal p WHERE p.tenant = s.tenant AND p.id = s.id AND p.kind = '{LABEL}'))
FROM facegate.source s WHERE s.tenant = :tenant
"""  # noqa: S608  # constants of ours

_IS_LIVE: Final = """
NOT EXISTS (SELECT FROM facegate.source_event e WHERE e.tenant = s.tenant AND e.source = s.id AND e.event = 'removed')
AND NOT EXISTS (SELECT FROM facegate.blocks(s.tenant, s.sha256))
"""

_ANY: Final = text(f"{_SOURCES} AND s.id = :id").bindparams(bindparam("tenant", type_=Uuid), bindparam("id", type_=Uuid))
_ONE: Final = text(f"{_SOURCES} AND s.id = :id AND {_IS_LIVE}").bindparams(bindparam("tenant", type_=Uuid), bindparam("id", type_=Uuid))
_OF_BYTES: Final = text(f"{_SOURCES} AND s.sha256 = :sha256 AND {_IS_LIVE}").bindparams(
    bindparam("tenant", type_=Uuid), bindparam("sha256", type_=LargeBinary)
)
_ALL: Final = text(f"{_SOURCES} AND s.id < :before AND {_IS_LIVE} ORDER BY s.id DESC LIMIT :limit").bindparams(
    bindparam("tenant", type_=Uuid), bindparam("before", type_=Uuid)
)
_IS_ALLOWED: Final = text("""
SELECT EXISTS (
    SELECT FROM facegate.decision d
    WHERE d.tenant = :tenant AND d.id = :decision AND d.stage = 'source' AND d.media_sha256 = :sha256
      AND NOT EXISTS (SELECT FROM facegate.blocks(d.tenant, d.media_sha256))
      AND (d.verdict = 'allow' OR d.verdict = 'review' AND 'allow' = (
          SELECT r.verdict FROM facegate.review r WHERE r.tenant = d.tenant AND r.decision = d.id
          ORDER BY r.recorded_at DESC, r.id DESC LIMIT 1)))
""").bindparams(bindparam("tenant", type_=Uuid), bindparam("decision", type_=Uuid), bindparam("sha256", type_=LargeBinary))
