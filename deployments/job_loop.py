"""Durable work, taken off the queue: leases, renewals, failed attempts. What the work is, is its handler's business.

An attempt for which there was no room (Overloaded) is none: the job comes back later, each time after a longer pause of up to half
a minute. Only after about an hour of that do such attempts count, so that nothing circles for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog

from deployments import telemetry
from moderation.adapters.queue import backoff_s
from moderation.errors import ModerationError, Overloaded, RecordUnavailable, StaleLease
from moderation.ports import Job, Queue, QueueState

LEASE_S: Final = 30.0
PARKED_EVERY_S: Final = 2.0
_IDLE_S: Final = 0.5
_TROUBLE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 30.0
GIVEN_BACK_AT_MOST: Final = 120
"""Leases of one job that may end for want of room, or otherwise uncounted; then an attempt counts whatever it ends by."""
_LOG = structlog.get_logger("facegate.jobs")

Handler = Callable[[Job], Awaitable[None]]
"""Does one job to its end, which it commits itself. What it raises fails the attempt; StaleLease means that another has taken over."""


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
    """End a failed attempt, or give it back where there was no room. None if even that cannot be written: the lease then runs out by itself."""
    state, uncounted = None, job.fence - job.attempt
    with contextlib.suppress(ModerationError):
        if isinstance(error, Overloaded) and uncounted < GIVEN_BACK_AT_MOST:
            pause_s = max(error.retry_after_s, backoff_s(uncounted + 1, most_s=_LONGEST_PAUSE_S))
            await queue.give_back(job, after_s=pause_s)
            state, end = QueueState.QUEUED, "given_back"
        else:
            state = await queue.fail(job, type(error).__name__, retry_in_s=backoff_s(job.attempt))
            end = "parked" if state is QueueState.PARKED else "failed"
        telemetry.job_ended(job.kind, end)
    _LOG.warning("attempt failed", kind=job.kind, job=str(job.id), attempt=job.attempt, state=state, error=type(error).__name__)
    return state


async def park(queue: Queue, job: Job, reason: str) -> None:
    """Give the job up at once: trying again would change nothing. Raises StaleLease, RecordUnavailable."""
    await queue.fail(job, reason, retry_in_s=None)
    telemetry.job_ended(job.kind, "parked")
    _LOG.warning("job parked", job=str(job.id), reason=reason)


def note_parked(job: Job) -> None:
    """Count and log a job that the queue itself has given up, as nobody was left to do so: its workers died."""
    telemetry.job_ended(job.kind, "parked")
    _LOG.warning("job parked", job=str(job.id), kind=job.kind, reason="its workers stopped without a word")


class JobLoop:
    """Takes jobs of one kind, one after the other in each of `parallel` loops; `end_parked` gives those an end that were given up."""

    def __init__(
        self,
        queue: Queue,
        kind: str,
        handler: Handler,
        *,
        end_parked: Callable[[], Awaitable[object]] | None = None,
        lease_s: float = LEASE_S,
        parallel: int = 2,
    ) -> None:
        self._queue = queue
        self._kind = kind
        self._handler = handler
        self._end_parked = end_parked
        self._lease_s = lease_s
        self._parallel = parallel

    async def run(self) -> None:
        """Work until cancelled. A job that is being done when that happens is taken by another after its lease."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._parallel):
                group.create_task(self._loop())
            if self._end_parked is not None:
                group.create_task(self._see_to_parked(self._end_parked))

    async def run_once(self) -> bool:
        """Take one job and bring it to an end of this attempt; False if none is due or there is no room for it. Raises RecordUnavailable on taking."""
        job = await self._queue.take((self._kind,), self._lease_s)
        if job is None:
            return False
        try:
            async with kept_lease(self._queue, job, self._lease_s):
                await self._handler(job)
        except StaleLease:
            telemetry.job_ended(job.kind, "stale")
            _LOG.info("job taken over", job=str(job.id))
        except Exception as error:  # noqa: BLE001  # one bad job must not end the loop
            await give_up(self._queue, job, error)
            return not isinstance(error, Overloaded)
        return True

    async def _see_to_parked(self, end_parked: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await end_parked()
            except ModerationError as error:
                _LOG.warning("work that was given up has no end yet", kind=self._kind, error=type(error).__name__)
            except Exception:  # noqa: BLE001  # one bad job must not end the loop
                _LOG.exception("work that was given up has no end yet", kind=self._kind)
            await asyncio.sleep(PARKED_EVERY_S)

    async def _loop(self) -> None:
        while True:
            try:
                worked = await self.run_once()
            except RecordUnavailable:
                _LOG.warning("queue unavailable", kind=self._kind)
                await asyncio.sleep(_TROUBLE_S)
                continue
            if not worked:
                await asyncio.sleep(_IDLE_S)
