"""The decode child: one process, one control socket, one shared map, and nothing else.

Started by `pool` as `python -I -S -c ... <sys.path> <settings>` with an empty environment.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import random  # noqa: F401 - as below: videos draw from it
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from PIL import (  # noqa: F401 - after confinement no file can be opened, so all that Pillow imports late is imported now
    ExifTags,
    Image,
    ImageColor,
    ImageMode,
    ImageOps,
    ImagePalette,
    ImageSequence,
    JpegPresets,
    MpoImagePlugin,
    TiffTags,
    __version__,
    features,
)

from moderation.adapters.decode import confine, wire
from moderation.adapters.decode.pictures import digest, picture, prepare, probe, screen
from moderation.adapters.decode.renderings import Upright
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.task import Refused, Sampled, Task, View
from moderation.adapters.decode.views import Spec
from moderation.errors import Refusal

DECODER: Final = "10"
"""Raised whenever the same file would be shown to classifiers differently, or named differently."""

_CODECS: Final = ("libjpeg_turbo", "zlib", "libtiff", "webp", "avif", "littlecms2")


class _ParentGone(Exception):
    pass


class _Outlet:
    """Writes views, or rows of a picture, into the two halves of the output area, waiting until the parent has copied the older one."""

    def __init__(self, control: socket.socket, area: mmap.mmap, start: int) -> None:
        self._control = control
        self._area = area
        self._start = start
        self._half = 0
        self._used = 0
        self._entries: list[list[object]] = []
        self._digests: list[str] = []
        self._unacknowledged = 0

    def put(self, view: View) -> None:
        """The next view."""
        raw = view.pixels.tobytes()
        if len(raw) > wire.HALF_BYTES:
            raise Refused(Refusal.DECODE_FAILED, "an input larger than the map")
        if self._used + len(raw) > wire.HALF_BYTES or len(self._entries) >= wire.INPUTS_PER_MESSAGE:
            self._flush()
        at = self._start + self._half * wire.HALF_BYTES + self._used
        self._area[at : at + len(raw)] = raw
        self._entries.append([view.spec, view.frame, view.time_us, view.rendering, *view.region, at])
        self._used += len(raw)

    def send(self) -> None:
        """Send what is gathered."""
        if self._entries:
            self._flush()

    def show(self, upright: Upright) -> None:
        """The whole picture, as many rows at a time as fill one half."""
        width, height = upright.size
        self._fit(width)
        self._send({"t": "picture", "width": width, "height": height})
        self._rows(width, height, upright.rows)

    def begin(self, about: dict[str, object]) -> None:
        """What comes: a film or sound."""
        self._send(about)

    def frame(self, index: int, pts: int, duration: int, image: Image.Image) -> None:
        """One frame of a film in full."""
        width, height = image.size
        self._fit(width)
        self._send({"t": "frame", "index": index, "pts": pts, "duration": duration})
        self._rows(width, height, lambda first, count: image.crop((0, first, width, first + count)))

    def say(self, digest: str) -> None:
        """The digest of the next frame of a film."""
        self._digests.append(digest)
        if len(self._digests) == wire.INPUTS_PER_MESSAGE:
            self.end_of_digests()

    def end_of_digests(self) -> None:
        """Send what is gathered."""
        self._send({"t": "digests", "digests": self._digests})
        self._digests = []

    def hear(self, samples: bytes) -> None:
        """The next samples, gathered until one half is nearly full."""
        for first in range(0, len(samples), wire.HALF_BYTES):
            piece = samples[first : first + wire.HALF_BYTES]
            if self._used + len(piece) > wire.HALF_BYTES:
                self._flush_samples()
            at = self._start + self._half * wire.HALF_BYTES + self._used
            self._area[at : at + len(piece)] = piece
            self._used += len(piece)

    def end_of_sound(self) -> None:
        """Send what is gathered."""
        if self._used:
            self._flush_samples()

    def _flush_samples(self) -> None:
        self._send({"t": "samples", "bytes": self._used, "at": self._start + self._half * wire.HALF_BYTES})
        self._used = 0
        self._turn_over()

    def _fit(self, width: int) -> None:
        if 3 * width > wire.HALF_BYTES:
            raise Refused(Refusal.DIMENSIONS_TOO_LARGE, "a row larger than the map")

    def _rows(self, width: int, height: int, rows: Callable[[int, int], Image.Image]) -> None:
        at_once = min(wire.HALF_BYTES // (3 * width), height)
        for first in range(0, height, at_once):
            count = min(at_once, height - first)
            raw = rows(first, count).tobytes()
            at = self._start + self._half * wire.HALF_BYTES
            self._area[at : at + len(raw)] = raw
            self._send({"t": "rows", "first": first, "count": count, "at": at})
            self._turn_over()

    def finish(self, facts: dict[str, object]) -> None:
        self._send({"t": "done", "facts": facts, "inputs": self._entries})
        self._settle()

    def refuse(self, refusal: Refusal, detail: str) -> None:
        self._digests = []
        self._send({"t": "refused", "refusal": str(refusal), "detail": detail})
        self._settle()

    def _flush(self) -> None:
        self._send({"t": "inputs", "inputs": self._entries})
        self._entries = []
        self._used = 0
        self._turn_over()

    def _turn_over(self) -> None:
        """Go on in the other half, once nobody reads there."""
        self._half ^= 1
        self._unacknowledged += 1
        if self._unacknowledged == 2:
            self._await_one()

    def _settle(self) -> None:
        self._entries = []
        self._used = 0
        while self._unacknowledged:
            self._await_one()

    def _await_one(self) -> None:
        if self._control.recv(16) != wire.ACKNOWLEDGED:
            raise _ParentGone
        self._unacknowledged -= 1

    def _send(self, message: dict[str, object]) -> None:
        self._control.send(json.dumps(message, separators=(",", ":")).encode())


def main(settings: str) -> None:
    """Serve until the parent closes the socket. Never returns."""
    asked = json.loads(settings)
    input_bytes, memory_bytes = int(asked["input_bytes"]), int(asked["memory_bytes"])
    control = socket.socket(fileno=wire.SOCKET_FD)
    area = mmap.mmap(wire.MAP_FD, wire.map_bytes(input_bytes))
    os.close(wire.MAP_FD)
    prepare()
    openers = _openers() if asked["videos"] else None
    confined = confine.confine(memory_bytes, wire.SOCKET_FD + (openers is not None))  # one more for the file that a request brings
    gc.freeze()
    control.send(json.dumps({"t": "hello", "version": _version(), "confined": confined}).encode())
    outlet = _Outlet(control, area, wire.output_at(input_bytes))
    try:
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, wire.MESSAGE_BYTES, 1)
            if not request:
                break
            message = json.loads(request)
            if openers is None:
                _serve(message, area[: int(message["size"])], outlet)
            else:
                with _mapped(descriptors[0], int(message["size"])) as data:
                    _serve_video(*openers, message, data, outlet)
    except (_ParentGone, ConnectionError):
        pass
    os._exit(0)


def _openers() -> tuple[ModuleType, ModuleType]:
    """What opens videos and animations that are films; only a child that is for them loads FFmpeg."""
    from moderation.adapters.decode import animations, videos  # noqa: PLC0415

    videos.prepare()
    return videos, animations


@contextmanager
def _mapped(descriptor: int, size: int) -> Iterator[memoryview]:
    """The bytes of a memory file. Python's own mmap would copy the descriptor, which a confined process may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, 0)
    os.close(descriptor)
    if address in (None, ctypes.c_void_p(-1).value):
        raise MemoryError
    try:
        yield memoryview((ctypes.c_char * size).from_address(address)).cast("B").toreadonly()
    finally:
        libc.munmap(address, size)


