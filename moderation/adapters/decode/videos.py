"""From the bytes of a video to inputs of the frames that are asked for, or to the frames and the sound that a player presents.

Runs in a decode child only. Nothing here holds more than two frames: what is decoded is shown or let go.

FFmpeg is silent about much, so a video is gone through three times: `containers` walks its structure, which finds what is cut off;
`reel` lists its packets without decoding, which says how many frames there must be and when each is shown; and what is decoded
is counted against that. Screening looks at all coded frames (edit lists ignored), a film is what a player presents (edit lists applied).
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, pairwise, takewhile
from typing import Any, Final

from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from moderation.adapters.decode import containers
from moderation.adapters.decode.containers import Data, Layout
from moderation.adapters.decode.containers.layout import TrackKind
from moderation.adapters.decode.containers.mp4 import orientation_of
from moderation.adapters.decode.demux import (
    MOST_TRACKS,
    SOUND_CODECS,
    check_codec,
    check_seconds,
    check_size,
    is_still,
    opened_file,
    opened_video,
    prepare,
)
from moderation.adapters.decode.pictures import opened_still
from moderation.adapters.decode.reel import Reel, chosen, declared_frames, edits_in_order, next_number, number_of, read_reel, span_of
from moderation.adapters.decode.renderings import SWAPS_SIDES, TURNS, Shot, turns_of, views
from moderation.adapters.decode.scenes import Watcher
from moderation.adapters.decode.sniff import sniff
from moderation.adapters.decode.sound import Hearing
from moderation.adapters.decode.task import Refused, Task, View
from moderation.adapters.decode.views import MAX_TILES, MAX_TILES_MOVING, Spec, TooLong, cheap_scale
from moderation.errors import Refusal

__all__ = ["digests", "film", "prepare", "probe", "screen", "sound"]

_MAY_SKIP: Final = ("h264", "hevc")
"""Decoders that leave out single frames which no other needs."""

_BYTE: Final = 8  # bits

_EXACT: Final = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP

_SCALED: Final = {
    Image.Resampling.BOX: Interpolation.AREA | _EXACT,
    Image.Resampling.BILINEAR: Interpolation.BILINEAR | _EXACT,
    Image.Resampling.BICUBIC: Interpolation.BICUBIC | _EXACT,
    Image.Resampling.LANCZOS: Interpolation.LANCZOS | _EXACT,
}
"""FFmpeg's filters by Pillow's; both take in all of what they scale down. It has none like `HAMMING`."""

_HIGH_DYNAMIC_RANGE: Final = (16, 18)
"""PQ and HLG, as ITU-T H.273 numbers transfer characteristics."""

MOST_ASPECT: Final = 8
"""How many times wider than tall, or taller than wide, a pixel may be."""

LEAST_APART: Final = Fraction(1, 1_000_000)
"""Seconds between the frames of a film: no file that we write tells those apart that are much nearer."""

SOUND_LONGER_S: Final = 1
"""By how much sound may last longer than a video may: encoders put a lead-in before it and fill its last packet."""


@dataclass(slots=True)
class _Found:
    """What decoding finds out on its way."""

    size: tuple[int, int] | None = None
    numbers: list[int] = field(default_factory=list)
    renderings: set[str] = field(default_factory=set)
    undecoded: int = 0
    cuts_left_out: int = 0


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except (Refused, MemoryError):
        raise
    except TooLong as error:
        raise Refused(Refusal.DIMENSIONS_TOO_LARGE, type(error).__name__) from error
    except Exception as error:
        refusal = Refusal.DIMENSIONS_TOO_LARGE if "memory" in str(error).lower() else Refusal.DECODE_FAILED
        raise Refused(refusal, f"{type(error).__name__}: {error}"[:300]) from error


# --- the five questions ------------------------------------------------------------------------------


def screen(data: Data, task: Task, emit: Callable[[View], None]) -> dict[str, object]:
    """Emit every view of the frames asked for, in their order, and return the video's facts. Raises Refused or MemoryError."""
    with _refusing():
        layout = _walked(data, task)
        with opened_video(data, task, edited=False) as (container, stream):
            layout.pixel_aspect = stream.sample_aspect_ratio
            stills = sum(map(is_still, container.streams.video))
            layout.attached -= stills  # those are shown, see `_covers`
            reel = read_reel(container, stream, task, declared=declared_frames(layout))
        asked = chosen(reel, task)
        digest = hashlib.sha256(b"facegate film 2\n") if asked is None else None
        found, scaler = _Found(), _Scaler()
        wanted = frozenset(asked) if asked is not None else None
        watcher = None if wanted is None else _watcher(task, len(reel.times))
        for number, frame in _decoded(data, task, reel, wanted, found, may_skip=watcher is None, edited=False):
            is_chosen = wanted is None or number in wanted
            if not (is_chosen if watcher is None else watcher.looks_at(frame, is_chosen=is_chosen)):
                continue
            full = _square(frame.width, frame.height, layout.pixel_aspect)
            check_size(*full, task)
            if digest is not None:
                digest.update(_digest_of(frame, full, layout))
            time_us = reel.microseconds(reel.times[number])
            covers = _covers(data, task, number, time_us) if stills and not found.numbers else ()
            found.size = found.size or _turned(full, layout)
            found.numbers.append(number)
            for view in chain(covers, _views(frame, full, number, time_us, _as_it_says(frame, layout, task), task, scaler)):
                found.renderings.add(view.rendering)
                emit(view)
        found.cuts_left_out = watcher.left_out if watcher is not None else 0
        return _facts(data, layout, reel, found, digest.hexdigest() if digest else None)


