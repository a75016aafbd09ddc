"""The record of transforms in Postgres.

Whoever writes what happens to a transform locks its job first: a worker by its lease, everybody else by its id. So these never
overlap for one transform, and each statement after the lock sees what the one before committed. A job that is gone belongs to a
transform that ended long ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters import queue, tables
from moderation.adapters import transform_statements as statements
from moderation.adapters.clock import utc_now
from moderation.adapters.database import Context, Database, answer, array_of
from moderation.adapters.entries import keep_personal, new_nonce, write_entry
from moderation.adapters.idempotency import begin_within, known_within
from moderation.adapters.policies import rely_on_policy
from moderation.adapters.postgres import Named
from moderation.adapters.said import rely_on_bytes
from moderation.adapters.sweeps import HOUSEKEEPING
from moderation.adapters.transform_rows import (
    PART_COLUMNS,
    committed_of,
    denial_document,
    event_of,
    failure_document,
    part_row,
    release_of,
    transform_row,
    transform_texts,
)
from moderation.audit import purge_entry, release_entry, showing_entry, transform_entry
from moderation.canonical import Json
from moderation.decision import Decision, Verdict
from moderation.errors import FactsChanged, RecordUnavailable, StaleLease
from moderation.media import Stage
from moderation.ports import Begun, Clock, Job, KeyUse, QueueState, TransformFilter
from moderation.transform import FINAL, Committed, Event, Failure, Part, Progress, Release, Showing, State, Transform

_T = TypeVar("_T")

KIND: Final = "transform"
"""Of its job, which has its id."""

WORKING: Final = frozenset({State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT})
_EXHAUSTED: Final = Failure(
    code="attempts_exhausted", message="It was tried several times and did not come to an end; ask again.", retryable=True
)
_AT_ONCE: Final = 100
_REMEMBERED: Final = 256
_REMEMBERED_FRAMES: Final = 20_000
"""Of all remembered decisions together: some tens of megabytes, and all segments of a few videos."""
_AGAIN_AFTER_S: Final = 30.0
_OLDER: Final = timedelta(days=1)
"""How far clocks of two machines may lie apart, for looking into few months."""


class PostgresTransforms:
    """Implements `moderation.ports.TransformLog`."""

    def __init__(self, database: Database, *, clock: Clock = utc_now, max_queued: int = queue.MAX_QUEUED) -> None:
        self._database = database
        self._max_queued = max_queued
        self._named = Named()
        self._memory: OrderedDict[tuple[UUID, UUID], Decision] = OrderedDict()
        self._remembered_frames = 0
        self._clock = clock

    # --- accepting and reading ----------------------------------------------------------------

    async def accept(self, transform: Transform, *, use: KeyUse | None = None) -> tuple[Begun, UUID]:
        """Commit request, first event, entry, job and key in one transaction; what the key says and the id to answer with.

        With anything but NEW nothing is written. Raises Overloaded where the tenant has about `max_queued` that wait or run;
        RecordUnavailable, also for what the record refuses: an id or a text that cannot be stored, a policy or a catalogue's entry
        that does not exist.
        """
        try:
            return await self._write(transform.tenant, lambda connection: _accept(connection, transform, use, self._max_queued))
        except (TypeError, ValueError) as fault:
            raise RecordUnavailable(f"the transform has no record form: {fault}") from fault

    async def made_with(self, tenant: UUID, use: KeyUse) -> tuple[Begun, UUID] | None:
        """What an earlier request with this key has made (KNOWN), or that it was another request (MISMATCH); None where there is none.

        Raises RecordUnavailable.
        """
        return await self._database.run(
            Context(tenant=tenant), lambda connection: known_within(connection, tenant, use.key, use.fingerprint)
        )

    async def load(self, tenant: UUID, id: UUID, *, known: Sequence[Decision] = ()) -> Committed | None:
        """Everything about one transform, of one moment; None for another tenant's. `known`: see the port. Raises RecordUnavailable."""
        for decision in known:
            self._remember(tenant, replace(decision, reference=None))
        found = await self._load(tenant, [id])
        return found[0] if found else None

    async def find(self, tenant: UUID, wanted: TransformFilter) -> Sequence[Committed]:
        """Newest first, at most `wanted.limit` + 1. Raises RecordUnavailable."""
        statement = statements.matching(tenant, wanted)
        ids = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).scalars().all())
        return await self._load(tenant, ids)

    async def events(self, tenant: UUID, id: UUID, *, after: int = 0) -> Sequence[Event]:
        """What happened after the event of this number, oldest first. Raises RecordUnavailable."""
        rows = await self._database.ask(tenant, statements.EVENTS, (str(tenant), str(id), str(after)))
        return [event_of(document) for (document,) in rows]

    async def _load(self, tenant: UUID, ids: Sequence[UUID]) -> list[Committed]:
        """Those that there are, in the order of `ids`.

        One statement says what there was at one moment. The decisions that it names are read after it: they never change.
        """
        if not ids:
            return []
        first, last = min(ids), max(ids)
        asked = (str(tenant), array_of(ids), str(first), str(last), statements.floor_of(first, -_OLDER))
        rows: dict[UUID, dict[str, list[dict[str, Any]]]] = {}
        for what, about, document in await self._database.ask(tenant, statements.EVERYTHING, asked):
            rows.setdefault(UUID(str(about)), {}).setdefault(what, []).append(document)
        named = [row for own in rows.values() for row in own.get("decision", ())]
        known = await self._decisions(tenant, {UUID(row["id"]) for row in named})
        return [committed_of(rows[id], known) for id in ids if "transform" in rows.get(id, ())]

    async def _decisions(self, tenant: UUID, ids: set[UUID]) -> Mapping[UUID, Decision]:
        """Decisions by their ids; they are remembered, as those who work and those who watch ask for the same ones again and again."""
        known = {id: decision for id in ids if (decision := self._memory.get((tenant, id))) is not None}
        unknown = ids - known.keys()
        if unknown:
            columns = tables.decision.c
            wanted = select(tables.decision).where(
                columns.tenant == tenant, columns.id.in_(unknown), columns.id.between(min(unknown), max(unknown))
            )
            read = await self._database.run(Context(tenant=tenant), lambda connection: self._named.load(connection, tenant, wanted))
            for decision in read:
                # Its reference may be erased at any time: that is never remembered.
                known[decision.id] = replace(decision, reference=None)
                self._remember(tenant, known[decision.id])
        return known

    def _remember(self, tenant: UUID, decision: Decision) -> None:
        if (tenant, decision.id) in self._memory:  # two asked at once
            return
        self._memory[tenant, decision.id] = decision
        self._remembered_frames += _frames_of(decision)
        while len(self._memory) > _REMEMBERED or self._remembered_frames > _REMEMBERED_FRAMES:
            self._remembered_frames -= _frames_of(self._memory.popitem(last=False)[1])

    # --- under a lease ------------------------------------------------------------------------

    async def advance(self, job: Job, to: State) -> None:
        """Write that the work is in this state now; the job goes on. No event where it is there already.

        Raises FactsChanged where somebody asked for the transform's end, StaleLease, RecordUnavailable; ValueError for a state in which
        nobody works.
        """
        if to not in WORKING:
            raise ValueError(f"nobody works in state {to}")
        asked = (str(job.tenant), str(job.id), job.fence, str(to))
        ((is_held, is_stopped),) = await self._database.ask(job.tenant, statements.ADVANCE, asked)
        _check_wanted(is_held=is_held, is_stopped=is_stopped)

    async def add_part(self, job: Job, part: Part) -> None:
        """Write the name of a file of ours; the job goes on. Raises StaleLease (also where there is one of this kind), RecordUnavailable."""
        row = part_row(part)
        asked = (str(job.tenant), str(job.id), job.fence, *(row[name] for name in PART_COLUMNS))
        if not await self._database.ask(job.tenant, statements.ADD_PART, asked, again=False):
            raise StaleLease(f"another worker holds this job, or there is this {part.kind} part already")

    async def note_progress(self, job: Job, progress: Progress) -> None:
        """Say how far the making of a video is. Raises FactsChanged where somebody asked for its end, StaleLease, RecordUnavailable."""
        asked = (str(job.tenant), str(job.id), job.fence, progress.done, progress.total, progress.eta_s)
        ((is_held, is_stopped),) = await self._database.ask(job.tenant, statements.PROGRESS, asked)
        _check_wanted(is_held=is_held, is_stopped=is_stopped)

    async def heed(self, job: Job) -> None:
        """Look whether the work is still wanted. Raises FactsChanged where somebody asked for the transform's end, StaleLease, RecordUnavailable."""
        ((is_held, is_stopped),) = await self._database.ask(job.tenant, statements.HEED, (str(job.tenant), str(job.id), str(job.fence)))
        _check_wanted(is_held=is_held, is_stopped=is_stopped)

    async def release(self, job: Job, release: Release) -> None:
        """Write the release with its entry; the job goes on. The same release again is no error.

        Raises FactsChanged where by now another policy is in force, somebody asked for the transform's end, or a person blocks one
        of the decisions; StaleLease, also where there is another release; RecordUnavailable; ValueError where the record does not hold
        what the release says: the parts, and three decisions about exactly these bytes under the pinned policy, none of which stops it.
        """
        if (release.tenant, release.transform) != (job.tenant, job.id):
            raise ValueError("a release belongs to the transform of its job")
        await self._write(job.tenant, lambda connection: _release(connection, job, release))

    async def end(self, job: Job, event: Event) -> None:
        """Write a final event or `held`, end the job, and queue the call to the callback URL (at final events), in one transaction.

        Number and time are given here. Raises FactsChanged with `held` where meanwhile somebody reviewed that decision, blocks another one
        of the transform's or asked for its end; StaleLease; RecordUnavailable; ValueError for an end that the record contradicts.
        """
        await self._write(job.tenant, lambda connection: _end(connection, job, event))

    # --- without a lease ----------------------------------------------------------------------

    async def request_cancel(self, tenant: UUID, id: UUID, actor: str) -> State | None:
        """Write that an end is asked for and wake the work if it waits; the state it had then, None where there is no such transform.

        Writes nothing where it has ended or its release is committed. Raises RecordUnavailable.
        """
        return await self._write(tenant, lambda connection: _request_cancel(connection, tenant, id, actor))

    async def record_showing(self, showing: Showing) -> None:
        """Write with its entry that segments are shown to somebody. Raises FactsChanged where they may not be, RecordUnavailable."""
        await self._write(showing.tenant, lambda connection: _record_showing(connection, showing))

    async def end_parked(self) -> int:
        """End all transforms whose job was given up and say how many, over all tenants. Raises RecordUnavailable.

        They end as failed, or as cancelled where somebody asked for that.
        One whose release is committed is not ended but tried again: what is released will be published.
        """
        parked = (
            select(tables.job.c.tenant, tables.job.c.id)
            .where(tables.job.c.kind == KIND, tables.job.c.state == QueueState.PARKED.value)
            .order_by(func.random())  # one that the record refuses keeps no other from its end for long
            .limit(_AT_ONCE)
        )
        given_up = await self._database.run(Context(worker=True), lambda connection: connection.execute(parked).all())
        return sum([await self._write(tenant, _ending_parked(tenant, id)) for tenant, id in given_up])

    async def expired(self, limit: int = _AT_ONCE, *, after: UUID | None = None) -> Sequence[Release]:
        """Releases of all tenants whose time is over or that were withdrawn, and whose bytes are not yet recorded as purged.

        In the order of their transforms' ids, beginning after `after`. Raises RecordUnavailable.
        """
        where = {"now": self._clock(), "limit": limit, "after": after or UUID(int=0)}
        rows = await self._database.run(
            Context(worker=True), lambda connection: connection.execute(statements.EXPIRED, where).scalars().all()
        )
        return [release_of(row) for row in rows]

    async def record_purge(self, tenant: UUID, transform: UUID, result: Mapping[str, Json]) -> None:
        """Write with its entry that a release's bytes are gone; what is recorded already stays as it is.

        Raises RecordUnavailable, also where there is no such release.
        """
        at = self._clock()
        await self._write(tenant, lambda connection: _record_purge(connection, tenant, transform, result, at))

    async def _write(self, tenant: UUID, work: Callable[[Connection], _T]) -> _T:
        """What `work` returns, committed. What Postgres refuses is told as RecordUnavailable: it must never pass for written."""
        try:
            return await self._database.run(Context(tenant=tenant), work)
        except IntegrityError as refused:
            constraint = getattr(getattr(refused.orig, "diag", None), "constraint_name", None)
            raise RecordUnavailable(f"the record refuses this: {constraint}") from refused


