"""`facegate report`: a report as a table with small charts, as a file, or everything on one page, through the running service."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from deployments.charts import spoken
from deployments.client import Answer, Client, ServiceFault
from deployments.policy_file import read_policy_file, write_policy
from deployments.report_page import MUST_BE_EMPTY, VERDICTS, Shown, page
from moderation.reports import PERIOD_DAYS

FORMATS: Final = ("table", "json", "csv", "ndjson", "parquet")
_ROWS: Final = 60
"""What a table in the terminal shows at most."""
SAMPLE: Final = "200"
"""Decisions of each stage and verdict that the page's histograms are estimated from."""
_PAGE: Final = "200"
_MOST_ROWS: Final = "500"
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_COLOUR: Final = {"allow": "green", "review": "yellow", "block": "red", "error": "magenta"}
_BAR: Final = 40
_MOST_LETTERS: Final = 400
"""Of one cell."""
_WIDE, _FEW = 8, 3
"""More columns than that are turned into lines where there are no more rows than that."""
_LETTERS: Final = 14
"""What a column takes where there are many, so that its words can be read."""


def moment(text: str) -> str:
    """A day means its beginning in UTC; anything else is passed on as it is."""
    return f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text


def show_catalogue(client: Client, out: Console) -> None:
    """List the reports. Raises ServiceFault."""
    table = Table("report", "what it tells", "parameters")
    for report in _good(client.get("/v1/reports")).body["data"]:
        parameters = ", ".join(f"{p['name']}{'!' if p['required'] else ''}" for p in report["parameters"])
        table.add_row(report["name"], report["title"], parameters)
    out.print(table)


def show(client: Client, name: str, asked: Mapping[str, str], *, out: Console, progress: Console, content: str | None = None) -> None:
    """A table of a report's first rows, and a small chart of all where one says more. Raises ServiceFault."""
    answer = _good(client.get(f"/v1/reports/{name}", limit=_PAGE, **asked)).body if content is None else None
    chart = _CHARTS.get(name)
    if answer is None or chart is not None:
        period = {} if answer is None else {bound: answer["parameters"][bound] for bound in ("from", "to")}
        rows = list(_followed(client, name, {**asked, **period}, progress, content))
    else:
        rows = answer["data"]
    columns = list(rows[0]) if rows else []
    out.print(_table(name if answer is None else answer["title"], columns, rows[:_ROWS], width=out.width))
    if len(rows) > _ROWS or (answer is not None and answer["next_cursor"]):
        out.print(f"these are the first {min(len(rows), _ROWS)}; --format csv or ndjson gives all", style="dim")
    if answer is not None and answer["totals"]:
        out.print(", ".join(f"{total}: {number:,}" for total, number in answer["totals"].items()), highlight=False)
    if chart is not None and rows:
        out.print(chart(rows))


def save(client: Client, name: str, asked: Mapping[str, str], *, format: str, to: Path | None) -> None:
    """The report as a file, or to standard output. Raises ServiceFault."""
    if format == "json":
        text = json.dumps(_all_pages(client, name, asked), ensure_ascii=False, indent=1) + "\n"
        pieces: Iterable[bytes] = [text.encode()]
    else:
        pieces = client.stream(f"/v1/reports/{name}", format=format, **asked)  # a refusal leaves the file as it was
    with contextlib.nullcontext(sys.stdout.buffer) if to is None else to.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()


def _all_pages(client: Client, name: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """The first page with the rows of all that follow."""
    whole = dict(_good(client.get(f"/v1/reports/{name}", limit=_MOST_ROWS, **asked)).body)
    tenant = {"tenant": asked["tenant"]} if "tenant" in asked else {}
    while whole["next_cursor"] is not None:
        page = _good(client.get(f"/v1/reports/{name}", limit=_MOST_ROWS, cursor=whole["next_cursor"], **tenant)).body
        whole["data"] += page["data"]
        whole["next_cursor"] = page["next_cursor"]
    return whole


def save_page(client: Client, name: str | None, asked: Mapping[str, str], *, to: Path, out: Console) -> None:
    """One self-contained HTML page about the period, with the table of `name` if that is given. Raises ServiceFault."""
    period = {key: value for key, value in asked.items() if key in ("from", "to", "tenant")}
    wanted = {
        "verdicts": {},
        "random_audit_sample": {"verdict": "any", "per_stratum": SAMPLE, "seed": "page"},
        "thresholds_in_force": {},
        "model_comparison": {},
        "time_to_action": {},
        "overturns": {},
    }
    first = _good(client.get("/v1/reports/verdicts", limit="1", **period)).body
    period |= {key: first["parameters"][key] for key in ("from", "to")}  # one period for all, whatever the time is by the end
    rows = {report: list(_rows(client, report, {**period, **more})) for report, more in wanted.items()}
    totals = {"verdicts": first["totals"]}
    for report in MUST_BE_EMPTY:
        totals[report] = _good(client.get(f"/v1/reports/{report}", limit="1", **period)).body["totals"]
    more = None
    if name is not None:
        answer = _good(client.get(f"/v1/reports/{name}", limit=_PAGE, **asked)).body
        more = (answer["title"], answer["data"])
    shown = Shown(since=period["from"], until=period["to"], rows=rows, totals=totals, checkpoint=first["checkpoint"], more=more)
    to.write_text(page(shown), encoding="utf-8")
    out.print(f"{to} is written", highlight=False)


def replay(client: Client, file: Path, asked: Mapping[str, str], *, out: Console, progress: Console) -> None:
    """What a policy file would have decided on the stored scores. Raises PolicyRefused, ServiceFault."""
    policy = write_policy(read_policy_file(file))
    show(client, "policy_replay", asked, out=out, progress=progress, content=policy)


# --- rows -----------------------------------------------------------------------------------------


def _rows(client: Client, name: str, asked: Mapping[str, str], content: str | None = None) -> Iterator[dict[str, Any]]:
    """All rows, as they come."""
    media_type = "application/yaml"
    rest = b""
    for piece in client.stream(f"/v1/reports/{name}", content=content, media_type=media_type, format="ndjson", **asked):
        *lines, rest = (rest + piece).split(b"\n")
        yield from map(json.loads, lines)
    if rest:
        raise ServiceFault(f"the answer ended in the middle of a row of {name}")


def _followed(client: Client, name: str, asked: Mapping[str, str], progress: Console, content: str | None) -> Iterator[dict[str, Any]]:
    """The same, showing which day of the period they are at, where rows come in the order of their days."""
    until = _date(asked.get("to")) or datetime.now(UTC).date()
    begin = (_date(asked.get("from")) or until - timedelta(days=PERIOD_DAYS)).toordinal()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[decisions]:,} decisions"), TimeRemainingColumn())
    with Progress(*columns, console=progress, transient=True) as bar:
        task = bar.add_task(name, total=max(1, until.toordinal() - begin), decisions=0)
        decisions = 0
        for row in _rows(client, name, asked, content):
            decisions += row["decisions"]
            if "day" in row:
                reached = date.fromisoformat(row["day"]).toordinal() - begin
                bar.update(task, completed=reached, decisions=decisions, description=f"{name} {row['day']}")
            yield row


