"""Figures and how they are shown: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure; `wanted` is the bound asked for (`>= 0.75`), empty where it is only reported."""

    name: str
    value: float
    unit: str
    wanted: str = ""
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the bound holds; None where there is none."""
        if not self.wanted:
            return None
        relation, bound = self.wanted.split()
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


def machine() -> str:
    """The machine in one line."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024 / 1024
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return f"{cores} cores {model}, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of ratios taken pair by pair, so that drift of the machine cancels out."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def show(figures: Sequence[Figure], part: str = "") -> None:
    """Print the table, then one JSON line per figure."""
    console = Console()
    table = Table("figure", "value", "wanted", "", "how", title=f"{part}: {machine()}" if part else machine())
    for figure in figures:
        mark = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[figure.is_met]
        table.add_row(figure.name, f"{figure.value:,.2f} {figure.unit}", figure.wanted, mark, figure.note)
    console.print(table)
    for figure in figures:
        console.print(json.dumps(asdict(figure) | {"met": figure.is_met}), soft_wrap=True, highlight=False, markup=False)
