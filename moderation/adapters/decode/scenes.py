"""Scene cuts, told by what changes between one frame and the next."""

from __future__ import annotations

from typing import Any, Final, cast

from PIL import Image, ImageChops

_CELLS: Final = 24
"""Along the longer side, in which two frames are compared."""

_LINES: Final = 128
"""Of a frame, at least, that are compared; all lines of a small one."""

_CUT: Final = 12
"""Grey levels by which a cell has to differ from the frame before to be a cut, and more where all is in motion."""

_CUT_TO_MOTION: Final = 2.0
_MOTION_KEPT: Final = 0.9


class Watcher:
    """Tells a frame that differs much from the one before, in some part of it. Where all moves, more is needed to differ."""

    def __init__(self, phase: float) -> None:
        """`phase`, in [0, 1), says which of the lines of a large frame are compared."""
        self._before: list[Image.Image] | None = None
        self._motion = 0.0
        self._phase = phase

    def is_cut(self, frame: Any) -> bool:
        """Whether `frame`, which comes right after the one before, begins another scene."""
        cells = [self._averaged(plane) for plane in _planes(frame)]
        before, self._before = self._before, cells
        if before is None or [cell.size for cell in before] != [cell.size for cell in cells]:
            return before is not None
        changes = (ImageChops.difference(one, other).getextrema() for one, other in zip(before, cells, strict=True))
        change = max(float(cast("tuple[int, int]", extrema)[1]) for extrema in changes)
        is_cut = change > max(_CUT, _CUT_TO_MOTION * self._motion)
        self._motion = _MOTION_KEPT * self._motion + (1 - _MOTION_KEPT) * min(change, _CUT_TO_MOTION * self._motion + _CUT)
        return is_cut

    def _averaged(self, plane: Any) -> Image.Image:
        """Some lines of it, averaged to a few cells."""
        step = max(plane.height // _LINES, 1)
        first = int(self._phase * step)
        height = (plane.height - first - 1) // step + 1
        lines = memoryview(plane)[first * plane.line_size :]
        image = _lines(lines, plane.width, height, plane.line_size * step)
        factor = max(max(plane.width, plane.height) // _CELLS, 1)
        return image.reduce((factor, max(factor // step, 1)))


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
