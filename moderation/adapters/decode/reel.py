"""The coded frames of a video as their packets state them, and which of them are looked at. Nothing is decoded for it."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Any, Final

from moderation.adapters.decode.containers import Layout
from moderation.adapters.decode.containers.layout import TrackKind
from moderation.adapters.decode.demux import check_seconds
from moderation.adapters.decode.task import Refused, Sampled, Task
from moderation.errors import Refusal

MOST_US_A_SAMPLE: Final = 16_667
"""However densely frames lie in time, one is looked at for every interval's worth of frames at 60 a second."""

LATEST_START_S: Final = 1
"""Of a video as long as it may be: frames that are stored out of order begin some frames after 0, and with them what a player shows."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One coded frame before it is decoded; times in the stream's time base. `place` is where it lies in the file, in bytes."""

    pts: int
    duration: int
    is_key: bool
    is_shown: bool
    place: int | None


@dataclass(slots=True)
class Reel:
    """All coded frames of a video. `times` are those that are shown, ascending: the number of a frame is its place there."""

    packets: list[Packet]
    times: list[int]
    time_base: Fraction
    end: int

    def microseconds(self, pts: int) -> int:
        """Since the first frame."""
        return max(round((pts - self.times[0]) * self.time_base * 1_000_000), 0)


def read_reel(container: Any, stream: Any, task: Task, *, declared: int | None) -> Reel:
    """List all packets of the stream. Raises Refused, also where there are fewer than `declared`, which edit lists take from and add to."""
    packets = []
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:  # the file ends within it, which a container may not tell
            raise Refused(Refusal.TRUNCATED, "a frame that is cut off")
        if packet.pts is None:
            raise Refused(Refusal.DECODE_FAILED, "a frame without a time")
        is_shown = not packet.is_discard and not _is_hidden(stream, packet)
        packets.append(Packet(packet.pts, packet.duration or 0, packet.is_keyframe, is_shown, packet.pos))
        if len(packets) > task.video_frames:
            raise Refused(Refusal.TOO_MANY_FRAMES, f"more than {task.video_frames} frames")
    times = sorted(packet.pts for packet in packets if packet.is_shown)
    if not times:
        raise Refused(Refusal.NO_FRAMES)
    if declared is not None and len(packets) < declared:
        raise Refused(Refusal.TRUNCATED, f"{len(packets)} of {declared} frames")
    time_base = Fraction(stream.time_base)
    mean = (times[-1] - times[0]) // max(len(times) - 1, 1)
    last = max((packet.duration for packet in packets if packet.is_shown and packet.pts == times[-1]), default=0)
    end = times[-1] + (last or mean or max(round(Fraction(1, 25) / time_base), 1))
    check_seconds(float((end - times[0]) * time_base), task)
    check_seconds(float(end * time_base) - LATEST_START_S, task)
    return Reel(packets, times, time_base, end)


def edits_in_order(reel: Reel, coded: Reel, task: Task) -> Reel:
    """The frames that a player presents, one edit after the other. Raises Refused where that lasts too long.

    Where frames are stored out of order, FFmpeg gives those of all edits but the first too early or too late, each by as much as they are
    out of order. `coded` is what is there with edits ignored: it tells where an edit begins.
    """
    packets: list[Packet] = []
    end: int | None = None
    last, out_of_order = 0, _out_of_order(coded)
    for number, edit in enumerate(_edits(reel, coded)):
        shown = sorted((packet for packet in edit if packet.is_shown), key=lambda packet: packet.pts)
        late = 0
        if shown and end is not None and (shown[0].pts <= last or end < shown[0].pts <= end + number * out_of_order):
            late = end - shown[0].pts
        packets += [replace(packet, pts=packet.pts + late) for packet in edit]
        if shown:
            last = shown[-1].pts + late
            end = last + max(shown[-1].duration, 1)
    if end is None or packets == reel.packets:
        return reel
    times = sorted(packet.pts for packet in packets if packet.is_shown)
    check_seconds(float((end - times[0]) * reel.time_base), task)
    return Reel(packets, times, reel.time_base, end)


def _out_of_order(reel: Reel) -> int:
    """By how much a frame lies behind one that is shown after it, at most."""
    latest = accumulate((packet.pts for packet in reel.packets), max)
    return max(late - packet.pts for late, packet in zip(latest, reel.packets, strict=True))


