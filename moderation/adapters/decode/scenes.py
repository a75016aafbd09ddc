"""Scene cuts, told by what changes between one frame and the next."""

from __future__ import annotations

from typing import Any, Final, cast

from PIL import Image, ImageChops

_CELLS: Final = 24
"""Along the longer side, in which two frames are compared."""

_CUT: Final = 12
"""Grey levels by which a cell has to differ from the frame before to be a cut, and more where all is in motion."""

_CUT_TO_MOTION: Final = 2.0
_MOTION_KEPT: Final = 0.9


class Watcher:
    """Tells a frame that differs much from the one before, in some part of it. Where all moves, more is needed to differ."""

    def __init__(self) -> None:
        self._before: list[Image.Image] | None = None
        self._motion = 0.0

    def is_cut(self, frame: Any) -> bool:
        """Whether `frame`, which comes right after the one before, begins another scene."""
        cells = _cells(frame)
        before, self._before = self._before, cells
        if before is None or [cell.size for cell in before] != [cell.size for cell in cells]:
            return before is not None
        changes = (ImageChops.difference(one, other).getextrema() for one, other in zip(before, cells, strict=True))
        change = max(float(cast("tuple[int, int]", extrema)[1]) for extrema in changes)
        is_cut = change > max(_CUT, _CUT_TO_MOTION * self._motion)
        self._motion = _MOTION_KEPT * self._motion + (1 - _MOTION_KEPT) * min(change, _CUT_TO_MOTION * self._motion + _CUT)
        return is_cut


_PLANAR: Final = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")


def _cells(frame: Any) -> list[Image.Image]:
    """Luma and both chromas, averaged to a few cells each."""
    if frame.format.name not in _PLANAR:
        frame = frame.reformat(format="yuv420p", threads=1)
    return [_small(_grey(plane)) for plane in frame.planes]


def _grey(plane: Any) -> Image.Image:
    return Image.frombuffer("L", (plane.width, plane.height), plane, "raw", "L", plane.line_size, 1)


def _small(image: Image.Image) -> Image.Image:
    factor = max(max(image.size) // _CELLS, 1)
    return image.reduce(factor)
