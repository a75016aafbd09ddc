"""Group commit: one thread writes the decisions of all callers, and each waits for the commit of its own.

The thread takes everything that waits, writes it tenant by tenant in one transaction, commits once, and wakes the callers.
While the disk works on one commit the next batch gathers, so that a commit costs the more callers share it the less.

What can go wrong, and what it means for the caller:

- A row that Postgres refuses fails alone: the batch is halved until it stands by itself.
- The connection is lost before the commit was sent: nothing was written; tried once more on a fresh one.
- It is lost while the commit was under way: the outcome is unknown and is looked up by id; only what is there is acknowledged.
- No connection: whoever waits is told at once, and the next caller's write tries again.
- The server is silent: the caller gives up after `answer_s`; what was not yet sent by then is dropped, so that no decision
  is written long after its caller was told that there is none. A caller that merely goes away loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from moderation.adapters.decision_rows import COLUMNS, FIELD, NULL, REFERENCE, ROW, SQL_TYPES, DecisionRow, classifier_document
from moderation.errors import ModerationError, Overloaded, RecordUnavailable, StaleLease
from moderation.ports import Job

_log: Final = logging.getLogger(__name__)

BATCH_ROWS: Final = 256
"""Measured: with more, callers and database wait for each other in turns; with less, statements cost more than rows."""
BATCH_CHARS: Final = 8_000_000
_PAUSE_AFTER_REFUSAL_S: Final = 0.1
_PARTITIONS_EVERY_S: Final = 24 * 3600.0
_REMEMBERED: Final = 10_000
_ROW_FAULTS: Final = frozenset({"22", "23", "54"})
"""Classes of SQLSTATE: data exception, integrity constraint violation, program limit exceeded."""

# One literal travels and is cut up there: several times cheaper on both sides than a parameter per value.
# Prepared, since for one decision planning costs as much as writing.
_PREPARE: Final = f"""
PREPARE decisions (uuid, text) AS WITH given AS MATERIALIZED (
    SELECT string_to_array(line, '{FIELD}', '{NULL}') AS f FROM string_to_table($2, '{ROW}') AS line
), decided AS (
    INSERT INTO facegate.decision (tenant, {", ".join(COLUMNS)})
    SELECT $1, {", ".join(f"f[{at}]::{kind}" for at, kind in enumerate(SQL_TYPES, 1))} FROM given
)
INSERT INTO facegate.entry (tenant, id, kind, canonical)
SELECT $1, f[1]::uuid, 'decision', convert_to(f[{len(COLUMNS) + 1}], 'UTF8') FROM given
"""  # noqa: S608  # column names and types of our own tables
_DECISIONS: Final = "EXECUTE decisions (%(tenant)s, %(lines)s)"
_TENANT: Final = "SET LOCAL facegate.tenant = %(tenant)s"
_DONE: Final = """
UPDATE facegate.job SET state = 'done', lease_until = NULL, finished_at = clock_timestamp()
FROM unnest(%(job_ids)s::uuid[], %(fences)s::bigint[]) AS held (id, fence)
WHERE job.id = held.id AND job.fence = held.fence AND job.state = 'running' RETURNING job.id, job.fence
"""
# The lock holds until the commit: nobody can take the job or end it in between.
_HELD: Final = """
SELECT job.id, job.fence
FROM facegate.job JOIN unnest(%(job_ids)s::uuid[], %(fences)s::bigint[]) AS held (id, fence) USING (id, fence)
WHERE job.state = 'running' FOR NO KEY UPDATE OF job
"""
_PERSONAL: Final = """
INSERT INTO facegate.personal (tenant, id, kind, salt, content)
SELECT %(tenant)s::uuid, id, %(kind)s, decode(salt, 'hex'), content
FROM unnest(%(personal_ids)s::uuid[], %(salts)s::text[], %(contents)s::text[]) AS given (id, salt, content)
"""
_THRESHOLDS: Final = """
INSERT INTO facegate.thresholds (tenant, id, applied)
SELECT %(tenant)s::uuid, decode(id, 'hex'), applied::jsonb FROM unnest(%(threshold_ids)s::text[], %(applied)s::text[]) AS given (id, applied)
ON CONFLICT DO NOTHING
"""
_CLASSIFIER: Final = """
INSERT INTO facegate.classifier (id, name, version, digest, mapping_digest, categories, input, calibrated, runtime)
VALUES (%(id)s, %(name)s, %(version)s, %(digest)s, %(mapping_digest)s, %(categories)s::text[], %(input)s, %(calibrated)s, %(runtime)s)
ON CONFLICT DO NOTHING
"""
_PRESENT: Final = "SELECT id FROM facegate.entry WHERE tenant = %(tenant)s AND id = ANY(%(ids)s::uuid[])"

_Cursor: TypeAlias = psycopg2.extensions.cursor


@dataclass(slots=True, kw_only=True, eq=False)
class _Write:
    """One caller's decision on its way."""

    row: DecisionRow
    job: Job | None
    keep_job: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    given_up: bool = False
    answered: bool = False


