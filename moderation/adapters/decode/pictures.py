"""From the bytes of a file to inputs that show what any viewer could see of it. Runs in a decode child only.

All questions, `screen`, `picture`, `digest` and `probe`, refuse first what can be told without decoding. `screen` then decodes
picture by picture and makes every rendering that viewers disagree about: alpha on three backgrounds and without alpha,
colour with and without its profile, turned in every way the file allows. Renderings that come out equal are sent once.
`picture` makes the one that is usual, of the one picture of a file, in full, and `digest` names what that shows.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Protocol

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
from moderation.adapters.decode.renderings import Shot, Upright, upright_size, views
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.task import Refused, Task, View
from moderation.adapters.decode.views import MAX_TILES, MAX_TILES_MOVING, TooLong
from moderation.errors import Refusal
from moderation.media import FrameDigest

MAX_SCANS: Final = 100
"""Passes over one progressive JPEG; honest ones have about ten, and each costs a pass over all coefficients."""

MAX_PADDING: Final = 64 << 10
"""Zeros behind a picture that are no content."""

_ROWS: Final = 64
"""Of a picture, made at a time for its digest: they and what they are made of stay in the processor's cache."""

_BLOCK: Final = 8
"""Samples on a side of what a JPEG codes at once; scaled down as many times, its lowest frequency is left."""

_SCALED_APART: Final = 30
"""Mean difference of a place (`colour.difference`) that the lowest frequency alone may not reach. Photographs and text stay below 13 at any quality, black and red checkered finely below 26."""

_SLOW_FRAME_MS: Final = 100
"""What viewers show a frame for that says 0."""

_LARGEST_DENOMINATOR: Final = 65_535
"""Of the seconds that a frame of an APNG lasts; GIF has hundredths, WebP thousandths."""

_MARKUP: Final = re.compile(
    rb"<(?:script|html|!doctype|iframe|body|svg)[\s>]|<\?php|PK\x03\x04[\x00-\x3f]\x00|%PDF-1|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c",
    re.IGNORECASE,
)
_FORMATS: Final = {form: (form.opener, "MPO") if form is Format.JPEG else (form.opener,) for form in Format}


@dataclass(slots=True)
class _Found:
    """What decoding finds out on its way."""

    animated: bool = False
    frames: int = 0
    duration_us: int = 0
    upright: tuple[int, int] = (0, 0)
    renderings: set[str] = field(default_factory=set)
    digest: str | None = None


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


class Outlet(Protocol):
    """Where what is made of a file goes."""

    def put(self, view: View) -> None:
        """The next view."""

    def send(self) -> None:
        """Let what was put be looked at by now."""

    def show(self, upright: Upright) -> None:
        """The whole picture."""


def screen(data: bytes, task: Task, outlet: Outlet) -> dict[str, object]:
    """Put every view of `data` in frame order and return its facts; a still picture is shown in full where that is asked for.

    Raises Refused and nothing else but MemoryError.
    """
    with refusing():
        return _screen(data, task, outlet)


def picture(data: bytes, task: Task, emit: Callable[[Upright], None]) -> dict[str, object]:
    """Emit the one picture of `data` in full and return its facts. Raises as `screen` does, for animations too."""
    with refusing():
        return _picture(data, task, emit)


def digest(data: bytes, task: Task, say: Callable[[str], None]) -> dict[str, object]:
    """Say in hex what names the one picture of `data` (`FrameDigest`) and return its facts. Raises as `picture` does."""
    with refusing():
        return _picture(data, task, lambda upright: say(_named_by(upright)))


def probe(data: bytes, task: Task) -> dict[str, object]:
    """Upright size and number of frames as the file states them; no pixel is decoded. Raises as `screen` does."""
    with refusing():
        return _probe(data, task)


@contextmanager
def refusing() -> Iterator[None]:
    """Whatever is raised inside comes out as Refused or MemoryError."""
    try:
        yield
    except (Refused, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, TooLong) as error:
        raise Refused(Refusal.DIMENSIONS_TOO_LARGE, type(error).__name__) from error
    except Exception as error:
        # Decoders raise nearly anything: OSError, SyntaxError, ValueError, TypeError, IndexError, RuntimeError, ...
        raise Refused(_named(str(error).lower()), f"{type(error).__name__}: {error}"[:300]) from error


def _named(text: str) -> Refusal:
    if "memory" in text:
        return Refusal.DIMENSIONS_TOO_LARGE
    if "bitfields layout" in text:  # a sound BMP whose bits lie as hardly any does
        return Refusal.UNSUPPORTED_ENCODING
    cut = any(words in text for words in ("truncated", "unexpected end", "not enough image data", "ran out of data"))
    return Refusal.TRUNCATED if cut else Refusal.DECODE_FAILED


