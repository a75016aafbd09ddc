"""Step 7 of the gate for a video: its frames through the swap into segments, one after the other, and at last all of them joined.

Frames come out of the decode child one at a time and are let go of once they are encoded, so that memory does not grow with the video.
A segment is made from the frames and from nothing that only this process knows: whoever goes on after a crash begins some frames
earlier, so that the tracks are there again, and makes the next segment that is not committed. Sound is encoded anew, the same each time.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from deployments import telemetry
from deployments.rendering import CannotTransform, choice_of, failure_of
from face_pipeline.detector import Detector
from face_pipeline.errors import FacePipelineError, FaceUnusable, Role
from face_pipeline.errors import Failure as FaceFailure
from face_pipeline.faces import Face
from face_pipeline.motion import VideoSwap
from face_pipeline.movie import MovieSpec, SegmentEncoder, Soundtrack, coded_pictures, encode_sound, join
from face_pipeline.pipeline import prepare_source
from face_pipeline.swapper import Swapper
from face_pipeline.tracks import FORGET_S
from moderation.errors import CannotJudge, MediaRefused, Refusal
from moderation.frames import OWN_VIDEO_BYTES, DecodePlan, FilmFacts, Limits, Pixels, film_digest
from moderation.media import Probe
from moderation.ports import Film, FilmDecoder, PictureDecoder
from moderation.transform import Options, Part, Span

_T = TypeVar("_T")

SEGMENT_S: Final = Fraction(2)
"""How much of a video is made, screened and committed at once: a crash costs at most this, a stream is behind by this."""

LEAD: Final = 30
"""Frames: how much of what is committed already is looked at again, so that faces are followed as if nothing had happened."""

Tell = Callable[[int, int], Awaitable[None]]
"""Told frames that are made and frames in all, while they are made. What it raises ends the making."""


class Shown(Protocol):
    """One frame that is done; see `face_pipeline.motion.Shown`."""

    @property
    def index(self) -> int:
        """Which one; they come in order."""

    @property
    def frame(self) -> Pixels:
        """RGB, of the size that it had."""

    @property
    def changed(self) -> int:
        """How many faces of it are others now."""

    @property
    def covered(self) -> int:
        """How many were meant and are covered."""

    @property
    def meant(self) -> Sequence[Face]:
        """Every face that was meant, where it is."""


class Swap(Protocol):
    """Takes frames in order and gives them back changed, some frames later; may block. See `face_pipeline.motion.VideoSwap`."""

    def push(self, index: int, time_s: float, frame: Pixels) -> Sequence[Shown]:
        """The next frame. What is done by now. Raises FacePipelineError."""

    def flush(self) -> Sequence[Shown]:
        """What is left."""

    @property
    def failure(self) -> FaceFailure | None:
        """Why no face was changed, if none was."""


class Swaps(Protocol):
    """Begins a video; may block."""

    @property
    def swapper(self) -> str:
        """Name and version."""

    @property
    def is_trained(self) -> bool:
        """Whether pixels come out of a trained network."""

    def begin(self, source: Pixels, options: Options, meant: Sequence[Face]) -> Swap:
        """With the face of this picture; `meant` are those of the first frame where the work was interrupted. Raises FaceUnusable, FacePipelineError."""


class FaceSwaps:
    """Implements `Swaps` with the real detector and swapper."""

    def __init__(self, *, detector: Detector, swapper: Swapper) -> None:
        self._detector = detector
        self._swapper = swapper

    @property
    def swapper(self) -> str:
        """See `Swaps`."""
        return f"{self._swapper.name} {self._swapper.version}"

    @property
    def is_trained(self) -> bool:
        """See `Swaps`."""
        return self._swapper.is_trained

    def begin(self, source: Pixels, options: Options, meant: Sequence[Face]) -> VideoSwap:
        """See `Swaps`."""
        face = prepare_source(source, detector=self._detector, swapper=self._swapper)
        return VideoSwap(face, detector=self._detector, swapper=self._swapper, choice=choice_of(options.faces), meant=meant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One segment: its file, and what is known of it."""

    head: bytes
    media: bytes
    first_frame: int
    frames: int
    is_last: bool
    width: int
    height: int
    swapper: str
    is_trained: bool
    faces_changed: int
    """The most in one of its frames, as is the next one."""
    faces_skipped: int
    meant: tuple[tuple[float, ...], ...]
    """See `moderation.transform.Span`."""


