"""The small record, written once for all tests that only read it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pg import PostgresServer
from tests.record_kit import SmallRecord, write_small_record


@pytest.fixture(scope="session")
def small_record(postgres_server: PostgresServer) -> Iterator[SmallRecord]:
    """See `tests.record_kit`. Nobody writes to it."""
    with postgres_server.clone() as urls:
        yield write_small_record(urls)
