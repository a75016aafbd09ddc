"""JPEG: every stream in the file."""

from __future__ import annotations

import re
import struct
from typing import Final

from moderation.adapters.decode.containers.layout import MAX_PARTS, Layout
from moderation.adapters.decode.containers.metadata import GAIN_MAP_SIGNS, directory, exif, order_of, xmp

MAX_PICTURES: Final = 512
"""Streams that an index may name beside those that follow one another; each costs a walk of its own."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_NOT_ZERO: Final = re.compile(rb"[^\x00]")
_SUPPORTED_SOFS: Final = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_SOFS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def walk_jpeg(data: bytes, layout: Layout) -> None:
    """Every picture of the file: those that follow one another, and those an MPF index points to."""
    at, indexed = 0, []
    while len(layout.pictures) < MAX_PARTS:
        one = Layout()
        pointed: list[tuple[int, int]] = []
        end = _stream(data, at, one, pointed)
        indexed += pointed
        _merge(layout, one, first=not layout.pictures)
        if end is None:
            layout.truncated = True
            return
        layout.pictures.append((at, end))
        layout.end = end
        at = _after_padding(data, end)
        if data[at : at + 3] != b"\xff\xd8\xff":
            break
    _add_indexed(data, layout, indexed)
    layout.frames = len(layout.pictures)


def _merge(layout: Layout, one: Layout, *, first: bool) -> None:
    if first:
        layout.width, layout.height = one.width, one.height
        layout.adobe, layout.bit_depth, layout.colour_type = one.adobe, one.bit_depth, one.colour_type
        layout.orientations = one.orientations
    layout.turns.append(one.orientations)
    layout.scans = max(layout.scans, one.scans)
    layout.gain_map |= one.gain_map
    layout.thumbnail |= one.thumbnail
    layout.thumbnails += one.thumbnails
    layout.unsupported = layout.unsupported or one.unsupported
    layout.odd = layout.odd or one.odd


def _after_padding(data: bytes, at: int) -> int:
    """The first byte after `at` that is not zero."""
    match = _NOT_ZERO.search(data, at)
    return match.start() if match else len(data)


def _add_indexed(data: bytes, layout: Layout, indexed: list[tuple[int, int]]) -> None:
    known = {start for start, _ in layout.pictures}
    layout.unindexed = bool(known - {0} - {start for start, _ in indexed})
    for start, size in indexed:
        if start in known:
            continue
        if len(known) > MAX_PICTURES:
            layout.broken = "too many pictures"
            return
        known.add(start)
        if data[start : start + 3] != b"\xff\xd8\xff":
            layout.odd = layout.odd or "the index of pictures points to something else"
            if start + size > len(data):
                layout.truncated = True
            continue
        one = Layout()
        end = _stream(data, start, one, [])
        if end is None:
            layout.truncated = True
            return
        layout.pictures.append((start, end))
        layout.end = max(layout.end or 0, end)
        _merge(layout, one, first=False)


def _stream(data: bytes, start: int, layout: Layout, indexed: list[tuple[int, int]]) -> int | None:
    """One JPEG from its SOI; returns where its EOI ends, or None when it breaks off."""
    at, is_scan = start + 2, False
    for _ in range(MAX_PARTS):
        match = _MARKER.search(data, at)
        if match is None:
            return None
        if not is_scan and data[at : match.start()].strip(b"\0\xff"):  # more than padding
            layout.odd = layout.odd or "something between the segments"
        marker, at = data[match.end() - 1], match.end()
        if marker == 0xD9:
            return at
        if marker in (0x01, 0xD8):
            continue
        if at + 2 > len(data):
            return None
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return None
        _segment(marker, data[at + 2 : at + length], at + 2, layout, indexed)
        at, is_scan = at + length, marker == 0xDA
    layout.odd = "too many segments"
    return None


def _segment(marker: int, body: bytes, at: int, layout: Layout, indexed: list[tuple[int, int]]) -> None:
    if marker in _SOFS:
        _frame_header(marker, body, layout)
    elif marker == 0xDA:
        layout.scans += 1
    elif marker == 0xE1:
        if body.startswith(b"Exif\0"):
            exif(body[6:], layout)
        else:
            xmp(body, layout)
    elif marker == 0xE2:
        layout.gain_map |= any(sign in body[:64] for sign in GAIN_MAP_SIGNS)
        if body.startswith(b"MPF\0"):
            _mpf(body[4:], at + 4, indexed)
    elif marker == 0xEE:
        layout.adobe |= body.startswith(b"Adobe")
    else:
        layout.thumbnail |= _is_thumbnail(marker, body)


def _frame_header(marker: int, body: bytes, layout: Layout) -> None:
    if len(body) < 6:
        return
    layout.bit_depth, layout.height, layout.width, layout.colour_type = struct.unpack(">BHHB", body[:6])
    if marker not in _SUPPORTED_SOFS:
        layout.unsupported = "lossless, hierarchical or differential JPEG"
    elif layout.bit_depth != 8:
        layout.unsupported = f"{layout.bit_depth}-bit JPEG"


def _is_thumbnail(marker: int, body: bytes) -> bool:
    """JFIF with a size for its preview, a JFIF extension, or Photoshop's resources 1033 and 1036."""
    if marker == 0xE0:
        return body.startswith(b"JFXX\0") or (body.startswith(b"JFIF\0") and len(body) > 13 and body[12] * body[13] > 0)
    return marker == 0xED and (b"8BIM\x04\x0c" in body or b"8BIM\x04\x09" in body)


def _mpf(body: bytes, base: int, indexed: list[tuple[int, int]]) -> None:
    """CIPA DC-007: a TIFF directory whose tag B002 holds 16 bytes a picture; offsets count from `base`."""
    for tag, _, count, value in directory(body, None)[0]:
        if tag != 0xB002:
            continue
        order = order_of(body)
        where = struct.unpack(order + "I", value)[0] if count > 4 else 0
        for entry in range(min(count // 16, MAX_PARTS)):
            record = body[where + 16 * entry : where + 16 * entry + 16]
            if len(record) == 16:
                size, offset = struct.unpack(order + "II", record[4:12])
                if offset:
                    indexed.append((base + offset, size))
