"""Ports without a world behind them: each remembers what it was given and does what it was told, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from uuid_utils.compat import uuid7

from moderation.access import Key
from moderation.adapters.media_store import Aged
from moderation.adapters.queue import ATTEMPTS_OF, MAX_ATTEMPTS
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.decision import Decision, Verdict
from moderation.errors import FactsChanged, Overloaded, StaleLease
from moderation.frames import DecodePlan, FilmFacts, FilmFrame, Input, Picture, Sound
from moderation.media import Facts, MediaKind, Probe, Stage
from moderation.people import Appeal, Closing, Erasure, Hold, Selector
from moderation.policy import Policy
from moderation.ports import Begun, DecisionFilter, Deliver, Job, Keep, KeyUse, QueueState, Recalled, ReuseKey, TransformFilter
from moderation.reports import Report
from moderation.scores import ClassifierVersion, InputScores
from moderation.transform import (
    FINAL,
    Block,
    CatalogueSource,
    Committed,
    Event,
    Failure,
    Part,
    PartKind,
    Progress,
    Release,
    Review,
    Showing,
    State,
    Transform,
)
from tests.builders import NOW, OTHER_TENANT, QUIET, SHOWN, TENANT, make_classifier_version, make_facts, make_film_facts, make_input


@dataclass(kw_only=True)
class FixedClock:
    """Always the same time, until a test moves it."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(kw_only=True)
class ScriptedDecoder:
    """Makes one blank input for every frame of `facts` and every spec of the plan, or raises `fault` after `fault_after` batches."""

    facts: Facts = field(default_factory=make_facts)
    fault: BaseException | None = None
    fault_after: int = 0
    batch: int = 16
    version: str = "scripted/1"
    plans: list[DecodePlan] = field(default_factory=list)

    async def decode(self, data: bytes, plan: DecodePlan, deliver: Deliver, *, keep: Keep | None = None) -> Facts:
        self.plans.append(plan)
        inputs = [
            make_input(frame, spec=spec, time_us=frame * 500_000 if self.facts.frames > 1 else None)
            for frame in range(self.facts.frames)
            for spec in plan.specs
        ]
        for number, start in enumerate(range(0, len(inputs), self.batch)):
            if self.fault is not None and number >= self.fault_after:
                raise self.fault
            await deliver(inputs[start : start + self.batch])
        if self.fault is not None:
            raise self.fault
        if keep is not None and self.facts.kind is MediaKind.IMAGE:
            keep(picture_of(data, self.facts))
        return self.facts


def picture_of(data: bytes, facts: Facts) -> Picture:
    """Noise that these bytes show, and no others do."""
    noise = np.random.default_rng(list(data[-8:])).integers(0, 256, (facts.height, facts.width, 3), np.uint8)
    return Picture.of(noise, facts)


@dataclass(kw_only=True)
class ScriptedPictures:
    """PictureDecoder: says `facts` of every file and shows one picture of noise; raises `fault`, or `faults` by the file's bytes."""

    facts: Facts = field(default_factory=make_facts)
    fault: BaseException | None = None
    faults: dict[bytes, BaseException] = field(default_factory=dict)
    plans: list[DecodePlan] = field(default_factory=list)

    async def picture(self, data: bytes, plan: DecodePlan) -> Picture:
        self._look(data, plan)
        noise = np.random.default_rng(0).integers(0, 256, (self.facts.height, self.facts.width, 3), np.uint8)
        return Picture.of(noise, self.facts)

    async def frame_digest(self, data: bytes, plan: DecodePlan) -> str:
        self._look(data, plan)
        return SHOWN

    async def probe(self, data: bytes, plan: DecodePlan) -> Probe:
        self._look(data, plan)
        return Probe(type=self.facts.type, width=self.facts.width, height=self.facts.height, frames=self.facts.frames)

    def _look(self, data: bytes, plan: DecodePlan) -> None:
        self.plans.append(plan)
        fault = self.faults.get(data, self.fault)
        if fault is not None:
            raise fault


@dataclass(kw_only=True)
class ScriptedFilms:
    """FilmDecoder: shows `facts.frames` frames, frame n all of grey level n, and `heard`; raises `fault` before frame `fault_at`."""

    facts: FilmFacts = field(default_factory=make_film_facts)
    heard: Sound | None = None
    fault: BaseException | None = None
    fault_at: int = 0
    firsts: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def film(self, data: bytes, plan: DecodePlan, *, first: int = 0) -> AsyncIterator[ScriptedFilm]:  # noqa: ARG002
        self.firsts.append(first)
        yield ScriptedFilm(films=self, facts=self.facts, first=first)

    async def digests(self, data: bytes, plan: DecodePlan) -> Sequence[str]:  # noqa: ARG002
        return [f"sha256:{index:064x}" for index in range(self.facts.frames)]

    async def sound(self, data: bytes, plan: DecodePlan) -> Sound | None:  # noqa: ARG002
        return self.heard


@dataclass(kw_only=True)
class ScriptedFilm:
    films: ScriptedFilms
    facts: FilmFacts
    first: int

    async def __aiter__(self) -> AsyncIterator[FilmFrame]:
        about, films = self.facts, self.films
        step = about.duration // about.frames
        for index in range(self.first, about.frames):
            if films.fault is not None and index >= films.fault_at:
                raise films.fault
            pixels = np.full((about.facts.height, about.facts.width, 3), index % 256, np.uint8)
            yield FilmFrame(index=index, pts=about.start + index * step, duration=step, pixels=pixels)


