"""The log out of Postgres as an export, in portions, so that any size of it takes the same memory and holds no transaction open.

Entries come by COPY in its binary form (PostgreSQL's documentation, "COPY", "Binary Format"): each row is handed over as it is, and nothing
is made of it but its line. Whose entries a reader sees is row-level security's to say.
"""

from __future__ import annotations

import asyncio
import io
import struct
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg2
from sqlalchemy import Connection, Row, text

from moderation.adapters.database import Context, Database
from moderation.adapters.log_tree import hashes_of_nodes
from moderation.errors import RecordUnavailable
from moderation.export import MARK_EVERY, Span, checkpoint_line, header_line, leaf_line
from moderation.merkle import complete_subtrees

LEAVES: Final = 8192
"""The most leaves in one portion."""
BYTES: Final = 16_000_000
"""The bytes of entries after which a portion ends; one entry more may come with it."""

_LOG: Final = text(
    "SELECT number, origin FROM facegate.log WHERE origin = coalesce(CAST(:origin AS text), origin) ORDER BY number DESC LIMIT 1"
)
_NEWEST: Final = text("SELECT size, note FROM facegate.seal WHERE log = :log ORDER BY size DESC LIMIT 1")
_AT_LEAST: Final = text("SELECT size, note FROM facegate.seal WHERE log = :log AND size >= :size ORDER BY size LIMIT 1")
_SEALED_BEFORE: Final = text("SELECT size, note FROM facegate.seal WHERE log = :log AND sealed_at < :moment ORDER BY size DESC LIMIT 1")
# Under two keys is where one takes over from the other: whoever follows needs every one of these.
_MARKS: Final = text("""
SELECT size, note, is_change FROM (
    SELECT size, note, split_part(note, E'\n\u2014 ', 3) <> '' AS is_change
    FROM facegate.seal WHERE log = :log AND size >= :start AND size > :marked AND size <= :last
) AS seal WHERE size >= :first OR is_change ORDER BY size
""")
_BOUNDS: Final = text("""
SELECT min(xid::text::bigint), max(xid::text::bigint), min(entry::text), max(entry::text)
FROM facegate.leaf WHERE log = :log AND index >= :first AND index < :last
""")
_ENTRY: Final = text(
    "SELECT canonical FROM facegate.leaf JOIN facegate.entry ON entry.xid = leaf.xid AND entry.id = leaf.entry WHERE leaf.entry = :id"
)
# The leaves of a portion come from few transactions, which an index of entries is ordered by: a reading of a piece of it and a hash join
# is three times faster than to look for each entry by itself.
_PORTION: Final = """
COPY (
    SELECT index, hash, canonical FROM (
        SELECT leaf.index, leaf.hash, entry.canonical,
               sum(octet_length(entry.canonical)) OVER (ORDER BY leaf.index ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM facegate.leaf LEFT JOIN facegate.entry ON entry.xid = leaf.xid AND entry.id = leaf.entry
            AND entry.xid BETWEEN %s::text::xid8 AND %s::text::xid8 AND entry.id BETWEEN %s AND %s
        WHERE leaf.log = %s AND leaf.index >= %s AND leaf.index < %s
    ) AS portion WHERE coalesce(before, 0) < %s ORDER BY index
) TO STDOUT (FORMAT binary)
"""
# Room to sort a portion in memory; and the plan that is meant, whether the tables have been analysed lately or not.
_SETTINGS: Final = text("SELECT set_config('work_mem', '32MB', true), set_config('enable_nestloop', 'off', true)")

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_ROW: Final = struct.Struct(">hiqi32si")
"""Three fields, each after its length: index, hash, and the length of what is left."""
_NULL: Final = -1


