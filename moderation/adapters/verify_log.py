#!/usr/bin/env python3
"""Check a log of facegate without trusting whoever runs it.

    python verify_log.py EXPORT --key VKEY [--checkpoint OLD ...] [--receipts FILE [--exported-at TIME]] [--report FILE] [--former EXPORT ...]
    python verify_log.py PROOF  --key VKEY

This one file is all there is to it: it needs Python 3.11 and `cryptography`, imports nothing of facegate, opens no connection, and
reads an export of any size in the same few megabytes. What it reads is specified in `docs/log-format.md`. Of an export it checks that

1. every line is exactly what the format allows, from the first to the last byte, and nothing follows;
2. indexes are contiguous, so that no leaf is missing, twice, or out of place;
3. each entry that is shown has the leaf hash that stands beside it;
4. the leaves have the root of each checkpoint on the way and of the one at the end (RFC 6962, section 2.1);
5. the last checkpoint is signed by a key that you gave, or that such a key has named as the one to follow it, and no signature by such a
   key is wrong;
6. every older checkpoint that you kept is a beginning of this log: nothing before it was rewritten;
7. each receipt that you kept is in the log, if it was due in this export: before the time at which you asked for it, or before one that an
   entry in it bears;
8. the totals of a report are those of the entries.

After a restart, what you kept from before it is compared with the exports of the logs before (`--former`), and these with the checkpoint
that the restart names.

Faults are told with line and index. Exit status: 0 all of it holds, 1 something does not, 2 it could not be checked, 3 nothing is wrong,
and something that you kept is not covered by this export, which is said.

Get the key from the operator once, by a way that you trust, and keep it. Keep checkpoints, too: a checkpoint that nobody outside
holds does not bind anybody.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from binascii import hexlify, unhexlify
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXPORT: Final = "facegate-log-export/1"
PROOF: Final = "facegate-log-proof/1"
CONSISTENCY: Final = "facegate-log-consistency/1"
RECEIPT: Final = "facegate/receipt"
KEY_CHANGE: Final = "facegate/key-change"

_OPERATOR: Final = "00000000-0000-0000-0000-000000000000"
"""The tenant of entries that are about the log itself."""
_BY_SEALER: Final = b'{"actor":"sealer"'
"""How entries begin that the process which seals has written about the log."""
_HASH: Final = 32
_KEY_ID: Final = 4
_ED25519: Final = b"\x01"
"""The signature type of C2SP signed notes."""
_MOST_SIGNATURES: Final = 100
_LONGEST_LINE: Final = 1 << 28
_FAULTS_KEPT: Final = 1000
_FAULTS_SHOWN: Final = 20
_LEAF_LINE: Final = re.compile(rb'\{"index":(0|[1-9][0-9]{0,17}),"leaf":"([0-9a-f]{64})"[,}].*\n', re.DOTALL)


class Wrong(Exception):  # what is said of a file, with its place
    """Something does not hold."""


class Unusable(Exception):  # what is said to whoever started this
    """It could not be checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What does not hold, what was looked at, and what was kept and cannot be judged by what was read."""

    faults: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)


# --- the tree: RFC 6962, section 2.1 --------------------------------------------------------------


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256 over a zero byte and the entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 over a one byte and both children."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Tree:
    """A growing tree: its size, and the roots of the perfect subtrees that it is made of, largest first."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> None:
        """One more leaf hash."""
        carry, peaks = self.size, self.peaks
        while carry & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            carry >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The Merkle tree hash."""
        if not self.peaks:
            return sha256().digest()
        *rest, root = self.peaks
        for left in reversed(rest):
            root = node_hash(left, root)
        return root


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf at `index` of a tree of `size` has by this path (RFC 9162, section 2.1.3.2). Raises Wrong."""
    if not 0 <= index < size:
        raise Wrong(f"leaf {index} is not in a tree of {size}")
    for sibling, is_left in _climb(index, size - 1, path):
        leaf = node_hash(sibling, leaf) if is_left else node_hash(leaf, sibling)
    return leaf


def check_consistency(first: int, second: int, root1: bytes, root2: bytes, path: Sequence[bytes]) -> None:
    """That the tree of `first` leaves is the beginning of that of `second` (RFC 9162, section 2.1.4.2). Raises Wrong."""
    if not 0 < first <= second:
        raise Wrong(f"there is no consistency proof from {first} to {second}")
    if first == second:
        if path or root1 != root2:
            raise Wrong(f"the two trees of {first} leaves are not the same")
        return
    known = [root1] if first & (first - 1) == 0 else []  # a perfect tree is a node of every later one, and left out of the proof
    start, *rest = [*known, *path] or [b""]
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = start
    for sibling, is_left in _climb(node, last, rest):
        if is_left:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    if (old, new) != (root1, root2):
        raise Wrong(f"the tree of {first} leaves is not the beginning of the tree of {second}")


