"""`ChildDecoder`: decode children, and what the parent believes of them.

A child is spawned (never forked), gets one socket and one map, and works on one media at a time. Whatever goes
wrong with it, it is killed before anything else is asked of it, and another takes its place without anybody
waiting: a late answer can never be taken for the next one.

Pictures and videos have children of their own: those for pictures stand ready and never load FFmpeg, those for videos are started
when they are needed and stay, so that no picture waits for a video.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import logging
import mmap
import os
import re
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar

import numpy as np

from moderation.adapters.decode import wire
from moderation.adapters.decode.sniff import SHORTEST, Format, declared, is_start_of_magic, sniff
from moderation.errors import DecoderUnavailable, MediaRefused, Overloaded, Refusal
from moderation.frames import DecodePlan, FilmFacts, FilmFrame, Input, Picture, Pixels, Sound
from moderation.media import Facts, MediaKind, Probe, Unscreened
from moderation.ports import Deliver, Keep

_LOG: Final = logging.getLogger(__name__)

START_S: Final = 30.0
MOST_INPUTS: Final = 50_000
"""Of one picture or animation: more is not a picture but an attempt."""

MOST_VIDEO_INPUTS: Final = 2_000_000
MAX_RATE_HZ: Final = 48_000

VIDEO_WAIT_S: Final = 60.0
"""How long a video waits for a child: another video takes a while."""

VIDEOS_PER_CHILD: Final = 50

_F_ADD_SEALS: Final = 1033
_F_SEALS: Final = 0x0001 | 0x0002 | 0x0004
"""F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW: a child that shrank the map would kill its parent."""
_F_SEAL_WRITE: Final = 0x0008

_FIRST_FREE_FD: Final = 16
_KILLED_FROM_OUTSIDE: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_RENDERING: Final = re.compile(r"[a-z0-9_]{1,64}")
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_BOOT: Final = "import sys; sys.path[:0] = sys.argv[1].split(chr(10)); from moderation.adapters.decode.child import main; main(sys.argv[2])"

T = TypeVar("T")


class _Lies(Exception):
    """A child said something that no honest child says."""


class _Child:
    """One child process as its parent holds it."""

    def __init__(self, input_bytes: int, memory_bytes: int, *, videos: bool = False) -> None:
        """Spawn. Raises OSError."""
        loop = asyncio.get_running_loop()
        size = wire.map_bytes(input_bytes)
        memory = os.memfd_create("facegate-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, size)
            fcntl.fcntl(memory, _F_ADD_SEALS, _F_SEALS)
            self.map = mmap.mmap(memory, size)
            self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self.socket.setblocking(False)
                settings = {"input_bytes": input_bytes, "memory_bytes": memory_bytes, "videos": videos}
                self.pid = _spawn(theirs.fileno(), memory, json.dumps(settings), videos=videos)
            except BaseException:
                self.socket.close()
                self.map.close()
                raise
            finally:
                theirs.close()
        finally:
            os.close(memory)
        self.pidfd = os.pidfd_open(self.pid)
        self.exit: asyncio.Future[int | None] = loop.create_future()
        self.served = 0
        self.busy = False
        """Somebody awaits its socket."""
        self._loop = loop
        loop.add_reader(self.pidfd, self._reap)

    def kill(self) -> None:
        """End it now, whatever it does; harmless on a dead one."""
        if not self.exit.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Kill it and let go of what was shared with it. Only while nobody awaits its socket."""
        self.kill()
        self.socket.close()
        self.map.close()

    def _reap(self) -> None:
        """The process has ended: collect its status."""
        status: int | None = None
        with suppress(ChildProcessError):  # somebody else's handler was faster
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if result is None:
                return
            status = -result.si_status if result.si_code in (os.CLD_KILLED, os.CLD_DUMPED) else result.si_status
        self._loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        if not self.exit.done():
            self.exit.set_result(status)


