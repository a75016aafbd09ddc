from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from uuid_utils.compat import uuid7

from moderation.adapters.idempotency import PostgresIdempotency
from moderation.adapters.queue import PostgresQueue
from moderation.ports import Begun
from tests.pg import as_role, make_tenant

pytestmark = pytest.mark.postgres
PRINT = "sha256:aa"


def begin(idempotency, tenant, *, key="k", fingerprint=PRINT, resource=None):
    return asyncio.run(idempotency.begin(tenant, key, fingerprint, resource or uuid7()))


def decide(database, tenant, id):
    """Commit a bare decision of this id."""
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(
            "INSERT INTO facegate.decision (id, tenant, actor, automated, created_at, request_id, stage, media_sha256, media_bytes, verdict,"
            " categories, reasons, thresholds, classifiers, sheets, policy_name, policy_version, policy_digest, plan_digest, decoder)"
            " VALUES (%s, %s, 'k', true, now(), 'r', 'upload', sha256(''), 1, 'allow', '{}', '[]', '[]', '{}', '[]', 'p', 1, 'd', 'd', 'd')",
            (str(id), str(tenant)),
        )


def age(database, tenant, *, seconds, column="created_at"):
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(f"UPDATE facegate.idempotency SET {column} = {column} - %s * interval '1 second'", (seconds,))


def test_the_first_request_owns_the_key(pool, tenant):
    resource = uuid7()
    assert begin(PostgresIdempotency(pool), tenant, resource=resource) == (Begun.NEW, resource)


def test_the_same_request_in_intake_is_in_progress_under_the_first_id(pool, tenant):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    assert begin(idempotency, tenant) == (Begun.IN_PROGRESS, first)