def _watcher(task: Task, frames: int) -> Watcher | None:
    """What tells scene cuts, where they are asked for beside the frames chosen beforehand."""
    sampled = task.sampled
    if sampled is None or not sampled.scene_cuts or task.only is not None:
        return None
    return Watcher(random.Random(sampled.seed), frames)  # noqa: S311 - as in `reel`: it is recorded


def probe(data: Data, task: Task) -> dict[str, object]:
    """Upright size, number of frames and duration; the headers of all packets are read and nothing is decoded."""
    with _refusing():
        layout = _walked(data, task)
        with opened_video(data, task, edited=False) as (container, stream):
            reel = read_reel(container, stream, task, declared=declared_frames(layout))
            width, height = _turned(_square(stream.width, stream.height, stream.sample_aspect_ratio), layout)
        return {"width": width, "height": height, "frames": len(reel.times), "duration_us": reel.microseconds(reel.end)}


def film(
    data: Data, task: Task, begin: Callable[[dict[str, object]], None], show: Callable[[int, int, int, Image.Image], None]
) -> dict[str, object]:
    """Begin with what a player shows, then show every frame from `task.first` on: (index, pts, duration, RGB)."""
    with _refusing():
        layout, reel, (width, height), _ = _presented(data, task)
        total = len(reel.times)
        if task.first >= total:
            raise Refused(Refusal.NO_FRAMES, f"frame {task.first} of {total}")
        if reel.times[0] < 0:
            raise Refused(Refusal.UNSUPPORTED_ENCODING, "frames before the beginning")
        if any(later - time < LEAST_APART / reel.time_base for time, later in pairwise(reel.times)):
            raise Refused(Refusal.UNSUPPORTED_ENCODING, "frames that begin within the same microsecond")
        span = reel.end - reel.times[0]
        rate = Fraction(total) / (span * reel.time_base)
        found, scaler = _Found(size=(width, height), numbers=list(range(total)), renderings={"plain"}), _Scaler()
        facts = _facts(data, layout, reel, found, None)
        begin(
            {
                "facts": facts,
                "time_base": [reel.time_base.numerator, reel.time_base.denominator],
                "frame_rate": [rate.numerator, rate.denominator],
                "start": reel.times[0],
                "duration": span,
                "has_sound": any(track.kind is TrackKind.SOUND for track in layout.tracks),
            }
        )
        for number, frame in _shown(data, task, reel, found):
            upright = _turn(_image(scaler.rgb(frame, _square(frame.width, frame.height, layout.pixel_aspect))), layout)
            if upright.size != (width, height):
                raise Refused(Refusal.UNSUPPORTED_ENCODING, "the size of its pictures changes")
            pts = reel.times[number]
            until = reel.times[number + 1] if number + 1 < total else reel.end
            show(number, pts, until - pts, upright)
        return facts


