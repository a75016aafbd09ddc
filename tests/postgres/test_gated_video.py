"""A video through the gate, on the real thing: decode children, encoder, Postgres, credentials; only the swap is a test's own."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import accumulate, islice
from typing import Any
from uuid import UUID

import av
import encypher_c2pa
import httpx
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from deployments.client import Client
from deployments.policy_file import shipped_policy
from deployments.transform_command import RELEASED, transform_files
from deployments.video_rendering import FaceSwaps, VideoRenderer
from face_pipeline.classical import ClassicalSwapper
from moderation.adapters.provenance import load_or_make_identity, read_credentials
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.adapters.reports.reader import PostgresReports
from moderation.decision import Verdict
from moderation.frames import DecodePlan, Limits, film_digest, joined_digest
from moderation.media import Stage
from moderation.ports import Claim
from moderation.reports import read_parameters
from moderation.transform import Options, PartKind, State
from tests.faults.marked_frames import STREAMED, run, served
from tests.gate_kit import Yard, cascade, face, in_yard, jpeg, states, yard
from tests.transform_kit import form
from tests.video_corpus import with_edit_list
from tests.video_kit import SIDE, Changing, as_it_is, clip, drifting, drifting_clip, marking

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
        # What is handed out, decoded once more here and cut where the segments end, is what the decisions were made on.
        frames = iter(await yard.decoder.digests(data, DecodePlan(specs=())))
        runs = [film_digest(islice(frames, part.span.frames)) for part in done.segments]
        judged = {one.media.sha256: one.media.facts.frame_digest for one in done.decisions if one.stage is Stage.OUTPUT}
        assert runs == [judged[part.sha256] for part in done.segments]
        assert joined_digest(runs) == signed.frame_digest == judged[encoded.sha256] == whole.media.facts.frame_digest
        assert (whole.media.facts.frames_declared, whole.media.facts.duration_us) == (60, 2_400_000)
        trust = load_or_make_identity(tmp_path / "c2pa").anchor
        assert read_credentials(data, "video/mp4", anchors=trust).state == "Trusted"
        theirs = encypher_c2pa.verify(data, "video/mp4", trust_pem=trust.decode(), no_default_trust=True, telemetry=False, online=False)
        assert theirs["validation_state"] == "Trusted", theirs
        with av.open(io.BytesIO(data)) as file:
            assert [stream.type for stream in file.streams] == ["video", "audio"]
            assert len(list(file.decode(video=0))) == 60
            assert file.duration == pytest.approx(60 / 25 * 1_000_000, abs=30_000)

    in_yard(database, tmp_path, scenario)


def test_an_animation_goes_the_same_way_and_each_of_its_frames_keeps_its_time(database, tmp_path):
    lasts = [Fraction(1, 30), Fraction(1, 24), Fraction(1), Fraction(7, 1000), Fraction(1, 2), Fraction(3, 10)]

    async def scenario(yard: Yard) -> None:
        out = io.BytesIO()
        frames = [Image.fromarray(frame) for frame in drifting(len(lasts))]
        frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], duration=[float(1000 * seconds) for seconds in lasts])
        await yard.publish(replace(yard.policy, audio="drop"))  # it has no sound that would have to go
        done = await yard.swap(face("ada"), out.getvalue(), options=Options(format="mp4"))
        assert states(done) == WAY, done.events[-1]
        assert [part.span.frames for part in done.segments] == [3, 2, 1]
        with av.open(io.BytesIO(await yard.served(done))) as file:
            assert [stream.type for stream in file.streams] == ["video"]
            shown = list(file.decode(video=0))
        assert [frame.pts * frame.time_base for frame in shown] == list(accumulate(lasts[:-1], initial=Fraction(0)))
        assert shown[-1].duration * shown[-1].time_base == lasts[-1]

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


def test_a_source_that_can_be_screened_and_not_be_worked_on_fails_at_once_and_for_good(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        out = io.BytesIO()
        frames = [Image.fromarray(np.roll(face("ada"), number, axis=1)) for number in range(2)]
        frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100)
        done = await yard.swap(out.getvalue(), drifting_clip(16))
        assert states(done) == [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.FAILED]
        failure = done.events[-1].failure
        assert (failure.code, failure.retryable) == ("still_picture_required", False)

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


def test_a_video_with_several_frames_to_look_at_waits_once_for_a_person(database, tmp_path):
    async def scenario(yard: Yard) -> None:
        yard.swaps = marking(3, 30)
        held = await yard.swap(face("ada"), drifting_clip(40))
        assert held.state is State.HELD
        whole = held.decisions[-1]
        assert (held.events[-1].held.decision, whole.media.sha256) == (whole.id, held.part(PartKind.ENCODED).sha256)
        pieces = [one.verdict for one in held.decisions if one.media.sha256 in {part.sha256 for part in held.segments}]
        assert pieces == [Verdict.REVIEW, Verdict.ALLOW, Verdict.REVIEW, Verdict.ALLOW]
        assert [one.id for one in await yard.reviews.waiting(yard.tenant, before=None, limit=9)] == [whole.id]
        await yard.review(held, Stage.OUTPUT, Verdict.ALLOW)
        done = await yard.finish(held.transform.id)
        assert states(done) == [*WAY[:-1], State.HELD, State.RELEASED]
        assert await yard.served(done) is not None
        day = timedelta(days=1)
        bounds = {"from": (datetime.now(UTC) - day).isoformat(), "to": (datetime.now(UTC) + day).isoformat()}
        asked = read_parameters(STATEMENTS["released_without_checks"].report, bounds, datetime.now(UTC))
        reports = PostgresReports(yard.database)
        assert dict(await reports.totals("released_without_checks", yard.tenant, asked)) == {"missing": 0, "releases": 1}

    marker = shipped_policy("marker")
    rules = tuple(
        replace(rule, block_at=None, review_at=rule.block_at) if rule.category == "test.marker" else rule for rule in marker.rules
    )
    in_yard(database, tmp_path, scenario, policy=replace(marker, rules=rules))


def test_a_marked_frame_reaches_no_client_in_five_random_runs_with_deaths(database, tmp_path):
    """`make faults` does two hundred."""
    with served(database, tmp_path) as (parts, server):
        ends = asyncio.run(run(database, tmp_path, parts, server, runs=5, seed=20261127))
    assert set(ends) == {State.DENIED, State.RELEASED}


class Pipe(io.RawIOBase):
    """What comes over HTTP, as a file that is read from its beginning and only as far as it has come."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._left = self._left or next(self._chunks, b"")
        found, self._left = (self._left, b"") if size < 0 else (self._left[:size], self._left[size:])
        return found


