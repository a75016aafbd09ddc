"""The migrated schema: what it holds, who may touch it, and that nobody may change the record."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.pool import NullPool

import migrations
from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.tables import PARTITIONED, SCHEMA, Xid8, metadata
from tests.pg import as_role, migrate

pytestmark = pytest.mark.postgres


def test_the_migrated_schema_is_the_one_that_the_tables_declare(database: DatabaseUrls, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ischema_names, "xid8", Xid8)  # reflection does not know it
    partitions = tuple(f"{table.name}_2" for table in PARTITIONED)

    def declared(_object, name, kind, _reflected, _other):
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


def test_every_table_and_partition_has_forced_row_level_security_unless_it_belongs_to_no_tenant(database: DatabaseUrls):
    with as_role(database.owner) as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY 1"
        )
        assert [name for (name,) in cursor.fetchall()] == ["alembic_version", "classifier"]
