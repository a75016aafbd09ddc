"""Scene cuts, told by what changes between one frame and the next."""

from __future__ import annotations

import random
from typing import Any, Final, cast

from PIL import Image, ImageChops

_CELLS: Final = 24
"""Along the longer side, in which two frames are compared."""

_LINES: Final = 128
"""Of a frame, at least, that are compared; all lines of a small one."""

_CUT: Final = 12
"""Grey levels by which a cell has to differ from the frame before to be a cut, and more where its part of the frame is in motion, or all is."""

_CUT_TO_MOTION: Final = 2.0
_MOTION_KEPT: Final = 0.9
_PARTS: Final = 4
"""Along either side, in which motion is told."""

_SHARED_BY: Final = 2
"""Parts in motion that make the whole frame one that moves."""

MOST_CUTS: Final = 240
"""Frames of one video that are looked at because they are cuts. More would let a caller make every video cost as much as all of its frames."""


class Watcher:
    """Tells a frame that differs much from the one before, in some part of it. Where that part or most moves, more is needed to differ.

    What blinks in a corner hides nothing in the rest: only motion that many parts share counts for all of them.
    """

    left_out = 0
    """Cuts for which there was no room."""

    def __init__(self, chance: random.Random) -> None:
        """`chance` says which of the lines of a large frame are compared, and which cuts are left out where there are many."""
        self._before: list[Image.Image] | None = None
        self._motion = [0.0] * _PARTS**2
        self._chance = chance
        self._phase = chance.random()
        self._room = MOST_CUTS

    def is_cut(self, frame: Any) -> bool:
        """Whether `frame`, which comes right after the one before, begins another scene."""
        cells = [self._averaged(plane) for plane in _planes(frame)]
        before, self._before = self._before, cells
        if before is None or [cell.size for cell in before] != [cell.size for cell in cells]:
            return before is not None
        changes = list(map(max, *(_greatest(ImageChops.difference(one, other)) for one, other in zip(before, cells, strict=True))))
        shared = sorted(self._motion)[-_SHARED_BY]
        moving = [_CUT_TO_MOTION * max(motion, shared) for motion in self._motion]
        is_cut = any(change > max(_CUT, motion) for change, motion in zip(changes, moving, strict=True))
        learnt = [min(change, motion + _CUT) for change, motion in zip(changes, moving, strict=True)]
        self._motion = [_MOTION_KEPT * old + (1 - _MOTION_KEPT) * new for old, new in zip(self._motion, learnt, strict=True)]
        return is_cut

    def takes_one(self) -> bool:
        """Whether one more cut is looked at. From half of the room on by chance, so that nobody can use it up before what he hides."""
        takes = self._chance.random() * MOST_CUTS < 2 * self._room
        self._room -= takes
        self.left_out += not takes
        return takes

    def _averaged(self, plane: Any) -> Image.Image:
        """Some lines of it, averaged to a few cells."""
        step = max(plane.height // _LINES, 1)
        first = int(self._phase * step)
        height = (plane.height - first - 1) // step + 1
        lines = memoryview(plane)[first * plane.line_size :]
        image = _lines(lines, plane.width, height, plane.line_size * step)
        factor = max(max(plane.width, plane.height) // _CELLS, 1)
        return image.reduce((factor, max(factor // step, 1)))


def _greatest(change: Image.Image) -> list[int]:
    """Of each part of the frame."""
    width, height = change.size
    columns = [(width * n // _PARTS, max(width * (n + 1) // _PARTS, width * n // _PARTS + 1)) for n in range(_PARTS)]
    rows = [(height * n // _PARTS, max(height * (n + 1) // _PARTS, height * n // _PARTS + 1)) for n in range(_PARTS)]
    boxes = ((left, top, right, bottom) for top, bottom in rows for left, right in columns)
    return [cast("tuple[int, int]", change.crop(box).getextrema())[1] for box in boxes]


def _lines(raw: memoryview, width: int, height: int, stride: int) -> Image.Image:
    """A view of them, without a copy; the last line need not be followed by as many bytes as the others."""
    if len(raw) < stride * height:
        height -= 1
    return Image.frombuffer("L", (width, height), cast("Any", raw), "raw", "L", stride, 1)


_PLANAR: Final = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")


def _planes(frame: Any) -> tuple[Any, ...]:
    """Luma and both chromas."""
    if frame.format.name not in _PLANAR:
        frame = frame.reformat(format="yuv420p", threads=1)
    return tuple(frame.planes)
