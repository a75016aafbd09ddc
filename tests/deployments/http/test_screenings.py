from __future__ import annotations

import asyncio
import functools
import time

import httpx
import pytest
from fastapi import FastAPI

from deployments.http.gateway import Bounds
from deployments.screening_worker import AREA
from moderation.errors import ClassifierUnavailable, MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.media import Stage, sha256_of
from moderation.ports import QueueState
from tests.builders import LOUD, TENANT, jpeg_bytes, make_policy, make_rule
from tests.fakes import ScriptedClassifier, ScriptedDecoder
from tests.http_kit import KEY_ID, Service, bearer, error_of, make_key, make_service, multipart, status_and_code
from tests.real_http import worker_of

PICTURE = jpeg_bytes()
MEDIA = 'Content-Disposition: form-data; name="media"; filename="x.jpg"'


def option(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


def post_form(service: Service, *parts: tuple[str, bytes], **changes: str) -> httpx.Response:
    body, headers = multipart(*parts)
    return service.request("POST", "/v1/screenings", content=body, headers={**bearer(), **headers, **changes})


# --- what is taken ---------------------------------------------------------------------------------


def test_a_picture_in_a_form_is_judged_and_recorded(service: Service) -> None:
    answer = service.screen(PICTURE)
    assert answer.status_code == 200
    (decision,) = service.log.decisions
    assert answer.json()["id"] == f"dec_{decision.id.hex}"
    assert answer.json()["verdict"] == "allow"
    assert (decision.tenant, decision.actor, decision.stage) == (TENANT, KEY_ID, Stage.UPLOAD)
    assert decision.media.sha256 == sha256_of(PICTURE)
    assert decision.request_id == answer.headers["x-request-id"]


def test_raw_bytes_are_judged_under_their_content_type(service: Service) -> None:
    answer = service.request("POST", "/v1/screenings", content=PICTURE, headers={**bearer(), "content-type": "image/jpeg; q=1"})
    assert answer.status_code == 200
    assert service.log.decisions[0].media.sha256 == sha256_of(PICTURE)
    assert service.decoder.plans[0].declared_type == "image/jpeg"


def test_a_block_is_a_successful_answer() -> None:
    service = make_service(classifiers=(ScriptedClassifier(scores=LOUD),))
    answer = service.screen(PICTURE)
    assert (answer.status_code, answer.json()["verdict"]) == (200, "block")


def test_options_stand_in_the_form(service: Service) -> None:
    service.keys.keys[KEY_ID] = make_key(policies=("default", "other"))
    service.policies.shelf[TENANT, "other"] = [make_policy(make_rule("sexual"), name="other")]
    answer = service.screen(PICTURE, policy="other", reference="order-17", strict="true")
    assert (answer.json()["policy"]["name"], answer.json()["reference"]) == ("other", "order-17")
    assert service.decoder.plans[0].strict


def test_options_of_raw_bytes_stand_in_the_query(service: Service) -> None:
    url = "/v1/screenings?reference=order-17&strict=true&policy=default"
    answer = service.request("POST", url, content=PICTURE, headers={**bearer(), "content-type": "image/png"})
    assert answer.json()["reference"] == "order-17"
    assert service.decoder.plans[0].strict


@pytest.mark.parametrize(
    "name",
    ["../../x", "a\0b", "x" * 4096, "\u202egpj.exe", '\\"quoted\\"', "", "CON", "x.jpg; name=policy"],
    ids=["climbing", "nul", "long", "right-to-left", "quoted", "empty", "device", "injected"],
)
def test_the_name_of_a_file_is_never_looked_at(service: Service, name: str) -> None:
    answer = post_form(service, (f'Content-Disposition: form-data; name="media"; filename="{name}"', PICTURE))
    assert answer.status_code == 200
    assert service.log.decisions[0].media.sha256 == sha256_of(PICTURE)
    assert service.log.decisions[0].policy.name == "default"


def test_a_media_part_needs_no_file_name(service: Service) -> None:
    assert post_form(service, (option("media"), PICTURE)).status_code == 200


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(option("policy"), b"default")],
        [(MEDIA, PICTURE), (MEDIA, PICTURE)],
        [(MEDIA, PICTURE), ('Content-Disposition: form-data; name="second"; filename="y"', PICTURE)],
        [("Content-Disposition: form-data", PICTURE)],
        [("Content-Type: image/jpeg", PICTURE)],
        [("Content-Disposition: form-data; name=", PICTURE)],
        [(MEDIA, PICTURE), (option("reference"), b"a"), (option("reference"), b"b")],
        [(MEDIA, PICTURE), ('Content-Disposition: form-data; name="policy"; filename="p"', b"default")],
        [(MEDIA, PICTURE), (option("colour"), b"red")],
        [(MEDIA + f"\r\n{MEDIA}", PICTURE)],
        [(option("policy"), b"default")] * 20,
        [("X: " + "y" * 100_000 + "\r\n" + MEDIA, PICTURE)],
        [("bad header line", PICTURE)],
    ],
)
def test_a_form_that_is_not_one_media_with_its_options_is_400(service: Service, parts: list[tuple[str, bytes]]) -> None:
    assert status_and_code(post_form(service, *parts)) == (400, "bad_request")
    assert service.log.decisions == []


