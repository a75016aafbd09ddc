"""Appeals, holds and erasures on a real Postgres: what the database itself holds to."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg2.errors
import pytest
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.appeals import PostgresAppeals
from moderation.adapters.database import Database
from moderation.adapters.erasures import PostgresErasures
from moderation.adapters.holds import PostgresHolds
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.queue import PostgresQueue
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.sources import PostgresSources
from moderation.adapters.transforms import PostgresTransforms
from moderation.audit import leaf_hash
from moderation.decision import Decision, Verdict
from moderation.errors import OwnAppeal
from moderation.media import Stage
from moderation.people import Appeal, Hold, Outcome, Selector
from moderation.ports import DecisionFilter, TransformFilter
from moderation.transform import Basis, CatalogueSource, ConsentStatement, Review
from tests.builders import LOUD, QUIET, make_decision, make_policy, make_review, make_transform
from tests.contracts.transform_log_contract import DUE
from tests.pg import as_role, make_tenant

pytestmark = pytest.mark.postgres


@dataclass(kw_only=True)
class People:
    """All of the record that people touch, for one tenant and another."""

    urls: DatabaseUrls
    record: PostgresRecord
    pool: Database
    tenant: UUID
    other: UUID

    def __post_init__(self) -> None:
        self.reviews, self.appeals = PostgresReviews(self.pool), PostgresAppeals(self.pool)
        self.holds, self.erasures = PostgresHolds(self.pool), PostgresErasures(self.pool)
        self.transforms, self.queue = PostgresTransforms(self.pool), PostgresQueue(self.pool)
        self.policies = PostgresPolicies(self.pool)

    async def decided(self, scores: Any = LOUD, **changes: Any) -> Decision:
        decision = make_decision(scores, **{"id": uuid7(), "tenant": self.tenant, "created_at": datetime.now(UTC), **changes})
        await self.record.append(decision)
        return decision

    async def accepted(self, **changes: Any):
        await self.policies.publish(self.tenant, "default", make_policy(), "operator")
        transform = make_transform(**{"id": uuid7(), "tenant": self.tenant, "created_at": datetime.now(UTC), **changes})
        await self.transforms.accept(transform)
        return transform

    async def said(self, decision: Decision, verdict: Verdict, who: str = "reviewer-1", **changes: Any) -> Review:
        facts = {"id": uuid7(), "at": datetime.now(UTC), "actor": f"key of {who}", "subject": who, **changes}
        review = make_review(decision, verdict, **facts)
        await self.reviews.add(review)
        return review

    async def appealed(self, about: Decision, who: str | None = "shop", **changes: Any) -> Appeal:
        facts: dict[str, Any] = {"id": uuid7(), "tenant": self.tenant, "reason": "it is a statue", "actor": f"key of {who}", "subject": who}
        return await self.appeals.file(**{**facts, "decision": about.id, "at": datetime.now(UTC)} | changes)

    async def held(self, **on: Any) -> Hold:
        hold = Hold(id=uuid7(), tenant=self.tenant, reason="case 7", actor="k", at=datetime.now(UTC), **on)
        await self.holds.place(hold)
        return hold

    async def erased(self, text: str, selector: Selector = Selector.REFERENCE, **changes: Any):
        facts = {"id": uuid7(), "tenant": self.tenant, "selector": selector, "text": text, "actor": "k", "at": datetime.now(UTC)}
        return await self.erasures.erase(**{**facts, **changes})

    def rows(self, statement: str, tenant: UUID | None = None) -> list[tuple[Any, ...]]:
        with as_role(self.urls.runtime, tenant=tenant or self.tenant) as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def texts(self) -> set[str]:
        return {content for (content,) in self.rows("SELECT content FROM facegate.personal")}

    def entries(self, kind: str) -> list[dict[str, Any]]:
        found = self.rows(f"SELECT canonical FROM facegate.entry WHERE kind = '{kind}' ORDER BY recorded_at")
        return [json.loads(bytes(canonical)) for (canonical,) in found]


@pytest.fixture
def people(database, record):
    pool = Database(database.runtime, connections=6)
    yield People(
        urls=database, record=record, pool=pool, tenant=make_tenant(database.runtime, "one"), other=make_tenant(database.runtime, "two")
    )
    pool.close()


# --- appeals ----------------------------------------------------------------------------------------


def test_an_appeal_is_against_what_stands_and_the_next_review_closes_it(people):
    async def story():
        decision = await people.decided()
        opened = await people.appealed(decision)
        again = await people.appealed(decision, who="somebody else")
        review = await people.said(decision, Verdict.ALLOW)
        overturned = await people.appeals.get(people.tenant, opened.id)
        second = await people.appealed(decision)
        await people.said(decision, Verdict.ALLOW, who="reviewer-2")
        return opened, again, review, overturned, await people.appeals.get(people.tenant, second.id)

    opened, again, review, overturned, upheld = asyncio.run(story())
    assert (opened.stood, opened.review, opened.outcome) == (Verdict.BLOCK, None, None)
    assert again == opened
    assert (overturned.outcome, overturned.closing.review) == (Outcome.OVERTURNED, review.id)
    assert (upheld.stood, upheld.review, upheld.outcome) == (Verdict.ALLOW, review.id, Outcome.UPHELD)


def test_appeals_are_listed_newest_first_open_or_closed_and_never_another_tenants(people):
    async def story():
        closed, opened = [await people.appealed(await people.decided()) for _ in range(2)]
        await people.said(await people.record.get(people.tenant, closed.decision), Verdict.BLOCK)
        found = [await people.appeals.find(people.tenant, is_open=wanted) for wanted in (None, True, False)]
        found.append(await people.appeals.find(people.tenant, decision=opened.decision))
        found.append(await people.appeals.find(people.tenant, before=opened.id))
        elsewhere = await people.appeals.find(people.other), await people.appeals.get(people.other, opened.id)
        return closed.id, opened.id, [[one.id for one in page] for page in found], elsewhere

    closed, opened, found, elsewhere = asyncio.run(story())
    assert found == [[opened, closed], [opened], [closed], [opened], [closed]]
    assert elsewhere == ([], None)


@pytest.mark.parametrize("wrong", ["no decision", "another tenant's", "waits for a person", "not judged"])
def test_there_is_no_appeal_against_what_does_not_stand(people, wrong):
    async def story():
        scores, changes = (DUE, {}) if wrong == "waits for a person" else (QUIET, {})
        if wrong == "not judged":
            changes = {"verdict": Verdict.ERROR}
        decision = await people.decided(scores, **changes)
        other = {"decision": uuid7()} if wrong == "no decision" else {"tenant": people.other} if wrong == "another tenant's" else {}
        await people.appealed(decision, **other)

    with pytest.raises(ValueError, match=r"no such decision|against an allow or a block"):
        asyncio.run(story())
    assert people.rows("SELECT count(*) FROM facegate.appeal") == [(0,)]


OWN = {
    "filed it": {"who": "shop", "actor": "another key of theirs"},
    "filed it, by the key": {"who": "somebody else", "actor": "key of shop"},
    "said what it is against": {"who": "reviewer-1", "actor": "another key of theirs"},
    "said what it is against, by the key": {"who": "somebody else", "actor": "key of reviewer-1"},
}


@pytest.mark.parametrize("who", OWN)
def test_nobody_decides_an_appeal_of_their_own_or_against_their_own_word(people, who):
    async def story():
        decision = await people.decided(QUIET)
        await people.said(decision, Verdict.BLOCK)
        appeal = await people.appealed(decision)
        for verdict in (Verdict.ALLOW, Verdict.BLOCK):
            with pytest.raises(OwnAppeal):
                await people.said(decision, verdict, **OWN[who])
        still = await people.appeals.get(people.tenant, appeal.id)
        await people.said(decision, Verdict.ALLOW, who="reviewer-2")
        await people.said(decision, Verdict.BLOCK)  # closed by somebody else: now anybody may speak
        return still.outcome, (await people.appeals.get(people.tenant, appeal.id)).outcome

    assert asyncio.run(story()) == (None, Outcome.OVERTURNED)


def test_an_erased_pseudonym_is_still_known_by_the_key_it_is_bound_to(people):
    key = "INSERT INTO facegate.api_key (id, tenant, scopes, policies, secret_sha256, subject, created_at) VALUES ('k1', %s, '{}', '{}', '', 'shop', now())"

    async def story():
        decision = await people.decided()
        await people.appealed(decision, actor="k1")
        assert (await people.erased("shop", Selector.SUBJECT)).erased == 2
        with pytest.raises(OwnAppeal):
            await people.said(decision, Verdict.ALLOW, who="shop")

    with as_role(people.urls.runtime, tenant=people.tenant) as cursor:
        cursor.execute(key, (str(people.tenant),))
    asyncio.run(story())


def test_a_review_and_an_appeal_at_the_same_moment_come_one_after_the_other(people):
    async def story():
        decision = await people.decided()
        await people.appealed(decision)
        both = (people.said(decision, Verdict.ALLOW, who=f"reviewer-{number}") for number in range(6))
        await asyncio.gather(*both, *(people.appealed(decision, who=f"shop-{number}") for number in range(6)))
        return await people.appeals.find(people.tenant)

    found = asyncio.run(story())
    assert sum(one.closing is None for one in found) <= 1
    assert all(one.outcome is Outcome.OVERTURNED for one in found[-1:])


def test_an_appeal_is_an_entry_that_holds_nothing_personal(people):
    async def story():
        return await people.appealed(await people.decided(), who="Jane", reason="this is Jane")

    appeal = asyncio.run(story())
    (entry,) = people.entries("appeal")
    (salt,) = people.rows("SELECT salt FROM facegate.personal WHERE kind = 'appeal_reason'")[0]
    assert entry["id"] == str(appeal.id)
    assert entry["appeal"] == {
        "decision": str(appeal.decision),
        "stood": "block",
        "review": None,
        "reason": "sha256:" + hashlib.sha256(bytes(salt) + b"this is Jane").hexdigest(),
        "subject": entry["appeal"]["subject"],
    }
    assert "Jane" not in json.dumps({**entry, "actor": ""})


# --- holds ------------------------------------------------------------------------------------------


def covered(people) -> set[UUID]:
    return {UUID(str(id)) for (id,) in people.rows("SELECT id FROM facegate.held()")}


@pytest.mark.parametrize("on", ["decision", "transform", "sha256 of a source", "sha256 of a decision", "reference"])
def test_a_hold_covers_what_it_names_and_what_goes_with_that_until_it_is_released(people, on):
    async def story():
        transform = await people.accepted(reference="order-1")
        decisions = [await people.decided(QUIET, transform=transform.id) for _ in range(2)]
        await people.decided(QUIET, media=make_decision(LOUD).media, reference="order-2", id=uuid7())
        named = {
            "decision": {"decision": decisions[0].id},
            "transform": {"transform": transform.id},
            "sha256 of a source": {"sha256": transform.source.sha256},
            "sha256 of a decision": {"sha256": decisions[0].media.sha256},
            "reference": {"reference": "order-1"},
        }[on]
        hold = await people.held(**named)
        while_held = covered(people)
        released = [await people.holds.release(people.tenant, hold.id, reason="over", actor="k2", at=datetime.now(UTC)) for _ in range(2)]
        return transform, decisions, hold, while_held, released

    transform, decisions, hold, while_held, released = asyncio.run(story())
    expected = {transform.id, *(decision.id for decision in decisions), hold.id}
    assert while_held >= expected
    assert while_held == expected or on == "sha256 of a decision"  # the third decision is about the same bytes
    assert covered(people) == set()
    assert released[0] == released[1]
    assert (released[0].release_reason, released[0].reason) == ("over", "case 7")
    assert [(entry["event"], entry["actor"]) for entry in people.entries("hold")] == [("placed", "k"), ("released", "k2")]


def test_holds_are_listed_and_seen_by_their_own_tenant_only(people):
    async def story():
        first, second = await people.held(sha256="ab" * 32), await people.held(reference="order-1")
        await people.holds.release(people.tenant, first.id, reason="over", actor="k", at=datetime.now(UTC))
        pages = [await people.holds.find(people.tenant, in_force=wanted) for wanted in (None, True, False)]
        elsewhere = await people.holds.find(people.other), await people.holds.get(people.other, second.id)
        gone = await people.holds.release(people.other, second.id, reason="over", actor="k", at=datetime.now(UTC))
        return (
            first.id,
            second,
            [[one.id for one in page] for page in pages],
            elsewhere,
            gone,
            await people.holds.get(people.tenant, second.id),
        )

    first, second, pages, elsewhere, gone, read = asyncio.run(story())
    assert pages == [[second.id, first], [second.id], [first]]
    assert (elsewhere, gone, read) == (([], None), None, second)


@pytest.mark.parametrize("on", ["decision", "transform"])
def test_a_hold_on_what_is_not_there_is_refused(people, on):
    with pytest.raises(ValueError, match="no such"):
        asyncio.run(people.held(**{on: uuid7()}))


# --- erasures ---------------------------------------------------------------------------------------

CONSENT = ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement="Jane agreed")


def test_an_erasure_removes_all_texts_about_what_was_asked_under_a_reference_and_every_proof_stays(people):
    async def story():
        transform = await people.accepted(reference="Jane's order", consent=CONSENT, callback_url="https://example.test/jane")
        decision = await people.decided(DUE, transform=transform.id, reference="Jane's order")
        other = await people.decided(QUIET, reference="somebody else's")
        await people.said(decision, Verdict.BLOCK, reason="Jane objects")
        await people.appealed(decision, who="shop", reason="Jane objects to that")
        before = people.rows("SELECT id, canonical, leaf FROM facegate.entry ORDER BY id")
        erasure = await people.erased("Jane's order")
        found = (
            await people.transforms.load(people.tenant, transform.id),
            await people.record.get(people.tenant, decision.id),
            await people.record.find(people.tenant, DecisionFilter(reference="Jane's order")),
            await people.transforms.find(people.tenant, TransformFilter(reference="Jane's order")),
            await people.record.get(people.tenant, other.id),
        )
        return erasure, found, before, other

    erasure, (transform, decision, by_reference, transforms, kept), before, other = asyncio.run(story())
    assert (erasure.erased, erasure.held, erasure.in_progress, erasure.is_complete) == (6, 0, 0, True)
    assert people.texts() == {"reviewer-1", "shop", "somebody else's"}  # who spoke is known, what they said is not
    assert (transform.transform.reference, transform.transform.callback_url) == (None, None)
    assert transform.transform.consent == ConsentStatement(basis=Basis.SUBJECT_CONSENT)
    assert (decision.reference, by_reference, transforms, kept) == (None, [], [], other)
    after = people.rows("SELECT id, canonical, leaf FROM facegate.entry ORDER BY id")
    assert set(before) < set(after)
    assert all(bytes(leaf) == leaf_hash(bytes(canonical)) for _, canonical, leaf in after)


def test_an_erasure_is_an_entry_with_counts_and_the_ids_of_what_is_gone_and_not_what_was_asked_for(people):
    async def story():
        decision = await people.decided(QUIET, reference="Jane")
        return decision, await people.erased("Jane")

    decision, erasure = asyncio.run(story())
    (entry,) = people.entries("erasure")
    assert entry["erasure"] == {
        "selector": "reference",
        "erased": 1,
        "held": 0,
        "in_progress": 0,
        "holds": [],
        "is_complete": True,
        "texts": {"reference": [str(decision.id)]},
    }
    assert (entry["id"], "Jane" in json.dumps(entry)) == (str(erasure.id), False)
    (row,) = people.rows("SELECT * FROM facegate.erasure")
    assert "Jane" not in str(row)


def test_an_erasure_by_pseudonym_removes_what_that_person_wrote(people):
    async def story():
        decision = await people.decided(DUE, reference="order-1")
        review = await people.said(decision, Verdict.BLOCK, who="Jim", reason="I, Jim, say so")
        await people.said(decision, Verdict.ALLOW, who="reviewer-2", reason="no")
        await people.reviews.viewed(
            tenant=people.tenant, decision=decision.id, actor="k", subject="Jim", rendition="clear", at=datetime.now(UTC)
        )
        erasure = await people.erased("Jim", Selector.SUBJECT)
        return erasure, await people.reviews.get(people.tenant, review.id)

    erasure, review = asyncio.run(story())
    assert erasure.erased == 3
    assert (review.subject, review.reason, review.verdict) == ("(erased)", "(erased)", Verdict.BLOCK)
    assert people.texts() == {"order-1", "reviewer-2", "no"}


def test_a_reference_is_also_that_of_a_consent_and_the_label_of_a_face(people):
    async def story():
        consent = ConsentStatement(basis=Basis.LICENSED, statement="sold to us", reference="contract 7")
        transform = await people.accepted(target_consent=consent, reference="order-1")
        decision = await people.decided(QUIET, stage=Stage.SOURCE)
        media = {"sha256": decision.media.sha256, "size": decision.media.size, "type": "image/jpeg"}
        facts = {"id": decision.id, "tenant": people.tenant, "decision": decision.id, "actor": "k", "created_at": datetime.now(UTC)}
        sources = PostgresSources(people.pool)
        await sources.add(CatalogueSource(**media, **facts, consent=consent, label="Ada"))
        by_label = (await people.erased("Ada")).erased, await sources.get(people.tenant, decision.id)
        return by_label, (await people.erased("contract 7")).erased, (await people.transforms.load(people.tenant, transform.id)).transform

    (erased, source), rest, transform = asyncio.run(story())
    assert (erased, source.label, source.consent) == (2, None, ConsentStatement(basis=Basis.LICENSED))
    assert (rest, transform.reference, transform.target_consent) == (2, None, ConsentStatement(basis=Basis.LICENSED))
    assert people.texts() == set()


def test_what_is_under_hold_is_not_erased_and_the_erasure_says_so(people):
    async def story():
        held, other = [await people.decided(QUIET, reference="Jane") for _ in range(2)]
        await people.said(held, Verdict.BLOCK, reason="about Jane")
        hold = await people.held(decision=held.id)
        first = await people.erased("Jane")
        texts = people.texts()
        await people.holds.release(people.tenant, hold.id, reason="over", actor="k", at=datetime.now(UTC))
        return hold, first, texts, await people.erased("Jane"), other

    hold, first, texts, second, _ = asyncio.run(story())
    assert (first.erased, first.held, first.holds) == (1, 2, (hold.id,))
    assert texts >= {"Jane", "about Jane"}
    assert (second.erased, second.held, second.holds) == (2, 0, ())
    assert not people.texts() & {"Jane", "about Jane"}


def test_what_a_hold_names_by_reference_is_erased_with_it_once_it_is_released_and_not_before(people):
    async def story():
        await people.decided(QUIET, reference="Jane")
        hold = await people.held(reference="Jane")
        first = await people.erased("Jane")
        await people.holds.release(people.tenant, hold.id, reason="over", actor="k", at=datetime.now(UTC))
        second = await people.erased("Jane")
        return first, second, await people.holds.get(people.tenant, hold.id)

    first, second, hold = asyncio.run(story())
    assert (first.erased, second.held, hold.reference) == (0, 0, "(erased)")
    assert "Jane" not in people.texts()


def test_a_hold_by_reference_covers_all_that_an_erasure_by_it_would_remove(people):
    async def story():
        consent = ConsentStatement(basis=Basis.LICENSED, statement="sold to us", reference="contract 7")
        await people.accepted(target_consent=consent)
        decision = await people.decided(QUIET, stage=Stage.SOURCE)
        media = {"sha256": decision.media.sha256, "size": decision.media.size, "type": "image/jpeg"}
        facts = {"id": decision.id, "tenant": people.tenant, "decision": decision.id, "actor": "k", "created_at": datetime.now(UTC)}
        await PostgresSources(people.pool).add(
            CatalogueSource(**media, **facts, consent=ConsentStatement(basis=Basis.SELF), label="contract 7")
        )
        hold = await people.held(reference="contract 7")
        first = await people.erased("contract 7")
        await people.holds.release(people.tenant, hold.id, reason="over", actor="k", at=datetime.now(UTC))
        return hold, first, await people.erased("contract 7")

    hold, first, second = asyncio.run(story())
    assert (first.erased, first.holds, second.held) == (0, (hold.id,), 0)
    assert first.held == second.erased > 2
    assert not {text for text in people.texts() if "contract 7" in text}


def test_another_tenants_texts_are_out_of_reach(people):
    async def story():
        await people.decided(QUIET, tenant=people.other, reference="Jane")
        return await people.erased("Jane")

    assert asyncio.run(story()).erased == 0
    assert people.rows("SELECT content FROM facegate.personal", people.other) == [("Jane",)]


def test_what_waits_in_the_queue_forgets_the_reference_and_what_runs_is_told_as_in_progress(people):
    async def story():
        payload = {"sha256": "ab" * 32, "reference": "Jane"}
        running = uuid7()
        await people.queue.put(id=uuid7(), tenant=people.tenant, kind="screening", payload=payload)
        await people.queue.put(id=running, tenant=people.tenant, kind="screening", payload=payload, leased_for_s=60)
        transform = await people.accepted(reference="Jane")
        job = await people.queue.take(("transform",), 60)
        return transform, job, await people.erased("Jane")

    transform, job, erasure = asyncio.run(story())
    assert job.id == transform.id
    assert (erasure.erased, erasure.in_progress) == (1, 2)
    assert people.rows("SELECT state, payload->>'reference' FROM facegate.job WHERE kind = 'screening' ORDER BY state") == [
        ("queued", None),
        ("running", "Jane"),
    ]
    assert people.texts() == {"Jane"}


def test_the_same_erasure_again_is_told_again_and_done_once(people):
    id = uuid7()

    async def story():
        await people.decided(QUIET, reference="Jane")
        first = await people.erased("Jane", id=id)
        await people.decided(QUIET, reference="Jane")
        return (
            first,
            await people.erased("Jane", id=id),
            await people.erasures.find(people.tenant),
            await people.erasures.find(people.other),
        )

    first, second, listed, elsewhere = asyncio.run(story())
    assert first == second
    assert (listed, elsewhere) == ([first], [])
    assert len(people.entries("erasure")) == 1


def test_more_than_is_erased_at_once_is_said_to_be_left(people):
    async def story():
        for _ in range(3):
            await people.decided(QUIET, reference="Jane")

    asyncio.run(story())
    outcome = erased_at_most(people, "reference", "Jane", 2)
    assert (outcome["erased"], outcome["is_complete"]) == (2, False)
    assert people.rows("SELECT count(*) FROM facegate.personal") == [(1,)]


def test_an_erasure_that_is_cut_says_so_whatever_the_person_has_written_about_few_decisions(people):
    async def story():
        for _ in range(2):
            decision = await people.decided(QUIET)
            facts = {"tenant": people.tenant, "decision": decision.id, "actor": "k", "subject": "Jim", "at": datetime.now(UTC)}
            await people.reviews.viewed(**facts, rendition="blurred")
            await people.said(decision, Verdict.BLOCK, who="Jim")

    asyncio.run(story())
    assert erased_at_most(people, "subject", "Jim", 3)["is_complete"] is False
    assert "Jim" in people.texts()
    assert erased_at_most(people, "subject", "Jim", 3)["is_complete"] is True
    assert "Jim" not in people.texts()


def erased_at_most(people: People, selector: str, text: str, most: int) -> dict[str, Any]:
    with as_role(people.urls.runtime, tenant=people.tenant) as cursor:
        id = str(uuid7())
        cursor.execute("INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'erasure', '')", (id, str(people.tenant)))
        cursor.execute("SELECT facegate.erase(%s, %s, %s, 'k', now(), %s)", (id, selector, text, most))
        (outcome,) = cursor.fetchone()
        return outcome


def test_nobody_removes_a_text_but_by_an_erasure_that_is_an_entry(people):
    asyncio.run(people.decided(QUIET, reference="Jane"))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        people.rows("DELETE FROM facegate.personal")
    with pytest.raises(psycopg2.errors.IntegrityConstraintViolation, match="without an entry"):
        people.rows(f"SELECT facegate.erase('{uuid7()}', 'reference', 'Jane', 'k', now())")
    assert people.texts() == {"Jane"}
