"""Keys in Postgres: made once, never changed, revoked by an event."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from sqlalchemy import Connection, Row, Select, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.access import SECRET_BYTES, Key, Scope, key_text, secret_digest
from moderation.adapters.brief_memory import BriefMemory
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, Database
from moderation.adapters.entries import keep_personal, new_nonce, write_entry
from moderation.adapters.service_key import ServiceKey, ServiceKeyRefused
from moderation.adapters.tables import api_key, api_key_event, tenant
from moderation.audit import key_entry, rfc3339
from moderation.canonical import Json
from moderation.errors import RecordUnavailable
from moderation.ports import Clock

_ID_LETTERS: Final = string.digits + string.ascii_lowercase
_ID_LENGTH: Final = 20
_SUBJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
"""A pseudonym, which is read in reports and tables as well."""
_SIGV4_SECRET_BYTES: Final = 30
_NEEDS_POLICY: Final = frozenset({Scope.SCREEN, Scope.TRANSFORM})
_TENANTS: Final = UUID("6f6c3d2e-0b0a-5b1f-9a54-7d2f6f0c9d11")
"""The name space in which a tenant's name becomes its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigV4Pair:
    """What an AWS client is configured with."""

    access_key_id: str
    secret_access_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeKey:
    """A new key and, this one time, its secrets."""

    key: Key
    text: str
    sigv4: SigV4Pair | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """A key as it is shown to an operator."""

    key: Key
    created_at: datetime
    has_sigv4: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    key: Key
    sealed: bytes | None


def tenant_id(name: str) -> UUID:
    """The id of the tenant of this name; the same everywhere, so that a tenant is found before anything of it can be read."""
    return uuid5(_TENANTS, name)


class PostgresKeys:
    """Implements `moderation.ports.KeyRing`, and makes, lists and revokes keys.

    What is found is remembered for `remember_s`: a revoked key stops within that time in every process.
    Without a `service_key`, SigV4 pairs are neither made nor found.
    """

    def __init__(
        self, database: Database, *, service_key: ServiceKey | None = None, remember_s: float = 1.0, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._service_key = service_key
        self._memory: BriefMemory[str, _Found | None] = BriefMemory(seconds=remember_s)
        self._clock = clock

    async def find(self, key_id: str) -> Key | None:
        """The key as stored, live or not, or None. Raises RecordUnavailable."""
        found = await self._find(key_id)
        return None if found is None else found.key

    async def find_sigv4(self, access_key_id: str) -> tuple[Key, str] | None:
        """The key and its secret for SigV4, or None. Raises RecordUnavailable (also if the service key is not the right one)."""
        found = await self._find(access_key_id)
        if found is None or found.sealed is None or self._service_key is None:
            return None
        try:
            return found.key, self._service_key.open(found.sealed, _sealed_for(found.key.tenant, found.key.id)).decode()
        except ServiceKeyRefused as error:
            raise RecordUnavailable(f"key {access_key_id}: {error}") from error

    async def make_tenant(self, name: str) -> UUID:
        """The id of the tenant of this name, which exists from now on. Raises RecordUnavailable, ValueError on an empty name."""
        if not name or not name.isprintable():
            raise ValueError("a tenant has a printable name")
        id = tenant_id(name)
        statement = insert_or_leave(tenant).values(id=id, name=name).on_conflict_do_nothing()
        await self._database.run(Context(tenant=id), lambda connection: connection.execute(statement))
        return id

    async def make(
        self,
        *,
        tenant: UUID,
        scopes: Iterable[Scope],
        policies: Sequence[str],
        actor: str,
        subject: str | None = None,
        expires_at: datetime | None = None,
        sigv4: bool = False,
    ) -> MadeKey:
        """Commit a new key with its event and entry, and hand out its secrets, which cannot be had again.

        Raises RecordUnavailable; ValueError without a scope, without a policy for a key that screens or transforms,
        with a subject that could be more than a pseudonym, with an end in the past, for a tenant that does not exist, or for SigV4 without a service key.
        """
        at = self._clock()
        wanted = frozenset(scopes)
        _check(wanted, policies, subject, expires_at, at)
        secret = secrets.token_bytes(SECRET_BYTES)
        key = Key(
            id="".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH)),
            tenant=tenant,
            scopes=wanted,
            policies=tuple(policies),
            secret_sha256=secret_digest(secret),
            subject=subject,
            expires_at=expires_at,
        )
        pair, sealed = self._sigv4_pair(key) if sigv4 else (None, None)
        try:
            await self._database.run(Context(tenant=tenant), lambda connection: _insert(connection, key, sealed, actor=actor, at=at))
        except IntegrityError as error:
            raise ValueError("there is no such tenant") from error
        self._memory.forget(key.id)
        return MadeKey(key=key, text=key_text(key.id, secret), sigv4=pair)

    async def list(self, tenant: UUID) -> Sequence[ListedKey]:
        """All keys of a tenant, newest first, revoked ones too. Raises RecordUnavailable."""
        statement = _found().where(api_key.c.tenant == tenant).order_by(api_key.c.created_at.desc(), api_key.c.id)
        rows = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).all())
        return [ListedKey(key=_key(row), created_at=row.created_at, has_sigv4=row.sigv4_secret is not None) for row in rows]

    async def revoke(self, tenant: UUID, key_id: str, actor: str) -> bool:
        """Commit that a key is revoked; False if the tenant has no such key, or it was revoked before. Raises RecordUnavailable."""
        at = self._clock()
        done = await self._database.run(Context(tenant=tenant), lambda connection: _revoke(connection, tenant, key_id, actor, at))
        self._memory.forget(key_id)
        return done

    async def _find(self, key_id: str) -> _Found | None:
        return await self._memory.get(key_id, lambda: self._load(key_id))

    async def _load(self, key_id: str) -> _Found | None:
        statement = _found().where(api_key.c.id == key_id)
        row = await self._database.run(Context(key_id=key_id), lambda connection: connection.execute(statement).one_or_none())
        return None if row is None else _Found(key=_key(row), sealed=row.sigv4_secret)

    def _sigv4_pair(self, key: Key) -> tuple[SigV4Pair, bytes]:
        if self._service_key is None:
            raise ValueError("a SigV4 key needs the service key, since its secret must be recoverable")
        secret = secrets.token_urlsafe(_SIGV4_SECRET_BYTES)
        sealed = self._service_key.seal(secret.encode(), _sealed_for(key.tenant, key.id))
        return SigV4Pair(access_key_id=key.id, secret_access_key=secret), sealed


