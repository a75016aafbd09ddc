"""Screening: steps 1 to 5 of the gate, in the order that fails closed.

1. Identify: SHA-256 of the bytes as received.
2. Decode: bounded, in a child process; every frame the policy asks for.
3. Score: every classifier, every input, all scores kept.
4. Decide: `moderation.policy.decide`, pure.
5. Record: commit the decision. Only then is it returned.

Step 6, acting on it, is the caller's. Whatever goes wrong in steps 2 and 3 still ends in a recorded
decision with verdict `error`; if step 5 fails there is no decision and `RecordUnavailable` is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from moderation.canonical import digest
from moderation.decision import Decision, Outcome, PolicyRef, Reason, ReasonCode, Verdict
from moderation.errors import CannotJudge, ClassifierFault, MediaRefused
from moderation.frames import Box, DecodePlan, Input, Limits
from moderation.media import Facts, Media, Stage
from moderation.policy import Policy, decide
from moderation.ports import Classifier, Clock, Decoder, DecisionLog, Job, Recalled, ReuseKey, ScoreMemory
from moderation.scores import ClassifierScores, Detection, FrameScores, InputScores

MAX_DETECTIONS: Final = 64
"""Strongest places kept per classifier and media; scores are kept for all."""

CALLS_IN_FLIGHT: Final = 2
"""Batches of one media at the classifiers while the decoder goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request to screen: who asks, what bytes, at which stage, under which policy."""

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
    ) -> None:
        self._decoder = decoder
        self._classifiers = tuple(classifiers)
        self._log = log
        self._memory = memory
        self._clock = clock
        self._limits = limits

    async def screen(self, data: bytes, order: Order, *, job: Job | None = None) -> Decision:
        """Judge `data` and return the committed decision.

        Raises RecordUnavailable (nothing is decided), Overloaded (nothing was begun). Every other fault
        is a decision with verdict `error` that says why. With `job`, the job is done by the same commit
        (StaleLease if it is another's by then).
        """
        media = Media.of(data)  # 1. Identify
        classifiers = judges_of(order.policy, self._classifiers)
        plan = self._plan(order, classifiers)
        key = ReuseKey(
            tenant=order.tenant,
            media_sha256=media.sha256,
            plan_digest=plan_digest(plan),
            decoder=self._decoder.version,
            classifiers=tuple(c.version for c in classifiers),
        )
        if not classifiers:
            decision = self._undecided(order, media, key, Reason(code=ReasonCode.NO_CLASSIFIER, verdict=Verdict.ERROR))
            await self._log.append(decision, job=job)
            return decision
        recalled = None if order.strict else await self._memory.recall(key)
        if recalled is not None:
            decision = self._decided(order, media, key, recalled.facts, recalled.sheets, reused=recalled)
        else:
            decision = await self._judge(data, order, media, plan, key, classifiers)
        await self._log.append(decision, job=job)  # 5. Record
        return decision

    async def _judge(
        self, data: bytes, order: Order, media: Media, plan: DecodePlan, key: ReuseKey, classifiers: Sequence[Classifier]
    ) -> Decision:
        gathering = _Gathering(classifiers)
        try:
            facts = await self._decoder.decode(data, plan, gathering.deliver)  # 2. Decode
            sheets = await gathering.finish()  # 3. Score
        except MediaRefused as refused:
            return self._undecided(order, media, key, Reason(code=ReasonCode.MEDIA_REFUSED, verdict=Verdict.ERROR, detail=str(refused.refusal)))
        except CannotJudge as fault:
            return self._undecided(order, media, key, Reason(code=ReasonCode(fault.code), verdict=Verdict.ERROR))
        finally:
            gathering.abandon()
        return self._decided(order, media, key, facts, sheets, reused=None)

    def _plan(self, order: Order, classifiers: Sequence[Classifier]) -> DecodePlan:
        own, asked = self._limits, order.policy.limits
        specs = tuple(dict.fromkeys(c.version.input for c in classifiers))
        limits = replace(
            own,
            image_bytes=min(own.image_bytes, asked.image_bytes),
            image_pixels=min(own.image_pixels, asked.image_pixels),
            frames=min(own.frames, asked.frames),
            video_bytes=min(own.video_bytes, asked.video_bytes),
            video_seconds=min(own.video_seconds, asked.video_seconds),
        )
        return DecodePlan(specs=specs, limits=limits, strict=order.strict, declared_type=order.declared_type)

    def _decided(
        self, order: Order, media: Media, key: ReuseKey, facts: Facts, sheets: tuple[ClassifierScores, ...], *, reused: Recalled | None
    ) -> Decision:
        outcome = decide(stage=order.stage, facts=facts, required=key.classifiers, sheets=sheets, policy=order.policy)  # 4. Decide
        return self._decision(order, replace(media, facts=facts), key, outcome, sheets, reused)

    def _undecided(self, order: Order, media: Media, key: ReuseKey, reason: Reason) -> Decision:
        return self._decision(order, media, key, Outcome(verdict=Verdict.ERROR, reasons=(reason,)), (), None)

    def _decision(
        self, order: Order, media: Media, key: ReuseKey, outcome: Outcome, sheets: tuple[ClassifierScores, ...], reused: Recalled | None
    ) -> Decision:
        policy = order.policy
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
            plan_digest=key.plan_digest,
            decoder=key.decoder,
            created_at=self._clock(),
            request_id=order.request_id,
            reference=order.reference,
            reused_from=reused.decision if reused else None,
            transform=order.transform,
        )


def judges_of(policy: Policy, classifiers: Sequence[Classifier]) -> tuple[Classifier, ...]:
    """The classifiers of a policy: all but those of which it explicitly ignores every category."""
    return tuple(c for c in classifiers if not all(policy.is_ignored(category) for category in c.version.categories))


def plan_digest(plan: DecodePlan) -> str:
    """`sha256:<hex>` over everything in a plan that changes what the classifiers see."""
    limits = plan.limits
    return digest(
        {
            "specs": [
                {"width": s.width, "height": s.height, "fit": str(s.fit), "resample": str(s.resample), "resize_to": s.resize_to}
                for s in plan.specs
            ],
            "limits": {
                "image_pixels": limits.image_pixels,
                "total_pixels": limits.total_pixels,
                "min_side": limits.min_side,
                "max_side": limits.max_side,
                "frames": limits.frames,
                "video_seconds": limits.video_seconds,
            },
            "strict": plan.strict,
        }
    )


class _Gathering:
    """Collects the answers for one media while it is still being decoded."""

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        self._classifiers = classifiers
        self._tasks: list[asyncio.Task[list[tuple[int, Input, InputScores]]]] = []

    async def deliver(self, inputs: Sequence[Input]) -> None:
        """Send a batch of inputs to every classifier whose spec they have; waits when too many are in flight."""
        for index, classifier in enumerate(self._classifiers):
            wanted = [item for item in inputs if item.spec == classifier.version.input]
            if wanted:
                self._tasks.append(asyncio.create_task(_classify(index, classifier, wanted)))
        unfinished = [task for task in self._tasks if not task.done()]
        while len(unfinished) > CALLS_IN_FLIGHT * len(self._classifiers):
            await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
            unfinished = [task for task in unfinished if not task.done()]
        for task in self._tasks:
            if task.done():
                task.result()  # a fault ends the decoding at once

    async def finish(self) -> tuple[ClassifierScores, ...]:
        """Wait for all answers and order them by classifier and frame. Raises what a classifier raised."""
        answers = [answer for batch in await asyncio.gather(*self._tasks) for answer in batch]
        return tuple(
            _sheet(classifier, [(item, scores) for at, item, scores in answers if at == index])
            for index, classifier in enumerate(self._classifiers)
        )

    def abandon(self) -> None:
        """Cancel what is still running; harmless after `finish`."""
        for task in self._tasks:
            task.cancel()


async def _classify(index: int, classifier: Classifier, inputs: Sequence[Input]) -> list[tuple[int, Input, InputScores]]:
    answers = await classifier.classify(inputs)
    if len(answers) != len(inputs):
        raise ClassifierFault(f"{classifier.version.name}: {len(answers)} answers for {len(inputs)} inputs")
    return [(index, item, scores) for item, scores in zip(inputs, answers, strict=True)]


def _sheet(classifier: Classifier, answers: Sequence[tuple[Input, InputScores]]) -> ClassifierScores:
    """Worst wins: over all renderings and regions of one frame, each category keeps its highest score."""
    times: dict[int, int | None] = {}
    worst: dict[int, dict[str, int]] = {}
    boxes: dict[int, dict[str, Box]] = {}
    found: list[tuple[int, Detection]] = []
    for item, answer in answers:
        times.setdefault(item.frame, item.time_us)
        frame_scores, frame_boxes = worst.setdefault(item.frame, {}), boxes.setdefault(item.frame, {})
        missing = [c for c in classifier.version.categories if c not in answer.scores]
        if missing:
            raise ClassifierFault(f"{classifier.version.name}: no score for {sorted(missing)}")
        placed = [replace(d, box=item.spec.region_box(d.box, item.region)) for d in answer.detections]
        for category, score in answer.scores.items():
            if score > frame_scores.get(category, -1):
                frame_scores[category] = score
                place = max((d for d in placed if d.category == category), key=lambda d: d.score, default=None)
                if place is not None:
                    frame_boxes[category] = place.box
                else:
                    frame_boxes.pop(category, None)
        found += [(item.frame, detection) for detection in placed]
    found.sort(key=lambda pair: (-pair[1].score, pair[0], pair[1].label))
    return ClassifierScores(
        classifier=classifier.version,
        frames=tuple(
            FrameScores(frame=frame, time_us=times[frame], scores=worst[frame], boxes=boxes[frame]) for frame in sorted(worst)
        ),
        detections=tuple(found[:MAX_DETECTIONS]),
    )

