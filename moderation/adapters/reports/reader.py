"""Reports out of Postgres: a page, its totals, or all rows as a stream in constant memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.dialects import postgresql

from moderation.adapters.database import Context, Database
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.adapters.reports.statement import PIECES, SLACK_AFTER, SLACK_BEFORE, Row, Statement, uuid_floor
from moderation.errors import Overloaded
from moderation.reports import SINCE, UNTIL, ParameterRefused, Report, names

STATEMENT_S: Final = 120.0
"""The longest that one step of a report may take; a client that reads no faster is cut off."""
AT_ONCE: Final = 4
BATCH: Final = 2000
_SORT_MEMORY: Final = "64MB"
_NUMBERED: Final = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


class PostgresReports:
    """Implements `moderation.ports.ReportReader`. At most `at_once` reports are read at a time; one more is Overloaded.

    The database is best one of its own, with `AT_ONCE` connections and `STATEMENT_S`: reports take longer than requests may.
    """

    def __init__(self, database: Database, *, at_once: int = AT_ONCE) -> None:
        self._database = database
        self._room = at_once

    @property
    def catalogue(self) -> Mapping[str, Report]:
        """All reports by name."""
        return {name: statement.report for name, statement in STATEMENTS.items()}

    async def tenants(self, only: UUID | None) -> Sequence[tuple[UUID, str]]:
        """(id, name) of all tenants by name, or of this one."""

        def read(connection: Connection) -> list[tuple[UUID, str]]:
            if only is None:
                connection.execute(text("SELECT set_config('facegate.auditor', 'on', true)"))
            return [
                (UUID(str(row.id)), row.name) for row in connection.execute(text("SELECT id, name FROM facegate.tenant ORDER BY name, id"))
            ]

        return await self._database.run(Context(tenant=only), read)

    async def check(self, name: str, tenants: Sequence[UUID], values: Mapping[str, Any]) -> None:
        """Raise ParameterRefused where there is nothing to answer for any of these tenants. Raises RecordUnavailable."""
        refused = None
        for tenant in tenants:
            refused = await self._refusal(STATEMENTS[name], tenant, values)
            if refused is None:
                return
        if refused is not None:
            raise refused

    async def _refusal(self, statement: Statement, tenant: UUID, values: Mapping[str, Any]) -> ParameterRefused | None:
        find, bound = statement.refusal, _bound(tenant, values)
        return None if find is None else await self._database.run(Context(tenant=tenant), lambda connection: find(connection, bound))

    async def page(self, name: str, tenant: UUID, values: Mapping[str, Any], *, after: Sequence[str] | None, limit: int) -> Sequence[Row]:
        """At most `limit` rows that follow the row with the keys `after`. Raises RecordUnavailable, Overloaded, ParameterRefused."""
        statement = STATEMENTS[name]

        def read() -> list[Row]:
            with closing(self._batches(statement, tenant, values, after=after, limit=limit)) as batches:
                return list(islice((row for batch in batches for row in batch), limit))

        with self._taking_room():
            return await asyncio.to_thread(read)

    async def first_page(
        self, name: str, tenant: UUID, values: Mapping[str, Any], *, limit: int
    ) -> tuple[Sequence[Row], Mapping[str, int]]:
        """The first `limit` rows with the report's totals, for less than `page` and `totals` cost. Raises as they do."""
        statement = STATEMENTS[name]
        if not statement.report.totals:
            return await self.page(name, tenant, values, after=None, limit=limit), {}

        def read(connection: Connection) -> tuple[list[Row], Mapping[str, int]]:
            _prepare(connection, statement)
            parameters = _with_first(connection, statement, _bound(tenant, values))
            if statement.totals:
                return _at_once(connection, statement, parameters, limit)
            rows = [row for batch in _selected(connection, statement, parameters, None, limit) for row in batch]
            return rows, _totals(connection, statement, parameters)

        with self._taking_room():
            return await self._database.run(Context(tenant=tenant), read)

    async def totals(self, name: str, tenant: UUID, values: Mapping[str, Any]) -> Mapping[str, int]:
        """The report's totals for one tenant. Raises as `page`."""
        statement = STATEMENTS[name]
        if not statement.report.totals:
            return {}

        def read(connection: Connection) -> Mapping[str, int]:
            _prepare(connection, statement)
            return _totals(connection, statement, _with_first(connection, statement, _bound(tenant, values)))

        with self._taking_room():
            return await self._database.run(Context(tenant=tenant), read)

    async def stream(self, name: str, tenant: UUID, values: Mapping[str, Any]) -> AsyncIterator[Sequence[Row]]:
        """All rows in batches, of one moment. Raises as `page`."""
        with self._taking_room(), closing(_Thread()) as thread:
            batches = self._batches(STATEMENTS[name], tenant, values)
            try:
                while (batch := await thread.run(next, batches, None)) is not None:
                    yield batch
            finally:
                # In the same thread and therefore after whatever it is still doing, when the client has gone away.
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(thread.run(batches.close))

    @contextmanager
    def _taking_room(self) -> Iterator[None]:
        if self._room <= 0:
            raise Overloaded("reports")
        self._room -= 1
        try:
            yield
        finally:
            self._room += 1

    def _batches(
        self, statement: Statement, tenant: UUID, values: Mapping[str, Any], *, after: Sequence[str] | None = None, limit: int | None = None
    ) -> Generator[Sequence[Row]]:
        with self._database.opened(Context(tenant=tenant)) as connection:
            _prepare(connection, statement)
            parameters = _bound(tenant, values)
            if statement.fold is not None:
                yield from _following(statement, statement.fold(connection, parameters), after)
            else:
                yield from _selected(connection, statement, _with_first(connection, statement, parameters), after, limit)


