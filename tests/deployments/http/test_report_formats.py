"""What a report's files are for those who open them."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence

import pyarrow.parquet
import pytest

from deployments.http.report_formats import WRITERS, written
from moderation.reports import Column, Kind, columns

COLUMNS = columns(("text", Kind.TEXT, "A text"), ("number", Kind.INTEGER, "A number"))


def whole(format: str, batches: Sequence[Sequence[tuple[str, int]]], given: Sequence[Column] = COLUMNS) -> bytes:
    async def rows() -> AsyncIterator[Sequence[tuple[str, int]]]:
        for batch in batches:
            yield batch

    async def read() -> bytes:
        return b"".join([piece async for piece in written(WRITERS[format](given), rows())])

    return asyncio.run(read())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_is_a_formula_in_a_spreadsheet(text: str) -> None:
    lines = list(csv.reader(io.StringIO(whole("csv", [[(text, -1), ("a=b", 2)]]).decode(), newline="")))
    assert lines[1:] == [[f"'{text}", "-1"], ["a=b", "2"]]


def test_batches_are_gathered_into_large_row_groups() -> None:
    rows = [(str(number), number) for number in range(120_000)]
    batches = [rows[start : start + 2000] for start in range(0, len(rows), 2000)]
    file = pyarrow.parquet.ParquetFile(io.BytesIO(whole("parquet", batches)))
    groups = [file.metadata.row_group(place).num_rows for place in range(file.metadata.num_row_groups)]
    assert groups == [50_000, 50_000, 20_000]
    assert file.read().column("number").to_pylist() == list(range(120_000))
