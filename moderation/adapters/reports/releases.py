"""Releases against the decisions that must allow them, and outputs that were blocked although what went in had passed."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import CONSENTS, Statement, consents_of, in_period, wire
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

_OF_PERIOD: Final = "l.tenant = :tenant AND l.released_at >= :since AND l.released_at < :until AND l.transform < :beyond"

# Between which ids everything lies that these releases name: a constant, so that other months are left out.
_FIND_BOUNDS: Final = f"""
SELECT coalesce(min(least(l.transform, l.source_decision, l.target_decision, l.output_decision)::text COLLATE "C"),
                'ffffffff-ffff-ffff-ffff-ffffffffffff') AS oldest,
       coalesce(max(greatest(l.id, l.transform, l.source_decision, l.target_decision, l.output_decision)::text COLLATE "C"),
                '00000000-0000-0000-0000-000000000000') AS newest
FROM facegate.release l WHERE {_OF_PERIOD}
"""  # noqa: S608  # pieces of ours

# `moderation.gate.lacking` as the record has it: what is missing, the policies that ask for it, and the transforms without it.
_LACKS: Final = (
    ("consent", "p.content->>'consent' = 'required'", "l.consent_basis IS NULL"),
    ("target consent", "p.content->>'target_consent' = 'required'", "l.target_consent_basis IS NULL"),
    ("catalogue source", "p.content->>'sources' = 'catalogue'", "l.catalogue_source IS NULL"),
    ("label", "p.content->'label'->>'visible' = 'true'", "l.is_labelled IS NOT TRUE"),
)
_LACKING: Final = " UNION ALL ".join(
    f"""
    SELECT l.transform, '{what}' FROM released l
    JOIN facegate.policy p ON p.tenant = :tenant AND p.name = l.policy_name AND p.version IN (l.pinned_version, l.in_force_version) AND {asked}
    WHERE {is_lacking}"""  # noqa: S608  # pieces of ours
    for what, asked, is_lacking in _LACKS
)

RELEASED_WITHOUT_CHECKS: Final = Statement(
    report=Report(
        name="released_without_checks",
        title="Released without all checks: must be empty",
        parameters=PERIOD,
        columns=columns(
            ("released_at", Kind.TIME, "When"),
            ("transform", Kind.TEXT, "Transform"),
            ("signed_sha256", Kind.TEXT, "The released file"),
            ("missing", Kind.TEXTS, "What should be there and is not"),
            *CONSENTS,
        ),
        keys=(Key("released_at", "timestamptz"), Key("k_transform", "uuid")),
        totals={"missing": "Releases without all checks", "releases": "Releases looked at"},
        newest_first=True,
    ),
    # An anti-join. A decision counts if it is about exactly these bytes at this stage of this transform, was recorded before the
    # release, and allowed: by the policy, or by a person what the policy held. What people say later ends a release and does not
    # undo that it was allowed.
    sql=f"""
WITH released AS MATERIALIZED (
    SELECT l.transform, l.id, l.released_at, l.recorded_at, l.signed_sha256, l.encoded_sha256, l.source_decision, l.target_decision,
           l.output_decision, l.policy_name, l.pinned_version, l.in_force_version, t.source_sha256, t.target_sha256, t.consent_basis,
           t.target_consent_basis, t.catalogue_source, CAST(t.options->>'label' AS boolean) AS is_labelled FROM facegate.release l
    JOIN facegate.transform t ON t.tenant = :tenant AND t.id = l.transform AND t.id BETWEEN :oldest AND :newest
    WHERE {_OF_PERIOD} AND l.transform >= :oldest
),
checks AS MATERIALIZED (
    SELECT transform, recorded_at, 'source' AS stage, source_decision AS decision, source_sha256 AS sha256 FROM released
    UNION ALL SELECT transform, recorded_at, 'target', target_decision, target_sha256 FROM released
    UNION ALL SELECT transform, recorded_at, 'output', output_decision, encoded_sha256 FROM released
),
said AS (
    SELECT DISTINCT ON (c.transform, c.stage) c.transform, c.stage, r.verdict
    FROM checks c JOIN facegate.review r ON r.tenant = :tenant AND r.id >= :oldest AND r.decision = c.decision
        AND r.recorded_at <= c.recorded_at
    ORDER BY c.transform, c.stage, r.recorded_at DESC, r.id DESC
),
missing AS (
    SELECT c.transform, c.stage AS what FROM checks c
    LEFT JOIN facegate.decision d ON d.tenant = :tenant AND d.id = c.decision AND d.id BETWEEN :oldest AND :newest AND d.stage = c.stage
        AND d.transform = c.transform AND d.transform IS NOT NULL -- both in one index, with all that is asked of it
        AND d.media_sha256 = c.sha256 AND d.recorded_at <= c.recorded_at AND d.verdict IN ('allow', 'review')
    LEFT JOIN said s ON s.transform = c.transform AND s.stage = c.stage
    WHERE coalesce(s.verdict, d.verdict) IS DISTINCT FROM 'allow' OR d.id IS NULL
    UNION ALL
    SELECT l.transform, 'segment ' || p.number FROM released l
    JOIN facegate.part p ON p.tenant = :tenant AND p.transform = l.transform AND p.kind = 'segment'
        AND p.transform BETWEEN :oldest AND :newest
    WHERE NOT EXISTS (
        SELECT FROM facegate.decision d
        WHERE d.tenant = :tenant AND d.transform = l.transform AND d.stage = 'output' AND d.media_sha256 = p.sha256 AND d.id >= :oldest
          AND d.recorded_at <= l.recorded_at
          AND (d.verdict = 'allow' OR (d.verdict = 'review' AND EXISTS (
              SELECT FROM facegate.review r
              WHERE r.tenant = :tenant AND r.decision IN (d.id, l.output_decision) AND r.verdict = 'allow'
                AND r.recorded_at <= l.recorded_at))))
    UNION ALL
    SELECT l.transform, 'signed file' FROM released l
    LEFT JOIN facegate.part p ON p.tenant = :tenant AND p.transform = l.transform AND p.kind = 'signed'
        AND p.transform BETWEEN :oldest AND :newest
        AND p.sha256 = l.signed_sha256 AND p.made_of = l.encoded_sha256
    WHERE p.transform IS NULL
    UNION ALL
    SELECT l.transform, 'entry' FROM released l
    LEFT JOIN facegate.entry e ON e.tenant = :tenant AND e.id = l.id AND e.id BETWEEN :oldest AND :newest AND e.kind = 'release'
    WHERE e.id IS NULL
    UNION ALL {_LACKING}
)
SELECT l.released_at, {wire("trf", "l.transform")} AS transform, encode(l.signed_sha256, 'hex') AS signed_sha256,
       array_agg(DISTINCT m.what ORDER BY m.what) AS missing, l.consent_basis AS consent, l.target_consent_basis AS target_consent,
       l.transform AS k_transform