@dataclass(kw_only=True)
class ScriptedClassifier:
    """Gives `answer(input)` or the same `scores` for every input; raises `fault`; waits for `gate`; drops `short` answers."""

    version: ClassifierVersion = field(default_factory=make_classifier_version)
    scores: Mapping[str, int] = field(default_factory=lambda: dict(QUIET))
    answer: Callable[[Input], InputScores] | None = None
    fault: BaseException | None = None
    gate: asyncio.Event | None = None
    short: int = 0
    calls: list[list[int]] = field(default_factory=list)

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        self.calls.append([item.frame for item in inputs])
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        answers = [self.answer(item) if self.answer else InputScores(scores=dict(self.scores)) for item in inputs]
        return answers[: len(answers) - self.short]


@dataclass(kw_only=True)
class DictScoreMemory:
    """Remembers complete scores; `ListDecisionLog` fills it if given one."""

    known: dict[ReuseKey, Recalled] = field(default_factory=dict)
    fault: BaseException | None = None
    asked: list[ReuseKey] = field(default_factory=list)

    async def recall(self, key: ReuseKey) -> Recalled | None:
        self.asked.append(key)
        if self.fault is not None:
            raise self.fault
        return self.known.get(key)

    def remember(self, decision: Decision) -> None:
        if decision.verdict is Verdict.ERROR or decision.media.facts is None or decision.reused_from is not None:
            return
        key = ReuseKey(
            tenant=decision.tenant,
            media_sha256=decision.media.sha256,
            plan_digest=decision.plan_digest,
            decoder=decision.decoder,
            classifiers=tuple(sheet.classifier for sheet in decision.sheets),
        )
        self.known.setdefault(key, Recalled(decision=decision.id, facts=decision.media.facts, sheets=decision.sheets))


@dataclass(kw_only=True)
class ListDecisionLog:
    """DecisionLog and DecisionReader over a list; raises `fault` instead of appending."""

    decisions: list[Decision] = field(default_factory=list)
    memory: DictScoreMemory | None = None
    fault: BaseException | None = None
    queue: ListQueue | None = None

    async def append(self, decision: Decision, *, job: Job | None = None, keep_job: bool = False) -> None:
        if self.fault is not None:
            raise self.fault
        if job is not None and self.queue is not None:
            (self.queue.check if keep_job else self.queue.finish)(job)
        self.decisions.append(decision)
        if self.memory is not None:
            self.memory.remember(decision)

    async def get(self, tenant: UUID, decision: UUID) -> Decision | None:
        return next((d for d in self.decisions if d.id == decision and d.tenant == tenant), None)

    async def find(self, tenant: UUID, wanted: DecisionFilter) -> Sequence[Decision]:
        newest = sorted((d for d in self.decisions if d.tenant == tenant), key=lambda d: d.id, reverse=True)
        return [d for d in newest if _is_wanted(d, wanted)][: wanted.limit + 1]


def _is_wanted(decision: Decision, wanted: DecisionFilter) -> bool:
    exact = {
        "stage": decision.stage,
        "verdict": decision.verdict,
        "policy": decision.policy.name,
        "automated": decision.automated,
        "media_sha256": decision.media.sha256,
        "reference": decision.reference,
        "transform": decision.transform,
    }
    return (
        all(getattr(wanted, name) in (None, value) for name, value in exact.items())
        and (wanted.category is None or any(reason.category == wanted.category for reason in decision.reasons))
        and (wanted.classifier is None or any(sheet.classifier.name == wanted.classifier for sheet in decision.sheets))
        and (wanted.since is None or decision.created_at >= wanted.since)
        and (wanted.until is None or decision.created_at < wanted.until)
        and (wanted.before is None or decision.id < wanted.before)
    )


@dataclass(kw_only=True)
class DictKeyRing:
    """Keys by id; `sigv4` are the recoverable secrets by access key id (the key's id)."""

    keys: dict[str, Key] = field(default_factory=dict)
    sigv4: dict[str, str] = field(default_factory=dict)
    fault: BaseException | None = None

    async def find(self, key_id: str) -> Key | None:
        if self.fault is not None:
            raise self.fault
        return self.keys.get(key_id)

    async def find_sigv4(self, access_key_id: str) -> tuple[Key, str] | None:
        key, secret = await self.find(access_key_id), self.sigv4.get(access_key_id)
        return (key, secret) if key is not None and secret is not None else None


Versions = list[Policy]


