"""The areas of the media store: who may touch which is said by which of them somebody is given.

| area | holds | written by | read by |
| --- | --- | --- | --- |
| intake | what was sent, until its work ends | the Api | the worker, the review door |
| quarantine | files of ours that are not released, and uploads that wait for a person | the worker; the Api for held uploads | the worker, the review door |
| released | released files | the worker, after the release transaction | the Api, which checks release and hash again |
| catalogue | approved source faces | the Api | the worker |

Each may lie in a store of its own, with its own credentials.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol
from uuid import UUID

from moderation.adapters.media_store import Aged
from moderation.ports import MediaStore, StoredObject


def object_name(tenant: UUID, owner: UUID, sha256: str) -> str:
    """Where bytes lie within an area. `owner` is the transform, decision or source they belong to, so that nobody deletes another's.

    It ends in the SHA-256, which the store checks on reading.
    """
    return f"{tenant.hex}/{owner.hex}/{sha256}"


def object_of(name: str) -> tuple[UUID, StoredObject] | None:
    """The inverse of `object_name`: (tenant, what it is); None for anything that it would not have written."""
    try:
        tenant, owner, sha256 = name.split("/")
        return UUID(hex=tenant), StoredObject(owner=UUID(hex=owner), sha256=sha256)
    except ValueError:
        return None


class Store(MediaStore, Protocol):
    """What areas lie in."""

    async def size(self, area: str, name: str) -> int | None:
        """How many bytes it has, or None. Raises RecordUnavailable."""

    async def piece(self, area: str, name: str, start: int, stop: int) -> bytes | None:
        """These of its bytes, or None; compared with nothing. Raises RecordUnavailable."""

    def aged(self, area: str, *, older_than_s: float) -> AsyncIterator[Sequence[Aged]]:
        """What was stored that long ago, in batches. Raises RecordUnavailable."""

    async def ping(self) -> None:
        """Return if it can be read and written. Raises RecordUnavailable."""


class Area:
    """One area of one store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    async def put(self, name: str, data: bytes) -> None:
        """Store; returns once the bytes are durable, the same twice is no error. Raises RecordUnavailable."""
        await self._store.put(self.name, name, data)

    async def get(self, name: str) -> bytes | None:
        """The bytes, or None. Raises RecordUnavailable, also if they are not those of the name."""
        return await self._store.get(self.name, name)

    async def size(self, name: str) -> int | None:
        """How many bytes it has, or None. Raises RecordUnavailable."""
        return await self._store.size(self.name, name)

    async def piece(self, name: str, start: int, stop: int) -> bytes | None:
        """These of its bytes, or None; whoever asks compares them with what they should be. Raises RecordUnavailable."""
        return await self._store.piece(self.name, name, start, stop)

    async def delete(self, name: str) -> None:
        """Remove; absent is no error. Raises RecordUnavailable."""
        await self._store.delete(self.name, name)

    def aged(self, *, older_than_s: float) -> AsyncIterator[Sequence[Aged]]:
        """What was stored that long ago, in batches. Raises RecordUnavailable."""
        return self._store.aged(self.name, older_than_s=older_than_s)

    async def ping(self) -> None:
        """Return if the store answers. Raises RecordUnavailable."""
        await self._store.ping()
