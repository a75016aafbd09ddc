"""Small charts as SVG, made by hand: no script, no font, nothing from elsewhere. Colours are CSS variables of the page that shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import Final

WIDTH: Final = 880
_LEFT: Final = 62
_RIGHT: Final = 14
_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share with its interval, both in [0, 1], of so many."""

    label: str
    share: float
    low: float
    high: float
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long things waited, in seconds; None where nothing has been answered."""

    label: str
    median_s: float | None
    p95_s: float | None
    worst_s: float | None
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line across a histogram."""

    label: str
    at: float
    colour: str


def stacked_days(days: Sequence[date], series: Mapping[str, Sequence[int]], *, height: int = 240) -> str:
    """A bar for each day, one colour for each verdict."""
    totals = [sum(values) for values in zip(*series.values(), strict=True)] or [0]
    top = _nice(max(totals))
    plot = height - 40
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(days))
    parts = list(_grid(top, plot))
    for place, day in enumerate(days):
        x, y = _LEFT + place * step, 10.0 + plot
        for name, values in series.items():
            tall = values[place] / top * plot
            if tall > 0:
                y -= tall
                parts.append(
                    f'<rect x="{x + step * 0.1:.1f}" y="{y:.1f}" width="{max(1.0, step * 0.8):.1f}" height="{tall:.2f}" fill="var(--{name})">'
                    f"<title>{day}: {values[place]:,} {name} of {totals[place]:,}</title></rect>"
                )
    every = max(1, math.ceil(len(days) / 10))
    parts += [
        _text(_LEFT + (place + 0.5) * step, height - 10, days[place].strftime("%d %b"), anchor="middle")
        for place in range(0, len(days), every)
    ]
    return _svg(parts, height, f"Verdicts by day, {len(days)} days")


def histogram(title: str, bins: Sequence[float], marks: Iterable[Mark], *, width: int = 430, height: int = 190) -> str:
    """How often each score comes, on a logarithmic scale since nearly all are low; lines where the policy acts."""
    plot, wide = height - 62, width - 44 - 12
    highest = max([*bins, 1.0])
    decades = max(1, math.ceil(math.log10(highest * 1.05)))
    parts = [_text(44, 14, title, weight="600")]
    for decade in range(decades + 1):
        y = 30 + plot - decade / decades * plot
        parts.append(f'<line x1="44" x2="{width - 12}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--grid)"/>')
        parts.append(_text(38, y + 4, _short(10**decade), anchor="end"))
    step = wide / max(1, len(bins))
    for place, count in enumerate(bins):
        tall = max(0.0, math.log10(count)) / decades * plot if count >= 1 else 0.0
        x = 44 + place * step
        says = f"{place / len(bins):.2f} to {(place + 1) / len(bins):.2f}: about {count:,.0f}"
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{30 + plot - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" fill="var(--bar)"><title>{says}</title></rect>'
        )
    for mark in marks:
        x = 44 + mark.at * wide
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="26" y2="{30 + plot}" stroke="{mark.colour}" stroke-width="2" stroke-dasharray="4 3"/>'
        )
        parts.append(_text(x + 4 if mark.at < 0.8 else x - 4, 36, mark.label, anchor="start" if mark.at < 0.8 else "end", fill=mark.colour))  # noqa: PLR2004
    parts += [_text(44 + share * wide, height - 12, f"{share:g}", anchor="middle") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(parts, height, f"Scores of {title}", width=width)


def rates(rows: Sequence[Rate]) -> str:
    """A bar for each share, its interval as a line."""
    label, bar_height, gap = 250, 16, 10
    height = 34 + len(rows) * (bar_height + gap)
    top = _nice_share(max([row.high for row in rows], default=0.0))
    wide = WIDTH - label - 130
    parts = []
    for tick in range(5):
        x = label + tick / 4 * wide
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 24}" stroke="var(--grid)"/>')
        parts.append(_text(x, height - 8, f"{tick / 4 * top:.1%}", anchor="middle"))
    for place, row in enumerate(rows):
        y = 10 + place * (bar_height + gap)
        middle = y + bar_height / 2
        low, high = (label + end / top * wide for end in (row.low, row.high))
        parts.append(_text(label - 10, middle + 4, row.label, anchor="end"))
        parts.append(
            f'<rect x="{label}" y="{y}" width="{row.share / top * wide:.1f}" height="{bar_height}" fill="var(--block)" opacity="0.85"/>'
        )
        parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="var(--ink)" stroke-width="1.5"/>')
        parts.extend(
            f'<line x1="{end:.1f}" x2="{end:.1f}" y1="{middle - 4}" y2="{middle + 4}" stroke="var(--ink)" stroke-width="1.5"/>'
            for end in (low, high)
        )
        parts.append(_text(label + wide + 12, middle + 4, f"{row.share:.2%} of {row.of:,}"))
    return _svg(parts, height, "Share that would be blocked, by stage and classifier")


