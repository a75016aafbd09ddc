"""`python -m bench` shows what it has measured, whatever becomes of the rest. Nothing is measured here."""

from __future__ import annotations

import argparse
import inspect
import sys

import pytest

from bench import __main__ as bench
from bench.table import Figure

ASKED = argparse.Namespace()


def one(_: argparse.Namespace) -> list[Figure]:
    return [Figure(name="pictures", value=3.0, unit="/s")]


def broken(_: argparse.Namespace) -> list[Figure]:
    raise RuntimeError("the sealer has ended")


@pytest.mark.parametrize("name", bench.PARTS)
def test_every_part_can_be_asked(name: str) -> None:
    inspect.signature(bench.PARTS[name]).bind(ASKED)


def test_a_part_is_shown_before_the_next_one_begins(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []

    def second(asked: argparse.Namespace) -> list[Figure]:
        shown.append(capsys.readouterr().out)
        return one(asked)

    assert bench.measure({"first": one, "second": second}, ASKED) == {}
    assert '"name": "pictures", "value": 3.0' in shown[0]


def test_a_part_that_fails_is_named_and_the_others_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PARTS", {"seal": broken, "http": one})
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(SystemExit, match=r"^seal failed: RuntimeError\('the sealer has ended'\)$"):
        bench.main()
    told = capsys.readouterr()
    assert "seal failed" in told.out
    assert "the sealer has ended" in told.err
    assert '"name": "pictures"' in told.out


def test_only_the_parts_that_are_named_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PARTS", {"seal": broken, "http": one})
    monkeypatch.setattr(sys, "argv", ["bench", "http"])
    bench.main()
    assert "http: " in capsys.readouterr().out
