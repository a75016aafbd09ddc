"""Dynamic batches: what waits is taken together as soon as the model is free; an idle model never waits for company.

Plain asyncio, no Ray: the classifier replica owns one, and its tests need nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from moderation.errors import ClassifierFault, ClassifierUnavailable, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from moderation.errors import ModerationError
    from moderation.scores import InputScores

    Pixels: TypeAlias = NDArray[np.uint8]
    """N x H x W x 3, RGB."""
    Predict: TypeAlias = Callable[[Pixels], Sequence[InputScores]]
    Outcome: TypeAlias = InputScores | ClassifierFault
    """Of one row."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """Some rows of one call, at most a batch; answered together."""

    pixels: Pixels
    deadline: float
    answer: asyncio.Future[list[Outcome]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class MicroBatcher:
    """Feeds one blocking `predict` from many callers, on one thread.

    `max_batch` bounds the rows of one forward pass, `max_waiting` the rows in the queue. A batch that
    fails is tried again row by row, so that one poisonous input fails alone.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        name: str,
        max_batch: int,
        max_waiting: int,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._predict = predict
        self._name = name
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._rows = 0
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"predict-{name}")
        self._running_since: float | None = None

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._rows

    @property
    def running_for_s(self) -> float:
        """Age of the running forward pass; 0.0 when idle. A wedged `predict` shows here."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    async def submit(self, pixels: Pixels, *, timeout_s: float) -> list[Outcome]:
        """For each row of `pixels`, in order, its scores, or the fault where `predict` fails on it.

        Raises Overloaded when the queue is full, ClassifierUnavailable when `timeout_s` passes first.
        """
        if self._rows + len(pixels) > self._max_waiting and self._rows:
            raise Overloaded(self._name)
        deadline = time.monotonic() + timeout_s
        parts = [_Waiting(pixels[at : at + self._max_batch], deadline) for at in range(0, len(pixels), self._max_batch)]
        self._queue.extend(parts)
        self._rows += len(pixels)
        if self._runner is None:
            self._runner = asyncio.get_running_loop().create_task(self._run())
        try:
            async with asyncio.timeout(timeout_s):
                return [outcome for part in parts for outcome in await part.answer]
        except TimeoutError:
            raise ClassifierUnavailable(f"{self._name}: no answer within {timeout_s:g} s") from None
        finally:
            for part in parts:
                part.answer.cancel()
                if part.answer.done() and not part.answer.cancelled():
                    part.answer.exception()  # seen, also where an earlier part failed first

    async def close(self) -> None:
        """Refuse what waits; a forward pass that runs is left to its thread."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        while self._queue:
            _refuse(self._queue.popleft(), ClassifierUnavailable(f"{self._name}: stopping"))
        self._rows = 0
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        try:
            while batch := self._take():
                try:
                    await self._answer(batch)
                finally:  # only where we are stopping; `_answer` leaves nobody without an answer
                    for part in batch:
                        _refuse(part, ClassifierUnavailable(f"{self._name}: stopping"))
        finally:
            self._runner = None

    def _take(self) -> list[_Waiting]:
        """The longest prefix of the queue that fits a batch, without what nobody waits for any more."""
        batch: list[_Waiting] = []
        rows, now = 0, time.monotonic()
        while self._queue:
            part = self._queue[0]
            if part.answer.done() or part.deadline <= now:
                self._rows -= len(self._queue.popleft().pixels)
                continue
            if batch and (rows + len(part.pixels) > self._max_batch or part.pixels.shape[1:] != batch[0].pixels.shape[1:]):
                break
            batch.append(self._queue.popleft())
            rows += len(part.pixels)
        self._rows -= rows
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([part.pixels for part in batch])
        outcomes: list[Outcome]
        try:
            outcomes = list(await self._forward(pixels))
        except ClassifierFault as fault:
            outcomes = [fault] if len(pixels) == 1 else [await self._alone(pixels[row : row + 1]) for row in range(len(pixels))]
        at = 0
        for part in batch:
            if not part.answer.done():
                part.answer.set_result(outcomes[at : at + len(part.pixels)])
            at += len(part.pixels)

    async def _alone(self, row: Pixels) -> Outcome:
        try:
            return (await self._forward(row))[0]
        except ClassifierFault as fault:
            return fault

    async def _forward(self, pixels: Pixels) -> list[InputScores]:
        """One forward pass on the thread. Raises ClassifierFault on whatever goes wrong in it."""
        began = self._running_since = time.monotonic()
        try:
            scores = list(await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, pixels))
        except ClassifierFault:
            raise
        except Exception as error:
            raise ClassifierFault(f"{self._name}: {type(error).__name__}: {error}") from error
        finally:
            self._running_since = None
            if self._observe is not None:
                self._observe(len(pixels), time.monotonic() - began)
        if len(scores) != len(pixels):
            raise ClassifierFault(f"{self._name}: {len(scores)} answers for {len(pixels)} inputs")
        return scores


def _refuse(part: _Waiting, error: ModerationError) -> None:
    if not part.answer.done():
        part.answer.set_exception(error)
