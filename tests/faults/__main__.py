"""`make faults`: transforms under fifty kill -9 of their workers, on a Postgres of its own."""

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from deployments.databases import upgrade_schema
from deployments.embedded_postgres import EmbeddedPostgres
from tests.faults.kill_loop import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="what was done, though not to the moment")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.kills} kills; some minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="facegate-faults-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "db")
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            print(asyncio.run(run(urls, Path(folder), kills=asked.kills, seed=asked.seed)))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
