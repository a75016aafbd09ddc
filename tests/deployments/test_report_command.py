"""`facegate report` over a service of fakes with the answers of a small day, and the page that it writes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deployments.charts import Mark, Rate, Wait, histogram, rates, spoken, stacked_days, waits
from deployments.cli import app
from deployments.client import ServiceFault
from deployments.report_command import _table, moment
from tests.builders import TENANT
from tests.fakes import EmptyReports
from tests.http_kit import KEY, live_fakes, make_service


@pytest.fixture(scope="module")
def service() -> Any:
    with live_fakes(make_service()) as running:
        yield running


def run(service: Any, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--url", service.url, "--key", KEY], catch_exceptions=False)


def test_without_a_name_the_reports_are_listed(service: Any) -> None:
    said = run(service, "report").output
    assert "random_audit_sample" in said
    assert "policy!" in said  # what must be given is marked


@pytest.mark.parametrize("name", ["verdicts", "time_to_action", "released_without_checks"])
def test_an_empty_record_is_a_table_of_nothing(service: Any, name: str) -> None:
    found = run(service, "report", name, "--from", "2026-09-01", "--to", "2026-09-02")
    assert (found.exit_code, "nothing" in found.output) == (0, True)


def test_a_file_is_written_in_the_format_that_is_asked_for(service: Any, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    assert run(service, "report", "verdicts", "--format", "csv", "-o", str(file)).exit_code == 0
    assert file.read_text().startswith("tenant,day,stage,category,verdict,automated,decisions")
    assert json.loads(run(service, "report", "verdicts", "--format", "json").output)["data"] == []


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
def test_a_report_that_is_refused_leaves_the_file_as_it_was(service: Any, tmp_path: Path, format: str) -> None:
    file = tmp_path / "verdicts"
    file.write_text("of last month")
    asked = ("--from", "2026-09-02", "--to", "2026-09-01", "--format", format, "-o", str(file))
    with pytest.raises(ServiceFault, match="must be before"):
        run(service, "report", "verdicts", *asked)
    assert file.read_text() == "of last month"


class ManyRows(EmptyReports):
    """1,200 rows of a first tenant that say nothing but their keys."""

    async def page(
        self,
        name: str,
        tenant: UUID,
        values: Mapping[str, Any],  # noqa: ARG002
        *,
        after: Sequence[str] | None,
        limit: int,
    ) -> Sequence[Sequence[Any]]:
        begin = 0 if after is None else int(after[0]) + 1
        width = len(self.catalogue[name].columns)
        return [(*[None] * width, f"{n:04}", "") for n in range(begin, min(begin + limit, 1200))] if tenant == TENANT else []


def test_a_json_file_has_the_rows_of_all_pages() -> None:
    with live_fakes(make_service(changes={"reports": ManyRows()})) as running:
        whole = json.loads(run(running, "report", "reviewer_activity", "--format", "json").output)
    assert (len(whole["data"]), whole["next_cursor"]) == (1200, None)


def test_the_page_needs_nothing_from_elsewhere(service: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert run(service, "report", "--html", str(file)).exit_code == 0
    text = file.read_text()
    assert text.count("Nothing in this period.") >= 3
    assert "released without all checks" in text
    assert re.findall(r"(?:src|href)=|<script|@import|url\(", text) == []


def test_what_the_service_refuses_is_one_line(service: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments import cli  # noqa: PLC0415

    monkeypatch.setattr("sys.argv", ["facegate", "report", "copies", "--url", service.url, "--key", KEY])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (1, "facegate: invalid_parameter: media_sha256: is required.\n")


def test_a_time_that_is_none_is_for_the_service_to_refuse(service: Any) -> None:
    policy = Path(__file__).parents[2] / "deployments" / "policies" / "default.yaml"
    found = CliRunner().invoke(app, ["policy", "replay", str(policy), "--from", "2026-13-45", "--url", service.url, "--key", KEY])
    assert isinstance(found.exception, ServiceFault)
    assert str(found.exception) == "invalid_parameter: from: a time of RFC 3339 with its zone."


@pytest.mark.parametrize(("width", "is_turned"), [(80, True), (200, False)])
def test_rows_that_are_too_wide_for_the_terminal_stand_one_below_the_other(width: int, is_turned: bool) -> None:
    rows = [{"tenant": "local"} | {f"column_{place}": f"word_{place}_of_{row}" for place in range(12)} for row in range(5)]
    out = Console(width=width, file=io.StringIO())
    out.print(_table("Wide", list(rows[0]), rows, width=width))
    text = out.file.getvalue()
    assert ("column_11 │ word_11_of_4" in text) == is_turned
    assert "word_11_of_4" in text


def test_a_day_means_its_beginning() -> None:
    assert (moment("2026-09-01"), moment("2026-09-01T10:00:00Z")) == ("2026-09-01T00:00:00Z", "2026-09-01T10:00:00Z")


# --- charts -----------------------------------------------------------------------------------------


def heights(svg: str) -> list[float]:
    return [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]


def test_bars_are_as_high_as_their_counts() -> None:
    from datetime import date  # noqa: PLC0415

    svg = stacked_days([date(2026, 9, 1), date(2026, 9, 2)], {"allow": [300, 100], "block": [100, 0]})
    tall, small, block = max(heights(svg)), *sorted(heights(svg))[:2]
    assert tall == pytest.approx(3 * small, abs=0.05)
    assert small == pytest.approx(block, abs=0.05)
    assert "2026-09-01: 300 allow of 400" in svg


def test_a_histogram_marks_where_the_policy_acts_and_escapes_what_it_says() -> None:
    svg = histogram("a<b", [1000.0, 0.0, 10.0], [Mark(label="blocked", at=0.5, colour="red")])
    assert "a&lt;b" in svg
    assert [height > 0 for height in heights(svg)] == [True, False, True]
    assert svg.count("stroke-dasharray") == 1


def test_rates_and_waits_say_their_numbers() -> None:
    assert "5.00% of 200" in rates([Rate(label="upload", share=0.05, low=0.03, high=0.09, of=200)])
    svg = waits(
        [
            Wait(label="held", median_s=1800.0, p95_s=7200.0, worst_s=400_000.0, open=3),
            Wait(label="none", median_s=None, p95_s=None, worst_s=None, open=0),
        ]
    )
    assert "3 open" in svg
    assert svg.count("<circle") == 3


@pytest.mark.parametrize(
    ("seconds", "says"), [(0.4, "0 s"), (59, "59 s"), (120, "2.0 min"), (5400, "1.5 h"), (172_800, "2.0 d"), (10**6, "11.6 d")]
)
def test_a_duration_is_said_in_its_natural_unit(seconds: float, says: str) -> None:
    assert spoken(seconds) == says
