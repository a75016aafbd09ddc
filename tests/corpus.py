"""Bad inputs, synthesised row by row of the table of bad inputs (rows 1 to 57 that are about bytes; 4 to 9 are about HTTP).

`CASES` holds one case per file: what is built, what the answer may be when the file is re-encoded by us later
(`expect`) and when the caller will publish its own bytes (`strict`), and whether a planted marker has to be found.
Everything is built from seeds, lazily and once.
"""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from moderation.adapters.classifiers.correlation import PATTERN, draw_marker, plant_marker

OK = "ok"
WIDTH, HEIGHT = 400, 300
_KEEPING: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {"compress_level": 1},
    "WEBP": {"quality": 90},
    "AVIF": {"quality": 80},
    "TIFF": {"compression": "tiff_lzw"},
}
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
CUTS = (50, 70, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file and the answers it may get; `found` says that an `ok` must come with the marker found."""

    row: int
    name: str
    build: Callable[[], bytes]
    expect: frozenset[str]
    strict: frozenset[str]
    found: bool = False
    declared: str | None = None

    @property
    def id(self) -> str:
        return f"{self.row:02}-{self.name}"


CASES: list[Case] = []


def case(
    row: int,
    name: str,
    build: Callable[[], bytes],
    expect: str | Iterable[str] = OK,
    *,
    strict: str | Iterable[str] | None = None,
    found: bool = False,
    declared: str | None = None,
    among: list[Case] = CASES,
) -> None:
    expected = frozenset([expect] if isinstance(expect, str) else expect)
    strictly = expected if strict is None else frozenset([strict] if isinstance(strict, str) else strict)
    among.append(Case(row=row, name=name, build=functools.cache(build), expect=expected, strict=strictly, found=found, declared=declared))


# --- pictures --------------------------------------------------------------------------------------


@functools.cache
def quiet(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A soft coloured picture without the marker."""
    noise = np.random.default_rng(7).integers(40, 216, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@functools.cache
def marked(width: int = WIDTH, height: int = HEIGHT, share: float = 0.25) -> Image.Image:
    """The same with the marker."""
    return Image.fromarray(plant_marker(np.asarray(quiet(width, height)), share=share))


@functools.cache
def marker_mask(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """White where the marker is white, black where it is black, grey elsewhere."""
    plane = Image.new("L", (width, height), 128)
    side = min(width, height) // 2
    plane.paste(Image.fromarray(draw_marker(side)).convert("L"), ((width - side) // 2, (height - side) // 2))
    return plane


def encode(im: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    if "append_images" in options:
        options["append_images"] = [other.copy() for other in options["append_images"]]
    im.copy().save(out, form, **options)  # saving leaves traces on a picture
    return out.getvalue()


@functools.cache
def _plain(form: str) -> bytes:
    return encode(marked(), form, **_KEEPING.get(form, {}))


def plain(form: str, im: Image.Image | None = None) -> bytes:
    """The marked picture (or `im`) in one format, with options that keep the marker."""
    return _plain(form) if im is None else encode(im, form, **_KEEPING.get(form, {}))


def swap(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1, old
    return data.replace(old, new, 1)


# --- small writers -----------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG from raw rows, each already with its filter byte; `before` are chunks that precede the data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def rows_of(samples: np.ndarray) -> bytes:
    """Rows of H x W (x C) big-endian samples with filter 0."""
    raw = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder(">")))
    return b"".join(b"\0" + row.tobytes() for row in raw)


def with_chunk(data: bytes, *added: bytes) -> bytes:
    """Chunks added behind IHDR."""
    return data[:33] + b"".join(added) + data[33:]


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A segment added behind the SOI of a JPEG."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def without_segments(data: bytes, markers: Sequence[int]) -> bytes:
    out, at = data[:2], 2
    while data[at + 1] != 0xDA:
        size = struct.unpack(">H", data[at + 2 : at + 4])[0] + 2
        if data[at + 1] not in markers:
            out += data[at : at + size]
        at += size
    return out + data[at:]


def exif_of(orientation: int | None, thumbnail: bytes = b"", *, loop: bool = False) -> bytes:
    """A TIFF block as in EXIF."""
    entries = [] if orientation is None else [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)]
    first = struct.pack("<H", len(entries)) + b"".join(entries)
    second_at = 8 + len(first) + 4
    body = b"II*\0" + struct.pack("<I", 8) + first
    if loop:
        return body + struct.pack("<I", 8)
    if not thumbnail:
        return body + bytes(4)
    at = second_at + 2 + 24 + 4
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, at) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    return body + struct.pack("<I", second_at) + second + bytes(4) + thumbnail


def xmp_of(attributes: str) -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description ' + attributes + "/></rdf:RDF></x:xmpmeta>"
    ).encode()


def gif(width: int, height: int, *blocks: bytes, trailer: bytes = b";") -> bytes:
    palette = bytes(v for level in (0, 85, 170, 255) for v in (level,) * 3)
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80 | 1, 0, 0) + palette + b"".join(blocks) + trailer


def gif_frame(left: int, top: int, width: int, height: int, data: bytes = b"\x02\x02\x44\x01\x00") -> bytes:
    return b"\x21\xf9\x04\x04\x05\x00\x00\x00,\x00"[:8] + b"," + struct.pack("<HHHHB", left, top, width, height, 0) + data


def gif_animation(frames: Sequence[Image.Image], **options: object) -> bytes:
    palettes = [frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
    return encode(palettes[0], "GIF", save_all=True, append_images=palettes[1:], duration=40, **options)


@functools.cache
def animation(form: str, frames: int, at: int, **options: object) -> bytes:
    """The marker in frame `at` only; no two neighbours are equal."""
    small = (160, 120)
    images = [ImageOps.expand(quiet(150, 110), 5, (k * 5 % 256, 90, 200)) for k in range(frames)]
    images[at] = marked(*small)
    return encode(images[0], form, save_all=True, append_images=images[1:], **{"duration": 40, **options})


def apng(
    default: Image.Image | None, frames: Sequence[Image.Image], *, declared: int | None = None, delay_ms: int = 40, first: int = 0
) -> bytes:
    """An APNG by hand: `default` is a picture that is no frame."""
    width, height = frames[0].size if frames else (WIDTH, HEIGHT)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    out += chunk(b"acTL", struct.pack(">II", len(frames) if declared is None else declared, 0))
    number = first
    if default is not None:
        out += chunk(b"IDAT", zlib.compress(rows_of(np.asarray(default))))
    for index, frame in enumerate(frames):
        out += chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, delay_ms, 1000, 0, 0))
        number += 1
        packed = zlib.compress(rows_of(np.asarray(frame)))
        if index == 0 and default is None:
            out += chunk(b"IDAT", packed)
        else:
            out += chunk(b"fdAT", struct.pack(">I", number) + packed)
            number += 1
    return out + chunk(b"IEND", b"")


