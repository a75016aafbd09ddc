"""One connection on the caller's event loop, for questions with small answers that every picture asks.

A thread's part in so short a question costs twice what the question does (see docs/performance.md), so there is none: libpq is
asked without blocking, and the loop says when there is an answer. Questions are asked one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import psycopg2
import psycopg2.extensions
from sqlalchemy.dialects.postgresql import psycopg2 as dialect

from moderation.adapters.database import TENANT, Question, connect_options, driver_url
from moderation.errors import RecordUnavailable

_DIALECT: Final = dialect.dialect()  # type: ignore[no-untyped-call]


@dataclass(slots=True, kw_only=True, eq=False)
class _Open:
    """A connection and what it has prepared; used by whoever holds the lock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: psycopg2.extensions.connection | None = None
    prepared: set[Question] = field(default_factory=set)


class Line:
    """Connects on first use and again when Postgres comes back; a connection of its own for each event loop."""

    def __init__(self, url: str, *, statement_s: float) -> None:
        arguments, options = _DIALECT.create_connect_args(driver_url(url))  # type: ignore[no-untyped-call]
        self._arguments = arguments
        self._options = {**options, **connect_options(statement_s)}
        self._open: dict[asyncio.AbstractEventLoop, _Open] = {}

    async def ask(self, tenant: UUID, question: Question, values: Sequence[str | bytes]) -> list[tuple[Any, ...]]:
        """The rows that answer a question within a tenant, in one round trip. Raises RecordUnavailable.

        Waits as long as the caller does; whoever is cancelled meanwhile takes the connection along.
        """
        here = self._here()
        try:
            async with here.lock:
                if here.connection is not None:
                    try:
                        return await _answer(here, here.connection, tenant, question, values)
                    except psycopg2.Error as error:
                        if not _is_cut(error):
                            raise
                return await _answer(here, await self._connect(here), tenant, question, values)
        except psycopg2.Error as error:
            raise RecordUnavailable(f"the database failed: {type(error).__name__}") from error

    def close(self) -> None:
        """Close all connections. Whoever still waits for an answer is told that there is none."""
        for here in self._open.values():
            _hang_up(here)

    def _here(self) -> _Open:
        loop = asyncio.get_running_loop()
        here = self._open.get(loop)
        if here is None:
            for ended in [other for other in self._open if other.is_closed()]:
                _hang_up(self._open.pop(ended))
            here = self._open[loop] = _Open()
        return here

    async def _connect(self, here: _Open) -> psycopg2.extensions.connection:
        # Begun in a thread, since looking up the name of a host blocks.
        connection = await asyncio.to_thread(psycopg2.connect, *self._arguments, **self._options, async_=True)
        here.connection = connection
        here.prepared.clear()
        return connection


async def _answer(
    here: _Open, connection: psycopg2.extensions.connection, tenant: UUID, question: Question, values: Sequence[str | bytes]
) -> list[tuple[Any, ...]]:
    try:
        await _ready(connection)
        with connection.cursor() as cursor:
            if question not in here.prepared:
                cursor.execute(question.preparing)
                await _ready(connection)
                here.prepared.add(question)
            # One message, which Postgres runs in order and in one transaction of its own (its protocol, "Multiple Statements in a
            # Simple Query"): the tenant holds for the second statement and ends with it.
            cursor.execute(f"{TENANT};{question.asking}", (str(tenant), *values))
            await _ready(connection)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows
    except BaseException:  # also when the caller went away: the next one must not get this answer
        _hang_up(here)
        raise


async def _ready(connection: psycopg2.extensions.connection) -> None:
    """Wait until what was begun on the connection is done. Raises psycopg2.Error if it failed."""
    loop = asyncio.get_running_loop()
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        turn: asyncio.Future[None] = loop.create_future()
        waits_to_read = state == psycopg2.extensions.POLL_READ
        watch, forget = (loop.add_reader, loop.remove_reader) if waits_to_read else (loop.add_writer, loop.remove_writer)
        socket = connection.fileno()
        watch(socket, _take_turn, turn)
        try:
            await turn
        finally:
            forget(socket)


def _is_cut(error: psycopg2.Error) -> bool:
    """Whether the other side ended the connection, without a word or by shutting down (class 57P); asking again is safe then."""
    return error.pgcode is None or error.pgcode.startswith("57P")


def _take_turn(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def _hang_up(here: _Open) -> None:
    connection, here.connection = here.connection, None
    if connection is not None:
        connection.close()
