"""Evasion: a marker hidden in a video, and whether it is found where it was hidden.

On the way out every frame is looked at, so every hidden frame must be found: videos go through the real rendering with a swap
that changes nothing, and each segment is screened as the gate screens it. On the way in frames are sampled, so what is found is a
matter of how long and how large it is shown: that is drawn as a curve.

`python -m bench.evasion` prints the figures; `python -m bench.evasion --plot FILE.svg` draws the curve, which takes some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import struct
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Final, cast

import av
import numpy as np
from PIL import Image

from bench.curve import Line, draw
from bench.recording import ListLog, ThreadClassifier
from bench.table import Figure, show
from deployments.ids import new_id
from deployments.policy_file import shipped_policy
from deployments.video_rendering import VideoRenderer
from face_pipeline.errors import Failure
from face_pipeline.faces import Face
from moderation.adapters.classifiers.correlation import CorrelationClassifier, plant_marker
from moderation.adapters.decode import ChildDecoder
from moderation.decision import Decision, Verdict
from moderation.frames import Limits, Pixels
from moderation.media import Stage
from moderation.screening import Order, Screener
from moderation.transform import Options

WIDTH, HEIGHT, RATE = 320, 240, 25
LONG: Final = 3000
SHORT: Final = 150
CLOCK: Final = 90_000
SHARES: Final = (0.5, 0.2, 0.1, 0.05, 0.02)
"""Of the area of the frame."""
CLIP: Final = 125
"""Frames of a video on the way in."""
RUNS: Final = (1, 2, 5, 13, 25)
"""Frames for which the marker is shown."""
AT_ONCE: Final = 2
CALM, BUSY = 1, 6
"""Pixels by which the scene moves from frame to frame."""
AT_ONCE_LINE: Final = "2%, at once"
SAMPLES_ALONE: Final = "2%, at once, no cuts"


# --- videos --------------------------------------------------------------------------------------------


class Scene:
    """Soft shapes that drift by `speed` pixels a frame, with grain: nothing in it is like the marker. The same frames each time."""

    def __init__(self, speed: int, seed: int = 1) -> None:
        self._speed = speed
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(50, 200, (6, 16, 3), np.uint8)).resize((2 * WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        self._shapes = np.concatenate([np.asarray(coarse)] * 2, axis=1).astype(np.int16)
        self._grain = rng.integers(-6, 7, (HEIGHT, 2 * WIDTH, 1), np.int16)

    def frame(self, number: int) -> Pixels:
        """H x W x 3."""
        left, shift = number * self._speed % (2 * WIDTH), number * 37 % WIDTH
        seen = self._shapes[:, left : left + WIDTH] + self._grain[:, shift : shift + WIDTH]
        return cast("Pixels", np.clip(seen, 0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A marker: in which frames, how large, and where, as shares of the room left. One that fades comes and goes without a cut."""

    frames: range
    share: float
    left: float = 0.5
    top: float = 0.5
    fades: bool = False

    def into(self, pixels: Pixels, number: int) -> Pixels:
        """What frame `number` becomes of."""
        if number not in self.frames:
            return pixels
        marked = plant_marker(pixels, share=self.share, left=self.left, top=self.top)
        middle = (self.frames.start + self.frames.stop - 1) / 2
        strength = 1 - abs(number - middle) / (len(self.frames) / 2) if self.fades else 1.0
        return np.rint(pixels + strength * (marked.astype(np.float32) - pixels)).astype(np.uint8)


