"""Canonical bytes: those of RFC 8785, by whichever way they are made."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from types import MappingProxyType

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from moderation.canonical import Json, canonical, digest, list_of, members_of, number_of, text_of

INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


class Word(StrEnum):
    ONE = "one"


@given(JSON)
def test_the_bytes_are_those_of_an_independent_implementation(value):
    assert canonical(value) == rfc8785.dumps(value)
    assert json.loads(canonical(value)) == value


@given(st.text(), st.none() | INTEGERS, st.lists(INTEGERS, max_size=4), st.dictionaries(st.text(), INTEGERS, max_size=6))
def test_documents_put_together_from_pieces_have_the_same_bytes(text, number, numbers, members):
    by_hand = ",".join(begin + number_of(members[name]) for name, begin in members_of(tuple(members)))
    assert text_of(text).encode() == rfc8785.dumps(text)
    assert number_of(number).encode() == rfc8785.dumps(number)
    assert list_of(numbers).encode() == rfc8785.dumps(numbers)
    assert f"{{{by_hand}}}".encode() == rfc8785.dumps(members)


@pytest.mark.parametrize("value", [2**53, -(2**53), 0.5, float("nan"), object()])
def test_a_number_that_canonical_json_cannot_hold_is_no_piece(value):
    with pytest.raises((TypeError, ValueError)):
        number_of(value)


@pytest.mark.parametrize("value", [None, 1, b"bytes"])
def test_only_a_text_is_a_text(value):
    with pytest.raises(TypeError):
        text_of(value)


@pytest.mark.parametrize("value", ["\ud800", "a\udfff"])
def test_half_a_surrogate_pair_is_no_name_and_has_no_bytes(value):
    with pytest.raises(ValueError, match="surrogates"):
        members_of((value,))
    with pytest.raises(ValueError, match="surrogates"):
        text_of(value).encode()


def test_the_published_example_of_strings_and_literals():
    """RFC 8785, section 3.2.2, without its floating point numbers."""
    value: Json = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f", "literals": [None, True, False]}
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical(value) == expected.encode()


def test_the_published_example_of_key_order():
    """RFC 8785, section 3.2.3: by UTF-16 unit, so that an emoji comes before U+FB33."""
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical(value)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, b"{}"),
        ([], b"[]"),
        ((1, (2,)), b"[1,[2]]"),
        ("\x7f\u2028", '"\x7f\u2028"'.encode()),
        ({"b": Word.ONE, "a": 2**53 - 1}, b'{"a":9007199254740991,"b":"one"}'),
        ({"\n": 1, "": 2}, b'{"":2,"\\n":1}'),
    ],
)
def test_known_bytes(value, expected):
    assert canonical(value) == expected


@pytest.mark.parametrize("value", [0.5, [1.0], {"a": (float("nan"),)}, {"é": 0.5}, {"é": [0.5]}, MappingProxyType({"a": 0.5})])
def test_floats_have_no_place(value):
    with pytest.raises(TypeError):
        canonical(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), "\ud800", {"\ud800": 1}, {1: 2}, {None: 1}, object(), {"a": {1, 2}}, b"bytes"])
def test_what_rfc_8785_cannot_represent_is_refused(value):
    with pytest.raises(ValueError, match=r".*"):
        canonical(value)


def test_the_digest_is_sha256_over_the_canonical_bytes():
    assert digest({"b": 1, "a": "x"}) == "sha256:" + hashlib.sha256(b'{"a":"x","b":1}').hexdigest()
