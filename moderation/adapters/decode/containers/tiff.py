"""TIFF: one directory, what it points to, and the strips or tiles."""

from __future__ import annotations

import struct
from typing import Final

from moderation.adapters.decode.containers.layout import Layout
from moderation.adapters.decode.containers.metadata import directory, order_of

MAX_PAGES: Final = 1000
MAX_DIRECTORIES: Final = 64

_WHOLE_NUMBERS: Final = {3: "H", 4: "I", 13: "I"}
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SUB_DIRECTORIES: Final = (0x014A, 0x8769, 0x8825, 0xA005)
_COMPRESSIONS: Final = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)


def walk_tiff(data: bytes, layout: Layout) -> None:
    """One picture: its directory, what that points to, and the strips or tiles."""
    start = struct.unpack(order_of(data) + "I", data[4:8])[0]
    if start + 2 > len(data):
        layout.truncated = True
        return
    one = _Directories(data, layout)
    one.follow(start, depth=0)
    layout.frames = _chain(data, start, layout)
    layout.end = one.end
    layout.truncated |= layout.end > len(data)


def _chain(data: bytes, start: int, layout: Layout) -> int:
    """How many directories follow one another, up to MAX_PAGES."""
    seen, at = [start], start
    while len(seen) < MAX_PAGES:
        count = struct.unpack(order_of(data) + "H", data[at : at + 2])[0]
        raw = data[at + 2 + 12 * count : at + 6 + 12 * count]
        at = struct.unpack(order_of(data) + "I", raw)[0] if len(raw) == 4 else 0
        if not at:
            break
        if at in seen:
            layout.broken = "directories in a circle"
            break
        seen.append(at)
    return len(seen)


class _Directories:
    """The first directory and those inside it: how far into the file they reach."""

    def __init__(self, data: bytes, layout: Layout) -> None:
        self._data = data
        self._layout = layout
        self._visited: set[int] = set()
        self.end = 8

    def follow(self, start: int, *, depth: int) -> None:
        if start in self._visited or len(self._visited) >= MAX_DIRECTORIES:
            return
        self._visited.add(start)
        entries, _ = directory(self._data, start)
        count = struct.unpack(order_of(self._data) + "H", self._data[start : start + 2])[0]
        self._reach(start + 6 + 12 * count)
        tags = self._numbers(entries)
        for offsets, counts in ((0x0111, 0x0117), (0x0144, 0x0145), (0x0201, 0x0202)):
            for offset, size in zip(tags.get(offsets, []), tags.get(counts, []), strict=False):
                self._reach(offset + size)
        if depth == 0:
            _picture(tags, self._layout)
        for tag in _SUB_DIRECTORIES if depth < 2 else ():
            for where in tags.get(tag, []):
                if 8 <= where < len(self._data) - 2:
                    self.follow(where, depth=depth + 1)
                    self._layout.thumbnail |= tag == 0x014A

    def _reach(self, end: int) -> None:
        self.end = max(self.end, end)

    def _numbers(self, entries: list[tuple[int, int, int, bytes]]) -> dict[int, list[int]]:
        """Values of all tags that hold whole numbers."""
        order, tags = order_of(self._data), {}
        for tag, kind, number, value in entries:
            size = _TYPE_BYTES.get(kind, 1) * number
            where = struct.unpack(order + "I", value)[0]
            if size > 4:
                self._reach(where + size)
            if kind in _WHOLE_NUMBERS and number <= len(self._data):
                raw = value[:size] if size <= 4 else self._data[where : where + size]
                count = len(raw) // _TYPE_BYTES[kind]
                tags[tag] = list(struct.unpack(f"{order}{count}{_WHOLE_NUMBERS[kind]}", raw[: count * _TYPE_BYTES[kind]]))
        return tags


def _picture(tags: dict[int, list[int]], layout: Layout) -> None:
    def first(tag: int, default: int) -> int:
        return (tags.get(tag) or [default])[0]

    layout.width, layout.height = first(0x0100, 0), first(0x0101, 0)
    layout.orientations += tags.get(0x0112, [])[:1]
    bits, formats = tags.get(0x0102, [1]), tags.get(0x0153, [1])
    layout.bit_depth = max(bits, default=1)
    if first(0x0103, 1) not in _COMPRESSIONS:
        layout.unsupported = f"TIFF compression {first(0x0103, 1)}"
    elif any(kind != 1 for kind in formats):
        layout.unsupported = "TIFF samples that are not unsigned integers"
    elif layout.bit_depth > 16 or any(depth not in (1, 2, 4, 8, 16) for depth in bits):
        layout.unsupported = f"TIFF samples of {layout.bit_depth} bits"
    elif first(0x0106, 0) not in (0, 1, 2, 3, 5, 6):
        layout.unsupported = f"TIFF photometric interpretation {first(0x0106, 0)}"
    elif layout.bit_depth == 16 and first(0x0106, 0) == 0:
        layout.unsupported = "TIFF of 16 bits with white at zero"
