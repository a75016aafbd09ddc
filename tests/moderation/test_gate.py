"""The gate: what may happen next, over the whole space of facts; and which committed decisions are facts at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Verdict
from moderation.gate import (
    INPUTS,
    Again,
    Assemble,
    Cancel,
    Deny,
    Done,
    Facts,
    Fail,
    Hold,
    Judged,
    Produce,
    ProduceSegment,
    Publish,
    Release,
    Screen,
    ScreenSegment,
    Segment,
    Sign,
    Step,
    Terms,
    counts,
    decide_again,
    facts_of,
    next_step,
    shown,
)
from moderation.media import Media, MediaKind, Stage, Unscreened
from moderation.policy import Consent, decide
from moderation.transform import Basis, Block, Committed, ConsentStatement, Failure, Options, Original, PartKind, State
from tests.builders import (
    LOUD,
    QUIET,
    make_classifier_version,
    make_event,
    make_facts,
    make_id,
    make_part,
    make_policy,
    make_release,
    make_review,
    make_rule,
    make_screened,
    make_segment,
    make_transform,
)

ALLOW, REVIEW, BLOCK, ERROR = Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK, Verdict.ERROR
SOURCE, TARGET, OUTPUT = Stage.SOURCE, Stage.TARGET, Stage.OUTPUT
STAGES = (SOURCE, TARGET, OUTPUT)
FILES: tuple[dict[str, Any], ...] = (
    {"encoded": None, "signed_from": None},
    {"encoded": "ec", "signed_from": None},
    {"encoded": "ec", "signed_from": "ec"},
)
"""In the order in which they come."""
ODD_FILES: tuple[dict[str, Any], ...] = ({"encoded": None, "signed_from": "ec"}, {"encoded": "ec", "signed_from": "0d"})
"""That do not belong together."""
FLAGS = ("is_released", "is_published", "is_cancelled", "has_ended")


# --- the space ----------------------------------------------------------------------------------------
SAID = Reason(code=ReasonCode.BLOCKED_BY_PERSON, verdict=Verdict.BLOCK, detail=str(make_id()))
"""What a denial says first where a person blocks, by `make_review`."""


@dataclass(frozen=True, slots=True)
class Case:
    """Facts with the one step that the gate gives for them."""

    facts: Facts
    step: Step

    def judged(self, stage: Stage) -> Judged | None:
        return self.facts.judged.get(stage)


def is_blocked(judged: Judged | None) -> bool:
    return judged is not None and BLOCK in (judged.pinned, judged.in_force, judged.review)


def passes(judged: Judged | None) -> bool:
    """Two plain allows; where one or both are `review`, a person's allow as well. Said here a second time, in other words."""
    if judged is None or judged.refusal is not None or judged.review is BLOCK:
        return False
    verdicts = {judged.pinned, judged.in_force}
    return verdicts == {ALLOW} or (verdicts <= {ALLOW, REVIEW} and judged.review is ALLOW)


def waits(judged: Judged | None) -> bool:
    """Only a person is missing."""
    return judged is not None and not passes(judged) and passes(replace(judged, review=ALLOW)) and judged.review is None


def every_judged(stage: Stage) -> list[Judged | None]:
    """Nothing, and every pair of verdicts with everything that a person or the media can add."""
    verdicts = product(Verdict, Verdict, (None, "truncated"), (None, ALLOW, BLOCK))
    make = partial(Judged, decision=make_id(100 + STAGES.index(stage)))
    reasons = {verdict: (Reason(code=ReasonCode.OVER_BLOCK_THRESHOLD, verdict=verdict, detail=stage),) for verdict in Verdict}
    return [
        None,
        *(
            make(pinned=then, in_force=now, refusal=refusal, review=review, reasons=reasons[then])
            for then, now, refusal, review in verdicts
        ),
    ]


def some_judged(stage: Stage) -> list[Judged | None]:
    """One of each kind."""
    make = partial(Judged, decision=make_id(100 + STAGES.index(stage)))
    return [
        None,
        make(pinned=ALLOW, in_force=ALLOW),
        make(pinned=REVIEW, in_force=ALLOW),
        make(pinned=ALLOW, in_force=REVIEW, review=ALLOW),
        make(pinned=ALLOW, in_force=BLOCK),
        make(pinned=ALLOW, in_force=ERROR),
        make(pinned=ERROR, in_force=ERROR, refusal="truncated"),
    ]


def judgements(*axes: list[Judged | None]) -> list[dict[Stage, Judged]]:
    """Every combination of what is judged about source, target and output."""
    return [{stage: one for stage, one in zip(STAGES, three, strict=True) if one is not None} for three in product(*axes)]


@cache
def kinds() -> list[dict[Stage, Judged]]:
    return judgements(*map(some_judged, STAGES))


@cache
def space() -> list[Case]:
    """Every judgement of each stage beside one of each kind of the two others; and everything else beside one of each kind."""
    whole = [[every_judged(stage) if stage is wide else some_judged(stage) for stage in STAGES] for wide in STAGES]
    facts = [Facts(judged=judged, **files) for axes in whole for judged in judgements(*axes) for files in FILES]
    facts += [Facts(judged=judged, lacks=lacks, **files) for judged in kinds() for lacks in (None, "it") for files in (*FILES, *ODD_FILES)]
    flags: list[dict[str, Any]] = [dict(zip(FLAGS, set_, strict=True)) for set_ in product((False, True), repeat=len(FLAGS))]
    facts += [Facts(judged=judged, **FILES[-1], **given) for judged in kinds() for given in flags]
    return [Case(one, next_step(one)) for one in facts]


@cache
def undecided() -> list[Case]:
    """Those where nothing but the judgements, the files and what is lacking says how it goes on."""
    return [case for case in space() if not (case.facts.is_released or case.facts.has_ended or case.facts.is_cancelled)]


@pytest.fixture(scope="module", autouse=True)
def _room_for_other_tests():
    yield
    for remembered in (kinds, space, undecided, video_space):
        remembered.cache_clear()


def giving(kind: type[Step]) -> list[Case]:
    found = [case for case in undecided() if isinstance(case.step, kind)]
    assert found, f"nothing leads to {kind.__name__}"
    return found


# --- invariants over the whole space ------------------------------------------------------------------


def test_there_is_always_exactly_one_step():
    assert {type(case.step) for case in space()} == {Screen, Produce, Sign, Release, Publish, Deny, Hold, Fail, Cancel, Done}


def test_nothing_is_produced_unless_both_inputs_pass():
    for case in giving(Produce):
        assert passes(case.judged(SOURCE))
        assert passes(case.judged(TARGET))
        assert case.facts.encoded is None


def test_an_output_is_screened_only_if_both_inputs_pass_and_there_is_an_encoded_file():
    for case in giving(Screen):
        if OUTPUT in case.step.stages:
            assert case.step == Screen(stages=(OUTPUT,))
            assert passes(case.judged(SOURCE))
            assert passes(case.judged(TARGET))
            assert case.facts.encoded is not None


def test_what_is_screened_is_exactly_what_is_not_judged_and_inputs_are_screened_side_by_side():
    for case in giving(Screen):
        inputs = tuple(stage for stage in INPUTS if case.judged(stage) is None)
        assert case.step.stages == (inputs or (OUTPUT,))
        assert all(case.judged(stage) is None for stage in case.step.stages)


