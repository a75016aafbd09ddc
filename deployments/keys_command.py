"""`facegate keys`: make, list and revoke keys, straight in the record, so that it works without a running service."""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from deployments.databases import databases
from deployments.settings import Settings, SettingsRefused
from deployments.webhooks import secret_text, webhook_secret
from moderation.access import Scope
from moderation.adapters.database import Database
from moderation.adapters.keys import ListedKey, MadeKey, PostgresKeys, tenant_id
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.service_key import ServiceKeyRefused, load_service_key

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new key, and which of the policies that it may name its tenant does not have yet."""

    made: MadeKey
    tenant: str
    missing: tuple[str, ...]


def create(
    settings: Settings,
    *,
    tenant: str,
    scopes: Sequence[str],
    policies: Sequence[str],
    subject: str | None,
    days: int | None,
    sigv4: bool,
) -> Created:
    """Make a key, and its tenant if there is none. Raises SettingsRefused on what cannot be, RecordUnavailable."""

    async def make(keys: PostgresKeys, shelf: PostgresPolicies) -> Created:
        owner = await keys.make_tenant(tenant)
        made = await keys.make(
            tenant=owner,
            scopes=[_scope(name) for name in scopes],
            policies=policies,
            actor=_operator(),
            subject=subject,
            expires_at=expires_at,
            sigv4=sigv4,
        )
        missing = tuple([name for name in policies if await shelf.latest(owner, name) is None])
        return Created(made=made, tenant=tenant, missing=missing)

    try:
        expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
        return _with_keys(settings, make)
    except OverflowError as fault:
        raise SettingsRefused(f"{days} days from now is beyond the calendar") from fault
    except ValueError as fault:
        raise SettingsRefused(str(fault)) from fault


def list_keys(settings: Settings, *, tenant: str) -> Sequence[ListedKey]:
    """All keys of a tenant, newest first. Raises RecordUnavailable."""
    return _with_keys(settings, lambda keys, _: keys.list(tenant_id(tenant)))


def revoke(settings: Settings, *, tenant: str, key_id: str) -> bool:
    """Revoke a key; False if there is no such live key. It stops within a second. Raises RecordUnavailable."""
    return _with_keys(settings, lambda keys, _: keys.revoke(tenant_id(tenant), key_id, _operator()))


def secret_of_webhooks(settings: Settings, *, tenant: str) -> str:
    """What a tenant's receivers check callbacks with; the same for as long as the service key is. Raises SettingsRefused."""
    try:
        key = load_service_key(settings.service_key, make=True)
    except ServiceKeyRefused as fault:
        raise SettingsRefused(str(fault)) from fault
    return secret_text(webhook_secret(key, tenant_id(tenant)))


def show_made(created: Created, out: Console, *, as_json: bool) -> None:
    """Print a new key; its secrets are never shown again."""
    made = created.made
    document = {"id": made.key.id, "key": made.text}
    if made.sigv4 is not None:
        document |= {"access_key_id": made.sigv4.access_key_id, "secret_access_key": made.sigv4.secret_access_key}
    if as_json:
        out.print(json.dumps(document), soft_wrap=True, highlight=False, markup=False)
        return
    for name, value in document.items():
        out.print(f"{name}: {value}", soft_wrap=True, highlight=False, markup=False)
    out.print("Keep it now: it is stored as a hash and cannot be shown again.")
    for name in created.missing:
        out.print(
            f"Tenant {created.tenant} has no policy {name} yet, so nothing can be screened under it:"
            f" facegate policy apply FILE --key KEY, with a key of scope admin of this tenant.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def show_list(keys: Sequence[ListedKey], out: Console, *, as_json: bool) -> None:
    """Print keys without secrets."""
    rows = [
        {
            "id": listed.key.id,
            "scopes": sorted(listed.key.scopes),
            "policies": list(listed.key.policies),
            "subject": listed.key.subject,
            "sigv4": listed.has_sigv4,
            "created_at": listed.created_at.isoformat(),
            "expires_at": listed.key.expires_at and listed.key.expires_at.isoformat(),
            "revoked_at": listed.key.revoked_at and listed.key.revoked_at.isoformat(),
        }
        for listed in keys
    ]
    if as_json:
        for row in rows:
            out.print(json.dumps(row), soft_wrap=True, highlight=False, markup=False)
        return
    table = Table("id", "scopes", "policies", "state")
    for listed in keys:
        state = "revoked" if listed.key.revoked_at else "live" if listed.key.is_live(datetime.now(UTC)) else "expired"
        table.add_row(listed.key.id, " ".join(sorted(listed.key.scopes)), " ".join(listed.key.policies), state)
    out.print(table)


def _with_keys(settings: Settings, work: Callable[[PostgresKeys, PostgresPolicies], Awaitable[_T]]) -> _T:
    with databases(settings) as urls, closing(Database(urls.runtime, connections=1)) as database:
        keys = PostgresKeys(database, service_key=load_service_key(settings.service_key, make=True))

        async def run() -> _T:
            return await work(keys, PostgresPolicies(database))

        return asyncio.run(run())


def _scope(name: str) -> Scope:
    try:
        return Scope(name)
    except ValueError:
        raise SettingsRefused(f"{name!r} is not a scope; there are: {', '.join(Scope)}") from None


def _operator() -> str:
    """Who stands in the event: the account at the command line."""
    try:
        return f"operator:{getpass.getuser()}"
    except OSError:  # an account without a name, as in a container
        return "operator"
