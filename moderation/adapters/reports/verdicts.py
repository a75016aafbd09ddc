"""Verdict counts."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, in_period
from moderation.media import Stage
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

VERDICTS: Final = Statement(
    report=Report(
        name="verdicts",
        title="Verdicts by day, stage, category, automated or human",
        parameters=(
            *PERIOD,
            Parameter(name="stage", asked=Asked.CHOICE, title="One stage only.", choices=tuple(Stage)),
            Parameter(name="policy", asked=Asked.TEXT, title="Decisions under this policy only.", most=64),
        ),
        columns=columns(
            ("day", Kind.DAY, "Day in UTC"),
            ("stage", Kind.TEXT, "Stage"),
            ("category", Kind.TEXT, "Null: all of that day; otherwise those with a reason of this category"),
            ("verdict", Kind.TEXT, "Verdict"),
            ("automated", Kind.FLAG, "By the policy, or by a person's review"),
            ("decisions", Kind.INTEGER, "How many"),
        ),
        keys=(Key("day", "date"), Key("stage", "text"), Key("k_category", "text"), Key("verdict", "text"), Key("automated", "boolean")),
        totals={"decisions": "Decisions by policies", "reviews": "Reviews by people"},
    ),
    # Decisions are counted in an index alone (`decision_report_idx`), each combination of categories first.
    sql=f"""
WITH counted AS (
    SELECT d.created_at::date AS day, d.stage, d.verdict, d.automated, d.categories, count(*) AS decisions
    FROM facegate.decision d
    WHERE {in_period("d")} AND d.stage = coalesce(:stage, d.stage) AND d.policy_name = coalesce(:policy, d.policy_name)
    GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT r.at::date, d.stage, r.verdict, false, d.categories, count(*)
    FROM facegate.review r JOIN facegate.decision d ON d.tenant = r.tenant AND d.id = r.decision
    WHERE {in_period("r", "at")} AND d.stage = coalesce(:stage, d.stage) AND d.policy_name = coalesce(:policy, d.policy_name)
    GROUP BY 1, 2, 3, 4, 5
)
SELECT day, stage, NULL::text AS category, verdict, automated, sum(decisions)::bigint AS decisions, '' AS k_category
FROM counted GROUP BY day, stage, verdict, automated
UNION ALL
SELECT day, stage, category, verdict, automated, sum(decisions)::bigint, category
FROM counted, unnest(categories) AS category GROUP BY day, stage, category, verdict, automated
""",  # noqa: S608  # pieces of ours
    totals={
        "decisions": "coalesce(sum(decisions) FILTER (WHERE category IS NULL AND automated), 0)",
        "reviews": "coalesce(sum(decisions) FILTER (WHERE category IS NULL AND NOT automated), 0)",
    },
    scan=True,
)