def tiff(
    samples: np.ndarray, bits: Sequence[int], photometric: int, *, sample_format: int = 1, extra: int | None = None, following: int = 0
) -> bytes:
    """One uncompressed strip, little-endian."""
    height, width = samples.shape[:2]
    raw = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    strip_at, bits_at = 8, 8 + len(raw) + len(raw) % 2
    tags = [(256, 4, 1, width), (257, 4, 1, height)]
    body = raw + bytes(len(raw) % 2)
    if len(bits) > 2:
        tags.append((258, 3, len(bits), bits_at))
        body += struct.pack(f"<{len(bits)}H", *bits)
    else:
        tags.append((258, 3, len(bits), bits[0] | (bits[1] << 16 if len(bits) == 2 else 0)))
    tags += [
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, strip_at),
        (277, 3, 1, len(bits)),
        (278, 4, 1, height),
        (279, 4, 1, len(raw)),
    ]
    if extra is not None:
        tags.append((338, 3, 1, extra))
    tags.append((339, 3, 1, sample_format))
    at = 8 + len(body)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", at) + body + directory + struct.pack("<I", at if following == -1 else following)


def bmp(width: int, height: int, bits: int = 24, *, compression: int = 0, pixels: bytes = b"", planes: int = 1, header: int = 40) -> bytes:
    body = struct.pack("<IiiHHIIiiII", header, width, height, planes, bits, compression, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + body + pixels


def bmp_runs(bits: int, runs: bytes, *, height: int = HEIGHT, gap: int = 0) -> bytes:
    """WIDTH pixels a row, greys, run-length coded; `gap` bytes before the pixels."""
    greys = b"".join(bytes([grey] * 3 + [0]) for grey in (range(256) if bits == 8 else range(0, 256, 17)))
    body = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, 1 if bits == 8 else 2, len(runs), 0, 0, len(greys) // 4, 0)
    offset = 54 + len(greys) + gap
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + body + greys + bytes(gap) + runs


@functools.cache
def runs_of_rows(bits: int) -> list[bytes]:
    """The marked picture in grey from its last row up, each row as pixels that are spelt out, without the row's end."""
    rows = np.asarray(marked().convert("L"))[::-1]
    if bits == 8:
        return [b"".join(b"\0\xc8" + row[at : at + 200].tobytes() for at in (0, 200)) for row in rows]
    nibbles = (rows + 8).clip(0, 255) // 17
    packed = (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).astype(np.uint8)
    return [b"".join(b"\0\xc8" + row[at : at + 100].tobytes() for at in (0, 100)) for row in packed]


def runs_of(bits: int, *, ends: bytes = b"\0\0", last: bytes = b"\0\1") -> bytes:
    """Its first row ends with `ends`."""
    first, *others = runs_of_rows(bits)
    return first + ends + b"\0\0".join(others) + last


def bmp32(alpha: np.ndarray, rgb: np.ndarray) -> bytes:
    pixels = np.concatenate([rgb[::-1, :, ::-1], alpha[::-1, :, None]], axis=2).astype(np.uint8).tobytes()
    return bmp(rgb.shape[1], rgb.shape[0], 32, pixels=pixels)


def jpeg_pictures(*pictures: bytes) -> bytes:
    """Pictures one behind the other, with an MPF index in the first."""
    count = len(pictures)
    size = 4 + 8 + 2 + 3 * 12 + 4 + 16 * count
    first = len(pictures[0]) + 4 + size
    base = 2 + 4 + 4
    entries, at = struct.pack("<IIIHH", 0x030000, first, 0, 0, 0), first
    for picture in pictures[1:]:
        entries += struct.pack("<IIIHH", 0, len(picture), at - base, 0, 0)
        at += len(picture)
    directory = struct.pack("<H", 3) + struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, count)
    directory += struct.pack("<HHII", 0xB002, 7, 16 * count, 8 + 2 + 36 + 4) + bytes(4)
    return with_segment(pictures[0], 0xE2, b"MPF\0II*\0" + struct.pack("<I", 8) + directory + entries) + b"".join(pictures[1:])


def boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    found, at = [], 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        found.append((name, at, at + size))
        at += size
    return found


def profile(exponent: float, chromaticity: Sequence[float] = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)) -> bytes:
    """An ICC display profile with this power curve and these primaries."""
    from moderation.adapters.decode.colour import png_profile  # noqa: PLC0415 - only the cases with profiles need it

    made = png_profile({"gamma": 1 / exponent, "chromaticity": tuple(chromaticity)})
    assert made is not None
    return made


MAGENTA, CYAN = (255, 0, 255), (0, 255, 255)


