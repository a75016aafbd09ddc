from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from deployments import telemetry
from deployments.job_loop import note_parked
from moderation.adapters.queue import ATTEMPTS_OF, MAX_ATTEMPTS, PostgresQueue, backoff_s
from moderation.canonical import Json
from moderation.errors import Overloaded, StaleLease
from moderation.ports import QueueState
from tests.pg import as_role, make_tenant

pytestmark = pytest.mark.postgres
PAYLOAD: dict[str, Json] = {"media": "00" * 32, "policy": {"name": "default", "version": 3}, "strict": False}


@pytest.fixture
def queue(pool):
    return PostgresQueue(pool)


def put(queue, tenant, **changes):
    id = changes.pop("id", None) or uuid7()
    return id, asyncio.run(queue.put(**{"id": id, "tenant": tenant, "kind": "screening", "payload": PAYLOAD, **changes}))


def take(queue, kinds=("screening",), lease_s=30.0):
    return asyncio.run(queue.take(kinds, lease_s))


def state(queue, tenant, id):
    return asyncio.run(queue.state(tenant, id))


def row(database, tenant, id, columns="last_error"):
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(f"SELECT {columns} FROM facegate.job WHERE id = %s", (str(id),))
        return cursor.fetchone()


def shift(database, tenant, column, seconds):
    """Move a moment of every job, as if that much time had passed."""
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(f"UPDATE facegate.job SET {column} = {column} - %s * interval '1 second'", (seconds,))


def test_what_is_put_is_taken_once(queue, tenant):
    id, lease = put(queue, tenant)
    assert lease is None
    assert state(queue, tenant, id) is QueueState.QUEUED
    job = take(queue)
    assert (job.id, job.tenant, job.kind, job.payload, job.fence, job.attempt) == (id, tenant, "screening", PAYLOAD, 1, 1)
    assert state(queue, tenant, id) is QueueState.RUNNING
    assert take(queue) is None


def test_the_caller_may_begin_itself(queue, tenant):
    id, job = put(queue, tenant, leased_for_s=30.0)
    assert (job.id, job.payload, job.fence, job.attempt) == (id, PAYLOAD, 1, 1)
    assert take(queue) is None
    assert state(queue, tenant, id) is QueueState.RUNNING


def test_work_that_is_there_is_left_as_it_is(queue, tenant):
    id, job = put(queue, tenant, leased_for_s=30.0)
    assert put(queue, tenant, id=id, payload={"other": 1}, leased_for_s=30.0) == (id, None)
    assert asyncio.run(queue.renew(job, 30.0))
    asyncio.run(queue.fail(job, "x", retry_in_s=0))
    assert take(queue).payload == PAYLOAD


def test_only_the_kinds_that_were_asked_for_are_taken(queue, tenant):
    put(queue, tenant, kind="transform")
    assert take(queue) is None
    assert take(queue, ()) is None
    assert take(queue, ("screening", "transform")).kind == "transform"


def test_the_oldest_due_is_taken_first_whosever_it_is(queue, database):
    tenants = [make_tenant(database.runtime, f"t{n}") for n in range(3)]
    ids = [put(queue, tenant)[0] for tenant in tenants]
    taken = [take(queue) for _ in range(3)]
    assert [(job.id, job.tenant) for job in taken] == list(zip(ids, tenants, strict=True))


def test_another_tenant_does_not_see_it(queue, tenant, database):
    id, _ = put(queue, tenant)
    other = make_tenant(database.runtime, "other")
    assert state(queue, other, id) is None
    assert asyncio.run(queue.payload(other, id)) is None
    assert state(queue, tenant, uuid7()) is None


def test_what_was_put_can_be_read_again_until_it_is_purged(queue, tenant, database):
    id, _ = put(queue, tenant)
    asyncio.run(queue.done(take(queue)))
    assert asyncio.run(queue.payload(tenant, id)) == PAYLOAD
    assert asyncio.run(queue.payload(tenant, id, kind="transform")) is None
    shift(database, tenant, "finished_at", 3600)
    asyncio.run(queue.purge(ended_before_s=60))
    assert asyncio.run(queue.payload(tenant, id)) is None