def _edits(reel: Reel, coded: Reel) -> list[list[Packet]]:
    """The packets of each edit; all in one where that cannot be told."""
    known = {packet.place: (number, packet.pts) for number, packet in enumerate(coded.packets)}
    if len(known) != len(coded.packets) or not all(packet.place in known for packet in reel.packets):
        return [reel.packets]
    edits: list[list[Packet]] = []
    expected: tuple[int, int] | None = None
    for packet in reel.packets:
        number, pts = known[packet.place]
        if (number, packet.pts - pts) != expected:
            edits.append([])
        edits[-1].append(packet)
        expected = number + 1, packet.pts - pts
    return edits


def _is_hidden(stream: Any, packet: Any) -> bool:
    """A frame of VP8 that only others refer to; of other codecs each packet shows one."""
    return stream.codec_context.codec.canonical_name == "vp8" and not bytes(packet)[0] & 0x10


def declared_frames(layout: Layout) -> int | None:
    """How many frames the container states, None where it says nothing."""
    return next((track.frames for track in layout.tracks if track.kind is TrackKind.VIDEO), None)


def number_of(reel: Reel, pts: int) -> int:
    """The lowest number of a frame of this time."""
    return bisect_left(reel.times, pts)


def next_number(reel: Reel, pts: int | None, before: int) -> int:
    """The number of a decoded frame of this time that comes after `before`. Raises Refused where there is none such."""
    number = before if pts is None else max(number_of(reel, pts), before + 1)
    if number >= len(reel.times) or reel.times[number] != pts:
        raise Refused(Refusal.DECODE_FAILED, "a frame that no packet announces, or frames in another order than their times")
    return number


def span_of(reel: Reel, wanted: frozenset[int] | None) -> tuple[int, int]:
    """(first, end) of the packets that have to be decoded for the wanted frames."""
    if not wanted:
        return 0, len(reel.packets)
    earliest, latest = reel.times[min(wanted)], reel.times[max(wanted)]
    place = next(at for at, packet in enumerate(reel.packets) if packet.is_shown and packet.pts == earliest)
    # Not after the frame itself: an edit may begin with frames that are not shown, at times of the edit before.
    start = max((at for at, packet in enumerate(reel.packets[: place + 1]) if packet.is_key and packet.pts <= earliest), default=0)
    last = max(at for at, packet in enumerate(reel.packets) if packet.pts <= latest)
    return start, last + 1


def chosen(reel: Reel, task: Task) -> list[int] | None:
    """The numbers of the frames asked for beforehand, ascending; None where that is all."""
    total = len(reel.times)
    if task.only is not None:
        if not task.only or task.only[-1] >= total:
            raise Refused(Refusal.DECODE_FAILED, "frames that are not there")
        return list(task.only)
    if task.sampled is None or total <= task.sampled.min_frames:
        return None
    return sorted(_sample(reel, task.sampled))


def _sample(reel: Reel, sampled: Sampled) -> set[int]:
    """One frame in every interval from a random phase on, and in every so many frames; at least the least number, evenly."""
    total, first = len(reel.times), reel.times[0]
    chance = random.Random(sampled.seed)  # noqa: S311 - it is recorded, so that the same frames can be chosen again
    phase = chance.random()
    interval = min(Fraction(sampled.interval_us, 1_000_000) / reel.time_base, Fraction(reel.end - first, sampled.min_frames))
    step = max(int(interval * reel.time_base * 1_000_000) // MOST_US_A_SAMPLE, 1)
    chosen = set(range(int(phase * step), total, step)) if _is_dense(reel, step, interval) else set()
    at = first + Fraction(phase) * interval
    while at <= reel.times[-1]:
        place = bisect_left(reel.times, at)
        chosen.add(place)
        # The next target after the one that this frame serves, however long it is shown.
        at += interval * max(int((reel.times[place] - at) / interval) + 1, 1)
    if sampled.first_and_last:
        chosen |= {0, total - 1}
    missing = sampled.min_frames - len(chosen)
    if missing > 0:
        rest = [number for number in range(total) if number not in chosen]
        chosen.update(rest[round((k + phase) * len(rest) / missing) % len(rest)] for k in range(missing))
    return chosen


def _is_dense(reel: Reel, step: int, interval: Fraction) -> bool:
    """Whether somewhere more than `step` frames lie within one interval."""
    times = reel.times
    return any(times[number + step] - times[number] < interval for number in range(len(times) - step))
