"""What holds for every policy, every classifier and every score."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moderation.audit import decision_entry, evidence_of
from moderation.decision import Outcome, PolicyRef, Verdict
from moderation.errors import PolicyRefused
from moderation.media import Facts, Media, MediaKind, Stage, Unscreened
from moderation.policy import InputSampling, KOfN, Policy, Rule, check_coverage, decide
from moderation.scores import ONE, ClassifierScores, FrameScores
from moderation.taxonomy import family_of
from tests.builders import make_classifier_version, make_decision, make_facts, make_policy, make_sheet

RANK = {Verdict.ALLOW: 0, Verdict.REVIEW: 1, Verdict.ERROR: 2, Verdict.BLOCK: 3}
CATEGORIES = ("sexual", "sexual.activity", "sexual.suggestive", "violence", "violence.graphic", "ctx.medical")
NAMES = ("one", "two", "three")
LEVELS = (0, 1, 199_999, 200_000, 333_333, 449_999, 450_000, 700_000, ONE)
SCORES = st.sampled_from(LEVELS)
THRESHOLDS = (1, 200_000, 333_333, 450_000, ONE)


@dataclass(frozen=True, kw_only=True)
class Case:
    """All arguments of `decide`, complete and well-formed."""

    stage: Stage
    facts: Facts
    policy: Policy
    sheets: tuple[ClassifierScores, ...]

    @property
    def required(self):
        return [sheet.classifier for sheet in self.sheets]

    def decide(self, **changes) -> Outcome:
        arguments = {"stage": self.stage, "facts": self.facts, "required": self.required, "sheets": self.sheets, "policy": self.policy}
        return decide(**{**arguments, **changes})


BOUNDS: list[tuple[int | None, int | None]] = [(low, high) for low in THRESHOLDS for high in THRESHOLDS if low <= high]
BOUNDS += [(None, high) for high in THRESHOLDS] + [(low, None) for low in THRESHOLDS]


def _rule(category: str, bounds: tuple[int | None, int | None], classifier: str | None = None) -> Rule:
    return Rule(category=category, review_at=bounds[0], block_at=bounds[1], classifier=classifier)


POLICIES = st.builds(
    lambda family, other, particular, ignore, requires, combine, sampling, unscreened: make_policy(
        _rule("sexual", family),
        _rule("violence", other),
        _rule("ctx", (1, None)),
        *particular,
        ignore=ignore,
        requires=requires,
        combine=combine,
        sampling=sampling,
        unscreened=dict.fromkeys(Unscreened, unscreened),
    ),
    family=st.sampled_from(BOUNDS),
    other=st.sampled_from(BOUNDS),
    particular=st.lists(
        st.builds(
            _rule, st.sampled_from(["sexual.activity", "violence.graphic"]), st.sampled_from(BOUNDS), st.sampled_from([None, *NAMES])
        ),
        max_size=3,
        unique_by=lambda rule: (rule.category, rule.classifier),
    ),
    ignore=st.sampled_from([(), ("sexual.suggestive",), ("sexual.suggestive", "ctx.medical")]),
    requires=st.sampled_from([(), ("sexual",), ("violence", "sexual.activity")]),
    combine=st.sampled_from([None, KOfN(k=1, n=2), KOfN(k=2, n=2), KOfN(k=2, n=3)]),
    sampling=st.sampled_from(
        [
            InputSampling(isolated_at_block=alone, run=KOfN(k=k, n=n))
            for alone in (Verdict.REVIEW, Verdict.BLOCK)
            for k, n in ((2, 3), (1, 1), (3, 3), (2, 5))
        ]
    ),
    unscreened=st.sampled_from([Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK]),
)
"""Family rules for everything, so that they cover; some classes, some named classifiers, some ignored."""


@st.composite
def cases(draw, quiet: bool = False):
    """`quiet` makes those that are allowed. All scores of a case come from one draw, which keeps this fast."""
    frames = draw(st.integers(1, 6))
    columns = [(name, category) for name in draw(CLASSIFIERS) for category in draw(EMITTED)]
    levels = iter(
        bytes(len(columns) * frames) if quiet else draw(st.binary(min_size=len(columns) * frames, max_size=len(columns) * frames))
    )
    rows = [{column: LEVELS[next(levels) % len(LEVELS)] for column in columns} for _ in range(frames)]
    sheets = tuple(_sheet(name, rows) for name in dict.fromkeys(name for name, _ in columns))
    return Case(
        stage=draw(st.sampled_from(Stage)),
        facts=make_facts(
            frames=frames,
            kind=draw(st.sampled_from(MediaKind)),
            unscreened=() if quiet else tuple(draw(st.sets(st.sampled_from(Unscreened)))),
        ),
        policy=_counting_on(sheets, draw(POLICIES)),
        sheets=sheets,
    )


def _counting_on(sheets: tuple[ClassifierScores, ...], policy: Policy) -> Policy:
    """The same policy, counting on none but these classifiers and on what they say; k of n where as many judge each family."""
    names = {sheet.classifier.name for sheet in sheets}
    rules = tuple(rule for rule in policy.rules if rule.classifier is None or rule.classifier in names)
    said = {c for sheet in sheets for c in sheet.classifier.categories if not policy.is_ignored(c)}
    requires = tuple(category for category in policy.requires if category in said | {*map(family_of, said)})
    judged = [{family_of(c) for c in sheet.classifier.categories if not policy.is_ignored(c)} for sheet in sheets]
    voices = {sum(family in families for families in judged) for family in set().union(*judged)}
    n = voices.pop() if len(voices) == 1 else 0
    combine = KOfN(k=min(policy.combine.k, n), n=n) if policy.combine and n else None
    return replace(policy, combine=combine, rules=rules, requires=requires)


CLASSIFIERS = st.sampled_from([NAMES[:1], NAMES[1:], NAMES, NAMES[::-1]])
EMITTED = st.sampled_from([("sexual",), CATEGORIES[:2], CATEGORIES[2:4], CATEGORIES[::2], CATEGORIES[4:], ("violence", "sexual.activity")])


def _sheet(name: str, rows: list[dict[tuple[str, str], int]]) -> ClassifierScores:
    own = [{category: score for (who, category), score in row.items() if who == name} for row in rows]
    return make_sheet(*own, classifier=make_classifier_version(name, tuple(own[0])))


def with_score(sheet: ClassifierScores, frame: int, category: str, score: Any) -> ClassifierScores:
    rows = [replace(row, scores={**row.scores, category: score}) if row.frame == frame else row for row in sheet.frames]
    return replace(sheet, frames=tuple(rows))


# --- could not judge is never allow -------------------------------------------------------------------

NOT_SCORES = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, None, True, False, "0.100000", -1, ONE + 1]),
    st.floats(),
    st.integers(max_value=-1),
    st.integers(min_value=ONE + 1),
)


@given(cases(quiet=True))
def test_a_complete_quiet_sheet_is_allowed(case):
    assert case.decide().verdict is Verdict.ALLOW


@given(cases(quiet=True), NOT_SCORES, st.data())
def test_one_score_that_is_none_is_never_allow(case, wrong, data):
    at = data.draw(st.integers(0, len(case.sheets) - 1))
    sheet = case.sheets[at]
    spoiled = with_score(
        sheet, data.draw(st.integers(0, case.facts.frames - 1)), data.draw(st.sampled_from(sheet.classifier.categories)), wrong
    )
    sheets = [*case.sheets[:at], spoiled, *case.sheets[at + 1 :]]
    assert case.decide(sheets=sheets).verdict is Verdict.ERROR


@given(cases(), st.data())
def test_a_short_sheet_is_error_or_block(case, data):
    at = data.draw(st.integers(0, len(case.sheets) - 1))
    rows = list(case.sheets[at].frames)
    row = rows.pop(data.draw(st.integers(0, len(rows) - 1)))
    keep = data.draw(st.sets(st.sampled_from(sorted(row.scores))))
    assume(keep != row.scores.keys())
    if keep:
        rows.append(replace(row, scores={category: row.scores[category] for category in keep}))
    sheets = [*case.sheets[:at], replace(case.sheets[at], frames=tuple(rows)), *case.sheets[at + 1 :]]
    assert case.decide(sheets=sheets).verdict in (Verdict.ERROR, Verdict.BLOCK)


@given(cases(), st.data())
def test_a_missing_sheet_is_error_or_block(case, data):
    at = data.draw(st.integers(0, len(case.sheets) - 1))
    sheets = [*case.sheets[:at], *case.sheets[at + 1 :]]
    assert case.decide(sheets=sheets).verdict in (Verdict.ERROR, Verdict.BLOCK)


@given(cases(), st.integers(0, 12))
def test_another_number_of_frames_than_was_scored_is_error_or_block(case, frames):
    assume(frames != case.facts.frames)
    assert case.decide(facts=replace(case.facts, frames=frames)).verdict in (Verdict.ERROR, Verdict.BLOCK)


ANYTHING = st.one_of(NOT_SCORES, SCORES)


@given(
    st.lists(st.dictionaries(st.one_of(st.sampled_from(CATEGORIES), st.text(max_size=3)), ANYTHING, max_size=4), max_size=4),
    st.integers(-1, 4),
    POLICIES,
    st.sampled_from(Stage),
    st.sampled_from(MediaKind),
)
def test_any_input_at_all_gets_a_verdict_and_allow_only_when_whole(rows, frames, policy, stage, kind):
    classifier = make_classifier_version("one", ("sexual", "violence"))
    sheet = make_sheet(classifier=classifier, frames=tuple(FrameScores(frame=n, time_us=None, scores=row) for n, row in enumerate(rows)))
    facts = make_facts(frames=frames, kind=kind)
    said = decide(stage=stage, facts=facts, required=[classifier], sheets=[sheet], policy=policy)
    if said.verdict in (Verdict.ALLOW, Verdict.REVIEW):
        assert len(rows) == frames >= 1
        assert all(row.keys() == set(classifier.categories) for row in rows)
        assert all(type(score) is int and 0 <= score <= ONE for row in rows for score in row.values())


@given(cases(), st.data())
def test_a_classifier_that_the_policy_counts_on_and_nobody_asked_is_error_or_block(case, data):
    named = replace(case.policy, rules=(*case.policy.rules, _rule("hate", (1, None), "gone")))
    more = replace(case.policy, combine=KOfN(k=data.draw(st.integers(1, len(case.sheets) + 1)), n=len(case.sheets) + 1))
    requiring = replace(case.policy, requires=("hate",))
    policy = data.draw(st.sampled_from([named, more, requiring]))
    judged = any(not policy.is_ignored(category) for sheet in case.sheets for category in sheet.classifier.categories)
    assume(judged)
    assert case.decide(policy=policy).verdict in (Verdict.ERROR, Verdict.BLOCK)


@given(cases(quiet=True), st.sampled_from(Stage))
def test_without_rules_for_what_is_emitted_nothing_is_allowed(case, stage):
    elsewhere = make_policy(Rule(category="hate", review_at=1), ignore=())
    assert case.decide(policy=elsewhere, stage=stage).verdict is Verdict.ERROR


# --- which way verdicts may move ----------------------------------------------------------------------


@given(cases(), st.data())
def test_a_higher_score_never_lowers_the_verdict(case, data):
    at = data.draw(st.integers(0, len(case.sheets) - 1))
    sheet = case.sheets[at]
    frame, category = data.draw(st.integers(0, case.facts.frames - 1)), data.draw(st.sampled_from(sheet.classifier.categories))
    higher = data.draw(st.integers(sheet.frames[frame].scores[category], ONE))
    sheets = [*case.sheets[:at], with_score(sheet, frame, category, higher), *case.sheets[at + 1 :]]
    assert RANK[case.decide(sheets=sheets).verdict] >= RANK[case.decide().verdict]


@given(cases(), st.data())
def test_a_tighter_threshold_never_weakens_the_verdict(case, data):
    chosen = list(case.policy.rules)
    at = data.draw(st.integers(0, len(chosen) - 1))
    rule = chosen[at]
    block_at = rule.block_at and data.draw(st.integers(1, rule.block_at))
    review_at = data.draw(st.integers(1, min(t for t in (rule.review_at, block_at) if t is not None))) if rule.review_at else None
    chosen[at] = replace(rule, block_at=block_at, review_at=review_at)
    tighter = replace(case.policy, rules=tuple(chosen))
    assert RANK[case.decide(policy=tighter).verdict] >= RANK[case.decide().verdict]


@given(cases())
def test_output_is_never_judged_more_mildly_than_input(case):
    assert RANK[case.decide(stage=Stage.OUTPUT).verdict] >= RANK[case.decide(stage=Stage.SOURCE).verdict]


@given(cases(), st.sampled_from(Unscreened))
def test_more_that_was_not_judged_never_lowers_the_verdict(case, what):
    more = replace(case.facts, unscreened=(*case.facts.unscreened, what))
    assert RANK[case.decide(facts=more).verdict] >= RANK[case.decide().verdict]


@given(cases(), SCORES)
def test_one_more_classifier_never_lowers_the_verdict_under_max(case, score):
    policy = replace(case.policy, combine=None)
    more = make_sheet(*[{"sexual": score}] * case.facts.frames, classifier=make_classifier_version("more", ("sexual",)))
    with_more = case.decide(policy=policy, required=[*case.required, more.classifier], sheets=[*case.sheets, more])
    assert RANK[with_more.verdict] >= RANK[case.decide(policy=policy).verdict]


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_in_which_scores_are_presented_changes_nothing(case, random):
    def shuffled(items):
        return tuple(random.sample(items, len(items)))

    sheets = [
        replace(
            sheet,
            frames=shuffled([replace(row, scores=dict(shuffled(list(row.scores.items())))) for row in sheet.frames]),
        )
        for sheet in case.sheets
    ]
    turned, straight = case.decide(sheets=shuffled(sheets)), case.decide()
    assert turned == straight
    assert case.decide(required=shuffled(case.required)).reasons == straight.reasons


@given(cases())
def test_the_gravest_reason_is_the_verdict_and_only_an_allow_has_none(case):
    said = case.decide()
    assert (said.verdict is Verdict.ALLOW) == (said.reasons == ())
    if said.reasons:
        assert said.reasons[0].verdict is said.verdict
        assert [RANK[reason.verdict] for reason in said.reasons] == sorted((RANK[r.verdict] for r in said.reasons), reverse=True)


# --- coverage -----------------------------------------------------------------------------------------


@given(cases())
def test_a_policy_that_passes_coverage_never_meets_an_uncovered_category(case):
    thinner = make_policy(*case.policy.rules[:2], ignore=case.policy.ignore)
    try:
        check_coverage(thinner, case.required)
    except PolicyRefused:
        return
    assert case.decide(policy=thinner).verdict is not Verdict.ERROR


# --- the record ---------------------------------------------------------------------------------------


@given(cases(), st.booleans())
def test_deciding_what_an_entry_holds_again_gives_the_verdict_it_holds(case, short):
    if short:
        case = replace(case, facts=replace(case.facts, frames=case.facts.frames + 1))
    said = case.decide()
    decision = make_decision(
        stage=case.stage,
        media=Media(sha256="ab" * 32, size=1, facts=case.facts),
        verdict=said.verdict,
        reasons=said.reasons,
        thresholds=said.thresholds,
        sheets=case.sheets,
        policy=PolicyRef(name=case.policy.name, version=case.policy.version, digest=case.policy.digest),
    )
    evidence = evidence_of(decision_entry(decision, nonce=bytes(16), reference_commitment=None))
    again = decide(stage=evidence.stage, facts=evidence.facts, required=evidence.required, sheets=evidence.sheets, policy=case.policy)
    assert again == said


@pytest.mark.parametrize("missing", ["first", "last"])
@given(cases())
def test_a_classifier_that_was_asked_and_is_not_in_the_entry_stays_missing(missing, case):
    sheets = case.sheets[1:] if missing == "first" else case.sheets[:-1]
    said = case.decide(sheets=sheets)
    decision = make_decision(
        stage=case.stage, media=Media(sha256="ab" * 32, size=1, facts=case.facts), sheets=sheets, thresholds=said.thresholds
    )
    evidence = evidence_of(decision_entry(decision, nonce=bytes(16), reference_commitment=None))
    again = decide(stage=evidence.stage, facts=evidence.facts, required=evidence.required, sheets=evidence.sheets, policy=case.policy)
    assert (again.verdict, again.reasons) == (said.verdict, said.reasons)