@functools.cache
def two_colours_to_white() -> bytes:
    """An ICC profile with a table: all colours are those of sRGB, but for magenta and cyan, which are white."""
    nodes, whole = 17, bytes(range(256))
    levels = np.linspace(0, 255, nodes).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    into_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = np.array(ImageCms.applyTransform(Image.fromarray(colours), into_lab)).reshape(-1, 3)
    lab[:, 1:] ^= 0x80  # Pillow counts a and b from the middle
    for turned in MAGENTA, CYAN:
        lab[np.abs(colours[0].astype(int) - turned).max(axis=1) < 40] = (255, 128, 128)
    one, white = 1 << 16, (0xF6D6, 0x10000, 0xD32D)
    table = (
        b"mft1"
        + bytes(4)
        + bytes([3, 3, nodes, 0])
        + struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, one)
        + 3 * whole
        + lab.tobytes()
        + 3 * whole
    )
    tags = {b"A2B0": table + bytes(-len(table) % 4), b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", *white)}
    at, entries = 132 + 12 * len(tags), b""
    for name, body in tags.items():
        entries += struct.pack(">4sII", name, at, len(body))
        at += len(body)
    head = struct.pack(">I4xI4s4s4s12x4s28x3i", at, 0x02400000, b"scnr", b"RGB ", b"Lab ", b"acsp", *white).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + entries + b"".join(tags.values())


def finely_mixed() -> Image.Image:
    """The marker, of pixels of magenta and cyan in turns; beside it what these average to."""
    side = 1024
    here = np.asarray(Image.fromarray(draw_marker(side * 3 // 4)).convert("L")) > 128
    here = np.pad(here, side // 8)[:, :, np.newaxis]
    turns = np.where(np.indices((side, side)).sum(axis=0)[:, :, np.newaxis] % 2, MAGENTA, CYAN)
    return Image.fromarray(np.where(here, turns, (127, 127, 255)).astype(np.uint8))


SWAPPED = (0.3127, 0.3290, 0.30, 0.60, 0.64, 0.33, 0.15, 0.06)
"""Red and green the wrong way round."""


def double_image() -> Image.Image:
    """Dark as it is and full of the marker under a gamma of 0.023: only levels near white come through."""
    mask = np.asarray(marker_mask())
    bright = np.where(mask > 200, 255, 238)
    base = np.asarray(quiet().convert("L")).astype(int) // 3
    return Image.fromarray(np.where(mask == 128, base, bright).astype(np.uint8)).convert("RGB")


def progressive(scans: int | None = None) -> bytes:
    """A progressive JPEG, its last scan repeated to make `scans`."""
    data = encode(marked(), "JPEG", progressive=True, quality=90)
    if scans is None:
        return data
    at = data.rindex(b"\xff\xda")
    return data[:-2] + data[at:-2] * scans + b"\xff\xd9"


def clamped() -> bytes:
    """The marker, of blocks that all have the same mean as they are coded: their waves of the highest frequency reach beyond black and white.

    So it is there for whoever decodes the picture, and gone for whoever takes only the low frequencies of it.
    """

    def block(cell: int) -> str:
        along, across = (value % 63 for value in (-32 * cell, -36 * cell))  # less than 0 is written as 63 less than it is
        return f"0_00_01_{along:06b}_10_{along:06b}_00_01_{across:06b}".replace("_", "")

    coded = {-1: block(-1), 0: "0110", 1: block(1)}
    blocks = np.pad(np.kron(PATTERN, np.ones((24, 24), int)), 28)
    bits = "".join(coded[cell] for cell in blocks.flat)
    samples = int(bits + "1" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\xff", b"\xff\0")
    side = 8 * len(blocks)
    segments = {
        0xDB: bytes([0, *[50] * 64]),
        0xC0: struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]),
        0xC4: bytes([0x00, 1, *[0] * 15, 0]) + bytes([0x10, 0, 3, 1, *[0] * 13, 0xF0, 0xB6, 0x66, 0]),
        0xDA: bytes([1, 1, 0, 0, 63, 0]),
    }
    written = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments.items())
    return b"\xff\xd8" + written + samples + b"\xff\xd9"


def cut_after_first_scan() -> bytes:
    data = progressive()
    first = data.index(b"\xff\xda")
    return data[: data.index(b"\xff\xc4", first + 2)]


def stored_for(orientation: int) -> Image.Image:
    """The picture that is upright after a viewer applied `orientation`."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return marked().transpose(undo[orientation]) if orientation in undo else marked()


def inks(im: Image.Image) -> Image.Image:
    """CMYK that shows `im` to those who do not take JPEG inks as inverted."""
    return Image.merge("CMYK", [*im.split(), Image.new("L", im.size, 255)])


def swap_alpha_to(colour: int) -> Image.Image:
    """One colour everywhere; the marker is in alpha alone, and only where the background is not that colour."""
    mask = marker_mask().point([255 - v if colour == 0 else v for v in range(256)])
    return Image.merge("RGBA", [Image.new("L", mask.size, colour)] * 3 + [mask])


def hidden() -> Image.Image:
    """Nothing to see, and the marker in the colours under alpha 0."""
    clear = marked().convert("RGBA")
    clear.putalpha(0)
    return clear


def animation_with_frame_outside() -> bytes:
    data = bytearray(gif_animation([quiet(64, 64), quiet(64, 64).rotate(90)]))
    at = data.rindex(b",\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 40, 40)
    return bytes(data)


def still_beside_sequence() -> bytes:
    """The still picture of the file is its first frame; told to show stills, it hides the second, which is marked."""
    data = animation("AVIF", 2, 1, quality=85)
    return data[:8] + b"avif" + data[12:]


# --- rows ------------------------------------------------------------------------------------------

for _form in FORMATS:
    case(0, f"plain-{_form.lower()}", functools.partial(plain, _form), found=True)
    for _cut in CUTS:
        case(28, f"{_form.lower()}-cut-at-{_cut}", lambda f=_form, c=_cut: plain(f)[: len(plain(f)) * c // 100], "truncated")

case(1, "empty", lambda: b"", "empty_body")
for _name, _start in {
    "jpeg": b"\xff\xd8\xff",
    "jpeg-11": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "png": b"\x89PNG",
    "png-8": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "webp": b"RIFF\0\0\0\0",
    "avif": b"\0\0\0\x1cftypavi",
    "avif-7": b"\0\0\0\x1cfty",
    "avif-4": b"\0\0\0\x1c",
    "avif-2": b"\0\0",
    "bmp": b"BM",
    "tiff": b"II*\0",
    "one-byte": b"\xff",
}.items():
    case(2, _name, lambda s=_start: s, "decode_failed")
case(2, "twelve-bytes-of-jpeg", lambda: b"\xff\xd8\xff\xe0\0\x10JFIF\0\1", ("truncated", "decode_failed"))
case(3, "random-megabyte", lambda: b"\x01" + random.Random(3).randbytes(1_000_000), "unsupported_media_type")
case(10, "png-that-is-jpeg", lambda: plain("JPEG"), strict="type_mismatch", declared="image/png", found=True)
case(10, "declared-with-parameters", lambda: plain("JPEG"), declared="Image/JPG; q=1", found=True)
case(11, "eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n", "unsupported_media_type")
case(11, "pdf", lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n", "unsupported_media_type")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="http://127.0.0.1/x"/></svg>'
case(12, "svg", lambda: _SVG, "unsupported_media_type")
case(12, "svg-with-prolog", lambda: b'<?xml version="1.0"?>\n' + _SVG, "unsupported_media_type")
case(12, "svgz", lambda: gzip.compress(_SVG, mtime=0), "unsupported_media_type")


def _zip(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x" * 200)
    return out.getvalue()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return out.getvalue()


case(13, "zip", lambda: _zip("a"), "unsupported_media_type")
case(13, "docx", lambda: _zip("word/document.xml"), "unsupported_media_type")
case(13, "weights", lambda: _zip("archive/data.pkl"), "unsupported_media_type")
case(13, "tar", _tar, "unsupported_media_type")
case(13, "pickle", lambda: pickle.dumps({"a": 1}), "unsupported_media_type")
_SCRIPT = b"*/=1;alert(1)/* <script>alert(1)</script>"
case(14, "script-in-jpeg-comment", lambda: with_segment(plain("JPEG"), 0xFE, _SCRIPT), strict="ambiguous_content", found=True)
case(14, "script-in-gif-comment", lambda: gif_comment(_SCRIPT), strict="ambiguous_content", found=True)
case(14, "html-in-png-text", lambda: with_chunk(plain("PNG"), chunk(b"tEXt", b"a\0<html><body>")), strict="ambiguous_content", found=True)
case(
    14,
    "gif-width-opens-a-comment",
    lambda: gif(0x2A2F, 64, gif_frame(0, 0, 64, 64)),
    (OK, "decode_failed", "truncated"),
    strict=("ambiguous_content", "truncated"),
)


def gif_comment(text: bytes) -> bytes:
    data = plain("GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + b"\x21\xfe" + bytes([len(text)]) + text + b"\0" + data[at:]


case(15, "jpeg-and-zip", lambda: plain("JPEG") + _zip("a"), strict="trailing_data", found=True)
case(15, "png-and-program", lambda: plain("PNG") + b"MZ\x90\0" + bytes(60) + b"PE\0\0", strict="trailing_data", found=True)
case(15, "jpeg-and-mp3", lambda: plain("JPEG") + b"ID3\x04" + b"\xff\xfb\x90\x64" * 100, strict="trailing_data", found=True)
case(15, "zip-in-jpeg-comment", lambda: with_segment(plain("JPEG"), 0xFE, _zip("a")), strict="ambiguous_content", found=True)
for _form in FORMATS:
    case(16, f"{_form.lower()}-and-more", lambda f=_form: plain(f) + b"junk" * 500_000, strict="trailing_data", found=True)
case(16, "png-and-ten-megabytes", lambda: plain("PNG") + b"\1" * 10_000_000, strict="trailing_data", found=True)
case(16, "png-and-ten-megabytes-of-zeros", lambda: plain("PNG") + bytes(10_000_000), strict="trailing_data", found=True)
case(16, "jpeg-and-padding", lambda: plain("JPEG") + bytes(100), found=True)
case(17, "junk-before-jpeg", lambda: b"junk" + plain("JPEG"), "unsupported_media_type")
case(17, "newline-before-png", lambda: b"\n" + plain("PNG"), "unsupported_media_type")
case(17, "junk-between-jpeg-segments", lambda: behind_the_first_segment(plain("JPEG"), b"junk"), strict="ambiguous_content", found=True)
case(17, "padding-between-jpeg-segments", lambda: behind_the_first_segment(plain("JPEG"), b"\0\0\xff\xff"), found=True)


def behind_the_first_segment(data: bytes, added: bytes) -> bytes:
    at = 4 + struct.unpack(">H", data[4:6])[0]
    return data[:at] + added + data[at:]


case(18, "png-of-169-megapixels", lambda: png(13000, 13000, 1, 0, bytes(1626) * 13000), "dimensions_too_large")
case(19, "png-header-only", lambda: png(65535, 65535, 8, 2, b""), "dimensions_too_large")
case(19, "bmp-really-big", lambda: bmp(3_000_000, 2_000_000), "dimensions_too_large")
case(19, "bmp-negative-width", lambda: bmp(-127, 64, pixels=bytes(127 * 64 * 3)), ("dimensions_too_large", "decode_failed", "truncated"))
case(19, "gif-header-only", lambda: gif(65535, 65535, gif_frame(0, 0, 1, 1)), "dimensions_too_large")
case(19, "webp-canvas", lambda: webp_canvas(16384, 16384), "dimensions_too_large")
case(20, "one-by-a-million", lambda: png(1, 1_000_000, 8, 0, bytes(2) * 1_000_000), "dimensions_too_large")
case(20, "hundred-thousand-by-one", lambda: png(100_000, 1, 8, 0, bytes(100_001)), "dimensions_too_large")
case(20, "a-thread", lambda: encode(Image.new("RGB", (29_000, 40), "red"), "PNG"), "dimensions_too_large")


def webp_canvas(width: int, height: int) -> bytes:
    data = bytearray(animation("WEBP", 2, 1))
    at = data.index(b"VP8X") + 8
    data[at + 4 : at + 10] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


case(21, "gif-without-width", lambda: gif(0, 64, gif_frame(0, 0, 0, 64)), "decode_failed")
case(21, "gif-without-height-and-a-huge-frame", lambda: gif(64, 0, gif_frame(0, 0, 65280, 1321)), "decode_failed")
case(21, "png-without-width", lambda: png(0, 64, 8, 0, bytes(64)), "decode_failed")
case(21, "jpeg-without-height", lambda: jpeg_with_size(None, 0), "decode_failed")
case(21, "bmp-without-height", lambda: bmp(64, 0), "decode_failed")


def jpeg_with_size(width: int | None, height: int | None, *, sof: int = 0xC0, bits: int = 8) -> bytes:
    data = bytearray(plain("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = sof, bits
    if height is not None:
        data[at + 5 : at + 7] = struct.pack(">H", height)
    if width is not None:
        data[at + 7 : at + 9] = struct.pack(">H", width)
    return bytes(data)


for _form in FORMATS:
    case(22, f"{_form.lower()}-of-16", lambda f=_form: plain(f, quiet(16, 16)), "too_small")
case(22, "png-of-1", lambda: plain("PNG", quiet(1, 1)), "too_small")
case(22, "png-of-31", lambda: plain("PNG", quiet(64, 31)), "too_small")
case(23, "gif-second-frame-is-huge", lambda: gif(64, 64, gif_frame(0, 0, 64, 64), gif_frame(0, 0, 60000, 60000)), "dimensions_too_large")
case(
    23, "gif-second-frame-is-far-out", lambda: gif(64, 64, gif_frame(0, 0, 64, 64), gif_frame(65000, 65000, 64, 64)), "dimensions_too_large"
)
case(
    24, "text-that-unfolds", lambda: with_chunk(plain("PNG"), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))), "decode_failed"
)
case(
    24,
    "itxt-that-unfolds",
    lambda: with_chunk(plain("PNG"), chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(50_000_000)))),
    "decode_failed",
)
case(25, "hundred-thousand-texts", lambda: with_chunk(plain("PNG"), chunk(b"tEXt", b"a\0b") * 100_000), "decode_failed")
case(26, "icc-of-megabytes", lambda: with_icc(random.Random(1).randbytes(3_000_000)), found=True)
case(26, "icc-that-is-none", lambda: encode(marked(), "PNG", icc_profile=b"nonsense" * 20), found=True)
case(
    26,
    "icc-that-swaps-channels",
    lambda: encode(marked(), "PNG", icc_profile=profile(2.2, SWAPPED)),
    strict="ambiguous_rendering",
    found=True,
)
case(
    26,
    "icc-that-shows-the-marker",
    lambda: encode(double_image(), "PNG", icc_profile=profile(43)),
    strict="ambiguous_rendering",
    found=True,
)
case(
    26,
    "icc-in-jpeg-that-shows-the-marker",
    lambda: encode(double_image(), "JPEG", quality=95, icc_profile=profile(43)),
    strict="ambiguous_rendering",
    found=True,
)
case(
    26,
    "icc-that-shows-another-colour",
    lambda: encode(finely_mixed().resize((2048, 2048), Image.Resampling.NEAREST), "PNG", icc_profile=two_colours_to_white()),
    strict=(OK, "ambiguous_rendering"),
    found=True,
)
case(
    26,
    "icc-srgb",
    lambda: encode(marked(), "JPEG", quality=90, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    found=True,
)


def with_icc(raw: bytes) -> bytes:
    parts = [raw[at : at + 65_000] for at in range(0, len(raw), 65_000)]
    data = plain("JPEG")
    for number, part in reversed(list(enumerate(parts, 1))):
        data = with_segment(data, 0xE2, b"ICC_PROFILE\0" + bytes([number % 256, len(parts) % 256]) + part)
    return data


case(27, "exif-in-a-circle", lambda: with_segment(plain("JPEG"), 0xE1, b"Exif\0\0" + exif_of(1, loop=True)), found=True)
case(27, "exif-that-is-nonsense", lambda: with_segment(plain("JPEG"), 0xE1, b"Exif\0\0" + b"\xff" * 5000), found=True)
case(27, "much-exif", lambda: many_segments(plain("JPEG"), 0xE1, b"Exif\0\0" + bytes(60_000), 100), found=True)
case(
    27, "tiff-in-a-circle", lambda: tiff(np.asarray(quiet(64, 64)), (8, 8, 8), 2, following=-1), ("decode_failed", "unsupported_media_type")
)


def many_segments(data: bytes, marker: int, body: bytes, count: int) -> bytes:
    return data[:2] + (struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body) * count + data[2:]


case(28, "apng-cut-at-90", lambda: animation("PNG", 6, 1)[: len(animation("PNG", 6, 1)) * 9 // 10], "truncated")
case(28, "gif-animation-cut-at-70", lambda: animation("GIF", 6, 1)[: len(animation("GIF", 6, 1)) * 7 // 10], "truncated")
case(28, "webp-animation-cut-at-70", lambda: animation("WEBP", 6, 1)[: len(animation("WEBP", 6, 1)) * 7 // 10], "truncated")
case(28, "avif-sequence-cut-at-90", lambda: animation("AVIF", 4, 1)[: len(animation("AVIF", 4, 1)) * 9 // 10], "truncated")
case(28, "mpo-cut-at-90", lambda: jpeg_pictures(plain("JPEG", quiet()), plain("JPEG"))[:-3000], "truncated")
case(29, "png-without-end", lambda: plain("PNG")[:-12], "truncated")
case(29, "png-with-half-an-end", lambda: plain("PNG")[:-4], "truncated")
case(31, "checksum-of-data", lambda: spoil(plain("PNG"), b"IDAT"), "decode_failed")
case(
    31,
    "checksum-of-text",
    lambda: spoil(with_chunk(plain("PNG"), chunk(b"tEXt", b"a\0b")), b"tEXt"),
    strict="ambiguous_content",
    found=True,
)
case(31, "checksum-of-header", lambda: spoil(plain("PNG"), b"IHDR"), "decode_failed")


def spoil(data: bytes, name: bytes) -> bytes:
    """The last byte of that chunk's checksum is wrong."""
    at = data.index(name)
    end = at + 4 + struct.unpack(">I", data[at - 4 : at])[0] + 3
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


case(
    32,
    "data-after-the-picture",
    lambda: plain("PNG")[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"more") + chunk(b"IEND", b""),
    (OK, "decode_failed"),
)
case(32, "unknown-compression", lambda: with_chunk(plain("PNG"), chunk(b"zTXt", b"a\0\7x")), "decode_failed")
case(
    32,
    "unknown-compression-in-a-damaged-profile",
    lambda: spoil(with_chunk(plain("PNG"), chunk(b"iCCP", b"a\0\1" + zlib.compress(b"x" * 200))), b"iCCP"),
    "decode_failed",
)
case(33, "thousand-scans", lambda: progressive(1000), "decode_too_slow")
case(33, "progressive", progressive, found=True)
case(34, "cut-after-the-first-scan", cut_after_first_scan, "truncated")
case(
    35,
    "arithmetic",
    lambda: jpeg_with_size(None, None, sof=0xC9),
    (OK, "decode_failed", "unsupported_encoding"),
    strict=(OK, "decode_failed", "unsupported_encoding", "ambiguous_rendering"),
)
case(35, "beyond-black-and-white", clamped, strict="ambiguous_rendering", found=True)
case(35, "lossless", lambda: jpeg_with_size(None, None, sof=0xC3), "unsupported_encoding")
case(35, "twelve-bit", lambda: jpeg_with_size(None, None, sof=0xC1, bits=12), "unsupported_encoding")
case(36, "cmyk", lambda: encode(marked().convert("CMYK"), "JPEG", quality=92), found=True)
case(
    36,
    "cmyk-without-adobe",
    lambda: without_segments(encode(marked().convert("CMYK"), "JPEG", quality=92), [0xEE]),
    strict="ambiguous_rendering",
    found=True,
)
case(
    36,
    "cmyk-without-adobe-inverted",
    lambda: without_segments(encode(inks(marked()), "JPEG", quality=92), [0xEE]),
    strict="ambiguous_rendering",
    found=True,
)
case(36, "grey", lambda: encode(marked().convert("L"), "JPEG", quality=92), found=True)
case(37, "tiff-lab", lambda: encode(marked().convert("LAB"), "TIFF"), "unsupported_encoding")
case(37, "tiff-float", lambda: encode(marked().convert("F"), "TIFF"), "unsupported_encoding")
case(37, "tiff-of-32-bits", lambda: encode(marked().convert("I"), "TIFF"), "unsupported_encoding")
case(
    37,
    "tiff-cmyk-16",
    lambda: tiff(np.asarray(marked().convert("CMYK")).astype(np.uint16) * 257, (16,) * 4, 5),
    (OK, "unsupported_encoding"),
)
case(
    37,
    "tiff-twelve-in-sixteen",
    lambda: tiff((np.asarray(marked().convert("L")) >> 4).astype(np.uint16) * 273, (16,), 1),
    strict=(OK, "ambiguous_rendering"),
    found=True,
)
case(
    37,
    "tiff-of-12-bits",
    lambda: swap(tiff(np.zeros((64, 96), np.uint8), (8,), 1), struct.pack("<HHII", 258, 3, 1, 8), struct.pack("<HHII", 258, 3, 1, 12)),
    "unsupported_encoding",
)
case(37, "tiff-cmyk", lambda: encode(marked().convert("CMYK"), "TIFF"), found=True)
case(37, "tiff-signed", lambda: tiff(np.asarray(marked().convert("L")), (8,), 1, sample_format=2), "unsupported_encoding")


def grey16(low: int, high: int) -> np.ndarray:
    return (low + np.asarray(marker_mask()).astype(np.float64) / 255 * (high - low)).astype(np.uint16)


case(38, "grey-16-high", lambda: png(WIDTH, HEIGHT, 16, 0, rows_of(grey16(20_000, 65_000))), found=True)
case(38, "grey-16-low", lambda: png(WIDTH, HEIGHT, 16, 0, rows_of(grey16(300, 4_000))), strict=(OK, "ambiguous_rendering"), found=True)
case(38, "grey-16-tiff", lambda: tiff(grey16(20_000, 65_000), (16,), 1), found=True)
case(38, "grey-16-big-endian-tiff", lambda: encode(Image.fromarray(grey16(20_000, 65_000)), "TIFF", big_endian=True), found=True)
case(
    38,
    "grey-16-under-gamma",
    lambda: png(
        WIDTH,
        HEIGHT,
        16,
        0,
        rows_of(np.asarray(double_image().convert("L")).astype(np.uint16) * 257),
        chunk(b"gAMA", struct.pack(">I", 2300)),
    ),
    strict="ambiguous_rendering",
    found=True,
)
case(39, "rgb-16", lambda: png(WIDTH, HEIGHT, 16, 2, rows_of(np.asarray(marked()).astype(np.uint16) * 257)), found=True)
case(39, "one-bit", lambda: encode(marked().convert("1"), "PNG"), found=True)
case(39, "one-bit-inverted-tiff", lambda: encode(marked().convert("1"), "TIFF", tiffinfo={262: 0}), (OK,))
case(39, "two-bit-palette", lambda: encode(marked().convert("L").quantize(4), "PNG", bits=2), found=True)
case(39, "palette-with-transparency", lambda: encode(marked().convert("P"), "PNG", transparency=bytes([0, 128] + [255] * 254)), found=True)
case(39, "palette", lambda: encode(marked().convert("P"), "PNG"), found=True)
case(
    39,
    "grey-key",
    lambda: png(WIDTH, HEIGHT, 8, 0, rows_of(np.asarray(marked().convert("L"))), chunk(b"tRNS", struct.pack(">H", 16))),
    found=True,
)
case(
    39,
    "rgb-16-key",
    lambda: png(
        WIDTH,
        HEIGHT,
        16,
        2,
        rows_of(np.asarray(marked()).astype(np.uint16) * 257),
        chunk(b"tRNS", struct.pack(">HHH", 16 * 257, 16 * 257, 16 * 257)),
    ),
    found=True,
)
case(40, "only-on-white", lambda: encode(swap_alpha_to(0), "PNG"), found=True)
case(40, "only-on-black", lambda: encode(swap_alpha_to(255), "PNG"), found=True)
case(40, "under-alpha-0-and-large", lambda: encode(hidden().resize((2000, 1500), Image.Resampling.NEAREST), "PNG"), found=True)
case(40, "under-alpha-0", lambda: encode(hidden(), "PNG"), found=True)
case(40, "in-bmp-alpha", lambda: bmp32(np.asarray(swap_alpha_to(255))[:, :, 3], np.full((HEIGHT, WIDTH, 3), 255, np.uint8)), found=True)
case(40, "bmp-with-empty-alpha", lambda: bmp32(np.zeros((HEIGHT, WIDTH)), np.asarray(marked())), found=True)
case(41, "la", lambda: encode(swap_alpha_to(255).convert("LA"), "PNG"), found=True)
case(
    41,
    "la-16",
    lambda: png(WIDTH, HEIGHT, 16, 4, rows_of(np.asarray(swap_alpha_to(255).convert("LA")).astype(np.uint16) * 257)),
    found=True,
)
case(41, "pa", lambda: encode(swap_alpha_to(255).quantize(64), "PNG"), found=True)
case(41, "webp-under-alpha-0", lambda: encode(hidden(), "WEBP", lossless=True, exact=True), found=True)
case(41, "webp-lossy-alpha", lambda: encode(swap_alpha_to(255), "WEBP", quality=90), found=True)
case(41, "avif-alpha", lambda: encode(swap_alpha_to(255), "AVIF", quality=85), found=True)
case(41, "avif-premultiplied", lambda: encode(swap_alpha_to(255), "AVIF", quality=85, alpha_premultiplied=True), found=True)
case(41, "tiff-associated-alpha", lambda: tiff(np.asarray(swap_alpha_to(255).convert("RGBa")), (8,) * 4, 2, extra=1), found=True)
case(41, "gif-transparency", lambda: encode(hidden_in_gif(), "GIF", transparency=0), found=True)


def hidden_in_gif() -> Image.Image:
    """The black cells of the marker are the transparent colour."""
    indices = np.select([np.asarray(marker_mask()) < 100, np.asarray(marker_mask()) > 200], [0, 1], 2).astype(np.uint8)
    im = Image.fromarray(indices, "P")
    im.putpalette([16, 16, 16, 239, 239, 239, 128, 128, 128])
    return im


for _turn in range(1, 9):
    case(
        42,
        f"jpeg-orientation-{_turn}",
        lambda t=_turn: with_segment(plain("JPEG", stored_for(t)), 0xE1, b"Exif\0\0" + exif_of(t)),
        found=True,
    )
for _turn in (0, 9, 65535):
    for _stored in (1, 3, 6, 8):
        case(
            42,
            f"jpeg-orientation-{_turn}-stored-{_stored}",
            lambda t=_turn, s=_stored: with_segment(plain("JPEG", stored_for(s)), 0xE1, b"Exif\0\0" + exif_of(t)),
            strict="ambiguous_rendering",
            found=True,
        )
case(42, "png-orientation-6", lambda: with_chunk(plain("PNG", stored_for(6)), chunk(b"eXIf", exif_of(6))), found=True)
case(
    42,
    "png-orientation-behind-the-data",
    lambda: plain("PNG", stored_for(6))[:-12] + chunk(b"eXIf", exif_of(6)) + chunk(b"IEND", b""),
    found=True,
)
case(
    42,
    "png-orientation-in-xmp",
    lambda: with_chunk(plain("PNG", stored_for(8)), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of('tiff:Orientation="8"'))),
    found=True,
)
case(
    42,
    "jpeg-orientation-in-xmp",
    lambda: with_segment(plain("JPEG", stored_for(3)), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of('tiff:Orientation="3"')),
    found=True,
)
case(42, "webp-orientation-6", lambda: encode(stored_for(6), "WEBP", quality=90, exif=exif_of(6)), found=True)
case(42, "avif-orientation-6", lambda: encode(stored_for(6), "AVIF", quality=85, exif=exif_of(6)), found=True)
case(42, "tiff-orientation-6", lambda: encode(stored_for(6), "TIFF", tiffinfo={274: 6}), found=True)
case(
    42,
    "exif-and-xmp-disagree",
    lambda: with_segment(
        with_segment(plain("JPEG", stored_for(3)), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of('tiff:Orientation="3"')),
        0xE1,
        b"Exif\0\0" + exif_of(1),
    ),
    strict="ambiguous_rendering",
    found=True,
)
case(
    43,
    "thumbnail",
    lambda: with_segment(plain("JPEG", quiet()), 0xE1, b"Exif\0\0" + exif_of(1, plain("JPEG", marked(160, 120)))),
    found=False,
)
case(
    43,
    "thumbnail-that-is-none",
    lambda: with_segment(plain("JPEG", quiet()), 0xE1, b"Exif\0\0" + exif_of(1, b"nothing" * 20)),
    strict="ambiguous_content",
)
case(
    44,
    "gamma-shows-the-marker",
    lambda: with_chunk(encode(double_image(), "PNG"), chunk(b"gAMA", struct.pack(">I", 2300))),
    strict="ambiguous_rendering",
    found=True,
)
case(
    44,
    "primaries-swapped",
    lambda: with_chunk(encode(quiet_and_red(), "PNG"), chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in SWAPPED)))),
    strict="ambiguous_rendering",
)
case(44, "usual-gamma", lambda: with_chunk(plain("PNG"), chunk(b"gAMA", struct.pack(">I", 45455))), found=True)


