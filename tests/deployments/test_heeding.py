"""Work that is left off once it is not wanted any more."""

from __future__ import annotations

import asyncio
import gc

import pytest

from deployments import heeding
from deployments.heeding import Heeding
from moderation.errors import FactsChanged, RecordUnavailable, StaleLease


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heeding, "EVERY_S", 0.001)


class Answers:
    """`heed`: raises these one after the other, None for nothing, and goes on with the last one."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            raise answer


class Endless:
    """Work that never ends, and knows whether it was left off."""

    def __init__(self) -> None:
        self.is_left = False

    async def work(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.is_left = True
            raise


async def quick() -> str:
    await asyncio.sleep(0)
    return "done"


def test_work_that_is_wanted_comes_to_its_end_however_often_that_is_asked():
    async def story():
        async with Heeding(answers := Answers(None)) as heeding:
            slow = await heeding.over(asyncio.sleep(0.05, "slow"))
            return slow, await heeding.over(quick()), answers.asked

    slow, done, asked = asyncio.run(story())
    assert (slow, done) == ("slow", "done")
    assert asked > 1


def test_one_listener_serves_all_work():
    async def story():
        before = len(asyncio.all_tasks())
        async with Heeding(Answers(None)) as heeding:
            during = [(await heeding.over(quick()), len(asyncio.all_tasks())) for _ in range(3)]
        return before, during, len(asyncio.all_tasks())

    before, during, after = asyncio.run(story())
    assert during == [("done", before + 1)] * 3
    assert after == before


@pytest.mark.parametrize("reason", [FactsChanged("cancelled"), StaleLease("another")])
def test_work_that_is_not_wanted_any_more_is_left_off_where_it_is_and_said_why(reason):
    async def story():
        endless = Endless()
        async with Heeding(Answers(None, reason)) as heeding:
            with pytest.raises(type(reason)):
                await heeding.over(endless.work())
        return endless.is_left

    assert asyncio.run(story())


def test_after_such_an_answer_the_next_work_is_listened_for_anew():
    async def story():
        async with Heeding(Answers(FactsChanged("a review"), None)) as heeding:
            with pytest.raises(FactsChanged):
                await heeding.over(Endless().work())
            return await heeding.over(asyncio.sleep(0.02, "went on"))

    assert asyncio.run(story()) == "went on"


def test_a_record_that_does_not_answer_stops_nothing():
    async def story():
        async with Heeding(answers := Answers(RecordUnavailable("down"))) as heeding:
            return await heeding.over(asyncio.sleep(0.05, "slow")), answers.asked

    slow, asked = asyncio.run(story())
    assert slow == "slow"
    assert asked > 1


def test_what_work_raises_is_raised_and_work_that_is_over_is_not_lost_to_an_answer_of_the_same_moment():
    async def fails() -> None:
        raise KeyError("its own")

    async def story():
        async with Heeding(Answers(FactsChanged("cancelled"))) as heeding:
            with pytest.raises(KeyError):
                await heeding.over(fails())
            await asyncio.sleep(0.02)  # it has been answered meanwhile
            return await heeding.over(instant())

    async def instant() -> str:
        return "committed"

    assert asyncio.run(story()) == "committed"


def test_whoever_is_cancelled_leaves_nothing_running_and_nothing_unsaid():
    async def story():
        endless = Endless()

        async def attempt() -> None:
            async with Heeding(Answers(None)) as heeding:
                await heeding.over(endless.work())

        task = asyncio.create_task(attempt())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return endless.is_left, len(asyncio.all_tasks())

    assert asyncio.run(story()) == (True, 1)
    gc.collect()
