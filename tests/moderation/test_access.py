"""Keys as text and as stored."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.access import SECRET_BYTES, Key, Scope, admit, key_text, parse_key, secret_digest
from tests.builders import NOW, TENANT

KEY_ID = "abcdefghij0123456789"
SECRET = bytes(range(SECRET_BYTES))


def make_key(**changes):
    defaults = {"id": KEY_ID, "tenant": TENANT, "scopes": frozenset({Scope.SCREEN}), "policies": ("default",)}
    return Key(**{**defaults, "secret_sha256": secret_digest(SECRET), **changes})


@given(st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=20, max_size=20), st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_the_text_of_a_key_gives_its_id_and_secret_back(key_id, secret):
    assert parse_key(key_text(key_id, secret)) == (key_id, secret)


@given(st.integers(0, len(key_text(KEY_ID, SECRET)) - 1), st.characters(codec="ascii"))
def test_one_wrong_character_anywhere_is_noticed_without_asking_anybody(position, other):
    text = key_text(KEY_ID, SECRET)
    wrong = text[:position] + other + text[position + 1 :]
    assert parse_key(wrong) is None or wrong == text


@pytest.mark.parametrize(
    "text", ["", "fg_", "Bearer x", key_text(KEY_ID, SECRET) + "\n", key_text(KEY_ID, SECRET).upper(), " " + key_text(KEY_ID, SECRET)]
)
def test_anything_else_is_no_key(text):
    assert parse_key(text) is None


@given(st.text(max_size=200))
def test_parsing_never_raises(text):
    assert parse_key(text) is None


def test_the_stored_digest_is_sha256_of_the_secret():
    assert secret_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_key_lives_until_the_moment_it_expires_or_is_revoked():
    assert make_key().is_live(NOW)
    assert make_key(expires_at=NOW + timedelta(microseconds=1)).is_live(NOW)
    assert not make_key(expires_at=NOW).is_live(NOW)
    assert not make_key(revoked_at=NOW + timedelta(days=1)).is_live(NOW)


def test_a_key_is_admitted_with_its_own_secret_while_it_lives():
    assert admit(make_key(), SECRET, NOW) == make_key()
    assert admit(make_key(), SECRET[::-1], NOW) is None
    assert admit(make_key(expires_at=NOW), SECRET, NOW) is None
    assert admit(make_key(revoked_at=NOW), SECRET, NOW) is None
    assert admit(None, SECRET, NOW) is None
    assert admit(None, b"", NOW) is None
