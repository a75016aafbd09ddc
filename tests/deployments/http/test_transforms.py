from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.http.errors import REFUSALS
from deployments.http.gateway import Bounds
from deployments.http.transform_documents import TransformView, transform_document
from deployments.http.wire import encode
from moderation.access import key_text
from moderation.adapters.areas import object_name
from moderation.adapters.decode import ChildDecoder
from moderation.errors import DecoderUnavailable, MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.media import Stage, sha256_of
from moderation.policy import Consent, PolicyLimits
from moderation.ports import QueueState
from moderation.transform import Basis, ConsentStatement, FaceChoice, FaceMode, State
from tests.builders import LOUD, OTHER_TENANT, TENANT, encoded, make_policy, picture
from tests.http_kit import KEY_ID, SECRET, Service, bearer, error_of, make_key, make_service, multipart, status_and_code
from tests.transform_kit import SOURCE, TARGET, Hand, accepted, ask, form, make_review, path_of, worked

STATES = [*State]
OTHER = bearer(key_text("o" * 20, SECRET))


def with_policy(**changes: Any) -> Service:
    service = make_service()
    service.policies.shelf[TENANT, "default"] = [make_policy(**changes)]
    return service


def nothing_begun(service: Service) -> bool:
    """No transform, no job, no bytes, no decision."""
    return not (service.queue.jobs or service.areas.files or service.log.decisions or listed(service))


def listed(service: Service, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.request("GET", f"/v1/transforms{query}").json()["data"]
    return found


# --- accepting -------------------------------------------------------------------------------------


def test_a_transform_is_accepted_with_everything_that_was_said(service: Service) -> None:
    options: dict[str, Any] = {
        "operation": "face_swap",
        "target_consent": {"basis": "licensed", "reference": "contract 9"},
        "faces": {"nearest": [10, 5, 20, 30]},
        "swapper": "classical",
        "label": {"visible": True, "language": "ko"},
        "output": {"format": "webp", "quality": 80},
        "policy": "default",
        "reference": "order-17",
    }
    answer = ask(service, **options)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/transforms/{answer.json()['id']}"
    (job,) = service.queue.jobs.values()
    committed = asyncio.run(Hand(service=service, id=job.id).load())
    transform = committed.transform
    assert (job.kind, answer.json()["id"]) == ("transform", f"trf_{job.id.hex}")
    assert (transform.tenant, transform.actor, transform.request_id) == (TENANT, KEY_ID, answer.headers["x-request-id"])
    assert (transform.source.sha256, transform.target.sha256) == (sha256_of(SOURCE), sha256_of(TARGET))
    assert (transform.source.size, transform.source.type) == (len(SOURCE), "image/jpeg")
    assert transform.consent == ConsentStatement(basis=Basis.SELF, statement="It is me.")
    assert transform.target_consent == ConsentStatement(basis=Basis.LICENSED, reference="contract 9")
    assert transform.options.faces == FaceChoice(mode=FaceMode.NEAREST, box=(10, 5, 20, 30))
    assert (transform.options.swapper, transform.options.label, transform.options.label_language) == ("classical", True, "ko")
    assert (transform.options.format, transform.options.quality, transform.reference) == ("webp", 80, "order-17")
    assert (transform.policy.name, transform.policy.version) == ("default", 1)


def test_the_bytes_lie_in_intake_under_the_transform_and_nowhere_else(service: Service) -> None:
    id = accepted(service)
    names = {object_name(TENANT, id, sha256_of(data)): data for data in (SOURCE, TARGET)}
    assert service.areas.files == {("intake", name): data for name, data in names.items()}
    assert service.store.files == {}


def test_a_new_transform_is_the_object_of_the_contract(service: Service) -> None:
    answer = ask(service)
    assert answer.json() == {
        "id": answer.json()["id"],
        "object": "transform",
        "state": "queued",
        "progress": {"phase": "queued", "done": 0, "total": 6, "eta_s": None},
        "decisions": {"source": None, "target": None, "output": None},
        "denial": None,
        "failure": None,
        "release": None,
        "created_at": "2026-09-01T12:00:00.123456Z",
        "finished_at": None,
    }


def test_both_pictures_may_be_the_same(service: Service) -> None:
    accepted(service, source=SOURCE, target=SOURCE)
    assert list(service.areas.files.values()) == [SOURCE]


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, FaceChoice()),
        ({"faces": "largest"}, FaceChoice()),
        ({"faces": "all"}, FaceChoice(mode=FaceMode.ALL)),
        ({"faces": {"index": 2}}, FaceChoice(mode=FaceMode.INDEX, index=2)),
    ],
)
def test_faces_are_chosen_as_the_contract_says(service: Service, options: dict[str, Any], choice: FaceChoice) -> None:
    hand = Hand(service=service, id=accepted(service, **options))
    assert asyncio.run(hand.load()).transform.options.faces == choice


