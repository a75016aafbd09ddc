"""A log made by hand: entries, the export of them, checkpoints signed with a key of the test's own.

Written from `docs/log-format.md` and nothing else, with the tree of `tests.second_verifier`, so that neither the code which makes exports
nor the verifier can be wrong together with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moderation.export import Span
from moderation.log import Checkpoint, ConsistencyProof, InclusionProof, Seal, VerifierKey
from tests.builders import NOW
from tests.second_verifier import leaf_of, path_of, proof_of, tree_of

ORIGIN = "log.test/facegate"


@dataclass(frozen=True, kw_only=True)
class Signer:
    """An Ed25519 key with a name, as C2SP signed-note has it."""

    name: str = ORIGIN
    key: Ed25519PrivateKey = field(default_factory=lambda: Ed25519PrivateKey.from_private_bytes(bytes(range(32))))

    @property
    def typed(self) -> bytes:
        return b"\x01" + self.key.public_key().public_bytes_raw()

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + self.typed).digest()[:4]

    @property
    def text(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.typed).decode()}"

    def line(self, text: str) -> str:
        return f"— {self.name} {base64.b64encode(self.id + self.key.sign(text.encode())).decode()}\n"


def another_signer(seed: int = 7, name: str = ORIGIN) -> Signer:
    return Signer(name=name, key=Ed25519PrivateKey.from_private_bytes(hashlib.sha256(bytes([seed])).digest()))


def checkpoint(leaves: Sequence[bytes], *signers: Signer, origin: str = ORIGIN) -> str:
    """A signed checkpoint over these leaf hashes."""
    text = f"{origin}\n{len(leaves)}\n{base64.b64encode(tree_of(leaves)).decode()}\n"
    return text + "\n" + "".join(signer.line(text) for signer in signers or (Signer(),))


def make_entries(count: int, *, seed: int = 0) -> list[bytes]:
    """Canonical bytes that differ from each other and look like decisions."""
    return [
        json.dumps(
            {"kind": "decision", "nonce": hashlib.sha256(bytes([seed]) + number.to_bytes(8)).hexdigest()[:32], "verdict": "allow"},
            separators=(",", ":"),
        ).encode()
        for number in range(count)
    ]


def line_of(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def leaf_line(index: int, entry: bytes, *, is_shown: bool = True) -> bytes:
    shown = b',"entry":' + entry if is_shown else b""
    return b'{"index":%d,"leaf":"%s"%s}\n' % (index, leaf_of(entry).hex().encode(), shown)


def checkpoint_line(note: str) -> bytes:
    return line_of({"checkpoint": note})


def export(
    entries: Sequence[bytes],
    *,
    start: int = 0,
    marks: Iterable[int] = (),
    signers: Sequence[Signer] = (),
    origin: str = ORIGIN,
    is_shown: Callable[[int], bool] = lambda _index: True,
) -> bytes:
    """The export of a log of these entries from `start` on, with checkpoints also at `marks`."""
    signers = signers or (Signer(),)
    leaves = list(map(leaf_of, entries))
    header = {
        "format": "facegate-log-export/1",
        "origin": origin,
        "start": start,
        "size": len(entries),
        "keys": [signer.id.hex() for signer in signers],
        "before": [peak.hex() for peak in _peaks(leaves[:start])],
    }
    lines = [line_of(header)]
    sealed = {*marks, len(entries)}
    if start in sealed:
        lines.append(checkpoint_line(checkpoint(leaves[:start], *signers, origin=origin)))
    for index in range(start, len(entries)):
        lines.append(leaf_line(index, entries[index], is_shown=is_shown(index)))
        if index + 1 in sealed:
            lines.append(checkpoint_line(checkpoint(leaves[: index + 1], *signers, origin=origin)))
    return b"".join(lines)


def _peaks(leaves: Sequence[bytes]) -> list[bytes]:
    """The roots of the perfect subtrees, largest first."""
    if not leaves:
        return []
    largest = 1 << (len(leaves).bit_length() - 1)
    return [tree_of(leaves[:largest]), *_peaks(leaves[largest:])]


@dataclass(kw_only=True)
class ListLog:
    """LogReader and LogExport over a list of (tenant, id, entry), of which the first `sealed` are under the only checkpoint."""

    entries: list[tuple[UUID, UUID, bytes]] = field(default_factory=list)
    sealed: int = 0

    @property
    def leaves(self) -> list[bytes]:
        return [leaf_of(entry) for _, _, entry in self.entries[: self.sealed]]

    async def latest(self, *, origin: str | None = None) -> Seal | None:
        if not self.sealed or origin not in {None, ORIGIN}:
            return None
        root = Checkpoint(origin=ORIGIN, size=self.sealed, root=tree_of(self.leaves))
        return Seal(checkpoint=root, note=checkpoint(self.leaves), sealed_at=NOW)

    async def keys(self) -> Sequence[VerifierKey]:
        return [VerifierKey.parse(Signer().text)]

    async def inclusion(self, tenant: UUID | None, entry: UUID) -> InclusionProof | None:
        for index, (owner, id, bytes_) in enumerate(self.entries[: self.sealed]):
            if id == entry and tenant in {None, owner}:
                seal = await self.latest()
                assert seal is not None
                path = tuple(path_of(index, self.leaves))
                return InclusionProof(entry=id, leaf=leaf_of(bytes_), index=index, seal=seal, hashes=path)
        return None

    async def consistency(self, first: int, second: int, *, origin: str | None = None) -> ConsistencyProof | None:
        if origin not in {None, ORIGIN} or not first <= second <= self.sealed:
            return None
        return ConsistencyProof(origin=ORIGIN, first=first, second=second, hashes=tuple(proof_of(first, self.leaves[:second])))

    async def span(self, *, first: int | datetime | None, last: int | datetime | None, origin: str | None = None) -> Span | None:  # noqa: ARG002
        seal = await self.latest(origin=origin)
        start = first if isinstance(first, int) else 0
        if seal is None or start > self.sealed:
            return None
        return Span(log=1, origin=ORIGIN, start=start, size=self.sealed, before=tuple(_peaks(self.leaves[:start])), note=seal.note)

    async def entry(self, tenant: UUID | None, id: UUID) -> bytes | None:
        return next((entry for owner, own, entry in self.entries if own == id and tenant in {None, owner}), None)

    async def lines(self, tenant: UUID | None, span: Span) -> AsyncGenerator[bytes, None]:
        entries = self.entries[: span.size]
        yield export([entry for _, _, entry in entries], start=span.start, is_shown=lambda index: tenant in {None, entries[index][0]})
