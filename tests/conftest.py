"""Fixtures for all tests. They cost nothing until a test asks for them."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import settings

from tests.pg import database, postgres_server, record
from tests.s3 import s3_bucket, s3_client

__all__ = ["database", "postgres_server", "record", "s3_bucket", "s3_client"]

# How long one example takes says more about what else runs on the machine than about the code.
settings.register_profile("facegate", deadline=None)
settings.load_profile("facegate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For workers side by side: slow files first and then those with many tests, so that they end together. Within a file nothing moves."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))