def test_once_decided_the_key_is_known(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    decide(database, tenant, first)
    assert begin(idempotency, tenant) == (Begun.KNOWN, first)


def test_once_queued_the_key_is_known(pool, tenant):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    asyncio.run(PostgresQueue(pool).put(id=first, tenant=tenant, kind="screening", payload={}))
    assert begin(idempotency, tenant) == (Begun.KNOWN, first)


def test_another_request_under_the_key_is_a_mismatch_in_every_state(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    assert begin(idempotency, tenant, fingerprint="other") == (Begun.MISMATCH, first)
    age(database, tenant, seconds=1000, column="lease_until")
    assert begin(idempotency, tenant, fingerprint="other") == (Begun.MISMATCH, first)
    decide(database, tenant, first)
    assert begin(idempotency, tenant, fingerprint="other") == (Begun.MISMATCH, first)


def test_a_lapsed_claim_is_taken_over_under_the_same_id(pool, tenant, database):
    idempotency = PostgresIdempotency(pool, lease_s=60)
    _, first = begin(idempotency, tenant)
    age(database, tenant, seconds=61, column="lease_until")
    assert begin(idempotency, tenant) == (Begun.NEW, first)
    assert begin(idempotency, tenant) == (Begun.IN_PROGRESS, first)


def test_a_lapsed_claim_whose_decision_was_committed_is_known(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    decide(database, tenant, first)
    age(database, tenant, seconds=1000, column="lease_until")
    assert begin(idempotency, tenant) == (Begun.KNOWN, first)


def test_a_forgotten_claim_is_free_and_only_its_owner_forgets_it(pool, tenant):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    asyncio.run(idempotency.forget(tenant, "k", uuid7()))
    assert begin(idempotency, tenant) == (Begun.IN_PROGRESS, first)
    asyncio.run(idempotency.forget(tenant, "k", first))
    second = uuid7()
    assert begin(idempotency, tenant, fingerprint="other", resource=second) == (Begun.NEW, second)


def test_what_is_recorded_is_not_forgotten_even_after_a_5xx(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    decide(database, tenant, first)
    asyncio.run(idempotency.forget(tenant, "k", first))
    assert begin(idempotency, tenant) == (Begun.KNOWN, first)


def test_a_recorded_fault_of_ours_is_forgotten_when_that_is_asked_for(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    decide(database, tenant, first)
    asyncio.run(idempotency.forget(tenant, "k", uuid7(), recorded=True))
    assert begin(idempotency, tenant) == (Begun.KNOWN, first)
    asyncio.run(idempotency.forget(tenant, "k", first, recorded=True))
    second = uuid7()
    assert begin(idempotency, tenant, resource=second) == (Begun.NEW, second)


def test_keys_are_the_tenants_own(pool, database):
    one, two = make_tenant(database.runtime, "one"), make_tenant(database.runtime, "two")
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, one)
    decide(database, one, first)
    second = uuid7()
    assert begin(idempotency, two, resource=second) == (Begun.NEW, second)
    asyncio.run(idempotency.forget(two, "k", first))
    assert begin(idempotency, one) == (Begun.KNOWN, first)


def test_after_a_day_a_key_may_be_used_anew(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    decide(database, tenant, first)
    age(database, tenant, seconds=24 * 3600 - 5)
    assert begin(idempotency, tenant) == (Begun.KNOWN, first)
    age(database, tenant, seconds=10)
    second = uuid7()
    assert begin(idempotency, tenant, fingerprint="other", resource=second) == (Begun.NEW, second)
    assert begin(idempotency, tenant, fingerprint="other") == (Begun.IN_PROGRESS, second)


def test_purging_deletes_what_is_a_day_old_of_every_tenant_and_nothing_else(pool, database):
    idempotency = PostgresIdempotency(pool)
    tenants = [make_tenant(database.runtime, name) for name in ("one", "two")]
    for tenant in tenants:
        for number in range(3):
            begin(idempotency, tenant, key=f"old {number}")
        age(database, tenant, seconds=timedelta(hours=25).total_seconds())
        begin(idempotency, tenant, key="young")
    assert asyncio.run(idempotency.purge()) == 6
    assert asyncio.run(idempotency.purge()) == 0
    for tenant in tenants:
        with as_role(database.runtime, tenant=tenant) as cursor:
            cursor.execute("SELECT s.what, s.removed, s.first_id FROM facegate.sweep s JOIN facegate.entry e USING (tenant, id)")
            assert cursor.fetchall() == [("idempotency", 3, None)]
        assert begin(idempotency, tenant, key="young")[0] is Begun.IN_PROGRESS


def test_of_a_hundred_at_once_one_is_new_and_all_get_its_id(pool, tenant):
    idempotency = PostgresIdempotency(pool)

    async def story():
        return await asyncio.gather(*(idempotency.begin(tenant, "k", PRINT, uuid7()) for _ in range(100)))

    answers = asyncio.run(story())
    assert Counter(begun for begun, _ in answers) == {Begun.NEW: 1, Begun.IN_PROGRESS: 99}
    assert len({resource for _, resource in answers}) == 1


def test_of_a_hundred_after_a_lapsed_claim_one_takes_over(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    _, first = begin(idempotency, tenant)
    age(database, tenant, seconds=1000, column="lease_until")

    async def story():
        return await asyncio.gather(*(idempotency.begin(tenant, "k", PRINT, uuid7()) for _ in range(100)))

    answers = asyncio.run(story())
    assert Counter(begun for begun, _ in answers) == {Begun.NEW: 1, Begun.IN_PROGRESS: 99}
    assert {resource for _, resource in answers} == {first}


def test_of_a_hundred_after_a_day_one_is_new_and_all_get_its_id(pool, tenant, database):
    idempotency = PostgresIdempotency(pool)
    begin(idempotency, tenant)
    age(database, tenant, seconds=25 * 3600)

    async def story():
        return await asyncio.gather(*(idempotency.begin(tenant, "k", PRINT, uuid7()) for _ in range(100)))

    answers = asyncio.run(story())
    assert Counter(begun for begun, _ in answers) == {Begun.NEW: 1, Begun.IN_PROGRESS: 99}
    assert len({resource for _, resource in answers}) == 1


def test_claiming_and_forgetting_at_once_never_leaves_two_owners(pool, tenant):
    idempotency = PostgresIdempotency(pool)
    owners = []

    async def request():
        begun, resource = await idempotency.begin(tenant, "k", PRINT, uuid7())
        if begun is Begun.NEW:
            owners.append(resource)
            assert len(owners) == 1
            await asyncio.sleep(0.001)
            owners.remove(resource)
            await idempotency.forget(tenant, "k", resource)

    async def story():
        await asyncio.gather(*(request() for _ in range(200)))

    asyncio.run(story())