def _screen(data: bytes, task: Task, outlet: Outlet) -> dict[str, object]:
    layout = _walked(data, task)
    found = _Found()
    shots = _SHOTS.get(task.form, _frames)(data, layout, task, found)
    if task.strict:
        for view in _thumbnails(layout, task):
            found.renderings.add(view.rendering)
            outlet.put(view)
    for shot in shots:
        _check_size(*shot.full, max(found.frames, 1), task)
        if found.upright == (0, 0):
            found.upright = upright_size(shot, layout, task)
        for view in views(shot, layout, task, MAX_TILES_MOVING if found.animated else MAX_TILES):
            found.renderings.add(view.rendering)
            outlet.put(view)
        if (task.own or task.whole) and shot.frame == 0 and not shot.prefix and not found.animated:
            outlet.send()  # classifiers look at it meanwhile
            upright = Upright(shot, layout, task)
            found.digest = _named_by(upright) if task.own else None
            if task.whole:
                outlet.show(upright)
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
        "renderings": sorted(found.renderings),
        "frame_digest": found.digest if found.frames == 1 else None,
    }


def _picture(data: bytes, task: Task, emit: Callable[[Upright], None]) -> dict[str, object]:
    layout = _walked(data, task)
    im, frames = _opened(data, layout, task)
    if frames > 1 and task.form is not Format.JPEG:  # of the pictures of an MPO viewers show the first
        raise Refused(Refusal.STILL_PICTURE_REQUIRED, f"{frames} frames")
    im.load()
    _check_size(*im.size, 1, task)
    upright = Upright(Shot(0, None, im, im.size), layout, task)
    emit(upright)
    if task.form is Format.GIF:
        _expect_end(im, 1)
    return {
        "animated": False,
        "width": upright.size[0],
        "height": upright.size[1],
        "frames": 1,
        "frames_declared": layout.frames,
        "duration_us": None,
        "unscreened": _unscreened(data, layout, strict=False),
        "renderings": [upright.rendering],
    }


def _named_by(upright: Upright) -> str:
    """`FrameDigest` of the frame as it is usually shown, in hex."""
    width, height = upright.size
    digest = FrameDigest(width, height)
    for first in range(0, height, _ROWS):
        digest.add(upright.rows(first, min(_ROWS, height - first)).tobytes())
    return digest.text().removeprefix("sha256:")


def _probe(data: bytes, task: Task) -> dict[str, object]:
    layout = _walked(data, task)
    im, frames = _opened(data, layout, task)
    width, height = upright_size(Shot(0, None, im, im.size), layout, task)
    return {"width": width, "height": height, "frames": frames}


def presented(data: bytes, task: Task) -> Iterator[tuple[Shot, Layout, Fraction]]:
    """Every frame of an animation that a viewer plays, decoded, with the file's layout and the seconds that it lasts.

    A frame is there until the next one is asked for. Raises as `screen` does, and for still pictures.
    """
    with refusing():
        if task.form is Format.JPEG:
            raise Refused(Refusal.UNSUPPORTED_MEDIA_TYPE, "no animation")
        layout = _walked(data, task)
        im, _, declared = _opened_frames(data, layout, task)
        if declared == 1:
            raise Refused(Refusal.UNSUPPORTED_MEDIA_TYPE, "a still picture")
        for index in range(declared):
            gap_ms = _loaded(im, index)
            if index or not getattr(im, "default_image", False):  # of an APNG, that is for those who show no animations
                yield Shot(index, None, im, im.size), layout, _exactly(im, index, gap_ms)
        if task.form is Format.GIF:
            _expect_end(im, declared)


def opened_still(data: bytes, task: Task) -> Image.Image:
    """A picture that something else carries, as RGB without its alpha. Raises nearly anything, see `screen`."""
    im, frames = _opened(data, _walked(data, task), task)
    if frames > 1:
        raise Refused(Refusal.UNSUPPORTED_ENCODING, "an attached picture that moves")
    im.load()
    return im.convert("RGB")


# --- refusals that need no decoding ----------------------------------------------------------------


def _walked(data: bytes, task: Task) -> Layout:
    Image.MAX_IMAGE_PIXELS = task.image_pixels
    layout = containers.walk(data, task.form)
    _check_size(layout.width, layout.height, layout.frames or 1, task)
    _check_structure(data, layout, task)
    return layout


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
    im = Image.open(io.BytesIO(data), formats=[form.opener])
    if im.format not in _FORMATS[form]:
        raise Refused(Refusal.DECODE_FAILED, f"opened as {im.format}")
    return im


