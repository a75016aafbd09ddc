"""A random sample for auditors, drawn by stratum."""

from __future__ import annotations

from itertools import product
from typing import Final

from moderation.adapters.reports.statement import LATEST_REVIEW, Statement, in_period, wire
from moderation.decision import Verdict
from moderation.media import Stage
from moderation.reports import PERIOD, Asked, Key, Kind, Parameter, Report, columns

MOST_PER_STRATUM: Final = 1000

# The draw is by the least SHA-256 of seed and id: anybody can repeat it from the ids, in any language, years later.
_DRAW: Final = "sha256(decode(:seed_hex, 'hex') || encode(uuid_send(d.id), 'hex')::bytea)"

_WANTED: Final = f"""
{in_period("d")} AND (CAST(:stage AS text) IS NULL OR d.stage = :stage) AND (:verdict = 'any' OR d.verdict = :verdict)
"""

# Hashes are spread evenly, so that the least of a stratum lie below a bound that follows from its size, and only what is below need be
# put in order. Where `n` are wanted, `n` + 12 roots of `n` + 80 are expected below: that fewer than `n` are has a chance of less than 1e-30.
_EXPECTED: Final = "(:per_stratum + 12 * sqrt(:per_stratum) + 80)"
_EVERYTHING: Final = "ffffffffff"
_PLACES: Final = tuple(product(Stage, Verdict))


def _bound(size: str, times: int = 1) -> str:
    """Below what the hashes of `times` as many as are expected lie, of a stratum of this size."""
    share = f"{times} * {_EXPECTED} / ({size})"
    return f"CASE WHEN {share} < 1 THEN lpad(to_hex(floor({share} * 4294967296)::bigint), 8, '0') ELSE '{_EVERYTHING}' END"


def _by_place(bound: str, default: str, prefix: str) -> str:
    """Bounds of strata as columns, one for each stage and verdict, so that they are constants where hashes are looked at."""
    return ", ".join(
        f"coalesce(min({bound}) FILTER (WHERE stage = '{stage}' AND verdict = '{verdict}'), '{default}') AS {prefix}_{stage}_{verdict}"
        for stage, verdict in _PLACES
    )


def _is_below(prefix: str) -> str:
    """Whether the hash of `d` is below the bound of its stratum."""
    of_stage = " ".join(
        f"WHEN '{stage}' THEN CASE d.verdict "
        + " ".join(f"WHEN '{verdict}' THEN decode(:{prefix}_{stage}_{verdict}, 'hex')" for verdict in Verdict)
        + " END"
        for stage in Stage
    )
    return f"{_DRAW} < CASE d.stage {of_stage} END"


# How large strata are is guessed from some pages of the tables, wherever in the period decisions are crowded. In the same walk that counts
# them, what is below a bound for four times as many as are expected is kept; of a stratum that is hardly on these pages, all.
_PER_CENT: Final = 0.2
_GUESSED_FROM: Final = 20
_GUESS: Final = f"""
SELECT encode(convert_to(:seed || ' ', 'UTF8'), 'hex') AS seed_hex, {_by_place(_bound(f"seen * 100 / {_PER_CENT}", 4), _EVERYTHING, "guess")} FROM (
    SELECT d.stage, d.verdict, count(*) AS seen FROM facegate.decision d TABLESAMPLE SYSTEM ({_PER_CENT}) WHERE {_WANTED}
    GROUP BY d.stage, d.verdict HAVING count(*) >= {_GUESSED_FROM}
) seen
"""  # noqa: S608  # pieces of ours

# What was guessed too large has fewer below than are wanted: it is walked through again, below the bound of its size.
_STRATA: Final = f"""
SELECT coalesce(json_agg(json_build_object('stage', stage, 'verdict', verdict, 'stratum_size', stratum_size,
                                           'low', CASE WHEN is_short THEN '{{}}' ELSE low END)), '[]')::text AS strata,
       coalesce(bool_or(is_short), false) AS is_short, {_by_place(f"CASE WHEN is_short THEN {_bound('stratum_size')} END", "", "again")}
FROM (
    SELECT s.*, coalesce(cardinality(low), 0) < least(stratum_size, :per_stratum) AS is_short FROM (
        SELECT d.stage, d.verdict, count(*) AS stratum_size, array_agg(d.id) FILTER (WHERE {_is_below("guess")}) AS low
        FROM facegate.decision d WHERE {_WANTED} GROUP BY d.stage, d.verdict) s
) sized
"""  # noqa: S608  # pieces of ours

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
    sql=f"""
WITH strata AS (
    SELECT * FROM json_to_recordset(CAST(:strata AS json)) AS s (stage text, verdict text, stratum_size bigint, low uuid[])
),
low AS (
    SELECT s.stage, s.verdict, d.id FROM strata s CROSS JOIN LATERAL unnest(s.low) AS d (id)
    UNION ALL
    SELECT d.stage, d.verdict, d.id FROM facegate.decision d WHERE CAST(:is_short AS boolean) AND {_WANTED} AND {_is_below("again")}
),
drawn AS MATERIALIZED (
    SELECT * FROM (
        SELECT d.stage, d.verdict, s.stratum_size, d.id, row_number() OVER (PARTITION BY d.stage, d.verdict ORDER BY {_DRAW}) AS place
        FROM low d JOIN strata s ON s.stage = d.stage AND s.verdict = d.verdict
    ) placed WHERE place <= :per_stratum
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
FROM drawn w CROSS JOIN LATERAL (SELECT * FROM facegate.decision d WHERE d.tenant = :tenant AND d.id = w.id OFFSET '0') d {LATEST_REVIEW}
""",  # noqa: S608  # pieces of ours
    first=(_GUESS, _STRATA),
    sums="""
SELECT coalesce(sum(least(s.stratum_size, :per_stratum)), 0) AS drawn FROM json_to_recordset(CAST(:strata AS json)) AS s (stratum_size bigint)
""",
    scan=True,
)