def test_a_player_shows_the_first_segment_while_the_last_one_is_being_made(database, tmp_path):
    shown = threading.Event()

    def change(number, frame):
        if number >= 20:
            assert shown.wait(60), "nobody is shown anything before the end"
        return frame

    async def make(yard: Yard, id: UUID) -> None:
        await yard.worker().run_once()
        assert (await yard.load(id)).state is State.RELEASED

    def play(url: str, key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
            assert answer.status_code == 200
            with av.open(Pipe(answer.iter_raw()), "r", format="mp4", options={"probesize": "2048", "analyzeduration": "1"}) as file:
                frames = 0
                for _ in file.decode(video=0):
                    frames += 1
                    shown.set()
                return frames

    with served(database, tmp_path, max_wait_s=30.0) as (parts, server):

        async def main() -> int:
            async with yard(database, tmp_path, policy=STREAMED, tenant=parts.made.key.tenant) as here:
                here.swaps = Changing(change=change, delay=0)
                id = await here.accept(face("ada"), drifting_clip(30))
                making = asyncio.create_task(make(here, id))
                frames = await asyncio.to_thread(play, f"{server.url}/v1/transforms/trf_{id.hex}/stream", parts.made.text)
                await making
                return frames

        assert asyncio.run(main()) == 30


def test_a_clip_with_sound_goes_through_the_command_line_and_plays(database, tmp_path):
    """Whoever plays it decodes all of it, pictures and sound, to the end."""
    source, target, output = tmp_path / "me.jpg", tmp_path / "clip.mp4", tmp_path / "result.mp4"
    source.write_bytes(jpeg(face("ada")))
    target.write_bytes(drifting_clip(30))
    said = io.StringIO()
    options = {"consent": {"basis": "self"}, "policy": "marker"}

    def ask(url: str, key: str) -> int:
        with Client(url, key) as client:
            out, progress = Console(file=said, width=200), Console(file=io.StringIO())
            return transform_files(client, source, target, output, options, as_json=False, out=out, progress=progress)

    with served(database, tmp_path) as (parts, server):

        async def main() -> int:
            async with yard(database, tmp_path, policy=STREAMED, tenant=parts.made.key.tenant) as here:
                asking = asyncio.create_task(asyncio.to_thread(ask, server.url, parts.made.text))
                for _ in range(600):
                    if await here.worker().run_once():
                        break
                    await asyncio.sleep(0.05)
                return await asking

        assert asyncio.run(main()) == RELEASED
    assert "1.20 s" in said.getvalue()
    assert f"saved as {output}" in said.getvalue()
    with av.open(str(output)) as file:
        pictures, sound = file.streams.video[0], file.streams.audio[0]
        assert (pictures.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        lasts: dict[str, Fraction] = {}
        for frame in file.decode(pictures, sound):
            ends = frame.pts * frame.time_base + (Fraction(frame.samples, frame.sample_rate) if isinstance(frame, av.AudioFrame) else 0)
            lasts[type(frame).__name__] = ends
    assert lasts["VideoFrame"] == Fraction(29, 25)
    assert lasts["AudioFrame"] == pytest.approx(1.2, abs=0.03)


class Rejoining(VideoRenderer):
    """Joins the segments in another order, or leaves one out."""

    def __init__(self, order: Callable[[list[bytes]], list[bytes]], **parts: Any) -> None:
        super().__init__(**parts)
        self._order = order

    async def join(self, segments: Sequence[bytes], heads: Sequence[int]) -> bytes:
        return await super().join(self._order(list(segments)), heads[: len(self._order(list(segments)))])


class Mixing:
    """A signer that signs something else."""

    def __init__(self, signer: Any, other: Callable[[bytes], bytes]) -> None:
        self._signer = signer
        self._other = other

    async def sign(self, data: bytes, claim: Claim) -> bytes:
        return await self._signer.sign(self._other(data), claim)


@pytest.mark.parametrize("order", [lambda all_: all_[::-1], lambda all_: all_[:-1]], ids=["another order", "one left out"])
def test_a_joined_file_that_shows_anything_else_than_what_was_screened_is_not_even_named(database, tmp_path, order):
    async def scenario(yard: Yard) -> None:
        parts = {"films": yard.decoder, "pictures": yard.decoder, "swaps": as_it_is(), "limits": Limits(), "segment_s": Fraction(1, 5)}
        id = await yard.accept(face("ada"), drifting_clip(15))
        await yard.worker(videos=Rejoining(order, **parts)).run_once()
        now = await yard.load(id)
        assert len(now.segments) == 3
        assert now.part(PartKind.ENCODED) is None
        assert now.release is None
        assert (await yard.finish(id)).state is State.RELEASED, "and is made anew by a worker that joins as it should"

    in_yard(database, tmp_path, scenario)


@pytest.mark.parametrize(
    "other",
    [
        lambda _: clip(drifting(10, seed=5)),
        lambda made: with_edit_list(made, (360, 512)),
        lambda made: with_edit_list(made, (200, 0), (200, 0)),
    ],
    ids=["another video", "a frame less", "half of it twice"],
)
def test_a_signed_file_that_shows_anything_else_than_what_was_screened_is_not_even_named(database, tmp_path, other):
    async def scenario(yard: Yard) -> None:
        id = await yard.accept(face("ada"), drifting_clip(10))
        await yard.worker(signer=Mixing(yard.signer, other)).run_once()
        now = await yard.load(id)
        assert now.part(PartKind.ENCODED) is not None
        assert now.part(PartKind.SIGNED) is None
        assert now.release is None
        assert (await yard.finish(id)).state is State.RELEASED, "and is signed by a worker that signs what it is given"

    in_yard(database, tmp_path, scenario, policy=replace(shipped_policy("marker"), audio="drop"))


def test_a_result_may_have_more_bytes_than_an_upload(database, tmp_path):
    target = clip([np.full((SIDE, SIDE, 3), 90, np.uint8)] * 20, with_sound=False)
    policy = shipped_policy("marker")
    policy = replace(policy, limits=replace(policy.limits, video_bytes=len(target)))

    async def scenario(yard: Yard) -> None:
        yard.swaps = Changing(change=lambda number, _: drifting(20)[number])
        done = await yard.swap(face("ada"), target)
        assert states(done) == WAY, done.events[-1]
        assert all(part.size > len(target) for part in done.parts)

    in_yard(database, tmp_path, scenario, policy=policy)


def test_a_video_is_asked_for_over_http_and_its_file_fetched_in_ranges(database, tmp_path):
    with served(database, tmp_path) as (parts, server):
        headers = {"authorization": f"Bearer {parts.made.text}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
            answer = client.post("/v1/transforms", **form(jpeg(face("ada")), drifting_clip(20), policy="marker"))
            assert answer.status_code == 202, answer.text

            async def work() -> None:
                async with yard(database, tmp_path, policy=STREAMED, tenant=parts.made.key.tenant) as here:
                    assert await here.worker().run_once()

            asyncio.run(work())
            path = f"/v1/transforms/{answer.json()['id']}"
            release = client.get(path).json()["release"]
            assert (release["type"], release["duration_s"], release["width"]) == ("video/mp4", 0.8, SIDE)
            whole = client.get(f"{path}/output")
            assert whole.headers["content-type"] == "video/mp4"
            assert whole.headers["content-disposition"].endswith('.mp4"')
            part = client.get(f"{path}/output", headers={"range": "bytes=100-199"})
            assert (part.status_code, part.content) == (206, whole.content[100:200])
            assert len(whole.content) == release["bytes"]
            assert client.get(f"{path}/stream").status_code == 403, "the policy that it was accepted under shows nothing before the release"
