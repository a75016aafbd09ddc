"""The decode child: one process, one control socket, one shared map, and nothing else.

Started by `pool` as `python -I -S -c ... <sys.path> <settings>` with an empty environment.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import socket
from typing import Final

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
from moderation.adapters.decode.pictures import picture, prepare, probe, screen
from moderation.adapters.decode.renderings import Upright
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.task import Refused, Task, View
from moderation.adapters.decode.views import Spec
from moderation.errors import Refusal

DECODER: Final = "2"
"""Raised whenever the same file would be shown to classifiers differently."""

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
        self._unacknowledged = 0

    def put(self, view: View) -> None:
        raw = view.pixels.tobytes()
        if len(raw) > wire.HALF_BYTES:
            raise Refused(Refusal.DECODE_FAILED, "an input larger than the map")
        if self._used + len(raw) > wire.HALF_BYTES or len(self._entries) >= wire.INPUTS_PER_MESSAGE:
            self._flush()
        at = self._start + self._half * wire.HALF_BYTES + self._used
        self._area[at : at + len(raw)] = raw
        self._entries.append([view.spec, view.frame, view.time_us, view.rendering, *view.region, at])
        self._used += len(raw)

    def show(self, upright: Upright) -> None:
        """The whole picture, as many rows at a time as fill one half."""
        width, height = upright.size
        at_once = min(wire.HALF_BYTES // (3 * width), height)
        if not at_once:
            raise Refused(Refusal.DIMENSIONS_TOO_LARGE, "a row larger than the map")
        self._send({"t": "picture", "width": width, "height": height})
        for first in range(0, height, at_once):
            count = min(at_once, height - first)
            raw = upright.rows(first, count).tobytes()
            at = self._start + self._half * wire.HALF_BYTES
            self._area[at : at + len(raw)] = raw
            self._send({"t": "rows", "first": first, "count": count, "at": at})
            self._turn_over()

    def finish(self, facts: dict[str, object]) -> None:
        self._send({"t": "done", "facts": facts, "inputs": self._entries})
        self._settle()

    def refuse(self, refusal: Refusal, detail: str) -> None:
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
    confined = confine.confine(memory_bytes, wire.SOCKET_FD)
    gc.freeze()
    control.send(json.dumps({"t": "hello", "version": _version(), "confined": confined}).encode())
    outlet = _Outlet(control, area, wire.output_at(input_bytes))
    try:
        while request := control.recv(wire.MESSAGE_BYTES):
            _serve(json.loads(request), area, outlet)
    except (_ParentGone, ConnectionError):
        pass
    os._exit(0)


def _serve(request: dict[str, object], area: mmap.mmap, outlet: _Outlet) -> None:
    plan = request["plan"]
    assert isinstance(plan, dict)  # noqa: S101 - it comes from our parent
    confine.limit_cpu(int(plan["cpu_s"]))
    task = _task(Format[str(request["format"])], plan)
    data = area[: int(str(request["size"]))]
    try:
        match request["do"]:
            case "screen":
                facts = screen(data, task, outlet.put)
            case "picture":
                facts = picture(data, task, outlet.show)
            case _:
                facts = probe(data, task)
    except Refused as refused:
        outlet.refuse(refused.refusal, refused.detail)
    except MemoryError:
        gc.collect()
        outlet.refuse(Refusal.DIMENSIONS_TOO_LARGE, "more memory than a picture may take")
    else:
        outlet.finish(facts)


def _task(form: Format, plan: dict[str, object]) -> Task:
    specs = plan["specs"]
    assert isinstance(specs, list)  # noqa: S101 - as above
    return Task(
        form=form,
        specs=tuple(
            Spec(index, width, height, fit, Image.Resampling[resample.upper()], resize_to)
            for index, (width, height, fit, resample, resize_to) in enumerate(specs)
        ),
        strict=bool(plan["strict"]),
        **{name: int(str(plan[name])) for name in ("image_pixels", "total_pixels", "min_side", "max_side", "frames")},
    )


def _version() -> str:
    return f"{DECODER}+pillow{__version__}," + ",".join(f"{name}{features.version(name)}" for name in _CODECS)
