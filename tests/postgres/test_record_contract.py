"""The record on Postgres keeps the contract of every decision log."""

import pytest

from moderation.adapters.database import Database
from moderation.adapters.queue import PostgresQueue
from tests.contracts.decision_log_contract import DecisionLogContract

pytestmark = pytest.mark.postgres


class TestPostgresRecord(DecisionLogContract):
    @pytest.fixture
    def log(self, record):
        return record

    @pytest.fixture
    def queue(self, database):
        connections = Database(database.runtime, connections=2)
        yield PostgresQueue(connections)
        connections.close()
