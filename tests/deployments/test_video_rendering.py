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
import pytest

from deployments import video_rendering
from deployments.video_rendering import LEAD, FaceSwaps, Made, VideoRenderer, begins_at
from face_pipeline.faces import Face, Frame
from moderation.adapters.decode import ChildDecoder
from moderation.errors import MediaRefused, Refusal
from moderation.frames import Limits
from moderation.transform import Options, Span
from tests.builders import make_segment
from tests.gate_kit import jpeg
from tests.moving_faces import FPS, Clip, Painter
from tests.moving_faces import clip as moving
from tests.video_kit import clip

CUT_AT = LEAD + 10
PAIR = moving({"ada": lambda at: (90 + at / 2, 110), "bo": lambda at: (230 - at / 2, 130)}, CUT_AT + 4)
AWAY = range(45, 56)
"""Frames in which the one who is meant is out of the picture: among them the one `LEAD` before the end of the second segment."""
HIDING = moving({"ada": lambda at: (90 + at / 3, 110 if at not in AWAY else 900), "bo": lambda at: (235 - at / 3, 130)}, 2 * CUT_AT + 4)
SOURCE_MARK = 250


def grown(face: Face, factor: float) -> Face:
    return replace(face, width=face.width * factor, height=face.height * factor)


def numbered(frame: Frame, number: int) -> Frame:
    """With its number in a corner, in two digits to the base 16."""
    marked = frame.copy()
    marked[:16, :16], marked[:16, 16:32] = 16 * (number // 16), 16 * (number % 16)
    return marked


def number_of(frame: Frame) -> int:
    high, low = (round(float(frame[4:12, left : left + 8].mean()) / 16) for left in (4, 20))
    return 16 * high + low


class ByNumber:
    """Finds all faces of a film; in the first five frames the first one is the larger one, and then the second."""

    name = "by number"
    version = "1"
    max_side = 4096
    is_frontal_only = False

    def __init__(self, film: Clip) -> None:
        self._film = film

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        return [self._faces(number_of(frame)) for frame in frames]

    def _faces(self, number: int) -> tuple[Face, ...]:
        if number == SOURCE_MARK:
            return self._film.faces[0][:1]
        first, second = self._film.faces[number]
        faces = (grown(first, 1.2), second) if number < 5 else (first, grown(second, 1.2))
        return tuple(face for face in faces if face.top < self._film.frames[0].shape[0])


@asynccontextmanager
async def making(after, film=PAIR):
    decoder = ChildDecoder(children=1)  # STAND
    await decoder.start()
    swaps = FaceSwaps(detector=ByNumber(film), swapper=Painter())
    renderer = VideoRenderer(films=decoder, pictures=decoder, swaps=swaps, limits=Limits(), segment_s=Fraction(CUT_AT, FPS))
    target = clip([numbered(frame, number) for number, frame in enumerate(film.frames)], with_sound=False)
    source = jpeg(numbered(film.frames[0], SOURCE_MARK))
    try:
        async with renderer.making(source, target, Options(label=False), keeps_sound=False, after=after) as made:
            yield made
    finally:
        await decoder.close()


async def silent(_done: int, _total: int) -> None:
    """Nobody is told how far it is."""


def painted(made: Made, film: Clip = PAIR) -> list[tuple[bool, ...]]:
    """Which of the two faces is another now, frame by frame."""
    with av.open(io.BytesIO(made.head + made.media)) as file:
        frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in file.decode(video=0)]
    return [tuple(is_white(frame, face) for face in film.faces[made.first_frame + at]) for at, frame in enumerate(frames)]


def is_white(frame: Frame, face: Face) -> bool:
    x, y = (round(value) for value in face.points[2])
    return bool(np.mean(frame[y - 3 : y + 4, x - 3 : x + 4]) > 230)


def span_of(made: Made, number: int) -> Span:
    return Span(
        number=number, first_frame=made.first_frame, frames=made.frames, head=len(made.head), is_last=made.is_last, meant=made.meant
    )


def test_a_video_made_on_by_another_worker_goes_on_with_the_same_person_though_another_is_larger_by_now():
    async def story() -> tuple[Made, Made, Made]:
        async with making([]) as whole:
            first, second = await whole.segment(silent), await whole.segment(silent)
        async with making([make_segment(span=span_of(first, 1))]) as rest:
            return first, second, await rest.segment(silent)

    first, second, again = asyncio.run(story())
    assert [made.frames for made in (first, second, again)] == [CUT_AT, 4, 4]
    assert painted(first) == [(True, False)] * CUT_AT
    assert painted(second) == painted(again) == [(True, False)] * 4


def test_who_is_hidden_where_the_work_would_go_on_from_is_not_taken_for_somebody_else():
    async def story() -> tuple[list[Made], Made]:
        async with making([], HIDING) as whole:
            made = [await whole.segment(silent) for _ in range(3)]
        async with making([make_segment(span=span_of(one, number)) for number, one in enumerate(made[:2], 1)], HIDING) as rest:
            return made, await rest.segment(silent)

    made, again = asyncio.run(story())
    assert [len(one.meant) for one in made[:2]] == [1, 0]
    assert painted(made[2], HIDING) == painted(again, HIDING) == [(True, False)] * 4


def test_a_result_with_more_bytes_than_can_be_judged_is_given_up_while_it_is_made(monkeypatch):
    async def story() -> None:
        async with making([]) as whole:
            first = await whole.segment(silent)
        monkeypatch.setattr(video_rendering, "OWN_VIDEO_BYTES", len(first.head) + len(first.media) + 1000)
        async with making([]) as whole:
            assert await whole.segment(silent) == first
        monkeypatch.setattr(video_rendering, "OWN_VIDEO_BYTES", len(first.media) // 2)
        async with making([]) as whole:
            with pytest.raises(MediaRefused) as refused:
                await whole.segment(silent)
        assert refused.value.refusal is Refusal.PAYLOAD_TOO_LARGE

    asyncio.run(story())


PLACE = ((1.0, 2.0, 3.0, 4.0, 1.0, 5.0, 6.0),)


@pytest.mark.parametrize(
    ("meant", "expected"),
    [
        ([], (0, ())),
        ([()], (0, ())),
        ([(), PLACE], (70, PLACE)),
        ([PLACE, PLACE, ()], (70, PLACE)),
        ([PLACE, (), ()], (20, PLACE)),
        ([(), (), ()], (0, ())),
        ([PLACE, (), (), ()], (170, ())),
        ([(), (), (), (), PLACE], (220, PLACE)),
    ],
)
def test_work_goes_on_from_where_everybody_was_last_in_sight_as_far_back_as_anybody_is_remembered(meant, expected):
    spans = [
        Span(number=number, first_frame=50 * number, frames=50, head=1, is_last=False, meant=places) for number, places in enumerate(meant)
    ]
    assert begins_at(spans, 3) == expected
