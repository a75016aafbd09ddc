"""What goes with a row into the same transaction: its entry, and the personal data that the entry only commits to."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import Connection, insert

from moderation.adapters.tables import entry, personal
from moderation.audit import NONCE_BYTES, commitment


def new_nonce() -> bytes:
    """Sixteen random bytes for one entry or one commitment."""
    return secrets.token_bytes(NONCE_BYTES)


def write_entry(connection: Connection, *, id: UUID, tenant: UUID, kind: str, canonical: bytes) -> None:
    """Write one entry."""
    connection.execute(insert(entry).values(id=id, tenant=tenant, kind=kind, canonical=canonical))


def write_entries(connection: Connection, *, tenant: UUID, kind: str, canonical: Mapping[UUID, bytes]) -> None:
    """Write many entries of one kind, by the ids of what they are about."""
    connection.execute(insert(entry), [{"id": id, "tenant": tenant, "kind": kind, "canonical": one} for id, one in canonical.items()])


def keep_personal(connection: Connection, *, about: UUID, tenant: UUID, texts: Mapping[str, str | None]) -> dict[str, str]:
    """Put each text where it can be erased, and give the commitments for the entry, by kind. What is None leaves nothing."""
    kept = {kind: (new_nonce(), content) for kind, content in texts.items() if content is not None}
    if kept:
        rows = [{"id": about, "tenant": tenant, "kind": kind, "salt": salt, "content": content} for kind, (salt, content) in kept.items()]
        connection.execute(insert(personal), rows)
    return {kind: commitment(salt, content) for kind, (salt, content) in kept.items()}
