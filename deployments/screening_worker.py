"""Durable screenings: what outlives the request that asked for it.

A job holds what `Order` needs; its bytes lie in the media store under a name of the job's own, so that two jobs
with the same bytes do not delete each other's. The decision and the job's end are one transaction; only then
are the bytes deleted, or first put into quarantine where they wait for a person. Bytes that nobody deletes because a process died
between the two are found by age.

A screening has one decision and it is final, so an attempt that a fault of ours ends leaves none and is made again. The last attempt
says what was in the way; where not even that could be committed, or the worker died, `end_parked` says later that it was given up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import structlog

from deployments import telemetry
from deployments.job_loop import LEASE_S, JobLoop
from moderation.adapters.areas import object_name
from moderation.adapters.queue import attempts_of
from moderation.canonical import Json
from moderation.decision import Decision, Verdict
from moderation.errors import RecordUnavailable
from moderation.media import Media, Stage
from moderation.policy import Policy
from moderation.ports import DecisionReader, Job, MediaStore, PolicyShelf, Queue
from moderation.screening import Order, Screener

KIND: Final = "screening"
AREA: Final = "intake"
EXHAUSTED: Final = "attempts_exhausted"
BYTES_GONE: Final = "bytes_gone"
_LOG = structlog.get_logger("facegate.screening")


def job_payload(order: Order, media: Media, note: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """What a worker needs to screen as the request would have; `note` is for who asked, see `note_of`."""
    return {
        "sha256": media.sha256,
        "size": media.size,
        "actor": order.actor,
        "request_id": order.request_id,
        "stage": str(order.stage),
        "policy": {"name": order.policy.name, "version": order.policy.version},
        "strict": order.strict,
        "declared_type": order.declared_type,
        "reference": order.reference,
        "note": note,
    }


def media_of(job: Job) -> Media:
    """What a job is about, also when its bytes are gone."""
    payload: Mapping[str, Any] = job.payload
    return Media(sha256=payload["sha256"], size=payload.get("size", 0))  # jobs of former versions do not say it


def note_of(payload: Mapping[str, Json]) -> Mapping[str, Any] | None:
    """The note that was put with a screening, None where there was none."""
    note = payload.get("note")
    return note if isinstance(note, Mapping) else None


def order_of(job: Job, policy: Policy) -> Order:
    """The inverse of `job_payload`; the decision's id is the job's."""
    payload: Mapping[str, Any] = job.payload
    return Order(
        id=job.id,
        tenant=job.tenant,
        actor=payload["actor"],
        request_id=payload["request_id"],
        stage=Stage(payload["stage"]),
        policy=policy,
        strict=payload["strict"],
        declared_type=payload["declared_type"],
        reference=payload["reference"],
    )


class Quarantine(Protocol):
    """Where media lies that waits for a person."""

    async def put(self, name: str, data: bytes) -> None:
        """Store; returns once the bytes are durable. Raises RecordUnavailable."""


Keep: TypeAlias = Callable[[Decision, bytes], Awaitable[None]]
"""Told of each stand-alone decision with the bytes it is about, before anybody is answered. Raises nothing."""


class ScreeningWorker(JobLoop):
    """Takes screenings off the queue, one after the other in each of `parallel` loops."""

    def __init__(
        self,
        *,
        screener: Screener,
        reader: DecisionReader,
        policies: PolicyShelf,
        queue: Queue,
        store: MediaStore,
        keep: Keep,
        lease_s: float = LEASE_S,
        parallel: int = 2,
    ) -> None:
        super().__init__(queue, KIND, self._work, end_parked=self.end_parked, lease_s=lease_s, parallel=parallel)
        self._screener = screener
        self._reader = reader
        self._policies = policies
        self._store = store
        self._keep = keep

    async def end_parked(self) -> int:
        """Commit of every screening that was given up that it could not be judged, and say of how many.

        Raises what kept one of them from its end; that one is parked again once its lease has run out.
        """
        ended = 0
        while (job := await self._queue.take_parked(KIND, self._lease_s)) is not None:
            if not await self._is_decided(job):
                await self._give_up(job, EXHAUSTED)
            ended += 1
        return ended

    async def _work(self, job: Job) -> None:
        if await self._is_decided(job):
            return
        data = await self._store.get(AREA, _name(job))
        if data is None:
            await self._give_up(job, BYTES_GONE)
            return
        is_last = job.attempt >= attempts_of(KIND)
        decision = await self._screener.screen(data, await self._order(job), job=job, faults_final=is_last)
        await self._keep(decision, data)
        await self._done(job)

    async def _is_decided(self, job: Job) -> bool:
        """Whether the process that put the job has decided, its put being in doubt: little is left to do, and is done."""
        decided = await self._reader.get(job.tenant, job.id)
        if decided is None:
            return False
        if decided.verdict is Verdict.REVIEW and (data := await self._store.get(AREA, _name(job))) is not None:
            await self._keep(decided, data)
        await self._queue.done(job)
        await self._done(job)
        return True

    async def _give_up(self, job: Job, why: str) -> None:
        await self._screener.give_up(media_of(job), await self._order(job), why, job=job)
        _LOG.warning("screening given up", decision=str(job.id), reason=why)
        await self._done(job)

    async def _order(self, job: Job) -> Order:
        chosen: Any = job.payload["policy"]
        policy = await self._policies.version(job.tenant, chosen["name"], chosen["version"])
        if policy is None:
            raise RecordUnavailable("a policy that was in force is not there")
        return order_of(job, policy)

    async def _done(self, job: Job) -> None:
        telemetry.job_ended(KIND, "done")
        await forget_bytes(self._store, _name(job))


class HeldMedia:
    """Implements `Keep`: bytes of uploads that wait for a person go to quarantine, under their decision.

    The decision is committed by then. Trouble with the store does not undo it; the reviewer will find the media gone, and an alarm tells why.
    """

    def __init__(self, quarantine: Quarantine, alarm: Callable[[str], None]) -> None:
        self._quarantine = quarantine
        self._alarm = alarm

    async def __call__(self, decision: Decision, data: bytes) -> None:
        """Keep what is held; everything else is not kept."""
        if decision.verdict is not Verdict.REVIEW:
            return
        try:
            await self._quarantine.put(object_name(decision.tenant, decision.id, decision.media.sha256), data)
        except RecordUnavailable:
            self._alarm("held_media_not_kept")
            _LOG.exception("held media not kept", decision=str(decision.id))


def _name(job: Job) -> str:
    return object_name(job.tenant, job.id, media_of(job).sha256)


async def forget_bytes(store: MediaStore, name: str) -> None:
    """Delete the bytes of a finished job; trouble with that does not undo its end."""
    try:
        await store.delete(AREA, name)
    except RecordUnavailable:
        _LOG.warning("intake bytes not deleted", name=name)