def test_without_options_the_consent_is_missing_and_nothing_else(service: Service) -> None:
    files = form()["files"]
    del files["options"]
    answer = service.request("POST", "/v1/transforms", files=files)
    assert status_and_code(answer) == (422, "consent_required")


# --- what is refused before anything is committed ---------------------------------------------------


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"operation": "lip_sync"}, "operation"),
        ({"faces": "some"}, "faces"),
        ({"faces": {"index": -1}}, "faces"),
        ({"faces": {"index": True}}, "faces"),
        ({"faces": {"index": 1, "nearest": [1, 1, 1, 1]}}, "faces"),
        ({"faces": {"nearest": [0, 0, 0, 10]}}, "faces"),
        ({"faces": {"nearest": [0, 0, 10]}}, "faces"),
        ({"faces": {"nearest": [0.5, 0, 10, 10]}}, "faces"),
        ({"swapper": "best"}, "swapper"),
        ({"label": {"visible": "no"}}, "label.visible"),
        ({"label": {"language": "de"}}, "label.language"),
        ({"output": {"format": "gif"}}, "output.format"),
        ({"output": {"quality": 49}}, "output.quality"),
        ({"output": {"quality": 101}}, "output.quality"),
        ({"output": {"quality": 90.5}}, "output.quality"),
        ({"consent": {"basis": "because"}}, "consent.basis"),
        ({"consent": {"basis": "self", "statement": "a\0b"}}, "consent.statement"),
        ({"consent": {"basis": "self", "statement": "\ud800"}}, "consent.statement"),
        ({"consent": {"basis": "self", "statement": "x" * 2001}}, "consent.statement"),
        ({"consent": "self"}, "consent"),
        ({"reference": "x" * 257}, "reference"),
        ({"reference": "line\nbreak"}, "reference"),
        ({"reference": 17}, "reference"),
        ({"source_id": "src_1"}, "source_id"),
        ({"callback_url": ""}, "callback_url"),
        ({"callback_url": "https://hooks.example/" + "x" * 2048}, "callback_url"),
    ],
)
def test_an_impossible_option_is_refused_by_its_name(service: Service, options: dict[str, Any], param: str) -> None:
    answer = ask(service, **options)
    assert status_and_code(answer) == (422, "invalid_parameter")
    assert error_of(answer)["param"] == param
    assert nothing_begun(service)


@pytest.mark.parametrize(
    "options", [b"", b"nonsense", b"[]", b'"x"', b'{"faces":"all","faces":"all"}', b'{"x":NaN}', b'{"a":"' + b"x" * 20_000 + b'"}', b"\xff"]
)
def test_options_that_are_no_json_object_are_400(service: Service, options: bytes) -> None:
    files = {**form()["files"], "options": ("o", options)}
    answer = service.request("POST", "/v1/transforms", files=files)
    assert status_and_code(answer) == (400, "invalid_json")
    assert nothing_begun(service)


