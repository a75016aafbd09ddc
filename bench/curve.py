"""Lines over a logarithmic axis as an SVG file, written by hand: no library, and a difference that can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 180, 70, 60
INK, GRID = "#333333", "#dddddd"
COLOURS: Final = ("#0b3c6f", "#1f78b4", "#33a02c", "#e08214", "#c0392b", "#7b3294", "#555555")
FONT: Final = 'font-family="sans-serif" fill="#333333"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values from 0 to 100, one for each place of the x axis."""

    name: str
    values: Sequence[float]
    is_dashed: bool = False


def draw(*, title: str, about: str, x_label: str, y_label: str, at: Sequence[float], lines: Sequence[Line]) -> str:
    """A plot of per cent over `at`, positive and ascending."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = math.log(at[-1] / at[0])
    across = [LEFT + wide * math.log(x / at[0]) / span for x in at]

    def down(value: float) -> float:
        return TOP + high * (1 - value / 100)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 28, title, size=17),
        _text(LEFT, 48, about, size=11),
    ]
    for value in range(0, 101, 20):
        parts.append(f'<line x1="{LEFT}" y1="{down(value):.1f}" x2="{LEFT + wide}" y2="{down(value):.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, down(value) + 4, str(value), anchor="end"))
    for x, place in zip(at, across, strict=True):
        parts.append(f'<line x1="{place:.1f}" y1="{TOP + high}" x2="{place:.1f}" y2="{TOP + high + 5}" stroke="{INK}"/>')
        parts.append(_text(place, TOP + high + 20, f"{x:g}", anchor="middle"))
    parts.append(_text(LEFT + wide / 2, HEIGHT - 16, x_label, anchor="middle"))
    parts.append(f'<g transform="translate(20 {TOP + high / 2:.0f}) rotate(-90)">{_text(0, 0, y_label, anchor="middle")}</g>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, down(value)) for x, value in zip(across, line.values, strict=True)]
        path, dash = " ".join(f"{x:.1f},{y:.1f}" for x, y in points), ' stroke-dasharray="6 4"' if line.is_dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        legend = TOP + 10 + 22 * number
        parts.append(f'<rect x="{LEFT + wide + 20}" y="{legend - 9}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(LEFT + wide + 38, legend + 2, line.name))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {FONT}>{escape(text)}</text>'