def test_a_lease_that_ran_out_is_given_to_another_under_a_new_fence(queue, tenant, database):
    put(queue, tenant)
    first = take(queue)
    shift(database, tenant, "lease_until", 31)
    second = take(queue)
    assert (second.id, second.fence, second.attempt) == (first.id, first.fence + 1, 2)
    assert not asyncio.run(queue.renew(first, 30.0))
    for late in (queue.fail(first, "late", retry_in_s=0), queue.give_back(first)):
        with pytest.raises(StaleLease):
            asyncio.run(late)
    assert asyncio.run(queue.renew(second, 30.0))


def test_a_lease_runs_on_the_databases_clock(queue, tenant):
    put(queue, tenant)
    first = take(queue, lease_s=0.3)
    assert take(queue) is None
    time.sleep(0.35)
    assert take(queue).fence == first.fence + 1


def test_a_renewed_lease_holds(queue, tenant):
    put(queue, tenant)
    job = take(queue, lease_s=0.3)
    assert asyncio.run(queue.renew(job, 30.0))
    time.sleep(0.35)
    assert take(queue) is None


def test_a_fence_that_was_never_given_is_refused(queue, tenant):
    put(queue, tenant)
    job = take(queue)
    forged = replace(job, fence=job.fence + 1)
    assert not asyncio.run(queue.renew(forged, 30.0))
    with pytest.raises(StaleLease):
        asyncio.run(queue.fail(forged, "x", retry_in_s=0))


def test_a_failed_attempt_comes_back_after_its_delay(queue, tenant, database):
    id, _ = put(queue, tenant)
    assert asyncio.run(queue.fail(take(queue), "classifier away", retry_in_s=60)) is QueueState.QUEUED
    assert take(queue) is None
    assert row(database, tenant, id) == ("classifier away",)
    shift(database, tenant, "run_at", 61)
    assert take(queue).attempt == 2


def test_the_third_failed_attempt_parks_the_job_with_its_reason(queue, tenant, database):
    id, _ = put(queue, tenant)
    states = [asyncio.run(queue.fail(take(queue), f"fault {n}", retry_in_s=0)) for n in range(1, 4)]
    assert states == [QueueState.QUEUED, QueueState.QUEUED, QueueState.PARKED]
    assert state(queue, tenant, id) is QueueState.PARKED
    assert take(queue) is None
    error, finished = row(database, tenant, id, "last_error, finished_at")
    assert error == "fault 3"
    assert finished is not None


def test_a_fault_that_cannot_heal_parks_at_once(queue, tenant):
    put(queue, tenant)
    assert asyncio.run(queue.fail(take(queue), "media gone", retry_in_s=None)) is QueueState.PARKED
    assert take(queue) is None


def test_a_job_whose_worker_died_three_times_is_parked(queue, tenant, database):
    id, _ = put(queue, tenant)
    for _ in range(MAX_ATTEMPTS):
        assert take(queue) is not None
        shift(database, tenant, "lease_until", 31)
    later, _ = put(queue, tenant)
    assert take(queue).id == later
    assert state(queue, tenant, id) is QueueState.PARKED
    assert row(database, tenant, id) == ("the worker stopped without a word",)


def test_jobs_that_the_queue_parks_itself_are_counted_and_logged_once(pool, tenant, database):
    queue = PostgresQueue(pool, on_parked=note_parked)
    ids = {put(queue, tenant)[0] for _ in range(2)}
    for _ in range(MAX_ATTEMPTS):
        assert {take(queue).id, take(queue).id} == ids
        shift(database, tenant, "lease_until", 31)
    before = parked_so_far()
    with capture_logs() as said:
        assert take(queue) is None
        assert take(queue) is None
    assert parked_so_far() == before + 2
    assert {line["job"] for line in said} == set(map(str, ids))
    assert [(line["event"], line["kind"], line["log_level"]) for line in said] == [("job parked", "screening", "warning")] * 2


def parked_so_far() -> float:
    """As `/metrics` says it."""
    lines = telemetry.render().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith('facegate_jobs_total{end="parked",kind="screening"}'))


def test_the_worker_that_died_is_too_late_once_its_job_is_parked(queue, tenant, database):
    put(queue, tenant)
    for _ in range(MAX_ATTEMPTS):
        last = take(queue)
        shift(database, tenant, "lease_until", 31)
    assert take(queue) is None
    assert not asyncio.run(queue.renew(last, 30.0))


