"""Durable screenings: what outlives the request that asked for it.

A job holds what `Order` needs; its bytes lie in the media store under a name of the job's own, so that two jobs
with the same bytes do not delete each other's. The decision and the job's end are one transaction; only then
are the bytes deleted, or first put into quarantine where they wait for a person. Bytes that nobody deletes because a process died
between the two are found by age.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import structlog

from deployments import telemetry
from deployments.job_loop import LEASE_S, JobLoop, park
from moderation.adapters.areas import object_name
from moderation.canonical import Json
from moderation.decision import Decision, Verdict
from moderation.errors import RecordUnavailable
from moderation.media import Stage
from moderation.policy import Policy
from moderation.ports import DecisionReader, Job, MediaStore, PolicyShelf, Queue
from moderation.screening import Order, Screener

KIND: Final = "screening"
AREA: Final = "intake"
_LOG = structlog.get_logger("facegate.screening")


def job_payload(order: Order, sha256: str, note: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """What a worker needs to screen as the request would have; `note` is for who asked, see `note_of`."""
    return {
        "sha256": sha256,
        "actor": order.actor,
        "request_id": order.request_id,
        "stage": str(order.stage),
        "policy": {"name": order.policy.name, "version": order.policy.version},
        "strict": order.strict,
        "declared_type": order.declared_type,
        "reference": order.reference,
        "note": note,
    }


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
        super().__init__(queue, KIND, self._work, lease_s=lease_s, parallel=parallel)
        self._screener = screener
        self._reader = reader
        self._policies = policies
        self._store = store
        self._keep = keep

    async def _work(self, job: Job) -> None:
        name = object_name(job.tenant, job.id, str(job.payload["sha256"]))
        decided = await self._reader.get(job.tenant, job.id)
        if decided is not None:
            # The commit of the process that put the job is known, its put was in doubt: little is left to do.
            if decided.verdict is Verdict.REVIEW and (data := await self._store.get(AREA, name)) is not None:
                await self._keep(decided, data)
            await park(self._queue, job, "already decided")
        else:
            chosen: Any = job.payload["policy"]
            policy = await self._policies.version(job.tenant, chosen["name"], chosen["version"])
            data = await self._store.get(AREA, name)
            if policy is None or data is None:
                await park(self._queue, job, "the bytes are gone" if policy else "the policy is gone")
                return
            await self._keep(await self._screener.screen(data, order_of(job, policy), job=job), data)
            telemetry.job_ended(KIND, "done")
        await forget_bytes(self._store, name)


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


async def forget_bytes(store: MediaStore, name: str) -> None:
    """Delete the bytes of a finished job; trouble with that does not undo its end."""
    try:
        await store.delete(AREA, name)
    except RecordUnavailable:
        _LOG.warning("intake bytes not deleted", name=name)
