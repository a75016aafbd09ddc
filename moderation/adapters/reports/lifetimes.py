"""What was to be deleted, what was, and what stays because it is held."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, in_period, wire
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

_KINDS: Final = ("released file", "erasure", "hold", "month", "sweep")

# Which holds are on released files now, by transform: looked up once, and for nothing else that they are on.
_FIND_HELD: Final = f"""
SELECT coalesce(jsonb_object_agg(h.id, h.holds), '{{}}')::text AS held FROM (
    SELECT h.id, jsonb_agg(DISTINCT {wire("hld", "h.hold")}) AS holds FROM facegate.held() h
    JOIN facegate.release l ON l.tenant = :tenant AND l.transform = h.id GROUP BY h.id
) h
"""  # noqa: S608  # pieces of ours

_WITHDRAWAL: Final = "facegate.release_withdrawal w WHERE w.tenant = l.tenant AND w.transform = l.transform"
_PURGE: Final = "facegate.release_purge g ON g.tenant = :tenant AND g.transform = l.transform AND g.purged_at < :until"


def _rows(rows: str) -> str:
    """What of `rows` is asked for, with the last of the keys."""
    return f"""
SELECT e.*, concat_ws(' ', kind, id, coalesce(detail->>'relation', ''), coalesce(detail->>'month', '')) AS k_id FROM ({rows}) e
WHERE at >= :since AND at < :until AND kind = coalesce(:kind, kind)
"""  # noqa: S608  # pieces of ours


def _released(at: str, releases: str) -> str:
    """Released files that are due at a time."""
    return _rows(f"""
    SELECT {at} AS at, 'released file' AS kind, {wire("trf", "l.transform")} AS id,
           CASE WHEN g.transform IS NULL THEN 'due' ELSE 'done' END AS status, g.purged_at AS done_at,
           CASE WHEN g.transform IS NULL THEN 0 ELSE 1 END::bigint AS removed, CASE WHEN g.transform IS NULL THEN 1 ELSE 0 END::bigint AS kept,
           CASE WHEN g.transform IS NULL THEN ARRAY(SELECT jsonb_array_elements_text(CAST(:held AS jsonb)->(l.transform::text))) ELSE '{{}}' END AS why_kept,
           NULL AS actor, g.result AS detail
    FROM {releases} LEFT JOIN {_PURGE}""")  # noqa: S608  # pieces of ours


# Nearly all are due when they expire, and come out of an index in this order.
_EXPIRING: Final = _released(
    "l.expires_at",
    f"(SELECT * FROM facegate.release l WHERE l.tenant = :tenant AND NOT EXISTS (SELECT FROM {_WITHDRAWAL})) l",  # noqa: S608  # ours
)
_WITHDRAWN: Final = _released(
    "least(l.expires_at, w.at)",
    "facegate.release l JOIN facegate.release_withdrawal w ON w.tenant = :tenant AND w.transform = l.transform AND l.tenant = :tenant",
)
_OTHERS: Final = _rows(f"""
    SELECT e.at, 'erasure' AS kind, {wire("era", "e.id")} AS id, CASE WHEN e.held + e.in_progress > 0 OR NOT e.is_complete THEN 'partly' ELSE 'done' END AS status,
           e.at AS done_at, e.erased::bigint AS removed, (e.held + e.in_progress)::bigint AS kept,
           ARRAY(SELECT {wire("hld", "h")} FROM unnest(e.holds) AS h) AS why_kept, e.actor,
           jsonb_build_object('selector', e.selector, 'in_progress', e.in_progress, 'is_complete', e.is_complete) AS detail
    FROM facegate.erasure e WHERE e.tenant = :tenant
    UNION ALL
    SELECT h.at, 'hold', {wire("hld", "h.id")}, CASE WHEN r.hold IS NULL THEN 'in force' ELSE 'done' END, r.at, 0, 0, ARRAY[]::text[],
           h.actor, jsonb_build_object('decision', {wire("dec", "h.decision")}, 'transform', {wire("trf", "h.transform")},
               'sha256', encode(h.sha256, 'hex'),
               'said', (SELECT jsonb_object_agg(p.kind, p.content) FROM facegate.personal p WHERE p.tenant = h.tenant AND p.id = h.id))
    FROM facegate.hold h LEFT JOIN facegate.hold_release r ON r.tenant = h.tenant AND r.hold = h.id AND r.at < :until
    WHERE h.tenant = :tenant
    UNION ALL
    SELECT m.at, 'month', m.id::text, CASE WHEN m.kept > 0 THEN 'partly' ELSE 'done' END, m.at, m.dropped, m.kept, ARRAY[]::text[], m.actor,
           jsonb_build_object('month', m.month, 'relation', m.relation, 'first_id', m.first_id, 'last_id', m.last_id)
    FROM facegate.month_purge m WHERE m.tenant = :tenant
    UNION ALL
    SELECT s.at, 'sweep', s.id::text, CASE WHEN s.held > 0 THEN 'partly' ELSE 'done' END, s.at, s.removed, s.held, ARRAY[]::text[], s.actor,
           jsonb_build_object('swept', s.what, 'first_id', s.first_id, 'last_id', s.last_id, 'since', s.since)
    FROM facegate.sweep s WHERE {in_period("s", "at")}""")  # noqa: S608  # pieces of ours

# Nothing but a released file can be due.
_SUMS: Final = f"""
SELECT count(*) AS due FROM facegate.release l
LEFT JOIN facegate.release_withdrawal w ON w.tenant = :tenant AND w.transform = l.transform LEFT JOIN {_PURGE}
WHERE l.tenant = :tenant AND least(l.expires_at, w.at) >= :since AND least(l.expires_at, w.at) < :until AND g.transform IS NULL
  AND coalesce(:kind, 'released file') = 'released file'
"""  # noqa: S608  # pieces of ours

ERASURES: Final = Statement(
    report=Report(
        name="erasures",
        title="Purges, erasures and holds: due, done, and what stays with its reason",
        parameters=(*PERIOD, Parameter(name="kind", asked=Asked.CHOICE, title="One kind only.", choices=_KINDS)),
        columns=columns(
            ("at", Kind.TIME, "When it was due, asked for or laid"),
            ("kind", Kind.TEXT, f"One of {', '.join(_KINDS)}"),
            ("id", Kind.TEXT, "The transform, erasure, hold or run it is about"),
            ("status", Kind.TEXT, "`due`, `done`, `partly` (something stays) or `in force`"),
            ("done_at", Kind.TIME, "When it was done or ended"),
            ("removed", Kind.INTEGER, "How much is gone: files, texts or rows"),
            ("kept", Kind.INTEGER, "How much stays"),
            ("why_kept", Kind.TEXTS, "The holds that keep it; for a released file those that are in force now"),
            ("actor", Kind.TEXT, "The key or program"),
            ("detail", Kind.JSON, "Proof of deletion as it was recorded, or what the hold is on"),
        ),
        keys=(Key("at", "timestamptz"), Key("k_id", "text")),
        newest_first=True,
        totals={"due": "Due and not done at the end of the period"},
    ),
    sql=_EXPIRING,
    also=(_WITHDRAWN, _OTHERS),
    first=(_FIND_HELD,),
    sums=_SUMS,
)
