"""MP4 and QuickTime: boxes, tracks, and what they say about their samples (ISO/IEC 14496-12).

Boxes are looked for at the places where players look for them, so nothing here follows a file's own depth.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from moderation.adapters.decode.containers.layout import MAX_PARTS, Data, Layout, Track, TrackKind, is_also_plain

_TOP_BOXES: Final = frozenset(
    (
        b"ftyp",
        b"moov",
        b"mdat",
        b"free",
        b"skip",
        b"wide",
        b"uuid",
        b"moof",
        b"mfra",
        b"sidx",
        b"ssix",
        b"styp",
        b"emsg",
        b"prft",
        b"pdin",
        b"meta",
    )
)
_KINDS: Final = {
    b"vide": TrackKind.VIDEO,
    b"soun": TrackKind.SOUND,
    b"text": TrackKind.SUBTITLES,
    b"sbtl": TrackKind.SUBTITLES,
    b"subt": TrackKind.SUBTITLES,
    b"subp": TrackKind.SUBTITLES,
    b"clcp": TrackKind.SUBTITLES,
    b"auxv": TrackKind.HIDDEN_PICTURES,
    b"pict": TrackKind.HIDDEN_PICTURES,
}
_ENCRYPTED: Final = (b"encv", b"enca", b"enct", b"encs", b"drmi", b"drms")
_SECOND_VIEWS: Final = (b"lhvC", b"mvcC", b"vexu", b"svcC")
"""In a sample entry: pictures for another eye, or in another layer, that our decoder leaves out."""
_DOLBY_VISION: Final = (b"dvcC", b"dvvC", b"dvwC")
_ORIENTATIONS: Final[dict[tuple[int, ...], int]] = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""EXIF orientation by the signs of a, b, c, d of the display matrix."""
_NO_ORIENTATION: Final = 0
_Matrix: TypeAlias = tuple[int, int, int, int]
_AS_IT_IS: Final[_Matrix] = (1, 0, 0, 1)
_REFUSED: Final = {b"pssh": "encrypted", b"cmov": "a compressed movie box"}
"""Boxes of a movie that say it is of no use to us."""


@dataclass(frozen=True, slots=True)
class _Box:
    name: bytes
    body: int
    end: int


def walk_mp4(data: Data, layout: Layout) -> None:
    """Every top-level box must fit the file, and every chunk of samples too."""
    at, moovs = 0, []
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            break
        box = _box(data, at)
        if box.name not in _TOP_BOXES:
            layout.odd = layout.odd or "something that is no box of a video"
            if box.end > len(data) or not box.name.isalnum():
                break
        if box.end > len(data):
            layout.truncated = True
            return
        if box.name == b"moov":
            moovs.append(box)
        else:
            _other_box(data, box, layout)
        at = box.end
    else:
        layout.broken = "too many boxes"
    layout.end = at
    if len(moovs) != 1:
        layout.broken = layout.broken or f"{len(moovs)} movie boxes"
        return
    _movie(data, moovs[0], layout)


def _other_box(data: Data, box: _Box, layout: Layout) -> None:
    if box.name == b"moof":
        _fragment(data, box, layout)
    elif box.name == b"sidx":
        layout.truncated |= box.end + _referenced(data, box) > len(data)
    elif box.name == b"meta":
        layout.odd = layout.odd or "pictures beside the video"


def _box(data: Data, at: int) -> _Box:
    size, name = struct.unpack(">I4s", data[at : at + 8])
    if size == 1:
        return _Box(name, at + 16, at + max(struct.unpack(">Q", data[at + 8 : at + 16])[0], 16))
    return _Box(name, at + 8, len(data) if size == 0 else at + max(size, 8))


def _children(data: Data, parent: _Box, skip: int = 0) -> Iterator[_Box]:
    at = parent.body + skip
    for _ in range(MAX_PARTS):
        if at + 8 > parent.end:
            return
        box = _box(data, at)
        if box.end > parent.end:
            raise IndexError
        yield box
        at = box.end