def _prepare(connection: Connection, statement: Statement) -> None:
    """How Postgres is to go about what the rest of the transaction reads."""
    settings = [f"work_mem = '{_SORT_MEMORY}'", "jit = off"]
    if statement.often:
        settings += ["enable_seqscan = off", "max_parallel_workers_per_gather = 0"]
    if statement.merging:
        settings += ["enable_hashjoin = off", "parallel_tuple_cost = 0"]
    connection.execute(text(";".join([*(f"SET LOCAL {setting}" for setting in settings), "SET TRANSACTION READ ONLY"])))


def _totals(connection: Connection, statement: Statement, parameters: Mapping[str, Any]) -> Mapping[str, int]:
    if statement.probing:
        connection.execute(text("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"))
    told = {total: total if statement.sums else statement.totals[total] for total in statement.report.totals}
    wanted = ", ".join(f"({expression})::bigint AS {total}" for total, expression in told.items())
    sql = f"SELECT {wanted} FROM ({statement.sums or ' UNION ALL '.join(statement.parts)}) report"  # noqa: S608  # ours
    return dict(connection.execute(text(sql), parameters).mappings().one())


def _at_once(
    connection: Connection, statement: Statement, parameters: Mapping[str, Any], limit: int
) -> tuple[list[Row], Mapping[str, int]]:
    """The first rows and the totals out of all rows, which are made once."""
    totals = ", ".join(f"({expression})::bigint AS total_{total}" for total, expression in statement.totals.items())
    ends = _order(statement.report)
    sql = f"""
WITH report AS MATERIALIZED ({" UNION ALL ".join(statement.parts)}), told AS (SELECT {totals} FROM report)
SELECT told.*, row.* FROM told LEFT JOIN (SELECT true AS is_row, report.* FROM report{ends} LIMIT :row_limit) row ON true{ends}"""  # noqa: S608  # ours
    found = connection.execute(text(sql), {**parameters, "row_limit": limit}).mappings().all()
    rows = [_values(statement, dict(row)) for row in found if row["is_row"]]
    return rows, {total: found[0][f"total_{total}"] for total in statement.totals}


