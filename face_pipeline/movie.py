"""Videos out: frames and sound become segments of one fragmented MP4 (H.264 and AAC), and the finished file.

A movie is made in segments, each a closed group of pictures that is encoded by itself. `init_of(spec)` is what every player needs first and
depends on `MovieSpec` alone, so that init + one segment can be decoded alone, init + all segments in order is one file, and a segment
that is encoded again, by whoever goes on after a crash, takes its place. Within a segment the encoder knows nothing of the others; the
sound is encoded once for the whole movie and shared out by time.

Times are those of the frames, exactly: the track's clock is the frames' time base, there are no frames out of order, and each frame lasts
until the next one. What nothing can carry over: H.264 with colours at half resolution, the only kind that every player shows, has even sides,
so a frame of an odd size gets its last column or row twice. Nothing of any input is in the file but its pixels and its sound.
"""

from __future__ import annotations

import hashlib
import io
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Final, cast

import av
import cv2
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from face_pipeline.faces import Frame
from face_pipeline.label import Corner, draw_label

MEDIA_TYPE: Final = "video/mp4"
MAX_SIDE_PX: Final = 16_384
"""Of x264."""
CRF: Final = 21
"""x264's quality, 0 to 51, lower is better. Above it grain is smoothed away, below it grain takes most of the bytes (docs/performance.md)."""
_X264: Final = {
    "preset": "veryfast",
    "crf": str(CRF),
    # No reordering: decoding order is showing order, so that segments join without an edit list and times need no offset. Costs a tenth more bytes.
    # Trellis quantisation, which this preset leaves out, makes half the bytes of grain in the same time, and a third less work for who decodes them.
    "x264-params": "bframes=0:keyint=infinite:scenecut=0:trellis=1",
}
_THREADS: Final = 1  # more would change the bytes, and one core is what a replica has
_PLAIN: Final = {
    "use_editlist": "1",
    "avoid_negative_ts": "disabled",  # times are ours
    "fflags": "+bitexact",  # no name and version of the library
}
_FINEST: Final = 10_000_000  # units a second: a frame that lasts two minutes still fits into the 31 bits that the library has for it
_SLOWEST: Final = Fraction(1, 1000)
_FASTEST: Final = Fraction(1000)
_LONG: Final = 1  # in place of a box's length: eight bytes of length follow
_EXACT: Final = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT

LABEL_CORNER: Final = Corner.BOTTOM_RIGHT
"""The same for every frame of every segment, whoever encodes it."""

SOUND_RATES_HZ: Final = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
"""What is kept as it is; sound at any other rate becomes 48 kHz."""
_SOUND_BITS: Final = 80_000  # per second and channel
_PACKET: Final = 1024  # samples in an AAC packet; decoding one packet also needs the one before
_CHUNK: Final = 64 * _PACKET  # samples handed over at once


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieSpec:
    """What all segments of one movie share."""

    width: int
    height: int
    """Of the frames, in pixels."""
    time_base: Fraction
    """Seconds of one unit of the frames' times."""
    frame_rate: Fraction
    """Mean frames a second; tells the encoder how to spend its bits, and no more."""
    label: str | None
    """Language of the visible label, one of `label.LANGUAGES`; None leaves it out. It lies at the bottom right of every frame."""
    sound_rate_hz: int | None = None
    sound_channels: int = 0
    """Those of the `Soundtrack`; None and 0 for a silent movie."""

    def __post_init__(self) -> None:
        if not 0 < min(self.width, self.height) <= max(self.width, self.height) <= MAX_SIDE_PX:
            raise ValueError(f"a movie of {self.width} x {self.height}")
        if self.time_base <= 0 or self.frame_rate <= 0:
            raise ValueError("a movie needs a time base and a frame rate above 0")

    @property
    def clock(self) -> Fraction:
        """Seconds of one unit of the file's times: those of the frames, exactly, unless they are finer than `_FINEST`."""
        return Fraction(1, min(self.time_base.denominator, _FINEST))

    def ticks(self, time: int) -> int:
        """A time of the frames in units of the clock."""
        return round(time * self.time_base / self.clock)

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height as a player shows them: even."""
        return self.width + self.width % 2, self.height + self.height % 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Soundtrack:
    """All sound of a movie, encoded. Packet n is heard from `(n - 1) * 1024` samples on; packet 0 only leads in."""

    rate_hz: int
    channels: int
    packets: tuple[bytes, ...]
    samples: int

    def numbers(self, start: Fraction | None, until: Fraction | None) -> range:
        """The packets that begin from `start` on and before `until`, in seconds; None is the beginning and the end of the movie."""
        return range(self._first_from(start, 0), self._first_from(until, len(self.packets)))

    def lasts(self, number: int) -> int:
        """Samples of one packet that are heard, the lead-in counted as if it were."""
        return min(_PACKET, self.samples + _PACKET - number * _PACKET)

    def _first_from(self, time: Fraction | None, default: int) -> int:
        if time is None:
            return default
        ceiling = -(-time * self.rate_hz // _PACKET)
        return min(max(int(ceiling) + 1, 0), len(self.packets))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a movie that can be shown: `init` + `media`."""

    number: int
    init: bytes
    """The same for all segments of a movie."""
    media: bytes
    start: int
    """Time of its first frame, in the movie's time base."""
    duration: int
    frames: int