class VideoRenderer:
    """Makes videos and looks at them again. `swaps` is called in threads."""

    def __init__(
        self, *, films: FilmDecoder, pictures: PictureDecoder, swaps: Swaps, limits: Limits, segment_s: Fraction = SEGMENT_S
    ) -> None:
        self._films = films
        self._pictures = pictures
        self._swaps = swaps
        self._plan = DecodePlan(specs=(), limits=limits)
        self._own = replace(self._plan, own_bytes=OWN_VIDEO_BYTES)
        self._segment_s = segment_s

    @asynccontextmanager
    async def making(
        self, source: bytes, target: bytes, options: Options, *, keeps_sound: bool, after: Sequence[Part]
    ) -> AsyncIterator[Making]:
        """The video from where the committed segments `after` end. Raises CannotTransform, MediaRefused, CannotJudge, Overloaded."""
        picture = await self._pictures.picture(source, self._plan)
        spans = [part.span for part in after if part.span is not None]
        done = sum(span.frames for span in spans)
        first, before = begins_at(spans, math.ceil(FORGET_S / self._segment_s))
        swap = await _worked(self._swaps.begin, picture.pixels, options, [_face(place) for place in before])
        async with self._films.film(target, self._plan, first=first) as film:
            yield Making(
                film=film,
                swap=swap,
                swaps=self._swaps,
                track=await self._track(target, film.facts) if keeps_sound and film.facts.has_sound else None,
                options=options,
                segment_s=self._segment_s,
                after=after,
                done=done,
            )

    async def _track(self, target: bytes, facts: FilmFacts) -> Soundtrack | None:
        """The sound of the whole, encoded; None where nothing is heard while frames are shown."""
        sound = await self._films.sound(target, self._plan)
        if sound is None:
            return None
        with telemetry.step("encode_sound"):
            ends_at = (facts.start + facts.duration) * facts.time_base
            return await asyncio.to_thread(encode_sound, sound.samples, sound.rate_hz, starts_at=sound.starts_at, ends_at=ends_at)

    async def join(self, segments: Sequence[bytes], heads: Sequence[int]) -> bytes:
        """All segments as one file. Raises CannotJudge where their heads are not the same: they would not be one video."""
        media = _media(segments, heads)
        with telemetry.step("join"):
            return await asyncio.to_thread(join, segments[0][: heads[0]], media)

    async def holds(self, whole: bytes, segments: Sequence[bytes], heads: Sequence[int]) -> bool:
        """Whether the coded pictures of a joined file are those of these segments, each at its time. Raises CannotJudge as `join` does."""
        fragments = b"".join([segments[0][: heads[0]], *_media(segments, heads)])
        theirs, its = await asyncio.to_thread(lambda: (coded_pictures(fragments), coded_pictures(whole)))
        return theirs == its

    async def stated(self, data: bytes) -> Probe:
        """What a whole file of ours says about itself. Raises MediaRefused, DecoderUnavailable, Overloaded."""
        return await self._pictures.probe(data, self._own)

    async def shown(self, data: bytes, runs: Sequence[int]) -> tuple[str, ...]:
        """The digests of what runs of so many frames show of a whole file of ours, which is decoded for it.

        Raises CannotJudge where it has not exactly these frames, and as `stated` does.
        """
        with telemetry.step("look_again"):
            digests = await self._films.digests(data, self._own)
        if len(digests) != sum(runs):
            raise CannotJudge(f"{len(digests)} frames are shown, and not {sum(runs)}")
        frames = iter(digests)
        return tuple(film_digest(islice(frames, run)) for run in runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """One frame that is done, with its time in units of the film."""

    pts: int
    duration: int
    pixels: Pixels
    changed: int
    skipped: int


class Making:
    """One video being made; holds the frames that the swap holds, and one more."""

    def __init__(
        self,
        *,
        film: Film,
        swap: Swap,
        swaps: Swaps,
        track: Soundtrack | None,
        options: Options,
        segment_s: Fraction,
        after: Sequence[Part],
        done: int,
    ) -> None:
        facts = film.facts
        self.number = len(after) + 1
        """Of the next segment."""
        self._facts = facts
        self._swaps = swaps
        self._track = track
        self._segment_s = segment_s
        self._swap = swap
        self._seen: deque[tuple[int, Sequence[Face]]] = deque(maxlen=LEAD + 2)  # the next frame is known already
        self._frames = _through(film, swap, first=done, seen=self._seen)
        self._next: _Frame | None = None
        self._done = done
        self._room = OWN_VIDEO_BYTES - sum(part.size for part in after)
        self._has_changed = any(part.faces_changed for part in after)
        self._spec = MovieSpec(
            width=facts.facts.width,
            height=facts.facts.height,
            time_base=facts.time_base,
            frame_rate=facts.frame_rate,
            label=options.label_language if options.label else None,
            sound_rate_hz=None if track is None else track.rate_hz,
            sound_channels=0 if track is None else track.channels,
        )

    async def segment(self, tell: Tell) -> Made:
        """The next one.

        Raises what `VideoRenderer.making` raises, MediaRefused also where the result has more bytes than can be judged, and CannotTransform
        after the last one where no face was changed.
        """
        first_frame, changed, skipped = self._done, 0, 0
        encoder = SegmentEncoder(self._spec, number=self.number - 1, soundtrack=self._track)
        frame = self._next or await anext(self._frames, None)
        if frame is None:
            raise CannotJudge("there is no frame left to make a segment of")
        full, until = frame.pts + self._segment_s / self._facts.time_base, frame.pts
        while frame is not None and (encoder.frames == 0 or frame.pts < full):
            await asyncio.to_thread(encoder.add, frame.pixels, frame.pts)
            if encoder.size > self._room:  # before it is in memory: nobody could judge the whole
                raise MediaRefused(Refusal.PAYLOAD_TOO_LARGE, "the result")
            changed, skipped = max(changed, frame.changed), max(skipped, frame.skipped)
            until, self._done = frame.pts + max(frame.duration, 1), self._done + 1
            await tell(self._done, self._facts.frames)
            frame = await anext(self._frames, None)
        self._next = frame
        self._has_changed = self._has_changed or changed > 0
        if frame is None and not self._has_changed:
            raise CannotTransform(failure_of(FaceUnusable(self._swap.failure or FaceFailure.NOTHING_CHANGED, Role.TARGET)))
        made = await asyncio.to_thread(encoder.finish, until if frame is None else frame.pts, is_last=frame is None)
        self.number += 1
        self._room -= len(made.init) + len(made.media)
        return Made(
            head=made.init,
            media=made.media,
            first_frame=first_frame,
            frames=made.frames,
            is_last=frame is None,
            width=self._spec.coded_size[0],
            height=self._spec.coded_size[1],
            swapper=self._swaps.swapper,
            is_trained=self._swaps.is_trained,
            faces_changed=changed,
            faces_skipped=skipped,
            meant=tuple(_place(face) for index, meant in self._seen if index == self._done - LEAD for face in meant),
        )


class Studio:
    """What a worker has open of one transform from step to step. On leaving, and when a step fails, all of it is closed."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._making: Making | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def segment(self, number: int, begin: Callable[[], AbstractAsyncContextManager[Making]], tell: Tell) -> Made:
        """The segment of this number: of what is open if it has come to that, otherwise from a new beginning."""
        if self._making is None or self._making.number != number:
            await self._close()
            self._making = await self._open.enter_async_context(begin())
        try:
            made = await self._making.segment(tell)
        except BaseException:
            await self._close()
            raise
        if made.is_last:  # what was sent is not needed any more
            await self._close()
        return made

    async def _close(self) -> None:
        self._making = None
        await self._open.aclose()


async def _through(film: Film, swap: Swap, *, first: int, seen: deque[tuple[int, Sequence[Face]]]) -> AsyncIterator[_Frame]:
    """The frames from `first` on, swapped; those before it only show where the faces are. `seen` gets those that were meant, of all."""
    times: dict[int, tuple[int, int]] = {}
    base = film.facts.time_base

    def timed(done: Sequence[Shown]) -> Iterator[_Frame]:
        for one in done:
            pts, duration = times.pop(one.index)
            seen.append((one.index, one.meant))
            if one.index >= first:
                yield _Frame(pts=pts, duration=duration, pixels=one.frame, changed=one.changed, skipped=one.covered)

    async for frame in film:
        times[frame.index] = frame.pts, frame.duration
        for done in timed(await _worked(swap.push, frame.index, float(frame.pts * base), frame.pixels)):
            yield done
    for done in timed(await _worked(swap.flush)):
        yield done
    if times:
        raise CannotJudge(f"{len(times)} frames did not come back from the swap")


def _media(segments: Sequence[bytes], heads: Sequence[int]) -> list[memoryview]:
    """The segments without what stands in front of each, not copied. Raises CannotJudge where that is not the same."""
    if len({data[:head] for data, head in zip(segments, heads, strict=True)}) != 1:
        raise CannotJudge("the segments do not belong together")
    return [memoryview(data)[head:] for data, head in zip(segments, heads, strict=True)]


def begins_at(spans: Sequence[Span], most: int) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """From which frame on the frames behind committed segments are looked at again, and the faces that are meant there.

    That is `LEAD` before the last segment's end at which everybody who is meant was in sight; where that is true of none of the last
    `most`, after which who is out of sight is forgotten, it is `LEAD` before the end of all.
    """
    done = sum(span.frames for span in spans)
    end = done
    for span in reversed(spans[-most:]):
        if end <= LEAD:
            return 0, ()
        if span.meant:
            return end - LEAD, span.meant
        end -= span.frames
    return (0, ()) if end == 0 else (max(0, done - LEAD), ())


def _place(face: Face) -> tuple[float, ...]:
    """The inverse of `_face`, without an identity."""
    return (face.left, face.top, face.width, face.height, face.score, *(value for point in face.points for value in point))


def _face(place: Sequence[float]) -> Face:
    left, top, width, height, score, *points = place
    return Face(left=left, top=top, width=width, height=height, score=score, points=tuple(zip(points[::2], points[1::2], strict=True)))


async def _worked(work: Callable[..., _T], *given: object) -> _T:
    """What `work` returns, called in a thread. Raises CannotTransform on a face that cannot be used, CannotJudge on a fault."""
    try:
        return await asyncio.to_thread(work, *given)
    except FaceUnusable as unusable:
        raise CannotTransform(failure_of(unusable)) from unusable
    except FacePipelineError as fault:
        raise CannotJudge(f"{type(fault).__name__}: {fault}") from fault
