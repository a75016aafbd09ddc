"""Five kill -9 of workers in the midst of transforms (`make faults` does fifty), and whether the checker would notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from tests.faults.invariants import Dump, Row, take, violations
from tests.faults.kill_loop import EXPECTED, run
from tests.gate_kit import Yard, face, in_yard, marked, unchanged

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def test_five_deaths_of_workers_lose_nothing_and_release_nothing_twice(database, tmp_path):
    report = asyncio.run(run(database, tmp_path, kills=5, seed=20261126))
    assert report.kills >= 5
    assert report.hits >= 1
    assert report.ends.total() >= 2 * report.kills >= len(EXPECTED)


# --- a checker that finds nothing would pass everything -------------------------------------------

Damage = Callable[[Dump], Dump]


def rows(table: str, change: Callable[[list[Row]], list[Row]]) -> Damage:
    return lambda dump: replace(dump, rows={**dump.rows, table: change(list(dump.rows[table]))})


def every(table: str, where: Mapping[str, Any], **values: Any) -> Damage:
    """These values in all rows that are like that."""

    def change(row: Row) -> Row:
        is_meant = all(row[name] == value for name, value in where.items())
        return {**row, **{name: value(row) if callable(value) else value for name, value in values.items()}} if is_meant else row

    return rows(table, lambda old: [change(row) for row in old])


def without(table: str, **where: Any) -> Damage:
    return rows(table, lambda old: [row for row in old if any(row[name] != value for name, value in where.items())])


def files(area: str, **values: Any) -> Damage:
    return lambda dump: replace(dump, files={**dump.files, area: [replace(file, **values) for file in dump.files[area]]})


def moved(dump: Dump) -> Dump:
    """What was sent and denied lies where it can be served."""
    denied = next(event["transform"] for event in dump.rows["transform_event"] if event["state"] == "denied")
    return replace(dump, files={**dump.files, "released": [replace(file, transform=denied) for file in dump.files["released"]]})


def without_a_decision(entries: list[Row]) -> list[Row]:
    entries.remove(next(entry for entry in entries if entry["kind"] == "decision"))
    return entries


LATER = timedelta(hours=1)
TAMPERED = {
    "its events have a gap": without("transform_event", state="transforming"),
    "it has not one end": every("transform_event", {"state": "denied"}, state="held"),
    "its events are out of order": every("transform_event", {"sequence": 1}, recorded_at=lambda row: row["recorded_at"] + LATER),
    "its work has not ended": every("job", {}, state="running"),
    "cancelled, and nobody asked": every("transform_event", {"state": "denied"}, state="cancelled"),
    "denied because of no decision": without("decision", verdict="block"),
    "denied because of a decision that lets it pass": every("decision", {"verdict": "block"}, verdict="allow"),
    "2 decisions about its output": rows("decision", lambda old: old + [{**row, "id": uuid7()} for row in old if row["stage"] == "output"]),
    "a decision is about other bytes": every("decision", {"stage": "target"}, media_sha256=bytes(32)),
    "worked on before its source was allowed": every("decision", {"stage": "source"}, recorded_at=lambda row: row["recorded_at"] + LATER),
    "released with 0 releases": without("release"),
    "released with 2 releases": rows("release", lambda old: old * 2),
    "denied with 1 releases": lambda dump: every("release", {}, transform=dump.rows["transform"][-1]["id"])(dump),
    "a released file was altered": files("released", data=b"other"),
    "1 files can be served, 0 are released": moved,
    "0 files can be served, 1 are released": lambda dump: replace(dump, files={**dump.files, "released": []}),
    "its file lay there before the release": every("release", {}, recorded_at=lambda row: row["recorded_at"] + LATER),
    "the signed file is not the encoded one": every("part", {"kind": "signed"}, made_of=bytes(32)),
    "the signed file shows something else than was screened": every("part", {"kind": "signed"}, frame_digest="sha256:other"),
    "the release names other files": every("release", {}, encoded_sha256=bytes(32)),
    "released without its output being allowed": every("decision", {"stage": "output"}, verdict="error"),
    "an input lies where results are": lambda dump: files("released", sha256=dump.rows["transform"][0]["source_sha256"].hex())(dump),
    "decision: 5 rows, 4 entries": rows("entry", without_a_decision),
    "does not say what it is about": every("entry", {}, leaf=bytes(32)),
    "shows rows of another tenant": every("part", {}, tenant=uuid7()),
    "belongs to no transform": every("part", {}, transform=uuid7()),
}


def test_the_checker_passes_what_happened_and_reports_whatever_else_is_said_to_have_happened(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.renderer = unchanged()
        await yard.swap(face("ada"), face("bo"))
        await yard.swap(face("ada"), marked(face("bo")))
        dump = await take(yard.database, yard.tenant, tmp_path / "media")
        assert violations(dump) == []
        for finding, damage in TAMPERED.items():
            found = violations(damage(dump))
            assert any(finding in one for one in found), (finding, found)

    in_yard(database, tmp_path, scenario)
