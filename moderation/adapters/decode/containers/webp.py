"""WebP: RIFF chunks."""

from __future__ import annotations

import struct

from moderation.adapters.decode.containers.layout import MAX_PARTS, Layout
from moderation.adapters.decode.containers.metadata import exif, xmp


def walk_webp(data: bytes, layout: Layout) -> None:
    """RIFF chunks; the header's own size must fit the file."""
    size = struct.unpack("<I", data[4:8])[0] + 8
    layout.end = min(size + (size & 1), max(len(data), size))
    layout.truncated = size > len(data)
    layout.frames = 0
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > min(size, len(data)):
            break
        name, length = struct.unpack("<4sI", data[at : at + 8])
        body = data[at + 8 : at + 8 + min(length, 16)]
        layout.truncated |= at + 8 + length > len(data)
        if name == b"VP8X" and len(body) >= 10:
            layout.width, layout.height = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        elif name == b"ANMF":
            layout.frames += 1
        elif name == b"VP8 " and not layout.width and body[3:6] == b"\x9d\x01\x2a":
            layout.width, layout.height = (side & 0x3FFF for side in struct.unpack("<HH", body[6:10]))
        elif name == b"VP8L" and not layout.width and len(body) >= 5:
            bits = struct.unpack("<I", body[1:5])[0]
            layout.width, layout.height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif name == b"EXIF":
            raw = data[at + 8 : at + 8 + length]
            exif(raw[6:] if raw.startswith(b"Exif\0\0") else raw, layout)
        elif name == b"XMP ":
            xmp(data[at + 8 : at + 8 + length], layout)
        at += 8 + length + (length & 1)
    else:
        layout.broken = "too many chunks"
    layout.frames = layout.frames or 1
