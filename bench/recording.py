"""What recording costs: the same screener, once over Postgres and once over a list, in turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid4

import numpy as np
from uuid_utils.compat import uuid7

from deployments.policy_file import shipped_policy
from moderation.adapters.classifiers import Model
from moderation.adapters.decode import ChildDecoder
from moderation.decision import Decision
from moderation.frames import Input, Limits
from moderation.media import Stage
from moderation.ports import DecisionLog, Job, Recalled, ReuseKey, ScoreMemory
from moderation.scores import ClassifierVersion, InputScores
from moderation.screening import Order, Screener

AT_ONCE = 16


class ListLog:
    """A record in memory, for comparison only."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    async def append(self, decision: Decision, *, job: Job | None = None, keep_job: bool = False) -> None:  # noqa: ARG002  # the port's signature
        """Keep it."""
        self.decisions.append(decision)

    async def recall(self, key: ReuseKey) -> Recalled | None:  # noqa: ARG002
        """Nothing is ever remembered."""
        return None


class ThreadClassifier:
    """A model in threads of this process, one picture at a time in each."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._idle = list(models)
        self._threads = ThreadPoolExecutor(len(models))
        self.version: ClassifierVersion = models[0].version

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        """See the port."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._predict, inputs)

    def _predict(self, inputs: Sequence[Input]) -> list[InputScores]:
        model = self._idle.pop()
        try:
            return model.predict(np.stack([item.pixels for item in inputs]))
        finally:
            self._idle.append(model)


async def rate(
    log: DecisionLog,
    memory: ScoreMemory,
    decoder: ChildDecoder,
    classifier: ThreadClassifier,
    bodies: Iterator[bytes],
    tenant: UUID,
    seconds: float,
) -> float:
    """Pictures per second with `AT_ONCE` screenings at once."""
    screener = Screener(decoder=decoder, classifiers=[classifier], log=log, memory=memory, clock=lambda: datetime.now(UTC), limits=Limits())
    policy = shipped_policy("default")
    done, start = 0, time.perf_counter()

    async def client() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            order = Order(id=uuid7(), tenant=tenant, actor="bench", request_id=str(uuid4()), stage=Stage.UPLOAD, policy=policy)
            await screener.screen(next(bodies), order)
            done += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return done / (time.perf_counter() - start)