def _sealed_for(tenant: UUID, key_id: str) -> str:
    """Bound to its row, so that a sealed secret copied to another key opens nothing."""
    return f"sigv4/{tenant}/{key_id}"


def _check(scopes: frozenset[Scope], policies: Sequence[str], subject: str | None, expires_at: datetime | None, now: datetime) -> None:
    if not scopes:
        raise ValueError("a key without a scope opens nothing")
    if scopes & _NEEDS_POLICY and not policies:
        raise ValueError("a key that screens or transforms names at least one policy")
    if len(set(policies)) != len(policies):
        raise ValueError("a policy is named twice")
    if subject is not None and _SUBJECT.fullmatch(subject) is None:
        raise ValueError("a subject is 1 to 100 letters, digits and . _ - @, a letter or digit first")
    if expires_at is not None and expires_at <= now:
        raise ValueError("the key would be expired already")


def _found() -> Select[tuple[object, ...]]:
    revoked_at = (
        select(api_key_event.c.at)
        .where(api_key_event.c.key_id == api_key.c.id, api_key_event.c.tenant == api_key.c.tenant, api_key_event.c.event == "revoked")
        .order_by(api_key_event.c.at)
        .limit(1)
        .scalar_subquery()
    )
    return select(api_key, revoked_at.label("revoked_at"))


def _key(row: Row[tuple[object, ...]]) -> Key:
    return Key(
        id=row.id,
        tenant=row.tenant,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        policies=tuple(row.policies),
        secret_sha256=row.secret_sha256,
        subject=row.subject,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _insert(connection: Connection, key: Key, sealed: bytes | None, *, actor: str, at: datetime) -> None:
    connection.execute(
        insert(api_key).values(
            id=key.id,
            tenant=key.tenant,
            scopes=sorted(key.scopes),
            policies=list(key.policies),
            secret_sha256=key.secret_sha256,
            sigv4_secret=sealed,
            subject=key.subject,
            created_at=at,
            expires_at=key.expires_at,
        )
    )
    event: UUID = uuid7()
    facts: dict[str, Json] = {
        "id": key.id,
        "scopes": sorted(key.scopes),
        "policies": list(key.policies),
        "sigv4": sealed is not None,
        # A subject names a person: the entry holds a commitment, salt and text lie where they can be erased.
        "subject": keep_personal(connection, about=event, tenant=key.tenant, texts={"subject": key.subject}).get("subject"),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
    }
    _record(connection, key.tenant, "created", actor=actor, at=at, event=event, facts=facts)


def _revoke(connection: Connection, tenant: UUID, key_id: str, actor: str, at: datetime) -> bool:
    row = connection.execute(_found().where(api_key.c.tenant == tenant, api_key.c.id == key_id)).one_or_none()
    if row is None or row.revoked_at is not None:
        return False
    _record(connection, tenant, "revoked", actor=actor, at=at, event=uuid7(), facts={"id": key_id})
    return True


def _record(connection: Connection, tenant: UUID, what: str, *, actor: str, at: datetime, event: UUID, facts: Mapping[str, Json]) -> None:
    connection.execute(insert(api_key_event).values(id=event, tenant=tenant, key_id=facts["id"], event=what, actor=actor, at=at))
    canonical = key_entry(id=event, tenant=tenant, event=what, actor=actor, at=at, nonce=new_nonce(), key=facts)
    write_entry(connection, id=event, tenant=tenant, kind="key", canonical=canonical)