class PostgresExport:
    """Implements `moderation.ports.LogExport`. Connects as the run-time role."""

    def __init__(self, database: Database, *, leaves: int = LEAVES) -> None:
        self._database = database
        self._leaves = leaves

    async def span(self, *, first: int | datetime | None, last: int | datetime | None, origin: str | None = None) -> Span | None:
        """What there is from `first` up to `last`; None where nothing of it is sealed. Raises RecordUnavailable."""
        return await self._database.run(Context(), lambda connection: _span(connection, first, last, origin))

    async def entry(self, tenant: UUID | None, id: UUID) -> bytes | None:
        """The bytes of a sealed entry of this tenant (None: of any); None where there is none, or none any more. Raises RecordUnavailable."""
        context = Context(tenant=tenant, auditor=tenant is None)
        row = await self._database.run(context, lambda connection: connection.execute(_ENTRY, {"id": id}).first())
        return None if row is None else bytes(row.canonical)

    async def lines(self, tenant: UUID | None, span: Span) -> AsyncGenerator[bytes, None]:
        """The export, in pieces of many lines; the entries of this tenant and of the log itself (None: of all). Raises RecordUnavailable.

        While a piece is put together and taken, the database makes the next one.
        """
        yield header_line(span)
        reading = asyncio.create_task(
            self._read(tenant, span, _Place(index=span.start, marked=span.start - MARK_EVERY if span.start else 0))
        )
        try:
            while True:
                portion = await reading
                is_last = portion.reached.index == span.size
                if not is_last:
                    reading = asyncio.create_task(self._read(tenant, span, portion.reached))
                yield await asyncio.to_thread(_written, portion)
                if is_last:
                    return
        finally:
            reading.cancel()

    async def _read(self, tenant: UUID | None, span: Span, at: _Place) -> _Portion:
        return await self._database.run(Context(tenant=tenant, auditor=tenant is None), partial(self._portion, span, at))

    def _portion(self, span: Span, at: _Place, connection: Connection) -> _Portion:
        connection.execute(_SETTINGS)
        end = min(span.size, at.index + self._leaves)
        leaves = _leaves(connection, span.log, at.index, end) if at.index < end else []
        # What is missing is left out: whoever reads the export is told, and has the rest.
        reached = leaves[-1][0] + 1 if leaves else end
        marks = list(_marks(connection, span, at, reached))
        return _Portion(leaves=leaves, marks=marks, reached=_Place(index=reached, marked=marks[-1][0] if marks else at.marked))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """How far an export has come: the leaf that is due, and the size of the last checkpoint in it."""

    index: int
    marked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Portion:
    """What the database gave: leaves as index, hash and entry; checkpoints as size and note; and how far that reaches."""

    leaves: Sequence[tuple[int, bytes, bytes | None]]
    marks: Sequence[tuple[int, str]]
    reached: _Place


def _written(portion: _Portion) -> bytes:
    lines, due = [], deque(portion.marks)
    for index, leaf, entry in portion.leaves:
        while due and due[0][0] <= index:
            lines.append(checkpoint_line(due.popleft()[1]))
        lines.append(leaf_line(index, leaf, entry))
    lines += [checkpoint_line(note) for _, note in due]
    return b"".join(lines)


def _span(connection: Connection, first: int | datetime | None, last: int | datetime | None, origin: str | None) -> Span | None:
    log = connection.execute(_LOG, {"origin": origin}).one_or_none()
    end = None if log is None else _end(connection, log.number, last)
    if log is None or end is None:
        return None
    start = first or 0
    if isinstance(start, datetime):
        sealed = connection.execute(_SEALED_BEFORE, {"log": log.number, "moment": start}).one_or_none()
        start = 0 if sealed is None else sealed.size
    if start > end.size:
        return None
    before = tuple(hashes_of_nodes(connection, log.number, complete_subtrees((0, start))))
    return Span(log=log.number, origin=log.origin, start=start, size=end.size, before=before, note=end.note)


def _end(connection: Connection, log: int, last: int | datetime | None) -> Row[Any] | None:
    """The seal that the export ends at: the first one that reaches so far, the last one before that moment, or the newest."""
    if isinstance(last, datetime):
        return connection.execute(_SEALED_BEFORE, {"log": log, "moment": last}).one_or_none()
    reaching = None if last is None else connection.execute(_AT_LEAST, {"log": log, "size": last}).one_or_none()
    return reaching or connection.execute(_NEWEST, {"log": log}).one_or_none()


def _marks(connection: Connection, span: Span, at: _Place, reached: int) -> Iterator[tuple[int, str]]:
    """The checkpoints that stand in this portion, by size; the last one of all where the portion is the last."""
    marked = at.marked
    asked = {"log": span.log, "start": span.start, "marked": marked, "first": marked + MARK_EVERY, "last": min(reached, span.size - 1)}
    for size, note, is_change in connection.execute(_MARKS, asked):
        if size - marked >= MARK_EVERY or is_change:
            yield size, note
            marked = size
    if reached == span.size:
        yield span.size, span.note


def _leaves(connection: Connection, log: int, first: int, last: int) -> list[tuple[int, bytes, bytes | None]]:
    """Index, hash and entry of the leaves from `first` up to `last`, or of as many of them as have room in a portion."""
    bounds = connection.execute(_BOUNDS, {"log": log, "first": first, "last": last}).one()
    if bounds[0] is None:
        return []
    copied = io.BytesIO()
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        try:
            cursor.copy_expert(cursor.mogrify(_PORTION, (*bounds, log, first, last, BYTES)), copied)
        except psycopg2.Error as error:
            raise RecordUnavailable(f"the database failed: {type(error).__name__}") from error
    return list(_rows(copied.getbuffer()))


def _rows(copied: memoryview) -> Iterator[tuple[int, bytes, bytes | None]]:
    at, end = len(_SIGNATURE), len(copied) - 2
    while at < end:
        fields, index_size, index, hash_size, leaf, size = _ROW.unpack_from(copied, at)
        if (fields, index_size, hash_size) != (3, 8, 32):
            raise RecordUnavailable("the leaves in the database are none")
        at += _ROW.size
        if size == _NULL:
            yield index, leaf, None
        else:
            yield index, leaf, bytes(copied[at : at + size])
            at += size