@pytest.mark.parametrize(
    "body", [b"", b"nothing", b"--b0undary", b"--b0undary--", b"--b0undary\r\n" + MEDIA.encode() + b"\r\n\r\nhalf a pic"]
)
def test_a_form_that_is_cut_off_is_400(service: Service, body: bytes) -> None:
    headers = {**bearer(), "content-type": "multipart/form-data; boundary=b0undary"}
    assert status_and_code(service.request("POST", "/v1/screenings", content=body, headers=headers)) == (400, "bad_request")


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 5000])
def test_a_form_without_a_usable_boundary_is_400(service: Service, kind: str) -> None:
    body, _ = multipart((MEDIA, PICTURE))
    assert status_and_code(service.request("POST", "/v1/screenings", content=body, headers={**bearer(), "content-type": kind})) == (
        400,
        "bad_request",
    )


@pytest.mark.parametrize(
    "kind", ["", "application/json", "text/html", "application/octet-stream", "multipart/mixed; boundary=x", "imag", "\xff"]
)
def test_a_body_that_is_neither_form_nor_picture_is_415(service: Service, kind: str) -> None:
    headers = {**bearer(), "content-type": kind.encode("latin-1")}
    assert status_and_code(service.request("POST", "/v1/screenings", content=PICTURE, headers=headers)) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strict", "maybe"),
        ("reference", "x" * 257),
        ("reference", "a\0b"),
        ("reference", "line\nbreak"),
        ("policy", "p" * 65),
        ("reference", "\u202ex"),
    ],
)
def test_an_option_with_an_impossible_value_is_422(service: Service, name: str, value: str) -> None:
    answer = service.screen(PICTURE, **{name: value})
    assert status_and_code(answer) == (422, "invalid_parameter")
    assert error_of(answer)["param"] == name


def test_an_option_that_is_no_text_is_422(service: Service) -> None:
    assert status_and_code(post_form(service, (MEDIA, PICTURE), (option("reference"), b"\xff\xfe"))) == (422, "invalid_parameter")


def test_an_option_in_both_places_is_400(service: Service) -> None:
    assert status_and_code(service.screen(PICTURE, url="/v1/screenings?strict=true", strict="false")) == (400, "bad_request")


@pytest.mark.parametrize(
    "query", ["wait=soon", "wait=-1", "wait=nan", "wait=inf", "polciy=strict", "wait=1&wait=2", "strict=true&strict=false"]
)
def test_a_query_that_cannot_be_is_422(service: Service, query: str) -> None:
    assert status_and_code(service.screen(PICTURE, url=f"/v1/screenings?{query}")) == (422, "invalid_parameter")
    assert service.log.decisions == []


