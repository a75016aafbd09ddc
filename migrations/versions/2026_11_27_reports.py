"""What the reports need to be quick."""

from __future__ import annotations

revision = "2026_11_27_reports"
down_revision = "2026_11_27_people"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
