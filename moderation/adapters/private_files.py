"""Files with secrets: closed to everyone but their owner and, where they are mounted, a group that reads; written whole or not at all.

And folders that one process at a time works in.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from pathlib import Path
from typing import TextIO

REACHABLE_BY_OTHERS = 0o037
"""Bits of a mode; a group may read, for secrets that are mounted."""


class NotPrivate(Exception):
    """Others can reach the file; the text is one line."""


class FolderTaken(Exception):
    """Another process has the folder; the text is its id, empty where it did not say."""


def take_folder(folder: Path) -> TextIO:
    """The lock of a folder that exists, ours until it is closed or this process ends. Raises FolderTaken, OSError."""
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise FolderTaken(holder) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def make_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Written beside and linked, so that nobody ever reads half of it and the first of several makers wins (the last, with `replace`).

    When it returns, the file is there after a loss of power as well. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            draft.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # another maker was first
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    keep_names(path.parent)


def keep_names(folder: Path) -> None:
    """What is in a folder outlives a loss of power only once the folder itself is written."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, *, most: int) -> bytes:
    """Up to `most` bytes. Raises OSError; NotPrivate where others can write it or anybody but a group can read it."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & REACHABLE_BY_OTHERS:
            raise NotPrivate(f"others can reach it (mode {mode:04o}); chmod 600 it, or make a new one")
        return file.read(most)
