"""The rows of the table of bad inputs that are about videos, through HTTP, with the real decoder: exact status and code."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import httpx
import pytest

from deployments.http.gateway import Bounds
from deployments.screening_worker import HeldMedia, ScreeningWorker
from moderation.adapters.decode import ChildDecoder
from moderation.frames import Limits
from moderation.screening import Screener
from tests.deployments.http.test_bad_inputs import SLOWEST_S, check
from tests.http_kit import Live, Service, bearer, live
from tests.real_http import MarkerClassifier, over_fakes
from tests.video_corpus import RATE, VIDEO_CASES, Case, clip, pictures, plain_clip


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, Live]]:
    service, make = over_fakes(bounds=Bounds(picture=300_000, video=600_000, wait_s=SLOWEST_S))
    with live(make) as server:
        yield service, server


@pytest.fixture(scope="module")
def client(running: tuple[Service, Live]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running[1].url, headers=bearer(), timeout=SLOWEST_S, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("case", VIDEO_CASES, ids=lambda case: case.id)
def test_a_bad_video_gets_the_answer_of_the_table(running: tuple[Service, Live], client: httpx.Client, case: Case) -> None:
    service, _ = running
    before = len(service.log.decisions)
    answer = client.post("/v1/screenings", files={"media": ("x.mp4", case.build(), "video/mp4")})
    assert len(service.log.decisions) == before + 1
    check(answer, service, case, case.expect)


def test_all_rows_about_videos_are_there() -> None:
    assert {case.row for case in VIDEO_CASES} == set(range(58, 79))


def test_an_answer_about_a_video_says_what_was_looked_at_and_where_it_was_found(client: httpx.Client) -> None:
    data = clip(pictures(6 * RATE, range(50, 90)), options={"g": "25"}, sound=True)
    answer = client.post("/v1/screenings", content=data, headers={"content-type": "video/mp4"}).json()
    media = answer["media"]
    assert (media["kind"], media["type"], media["duration_s"]) == ("video", "video/mp4", 6.0)
    assert (media["frames_declared"], media["unscreened"]) == (150, ["audio"])
    assert 8 <= media["frames"] < 150
    assert answer["verdict"] == "block"
    (segment,) = [segment for segment in answer["segments"] if segment["category"] == "test.marker"]
    assert segment["start_s"] == 2.0  # the cut is looked at, wherever the samples lie
    assert 3.0 <= segment["end_s"] < 3.6 + 0.5  # what was seen before is no cut: the next sample, of which there are two a second
    assert segment["peak"] == "1.000000"
    reason = answer["reasons"][0]
    assert reason["code"] == "over_block_threshold"
    assert 50 <= reason["frame"] < 90
    assert reason["time_s"] == reason["frame"] / RATE


def test_one_marked_frame_is_held_for_a_person(client: httpx.Client) -> None:
    data = clip(pictures(6 * RATE, [77]), options={"g": "250"})
    answer = client.post("/v1/screenings", content=data, headers={"content-type": "video/mp4"}).json()
    assert (answer["verdict"], answer["reasons"][0]["code"], answer["reasons"][0]["frame"]) == ("review", "isolated_frame", 77)


def test_a_picture_over_its_limit_is_413_where_a_video_of_that_size_is_taken(client: httpx.Client) -> None:
    too_much = client.post("/v1/screenings", files={"media": ("x", b"\x89PNG\r\n\x1a\n" + bytes(400_000))})
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (413, "payload_too_large")
    padded = plain_clip() + (400_000).to_bytes(4, "big") + b"free" + bytes(399_992)
    assert client.post("/v1/screenings", files={"media": ("x", padded)}).status_code == 200
    over = padded + (300_000).to_bytes(4, "big") + b"free" + bytes(299_992)
    assert client.post("/v1/screenings", files={"media": ("x", over)}).status_code == 413


def test_a_video_that_takes_longer_than_the_caller_waits_is_finished_by_a_worker(
    running: tuple[Service, Live], client: httpx.Client
) -> None:
    service, _ = running
    answer = client.post("/v1/screenings?wait=0", files={"media": ("x", plain_clip())})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")

    async def work() -> None:
        decoder = ChildDecoder(1)
        await decoder.start()
        try:
            screener = Screener(
                decoder=decoder,
                classifiers=(MarkerClassifier(),),
                log=service.log,
                memory=service.memory,
                clock=service.clock,
                limits=Limits(),
            )
            worker = ScreeningWorker(
                screener=screener,
                reader=service.log,
                policies=service.policies,
                queue=service.queue,
                store=service.store,
                keep=HeldMedia(service.area("quarantine"), service.alarms.append),
            )
            assert await worker.run_once()
        finally:
            await decoder.close()

    asyncio.run(work())
    done = client.get(answer.headers["location"]).json()
    assert (done["status"], done["media"]["kind"]) == ("done", "video")
    assert done["verdict"] in ("review", "block")


def test_where_a_picture_is_asked_for_a_video_is_no_supported_media(running: tuple[Service, Live], client: httpx.Client) -> None:
    url = "data:video/mp4;base64," + base64.b64encode(plain_clip()).decode()
    asked = client.post("/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": url}}]})
    assert (asked.status_code, asked.json()["error"]["code"]) == (415, "unsupported_media_type")
    options = b'{"consent": {"basis": "self"}}'
    face = client.post("/v1/sources", files={"media": ("x", plain_clip()), "options": ("o", options)})
    assert (face.status_code, face.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert running[0].log.decisions[-1].verdict == "error"


def test_what_was_allowed_as_a_video_is_not_used_again_as_a_picture(client: httpx.Client) -> None:
    data = clip(pictures(3))
    assert client.post("/v1/screenings", files={"media": ("x", data)}).json()["verdict"] == "allow"
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert client.post("/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": url}}]}).status_code == 415