@pytest.mark.parametrize("step", [Sign, Release])
def test_nothing_is_signed_or_released_unless_all_three_pass_under_both_policies(step):
    for case in giving(step):
        assert all(passes(case.judged(stage)) for stage in STAGES)
        assert case.facts.encoded is not None
        assert case.facts.lacks is None


def test_only_what_was_signed_from_the_encoded_file_is_released_and_anything_else_is_signed_first():
    assert all(case.facts.signed_from == case.facts.encoded for case in giving(Release))
    assert all(case.facts.signed_from != case.facts.encoded for case in giving(Sign))


def test_whatever_passes_everywhere_goes_on_to_its_release():
    on_the_way = {(None, None): Produce(), ("ec", None): Sign(), ("ec", "ec"): Release(), (None, "ec"): Produce(), ("ec", "0d"): Sign()}
    passing = [case for case in undecided() if all(passes(case.judged(stage)) for stage in STAGES) and case.facts.lacks is None]
    assert {case.facts.signed_from for case in passing} == {None, "ec", "0d"}
    for case in passing:
        assert case.step == on_the_way[case.facts.encoded, case.facts.signed_from]


def test_a_block_anywhere_is_a_denial_whatever_else_is_open_and_nothing_else_is_one():
    for case in undecided():
        assert isinstance(case.step, Deny) == any(is_blocked(judged) for judged in case.facts.judged.values())


def test_a_denial_names_the_first_stage_that_blocks_with_its_decision_and_reasons():
    for case in giving(Deny):
        stage = next(stage for stage in STAGES if is_blocked(case.judged(stage)))
        judged = case.judged(stage)
        assert case.step == Deny(stage=stage, decision=judged.decision, reasons=judged.reasons)


def test_only_what_waits_for_a_person_is_held_under_the_name_of_its_decision():
    for case in giving(Hold):
        judged = case.judged(case.step.stage)
        assert waits(judged)
        assert (case.step.decision, case.step.reasons) == (judged.decision, judged.reasons)
        assert all(case.judged(stage) is not None for stage in INPUTS), "both inputs are screened before a person is asked"


def test_a_persons_allow_ends_the_pause_and_a_persons_block_the_transform():
    for case in giving(Hold):
        stage, judged = case.step.stage, case.judged(case.step.stage)

        def after(review: Verdict, case=case, stage=stage, judged=judged) -> Step:
            return next_step(replace(case.facts, judged={**case.facts.judged, stage: replace(judged, review=review)}))

        allowed, blocked = after(ALLOW), after(BLOCK)
        assert not (isinstance(allowed, Hold) and allowed.stage is stage)
        assert (type(blocked), blocked.stage, blocked.decision) == (Deny, stage, judged.decision)


def test_a_persons_allow_changes_nothing_about_what_is_not_held():
    for case in undecided():
        if case.facts.encoded is None or case.facts.signed_from is None:
            continue
        for stage, judged in case.facts.judged.items():
            unasked = replace(judged, review=None)
            if judged.review is ALLOW and not waits(unasked):
                assert next_step(replace(case.facts, judged={**case.facts.judged, stage: unasked})) == case.step


def test_what_could_not_be_judged_never_passes():
    for case in undecided():
        if is_error(case.judged(SOURCE)) or is_error(case.judged(TARGET)):
            assert isinstance(case.step, Deny | Fail)
        if is_error(case.judged(OUTPUT)):
            assert not isinstance(case.step, Sign | Release)


def is_error(judged: Judged | None) -> bool:
    return judged is not None and (judged.refusal is not None or ERROR in (judged.pinned, judged.in_force))


def test_a_failure_is_no_denial_and_says_whether_asking_again_may_help():
    for case in giving(Fail):
        failure = case.step.failure
        assert not any(is_blocked(judged) for judged in case.facts.judged.values())
        if failure.code == "truncated":
            assert not failure.retryable
            assert any(judged.refusal == "truncated" for judged in case.facts.judged.values())
        else:
            assert (failure.code, failure.retryable) == ("policy_changed", True)
            assert case.facts.lacks is not None or any(map(is_error, case.facts.judged.values()))


def test_what_lacks_something_that_a_policy_asks_for_is_denied_or_fails_and_nothing_else():
    lacking = [case for case in undecided() if case.facts.lacks is not None]
    assert lacking
    assert {type(case.step) for case in lacking} == {Deny, Fail}


def test_a_graver_verdict_never_brings_a_transform_further():
    graver = {ALLOW: (REVIEW, ERROR, BLOCK), REVIEW: (ERROR, BLOCK), ERROR: (BLOCK,), BLOCK: ()}
    for judged, files in product(kinds(), FILES):
        before = progress(next_step(Facts(judged=judged, **files)))
        for stage, name in product(judged, ("pinned", "in_force")):
            for verdict in graver[getattr(judged[stage], name)]:
                changed: dict[str, Any] = {name: verdict}
                worse = {**judged, stage: replace(judged[stage], **changed)}
                assert progress(next_step(Facts(judged=worse, **files))) <= before


def progress(step: Step) -> int:
    """How far a transform has come by this step; every end and every pause is nothing."""
    if step == Screen(stages=(OUTPUT,)):
        return 3
    return {Screen: 1, Produce: 2, Sign: 4, Release: 5}.get(type(step), 0)


def test_whatever_has_ended_stays_as_it_is():
    ended = [case for case in space() if case.facts.has_ended]
    assert ended
    assert {case.step for case in ended} == {Done()}


def test_a_cancel_before_the_release_always_ends_it_and_after_the_release_never():
    for case in space():
        may_cancel = case.facts.is_cancelled and not case.facts.is_released and not case.facts.has_ended
        assert isinstance(case.step, Cancel) == may_cancel


def test_a_file_is_published_if_and_only_if_its_release_is_committed_and_it_does_not_lie_there_yet():
    for case in space():
        facts = case.facts
        assert isinstance(case.step, Publish) == (facts.is_released and not facts.is_published and not facts.has_ended)


def test_there_is_nothing_left_to_do_only_at_an_end():
    for case in space():
        facts = case.facts
        assert isinstance(case.step, Done) == (facts.has_ended or (facts.is_released and facts.is_published))


# --- the steps, one by one ----------------------------------------------------------------------------

PINNED = make_policy()
MARKER = make_classifier_version()
HELD = {"sexual.nudity_explicit": 300_000, "sexual.suggestive": 50_000}
"""Scores over `review_at` of `make_policy()`."""
TERMS = Terms(policy=PINNED.digest, plan="sha256:" + "3" * 64, decoder="scripted/1", classifiers=(MARKER.identity,))
ENCODED, SIGNED = make_part(), make_part(PartKind.SIGNED)


def committed(*decisions: Decision, state: State = State.SCREENING, reviews=(), **changes) -> Committed:
    events = (make_event(State.QUEUED, sequence=1), make_event(state, sequence=2))
    said = {review.decision: review for review in reviews}
    return Committed(**{"transform": make_transform(), "events": events, "decisions": decisions, "reviews": said, **changes})


