"""`facegate screen`: files and folders to the running service, one row per file.

Exit status: 0 when all are allowed, 3 when something was blocked or held, 4 when something could not be judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deployments.client import Answer, Client

IN_PARALLEL: Final = 4
ALL_ALLOWED: Final = 0
SOMETHING_STOPPED: Final = 3
SOMETHING_UNJUDGED: Final = 4
_COLOUR: Final = {"allow": "green", "review": "yellow", "block": "red", "error": "magenta"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file and what the service said; `answer` is None for a file that could not be read."""

    path: Path
    answer: Answer | None
    fault: str = ""

    @property
    def verdict(self) -> str:
        """The verdict, `error` for a file that could not be read."""
        return self.answer.verdict if self.answer else "error"


def files_in(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as given; folders in depth, by name, hidden files and folders left out."""
    for path in paths:
        if path.is_dir():
            yield from (
                p for p in sorted(path.rglob("*")) if p.is_file() and not any(part.startswith(".") for part in p.relative_to(path).parts)
            )
        else:
            yield path


def exit_status(verdicts: Iterable[str]) -> int:
    """The gravest thing that happened. What could not be judged outweighs what was stopped."""
    seen = set(verdicts)
    if not seen or seen - {"allow", "review", "block"}:
        return SOMETHING_UNJUDGED
    return SOMETHING_STOPPED if seen & {"review", "block"} else ALL_ALLOWED


def screen_files(client: Client, paths: Sequence[Path], *, policy: str | None, as_json: bool, out: Console, progress: Console) -> int:
    """Screen everything, show it, and return the exit status. Raises ServiceFault."""
    files = list(files_in(paths))
    if not files:
        progress.print("nothing to screen: no files found")
        return SOMETHING_UNJUDGED
    rows = []
    columns = (TextColumn("screening"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress, transient=True) as bar, ThreadPoolExecutor(IN_PARALLEL) as pool:
        task = bar.add_task("screening", total=len(files))
        for row in pool.map(lambda path: _screen_one(client, path, policy), files):
            rows.append(row)
            bar.advance(task)
    if as_json:
        for row in rows:
            out.print(json.dumps(_document(row), ensure_ascii=False), soft_wrap=True, highlight=False, markup=False)
    else:
        out.print(_table(rows))
    return exit_status(row.verdict for row in rows)


def _screen_one(client: Client, path: Path, policy: str | None) -> Row:
    try:
        data = path.read_bytes()
    except OSError as fault:
        return Row(path=path, answer=None, fault=fault.strerror or "cannot be read")
    return Row(path=path, answer=client.screen(data, policy=policy))


def _document(row: Row) -> dict[str, object]:
    return {
        "file": str(row.path),
        "verdict": row.verdict,
        "answer": dict(row.answer.body) if row.answer else None,
        "fault": row.fault or None,
    }


def _table(rows: Iterable[Row]) -> Table:
    table = Table("verdict")
    for column in ("file", "why", "decision"):
        table.add_column(column, overflow="fold")  # half a name or an id is of no use
    for row in rows:
        colour = _COLOUR.get(row.verdict, "magenta")
        why = row.answer.explanation if row.answer else row.fault
        table.add_row(
            f"[{colour}]{row.verdict}[/]", escape(str(row.path)), escape(why), (row.answer.decision_id or "") if row.answer else ""
        )
    return table