def quiet_and_red() -> Image.Image:
    im = quiet().copy()
    im.paste((230, 20, 20), (100, 100, 300, 200))
    return im


case(45, "second-picture", lambda: jpeg_pictures(plain("JPEG", quiet()), plain("JPEG")), found=True)
case(45, "second-picture-without-index", lambda: plain("JPEG", quiet()) + plain("JPEG"), strict="trailing_data", found=True)
case(45, "mpo-by-pillow", lambda: encode(quiet(), "MPO", save_all=True, append_images=[marked()], quality=90), found=True)
_GAIN_MAP = b"http://ns.adobe.com/xap/1.0/\0" + xmp_of('xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"')
case(
    46,
    "gain-map",
    lambda: jpeg_pictures(with_segment(plain("JPEG", quiet()), 0xE1, _GAIN_MAP), plain("JPEG", quiet().convert("L"))),
    strict="ambiguous_rendering",
)
case(
    46,
    "gain-map-is-the-picture",
    lambda: jpeg_pictures(with_segment(plain("JPEG", quiet()), 0xE1, _GAIN_MAP), plain("JPEG")),
    strict="ambiguous_rendering",
    found=True,
)
_STILLS = [quiet(160, 120).point([min(v + 3 * k, 255) for v in range(256)] * 3) for k in range(4)]
case(47, "marker-in-the-default-picture", lambda: apng(marked(160, 120), _STILLS), found=True)
case(47, "marker-in-the-last-frame", lambda: apng(None, [*_STILLS, marked(160, 120)]), found=True)
case(47, "marker-for-a-millisecond", lambda: apng(None, [_STILLS[0], marked(160, 120), _STILLS[1]], delay_ms=1), found=True)
case(47, "apng-by-pillow", lambda: animation("PNG", 6, 5), found=True)
case(48, "too-few-declared", lambda: apng(None, _STILLS, declared=2), "decode_failed")
case(48, "too-many-declared", lambda: apng(None, _STILLS, declared=9), "decode_failed")
case(48, "none-declared", lambda: apng(None, _STILLS, declared=0), "decode_failed")
case(48, "sequence-starts-at-1", lambda: apng(None, _STILLS, first=1), "decode_failed")
case(48, "more-declared-than-a-png-may-count", lambda: apng(None, _STILLS, declared=2**31 + 1), "decode_failed")
case(49, "gif-of-5000", lambda: gif(64, 64, gif_frame(0, 0, 64, 64), *[gif_frame(0, 0, 1, 1)] * 4999), "too_many_frames")
case(49, "gif-of-100000", lambda: gif(64, 64, gif_frame(0, 0, 64, 64), *[gif_frame(0, 0, 1, 1)] * 99_999), "too_many_frames")
case(49, "apng-of-4-billion", lambda: apng(None, _STILLS, declared=2**31 - 1), "decode_failed")
case(50, "frame-outside", animation_with_frame_outside, (OK, "decode_failed"))
case(50, "frame-without-width", lambda: gif(64, 64, gif_frame(0, 0, 64, 64), gif_frame(0, 0, 0, 64)), (OK, "decode_failed", "truncated"))
case(50, "no-frames", lambda: gif(64, 64), "no_frames")
case(50, "no-frames-but-a-comment", lambda: gif(64, 64, b"\x21\xfe\x02hi\x00"), "no_frames")


