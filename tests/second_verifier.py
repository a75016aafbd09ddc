"""A second verifier, written from the RFC's text, recursive and slow; shares nothing with the first or with our tree.

RFC 6962 section 2.1 defines a tree hash MTH(D[n]), an audit path PATH(m, D[n]) and a consistency proof PROOF(m, D[n]) by recursion
over the greatest power of two smaller than n. Here they are, word for word; and a reading of `docs/log-format.md` on top of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Name = tuple[str, str]
Keys = dict[Name, Ed25519PublicKey]


def leaf_of(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_of(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def k_of(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def tree_of(leaves: Sequence[bytes]) -> bytes:
    """MTH, of leaf hashes."""
    n = len(leaves)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return leaves[0]
    k = k_of(n)
    return node_of(tree_of(leaves[:k]), tree_of(leaves[k:]))


def path_of(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    n = len(leaves)
    if n == 1:
        return []
    k = k_of(n)
    if m < k:
        return [*path_of(m, leaves[:k]), tree_of(leaves[k:])]
    return [*path_of(m - k, leaves[k:]), tree_of(leaves[:k])]


def proof_of(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n]), 0 < m <= n."""
    return _subproof(m, leaves, is_complete=True)


def _subproof(m: int, leaves: Sequence[bytes], *, is_complete: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if is_complete else [tree_of(leaves)]
    k = k_of(n)
    if m <= k:
        return [*_subproof(m, leaves[:k], is_complete=is_complete), tree_of(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], is_complete=False), tree_of(leaves[:k])]


def root_by_path(leaf: bytes, m: int, n: int, path: Sequence[bytes]) -> bytes | None:
    """The root that PATH leads to, by undoing its recursion; None where the path does not have its length."""
    if n == 1:
        return leaf if not path else None
    if not path:
        return None
    k = k_of(n)
    *inner, last = path
    if m < k:
        below = root_by_path(leaf, m, k, inner)
        return None if below is None else node_of(below, last)
    below = root_by_path(leaf, m - k, n - k, inner)
    return None if below is None else node_of(last, below)


def is_consistent(m: int, n: int, old: bytes, new: bytes, path: Sequence[bytes]) -> bool:
    """Whether PROOF leads from the old root to the new one, by undoing its recursion."""
    return _roots_by_proof(m, n, path, old, is_complete=True) == (old, new)


def _roots_by_proof(m: int, n: int, path: Sequence[bytes], old: bytes, *, is_complete: bool) -> tuple[bytes, bytes] | None:
    if m == n:
        if is_complete:
            return (old, old) if not path else None
        return (path[0], path[0]) if len(path) == 1 else None
    if not path:
        return None
    k = k_of(n)
    *inner, last = path
    if m <= k:
        both = _roots_by_proof(m, k, inner, old, is_complete=is_complete)
        return None if both is None else (both[0], node_of(both[1], last))
    both = _roots_by_proof(m - k, n - k, inner, old, is_complete=False)
    return None if both is None else (node_of(last, both[0]), node_of(last, both[1]))


# --- an export, all of it in memory ---------------------------------------------------------------


def is_good(export: bytes, verifier_key: str) -> bool:
    """Whether an export that begins at leaf 0 holds, as `docs/log-format.md` says, given the first of its keys."""
    try:
        return _check(export.decode(), verifier_key)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, InvalidSignature):
        return False


