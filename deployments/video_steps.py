"""The gate's steps for a video, done: a segment made, all segments joined, the whole judged on what they showed, the signed file looked at.

As everywhere, bytes are stored before the row that names them is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import UUID

from deployments.rendering import refusals_final
from deployments.video_rendering import Made, Making, Studio, VideoRenderer
from face_pipeline.movie import MEDIA_TYPE
from moderation.decision import Decision
from moderation.errors import CannotJudge, FactsChanged, Refusal
from moderation.frames import Picture, joined_digest
from moderation.gate import Again, Facts
from moderation.media import Facts as MediaFacts
from moderation.media import Stage, sha256_of
from moderation.policy import Policy
from moderation.ports import Job, TransformLog
from moderation.transform import Committed, Part, PartKind, Progress, Span, State

PROGRESS_EVERY_S: Final = 1.0
AT_HAND_BYTES: Final = 1 << 24
"""Of one file; a transform of pictures has four."""

_BEYOND: Final = frozenset({Refusal.PAYLOAD_TOO_LARGE, Refusal.TOO_LONG, Refusal.TOO_MANY_FRAMES, Refusal.DIMENSIONS_TOO_LARGE})
"""Why a whole file of ours is refused because of what it was made of; anything else about it is a fault of ours."""

Load = Callable[[Committed, str], Awaitable[bytes]]
"""The bytes of one of our own files by their SHA-256."""
Store = Callable[[Committed, str, bytes], Awaitable[None]]


class Desk(Studio):
    """What a worker has at hand for one transform: what is open of it, and when it last said how far it is."""

    def __init__(self, log: TransformLog, job: Job) -> None:
        super().__init__()
        self._log = log
        self._job = job
        self._began: tuple[float, int] | None = None
        self._said_at = -PROGRESS_EVERY_S
        self.head: bytes | None = None
        """The beginning that all segments share, once it was seen."""
        self._files: dict[str, bytes] = {}
        self.pictures: dict[Stage, Picture] = {}
        """Source and target as they were decoded for their screening, until they are worked on."""
        self.again = Again()
        """How its decisions are decided again."""

    async def file(self, sha256: str, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """The bytes of this name: those at hand, or what `read` gives, which is kept at hand."""
        data = self._files.get(sha256)
        if data is None:
            data = await read()
            self.keep(sha256, data)
        return data

    def keep(self, sha256: str, data: bytes) -> None:
        """Have bytes at hand that are stored under this name; not those of a video."""
        if len(data) <= AT_HAND_BYTES:
            self._files[sha256] = data

    async def tell(self, done: int, total: int) -> None:
        """Say how far it is, at most once a second. Raises FactsChanged where somebody asked for the end, StaleLease."""
        now = time.monotonic()
        began_at, began_with = self._began = self._began or (now, done - 1)
        if now - self._said_at < PROGRESS_EVERY_S:
            return
        self._said_at = now
        left_s = (now - began_at) / (done - began_with) * max(0, total - done)
        progress = Progress(done=done, total=max(done, total), eta_s=round(left_s) if now > began_at else None)
        await self._log.note_progress(self._job, progress)


class VideoSteps:
    """Step 7 of a video and what steps 8 and 9 need. `load` and `store` are those of the quarantine."""

    def __init__(self, *, log: TransformLog, renderer: VideoRenderer, load: Load, store: Store) -> None:
        self._log = log
        self._renderer = renderer
        self._load = load
        self._store = store

    async def produce(
        self, number: int, committed: Committed, inputs: Callable[[], Awaitable[tuple[bytes, bytes]]], pinned: Policy, desk: Desk, job: Job
    ) -> Part:
        """Step 7 for one segment."""
        await self._log.advance(job, State.TRANSFORMING)

        @asynccontextmanager
        async def begin() -> AsyncIterator[Making]:
            source, target = await inputs()
            options, keeps_sound = committed.transform.options, pinned.audio == "keep"
            async with self._renderer.making(source, target, options, keeps_sound=keeps_sound, after=committed.segments) as making:
                yield making

        with refusals_final():
            made = await desk.segment(number, begin, desk.tell)
        if made.head != await self._head(committed, made, desk):
            raise CannotJudge("the segment does not belong to those before it")
        data = made.head + made.media
        part = _segment(number, made, data)
        await self._store(committed, part.sha256, data)
        await self._log.add_part(job, part)
        return part

    async def _head(self, committed: Committed, made: Made, desk: Desk) -> bytes:
        """With what all segments begin: as the first one does."""
        if desk.head is None and committed.segments:
            first = committed.segments[0]
            desk.head = (await self._load(committed, first.sha256))[: span_of(first).head]
        desk.head = desk.head or made.head
        return desk.head

    async def assemble(self, committed: Committed, facts: Facts, job: Job) -> Part:
        """Step 7 for the whole: join all segments, whose coded pictures it must hold, and no others."""
        await self._log.advance(job, State.SCREENING_OUTPUT)
        segments = committed.segments
        pieces, heads = [await self._load(committed, part.sha256) for part in segments], [span_of(part).head for part in segments]
        data = await self._renderer.join(pieces, heads)
        if not await self._renderer.holds(data, pieces, heads):
            raise CannotJudge("the joined file does not hold the pictures that were screened")
        sha256 = await asyncio.to_thread(sha256_of, data)
        joined = await self.joined(committed, facts, data)
        first = segments[0]
        part = Part(
            kind=PartKind.ENCODED,
            sha256=sha256,
            size=len(data),
            type=MEDIA_TYPE,
            width=first.width,
            height=first.height,
            frame_digest=joined.frame_digest,
            swapper=first.swapper,
            is_trained=any(part.is_trained for part in segments),
            faces_changed=max(part.faces_changed for part in segments),
            faces_skipped=max(part.faces_skipped for part in segments),
        )
        await self._store(committed, sha256, data)
        await self._log.add_part(job, part)
        return part

    async def joined(self, committed: Committed, facts: Facts, data: bytes) -> MediaFacts:
        """What is known of the joined file `data`: what its segments were seen to show, one after the other, and what it says of itself.

        Raises CannotJudge where the two do not agree, CannotTransform where it is more than may be judged.
        """
        shown = shown_by(committed, facts)
        with refusals_final(_BEYOND):
            stated = await self._renderer.stated(data)
        whole = replace(
            shown[0],
            frames=sum(one.frames for one in shown),
            frames_declared=stated.frames,
            duration_us=stated.duration_us,
            frame_digest=joined_digest(_digests(shown)),
        )
        if (stated.width, stated.height, stated.frames) != (whole.width, whole.height, whole.frames):
            raise CannotJudge("the joined file says something else than was screened")
        return whole

    async def check(self, committed: Committed, facts: Facts, part: Part, data: bytes) -> None:
        """Step 9 for a video: decode the signed file `data`, of which a player must show what was screened, frame by frame.

        Raises CannotJudge where that is not so, CannotTransform where it is more than may be judged.
        """
        with refusals_final(_BEYOND):
            digests = await self._renderer.shown(data, [span_of(one).frames for one in committed.segments])
        if digests != _digests(shown_by(committed, facts)) or joined_digest(digests) != part.frame_digest:
            raise CannotJudge("the signed file does not show the frames that were screened")


def shown_by(committed: Committed, facts: Facts) -> list[MediaFacts]:
    """What the segments were seen to show, in their order, by the decisions that let them pass.

    Raises FactsChanged where one has none, CannotJudge where one was seen with other frames than it was made of: looking again would not help.
    """
    found = [decision.media.facts for decision in pieces_of(committed, facts)]
    shown = [one for one in found if one is not None]
    if len(shown) != len(found) or [one.frames for one in shown] != [span_of(part).frames for part in committed.segments]:
        raise CannotJudge("a segment was seen with other frames than it was made of")
    return shown


def _digests(shown: Sequence[MediaFacts]) -> tuple[str, ...]:
    """What names the frames of each. Raises CannotJudge where something was not looked at whole."""
    digests = tuple(one.frame_digest for one in shown if one.frame_digest is not None)
    if len(digests) != len(shown):
        raise CannotJudge("a segment of which not every frame was screened")
    return digests


def pieces_of(committed: Committed, facts: Facts) -> list[Decision]:
    """The decisions that let the segments pass, in their order. Raises FactsChanged where one has none."""
    known: dict[UUID, Decision] = {decision.id: decision for decision in committed.decisions}
    pieces = [None if segment.judged is None else known.get(segment.judged.decision) for segment in facts.segments]
    if None in pieces or not pieces:
        raise FactsChanged("a segment without a decision")
    return [piece for piece in pieces if piece is not None]


def span_of(part: Part) -> Span:
    """Of a segment."""
    if part.span is None:
        raise FactsChanged("a segment without its place")
    return part.span


def _segment(number: int, made: Made, data: bytes) -> Part:
    return Part(
        kind=PartKind.SEGMENT,
        sha256=sha256_of(data),
        size=len(data),
        type=MEDIA_TYPE,
        width=made.width,
        height=made.height,
        frame_digest=None,
        swapper=made.swapper,
        is_trained=made.is_trained,
        faces_changed=made.faces_changed,
        faces_skipped=made.faces_skipped,
        span=Span(
            number=number, first_frame=made.first_frame, frames=made.frames, head=len(made.head), is_last=made.is_last, meant=made.meant
        ),
    )