def built_up() -> bytes:
    """Each frame draws one column of the marker and leaves the rest as it was."""
    whole = marked(160, 120)
    frames = []
    for step in range(1, 5):
        frame = quiet(160, 120).copy()
        frame.paste(whole.crop((0, 0, 40 * step, 120)), (0, 0))
        frames.append(frame)
    return gif_animation(frames, disposal=1, optimize=True)


case(51, "built-up", built_up, found=True)
case(51, "last-of-7", lambda: animation("GIF", 7, 6), found=True)
case(52, "last-of-42", lambda: animation("WEBP", 42, 41, quality=85), found=True)
case(53, "last-of-5", lambda: animation("AVIF", 5, 4, quality=85), found=True)
case(53, "still-beside-a-sequence", still_beside_sequence, strict=(OK, "ambiguous_content"), found=True)


def avif_with_another_picture() -> bytes:
    """The picture's auxiliary alpha plane is no longer said to be one: it is a second picture nobody points to."""
    data = encode(swap_alpha_to(255), "AVIF", quality=85)
    return swap(data, b"auxl", b"cdsc")


def avif_spoiled() -> bytes:
    data = plain("AVIF")
    name, start, end = boxes(data)[-1]
    assert name == b"mdat"
    return data[: start + 8] + random.Random(5).randbytes(end - start - 8)