@pytest.mark.parametrize("missing", ["source", "target"])
def test_a_missing_picture_is_400(service: Service, missing: str) -> None:
    without: dict[str, Any] = {missing: None}
    answer = ask(service, **without)
    assert status_and_code(answer) == (400, "bad_request")
    assert error_of(answer)["param"] == missing


@pytest.mark.parametrize("extra", ["media", "source", "target", "options", ""])
def test_a_form_with_more_than_its_parts_is_400(service: Service, extra: str) -> None:
    parts = [(name, data) for name, (_, data, _) in form()["files"].items()] + [(extra, b"x")]
    body, headers = multipart(*[(f'Content-Disposition: form-data; name="{name}"; filename="f"', data) for name, data in parts])
    answer = service.request("POST", "/v1/transforms", content=body, headers={**bearer(), **headers})
    assert status_and_code(answer) == (400, "bad_request")
    assert nothing_begun(service)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "multipart/mixed; boundary=x", ""])
def test_a_body_that_is_no_form_is_415(service: Service, kind: str) -> None:
    answer = service.request("POST", "/v1/transforms", content=SOURCE, headers={**bearer(), "content-type": kind})
    assert status_and_code(answer) == (415, "unsupported_media_type")


def test_two_pictures_of_the_largest_size_are_taken_and_more_is_not() -> None:
    service = make_service(changes={"bounds": Bounds(picture=2 * len(SOURCE))})
    accepted(service, source=SOURCE * 2, target=SOURCE * 2)
    answer = ask(service, source=SOURCE * 2, target=bytes(len(SOURCE) * 2 + 65 * 1024))
    assert status_and_code(answer) == (413, "payload_too_large")


@pytest.mark.parametrize("refusal", Refusal)
@pytest.mark.parametrize("which", ["source", "target"])
def test_a_picture_that_says_it_cannot_be_judged_is_refused_by_its_code(service: Service, which: str, refusal: Refusal) -> None:
    service.pictures.faults = {SOURCE if which == "source" else TARGET: MediaRefused(refusal)}
    answer = ask(service)
    assert status_and_code(answer) == (REFUSALS[refusal].status, refusal)
    assert error_of(answer)["param"] == which
    assert error_of(answer)["decision_id"] is None
    assert nothing_begun(service)


@pytest.mark.parametrize("fault", [DecoderUnavailable("x"), Overloaded("decoder")])
def test_a_decoder_in_trouble_is_503(service: Service, fault: Exception) -> None:
    service.pictures.fault = fault
    answer = ask(service)
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert nothing_begun(service)


def test_pictures_are_bounded_by_the_policy_where_it_is_tighter() -> None:
    service = with_policy(limits=PolicyLimits(image_pixels=1000, image_bytes=10**9))
    accepted(service)
    assert {plan.limits.image_pixels for plan in service.pictures.plans} == {1000}
    assert {plan.limits.image_bytes for plan in service.pictures.plans} == {20_000_000}


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"GIF8", 422, "decode_failed"),
        (b"%PDF-1.7 and so on", 415, "unsupported_media_type"),
        (SOURCE[:-200], 422, "truncated"),
        (encoded(picture(16, 16), "PNG"), 422, "too_small"),
        (encoded(picture(20_000, 32).convert("1"), "PNG"), 422, "dimensions_too_large"),
    ],
    ids=["empty", "short", "pdf", "truncated", "small", "wide"],
)
def test_the_real_decoder_refuses_before_anything_is_accepted(data: bytes, status: int, code: str) -> None:
    service = make_service()
    decoder = ChildDecoder(children=1)
    service.changes = {"pictures": decoder, "limits": replace(service.gateway().limits, max_side=10_000)}

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> tuple[httpx.Response, httpx.Response]:
        await decoder.start()
        try:
            bad = await client.post("/v1/transforms", headers=bearer(), **form(target=data))
            good = await client.post("/v1/transforms", headers=bearer(), **form())
        finally:
            await decoder.close()
        return bad, good

    bad, good = service.run(visit)
    assert status_and_code(bad) == (status, code)
    assert error_of(bad)["param"] == "target"
    assert good.status_code == 202
    assert len(service.queue.jobs) == 1


