"""A video through the gate, on the real thing: decode children, encoder, Postgres, credentials; only the swap is a test's own."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace

import av
import encypher_c2pa
import numpy as np
import pytest

from deployments.policy_file import shipped_policy
from deployments.video_rendering import FaceSwaps
from face_pipeline.classical import ClassicalSwapper
from moderation.adapters.provenance import load_or_make_identity, read_credentials
from moderation.media import Stage
from moderation.transform import PartKind, State
from tests.faults.marked_frames import run, served
from tests.gate_kit import Yard, cascade, face, in_yard, states
from tests.video_kit import clip, drifting_clip, marking

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
        data = await yard.served(done)
        trust = load_or_make_identity(tmp_path / "c2pa").anchor
        assert read_credentials(data, "video/mp4", anchors=trust).state == "Trusted"
        theirs = encypher_c2pa.verify(data, "video/mp4", trust_pem=trust.decode(), no_default_trust=True, telemetry=False, online=False)
        assert theirs["validation_state"] == "Trusted", theirs
        with av.open(io.BytesIO(data)) as file:
            assert [stream.type for stream in file.streams] == ["video", "audio"]
            assert sum(1 for _ in file.decode(video=0)) == 60
            assert file.duration == pytest.approx(60 / 25 * 1_000_000, abs=30_000)

    in_yard(database, tmp_path, scenario)


def test_a_policy_may_drop_the_sound(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        done = await yard.swap(face("ada"), drifting_clip(20))
        with av.open(io.BytesIO(await yard.served(done))) as file:
            assert [stream.type for stream in file.streams] == ["video"]

    in_yard(database, tmp_path, scenario, policy=replace(shipped_policy("marker"), audio="drop"))


def test_a_real_swap_of_a_drawn_head_goes_all_the_way(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.swaps = FaceSwaps(detector=cascade(), swapper=ClassicalSwapper())
        head = face("bo")
        done = await yard.swap(face("ada"), clip([np.roll(head, number, axis=1) for number in range(16)]))
        assert states(done) == WAY, done.events[-1]
        assert done.part(PartKind.ENCODED).faces_changed == 1
        assert done.part(PartKind.ENCODED).swapper.startswith("classical")

    in_yard(database, tmp_path, scenario)


def test_a_video_without_a_face_fails_and_says_so(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.swaps = FaceSwaps(detector=cascade(), swapper=ClassicalSwapper())
        done = await yard.swap(face("ada"), drifting_clip(16))
        assert (done.state, done.events[-1].failure.code) == (State.FAILED, "no_face")

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
