"""The gate's steps for a video, done: a segment made, a segment screened, all joined, the whole judged on what its segments showed.

As everywhere, bytes are stored before the row that names them is committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from deployments.rendering import refusals_final
from deployments.video_rendering import Joined, Made, Making, Studio, VideoRenderer
from face_pipeline.movie import MEDIA_TYPE
from moderation.decision import Decision
from moderation.errors import CannotJudge, FactsChanged, Refusal
from moderation.gate import Facts
from moderation.media import sha256_of
from moderation.policy import Policy
from moderation.ports import Job, TransformLog
from moderation.transform import Committed, Part, PartKind, Progress, Span, State

PROGRESS_EVERY_S: Final = 1.0

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
    """Steps 7 of a video and what step 8 needs. `load` and `store` are those of the quarantine."""

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

    async def assemble(self, committed: Committed, facts: Facts, desk: Desk, job: Job) -> Part:
        """Step 7 for the whole: join all segments, and look whether that shows what was screened."""
        await self._log.advance(job, State.SCREENING_OUTPUT)
        segments = committed.segments
        data = await self._renderer.join(
            [await self._load(committed, part.sha256) for part in segments], [span_of(part).head for part in segments]
        )
        sha256 = await asyncio.to_thread(sha256_of, data)
        with refusals_final(_BEYOND):
            joined = await self._renderer.seen(data, [span_of(part).frames for part in segments])
        screened = tuple(decision.media.facts and decision.media.facts.frame_digest for decision in pieces_of(committed, facts))
        if joined.digests != screened:
            raise CannotJudge("the joined file does not show the frames that were screened")
        desk.joined = sha256, joined
        first = segments[0]
        part = Part(
            kind=PartKind.ENCODED,
            sha256=sha256,
            size=len(data),
            type=MEDIA_TYPE,
            width=first.width,
            height=first.height,
            frame_digest=joined.facts.frame_digest,
            swapper=first.swapper,
            is_trained=any(part.is_trained for part in segments),
            faces_changed=max(part.faces_changed for part in segments),
            faces_skipped=max(part.faces_skipped for part in segments),
        )
        await self._store(committed, sha256, data)
        await self._log.add_part(job, part)
        return part

    async def seen(self, committed: Committed, part: Part, data: bytes, desk: Desk) -> Joined:
        """What a player shows of one of our whole files. Raises CannotJudge where that is not what `part` says."""
        if desk.joined is not None and desk.joined[0] == part.sha256:
            return desk.joined[1]
        joined = await self._renderer.seen(data, [span_of(one).frames for one in committed.segments])
        if joined.facts.frame_digest != part.frame_digest:
            raise CannotJudge("the file does not show the frames that were screened")
        return joined


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
