"""Durable work in Postgres: SKIP LOCKED, leases by database time, fence numbers."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    Connection,
    Row,
    Update,
    case,
    delete,
    func,
    literal,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from moderation.adapters.database import Context, Database, Question, answer
from moderation.adapters.sweeps import write_swept
from moderation.adapters.tables import job
from moderation.canonical import Json
from moderation.errors import Overloaded, StaleLease
from moderation.people import Swept
from moderation.ports import Job, QueueState

MAX_ATTEMPTS: Final = 3
WEBHOOK: Final = "webhook"
ATTEMPTS_OF: Final[Mapping[str, int]] = {WEBHOOK: 7}
"""Kinds of work that are tried more often: a receiver may be away for hours, and is nothing of ours."""
MAX_QUEUED: Final = 1000
_FULL_S: Final = 10.0
"""When to ask again where a tenant's queue is full."""
_LONGEST_REASON: Final = 500
_LAPSED: Final = "the worker stopped without a word"
_SWEEP: Final = 1000


def backoff_s(attempt: int, *, first_s: float = 2.0, most_s: float = 300.0) -> float:
    """How long to wait after a failed `attempt` (from 1): doubled twice each time, spread by half to either side."""
    return min(most_s, first_s * 4.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, hides nothing


class PostgresQueue:
    """Implements `moderation.ports.Queue`.

    An attempt that nobody ends before its lease runs out counts as failed. Done is set by the record,
    in the transaction that commits the result (`DecisionLog.append(job=...)`); or by `done` where there is none.
    A tenant has about `max_queued` pieces of work of one kind that wait or run, and no more.
    `on_parked` is told of each job that `take` parks, since no worker is left to tell it.
    """

    def __init__(self, database: Database, *, max_queued: int = MAX_QUEUED, on_parked: Callable[[Job], None] = lambda _job: None) -> None:
        self._database = database
        self._max_queued = max_queued
        self._on_parked = on_parked

    async def put(self, *, id: UUID, tenant: UUID, kind: str, payload: Mapping[str, Json], leased_for_s: float | None = None) -> Job | None:
        """Enqueue; with `leased_for_s` the caller itself begins, holding the returned lease.

        Work with this id that is there already is left as it is, and None returned: somebody else holds it or will.
        Raises RecordUnavailable; Overloaded, and nothing is enqueued, where the tenant has too much of it and the caller does not begin itself.
        """
        values: dict[str, Any] = {"id": id, "tenant": tenant, "kind": kind, "payload": dict(payload), "state": QueueState.QUEUED.value}
        if leased_for_s is not None:
            values |= {"state": QueueState.RUNNING.value, "attempts": 1, "fence": 1, "lease_until": _in(leased_for_s)}
        held = (job.c.id, job.c.tenant, job.c.kind, job.c.payload, job.c.fence, job.c.attempts)
        statement = insert(job).values(values).on_conflict_do_nothing().returning(*held)

        def insert_one(connection: Connection) -> Row[Any] | None:
            row = connection.execute(statement).one_or_none()
            if row is not None and leased_for_s is None:
                check_room(connection, tenant=tenant, kind=kind, most=self._max_queued)
            return row

        row = await self._database.run(Context(tenant=tenant), insert_one)
        return None if row is None or leased_for_s is None else _job(row)

    async def take(self, kinds: Sequence[str], lease_s: float) -> Job | None:
        """Lease the next due job of these kinds, whosever it is, or None. Parks what has used up its attempts. Raises RecordUnavailable."""
        asked = (list(kinds), timedelta(seconds=lease_s))
        while rows := await self._database.ask(None, TAKE, asked, again=False):
            ((*values, state),) = rows
            taken = _job(values)
            if state == QueueState.RUNNING.value:
                return taken
            self._on_parked(taken)
        return None

    async def take_parked(self, kind: str, lease_s: float) -> Job | None:
        """Lease what was given up so that its end can be committed, longest given up first, or None. No attempt begins. Raises RecordUnavailable."""
        rows = await self._database.ask(None, TAKE_PARKED, (kind, timedelta(seconds=lease_s)), again=False)
        return _job(rows[0]) if rows else None

    async def renew(self, job: Job, lease_s: float) -> bool:
        """Extend the lease; False when another fence has been given, or the work has ended. Raises RecordUnavailable."""
        return await self._change(_held(job).values(lease_until=_in(lease_s))) is not None

    async def fail(self, job: Job, reason: str, *, retry_in_s: float | None) -> QueueState:
        """Give up this attempt: due again after `retry_in_s`, or parked (also after the last attempt of its kind).

        Raises StaleLease if the job is no longer this worker's, RecordUnavailable.
        """
        return await self._end_attempt(_failed(job, reason, retry_in_s))

    async def done(self, job: Job) -> None:
        """The work has ended and has nothing to commit beside that.

        Raises StaleLease if the job is another's by now, or has ended, RecordUnavailable.
        """
        await self._end_attempt(_ended(job))

    async def give_back(self, job: Job, *, after_s: float = 0.0) -> None:
        """Return the job unharmed, due `after_s` from now and with this attempt not counted: there was no room for it.

        Raises StaleLease, RecordUnavailable.
        """
        await self._end_attempt(_returned(job, after_s))

    async def state(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> QueueState | None:
        """Where the work of this kind stands, or None if there is none: an id of another kind's work is no answer.

        Raises RecordUnavailable.
        """
        statement = select(job.c.state).where(job.c.tenant == tenant, job.c.id == id, job.c.kind == kind)
        found = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).scalar_one_or_none())
        return None if found is None else QueueState(found)

    async def payload(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> Mapping[str, Json] | None:
        """What was put with this work, until `purge` takes it; otherwise None. Raises RecordUnavailable."""
        statement = select(job.c.payload).where(job.c.tenant == tenant, job.c.id == id, job.c.kind == kind)
        found: Mapping[str, Json] | None = await self._database.run(
            Context(tenant=tenant), lambda connection: connection.execute(statement).scalar_one_or_none()
        )
        return found

    async def purge(self, *, ended_before_s: float) -> int:
        """Delete done work that ended so long ago, of all tenants; parked work stays for a person. Raises RecordUnavailable."""
        ended = select(job.c.id).where(job.c.state == QueueState.DONE.value, job.c.finished_at < _in(-ended_before_s)).limit(_SWEEP)
        statement = delete(job).where(job.c.id.in_(ended)).returning(job.c.tenant, job.c.id)

        def sweep(connection: Connection) -> int:
            gone: dict[UUID, list[UUID]] = defaultdict(list)
            for row in connection.execute(statement).all():
                gone[row.tenant].append(row.id)
            for tenant, ids in gone.items():
                write_swept(connection, tenant, Swept.JOBS, len(ids), ids)
            return sum(map(len, gone.values()))

        return await self._database.run(Context(worker=True), sweep)

    async def _end_attempt(self, statement: Update) -> QueueState:
        row = await self._change(statement)
        if row is None:
            raise StaleLease("another worker holds this job, or it has ended")
        return QueueState(row.state)

    async def _change(self, statement: Update) -> Row[Any] | None:
        return await self._database.run(
            Context(worker=True), lambda connection: connection.execute(statement.returning(job.c.state)).one_or_none()
        )


def attempts_of(kind: str) -> int:
    """How often work of this kind is tried."""
    return ATTEMPTS_OF.get(kind, MAX_ATTEMPTS)


# --- within somebody's transaction ----------------------------------------------------------------


def enqueue(connection: Connection, *, id: UUID, tenant: UUID, kind: str, payload: Mapping[str, Json]) -> None:
    """Put work whose id is new into the queue."""
    connection.execute(insert(job).values(id=id, tenant=tenant, kind=kind, payload=dict(payload), state=QueueState.QUEUED.value))


def check_room(connection: Connection, *, tenant: UUID, kind: str, most: int) -> None:
    """Raises Overloaded where, with what this transaction has put, a tenant has more than `most` pieces of work that wait or run.

    Transactions of one moment do not see each other, so that a few more may come in.
    """
    unended = job.c.state.in_((QueueState.QUEUED.value, QueueState.RUNNING.value))
    mine = select(job.c.id).where(job.c.tenant == tenant, job.c.kind == kind, unended).limit(most + 1).subquery()
    if connection.execute(select(func.count()).select_from(mine)).scalar_one() > most:
        raise Overloaded(f"queued work of kind {kind}", _FULL_S)


def hold(connection: Connection, held: Job) -> None:
    """Lock the job of this lease until the transaction ends: nobody takes, ends or wakes it meanwhile.

    Raises StaleLease if it is another's by now, or has ended.
    """
    if not answer(connection, _HOLD, str(held.id), held.fence):
        raise StaleLease("another worker holds this job, or it has ended")


def lock(connection: Connection, tenant: UUID, id: UUID) -> QueueState | None:
    """Lock a job whoever has it, until the transaction ends; where it stands, or None if there is none (any more)."""
    wanted = select(job.c.state).where(job.c.tenant == tenant, job.c.id == id).with_for_update(key_share=True)
    found = connection.execute(wanted).scalar_one_or_none()
    return None if found is None else QueueState(found)


def finish(connection: Connection, id: UUID, *, may_go_on: bool = False) -> None:
    """End a job that is locked. One that may go on (`wake`) is kept for as long as it has no time at which it finished."""
    at = null() if may_go_on else func.clock_timestamp()
    connection.execute(update(job).where(job.c.id == id).values(state=QueueState.DONE.value, lease_until=null(), finished_at=at))


def wake(connection: Connection, id: UUID, *, after_s: float = 0.0) -> None:
    """Make a job due, with all its attempts, unless it is running. Its fence goes on counting."""
    due = {"state": QueueState.QUEUED.value, "attempts": 0, "run_at": _in(after_s), "lease_until": null(), "finished_at": null()}
    connection.execute(update(job).where(job.c.id == id, job.c.state != QueueState.RUNNING.value).values(due))


# --- statements -----------------------------------------------------------------------------------

_MOST_ATTEMPTS: Final = f"CASE kind {' '.join(f'WHEN {kind!r} THEN {most}' for kind, most in ATTEMPTS_OF.items())} ELSE {MAX_ATTEMPTS} END"
"""`attempts_of` as Postgres says it, of a row of jobs."""

_HOLD: Final = Question(
    name="job_hold",
    types=("uuid", "bigint"),
    statement="SELECT id FROM facegate.job WHERE id = $1 AND fence = $2 AND state = 'running' FOR NO KEY UPDATE",
)


# The next due job of these kinds ($1) is leased for so long ($2), or parked where it has used up its attempts.
TAKE: Final = Question(
    name="job_take",
    types=("text[]", "interval"),
    statement=f"""
WITH due AS MATERIALIZED (
    SELECT n.id, n.attempts >= {_MOST_ATTEMPTS} AS is_exhausted
    FROM facegate.job n
    WHERE n.kind = ANY($1)
      AND (n.state = 'queued' AND n.run_at <= clock_timestamp() OR n.state = 'running' AND n.lease_until < clock_timestamp())
    ORDER BY n.run_at, n.id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE facegate.job j SET
    state = CASE WHEN due.is_exhausted THEN 'parked' ELSE 'running' END,
    attempts = j.attempts + CASE WHEN due.is_exhausted THEN 0 ELSE 1 END,
    fence = j.fence + 1,
    lease_until = CASE WHEN due.is_exhausted THEN NULL ELSE clock_timestamp() + $2 END,
    finished_at = CASE WHEN due.is_exhausted THEN clock_timestamp() END,
    last_error = CASE WHEN j.state = 'running' THEN '{_LAPSED}' ELSE j.last_error END
FROM due WHERE j.id = due.id
RETURNING j.id, j.tenant, j.kind, j.payload, j.fence, j.attempts, j.state
""",  # noqa: S608  # constants of ours
)


# A job of this kind ($1) that was given up is leased for so long ($2); `take` parks it again if nobody ends it by then.
TAKE_PARKED: Final = Question(
    name="job_take_parked",
    types=("text", "interval"),
    statement="""
WITH given_up AS MATERIALIZED (
    SELECT n.id FROM facegate.job n WHERE n.state = 'parked' AND n.kind = $1
    ORDER BY n.finished_at, n.id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE facegate.job j SET state = 'running', fence = j.fence + 1, lease_until = clock_timestamp() + $2, finished_at = NULL
FROM given_up WHERE j.id = given_up.id
RETURNING j.id, j.tenant, j.kind, j.payload, j.fence, j.attempts
""",
)


def _held(held: Job) -> Update:
    """The job as long as it is this worker's: the newest fence, and not ended."""
    return update(job).where(job.c.id == held.id, job.c.fence == held.fence, job.c.state == QueueState.RUNNING.value)


def _failed(held: Job, reason: str, retry_in_s: float | None) -> Update:
    parked = literal(True) if retry_in_s is None else job.c.attempts >= literal_column(_MOST_ATTEMPTS)
    return _held(held).values(
        state=case((parked, QueueState.PARKED.value), else_=QueueState.QUEUED.value),
        run_at=_in(retry_in_s or 0.0),
        lease_until=null(),
        finished_at=case((parked, func.clock_timestamp()), else_=null()),
        last_error=reason.replace("\x00", "")[:_LONGEST_REASON],
    )


def _ended(held: Job) -> Update:
    return _held(held).values(state=QueueState.DONE.value, lease_until=null(), finished_at=func.clock_timestamp())


def _returned(held: Job, after_s: float) -> Update:
    return _held(held).values(state=QueueState.QUEUED.value, attempts=job.c.attempts - 1, run_at=_in(after_s), lease_until=null())


def _in(seconds: float) -> Any:
    """A moment of the database's clock; a worker's clock never counts."""
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _job(row: Sequence[Any]) -> Job:
    id, tenant, kind, payload, fence, attempts = row
    return Job(id=UUID(str(id)), tenant=UUID(str(tenant)), kind=kind, payload=payload, fence=fence, attempt=attempts)
