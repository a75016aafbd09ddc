from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select

from moderation.access import Scope, parse_key, secret_digest
from moderation.adapters.database import Context, Database
from moderation.adapters.keys import PostgresKeys, tenant_id
from moderation.adapters.service_key import ServiceKey
from moderation.adapters.tables import api_key, entry, personal
from moderation.audit import commitment
from moderation.errors import RecordUnavailable
from tests.pg import as_role

pytestmark = pytest.mark.postgres
SCOPES = [Scope.SCREEN, Scope.AUDIT_READ]


@pytest.fixture
def pool(database):
    made = Database(database.runtime)
    yield made
    made.close()


@pytest.fixture
def keys(pool):
    return PostgresKeys(pool, service_key=ServiceKey(b"s" * 32))


@pytest.fixture
def tenant(keys):
    return asyncio.run(keys.make_tenant("local"))


def make(keys, tenant, **changes):
    wanted = {"scopes": SCOPES, "policies": ["default", "marker"], "actor": "cli", **changes}
    return asyncio.run(keys.make(tenant=tenant, **wanted))


def entries(pool, tenant):
    rows = pool.run_here(Context(tenant=tenant), lambda connection: connection.execute(select(entry).order_by(entry.c.id)).all())
    return [(row.kind, json.loads(row.canonical)) for row in rows]


def test_a_made_key_is_found_as_it_was_made(keys, tenant):
    end = datetime.now(UTC) + timedelta(days=1)
    made = make(keys, tenant, subject="reviewer-7", expires_at=end)
    found = asyncio.run(keys.find(made.key.id))
    assert found == made.key
    assert (found.tenant, found.scopes, found.policies, found.subject) == (tenant, frozenset(SCOPES), ("default", "marker"), "reviewer-7")
    assert found.expires_at == end
    key_id, secret = parse_key(made.text)
    assert key_id == found.id
    assert secret_digest(secret) == found.secret_sha256
    assert found.is_live(datetime.now(UTC))


def test_the_secret_itself_is_stored_nowhere(keys, tenant, database):
    made = make(keys, tenant, sigv4=True)
    _, secret = parse_key(made.text)
    tables = ("api_key", "api_key_event", "entry")
    with as_role(database.runtime, tenant=tenant) as cursor:
        everything = []
        for table in tables:
            cursor.execute(f"SELECT string_agg(t::text, ' ') FROM facegate.{table} t")
            everything.append(cursor.fetchone()[0])
    for stored in everything:
        assert secret.hex() not in stored
        assert made.sigv4.secret_access_key not in stored
        assert made.sigv4.secret_access_key.encode().hex() not in stored
    assert secret_digest(secret) in everything[0]


def test_an_unknown_id_and_another_tenants_list_are_empty(keys, tenant):
    make(keys, tenant)
    other = asyncio.run(keys.make_tenant("other"))
    assert asyncio.run(keys.find("0" * 20)) is None
    assert asyncio.run(keys.find("")) is None
    assert asyncio.run(keys.find("' OR true --")) is None
    assert asyncio.run(keys.list(other)) == []


def test_naming_one_key_shows_that_key_and_no_other(keys, tenant, pool):
    named, _ = make(keys, tenant), make(keys, tenant)
    seen = pool.run_here(Context(key_id=named.key.id), lambda connection: connection.execute(select(api_key.c.id)).scalars().all())
    assert seen == [named.key.id]
    assert pool.run_here(Context(), lambda connection: connection.execute(select(api_key.c.id)).all()) == []


def test_a_sigv4_pair_is_recovered_and_only_under_its_service_key(keys, tenant, pool):
    made = make(keys, tenant, sigv4=True)
    assert made.sigv4.access_key_id == made.key.id
    assert asyncio.run(keys.find_sigv4(made.key.id)) == (made.key, made.sigv4.secret_access_key)
    assert asyncio.run(PostgresKeys(pool).find_sigv4(made.key.id)) is None
    with pytest.raises(RecordUnavailable):
        asyncio.run(PostgresKeys(pool, service_key=ServiceKey(b"t" * 32)).find_sigv4(made.key.id))


def test_a_key_without_a_pair_is_none_for_sigv4(keys, tenant):
    assert asyncio.run(keys.find_sigv4(make(keys, tenant).key.id)) is None
    assert asyncio.run(keys.find_sigv4("0" * 20)) is None


