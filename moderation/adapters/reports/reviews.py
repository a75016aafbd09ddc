"""What people did: reviews and looks at media, verdicts that they overturned, and how long things waited for them."""

from __future__ import annotations

from typing import Any, Final

from moderation.adapters.reports.statement import DECISION, WITHIN, Statement, find_decisions, in_period
from moderation.reports import PERIOD, Key, Kind, Report, columns, share_with_interval

_DEEDS: Final = f"""
SELECT r.id, r.actor, r.decision, r.at, r.verdict, NULL AS rendition FROM facegate.review r WHERE {in_period("r", "at")}
UNION ALL
SELECT v.id, v.actor, v.decision, v.at, NULL, v.rendition FROM facegate.review_view v WHERE {in_period("v", "at")}
"""  # noqa: S608  # pieces of ours

REVIEWER_ACTIVITY: Final = Statement(
    report=Report(
        name="reviewer_activity",
        title="What each reviewer said and looked at",
        parameters=PERIOD,
        columns=columns(
            ("subject", Kind.TEXT, "The reviewer's pseudonym; null once it is erased"),
            ("actor", Kind.TEXT, "The key"),
            ("reviews", Kind.INTEGER, "Verdicts given"),
            ("allowed", Kind.INTEGER, "Of these `allow`"),
            ("blocked", Kind.INTEGER, "Of these `block`"),
            ("own_work", Kind.INTEGER, "Of these about what the same key had sent or appealed: should be none"),
            ("items_seen", Kind.INTEGER, "Decisions whose media were looked at"),
            ("blurred_views", Kind.INTEGER, "Looks, blurred"),
            ("clear_views", Kind.INTEGER, "Looks, clear"),
            ("child_safety_views", Kind.INTEGER, "Looks at what was found to be sexual.minor_risk: should be none"),
            ("first_at", Kind.TIME, "First deed"),
            ("last_at", Kind.TIME, "Last deed"),
        ),
        keys=(Key("k_subject", "text"), Key("actor", "text")),
        totals={"reviews": "Verdicts given", "views": "Looks at media"},
    ),
    sql=f"""
SELECT subject, actor, count(verdict) AS reviews, count(*) FILTER (WHERE verdict = 'allow') AS allowed,
       count(*) FILTER (WHERE verdict = 'block') AS blocked, count(*) FILTER (WHERE verdict IS NOT NULL AND own) AS own_work,
       count(DISTINCT decision) FILTER (WHERE rendition IS NOT NULL) AS items_seen,
       count(*) FILTER (WHERE rendition = 'blurred') AS blurred_views, count(*) FILTER (WHERE rendition = 'clear') AS clear_views,
       count(*) FILTER (WHERE rendition IS NOT NULL AND never_shown) AS child_safety_views,
       min(at) AS first_at, max(at) AS last_at, coalesce(subject, '') AS k_subject
FROM (
    SELECT p.content AS subject, s.*, d.actor = s.actor OR appealed.actor IS NOT NULL AS own, d.categories @> ARRAY['sexual.minor_risk'] AS never_shown
    FROM ({_DEEDS}) s {DECISION}
    LEFT JOIN (SELECT DISTINCT a.decision, a.actor FROM facegate.appeal a WHERE a.tenant = :tenant) appealed
        ON appealed.decision = s.decision AND appealed.actor = s.actor
    LEFT JOIN facegate.personal p ON p.tenant = :tenant AND p.id = s.id AND p.id >= :least AND p.id < :beyond AND p.kind = 'subject'
) deeds GROUP BY subject, actor
""",  # noqa: S608  # pieces of ours
    first=(find_decisions(_DEEDS),),
    totals={"reviews": "coalesce(sum(reviews), 0)", "views": "coalesce(sum(blurred_views + clear_views), 0)"},
    scan=True,
)


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    row["share"], row["low"], row["high"] = share_with_interval(row["overturned"], row["reviewed"])
    return row