def _find(data: Data, parent: _Box | None, *path: bytes) -> _Box | None:
    for name in path:
        if parent is None:
            return None
        parent = next((box for box in _children(data, parent) if box.name == name), None)
    return parent


def _bytes(data: Data, box: _Box, start: int = 0, length: int | None = None) -> bytes:
    end = box.end if length is None else min(box.body + start + length, box.end)
    return bytes(data[box.body + start : end])


def _movie(data: Data, moov: _Box, layout: Layout) -> None:
    scale, header = 0, _find(data, moov, b"mvhd")
    whole = _matrix(_bytes(data, header)[-64:-28]) if header is not None else _AS_IT_IS
    for box in _children(data, moov):
        if box.name == b"trak":
            layout.tracks.append(_track(data, box, layout, whole))
            layout.attached += _covers(data, box) + (_find(data, box, b"meta") is not None)
        elif box.name == b"mvhd":
            raw = _bytes(data, box)
            scale = _timescale(raw)
            layout.seconds = max(layout.seconds, _stated_seconds(raw))
        elif box.name == b"mvex" and scale and (stated := _find(data, box, b"mehd")):
            raw = _bytes(data, stated)
            layout.seconds = max(layout.seconds, int.from_bytes(raw[4 : 12 if raw[0] else 8], "big") / scale)
        elif box.name in _REFUSED:
            layout.unsupported = _REFUSED[box.name]
    layout.attached += _covers(data, moov)
    if not layout.tracks:
        layout.broken = layout.broken or "a movie without tracks"
    for track in layout.tracks:
        if track.frames is not None:
            track.frames += layout.fragment_frames.get(track.id, 0)


def _covers(data: Data, parent: _Box) -> int:
    """Cover pictures in what a movie or a track says about itself; what cannot be followed there may be one."""
    try:
        said = _find(data, parent, b"udta", b"meta")
        if said is None:
            return 0
        is_full = _bytes(data, said, 4, 4) != b"hdlr"  # QuickTime's has no version in front
        listed = next((box for box in _children(data, said, 4 if is_full else 0) if box.name == b"ilst"), None)
        covers = () if listed is None else [item for item in _children(data, listed) if item.name == b"covr"]
        return sum(part.name == b"data" for item in covers for part in _children(data, item))
    except (struct.error, IndexError):
        return 1


def _track(data: Data, trak: _Box, layout: Layout, whole: _Matrix) -> Track:
    """`whole` is the matrix of the movie, which players apply after the track's own."""
    header, media = _find(data, trak, b"tkhd"), _find(data, trak, b"mdia")
    handler = _find(data, media, b"hdlr")
    kind = _KINDS.get(_bytes(data, handler, 8, 4), TrackKind.DATA) if handler else TrackKind.DATA
    track = Track(kind=kind)
    if header is not None:
        raw = _bytes(data, header)
        wide = 8 if raw[0] else 4
        track.id = int.from_bytes(raw[4 + 2 * wide : 8 + 2 * wide], "big")
        if kind is TrackKind.VIDEO:
            layout.orientations.append(_orientation(_matrix(raw[-44:-8]), whole))
    if (stated := _find(data, media, b"mdhd")) is not None:
        layout.seconds = max(layout.seconds, _stated_seconds(_bytes(data, stated)))
    info = _find(data, media, b"minf")
    if (dref := _find(data, info, b"dinf", b"dref")) is not None:
        for entry in _children(data, dref, 8):
            if not _bytes(data, entry, 3, 1)[0] & 1:
                layout.unsupported = "media outside of the file"
    if (table := _find(data, info, b"stbl")) is not None:
        scale = _timescale(_bytes(data, stated)) if stated else 0
        _samples(data, table, track, layout, scale)
    return track


