"""The gate among crashes, stale workers, people and changing policies: any order of commits, and what must hold after each.

The record is a model, as small as its promises in `moderation.ports`: commits under a fence, one release, reviews, policies, a cancel.
Policies, decisions, `decide`, `facts_of` and `next_step` are the real ones. What is checked is said here in its own words and never
asks the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, cast
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from moderation import gate
from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Verdict
from moderation.errors import FactsChanged, StaleLease
from moderation.gate import Terms, facts_of, next_step, shown
from moderation.media import Stage
from moderation.policy import Consent, Policy, decide
from moderation.ports import Classifier
from moderation.scores import ClassifierVersion
from moderation.screening import judges_of
from moderation.transform import FINAL, Block, Committed, Denial, Event, Part, PartKind, Release, State, Transform
from tests.builders import (
    LOUD,
    QUIET,
    make_classifier_version,
    make_event,
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

SOURCE, TARGET, OUTPUT = STAGES = (Stage.SOURCE, Stage.TARGET, Stage.OUTPUT)
HELD = {"sexual.nudity_explicit": 300_000, "sexual.suggestive": 50_000}
REFUSED: Final = None
"""Instead of scores: the decoder cannot open it."""

NOT_VIOLENCE = ("ctx.*", "violence.*")
RULES = make_policy().rules
USUAL = make_policy(ignore=NOT_VIOLENCE, stream="labelled")
HOLDS = make_policy(make_rule("sexual", review_at=1, block_at=999_999), ignore=NOT_VIOLENCE, stream="labelled")
BLOCKS = make_policy(make_rule("sexual", review_at=1, block_at=1), ignore=NOT_VIOLENCE, stream="labelled")
LOOSE = make_policy(make_rule("sexual", review_at=1_000_000, block_at=None), ignore=NOT_VIOLENCE, stream="labelled")
ON_VIOLENCE = make_policy(*RULES, make_rule("violence"), stream="labelled")
NO_STREAM = replace(USUAL, stream="off")
TARGET_CONSENT = replace(USUAL, target_consent=Consent.REQUIRED)
CATALOGUE = replace(USUAL, sources="catalogue")
POLICIES = (USUAL, HOLDS, BLOCKS, LOOSE, ON_VIOLENCE, TARGET_CONSENT, CATALOGUE, NO_STREAM)

SEGMENTS: Final = 2
MOST_COMMITS: Final = 9
"""Both inputs, the encoded file, the output, the signed file, the release, the file's place, the end; or fewer and another end."""
MOST_OF_VIDEO: Final = MOST_COMMITS + 2 * SEGMENTS
"""Two more for each segment: its file and its decision."""


# --- the record, as a model ---------------------------------------------------------------------------


@dataclass(kw_only=True)
class Record:
    """What is committed about one transform, and what its transactions refuse."""

    committed: Committed
    policies: tuple[Policy, ...]
    """Of one name, oldest first: the last one is in force."""
    fence: int = 0
    is_due: bool = True
    """Whether somebody may take the work: not while it waits for a person, not when it has ended."""
    served: frozenset[str] = frozenset()
    """SHA-256 of what lies where it can be served."""

    @property
    def state(self) -> State:
        return self.committed.state

    def copy(self) -> Record:
        return replace(self)  # every value in it is frozen

    def take(self) -> int:
        """The lease of whoever had it before has run out."""
        assert self.is_due
        self.fence += 1
        return self.fence

    def _hold(self, fence: int) -> None:
        if fence != self.fence or not self.is_due:
            raise StaleLease("another worker has it by now")

    def append(self, fence: int, decision: Decision) -> None:
        self._hold(fence)
        self.committed = replace(self.committed, decisions=(*self.committed.decisions, decision))

    def add_part(self, fence: int, made: Part) -> None:
        self._hold(fence)
        if (made.kind, made.span and made.span.number) in {(part.kind, part.span and part.span.number) for part in self.committed.parts}:
            raise StaleLease("there is one of this kind")
        self.committed = replace(self.committed, parts=(*self.committed.parts, made))

    def release(self, fence: int, release: Release) -> None:
        self._hold(fence)
        if self.committed.release is not None:
            raise StaleLease("there is one")
        in_force = self.policies[-1]
        if (in_force.version, in_force.digest) != (release.in_force.version, release.in_force.digest):
            raise FactsChanged("another policy is in force")
        if self.committed.cancel_requested or any(one.verdict is Verdict.BLOCK for one in self.committed.reviews.values()):
            raise FactsChanged("somebody asked for its end")
        if self.committed.blocks or self.committed.source_removed:
            raise FactsChanged("what it is made of may not be used any more")
        self.committed = replace(self.committed, release=release)

    def end(self, fence: int, event: Event) -> None:
        self._hold(fence)
        assert self.state not in FINAL
        assert (event.state is State.RELEASED) is (self.committed.release is not None)
        is_blocked = any(one.verdict is Verdict.BLOCK for one in self.committed.reviews.values())
        if event.held is not None and (event.held.decision in self.committed.reviews or is_blocked or self.committed.cancel_requested):
            raise FactsChanged("nobody would end this pause")
        self.committed = replace(self.committed, events=(*self.committed.events, event))
        self.is_due = False

    def review(self, id: UUID, verdict: Verdict) -> None:
        decision = next(one for one in self.committed.decisions if one.id == id)
        reviews = {**self.committed.reviews, id: make_review(decision, verdict)}
        withdrawn = self.committed.withdrawn or (verdict is Verdict.BLOCK and self.committed.release is not None)
        self.committed = replace(self.committed, reviews=reviews, withdrawn=withdrawn)
        self._wake()

    def speak_elsewhere(self, stage: Stage, block: Block | None) -> None:
        """About the same bytes in other work; wakes nobody here."""
        sha256 = _sha256(self.committed, stage)
        others = {name: other for name, other in self.committed.blocks.items() if name != sha256}
        self.committed = replace(self.committed, blocks=others if block is None else {**others, sha256: block})

    def remove_source(self) -> None:
        self.committed = replace(self.committed, source_removed=True)

    def cancel(self) -> None:
        if self.state not in FINAL and self.committed.release is None:
            self.committed = replace(self.committed, cancel_requested=True)
            self._wake()

    def publish_policy(self, policy: Policy) -> None:
        if policy.digest != self.policies[-1].digest:
            self.policies = (*self.policies, replace(policy, version=len(self.policies) + 1))

    def _wake(self) -> None:
        self.is_due = self.is_due or self.state is State.HELD


