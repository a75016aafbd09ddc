"""Receipts: what was committed will be in the log, promised under a short-lived key of the service.

There is a key for each day, which follows from the service key, so that every replica has the same one and the same decision has the
same receipt always, without one being stored. Before a key is used first, its public half becomes an entry of the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Final, TypeAlias
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert
from uuid_utils.compat import uuid7

from moderation.adapters.brief_memory import BriefMemory
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, Database
from moderation.adapters.entries import new_nonce, write_entry
from moderation.adapters.notes import SigningKey, signed
from moderation.adapters.service_key import ServiceKey
from moderation.adapters.tables import receipt_key
from moderation.audit import receipt_key_entry
from moderation.log import OPERATOR, SEALED_WITHIN, Receipt, receipt_text
from moderation.ports import Clock

NAME: Final = "facegate/receipts"
_ACTOR: Final = "facegate"
_DAYS: Final = 400
"""Keys of so many days are kept at hand, and made again where another is asked for."""

LeafReader: TypeAlias = Callable[[UUID, Sequence[UUID]], Awaitable[Mapping[UUID, bytes]]]
"""The leaf hashes of a tenant's entries, by their ids."""


class PostgresReceipts:
    """Implements `moderation.ports.Receipts`."""

    def __init__(self, database: Database, service_key: ServiceKey, leaves: LeafReader, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._service_key = service_key
        self._leaves = leaves
        self._clock = clock
        self._keys: BriefMemory[date, SigningKey] = BriefMemory(seconds=float("inf"), size=_DAYS)

    async def of(self, tenant: UUID, entries: Mapping[UUID, datetime]) -> Mapping[UUID, Receipt]:
        """The receipt of each entry that is there; `entries` say when each decision was made. Raises RecordUnavailable."""
        leaves = await self._leaves(tenant, tuple(entries))
        return {entry: await self._receipt(entry, leaf, entries[entry]) for entry, leaf in leaves.items()}

    async def _receipt(self, entry: UUID, leaf: bytes, at: datetime) -> Receipt:
        day = at.astimezone(UTC).date()
        key = await self._keys.get(day, lambda: self._announced(day))
        by = at + SEALED_WITHIN
        return Receipt(entry=entry, leaf=leaf, by=by, note=signed(receipt_text(entry=entry, leaf=leaf, by=by), [key]))

    async def _announced(self, day: date) -> SigningKey:
        """The key of a day, once everybody can find its public half in the log."""
        key = SigningKey(NAME, self._service_key.derive(f"receipts {day.isoformat()}"))
        await self._database.run(Context(tenant=OPERATOR), lambda connection: self._announce(connection, key))
        return key

    def _announce(self, connection: Connection, key: SigningKey) -> None:
        id, text = uuid7(), key.verifier.text
        made = insert(receipt_key).values(key=text, entry=id).on_conflict_do_nothing().returning(receipt_key.c.key)
        if connection.execute(made).first() is not None:
            entry = receipt_key_entry(id=id, tenant=OPERATOR, actor=_ACTOR, at=self._clock(), nonce=new_nonce(), key=text)
            write_entry(connection, id=id, tenant=OPERATOR, kind="receipt_key", canonical=entry)
