"""A video through the gate, on the real thing: decode children, encoder, Postgres, credentials; only the swap is a test's own."""

from __future__ import annotations

import asyncio

import pytest

from moderation.media import Stage
from moderation.transform import PartKind, State
from tests.faults.marked_frames import run, served
from tests.gate_kit import Yard, face, in_yard, states
from tests.video_kit import drifting_clip, marking

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

WAY = [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT, State.RELEASED]


def test_a_video_is_made_screened_joined_signed_and_released(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        done = await yard.swap(face("ada"), drifting_clip(60))
        assert states(done) == WAY, done.events[-1]
        assert [part.span.frames for part in done.segments] == [13, 13, 13, 13, 8]
        encoded, signed = done.part(PartKind.ENCODED), done.part(PartKind.SIGNED)
        assert (signed.made_of, signed.frame_digest) == (encoded.sha256, encoded.frame_digest)
        whole = next(one for one in done.decisions if one.id == done.release.decisions[Stage.OUTPUT])
        assert [len(sheet.frames) for sheet in whole.sheets] == [60]
        assert await yard.served(done) is not None

    in_yard(database, tmp_path, scenario)


def test_a_marked_frame_of_an_output_denies_it_before_the_next_segment_is_made(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.swaps = marking(30)
        done = await yard.swap(face("ada"), drifting_clip(60))
        assert done.state is State.DENIED
        assert len(done.segments) == 3
        assert done.events[-1].denial.stage is Stage.OUTPUT
        assert await yard.served(done) is None

    in_yard(database, tmp_path, scenario)


def test_a_marked_frame_reaches_no_client_in_five_random_runs_with_deaths(database, tmp_path):
    """`make faults` does two hundred."""
    with served(database, tmp_path) as (parts, server):
        ends = asyncio.run(run(database, tmp_path, parts, server, runs=5, seed=20261127))
    assert set(ends) == {State.DENIED, State.RELEASED}
