"""The log as those read it who do not write it: seals, keys, proofs, and whether the sealer keeps up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, select, text

from moderation.adapters import tables
from moderation.adapters.database import Context, Database
from moderation.adapters.log_tree import hashes_of_ranges
from moderation.errors import RecordUnavailable
from moderation.log import Checkpoint, ConsistencyProof, InclusionProof, Seal, VerifierKey
from moderation.merkle import ProofRefused, check_inclusion, consistency_ranges, inclusion_ranges

LATE_S: Final = 30.0
"""An entry that waits longer has no sealer, or one that does not keep up; half of what is promised (`moderation.log.SEALED_WITHIN`)."""

_ALL: Final = Context(auditor=True)
_NEWEST: Final = text("""
SELECT log.number, log.origin, seal.size, seal.root, seal.note, seal.sealed_at
FROM facegate.log CROSS JOIN LATERAL (SELECT * FROM facegate.seal WHERE log = log.number ORDER BY size DESC LIMIT 1) AS seal
WHERE log.number = :number OR (CAST(:number AS integer) IS NULL AND (log.origin = :origin OR CAST(:origin AS text) IS NULL))
ORDER BY log.number DESC LIMIT 1
""")
# By its id and not by its hash: an entry that was changed since has the leaf that was sealed for it, and whoever compares them sees it. Only
# where two tenants have the same id does the hash say which is whose.
_LEAF: Final = text("""
SELECT leaf.log, leaf.index AS place, leaf.hash FROM facegate.leaf
LEFT JOIN facegate.entry ON entry.tenant = CAST(:tenant AS uuid) AND entry.id = leaf.entry
WHERE leaf.entry = :entry AND (entry.id IS NOT NULL OR CAST(:tenant AS uuid) IS NULL)
ORDER BY entry.leaf = leaf.hash DESC NULLS LAST, leaf.log DESC, leaf.index LIMIT 1
""")
# The first that waits, by the order of sealing: an index leads to it, wherever the planner believes that most entries are.
_WAITING: Final = text("""
SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 FROM facegate.entry
WHERE xid >= coalesce((SELECT through FROM facegate.seal ORDER BY log DESC, size DESC LIMIT 1), '0')
  AND (SELECT true FROM facegate.leaf WHERE leaf.entry = entry.id AND leaf.hash = entry.leaf LIMIT 1) IS NULL
ORDER BY xid, id LIMIT 1
""")


class PostgresLog:
    """Implements `moderation.ports.LogReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self, *, origin: str | None = None) -> Seal | None:
        """The newest seal, or None before the first. Raises RecordUnavailable."""
        row = await self._database.run(_ALL, lambda connection: _newest(connection, origin=origin))
        return None if row is None else _seal(row)

    async def keys(self) -> Sequence[VerifierKey]:
        """The keys that seals were signed with, the newest last. Raises RecordUnavailable."""
        statement = select(tables.seal_key.c.key).order_by(tables.seal_key.c.recorded_at)
        rows = await self._database.run(_ALL, lambda connection: connection.execute(statement).all())
        return [VerifierKey.parse(key) for (key,) in rows]

    async def inclusion(self, tenant: UUID | None, entry: UUID) -> InclusionProof | None:
        """That an entry of this tenant (None: of any) is under the newest seal of its origin; None while it is not sealed.

        The leaf is what was sealed, whatever the entry says by now.

        Raises RecordUnavailable, also where the tree that is stored does not prove it: a proof that does not hold is never given.
        """
        context = _ALL if tenant is None else Context(tenant=tenant)
        return await self._database.run(context, lambda connection: _inclusion(connection, tenant, entry))

    async def consistency(self, first: int, second: int, *, origin: str | None = None) -> ConsistencyProof | None:
        """Between two sizes that need not have been sealed; None where `second` is beyond the newest seal, or before `first`.

        Raises RecordUnavailable.
        """
        return await self._database.run(_ALL, lambda connection: _consistency(connection, first, second, origin))

    async def ping(self) -> None:
        """Return if no entry waits for longer than `LATE_S` to be sealed. Raises RecordUnavailable."""
        waited_s = await self._database.run(_ALL, lambda connection: connection.execute(_WAITING).scalar())
        if waited_s is not None and waited_s > LATE_S:
            raise RecordUnavailable(f"an entry has waited for {waited_s:.0f} s to be sealed: is facegate seal running?")


def _newest(connection: Connection, *, origin: str | None = None, number: int | None = None) -> Row[Any] | None:
    return connection.execute(_NEWEST, {"origin": origin, "number": number}).one_or_none()


def _seal(row: Row[Any]) -> Seal:
    return Seal(checkpoint=Checkpoint(origin=row.origin, size=row.size, root=bytes(row.root)), note=row.note, sealed_at=row.sealed_at)


def _inclusion(connection: Connection, tenant: UUID | None, entry: UUID) -> InclusionProof | None:
    leaf = connection.execute(_LEAF, {"entry": entry, "tenant": tenant}).first()
    newest = None if leaf is None else _newest(connection, number=leaf.log)
    if leaf is None or newest is None:
        return None
    hashes = hashes_of_ranges(connection, leaf.log, inclusion_ranges(leaf.place, newest.size))
    proof = InclusionProof(entry=entry, leaf=bytes(leaf.hash), index=leaf.place, seal=_seal(newest), hashes=hashes)
    try:
        check_inclusion(leaf=proof.leaf, index=proof.index, size=newest.size, hashes=hashes, root=bytes(newest.root))
    except ProofRefused as refused:
        raise RecordUnavailable(f"the tree in the database is not the one that was sealed: {refused}") from refused
    return proof


def _consistency(connection: Connection, first: int, second: int, origin: str | None) -> ConsistencyProof | None:
    newest = _newest(connection, origin=origin)
    if newest is None or not 0 <= first <= second <= newest.size:
        return None
    hashes = hashes_of_ranges(connection, newest.number, consistency_ranges(first, second))
    return ConsistencyProof(origin=newest.origin, first=first, second=second, hashes=hashes)
