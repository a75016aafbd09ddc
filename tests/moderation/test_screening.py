"""The order of steps 1 to 5, and that whatever goes wrong in it fails closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import math
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.audit import decision_entry
from moderation.decision import ReasonCode, Verdict
from moderation.errors import (
    CannotJudge,
    ClassifierFault,
    ClassifierUnavailable,
    DecoderUnavailable,
    MediaRefused,
    Overloaded,
    RecordUnavailable,
    Refusal,
    StaleLease,
)
from moderation.frames import DecodePlan, Fit, Limits
from moderation.media import MediaKind, Stage
from moderation.policy import PolicyLimits
from moderation.ports import Recalled
from moderation.scores import ONE, InputScores
from moderation.screening import CALLS_IN_FLIGHT, MAX_DETECTIONS, Screener, judges_of, plan_digest
from tests.builders import (
    LOUD,
    NOW,
    OTHER_TENANT,
    QUIET,
    TENANT,
    make_classifier_version,
    make_detection,
    make_facts,
    make_id,
    make_input,
    make_order,
    make_policy,
    make_rule,
    make_scores,
    make_sheet,
    make_spec,
)
from tests.fakes import DictScoreMemory, FixedClock, ListDecisionLog, ListQueue, ScriptedClassifier, ScriptedDecoder

BYTES = b"some picture"


class Bench:
    """A screener with all its fakes at hand."""

    def __init__(self, *classifiers, decoder=None, log=None, memory=None, limits=None):
        self.classifiers = classifiers or (ScriptedClassifier(),)
        self.decoder = decoder or ScriptedDecoder()
        self.memory = memory or DictScoreMemory()
        self.log = log or ListDecisionLog(memory=self.memory)
        self.screener = Screener(
            decoder=self.decoder,
            classifiers=self.classifiers,
            log=self.log,
            memory=self.memory,
            clock=FixedClock(),
            limits=limits or Limits(),
        )

    def screen(self, data=BYTES, **order):
        return asyncio.run(self.screener.screen(data, make_order(**order)))


@pytest.fixture(autouse=True)
def no_task_is_left_behind(caplog):
    """Nothing goes on after a screening, and no fault is reported by the loop for want of anybody who took it."""
    yield
    gc.collect(1)  # the young ones, which is what one test makes
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def codes(decision):
    return [reason.code for reason in decision.reasons]


# --- the steps in order ------------------------------------------------------------------------------


def test_a_decision_tells_everything_that_led_to_it():
    bench = Bench()
    decision = bench.screen(reference="order-17", transform=make_id(9))
    assert decision.verdict is Verdict.ALLOW
    assert (decision.id, decision.tenant, decision.actor, decision.request_id) == (make_id(), TENANT, "k" * 20, "req_1")
    assert (decision.reference, decision.transform, decision.automated, decision.reused_from) == ("order-17", make_id(9), True, None)
    assert (decision.media.sha256, decision.media.size) == (hashlib.sha256(BYTES).hexdigest(), len(BYTES))
    assert decision.media.facts == make_facts()
    assert decision.sheets == (make_sheet(),)
    assert (decision.policy.name, decision.policy.digest) == ("default", make_policy().digest)
    assert (decision.decoder, decision.created_at) == ("scripted/1", NOW)
    assert decision.plan_digest == plan_digest(bench.decoder.plans[0])
    assert decision.scores() == QUIET


def test_a_decision_is_recorded_before_it_is_returned():
    bench = Bench()
    assert bench.screen() == bench.log.decisions[0]


def test_a_classifier_that_is_exchanged_while_a_media_is_judged_leaves_no_mixed_sheet():
    classifier = ScriptedClassifier()

    def exchanged(_):
        classifier.version = replace(classifier.version, digest="sha256:newer")
        return InputScores(scores=dict(QUIET))

    classifier.answer = exchanged
    bench = Bench(classifier, decoder=ScriptedDecoder(facts=make_facts(frames=2), batch=1))
    decision = bench.screen()
    assert (decision.verdict, codes(decision)) == (Verdict.ERROR, [ReasonCode.CLASSIFIER_UNAVAILABLE])
    assert len(classifier.calls) == 1


@pytest.mark.parametrize("fault", [RecordUnavailable("down"), StaleLease("another's")])
@pytest.mark.parametrize("scores", [QUIET, LOUD])
def test_what_cannot_be_recorded_is_not_decided(fault, scores):
    bench = Bench(ScriptedClassifier(scores=scores), log=ListDecisionLog(fault=fault))
    with pytest.raises(type(fault)):
        bench.screen()
    assert bench.log.decisions == []


def test_a_refusal_that_cannot_be_recorded_is_not_decided_either():
    bench = Bench(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TRUNCATED)), log=ListDecisionLog(fault=RecordUnavailable("down")))
    with pytest.raises(RecordUnavailable):
        bench.screen()


def test_nothing_is_decoded_while_the_record_cannot_be_read():
    bench = Bench(memory=DictScoreMemory(fault=RecordUnavailable("down")))
    with pytest.raises(RecordUnavailable):
        bench.screen()
    assert bench.decoder.plans == []


def test_the_job_is_done_by_the_commit_of_its_decision():
    async def scenario():
        queue = ListQueue()
        job = await queue.put(id=make_id(), tenant=TENANT, kind="screening", payload={}, leased_for_s=30)
        bench = Bench(log=ListDecisionLog(queue=queue))
        await bench.screener.screen(BYTES, make_order(), job=job)
        queue.expire(job.id)
        newer = await queue.take(["screening"], 30)
        with pytest.raises(StaleLease):
            await bench.screener.screen(BYTES, make_order(), job=job)
        return bench.log.decisions, newer.fence, job.fence

    decisions, newer, older = asyncio.run(scenario())
    assert len(decisions) == 1
    assert newer > older


def test_every_classifier_sees_every_frame_of_its_own_spec():
    small, large = make_spec(), make_spec(width=16, height=16, fit=Fit.LETTERBOX)
    one, two, three = (
        ScriptedClassifier(version=make_classifier_version(name, input=spec, calibrated=True))
        for name, spec in (("one", small), ("two", large), ("three", small))
    )
    bench = Bench(one, two, three, decoder=ScriptedDecoder(facts=make_facts(frames=5), batch=4))
    decision = bench.screen()
    assert decision.verdict is Verdict.ALLOW
    assert bench.decoder.plans[0].specs == (small, large)
    for classifier in (one, two, three):
        assert sorted(frame for call in classifier.calls for frame in call) == [0, 1, 2, 3, 4]
    assert [sheet.classifier.name for sheet in decision.sheets] == ["one", "two", "three"]
    assert all([row.frame for row in sheet.frames] == [0, 1, 2, 3, 4] for sheet in decision.sheets)


def test_the_decoder_waits_while_a_classifier_is_behind():
    async def scenario():
        gate = asyncio.Event()
        classifier = ScriptedClassifier(gate=gate)
        bench = Bench(classifier, decoder=ScriptedDecoder(facts=make_facts(frames=12), batch=1))
        screening = asyncio.create_task(bench.screener.screen(BYTES, make_order()))
        for _ in range(50):
            await asyncio.sleep(0)
        behind = len(classifier.calls)
        gate.set()
        return behind, await screening, len(classifier.calls)

    behind, decision, calls = asyncio.run(scenario())
    assert behind == CALLS_IN_FLIGHT + 1
    assert (decision.verdict, calls) == (Verdict.ALLOW, 12)


# --- what goes wrong ends in a recorded error ---------------------------------------------------------


@pytest.mark.parametrize("refusal", Refusal)
def test_a_media_that_is_refused_is_recorded_with_its_reason(refusal):
    bench = Bench(decoder=ScriptedDecoder(fault=MediaRefused(refusal, "detail for us")))
    decision = bench.screen()
    assert (decision.verdict, codes(decision)) == (Verdict.ERROR, [ReasonCode.MEDIA_REFUSED])
    assert (decision.reasons[0].detail, decision.media.facts, decision.sheets) == (str(refusal), None, ())
    assert bench.log.decisions == [decision]


FAULTS = [
    (DecoderUnavailable("no child"), ReasonCode.DECODER_UNAVAILABLE),
    (ClassifierUnavailable("gone"), ReasonCode.CLASSIFIER_UNAVAILABLE),
    (ClassifierFault("nonsense"), ReasonCode.CLASSIFIER_FAULT),
    (CannotJudge("otherwise"), ReasonCode.COULD_NOT_JUDGE),
    (TimeoutError(), ReasonCode.COULD_NOT_JUDGE),
    (ValueError("a bug"), ReasonCode.COULD_NOT_JUDGE),
    (MemoryError(), ReasonCode.COULD_NOT_JUDGE),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
@pytest.mark.parametrize("after", [0, 1])
def test_a_fault_while_decoding_is_a_recorded_error(fault, code, after):
    bench = Bench(decoder=ScriptedDecoder(facts=make_facts(frames=2), batch=1, fault=fault, fault_after=after))
    decision = bench.screen()
    assert (decision.verdict, codes(decision)) == (Verdict.ERROR, [code])
    assert bench.log.decisions == [decision]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_a_fault_of_one_classifier_is_a_recorded_error_even_if_the_others_are_quiet(fault, code):
    bench = Bench(ScriptedClassifier(), ScriptedClassifier(version=make_classifier_version("two"), fault=fault))
    decision = bench.screen()
    assert (decision.verdict, codes(decision)) == (Verdict.ERROR, [code])
    assert bench.log.decisions == [decision]


def test_where_it_will_be_tried_again_a_fault_is_raised_and_a_refusal_is_decided():
    for fault, recorded in ((ClassifierUnavailable("x"), 0), (ZeroDivisionError(), 0), (MediaRefused(Refusal.TRUNCATED), 1)):
        bench = Bench(decoder=ScriptedDecoder(fault=fault))
        with contextlib.nullcontext() if recorded else pytest.raises(CannotJudge):
            asyncio.run(bench.screener.screen(BYTES, make_order(), faults_final=False))
        assert len(bench.log.decisions) == recorded
    assert asyncio.run(Bench().screener.screen(BYTES, make_order(), faults_final=False)).verdict is Verdict.ALLOW


def test_two_faults_at_once_are_one_decision():
    bench = Bench(
        ScriptedClassifier(fault=ClassifierFault("one")),
        ScriptedClassifier(version=make_classifier_version("two"), fault=ClassifierUnavailable("two")),
    )
    assert bench.screen().verdict is Verdict.ERROR
    assert len(bench.log.decisions) == 1


def test_a_call_that_the_other_side_cancels_is_a_classifier_that_is_not_available():
    bench = Bench(ScriptedClassifier(fault=asyncio.CancelledError()))
    assert codes(bench.screen()) == [ReasonCode.CLASSIFIER_UNAVAILABLE]


def test_a_fault_of_a_classifier_ends_the_decoding_at_once():
    classifier = ScriptedClassifier(fault=ClassifierFault("nonsense"))
    bench = Bench(classifier, decoder=ScriptedDecoder(facts=make_facts(frames=300), batch=1))
    assert bench.screen().verdict is Verdict.ERROR
    assert len(classifier.calls) <= CALLS_IN_FLIGHT + 1


def test_no_room_is_no_decision():
    for bench in (Bench(decoder=ScriptedDecoder(fault=Overloaded("decoder"))), Bench(ScriptedClassifier(fault=Overloaded("classifier")))):
        with pytest.raises(Overloaded):
            bench.screen()
        assert bench.log.decisions == []


def test_a_fault_nobody_foresaw_is_told_to_the_operator_in_full(caplog):
    Bench(ScriptedClassifier(fault=KeyError("a bug"))).screen()
    assert "a bug" in caplog.text
    assert "Traceback" in caplog.text


BAD_ANSWERS: dict[str, Any] = {
    "no scores": {},
    "a category missing": {"sexual.suggestive": 0},
    "a category too many": {**QUIET, "violence": 0},
    "NaN": {**QUIET, "sexual.suggestive": math.nan},
    "None": {**QUIET, "sexual.suggestive": None},
    "a float": {**QUIET, "sexual.suggestive": 0.5},
    "below the range": {**QUIET, "sexual.suggestive": -1},
    "above the range": {**QUIET, "sexual.suggestive": ONE + 1},
}


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_an_answer_that_is_no_sheet_is_a_fault_and_can_be_recorded(answer):
    bench = Bench(ScriptedClassifier(scores=BAD_ANSWERS[answer]))
    decision = bench.screen()
    assert (decision.verdict, codes(decision)) == (Verdict.ERROR, [ReasonCode.CLASSIFIER_FAULT])
    assert decision_entry(decision, nonce=bytes(16), reference_commitment=None)


@given(st.dictionaries(st.sampled_from([*QUIET, "violence"]), st.one_of(st.none(), st.floats(), st.integers(-2, 50_000))))
def test_no_answer_of_a_classifier_is_allowed_unless_it_is_whole(scores):
    bench = Bench(ScriptedClassifier(scores=scores))
    whole = scores.keys() == QUIET.keys() and all(type(score) is int and score >= 0 for score in scores.values())
    assert bench.screen().verdict is (Verdict.ALLOW if whole else Verdict.ERROR)
    assert decision_entry(bench.log.decisions[0], nonce=bytes(16), reference_commitment=None)


@pytest.mark.parametrize("short", [1, 2, -1])
def test_fewer_answers_than_inputs_or_more_are_a_fault(short):
    class Miscounting(ScriptedClassifier):
        async def classify(self, inputs):
            answers = [make_scores() for _ in inputs]
            return answers[: len(answers) - short] if short > 0 else [*answers, make_scores()]

    bench = Bench(Miscounting(), decoder=ScriptedDecoder(facts=make_facts(frames=2)))
    assert codes(bench.screen()) == [ReasonCode.CLASSIFIER_FAULT]


def test_an_answer_of_another_shape_altogether_is_an_error():
    bench = Bench(ScriptedClassifier(answer=lambda _: cast("InputScores", "allow")))
    assert bench.screen().verdict is Verdict.ERROR


def test_a_detection_without_a_proper_score_is_a_fault():
    bench = Bench(ScriptedClassifier(answer=lambda _: make_scores(detections=[make_detection(score=math.nan)])))
    assert codes(bench.screen()) == [ReasonCode.CLASSIFIER_FAULT]


def test_a_decoder_that_hands_over_fewer_frames_than_it_claims_is_an_error():
    class Short(ScriptedDecoder):
        async def decode(self, data, plan, deliver, **asked):
            facts = await super().decode(data, plan, deliver, **asked)
            return replace(facts, frames=facts.frames + 1)

    assert codes(Bench(decoder=Short()).screen()) == [ReasonCode.FRAMES_SHORT]


def test_a_decoder_that_hands_over_nothing_is_an_error():
    decision = Bench(decoder=ScriptedDecoder(facts=make_facts(frames=0))).screen()
    assert decision.verdict is Verdict.ERROR
    assert ReasonCode.NO_FRAMES in codes(decision)


def test_a_decoder_that_forgets_the_spec_of_one_classifier_is_an_error():
    class Forgetful(ScriptedDecoder):
        async def decode(self, data, plan, deliver, **asked):
            return await super().decode(data, replace(plan, specs=plan.specs[:1]), deliver, **asked)

    other = ScriptedClassifier(version=make_classifier_version("two", input=make_spec(width=16)))
    assert codes(Bench(ScriptedClassifier(), other, decoder=Forgetful()).screen()) == [ReasonCode.FRAMES_SHORT]


def test_without_a_classifier_nothing_is_opened_and_nothing_allowed():
    bench = Bench(ScriptedClassifier(version=make_classifier_version(categories=("ctx.medical",))))
    decision = bench.screen()
    assert (decision.verdict, codes(decision)) == (Verdict.ERROR, [ReasonCode.NO_CLASSIFIER])
    assert bench.decoder.plans == []
    assert bench.log.decisions == [decision]


def test_a_screening_that_is_cancelled_leaves_nothing_behind():
    async def scenario():
        classifier = ScriptedClassifier(gate=asyncio.Event())
        bench = Bench(classifier)
        screening = asyncio.create_task(bench.screener.screen(BYTES, make_order()))
        for _ in range(50):
            await asyncio.sleep(0)
        assert classifier.calls
        screening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await screening
        return bench.log.decisions, asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(scenario()) == ([], set())


def test_calls_to_other_classifiers_end_with_the_first_fault():
    async def scenario():
        waiting = ScriptedClassifier(gate=asyncio.Event())
        bench = Bench(waiting, ScriptedClassifier(version=make_classifier_version("two"), fault=ClassifierFault("nonsense")))
        decision = await bench.screener.screen(BYTES, make_order())
        return decision.verdict, asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(scenario()) == (Verdict.ERROR, set())


# --- what is made of the answers ----------------------------------------------------------------------


def answers_of(inputs, answers, version=None, **facts):
    """The decision on these inputs with these answers, in this order."""

    class Handing(ScriptedDecoder):
        async def decode(self, data, plan, deliver, **_):  # noqa: ARG002
            for item in inputs:
                await deliver([item])
            return self.facts

    by_input = {id(item): answer for item, answer in zip(inputs, answers, strict=True)}
    classifier = ScriptedClassifier(version=version or make_classifier_version(), answer=lambda item: by_input[id(item)])
    return Bench(classifier, decoder=Handing(facts=make_facts(**facts))).screen()


def test_worst_wins_over_all_renderings_and_regions_of_a_frame():
    inputs = [make_input(rendering="on_white"), make_input(rendering="on_black"), make_input(region=(32, 0, 32, 48))]
    answers = [make_scores({**QUIET, "sexual.nudity_explicit": score}) for score in (1, 300_000, 2)]
    for turn in (1, -1):
        assert answers_of(inputs[::turn], answers[::turn]).scores() == {**QUIET, "sexual.nudity_explicit": 300_000}


def test_places_are_told_in_pixels_of_the_upright_frame():
    loud = InputScores(scores=LOUD, detections=(make_detection(box=(1, 2, 3, 4)),))
    decision = answers_of([make_input(region=(32, 0, 32, 48))], [loud])
    assert decision.sheets[0].detections[0][1].box == (36, 12, 12, 24)
    assert decision.reasons[0].box == (36, 12, 12, 24)


def test_the_place_of_a_score_is_that_of_its_strongest_detection_whatever_comes_first():
    weak, strong = make_detection(score=300_000, box=(0, 0, 1, 1)), make_detection(score=973_100, box=(4, 4, 1, 1))
    inputs = [make_input(), make_input(region=(0, 0, 8, 8))]
    answers = [make_scores({**QUIET, "sexual.nudity_explicit": 300_000}, [weak]), make_scores(LOUD, [weak, strong])]
    one, other = answers_of(inputs, answers), answers_of(inputs[::-1], answers[::-1])
    assert one.sheets == other.sheets
    assert one.reasons[0].box == (4, 4, 1, 1)


def test_only_the_strongest_detections_are_kept_and_all_scores():
    found = [make_detection(score=1_000 * n, label=f"L{n}") for n in range(MAX_DETECTIONS + 10)]
    (sheet,) = answers_of([make_input()], [make_scores(LOUD, found)]).sheets
    assert len(sheet.detections) == MAX_DETECTIONS
    assert sheet.detections[0][1].score == 1_000 * (MAX_DETECTIONS + 9)


# --- used again ---------------------------------------------------------------------------------------


def test_the_same_bytes_are_judged_once_and_decided_each_time():
    bench = Bench(ScriptedClassifier(scores=LOUD))
    first, second = bench.screen(), bench.screen(id=make_id(2), request_id="req_2")
    assert len(bench.decoder.plans) == 1
    assert (second.reused_from, second.id, second.request_id) == (first.id, make_id(2), "req_2")
    assert (second.verdict, second.reasons, second.sheets, second.media) == (first.verdict, first.reasons, first.sheets, first.media)
    assert bench.log.decisions == [first, second]


def test_scores_used_again_are_decided_under_the_policy_of_the_order():
    bench = Bench(ScriptedClassifier(scores=LOUD))
    bench.screen()
    milder = make_policy(make_rule("sexual", block_at=None, review_at=ONE))
    assert bench.screen(policy=milder).verdict is Verdict.ALLOW
    assert bench.screen(policy=make_policy(make_rule("sexual", block_at=1, review_at=1))).verdict is Verdict.BLOCK
    assert len(bench.decoder.plans) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": OTHER_TENANT},
        {"data": b"other bytes"},
        {"strict": True},
        {"policy": make_policy(limits=PolicyLimits(frames=10))},
        {"policy": make_policy(limits=PolicyLimits(image_bytes=10_000))},
    ],
)
def test_scores_are_not_used_again_for_another_tenant_other_bytes_or_another_plan(changes):
    bench = Bench()
    bench.screen()
    assert bench.screen(**changes).reused_from is None
    assert len(bench.decoder.plans) == 2


@pytest.mark.parametrize("change", ["version", "digest", "mapping_digest", "runtime"])
def test_scores_are_not_used_again_after_a_classifier_has_changed(change):
    bench = Bench()
    bench.screen()
    changed = ScriptedClassifier(version=make_classifier_version(**{change: "other"}))
    assert Bench(changed, memory=bench.memory).screen().reused_from is None


def test_scores_are_not_used_again_after_the_decoder_has_changed():
    bench = Bench()
    bench.screen()
    assert Bench(decoder=ScriptedDecoder(version="scripted/2"), memory=bench.memory).screen().reused_from is None


def test_a_strict_order_never_asks_what_was_seen_before():
    bench = Bench()
    bench.screen(strict=True)
    bench.screen(strict=True)
    assert bench.memory.asked == []
    assert len(bench.decoder.plans) == 2
    assert bench.decoder.plans[0].strict


def test_an_error_is_never_used_again():
    bench = Bench(ScriptedClassifier(fault=ClassifierUnavailable("gone")))
    bench.screen()
    bench.classifiers[0].fault = None
    assert bench.screen().verdict is Verdict.ALLOW


def test_a_memory_that_holds_less_than_everything_is_not_believed():
    bench = Bench()
    bench.screen()
    for key, recalled in bench.memory.known.items():
        bench.memory.known[key] = Recalled(decision=recalled.decision, facts=recalled.facts, sheets=())
    assert bench.screen().verdict is Verdict.ERROR


# --- the plan -----------------------------------------------------------------------------------------


def test_limits_are_the_narrower_of_the_service_and_the_policy():
    bench = Bench(limits=Limits(image_bytes=1_000, frames=50))
    bench.screen(policy=make_policy(limits=PolicyLimits(image_bytes=2_000, frames=20)), declared_type="image/png")
    (plan,) = bench.decoder.plans
    assert (plan.limits.image_bytes, plan.limits.frames) == (1_000, 20)
    assert plan.declared_type == "image/png"


@pytest.mark.parametrize(
    "limit", ["image_bytes", "video_bytes", "image_pixels", "total_pixels", "min_side", "max_side", "frames", "video_seconds"]
)
def test_whatever_changes_what_is_seen_changes_the_digest_of_the_plan(limit):
    plan = DecodePlan(specs=(make_spec(),))
    assert plan_digest(replace(plan, limits=replace(plan.limits, **{limit: 7}))) != plan_digest(plan)


@pytest.mark.parametrize("change", [{"width": 9}, {"height": 9}, {"fit": Fit.CROP}, {"resize_to": 9}])
def test_another_spec_is_another_plan(change):
    assert plan_digest(DecodePlan(specs=(make_spec(**change),))) != plan_digest(DecodePlan(specs=(make_spec(),)))


def test_how_long_decoding_may_take_is_no_part_of_what_is_seen():
    plan = DecodePlan(specs=(make_spec(),))
    slower = replace(plan, limits=replace(plan.limits, decode_cpu_s=99, decode_wall_s=99.0), declared_type="image/png")
    assert plan_digest(slower) == plan_digest(plan)


def test_a_classifier_of_which_everything_is_ignored_is_not_asked():
    one, two = ScriptedClassifier(), ScriptedClassifier(version=make_classifier_version("two", ("ctx.medical",)))
    assert judges_of(make_policy(), (one, two)) == (one,)
    assert Bench(one, two).screen().verdict is Verdict.ALLOW
    assert two.calls == []


def test_a_classifier_that_declares_nothing_is_not_passed_over():
    mute = ScriptedClassifier(version=make_classifier_version("mute", ()), scores={})
    assert Bench(ScriptedClassifier(), mute).screen().verdict is Verdict.ERROR


@pytest.mark.parametrize("stage", Stage)
def test_the_stage_is_that_of_the_order(stage):
    decision = Bench(decoder=ScriptedDecoder(facts=make_facts(kind=MediaKind.ANIMATION, frames=3))).screen(stage=stage)
    assert (decision.stage, decision.verdict) == (stage, Verdict.ALLOW)
