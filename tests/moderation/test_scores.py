"""Scores: integers of 1e-6, rounded up, and nothing else."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.errors import ClassifierFault
from moderation.scores import ONE, as_decimal, from_decimal, is_score, to_score
from tests.builders import make_sheet

LAST_BIT = Fraction(1, 10**9)


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (0.0, 0),
        (-0.0, 0),
        (1.0, ONE),
        (0.5, 500_000),
        (0.45, 450_000),
        (1e-12, 1),
        (5e-324, 1),
        (0.9999999, ONE),
        (np.float32(0.25), 250_000),
    ],
)
def test_a_probability_becomes_a_score_rounded_up(value, score):
    assert to_score(value) == score


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9, 1.0000001, np.float32("nan"), 2])
def test_what_is_no_probability_is_a_fault(value):
    with pytest.raises(ClassifierFault):
        to_score(value)


@given(st.floats(0, 1))
def test_a_score_is_never_below_its_probability_and_less_than_one_unit_above(value):
    """Up to the last bit of the product, which is far below what any threshold can say."""
    score = to_score(value)
    assert is_score(score)
    assert -LAST_BIT <= Fraction(score) - Fraction(value) * ONE < 1 + LAST_BIT
    assert score > 0 or value == 0


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_greater_probability_never_has_a_smaller_score(one, other):
    assert (to_score(one) <= to_score(other)) or one > other


@given(st.integers(0, ONE))
def test_the_decimal_form_comes_back_as_the_same_score(score):
    text = as_decimal(score)
    assert len(text) == len("0.000000")
    assert from_decimal(text) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "0.5",
        ".500000",
        "00.500000",
        "1.000001",
        "2.000000",
        "-0.100000",
        "0.50000",
        "0.5000000",
        "0.50000a",
        "0.\u0665\u0660\u0660\u0660\u0660\u0660",
        "0.500000\n",
        "+0.50000",
    ],
)
def test_any_other_decimal_form_is_refused(text):
    with pytest.raises(ValueError, match="not a score"):
        from_decimal(text)


@pytest.mark.parametrize("value", [-1, ONE + 1, True, False, 0.5, math.nan, None, "1", np.int64(1)])
def test_only_plain_integers_in_range_are_scores(value):
    assert not is_score(value)


def test_the_peak_is_the_highest_score_of_each_category_over_all_frames():
    sheet = make_sheet({"sexual": 1, "hate": 9}, {"sexual": 5, "hate": 0}, {"sexual": 3, "hate": 2})
    assert sheet.peak() == {"sexual": 5, "hate": 9}


def test_a_sheet_travels_between_processes():
    sheet = make_sheet()
    assert pickle.loads(pickle.dumps(sheet)) == sheet  # noqa: S301 -- our own bytes
