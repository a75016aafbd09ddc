"""Colour as other viewers see it: embedded profiles, and the gamma and primaries of a PNG.

Pillow shows samples as they are; a viewer that honours a profile may show another picture. So each such way of
reading the samples is a rendering of its own, screened where it differs visibly.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, cast

from PIL import Image, ImageChops, ImageCms

UNSEEN: Final = 10
"""Largest difference over all colours that nobody would call another picture, of 255."""

VISIBLE: Final = 12
"""Mean difference in one cell of a 16 x 16 grid from which a second rendering is screened."""

CONTRADICTORY: Final = 40
"""The same from which a strict caller's file is refused."""

_STEP: Final = 6
"""Levels by which one level more may differ from the one before it, in a profile that shows nothing new: a curve with a peak between others does."""

_GRID: Final = 16
_SRGB_GAMMA: Final = 0.45455
_SRGB_CHROMATICITY: Final = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_KNOWN_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Profile:
    """A way of reading samples, ready to be applied to pictures of mode `mode`; without `transform` it shows nothing new.

    It is applied to each pixel before anything is scaled: what a profile makes of a mean is not the mean of what it makes of the pixels,
    and whole pictures can be drawn with that.
    """

    mode: str
    transform: ImageCms.ImageCmsTransform | None

    def apply(self, im: Image.Image) -> Image.Image:
        """`im` in sRGB; alpha stays as it is."""
        if self.transform is None:
            return im
        if im.mode != self.mode:
            im = im.convert(self.mode)
        return cast("Image.Image", ImageCms.applyTransform(im, self.transform))


_IGNORED: Final = Profile("RGB", None)
_known: dict[tuple[bytes, str], Profile] = {}


def profile(raw: bytes, mode: str) -> Profile:
    """The embedded ICC profile `raw` for pictures of `mode` (L, RGB, RGBA or CMYK); one that is invalid does nothing."""
    key = (hashlib.sha256(raw).digest(), mode)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        found = _known[key] = _build(raw, mode)
    return found


def png_profile(info: dict[str | tuple[int, int], object]) -> bytes | None:
    """An ICC profile that says what gAMA and cHRM of a PNG say, or None where that is sRGB or nonsense."""
    gamma = cast("float", info.get("gamma", _SRGB_GAMMA))
    chromaticity = cast("tuple[float, ...]", info.get("chromaticity", _SRGB_CHROMATICITY))
    usual = all(abs(a - b) < 0.005 for a, b in zip(chromaticity, _SRGB_CHROMATICITY, strict=True))
    if (usual and abs(gamma - _SRGB_GAMMA) < 0.01) or not gamma > 0:
        return None
    try:
        return _matrix_profile(1 / gamma, chromaticity)
    except (ZeroDivisionError, struct.error, OverflowError):
        return None


def difference(one: Image.Image, other: Image.Image) -> int:
    """How far apart two RGB pictures of one size are: the largest mean difference of a cell of a 16 x 16 grid."""
    cells = ImageChops.difference(one, other).resize((_GRID, _GRID), Image.Resampling.BOX)
    return max(high for _, high in cast("tuple[tuple[int, int], ...]", cells.getextrema()))


def _build(raw: bytes, mode: str) -> Profile:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(raw))
        space = source.profile.xcolor_space.strip()
        if mode == "L" and space == "RGB":
            mode = "RGB"
        target = "RGBA" if mode == "RGBA" else "RGB"
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, target)
        made = Profile(mode, transform)
        return _IGNORED if _is_plain(source) and _shows_nothing_new(made) else made
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return _IGNORED


def _is_plain(source: ImageCms.ImageCmsProfile) -> bool:
    """Whether it has curves and a matrix only. A table may show any single colour as another one, which no sample of colours finds."""
    tables = source.profile.clut or {}
    return bool(source.profile.is_matrix_shaper) and not any(as_input for as_input, *_ in tables.values())


def _shows_nothing_new(made: Profile) -> bool:
    cube = _cube()
    seen, plain = made.apply(cube.convert(made.mode)).convert("RGB"), cube.convert(made.mode).convert("RGB")
    worst = max(high for _, high in cast("tuple[tuple[int, int], ...]", ImageChops.difference(seen, plain).getextrema()))
    return worst <= UNSEEN and _steepest(made) <= _STEP