def _frames_of(decision: Decision) -> int:
    return sum(len(sheet.frames) for sheet in decision.sheets)


# --- accepting ------------------------------------------------------------------------------------


def _accept(connection: Connection, transform: Transform, use: KeyUse | None, max_queued: int) -> tuple[Begun, UUID]:
    if use is not None:
        begun, id = begin_within(connection, transform.tenant, use.key, use.fingerprint, transform.id, keep_lapsed_id=False)
        if begun is not Begun.NEW:
            return begun, id
    connection.execute(insert(tables.transform).values(transform_row(transform)))
    _write_event(connection, transform.tenant, transform.id, 1, State.QUEUED)
    commitments = keep_personal(connection, about=transform.id, tenant=transform.tenant, texts=transform_texts(transform))
    canonical = transform_entry(transform, nonce=new_nonce(), commitments=commitments)
    write_entry(connection, id=transform.id, tenant=transform.tenant, kind="transform", canonical=canonical)
    queue.enqueue(connection, id=transform.id, tenant=transform.tenant, kind=KIND, payload={"transform": transform.id.hex})
    queue.check_room(connection, tenant=transform.tenant, kind=KIND, most=max_queued)
    return Begun.NEW, transform.id


def _write_event(connection: Connection, tenant: UUID, transform: UUID, sequence: int, state: State, **facts: Any) -> None:
    values = {"tenant": tenant, "transform": transform, "sequence": sequence, "state": str(state), **facts}
    connection.execute(insert(tables.transform_event).values(values))


