from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from moderation.adapters.database import Context, Database, Question
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


# What the question would show if the tenant of another one, or of none, were left over: it names no tenant itself.
VISIBLE = Question(name="visible", types=("text",), statement="SELECT key FROM facegate.idempotency WHERE fingerprint = $1 ORDER BY key")


def test_a_question_sees_its_own_tenant_only_whatever_was_asked_before_on_the_connection(database):
    single = Database(database.runtime, connections=1)
    tenants = [make_tenant(database.runtime, name) for name in ("one", "two")]
    insert = "INSERT INTO facegate.idempotency (tenant, key, fingerprint, resource) VALUES (:t, :k, 'f', :t) RETURNING key"
    for tenant in tenants:
        run(single, Context(tenant=tenant), insert, t=tenant, k=f"of {tenant}")

    async def story():
        asked = [await single.ask(tenant, VISIBLE, ("f",)) for tenant in (*tenants, *reversed(tenants))]
        return (
            asked,
            await single.ask(uuid7(), VISIBLE, ("f",)),
            await single.run(Context(), see_all),
            await single.ask(tenants[0], VISIBLE, ("f",)),
        )

    def see_all(connection):
        return connection.execute(text("SELECT key FROM facegate.idempotency")).all()

    one, two = ([(f"of {tenant}",)] for tenant in tenants)
    assert asyncio.run(story()) == ([one, two, two, one], [], [], one)
    single.close()


def test_a_question_leaves_no_trace_and_no_open_transaction(database):
    single = Database(database.runtime, connections=1)

    async def story():
        await single.ask(uuid7(), VISIBLE, ("f",))
        return await single.run(Context(), lambda connection: connection.execute(WHO).one()[0])

    assert asyncio.run(story()) == ""
    with pytest.raises((TypeError, IndexError)):
        asyncio.run(single.ask(uuid7(), VISIBLE, ()))
    tenant = uuid7()
    assert run(single, Context(tenant=tenant), WHO.text)[0][0] == str(tenant)  # a transaction, in which the tenant holds
    single.close()


def test_a_question_that_fails_is_unavailability_and_the_next_is_answered(pool, database):
    tenant = make_tenant(database.runtime)
    broken = Question(name="broken", types=("text",), statement="SELECT 1 / length($1)")
    unknown = Question(name="unknown", types=("text",), statement="SELECT no_such_thing, $1")
    for question, values in ((broken, ("",)), (unknown, ("x",))):
        with pytest.raises(RecordUnavailable):
            asyncio.run(pool.ask(tenant, question, values))
    assert asyncio.run(pool.ask(tenant, broken, ("a",))) == [(1,)]


def test_a_question_on_connections_cut_by_a_restart_is_answered_all_the_same(pool, postgres_server):
    async def story():
        await asyncio.gather(*(pool.run(Context(), lambda connection: connection.execute(text("SELECT pg_sleep(0.05)"))) for _ in range(2)))
        postgres_server.administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'facegate'")
        return await asyncio.gather(*(pool.ask(uuid7(), VISIBLE, ("f",)) for _ in range(8)))

    assert asyncio.run(story()) == [[]] * 8


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
    with pytest.raises(RecordUnavailable):
        asyncio.run(pool.ask(uuid7(), VISIBLE, ("f",)))
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
