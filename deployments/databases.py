"""Which database the command line works on: the configured one, the running embedded one, or the embedded one started for the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import migrations
from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from deployments.settings import SettingsRefused
from moderation.adapters.clock import utc_now
from moderation.adapters.database import faults_translated, make_engine
from moderation.adapters.months import Dropped, drop_months

if TYPE_CHECKING:
    from deployments.settings import Settings

MIGRATION_S = 600.0
"""A migration may take longer than a request, in seconds for one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """Where the schema is, and where this code wants it."""

    current: str | None
    newest: str

    @property
    def is_current(self) -> bool:
        """Whether nothing is left to upgrade."""
        return self.current == self.newest


@contextmanager
def databases(settings: Settings) -> Iterator[DatabaseUrls]:
    """The URLs of the three roles; an embedded Postgres that had to be started is stopped again.

    With a configured database, roles that have no URL of their own are empty. Raises EmbeddedPostgresError.
    """
    if settings.database_url is not None:
        owner, sealer = settings.owner_database_url, settings.sealer_database_url
        yield DatabaseUrls(
            owner=owner.get_secret_value() if owner else "",
            runtime=settings.database_url.get_secret_value(),
            sealer=sealer.get_secret_value() if sealer else "",
        )
        return
    embedded = EmbeddedPostgres(settings.home)
    running = embedded.running_urls()
    if running is not None:
        yield running
        return
    try:
        yield embedded.start()
    finally:
        embedded.stop()


def upgrade_schema(owner_url: str) -> SchemaState:
    """Bring the schema to the newest step and make partitions ahead. Raises SettingsRefused without the owner's URL."""
    if not owner_url:
        raise SettingsRefused("set FACEGATE_OWNER_DATABASE_URL: only the owner of the schema may upgrade it")
    engine = make_engine(owner_url, connections=1, statement_s=MIGRATION_S)
    try:
        with faults_translated(), engine.connect() as connection:
            migrations.upgrade(connection)
    finally:
        engine.dispose()
    return schema_state(owner_url)


def schema_state(url: str) -> SchemaState:
    """Where the schema is. Raises RecordUnavailable."""
    engine = make_engine(url, connections=1)
    try:
        with faults_translated(), engine.connect() as connection:
            return SchemaState(current=migrations.current(connection), newest=migrations.newest())
    finally:
        engine.dispose()


def drop_months_before(owner_url: str, month: str, *, actor: str = "operator") -> list[Dropped]:
    """Drop the months before `month` (YYYY-MM). Raises SettingsRefused without the owner's URL or for what is no month, MonthsRefused."""
    if not owner_url:
        raise SettingsRefused("set FACEGATE_OWNER_DATABASE_URL: only the owner of the schema may drop months")
    try:
        before = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        raise SettingsRefused(f"write the month as YYYY-MM, not {month!r}") from None
    engine = make_engine(owner_url, connections=1, statement_s=MIGRATION_S)
    try:
        with faults_translated(), engine.begin() as connection:
            return drop_months(connection, before=before, actor=actor, at=utc_now())
    finally:
        engine.dispose()