class ChildDecoder:
    """Decodes in child processes; implements `moderation.ports.Decoder`, `PictureDecoder` and `FilmDecoder`.

    `children` pictures and at most `videos` videos are decoded at once. `max_bytes_in_flight` bounds the uploads that wait or are worked
    on, so that memory does not follow load; a picture that is handed out takes three bytes a pixel beside that. `memory_bytes` bounds what
    one child may map; `max_media_bytes` is the largest picture taken, `max_video_bytes` the largest video. A child is replaced after
    `media_per_child` pictures, so that nothing one leaves behind lasts.
    """

    def __init__(
        self,
        children: int = 2,
        max_bytes_in_flight: int = 256_000_000,
        *,
        videos: int = 2,
        memory_bytes: int = 1_600_000_000,
        max_media_bytes: int = 20_000_000,
        max_video_bytes: int = 200_000_000,
        media_per_child: int = 2_000,
        wait_s: float = 10.0,
    ) -> None:
        self._pictures = _Crew(
            lambda: _Child(max_media_bytes, memory_bytes), standing=children, most=children, media_per_child=media_per_child, wait_s=wait_s
        )
        self._videos = _Crew(
            lambda: _Child(0, memory_bytes, videos=True), standing=0, most=videos, media_per_child=VIDEOS_PER_CHILD, wait_s=VIDEO_WAIT_S
        )
        self._room = max_bytes_in_flight
        self._max_media_bytes = max_media_bytes
        self._max_video_bytes = max_video_bytes
        self._in_flight = 0

    @property
    def version(self) -> str:
        """Our decoding's own number, Pillow, the codecs in it, and PyAV, whose wheel holds its FFmpeg. Known from `start` on."""
        if self._pictures.hello is None:
            raise DecoderUnavailable("not started")
        return f"{self._pictures.hello},av{_av_version()}"

    @property
    def confined(self) -> tuple[str, ...]:
        """What the children gave up: see `confine`."""
        return self._pictures.confined

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of all media that wait or are being decoded."""
        return self._in_flight

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the living children for pictures."""
        return tuple(child.pid for child in self._pictures.living)

    @property
    def video_pids(self) -> tuple[int, ...]:
        """Process ids of the living children for videos."""
        return tuple(child.pid for child in self._videos.living)

    async def start(self) -> None:
        """Spawn the children for pictures and wait until they are ready. Raises DecoderUnavailable."""
        self._videos.open()
        try:
            await self._pictures.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all children and wait until they are gone. What is being decoded fails."""
        await asyncio.gather(self._pictures.close(), self._videos.close())

    async def decode(self, data: bytes, plan: DecodePlan, deliver: Deliver, *, keep: Keep | None = None) -> Facts:
        """Decode all that `plan` asks for; see `moderation.ports.Decoder.decode`."""
        return await self._exchange(data, plan, lambda child, form: _Screening(child, data, form, plan, deliver, keep))

    async def picture(self, data: bytes, plan: DecodePlan) -> Picture:
        """The still picture in full; see `moderation.ports.PictureDecoder.picture`."""
        return await self._exchange(data, plan, lambda child, form: _Showing(child, data, form, plan))

    async def frame_digest(self, data: bytes, plan: DecodePlan) -> str:
        """What names the still picture; see `moderation.ports.PictureDecoder.frame_digest`."""
        (digest,) = await self.digests(data, replace(plan, videos=False))
        return digest

    async def probe(self, data: bytes, plan: DecodePlan) -> Probe:
        """What can be told without decoding; see `moderation.ports.PictureDecoder.probe`."""
        return await self._exchange(data, plan, lambda child, form: _Probing(child, data, form, plan))

    async def sound(self, data: bytes, plan: DecodePlan) -> Sound | None:
        """The sound of a video; see `moderation.ports.FilmDecoder.sound`."""
        return (await self._exchange(data, plan, lambda child, form: _Listening(child, data, form, plan))).sound

    async def digests(self, data: bytes, plan: DecodePlan) -> tuple[str, ...]:
        """What names the frames that a player shows; see `moderation.ports.FilmDecoder.digests`."""
        return await self._exchange(data, plan, lambda child, form: _Naming(child, data, form, plan))

    @asynccontextmanager
    async def film(self, data: bytes, plan: DecodePlan, *, first: int = 0) -> AsyncIterator[_Film]:
        """The frames that a player shows; see `moderation.ports.FilmDecoder.film`."""
        form = self._identify(data, plan)
        async with self._child_for(data, self._videos) as child:
            film = _Film(child, data, form, plan, first)
            await film.begin()
            yield film
            if not film.is_over:
                raise _Unfinished

    async def _exchange(self, data: bytes, plan: DecodePlan, made: Callable[[_Child, Format], _Exchange[T]]) -> T:
        form = self._identify(data, plan)
        async with self._child_for(data, self._videos if form.is_video else self._pictures) as child:
            return await made(child, form).run()

    @asynccontextmanager
    async def _child_for(self, data: bytes, crew: _Crew) -> AsyncIterator[_Child]:
        """A child to ask one thing of. It is asked again only after an orderly answer."""
        if self._in_flight and self._in_flight + len(data) > self._room:  # alone, a file of any size that is allowed
            raise Overloaded("decoder")
        self._in_flight += len(data)
        try:
            child = await crew.take()
            child.busy = True
            try:
                yield child
            except _Orderly as refused:
                crew.give(child)
                raise MediaRefused(refused.refusal, refused.detail) from None
            except _Unfinished:
                crew.discard(child)
                return
            except BaseException:
                crew.discard(child)  # before anything else is asked of it: a late answer must find nobody
                raise
            crew.give(child)
        finally:
            self._in_flight -= len(data)

    def _identify(self, data: bytes, plan: DecodePlan) -> Format:
        """What needs no decoding to be refused."""
        if not data:
            raise MediaRefused(Refusal.EMPTY_BODY)
        form = sniff(data)
        limits = plan.limits
        is_video = form is not None and form.is_video
        most = min(limits.video_bytes, self._max_video_bytes) if is_video else min(limits.image_bytes, self._max_media_bytes)
        if len(data) > (plan.own_bytes if is_video and plan.own_bytes is not None else most):
            raise MediaRefused(Refusal.PAYLOAD_TOO_LARGE)
        if len(data) < SHORTEST and is_start_of_magic(data):
            raise MediaRefused(Refusal.DECODE_FAILED, "a few bytes only")
        if any(3 * spec.width * spec.height > wire.HALF_BYTES for spec in plan.specs):
            raise DecoderUnavailable("a classifier asks for larger inputs than the map holds")
        if form is None or (is_video and not plan.videos):
            raise MediaRefused(Refusal.UNSUPPORTED_MEDIA_TYPE)
        claimed = declared(plan.declared_type)
        if plan.strict and claimed not in (None, form.media_type):
            raise MediaRefused(Refusal.TYPE_MISMATCH, f"declared {claimed}, is {form.media_type}"[:200])
        return form


class _Unfinished(Exception):
    """Somebody left a film before its end."""


class _Crew:
    """Children of one kind: `standing` of them always, at most `most` where more are asked for."""

    def __init__(self, spawned: Callable[[], _Child], *, standing: int, most: int, media_per_child: int, wait_s: float) -> None:
        self._spawned = spawned
        self._wanted = standing
        self._most = most
        self._media_per_child = media_per_child
        self._wait_s = wait_s
        self.hello: str | None = None
        """Its version, as the last child to become ready said it."""
        self.confined: tuple[str, ...] = ()
        self.living: set[_Child] = set()
        self._processes: set[_Child] = set()
        """Living or dying: all that have not been reaped."""
        self.idle: list[_Child] = []
        self._waiting: list[asyncio.Future[_Child]] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._closed = True

    def open(self) -> None:
        """From now on children may be asked for."""
        self._closed = False

    async def start(self) -> None:
        """Spawn the standing children and wait until they are ready. Raises DecoderUnavailable."""
        self.open()
        await asyncio.gather(*(self._add() for _ in range(self._wanted)))

    async def close(self) -> None:
        """End all children and wait until they are gone. What is being decoded fails."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        for child in list(self.living):
            child.kill()
            if not child.busy:
                self.discard(child)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(DecoderUnavailable("closed"))
        self._waiting.clear()
        await asyncio.gather(*self._starting, return_exceptions=True)
        if self._processes:
            await asyncio.wait([child.exit for child in self._processes], timeout=5)

    async def take(self) -> _Child:
        """A child that is asked nothing. Raises DecoderUnavailable, Overloaded."""
        if self._closed:
            raise DecoderUnavailable("closed")
        while self.idle:
            child = self.idle.pop()
            if not child.exit.done():
                return child
            self.discard(child)
        waiter: asyncio.Future[_Child] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._top_up()
        try:
            async with asyncio.timeout(self._wait_s):
                return await waiter
        except TimeoutError:
            raise Overloaded("decoder") from None
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give(waiter.result())  # given in the moment we went away
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def give(self, child: _Child) -> None:
        """A child is ready for the next media."""
        child.served += 1
        child.busy = False
        if child.exit.done() or self._closed:
            self.discard(child)
            return
        if child.served == self._media_per_child:
            self._replace()  # it serves on until the new one is there
        if child.served >= self._media_per_child and len(self.living) > self._wanted:
            self.discard(child)
            return
        while self._waiting:
            waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(child)
                return
        self.idle.append(child)
        while len(self.idle) > self._most:
            self.discard(self.idle[0])

    def discard(self, child: _Child) -> None:
        """It is asked nothing any more."""
        child.release()
        self.living.discard(child)
        with suppress(ValueError):
            self.idle.remove(child)
        self._top_up()

    def _top_up(self) -> None:
        wanted = max(self._wanted, min(self._most, len(self.living) + sum(not waiter.done() for waiter in self._waiting)))
        while not self._closed and len(self.living) + len(self._starting) < wanted:
            self._replace()

    def _replace(self) -> None:
        def done(task: asyncio.Task[None]) -> None:
            self._starting.discard(task)
            self._top_up()

        task = asyncio.get_running_loop().create_task(self._add_in_the_end())
        self._starting.add(task)
        task.add_done_callback(done)

    async def _add_in_the_end(self) -> None:
        """Start a child, again and again until it works; those who wait meanwhile are told when there is none at all."""
        pause = 0.1
        while not self._closed:
            try:
                await self._add()
            except DecoderUnavailable as error:
                _LOG.warning("no decode child could be started: %s", error)
                if not self.living:
                    for waiter in self._waiting:
                        if not waiter.done():
                            waiter.set_exception(DecoderUnavailable(str(error)))
                    self._waiting.clear()
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)
            else:
                return

    async def _add(self) -> None:
        """Spawn one child and make it ready. Raises DecoderUnavailable."""
        try:
            child = self._spawned()
        except (OSError, ValueError) as error:
            raise DecoderUnavailable(f"cannot spawn: {error}") from error
        self._processes.add(child)
        child.exit.add_done_callback(lambda _: self._ended(child))
        try:
            async with asyncio.timeout(START_S):
                hello = _parsed(await asyncio.get_running_loop().sock_recv(child.socket, wire.MESSAGE_BYTES))
            version, confined = hello["version"], hello["confined"]
        except (TimeoutError, OSError, _Lies, KeyError) as error:
            child.release()
            raise DecoderUnavailable(f"a decode child did not become ready: {type(error).__name__}") from error
        except BaseException:
            child.release()
            raise
        self.hello, self.confined = str(version), tuple(confined)
        self.living.add(child)
        child.served = -1
        self.give(child)
        worn = [old for old in self.idle if old.served >= self._media_per_child]
        if worn and len(self.living) > self._wanted:
            self.discard(worn[0])

    def _ended(self, child: _Child) -> None:
        """A process is gone. One at work is noticed by whoever works with it, one that was idle is noticed here."""
        self._processes.discard(child)
        if child in self.idle:
            _LOG.warning("an idle decode child ended with status %s", child.exit.result())
            self.discard(child)


