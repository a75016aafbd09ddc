"""Screening: steps 1 to 5 of the gate, in the order that fails closed.

1. Identify: SHA-256 of the bytes as received.
2. Decode: bounded, in a child process; every frame the policy asks for. Of an uploaded video these are samples, and where
   their scores come near a threshold, the frames around them in a second pass; of what we made ourselves it is every frame.
3. Score: every classifier, every input, all scores kept.
4. Decide: `moderation.policy.decide`, pure.
5. Record: commit the decision. Only then is it returned.

Step 6, acting on it, is the caller's. Whatever goes wrong in steps 2 and 3 still ends in a recorded
decision with verdict `error`; if step 5 fails there is no decision and `RecordUnavailable` is raised.
Time is bounded by the decoder and by each classifier, which raise when theirs is up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from moderation.canonical import Json, digest
from moderation.decision import Decision, Outcome, PolicyRef, Reason, ReasonCode, Verdict
from moderation.errors import CannotJudge, ClassifierFault, ClassifierUnavailable, MediaRefused, Overloaded
from moderation.frames import OWN_VIDEO_BYTES, Box, DecodePlan, Input, InputSpec, Limits, Sampling
from moderation.gate import Terms, is_refusal
from moderation.media import Facts, Media, MediaKind, Stage
from moderation.policy import InputSampling, Policy, closer, decide
from moderation.ports import Classifier, Clock, DecisionLog, Decoder, Job, Keep, ReuseKey, ScoreMemory, Shadow
from moderation.scores import ClassifierScores, ClassifierVersion, Detection, FrameScores, InputScores, is_score

MAX_DETECTIONS: Final = 64
"""Strongest places kept per classifier and media; scores are kept for all."""

CALLS_IN_FLIGHT: Final = 2
"""Batches of one media at each classifier while the decoder goes on."""

SEEDS: Final = 1 << 31
"""How many there are of the random phase."""

_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request to screen: who asks, what bytes, at which stage, under which policy.

    With `pictures_only`, as at stage source always, a video is refused as no supported media.
    """

    id: UUID
    tenant: UUID
    actor: str
    request_id: str
    stage: Stage
    policy: Policy
    strict: bool = False
    declared_type: str | None = None
    reference: str | None = None
    transform: UUID | None = None
    pictures_only: bool = False

    @property
    def takes_videos(self) -> bool:
        """Whether a video may be judged."""
        return not self.pictures_only and self.stage is not Stage.SOURCE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """An order with what follows from it before anything is opened."""

    order: Order
    media: Media
    judges: tuple[Classifier, ...]
    plan: DecodePlan
    key: ReuseKey