# --- what is around it --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judge:
    """As much of a classifier as `judges_of` looks at."""

    version: ClassifierVersion


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The versions that a worker runs with."""

    decoder: int = 1
    classifier: int = 1

    def judges(self, policy: Policy) -> tuple[ClassifierVersion, ...]:
        versions = make_classifier_version(version=str(self.classifier)), make_classifier_version("violence", ("violence",))
        return tuple(
            judge.version for judge in judges_of(policy, cast("Sequence[Classifier]", [Judge(version=version) for version in versions]))
        )

    def terms(self, policy: Policy) -> Terms:
        identities = tuple(version.identity for version in self.judges(policy))
        return Terms(policy=policy.digest, plan="sha256:" + "3" * 64, decoder=f"scripted/{self.decoder}", classifiers=identities)


@dataclass(frozen=True, kw_only=True)
class World:
    """What each version would say about each picture; the same whenever it is asked."""

    pinned: Policy = USUAL
    shown: Mapping[tuple[Stage | int, Deployment], Mapping[str, int] | None] = field(default_factory=dict)
    """Scores by stage and versions; QUIET where nothing is said. Of a video's output: by the segment's number and versions."""
    is_video: bool = False
    ids: count[int] = field(default_factory=lambda: count(1000))

    def record(self) -> Record:
        transform = make_transform(policy=PolicyRef(name=self.pinned.name, version=1, digest=self.pinned.digest))
        if self.is_video:
            transform = replace(transform, target=replace(transform.target, type="video/mp4"))
        return Record(
            committed=Committed(transform=transform, events=(make_event(State.QUEUED, sequence=1),)),
            policies=(self.pinned,),
        )

    def new_id(self) -> UUID:
        return make_id(next(self.ids))

    def new_sha256(self) -> str:
        return f"{next(self.ids):064x}"

    def screen(self, stage: Stage, sha256: str, deployment: Deployment, *, fault: bool, segment: int | None = None) -> Decision:
        """Steps 1 to 4, of a stage or of a segment; the whole of a video shows what its segments show."""
        scores = self.shown.get((segment or stage, deployment), QUIET)
        if self.is_video and stage is OUTPUT and segment is None:
            pieces = [self.shown.get((number, deployment), QUIET) for number in range(1, SEGMENTS + 1)]
            order: list[Any] = [QUIET, HELD, LOUD]
            scores = max(pieces, key=order.index)
        if fault or scores is REFUSED:
            code = ReasonCode.CLASSIFIER_FAULT if fault else ReasonCode.MEDIA_REFUSED
            made = unopened(stage, self.pinned, deployment, code)
        else:
            made = screened(stage, tuple(scores.items()), self.pinned, deployment)
        return replace(made, id=self.new_id(), media=replace(made.media, sha256=sha256))


def unopened(stage: Stage, pinned: Policy, deployment: Deployment, code: ReasonCode) -> Decision:
    made = screened(stage, (), pinned, deployment)
    reasons = (Reason(code=code, verdict=Verdict.ERROR, detail="truncated"),)
    return replace(made, verdict=Verdict.ERROR, reasons=reasons, sheets=(), thresholds=(), media=replace(made.media, facts=None))


def screened(stage: Stage, scores: tuple[tuple[str, int], ...], pinned: Policy, deployment: Deployment) -> Decision:
    """One for each of the few combinations, since a story has many."""
    key = (stage, scores, pinned.digest, deployment)
    if key not in _SCREENED:
        judges, decoder = deployment.judges(pinned), f"scripted/{deployment.decoder}"
        _SCREENED[key] = make_screened(stage, dict(scores), policy=pinned, classifiers=judges, decoder=decoder)
    return _SCREENED[key]


_SCREENED: dict[tuple[Stage, tuple[tuple[str, int], ...], str, Deployment], Decision] = {}


class Worker:
    """Loads, asks the gate, does that step, commits it, asks again: the loop of `deployments.transform_worker`, one commit at a time.

    It knows what it has committed itself; what others have written meanwhile it reads where a transaction says so, and before the release.
    """

    def __init__(self, world: World, record: Record, deployment: Deployment) -> None:
        self._world = world
        self._record = record
        self._deployment = deployment
        self._fence = record.take()
        self._at_screen: tuple[Stage, ...] = ()
        self.is_done = False
        self._look(self._record.committed)

    def _look(self, seen: Committed) -> None:
        """Whatever happens after this, the next commit is made of what was seen here."""
        self._seen, self._in_force = seen, self._record.policies[-1]
        self._facts = facts_of(
            self._seen,
            pinned=self._world.pinned,
            in_force=self._in_force,
            terms=self._deployment.terms(self._world.pinned),
            required_now=self._deployment.judges(self._in_force),
        )
        self._step = next_step(self._facts)
        if isinstance(self._step, gate.Release) and self._seen is not self._record.committed:
            self._look(self._record.committed)
        if isinstance(self._step, gate.Screen):
            self._at_screen = self._step.stages
        if isinstance(self._step, gate.Produce | gate.ProduceSegment | gate.Assemble):
            self._check_inputs()
            self._check_made(self._seen, self._in_force)

    def work(self, *, fault: bool = False) -> None:
        """One commit, or what stops it. Nothing is written by a worker whose lease is another's."""
        before = self._record.committed
        try:
            self._commit(fault=fault)
        except FactsChanged:
            assert self._record.committed is before
            self._look(self._record.committed)
        except StaleLease:
            assert self._record.committed is before
            self.is_done = True

    def _commit(self, *, fault: bool) -> None:
        match self._step:
            case gate.Screen():
                self._screen(fault=fault)
                return
            case gate.ScreenSegment(number=number):
                self._append(OUTPUT, self._seen.segments[number - 1].sha256, fault=fault, segment=number)
            case gate.ProduceSegment(number=number):
                made = make_segment(number, sha256=self._world.new_sha256(), is_last=number == SEGMENTS)
                self._record.add_part(self._fence, made)
            case gate.Produce() | gate.Assemble():
                self._record.add_part(self._fence, make_part(PartKind.ENCODED, sha256=self._world.new_sha256()))
            case gate.Sign():
                made_of = self._seen.part(PartKind.ENCODED).sha256
                self._record.add_part(self._fence, make_part(PartKind.SIGNED, sha256=self._world.new_sha256(), made_of=made_of))
            case gate.Release():
                self._release()
            case gate.Publish() if self._seen.release.signed_sha256 not in self._record.served:
                self._record.served |= {self._seen.release.signed_sha256}  # bytes first, and under no fence
            case step:
                self._end(step)
        if not self.is_done:
            self._look(self._with_own_work())

    def _end(self, step: gate.Step) -> None:
        match step:
            case gate.Publish():
                self._write(State.RELEASED)
            case gate.Deny():
                denial = Denial(stage=step.stage, decision=step.decision, reasons=step.reasons)
                self._write(State.DENIED, denial=denial)
                self._check_denial(denial)
            case gate.Hold():
                self._write(State.HELD, held=Denial(stage=step.stage, decision=step.decision, reasons=step.reasons))
            case gate.Fail():
                self._write(State.FAILED, failure=step.failure)
            case gate.Cancel():
                self._write(State.CANCELLED)
        self.is_done = True

    def _write(self, state: State, **facts: object) -> None:
        self._record.end(self._fence, make_event(state, sequence=len(self._record.committed.events) + 1, **facts))

    def _screen(self, *, fault: bool) -> None:
        """One of the stages that are screened side by side."""
        stage, *rest = self._at_screen
        self._append(stage, _sha256(self._seen, stage), fault=fault)
        self._at_screen = tuple(rest)
        if not rest and not self.is_done:
            self._look(self._with_own_work())

    def _append(self, stage: Stage, sha256: str, *, fault: bool, segment: int | None = None) -> None:
        decision = self._world.screen(stage, sha256, self._deployment, fault=fault, segment=segment)
        self._record.append(self._fence, decision)
        self.is_done = fault  # this attempt has failed

    def _with_own_work(self) -> Committed:
        """Nobody else writes these under this worker's fence."""
        now = self._record.committed
        return replace(self._seen, decisions=now.decisions, parts=now.parts, release=now.release)

    def _release(self) -> None:
        encoded, signed = self._seen.part(PartKind.ENCODED), self._seen.part(PartKind.SIGNED)
        in_force = PolicyRef(name=self._in_force.name, version=self._in_force.version, digest=self._in_force.digest)
        release = make_release(
            self._seen.transform,
            {stage: judged.decision for stage, judged in self._facts.judged.items()},
            signed_sha256=signed.sha256,
            encoded_sha256=encoded.sha256,
            in_force=in_force,
        )
        self._record.release(self._fence, release)
        self._check_release(release)

    # --- what must hold, without asking the gate ------------------------------------------------------

    def _check_inputs(self) -> None:
        """Nothing looks for a face before both inputs are allowed, by what is committed then."""
        for stage in (SOURCE, TARGET):
            about = [one for one in self._seen.decisions if (one.stage, one.media.sha256) == (stage, _sha256(self._seen, stage))]
            assert any(self._is_let_pass(one, self._seen, self._in_force) for one in about)

    def _check_made(self, committed: Committed, in_force: Policy) -> None:
        """Nothing is made of a video, beyond the segments that are there, unless each of them passes or needs no more than a person."""
        for part in committed.segments:
            about = [one for one in committed.decisions if (one.stage, one.media.sha256) == (OUTPUT, part.sha256)]
            assert any(self._is_let_pass(one, committed, in_force, waits=True) for one in about)

    def _check_segments(self, committed: Committed, in_force: Policy) -> None:
        """Nothing of a video is shown or released unless a policy or a person allows each of its segments, or a person the whole."""
        encoded = committed.part(PartKind.ENCODED)
        allowed = any(
            encoded is not None and one.media.sha256 == encoded.sha256 and one.id in committed.reviews
            for one in committed.decisions
            if self._is_let_pass(one, committed, in_force)
        )
        for part in committed.segments:
            about = [one for one in committed.decisions if (one.stage, one.media.sha256) == (OUTPUT, part.sha256)]
            assert any(self._is_let_pass(one, committed, in_force, waits=allowed) for one in about)

    def check_shown(self, record: Record) -> int:
        """What a stream would show now, each with an allow of its own under both policies and nobody against anything; how much that is."""
        committed, in_force = record.committed, record.policies[-1]
        terms, now = self._deployment.terms(self._world.pinned), self._deployment.judges(in_force)
        count = shown(facts_of(committed, pinned=self._world.pinned, in_force=in_force, terms=terms, required_now=now))
        if count:
            assert {self._world.pinned.stream, in_force.stream} == {"labelled"}
            assert not committed.cancel_requested
            assert committed.state not in FINAL - {State.RELEASED}
            assert Verdict.BLOCK not in {
                review.verdict for review in committed.reviews.values() if self._still_says(review.decision, committed)
            }
            self._check_segments(replace(committed, parts=(*committed.segments[:count], *filter(_is_whole, committed.parts))), in_force)
        return count

    def _still_says(self, decision: UUID, committed: Committed) -> bool:
        """Whether a decision is about bytes that this transform has."""
        made = next(one for one in committed.decisions if one.id == decision)
        own = {committed.transform.source.sha256, committed.transform.target.sha256, *(part.sha256 for part in committed.parts)}
        return made.media.sha256 in own

    def _check_release(self, release: Release) -> None:
        """Three committed decisions about these bytes, each allowed under both policies of this moment; and nobody against it."""
        record = self._record
        decisions = {one.id: one for one in record.committed.decisions}
        assert set(release.decisions) == set(STAGES)
        for stage, id in release.decisions.items():
            decision = decisions[id]
            assert (decision.stage, decision.media.sha256) == (stage, _sha256(record.committed, stage))
            assert self._is_let_pass(decision, record.committed, record.policies[-1])
        signed = record.committed.part(PartKind.SIGNED)
        assert (signed.sha256, signed.made_of) == (release.signed_sha256, release.encoded_sha256)
        if self._world.is_video:
            self._check_segments(record.committed, record.policies[-1])
            assert [part.span.is_last for part in record.committed.segments] == [False] * (SEGMENTS - 1) + [True]
        assert Verdict.BLOCK not in {review.verdict for review in record.committed.reviews.values()}
        assert not record.committed.blocks
        assert not record.committed.source_removed
        assert not record.committed.cancel_requested
        assert record.state not in FINAL
        assert all(_has_what_is_asked_for(record.committed.transform, policy) for policy in (self._world.pinned, record.policies[-1]))

    def _check_denial(self, denial: Denial) -> None:
        """The decision that it names is one about that stage, and blocks: by a person, or by one of the two policies, and says why."""
        elsewhere = next((block for block in self._seen.blocks.values() if block.decision == denial.decision), None)
        if elsewhere is not None:
            assert [reason.detail for reason in denial.reasons] == [str(elsewhere.review)]
            return
        decision = next(one for one in self._seen.decisions if one.id == denial.decision)
        assert decision.stage is denial.stage
        review = self._seen.reviews.get(denial.decision)
        if review is None or review.verdict is not Verdict.BLOCK:
            assert Verdict.BLOCK in {self._again(decision, policy) for policy in (self._world.pinned, self._in_force)}
            assert Verdict.BLOCK in {reason.verdict for reason in denial.reasons}

    def _is_let_pass(self, decision: Decision, committed: Committed, in_force: Policy, *, waits: bool = False) -> bool:
        """Whether a decision passes; with `waits` also where only a person's word about it is missing."""
        judges, review = self._deployment.judges(self._world.pinned), committed.reviews.get(decision.id)
        was_made_so = (
            (decision.policy.digest, decision.decoder, tuple(sheet.classifier for sheet in decision.sheets))
            == (self._world.pinned.digest, f"scripted/{self._deployment.decoder}", judges)
            and decision.media.facts is not None
            and decision.verdict is self._again(decision, self._world.pinned)
        )
        enough = {Verdict.ALLOW} if review is None and not waits else {Verdict.ALLOW, Verdict.REVIEW}
        may_pass = review is None or review.verdict is Verdict.ALLOW
        return was_made_so and may_pass and {self._again(decision, policy) for policy in (self._world.pinned, in_force)} <= enough

    def _again(self, decision: Decision, policy: Policy) -> Verdict | None:
        """What a policy says about the stored scores with the classifiers of now; None where there is nothing to decide on."""
        if decision.media.facts is None:
            return None
        judges = self._deployment.judges(policy)
        sheets = [sheet for sheet in decision.sheets if sheet.classifier in judges]
        return decide(stage=decision.stage, facts=decision.media.facts, required=judges, sheets=sheets, policy=policy).verdict