class _Orderly(MediaRefused):
    """Refused by a child in full possession of itself, which may go on."""


class _Exchange(ABC, Generic[T]):
    """One media at one child: everything that comes back is checked here and in the classes made from this one."""

    do: ClassVar[str]

    def __init__(self, child: _Child, data: bytes, form: Format, plan: DecodePlan) -> None:
        self._child = child
        self._data = data
        self._form = form
        self._plan = plan
        limits = plan.limits
        self._is_for_videos = form.is_video or self.do == "film"
        """Asked of a child for videos: an animation that is a film, too."""
        self._left_s = limits.video_wall_s if self._is_for_videos else limits.decode_wall_s
        self._most_frames = limits.video_frames if form.is_video else limits.frames

    @abstractmethod
    async def _told(self, message: dict[str, Any]) -> T | None:
        """Take one message that is no refusal; the answer, or None when more is to come. Raises _Lies."""

    async def run(self) -> T:
        """Raises MediaRefused, DecoderUnavailable and what `_told` raises."""
        async with self._believing():
            await self._ask()
            return await self._answer()

    async def _ask(self) -> None:
        """Hand over the bytes and say what is wanted of them."""
        if not self._is_for_videos:
            self._child.map[: len(self._data)] = self._data
            self._child.socket.send(self._request())
            return
        memory = await asyncio.to_thread(_sealed, self._data)
        try:
            socket.send_fds(self._child.socket, [self._request()], [memory])
        finally:
            os.close(memory)

    async def _answer(self) -> T:
        """What comes of the messages up to the one that is an answer."""
        while True:
            message = _parsed(await self._receive())
            if message.get("t") == "refused":
                raise self._refusal(message)
            answer = await self._told(message)
            if answer is not None:
                return answer

    @asynccontextmanager
    async def _believing(self) -> AsyncIterator[None]:
        """What a child does wrong, as one of our errors."""
        try:
            yield
        except _Lies:
            _LOG.exception("a decode child broke the protocol")
            raise MediaRefused(Refusal.DECODE_FAILED, "decoder misbehaved") from None
        except (ConnectionError, BrokenPipeError, BlockingIOError) as error:
            raise await self._cause_of_death() from error

    def _request(self) -> bytes:
        plan, limits = self._plan, self._plan.limits
        specs = [[s.width, s.height, str(s.fit), str(s.resample), s.resize_to or max(s.width, s.height)] for s in plan.specs]
        return json.dumps(
            {
                "do": self.do,
                "size": len(self._data),
                "format": self._form.name,
                "plan": {
                    "specs": specs,
                    "strict": plan.strict,
                    "cpu_s": limits.video_cpu_s if self._is_for_videos else limits.decode_cpu_s,
                    "image_pixels": limits.image_pixels,
                    "total_pixels": limits.total_pixels,
                    "min_side": limits.min_side,
                    "max_side": limits.max_side,
                    "frames": limits.frames,
                    "video_pixels": limits.video_pixels,
                    "video_frames": limits.video_frames,
                    "video_seconds": limits.video_seconds,
                    **({"sampled": asdict(plan.sampling)} if plan.sampling else {}),
                    **({"only": plan.only} if plan.only is not None else {}),
                    **({"own": True} if plan.own_bytes is not None else {}),
                    **self._further(),
                },
            }
        ).encode()

    def _further(self) -> dict[str, Any]:
        """What only one kind of question says."""
        return {}

    async def _receive(self) -> bytes:
        """The next message. Only the child's own time counts, not what is done with what it says."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        try:
            async with asyncio.timeout(self._left_s):
                message = await loop.sock_recv(self._child.socket, wire.MESSAGE_BYTES)
        except TimeoutError:
            raise MediaRefused(Refusal.DECODE_TOO_SLOW, "time limit") from None
        self._left_s -= loop.time() - before
        if not message:
            raise ConnectionResetError
        return message

    async def _cause_of_death(self) -> Exception:
        with suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await asyncio.shield(self._child.exit)
        status = self._child.exit.result() if self._child.exit.done() else None
        _LOG.warning("a decode child ended with status %s while decoding", status)
        if status == -signal.SIGXCPU:
            return MediaRefused(Refusal.DECODE_TOO_SLOW, "processor time")
        if status is None or -status in _KILLED_FROM_OUTSIDE:
            return DecoderUnavailable("the decode child was killed")
        return MediaRefused(Refusal.DECODE_FAILED, "the decoder crashed")

    # --- checks ---------------------------------------------------------------------------------

    def _refusal(self, message: dict[str, Any]) -> MediaRefused:
        try:
            return _Orderly(Refusal(message["refusal"]), str(message["detail"])[:300])
        except (KeyError, ValueError) as error:
            raise _Lies from error

    def _shared(self, at: Any, rows: int, width: int) -> Pixels:
        """What the child wrote; to be copied at once, for the child can still write there."""
        area, size = self._child.map, 3 * rows * width
        start = wire.output_at(len(area) - 2 * wire.HALF_BYTES)
        begin = _integer(at, start, len(area) - size)
        return np.frombuffer(area, np.uint8, size, begin).reshape(rows, width, 3)

    def room_for(self, message: dict[str, Any]) -> Pixels:
        """Room for a whole picture, once its size is known to be allowed."""
        limits = self._plan.limits
        width = _integer(message.get("width"), 1, min(limits.max_side, wire.HALF_BYTES // 3))
        height = _integer(message.get("height"), 1, min(limits.max_side, limits.image_pixels // width))
        return np.empty((height, width, 3), np.uint8)

    def copy_rows(self, message: dict[str, Any], pixels: Pixels, filled: int) -> int:
        """Copy the rows of a message, which must be those after the first `filled`, and say how many they are."""
        height, width, _ = pixels.shape
        first = _integer(message.get("first"), filled, filled)
        count = _integer(message.get("count"), 1, min(height - first, wire.HALF_BYTES // (3 * width)))
        pixels[first : first + count] = self._shared(message.get("at"), count, width)
        self._child.socket.send(wire.ACKNOWLEDGED)
        return count

    def _facts(self, message: dict[str, Any]) -> Facts:
        told, limits = _facts_in(message), self._plan.limits
        declared_frames, duration, digest = told.get("frames_declared"), told.get("duration_us"), told.get("frame_digest")
        kind = MediaKind.ANIMATION if told.get("animated") is True else MediaKind.IMAGE
        try:
            return Facts(
                type=self._form.media_type,
                kind=MediaKind.VIDEO if self._form.is_video else kind,
                width=_integer(told.get("width"), 1, limits.max_side),
                height=_integer(told.get("height"), 1, limits.max_side),
                frames=_integer(told.get("frames"), 1, self._most_frames),
                frames_declared=None if declared_frames is None else _integer(declared_frames, 0, 1 << 31),
                duration_us=None if duration is None else _integer(duration, 0, 1 << 62),
                unscreened=tuple(Unscreened(name) for name in told["unscreened"]),
                renderings=tuple(str(name) for name in told["renderings"] if _RENDERING.fullmatch(name)),
                undecoded=_integer(told.get("undecoded", 0), 0, self._most_frames),
                cuts_left_out=_integer(told.get("cuts_left_out", 0), 0, self._most_frames),
                frame_digest=None if digest is None else _digest(digest),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _Lies from error


class _Canvas:
    """One picture, put together from rows that must come in order, without gap or overlap, until it is full."""

    def __init__(self, exchange: _Exchange[Any]) -> None:
        self._exchange = exchange
        self._pixels: Pixels | None = None
        self._filled = 0

    async def take(self, message: dict[str, Any]) -> None:
        """The next message about it. Raises _Lies."""
        match message.get("t"):
            case "picture" if self._pixels is None:
                self._pixels = self._exchange.room_for(message)
            case "rows" if self._pixels is not None:
                self._filled += self._exchange.copy_rows(message, self._pixels, self._filled)
                await asyncio.sleep(0)  # a large picture is many messages that wait already; others have their turn between
            case _:
                raise _Lies

    def picture(self, facts: Facts) -> Picture:
        """All of it, which cannot be written to. Raises _Lies."""
        if self._pixels is None or facts.frames != 1 or facts.kind is not MediaKind.IMAGE:
            raise _Lies
        if self._pixels.shape != (facts.height, facts.width, 3) or self._filled != facts.height:
            raise _Lies
        self._pixels.flags.writeable = False
        return Picture(pixels=self._pixels, facts=facts)


class _Screening(_Exchange[Facts]):
    """Every input of every frame goes to `deliver`, and a still picture in full to `keep`."""

    do = "screen"

    def __init__(self, child: _Child, data: bytes, form: Format, plan: DecodePlan, deliver: Deliver, keep: Keep | None = None) -> None:
        super().__init__(child, data, form, plan)
        self._deliver = deliver
        self._keep = keep
        self._canvas = _Canvas(self)
        self._frame = 0
        self._inputs = 0
        self._shown: set[tuple[int, int]] = set()

    async def _told(self, message: dict[str, Any]) -> Facts | None:
        match message.get("t"):
            case "inputs":
                inputs = self._copied(message)
                self._child.socket.send(wire.ACKNOWLEDGED)
                await self._deliver(inputs)
                return None
            case "done":
                inputs = self._copied(message)
                facts = self._facts(message)
                if self._keep is not None and facts.kind is MediaKind.IMAGE and facts.frames == 1:
                    self._keep(self._canvas.picture(facts))
                if inputs:
                    await self._deliver(inputs)
                return facts
            case _ if self._keep is not None:
                await self._canvas.take(message)
                return None
            case _:
                raise _Lies

    def _further(self) -> dict[str, Any]:
        return {} if self._keep is None else {"whole": True}

    def _copied(self, message: dict[str, Any]) -> list[Input]:
        """The inputs of one message, in memory that the child cannot reach."""
        entries = message.get("inputs")
        if not isinstance(entries, list):
            raise _Lies
        self._inputs += len(entries)
        if self._inputs > (MOST_VIDEO_INPUTS if self._form.is_video else MOST_INPUTS):
            raise _Lies
        return [self._input(entry) for entry in entries]

    def _input(self, entry: Any) -> Input:
        if not isinstance(entry, list) or len(entry) != 9:
            raise _Lies
        index, frame, time_us, rendering, left, top, width, height, at = entry
        spec = self._plan.specs[_integer(index, 0, len(self._plan.specs) - 1)]
        self._frame = _integer(frame, self._frame, self._most_frames - 1)
        if time_us is not None:
            _integer(time_us, 0, 1 << 62)
        if not isinstance(rendering, str) or not _RENDERING.fullmatch(rendering):
            raise _Lies
        limits = self._plan.limits
        region = (
            _integer(left, 0, limits.max_side),
            _integer(top, 0, limits.max_side),
            _integer(width, 1, limits.max_side),
            _integer(height, 1, limits.max_side),
        )
        self._shown.add((frame, index))
        pixels = self._shared(at, spec.height, spec.width).copy()
        return Input(spec=spec, frame=frame, time_us=time_us, rendering=rendering, region=region, pixels=pixels)

    def _facts(self, message: dict[str, Any]) -> Facts:
        """What was shown is known here, whatever the child says: every frame yields at least one input for every spec."""
        facts = super()._facts(message)
        numbers = tuple(sorted({frame for frame, _ in self._shown}))
        if self._form.is_video and self._plan.only is not None and numbers != self._plan.only:  # of an animation all frames come
            raise _Lies
        if len(numbers) != facts.frames or len(self._shown) != facts.frames * len(self._plan.specs):
            raise _Lies
        total = _integer(_facts_in(message).get("of", facts.frames), facts.frames, self._most_frames)
        if total == facts.frames:
            if numbers[-1] != total - 1:
                raise _Lies
            return facts
        if not self._form.is_video or numbers[-1] >= total:
            raise _Lies
        return replace(facts, sampled=numbers, seed=self._plan.sampling.seed if self._plan.sampling else None)


class _Showing(_Exchange[Picture]):
    """One picture."""

    do = "picture"

    def __init__(self, child: _Child, data: bytes, form: Format, plan: DecodePlan) -> None:
        super().__init__(child, data, form, plan)
        self._canvas = _Canvas(self)

    async def _told(self, message: dict[str, Any]) -> Picture | None:
        if message.get("t") != "done":
            await self._canvas.take(message)
            return None
        if message.get("inputs") != []:
            raise _Lies
        return self._canvas.picture(self._facts(message))


class _Probing(_Exchange[Probe]):
    """One message."""

    do = "probe"

    async def _told(self, message: dict[str, Any]) -> Probe:
        told, limits = _facts_in(message), self._plan.limits
        if message.get("t") != "done" or message.get("inputs") != []:
            raise _Lies
        width = _integer(told.get("width"), 1, limits.max_side)
        is_video = self._form.is_video
        frames = _integer(told.get("frames"), 1, self._most_frames)
        most = limits.video_pixels if is_video else limits.image_pixels
        moving = MediaKind.VIDEO if is_video else MediaKind.ANIMATION
        return Probe(
            type=self._form.media_type,
            width=width,
            height=_integer(told.get("height"), 1, min(limits.max_side, most // width)),
            frames=frames,
            kind=moving if is_video or (frames > 1 and self._form is not Format.JPEG) else MediaKind.IMAGE,
            duration_us=_integer(told.get("duration_us"), 0, 1 << 62) if is_video else None,
        )


class _Heard(NamedTuple):
    sound: Sound | None


class _Listening(_Exchange[_Heard]):
    """Sound, put together from pieces that come in order."""

    do = "sound"

    def __init__(self, child: _Child, data: bytes, form: Format, plan: DecodePlan) -> None:
        super().__init__(child, data, form, plan)
        self._about: tuple[int, int, Fraction] | None = None
        self._heard = bytearray()

    async def _told(self, message: dict[str, Any]) -> _Heard | None:
        match message.get("t"):
            case "sound" if self._about is None:
                rate, channels = _integer(message.get("rate_hz"), 1, MAX_RATE_HZ), _integer(message.get("channels"), 1, 2)
                self._about = rate, channels, _fraction(message.get("starts_at"))
            case "samples" if self._about is not None:
                rate, channels, _ = self._about
                count = _integer(message.get("bytes"), 1, wire.HALF_BYTES)
                if len(self._heard) + count > 2 * channels * rate * (self._plan.limits.video_seconds + 2):
                    raise _Lies
                area = self._child.map
                begin = _integer(message.get("at"), wire.output_at(len(area) - 2 * wire.HALF_BYTES), len(area) - count)
                self._heard += area[begin : begin + count]
                self._child.socket.send(wire.ACKNOWLEDGED)
            case "done":
                return _Heard(self._sound())
            case _:
                raise _Lies
        return None

    def _sound(self) -> Sound | None:
        if self._about is None:
            return None
        rate, channels, starts_at = self._about
        if len(self._heard) % (2 * channels):
            raise _Lies
        samples = np.frombuffer(bytes(self._heard), "<i2").astype(np.int16, copy=False).reshape(-1, channels)
        return Sound(samples=samples, rate_hz=rate, starts_at=starts_at)


class _Naming(_Exchange[tuple[str, ...]]):
    """A digest for every frame that a player shows."""

    do = "digests"

    def __init__(self, child: _Child, data: bytes, form: Format, plan: DecodePlan) -> None:
        super().__init__(child, data, form, plan)
        self._digests: list[str] = []

    async def _told(self, message: dict[str, Any]) -> tuple[str, ...] | None:
        match message.get("t"):
            case "digests":
                digests = message.get("digests")
                if not isinstance(digests, list) or len(self._digests) + len(digests) > self._most_frames:
                    raise _Lies
                self._digests += map(_digest, digests)
                return None
            case "done":
                if self._facts(message).frames != len(self._digests):
                    raise _Lies
                return tuple(self._digests)
            case _:
                raise _Lies


class _Film(_Exchange[bool]):
    """Frames one after the other, each put together from rows as a picture is. Nothing is read ahead: the child waits."""

    do = "film"

    def __init__(self, child: _Child, data: bytes, form: Format, plan: DecodePlan, first: int) -> None:
        super().__init__(child, data, form, plan)
        self.is_over = False
        self._next = first
        self._facts_told: FilmFacts | None = None
        self._frame: tuple[int, int, Pixels] | None = None
        self._filled = 0

    @property
    def facts(self) -> FilmFacts:
        """What a player shows; known once it has begun."""
        if self._facts_told is None:
            raise DecoderUnavailable("the film has not begun")
        return self._facts_told

    async def begin(self) -> None:
        """Ask, and wait until it is known what comes. Raises as `run` does."""
        async with self._believing():
            await self._ask()
            message = _parsed(await self._receive())
            if message.get("t") == "refused":
                raise self._refusal(message)
            if message.get("t") != "film":
                raise _Lies
            facts = self._facts(message)
            base, rate = _fraction(message.get("time_base")), _fraction(message.get("frame_rate"))
            if base <= 0 or rate <= 0 or type(message.get("has_sound")) is not bool:
                raise _Lies
            self._facts_told = FilmFacts(
                facts=facts,
                time_base=base,
                frame_rate=rate,
                start=_integer(message.get("start"), -(1 << 62), 1 << 62),
                duration=_integer(message.get("duration"), 1, 1 << 62),
                frames=facts.frames,
                has_sound=message["has_sound"],
            )

    async def __aiter__(self) -> AsyncIterator[FilmFrame]:
        """The frames from the first one asked for on. Raises MediaRefused, DecoderUnavailable."""
        while not self.is_over:
            async with self._believing():
                frame = await self._frame_or_end()
            if frame is not None:
                yield frame

    async def _frame_or_end(self) -> FilmFrame | None:
        while True:
            message = _parsed(await self._receive())
            match message.get("t"):
                case "refused":
                    raise self._refusal(message)
                case "frame":
                    self._begin_frame(message)
                case "rows":
                    frame = self._fill(message)
                    if frame is not None:
                        return frame
                case "done":
                    if self._frame is not None or self._next != self.facts.frames:
                        raise _Lies
                    self.is_over = True
                    return None
                case _:
                    raise _Lies

    async def _told(self, message: dict[str, Any]) -> bool | None:
        raise NotImplementedError  # it is not run but iterated over

    def _begin_frame(self, message: dict[str, Any]) -> None:
        about = self.facts.facts
        if self._frame is not None:
            raise _Lies
        _integer(message.get("index"), self._next, min(self._next, self.facts.frames - 1))
        pts, duration = _integer(message.get("pts"), -(1 << 62), 1 << 62), _integer(message.get("duration"), 0, 1 << 62)
        pixels = np.empty((about.height, about.width, 3), np.uint8)
        self._frame, self._filled = (pts, duration, pixels), 0

    def _fill(self, message: dict[str, Any]) -> FilmFrame | None:
        if self._frame is None:
            raise _Lies
        pts, duration, pixels = self._frame
        self._filled += self.copy_rows(message, pixels, self._filled)
        if self._filled < len(pixels):
            return None
        pixels.flags.writeable = False
        index, self._next, self._frame = self._next, self._next + 1, None
        return FilmFrame(index=index, pts=pts, duration=duration, pixels=pixels)

    def _further(self) -> dict[str, Any]:
        return {"first": self._next}


@cache
def _av_version() -> str:
    """Of the installed PyAV; finding it reads a file, and it is asked several times for each picture."""
    return version("av")


def _facts_in(message: dict[str, Any]) -> dict[str, Any]:
    told = message.get("facts")
    if not isinstance(told, dict):
        raise _Lies
    return told


def _fraction(value: Any) -> Fraction:
    if not isinstance(value, list) or len(value) != 2:
        raise _Lies
    return Fraction(_integer(value[0], -(1 << 62), 1 << 62), _integer(value[1], 1, 1 << 62))


def _sealed(data: bytes) -> int:
    """A memory file of these bytes that nobody can change any more; to be closed by the caller."""
    memory = os.memfd_create("facegate-video", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memory, view) :]
        fcntl.fcntl(memory, _F_ADD_SEALS, _F_SEALS | _F_SEAL_WRITE)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise _Lies
    return f"sha256:{value}"


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _Lies
    return value


def _parsed(message: bytes) -> dict[str, Any]:
    if not message:
        raise ConnectionResetError
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise _Lies from error
    if not isinstance(parsed, dict):
        raise _Lies
    return parsed


def _spawn(control: int, memory: int, settings: str, *, videos: bool) -> int:
    """Start the child with nothing but two descriptors. Raises OSError."""
    if not sys.executable:
        raise OSError("no Python interpreter is known")
    # Dup first: the targets must not be among the sources.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in (control, memory)]
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _BOOT, "\n".join(_search_path("av" if videos else "PIL")), settings, "facegate-decode"],
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high[0], wire.SOCKET_FD),
                (os.POSIX_SPAWN_DUP2, high[1], wire.MAP_FD),
            ],
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGXCPU, signal.SIGPIPE],
        )
    finally:
        for fd in high:
            os.close(fd)


def _search_path(*packages: str) -> list[str]:
    """Where a child finds this package and what it decodes with; found here, because it runs without site-packages."""
    found = [str(Path(__file__).parents[3])]
    for name in dict.fromkeys(("PIL", *packages)):
        package = importlib.util.find_spec(name)
        if package is None or package.origin is None:
            raise OSError(f"{name} is not installed")
        found.append(str(Path(package.origin).parents[1]))
    return list(dict.fromkeys(found))
