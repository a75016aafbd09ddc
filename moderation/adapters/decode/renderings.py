"""Every way in which viewers may show one decoded frame.

They disagree about alpha (what lies behind it, or whether there is any), about colour (profiles, gamma, inks), about
sixteen bits, and about which way is up. Each way is a rendering; those that come out equal, or as good as equal in
colour, are sent once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from PIL import Image

from moderation.adapters.decode import colour
from moderation.adapters.decode.containers import Layout
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.task import Refused, Task, View
from moderation.adapters.decode.views import Region, Spec, cheap_scale, on_backgrounds
from moderation.errors import Refusal

MAX_RENDERINGS: Final = 64
"""Of one region. More would be a file made to be expensive."""

SWAPS_SIDES: Final = (5, 6, 7, 8)
"""EXIF orientations that turn a wide picture into a tall one."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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


@dataclass(slots=True)
class Shot:
    """One decoded frame as stored. `full` is its size in the file: one of a video may be scaled down already."""

    frame: int
    time_us: int | None
    image: Image.Image
    full: tuple[int, int]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read samples as colours: mode L, RGB, RGBA or CMYK; `later` is what of that is still to be done."""

    name: str
    image: Image.Image
    later: colour.Profile | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A reading, scaled down and upright; `bare` shows the colours under its alpha."""

    name: str
    image: Image.Image
    bare: Image.Image | None


def upright_size(shot: Shot, layout: Layout, task: Task) -> tuple[int, int]:
    """Width and height of the frame the right way up."""
    return _turned(shot.full, _turns(shot, layout, task)[0][0])


def views(shot: Shot, layout: Layout, task: Task, most_tiles: int) -> Iterator[View]:
    """All inputs of one frame. Raises Refused; TooLong when it needs more than `most_tiles`."""
    readings = _readings(shot.image, layout, task)
    for turn, turn_name in _turns(shot, layout, task):
        sides = _turned(shot.full, turn)
        shrunk, ready = _prepared(readings, turn, sides, cheap_scale(task.specs, *sides, most_tiles))
        prefix = [part for part in (shot.prefix, turn_name) if part]
        for spec in task.specs:
            for region in spec.regions(*sides, most_tiles):
                for rendering, pixels in _renderings(spec, region, ready, shrunk, strict=task.strict):
                    name = "_".join([*prefix, *rendering]) or "plain"
                    yield View(spec.index, shot.frame, shot.time_us, name, region, pixels)


class Upright:
    """The frame as it is usually shown: upright, sRGB, alpha on white, in the size of the file.

    Only the decoded frame is held whole; the rest is made band by band, because a second copy of a large one would not fit.
    """

    def __init__(self, shot: Shot, layout: Layout, task: Task) -> None:
        """Raises Refused."""
        turn, turn_name = _turns(shot, layout, task)[0]
        reading = _usual_reading(shot.image, layout, task)
        self._image, self._profile, self._turn = reading.image, reading.later, turn
        self.size = _turned(self._image.size, turn)
        has_alpha = reading.image.mode == "RGBA"
        self.rendering = "_".join(part for part in (turn_name, reading.name, "on_white" if has_alpha else "") if part) or "plain"

    def rows(self, first: int, count: int) -> Image.Image:
        """Rows `first` to `first` + `count`, RGB."""
        band = self._image.crop(self._stored(first, count))
        band = self._profile.apply(band) if self._profile else band
        if band.mode == "RGBA":
            _, band = next(on_backgrounds(band))
        band = band.convert("RGB") if band.mode != "RGB" else band
        return band.transpose(TURNS[self._turn]) if self._turn in TURNS else band

    def _stored(self, first: int, count: int) -> tuple[int, int, int, int]:
        """Where those rows lie in the frame as stored, as Pillow's crop takes it."""
        width, height = self._image.size
        last = first + count
        if self._turn in (5, 6):
            return first, 0, last, height
        if self._turn in (7, 8):
            return width - last, 0, width - first, height
        return (0, height - last, width, height - first) if self._turn in (3, 4) else (0, first, width, last)


def _embedded_profile(im: Image.Image) -> bytes | None:
    """The ICC profile a file carries, valid or not."""
    raw = im.info.get("icc_profile")
    return raw if isinstance(raw, bytes) and raw else None


# --- which way is up ---------------------------------------------------------------------------------


def _turned(size: tuple[int, int], turn: int) -> tuple[int, int]:
    return size[::-1] if turn in SWAPS_SIDES else size


def _turns(shot: Shot, layout: Layout, task: Task) -> list[tuple[int, str]]:
    """Orientations to show; the first is the upright one. A value that means nothing means all four rotations."""
    stated = layout.orientations
    if shot.frame < len(layout.turns):
        stated = layout.turns[shot.frame] or stated
    if task.form is Format.AVIF:
        stated = [shot.image.getexif().get(0x0112, 1)]
    if task.form is Format.TIFF:
        # Pillow has turned it already, unless the value means nothing.
        stated = [value for value in stated if value not in _TURN_NAMES]
    return turns_of(stated)


def turns_of(stated: Sequence[int]) -> list[tuple[int, str]]:
    """The orientations to show where these are stated, with their names."""
    if any(value not in _TURN_NAMES for value in stated):
        return [(1, ""), *((value, _TURN_NAMES[value]) for value in (6, 3, 8))]
    different = list(dict.fromkeys(stated)) or [1]
    return [(different[0], ""), *((value, _TURN_NAMES[value]) for value in different[1:])]


