"""GIF: blocks up to the trailer."""

from __future__ import annotations

import struct

from moderation.adapters.decode.containers.layout import MAX_PARTS, Layout


def walk_gif(data: bytes, layout: Layout) -> None:
    """Blocks up to the trailer; every image descriptor is a frame."""
    layout.width, layout.height = struct.unpack("<HH", data[6:10])
    if not layout.width * layout.height:
        layout.broken = "a canvas without pixels"  # which some viewers take from the first frame and others from all
        return
    layout.frames = 0
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    for _ in range(40 * MAX_PARTS):
        kind = data[at]
        if kind == 0x3B:
            layout.end = at + 1
            return
        if kind == 0x21:
            at = _gif_blocks(data, at + 2)
        elif kind == 0x2C:
            left, top, width, height, flags = struct.unpack("<HHHHB", data[at + 1 : at + 10])
            # Decoders enlarge the canvas for a frame that lies outside.
            layout.width, layout.height = max(layout.width, left + width), max(layout.height, top + height)
            at = _gif_blocks(data, at + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
            layout.frames += 1
        elif kind == 0:
            at += 1  # a stray terminator, which every decoder skips
        else:
            layout.odd = "something between the blocks"
            layout.end = at
            return
    layout.broken = "too many blocks"


def _gif_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1
