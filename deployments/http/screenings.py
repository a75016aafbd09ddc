"""Screenings as requests ask for them: bounded, idempotent, finished whatever the client does.

The work runs in a task of its own. When `wait` ends first, the bytes go to the intake area and a job is put that
this process already leases: the caller gets 202, the work goes on here, and should this process die, a
`ScreeningWorker` takes the job once its lease has run out, or at once where a fault of ours ends the work here. The
decision's commit ends the job.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

import structlog

from deployments import telemetry
from deployments.http.errors import Code, is_fault, refused
from deployments.http.gateway import Gateway
from deployments.http.limits import Body
from deployments.job_loop import give_up, kept_lease
from deployments.screening_worker import AREA, KIND, HeldMedia, forget_bytes, job_payload
from moderation.adapters.areas import object_name
from moderation.canonical import Json
from moderation.decision import Decision
from moderation.errors import ModerationError, Overloaded, StaleLease
from moderation.media import Media
from moderation.ports import Begun, DecisionLog, Job, KeyUse, QueueState
from moderation.screening import Order, Screener, judged

_LOG = structlog.get_logger("facegate.screening")
_ATTEMPTS: Final = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A screening that has no decision yet."""

    id: UUID
    state: QueueState


Outcome: TypeAlias = Decision | Pending
Begin: TypeAlias = Callable[[Order], Awaitable[Outcome]]
"""Brings a screening on its way; the order has the id that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What came of a request; `is_replay` where an earlier one with the same key has done it."""

    outcome: Outcome
    is_replay: bool = False


