"""The verifier that outsiders get: what it accepts, and that it finds every change and says where it is."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.adapters import verify_log
from moderation.adapters.verify_log import Export, Wrong, read_checkpoint, read_key
from tests import second_verifier
from tests.log_kit import ORIGIN, Signer, another_signer, checkpoint, checkpoint_line, export, leaf_line, make_entries
from tests.second_verifier import leaf_of

KEY = Signer().text
ENTRIES = make_entries(40)
LEAVES = list(map(leaf_of, ENTRIES))
GOOD = export(ENTRIES, marks=(8, 16, 24), is_shown=lambda index: index % 3 != 0)
LINES = GOOD.splitlines(keepends=True)


def faults_of(data: bytes, *, keys: tuple[str, ...] = (KEY,), held: tuple[str, ...] = (), **how: object) -> list[str]:
    trusted = [read_key(key) for key in keys]
    kept = [(f"kept-{number}", read_checkpoint(note, trusted)) for number, note in enumerate(held)]
    reading = Export(keys=trusted, held=kept, **how)
    reading.read(io.BytesIO(data))
    return reading.faults


def test_a_good_export_has_no_faults():
    assert faults_of(GOOD, held=(checkpoint(LEAVES[:8]), checkpoint(LEAVES[:13]), checkpoint(LEAVES))) == []
    assert second_verifier.is_good(GOOD, KEY)


@pytest.mark.parametrize("start", [0, 1, 7, 8, 23, 40])
def test_an_export_from_somewhere_on_holds_as_well(start):
    part = export(ENTRIES, start=start, marks=(8, 16, 24))
    assert faults_of(part, held=(checkpoint(LEAVES[: max(start, 1)]),)) == []


def test_an_empty_log_holds():
    assert faults_of(export([])) == []


# --- each case, with its place -------------------------------------------------------------------


def line_at(index: int) -> int:
    """The number, from 1, of the line of a leaf."""
    return next(number for number, line in enumerate(LINES, 1) if line.startswith(b'{"index":%d,' % index))


def without(index: int) -> bytes:
    return b"".join(line for line in LINES if not line.startswith(b'{"index":%d,' % index))


def swapped(index: int) -> bytes:
    at = line_at(index) - 1
    return b"".join([*LINES[:at], LINES[at + 1], LINES[at], *LINES[at + 2 :]])


def rewritten(index: int, entry: bytes) -> bytes:
    """As somebody would who can write the database and not sign: entry and leaf hash are changed together."""
    at = line_at(index) - 1
    return b"".join([*LINES[:at], leaf_line(index, entry), *LINES[at + 1 :]])


CASES: list[tuple[str, bytes, str]] = [
    (
        "a byte of an entry",
        GOOD.replace(ENTRIES[10], ENTRIES[10].replace(b"allow", b"block")),
        rf"line {line_at(10)}: the entry of leaf 10 was changed",
    ),
    (
        "a byte of a leaf hash",
        GOOD.replace(LEAVES[12].hex().encode(), LEAVES[11].hex().encode()),
        "of the leaves 8 to 15, one or more were changed",
    ),
    ("an entry and its leaf hash", rewritten(10, make_entries(1, seed=9)[0]), "of the leaves 8 to 15, one or more were changed"),
    ("a leaf is missing", without(10), rf"line {line_at(11) - 1}: leaf 10 is missing before leaf 11"),
    ("the last leaf is missing", without(39), r"a checkpoint over 40 leaves stands behind 39"),
    ("the last checkpoint is missing", b"".join(LINES[:-1]), "cut off behind leaf 39"),
    ("two leaves are swapped", swapped(10), rf"line {line_at(10)}: leaf 10 is missing before leaf 11"),
    (
        "a leaf comes twice",
        b"".join([*LINES[: line_at(10)], *LINES[line_at(10) - 1 :]]),
        rf"line {line_at(10) + 1}: leaf 10 stands where leaf 11 is due",
    ),
    (
        "a leaf is put in",
        b"".join([*LINES[: line_at(10)], leaf_line(11, b"{}"), *LINES[line_at(10) :]]),
        rf"line {line_at(11) + 1}: leaf 11 stands where leaf 12 is due",
    ),
    ("cut in a line", GOOD[:-30], rf"line {len(LINES)}: the export is cut off in the middle of this line"),
    ("cut between lines", b"".join(LINES[:20]), r"cut off behind leaf \d+"),
    ("bytes behind", GOOD + b"\n", rf"line {len(LINES) + 1}: something follows the last checkpoint"),
    ("a second export behind", GOOD + GOOD, "something follows the last checkpoint"),
    ("a space in a line", GOOD.replace(b'{"index":3,', b'{"index": 3,'), rf"line {line_at(3)}: this is neither a leaf nor a checkpoint"),
    (
        "another member in a line",
        GOOD.replace(LEAVES[3].hex().encode() + b'"', LEAVES[3].hex().encode() + b'","a":1'),
        rf"line {line_at(3)}: this is not exactly what a leaf looks like",
    ),
    (
        "upper case",
        GOOD.replace(LEAVES[3].hex().encode(), LEAVES[3].hex().upper().encode()),
        rf"line {line_at(3)}: this is not exactly what a leaf looks like",
    ),
    ("signed with another key", export(ENTRIES, signers=(another_signer(),)), "not signed by a key that you gave"),
    (
        "another origin",
        export(ENTRIES, signers=(another_signer(name="else.test"),), origin="else.test"),
        f"this log is else.test; the key is for {ORIGIN}",
    ),
    (
        "a checkpoint of another origin",
        GOOD.replace(checkpoint_line(checkpoint(LEAVES[:16])), checkpoint_line(checkpoint(LEAVES[:16], origin="else.test"))),
        "this checkpoint is of the log else.test",
    ),
    (
        "a signature over something else",
        GOOD.replace(checkpoint(LEAVES).splitlines()[-1].encode(), checkpoint(LEAVES[:8]).splitlines()[-1].encode()),
        "is not one over this text",
    ),
    ("nothing", b"", "line 1: this is not the first line"),
    ("no export", b"<html>", "line 1: this is not the first line"),
]


@pytest.mark.parametrize(("data", "fault"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_change_is_told_with_its_place(data: bytes, fault: str):
    assert data != GOOD
    found = faults_of(data)
    assert any(re.search(fault, line) for line in found), found
    assert not second_verifier.is_good(data, KEY)


def test_a_log_that_signed_two_trees_of_one_size_is_told():
    other = [*LEAVES[:15], leaf_of(b"{}")]
    found = faults_of(GOOD, held=(checkpoint(other),))
    assert any("the log is forked: this checkpoint and kept-0 are both signed, over 16 leaves" in line for line in found)
    assert any("the first 16 leaves do not have the root of kept-0" in line for line in found)


def test_a_log_that_was_rewritten_before_a_checkpoint_that_was_kept_is_told():
    other = export([*make_entries(10, seed=1), *ENTRIES[10:]])
    assert faults_of(other) == []  # by itself it looks well: only a checkpoint outside binds
    assert any("what that checkpoint covers was rewritten" in line for line in faults_of(other, held=(checkpoint(LEAVES[:13]),)))


def test_a_log_that_was_rolled_back_is_told():
    assert any("rolled back" in line for line in faults_of(export(ENTRIES[:30]), held=(checkpoint(LEAVES[:35]),)))


def test_after_a_change_of_keys_either_key_will_do_for_what_both_signed():
    new = another_signer()
    both = export(ENTRIES, signers=(Signer(), new))
    assert faults_of(both) == faults_of(both, keys=(new.text,)) == []


def test_a_false_signature_by_a_trusted_key_is_a_fault_even_beside_a_good_one():
    other = another_signer()
    text, signature = checkpoint(LEAVES, Signer()), checkpoint(LEAVES[:8], other).splitlines()[-1] + "\n"
    assert any(
        "is not one over this text" in line
        for line in faults_of(GOOD.replace(checkpoint_line(text), checkpoint_line(text + signature)), keys=(KEY, other.text))
    )


def test_a_leaf_without_its_entry_is_a_fault_where_all_were_asked_for():
    assert faults_of(GOOD, needs_entries=True)[0] == "line 2: leaf 0 comes without its entry"


# --- forty changes a run --------------------------------------------------------------------------


def flipped(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def shuffled_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    a, b = chance.sample(range(len(lines)), 2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def dropped_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[chance.choice([at for at, line in enumerate(lines) if not (line.startswith(b'{"checkpoint"') and at + 1 < len(lines))])]
    return b"".join(lines)


def doubled_line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def stuffed(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.randrange(1, 8)) + data[at:]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [flipped, flipped, shuffled_lines, dropped_line, doubled_line, cut, stuffed]


def test_forty_random_changes_are_all_found_and_both_verifiers_agree(record_property):
    seed = random.SystemRandom().randrange(2**32)
    record_property("seed", seed)
    chance = random.Random(seed)
    for number in range(40):
        change = chance.choice(CHANGES)
        data = change(GOOD, chance)
        found = faults_of(data)
        assert found, (seed, number, change.__name__)
        assert all(line.startswith("line ") for line in found)
        assert not second_verifier.is_good(data, KEY), (seed, number, change.__name__)


# --- proofs, against the recursive definition ------------------------------------------------------


@given(st.integers(1, 70), st.data())
def test_inclusion_proofs_of_the_rfc_lead_to_the_root_and_those_of_another_leaf_do_not(size, data):
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    leaves = [leaf_of(b"%d" % number) for number in range(size)]
    path, root = second_verifier.path_of(index, leaves), second_verifier.tree_of(leaves)
    assert (
        verify_log.root_of_inclusion(leaves[index], index, size, path)
        == root
        == second_verifier.root_by_path(leaves[index], index, size, path)
    )
    if other != index:
        assert _root(leaves[index], other, size, path) != root
    for wrong in ([*path, root], path[:-1]) if path else ([root],):
        assert _root(leaves[index], index, size, wrong) is None
        assert second_verifier.root_by_path(leaves[index], index, size, wrong) is None


def _root(*asked: object) -> bytes | None:
    try:
        return verify_log.root_of_inclusion(*asked)
    except Wrong:
        return None


@given(st.integers(1, 70), st.data())
def test_consistency_proofs_of_the_rfc_hold_and_hold_for_no_other_tree(size, data):
    first = data.draw(st.integers(1, size))
    leaves = [leaf_of(b"%d" % number) for number in range(size)]
    old, new, path = second_verifier.tree_of(leaves[:first]), second_verifier.tree_of(leaves), second_verifier.proof_of(first, leaves)
    verify_log.check_consistency(first, size, old, new, path)
    assert second_verifier.is_consistent(first, size, old, new, path)
    elsewhere = leaf_of(b"else")
    wrongs = [(elsewhere, new, path), (old, elsewhere, path), (old, new, [*path, elsewhere])]
    wrongs += [(old, new, path[:-1]), (old, new, [elsewhere, *path[1:]])] if path else []
    for wrong in wrongs:
        with pytest.raises(Wrong):
            verify_log.check_consistency(first, size, *wrong)
        assert not second_verifier.is_consistent(first, size, *wrong)


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_the_growing_tree_has_the_root_of_the_recursive_one(entries):
    tree = verify_log.Tree()
    for number, entry in enumerate(entries):
        assert tree.root() == second_verifier.tree_of(list(map(leaf_of, entries[:number])))
        tree.append(leaf_of(entry))


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_holds_and_where_it_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "good").write_bytes(GOOD)
    (tmp_path / "bad").write_bytes(without(10))
    (tmp_path / "old").write_text(checkpoint(LEAVES[:13]))
    (tmp_path / "key").write_text(KEY + "\n")
    assert verify_log.main([str(tmp_path / "good"), "--key", KEY, "--checkpoint", str(tmp_path / "old")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{ORIGIN}: 40 leaves from 0, 26 with their entries, 4 checkpoints",
        f"the last one covers 40 leaves and is signed by {ORIGIN}+{Signer().id.hex()}",
        "compared with 1 older checkpoints",
        "holds",
    ]
    assert verify_log.main([str(tmp_path / "bad"), "--key", str(tmp_path / "key")]) == 1
    assert "FAULT line 13: leaf 10 is missing before leaf 11\n" in capsys.readouterr().out
    assert verify_log.main([str(tmp_path / "good"), "--key", "nonsense+1+2"]) == 2
    assert verify_log.main([str(tmp_path / "absent"), "--key", KEY]) == 2