def _opened(data: bytes, layout: Layout, task: Task) -> tuple[ImageFile.ImageFile, int]:
    """The picture that viewers show first, and how many there are; all within limits, none decoded."""
    if task.form is not Format.JPEG:
        first, _, declared = _opened_frames(data, layout, task)
        return first, declared
    streams = _streams(data, layout, task)
    first = next(streams)
    for _ in streams:
        pass
    return first, len(layout.pictures)


def _streams(data: bytes, layout: Layout, task: Task) -> Iterator[ImageFile.ImageFile]:
    """Every JPEG stream of the file, one or the pictures of an MPO: within limits, not decoded."""
    total = 0
    for index, (start, end) in enumerate(layout.pictures):
        im = _open(data if start == 0 and end == len(data) else data[start:end], Format.JPEG)
        total += im.width * im.height
        if total > task.total_pixels:
            raise Refused(Refusal.DIMENSIONS_TOO_LARGE, "all pictures together")
        _check_size(*im.size, len(layout.pictures), task)
        if index == 0:
            _check_smallest(im, task)
        yield im


def _check_low_frequencies(data: bytes, im: Image.Image) -> None:
    """Refuse a JPEG, decoded as `im`, that shows another picture to viewers who scale it down inside the decoder, as for thumbnails."""
    low = _open(data, Format.JPEG)
    low.draft(None, (max(im.width // _BLOCK, 1), max(im.height // _BLOCK, 1)))
    low.load()
    full = im.reduce(_BLOCK).convert("RGB")
    if colour.difference(full, low.convert("RGB").resize(full.size)) >= _SCALED_APART:
        raise Refused(Refusal.AMBIGUOUS_RENDERING, "scaled in the decoder")


def _jpegs(data: bytes, layout: Layout, task: Task, found: _Found) -> Iterator[Shot]:
    """Every JPEG stream of the file, from all its frequencies.

    The decoder could scale it down by leaving out the high ones, but what they make of it once its samples are clamped to a byte would be gone.
    """
    for index, im in enumerate(_streams(data, layout, task)):
        im.load()
        if task.strict:
            start, end = layout.pictures[index]
            _check_low_frequencies(data[start:end], im)
        found.frames += 1
        yield Shot(index, None, im, im.size)


def _opened_frames(data: bytes, layout: Layout, task: Task) -> tuple[ImageFile.ImageFile, list[ImageFile.ImageFile], int]:
    """The picture or animation, stills beside it, and how many frames it has: within limits, not decoded."""
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
    return im, stills, declared


def _frames(data: bytes, layout: Layout, task: Task, found: _Found) -> Iterator[Shot]:
    """Every frame of an animation as composited, or the one picture."""
    im, stills, declared = _opened_frames(data, layout, task)
    found.animated = declared > 1
    for index in range(declared):
        gap = _loaded(im, index)
        if index == 0:
            for still in stills:
                still.load()
                _check_size(*still.size, 1, task)
                if still.mode == im.mode and still.size == im.size and ImageChops.difference(still, im).getbbox(alpha_only=False) is None:
                    continue
                yield Shot(0, 0 if found.animated else None, still, still.size, prefix="still")
        found.frames += 1
        yield Shot(index, found.duration_us if found.animated else None, im, im.size)
        found.duration_us += max(round(gap * 1000), 1)
    if task.form is Format.GIF:
        _expect_end(im, declared)


def _loaded(im: ImageFile.ImageFile, index: int) -> float:
    """Go to this frame and decode it; the milliseconds that it lasts."""
    if index:
        im.seek(index)
    gap_ms = im.info.get("duration") or 0
    im.load()
    return float(im.info.get("duration") or gap_ms or _SLOW_FRAME_MS)


def _exactly(im: ImageFile.ImageFile, index: int, gap_ms: float) -> Fraction:
    """The seconds that the frame which is loaded lasts, as the file says it: Pillow rounds those of AVIF to milliseconds."""
    if im.format == "AVIF":
        _, timescale, _, lasts = im._decoder.get_frame(index)  # type: ignore[attr-defined]  # noqa: SLF001 - it is decoded already
        return Fraction(lasts, timescale) or Fraction(_SLOW_FRAME_MS, 1000)
    return Fraction(gap_ms / 1000).limit_denominator(_LARGEST_DENOMINATOR)


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