def test_a_policy_that_is_not_on_the_keys_list_is_403(service: Service) -> None:
    service.policies.shelf[TENANT, "lax"] = [make_policy(name="lax")]
    assert status_and_code(service.screen(PICTURE, policy="lax")) == (403, "policy_not_allowed")
    service.keys.keys[KEY_ID] = make_key(policies=())
    assert status_and_code(service.screen(PICTURE)) == (403, "policy_not_allowed")


def test_a_policy_on_the_list_that_does_not_exist_is_422(service: Service) -> None:
    service.keys.keys[KEY_ID] = make_key(policies=("gone",))
    assert status_and_code(service.screen(PICTURE)) == (422, "policy_not_found")


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_media_that_cannot_be_judged_is_refused_with_its_decision(refusal: Refusal) -> None:
    service = make_service(decoder=ScriptedDecoder(fault=MediaRefused(refusal)))
    answer = service.screen(PICTURE)
    (decision,) = service.log.decisions
    assert error_of(answer)["code"] == str(refusal)
    assert error_of(answer)["decision_id"] == f"dec_{decision.id.hex}"
    assert 400 <= answer.status_code < 500


def test_an_unavailable_classifier_is_a_503_with_its_decision() -> None:
    service = make_service(classifiers=(ScriptedClassifier(fault=ClassifierUnavailable("10.0.0.7:6379 refused")),))
    answer = service.screen(PICTURE)
    assert status_and_code(answer) == (503, "classifier_unavailable")
    assert error_of(answer)["decision_id"] == f"dec_{service.log.decisions[0].id.hex}"
    assert answer.headers["retry-after"] == "1"
    assert "10.0.0.7" not in answer.text


def test_an_unavailable_record_is_a_503_and_nothing_is_decided(service: Service) -> None:
    service.log.fault = RecordUnavailable("connection to server at 10.0.0.9 failed")
    answer = service.screen(PICTURE)
    assert status_and_code(answer) == (503, "record_unavailable")
    assert "10.0.0.9" not in answer.text


def test_a_full_decoder_is_a_503_that_says_when_to_come_back() -> None:
    service = make_service(decoder=ScriptedDecoder(fault=Overloaded("decoder", 3.0)))
    answer = service.screen(PICTURE)
    assert status_and_code(answer) == (503, "overloaded")
    assert answer.headers["retry-after"] == "3"


def test_a_full_record_is_a_503_that_says_when_to_come_back_and_nothing_is_decided(service: Service) -> None:
    service.log.fault = Overloaded("record")
    answer = service.screen(PICTURE)
    assert status_and_code(answer) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert service.log.decisions == []


def test_a_bug_is_a_500_in_the_one_shape(service: Service) -> None:
    service.policies.fault = ZeroDivisionError("secret")
    answer = service.screen(PICTURE)
    assert status_and_code(answer) == (500, "internal_error")
    assert "secret" not in answer.text


def test_too_many_screenings_at_once_are_turned_away() -> None:
    gate = asyncio.Event()
    service = make_service(classifiers=(ScriptedClassifier(gate=gate),), changes={"bounds": Bounds(requests=2)})

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[int]:
        files = {"media": ("x", PICTURE)}
        waiting = [asyncio.create_task(client.post("/v1/screenings", files=files, headers=bearer())) for _ in range(2)]
        await asyncio.sleep(0.2)
        third = await client.post("/v1/screenings", files=files, headers=bearer())
        gate.set()
        return [third.status_code, *[(await answer).status_code for answer in waiting]]

    assert service.run(visit) == [503, 200, 200]


def test_bodies_in_memory_are_bounded_and_the_memory_comes_back() -> None:
    service = make_service(changes={"bounds": Bounds(in_memory=len(PICTURE) + 300)})

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[int]:
        headers = {**bearer(), "content-type": "image/jpeg"}
        return [
            (await client.post("/v1/screenings", content=PICTURE + bytes(extra), headers=headers)).status_code for extra in (0, 301, 0, 0)
        ]

    assert service.run(visit) == [200, 503, 200, 200]


# --- waiting ---------------------------------------------------------------------------------------


def slow_service() -> tuple[Service, asyncio.Event]:
    gate = asyncio.Event()
    return make_service(classifiers=(ScriptedClassifier(gate=gate),)), gate


