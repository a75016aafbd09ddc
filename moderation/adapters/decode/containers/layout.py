"""What a walk finds out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MAX_PARTS: Final = 50_000
"""Chunks, boxes or segments in one file. The largest honest animations have a few thousand."""

MAX_TEXT: Final = 1 << 20
"""Bytes that one compressed text may unfold to."""


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
