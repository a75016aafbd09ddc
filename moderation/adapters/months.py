"""Old months of the record are dropped: by the owner, sealed first, with what must stay, and written down.

Run as the owner of the schema, in one transaction that stops everybody else for as long as it takes; its steps:

1. Refuse a month that is not over, that holds an entry which no signed checkpoint covers or which is not what was sealed, work that has
   not ended, or a release whose bytes were not purged.
2. Find what stays: what holds cover; what rows of later months and of tables without months name (late reviews, approved faces);
   decisions whose appeal is open; entries about keys, policies, holds, erasures and the log itself.
3. Take each month's partition out, copy what stays into a new one in its place, and drop it. The keys between the tables are taken away
   before and put back after, which checks every one of them again.
4. Write down what was dropped: rows of `month_purge` and one entry for each tenant.

Leaf hashes are not part of any month, so every proof about what stays, and about the log as a whole, is as valid as before. What people
said of bytes (`media_review`) has no month either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Table, insert, text
from uuid_utils.compat import uuid7

from moderation.adapters.entries import new_nonce, write_entry
from moderation.adapters.tables import PARTITIONED, SCHEMA, month_purge
from moderation.audit import months_entry
from moderation.canonical import Json
from moderation.errors import ModerationError


class MonthsRefused(ModerationError):  # a fact about the months
    """These months cannot be dropped now; the text is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What became of one table's rows of one month, of one tenant. The ids are those of the month that are gone."""

    tenant: UUID
    month: date
    relation: str
    dropped: int
    kept: int
    first: UUID
    last: UUID


