"""What is not as it must be in the log and in what it is about."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, of_period, wire
from moderation.log import OPERATOR
from moderation.reports import PERIOD, Key, Kind, Report, columns

SEALED_WITHIN_S: Final = 60
"""An entry that is not in the log so long after it was written is a gap, and not one that is on its way."""

_FIND_LAST_RELEASE: Final = """
SELECT coalesce(max(l.id::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS released FROM facegate.release l
WHERE l.tenant = :tenant AND l.transform >= :first AND l.transform < :last
"""

# What everybody may read and is nobody's, such as the keys of the log, is looked at for each tenant.
_TENANTS: Final = (":tenant", f"'{OPERATOR}'")


def _unsealed(tenant: str) -> str:
    """Entries that are on no tree."""
    return f"""
    SELECT e.recorded_at AS at, 'not in the log' AS gap, e.kind, e.id::text AS id, NULL AS position
    FROM facegate.entry e
    WHERE e.tenant = {tenant} AND e.id >= :first AND e.id < :last AND e.recorded_at < clock_timestamp() - interval '{SEALED_WITHIN_S} seconds'
      AND EXISTS (SELECT FROM facegate.log)
      AND NOT EXISTS (SELECT FROM facegate.leaf f WHERE f.entry = e.id AND f.entry >= :first AND f.entry < :last)"""  # noqa: S608  # ours


def _edited(tenant: str) -> str:
    """Entries whose leaf is of other bytes."""
    return f"""
    SELECT e.recorded_at, 'not what was sealed', e.kind, e.id::text, f.log || ':' || f.index
    FROM facegate.entry e JOIN facegate.leaf f ON f.entry = e.id AND f.entry >= :first AND f.entry < :last
    WHERE e.tenant = {tenant} AND e.id >= :first AND e.id < :last AND f.hash <> e.leaf"""  # noqa: S608  # ours


# Tables whose rows have an entry of the same id: what it is, the prefix of what is told (None: callers do not know it), and the column that tells it.
_ROWS: Final = (
    ("review", "review", "rev", "id"),
    ("review_view", "view", "dec", "decision"),
    ("appeal", "appeal", "apl", "id"),
    ("hold", "hold", "hld", "id"),
    ("hold_release", "hold", "hld", "hold"),
    ("erasure", "erasure", "era", "id"),
    ("release_withdrawal", "withdrawal", "trf", "transform"),
    ("release_purge", "purge", "trf", "transform"),
    ("sweep", "purge", None, "id"),
    ("shadow", "shadow", "dec", "decision"),
)


def _without_entry(table: str, kind: str, prefix: str | None, about: str) -> str:
    told = f"r.{about}::text" if prefix is None else wire(prefix, f"r.{about}")
    return f"""
    SELECT r.recorded_at, 'no entry', '{kind}', {told}, NULL FROM facegate.{table} r
    WHERE {of_period("r")}
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE {of_period("e")} AND e.id = r.id AND e.kind = '{kind}')"""  # noqa: S608  # ours


# Between the leaf before those of the period and the one after them, or the end of what is sealed, no index may be missing; of a log
# without a leaf of the period all of it is looked at. That is counted first, within the key's index.
_HOLES: Final = """
WITH of_period AS (
    SELECT f.log, min(f.index) AS low, max(f.index) AS high FROM facegate.leaf f WHERE f.entry >= :first AND f.entry < :last GROUP BY f.log
), span AS (
    SELECT l.number AS log, coalesce((SELECT max(f.index) + 1 FROM facegate.leaf f WHERE f.log = l.number AND f.index < p.low), 0) AS begins,
           coalesce((SELECT min(f.index) FROM facegate.leaf f WHERE f.log = l.number AND f.index > p.high),
                    greatest((SELECT max(s.size) FROM facegate.seal s WHERE s.log = l.number), p.high + 1)) AS beyond
    FROM facegate.log l LEFT JOIN of_period p ON p.log = l.number
), broken AS (
    SELECT s.* FROM span s
    WHERE (SELECT count(*) FROM facegate.leaf f WHERE f.log = s.log AND f.index >= s.begins AND f.index < s.beyond) <> s.beyond - s.begins
)
SELECT i.log, i.former + 1 AS begins, i.index - 1 AS ends
FROM (SELECT b.log, f.index, lag(f.index, 1, b.begins - 1) OVER (PARTITION BY b.log ORDER BY f.index) AS former
      FROM broken b CROSS JOIN LATERAL (
          SELECT f.index FROM facegate.leaf f WHERE f.log = b.log AND f.index >= b.begins AND f.index < b.beyond UNION ALL SELECT b.beyond) f) i
WHERE i.index > i.former + 1
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
    {" UNION ALL ".join(map(_unsealed, _TENANTS))}
    UNION ALL
    {" UNION ALL ".join(map(_edited, _TENANTS))}
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
    SELECT l.recorded_at, 'no entry', 'release', {wire("trf", "l.transform")}, NULL FROM facegate.release l
    WHERE l.tenant = :tenant AND l.transform >= :first AND l.transform < :last
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE e.tenant = :tenant AND e.id BETWEEN :first AND :released AND e.id = l.id AND e.kind = 'release')
    UNION ALL
    {" UNION ALL ".join(_without_entry(*row) for row in _ROWS)}
    UNION ALL
    SELECT CAST(:since AS timestamptz), 'indexes are missing', NULL, NULL, h.log || ':' || h.begins || '-' || h.ends FROM ({_HOLES}) h
) g
""",  # noqa: S608  # pieces of ours
    first=(_FIND_LAST_RELEASE,),
    totals={"gaps": "count(*)"},
)
