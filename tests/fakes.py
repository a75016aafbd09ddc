"""Ports without a world behind them: each remembers what it was given and does what it was told, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from moderation.access import Key
from moderation.decision import Decision, Verdict
from moderation.errors import StaleLease
from moderation.frames import DecodePlan, Input
from moderation.media import Facts
from moderation.policy import Policy
from moderation.ports import Begun, DecisionFilter, Job, QueueState, Recalled, ReuseKey
from moderation.scores import ClassifierVersion, InputScores
from tests.builders import NOW, QUIET, make_classifier_version, make_facts, make_input


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

    async def decode(self, data: bytes, plan: DecodePlan, deliver: Callable[[Sequence[Input]], Awaitable[None]]) -> Facts:  # noqa: ARG002
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
        return self.facts


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


@dataclass(kw_only=True)
class DictPolicyShelf:
    """All versions of each tenant's policies, oldest first."""

    shelf: dict[tuple[UUID, str], list[Policy]] = field(default_factory=dict)
    fault: BaseException | None = None

    async def latest(self, tenant: UUID, name: str) -> Policy | None:
        return next(reversed(self._versions(tenant, name)), None)

    async def version(self, tenant: UUID, name: str, version: int) -> Policy | None:
        return next((policy for policy in self._versions(tenant, name) if policy.version == version), None)

    async def list(self, tenant: UUID) -> Sequence[Policy]:
        return [self._versions(owner, name)[-1] for owner, name in sorted(self.shelf, key=str) if owner == tenant]

    async def publish(self, tenant: UUID, name: str, content: Policy, actor: str) -> Policy:  # noqa: ARG002
        versions = self._versions(tenant, name)
        if versions and versions[-1].digest == content.digest:
            return versions[-1]
        versions.append(replace(content, name=name, version=len(versions) + 1))
        self.shelf[tenant, name] = versions
        return versions[-1]

    def _versions(self, tenant: UUID, name: str) -> list[Policy]:
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
    fault: BaseException | None = None

    async def put(self, *, id: UUID, tenant: UUID, kind: str, payload: Mapping[str, Any], leased_for_s: float | None = None) -> Job | None:
        self._trouble()
        self.jobs[id] = Job(id=id, tenant=tenant, kind=kind, payload=payload, fence=0, attempt=0)
        self.states[id] = QueueState.QUEUED
        return self._lease(id) if leased_for_s is not None else None

    async def take(self, kinds: Sequence[str], lease_s: float) -> Job | None:  # noqa: ARG002
        self._trouble()
        due = (id_ for id_, job in self.jobs.items() if job.kind in kinds and self.states[id_] is QueueState.QUEUED)
        first = next(due, None)
        return None if first is None else self._lease(first)

    async def renew(self, job: Job, lease_s: float) -> bool:  # noqa: ARG002
        self._trouble()
        return self.jobs[job.id].fence == job.fence

    async def fail(self, job: Job, reason: str, *, retry_in_s: float | None) -> QueueState:
        self._trouble()
        self.reasons[job.id] = reason
        self.states[job.id] = QueueState.PARKED if retry_in_s is None or job.attempt >= 3 else QueueState.QUEUED
        return self.states[job.id]

    async def state(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> QueueState | None:
        self._trouble()
        return self.states[id] if id in self.jobs and (self.jobs[id].tenant, self.jobs[id].kind) == (tenant, kind) else None

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

    async def delete(self, area: str, name: str) -> None:
        self._trouble()
        self.files.pop((area, name), None)

    def _trouble(self) -> None:
        if self.fault is not None:
            raise self.fault
