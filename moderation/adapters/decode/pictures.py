"""From the bytes of a file to inputs that show what any viewer could see of it. Runs in a decode child only.

Refuses first what can be told without decoding, then decodes picture by picture and makes every rendering that
viewers disagree about: alpha on three backgrounds and without alpha, colour with and without its profile, turned
in every way the file allows. Renderings that come out equal are sent once.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from PIL import (  # the last five register themselves
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from moderation.adapters.decode import colour, containers
from moderation.adapters.decode.containers import Layout
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.views import MAX_TILES, MAX_TILES_MOVING, Region, Spec, TooLong, cheap_scale, on_backgrounds
from moderation.errors import Refusal

MAX_SCANS: Final = 100
"""Passes over one progressive JPEG; honest ones have about ten, and each costs a pass over all coefficients."""

MAX_PADDING: Final = 64 << 10
"""Zeros behind a picture that are no content."""

MAX_RENDERINGS: Final = 64
"""Of one frame. More would be a file made to be expensive."""

_SLOW_FRAME_MS: Final = 100
"""What viewers show a frame for that says 0."""

_MARKUP: Final = re.compile(
    rb"<(?:script|html|!doctype|iframe|body|svg)[\s>]|<\?php|PK\x03\x04[\x00-\x3f]\x00|%PDF-1|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c",
    re.IGNORECASE,
)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES: Final = (5, 6, 7, 8)
_TURN_NAMES: Final = {
    1: "turned_0",
    2: "mirrored",
    3: "turned_180",
    4: "flipped",
    5: "transposed",
    6: "turned_90",
    7: "transversed",
    8: "turned_270",
}
_FORMATS: Final = {form: (form.pillow, "MPO") if form is Format.JPEG else (form.pillow,) for form in Format}


class Refused(Exception):
    """The media cannot be judged."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(refusal, detail)
        self.refusal = refusal
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a child is asked to make of one media; see `moderation.frames.DecodePlan`."""

    form: Format
    specs: tuple[Spec, ...]
    strict: bool
    image_pixels: int
    total_pixels: int
    min_side: int
    max_side: int
    frames: int


@dataclass(frozen=True, slots=True)
class View:
    """One input: which spec, of which frame, how rendered, what region of the upright frame, RGB of the spec's size."""

    spec: int
    frame: int
    time_us: int | None
    rendering: str
    region: Region
    pixels: Image.Image


@dataclass(slots=True)
class _Shot:
    """One decoded frame as it is stored, and how often viewers have to scale it down at least."""

    frame: int
    time_us: int | None
    image: Image.Image
    prefix: str = ""
    full: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class _Found:
    """What decoding finds out on its way."""

    animated: bool = False
    frames: int = 0
    duration_us: int = 0
    upright: tuple[int, int] = (0, 0)
    renderings: list[str] = field(default_factory=list)


