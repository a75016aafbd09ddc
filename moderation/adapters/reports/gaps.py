"""What is not as it must be in the log and in what it is about."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, of_period, wire
from moderation.reports import PERIOD, Key, Kind, Report, columns

SEALED_WITHIN_S: Final = 60
"""An entry that is not in the log so long after it was written is a gap, and not one that is on its way."""

_FIND_LAST_RELEASE: Final = """
SELECT coalesce(max(l.id::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS released FROM facegate.release l
WHERE l.tenant = :tenant AND l.transform >= :first AND l.transform < :last
"""

LOG_GAPS: Final = Statement(
    report=Report(
        name="log_gaps",
        title="Gaps and edits in the log: must be empty",
        # The period is that of the ids: what was begun in it.
        parameters=PERIOD,
        columns=columns(
            ("at", Kind.TIME, "When it was written, as far as that is known"),
            ("gap", Kind.TEXT, "What is wrong"),
            ("kind", Kind.TEXT, "Kind of entry"),
            ("id", Kind.TEXT, "What it is about"),
            ("position", Kind.TEXT, "Log and index, where there is one"),
        ),
        keys=(Key("at", "timestamptz"), Key("k_id", "text")),
        totals={"gaps": "Gaps"},
    ),
    # Decisions and entries are compared by their ids alone, each in its key's index; what an entry is, only of those that are no decision's.
    sql=f"""
SELECT g.at, g.gap, g.kind, g.id, g.position, concat_ws(' ', g.gap, g.position, g.id) AS k_id FROM (
    SELECT e.recorded_at AS at, 'not in the log' AS gap, e.kind, e.id::text AS id, NULL AS position
    FROM facegate.entry e
    WHERE {of_period("e")} AND e.recorded_at < clock_timestamp() - interval '{SEALED_WITHIN_S} seconds'
      AND EXISTS (SELECT FROM facegate.log)
      AND NOT EXISTS (SELECT FROM facegate.leaf f WHERE f.entry = e.id AND f.entry >= :first AND f.entry < :last)
    UNION ALL
    SELECT e.recorded_at, 'not what was sealed', e.kind, e.id::text, f.log || ':' || f.index
    FROM facegate.entry e JOIN facegate.leaf f ON f.entry = e.id AND f.entry >= :first AND f.entry < :last
    WHERE {of_period("e")} AND f.hash <> e.leaf
    UNION ALL
    SELECT d.recorded_at, 'no entry', 'decision', {wire("dec", "d.id")}, NULL FROM facegate.decision d
    WHERE {of_period("d")}
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE {of_period("e")} AND e.id = d.id)
    UNION ALL
    SELECT e.recorded_at, 'no decision', e.kind, {wire("dec", "e.id")}, NULL
    FROM (
        SELECT o.id FROM facegate.entry o
        WHERE {of_period("o")} AND NOT EXISTS (SELECT FROM facegate.decision d WHERE {of_period("d")} AND d.id = o.id)
    ) others
    JOIN facegate.entry e ON e.id = others.id AND {of_period("e")} WHERE e.kind = 'decision'
    UNION ALL
    SELECT r.recorded_at, 'no entry', 'review', {wire("rev", "r.id")}, NULL FROM facegate.review r
    WHERE {of_period("r")}
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE {of_period("e")} AND e.id = r.id AND e.kind = 'review')
    UNION ALL
    SELECT l.recorded_at, 'no entry', 'release', {wire("trf", "l.transform")}, NULL FROM facegate.release l
    WHERE l.tenant = :tenant AND l.transform >= :first AND l.transform < :last
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE e.tenant = :tenant AND e.id BETWEEN :first AND :released AND e.id = l.id AND e.kind = 'release')
    UNION ALL
    SELECT CAST(:since AS timestamptz), 'indexes are missing', NULL, NULL, f.log || ':' || (f.index + 1) || '-' || (f.next - 1)
    FROM (SELECT f.log, f.index, lead(f.index) OVER (PARTITION BY f.log ORDER BY f.index) AS next FROM facegate.leaf f
          WHERE f.log IN (SELECT c.log FROM facegate.leaf c GROUP BY c.log HAVING count(*) <> max(c.index) + 1)) f
    WHERE f.next > f.index + 1
) g
""",  # noqa: S608  # pieces of ours
    first=(_FIND_LAST_RELEASE,),
    totals={"gaps": "count(*)"},
)
