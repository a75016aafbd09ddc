"""Parameters of reports, and their statistics."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.reports import Key, ParameterRefused, read_keys, read_parameters, share_with_interval, wilson

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)


# n, hits and the interval as R's binom::binom.wilson gives it.
@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (1, 10, 0.017876, 0.404150),
        (5, 10, 0.236593, 0.763407),
        (10, 10, 0.722467, 1.0),
        (50, 1000, 0.038130, 0.065314),
    ],
)
def test_a_share_has_the_interval_of_wilson(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@given(st.integers(0, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_lies_in_0_to_1(counts: tuple[int, int]) -> None:
    interval = wilson(*counts)
    if interval is None:
        assert counts[1] == 0
    else:
        assert 0 <= interval[0] <= counts[0] / counts[1] <= interval[1] <= 1


def test_without_a_trial_there_is_no_share() -> None:
    assert share_with_interval(0, 0) == (None, None, None)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_a_period_ends_now_and_spans_thirty_days_unless_it_is_given() -> None:
    report = STATEMENTS["verdicts"].report
    assert read_parameters(report, {}, NOW)["from"] == NOW - timedelta(days=30)
    given_ones = read_parameters(report, {"from": "2026-01-01T00:00:00+09:00", "to": "2026-02-01T00:00:00Z"}, NOW)
    assert read_parameters(report, {"to": "1970-01-05T00:00:00Z"}, NOW)["from"] == datetime(1970, 1, 1, tzinfo=UTC)
    assert (given_ones["from"], given_ones["to"]) == (datetime(2025, 12, 31, 15, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["2026-01-01", "1767225600", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "9999-12-31T23:59:59Z", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ParameterRefused) as refused:
        read_parameters(STATEMENTS["verdicts"].report, {"from": text}, NOW)
    assert refused.value.name == "from"


@given(st.lists(st.text(max_size=12), max_size=6))
def test_keys_of_a_cursor_are_checked_before_anybody_is_asked(texts: list[str]) -> None:
    report = STATEMENTS["verdicts"].report
    with pytest.raises(ParameterRefused):
        read_keys(report, texts)


@pytest.mark.parametrize(
    ("sql", "good", "bad"),
    [
        ("integer", ["0", "-7", "2147483647"], ["2147483648", "1_0", "\uff11\uff10", " 1", "+1", ""]),
        ("bigint", ["9223372036854775807"], ["9223372036854775808", "1" * 20]),
        ("date", ["2026-01-05"], ["2026-W01-1", "20260105", "2026-02-30"]),
        (
            "timestamptz",
            ["2026-01-05 10:00:00+00:00", "2026-01-05 10:00:00.123456+00:00"],
            ["2026-01-05", "2026-01-05 25:00:00+00:00", "2026-01-05 10:00:00+23:59"],
        ),
        ("uuid", ["01a21988-af8f-72a2-a9a3-787da52ee72c"], ["01a21988af8f72a2a9a3787da52ee72c", "{01a21988-af8f-72a2-a9a3-787da52ee72c}"]),
        ("boolean", ["True"], ["true", "1"]),
        ("text", ["", "a\nb", "é"], ["a\0b", "\ud800"]),
    ],
)
def test_a_key_is_written_in_one_way_only(sql: str, good: list[str], bad: list[str]) -> None:
    report = replace(STATEMENTS["verdicts"].report, keys=(Key("k", sql),))
    assert [read_keys(report, [text]) for text in good] == [(text,) for text in good]
    for text in bad:
        with pytest.raises(ParameterRefused):
            read_keys(report, [text])


def test_every_report_has_columns_for_its_totals_and_keys_for_its_order() -> None:
    for name, statement in STATEMENTS.items():
        report = statement.report
        assert report.name == name
        assert report.keys
        assert not statement.totals or report.totals.keys() == statement.totals.keys()
        assert bool(report.totals) == bool(statement.totals or statement.sums), "each is told in one way at least"
        assert all(re.search(rf"\b{total}\b", statement.sums) for total in report.totals if statement.sums)
        assert (statement.fold is None) == bool(statement.sql)
        assert len({column.name for column in report.columns}) == len(report.columns)
