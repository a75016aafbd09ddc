"""The record of transforms in Postgres.

Whoever writes what happens to a transform locks its job first: a worker by its lease, everybody else by its id. So these never
overlap for one transform, and each statement after the lock sees what the one before committed. A job that is gone belongs to a
transform that ended long ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Row, Select, bindparam, exists, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as insert_or_leave
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters import queue, tables
from moderation.adapters.database import Context, Database, Question, answer
from moderation.adapters.entries import keep_personal, new_nonce, write_entry
from moderation.adapters.idempotency import begin_within
from moderation.adapters.policies import hold_policy
from moderation.adapters.postgres import Named
from moderation.adapters.transform_rows import (
    CALLBACK_URL,
    PART_COLUMNS,
    REFERENCE,
    committed_of,
    denial_document,
    event_of,
    failure_document,
    part_row,
    release_of,
    transform_row,
    transform_texts,
)
from moderation.audit import purge_entry, release_entry, transform_entry
from moderation.canonical import Json
from moderation.decision import Decision, Verdict
from moderation.errors import FactsChanged, RecordUnavailable, StaleLease
from moderation.media import Stage
from moderation.ports import Begun, Clock, Job, KeyUse, QueueState, TransformFilter
from moderation.transform import FINAL, Committed, Event, Failure, Part, Release, State, Transform

_T = TypeVar("_T")

KIND: Final = "transform"
"""Of its job, which has its id."""

WORKING: Final = frozenset({State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT})
HOUSEKEEPING: Final = "housekeeping"
"""Who purges."""

_EXHAUSTED: Final = Failure(
    code="attempts_exhausted", message="It was tried several times and did not come to an end; ask again.", retryable=True
)
_AT_ONCE: Final = 100
_REMEMBERED: Final = 256
_REMEMBERED_FRAMES: Final = 16
_AGAIN_AFTER_S: Final = 30.0
_OLDER: Final = timedelta(days=1)
"""How far clocks of two machines may lie apart, for looking into few months."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PostgresTransforms:
    """Implements `moderation.ports.TransformLog`."""

    def __init__(self, database: Database, *, clock: Clock = _utc_now) -> None:
        self._database = database
        self._named = Named()
        self._memory: OrderedDict[tuple[UUID, UUID], Decision] = OrderedDict()
        self._clock = clock

    # --- accepting and reading ----------------------------------------------------------------

    async def accept(self, transform: Transform, *, use: KeyUse | None = None) -> tuple[Begun, UUID]:
        """Commit request, first event, entry, job and key in one transaction; what the key says and the id to answer with.

        With anything but NEW nothing is written. Raises RecordUnavailable, also for what the record refuses: an id or a text that
        cannot be stored, a policy or a catalogue's entry that does not exist.
        """
        try:
            return await self._write(transform.tenant, lambda connection: _accept(connection, transform, use))
        except (TypeError, ValueError) as fault:
            raise RecordUnavailable(f"the transform has no record form: {fault}") from fault

    async def load(self, tenant: UUID, id: UUID) -> Committed | None:
        """Everything about one transform, of one moment; None for another tenant's. Raises RecordUnavailable."""
        found = await self._load(tenant, [id])
        return found[0] if found else None

    async def find(self, tenant: UUID, wanted: TransformFilter) -> Sequence[Committed]:
        """Newest first, at most `wanted.limit` + 1. Raises RecordUnavailable."""
        statement = _matching(tenant, wanted)
        ids = await self._database.run(Context(tenant=tenant), lambda connection: connection.execute(statement).scalars().all())
        return await self._load(tenant, ids)

    async def events(self, tenant: UUID, id: UUID, *, after: int = 0) -> Sequence[Event]:
        """What happened after the event of this number, oldest first. Raises RecordUnavailable."""
        rows = await self._database.ask(tenant, _EVENTS, (str(tenant), str(id), str(after)))
        return [event_of(document) for (document,) in rows]

    async def _load(self, tenant: UUID, ids: Sequence[UUID]) -> list[Committed]:
        """Those that there are, in the order of `ids`.

        One statement says what there was at one moment. The decisions that it names are read after it: they never change.
        """
        if not ids:
            return []
        first, last = min(ids), max(ids)
        asked = (str(tenant), _array(ids), str(first), str(last), _floor(first, -_OLDER))
        rows: dict[UUID, dict[str, list[dict[str, Any]]]] = {}
        for what, about, document in await self._database.ask(tenant, _EVERYTHING, asked):
            rows.setdefault(UUID(str(about)), {}).setdefault(what, []).append(document)
        named = [row for own in rows.values() for row in own.get("decision", ())]
        known = await self._decisions(tenant, {UUID(row["id"]) for row in named})
        return [committed_of(rows[id], known) for id in ids if "transform" in rows.get(id, ())]

    async def _decisions(self, tenant: UUID, ids: set[UUID]) -> Mapping[UUID, Decision]:
        """Decisions by their ids; those of pictures are remembered, as a worker asks for the same ones after every step."""
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
        if sum(len(sheet.frames) for sheet in decision.sheets) <= _REMEMBERED_FRAMES:
            self._memory[tenant, decision.id] = decision
            if len(self._memory) > _REMEMBERED:
                self._memory.popitem(last=False)

    # --- under a lease ------------------------------------------------------------------------

    async def advance(self, job: Job, to: State) -> None:
        """Write that the work is in this state now; the job goes on. No event where it is there already.

        Raises FactsChanged where somebody asked for the transform's end, StaleLease, RecordUnavailable; ValueError for a state in which
        nobody works.
        """
        if to not in WORKING:
            raise ValueError(f"nobody works in state {to}")
        await self._write(job.tenant, lambda connection: _advance(connection, job, to))

    async def add_part(self, job: Job, part: Part) -> None:
        """Write the name of a file of ours; the job goes on. Raises StaleLease (also where there is one of this kind), RecordUnavailable."""
        await self._write(job.tenant, lambda connection: _add_part(connection, job, part))

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

        Number and time are given here. Raises FactsChanged with `held` where somebody reviewed that decision or asked for the
        transform's end meanwhile; StaleLease; RecordUnavailable; ValueError for an end that the record contradicts.
        """
        await self._write(job.tenant, lambda connection: _end(connection, job, event))

    # --- without a lease ----------------------------------------------------------------------

    async def request_cancel(self, tenant: UUID, id: UUID, actor: str) -> State | None:
        """Write that an end is asked for and wake the work if it waits; the state it had then, None where there is no such transform.

        Writes nothing where it has ended or its release is committed. Raises RecordUnavailable.
        """
        return await self._write(tenant, lambda connection: _request_cancel(connection, tenant, id, actor))

    async def end_parked(self) -> int:
        """End as failed all transforms whose job was given up and say how many, over all tenants. Raises RecordUnavailable.

        One whose release is committed is not ended but tried again: what is released will be published.
        """
        parked = (
            select(tables.job.c.tenant, tables.job.c.id)
            .where(tables.job.c.kind == KIND, tables.job.c.state == QueueState.PARKED.value)
            .limit(_AT_ONCE)
        )
        given_up = await self._database.run(Context(worker=True), lambda connection: connection.execute(parked).all())
        return sum([await self._write(tenant, _ending_parked(tenant, id)) for tenant, id in given_up])

    async def expired(self, limit: int = _AT_ONCE) -> Sequence[Release]:
        """Releases of all tenants whose time is over or that were withdrawn, and whose bytes are not yet recorded as purged.

        Raises RecordUnavailable.
        """
        where = {"now": self._clock(), "limit": limit}
        rows = await self._database.run(Context(worker=True), lambda connection: connection.execute(_EXPIRED, where).scalars().all())
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


# --- accepting ------------------------------------------------------------------------------------


def _accept(connection: Connection, transform: Transform, use: KeyUse | None) -> tuple[Begun, UUID]:
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
    return Begun.NEW, transform.id


def _write_event(connection: Connection, tenant: UUID, transform: UUID, sequence: int, state: State, **facts: Any) -> None:
    values = {"tenant": tenant, "transform": transform, "sequence": sequence, "state": str(state), **facts}
    connection.execute(insert(tables.transform_event).values(values))


# --- under a lease --------------------------------------------------------------------------------


def _advance(connection: Connection, job: Job, to: State) -> None:
    ((is_held, is_stopped),) = answer(connection, _ADVANCE, str(job.tenant), str(job.id), job.fence, str(to))
    if not is_held:
        raise StaleLease("another worker holds this job, or it has ended")
    if is_stopped:
        raise FactsChanged("somebody asked for the end of this transform")


def _add_part(connection: Connection, job: Job, part: Part) -> None:
    row = part_row(part)
    if not answer(connection, _ADD_PART, str(job.tenant), str(job.id), job.fence, *(row[name] for name in PART_COLUMNS)):
        raise StaleLease(f"another worker holds this job, or there is a {part.kind} part already")


def _release(connection: Connection, job: Job, release: Release) -> None:
    if release.pinned.name != release.in_force.name or set(release.decisions) != {Stage.SOURCE, Stage.TARGET, Stage.OUTPUT}:
        raise ValueError("a release names three decisions, and two versions of one policy")
    queue.hold(connection, job)
    hold_policy(connection, release.tenant, release.pinned.name)
    transform = (str(release.tenant), str(release.transform))
    for (earlier,) in answer(connection, _EARLIER_RELEASE, *transform):
        if not _is_the_same(release_of(earlier), release):
            raise StaleLease("this transform has a release already")
        return
    ((version, digest, is_stopped),) = answer(connection, _IN_FORCE, *transform, release.in_force.name)
    if is_stopped:
        raise FactsChanged("somebody asked for the end of this transform")
    if (version, digest) != (release.in_force.version, release.in_force.digest):
        raise FactsChanged("another policy is in force")
    said = answer(connection, _SAID, *transform, _floor(release.transform, -_OLDER), bytes.fromhex(release.encoded_sha256))
    if any(verdict == Verdict.BLOCK for _, verdict in said):
        raise FactsChanged("a person blocks one of the pictures")
    id: UUID = uuid7()
    written = answer(connection, _RELEASE, *_release_values(release, id, [decision for decision, _ in said]))
    if not written:
        raise ValueError("the record does not hold what this release says")
    ((actor,),) = written
    canonical = release_entry(release, id=id, actor=actor, nonce=new_nonce())
    write_entry(connection, id=id, tenant=release.tenant, kind="release", canonical=canonical)


def _release_values(release: Release, id: UUID, allowed: Sequence[UUID]) -> tuple[object, ...]:
    """The parameters of `_RELEASE`. `allowed` are decisions that a person allows."""
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
        _array(allowed),
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
    if event.state is State.HELD and (now.reviewed or now.cancelled):
        raise FactsChanged("somebody reviewed that decision or asked for the end")


def _end_work(connection: Connection, tenant: UUID, transform: UUID, state: State, before: Row[*tuple[Any, ...]]) -> None:
    """End the job, which is locked, and queue the call to the callback URL at a final event."""
    is_final = state in FINAL
    queue.finish(connection, transform, may_go_on=not is_final)
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


def wake_if_held(connection: Connection, tenant: UUID, transform: UUID) -> None:
    """Queue a transform, whose job is locked, again if it waits for a person."""
    now = _standing(connection, tenant, transform)
    if now is not None and now.state == State.HELD:
        queue.wake(connection, transform)


def _ending_parked(tenant: UUID, transform: UUID) -> Callable[[Connection], int]:
    def end(connection: Connection) -> int:
        cause = connection.execute(_STILL_PARKED, {"id_": transform}).one_or_none()
        if cause is None:  # another has seen to it
            return 0
        now = _standing(connection, tenant, transform)
        if now is None or now.state in FINAL:
            queue.finish(connection, transform)
            return 0
        if now.released:
            queue.wake(connection, transform, after_s=_AGAIN_AFTER_S)
            return 0
        failure = failure_document(_EXHAUSTED, cause=cause.last_error)
        _write_event(connection, tenant, transform, now.sequence + 1, State.FAILED, failure=failure)
        _end_work(connection, tenant, transform, State.FAILED, now)
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


# --- statements -----------------------------------------------------------------------------------


def _standing(connection: Connection, tenant: UUID, transform: UUID, *, decision: UUID | None = None) -> Row[*tuple[Any, ...]] | None:
    """Where a transform stands: its last event, and what else is committed. `reviewed` is about `decision`."""
    rows = answer(connection, _STANDING, str(tenant), str(transform), None if decision is None else str(decision))
    return rows[0] if rows else None


def _matching(tenant: UUID, wanted: TransformFilter) -> Select[UUID]:
    ids = tables.transform.c.id
    statement = select(ids).where(tables.transform.c.tenant == tenant).order_by(ids.desc()).limit(wanted.limit + 1)
    if wanted.before is not None:
        statement = statement.where(ids < wanted.before)
    if wanted.state is not None:
        statement = statement.where(ids.in_(_standing_in(tenant, wanted.state)))
    if wanted.reference is not None:
        personal = tables.personal.c
        statement = statement.where(
            ids.in_(
                select(personal.id).where(
                    personal.tenant == tenant,
                    personal.kind == REFERENCE,
                    func.md5(personal.content) == func.md5(wanted.reference),
                    personal.content == wanted.reference,
                )
            )
        )
    return statement


def _standing_in(tenant: UUID, state: State) -> Select[UUID]:
    event, later = tables.transform_event, tables.transform_event.alias()
    went_on = exists().where(later.c.tenant == event.c.tenant, later.c.transform == event.c.transform, later.c.sequence > event.c.sequence)
    return select(event.c.transform).where(event.c.tenant == tenant, event.c.state == str(state), ~went_on)


def _array(ids: Iterable[UUID]) -> str:
    """Ids as Postgres reads an array."""
    return "{" + ",".join(map(str, ids)) + "}"


def _floor(id: UUID, shift: timedelta) -> str:
    """The least UUIDv7 of the moment of `id`, shifted."""
    return str(UUID(int=max(0, (id.int >> 80) + round(shift.total_seconds() * 1000)) << 80))


# $1 tenant, $2 transforms, $3 and $4 the least and the greatest of them, $5 an id that is older than any of their decisions:
# the bounds are what lets Postgres look into the months in question only.
_EVERYTHING: Final = Question(
    name="transform_everything",
    types=("uuid", "uuid[]", "uuid", "uuid", "uuid"),
    statement="""
