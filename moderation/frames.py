"""Frames, and the inputs that classifiers see of them.

A frame is RGB uint8, H x W x 3, upright, with its time. A classifier never sees a file and
rarely a whole frame: the decoder makes *inputs*, model-sized pictures that together show what any
viewer could see of the frame, and only those travel between processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moderation.media import Facts

Pixels: TypeAlias = NDArray[np.uint8]
"""H x W x 3, RGB."""

Box: TypeAlias = tuple[int, int, int, int]
"""(left, top, width, height) in pixels."""


class Fit(StrEnum):
    """How a region of a frame becomes an input of the classifier's size."""

    STRETCH = "stretch"
    """Resize both sides independently."""
    LETTERBOX = "letterbox"
    """Keep the aspect, top left, the rest black."""
    CROP = "crop"
    """Resize the short side to `resize_to`, then as many overlapping centre-sized crops as show everything."""


class Resample(StrEnum):
    """Antialiased resampling filters by their Pillow names; nearest is deliberately missing."""

    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What one classifier wants to see: uint8 RGB of `height` x `width`."""

    width: int
    height: int
    fit: Fit
    resample: Resample = Resample.BILINEAR
    resize_to: int | None = None

    def region_box(self, box: tuple[float, float, float, float], region: Box) -> Box:
        """Turn a box in pixels of the input into pixels of the upright frame, clipped to `region`.

        `region` is the part of the frame that the input shows.
        """
        left, top, width, height = region
        if self.fit is Fit.LETTERBOX:
            scale_x = scale_y = max(width / self.width, height / self.height)
        else:
            scale_x, scale_y = width / self.width, height / self.height
        x0 = min(max(box[0] * scale_x, 0.0), width)
        y0 = min(max(box[1] * scale_y, 0.0), height)
        x1 = min(max((box[0] + box[2]) * scale_x, x0), width)
        y1 = min(max((box[1] + box[3]) * scale_y, y0), height)
        return (left + int(x0), top + int(y0), round(x1 - x0), round(y1 - y0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Input:
    """One model-sized picture of one frame.

    `rendering` names how the file was rendered: `plain`, `on_white`, `on_black`, `on_grey`, `no_alpha`,
    `icc`, `gamma`, `turned_90` and so on. `pixels` is `spec.height` x `spec.width` x 3, RGB.
    """

    spec: InputSpec
    frame: int
    time_us: int | None
    rendering: str
    region: Box
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One still picture in full: the frame that is worked on, or that a file of ours shows.

    `pixels` is `facts.height` x `facts.width` x 3, RGB as sRGB, upright, alpha laid on white, and cannot be written to.
    """

    pixels: Pixels
    facts: Facts

    @classmethod
    def of(cls, pixels: Pixels, facts: Facts) -> Picture:
        """A picture of a copy of these pixels. Raises ValueError where `facts` name another size."""
        if pixels.dtype != np.uint8 or pixels.shape != (facts.height, facts.width, 3):
            raise ValueError(f"{facts.height} x {facts.width} x 3 uint8 expected, got {pixels.shape} {pixels.dtype}")
        own = np.array(pixels, order="C")
        own.flags.writeable = False
        return cls(pixels=own, facts=facts)


FILM_DIGEST: Final = b"facegate film 2\n"
JOINED_DIGEST: Final = b"facegate joined film 1\n"