@dataclass(slots=True, kw_only=True)
class _Running:
    """A screening in this process. The lock orders its commit and its becoming a job."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    job: Job | None = None
    is_accepted: bool = False
    """Answered 202: from then on a fault of ours is no end, since the work can be done again."""
    is_committed: bool = False


class _JobEndingLog:
    """The record; the commit of a screening that has become a job meanwhile ends that job, and a fault of ours is not committed then."""

    def __init__(self, log: DecisionLog, running: dict[UUID, _Running]) -> None:
        self._log = log
        self._running = running

    async def append(self, decision: Decision, *, job: Job | None = None, keep_job: bool = False) -> None:
        running = self._running[decision.id]
        async with running.lock:
            if running.is_accepted:
                judged(decision)
            await self._log.append(decision, job=job or running.job, keep_job=keep_job)
            running.is_committed = True


class Screenings:
    """One per process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._running: dict[UUID, _Running] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keep_held = HeldMedia(gateway.quarantine, gateway.alarm)
        self._screener = Screener(
            decoder=gateway.decoder,
            classifiers=gateway.classifiers,
            log=_JobEndingLog(gateway.log, self._running),
            memory=gateway.memory,
            clock=gateway.clock,
            limits=gateway.limits,
            shadow=gateway.shadow,
        )

    def admit(self) -> None:
        """Raises Overloaded when there are as many screenings as this process takes on."""
        if len(self._running) >= self._gateway.bounds.requests:
            raise Overloaded("screenings")

    async def submit(self, data: bytes, order: Order, *, wait_s: float, use: KeyUse | None, body: Body) -> Submitted:
        """Screen `data`, or replay what `use` says was done. Goes on when the caller is cancelled.

        Raises ApiError (`in_progress`, `idempotency_mismatch`), Overloaded, RecordUnavailable.
        """
        self.admit()
        work = self._submit(order, use, lambda order: self._begin(data, order, wait_s, body))
        return await asyncio.shield(self._keep(work, body))

    async def put_off(self, data: bytes, order: Order, *, use: KeyUse | None, note: Mapping[str, Json], body: Body) -> UUID:
        """Have a worker screen `data`, or find what `use` says was put off before; the id of the screening. Goes on when the caller is cancelled.

        `note` is kept with the work, see `note_of`. Raises ApiError (`in_progress`, `idempotency_mismatch`), Overloaded where
        the tenant has too many screenings that wait, RecordUnavailable.
        """
        work = self._submit(order, use, lambda order: self._put_off(data, order, note))
        return (await asyncio.shield(self._keep(work, body))).outcome.id

    async def complete(self, data: bytes, order: Order, *, body: Body) -> Decision:
        """Screen `data` however long it takes. Goes on when the caller is cancelled."""
        submitted = await self.submit(data, order, wait_s=float("inf"), use=None, body=body)
        if not isinstance(submitted.outcome, Decision):
            raise TypeError("a screening without an end has none")
        return submitted.outcome

    async def look_up(self, tenant: UUID, id: UUID) -> Outcome | None:
        """The decision, where the work stands, or None if there is no such screening of the tenant's."""
        decision = await self._gateway.reader.get(tenant, id)
        if decision is not None:
            return decision
        state = await self._gateway.queue.state(tenant, id)
        if state is None:
            return None
        if state is QueueState.DONE:  # decided between the two reads
            return await self._gateway.reader.get(tenant, id)
        return Pending(id=id, state=state)

    async def drain(self) -> None:
        """Wait for all work that has begun."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _keep(self, work: Coroutine[Any, Any, _T], body: Body | None = None) -> asyncio.Task[_T]:
        """Run `work` to its end, holding `body`'s memory; its failure is logged if nobody waits for it any more."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        if body is not None:
            body.hold()

        def ended(task: asyncio.Task[_T]) -> None:
            self._tasks.discard(task)
            if body is not None:
                body.let_go()
            if not task.cancelled() and (error := task.exception()) is not None:
                _LOG.info("work ended without a decision", error=type(error).__name__)

        task.add_done_callback(ended)
        return task

    async def _submit(self, order: Order, use: KeyUse | None, begin: Begin) -> Submitted:
        if use is None:
            return Submitted(outcome=await begin(order))
        for _ in range(_ATTEMPTS):
            begun, id = await self._gateway.idempotency.begin(order.tenant, use.key, use.fingerprint, order.id)
            if begun is Begun.NEW:
                return Submitted(outcome=await self._claimed(replace(order, id=id), use, begin))
            known = await self._known(begun, order.tenant, use.key, id)
            if known is not None:
                return Submitted(outcome=known, is_replay=True)
        raise refused(Code.IN_PROGRESS)

    async def _known(self, begun: Begun, tenant: UUID, key: str, id: UUID) -> Outcome | None:
        """What an earlier request with this key has led to; None if nothing that lasts, and the key is free again."""
        if begun is Begun.MISMATCH:
            raise refused(Code.IDEMPOTENCY_MISMATCH)
        if begun is Begun.IN_PROGRESS:
            raise refused(Code.IN_PROGRESS)
        known = await self.look_up(tenant, id)
        if known is None or (isinstance(known, Decision) and is_fault(known)):
            await self._gateway.idempotency.forget(tenant, key, id, recorded=known is not None)
            return None
        return known

    async def _claimed(self, order: Order, use: KeyUse, begin: Begin) -> Outcome:
        """A screening that owns its key; what is not stored gives the key back."""
        try:
            outcome = await begin(order)
        except Exception:
            await self._forget(order, use, recorded=False)
            raise
        if isinstance(outcome, Decision) and is_fault(outcome):
            await self._forget(order, use, recorded=True)
        return outcome

    async def _forget(self, order: Order, use: KeyUse, *, recorded: bool) -> None:
        with contextlib.suppress(ModerationError):  # the record is in trouble: the claim's own lease ends it
            await self._gateway.idempotency.forget(order.tenant, use.key, order.id, recorded=recorded)

    async def _begin(self, data: bytes, order: Order, wait_s: float, body: Body) -> Outcome:
        if wait_s <= 0:
            return await self._put_off(data, order)
        running = self._running[order.id] = _Running()
        work = self._keep(self._work(data, order, running), body)
        await asyncio.wait({work}, timeout=None if wait_s == float("inf") else wait_s)
        if not work.done():
            async with running.lock:
                is_late = not running.is_committed and not work.done()
                if is_late:
                    running.job = await self._put(data, order, leased_for_s=self._gateway.bounds.lease_s)
                    running.is_accepted = True
            if running.job is not None:
                self._keep(self._renew(running.job, work))
            if is_late:
                return Pending(id=order.id, state=QueueState.RUNNING)
        return await work

    async def _put_off(self, data: bytes, order: Order, note: Mapping[str, Json] | None = None) -> Pending:
        """Nobody waits: any worker may do it."""
        await self._put(data, order, leased_for_s=None, note=note)
        return Pending(id=order.id, state=QueueState.QUEUED)

    async def _put(self, data: bytes, order: Order, *, leased_for_s: float | None, note: Mapping[str, Json] | None = None) -> Job | None:
        """First the bytes, then the job that names them. Raises Overloaded where the tenant has too many."""
        media = await asyncio.to_thread(Media.of, data)  # a video has up to 200 MB
        name = object_name(order.tenant, order.id, media.sha256)
        await self._gateway.store.put(AREA, name, data)
        payload = job_payload(order, media, note)
        try:
            return await self._gateway.queue.put(id=order.id, tenant=order.tenant, kind=KIND, payload=payload, leased_for_s=leased_for_s)
        except Overloaded:  # so that no job names them; after any other trouble one may
            await forget_bytes(self._gateway.store, name)
            raise

    async def _renew(self, job: Job, work: asyncio.Task[Decision]) -> None:
        async with kept_lease(self._gateway.queue, job, self._gateway.bounds.lease_s):
            await asyncio.wait({work})

    async def _work(self, data: bytes, order: Order, running: _Running) -> Decision:
        try:
            decision = await self._screener.screen(data, order)
        except StaleLease:
            raise
        except Exception as error:
            async with running.lock:
                if running.job is not None:
                    await give_up(self._gateway.queue, running.job, error)
            raise
        finally:
            del self._running[order.id]
        await self._keep_held(decision, data)
        if running.job is not None:
            telemetry.job_ended(KIND, "done")
            await forget_bytes(self._gateway.store, object_name(order.tenant, order.id, decision.media.sha256))
        return decision