# --- under a lease --------------------------------------------------------------------------------


def _check_wanted(*, is_held: bool, is_stopped: bool) -> None:
    if not is_held:
        raise StaleLease("another worker holds this job, or it has ended")
    if is_stopped:
        raise FactsChanged("somebody asked for the end of this transform")


def _release(connection: Connection, job: Job, release: Release) -> None:
    if release.pinned.name != release.in_force.name or set(release.decisions) != {Stage.SOURCE, Stage.TARGET, Stage.OUTPUT}:
        raise ValueError("a release names three decisions, and two versions of one policy")
    queue.hold(connection, job)
    own = _rely_on(connection, release.tenant, release.transform, release.pinned.name)
    transform = (str(release.tenant), str(release.transform))
    floor = statements.floor_of(release.transform, -_OLDER)
    encoded = bytes.fromhex(release.encoded_sha256)
    (now,) = answer(connection, statements.MEANWHILE, *transform, release.in_force.name, floor, encoded, own)
    if now.earlier is not None:
        if not _is_the_same(release_of(now.earlier), release):
            raise StaleLease("this transform has a release already")
        return
    if now.is_stopped:
        raise FactsChanged("somebody asked for the end of this transform")
    if now.is_source_gone:
        raise FactsChanged("the face was removed from the catalogue")
    if (now.version, now.digest) != (release.in_force.version, release.in_force.digest):
        raise FactsChanged("another policy is in force")
    if now.is_blocked or Verdict.BLOCK in now.said.values():
        raise FactsChanged("a person blocks one of the pictures")
    id: UUID = uuid7()
    written = answer(connection, statements.RELEASE, *_release_values(release, id, now.said))
    if not written:
        raise ValueError("the record does not hold what this release says")
    ((actor,),) = written
    canonical = release_entry(release, id=id, actor=actor, nonce=new_nonce())
    write_entry(connection, id=id, tenant=release.tenant, kind="release", canonical=canonical)