def encode_sound(samples: NDArray[np.int16], rate_hz: int, *, starts_at: Fraction, ends_at: Fraction) -> Soundtrack | None:
    """The sound of a movie, n x channels (1 or 2), as it is heard between 0 and `ends_at` seconds; None where nothing is.

    `starts_at` is the time of the first sample on the movie's time line; what lies before 0 is left out, and silence precedes what starts
    later. A start between two samples is moved to the nearer one. The same samples give the same packets.
    """
    channels = samples.shape[1]
    first, last = round(starts_at * rate_hz), round(ends_at * rate_hz)
    heard = samples[max(-first, 0) : max(last - first, 0)]
    if len(heard) == 0:
        return None
    silence = np.zeros((max(first, 0), channels), np.int16)
    rate = rate_hz if rate_hz in SOUND_RATES_HZ else SOUND_RATES_HZ[0]
    encoder = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, _layout(channels), "fltp"
    encoder.bit_rate, encoder.time_base = _SOUND_BITS * channels, Fraction(1, rate)
    resampler = AudioResampler(format="fltp", layout=_layout(channels), rate=rate)
    packets: list[bytes] = []
    length = at = 0
    for chunk in (*_chunks(silence), *_chunks(heard), None):
        for sound in resampler.resample(None if chunk is None else _sound(chunk, rate_hz, at)):
            sound.pts, sound.time_base = length, Fraction(1, rate)
            length += sound.samples
            packets += (bytes(packet) for packet in encoder.encode(sound))
        at += 0 if chunk is None else len(chunk)
    packets += (bytes(packet) for packet in encoder.encode(None))
    return Soundtrack(rate_hz=rate, channels=channels, packets=tuple(packets), samples=length)


@lru_cache(maxsize=8)
def init_of(spec: MovieSpec) -> bytes:
    """The boxes in front of the first segment. Made by encoding one black frame and a moment of silence, which are then thrown away."""
    # `delay_moov` makes the library look at the first packets, and write the edit list that takes the sound's lead-in away.
    file = _File(spec, "delay_moov", number=0)
    file.mux_video(file.encode(np.zeros((spec.height, spec.width, 3), np.uint8), 0) + file.flush(), [0, 1])
    if spec.sound_rate_hz is not None:
        silence = np.zeros((1, spec.sound_channels), np.int16)
        track = encode_sound(silence, spec.sound_rate_hz, starts_at=Fraction(0), ends_at=Fraction(1))
        if track is not None:
            file.mux_sound(track, range(len(track.packets)), lead_in=0)
    return file.boxes(b"ftyp", b"moov")


def join(init: bytes, media: Iterable[bytes | memoryview]) -> bytes:
    """All segments of a movie as one ordinary MP4, its index in front: what is handed out as a file. The same packets, nothing encoded again.

    A fragmented file would play as well, but says neither how long it is nor where to find a given second.
    """
    fragmented = b"".join([init, *media])
    # The first pass shows how large the index becomes, the second leaves that much room in front. 8 bytes more end as an empty box.
    return _ordinary(fragmented, _length(_ordinary(fragmented, None), b"moov") + 8)


