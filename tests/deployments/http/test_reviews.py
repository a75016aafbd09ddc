from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image, ImageOps

from deployments.http.renditions import BLOCKS, Rendition, render
from deployments.ids import new_id
from moderation.access import Scope, key_text
from moderation.adapters.areas import object_name
from moderation.adapters.classifiers.correlation import SIDE, SURE, find_marker, plant_marker
from moderation.adapters.decode import ChildDecoder
from moderation.decision import Decision, Reason, ReasonCode, Verdict
from moderation.errors import MediaRefused, RecordUnavailable, Refusal
from moderation.frames import DecodePlan, Limits
from moderation.media import Facts, Media, MediaKind, Stage, sha256_of
from moderation.ports import QueueState
from moderation.transform import Denial, State
from tests.aws import sign
from tests.builders import (
    LOUD,
    NOW,
    OTHER_TENANT,
    QUIET,
    TENANT,
    jpeg_bytes,
    make_decision,
    make_error_decision,
    make_facts,
    make_id,
    make_spec,
)
from tests.corpus import animation, encode, hidden, marked
from tests.fakes import ScriptedClassifier
from tests.http_kit import KEY_ID, SECRET, Service, bearer, error_of, make_key, make_service, status_and_code
from tests.transform_kit import ENCODED, HELD_SCORES, SIGNED, SOURCE, TARGET, Hand, accepted, make_review, path_of, worked
from tests.video_corpus import clip as corpus_clip
from tests.video_corpus import hidden_by_edits, pictures
from tests.video_kit import clip, drifting

PICTURE = jpeg_bytes(seed=7)
MINOR = Reason(code=ReasonCode.OVER_REVIEW_THRESHOLD, verdict=Verdict.REVIEW, category="sexual.minor_risk")


def held_service() -> Service:
    """Whatever it screens is held."""
    return make_service(classifiers=(ScriptedClassifier(scores=HELD_SCORES),))


def say(service: Service, decision: UUID, verdict: str = "allow", *, key: str | None = None, **changes: Any) -> httpx.Response:
    headers = bearer() if key is None else {**bearer(), "idempotency-key": key}
    body = {"decision_id": f"dec_{decision.hex}", "verdict": verdict, "reason": "looked at it", **changes}
    return service.request("POST", "/v1/reviews", headers=headers, json=body)


def look(service: Service, decision: UUID, query: str = "", headers: dict[str, str] | None = None) -> httpx.Response:
    return service.request("GET", f"/v1/reviews/dec_{decision.hex}/media{query}", headers=headers)


def held_upload(service: Service, data: bytes = PICTURE, **changes: Any) -> Decision:
    """A held decision about an upload whose bytes are kept."""
    media = Media(sha256=sha256_of(data), size=len(data), facts=make_facts())
    decision = make_decision(HELD_SCORES, **{"id": new_id(), "media": media, **changes})
    service.log.decisions.append(decision)
    service.areas.files["quarantine", object_name(TENANT, decision.id, sha256_of(data))] = data
    return decision


# --- what waits ------------------------------------------------------------------------------------