def _steepest(made: Profile) -> int:
    """The largest step from one level to the next, over grey and over each primary beside none and beside all of the others."""
    ramp, none, all_ = bytes(range(256)), bytes(256), b"\xff" * 256
    lines = [(ramp, ramp, ramp)]
    for rest in (none, all_):
        lines += [(ramp, rest, rest), (rest, ramp, rest), (rest, rest, ramp)]
    steepest = 0
    for bands in lines:
        line = Image.merge("RGB", [Image.frombytes("L", (256, 1), band) for band in bands])
        seen = made.apply(line.convert(made.mode)).convert("RGB").tobytes()
        steepest = max([steepest, *(abs(after - before) for band in range(3) for before, after in pairwise(seen[band::3]))])
    return steepest


def _cube() -> Image.Image:
    """All colours in steps of 17, and between: 16 x 16 x 16."""
    levels = [17 * step for step in range(_GRID)]
    raw = bytes(value for r in levels for g in levels for b in levels for value in (r, g, b))
    return Image.frombytes("RGB", (_GRID * _GRID, _GRID), raw)


# --- a matrix profile ------------------------------------------------------------------------------

_Vector = tuple[float, float, float]
_BRADFORD: Final = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_D50: Final = (0.9642, 1.0, 0.8249)


def _matrix_profile(exponent: float, chromaticity: tuple[float, ...]) -> bytes:
    """ICC 2.1 display profile: colorants adapted to D50 and one power curve."""
    white, *primaries = [_xyz(chromaticity[i], chromaticity[i + 1]) for i in range(0, 8, 2)]
    columns = (primaries[0], primaries[1], primaries[2])
    share = _solve(columns, white)
    cone_white, cone_d50 = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    colorants = []
    for column, part in zip(columns, share, strict=True):
        cone = _times(_BRADFORD, (column[0] * part, column[1] * part, column[2] * part))
        adapted = (cone[0] * cone_d50[0] / cone_white[0], cone[1] * cone_d50[1] / cone_white[1], cone[2] * cone_d50[2] / cone_white[2])
        colorants.append(_solve(_columns(_BRADFORD), adapted))
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, min(round(exponent * 256), 65535)) + bytes(2)
    tags = [(name, _xyz_tag(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)]
    tags += [(b"wtpt", _xyz_tag(_D50)), *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC"))]
    return _icc(tags)


def _icc(tags: list[tuple[bytes, bytes]]) -> bytes:
    at = 132 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags:
        table += struct.pack(">4sII", name, at + len(bodies), len(body))
        bodies += body
    head = struct.pack(
        ">I4sI4s4s4s12x4s4x4x4x4x8x4xiii4x", at + len(bodies), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp", *_fixed(_D50)
    )
    return head.ljust(128, b"\0") + table + bodies


def _xyz_tag(value: _Vector) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">iii", *_fixed(value))


def _fixed(value: _Vector) -> tuple[int, int, int]:
    return round(value[0] * 65536), round(value[1] * 65536), round(value[2] * 65536)


def _xyz(x: float, y: float) -> _Vector:
    return x / y, 1.0, (1 - x - y) / y


def _times(rows: tuple[_Vector, _Vector, _Vector], v: _Vector) -> _Vector:
    a, b, c = (row[0] * v[0] + row[1] * v[1] + row[2] * v[2] for row in rows)
    return a, b, c


def _columns(rows: tuple[_Vector, _Vector, _Vector]) -> tuple[_Vector, _Vector, _Vector]:
    a, b, c = zip(*rows, strict=True)
    return a, b, c


def _solve(columns: tuple[_Vector, _Vector, _Vector], wanted: _Vector) -> _Vector:
    """Weights of three columns that sum to `wanted` (Cramer). Raises ZeroDivisionError when there are none."""
    a, b, c = columns
    whole = _det(a, b, c)
    return _det(wanted, b, c) / whole, _det(a, wanted, c) / whole, _det(a, b, wanted) / whole


def _det(a: _Vector, b: _Vector, c: _Vector) -> float:
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1])
