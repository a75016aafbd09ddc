"""What is not as it must be in the log and in what it is about."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import PIECES, SLACK_AFTER, SLACK_BEFORE, Statement, of_period, wire
from moderation.log import OPERATOR
from moderation.reports import PERIOD, Key, Kind, Report, columns

SEALED_WITHIN_S: Final = 60
"""An entry that is not in the log so long after it was written is a gap, and not one that is on its way."""

_FIND_LOG: Final = "SELECT EXISTS (SELECT FROM facegate.log) AS is_logged"

_FIND_LAST_RELEASE: Final = """
SELECT coalesce(max(l.id::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS released FROM facegate.release l
WHERE l.tenant = :tenant AND l.transform >= :first AND l.transform < :last
"""


def _compared(low: str, high: str) -> str:
    """Entries of a stretch of ids beside their leaves and decisions, as far as they do not agree.

    Each comes out of one index (of leaves also the row) in the order of ids, so that all three are walked through once, side by side.
    """
    return f"""
    SELECT coalesce(s.id, d.id) AS id, s.kind, s.log, s.index, s.is_same, s.id IS NULL AS has_no_entry, d.id IS NULL AS has_no_decision,
           NULL::timestamptz AS at, NULL AS told
    FROM (
        SELECT e.id, e.kind, f.log, f.index, f.hash = e.leaf AS is_same FROM facegate.entry e
        LEFT JOIN facegate.leaf f ON f.entry = e.id AND f.entry >= {low} AND f.entry < {high}
        WHERE e.tenant = :tenant AND e.id >= {low} AND e.id < {high}
    ) s
    FULL JOIN (SELECT d.id FROM facegate.decision d WHERE d.tenant = :tenant AND d.id >= {low} AND d.id < {high}) d ON d.id = s.id
    WHERE s.id IS NULL OR d.id IS NULL AND s.kind = 'decision' OR s.is_same IS NOT TRUE AND (s.log IS NOT NULL OR :is_logged)"""  # noqa: S608  # ours


_UNLIKE: Final = tuple(_compared(f":piece_{piece}", f":piece_{piece + 1}") for piece in range(PIECES))
_COMPARED: Final = f"""
SELECT CASE WHEN m.has_no_entry THEN (SELECT d.recorded_at FROM facegate.decision d WHERE {of_period("d")} AND d.id = m.id)
            ELSE (SELECT e.recorded_at FROM facegate.entry e WHERE {of_period("e")} AND e.id = m.id) END AS at,
       g.gap, g.kind, g.id, g.position
FROM found m
CROSS JOIN LATERAL (VALUES
    ('not in the log', m.kind, m.id::text, NULL, NOT m.has_no_entry AND m.log IS NULL AND :is_logged),
    ('not what was sealed', m.kind, m.id::text, m.log || ':' || m.index, NOT m.is_same),
    ('no entry', 'decision', {wire("dec", "m.id")}, NULL, m.has_no_entry),
    ('no decision', m.kind, {wire("dec", "m.id")}, NULL, m.has_no_decision AND m.kind = 'decision')
) AS g (gap, kind, id, position, is_one)
WHERE m.told IS NULL AND g.is_one AND (g.gap <> 'not in the log' OR (
    SELECT e.recorded_at FROM facegate.entry e WHERE {of_period("e")} AND e.id = m.id) < clock_timestamp() - interval '{SEALED_WITHIN_S} seconds')
"""  # noqa: S608  # ours

# What everybody may read and is nobody's, such as the keys of the log, is looked at for each tenant.
_OF_OPERATOR: Final = f"e.tenant = '{OPERATOR}' AND e.id >= :first AND e.id < :last"
_UNSEALED: Final = f"""
SELECT e.recorded_at, 'not in the log', e.kind, e.id::text, NULL FROM facegate.entry e
WHERE {_OF_OPERATOR} AND e.recorded_at < clock_timestamp() - interval '{SEALED_WITHIN_S} seconds' AND :is_logged
  AND NOT EXISTS (SELECT FROM facegate.leaf f WHERE f.entry = e.id)
"""  # noqa: S608  # ours
_EDITED: Final = f"""
SELECT e.recorded_at, 'not what was sealed', e.kind, e.id::text, f.log || ':' || f.index
FROM facegate.entry e CROSS JOIN LATERAL (SELECT f.log, f.index, f.hash FROM facegate.leaf f WHERE f.entry = e.id OFFSET '0') f
WHERE {_OF_OPERATOR} AND f.hash <> e.leaf
"""  # noqa: S608  # ours

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


def _lacking(rows: str, kind: str, told: str) -> str:
    """Rows `r` without an entry, in the columns of `_compared`."""
    return f"SELECT r.id, '{kind}', NULL::int, NULL::bigint, NULL::boolean, true, NULL::boolean, r.recorded_at, {told} FROM {rows}"  # noqa: S608  # ours


def _without_entry(table: str, kind: str, prefix: str | None, about: str) -> str:
    told = f"r.{about}::text" if prefix is None else wire(prefix, f"r.{about}")
    rows = f"""facegate.{table} r
    WHERE {of_period("r")}
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE {of_period("e")} AND e.id = r.id AND e.kind = '{kind}')"""
    return _lacking(rows, kind, told)


_UNRELEASED: Final = _lacking(
    """facegate.release r WHERE r.tenant = :tenant AND r.transform >= :first AND r.transform < :last
      AND NOT EXISTS (SELECT FROM facegate.entry e WHERE e.tenant = :tenant AND e.id BETWEEN :first AND :released AND e.id = r.id AND e.kind = 'release')""",
    "release",
    wire("trf", "r.transform"),
)

# Of what was sealed about the time of the period no index may be missing. That is counted first, within the key's index.
_FIND_SPANS: Final = f"""
SELECT coalesce(json_agg(s), '[]')::text AS spans, coalesce(min(s.begins), 0) AS lowest, coalesce(max(s.beyond), 0) AS highest FROM (
    SELECT l.number AS log,
           coalesce((SELECT s.size FROM facegate.seal s WHERE s.log = l.number AND s.sealed_at < CAST(:since AS timestamptz) - interval '{SLACK_AFTER.days} days'
                     ORDER BY s.sealed_at DESC LIMIT 1), 0) AS begins,
           coalesce((SELECT s.size FROM facegate.seal s WHERE s.log = l.number AND s.sealed_at > CAST(:until AS timestamptz) + interval '{SLACK_BEFORE.days} days'
                     ORDER BY s.sealed_at LIMIT 1), (SELECT max(s.size) FROM facegate.seal s WHERE s.log = l.number), 0) AS beyond
    FROM facegate.log l
) s
"""  # noqa: S608  # ours
_SPANS: Final = "json_to_recordset(CAST(:spans AS json)) AS s (log int, begins bigint, beyond bigint)"
_FIND_BROKEN: Final = f"""
SELECT coalesce(json_agg(s), '[]')::text AS broken FROM {_SPANS} LEFT JOIN (
    SELECT s.log, count(*) AS there FROM facegate.leaf f JOIN {_SPANS} ON s.log = f.log AND f.index >= s.begins AND f.index < s.beyond
    WHERE f.index >= :lowest AND f.index < :highest GROUP BY s.log
) counted ON counted.log = s.log WHERE coalesce(counted.there, 0) <> s.beyond - s.begins
"""  # noqa: S608  # ours
_HOLES: Final = """
SELECT i.log, i.former + 1 AS begins, i.index - 1 AS ends
FROM (SELECT b.log, f.index, lag(f.index, 1, b.begins - 1) OVER (PARTITION BY b.log ORDER BY f.index) AS former
      FROM json_to_recordset(CAST(:broken AS json)) AS b (log int, begins bigint, beyond bigint) CROSS JOIN LATERAL (
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
    # What is looked for in whole months is one union, which several processes share.
    sql=f"""
WITH found AS MATERIALIZED ({" UNION ALL ".join((*_UNLIKE, _UNRELEASED, *(_without_entry(*row) for row in _ROWS)))})
SELECT g.at, g.gap, g.kind, g.id, g.position, concat_ws(' ', g.gap, g.position, g.id) AS k_id FROM (
    {_COMPARED}
    UNION ALL
    {_UNSEALED}
    UNION ALL
    {_EDITED}
    UNION ALL
    SELECT f.at, 'no entry', f.kind, f.told, NULL FROM found f WHERE f.told IS NOT NULL
    UNION ALL
    SELECT CAST(:since AS timestamptz), 'indexes are missing', NULL, NULL, h.log || ':' || h.begins || '-' || h.ends FROM ({_HOLES}) h
) g
""",  # noqa: S608  # pieces of ours
    first=(_FIND_LOG, _FIND_LAST_RELEASE, _FIND_SPANS, _FIND_BROKEN),
    merging=True,
    totals={"gaps": "count(*)"},
)
