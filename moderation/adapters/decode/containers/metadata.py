"""EXIF and XMP: which way is up, whether previews are embedded, and nothing else."""

from __future__ import annotations

import re
import struct
from typing import Final

from moderation.adapters.decode.containers.layout import Layout

GAIN_MAP_SIGNS: Final = (b"hdrgm:", b"http://ns.adobe.com/hdr-gain-map/", b"HDRGainMap", b"urn:iso:std:iso:ts:21496")

_XMP_ORIENTATION: Final = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*(\d{1,5})")
_XMP_THUMBNAIL: Final = (b"xmpGImg:image", b"GImage:Data", b"GDepth:Data")


def exif(body: bytes, layout: Layout) -> None:
    """Orientation of the first directory; thumbnail of the second. Nothing else of EXIF is read."""
    first, following = directory(body, None)
    for tag, kind, _, value in first:
        if tag == 0x0112:
            layout.orientations.append(_short(body, kind, value))
    if not following:
        return
    second, _ = directory(body, following)
    offset = size = 0
    for tag, kind, _, value in second:
        if tag == 0x0201:
            offset = _short(body, kind, value)
        elif tag == 0x0202:
            size = _short(body, kind, value)
        elif tag == 0x0111:
            layout.thumbnail = True
    if offset and size:
        layout.thumbnail = True
        layout.thumbnails.append(body[offset : offset + size])


def xmp(body: bytes, layout: Layout) -> None:
    """Orientation, gain map and embedded previews of an XMP packet."""
    layout.orientations += [int(found) for found in _XMP_ORIENTATION.findall(body)[:4]]
    layout.gain_map |= any(sign in body for sign in GAIN_MAP_SIGNS)
    layout.thumbnail |= any(sign in body for sign in _XMP_THUMBNAIL)


def order_of(body: bytes) -> str:
    """The byte order that a TIFF block names, as `struct` spells it."""
    return ">" if body[:1] == b"M" else "<"


def _short(body: bytes, kind: int, value: bytes) -> int:
    order = order_of(body)
    return int(struct.unpack(order + "H", value[:2])[0]) if kind == 3 else int(struct.unpack(order + "I", value)[0])


def directory(body: bytes, at: int | None) -> tuple[list[tuple[int, int, int, bytes]], int]:
    """Entries (tag, type, count, 4 value bytes) of one directory and where the next one is; empty when unreadable."""
    order = order_of(body)
    try:
        if at is None:
            at = struct.unpack(order + "I", body[4:8])[0]
        count = struct.unpack(order + "H", body[at : at + 2])[0]
        entries = [
            (*struct.unpack(order + "HHI", body[where : where + 8]), body[where + 8 : where + 12])
            for where in range(at + 2, at + 2 + 12 * count, 12)
            if where + 12 <= len(body)
        ]
        tail = body[at + 2 + 12 * count : at + 6 + 12 * count]
        return entries, struct.unpack(order + "I", tail)[0] if len(tail) == 4 else 0
    except struct.error:
        return [], 0