class Screener:
    """Runs steps 1 to 5 over injected decoder, classifiers and record."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        classifiers: Sequence[Classifier],
        log: DecisionLog,
        memory: ScoreMemory,
        clock: Clock,
        limits: Limits,
        seed: Callable[[], int] = lambda: secrets.randbelow(SEEDS),
        shadow: Shadow | None = None,
    ) -> None:
        self._decoder = decoder
        self._classifiers = tuple(classifiers)
        self._log = log
        self._memory = memory
        self._clock = clock
        self._limits = limits
        self._seed = seed
        self._shadow = shadow

    async def screen(
        self,
        data: bytes,
        order: Order,
        *,
        job: Job | None = None,
        keep_job: bool = False,
        faults_final: bool = True,
        keep: Keep | None = None,
    ) -> Decision:
        """Judge `data` and return the committed decision.

        Raises RecordUnavailable (nothing is decided) and Overloaded (nothing is decided either, and a
        later try may succeed). Every other fault is a decision with verdict `error` that says why; with `faults_final` false
        one of ours is raised as CannotJudge instead, and nothing is decided: the caller will try again. With
        `job`, the job is done by the same commit, or goes on with `keep_job` (StaleLease if it is another's by then). Scores that the
        same tenant's record holds for the same bytes, plan and classifiers are used again, except when
        `order.strict`, since a strict refusal also depends on what the caller declared, and at stage output.
        Whoever listens in shadow is told of the decision once it is committed. `keep` is given a still picture that was decoded for it in
        full: nothing may be done with it before the decision is there and lets it pass.
        """
        case = self._case(Media.of(data), order)  # 1. Identify
        decision = await self._judgement(data, case, keep)
        if not faults_final:
            judged(decision)
        await self._log.append(decision, job=job, keep_job=keep_job)  # 5. Record
        if self._shadow is not None:
            self._shadow.begin(data, decision, case.plan, order.policy)
        return decision

    async def give_up(self, media: Media, order: Order, why: str, *, job: Job) -> Decision:
        """The committed decision, `error`, about what was tried as often as it may be, or cannot be tried any more; the same commit ends the job.

        `why` becomes the reason's detail. Raises StaleLease, Overloaded, RecordUnavailable.
        """
        decision = self._undecided(self._case(media, order), ReasonCode.COULD_NOT_JUDGE, detail=why)
        await self._log.append(decision, job=job)
        return decision

    async def join(
        self, media: Media, order: Order, pieces: Sequence[Decision], *, job: Job | None = None, keep_job: bool = False
    ) -> Decision:
        """Steps 4 and 5 for a video that was joined from pieces, on the scores that these were given; the committed decision.

        `media.facts` say what was seen of the whole. That its frames are those of the pieces, in their order, is the caller's to know.
        Raises ValueError where pieces and whole do not have the same number of frames or were not judged alike, and as `screen` does.
        """
        case = self._case(media, order)
        made = {(piece.policy.digest, piece.plan_digest, piece.decoder, _identities(piece)) for piece in pieces}
        asked = tuple(version.identity for version in case.key.classifiers)
        if media.facts is None or made != {(order.policy.digest, case.key.plan_digest, case.key.decoder, asked)}:
            raise ValueError("the pieces were not judged as the whole would be")
        sheets = joined_sheets(pieces)
        if any(len(sheet.frames) != media.facts.frames for sheet in sheets):
            raise ValueError("the whole has other frames than its pieces")
        of_pieces = (what for piece in pieces if piece.media.facts is not None for what in piece.media.facts.unscreened)
        facts = replace(media.facts, unscreened=tuple(dict.fromkeys((*media.facts.unscreened, *of_pieces))))
        required = tuple(sheet.classifier for sheet in sheets)
        outcome = decide(stage=order.stage, facts=facts, required=required, sheets=sheets, policy=order.policy)
        decision = self._decision(case, replace(media, facts=facts), outcome, sheets, None)
        await self._log.append(decision, job=job, keep_job=keep_job)
        return decision

    def judges(self, policy: Policy) -> tuple[ClassifierVersion, ...]:
        """The classifiers that judge under `policy`, as they are now."""
        return tuple(judge.version for judge in judges_of(policy, self._classifiers))

    def terms(self, policy: Policy) -> Terms:
        """Under what a decision that is made now, not strictly, is made. The decoder must be running."""
        judges = judges_of(policy, self._classifiers)
        return Terms(
            policy=policy.digest,
            plan=plan_digest(self._plan(policy, judges, seed=0)),
            decoder=self._decoder.version,
            classifiers=tuple(judge.version.identity for judge in judges),
        )

    def _case(self, media: Media, order: Order) -> _Case:
        judges = judges_of(order.policy, self._classifiers)
        plan = self._plan(order.policy, judges, seed=self._seed(), strict=order.strict, declared_type=order.declared_type)
        key = ReuseKey(
            tenant=order.tenant,
            media_sha256=media.sha256,
            plan_digest=plan_digest(plan),
            decoder=self._decoder.version,
            classifiers=tuple(judge.version for judge in judges),
        )
        plan = replace(plan, videos=order.takes_videos)
        if order.stage is Stage.OUTPUT:
            plan = replace(plan, sampling=None, own_bytes=OWN_VIDEO_BYTES)
        return _Case(order=order, media=media, judges=judges, plan=plan, key=key)

    async def _judgement(self, data: bytes, case: _Case, keep: Keep | None) -> Decision:
        """Steps 2 to 4: a decision that is not recorded yet."""
        if not case.judges:
            return self._undecided(case, ReasonCode.NO_CLASSIFIER)
        recalled = await self._memory.recall(case.key) if _may_reuse(case.order) else None
        if recalled is not None and (case.order.takes_videos or recalled.facts.kind is not MediaKind.VIDEO):
            return self._decided(case, recalled.facts, recalled.sheets, reused_from=recalled.decision)
        try:
            async with Gathering(case.judges) as gathering:
                facts = await self._decoder.decode(data, case.plan, gathering.deliver, keep=keep)  # 2. Decode
                sheets = await gathering.finish()  # 3. Score
                further = self._closer(case, facts, sheets)
                if further:
                    more = await self._decoder.decode(data, replace(case.plan, only=further), gathering.deliver)
                    facts, sheets = _with_closer(facts, more), await gathering.finish()
        except MediaRefused as refused:
            return self._undecided(case, ReasonCode.MEDIA_REFUSED, detail=str(refused.refusal))
        except CannotJudge as fault:
            _logger.warning("could not judge %s: %s: %s", case.media.sha256, fault.code, fault)
            return self._undecided(case, ReasonCode(fault.code))
        except Overloaded:
            raise
        except Exception:  # a fault nobody foresaw is still recorded, and never an allow
            _logger.exception("could not judge %s", case.media.sha256)
            return self._undecided(case, ReasonCode.COULD_NOT_JUDGE)
        return self._decided(case, facts, sheets)

    def _closer(self, case: _Case, facts: Facts, sheets: tuple[ClassifierScores, ...]) -> tuple[int, ...]:
        """What a second look is for; nothing where it could not make the verdict any worse."""
        further = closer(stage=case.order.stage, facts=facts, sheets=sheets, policy=case.order.policy)
        return further if further and self._outcome(case, facts, sheets).verdict is not Verdict.BLOCK else ()

    def _plan(
        self, policy: Policy, judges: Sequence[Classifier], *, seed: int, strict: bool = False, declared_type: str | None = None
    ) -> DecodePlan:
        limits = limits_under(policy, self._limits)
        specs = tuple(dict.fromkeys(judge.version.input for judge in judges))
        sampling = sampling_under(policy.sampling, seed)
        return DecodePlan(specs=specs, limits=limits, strict=strict, declared_type=declared_type, sampling=sampling)

    def _decided(self, case: _Case, facts: Facts, sheets: tuple[ClassifierScores, ...], *, reused_from: UUID | None = None) -> Decision:
        outcome = self._outcome(case, facts, sheets)
        return self._decision(case, replace(case.media, facts=facts), outcome, sheets, reused_from)

    def _outcome(self, case: _Case, facts: Facts, sheets: tuple[ClassifierScores, ...]) -> Outcome:
        order = case.order
        return decide(stage=order.stage, facts=facts, required=case.key.classifiers, sheets=sheets, policy=order.policy)  # 4. Decide

    def _undecided(self, case: _Case, code: ReasonCode, *, detail: str | None = None) -> Decision:
        reason = Reason(code=code, verdict=Verdict.ERROR, detail=detail)
        return self._decision(case, case.media, Outcome(verdict=Verdict.ERROR, reasons=(reason,)), (), None)

    def _decision(
        self, case: _Case, media: Media, outcome: Outcome, sheets: tuple[ClassifierScores, ...], reused_from: UUID | None
    ) -> Decision:
        order, policy = case.order, case.order.policy
        return Decision(
            id=order.id,
            tenant=order.tenant,
            actor=order.actor,
            stage=order.stage,
            media=media,
            verdict=outcome.verdict,
            reasons=outcome.reasons,
            thresholds=outcome.thresholds,
            sheets=sheets,
            policy=PolicyRef(name=policy.name, version=policy.version, digest=policy.digest),
            plan_digest=case.key.plan_digest,
            decoder=case.key.decoder,
            created_at=self._clock(),
            request_id=order.request_id,
            reference=order.reference,
            reused_from=reused_from,
            transform=order.transform,
        )


def judged(decision: Decision) -> Decision:
    """A decision that says something about the media. Raises CannotJudge where it says only that a fault of ours was in the way."""
    if decision.verdict is Verdict.ERROR and not is_refusal(decision):
        raise CannotJudge(f"{decision.stage}: {decision.reasons[0].code}")
    return decision


def joined_sheets(pieces: Sequence[Decision]) -> tuple[ClassifierScores, ...]:
    """The sheets of videos that follow one another as those of one video: frames and times go on counting, the strongest places stay."""
    if not pieces:
        return ()
    frames: list[list[FrameScores]] = [[] for _ in pieces[0].sheets]
    found: list[list[tuple[int, Detection]]] = [[] for _ in pieces[0].sheets]
    begins_at = begins_us = 0
    for piece in pieces:
        for sheet, rows, places in zip(piece.sheets, frames, found, strict=True):
            own_us = next((row.time_us for row in sheet.frames if row.time_us is not None), 0)
            rows += [
                replace(row, frame=begins_at + row.frame, time_us=None if row.time_us is None else begins_us + row.time_us - own_us)
                for row in sheet.frames
            ]
            places += [(begins_at + frame, detection) for frame, detection in sheet.detections]
        begins_at += 0 if piece.media.facts is None else piece.media.facts.frames
        begins_us += 0 if piece.media.facts is None else piece.media.facts.duration_us or 0
    return tuple(
        ClassifierScores(classifier=sheet.classifier, frames=tuple(rows), detections=strongest(places))
        for sheet, rows, places in zip(pieces[0].sheets, frames, found, strict=True)
    )


def strongest(found: Iterable[tuple[int, Detection]]) -> tuple[tuple[int, Detection], ...]:
    """As many places as are kept, with the numbers of their frames: by score, the earlier first."""
    return tuple(sorted(found, key=lambda pair: (*_strength(pair[1]), -pair[0]), reverse=True)[:MAX_DETECTIONS])


def _identities(decision: Decision) -> tuple[str, ...]:
    return tuple(sheet.classifier.identity for sheet in decision.sheets)


def _may_reuse(order: Order) -> bool:
    """Not where a refusal depends on what was declared, and never for what we made ourselves: it is judged on its own, every time."""
    return not order.strict and order.stage is not Stage.OUTPUT


def judges_of(policy: Policy, classifiers: Sequence[Classifier]) -> tuple[Classifier, ...]:
    """The classifiers of a policy: all but those of which it explicitly ignores every category.

    One that declares no category at all stays, so that `decide` refuses to go without its scores.
    """

    def is_judge(categories: Sequence[str]) -> bool:
        return not categories or not all(map(policy.is_ignored, categories))

    return tuple(classifier for classifier in classifiers if is_judge(classifier.version.categories))


def limits_under(policy: Policy, own: Limits) -> Limits:
    """The service's own limits, or the policy's where they are tighter."""
    asked = policy.limits
    return replace(
        own,
        image_bytes=min(own.image_bytes, asked.image_bytes),
        image_pixels=min(own.image_pixels, asked.image_pixels),
        frames=min(own.frames, asked.frames),
        video_bytes=min(own.video_bytes, asked.video_bytes),
        video_seconds=min(own.video_seconds, asked.video_seconds),
    )


def sampling_under(asked: InputSampling, seed: int) -> Sampling:
    """A policy's sampling as the decoder takes it."""
    return Sampling(
        interval_us=1000 * asked.interval_ms,
        min_frames=asked.min_frames,
        first_and_last=asked.first_and_last,
        scene_cuts=asked.scene_cuts,
        seed=seed,
    )


def plan_digest(plan: DecodePlan) -> str:
    """`sha256:<hex>` over everything in a plan that changes whether and what the classifiers see, but the seed.

    It is the policy's plan: that at stage output every frame is looked at, whatever the sampling, follows from the stage, as does
    whether videos are taken at all.
    """
    sampling = None if plan.sampling is None else replace(plan.sampling, seed=0)
    return _digest_of(plan.specs, plan.limits, plan.strict, sampling)


@lru_cache(maxsize=64)  # a service has few plans, and asks for their digests several times for each media
def _digest_of(specs: tuple[InputSpec, ...], limits: Limits, strict: bool, sampling: Sampling | None) -> str:
    sampled: dict[str, Json] = {}
    if sampling is not None:
        sampled["sampling"] = {
            "interval_us": sampling.interval_us,
            "min_frames": sampling.min_frames,
            "first_and_last": sampling.first_and_last,
            "scene_cuts": sampling.scene_cuts,
        }
    return digest(
        {
            **sampled,
            "specs": [
                {"width": s.width, "height": s.height, "fit": str(s.fit), "resample": str(s.resample), "resize_to": s.resize_to}
                for s in specs
            ],
            "limits": {
                "image_bytes": limits.image_bytes,
                "video_bytes": limits.video_bytes,
                "image_pixels": limits.image_pixels,
                "total_pixels": limits.total_pixels,
                "min_side": limits.min_side,
                "max_side": limits.max_side,
                "frames": limits.frames,
                "video_seconds": limits.video_seconds,
                "video_pixels": limits.video_pixels,
            },
            "strict": strict,
        }
    )


def _with_closer(facts: Facts, more: Facts) -> Facts:
    """What is known after a second look at other frames of the same media."""
    numbers = more.frame_numbers()
    if frozenset(numbers) & frozenset(facts.sampled):
        raise ClassifierFault("a second look at frames that were looked at")
    return replace(
        facts,
        frames=facts.frames + more.frames,
        sampled=tuple(sorted(facts.sampled + numbers)),
        dense=numbers,
        renderings=tuple(sorted({*facts.renderings, *more.renderings})),
    )


class Gathering:
    """Collects the answers for one media while it is still being decoded. On leaving, nothing it began goes on."""

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        self._tallies = [_Tally(classifier) for classifier in classifiers]
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.gather(*self._calls, return_exceptions=True)  # one fault was raised; the others need no report

    async def deliver(self, inputs: Sequence[Input]) -> None:
        """Send a batch of inputs to every classifier whose spec they have; waits while too many are in flight.

        Raises what a classifier raised, so that a fault ends the decoding at once.
        """
        for tally in self._tallies:
            wanted = [item for item in inputs if item.spec == tally.version.input]
            if wanted:
                self._calls.add(asyncio.create_task(tally.ask(wanted)))
        self._settle()
        while len(self._calls) > CALLS_IN_FLIGHT * len(self._tallies):
            await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
            self._settle()

    async def finish(self) -> tuple[ClassifierScores, ...]:
        """Wait for all answers; one sheet per classifier, in their order. Raises what a classifier raised."""
        while self._calls:
            await asyncio.wait(self._calls, return_when=asyncio.FIRST_EXCEPTION)
            self._settle()
        return tuple(tally.sheet() for tally in self._tallies)

    def _settle(self) -> None:
        for call in [call for call in self._calls if call.done()]:
            if call.cancelled():  # not by us: we only cancel on leaving
                raise ClassifierUnavailable("a call was cancelled by the other side")
            call.result()
            self._calls.discard(call)


class _Tally:
    """One classifier's worst scores so far. Keeps no pixels, so that they can go as soon as they are judged.

    Worst wins: over all renderings and regions of one frame, each category keeps its highest score.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.version = classifier.version
        self._classifier = classifier
        self._declared = frozenset(self.version.categories)
        self._times: dict[int, int | None] = {}
        self._worst: dict[int, dict[str, tuple[int, Box | tuple[()]]]] = {}
        self._found: list[tuple[int, Detection]] = []

    async def ask(self, inputs: Sequence[Input]) -> None:
        """Have these inputs judged. Raises ClassifierFault unless there is one whole answer for each, ClassifierUnavailable after an exchange."""
        if self._classifier.version.identity != self.version.identity:  # what it says now is not what it would have said of the first ones
            raise ClassifierUnavailable(f"{self.version.name}: another version took its place")
        answers = await self._classifier.classify(inputs)
        if len(answers) != len(inputs):
            raise ClassifierFault(f"{self.version.name}: {len(answers)} answers for {len(inputs)} inputs")
        for item, answer in zip(inputs, answers, strict=True):
            self._check(answer)
            self._add(item, answer)

    def _check(self, answer: InputScores) -> None:
        if answer.scores.keys() != self._declared:
            raise ClassifierFault(f"{self.version.name}: scores for {sorted(answer.scores)}, declared are {sorted(self._declared)}")
        if not all(map(is_score, answer.scores.values())) or not all(is_score(found.score) for found in answer.detections):
            raise ClassifierFault(f"{self.version.name}: a score that is none, in {dict(answer.scores)}")

    def _add(self, item: Input, answer: InputScores) -> None:
        placed = [replace(found, box=item.spec.region_box(found.box, item.region)) for found in answer.detections]
        self._found += [(item.frame, found) for found in placed]
        self._times.setdefault(item.frame, item.time_us)
        worst = self._worst.setdefault(item.frame, {})
        for category, score in answer.scores.items():
            strongest = max((found for found in placed if found.category == category), key=_strength, default=None)
            # A tuple, so that answers may come in any order: by score, then with a box before without.
            worst[category] = max((score, strongest.box if strongest else ()), worst.get(category, (-1, ())))

    def sheet(self) -> ClassifierScores:
        """All scores so far, in frame order."""
        return ClassifierScores(
            classifier=self.version,
            frames=tuple(
                FrameScores(
                    frame=frame,
                    time_us=self._times[frame],
                    scores={category: score for category, (score, _) in worst.items()},
                    boxes={category: box for category, (_, box) in worst.items() if box},
                )
                for frame, worst in sorted(self._worst.items())
            ),
            detections=strongest(self._found),
        )


def _strength(detection: Detection) -> tuple[int, str, Box]:
    """By score; the rest only makes the order the same every time."""
    return (detection.score, detection.label, detection.box)
