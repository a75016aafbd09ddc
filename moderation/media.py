"""Media: bytes as received or produced, named by SHA-256."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    """Where in its life a media is judged."""

    UPLOAD = "upload"
    SOURCE = "source"
    TARGET = "target"
    OUTPUT = "output"


class MediaKind(StrEnum):
    """What a viewer gets: one picture (or several without time), pictures in time, or a video."""

    IMAGE = "image"
    ANIMATION = "animation"
    VIDEO = "video"


class Unscreened(StrEnum):
    """What was present in a file and not judged; the policy says what that means."""

    AUDIO = "audio"
    TRAILING_DATA = "trailing_data"
    GAIN_MAP = "gain_map"
    THUMBNAIL = "thumbnail"
    SUBTITLES = "subtitles"
    DATA = "data"
    """Tracks and attachments that no player shows: time codes, measurements, fonts."""


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """Lower-case hex SHA-256 (FIPS 180-4), the name of a media."""
    return hashlib.sha256(data).hexdigest()


FRAME_DIGEST: Final = b"facegate frame 1\n"
"""What every frame digest begins with; another number for another rule."""


class FrameDigest:
    """Names what a still picture shows: `sha256:` and the lower-case hex SHA-256 of these bytes, one after the other.

    `FRAME_DIGEST`, width and height as unsigned 32-bit big-endian numbers, and the pixels, row by row from the top, each
    pixel R, G, B of one byte: upright, as sRGB, alpha laid on white. Nothing of the file goes in, so that a file whose metadata
    changed keeps its frame digest; two files of the same digest show exactly the same frame.
    """

    def __init__(self, width: int, height: int) -> None:
        self._hash = hashlib.sha256(FRAME_DIGEST + struct.pack(">II", width, height))

    def add(self, rows: bytes) -> None:
        """The next rows, 3 x width bytes each."""
        self._hash.update(rows)

    def text(self) -> str:
        """The digest of all rows so far."""
        return f"sha256:{self._hash.hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decoding found out about a media.

    `width` and `height` are pixels of the upright frame. `frames` is how many frames were really
    handed to the classifiers; `frames_declared` is what the container says, or None where it says nothing.

    The rest is mostly of videos, and left out of every document where it says nothing. `sampled` are the numbers of the frames that were
    handed over, ascending, where that was not every one; `dense` are those of them that were added around a near hit; `seed` is where
    the random phase came from; `undecoded` counts frames that were not decoded, because no other needs them and none of them was
    sampled; `cuts_left_out` counts scene cuts that were not handed over because there were too many. `frame_digest`
    names what the media shows, where all of it was handed over: of a video that is `moderation.frames.FilmDigest` over all frames, and
    of videos that were joined `joined_digest`; of a still picture `FrameDigest`, which only those that we made ourselves get.
    """

    type: str
    kind: MediaKind
    width: int
    height: int
    frames: int
    frames_declared: int | None
    duration_us: int | None = None
    unscreened: tuple[Unscreened, ...] = ()
    renderings: tuple[str, ...] = ("plain",)
    sampled: tuple[int, ...] = ()
    dense: tuple[int, ...] = ()
    seed: int | None = None
    undecoded: int = 0
    cuts_left_out: int = 0
    frame_digest: str | None = None

    def frame_numbers(self) -> tuple[int, ...]:
        """The numbers of the frames that were handed over, ascending."""
        return self.sampled or tuple(range(self.frames))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a media says about itself before a pixel of it is decoded; true only once it has been decoded.

    `type` is the media type by our own magic check, `width` and `height` are pixels of the upright frame.
    """

    type: str
    width: int
    height: int
    frames: int
    kind: MediaKind = MediaKind.IMAGE
    duration_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """Identity of bytes; `facts` is None for bytes that could not be opened."""

    sha256: str
    size: int
    facts: Facts | None = None

    @classmethod
    def of(cls, data: bytes) -> Media:
        """Step 1 of the gate: the name of the bytes as received."""
        return cls(sha256=sha256_of(data), size=len(data))
