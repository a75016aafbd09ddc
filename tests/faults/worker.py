"""One worker process for the kill loop: `python -m tests.faults.worker RUNTIME_URL FOLDER`. Works until it is killed."""

import asyncio
import sys
from pathlib import Path

import numpy as np

from deployments.embedded_postgres import DatabaseUrls
from tests.gate_kit import Composing, joined, yard

LEASE_S = 1.0


def either(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Two halves of a marker are joined; anything else stays as it is."""
    is_half = all(((frame < 64) | (frame > 192)).mean() > 0.95 for frame in (source, target))
    return joined(source, target) if is_half else target


async def work(url: str, folder: Path) -> None:
    async with yard(DatabaseUrls(owner="", runtime=url, sealer=""), folder) as made:
        made.renderer = Composing(change=either)
        await made.worker(lease_s=LEASE_S, parallel=2).run()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2])))