# --- policy ----------------------------------------------------------------------------------------


def test_a_policy_that_is_not_on_the_keys_list_is_403(service: Service) -> None:
    assert status_and_code(ask(service, policy="other")) == (403, "policy_not_allowed")
    assert nothing_begun(service)


def test_consent_is_required_and_recorded_where_the_policy_says_so(service: Service) -> None:
    answer = ask(service, consent=None)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "consent_required"), "consent")
    assert nothing_begun(service)


def test_consent_of_the_target_is_required_where_the_policy_says_so() -> None:
    service = with_policy(target_consent=Consent.REQUIRED)
    answer = ask(service)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "consent_required"), "target_consent")
    assert nothing_begun(service)
    assert ask(service, target_consent={"basis": "self"}).status_code == 202


def test_consent_is_optional_where_the_policy_says_so() -> None:
    assert ask(with_policy(consent=Consent.OPTIONAL), consent=None).status_code == 202


def test_the_label_cannot_be_switched_off_against_the_policy(service: Service) -> None:
    answer = ask(service, label={"visible": False})
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "weakens_policy"), "label.visible")
    assert nothing_begun(service)


@pytest.mark.parametrize(
    ("policy", "asked", "drawn"),
    [(True, None, True), (True, True, True), (False, None, False), (False, True, True), (False, False, False)],
)
def test_the_label_is_drawn_if_policy_or_caller_says_so(policy: bool, asked: bool | None, drawn: bool) -> None:
    service = with_policy(label_visible=policy)
    hand = Hand(service=service, id=accepted(service, **({} if asked is None else {"label": {"visible": asked}})))
    assert asyncio.run(hand.load()).transform.options.label is drawn


def test_a_swapper_that_does_not_run_here_is_not_quietly_another(service: Service) -> None:
    answer = ask(service, swapper="neural")
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "swapper_unavailable"), "swapper")
    assert nothing_begun(service)
    neural = make_service(changes={"swappers": frozenset({"auto", "neural"})})
    assert ask(neural, swapper="neural").status_code == 202


HOOK = "https://hooks.example/done?x=1"


def test_a_callback_goes_to_hosts_that_the_operator_has_named() -> None:
    service = make_service(changes={"webhook_hosts": frozenset({"hooks.example", "other.example:8443"})})
    for url in (HOOK, "https://HOOKS.example/", "https://other.example:8443/x"):
        hand = Hand(service=service, id=accepted(service, callback_url=url))
        assert asyncio.run(hand.load()).transform.callback_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "https://evil.example/", "https://hooks.example:444/", "https://hooks.example.evil.example/", "https://u:p@hooks.example/",
        "https://hooks.example@evil.example/", "ftp://hooks.example/", "hooks.example", "https://", "https://127.0.0.1/", "https://hooks.example./", "//hooks.example/",
    ],
)  # fmt: skip
def test_no_callback_goes_anywhere_else(url: str) -> None:
    service = make_service(changes={"webhook_hosts": frozenset({"hooks.example"})})
    answer = ask(service, callback_url=url)
    assert (status_and_code(answer), error_of(answer)["param"]) == ((422, "callback_not_allowed"), "callback_url")
    assert nothing_begun(service)


def test_by_default_there_are_no_callbacks(service: Service) -> None:
    assert status_and_code(ask(service, callback_url=HOOK)) == (422, "callback_not_allowed")


def test_http_will_do_for_a_callback_only_by_setting() -> None:
    service = make_service(changes={"webhook_hosts": frozenset({"127.0.0.1:8123"}), "webhook_http": True})
    assert ask(service, callback_url="http://127.0.0.1:8123/x").status_code == 202


# --- trouble with store and record ------------------------------------------------------------------


def test_without_the_store_nothing_is_accepted(service: Service) -> None:
    service.areas.fault = RecordUnavailable("x")
    assert status_and_code(ask(service)) == (503, "record_unavailable")
    assert service.queue.jobs == {}


