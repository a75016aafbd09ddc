from __future__ import annotations

import asyncio

import pytest

from moderation.adapters.brief_memory import BriefMemory


class Source:
    """Counts loads; `gate` holds them back."""

    def __init__(self):
        self.loads = 0
        self.value = "first"
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None

    async def load(self):
        self.loads += 1
        value = self.value
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return value


def run(story, **options):
    async def with_source():
        time = [0.0]
        memory = BriefMemory(**{"clock": lambda: time[0], **options})
        return await story(memory, Source(), time)

    return asyncio.run(with_source())


def test_an_answer_is_used_until_it_is_a_second_old():
    async def story(memory, source, time):
        seen = []
        for now in (0.0, 0.5, 0.999, 1.0):
            time[0] = now
            seen.append((await memory.get("k", source.load), source.loads))
            source.value = "second"
        return seen

    assert run(story) == [("first", 1), ("first", 1), ("first", 1), ("second", 2)]


def test_age_counts_from_the_question_and_not_from_the_answer():
    async def story(memory, source, time):
        source.gate.clear()
        asking = asyncio.create_task(memory.get("k", source.load))
        await asyncio.sleep(0)
        time[0] = 0.9
        await asyncio.sleep(0)
        source.gate.set()
        await asking
        time[0] = 1.0
        await memory.get("k", source.load)
        return source.loads

    assert run(story) == 2


def test_a_hundred_callers_share_one_load():
    async def story(memory, source, _):
        answers = await asyncio.gather(*(memory.get("k", source.load) for _ in range(100)))
        return source.loads, set(answers)

    assert run(story) == (1, {"first"})


def test_absence_is_remembered_too():
    async def story(memory, source, _):
        source.value = None
        return [await memory.get("k", source.load) for _ in range(3)], source.loads

    assert run(story) == ([None] * 3, 1)


def test_a_failure_reaches_all_who_wait_and_is_not_remembered():
    async def story(memory, source, _):
        source.error = RuntimeError("down")
        failures = await asyncio.gather(*(memory.get("k", source.load) for _ in range(3)), return_exceptions=True)
        source.error = None
        return [type(failure) for failure in failures], await memory.get("k", source.load), source.loads

    assert run(story) == ([RuntimeError] * 3, "first", 2)


def test_a_caller_who_leaves_takes_nothing_from_the_others():
    async def story(memory, source, _):
        source.gate.clear()
        callers = [asyncio.create_task(memory.get("k", source.load)) for _ in range(3)]
        await asyncio.sleep(0)
        callers[0].cancel()
        source.gate.set()
        return await asyncio.gather(*callers, return_exceptions=True), source.loads

    (left, *stayed), loads = run(story)
    assert isinstance(left, asyncio.CancelledError)
    assert (stayed, loads) == (["first", "first"], 1)


def test_what_is_forgotten_while_it_is_loaded_is_not_kept():
    async def story(memory, source, _):
        source.gate.clear()
        asking = asyncio.create_task(memory.get("k", source.load))
        await asyncio.sleep(0.01)
        source.value = "second"
        memory.forget("k")
        source.gate.set()
        return await asking, await memory.get("k", source.load), await memory.get("k", source.load), source.loads

    assert run(story) == ("first", "second", "second", 2)


def test_the_memory_is_bounded_and_keeps_what_is_in_use():
    async def story(memory, source, _):
        for number in range(100):
            await memory.get("hot", source.load)
            await memory.get(number, source.load)
        before = source.loads
        await memory.get("hot", source.load)
        return before, source.loads, len(memory._known)

    assert run(story, size=10) == (101, 101, 10)


def test_errors_nobody_waits_for_are_no_noise(recwarn):
    async def story(memory, source, _):
        source.gate.clear()
        source.error = RuntimeError("down")
        asking = asyncio.create_task(memory.get("k", source.load))
        await asyncio.sleep(0)
        asking.cancel()
        source.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)
        return len(memory._loading)

    assert run(story) == 0
    assert not recwarn.list