def digests(data: Data, task: Task, say: Callable[[str], None]) -> dict[str, object]:
    """Say the digest of every frame that a player shows, in hex and in order, and return the video's facts.

    Raises Refused, also where some players show more than others: frames that are coded and left out, or shown twice.
    """
    with _refusing():
        layout, reel, size, coded = _presented(data, task)
        if coded != len(reel.times):
            raise Refused(Refusal.AMBIGUOUS_RENDERING, f"{len(reel.times)} of {coded} frames are shown")
        found = _Found(size=size, numbers=list(range(coded)), renderings={"plain"})
        for _, frame in _shown(data, task, reel, found):
            say(_digest_of(frame, _square(frame.width, frame.height, layout.pixel_aspect), layout).hex())
        return _facts(data, layout, reel, found, None)


def sound(data: Data, task: Task, begin: Callable[[dict[str, object]], None], take: Callable[[bytes], None]) -> dict[str, object]:
    """Begin with rate, channels and start, then the samples as interleaved int16; neither where there is no sound."""
    with _refusing():
        layout = _walked(data, task)
        with opened_file(data, task, edited=True) as container:
            streams = container.streams.audio
            if not streams:
                return {"has_sound": False}
            stream = streams[0]
            check_codec(stream, SOUND_CODECS)
            Hearing(stream.codec_context, task, begin, take).hear(container.demux(stream))
        return {"has_sound": True, "tracks": len(layout.tracks)}


# --- what a player presents ---------------------------------------------------------------------------


def _presented(data: Data, task: Task) -> tuple[Layout, Reel, tuple[int, int], int]:
    """The layout, the frames that are shown, their upright size, and how many are coded."""
    layout = _walked(data, task)
    with opened_video(data, task, edited=False) as (container, stream):
        layout.attached -= sum(map(is_still, container.streams.video))
        coded = read_reel(container, stream, task, declared=declared_frames(layout))  # all of it must be there, whatever is shown
    with opened_video(data, task, edited=True) as (container, stream):
        reel = edits_in_order(read_reel(container, stream, task, declared=None), coded, task)
        layout.pixel_aspect = stream.sample_aspect_ratio
        size = _turned(_square(stream.width, stream.height, layout.pixel_aspect), layout)
    return layout, reel, size, len(coded.times)


def _shown(data: Data, task: Task, reel: Reel, found: _Found) -> Iterator[tuple[int, Any]]:
    """Every frame from `task.first` on with its number. Raises Refused where one is missing."""
    total, shown = len(reel.times), task.first
    for number, frame in _decoded(data, task, reel, frozenset(range(shown, total)), found, may_skip=False, edited=True):
        if number < task.first:
            continue
        if number != shown:
            raise Refused(Refusal.DECODE_FAILED, f"frame {shown} is missing")
        yield number, frame
        shown += 1
    if shown != total:
        raise Refused(Refusal.TRUNCATED, f"{shown} of {total} frames")


# --- refusals that need no decoding ------------------------------------------------------------------


def _walked(data: Data, task: Task) -> Layout:
    layout = containers.walk_video(data, task.form)
    kinds = [track.kind for track in layout.tracks]
    if layout.truncated:
        raise Refused(Refusal.TRUNCATED, "the file ends before its video does")
    if len(kinds) > MOST_TRACKS:
        raise Refused(Refusal.TOO_MANY_STREAMS, f"{len(kinds)} tracks")
    if layout.unsupported:
        raise Refused(Refusal.UNSUPPORTED_ENCODING, layout.unsupported)
    if layout.broken:
        raise Refused(Refusal.DECODE_FAILED, layout.broken)
    if TrackKind.VIDEO not in kinds:
        raise Refused(Refusal.NO_FRAMES, "no video track")
    if kinds.count(TrackKind.VIDEO) > 1:
        raise Refused(Refusal.MULTIPLE_VIDEO_STREAMS, f"{kinds.count(TrackKind.VIDEO)} video tracks")
    if layout.width or layout.height:
        check_size(layout.width, layout.height, task)
    check_seconds(layout.seconds - SOUND_LONGER_S, task)  # the pictures are held to it exactly by `reel`
    if task.strict:
        _check_strict(data, layout)
    return layout


