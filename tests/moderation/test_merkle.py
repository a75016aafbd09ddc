"""The tree against the recursive definition of RFC 6962, and against published proofs."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.audit import leaf_hash
from moderation.merkle import (
    EMPTY_ROOT,
    STRIDE,
    Edge,
    ProofRefused,
    check_consistency,
    check_inclusion,
    complete_subtrees,
    consistency_ranges,
    fold,
    hash_of,
    inclusion_ranges,
    stored_under,
)

LEAVES = [leaf_hash(number.to_bytes(2)) for number in range(600)]
sizes = st.integers(1, len(LEAVES))


# --- section 2.1 word by word, slow and without any of our code --------------------------------------


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], *, whole: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]


# --- ours, from the nodes that are kept --------------------------------------------------------------


def grown(size: int) -> tuple[Edge, dict[tuple[int, int], bytes]]:
    edge, kept = Edge.of(0, []), {}
    for index, leaf in enumerate(LEAVES[:size]):
        kept[0, index] = leaf
        kept |= dict(edge.append(leaf))
    return edge, kept


WHOLE = grown(len(LEAVES))[1]


def read(ranges: list[tuple[int, int]], kept: dict[tuple[int, int], bytes] = WHOLE) -> list[bytes]:
    def of(node: tuple[int, int]) -> bytes:
        height, first, end = stored_under(node)
        return hash_of([kept[height, place] for place in range(first, end)])

    return [fold([of(node) for node in complete_subtrees(leaves)]) for leaves in ranges]


@given(sizes)
def test_a_tree_that_grows_leaf_by_leaf_has_the_root_of_the_definition_and_can_be_gone_on_with_from_what_is_kept(size: int):
    edge, kept = grown(size)
    assert edge.root == mth(LEAVES[:size])
    assert read([(0, size)], kept) == [edge.root]
    again = Edge.of(size, read([(place << height, (place + 1) << height) for height, place in complete_subtrees((0, size))], kept))
    assert again == edge
    assert len(kept) <= size + size // (2**STRIDE - 1)


@given(sizes.flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_an_inclusion_proof_is_that_of_the_definition_and_leads_to_the_root(case: tuple[int, int]):
    index, size = case
    hashes = read(inclusion_ranges(index, size))
    assert hashes == path(index, LEAVES[:size])
    check_inclusion(leaf=LEAVES[index], index=index, size=size, hashes=hashes, root=mth(LEAVES[:size]))


@given(sizes.flatmap(lambda second: st.tuples(st.integers(1, second), st.just(second))))
def test_a_consistency_proof_is_that_of_the_definition_and_leads_to_both_roots(case: tuple[int, int]):
    first, second = case
    hashes = read(consistency_ranges(first, second))
    assert hashes == subproof(first, LEAVES[:second], whole=True)
    check_consistency(first=first, second=second, hashes=hashes, first_root=mth(LEAVES[:first]), second_root=mth(LEAVES[:second]))


@given(st.data())
def test_a_proof_that_was_changed_anywhere_is_refused(data: st.DataObject):
    second = data.draw(sizes)
    first = data.draw(st.integers(1, second))
    index = data.draw(st.integers(0, second - 1))
    included, consistent = read(inclusion_ranges(index, second)), read(consistency_ranges(first, second))
    for hashes in (included, consistent):
        change = data.draw(st.sampled_from(["flip", "drop", "add"] if hashes else ["add"]))
        at = data.draw(st.integers(0, max(0, len(hashes) - 1)))
        if change == "flip":
            hashes[at] = bytes([hashes[at][0] ^ 1]) + hashes[at][1:]
        elif change == "drop":
            del hashes[at]
        else:
            hashes.insert(at, LEAVES[0])
    roots = mth(LEAVES[:first]), mth(LEAVES[:second])
    with pytest.raises(ProofRefused):
        check_inclusion(leaf=LEAVES[index], index=index, size=second, hashes=included, root=roots[1])
    with pytest.raises(ProofRefused):
        check_consistency(first=first, second=second, hashes=consistent, first_root=roots[0], second_root=roots[1])


def test_what_lies_beyond_a_tree_is_refused():
    with pytest.raises(ValueError, match="no leaf 3 in a tree of 3"):
        inclusion_ranges(3, 3)
    with pytest.raises(ValueError, match="does not go on"):
        consistency_ranges(4, 3)
    with pytest.raises(ProofRefused, match="no leaf 3"):
        check_inclusion(leaf=LEAVES[0], index=3, size=3, hashes=(), root=LEAVES[0])
    with pytest.raises(ProofRefused, match="does not go on"):
        check_consistency(first=4, second=3, hashes=(), first_root=EMPTY_ROOT, second_root=EMPTY_ROOT)
    with pytest.raises(ValueError, match="2 complete subtrees"):
        Edge.of(3, [LEAVES[0]])


def test_an_empty_tree_is_consistent_with_every_other_and_with_nothing_else():
    check_consistency(first=0, second=3, hashes=(), first_root=EMPTY_ROOT, second_root=mth(LEAVES[:3]))
    with pytest.raises(ProofRefused):
        check_consistency(first=0, second=3, hashes=(), first_root=LEAVES[0], second_root=mth(LEAVES[:3]))


# --- published proofs: transparency-dev/merkle, testdata, Apache-2.0 -----------------------------------

EIGHT = "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg="
TWO = "+sVCA+fMaWzw38tCySodnbr3CtnmIfS9jZhmLwDjwSU="
FOUR = "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc="
INCLUSION = {
    "inclusion/2": (5, 8, "QnGia+DYqE8L1UyMMC58s6O10fpngKQLzOKHNHfatlg=", EIGHT,
        ["vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=", "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=", FOUR]),
    "inclusion/3": (2, 3, "ApjRIpBtz8EIkstTpzmS/FufST6kybrbJ7eRtBJ6f+c=", "rra8/idLcKFPsGel5VeCZNsPqbUa9eC6FZFY8yngbnc=", [TWO]),
}  # fmt: skip
CONSISTENCY = {
    "consistency/1": (1, 8, "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=", EIGHT,
        ["lqKW0iTyhcZ77pPDD4owkVfw2qNdxbh+QQt4YwoJz8c=", "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
         "a0eq8p7jwq+a+Im8H7klTavTEXfxYjLdaqsDXKOb9uQ="]),
    "consistency/3": (2, 5, TWO, "Tju7H3tHjc/nH7YxYxUZo7yhLJrvyhYSv85ME6hiZNQ=",
        ["Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=", "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms="]),
    "consistency/4": (6, 7, "duZ9rbzfHhDht03cYIq9L5jfsW+851J3tSMqEn8gh+8=", "3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=",
        ["DrxdNDf74tsVi58Sah0RjjCBgQMdCpSfje3t68VY72o=", "sIaT7C5yFZcTBkHoIR5+7cy0wmQTlj7ubB4u0W/7Gl8=", FOUR]),
}  # fmt: skip
# The leaves of the reference tree of Certificate Transparency, from which they were all made.
REFERENCE = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]


@pytest.mark.parametrize("name", INCLUSION)
def test_published_inclusion_proofs_are_accepted_and_ours_are_the_same(name: str):
    index, size, leaf, root, hashes = INCLUSION[name]
    wanted = [base64.b64decode(one) for one in hashes]
    check_inclusion(leaf=base64.b64decode(leaf), index=index, size=size, hashes=wanted, root=base64.b64decode(root))
    assert read(inclusion_ranges(index, size), reference()) == wanted


@pytest.mark.parametrize("name", CONSISTENCY)
def test_published_consistency_proofs_are_accepted_and_ours_are_the_same(name: str):
    first, second, first_root, second_root, hashes = CONSISTENCY[name]
    wanted = [base64.b64decode(one) for one in hashes]
    roots = {"first_root": base64.b64decode(first_root), "second_root": base64.b64decode(second_root)}
    check_consistency(first=first, second=second, hashes=wanted, **roots)
    assert read(consistency_ranges(first, second), reference()) == wanted
    with pytest.raises(ProofRefused):  # "trailing garbage"
        check_consistency(first=first, second=second, hashes=[*wanted, b""], **roots)


def reference() -> dict[tuple[int, int], bytes]:
    return {(0, index): leaf_hash(bytes.fromhex(data)) for index, data in enumerate(REFERENCE)}
