"""The tree of RFC 6962, section 2.1, over leaf hashes that somebody else keeps.

Proofs are made in two steps, so that what has to be read is known before anything is read: first which ranges of leaves the
hashes of a proof cover (`inclusion_ranges`, `consistency_ranges`), then of which stored nodes each range is made (`stored_under`).
A *node* is a complete subtree, named by its height and its place among those of this height: node (h, i) covers the leaves
from i * 2^h up to (i + 1) * 2^h. Only every fourth height is kept, a fifteenth of what there is; what lies between is hashed again,
from at most eight hashes for each of a proof's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

STRIDE: Final = 4
"""Nodes of heights 0 (the leaves), 4, 8, ... are kept."""
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

Node: TypeAlias = tuple[int, int]
"""Height and place."""
LeafRange: TypeAlias = tuple[int, int]
"""The first leaf and the one after the last."""


class ProofRefused(ValueError):
    """A proof does not prove what it should; the message is one line."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


# --- growing --------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Edge:
    """All that is needed of a tree to append to it: the roots of its complete subtrees, from the left and largest to the right."""

    size: int = 0
    peaks: list[bytes]

    @classmethod
    def of(cls, size: int, peaks: Iterable[bytes]) -> Self:
        """The edge of a tree of this size. Raises ValueError where the number of peaks is another."""
        kept = list(peaks)
        if len(kept) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} complete subtrees, not {len(kept)}")
        return cls(size=size, peaks=kept)

    def append(self, leaf: bytes) -> Iterator[tuple[Node, bytes]]:
        """Append one leaf; yields the nodes above it that are to be kept. To be run through to its end."""
        place, height, grown = self.size, 0, leaf
        while place & 1:
            grown = node_hash(self.peaks.pop(), grown)
            place >>= 1
            height += 1
            if height % STRIDE == 0:
                yield (height, place), grown
        self.peaks.append(grown)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The tree's hash, 32 bytes."""
        return fold(self.peaks) if self.peaks else EMPTY_ROOT


def fold(subtrees: Sequence[bytes]) -> bytes:
    """The hash over neighbouring subtrees, the largest first; at least one."""
    *before, hashed = subtrees
    for left in reversed(before):
        hashed = node_hash(left, hashed)
    return hashed


# --- what a proof consists of ---------------------------------------------------------------------


def inclusion_ranges(index: int, size: int) -> list[LeafRange]:
    """The leaves under each hash of an inclusion proof, from the leaf up (PATH of section 2.1.1). Raises ValueError beyond the tree."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    path, begin, end = [], 0, size
    while end - begin > 1:
        middle = begin + _left_size(end - begin)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    return path[::-1]


def consistency_ranges(first: int, second: int) -> list[LeafRange]:
    """The leaves under each hash of a consistency proof (PROOF of section 2.1.2); nothing where `first` is 0 or `second`.

    Raises ValueError where `second` is the smaller.
    """
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} does not go on from one of {first}")
    if first in {0, second}:
        return []
    path, begin, end = [], 0, second
    while first != end:
        middle = begin + _left_size(end - begin)
        if first <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    if begin:  # from the left edge it is the first tree itself, which the verifier has
        path.append((begin, end))
    return path[::-1]


def complete_subtrees(leaves: LeafRange) -> list[Node]:
    """The complete subtrees that a range of a proof, or a whole tree, consists of; from the left and largest to the right."""
    begin, end = leaves
    nodes = []
    while begin < end:
        height = (end - begin).bit_length() - 1
        if begin:
            height = min(height, (begin & -begin).bit_length() - 1)
        nodes.append((height, begin >> height))
        begin += 1 << height
    return nodes


def stored_under(node: Node) -> tuple[int, int, int]:
    """The kept nodes that a node is made of: their height, the first place, and the place after the last."""
    height, place = node
    lower = height % STRIDE
    return height - lower, place << lower, (place + 1) << lower


def hash_of(below: Sequence[bytes]) -> bytes:
    """The hash of a complete subtree from all nodes of one height below it; their number is a power of two."""
    level = list(below)
    while len(level) > 1:
        level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]


def _left_size(leaves: int) -> int:
    """The largest power of two smaller than `leaves`."""
    return 1 << ((leaves - 1).bit_length() - 1)


# --- checking -------------------------------------------------------------------------------------


def check_inclusion(*, leaf: bytes, index: int, size: int, hashes: Sequence[bytes], root: bytes) -> None:
    """Raises ProofRefused unless the proof leads from the leaf to the root (the algorithm of RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise ProofRefused(f"there is no leaf {index} in a tree of {size}")
    hashed = leaf
    for other, is_left in zip(hashes, _lefts(index, size - 1, len(hashes)), strict=True):
        hashed = node_hash(other, hashed) if is_left else node_hash(hashed, other)
    if hashed != root:
        raise ProofRefused("the proof leads to another root")


def check_consistency(*, first: int, second: int, hashes: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    """Raises ProofRefused unless the second tree goes on from the first (the algorithm of RFC 9162, section 2.1.4.2)."""
    if not 0 <= first <= second:
        raise ProofRefused(f"a tree of {second} does not go on from one of {first}")
    if first in {0, second}:
        if hashes or first_root != (EMPTY_ROOT if first == 0 else second_root):
            raise ProofRefused("between these sizes there is nothing to prove")
        return
    path = [first_root, *hashes] if first.bit_count() == 1 else list(hashes)
    if not path:
        raise ProofRefused("the proof is shorter than the tree is high")
    alone = ((first - 1) & ~first).bit_length()  # levels on which the first tree's last node is a right child
    of_first = of_second = path[0]
    for other, is_left in zip(path[1:], _lefts((first - 1) >> alone, (second - 1) >> alone, len(path) - 1), strict=True):
        if is_left:
            of_first, of_second = node_hash(other, of_first), node_hash(other, of_second)
        else:
            of_second = node_hash(of_second, other)
    if (of_first, of_second) != (first_root, second_root):
        raise ProofRefused("the proof leads to other roots")


def _lefts(place: int, last: int, hashes: int) -> list[bool]:
    """For each hash of a proof, from the node at `place` of a level that ends with `last`, whether it stands to the left."""
    sides = []
    while last:
        if place & 1 or place == last:
            sides.append(True)
            while place and not place & 1:  # without a right neighbour, up to where it has a left one
                place, last = place >> 1, last >> 1
        else:
            sides.append(False)
        place, last = place >> 1, last >> 1
    if len(sides) != hashes:
        raise ProofRefused(f"a proof of {hashes} hashes where {len(sides)} are needed")
    return sides
