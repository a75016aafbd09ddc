"""Verdict counts."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, in_period
from moderation.media import Stage
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

# Between which ids the decisions lie that people reviewed in the period: constants, so that other months are left out.
_FIND_REVIEWED: Final = f"""
SELECT coalesce(min(r.decision::text COLLATE "C"), 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS oldest,
       coalesce(max(r.decision::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS newest
FROM facegate.review r WHERE {in_period("r", "at")}
"""  # noqa: S608  # pieces of ours

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
    # Decisions are counted in an index alone (`decision_report_idx`), each combination of categories first, and day by day: grouped by a
    # day that is reckoned from a time, Postgres would expect as many groups as times, and sort all of them.
    sql=f"""
WITH said AS MATERIALIZED (
    SELECT r.decision, r.at::date AS day, r.verdict FROM facegate.review r WHERE {in_period("r", "at")}
),
days AS (SELECT generate_series(CAST(:since AS date), CAST(:until AS date), interval '1 day') AS day),
counted AS (
    SELECT days.day::date AS day, one.* FROM days CROSS JOIN LATERAL (
        SELECT d.stage, d.verdict, d.automated, d.categories, count(*) AS decisions FROM facegate.decision d
        WHERE {in_period("d")} AND d.created_at >= days.day AND d.created_at < days.day + interval '1 day'
          AND d.stage = coalesce(:stage, d.stage) AND d.policy_name = coalesce(:policy, d.policy_name)
        GROUP BY d.stage, d.verdict, d.automated, d.categories
    ) one
    UNION ALL
    SELECT s.day, d.stage, s.verdict, false, d.categories, count(*)
    FROM said s JOIN facegate.decision d ON d.tenant = :tenant AND d.id = s.decision AND d.id BETWEEN :oldest AND :newest
    WHERE d.stage = coalesce(:stage, d.stage) AND d.policy_name = coalesce(:policy, d.policy_name)
    GROUP BY s.day, d.stage, s.verdict, d.categories
)
SELECT day, stage, NULL::text AS category, verdict, automated, sum(decisions)::bigint AS decisions, '' AS k_category
FROM counted GROUP BY day, stage, verdict, automated
UNION ALL
SELECT day, stage, category, verdict, automated, sum(decisions)::bigint, category
FROM counted, unnest(categories) AS category GROUP BY day, stage, category, verdict, automated
""",  # noqa: S608  # pieces of ours
    first=(_FIND_REVIEWED,),
    totals={
        "decisions": "coalesce(sum(decisions) FILTER (WHERE category IS NULL AND automated), 0)",
        "reviews": "coalesce(sum(decisions) FILTER (WHERE category IS NULL AND NOT automated), 0)",
    },
    scan=True,
)
