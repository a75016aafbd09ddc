"""The transforms and reviews of the unit tests keep the contract of the real ones."""

import pytest
from uuid_utils.compat import uuid7

from tests.contracts.transform_log_contract import TransformLogContract, World
from tests.fakes import DictPolicyShelf, ListDecisionLog, ListQueue, ListReviewLog, ListTransformLog


class TestListTransformLog(TransformLogContract):
    @pytest.fixture
    def world(self):
        queue, decisions, policies = ListQueue(), ListDecisionLog(), DictPolicyShelf()
        log = ListTransformLog(log=decisions, queue=queue, policies=policies)
        reviews = ListReviewLog(log=decisions, transforms=log)
        return World(log=log, reviews=reviews, queue=queue, decisions=decisions, policies=policies, tenant=uuid7(), other=uuid7())