@dataclass(kw_only=True)
class DictPolicyShelf:
    """All versions of each tenant's policies, oldest first."""

    shelf: dict[tuple[UUID, str], Versions] = field(default_factory=dict)
    fault: BaseException | None = None

    async def latest(self, tenant: UUID, name: str) -> Policy | None:
        return next(reversed(self._versions(tenant, name)), None)

    async def version(self, tenant: UUID, name: str, version: int) -> Policy | None:
        return next((policy for policy in self._versions(tenant, name) if policy.version == version), None)

    async def versions(self, tenant: UUID, name: str, *, newest: int, limit: int) -> Sequence[Policy]:
        return [policy for policy in reversed(self._versions(tenant, name)) if policy.version <= newest][:limit]

    async def list(self, tenant: UUID) -> Sequence[Policy]:
        return [self._versions(owner, name)[-1] for owner, name in sorted(self.shelf, key=str) if owner == tenant]

    async def publish(self, tenant: UUID, name: str, content: Policy, actor: str) -> Policy:  # noqa: ARG002
        versions = self._versions(tenant, name)
        if versions and versions[-1].digest == content.digest:
            return versions[-1]
        versions.append(replace(content, name=name, version=len(versions) + 1))
        self.shelf[tenant, name] = versions
        return versions[-1]

    def _versions(self, tenant: UUID, name: str) -> Versions:
        if self.fault is not None:
            raise self.fault
        return self.shelf.get((tenant, name), [])


@dataclass(kw_only=True)
class DictIdempotency:
    """Claims by tenant and key; those in `in_intake` are not answerable yet."""

    claims: dict[tuple[UUID, str], tuple[str, UUID]] = field(default_factory=dict)
    in_intake: set[UUID] = field(default_factory=set)

    async def begin(self, tenant: UUID, key: str, fingerprint: str, resource: UUID) -> tuple[Begun, UUID]:
        known, owner = self.claims.setdefault((tenant, key), (fingerprint, resource))
        if owner == resource:
            return Begun.NEW, owner
        if known != fingerprint:
            return Begun.MISMATCH, owner
        return (Begun.IN_PROGRESS if owner in self.in_intake else Begun.KNOWN), owner

    async def forget(self, tenant: UUID, key: str, resource: UUID, *, recorded: bool = False) -> None:  # noqa: ARG002
        if self.claims.get((tenant, key), (None, None))[1] == resource:
            del self.claims[tenant, key]


