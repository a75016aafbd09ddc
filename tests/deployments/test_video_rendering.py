"""A video that is made on by another worker: it goes on with the faces that the first one was changing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np

from deployments.video_rendering import LEAD, FaceSwaps, Made, VideoRenderer
from face_pipeline.faces import Face, Frame
from moderation.adapters.decode import ChildDecoder
from moderation.frames import Limits
from moderation.transform import Options, Span
from tests.builders import make_segment
from tests.gate_kit import jpeg
from tests.moving_faces import FPS, Painter
from tests.moving_faces import clip as moving
from tests.video_kit import clip

CUT_AT = LEAD + 10
PAIR = moving({"ada": lambda at: (90 + at / 2, 110), "bo": lambda at: (230 - at / 2, 130)}, CUT_AT + 4)
SOURCE_MARK = 250


def grown(face: Face, factor: float) -> Face:
    return replace(face, width=face.width * factor, height=face.height * factor)


def numbered(frame: Frame, number: int) -> Frame:
    """With its number in a corner."""
    marked = frame.copy()
    marked[:16, :16] = number
    return marked


class ByNumber:
    """Finds both faces; of five frames the first is the larger one, and then the second."""

    name = "by number"
    version = "1"
    max_side = 4096
    is_frontal_only = False

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        return [self._faces(round(float(frame[4:12, 4:12].mean()) / 5)) for frame in frames]

    def _faces(self, number: int) -> tuple[Face, ...]:
        if number == SOURCE_MARK // 5:
            return PAIR.faces[0][:1]
        first, second = PAIR.faces[number]
        return (grown(first, 1.2), second) if number < 5 else (first, grown(second, 1.2))


@asynccontextmanager
async def making(after):
    decoder = ChildDecoder(children=1)  # STAND
    await decoder.start()
    swaps = FaceSwaps(detector=ByNumber(), swapper=Painter())
    renderer = VideoRenderer(films=decoder, pictures=decoder, swaps=swaps, limits=Limits(), segment_s=Fraction(CUT_AT, FPS))
    target = clip([numbered(frame, 5 * number) for number, frame in enumerate(PAIR.frames)], with_sound=False)
    source = jpeg(numbered(PAIR.frames[0], SOURCE_MARK))
    try:
        async with renderer.making(source, target, Options(label=False), keeps_sound=False, after=after) as made:
            yield made
    finally:
        await decoder.close()


async def silent(_done: int, _total: int) -> None:
    """Nobody is told how far it is."""


def painted(made: Made) -> list[tuple[bool, bool]]:
    """Which of the two faces is another now, frame by frame."""
    with av.open(io.BytesIO(made.head + made.media)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return [tuple(is_white(frame, face) for face in PAIR.faces[made.first_frame + at]) for at, frame in enumerate(frames)]


def is_white(frame: Frame, face: Face) -> bool:
    x, y = (round(value) for value in face.points[2])
    return bool(np.mean(frame[y - 3 : y + 4, x - 3 : x + 4]) > 230)


def test_a_video_made_on_by_another_worker_goes_on_with_the_same_person_though_another_is_larger_by_now():
    async def story() -> tuple[Made, Made, Made]:
        async with making([]) as whole:
            first, second = await whole.segment(silent), await whole.segment(silent)
        span = Span(number=1, first_frame=0, frames=first.frames, head=len(first.head), is_last=False, meant=first.meant)
        async with making([make_segment(span=span)]) as rest:
            return first, second, await rest.segment(silent)

    first, second, again = asyncio.run(story())
    assert [made.frames for made in (first, second, again)] == [CUT_AT, 4, 4]
    assert painted(first) == [(True, False)] * CUT_AT
    assert painted(second) == painted(again) == [(True, False)] * 4
