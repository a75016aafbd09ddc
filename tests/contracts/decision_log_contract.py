"""What every decision log promises, the one in memory that unit tests use and the real one alike."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from uuid_utils.compat import uuid7

from moderation.decision import Decision, Verdict
from moderation.media import Stage
from moderation.ports import DecisionFilter
from tests.builders import LOUD, QUIET, make_decision

TENANT, OTHER = uuid7(), uuid7()


def decided(scores=QUIET, **changes) -> Decision:
    return make_decision(scores, **{"id": uuid7(), "tenant": TENANT, "created_at": datetime.now(UTC), **changes})


class DecisionLogContract:
    @pytest.fixture
    def log(self):
        """Implements DecisionLog and DecisionReader; empty."""
        raise NotImplementedError

    def test_what_was_appended_is_read_back_exactly(self, log):
        decision = decided(LOUD)

        async def story():
            await log.append(decision)
            return await log.get(TENANT, decision.id)

        assert asyncio.run(story()) == decision

    def test_another_tenant_reads_nothing(self, log):
        decision = decided()

        async def story():
            await log.append(decision)
            return await log.get(OTHER, decision.id), await log.find(OTHER, DecisionFilter())

        assert asyncio.run(story()) == (None, [])

    def test_decisions_come_newest_first_and_one_more_than_asked_for(self, log):
        made = [decided() for _ in range(5)]

        async def story():
            for decision in made:
                await log.append(decision)
            first = await log.find(TENANT, DecisionFilter(limit=2))
            return first, await log.find(TENANT, DecisionFilter(limit=2, before=first[1].id))

        first, second = asyncio.run(story())
        newest = [decision.id for decision in reversed(made)]
        assert [d.id for d in first] == newest[:3]
        assert [d.id for d in second] == newest[2:5]

    @pytest.mark.parametrize(
        ("wanted", "matches"),
        [
            (DecisionFilter(verdict=Verdict.BLOCK), {"loud"}),
            (DecisionFilter(stage=Stage.OUTPUT), {"output"}),
            (DecisionFilter(reference="order-17"), {"referred"}),
            (DecisionFilter(since=datetime.now(UTC) + timedelta(days=1)), set()),
        ],
    )
    def test_filters_keep_what_they_name(self, log, wanted, matches):
        made = {
            "quiet": decided(),
            "loud": replace(decided(LOUD), verdict=Verdict.BLOCK),
            "output": decided(stage=Stage.OUTPUT),
            "referred": decided(reference="order-17"),
        }

        async def story():
            for decision in made.values():
                await log.append(decision)
            return await log.find(TENANT, wanted)

        assert {d.id for d in asyncio.run(story())} == {made[name].id for name in matches}
