"""`make faults`: two thousand orders of events around the gate, drawn anew each time; then, on a Postgres of its own, transforms under fifty kill -9
of their workers and two hundred videos with a marked frame somewhere.
"""

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from deployments.databases import upgrade_schema
from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from tests.faults import kill_loop, marked_frames
from tests.moderation.test_gate_machine import Orders


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="what was done, though not to the moment")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.orders} orders, {asked.kills} kills, {asked.videos} videos; some twenty minutes", flush=True)
    _orders(asked)
    with tempfile.TemporaryDirectory(prefix="facegate-faults-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "db")
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            for part, go in {"pictures": _pictures, "videos": _videos}.items():
                (Path(folder) / part).mkdir()
                go(urls, Path(folder) / part, asked)
        finally:
            postgres.stop()


def _orders(asked: argparse.Namespace) -> None:
    """The state machine of the tests with other orders each time, and longer ones. The seed says which."""
    if asked.orders:
        longer = settings(
            max_examples=asked.orders,
            stateful_step_count=50,
            deadline=None,
            database=None,
            derandomize=False,  # whatever the profile says
            suppress_health_check=[HealthCheck.too_slow],  # says more about the machine
        )
        run_state_machine_as_test(seed(asked.seed)(Orders), settings=longer)
        print(f"{asked.orders} orders of commits, crashes, reviews, policies, versions and cancels kept the promises", flush=True)


def _pictures(urls: DatabaseUrls, folder: Path, asked: argparse.Namespace) -> None:
    if asked.kills:
        print(asyncio.run(kill_loop.run(urls, folder, kills=asked.kills, seed=asked.seed)), flush=True)


def _videos(urls: DatabaseUrls, folder: Path, asked: argparse.Namespace) -> None:
    if asked.videos:
        with marked_frames.served(urls, folder) as (parts, server):
            ends = asyncio.run(marked_frames.run(urls, folder, parts, server, runs=asked.videos, seed=asked.seed))
        print(f"{ends.total()} videos, no marked frame reached a client: {', '.join(f'{count} {end}' for end, count in ends.items())}")


if __name__ == "__main__":
    main()