def test_a_webhook_is_tried_more_often_than_work_of_ours(queue, tenant, database):
    id, _ = put(queue, tenant, kind="webhook")
    most = ATTEMPTS_OF["webhook"]
    assert most >= 5
    states = []
    for _ in range(most):
        job = take(queue, ("webhook",))
        states.append(asyncio.run(queue.fail(job, "HTTP 500", retry_in_s=1.0)))
        shift(database, tenant, "run_at", 2)
    assert states == [QueueState.QUEUED] * (most - 1) + [QueueState.PARKED]
    assert take(queue, ("webhook",)) is None
    assert asyncio.run(queue.state(tenant, id, kind="webhook")) is QueueState.PARKED


def test_work_without_a_result_to_commit_is_done_when_its_worker_says_so(queue, tenant):
    id, _ = put(queue, tenant)
    job = take(queue)
    asyncio.run(queue.done(job))
    assert state(queue, tenant, id) is QueueState.DONE
    with pytest.raises(StaleLease):
        asyncio.run(queue.done(job))
    assert take(queue) is None


def test_a_worker_whose_lease_was_given_on_cannot_say_that_it_is_done(queue, tenant, database):
    id, _ = put(queue, tenant)
    late = take(queue)
    shift(database, tenant, "lease_until", 31)
    take(queue)
    with pytest.raises(StaleLease):
        asyncio.run(queue.done(late))
    assert state(queue, tenant, id) is QueueState.RUNNING


def test_a_job_for_which_there_was_no_room_comes_back_after_its_pause_uncounted(queue, tenant, database):
    put(queue, tenant)
    first = take(queue)
    asyncio.run(queue.give_back(first, after_s=60))
    assert take(queue) is None
    shift(database, tenant, "run_at", 61)
    again = take(queue)
    assert (again.attempt, again.fence) == (1, first.fence + 1)


def test_what_was_given_up_is_leased_once_to_be_ended_and_parked_again_if_nobody_does(queue, tenant, database):
    ids = [put(queue, tenant)[0] for _ in range(2)]
    put(queue, tenant, kind="transform")
    for _ in ids:
        asyncio.run(queue.fail(take(queue), "x", retry_in_s=None))
    asyncio.run(queue.fail(take(queue, ("transform",)), "x", retry_in_s=None))
    first, second, third = (asyncio.run(queue.take_parked("screening", 30.0)) for _ in range(3))
    assert [(job.id, job.tenant, job.payload, job.fence, job.attempt) for job in (first, second)] == [
        (id, tenant, PAYLOAD, 2, 1) for id in ids
    ]
    assert third is None
    asyncio.run(queue.done(first))
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("UPDATE facegate.job SET attempts = 3 WHERE id = %s", (str(second.id),))
    shift(database, tenant, "lease_until", 31)
    assert take(queue) is None
    assert [state(queue, tenant, id) for id in ids] == [QueueState.DONE, QueueState.PARKED]
    with pytest.raises(StaleLease):
        asyncio.run(queue.done(second))


def test_a_long_reason_with_odd_bytes_is_stored_short(queue, tenant, database):
    id, _ = put(queue, tenant)
    asyncio.run(queue.fail(take(queue), "\x00é" * 5000, retry_in_s=None))
    assert row(database, tenant, id) == ("é" * 500,)


def test_ended_work_is_not_touched(queue, tenant, database):
    id, _ = put(queue, tenant)
    job = take(queue)
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("UPDATE facegate.job SET state = 'done', finished_at = clock_timestamp()")
    assert not asyncio.run(queue.renew(job, 30.0))
    with pytest.raises(StaleLease):
        asyncio.run(queue.fail(job, "late", retry_in_s=0))
    assert state(queue, tenant, id) is QueueState.DONE
    assert take(queue) is None


def test_done_work_is_purged_in_time_and_parked_work_stays(queue, tenant, database):
    done, _ = put(queue, tenant)
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("UPDATE facegate.job SET state = 'done', finished_at = clock_timestamp()")
    parked, _ = put(queue, tenant)
    asyncio.run(queue.fail(take(queue), "x", retry_in_s=None))
    waiting, _ = put(queue, tenant)
    assert asyncio.run(queue.purge(ended_before_s=60)) == 0
    shift(database, tenant, "finished_at", 61)
    assert asyncio.run(queue.purge(ended_before_s=60)) == 1
    assert [state(queue, tenant, id) for id in (done, parked, waiting)] == [None, QueueState.PARKED, QueueState.QUEUED]
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("SELECT s.what, s.removed, s.first_id, s.last_id FROM facegate.sweep s JOIN facegate.entry e USING (tenant, id)")
        assert cursor.fetchall() == [("jobs", 1, str(done), str(done))]