OVERTURNS: Final = Statement(
    report=Report(
        name="overturns",
        title="Automated verdicts that people overturned, with 95 % intervals",
        parameters=PERIOD,
        columns=columns(
            ("stage", Kind.TEXT, "Stage"),
            ("verdict", Kind.TEXT, "What the policy said"),
            ("decided", Kind.INTEGER, "Decisions of the period with this verdict"),
            ("reviewed", Kind.INTEGER, "Of these heard by a person before its end"),
            ("allowed", Kind.INTEGER, "A person's last word was `allow`"),
            ("blocked", Kind.INTEGER, "A person's last word was `block`"),
            ("overturned", Kind.INTEGER, "The last word differs from the verdict; of what was held, `allow` does"),
            ("share", Kind.SHARE, "Overturned of reviewed"),
            ("low", Kind.SHARE, "Wilson interval, lower end"),
            ("high", Kind.SHARE, "Wilson interval, upper end"),
            ("disputed", Kind.INTEGER, "Reviewed more than once, with different words"),
            ("appealed", Kind.INTEGER, "Appealed against"),
            ("appeals_succeeded", Kind.INTEGER, "Of these where the next review said otherwise than what stood"),
        ),
        keys=(Key("stage", "text"), Key("verdict", "text")),
        totals={"reviewed": "Decisions heard by a person", "overturned": "Of these overturned"},
    ),
    sql=f"""
WITH said AS (
    SELECT r.decision, (array_agg(r.verdict ORDER BY r.recorded_at DESC, r.id DESC))[1] AS verdict,
           count(DISTINCT r.verdict) > 1 AS disputed
    FROM facegate.review r WHERE r.tenant = :tenant AND r.id >= :least AND r.at < :until GROUP BY r.decision
),
reviewed AS (
    SELECT d.stage, d.verdict, count(*) AS reviewed, count(*) FILTER (WHERE s.verdict = 'allow') AS allowed,
           count(*) FILTER (WHERE s.verdict = 'block') AS blocked, count(*) FILTER (WHERE s.disputed) AS disputed
    FROM said s {DECISION} WHERE d.created_at >= :since AND d.created_at < :until AND d.automated GROUP BY d.stage, d.verdict
),
appealed AS (
    SELECT d.stage, d.verdict, count(*) AS appealed, count(*) FILTER (WHERE answer.verdict <> a.stood) AS upheld
    FROM facegate.appeal a JOIN facegate.decision d ON d.tenant = a.tenant AND d.id = a.decision
    LEFT JOIN LATERAL (
        SELECT r.verdict FROM facegate.review r WHERE r.tenant = a.tenant AND r.decision = a.decision AND r.recorded_at > a.recorded_at AND r.at < :until
        ORDER BY r.recorded_at, r.id LIMIT 1) answer ON true
    WHERE a.tenant = :tenant AND a.id >= :least AND a.at < :until AND {in_period("d")} AND d.automated GROUP BY d.stage, d.verdict
),
decided AS (
    SELECT d.stage, d.verdict, count(*) AS decided FROM facegate.decision d WHERE {in_period("d")} AND d.automated GROUP BY d.stage, d.verdict
)
SELECT c.stage, c.verdict, c.decided, coalesce(r.reviewed, 0) AS reviewed, coalesce(r.allowed, 0) AS allowed,
       coalesce(r.blocked, 0) AS blocked,
       CASE WHEN c.verdict = 'allow' THEN coalesce(r.blocked, 0) ELSE coalesce(r.allowed, 0) END AS overturned,
       NULL::float8 AS share, NULL::float8 AS low, NULL::float8 AS high, coalesce(r.disputed, 0) AS disputed,
       coalesce(p.appealed, 0) AS appealed, coalesce(p.upheld, 0) AS appeals_succeeded
FROM decided c
LEFT JOIN reviewed r ON r.stage = c.stage AND r.verdict = c.verdict
LEFT JOIN appealed p ON p.stage = c.stage AND p.verdict = c.verdict
""",  # noqa: S608  # pieces of ours
    first=(WITHIN,),
    shape=_with_interval,
    totals={"reviewed": "coalesce(sum(reviewed), 0)", "overturned": "coalesce(sum(overturned), 0)"},
    scan=True,
)
