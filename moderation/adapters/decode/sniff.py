"""Our own magic check: bytes name one format, and only that one is ever tried.

Guessing by trial would let a file choose its parser. Formats that are not in the table (EPS, PDF, SVG, ICO,
PSD, archives, playlists, other videos) never reach one.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Format(Enum):
    """A format that is opened: the name by which Pillow or FFmpeg knows it, and its media type."""

    JPEG = ("JPEG", "image/jpeg")
    PNG = ("PNG", "image/png")
    GIF = ("GIF", "image/gif")
    WEBP = ("WEBP", "image/webp")
    AVIF = ("AVIF", "image/avif")
    BMP = ("BMP", "image/bmp")
    TIFF = ("TIFF", "image/tiff")
    MP4 = ("mp4", "video/mp4")
    MOV = ("mov", "video/quicktime")
    MATROSKA = ("matroska", "video/x-matroska")
    WEBM = ("webm", "video/webm")

    def __init__(self, opener: str, media_type: str) -> None:
        self.opener = opener
        self.media_type = media_type

    @property
    def is_video(self) -> bool:
        """Whether FFmpeg opens it."""
        return self.media_type.startswith("video/")


SHORTEST: Final = 12
"""No file of fewer bytes can be a picture of any format here."""

_PREFIXES: Final = (
    (b"\xff\xd8\xff", Format.JPEG),
    (b"\x89PNG\r\n\x1a\n", Format.PNG),
    (b"GIF87a", Format.GIF),
    (b"GIF89a", Format.GIF),
    (b"II*\x00", Format.TIFF),
    (b"MM\x00*", Format.TIFF),
    (b"BM", Format.BMP),
)
_DIB_HEADERS: Final = (12, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS: Final = (b"avif", b"avis")
_GENERIC_BRANDS: Final = (b"mif1", b"msf1", b"miaf", b"MA1B", b"MA1A")
_EBML: Final = b"\x1a\x45\xdf\xa3"
_DOC_TYPE: Final = b"\x42\x82"
_MP4_BRANDS: Final = (b"avc1", b"dash", b"f4v ", b"F4V ", b"MSNV", b"XAVC", b"mmp4", b"NDSC", b"M4A ", b"M4V ", b"M4VH", b"M4VP")
_MP4_FAMILIES: Final = (b"iso", b"mp4", b"3gp", b"3g2", b"cmf")
"""What the first three letters of a brand may be."""
_ALIASES: Final = {
    "application/mp4": "video/mp4",
    "video/x-m4v": "video/mp4",
    "video/3gpp": "video/mp4",
    "video/3gpp2": "video/mp4",
    "video/matroska": "video/x-matroska",
    "video/mkv": "video/x-matroska",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/jfif": "image/jpeg",
    "image/mpo": "image/jpeg",
    "image/apng": "image/png",
    "image/vnd.mozilla.apng": "image/png",
    "image/x-png": "image/png",
    "image/avif-sequence": "image/avif",
    "image/x-ms-bmp": "image/bmp",
    "image/x-bmp": "image/bmp",
    "image/x-windows-bmp": "image/bmp",
    "image/tif": "image/tiff",
    "image/x-tiff": "image/tiff",
}
_SAYS_NOTHING: Final = (
    "",
    "*/*",
    "image/*",
    "video/*",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
)


def sniff(data: bytes) -> Format | None:
    """The format that the first bytes name, or None. Looks at no more than the first kilobyte."""
    for magic, form in _PREFIXES:
        if data.startswith(magic):
            if form is Format.BMP and int.from_bytes(data[14:18], "little") not in _DIB_HEADERS:
                return None  # two letters alone name nothing
            return form
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return Format.WEBP
    if data[4:8] == b"ftyp":
        return _by_brand(data)
    return _by_doc_type(data[:1024]) if data.startswith(_EBML) else None


def is_start_of_magic(data: bytes) -> bool:
    """Whether these few bytes begin as some format does: a picture that stopped too early."""
    starts = [magic for magic, _ in _PREFIXES] + [b"RIFF", _EBML]
    if any(data.startswith(magic) or magic.startswith(data) for magic in starts):
        return True
    # A box says first how long it is; no first box of a picture has more than 255 bytes.
    return data[4:8] == b"ftyp" if len(data) >= 8 else b"\0\0\0".startswith(data[:3]) and b"ftyp".startswith(data[4:])


def declared(media_type: str | None) -> str | None:
    """A claimed media type in the spelling used here, or None where it claims nothing."""
    plain = (media_type or "").partition(";")[0].strip().lower()
    return None if plain in _SAYS_NOTHING else _ALIASES.get(plain, plain)


def _by_brand(data: bytes) -> Format | None:
    """A picture where the first brand is one of pictures, otherwise a video where any is one of videos."""
    size = min(int.from_bytes(data[:4], "big"), 1024)
    first, *others = [data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))]
    if first in _AVIF_BRANDS or (first in _GENERIC_BRANDS and any(brand in _AVIF_BRANDS for brand in others)):
        return Format.AVIF
    if first == b"qt  ":
        return Format.MOV
    if first in _GENERIC_BRANDS or first.startswith((b"hei", b"hev", b"jp")):
        return None
    is_mp4 = any(brand in _MP4_BRANDS or brand[:3] in _MP4_FAMILIES for brand in (first, *others))
    return Format.MP4 if is_mp4 else None


def _by_doc_type(head: bytes) -> Format | None:
    at = head.find(_DOC_TYPE)
    if at < 0 or at + 3 > len(head):
        return None
    name = head[at + 3 : at + 3 + (head[at + 2] & 0x7F)].rstrip(b"\0")
    return {b"webm": Format.WEBM, b"matroska": Format.MATROSKA}.get(name)
