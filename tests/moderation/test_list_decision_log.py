"""The decision log of the unit tests keeps the contract of the real one."""

import pytest

from tests.contracts.decision_log_contract import DecisionLogContract
from tests.fakes import ListDecisionLog, ListQueue


class TestListDecisionLog(DecisionLogContract):
    @pytest.fixture
    def queue(self):
        return ListQueue()

    @pytest.fixture
    def log(self, queue):
        return ListDecisionLog(queue=queue)
