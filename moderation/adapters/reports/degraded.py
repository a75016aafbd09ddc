"""Decisions taken while something of ours was missing, and how each was resolved."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import CONSENTS, Statement, consents_of, in_period, wire
from moderation.adapters.tables import FAULTS
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

_SHORT: Final = f"""
{in_period("d")} AND d.verdict IN ('error', 'block') AND {FAULTS}
  AND (CAST(:classifier AS text) IS NULL OR d.reasons @> jsonb_build_array(jsonb_build_object('verdict', 'error', 'classifier', CAST(:classifier AS text))))
"""
_LATER: Final = """
s.tenant = d.tenant AND s.media_sha256 = d.media_sha256 AND s.id > d.id AND s.id >= :least AND s.id < :beyond AND s.stage = d.stage AND s.verdict <> 'error'
AND s.created_at < :until AND (d.transform IS NULL OR s.transform = d.transform)
"""
"""What a full decision `s` about the same is that came after `d`."""

# Both come out of indexes. Whether anything came after is looked for in each month's index of media, in its order, so that each page of it is
# read once.
_SUMS: Final = f"""
SELECT short.degraded, short.degraded - resolved.resolved AS unresolved
FROM (SELECT count(*) AS degraded FROM facegate.decision d WHERE {_SHORT}) short,
     (SELECT count(*) AS resolved FROM (SELECT d.tenant, d.id, d.stage, d.media_sha256, d.transform FROM facegate.decision d WHERE {_SHORT}
                                        ORDER BY d.media_sha256 OFFSET '0') d
      WHERE EXISTS (SELECT FROM facegate.decision s WHERE {_LATER})) resolved
"""  # noqa: S608  # pieces of ours

DEGRADED: Final = Statement(
    report=Report(
        name="degraded_decisions",
        title="Decisions taken while a classifier, the decoder or scores were missing",
        parameters=(*PERIOD, Parameter(name="classifier", asked=Asked.TEXT, title="With a fault of this classifier only.", most=200)),
        columns=columns(
            ("at", Kind.TIME, "When"),
            ("decision", Kind.TEXT, "Decision"),
            ("stage", Kind.TEXT, "Stage"),
            ("verdict", Kind.TEXT, "`error`, or `block` on what was there"),
            ("faults", Kind.TEXTS, "What was missing, with the classifier"),
            ("transform", Kind.TEXT, "Transform"),
            ("resolved_by", Kind.TEXT, "The next full decision about the same bytes, before the end of the period"),
            ("resolved_verdict", Kind.TEXT, "Its verdict; null while there is none"),
            ("resolved_after_s", Kind.SECONDS, "After how long"),
            *CONSENTS,
        ),
        keys=(Key("at", "timestamptz"), Key("k_id", "uuid")),
        newest_first=True,
        totals={"degraded": "Decisions with a fault of ours", "unresolved": "Of these without a full decision by the end of the period"},
    ),
    sql=f"""
SELECT d.created_at AS at, {wire("dec", "d.id")} AS decision, d.stage, d.verdict,
       ARRAY(SELECT DISTINCT concat_ws(' ', reason->>'code', reason->>'classifier') FROM jsonb_array_elements(d.reasons) AS reason
             WHERE reason->>'verdict' = 'error' ORDER BY 1) AS faults,
       {wire("trf", "d.transform")} AS transform, {wire("dec", "later.id")} AS resolved_by, later.verdict AS resolved_verdict,
       extract(epoch FROM later.created_at - d.created_at)::float8 AS resolved_after_s, {consents_of("d.transform")}, d.id AS k_id
FROM facegate.decision d
LEFT JOIN LATERAL (
    SELECT s.id, s.verdict, s.created_at FROM facegate.decision s WHERE {_LATER}
    ORDER BY s.id LIMIT 1
) later ON true
WHERE {_SHORT}
""",  # noqa: S608  # pieces of ours
    sums=_SUMS,
    probing=True,
)
