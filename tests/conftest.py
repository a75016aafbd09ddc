"""Fixtures for all tests. They cost nothing until a test asks for them."""

from __future__ import annotations

from tests.pg import database, postgres_server, record

__all__ = ["database", "postgres_server", "record"]