def test_without_a_service_key_no_pair_is_made(pool, tenant):
    with pytest.raises(ValueError, match="service key"):
        make(PostgresKeys(pool), tenant, sigv4=True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scopes": []}, "scope"),
        ({"policies": []}, "policy"),
        ({"policies": ["a", "a"]}, "twice"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expired"),
        ({"subject": "=Jim"}, "subject"),
    ],
)
def test_a_key_that_could_not_serve_is_not_made(keys, tenant, changes, why):
    with pytest.raises(ValueError, match=why):
        make(keys, tenant, **changes)
    assert asyncio.run(keys.list(tenant)) == []


def test_a_key_that_only_reads_needs_no_policy(keys, tenant):
    assert make(keys, tenant, scopes=[Scope.AUDIT_READ], policies=[]).key.policies == ()


def test_a_tenant_that_does_not_exist_gets_no_key(keys):
    with pytest.raises(ValueError, match="tenant"):
        make(keys, tenant_id("nobody"))


def test_a_tenant_is_made_once_and_found_by_name(keys):
    async def story():
        return await asyncio.gather(*(keys.make_tenant("acme") for _ in range(10)))

    assert set(asyncio.run(story())) == {tenant_id("acme")}
    for name in ("", "a\nb", "\x00"):
        with pytest.raises(ValueError, match="name"):
            asyncio.run(keys.make_tenant(name))


def test_keys_are_listed_newest_first_with_what_became_of_them(keys, tenant):
    first, second = make(keys, tenant), make(keys, tenant, sigv4=True)
    assert asyncio.run(keys.revoke(tenant, first.key.id, "cli"))
    listed = asyncio.run(keys.list(tenant))
    assert [(one.key.id, one.has_sigv4, one.key.revoked_at is None) for one in listed] == [
        (second.key.id, True, True),
        (first.key.id, False, False),
    ]


def test_revoking_is_done_once_and_within_the_tenant(keys, tenant):
    made = make(keys, tenant)
    other = asyncio.run(keys.make_tenant("other"))
    assert not asyncio.run(keys.revoke(other, made.key.id, "intruder"))
    assert asyncio.run(keys.find(made.key.id)).revoked_at is None
    assert asyncio.run(keys.revoke(tenant, made.key.id, "cli"))
    assert not asyncio.run(keys.revoke(tenant, made.key.id, "cli"))
    assert not asyncio.run(keys.revoke(tenant, "0" * 20, "cli"))
    found = asyncio.run(keys.find(made.key.id))
    assert not found.is_live(datetime.now(UTC))


def test_a_key_revoked_elsewhere_stops_within_about_a_second(keys, tenant, pool):
    made = make(keys, tenant)

    async def story():
        assert (await keys.find(made.key.id)).revoked_at is None
        await PostgresKeys(pool).revoke(tenant, made.key.id, "another process")
        revoked = time.monotonic()
        while (await keys.find(made.key.id)).revoked_at is None:
            assert time.monotonic() - revoked < 2
            await asyncio.sleep(0.02)
        return time.monotonic() - revoked

    assert asyncio.run(story()) < 1.3


def test_the_hot_path_costs_no_query(keys, tenant, pool):
    made = make(keys, tenant)
    statements = []
    event.listen(pool._engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    async def story():
        for _ in range(5):
            await asyncio.gather(*(keys.find(made.key.id) for _ in range(200)))

    asyncio.run(story())
    assert sum("api_key" in statement for statement in statements) == 1


def test_making_and_revoking_are_in_the_log_without_the_subject(keys, tenant, pool):
    made = make(keys, tenant, subject="reviewer-7", sigv4=True)
    asyncio.run(keys.revoke(tenant, made.key.id, "key:ops"))
    (kind, created), (_, revoked) = entries(pool, tenant)
    assert kind == "key"
    assert (created["event"], created["actor"], created["tenant"]) == ("created", "cli", str(tenant))
    assert created["key"] | {"subject": None} == {
        "id": made.key.id,
        "scopes": ["audit.read", "screen"],
        "policies": ["default", "marker"],
        "sigv4": True,
        "subject": None,
        "expires_at": None,
    }
    assert (revoked["event"], revoked["actor"], revoked["key"]) == ("revoked", "key:ops", {"id": made.key.id})
    row = pool.run_here(Context(tenant=tenant), lambda connection: connection.execute(select(personal)).one())
    assert created["key"]["subject"] == commitment(row.salt, row.content)
    assert row.content == "reviewer-7"
