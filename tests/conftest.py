"""Fixtures for all tests, which cost nothing until a test asks for them, and who runs which tests when several processes do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pg import database, postgres_server, record

__all__ = ["database", "postgres_server", "record"]

SERVICE = Path(__file__).parent / "serve"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file stay in one process, and so do all that share the running service, which begin: they take the longest."""
    items.sort(key=lambda item: not item.path.is_relative_to(SERVICE))
    for item in items:
        group = SERVICE if item.path.is_relative_to(SERVICE) else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))