SELECT 'transform', t.id, to_jsonb(t)
FROM facegate.transform t WHERE t.tenant = $1 AND t.id = ANY($2) AND t.id BETWEEN $3 AND $4
UNION ALL
SELECT 'event', e.transform, to_jsonb(e)
FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = ANY($2) AND e.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'personal', p.id, jsonb_build_object('kind', p.kind, 'content', p.content)
FROM facegate.personal p WHERE p.tenant = $1 AND p.id = ANY($2) AND p.id BETWEEN $3 AND $4
UNION ALL
SELECT 'decision', d.transform, jsonb_build_object(
    'id', d.id, 'recorded_at', d.recorded_at,
    'reference', (SELECT p.content FROM facegate.personal p WHERE p.tenant = $1 AND p.id = d.id AND p.kind = 'reference'))
FROM facegate.decision d WHERE d.tenant = $1 AND d.transform = ANY($2) AND d.id >= $5
UNION ALL
SELECT 'review', d.transform, to_jsonb(r) || jsonb_build_object(
    'reason', (SELECT p.content FROM facegate.personal p WHERE p.tenant = $1 AND p.id = r.id AND p.kind = 'review_reason'),
    'subject', (SELECT p.content FROM facegate.personal p WHERE p.tenant = $1 AND p.id = r.id AND p.kind = 'subject'))
