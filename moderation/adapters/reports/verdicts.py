"""Verdict counts."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import DECISION, Statement, find_decisions, in_period
from moderation.media import Stage
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

_WANTED: Final = "(CAST(:stage AS text) IS NULL OR d.stage = :stage) AND (CAST(:policy AS text) IS NULL OR d.policy_name = :policy)"

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
    # Decisions are counted in an index alone (`decision_report_idx`), each combination of categories first, by several processes at once.
    # OFFSET (of a literal, or no several processes): of a day that comes out of a subquery Postgres expects 200, of one that is reckoned from a time as many as there are times.
    sql=f"""
WITH counted AS (
    SELECT day, stage, verdict, automated, categories, count(*) AS decisions FROM (
        SELECT (d.created_at AT TIME ZONE 'UTC')::date AS day, d.stage, d.verdict, d.automated, d.categories
        FROM facegate.decision d WHERE {in_period("d")} AND {_WANTED} OFFSET '0') made
    GROUP BY day, stage, verdict, automated, categories
    UNION ALL
    SELECT (s.at AT TIME ZONE 'UTC')::date, d.stage, s.verdict, false, d.categories, count(*)
    FROM facegate.review s {DECISION} WHERE {in_period("s", "at")} AND {_WANTED}
    GROUP BY 1, 2, 3, 5
)
SELECT day, stage, NULL::text AS category, verdict, automated, sum(decisions)::bigint AS decisions, '' AS k_category
FROM counted GROUP BY day, stage, verdict, automated
UNION ALL
SELECT day, stage, category, verdict, automated, sum(decisions)::bigint, category
FROM counted, unnest(categories) AS category GROUP BY day, stage, category, verdict, automated
""",  # noqa: S608  # pieces of ours
    first=(find_decisions(f"SELECT s.decision FROM facegate.review s WHERE {in_period('s', 'at')}"),),  # noqa: S608  # pieces of ours
    sums=f"""
SELECT made.decisions, made.by_people + said.reviews AS reviews
FROM (SELECT count(*) FILTER (WHERE d.automated) AS decisions, count(*) FILTER (WHERE NOT d.automated) AS by_people
      FROM facegate.decision d WHERE {in_period("d")} AND {_WANTED}) made,
     (SELECT count(*) AS reviews FROM facegate.review s {DECISION} WHERE {in_period("s", "at")} AND {_WANTED}) said
""",  # noqa: S608  # pieces of ours
    totals={
        "decisions": "coalesce(sum(decisions) FILTER (WHERE category IS NULL AND automated), 0)",
        "reviews": "coalesce(sum(decisions) FILTER (WHERE category IS NULL AND NOT automated), 0)",
    },
    scan=True,
)
