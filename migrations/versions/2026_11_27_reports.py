"""What the reports need to be quick, and the one thing that they read across tenants: which there are.

`pre`: it adds an index and a policy, which the code before it does not look at. The index of months that are there already is built
while their table takes no writes; on a large record, run it while the service is stopped.
"""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_reports"
down_revision = "2026_11_27_people"
branch_labels = None
depends_on = None

INDEX = """
CREATE INDEX decision_report_idx ON facegate.decision (tenant, created_at, id)
    INCLUDE (stage, verdict, automated, policy_name, categories);
"""

# Rows of a tenant are read only in a transaction that names it, for an auditor of all tenants too: one after the other.
AUDITOR = """
CREATE POLICY auditor_reads ON facegate.tenant FOR SELECT USING (current_setting('facegate.auditor', true) = 'on');
"""


def upgrade() -> None:
    """The index, then who there is."""
    op.execute(INDEX)
    op.execute(AUDITOR)
