"""Shadow classifiers: what they gave for the media of decisions that they had no say in.

`pre`: it adds a table, which the code before it does not look at.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_shadow"
down_revision = "2026_11_27_sweeps"
branch_labels = None
depends_on = None

RUNTIME = "facegate_runtime"

TABLES = """
CREATE TABLE facegate.shadow (
    id uuid NOT NULL,
    tenant uuid NOT NULL,
    decision uuid NOT NULL,
    name text NOT NULL,
    classifier bytea,
    thresholds bytea,
    sheet jsonb,
    fault text,
    at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT shadow_pkey PRIMARY KEY (tenant, id),
    CONSTRAINT shadow_tenant_decision_fkey FOREIGN KEY (tenant, decision) REFERENCES facegate.decision (tenant, id),
    CONSTRAINT shadow_sheet_check CHECK (num_nonnulls(classifier, thresholds, sheet) = CASE WHEN fault IS NULL THEN 3 ELSE 0 END)
) PARTITION BY RANGE (id);
COMMENT ON COLUMN facegate.shadow.id IS 'entry.id; of the time of the decision, so that it lies in the same month';
COMMENT ON COLUMN facegate.shadow.classifier IS 'classifier.id';
COMMENT ON COLUMN facegate.shadow.thresholds IS 'thresholds.id; what would have applied to its scores';
COMMENT ON COLUMN facegate.shadow.fault IS 'why there are no scores';
CREATE INDEX shadow_decision_idx ON facegate.shadow (tenant, decision);
"""


def upgrade() -> None:
    """The table, its protection, who may do what, then the months."""
    op.execute(TABLES)
    op.execute("SELECT facegate.force_tenancy('facegate.shadow'), facegate.make_append_only('facegate.shadow')")
    op.execute(
        f"GRANT SELECT, INSERT (id, tenant, decision, name, classifier, thresholds, sheet, fault, at) ON facegate.shadow TO {RUNTIME}"
    )
    op.execute("SELECT facegate.make_partitions()")
