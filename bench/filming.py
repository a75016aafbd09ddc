"""What the gate adds to the making of a video: `python -m bench filming`.

A 720p clip is made as the worker makes it, segment by segment, and each segment is screened; at the end they are joined, signed and looked
at once more. CPU time is that of this process and of the decode children, so that a busy machine changes it little.
Only the record is left out: some ten commits a segment.
"""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from bench.movie import FPS, film
from bench.plain import classifier
from bench.recording import ThreadClassifier
from bench.table import Figure
from deployments.drawn_faces import portrait
from deployments.video_rendering import FaceSwaps, VideoRenderer
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import FrontalCascade
from face_pipeline.encoding import encode_picture
from face_pipeline.movie import MovieSpec, SegmentEncoder, encode_sound, init_of, join
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.provenance import C2paSigner, load_or_make_identity
from moderation.frames import OWN_VIDEO_BYTES, DecodePlan, Input, Limits
from moderation.ports import Claim
from moderation.transform import Options

SLACK_MS: Final = 6.0
MOST: Final = 1.2
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_T = TypeVar("_T")


@dataclass(slots=True)
class Counted:
    """CPU seconds by what they were spent on."""

    spent: dict[str, float] = field(default_factory=dict)

    async def of(self, what: str, work: Awaitable[_T]) -> _T:
        """The result of `work`, its CPU time noted."""
        before = self._now()
        try:
            return await work
        finally:
            self.spent[what] = self.spent.get(what, 0.0) + self._now() - before

    def _now(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime + sum(_children())


def _children() -> Iterator[float]:
    """CPU seconds of each child that lives: of decode children, some of which live for one video only."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():  # all are the main thread's
        with suppress(OSError):  # it has just ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            yield (int(fields[11]) + int(fields[12])) / _TICKS


async def _quiet() -> None:
    """Return once no child works: a film's goes on with the next frames, which belong to the making, until nobody takes them."""
    before = -1.0
    while (now := sum(_children())) != before:
        before = now
        await asyncio.sleep(0.1)


def target(seconds: int) -> bytes:
    """The drawn head, moving to and fro, with a tone."""
    frames = film().frames
    there_and_back = [*frames, *frames[::-1]]
    count = seconds * FPS
    tone = (8000 * np.sin(np.arange(seconds * 48_000) * 0.05)).astype(np.int16)[:, np.newaxis]
    track = encode_sound(tone, 48_000, starts_at=Fraction(0), ends_at=Fraction(seconds))
    spec = MovieSpec(
        width=1280,
        height=720,
        time_base=Fraction(1, FPS * 512),
        frame_rate=Fraction(FPS),
        label=None,
        sound_rate_hz=48_000,
        sound_channels=1,
    )
    encoder = SegmentEncoder(spec, number=0, soundtrack=track)
    for number in range(count):
        encoder.add(there_and_back[number % len(there_and_back)], number * 512)
    return join(init_of(spec), [encoder.finish(count * 512, is_last=True).media])


async def measure(seconds: int) -> list[Figure]:
    """One video, made and gated."""
    decoder = ChildDecoder(children=2)
    await decoder.start()
    swaps = FaceSwaps(detector=FrontalCascade(), swapper=ClassicalSwapper())
    renderer = VideoRenderer(films=decoder, pictures=decoder, swaps=swaps, limits=Limits())
    judge = ThreadClassifier([classifier()])
    plan = DecodePlan(specs=(judge.version.input,), limits=Limits(), own_bytes=OWN_VIDEO_BYTES)
    counted = Counted()
    source, data = encode_picture(portrait(96).pixels, "png", 90), await asyncio.to_thread(target, seconds)
    await asyncio.gather(*(decoder.probe(data, DecodePlan(specs=())) for _ in range(2)))  # as in a service: children for videos stay
    await _quiet()
    segments: list[bytes] = []
    heads: list[int] = []
    runs: list[int] = []
    inputs: list[Input] = []

    async def deliver(found: Sequence[Input]) -> None:
        inputs.extend(found)

    async def tell(_: int, __: int) -> None:
        return None

    first_at = 0.0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        signer = C2paSigner(load_or_make_identity(Path(folder)))
        async with renderer.making(source, data, Options(), keeps_sound=True, after=()) as making:
            while True:
                made = await counted.of("made", making.segment(tell))
                await counted.of("made", _quiet())
                segments.append(made.head + made.media)
                heads.append(len(made.head))
                runs.append(made.frames)
                inputs.clear()
                await counted.of("looked at", decoder.decode(segments[-1], plan, deliver))
                for start in range(0, len(inputs), 16):
                    await counted.of("judged", judge.classify(inputs[start : start + 16]))
                first_at = first_at or time.perf_counter() - started
                if made.is_last:
                    break
        whole = await counted.of("joined", renderer.join(segments, heads))
        await counted.of("joined", renderer.holds(whole, segments, heads))
        await counted.of("joined", renderer.stated(whole))
        claim = Claim(title="0" * 32, media_type="video/mp4", is_trained=False, swapper=swaps.swapper)
        signed = await counted.of("signed", signer.sign(whole, claim))
        await counted.of("looked at again", renderer.shown(signed, runs))
        signer.close()
    await decoder.close()
    return figures(counted.spent, sum(runs), first_at)


def figures(spent: dict[str, float], frames: int, first_s: float) -> list[Figure]:
    """Milliseconds of CPU per frame."""
    per = {what: 1000 * s / frames for what, s in spent.items()}
    added = sum(per.values()) - per["made"]
    bound = MOST * per["judged"] + SLACK_MS
    name = "video, CPU per 720p frame: "
    return [
        *(Figure(name=name + what, value=ms, unit="ms") for what, ms in per.items()),
        Figure(
            name=name + "added by the gate",
            value=added,
            unit="ms",
            wanted=f"<= {bound:.1f}",
            note="1.2 times the classifier's own, and 6 ms",
        ),
        Figure(name="video, gated over ungated", value=sum(per.values()) / per["made"], unit="of CPU"),
        Figure(name="video, first segment may be shown after", value=first_s, unit="s"),
    ]
