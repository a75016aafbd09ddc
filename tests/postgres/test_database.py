from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from moderation.adapters.database import Context, Database
from moderation.errors import RecordUnavailable
from tests.pg import make_tenant

pytestmark = pytest.mark.postgres
WHO = text(
    "SELECT current_setting('facegate.tenant', true), current_setting('facegate.key_id', true), current_setting('facegate.worker', true)"
)


@pytest.fixture
def pool(database):
    made = Database(database.runtime, connections=2, statement_s=1.0)
    yield made
    made.close()


def run(pool, context, statement, **parameters):
    return asyncio.run(pool.run(context, lambda connection: connection.execute(text(statement), parameters).all()))


def test_each_transaction_says_for_whom_and_leaves_no_trace(pool, database):
    tenant = make_tenant(database.runtime)

    def who(connection):
        return tuple(connection.execute(WHO).one())

    async def story():
        return [await pool.run(context, who) for context in (Context(tenant=tenant), Context(key_id="k"), Context(worker=True), Context())]

    assert asyncio.run(story()) == [(str(tenant), "", ""), ("", "k", ""), ("", "", "on"), ("", "", "")]


def test_work_that_raises_leaves_nothing(pool, database):
    tenant = make_tenant(database.runtime)

    def half(connection):
        connection.execute(
            text("INSERT INTO facegate.idempotency (tenant, key, fingerprint, resource) VALUES (:t, 'k', 'f', :t)"), {"t": tenant}
        )
        raise LookupError("second thoughts")

    with pytest.raises(LookupError):
        asyncio.run(pool.run(Context(tenant=tenant), half))
    assert run(pool, Context(tenant=tenant), "SELECT * FROM facegate.idempotency") == []


def test_a_conflict_is_an_answer_and_every_other_fault_is_unavailability(pool, database):
    tenant = make_tenant(database.runtime)
    with pytest.raises(IntegrityError):
        run(pool, Context(tenant=tenant), "INSERT INTO facegate.tenant (id, name) VALUES (:t, 'again')", t=tenant)
    for statement in (
        "SELECT no_such_thing",
        "DELETE FROM facegate.decision",
        "SELECT 1/0",
        "INSERT INTO facegate.tenant VALUES (:t, 'x')",
    ):
        with pytest.raises(RecordUnavailable):
            run(pool, Context(), statement, **({"t": tenant} if ":t" in statement else {}))


def test_a_statement_that_hangs_is_given_up(pool):
    started = time.monotonic()
    with pytest.raises(RecordUnavailable):
        run(pool, Context(), "SELECT pg_sleep(30)")
    assert time.monotonic() - started < 5


def test_connections_cut_by_a_restart_are_replaced_unnoticed(pool, postgres_server):
    async def story():
        await asyncio.gather(*(pool.run(Context(), lambda connection: connection.execute(text("SELECT pg_sleep(0.05)"))) for _ in range(2)))
        postgres_server.administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'facegate'")
        await asyncio.gather(*(pool.ping() for _ in range(8)))

    asyncio.run(story())


def test_a_server_that_is_away_is_unavailable_at_once():
    pool = Database("postgresql://nobody:secret@127.0.0.1:9/none", connections=1)
    started = time.monotonic()
    with pytest.raises(RecordUnavailable) as unavailable:
        asyncio.run(pool.ping())
    pool.close()
    assert time.monotonic() - started < 5
    assert "secret" not in str(unavailable.value)


def test_a_server_that_is_frozen_is_unavailable_in_time(database):
    pool = Database(database.runtime, connections=2, statement_s=0.5)
    pids = []

    def pid(connection):
        pids.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    async def story():
        await pool.run(Context(), pid)
        os.kill(pids[0], signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(RecordUnavailable, match="in time"):
                await pool.ping()
        finally:
            os.kill(pids[0], signal.SIGCONT)
        return time.monotonic() - started

    assert asyncio.run(story()) < 6
    asyncio.run(pool.ping())
    pool.close()