FROM facegate.decision d JOIN facegate.review r ON r.tenant = d.tenant AND r.decision = d.id
WHERE d.tenant = $1 AND d.transform = ANY($2) AND d.id >= $5 AND r.id >= $5
UNION ALL
SELECT 'part', p.transform, to_jsonb(p)
FROM facegate.part p WHERE p.tenant = $1 AND p.transform = ANY($2) AND p.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'release', r.transform, to_jsonb(r)
FROM facegate.release r WHERE r.tenant = $1 AND r.transform = ANY($2) AND r.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'withdrawal', w.transform, '{}' FROM facegate.release_withdrawal w WHERE w.tenant = $1 AND w.transform = ANY($2)
UNION ALL
SELECT 'purge', p.transform, '{}'
FROM facegate.release_purge p WHERE p.tenant = $1 AND p.transform = ANY($2) AND p.transform BETWEEN $3 AND $4
UNION ALL
SELECT 'cancel', c.transform, '{}' FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = ANY($2)
""",
)

_EVENTS: Final = Question(
    name="transform_events",
    types=("uuid", "uuid", "integer"),
    statement="""
SELECT to_jsonb(e) FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2 AND e.sequence > $3 ORDER BY e.sequence
""",
)

_STANDING: Final = Question(
    name="transform_standing",
    types=("uuid", "uuid", "uuid"),
    statement=f"""
