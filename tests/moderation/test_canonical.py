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

from moderation.canonical import canonical, digest

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


def test_the_published_example_of_strings_and_literals():
    """RFC 8785, section 3.2.2, without its floating point numbers."""
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f", "literals": [None, True, False]}
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
