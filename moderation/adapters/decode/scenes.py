"""Scene cuts, told by what changes between one frame and the next."""

from __future__ import annotations

import random
from collections import deque
from typing import Any, Final, cast

from PIL import Image, ImageChops

_CELLS: Final = 24
"""Along the longer side, in which two frames are compared."""

_LINES: Final = 128
"""Of a frame, at least, that are compared; all lines of a small one."""

_CUT: Final = 12
"""Grey levels by which a cell has to differ from the frame before to be a cut, and more where its part of the frame is in motion, or most are."""

_CUT_TO_MOTION: Final = 3.0
_MOST_MOTION: Final = 24
"""Grey levels a frame that are taken for motion, whatever moves there: nobody makes so much move that all else is hidden behind it."""

_MOTION_KEPT: Final = 0.9
_PARTS: Final = 4
"""Along either side, in which motion is told."""

_BESIDE: Final = tuple(
    tuple(_PARTS * y + x for y in range(_PARTS) for x in range(_PARTS) if max(abs(y - row), abs(x - column)) <= 1)
    for row in range(_PARTS)
    for column in range(_PARTS)
)
"""The parts around each part, with itself: what moves goes on into the next one."""

_REMEMBERED: Final = 8
"""Frames that were looked at, as different as cuts are and the last to be seen again. What looks like one of them is no cut, so that what goes
back and forth between them uses up nothing."""

MOST_CUTS: Final = 240
"""Frames of one video that are looked at because they are cuts. More would let a caller make every video cost as much as all of its frames."""

_SURE: Final = 4
"""Cuts of each part that are looked at in any case: what flickers elsewhere cannot use up their room."""

_SHARED_ROOM: Final = MOST_CUTS - _SURE * _PARTS**2
"""For all other cuts. Half of it is there from the beginning, the other half comes with the frames."""

_SCARCE: Final = 30
"""Where no more room is left than that, chance says which cuts are looked at, so that there is always some for those to come."""


class Watcher:
    """Tells which frames of a video are looked at beside those that are chosen beforehand: its scene cuts, as far as there is room.

    A cut differs much from the frame before, in some part of it, and from the frames that were looked at lately. Motion excuses a change
    up to a bound and not beyond it. So all that a caller gains by flashing and flickering are cuts that are left out, and these are counted.
    """

    left_out = 0
    """Cuts for which there was no room."""

    def __init__(self, chance: random.Random, frames: int) -> None:
        """`chance` says which of the lines of a large frame are compared, and which cuts are left out where there are many; `frames` are in all."""
        self._before: list[Image.Image] | None = None
        self._looked_at: deque[list[Image.Image]] = deque(maxlen=_REMEMBERED)
        self._motion = [0.0] * _PARTS**2
        self._cuts = [0] * _PARTS**2
        self._chance = chance
        self._phase = chance.random()
        self._room = _SHARED_ROOM / 2
        self._room_a_frame = _SHARED_ROOM / 2 / frames

    def looks_at(self, frame: Any, *, is_chosen: bool) -> bool:
        """Whether `frame`, which comes right after the one before, is looked at; always where it was chosen beforehand."""
        cells = [self._averaged(plane) for plane in _planes(frame)]
        parts = self._changed(cells)
        self._before = cells
        self._room += self._room_a_frame
        known = self._known(cells) if parts or is_chosen else None
        looks = is_chosen or (bool(parts) and known is None and self._takes(parts))
        if known is not None or looks:
            self._looked_at.append(known or cells)
        return looks

    def _known(self, cells: list[Image.Image]) -> list[Image.Image] | None:
        """Takes out what looks the same of the frames that were looked at."""
        for place, known in enumerate(self._looked_at):
            if _is_like(cells, known):
                del self._looked_at[place]
                return known
        return None

    def _changed(self, cells: list[Image.Image]) -> list[int]:
        """The parts that differ from the frame before by more than what moves there excuses."""
        before = self._before
        if before is None or _sizes(before) != _sizes(cells):
            return list(range(_PARTS**2)) if before is not None else []
        changes = list(map(max, *(_greatest(ImageChops.difference(one, other)) for one, other in zip(before, cells, strict=True))))
        excused = [max(_CUT, *(_CUT_TO_MOTION * self._motion[near] for near in beside)) for beside in _BESIDE]
        self._motion = [
            _MOTION_KEPT * motion + (1 - _MOTION_KEPT) * min(change, _MOST_MOTION)
            for change, motion in zip(changes, self._motion, strict=True)
        ]
        return [part for part, (change, most) in enumerate(zip(changes, excused, strict=True)) if change > most]

    def _takes(self, parts: list[int]) -> bool:
        """Whether there is room for a cut in these parts."""
        is_sure = any(self._cuts[part] < _SURE for part in parts)
        for part in parts:
            self._cuts[part] += 1
        takes = is_sure or self._chance.random() * _SCARCE < self._room
        self._room -= takes and not is_sure
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


def _sizes(cells: list[Image.Image]) -> list[tuple[int, int]]:
    return [plane.size for plane in cells]


def _is_like(cells: list[Image.Image], known: list[Image.Image]) -> bool:
    """Whether no cell of two frames differs by as much as a cut does."""
    return _sizes(cells) == _sizes(known) and all(
        cast("tuple[int, int]", ImageChops.difference(one, other).getextrema())[1] <= _CUT for one, other in zip(cells, known, strict=True)
    )


def _greatest(change: Image.Image) -> list[int]:
    """Of each part of the frame."""
    width, height = change.size
    columns = [(width * n // _PARTS, max(width * (n + 1) // _PARTS, width * n // _PARTS + 1)) for n in range(_PARTS)]
    rows = [(height * n // _PARTS, max(height * (n + 1) // _PARTS, height * n // _PARTS + 1)) for n in range(_PARTS)]
    cells = change.tobytes()  # some hundred: sixteen crops of Pillow's take twice as long
    lines = [cells[start : start + width] for start in range(0, len(cells), width)]
    return [max(max(line[left:right]) for line in lines[top:bottom]) for top, bottom in rows for left, right in columns]


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