def _date(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text[:10]) if text else None
    except ValueError:  # the service says what is wrong with it
        return None


def _good(answer: Answer) -> Answer:
    if "error" in answer.body:
        raise ServiceFault(f"{answer.body['error']['code']}: {answer.body['error']['message']}")
    return answer


# --- tables and charts ----------------------------------------------------------------------------


def _table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, width: int) -> Table:
    """Columns in which nothing is said are left out, the tenant's too where there is only one.

    Wide rows are turned: few stand side by side, and many one below the other where the terminal has no room for their columns.
    """
    told = [name for name in columns if any(not _is_nothing(row[name]) for row in rows)]
    if len({row["tenant"] for row in rows}) == 1:
        told.remove("tenant")
    if len(told) > _WIDE and len(rows) <= _FEW:
        return _beside(title, told, rows)
    if len(told) > _WIDE and width < _LETTERS * len(told):
        return _below(title, told, rows)
    table = Table(title=title, title_justify="left")
    for name in told:
        numbers = all(isinstance(row[name], int | float) for row in rows if row[name] is not None)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name], name) for name in told))
    if not rows:
        table.add_column("nothing")
        table.min_width = min(len(title), width)  # the title stands on one line
    return table


def _beside(title: str, told: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _turned(title, 1 + len(rows))
    for name in told:
        table.add_row(name, *(_cell(row[name], name) for row in rows))
    return table


def _below(title: str, told: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _turned(title, 2)
    for row in rows:
        for name in told:
            if not _is_nothing(row[name]):
                table.add_row(name, _cell(row[name], name))
        table.add_section()
    return table


def _turned(title: str, columns: int) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def _is_nothing(value: Any) -> bool:
    return value in (None, [], "")


def _cell(value: Any, name: str) -> str:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        return spoken(value) if name.endswith("_s") else f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    items = value if isinstance(value, list) else [value]
    text = "\n".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items)
    return escape(text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "...")


def _text(value: str) -> str:
    colour = _COLOUR.get(value)
    return f"[{colour}]{value}[/]" if colour else escape(value.removesuffix("Z").replace("T", " ") if _is_time(value) else value)


def _is_time(text: str) -> bool:
    return bool(_DAY.match(text)) and text.endswith("Z")


def _verdict_chart(rows: Sequence[Mapping[str, Any]]) -> Text:
    """A bar for each day, a letter's width for each part of its verdicts."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(VERDICTS, 0))
    for row in rows:
        if row["category"] is None and row["automated"]:
            counts[row["day"]][row["verdict"]] += row["decisions"]
    return _bars([(day, [(counts[day][verdict], _COLOUR[verdict]) for verdict in VERDICTS]) for day in sorted(counts)])


def _replay_chart(rows: Sequence[Mapping[str, Any]]) -> Text:
    """From what was decided to what would have been."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        counts[row["verdict"], row["replayed"]] += row["decisions"]
    return _bars([(f"{was} -> {would}", [(many, _COLOUR[would])]) for (was, would), many in sorted(counts.items())])


def _block_chart(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What each classifier alone would say, at each stage."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        counts[f"{row['stage']} {row['classifier']}"][row["alone"]] += row["decisions"]
    lines = [
        (name, [(counts[name][verdict], _COLOUR[verdict]) for verdict in VERDICTS if counts[name][verdict]]) for name in sorted(counts)
    ]
    return _bars(lines, whole=True)


def _bars(lines: Sequence[tuple[str, Sequence[tuple[int, str]]]], *, whole: bool = False) -> Text:
    """Coloured bars, all to one scale, or each to its own `whole`."""
    wide = max((len(label) for label, _ in lines), default=0)
    top = max((sum(count for count, _ in parts) for _, parts in lines), default=0) or 1
    text = Text()
    for label, parts in lines:
        total = sum(count for count, _ in parts)
        scale = (total or 1) if whole else top
        text.append(f"{label:>{wide}} ")
        drawn = 0
        so_far = 0
        for count, colour in parts:
            so_far += count
            reach = max(drawn + (count > 0), round(so_far / scale * _BAR))
            text.append("█" * (reach - drawn), style=colour)
            drawn = reach
        text.append(f" {total:,}\n", style="dim")
    return text


_CHARTS: Final = {"verdicts": _verdict_chart, "policy_replay": _replay_chart, "model_comparison": _block_chart}
