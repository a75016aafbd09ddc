"""What must be kept of the bytes at rest, and what need not, as the record in Postgres says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, text

from moderation.adapters.database import Context, Database, Question
from moderation.ports import Standing, StoredObject
from moderation.transform import State

_LOOK: Final = text("""
WITH held AS MATERIALIZED (
    SELECT h.id FROM facegate.held() h
), held_bytes AS MATERIALIZED (
    SELECT h.sha256 FROM facegate.hold h JOIN held ON held.id = h.id WHERE h.tenant = :tenant AND h.sha256 IS NOT NULL
), asked AS (
    SELECT owner, name, decode(name, 'hex') AS sha256 FROM unnest(CAST(:owners AS uuid[]), CAST(:names AS text[])) AS o (owner, name)
)
SELECT a.owner, a.name,
    a.owner IN (SELECT id FROM held) OR a.sha256 IN (SELECT sha256 FROM held_bytes) AS is_held,
    (SELECT e.state FROM facegate.transform_event e WHERE e.tenant = :tenant AND e.transform = a.owner
        AND e.state IN ('released', 'denied', 'failed', 'cancelled')) AS ended,
    EXISTS (SELECT FROM facegate.transform t WHERE t.tenant = :tenant AND t.id = a.owner)
        AND NOT EXISTS (SELECT FROM facegate.transform_event e WHERE e.tenant = :tenant AND e.transform = a.owner
                        AND e.state IN ('released', 'denied', 'failed', 'cancelled'))
        OR EXISTS (SELECT FROM facegate.job j WHERE j.tenant = :tenant AND j.id = a.owner AND j.state <> 'done') AS is_wanted,
    EXISTS (SELECT FROM facegate.release r WHERE r.tenant = :tenant AND r.transform = a.owner AND r.signed_sha256 = a.sha256
            AND NOT EXISTS (SELECT FROM facegate.release_purge p WHERE p.tenant = r.tenant AND p.transform = r.transform))
        OR EXISTS (SELECT FROM facegate.source s WHERE s.tenant = :tenant AND s.id = a.owner AND s.sha256 = a.sha256
            AND NOT EXISTS (SELECT FROM facegate.source_event e WHERE e.tenant = s.tenant AND e.source = s.id AND e.event = 'removed'))
        AS is_served
FROM asked a
""").bindparams(bindparam("tenant", type_=Uuid))

# Most tenants have no hold: only where there is one is it looked up what it covers.
_IS_HELD: Final = Question(
    name="is_held",
    types=("uuid", "uuid"),
    statement="""
SELECT EXISTS (SELECT FROM facegate.hold h WHERE h.tenant = $1) AND EXISTS (SELECT FROM facegate.held() h WHERE h.id = $2)
""",
)


class PostgresKeeping:
    """Implements `moderation.ports.Keeping`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def is_held(self, tenant: UUID, transform: UUID) -> bool:
        """Whether a hold covers this transform. Raises RecordUnavailable."""
        ((is_held,),) = await self._database.ask(tenant, _IS_HELD, (str(tenant), str(transform)))
        return bool(is_held)

    async def look(self, tenant: UUID, objects: Sequence[StoredObject]) -> Mapping[StoredObject, Standing]:
        """What the record says of each of them, of one moment. Raises RecordUnavailable."""
        where = {"tenant": tenant, "owners": [str(one.owner) for one in objects], "names": [one.sha256 for one in objects]}

        def read(connection: Connection) -> dict[StoredObject, Standing]:
            return {
                StoredObject(owner=row.owner, sha256=row.name): Standing(
                    is_held=row.is_held,
                    ended=None if row.ended is None else State(row.ended),
                    is_wanted=row.is_wanted,
                    is_served=row.is_served,
                )
                for row in connection.execute(_LOOK, where)
            }

        return await self._database.run(Context(tenant=tenant), read) if objects else {}
