"""AVIF: boxes, and the extents of items."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

from moderation.adapters.decode.containers.layout import MAX_PARTS, Layout

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
_PICTURES: Final = (b"av01", b"grid", b"iovl", b"hvc1", b"jpeg")
_AUXILIARY_SIGNS: Final = (b"hdrgainmap", b"auxid:2", b":auxiliary:depth", b"aux:hdr")


def walk_avif(data: bytes, layout: Layout) -> None:
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
        _meta(meta, len(data), layout)
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


def _meta(meta: bytes, size: int, layout: Layout) -> None:
    items = _Items()
    for name, body in _boxes(meta, 4):
        if name == b"pitm":
            items.primary = int.from_bytes(body[4 : 8 if body[0] else 6], "big")
        elif name == b"iinf":
            items.read_infos(body)
        elif name == b"iref":
            items.read_references(body)
        elif name == b"iprp":
            layout.gain_map |= any(sign in body for sign in _AUXILIARY_SIGNS)
            _largest(body, layout)
        elif name == b"iloc":
            layout.truncated |= _last_extent(body) > size
    layout.gain_map |= items.has_gain_map
    layout.thumbnail |= items.has_thumbnail
    if items.others():
        layout.odd = layout.odd or "another picture that is not the primary one"


def _largest(properties: bytes, layout: Layout) -> None:
    """The size of the largest picture, tiles and their whole included."""
    for at in _all(properties, b"ispe"):
        if at + 16 <= len(properties):
            width, height = struct.unpack(">II", properties[at + 8 : at + 16])
            if width * height > layout.width * layout.height:
                layout.width, layout.height = width, height


class _Items:
    """Which pictures a file holds, and what they are to one another."""

    def __init__(self) -> None:
        self.primary = 0
        self.has_gain_map = False
        self.has_thumbnail = False
        self._pictures: set[int] = set()
        self._explained: set[int] = set()

    def others(self) -> set[int]:
        """Pictures that are neither the primary one nor a tile, plane or preview of it."""
        return self._pictures - self._explained - {self.primary}

    def read_infos(self, body: bytes) -> None:
        for name, info in _boxes(body, 6 if body[0] == 0 else 8):
            if name != b"infe" or info[0] < 2:
                continue
            wide = 4 if info[0] > 2 else 2
            kind = info[6 + wide : 10 + wide]
            if kind in _PICTURES:
                self._pictures.add(int.from_bytes(info[4 : 4 + wide], "big"))
            self.has_gain_map |= kind == b"tmap"

    def read_references(self, body: bytes) -> None:
        wide = 4 if body[0] else 2
        for name, reference in _boxes(body, 4):
            ids = [int.from_bytes(reference[at : at + wide], "big") for at in (0, *range(wide + 2, len(reference) - wide + 1, wide))]
            self.has_thumbnail |= name == b"thmb"
            if name == b"dimg":
                self._explained.update(ids[1:])
            elif name in (b"auxl", b"thmb"):
                self._explained.add(ids[0])


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
