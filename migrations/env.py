"""How a migration is run: one at a time, never waiting long for a lock, one transaction each.

With `migrations.upgrade` the connection is handed in. For `alembic revision --autogenerate` and the like it is made from the
owner's URL, given as `alembic -x url=postgresql+psycopg2://...`.
"""

from __future__ import annotations

from typing import Any, Final

from alembic import context
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.pool import NullPool

from moderation.adapters.tables import PARTITIONED, SCHEMA, Xid8, metadata

_UPGRADE_LOCK: Final = 0x66616365676174  # "facegat": any number, as long as it stays the same
ischema_names.setdefault("xid8", Xid8)  # reflection does not know it
_PARTITIONS: Final = tuple(f"{table.name}_2" for table in PARTITIONED)


def _is_ours(found: Any, name: str | None, kind: str, _reflected: bool, _compared_to: object) -> bool:
    """Leave partitions out of comparisons, and the keys that Postgres makes of one key to a partitioned table for each of them."""
    if kind == "foreign_key_constraint":
        return not found.elements[0].target_fullname.startswith(tuple(f"{SCHEMA}.{name}" for name in _PARTITIONS))
    return not (kind == "table" and name is not None and name.startswith(_PARTITIONS))


def _only_our_schema(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "schema" or name == SCHEMA


def _run(connection: Connection) -> None:
    connection.execute(text("SET lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _UPGRADE_LOCK})
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '10min'"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_schemas=True,
            include_name=_only_our_schema,
            include_object=_is_ours,
            version_table_schema=SCHEMA,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        if connection.execute(text("SELECT to_regprocedure('facegate.make_partitions()') IS NOT NULL")).scalar_one():
            connection.execute(text("SELECT facegate.make_partitions()"))
        connection.commit()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _UPGRADE_LOCK})
        connection.execute(text("RESET lock_timeout"))
        connection.execute(text("RESET statement_timeout"))
        connection.commit()


def main() -> None:
    """Run with the connection handed in, or with one made from `-x url=`."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run(connection)
        return
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise SystemExit("say which database: alembic -x url=postgresql+psycopg2://owner@/facegate ...")
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as own:
        _run(own)


main()