def facts_now(record: Committed, *, pinned=PINNED, in_force=None, terms=TERMS, required_now=(MARKER,)) -> Facts:
    return facts_of(record, pinned=pinned, in_force=in_force or pinned, terms=terms, required_now=required_now)


def step_now(record: Committed, **changes) -> Step:
    return next_step(facts_now(record, **changes))


def three(**changes) -> tuple[Decision, ...]:
    """A decision of its own about each stage; `source`, `target` and `output` are scores."""
    scores = [changes.pop(str(stage), QUIET) for stage in STAGES]
    return tuple(
        make_screened(stage, one, id=make_id(10 + n), **changes) for n, (stage, one) in enumerate(zip(STAGES, scores, strict=True))
    )


def test_the_ten_steps_in_their_order():
    source, target, output = three()
    record = committed(state=State.QUEUED)
    assert step_now(record) == Screen(stages=(SOURCE, TARGET))  # 1 to 5, of both
    record = replace(record, decisions=(target,))
    assert step_now(record) == Screen(stages=(SOURCE,))  # 1 to 5, of what a crash left open
    record = replace(record, decisions=(target, source))
    assert step_now(record) == Produce()  # 6 and 7
    record = replace(record, parts=(ENCODED,))
    assert step_now(record) == Screen(stages=(OUTPUT,))  # 8
    record = replace(record, decisions=(target, source, output))
    assert step_now(record) == Sign()  # 9
    record = replace(record, parts=(ENCODED, SIGNED))
    assert step_now(record) == Release()  # 10, the transaction
    record = replace(record, release=make_release(record.transform, {one.stage: one.id for one in record.decisions}))
    assert step_now(record) == Publish()  # 10, the file
    record = replace(record, events=(*record.events, make_event(State.RELEASED, sequence=3)))
    assert step_now(record) == Done()


@pytest.mark.parametrize("stage", STAGES)
def test_a_marked_picture_is_denied_with_the_stage_the_decision_and_why(stage):
    decisions = three(**{str(stage): LOUD})
    step = step_now(committed(*decisions, parts=(ENCODED,)))
    assert (step.stage, step.decision) == (stage, decisions[STAGES.index(stage)].id)
    assert step.reasons[0].category == "sexual.nudity_explicit"
    assert step.reasons[0].verdict is BLOCK


def test_a_blocked_source_is_denied_before_its_target_is_screened():
    assert isinstance(step_now(committed(make_screened(SOURCE, LOUD))), Deny)


def test_a_source_to_look_at_is_not_shown_to_anybody_before_its_target_is_screened():
    source = make_screened(SOURCE, HELD, id=make_id(1))
    assert step_now(committed(source)) == Screen(stages=(TARGET,))
    assert isinstance(step_now(committed(source, make_screened(TARGET, LOUD, id=make_id(2)))), Deny)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_held_goes_on_from_the_step_it_left_once_a_person_allows_it(stage):
    decisions = three(**{str(stage): HELD})
    held = decisions[STAGES.index(stage)]
    record = committed(*decisions, state=State.HELD, parts=(ENCODED,))
    assert step_now(record) == Hold(stage=stage, decision=held.id, reasons=held.reasons)
    assert step_now(replace(record, reviews={held.id: make_review(held)})) == Sign()
    blocked = step_now(replace(record, reviews={held.id: make_review(held, BLOCK)}))
    assert blocked == Deny(stage=stage, decision=held.id, reasons=(SAID, *held.reasons))


def test_a_media_that_cannot_be_opened_fails_with_its_own_code_for_good():
    step = step_now(committed(refused(SOURCE), make_screened(TARGET, id=make_id(2))))
    assert isinstance(step, Fail)
    assert (step.failure.code, step.failure.retryable) == ("truncated", False)
    assert "source" in step.failure.message


def test_a_person_may_end_what_cannot_be_judged_and_not_let_it_pass():
    source, target = refused(SOURCE), make_screened(TARGET, id=make_id(2))
    assert isinstance(step_now(committed(source, target, reviews=[make_review(source)])), Fail)
    assert isinstance(step_now(committed(source, target, reviews=[make_review(source, BLOCK)])), Deny)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.DENIED, Done()),
        (State.FAILED, Done()),
        (State.CANCELLED, Done()),
        (State.HELD, Release()),
        (State.QUEUED, Release()),
        (State.SCREENING, Release()),
        (State.TRANSFORMING, Release()),
        (State.SCREENING_OUTPUT, Release()),
        (State.RELEASED, Release()),
    ],
)
def test_only_denied_failed_and_cancelled_are_ends_and_a_state_alone_publishes_nothing(state, expected):
    """`released` without a release is no release: the record refuses to say so, and the gate does not believe it."""
    assert step_now(committed(*three(), state=state, parts=(ENCODED, SIGNED))) == expected


def test_a_cancel_is_heard_at_every_step_until_the_release_is_committed():
    source, target, output = three()
    for record in (
        committed(state=State.QUEUED),
        committed(source, target),
        committed(source, target, parts=(ENCODED,)),
        committed(source, target, output, parts=(ENCODED, SIGNED)),
        committed(make_screened(SOURCE, HELD), state=State.HELD),
        committed(make_screened(SOURCE, LOUD)),
    ):
        assert step_now(replace(record, cancel_requested=True)) == Cancel()
    release = make_release(make_transform(), {one.stage: one.id for one in (source, target, output)})
    record = committed(source, target, output, parts=(ENCODED, SIGNED), release=release, cancel_requested=True)
    assert step_now(record) == Publish()


def test_a_block_after_the_release_does_not_end_the_transform_by_the_gate():
    """It withdraws the release, which is the record's business; serving looks at that."""
    decisions = three()
    release = make_release(make_transform(), {one.stage: one.id for one in decisions})
    record = committed(*decisions, parts=(ENCODED, SIGNED), release=release, reviews=[make_review(decisions[0], BLOCK)], withdrawn=True)
    assert step_now(record) == Publish()
    assert step_now(replace(record, events=(*record.events, make_event(State.RELEASED, sequence=3)))) == Done()


# --- which decisions count ----------------------------------------------------------------------------


def refused(stage: Stage, **changes) -> Decision:
    """Bytes that could not be opened: no classifier was asked."""
    reason = Reason(code=ReasonCode.MEDIA_REFUSED, verdict=ERROR, detail="truncated")
    whole = make_screened(stage)
    spoilt = {"verdict": ERROR, "reasons": (reason,), "sheets": (), "thresholds": (), "media": replace(whole.media, facts=None)}
    return replace(whole, **{**spoilt, **changes})


def fault(stage: Stage, code: ReasonCode = ReasonCode.CLASSIFIER_UNAVAILABLE) -> Decision:
    reason = Reason(code=code, verdict=ERROR)
    whole = make_screened(stage)
    return replace(whole, verdict=ERROR, reasons=(reason,), sheets=(), thresholds=(), media=replace(whole.media, facts=None))


def by(**changes):
    """As if another version of the classifier had given the same scores."""
    return partial(make_screened, SOURCE, classifiers=(make_classifier_version(**changes),))