def test_what_takes_longer_than_wait_is_accepted_and_durable() -> None:
    service, gate = slow_service()

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        files = {"media": ("x", PICTURE)}
        answer = await client.post("/v1/screenings?wait=0.1", files=files, data={"reference": "r-1"}, headers=bearer())
        assert answer.status_code == 202
        id = answer.json()["id"]
        assert answer.json() == {"id": id, "object": "decision", "status": "running", "verdict": None}
        assert answer.headers["location"] == f"/v1/screenings/{id}"
        (job,) = service.queue.jobs.values()
        assert (job.payload["reference"], job.payload["policy"]) == ("r-1", {"name": "default", "version": 1})
        assert list(service.store.files.values()) == [PICTURE]
        while_running = await client.get(answer.headers["location"], headers=bearer())
        assert (while_running.status_code, while_running.json()["status"]) == (200, "running")
        gate.set()
        await app.state.screenings.drain()
        done = await client.get(answer.headers["location"], headers=bearer())
        assert (done.json()["id"], done.json()["status"], done.json()["verdict"]) == (id, "done", "allow")
        assert service.queue.states[job.id] is QueueState.DONE
        assert service.store.files == {}

    service.run(visit)


def test_the_lease_is_renewed_while_the_work_goes_on() -> None:
    service, gate = slow_service()
    service.changes = {"bounds": Bounds(lease_s=0.06)}
    renewed = []
    renew = service.queue.renew

    async def counted(job, lease_s):
        renewed.append(job.id)
        return await renew(job, lease_s)

    service.queue.renew = counted  # type: ignore[method-assign]

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        await client.post("/v1/screenings?wait=0.05", files={"media": ("x", PICTURE)}, headers=bearer())
        await asyncio.sleep(0.15)
        gate.set()

    service.run(visit)
    assert len(renewed) >= 3


def test_a_screening_that_another_worker_took_over_leaves_its_result_alone() -> None:
    service, gate = slow_service()

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        await client.post("/v1/screenings?wait=0.05", files={"media": ("x", PICTURE)}, headers=bearer())
        (id,) = service.queue.jobs
        service.queue.expire(id)
        assert await service.queue.take(("screening",), 30) is not None
        gate.set()
        await app.state.screenings.drain()
        assert service.log.decisions == []
        assert service.queue.states[id] is QueueState.RUNNING
        assert len(service.store.files) == 1

    service.run(visit)


def test_a_screening_that_fails_after_its_202_goes_to_the_queue() -> None:
    service, gate = slow_service()

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        await client.post("/v1/screenings?wait=0.05", files={"media": ("x", PICTURE)}, headers=bearer())
        service.log.fault = RecordUnavailable("gone")
        gate.set()
        await app.state.screenings.drain()
        (id,) = service.queue.jobs
        assert service.queue.states[id] is QueueState.QUEUED
        assert len(service.store.files) == 1

    service.run(visit)


@pytest.mark.parametrize("fault", [ClassifierUnavailable("x"), Overloaded("x")])
def test_a_fault_of_ours_after_the_202_is_no_end_and_a_worker_judges_it(fault: Exception) -> None:
    service, gate = slow_service()

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        answer = await client.post("/v1/screenings?wait=0.05", files={"media": ("x", PICTURE)}, headers=bearer())
        service.classifiers[0].fault = fault
        gate.set()
        await app.state.screenings.drain()
        assert service.log.decisions == []
        waiting = await client.get(answer.headers["location"], headers=bearer())
        assert (waiting.json()["status"], waiting.json()["verdict"]) == ("queued", None)
        service.classifiers[0].fault = None
        await worker_of(service.gateway()).run_once()
        done = await client.get(answer.headers["location"], headers=bearer())
        assert (done.json()["status"], done.json()["verdict"]) == ("done", "allow")
        assert service.store.files == {}

    service.run(visit)
    assert len(service.log.decisions) == 1


