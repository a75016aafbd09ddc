"""What screening a video costs over decoding and classifying it, and what memory its decode child takes."""

from __future__ import annotations

import asyncio
import io
import time
from fractions import Fraction
from pathlib import Path
from typing import Final
from uuid import uuid4

import av
import numpy as np
from PIL import Image
from uuid_utils.compat import uuid7

from bench import plain
from bench.recording import ListLog, ThreadClassifier
from bench.table import Figure
from deployments.policy_file import shipped_policy
from moderation.adapters.classifiers import Model
from moderation.adapters.clock import utc_now
from moderation.adapters.decode import ChildDecoder
from moderation.decision import Decision
from moderation.frames import DecodePlan, Limits
from moderation.media import Stage
from moderation.screening import Order, Screener, sampling_under

SECONDS: Final = 60
RATE: Final = 30
FULL_HD: Final = (1920, 1080)
UHD: Final = (3840, 2160)
SMALL: Final = (320, 240)
_PAN: Final = 2
"""Pixels by which the picture moves from one frame to the next."""


def clip(size: tuple[int, int], seconds: int, rate: int = RATE) -> bytes:
    """H.264 in MP4: a soft picture that moves slowly, with a cut every seven seconds."""
    width, height = size
    chance = np.random.default_rng(1)
    scenes = [
        np.asarray(
            Image.fromarray(chance.integers(0, 255, (height // 40, width // 20, 3), np.uint8)).resize(
                (2 * width, height), Image.Resampling.BICUBIC
            )
        )
        for _ in range(2)
    ]
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "superfast", "g": str(2 * rate)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * rate):
            left = _PAN * number % width
            picture = np.ascontiguousarray(scenes[number // (7 * rate) % 2][:, left : left + width])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def figures(rounds: int) -> list[Figure]:
    """Everything, on one thread for decoding and one for the classifier."""
    video = clip(FULL_HD, SECONDS)
    ratios, walls, frames = [], [], 0
    for _ in range(rounds):
        wall, decision = asyncio.run(_screened(video))
        facts = decision.media.facts
        if facts is None:
            raise RuntimeError(f"not judged: {decision.reasons}")
        frames = facts.frames
        apart = _decode_s(video) + frames * _classify_s(plain.classifier())
        ratios.append(apart / wall)
        walls.append(wall)
    one, ten = (asyncio.run(_peak_mb(clip(SMALL, seconds, rate=10), seconds + 1)) for seconds in (SECONDS, 10 * SECONDS))
    return [
        Figure(name="screening a video", value=sorted(walls)[rounds // 2], unit="s", note="60 s of 1080p30 H.264, default policy"),
        Figure(name="frames of it that were classified", value=frames, unit="", note=f"of {SECONDS * RATE}"),
        Figure(
            name="decoding and classifying over screening",
            value=sorted(ratios)[rounds // 2],
            unit="x",
            wanted=">= 0.8",
            note="(T_decode + n x t_classify) / T, one thread each",
        ),
        Figure(name="peak memory of a video's child, 4K", value=asyncio.run(_peak_mb(clip(UHD, 3), SECONDS)), unit="MB", wanted="<= 600"),
        Figure(
            name="its growth from one minute to ten",
            value=100 * (ten / one - 1),
            unit="%",
            wanted="<= 10",
            note=f"{one:.0f} to {ten:.0f} MB",
        ),
    ]


async def _screened(video: bytes) -> tuple[float, Decision]:
    """(seconds, decision) of one screening, with a child that is there already, as in a service."""
    decoder, log = ChildDecoder(1, videos=1), ListLog()
    classifier = ThreadClassifier([plain.classifier()])
    await decoder.start()
    try:
        screener = Screener(decoder=decoder, classifiers=[classifier], log=log, memory=log, clock=utc_now, limits=Limits())
        order = Order(id=uuid7(), tenant=uuid4(), actor="bench", request_id="", stage=Stage.UPLOAD, policy=shipped_policy("default"))
        begin = time.perf_counter()
        decision = await screener.screen(video, order)
        return time.perf_counter() - begin, decision
    finally:
        await decoder.close()


def _decode_s(video: bytes) -> float:
    """All frames, and nothing done with them."""
    begin = time.perf_counter()
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for _ in container.decode(stream):
            pass
    return time.perf_counter() - begin


def _classify_s(model: Model) -> float:
    """One input, one thread; the mean of twenty."""
    picture = np.random.default_rng(1).integers(0, 255, (1, plain.SIDE, plain.SIDE, 3), np.uint8)
    model.predict(picture)
    begin = time.perf_counter()
    for _ in range(20):
        model.predict(picture)
    return (time.perf_counter() - begin) / 20


async def _peak_mb(video: bytes, seconds: int) -> float:
    """The most memory that a child had which decoded it as an upload's is, the video itself included."""
    decoder = ChildDecoder(1, videos=1)
    await decoder.start()
    try:
        spec = plain.classifier().version.input
        limits = Limits(video_seconds=max(seconds, Limits().video_seconds))
        plan = DecodePlan(specs=(spec,), limits=limits, sampling=sampling_under(shipped_policy("default").sampling, seed=1))
        await decoder.decode(video, plan, _let_go)
        (pid,) = decoder.video_pids
        status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
    finally:
        await decoder.close()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


async def _let_go(_: object) -> None:
    pass
