"""What a walk finds out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import Final, TypeAlias

MAX_PARTS: Final = 50_000
"""Chunks, boxes or segments in one file. The largest honest animations have a few thousand."""

_OF_STANDARD_RANGE: Final = 2
"""What Dolby Vision calls that kind of a base layer."""

MAX_TEXT: Final = 1 << 20
"""Bytes that one compressed text may unfold to."""


Data: TypeAlias = bytes | memoryview
"""A whole file."""


class TrackKind(Enum):
    """What a track of a video is to a player."""

    VIDEO = "video"
    SOUND = "sound"
    SUBTITLES = "subtitles"
    HIDDEN_PICTURES = "hidden pictures"
    """Depth, transparency and the like, which are pictures and not shown."""
    DATA = "data"


@dataclass(slots=True, kw_only=True)
class Track:
    """One track of a video. `frames` is how many samples or blocks the container states, None where it says nothing."""

    kind: TrackKind
    id: int = 0
    frames: int | None = None


@dataclass(slots=True, kw_only=True)
class Layout:
    """What a file says about itself. Sizes in pixels as stored; positions in bytes."""

    width: int = 0
    height: int = 0
    frames: int | None = None
    end: int | None = None
    """Where the last thing that belongs to the picture ends; None where that cannot be told."""
    truncated: bool = False
    broken: str = ""
    """Set when the structure contradicts itself so that no viewer should be trusted to agree with another."""
    unsupported: str = ""
    odd: str = ""
    """Something a strict caller must not publish."""
    gain_map: bool = False
    thumbnail: bool = False
    thumbnails: list[bytes] = field(default_factory=list)
    """Embedded previews that are JPEG files themselves."""
    orientations: list[int] = field(default_factory=list)
    turns: list[list[int]] = field(default_factory=list)
    """Orientations of each of `pictures`."""
    pictures: list[tuple[int, int]] = field(default_factory=list)
    """(start, end) of every JPEG stream in the file, in order."""
    unindexed: bool = False
    """One of `pictures` is named by no index: hardly any viewer shows it."""
    scans: int = 0
    bit_depth: int = 8
    colour_type: int = 0
    adobe: bool = False
    clean: bytes | None = None
    """The file without damaged parts that viewers skip; None when there are none."""
    variants: list[bytes] = field(default_factory=list)
    """The same file told to show what it holds beside what it shows by default."""
    tracks: list[Track] = field(default_factory=list)
    seconds: float = 0.0
    """The longest time that anything in a video says it lasts."""
    interlaced: bool = False
    pixel_aspect: Fraction | None = None
    """Width of a pixel in heights, where a video says that they are not square."""
    attached: int = 0
    """Files and cover pictures beside the tracks of a video."""
    fragment_frames: dict[int, int] = field(default_factory=dict)
    """Samples or blocks by the id of their track, outside of the track's own description."""


def is_also_plain(record: bytes) -> bool:
    """Whether a DOVIDecoderConfigurationRecord says that without it the pictures are those of an ordinary video, of standard range."""
    return record[4:5] != b"" and record[4] >> 4 == _OF_STANDARD_RANGE