def drop_months(connection: Connection, *, before: date, actor: str, at: datetime) -> list[Dropped]:
    """Drop all months before that of `before` and say what that was; in the transaction of `connection`, which is the owner's.

    Raises MonthsRefused, and then nothing is changed; whatever Postgres raises undoes everything too.
    """
    _take(connection)
    bound = connection.execute(_BOUND, {"before": before}).scalar_one()
    _refuse(connection, before, bound)
    months = _months(connection, before)
    _find_what_stays(connection, bound)
    keys = _without_keys(connection)
    found = [dropped for table in PARTITIONED for month in months for dropped in _drop(connection, table, month)]
    for name in _UNDATED:
        _clear_undated(connection, name, bound)
    for relation, name, definition in keys:
        connection.execute(text(f'ALTER TABLE {relation} ADD CONSTRAINT "{name}" {definition}'))
    _write_down(connection, found, actor, at)
    for name in _forced(connection, is_forced=False):
        connection.execute(text(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"))
    return found


# --- 1. refuse --------------------------------------------------------------------------------------

_BOUND: Final = text("SELECT facegate.uuid_floor(CAST(:before AS date)::timestamp AT TIME ZONE 'UTC')")
_LATEST: Final = text("SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')::date")
_NAMED: Final = 5
"""So many of what is in the way are named."""
_OPEN: Final[Mapping[str, str]] = {
    "entries that no signed checkpoint covers": """
        SELECT e.id FROM facegate.entry e WHERE e.id < :bound AND NOT EXISTS (
            SELECT FROM facegate.leaf l JOIN facegate.seal s ON s.log = l.log AND s.size > l.index WHERE l.entry = e.id)""",
    "entries that are not what was sealed": """
        SELECT e.id FROM facegate.entry e WHERE e.id < :bound AND NOT EXISTS (
            SELECT FROM facegate.leaf l WHERE l.entry = e.id AND l.hash = e.leaf)""",
    "transforms that have not ended": """
        SELECT t.id FROM facegate.transform t WHERE t.id < :bound AND NOT EXISTS (
            SELECT FROM facegate.transform_event e WHERE e.tenant = t.tenant AND e.transform = t.id
                AND e.state IN ('released', 'denied', 'failed', 'cancelled'))""",
    "releases whose files were not purged": """
        SELECT r.transform FROM facegate.release r WHERE r.transform < :bound
            AND NOT EXISTS (SELECT FROM facegate.release_purge p WHERE p.tenant = r.tenant AND p.transform = r.transform)""",
}


def _take(connection: Connection) -> None:
    """Everything for us alone, and all tenants at once: nobody sees the tables without their row-level security."""
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    names = _forced(connection, is_forced=True)
    connection.execute(text(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE"))
    for name in names:
        connection.execute(text(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY"))


def _forced(connection: Connection, *, is_forced: bool) -> list[str]:
    """Tables, but for partitions, with row-level security that is forced on their owner, or with one that is not."""
    wanted = text("""
        SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition AND relrowsecurity AND relforcerowsecurity = :is_forced ORDER BY 1""")
    return list(connection.execute(wanted, {"is_forced": is_forced}).scalars())


def _refuse(connection: Connection, before: date, bound: UUID) -> None:
    latest = connection.execute(_LATEST).scalar_one()
    if before.day != 1 or before > latest:
        raise MonthsRefused(f"months before {latest:%Y-%m} can be dropped, later ones are still written to")
    for what, statement in _OPEN.items():
        found = text(f"SELECT count(*), (array_agg(id::text ORDER BY id))[1:{_NAMED}] FROM ({statement}) AS open (id)")  # noqa: S608  # ours
        count, first = connection.execute(found, {"bound": bound}).one()
        if count:
            names = ", ".join(first) + (", …" if count > len(first) else "")
            raise MonthsRefused(f"before {before:%Y-%m} there are {count} {what}: {names}")


# --- 2. what stays ----------------------------------------------------------------------------------

_UNDATED: Final = ("transform_cancel", "release_withdrawal", "transform_progress")
"""Tables without months whose rows go with their transform."""

_ABOUT_THE_REST: Final = (
    *("source", "source_event", "hold", "hold_release", "erasure", "month_purge"),
    *("policy_event", "api_key_event"),
)
"""Tables that have no months, and whose entries and texts therefore stay."""

_STAYS: Final = (
    # decisions that later months and tables without months name, and those whose appeal is open
    "SELECT decision FROM facegate.source",
    "SELECT decision FROM facegate.review WHERE id >= :bound",
    "SELECT decision FROM facegate.review_view WHERE id >= :bound",
    "SELECT decision FROM facegate.appeal WHERE id >= :bound",
    "SELECT unnest(ARRAY[source_decision, target_decision, output_decision]) FROM facegate.release WHERE transform >= :bound",
    """SELECT a.decision FROM facegate.appeal a WHERE NOT EXISTS (
        SELECT FROM facegate.review r WHERE r.tenant = a.tenant AND r.decision = a.decision AND r.recorded_at > a.recorded_at)""",
    """SELECT r.decision FROM facegate.review r JOIN facegate.release_withdrawal w ON w.tenant = r.tenant AND w.review = r.id
        WHERE w.transform >= :bound""",
    # what is about nothing that has a month
    *(f"SELECT id FROM facegate.{name}" for name in _ABOUT_THE_REST),  # noqa: S608  # names of ours
    *(f"SELECT entry FROM facegate.{name}" for name in ("log", "seal_key", "receipt_key")),  # noqa: S608  # names of ours
)
_HELD: Final = "INSERT INTO stays SELECT h.id FROM facegate.held() h ON CONFLICT DO NOTHING"


def _find_what_stays(connection: Connection, bound: UUID) -> None:
    """Into a table of this transaction: ids of whatever stays."""
    connection.execute(text("CREATE TEMPORARY TABLE stays (id uuid PRIMARY KEY) ON COMMIT DROP"))
    for tenant in list(connection.execute(text("SELECT DISTINCT tenant FROM facegate.hold")).scalars()):
        connection.execute(_SET_TENANT, {"tenant": str(tenant)})
        connection.execute(text(_HELD))
    for statement in _STAYS:
        _keep(connection, statement, bound)
    for table in PARTITIONED:  # what goes with these: the ids by which entries and texts are found
        if "id" in table.c and _key_of(table) != "id":
            _keep(connection, f"SELECT id FROM {SCHEMA}.{table.name} WHERE {_key_of(table)} IN (SELECT id FROM stays)", bound)  # noqa: S608
    _keep(connection, "SELECT id FROM facegate.release_withdrawal WHERE transform IN (SELECT id FROM stays)", bound)


def _keep(connection: Connection, statement: str, bound: UUID) -> None:
    wanted = f"INSERT INTO stays SELECT id FROM ({statement}) AS found (id) WHERE id IS NOT NULL ON CONFLICT DO NOTHING"  # noqa: S608
    connection.execute(text(wanted), {"bound": bound} if ":bound" in statement else {})


def _key_of(table: Table) -> str:
    """By which column it is known whether a row stays: the transform or decision that it belongs to, or itself."""
    if "transform" in table.primary_key.columns:
        return "transform"
    return "decision" if "decision" in table.c else "id"


# --- 3. drop ----------------------------------------------------------------------------------------

_SET_TENANT: Final = text("SELECT set_config('facegate.tenant', :tenant, true)")


def _months(connection: Connection, before: date) -> list[date]:
    """The first days of the months before that have a partition of any table."""
    names = connection.execute(
        text("SELECT relname FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relispartition")
    ).scalars()
    found = {date(int(name[-7:-3]), int(name[-2:]), 1) for name in names if name[-8] == "_" and name[-7:-3].isdigit()}
    return sorted(month for month in found if month < before)


def _without_keys(connection: Connection) -> list[tuple[str, str, str]]:
    """Take away all foreign keys that lead to tables with months; (table, name, definition) of each, to put them back."""
    wanted = text("""
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'facegate'::regnamespace
            AND confrelid IN (SELECT oid FROM pg_class WHERE relkind = 'p') ORDER BY 1, 2""")
    keys = [(relation, name, definition) for relation, name, definition in connection.execute(wanted)]
    for relation, name, _ in keys:
        connection.execute(text(f'ALTER TABLE {relation} DROP CONSTRAINT "{name}"'))
    return keys


def _drop(connection: Connection, table: Table, month: date) -> list[Dropped]:
    """One month of one table: taken out, what stays copied into a new one in its place, and dropped."""
    parent, child = f"{SCHEMA}.{table.name}", f"{SCHEMA}.{table.name}_{month:%Y_%m}"
    if connection.execute(text("SELECT to_regclass(:child) IS NULL"), {"child": child}).scalar_one():
        return []
    connection.execute(text(f"ALTER TABLE {parent} DETACH PARTITION {child}"))
    connection.execute(text(f"ALTER TABLE {child} NO FORCE ROW LEVEL SECURITY"))
    old = f"{table.name}_dropped"
    connection.execute(text(f"ALTER TABLE {child} RENAME TO {old}"))
    key = _key_of(table)
    counted = connection.execute(text(_COUNTED.format(old=f"{SCHEMA}.{old}", key=key, month_of=_month_of(table)))).all()
    if any(row.kept for row in counted):
        connection.execute(text("SELECT facegate.make_partition(:parent, :month)"), {"parent": table.name, "month": month})
        columns = ", ".join(f'"{column.name}"' for column in table.columns if column.computed is None)
        copied = f"INSERT INTO {parent} ({columns}) SELECT {columns} FROM {SCHEMA}.{old} WHERE {key} IN (SELECT id FROM stays)"  # noqa: S608
        connection.execute(text(copied))
    connection.execute(text(f"DROP TABLE {SCHEMA}.{old}"))
    return [
        Dropped(tenant=row.tenant, month=month, relation=table.name, dropped=row.dropped, kept=row.kept, first=row.first, last=row.last)
        for row in counted
        if row.dropped
    ]


_COUNTED: Final = """
SELECT tenant, count(*) FILTER (WHERE NOT stays) AS dropped, count(*) FILTER (WHERE stays) AS kept,
    (min(about::text) FILTER (WHERE NOT stays))::uuid AS first, (max(about::text) FILTER (WHERE NOT stays))::uuid AS last
FROM (SELECT tenant, {month_of} AS about, {key} IN (SELECT id FROM stays) AS stays FROM {old}) rows
GROUP BY tenant ORDER BY tenant
"""


def _month_of(table: Table) -> str:
    """The column by which a table is cut into months."""
    return "transform" if "transform" in table.primary_key.columns else "id"


def _clear_undated(connection: Connection, name: str, bound: UUID) -> None:
    """Remove rows about transforms that are gone."""
    is_append_only = connection.execute(_IS_APPEND_ONLY, {"name": f"{SCHEMA}.{name}"}).scalar_one()
    if is_append_only:
        connection.execute(text(f"ALTER TABLE {SCHEMA}.{name} DISABLE TRIGGER append_only"))
    gone = f"DELETE FROM {SCHEMA}.{name} WHERE transform < :bound AND transform NOT IN (SELECT id FROM stays)"  # noqa: S608  # names of ours
    connection.execute(text(gone), {"bound": bound})
    if is_append_only:
        connection.execute(text(f"ALTER TABLE {SCHEMA}.{name} ENABLE TRIGGER append_only"))


_IS_APPEND_ONLY: Final = text("SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = CAST(:name AS regclass) AND tgname = 'append_only')")


# --- 4. write down ----------------------------------------------------------------------------------


def _write_down(connection: Connection, found: Iterable[Dropped], actor: str, at: datetime) -> None:
    by_tenant: dict[UUID, list[Dropped]] = defaultdict(list)
    for dropped in found:
        by_tenant[dropped.tenant].append(dropped)
    for tenant, rows in by_tenant.items():
        id: UUID = uuid7()
        connection.execute(_SET_TENANT, {"tenant": str(tenant)})
        connection.execute(insert(month_purge), [_row(id, one, actor, at) for one in rows])
        canonical = months_entry(id=id, tenant=tenant, actor=actor, at=at, nonce=new_nonce(), months=_documents(rows))
        write_entry(connection, id=id, tenant=tenant, kind="purge", canonical=canonical)
    connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))  # that each has its entry, while all tenants can be seen


def _row(id: UUID, one: Dropped, actor: str, at: datetime) -> dict[str, Any]:
    return {
        "id": id,
        "tenant": one.tenant,
        "month": one.month,
        "relation": one.relation,
        "dropped": one.dropped,
        "kept": one.kept,
        "first_id": one.first,
        "last_id": one.last,
        "actor": actor,
        "at": at,
    }


def _documents(rows: Iterable[Dropped]) -> list[Json]:
    return [
        {
            "month": f"{one.month:%Y-%m}",
            "table": one.relation,
            "dropped": one.dropped,
            "kept": one.kept,
            "first": str(one.first),
            "last": str(one.last),
        }
        for one in rows
    ]