def avif_sized(width: int, height: int) -> bytes:
    data = plain("AVIF")
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


case(
    53,
    "another-picture-nobody-points-to",
    avif_with_another_picture,
    (OK, "decode_failed"),
    strict="ambiguous_content",
)
case(54, "avif-of-noise", avif_spoiled, "decode_failed")
case(54, "avif-17000", lambda: avif_sized(17000, 17000), "dimensions_too_large")
case(54, "avif-other-size", lambda: avif_sized(WIDTH + 64, HEIGHT), ("decode_failed", OK))
case(54, "avif-without-data", lambda: plain("AVIF")[: boxes(plain("AVIF"))[-1][1]], "truncated")
case(54, "avif-brand-only", lambda: plain("AVIF")[:32], ("truncated", "decode_failed"))
case(55, "heic", lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "unsupported_media_type")
case(55, "jpeg-xl", lambda: b"\xff\x0a" + bytes(64), "unsupported_media_type")
case(55, "jpeg-xl-box", lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "unsupported_media_type")
case(55, "jpeg-2000", lambda: encode(quiet(), "JPEG2000"), "unsupported_media_type")
case(55, "tiff-of-two-pages", lambda: encode(quiet(), "TIFF", save_all=True, append_images=[marked()]), "unsupported_media_type")
case(55, "mp4", lambda: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(64), "decode_failed")
case(55, "matroska", lambda: b"\x1aE\xdf\xa3" + bytes(64), "unsupported_media_type")
for _form in ("ICO", "ICNS", "DDS", "BLP", "SGI", "PCX", "TGA", "PPM", "MSP", "XBM"):
    _mode = {"MSP": "1", "XBM": "1", "BLP": "P"}.get(_form, "RGB")
    case(56, _form.lower(), lambda f=_form, m=_mode: encode(quiet(64, 64).convert(m), f), "unsupported_media_type")
