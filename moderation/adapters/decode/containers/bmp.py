"""BMP: the header, and how many bytes of pixels there must be."""

from __future__ import annotations

import struct

from moderation.adapters.decode.containers.layout import Layout


def walk_bmp(data: bytes, layout: Layout) -> None:
    """Header and, where pixels are not packed, how many bytes of them there must be."""
    declared, offset, header = struct.unpack("<I4xII", data[2:18])
    if header == 12:
        layout.width, height, _, layout.bit_depth = struct.unpack("<HHHH", data[18:26])
        compression = packed = 0
    else:
        layout.width, height, _, layout.bit_depth, compression, packed = struct.unpack("<IiHHII", data[18:38])
    layout.height = abs(height)
    layout.frames = 1
    if compression in (0, 3, 6):
        packed = (layout.width * layout.bit_depth + 31) // 32 * 4 * layout.height
    end = offset + packed
    if header >= 124 and len(data) >= 138:
        profile, size = struct.unpack("<II", data[126:134])
        if profile and size:
            end = max(end, 14 + profile + size)
    layout.truncated = end > len(data) or (compression not in (0, 3, 6) and declared > len(data))
    layout.end = end if compression in (0, 3, 6) else max(end, declared)
