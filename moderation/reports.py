"""Reports: the questions that the record answers, as data: names, titles, typed parameters and columns; and their statistics.

What a report reads is said in `moderation.adapters.reports`; here is what a caller may ask and what comes back. A report is
about one tenant. Its rows have an order that identifies them (`keys`), so that a page can go on exactly where another ended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

Value: TypeAlias = "bool | int | str | datetime | UUID | None"
_T = TypeVar("_T")
Values: TypeAlias = Mapping[str, Value]
"""Parameters by name, as they apply."""

PERIOD_DAYS: Final = 30
"""How far a report looks back where `from` is not given."""
SINCE: Final = "from"
UNTIL: Final = "to"

_Z95: Final = 1.959963984540054
"""The 97.5th percentile of the normal distribution."""


class Kind(StrEnum):
    """What a column holds, and how it is written: see `moderation.adapters.reports` for what the record gives for it."""

    TEXT = "text"
    TEXTS = "texts"
    INTEGER = "integer"
    FLAG = "flag"
    TIME = "time"
    """RFC 3339 in UTC."""
    DAY = "day"
    """A date in UTC."""
    SCORE = "score"
    """A decimal string with six places."""
    SHARE = "share"
    """A number in [0, 1]."""
    SECONDS = "seconds"
    JSON = "json"


class Asked(StrEnum):
    """What a parameter takes."""

    MOMENT = "moment"
    """RFC 3339 with a zone."""
    TEXT = "text"
    SHA256 = "sha256"
    DECISION = "decision"
    TRANSFORM = "transform"
    INTEGER = "integer"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `kind` says its type in every format."""

    name: str
    kind: Kind
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter. `most` bounds an integer (from 1) and the length of a text; `choices` are those of a choice."""

    name: str
    asked: Asked
    title: str
    required: bool = False
    default: Value = None
    choices: tuple[str, ...] = ()
    most: int = 256


@dataclass(frozen=True, slots=True)
class Key:
    """One part of what orders and identifies rows: a column of the statement with its SQL type."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What can be asked and what comes back.

    Rows come in the order of `keys`, `newest_first` or not. `one_of` are parameters of which exactly one must be given.
    `totals` are told beside the first page, by name with their titles.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    keys: tuple[Key, ...]
    parameters: tuple[Parameter, ...] = ()
    one_of: tuple[str, ...] = ()
    newest_first: bool = False
    totals: Mapping[str, str]

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of this name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


FROM: Final = Parameter(name=SINCE, asked=Asked.MOMENT, title="Inclusive; by default 30 days before `to`.")
TO: Final = Parameter(name=UNTIL, asked=Asked.MOMENT, title="Exclusive; by default now.")
PERIOD: Final = (FROM, TO)


