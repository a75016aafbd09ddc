"""What an encoded picture shows is said by the decision about it, as of a segment; a signed file must still say it.

`pre`: what is written as before is still allowed. The check is looked through once for all parts, which takes no writes meanwhile.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_28_shown"
down_revision = "2026_11_27_catalogue_sweep"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE facegate.part
    DROP CONSTRAINT part_frame_digest_check,
    ADD CONSTRAINT part_frame_digest_check CHECK (
        CASE kind WHEN 'segment' THEN frame_digest IS NULL WHEN 'signed' THEN frame_digest IS NOT NULL ELSE true END);
COMMENT ON COLUMN facegate.part.frame_digest IS 'of what a decoder shows; of a segment and of an encoded picture the decision says it';
"""


def upgrade() -> None:
    """Say it."""
    op.execute(UP)
