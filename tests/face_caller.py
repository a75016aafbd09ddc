"""A worker's side of the face pipeline as a program of its own: `python -m tests.face_caller ADDRESS TASK`, one line of JSON out.

It joins the Ray cluster of a running service, whose environment it is started with, and calls `FaceAnalyzer` and `FaceSwapper` there
through the same handles as `TransformWorker`.

    requests N    N requests side by side, each a thread with a connection of its own and one large crop
    render        one whole render, compared with the same in this process
    outlive PID   renders until one that began after the death of process PID has come to its end
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import ray
from ray import serve

from deployments.app import APPLICATION
from deployments.drawn_faces import PEOPLE, Pixels, draw
from deployments.face_handles import FaceRefs, Faces, connect_faces
from deployments.settings import load_settings
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import FrontalCascade
from face_pipeline.errors import PipelineUnavailable
from face_pipeline.swapper import AlignedCrop, SwapTask

LARGE_PX = 768
POINTS = ((0.354, 0.456), (0.645, 0.456), (0.5, 0.611), (0.379, 0.777), (0.621, 0.777))
OUTLIVE_S = 90.0


def large_crop(seed: int) -> AlignedCrop:
    pixels = np.random.default_rng(seed).integers(0, 256, (LARGE_PX, LARGE_PX, 3), dtype=np.uint8)
    return AlignedCrop(pixels=pixels, points=tuple((x * LARGE_PX, y * LARGE_PX) for x, y in POINTS), yaw=0.0)


async def connect() -> Faces:
    refs = FaceRefs(*(serve.get_deployment_handle(name, APPLICATION) for name in ("FaceAnalyzer", "FaceSwapper")))
    return await connect_faces(refs, load_settings())


async def requests(count: int) -> dict[str, object]:
    connections = await asyncio.gather(*(connect() for _ in range(count)))
    tasks = []
    for number, faces in enumerate(connections):
        (identity,) = await asyncio.to_thread(faces.swapper.prepare, [large_crop(number)])
        tasks.append(SwapTask(target=large_crop(count + number), identity=identity))
    calls = [asyncio.to_thread(faces.swapper.swap, [task]) for faces, task in zip(connections, tasks, strict=True)]
    answers = await asyncio.gather(*calls)
    plain = ClassicalSwapper()
    expected = [plain.swap([SwapTask(target=task.target, identity=task.identity.value.identity)])[0] for task in tasks]
    right = [(answer.pixels == wanted.pixels).all() for (answer,), wanted in zip(answers, expected, strict=True)]
    return {"right": sum(map(bool, right))}


def pictures() -> tuple[Pixels, Pixels]:
    ada, bo = (draw(PEOPLE[name], side=320, eyes_px=72).pixels for name in ("ada", "bo"))
    return ada, bo


async def swapped(faces: Faces) -> pipeline.Rendered:
    return await asyncio.to_thread(pipeline.swap_face, *pictures(), detector=faces.detector, swapper=faces.swapper)


async def render() -> dict[str, object]:
    faces = await connect()
    far = await swapped(faces)
    near = pipeline.swap_face(*pictures(), detector=FrontalCascade(), swapper=ClassicalSwapper())
    return {
        "detector": faces.detector.name,
        "same": bool((far.frame == near.frame).all() and (far.mask == near.mask).all()),
        "changed": int((far.mask > 0).sum()),
    }


async def outlive(pid: int) -> dict[str, object]:
    faces = await connect()
    await swapped(faces)
    os.kill(pid, signal.SIGKILL)
    until, refused = time.monotonic() + OUTLIVE_S, 0
    while True:
        try:
            return {"changed": int((await swapped(faces)).mask.any()), "refused": refused}
        except PipelineUnavailable as unavailable:  # any other error ends this program
            refused += 1
            if time.monotonic() > until:
                raise
            await asyncio.sleep(unavailable.retry_after_s)


TASKS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, object]]]] = {"requests": requests, "render": render, "outlive": outlive}

if __name__ == "__main__":
    address, task, *arguments = sys.argv[1:]
    ray.init(address=address, _node_ip_address="127.0.0.1", namespace="facegate", log_to_driver=False, configure_logging=False)
    sys.stdout.write(json.dumps(asyncio.run(TASKS[task](*map(int, arguments)))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a handle's threads may hold up an orderly end for minutes; the cluster drops a driver whose connection is gone
