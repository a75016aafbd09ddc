"""Access to Postgres, shared by the adapters that keep something there.

SQLAlchemy over psycopg2, synchronous, in as many threads as there are connections; callers are coroutines.
Each call is one transaction that first says on whose behalf it reads and writes, since row-level security
shows nothing to a transaction that does not. Every fault of the database becomes RecordUnavailable.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import URL, Connection, Engine, Row, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from moderation.errors import RecordUnavailable

_T = TypeVar("_T")

CONNECT_S: Final = 3
STATEMENT_S: Final = 10.0
TENANT: Final = "SET LOCAL facegate.tenant = %s"
_WORKER: Final = "SET LOCAL facegate.worker = %s"
_LAGGING: Final = "SET LOCAL synchronous_commit = off"
_SET_CONTEXT: Final = text(
    "SELECT set_config('facegate.tenant', :tenant, true), set_config('facegate.key_id', :key_id, true),"
    " set_config('facegate.worker', :worker, true), set_config('facegate.auditor', :auditor, true)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """On whose behalf a transaction runs. The default sees nothing."""

    tenant: UUID | None = None
    key_id: str = ""
    """The one key that is being looked up, before its tenant is known."""
    worker: bool = False
    """Takes work and sweeps what has expired, across tenants."""
    auditor: bool = False
    """Reads the record across tenants: for who holds `audit.all`, and to see whether all of it is sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked so often that each connection prepares it: `statement` with $1, $2, ... of these `types`."""

    name: str
    types: tuple[str, ...]
    statement: str
    may_lag: bool = False
    """Whether `Database.ask` may return before what it writes is on disk. It is there before whatever anybody commits later is, so that
    a crash of the server leaves a state that once was; it is for what means nothing until something later is committed."""

    @property
    def preparing(self) -> str:
        """What a connection is told once."""
        return f"PREPARE {self.name} ({', '.join(self.types)}) AS {self.statement}"

    @property
    def asking(self) -> str:
        """What it is told each time, after the tenant."""
        return f"EXECUTE {self.name} ({', '.join(['%s'] * len(self.types))})"


def driver_url(url: str) -> URL:
    """`url` may say `postgresql://` or `postgresql+psycopg2://`."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    return parsed


def connect_options(statement_s: float) -> dict[str, Any]:
    """What every connection of ours asks for: it gives up on a silent server and on a statement that hangs."""
    milliseconds = math.ceil(statement_s * 1000)
    return {
        "connect_timeout": CONNECT_S,
        "application_name": "facegate",
        # Planned once: what is prepared is asked often, and planning over many months costs several times what the answer does.
        "options": f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout={milliseconds} -c timezone=UTC"
        " -c plan_cache_mode=force_generic_plan",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
    }


def make_engine(url: str, *, connections: int, statement_s: float = STATEMENT_S) -> Engine:
    """An engine that never opens more than `connections`, with `connect_options`. Connects on first use."""
    return create_engine(
        driver_url(url),
        pool_size=connections,
        max_overflow=0,
        pool_use_lifo=True,  # few backends with warm caches rather than all of them in turn
        pool_timeout=statement_s,
        connect_args=connect_options(statement_s),
    )


def set_context(connection: Connection, context: Context) -> None:
    """Say on whose behalf the rest of this transaction runs."""
    tenant = "" if context.tenant is None else str(context.tenant)
    on = {"worker": "on" if context.worker else "", "auditor": "on" if context.auditor else ""}
    connection.execute(_SET_CONTEXT, {"tenant": tenant, "key_id": context.key_id, **on})


def answer(connection: Connection, question: Question, *values: object) -> Sequence[Row[*tuple[Any, ...]]]:
    """The rows that answer a question within a transaction of `Database.run`. It may write, as the transaction may."""
    if question not in connection.info:
        connection.exec_driver_sql(question.preparing)
        connection.info[question] = True
    return connection.exec_driver_sql(question.asking, values).all()


def array_of(ids: Iterable[UUID | str]) -> str:
    """Ids as Postgres reads an array."""
    return "{" + ",".join(map(str, ids)) + "}"


