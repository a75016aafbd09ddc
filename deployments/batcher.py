"""Dynamic batches: what waits is taken together as soon as the model is free; an idle model never waits for company.

Plain asyncio, no Ray: the classifier replica owns one, and its tests need nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from deployments.faults import CLASSIFIER

if TYPE_CHECKING:
    from deployments.faults import Faults

Row = TypeVar("Row")
"""One piece of work: an input of a classifier, a frame, a crop."""
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Row, Answer]):
    """Some rows of one call, at most a batch; answered together."""

    rows: Sequence[Row]
    deadline: float
    answer: asyncio.Future[list[Answer | Exception]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class MicroBatcher(Generic[Row, Answer]):
    """Feeds one blocking `predict` from many callers, on one thread.

    `max_batch` bounds the rows of one pass, `max_waiting` the rows in the queue. Only rows that are `alike` share a pass. A
    batch that fails is tried again row by row, so that one poisonous row fails alone.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Row]], Sequence[Answer]],
        *,
        name: str,
        max_batch: int,
        max_waiting: int,
        alike: Callable[[Row], Hashable] = lambda _: None,
        faults: Faults = CLASSIFIER,
        observe: Callable[[Sequence[Row], float], None] | None = None,
    ) -> None:
        self._predict = predict
        self._name = name
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._alike = alike
        self._faults = faults
        self._observe = observe
        self._queue: deque[_Waiting[Row, Answer]] = deque()
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
        """Age of the running pass; 0.0 when idle. A wedged `predict` shows here."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    async def submit(self, rows: Sequence[Row], *, timeout_s: float) -> list[Answer | Exception]:
        """For each of `rows`, in order, its answer, or the fault where `predict` fails on it. The rows of one call are alike.

        Raises `faults.overloaded` when the queue is full, `faults.unavailable` when `timeout_s` passes first.
        """
        if self._rows + len(rows) > self._max_waiting and self._rows:
            raise self._faults.overloaded(self._name, 1.0)
        deadline = time.monotonic() + timeout_s
        parts: list[_Waiting[Row, Answer]] = [
            _Waiting(rows[at : at + self._max_batch], deadline) for at in range(0, len(rows), self._max_batch)
        ]
        self._queue.extend(parts)
        self._rows += len(rows)
        if self._runner is None:
            self._runner = asyncio.get_running_loop().create_task(self._run())
        try:
            async with asyncio.timeout(timeout_s):
                return [outcome for part in parts for outcome in await part.answer]
        except TimeoutError:
            raise self._faults.unavailable(f"{self._name}: no answer within {timeout_s:g} s") from None
        finally:
            for part in parts:
                part.answer.cancel()
                if part.answer.done() and not part.answer.cancelled():
                    part.answer.exception()  # seen, also where an earlier part failed first

    async def close(self) -> None:
        """Refuse what waits; a pass that runs is left to its thread."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        while self._queue:
            self._refuse(self._queue.popleft())
        self._rows = 0
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        try:
            while batch := self._take():
                try:
                    await self._answer(batch)
                finally:  # only where we are stopping; `_answer` leaves nobody without an answer
                    for part in batch:
                        self._refuse(part)
        finally:
            self._runner = None

    def _take(self) -> list[_Waiting[Row, Answer]]:
        """The longest prefix of the queue that fits a batch, without what nobody waits for any more."""
        batch: list[_Waiting[Row, Answer]] = []
        rows, now = 0, time.monotonic()
        while self._queue:
            part = self._queue[0]
            if part.answer.done() or part.deadline <= now:
                self._rows -= len(self._queue.popleft().rows)
                continue
            if batch and (rows + len(part.rows) > self._max_batch or self._alike(part.rows[0]) != self._alike(batch[0].rows[0])):
                break
            batch.append(self._queue.popleft())
            rows += len(part.rows)
        self._rows -= rows
        return batch

    async def _answer(self, batch: list[_Waiting[Row, Answer]]) -> None:
        rows = [row for part in batch for row in part.rows]
        outcomes: list[Answer | Exception]
        try:
            outcomes = [*await self._pass(rows)]
        except self._faults.fault as fault:
            outcomes = [fault] if len(rows) == 1 else [await self._alone(row) for row in rows]
        at = 0
        for part in batch:
            if not part.answer.done():
                part.answer.set_result(outcomes[at : at + len(part.rows)])
            at += len(part.rows)

    async def _alone(self, row: Row) -> Answer | Exception:
        try:
            return (await self._pass([row]))[0]
        except self._faults.fault as fault:
            return fault

    async def _pass(self, rows: list[Row]) -> list[Answer]:
        """One pass on the thread. Raises `faults.fault` on whatever goes wrong in it."""
        began = self._running_since = time.monotonic()
        try:
            answers = list(await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, rows))
        except self._faults.fault:
            raise
        except Exception as error:
            raise self._faults.fault(f"{self._name}: {type(error).__name__}: {error}") from error
        finally:
            self._running_since = None
            if self._observe is not None:
                self._observe(rows, time.monotonic() - began)
        if len(answers) != len(rows):
            raise self._faults.fault(f"{self._name}: {len(answers)} answers for {len(rows)} rows")
        return answers

    def _refuse(self, part: _Waiting[Row, Answer]) -> None:
        if not part.answer.done():
            part.answer.set_exception(self._faults.unavailable(f"{self._name}: stopping"))
