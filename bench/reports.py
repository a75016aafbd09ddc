"""What questions cost on a record of a year: `python -m bench.reports --rows 200000`, or 5000000 for the figures of docs/performance.md."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from bench.record_fill import Filled, fill, filled_before
from bench.table import Figure, show
from deployments.databases import upgrade_schema
from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from moderation.adapters.database import Context, Database
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.adapters.reports.reader import STATEMENT_S, PostgresReports
from moderation.errors import RecordUnavailable
from moderation.ports import DecisionFilter
from moderation.reports import read_parameters

LOOK_UPS: Final = 200
FOLDED: Final = ("policy_replay", "model_comparison")
AGGREGATES: Final = (
    "verdicts",
    "overturns",
    "time_to_action",
    "reviewer_activity",
    "released_without_checks",
    "log_gaps",
    "random_audit_sample",
)
ROWS: Final = ("output_blocked_after_pass", "degraded_decisions", "dsa_statements", "erasures", "thresholds_in_force")


def measure(rows: int, folder: Path | None = None) -> list[Figure]:
    """Fill, ask, and say what it cost; on a Postgres of its own in a temporary folder, or in `folder`, which stays and is filled once."""
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as temporary:
        postgres = EmbeddedPostgres(folder or Path(temporary), settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            begun = time.perf_counter()
            filled = filled_before(postgres)
            if filled is None:
                filled = fill(postgres, urls, rows)
                print(f"filled {filled.decisions:,} decisions in {time.perf_counter() - begun:.0f} s", flush=True)
            return asyncio.run(ask(urls, filled, postgres.pid or 0))
        finally:
            postgres.stop()


async def ask(urls: DatabaseUrls, filled: Filled, postmaster: int) -> list[Figure]:
    """All figures on a filled record.

    Of each report the first page with its totals, as it comes over HTTP. Beside the time stands the processor time, Postgres and ours, which
    what runs beside it does not lengthen as much; and what the next page takes, which has no totals.
    """
    database = Database(urls.runtime, connections=2, statement_s=STATEMENT_S)
    record = PostgresRecord(urls.runtime, answer_s=30.0)
    reports = PostgresReports(database)
    try:
        figures = await look_ups(record, database, filled)
        month = {"from": filled.months[-2], "to": filled.months[-1]}
        year = {"from": filled.months[0], "to": filled.months[-1] + timedelta(days=31)}
        for name in (*AGGREGATES, *ROWS):
            for period, bounds in (("month", month), ("year", year)):
                before = _processor_s(postmaster)
                spent = await _timed(reports.first_page(name, filled.tenant, _values(name, bounds), limit=51))
                note = f"processor {_processor_s(postmaster) - before:.2f} s"
                if name in ROWS:
                    note += f"; without totals {await _timed(_page(reports, name, filled.tenant, bounds)):.2f} s"
                wanted = "<= 5" if name in AGGREGATES and period == "year" else "<= 1"
                figures.append(Figure(name=f"{name}, {period}", value=spent, unit="s", wanted=wanted, note=note))
                print(figures[-1], flush=True)
        figures += await whole(reports, filled, year, month, postmaster)
    finally:
        record.close()
        database.close()
    return figures


async def look_ups(record: PostgresRecord, database: Database, filled: Filled) -> list[Figure]:
    """One decision by its id, the history of its bytes, and the timeline of its transform."""
    some = text(
        "SELECT id, media_sha256, transform FROM facegate.decision TABLESAMPLE SYSTEM (:percent) WHERE tenant = :tenant AND transform IS NOT NULL"
        " ORDER BY random() LIMIT :many"
    )
    percent = min(100.0, max(0.05, 100 * 20 * LOOK_UPS / filled.decisions))  # one decision in seven has a transform
    asked = {"tenant": str(filled.tenant), "many": LOOK_UPS, "percent": percent}
    drawn = await database.run(Context(tenant=filled.tenant), lambda connection: connection.execute(some, asked).all())
    reports = PostgresReports(database)
    by_id, history, timeline = [], [], []
    for id, sha256, transform in drawn:
        by_id.append(await _timed(record.get(filled.tenant, UUID(str(id)))))
        wanted = DecisionFilter(media_sha256=bytes(sha256).hex())
        history.append(await _timed(record.find(filled.tenant, wanted)))
        named = {"transform": f"trf_{UUID(str(transform)).hex}"}
        timeline.append(await _timed(_page(reports, "timeline", filled.tenant, named)))
    return [
        Figure(name=f"{name}, p95", value=_p95(spent) * 1000, unit="ms", wanted="<= 20", note=f"{len(spent)} of {filled.decisions:,}")
        for name, spent in (("decision by id", by_id), ("history of bytes", history), ("timeline of a transform", timeline))
    ]


async def whole(
    reports: PostgresReports, filled: Filled, year: dict[str, datetime], month: dict[str, datetime], postmaster: int
) -> list[Figure]:
    """Streams: how many decisions a second are folded, how many rows a second leave, and what memory that takes."""
    per_month = filled.decisions / len(filled.months)
    bounds = month if per_month > 100_000 else year
    decisions = per_month if bounds is month else filled.decisions
    found = []
    for name in FOLDED:
        asked = bounds | ({"policy": "default"} if name == "policy_replay" else {})
        used = _processor_s(postmaster)
        spent = await _timed(_all(reports, name, filled.tenant, asked))
        each = (_processor_s(postmaster) - used) / decisions * 1e6
        note = f"{decisions:,.0f} streamed, processor {each:.1f} µs each"
        found.append(Figure(name=name, value=decisions / spent, unit="decisions/s", wanted=">= 50000", note=note))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    rows = await _all(reports, "dsa_statements", filled.tenant, year)
    spent = time.perf_counter() - begun
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found.append(
        Figure(name="dsa_statements streamed", value=rows / spent, unit="rows/s", note=f"{rows:,} rows, {grown:.0f} MB more memory")
    )
    return found


async def _page(reports: PostgresReports, name: str, tenant: UUID, bounds: dict[str, Any]) -> int:
    return len(await reports.page(name, tenant, _values(name, bounds), after=None, limit=51))


async def _all(reports: PostgresReports, name: str, tenant: UUID, bounds: dict[str, Any]) -> int:
    return sum([len(batch) async for batch in reports.stream(name, tenant, _values(name, bounds))])


def _values(name: str, bounds: dict[str, Any]) -> dict[str, Any]:
    texts = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in bounds.items()}
    return read_parameters(STATEMENTS[name].report, texts, datetime.now(UTC)) | ({"seed": "1"} if name == "random_audit_sample" else {})


async def _timed(work: Awaitable[object]) -> float:
    """Seconds; infinite where the database gave up."""
    begun = time.perf_counter()
    try:
        await work
    except RecordUnavailable:
        return math.inf
    return time.perf_counter() - begun


def _processor_s(postmaster: int) -> float:
    """What this process, all that the server runs now, and all that it has run and ended have used so far."""
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    ticks = sum(_ticks(child)[0] for child in children) + sum(_ticks(str(postmaster)))
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def _ticks(pid: str) -> tuple[int, int]:
    """Of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0  # it has just ended, and is counted with its parent's
    return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def _p95(spent: Sequence[float]) -> float:
    return statistics.quantiles(spent, n=20)[-1]


def main() -> None:
    """Fill, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where the record is made and stays, to be asked again; by default it is temporary")
    asked = parser.parse_args()
    random.seed(1)
    show(measure(asked.rows, asked.folder))


if __name__ == "__main__":
    main()
