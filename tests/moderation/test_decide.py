"""`decide`, case by case. Properties that hold for all cases are in test_decide_properties.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from moderation.decision import ReasonCode, Threshold, Verdict
from moderation.media import MediaKind, Stage, Unscreened
from moderation.policy import InputSampling, KOfN, decide
from moderation.scores import ONE, FrameScores
from tests.builders import LOUD, QUIET, make_classifier_version, make_facts, make_policy, make_rule, make_sheet

ONLY = ("sexual",)
MARKER = make_classifier_version(categories=ONLY)
POLICY = make_policy(make_rule("sexual"))
"""Blocks at 0.45, holds at 0.20."""
HIT, HOLD, MISS = {"sexual": 450_000}, {"sexual": 200_000}, {"sexual": 199_999}


def odd(score: Any) -> dict[str, int]:
    """Scores of what is no score."""
    return {"sexual": score}


def outcome(*frames, policy=POLICY, stage=Stage.UPLOAD, kind=MediaKind.IMAGE, classifier=MARKER, **facts):
    """What `decide` says of one classifier's scores."""
    return decide(
        stage=stage,
        facts=make_facts(**{"kind": kind, "frames": len(frames), **facts}),
        required=[classifier],
        sheets=[make_sheet(*frames, classifier=classifier)],
        policy=policy,
    )


def codes(said):
    return [reason.code for reason in said.reasons]


# --- one score ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0, "allow"), (199_999, "allow"), (200_000, "review"), (449_999, "review"), (450_000, "block"), (ONE, "block")],
)
def test_reaching_a_threshold_counts(score, verdict):
    assert outcome({"sexual": score}).verdict == verdict


def test_a_reason_says_which_score_reached_which_threshold_of_whom_and_where():
    sheet = make_sheet(
        classifier=MARKER, frames=(FrameScores(frame=0, time_us=None, scores={"sexual": 973_100}, boxes={"sexual": (1, 2, 3, 4)}),)
    )
    said = decide(stage=Stage.UPLOAD, facts=make_facts(), required=[MARKER], sheets=[sheet], policy=POLICY)
    (reason,) = said.reasons
    assert reason.code is ReasonCode.OVER_BLOCK_THRESHOLD
    assert (reason.verdict, reason.category, reason.score, reason.threshold) == (Verdict.BLOCK, "sexual", 973_100, 450_000)
    assert (reason.classifier, reason.frame, reason.time_us, reason.box) == ("marker", 0, None, (1, 2, 3, 4))


def test_an_allow_needs_no_reason():
    assert outcome(MISS).reasons == ()


def test_reasons_come_gravest_first_and_then_by_score():
    policy = make_policy(make_rule("sexual"), make_rule("violence"), make_rule("hate"))
    classifier = make_classifier_version(categories=("hate", "sexual", "violence"))
    said = outcome({"hate": 300_000, "sexual": 500_000, "violence": 900_000}, policy=policy, classifier=classifier)
    assert [reason.category for reason in said.reasons] == ["violence", "sexual", "hate"]


def test_a_rule_that_only_holds_never_blocks():
    assert outcome({"sexual": ONE}, policy=make_policy(make_rule("sexual", block_at=None))).verdict is Verdict.REVIEW


def test_an_ignored_category_says_nothing_but_must_still_be_scored():
    classifier = make_classifier_version(categories=("sexual", "ctx.medical"))
    assert outcome({"sexual": 0, "ctx.medical": ONE}, classifier=classifier).verdict is Verdict.ALLOW
    assert outcome({"sexual": 0}, classifier=classifier).verdict is Verdict.ERROR


def test_a_class_has_its_own_rule_and_others_fall_under_the_family():
    classifier = make_classifier_version(categories=("sexual", "sexual.nudity_explicit", "sexual.suggestive"))
    base = {"sexual": 0, "sexual.nudity_explicit": 0, "sexual.suggestive": 0}
    assert outcome({**base, "sexual.suggestive": 599_999}, policy=make_policy(), classifier=classifier).verdict is Verdict.ALLOW
    assert outcome({**base, "sexual": 600_000}, policy=make_policy(), classifier=classifier).verdict is Verdict.REVIEW
    assert outcome({**base, "sexual.nudity_explicit": 200_000}, policy=make_policy(), classifier=classifier).verdict is Verdict.REVIEW


