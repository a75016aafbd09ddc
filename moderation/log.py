"""The signed log as text and values: checkpoints, the notes that sign them, keys, proofs and receipts.

A checkpoint is the head of an RFC 6962 tree over the leaf hashes of entries, in the form of C2SP `tlog-checkpoint`; it is
signed as a C2SP `signed-note` with Ed25519. Keys are told as `name+hash+key`, the encoding that other readers of notes know.
Nothing here signs or verifies; that needs a library (`moderation.adapters.notes`).

A log has a *name*, which is the name of its keys, and an *origin*, which its checkpoints say. The first origin is the name; after a
restore that lost sealed entries, the log is opened again under the name with a number, and its first entry holds the checkpoint
that could not be gone on from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self
from uuid import UUID

from moderation.audit import rfc3339

HASH_BYTES: Final = 32
OPERATOR: Final = UUID(int=0)
"""The tenant of entries that are about the log itself; everybody may read them."""
SEALED_WITHIN: Final = timedelta(seconds=60)
"""How long after its decision an entry is promised to be in the log."""

_ED25519: Final = b"\x01"
_NAME: Final = re.compile(r"[^\s+]{1,200}")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)")
_MAX_SIGNATURES: Final = 16


class NoteRefused(ValueError):
    """A text is not the note, checkpoint or key that it should be; the message is one line."""


# --- checkpoints ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The head of a tree: which log, how many leaves, their root (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text of C2SP `tlog-checkpoint`: three lines, no extension lines."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `text`, strictly: extension lines are nobody's to add. Raises NoteRefused."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:  # noqa: PLR2004  # three lines and what follows the last newline
            raise NoteRefused("a checkpoint has three lines")
        origin, size, root = lines[:3]
        if not _NAME.fullmatch(origin) or not _SIZE.fullmatch(size):
            raise NoteRefused("a checkpoint begins with origin and size")
        found = from_base64(root)
        if len(found) != HASH_BYTES:
            raise NoteRefused("a root has 32 bytes")
        return cls(origin=origin, size=int(size), root=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A signed checkpoint. `note` is the whole text with its signatures, `sealed_at` the database's time of signing."""

    checkpoint: Checkpoint
    note: str
    sealed_at: datetime


# --- notes and keys -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """The public half of a key (32 bytes) with its name."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The 4 bytes by which a signature says whose it is."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    @property
    def text(self) -> str:
        """`name+hash+key`, to be pinned by whoever verifies."""
        return f"{self.name}+{self.id.hex()}+{to_base64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `text`. Raises NoteRefused, also where hash and key do not belong together."""
        name, first, rest = text.partition("+")
        hashed, second, encoded = rest.partition("+")
        key = from_base64(encoded)
        if not (first and second and _NAME.fullmatch(name)) or len(key) != 1 + HASH_BYTES or key[:1] != _ED25519:
            raise NoteRefused("a key is name+hash+key, for Ed25519")
        made = cls(name=name, public=key[1:])
        if made.id.hex() != hashed:
            raise NoteRefused("the hash of this key is another")
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: who says to have signed, the 4 bytes of its key's id, and the signature itself."""

    name: str
    key_id: bytes
    signature: bytes


def note_of(text: str, signatures: Sequence[NoteSignature]) -> str:
    """The note of a text that ends in a newline."""
    lines = [f"— {one.name} {to_base64(one.key_id + one.signature)}\n" for one in signatures]
    return f"{text}\n{''.join(lines)}"


def parse_note(note: str) -> tuple[str, tuple[NoteSignature, ...]]:
    """Text and signatures of a note, none of them verified. Raises NoteRefused."""
    text, blank, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not blank or lines.pop() or not 0 < len(lines) <= _MAX_SIGNATURES:
        raise NoteRefused("a note is a text, an empty line, and 1 to 16 signatures")
    return text + "\n", tuple(map(_signature, lines))


def _signature(line: str) -> NoteSignature:
    parts = _SIGNATURE.fullmatch(line)
    if parts is None:
        raise NoteRefused("not a line of a signature")
    signed = from_base64(parts[2])
    if len(signed) <= 4:  # noqa: PLR2004  # the id of the key alone
        raise NoteRefused("a signature line without a signature")
    return NoteSignature(name=parts[1], key_id=signed[:4], signature=signed[4:])


# --- proofs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """That the leaf of this entry stands at `index` in the tree of `seal`. Hashes from the leaf up (RFC 6962 section 2.1.1)."""

    entry: UUID
    leaf: bytes
    index: int
    seal: Seal
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyProof:
    """That the first `first` leaves of the tree of size `second` are the tree of size `first` (RFC 6962 section 2.1.2)."""

    origin: str
    first: int
    second: int
    hashes: tuple[bytes, ...]


# --- receipts -------------------------------------------------------------------------------------


RECEIPT: Final = "facegate/receipt"
"""The first line of every receipt, so that what is signed as one can be nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The promise that the entry with this leaf will be in the log by then.

    `note` is the text as a short-lived key of the service has signed it; the log holds an entry of kind `receipt_key` with the
    public half. The same decision has the same receipt always.
    """

    entry: UUID
    leaf: bytes
    by: datetime
    note: str


def receipt_text(*, entry: UUID, leaf: bytes, by: datetime) -> str:
    """The note text of a receipt: what it is, the entry, its leaf hash, and until when."""
    return f"{RECEIPT}\n{entry}\n{to_base64(leaf)}\n{rfc3339(by)}\n"


KEY_CHANGE: Final = "facegate/key-change"
"""The first line of what both keys sign when one takes over from the other."""


def key_change_text(origin: str, key: VerifierKey) -> str:
    """The note text that says which key takes over in which log."""
    return f"{KEY_CHANGE}\n{origin}\n{key.text}\n"


def to_base64(data: bytes) -> str:
    """Standard base 64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """The inverse of `to_base64`, and of nothing else. Raises NoteRefused."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteRefused("not base 64") from error
    if to_base64(data) != text:
        raise NoteRefused("not base 64 as it is written")
    return data