class ParameterRefused(ValueError):
    """A parameter is unknown, missing or not of its type. `name` says which."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def read_parameters(report: Report, given: Mapping[str, str], now: datetime) -> dict[str, Value]:
    """The parameters as they apply, defaults filled in. Raises ParameterRefused."""
    unknown = sorted(given.keys() - {parameter.name for parameter in report.parameters})
    if unknown:
        raise ParameterRefused(unknown[0], f"{report.name} takes {', '.join(p.name for p in report.parameters) or 'nothing'}")
    values = {p.name: _read(p, given[p.name]) if p.name in given else p.default for p in report.parameters}
    for parameter in report.parameters:
        if parameter.required and values[parameter.name] is None:
            raise ParameterRefused(parameter.name, "is required")
    if report.one_of and sum(values[name] is not None for name in report.one_of) != 1:
        raise ParameterRefused(report.one_of[0], f"give exactly one of {', '.join(report.one_of)}")
    if SINCE in values:
        values |= _period(values[SINCE], values[UNTIL], now)
    return values


def _period(since: Value, until: Value, now: datetime) -> dict[str, Value]:
    end = until if isinstance(until, datetime) else now
    begin = since if isinstance(since, datetime) else max(end - timedelta(days=PERIOD_DAYS), _EARLIEST)
    if begin >= end:
        raise ParameterRefused(SINCE, "must be before `to`")
    return {SINCE: begin, UNTIL: end}


def read_keys(report: Report, texts: Sequence[str]) -> tuple[str, ...]:
    """The keys of a row as a cursor carries them. Raises ParameterRefused where no row of the report could have them."""
    if len(texts) != len(report.keys) or not all(_is_key(key, text) for key, text in zip(report.keys, texts, strict=True)):
        raise ParameterRefused("cursor", "take it from `next_cursor` as it is")
    return tuple(texts)


def _is_key(key: Key, text: object) -> bool:
    if not isinstance(text, str) or _KEY_SHAPES[key.sql].fullmatch(text) is None:
        return False
    match key.sql:
        case "timestamptz" | "date":
            return _is_iso(text)
        case "integer" | "bigint":
            return abs(int(text)) < _BEYOND[key.sql]
        case _:
            return True


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


_BEYOND: Final = {"integer": 2**31, "bigint": 2**63}
# As Python and Postgres write them, and nothing else that one of the two would read.
_KEY_SHAPES: Final[Mapping[str, re.Pattern[str]]] = {
    "timestamptz": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?\+00:00"),
    "date": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "integer": re.compile(r"-?[0-9]{1,10}"),
    "bigint": re.compile(r"-?[0-9]{1,19}"),
    "boolean": re.compile(r"True|False"),
    "text": re.compile(r"[^\0\ud800-\udfff]*"),
}


_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_ID: Final = {Asked.DECISION: re.compile(r"dec_([0-9a-f]{32})"), Asked.TRANSFORM: re.compile(r"trf_([0-9a-f]{32})")}
_YEARS: Final = range(1970, 9000)
_EARLIEST: Final = datetime(_YEARS.start, 1, 1, tzinfo=UTC)


def _read(parameter: Parameter, text: str) -> Value:
    """Raises ParameterRefused where `text` is not what the parameter takes."""
    name = parameter.name
    match parameter.asked:
        case Asked.MOMENT:
            return _moment(name, text)
        case Asked.DECISION | Asked.TRANSFORM:
            found = _ID[parameter.asked].fullmatch(text)
            return UUID(hex=_fit(found, name, f"the id of a {parameter.asked}")[1])
        case Asked.INTEGER:
            is_fit = _DIGITS.fullmatch(text) is not None and 1 <= int(text) <= parameter.most
            return int(_fit(text if is_fit else None, name, f"a whole number from 1 to {parameter.most}"))
        case Asked.SHA256:
            return _fit(text if _SHA256.fullmatch(text) else None, name, "64 small hex digits")
        case Asked.CHOICE:
            return _fit(text if text in parameter.choices else None, name, f"one of {', '.join(parameter.choices)}")
        case Asked.TEXT:
            is_fit = 0 < len(text) <= parameter.most and text.isprintable()
            return _fit(text if is_fit else None, name, f"1 to {parameter.most} characters")


def _fit(found: _T | None, name: str, what: str) -> _T:
    if found is None:
        raise ParameterRefused(name, what)
    return found


def _moment(name: str, text: str) -> datetime:
    if _MOMENT.fullmatch(text) is None:
        raise ParameterRefused(name, "a time of RFC 3339 with its zone")
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ParameterRefused(name, "a time of RFC 3339 with its zone") from None
    if moment.year not in _YEARS:
        raise ParameterRefused(name, "out of reach")
    return moment


# --- statistics -----------------------------------------------------------------------------------


def wilson(hits: int, trials: int) -> tuple[float, float] | None:
    """The 95 % score interval of a share (Wilson, 1927), or None without a trial. Raises ValueError on impossible counts."""
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} of {trials}")
    if trials == 0:
        return None
    share, z2 = hits / trials, _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # At the ends the interval is closed; floats would leave it a hair outside.
    return (0.0 if hits == 0 else max(0.0, centre - half), 1.0 if hits == trials else min(1.0, centre + half))


def share_with_interval(hits: int, trials: int) -> tuple[float | None, float | None, float | None]:
    """(share, low, high), six places; all None without a trial."""
    interval = wilson(hits, trials)
    if interval is None:
        return None, None, None
    return round(hits / trials, 6), round(interval[0], 6), round(interval[1], 6)


def columns(*given: tuple[str, Kind, str]) -> tuple[Column, ...]:
    """Columns from (name, kind, title)."""
    return tuple(Column(name=name, kind=kind, title=title) for name, kind, title in given)


def names(given: Sequence[Column]) -> list[str]:
    """Their names, in order."""
    return [column.name for column in given]
