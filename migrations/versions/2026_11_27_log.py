"""The log: leaves with their indexes, seals, and the keys of receipts."""

from __future__ import annotations

revision = "2026_11_27_log"
down_revision = "2026_11_26_transforms"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