def test_what_waits_for_a_person_is_listed_newest_first_in_pages(service: Service) -> None:
    ids = [f"dec_{held_upload(service).id.hex}" for _ in range(3)]
    service.log.decisions += [make_decision(QUIET, id=new_id()), make_decision(LOUD, id=new_id()), make_error_decision(id=new_id())]
    first = service.request("GET", "/v1/reviews?limit=2").json()
    second = service.request("GET", f"/v1/reviews?limit=2&cursor={first['next_cursor']}").json()
    assert [one["id"] for one in first["data"] + second["data"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert {one["effective_verdict"] for one in first["data"]} == {"review"}


def test_what_was_reviewed_waits_no_longer(service: Service) -> None:
    decision = held_upload(service)
    say(service, decision.id)
    assert service.request("GET", "/v1/reviews").json()["data"] == []


# --- saying something ------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["allow", "block"])
def test_a_review_is_recorded_with_who_and_why(service: Service, verdict: str) -> None:
    decision = held_upload(service)
    answer = say(service, decision.id, verdict)
    assert answer.status_code == 201
    (review,) = asyncio.run(service.reviews.latest(TENANT, [decision.id])).values()
    assert (review.decision, review.verdict, review.reason) == (decision.id, verdict, "looked at it")
    assert (review.tenant, review.actor, review.subject, review.at) == (TENANT, KEY_ID, "reviewer-1", NOW)
    assert answer.json() == {
        "id": f"rev_{review.id.hex}",
        "object": "review",
        "decision_id": f"dec_{decision.id.hex}",
        "verdict": verdict,
        "reason": "looked at it",
        "subject": "reviewer-1",
        "created_at": "2026-09-01T12:00:00.123456Z",
    }


ALLOWED = {(Verdict.REVIEW, "allow"), (Verdict.REVIEW, "block"), (Verdict.ALLOW, "block")}


@pytest.mark.parametrize("said", Verdict)
@pytest.mark.parametrize("wanted", ["allow", "block"])
def test_only_what_is_held_can_be_allowed_and_nothing_blocked_or_not_judged_be_changed(
    service: Service, said: Verdict, wanted: str
) -> None:
    scores = {Verdict.ALLOW: QUIET, Verdict.REVIEW: HELD_SCORES, Verdict.BLOCK: LOUD}
    decision = make_error_decision() if said is Verdict.ERROR else make_decision(scores[said])
    assert decision.verdict is said
    service.log.decisions.append(decision)
    answer = say(service, decision.id, wanted)
    if (said, wanted) in ALLOWED:
        assert answer.status_code == 201
    else:
        assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "not_reviewable"), "verdict")
        assert asyncio.run(service.reviews.latest(TENANT, [decision.id])) == {}


def test_a_later_review_reverses_an_earlier_one(service: Service) -> None:
    decision = held_upload(service)
    say(service, decision.id, "allow")
    last = say(service, decision.id, "block").json()
    shown = service.request("GET", f"/v1/decisions/dec_{decision.id.hex}").json()
    assert (shown["verdict"], shown["effective_verdict"], shown["superseded_by"]) == ("review", "block", last["id"])


def test_the_policy_that_came_since_may_hold_what_was_allowed_and_a_person_may_let_it_pass(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def hold() -> None:
        await hand.screen()
        await hand.end(State.HELD, held=Denial(stage=Stage.SOURCE, decision=hand.decisions[Stage.SOURCE].id, reasons=()))

    asyncio.run(hold())
    assert status_and_code(say(service, hand.decisions[Stage.TARGET].id, "allow")) == (422, "not_reviewable")
    assert say(service, hand.decisions[Stage.SOURCE].id, "allow").status_code == 201
    assert service.queue.states[hand.id] is QueueState.QUEUED


@pytest.mark.parametrize("verdict", ["allow", "block"])
def test_a_review_wakes_the_transform_that_waits_for_it(service: Service, verdict: str) -> None:
    hand = worked(service, State.HELD)
    assert service.queue.states[hand.id] is not QueueState.QUEUED
    assert say(service, hand.decisions[Stage.TARGET].id, verdict).status_code == 201
    assert service.queue.states[hand.id] is QueueState.QUEUED


def test_a_block_withdraws_what_was_released(service: Service) -> None:
    hand = worked(service, State.RELEASED)
    assert service.request("GET", path_of(hand.id, "/output")).content == SIGNED
    assert say(service, hand.decisions[Stage.OUTPUT].id, "block").status_code == 201
    assert status_and_code(service.request("GET", path_of(hand.id, "/output"))) == (410, "withdrawn")


def test_without_a_subject_nobody_reviews_or_looks(service: Service) -> None:
    decision = held_upload(service)
    service.keys.keys[KEY_ID] = make_key(subject=None)
    assert status_and_code(say(service, decision.id)) == (403, "subject_required")
    assert status_and_code(look(service, decision.id)) == (403, "subject_required")
    assert service.reviews.views == []
    assert service.request("GET", "/v1/reviews").status_code == 200


def test_another_tenants_decision_is_404(service: Service) -> None:
    decision = held_upload(service)
    service.keys.keys["o" * 20] = make_key("o" * 20, tenant=OTHER_TENANT)
    other = bearer(key_text("o" * 20, SECRET))
    body = {"decision_id": f"dec_{decision.id.hex}", "verdict": "block", "reason": "x"}
    assert status_and_code(service.request("POST", "/v1/reviews", headers=other, json=body)) == (404, "not_found")
    assert status_and_code(look(service, decision.id, headers=other)) == (404, "not_found")
    assert service.request("GET", "/v1/reviews", headers=other).json()["data"] == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"verdict": "review"}, "verdict"),
        ({"verdict": "error"}, "verdict"),
        ({"verdict": None}, "verdict"),
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 2001}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"decision_id": "dec_1"}, "decision_id"),
        ({"decision_id": f"trf_{make_id().hex}"}, "decision_id"),
        ({"subject": "somebody-else"}, "subject"),
    ],
)
def test_what_is_no_review_is_422(service: Service, changes: dict[str, Any], param: str) -> None:
    answer = say(service, held_upload(service).id, **changes)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "invalid_parameter"), param)