def test_a_commit_in_doubt_keeps_the_bytes_that_it_may_have_named(service: Service) -> None:
    service.transforms.fault = RecordUnavailable("x")
    assert status_and_code(ask(service)) == (503, "record_unavailable")
    assert len(service.areas.files) == 2


def test_one_transform_too_many_is_503_and_leaves_neither_bytes_nor_a_claimed_key(service: Service) -> None:
    service.queue.max_queued = 1
    id = accepted(service)
    kept = dict(service.areas.files)
    answer = ask(service, key="k")
    assert status_and_code(answer) == (503, "overloaded")
    assert answer.headers["retry-after"] == "10"
    assert service.areas.files == kept
    assert [found["id"] for found in listed(service)] == [f"trf_{id.hex}"]
    service.queue.states[id] = QueueState.DONE
    assert ask(service, key="k").status_code == 202


# --- idempotency -----------------------------------------------------------------------------------


def test_the_same_request_again_gives_the_same_transform(service: Service) -> None:
    first, second = ask(service, key="k"), ask(service, key="k")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert len(service.queue.jobs) == 1


def test_bytes_of_a_request_that_came_too_late_are_deleted(service: Service) -> None:
    id = accepted(service)
    before = dict(service.areas.files)
    ask(service, key="k")
    ask(service, key="k")
    assert len(service.areas.files) == 4
    assert before.items() <= service.areas.files.items()
    assert {name.split("/")[1] for _, name in service.areas.files} >= {id.hex}


def test_a_replay_shows_the_transform_as_it_is_now(service: Service) -> None:
    id = ask(service, key="k").json()["id"]
    hand = Hand(service=service, id=next(iter(service.queue.jobs)))
    asyncio.run(hand.to(State.RELEASED))
    again = ask(service, key="k")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, id, "released")
    assert again.content == ask(service, key="k").content


@pytest.mark.parametrize(
    "other",
    [
        {"source": TARGET},
        {"target": SOURCE},
        {"source": TARGET, "target": SOURCE},
        {"reference": "x"},
        {"faces": "all"},
        {"consent": {"basis": "licensed"}},
        {"output": {"quality": 91}},
    ],
)
def test_a_key_that_was_used_for_another_request_is_422(service: Service, other: dict[str, Any]) -> None:
    ask(service, key="k")
    before = dict(service.areas.files)
    assert status_and_code(ask(service, key="k", **other)) == (422, "idempotency_mismatch")
    assert service.areas.files == before
    assert len(service.queue.jobs) == 1


def test_neither_wait_nor_defaults_written_out_make_another_request(service: Service) -> None:
    first = ask(service, key="k")
    second = ask(service, key="k", url="/v1/transforms?wait=0.01", faces="largest", output={"format": "auto"}, target_consent=None)
    assert second.json()["id"] == first.json()["id"]


def test_a_replay_is_answered_however_much_the_policy_asks_for_by_now(service: Service) -> None:
    first = ask(service, key="k")
    stricter = replace(make_policy(), target_consent=Consent.REQUIRED, sources="catalogue")
    asyncio.run(service.policies.publish(TENANT, "default", stricter, "operator"))
    again = ask(service, key="k")
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (202, first.content, "true")
    assert status_and_code(ask(service, key="k", faces="all")) == (422, "idempotency_mismatch")
    assert ask(service).status_code == 422


def test_a_refused_request_leaves_its_key_free(service: Service) -> None:
    assert ask(service, key="k", consent=None).status_code == 422
    assert ask(service, key="k").status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
def test_a_malformed_idempotency_key_is_400(service: Service, key: str) -> None:
    assert status_and_code(ask(service, key=key)) == (400, "bad_request")
    assert nothing_begun(service)


