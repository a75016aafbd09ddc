"""Small videos, and what is made of them: everything real but the face swap, which a test replaces by a change of its own."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from face_pipeline.faces import Face
from face_pipeline.movie import MovieSpec, SegmentEncoder, encode_sound, init_of, join
from moderation.adapters.classifiers.correlation import plant_marker
from moderation.frames import Pixels
from moderation.transform import Options

RATE = 25
SIDE = 96

Change = Callable[[int, Pixels], Pixels]
"""What becomes of the frame of this number."""


def drifting(frames: int, *, side: int = SIDE, seed: int = 0) -> list[Pixels]:
    """Soft colours that move slowly: nothing that a detector or a classifier finds anything in."""
    rng = np.random.default_rng(seed)
    base = np.kron(rng.integers(60, 196, (4, 4, 3)), np.ones((side // 4, side // 4, 1))).astype(np.uint8)
    return [np.roll(base, number, axis=1) for number in range(frames)]


def clip(frames: Sequence[Pixels], *, rate: int = RATE, with_sound: bool = True) -> bytes:
    """An ordinary MP4 of these frames, with a tone."""
    height, width = frames[0].shape[:2]
    seconds = Fraction(len(frames), rate)
    tone = (8000 * np.sin(np.arange(int(seconds * 16_000)) * 0.17)).astype(np.int16)[:, np.newaxis]
    track = encode_sound(tone, 16_000, starts_at=Fraction(0), ends_at=seconds) if with_sound else None
    spec = MovieSpec(
        width=width,
        height=height,
        time_base=Fraction(1, rate * 512),
        frame_rate=Fraction(rate),
        label=None,
        sound_rate_hz=track.rate_hz if track else None,
        sound_channels=track.channels if track else 0,
    )
    encoder = SegmentEncoder(spec, number=0, soundtrack=track)
    for number, frame in enumerate(frames):
        encoder.add(frame, number * 512)
    made = encoder.finish(len(frames) * 512, is_last=True)
    return join(init_of(spec), [made.media])


@functools.cache
def drifting_clip(frames: int = 60) -> bytes:
    return clip(drifting(frames))


@dataclass(frozen=True, kw_only=True)
class Done:
    """One frame that is done."""

    index: int
    frame: Pixels
    changed: int = 1
    covered: int = 0
    meant: tuple[Face, ...] = ()


@dataclass(kw_only=True)
class Changing:
    """Changes frames as a test says, and gives each back `delay` frames later, as a swap that looks ahead does."""

    change: Change
    delay: int = 3

    @property
    def swapper(self) -> str:
        return "test 1"

    @property
    def is_trained(self) -> bool:
        return False

    def begin(self, source: Pixels, options: Options, meant: Sequence[Face]) -> ChangingOne:  # noqa: ARG002
        return ChangingOne(change=self.change, delay=self.delay)


class ChangingOne:
    def __init__(self, *, change: Change, delay: int) -> None:
        self._change = change
        self._delay = delay
        self._held: deque[Done] = deque()

    @property
    def failure(self) -> None:
        return None

    def push(self, index: int, time_s: float, frame: Pixels) -> list[Done]:  # noqa: ARG002
        self._held.append(Done(index=index, frame=np.ascontiguousarray(self._change(index, frame))))
        return [self._held.popleft()] if len(self._held) > self._delay else []

    def flush(self) -> list[Done]:
        left, self._held = list(self._held), deque()
        return left


def as_it_is() -> Changing:
    return Changing(change=lambda _, frame: frame)


def marking(*numbers: int, share: float = 0.06) -> Changing:
    """A marker in a corner of these frames."""
    return Changing(change=lambda number, frame: plant_marker(frame, share=share, left=0.0, top=1.0) if number in numbers else frame)
