"""What each word of a policy about videos does, on planted markers: one frame, a late frame, many thin ones."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from moderation.adapters.policies import policy_from_content
from moderation.audit import decision_entry, evidence_of, facts_document, read_facts
from moderation.decision import ReasonCode, Verdict
from moderation.frames import OWN_VIDEO_BYTES, Limits, Sampling
from moderation.media import MediaKind, Stage
from moderation.policy import MOST_DENSE, InputSampling, KOfN, closer, decide
from moderation.scores import InputScores
from moderation.screening import Screener, plan_digest
from tests.builders import QUIET, make_facts, make_input, make_order, make_policy, make_sheet
from tests.fakes import DictScoreMemory, FixedClock, ListDecisionLog, ScriptedClassifier

NUDITY = "sexual.nudity_explicit"
NEAR = {**QUIET, NUDITY: 150_000}
"""Under `review_at` of `make_policy()`, 0.20, and over half of it."""
FILM = make_facts(
    type="video/mp4", kind=MediaKind.VIDEO, frames=4, frames_declared=31, duration_us=1_240_000, sampled=(0, 10, 20, 30), seed=7
)


@dataclass
class SampledVideo:
    """A decoder of a video of 31 frames: shows every tenth, or the frames that a plan names."""

    plans: list = field(default_factory=list)
    version: str = "sampled/1"

    async def decode(self, data, plan, deliver, **_):  # noqa: ARG002
        self.plans.append(plan)
        numbers = plan.only or (FILM.sampled if plan.sampling else range(31))
        await deliver([make_input(number, spec=plan.specs[0], time_us=number * 40_000) for number in numbers])
        if plan.sampling is None:
            return replace(FILM, sampled=(), frames=31, seed=None)
        return replace(FILM, sampled=tuple(numbers), frames=len(numbers))


def screened(scores, *, stage=Stage.UPLOAD, **sampling):
    """(decision, decoder) of a video whose frames have these scores by number, the others being quiet."""
    decoder = SampledVideo()
    classifier = ScriptedClassifier(answer=lambda item: InputScores(scores=dict(scores.get(item.frame, QUIET))))
    screener = Screener(
        decoder=decoder,
        classifiers=(classifier,),
        log=ListDecisionLog(),
        memory=DictScoreMemory(),
        clock=FixedClock(),
        limits=Limits(),
        seed=iter(range(100)).__next__,
    )
    policy = make_policy(sampling=InputSampling(**sampling))
    return asyncio.run(screener.screen(b"a video", make_order(stage=stage, policy=policy))), decoder


def of(number):
    return {**QUIET, NUDITY: number}


# --- the second look -----------------------------------------------------------------------------------


def test_a_quiet_video_is_looked_at_once():
    decision, decoder = screened({})
    assert decision.verdict is Verdict.ALLOW
    (plan,) = decoder.plans
    assert plan.sampling == Sampling(interval_us=500_000, min_frames=8, first_and_last=True, scene_cuts=True, seed=plan.sampling.seed)
    assert decision.media.facts == FILM


def test_around_a_near_hit_every_frame_is_looked_at():
    decision, decoder = screened({20: NEAR, 25: of(460_000), 26: of(460_000)})
    assert decoder.plans[1].only == (*range(11, 20), *range(21, 30))
    assert decision.media.facts.sampled == (0, *range(10, 31))
    assert decision.media.facts.dense == decoder.plans[1].only
    assert decision.media.facts.frames == len(decision.sheets[0].frames) == 22
    assert (decision.verdict, decision.reasons[0].frame) == (Verdict.BLOCK, 25)


def test_from_which_score_on_is_policy_data():
    assert len(screened({20: of(99_999)})[1].plans) == 1
    assert len(screened({20: of(100_000)})[1].plans) == 2
    assert len(screened({20: of(100_000)}, near_percent=100)[1].plans) == 1
    assert len(screened({20: of(20_000)}, near_percent=10)[1].plans) == 2


def test_what_blocks_already_is_not_looked_at_again():
    decision, decoder = screened({10: of(500_000), 20: of(500_000)})
    assert (decision.verdict, len(decoder.plans)) == (Verdict.BLOCK, 1)


def test_of_what_we_made_every_frame_is_looked_at_and_one_blocks():
    decision, decoder = screened({17: of(460_000)}, stage=Stage.OUTPUT)
    assert (decoder.plans[0].sampling, decoder.plans[0].own_bytes) == (None, OWN_VIDEO_BYTES)
    assert screened({})[1].plans[0].own_bytes is None
    assert (decision.verdict, decision.reasons[0].frame) == (Verdict.BLOCK, 17)


def test_samples_of_what_we_made_are_no_judgement():
    sheet = make_sheet(*[QUIET] * 4)
    sheet = replace(sheet, frames=tuple(replace(row, frame=number) for row, number in zip(sheet.frames, FILM.sampled, strict=True)))
    outcomes = [
        decide(stage=stage, facts=FILM, required=[sheet.classifier], sheets=[sheet], policy=make_policy())
        for stage in (Stage.UPLOAD, Stage.OUTPUT)
    ]
    assert [outcome.verdict for outcome in outcomes] == [Verdict.ALLOW, Verdict.ERROR]
    assert outcomes[1].reasons[0].code is ReasonCode.FRAMES_SHORT


def test_a_second_look_is_bounded_and_goes_to_the_highest_scores_first():
    facts = replace(FILM, frames=3, sampled=(0, 1000, 2000), frames_declared=2001)
    sheet = make_sheet(QUIET, QUIET, QUIET)
    rows = zip(sheet.frames, facts.sampled, (of(120_000), QUIET, of(190_000)), strict=True)
    sheet = replace(sheet, frames=tuple(replace(row, frame=number, scores=scores) for row, number, scores in rows))
    found = closer(stage=Stage.UPLOAD, facts=facts, sheets=[sheet], policy=make_policy())
    around_the_higher = [number for number in found if number > 1000]
    assert len(around_the_higher) >= 200
    assert len(found) <= MOST_DENSE
    assert max(after - before for before, after in pairwise(around_the_higher)) <= 5


# --- what hits in time mean ------------------------------------------------------------------------------


def test_one_frame_over_the_block_threshold_is_held():
    decision, _ = screened({20: of(500_000)})
    assert (decision.verdict, decision.reasons[0].code) == (Verdict.REVIEW, ReasonCode.ISOLATED_FRAME)
    assert screened({20: of(500_000)}, isolated_at_block=Verdict.BLOCK)[0].verdict is Verdict.BLOCK


@pytest.mark.parametrize("stage", [Stage.UPLOAD, Stage.TARGET])
@pytest.mark.parametrize(
    ("says", "verdict"),
    [(None, Verdict.REVIEW), (Verdict.REVIEW, Verdict.REVIEW), (Verdict.BLOCK, Verdict.BLOCK), (Verdict.ALLOW, Verdict.ALLOW)],
)
def test_scene_cuts_that_were_left_out_mean_what_the_policy_says(says, verdict, stage):
    policy = make_policy(sampling=InputSampling() if says is None else InputSampling(cuts_left_out=says))
    sheet = make_sheet(*[QUIET] * 4)
    sheet = replace(sheet, frames=tuple(replace(row, frame=number) for row, number in zip(sheet.frames, FILM.sampled, strict=True)))
    said = decide(stage=stage, facts=replace(FILM, cuts_left_out=3), required=[sheet.classifier], sheets=[sheet], policy=policy)
    assert said.verdict is verdict
    reasons = [] if verdict is Verdict.ALLOW else [(ReasonCode.CUTS_LEFT_OUT, "3")]
    assert [(reason.code, reason.detail) for reason in said.reasons] == reasons


def test_a_late_frame_is_held_too():
    assert screened({30: of(500_000)})[0].verdict is Verdict.REVIEW


def test_hits_that_are_spread_thin_are_a_run_of_the_samples():
    scores = {10: of(500_000), 30: of(500_000)}
    assert screened(scores)[0].verdict is Verdict.BLOCK
    assert screened(scores, run=KOfN(k=3, n=3))[0].verdict is Verdict.REVIEW
    assert screened(scores, run=KOfN(k=2, n=2))[0].verdict is Verdict.REVIEW


def test_frames_of_a_second_look_never_break_a_run():
    """Two hits of three samples are a run, although quiet frames were looked at between them."""
    facts = replace(FILM, frames=22, sampled=(0, *range(10, 31)), dense=(*range(11, 20), *range(21, 30)))
    sheet = make_sheet(*[QUIET] * 22)
    hits = {10: of(500_000), 30: of(500_000)}
    rows = zip(sheet.frames, facts.sampled, strict=True)
    sheet = replace(sheet, frames=tuple(replace(row, frame=number, scores=hits.get(number, QUIET)) for row, number in rows))
    outcome = decide(stage=Stage.UPLOAD, facts=facts, required=[sheet.classifier], sheets=[sheet], policy=make_policy())
    assert outcome.verdict is Verdict.BLOCK
    assert (
        decide(
            stage=Stage.UPLOAD, facts=replace(facts, dense=()), required=[sheet.classifier], sheets=[sheet], policy=make_policy()
        ).verdict
        is Verdict.REVIEW
    )


# --- what is recorded ------------------------------------------------------------------------------------


def test_which_frames_were_looked_at_and_from_which_seed_can_be_read_from_the_entry():
    decision, _ = screened({20: NEAR})
    evidence = evidence_of(decision_entry(decision, nonce=bytes(16), reference_commitment=None))
    assert evidence.facts == decision.media.facts
    again = decide(stage=evidence.stage, facts=evidence.facts, required=evidence.required, sheets=evidence.sheets, policy=make_policy())
    assert again.verdict is decision.verdict


def test_facts_of_pictures_are_written_as_they_always_were():
    assert facts_document(make_facts()).keys() & {"sampled", "dense", "seed", "undecoded", "cuts_left_out", "frame_digest"} == set()
    facts = replace(FILM, dense=(10,), undecoded=3, cuts_left_out=2, frame_digest="sha256:" + "0" * 64)
    assert read_facts(facts_document(facts)) == facts


def test_the_plan_is_named_by_the_policys_sampling_and_not_by_its_seed():
    decisions = [screened({}, stage=stage)[0] for stage in (Stage.UPLOAD, Stage.TARGET, Stage.OUTPUT)]
    assert len({decision.plan_digest for decision in decisions}) == 1
    assert screened({}, interval_ms=250)[0].plan_digest != decisions[0].plan_digest
    (plan,) = screened({})[1].plans
    assert plan_digest(replace(plan, sampling=replace(plan.sampling, seed=99))) == plan_digest(plan)


def test_a_policy_that_looks_closer_is_read_back_as_it_was_stored():
    policy = make_policy(sampling=InputSampling(near_percent=30, cuts_left_out=Verdict.BLOCK))
    assert policy_from_content(policy.name, policy.version, policy.content()).digest == policy.digest != make_policy().digest


@pytest.mark.parametrize("change", [{"near_percent": 0}, {"near_percent": 101}])
def test_an_impossible_nearness_is_refused(change):
    with pytest.raises(Exception, match=r"video\.input\.near"):
        InputSampling(**change)