SELECT e.sequence, e.state, e.held->>'decision' AS held,
    EXISTS (SELECT FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2) AS released,
    EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2) AS cancelled,
    EXISTS (SELECT FROM facegate.personal p WHERE p.tenant = $1 AND p.id = $2 AND p.kind = '{CALLBACK_URL}') AS has_callback,
    EXISTS (SELECT FROM facegate.review r WHERE r.tenant = $1 AND r.decision = $3) AS reviewed
FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2
ORDER BY e.sequence DESC LIMIT 1
""",  # noqa: S608  # a constant of ours
)

# In one statement, since nobody but the holder of the lease writes events; of two at once the key refuses one.
_ADVANCE: Final = Question(
    name="transform_advance",
    types=("uuid", "uuid", "bigint", "text"),
    statement="""
WITH held AS (
    SELECT id FROM facegate.job WHERE id = $2 AND fence = $3 AND state = 'running' FOR NO KEY UPDATE
), stopped AS (
    SELECT EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2)
        AND NOT EXISTS (SELECT FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2) AS is_so
), made AS (
    INSERT INTO facegate.transform_event (tenant, transform, sequence, state)
    SELECT $1, $2, last.sequence + 1, $4
    FROM held, stopped, (SELECT e.sequence, e.state FROM facegate.transform_event e WHERE e.tenant = $1 AND e.transform = $2
                         ORDER BY e.sequence DESC LIMIT 1) last
    WHERE last.state <> $4 AND NOT stopped.is_so
)
SELECT EXISTS (SELECT FROM held), is_so FROM stopped
""",
)

_ADD_PART: Final = Question(
    name="transform_add_part",
    types=("uuid", "uuid", "bigint", *PART_COLUMNS.values()),
    statement=f"""