def _samples(data: Data, table: _Box, track: Track, layout: Layout, scale: int) -> None:
    boxes = {box.name: box for box in _children(data, table)}
    if (described := boxes.get(b"stsd")) is not None:
        for entry in _children(data, described, 8):
            _sample_entry(data, entry, track, layout)
    if (box := boxes.get(b"stsz") or boxes.get(b"stz2")) is not None:
        track.frames = int.from_bytes(_bytes(data, box, 8, 4), "big")
    if (box := boxes.get(b"stts")) is not None and scale:
        raw = _bytes(data, box)
        count = min(int.from_bytes(raw[4:8], "big"), (len(raw) - 8) // 8)
        runs = struct.iter_unpack(">II", raw[8 : 8 + 8 * count])
        layout.seconds = max(layout.seconds, sum(number * delta for number, delta in runs) / scale)
    for name, wide in ((b"stco", 4), (b"co64", 8)):
        if (box := boxes.get(name)) is not None:
            raw = _bytes(data, box, 8)
            offsets = struct.unpack(f">{len(raw) // wide}{'I' if wide == 4 else 'Q'}", raw[: len(raw) // wide * wide])
            layout.truncated |= any(offset >= len(data) for offset in offsets)


def _sample_entry(data: Data, entry: _Box, track: Track, layout: Layout) -> None:
    raw = _bytes(data, entry)
    if entry.name in _ENCRYPTED or b"sinf" in raw:
        layout.unsupported = "encrypted"
    if track.kind is not TrackKind.VIDEO:
        return
    if any(name in raw for name in _SECOND_VIEWS):
        layout.unsupported = "a second view or layer"
    for name in _DOLBY_VISION:
        if name in raw and not is_also_plain(raw.partition(name)[2]):
            layout.unsupported = layout.unsupported or "Dolby Vision"
    width, height = struct.unpack(">HH", raw[24:28])
    layout.width, layout.height = max(layout.width, width), max(layout.height, height)


def _fragment(data: Data, moof: _Box, layout: Layout) -> None:
    for traf in _children(data, moof):
        if traf.name != b"traf":
            continue
        header = _find(data, traf, b"tfhd")
        id = int.from_bytes(_bytes(data, header, 4, 4), "big") if header else 0
        for run in _children(data, traf):
            if run.name == b"trun":
                count = int.from_bytes(_bytes(data, run, 4, 4), "big")
                layout.fragment_frames[id] = layout.fragment_frames.get(id, 0) + count


def _referenced(data: Data, sidx: _Box) -> int:
    """Bytes after the box that it says belong to it."""
    raw = _bytes(data, sidx)
    wide = 8 if raw[0] else 4
    first = int.from_bytes(raw[12 + wide : 12 + 2 * wide], "big")
    at = 12 + 2 * wide + 4
    count = min(int.from_bytes(raw[at - 2 : at], "big"), (len(raw) - at) // 12)
    sizes = [int.from_bytes(raw[place : place + 4], "big") for place in range(at, at + 12 * count, 12)]
    return first + sum(size & 0x7FFFFFFF for size in sizes)


def _timescale(header: bytes) -> int:
    """Of an mvhd or mdhd."""
    at = 20 if header[0] else 12
    return int.from_bytes(header[at : at + 4], "big")


def _stated_seconds(header: bytes) -> float:
    """Of an mvhd or mdhd; one that is not known is 0."""
    at, wide = (24, 8) if header[0] else (16, 4)
    raw, scale = header[at : at + wide], _timescale(header)
    return 0.0 if not scale or raw == b"\xff" * wide else int.from_bytes(raw, "big") / scale


def _matrix(raw: bytes) -> _Matrix:
    """The part of it that turns and mirrors."""
    a, b, _, c, d, *_ = struct.unpack(">9i", raw)
    return a, b, c, d


def _orientation(track: _Matrix, whole: _Matrix) -> int:
    (a, b, c, d), (e, f, g, h) = track, whole
    return orientation_of(a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)


def orientation_of(a: int, b: int, c: int, d: int) -> int:
    """As EXIF counts what a display matrix says: 1 to 8, and 0 where it is neither a quarter turn nor a mirroring."""
    return _ORIENTATIONS.get(tuple((value > 0) - (value < 0) for value in (a, b, c, d)), _NO_ORIENTATION)