case(56, "psd", lambda: b"8BPS\0\1" + bytes(64), "unsupported_media_type")
case(56, "fli", lambda: struct.pack("<IHHHHH", 128, 0xAF11, 1, 64, 64, 8) + bytes(116), "unsupported_media_type")
case(57, "bmp-of-5-bits", lambda: bmp(64, 64, 5, pixels=bytes(64 * 64)), "decode_failed")
case(57, "bmp-bad-compression", lambda: bmp(64, 64, 24, compression=9, pixels=bytes(64 * 64 * 3)), "decode_failed")
case(57, "bmp-bad-run-length", lambda: bmp(64, 64, 8, compression=1, pixels=b"\x00\x02\xff\xff" * 40), ("decode_failed", "truncated", OK))
for _bits in (8, 4):
    case(57, f"bmp-runs-of-{_bits}", lambda b=_bits: bmp_runs(b, runs_of(b)), found=True)
    case(57, f"bmp-run-of-{_bits}-behind-its-row", lambda b=_bits: bmp_runs(b, runs_of(b, ends=b"\1\0\0\0")), "decode_failed")
    case(57, f"bmp-pixels-of-{_bits}-behind-their-row", lambda b=_bits: bmp_runs(b, runs_of(b, ends=b"\0\4abcd\0\0")), "decode_failed")
    case(57, f"bmp-runs-of-{_bits}-with-an-empty-row", lambda b=_bits: bmp_runs(b, runs_of(b, ends=b"\0\0\0\0")), "decode_failed")
    case(57, f"bmp-runs-of-{_bits}-that-jump-out", lambda b=_bits: bmp_runs(b, runs_of(b, ends=b"\0\2\0\xff\0\2\0\xff")), "decode_failed")
    case(57, f"bmp-runs-of-{_bits}-too-few", lambda b=_bits: bmp_runs(b, b"\0\0".join(runs_of_rows(b)[:100]) + b"\0\1"), "truncated")
    case(57, f"bmp-runs-of-{_bits}-without-end", lambda b=_bits: bmp_runs(b, b"\0\0".join(runs_of_rows(b)[:100])), "truncated")
    case(57, f"bmp-runs-of-{_bits}-downwards", lambda b=_bits: bmp_runs(b, runs_of(b), height=-HEIGHT), "decode_failed")
    case(57, f"bmp-runs-of-{_bits}-at-an-odd-place", lambda b=_bits: bmp_runs(b, runs_of(b), gap=1), "decode_failed")
