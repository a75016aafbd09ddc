from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.http.gateway import Bounds
from deployments.http.openai_view import moderation_document
from deployments.http.schemas import ModerationView
from moderation.decision import Decision
from moderation.errors import ClassifierUnavailable, MediaRefused, Refusal
from moderation.media import sha256_of
from moderation.taxonomy import OPENAI_KEYS
from tests.builders import LOUD, QUIET, jpeg_bytes, make_decision
from tests.fakes import ScriptedClassifier, ScriptedDecoder
from tests.http_kit import Service, bearer, error_of, make_service, status_and_code

PICTURE = jpeg_bytes()
DATA_URL = "data:image/jpeg;base64," + base64.b64encode(PICTURE).decode()


def image(url: str = DATA_URL) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def ask(service: Service, given: Any, **more: Any) -> httpx.Response:
    return service.request("POST", "/v1/moderations", json={"input": given, **more})


def results_of(decision: Decision) -> Any:
    return moderation_document(decision, "m")["results"]


def test_all_13_keys_stand_in_all_three_maps_and_ours_beside_them() -> None:
    (result,) = results_of(make_decision(LOUD))
    for name in ("categories", "category_scores", "category_applied_input_types"):
        assert tuple(result[name])[:13] == OPENAI_KEYS
        assert set(result[name]) == {*OPENAI_KEYS, *LOUD}
    ModerationView.model_validate(moderation_document(make_decision(LOUD), "m"))


def test_text_only_keys_are_never_marked_as_judged_on_an_image() -> None:
    (result,) = results_of(make_decision(LOUD))
    applied = result["category_applied_input_types"]
    assert [key for key in OPENAI_KEYS if applied[key]] == ["sexual"]
    assert applied["sexual/minors"] == []


def test_a_category_is_flagged_where_it_is_the_reason() -> None:
    (result,) = results_of(make_decision(LOUD))
    assert result["flagged"]
    assert {key for key, flagged in result["categories"].items() if flagged} == {"sexual", "sexual.nudity_explicit"}
    assert result["category_scores"]["sexual"] == 0.9731
    (quiet,) = results_of(make_decision(QUIET))
    assert not quiet["flagged"]
    assert not any(quiet["categories"].values())


def test_a_held_image_is_flagged() -> None:
    held = make_decision({**QUIET, "sexual.nudity_explicit": 300_000})
    assert held.verdict == "review"
    assert moderation_document(held, "m")["results"][0]["flagged"]


def test_an_image_is_judged_and_the_decision_named(service: Service) -> None:
    answer = ask(service, [image()], model="omni-moderation-2024-09-26")
    assert answer.status_code == 200
    (decision,) = service.log.decisions
    assert decision.media.sha256 == sha256_of(PICTURE)
    assert answer.json()["id"] == f"modr-{decision.id.hex}"
    assert answer.json()["model"] == "omni-moderation-2024-09-26"
    assert answer.json()["results"][0]["facegate"] == {"verdict": "allow", "decision_id": f"dec_{decision.id.hex}"}
    assert service.decoder.plans[0].declared_type == "image/jpeg"


@pytest.mark.parametrize(
    "given", ["hello", ["hello", "you"], [{"type": "text", "text": "hello"}], [{"type": "text", "text": "a"}, image()]]
)
def test_text_is_not_judged_and_never_passed_off_as_judged(service: Service, given: Any) -> None:
    answer = ask(service, given)
    assert status_and_code(answer) == (400, "text_not_supported")
    assert error_of(answer)["param"] == "input"
    assert service.log.decisions == []


def test_where_text_is_ignored_it_needs_an_image_beside_it() -> None:
    service = make_service(changes={"openai_text": "ignore"})
    assert ask(service, [{"type": "text", "text": "a"}, image()]).status_code == 200
    assert status_and_code(ask(service, "a")) == (400, "text_not_supported")


def test_two_images_are_too_many(service: Service) -> None:
    answer = ask(service, [image(), image()])
    assert status_and_code(answer) == (400, "too_many_images")
    assert error_of(answer)["param"] == "input"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:image/png,%89PNG",
        "data:image/png;base64,?!",
        "data:image/png;base64,AAA",
        "ftp://x/y.png",
        "file:///etc/passwd",
        "javascript:x",
        "/x.png",
        "data:image/png;base64",
    ],
)
def test_a_url_of_another_form_is_400(service: Service, url: str) -> None:
    answer = ask(service, [image(url)])
    assert status_and_code(answer) == (400, "invalid_image_url")


@pytest.mark.parametrize(
    "url", ["https://example.com/x.png", "http://127.0.0.1/x.png", "https://user@example.com/", "HTTPS://EXAMPLE.COM/x"]
)
def test_no_url_is_fetched_unless_its_host_is_named(service: Service, url: str) -> None:
    assert status_and_code(ask(service, [image(url)])) == (400, "url_not_allowed")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"input":null}', b'{"input":[]}', b'{"input":[1]}', b'{"input":[{"type":"image_url"}]}', b'{"input":{"type":"text"}}', b'{"input":"a","input":"b"}', b"[" * 5000, b'{"input":[{"type":"image_url","image_url":"x"}]}', b'{"input":"x","model":{}}', b'{"input":"x","model":"\\ud800"}'],
)  # fmt: skip
def test_a_body_of_another_form_is_400(service: Service, body: bytes) -> None:
    answer = service.request("POST", "/v1/moderations", content=body, headers={**bearer(), "content-type": "application/json"})
    assert status_and_code(answer) == (400, "invalid_json")


def test_a_body_that_is_not_json_is_415(service: Service) -> None:
    answer = service.request("POST", "/v1/moderations", content=b"{}", headers={**bearer(), "content-type": "text/plain"})
    assert status_and_code(answer) == (415, "unsupported_media_type")


def test_what_could_not_be_judged_is_an_error_and_never_a_result() -> None:
    refused_media = make_service(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TRUNCATED)))
    answer = ask(refused_media, [image()])
    assert status_and_code(answer) == (422, "truncated")
    assert error_of(answer)["decision_id"] is not None
    fault = make_service(classifiers=(ScriptedClassifier(fault=ClassifierUnavailable("x")),))
    assert status_and_code(ask(fault, [image()])) == (503, "classifier_unavailable")


def test_a_fetched_picture_is_judged() -> None:
    async def fetch(url: str) -> bytes:
        assert url == "https://pictures.example/x.jpg"
        return PICTURE

    service = make_service(changes={"fetch": fetch})
    assert ask(service, [image("https://pictures.example/x.jpg")]).status_code == 200
    assert service.log.decisions[0].media.sha256 == sha256_of(PICTURE)


def test_the_work_goes_on_when_the_client_goes_away() -> None:
    gate = asyncio.Event()
    service = make_service(classifiers=(ScriptedClassifier(gate=gate),))

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        request = asyncio.create_task(client.post("/v1/moderations", json={"input": [image()]}, headers=bearer()))
        await asyncio.sleep(0.1)
        request.cancel()
        gate.set()
        await app.state.screenings.drain()
        assert len(service.log.decisions) == 1

    service.run(visit)


def test_a_data_url_larger_than_the_route_takes_is_413() -> None:
    service = make_service(changes={"bounds": Bounds(json=1000)})
    assert status_and_code(ask(service, [image("data:image/png;base64," + "A" * 2000)])) == (413, "payload_too_large")