def test_a_rule_acts_at_its_stage():
    policy = make_policy(make_rule("sexual.activity", stages=frozenset({Stage.OUTPUT})), make_rule("sexual", block_at=None))
    classifier = make_classifier_version(categories=("sexual.activity",))
    loud = {"sexual.activity": ONE}
    assert outcome(loud, policy=policy, classifier=classifier, stage=Stage.OUTPUT).verdict is Verdict.BLOCK
    assert outcome(loud, policy=policy, classifier=classifier, stage=Stage.SOURCE).verdict is Verdict.REVIEW


def test_the_thresholds_that_applied_are_kept_for_everything_that_was_asked_for():
    classifier = make_classifier_version(categories=("sexual", "ctx.medical"))
    assert outcome({"sexual": 0, "ctx.medical": 0}, classifier=classifier).thresholds == (
        Threshold(category="sexual", classifier="marker", block_at=450_000, review_at=200_000),
        Threshold(category="ctx.medical", classifier="marker", block_at=None, review_at=None),
    )


# --- what is missing ---------------------------------------------------------------------------------

SHORT = {
    "no frames": ({"frames": 0}, [make_sheet(classifier=MARKER, frames=())], ReasonCode.NO_FRAMES),
    "no sheet": ({}, [], ReasonCode.SCORE_MISSING),
    "a frame too few": ({"frames": 2}, [make_sheet(MISS, classifier=MARKER)], ReasonCode.FRAMES_SHORT),
    "a frame too many": ({}, [make_sheet(MISS, MISS, classifier=MARKER)], ReasonCode.FRAMES_SHORT),
    "the same frame twice": (
        {"frames": 2},
        [make_sheet(classifier=MARKER, frames=make_sheet(MISS).frames * 2)],
        ReasonCode.FRAMES_SHORT,
    ),
    "a category missing": ({}, [make_sheet({}, classifier=MARKER)], ReasonCode.SCORE_MISSING),
    "a category missing in one frame": ({"frames": 2}, [make_sheet(MISS, {}, classifier=MARKER)], ReasonCode.SCORE_MISSING),
    "a category not declared": ({}, [make_sheet({**MISS, "sexual.activity": 0}, classifier=MARKER)], ReasonCode.UNEXPECTED_SCORES),
    "NaN": ({}, [make_sheet(odd(math.nan), classifier=MARKER)], ReasonCode.SCORE_INVALID),
    "None": ({}, [make_sheet(odd(None), classifier=MARKER)], ReasonCode.SCORE_INVALID),
    "a float": ({}, [make_sheet(odd(0.1), classifier=MARKER)], ReasonCode.SCORE_INVALID),
    "a boolean": ({}, [make_sheet({"sexual": False}, classifier=MARKER)], ReasonCode.SCORE_INVALID),
    "below the range": ({}, [make_sheet({"sexual": -1}, classifier=MARKER)], ReasonCode.SCORE_INVALID),
    "above the range": ({}, [make_sheet({"sexual": ONE + 1}, classifier=MARKER)], ReasonCode.SCORE_INVALID),
    "the same sheet twice": ({}, [make_sheet(MISS, classifier=MARKER)] * 2, ReasonCode.UNEXPECTED_SCORES),
    "other weights": ({}, [make_sheet(MISS, classifier=replace(MARKER, digest="sha256:other"))], ReasonCode.SCORE_MISSING),
    "a sheet nobody asked for": (
        {},
        [make_sheet(MISS, classifier=MARKER), make_sheet(MISS, classifier=replace(MARKER, name="other"))],
        ReasonCode.UNEXPECTED_SCORES,
    ),
}


@pytest.mark.parametrize("case", SHORT)
def test_a_sheet_that_is_not_exactly_what_was_asked_for_is_an_error(case):
    facts, sheets, code = SHORT[case]
    said = decide(stage=Stage.UPLOAD, facts=make_facts(**facts), required=[MARKER], sheets=sheets, policy=POLICY)
    assert said.verdict is Verdict.ERROR
    assert code in codes(said)


@pytest.mark.parametrize("case", [case for case in SHORT if case != "no frames"])
def test_what_blocks_blocks_whatever_else_is_missing(case):
    facts, sheets, code = SHORT[case]
    loud = make_sheet({"sexual": ONE}, classifier=make_classifier_version("loud", categories=ONLY))
    said = decide(stage=Stage.UPLOAD, facts=make_facts(**facts), required=[MARKER, loud.classifier], sheets=[*sheets, loud], policy=POLICY)
    assert said.verdict is Verdict.BLOCK
    assert said.reasons[0].code is ReasonCode.OVER_BLOCK_THRESHOLD
    assert code in codes(said)


def test_an_error_goes_before_a_review():
    said = outcome(HOLD, frames=2)
    assert said.verdict is Verdict.ERROR
    assert codes(said) == [ReasonCode.FRAMES_SHORT, ReasonCode.OVER_REVIEW_THRESHOLD]