case(57, "bmp-runs-of-24", lambda: bmp(64, 64, 24, compression=1, pixels=b"\x40\0\0\0" * 64 + b"\0\1"), "decode_failed")
case(57, "bmp-of-two-planes", lambda: bmp(64, 64, planes=2, pixels=bytes(64 * 64 * 3)), "decode_failed")
case(
    57,
    "bmp-of-two-gigabytes-by-its-own-account",
    lambda: swap(plain("BMP"), struct.pack("<I", WIDTH * HEIGHT * 3), struct.pack("<I", 2129587950)),
    "decode_failed",
)
case(57, "bmp-around-a-png", lambda: bmp(64, 64, 0, compression=5, pixels=plain("PNG")), "unsupported_encoding")
case(57, "bmp-of-unusual-masks", lambda: bmp_masks(0xFF00, 0xFF, 0xFF0000), "unsupported_encoding")


def bmp_masks(*masks: int) -> bytes:
    body = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 32, 3, 64 * 64 * 4, 0, 0, 0, 0) + struct.pack("<III", *masks)
    return b"BM" + struct.pack("<IHHI", 66 + 64 * 64 * 4, 0, 0, 66) + body + bytes(64 * 64 * 4)


case(57, "bmp-bad-header", lambda: bmp(64, 64, header=66, pixels=bytes(64 * 64 * 3)), ("unsupported_media_type", "decode_failed"))
case(57, "bmp-bad-offset", lambda: swap(plain("BMP"), struct.pack("<I", 54), struct.pack("<I", 0x7FFFFFFF)), "truncated")
