"""What the totals of reports count lies in small indexes; who is reading releases is asked once for a query and not for each of them.

`pre`: it replaces an index by one that can do more and adds one, which the code before it does not need, and the same rows are seen as
before. While the indexes of months that are there already are built, their tables take no writes; both are small.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_28_report_totals"
down_revision = "2026_11_28_shown"
branch_labels = None
depends_on = None

# Decisions of uploads that nothing was missing for are in neither.
INDEXES = """
DROP INDEX facegate.decision_fault_idx;
CREATE INDEX decision_fault_idx ON facegate.decision (tenant, created_at, id) INCLUDE (stage, media_sha256, transform)
    WHERE verdict IN ('error', 'block')
      AND jsonb_path_exists(reasons, '$[*] ? (@.verdict == "error" && @.code != "media_refused" && @.code != "no_frames")');
CREATE INDEX decision_output_idx ON facegate.decision (tenant, created_at, id) INCLUDE (verdict) WHERE stage = 'output';
"""

# A setting does not change within a query; as a subquery it is looked at once. What may be written is checked as before.
POLICIES = "".join(
    f"""
ALTER POLICY own_tenant ON facegate.{table} USING (tenant = (SELECT facegate.current_tenant()));
ALTER POLICY worker_reads ON facegate.{table} USING ((SELECT current_setting('facegate.worker', true)) = 'on');
"""
    for table in ("release", "release_purge")
)


def upgrade() -> None:
    """The indexes, then the policies."""
    op.execute(INDEXES)
    op.execute(POLICIES)