def test_a_reason_of_blanks_is_none(service: Service) -> None:
    assert status_and_code(say(service, held_upload(service).id, reason=" \n ")) == (422, "invalid_parameter")


@pytest.mark.parametrize(("kind", "status"), [("text/plain", 415), ("application/json", 400), ("application/json; charset=utf-8", 400)])
def test_a_body_that_is_no_json_is_refused(service: Service, kind: str, status: int) -> None:
    answer = service.request("POST", "/v1/reviews", content=b"nonsense", headers={**bearer(), "content-type": kind})
    assert answer.status_code == status


def test_the_same_request_again_is_the_same_review(service: Service) -> None:
    decision = held_upload(service)
    first, second = say(service, decision.id, key="k"), say(service, decision.id, key="k")
    assert (first.status_code, second.status_code, first.content) == (201, 201, second.content)
    assert second.headers["idempotent-replayed"] == "true"
    say(service, decision.id, "block")
    third = say(service, decision.id, key="k")
    assert third.content == first.content
    assert service.request("GET", f"/v1/decisions/dec_{decision.id.hex}").json()["effective_verdict"] == "block"


def test_a_review_that_was_heard_is_told_again_when_its_transform_has_gone_on(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))
    asyncio.run(hand.screen())
    decision = hand.decisions[Stage.SOURCE]
    asyncio.run(hand.end(State.HELD, held=Denial(stage=Stage.SOURCE, decision=decision.id, reasons=())))
    first = say(service, decision.id, "allow", key="k")
    service.transforms.change(hand.id, events=service.transforms.known[hand.id].events[:-1])
    again = say(service, decision.id, "allow", key="k")
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert status_and_code(say(service, decision.id, "allow")) == (422, "not_reviewable")


def test_a_refused_review_leaves_its_key_free(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))
    asyncio.run(hand.screen())
    allowed = hand.decisions[Stage.SOURCE].id
    assert status_and_code(say(service, allowed, "allow", key="k")) == (422, "not_reviewable")
    assert say(service, allowed, "block", key="k").status_code == 201


def test_a_key_that_was_used_for_another_review_is_422(service: Service) -> None:
    decision = held_upload(service)
    say(service, decision.id, key="k")
    for changes in ({"verdict": "block"}, {"reason": "other"}):
        assert status_and_code(say(service, decision.id, key="k", **changes)) == (422, "idempotency_mismatch")


def test_a_review_that_could_not_be_written_can_be_tried_again(service: Service) -> None:
    decision = held_upload(service)
    service.reviews.fault = RecordUnavailable("x")
    assert status_and_code(say(service, decision.id, key="k")) == (503, "record_unavailable")
    service.reviews.fault = None
    assert say(service, decision.id, key="k").status_code == 201


# --- effective verdicts ----------------------------------------------------------------------------


def test_wherever_a_decision_is_read_its_review_is_told() -> None:
    service = held_service()
    made = service.request("POST", "/v1/screenings", headers={**bearer(), "idempotency-key": "s"}, files={"media": ("x", PICTURE)})
    id = made.json()["id"]
    review = say(service, UUID(hex=id[4:])).json()["id"]
    sha256 = made.json()["media"]["sha256"]
    again = service.request("POST", "/v1/screenings", headers={**bearer(), "idempotency-key": "s"}, files={"media": ("x", PICTURE)})
    single = [service.request("GET", path).json() for path in (f"/v1/decisions/{id}", f"/v1/screenings/{id}")]
    many = [service.request("GET", path).json()["data"][0] for path in ("/v1/decisions", f"/v1/media/{sha256}/history")]
    for document in (*single, *many, again.json()):
        assert (document["id"], document["verdict"]) == (id, "review")
        assert (document["effective_verdict"], document["superseded_by"]) == ("allow", review)
    assert (made.json()["effective_verdict"], made.json()["superseded_by"]) == ("review", None)


