"""Signing and opening notes, and the file of a signing key."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation.adapters.notes import SigningKey, SigningKeyRefused, open_note, signed
from moderation.log import NoteRefused, VerifierKey, note_of, parse_note

TEXT = "one\ntwo\n"
ONE, TWO = (SigningKey(name, bytes([number]) * 32) for number, name in enumerate(("log.test/one", "log.test/two")))

# The key and the note of the documentation of golang.org/x/mod/sumdb/note, which made the format.
PUBLISHED_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PUBLISHED_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_published_note_is_opened_with_its_published_key():
    key = VerifierKey.parse(PUBLISHED_KEY)
    text, signers = open_note(PUBLISHED_NOTE, [key])
    assert text.startswith("If you think")
    assert signers == (key,)
    with pytest.raises(NoteRefused, match="does not hold"):
        open_note(PUBLISHED_NOTE.replace("cryptography", "Cryptography"), [key])


def test_who_has_signed_is_told_and_others_are_passed_over():
    note = signed(TEXT, [ONE, TWO])
    assert open_note(note, [ONE.verifier, TWO.verifier]) == (TEXT, (ONE.verifier, TWO.verifier))
    assert open_note(note, [TWO.verifier]) == (TEXT, (TWO.verifier,))
    with pytest.raises(NoteRefused, match="not signed by a known key"):
        open_note(note, [SigningKey("log.test/one", bytes(31) + b"x").verifier])


def test_one_wrong_signature_of_a_known_key_makes_the_note_worthless():
    text, (one, two) = parse_note(signed(TEXT, [ONE, TWO]))
    forged = note_of(text, [one, type(two)(name=two.name, key_id=two.key_id, signature=one.signature)])
    with pytest.raises(NoteRefused, match="does not hold"):
        open_note(forged, [ONE.verifier, TWO.verifier])


def test_the_same_text_has_the_same_signature_always():
    assert signed(TEXT, [ONE]) == signed(TEXT, [SigningKey("log.test/one", bytes(32))])


def test_a_key_is_kept_in_a_file_that_nobody_else_reads(tmp_path: Path):
    made = SigningKey.generate("log.test/one")
    made.save(tmp_path / "key")
    SigningKey.generate("log.test/one").save(tmp_path / "key")  # comes too late
    assert SigningKey.load(tmp_path / "key").verifier == made.verifier
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(SigningKeyRefused, match="others can reach it"):
        SigningKey.load(tmp_path / "key")


@pytest.mark.parametrize("text", ["", "PRIVATE+KEY+log", "PRIVATE+KEY+log+00000000+AAAA", PUBLISHED_KEY, "\xff"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str):
    (tmp_path / "key").write_bytes(text.encode("latin-1"))
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(SigningKeyRefused, match=r"not a key|not text"):
        SigningKey.load(tmp_path / "key")
