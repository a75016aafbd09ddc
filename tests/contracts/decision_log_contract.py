"""What every decision log promises, the one in memory that unit tests use and the real one alike."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from uuid_utils.compat import uuid7

from moderation.decision import Decision, Verdict
from moderation.errors import StaleLease
from moderation.media import Stage
from moderation.ports import DecisionFilter, Job, Queue, QueueState
from tests.builders import LOUD, QUIET, make_decision

TENANT, OTHER = uuid7(), uuid7()


def decided(scores=QUIET, **changes) -> Decision:
    return make_decision(scores, **{"id": uuid7(), "tenant": TENANT, "created_at": datetime.now(UTC), **changes})


async def leased(queue: Queue) -> Job:
    job = await queue.put(id=uuid7(), tenant=TENANT, kind="screening", payload={}, leased_for_s=30)
    assert job is not None
    return job


async def outcome_of(appending) -> type | None:
    try:
        await appending
    except StaleLease as stale:
        return type(stale)
    return None


class DecisionLogContract:
    @pytest.fixture
    def log(self):
        """Implements DecisionLog and DecisionReader; empty."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self):
        """Implements Queue over the jobs that `log` ends; empty."""
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

    @pytest.mark.parametrize(("keep_job", "state"), [(False, QueueState.DONE), (True, QueueState.RUNNING)])
    def test_a_job_ends_with_the_commit_of_its_decision_unless_it_is_kept(self, log, queue, keep_job, state):
        async def story():
            job = await leased(queue)
            await log.append(decided(), job=job, keep_job=keep_job)
            return await queue.state(TENANT, job.id)

        assert asyncio.run(story()) is state

    def test_a_job_is_kept_over_several_decisions_until_one_ends_it(self, log, queue):
        made = [decided() for _ in range(4)]

        async def story():
            job = await leased(queue)
            together = await asyncio.gather(*(outcome_of(log.append(decision, job=job, keep_job=True)) for decision in made[:2]))
            assert await queue.renew(job, 30)
            last = await outcome_of(log.append(made[2], job=job))
            after = await outcome_of(log.append(made[3], job=job, keep_job=True))
            return [*together, last, after], await log.find(TENANT, DecisionFilter())

        outcomes, found = asyncio.run(story())
        assert outcomes == [None, None, None, StaleLease]
        assert {decision.id for decision in found} == {decision.id for decision in made[:3]}

    @pytest.mark.parametrize("keep_job", [False, True])
    def test_a_worker_whose_job_was_leased_again_records_nothing(self, log, queue, keep_job):
        late, newer = decided(), decided()

        async def story():
            old = await leased(queue)
            await queue.fail(old, "too slow", retry_in_s=-1)  # due at once
            new = await queue.take(["screening"], 30)
            outcomes = [await outcome_of(log.append(late, job=old, keep_job=keep_job)), await outcome_of(log.append(newer, job=new))]
            return outcomes, await log.get(TENANT, late.id), await log.get(TENANT, newer.id)

        assert asyncio.run(story()) == ([StaleLease, None], None, newer)

    @pytest.mark.parametrize("keep_job", [False, True])
    def test_a_worker_whose_job_waits_for_another_records_nothing(self, log, queue, keep_job):
        decision = decided()

        async def story():
            job = await leased(queue)
            await queue.fail(job, "too slow", retry_in_s=3600)
            return await outcome_of(log.append(decision, job=job, keep_job=keep_job)), await log.get(TENANT, decision.id)

        assert asyncio.run(story()) == (StaleLease, None)