def _check(text: str, verifier_key: str) -> bool:
    trusted = dict([_key(verifier_key)])
    ended: Keys = {}
    heirs: list[tuple[int, tuple[str, str], Ed25519PublicKey]] = []
    ((origin, _),) = trusted
    first, *lines, nothing = text.split("\n")
    header = json.loads(first)
    leaves: list[bytes] = []
    notes: list[tuple[int, list[str]]] = []
    for position, line in enumerate(lines):
        document = json.loads(line)
        if "checkpoint" in document:
            if line != _text({"checkpoint": document["checkpoint"]}):
                return False
            known = ended | trusted | {name: public for _, name, public in heirs}
            size, key_ids, signers = _opened(document["checkpoint"], leaves, origin, known)
            notes.append((position, key_ids))
            if size != len(leaves) or not signers & trusted.keys():
                return False
            for heir in [heir for heir in heirs if heir[1] in signers]:
                heirs.remove(heir)
                ended |= trusted
                trusted = {heir[1]: heir[2]}
            continue
        shown = line.removeprefix(f'{{"index":{len(leaves)},"leaf":"{document["leaf"]}"').removesuffix("}")
        if not shown:
            exact = _text({"index": len(leaves), "leaf": document["leaf"]})
        else:
            entry = shown.removeprefix(',"entry":')
            exact = f'{{"index":{len(leaves)},"leaf":"{leaf_of(entry.encode()).hex()}","entry":{entry}}}'
            heirs += [(len(leaves), *heir) for heir in _heirs(document["entry"], origin, trusted)]
        if line != exact or bytes.fromhex(document["leaf"]).hex() != document["leaf"] or len(document["leaf"]) != 64:
            return False
        leaves.append(bytes.fromhex(document["leaf"]))
    return (
        nothing == ""
        and bool(notes)
        and notes[-1][0] == len(lines) - 1
        and first
        == _text(
            {
                "format": "facegate-log-export/1",
                "origin": origin,
                "start": 0,
                "size": len(leaves),
                "keys": notes[-1][1],
                "before": [],
            }
        )
        and header["size"] == len(leaves)
        and len({position for position, _ in notes}) == len(notes)
        and _no_checkpoint_comes_twice(lines)
    )


def _no_checkpoint_comes_twice(lines: Sequence[str]) -> bool:
    return not any(one.startswith('{"checkpoint":') and two.startswith('{"checkpoint":') for one, two in pairwise(lines))


def _key(text: str) -> tuple[tuple[str, str], Ed25519PublicKey]:
    name, id, key = text.split("+", 2)
    return (name, id), Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:])


def _heirs(entry: dict[str, Any], origin: str, trusted: Keys) -> list[tuple[tuple[str, str], Ed25519PublicKey]]:
    """The key that a trusted one has named in this entry, if any."""
    if (entry.get("kind"), entry.get("event"), entry.get("tenant")) != ("log", "rotated", "00000000-0000-0000-0000-000000000000"):
        return []
    try:
        name, public = _key(entry["log"]["key"])
        body, _, signers = _note(entry["log"]["note"], trusted | {name: public})
    except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature):
        return []
    is_said = body == f"facegate/key-change\n{origin}\n{entry['log']['key']}\n"
    return [(name, public)] if is_said and name in signers and signers & trusted.keys() and name not in trusted else []


def _opened(note: str, leaves: Sequence[bytes], origin: str, keys: Keys) -> tuple[int, list[str], set[Name]]:
    body, ids, signers = _note(note, keys)
    named, size, root, end = body.split("\n")
    if (named, root, end) != (origin, base64.b64encode(tree_of(leaves)).decode(), "") or str(int(size)) != size:
        raise ValueError("not a checkpoint over these leaves")
    return int(size), ids, signers


def _note(note: str, keys: Keys) -> tuple[str, list[str], set[Name]]:
    """What is signed, the ids of all signatures, and which of these keys have signed."""
    body, _, tail = note.rpartition("\n\n")
    body += "\n"
    *signatures, last = tail.split("\n")
    if last:
        raise ValueError("not a note")
    ids, signers = [], set()
    for line in signatures:
        dash, name, encoded = line.split(" ")
        raw = base64.b64decode(encoded, validate=True)
        if dash != "—" or base64.b64encode(raw).decode() != encoded:
            raise ValueError("not a signature")
        ids.append(raw[:4].hex())
        if (name, raw[:4].hex()) in keys:
            keys[name, raw[:4].hex()].verify(raw[4:], body.encode())
            signers.add((name, raw[:4].hex()))
    return body, ids, signers


def _text(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
