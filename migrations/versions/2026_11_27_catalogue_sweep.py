"""The catalogue is swept too.

`pre`: what was written before is as good as it was.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_catalogue_sweep"
down_revision = "2026_11_27_log_indexes"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE facegate.sweep
    DROP CONSTRAINT sweep_what_check,
    ADD CONSTRAINT sweep_what_check CHECK (what IN ('intake', 'quarantine', 'released', 'catalogue', 'jobs', 'idempotency'));
"""


def upgrade() -> None:
    """What may be swept."""
    op.execute(TABLES)
