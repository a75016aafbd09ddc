"""The same work without a server: what the service is held against.

`plain_rate` is the best arrangement on a few cores: one process a core, one thread each, a lean scaled decode and one
forward pass a picture, nothing checked and nothing recorded. `nudenet_rate` is the detector's own loop as its package
ships it.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from moderation.adapters.classifiers import Model, load

SIDE: Final = 320
SCALE_KEPT: Final = 2
"""libjpeg scales down to not less than twice the input. The service may not: what is only in high frequencies would be seen by no classifier."""

Work = Callable[[bytes], object]


def classifier() -> Model:
    """The one-command start's classifier, one thread."""
    return load("nudenet", models_dir=Path(), device="cpu", threads=1)


def scaled_pixels(data: bytes) -> np.ndarray:
    """Decode at reduced scale and letterbox: 1 x 320 x 320 x 3, RGB uint8."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        wanted = SIDE * SCALE_KEPT
        image.draft("RGB", (wanted, wanted * image.height // image.width))
        scale = SIDE / max(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    full = Image.new("RGB", (SIDE, SIDE))
    full.paste(small, (0, 0))
    return np.asarray(full)[None]


def plain_rate(pictures: Sequence[bytes], seconds: float) -> float:
    """Pictures per second of one process a core."""
    return _in_processes(_plain_work, len(os.sched_getaffinity(0)), pictures, seconds)


def nudenet_rate(pictures: Sequence[bytes], seconds: float) -> float:
    """Pictures per second of NudeDetector.detect in a loop, one process, its own default threads."""
    return _in_processes(_nudenet_work, 1, pictures, seconds)


def loop_latency(pictures: Sequence[bytes], seconds: float) -> float:
    """Median seconds a picture in a plain loop: one process, one thread."""
    work = _plain_work()
    times: list[float] = []
    work(pictures[0])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        work(pictures[len(times) % len(pictures)])
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _plain_work() -> Work:
    model = classifier()
    return lambda data: model.predict(scaled_pixels(data))


def _nudenet_work() -> Work:
    from nudenet import NudeDetector  # noqa: PLC0415  # only in the process that measures it

    detect: Work = NudeDetector().detect
    return detect


def _in_processes(make: Callable[[], Work], count: int, pictures: Sequence[bytes], seconds: float) -> float:
    context = mp.get_context("spawn")
    ends = []
    for number in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_loop, args=(make, theirs, list(pictures[number::count]), seconds), daemon=True)
        process.start()
        ends.append((ours, process))
    for ours, _ in ends:
        ours.recv()  # loaded and warm
    for ours, _ in ends:
        ours.send("go")
    rate = sum(float(ours.recv()) for ours, _ in ends)
    for _, process in ends:
        process.join()
    return rate


def _loop(make: Callable[[], Work], end: Connection, pictures: Sequence[bytes], seconds: float) -> None:
    work = make()
    for data in pictures[:3]:
        work(data)
    end.send("ready")
    end.recv()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work(pictures[done % len(pictures)])
        done += 1
    end.send(done / (time.perf_counter() - start))