INSERT INTO facegate.part (tenant, transform, {", ".join(PART_COLUMNS)})
SELECT $1, $2, {", ".join(f"${at}" for at, _ in enumerate(PART_COLUMNS, 4))}
FROM (SELECT id FROM facegate.job WHERE id = $2 AND fence = $3 AND state = 'running' FOR NO KEY UPDATE) held
ON CONFLICT DO NOTHING RETURNING kind
""",  # noqa: S608  # constants of ours
)

_EARLIER_RELEASE: Final = Question(
    name="transform_release_earlier",
    types=("uuid", "uuid"),
    statement="SELECT to_jsonb(r) FROM facegate.release r WHERE r.tenant = $1 AND r.transform = $2",
)

_IN_FORCE: Final = Question(
    name="transform_release_in_force",
    types=("uuid", "uuid", "text"),
    statement="""
SELECT version, digest, EXISTS (SELECT FROM facegate.transform_cancel c WHERE c.tenant = $1 AND c.transform = $2)
FROM facegate.policy WHERE tenant = $1 AND name = $3 ORDER BY version DESC LIMIT 1
""",
)

# A person's block stands for the bytes: it counts whichever decision about them the release names. Others do not concern it.
_SAID: Final = Question(
    name="transform_release_said",
    types=("uuid", "uuid", "uuid", "bytea"),
    statement="""
