"""One Postgres for the whole test session, and a migrated database of its own for every test.

`tests/conftest.py` hands these fixtures to all tests: `postgres_server`, `database`, `record`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest
import uuid_utils.compat
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

import migrations
from deployments.embedded_postgres import DATABASE, DatabaseUrls, EmbeddedPostgres
from moderation.adapters.database import Database
from moderation.adapters.postgres import PostgresRecord

# Databases of tests need not survive the machine; nothing here changes what a client sees.
FAST = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_wal_size": "256MB", "min_wal_size": "32MB"}


@dataclass
class PostgresServer:
    """A running server whose database `facegate` is migrated and serves as the template."""

    postgres: EmbeddedPostgres
    urls: DatabaseUrls
    made: int = 0

    @contextmanager
    def clone(self) -> Iterator[DatabaseUrls]:
        """A fresh copy of the migrated database, dropped afterwards."""
        self.made += 1
        name = f"test_{self.made}"
        self.administer(f"CREATE DATABASE {name} TEMPLATE {DATABASE} OWNER facegate_owner STRATEGY file_copy")
        try:
            yield urls_of(self.urls, name)
        finally:
            self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    def unchecked_releases(self, urls: DatabaseUrls) -> list[tuple[object, ...]]:
        """What the report `released_without_checks` says of a database, over all its tenants and all time: must be nothing."""
        name = make_url(urls.runtime).database or ""
        with closing(psycopg2.connect(**self.postgres.administrator(name))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('facegate.release')")
            if cursor.fetchone() == (None,):
                return []
            cursor.execute("SELECT DISTINCT tenant FROM facegate.release")
            tenants = [UUID(tenant) for (tenant,) in cursor.fetchall()]
        if not tenants:
            return []
        from moderation.adapters.reports.reader import PostgresReports  # noqa: PLC0415  # few tests release anything

        database = Database(urls.runtime, connections=1)
        reports = PostgresReports(database)
        period = {"from": datetime(2000, 1, 1, tzinfo=UTC), "to": datetime(2100, 1, 1, tzinfo=UTC)}
        try:
            pages = [asyncio.run(reports.page("released_without_checks", tenant, period, after=None, limit=100)) for tenant in tenants]
        finally:
            database.close()
        return [tuple(row) for page in pages for row in page]

    def administer(self, statement: str, database: str = "postgres") -> None:
        """Run one statement as the superuser, outside a transaction."""
        with closing(psycopg2.connect(**self.postgres.administrator(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


def urls_of(urls: DatabaseUrls, database: str) -> DatabaseUrls:
    """The same roles on another database of the same server."""

    def other(url: str) -> str:
        return make_url(url).set(database=database).render_as_string(hide_password=False)

    return replace(urls, owner=other(urls.owner), runtime=other(urls.runtime), sealer=other(urls.sealer))


def migrate(owner_url: str) -> None:
    """Bring a database to the newest step."""
    engine = create_engine(owner_url, poolclass=NullPool)
    with engine.connect() as connection:
        migrations.upgrade(connection)


@contextmanager
def as_role(url: str, *, tenant: UUID | None = None) -> Iterator[Cursor]:
    """A cursor in one transaction of that role, within a tenant; rolled back on an error, otherwise committed."""
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection, connection, connection.cursor() as cursor:
        if tenant is not None:
            cursor.execute("SELECT set_config('facegate.tenant', %s, true)", (str(tenant),))
        yield cursor


def make_tenant(runtime_url: str, name: str = "tenant") -> UUID:
    """Insert a tenant as the run-time role."""
    tenant: UUID = uuid_utils.compat.uuid7()
    with as_role(runtime_url, tenant=tenant) as cursor:
        cursor.execute("INSERT INTO facegate.tenant (id, name) VALUES (%s, %s)", (str(tenant), name))
    return tenant


def memory() -> str | None:
    """A folder in memory where there is room for a few databases: cloning one takes 0.03 s instead of 0.5 s."""
    memory = "/dev/shm"  # noqa: S108
    with suppress(OSError):
        if shutil.disk_usage(memory).free > 2_000_000_000 and os.access(memory, os.W_OK):
            return memory
    return None


_CLEAN_UP = """
cat
server=$(head -n 1 "$0/postgres/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$server"
rm -rf "$0"
"""
"""Waits until nobody holds its standard input open, stops the server under the folder, and removes the folder."""


@contextmanager
def home_of_postgres() -> Iterator[Path]:
    """A folder that is gone after us with the server on it, however this process ends."""
    home = Path(tempfile.mkdtemp(prefix="facegate-test-", dir=memory()))
    cleaner = subprocess.Popen(["/bin/sh", "-c", _CLEAN_UP, home], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield home
    finally:
        cleaner.communicate()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this session, its template migrated."""
    with home_of_postgres() as home:
        postgres = EmbeddedPostgres(home, durable=False, settings=FAST)
        try:
            urls = postgres.start()
            migrate(urls.owner)
            yield PostgresServer(postgres, urls)
        finally:
            postgres.stop()


@pytest.fixture
def record(database: DatabaseUrls) -> Iterator[PostgresRecord]:
    """The record on an empty database, as the run-time role."""
    made = PostgresRecord(database.runtime)
    yield made
    made.close()


@pytest.fixture
def database(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[DatabaseUrls]:
    """URLs of owner, runtime and sealer on an empty migrated database.

    Whatever a test did there, nothing may have been released without all its checks, unless the test forges releases itself.
    """
    with postgres_server.clone() as urls:
        yield urls
        if request.node.get_closest_marker("forges_releases") is None:
            assert postgres_server.unchecked_releases(urls) == []