def _check_strict(data: Data, layout: Layout) -> None:
    if layout.odd or _trailing(data, layout):
        raise Refused(Refusal.TRAILING_DATA, layout.odd or "bytes after the video")
    if any(track.kind is TrackKind.HIDDEN_PICTURES for track in layout.tracks):
        raise Refused(Refusal.AMBIGUOUS_RENDERING, "a track of hidden pictures")
    if not all(layout.orientations):
        raise Refused(Refusal.AMBIGUOUS_RENDERING, "orientation")


def _trailing(data: Data, layout: Layout) -> bool:
    return layout.end is not None and bytes(data[layout.end : layout.end + (1 << 20)]).strip(b"\0") != b""


# --- frames ------------------------------------------------------------------------------------------


def _decoded(
    data: Data, task: Task, reel: Reel, wanted: frozenset[int] | None, found: _Found, *, may_skip: bool, edited: bool
) -> Iterator[tuple[int, Any]]:
    """(number, frame) in the order shown, beginning at the last key frame before the first wanted one where that is allowed."""
    start, stop = span_of(reel, wanted) if may_skip or edited else (0, len(reel.packets))
    leading = _leading(reel, start)
    before, seen, missing = -1, 0, set(wanted or ())
    with opened_video(data, task, edited=edited) as (container, stream):
        codec = stream.codec_context
        _check_transfer(codec.color_trc)  # of the container, which may say something else than the frames
        skips = may_skip and codec.codec.canonical_name in _MAY_SKIP
        place = -1
        for packet in container.demux(stream):
            if packet.size:
                place += 1
                if place < start or place >= stop or place in leading:
                    continue
                packet.pts = reel.packets[place].pts
                if skips:
                    number = number_of(reel, reel.packets[place].pts)
                    codec.skip_frame = "DEFAULT" if wanted is None or number in wanted else "NONREF"
            for frame in packet.decode():
                number = next_number(reel, frame.pts, before)
                before = number
                seen += 1
                missing.discard(number)
                _check_frame(frame, task)
                yield number, frame
    expected = sum(packet.is_shown for packet in reel.packets[start:stop])
    if wanted is not None and (skips or stop - start < len(reel.packets)):
        found.undecoded = len(reel.times) - seen
        if missing:
            raise Refused(Refusal.TRUNCATED, f"frame {min(missing)} is missing")
        return
    if seen < expected:
        raise Refused(Refusal.TRUNCATED if seen else Refusal.NO_FRAMES, f"{seen} of {expected} frames")


def _leading(reel: Reel, start: int) -> set[int]:
    """The packets that are shown before the key frame that decoding begins with, up to the next one, and so need what lies before that."""
    if start == 0:
        return set()
    key, *rest = reel.packets[start:]
    group = takewhile(lambda packet: not packet.is_key, rest)
    return {place for place, packet in enumerate(group, start + 1) if packet.pts < key.pts}


def _check_frame(frame: Any, task: Task) -> None:
    check_size(frame.width, frame.height, task)
    if frame.is_corrupt:
        raise Refused(Refusal.DECODE_FAILED, "a damaged frame")
    _check_transfer(frame.color_trc)
    if any(component.is_alpha for component in frame.format.components):
        raise Refused(Refusal.UNSUPPORTED_ENCODING, "video with transparency")


def _check_transfer(characteristics: int) -> None:
    if characteristics in _HIGH_DYNAMIC_RANGE:
        raise Refused(Refusal.UNSUPPORTED_ENCODING, "video of high dynamic range")


class _Scaler:
    """Converts and scales the frames of one video.

    FFmpeg prepares itself for each way in which it is asked, once: as often as there are frames it costs more than the work, and memory.
    """

    def __init__(self) -> None:
        self._ways: defaultdict[Hashable, VideoReformatter] = defaultdict(VideoReformatter)

    def rgb(self, frame: Any, size: tuple[int, int], interpolation: Interpolation = Interpolation.AREA) -> Any:
        """The frame as stored, RGB of this size."""
        width, height = size
        way = self._ways[size, interpolation]
        return way.reformat(frame, width=width, height=height, format="rgb24", interpolation=interpolation, threads=1)

    def coloured(self, frame: Any, task: Task) -> Any:
        """The frame in the colours that a player makes of its samples, each of them clamped, before anything is scaled.

        Samples beyond all colours would otherwise average to others than what is seen of them: anybody can set such samples, and an encoder
        makes them where it halves the chroma of fine patterns. In our own frames, all of which are looked at, each sample has the nearest
        chroma, as with simple players: a tenth of the work.
        """
        interpolation = Interpolation.BILINEAR | (0 if task.own else _EXACT)
        return self._ways["coloured"].reformat(frame, format="gbrp", interpolation=interpolation, threads=1)