class FilmDigest:
    """Names what a whole video shows, frame by frame, whatever its times: SHA-256 of `FILM_DIGEST` and the frames' digests in order.

    The digest of one frame is made where it is decoded, of what the decoder hands out and before any colour is converted, so that it
    names what every player starts from. It is the SHA-256 of these bytes, one after the other: `facegate film frame 1` and a line
    feed; one line of ASCII that ends in a line feed, with single blanks between the name of the samples' format (FFmpeg's, such as
    `yuv420p`), width and height as coded, width and height as shown, the orientation (as EXIF counts it, 1 to 8, or 0 for one that
    means nothing), matrix, range, primaries and transfer as numbers of ITU-T H.273 (range: 1 limited, 2 full, 0 unstated), and 1
    where the frame is made of two fields, otherwise 0; then the samples of each plane in the format's order, row by row from the top,
    without anything between rows, those of more than 8 bits as 2 bytes, the lower one first.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256(FILM_DIGEST)

    def add(self, frame_digest: str) -> None:
        """The next frame, `sha256:<hex>`."""
        self._hash.update(_raw(frame_digest))

    def text(self) -> str:
        """The digest of all frames so far."""
        return f"sha256:{self._hash.hexdigest()}"


def film_digest(frame_digests: Iterable[str]) -> str:
    """`FilmDigest` of these frames."""
    whole = FilmDigest()
    for digest in frame_digests:
        whole.add(digest)
    return whole.text()


def joined_digest(digests: Iterable[str]) -> str:
    """Names what videos show one after the other, as one: SHA-256 of `JOINED_DIGEST` and their digests (`FilmDigest`) in order.

    So it follows from what is recorded of each. Who has the whole cuts it at their numbers of frames to get it again.
    """
    return f"sha256:{hashlib.sha256(JOINED_DIGEST + b''.join(map(_raw, digests))).hexdigest()}"


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix("sha256:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFacts:
    """What a player shows of a video, and when: `facts` with the frames that are presented, not those that are coded.

    `start` and `duration` are in units of `time_base` seconds; `start` is the time of the first frame on the player's time
    line, 0 or more. `frame_rate` is the mean number of frames a second. `frames` is how many will be shown.
    """

    facts: Facts
    time_base: Fraction
    frame_rate: Fraction
    start: int
    duration: int
    frames: int
    has_sound: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmFrame:
    """One frame that a player shows: H x W x 3 RGB, upright, with square pixels; cannot be written to.

    `index` counts from 0; `pts` and `duration` are in units of `FilmFacts.time_base`.
    """

    index: int
    pts: int
    duration: int
    pixels: Pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """The sound of a video, decoded: n x channels (1 or 2) of int16 at `rate_hz`.

    `starts_at` is when the first sample is heard, in seconds on the time line of the frames; it may be negative.
    """

    samples: NDArray[np.int16]
    rate_hz: int
    starts_at: Fraction


OWN_VIDEO_BYTES: Final = 1_000_000_000
"""Of a video that we made: five times what an upload may have, for it is encoded for quality and not for size."""

MOST_FRAMES_A_SECOND: Final = 240
"""Of a video as long as it may be; cameras for slow motion have this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what is opened. Sizes in bytes and pixels, times in seconds."""

    image_bytes: int = 20_000_000
    image_pixels: int = 64_000_000
    total_pixels: int = 400_000_000
    min_side: int = 32
    max_side: int = 30_000
    frames: int = 300
    decode_cpu_s: int = 10
    decode_wall_s: float = 20.0
    video_bytes: int = 200_000_000
    video_seconds: int = 120
    video_pixels: int = 4096 * 2304
    video_cpu_s: int = 240
    video_wall_s: float = 480.0

    @property
    def video_frames(self) -> int:
        """The most frames of one video."""
        return MOST_FRAMES_A_SECOND * self.video_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Which frames of a video go to the classifiers. An animation shows all of its frames always.

    One frame in every `interval_us`, or more often where that gives fewer than `min_frames`, beginning at a random place of the
    interval that follows from `seed`; with `first_and_last` those two; with `scene_cuts` every frame that differs much from the one
    before. `seed` is recorded with the decision.
    """

    interval_us: int
    min_frames: int
    first_and_last: bool
    scene_cuts: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """What the decoder is asked to make of a media.

    `strict` refuses files that different viewers may show differently, or that carry more than
    their picture. `declared_type` is the media type the caller claimed, if any. `sampling` says which frames of a video are
    shown, None every coded one. `only` names frames of a video instead, ascending and not empty: a second look at places
    that the first look left out. Where `videos` is false they are no supported media. `own_bytes` is for a file that we made
    ourselves: it may have so many bytes, whatever an upload may have, and how its frames are stored needs no guessing.
    """

    specs: tuple[InputSpec, ...]
    limits: Limits = Limits()
    strict: bool = False
    declared_type: str | None = None
    sampling: Sampling | None = None
    only: tuple[int, ...] | None = None
    videos: bool = True
    own_bytes: int | None = None