OTHERWISE_MADE = {
    "other bytes": partial(make_screened, SOURCE, media=Media(sha256="00" * 32, size=1234, facts=make_facts())),
    "the target's bytes": partial(make_screened, SOURCE, media=make_screened(TARGET).media),
    "another stage": partial(make_screened, TARGET, media=make_screened(SOURCE).media),
    "no stage of a transform": lambda scores: replace(make_screened(SOURCE, scores), stage=Stage.UPLOAD),
    "another plan": partial(make_screened, SOURCE, plan_digest="sha256:" + "4" * 64),
    "another decoder": partial(make_screened, SOURCE, decoder="scripted/2"),
    "another policy": partial(make_screened, SOURCE, policy=make_policy(make_rule("sexual"))),
    "other weights": by(digest="sha256:" + "9" * 64),
    "another mapping": by(mapping_digest="sha256:" + "9" * 64),
    "another classifier": by(name="other"),
    "another version": by(version="2"),
    "one classifier more": partial(make_screened, SOURCE, classifiers=(MARKER, make_classifier_version("other"))),
    "no scores": lambda scores: replace(make_screened(SOURCE, scores), sheets=()),
    "scores twice": lambda scores: replace(make_screened(SOURCE, scores), sheets=make_screened(SOURCE, scores).sheets * 2),
    "nothing decoded": partial(make_screened, SOURCE, media=replace(make_screened(SOURCE).media, facts=None)),
}


@pytest.mark.parametrize("scores", [QUIET, HELD, LOUD], ids=["quiet", "held", "loud"])
@pytest.mark.parametrize("what", OTHERWISE_MADE)
def test_a_decision_that_was_made_otherwise_is_as_good_as_none(what, scores):
    made = OTHERWISE_MADE[what](scores=scores)
    assert not counts(made, SOURCE, make_transform().source.sha256, TERMS)
    assert step_now(committed(made, make_screened(TARGET, id=make_id(2)))) == Screen(stages=(SOURCE,))


@pytest.mark.parametrize("changes", [{"policy": "sha256:" + "0" * 64}, {"plan": ""}, {"decoder": ""}, {"classifiers": ()}])
def test_no_decision_counts_under_other_terms(changes):
    record = committed(*three(), parts=(ENCODED, SIGNED))
    assert step_now(record) == Release()
    assert step_now(record, terms=replace(TERMS, **changes)) == Screen(stages=(SOURCE, TARGET))


def test_the_order_of_classifiers_is_that_of_the_terms():
    other, policy = make_classifier_version("other", ("violence",)), make_policy(*PINNED.rules, make_rule("violence"))
    terms = replace(TERMS, policy=policy.digest, classifiers=(MARKER.identity, other.identity))
    for classifiers, expected in (((MARKER, other), True), ((other, MARKER), False)):
        made = make_screened(SOURCE, classifiers=classifiers, policy=policy)
        assert counts(made, SOURCE, make_transform().source.sha256, terms) is expected


@pytest.mark.parametrize(
    "code",
    [
        ReasonCode.DECODER_UNAVAILABLE,
        ReasonCode.CLASSIFIER_UNAVAILABLE,
        ReasonCode.CLASSIFIER_FAULT,
        ReasonCode.COULD_NOT_JUDGE,
        ReasonCode.NO_CLASSIFIER,
        ReasonCode.UNCOVERED_CATEGORY,
    ],
)
def test_a_fault_of_ours_does_not_count_and_is_screened_again(code):
    assert step_now(committed(fault(SOURCE, code), make_screened(TARGET, id=make_id(2)))) == Screen(stages=(SOURCE,))


def test_a_fault_after_a_decision_that_counts_takes_nothing_from_it():
    source, target, _ = three()
    assert step_now(committed(source, target, replace(fault(SOURCE), id=make_id(50)))) == Produce()


def test_a_refusal_counts_whatever_classifiers_there_are_by_now():
    source, target = refused(SOURCE), make_transform().target.sha256
    for terms in (TERMS, replace(TERMS, classifiers=("another",)), replace(TERMS, classifiers=())):
        assert counts(source, SOURCE, make_transform().source.sha256, terms)
    assert not counts(source, TARGET, target, TERMS)


@pytest.mark.parametrize("changes", [{"plan": ""}, {"decoder": ""}, {"policy": ""}])
def test_a_refusal_by_another_decoder_or_under_other_limits_does_not_count(changes):
    assert not counts(refused(SOURCE), SOURCE, make_transform().source.sha256, replace(TERMS, **changes))


def test_a_decision_whose_scores_were_used_again_counts_as_any_other():
    source, target, _ = three(reused_from=make_id(77))
    assert step_now(committed(source, target)) == Produce()


def test_a_decision_on_another_runtime_counts_and_can_be_decided_again():
    there = replace(MARKER, runtime="another machine")
    record = committed(*three(classifiers=(there,)), parts=(ENCODED, SIGNED))
    assert step_now(record) == Release()
    assert step_now(record, in_force=TIGHTER_ELSEWHERE) == Release()


def test_nothing_counts_for_a_file_that_is_not_there():
    assert not counts(make_screened(OUTPUT), OUTPUT, None, TERMS)
    assert step_now(committed(*three())) == Produce()


def test_a_decision_about_another_encoded_file_says_nothing_about_this_one():
    record = committed(*three(), parts=(replace(ENCODED, sha256="0e" * 32), SIGNED))
    assert step_now(record) == Screen(stages=(OUTPUT,))


def test_a_file_signed_from_another_one_is_signed_anew():
    assert step_now(committed(*three(), parts=(ENCODED, replace(SIGNED, made_of="0e" * 32)))) == Sign()


# --- the newest one, and what people said -------------------------------------------------------------


def test_the_newest_decision_that_counts_decides():
    old, new = make_screened(SOURCE, id=make_id(1)), make_screened(SOURCE, LOUD, id=make_id(2))
    target = make_screened(TARGET, id=make_id(3))
    assert step_now(committed(old, new, target)).decision == new.id
    assert step_now(committed(new, old, target)) == Produce()


def test_a_newer_decision_that_does_not_count_hides_nothing():
    source, target, _ = three(source=LOUD)
    elsewhere = make_screened(SOURCE, QUIET, id=make_id(50), decoder="scripted/2")
    assert step_now(committed(source, target, elsewhere)).decision == source.id


def test_a_persons_allow_of_an_older_decision_does_not_carry_over_to_a_newer_one():
    old, new = make_screened(SOURCE, HELD, id=make_id(1)), make_screened(SOURCE, HELD, id=make_id(2))
    record = committed(old, new, make_screened(TARGET, id=make_id(3)), reviews=[make_review(old)])
    assert step_now(record) == Hold(stage=SOURCE, decision=new.id, reasons=new.reasons)


def test_a_persons_allow_of_one_stage_lets_no_other_stage_pass():
    source, target, _ = three(source=HELD, target=HELD)
    assert step_now(committed(source, target, reviews=[make_review(source)])).stage is TARGET


