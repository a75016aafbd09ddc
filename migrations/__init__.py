"""The schema of the record, step by step, and the functions that take those steps.

Run as the owner of the schema: `facegate db upgrade`. Two roles must exist before, as logins of their own or as groups of
which the logins are members: `facegate_runtime` and `facegate_sealer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from moderation.adapters.tables import SCHEMA

FOLDER: Final = Path(__file__).parent


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest step, and make partitions ahead. Harmless when there is nothing to do.

    `connection` belongs to the owner and is not in a transaction. Waits a minute at most for another upgrade to finish.
    Raises sqlalchemy.exc.DBAPIError; steps that were finished before stay.
    """
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def current(connection: Connection) -> str | None:
    """The step the database is at, or None where there is none yet."""
    return MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_revision()


def newest() -> str:
    """The step this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise LookupError("there are no migrations in this installation")
    return head


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