def test_without_a_classifier_nothing_is_allowed():
    said = decide(stage=Stage.UPLOAD, facts=make_facts(), required=[], sheets=[], policy=POLICY)
    assert (said.verdict, codes(said)) == (Verdict.ERROR, [ReasonCode.NO_CLASSIFIER])


def test_a_classifier_that_declares_nothing_is_not_one_that_found_nothing():
    mute = make_classifier_version(categories=())
    assert outcome({}, classifier=mute).verdict is Verdict.ERROR


def test_a_category_without_a_rule_is_an_error_even_at_score_zero():
    said = outcome({"violence": 0}, classifier=make_classifier_version(categories=("violence",)))
    assert (said.verdict, codes(said)) == (Verdict.ERROR, [ReasonCode.UNCOVERED_CATEGORY])


def test_the_order_of_frames_in_a_sheet_does_not_matter():
    sheet = make_sheet(MISS, HIT, MISS, classifier=MARKER)
    turned = replace(sheet, frames=sheet.frames[::-1])
    facts = make_facts(frames=3)
    said = [decide(stage=Stage.UPLOAD, facts=facts, required=[MARKER], sheets=[s], policy=POLICY) for s in (sheet, turned)]
    assert said[0] == said[1]
    assert said[0].reasons[0].frame == 1


# --- across classifiers ------------------------------------------------------------------------------

VOTERS = [make_classifier_version(name, categories=ONLY) for name in ("one", "two", "three")]


def votes(*frame_scores, combine):
    """What three classifiers say together of one picture."""
    return decide(
        stage=Stage.UPLOAD,
        facts=make_facts(),
        required=VOTERS,
        sheets=[make_sheet(scores, classifier=voter) for voter, scores in zip(VOTERS, frame_scores, strict=True)],
        policy=make_policy(make_rule("sexual"), combine=combine),
    )


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [((MISS, MISS, MISS), "allow"), ((MISS, MISS, HOLD), "review"), ((HOLD, MISS, HIT), "block")],
)
def test_max_lets_the_worst_classifier_speak(scores, verdict):
    assert votes(*scores, combine=None).verdict == verdict


@pytest.mark.parametrize(
    ("scores", "verdict", "code"),
    [
        ((MISS, MISS, MISS), "allow", None),
        ((HOLD, MISS, MISS), "allow", None),
        ((HOLD, HOLD, MISS), "review", ReasonCode.OVER_REVIEW_THRESHOLD),
        ((HIT, MISS, MISS), "review", ReasonCode.TOO_FEW_AGREE),
        ((HIT, HOLD, HOLD), "review", ReasonCode.TOO_FEW_AGREE),
        ((HIT, HIT, MISS), "block", ReasonCode.OVER_BLOCK_THRESHOLD),
        ((HIT, HIT, HIT), "block", ReasonCode.OVER_BLOCK_THRESHOLD),
    ],
)
def test_two_of_three_counts_classifiers_over_their_own_thresholds(scores, verdict, code):
    said = votes(*scores, combine=KOfN(k=2, n=3))
    assert said.verdict == verdict
    assert (said.reasons[0].code if said.reasons else None) is code


def test_k_of_n_counts_classifiers_over_thresholds_of_their_own():
    policy = make_policy(
        make_rule("sexual", classifier="one", block_at=900_000, review_at=None),
        make_rule("sexual", classifier="two", block_at=100_000, review_at=None),
        combine=KOfN(k=2, n=2),
    )
    sheets = [make_sheet({"sexual": 900_000}, classifier=VOTERS[0]), make_sheet({"sexual": 100_000}, classifier=VOTERS[1])]
    said = decide(stage=Stage.UPLOAD, facts=make_facts(), required=VOTERS[:2], sheets=sheets, policy=policy)
    assert said.verdict is Verdict.BLOCK
    assert [(t.classifier, t.block_at) for t in said.thresholds] == [("one", 900_000), ("two", 100_000)]


def test_k_of_n_hears_different_classes_of_one_family_as_agreement_and_different_families_not():
    policy = make_policy(make_rule("sexual"), make_rule("violence"), combine=KOfN(k=2, n=2))
    categories = ("sexual.activity", "sexual.objects", "violence")
    pair = [make_classifier_version(name, categories) for name in ("one", "two")]
    for second, verdict in (("sexual.objects", Verdict.BLOCK), ("violence", Verdict.REVIEW)):
        said = [{**dict.fromkeys(categories, 0), loud: ONE} for loud in ("sexual.activity", second)]
        sheets = [make_sheet(scores, classifier=classifier) for scores, classifier in zip(said, pair, strict=True)]
        assert decide(stage=Stage.UPLOAD, facts=make_facts(), required=pair, sheets=sheets, policy=policy).verdict is verdict