def prepare() -> None:
    """Set Pillow up once: no truncated files, one thread, the fourth byte of a BMP is alpha to some viewers."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    BmpImagePlugin.USE_RAW_ALPHA = True
    GifImagePlugin.LOADING_STRATEGY = GifImagePlugin.LoadingStrategy.RGB_AFTER_FIRST
    Image._initialized = 2  # noqa: SLF001 - otherwise a file that fails makes Pillow import all its other plugins
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    warnings.filterwarnings("error", message="Invalid APNG")


def screen(data: bytes, task: Task, emit: Callable[[View], None]) -> dict[str, object]:
    """Emit every view of `data` in frame order and return its facts. Raises Refused and nothing else but MemoryError."""
    try:
        return _screen(data, task, emit)
    except (Refused, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, TooLong) as error:
        raise Refused(Refusal.DIMENSIONS_TOO_LARGE, type(error).__name__) from error
    except Exception as error:
        # Decoders raise nearly anything: OSError, SyntaxError, ValueError, TypeError, IndexError, RuntimeError, ...
        text = str(error)
        cut = any(word in text.lower() for word in ("truncated", "unexpected end", "not enough image data", "ran out of data"))
        raise Refused(Refusal.TRUNCATED if cut else Refusal.DECODE_FAILED, f"{type(error).__name__}: {text}"[:300]) from error


def _screen(data: bytes, task: Task, emit: Callable[[View], None]) -> dict[str, object]:
    Image.MAX_IMAGE_PIXELS = task.image_pixels
    layout = containers.walk(data, task.form)
    _check_size(layout.width, layout.height, layout.frames or 1, task)
    _check_structure(data, layout, task)
    found = _Found()
    shots = _SHOTS.get(task.form, _frames)(data, layout, task, found)
    if task.strict:
        for view in _thumbnails(layout, task):
            found.renderings.append(view.rendering)
            emit(view)
    for shot in shots:
        _check_size(*(shot.full if shot.full != (0, 0) else shot.image.size), max(found.frames, 1), task)
        for view in _views(shot, layout, task, found):
            emit(view)
    if not found.frames:
        raise Refused(Refusal.NO_FRAMES)
    return {
        "animated": found.animated,
        "width": found.upright[0],
        "height": found.upright[1],
        "frames": found.frames,
        "frames_declared": layout.frames,
        "duration_us": found.duration_us if found.animated else None,
        "unscreened": _unscreened(data, layout, strict=task.strict),
        "renderings": sorted(set(found.renderings)),
    }


# --- refusals that need no decoding ----------------------------------------------------------------


def _check_size(width: int, height: int, frames: int, task: Task) -> None:
    pixels = width * height
    if max(width, height) > task.max_side or pixels > task.image_pixels:
        raise Refused(Refusal.DIMENSIONS_TOO_LARGE, f"{width} x {height}")
    if frames > task.frames:
        raise Refused(Refusal.TOO_MANY_FRAMES, f"{frames} frames")
    if pixels * frames > task.total_pixels:
        raise Refused(Refusal.DIMENSIONS_TOO_LARGE, f"{width} x {height} x {frames}")


def _check_structure(data: bytes, layout: Layout, task: Task) -> None:
    if layout.broken:
        raise Refused(Refusal.DECODE_FAILED, layout.broken)
    if layout.truncated:
        raise Refused(Refusal.TRUNCATED, "the file ends before its picture does")
    if layout.unsupported:
        raise Refused(Refusal.UNSUPPORTED_ENCODING, layout.unsupported)
    if task.form is Format.TIFF and layout.frames != 1:
        raise Refused(Refusal.UNSUPPORTED_MEDIA_TYPE, "TIFF of several pages")
    if layout.frames == 0:
        raise Refused(Refusal.NO_FRAMES)
    if layout.scans > MAX_SCANS:
        raise Refused(Refusal.DECODE_TOO_SLOW, f"{layout.scans} scans")
    if 0 < min(layout.width, layout.height) < task.min_side:
        raise Refused(Refusal.TOO_SMALL, f"{layout.width} x {layout.height}")
    if task.strict:
        _check_strict(data, layout)


def _check_strict(data: bytes, layout: Layout) -> None:
    if layout.unindexed or _has_trailing(data, layout):
        raise Refused(Refusal.TRAILING_DATA, f"{len(data) - (layout.end or 0)} bytes after the picture")
    if layout.odd:
        raise Refused(Refusal.AMBIGUOUS_CONTENT, layout.odd)
    if layout.gain_map:
        raise Refused(Refusal.AMBIGUOUS_RENDERING, "a gain map or another auxiliary picture")
    # A width or length that spells the start of a comment makes the header itself part of a script.
    if (data[:3] == b"GIF" and data[6:8] in (b"/*", b"//", b"='", b'="', b"=1")) or (data[:2] == b"\xff\xd8" and data[4:6] == b"/*"):
        raise Refused(Refusal.AMBIGUOUS_CONTENT, "a header that is also a script")
    if _MARKUP.search(data):
        raise Refused(Refusal.AMBIGUOUS_CONTENT, "markup, a script or an archive")
    if any(not 1 <= value <= 8 for value in layout.orientations) or len(set(layout.orientations)) > 1:
        raise Refused(Refusal.AMBIGUOUS_RENDERING, "orientation")


def _has_trailing(data: bytes, layout: Layout) -> bool:
    """Whether more than a little padding follows the picture."""
    if layout.end is None or layout.end >= len(data):
        return False
    return len(data) - layout.end > MAX_PADDING or data[layout.end :].strip(b"\0") != b""


def _unscreened(data: bytes, layout: Layout, *, strict: bool) -> list[str]:
    present = []
    if _has_trailing(data, layout) or (layout.odd and not strict):
        present.append("trailing_data")
    if layout.gain_map:
        present.append("gain_map")
    if layout.thumbnail and not (strict and layout.thumbnails):
        present.append("thumbnail")
    return present


# --- frames ----------------------------------------------------------------------------------------


def _open(data: bytes, form: Format) -> ImageFile.ImageFile:
    im = Image.open(io.BytesIO(data), formats=[form.pillow])
    if im.format not in _FORMATS[form]:
        raise Refused(Refusal.DECODE_FAILED, f"opened as {im.format}")
    return im


def _jpegs(data: bytes, layout: Layout, task: Task, found: _Found) -> Iterator[_Shot]:
    """Every JPEG stream of the file: one, or the pictures of an MPO."""
    total = 0
    for index, (start, end) in enumerate(layout.pictures):
        im = _open(data if start == 0 and end == len(data) else data[start:end], Format.JPEG)
        total += im.width * im.height
        if total > task.total_pixels:
            raise Refused(Refusal.DIMENSIONS_TOO_LARGE, "all pictures together")
        full = im.size
        _check_size(*full, len(layout.pictures), task)
        if index == 0:
            _check_smallest(im, task)
        _scale_in_decoder(im, layout, task)
        im.load()
        found.frames += 1
        yield _Shot(index, None, im, full=full)


def _scale_in_decoder(im: ImageFile.ImageFile, layout: Layout, task: Task) -> None:
    """Let libjpeg leave out frequencies that no input can show."""
    profile = _embedded(im)
    if profile is not None and colour.profile(profile, im.mode).effect is colour.Effect.STRONG:
        return
    sides = im.size[::-1] if layout.orientations[:1] and layout.orientations[0] in _SWAPS_SIDES else im.size
    scale = cheap_scale(task.specs, *sides, MAX_TILES)
    for factor in (8, 4, 2):
        if scale >= factor:
            im.draft(None, (im.width // factor, im.height // factor))
            return


def _frames(data: bytes, layout: Layout, task: Task, found: _Found) -> Iterator[_Shot]:
    """Every frame of an animation as composited, or the one picture."""
    stills = [_open(variant, task.form) for variant in layout.variants]
    im = _open(layout.clean or data, task.form)
    _check_smallest(im, task)
    if task.form is Format.AVIF:
        im, stills = _sequence_first(im, stills)
        layout.frames = getattr(im, "n_frames", 1)
    declared = layout.frames or 1
    _check_size(*im.size, declared, task)
    if task.form is not Format.GIF and getattr(im, "n_frames", 1) != declared:
        raise Refused(Refusal.DECODE_FAILED, f"{declared} frames declared")
    found.animated = declared > 1
    for index in range(declared):
        if index:
            im.seek(index)
        gap = im.info.get("duration") or 0
        im.load()
        gap = im.info.get("duration") or gap or _SLOW_FRAME_MS
        if index == 0:
            for still in stills:
                still.load()
                _check_size(*still.size, 1, task)
                if still.mode == im.mode and still.size == im.size and ImageChops.difference(still, im).getbbox(alpha_only=False) is None:
                    continue
                yield _Shot(0, 0 if found.animated else None, still, prefix="still")
        found.frames += 1
        yield _Shot(index, found.duration_us if found.animated else None, im)
        found.duration_us += max(round(float(gap) * 1000), 1)
    if task.form is Format.GIF:
        _expect_end(im, declared)


def _expect_end(im: ImageFile.ImageFile, declared: int) -> None:
    try:
        im.seek(declared)
    except EOFError:
        return
    raise Refused(Refusal.DECODE_FAILED, "more frames than the container has")


def _sequence_first(im: ImageFile.ImageFile, others: list[ImageFile.ImageFile]) -> tuple[ImageFile.ImageFile, list[ImageFile.ImageFile]]:
    """The longest of the pictures a file holds, and the rest."""
    together = sorted([im, *others], key=lambda one: -getattr(one, "n_frames", 1))
    return together[0], together[1:]


def _check_smallest(im: ImageFile.ImageFile, task: Task) -> None:
    if min(im.size) < task.min_side:
        raise Refused(Refusal.TOO_SMALL, f"{im.width} x {im.height}")


_SHOTS: Final = {Format.JPEG: _jpegs}


# --- renderings ------------------------------------------------------------------------------------


def _views(shot: _Shot, layout: Layout, task: Task, found: _Found) -> Iterator[View]:
    most = MAX_TILES_MOVING if found.animated else MAX_TILES
    readings = _readings(shot.image, layout, task)
    full = shot.full if shot.full != (0, 0) else shot.image.size
    for number, (turn, turn_name) in enumerate(_turns(shot, layout, task)):
        sides = full[::-1] if turn in _SWAPS_SIDES else full
        if number == 0 and found.upright == (0, 0):
            found.upright = sides
        scale = cheap_scale(task.specs, *sides, most)
        shrunk, ready = _upright(readings, turn, sides, scale)
        for spec in task.specs:
            for region in spec.regions(*sides, most):
                prefix = [part for part in (shot.prefix, turn_name) if part]
                for rendering, pixels in _renderings(spec, region, ready, shrunk, prefix, strict=task.strict):
                    found.renderings.append(rendering)
                    yield View(spec.index, shot.frame, shot.time_us, rendering, region, pixels)


def _upright(
    readings: Sequence[tuple[str, Image.Image]], turn: int, sides: tuple[int, int], scale: float
) -> tuple[float, list[tuple[str, Image.Image]]]:
    """Every reading scaled down by a whole number and turned; says how many times smaller than the frame they are."""
    first = readings[0][1]
    drafted = max(sides) / max(first.size)
    factor = max(int(scale / drafted), 1)
    ready = []
    for name, im in readings:
        small = im.reduce(factor) if factor > 1 else im
        ready.append((name, small.transpose(_TURNS[turn]) if turn in _TURNS else small))
    return drafted * factor, ready


def _turns(shot: _Shot, layout: Layout, task: Task) -> list[tuple[int, str]]:
    """Orientations to show; the first is the upright one."""
    stated = layout.orientations
    if shot.frame < len(layout.turns):
        stated = layout.turns[shot.frame] or stated
    if task.form is Format.AVIF:
        stated = [shot.image.getexif().get(0x0112, 1)]
    if task.form is Format.TIFF:
        # Pillow has turned it already, unless the value means nothing.
        stated = [value for value in stated if not 1 <= value <= 8]
    if any(not 1 <= value <= 8 for value in stated):
        return [(1, ""), (6, _TURN_NAMES[6]), (3, _TURN_NAMES[3]), (8, _TURN_NAMES[8])]
    different = list(dict.fromkeys(stated)) or [1]
    return [(different[0], ""), *((value, _TURN_NAMES[value]) for value in different[1:])]


def _renderings(
    spec: Spec, region: Region, ready: Sequence[tuple[str, Image.Image]], shrunk: float, prefix: list[str], *, strict: bool
) -> Iterator[tuple[str, Image.Image]]:
    """All that viewers might show of one region, each picture once."""
    seen: set[bytes] = set()
    reference: Image.Image | None = None
    for reading, im in ready:
        for alpha, small in _alphas(spec, region, im, shrunk):
            if reference is None:
                reference = small
            elif reading:
                apart = colour.difference(reference, small) if alpha in ("", "on_white") else colour.CONTRADICTORY
                if strict and apart >= colour.CONTRADICTORY and alpha in ("", "on_white"):
                    raise Refused(Refusal.AMBIGUOUS_RENDERING, reading)
                if apart < colour.VISIBLE:
                    break
            padded = spec.pad(small)
            if len(ready) > 1 or alpha:
                raw = padded.tobytes()
                if raw in seen:
                    continue
                seen.add(raw)
                if len(seen) > MAX_RENDERINGS:
                    raise Refused(Refusal.DECODE_TOO_SLOW, "too many renderings")
            yield "_".join([*prefix, *(part for part in (reading, alpha) if part)]) or "plain", padded


def _alphas(spec: Spec, region: Region, im: Image.Image, shrunk: float) -> Iterator[tuple[str, Image.Image]]:
    small = spec.show(im, region, shrunk)
    if small.mode != "RGBA":
        yield "", small if small.mode == "RGB" else small.convert("RGB")
        return
    yield from on_backgrounds(small)
    yield "no_alpha", spec.show(im.convert("RGB"), region, shrunk)


def _readings(im: Image.Image, layout: Layout, task: Task) -> list[tuple[str, Image.Image]]:
    """The ways to read the samples of one frame as colours: pictures of mode L, RGB or RGBA, the plain one first."""
    if im.mode in ("I", "F", "LAB", "HSV"):
        raise Refused(Refusal.UNSUPPORTED_ENCODING, im.mode)
    if im.mode.startswith("I;16"):
        return _from_sixteen_bits(im, layout)
    readings = [("", _eight_bits(im, layout))]
    plain = readings[0][1]
    if im.mode == "CMYK" and task.form is Format.JPEG and not layout.adobe:
        readings.append(("inverted", Image.eval(im, lambda sample: 255 - sample).convert("RGB")))
    for name, raw in (("icc", _embedded(im)), ("gamma", colour.png_profile(im.info) if task.form is Format.PNG else None)):
        if raw is None:
            continue
        source = im if im.mode == "CMYK" else plain
        reading = colour.profile(raw, source.mode)
        if reading.effect is not colour.Effect.NONE:
            readings.append((name, reading.apply(source)))
    return readings


def _embedded(im: Image.Image) -> bytes | None:
    raw = im.info.get("icc_profile")
    return raw if isinstance(raw, bytes) and raw else None


def _eight_bits(im: Image.Image, layout: Layout) -> Image.Image:
    key = im.info.get("transparency")
    if im.mode in ("L", "RGB", "1", "P", "PA", "LA", "La", "RGBa", "RGBA") and (im.has_transparency_data or im.mode in ("RGBa", "La")):
        return _without_useless_alpha(_with_key(im, key, layout))
    if im.mode in ("L", "RGB"):
        return im
    if im.mode == "1":
        return im.convert("L")
    return im.convert("RGB")


def _with_key(im: Image.Image, key: object, layout: Layout) -> Image.Image:
    """RGBA. A PNG names its transparent colour in the file's bit depth, the samples have eight bits by now."""
    if layout.bit_depth == 16 and key is not None:
        key = tuple(part >> 8 for part in key) if isinstance(key, tuple) else int(cast("int", key)) >> 8
    elif im.mode == "L" and layout.bit_depth in (2, 4) and isinstance(key, int):
        key *= 85 if layout.bit_depth == 2 else 17
    else:
        return _to_rgba(im)
    before = im.info["transparency"]
    im.info["transparency"] = key
    try:
        return _to_rgba(im)
    finally:
        im.info["transparency"] = before


