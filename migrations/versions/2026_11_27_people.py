"""Appeals, holds, erasures, and what is kept of dropped months."""

from __future__ import annotations

revision = "2026_11_27_people"
down_revision = "2026_11_27_log"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
