"""A log that the real sealer has sealed on a real Postgres, and what an outsider gets of it."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Database
from moderation.adapters.log_export import PostgresExport
from moderation.adapters.sealer_folder import SealerFolder
from moderation.adapters.seals import Sealer
from moderation.adapters.verify_log import Export, read_checkpoint, read_key
from moderation.canonical import Json, canonical
from tests.log_kit import ORIGIN
from tests.pg import as_role, make_tenant


@dataclass(kw_only=True)
class SealedLog:
    """Entries are written as the service writes them, and sealed by a sealer that starts anew each time."""

    urls: DatabaseUrls
    folder: Path
    tenants: list[UUID] = field(default_factory=list)

    def tenant(self, number: int = 0) -> UUID:
        while len(self.tenants) <= number:
            self.tenants.append(make_tenant(self.urls.runtime, f"tenant-{len(self.tenants)}"))
        return self.tenants[number]

    def write(self, count: int, *, tenant: int = 0, text: str = "") -> None:
        """So many entries that look like decisions, in one transaction."""
        own = self.tenant(tenant)
        with as_role(self.urls.runtime, tenant=own) as cursor:
            for number in range(count):
                id: UUID = uuid7()
                facts: dict[str, Json] = {
                    "score": "0.123456",
                    "verdict": "allow",
                    "created_at": "2026-11-27T00:00:00.000000Z",
                    "text": text,
                    "number": number,
                }
                entry = canonical({"format": 1, "kind": "decision", "id": str(id), "tenant": str(own), **facts})
                cursor.execute(
                    "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'decision', %s)", (str(id), str(own), entry)
                )

    def entries(self, tenant: int) -> list[UUID]:
        """The ids of a tenant's entries, oldest first."""
        own = self.tenant(tenant)
        with as_role(self.urls.runtime, tenant=own) as cursor:
            cursor.execute("SELECT id FROM facegate.entry WHERE tenant = %s ORDER BY id", (str(own),))
            return [UUID(id) for (id,) in cursor.fetchall()]

    def seal(self) -> str:
        """Seal all that is there; the newest checkpoint."""
        with SealerFolder(self.folder) as folder, Sealer(self.urls.sealer, folder, name=ORIGIN) as sealer:
            sealer.begin()
            while sealer.seal() is not None:
                pass
            return folder.checkpoint() or ""

    @property
    def key(self) -> str:
        """The public key that outsiders have."""
        key = SealerFolder(self.folder).key()
        assert key is not None
        return key.verifier.text

    def export(
        self,
        tenant: int | None = None,
        *,
        first: int | datetime | None = None,
        last: int | datetime | None = None,
        origin: str | None = None,
        portion: int = 16,
    ) -> bytes:
        """The export for a tenant, or (None) for an auditor of all."""

        async def read() -> bytes:
            with closing(Database(self.urls.runtime, connections=1)) as database:
                exports = PostgresExport(database, leaves=portion)
                span = await exports.span(first=first, last=last, origin=origin)
                assert span is not None
                return b"".join([piece async for piece in exports.lines(None if tenant is None else self.tenants[tenant], span)])

        return asyncio.run(read())

    def faults(self, data: bytes | None = None, *, kept: tuple[str, ...] = (), **how: Any) -> list[str]:
        """What the verifier says of an export, by default of all as it is now."""
        keys = [read_key(self.key)]
        held = [(f"kept-{number}", read_checkpoint(note, keys)) for number, note in enumerate(kept)]
        reading = Export(keys=keys, held=held, **how)
        reading.read(io.BytesIO(self.export() if data is None else data))
        return reading.faults


def entries_of(data: bytes) -> dict[int, dict[str, object]]:
    """The entries that an export shows, by index."""
    lines = [json.loads(line) for line in data.splitlines()]
    return {line["index"]: line["entry"] for line in lines if "entry" in line}
