"""Asking for a gated face swap in a video, and how far it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from moderation.media import MediaKind
from moderation.transform import Options, Progress, State
from tests.builders import TENANT, make_facts, make_policy
from tests.corpus import animation
from tests.fakes import ScriptedPictures
from tests.http_kit import Service, bearer, error_of, live, make_service, status_and_code
from tests.real_http import over_fakes
from tests.transform_kit import SOURCE, TARGET, Hand, accepted, ask, form, path_of
from tests.video_kit import drifting_clip

VIDEO = make_facts(type="video/mp4", kind=MediaKind.VIDEO, frames=50, frames_declared=50, duration_us=2_000_000)


class Pictures(ScriptedPictures):
    """Says of these files that they are videos."""

    def __init__(self, *videos: bytes) -> None:
        super().__init__()
        self.videos = videos

    async def probe(self, data, plan):
        probe = await super().probe(data, plan)
        return replace(probe, type="video/mp4") if data in self.videos else probe


def service_of(*videos: bytes, **policy: Any) -> Service:
    service = make_service(pictures=Pictures(*videos))
    service.policies.shelf[TENANT, "default"] = [replace(make_policy(), **policy)]
    return service


def options_of(service: Service, **asked: Any) -> Options:
    return service.transforms.known[accepted(service, **asked)].transform.options


def test_a_target_may_be_a_video():
    service = service_of(TARGET)
    committed = service.transforms.known[accepted(service)]
    assert committed.transform.target.type == "video/mp4"
    assert committed.is_video


@pytest.mark.parametrize(("asked", "status"), [("auto", 202), ("mp4", 202), ("webp", 422)])
def test_an_animation_becomes_an_mp4_too(asked: str, status: int):
    service, make = over_fakes()
    with live(make) as server:
        answer = httpx.post(
            server.url + "/v1/transforms",
            headers=bearer(),
            timeout=30,
            trust_env=False,
            **form(SOURCE, animation("GIF", 3, 1), output={"format": asked}),
        )
    assert answer.status_code == status, answer.text
    if status == 422:
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_parameter", "output.format")
    else:
        (committed,) = service.transforms.known.values()
        assert (committed.is_video, committed.transform.target.type, committed.transform.options.format) == (True, "image/gif", "mp4")


@pytest.mark.parametrize(
    ("source", "target", "limits", "code", "param"),
    [
        (lambda: animation("WEBP", 3, 1), lambda: TARGET, {}, "still_picture_required", "source"),
        (lambda: SOURCE, lambda: animation("WEBP", 3, 1), {"video_pixels": 160 * 120 - 1}, "dimensions_too_large", "target"),
    ],
    ids=["as a source", "larger than a video may be"],
)
def test_an_animation_that_cannot_be_worked_on_is_refused_before_anything_is_stored(source, target, limits, code: str, param: str):
    service, make = over_fakes(**limits)
    with live(make) as server:
        answer = httpx.post(server.url + "/v1/transforms", headers=bearer(), timeout=30, trust_env=False, **form(source(), target()))
    assert answer.status_code in (413, 422), answer.text
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert not service.transforms.known


def test_a_source_is_a_picture():
    answer = ask(service_of(SOURCE))
    assert status_and_code(answer) == (422, "still_picture_required")
    assert error_of(answer)["param"] == "source"


@pytest.mark.parametrize(
    ("videos", "asked", "status"),
    [((TARGET,), "mp4", 202), ((TARGET,), "auto", 202), ((TARGET,), "jpeg", 422), ((), "mp4", 422), ((), "png", 202)],
)
def test_a_video_becomes_an_mp4_and_a_picture_a_picture(videos: tuple[bytes, ...], asked: str, status: int):
    answer = ask(service_of(*videos), output={"format": asked})
    assert answer.status_code == status
    if status == 422:
        assert (error_of(answer)["code"], error_of(answer)["param"]) == ("invalid_parameter", "output.format")


@pytest.mark.parametrize(("stream", "videos", "label"), [("labelled", (TARGET,), True), ("labelled", (), False), ("off", (TARGET,), False)])
def test_what_may_be_watched_before_its_release_carries_the_label(stream: str, videos: tuple[bytes, ...], label: bool):
    assert options_of(service_of(*videos, stream=stream, label_visible=False)).label is label
    assert options_of(service_of(*videos, stream=stream, label_visible=False), label={"visible": True}).label is True
    answer = ask(service_of(*videos, stream=stream, label_visible=False), label={"visible": False})
    assert answer.status_code == (422 if label else 202)
    if label:
        assert (error_of(answer)["code"], error_of(answer)["param"]) == ("weakens_policy", "label.visible")


def test_while_a_video_is_made_its_progress_is_in_frames_and_before_and_after_in_steps():
    service = service_of(TARGET)
    hand = Hand(service=service, id=accepted(service))

    def progress() -> dict[str, Any]:
        return service.request("GET", path_of(hand.id)).json()["progress"]

    asyncio.run(hand.screen())
    assert progress() == {"phase": "screening", "done": 2, "total": 6, "eta_s": None}
    asyncio.run(service.transforms.advance(hand.job, State.TRANSFORMING))
    asyncio.run(service.transforms.note_progress(hand.job, Progress(done=20, total=50, eta_s=6)))
    assert progress() == {"phase": "transforming", "done": 20, "total": 50, "eta_s": 6.0}
    asyncio.run(service.transforms.advance(hand.job, State.SCREENING_OUTPUT))
    assert progress()["total"] == 6


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (lambda: drifting_clip(10), 202, None),
        (lambda: drifting_clip(10)[:-1], 422, "truncated"),
        (lambda: drifting_clip(10)[:4] + b"ftypqt  " + bytes(40), 422, None),
        (lambda: b"\x1a\x45\xdf\xa3" + bytes(200), 415, "unsupported_media_type"),
    ],
    ids=["whole", "one byte less", "no movie", "no matroska"],
)
def test_the_real_decoder_looks_at_a_video_before_it_is_accepted(data, status: int, code: str | None):

    service, make = over_fakes()
    with live(make) as server:
        answer = httpx.post(server.url + "/v1/transforms", headers=bearer(), timeout=30, trust_env=False, **form(SOURCE, data()))
    assert answer.status_code == status, answer.text
    if code is not None:
        assert answer.json()["error"]["code"] == code
    assert len(service.transforms.known) == (status == 202)
