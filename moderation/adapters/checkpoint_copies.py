"""Copies of signed checkpoints, somewhere that the holder of database and key does not rule: a folder, a bucket, a git repository.

Only a copy that somebody else keeps makes the log one that cannot be written anew from its beginning. A place never forgets: each
checkpoint is an object of its own, and one that is there already is not replaced.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from moderation.adapters.media_store import local_folder, open_existing
from moderation.log import Checkpoint, NoteRefused, Seal

_GIT: Final = "git+"
_GIT_S: Final = 30.0
_AUTHOR: Final = ("-c", "user.name=facegate", "-c", "user.email=facegate@localhost")


class CopyFailed(Exception):  # a fact for the operator
    """A checkpoint could not be copied to one place; the text is one line."""


class CheckpointPlace(Protocol):
    """Somewhere that checkpoints are copied to."""

    def keep(self, seal: Seal) -> None:
        """Put it there. Raises CopyFailed."""


def checkpoint_places(locations: Sequence[str]) -> list[CheckpointPlace]:
    """Folders (path or `file:` URL), bucket URLs, or `git+` and the path of a working copy. Raises ValueError on anything else."""
    return [GitRepository(Path(place.removeprefix(_GIT))) if place.startswith(_GIT) else ObjectPlace(place) for place in locations]


class ObjectPlace:
    """A folder or a bucket: one object for each checkpoint, by origin and size."""

    def __init__(self, location: str) -> None:
        folder = local_folder(location)
        self._store: ObjectStore = open_existing(location) if folder is None else LocalStore(prefix=folder, mkdir=True)
        self._location = location

    def keep(self, seal: Seal) -> None:
        """Put it there; the same one again is no error. Raises CopyFailed, also where another one has its name."""
        name = f"{quote(seal.checkpoint.origin, safe='')}/{seal.checkpoint.size:020}.checkpoint"
        try:
            try:
                obstore.put(self._store, name, seal.note.encode(), mode="create")
            except AlreadyExistsError:
                if bytes(obstore.get(self._store, name).bytes()) != seal.note.encode():
                    raise CopyFailed(f"{self._location} has another checkpoint named {name}") from None
        except (BaseError, OSError) as fault:
            raise CopyFailed(f"{self._location}: {type(fault).__name__}") from fault


class GitRepository:
    """A working copy: one file for each origin, one commit for each checkpoint, pushed where it has somewhere to go."""

    def __init__(self, folder: Path) -> None:
        if not (folder / ".git").exists():
            raise ValueError(f"{folder} is not a working copy of a git repository")
        self._folder = folder

    def keep(self, seal: Seal) -> None:
        """Commit it, and push. Raises CopyFailed, also where a larger one or another one of its size is there."""
        file = f"{quote(seal.checkpoint.origin, safe='')}.checkpoint"
        try:
            self._refuse_to_go_back(self._folder / file, seal)
            new = self._folder / f"{file}.new"
            new.write_text(seal.note, encoding="utf-8")
            new.replace(self._folder / file)  # never half of it, which could not be gone on from
            self._git("add", "--", file)
            if self._git("status", "--porcelain", "--", file):
                self._git(*_AUTHOR, "commit", "-q", "-m", f"{seal.checkpoint.origin} {seal.checkpoint.size}", "--", file)
            for remote in self._git("remote").split():
                self._git("push", "-q", remote, "HEAD")
        except (OSError, subprocess.SubprocessError) as fault:
            raise CopyFailed(f"git in {self._folder}: {_words(fault)}") from fault

    def _refuse_to_go_back(self, file: Path, seal: Seal) -> None:
        if not file.exists():
            return
        there = file.read_text(encoding="utf-8")
        if there == seal.note:
            return
        try:
            size = Checkpoint.parse(there.rpartition("\n\n")[0] + "\n").size
        except NoteRefused as fault:
            raise CopyFailed(f"{file} is no checkpoint: {fault}") from None
        if size >= seal.checkpoint.size:
            raise CopyFailed(f"{file} has another checkpoint, over {size} leaves, and this one is over {seal.checkpoint.size}")

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self._folder), *arguments]  # as the path says
        done = subprocess.run(  # noqa: S603  # no text of others in it
            command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_GIT_S
        )
        return done.stdout.strip()


def _words(fault: Exception) -> str:
    said = (getattr(fault, "stderr", None) or str(fault)).strip().splitlines()
    return said[-1] if said else type(fault).__name__
