"""Walks over files without decoding them.

Decoders are silent about much: they take half a file for a picture, ignore what follows the end, and show one
of several pictures. A walk follows the container's own lengths and says what it found. It never raises for what
a file says, decides nothing, and is linear in the file's size.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from moderation.adapters.decode.sniff import Format

MAX_PARTS: Final = 50_000
"""Chunks, boxes or segments in one file. The largest honest animations have a few thousand."""

MAX_TEXT: Final = 1 << 20
"""Bytes that one compressed text or profile may unfold to."""

_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_XMP_ORIENTATION: Final = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*(\d{1,5})")
_XMP_THUMBNAIL: Final = (b"xmpGImg:image", b"GImage:Data", b"GDepth:Data")
_GAIN_MAP_SIGNS: Final = (b"hdrgm:", b"http://ns.adobe.com/hdr-gain-map/", b"HDRGainMap", b"urn:iso:std:iso:ts:21496")
_LOSSY_SOFS: Final = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_SOFS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(slots=True, kw_only=True)
class Layout:
    """What a file says about itself. Sizes in pixels as stored; positions in bytes."""

    width: int = 0
    height: int = 0
    frames: int | None = None
    end: int | None = None
    """Where the last thing that belongs to the picture ends; None where that cannot be told."""
    truncated: bool = False
    broken: str = ""
    """Set when the structure contradicts itself so that no viewer should be trusted to agree with another."""
    unsupported: str = ""
    odd: str = ""
    """Something a strict caller must not publish."""
    gain_map: bool = False
    thumbnail: bool = False
    thumbnails: list[bytes] = field(default_factory=list)
    """Embedded previews that are JPEG files themselves."""
    orientations: list[int] = field(default_factory=list)
    turns: list[list[int]] = field(default_factory=list)
    """Orientations of each of `pictures`."""
    pictures: list[tuple[int, int]] = field(default_factory=list)
    """(start, end) of every JPEG stream in the file, in order."""
    unindexed: bool = False
    """One of `pictures` is named by no index: hardly any viewer shows it."""
    scans: int = 0
    bit_depth: int = 8
    colour_type: int = 0
    adobe: bool = False
    clean: bytes | None = None
    """The file without damaged parts that viewers skip; None when there are none."""
    variants: list[bytes] = field(default_factory=list)
    """The same file told to show what it holds beside what it shows by default."""


def walk(data: bytes, form: Format) -> Layout:
    """Follow the container's structure to its end or to where it breaks off."""
    layout = Layout()
    try:
        _WALKS[form](data, layout)
    except (struct.error, IndexError):
        layout.truncated = True
    return layout


# --- JPEG -----------------------------------------------------------------------------------------


def _jpeg(data: bytes, layout: Layout) -> None:
    """Every picture of the file: those that follow one another, and those an MPF index points to."""
    at, indexed = 0, []
    while len(layout.pictures) < MAX_PARTS:
        one = Layout()
        pointed: list[tuple[int, int]] = []
        end = _jpeg_stream(data, at, one, pointed)
        indexed += pointed
        _merge_jpeg(layout, one, first=not layout.pictures)
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


def _merge_jpeg(layout: Layout, one: Layout, *, first: bool) -> None:
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
    match = re.compile(rb"[^\x00]").search(data, at)
    return match.start() if match else len(data)


def _add_indexed(data: bytes, layout: Layout, indexed: list[tuple[int, int]]) -> None:
    known = {start for start, _ in layout.pictures}
    layout.unindexed = bool(known - {0} - {start for start, _ in indexed})
    for start, size in indexed[:MAX_PARTS]:
        if start in known:
            continue
        known.add(start)
        if data[start : start + 3] != b"\xff\xd8\xff":
            layout.odd = layout.odd or "the index of pictures points to something else"
            if start + size > len(data):
                layout.truncated = True
            continue
        one = Layout()
        end = _jpeg_stream(data, start, one, [])
        if end is None:
            layout.truncated = True
            return
        layout.pictures.append((start, end))
        layout.end = max(layout.end or 0, end)
        _merge_jpeg(layout, one, first=False)


