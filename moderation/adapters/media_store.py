"""Media at rest: a private folder or an object store, through obstore.

Objects lie under `<area>/<name>`; names are hex only, so no name can leave its area. A put is seen
whole or not at all. Where a name ends in a SHA-256, reading checks it: an altered object is a fault,
never a media.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from moderation.errors import MediaRefused, RecordUnavailable, Refusal
from moderation.media import sha256_of

_AREA: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_NAME: Final = re.compile(r"[0-9a-f]{8,128}(/[0-9a-f]{8,128}){0,2}")
_SHA256_HEX: Final = 64
_LONGEST_NAME: Final = 1024
_CLOUD: Final = frozenset({"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "memory"})
_STAGING: Final = ".staging"
_STAGED_FOR_S: Final = 3600.0
_LISTED: Final = 500

_T = TypeVar("_T")


class MediaAltered(RecordUnavailable):
    """The bytes under a name are not those that were stored under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aged:
    """One object of an area, and how long ago it was stored."""

    name: str
    age_s: float


class ObjectMediaStore:
    """Implements `moderation.ports.MediaStore` over a folder (path or `file:` URL) or a store URL.

    A local folder is made with mode 0700 and its files with 0600. Raises ValueError on a URL of another kind.
    """

    def __init__(self, location: str, *, timeout_s: float = 60.0) -> None:
        self._store, self._root = _open(location)
        self._timeout_s = timeout_s

    async def put(self, area: str, name: str, data: bytes) -> None:
        """Store; returns once the bytes are durable. Raises RecordUnavailable, ValueError on a bad area or name."""
        key = _key(area, name)
        if self._root is not None:
            await self._guard(asyncio.to_thread(_write_private, self._root, key, data))
        else:
            await self._guard(obstore.put_async(self._store, key, data))

    async def get(self, area: str, name: str) -> bytes | None:
        """The bytes, or None. Raises RecordUnavailable (MediaAltered if they are not those of the name), ValueError."""
        data = await self._guard(_read(self._store, _key(area, name)))
        digest = name.rpartition("/")[2]
        if data is not None and len(digest) == _SHA256_HEX and await asyncio.to_thread(sha256_of, data) != digest:
            raise MediaAltered(f"the object {area}/{name} is not what was stored under this name")
        return data

    async def size(self, area: str, name: str) -> int | None:
        """How many bytes it has, or None. Raises RecordUnavailable, ValueError."""
        return await self._guard(_size(self._store, _key(area, name)))

    async def piece(self, area: str, name: str, start: int, stop: int) -> bytes | None:
        """These of its bytes, or None. They are compared with nothing. Raises RecordUnavailable, also where there are none, and ValueError."""
        return await self._guard(_piece(self._store, _key(area, name), start, stop))

    async def delete(self, area: str, name: str) -> None:
        """Remove; absent is no error. Raises RecordUnavailable, ValueError."""
        await self._guard(_delete(self._store, _key(area, name)))

    async def aged(self, area: str, *, older_than_s: float) -> AsyncIterator[Sequence[Aged]]:
        """What was stored in an area that long ago, in batches. Raises RecordUnavailable, ValueError on a bad area."""
        if _AREA.fullmatch(area) is None:
            raise ValueError(f"not an area: {area!r}")
        now = datetime.now(UTC)
        listing = aiter(obstore.list(self._store, prefix=area, chunk_size=_LISTED))
        while batch := await self._guard(_next(listing)):
            ages = [(one["path"].removeprefix(f"{area}/"), (now - one["last_modified"]).total_seconds()) for one in batch]
            yield [Aged(name=name, age_s=age_s) for name, age_s in ages if age_s > older_than_s]

    async def ping(self) -> None:
        """Return if the store is there and answers and, where it is a folder, can be written. Raises RecordUnavailable."""
        if self._root is not None and not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise RecordUnavailable("the media folder cannot be written")
        # A bucket that is not there holds no object either: only a listing tells.
        await self._guard(_next(aiter(obstore.list(self._store, prefix="ping", chunk_size=1))))

    async def _guard(self, work: Awaitable[_T]) -> _T:
        return await _guarded(work, self._timeout_s)


class Buckets:
    """Stores of others that callers may name: read only, by configured bucket name and nothing else."""

    def __init__(self, locations: Mapping[str, str], *, timeout_s: float = 30.0) -> None:
        self._stores = {name: (open_existing(location), local_folder(location)) for name, location in locations.items()}
        self._timeout_s = timeout_s

    def __contains__(self, bucket: str) -> bool:
        """Whether a bucket of this name is configured."""
        return bucket in self._stores

    async def get(self, bucket: str, name: str, *, max_bytes: int, admit: Callable[[int], None]) -> bytes | None:
        """The object's bytes, or None if bucket or object are not there.

        `admit` is told how many there are before any is read; what it raises ends the reading.
        Raises MediaRefused (payload_too_large) before reading more than `max_bytes`, RecordUnavailable.
        """
        store, root = self._stores.get(bucket, (None, None))
        if store is None or not _could_be(name) or (root is not None and not _is_file(root / name)):
            return None
        return await _guarded(_read(store, name, max_bytes, admit), self._timeout_s)