def _rely_on(connection: Connection, tenant: UUID, transform: UUID, policy: str) -> list[bytes]:
    """Until the transaction ends nobody publishes this policy nor speaks of anything sent or made: the SHA-256 of all that."""
    rely_on_policy(connection, tenant, policy)
    own = [bytes(sha256) for (sha256,) in answer(connection, statements.OWN_BYTES, str(tenant), str(transform))]
    rely_on_bytes(connection, tenant, own)
    return own


def _release_values(release: Release, id: UUID, allowed: Iterable[str]) -> tuple[object, ...]:
    """The parameters of `statements.RELEASE`. `allowed` are decisions that a person allows."""
    return (
        str(release.tenant),
        str(release.transform),
        str(id),
        bytes.fromhex(release.signed_sha256),
        bytes.fromhex(release.encoded_sha256),
        *(str(release.decisions[stage]) for stage in (Stage.SOURCE, Stage.TARGET, Stage.OUTPUT)),
        release.pinned.name,
        release.pinned.version,
        release.pinned.digest,
        release.in_force.version,
        release.in_force.digest,
        release.released_at,
        release.expires_at,
        array_of(allowed),
    )


def _is_the_same(one: Release, other: Release) -> bool:
    """Whether both let the same file leave on the same grounds, whenever that was."""
    return all(
        getattr(one, name) == getattr(other, name) for name in ("signed_sha256", "encoded_sha256", "decisions", "pinned", "in_force")
    )