FROM released l JOIN missing m ON m.transform = l.transform
GROUP BY l.released_at, l.transform, l.signed_sha256, l.consent_basis, l.target_consent_basis
""",  # noqa: S608  # pieces of ours
    totals={"missing": "count(*)", "releases": f"(SELECT count(*) FROM facegate.release l WHERE {_OF_PERIOD})"},  # noqa: S608
    first=(_FIND_BOUNDS,),
)


def _passed(stage: str) -> str:
    """The decision that let the input of `d` pass, the last one before it."""
    return f"""CROSS JOIN LATERAL (
    SELECT s.id FROM facegate.decision s WHERE s.tenant = d.tenant AND s.transform = d.transform AND s.stage = '{stage}' AND s.id < d.id AND s.id < :beyond
        AND s.verdict IN ('allow', 'review') ORDER BY s.id DESC LIMIT 1) {stage}"""  # noqa: S608  # ours


_BLOCKED: Final = f"""
FROM facegate.decision d
{_passed("source")}
{_passed("target")}
WHERE {in_period("d")} AND d.stage = 'output' AND d.verdict = 'block'
  AND (CAST(:classifier AS text) IS NULL OR d.reasons @> jsonb_build_array(jsonb_build_object('verdict', 'block', 'classifier', CAST(:classifier AS text))))
"""

# Counted in indexes: outputs in one that has nothing else, what let their inputs pass in that of transforms.
_SUMS: Final = f"""
SELECT stopped.blocked, made.outputs
FROM (SELECT count(*) AS blocked {_BLOCKED}) stopped,
     (SELECT count(*) AS outputs FROM facegate.decision d WHERE {in_period("d")} AND d.stage = 'output' AND d.verdict <> 'error') made
"""  # noqa: S608  # pieces of ours

OUTPUT_BLOCKED: Final = Statement(
    report=Report(
        name="output_blocked_after_pass",
        title="Outputs blocked although source and target passed, by classifier",
        parameters=(*PERIOD, Parameter(name="classifier", asked=Asked.TEXT, title="Blocked by this classifier only.", most=200)),
        columns=columns(
            ("at", Kind.TIME, "When the output was judged"),
            ("transform", Kind.TEXT, "Transform"),
            ("decision", Kind.TEXT, "The decision about the output"),
            ("classifiers", Kind.TEXTS, "Which classifiers blocked, with their versions"),
            ("swapper", Kind.TEXT, "What had changed the picture"),
            ("category", Kind.TEXT, "Of the gravest reason"),
            ("score", Kind.SCORE, "Its score"),
            ("threshold", Kind.SCORE, "The threshold it reached"),
            ("source_decision", Kind.TEXT, "The decision that let the source pass"),
            ("target_decision", Kind.TEXT, "The decision that let the target pass"),
            *CONSENTS,
        ),
        keys=(Key("at", "timestamptz"), Key("k_id", "uuid")),
        newest_first=True,
        totals={"blocked": "Outputs blocked after source and target passed", "outputs": "Outputs judged"},
    ),
    sql=f"""
SELECT d.created_at AS at, {wire("trf", "d.transform")} AS transform, {wire("dec", "d.id")} AS decision,
       ARRAY(SELECT DISTINCT concat_ws(' ', reason->>'classifier', c.version) FROM jsonb_array_elements(d.reasons) AS reason
             LEFT JOIN facegate.classifier c ON c.id = ANY(d.classifiers) AND c.name = reason->>'classifier'
             WHERE reason->>'verdict' = 'block' AND reason ? 'classifier' ORDER BY 1) AS classifiers,
       (SELECT p.swapper FROM facegate.part p WHERE p.tenant = d.tenant AND p.transform = d.transform AND p.kind = 'encoded') AS swapper,
       d.reasons->0->>'category' AS category, (d.reasons->0->>'score')::int AS score, (d.reasons->0->>'threshold')::int AS threshold,
       {wire("dec", "source.id")} AS source_decision, {wire("dec", "target.id")} AS target_decision, {consents_of("d.transform")},
       d.id AS k_id
{_BLOCKED}""",  # noqa: S608  # pieces of ours
    sums=_SUMS,
)
