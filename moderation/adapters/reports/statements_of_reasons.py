"""DSA statements of reasons: one for each restriction, in the Transparency Database's words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from moderation.adapters.reports.statement import Statement, in_period, wire
from moderation.decision import Verdict
from moderation.dsa import Restriction, problems_in, statement_of
from moderation.media import Stage
from moderation.reports import PERIOD, Key, Kind, Report, columns


def _stated(row: dict[str, Any]) -> dict[str, Any]:
    statement = statement_of(
        Restriction(
            id=row["puid"],
            stage=Stage(row["stage"]),
            kind=row["media_kind"],
            category=row["of_category"],
            score=row["score"],
            threshold=row["threshold"],
            classifier=row["classifier"],
            policy=row["policy"],
            made_on=row["made_on"],
            said_on=row["said_on"],
            by_person=row["by_person"],
            before=Verdict(row["before"]),
            was_released=row["was_released"],
        )
    )
    texts = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(statement).items()}
    return {**row, **texts, "problems": list(problems_in(statement))}


_REASON: Final = """
d.reasons->0->>'category' AS of_category, (d.reasons->0->>'score')::int AS score, (d.reasons->0->>'threshold')::int AS threshold,
(SELECT concat_ws(' ', c.name, c.version) FROM facegate.classifier c
 WHERE c.id = ANY(d.classifiers) AND c.name = d.reasons->0->>'classifier' LIMIT 1) AS classifier,
d.policy_name || ' version ' || d.policy_version AS policy, d.created_at::date AS made_on, d.media_facts->>'kind' AS media_kind, d.stage
"""

_TOLD: Final = """
NULL AS decision_visibility, NULL AS decision_ground, NULL AS incompatible_content_ground, NULL AS incompatible_content_explanation,
NULL AS content_type, NULL AS category, NULL AS category_specification, NULL AS content_date, NULL AS application_date, NULL AS decision_facts,
NULL AS source_type, NULL AS automated_detection, NULL AS automated_decision, NULL AS problems
"""
"""The columns that are made of the others (`_stated`)."""

_BY_POLICY: Final = f"""
SELECT d.created_at AS at, {wire("dec", "d.id")} AS decision, {wire("dec", "d.id")} AS puid, d.id AS k_id, {_REASON},
       d.created_at::date AS said_on, NOT d.automated AS by_person, d.verdict AS before, false AS was_released, {_TOLD}
FROM facegate.decision d WHERE {in_period("d")} AND d.verdict = 'block'
"""  # noqa: S608  # pieces of ours

# A person's `block` is a restriction of its own unless what stood before it, by a person or by the policy, was one already.
# What stood is looked for in the months between decision and review.
_BY_PERSON: Final = f"""
SELECT r.at, {wire("dec", "d.id")} AS decision, {wire("rev", "r.id")} AS puid, r.id AS k_id, {_REASON},
       r.at::date AS said_on, true AS by_person, d.verdict AS before,
       EXISTS (SELECT FROM facegate.release_withdrawal w WHERE w.tenant = r.tenant AND w.review = r.id) AS was_released, {_TOLD}
FROM facegate.review r JOIN facegate.decision d ON d.tenant = r.tenant AND d.id = r.decision
WHERE {in_period("r", "at")} AND r.verdict = 'block' AND 'block' <> coalesce((
    SELECT p.verdict FROM facegate.review p
    WHERE p.tenant = r.tenant AND p.decision = r.decision AND (p.recorded_at, p.id) < (r.recorded_at, r.id)
      AND p.id >= facegate.uuid_floor(facegate.uuid_time(d.id) - interval '1 day')
      AND p.id < facegate.uuid_floor(facegate.uuid_time(r.id) + interval '1 day')
    ORDER BY p.recorded_at DESC, p.id DESC LIMIT 1), d.verdict)
"""  # noqa: S608  # pieces of ours

# How many there are: what stood before each word comes out of one walk over all words, and where there was none before, of the policy's blocks.
_SUMS: Final = f"""
SELECT (SELECT count(*) FROM facegate.decision d WHERE {in_period("d")} AND d.verdict = 'block') + (
    SELECT count(*) FROM (
        SELECT r.id, r.tenant, r.at, r.decision, r.verdict, lag(r.verdict) OVER (PARTITION BY r.decision ORDER BY r.recorded_at, r.id) AS stood
        FROM facegate.review r WHERE r.tenant = :tenant AND r.id < :beyond
    ) s
    WHERE {in_period("s", "at")} AND s.verdict = 'block' AND s.stood IS DISTINCT FROM 'block' AND (s.stood IS NOT NULL OR NOT EXISTS (
        SELECT FROM facegate.decision d WHERE d.tenant = :tenant AND d.id = s.decision AND d.verdict = 'block'))) AS statements
"""  # noqa: S608  # pieces of ours

DSA_STATEMENTS: Final = Statement(
    report=Report(
        name="dsa_statements",
        title="Statements of reasons, as the DSA Transparency Database takes them",
        parameters=PERIOD,
        columns=columns(
            ("at", Kind.TIME, "When the restriction was decided"),
            ("decision", Kind.TEXT, "The decision it is about"),
            ("puid", Kind.TEXT, "Unique: the id of the decision, or of the review that restricts"),
            ("decision_visibility", Kind.TEXTS, "Restriction"),
            ("decision_ground", Kind.TEXT, "Ground"),
            ("incompatible_content_ground", Kind.TEXT, "Contractual ground"),
            ("incompatible_content_explanation", Kind.TEXT, "Why it is incompatible with it"),
            ("content_type", Kind.TEXTS, "Type of content"),
            ("category", Kind.TEXT, "Category"),
            ("category_specification", Kind.TEXTS, "Keywords"),
            ("content_date", Kind.TEXT, "Date of the content"),
            ("application_date", Kind.TEXT, "Date of the restriction"),
            ("decision_facts", Kind.TEXT, "Facts and circumstances"),
            ("source_type", Kind.TEXT, "What led to it"),
            ("automated_detection", Kind.TEXT, "Detected by automated means"),
            ("automated_decision", Kind.TEXT, "Decided by automated means"),
            ("problems", Kind.TEXTS, "What the database would refuse: should be none"),
        ),
        keys=(Key("at", "timestamptz"), Key("k_id", "uuid")),
        newest_first=True,
        totals={"statements": "Statements due"},
    ),
    sql=_BY_POLICY,
    also=(_BY_PERSON,),
    shape=_stated,
    sums=_SUMS,
)
