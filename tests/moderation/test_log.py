"""Checkpoints, notes and keys as text: read back as they were written, and nothing else is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.log import (
    Checkpoint,
    NoteRefused,
    NoteSignature,
    VerifierKey,
    from_base64,
    note_of,
    parse_note,
    receipt_text,
    to_base64,
)

names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=40).filter(
    lambda text: not any(character.isspace() for character in text)
)
hashes = st.binary(min_size=32, max_size=32)
checkpoints = st.builds(Checkpoint, origin=names, size=st.integers(0, 2**60), root=hashes)
signatures = st.builds(NoteSignature, name=names, key_id=st.binary(min_size=4, max_size=4), signature=st.binary(min_size=1, max_size=64))

# C2SP tlog-checkpoint and signed-note, the examples of their texts.
PUBLISHED_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


@given(checkpoints)
def test_a_checkpoint_is_read_back_as_it_was_written(checkpoint: Checkpoint):
    assert Checkpoint.parse(checkpoint.text) == checkpoint


@given(checkpoints, st.lists(signatures, min_size=1, max_size=16))
def test_a_note_is_read_back_as_it_was_written(checkpoint: Checkpoint, signed: list[NoteSignature]):
    assert parse_note(note_of(checkpoint.text, signed)) == (checkpoint.text, tuple(signed))


@given(names, hashes)
def test_a_key_is_read_back_as_it_was_written(name: str, public: bytes):
    key = VerifierKey(name=name, public=public)
    assert VerifierKey.parse(key.text) == key


def test_the_published_checkpoint_is_read():
    text, (signature,) = parse_note(PUBLISHED_CHECKPOINT)
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size, checkpoint.text) == ("example.com/behind-the-sofa", 20852163, text)
    assert (signature.name, signature.key_id.hex(), len(signature.signature)) == ("example.com/behind-the-sofa", "033de0ae", 64)
    assert note_of(text, [signature]) == PUBLISHED_CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log\n1\n",
        f"log\n01\n{to_base64(bytes(32))}\n",
        f"log\n-1\n{to_base64(bytes(32))}\n",
        f"log\n1\n{to_base64(bytes(31))}\n",
        f"log\n1\n{to_base64(bytes(32))}",
        f"log\n1\n{to_base64(bytes(32))}\nan extension\n",
        f"a log\n1\n{to_base64(bytes(32))}\n",
        f"\n1\n{to_base64(bytes(32))}\n",
        f"log\n{10**30}\n{to_base64(bytes(32))}\n",
        f"log\n1\n{to_base64(bytes(32))[:-2]}B=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str):
    with pytest.raises(NoteRefused):
        Checkpoint.parse(text)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— name\n",
        "text\n\n— name AAAA\n",
        "text\n\n- name AAAAAAA=\n",
        "text\n\n— a name AAAAAAA=\n",
        "text\n\n— name AAAAAAA=",
        "text\n\n— name AAAAAAA=\nmore\n",
        "text\n\n" + "— name AAAAAAA=\n" * 17,
    ],
)
def test_what_is_no_note_is_refused(note: str):
    with pytest.raises(NoteRefused):
        parse_note(note)


def test_a_key_whose_hash_is_anothers_is_refused():
    one, other = (VerifierKey(name="log", public=bytes([number]) * 32).text.split("+", 2) for number in (1, 2))
    with pytest.raises(NoteRefused, match="another"):
        VerifierKey.parse("+".join([one[0], one[1], other[2]]))
    for text in ("", "log", "log+00000000", "log+00000000+AAAA", "a log+00000000+" + to_base64(b"\x01" + bytes(32))):
        with pytest.raises(NoteRefused):
            VerifierKey.parse(text)


@pytest.mark.parametrize("text", ["A", "AA=", "AB==", "AA==\n", "AA-_", " AAAA"])
def test_base_64_is_read_in_its_one_spelling_only(text: str):
    with pytest.raises(NoteRefused):
        from_base64(text)


def test_a_receipt_says_what_it_is_so_that_no_checkpoint_can_be_taken_for_one():
    by = datetime(2026, 11, 27, tzinfo=UTC) + timedelta(seconds=60)
    text = receipt_text(entry=UUID(int=7), leaf=bytes(32), by=by)
    assert text.splitlines() == [
        "facegate/receipt",
        "00000000-0000-0000-0000-000000000007",
        to_base64(bytes(32)),
        "2026-11-27T00:01:00.000000Z",
    ]
    with pytest.raises(NoteRefused):
        Checkpoint.parse(text)
