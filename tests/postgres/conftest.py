"""Connections and a tenant of a test's own; and the small record, written once for all tests that only read it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Database
from tests.pg import PostgresServer, make_tenant
from tests.record_kit import SmallRecord, write_small_record


@pytest.fixture
def pool(database: DatabaseUrls) -> Iterator[Database]:
    made = Database(database.runtime, connections=8)
    yield made
    made.close()


@pytest.fixture
def tenant(database: DatabaseUrls) -> UUID:
    return make_tenant(database.runtime)


@pytest.fixture(scope="session")
def small_record(postgres_server: PostgresServer) -> Iterator[SmallRecord]:
    """See `tests.record_kit`. Nobody writes to it."""
    with postgres_server.clone() as urls:
        yield write_small_record(urls)
