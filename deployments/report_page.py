"""One page that shows how things stand: self-contained HTML with charts of our own, readable without a script or a network."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from html import escape
from typing import Any, Final

from deployments.charts import Mark, Rate, Wait, histogram, legend, rates, stacked_days, waits
from moderation.reports import wilson
from moderation.scores import ONE

VERDICTS: Final = ("allow", "review", "block", "error")
BINS: Final = 40
MUST_BE_EMPTY: Final = ("released_without_checks", "log_gaps")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the page shows: rows by report, totals by report, the period, and the checkpoint that it was made under."""

    since: str
    until: str
    rows: Mapping[str, Rows]
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    checkpoint: str | None = None
    more: tuple[str, Rows] | None = None
    """A report that was asked for by name, with its title."""


def page(shown: Shown) -> str:
    """The whole page."""
    sections = [
        _tiles(shown),
        _card("Verdicts by day", legend(VERDICTS) + _verdicts(shown.rows["verdicts"])),
        _card(
            "Scores against thresholds",
            _histograms(shown.rows["random_audit_sample"], shown.rows["thresholds_in_force"]),
            "Estimated from a random sample of each stage and verdict, weighted by how many decisions each has. Lines: held from, blocked from.",
        ),
        _card(
            "Blocked, by stage and classifier",
            rates(_block_rates(shown.rows["model_comparison"])),
            "What each classifier alone would have blocked under the thresholds that applied, with 95 % intervals (Wilson).",
        ),
        _card(
            "Time to action", _waits(shown.rows["time_to_action"]), "Median, 95th percentile and longest; open at the end of the period."
        ),
        _card("Overturned by people", _table(shown.rows["overturns"], _OVERTURNS), "Last word of a person against the automated verdict."),
    ]
    if shown.more is not None:
        title, rows = shown.more
        sections.append(_card(title, _table(rows, {name: name for name in (rows[0] if rows else {})})))
    head = f"<h1>Moderation record</h1><p class='period'>{_moment(shown.since)} to {_moment(shown.until)}, UTC</p>"
    return f"{_HEAD}<body><main>{head}{''.join(sections)}{_checkpoint(shown.checkpoint)}</main></body></html>\n"


def _moment(text: str) -> str:
    """A time as short as it can be said."""
    return escape(text.removesuffix("Z").removesuffix(".000000").replace("T", " ").removesuffix(" 00:00:00"))


def _tiles(shown: Shown) -> str:
    totals = shown.totals
    tiles = [
        ("decisions", f"{totals.get('verdicts', {}).get('decisions', 0):,}", ""),
        ("reviews by people", f"{totals.get('verdicts', {}).get('reviews', 0):,}", ""),
        ("releases checked", f"{totals.get('released_without_checks', {}).get('releases', 0):,}", ""),
    ]
    for name, words, total in (
        ("released_without_checks", "released without all checks", "missing"),
        ("log_gaps", "gaps in the log", "gaps"),
    ):
        number = totals.get(name, {}).get(total, 0)
        tiles.append((words, f"{number:,}", "bad" if number else "good"))
    made = "".join(f'<div class="tile {kind}"><b>{number}</b><span>{escape(words)}</span></div>' for words, number, kind in tiles)
    return f'<section class="tiles">{made}</section>'


def _verdicts(rows: Rows) -> str:
    counts: dict[date, dict[str, int]] = defaultdict(lambda: dict.fromkeys(VERDICTS, 0))
    for row in rows:
        if row["category"] is None and row["automated"]:
            counts[date.fromisoformat(row["day"])][row["verdict"]] += row["decisions"]
    if not counts:
        return _NOTHING
    first, last = min(counts), max(counts)
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return stacked_days(days, {name: [counts[day][name] if day in counts else 0 for day in days] for name in VERDICTS})


