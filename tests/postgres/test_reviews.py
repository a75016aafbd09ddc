"""What only a real Postgres can show of reviews: commits that race, refusals, and the door to held media."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from uuid_utils.compat import uuid7

from moderation.adapters.idempotency import PostgresIdempotency
from moderation.adapters.reviews import PostgresReviews
from moderation.decision import Decision, Verdict
from moderation.ports import Begun
from tests.builders import make_decision, make_review
from tests.contracts.transform_log_contract import DUE
from tests.pg import as_role

pytestmark = pytest.mark.postgres


@pytest.fixture
def reviews(pool):
    return PostgresReviews(pool)


@pytest.fixture
def held(record, tenant) -> Decision:
    """A stand-alone upload that waits for a person."""
    decision = make_decision(DUE, id=uuid7(), tenant=tenant, created_at=datetime.now(UTC))
    asyncio.run(record.append(decision))
    return decision


def review_of(decision, verdict=Verdict.ALLOW, **changes):
    return make_review(decision, verdict, **{"id": uuid7(), "at": datetime.now(UTC), **changes})


def rows(database, tenant, statement):
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def count(database, tenant, table):
    return rows(database, tenant, f"SELECT count(*) FROM facegate.{table}")[0][0]


def test_the_same_review_many_times_at_once_is_one(reviews, held, database, tenant):
    review = review_of(held)

    async def story():
        await asyncio.gather(*(reviews.add(review) for _ in range(8)))
        return await reviews.get(tenant, review.id)

    assert asyncio.run(story()) == review
    assert count(database, tenant, "review") == 1


def test_another_review_of_the_same_id_is_refused(reviews, held, database, tenant):
    review = review_of(held)
    asyncio.run(reviews.add(review))
    for other in (replace(review, verdict=Verdict.BLOCK), replace(review, reason="changed my mind")):
        with pytest.raises(ValueError, match="another review"):
            asyncio.run(reviews.add(other))
    assert count(database, tenant, "review") == 1


@pytest.mark.parametrize("reason", ["nul \x00", "half a pair \ud800"])
def test_a_reason_that_cannot_be_kept_leaves_nothing(reviews, held, database, tenant, reason):
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        asyncio.run(reviews.add(review_of(held, reason=reason)))
    assert [count(database, tenant, table) for table in ("review", "personal")] == [0, 0]


def test_a_decision_of_a_transform_that_was_never_recorded_may_be_reviewed(reviews, record, tenant):
    transform = uuid7()
    decision = make_decision(DUE, id=uuid7(), tenant=tenant, created_at=datetime.now(UTC), transform=transform)

    async def story():
        await record.append(decision)
        await reviews.add(review_of(decision, Verdict.BLOCK), to_wake=transform)
        return await reviews.latest(tenant, [decision.id])

    assert list(asyncio.run(story())) == [decision.id]


def test_a_review_stays_known_by_the_key_it_was_sent_with(reviews, held, pool, tenant):
    review = review_of(held)
    idempotency = PostgresIdempotency(pool)

    async def story():
        await idempotency.begin(tenant, "k", "a", review.id)
        await reviews.add(review)
        await idempotency.forget(tenant, "k", review.id)
        return await idempotency.begin(tenant, "k", "a", uuid7())

    assert asyncio.run(story()) == (Begun.KNOWN, review.id)


def test_each_look_at_held_media_is_an_event_of_its_own(reviews, held, database, tenant):
    async def look(rendition):
        at = datetime.now(UTC)
        await reviews.viewed(tenant=tenant, decision=held.id, actor="key", subject="reviewer Jim", rendition=rendition, at=at)

    for rendition in ("blurred", "clear", "clear"):
        asyncio.run(look(rendition))
    views = rows(database, tenant, "SELECT id, decision, actor, rendition FROM facegate.review_view ORDER BY recorded_at")
    assert [(str(decision), actor, rendition) for _, decision, actor, rendition in views] == [
        (str(held.id), "key", rendition) for rendition in ("blurred", "clear", "clear")
    ]
    written = rows(database, tenant, "SELECT id, canonical FROM facegate.entry WHERE kind = 'view' ORDER BY recorded_at")
    assert [id for id, _ in written] == [id for id, *_ in views]
    kept = rows(database, tenant, "SELECT salt, content FROM facegate.personal WHERE kind = 'subject' ORDER BY recorded_at")
    for (_, data), (salt, content) in zip(written, kept, strict=True):
        subject = json.loads(bytes(data))["view"]["subject"]
        assert content == "reviewer Jim"
        assert subject == "sha256:" + hashlib.sha256(bytes(salt) + content.encode()).hexdigest()
        assert b"Jim" not in bytes(data)


@pytest.mark.parametrize("wrong", ["no decision", "rendition"])
def test_nobody_looks_at_what_there_is_not(reviews, held, database, tenant, wrong):
    async def look():
        await reviews.viewed(
            tenant=tenant,
            decision=uuid7() if wrong == "no decision" else held.id,
            actor="key",
            subject="reviewer-1",
            rendition="sharpened" if wrong == "rendition" else "clear",
            at=datetime.now(UTC),
        )

    with pytest.raises(ValueError, match="no such"):
        asyncio.run(look())
    assert [count(database, tenant, table) for table in ("review_view", "personal")] == [0, 0]
