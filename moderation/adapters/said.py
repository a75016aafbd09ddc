"""What people said of bytes, in Postgres: it holds for all of a tenant's later work with them, whichever decision it was said about.

Who says something of bytes and who relies on what was said lock the bytes, the ones for themselves, the others together: whatever is
committed first is known to whoever comes second. A job is always locked before the bytes are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, text

from moderation.adapters.database import Question, answer
from moderation.transform import Review

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_RELY: Final = Question(
    name="rely_on_bytes",
    types=("text[]",),
    statement="SELECT pg_advisory_xact_lock_shared(hashtextextended(n.name, 0)) FROM unnest($1) AS n (name)",
)
_KEPT: Final = text("""
INSERT INTO facegate.media_review (tenant, review, sha256, stage, decision, verdict)
SELECT d.tenant, :review, d.media_sha256, d.stage, d.id, :verdict FROM facegate.decision d WHERE d.tenant = :tenant AND d.id = :decision
""").bindparams(bindparam("tenant", type_=Uuid), bindparam("decision", type_=Uuid), bindparam("review", type_=Uuid))


def lock_bytes(connection: Connection, tenant: UUID, sha256: bytes) -> None:
    """Nobody else speaks of these bytes, nor relies on what was said of them, until the transaction ends."""
    connection.execute(_LOCK, {"name": _name(tenant, sha256)})


def rely_on_bytes(connection: Connection, tenant: UUID, names: Iterable[bytes]) -> None:
    """Nobody speaks of any of these bytes until the transaction ends."""
    answer(connection, _RELY, [_name(tenant, sha256) for sha256 in sorted(set(names))])


def keep_word(connection: Connection, review: Review) -> None:
    """Keep a review by the bytes that its decision is about."""
    facts = {"tenant": review.tenant, "decision": review.decision, "review": review.id, "verdict": str(review.verdict)}
    connection.execute(_KEPT, facts)


def _name(tenant: UUID, sha256: bytes) -> str:
    return f"facegate.media/{tenant}/{sha256.hex()}"
