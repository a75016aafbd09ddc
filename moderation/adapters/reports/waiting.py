"""How long what needed a person waited for one."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, in_period, wire
from moderation.reports import PERIOD, Key, Kind, Report, columns

NEAREST: Final = 20
"""Open items that are named."""

_AGE: Final = "extract(epoch FROM CAST(:until AS timestamptz) - noticed_at)"


def _has_ended(transform: str) -> str:
    """Whether there is nothing to act on any more. Looked up for each, since few are asked about; EXISTS would read all months."""
    return f"""coalesce((SELECT true FROM facegate.transform_event x WHERE x.tenant = :tenant AND x.transform = {transform}
               AND x.state IN ('released', 'denied', 'failed', 'cancelled') AND x.recorded_at < :until LIMIT 1), false)"""  # noqa: S608  # ours


# Of which transforms something was held in the period: other months have no segment that matters.
_FIND_TRANSFORMS: Final = f"""
SELECT coalesce(min(d.transform::text COLLATE "C"), 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS oldest,
       coalesce(max(d.transform::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS newest
FROM facegate.decision d WHERE {in_period("d")} AND d.verdict = 'review' AND d.transform IS NOT NULL
"""  # noqa: S608  # pieces of ours

TIME_TO_ACTION: Final = Statement(
    report=Report(
        name="time_to_action",
        title="Time from notice to action, and what is open near 48 hours and 14 days",
        parameters=PERIOD,
        columns=columns(
            ("notice", Kind.TEXT, "`held`: a policy, also a newer one at the release, held it for a person; `appeal`: somebody appealed"),
            ("noticed", Kind.INTEGER, "How many in the period"),
            ("acted", Kind.INTEGER, "Of these answered by a review before its end"),
            ("median_s", Kind.SECONDS, "Median of the answered"),
            ("p95_s", Kind.SECONDS, "95th percentile"),
            ("worst_s", Kind.SECONDS, "Longest"),
            ("acted_after_48h", Kind.INTEGER, "Answered later than 48 hours"),
            ("ended", Kind.INTEGER, "Over before anybody had looked, because their transform had ended"),
            ("open", Kind.INTEGER, "Open at the end of the period"),
            ("open_near_48h", Kind.INTEGER, "Of these 36 to 48 hours old"),
            ("open_past_48h", Kind.INTEGER, "Older than 48 hours"),
            ("open_near_14d", Kind.INTEGER, "12 to 14 days old"),
            ("open_past_14d", Kind.INTEGER, "Older than 14 days"),
            ("oldest", Kind.JSON, f"The {NEAREST} oldest open ones: id, decision, age in seconds"),
        ),
        keys=(Key("notice", "text"),),
        totals={"open": "Open at the end of the period"},
    ),
    first=(_FIND_TRANSFORMS,),
    # As of the end of the period, so that the same question has the same answer later.
    sql=f"""
WITH first_word AS (
    SELECT r.decision, min(r.at) AS at FROM facegate.review r
    WHERE r.tenant = :tenant AND r.id >= :least AND r.at < :until GROUP BY r.decision
),
segments AS MATERIALIZED (
    SELECT d.id FROM facegate.part p
    JOIN facegate.decision d ON d.tenant = :tenant AND d.transform = p.transform AND d.transform IS NOT NULL AND d.media_sha256 = p.sha256
    WHERE p.tenant = :tenant AND p.kind = 'segment' AND p.transform BETWEEN :oldest AND :newest
),
overtaken AS (
    SELECT CAST(e.held->>'decision' AS uuid) AS decision, e.transform, min(e.recorded_at) AS at FROM facegate.transform_event e
    WHERE e.tenant = :tenant AND e.transform >= :least AND e.state = 'held' AND e.recorded_at < :until GROUP BY e.held->>'decision', e.transform
),
notices AS (
    SELECT 'held' AS notice, d.id AS decision, {wire("dec", "d.id")} AS id, d.created_at AS noticed_at, w.at AS acted_at,
           CASE WHEN w.at IS NULL AND d.transform IS NOT NULL THEN {_has_ended("d.transform")} ELSE false END AS has_ended
    FROM facegate.decision d LEFT JOIN first_word w ON w.decision = d.id
    WHERE {in_period("d")} AND d.verdict = 'review'
      AND NOT EXISTS (SELECT FROM segments WHERE segments.id = d.id) -- a segment of a video waits with the whole
    UNION ALL
    SELECT 'held', o.decision, {wire("dec", "o.decision")}, o.at, w.at, CASE WHEN w.at IS NULL THEN {_has_ended("o.transform")} ELSE false END
    FROM overtaken o JOIN facegate.decision d ON d.tenant = :tenant AND d.id = o.decision AND d.verdict <> 'review'
    LEFT JOIN LATERAL (
        SELECT min(r.at) AS at FROM facegate.review r
        WHERE r.tenant = :tenant AND r.decision = o.decision AND r.recorded_at > o.at AND r.at < :until) w ON true
    WHERE o.at >= :since
    UNION ALL
    SELECT 'appeal', a.decision, {wire("apl", "a.id")}, a.at, (
        SELECT min(r.at) FROM facegate.review r
        WHERE r.tenant = a.tenant AND r.decision = a.decision AND r.recorded_at > a.recorded_at AND r.at < :until), false
    FROM facegate.appeal a WHERE {in_period("a", "at")}
),
aged AS (
    SELECT n.*, extract(epoch FROM acted_at - noticed_at)::float8 AS waited_s,
           CASE WHEN acted_at IS NULL AND NOT has_ended THEN {_AGE}::float8 END AS age_s
    FROM notices n
)
SELECT notice, count(*) AS noticed, count(acted_at) AS acted,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY waited_s) AS median_s, percentile_cont(0.95) WITHIN GROUP (ORDER BY waited_s) AS p95_s,
       max(waited_s) AS worst_s, count(*) FILTER (WHERE waited_s > 48 * 3600) AS acted_after_48h,
       count(*) FILTER (WHERE has_ended) AS ended, count(age_s) AS open, count(*) FILTER (WHERE age_s >= 36 * 3600 AND age_s <= 48 * 3600) AS open_near_48h,
       count(*) FILTER (WHERE age_s > 48 * 3600) AS open_past_48h,
       count(*) FILTER (WHERE age_s >= 12 * 86400 AND age_s <= 14 * 86400) AS open_near_14d,
       count(*) FILTER (WHERE age_s > 14 * 86400) AS open_past_14d,
       coalesce((SELECT jsonb_agg(jsonb_build_object('id', o.id, 'decision', {wire("dec", "o.decision")}, 'age_s', round(o.age_s))
                                  ORDER BY o.age_s DESC)
                 FROM (SELECT * FROM aged i WHERE i.notice = a.notice AND i.age_s IS NOT NULL ORDER BY i.age_s DESC LIMIT {NEAREST}) o),
                '[]') AS oldest
FROM aged a GROUP BY notice
""",  # noqa: S608  # pieces of ours
    totals={"open": "coalesce(sum(open), 0)"},
    scan=True,
)
