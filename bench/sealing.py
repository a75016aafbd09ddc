"""What sealing costs and how far it lags: decisions at a steady rate, and as fast as they are taken, with `facegate seal` beside."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import create_engine, text

from bench.recorder import make_decision, measure
from bench.table import Figure, median_ratio
from deployments.databases import upgrade_schema
from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from deployments.ids import new_id
from deployments.settings import CONFIG, PREFIX, Settings, to_toml
from moderation.adapters.database import Database
from moderation.adapters.log_reader import PostgresLog
from moderation.adapters.postgres import PostgresRecord

RATE: Final = 1_000
TENANTS: Final = 4
BURST: Final = 20
"""Decisions that are begun together, so that the pace is kept by few and short waits."""

# How long after its row was written an entry was under a signed checkpoint, in seconds.
_LAGS: Final = text("""
SELECT percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM seal.sealed_at - entry.recorded_at))
FROM facegate.leaf JOIN facegate.entry ON entry.id = leaf.entry AND entry.xid = leaf.xid
CROSS JOIN LATERAL (SELECT sealed_at FROM facegate.seal WHERE seal.log = leaf.log AND size > leaf.index ORDER BY size LIMIT 1) AS seal
WHERE leaf.index >= :first
""")
_SIZE: Final = text("SELECT coalesce(max(size), 0) FROM facegate.seal")
_ENTRIES: Final = text("SELECT count(*) FROM facegate.entry")


def figures(seconds: float, rounds: int) -> list[Figure]:
    """Everything about sealing, on a Postgres of its own."""
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder))
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            return [*_steady(urls, Path(folder), seconds), *_hurried(urls, Path(folder), rounds), *_proofs(urls)]
        finally:
            postgres.stop()


def _steady(urls: DatabaseUrls, folder: Path, seconds: float) -> list[Figure]:
    with _sealer(urls, folder), closing(PostgresRecord(urls.runtime)) as record:
        tenants = [new_id() for _ in range(TENANTS)]
        asyncio.run(_pace(record, tenants, 2.0))
        first = _ask(urls, _SIZE)
        taken = asyncio.run(_pace(record, tenants, seconds))
    p50, p99, worst = _ask(urls, _LAGS, first=first)
    rate = RATE * seconds / taken
    return [
        Figure(name="steady decisions", value=rate, unit="/s", wanted=">= 995", note=f"{seconds:.0f} s, {TENANTS} tenants"),
        Figure(name="seal lag, p50", value=p50, unit="s"),
        Figure(name="seal lag, p99", value=p99, unit="s", wanted="<= 2", note=f"worst {worst:.2f} s"),
    ]


async def _pace(record: PostgresRecord, tenants: Sequence[UUID], seconds: float) -> float:
    """So many decisions at the rate; says how long they took with the last commit."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(RATE * seconds)):
            if number % BURST == 0:
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            group.create_task(record.append(make_decision(tenants[number % len(tenants)])))
    return time.perf_counter() - began


def _hurried(urls: DatabaseUrls, folder: Path, rounds: int) -> list[Figure]:
    tenants = [new_id() for _ in range(TENANTS)]
    alone, beside = [], []
    with closing(PostgresRecord(urls.runtime)) as record:

        def hurry(decisions: int = 10_000) -> float:
            return asyncio.run(measure(record, tenants=tenants, callers=512, decisions=decisions)).per_second

        def hurry_beside() -> float:
            with _sealer(urls, folder):
                return hurry()

        hurry(2_000)
        for number in range(rounds):  # in turns, and each first as often as the other
            if number % 2:
                alone.append(hurry())
            beside.append(hurry_beside())
            if not number % 2:
                alone.append(hurry())
    return [
        Figure(name="writers as fast as they can, not sealed", value=median(alone), unit="/s", note="512 callers"),
        Figure(name="writers beside the sealer", value=median(beside), unit="/s"),
        Figure(name="sealed over not sealed", value=median_ratio(beside, alone), unit="x", wanted=">= 0.9"),
    ]


def _proofs(urls: DatabaseUrls) -> list[Figure]:
    engine = create_engine(urls.sealer)
    with engine.connect() as connection:
        entries = [entry for (entry,) in connection.execute(text("SELECT entry FROM facegate.leaf"))]
    engine.dispose()

    async def prove() -> list[float]:
        taken = []
        with closing(Database(urls.runtime, connections=1)) as database:
            log = PostgresLog(database)
            for entry in random.Random(1).sample(entries, 300):  # noqa: S311  # a sample of a bench
                began = time.perf_counter()
                if await log.inclusion(None, entry) is None:
                    raise RuntimeError(f"no proof of {entry}")
                taken.append(time.perf_counter() - began)
        return sorted(taken)

    taken = asyncio.run(prove())
    return [Figure(name="inclusion proof, p95", value=taken[len(taken) * 95 // 100] * 1000, unit="ms", note=f"of {len(entries):,} leaves")]


@contextmanager
def _sealer(urls: DatabaseUrls, folder: Path) -> Iterator[None]:
    """`facegate seal` as `facegate serve` starts it, once it has caught up."""
    config = folder / "sealer.toml"
    config.write_text(to_toml(Settings(home=folder, sealer_database_url=SecretStr(urls.sealer))), encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    process = subprocess.Popen([sys.executable, "-m", "deployments.sealer"], env=clean | {CONFIG: str(config)})
    there = _ask(urls, _ENTRIES)
    try:
        while _ask(urls, _SIZE) < max(there, 1):  # what was there before is sealed first
            if process.poll() is not None:
                raise RuntimeError("the sealer has ended")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _ask(urls: DatabaseUrls, question: Any, **values: object) -> Any:
    """The one answer, as the sealer's role."""
    engine = create_engine(urls.sealer)
    try:
        with engine.connect() as connection:
            return connection.execute(question, values).scalar_one()
    finally:
        engine.dispose()
