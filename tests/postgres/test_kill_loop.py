"""Five kill -9 of a worker in the midst of transforms; `make faults` does fifty."""

import asyncio

import pytest

from tests.faults.kill_loop import run

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def test_five_deaths_of_a_worker_lose_nothing_and_release_nothing_twice(database, tmp_path):
    ended = asyncio.run(run(database, tmp_path, kills=5, seed=20261126))
    assert sum(ended.values()) == 10
