"""Gated transforms, done: load the facts, ask the gate, do that one step, commit it under the fence, ask again.

Restart, review, cancel and retry are the same loop. Bytes are stored before the row that names them is committed, and
deleted after the row that ends them is; what a process that died in between leaves behind is never named and found by age.
Nothing of ours is put where it can be served before the release is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from deployments import telemetry
from deployments.heeding import Heeding
from deployments.ids import new_id
from deployments.job_loop import LEASE_S, JobLoop, park
from deployments.rendering import CannotTransform, Renderer, refusals_final
from deployments.video_rendering import VideoRenderer
from deployments.video_steps import Desk, VideoSteps, pieces_of
from moderation import gate
from moderation.adapters.areas import Area, object_name
from moderation.adapters.media_store import MediaAltered
from moderation.decision import Decision, PolicyRef
from moderation.errors import CannotJudge, FactsChanged, RecordUnavailable, StaleLease
from moderation.frames import DecodePlan, Limits, Picture
from moderation.gate import Facts, facts_of, next_step
from moderation.media import Media, Stage, sha256_of
from moderation.policy import Policy
from moderation.ports import Claim, Clock, Job, Keeping, PictureDecoder, PolicyShelf, Queue, Signer, TransformLog
from moderation.screening import Order, Screener, judged
from moderation.transform import Committed, Denial, Event, Failure, Part, PartKind, Release, State, Transform

KIND: Final = "transform"
_AGAIN_S: Final = 0.1
LOOKS_IN_VAIN: Final = 100
"""How often in a row a step may find that the facts have changed; several times as long as a policy is remembered. Then the attempt counts as failed."""
_LOG = structlog.get_logger("facegate.transform")

_GONE: Final = Failure(code="bytes_gone", message="What was sent is no longer kept; send it again.", retryable=True)


class GateWorker(JobLoop):
    """Takes transforms off the queue and brings each to its end, or to where a person is needed."""

    def __init__(
        self,
        *,
        log: TransformLog,
        keeping: Keeping,
        screener: Screener,
        policies: PolicyShelf,
        queue: Queue,
        intake: Area,
        quarantine: Area,
        released: Area,
        renderer: Renderer,
        videos: VideoRenderer,
        signer: Signer,
        pictures: PictureDecoder,
        clock: Clock,
        limits: Limits,
        keep_released: timedelta,
        lease_s: float = LEASE_S,
        parallel: int = 2,
        new_id: Callable[[], UUID] = new_id,
    ) -> None:
        super().__init__(queue, KIND, self._work, end_parked=log.end_parked, lease_s=lease_s, parallel=parallel)
        self._log = log
        self._keeping = keeping
        self._screener = screener
        self._policies = policies
        self._intake = intake
        self._quarantine = quarantine
        self._released = released
        self._renderer = renderer
        self._videos = VideoSteps(log=log, renderer=videos, load=self._quarantined, store=self._put_aside)
        self._signer = signer
        self._pictures = pictures
        self._clock = clock
        self._plan = DecodePlan(specs=(), limits=limits)
        self._keep_released = keep_released
        self._new_id = new_id

    async def _work(self, job: Job) -> None:
        """All steps of one transform, each committed before the next is asked for.

        Under its fence nobody else writes decisions and files, so that what this worker has committed need not be read again. What
        others may write meanwhile (a cancel, a review, another policy) is looked for in the transactions that depend on it, which
        then raise FactsChanged, and everything is read once more before the release.
        """
        async with Desk(self._log, job) as desk, Heeding(partial(self._log.heed, job)) as heeding:
            await self._work_at(desk, heeding, job)

    async def _work_at(self, desk: Desk, heeding: Heeding, job: Job) -> None:
        found, is_fresh, in_vain = await self._look(job), True, 0
        while found is not None:
            committed, pinned, in_force = found
            facts = self._facts(committed, pinned, in_force, desk)
            step = next_step(facts)
            if isinstance(step, gate.Release) and not is_fresh:
                found, is_fresh = await self._look(job, committed), True
                continue
            try:
                if await self._ended(step, committed, pinned, desk, job):
                    return
                performing = self._perform(step, committed, facts, pinned, in_force, desk, job)
                committed = await (performing if isinstance(step, gate.Release) else heeding.over(performing))
                found, is_fresh, in_vain = (committed, pinned, in_force), False, 0
            except FactsChanged:  # nothing was written: look again, once a remembered policy may be the new one
                in_vain += 1
                if in_vain > LOOKS_IN_VAIN:  # what is loaded does not show what the record says: nothing circles for ever
                    raise
                await asyncio.sleep(_AGAIN_S)
                found, is_fresh = await self._look(job), True
            except CannotTransform as unusable:
                await self._end(committed, job, _event(State.FAILED, self._clock(), failure=unusable.failure))
                return
        await park(self._queue, job, "the transform or its policy is not there")

    async def _look(self, job: Job, before: Committed | None = None) -> tuple[Committed, Policy, Policy] | None:
        """What is committed, the policy pinned at acceptance and the one in force; None if any cannot be had, which stops everything.

        The decisions in `before` need not be read again: they never change.
        """
        committed = await self._log.load(job.tenant, job.id, known=() if before is None else before.decisions)
        if committed is None:
            return None
        ref = committed.transform.policy
        pinned = await self._policies.version(job.tenant, ref.name, ref.version)
        in_force = await self._policies.latest(job.tenant, ref.name)
        if pinned is None or in_force is None or pinned.digest != ref.digest:
            return None
        return committed, pinned, in_force

    async def _ended(self, step: gate.Step, committed: Committed, pinned: Policy, desk: Desk, job: Job) -> bool:
        """Commit what ends this job's work, if this step does."""
        ending = _ending(step, self._clock())
        if ending is not None:
            await self._end(committed, job, ending)
        elif isinstance(step, gate.Publish):
            await self._publish(committed, pinned, desk, job)
        elif isinstance(step, gate.Done):
            await park(self._queue, job, "nothing is left to do")
        else:
            return False
        return True

    def _facts(self, committed: Committed, pinned: Policy, in_force: Policy, desk: Desk) -> Facts:
        return facts_of(
            committed,
            pinned=pinned,
            in_force=in_force,
            terms=self._screener.terms(pinned),
            required_now=self._screener.judges(in_force),
            again=desk.again,
        )

    async def _perform(
        self, step: gate.Step, committed: Committed, facts: Facts, pinned: Policy, in_force: Policy, desk: Desk, job: Job
    ) -> Committed:
        """Do the one step that the gate says, commit it, and return what is committed then."""
        match step:
            case gate.Screen() | gate.ScreenSegment():
                decisions = await self._decide(step, committed, facts, pinned, desk, job)
                return replace(committed, decisions=(*committed.decisions, *decisions))
            case gate.Produce() | gate.ProduceSegment() | gate.Assemble() | gate.Sign():
                part = await self._make(step, committed, facts, pinned, desk, job)
                return replace(committed, parts=(*committed.parts, part))
            case gate.Release():
                return replace(committed, release=await self._release(committed, facts, in_force, job))
        raise AssertionError  # not reached: `_ended` has seen to all other steps

    async def _decide(
        self, step: gate.Screen | gate.ScreenSegment, committed: Committed, facts: Facts, pinned: Policy, desk: Desk, job: Job
    ) -> Sequence[Decision]:
        match step:
            case gate.ScreenSegment(number=number):
                await self._log.advance(job, State.TRANSFORMING)
                data = await self._quarantined(committed, committed.segments[number - 1].sha256)
                return [await self._screen_one(Stage.OUTPUT, data, committed.transform, pinned, job)]
            case gate.Screen(stages=(Stage.OUTPUT,)) if committed.is_video:
                return [await self._judge_joined(committed, facts, pinned, desk, job)]
            case gate.Screen(stages=stages):
                return await self._screen(stages, committed, pinned, desk, job)

    async def _make(
        self,
        step: gate.Produce | gate.ProduceSegment | gate.Assemble | gate.Sign,
        committed: Committed,
        facts: Facts,
        pinned: Policy,
        desk: Desk,
        job: Job,
    ) -> Part:
        match step:
            case gate.Produce():
                return await self._produce(committed, desk, job)
            case gate.ProduceSegment(number=number):
                return await self._videos.produce(number, committed, partial(self._inputs, committed, desk), pinned, desk, job)
            case gate.Assemble():
                return await self._videos.assemble(committed, facts, job)
            case gate.Sign():
                return await self._sign(committed, facts, desk, job)

    # --- steps 1 to 5, and 8 ----------------------------------------------------------------------

    async def _screen(self, stages: tuple[Stage, ...], committed: Committed, pinned: Policy, desk: Desk, job: Job) -> list[Decision]:
        """Screen these stages side by side. A fault of ours fails this attempt; the decision that says so is committed all the same."""
        advancing = self._log.advance(job, State.SCREENING_OUTPUT if Stage.OUTPUT in stages else State.SCREENING)
        reading = asyncio.gather(*(self._bytes_of(stage, committed, desk) for stage in stages))
        _, media = await asyncio.gather(advancing, reading)
        keep = None if committed.is_video else desk.pictures
        screenings = (
            self._screen_one(stage, data, committed.transform, pinned, job, keep) for stage, data in zip(stages, media, strict=True)
        )
        outcomes = await asyncio.gather(*screenings, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Decision)]

    async def _screen_one(
        self, stage: Stage, data: bytes, transform: Transform, pinned: Policy, job: Job, pictures: dict[Stage, Picture] | None = None
    ) -> Decision:
        """Screen one stage; an input that is decoded for that goes into `pictures`, to be worked on once both inputs are allowed."""
        keep = None if pictures is None or stage is Stage.OUTPUT else partial(pictures.__setitem__, stage)
        order = self._order(stage, transform, pinned)
        return judged(await self._screener.screen(data, order, job=job, keep_job=True, keep=keep))

    async def _judge_joined(self, committed: Committed, facts: Facts, pinned: Policy, desk: Desk, job: Job) -> Decision:
        """The decision about the whole of a video, on the scores of its segments; that it shows these, the signed file will have to prove."""
        await self._log.advance(job, State.SCREENING_OUTPUT)
        encoded = _part(committed, PartKind.ENCODED)
        data = await self._own(committed, PartKind.ENCODED, desk)
        joined = await self._videos.joined(committed, facts, data)
        if joined.frame_digest != encoded.frame_digest:
            raise CannotJudge("the segments were seen to show something else when they were joined")
        media = Media(sha256=encoded.sha256, size=encoded.size, facts=joined)
        order = self._order(Stage.OUTPUT, committed.transform, pinned)
        return judged(await self._screener.join(media, order, pieces_of(committed, facts), job=job, keep_job=True))

    def _order(self, stage: Stage, transform: Transform, pinned: Policy) -> Order:
        return Order(
            id=self._new_id(),
            tenant=transform.tenant,
            actor=transform.actor,
            request_id=transform.request_id,
            stage=stage,
            policy=pinned,
            reference=transform.reference,
            transform=transform.id,
        )

    async def _bytes_of(self, stage: Stage, committed: Committed, desk: Desk) -> bytes:
        """The media of a stage, which the store checks against its name. Raises CannotTransform if it is gone."""
        if stage is Stage.OUTPUT:
            return await self._own(committed, PartKind.ENCODED, desk)
        sha256 = (committed.transform.source if stage is Stage.SOURCE else committed.transform.target).sha256
        return await desk.file(sha256, lambda: _read(self._intake, _name(committed, sha256)))

    async def _own(self, committed: Committed, kind: PartKind, desk: Desk) -> bytes:
        sha256 = _part(committed, kind).sha256
        return await desk.file(sha256, lambda: self._quarantined(committed, sha256))

    async def _quarantined(self, committed: Committed, sha256: str) -> bytes:
        return await _read(self._quarantine, _name(committed, sha256))

    async def _put_aside(self, committed: Committed, sha256: str, data: bytes) -> None:
        await self._quarantine.put(_name(committed, sha256), data)

    # --- step 7 -----------------------------------------------------------------------------------

    async def _inputs(self, committed: Committed, desk: Desk) -> tuple[bytes, bytes]:
        source, target = await asyncio.gather(self._bytes_of(Stage.SOURCE, committed, desk), self._bytes_of(Stage.TARGET, committed, desk))
        return source, target

    async def _produce(self, committed: Committed, desk: Desk, job: Job) -> Part:
        _, (source, target) = await asyncio.gather(self._log.advance(job, State.TRANSFORMING), self._inputs(committed, desk))
        transform = committed.transform
        with refusals_final():  # such as an animation as a source, which can be judged and not be worked on
            at_hand = (desk.pictures.pop(Stage.SOURCE, None), desk.pictures.pop(Stage.TARGET, None))
            product = await self._renderer.render(source, target, transform.target.type, transform.options, at_hand)
        sha256 = await asyncio.to_thread(sha256_of, product.data)
        await self._put_aside(committed, sha256, product.data)
        part = Part(
            kind=PartKind.ENCODED,
            sha256=sha256,
            size=len(product.data),
            type=product.type,
            width=product.width,
            height=product.height,
            frame_digest=None,
            swapper=product.swapper,
            is_trained=product.is_trained,
            faces_changed=product.faces_changed,
            faces_skipped=product.faces_skipped,
        )
        await self._log.add_part(job, part)
        desk.keep(sha256, product.data)
        return part

    # --- step 9 -----------------------------------------------------------------------------------

    async def _sign(self, committed: Committed, facts: Facts, desk: Desk, job: Job) -> Part:
        """Content credentials into the screened file; what it shows must not change by that. "Required but cannot sign" is a fault."""
        encoded, screened = _part(committed, PartKind.ENCODED), _screened(committed, facts)
        claim = Claim(
            title=committed.transform.id.hex,
            media_type=encoded.type,
            is_trained=encoded.is_trained,
            swapper=encoded.swapper,
        )
        with telemetry.step("sign"):
            signed = await self._signer.sign(await self._own(committed, PartKind.ENCODED, desk), claim)
        sha256 = await asyncio.to_thread(sha256_of, signed)
        part = Part(
            kind=PartKind.SIGNED,
            sha256=sha256,
            size=len(signed),
            type=encoded.type,
            width=encoded.width,
            height=encoded.height,
            frame_digest=screened,
            made_of=encoded.sha256,
            swapper=encoded.swapper,
            is_trained=encoded.is_trained,
            faces_changed=encoded.faces_changed,
            faces_skipped=encoded.faces_skipped,
        )
        await asyncio.gather(self._check_signed(committed, facts, part, signed), self._put_aside(committed, sha256, signed))
        await self._log.add_part(job, part)
        desk.keep(sha256, signed)
        return part

    async def _check_signed(self, committed: Committed, facts: Facts, part: Part, signed: bytes) -> None:
        if committed.is_video:
            await self._videos.check(committed, facts, part, signed)
        elif await self._pictures.frame_digest(signed, self._plan) != part.frame_digest:
            raise CannotJudge("the signed file does not show the frame that was screened")

    # --- step 10 ----------------------------------------------------------------------------------

    async def _release(self, committed: Committed, facts: Facts, in_force: Policy, job: Job) -> Release:
        signed = _part(committed, PartKind.SIGNED)
        now = self._clock()
        release = Release(
            transform=committed.transform.id,
            tenant=committed.transform.tenant,
            signed_sha256=signed.sha256,
            encoded_sha256=_part(committed, PartKind.ENCODED).sha256,
            decisions={stage: judged.decision for stage, judged in facts.judged.items()},
            pinned=committed.transform.policy,
            in_force=PolicyRef(name=in_force.name, version=in_force.version, digest=in_force.digest),
            released_at=now,
            expires_at=now + self._keep_released,
        )
        await self._log.release(job, release)
        return release

    async def _publish(self, committed: Committed, pinned: Policy, desk: Desk, job: Job) -> None:
        signed = _part(committed, PartKind.SIGNED)
        await self._released.put(_name(committed, signed.sha256), await self._own(committed, PartKind.SIGNED, desk))
        try:
            # Whoever is being shown the segments reads them to their end; they go by their age.
            keep = [PartKind.SEGMENT] if pinned.stream == "labelled" else []
            await self._end(committed, job, _event(State.RELEASED, self._clock()), keep=keep)
        except StaleLease:  # it was published by another, and may be withdrawn and purged since: it must not be back for good
            if await self._is_over(job):
                await self._released.delete(_name(committed, signed.sha256))
            raise

    async def _is_over(self, job: Job) -> bool:
        """Whether the release was withdrawn or its time is over: who purges does so after that, and does not come again."""
        now = await self._log.load(job.tenant, job.id)
        return now is not None and now.release is not None and (now.withdrawn or now.release.expires_at <= self._clock())

    # --- ends -------------------------------------------------------------------------------------

    async def _end(self, committed: Committed, job: Job, event: Event, *, keep: Collection[PartKind] = ()) -> None:
        """Commit the end, then forget what nobody needs any more."""
        await self._log.end(job, event)
        failure = event.failure.code if event.failure else None
        _LOG.info("transform ended", transform=str(job.id), state=str(event.state), failure=failure)
        if event.state is not State.HELD:
            await self._forget(committed, keep=tuple(PartKind) if event.state is State.DENIED else keep)

    async def _forget(self, committed: Committed, *, keep: Collection[PartKind]) -> None:
        """Delete what was sent and our own copies; a denied output stays in quarantine until its time is over, and all that is under hold.

        What cannot be deleted now is found by the housekeeper.
        """
        transform = committed.transform
        try:
            if await self._keeping.is_held(transform.tenant, transform.id):
                return
        except RecordUnavailable:
            return
        gone = [(self._intake, original.sha256) for original in (transform.source, transform.target)]
        gone += [(self._quarantine, part.sha256) for part in committed.parts if part.kind not in keep]
        await asyncio.gather(*(_delete(area, _name(committed, sha256)) for area, sha256 in gone))


