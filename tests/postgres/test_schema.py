"""The migrated schema: what it holds, who may touch it, and that nobody may change the record."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg2
import psycopg2.errors
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg2 import sql
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.pool import NullPool
from uuid_utils.compat import uuid7

import migrations
from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import make_engine
from moderation.adapters.postgres import UnsafeRole, refuse_unsafe_role
from moderation.adapters.tables import APPEND_ONLY, MUTABLE, PARTITIONED, SCHEMA, SEALED, Xid8, metadata
from moderation.errors import RecordUnavailable
from moderation.log import OPERATOR
from tests.pg import PostgresServer, as_role, make_tenant, migrate

pytestmark = [pytest.mark.postgres, pytest.mark.forges_releases]

THIS_MONTH = datetime.now(UTC).strftime("_%Y_%m")
APPEND_ONLY_NAMES = [table.name for table in APPEND_ONLY]
SEALED_NAMES = [table.name for table in SEALED]
UPGRADE_LOCK = 0x66616365676174
PARTITIONS = [table.name + THIS_MONTH for table in PARTITIONED]
TENANTED = [table.name for table in metadata.sorted_tables if "tenant" in table.c]


# --- what is there ----------------------------------------------------------------------------


def test_the_migrated_schema_is_the_one_that_the_tables_declare(database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ischema_names, "xid8", Xid8)  # reflection does not know it
    partitions = tuple(f"{table.name}_2" for table in PARTITIONED)

    def declared(found, name, kind, _reflected, _other):
        if kind == "foreign_key_constraint":  # Postgres makes one more for each partition that a key may lead to
            return not found.elements[0].target_fullname.startswith(tuple(f"{SCHEMA}.{name}" for name in partitions))
        return not (kind == "table" and (name.startswith(partitions) or name == "alembic_version"))

    options = {
        "include_schemas": True,
        "include_name": lambda name, kind, _parents: kind != "schema" or name == SCHEMA,
        "include_object": declared,
        "compare_type": True,
        "compare_server_default": True,
        "version_table_schema": SCHEMA,
    }
    engine = create_engine(database.owner, poolclass=NullPool)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_migrating_twice_changes_nothing(database: DatabaseUrls):
    engine = create_engine(database.owner, poolclass=NullPool)
    with engine.connect() as connection:
        before = migrations.current(connection)
    migrate(database.owner)
    with engine.connect() as connection:
        assert migrations.current(connection) == before == migrations.newest()


def test_a_migration_waits_for_another_one_to_finish(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute("DROP SCHEMA facegate CASCADE")
    with ThreadPoolExecutor(1) as pool:
        with as_role(database.owner) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", (UPGRADE_LOCK,))
            waiting = pool.submit(migrate, database.owner)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
            other.execute("SELECT to_regnamespace('facegate')")
            assert other.fetchone() == (None,)
        waiting.result(30)
    with as_role(database.runtime) as cursor:
        cursor.execute("SELECT version_num FROM facegate.alembic_version")
        assert cursor.fetchone() == (migrations.newest(),)


def test_a_migration_without_the_roles_says_which_are_missing(postgres_server: PostgresServer, database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute("DROP SCHEMA facegate CASCADE")
    # Roles belong to the whole server: rename one for a moment, and back.
    postgres_server.administer("ALTER ROLE facegate_sealer RENAME TO gone_for_a_moment")
    try:
        with pytest.raises(Exception, match="the roles facegate_runtime and facegate_sealer do not both exist"):
            migrate(database.owner)
    finally:
        postgres_server.administer("ALTER ROLE gone_for_a_moment RENAME TO facegate_sealer")


# --- partitions -------------------------------------------------------------------------------


def test_partitions_reach_from_last_month_half_a_year_ahead_and_none_takes_the_rest(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        for table in PARTITIONED:
            cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", (f"facegate.{table.name}",))
            months = sorted(name.removeprefix(f"facegate.{table.name}_") for (name,) in cursor.fetchall())
            assert len(months) == 8
            assert datetime.now(UTC).strftime("%Y_%m") == months[1]
        cursor.execute("SELECT count(*) FROM pg_class WHERE relispartition AND pg_get_expr(relpartbound, oid) = 'DEFAULT'")
        assert cursor.fetchone() == (0,)


def test_the_runtime_role_can_make_the_months_ahead_and_no_others(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'facegate.entry'::regclass ORDER BY 1 DESC LIMIT 1"
        )
        last = cursor.fetchone()[0]
        cursor.execute(f"DROP TABLE {last}")
    with as_role(database.runtime) as cursor:
        cursor.execute("SELECT facegate.make_partitions()")
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT facegate.make_partitions()")
        assert cursor.fetchone() == (0,)
    with as_role(database.owner) as cursor:
        cursor.execute(
            "SELECT c.relrowsecurity AND c.relforcerowsecurity, o.rolname, EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid)"
            " FROM pg_class c JOIN pg_roles o ON o.oid = relowner WHERE c.oid = %s::regclass",
            (last,),
        )
        assert cursor.fetchone() == (True, "facegate_owner", True)
    for call in ("make_partition('entry', '2030-01-01')", "force_tenancy('facegate.job')", "make_append_only('facegate.job')"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.runtime) as cursor:
            cursor.execute(f"SELECT facegate.{call}")


def test_a_month_that_is_made_later_is_held_by_the_same_keys(database: DatabaseUrls):
    """A partition that refers to others is attached by the run-time role, which does not own them."""
    with as_role(database.owner) as cursor:
        cursor.execute("SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'facegate.part'::regclass")
        last = cursor.fetchone()[0].removeprefix("facegate.part")
        keys = "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f' AND coninhcount = 1 ORDER BY 1"
        cursor.execute(keys, (f"facegate.release_purge{last}",))
        before = cursor.fetchall()
        cursor.execute(f"DROP TABLE facegate.part{last}, facegate.release_purge{last}")
    with as_role(database.runtime) as cursor:
        cursor.execute("SELECT facegate.make_partitions()")
        assert cursor.fetchone() == (2,)
    with as_role(database.owner) as cursor:
        cursor.execute(keys, (f"facegate.release_purge{last}",))
        assert cursor.fetchall() == before != []


def test_the_bounds_of_partitions_are_the_first_instants_of_months_in_utc(database: DatabaseUrls):
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with as_role(database.owner) as cursor:
        cursor.execute("SET timezone = 'Pacific/Kiritimati'")
        cursor.execute("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s", ("entry" + THIS_MONTH,))
        (bounds,) = cursor.fetchone()
    least = f"{int(first.timestamp() * 1000):012x}"
    assert f"FROM ('{least[:8]}-{least[8:]}-0000-0000-000000000000')" in bounds


# --- tenants ----------------------------------------------------------------------------------


def test_every_table_and_partition_has_forced_row_level_security_unless_it_belongs_to_no_tenant(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY 1"
        )
        assert {name for (name,) in cursor.fetchall()} == {"alembic_version", "classifier", "receipt_key", *SEALED_NAMES}


def test_every_policy_of_row_level_security_is_a_known_one(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute("SELECT tablename, policyname, cmd, roles::text[], qual FROM pg_policies WHERE schemaname = 'facegate'")
        policies = {(table, name): (command, roles, qual) for table, name, command, roles, qual in cursor.fetchall()}
    own = {table for table, name in policies if name == "own_tenant"}
    assert own == {*TENANTED, "tenant"}
    assert sorted(set(policies) - {(table, "own_tenant") for table in own}) == [
        ("api_key", "by_key"),
        ("api_key_event", "by_key"),
        ("entry", "auditor_reads"),
        ("entry", "everybody_reads"),
        ("entry", "sealer_reads"),
        ("entry", "sealer_writes"),
        ("idempotency", "worker_reads"),
        ("idempotency", "worker_sweeps"),
        ("job", "worker_reads"),
        ("job", "worker_sweeps"),
        ("job", "worker_writes"),
        ("release", "worker_reads"),
        ("release_purge", "worker_reads"),
        ("release_withdrawal", "worker_reads"),
        ("tenant", "auditor_reads"),
    ]
    assert {policies[table, name][0] for table, name in policies if name == "worker_reads"} == {"SELECT"}
    assert policies["entry", "sealer_reads"] == ("SELECT", ["facegate_sealer"], "true")
    assert policies["entry", "everybody_reads"] == ("SELECT", ["public"], f"(tenant = '{OPERATOR}'::uuid)")
    assert policies["entry", "sealer_writes"][:2] == ("INSERT", ["facegate_sealer"])


def fill(database: DatabaseUrls) -> tuple[UUID, UUID]:
    """Two tenants with one row in every table; their ids."""
    tenants = make_tenant(database.runtime, "one"), make_tenant(database.runtime, "two")
    for tenant in tenants:
        with as_role(database.runtime, tenant=tenant) as cursor:
            for statement in ROWS:
                cursor.execute(statement, {"tenant": str(tenant), "id": str(uuid7()), "key": f"k{tenant}"})
        with as_role(database.owner, tenant=tenant) as cursor:
            for statement in OWNERS_ROWS:
                cursor.execute(statement, {"tenant": str(tenant), "id": str(uuid7())})
    return tenants


OWNERS_ROWS = [
    (
        "INSERT INTO facegate.erasure (id, tenant, selector, erased, held, in_progress, holds, is_complete, actor, at)"
        " VALUES (coalesce((SELECT min(id::text)::uuid FROM facegate.entry), %(id)s), %(tenant)s, 'reference', 0, 0, 0, '{}', true, '', now())"
    ),
    (
        "INSERT INTO facegate.month_purge (id, tenant, month, relation, dropped, kept, actor, at)"
        " VALUES (coalesce((SELECT min(id::text)::uuid FROM facegate.entry), %(id)s), %(tenant)s, '2020-01-01', '', 0, 0, '', now())"
    ),
]
"""What the run-time role cannot write."""

ROWS = [
    "INSERT INTO facegate.api_key (id, tenant, scopes, policies, secret_sha256, created_at) VALUES (%(key)s, %(tenant)s, '{}', '{}', '', now())",
    "INSERT INTO facegate.api_key_event (id, tenant, key_id, event, actor, at) VALUES (%(id)s, %(tenant)s, %(key)s, 'created', '', now())",
    "INSERT INTO facegate.policy (tenant, name, version, digest, content, actor, created_at) VALUES (%(tenant)s, 'p', 1, '', '{}', '', now())",
    (
        "INSERT INTO facegate.policy_event (id, tenant, name, version, event, actor, at)"
        " VALUES (%(id)s, %(tenant)s, 'p', 1, 'published', '', now())"
    ),
    (
        "INSERT INTO facegate.classifier (id, name, version, digest, mapping_digest, categories, input, calibrated, runtime)"
        " VALUES ('x', '', '', '', '', '{}', '{}', false, '') ON CONFLICT DO NOTHING"
    ),
    "INSERT INTO facegate.thresholds (id, tenant, applied) VALUES ('x', %(tenant)s, '[]')",
    (
        "INSERT INTO facegate.decision (id, tenant, actor, automated, created_at, request_id, stage, media_sha256, media_bytes, verdict,"
        " categories, reasons, thresholds, classifiers, sheets, policy_name, policy_version, policy_digest, plan_digest, decoder)"
        " VALUES (%(id)s, %(tenant)s, '', true, now(), '', 'upload', sha256(''), 0, 'allow', '{}', '[]', 'x', '{}', '[]', '', 1, '', '', '')"
    ),
    "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%(id)s, %(tenant)s, 'decision', '{}')",
    "INSERT INTO facegate.personal (id, tenant, kind, salt, content) VALUES (%(id)s, %(tenant)s, 'reference', sha256(''), 'x')",
    (
        "INSERT INTO facegate.shadow (id, tenant, decision, name, fault, at)"
        " VALUES (%(id)s, %(tenant)s, (SELECT id FROM facegate.decision), '', '', now())"
    ),
    (
        "INSERT INTO facegate.sweep (id, tenant, what, removed, held, since, actor, at)"
        " VALUES (%(id)s, %(tenant)s, 'intake', 1, 0, now(), '', now())"
    ),
    "INSERT INTO facegate.idempotency (tenant, key, fingerprint, resource) VALUES (%(tenant)s, 'k', '', %(id)s)",
    "INSERT INTO facegate.job (id, tenant, kind, payload, state) VALUES (%(id)s, %(tenant)s, 'screening', '{}', 'queued')",
    (
        "INSERT INTO facegate.source (id, tenant, sha256, size, type, decision, consent_basis, actor, created_at)"
        " VALUES (%(id)s, %(tenant)s, sha256(''), 1, '', (SELECT id FROM facegate.decision), 'self', '', now())"
    ),
    (
        "INSERT INTO facegate.source_event (id, tenant, source, event, actor, at)"
        " VALUES (%(id)s, %(tenant)s, (SELECT id FROM facegate.source), 'approved', '', now())"
    ),
    (
        "INSERT INTO facegate.transform (id, tenant, actor, request_id, created_at, policy_name, policy_version, policy_digest,"
        " source_sha256, source_size, source_type, target_sha256, target_size, target_type, options)"
        " VALUES (%(id)s, %(tenant)s, '', '', now(), 'p', 1, '', sha256(''), 1, '', sha256(''), 1, '', '{}')"
    ),
    (
        "INSERT INTO facegate.transform_event (tenant, transform, sequence, state)"
        " VALUES (%(tenant)s, (SELECT id FROM facegate.transform), 1, 'queued')"
    ),
    "INSERT INTO facegate.transform_cancel (tenant, transform, actor) VALUES (%(tenant)s, (SELECT id FROM facegate.transform), '')",
    (
        "INSERT INTO facegate.part (tenant, transform, kind, sha256, size, type, width, height, frame_digest, swapper, is_trained,"
        " faces_changed, faces_skipped)"
        " VALUES (%(tenant)s, (SELECT id FROM facegate.transform), 'encoded', sha256(''), 1, '', 1, 1, '', '', false, 1, 0)"
    ),
    (
        "INSERT INTO facegate.transform_progress (tenant, transform, done, total)"
        " VALUES (%(tenant)s, (SELECT id FROM facegate.transform), 0, 1)"
    ),
    (
        "INSERT INTO facegate.stream_view (tenant, transform, id, first_segment, last_segment, actor, at)"
        " VALUES (%(tenant)s, (SELECT id FROM facegate.transform), %(id)s, 1, 1, '', now())"
    ),
    (
        "INSERT INTO facegate.release (tenant, transform, id, signed_sha256, encoded_sha256, source_decision, target_decision,"
        " output_decision, policy_name, pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at)"
        " SELECT %(tenant)s, t.id, %(id)s, sha256(''), sha256(''), d.id, d.id, d.id, 'p', 1, '', 1, '', now(), now()"
        " FROM facegate.transform t, facegate.decision d"
    ),
    (
        "INSERT INTO facegate.review (id, tenant, decision, verdict, actor, at)"
        " VALUES (%(id)s, %(tenant)s, (SELECT id FROM facegate.decision), 'allow', '', now())"
    ),
    (
        "INSERT INTO facegate.review_view (id, tenant, decision, actor, rendition, at)"
        " VALUES (%(id)s, %(tenant)s, (SELECT id FROM facegate.decision), '', 'clear', now())"
    ),
    (
        "INSERT INTO facegate.release_withdrawal (tenant, transform, id, review, actor, at)"
        " VALUES (%(tenant)s, (SELECT id FROM facegate.transform), %(id)s, (SELECT id FROM facegate.review), '', now())"
    ),
    (
        "INSERT INTO facegate.release_purge (tenant, transform, id, result, purged_at)"
        " VALUES (%(tenant)s, (SELECT id FROM facegate.transform), %(id)s, '{}', now())"
    ),
    (
        "INSERT INTO facegate.appeal (id, tenant, decision, stood, actor, at)"
        " VALUES (%(id)s, %(tenant)s, (SELECT id FROM facegate.decision), 'block', '', now())"
    ),
    (
        "INSERT INTO facegate.media_review (tenant, review, sha256, stage, decision, verdict)"
        " VALUES (%(tenant)s, %(id)s, sha256(''), 'source', %(id)s, 'block')"
    ),
    "INSERT INTO facegate.hold (id, tenant, actor, at) VALUES (%(id)s, %(tenant)s, '', now())",
    (
        "INSERT INTO facegate.hold_release (id, tenant, hold, actor, at)"
        " VALUES (%(id)s, %(tenant)s, (SELECT id FROM facegate.hold), '', now())"
    ),
]


def test_a_tenant_sees_its_own_rows_of_every_table_and_nobody_sees_any_without_one(database: DatabaseUrls):
    tenants = fill(database)
    for role in (database.runtime, database.owner):
        for table in TENANTED:
            for tenant in tenants:
                with as_role(role, tenant=tenant) as cursor:
                    cursor.execute(f"SELECT tenant FROM facegate.{table}")
                    assert [str(found) for (found,) in cursor.fetchall()] == [str(tenant)], table
            with as_role(role) as cursor:
                cursor.execute(f"SELECT count(*) FROM facegate.{table}")
                assert cursor.fetchone() == (0,), table


@pytest.mark.parametrize("statement", [row for row in (*ROWS, *OWNERS_ROWS) if "%(tenant)s" in row], ids=lambda row: row.split()[2])
def test_a_row_for_another_tenant_is_refused(database: DatabaseUrls, statement: str):
    one, two = fill(database)
    role = database.owner if statement in OWNERS_ROWS else database.runtime
    with pytest.raises(psycopg2.Error) as refused, as_role(role, tenant=one) as cursor:
        cursor.execute(statement, {"tenant": str(two), "id": str(uuid7()), "key": "another"})
    assert isinstance(refused.value, psycopg2.errors.InsufficientPrivilege)
    assert "row-level security" in str(refused.value)


def test_a_transaction_after_one_with_a_tenant_has_none(database: DatabaseUrls):
    tenant, _ = fill(database)
    connection = psycopg2.connect(database.runtime.replace("+psycopg2", ""))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('facegate.tenant', %s, true)", (str(tenant),))
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM facegate.decision")
            assert cursor.fetchone() == (0,)
    finally:
        connection.close()


def test_who_sweeps_across_tenants_sees_what_is_swept_and_nothing_else(database: DatabaseUrls):
    fill(database)
    seen = set()
    for table in TENANTED:
        with as_role(database.runtime) as cursor:
            cursor.execute("SELECT set_config('facegate.worker', 'on', true)")
            cursor.execute(f"SELECT count(*) FROM facegate.{table}")
            if cursor.fetchone() == (2,):
                seen.add(table)
    assert seen == {"idempotency", "job", "release", "release_purge", "release_withdrawal"}


@pytest.mark.parametrize("table", [table.name for table in MUTABLE])
def test_mutable_rows_of_another_tenant_cannot_be_changed(database: DatabaseUrls, table: str):
    one, two = fill(database)
    with as_role(database.runtime, tenant=one) as cursor:
        cursor.execute(f"DELETE FROM facegate.{table} WHERE tenant = %s", (str(two),))
        assert cursor.rowcount == 0
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(f"UPDATE facegate.{table} SET tenant = %s", (str(two),))
        cursor.connection.rollback()


def test_only_a_key_that_is_named_can_be_looked_up_without_its_tenant(database: DatabaseUrls):
    one, two = fill(database)
    with as_role(database.runtime) as cursor:
        cursor.execute("SELECT set_config('facegate.key_id', %s, true)", (f"k{two}",))
        cursor.execute("SELECT k.tenant, e.tenant FROM facegate.api_key k JOIN facegate.api_key_event e ON e.key_id = k.id")
        assert [tuple(map(str, row)) for row in cursor.fetchall()] == [(str(two), str(two))]
    assert one != two


# --- append-only ------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [*APPEND_ONLY_NAMES, *(name for name in PARTITIONS if not name.startswith("personal"))])
def test_nobody_can_change_or_remove_what_was_recorded(database: DatabaseUrls, table: str):
    columns = metadata.tables[f"{SCHEMA}.{table.removesuffix(THIS_MONTH)}"].c
    column = "tenant" if "tenant" in columns else columns.keys()[0]
    # Postgres has a refusal of its own for a TRUNCATE that would leave foreign keys behind.
    refusals = (psycopg2.errors.InsufficientPrivilege, psycopg2.errors.FeatureNotSupported)
    for role in (database.runtime, database.owner, database.sealer):
        for change in (f"UPDATE {{}} SET {column} = {column}", "DELETE FROM {}", "TRUNCATE {}", "TRUNCATE {} CASCADE"):
            with pytest.raises(refusals), as_role(role, tenant=uuid7()) as cursor:
                cursor.execute(change.format(f"facegate.{table}"))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_partition_named_directly_shows_and_takes_nothing(database: DatabaseUrls, partition: str):
    tenant, _ = fill(database)
    parent = partition.removesuffix(THIS_MONTH)
    for role in (database.runtime, database.sealer):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(role, tenant=tenant) as cursor:
            cursor.execute(f"SELECT * FROM facegate.{partition}")
    with as_role(database.owner, tenant=tenant) as cursor:
        cursor.execute(f"SELECT count(*) FROM facegate.{partition}")
        assert cursor.fetchone() == (0,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(
                next(row for row in ROWS if f"facegate.{parent} " in row).replace(f"facegate.{parent} ", f"facegate.{partition} "),
                {"tenant": str(tenant), "id": str(uuid7())},
            )
        cursor.connection.rollback()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *((table, "recorded_at", "'2020-01-01'") for table in (*APPEND_ONLY_NAMES, "personal") if table not in SEALED_NAMES),
        ("entry", "xid", "'1'"),
    ],
)
def test_what_the_database_knows_better_cannot_be_given(database: DatabaseUrls, table: str, column: str, value: str):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.runtime, tenant=uuid7()) as cursor:
        cursor.execute(f"INSERT INTO facegate.{table} ({column}) VALUES ({value})")


@pytest.mark.parametrize("statement", OWNERS_ROWS, ids=["erasure", "purge"])
def test_what_removes_something_is_written_by_who_may_and_only_with_its_entry(database: DatabaseUrls, statement: str):
    tenant = make_tenant(database.runtime)
    values = {"tenant": str(tenant), "id": str(uuid7())}
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(statement, values)
    with (
        pytest.raises(psycopg2.errors.IntegrityConstraintViolation, match="without an entry"),
        as_role(database.owner, tenant=tenant) as cursor,
    ):
        cursor.execute(statement, values)


def test_a_leaf_hash_is_computed_and_never_given(database: DatabaseUrls):
    with pytest.raises(psycopg2.Error), as_role(database.runtime, tenant=uuid7()) as cursor:
        cursor.execute("INSERT INTO facegate.entry (leaf) VALUES ('x')")


def test_recorded_at_is_the_clock_of_the_database_whatever_created_at_says(database: DatabaseUrls):
    tenant, _ = fill(database)
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("SELECT clock_timestamp() - recorded_at FROM facegate.decision")
        assert timedelta() <= cursor.fetchone()[0] < timedelta(minutes=1)


def test_the_runtime_role_has_no_more_than_it_needs(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
            " WHERE grantee = 'facegate_runtime' AND table_schema = 'facegate'"
        )
        grants: dict[str, set[str]] = {}
        for table, privilege in cursor.fetchall():
            grants.setdefault(table, set()).add(privilege)
    changing = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert grants == {
        **{name: {"SELECT"} for name in (*APPEND_ONLY_NAMES, "personal", "alembic_version")},
        **{table.name: changing for table in MUTABLE},
    }


def test_the_sealer_reads_the_entries_of_all_tenants_and_writes_only_the_log_and_entries_about_it(database: DatabaseUrls):
    fill(database)
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT count(DISTINCT tenant) FROM facegate.entry")
        assert cursor.fetchone() == (2,)
    for table in (*APPEND_ONLY_NAMES, "personal", "idempotency", "job"):
        if table not in {"entry", "receipt_key", *SEALED_NAMES}:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.sealer) as cursor:
                cursor.execute(f"SELECT * FROM facegate.{table}")
    write = "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'log', '')"
    for tenant in (uuid7(), OPERATOR):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.sealer, tenant=tenant) as cursor:
            cursor.execute(write, (str(uuid7()), str(uuid7())))
        if tenant != OPERATOR:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.sealer, tenant=tenant) as cursor:
                cursor.execute(write, (str(uuid7()), str(tenant)))
    with as_role(database.sealer, tenant=OPERATOR) as cursor:
        cursor.execute(write, (str(uuid7()), str(OPERATOR)))
    with as_role(database.runtime, tenant=make_tenant(database.runtime, "reader")) as cursor:
        cursor.execute("SELECT tenant FROM facegate.entry")
        assert cursor.fetchall() == [(str(OPERATOR),)]


@pytest.mark.parametrize("table", SEALED_NAMES)
def test_only_the_sealer_writes_the_log(database: DatabaseUrls, table: str):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(database.runtime) as cursor:
        cursor.execute(f"INSERT INTO facegate.{table} DEFAULT VALUES")


def test_an_auditor_reads_the_entries_of_all_tenants(database: DatabaseUrls):
    fill(database)
    with as_role(database.runtime) as cursor:
        cursor.execute("SELECT set_config('facegate.auditor', 'on', true)")
        cursor.execute("SELECT count(DISTINCT tenant) FROM facegate.entry")
        assert cursor.fetchone() == (2,)


def test_entries_older_than_every_running_transaction_are_complete(database: DatabaseUrls):
    """What a sealer will rely on to read every entry once without a queue."""
    tenant, _ = fill(database)
    settled = "SELECT count(*) FROM facegate.entry WHERE xid < pg_snapshot_xmin(pg_current_snapshot())"
    insert = "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'decision', '')"
    with as_role(database.runtime, tenant=tenant) as slow:
        slow.execute(insert, (str(uuid7()), str(tenant)))
        with as_role(database.runtime, tenant=tenant) as quick:
            quick.execute(insert, (str(uuid7()), str(tenant)))
        with as_role(database.sealer) as sealer:
            sealer.execute(settled)
            assert sealer.fetchone() == (2,)
    with as_role(database.sealer) as sealer:
        sealer.execute(settled)
        assert sealer.fetchone() == (4,)


# --- unsafe roles -----------------------------------------------------------------------------


def refusal_of(url: str) -> str:
    engine = make_engine(url, connections=1)
    try:
        refuse_unsafe_role(engine)
    except UnsafeRole as refused:
        return str(refused)
    finally:
        engine.dispose()
    return ""


def test_the_runtime_role_is_accepted_and_the_owner_is_not(database: DatabaseUrls):
    assert refusal_of(database.runtime) == ""
    assert "owns the tables" in refusal_of(database.owner)


@pytest.mark.parametrize(
    ("grant", "revoke", "says"),
    [
        ("ALTER ROLE facegate_runtime BYPASSRLS", "ALTER ROLE facegate_runtime NOBYPASSRLS", "bypasses row-level security"),
        ("ALTER ROLE facegate_runtime SUPERUSER", "ALTER ROLE facegate_runtime NOSUPERUSER", "is a superuser"),
        ("GRANT facegate_owner TO facegate_runtime", "REVOKE facegate_owner FROM facegate_runtime", "owns the tables"),
    ],
)
def test_a_role_that_was_given_too_much_is_refused(
    postgres_server: PostgresServer, database: DatabaseUrls, grant: str, revoke: str, says: str
):
    postgres_server.administer(grant)
    try:
        assert says in refusal_of(database.runtime)
    finally:
        postgres_server.administer(revoke)


def test_a_role_that_may_change_an_append_only_table_is_refused(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute(sql.SQL("GRANT UPDATE ON facegate.entry TO facegate_runtime"))
    assert "may change append-only tables" in refusal_of(database.runtime)


def test_an_empty_database_says_what_to_do(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute("DROP SCHEMA facegate CASCADE")
    engine = make_engine(database.runtime, connections=1)
    try:
        with pytest.raises(RecordUnavailable, match="facegate db upgrade"):
            refuse_unsafe_role(engine)
    finally:
        engine.dispose()
