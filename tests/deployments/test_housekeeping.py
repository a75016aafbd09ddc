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
    async def sweep_until_third_round() -> None:
        third, rounds = asyncio.Event(), 0

        async def sweep() -> int:
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                third.set()
            return 0

        running = asyncio.create_task(Housekeeper({"a": sweep}, every_s=0.0).run())
        await asyncio.wait_for(third.wait(), 5)
        running.cancel()

    asyncio.run(sweep_until_third_round())
