"""Housekeeping: one sweep that fails does not keep the others from running."""

import asyncio

from deployments.housekeeping import Housekeeper
from moderation.errors import RecordUnavailable


def test_a_sweep_that_fails_does_not_stop_the_others():
    async def three() -> int:
        return 3

    async def broken() -> int:
        raise RecordUnavailable("away")

    async def none() -> int:
        return 0

    removed = asyncio.run(Housekeeper({"a": three, "b": broken, "c": none}).run_once())
    assert removed == {"a": 3, "c": 0}


def test_it_sweeps_again_after_its_interval():
    async def count_rounds() -> int:
        rounds = 0

        async def sweep() -> int:
            nonlocal rounds
            rounds += 1
            return 0

        running = asyncio.create_task(Housekeeper({"a": sweep}, every_s=0.0).run())
        while rounds < 3:
            await asyncio.sleep(0)
        running.cancel()
        return rounds

    assert asyncio.run(count_rounds()) >= 3
