"""What has to be there before the first request: the schema, the service key, and on an empty data directory a tenant with a key."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deployments.databases import schema_state, upgrade_schema
from deployments.policy_file import shipped_policy
from deployments.settings import SettingsRefused
from deployments.wiring import signing_identity
from moderation.access import Scope
from moderation.adapters.database import Database, make_engine
from moderation.adapters.keys import PostgresKeys
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import refuse_unsafe_role
from moderation.adapters.provenance import C2paSigner, IdentityRefused
from moderation.adapters.service_key import load_service_key

if TYPE_CHECKING:
    from deployments.embedded_postgres import DatabaseUrls
    from deployments.settings import Settings

TENANT: Final = "local"
POLICIES: Final = ("default", "marker")
ACTOR: Final = "facegate serve"


def prepare(settings: Settings, urls: DatabaseUrls) -> str:
    """Bring everything into the state that the service needs, and return the text of the local key.

    Harmless when it is in that state. Raises SettingsRefused, RecordUnavailable, UnsafeRole, ServiceKeyRefused.
    """
    if urls.owner:
        upgrade_schema(urls.owner)
    else:
        state = schema_state(urls.runtime)
        if not state.is_current:
            raise SettingsRefused(f"the schema is at {state.current or 'nothing'} and has to be at {state.newest}: run facegate db upgrade")
    engine = make_engine(urls.runtime, connections=1)
    try:
        refuse_unsafe_role(engine)
    finally:
        engine.dispose()
    load_service_key(settings.service_key, make=settings.service_key_file is None)
    check_signer(settings)
    file = settings.home / "local.key"
    if file.exists():
        return file.read_text(encoding="ascii").strip()
    text = asyncio.run(_local_key(urls.runtime))
    _write_private(file, text)
    return text


def check_signer(settings: Settings) -> None:
    """Refuse an identity that cannot sign now, in one line, and not by a worker that starts again and again. Raises SettingsRefused."""
    try:
        C2paSigner(signing_identity(settings)).close()
    except IdentityRefused as refused:
        raise SettingsRefused(str(refused)) from refused


async def _local_key(url: str) -> str:
    """Make the tenant, its policies and a key of all scopes."""
    database = Database(url, connections=1)
    try:
        keys, policies = PostgresKeys(database), PostgresPolicies(database)
        tenant = await keys.make_tenant(TENANT)
        for name in POLICIES:
            if await policies.latest(tenant, name) is None:
                await policies.publish(tenant, name, shipped_policy(name), ACTOR)
        made = await keys.make(tenant=tenant, scopes=tuple(Scope), policies=POLICIES, actor=ACTOR)
        return made.text
    finally:
        database.close()


def _write_private(file: Path, text: str) -> None:
    """Whole or not at all, and never readable by others."""
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        out.write(f"{text}\n")
    new.replace(file)
