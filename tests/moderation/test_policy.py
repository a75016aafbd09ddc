"""Which policies come into force: never an empty, contradictory or incomplete one."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest

from moderation.decision import Verdict
from moderation.errors import PolicyRefused
from moderation.media import Stage, Unscreened
from moderation.policy import Consent, InputSampling, KOfN, PolicyLimits, check_coverage
from moderation.scores import ONE
from tests.builders import make_classifier_version, make_policy, make_rule

# --- what a policy may say of itself ----------------------------------------------------------------


def test_an_empty_policy_is_refused():
    with pytest.raises(PolicyRefused, match="allow everything"):
        make_policy(rules=())


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"category": "sexual.nudty_explicit"}, "not a category"),
        ({"category": "Sexual"}, "not a category"),
        ({"category": "sexual.*"}, "not a category"),
        ({"category": ""}, "not a category"),
        ({"block_at": None, "review_at": None}, "give block_at"),
        ({"block_at": 0}, "thresholds lie in"),
        ({"review_at": 0}, "thresholds lie in"),
        ({"block_at": ONE + 1}, "thresholds lie in"),
        ({"block_at": 0.45, "review_at": None}, "thresholds lie in"),
        ({"block_at": True, "review_at": None}, "thresholds lie in"),
        ({"block_at": 100, "review_at": 101}, "could never act"),
        ({"stages": frozenset()}, "no stages"),
        ({"category": "ctx.medical"}, "context describes and never blocks"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(rule, why):
    with pytest.raises(PolicyRefused, match=why):
        make_rule(**rule)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rules": (make_rule(), make_rule())}, "two rules"),
        ({"rules": (make_rule(stages=frozenset({Stage.UPLOAD})), make_rule())}, "two rules"),
        ({"ignore": ("sexual.nudity_explicit",)}, "has a rule and is ignored"),
        ({"ignore": ("sexual.*",)}, "has a rule and is ignored"),
        ({"ignore": ("sexual",)}, "has a rule and is ignored"),
        ({"ignore": ("*",)}, "ignore"),
        ({"ignore": ("",)}, "ignore"),
        ({"ignore": ("violence.graphic.*",)}, "ignore"),
        ({"ignore": ("violins",)}, "ignore"),
        ({"requires": ("violins",)}, "not a category"),
        ({"requires": ("sexual.*",)}, "not a category"),
        ({"requires": ("sexual", "ctx.medical")}, "ctx.medical is required and ignored"),
        ({"unscreened": {Unscreened.AUDIO: Verdict.ERROR}}, "unscreened"),
        ({"unscreened_by_stage": {Stage.OUTPUT: {Unscreened.AUDIO: Verdict.ERROR}}}, "unscreened"),
        ({"stream": "on"}, "stream"),
        ({"audio": "copy"}, "audio"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(changes, why):
    with pytest.raises(PolicyRefused, match=why):
        make_policy(**changes)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (2, 1), (-1, 3)])
def test_k_of_n_needs_a_k_that_can_be_reached(k, n):
    with pytest.raises(PolicyRefused, match="k of n"):
        KOfN(k=k, n=n)


@pytest.mark.parametrize(
    "sampling",
    [
        {"isolated_at_block": Verdict.ALLOW},
        {"isolated_at_block": Verdict.ERROR},
        {"cuts_left_out": Verdict.ERROR},
        {"interval_ms": 0},
        {"min_frames": 0},
    ],
)
def test_a_sampling_that_looks_away_is_refused(sampling):
    with pytest.raises(PolicyRefused):
        InputSampling(**sampling)


@pytest.mark.parametrize("limit", ["image_bytes", "image_pixels", "frames", "video_bytes", "video_seconds"])
def test_limits_are_positive(limit):
    with pytest.raises(PolicyRefused, match=limit):
        PolicyLimits(**{limit: 0})


# --- which rule applies -----------------------------------------------------------------------------


def test_the_most_particular_rule_applies_class_before_family_and_named_before_any():
    named_class = make_rule("sexual.activity", classifier="a")
    any_class = make_rule("sexual.activity")
    named_family = make_rule("sexual", classifier="a")
    any_family = make_rule("sexual")
    policy = make_policy(any_family, named_family, any_class, named_class)
    assert policy.rule_for("sexual.activity", Stage.UPLOAD, "a") is named_class
    assert policy.rule_for("sexual.activity", Stage.UPLOAD, "b") is any_class
    assert policy.rule_for("sexual.objects", Stage.UPLOAD, "a") is named_family
    assert policy.rule_for("sexual.objects", Stage.UPLOAD, "b") is any_family
    assert policy.rule_for("sexual", Stage.UPLOAD, "b") is any_family
    assert policy.rule_for("violence", Stage.UPLOAD, "a") is None


def test_a_rule_acts_at_its_stages_only():
    strict, mild = make_rule("sexual.activity", stages=frozenset({Stage.OUTPUT})), make_rule("sexual")
    policy = make_policy(strict, mild)
    assert policy.rule_for("sexual.activity", Stage.OUTPUT, "a") is strict
    assert policy.rule_for("sexual.activity", Stage.SOURCE, "a") is mild


def test_a_family_is_ignored_whole_and_a_class_alone():
    policy = make_policy(ignore=("ctx.*", "hate.symbol"))
    assert policy.is_ignored("ctx")
    assert policy.is_ignored("ctx.medical")
    assert policy.is_ignored("hate.symbol")
    assert not policy.is_ignored("hate")
    assert not policy.is_ignored("sexual.suggestive")


# --- the digest -------------------------------------------------------------------------------------


def test_the_digest_names_the_content_and_not_the_place():
    assert make_policy(name="other", version=9).digest == make_policy().digest
    assert make_policy().digest.startswith("sha256:")


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": (make_rule("sexual"),)},
        {"ignore": ()},
        {"combine": KOfN(k=1, n=2)},
        {"sampling": InputSampling(run=KOfN(k=3, n=4))},
        {"unscreened": {Unscreened.AUDIO: Verdict.BLOCK}},
        {"unscreened_by_stage": {Stage.OUTPUT: {Unscreened.AUDIO: Verdict.BLOCK}}},
        {"consent": Consent.OPTIONAL},
        {"target_consent": Consent.REQUIRED},
        {"sources": "catalogue"},
        {"requires": ("sexual",)},
        {"label_visible": False},
        {"stream": "labelled"},
        {"audio": "drop"},
        {"limits": PolicyLimits(frames=10)},
    ],
)
def test_whatever_changes_the_content_changes_the_digest(changes):
    assert make_policy(**changes).digest != make_policy().digest
    assert replace(make_policy(), **changes).digest == make_policy(**changes).digest


def test_a_policy_from_before_what_came_later_keeps_its_digest():
    """The digest that the first release gave it: under it are decisions that still have to count."""
    assert make_policy().digest == "sha256:8544028200367956ac9f2787d633d9c50694fe386c36ef5cbbef386865b5b9db"
    assert make_policy(target_consent=Consent.OPTIONAL, sources="any", requires=()).digest == make_policy().digest


def test_what_came_later_is_in_the_content_exactly_where_it_says_something():
    said = {"target_consent": "required", "sources": "catalogue"}
    plain = make_policy().content()
    assert not said.keys() & plain.keys()
    assert make_policy(target_consent=Consent.REQUIRED, sources="catalogue").content() == {**plain, **said}
    assert make_policy(sources="catalogue").content() == {**plain, "sources": "catalogue"}
    assert make_policy(requires=("sexual.objects", "sexual")).content() == {**plain, "requires": ["sexual", "sexual.objects"]}


@pytest.mark.parametrize("sources", ["", "none", "Catalogue", None])
def test_sources_are_any_or_of_the_catalogue(sources):
    with pytest.raises(PolicyRefused, match="sources"):
        make_policy(sources=sources)


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))], ids=["copy", "pickle"])  # noqa: S301
def test_a_policy_travels_between_processes_and_still_knows_its_rules(travel):
    there = travel(make_policy())
    assert there == make_policy()
    assert there.digest == make_policy().digest
    assert there.rule_for("sexual.activity", Stage.UPLOAD, "any") == make_policy().rules[1]


# --- coverage ---------------------------------------------------------------------------------------


def test_a_policy_that_covers_every_category_is_accepted():
    check_coverage(make_policy(), [make_classifier_version(categories=("sexual", "sexual.activity", "ctx.medical"))])


def test_a_category_without_rule_or_ignore_is_refused():
    with pytest.raises(PolicyRefused, match="violence from marker has no rule"):
        check_coverage(make_policy(), [make_classifier_version(categories=("sexual", "violence"))])


def test_a_class_rule_does_not_cover_its_family():
    with pytest.raises(PolicyRefused, match="sexual from marker"):
        check_coverage(make_policy(make_rule("sexual.activity")), [make_classifier_version(categories=("sexual", "sexual.activity"))])


@pytest.mark.parametrize("stage", Stage)
def test_a_category_left_open_at_one_stage_is_refused(stage):
    policy = make_policy(make_rule("sexual", stages=frozenset(Stage) - {stage}))
    with pytest.raises(PolicyRefused, match=f"stage {stage}"):
        check_coverage(policy, [make_classifier_version()])


@pytest.mark.parametrize(
    ("classifiers", "why"),
    [
        ([], "no configured classifier"),
        ([make_classifier_version(categories=("ctx.medical",))], "no configured classifier judges anything"),
        ([make_classifier_version(), make_classifier_version()], "share a name"),
        ([make_classifier_version(), make_classifier_version("b", categories=())], "b declares no categories"),
    ],
)
def test_classifiers_that_cannot_judge_together_are_refused(classifiers, why):
    with pytest.raises(PolicyRefused, match=why):
        check_coverage(make_policy(), classifiers)


def test_a_rule_that_names_a_classifier_that_is_not_there_is_refused():
    with pytest.raises(PolicyRefused, match="unknown classifier gone"):
        check_coverage(make_policy(make_rule("sexual", classifier="gone"), make_rule("sexual")), [make_classifier_version()])


def test_max_over_several_classifiers_needs_calibrated_scores():
    one, two = make_classifier_version("one", calibrated=True), make_classifier_version("two", calibrated=True)
    check_coverage(make_policy(), [one, two])
    with pytest.raises(PolicyRefused, match="uncalibrated"):
        check_coverage(make_policy(), [one, replace(two, calibrated=False)])


def test_uncalibrated_classifiers_may_judge_different_families():
    check_coverage(
        make_policy(make_rule("sexual"), make_rule("violence")),
        [make_classifier_version("one", ("sexual",)), make_classifier_version("two", ("violence",))],
    )


def test_uncalibrated_classifiers_may_share_a_family_if_every_rule_names_its_classifier():
    classifiers = [make_classifier_version("one"), make_classifier_version("two")]
    named = [make_rule("sexual", classifier=c.name) for c in classifiers]
    check_coverage(make_policy(*named), classifiers)
    with pytest.raises(PolicyRefused, match="uncalibrated"):
        check_coverage(make_policy(named[0], make_rule("sexual")), classifiers)


@pytest.mark.parametrize(
    ("requires", "said", "is_met"),
    [
        ("sexual", ("sexual",), True),
        ("sexual", ("sexual.activity",), True),
        ("sexual.activity", ("sexual.activity",), True),
        ("sexual.activity", ("sexual",), False),
        ("sexual.activity", ("sexual.objects",), False),
        ("violence", ("sexual",), False),
        ("sexual", ("sexual.suggestive", "violence"), False),
    ],
)
def test_what_a_policy_requires_must_be_among_what_is_said_and_not_ignored(requires, said, is_met):
    policy = make_policy(make_rule("sexual"), make_rule("violence"), ignore=("sexual.suggestive",), requires=(requires,))
    if is_met:
        check_coverage(policy, [make_classifier_version(categories=said)])
    else:
        with pytest.raises(PolicyRefused, match=f"requires {requires}, and no configured classifier"):
            check_coverage(policy, [make_classifier_version(categories=said)])


def test_k_of_n_counts_the_classifiers_that_are_there():
    classifiers = [make_classifier_version(name) for name in ("one", "two", "three")]
    check_coverage(make_policy(combine=KOfN(k=2, n=3)), classifiers)
    with pytest.raises(PolicyRefused, match="2 of 3, but 2 judge sexual"):
        check_coverage(make_policy(combine=KOfN(k=2, n=3)), classifiers[:2])


# --- what was present and not judged -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "verdict"),
    [
        (Unscreened.AUDIO, Verdict.ALLOW),
        (Unscreened.TRAILING_DATA, Verdict.REVIEW),
        (Unscreened.GAIN_MAP, Verdict.REVIEW),
        (Unscreened.THUMBNAIL, Verdict.ALLOW),
    ],
)
def test_what_unscreened_content_means_by_default(what, verdict):
    assert make_policy().verdict_on_unscreened(what, Stage.UPLOAD) is verdict


def test_a_stage_may_say_otherwise_and_what_nobody_named_is_held():
    policy = make_policy(unscreened={}, unscreened_by_stage={Stage.OUTPUT: {Unscreened.AUDIO: Verdict.BLOCK}})
    assert policy.verdict_on_unscreened(Unscreened.AUDIO, Stage.OUTPUT) is Verdict.BLOCK
    assert policy.verdict_on_unscreened(Unscreened.AUDIO, Stage.UPLOAD) is Verdict.REVIEW
