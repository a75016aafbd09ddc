"""What shadow classifiers gave, in Postgres: a row and an entry for each of them and each decision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, insert
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from uuid_utils.compat import uuid7

from moderation.adapters.database import Context, Database
from moderation.adapters.decision_rows import classifier_document, classifier_id, sheet_text, thresholds_row
from moderation.adapters.entries import new_nonce, write_entries
from moderation.adapters.tables import classifier, shadow, thresholds
from moderation.audit import shadow_entry
from moderation.shadow import Shadowed

_RANDOM: Final = (1 << 80) - 1
"""What of a UUIDv7 is not its time."""


def id_beside(decision: UUID) -> UUID:
    """A new UUIDv7 of the time of this one."""
    return UUID(int=decision.int & ~_RANDOM | uuid7().int & _RANDOM)


class PostgresShadows:
    """Implements `moderation.shadow.ShadowLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, tenant: UUID, heard: Sequence[Shadowed]) -> None:
        """Commit all of it with its entries. Raises RecordUnavailable."""
        await self._database.run(Context(tenant=tenant), lambda connection: _write(connection, tenant, heard))


def _write(connection: Connection, tenant: UUID, heard: Sequence[Shadowed]) -> None:
    versions = {classifier_id(one.sheet.classifier): one.sheet.classifier for one in heard if one.sheet is not None}
    for id, version in sorted(versions.items()):
        connection.execute(insert_or_leave(classifier).values(id=id, **classifier_document(version)).on_conflict_do_nothing())
    applied = dict(thresholds_row(one.thresholds) for one in heard if one.sheet is not None)
    for id, content in sorted(applied.items()):
        row = {"id": id, "tenant": tenant, "applied": json.loads(content)}
        connection.execute(insert_or_leave(thresholds).values(row).on_conflict_do_nothing())
    connection.execute(insert(shadow), [_row(one) for one in heard])
    entries = {
        one.id: shadow_entry(
            id=one.id,
            tenant=tenant,
            decision=one.decision,
            name=one.name,
            sheet=one.sheet,
            fault=one.fault,
            at=one.at,
            nonce=new_nonce(),
        )
        for one in heard
    }
    write_entries(connection, tenant=tenant, kind="shadow", canonical=entries)


def _row(one: Shadowed) -> dict[str, Any]:
    sheet = one.sheet
    return {
        "id": one.id,
        "tenant": one.tenant,
        "decision": one.decision,
        "name": one.name,
        "classifier": None if sheet is None else classifier_id(sheet.classifier),
        "thresholds": None if sheet is None else thresholds_row(one.thresholds)[0],
        "sheet": None if sheet is None else json.loads(sheet_text(sheet)),
        "fault": one.fault,
        "at": one.at,
    }
