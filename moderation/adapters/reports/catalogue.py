"""All reports by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from moderation.adapters.reports.copies import COPIES
from moderation.adapters.reports.degraded import DEGRADED
from moderation.adapters.reports.gaps import LOG_GAPS
from moderation.adapters.reports.lifetimes import ERASURES
from moderation.adapters.reports.releases import OUTPUT_BLOCKED, RELEASED_WITHOUT_CHECKS
from moderation.adapters.reports.replaying import MODEL_COMPARISON, POLICY_REPLAY
from moderation.adapters.reports.reviews import OVERTURNS, REVIEWER_ACTIVITY
from moderation.adapters.reports.sample import RANDOM_AUDIT_SAMPLE
from moderation.adapters.reports.statement import Statement
from moderation.adapters.reports.statements_of_reasons import DSA_STATEMENTS
from moderation.adapters.reports.thresholds import THRESHOLDS_IN_FORCE
from moderation.adapters.reports.timeline import TIMELINE
from moderation.adapters.reports.verdicts import VERDICTS
from moderation.adapters.reports.waiting import TIME_TO_ACTION

STATEMENTS: Final[Mapping[str, Statement]] = {
    statement.report.name: statement
    for statement in (
        TIMELINE,
        VERDICTS,
        RELEASED_WITHOUT_CHECKS,
        OUTPUT_BLOCKED,
        THRESHOLDS_IN_FORCE,
        POLICY_REPLAY,
        DEGRADED,
        COPIES,
        REVIEWER_ACTIVITY,
        OVERTURNS,
        TIME_TO_ACTION,
        ERASURES,
        LOG_GAPS,
        RANDOM_AUDIT_SAMPLE,
        DSA_STATEMENTS,
        MODEL_COMPARISON,
    )
}