def _histograms(sample: Rows, thresholds: Rows) -> str:
    drawn: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in sample:
        drawn[row["tenant"], row["stage"], row["verdict"]] += 1
    bins: dict[str, list[float]] = defaultdict(lambda: [0.0] * BINS)
    for row in sample:
        weight = row["stratum_size"] / drawn[row["tenant"], row["stage"], row["verdict"]]
        for scores in (row["scores"] or {}).values():
            for category, score in (scores or {}).items():
                bins[category][min(BINS - 1, score * BINS // ONE)] += weight
    charts = [histogram(category, bins[category], _marks(category, thresholds)) for category in sorted(bins)]
    return f'<div class="grid">{"".join(charts)}</div>' if charts else _NOTHING


def _marks(category: str, thresholds: Rows) -> list[Mark]:
    """Where the newest policy acts on a category: by its own rule, or by that of its family."""
    for wanted in (category, category.partition(".")[0]):
        rules = [row for row in thresholds if row["category"] == wanted and category not in row["ignored"] and row["until"] is None]
        if rules:
            rule = rules[-1]
            ends = (("held", rule["review_at"], "var(--review)"), ("blocked", rule["block_at"], "var(--block)"))
            return [Mark(label=label, at=float(at), colour=colour) for label, at, colour in ends if at is not None]
    return []


def _block_rates(rows: Rows) -> list[Rate]:
    heard: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        counts = heard[row["stage"], f"{row['classifier']} {row['version']}"]
        counts[0] += row["decisions"] if row["alone"] == "block" else 0
        counts[1] += row["decisions"]
    order = ("upload", "source", "target", "output")
    found = []
    for stage, classifier in sorted(heard, key=lambda key: (order.index(key[0]), key[1])):
        blocked, of = heard[stage, classifier]
        low, high = wilson(blocked, of) or (0.0, 1.0)
        found.append(Rate(label=f"{stage} · {classifier}", share=blocked / of, low=low, high=high, of=of))
    return found


_NOTICES: Final = {"held": "held by the policy", "appeal": "appealed"}


def _waits(rows: Rows) -> str:
    found = [
        Wait(
            label=_NOTICES[row["notice"]],
            median_s=row["median_s"],
            p95_s=row["p95_s"],
            worst_s=row["worst_s"],
            open=row["open"],
        )
        for row in rows
    ]
    return waits(found) if found else _NOTHING


_OVERTURNS: Final = {
    "stage": "stage",
    "verdict": "verdict",
    "decided": "decided",
    "reviewed": "reviewed",
    "overturned": "overturned",
    "share": "share",
    "low": "from",
    "high": "to",
    "disputed": "disputed",
    "appealed": "appealed",
}


def _table(rows: Rows, names: Mapping[str, str]) -> str:
    if not rows:
        return _NOTHING
    numbers = {name for name in names if all(isinstance(row[name], int | float | None) and not isinstance(row[name], bool) for row in rows)}
    head = "".join(f"<th{' class=n' if name in numbers else ''}>{escape(title)}</th>" for name, title in names.items())
    body = "".join("<tr>" + "".join(_cell(row[name], name) for name in names) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any, name: str) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float) and name in ("share", "low", "high"):
        return f'<td class="n">{value:.1%}</td>'
    if isinstance(value, int | float):
        return f'<td class="n">{value:,}</td>'
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<td>{escape(text)}</td>"


def _card(title: str, body: str, note: str = "") -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section class='card'><h2>{escape(title)}</h2>{said}{body}</section>"


def _checkpoint(note: str | None) -> str:
    said = "The log was not sealed yet when this was made." if note is None else "Made under this checkpoint of the log:"
    return f"<footer><p>{said}</p>{f'<pre>{escape(note)}</pre>' if note else ''}</footer>"


_NOTHING: Final = '<p class="note">Nothing in this period.</p>'

_HEAD: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Moderation record</title>
<style>
:root { --page: #f4f5f7; --card: #fff; --ink: #1d2530; --muted: #5b6675; --grid: #e3e6eb; --bar: #4a7fb5;
  --allow: #5aa17f; --review: #d99a2b; --block: #c0453e; --error: #8672b4; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #14181e; --card: #1d232b; --ink: #e6e9ee; --muted: #9aa5b4; --grid: #303843;
  --bar: #6c9fd2; --allow: #62b08b; --review: #e0a83f; --block: #d8625b; --error: #9f8dcb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 28px 20px 40px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 17px; margin: 0 0 4px; }
.period { color: var(--muted); margin: 2px 0 20px; }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: 18px 20px; margin: 0 0 16px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 16px; }
.tile { flex: 1 1 150px; background: var(--card); border: 1px solid var(--grid); border-left: 4px solid var(--bar); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; } .tile span { color: var(--muted); font-size: 13px; }
.tile.good { border-left-color: var(--allow); } .tile.bad { border-left-color: var(--block); } .tile.bad b { color: var(--block); }
.note { color: var(--muted); font-size: 13px; margin: 0 0 10px; }
.legend { display: flex; gap: 18px; margin: 0 0 6px; color: var(--muted); font-size: 13px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 14px 16px; }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; color: var(--muted); font-weight: 600; } th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--grid); }
td.n { font-variant-numeric: tabular-nums; text-align: right; } th.n { text-align: right; }
footer { color: var(--muted); font-size: 13px; } pre { white-space: pre-wrap; word-break: break-all; font-size: 12px; }
</style></head>"""