def _sha256(committed: Committed, stage: Stage) -> str:
    if stage is OUTPUT:
        return committed.part(PartKind.ENCODED).sha256
    return (committed.transform.source if stage is SOURCE else committed.transform.target).sha256


def _is_whole(part: Part) -> bool:
    return part.kind is PartKind.ENCODED


def _has_what_is_asked_for(transform: Transform, policy: Policy) -> bool:
    return (policy.target_consent is Consent.OPTIONAL or transform.target_consent is not None) and (
        policy.sources == "any" or transform.catalogue_source is not None
    )


def let_go_on(world: World, record: Record, deployment: Deployment) -> None:
    """One worker that nothing happens to. Asserts that it comes to an end or to where a person is needed."""
    if record.is_due:
        worker = Worker(world, record, deployment)
        for _ in range(MOST_OF_VIDEO):
            if worker.is_done:
                break
            worker.work()
        assert worker.is_done
    assert record.state in {*FINAL, State.HELD}
    assert not record.is_due


def allow_all_that_waits(world: World, record: Record, deployment: Deployment) -> None:
    """A person allows whatever it is held for. Asserts that it comes to an end, and that nothing is asked twice."""
    asked: set[UUID] = set()
    while record.state is State.HELD:
        held = record.committed.events[-1].held.decision
        assert held not in asked
        asked.add(held)
        record.review(held, Verdict.ALLOW)
        let_go_on(world, record, deployment)
    assert record.state in FINAL


