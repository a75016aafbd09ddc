"""The clock of this machine."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Aware UTC time; implements `moderation.ports.Clock`."""
    return datetime.now(UTC)
