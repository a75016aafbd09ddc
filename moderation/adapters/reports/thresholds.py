"""Which thresholds were in force, since when, and who brought them in."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import Statement
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

THRESHOLDS_IN_FORCE: Final = Statement(
    report=Report(
        name="thresholds_in_force",
        title="Thresholds in force during the period, and who changed them",
        parameters=(*PERIOD, Parameter(name="policy", asked=Asked.TEXT, title="This policy only.", most=64)),
        columns=columns(
            ("policy", Kind.TEXT, "Policy"),
            ("version", Kind.INTEGER, "Version"),
            ("since", Kind.TIME, "In force since"),
            ("until", Kind.TIME, "Until; null while it still is"),
            ("actor", Kind.TEXT, "The key that brought it in"),
            ("digest", Kind.TEXT, "Digest of the whole content"),
            ("category", Kind.TEXT, "Category or family"),
            ("classifier", Kind.TEXT, "The one classifier it is for; null: any"),
            ("stages", Kind.TEXTS, "Stages"),
            ("review_at", Kind.SCORE, "Held from"),
            ("block_at", Kind.SCORE, "Blocked from"),
            ("ignored", Kind.TEXTS, "Categories that this version leaves alone"),
        ),
        keys=(Key("policy", "text"), Key("version", "integer"), Key("k_place", "integer")),
        totals={},
    ),
    sql="""
WITH versions AS (
    SELECT p.name AS policy, p.version, e.at AS since, lead(e.at) OVER (PARTITION BY p.name ORDER BY p.version) AS until, e.actor, p.digest, p.content
    FROM facegate.policy p
    JOIN facegate.policy_event e ON e.tenant = p.tenant AND e.name = p.name AND e.version = p.version AND e.event = 'published'
    WHERE p.tenant = :tenant AND p.name = coalesce(:policy, p.name)
)
SELECT v.policy, v.version, v.since, v.until, v.actor, v.digest, rule->>'category' AS category, rule->>'classifier' AS classifier,
       ARRAY(SELECT jsonb_array_elements_text(rule->'stages')) AS stages, (rule->>'review_at')::int AS review_at,
       (rule->>'block_at')::int AS block_at, ARRAY(SELECT jsonb_array_elements_text(v.content->'ignore')) AS ignored, place::int AS k_place
FROM versions v, jsonb_array_elements(v.content->'rules') WITH ORDINALITY AS r (rule, place)
WHERE v.since < :until AND coalesce(v.until, 'infinity') > :since
""",
)
