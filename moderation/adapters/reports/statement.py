"""A report with the statement that answers it, and what statements have in common.

A statement gives one row for each row of the report, with a column for each of its columns and keys, within the tenant
`:tenant`. The period is `:since` (inclusive) to `:until`; `:least` and `:beyond` are the ids between which everything of the
period lies, so that only its months are looked into. `:first` and `:last` are the ids of the period by the time that is in them, `:piece_0` to `:piece_12` those of
its `PIECES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import Connection

from moderation.reports import Kind, ParameterRefused, Report

Row: TypeAlias = tuple[Any, ...]
"""The values of the report's columns, then those of its keys."""

Shape: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""What becomes of a row of the statement by columns and keys."""

Fold: TypeAlias = Callable[[Connection, Mapping[str, Any]], Iterator[Sequence[Row]]]
"""Rows in batches, made of many rows of the record each, in the order of the keys; given the parameters of statements."""

Refusal: TypeAlias = Callable[[Connection, Mapping[str, Any]], ParameterRefused | None]
"""Why there is nothing to answer for a tenant with these parameters; None where there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """How a report is answered: by the rows of `sql` and of all of `also`, each finished by `shape`; or by `fold` alone.

    `also` have the same columns. A page is made of the first rows of each, for which an index that has their order is enough.
    """

    report: Report
    sql: str = ""
    also: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    """Statements before it, each of one row whose columns are parameters of what follows: constants help to leave months out."""
    shape: Shape | None = None
    fold: Fold | None = None
    totals: Mapping[str, str] = field(default_factory=dict)
    """The report's totals as expressions over all rows, where these are made before the first one is known: a first page and its totals are then
    told from the same rows."""
    sums: str = ""
    """A statement of one row with the report's totals, where it takes less than all rows of the report do."""
    refusal: Refusal | None = None
    often: bool = False
    """Whether each connection prepares it: planning over many tables of many months costs several times what the answer does. It is about few
    rows, and so reads no table from end to end, whatever Postgres knew of it when it was planned."""
    merging: bool = False
    """Whether millions of rows are joined of which next to none remain: out of indexes in their order, by several processes. Postgres would expect
    many to remain."""
    probing: bool = False
    """Whether `sums` look something up for each of few rows, out of indexes of many months. Postgres would expect more rows, and read all months."""
    scan: bool = False
    """Whether the rows are few and all made before the first one is known: then they are taken at once, and Postgres may count them in
    several processes, which it does not behind a cursor."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Its statements."""
        return (self.sql, *self.also)


SLACK_BEFORE: Final = timedelta(days=31)
SLACK_AFTER: Final = timedelta(days=1)
"""How far a time may lie from the time in its row's id; constraints of the tables hold it."""


PIECES: Final = 12
"""Into how many pieces a period is cut that several processes are to share. They take one after the other, so that none ends long after the others."""


def uuid_floor(moment: datetime) -> UUID:
    """The least UUIDv7 of a moment."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def in_period(alias: str, at: str = "created_at") -> str:
    """That a row of a table with an id is of the tenant and the period."""
    return (
        f"{alias}.tenant = :tenant AND {alias}.{at} >= :since AND {alias}.{at} < :until AND {alias}.id >= :least AND {alias}.id < :beyond"
    )


def of_period(alias: str) -> str:
    """That a row is of the tenant, and of the period by the time in its id."""
    return f"{alias}.tenant = :tenant AND {alias}.id >= :first AND {alias}.id < :last"


def wire(prefix: str, column: str) -> str:
    """An id as callers know it."""
    return f"'{prefix}_' || replace({column}::text, '-', '')"


CONSENTS: Final = (
    ("consent", Kind.TEXT, "On what grounds the source's face was used, as its caller stated; null where nothing was stated"),
    ("target_consent", Kind.TEXT, "The same of the target's face"),
)
"""Columns of every report that has a column `transform`. What was stated beside the basis is personal, and in none of them."""


def consents_of(transform: str) -> str:
    """Their values; null where there is no transform. Looked up for the rows that are given only."""
    return ", ".join(
        f"(SELECT t.{name}_basis FROM facegate.transform t WHERE t.tenant = :tenant AND t.id = {transform}) AS {name}"  # noqa: S608  # ours
        for name, _, _ in CONSENTS
    )


LATEST_REVIEW: Final = """
LEFT JOIN LATERAL (
    SELECT r.id, r.verdict, r.at FROM facegate.review r WHERE r.tenant = d.tenant AND r.decision = d.id
    ORDER BY r.recorded_at DESC, r.id DESC LIMIT 1
) latest ON true
"""
"""What a person has said last about decision `d`."""


def find_decisions(rows: str) -> str:
    """A first statement: `oldest` and `newest`, the ids between which the decisions lie that `rows` are about."""
    return f"""
    SELECT coalesce(min(r.decision::text COLLATE "C"), 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS oldest,
           coalesce(max(r.decision::text COLLATE "C"), '00000000-0000-0000-0000-000000000000') AS newest
    FROM ({rows}) r"""  # noqa: S608  # ours


WITHIN: Final = "SELECT CAST(:least AS text) AS oldest, CAST(:beyond AS text) AS newest"
"""The same for decisions of the period."""

# Most of what people look at was not allowed, and of that one index has what is asked of it (`decision_verdict_idx`): it is read from end
# to end rather than a page of the table for each; only what was allowed is looked up by its id.
DECISION: Final = """
LEFT JOIN facegate.decision o ON o.tenant = :tenant AND o.id = s.decision AND o.verdict <> 'allow' AND o.id BETWEEN :oldest AND :newest
CROSS JOIN LATERAL (
    SELECT o.id, o.stage, o.verdict, o.automated, o.created_at, o.actor, o.policy_name, o.categories WHERE o.id IS NOT NULL
    UNION ALL
    SELECT a.id, a.stage, a.verdict, a.automated, a.created_at, a.actor, a.policy_name, a.categories
    FROM facegate.decision a WHERE o.id IS NULL AND a.tenant = :tenant AND a.id = s.decision AND a.id BETWEEN :oldest AND :newest
) d
"""
"""The decision `d` that `s` is about, after `find_decisions`."""