def _end(connection: Connection, job: Job, event: Event) -> None:
    queue.hold(connection, job)
    decision = None if event.held is None else event.held.decision
    now = _standing(connection, job.tenant, job.id, decision=decision)
    if now is None:
        raise StaleLease("this job has no transform")
    _check_end(event, now)
    is_news = event.state is not State.HELD or (now.state, now.held) != (State.HELD, str(decision))
    if is_news:
        _write_event(
            connection,
            job.tenant,
            job.id,
            now.sequence + 1,
            event.state,
            denial=denial_document(event.denial),
            failure=failure_document(event.failure),
            held=denial_document(event.held),
        )
    _end_work(connection, job.tenant, job.id, event.state, now)


def _check_end(event: Event, now: Row[*tuple[Any, ...]]) -> None:
    """Raises ValueError for an end that the record contradicts, FactsChanged for a pause that nobody would end."""
    if event.state not in FINAL and event.state is not State.HELD:
        raise ValueError(f"{event.state} is no end")
    if event.state is State.RELEASED and not now.released:
        raise ValueError("released without a release")
    if event.state is State.CANCELLED and not now.cancelled:
        raise ValueError("cancelled without a request")
    if now.released and event.state not in (State.RELEASED, State.FAILED):
        raise ValueError(f"{event.state} after the release")
    if event.state is State.HELD and (now.reviewed or now.blocked or now.cancelled):
        raise FactsChanged("somebody reviewed that decision, blocks another one or asked for the end")


def _end_work(connection: Connection, tenant: UUID, transform: UUID, state: State, before: Row[*tuple[Any, ...]]) -> None:
    """End the job, which is locked, and queue the call to the callback URL at a final event."""
    is_final = state in FINAL
    queue.finish(connection, transform, may_go_on=not is_final)
    if is_final and before.has_progress:
        gone = tables.transform_progress
        connection.execute(delete(gone).where(gone.c.tenant == tenant, gone.c.transform == transform))
    if is_final and before.has_callback:
        payload: dict[str, Json] = {"transform": transform.hex, "sequence": before.sequence + 1}
        queue.enqueue(connection, id=uuid7(), tenant=tenant, kind=queue.WEBHOOK, payload=payload)