# --- waiting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [State.RELEASED, State.DENIED, State.HELD, State.FAILED, State.CANCELLED])
def test_waiting_ends_with_the_transform(service: Service, end: State) -> None:
    accept, begun = service.transforms.accept, asyncio.Event()

    async def noted(*args: Any, **rest: Any) -> Any:
        begun.set()
        return await accept(*args, **rest)

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> httpx.Response:
        service.transforms.accept = noted  # type: ignore[method-assign]
        waiting = asyncio.create_task(client.post("/v1/transforms?wait=30", headers=bearer(), **form()))
        await begun.wait()
        await Hand(service=service, id=next(iter(service.queue.jobs))).to(end)
        return await waiting

    answer = service.run(visit)
    assert (answer.status_code, answer.json()["state"]) == (200, end)


def test_waiting_is_bounded_by_the_service() -> None:
    service = make_service(changes={"bounds": Bounds(max_wait_s=0.05)})
    assert ask(service, url="/v1/transforms?wait=1000000").status_code == 202


def test_who_waits_holds_no_memory_for_what_was_sent() -> None:
    """There is room for the bodies of one request only."""
    service = make_service(changes={"bounds": Bounds(in_memory=len(SOURCE) + len(TARGET) + 2000)})
    accept, begun = service.transforms.events, asyncio.Event()

    async def noted(*args: Any, **rest: Any) -> Any:
        begun.set()
        return await accept(*args, **rest)

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[httpx.Response]:
        service.transforms.events = noted  # type: ignore[method-assign]
        waiting = asyncio.create_task(client.post("/v1/transforms?wait=30", headers=bearer(), **form()))
        await begun.wait()
        second = await client.post("/v1/transforms", headers=bearer(), **form())
        await Hand(service=service, id=next(iter(service.queue.jobs))).to(State.FAILED)
        return [await waiting, second]

    assert [answer.status_code for answer in service.run(visit)] == [200, 202]


def test_when_too_many_wait_the_others_are_answered_at_once() -> None:
    service = make_service(changes={"bounds": Bounds(streams=0)})
    assert ask(service, url="/v1/transforms?wait=60").status_code == 202


@pytest.mark.parametrize("query", ["?wait=-1", "?wait=x", "?wait=nan", "?wait=1&wait=1", "?policy=default", "?x=1"])
def test_no_other_parameters_are_taken(service: Service, query: str) -> None:
    assert status_and_code(ask(service, url=f"/v1/transforms{query}")) == (422, "invalid_parameter")
    assert nothing_begun(service)


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_a_transform_in_every_state_is_what_the_page_says(service: Service, state: State) -> None:
    hand = worked(service, state)
    answer = service.request("GET", path_of(hand.id))
    assert answer.status_code == 200
    view = TransformView.model_validate_json(answer.content)
    assert view.state == state
    assert list(answer.json()) == list(TransformView.model_fields)
    assert (answer.json()["finished_at"] is not None) is (state in {"released", "denied", "failed", "cancelled"})
    assert (answer.json()["release"] is not None) is (state is State.RELEASED)
    assert (answer.json()["denial"] is not None) is (state is State.DENIED)
    assert (answer.json()["failure"] is not None) is (state is State.FAILED)


def test_a_released_transform_names_its_file_and_its_decisions(service: Service) -> None:
    hand = worked(service, State.RELEASED)
    document = service.request("GET", path_of(hand.id)).json()
    signed = asyncio.run(hand.load()).parts[1]
    assert document["release"] == {
        "sha256": signed.sha256,
        "type": "image/jpeg",
        "bytes": signed.size,
        "width": 64,
        "height": 48,
        "faces_changed": 1,
        "faces_skipped": 2,
        "duration_s": None,
        "url": path_of(hand.id, "/output"),
        "expires_at": "2026-09-08T12:00:00.123456Z",
        "content_credentials": True,
    }
    assert document["decisions"] == {str(stage): f"dec_{decision.id.hex}" for stage, decision in hand.decisions.items()}
    assert document["progress"] == {"phase": "released", "done": 6, "total": 6, "eta_s": None}