@contextmanager
def faults_translated() -> Iterator[None]:
    """Turn every fault of the database into RecordUnavailable; IntegrityError stays, it is an answer."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise RecordUnavailable(f"the database failed: {type(error.orig).__name__}") from error
    except SQLAlchemyError as error:
        raise RecordUnavailable(f"the database failed: {type(error).__name__}") from error


class _CutBeforeUse(SQLAlchemyError):
    """A pooled connection that a restart of the server had cut; nothing was changed on it, so trying again is safe."""


class Database:
    """A pool of connections and the threads that use them."""

    def __init__(self, url: str, *, connections: int = 4, statement_s: float = STATEMENT_S) -> None:
        self._engine = make_engine(url, connections=connections, statement_s=statement_s)
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="database")
        self._answer_s = CONNECT_S + 2 * statement_s

    async def run(self, context: Context, work: Callable[[Connection], _T]) -> _T:
        """What `work` returns, once its transaction is committed; nothing of it stays if it raises.

        Raises RecordUnavailable if the database fails or does not answer in time (it may have committed then),
        and whatever `work` raises.
        """
        try:
            async with asyncio.timeout(self._answer_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self.run_here, context, work)
        except TimeoutError as error:
            raise RecordUnavailable("the database did not answer in time") from error

    def run_here(self, context: Context, work: Callable[[Connection], _T]) -> _T:
        """The same in the calling thread."""
        with faults_translated():
            try:
                return self._attempt(context, work)
            except _CutBeforeUse:
                return self._attempt(context, work)

    def _attempt(self, context: Context, work: Callable[[Connection], _T]) -> _T:
        with self._engine.begin() as connection:
            try:
                set_context(connection, context)
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise _CutBeforeUse from error
                raise
            return work(connection)

    @contextmanager
    def opened(self, context: Context) -> Iterator[Connection]:
        """A transaction for the calling thread, to read in portions; what it writes is committed unless the caller raises.

        Raises RecordUnavailable if the database fails.
        """
        with faults_translated(), self._engine.begin() as connection:
            set_context(connection, context)
            yield connection

    async def ask(self, tenant: UUID | None, question: Question, values: Sequence[object], *, again: bool = True) -> list[tuple[Any, ...]]:
        """The rows that answer a prepared question within a tenant (None: as a worker); in one round trip, a fifth of what `run` costs.

        It may write, and what it writes is committed by then. Where the connection was cut it is asked `again`, which is for what may
        be done twice. Raises RecordUnavailable like `run`, also for what the record refuses.
        """
        try:
            async with asyncio.timeout(self._answer_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self.ask_here, tenant, question, values, again)
        except TimeoutError as error:
            raise RecordUnavailable("the database did not answer in time") from error

    def ask_here(self, tenant: UUID | None, question: Question, values: Sequence[object], again: bool = True) -> list[tuple[Any, ...]]:
        """The same in the calling thread."""
        with faults_translated():
            try:
                return self._ask(tenant, question, values)
            except _CutBeforeUse as cut:
                self.run_here(Context(), lambda _connection: None)  # which clears the pool of others that are cut as well
                if not again:
                    raise RecordUnavailable("the connection to the database was cut") from cut
                return self._ask(tenant, question, values)

    def _ask(self, tenant: UUID | None, question: Question, values: Sequence[object]) -> list[tuple[Any, ...]]:
        # All statements travel as one message, which Postgres runs in order and in one transaction of its own (its protocol,
        # "Multiple Statements in a Simple Query"): the tenant holds for the last and ends with it.
        driver_fault = self._engine.dialect.loaded_dbapi.Error
        who = (_WORKER, "on") if tenant is None else (TENANT, str(tenant))
        opening = f"{who[0]};{_LAGGING}" if question.may_lag else who[0]
        try:
            pooled = self._engine.raw_connection()
        except driver_fault as error:
            raise RecordUnavailable(f"the database failed: {type(error).__name__}") from error
        connection: Any = pooled.driver_connection
        try:
            connection.autocommit = True  # no BEGIN and COMMIT around it
            with connection.cursor() as cursor:
                if question not in pooled.info:
                    cursor.execute(question.preparing)
                    pooled.info[question] = True
                cursor.execute(f"{opening};{question.asking}", (who[1], *values))
                rows: list[tuple[Any, ...]] = cursor.fetchall()
            connection.autocommit = False
        except BaseException as error:  # whatever it was: nobody gets this connection as it is now
            is_cut = bool(connection.closed)
            pooled.invalidate(error)
            if is_cut:
                raise _CutBeforeUse from error
            if isinstance(error, driver_fault):
                raise RecordUnavailable(f"the database failed: {type(error).__name__}") from error
            raise
        finally:
            pooled.close()
        return rows

    async def ping(self) -> None:
        """Return if the database answers a query. Raises RecordUnavailable."""
        await self.run(Context(), lambda connection: connection.execute(text("SELECT 1")))

    def close(self) -> None:
        """Close threads and connections; waits for what is running."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._engine.dispose()