# --- without a lease ------------------------------------------------------------------------------


def _request_cancel(connection: Connection, tenant: UUID, id: UUID, actor: str) -> State | None:
    queue.lock(connection, tenant, id)
    now = _standing(connection, tenant, id)
    if now is None:
        return None
    state = State(now.state)
    if state not in FINAL and not now.released:
        cancel = tables.transform_cancel
        statement = insert_or_leave(cancel).values(tenant=tenant, transform=id, actor=actor).on_conflict_do_nothing()
        if connection.execute(statement.returning(cancel.c.transform)).one_or_none() is not None:
            queue.wake(connection, id)
    return state


def _record_showing(connection: Connection, showing: Showing) -> None:
    own = _rely_on(connection, showing.tenant, showing.transform, showing.in_force.name)
    if answer(connection, statements.BLOCKED, str(showing.tenant), own):
        raise FactsChanged("a person blocks one of the pictures")
    asked = (str(showing.tenant), str(showing.transform), str(showing.id), showing.first, showing.last, showing.actor, showing.at)
    policy = (showing.in_force.name, showing.in_force.version, showing.in_force.digest)
    found = answer(connection, statements.SHOW, *asked, statements.floor_of(showing.transform, -_OLDER), *policy)
    if not found:
        raise FactsChanged("these segments may not be shown")
    canonical = showing_entry(showing, sha256=[sha256 for (sha256,) in found], nonce=new_nonce())
    write_entry(connection, id=showing.id, tenant=showing.tenant, kind="showing", canonical=canonical)


def wake_if_held(connection: Connection, tenant: UUID, transform: UUID) -> None:
    """Queue a transform, whose job is locked, again if it waits for a person."""
    now = _standing(connection, tenant, transform)
    if now is not None and now.state == State.HELD:
        queue.wake(connection, transform)


def _ending_parked(tenant: UUID, transform: UUID) -> Callable[[Connection], int]:
    def end(connection: Connection) -> int:
        cause = connection.execute(statements.STILL_PARKED, {"id_": transform}).one_or_none()
        if cause is None:  # another has seen to it
            return 0
        now = _standing(connection, tenant, transform)
        if now is None or now.state in FINAL:
            queue.finish(connection, transform)
            return 0
        if now.released:
            queue.wake(connection, transform, after_s=_AGAIN_AFTER_S)
            return 0
        state = State.CANCELLED if now.cancelled else State.FAILED
        failure = None if now.cancelled else failure_document(_EXHAUSTED, cause=cause.last_error)
        _write_event(connection, tenant, transform, now.sequence + 1, state, failure=failure)
        _end_work(connection, tenant, transform, state, now)
        return 1

    return end


def _record_purge(connection: Connection, tenant: UUID, transform: UUID, result: Mapping[str, Json], at: datetime) -> None:
    id: UUID = uuid7()
    purge = tables.release_purge
    values = {"tenant": tenant, "transform": transform, "id": id, "result": dict(result), "purged_at": at}
    statement = insert_or_leave(purge).values(values).on_conflict_do_nothing().returning(purge.c.id)
    if connection.execute(statement).one_or_none() is not None:
        canonical = purge_entry(id=id, tenant=tenant, transform=transform, actor=HOUSEKEEPING, at=at, nonce=new_nonce(), result=result)
        write_entry(connection, id=id, tenant=tenant, kind="purge", canonical=canonical)


def _standing(connection: Connection, tenant: UUID, transform: UUID, *, decision: UUID | None = None) -> Row[*tuple[Any, ...]] | None:
    """Where a transform stands: its last event, and what else is committed. `reviewed` is about `decision`, `blocked` about all of its decisions."""
    floor = statements.floor_of(transform, -_OLDER)
    rows = answer(connection, statements.STANDING, str(tenant), str(transform), None if decision is None else str(decision), floor)
    return rows[0] if rows else None
