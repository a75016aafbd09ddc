"""A random sample for auditors, drawn by stratum."""

from __future__ import annotations

from typing import Final

from moderation.adapters.reports.statement import LATEST_REVIEW, Statement, in_period, wire
from moderation.decision import Verdict
from moderation.media import Stage
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

MOST_PER_STRATUM: Final = 1000

# The draw is by the least SHA-256 of seed and id: anybody can repeat it from the ids, in any language, years later.
_DRAW: Final = "sha256(convert_to(:seed || ' ' || replace(d.id::text, '-', ''), 'UTF8'))"

RANDOM_AUDIT_SAMPLE: Final = Statement(
    report=Report(
        name="random_audit_sample",
        title="A random sample of decisions by stage and verdict",
        parameters=(
            *PERIOD,
            Parameter(
                name="seed",
                asked=Asked.TEXT,
                title="What the draw depends on; the same seed draws the same. By default a new one.",
                most=64,
            ),
            Parameter(name="per_stratum", asked=Asked.INTEGER, title="How many of each stratum.", default=20, most=MOST_PER_STRATUM),
            Parameter(name="stage", asked=Asked.CHOICE, title="One stage only.", choices=tuple(Stage)),
            Parameter(
                name="verdict",
                asked=Asked.CHOICE,
                title="One verdict only, `any` for all; by default what was allowed.",
                choices=(*Verdict, "any"),
                default="allow",
            ),
        ),
        columns=columns(
            ("stage", Kind.TEXT, "Stage, the stratum's"),
            ("verdict", Kind.TEXT, "Verdict, the stratum's"),
            ("stratum_size", Kind.INTEGER, "How many decisions the stratum has"),
            ("place", Kind.INTEGER, "Place in the draw, from 1"),
            ("decision", Kind.TEXT, "Decision"),
            ("at", Kind.TIME, "When"),
            ("media_sha256", Kind.TEXT, "Which bytes"),
            ("effective_verdict", Kind.TEXT, "What holds, people heard"),
            ("scores", Kind.JSON, "Highest score of each category by classifier, in millionths"),
            ("policy", Kind.TEXT, "Policy and version"),
        ),
        keys=(Key("stage", "text"), Key("verdict", "text"), Key("place", "bigint")),
        totals={"drawn": "Decisions drawn"},
    ),
    # Each stratum is drawn by itself, so that only as many as are drawn are kept while its ids are walked.
    sql=f"""
WITH strata AS MATERIALIZED (
    SELECT d.stage, d.verdict, count(*) AS stratum_size FROM facegate.decision d
    WHERE {in_period("d")} AND d.stage = coalesce(:stage, d.stage) AND (:verdict = 'any' OR d.verdict = :verdict)
    GROUP BY d.stage, d.verdict
),
drawn AS MATERIALIZED (
    SELECT s.stage, s.verdict, s.stratum_size, one.id, row_number() OVER (PARTITION BY s.stage, s.verdict ORDER BY one.draw) AS place
    FROM strata s CROSS JOIN LATERAL (
        SELECT d.id, {_DRAW} AS draw FROM facegate.decision d
        WHERE {in_period("d")} AND d.stage = s.stage AND d.verdict = s.verdict ORDER BY draw LIMIT :per_stratum
    ) one
)
SELECT w.stage, w.verdict, w.stratum_size, w.place, {wire("dec", "d.id")} AS decision, d.created_at AS at,
       encode(d.media_sha256, 'hex') AS media_sha256, coalesce(latest.verdict, d.verdict) AS effective_verdict,
       (SELECT jsonb_object_agg(c.name, (
            SELECT jsonb_object_agg(peak.category, peak.score) FROM (
                SELECT score.key AS category, max(score.value::text::bigint) AS score
                FROM jsonb_array_elements(d.sheets->(n.place::int - 1)->'frames') AS frame, jsonb_each(frame->'scores') AS score
                WHERE jsonb_typeof(score.value) = 'number' GROUP BY score.key) peak))
        FROM unnest(d.classifiers) WITH ORDINALITY AS n (id, place) JOIN facegate.classifier c ON c.id = n.id) AS scores,
       concat_ws(' ', d.policy_name, d.policy_version) AS policy
FROM drawn w JOIN facegate.decision d ON d.tenant = :tenant AND d.id = w.id {LATEST_REVIEW}
""",  # noqa: S608  # pieces of ours
    totals={"drawn": "count(*)"},
    scan=True,
)
