"""`make faults`: transforms under fifty kill -9 of their workers, and two hundred videos with a marked frame somewhere, on a Postgres of its own."""

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from deployments.databases import upgrade_schema
from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
from tests.faults import kill_loop, marked_frames


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="what was done, though not to the moment")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.kills} kills, {asked.videos} videos; a good quarter of an hour", flush=True)
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
