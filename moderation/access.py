"""Keys: who may ask, and for what.

The text of a key is `fg_<key id>_<secret>_<checksum>`. The id is public and looks the key up; the
secret (32 random bytes) is stored as SHA-256 only; the checksum lets a client and a secret scanner
recognise a mistyped or leaked key without asking anybody.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

SECRET_BYTES: Final = 32
_NO_DIGEST: Final = "0" * 64
_PATTERN: Final = re.compile(r"fg_(?P<id>[0-9a-z]{20})_(?P<secret>[0-9a-f]{64})_(?P<check>[0-9a-f]{8})")


class Scope(StrEnum):
    """What a key may do."""

    SCREEN = "screen"
    TRANSFORM = "transform"
    AUDIT_READ = "audit.read"
    AUDIT_ALL = "audit.all"
    REVIEW = "review"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as stored: everything but the secret. `policies` are those it may name; the first is its default."""

    id: str
    tenant: UUID
    scopes: frozenset[Scope]
    policies: tuple[str, ...]
    secret_sha256: str
    subject: str | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Neither revoked nor expired at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def key_text(key_id: str, secret: bytes) -> str:
    """The text handed to its owner, once."""
    body = f"fg_{key_id}_{secret.hex()}"
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def parse_key(text: str) -> tuple[str, bytes] | None:
    """(key id, secret) of a well-formed text with a right checksum, otherwise None."""
    match = _PATTERN.fullmatch(text)
    if match is None or f"{zlib.crc32(text[: match.start('check') - 1].encode()):08x}" != match["check"]:
        return None
    return match["id"], bytes.fromhex(match["secret"])


def admit(key: Key | None, secret: bytes, now: datetime) -> Key | None:
    """`key` if `secret` is its own and it is live at `now`, otherwise None. Costs the same whether or not it exists."""
    expected = _NO_DIGEST if key is None else key.secret_sha256
    matches = hmac.compare_digest(secret_digest(secret), expected)
    return key if key is not None and matches and key.is_live(now) else None


def secret_digest(secret: bytes) -> str:
    """Lower-case hex SHA-256. Enough for 256 random bits (ASVS 11.5.1 asks 128; slow hashing is for less)."""
    return hashlib.sha256(secret).hexdigest()
