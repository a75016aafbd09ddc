"""Rows of a report as they leave: JSON objects, CSV, NDJSON or Parquet, batch by batch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol

from deployments.http.wire import encode
from moderation.audit import rfc3339
from moderation.reports import Column, Kind
from moderation.scores import ONE, as_decimal

MEDIA_TYPES: Final[Mapping[str, str]] = {
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}

Rows = Sequence[Sequence[Any]]

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_ROW_GROUP: Final = 50_000
"""Rows; readers of Parquet want groups that are large, we hold them in memory until they are written."""


def document_of(columns: Sequence[Column], row: Sequence[Any]) -> dict[str, Any]:
    """One row as a JSON object."""
    return {column.name: _json(column.kind, value) for column, value in zip(columns, row, strict=True)}


def _json(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    match kind:
        case Kind.TIME:
            return rfc3339(value)
        case Kind.DAY:
            return value.isoformat()
        case Kind.SCORE:
            return as_decimal(value)
        case _:
            return value


class Writer(Protocol):
    """One file of rows, made piece by piece."""

    def rows(self, rows: Rows) -> bytes:
        """The next piece."""

    def end(self) -> bytes:
        """What comes last."""


async def written(writer: Writer, batches: AsyncIterator[Rows]) -> AsyncIterator[bytes]:
    """The file in pieces; none is empty."""
    async for batch in batches:
        if piece := writer.rows(batch):
            yield piece
    if last := writer.end():
        yield last


class CsvWriter:
    """RFC 4180 with a header line; lists and objects as JSON, nothing where there is nothing.

    A text that a spreadsheet would take for a formula has an apostrophe before it, as OWASP says (CSV injection).
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._text = io.StringIO()
        self._csv = csv.writer(self._text)
        self._csv.writerow([column.name for column in columns])

    def rows(self, rows: Rows) -> bytes:
        """The next lines, the header before the first."""
        self._csv.writerows([[_cell(column.kind, value) for column, value in zip(self._columns, row, strict=True)] for row in rows])
        return self._taken()

    def end(self) -> bytes:
        """The header, if there was no row."""
        return self._taken()

    def _taken(self) -> bytes:
        piece = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return piece


def _cell(kind: Kind, value: Any) -> str:
    plain = _json(kind, value)
    if plain is None:
        return ""
    if not isinstance(plain, str):
        return json.dumps(plain, ensure_ascii=False)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


class NdjsonWriter:
    """One JSON object a line."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def rows(self, rows: Rows) -> bytes:
        """The next lines."""
        return b"".join([encode(document_of(self._columns, row)) + b"\n" for row in rows])

    def end(self) -> bytes:
        """Nothing."""
        return b""


class ParquetWriter:
    """Row groups of up to 50,000 rows; scores as decimals, times in UTC, lists as lists, objects as JSON text."""

    def __init__(self, columns: Sequence[Column]) -> None:
        import pyarrow as pa  # noqa: PLC0415  # large, and wanted by few
        from pyarrow import parquet  # noqa: PLC0415

        self._columns = columns
        self._arrow = pa
        self._schema = pa.schema([(column.name, _ARROW_TYPES[column.kind](pa)) for column in columns])
        self._waiting: list[Any] = []
        self._sink = io.BytesIO()
        self._writer = parquet.ParquetWriter(pa.PythonFile(_Onward(self._sink), "w"), self._schema, compression="zstd")

    def rows(self, rows: Rows) -> bytes:
        """The row group that these rows fill, if they do."""
        if rows:
            places = enumerate(self._columns)
            arrays = [
                self._arrow.array([_arrow_value(column.kind, row[place]) for row in rows], self._schema.field(place).type)
                for place, column in places
            ]
            self._waiting.append(self._arrow.record_batch(arrays, schema=self._schema))
            if sum(batch.num_rows for batch in self._waiting) >= _ROW_GROUP:
                self._write()
        return self._taken()

    def end(self) -> bytes:
        """The last row group and the footer."""
        self._write()
        self._writer.close()
        return self._taken()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_batches(self._waiting), row_group_size=_ROW_GROUP)
            self._waiting.clear()

    def _taken(self) -> bytes:
        piece = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return piece


class _Onward(io.RawIOBase):
    """A file that is only written to and knows how far it is, while what was written is taken away from `sink`."""

    def __init__(self, sink: io.BytesIO) -> None:
        self._sink = sink
        self._at = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes written since the beginning."""
        return self._at

    def write(self, data: Any) -> int:
        """Keep until taken."""
        written = self._sink.write(data)
        self._at += written
        return written


_ARROW_TYPES: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.TEXT: lambda pa: pa.string(),
    Kind.TEXTS: lambda pa: pa.list_(pa.string()),
    Kind.INTEGER: lambda pa: pa.int64(),
    Kind.FLAG: lambda pa: pa.bool_(),
    Kind.TIME: lambda pa: pa.timestamp("us", tz="UTC"),
    Kind.DAY: lambda pa: pa.date32(),
    Kind.SCORE: lambda pa: pa.decimal128(7, 6),
    Kind.SHARE: lambda pa: pa.float64(),
    Kind.SECONDS: lambda pa: pa.float64(),
    Kind.JSON: lambda pa: pa.string(),
}


def _arrow_value(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    match kind:
        case Kind.SCORE:
            return Decimal(value) / ONE
        case Kind.JSON:
            return json.dumps(value, ensure_ascii=False)
        case _:
            return value


WRITERS: Final[Mapping[str, Callable[[Sequence[Column]], Writer]]] = {"csv": CsvWriter, "ndjson": NdjsonWriter, "parquet": ParquetWriter}
