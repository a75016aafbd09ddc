"""A video file through the one demuxer that its magic names, with limits on everything that FFmpeg would take for granted.

Runs in a decode child only.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import av
import av.error
import av.logging
import av.sidedata.encparams
import av.sidedata.motionvectors
import av.sidedata.sidedata
import av.subtitles.codeccontext
import av.subtitles.stream  # PyAV itself imports these three late, and in a confined child no file can be opened

from moderation.adapters.decode.containers import Data
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.task import Refused, Task
from moderation.errors import Refusal

MOST_TRACKS: Final = 16

CODECS: Final = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
SOUND_CODECS: Final = ("aac", "mp3", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "pcm_s16le", "pcm_s16be", "pcm_s24le", "mp2")


class _File(io.RawIOBase):
    """A view of bytes as a file, without a copy of them."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else min(self._at + size, len(self._data))
        piece = bytes(self._data[self._at : end])
        self._at = max(end, self._at)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at


def prepare() -> None:
    """Set FFmpeg up once: nothing is said by it."""
    av.logging.set_level(None)


@contextmanager
def opened_file(data: Data, task: Task, *, edited: bool) -> Iterator[Any]:
    """The file through the one demuxer that its magic names; no other format, protocol or file can be reached from it."""
    options = {
        "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
        "protocol_whitelist": "none",
        "codec_whitelist": ",".join((*CODECS, *SOUND_CODECS, "libdav1d", "mp3float", "mjpeg", "png")),
        "max_streams": str(4 * MOST_TRACKS),
        "enable_drefs": "0",
        "ignore_editlist": "0" if edited else "1",
    }
    if not task.form.is_video:
        raise Refused(Refusal.UNSUPPORTED_MEDIA_TYPE, "no video")
    if task.form in (Format.MATROSKA, Format.WEBM):
        del options["enable_drefs"], options["ignore_editlist"]
    if task.own:
        options["fpsprobesize"] = "0"  # its frames are stored in order: FFmpeg need not decode twenty of them to find that out
    with av.open(_File(data), "r", format=task.form.opener, options=options, buffer_size=1 << 18) as container:
        yield container


@contextmanager
def opened_video(data: Data, task: Task, *, edited: bool) -> Iterator[tuple[Any, Any]]:
    """The container and its one stream of moving pictures."""
    with opened_file(data, task, edited=edited) as container:
        streams = [stream for stream in container.streams.video if not is_still(stream)]
        if not streams:
            raise Refused(Refusal.NO_FRAMES, "no moving pictures")
        if len(streams) > 1:
            raise Refused(Refusal.MULTIPLE_VIDEO_STREAMS, f"{len(streams)} streams")
        if len(container.streams) > 2 * MOST_TRACKS:
            raise Refused(Refusal.TOO_MANY_STREAMS, f"{len(container.streams)} streams")
        stream = streams[0]
        check_codec(stream, CODECS)
        check_size(stream.width or task.min_side, stream.height or task.min_side, task)
        codec = stream.codec_context
        codec.thread_count = 1
        codec.thread_type = "NONE"
        codec.options = {"max_pixels": str(task.video_pixels), "err_detect": "explode", "flags": "+output_corrupt", "threads": "1"}
        yield container, stream


def is_still(stream: Any) -> bool:
    """Whether it is an attached picture and not moving ones."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_size(width: int, height: int, task: Task) -> None:
    """Raises Refused."""
    if max(width, height) > task.max_side or width * height > task.video_pixels:
        raise Refused(Refusal.DIMENSIONS_TOO_LARGE, f"{width} x {height}")
    if min(width, height) < task.min_side:
        raise Refused(Refusal.TOO_SMALL, f"{width} x {height}")


def check_seconds(seconds: float, task: Task) -> None:
    """Raises Refused."""
    if seconds > task.video_seconds:
        raise Refused(Refusal.TOO_LONG, f"{seconds:.1f} s")


def check_codec(stream: Any, known: tuple[str, ...]) -> None:
    """Raises Refused where it is none of the `known`."""
    codec = stream.codec_context
    name = codec.codec.canonical_name if codec is not None else "none"
    if name not in known:
        raise Refused(Refusal.UNSUPPORTED_ENCODING, f"codec {name}")