SELECT DISTINCT ON (r.decision) r.decision, r.verdict
FROM facegate.transform t JOIN facegate.decision d ON d.tenant = t.tenant AND d.transform = t.id
    AND (d.stage, d.media_sha256) IN (('source', t.source_sha256), ('target', t.target_sha256), ('output', $4))
JOIN facegate.review r ON r.tenant = d.tenant AND r.decision = d.id
WHERE t.tenant = $1 AND t.id = $2 AND d.id >= $3 AND r.id >= $3
ORDER BY r.decision, r.recorded_at DESC, r.id DESC
""",
)

# Once more, and by the database itself, what the gate has seen to: everything that the release names is there, is about exactly
# these bytes, and was made under the policy that was pinned; and no decision that stops a transform is among the three.
_RELEASE: Final = Question(
    name="transform_release",
    types=(
        *("uuid", "uuid", "uuid", "bytea", "bytea", "uuid", "uuid", "uuid", "text", "integer", "text", "integer", "text"),
        *("timestamptz", "timestamptz", "uuid[]"),
    ),
    statement="""
WITH accepted AS (
    SELECT t.tenant, t.id, t.actor FROM facegate.transform t
    JOIN facegate.part encoded ON encoded.tenant = $1 AND encoded.transform = $2 AND encoded.kind = 'encoded' AND encoded.sha256 = $5
    JOIN facegate.part signed ON signed.tenant = $1 AND signed.transform = $2 AND signed.kind = 'signed' AND signed.sha256 = $4
        AND signed.made_of = encoded.sha256 AND signed.frame_digest = encoded.frame_digest
    JOIN facegate.decision d ON d.tenant = $1 AND d.id IN ($6, $7, $8) AND d.transform = $2 AND d.policy_digest = t.policy_digest
        AND (d.id, d.stage, d.media_sha256)
            IN (($6, 'source', t.source_sha256), ($7, 'target', t.target_sha256), ($8, 'output', encoded.sha256))
        AND (d.verdict = 'allow' OR d.verdict = 'review' AND d.id = ANY($16))
    WHERE t.tenant = $1 AND t.id = $2 AND t.policy_name = $9 AND t.policy_version = $10 AND t.policy_digest = $11
    GROUP BY t.tenant, t.id HAVING count(*) = 3
), made AS (
    INSERT INTO facegate.release (tenant, transform, id, signed_sha256, encoded_sha256, source_decision, target_decision, output_decision,
        policy_name, pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at)
    SELECT tenant, accepted.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15 FROM accepted RETURNING transform
)
SELECT accepted.actor FROM accepted JOIN made ON made.transform = accepted.id
""",
)

_STILL_PARKED: Final = (
    select(tables.job.c.last_error)
    .where(tables.job.c.id == bindparam("id_"), tables.job.c.state == QueueState.PARKED.value)
    .with_for_update(key_share=True, skip_locked=True)
)

_EXPIRED: Final = text("""
SELECT to_jsonb(r) FROM facegate.release r
JOIN (SELECT tenant, transform FROM facegate.release WHERE expires_at <= :now
      UNION SELECT tenant, transform FROM facegate.release_withdrawal) gone USING (tenant, transform)
WHERE NOT EXISTS (SELECT FROM facegate.release_purge p WHERE p.tenant = r.tenant AND p.transform = r.transform)
ORDER BY r.expires_at, r.transform LIMIT :limit
""")