def video(plants: Collection[Plant], frames: int, *, speed: int = CALM, times: Sequence[int] | None = None) -> bytes:
    """An MP4 of the scene, `RATE` frames a second or at `times` in units of 1/90000 s."""
    scene, out = Scene(speed), io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        options = {"preset": "ultrafast", "x264-params": "log-level=none:bframes=0", "crf": "18"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        for number in range(frames):
            pixels = scene.frame(number)
            for plant in plants:
                pixels = plant.into(pixels, number)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number * CLOCK // RATE if times is None else times[number], Fraction(1, CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def trimmed(data: bytes, first: int) -> bytes:
    """The same file with an edit list by which players begin at frame `first`."""
    at = data.index(b"elst") + 12  # behind the name: version and flags, number of entries
    duration, start, rate = struct.unpack(">Iii", data[at : at + 12])
    ticks = _ticks(data)
    entry = struct.pack(">Iii", duration - first * 1000 // RATE, start + first * ticks // RATE, rate)
    return data[:at] + entry + data[at + 12 :]


def _ticks(data: bytes) -> int:
    """The media's time scale, from its header (version 0)."""
    at = data.index(b"mdhd") + 16
    return int.from_bytes(data[at : at + 4], "big")


# --- the way out -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unchanged:
    """A frame as it was."""

    index: int
    frame: Pixels
    changed: int = 1
    covered: int = 0
    meant: tuple[Face, ...] = ()


class NoSwap:
    """A swap that gives every frame back as it is; implements `Swaps` and `Swap`."""

    swapper = "none 0"
    is_trained = False
    failure: Failure | None = None

    def begin(self, source: Pixels, options: Options, meant: Sequence[Face]) -> NoSwap:  # noqa: ARG002  # the port's signature
        """Nothing is learnt."""
        return self

    def push(self, index: int, time_s: float, frame: Pixels) -> list[_Unchanged]:  # noqa: ARG002
        """The frame at once."""
        return [_Unchanged(index=index, frame=frame)]

    def flush(self) -> list[_Unchanged]:
        """Nothing is held."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Decoder, renderer and screener; the policy that names the marker."""

    renderer: VideoRenderer
    screener: Screener

    async def judged(self, data: bytes, stage: Stage, *, with_cuts: bool = True) -> Decision:
        """The decision about these bytes, under the shipped policy `marker`, or under one that does not look for scene cuts."""
        policy = shipped_policy("marker")
        policy = policy if with_cuts else replace(policy, sampling=replace(policy.sampling, scene_cuts=False))
        order = Order(id=new_id(), tenant=new_id(), actor="bench", request_id="bench", stage=stage, policy=policy)
        decision = await self.screener.screen(data, order)
        if decision.verdict is Verdict.ERROR:
            raise RuntimeError(f"not judged: {decision.reasons}")
        return decision

    async def segments(self, target: bytes) -> AsyncIterator[tuple[range, Decision]]:
        """What becomes of a video: the frames of each segment, and the decision about it."""
        out = io.BytesIO()
        Image.fromarray(Scene(CALM).frame(0)).save(out, "PNG")
        async with self.renderer.making(out.getvalue(), target, Options(), keeps_sound=False, after=()) as making:
            while True:
                made = await making.segment(_nobody)
                decision = await self.judged(made.head + made.media, Stage.OUTPUT)
                yield range(made.first_frame, made.first_frame + made.frames), decision
                if made.is_last:
                    return


async def _nobody(done: int, total: int) -> None:
    """Is told how far it is."""


@contextlib.asynccontextmanager
async def workshop() -> AsyncIterator[Workshop]:
    """All real but the swap and the record."""
    decoder, log = ChildDecoder(children=AT_ONCE + 1), ListLog()
    classifier = ThreadClassifier([CorrelationClassifier() for _ in range(AT_ONCE)])
    screener = Screener(decoder=decoder, classifiers=[classifier], log=log, memory=log, clock=lambda: datetime.now(UTC), limits=Limits())
    await decoder.start()
    try:
        yield Workshop(renderer=VideoRenderer(films=decoder, pictures=decoder, swaps=NoSwap(), limits=Limits()), screener=screener)
    finally:
        await decoder.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A video with markers, and the frames of its result in which they are seen."""

    name: str
    data: bytes
    seen: Sequence[int]


def hidden() -> Iterator[Hidden]:
    """One frame each: of every size somewhere in 3,000 frames, the first, the last, after a trim, under an edit list, for 1/90000 s."""
    rng = np.random.default_rng(7)
    spread = rng.permutation(np.arange(100, LONG - 100, LONG // 7))[: len(SHARES)].tolist()
    places = rng.random((len(SHARES), 2)).tolist()
    plants = [
        Plant(frames=range(number, number + 1), share=share, left=left, top=top)
        for number, share, (left, top) in zip(spread, SHARES, places, strict=True)
    ]
    ends = [Plant(frames=range(number, number + 1), share=SHARES[-1]) for number in (0, LONG - 1)]
    yield Hidden(name="one of 3,000", data=video([*plants, *ends], LONG), seen=sorted([*spread, 0, LONG - 1]))
    small = [Plant(frames=range(40, 41), share=SHARES[-1])]
    yield Hidden(name="after a trim", data=trimmed(video(small, SHORT), 40), seen=[0])
    yield Hidden(name="under an edit list", data=trimmed(video(small, SHORT), 60), seen=[])
    step = CLOCK // RATE
    blink = [number * step for number in range(SHORT)]
    blink[40] = blink[41] - 1
    yield Hidden(name="for 1/90000 s", data=video(small, SHORT, times=blink), seen=[40])


async def way_out(shop: Workshop) -> list[Figure]:
    """Segments with a hidden marker that are blocked for just that frame, and segments without one that are not."""
    found = []
    for case in hidden():
        caught = missed = wrong = 0
        async for frames, decision in shop.segments(case.data):
            wanted = {number - frames.start for number in case.seen if number in frames}
            named = {reason.frame for reason in decision.reasons if reason.verdict is Verdict.BLOCK}
            caught += decision.verdict is Verdict.BLOCK and bool(wanted & named)
            missed += bool(wanted) and not wanted & named
            wrong += decision.verdict is not Verdict.ALLOW and not wanted
        asked, name = caught + missed, f"out, {case.name}"
        if asked:
            found.append(Figure(name=name, value=100 * caught / asked, unit="% caught", wanted=">= 100", note=f"{asked} segments"))
        found.append(Figure(name=f"{name}: others stopped", value=wrong, unit="segments", wanted="<= 0"))
    return found


# --- the way in ------------------------------------------------------------------------------------------


async def way_in(shop: Workshop, trials: int) -> Mapping[str, Sequence[float]]:
    """By name of a line, for each of RUNS: how many per cent of the videos were not allowed. Places, times and phases are random."""
    rng, room = np.random.default_rng(3), asyncio.Semaphore(AT_ONCE)

    async def is_stopped(plant: Plant, *, with_cuts: bool) -> bool:
        async with room:
            data = await asyncio.to_thread(video, [plant], CLIP, speed=BUSY)
            return (await shop.judged(data, Stage.UPLOAD, with_cuts=with_cuts)).verdict is not Verdict.ALLOW

    async def rates(share: float, *, fades: bool = False, with_cuts: bool = True) -> list[float]:
        found = []
        for run in RUNS:
            firsts, places = rng.integers(0, CLIP - run + 1, trials).tolist(), rng.random((trials, 2)).tolist()
            plants = [
                Plant(frames=range(first, first + run), share=share, left=left, top=top, fades=fades)
                for first, (left, top) in zip(firsts, places, strict=True)
            ]
            found.append(100 * sum(await asyncio.gather(*(is_stopped(plant, with_cuts=with_cuts) for plant in plants))) / trials)
        return found

    least = SHARES[-1]
    alone = {AT_ONCE_LINE: await rates(least), SAMPLES_ALONE: await rates(least, with_cuts=False)}
    return {f"{share:.0%}, fading": await rates(share, fades=True) for share in SHARES} | alone


def plot(found: Mapping[str, Sequence[float]], trials: int) -> str:
    """The curve as SVG."""
    return draw(
        title="Uploaded video: how often a marker is not let pass",
        about=f"Policy marker: every 0.5 s and scene cuts. {CLIP // RATE} s of 320x240 in fast motion, 25 frames/s; {trials} random places and times each",
        x_label="shown for, seconds",
        y_label="held or blocked, per cent",
        at=[run / RATE for run in RUNS],
        lines=[Line(name=name, values=rates, is_dashed=name in (AT_ONCE_LINE, SAMPLES_ALONE)) for name, rates in found.items()],
    )


def figures_in(found: Mapping[str, Sequence[float]]) -> list[Figure]:
    """The same as figures."""
    return [
        Figure(name=f"in, {name}, for {run / RATE:g} s", value=rate, unit="% not allowed")
        for name, rates in found.items()
        for run, rate in zip(RUNS, rates, strict=True)
    ]


def figures() -> list[Figure]:
    """The way out."""
    return asyncio.run(measure(0))[0]


async def measure(trials: int) -> tuple[list[Figure], Mapping[str, Sequence[float]]]:
    """The way out, and with `trials` the way in."""
    async with workshop() as shop:
        return await way_out(shop), await way_in(shop, trials) if trials else {}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, help="measure the way in too, and draw its curve into this SVG file")
    parser.add_argument("--trials", type=int, default=8, help="videos for each size and length on the way in")
    asked = parser.parse_args()
    out, found = asyncio.run(measure(asked.trials if asked.plot else 0))
    if asked.plot:
        asked.plot.write_text(plot(found, asked.trials), encoding="utf-8")
    show([*out, *figures_in(found)])


if __name__ == "__main__":
    main()
