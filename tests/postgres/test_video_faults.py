"""A worker dies at any step of a video, is cancelled or comes back too late: the same file in the end, made on from the last segment."""

from __future__ import annotations

import asyncio
import threading
from fractions import Fraction

import pytest

from deployments import heeding, video_steps
from moderation.ports import Claim
from moderation.transform import PartKind, State
from tests.faults.invariants import take
from tests.gate_kit import Yard, face, in_yard, states
from tests.postgres.test_transform_faults import ALL_EFFECTS, UNRELEASED, WAY, Course, dies_after, sweep
from tests.video_kit import Changing, as_it_is, drifting_clip, marking

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

FRAMES = 12
SEGMENT_S = Fraction(1, 4)
"""Seven frames, and then five."""

FILMED = Course(accept=lambda yard: yard.accept(face("ada"), drifting_clip(FRAMES)), events=[*WAY, State.RELEASED])
MARKED_LATE = Course(accept=FILMED.accept, events=[State.QUEUED, State.SCREENING, State.TRANSFORMING, State.DENIED])


def short(yard: Yard) -> Yard:
    yard.segment_s = SEGMENT_S
    return yard


def test_a_video_is_the_same_wherever_its_worker_dies_and_is_made_on_from_its_last_segment(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        short(yard).swaps = as_it_is()
        assert await sweep(yard, FILMED, dies_after) == ALL_EFFECTS
        parts = (await take(yard.database, yard.tenant, yard.folder / "media")).rows["part"]
        files = {part["sha256"] for part in parts if part["kind"] == "encoded"}
        assert len(files) == 1, "an interruption changes no byte"

    in_yard(database, tmp_path, scenario)


def test_a_video_with_a_marked_frame_is_never_released_wherever_its_worker_dies(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        short(yard).swaps = marking(FRAMES - 1)
        assert await sweep(yard, MARKED_LATE, dies_after) == UNRELEASED
        assert not (yard.folder / "media" / "released").exists()

    in_yard(database, tmp_path, scenario)


def test_a_cancel_is_heard_in_the_midst_of_a_segment(database, tmp_path, monkeypatch):
    monkeypatch.setattr(video_steps, "PROGRESS_EVERY_S", 0.0)

    async def scenario(yard: Yard) -> None:
        reached, go_on, last = threading.Event(), threading.Event(), [0]

        def change(number, frame):
            last[0] = number
            if number == 5:
                reached.set()
                assert go_on.wait(30)
            return frame

        yard.swaps = Changing(change=change, delay=0)
        id = await yard.accept(face("ada"), drifting_clip(60))
        work = asyncio.create_task(yard.worker().run_once())
        assert await asyncio.to_thread(reached.wait, 30)
        await yard.log.request_cancel(yard.tenant, id, "key")
        go_on.set()
        await asyncio.wait_for(work, 30)
        done = await yard.load(id)
        assert states(done) == [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.CANCELLED]
        assert done.parts == ()
        assert last[0] < 8, "not made on to the end of the segment"

    in_yard(database, tmp_path, scenario)


class Stuck:
    """A signer that never comes to an end."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def sign(self, data: bytes, claim: Claim) -> bytes:  # noqa: ARG002
        self.reached.set()
        await asyncio.Event().wait()
        raise AssertionError


def test_a_cancel_is_heard_in_a_step_that_looks_for_none(database, tmp_path, monkeypatch):
    monkeypatch.setattr(heeding, "EVERY_S", 0.05)

    async def scenario(yard: Yard) -> None:
        signer = Stuck()
        id = await yard.accept(face("ada"), face("bo"))
        work = asyncio.create_task(yard.worker(signer=signer).run_once())
        await asyncio.wait_for(signer.reached.wait(), 60)
        await yard.log.request_cancel(yard.tenant, id, "key")
        await asyncio.wait_for(work, 30)
        assert (await yard.load(id)).state is State.CANCELLED

    in_yard(database, tmp_path, scenario)


def test_how_far_a_video_is_can_be_read_while_it_is_made(database, tmp_path, monkeypatch):
    monkeypatch.setattr(video_steps, "PROGRESS_EVERY_S", 0.0)

    async def scenario(yard: Yard) -> None:
        said = []

        class Saying:
            def __getattr__(self, name):
                return getattr(yard.log, name)

            async def note_progress(self, job, progress):
                await yard.log.note_progress(job, progress)
                said.append((await yard.load(job.id)).progress)

        short(yard).swaps = as_it_is()
        yard.transforms = Saying()
        done = await yard.swap(face("ada"), drifting_clip(FRAMES))
        assert done.part(PartKind.SIGNED) is not None
        assert [(one.done, one.total) for one in said] == [(number, FRAMES) for number in range(1, FRAMES + 1)]
        assert said[-1].eta_s == 0
        assert done.progress is None

    in_yard(database, tmp_path, scenario)
