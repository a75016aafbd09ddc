"""Media: bytes as received or produced, named by SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decoding found out about a media.

    `width` and `height` are pixels of the upright frame. `frames` is how many frames were really
    handed to the classifiers; `frames_declared` is what the container says, or None where it says nothing.

    The rest is of videos, and left out of every document where it says nothing. `sampled` are the numbers of the frames that were
    handed over, ascending, where that was not every one; `dense` are those of them that were added around a near hit; `seed` is where
    the random phase came from; `undecoded` counts frames that were not decoded, because no other needs them and none of them was
    sampled; `cuts_left_out` counts scene cuts that were not handed over because there were too many. `frame_digest` is
    `moderation.frames.FilmDigest` over all frames, where all were handed over; of videos that were joined it is `joined_digest`.
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
