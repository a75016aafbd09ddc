"""What people say and see, in Postgres.

A review of a decision that belongs to a transform locks that transform's job first, as everybody does who writes about it: a
release or a pause is committed either before the review, and then answered by it, or after it, and then knows of it. Then it
locks the bytes, so that the same holds for everybody who relies on what was said of them, and for appeals: a release of any transform
with these bytes is committed either before a block of them, and then withdrawn by it, or after it, and then refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, LargeBinary, Uuid, bindparam, exists, insert, select, text
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters import queue, tables
from moderation.adapters.appeals import is_own
from moderation.adapters.database import Context, Database
from moderation.adapters.entries import keep_personal, new_nonce, write_entries, write_entry
from moderation.adapters.postgres import Named
from moderation.adapters.said import keep_word, lock_bytes
from moderation.adapters.transform_rows import REVIEW_REASON, SUBJECT, review_of
from moderation.adapters.transforms import wake_if_held
from moderation.audit import review_entry, view_entry, withdrawal_entry
from moderation.decision import Decision, Verdict
from moderation.errors import OwnAppeal
from moderation.transform import Review

_NEWEST: Final = UUID(int=(1 << 128) - 1)


class PostgresReviews:
    """Implements `moderation.ports.ReviewLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._named = Named()

    async def add(self, review: Review, *, to_wake: UUID | None = None) -> None:
        """Write a review with its entry, and what follows from it, in one transaction.

        The transform that the decision belongs to (`to_wake`, where the caller knows it) is queued again if it is held; a `block`
        withdraws its release, and every other one of the tenant's whose source, target or files are the same bytes. The same review
        again is no error. Raises RecordUnavailable; OwnAppeal while an appeal is open that this
        person filed, or that is against what this person has said; ValueError for a decision that the tenant does not have or that
        belongs to another transform than `to_wake`, for another review of the same id, and for texts that cannot be recorded.
        """
        await self._database.run(Context(tenant=review.tenant), lambda connection: _add(connection, review, to_wake))

    async def get(self, tenant: UUID, id: UUID) -> Review | None:
        """The review, or None (another tenant's as well). Raises RecordUnavailable."""
        return await self._database.run(Context(tenant=tenant), lambda connection: _get(connection, tenant, id))

    async def latest(self, tenant: UUID, decisions: Sequence[UUID]) -> Mapping[UUID, Review]:
        """The latest review of each decision that has one. Raises RecordUnavailable."""
        if not decisions:
            return {}
        where = {"tenant": tenant, "decisions": [str(decision) for decision in decisions]}
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(_LATEST, where).scalars().all())
        return {review.decision: review for review in map(review_of, rows)}

    async def waiting(self, tenant: UUID, *, before: UUID | None, limit: int) -> Sequence[Decision]:
        """Decisions that wait for a person: verdict `review`, or a transform is held because of it, and no review yet; segments not by themselves.

        Newest first, at most `limit` + 1. Raises RecordUnavailable.
        """
        where = {"tenant": tenant, "before": before or _NEWEST, "limit": limit + 1}

        def read(connection: Connection) -> list[Decision]:
            ids = connection.execute(_WAITING, where).scalars().all()
            columns = tables.decision.c
            wanted = select(tables.decision).where(columns.tenant == tenant, columns.id.in_(ids)).order_by(columns.id.desc())
            return self._named.load(connection, tenant, wanted) if ids else []

        return await self._database.run(Context(tenant=tenant), read)

    async def viewed(self, *, tenant: UUID, decision: UUID, actor: str, subject: str, rendition: str, at: datetime) -> None:
        """Write with its entry that somebody looks at the media of a decision; returns once that is committed.

        Raises RecordUnavailable; ValueError for a decision that the tenant does not have.
        """

        def write(connection: Connection) -> None:
            id: UUID = uuid7()
            values = {"id": id, "tenant": tenant, "decision": decision, "actor": actor, "rendition": rendition, "at": at}
            connection.execute(tables.review_view.insert().values(values))
            commitments = keep_personal(connection, about=id, tenant=tenant, texts={SUBJECT: subject})
            canonical = view_entry(
                id=id,
                tenant=tenant,
                decision=decision,
                actor=actor,
                subject_commitment=commitments[SUBJECT],
                rendition=rendition,
                at=at,
                nonce=new_nonce(),
            )
            write_entry(connection, id=id, tenant=tenant, kind="view", canonical=canonical)

        try:
            await self._database.run(Context(tenant=tenant), write)
        except IntegrityError as refused:
            raise ValueError("there is no such decision, or no such rendition") from refused


def _add(connection: Connection, review: Review, to_wake: UUID | None) -> None:
    sha256, transform = _named(connection, review, to_wake)
    if transform is not None:
        queue.lock(connection, review.tenant, transform)
    lock_bytes(connection, review.tenant, sha256)
    known = _get(connection, review.tenant, review.id)
    if known is not None:
        if known != review:
            raise ValueError("there is another review of this id")
        return
    if is_own(connection, tenant=review.tenant, decision=review.decision, actor=review.actor, subject=review.subject):
        raise OwnAppeal("an appeal is decided by somebody else")
    _write(connection, review)
    if review.verdict is Verdict.BLOCK:
        _withdraw(connection, review, sha256, transform)
    if transform is not None:
        wake_if_held(connection, review.tenant, transform)


def _named(connection: Connection, review: Review, to_wake: UUID | None) -> tuple[bytes, UUID | None]:
    """The bytes that the decision is about, and the transform that it belongs to, if any. Raises ValueError as `add` does."""
    decision = tables.decision.c
    wanted = select(decision.media_sha256, decision.transform).where(decision.tenant == review.tenant, decision.id == review.decision)
    found = connection.execute(wanted).one_or_none()
    if found is None:
        raise ValueError("there is no such decision")
    transform: UUID | None = found.transform
    if to_wake is not None and to_wake != transform:
        raise ValueError("the decision belongs to another transform")
    # A decision may name a transform that was never recorded here: nothing follows for that one.
    known = exists().where(tables.transform.c.tenant == review.tenant, tables.transform.c.id == transform)
    is_known = transform is not None and connection.execute(select(known)).scalar_one()
    return bytes(found.media_sha256), transform if is_known else None


def _write(connection: Connection, review: Review) -> None:
    """The row with what goes with it."""
    row = {
        "id": review.id,
        "tenant": review.tenant,
        "decision": review.decision,
        "verdict": str(review.verdict),
        "actor": review.actor,
        "at": review.at,
    }
    connection.execute(insert(tables.review).values(row))
    keep_word(connection, review)
    texts = {REVIEW_REASON: review.reason, SUBJECT: review.subject}
    commitments = keep_personal(connection, about=review.id, tenant=review.tenant, texts=texts)
    canonical = review_entry(review, nonce=new_nonce(), commitments=commitments)
    write_entry(connection, id=review.id, tenant=review.tenant, kind="review", canonical=canonical)


def _withdraw(connection: Connection, review: Review, sha256: bytes, transform: UUID | None) -> None:
    """End the releases that rest on these bytes, which are locked, and that of this transform, as far as they were not withdrawn before."""
    where = {"tenant": review.tenant, "sha256": sha256, "transform": transform}
    # By id, like everybody who withdraws several: so that no two wait for each other.
    made = {released: uuid7() for released in connection.execute(_RELEASED, where).scalars()}
    if not made:
        return
    withdrawal, common = tables.release_withdrawal, {"tenant": review.tenant, "review": review.id, "actor": review.actor, "at": review.at}
    statement = insert_or_leave(withdrawal).on_conflict_do_nothing().returning(withdrawal.c.transform, withdrawal.c.id)
    written = connection.execute(statement, [{"transform": released, "id": id, **common} for released, id in made.items()]).all()
    if written:
        canonical = {id: withdrawal_entry(id=id, transform=released, review=review, nonce=new_nonce()) for released, id in written}
        write_entries(connection, tenant=review.tenant, kind="withdrawal", canonical=canonical)


def _get(connection: Connection, tenant: UUID, id: UUID) -> Review | None:
    row = connection.execute(_ONE, {"tenant": tenant, "id": id}).scalar_one_or_none()
    return None if row is None else review_of(row)


# --- statements -----------------------------------------------------------------------------------

_WITH_TEXTS: Final = f"""
SELECT to_jsonb(r) || jsonb_build_object(
    'reason', (SELECT content FROM facegate.personal p WHERE p.tenant = r.tenant AND p.id = r.id AND p.kind = '{REVIEW_REASON}'),
    'subject', (SELECT content FROM facegate.personal p WHERE p.tenant = r.tenant AND p.id = r.id AND p.kind = '{SUBJECT}'))
"""  # noqa: S608  # constants of ours

_ONE: Final = text(f"{_WITH_TEXTS} FROM facegate.review r WHERE r.tenant = :tenant AND r.id = :id").bindparams(
    bindparam("tenant", type_=Uuid), bindparam("id", type_=Uuid)
)

_LATEST: Final = text(f"""
{_WITH_TEXTS} FROM (
    SELECT DISTINCT ON (decision) * FROM facegate.review WHERE tenant = :tenant AND decision = ANY((:decisions)::uuid[])
    ORDER BY decision, recorded_at DESC, id DESC
) r
""").bindparams(bindparam("tenant", type_=Uuid))  # noqa: S608  # constants of ours

# Whose bytes these are as OWN_BYTES of `transform_statements` has it: what a release relies on.
_RELEASED: Final = text("""
SELECT r.transform FROM facegate.release r
WHERE r.tenant = :tenant
  AND (r.transform = :transform OR r.transform IN (
      SELECT t.id FROM facegate.transform t WHERE t.tenant = :tenant AND t.source_sha256 = :sha256
      UNION SELECT t.id FROM facegate.transform t WHERE t.tenant = :tenant AND t.target_sha256 = :sha256
      UNION SELECT p.transform FROM facegate.part p WHERE p.tenant = :tenant AND p.sha256 = :sha256))
  AND NOT EXISTS (SELECT FROM facegate.release_withdrawal w WHERE w.tenant = r.tenant AND w.transform = r.transform)
ORDER BY r.transform
""").bindparams(bindparam("tenant", type_=Uuid), bindparam("transform", type_=Uuid), bindparam("sha256", type_=LargeBinary))

# A segment of a video waits with the whole. Held may also be what the pinned policy allowed and a later one would have somebody look at.
_WAITING: Final = text("""
SELECT id FROM (
    (SELECT d.id FROM facegate.decision d
     WHERE d.tenant = :tenant AND d.verdict = 'review' AND d.id < :before
       AND NOT EXISTS (SELECT FROM facegate.review r WHERE r.tenant = d.tenant AND r.decision = d.id)
       AND NOT EXISTS (SELECT FROM facegate.part p WHERE p.tenant = d.tenant AND p.transform = d.transform AND p.kind = 'segment'
                       AND p.sha256 = d.media_sha256)
     ORDER BY d.id DESC LIMIT :limit)
    UNION
    (SELECT (e.held->>'decision')::uuid AS id FROM facegate.transform_event e
     WHERE e.tenant = :tenant AND e.state = 'held' AND (e.held->>'decision')::uuid < :before
       AND NOT EXISTS (SELECT FROM facegate.transform_event l
                       WHERE l.tenant = e.tenant AND l.transform = e.transform AND l.sequence > e.sequence)
       AND NOT EXISTS (SELECT FROM facegate.review r WHERE r.tenant = e.tenant AND r.decision = (e.held->>'decision')::uuid)
     ORDER BY id DESC LIMIT :limit)
) waiting ORDER BY id DESC LIMIT :limit
""").bindparams(bindparam("tenant", type_=Uuid), bindparam("before", type_=Uuid))
