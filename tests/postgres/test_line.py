"""Questions on the event loop: each caller gets the answer to its own, within its tenant, whatever happens to others."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from moderation.adapters.database import Context, Database, Question
from moderation.adapters.line import Line
from moderation.errors import RecordUnavailable
from tests.pg import make_tenant

pytestmark = pytest.mark.postgres

# It names no tenant itself: what it shows is what row-level security lets it see.
VISIBLE = Question(name="visible", types=("text",), statement="SELECT key FROM facegate.idempotency WHERE fingerprint = $1 ORDER BY key")
ECHO = Question(name="echo", types=("text",), statement="SELECT $1, current_setting('facegate.tenant')")
SLEEP = Question(name="sleep", types=("float8",), statement="SELECT pg_sleep($1)")
BROKEN = Question(name="broken", types=("text",), statement="SELECT 1 / length($1)")
UNKNOWN = Question(name="unknown", types=("text",), statement="SELECT no_such_thing, $1")
BACKEND = Question(name="backend", types=("text",), statement="SELECT pg_backend_pid() WHERE $1 <> ''")


@pytest.fixture
def line(database):
    made = Line(database.runtime, statement_s=1.0)
    yield made
    made.close()


@pytest.fixture
def tenants(database):
    """Two, each with one row that `VISIBLE` would show."""
    made = [make_tenant(database.runtime, name) for name in ("one", "two")]
    pool = Database(database.runtime, connections=1)
    insert = text("INSERT INTO facegate.idempotency (tenant, key, fingerprint, resource) VALUES (:t, :k, 'f', :t)")
    for tenant in made:
        asyncio.run(pool.run(Context(tenant=tenant), lambda c, own=tenant: c.execute(insert, {"t": own, "k": f"of {own}"})))
    pool.close()
    return made


def cut_all(postgres_server) -> None:
    postgres_server.administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'facegate'")


def test_a_question_sees_its_own_tenant_only_whatever_was_asked_before(line, tenants):
    async def story():
        return [await line.ask(tenant, VISIBLE, ("f",)) for tenant in (*tenants, uuid7(), *reversed(tenants))]

    one, two = ([(f"of {tenant}",)] for tenant in tenants)
    assert asyncio.run(story()) == [one, two, [], two, one]


def test_many_at_once_each_get_their_own_answer(line):
    asked = [(uuid7(), f"it's {number} \\ %s") for number in range(100)]

    async def story():
        return await asyncio.gather(*(line.ask(tenant, ECHO, (words,)) for tenant, words in asked))

    assert asyncio.run(story()) == [[(words, str(tenant))] for tenant, words in asked]


def test_the_answer_of_a_caller_who_went_away_is_given_to_nobody(line):
    tenant = uuid7()

    async def story():
        await line.ask(tenant, ECHO, ("first",))
        gone = asyncio.create_task(line.ask(tenant, SLEEP, ("0.2",)))
        waiting = asyncio.create_task(line.ask(tenant, ECHO, ("second",)))
        await asyncio.sleep(0.05)  # the first is on its way
        gone.cancel()
        return await waiting, await line.ask(tenant, ECHO, ("third",)), await asyncio.gather(gone, return_exceptions=True)

    second, third, (gone,) = asyncio.run(story())
    assert (second, third) == ([("second", str(tenant))], [("third", str(tenant))])
    assert isinstance(gone, asyncio.CancelledError)


@pytest.mark.parametrize(("question", "values"), [(BROKEN, ("",)), (UNKNOWN, ("x",)), (SLEEP, ("30",))], ids=["fails", "unknown", "hangs"])
def test_a_question_that_fails_is_unavailability_and_the_next_is_answered(line, question, values):
    async def story():
        await line.ask(uuid7(), BACKEND, ("x",))
        with pytest.raises(RecordUnavailable):
            await line.ask(uuid7(), question, values)
        return await line.ask(uuid7(), BROKEN, ("a",))

    started = time.monotonic()
    assert asyncio.run(story()) == [(1,)]
    assert time.monotonic() - started < 2.5  # a hanging one was given up after its second, and not asked again


def test_a_question_that_is_put_wrongly_spoils_nothing(line):
    async def story():
        with pytest.raises((TypeError, IndexError)):
            await line.ask(uuid7(), ECHO, ())
        return await line.ask(uuid7(), BROKEN, ("a",))

    assert asyncio.run(story()) == [(1,)]


def test_a_connection_cut_by_a_restart_is_replaced_unnoticed(line, postgres_server):
    async def story():
        before = await line.ask(uuid7(), BACKEND, ("x",))
        await asyncio.to_thread(cut_all, postgres_server)
        answers = await asyncio.gather(*(line.ask(uuid7(), BACKEND, ("x",)) for _ in range(8)))
        return before, answers

    before, answers = asyncio.run(story())
    assert len({pid for [(pid,)] in answers}) == 1
    assert before not in answers


def test_every_event_loop_has_its_own_connection_and_that_of_an_ended_one_is_closed(line, database):
    count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'facegate' AND pid <> pg_backend_pid()")
    pids = [asyncio.run(line.ask(uuid7(), BACKEND, ("x",)))[0][0] for _ in range(3)]
    assert len(set(pids)) == 3
    pool = Database(database.runtime, connections=1)
    deadline = time.monotonic() + 5
    while asyncio.run(pool.run(Context(), lambda connection: connection.execute(count).scalar_one())) > 1:
        assert time.monotonic() < deadline  # Postgres notices a closed socket in its own time
    pool.close()


def test_a_server_that_is_away_is_unavailable_at_once_and_no_password_is_told():
    line = Line("postgresql://nobody:secret@127.0.0.1:9/none", statement_s=1.0)
    started = time.monotonic()
    with pytest.raises(RecordUnavailable) as unavailable:
        asyncio.run(line.ask(uuid7(), ECHO, ("a",)))
    assert time.monotonic() - started < 2
    assert "secret" not in str(unavailable.value)


def test_a_frozen_server_keeps_nobody_longer_than_they_wait_and_is_asked_again(line):
    async def impatient(words):
        async with asyncio.timeout(0.5):
            return await line.ask(uuid7(), ECHO, (words,))

    async def story():
        ((pid,),) = await line.ask(uuid7(), BACKEND, ("x",))
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            frozen = await asyncio.gather(*(impatient("x") for _ in range(5)), return_exceptions=True)
            waited = time.monotonic() - started
        finally:
            os.kill(pid, signal.SIGCONT)
        return frozen, waited, await impatient("again")

    frozen, waited, again = asyncio.run(story())
    assert isinstance(frozen[0], TimeoutError)
    assert waited < 2
    assert again[0][0] == "again"