def test_a_denial_says_where_and_why(service: Service) -> None:
    hand = worked(service, State.DENIED)
    denial = service.request("GET", path_of(hand.id)).json()["denial"]
    assert (denial["stage"], denial["decision_id"]) == ("source", f"dec_{hand.decisions[Stage.SOURCE].id.hex}")
    assert [(reason["code"], reason["category"], reason["score"]) for reason in denial["reasons"]] == [
        ("over_block_threshold", "sexual.nudity_explicit", "0.973100")
    ]


def test_a_failure_says_whether_trying_again_may_help(service: Service) -> None:
    hand = worked(service, State.FAILED)
    assert service.request("GET", path_of(hand.id)).json()["failure"] == {
        "code": "no_face",
        "message": "No face was found in the source.",
        "retryable": False,
    }


def test_progress_counts_the_steps_that_are_committed(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))

    def progress() -> tuple[str, int]:
        found = service.request("GET", path_of(hand.id)).json()["progress"]
        return found["phase"], found["done"]

    seen = [progress()]
    for step in (hand.screen, hand.produce, hand.screen_output, hand.sign, hand.release, hand.publish):
        asyncio.run(step())
        seen.append(progress())
    assert seen == [
        ("queued", 0),
        ("screening", 2),
        ("transforming", 3),
        ("screening_output", 4),
        ("screening_output", 5),
        ("screening_output", 5),
        ("released", 6),
    ]