def _jpeg_stream(data: bytes, start: int, layout: Layout, indexed: list[tuple[int, int]]) -> int | None:
    """One JPEG from its SOI; returns where its EOI ends, or None when it breaks off."""
    at = start + 2
    for _ in range(MAX_PARTS):
        match = _JPEG_MARKER.search(data, at)
        if match is None:
            return None
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
        _jpeg_segment(marker, data[at + 2 : at + length], at + 2, layout, indexed)
        at += length
    layout.odd = "too many segments"
    return None


def _jpeg_segment(marker: int, body: bytes, at: int, layout: Layout, indexed: list[tuple[int, int]]) -> None:
    if marker in _SOFS and len(body) >= 6:
        layout.bit_depth, layout.height, layout.width, layout.colour_type = body[0], *struct.unpack(">HH", body[1:5]), body[5]
        if marker not in _LOSSY_SOFS:
            layout.unsupported = "lossless, hierarchical or differential JPEG"
        elif layout.bit_depth != 8:
            layout.unsupported = f"{layout.bit_depth}-bit JPEG"
    elif marker == 0xDA:
        layout.scans += 1
    elif marker == 0xE0:
        layout.thumbnail |= (body.startswith(b"JFIF\0") and len(body) > 13 and body[12] * body[13] > 0) or body.startswith(b"JFXX\0")
    elif marker == 0xE1 and body.startswith(b"Exif\0"):
        exif(body[6:], layout)
    elif marker == 0xE1:
        xmp(body, layout)
    elif marker == 0xE2:
        layout.gain_map |= any(sign in body[:64] for sign in _GAIN_MAP_SIGNS)
        if body.startswith(b"MPF\0"):
            _mpf(body[4:], at + 4, indexed)
    elif marker == 0xED:
        layout.thumbnail |= b"8BIM\x04\x0c" in body or b"8BIM\x04\x09" in body
    elif marker == 0xEE:
        layout.adobe |= body.startswith(b"Adobe")