def _could_be(name: str) -> bool:
    """Whether obstore can name it: no empty or dot segment, at most S3's 1024 bytes, no control character."""
    return name.isprintable() and len(name.encode(errors="replace")) <= _LONGEST_NAME and not {"", ".", ".."} & set(name.split("/"))


def _is_file(path: Path) -> bool:
    """Whether a name in a folder is a plain file; a caller's strange name is absence, not a fault of the store."""
    try:
        return path.is_file()
    except OSError:
        return False


async def _guarded(work: Awaitable[_T], timeout_s: float) -> _T:
    """The result of `work`; every fault of the store as RecordUnavailable, without its text for the outside."""
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError as error:
        raise RecordUnavailable("the media store did not answer in time") from error
    except (BaseError, OSError, ValueError) as error:
        raise RecordUnavailable(f"the media store failed: {type(error).__name__}") from error


async def _read(
    store: ObjectStore, key: str, max_bytes: int | None = None, admit: Callable[[int], None] = lambda _size: None
) -> bytes | None:
    try:
        found = await obstore.get_async(store, key)
        if max_bytes is not None and found.meta["size"] > max_bytes:
            raise MediaRefused(Refusal.PAYLOAD_TOO_LARGE)
        admit(found.meta["size"])
        return bytes(await found.bytes_async())
    except FileNotFoundError:
        return None


async def _size(store: ObjectStore, key: str) -> int | None:
    try:
        return (await obstore.head_async(store, key))["size"]
    except FileNotFoundError:
        return None


async def _piece(store: ObjectStore, key: str, start: int, stop: int) -> bytes | None:
    try:
        return bytes(await obstore.get_range_async(store, key, start=start, end=stop))
    except FileNotFoundError:
        return None


async def _next(listing: AsyncIterator[Sequence[Any]]) -> Sequence[Any]:
    """The next batch; empty at the end."""
    return await anext(listing, [])


async def _delete(store: ObjectStore, key: str) -> None:
    try:
        await obstore.delete_async(store, key)
    except FileNotFoundError:
        return


def _open(location: str) -> tuple[ObjectStore, Path | None]:
    root = local_folder(location)
    if root is None:
        return open_existing(location), None
    _private_folder(root)
    _forget_old_staging(root / _STAGING)
    return LocalStore(prefix=root), root


def open_existing(location: str) -> ObjectStore:
    """The store at a path or URL as it is: nothing is made, nothing is tidied up. Raises ValueError as `local_folder` does.

    Where and as whom a cloud's store is asked is taken from the process's environment, so no options of the client are given here: any would
    put all of those out of force, `AWS_ALLOW_HTTP` and the like. Its defaults are 5 s to connect and 30 s for an answer.
    """
    root = local_folder(location)
    return from_url(location) if root is None else LocalStore(prefix=root)


def local_folder(location: str) -> Path | None:
    """The folder of a path or `file:` URL, None for a store URL. Raises ValueError on any other scheme."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).absolute()
    if parts.scheme in _CLOUD:
        return None
    if not location or "://" in location:
        raise ValueError(f"media store: a folder, s3://, gs:// or az://, not {parts.scheme or 'nothing'}")
    return Path(location).absolute()


def _key(area: str, name: str) -> str:
    if not _AREA.fullmatch(area) or not _NAME.fullmatch(name):
        raise ValueError("an area is a word and a name is hex")
    return f"{area}/{name}"


def _write_private(root: Path, key: str, data: bytes) -> None:
    """Written beside, synced, then renamed. obstore's own local put would make files of mode 0644 and not sync."""
    target = root / key
    staging = root / _STAGING
    _private_folder(staging)
    _private_folder(target.parent, below=root)
    staged = staging / secrets.token_hex(16)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _private_folder(folder: Path, *, below: Path | None = None) -> None:
    """Make `folder` with mode 0700, and what is missing between it and `below` likewise."""
    if below is not None and folder != below:
        _private_folder(folder.parent, below=below)
    elif below is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget_old_staging(staging: Path) -> None:
    """Remove what a process that died in the middle of a put has left; nobody refers to it."""
    if not staging.is_dir():
        return
    for file in staging.iterdir():
        if time.time() - file.stat().st_mtime > _STAGED_FOR_S:
            file.unlink(missing_ok=True)