def _to_rgba(im: Image.Image) -> Image.Image:
    if im.mode == "RGBA":
        return im
    if im.mode == "La":
        im = im.convert("LA")
    return im.convert("RGBA")


def _without_useless_alpha(im: Image.Image) -> Image.Image:
    """RGB when alpha is full everywhere, or nowhere in a BMP, where it usually is not alpha at all."""
    low, high = cast("tuple[int, int]", im.getchannel("A").getextrema())
    return im.convert("RGB") if low == 255 or (high == 0 and im.info.get("compression") is not None) else im


def _from_sixteen_bits(im: Image.Image, layout: Layout) -> list[tuple[str, Image.Image]]:
    """High bytes as greys; Pillow's own conversion clips everything above 255 to white.

    Some viewers stretch what uses only a small part of the range, as twelve bits stored in sixteen do.
    """
    little = im.mode in ("I;16", "I;16L")
    raw = im.tobytes()
    high_bytes = raw[1::2] if little else raw[0::2]
    grey = Image.frombytes("L", im.size, high_bytes)
    key = im.info.get("transparency")
    if isinstance(key, int):
        return [("", _with_key_of_grey(grey, key >> 8))]
    readings = [("", grey)]
    top = max(high_bytes)
    if top < 0x40:
        low_bytes = Image.frombytes("L", im.size, raw[0::2] if little else raw[1::2])
        factor = 255 / (256 * top + 255)
        stretched = Image.merge("RGB", [grey, low_bytes, low_bytes]).convert("L", (256 * factor, factor, 0, 0))
        readings.append(("stretched", stretched))
    return readings if layout.width else readings[:1]


def _with_key_of_grey(grey: Image.Image, key: int) -> Image.Image:
    alpha = grey.point([0 if level == key else 255 for level in range(256)])
    return _without_useless_alpha(Image.merge("LA", (grey, alpha)).convert("RGBA"))


# --- embedded previews (strict only) -----------------------------------------------------------------


def _thumbnails(layout: Layout, task: Task) -> Iterator[View]:
    for raw in layout.thumbnails:
        if containers.walk(raw, Format.JPEG).truncated or raw[:3] != b"\xff\xd8\xff":
            raise Refused(Refusal.AMBIGUOUS_CONTENT, "an embedded preview that cannot be opened")
        im = _open(raw, Format.JPEG)
        _check_size(*im.size, 1, task)
        im.load()
        rgb = im.convert("RGB")
        for spec in task.specs:
            for region in spec.regions(*rgb.size, MAX_TILES):
                yield View(spec.index, 0, None, "thumbnail", region, spec.pad(spec.show(rgb, region, 1.0)))