@pytest.mark.parametrize(
    "changes", [{}, {"decoder": "scripted/0"}, {"plan_digest": "another"}, {"classifiers": (make_classifier_version(version="0"),)}]
)
def test_what_a_person_blocks_stays_blocked_whatever_is_decided_about_these_bytes_later(changes):
    """Held for days, blocked after an upgrade: the decision that was looked at no longer counts, what was said of it does."""
    old = make_screened(SOURCE, HELD, id=make_id(1), **changes)
    new, target = make_screened(SOURCE, id=make_id(2)), make_screened(TARGET, id=make_id(3))
    record = committed(old, target, reviews=[make_review(old, BLOCK)])
    assert step_now(record) == Deny(stage=SOURCE, decision=old.id, reasons=(SAID, *old.reasons))
    record = replace(record, decisions=(old, target, new))
    assert step_now(record) == Deny(stage=SOURCE, decision=old.id, reasons=(SAID, *old.reasons))
    assert step_now(replace(record, reviews={old.id: make_review(old)})) == Produce(), "until that person takes it back"


def test_what_a_person_blocks_is_these_bytes_at_this_stage_and_no_others():
    elsewhere = make_screened(SOURCE, HELD, id=make_id(1), media=Media(sha256="00" * 32, size=1, facts=make_facts()))
    source, target, _ = three()
    assert step_now(committed(elsewhere, source, target, reviews=[make_review(elsewhere, BLOCK)])) == Produce()


def test_a_person_blocks_what_the_policy_allows():
    decisions = three()
    for decision in decisions:
        step = step_now(committed(*decisions, parts=(ENCODED, SIGNED), reviews=[make_review(decision, BLOCK)]))
        assert step == Deny(stage=decision.stage, decision=decision.id, reasons=(SAID,))


BYTES = {"source": SOURCE, "target": TARGET, "encoded": OUTPUT, "signed": OUTPUT}


@pytest.mark.parametrize("which", BYTES)
@pytest.mark.parametrize("said_at", Stage)
def test_what_a_person_blocks_anywhere_stops_every_work_with_these_bytes_and_the_denial_names_the_review(which, said_at):
    decisions, transform = three(), make_transform()
    sha256 = {"source": transform.source.sha256, "target": transform.target.sha256, "encoded": ENCODED.sha256, "signed": SIGNED.sha256}
    block = Block(stage=said_at, decision=make_id(70), review=make_id(71))
    record = committed(*decisions, parts=(ENCODED, SIGNED))
    assert step_now(replace(record, blocks={"00" * 32: block})) == Release()
    reason = Reason(code=ReasonCode.BLOCKED_BY_PERSON, verdict=BLOCK, detail=str(make_id(71)))
    denied = Deny(stage=BYTES[which], decision=make_id(70), reasons=(reason,))
    assert step_now(replace(record, blocks={sha256[which]: block})) == denied
    allowed = {decision.id: make_review(decision) for decision in decisions}
    assert step_now(replace(record, blocks={sha256[which]: block}, reviews=allowed)) == denied


def test_bytes_that_a_person_blocks_are_not_even_screened():
    block = Block(stage=TARGET, decision=make_id(70), review=make_id(71))
    step = step_now(committed(blocks={make_transform().source.sha256: block}))
    assert (type(step), step.stage) == (Deny, SOURCE)


def test_a_segment_that_a_person_blocks_elsewhere_ends_the_video():
    block = Block(stage=OUTPUT, decision=make_id(70), review=make_id(71))
    record = committed(*three()[:2], segment_decision(1), transform=VIDEO, parts=(FIRST,), blocks={FIRST.sha256: block})
    assert (type(step_now(record)), step_now(record).decision) == (Deny, make_id(70))