def _serve(request: dict[str, Any], data: bytes, outlet: _Outlet) -> None:
    task = _task(request)

    def answer() -> dict[str, object]:
        match request["do"]:
            case "screen":
                return screen(data, task, outlet)
            case "picture":
                return picture(data, task, outlet.show)
            case "digests":
                facts = digest(data, task, outlet.say)
                outlet.end_of_digests()
                return facts
            case _:
                return probe(data, task)

    _answer(answer, outlet)


def _serve_video(videos: Any, animations: Any, request: dict[str, Any], data: memoryview, outlet: _Outlet) -> None:
    task = _task(request)

    def answer() -> dict[str, object]:
        facts: dict[str, object]
        match request["do"]:
            case "screen":
                facts = videos.screen(data, task, outlet.put)
            case "film":
                film = videos.film if task.form.is_video else animations.film
                facts = film(data, task, lambda about: outlet.begin({"t": "film", **about}), outlet.frame)
            case "digests":
                facts = videos.digests(data, task, outlet.say)
                outlet.end_of_digests()
            case "sound":
                facts = videos.sound(data, task, lambda about: outlet.begin({"t": "sound", **about}), outlet.hear)
                outlet.end_of_sound()
            case "picture":
                raise Refused(Refusal.STILL_PICTURE_REQUIRED, "a video")
            case _:
                facts = videos.probe(data, task)
        return facts

    _answer(answer, outlet)


def _answer(answer: Callable[[], dict[str, object]], outlet: _Outlet) -> None:
    try:
        facts = answer()
    except Refused as refused:
        outlet.refuse(refused.refusal, refused.detail)
    except MemoryError:
        gc.collect()
        outlet.refuse(Refusal.DIMENSIONS_TOO_LARGE, "more memory than a picture may take")
    else:
        outlet.finish(facts)


def _task(request: dict[str, Any]) -> Task:
    plan = request["plan"]
    confine.limit_cpu(int(plan["cpu_s"]))
    sampled, only = plan.get("sampled"), plan.get("only")
    return Task(
        form=Format[str(request["format"])],
        specs=tuple(
            Spec(index, width, height, fit, Image.Resampling[resample.upper()], resize_to)
            for index, (width, height, fit, resample, resize_to) in enumerate(plan["specs"])
        ),
        strict=bool(plan["strict"]),
        sampled=None if sampled is None else Sampled(**sampled),
        only=None if only is None else tuple(only),
        first=int(plan.get("first", 0)),
        own=bool(plan.get("own", False)),
        whole=bool(plan.get("whole", False)),
        **{name: int(plan[name]) for name in _BOUNDS},
    )


_BOUNDS: Final = (
    "image_pixels",
    "total_pixels",
    "min_side",
    "max_side",
    "frames",
    "video_pixels",
    "video_frames",
    "video_seconds",
)


def _version() -> str:
    return f"{DECODER}+pillow{__version__}," + ",".join(f"{name}{features.version(name)}" for name in _CODECS)
