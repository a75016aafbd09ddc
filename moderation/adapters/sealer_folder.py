"""What the sealer keeps outside the database, in a folder of its own: its signing key and the last checkpoint that it signed.

    lock          held by the process that seals
    seal.key      signs checkpoints; made on first start
    next.key      takes over once a checkpoint was signed with both
    checkpoint    the newest signed checkpoint, written before it is committed
    cluster       which server's count of transactions is gone by

Whoever has the folder can sign, and whoever lost it cannot go on: it is backed up apart from the database, and never restored
without need.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from moderation.adapters.notes import SigningKey, SigningKeyRefused
from moderation.adapters.private_files import FolderTaken, NotPrivate, keep_names, make_private, read_private, take_folder
from moderation.errors import ModerationError

_MOST_BYTES: Final = 20_000


class SealingRefused(ModerationError):
    """The sealer must not sign; the text is one line."""


class SealerFolder:
    """The folder of one log. As a context it is this process's alone."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        """Raises SealingRefused where another process seals from here, OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock = take_folder(self.path)
        except FolderTaken as taken:
            raise SealingRefused(f"process {str(taken) or '?'} seals from {self.path} already") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def key(self) -> SigningKey | None:
        """The key that signs. Raises SealingRefused where the file cannot be used."""
        return self._load("seal.key")

    def next_key(self) -> SigningKey | None:
        """The key that is to take over."""
        return self._load("next.key")

    def make_key(self, name: str) -> SigningKey:
        """A first key."""
        return self._make("seal.key", name)

    def make_next_key(self, name: str) -> SigningKey:
        """A key to take over; the one that waits for it already, where there is one."""
        return self._make("next.key", name)

    def promote_next_key(self) -> None:
        """From here on the next key is the only one; the former one is gone."""
        (self.path / "next.key").replace(self.path / "seal.key")
        keep_names(self.path)

    def checkpoint(self) -> str | None:
        """The newest signed checkpoint, as a note."""
        try:
            return read_private(self.path / "checkpoint", most=_MOST_BYTES).decode()
        except FileNotFoundError:
            return None
        except (NotPrivate, UnicodeDecodeError) as fault:
            raise SealingRefused(f"the checkpoint in {self.path} cannot be used: {fault}") from None

    def keep_checkpoint(self, note: str) -> None:
        """When it returns, the note is there after a loss of power as well."""
        make_private(self.path / "checkpoint", note.encode(), replace=True)

    def cluster(self) -> str | None:
        """The server on which everything has been read once."""
        try:
            return (self.path / "cluster").read_text(encoding="ascii")
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def keep_cluster(self, cluster: str) -> None:
        """From here on its count of transactions says what is new."""
        make_private(self.path / "cluster", cluster.encode(), replace=True)

    def _load(self, file: str) -> SigningKey | None:
        try:
            return SigningKey.load(self.path / file)
        except FileNotFoundError:
            return None
        except SigningKeyRefused as fault:
            raise SealingRefused(str(fault)) from None

    def _make(self, file: str, name: str) -> SigningKey:
        SigningKey.generate(name).save(self.path / file)
        made = self._load(file)
        if made is None:
            raise SealingRefused(f"the key in {self.path} is gone as soon as it is made")
        return made