def _image(rgb: Any) -> Image.Image:
    plane = rgb.planes[0]
    return Image.frombuffer("RGB", (rgb.width, rgb.height), plane, "raw", "RGB", plane.line_size, 1)


def _square(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The size with square pixels: one side grows, none shrinks."""
    if not aspect or aspect == 1:
        return width, height
    if not Fraction(1, MOST_ASPECT) <= aspect <= MOST_ASPECT:
        raise Refused(Refusal.UNSUPPORTED_ENCODING, f"pixels of {aspect.numerator}:{aspect.denominator}")
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _orientation(layout: Layout) -> int:
    return layout.orientations[0] if layout.orientations else 1


def _as_it_says(frame: Any, layout: Layout, task: Task) -> Layout:
    """The layout, with the way up that the coded frame says as well where it is another: some players follow the container, some the frame."""
    try:
        # As `frame.side_data`, which would hold the frame, and the frame it, until somebody collects garbage.
        beside = SideDataContainer(frame)  # type: ignore[call-arg]  # PyAV's stub leaves out how it is made
    except ValueError:  # PyAV has no name for it: of what FFmpeg decodes here, an enhancement of the frame (LCEVC) or another view
        raise Refused(Refusal.UNSUPPORTED_ENCODING, "a second view or layer") from None
    matrix = beside.get("DISPLAYMATRIX")
    if matrix is None:
        return layout
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    said, stated = orientation_of(a, b, c, d), layout.orientations or [1]
    if said in stated or not all(stated):  # a way up that means nothing is shown in all of them
        return layout
    if task.strict:
        raise Refused(Refusal.AMBIGUOUS_RENDERING, "orientation")
    return replace(layout, orientations=[*stated, said])


def _turned(size: tuple[int, int], layout: Layout) -> tuple[int, int]:
    return size[::-1] if _orientation(layout) in SWAPS_SIDES else size


def _turn(image: Image.Image, layout: Layout) -> Image.Image:
    turn = _orientation(layout)
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def _digest_of(frame: Any, full: tuple[int, int], layout: Layout) -> bytes:
    """Of one frame; `moderation.frames.FilmDigest` says of what."""
    colour = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    about = (frame.width, frame.height, *_turned(full, layout), _orientation(layout), *colour, frame.interlaced_frame)
    digest = hashlib.sha256(f"facegate film frame 1\n{frame.format.name} {' '.join(str(int(fact)) for fact in about)}\n".encode())
    planes, components = frame.planes, frame.format.components
    if len(planes) != len(components):
        raise Refused(Refusal.UNSUPPORTED_ENCODING, f"samples as {frame.format.name}")
    for plane, component in zip(planes, components, strict=True):
        samples, stride, row = memoryview(plane), plane.line_size, plane.width * (1 if component.bits <= _BYTE else 2)
        if stride == row:
            digest.update(samples[: row * plane.height])
        else:
            for start in range(0, stride * plane.height, stride):
                digest.update(samples[start : start + row])
    return digest.digest()


def _views(frame: Any, full: tuple[int, int], number: int, time_us: int, layout: Layout, task: Task, scaler: _Scaler) -> Iterator[View]:
    """All inputs of one frame, and of its fields where it is made of two. Raises Refused; TooLong when it needs too many."""
    is_woven = bool(frame.interlaced_frame or layout.interlaced)
    coloured = scaler.coloured(frame, task)
    direct = () if is_woven else tuple(filter(_is_direct(_turned(full, layout)), task.specs))
    for spec in direct:
        yield from _direct_views(spec, coloured, full, number, time_us, layout, scaler)
    others = replace(task, specs=tuple(spec for spec in task.specs if spec not in direct))
    for shot in _shots(coloured, full, number, time_us, layout, others, scaler, is_woven=is_woven) if others.specs else ():
        yield from views(shot, layout, others, MAX_TILES_MOVING)


def _is_direct(upright: tuple[int, int]) -> Callable[[Spec], bool]:
    """Tells the specs of which one input shows all of a frame of this size: it can be scaled while its colours are converted."""
    whole = [(0, 0, *upright)]
    return lambda spec: spec.fit != "crop" and spec.resample in _SCALED and spec.regions(*upright, MAX_TILES_MOVING) == whole


def _direct_views(
    spec: Spec, frame: Any, full: tuple[int, int], number: int, time_us: int, layout: Layout, scaler: _Scaler
) -> Iterator[View]:
    """What `views` makes of it, more exactly and faster: no half-size picture is made on the way."""
    for turn, name in turns_of(layout.orientations):
        upright = full[::-1] if turn in SWAPS_SIDES else full
        region = (0, 0, *upright)
        width, height = spec.size_of(region)[:: -1 if turn in SWAPS_SIDES else 1]
        small = _image(scaler.rgb(frame, (width, height), _SCALED[spec.resample]))
        shown = small.transpose(TURNS[turn]) if turn in TURNS else small
        yield View(spec.index, number, time_us, name or "plain", region, spec.pad(shown))


def _shots(
    frame: Any, full: tuple[int, int], number: int, time_us: int, layout: Layout, task: Task, scaler: _Scaler, *, is_woven: bool
) -> Iterator[Shot]:
    """The frame, scaled down as far as its inputs allow, and each of its fields, which are as large as it is."""
    width, height = full
    if not is_woven:
        factor = max(int(cheap_scale(task.specs, *_turned(full, layout), MAX_TILES_MOVING)), 1)
        yield Shot(number, time_us, _image(scaler.rgb(frame, (max(width // factor, 1), max(height // factor, 1)))), full)
        return
    image = _image(scaler.rgb(frame, full))
    yield Shot(number, time_us, image, full)
    for offset, name in enumerate(("top_field", "bottom_field")):
        lines = image.transform((width, height // 2), Image.Transform.AFFINE, (1, 0, 0, 0, 2, offset - 0.5), Image.Resampling.NEAREST)
        yield Shot(number, time_us, lines.resize((width, height), Image.Resampling.BILINEAR), image.size, prefix=name)


# --- what is beside the frames -----------------------------------------------------------------------


def _covers(data: Data, task: Task, number: int, time_us: int) -> Iterator[View]:
    """Attached pictures, as views of the first frame that is shown, and none in a second look. Raises Refused for one that cannot be opened."""
    if task.only is not None:
        return
    with opened_file(data, task, edited=False) as container:
        stills = [stream for stream in container.streams.video if is_still(stream)]
        for packet in container.demux(stills) if stills else ():
            if not packet.size:
                continue
            raw = bytes(packet)
            form = sniff(raw)
            if form is None or form.is_video:
                raise Refused(Refusal.UNSUPPORTED_ENCODING, "an attached picture of another kind")
            image = opened_still(raw, replace(task, form=form, strict=False))
            for spec in task.specs:
                for region in spec.regions(*image.size, MAX_TILES):
                    yield View(spec.index, number, time_us, "cover", region, spec.pad(spec.show(image, region, 1.0)))


def _facts(data: Data, layout: Layout, reel: Reel, found: _Found, digest: str | None) -> dict[str, object]:
    if not found.numbers or found.size is None:
        raise Refused(Refusal.NO_FRAMES)
    return {
        "width": found.size[0],
        "height": found.size[1],
        "frames": len(found.numbers),
        "frames_declared": declared_frames(layout) or len(reel.times),
        "duration_us": reel.microseconds(reel.end),
        "unscreened": _unscreened(data, layout),
        "renderings": sorted(found.renderings),
        "of": len(reel.times),
        "undecoded": found.undecoded,
        "cuts_left_out": found.cuts_left_out,
        "frame_digest": digest,
    }


_UNSCREENED: Final = {
    TrackKind.SOUND: "audio",
    TrackKind.SUBTITLES: "subtitles",
    TrackKind.HIDDEN_PICTURES: "gain_map",
    TrackKind.DATA: "data",
}


def _unscreened(data: Data, layout: Layout) -> list[str]:
    present = {_UNSCREENED[track.kind] for track in layout.tracks if track.kind in _UNSCREENED}
    if layout.attached > 0:
        present.add("data")
    if layout.odd or _trailing(data, layout):
        present.add("trailing_data")
    return sorted(present)
