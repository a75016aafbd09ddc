"""Parts of a video: segments, each screened on its own."""

from __future__ import annotations

revision = "2026_11_27_video"
down_revision = "2026_11_27_reports"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
