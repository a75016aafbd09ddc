"""The micro-batcher, with a predict that is slow, short, poisonous or stuck."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.batcher import MicroBatcher
from moderation.errors import ClassifierFault, ClassifierUnavailable, Overloaded
from moderation.scores import InputScores

POISON = 255
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


def rows(*values: int, side: int = 4) -> list[np.ndarray]:
    return [np.full((side, side, 3), value, np.uint8) for value in values]


def values(scores: Sequence[Any]) -> list[int]:
    return [item.scores["value"] for item in scores]


class Model:
    """Answers with the first pixel of each row and remembers the sizes of its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[int] = []
        self.seconds = seconds
        self.release = threading.Event()
        self.release.set()

    def __call__(self, pixels: Sequence[np.ndarray]) -> list[InputScores]:
        self.release.wait(10)
        time.sleep(self.seconds)
        self.batches.append(len(pixels))
        if len({row.shape for row in pixels}) > 1:
            raise ValueError("they do not fit together")
        if any((row == POISON).any() for row in pixels):
            raise ValueError("poison")
        return [InputScores(scores={"value": int(row[0, 0, 0])}) for row in pixels]


def batcher(model: Callable[..., list[InputScores]], *, max_batch: int = 4, max_waiting: int = 100) -> MicroBatcher:
    return MicroBatcher(model, name="m", max_batch=max_batch, max_waiting=max_waiting, alike=lambda row: row.shape)


async def test_an_idle_model_starts_at_once_with_a_single_row():
    model = Model()
    assert values(await batcher(model).submit(rows(7), timeout_s=5)) == [7]
    assert model.batches == [1]


async def test_what_arrives_while_the_model_is_busy_is_taken_together_up_to_max_batch():
    model = Model()
    model.release.clear()
    b = batcher(model)
    calls = [asyncio.create_task(b.submit(rows(n), timeout_s=5)) for n in range(10)]
    await asyncio.sleep(0.05)
    model.release.set()
    assert [values(answer) for answer in await asyncio.gather(*calls)] == [[n] for n in range(10)]
    assert sum(model.batches) == 10
    assert max(model.batches) == 4


async def test_a_call_larger_than_a_batch_is_split_and_answered_in_order():
    model = Model()
    assert values(await batcher(model).submit(rows(*range(11)), timeout_s=5)) == list(range(11))
    assert model.batches == [4, 4, 3]


async def test_one_poisonous_row_fails_alone():
    model = Model()
    model.release.clear()
    b = batcher(model)
    calls = [asyncio.create_task(b.submit(rows(*some), timeout_s=5)) for some in ((0,), (1, POISON), (3,))]
    await asyncio.sleep(0.05)
    model.release.set()
    zero, (one, poisoned), three = await asyncio.gather(*calls)
    assert isinstance(poisoned, ClassifierFault)
    assert (values(zero), values([one]), values(three)) == ([0], [1], [3])


async def test_rows_of_other_sizes_never_share_a_batch():
    model = Model()
    model.release.clear()
    b = batcher(model)
    calls = [asyncio.create_task(b.submit(rows(n, side=4 + n % 2), timeout_s=5)) for n in range(4)]
    await asyncio.sleep(0.05)
    model.release.set()
    assert [values(answer) for answer in await asyncio.gather(*calls)] == [[n] for n in range(4)]
    assert model.batches == [1, 1, 1, 1]


async def test_a_full_queue_is_overloaded_and_a_lone_large_call_is_not():
    model = Model()
    b = batcher(model, max_waiting=3)
    assert len(await b.submit(rows(*range(9)), timeout_s=5)) == 9
    model.release.clear()
    first = asyncio.create_task(b.submit(rows(1), timeout_s=5))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(b.submit(rows(1, 2, 3), timeout_s=5))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await b.submit(rows(4), timeout_s=5)
    model.release.set()
    await asyncio.gather(first, second)
    assert b.waiting == 0


async def test_a_wedged_model_times_out_its_callers_and_shows_its_age():
    model = Model()
    model.release.clear()
    b = batcher(model)
    with pytest.raises(ClassifierUnavailable):
        await b.submit(rows(1), timeout_s=0.1)
    assert b.running_for_s > 0.05
    with pytest.raises(ClassifierUnavailable):
        await b.submit(rows(1), timeout_s=0.1)
    model.release.set()
    assert values(await b.submit(rows(2), timeout_s=5)) == [2]
    assert model.batches == [1, 1], "the row nobody waited for any more was not computed"
    assert b.running_for_s == 0.0


async def test_a_cancelled_caller_leaves_the_others_unharmed():
    model = Model()
    model.release.clear()
    b = batcher(model)
    busy, gone, kept = (asyncio.create_task(b.submit(rows(n), timeout_s=5)) for n in (1, 2, 3))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.sleep(0)
    model.release.set()
    assert values(await busy) == [1]
    assert values(await kept) == [3]
    assert b.waiting == 0


async def test_a_short_answer_is_a_fault():
    [outcome] = await batcher(lambda _: []).submit(rows(1), timeout_s=5)
    assert isinstance(outcome, ClassifierFault)
    assert "0 answers for 1" in str(outcome)


async def test_close_refuses_what_waits():
    model = Model()
    model.release.clear()
    b = batcher(model, max_batch=1)
    calls = [asyncio.create_task(b.submit(rows(n), timeout_s=5)) for n in range(3)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(b.close())
    await asyncio.sleep(0.05)
    model.release.set()
    await closing
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(a, ClassifierUnavailable) for a in answers)