@pytest.mark.parametrize("scores", [MISS, HOLD])
def test_k_of_n_without_its_n_classifiers_is_no_judgement_unless_what_is_there_blocks(scores):
    def said(*heard, k, **changes):
        policy = make_policy(make_rule("sexual"), combine=KOfN(k=k, n=3), **changes)
        sheets = [make_sheet(heard_scores, classifier=voter) for heard_scores, voter in zip(heard, VOTERS, strict=False)]
        return decide(stage=Stage.UPLOAD, facts=make_facts(), required=VOTERS[: len(heard)], sheets=sheets, policy=policy)

    for heard in ((scores,), (scores, MISS)):
        assert said(*heard, k=2).verdict is Verdict.ERROR
        assert (ReasonCode.SCORE_MISSING, "sexual") in [(reason.code, reason.category) for reason in said(*heard, k=2).reasons]
    assert said(HIT, scores, k=1).verdict is Verdict.BLOCK
    assert said(MISS, MISS, MISS, k=2).verdict is Verdict.ALLOW


def test_a_rule_that_names_a_classifier_which_is_gone_is_no_judgement_at_its_stages():
    rules = make_rule("sexual"), make_rule("sexual", classifier="gone", stages=frozenset({Stage.UPLOAD}))
    said = outcome(MISS, policy=make_policy(*rules))
    assert (said.verdict, codes(said), said.reasons[0].classifier) == (Verdict.ERROR, [ReasonCode.SCORE_MISSING], "gone")
    assert outcome(HIT, policy=make_policy(*rules)).verdict is Verdict.BLOCK
    assert outcome(MISS, policy=make_policy(*rules), stage=Stage.SOURCE).verdict is Verdict.ALLOW


def test_nothing_is_allowed_or_held_without_scores_of_what_the_policy_requires():
    policy = make_policy(make_rule("sexual"), make_rule("violence", block_at=900_000), requires=("violence",))
    for scores in (MISS, HOLD):
        said = outcome(scores, policy=policy)
        assert (said.verdict, codes(said)[0], said.reasons[0].category) == (Verdict.ERROR, ReasonCode.SCORE_MISSING, "violence")
    assert outcome(HIT, policy=policy).verdict is Verdict.BLOCK
    both = make_classifier_version("both", ("sexual", "violence.graphic"))
    assert outcome({**MISS, "violence.graphic": 0}, policy=policy, classifier=both).verdict is Verdict.ALLOW
    assert outcome({**MISS, "violence.graphic": 900_000}, policy=policy, classifier=both).verdict is Verdict.BLOCK


def test_a_classifier_that_was_asked_and_gave_no_scores_is_not_heard_on_what_is_required():
    violence = make_classifier_version("violence", ("violence",))
    policy = make_policy(make_rule("sexual"), make_rule("violence"), requires=("violence",))
    said = decide(
        stage=Stage.UPLOAD, facts=make_facts(), required=[MARKER, violence], sheets=[make_sheet(MISS, classifier=MARKER)], policy=policy
    )
    assert {(reason.classifier, reason.category) for reason in said.reasons} == {("violence", None), (None, "violence")}
    assert said.verdict is Verdict.ERROR


def test_k_of_n_does_not_add_up_votes_of_different_frames():
    sheets = [make_sheet(HIT, MISS, classifier=VOTERS[0]), make_sheet(MISS, HIT, classifier=VOTERS[1])]
    policy = make_policy(make_rule("sexual"), combine=KOfN(k=2, n=2))
    said = decide(stage=Stage.UPLOAD, facts=make_facts(frames=2), required=VOTERS[:2], sheets=sheets, policy=policy)
    assert said.verdict is Verdict.REVIEW


# --- in time -----------------------------------------------------------------------------------------


def frames(pattern):
    """`x` is a frame over block_at, `o` one over review_at, `.` a quiet one."""
    return [{"x": HIT, "o": HOLD, ".": MISS}[mark] for mark in pattern]


