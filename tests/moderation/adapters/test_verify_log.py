"""The verifier that outsiders get: what it accepts, and that it finds every change and says where it is."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation import merkle
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
FROM_8 = export(ENTRIES, start=8)
PEAK = second_verifier.tree_of(LEAVES[:8]).hex().encode()


def faults_of(data: bytes, *, keys: tuple[str, ...] = (KEY,), held: tuple[str, ...] = (), **how: Any) -> list[str]:
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
    ("a number written otherwise", GOOD.replace(b'"size":40', b'"size":40.0'), "line 1: an export cannot reach from 0 to 40.0"),
    ("no list of hashes", GOOD.replace(b'"before":[]', b'"before":""'), "line 1: the first line names keys and hashes that are none"),
    ("hashes in upper case", FROM_8.replace(PEAK, PEAK.upper()), "line 1: the first line names keys and hashes that are none"),
    ("a space in a hash", FROM_8.replace(PEAK, PEAK[:2] + b" " + PEAK[2:]), "line 1: the first line names keys and hashes that are none"),
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


# --- proofs: both verifiers and the tree of the service agree ---------------------------------------


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
    merkle.check_inclusion(leaf=leaves[index], index=index, size=size, hashes=path, root=root)
    if other != index:
        assert _root(leaves[index], other, size, path) != root
    for wrong in ([*path, root], path[:-1]) if path else ([root],):
        with pytest.raises(merkle.ProofRefused):
            merkle.check_inclusion(leaf=leaves[index], index=index, size=size, hashes=wrong, root=root)
        assert _root(leaves[index], index, size, wrong) is None
        assert second_verifier.root_by_path(leaves[index], index, size, wrong) is None


def _root(*asked: Any) -> bytes | None:
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
    merkle.check_consistency(first=first, second=size, hashes=path, first_root=old, second_root=new)
    elsewhere = leaf_of(b"else")
    wrongs = [(elsewhere, new, path), (old, elsewhere, path), (old, new, [*path, elsewhere])]
    wrongs += [(old, new, path[:-1]), (old, new, [elsewhere, *path[1:]])] if path else []
    for wrong in wrongs:
        with pytest.raises(Wrong):
            verify_log.check_consistency(first, size, *wrong)
        assert not second_verifier.is_consistent(first, size, *wrong)
        with pytest.raises(merkle.ProofRefused):
            merkle.check_consistency(first=first, second=size, hashes=wrong[2], first_root=wrong[0], second_root=wrong[1])


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_the_growing_tree_has_the_root_of_the_recursive_one(entries):
    tree, edge = verify_log.Tree(), merkle.Edge.of(0, [])
    for number, entry in enumerate(entries):
        assert tree.root() == edge.root == second_verifier.tree_of(list(map(leaf_of, entries[:number])))
        assert tree.peaks == edge.peaks
        tree.append(leaf_of(entry))
        list(edge.append(leaf_of(entry)))


# --- receipts -------------------------------------------------------------------------------------

RECEIPTS = another_signer(9, "facegate/receipts")
KEY_ENTRY = json.dumps(
    {"id": "1", "kind": "receipt_key", "receipt_key": {"key": RECEIPTS.text}, "tenant": "00000000-0000-0000-0000-000000000000"},
    separators=(",", ":"),
).encode()
PAST, FUTURE = "2026-01-01T00:00:00.000000Z", "9999-01-01T00:00:00.000000Z"


MINE = [b'{"id":"01890000-0000-7000-8000-000000000001","nonce":"%d"}' % number for number in range(4)]


def receipt(entry: bytes, by: str, signer: Signer = RECEIPTS) -> dict[str, object]:
    text = f"facegate/receipt\n01890000-0000-7000-8000-000000000001\n{base64.b64encode(leaf_of(entry)).decode()}\n{by}\n"
    return {"leaf": leaf_of(entry).hex(), "by": by, "note": f"{text}\n{signer.line(text)}"}


def told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *receipts: object,
    entries: list[bytes] | None = None,
    start: int = 0,
    options: tuple[str, ...] = ("--exported-at", "2026-11-27T12:00:00Z"),
) -> tuple[int, str]:
    (tmp_path / "export").write_bytes(export([KEY_ENTRY, *ENTRIES, *MINE] if entries is None else entries, start=start))
    (tmp_path / "receipts").write_text("".join(json.dumps(one) + "\n" for one in receipts))
    status = verify_log.main([str(tmp_path / "export"), "--key", KEY, "--receipts", str(tmp_path / "receipts"), *options])
    return status, capsys.readouterr().out


def test_receipts_of_what_is_in_the_log_hold_however_late_it_came_and_in_whatever_they_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    decision = {"id": "dec_1", "receipt": receipt(MINE[2], PAST)}
    listed = {"object": "list", "data": [{"id": "dec_2", "receipt": receipt(MINE[3], PAST)}] * 2}
    status, out = told(tmp_path, capsys, receipt(MINE[1], PAST), decision, listed)
    assert status == 0
    assert "4 of 4 receipts are in the log" in out


def test_receipts_whose_entries_are_not_shown_any_more_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    told(tmp_path, capsys, receipt(MINE[1], PAST), receipt(MINE[2], PAST))
    (tmp_path / "export").write_bytes(export([KEY_ENTRY, *MINE], is_shown=lambda index: index != 3))
    assert verify_log.main([str(tmp_path / "export"), "--key", KEY, "--receipts", str(tmp_path / "receipts")]) == 0
    assert "2 of 2 receipts are in the log, 1 of them without the entry" in capsys.readouterr().out


def test_a_receipt_of_a_leaf_that_was_never_logged_is_a_fault_once_it_is_due(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, out = told(tmp_path, capsys, receipt(b"{}", FUTURE), receipt(b"{}", PAST))
    assert status == 1
    assert out.count("FAULT") == 1
    assert (
        "receipts, line 2: 01890000-0000-7000-8000-000000000001 was promised to be in the log by 2026-01-01T00:00:00+00:00 and is not"
        in out
    )
    assert "0 of 2 receipts are in the log" in out


@pytest.mark.parametrize(
    ("name", "at", "status"), [("decision", "2026-01-01T00:00:00.000001Z", 1), ("review", PAST, 1), ("decision", "2025-12-31T23:59:59Z", 3)]
)
def test_without_a_time_of_asking_a_receipt_is_due_where_an_entry_is_later_than_its_promise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, at: str, status: int
):
    later = json.dumps({"created_at" if name == "decision" else "at": at, "kind": name}).encode()
    found, out = told(tmp_path, capsys, receipt(b"{}", PAST), entries=[KEY_ENTRY, later], options=())
    assert found == status
    is_told = status == 1
    assert ("is not in this export" in out, "NOT COVERED 1 receipts are not known to be due in this export" in out) == (
        is_told,
        not is_told,
    )


def test_a_decision_that_came_right_after_the_export_is_no_fault_however_late_it_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    by = "2026-11-27T12:00:01.000000Z"
    status, out = told(tmp_path, capsys, receipt(b"{}", by))
    assert status == 0
    assert "1 receipts were not due yet when this export was asked for: fetch a newer one" in out
    assert told(tmp_path, capsys, receipt(b"{}", by), options=("--exported-at", "2026-11-27T12:00:01Z"))[0] == 1


def test_receipts_of_what_may_lie_before_an_export_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    there, before = receipt(MINE[1], PAST), receipt(MINE[0], PAST)
    for start in (1, 2):  # without the entry that brings in the key
        status, out = told(tmp_path, capsys, there, before, entries=[KEY_ENTRY, *MINE], start=start)
        assert status == (3 if start == 2 else 0)
        assert ("NOT COVERED 1 receipts cannot be compared: this export begins at leaf 2" in out) == (start == 2)
    spoilt = there | {"note": str(there["note"]).replace("2026-01-01", "2027-01-01")}
    assert told(tmp_path, capsys, spoilt, entries=[*MINE, KEY_ENTRY], start=1)[0] == 1


def test_a_receipt_counts_only_under_a_key_that_the_log_brings_in_for_receipts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    forged = KEY_ENTRY.replace(b"00000000-0000-0000-0000-000000000000", b"11111111-0000-0000-0000-000000000000")
    for entries, signer, said in (
        ([*ENTRIES, *MINE], RECEIPTS, "is signed by no key that this log brings in for receipts"),
        ([forged, *MINE], RECEIPTS, "is signed by no key that this log brings in for receipts"),
        ([b'{"kind":"receipt_key","tenant', *MINE], RECEIPTS, "is signed by no key that this log brings in for receipts"),
        ([KEY_ENTRY, *MINE], another_signer(3, "facegate/receipts"), "is signed by no key that this log brings in for receipts"),
    ):
        status, out = told(tmp_path, capsys, receipt(MINE[1], PAST, signer), entries=entries)
        assert status == 1
        assert said in out
    good = receipt(MINE[1], PAST)
    status, out = told(tmp_path, capsys, good | {"note": str(good["note"]).replace("2026-01-01", "2027-01-01")})
    assert status == 1
    assert "is not one over this text" in out


def test_a_receipt_for_the_leaf_of_another_entry_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = b'{"id":"01890000-0000-7000-8000-000000000002","kind":"decision"}'
    mine = other.replace(b'2"', b'1"')
    for entry, expected in ((mine, 0), (other, 1)):
        status, out = told(tmp_path, capsys, receipt(entry, PAST), entries=[KEY_ENTRY, entry])
        assert status == expected
    assert "receipts, line 1: the receipt of 01890000-0000-7000-8000-000000000001 is for the leaf of another entry" in out


def test_what_is_no_receipt_cannot_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for none in ({"receipt": None}, {"note": "x"}, {"note": checkpoint(LEAVES)}, "x", 1):
        assert told(tmp_path, capsys, none)[0] == 2


# --- another key, and another log -------------------------------------------------------------------

OLD, NEW, THIRD = Signer(), another_signer(21), another_signer(22)


def of_the_log(event: str, at: str = "2026-11-27T10:00:00.000000Z", **facts: object) -> bytes:
    """An entry as the sealer writes one."""
    head = {"actor": "sealer", "at": at, "event": event, "format": 1, "id": "7", "kind": "log"}
    return json.dumps(
        {**head, "log": facts, "nonce": "00" * 16, "tenant": "00000000-0000-0000-0000-000000000000"},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def change(former: Signer, key: Signer, *signers: Signer, origin: str = ORIGIN, text: str | None = None) -> bytes:
    """That one key takes over from another, as both say, or whoever signs."""
    text = text or f"facegate/key-change\n{origin}\n{key.text}\n"
    note = text + "\n" + "".join(signer.line(text) for signer in signers or (former, key))
    return of_the_log("rotated", origin=origin, key=key.text, former_key=former.text, note=note)


def signed_log(*parts: tuple[list[bytes], tuple[Signer, ...]], origin: str = ORIGIN) -> bytes:
    """An export of entries of which each part ends in a checkpoint by its signers."""
    lines, leaves, entries = [], [], [entry for part, _ in parts for entry in part]
    for part, signers in parts:
        for entry in part:
            lines.append(leaf_line(len(leaves), entry))
            leaves.append(leaf_of(entry))
        lines.append(checkpoint_line(checkpoint(leaves, *signers, origin=origin)))
    header = export(entries, signers=parts[-1][1], origin=origin).splitlines(keepends=True)[0]
    return b"".join([header, *lines])


TWICE = signed_log(
    (ENTRIES[:5], (OLD,)),
    ([change(OLD, NEW)], (OLD, NEW)),
    (ENTRIES[5:9], (NEW,)),
    ([change(NEW, THIRD), ENTRIES[9]], (NEW, THIRD)),
    (ENTRIES[10:12], (THIRD,)),
)


def test_from_the_first_key_on_a_verifier_follows_to_those_that_take_over():
    assert faults_of(TWICE) == []
    assert second_verifier.is_good(TWICE, KEY)
    assert faults_of(TWICE, keys=(THIRD.text,)) != []  # and never back
    assert not second_verifier.is_good(TWICE, THIRD.text)


@pytest.mark.parametrize(
    "data",
    [
        signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW, NEW)], (OLD, NEW)), (ENTRIES[5:9], (NEW,))),
        signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW, OLD)], (OLD, NEW)), (ENTRIES[5:9], (NEW,))),
        signed_log((ENTRIES[:5], (OLD,)), ([change(THIRD, NEW)], (OLD, NEW)), (ENTRIES[5:9], (NEW,))),
        signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW)], (OLD,)), (ENTRIES[5:9], (NEW,))),
        signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW)], (NEW,)), (ENTRIES[5:9], (NEW,))),
        signed_log((ENTRIES[:5], (OLD, NEW)), ([change(OLD, NEW)], (NEW,)), (ENTRIES[5:9], (NEW,))),
        signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW, origin="else.test")], (OLD, NEW)), (ENTRIES[5:9], (NEW,))),
        signed_log(
            (ENTRIES[:5], (OLD,)),
            ([change(OLD, NEW, text=f"facegate/key-change\n{ORIGIN}\n{THIRD.text}\n")], (OLD, NEW)),
            (ENTRIES[5:9], (NEW,)),
        ),
        signed_log(
            (ENTRIES[:5], (OLD,)),
            ([change(OLD, NEW).replace(b'"tenant":"0', b'"tenant":"1')], (OLD, NEW)),
            (ENTRIES[5:9], (NEW,)),
        ),
        signed_log((ENTRIES[:5], (OLD,)), (ENTRIES[5:9], (NEW,))),
    ],
    ids=[
        "not by the former",
        "not by the new",
        "by a stranger",
        "one signature",
        "late",
        "early",
        "another log",
        "another key",
        "tenant",
        "none",
    ],
)
def test_no_key_is_followed_that_the_former_one_has_not_named_and_signed_beside(data: bytes):
    assert any("is not signed by a key that you gave" in fault for fault in faults_of(data))
    assert not second_verifier.is_good(data, KEY)


@pytest.mark.parametrize(
    "more",
    [
        [([*ENTRIES[5:9]], (OLD,))],
        [(ENTRIES[5:9], (NEW,)), (ENTRIES[9:12], (OLD,))],
        [([change(OLD, THIRD)], (OLD, THIRD)), (ENTRIES[5:9], (THIRD,))],
        [([change(OLD, THIRD)], (NEW, THIRD)), (ENTRIES[5:9], (THIRD,))],
    ],
    ids=["at once", "later", "names another", "names another where the new one signs"],
)
@pytest.mark.parametrize("keys", [(OLD,), (OLD, NEW)], ids=["the former is given", "both are given"])
def test_a_key_that_has_handed_over_signs_no_more(more: list[tuple[list[bytes], tuple[Signer, ...]]], keys: tuple[Signer, ...]):
    """Whoever gets hold of it later, such as out of an old backup, must not be able to go on with the log."""
    data = signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW)], (OLD, NEW)), *more)
    found = faults_of(data, keys=tuple(key.text for key in keys))
    assert any("has handed over to another key before" in fault or "not signed by a key that you gave" in fault for fault in found)
    assert not second_verifier.is_good(data, KEY)


def test_a_key_may_be_handed_back():
    data = signed_log((ENTRIES[:5], (OLD,)), ([change(OLD, NEW)], (OLD, NEW)), ([change(NEW, OLD)], (OLD, NEW)), (ENTRIES[5:9], (OLD,)))
    assert faults_of(data) == []


def test_nothing_is_followed_behind_a_change():
    data = TWICE.replace(ENTRIES[2], ENTRIES[2].replace(b"allow", b"block"))
    data = data.replace(leaf_of(ENTRIES[2]).hex().encode(), leaf_of(ENTRIES[2].replace(b"allow", b"block")).hex().encode())
    assert any("one or more were changed" in fault for fault in faults_of(data))
    assert any("is not signed by a key that you gave" in fault for fault in faults_of(data))


def test_a_checkpoint_that_was_kept_under_a_key_that_is_followed_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    leaves = [leaf_of(entry) for entry in [*ENTRIES[:5], change(OLD, NEW), *ENTRIES[5:9]]]
    (tmp_path / "export").write_bytes(TWICE)
    for note, status in (
        (checkpoint(leaves, NEW), 0),
        (checkpoint([*leaves[:-1], leaf_of(b"x")], NEW), 1),
        (checkpoint(leaves, another_signer(5)), 2),
    ):
        (tmp_path / "kept").write_text(note)
        assert verify_log.main([str(tmp_path / "export"), "--key", KEY, "--checkpoint", str(tmp_path / "kept")]) == status
    assert f"the key was followed to {THIRD.text}: pin this one" in capsys.readouterr().out


RESTARTED = f"{ORIGIN}/restart-2"
BEFORE = [KEY_ENTRY, *MINE[:2], *ENTRIES[:3]]
"""The log that was lost from its sixth leaf on."""
LOST = checkpoint([leaf_of(entry) for entry in BEFORE])
EARLY = [f'{{"id":"{id}","nonce":"{number}"}}'.encode() for number, id in enumerate(["01890000-0000-7000-8000-000000000001"] * 3, 7)]


def restarted(former: str | None = LOST, *entries: bytes) -> bytes:
    opening = of_the_log("restarted", origin=RESTARTED, key=KEY, reason="the disk was lost", former=former)
    return export([opening, *entries, *ENTRIES[20:24]], origin=RESTARTED)


def after_a_restart(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *receipts: object,
    before: list[bytes] | None = None,
    kept: str | None = None,
    data: bytes | None = None,
) -> tuple[int, str]:
    """What the verifier says of the log after the restart, with an export of the one before it (`before`) if that is given."""
    (tmp_path / "now").write_bytes(restarted() if data is None else data)
    (tmp_path / "before").write_bytes(export(before or BEFORE))
    (tmp_path / "receipts").write_text("".join(json.dumps(one) + "\n" for one in receipts))
    (tmp_path / "kept").write_text(kept or "")
    options = ["--exported-at", "2026-11-27T12:00:00Z", "--receipts", str(tmp_path / "receipts")]
    options += ["--former", str(tmp_path / "before")] if before else []
    options += ["--checkpoint", str(tmp_path / "kept")] if kept else []
    status = verify_log.main([str(tmp_path / "now"), "--key", KEY, *options])
    return status, capsys.readouterr().out


def test_receipts_from_before_a_restart_are_not_covered_by_the_log_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, out = after_a_restart(tmp_path, capsys, receipt(MINE[1], PAST), receipt(EARLY[0], PAST))
    assert status == 3
    assert "NOT COVERED 2 receipts are from before a restart of the log: give the whole export of the log before it with --former" in out
    assert f"it goes on from {ORIGIN} with 6 leaves after a restart: the disk was lost" in out


def test_with_the_log_before_it_they_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert after_a_restart(tmp_path, capsys, receipt(MINE[1], PAST), before=BEFORE)[0] == 0
    status, out = after_a_restart(tmp_path, capsys, receipt(MINE[1], PAST), receipt(EARLY[0], PAST), before=BEFORE)
    assert status == 1
    assert out.count("FAULT") == 1
    assert "receipts, line 2: 01890000-0000-7000-8000-000000000001 was promised to be in the log by" in out


def test_what_was_lost_before_the_restart_is_not_covered_by_any_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lost = receipt(MINE[1], PAST)
    status, out = after_a_restart(tmp_path, capsys, lost, before=BEFORE[:2], kept=LOST)
    assert status == 3
    assert "NOT COVERED 1 receipts are from before a restart" in out
    assert f"covers 6 leaves of {ORIGIN}, of which 2 are left: a restart says why" in out


def test_receipts_of_after_the_restart_are_due_as_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    late = "01a22000-0000-7000-8000-000000000001"  # after the restart by its id
    note = str(receipt(b"{}", PAST)["note"]).split("\n\n", maxsplit=1)[0].replace("01890000-0000-7000-8000-000000000001", late) + "\n"
    promised = {"note": f"{note}\n{RECEIPTS.line(note)}"}
    status, out = after_a_restart(tmp_path, capsys, promised, data=restarted(LOST, KEY_ENTRY))
    assert status == 1
    assert f"{late} was promised" in out


def test_the_log_before_a_restart_must_have_the_checkpoint_that_the_restart_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, out = after_a_restart(tmp_path, capsys, before=[*BEFORE[:4], b"{}", BEFORE[5]])
    assert status == 1
    assert "do not have the root of the checkpoint that a restart names" in out


@pytest.mark.parametrize(
    ("kept", "status", "said"),
    [
        (LOST, 0, "holds"),
        (checkpoint([leaf_of(entry) for entry in BEFORE[:3]]), 3, f"is of {ORIGIN}, a log before this one: give its export"),
        (
            checkpoint([leaf_of(entry) for entry in [*BEFORE, b"{}"]]),
            1,
            "covers 7 leaves of log.test/facegate, and this log says that it had only 6",
        ),
        (checkpoint([*LEAVES[:5], leaf_of(b"{}")]), 1, "the log is forked: "),
        (checkpoint(LEAVES[:3], another_signer(name="else.test"), origin="else.test"), 2, ""),
    ],
    ids=["the same", "smaller", "larger", "forked", "another"],
)
def test_a_checkpoint_that_was_kept_before_a_restart_is_compared_with_the_one_that_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str, status: int, said: str
):
    found, out = after_a_restart(tmp_path, capsys, kept=kept)
    assert found == status
    assert said in out


def test_a_log_that_begins_anew_and_names_nothing_does_not_hold_for_who_kept_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert after_a_restart(tmp_path, capsys, kept=LOST, data=restarted(None))[0] == 1
    assert after_a_restart(tmp_path, capsys, kept=LOST, data=export(ENTRIES[:4], origin=RESTARTED))[0] == 1


def test_with_the_logs_before_it_the_key_is_followed_from_the_first_one(tmp_path: Path):
    before = signed_log((BEFORE, (OLD,)), ([change(OLD, NEW)], (OLD, NEW)), ([ENTRIES[30]], (NEW,)))
    note = checkpoint([leaf_of(entry) for entry in [*BEFORE, change(OLD, NEW), ENTRIES[30]]], NEW)
    opening = of_the_log("restarted", origin=RESTARTED, key=NEW.text, reason="moved", former=note)
    (tmp_path / "before").write_bytes(before)
    (tmp_path / "now").write_bytes(export([opening, *ENTRIES[20:24]], origin=RESTARTED, signers=(NEW,)))
    assert verify_log.main([str(tmp_path / "now"), "--key", KEY]) == 1
    assert verify_log.main([str(tmp_path / "now"), "--key", KEY, "--former", str(tmp_path / "before")]) == 0


# --- reports --------------------------------------------------------------------------------------


def decision(number: int, verdict: str = "allow", *, day: int = 5, stage: str = "upload", categories: tuple[str, ...] = ()) -> bytes:
    reasons = [{"category": category} for category in categories]
    at = f"2026-11-{day:02}T10:00:00.000000Z"
    facts = {"automated": True, "created_at": at, "id": str(number), "kind": "decision", "policy": {"name": "default"}, "reasons": reasons}
    return json.dumps({**facts, "stage": stage, "verdict": verdict}, separators=(",", ":")).encode()


JUDGED = [
    decision(1),
    decision(2),
    decision(3, "block", categories=("test.marker", "test.marker", "sexual")),
    decision(4, day=6, stage="output"),
    decision(5, day=7),
    b'{"at":"2026-11-06T11:00:00.000000Z","id":"6","kind":"review","review":{"verdict":"allow"}}',
]


def row(day: int, stage: str, category: str | None, verdict: str, decisions: int) -> dict[str, object]:
    return {
        "tenant": "t",
        "day": f"2026-11-{day:02}",
        "stage": stage,
        "category": category,
        "verdict": verdict,
        "automated": True,
        "decisions": decisions,
    }


ROWS = [
    row(5, "upload", None, "allow", 2),
    row(5, "upload", None, "block", 1),
    row(5, "upload", "sexual", "block", 1),
    row(5, "upload", "test.marker", "block", 1),
    row(6, "output", None, "allow", 1),
    row(6, "output", None, "allow", 1) | {"automated": False},
    row(6, "output", "sexual", "allow", 1) | {"automated": False},
]


def counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: list[bytes] = JUDGED, **changes: object) -> tuple[int, str]:
    report = {
        "object": "report",
        "name": "verdicts",
        "parameters": {"from": "2026-11-01T00:00:00Z", "to": "2026-11-07T00:00:00Z", "stage": None, "policy": None},
        "data": ROWS,
        "totals": {"decisions": 4, "reviews": 1},
        "checkpoint": checkpoint([leaf_of(entry) for entry in JUDGED[:4]]),
        "next_cursor": None,
    }
    (tmp_path / "export").write_bytes(export(entries))
    (tmp_path / "report").write_text(json.dumps(report | changes))
    status = verify_log.main([str(tmp_path / "export"), "--key", KEY, "--report", str(tmp_path / "report")])
    return status, capsys.readouterr().out


def test_a_report_has_the_counts_of_the_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    period = "2026-11-01T00:00:00+00:00 to 2026-11-07T00:00:00+00:00"
    status, out = counted(tmp_path, capsys)
    assert status == 0
    assert f"the report is about {period}, any stage, any policy, any tenant\n" in out
    status, out = counted(tmp_path, capsys, checkpoint=None)
    assert status == 0
    assert "any tenant, and names no checkpoint\n" in out
    stage = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-07T00:00:00Z", "stage": "output", "policy": "default"}
    assert counted(tmp_path, capsys, parameters=stage, data=ROWS[4:], totals={"decisions": 1, "reviews": 1})[0] == 0


def test_a_report_with_other_counts_than_the_entries_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, out = counted(tmp_path, capsys, data=[row(5, "upload", None, "allow", 3), *ROWS[2:]], totals={"decisions": 5, "reviews": 0})
    assert status == 1
    assert "FAULT the report has 3 for 2026-11-05, upload, allow, any category, the log 2\n" in out
    assert "FAULT the report has 0 for 2026-11-05, upload, block, any category, the log 1\n" in out
    assert "FAULT the report says 5 decisions in all, the log 4\n" in out
    assert "FAULT the report says 0 reviews in all, the log 1\n" in out


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ([ROWS[5] | {"decisions": 7}], "the report has 7 reviews of 2026-11-06, allow, the log 1"),
        ([ROWS[5] | {"verdict": "block"}], "the report has 1 reviews of 2026-11-06, block, the log 0"),
        ([ROWS[5] | {"day": "2026-11-05"}], "the report has 0 reviews of 2026-11-06, allow, the log 1"),
        ([], "the report has 0 reviews of 2026-11-06, allow, the log 1"),
    ],
)
def test_reviews_of_a_report_are_counted_by_day_and_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: list[object], fault: str
):
    status, out = counted(tmp_path, capsys, data=[*ROWS[:5], *said])
    assert status == 1
    assert f"FAULT {fault}\n" in out


def test_reviews_of_one_stage_are_those_of_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stage = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-07T00:00:00Z", "stage": "output", "policy": None}
    status, out = counted(tmp_path, capsys, parameters=stage, data=ROWS[4:], totals={"decisions": 1, "reviews": 2})
    assert status == 1
    assert "FAULT the report says 2 reviews in all, its rows 1\n" in out


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 1.5, 2.0, "2", -1, True, None])
def test_what_is_no_count_is_no_row_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], number: object):
    assert counted(tmp_path, capsys, data=[ROWS[0] | {"decisions": number}, *ROWS[1:]])[0] == 2
    assert counted(tmp_path, capsys, totals={"decisions": number, "reviews": 1})[0] == 2


def test_entries_that_cannot_be_read_are_said_not_to_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert counted(tmp_path, capsys)[0] == 0
    (tmp_path / "export").write_bytes(export([*JUDGED, b"{}", b"{x}"]))
    assert verify_log.main([str(tmp_path / "export"), "--key", KEY, "--report", str(tmp_path / "report")]) == 1
    assert "FAULT 2 entries of the log cannot be read" in capsys.readouterr().out


def test_a_report_about_one_tenant_is_counted_among_the_entries_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    of_others = [entry.replace(b'"kind"', b'"tenant":"other","kind"') for entry in JUDGED]
    mine = [entry.replace(b'"kind"', b'"tenant":"mine","kind"') for entry in JUDGED]
    about = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-07T00:00:00Z", "stage": None, "policy": None}
    for parameters, expected in ((about | {"tenant_id": "mine"}, 0), (about, 1)):
        assert counted(tmp_path, capsys, entries=[*mine, *of_others], parameters=parameters, checkpoint=None)[0] == expected


def test_leaves_without_entries_are_said_not_to_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "not counted" not in counted(tmp_path, capsys)[1]
    (tmp_path / "export").write_bytes(export([*JUDGED, *ENTRIES], is_shown=lambda index: index < len(JUDGED)))
    assert verify_log.main([str(tmp_path / "export"), "--key", KEY, "--report", str(tmp_path / "report")]) == 0
    assert f"{len(ENTRIES)} leaves came without entries and are not counted" in capsys.readouterr().out


def test_a_report_made_under_another_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, out = counted(tmp_path, capsys, checkpoint=checkpoint(LEAVES[:3]))
    assert status == 1
    assert "the first 3 leaves do not have the root of the checkpoint in" in out


def test_a_part_of_a_report_or_another_one_cannot_be_counted_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for changes in ({"next_cursor": "x"}, {"name": "timeline"}, {"totals": None}, {"checkpoint": "x"}):
        assert counted(tmp_path, capsys, **changes)[0] == 2


# --- one proof ------------------------------------------------------------------------------------

PROVED = b'{"id":"01890000-0000-7000-8000-000000000001"}'
AROUND = [*ENTRIES, PROVED]
AROUND_LEAVES = list(map(leaf_of, AROUND))


def inclusion(**changes: object) -> dict[str, object]:
    return {
        "format": "facegate-log-proof/1",
        "id": "dec_01890000000070008000000000000001",
        "index": 40,
        "size": 41,
        "leaf": leaf_of(PROVED).hex(),
        "entry": PROVED.decode(),
        "hashes": [one.hex() for one in second_verifier.path_of(40, AROUND_LEAVES)],
        "checkpoint": checkpoint(AROUND_LEAVES),
    } | changes


def consistency(**changes: object) -> dict[str, object]:
    hashes = [one.hex() for one in second_verifier.proof_of(8, AROUND_LEAVES)]
    return {"format": "facegate-log-consistency/1", "origin": ORIGIN, "first": 8, "second": 41, "hashes": hashes} | changes


def checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: object, *kept: str, more: tuple[str, ...] = ()
) -> tuple[int, str]:
    (tmp_path / "proof").write_text(json.dumps(document))
    for number, note in enumerate(kept):
        (tmp_path / f"kept-{number}").write_text(note)
        more = (*more, "--checkpoint", str(tmp_path / f"kept-{number}"))
    status = verify_log.main([str(tmp_path / "proof"), "--key", KEY, *more])
    return status, capsys.readouterr().out


def test_a_proof_says_what_it_cannot_be_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert checked(tmp_path, capsys, inclusion())[0] == 0
    assert checked(tmp_path, capsys, inclusion(), checkpoint(AROUND_LEAVES))[0] == 0
    status, out = checked(tmp_path, capsys, inclusion(), checkpoint([leaf_of(b"{}")] * 8))
    assert status == 3
    assert "NOT COVERED" in out
    (tmp_path / "receipts").write_text(json.dumps(receipt(PROVED, PAST)) + "\n")
    status, out = checked(tmp_path, capsys, inclusion(), more=("--receipts", str(tmp_path / "receipts")))
    assert status == 3
    assert "receipts is compared with an export, and this is a proof" in out


def test_consistency_is_between_two_checkpoints_of_the_log_that_the_proof_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    old, new = checkpoint(AROUND_LEAVES[:8]), checkpoint(AROUND_LEAVES)
    assert checked(tmp_path, capsys, consistency(), old, new)[0] == 0
    assert checked(tmp_path, capsys, consistency(), old, new, checkpoint(AROUND_LEAVES[:9]))[0] == 3
    assert checked(tmp_path, capsys, consistency(), old, checkpoint(AROUND_LEAVES, origin=f"{ORIGIN}/restart-2"))[0] == 1
    assert checked(tmp_path, capsys, consistency(origin=f"{ORIGIN}/restart-2"), old, new)[0] == 1


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 40.5, 41.0, "40", True, None, {}])
def test_a_proof_about_what_is_no_number_of_leaves_does_not_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str], number: object):
    for proof in (inclusion(index=number), consistency(first=number), consistency(second=number)):
        assert checked(tmp_path, capsys, proof, checkpoint(AROUND_LEAVES[:8]), checkpoint(AROUND_LEAVES))[0] == 1


# --- whatever is in it ----------------------------------------------------------------------------

NOBODYS = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("strange", [5, 1.5, None, [], {}, True, "", "\ud800", "a+b+c", "\0"])
def test_no_entry_can_keep_the_verifier_from_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], strange: object):
    """Whoever writes the log writes what it likes into entries that have their leaf hashes."""
    head = {"actor": "sealer", "at": "2026-11-27T10:00:00Z", "tenant": NOBODYS}
    entries = [
        head | {"kind": "log", "event": "restarted", "log": {"reason": strange, "former": strange}},
        head | {"kind": "log", "event": "rotated", "log": {"key": strange, "note": strange}},
        head | {"kind": "log", "event": "rotated", "log": strange},
        {"kind": "receipt_key", "receipt_key": {"key": strange}, "tenant": NOBODYS},
        {"kind": "receipt_key", "receipt_key": strange, "tenant": NOBODYS},
        {"kind": "decision", "created_at": strange, "id": strange},
    ]
    written = [KEY_ENTRY, *MINE, *(json.dumps(entry, separators=(",", ":")).encode() for entry in entries)]
    assert told(tmp_path, capsys, receipt(MINE[0], PAST), entries=[written[5], *written[:5], *written[6:]])[0] == 0


def test_a_receipt_of_no_year_that_there_is_is_judged_by_its_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    restart = of_the_log("restarted", origin=ORIGIN, reason="restored", former=None)
    late = receipt(b"{}", PAST)
    text = f"facegate/receipt\nffffffff-ffff-7fff-ffff-ffffffffffff\n{base64.b64encode(leaf_of(b'{}')).decode()}\n{PAST}\n"
    late["note"] = f"{text}\n{RECEIPTS.line(text)}"
    assert told(tmp_path, capsys, late, entries=[restart, KEY_ENTRY])[0] == 3


def test_words_of_the_log_stay_on_their_line_and_can_be_written_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reason = "\x1b[2J\nholds\u202e"
    (tmp_path / "export").write_bytes(export([of_the_log("restarted", origin=ORIGIN, reason=reason, former=None), *ENTRIES]))
    assert verify_log.main([str(tmp_path / "export"), "--key", KEY]) == 0
    assert "after a restart: \\x1b[2J\\nholds\\u202e\n" in capsys.readouterr().out
    status, out = counted(tmp_path, capsys, entries=[decision(9, categories=("\ud800",)), *JUDGED], checkpoint=None)
    assert status == 1
    assert "allow, \\ud800, the log 1\n" in out
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    verify_log._tell(narrow, "log.\xf6/facegate")
    assert narrow.buffer.getvalue() == b"log.\\xf6/facegate\n"


def test_a_key_that_is_no_text_cannot_be_checked_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "export").write_bytes(GOOD)
    (tmp_path / "key").write_bytes(b"\xff\xfe+")
    assert verify_log.main([str(tmp_path / "export"), "--key", str(tmp_path / "key")]) == 2
    assert "is no text" in capsys.readouterr().err


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
