"""BMP: the header, how many bytes of pixels there must be, and where packed pixels lead."""

from __future__ import annotations

import struct
from typing import Final

from moderation.adapters.decode.containers.layout import Layout

_RLE8: Final = 1
_RLE4: Final = 2
_UNPACKED: Final = (0, 3, 6)
_OTHER_FILES: Final = (4, 5)
"""A JPEG or a PNG in place of pixels; nothing here opens one inside the other."""


def walk_bmp(data: bytes, layout: Layout) -> None:
    """Header and, where pixels are not packed, how many bytes of them there must be."""
    declared, offset, header = struct.unpack("<I4xII", data[2:18])
    if header == 12:
        layout.width, height, planes, layout.bit_depth = struct.unpack("<HHHH", data[18:26])
        compression = size = 0
    else:
        layout.width, height, planes, layout.bit_depth, compression, size = struct.unpack("<IiHHII", data[18:38])
    layout.height = abs(height)
    layout.frames = 1
    is_unpacked = compression in _UNPACKED
    packed = (layout.width * layout.bit_depth + 31) // 32 * 4 * layout.height if is_unpacked else size
    end = offset + packed
    if header >= 124 and len(data) >= 138:
        profile, length = struct.unpack("<II", data[126:134])
        if profile and length:
            end = max(end, 14 + profile + length)
    layout.truncated = end > len(data) or (not is_unpacked and declared > len(data))
    layout.end = end if is_unpacked else max(end, declared)
    if planes != 1:
        layout.broken = f"{planes} planes"
    elif is_unpacked and not layout.truncated and offset + size > len(data):
        layout.broken = f"{size} bytes of pixels declared"
    elif compression in _OTHER_FILES:
        layout.unsupported = "BMP around another file"
    elif compression in (_RLE8, _RLE4) and not layout.truncated:
        layout.broken = _runs(data, offset, layout, is_rle4=compression == _RLE4, is_top_down=height < 0)


def _runs(data: bytes, at: int, layout: Layout, *, is_rle4: bool, is_top_down: bool) -> str:
    """What is wrong with run-length coded pixels that begin at `at`; "" where all viewers should agree about them.

    Some cut off what leaves its row and some go on in the next, some count positions from the file's start, and some pass
    over an empty row: none of that is left to chance.
    """
    if is_top_down or at % 2 or layout.bit_depth != (4 if is_rle4 else 8):
        return "runs that must not be there, or not here"
    width, height, x, y = layout.width, layout.height, 0, 0
    while y < height:
        count, value = data[at], data[at + 1]
        at += 2
        if count or value > 2:
            x += count or value
            if not count:
                pixels = (value + 1) // 2 if is_rle4 else value
                at += pixels + pixels % 2
        elif value == 0:
            if not x:
                return "an empty row"
            x, y = 0, y + 1
        elif value == 1:
            break  # whether that is too early, the decoder knows
        else:
            x, y, at = x + data[at], y + data[at + 1], at + 2
        if x > width:
            return "a run that leaves its row"
    return "a run that leaves the picture" if at > len(data) or y > height or (y == height and x) else ""
