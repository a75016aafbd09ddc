"""The record on Postgres keeps the contract of every decision log."""

import pytest

from tests.contracts.decision_log_contract import DecisionLogContract

pytestmark = pytest.mark.postgres


class TestPostgresRecord(DecisionLogContract):
    @pytest.fixture
    def log(self, record):
        return record