@dataclass(kw_only=True)
class ListQueue:
    """Jobs in order of arrival. Leases never run out by themselves: `expire` ends one."""

    jobs: dict[UUID, Job] = field(default_factory=dict)
    states: dict[UUID, QueueState] = field(default_factory=dict)
    reasons: dict[UUID, str] = field(default_factory=dict)
    pauses_s: list[float] = field(default_factory=list)
    """For how long jobs were given back."""
    fault: BaseException | None = None
    max_queued: int = 1000

    async def put(self, *, id: UUID, tenant: UUID, kind: str, payload: Mapping[str, Any], leased_for_s: float | None = None) -> Job | None:
        self._trouble()
        mine = [other for other, job in self.jobs.items() if (job.tenant, job.kind) == (tenant, kind)]
        unended = sum(self.states[other] in (QueueState.QUEUED, QueueState.RUNNING) for other in mine)
        if leased_for_s is None and unended >= self.max_queued:
            raise Overloaded(kind, 10.0)
        self.jobs[id] = Job(id=id, tenant=tenant, kind=kind, payload=payload, fence=0, attempt=0)
        self.states[id] = QueueState.QUEUED
        return self._lease(id) if leased_for_s is not None else None

    async def take(self, kinds: Sequence[str], lease_s: float) -> Job | None:  # noqa: ARG002
        self._trouble()
        due = (id_ for id_, job in self.jobs.items() if job.kind in kinds and self.states[id_] is QueueState.QUEUED)
        first = next(due, None)
        return None if first is None else self._lease(first)

    async def take_parked(self, kind: str, lease_s: float) -> Job | None:  # noqa: ARG002
        self._trouble()
        for id, job in self.jobs.items():
            if job.kind == kind and self.states[id] is QueueState.PARKED:
                self.states[id] = QueueState.RUNNING
                self.jobs[id] = replace(job, fence=job.fence + 1)
                return self.jobs[id]
        return None

    async def renew(self, job: Job, lease_s: float) -> bool:  # noqa: ARG002
        self._trouble()
        return self.jobs[job.id].fence == job.fence

    async def fail(self, job: Job, reason: str, *, retry_in_s: float | None) -> QueueState:
        self._trouble()
        self.reasons[job.id] = reason
        most = ATTEMPTS_OF.get(job.kind, MAX_ATTEMPTS)
        self.states[job.id] = QueueState.PARKED if retry_in_s is None or self.jobs[job.id].attempt >= most else QueueState.QUEUED
        return self.states[job.id]

    async def give_back(self, job: Job, *, after_s: float = 0.0) -> None:
        self._trouble()
        self.check(job)
        self.jobs[job.id] = replace(self.jobs[job.id], attempt=job.attempt - 1)
        self.states[job.id] = QueueState.QUEUED
        self.pauses_s.append(after_s)

    async def done(self, job: Job) -> None:
        self._trouble()
        self.finish(job)

    async def state(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> QueueState | None:
        self._trouble()
        return self.states[id] if id in self.jobs and (self.jobs[id].tenant, self.jobs[id].kind) == (tenant, kind) else None

    async def payload(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> Mapping[str, Any] | None:
        return None if await self.state(tenant, id, kind=kind) is None else self.jobs[id].payload

    def expire(self, job_id: UUID) -> None:
        self.states[job_id] = QueueState.QUEUED

    def check(self, job: Job) -> None:
        if self.jobs[job.id].fence != job.fence or self.states[job.id] is not QueueState.RUNNING:
            raise StaleLease(str(job.id))

    def finish(self, job: Job) -> None:
        self.check(job)
        self.states[job.id] = QueueState.DONE

    def _lease(self, job_id: UUID) -> Job:
        job = self.jobs[job_id]
        self.jobs[job_id] = replace(job, fence=job.fence + 1, attempt=job.attempt + 1)
        self.states[job_id] = QueueState.RUNNING
        return self.jobs[job_id]

    def _trouble(self) -> None:
        if self.fault is not None:
            raise self.fault


@dataclass(kw_only=True)
class ListTransformLog:
    """Transforms by id, over the same decisions, queue and policies as everything else; `change` is for tests."""

    log: ListDecisionLog
    queue: ListQueue
    policies: DictPolicyShelf | None = None
    clock: Callable[[], datetime] = field(default_factory=FixedClock)
    known: dict[UUID, Committed] = field(default_factory=dict)
    uses: dict[tuple[UUID, str], tuple[str, UUID]] = field(default_factory=dict)
    reviews: dict[UUID, list[Review]] = field(default_factory=dict)
    """By decision, oldest first; `ListReviewLog` fills it."""
    spoken: list[Review] = field(default_factory=list)
    """The same in the order in which they came."""
    removed_sources: set[UUID] = field(default_factory=set)
    """`ListSourceCatalogue` fills it."""
    showings: list[Showing] = field(default_factory=list)
    fault: BaseException | None = None

    async def accept(self, transform: Transform, *, use: KeyUse | None = None) -> tuple[Begun, UUID]:
        self._trouble()
        if use is not None:
            fingerprint, id = self.uses.setdefault((transform.tenant, use.key), (use.fingerprint, transform.id))
            if id != transform.id:
                return (Begun.KNOWN if fingerprint == use.fingerprint else Begun.MISMATCH), id
        try:
            await self.queue.put(id=transform.id, tenant=transform.tenant, kind="transform", payload={"transform": transform.id.hex})
        except Overloaded:
            if use is not None:
                del self.uses[transform.tenant, use.key]
            raise
        self.known[transform.id] = Committed(transform=transform, events=(Event(sequence=1, state=State.QUEUED, at=self.clock()),))
        return Begun.NEW, transform.id

    async def made_with(self, tenant: UUID, use: KeyUse) -> tuple[Begun, UUID] | None:
        fingerprint, id = self.uses.get((tenant, use.key), (None, None))
        if id is None:
            return None
        return (Begun.KNOWN if fingerprint == use.fingerprint else Begun.MISMATCH), id

    async def load(self, tenant: UUID, id: UUID, *, known: Sequence[Decision] = ()) -> Committed | None:  # noqa: ARG002
        self._trouble()
        found = self.known.get(id)
        if found is None or found.transform.tenant != tenant:
            return None
        decisions = tuple(decision for decision in self.log.decisions if (decision.tenant, decision.transform) == (tenant, id))
        return replace(
            found,
            decisions=decisions,
            reviews={d.id: self.reviews[d.id][-1] for d in decisions if d.id in self.reviews},
            blocks={sha256: block for sha256 in _own(found) for block in self.blocks(tenant, sha256)},
            source_removed=found.transform.catalogue_source in self.removed_sources,
        )

    def blocks(self, tenant: UUID, sha256: str) -> list[Block]:
        """What people block these bytes by: the latest word at each stage."""
        latest: dict[Stage, Block | None] = {}
        decisions = {decision.id: decision for decision in self.log.decisions if decision.tenant == tenant}
        for review in self.spoken:
            about = decisions.get(review.decision)
            if about is not None and about.media.sha256 == sha256:
                block = Block(stage=about.stage, decision=about.id, review=review.id)
                latest[about.stage] = block if review.verdict is Verdict.BLOCK else None
        return [block for block in latest.values() if block is not None]

    async def find(self, tenant: UUID, wanted: TransformFilter) -> Sequence[Committed]:
        found = [await self.load(tenant, id) for id in sorted(self.known, reverse=True)]
        return [
            one
            for one in found
            if one is not None
            and wanted.state in (None, one.state)
            and wanted.reference in (None, one.transform.reference)
            and (wanted.before is None or one.transform.id < wanted.before)
        ][: wanted.limit + 1]

    async def events(self, tenant: UUID, id: UUID, *, after: int = 0) -> Sequence[Event]:
        found = await self.load(tenant, id)
        return [] if found is None else [event for event in found.events if event.sequence > after]

    async def advance(self, job: Job, to: State) -> None:
        if to not in (State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT):
            raise ValueError(to)
        now = await self._held(job)
        if now.cancel_requested and now.release is None:
            raise FactsChanged("cancelled")
        if now.state is not to:
            self._add(job.id, Event(sequence=0, state=to, at=NOW))

    async def add_part(self, job: Job, part: Part) -> None:
        now = await self._held(job)
        if _place(part) in map(_place, now.parts):
            raise StaleLease(part.kind)
        self.change(job.id, parts=tuple(sorted((*now.parts, part), key=_place)))
        if part.span is not None:
            self.queue.jobs[job.id] = replace(self.queue.jobs[job.id], attempt=1)

    async def note_progress(self, job: Job, progress: Progress) -> None:
        now = await self._held(job)
        self.change(job.id, progress=progress)
        if now.cancel_requested:
            raise FactsChanged("cancelled")

    async def heed(self, job: Job) -> None:
        if (await self._held(job)).cancel_requested:
            raise FactsChanged("cancelled")

    async def record_showing(self, showing: Showing) -> None:
        now = await self.load(showing.tenant, showing.transform)
        if now is None or now.cancel_requested or now.withdrawn or now.state in FINAL - {State.RELEASED}:
            raise FactsChanged("ended")
        if now.purged or (now.release is not None and now.release.expires_at <= showing.at):
            raise FactsChanged("its time is over")
        newest = None if self.policies is None else await self.policies.latest(showing.tenant, showing.in_force.name)
        if newest is not None and (newest.version, newest.digest) != (showing.in_force.version, showing.in_force.digest):
            raise FactsChanged("another policy is in force")
        own = {part.sha256 for part in now.parts} | set(_about(now, "").values())
        about = [decision for decision in now.decisions if decision.media.sha256 in own]
        said = {decision.id: now.reviews[decision.id].verdict for decision in about if decision.id in now.reviews}
        asked = [part for part in now.segments if part.span is not None and showing.first <= part.span.number <= showing.last]
        whole = now.part(PartKind.ENCODED)
        pinned = [decision for decision in about if decision.policy.digest == now.transform.policy.digest]
        is_looked_at = any(
            whole is not None and decision.media.sha256 == whole.sha256 and said.get(decision.id) is Verdict.ALLOW for decision in pinned
        )
        passed = {
            decision.media.sha256
            for decision in pinned
            if decision.verdict is Verdict.ALLOW
            or (decision.verdict is Verdict.REVIEW and (is_looked_at or said.get(decision.id) is Verdict.ALLOW))
        }
        is_blocked = bool(now.blocks) or Verdict.BLOCK in said.values() or any(decision.verdict is Verdict.BLOCK for decision in about)
        if is_blocked or len(asked) != showing.last - showing.first + 1 or not passed >= {part.sha256 for part in asked}:
            raise FactsChanged("not let pass")
        self.showings.append(showing)

    async def release(self, job: Job, release: Release) -> None:
        now = await self._held(job)
        if now.release is not None:
            if replace(now.release, released_at=NOW, expires_at=NOW) != replace(release, released_at=NOW, expires_at=NOW):
                raise StaleLease("another release")
            return
        newest = None if self.policies is None else await self.policies.latest(job.tenant, release.in_force.name)
        is_outdated = newest is not None and (newest.version, newest.digest) != (release.in_force.version, release.in_force.digest)
        about = _about(now, release.encoded_sha256)
        is_blocked = any(
            now.reviews[decision.id].verdict is Verdict.BLOCK
            for decision in now.decisions
            if decision.id in now.reviews
            and (about.get(decision.stage) == decision.media.sha256 or decision.media.sha256 in {part.sha256 for part in now.segments})
        )
        if is_outdated or is_blocked or now.blocks or now.source_removed or now.cancel_requested:
            raise FactsChanged(str(job.id))
        if not _is_backed(release, now):
            raise ValueError("the record does not hold what this release says")
        self.change(job.id, release=release)

    async def end(self, job: Job, event: Event) -> None:
        now = await self._held(job)
        is_final, is_released = event.state in FINAL, now.release is not None
        if not is_final and event.state is not State.HELD:
            raise ValueError(event.state)
        if (event.state is State.RELEASED and not is_released) or (event.state is State.CANCELLED and not now.cancel_requested):
            raise ValueError(event.state)
        if is_released and event.state not in (State.RELEASED, State.FAILED):
            raise ValueError(event.state)
        is_blocked = any(review.verdict is Verdict.BLOCK for review in now.reviews.values())
        if event.held is not None and (event.held.decision in self.reviews or is_blocked or now.cancel_requested):
            raise FactsChanged(str(job.id))
        self.queue.finish(job)
        if is_final:
            self.change(job.id, progress=None)
        held = now.events[-1].held
        if held is None or event.held is None or held.decision != event.held.decision:
            self._add(job.id, event)
        await self._call(job.id)

    async def request_cancel(self, tenant: UUID, id: UUID, actor: str) -> State | None:  # noqa: ARG002
        found = await self.load(tenant, id)
        if found is None:
            return None
        if found.state not in FINAL and found.release is None and not found.cancel_requested:
            self.change(id, cancel_requested=True)
            self.wake(id)
        return found.state

    async def end_parked(self) -> int:
        parked = [id for id in self.known if self.queue.states[id] is QueueState.PARKED]
        ended = [id for id in parked if self.known[id].release is None]
        for id in parked:
            self.wake(id)
        for id in ended:
            self.queue.states[id] = QueueState.DONE
            failure = Failure(code="attempts_exhausted", message="It was tried several times.", retryable=True)
            is_cancelled = self.known[id].cancel_requested
            end = {"state": State.CANCELLED} if is_cancelled else {"state": State.FAILED, "failure": failure}
            self._add(id, Event(sequence=0, at=NOW, **end))
            await self._call(id)
        return len(ended)

    async def expired(self, limit: int = 100, *, after: UUID | None = None) -> Sequence[Release]:
        self._trouble()
        now = self.clock()
        known = (self.known[id] for id in sorted(self.known) if after is None or id > after)
        ended = (one for one in known if one.state in FINAL and not one.purged)
        releases = ((one, one.release) for one in ended if one.release is not None)
        return [release for one, release in releases if one.withdrawn or release.expires_at <= now][:limit]

    async def record_purge(self, tenant: UUID, transform: UUID, result: Mapping[str, Any]) -> None:  # noqa: ARG002
        if await self.load(tenant, transform) is not None:
            self.change(transform, purged=True)

    def change(self, id: UUID, **changes: Any) -> None:
        self.known[id] = replace(self.known[id], **changes)

    def wake(self, id: UUID) -> None:
        if self.queue.states[id] is not QueueState.RUNNING:
            self.queue.states[id] = QueueState.QUEUED
            self.queue.jobs[id] = replace(self.queue.jobs[id], attempt=0)

    async def _held(self, job: Job) -> Committed:
        self.queue.check(job)
        found = await self.load(job.tenant, job.id)
        if found is None:
            raise StaleLease(str(job.id))
        return found

    def _add(self, id: UUID, event: Event) -> None:
        events = self.known[id].events
        self.change(id, events=(*events, replace(event, sequence=len(events) + 1, at=self.clock())))

    async def _call(self, id: UUID) -> None:
        """The call to the callback URL, at a final event."""
        now = self.known[id]
        if now.transform.callback_url is not None and now.state in FINAL:
            payload = {"transform": id.hex, "sequence": now.events[-1].sequence}
            await self.queue.put(id=uuid7(), tenant=now.transform.tenant, kind="webhook", payload=payload)

    def _trouble(self) -> None:
        if self.fault is not None:
            raise self.fault


def _place(part: Part) -> tuple[str, int]:
    return part.kind, 0 if part.span is None else part.span.number


def _own(now: Committed) -> set[str]:
    """The bytes that a transform works with."""
    return {now.transform.source.sha256, now.transform.target.sha256, *(part.sha256 for part in now.parts)}


def _about(now: Committed, encoded: str) -> dict[Stage, str]:
    """Which bytes each stage is about."""
    return {Stage.SOURCE: now.transform.source.sha256, Stage.TARGET: now.transform.target.sha256, Stage.OUTPUT: encoded}


def _is_backed(release: Release, now: Committed) -> bool:
    """Whether parts and decisions say what the release says."""
    encoded, signed = now.part(PartKind.ENCODED), now.part(PartKind.SIGNED)
    by_id: dict[UUID | None, Decision] = {decision.id: decision for decision in now.decisions}
    output = by_id.get(release.decisions.get(Stage.OUTPUT))
    screened = output.media.facts.frame_digest if output is not None and output.media.facts is not None else None
    if encoded is None or signed is None or screened is None or (signed.made_of, signed.frame_digest) != (encoded.sha256, screened):
        return False
    about = _about(now, encoded.sha256)
    if now.is_video and not any(part.span is not None and part.span.is_last for part in now.segments):
        return False
    allowed = {
        decision.media.sha256
        for decision in now.decisions
        if decision.stage is Stage.OUTPUT
        and decision.policy.digest == release.pinned.digest
        and (
            decision.verdict is Verdict.ALLOW
            or (decision.verdict is Verdict.REVIEW and {decision.id, release.decisions[Stage.OUTPUT]} & now.reviews.keys())
        )
    }
    if not allowed >= {part.sha256 for part in now.segments}:
        return False
    named = {stage: by_id.get(release.decisions.get(stage)) for stage in about}
    return (release.signed_sha256, release.encoded_sha256, release.pinned) == (signed.sha256, encoded.sha256, now.transform.policy) and all(
        decision is not None
        and (decision.stage, decision.media.sha256, decision.policy.digest) == (stage, about[stage], release.pinned.digest)
        and (decision.verdict is Verdict.ALLOW or (decision.verdict is Verdict.REVIEW and decision.id in now.reviews))
        for stage, decision in named.items()
    )


@dataclass(kw_only=True)
class ListReviewLog:
    """Reviews of the decisions in `log`, kept where `transforms` sees them."""

    log: ListDecisionLog
    transforms: ListTransformLog
    views: list[dict[str, Any]] = field(default_factory=list)
    fault: BaseException | None = None

    async def add(self, review: Review, *, to_wake: UUID | None = None) -> None:
        self._trouble()
        decision = await self.log.get(review.tenant, review.decision)
        if decision is None or to_wake not in (None, decision.transform):
            raise ValueError(review.decision)
        if await self.get(review.tenant, review.id) == review:
            return
        self.transforms.reviews.setdefault(review.decision, []).append(review)
        self.transforms.spoken.append(review)
        now = None if decision.transform is None else self.transforms.known.get(decision.transform)
        if review.verdict is Verdict.BLOCK:
            for one in [one for one in self.transforms.known.values() if one.release is not None]:
                if one is now or (one.transform.tenant == review.tenant and decision.media.sha256 in _own(one)):
                    self.transforms.change(one.transform.id, withdrawn=True)
        if now is not None and now.state is State.HELD:
            self.transforms.wake(now.transform.id)

    async def get(self, tenant: UUID, id: UUID) -> Review | None:
        return next((one for every in self.transforms.reviews.values() for one in every if (one.id, one.tenant) == (id, tenant)), None)

    async def latest(self, tenant: UUID, decisions: Sequence[UUID]) -> Mapping[UUID, Review]:
        self._trouble()
        found = {id: self.transforms.reviews[id][-1] for id in decisions if id in self.transforms.reviews}
        return {id: review for id, review in found.items() if review.tenant == tenant}

    async def waiting(self, tenant: UUID, *, before: UUID | None, limit: int) -> Sequence[Decision]:
        held = {one.events[-1].held.decision for one in self.transforms.known.values() if one.events[-1].held is not None}
        segments = {part.sha256 for one in self.transforms.known.values() for part in one.segments}
        found = [
            decision
            for decision in self.log.decisions
            if decision.tenant == tenant
            and (decision.id in held or (decision.verdict is Verdict.REVIEW and decision.media.sha256 not in segments))
            and decision.id not in self.transforms.reviews
            and (before is None or decision.id < before)
        ]
        return sorted(found, key=lambda decision: decision.id, reverse=True)[: limit + 1]

    async def viewed(self, **view: Any) -> None:
        self._trouble()
        self.views.append(view)

    def _trouble(self) -> None:
        if self.fault is not None:
            raise self.fault


@dataclass(kw_only=True)
class ListAppealLog:
    """Appeals by id, with how many reviews of the decision there were before; whose own one is, only the real one knows."""

    log: ListDecisionLog
    reviews: ListReviewLog
    filed: dict[UUID, tuple[Appeal, int]] = field(default_factory=dict)

    async def file(self, *, id: UUID, tenant: UUID, decision: UUID, reason: str, actor: str, subject: str | None, at: datetime) -> Appeal:
        found = await self.log.get(tenant, decision)
        if found is None:
            raise ValueError(decision)
        known = await self.find(tenant, decision=decision, is_open=True)
        if known:
            return known[0]
        said = self._said(decision)
        stood = said[-1].verdict if said else found.verdict
        if stood not in (Verdict.ALLOW, Verdict.BLOCK):
            raise ValueError(stood)
        about: dict[str, Any] = {"decision": decision, "stood": stood, "review": said[-1].id if said else None, "reason": reason}
        self.filed[id] = (Appeal(id=id, tenant=tenant, actor=actor, subject=subject, at=at, **about), len(said))
        return self.filed[id][0]

    async def get(self, tenant: UUID, id: UUID) -> Appeal | None:
        found = self.filed.get(id)
        if found is None or found[0].tenant != tenant:
            return None
        later = self._said(found[0].decision)[found[1] :]
        closing = Closing(review=later[0].id, verdict=later[0].verdict, at=later[0].at) if later else None
        return replace(found[0], closing=closing)

    async def find(
        self, tenant: UUID, *, decision: UUID | None = None, is_open: bool | None = None, before: UUID | None = None, limit: int = 50
    ) -> Sequence[Appeal]:
        found = [await self.get(tenant, id) for id in sorted(self.filed, reverse=True)]
        return [
            one
            for one in found
            if one is not None
            and decision in (None, one.decision)
            and is_open in (None, one.closing is None)
            and (before is None or one.id < before)
        ][: limit + 1]

    def _said(self, decision: UUID) -> Sequence[Review]:
        return self.reviews.transforms.reviews.get(decision, [])


@dataclass(kw_only=True)
class ListHoldLog:
    """Holds by id."""

    holds: dict[UUID, Hold] = field(default_factory=dict)

    async def place(self, hold: Hold) -> None:
        self.holds.setdefault(hold.id, hold)

    async def release(self, tenant: UUID, id: UUID, *, reason: str, actor: str, at: datetime) -> Hold | None:  # noqa: ARG002
        hold = await self.get(tenant, id)
        if hold is not None and hold.released_at is None:
            self.holds[id] = replace(hold, released_at=at, release_reason=reason)
        return await self.get(tenant, id)

    async def get(self, tenant: UUID, id: UUID) -> Hold | None:
        hold = self.holds.get(id)
        return hold if hold is not None and hold.tenant == tenant else None

    async def find(self, tenant: UUID, *, in_force: bool | None = None, before: UUID | None = None, limit: int = 50) -> Sequence[Hold]:
        newest = [self.holds[id] for id in sorted(self.holds, reverse=True) if before is None or id < before]
        return [one for one in newest if one.tenant == tenant and in_force in (None, one.released_at is None)][: limit + 1]


@dataclass(kw_only=True)
class ListErasureLog:
    """Erasures by id; none finds anything."""

    erasures: dict[UUID, Erasure] = field(default_factory=dict)

    async def erase(self, *, id: UUID, tenant: UUID, selector: Selector, text: str, actor: str, at: datetime) -> Erasure:  # noqa: ARG002
        counts: dict[str, Any] = {"erased": 0, "held": 0, "in_progress": 0, "holds": (), "is_complete": True}
        return self.erasures.setdefault(id, Erasure(id=id, tenant=tenant, selector=selector, actor=actor, at=at, **counts))

    async def get(self, tenant: UUID, id: UUID) -> Erasure | None:
        found = self.erasures.get(id)
        return found if found is not None and found.tenant == tenant else None

    async def find(self, tenant: UUID, *, before: UUID | None = None, limit: int = 50) -> Sequence[Erasure]:
        newest = [self.erasures[id] for id in sorted(self.erasures, reverse=True) if before is None or id < before]
        return [one for one in newest if one.tenant == tenant][: limit + 1]


@dataclass(kw_only=True)
class ListSourceCatalogue:
    """Approved faces by id, over the decisions and reviews that they rest on."""

    log: ListDecisionLog
    reviews: ListReviewLog
    entries: dict[UUID, CatalogueSource] = field(default_factory=dict)
    removed: set[UUID] = field(default_factory=set)
    fault: BaseException | None = None

    async def add(self, source: CatalogueSource) -> CatalogueSource:
        known = await self.find(source.tenant, source.sha256)
        decision = await self.log.get(source.tenant, source.decision)
        if known is not None:
            return known
        if decision is None or decision.media.sha256 != source.sha256 or decision.stage is not Stage.SOURCE or source.id in self.removed:
            raise ValueError(source.decision)
        said = self._said(decision.id) or decision.verdict
        is_allowed = said is Verdict.ALLOW or decision.verdict is Verdict.ALLOW
        if not is_allowed or decision.verdict not in (Verdict.ALLOW, Verdict.REVIEW) or self._is_blocked(source):
            raise ValueError(source.decision)
        self.entries[source.id] = source
        return source

    async def remove(self, tenant: UUID, id: UUID, actor: str) -> CatalogueSource | None:  # noqa: ARG002
        source = self.entries.get(id)
        if source is None or source.tenant != tenant:
            return None
        del self.entries[id]
        self.removed.add(id)
        self.reviews.transforms.removed_sources.add(id)
        return source

    async def find(self, tenant: UUID, sha256: str) -> CatalogueSource | None:
        return next((source for source in await self.list(tenant) if source.sha256 == sha256), None)

    async def get(self, tenant: UUID, id: UUID) -> CatalogueSource | None:
        return next((source for source in await self.list(tenant) if source.id == id), None)

    async def list(self, tenant: UUID, *, before: UUID | None = None, limit: int = 50) -> Sequence[CatalogueSource]:
        if self.fault is not None:
            raise self.fault
        newest = sorted((source for source in self.entries.values() if source.tenant == tenant), key=lambda source: source.id, reverse=True)
        live = [source for source in newest if not self._is_blocked(source)]
        return [source for source in live if before is None or source.id < before][: limit + 1]

    def _is_blocked(self, source: CatalogueSource) -> bool:
        return bool(self.reviews.transforms.blocks(source.tenant, source.sha256))

    def _said(self, decision: UUID) -> Verdict | None:
        """What a person has said about a decision last."""
        every = self.reviews.transforms.reviews.get(decision)
        return every[-1].verdict if every else None


@dataclass(kw_only=True)
class DictMediaStore:
    """Bytes by (area, name)."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    fault: BaseException | None = None

    async def put(self, area: str, name: str, data: bytes) -> None:
        self._trouble()
        self.files[area, name] = bytes(data)

    async def get(self, area: str, name: str) -> bytes | None:
        self._trouble()
        return self.files.get((area, name))

    async def size(self, area: str, name: str) -> int | None:
        self._trouble()
        data = self.files.get((area, name))
        return None if data is None else len(data)

    async def piece(self, area: str, name: str, start: int, stop: int) -> bytes | None:
        self._trouble()
        data = self.files.get((area, name))
        return None if data is None else data[start:stop]

    async def delete(self, area: str, name: str) -> None:
        self._trouble()
        self.files.pop((area, name), None)

    async def aged(self, area: str, *, older_than_s: float) -> AsyncIterator[Sequence[Aged]]:
        """What lies in a dictionary does not age."""
        self._trouble()
        yield [Aged(name=name, age_s=0.0) for at, name in self.files if at == area and older_than_s < 0]

    async def ping(self) -> None:
        self._trouble()

    def _trouble(self) -> None:
        if self.fault is not None:
            raise self.fault


class EmptyReports:
    """ReportReader of a record in which nothing has happened; the catalogue is the real one."""

    @property
    def catalogue(self) -> Mapping[str, Report]:
        return {name: statement.report for name, statement in STATEMENTS.items()}

    async def tenants(self, only: UUID | None) -> Sequence[tuple[UUID, str]]:
        known = [(TENANT, "tenant"), (OTHER_TENANT, "other")]
        return [(id, name) for id, name in known if only in (None, id)]

    async def check(self, *_: object) -> None:
        return

    async def page(
        self,
        name: str,  # noqa: ARG002
        tenant: UUID,  # noqa: ARG002
        values: Mapping[str, Any],  # noqa: ARG002
        *,
        after: Sequence[str] | None,  # noqa: ARG002
        limit: int,  # noqa: ARG002
    ) -> Sequence[Sequence[Any]]:
        return []

    async def first_page(
        self, name: str, tenant: UUID, values: Mapping[str, Any], *, limit: int
    ) -> tuple[Sequence[Sequence[Any]], Mapping[str, int]]:
        return await self.page(name, tenant, values, after=None, limit=limit), await self.totals(name)

    async def totals(self, name: str, *_: object) -> Mapping[str, int]:
        return dict.fromkeys(self.catalogue[name].totals, 0)

    async def stream(self, *_: object) -> AsyncIterator[Sequence[Sequence[Any]]]:
        none: Sequence[Sequence[Sequence[Any]]] = ()
        for batch in none:
            yield batch