def test_the_latest_decision_of_a_stage_is_the_one_that_counts(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def twice() -> None:
        await hand.screen()
        await hand.decide(Stage.SOURCE, LOUD)

    asyncio.run(twice())
    document = service.request("GET", path_of(hand.id)).json()
    assert document["decisions"]["source"] == f"dec_{hand.decisions[Stage.SOURCE].id.hex}"


def test_a_withdrawn_release_is_not_offered_any_more(service: Service) -> None:
    hand = worked(service, State.RELEASED)
    asyncio.run(service.reviews.add(make_review(hand.decisions[Stage.OUTPUT].id), to_wake=hand.id))
    document = service.request("GET", path_of(hand.id)).json()
    assert (document["state"], document["release"]) == ("released", None)


def test_the_document_says_nothing_of_statements_and_urls() -> None:
    service = make_service(changes={"webhook_hosts": frozenset({"hooks.example"})})
    hand = worked(service, State.RELEASED, callback_url=HOOK, reference="order-17")
    text = service.request("GET", path_of(hand.id)).text
    assert not {word for word in ("It is me", "hooks.example", "order-17", sha256_of(SOURCE), TENANT.hex) if word in text}


@pytest.mark.parametrize("id", ["trf_" + "0" * 32, "dec_" + "0" * 32, "trf_1", "x", "trf_" + "G" * 32])
def test_what_is_no_transform_is_404(service: Service, id: str) -> None:
    for path in ("", "/output", "/events"):
        assert status_and_code(service.request("GET", f"/v1/transforms/{id}{path}")) == (404, "not_found")
    assert status_and_code(service.request("POST", f"/v1/transforms/{id}/cancel")) == (404, "not_found")


def test_another_tenant_finds_nothing(service: Service) -> None:
    hand = worked(service, State.RELEASED)
    service.keys.keys["o" * 20] = make_key("o" * 20, tenant=OTHER_TENANT)
    for method, path in (("GET", ""), ("GET", "/output"), ("GET", "/events"), ("POST", "/cancel")):
        answer = service.request(method, path_of(hand.id, path), headers=OTHER)
        assert status_and_code(answer) == (404, "not_found")
    assert service.request("GET", "/v1/transforms", headers=OTHER).json()["data"] == []


def test_an_unavailable_record_is_503(service: Service) -> None:
    hand = worked(service, State.RELEASED)
    service.transforms.fault = RecordUnavailable("x")
    for path in ("", "/output", "/events"):
        assert status_and_code(service.request("GET", path_of(hand.id, path))) == (503, "record_unavailable")


# --- lists -----------------------------------------------------------------------------------------


def test_transforms_are_listed_newest_first_in_pages(service: Service) -> None:
    ids = [f"trf_{accepted(service).hex}" for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = service.request("GET", f"/v1/transforms?limit=2{cursor}").json()
        assert page["object"] == "list"
        seen += [one["id"] for one in page["data"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]
    assert page["next_cursor"] is None


def test_lists_are_narrowed_by_state_and_reference(service: Service) -> None:
    released, queued = worked(service, State.RELEASED, reference="a"), accepted(service, reference="b")
    assert [one["id"] for one in listed(service, "?state=released")] == [f"trf_{released.id.hex}"]
    assert [one["id"] for one in listed(service, "?reference=b")] == [f"trf_{queued.hex}"]
    assert listed(service, "?state=released&reference=b") == []


@pytest.mark.parametrize(
    "query", ["?state=done", "?cursor=dec_" + "0" * 32, "?limit=0", "?limit=501", "?reference=", "?x=1", "?reference=a%00b"]
)
def test_a_filter_that_cannot_be_is_422(service: Service, query: str) -> None:
    assert status_and_code(service.request("GET", f"/v1/transforms{query}")) == (422, "invalid_parameter")


# --- cancelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT, State.HELD])
def test_what_has_not_ended_can_be_cancelled(service: Service, state: State) -> None:
    hand = worked(service, state)
    answer = service.request("POST", path_of(hand.id, "/cancel"))
    assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert asyncio.run(hand.load()).cancel_requested


def test_a_held_transform_is_woken_by_its_cancellation(service: Service) -> None:
    hand = worked(service, State.HELD)
    service.request("POST", path_of(hand.id, "/cancel"))
    assert service.queue.states[hand.id] is QueueState.QUEUED


def test_what_is_cancelled_stays_so(service: Service) -> None:
    hand = worked(service, State.CANCELLED)
    answer = service.request("POST", path_of(hand.id, "/cancel"))
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")


@pytest.mark.parametrize("state", [State.RELEASED, State.DENIED, State.FAILED])
def test_what_has_ended_otherwise_cannot_be_cancelled(service: Service, state: State) -> None:
    hand = worked(service, state)
    assert status_and_code(service.request("POST", path_of(hand.id, "/cancel"))) == (409, "already_ended")
    assert not asyncio.run(hand.load()).cancel_requested


def test_what_is_released_and_only_not_yet_published_cannot_be_cancelled(service: Service) -> None:
    hand = worked(service, State.SCREENING_OUTPUT)

    async def release() -> None:
        await hand.sign()
        await hand.release()

    asyncio.run(release())
    assert status_and_code(service.request("POST", path_of(hand.id, "/cancel"))) == (409, "already_ended")


def test_a_cancellation_may_carry_an_idempotency_key(service: Service) -> None:
    one, other = accepted(service), accepted(service)
    keyed = {**bearer(), "idempotency-key": "k"}
    assert service.request("POST", path_of(one, "/cancel"), headers=keyed).status_code == 200
    assert service.request("POST", path_of(one, "/cancel"), headers=keyed).status_code == 200
    assert status_and_code(service.request("POST", path_of(other, "/cancel"), headers=keyed)) == (422, "idempotency_mismatch")
    assert not asyncio.run(Hand(service=service, id=other).load()).cancel_requested


# --- the pure part ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_the_same_facts_are_the_same_bytes(service: Service, state: State) -> None:
    committed = asyncio.run(worked(service, state).load())
    assert encode(transform_document(committed)) == encode(transform_document(committed, committed.events[-1]))


def test_as_of_an_event_later_ends_are_not_told(service: Service) -> None:
    committed = asyncio.run(worked(service, State.RELEASED).load())
    states = [transform_document(committed, event) for event in committed.events]
    assert [document["state"] for document in states] == ["queued", "screening", "transforming", "screening_output", "released"]
    assert [document["release"] is not None for document in states] == [False] * 4 + [True]
    assert [document["finished_at"] is not None for document in states] == [False] * 4 + [True]