def test_wait_0_puts_the_work_off_to_any_worker(service: Service) -> None:
    answer = service.screen(PICTURE, url="/v1/screenings?wait=0")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert service.log.decisions == []
    ((area, name),) = service.store.files
    assert area == AREA
    assert name.startswith(TENANT.hex)
    assert name.endswith(sha256_of(PICTURE))


def test_two_jobs_with_the_same_bytes_do_not_share_them(service: Service) -> None:
    service.screen(PICTURE, url="/v1/screenings?wait=0")
    service.screen(PICTURE, url="/v1/screenings?wait=0")
    assert len(service.store.files) == 2


def test_a_full_queue_is_a_503_and_leaves_neither_bytes_nor_a_claimed_key(service: Service) -> None:
    service.queue.max_queued = 2
    for _ in range(2):
        assert service.screen(PICTURE, url="/v1/screenings?wait=0").status_code == 202
    kept = dict(service.store.files)
    claim = {**bearer(), "idempotency-key": "k"}
    post = functools.partial(service.request, "POST", "/v1/screenings?wait=0", files={"media": ("x", PICTURE)}, headers=claim)
    answer = post()
    assert status_and_code(answer) == (503, "overloaded")
    assert answer.headers["retry-after"] == "10"
    assert service.store.files == kept
    assert len(service.queue.jobs) == 2
    service.queue.states = dict.fromkeys(service.queue.jobs, QueueState.DONE)
    assert post().status_code == 202


def test_what_has_begun_is_not_refused_by_a_full_queue() -> None:
    service, gate = slow_service()
    service.queue.max_queued = 0

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> int:
        answer = await client.post("/v1/screenings?wait=0.05", files={"media": ("x", PICTURE)}, headers=bearer())
        gate.set()
        return answer.status_code

    assert service.run(visit) == 202
    assert len(service.log.decisions) == 1


def test_a_store_in_trouble_is_a_503_and_not_a_202(service: Service) -> None:
    service.store.fault = RecordUnavailable("no space left on device")
    assert status_and_code(service.screen(PICTURE, url="/v1/screenings?wait=0")) == (503, "record_unavailable")
    assert service.queue.jobs == {}


def test_a_given_up_screening_is_no_longer_waited_for(service: Service) -> None:
    answer = service.screen(PICTURE, url="/v1/screenings?wait=0")
    (id,) = service.queue.jobs
    service.queue.states[id] = QueueState.PARKED
    found = service.request("GET", answer.headers["location"]).json()
    assert (found["status"], found["verdict"]) == ("parked", "error")


def test_wait_is_bounded_by_the_service() -> None:
    service, gate = slow_service()
    service.changes = {"bounds": Bounds(max_wait_s=0.1)}

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> int:
        began = time.monotonic()
        answer = await client.post("/v1/screenings?wait=3600", files={"media": ("x", PICTURE)}, headers=bearer())
        gate.set()
        assert time.monotonic() - began < 2
        return answer.status_code

    assert service.run(visit) == 202


def test_the_work_goes_on_when_the_client_goes_away() -> None:
    service, gate = slow_service()

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        request = asyncio.create_task(client.post("/v1/screenings", files={"media": ("x", PICTURE)}, headers=bearer()))
        await asyncio.sleep(0.1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert service.log.decisions == []
        gate.set()
        await app.state.screenings.drain()
        assert [decision.verdict for decision in service.log.decisions] == ["allow"]

    service.run(visit)


def test_a_screening_that_ended_without_a_verdict_can_be_read() -> None:
    service = make_service(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TRUNCATED)))
    id = error_of(service.screen(PICTURE))["decision_id"]
    found = service.request("GET", f"/v1/screenings/{id}")
    assert (found.status_code, found.json()["verdict"]) == (200, "error")
    assert found.json()["reasons"][0]["detail"] == "truncated"


@pytest.mark.parametrize("id", ["dec_" + "0" * 32, "dec_1", "trf_" + "0" * 32, "%00", "x" * 3000])
def test_an_unknown_screening_is_404(service: Service, id: str) -> None:
    assert status_and_code(service.request("GET", f"/v1/screenings/{id}")) == (404, "not_found")
