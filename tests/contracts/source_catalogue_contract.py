"""What every catalogue of approved faces promises, the one in memory and the real one alike."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from moderation.decision import Decision, Verdict
from moderation.media import Media, Stage
from moderation.ports import DecisionLog, ReviewLog, SourceCatalogue
from moderation.transform import Basis, CatalogueSource, ConsentStatement, Review
from tests.builders import LOUD, QUIET, make_decision, make_facts, make_review
from tests.contracts.transform_log_contract import DUE

FACE = "fa" * 32


@dataclass(kw_only=True)
class Shelf:
    """One catalogue with what it rests on, and two tenants."""

    sources: SourceCatalogue
    decisions: DecisionLog
    reviews: ReviewLog
    tenant: UUID
    other: UUID

    async def judged(self, scores: Any = QUIET, sha256: str = FACE, **changes: Any) -> Decision:
        defaults = {"id": uuid7(), "tenant": self.tenant, "created_at": datetime.now(UTC), "stage": Stage.SOURCE}
        decision = make_decision(scores, **{**defaults, "media": Media(sha256=sha256, size=5, facts=make_facts()), **changes})
        await self.decisions.append(decision)
        return decision

    def source(self, decision: Decision, **changes: Any) -> CatalogueSource:
        defaults = {
            "id": uuid7(),
            "tenant": decision.tenant,
            "sha256": decision.media.sha256,
            "size": decision.media.size,
            "type": "image/jpeg",
            "decision": decision.id,
            "consent": ConsentStatement(basis=Basis.SELF),
            "actor": "k" * 20,
            "created_at": datetime.now(UTC),
        }
        return CatalogueSource(**{**defaults, **changes})

    async def added(self, sha256: str = FACE, **changes: Any) -> CatalogueSource:
        return await self.sources.add(self.source(await self.judged(sha256=sha256), **changes))

    def review(self, source: CatalogueSource, verdict: Verdict) -> Review:
        named = make_decision(id=source.decision, tenant=source.tenant)
        return make_review(named, verdict, id=uuid7(), at=datetime.now(UTC))


async def is_refused(adding) -> bool:
    try:
        await adding
    except ValueError:
        return True
    return False


class SourceCatalogueContract:
    @pytest.fixture
    def shelf(self) -> Shelf:
        """Empty."""
        raise NotImplementedError

    def test_what_was_approved_is_found_by_its_bytes_and_its_id_exactly_as_it_was(self, shelf):
        async def story():
            consent = ConsentStatement(basis=Basis.LICENSED, statement="sold to us", reference="§ 7")
            source = await shelf.added(consent=consent, label="Ada")
            bare = await shelf.added("fb" * 32)
            return (
                source,
                bare,
                [
                    await shelf.sources.find(shelf.tenant, FACE),
                    await shelf.sources.get(shelf.tenant, source.id),
                    await shelf.sources.find(shelf.tenant, "fb" * 32),
                    await shelf.sources.find(shelf.tenant, "00" * 32),
                ],
            )

        source, bare, found = asyncio.run(story())
        assert found == [source, source, bare, None]

    def test_another_tenant_finds_and_removes_nothing(self, shelf):
        async def story():
            source = await shelf.added()
            seen = [
                await shelf.sources.find(shelf.other, FACE),
                await shelf.sources.get(shelf.other, source.id),
                await shelf.sources.list(shelf.other),
                await shelf.sources.remove(shelf.other, source.id, "k"),
            ]
            return source, seen, await shelf.sources.list(shelf.tenant)

        source, seen, own = asyncio.run(story())
        assert seen == [None, None, [], None]
        assert own == [source]

    def test_the_same_bytes_again_give_the_entry_that_there_is(self, shelf):
        async def story():
            first = await shelf.added()
            return first, await shelf.added(label="another name")

        first, second = asyncio.run(story())
        assert first == second

    def test_what_is_removed_is_gone_and_may_come_again(self, shelf):
        async def story():
            first = await shelf.added()
            removed = [await shelf.sources.remove(shelf.tenant, first.id, "k") for _ in range(2)]
            gone = [await shelf.sources.find(shelf.tenant, FACE), await shelf.sources.get(shelf.tenant, first.id)]
            second = await shelf.added()
            return first, removed, gone, second, await shelf.sources.find(shelf.tenant, FACE)

        first, removed, gone, second, found = asyncio.run(story())
        assert (removed, gone) == ([first, None], [None, None])
        assert found == second
        assert second.id != first.id

    def test_what_is_removed_does_not_come_back_by_the_same_entry(self, shelf):
        async def story():
            source = await shelf.added()
            await shelf.sources.remove(shelf.tenant, source.id, "k")
            return await is_refused(shelf.sources.add(source)), await shelf.sources.list(shelf.tenant)

        assert asyncio.run(story()) == (True, [])

    def test_what_is_not_there_cannot_be_removed(self, shelf):
        assert asyncio.run(shelf.sources.remove(shelf.tenant, uuid7(), "k")) is None

    def test_what_a_person_blocks_can_be_removed(self, shelf):
        async def story():
            source = await shelf.added()
            await shelf.reviews.add(shelf.review(source, Verdict.BLOCK))
            return source, await shelf.sources.get(shelf.tenant, source.id), await shelf.sources.remove(shelf.tenant, source.id, "k")

        source, found, removed = asyncio.run(story())
        assert (found, removed) == (None, source)

    @pytest.mark.parametrize(
        "wrong", ["no decision", "another tenant's", "other bytes", "another stage", "blocked", "held", "error", "blocked by a person"]
    )
    def test_only_what_is_allowed_as_a_source_is_approved(self, shelf, wrong):
        async def spoiled() -> CatalogueSource:
            if wrong == "no decision":
                return shelf.source(make_decision(id=uuid7(), tenant=shelf.tenant, media=Media(sha256=FACE, size=5, facts=make_facts())))
            if wrong == "another tenant's":
                return shelf.source(await shelf.judged(tenant=shelf.other), tenant=shelf.tenant)
            if wrong == "other bytes":
                return shelf.source(await shelf.judged(sha256="00" * 32), sha256=FACE)
            changes: Any = {
                "another stage": {"stage": Stage.TARGET},
                "blocked": {"scores": LOUD},
                "held": {"scores": DUE},
                "error": {"verdict": Verdict.ERROR},
                "blocked by a person": {},
            }[wrong]
            source = shelf.source(await shelf.judged(**changes))
            if wrong == "blocked by a person":
                await shelf.reviews.add(shelf.review(source, Verdict.BLOCK))
            return source

        async def story():
            return await is_refused(shelf.sources.add(await spoiled())), await shelf.sources.list(shelf.tenant)

        assert asyncio.run(story()) == (True, [])

    def test_what_a_person_allowed_is_approved_and_what_one_blocks_later_is_no_more(self, shelf):
        async def story():
            source = shelf.source(await shelf.judged(DUE))
            await shelf.reviews.add(shelf.review(source, Verdict.ALLOW))
            added = await shelf.sources.add(source)
            before = await shelf.sources.find(shelf.tenant, FACE)
            await shelf.reviews.add(shelf.review(source, Verdict.BLOCK))
            after = [
                await shelf.sources.find(shelf.tenant, FACE),
                await shelf.sources.get(shelf.tenant, source.id),
                *await shelf.sources.list(shelf.tenant),
            ]
            return source, added, before, after

        source, added, before, after = asyncio.run(story())
        assert source == added == before
        assert after == [None, None]

    def test_a_face_that_a_person_blocked_is_not_approved_anew_by_another_decision_until_one_allows_it(self, shelf):
        async def story():
            first = await shelf.added()
            await shelf.reviews.add(shelf.review(first, Verdict.BLOCK))
            again = await is_refused(shelf.sources.add(shelf.source(await shelf.judged())))
            await shelf.reviews.add(shelf.review(first, Verdict.ALLOW))
            return again, await shelf.added()

        again, added = asyncio.run(story())
        assert again is True
        assert added.sha256 == FACE

    def test_entries_come_newest_first_and_one_more_than_asked_for(self, shelf):
        async def story():
            made = [await shelf.added(f"{number:02x}" * 32) for number in range(5)]
            first = await shelf.sources.list(shelf.tenant, limit=2)
            return made, first, await shelf.sources.list(shelf.tenant, limit=2, before=first[1].id)

        made, first, second = asyncio.run(story())
        newest = list(reversed(made))
        assert list(first) == newest[:3]
        assert list(second) == newest[2:5]
