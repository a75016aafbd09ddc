"""Indexes that hold what reports ask for: a year of millions of decisions is then counted, and the newest rows of one are found, without the table.

`pre`: it replaces indexes by ones that can do more, which the code before it uses as it did the former ones. While the indexes of months
that are there already are built, their tables take no writes; on a large record, run it while the service is stopped.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_report_indexes"
down_revision = "2026_11_27_shadow"
branch_labels = None
depends_on = None

# Most decisions are of uploads and allow: their rows are in none of these.
INDEXES = """
DROP INDEX facegate.decision_verdict_idx;
CREATE INDEX decision_verdict_idx ON facegate.decision (tenant, verdict, id)
    INCLUDE (stage, automated, created_at, actor, transform, policy_name, categories) WHERE verdict <> 'allow';
DROP INDEX facegate.decision_transform_idx;
CREATE INDEX decision_transform_idx ON facegate.decision (tenant, transform, id)
    INCLUDE (stage, verdict, media_sha256, recorded_at) WHERE transform IS NOT NULL;
CREATE INDEX decision_block_idx ON facegate.decision (tenant, created_at, id, stage) WHERE verdict = 'block';
CREATE INDEX decision_fault_idx ON facegate.decision (tenant, created_at, id)
    WHERE verdict IN ('error', 'block')
      AND jsonb_path_exists(reasons, '$[*] ? (@.verdict == "error" && @.code != "media_refused" && @.code != "no_frames")');
CREATE INDEX review_block_idx ON facegate.review (tenant, at, id) WHERE verdict = 'block';
"""


def upgrade() -> None:
    """One after the other."""
    op.execute(INDEXES)
