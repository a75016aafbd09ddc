"""What was to be deleted, what was, and what stays because it is held."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement, in_period, wire
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

_KINDS: Final = ("released file", "erasure", "hold", "month", "sweep")

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
    sql=f"""
WITH held AS MATERIALIZED (SELECT id, array_agg(DISTINCT {wire("hld", "hold")}) AS holds FROM facegate.held() GROUP BY id)
SELECT e.*, concat_ws(' ', kind, id, coalesce(detail->>'relation', ''), coalesce(detail->>'month', '')) AS k_id FROM (
    SELECT least(l.expires_at, w.at) AS at, 'released file' AS kind, {wire("trf", "l.transform")} AS id,
           CASE WHEN g.transform IS NULL THEN 'due' ELSE 'done' END AS status, g.purged_at AS done_at,
           CASE WHEN g.transform IS NULL THEN 0 ELSE 1 END::bigint AS removed, CASE WHEN g.transform IS NULL THEN 1 ELSE 0 END::bigint AS kept,
           CASE WHEN g.transform IS NULL THEN coalesce(k.holds, '{{}}') ELSE '{{}}' END AS why_kept, NULL AS actor, g.result AS detail
    FROM facegate.release l
    LEFT JOIN facegate.release_withdrawal w ON w.tenant = l.tenant AND w.transform = l.transform
    LEFT JOIN facegate.release_purge g ON g.tenant = l.tenant AND g.transform = l.transform AND g.purged_at < :until
    LEFT JOIN held k ON k.id = l.transform
    WHERE l.tenant = :tenant
    UNION ALL
    SELECT e.at, 'erasure', {wire("era", "e.id")}, CASE WHEN e.held + e.in_progress > 0 OR NOT e.is_complete THEN 'partly' ELSE 'done' END,
           e.at, e.erased, e.held + e.in_progress, ARRAY(SELECT {wire("hld", "h")} FROM unnest(e.holds) AS h), e.actor,
           jsonb_build_object('selector', e.selector, 'in_progress', e.in_progress, 'is_complete', e.is_complete)
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
    FROM facegate.sweep s WHERE {in_period("s", "at")}
) e WHERE at >= :since AND at < :until AND kind = coalesce(:kind, kind)
""",  # noqa: S608  # pieces of ours
    totals={"due": "count(*) FILTER (WHERE status = 'due')"},
)
