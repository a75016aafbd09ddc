"""Sweeps: what was removed because its time was over, run by run.

`pre`: it adds a table, which the code before it does not look at.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_sweeps"
down_revision = "2026_11_27_video"
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"

TABLES = """
CREATE TABLE facegate.sweep (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    what text NOT NULL,
    removed bigint NOT NULL,
    held bigint NOT NULL,
    first_id uuid,
    last_id uuid,
    since timestamptz NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT sweep_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT sweep_counts_check CHECK (least(removed, held) >= 0),
    CONSTRAINT sweep_what_check CHECK (what IN ('intake', 'quarantine', 'released', 'jobs', 'idempotency'))
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.sweep.id IS 'entry.id';
COMMENT ON COLUMN facegate.sweep.what IS 'an area of the media store, or a table';
COMMENT ON COLUMN facegate.sweep.held IS 'under hold, and so not removed';
COMMENT ON COLUMN facegate.sweep.first_id IS 'the oldest transform, decision or job of which something was removed';
COMMENT ON COLUMN facegate.sweep.since IS 'begin of the run';
"""


def upgrade() -> None:
    """The table, its protection, who may do what, then the months."""
    op.execute(TABLES)
    op.execute("SELECT facegate.force_tenancy('facegate.sweep'), facegate.make_append_only('facegate.sweep')")
    op.execute(
        f"GRANT SELECT, INSERT (id, tenant, what, removed, held, first_id, last_id, since, actor, at) ON facegate.sweep TO {RUNTIME}"
    )
    op.execute("SELECT facegate.make_partitions()")