def _ordinary(fragmented: bytes, index_bytes: int | None) -> bytes:
    file = io.BytesIO()
    with _opened(fragmented) as source:
        clock = source.streams.video[0].time_base or Fraction(1, 1000)
        options = {"movie_timescale": str(clock.denominator)} | ({} if index_bytes is None else {"moov_size": str(index_bytes)})
        with av.open(file, "w", format="mp4", options=_PLAIN | options) as target:
            streams = [target.add_stream_from_template(stream) for stream in source.streams]
            for stream, old in zip(streams, source.streams, strict=True):
                stream.time_base = old.time_base
            for packet in source.demux():
                if packet.dts is not None:  # the last packet of each stream is empty
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
    return file.getvalue()


def coded_pictures(data: bytes) -> list[tuple[Fraction, bytes]]:
    """When each picture of a file of ours is shown, in seconds, and the SHA-256 of what it is coded as; nothing is decoded for it."""
    with _opened(data) as file:
        (stream,) = file.streams.video
        packets = ((packet, packet.pts, packet.time_base) for packet in file.demux(stream))
        return [(pts * base, hashlib.sha256(packet).digest()) for packet, pts, base in packets if pts is not None and base is not None]


def _opened(data: bytes) -> InputContainer:
    # Its frames are in order: the library need not decode twenty of them to find that out.
    return av.open(io.BytesIO(data), "r", format="mp4", options={"fpsprobesize": "0"})


def _length(data: bytes, kind: bytes) -> int:
    return next(len(box) for found, box in _boxes(data) if found == kind)


class SegmentEncoder:
    """One segment: `add` each frame, then `finish`. Holds packets, no frames."""

    def __init__(self, spec: MovieSpec, *, number: int, soundtrack: Soundtrack | None = None) -> None:
        """`number` counts from 0. Raises ValueError for a soundtrack that is not the one in `spec`."""
        if (spec.sound_rate_hz, spec.sound_channels) != ((soundtrack.rate_hz, soundtrack.channels) if soundtrack else (None, 0)):
            raise ValueError("the soundtrack is not the one that the movie was said to have")
        self._spec, self._number, self._soundtrack = spec, number, soundtrack
        # `frag_discont` lets a file begin at its own time; with `empty_moov` nothing in front depends on what follows.
        self._file = _File(spec, "empty_moov+frag_discont", number=number)
        self._packets: list[av.Packet[VideoStream]] = []
        self._size = 0
        self._times: list[int] = []

    @property
    def frames(self) -> int:
        """How many there are so far."""
        return len(self._times)

    @property
    def size(self) -> int:
        """Bytes that are encoded so far, without the sound."""
        return self._size

    def add(self, frame: Frame, pts: int) -> None:
        """The next frame, RGB, at `pts` units of the time base. Raises ValueError for another size, or a time that is not later."""
        spec = self._spec
        if frame.shape != (spec.height, spec.width, 3):
            raise ValueError(f"a frame of {frame.shape[1]} x {frame.shape[0]} in a movie of {spec.width} x {spec.height}")
        if pts < 0 or (self._times and spec.ticks(pts) <= spec.ticks(self._times[-1])):
            raise ValueError(f"a frame at {pts} after one at {self._times[-1] if self._times else 0}")
        labelled = frame if spec.label is None else draw_label(frame, spec.label, corner=LABEL_CORNER)
        self._times.append(pts)
        packets = self._file.encode(labelled, pts)
        self._packets += packets
        self._size += sum(packet.size for packet in packets)

    def finish(self, until: int, *, is_last: bool = False) -> Segment:
        """The segment. `until` is when its last frame ends: the time of the next segment's first frame, or the movie's end.

        Raises ValueError when there is no frame, or `until` is not after the last one.
        """
        times = [*self._times, until]
        if len(times) == 1 or until <= times[-2]:
            raise ValueError("a segment has frames, and ends after the last of them")
        self._file.mux_video(self._packets + self._file.flush(), times)
        if self._soundtrack is not None:
            start = times[0] * self._spec.time_base if self._number else None
            numbers = self._soundtrack.numbers(start, None if is_last else until * self._spec.time_base)
            self._file.mux_sound(self._soundtrack, numbers, lead_in=_PACKET)
        return Segment(
            number=self._number,
            init=init_of(self._spec),
            media=self._file.boxes(b"moof", b"mdat"),
            start=times[0],
            duration=until - times[0],
            frames=len(self._times),
        )


