"""Durable screenings: what outlives the request that asked for it.

A job holds what `Order` needs; its bytes lie in the media store under a name of the job's own, so that two jobs
with the same bytes do not delete each other's. The decision and the job's end are one transaction; only then
are the bytes deleted. Bytes that nobody deletes because a process died between the two are found by age.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

import structlog

from moderation.adapters.queue import backoff_s
from moderation.canonical import Json
from moderation.errors import ModerationError, Overloaded, RecordUnavailable, StaleLease
from moderation.media import Stage
from moderation.policy import Policy
from moderation.ports import DecisionReader, Job, MediaStore, PolicyShelf, Queue, QueueState
from moderation.screening import Order, Screener

KIND: Final = "screening"
AREA: Final = "intake"
LEASE_S: Final = 30.0
_IDLE_S: Final = 0.5
_TROUBLE_S: Final = 2.0
_LOG = structlog.get_logger("facegate.screening")


def intake_name(tenant: UUID, job: UUID, sha256: str) -> str:
    """Where a job's bytes lie; ends in their SHA-256, which the store checks on reading."""
    return f"{tenant.hex}/{job.hex}/{sha256}"


def job_payload(order: Order, sha256: str) -> dict[str, Json]:
    """What a worker needs to screen as the request would have."""
    return {
        "sha256": sha256,
        "actor": order.actor,
        "request_id": order.request_id,
        "stage": str(order.stage),
        "policy": {"name": order.policy.name, "version": order.policy.version},
        "strict": order.strict,
        "declared_type": order.declared_type,
        "reference": order.reference,
    }


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


@contextlib.asynccontextmanager
async def kept_lease(queue: Queue, job: Job, lease_s: float) -> AsyncIterator[None]:
    """Renew while inside. Losing it stops nothing: the commit's fence decides whose result counts."""
    renewing = asyncio.create_task(_renew(queue, job, lease_s))
    try:
        yield
    finally:
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing


async def _renew(queue: Queue, job: Job, lease_s: float) -> None:
    while True:
        await asyncio.sleep(lease_s / 3)
        try:
            if not await queue.renew(job, lease_s):
                return
        except RecordUnavailable:
            _LOG.warning("lease not renewed", job=str(job.id))


async def give_up(queue: Queue, job: Job, error: Exception) -> QueueState | None:
    """End a failed attempt. None if even that cannot be written: the lease then runs out by itself."""
    retry_in_s = max(backoff_s(job.attempt), error.retry_after_s if isinstance(error, Overloaded) else 0.0)
    try:
        return await queue.fail(job, type(error).__name__, retry_in_s=retry_in_s)
    except ModerationError:
        return None


class ScreeningWorker:
    """Takes screenings off the queue, one after the other in each of `parallel` loops."""

    def __init__(
        self,
        *,
        screener: Screener,
        reader: DecisionReader,
        policies: PolicyShelf,
        queue: Queue,
        store: MediaStore,
        lease_s: float = LEASE_S,
        parallel: int = 2,
    ) -> None:
        self._screener = screener
        self._reader = reader
        self._policies = policies
        self._queue = queue
        self._store = store
        self._lease_s = lease_s
        self._parallel = parallel

    async def run(self) -> None:
        """Work until cancelled. A job that is being done when that happens is taken by another after its lease."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._parallel):
                group.create_task(self._loop())

    async def run_once(self) -> bool:
        """Take one job and bring it to an end of this attempt; False if none is due. Raises RecordUnavailable on taking."""
        job = await self._queue.take((KIND,), self._lease_s)
        if job is None:
            return False
        try:
            async with kept_lease(self._queue, job, self._lease_s):
                await self._work(job)
        except StaleLease:
            _LOG.info("job taken over", job=str(job.id))
        except Exception as error:  # noqa: BLE001  # one bad job must not end the loop
            state = await give_up(self._queue, job, error)
            _LOG.warning("attempt failed", job=str(job.id), attempt=job.attempt, state=state, error=type(error).__name__)
        return True

    async def _loop(self) -> None:
        while True:
            try:
                worked = await self.run_once()
            except RecordUnavailable:
                _LOG.warning("queue unavailable")
                await asyncio.sleep(_TROUBLE_S)
                continue
            if not worked:
                await asyncio.sleep(_IDLE_S)

    async def _work(self, job: Job) -> None:
        name = intake_name(job.tenant, job.id, str(job.payload["sha256"]))
        if await self._reader.get(job.tenant, job.id) is not None:
            # The commit of the process that put the job is known, its put was in doubt: there is nothing left to do.
            await self._park(job, "already decided")
        else:
            chosen: Any = job.payload["policy"]
            policy = await self._policies.version(job.tenant, chosen["name"], chosen["version"])
            data = await self._store.get(AREA, name)
            if policy is None or data is None:
                await self._park(job, "the bytes are gone" if policy else "the policy is gone")
                return
            await self._screener.screen(data, order_of(job, policy), job=job)
        await forget_bytes(self._store, name)

    async def _park(self, job: Job, reason: str) -> None:
        await self._queue.fail(job, reason, retry_in_s=None)
        _LOG.warning("job parked", job=str(job.id), reason=reason)


async def forget_bytes(store: MediaStore, name: str) -> None:
    """Delete the bytes of a finished job; trouble with that does not undo its end."""
    try:
        await store.delete(AREA, name)
    except RecordUnavailable:
        _LOG.warning("intake bytes not deleted", name=name)