def _selected(
    connection: Connection, statement: Statement, parameters: Mapping[str, Any], after: Sequence[str] | None, limit: int | None
) -> Iterator[Sequence[Row]]:
    """The rows of a statement in their order, from `after` on."""
    report = statement.report
    keys = [key.name for key in report.keys]
    ends = _order(report)
    if limit is not None:
        ends += " LIMIT :row_limit"
        parameters = {**parameters, "row_limit": limit}
    begins = ""
    if after is not None:
        places = ", ".join(f"CAST(:after_{place} AS {key.sql})" for place, key in enumerate(report.keys))
        begins = f" WHERE ({', '.join(keys)}) {'<' if report.newest_first else '>'} ({places})"
        parameters = {**parameters, **{f"after_{place}": value for place, value in enumerate(after)}}
    parts = [f"SELECT report.* FROM ({part}) report{begins}{ends}" for part in statement.parts]  # noqa: S608  # ours
    sql = parts[0] if len(parts) == 1 else f"({') UNION ALL ('.join(parts)}){ends}"
    options: dict[str, Any] = {} if statement.scan or limit is not None else {"stream_results": True, "yield_per": BATCH}
    found = _asked(connection, statement, sql, parameters, options)
    wanted = [*names(report.columns), *keys]
    if statement.shape is None:
        place = {name: at for at, name in enumerate(found.keys())}
        order_of = [place[name] for name in wanted]
        for rows in found.partitions(BATCH):
            yield [tuple([row[at] for at in order_of]) for row in rows]
    else:
        for mapped in found.mappings().partitions(BATCH):
            yield [_values(statement, dict(row)) for row in mapped]


def _order(report: Report) -> str:
    return " ORDER BY " + ", ".join(key.name + (" DESC" if report.newest_first else "") for key in report.keys)


def _values(statement: Statement, row: dict[str, Any]) -> Row:
    """The values of columns and keys."""
    shaped = row if statement.shape is None else statement.shape(row)
    return tuple([shaped[name] for name in (*names(statement.report.columns), *[key.name for key in statement.report.keys])])


def _with_first(connection: Connection, statement: Statement, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters with what the statements before it find."""
    for sql in statement.first:
        parameters = {**parameters, **_asked(connection, statement, sql, parameters).mappings().one()}
    return parameters


def _asked(
    connection: Connection, statement: Statement, sql: str, parameters: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> CursorResult[*tuple[Any, ...]]:
    if not statement.often or options:  # a stream goes through a cursor
        return connection.execute(text(sql), parameters, execution_options=options)
    name, prepared, places = _prepared(sql)
    if name not in connection.info:
        connection.exec_driver_sql(f"PREPARE {name} AS {prepared}")
        connection.info[name] = True
    values = tuple(parameters[place] for place in places)
    return connection.exec_driver_sql(f"EXECUTE {name} ({', '.join(['%s'] * len(values))})", values)


@lru_cache(maxsize=64)
def _prepared(sql: str) -> tuple[str, str, tuple[str, ...]]:
    """A name for a statement, the statement with $1, $2, ..., and which parameters these are."""
    compiled = text(sql).compile(dialect=_NUMBERED)
    return f"report_{sha256(sql.encode()).hexdigest()[:16]}", str(compiled), tuple(compiled.positiontup or ())


def _following(statement: Statement, batches: Iterator[Sequence[Row]], after: Sequence[str] | None) -> Iterator[Sequence[Row]]:
    """The rows after the one with these keys; folded rows are in their order already and few."""
    keys = len(statement.report.keys)
    last = None if after is None else tuple(after)
    for batch in batches:
        yield batch if last is None else [row for row in batch if tuple(map(str, row[-keys:])) > last]


def _bound(tenant: UUID, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a statement's parameters stand for; ids as text, which Postgres reads as what it is compared with."""
    bound = {name: str(value) if isinstance(value, UUID) else value for name, value in values.items() if name not in (SINCE, UNTIL)}
    bound["tenant"] = str(tenant)
    since, until = values.get(SINCE), values.get(UNTIL)
    if isinstance(since, datetime) and isinstance(until, datetime):
        bound |= {"since": since, "until": until}
        bound |= {"least": str(uuid_floor(since - SLACK_BEFORE)), "beyond": str(uuid_floor(until + SLACK_AFTER))}
        bound |= {"first": str(uuid_floor(since)), "last": str(uuid_floor(until))}
        bound |= {f"piece_{piece}": str(uuid_floor(since + (until - since) * piece / PIECES)) for piece in range(PIECES + 1)}
    return bound


class _Thread:
    """One thread: what it is given last is done last."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="report")

    async def run(self, work: Callable[..., Any], *given: Any) -> Any:
        """What `work` returns."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *given)

    def close(self) -> None:
        """End it once its work is done."""
        self._pool.shutdown(wait=False)