class _File:
    """A fragmented MP4 in memory with one fragment, as the library writes it."""

    def __init__(self, spec: MovieSpec, flags: str, *, number: int) -> None:
        self._spec = spec
        self._bytes = io.BytesIO()
        options = {
            "movflags": f"frag_custom+default_base_moof+skip_trailer+{flags}",
            "fragment_index": str(number + 1),
        }
        self._container = av.open(self._bytes, "w", format="mp4", options=_PLAIN | options)
        # A file that is given up has to be closed all the same, or the library keeps its encoder for ever.
        weakref.finalize(self, self._container.close).atexit = False
        self._video = self._container.add_stream("libx264", rate=_rate(spec.frame_rate), options=_X264)
        self._reformatter = VideoReformatter()
        context = self._video.codec_context
        context.width, context.height = spec.coded_size
        context.pix_fmt, context.time_base, context.thread_count = "yuv420p", spec.clock, _THREADS
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        self._video.time_base = spec.clock
        if spec.sound_rate_hz is not None:
            self._sound = self._container.add_stream("aac", rate=spec.sound_rate_hz, layout=_layout(spec.sound_channels))
            self._sound.codec_context.bit_rate = _SOUND_BITS * spec.sound_channels
        self._container.start_encoding()

    def encode(self, frame: Frame, pts: int) -> list[av.Packet[VideoStream]]:
        width, height = self._spec.coded_size
        rows, columns = height - frame.shape[0], width - frame.shape[1]
        even = cast("Frame", cv2.copyMakeBorder(frame, 0, rows, 0, columns, cv2.BORDER_REPLICATE))
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(even, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_EXACT,
        )
        picture.pts, picture.time_base = self._spec.ticks(pts), self._spec.clock
        return self._video.encode(picture)

    def flush(self) -> list[av.Packet[VideoStream]]:
        return self._video.encode(None)

    def mux_video(self, packets: Sequence[av.Packet[VideoStream]], times: Sequence[int]) -> None:
        """The packets, each from its time to the next one's."""
        for packet, (start, end) in zip(packets, pairwise(map(self._spec.ticks, times)), strict=True):
            packet.pts = packet.dts = start
            packet.duration, packet.time_base = end - start, self._spec.clock
            self._container.mux(packet)

    def mux_sound(self, track: Soundtrack, numbers: Iterable[int], *, lead_in: int) -> None:
        """These packets of the soundtrack, `lead_in` samples later than they are heard."""
        for number in numbers:
            packet = cast("av.Packet[AudioStream]", av.Packet(track.packets[number]))
            packet.stream, packet.time_base = self._sound, Fraction(1, track.rate_hz)
            packet.pts = packet.dts = (number - 1) * _PACKET + lead_in
            packet.duration = track.lasts(number)
            self._container.mux(packet)

    def boxes(self, *kinds: bytes) -> bytes:
        """Closes the file; its top-level boxes of these kinds."""
        self._container.close()
        return b"".join(box for kind, box in _boxes(self._bytes.getvalue()) if kind in kinds)


def _boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and bytes of each top-level box of an MP4 of our own; a film may be large, so nothing is copied."""
    view, at = memoryview(data), 0
    while at < len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        length = int.from_bytes(view[at + 8 : at + 16], "big") if length == _LONG else length
        yield bytes(view[at + 4 : at + 8]), view[at : at + length]
        at += length


def _rate(frames_a_second: Fraction) -> Fraction:
    """One that fits into the library's two numbers of 31 bits. It steers how bits are spent, and no times."""
    return min(max(frames_a_second, _SLOWEST), _FASTEST).limit_denominator(100_000)


def _layout(channels: int) -> str:
    return "mono" if channels == 1 else "stereo"


def _chunks(samples: NDArray[np.int16]) -> Iterator[NDArray[np.int16]]:
    for start in range(0, len(samples), _CHUNK):
        yield samples[start : start + _CHUNK]


def _sound(samples: NDArray[np.int16], rate_hz: int, at: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="s16", layout=_layout(samples.shape[1]))
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, at, Fraction(1, rate_hz)
    return frame
