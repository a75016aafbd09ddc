"""Replay in tables against `decide` itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.decision import Verdict
from moderation.media import MediaKind, Stage, Unscreened
from moderation.policy import KOfN, Policy, Rule, decide
from moderation.replay import Circumstances, Replay
from tests.builders import CATEGORIES, make_classifier_version, make_facts, make_policy, make_rule, make_sheet

SCORES = st.integers(0, 1_000_000) | st.sampled_from([0, 1, 199_999, 200_000, 449_999, 450_000, 600_000, 1_000_000])
THRESHOLDS = st.none() | st.sampled_from([1, 200_000, 450_000, 600_000, 1_000_000])
VERSIONS = tuple(make_classifier_version(name, categories=CATEGORIES, calibrated=True) for name in ("one", "two"))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    def rule(category: str) -> Rule | None:
        given_ones = sorted(t for t in (draw(THRESHOLDS), draw(THRESHOLDS)) if t is not None)
        if not given_ones:
            return None
        two = len(given_ones) == 2
        which = draw(st.booleans())
        return make_rule(
            category,
            review_at=given_ones[0] if two or which else None,
            block_at=given_ones[-1] if two or not which else None,
            stages=frozenset(draw(st.sets(st.sampled_from(Stage), min_size=1))),
        )

    rules = [found for found in map(rule, ("sexual", *CATEGORIES)) if found] or [make_rule("sexual")]
    ignored = draw(st.sets(st.sampled_from(CATEGORIES)))
    kept = tuple(found for found in rules if found.category not in ignored)
    combine = draw(st.sampled_from([None, KOfN(k=1, n=2), KOfN(k=2, n=2)]))
    requires = draw(st.sets(st.sampled_from(["sexual", *CATEGORIES]))) - ignored
    return make_policy(*kept, ignore=tuple(ignored), combine=combine, requires=tuple(requires)) if kept else make_policy()


@given(policies(), st.sampled_from(Stage), st.integers(1, 2), st.sets(st.sampled_from(Unscreened)), st.data())
@settings(max_examples=100, deadline=None)
def test_a_table_of_scores_gets_the_verdicts_that_decide_gives_one_by_one(
    policy: Policy, stage: Stage, judges: int, unscreened: set[Unscreened], data: st.DataObject
) -> None:
    which = Circumstances(stage=stage, classifiers=VERSIONS[:judges], unscreened=tuple(sorted(unscreened)))
    width = len(which.columns)
    rows = data.draw(st.lists(st.lists(SCORES, min_size=width, max_size=width), min_size=1, max_size=8))
    facts = make_facts(unscreened=which.unscreened)
    expected: dict[Verdict, list[int]] = {}
    once = Replay(policy)
    for number, row in enumerate(rows):
        sheets = [
            make_sheet(dict(zip(CATEGORIES, row[place * 2 : place * 2 + 2], strict=True)), classifier=version)
            for place, version in enumerate(which.classifiers)
        ]
        verdict = once.once(stage=stage, facts=facts, required=which.classifiers, sheets=sheets)
        if verdict is not Verdict.ERROR:
            assert verdict is decide(stage=stage, facts=facts, required=which.classifiers, sheets=sheets, policy=policy).verdict
        expected.setdefault(verdict, []).append(number)
    found = {verdict: (count, first) for verdict, count, first in Replay(policy).many(which, np.array(rows, np.int64))}
    assert found == {verdict: (len(numbers), numbers[0]) for verdict, numbers in expected.items()}


@given(policies(), st.sampled_from(Stage), st.lists(st.lists(SCORES, min_size=2, max_size=2), min_size=1, max_size=6), st.data())
@settings(max_examples=100, deadline=None)
def test_films_that_reach_the_same_thresholds_get_the_verdict_of_decide(
    policy: Policy, stage: Stage, rows: list[list[int]], data: st.DataObject
) -> None:
    facts = make_facts(kind=MediaKind.ANIMATION, frames=len(rows))
    replay = Replay(policy)
    required = VERSIONS[:1]
    for _ in range(3):
        frames = [dict(zip(CATEGORIES, [max(0, score - data.draw(st.integers(0, 1))) for score in row], strict=True)) for row in rows]
        sheets = [make_sheet(*frames, classifier=required[0])]
        verdict = replay.once(stage=stage, facts=facts, required=required, sheets=sheets)
        assert verdict is Replay(policy).once(stage=stage, facts=facts, required=required, sheets=sheets)
        if verdict is not Verdict.ERROR:
            assert verdict is decide(stage=stage, facts=facts, required=required, sheets=sheets, policy=policy).verdict


def test_more_categories_than_digits_fit_are_told_apart_all_the_same() -> None:
    version = make_classifier_version(categories=tuple(f"test.marker_{number}" for number in range(45)))
    which = Circumstances(stage=Stage.UPLOAD, classifiers=(version,))
    table = np.zeros((46, 45), np.int64)
    table[np.arange(45), np.arange(45)] = 500_000
    policy = make_policy(make_rule("test", block_at=500_000, review_at=None))
    assert sorted(Replay(policy).many(which, table)) == [(Verdict.ALLOW, 1, 45), (Verdict.BLOCK, 45, 0)]


def test_a_policy_that_nobody_could_have_applied_says_error() -> None:
    which = Circumstances(stage=Stage.UPLOAD, classifiers=VERSIONS[:1])
    table = np.zeros((3, 2), np.int64)
    uncovered = make_policy(make_rule("sexual.nudity_explicit"))
    never_ran = make_policy(make_rule("sexual"), make_rule("sexual.suggestive", classifier="third"))
    never_heard = make_policy(make_rule("sexual"), make_rule("violence"), requires=("violence",))
    for policy in (uncovered, never_ran, never_heard):
        assert Replay(policy).many(which, table) == [(Verdict.ERROR, 3, 0)]


def test_a_classifier_that_the_policy_ignores_is_not_heard() -> None:
    other = make_classifier_version("weather", categories=("ctx.medical",))
    which = Circumstances(stage=Stage.UPLOAD, classifiers=(VERSIONS[0], other))
    assert Replay(make_policy()).many(which, np.array([[0, 0, 1_000_000]])) == [(Verdict.ALLOW, 1, 0)]
