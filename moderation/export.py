"""An export of the log as lines of bytes; `docs/log-format.md` specifies them, and `verify_log.py` reads them.

An entry stands in its line as it is: canonical JSON has no line breaks, so the bytes that were hashed are those that are seen. What is
no text of one line (only somebody who changed the record could have put it there) stands as hex digits, so that the export goes on
and its reader is told.
"""

from __future__ import annotations

import json
from binascii import hexlify
from dataclasses import dataclass
from typing import Final

from moderation.log import NoteRefused, parse_note

FORMAT: Final = "facegate-log-export/1"
PROOF_FORMAT: Final = "facegate-log-proof/1"
CONSISTENCY_FORMAT: Final = "facegate-log-consistency/1"

MARK_EVERY: Final = 256
"""Leaves between two checkpoints on the way. They narrow down where a change is, and each costs its reader a signature to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What an export reaches over: the leaves from `start` up to `size`, where a checkpoint ends it.

    `log` is the number of the log, `before` the peaks of the tree of `start` leaves, `note` the checkpoint over `size`.
    """

    log: int
    origin: str
    start: int
    size: int
    before: tuple[bytes, ...]
    note: str


def header_line(span: Span) -> bytes:
    """The first line."""
    try:
        keys = [signature.key_id.hex() for signature in parse_note(span.note)[1]]
    except NoteRefused:  # somebody changed it: whoever reads the export is told so
        keys = []
    return _line(
        {
            "format": FORMAT,
            "origin": span.origin,
            "start": span.start,
            "size": span.size,
            "keys": keys,
            "before": [peak.hex() for peak in span.before],
        }
    )


def leaf_line(index: int, leaf: bytes, entry: bytes | None) -> bytes:
    """One leaf (its hash has 32 bytes), with its entry where there is one for the reader to see."""
    if entry is None:
        return b'{"index":%d,"leaf":"%s"}\n' % (index, hexlify(leaf))
    if is_line(entry):
        return b'{"index":%d,"leaf":"%s","entry":%s}\n' % (index, hexlify(leaf), entry)
    return b'{"index":%d,"leaf":"%s","entry_hex":"%s"}\n' % (index, hexlify(leaf), hexlify(entry))


def checkpoint_line(note: str) -> bytes:
    """One signed checkpoint."""
    return _line({"checkpoint": note})


def is_line(entry: bytes) -> bool:
    """Whether these bytes can stand in a line as what they are: text in braces, without a line break."""
    if b"\n" in entry or not (entry.startswith(b"{") and entry.endswith(b"}")):
        return False
    if entry.isascii():
        return True
    try:
        entry.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
