"""Matroska and WebM: EBML elements down to the blocks (RFC 8794, RFC 9559)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from moderation.adapters.decode.containers.layout import MAX_PARTS, Data, Layout, Track, TrackKind, is_also_plain

_SEGMENT: Final = 0x18538067
_INFO: Final = 0x1549A966
_TRACKS: Final = 0x1654AE6B
_CLUSTER: Final = 0x1F43B675
_ATTACHMENTS: Final = 0x1941A469
_ATTACHED_FILE: Final = 0x61A7
_LEVEL_1: Final = frozenset((_INFO, _TRACKS, _CLUSTER, _ATTACHMENTS, 0x114D9B74, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0xEC, 0xBF))
"""With seek head, cues, chapters, tags, void and checksum."""
_TRACK_ENTRY: Final = 0xAE
_SIMPLE_BLOCK: Final = 0xA3
_BLOCK_GROUP: Final = 0xA0
_BLOCK: Final = 0xA1
_KINDS: Final = {1: TrackKind.VIDEO, 2: TrackKind.SOUND, 17: TrackKind.SUBTITLES}
_MOST_ELEMENTS: Final = 8 * MAX_PARTS
_HEADER_STRIPPING: Final = 3
_DOLBY_VISION: Final = tuple(int.from_bytes(name, "big") for name in (b"dvcC", b"dvvC", b"dvwC"))


@dataclass(frozen=True, slots=True)
class _Element:
    id: int
    body: int
    end: int
    is_open: bool = False
    """Its length is not stated: it ends where something begins that cannot lie in it."""


def walk_matroska(data: Data, layout: Layout) -> None:
    """Every element down to the blocks must fit the one that holds it."""
    head = _element(data, 0, len(data))
    segment = _element(data, head.end, len(data))
    if segment.id != _SEGMENT:
        layout.broken = "no segment"
        return
    layout.truncated = segment.end > len(data)
    if not layout.truncated:
        layout.end = _segment(data, segment, layout)
    if not layout.tracks:
        layout.broken = layout.broken or "a segment without tracks"
    for track in layout.tracks:
        track.frames = layout.fragment_frames.get(track.id, 0)


def _segment(data: Data, segment: _Element, layout: Layout) -> int:
    """Walk what it holds; the position behind it."""
    at, scale = segment.body, 1_000_000
    for _ in range(_MOST_ELEMENTS):
        if at >= segment.end or layout.truncated:
            return at
        element = _element(data, at, segment.end)
        if element.id not in _LEVEL_1:
            if segment.is_open:
                return at  # something else begins behind a segment of no stated length
            layout.odd = layout.odd or "something that is no part of a segment"
        if element.end > segment.end:
            layout.truncated = True
        elif element.id == _CLUSTER:
            at = _cluster(data, element, layout, scale)
            continue
        elif element.id == _INFO:
            scale = _info(data, element, layout)
        elif element.id == _ATTACHMENTS:
            layout.attached += sum(file.id == _ATTACHED_FILE for file in _children(data, element))
        elif element.id == _TRACKS:
            layout.tracks += [_track(data, entry, layout) for entry in _children(data, element) if entry.id == _TRACK_ENTRY]
        at = element.end
    layout.broken = "too many elements"
    return at


def _number(data: Data, at: int, *, keep_marker: bool) -> tuple[int, int]:
    """(value, length) of the variable-length number at `at`; a value of all ones is -1. Raises IndexError."""
    first = data[at]
    length = 9 - first.bit_length()
    if length > 8 or at + length > len(data):
        raise IndexError
    value = int.from_bytes(data[at : at + length], "big")
    if keep_marker:
        return value, length
    value &= (1 << 7 * length) - 1
    return (-1 if value == (1 << 7 * length) - 1 else value), length


def _element(data: Data, at: int, limit: int) -> _Element:
    id, wide = _number(data, at, keep_marker=True)
    size, more = _number(data, at + wide, keep_marker=False)
    body = at + wide + more
    return _Element(id, body, limit, is_open=True) if size < 0 else _Element(id, body, body + size)


def _children(data: Data, parent: _Element) -> Iterator[_Element]:
    at = parent.body
    for _ in range(MAX_PARTS):
        if at >= parent.end:
            return
        child = _element(data, at, parent.end)
        if child.end > parent.end:
            raise IndexError
        yield child
        at = child.end


def _unsigned(data: Data, element: _Element) -> int:
    return int.from_bytes(data[element.body : min(element.end, element.body + 8)], "big")


def _float(data: Data, element: _Element) -> float:
    raw = bytes(data[element.body : element.end])
    return float(struct.unpack(">f" if len(raw) == 4 else ">d", raw)[0]) if len(raw) in (4, 8) else 0.0


def _info(data: Data, info: _Element, layout: Layout) -> int:
    scale, duration = 1_000_000, 0.0
    for child in _children(data, info):
        if child.id == 0x2AD7B1:
            scale = _unsigned(data, child)
        elif child.id == 0x4489:
            duration = _float(data, child)
    if duration > 0:
        layout.seconds = max(layout.seconds, duration * scale / 1e9)
    return scale


def _track(data: Data, entry: _Element, layout: Layout) -> Track:
    track = Track(kind=TrackKind.DATA)
    for child in _children(data, entry):
        if child.id == 0xD7:
            track.id = _unsigned(data, child)
        elif child.id == 0x83:
            track.kind = _KINDS.get(_unsigned(data, child), TrackKind.DATA)
        elif child.id == 0xE0:
            _video(data, child, layout)
        elif child.id == 0x6D80:
            _encodings(data, child, layout)
        elif child.id == 0x41E4:
            _addition(data, child, layout)
    return track


def _video(data: Data, video: _Element, layout: Layout) -> None:
    width = height = 0
    orientation = 1
    for child in _children(data, video):
        if child.id == 0xB0:
            width = _unsigned(data, child)
        elif child.id == 0xBA:
            height = _unsigned(data, child)
        elif child.id == 0x9A:
            layout.interlaced |= _unsigned(data, child) == 1
        elif child.id == 0x53C0 and _unsigned(data, child):
            layout.unsupported = "video with transparency"
        elif child.id == 0x7670:
            orientation = _projection(data, child)
    layout.width, layout.height = max(layout.width, width), max(layout.height, height)
    layout.orientations.append(orientation)


def _projection(data: Data, projection: _Element) -> int:
    """The roll, in degrees counter-clockwise, as EXIF counts; what is neither a quarter turn nor none is 0."""
    roll = next((_float(data, child) for child in _children(data, projection) if child.id == 0x7675), 0.0)
    return {0: 1, 90: 8, 180: 3, 270: 6}.get(round(roll) % 360, 0) if abs(roll) < 1e6 else 0


def _addition(data: Data, mapping: _Element, layout: Layout) -> None:
    """What blocks carry beside their frame."""
    parts = {part.id: part for part in _children(data, mapping)}
    kind, record = parts.get(0x41E7), parts.get(0x41ED)
    if kind is not None and _unsigned(data, kind) in _DOLBY_VISION:
        said = b"" if record is None else bytes(data[record.body : min(record.end, record.body + 24)])
        layout.unsupported = layout.unsupported or ("" if is_also_plain(said) else "Dolby Vision")


def _encodings(data: Data, encodings: _Element, layout: Layout) -> None:
    for encoding in _children(data, encodings):
        for child in _children(data, encoding):
            if child.id == 0x5035 or (child.id == 0x5033 and _unsigned(data, child) == 1):
                layout.unsupported = "encrypted"
            elif child.id == 0x5034:
                algorithm = next((_unsigned(data, part) for part in _children(data, child) if part.id == 0x4254), 0)
                if algorithm != _HEADER_STRIPPING:
                    layout.unsupported = layout.unsupported or "compressed tracks"


def _cluster(data: Data, cluster: _Element, layout: Layout, scale: int) -> int:
    """Count its blocks; the position behind it."""
    at, base = cluster.body, 0
    for _ in range(_MOST_ELEMENTS):
        if at >= cluster.end:
            return cluster.end
        child = _element(data, at, cluster.end)
        if cluster.is_open and child.id in _LEVEL_1 and child.id not in (0xEC, 0xBF):
            return at
        if child.end > cluster.end:
            layout.truncated = True
            return at
        if child.id == 0xE7:
            base = _unsigned(data, child)
        elif child.id == _SIMPLE_BLOCK:
            _block(data, child, layout, base, scale)
        elif child.id == _BLOCK_GROUP:
            for part in _children(data, child):
                if part.id == _BLOCK:
                    _block(data, part, layout, base, scale)
        at = child.end
    layout.broken = "too many elements"
    return cluster.end


def _block(data: Data, block: _Element, layout: Layout, base: int, scale: int) -> None:
    track, wide = _number(data, block.body, keep_marker=False)
    at = block.body + wide
    offset, flags = struct.unpack(">hB", data[at : at + 3])
    laced = data[at + 3] if flags & 0x06 else 0
    layout.fragment_frames[track] = layout.fragment_frames.get(track, 0) + 1 + laced
    layout.seconds = max(layout.seconds, (base + offset) * scale / 1e9)