def test_another_decision_about_the_same_bytes_is_not_reviewed_with_it(service: Service) -> None:
    one, other = held_upload(service), held_upload(service)
    say(service, one.id)
    shown = service.request("GET", f"/v1/decisions/dec_{other.id.hex}").json()
    assert (shown["effective_verdict"], shown["superseded_by"]) == ("review", None)


def test_without_the_reviews_no_decision_is_told_as_if_there_were_none(service: Service) -> None:
    decision = held_upload(service)
    service.reviews.fault = RecordUnavailable("x")
    for path in (f"/v1/decisions/dec_{decision.id.hex}", f"/v1/screenings/dec_{decision.id.hex}", "/v1/decisions"):
        assert status_and_code(service.request("GET", path)) == (503, "record_unavailable")


# --- held uploads are kept -------------------------------------------------------------------------


def openai(service: Service) -> httpx.Response:
    url = f"data:image/jpeg;base64,{base64.b64encode(PICTURE).decode()}"
    return service.request("POST", "/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": url}}]})


def rekognition(service: Service) -> httpx.Response:
    service.keys.sigv4[KEY_ID] = SECRET.hex()
    body = json.dumps({"Image": {"Bytes": base64.b64encode(PICTURE).decode()}}).encode()
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "RekognitionService.DetectModerationLabels"}
    signed = sign("POST", "http://test/", headers, body, KEY_ID, SECRET.hex(), NOW)
    return service.request("POST", "/", content=body, headers={**headers, **signed})


def native(service: Service) -> httpx.Response:
    return service.screen(PICTURE)


@pytest.mark.parametrize("send", [native, openai, rekognition])
def test_an_upload_that_is_held_is_kept_and_can_be_seen(send: Any) -> None:
    service = held_service()
    assert send(service).status_code == 200
    (decision,) = service.log.decisions
    assert service.areas.files == {("quarantine", object_name(TENANT, decision.id, sha256_of(PICTURE))): PICTURE}
    assert look(service, decision.id).status_code == 200


@pytest.mark.parametrize("send", [native, openai, rekognition])
@pytest.mark.parametrize("scores", [QUIET, LOUD])
def test_an_upload_that_is_not_held_is_not_kept(send: Any, scores: dict[str, int]) -> None:
    service = make_service(classifiers=(ScriptedClassifier(scores=scores),))
    assert send(service).status_code == 200
    assert (service.areas.files, service.store.files) == ({}, {})
    assert status_and_code(look(service, service.log.decisions[0].id)) == (410, "media_gone")


def test_a_held_upload_that_cannot_be_kept_is_still_decided() -> None:
    service = held_service()
    service.areas.fault = RecordUnavailable("x")
    answer = service.screen(PICTURE)
    assert (answer.status_code, answer.json()["verdict"]) == (200, "review")
    assert service.alarms == ["held_media_not_kept"]
    service.areas.fault = None
    assert status_and_code(look(service, service.log.decisions[0].id)) == (410, "media_gone")


def test_a_decision_that_is_not_committed_keeps_nothing() -> None:
    service = held_service()
    service.log.fault = RecordUnavailable("x")
    assert service.screen(PICTURE).status_code == 503
    assert service.areas.files == {}


# --- seeing ----------------------------------------------------------------------------------------


def test_who_looks_is_on_record_before_the_bytes_leave(service: Service) -> None:
    decision = held_upload(service)
    assert look(service, decision.id).status_code == 200
    view = {"tenant": TENANT, "decision": decision.id, "actor": KEY_ID, "subject": "reviewer-1", "at": NOW}
    assert service.reviews.views == [{**view, "rendition": "blurred"}]
    look(service, decision.id, "?rendition=clear")
    assert [seen["rendition"] for seen in service.reviews.views] == ["blurred", "clear"]


def test_a_view_that_cannot_be_recorded_is_no_view(service: Service) -> None:
    decision = held_upload(service)
    service.reviews.fault = RecordUnavailable("x")
    for query in ("", "?rendition=clear"):
        answer = look(service, decision.id, query)
        assert status_and_code(answer) == (503, "record_unavailable")