def test_a_face_that_was_removed_from_the_catalogue_ends_the_work_unless_that_has_ended_or_been_released():
    for case in space():
        step = next_step(replace(case.facts, is_source_gone=True))
        if isinstance(case.step, Done | Publish | Cancel | Deny):
            assert step == case.step
        else:
            assert (step.failure.code, step.failure.retryable) == ("source_removed", False)
    assert step_now(committed(*three(), parts=(ENCODED, SIGNED), source_removed=True)).failure.code == "source_removed"
    streamed = replace(facts_now(committed(*three()[:2], segment_decision(1), transform=VIDEO, parts=(FIRST,))), may_stream=True)
    assert (shown(streamed), shown(replace(streamed, is_source_gone=True))) == (1, 0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_person_allows_no_block(stage):
    decisions = three(**{str(stage): LOUD})
    reviews = [make_review(decision) for decision in decisions]
    assert isinstance(step_now(committed(*decisions, parts=(ENCODED, SIGNED), reviews=reviews)), Deny)


# --- decided again ------------------------------------------------------------------------------------

HOLDS = make_policy(make_rule("sexual", review_at=1, block_at=None))
BLOCKS = make_policy(make_rule("sexual", review_at=1, block_at=1))
LOOSE = make_policy(make_rule("sexual", review_at=1_000_000, block_at=None))
HOLDS_ONLY = make_policy(make_rule("sexual", review_at=300_000, block_at=None))
TIGHTER_ELSEWHERE = make_policy(*PINNED.rules, make_rule("violence"))
AVERSE = make_policy(*PINNED.rules, make_rule("violence", review_at=1, block_at=1))


def test_a_policy_that_is_tightened_meanwhile_denies_with_its_own_reasons():
    record = committed(*three(), parts=(ENCODED, SIGNED))
    step = step_now(record, in_force=BLOCKS)
    assert (type(step), step.stage, step.decision) == (Deny, SOURCE, record.decisions[0].id)
    assert {reason.threshold for reason in step.reasons} == {1}


def test_a_policy_that_is_tightened_meanwhile_holds_with_its_own_reasons_and_a_person_may_allow_it():
    record = committed(*three(), parts=(ENCODED, SIGNED))
    step = step_now(record, in_force=HOLDS)
    assert (type(step), step.stage, step.decision) == (Hold, SOURCE, record.decisions[0].id)
    assert {reason.verdict for reason in step.reasons} == {REVIEW}
    allowed = replace(record, reviews={decision.id: make_review(decision) for decision in record.decisions})
    assert step_now(allowed, in_force=HOLDS) == Release()


@pytest.mark.parametrize("loose", [LOOSE, make_policy(make_rule("violence"), ignore=("sexual.*",))], ids=["higher", "ignoring"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_policy_that_is_loosened_meanwhile_lets_nothing_more_pass(loose, stage):
    for scores, kind in ((LOUD, Deny), (HELD, Hold)):
        decisions = three(**{str(stage): scores})
        step = step_now(committed(*decisions, parts=(ENCODED, SIGNED)), in_force=loose)
        if loose is LOOSE:
            decision = decisions[STAGES.index(stage)]
            assert step == kind(stage=stage, decision=decision.id, reasons=decision.reasons)
        assert not isinstance(step, Produce | Sign | Release)


@pytest.mark.parametrize("in_force", [HOLDS_ONLY, AVERSE], ids=["only holds it", "cannot judge it"])
def test_a_denial_gives_the_reasons_that_block_and_not_milder_ones_of_the_other_policy(in_force):
    source, target, _ = three(source=LOUD)
    other = make_classifier_version("other", ("violence",))
    step = step_now(committed(source, target), in_force=in_force, required_now=(MARKER, other) if in_force is AVERSE else (MARKER,))
    assert step == Deny(stage=SOURCE, decision=source.id, reasons=source.reasons)
    assert step.reasons[0].verdict is BLOCK


@pytest.mark.parametrize("scores", [QUIET, HELD])
def test_a_policy_that_asks_another_classifier_by_now_cannot_judge_what_that_one_never_saw(scores):
    record = committed(*three(source=scores), parts=(ENCODED, SIGNED))
    record = replace(record, reviews={decision.id: make_review(decision) for decision in record.decisions})
    other = make_classifier_version("other", ("violence",))
    step = step_now(record, in_force=TIGHTER_ELSEWHERE, required_now=(MARKER, other))
    assert (type(step), step.failure.code, step.failure.retryable) == (Fail, "policy_changed", True)


@pytest.mark.parametrize(
    "required_now",
    [(), (make_classifier_version(version="2"),), (make_classifier_version(digest="sha256:" + "9" * 64),), (MARKER, MARKER)],
    ids=["none", "version", "weights", "twice"],
)
def test_a_policy_in_force_that_has_not_exactly_its_judges_scores_lets_nothing_pass(required_now):
    record = committed(*three(), parts=(ENCODED, SIGNED))
    step = step_now(record, in_force=TIGHTER_ELSEWHERE, required_now=required_now)
    if required_now == (MARKER, MARKER):
        assert step == Release(), "to ask for the same twice asks for nothing more"
    else:
        assert isinstance(step, Fail)


def test_scores_of_a_classifier_that_the_policy_in_force_leaves_out_take_no_part():
    other = make_classifier_version("other", ("violence",))
    pinned = make_policy(*PINNED.rules, make_rule("violence"))
    decisions = tuple(
        replace(one, policy=PolicyRef(name="default", version=1, digest=pinned.digest))
        for one in three(policy=pinned, classifiers=(MARKER, other))
    )
    terms = replace(TERMS, policy=pinned.digest, classifiers=(MARKER.identity, other.identity))
    record = committed(*decisions, parts=(ENCODED, SIGNED))
    assert step_now(record, pinned=pinned, in_force=PINNED, terms=terms) == Release()


@pytest.mark.parametrize("stored", Verdict)
@pytest.mark.parametrize("scores", [QUIET, HELD, LOUD], ids=["quiet", "held", "loud"])
@pytest.mark.parametrize("in_force", [PINNED, LOOSE, TIGHTER_ELSEWHERE], ids=["same", "loose", "other"])
def test_a_stored_verdict_that_its_own_scores_do_not_give_is_never_believed(in_force, scores, stored):
    source, target, output = three(source=scores)
    altered = replace(source, verdict=stored)
    step = step_now(committed(altered, target, output, parts=(ENCODED, SIGNED), reviews=[make_review(altered)]), in_force=in_force)
    if stored is source.verdict:
        assert isinstance(step, Deny if stored is BLOCK else Release)
    else:
        assert isinstance(step, Deny | Fail) or step == Screen(stages=(SOURCE,))


def test_scores_that_were_altered_to_none_let_nothing_pass():
    source, target, _ = three()
    row = source.sheets[0].frames[0]
    for scores in ({}, {"sexual.suggestive": 0}, {**QUIET, "sexual.nudity_explicit": -1}, {**QUIET, "violence": 0}):
        sheet = replace(source.sheets[0], frames=(replace(row, scores=scores),))
        assert isinstance(step_now(committed(replace(source, sheets=(sheet,)), target)), Fail)


@given(
    st.tuples(*[st.sampled_from([0, 1, 199_999, 200_000, 450_000, 600_000, 1_000_000])] * 2),
    st.sampled_from(STAGES),
    st.sampled_from([PINNED, HOLDS, BLOCKS, LOOSE, HOLDS_ONLY]),
)
def test_deciding_again_is_deciding(levels, stage, policy):
    scores = dict(zip(MARKER.categories, levels, strict=True))
    decision = make_screened(stage, scores)
    outcome = decide(stage=stage, facts=decision.media.facts, required=(MARKER,), sheets=decision.sheets, policy=policy)
    assert decide_again(decision, policy, (MARKER,)) == outcome
    assert decide_again(decision, PINNED, (MARKER,)).verdict is decision.verdict


def test_what_was_never_decoded_is_not_decided_again():
    with pytest.raises(ValueError, match="nothing was judged"):
        decide_again(refused(SOURCE), PINNED, (MARKER,))


def test_deciding_again_is_remembered_for_the_very_decision_policy_and_classifiers_only():
    again, stricter = Again(), BLOCKS
    quiet, loud = make_screened(SOURCE, QUIET), make_screened(SOURCE, LOUD)
    assert quiet.id == loud.id
    asked = [(decision, policy) for decision in (quiet, loud, quiet) for policy in (PINNED, stricter)]
    for decision, policy in asked * 2:
        assert again(decision, policy, (MARKER,)) == decide_again(decision, policy, (MARKER,))
    assert again(quiet, PINNED, (MARKER,)) is again(quiet, PINNED, (MARKER,))
    assert again(quiet, PINNED, ()) == decide_again(quiet, PINNED, ())
    assert again(quiet, PINNED, ()) != again(quiet, PINNED, (MARKER,))


# --- what a policy asks for beside verdicts -----------------------------------------------------------

CONSENT = ConsentStatement(basis=Basis.SELF)
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "consent": ({"consent": Consent.REQUIRED}, {"consent": None}, {"consent": CONSENT}),
    "consent about the target": ({"target_consent": Consent.REQUIRED}, {"target_consent": None}, {"target_consent": CONSENT}),
    "a face of the catalogue": ({"sources": "catalogue"}, {"catalogue_source": None}, {"catalogue_source": make_id(9)}),
    "the visible label": ({"label_visible": True}, {"options": Options(label=False)}, {"options": Options(label=True)}),
}
ASKS_NOTHING = make_policy(consent=Consent.OPTIONAL, label_visible=False)


@pytest.mark.parametrize("what", ASKED)
def test_what_the_policy_in_force_asks_for_by_now_is_asked_for_until_the_release(what):
    asks, without, with_it = ASKED[what]
    tightened = replace(ASKS_NOTHING, **asks)
    terms = replace(TERMS, policy=ASKS_NOTHING.digest)
    for decisions, parts, otherwise in (((), (), Screen(stages=INPUTS)), (three(policy=ASKS_NOTHING), (ENCODED, SIGNED), Release())):
        lacks = committed(*decisions, parts=parts, transform=make_transform(**without))
        has = committed(*decisions, parts=parts, transform=make_transform(**with_it))
        now = partial(step_now, pinned=ASKS_NOTHING, terms=terms)
        assert (now(lacks), now(has), now(has, in_force=tightened)) == (otherwise, otherwise, otherwise)
        failure = now(lacks, in_force=tightened).failure
        assert isinstance(failure, Failure)
        assert (failure.code, failure.retryable) == ("policy_changed", True)
        assert step_now(lacks, pinned=tightened, in_force=ASKS_NOTHING, terms=terms).failure == failure, "the pinned one as well"


def test_a_block_is_a_denial_even_where_something_is_lacking():
    record = committed(*three(source=LOUD), transform=make_transform(consent=None))
    assert isinstance(step_now(record), Deny)


@pytest.mark.parametrize("limit", [{"image_bytes": 1233}, {"image_pixels": 64 * 48 - 1}], ids=["bytes", "pixels"])
def test_limits_that_are_tightened_meanwhile_stop_what_is_beyond_them(limit):
    record = committed(*three(), parts=(ENCODED, SIGNED))
    (name, most), *_ = limit.items()
    allowed, tightened = (replace(PINNED, limits=replace(PINNED.limits, **{name: at})) for at in (most + 1, most))
    assert step_now(record, in_force=allowed) == Release()
    failure = step_now(record, in_force=tightened).failure
    assert (failure.code, failure.retryable) == ("policy_changed", True)


def test_what_we_made_of_a_video_may_have_more_bytes_than_the_limits_in_force_let_anybody_send():
    source, target, output = three()
    filmed = [replace(one, media=replace(one.media, facts=replace(one.media.facts, kind=MediaKind.VIDEO))) for one in (target, output)]
    tightened = replace(PINNED, limits=replace(PINNED.limits, video_bytes=1233))
    assert step_now(committed(source, target, filmed[1], parts=(ENCODED, SIGNED)), in_force=tightened) == Release()
    assert isinstance(step_now(committed(source, *filmed, parts=(ENCODED, SIGNED)), in_force=tightened), Fail)


def test_a_picture_that_is_refused_for_its_size_says_so_whatever_limits_are_in_force():
    tightened = replace(PINNED, limits=replace(PINNED.limits, image_bytes=1))
    assert step_now(committed(refused(SOURCE)), in_force=tightened).failure.code == "truncated"


# --- a video, made in segments ------------------------------------------------------------------------

VIDEO = make_transform(target=Original(sha256=make_transform().target.sha256, size=222, type="video/mp4"))
FIRST, LAST = make_segment(1), make_segment(2, is_last=True)


def judged_about(stage: Stage, number: int = 0) -> list[Judged | None]:
    """One of each kind, under its own name."""
    return [None if one is None else replace(one, decision=make_id(200 + number)) for one in some_judged(stage)]


@cache
def video_space() -> list[Case]:
    """Up to two segments of every kind, the second one the last or not, beside inputs and a whole of some kinds, and what else stops it."""
    inputs = [judged for judged in judgements(some_judged(SOURCE)[:5], some_judged(TARGET)[:2], [None]) if len(judged) != 1]
    one, two = judged_about(OUTPUT, 1), judged_about(OUTPUT, 2)
    pieces = [(), *(((first, last),) for first in one for last in (False, True))]
    pieces += [((first, False), (second, last)) for first, second, last in product(one, two, (False, True))]
    wholes = [({}, FILES[0]), ({}, FILES[1]), ({OUTPUT: some_judged(OUTPUT)[1]}, FILES[1])] + [
        ({OUTPUT: whole}, FILES[2]) for whole in some_judged(OUTPUT)[1:5]
    ]
    others = ({}, {"is_cancelled": True}, {"has_ended": True}, {"lacks": "it"}, {"may_stream": False})
    facts = [
        Facts(
            judged={**judged, **whole},
            segments=tuple(Segment(judged=piece, is_last=last) for piece, last in made),
            **{"is_video": True, "may_stream": True, **files, **other},
        )
        for judged, made, (whole, files), other in product(inputs, pieces, wholes, others)
    ]
    return [Case(one, next_step(one)) for one in facts]


def of_video(kind: type[Step]) -> list[Case]:
    found = [case for case in video_space() if isinstance(case.step, kind)]
    assert found, f"nothing leads to {kind.__name__}"
    return found


def goes_on(judged: Judged | None) -> bool:
    """Whether more may be made after it: it passes, or only a person is missing."""
    return passes(judged) or waits(judged)


def is_let_pass(case: Case, judged: Judged | None) -> bool:
    """Whether a segment passes by itself, or a person allows the whole that it is a part of."""
    whole = case.judged(OUTPUT)
    return passes(judged) or (waits(judged) and whole is not None and whole.review is ALLOW)


def inputs_pass(case: Case) -> bool:
    return passes(case.judged(SOURCE)) and passes(case.judged(TARGET)) and case.facts.lacks is None


def is_going_on(case: Case) -> bool:
    return not (case.facts.is_cancelled or case.facts.has_ended)


def test_a_video_is_never_made_as_a_picture_is_and_a_picture_never_in_segments():
    assert {type(case.step) for case in video_space()} == {
        *(Screen, ProduceSegment, ScreenSegment, Assemble, Sign, Release, Deny, Hold, Fail, Cancel, Done)
    }
    assert not [case for case in space() if isinstance(case.step, ProduceSegment | ScreenSegment | Assemble)]


def test_the_next_segment_is_made_only_if_nothing_before_it_stops_it_and_none_of_them_is_the_last():
    for case in of_video(ProduceSegment):
        assert inputs_pass(case)
        assert case.step.number == len(case.facts.segments) + 1
        assert all(goes_on(segment.judged) for segment in case.facts.segments)
        assert not case.facts.segments or not case.facts.segments[-1].is_last


def test_the_first_segment_without_a_decision_is_screened_unless_one_before_it_stops_it():
    for case in of_video(ScreenSegment):
        assert inputs_pass(case)
        *before, this = case.facts.segments[: case.step.number]
        assert this.judged is None
        assert all(goes_on(segment.judged) for segment in before)


@pytest.mark.parametrize("step", [Assemble, Sign, Release])
def test_segments_are_joined_signed_and_released_only_if_each_passes_and_the_last_is_among_them(step):
    for case in of_video(step):
        assert inputs_pass(case)
        assert case.facts.segments[-1].is_last
        assert all(goes_on(segment.judged) if step is Assemble else is_let_pass(case, segment.judged) for segment in case.facts.segments)
        assert (case.facts.encoded is None) is (step is Assemble)
        assert step is Assemble or passes(case.judged(OUTPUT))


def test_a_video_whose_segments_all_pass_is_joined_and_then_goes_the_way_of_a_picture():
    done = [
        case
        for case in video_space()
        if is_going_on(case)
        and inputs_pass(case)
        and case.facts.segments
        and case.facts.segments[-1].is_last
        and all(passes(segment.judged) for segment in case.facts.segments)
    ]
    for case in done:
        if case.facts.encoded is None:
            assert case.step == Assemble()
        else:
            assert case.step == next_step(replace(case.facts, is_video=False, segments=()))
    assert {type(case.step) for case in done} == {Assemble, Screen, Sign, Release, Deny, Hold}


def test_a_block_in_any_segment_ends_all_of_it_at_once_under_its_own_decision():
    for case in video_space():
        ordered = [case.judged(SOURCE), case.judged(TARGET), *(segment.judged for segment in case.facts.segments), case.judged(OUTPUT)]
        first = next((judged for judged in ordered if is_blocked(judged)), None)
        assert isinstance(case.step, Deny) == (first is not None and is_going_on(case))
        if isinstance(case.step, Deny):
            assert (case.step.decision, case.step.reasons) == (first.decision, first.reasons)


def test_segments_to_look_at_are_asked_about_once_with_the_whole():
    held = [Segment(judged=Judged(decision=make_id(number), pinned=REVIEW, in_force=ALLOW), is_last=number == 9) for number in (8, 9)]
    allows = {stage: Judged(decision=make_id(1), pinned=ALLOW, in_force=ALLOW) for stage in INPUTS}
    facts = Facts(judged=allows, is_video=True, may_stream=True, segments=(held[0],))
    assert (next_step(facts), shown(facts)) == (ProduceSegment(number=2), 0)
    facts = replace(facts, segments=tuple(held))
    assert next_step(facts) == Assemble()
    whole = Judged(decision=make_id(5), pinned=REVIEW, in_force=ALLOW)
    facts = replace(facts, encoded="e" * 64, judged={**allows, OUTPUT: whole})
    assert (next_step(facts), shown(facts)) == (Hold(stage=OUTPUT, decision=make_id(5), reasons=()), 0)

    def after(review: Verdict, *, of_segment: Verdict | None = None) -> tuple[Step, int]:
        first = replace(held[0], judged=replace(held[0].judged, review=of_segment))
        spoken = replace(facts, judged={**allows, OUTPUT: replace(whole, review=review)}, segments=(first, held[1]))
        return next_step(spoken), shown(spoken)

    assert after(ALLOW) == (Sign(), 2)
    assert after(BLOCK) == (Deny(stage=OUTPUT, decision=make_id(5), reasons=()), 0)
    assert after(ALLOW, of_segment=BLOCK) == (Deny(stage=OUTPUT, decision=make_id(8), reasons=()), 0)


def test_a_segment_to_look_at_in_a_whole_that_is_not_is_looked_at_all_the_same():
    judged = {stage: Judged(decision=make_id(1), pinned=ALLOW, in_force=ALLOW) for stage in STAGES}
    held = Judged(decision=make_id(9), pinned=REVIEW, in_force=ALLOW)
    facts = Facts(judged=judged, is_video=True, segments=(Segment(judged=held, is_last=True),), encoded="e" * 64, signed_from="e" * 64)
    assert next_step(facts) == Hold(stage=OUTPUT, decision=make_id(9), reasons=())
    assert next_step(replace(facts, segments=(Segment(judged=replace(held, review=ALLOW), is_last=True),))) == Release()


def test_segments_are_shown_up_to_the_first_that_does_not_pass_and_none_where_anything_stops_the_rest():
    seen = set()
    for case in video_space():
        facts = case.facts
        stopped = not (facts.may_stream and is_going_on(case) and inputs_pass(case)) or any(
            map(is_blocked, [case.judged(OUTPUT), *(segment.judged for segment in facts.segments)])
        )
        passed = [is_let_pass(case, segment.judged) for segment in facts.segments]
        expected = 0 if stopped else len(list(takewhile(bool, passed)))
        assert shown(facts) == expected
        seen.add(expected)
    assert seen == {0, 1, 2}


def segment_decision(number: int, scores=QUIET, **changes) -> Decision:
    part = make_segment(number)
    return make_screened(OUTPUT, scores, id=make_id(20 + number), media=Media(sha256=part.sha256, size=333, facts=make_facts()), **changes)


def test_the_steps_of_a_video_in_their_order():
    source, target, output = three()
    first, last = segment_decision(1), segment_decision(2)
    record = committed(state=State.QUEUED, transform=VIDEO)
    assert step_now(record) == Screen(stages=INPUTS)
    record = replace(record, decisions=(source, target))
    assert step_now(record) == ProduceSegment(number=1)
    record = replace(record, parts=(FIRST,))
    assert step_now(record) == ScreenSegment(number=1)
    record = replace(record, decisions=(source, target, first))
    assert step_now(record) == ProduceSegment(number=2)
    record = replace(record, parts=(LAST, FIRST))  # in whichever order they are read
    assert step_now(record) == ScreenSegment(number=2)
    record = replace(record, decisions=(source, target, first, last))
    assert step_now(record) == Assemble()
    record = replace(record, parts=(ENCODED, FIRST, LAST))
    assert step_now(record) == Screen(stages=(OUTPUT,))
    record = replace(record, decisions=(source, target, first, last, output))
    assert step_now(record) == Sign()
    record = replace(record, parts=(ENCODED, SIGNED, FIRST, LAST))
    assert step_now(record) == Release()


def test_a_decision_about_one_segment_or_the_whole_says_nothing_about_another():
    source, target, output = three()
    record = committed(source, target, output, segment_decision(2), transform=VIDEO, parts=(FIRST,))
    assert step_now(record) == ScreenSegment(number=1)


def test_other_versions_screen_every_segment_again():
    record = committed(*three()[:2], segment_decision(1, decoder="scripted/2"), transform=VIDEO, parts=(FIRST,))
    assert step_now(record) == ScreenSegment(number=1)


def test_a_person_blocks_a_segment_that_the_policy_allows():
    first = segment_decision(1)
    record = committed(*three(), first, transform=VIDEO, parts=(ENCODED, SIGNED, replace(FIRST, span=replace(FIRST.span, is_last=True))))
    assert step_now(record) == Release()
    assert step_now(replace(record, reviews={first.id: make_review(first, BLOCK)})) == Deny(
        stage=OUTPUT, decision=first.id, reasons=(SAID,)
    )


@pytest.mark.parametrize(
    ("pinned", "in_force", "label", "transform", "expected"),
    [
        ("labelled", "labelled", True, VIDEO, 1),
        ("off", "labelled", True, VIDEO, 0),
        ("labelled", "off", True, VIDEO, 0),
        ("labelled", "labelled", False, VIDEO, 0),
        ("labelled", "labelled", True, make_transform(), 0),
    ],
)
def test_segments_are_shown_only_where_both_policies_say_so_and_they_carry_the_label(pinned, in_force, label, transform, expected):
    then, now = (replace(PINNED, stream=stream, label_visible=False) for stream in (pinned, in_force))
    decisions = (*three(policy=then)[:2], segment_decision(1, policy=then))
    record = committed(*decisions, transform=replace(transform, options=Options(label=label)), parts=(FIRST,))
    assert shown(facts_now(record, pinned=then, in_force=now, terms=replace(TERMS, policy=then.digest))) == expected


def test_a_video_that_was_accepted_with_its_sound_is_not_made_once_a_policy_drops_it():
    source, target, _ = three()
    heard = replace(target, media=replace(target.media, facts=replace(target.media.facts, unscreened=(Unscreened.AUDIO,))))
    silent = replace(PINNED, audio="drop")
    asked = committed(source, heard, transform=VIDEO)
    assert step_now(asked, in_force=silent).failure.code == "policy_changed"
    assert step_now(asked) == ProduceSegment(number=1)
    assert step_now(committed(source, target, transform=VIDEO), in_force=silent) == ProduceSegment(number=1), "it has none"
    assert step_now(committed(state=State.QUEUED, transform=VIDEO), in_force=silent) == Screen(stages=INPUTS), "it is not known yet"


def test_what_was_made_with_sound_is_not_released_once_a_policy_drops_it():
    last = replace(FIRST, span=replace(FIRST.span, is_last=True))
    first = segment_decision(1)
    heard = replace(first, media=replace(first.media, facts=replace(first.media.facts, unscreened=(Unscreened.AUDIO,))))
    record = committed(*three(), heard, transform=VIDEO, parts=(last, ENCODED, SIGNED))
    assert step_now(record) == Release()
    assert step_now(record, in_force=replace(PINNED, audio="drop")).failure.code == "policy_changed"