def test_sixteen_workers_never_hold_one_job_together(queue, tenant):
    jobs = [put(queue, tenant)[0] for _ in range(60)]
    held, taken = set(), []

    async def worker():
        while (job := await queue.take(["screening"], 30.0)) is not None:
            assert job.id not in held
            held.add(job.id)
            taken.append(job.id)
            await asyncio.sleep(0.002)
            held.discard(job.id)

    async def story():
        await asyncio.gather(*(worker() for _ in range(16)))

    asyncio.run(story())
    assert sorted(taken) == sorted(jobs)


def test_with_failing_and_dying_workers_every_fence_is_given_once_and_all_work_ends(queue, tenant):
    ids = [put(queue, tenant)[0] for _ in range(8)]
    given = []

    async def worker(number):
        deadline = time.monotonic() + 60
        while any([await queue.state(tenant, id) is not QueueState.PARKED for id in ids]):
            assert time.monotonic() < deadline
            job = await queue.take(["screening"], 0.05)
            if job is None:
                await asyncio.sleep(0.04)
                continue
            given.append((job.id, job.fence))
            if (number + job.fence) % 2:
                with contextlib.suppress(StaleLease):
                    await queue.fail(job, "fault", retry_in_s=0)

    async def story():
        await asyncio.gather(*(worker(number) for number in range(8)))

    asyncio.run(story())
    assert len(given) == len(set(given)) == len(ids) * MAX_ATTEMPTS
    assert {state(queue, tenant, id) for id in ids} == {QueueState.PARKED}


def test_waiting_grows_with_attempts_and_is_bounded():
    for attempt, least, most in ((1, 1, 3), (2, 4, 12), (3, 16, 48), (99, 150, 450)):
        for _ in range(50):
            assert least <= backoff_s(attempt) <= most


def refusal_of(queue, tenant, **changes):
    id = uuid7()
    with pytest.raises(Overloaded) as refused:
        put(queue, tenant, id=id, **changes)
    assert state(queue, tenant, id) is None
    return refused.value


def test_a_tenant_has_only_so_much_work_of_one_kind_that_waits_or_runs(pool, tenant, database):
    queue = PostgresQueue(pool, max_queued=3)
    for _ in range(3):
        put(queue, tenant)
    assert refusal_of(queue, tenant).retry_after_s == 10.0
    first = take(queue)
    refusal_of(queue, tenant)  # what runs counts as well
    put(queue, tenant, kind="transform")
    put(queue, make_tenant(database.runtime, "other"))
    asyncio.run(queue.done(first))
    id, _ = put(queue, tenant)
    assert state(queue, tenant, id) is QueueState.QUEUED
    refusal_of(queue, tenant)
    asyncio.run(queue.fail(take(queue), "x", retry_in_s=None))
    put(queue, tenant)  # what is parked does not wait


def test_a_caller_that_begins_itself_is_not_refused_nor_is_work_that_is_there_already(pool, tenant):
    queue = PostgresQueue(pool, max_queued=1)
    id, _ = put(queue, tenant)
    assert put(queue, tenant, id=id) == (id, None)
    assert put(queue, tenant, leased_for_s=30.0)[1] is not None
    refusal_of(queue, tenant)


def test_of_many_at_once_hardly_more_come_in_than_may(pool, tenant, database):
    queue = PostgresQueue(pool, max_queued=5)

    async def story():
        puts = (queue.put(id=uuid7(), tenant=tenant, kind="screening", payload=PAYLOAD) for _ in range(60))
        return await asyncio.gather(*puts, return_exceptions=True)

    said = asyncio.run(story())
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("SELECT count(*) FROM facegate.job")
        waiting = cursor.fetchone()[0]
    assert 5 <= waiting == said.count(None) <= 5 + 8, "as many more as there are connections"
    assert {type(outcome) for outcome in said} == {type(None), Overloaded}


def test_an_id_of_another_kinds_work_has_no_state(queue, tenant):
    id, _ = put(queue, tenant, kind="transform")
    assert state(queue, tenant, id) is None
    assert asyncio.run(queue.state(tenant, id, kind="transform")) is QueueState.QUEUED