_Outcome: TypeAlias = "tuple[_Write, ModerationError | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderStatus:
    """For readiness and metrics. `waiting` are decisions not yet taken up; `fault` says why the last batch failed."""

    connected: bool
    waiting: int
    fault: str | None


class AlreadyRecorded(RecordUnavailable):
    """A decision with this id is there already; whether it is the same one is for the caller to see."""


class _InDoubt(Exception):  # says what is known, and is no error by itself
    """The commit was sent and its answer did not come."""


class Recorder:
    """The writing thread. `engine` must allow one connection, used for nothing else; `observe` is told how many decisions each commit had."""

    def __init__(self, engine: Engine, *, capacity: int, answer_s: float, observe: Callable[[int], None]) -> None:
        self._engine = engine
        self._observe = observe
        self._capacity = capacity
        self._answer_s = answer_s
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._connection: PoolProxiedConnection | None = None
        self._fault: str | None = None
        self._refused_until = 0.0
        self._partitions_at = 0.0
        self._known_classifiers: set[bytes] = set()
        self._known_thresholds: set[tuple[UUID, bytes]] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    # --- callers' side ------------------------------------------------------------------------

    async def write(self, row: DecisionRow, job: Job | None, *, keep_job: bool = False) -> None:
        """Return once the row is committed. Raises RecordUnavailable (AlreadyRecorded), Overloaded or StaleLease."""
        if self._closing:
            raise RecordUnavailable("the record is closed")
        if self._waiting.qsize() >= self._capacity:
            raise Overloaded("record")
        loop = asyncio.get_running_loop()
        write = _Write(row=row, job=job, keep_job=keep_job, loop=loop, future=loop.create_future())
        self._waiting.put(write)
        patience = loop.call_later(self._answer_s, _give_up, write)
        try:
            await write.future
        finally:
            patience.cancel()

    def status(self) -> RecorderStatus:
        """How it stands just now."""
        return RecorderStatus(connected=self._connection is not None, waiting=self._waiting.qsize(), fault=self._fault)

    def close(self) -> None:
        """Write what waits, then end the thread; gives up after the time-out of a statement."""
        if not self._closing:
            self._closing = True
            self._waiting.put(None)
        self._thread.join(2 * self._answer_s)

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            batch, ended = self._take()
            if batch:
                try:
                    self._record(batch)
                except Exception as fault:  # noqa: BLE001  # nobody else would see it, and the callers must not wait for ever
                    _log.exception("the recorder failed on a batch")
                    self._drop_connection()
                    self._refuse(batch, fault)
            if ended:
                self._drop_connection()
                return

    def _take(self) -> tuple[list[_Write], bool]:
        """Wait for one, then take all that wait, up to the size of a batch. True after the last one ever."""
        batch: list[_Write] = []
        size = 0
        item = self._waiting.get()
        while item is not None:
            if not item.given_up:
                batch.append(item)
                size += len(item.row.line)
            if len(batch) >= BATCH_ROWS or size >= BATCH_CHARS:
                return batch, False
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _record(self, batch: Sequence[_Write]) -> None:
        """Write a batch, on a fresh connection if the old one turns out to be dead before anything was committed."""
        for last_try in (False, True):
            try:
                connection = self._connected()
            except (DBAPIError, psycopg2.Error) as fault:
                self._refuse(batch, fault)
                return
            try:
                self._divide(connection, [write for write in batch if not write.answered])
            except _InDoubt as doubt:
                self._drop_connection()
                self._settle([write for write in batch if not write.answered], doubt)
                return
            except psycopg2.Error as fault:
                again = bool(connection.closed) or _is_transient(fault)
                self._drop_connection()
                if again and not last_try:
                    continue
                self._refuse(batch, fault)
            return

    def _divide(self, connection: psycopg2.extensions.connection, batch: Sequence[_Write]) -> None:
        """Write all in one transaction; where a row is at fault, both halves by themselves."""
        try:
            outcomes = self._transact(connection, batch)
        except (psycopg2.Error, ValueError, TypeError) as fault:
            if not _is_of_a_row(fault) or connection.closed:
                raise
            _roll_back(connection)
            if len(batch) == 1:
                self._answer([(batch[0], _refusal(fault))])
                return
            middle = len(batch) // 2
            self._divide(connection, batch[:middle])
            self._divide(connection, batch[middle:])
        else:
            self._fault = None
            self._answer(outcomes)
            self._tell(sum([fault is None for _, fault in outcomes]))

    def _transact(self, connection: psycopg2.extensions.connection, batch: Sequence[_Write]) -> list[_Outcome]:
        """One transaction, committed; writes whose lease is stale are left out.

        Raises psycopg2.Error before the commit was sent, _InDoubt after.
        """
        with connection.cursor() as cursor:
            statements = [b"BEGIN"]
            if any(write.job is not None for write in batch):
                cursor.execute(statements.pop())
            fresh, stale = _fenced(cursor, batch)
            statements += self._classifiers(cursor, fresh)
            for tenant, group in _by_tenant(fresh):
                statements.append(self._group(cursor, tenant, [write.row for write in group]))
            if statements:  # all in one round trip
                cursor.execute(b";".join(statements))
            _commit(cursor)
        self._remember(fresh)
        outcomes: list[_Outcome] = [(write, None) for write in fresh]
        return outcomes + [(write, StaleLease("the job was leased again, or has ended")) for write in stale]

    def _group(self, cursor: _Cursor, tenant: UUID, rows: Sequence[DecisionRow]) -> bytes:
        """The statements for all of one tenant: decisions, entries and what goes with them."""
        statements = [_TENANT, _DECISIONS]
        values: dict[str, object] = {"tenant": str(tenant), "lines": ROW.join(row.line for row in rows)}
        applied = {row.thresholds[0]: row.thresholds[1] for row in rows if (tenant, row.thresholds[0]) not in self._known_thresholds}
        if applied:
            statements.append(_THRESHOLDS)
            ordered = sorted(applied.items())  # the same order everywhere, so that two recorders never wait for each other
            values |= {"threshold_ids": [name.hex() for name, _ in ordered], "applied": [text for _, text in ordered]}
        named = [(row.decision.id, row.salt, row.decision.reference) for row in rows if row.salt is not None]
        if named:
            statements.append(_PERSONAL)
            values |= {
                "kind": REFERENCE,
                "personal_ids": [str(name) for name, _, _ in named],
                "salts": [salt.hex() for _, salt, _ in named],
                "contents": [content for _, _, content in named],
            }
        made: bytes = cursor.mogrify(";".join(statements), values)
        return made

    def _classifiers(self, cursor: _Cursor, batch: Iterable[_Write]) -> Iterable[bytes]:
        unknown = {
            name: version for write in batch for name, version in write.row.classifiers.items() if name not in self._known_classifiers
        }
        for name, version in sorted(unknown.items()):
            document = classifier_document(version)
            yield cursor.mogrify(_CLASSIFIER, document | {"id": name, "input": json.dumps(document["input"])})

    def _remember(self, batch: Iterable[_Write]) -> None:
        """What is committed need not be sent again."""
        for known in (self._known_classifiers, self._known_thresholds):
            if len(known) > _REMEMBERED:
                known.clear()
        for write in batch:
            self._known_classifiers.update(write.row.classifiers)
            self._known_thresholds.add((write.row.tenant, write.row.thresholds[0]))

    # --- after a fault ------------------------------------------------------------------------

    def _settle(self, batch: Sequence[_Write], doubt: _InDoubt) -> None:
        """Look up which writes of a doubtful commit are there. Only those are certain; the others may still be on their way."""
        deadline = time.monotonic() + self._answer_s
        while True:
            try:
                present = _present(self._connected(), batch)
            except (DBAPIError, psycopg2.Error):
                self._drop_connection()
                if time.monotonic() > deadline:
                    self._refuse(batch, doubt)
                    return
                time.sleep(_PAUSE_AFTER_REFUSAL_S)
            else:
                break
        self._answer([(write, None) for write in batch if write.row.decision.id in present])
        self._refuse([write for write in batch if not write.answered], doubt)

    def _refuse(self, batch: Iterable[_Write], fault: Exception) -> None:
        self._fault = _words(fault)
        self._answer([(write, RecordUnavailable(f"not recorded: {self._fault}")) for write in batch if not write.answered])

    def _answer(self, outcomes: Sequence[_Outcome]) -> None:
        """Wake the callers, once per event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for outcome in outcomes:
            outcome[0].answered = True
            by_loop.setdefault(outcome[0].loop, []).append(outcome)
        for loop, own in by_loop.items():
            with suppress(RuntimeError):  # a loop that is closed has nobody waiting
                loop.call_soon_threadsafe(_wake, own)

    def _tell(self, decisions: int) -> None:
        """Once the callers have gone on; whatever is wrong with counting is not wrong with the record."""
        if decisions:
            try:
                self._observe(decisions)
            except Exception:  # noqa: BLE001  # a decision that is committed must not be told as a fault
                _log.exception("a commit was not counted")

    # --- the connection -----------------------------------------------------------------------

    def _connected(self) -> psycopg2.extensions.connection:
        if self._connection is None:
            if time.monotonic() < self._refused_until:
                raise psycopg2.OperationalError(self._fault or "the database is away")
            try:
                self._connection = self._engine.raw_connection()
                _prepare(_driver(self._connection))
            except (DBAPIError, psycopg2.Error):
                self._refused_until = time.monotonic() + _PAUSE_AFTER_REFUSAL_S
                self._drop_connection()
                raise
        connection = _driver(self._connection)
        if time.monotonic() >= self._partitions_at:
            self._make_partitions(connection)
        return connection

    def _make_partitions(self, connection: psycopg2.extensions.connection) -> None:
        """Months ahead, once a day. A failure matters only months later and must not stop the recording."""
        self._partitions_at = time.monotonic() + _PARTITIONS_EVERY_S
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT facegate.make_partitions()")
        except psycopg2.Error as fault:
            if connection.closed:
                raise
            _log.warning("no partitions could be made ahead: %s", _words(fault))

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()


# --- helpers ----------------------------------------------------------------------------------


def _driver(connection: PoolProxiedConnection) -> psycopg2.extensions.connection:
    driver = connection.driver_connection
    if not isinstance(driver, psycopg2.extensions.connection):
        raise TypeError("the recorder speaks to psycopg2")
    return driver


def _prepare(connection: psycopg2.extensions.connection) -> None:
    connection.autocommit = True  # transactions are begun and ended in so many words: BEGIN then travels with the rest
    with connection.cursor() as cursor:
        cursor.execute(_PREPARE)


def _commit(cursor: _Cursor) -> None:
    """Raises _InDoubt if the transaction may not be committed."""
    try:
        cursor.execute("COMMIT")
    except psycopg2.Error as fault:
        raise _InDoubt(_words(fault)) from fault
    if cursor.statusmessage != "COMMIT":  # what Postgres answers where the transaction had failed, and no error
        raise _InDoubt(f"the commit ended in {cursor.statusmessage}")


def _roll_back(connection: psycopg2.extensions.connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ROLLBACK")


def _give_up(write: _Write) -> None:
    """The caller has waited long enough. What was sent already may still be committed."""
    write.given_up = True
    if not write.future.done():
        write.future.set_exception(RecordUnavailable("the database did not confirm the decision in time"))


def _wake(outcomes: Iterable[_Outcome]) -> None:
    for write, fault in outcomes:
        if write.future.done():
            continue  # the caller went away
        if fault is None:
            write.future.set_result(None)
        else:
            write.future.set_exception(fault)


def _by_tenant(batch: Iterable[_Write]) -> Iterable[tuple[UUID, list[_Write]]]:
    groups: dict[UUID, list[_Write]] = {}
    for write in batch:
        groups.setdefault(write.row.tenant, []).append(write)
    return groups.items()


def _fenced(cursor: _Cursor, batch: Sequence[_Write]) -> tuple[Sequence[_Write], Sequence[_Write]]:
    """Hold or end the jobs of a batch in the open transaction; splits it into what may be written and what came too late."""
    with_job = [write for write in batch if write.job is not None]
    if not with_job:
        return batch, ()
    late: set[_Write] = set()
    for statement, keep in ((_HELD, True), (_DONE, False)):  # what goes on first: once ended, a job holds for nobody
        for tenant, group in _by_tenant(write for write in with_job if write.keep_job is keep):
            leases = [(write.job.id, write.job.fence) for write in group if write.job is not None]
            values = {"tenant": str(tenant), "job_ids": [str(name) for name, _ in leases], "fences": [fence for _, fence in leases]}
            cursor.execute(f"{_TENANT};{statement}", values)
            valid = {(UUID(str(name)), fence) for name, fence in cursor.fetchall()}
            late |= {write for write, lease in zip(group, leases, strict=True) if lease not in valid}
    return [write for write in batch if write not in late], [write for write in with_job if write in late]


def _present(connection: psycopg2.extensions.connection, batch: Iterable[_Write]) -> set[UUID]:
    """Which decisions of a batch are in the record."""
    present: set[UUID] = set()
    with connection.cursor() as cursor:
        for tenant, group in _by_tenant(batch):
            cursor.execute(f"{_TENANT};{_PRESENT}", {"tenant": str(tenant), "ids": [str(write.row.decision.id) for write in group]})
            present |= {UUID(str(found)) for (found,) in cursor.fetchall()}
    return present


def _is_of_a_row(fault: Exception) -> bool:
    """Whether the fault lies in what was written (data, constraints, size), and not in the database or its schema."""
    if not isinstance(fault, psycopg2.Error):
        return True  # a text that cannot even be sent
    return (fault.pgcode or "")[:2] in _ROW_FAULTS


def _refusal(fault: Exception) -> ModerationError:
    """What to tell the caller of a row that Postgres refused."""
    if isinstance(fault, psycopg2.errors.UniqueViolation):
        return AlreadyRecorded("there is a decision with this id")
    _log.warning("a decision could not be recorded: %s", _words(fault))
    return RecordUnavailable(f"the database refused the decision: {_words(fault)}")


def _is_transient(fault: psycopg2.Error) -> bool:
    """A deadlock or a serialisation failure: nothing was written, and the next try usually succeeds."""
    return (fault.pgcode or "").startswith("40")


def _words(fault: Exception) -> str:
    """The first line of what the driver says; never the statement, never its values."""
    if isinstance(fault, DBAPIError) and fault.orig is not None:
        return _words(fault.orig) if isinstance(fault.orig, Exception) else type(fault.orig).__name__
    lines = str(fault).strip().splitlines()
    return lines[0] if lines else type(fault).__name__