def waits(rows: Sequence[Wait]) -> str:
    """From median over the 95th percentile to the longest, on a logarithmic scale of hours, with 48 hours and 14 days."""
    label, tall = 150, 46
    height = 40 + len(rows) * tall
    wide = WIDTH - label - 150
    first, last = math.log10(1 / 60), math.log10(60 * 24)

    def place(seconds: float) -> float:
        return label + (min(last, max(first, math.log10(max(seconds, 1.0) / _HOUR))) - first) / (last - first) * wide

    parts = []
    for text, hours, colour in (
        ("1 min", 1 / 60, "var(--grid)"),
        ("1 h", 1, "var(--grid)"),
        ("6 h", 6, "var(--grid)"),
        ("48 h", 48, "var(--review)"),
        ("14 days", 14 * 24, "var(--block)"),
    ):
        x = place(hours * _HOUR)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 24}" stroke="{colour}" stroke-width="{1 if "grid" in colour else 2}"/>'
        )
        parts.append(_text(x, height - 8, text, anchor="middle"))
    for number, row in enumerate(rows):
        y = 6 + number * tall + tall / 2
        parts.append(_text(label - 10, y + 4, row.label, anchor="end"))
        if row.median_s is not None and row.p95_s is not None and row.worst_s is not None:
            median, p95, worst = map(place, (row.median_s, row.p95_s, row.worst_s))
            parts.append(f'<line x1="{median:.1f}" x2="{worst:.1f}" y1="{y}" y2="{y}" stroke="var(--muted)" stroke-width="2"/>')
            parts.append(
                f'<line x1="{median:.1f}" x2="{p95:.1f}" y1="{y}" y2="{y}" stroke="var(--bar)" stroke-width="9" stroke-linecap="round"/>'
            )
            for x, what, seconds in ((median, "median", row.median_s), (p95, "95 %", row.p95_s), (worst, "longest", row.worst_s)):
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="var(--card)" stroke="var(--ink)" stroke-width="1.5">'
                    f"<title>{what}: {spoken(seconds)}</title></circle>"
                )
            parts.append(_text(median, y - 10, spoken(row.median_s), anchor="end"))
            parts.append(_text(worst + 8, y + 4, spoken(row.worst_s)))
        parts.append(_text(label + wide + 12, y + 4, f"{row.open:,} open"))
    return _svg(parts, height, "Time from notice to action")


def legend(names: Iterable[str]) -> str:
    """What the colours mean."""
    return '<p class="legend">' + "".join(f'<span><i style="background:var(--{name})"></i>{escape(name)}</span>' for name in names) + "</p>"


def spoken(seconds: float) -> str:
    """A duration in its natural unit."""
    for unit, length in (("d", 24 * _HOUR), ("h", _HOUR), ("min", 60.0)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _grid(top: int, plot: float) -> Iterable[str]:
    for tick in range(5):
        y = 10 + plot - tick / 4 * plot
        yield f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--grid)"/>'
        yield _text(_LEFT - 8, y + 4, _short(top * tick / 4), anchor="end")


def _svg(parts: Iterable[str], height: float, says: str, *, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" aria-label="{escape(says)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "var(--muted)", weight: str = "400") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">{escape(text)}</text>'


def _short(number: float) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if number >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


def _nice(highest: float) -> int:
    """The end of a scale: four equal whole steps, not below `highest`."""
    size = 1
    while True:
        for steps in (4, 8, 12, 20, 32):
            if size * steps >= highest:
                return size * steps
        size *= 10


def _nice_share(highest: float) -> float:
    return next((end for end in (0.01, 0.02, 0.04, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8) if end >= highest), 1.0)
