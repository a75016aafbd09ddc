"""What is compared with the log comes out of indexes in the order of ids; who is reading is asked once for a query and not for each entry.

`pre`: the same rows are seen as before. While the key of `entry` is built anew, it takes no writes; on a large record, run it while the
service is stopped.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_log_indexes"
down_revision = "2026_11_27_report_indexes"
branch_labels = None
depends_on = None

INDEXES = """
ALTER TABLE facegate.entry
    DROP CONSTRAINT entry_pkey,
    ADD CONSTRAINT entry_pkey PRIMARY KEY (tenant, id) INCLUDE (kind, leaf);
CREATE INDEX entry_kind_idx ON facegate.entry (tenant, kind, id) WHERE kind <> 'decision';
CREATE INDEX seal_sealed_at_idx ON facegate.seal (log, sealed_at);
"""

# A setting does not change within a query; as a subquery it is looked at once. What may be written is checked as before.
POLICIES = """
ALTER POLICY own_tenant ON facegate.entry USING (tenant = (SELECT facegate.current_tenant()));
ALTER POLICY auditor_reads ON facegate.entry USING ((SELECT current_setting('facegate.auditor', true)) = 'on');
"""


def upgrade() -> None:
    """The indexes, then the policies."""
    op.execute(INDEXES)
    op.execute(POLICIES)