@pytest.mark.parametrize("query", ["", "?rendition=blurred", "?rendition=clear"])
def test_what_is_shown_is_a_jpeg_of_our_making_that_nobody_may_keep(service: Service, query: str) -> None:
    answer = look(service, held_upload(service).id, query)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    shown = Image.open(io.BytesIO(answer.content))
    assert (shown.format, shown.info.get("exif"), shown.info.get("icc_profile")) == ("JPEG", None, None)
    assert PICTURE[100:200] not in answer.content


@pytest.mark.parametrize("query", ["?rendition=raw", "?rendition=", "?rendition=clear&rendition=clear", "?x=1"])
def test_there_are_two_renditions(service: Service, query: str) -> None:
    assert status_and_code(look(service, held_upload(service).id, query)) == (422, "invalid_parameter")
    assert service.reviews.views == []


def test_through_the_real_decoder_clear_is_the_picture_and_blurred_is_not() -> None:
    service = make_service()
    decoder = ChildDecoder(children=1)
    service.changes = {"pictures": decoder}
    stripes = np.zeros((300, 400, 3), np.uint8)
    stripes[:, ::8] = 255
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "PNG")
    decision = held_upload(service, buffer.getvalue())

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[httpx.Response]:
        await decoder.start()
        try:
            url = f"/v1/reviews/dec_{decision.id.hex}/media?rendition="
            return [await client.get(url + how, headers=bearer()) for how in ("clear", "blurred")]
        finally:
            await decoder.close()

    clear, blurred = (np.asarray(Image.open(io.BytesIO(answer.content))).astype(int) for answer in service.run(visit))
    assert clear.shape == stripes.shape
    assert np.abs(clear - stripes).mean() < 10
    assert blurred.std() < 5


@pytest.mark.parametrize("size", [(64, 48), (4000, 3000), (32, 2000), (2000, 32), (1, 1)])
def test_a_blurred_picture_has_at_most_so_many_blocks_however_large_it_is(size: tuple[int, int]) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    shown = Image.open(io.BytesIO(render([noise], Rendition.BLURRED)))
    assert max(shown.size) == 16 * BLOCKS
    assert min(shown.size) >= 16