def _prepared(readings: Sequence[_Reading], turn: int, sides: tuple[int, int], scale: float) -> tuple[float, list[_Ready]]:
    """Every reading scaled down by a whole number and turned; says how many times smaller than the frame they are."""
    already = max(sides) / max(readings[0].image.size)
    factor = max(int(scale / already), 1)

    def prepared(im: Image.Image) -> Image.Image:
        small = im.reduce(factor) if factor > 1 else im
        return small.transpose(TURNS[turn]) if turn in TURNS else small

    ready = []
    for reading in readings:
        # Scaling a picture with alpha loses the colours under alpha 0, so those are taken out first.
        bare = prepared(reading.image.convert("RGB")) if reading.image.mode == "RGBA" else None
        ready.append(_Ready(reading.name, prepared(reading.image), bare))
    return already * factor, ready


# --- what lies behind ------------------------------------------------------------------------------


def _renderings(
    spec: Spec, region: Region, ready: Sequence[_Ready], shrunk: float, *, strict: bool
) -> Iterator[tuple[tuple[str, ...], Image.Image]]:
    """All that viewers might show of one region, each picture once."""
    seen: set[bytes] = set()
    reference: Image.Image | None = None
    for reading in ready:
        first = True
        for alpha, small in _alphas(spec, region, reading, shrunk):
            if reference is None:
                reference = small
            if reading.name and first and not _differs(reference, small, reading.name, strict=strict):
                break
            first = False
            padded = spec.pad(small)
            if len(ready) > 1 or alpha:
                raw = padded.tobytes()
                if raw in seen:
                    continue
                seen.add(raw)
                if len(seen) > MAX_RENDERINGS:
                    raise Refused(Refusal.DECODE_TOO_SLOW, "too many renderings")
            yield tuple(part for part in (reading.name, alpha) if part), padded


def _differs(reference: Image.Image, other: Image.Image, name: str, *, strict: bool) -> bool:
    """Whether another way to read colours shows another picture; raises Refused where that must not be."""
    apart = colour.difference(reference, other)
    if strict and apart >= colour.CONTRADICTORY:
        raise Refused(Refusal.AMBIGUOUS_RENDERING, name)
    return apart >= colour.VISIBLE


def _alphas(spec: Spec, region: Region, reading: _Ready, shrunk: float) -> Iterator[tuple[str, Image.Image]]:
    """RGB: as it is, or on each background and without alpha."""
    small = spec.show(reading.image, region, shrunk)
    if reading.bare is None:
        yield "", small.convert("RGB") if small.mode != "RGB" else small
        return
    yield from on_backgrounds(small)
    yield "no_alpha", spec.show(reading.bare, region, shrunk)


# --- what the samples mean -------------------------------------------------------------------------


def _readings(im: Image.Image, layout: Layout, task: Task) -> list[_Reading]:
    """The ways to read the samples of one frame as colours, the plain one first."""
    readings = list(_without_profiles(im, layout))
    plain = readings[0].image
    if im.mode == "CMYK" and task.form is Format.JPEG and not layout.adobe:
        readings.append(_Reading("inverted", Image.eval(im, lambda sample: 255 - sample).convert("RGB")))
    readings += [_Reading(name, profile.apply(source)) for name, source, profile in _profiles(im, plain, task)]
    return readings


def _usual_reading(im: Image.Image, layout: Layout, task: Task) -> _Reading:
    """What a viewer that honours profiles shows: sRGB once `later` is applied."""
    plain = next(_without_profiles(im, layout))
    return next((_Reading(name, source, profile) for name, source, profile in _profiles(im, plain.image, task)), plain)


def _without_profiles(im: Image.Image, layout: Layout) -> Iterator[_Reading]:
    """Samples taken for sRGB, the usual way first. Raises Refused."""
    if im.mode in ("I", "F", "LAB", "HSV"):
        raise Refused(Refusal.UNSUPPORTED_ENCODING, im.mode)
    if im.mode.startswith("I;16"):
        yield from _from_sixteen_bits(im)
    else:
        yield _Reading("", _eight_bits(im, layout))


def _profiles(im: Image.Image, plain: Image.Image, task: Task) -> Iterator[tuple[str, Image.Image, colour.Profile]]:
    """(name, what it is applied to, profile) for each that shows something new; an embedded profile comes before gamma, as PNG says."""
    for name, raw in (("icc", _embedded_profile(im)), ("gamma", colour.png_profile(im.info) if task.form is Format.PNG else None)):
        if raw is None:
            continue
        source = im if im.mode == "CMYK" else plain
        profile = colour.profile(raw, source.mode)
        if profile.transform is not None:
            yield name, source, profile


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


def _from_sixteen_bits(im: Image.Image) -> Iterator[_Reading]:
    """High bytes as greys; Pillow's own conversion clips everything above 255 to white.

    Some viewers stretch what uses only a small part of the range, as twelve bits stored in sixteen do.
    """
    little = im.mode in ("I;16", "I;16L")
    raw = im.tobytes()
    high_bytes = raw[1::2] if little else raw[0::2]
    grey = Image.frombytes("L", im.size, high_bytes)
    key = im.info.get("transparency")
    if isinstance(key, int):
        yield _Reading("", _with_key_of_grey(grey, key >> 8))
        return
    yield _Reading("", grey)
    top = max(high_bytes)
    if top < 0x40:
        low_bytes = Image.frombytes("L", im.size, raw[0::2] if little else raw[1::2])
        factor = 255 / (256 * top + 255)
        stretched = Image.merge("RGB", [grey, low_bytes, low_bytes]).convert("L", (256 * factor, factor, 0, 0))
        yield _Reading("stretched", stretched)


def _with_key_of_grey(grey: Image.Image, key: int) -> Image.Image:
    alpha = grey.point([0 if level == key else 255 for level in range(256)])
    return _without_useless_alpha(Image.merge("LA", (grey, alpha)).convert("RGBA"))
