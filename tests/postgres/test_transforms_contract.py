"""Transforms and reviews on Postgres keep the contract of every record of them."""

import pytest

from moderation.adapters.database import Database
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.queue import PostgresQueue
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.transforms import PostgresTransforms
from tests.contracts.transform_log_contract import TransformLogContract, World
from tests.pg import make_tenant

pytestmark = pytest.mark.postgres


class TestPostgresTransforms(TransformLogContract):
    @pytest.fixture
    def world(self, database, record):
        connections = Database(database.runtime, connections=2)
        yield World(
            log=PostgresTransforms(connections),
            reviews=PostgresReviews(connections),
            queue=PostgresQueue(connections),
            decisions=record,
            policies=PostgresPolicies(connections, remember_s=0.0),
            tenant=make_tenant(database.runtime, "one"),
            other=make_tenant(database.runtime, "two"),
        )
        connections.close()