# --- every order --------------------------------------------------------------------------------------

levels = st.sampled_from([*[QUIET] * 9, HELD, HELD, LOUD, REFUSED])
deployments = st.builds(Deployment, decoder=st.integers(1, 2), classifier=st.integers(1, 2))
policies = st.sampled_from(POLICIES)
commits_ = st.integers(0, MOST_OF_VIDEO)
rarely = st.sampled_from([False] * 5 + [True])
any_ = st.integers(0, 7)


class Orders(RuleBasedStateMachine):
    """Workers of which the one that began last has the lease, any of which may stop for ever or go on; and all who may interfere."""

    @initialize(
        pinned=st.sampled_from([USUAL, USUAL, USUAL, HOLDS, LOOSE, ON_VIOLENCE]),
        seen=st.lists(levels, min_size=20, max_size=20),
        is_video=st.booleans(),
    )
    def accept(self, pinned, seen, is_video):
        versions = [Deployment(decoder=decoder, classifier=classifier) for decoder in (1, 2) for classifier in (1, 2)]
        places = [(stage, version) for stage in (*STAGES, 1, 2) for version in versions]
        self.world = World(pinned=pinned, shown=dict(zip(places, seen, strict=True)), is_video=is_video)
        self.record = self.world.record()
        self.deployment = Deployment()
        self.workers: list[Worker] = []
        self.ended: Committed | None = None
        self.first_release: Release | None = None
        self.looked_ahead: tuple[object, ...] | None = None

    # --- what happens -----------------------------------------------------------------------------

    @precondition(lambda self: self.record.is_due)
    @rule(commits=commits_, fault=rarely)
    def a_worker_begins(self, commits, fault):
        self.workers.append(Worker(self.world, self.record, self.deployment))
        self.work(self.workers[-1], commits, fault)

    @precondition(lambda self: self.workers)
    @rule(which=any_, commits=commits_, fault=rarely)
    def a_worker_goes_on_stale_or_not(self, which, commits, fault):
        self.work(self.workers[which % len(self.workers)], commits, fault)

    def work(self, worker, commits, fault):
        """The fault is that of the last screening."""
        for left in reversed(range(commits)):
            if not worker.is_done:
                worker.work(fault=fault and not left)

    @precondition(lambda self: self.record.state is State.HELD)
    @rule(verdict=st.sampled_from([Verdict.ALLOW, Verdict.ALLOW, Verdict.BLOCK]))
    def a_person_answers(self, verdict):
        self.record.review(self.record.committed.events[-1].held.decision, verdict)

    @precondition(lambda self: self.record.committed.decisions)
    @rule(which=any_, verdict=st.sampled_from([Verdict.ALLOW, Verdict.ALLOW, Verdict.BLOCK]))
    def a_person_says_something_unasked(self, which, verdict):
        decisions = self.record.committed.decisions
        self.record.review(decisions[which % len(decisions)].id, verdict)

    @rule(stage=st.sampled_from(STAGES), verdict=st.sampled_from([None, None, Verdict.ALLOW, Verdict.BLOCK]))
    def a_person_speaks_of_the_same_bytes_elsewhere(self, stage, verdict):
        """Rarely enough for much to be released all the same."""
        if verdict is not None and (stage is not OUTPUT or self.record.committed.part(PartKind.ENCODED) is not None):
            block = Block(stage=stage, decision=self.world.new_id(), review=self.world.new_id())
            self.record.speak_elsewhere(stage, block if verdict is Verdict.BLOCK else None)

    @rule(is_meant=rarely)
    def the_face_is_removed_from_the_catalogue(self, is_meant):
        if is_meant:
            self.record.remove_source()

    @rule(policy=policies)
    def an_operator_publishes(self, policy):
        self.record.publish_policy(policy)

    @rule(deployment=deployments)
    def other_versions_are_rolled_out(self, deployment):
        """To workers that begin from now on."""
        self.deployment = deployment

    @rule(is_meant=rarely)
    def the_caller_cancels(self, is_meant):
        if is_meant:
            self.record.cancel()

    @precondition(lambda self: self.record.committed.decisions)
    @rule(which=any_, verdict=st.sampled_from(Verdict))
    def somebody_alters_a_stored_verdict_while_nobody_works(self, which, verdict):
        self.workers.clear()
        decisions = list(self.record.committed.decisions)
        decisions[which % len(decisions)] = replace(decisions[which % len(decisions)], verdict=verdict)
        self.record.committed = replace(self.record.committed, decisions=tuple(decisions))

    # --- what holds after it (and what `Worker` checks at its steps) ------------------------------

    @invariant()
    def what_has_ended_stays_as_it_is(self):
        committed = self.record.committed
        if self.ended is not None:
            assert (committed.events, committed.parts, committed.release) == (self.ended.events, self.ended.parts, self.ended.release)
        elif self.record.state in FINAL:
            self.ended = committed

    @invariant()
    def there_is_one_release_at_most_and_it_is_never_changed(self):
        self.first_release = self.first_release or self.record.committed.release
        assert self.record.committed.release == self.first_release

    @invariant()
    def nothing_can_be_served_but_what_is_released(self):
        release = self.record.committed.release
        assert self.record.served <= (frozenset() if release is None else {release.signed_sha256})
        assert self.record.state is not State.RELEASED or self.record.served == {release.signed_sha256}

    @precondition(lambda self: self.workers)
    @invariant()
    def nothing_is_shown_before_the_release_that_was_not_let_pass(self):
        count = self.workers[-1].check_shown(self.record)
        assert count <= len(self.record.committed.segments)
        assert self.world.is_video or not count

    @invariant()
    def whoever_lets_it_go_on_brings_it_to_an_end_or_to_a_person_and_a_person_to_an_end(self):
        committed = self.record.committed
        now = (committed, self.record.policies, self.deployment)
        if self.looked_ahead is not None and all(one is other for one, other in zip(now, self.looked_ahead, strict=True)):
            return  # the same future
        self.looked_ahead = now
        record = self.record.copy()
        let_go_on(self.world, record, self.deployment)
        blocked = any(review.verdict is Verdict.BLOCK for review in committed.reviews.values())
        if committed.release is None and (committed.cancel_requested or blocked):
            assert record.state in {State.CANCELLED, State.DENIED, State.FAILED}
        allow_all_that_waits(self.world, record, self.deployment)
        if committed.release is None and (committed.blocks or committed.source_removed):
            assert record.state in {State.CANCELLED, State.DENIED, State.FAILED}
        assert (record.state is State.RELEASED) == (record.committed.release is not None)