@pytest.mark.parametrize("stage", [Stage.UPLOAD, Stage.SOURCE, Stage.TARGET])
@pytest.mark.parametrize("kind", [MediaKind.ANIMATION, MediaKind.VIDEO])
@pytest.mark.parametrize(
    ("pattern", "verdict", "code"),
    [
        ("........", "allow", None),
        ("...o....", "review", ReasonCode.OVER_REVIEW_THRESHOLD),
        ("oooooooo", "review", ReasonCode.OVER_REVIEW_THRESHOLD),
        ("...x....", "review", ReasonCode.ISOLATED_FRAME),
        ("x......x", "review", ReasonCode.ISOLATED_FRAME),
        ("x..x..x.", "review", ReasonCode.ISOLATED_FRAME),
        ("...xx...", "block", ReasonCode.OVER_BLOCK_THRESHOLD),
        ("...x.x..", "block", ReasonCode.OVER_BLOCK_THRESHOLD),
        ("......xx", "block", ReasonCode.OVER_BLOCK_THRESHOLD),
        ("x.x.....", "block", ReasonCode.OVER_BLOCK_THRESHOLD),
    ],
)
def test_a_run_blocks_on_input_and_an_isolated_frame_is_held(pattern, verdict, code, kind, stage):
    said = outcome(*frames(pattern), kind=kind, stage=stage)
    assert said.verdict == verdict
    assert (said.reasons[0].code if said.reasons else None) is code


@pytest.mark.parametrize("kind", MediaKind)
@pytest.mark.parametrize("pattern", ["x.......", "...x....", ".......x"])
def test_any_frame_blocks_on_output(pattern, kind):
    assert outcome(*frames(pattern), kind=kind, stage=Stage.OUTPUT).verdict is Verdict.BLOCK


def test_pictures_without_time_are_no_samples_of_each_other():
    """An MPO holds several pictures; one that blocks is no flicker."""
    assert outcome(*frames("..x."), kind=MediaKind.IMAGE).verdict is Verdict.BLOCK


@pytest.mark.parametrize(("pattern", "verdict"), [("x", "block"), ("xx", "block"), ("x.", "review"), ("o", "review"), (".", "allow")])
def test_a_picture_does_not_weigh_less_for_being_wrapped_as_an_animation(pattern, verdict):
    policy = make_policy(make_rule("sexual"), sampling=InputSampling(run=KOfN(k=3, n=5)))
    assert outcome(*frames(pattern), kind=MediaKind.ANIMATION, policy=policy).verdict == verdict


def test_a_policy_may_block_isolated_frames_too():
    policy = make_policy(make_rule("sexual"), sampling=InputSampling(isolated_at_block=Verdict.BLOCK))
    assert outcome(*frames("...x...."), kind=MediaKind.VIDEO, policy=policy).verdict is Verdict.BLOCK


def test_a_run_may_change_its_class_within_the_family():
    classifier = make_classifier_version(categories=("sexual.activity", "sexual.objects"))
    rows = [
        {"sexual.activity": ONE, "sexual.objects": 0},
        {"sexual.activity": 0, "sexual.objects": ONE},
        *[dict.fromkeys(classifier.categories, 0)] * 6,
    ]
    assert outcome(*rows, kind=MediaKind.VIDEO, classifier=classifier).verdict is Verdict.BLOCK


def test_a_reason_is_kept_once_for_its_strongest_and_earliest_frame():
    said = outcome(HIT, {"sexual": 900_000}, {"sexual": 900_000}, kind=MediaKind.VIDEO)
    assert [(reason.frame, reason.time_us, reason.score) for reason in said.reasons] == [(1, 500_000, 900_000)]


# --- present and not judged --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "verdict"),
    [((), "allow"), ((Unscreened.AUDIO,), "allow"), ((Unscreened.AUDIO, Unscreened.GAIN_MAP), "review")],
)
def test_unscreened_content_means_what_the_policy_says(what, verdict):
    said = outcome(MISS, unscreened=what)
    assert said.verdict == verdict
    assert all(reason.code is ReasonCode.UNSCREENED_CONTENT for reason in said.reasons)


def test_unscreened_content_may_block_at_one_stage_only():
    policy = make_policy(make_rule("sexual"), unscreened_by_stage={Stage.OUTPUT: {Unscreened.AUDIO: Verdict.BLOCK}})
    assert outcome(MISS, policy=policy, stage=Stage.OUTPUT, unscreened=(Unscreened.AUDIO,)).verdict is Verdict.BLOCK
    assert outcome(MISS, policy=policy, stage=Stage.TARGET, unscreened=(Unscreened.AUDIO,)).verdict is Verdict.ALLOW


def test_the_builders_mean_what_they_say():
    version = make_classifier_version()
    assert outcome(QUIET, policy=make_policy(), classifier=version).verdict is Verdict.ALLOW
    assert outcome(LOUD, policy=make_policy(), classifier=version).verdict is Verdict.BLOCK