async def _delete(area: Area, name: str) -> None:
    try:
        await area.delete(name)
    except RecordUnavailable:
        _LOG.warning("bytes not deleted", area=area.name, name=name)


async def _read(area: Area, name: str) -> bytes:
    """Bytes that the store has checked against their name. Raises CannotTransform where they are gone, MediaAltered after an alarm."""
    try:
        data = await area.get(name)
    except MediaAltered:
        telemetry.alarm("media_altered")
        raise
    if data is None:
        raise CannotTransform(_GONE)
    return data


def _ending(step: gate.Step, at: datetime) -> Event | None:
    """The event that a step without work stands for; None for all others."""
    match step:
        case gate.Deny(stage=stage, decision=decision, reasons=reasons):
            return _event(State.DENIED, at, denial=Denial(stage=stage, decision=decision, reasons=reasons))
        case gate.Hold(stage=stage, decision=decision, reasons=reasons):
            return _event(State.HELD, at, held=Denial(stage=stage, decision=decision, reasons=reasons))
        case gate.Fail(failure=failure):
            return _event(State.FAILED, at, failure=failure)
        case gate.Cancel():
            return _event(State.CANCELLED, at)
    return None


def _event(
    state: State, at: datetime, *, denial: Denial | None = None, failure: Failure | None = None, held: Denial | None = None
) -> Event:
    """An event whose number the record gives."""
    return Event(sequence=0, state=state, at=at, denial=denial, failure=failure, held=held)


def _name(committed: Committed, sha256: str) -> str:
    return object_name(committed.transform.tenant, committed.transform.id, sha256)


def _screened(committed: Committed, facts: Facts) -> str:
    """What names all that the output decision, which lets it pass, is about. Raises CannotJudge where not all of it was looked at."""
    decision = facts.judged[Stage.OUTPUT].decision
    media = next(one.media.facts for one in committed.decisions if one.id == decision)
    if media is None or media.frame_digest is None:
        raise CannotJudge("the output was screened without its digest")
    return media.frame_digest


def _part(committed: Committed, kind: PartKind) -> Part:
    """The committed file that the gate's facts speak of."""
    part = committed.part(kind)
    if part is None:
        raise FactsChanged(f"no {kind} part")
    return part
