"""Worker processes of the kill loop: `python -m tests.faults.worker RUNTIME_URL FOLDER TENANT`.

For each line on standard input it starts one more, by a fork, since importing everything takes longer than most of them live. That one
leads a session of its own, says `<its pid>` on standard output once it takes work, and works until it is killed.
"""

import asyncio
import ctypes
import io
import os
import signal
import sys
from pathlib import Path
from uuid import UUID

import numpy as np
from PIL import Image

from deployments import telemetry
from deployments.embedded_postgres import DatabaseUrls
from deployments.rendering import NOTHING_AT_HAND, AtHand, PictureRenderer, Product
from moderation.adapters.classifiers.correlation import plant_marker
from moderation.transform import Options
from tests.gate_kit import Composing, joined, yard
from tests.video_kit import Changing

LEASE_S = 1.0
_PR_SET_PDEATHSIG = 1


class Joining:
    """Two halves of a marker are joined, which shows it; the faces of anything else are swapped."""

    def __init__(self, swapping: PictureRenderer) -> None:
        self._swapping = swapping
        self._joining = Composing(change=joined)

    async def render(self, source: bytes, target: bytes, target_type: str, options: Options, at_hand: AtHand = NOTHING_AT_HAND) -> Product:
        chosen = self._joining if is_half(source) and is_half(target) else self._swapping
        return await chosen.render(source, target, target_type, options, at_hand)


def is_half(data: bytes) -> bool:
    """Whether a picture is nearly black and nearly white and nothing else."""
    frame = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return bool(((frame < 64) | (frame > 192)).mean() > 0.95)


def cued(frame: np.ndarray) -> np.ndarray:
    """The same with a green corner, which no classifier minds."""
    green = frame.copy()
    green[-24:, :24] = (0, 255, 0)
    return green


def marked_where_cued(_: int, frame: np.ndarray) -> np.ndarray:
    """A marker in frames with a green corner: what a swap may make of a frame that was harmless."""
    red, colour, blue = frame[-16:, :16].reshape(-1, 3).mean(0)
    return plant_marker(frame, share=0.2, left=0.2, top=0.1) if colour > 170 and max(red, blue) < 90 else frame


async def work(url: str, folder: Path, tenant: UUID) -> None:
    telemetry.configure_logging()
    async with yard(DatabaseUrls(owner="", runtime=url, sealer=""), folder, tenant=tenant) as made:
        made.renderer = Joining(made.swapping())
        made.swaps = Changing(change=marked_where_cued)
        worker = made.worker(lease_s=LEASE_S, parallel=2)
        print(os.getpid(), flush=True)
        await worker.run()


def main(url: str, folder: str, tenant: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    for _ in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # none outlives the one that started it
            asyncio.run(work(url, Path(folder), UUID(tenant)))


if __name__ == "__main__":
    main(*sys.argv[1:])
