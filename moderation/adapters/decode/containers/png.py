"""PNG and APNG: chunks with their checksums."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from moderation.adapters.decode.containers.layout import MAX_PARTS, MAX_TEXT, Layout
from moderation.adapters.decode.containers.metadata import exif, xmp

MAX_TEXTS: Final = 10_000
"""Text chunks in one file."""

_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_COMPRESSED: Final = (b"zTXt", b"iCCP")
"""A name, a zero, and the method by which the rest is compressed: there is one, 0."""
_FRAMES: Final = (b"acTL", b"fcTL", b"fdAT")
_HIGH_DYNAMIC_RANGE: Final = (16, 18)
"""Transfer functions PQ and HLG in cICP."""


def walk_png(data: bytes, layout: Layout) -> None:
    """Every chunk up to IEND. Damaged ancillary ones are left out of `layout.clean`, as libpng does."""
    _Walk(data, layout).run()


class _Walk:
    """One pass over the chunks, and what has been seen so far."""

    def __init__(self, data: bytes, layout: Layout) -> None:
        self._data = data
        self._layout = layout
        self._kept = [data[:8]]
        self._dropped = False
        self._texts = 0
        self._seen_data = False
        self._declared: int | None = None
        self._frames = 0
        self._sequence = 0
        self._default_is_a_frame = False

    def run(self) -> None:
        data, at = self._data, 8
        for _ in range(2 * MAX_PARTS):
            if at + 8 > len(data):
                self._layout.truncated = True
                return
            length, name = struct.unpack(">I4s", data[at : at + 8])
            end = at + 12 + length
            if name == b"IHDR":
                self._header(data[at + 8 : at + 8 + min(length, 13)])
            if end > len(data):
                self._layout.truncated = True
                return
            self._chunk(name, at, end)
            at = end
            if name == b"IEND":
                break
        else:
            self._broken("too many chunks")
        self._layout.end = at
        self._conclude()

    def _broken(self, why: str) -> None:
        self._layout.broken = self._layout.broken or why

    def _header(self, body: bytes) -> None:
        if len(body) >= 13:
            layout = self._layout
            layout.width, layout.height, layout.bit_depth, layout.colour_type = struct.unpack(">IIBB", body[:10])
            if body[10] or body[11]:
                self._broken("an unknown method")

    def _chunk(self, name: bytes, at: int, end: int) -> None:
        data = self._data
        if name in _COMPRESSED and data[at + 8 : end - 4].partition(b"\0")[2][:1] not in (b"", b"\0"):
            self._broken("an unknown compression method")  # in damaged chunks too: some viewers show the picture by them
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        critical = not name[0] & 0x20 or name in _FRAMES
        if not sound and critical:
            self._broken(f"checksum of {name!r}")
        elif not sound:
            self._dropped = True
            self._layout.odd = self._layout.odd or "a damaged chunk"
        else:
            self._kept.append(data[at:end])
            self._meaning(name, data[at + 8 : end - 4] if name != b"IDAT" else b"")

    def _meaning(self, name: bytes, body: bytes) -> None:
        if name in _TEXTS:
            self._texts += 1
            self._text(name, body)
        elif name == b"eXIf":
            exif(body, self._layout)
        elif name == b"cICP" and body[1:2] and body[1] in _HIGH_DYNAMIC_RANGE:
            self._layout.unsupported = "PNG of high dynamic range"
        elif name == b"IDAT":
            self._seen_data = True
        elif name in _FRAMES:
            self._animation(name, body)

    def _animation(self, name: bytes, body: bytes) -> None:
        number = struct.unpack(">I", body[:4])[0]
        if name == b"acTL":
            if self._seen_data:
                return  # decoders ignore it there
            if self._declared is not None or not number:
                self._broken("acTL twice or without frames")
            self._declared = number
            return
        if number != self._sequence:
            self._broken("frames out of sequence")
        self._sequence += 1
        if name == b"fcTL":
            self._frames += 1
            self._default_is_a_frame |= not self._seen_data

    def _conclude(self) -> None:
        layout = self._layout
        layout.frames = 1
        if self._texts > MAX_TEXTS:
            self._broken("too many text chunks")
        if self._declared is not None:
            if self._declared != self._frames:
                self._broken(f"{self._declared} frames declared, {self._frames} there")
            layout.frames = self._frames + (not self._default_is_a_frame)
        elif self._sequence:
            layout.odd = layout.odd or "frames of an animation that is none"
        if self._dropped:
            layout.clean = b"".join(self._kept)

    def _text(self, name: bytes, body: bytes) -> None:
        key, _, rest = body.partition(b"\0")
        packed = name == b"zTXt"
        if packed:
            rest = rest[1:]
        elif name == b"iTXt" and len(rest) >= 2:
            packed, rest = rest[0] == 1, rest[2:].split(b"\0", 2)[-1]
        if packed:
            rest = self._unfolded(rest)
        if key == b"XML:com.adobe.xmp":
            xmp(rest, self._layout)
        elif key == b"Raw profile type exif":
            self._raw_profile(rest)

    def _unfolded(self, packed: bytes) -> bytes:
        unfolding = zlib.decompressobj()
        try:
            text = unfolding.decompress(packed, MAX_TEXT)
        except zlib.error:
            return b""
        if unfolding.unconsumed_tail:
            self._broken("a text that unfolds too far")
        return text

    def _raw_profile(self, text: bytes) -> None:
        """EXIF as ImageMagick writes it: a name, a length, and lines of hexadecimal digits."""
        try:
            raw = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
        except ValueError:
            return
        exif(raw.removeprefix(b"Exif\0\0"), self._layout)