def _mpf(body: bytes, base: int, indexed: list[tuple[int, int]]) -> None:
    """CIPA DC-007: a TIFF directory whose tag B002 holds 16 bytes a picture; offsets count from `base`."""
    for tag, _, count, value in _directory(body, None)[0]:
        if tag != 0xB002:
            continue
        order = _order(body)
        where = struct.unpack(order + "I", value)[0] if count > 4 else 0
        for entry in range(min(count // 16, MAX_PARTS)):
            record = body[where + 16 * entry : where + 16 * entry + 16]
            if len(record) == 16:
                size, offset = struct.unpack(order + "II", record[4:12])
                if offset:
                    indexed.append((base + offset, size))


# --- EXIF, XMP and TIFF directories ---------------------------------------------------------------


def exif(body: bytes, layout: Layout) -> None:
    """Orientation of the first directory; thumbnail of the second. Nothing else of EXIF is read."""
    first, following = _directory(body, None)
    for tag, kind, _, value in first:
        if tag == 0x0112:
            layout.orientations.append(_short(body, kind, value))
    if not following:
        return
    second, _ = _directory(body, following)
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
    layout.gain_map |= any(sign in body for sign in _GAIN_MAP_SIGNS)
    layout.thumbnail |= any(sign in body for sign in _XMP_THUMBNAIL)


def _order(body: bytes) -> str:
    return ">" if body[:1] == b"M" else "<"


def _short(body: bytes, kind: int, value: bytes) -> int:
    order = _order(body)
    return int(struct.unpack(order + "H", value[:2])[0]) if kind == 3 else int(struct.unpack(order + "I", value)[0])


def _directory(body: bytes, at: int | None) -> tuple[list[tuple[int, int, int, bytes]], int]:
    """Entries (tag, type, count, 4 value bytes) of one directory and where the next one is; empty when unreadable."""
    order = _order(body)
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


_TIFF_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_SUB_DIRECTORIES: Final = (0x014A, 0x8769, 0x8825, 0xA005)
_TIFF_COMPRESSIONS: Final = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)


def _tiff(data: bytes, layout: Layout) -> None:
    """One picture: its directory, what that points to, and the strips or tiles."""
    start = struct.unpack(_order(data) + "I", data[4:8])[0]
    if start + 2 > len(data):
        layout.truncated = True
        return
    end = [8]
    following = _tiff_directory(data, start, layout, end, depth=0)
    layout.frames = 1
    seen = {start}
    while following and layout.frames < MAX_PARTS:
        if following in seen:
            layout.broken = "directories in a circle"
            break
        seen.add(following)
        layout.frames += 1
        following = _directory(data, following)[1]
    layout.end = max(end)
    layout.truncated |= layout.end > len(data)


def _tiff_directory(data: bytes, start: int, layout: Layout, end: list[int], *, depth: int) -> int:
    order = _order(data)
    entries, following = _directory(data, start)
    count = struct.unpack(order + "H", data[start : start + 2])[0]
    end.append(start + 6 + 12 * count)
    tags: dict[int, list[int]] = {}
    for tag, kind, number, value in entries:
        size = _TIFF_TYPE_BYTES.get(kind, 1) * number
        where = struct.unpack(order + "I", value)[0]
        if size > 4:
            end.append(where + size)
        if kind in (3, 4, 13) and number <= len(data):
            raw = value[:size] if size <= 4 else data[where : where + size]
            tags[tag] = list(struct.unpack(order + ("H" if kind == 3 else "I") * (len(raw) // _TIFF_TYPE_BYTES[kind]), raw))
    for offsets, counts in ((0x0111, 0x0117), (0x0144, 0x0145), (0x0201, 0x0202)):
        end += [offset + size for offset, size in zip(tags.get(offsets, []), tags.get(counts, []), strict=False)]
    if depth == 0:
        _tiff_picture(tags, layout)
    if depth < 2:
        for tag in _TIFF_SUB_DIRECTORIES:
            for where in tags.get(tag, [])[:16]:
                if 8 <= where < len(data) - 2:
                    _tiff_directory(data, where, layout, end, depth=depth + 1)
                    layout.thumbnail |= tag == 0x014A
    return following


def _tiff_picture(tags: dict[int, list[int]], layout: Layout) -> None:
    def first(tag: int, default: int) -> int:
        return (tags.get(tag) or [default])[0]

    layout.width, layout.height = first(0x0100, 0), first(0x0101, 0)
    layout.orientations += tags.get(0x0112, [])[:1]
    bits, formats = tags.get(0x0102, [1]), tags.get(0x0153, [1])
    layout.bit_depth = max(bits, default=1)
    if first(0x0103, 1) not in _TIFF_COMPRESSIONS:
        layout.unsupported = f"TIFF compression {first(0x0103, 1)}"
    elif any(kind != 1 for kind in formats):
        layout.unsupported = "TIFF samples that are not unsigned integers"
    elif layout.bit_depth > 16 or any(depth not in (1, 2, 4, 8, 16) for depth in bits):
        layout.unsupported = f"TIFF samples of {layout.bit_depth} bits"
    elif first(0x0106, 0) not in (0, 1, 2, 3, 5, 6):
        layout.unsupported = f"TIFF photometric interpretation {first(0x0106, 0)}"
    elif layout.bit_depth == 16 and first(0x0106, 0) == 0:
        layout.unsupported = "TIFF of 16 bits with white at zero"


# --- PNG ------------------------------------------------------------------------------------------


def _png(data: bytes, layout: Layout) -> None:
    """Chunks with their checksums. Damaged ancillary chunks are left out, as libpng does."""
    at, kept, dropped = 8, [data[:8]], False
    frames = default = declared = sequence = texts = 0
    seen_data = False
    for _ in range(2 * MAX_PARTS):
        if at + 8 > len(data):
            layout.truncated = True
            return
        length, name = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        body = data[at + 8 : at + 8 + min(length, 64)]
        if name == b"IHDR" and len(body) >= 13:
            layout.width, layout.height, layout.bit_depth, layout.colour_type = *struct.unpack(">II", body[:8]), body[8], body[9]
        if end > len(data):
            layout.truncated = True
            return
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if not sound and not name[0] & 0x20:
            layout.broken = layout.broken or f"checksum of {name!r}"
        if not sound and name[0] & 0x20 and name not in (b"acTL", b"fcTL", b"fdAT"):
            dropped = True
            layout.odd = layout.odd or "a damaged chunk"
        else:
            kept.append(data[at:end])
            if name in (b"tEXt", b"zTXt", b"iTXt"):
                texts += 1
                _png_text(name, data[at + 8 : end - 4], layout)
            elif name == b"eXIf":
                exif(data[at + 8 : end - 4], layout)
            elif name == b"cICP" and length >= 2 and data[at + 9] in (16, 18):
                layout.unsupported = "PNG of high dynamic range"
            elif name == b"acTL" and length >= 8 and not seen_data:
                declared = struct.unpack(">I", body[:4])[0]
                layout.broken = layout.broken or ("a second acTL" if layout.frames else "") or ("no frames in acTL" if not declared else "")
                layout.frames = declared
            elif name in (b"fcTL", b"fdAT"):
                if struct.unpack(">I", body[:4])[0] != sequence:
                    layout.broken = layout.broken or "frames out of sequence"
                sequence += 1
                frames += name == b"fcTL"
                default += name == b"fcTL" and not seen_data
            elif name == b"IDAT":
                seen_data = True
        at = end
        if name == b"IEND":
            break
    else:
        layout.broken = "too many chunks"
    layout.end = at
    if texts > 10_000:
        layout.broken = layout.broken or "too many text chunks"
    if layout.frames is not None:
        if declared != frames:
            layout.broken = layout.broken or f"{declared} frames declared, {frames} there"
        layout.frames = declared + (0 if default else 1)
    elif sequence:
        layout.odd = layout.odd or "frames of an animation that is none"
        layout.frames = 1
    else:
        layout.frames = 1
    if dropped and not layout.broken:
        layout.clean = b"".join(kept)


def _png_text(name: bytes, body: bytes, layout: Layout) -> None:
    key, _, rest = body.partition(b"\0")
    if name == b"iTXt" and len(rest) >= 2:
        packed, rest = rest[0] == 1, rest[2:].split(b"\0", 2)[-1]
    else:
        packed, rest = name == b"zTXt", rest[1:] if name == b"zTXt" else rest
    if packed:
        unfolding = zlib.decompressobj()
        try:
            rest = unfolding.decompress(rest, MAX_TEXT)
        except zlib.error:
            rest = b""
        if unfolding.unconsumed_tail:
            layout.broken = layout.broken or "a text that unfolds too far"
    if key == b"XML:com.adobe.xmp":
        xmp(rest, layout)
    elif key == b"Raw profile type exif" and layout.width:
        digits = b"".join(rest.split(b"\n")[3:])
        try:
            raw = bytes.fromhex(digits.decode("ascii", "strict"))
        except ValueError:
            return
        exif(raw[6:] if raw.startswith(b"Exif\0\0") else raw, layout)


# --- GIF ------------------------------------------------------------------------------------------


def _gif(data: bytes, layout: Layout) -> None:
    """Blocks up to the trailer; every image descriptor is a frame."""
    layout.width, layout.height = struct.unpack("<HH", data[6:10])
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


# --- WebP -----------------------------------------------------------------------------------------


def _webp(data: bytes, layout: Layout) -> None:
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


# --- AVIF -----------------------------------------------------------------------------------------

_TOP_BOXES: Final = (
    b"ftyp",
    b"meta",
    b"mdat",
    b"moov",
    b"free",
    b"skip",
    b"uuid",
    b"styp",
    b"sidx",
    b"moof",
    b"mfra",
    b"pdin",
    b"wide",
    b"emsg",
    b"idat",
)
_AUXILIARY_SIGNS: Final = (b"hdrgainmap", b"auxid:2", b":auxiliary:depth", b"aux:hdr")


def _avif(data: bytes, layout: Layout) -> None:
    """Top-level boxes must fit the file, and so must every extent of every item."""
    names, metas = [], []
    at = 0
    for _ in range(MAX_PARTS):
        if at == len(data):
            break
        name, start, end = _box(data, at)
        if name not in _TOP_BOXES:
            layout.end = at
            break
        if end > len(data):
            layout.truncated = True
            return
        names.append(name)
        if name == b"meta":
            metas.append(data[start:end])
        at = end
    layout.end = at if layout.end is None else layout.end
    if b"meta" not in names and b"moov" not in names:
        layout.truncated = True
    for meta in metas:
        _avif_meta(meta, len(data), layout)
    if b"moov" in names and b"meta" in names:
        # Viewers differ in which of the two they show; the first brand tells the decoder.
        other = b"avif" if data[8:12] == b"avis" else b"avis"
        layout.variants.append(data[:8] + other + data[12:])


def _box(data: bytes, at: int) -> tuple[bytes, int, int]:
    """(name, start of the body, end) of the box at `at`."""
    size, name = struct.unpack(">I4s", data[at : at + 8])
    if size == 1:
        return name, at + 16, at + max(int(struct.unpack(">Q", data[at + 8 : at + 16])[0]), 16)
    return name, at + 8, len(data) if size == 0 else at + max(int(size), 8)


def _boxes(body: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    for _ in range(MAX_PARTS):
        if at + 8 > len(body):
            return
        name, start, end = _box(body, at)
        yield name, body[start:end]
        at = end


def _avif_meta(meta: bytes, size: int, layout: Layout) -> None:
    for name, body in _boxes(meta, 4):
        if name == b"iinf":
            layout.gain_map |= b"tmap" in body
        elif name == b"iref":
            layout.thumbnail |= b"thmb" in body
        elif name == b"iprp":
            layout.gain_map |= any(sign in body for sign in _AUXILIARY_SIGNS)
            found = body.find(b"ispe")
            if found > 0 and len(body) >= found + 16:
                sides = [struct.unpack(">II", body[m + 8 : m + 16]) for m in _all(body, b"ispe") if len(body) >= m + 16]
                layout.width, layout.height = max(sides, key=lambda s: s[0] * s[1])
        elif name == b"iloc":
            layout.truncated |= _last_extent(body) > size


def _all(body: bytes, what: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(what), body)][:1024]


def _last_extent(iloc: bytes) -> int:
    """The furthest byte of the file that an item in `iloc` says it uses."""
    version, sizes, base_index = iloc[0], iloc[4], iloc[5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, base_index >> 4
    index_size = base_index & 15 if version else 0
    wide = version == 2
    count = int.from_bytes(iloc[6 : 10 if wide else 8], "big")
    at, furthest = 10 if wide else 8, 0

    def number(width: int) -> int:
        nonlocal at
        if at + width > len(iloc):
            raise IndexError
        at += width
        return int.from_bytes(iloc[at - width : at], "big")

    for _ in range(min(count, MAX_PARTS)):
        number(4 if wide else 2)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        for _ in range(number(2)):
            number(index_size)
            offset, length = number(offset_size), number(length_size)
            if method == 0:
                furthest = max(furthest, base + offset + length)
    return furthest


# --- BMP ------------------------------------------------------------------------------------------


def _bmp(data: bytes, layout: Layout) -> None:
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


_WALKS: Final = {
    Format.JPEG: _jpeg,
    Format.PNG: _png,
    Format.GIF: _gif,
    Format.WEBP: _webp,
    Format.AVIF: _avif,
    Format.BMP: _bmp,
    Format.TIFF: _tiff,
}
