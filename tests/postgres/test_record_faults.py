"""Postgres dies, stalls, or loses its answer: nothing acknowledged is lost, nobody waits long, and it recovers by itself."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.engine import make_url
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from moderation.adapters.postgres import PostgresRecord
from moderation.decision import Decision
from moderation.errors import RecordUnavailable
from moderation.ports import DecisionFilter
from tests.builders import make_decision
from tests.pg import as_role, memory, migrate

pytestmark = pytest.mark.postgres

TENANTS = [uuid7() for _ in range(3)]


def new_decision(tenant: UUID = TENANTS[0]) -> Decision:
    return make_decision(id=uuid7(), tenant=tenant, created_at=datetime.now(UTC))


@pytest.fixture(scope="module")
def own_server() -> Iterator[tuple[EmbeddedPostgres, DatabaseUrls]]:
    """A server with default durability that a test may kill."""
    home = Path(tempfile.mkdtemp(prefix="facegate-test-", dir=memory()))
    postgres = EmbeddedPostgres(home)
    try:
        urls = postgres.start()
        migrate(urls.owner)
        yield postgres, urls
    finally:
        postgres.stop()
        shutil.rmtree(home)


@contextmanager
def recording(url: str, **options) -> Iterator[PostgresRecord]:
    record = PostgresRecord(url, **options)
    try:
        yield record
    finally:
        record.close()


async def outcome_of(work) -> tuple[object, float]:
    """What it returned or raised, and how long that took."""
    begun = time.monotonic()
    try:
        result = await work
    except RecordUnavailable as fault:
        result = fault
    return result, time.monotonic() - begun


async def until_it_works(record: PostgresRecord, decision: Decision, patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            await record.append(decision)
        except RecordUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            return


def kill_hard(postgres: EmbeddedPostgres) -> None:
    """Kill -9 of the postmaster and of all its children at once: as near to a power cut as processes get."""
    pid = postgres.pid
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for victim in (pid, *map(int, children)):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    while postgres.pid is not None:
        time.sleep(0.01)


def test_nothing_acknowledged_is_lost_when_postgres_is_killed_under_load(own_server):
    postgres, urls = own_server

    async def load(record: PostgresRecord) -> tuple[list[Decision], int]:
        acknowledged: list[Decision] = []
        refused, stop, progress = 0, False, asyncio.Event()

        async def caller(number: int) -> None:
            nonlocal refused
            while not stop:
                decision = new_decision(TENANTS[number % 3])
                try:
                    await record.append(decision)
                except RecordUnavailable:
                    refused += 1
                    await asyncio.sleep(0.02)
                else:
                    acknowledged.append(decision)
                    progress.set()

        async def killer() -> None:
            nonlocal stop
            for _ in range(2):
                await asyncio.sleep(0.4)
                await asyncio.to_thread(kill_hard, postgres)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(postgres.start)
                progress.clear()
                await until_it_works(record, new_decision())
                await asyncio.wait_for(progress.wait(), 10)
            await asyncio.sleep(0.3)
            stop = True

        await asyncio.gather(killer(), *(caller(number) for number in range(40)))
        return acknowledged, refused

    with recording(urls.runtime) as record:
        acknowledged, refused = asyncio.run(load(record))
    assert refused > 0
    assert len(acknowledged) > 100
    for tenant in TENANTS:
        with as_role(urls.runtime, tenant=tenant) as cursor:
            cursor.execute("SELECT d.id::text FROM facegate.decision d JOIN facegate.entry e USING (tenant, id)")
            both = {found for (found,) in cursor.fetchall()}
            cursor.execute("SELECT (SELECT count(*) FROM facegate.decision), (SELECT count(*) FROM facegate.entry)")
            assert cursor.fetchone() == (len(both), len(both))
        assert {str(decision.id) for decision in acknowledged if decision.tenant == tenant} <= both


def test_without_postgres_everybody_is_told_at_once_and_it_works_again_when_postgres_returns(own_server):
    postgres, urls = own_server

    async def scenario(record: PostgresRecord) -> None:
        before = new_decision()
        await record.append(before)
        await asyncio.to_thread(postgres.stop)
        outcomes = await asyncio.gather(
            *(outcome_of(record.append(new_decision())) for _ in range(20)),
            outcome_of(record.get(TENANTS[0], before.id)),
            outcome_of(record.find(TENANTS[0], DecisionFilter())),
            outcome_of(record.ping()),
        )
        assert all(isinstance(result, RecordUnavailable) for result, _ in outcomes)
        assert max(seconds for _, seconds in outcomes) < 1
        assert record.status().writing.fault
        assert not record.status().writing.connected
        await asyncio.to_thread(postgres.start)
        await until_it_works(record, new_decision(), patience=2)
        await record.ping()
        assert await record.get(TENANTS[0], before.id) == before
        assert record.status().writing.fault is None
        assert record.status().writing.connected

    with recording(urls.runtime) as record:
        asyncio.run(scenario(record))


def test_a_restart_between_two_requests_goes_unnoticed(own_server):
    postgres, urls = own_server

    async def scenario(record: PostgresRecord) -> None:
        decision = new_decision()
        await record.append(decision)
        assert await record.get(TENANTS[0], decision.id) == decision
        await asyncio.to_thread(postgres.stop)
        await asyncio.to_thread(postgres.start)
        await record.append(new_decision())
        assert await record.get(TENANTS[0], decision.id) == decision

    with recording(urls.runtime) as record:
        asyncio.run(scenario(record))


def test_a_silent_server_keeps_nobody_waiting_for_more_than_two_seconds(own_server):
    postgres, urls = own_server

    def signal_all(how: signal.Signals) -> None:
        pid = postgres.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, children)):
            os.kill(process, how)

    async def scenario(record: PostgresRecord) -> None:
        await record.append(new_decision())
        signal_all(signal.SIGSTOP)
        sent, unsent = new_decision(), [new_decision() for _ in range(5)]
        try:
            first = asyncio.create_task(outcome_of(record.append(sent)))
            await asyncio.sleep(0.2)  # it is on its way; the others wait behind it
            outcomes = await asyncio.gather(
                first, *(outcome_of(record.append(decision)) for decision in unsent), outcome_of(record.get(TENANTS[0], uuid7()))
            )
        finally:
            signal_all(signal.SIGCONT)
        assert all(isinstance(result, RecordUnavailable) for result, _ in outcomes)
        assert max(seconds for _, seconds in outcomes) < 2.5
        await until_it_works(record, new_decision())
        # What nobody waits for any more was dropped before it was sent.
        assert [await record.get(TENANTS[0], decision.id) for decision in unsent] == [None] * 5

    with recording(urls.runtime) as record:
        asyncio.run(scenario(record))


# --- a commit whose answer is lost ------------------------------------------------------------


class CuttingProxy:
    """A Unix socket in front of the server that cuts the connection around one COMMIT, or another message that commits (`commits`).

    `arm("before")` drops the message itself, `arm("after")` lets the server commit and drops its answer.
    """

    def __init__(self, target: str, *, commits: Sequence[bytes] = ()) -> None:
        self._commits = (b"COMMIT\x00", *commits)
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._target = target
        self._armed: str | None = None
        self.cuts = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def arm(self, when: str) -> None:
        self._armed = when

    def disarm(self) -> None:
        self._armed = None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        shutil.rmtree(self.folder)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source in ready:
                    data = source.recv(1 << 20)
                    if not data:
                        return
                    if source is client and self._armed and any(words in data for words in self._commits):
                        when, self._armed = self._armed, None
                        self.cuts += 1
                        if when == "after":
                            server.sendall(data)
                            server.recv(1 << 20)  # committed, and the client will never hear of it
                        return
                    (server if source is client else client).sendall(data)


@pytest.fixture
def proxy(database: DatabaseUrls) -> Iterator[tuple[CuttingProxy, str]]:
    """The proxy, and the run-time URL through it."""
    url = make_url(database.runtime)
    made = CuttingProxy(f"{url.query['host']}/.s.PGSQL.5432")
    yield made, url.update_query_dict({"host": str(made.folder)}).render_as_string(hide_password=False)
    made.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_without_an_answer_is_looked_up_and_only_what_is_there_is_acknowledged(proxy, database: DatabaseUrls, when: str):
    cutter, url = proxy
    decisions = [new_decision(TENANTS[number % 3]) for number in range(30)]

    async def scenario(record: PostgresRecord) -> list[object]:
        await record.append(new_decision())
        cutter.arm(when)
        return await asyncio.gather(*map(record.append, decisions), return_exceptions=True)

    with recording(url) as record:
        outcomes = asyncio.run(scenario(record))
    assert cutter.cuts == 1
    there: set[str] = set()
    for tenant in TENANTS:
        with as_role(database.runtime, tenant=tenant) as cursor:
            cursor.execute("SELECT id::text FROM facegate.entry")
            there |= {found for (found,) in cursor.fetchall()}
    acknowledged = {str(decision.id) for decision, outcome in zip(decisions, outcomes, strict=True) if outcome is None}
    assert acknowledged == there & {str(decision.id) for decision in decisions}
    if when == "after":
        assert outcomes == [None] * 30
    else:
        assert any(isinstance(outcome, RecordUnavailable) for outcome in outcomes)


def test_after_a_doubtful_commit_the_same_decision_can_be_appended_again(proxy):
    cutter, url = proxy
    decision = replace(new_decision(), reference="order-17")

    async def scenario(record: PostgresRecord) -> None:
        await record.append(new_decision())
        cutter.arm("before")
        result, _ = await outcome_of(record.append(decision))
        assert isinstance(result, RecordUnavailable)
        await record.append(decision)
        await record.append(decision)
        assert await record.get(decision.tenant, decision.id) == decision

    with recording(url) as record:
        asyncio.run(scenario(record))
