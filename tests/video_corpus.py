"""Bad videos, synthesised row by row of the table of bad inputs (rows 58 to 78), as `tests.corpus` does for pictures.

Small clips are encoded by PyAV; what no muxer writes is made by editing boxes. Everything is built lazily and once.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import Image

from moderation.adapters.classifiers.correlation import draw_marker
from tests import corpus
from tests.corpus import OK, Case, encode, marked, quiet

WIDTH, HEIGHT = 160, 120
RATE = 25
SPECKLED = 12
"""Frames of an ordinary clip."""

VIDEO_CASES: list[Case] = []
case = functools.partial(corpus.case, among=VIDEO_CASES)


# --- clips -----------------------------------------------------------------------------------------


def pictures(
    count: int = SPECKLED, marks: Iterable[int] = (), *, size: tuple[int, int] = (WIDTH, HEIGHT), share: float = 0.25
) -> list[Image.Image]:
    """Quiet pictures of a slowly moving scene; those in `marks` carry the marker."""
    marks = frozenset(marks)
    plain, with_marker = quiet(*size), marked(*size, share)
    return [(with_marker if number in marks else plain).copy() for number in range(count)]


def clip(
    frames: Sequence[Image.Image],
    *,
    form: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    on_stream: Callable[[av.VideoStream], None] | None = None,
    on_container: Callable[[av.container.OutputContainer], None] | None = None,
    container_options: dict[str, str] | None = None,
    sound: bool = False,
    cover: bytes | None = None,
) -> bytes:
    """A video of these frames, `RATE` a second or at `times` in units of `time_base`."""
    out = io.BytesIO()
    fast = {"preset": "ultrafast", "threads": "1", "x264-params": "log-level=none"} if codec == "libx264" else {}
    with av.open(out, "w", format=form, options=container_options or {}) as container:
        if on_container is not None:
            on_container(container)
        stream = container.add_stream(codec, rate=RATE, options={**fast, **(options or {})})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        if time_base is not None:
            stream.time_base = stream.codec_context.time_base = time_base
        if on_stream is not None:
            on_stream(stream)
        heard = container.add_stream("aac" if form in ("mp4", "mov") else "libopus", rate=48_000, layout="mono") if sound else None
        picture = _attach(container, cover) if cover is not None else None
        if picture is not None:
            container.mux(picture)
        for number, image in enumerate(frames):
            frame = _frame(image)
            frame.pts = number if times is None else times[number]
            frame.time_base = time_base or Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard is not None:
            container.mux(_tone(heard, len(frames)))
    return out.getvalue()


def _frame(image: Image.Image) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")


def _attach(container: av.container.OutputContainer, cover: bytes) -> av.Packet[av.stream.Stream]:
    stream = container.add_stream("mjpeg")
    stream.width, stream.height = Image.open(io.BytesIO(cover)).size
    stream.pix_fmt = "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(cover)
    packet.stream, packet.pts, packet.dts = stream, 0, 0
    return packet


def _tone(stream: av.AudioStream, frames: int) -> list[av.Packet[av.AudioStream]]:
    samples = (np.sin(np.arange(48_000 * frames // RATE) * 2 * np.pi * 440 / 48_000) * 8000).astype(np.int16)
    packets = []
    for first in range(0, len(samples), 960):
        frame = av.AudioFrame.from_ndarray(samples[first : first + 960].reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
        packets += stream.encode(frame)
    return packets + stream.encode()


@functools.cache
def plain_clip(form: str = "mp4", codec: str = "libx264") -> bytes:
    """An ordinary clip with the marker in its fifth frame."""
    return clip(pictures(marks=[5]), form=form, codec=codec)


# --- boxes -----------------------------------------------------------------------------------------


def box(name: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", len(body) + 8, name) + body


def boxes(data: bytes, at: int = 0) -> list[tuple[bytes, bytes]]:
    """(name, body) of the boxes in `data` from `at` on."""
    found = []
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        found.append((name, data[at + 8 : at + size]))
        at += size
    return found


def edited(data: bytes, path: Sequence[bytes], change: Callable[[bytes], bytes]) -> bytes:
    """The file with the whole of each box at `path` replaced by what `change` makes of its body; sizes are put right.

    Positions of samples stay true as long as what changes lies behind them, as the movie box does in what PyAV writes.
    """
    name, *rest = path
    out = b""
    for found, body in boxes(data):
        if found != name:
            out += box(found, body)
        elif rest:
            skip = {b"dref": 8, b"stsd": 8}.get(name, 0)
            out += box(found, body[:skip], edited(body[skip:], rest, change))
        else:
            out += change(body)
    return out


TRACK = (b"moov", b"trak")
TABLE = (*TRACK, b"mdia", b"minf", b"stbl")


def moov_first(data: bytes) -> bytes:
    """The same file with its movie box before its samples."""
    parts = dict(boxes(data))
    shift = len(box(b"moov", parts[b"moov"]))

    def moved(body: bytes) -> bytes:
        offsets = struct.unpack(f">{(len(body) - 8) // 4}I", body[8:])
        return box(b"stco", body[:8], *(struct.pack(">I", offset + shift) for offset in offsets))

    movie = edited(box(b"moov", parts[b"moov"]), (*TABLE, b"stco"), moved)
    return b"".join([box(b"ftyp", parts[b"ftyp"]), movie, box(b"free", parts.get(b"free", b"")), box(b"mdat", parts[b"mdat"])])


def open_ended(data: bytes) -> bytes:
    """The same file with its samples last, in a box that says to go on to the end of the file, wherever that is."""
    parts = moov_first(data)
    return parts.replace(struct.pack(">I", len(box(b"mdat", dict(boxes(parts))[b"mdat"]))) + b"mdat", b"\0\0\0\0mdat")


def with_edit_list(data: bytes, *entries: tuple[int, int]) -> bytes:
    """(duration in the movie's time, start in the media's time) of each edit, in place of what there was."""
    elst = box(b"elst", struct.pack(">II", 0, len(entries)), *(struct.pack(">IiI", *entry, 0x10000) for entry in entries))

    def changed(body: bytes) -> bytes:
        kept = [box(name, inner) for name, inner in boxes(body) if name != b"edts"]
        return box(b"trak", kept[0], box(b"edts", elst), *kept[1:])

    return edited(data, TRACK, changed)


# --- rows 58 to 60: what is no video ------------------------------------------------------------------


def avi_with_playlist() -> bytes:
    playlist = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    chunks = b"LIST" + struct.pack("<I", 4 + 8 + len(playlist)) + b"movi" + b"00xb" + struct.pack("<I", len(playlist)) + playlist
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"AVI " + chunks


TEXTS = {
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "ffconcat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "mpd": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
    "subfile": b"subfile,,start,0,end,64,,:/etc/passwd",
    "concat": b"concat:/etc/passwd|/etc/hosts",
}
case(58, "m3u8", lambda: TEXTS["m3u8"], "unsupported_media_type")
for _name in ("sdp", "ffconcat", "mpd", "subfile", "concat"):
    case(59, _name, functools.partial(TEXTS.__getitem__, _name), "unsupported_media_type")
case(60, "avi-with-playlist", avi_with_playlist, "unsupported_media_type")


# --- rows 61 to 66: structure ------------------------------------------------------------------------


def outside() -> bytes:
    url = box(b"url ", b"\0\0\0\0", b"file:///etc/passwd\0")
    return edited(plain_clip(), (*TRACK, b"mdia", b"minf", b"dinf", b"dref", b"url "), lambda _: url)


def without(name: bytes) -> bytes:
    return b"".join(box(found, body) for found, body in boxes(plain_clip()) if found != name)


def nested() -> bytes:
    inner = b""
    for _ in range(1000):
        inner = box(b"moov", inner)
    return without(b"moov") + inner


def no_fragments() -> bytes:
    whole = clip(pictures(), container_options={"movflags": "empty_moov+frag_keyframe"})
    return b"".join(box(name, body) for name, body in boxes(whole) if name in (b"ftyp", b"moov"))


def fragmented() -> bytes:
    return clip(pictures(24), options={"g": "6"}, container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})


def cut(data: bytes, percent: int) -> bytes:
    return data[: len(data) * percent // 100]


def damaged() -> bytes:
    """Samples of noise in the middle."""
    noisy = clip([Image.fromarray(np.random.default_rng(n).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)) for n in range(SPECKLED)])
    data = bytearray(noisy)
    at = data.index(b"mdat") + len(data) // 2
    data[at : at + 400] = np.random.default_rng(0).integers(0, 255, 400, np.uint8).tobytes()
    return bytes(data)


def stated_size(data: bytes, width: int, height: int) -> bytes:
    """With another size in the sample entry and the track header."""

    def entry(body: bytes) -> bytes:
        return box(b"avc1", body[:24], struct.pack(">HH", width, height), body[28:])

    def header(body: bytes) -> bytes:
        return box(b"tkhd", body[:-8], struct.pack(">II", width << 16, height << 16))

    return edited(edited(data, (*TABLE, b"stsd", b"avc1"), entry), (*TRACK, b"tkhd"), header)


def large_inside() -> bytes:
    return stated_size(clip([Image.new("RGB", (4400, 2400))]), 64, 48)


case(61, "media-outside", outside, "unsupported_encoding")
case(62, "no-moov", lambda: without(b"moov"), "decode_failed")
case(62, "moov-without-tracks", lambda: without(b"moov") + box(b"moov", box(b"mvhd", bytes(100))), "decode_failed")
case(62, "nested-moov", nested, "decode_failed")
case(62, "two-moovs", lambda: plain_clip() + box(b"moov", dict(boxes(plain_clip()))[b"moov"]), "decode_failed")
case(62, "ebml-without-segment", lambda: plain_clip("matroska")[:40] + bytes(64), ("decode_failed", "truncated"))
case(63, "no-fragments", no_fragments, "no_frames")
for _percent in (50, 70, 90, 99):
    case(64, f"mp4-{_percent}", functools.partial(lambda percent: cut(plain_clip(), percent), _percent), ("truncated", "decode_failed"))
    case(64, f"mp4-moov-first-{_percent}", functools.partial(lambda percent: cut(moov_first(plain_clip()), percent), _percent), "truncated")
    case(64, f"matroska-{_percent}", functools.partial(lambda percent: cut(plain_clip("matroska"), percent), _percent), "truncated")
case(64, "mp4-moov-first-one-byte", lambda: moov_first(plain_clip())[:-1], "truncated")
for _codec in ("libx264", "mpeg4", "libvpx-vp9"):
    case(64, f"open-end-{_codec}", functools.partial(lambda codec: open_ended(plain_clip("mp4", codec))[:-1], _codec), "truncated")
    case(64, f"open-end-whole-{_codec}", functools.partial(lambda codec: open_ended(plain_clip("mp4", codec)), _codec), found=True)
case(64, "fragmented-90", lambda: cut(fragmented(), 80), ("truncated", "decode_failed"))
case(65, "damaged-samples", damaged, "decode_failed")
case(66, "header-65535", lambda: stated_size(plain_clip(), 65535, 65535), "dimensions_too_large")
case(66, "larger-inside", large_inside, "dimensions_too_large")
case(66, "too-small", lambda: clip(pictures(size=(16, 16))), "too_small")


# --- rows 67 to 72: size, time, streams ----------------------------------------------------------------


def two_sizes(second: Sequence[Image.Image]) -> bytes:
    """A WebM whose VP8 key frames name another size from the middle on."""
    out = io.BytesIO()
    with av.open(out, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        number = 0
        for images in (pictures(6), second):
            coder = av.CodecContext.create("libvpx", "w")
            coder.width, coder.height = images[0].size
            coder.pix_fmt, coder.time_base, coder.thread_count = "yuv420p", Fraction(1, RATE), 1
            coder.options = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0", "lag-in-frames": "0"}
            for image in (*images, None):
                frame = None if image is None else _frame(image)
                if frame is not None:
                    frame.pts, frame.time_base = number, Fraction(1, RATE)
                    number += 1
                for packet in coder.encode(frame):
                    packet.stream, packet.time_base = stream, Fraction(1, RATE)
                    container.mux(packet)
    return out.getvalue()


def ten_hours(form: str) -> bytes:
    return clip(pictures(2), form=form, times=[0, 36_000 * RATE], options={"bf": "0"})


def blink() -> bytes:
    """The marker is shown for 1/90000 s."""
    times = [*range(0, 6 * 3600, 3600), 6 * 3600 - 1, *range(6 * 3600, 12 * 3600, 3600)]
    return clip(pictures(13, [6]), times=times, time_base=Fraction(1, 90_000), options={"bf": "0"})


def two_videos() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        streams = []
        for _ in range(2):
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            streams.append(stream)
        for stream, marks in zip(streams, ([], range(4)), strict=True):
            for number, image in enumerate(pictures(4, marks)):
                frame = _frame(image)
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return out.getvalue()


def hidden_by_edits() -> bytes:
    """A player begins at the eighth frame; the marker is in the fifth."""
    data = clip(pictures(marks=[5]), options={"bf": "0"})
    return with_edit_list(data, (4 * 40, 8 * 512))


case(67, "another-size", lambda: two_sizes(pictures(6, [3], size=(240, 180))), found=True)
case(67, "a-size-over-the-limit", lambda: two_sizes([Image.new("RGB", (4400, 2400))]), ("dimensions_too_large", "decode_failed"))
case(68, "ten-hours-mp4", lambda: ten_hours("mp4"), "too_long")
case(68, "ten-hours-matroska", lambda: ten_hours("matroska"), "too_long")
case(69, "a-blink", blink, found=True)
case(70, "two-videos", two_videos, "multiple_video_streams")
case(71, "cover", lambda: clip(pictures(), cover=encode(marked(), "JPEG")), found=True)
case(71, "cover-in-matroska", lambda: clip(pictures(), form="matroska", cover=encode(marked(), "JPEG")), ("multiple_video_streams", OK))
case(72, "hidden-by-an-edit-list", hidden_by_edits, found=True)
case(72, "negative-times", lambda: clip(pictures(marks=[0]), times=range(-4, SPECKLED - 4)), found=True)


# --- rows 73 to 78: how it is shown, and what is beside it ---------------------------------------------

TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
ONE = 1 << 16


def turned(degrees: int, form: str = "mp4") -> bytes:
    """Stored so that a player that turns by `degrees` clockwise shows it upright."""
    frames = [image.transpose(TURNS[degrees]) for image in pictures(8, range(8))]
    return clip(frames, form=form, on_stream=lambda stream: stream.set_display_rotation(-degrees))


def flipped() -> bytes:
    frames = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in pictures(8, range(8))]
    data = clip(frames)
    matrix = struct.pack(">9i", -ONE, 0, 0, 0, ONE, 0, WIDTH * ONE, 0, 1 << 30)
    return edited(data, (*TRACK, b"tkhd"), lambda body: box(b"tkhd", body[:-44], matrix, body[-8:]))


def turned_inside() -> bytes:
    """Stored on its side; only the stream itself says so, as H.264 may, and not the container."""
    out = io.BytesIO()
    stored = clip([image.transpose(TURNS[90]) for image in pictures(8, range(8))], options={"bf": "0"})
    with av.open(io.BytesIO(stored), "r") as source, av.open(out, "w", format="mp4") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        turn = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=270", in_stream=old, out_stream=new)
        for packet in source.demux(old):
            for turned_one in turn.filter(packet if packet.size else None):
                turned_one.stream = new
                target.mux(turned_one)
    return out.getvalue()


def anamorphic() -> bytes:
    frames = [image.resize((WIDTH // 2, HEIGHT)) for image in pictures(8, range(8))]

    def wide(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2)

    return clip(frames, on_stream=wide)


def interlaced() -> bytes:
    """The marker in the odd lines only."""
    size = (320, 240)
    even, odd = np.asarray(quiet(*size)).copy(), np.asarray(marked(*size))
    even[1::2] = odd[1::2]
    return clip([Image.fromarray(even)] * 8, options={"x264-params": "tff=1:log-level=none", "crf": "10"})


def with_everything() -> bytes:
    """A time code, chapters, metadata with a script."""

    def beside(container: av.container.OutputContainer) -> None:
        container.metadata.update({"title": "<script>alert(1)</script>", "timecode": "01:00:00:00"})
        container.set_chapters([{"id": 1, "start": 0, "end": 8, "time_base": Fraction(1, RATE), "metadata": {"title": "<b>"}}])

    return clip(pictures(marks=[5]), form="mov", on_container=beside, sound=True)


def encrypted() -> bytes:
    keys = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    return clip(pictures(), container_options=keys)


def many_tracks() -> bytes:
    parts = boxes(plain_clip())
    movie = dict(parts)[b"moov"]
    track = next(box(name, body) for name, body in boxes(movie) if name == b"trak")
    return b"".join(box(name, body) for name, body in parts if name != b"moov") + box(b"moov", movie, track * 499)


def sound_only() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        container.mux(_tone(container.add_stream("aac", rate=48_000, layout="mono"), 25))
    return out.getvalue()


def in_colours(transfer: int) -> bytes:
    def stated(stream: av.VideoStream) -> None:
        stream.codec_context.color_trc = transfer
        stream.codec_context.color_primaries, stream.codec_context.colorspace = 9, 9

    return clip(pictures(8, range(8)), pixels="yuv420p10le", on_stream=stated)


def with_in_entry(data: bytes, added: bytes) -> bytes:
    """With one more box in the sample entry."""
    return edited(data, (*TABLE, b"stsd", b"avc1"), lambda body: box(b"avc1", body, added))


def pq_by_the_container() -> bytes:
    """The stream says BT.709."""

    def stated(stream: av.VideoStream) -> None:
        stream.codec_context.color_trc = 1

    data = clip(pictures(8, range(8)), on_stream=stated)
    return with_in_entry(data.replace(b"colr", b"free"), box(b"colr", b"nclx", struct.pack(">HHHB", 9, 16, 9, 0)))


def dolby_vision(base: int) -> bytes:
    """`base` is what the pictures are without it: 0 nothing that could be shown, 2 of standard range."""
    return with_in_entry(clip(pictures(8, range(8))), box(b"dvcC", bytes([1, 0, 5 << 1, 0x2D, base << 4]), bytes(19)))


def full_range_lie() -> bytes:
    def stated(stream: av.VideoStream) -> None:
        stream.codec_context.color_range = 2

    return clip(pictures(8, range(8)), on_stream=stated)


def beyond_all_colours() -> bytes:
    """The marker, of black samples whose chroma goes to and fro between two ends: in the mean there is none, and no player shows that mean."""
    side, here = 960, np.pad(draw_marker(720)[:, :, 0] > 128, 120)
    to_and_fro = np.where((np.indices((side, side)) // 2).sum(axis=0) % 2, 240, 16)
    planes = [np.full((side, side), 16), *[np.where(here, to_and_fro, 128)] * 2]
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "qp": "8", "x264-params": "log-level=none"})
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv444p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.stack(planes).astype(np.uint8), format="yuv444p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


for _degrees in TURNS:
    case(73, f"turned-{_degrees}", functools.partial(turned, _degrees), found=True)
    case(73, f"turned-{_degrees}-matroska", functools.partial(turned, _degrees, "matroska"), found=True)
case(73, "flipped", flipped, found=True)
case(73, "turned-by-the-stream", turned_inside, strict="ambiguous_rendering", found=True)
case(73, "anamorphic", anamorphic, found=True)
case(74, "odd-lines", interlaced, found=True)
case(75, "everything-beside", with_everything, found=True)
case(75, "trailing-bytes", lambda: plain_clip() + b"PK\x03\x04" + bytes(range(1, 256)) * 40, strict="trailing_data", found=True)
case(76, "encrypted", encrypted, "unsupported_encoding")
case(77, "sound-only", sound_only, "no_frames")
case(77, "500-tracks", many_tracks, "too_many_streams")
case(78, "4-4-4", lambda: clip(pictures(8, range(8)), pixels="yuv444p"), found=True)
case(78, "ten-bits", lambda: clip(pictures(8, range(8)), pixels="yuv420p10le"), found=True)
case(78, "beyond-all-colours", beyond_all_colours, found=True)
case(78, "pq", lambda: in_colours(16), "unsupported_encoding")
case(78, "hlg", lambda: in_colours(18), "unsupported_encoding")
case(78, "pq-by-the-container", pq_by_the_container, "unsupported_encoding")
case(78, "dolby-vision", lambda: dolby_vision(0), "unsupported_encoding")
case(78, "dolby-vision-over-standard-range", lambda: dolby_vision(2), found=True)
case(78, "full-range-lie", full_range_lie, found=True)
case(78, "prores", lambda: clip(pictures(2), form="mov", codec="prores_ks", pixels="yuv422p10le"), "unsupported_encoding")
