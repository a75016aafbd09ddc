"""Appeals in Postgres. An appeal is never changed: the first review of its decision that is recorded after it closes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, insert, select, text

from moderation.adapters import tables
from moderation.adapters.database import Context, Database
from moderation.adapters.entries import keep_personal, new_nonce, write_entry
from moderation.adapters.said import lock_bytes
from moderation.adapters.transform_rows import ERASED, SUBJECT, moment_of
from moderation.audit import appeal_entry
from moderation.decision import Verdict
from moderation.people import Appeal, Closing

APPEAL_REASON: Final = "appeal_reason"
"""Kind of `personal`."""
_NEWEST: Final = UUID(int=(1 << 128) - 1)


class PostgresAppeals:
    """Implements `moderation.ports.AppealLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def file(self, *, id: UUID, tenant: UUID, decision: UUID, reason: str, actor: str, subject: str | None, at: datetime) -> Appeal:
        """Write an appeal with its entry against what stands about the decision; of a decision that has an open one, that one.

        Raises RecordUnavailable; ValueError for a decision that the tenant does not have, where neither an allow nor a block stands,
        and for texts that cannot be recorded.
        """
        asked = Appeal(
            id=id, tenant=tenant, decision=decision, stood=Verdict.BLOCK, review=None, reason=reason, actor=actor, subject=subject, at=at
        )
        return await self._database.run(Context(tenant=tenant), lambda connection: _file(connection, asked))

    async def get(self, tenant: UUID, id: UUID) -> Appeal | None:
        """The appeal as it stands, or None (another tenant's as well). Raises RecordUnavailable."""
        where = {"tenant": tenant, "id": id}
        row = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(_ONE, where).scalar_one_or_none())
        return None if row is None else _appeal_of(row)

    async def find(
        self, tenant: UUID, *, decision: UUID | None = None, is_open: bool | None = None, before: UUID | None = None, limit: int = 50
    ) -> Sequence[Appeal]:
        """Newest first, at most `limit` + 1. Raises RecordUnavailable."""
        where = {"tenant": tenant, "decision": decision, "is_open": is_open, "before": before or _NEWEST, "limit": limit + 1}
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(_ALL, where).scalars().all())
        return [_appeal_of(row) for row in rows]


def _file(connection: Connection, asked: Appeal) -> Appeal:
    columns = tables.decision.c
    about = select(columns.media_sha256).where(columns.tenant == asked.tenant, columns.id == asked.decision)
    sha256 = connection.execute(about).scalar_one_or_none()
    if sha256 is None:
        raise ValueError("there is no such decision")
    lock_bytes(connection, asked.tenant, sha256)  # so that no review of this decision comes in between
    where = {"tenant": asked.tenant, "decision": asked.decision}
    known = connection.execute(_OPEN, where).scalar_one_or_none()
    if known is not None:
        return _appeal_of(known)
    standing = connection.execute(_STANDING, where).one()
    stood = Verdict(standing.verdict)
    if stood not in (Verdict.ALLOW, Verdict.BLOCK):
        raise ValueError("an appeal is against an allow or a block")
    appeal = replace(asked, stood=stood, review=standing.review)
    row = {
        "id": appeal.id,
        "tenant": appeal.tenant,
        "decision": appeal.decision,
        "stood": str(appeal.stood),
        "review": appeal.review,
        "actor": appeal.actor,
        "at": appeal.at,
    }
    connection.execute(insert(tables.appeal).values(row))
    texts = {APPEAL_REASON: appeal.reason, SUBJECT: appeal.subject}
    commitments = keep_personal(connection, about=appeal.id, tenant=appeal.tenant, texts=texts)
    canonical = appeal_entry(appeal, nonce=new_nonce(), commitments=commitments)
    write_entry(connection, id=appeal.id, tenant=appeal.tenant, kind="appeal", canonical=canonical)
    return appeal


def is_own(connection: Connection, *, tenant: UUID, decision: UUID, actor: str, subject: str) -> bool:
    """Whether an open appeal against this decision is this person's own, or is against what this person has said.

    A person is known by key and by pseudonym; where the latter was erased with a text, by that of the key which was used.
    """
    where = {"tenant": tenant, "decision": decision, "actor": actor, "subject": subject}
    return bool(connection.execute(_IS_OWN, where).scalar_one())


def _appeal_of(row: Mapping[str, Any]) -> Appeal:
    closing = row["closing"]
    return Appeal(
        id=UUID(row["id"]),
        tenant=UUID(row["tenant"]),
        decision=UUID(row["decision"]),
        stood=Verdict(row["stood"]),
        review=None if row["review"] is None else UUID(row["review"]),
        reason=row["reason"] or ERASED,
        actor=row["actor"],
        subject=row["subject"],
        at=moment_of(row["at"]),
        closing=None
        if closing is None
        else Closing(review=UUID(closing["id"]), verdict=Verdict(closing["verdict"]), at=moment_of(closing["at"])),
    )


# --- statements -----------------------------------------------------------------------------------

_IDS: Final = (bindparam("tenant", type_=Uuid), bindparam("decision", type_=Uuid))
_APPEALS: Final = f"""
SELECT to_jsonb(a) || jsonb_build_object(
    'reason', (SELECT content FROM facegate.personal p WHERE p.tenant = a.tenant AND p.id = a.id AND p.kind = '{APPEAL_REASON}'),
    'subject', (SELECT content FROM facegate.personal p WHERE p.tenant = a.tenant AND p.id = a.id AND p.kind = '{SUBJECT}'),
    'closing', to_jsonb(closing))
FROM facegate.appeal a LEFT JOIN LATERAL (
    SELECT r.id, r.verdict, r.at FROM facegate.review r
    WHERE r.tenant = a.tenant AND r.decision = a.decision AND r.recorded_at > a.recorded_at ORDER BY r.recorded_at, r.id LIMIT 1
) closing ON true
WHERE a.tenant = :tenant
"""  # noqa: S608  # constants of ours
_ONE: Final = text(f"{_APPEALS} AND a.id = :id").bindparams(bindparam("tenant", type_=Uuid), bindparam("id", type_=Uuid))
_OPEN: Final = text(f"{_APPEALS} AND a.decision = :decision AND closing.id IS NULL").bindparams(*_IDS)
_ALL: Final = text(f"""
{_APPEALS} AND a.id < :before AND (CAST(:decision AS uuid) IS NULL OR a.decision = :decision)
    AND (CAST(:is_open AS boolean) IS NULL OR (closing.id IS NULL) = :is_open)
ORDER BY a.id DESC LIMIT :limit
""").bindparams(*_IDS, bindparam("before", type_=Uuid))
_STANDING: Final = text("""
SELECT coalesce(r.verdict, d.verdict) AS verdict, r.id AS review
FROM facegate.decision d LEFT JOIN LATERAL (
    SELECT r.id, r.verdict FROM facegate.review r WHERE r.tenant = d.tenant AND r.decision = d.id
    ORDER BY r.recorded_at DESC, r.id DESC LIMIT 1
) r ON true
WHERE d.tenant = :tenant AND d.id = :decision
""").bindparams(*_IDS)

_IS_SAME: Final = f"""
{{said}}.actor = :actor OR :subject = coalesce(
    (SELECT p.content FROM facegate.personal p WHERE p.tenant = {{said}}.tenant AND p.id = {{said}}.id AND p.kind = '{SUBJECT}'),
    (SELECT k.subject FROM facegate.api_key k WHERE k.tenant = {{said}}.tenant AND k.id = {{said}}.actor))
"""  # noqa: S608  # constants of ours
_IS_OWN: Final = text(f"""
SELECT EXISTS (
    SELECT FROM facegate.appeal a JOIN facegate.decision d ON d.tenant = a.tenant AND d.id = a.decision
    WHERE a.tenant = :tenant AND a.decision = :decision
      AND NOT EXISTS (SELECT FROM facegate.review r
                      WHERE r.tenant = a.tenant AND r.decision = a.decision AND r.recorded_at > a.recorded_at)
      AND ({_IS_SAME.format(said="a")}
           OR EXISTS (SELECT FROM facegate.review r WHERE r.tenant = a.tenant AND r.id = a.review AND ({_IS_SAME.format(said="r")}))
           OR NOT d.automated AND ({_IS_SAME.format(said="d")})))
""").bindparams(*_IDS)  # noqa: S608  # constants of ours
