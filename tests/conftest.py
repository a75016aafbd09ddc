"""Fixtures for all tests, which cost nothing until a test asks for them, and who runs which tests when several processes do."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.pg import database, postgres_server, record

__all__ = ["database", "postgres_server", "record"]

SERVICE = "tests/serve/"


class ByFile(LoadScopeScheduling):
    """Tests of one file stay in one process, and so do all that share the running service."""

    def _split_scope(self, nodeid: str) -> str:
        return SERVICE if nodeid.startswith(SERVICE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that share the service begin: they take the longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(SERVICE))