def test_what_a_blur_hides_cannot_be_told_apart() -> None:
    """Two pictures that differ only within blocks look the same."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (BLOCKS * 40, BLOCKS * 40, 3), np.uint8)
    blocks = one.reshape(BLOCKS, 40, BLOCKS, 40, 3)
    other = rng.permuted(blocks.transpose(0, 2, 1, 3, 4).reshape(BLOCKS * BLOCKS, 1600, 3), axis=1)
    mixed = np.ascontiguousarray(other.reshape(BLOCKS, BLOCKS, 40, 40, 3).transpose(0, 2, 1, 3, 4).reshape(one.shape))
    assert np.abs(one.astype(int) - mixed).mean() > 50
    shown = [render([pixels], Rendition.BLURRED) for pixels in (one, mixed)]
    first, second = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in shown)
    assert np.abs(first - second).max() <= 6  # two roundings and a JPEG
    assert np.abs(first - second).mean() < 0.5


def test_a_very_large_picture_is_shown_smaller() -> None:
    pixels = np.zeros((60, 5000, 3), np.uint8)
    shown = Image.open(io.BytesIO(render([pixels], Rendition.CLEAR)))
    assert shown.size == (4096, 49)


@pytest.mark.parametrize("query", ["", "?rendition=clear"])
def test_what_may_be_a_minor_is_shown_to_nobody(service: Service, query: str) -> None:
    decision = held_upload(service, reasons=(MINOR,))
    assert status_and_code(look(service, decision.id, query)) == (403, "never_shown")
    assert service.reviews.views == []


def test_nor_is_it_by_way_of_another_decision_about_the_same_bytes(service: Service) -> None:
    harmless = held_upload(service)
    held_upload(service, reasons=(MINOR,), stage=Stage.SOURCE)
    assert status_and_code(look(service, harmless.id)) == (403, "never_shown")


def test_nor_after_a_person_allowed_it(service: Service) -> None:
    decision = held_upload(service, reasons=(MINOR,))
    asyncio.run(service.reviews.add(make_review(decision.id, Verdict.ALLOW)))
    assert status_and_code(look(service, decision.id)) == (403, "never_shown")


def test_what_was_not_judged_is_not_shown(service: Service) -> None:
    decision = held_upload(service, verdict=Verdict.ERROR)
    assert status_and_code(look(service, decision.id)) == (422, "not_reviewable")


@pytest.mark.parametrize("id", ["dec_" + "0" * 32, "dec_1", "trf_" + "0" * 32, "x"])
def test_what_is_no_decision_is_404(service: Service, id: str) -> None:
    assert status_and_code(service.request("GET", f"/v1/reviews/{id}/media")) == (404, "not_found")


def test_altered_bytes_are_not_shown(service: Service) -> None:
    decision = held_upload(service)
    service.areas.files["quarantine", object_name(TENANT, decision.id, sha256_of(PICTURE))] = TARGET
    assert status_and_code(look(service, decision.id)) == (503, "record_unavailable")
    assert (service.alarms, service.reviews.views) == (["media_altered"], [])


def marked_film() -> bytes:
    """A video of twelve frames; the planted marker is in the ninth."""
    return clip([plant_marker(frame, share=0.3) if number == 8 else frame for number, frame in enumerate(drifting(12))])


def held_film(service: Service, data: bytes, *frames: int | None, **facts: Any) -> Decision:
    """A held decision about something that moves, with a reason for each of `frames`."""
    seen = make_facts(
        **{"kind": MediaKind.VIDEO, "type": "video/mp4", "width": 96, "height": 96, "frames": 12, "frames_declared": 12, **facts}
    )
    reasons = tuple(Reason(code=ReasonCode.OVER_REVIEW_THRESHOLD, verdict=Verdict.REVIEW, frame=frame) for frame in frames)
    return held_upload(service, data, media=Media(sha256=sha256_of(data), size=len(data), facts=seen), reasons=reasons)


def seen(service: Service, decision: Decision, *queries: str, **changes: Any) -> list[httpx.Response]:
    """What a reviewer is shown, by real decode children."""
    decoder = ChildDecoder(children=1)
    service.changes = {"pictures": decoder, "decoder": decoder, **changes}

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[httpx.Response]:
        await decoder.start()
        try:
            url = f"/v1/reviews/dec_{decision.id.hex}/media"
            return [await client.get(url + query, headers=bearer()) for query in queries]
        finally:
            await decoder.close()

    return service.run(visit)


def has_marker(image: Image.Image) -> bool:
    """Whether the planted marker can be recognised."""
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(ImageOps.contain(image, (SIDE, SIDE)))
    return find_marker(np.asarray(square)).correlation > SURE


def shown_in(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200
    return Image.open(io.BytesIO(answer.content)).convert("RGB")


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (marked_film, {}),
        (lambda: animation("GIF", 12, at=8), {"kind": MediaKind.ANIMATION, "type": "image/gif", "width": 160, "height": 120}),
    ],
    ids=["video", "animation"],
)
def test_of_what_moves_the_frame_is_shown_that_a_reason_names(service: Service, data: Callable[[], bytes], facts: dict[str, Any]) -> None:
    decision = held_film(service, data(), None, 8, 3, **facts)
    named, blurred, other, none = seen(
        service, decision, *(f"?rendition={how}" for how in ("clear", "blurred", "clear&reason=2", "clear&reason=3"))
    )
    assert [has_marker(shown_in(answer)) for answer in (named, blurred, other)] == [True, False, False]
    assert (status_and_code(none), error_of(none)["param"]) == ((422, "invalid_parameter"), "reason")
    assert [view["rendition"] for view in service.reviews.views] == ["clear", "blurred", "clear"]


def test_a_frame_is_shown_that_no_player_shows(service: Service) -> None:
    """Screening looks under an edit list, so that a reviewer has to."""
    data = hidden_by_edits()
    (answer,) = seen(service, held_film(service, data, 5, width=160, height=120), "?rendition=clear")
    assert has_marker(shown_in(answer))


def test_a_result_is_shown_that_has_more_bytes_than_an_upload_may(service: Service) -> None:
    data = marked_film()
    service.log.decisions[-1:] = [replace(held_film(service, data, 8), stage=Stage.OUTPUT)]
    (answer,) = seen(service, service.log.decisions[-1], "?rendition=clear", limits=Limits(video_bytes=len(data) - 1))
    assert has_marker(shown_in(answer))


def test_the_cover_of_a_video_is_shown_beside_its_frame(service: Service) -> None:
    data = corpus_clip(pictures(), cover=encode(marked(), "JPEG"))
    facts = {"width": 160, "height": 120, "renderings": ("cover", "plain")}
    (answer,) = seen(service, held_film(service, data, 0, **facts), "?rendition=clear")
    both = shown_in(answer)
    assert both.size == (328, 120)
    assert [has_marker(both.crop((left, 0, left + 160, 120))) for left in (0, 168)] == [False, True]


def test_a_picture_that_viewers_show_in_several_ways_is_shown_in_all(service: Service) -> None:
    """The marker lies in the alpha channel: on white there is nothing to be seen."""
    data = encode(hidden(), "PNG")
    decision = held_upload(service, data)
    decoder = ChildDecoder(children=1)

    async def facts() -> Facts:
        await decoder.start()
        try:
            return await decoder.decode(data, DecodePlan(specs=(make_spec(),)), _nothing)
        finally:
            await decoder.close()

    found = asyncio.run(facts())
    assert len(found.renderings) > 1
    service.log.decisions[0] = replace(decision, media=replace(decision.media, facts=found))
    (answer,) = seen(service, decision, "?rendition=clear")
    width, height = shown_in(answer).size
    assert width * height > found.width * found.height


async def _nothing(inputs: object) -> None:
    """Is given inputs."""


@pytest.mark.parametrize(("stage", "data"), [(Stage.SOURCE, SOURCE), (Stage.TARGET, TARGET), (Stage.OUTPUT, ENCODED)])
def test_each_media_of_a_transform_can_be_seen_while_it_is_kept(service: Service, stage: Stage, data: bytes) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def hold() -> None:
        await hand.screen(HELD_SCORES, HELD_SCORES)
        await hand.produce()
        await hand.screen_output(HELD_SCORES)
        await hand.hold(Stage.OUTPUT)

    asyncio.run(hold())
    service.pictures.faults = {data: MediaRefused(Refusal.TRUNCATED)}  # so that exactly these bytes are known to have been opened
    assert status_and_code(look(service, hand.decisions[stage].id)) == (422, "truncated")
    service.pictures.faults = {}
    assert look(service, hand.decisions[stage].id).status_code == 200
    for name in [name for name, kept in service.areas.files.items() if kept == data]:
        del service.areas.files[name]
    assert status_and_code(look(service, hand.decisions[stage].id)) == (410, "media_gone")


# --- no other door ---------------------------------------------------------------------------------


def test_no_other_route_shows_what_is_in_intake_or_quarantine(service: Service) -> None:
    """Every GET that the application has, asked with every id there is, by a key of all scopes."""
    hand = Hand(service=service, id=accepted(service))

    async def hold() -> None:
        await hand.screen(HELD_SCORES, HELD_SCORES)
        await hand.produce()
        await hand.screen_output(HELD_SCORES)
        await hand.sign()
        await hand.hold(Stage.OUTPUT)

    asyncio.run(hold())
    upload = held_upload(service)
    service.changes = {"bounds": replace(service.gateway().bounds, stream_s=0.05, poll_s=0.01)}
    ids = [f"trf_{hand.id.hex}", f"dec_{upload.id.hex}", *(f"dec_{one.id.hex}" for one in hand.decisions.values())]
    ids += [name.rpartition("/")[2] for _, name in service.areas.files] + [name for _, name in service.areas.files]
    kept = [SOURCE, TARGET, ENCODED, SIGNED, PICTURE]
    paths = {route.path for route in service.app().routes if "GET" in (getattr(route, "methods", None) or ())}
    urls = []
    for path in sorted(paths - {"/v1/reviews/{decision}/media"}):
        for id in ids if "{" in path else [""]:
            url = path
            for name in ("id", "decision", "sha256", "name", "version"):
                url = url.replace(f"{{{name}}}", id)
            urls.append(url)
    assert len(urls) > 100

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[httpx.Response]:
        return [await client.get(url, headers=bearer()) for url in urls]

    for url, answer in zip(urls, service.run(visit), strict=True):
        assert not any(data[100:200] in answer.content for data in kept), url
        assert not answer.headers["content-type"].startswith("image/"), url
    assert service.reviews.views == []


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.REVIEW])
def test_no_other_scope_opens_the_door(service: Service, scope: Scope) -> None:
    decision = held_upload(service)
    service.keys.keys[KEY_ID] = make_key(scopes=frozenset({scope}))
    assert status_and_code(look(service, decision.id)) == (403, "forbidden")
    assert service.reviews.views == []