def _climb(node: int, last: int, path: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each hash of a path from a node up, with whether it stands on the left. Raises Wrong where the path is not as long as the way."""
    for sibling in path:
        if last == 0:
            raise Wrong("the proof is too long")
        is_left = bool(node & 1) or node == last
        yield sibling, is_left
        while is_left and node and not node & 1:
            node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    if last:
        raise Wrong("the proof is too short")


# --- keys and checkpoints: C2SP signed-note and tlog-checkpoint ------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key that is trusted, from its text `name+id+key`."""

    name: str
    id: bytes
    public: Ed25519PublicKey

    @property
    def label(self) -> str:
        """Name and id, as people compare them."""
        return f"{self.name}+{self.id.hex()}"

    @property
    def text(self) -> str:
        """As it is given with `--key`."""
        return f"{self.label}+{base64.b64encode(_ED25519 + self.public.public_bytes_raw()).decode()}"


def read_key(text: str) -> Key:
    """A verifier key as C2SP signed-note writes it. Raises Unusable."""
    name, _, rest = text.strip().partition("+")
    id, _, key = rest.partition("+")
    raw = _base64(key)
    if not name or raw is None or len(raw) != 1 + _HASH or raw[:1] != _ED25519:
        raise Unusable(f"not an Ed25519 verifier key (name+id+key): {text.strip()[:80]}")
    expected = sha256(name.encode() + b"\n" + raw).digest()[:4]
    if id != expected.hex():
        raise Unusable(f"the key {name} has the id {expected.hex()}, its text says {id[:20]}")
    return Key(name=name, id=expected, public=Ed25519PublicKey.from_public_bytes(raw[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was signed: so many leaves of this log have this root. `signers` are the trusted keys that did."""

    origin: str
    size: int
    root: bytes
    signers: tuple[str, ...]
    key_ids: tuple[str, ...]
    """Of all signatures, trusted or not."""


def read_checkpoint(text: str, keys: Sequence[Key]) -> Checkpoint:
    """A signed checkpoint. Signatures by other keys are not looked at, as the format demands. Raises Wrong."""
    body, signatures = _parts_of_note(text)
    lines = body.split("\n")
    root = _base64(lines[2]) if len(lines) == 4 else None  # noqa: PLR2004  # origin, size, root, and what follows the last newline
    if not lines[0] or root is None or len(root) != _HASH or not re.fullmatch(r"0|[1-9][0-9]{0,17}", lines[1]):
        raise Wrong("not a checkpoint")
    signers, key_ids = _signers(body, signatures, keys)
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root, signers=signers, key_ids=key_ids)


def _parts_of_note(text: str) -> tuple[str, list[str]]:
    """What is signed, and the lines of signatures. Raises Wrong."""
    body, blank, signatures = text.rpartition("\n\n")
    if not blank or not signatures.endswith("\n") or any(letter < " " and letter != "\n" for letter in text):
        raise Wrong("not a signed note")
    return body + "\n", signatures[:-1].split("\n")


def _signers(body: str, signatures: Sequence[str], keys: Sequence[Key]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which trusted keys signed, and the ids of all that say they did."""
    found, ids = [], []
    if len(signatures) > _MOST_SIGNATURES:
        raise Wrong("more signatures than anybody needs")
    for line in signatures:
        dash, name, signature = (*line.split(" "), "", "")[:3]
        raw = _base64(signature)
        if dash != "\N{EM DASH}" or not name or raw is None or line.count(" ") != 2:  # noqa: PLR2004  # dash, name, signature
            raise Wrong("not a signature line")
        ids.append(raw[:4].hex())
        key = next((key for key in keys if (key.name, key.id) == (name, raw[:4])), None)
        if key is not None:
            try:
                key.public.verify(raw[4:], body.encode())
            except InvalidSignature:
                raise Wrong(f"the signature by {key.label} is not one over this text") from None
            found.append(key.label)
    return tuple(found), tuple(ids)


def _base64(text: str) -> bytes | None:
    """The bytes of the one way of writing them, or None."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw if base64.b64encode(raw).decode() == text else None


# --- what the log says of itself --------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Heir:
    """A key that is to take over, the index of the entry that says so, and which trusted keys say it with it."""

    key: Key
    index: int
    formers: frozenset[str]


def read_heir(document: dict[str, Any], origin: str, index: int, keys: Sequence[Key]) -> Heir | None:
    """The key that an entry names, if it is one of those that are trusted who names it: None for anything else.

    The entry by itself proves nothing, since whoever can write entries could write such a one. So both keys sign a note of three lines:
    what it is, the log, and the new key.
    """
    try:
        facts = document["log"]
        heir, note = read_key(str(facts["key"])), str(facts["note"])
        body, signatures = _parts_of_note(note)
        former, _ = _signers(body, signatures, keys)
        own, _ = _signers(body, signatures, [heir])
    except (KeyError, TypeError, Unusable, Wrong):
        return None
    is_said = body == f"{KEY_CHANGE}\n{origin}\n{heir.text}\n"
    formers = frozenset(former) - {heir.label}
    return Heir(key=heir, index=index, formers=formers) if is_said and formers and own else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Why a log begins where another ended: `former` is the checkpoint that could not be gone on from, if a trusted key has signed it."""

    at: datetime
    reason: str
    former: Checkpoint | None
    names_none: bool
    """That there was none."""


def read_restart(document: dict[str, Any], keys: Sequence[Key]) -> Restart | None:
    """What the entry that opens a log again says. The checkpoint in it counts if it is signed by a key that is trusted."""
    try:
        facts, at, reason = document["log"], datetime.fromisoformat(document["at"]), str(document["log"]["reason"])
        note = facts["former"]
        former = None if note is None else read_checkpoint(str(note), keys)
    except (KeyError, TypeError, ValueError, Wrong):
        return None
    is_trusted = former is not None and bool(former.signers)
    return Restart(at=at, reason=reason, former=former if is_trusted else None, names_none=note is None) if at.tzinfo is not None else None


# --- an export ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of an export."""

    origin: str
    start: int
    size: int
    before: tuple[bytes, ...]
    """The roots of the perfect subtrees over the leaves before `start`, largest first."""
    keys: tuple[str, ...]


@dataclass(kw_only=True)
class Export:
    """One reading of an export; afterwards `faults` says what does not hold. `on_entry` gets each entry that has its leaf hash."""

    keys: Sequence[Key]
    """Those that are trusted; keys that these name as the ones to follow them are added."""
    held: Sequence[tuple[str, Checkpoint]] = ()
    """Checkpoints that were kept, each with what to call it."""
    wanted: frozenset[bytes] = frozenset()
    """Leaf hashes of receipts."""
    on_entry: Callable[[bytes], None] | None = None
    needs_entries: bool = False
    """Whether a leaf without its entry is a fault."""
    faults: list[str] = field(default_factory=list)
    """The first thousand of them."""
    found: dict[bytes, bytes | None] = field(default_factory=dict)
    """Of the wanted leaves those that are there, with their entries where those are shown."""
    header: Header | None = None
    last: Checkpoint | None = None
    tree: Tree = field(default_factory=Tree)
    line: int = 0
    entries: int = 0
    checkpoints: int = 0
    elsewhere: frozenset[str] = frozenset()
    """Logs whose exports are read as well."""
    left_of: Mapping[str, int] = field(default_factory=dict)
    """How many leaves a log had when another went on from it, by that one's word."""
    uncovered: list[str] = field(default_factory=list)
    """What was kept and cannot be judged by this export."""
    restart: Restart | None = None
    heirs: list[Heir] = field(default_factory=list)
    """Named by a trusted key, and not followed yet."""
    followed: list[Key] = field(default_factory=list)
    _agreed: int = 0
    """Up to this size the leaves had the root of a checkpoint."""
    _handed_over: frozenset[str] = frozenset()
    """Keys that have named one to follow them, which was followed: from there on they do not sign this log any more."""
    _is_torn: bool = False
    """A leaf is missing or out of place, so that no root can be computed any more."""
    _is_told: bool = False

    def read(self, file: BinaryIO) -> None:
        """Read all of it."""
        lines = iter(partial(file.readline, _LONGEST_LINE), b"")
        try:
            header = self.header = self._header(next(lines, b""))
        except Wrong as wrong:
            self._say(str(wrong))
            return
        self.tree = Tree(header.start, list(header.before))
        self._agreed = header.start
        self._compare_held()
        self._body(lines, header)
        self._end(header)

    def _body(self, lines: Iterator[bytes], header: Header) -> None:
        """All lines but the first. What is done for every leaf is done here and nowhere else, since it takes all the time."""
        tree, wanted, on_entry = self.tree, self.wanted, self.on_entry
        stops = {checkpoint.size for _, checkpoint in self.held}
        append, number = tree.append, self.line
        for line in lines:
            number += 1
            head = b'{"index":%d,"leaf":"' % tree.size
            at = len(head) + 2 * _HASH
            if not line.startswith(head):
                self.line = number
                if not self._other(line, header):
                    return
                continue
            shown, rest = line[len(head) : at], line[at : at + 10]
            if rest == b'","entry":' and line.endswith(b"}}\n"):
                entry = line[at + 10 : -2]
                leaf = sha256(b"\x00" + entry).digest()
                if hexlify(leaf) == shown and entry.startswith(b"{"):
                    self.entries += 1
                    if entry.startswith(_BY_SEALER):
                        self._of_the_log(entry, header)
                    if on_entry is not None:
                        on_entry(entry)
                else:
                    self.line = number
                    leaf = self._unlike(shown)
            else:
                self.line = number
                leaf = self._bare(line, shown, at)
            if leaf in wanted:
                self.found[leaf] = line[at + 10 : -2] if rest == b'","entry":' else None
            append(leaf)
            if tree.size in stops:
                self.line = number
                self._compare_held()
        self.line = number

    # --- what is rare --------------------------------------------------------------------------

    def _of_the_log(self, entry: bytes, header: Header) -> None:
        """What happened to the log itself: another key, or that it begins anew."""
        document, _ = _parsed(entry)
        if not isinstance(document, dict) or (document.get("kind"), document.get("tenant")) != ("log", _OPERATOR):
            return
        if document.get("event") == "rotated":
            heir = read_heir(document, header.origin, self.tree.size, [key for key in self.keys if key.label not in self._handed_over])
            if heir is not None:
                self.heirs.append(heir)
        elif document.get("event") == "restarted" and self.tree.size == 0:
            self.restart = read_restart(document, self.keys)

    def _follow(self, checkpoint: Checkpoint) -> None:
        """Trust a key that a trusted one has named, from the checkpoint on that both have signed over the entry which says so."""
        for heir in [heir for heir in self.heirs if heir.index < checkpoint.size and heir.key.label in checkpoint.signers]:
            self.heirs.remove(heir)
            self._handed_over = (self._handed_over | heir.formers) - {heir.key.label}
            if heir.key.label not in {key.label for key in self.keys}:
                self.keys = [*self.keys, heir.key]
                self.followed.append(heir.key)

    def _header(self, line: bytes) -> Header:
        self.line = 1
        document = _object(line)
        if document is None or document.get("format") != EXPORT:
            raise Wrong(f"this is not the first line of an export in the format {EXPORT}")
        if list(document) != ["format", "origin", "start", "size", "keys", "before"]:
            raise Wrong("the first line does not say what an export says of itself, and nothing else")
        origin, start, size = document["origin"], document["start"], document["size"]
        if not (_are_hex(document["before"], _HASH) and _are_hex(document["keys"], _KEY_ID)):
            raise Wrong("the first line names keys and hashes that are none")
        before, keys = tuple(map(bytes.fromhex, document["before"])), tuple(document["keys"])
        if type(start) is not int or type(size) is not int or not 0 <= start <= size:
            raise Wrong(f"an export cannot reach from {start} to {size}")
        if len(before) != start.bit_count():
            raise Wrong(f"the tree of {start} leaves is not made of these {len(before)} hashes")
        _check_origin(str(origin), self.keys)
        return Header(origin=str(origin), start=start, size=size, before=before, keys=keys)

    def _other(self, line: bytes, header: Header) -> bool:
        """A line that is not the leaf which is due. False when there is no sense in reading on."""
        if not line.endswith(b"\n"):
            self._say("the export is cut off in the middle of this line" if len(line) < _LONGEST_LINE else "this line has no end")
            return False
        if self.last is not None and self.last.size == header.size:
            self._say("something follows the last checkpoint")
            return False
        if line.startswith(b'{"checkpoint":'):
            self._checkpoint(line, header)
            return True
        leaf = _LEAF_LINE.fullmatch(line)
        if leaf is None:
            self._say("this is neither a leaf nor a checkpoint")
            return True
        index, due = int(leaf[1]), self.tree.size
        if index > due:
            which = f"leaf {due} is" if index == due + 1 else f"leaves {due} to {index - 1} are"
            self._say(f"{which} missing before leaf {index}")
        else:
            self._say(f"leaf {index} stands where leaf {due} is due: it comes twice or is out of place")
        self._is_torn = True
        self.tree.size = index + 1  # no tree any more, but all that follows can be looked at
        self.tree.peaks = [bytes(_HASH)] * self.tree.size.bit_count()
        return True

    def _unlike(self, shown: bytes) -> bytes:
        """An entry that does not have the hash beside it."""
        self._say(f"the entry of leaf {self.tree.size} was changed: it does not have the leaf hash that stands beside it")
        return _leaf(shown)

    def _bare(self, line: bytes, shown: bytes, at: int) -> bytes:
        """A leaf without its entry, or with one whose bytes are no text."""
        leaf, rest = _leaf(shown), line[at:]
        if rest == b'"}\n' and hexlify(leaf) == shown:
            if self.needs_entries:
                self._say(f"leaf {self.tree.size} comes without its entry")
            return leaf
        if rest.startswith(b'","entry_hex":"') and rest.endswith(b'"}\n'):
            try:
                entry = unhexlify(rest[15:-3])
            except ValueError:
                entry = None
            if entry is not None and leaf_hash(entry) == leaf:
                self._say(f"the entry of leaf {self.tree.size} has its leaf hash and is not what an entry looks like")
                return leaf
            return self._unlike(shown)
        self._say("this is not exactly what a leaf looks like")
        return leaf

    def _checkpoint(self, line: bytes, header: Header) -> None:
        try:
            checkpoint = self._read_checkpoint(line, header)
        except Wrong as wrong:
            self._say(str(wrong))
            return
        if self.last is not None and checkpoint.size <= self.last.size:
            self._say(f"a checkpoint over {checkpoint.size} leaves comes after one over {self.last.size}")
        self.checkpoints += 1
        self._compare(checkpoint)
        if self._agreed == checkpoint.size == self.tree.size and not self._is_torn:
            self._follow(checkpoint)
        self.last = checkpoint

    def _read_checkpoint(self, line: bytes, header: Header) -> Checkpoint:
        document = _object(line)
        if document is None or list(document) != ["checkpoint"]:
            raise Wrong("this is not exactly what a checkpoint looks like")
        checkpoint = read_checkpoint(str(document["checkpoint"]), [*self.keys, *(heir.key for heir in self.heirs)])
        if checkpoint.origin != header.origin:
            raise Wrong(f"this checkpoint is of the log {checkpoint.origin}, the export of {header.origin}")
        signers = {key.label for key in self.keys} & set(checkpoint.signers)
        if not signers:
            raise Wrong(f"this checkpoint is not signed by a key that you gave; it is signed by {', '.join(checkpoint.key_ids)}")
        if not signers - self._handed_over:
            raise Wrong(f"this checkpoint is signed by {', '.join(sorted(signers))} alone, which has handed over to another key before")
        return checkpoint

    def _compare(self, checkpoint: Checkpoint) -> None:
        for name, old in self.held:
            if (old.origin, old.size) == (checkpoint.origin, checkpoint.size) and old.root != checkpoint.root:
                self._say(f"the log is forked: this checkpoint and {name} are both signed, over {old.size} leaves with different roots")
        if checkpoint.size != self.tree.size:
            self._say(f"a checkpoint over {checkpoint.size} leaves stands behind {self.tree.size}")
        elif self._is_torn or self._is_told:
            return
        elif checkpoint.root != self.tree.root():
            self._is_told = True
            self._say(
                f"the leaves do not have the root of the checkpoint over {checkpoint.size}: of the leaves {self._agreed} to"
                f" {checkpoint.size - 1}, one or more were changed, put in or taken out"
            )
        else:
            self._agreed = checkpoint.size

    def _compare_held(self) -> None:
        """The checkpoints that were kept, when the tree has their size."""
        origin = None if self.header is None else self.header.origin
        for name, checkpoint in self.held:
            is_due = (checkpoint.origin, checkpoint.size) == (origin, self.tree.size) and not self._is_torn
            if is_due and checkpoint.root != self.tree.root():
                self._say(
                    f"the first {checkpoint.size} leaves do not have the root of {name}: what that checkpoint covers was rewritten,"
                    f" in or before leaf {checkpoint.size - 1}"
                )

    def _end(self, header: Header) -> None:
        if self.last is None or self.last.size != header.size:
            self._say(
                f"the export is cut off behind leaf {self.tree.size - 1}: it says that it has {header.size}, and a checkpoint at its end"
            )
        elif self.last.key_ids != header.keys:
            self._say("the first line names other keys than those that signed the last checkpoint")
        for name, checkpoint in self.held:
            if checkpoint.origin != header.origin:
                self._of_another(name, checkpoint, header)
            elif self.tree.size < checkpoint.size <= self.left_of.get(header.origin, 0):
                self.uncovered.append(
                    f"{name} covers {checkpoint.size} leaves of {header.origin}, of which {self.tree.size} are left: a restart says why"
                )
            elif checkpoint.size > self.tree.size:
                self._say(
                    f"{name} covers {checkpoint.size} leaves and this export ends at {self.tree.size}:"
                    " either it is older than that checkpoint, or the log was rolled back"
                )
            elif checkpoint.size < header.start:
                self.uncovered.append(f"{name} covers {checkpoint.size} leaves and this export begins at leaf {header.start}")

    def _of_another(self, name: str, kept: Checkpoint, header: Header) -> None:
        """A checkpoint of another log: one that this one goes on from, or one that has nothing to do with it."""
        former = None if self.restart is None else self.restart.former
        if kept.origin in self.elsewhere:
            return
        if not (_is_before(kept.origin, header.origin) and (self.restart is not None or header.start)):
            self._say(f"{name} is of the log {kept.origin}, the export of {header.origin}")
        elif self.restart is not None and self.restart.names_none:
            self._say(f"{name} is of {kept.origin}, and this log names no checkpoint that it goes on from")
        elif former is None or kept.origin != former.origin or kept.size < former.size:
            self.uncovered.append(
                f"{name} is of {kept.origin}, a log before this one: give its export (?origin={kept.origin}) with --former"
            )
        elif kept.size > former.size:
            self._say(f"{name} covers {kept.size} leaves of {kept.origin}, and this log says that it had only {former.size}")
        elif kept.root != former.root:
            self._say(
                f"the log is forked: {name} and the checkpoint that this log goes on from are over {kept.size} leaves, with other roots"
            )

    def _say(self, what: str) -> None:
        if len(self.faults) < _FAULTS_KEPT:
            self.faults.append(f"line {self.line}: {what}")


def _number_of(origin: str) -> tuple[str, int]:
    """The name of a log, and which of its origins this is."""
    name, _, number = origin.rpartition("/restart-")
    return (name, int(number)) if name and re.fullmatch("[1-9][0-9]{0,8}", number) else (origin, 1)


def _is_before(one: str, other: str) -> bool:
    """Whether these are origins of one log, and the first was there before."""
    (name, number), (same, later) = _number_of(one), _number_of(other)
    return name == same and number < later


def _check_origin(origin: str, keys: Sequence[Key]) -> None:
    """That the log is one of those that the keys are for: of their name, or of that after a restart. Raises Wrong."""
    names = {key.name for key in keys}
    if origin not in names and re.sub("/restart-[0-9]+$", "", origin) not in names:
        raise Wrong(f"this log is {origin}; the key is for {', '.join(sorted(names))}")


def _are_hex(found: object, size: int) -> bool:
    """Whether it is a list of so many bytes each, in the one way of writing them."""
    return isinstance(found, list) and all(isinstance(one, str) and re.fullmatch(f"[0-9a-f]{{{2 * size}}}", one) for one in found)


def _leaf(shown: bytes) -> bytes:
    try:
        return unhexlify(shown)
    except ValueError:
        return b""


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object that a line is, written in the one way in which we write it, or None."""
    found, written = _parsed(line)
    return found if isinstance(found, dict) and written + b"\n" == line else None


def _parsed(data: bytes) -> tuple[Any, bytes]:
    """What JSON says, and how we would write it; (None, nothing) for anything that is not JSON, or says a name twice."""
    try:
        found = json.loads(data, object_pairs_hook=_without_twins)
        return found, json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return None, b""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _count(found: object) -> int:
    """A number of things as we write it. Raises ValueError for every other number, such as 1e999, and for what is none."""
    if type(found) is not int or found < 0:
        raise ValueError(f"not a count: {found!r:.40}")
    return found


# --- receipts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The promise that an entry will be in the log by then."""

    where: str
    note: str
    entry: str
    leaf: bytes
    by: datetime


def read_receipts(path: str) -> list[Receipt]:
    """The receipts in a file: on each line a receipt, a decision that has one, or a list of such decisions. Raises Unusable."""
    with Path(path).open("rb") as file:
        return [
            _receipt(f"{path}, line {number}", document)
            for number, line in enumerate(file, 1)
            if line.strip()
            for document in _listed(line)
        ]


def _listed(line: bytes) -> list[Any]:
    document, _ = _parsed(line)
    listed = document.get("data") if isinstance(document, dict) else None
    return listed if isinstance(listed, list) else [document]


def _receipt(where: str, document: Any) -> Receipt:
    try:
        note = document.get("receipt", document)["note"]
        what, entry, leaf, by, blank = note.split("\n")[:5]
        found = Receipt(where=where, note=note, entry=entry, leaf=_base64(leaf) or b"", by=datetime.fromisoformat(by))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unusable(f"{where}: not a receipt") from None
    if (what, blank, len(found.leaf)) != (RECEIPT, "", _HASH) or found.by.tzinfo is None:
        raise Unusable(f"{where}: not a receipt")
    return found


def receipt_key(entry: bytes) -> Key | None:
    """The key that this entry of the operator's brings in, if it is one that brings in a key of receipts."""
    if b'"kind":"receipt_key"' not in entry:
        return None
    try:
        document = json.loads(entry)
        is_one = (document["kind"], document["tenant"]) == ("receipt_key", _OPERATOR)
        return read_key(str(document["receipt_key"]["key"])) if is_one else None
    except (KeyError, TypeError, ValueError, RecursionError, Unusable):
        return None


@dataclass(kw_only=True)
class Reach:
    """How far what was read reaches, for receipts: the leaves that are wanted and there, and where nothing can be known."""

    found: Mapping[bytes, bytes | None]
    """With their entries where those are shown."""
    start: int = 0
    """The first leaf of the export."""
    blind_before: datetime | None = None
    """A restart, of which the log before it was not read to its end."""


@dataclass(kw_only=True)
class Promises:
    """Receipts against exports: `take` gets their entries, then `judge` says what does not hold, what was looked at and what cannot be told.

    What was left out of a log shows only where it was due. An export bears no time that a third party vouches for, so that it is known to
    reach to when somebody asked for it (`asked_at`), or to the latest of the times in its own entries.
    """

    receipts: Sequence[Receipt]
    asked_at: datetime | None = None
    keys: list[Key] = field(default_factory=list)
    _latest: datetime | None = None

    def take(self, entry: bytes) -> None:
        """Learn keys of receipts, and how far the log reaches."""
        self.keys.extend(filter(None, [receipt_key(entry)]))
        at = _time_of(entry)
        if at is not None and (self._latest is None or at > self._latest):
            self._latest = at

    def judge(self, reach: Reach) -> Outcome:
        """What these receipts come to."""
        faults = [fault for receipt in self.receipts for fault in self._faults_of(receipt, reach)]
        there = [receipt for receipt in self.receipts if receipt.leaf in reach.found]
        bare = sum(reach.found[receipt.leaf] is None for receipt in there)
        without = f", {bare} of them without the entry: it is not kept any more, or not yours to see" if bare else ""
        facts = [f"{len(there)} of {len(self.receipts)} receipts are in the log{without}"]
        missing = [receipt for receipt in self.receipts if receipt.leaf not in reach.found]
        blind = [receipt for receipt in missing if _is_blind(receipt, reach)]
        early = [receipt for receipt in missing if receipt not in blind and not self._was_due(receipt)]
        uncovered = []
        if blind and reach.start:
            uncovered.append(
                f"{len(blind)} receipts cannot be compared: this export begins at leaf {reach.start}; check them with one from 0"
            )
        elif blind:
            uncovered.append(
                f"{len(blind)} receipts are from before a restart of the log: give the whole export of the log before it with --former"
                " (what was lost there, the restart says, is in none)"
            )
        if early and self.asked_at is not None:
            facts.append(f"{len(early)} receipts were not due yet when this export was asked for: fetch a newer one")
        elif early:
            uncovered.append(
                f"{len(early)} receipts are not known to be due in this export: fetch a newer one, and say with --exported-at when you asked for it"
            )
        return Outcome(faults=faults, facts=facts, uncovered=uncovered)

    def _faults_of(self, receipt: Receipt, reach: Reach) -> Iterator[str]:
        try:
            signers = _signers(*_parts_of_note(receipt.note), self.keys)[0]
        except Wrong as wrong:
            yield f"{receipt.where}: {wrong}"
            return
        if not signers:
            if not _is_blind(receipt, reach):  # otherwise the key may have come in before
                yield f"{receipt.where}: the receipt of {receipt.entry} is signed by no key that this log brings in for receipts"
        elif receipt.leaf not in reach.found:
            if not _is_blind(receipt, reach) and self._was_due(receipt):
                yield f"{receipt.where}: {receipt.entry} was promised to be in the log by {receipt.by.isoformat()} and is not in this export"
        elif (entry := reach.found[receipt.leaf]) is not None and _id_of(entry) != receipt.entry:
            yield f"{receipt.where}: the receipt of {receipt.entry} is for the leaf of another entry"

    def _was_due(self, receipt: Receipt) -> bool:
        return any(reached is not None and receipt.by <= reached for reached in (self.asked_at, self._latest))


def _is_blind(receipt: Receipt, reach: Reach) -> bool:
    """Whether it may be about what lies before everything that was read."""
    return bool(reach.start) or (reach.blind_before is not None and _made_at(receipt) < reach.blind_before)


def _made_at(receipt: Receipt) -> datetime:
    """When the entry was made, as its id (a UUID of version 7) says."""
    digits = receipt.entry.replace("-", "")
    if not re.fullmatch("[0-9a-f]{12}7[0-9a-f]{19}", digits):
        return receipt.by
    try:
        return datetime.fromtimestamp(int(digits[:12], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # beyond the years that there are
        return receipt.by


def _time_of(entry: bytes) -> datetime | None:
    """When it happened, by its own word."""
    try:
        document = json.loads(entry)
        at = datetime.fromisoformat(document["created_at"] if document["kind"] == "decision" else document["at"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return at if at.tzinfo is not None else None


def _id_of(entry: bytes | str) -> str | None:
    try:
        return str(json.loads(entry)["id"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


# --- reports --------------------------------------------------------------------------------------


class Recount:
    """The counts of the report `verdicts`, made again from the entries of the log.

    The report must be whole (no `next_cursor`), and its time must have been over when it was made: what comes after a report cannot be in it.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        try:
            asked = document["parameters"]
            self._since, self._until = (datetime.fromisoformat(asked[name]) for name in ("from", "to"))
            self._stage, self._policy, self._tenant = asked.get("stage"), asked.get("policy"), asked.get("tenant_id")
            self._told: Counter[str] = Counter()
            self._said: Counter[str] = Counter()
            for row in document["data"]:
                if row["automated"]:
                    self._told[_place(row["day"], row["stage"], row["category"], row["verdict"])] += _count(row["decisions"])
                elif row["category"] is None:
                    self._said[_word(row["day"], row["verdict"])] += _count(row["decisions"])
            self._totals = {name: _count(document["totals"][name]) for name in ("decisions", "reviews")}
            is_whole = document["name"] == "verdicts" and document["next_cursor"] is None
            self.note = document["checkpoint"]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Unusable("not the report `verdicts` as JSON") from None
        if not is_whole or self._since.tzinfo is None or self._until.tzinfo is None:
            raise Unusable("only the report `verdicts`, and all of it (limit=500), can be counted again")
        self._found: Counter[str] = Counter()
        self._heard: Counter[str] = Counter()
        self._unread = 0

    def take(self, entry: bytes) -> None:
        """Count an entry."""
        try:
            self._take(json.loads(entry))
        except (KeyError, TypeError, ValueError, RecursionError):
            self._unread += 1

    def _take(self, document: dict[str, Any]) -> None:
        if self._tenant is not None and self._tenant != document["tenant"]:
            return
        if document["kind"] == "decision" and self._is_asked(document["created_at"]):
            policy, stage, day = document["policy"]["name"], document["stage"], document["created_at"][:10]
            if self._stage in {None, stage} and self._policy in {None, policy} and document["automated"]:
                for category in {None, *(reason["category"] for reason in document["reasons"])}:
                    self._found[_place(day, stage, category, document["verdict"])] += 1
        elif document["kind"] == "review" and self._is_asked(document["at"]):
            self._heard[_word(document["at"][:10], document["review"]["verdict"])] += 1

    def _is_asked(self, moment: str) -> bool:
        return self._since <= datetime.fromisoformat(moment) < self._until

    def faults(self) -> Iterator[str]:
        """What the report says and the entries do not."""
        if self._unread:
            yield f"{self._unread} entries of the log cannot be read, so that they are not counted"
        for place in sorted(self._told.keys() | self._found.keys()):
            if self._told[place] != self._found[place]:
                yield f"the report has {self._told[place]} for {place}, the log {self._found[place]}"
        totals = {"decisions": sum(count for place, count in self._found.items() if place.endswith("any category"))}
        if self._are_reviews_known:
            totals["reviews"] = self._heard.total()
            for word in sorted(self._said.keys() | self._heard.keys()):
                if self._said[word] != self._heard[word]:
                    yield f"the report has {self._said[word]} reviews of {word}, the log {self._heard[word]}"
        elif self._totals["reviews"] != self._said.total():
            yield f"the report says {self._totals['reviews']} reviews in all, its rows {self._said.total()}"
        for name, count in totals.items():
            if self._totals[name] != count:
                yield f"the report says {self._totals[name]} {name} in all, the log {count}"

    @property
    def _are_reviews_known(self) -> bool:
        """Whether all of the log are asked for: a review does not say of which stage and policy its decision is."""
        return self._stage is None and self._policy is None

    def facts(self, exports: Sequence[Export]) -> Iterator[str]:
        """What the report is about by its own word, and what could not be counted, since it was not there to be read."""
        about = f"{self._since.isoformat()} to {self._until.isoformat()}, {_of('stage', self._stage)}, {_of('policy', self._policy)}"
        yield f"the report is about {about}, {_of('tenant', self._tenant)}{', and names no checkpoint' if self.note is None else ''}"
        bare = sum(export.tree.size - export.header.start - export.entries for export in exports if export.header is not None)
        if bare:
            yield f"{bare} leaves came without entries and are not counted"
        if self._are_reviews_known:
            yield "reviews are counted by day and verdict: their stages and categories in the report are not compared"
        else:
            yield "reviews are not counted, since they do not say of which stage and policy their decisions are"


def _place(day: str, stage: str, category: str | None, verdict: str) -> str:
    return f"{day}, {stage}, {verdict}, {category or 'any category'}"


def _of(what: str, which: object) -> str:
    return f"any {what}" if which is None else f"{what} {which}"


def _word(day: str, verdict: str) -> str:
    return f"{day}, {verdict}"


# --- one proof ------------------------------------------------------------------------------------


def check_proof(document: dict[str, Any], keys: Sequence[Key], held: Sequence[tuple[str, Checkpoint]]) -> str:
    """An inclusion proof as `GET /v1/decisions/{id}/proof` gives it; what it proves, in a sentence. Raises Wrong."""
    try:
        leaf, path, entry = bytes.fromhex(document["leaf"]), [bytes.fromhex(text) for text in document["hashes"]], document["entry"]
        index, note = _count(document["index"]), str(document["checkpoint"])
    except (KeyError, TypeError, ValueError):
        raise Wrong("the proof lacks what a proof says") from None
    checkpoint = read_checkpoint(note, keys)
    if not checkpoint.signers:
        raise Wrong("the checkpoint is not signed by a key that you gave")
    if document.get("size") != checkpoint.size:
        raise Wrong(f"the proof is for {document.get('size')} leaves, its checkpoint for {checkpoint.size}")
    _check_origin(checkpoint.origin, keys)
    if entry is not None and leaf_hash(str(entry).encode()) != leaf:
        raise Wrong("the entry was changed: it does not have the leaf hash that stands beside it")
    if entry is not None and _id_of(str(entry)) != _uuid(document.get("id")):
        raise Wrong(f"the entry is not that of {document.get('id')}")
    if root_of_inclusion(leaf, index, checkpoint.size, path) != checkpoint.root:
        raise Wrong(f"leaf {index} is not in the tree of {checkpoint.size} leaves that was signed")
    for name, old in held:
        if (old.origin, old.size) == (checkpoint.origin, checkpoint.size) and old.root != checkpoint.root:
            raise Wrong(f"the log is forked: the proof's checkpoint and {name} are both over {old.size} leaves, with different roots")
    what = "the entry is" if entry is not None else "a leaf without its entry is"
    return f"{what} leaf {index} of {checkpoint.size} in {checkpoint.origin}, signed by {', '.join(checkpoint.signers)}"


def _uuid(id: object) -> str:
    """`dec_` and 32 hex digits as an entry writes it."""
    digits = str(id).rpartition("_")[2]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def check_consistency_document(document: dict[str, Any], held: Sequence[tuple[str, Checkpoint]]) -> str:
    """A consistency proof as `GET /v1/audit/consistency` gives it, between two checkpoints that were kept. Raises Wrong."""
    try:
        first, second, origin = _count(document["first"]), _count(document["second"]), str(document["origin"])
        path = [bytes.fromhex(text) for text in document["hashes"]]
    except (KeyError, TypeError, ValueError):
        raise Wrong("the proof lacks what a proof says") from None
    by_size = {checkpoint.size: checkpoint for _, checkpoint in held if checkpoint.origin == origin}
    if not {first, second} <= by_size.keys():
        raise Wrong(f"checking this needs the checkpoints over {first} and over {second} leaves of {origin}: give both with --checkpoint")
    check_consistency(first, second, by_size[first].root, by_size[second].root, path)
    return f"the first {first} leaves are the same in both checkpoints; {second - first} came after them"


# --- the command ----------------------------------------------------------------------------------


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="verify_log.py", description="Check a log of facegate without trusting whoever runs it.")
    parser.add_argument("file", metavar="EXPORT", help="an export or a proof; - reads it from standard input")
    parser.add_argument(
        "--key", action="append", required=True, metavar="VKEY", help="the public key that you trust: name+id+key, or a file with it"
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="OLD",
        help="a file with a checkpoint that you kept; may be given several times",
    )
    parser.add_argument(
        "--former",
        action="append",
        default=[],
        metavar="EXPORT",
        help="after a restart: the whole export of the log before it (?origin=); may be given several times",
    )
    parser.add_argument("--receipts", metavar="FILE", help="receipts that you kept, one JSON object on a line")
    parser.add_argument(
        "--exported-at",
        metavar="TIME",
        type=_moment,
        help="when you asked for this export of the whole log, as 2026-11-27T12:00:00Z: what was promised by then must be in it",
    )
    parser.add_argument("--report", metavar="FILE", help="a report whose totals are compared with the entries")
    parser.add_argument("--needs-entries", action="store_true", help="a leaf that comes without its entry is a fault")
    return parser.parse_args(given)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment


def main(given: Sequence[str] | None = None) -> int:
    """Check what the command line names and say what was found; the exit status."""
    try:
        found = run(_arguments(given))
    except (Unusable, OSError) as trouble:
        _tell(sys.stderr, f"cannot be checked: {trouble}")
        return 2
    for fault in found.faults[:_FAULTS_SHOWN]:
        _tell(sys.stdout, f"FAULT {fault}")
    if len(found.faults) > _FAULTS_SHOWN:
        _tell(sys.stdout, f"and {len(found.faults) - _FAULTS_SHOWN} more")
    for fact in found.facts:
        _tell(sys.stdout, fact)
    for one in found.uncovered:
        _tell(sys.stdout, f"NOT COVERED {one}")
    if found.faults:
        _tell(sys.stdout, "DOES NOT HOLD")
        return 1
    _tell(sys.stdout, "holds, as far as it is covered" if found.uncovered else "holds")
    return 3 if found.uncovered else 0


def _tell(stream: TextIO, line: str) -> None:
    """One line, whatever the words in it that come out of the log are: none of them ends it, moves a cursor or cannot be written."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    encoding = stream.encoding or "utf-8"
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def run(asked: argparse.Namespace) -> Outcome:
    """What was found. Raises Unusable and OSError."""
    keys = [read_key(_text_or_file(text)) for text in asked.key]
    kept = [Kept.of(path) for path in asked.checkpoint]
    recount = None if asked.report is None else Recount(_read_object(asked.report))
    if recount is not None and recount.note is not None:
        kept.append(Kept(path=f"the checkpoint in {asked.report}", note=str(recount.note)))
    with open(0 if asked.file == "-" else asked.file, "rb") as file:  # noqa: PTH123  # 0 is standard input
        if not file.peek().startswith(b'{"format":"%s"' % EXPORT.encode()):
            for_exports = [asked.receipts, asked.report, *asked.former]
            return _check_one(
                file.read(_LONGEST_LINE), keys, [(one.path, one.trusted(keys)) for one in kept], list(filter(None, for_exports))
            )
        promises = Promises(receipts=read_receipts(asked.receipts), asked_at=asked.exported_at) if asked.receipts else None
        if asked.former and asked.file == "-":
            raise Unusable("with --former the export has to be a file")
        reading = Reading(keys=keys, kept=kept, promises=promises, recount=recount, needs_entries=asked.needs_entries)
        for former in sorted(map(Glance.of, asked.former), key=lambda glance: _number_of(glance.origin)[1]):
            reading.note(former)
        if asked.former:
            reading.note(Glance.of(asked.file))
        for glance in list(reading.glances.values())[: len(asked.former)]:
            with open(glance.path, "rb") as before:  # noqa: PTH123
                reading.read(before)
        reading.read(file)
    return reading.outcome()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A checkpoint that was kept, in whatever file it is; whether it is to be trusted shows once all keys are known."""

    path: str
    note: str

    @classmethod
    def of(cls, path: str) -> Kept:
        """The note, or the answer of `GET /v1/audit/checkpoint` that it came in. Raises Unusable."""
        data = Path(path).read_bytes()
        note = str(_read_object(path).get("checkpoint")) if data.startswith(b"{") else data.decode(errors="replace")
        return cls(path=path, note=note)

    def read(self, keys: Sequence[Key]) -> Checkpoint:
        """What it says. Raises Unusable."""
        try:
            return read_checkpoint(self.note, keys)
        except Wrong as wrong:
            raise Unusable(f"{self.path}: {wrong}") from None

    def trusted(self, keys: Sequence[Key]) -> Checkpoint:
        """The same, if one of the keys has signed it. Raises Unusable."""
        checkpoint = self.read(keys)
        if not checkpoint.signers:
            raise Unusable(f"{self.path} is not signed by a key that you gave")
        return checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What the first two lines of an export say, before anything of it is believed."""

    path: str
    origin: str
    former: Checkpoint | None
    """The checkpoint that it says it goes on from."""

    @classmethod
    def of(cls, path: str) -> Glance:
        """Raises Unusable for a file that is no export."""
        with open(path, "rb") as file:  # noqa: PTH123
            head, _ = _parsed(file.readline(_LONGEST_LINE))
            leaf, _ = _parsed(file.readline(_LONGEST_LINE))
        if not isinstance(head, dict) or head.get("format") != EXPORT:
            raise Unusable(f"{path} is no export")
        try:
            former = read_checkpoint(str(leaf["entry"]["log"]["former"]), ())
        except (KeyError, TypeError, Wrong):
            former = None
        return cls(path=path, origin=str(head.get("origin")), former=former)


@dataclass(kw_only=True)
class Reading:
    """One log and those before it, read from the oldest on, so that keys are followed from one to the next."""

    keys: Sequence[Key]
    kept: Sequence[Kept]
    promises: Promises | None
    recount: Recount | None
    needs_entries: bool
    glances: dict[str, Glance] = field(default_factory=dict)
    """By their origins."""
    exports: list[Export] = field(default_factory=list)

    def note(self, glance: Glance) -> None:
        """Another export that will be read. Raises Unusable."""
        if glance.origin in self.glances:
            raise Unusable(f"{glance.path} is another export of {glance.origin}")
        self.glances[glance.origin] = glance

    def read(self, file: BinaryIO) -> None:
        """Read one of them."""
        receipts = () if self.promises is None else self.promises.receipts
        takers = [one.take for one in (self.promises, self.recount) if one is not None]

        def take(entry: bytes) -> None:
            for taker in takers:
                taker(entry)

        named = [glance.former for glance in self.glances.values() if glance.former is not None]
        export = Export(
            keys=self.keys,
            held=[(one.path, one.read(self.keys)) for one in self.kept] + [("the checkpoint that a restart names", one) for one in named],
            needs_entries=self.needs_entries,
            wanted=frozenset(receipt.leaf for receipt in receipts),
            elsewhere=frozenset(self.glances),
            left_of={one.origin: one.size for one in named},
            on_entry=take if takers else None,
        )
        export.read(file)
        self.keys = export.keys
        self.exports.append(export)

    def outcome(self) -> Outcome:
        """What was found in all of them."""
        held = [(one.path, one.trusted(self.keys)) for one in self.kept]
        faults, facts, uncovered = _forks(held), [], []
        for export in self.exports:
            faults += export.faults if len(self.exports) == 1 else [f"{_name_of(export)}: {fault}" for fault in export.faults]
            facts += _facts(export)
            uncovered += export.uncovered
        facts.append(
            f"compared with {len(held)} older checkpoints"
            if held
            else "compared with no older checkpoint: give those that you kept with --checkpoint, and keep this one"
        )
        if self.promises is not None:
            promised = self.promises.judge(self._reach())
            faults, facts, uncovered = faults + promised.faults, facts + promised.facts, uncovered + promised.uncovered
        if self.recount is not None:
            faults += self.recount.faults()
            facts += self.recount.facts(self.exports)
        return Outcome(faults=faults, facts=facts, uncovered=uncovered)

    def _reach(self) -> Reach:
        """How far all of it reaches, for receipts."""
        read = {export.header.origin: export for export in self.exports if export.header is not None}
        blind = [restart.at for export in read.values() if (restart := export.restart) is not None and not _is_whole(restart, read)]
        last = self.exports[-1].header
        return Reach(
            found={leaf: entry for export in self.exports for leaf, entry in export.found.items()},
            start=0 if last is None else last.start,
            blind_before=max(blind, default=None),
        )


def _is_whole(restart: Restart, read: Mapping[str, Export]) -> bool:
    """Whether the log before a restart was read from its first leaf to that of the checkpoint that the restart names."""
    former = restart.former
    export = None if former is None else read.get(former.origin)
    return (
        former is not None
        and export is not None
        and export.header is not None
        and not export.header.start
        and export.tree.size >= former.size
    )


def _name_of(export: Export) -> str:
    return "an export" if export.header is None else export.header.origin


def _facts(export: Export) -> list[str]:
    header = export.header
    if header is None:
        return []
    leaves = export.tree.size - header.start
    facts = [f"{header.origin}: {leaves} leaves from {header.start}, {export.entries} with their entries, {export.checkpoints} checkpoints"]
    if export.last is not None:
        facts.append(f"the last one covers {export.last.size} leaves and is signed by {', '.join(export.last.signers)}")
    facts += [f"the key was followed to {key.text}: pin this one from now on" for key in export.followed]
    if export.restart is not None:
        former = export.restart.former
        named = "" if former is None else f" from {former.origin} with {former.size} leaves"
        facts.append(f"it goes on{named} after a restart: {export.restart.reason}")
    return facts


def _check_one(data: bytes, keys: Sequence[Key], held: Sequence[tuple[str, Checkpoint]], for_exports: Sequence[str]) -> Outcome:
    """A proof. `for_exports` are files that say nothing beside one."""
    faults = _forks(held)
    document, _ = _parsed(data)
    kind = document.get("format") if isinstance(document, dict) else None
    if kind not in (PROOF, CONSISTENCY):
        return Outcome(faults=[*faults, f"this is neither an export ({EXPORT}) nor a proof"], facts=[])
    try:
        if kind == PROOF:
            fact = check_proof(document, keys, held)
            proved = read_checkpoint(str(document["checkpoint"]), keys)
            beside = [name for name, old in held if (old.origin, old.size) != (proved.origin, proved.size)]
        else:
            fact = check_consistency_document(document, held)
            ends = {(document["origin"], document["first"]), (document["origin"], document["second"])}
            beside = [name for name, old in held if (old.origin, old.size) not in ends]
    except Wrong as wrong:
        return Outcome(faults=[*faults, str(wrong)], facts=[])
    uncovered = [f"{name} is over another number of leaves or another log than this proof: compare it with an export" for name in beside]
    uncovered += [f"{name} is compared with an export, and this is a proof" for name in for_exports]
    return Outcome(faults=faults, facts=[fact], uncovered=uncovered)


def _read_object(path: str) -> dict[str, Any]:
    found, _ = _parsed(Path(path).read_bytes())
    if not isinstance(found, dict):
        raise Unusable(f"{path}: not a JSON object")
    return found


def _forks(held: Sequence[tuple[str, Checkpoint]]) -> list[str]:
    """Pairs of checkpoints that cannot both be of one log."""
    return [
        f"the log is forked: {one} and {other} are both signed, over {a.size} leaves with different roots"
        for at, (one, a) in enumerate(held)
        for other, b in held[:at]
        if (a.origin, a.size) == (b.origin, b.size) and a.root != b.root
    ]


def _text_or_file(text: str) -> str:
    try:
        return text if "+" in text else Path(text).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Unusable(f"{text} is no text, and so no key") from None


if __name__ == "__main__":
    sys.exit(main())
