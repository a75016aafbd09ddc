"""The log for outsiders: how fast it is exported and checked, and in how much memory."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy import Connection, text

from bench.table import Figure
from deployments.databases import upgrade_schema
from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from deployments.ids import new_id
from moderation.adapters import verify_log
from moderation.adapters.database import Context, Database
from moderation.adapters.log_export import PostgresExport
from moderation.adapters.sealer_folder import SealerFolder
from moderation.adapters.seals import Sealer

_MB = 1 << 20
_BATCH = 50_000
_ENTRY = (
    '{"actor":"kkkkkkkkkkkkkkkkkkkk","classifiers":[{"frames":[{"frame":0,"scores":{'
    + ",".join(f'"some.category_{number}":"0.123456"' for number in range(18))
    + '}}]}],"facts":"'
    + "x" * 400
    + '","kind":"decision","nonce":"#","verdict":"allow"}'
)
"""About as long as the entry of a picture under one classifier of eighteen categories."""
_WRITE = text("""
INSERT INTO facegate.entry (id, tenant, kind, canonical)
SELECT facegate.uuid_floor(now() + (:first + at) * interval '1 ms'), :tenant, 'decision',
       convert_to(replace(:entry, '#', md5((:first + at)::text)), 'UTF8')
FROM generate_series(1, :count) AS at
""")


def figures(leaves: int) -> list[Figure]:
    """Fill a log with so many entries of two tenants, seal it, export and verify it."""
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            tenants = (new_id(), new_id())
            _fill(urls, tenants, leaves)
            key = _seal(urls, Path(folder) / "sealer")
            return _measured(urls, tenants[0], key, Path(folder) / "log.ndjson", leaves)
        finally:
            postgres.stop()


def _fill(urls: DatabaseUrls, tenants: tuple[UUID, UUID], leaves: int) -> None:
    def write(connection: Connection, tenant: UUID, first: int) -> None:
        connection.execute(_WRITE, {"tenant": tenant, "first": first, "count": min(_BATCH, leaves - first), "entry": _ENTRY})

    with closing(Database(urls.runtime, connections=1, statement_s=120)) as database:
        for number, first in enumerate(range(0, leaves, _BATCH)):
            tenant = tenants[number % 2]
            database.run_here(Context(tenant=tenant), partial(write, tenant=tenant, first=first))


def _seal(urls: DatabaseUrls, folder: Path) -> str:
    with SealerFolder(folder) as own, Sealer(urls.sealer, own, name="bench.test/log") as sealer:
        sealer.begin()
        while sealer.seal() is not None:
            pass
        key = own.key()
    if key is None:
        raise RuntimeError("nothing was sealed")
    return key.verifier.text


def _measured(urls: DatabaseUrls, tenant: UUID, key: str, file: Path, leaves: int) -> list[Figure]:
    _, small_growth = _export(urls, None, file, last=leaves // 10)
    own, _ = _export(urls, tenant, file, last=None)
    everything, of_all = _export(urls, None, file, last=None)
    rate, growth = _verify(file, key)
    return [
        Figure(name="export, entries of all", value=everything, unit="rows/s", wanted=">= 50000", note=f"{leaves:,} leaves, 1.1 KB each"),
        Figure(name="export for a tenant of two", value=own, unit="rows/s", wanted=">= 50000"),
        Figure(name="memory that an export adds", value=of_all / _MB, unit="MB", note=f"{small_growth / _MB:.0f} for a tenth of it"),
        Figure(name="offline verification", value=rate, unit="leaves/s", wanted=">= 100000", note="entries of all"),
        Figure(name="memory that verification adds", value=growth / _MB, unit="MB"),
    ]


def _export(urls: DatabaseUrls, tenant: UUID | None, file: Path, *, last: int | None) -> tuple[float, int]:
    """Rows a second, and by how many bytes the process grew at most."""

    async def run() -> int:
        with closing(Database(urls.runtime, connections=1, statement_s=60)) as database, file.open("wb") as into:
            exports = PostgresExport(database)
            span = await exports.span(first=None, last=last)
            if span is None:
                raise RuntimeError("nothing is sealed")
            async for piece in exports.lines(tenant, span):
                into.write(piece)
            return span.size

    before = _reset_peak()
    began = time.perf_counter()
    rows = asyncio.run(run())
    return rows / (time.perf_counter() - began), _peak() - before


def _verify(file: Path, key: str) -> tuple[float, int]:
    export = verify_log.Export(keys=[verify_log.read_key(key)])
    before = _reset_peak()
    began = time.perf_counter()
    with file.open("rb") as opened:
        export.read(opened)
    if export.faults:
        raise RuntimeError(export.faults[0])
    return export.tree.size / (time.perf_counter() - began), _peak() - before


def _reset_peak() -> int:
    """Forget how large the process ever was; how large it is, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
