"""All copies of the same bytes, and what became of each."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import CONSENTS, LATEST_REVIEW, Statement, consents_of, wire
from moderation.reports import Asked, Key, Kind, Parameter, Report, columns

_STATUS: Final = """
CASE WHEN g.transform IS NOT NULL THEN 'purged' WHEN w.transform IS NOT NULL THEN 'withdrawn' WHEN l.transform IS NOT NULL THEN 'released'
     WHEN x.transform IS NOT NULL THEN x.state WHEN s.id IS NOT NULL AND s.removed THEN 'removed from the catalogue'
     WHEN s.id IS NOT NULL THEN 'in the catalogue' END
"""

_BECAME: Final = """
LEFT JOIN facegate.release l ON l.tenant = :tenant AND l.transform = c.transform
LEFT JOIN facegate.release_withdrawal w ON w.tenant = :tenant AND w.transform = c.transform
LEFT JOIN facegate.release_purge g ON g.tenant = :tenant AND g.transform = c.transform
LEFT JOIN LATERAL (
    SELECT e.transform, e.state FROM facegate.transform_event e WHERE e.tenant = :tenant AND e.transform = c.transform
    ORDER BY e.sequence DESC LIMIT 1) x ON true
LEFT JOIN LATERAL (
    SELECT s.id, EXISTS (SELECT FROM facegate.source_event e WHERE e.tenant = :tenant AND e.source = s.id AND e.event = 'removed') AS removed
    FROM facegate.source s WHERE s.tenant = :tenant AND s.decision = c.id LIMIT 1) s ON true
"""

COPIES: Final = Statement(
    report=Report(
        name="copies",
        title="All copies of the same bytes and their status",
        parameters=(Parameter(name="media_sha256", asked=Asked.SHA256, title="Which bytes.", required=True),),
        columns=columns(
            ("at", Kind.TIME, "When"),
            ("seen_as", Kind.TEXT, "Stage at which these bytes were judged, or `signed` for a signed file of ours"),
            ("decision", Kind.TEXT, "The decision about them"),
            ("transform", Kind.TEXT, "The transform they belong to"),
            ("verdict", Kind.TEXT, "What the policy said"),
            ("effective_verdict", Kind.TEXT, "What holds, people heard"),
            ("status", Kind.TEXT, "What became of the transform or the catalogue's entry"),
            ("actor", Kind.TEXT, "The key that sent them"),
            *CONSENTS,
        ),
        keys=(Key("at", "timestamptz"), Key("k_id", "uuid")),
        newest_first=True,
        totals={},
    ),
    sql=f"""
SELECT c.at, c.seen_as, {wire("dec", "c.decision")} AS decision, {wire("trf", "c.transform")} AS transform, c.verdict, c.effective_verdict,
       {_STATUS} AS status, c.actor, {consents_of("c.transform")}, c.id AS k_id
FROM (
    SELECT d.id, d.created_at AS at, d.stage AS seen_as, d.id AS decision, d.transform, d.verdict,
           coalesce(latest.verdict, d.verdict) AS effective_verdict, d.actor
    FROM facegate.decision d {LATEST_REVIEW}
    WHERE d.tenant = :tenant AND d.media_sha256 = decode(:media_sha256, 'hex')
    UNION ALL
    SELECT p.transform, p.recorded_at, 'signed', NULL, p.transform, NULL, NULL, NULL FROM facegate.part p
    WHERE p.tenant = :tenant AND p.kind = 'signed' AND p.sha256 = decode(:media_sha256, 'hex')
) c {_BECAME}
""",  # noqa: S608  # pieces of ours
)
