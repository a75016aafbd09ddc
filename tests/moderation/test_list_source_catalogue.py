"""The catalogue of the unit tests keeps the contract of the real one."""

import pytest
from uuid_utils.compat import uuid7

from tests.contracts.source_catalogue_contract import Shelf, SourceCatalogueContract
from tests.fakes import ListDecisionLog, ListQueue, ListReviewLog, ListSourceCatalogue, ListTransformLog


class TestListSourceCatalogue(SourceCatalogueContract):
    @pytest.fixture
    def shelf(self):
        decisions = ListDecisionLog()
        reviews = ListReviewLog(log=decisions, transforms=ListTransformLog(log=decisions, queue=ListQueue()))
        sources = ListSourceCatalogue(log=decisions, reviews=reviews)
        return Shelf(sources=sources, decisions=decisions, reviews=reviews, tenant=uuid7(), other=uuid7())