def test_any_order_of_commits_crashes_reviews_policies_versions_and_cancels_keeps_the_promises():
    fixed = settings(max_examples=80, stateful_step_count=25, deadline=None, derandomize=True)
    run_state_machine_as_test(Orders, settings=fixed)


# --- every moment of one story ------------------------------------------------------------------------


def after(commits: int, world: World, deployment: Deployment = Deployment()) -> tuple[Record, Worker]:
    """A record with so many commits of its first worker, which knows its next step."""
    record = world.record()
    worker = Worker(world, record, deployment)
    for _ in range(commits):
        worker.work()
    return record, worker


MOMENTS = range(MOST_COMMITS)
MOMENTS_OF_EITHER = [(False, commits) for commits in MOMENTS] + [(True, commits) for commits in range(MOST_OF_VIDEO)]


@pytest.mark.parametrize(("is_video", "commits"), MOMENTS_OF_EITHER)
def test_a_crash_between_any_two_commits_makes_neither_two_releases_nor_none(is_video, commits):
    world = World(is_video=is_video)
    record, dead = after(commits, world)
    let_go_on(world, record, Deployment())
    assert record.state is State.RELEASED
    released = record.committed
    dead.work()  # it was not dead, only late
    assert record.committed == released
    assert len(record.served) == 1


@pytest.mark.parametrize("scores", [LOUD, REFUSED], ids=["loud", "refused"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_segment_that_does_not_pass_ends_a_video_before_the_next_one_is_made(number, scores):
    world = World(shown={(number, Deployment()): scores}, is_video=True)
    record, _ = after(0, world)
    let_go_on(world, record, Deployment())
    assert record.state is {id(LOUD): State.DENIED, id(REFUSED): State.FAILED}[id(scores)]
    assert len(record.committed.segments) == number
    assert record.committed.part(PartKind.ENCODED) is None
    assert not record.served


def test_a_video_with_segments_to_look_at_waits_once_and_a_persons_word_about_the_whole_is_enough():
    world = World(shown={(number, Deployment()): HELD for number in range(1, SEGMENTS + 1)}, is_video=True)
    record, _ = after(0, world)
    let_go_on(world, record, Deployment())
    assert record.state is State.HELD
    held = record.committed.events[-1].held.decision
    whole = next(one for one in record.committed.decisions if one.id == held)
    assert whole.media.sha256 == record.committed.part(PartKind.ENCODED).sha256
    record.review(held, Verdict.ALLOW)
    let_go_on(world, record, Deployment())
    assert record.state is State.RELEASED
    assert sum(event.state is State.HELD for event in record.committed.events) == 1


def test_a_block_of_another_picture_just_before_a_pause_is_heard_and_nobody_is_asked():
    world = World(shown={(SOURCE, Deployment()): HELD, (TARGET, Deployment()): HELD})
    record, worker = after(2, world)  # it is about to ask a person about the source
    record.review(record.committed.decisions[1].id, Verdict.BLOCK)
    while not worker.is_done:
        worker.work()
    assert record.state is State.DENIED
    assert record.committed.events[-1].denial.stage is TARGET


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("scores", [LOUD, HELD, REFUSED], ids=["loud", "held", "refused"])
def test_a_picture_that_does_not_pass_ends_it_where_it_is_found(stage, scores):
    world = World(shown={(stage, Deployment()): scores})
    record, _ = after(0, world)
    let_go_on(world, record, Deployment())
    assert record.state is {id(LOUD): State.DENIED, id(HELD): State.HELD, id(REFUSED): State.FAILED}[id(scores)]
    assert (record.committed.part(PartKind.ENCODED) is not None) is (stage is OUTPUT)
    assert not record.served


DISTURBANCES = {
    "cancel": (lambda record: record.cancel(), State.CANCELLED),
    "block": (lambda record: record.review(record.committed.decisions[0].id, Verdict.BLOCK), State.DENIED),
    "a block of the same bytes elsewhere": (
        lambda record: record.speak_elsewhere(SOURCE, Block(stage=TARGET, decision=make_id(7), review=make_id(8))),
        State.DENIED,
    ),
    "the face's removal from the catalogue": (lambda record: record.remove_source(), State.FAILED),
    "a policy that blocks": (lambda record: record.publish_policy(BLOCKS), State.DENIED),
    "a policy that holds": (lambda record: record.publish_policy(HOLDS), State.HELD),
    "a policy that asks another classifier": (lambda record: record.publish_policy(ON_VIOLENCE), State.FAILED),
    "a policy that asks for consent": (lambda record: record.publish_policy(TARGET_CONSENT), State.FAILED),
    "a policy that asks for the catalogue": (lambda record: record.publish_policy(CATALOGUE), State.FAILED),
    "a policy that is looser": (lambda record: record.publish_policy(LOOSE), State.RELEASED),
}
RELEASED_AFTER: Final = 6
"""Commits until the release: two inputs, the encoded file, the output, the signed file, the release."""


@pytest.mark.parametrize(("is_video", "commits"), MOMENTS_OF_EITHER)
@pytest.mark.parametrize("what", DISTURBANCES)
def test_whatever_happens_before_the_release_is_heard_and_after_it_comes_too_late(what, is_video, commits):
    """By the worker that is about to commit its next step, and by one that takes over."""
    disturb, end = DISTURBANCES[what]
    released_after = RELEASED_AFTER + 2 * SEGMENTS * is_video
    for takes_over in (False, True):
        world = World(is_video=is_video)
        record, worker = after(commits, world)
        if what == "block" and not record.committed.decisions:
            return
        disturb(record)
        if takes_over:
            let_go_on(world, record, Deployment())
        else:
            for _ in range(MOST_OF_VIDEO):
                worker.work()
        assert record.state is (end if commits < released_after else State.RELEASED)
        assert (record.committed.release is None) is (record.state is not State.RELEASED)


@pytest.mark.parametrize("commits", MOMENTS)
@pytest.mark.parametrize("newer", [Deployment(classifier=2), Deployment(decoder=2)], ids=["classifier", "decoder"])
def test_other_versions_judge_again_whatever_is_not_released_yet(newer, commits):
    world = World(shown={(SOURCE, newer): LOUD})
    record, _ = after(commits, world)
    let_go_on(world, record, newer)
    assert record.state is (State.DENIED if commits < RELEASED_AFTER else State.RELEASED)


@pytest.mark.parametrize("newer", [Deployment(), Deployment(classifier=2), Deployment(decoder=2)], ids=["same", "classifier", "decoder"])
@pytest.mark.parametrize(("verdict", "end"), [(Verdict.ALLOW, State.RELEASED), (Verdict.BLOCK, State.DENIED)])
@pytest.mark.parametrize("stage", STAGES)
def test_what_a_person_says_of_what_is_held_ends_the_pause_and_a_block_outlives_a_newer_version(stage, verdict, end, newer):
    world = World(shown={(stage, Deployment()): HELD})
    record, _ = after(0, world)
    let_go_on(world, record, Deployment())
    record.review(record.committed.events[-1].held.decision, verdict)
    let_go_on(world, record, newer)
    assert record.state is end


def test_a_block_after_the_release_withdraws_it_and_changes_nothing_else():
    world = World()
    record, _ = after(0, world)
    let_go_on(world, record, Deployment())
    released = record.committed
    record.review(released.decisions[-1].id, Verdict.BLOCK)
    assert record.committed == replace(released, withdrawn=True, reviews=record.committed.reviews)
    assert not record.is_due
