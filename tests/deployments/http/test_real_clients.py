"""The whole service on loopback: decode children, the planted-marker classifier, the record in Postgres; the clients that people use."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from botocore.exceptions import ClientError

from deployments.http.gateway import Bounds
from moderation.access import Scope
from moderation.errors import ClassifierUnavailable
from moderation.media import sha256_of
from moderation.taxonomy import OPENAI_KEYS
from tests.aws import client_with
from tests.corpus import encode, marked, quiet
from tests.http_kit import Live, live
from tests.pg import PostgresServer
from tests.real_http import RealParts

pytestmark = pytest.mark.postgres

MARKED, QUIET = encode(marked(), "JPEG", quality=90), encode(quiet(), "JPEG", quality=90)


@pytest.fixture(scope="module")
def parts(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealParts, Live]]:
    with postgres_server.clone() as urls:
        parts = RealParts(urls=urls, folder=tmp_path_factory.mktemp("service"), bounds=Bounds(lease_s=2.0))
        with live(parts.make) as server:
            yield parts, server


@pytest.fixture
def http(parts: tuple[RealParts, Live]) -> Iterator[httpx.Client]:
    assert parts[0].made is not None
    headers = {"authorization": f"Bearer {parts[0].made.text}"}
    with httpx.Client(base_url=parts[1].url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def slow(parts: tuple[RealParts, Live]) -> Iterator[None]:
    parts[0].classifier.delay_s = 1.0
    yield
    parts[0].classifier.delay_s = 0.0


def unique(data: bytes, number: int) -> bytes:
    """The same picture as another file."""
    return data[:2] + b"\xff\xfe\x00\x06" + number.to_bytes(4, "big") + data[2:]


def post(http: httpx.Client, data: bytes, url: str = "/v1/screenings", **headers: str) -> httpx.Response:
    return http.post(url, files={"media": ("x.jpg", data, "image/jpeg")}, headers=headers)


# --- native ----------------------------------------------------------------------------------------


def test_a_planted_marker_is_blocked_and_the_record_gives_the_same_bytes(http: httpx.Client) -> None:
    answer = post(http, MARKED)
    assert (answer.status_code, answer.json()["verdict"]) == (200, "block")
    assert answer.json()["reasons"][0]["category"] == "test.marker"
    assert answer.json()["reasons"][0]["box"] is not None
    assert http.get(f"/v1/decisions/{answer.json()['id']}").content == answer.content
    assert http.get(f"/v1/screenings/{answer.json()['id']}").content == answer.content


def test_a_quiet_picture_is_allowed_and_found_again_by_its_bytes(http: httpx.Client) -> None:
    first, second = post(http, QUIET), post(http, QUIET)
    assert first.json()["verdict"] == second.json()["verdict"] == "allow"
    history = http.get(f"/v1/media/{sha256_of(QUIET)}/history").json()["data"]
    assert {first.json()["id"], second.json()["id"]} <= {decision["id"] for decision in history}


def test_a_replay_is_byte_for_byte_after_the_record(http: httpx.Client) -> None:
    data = unique(MARKED, 1)
    answers = [post(http, data, **{"idempotency-key": "replayed"}) for _ in range(3)]
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]


def test_row_79_the_same_request_many_times_at_once_is_one_decision(http: httpx.Client) -> None:
    data = unique(QUIET, 79)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(http, data, **{"idempotency-key": "row-79"}), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 409} <= {"in_progress"}
    final = post(http, data, **{"idempotency-key": "row-79"})
    assert {answer.content for answer in answers if answer.status_code == 200} == {final.content}
    assert len(http.get(f"/v1/media/{sha256_of(data)}/history").json()["data"]) == 1


def test_row_80_the_same_key_for_other_bytes_is_422(http: httpx.Client) -> None:
    post(http, unique(QUIET, 80), **{"idempotency-key": "row-80"})
    answer = post(http, unique(QUIET, 81), **{"idempotency-key": "row-80"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_mismatch")


def test_a_fault_of_ours_is_recorded_and_a_retry_under_its_key_is_a_new_attempt(parts: tuple[RealParts, Live], http: httpx.Client) -> None:
    data = unique(MARKED, 4)
    parts[0].classifier.fault = ClassifierUnavailable("gone")
    first = post(http, data, **{"idempotency-key": "fault"})
    parts[0].classifier.fault = None
    assert (first.status_code, first.json()["error"]["code"]) == (503, "classifier_unavailable")
    second = post(http, data, **{"idempotency-key": "fault"})
    assert (second.status_code, second.json()["verdict"]) == (200, "block")
    history = http.get(f"/v1/media/{sha256_of(data)}/history").json()["data"]
    assert [decision["verdict"] for decision in history] == ["block", "error"]


def test_a_refused_media_is_in_the_record_and_replayed(http: httpx.Client) -> None:
    data = QUIET[: len(QUIET) // 2]
    first, second = (post(http, data, **{"idempotency-key": "cut"}) for _ in range(2))
    assert (first.status_code, first.json()["error"]["code"]) == (422, "truncated")
    assert second.content == first.content
    found = http.get(f"/v1/decisions/{first.json()['error']['decision_id']}").json()
    assert (found["verdict"], found["reasons"][0]["detail"], found["media"]["sha256"]) == ("error", "truncated", sha256_of(data))


def test_pages_of_the_record_have_no_gap(http: httpx.Client) -> None:
    made = [post(http, unique(QUIET, 100 + number)).json()["id"] for number in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = http.get("/v1/decisions", params={"limit": "2", "verdict": "allow", **cursor}).json()
        seen += [decision["id"] for decision in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=True)
    assert set(made) <= set(seen)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/v1/decisions?reference=%00", 422),
        ("/v1/decisions?from=0001-01-01T00:00:00Z", 422),
        ("/v1/decisions?to=9999-12-31T23:59:59Z", 422),
        ("/v1/decisions?from=1970-01-01T00:00:00Z&to=8999-12-31T23:59:59Z&limit=1", 200),
        ("/v1/decisions?category=%F0%9F%98%80&policy=%22%5C&classifier=%7B%7D", 200),
        ("/v1/decisions?cursor=dec_ffffffffffffffffffffffffffffffff&limit=1", 200),
        ("/v1/decisions/dec_ffffffffffffffffffffffffffffffff", 404),
        ("/v1/policies/%00", 404),
        ("/v1/policies/%00/versions/1", 404),
    ],
)
def test_what_the_record_cannot_be_asked_is_refused_before_it_is(http: httpx.Client, url: str, status: int) -> None:
    assert http.get(url).status_code == status


@pytest.mark.usefixtures("slow")
def test_what_outlives_its_wait_is_finished_here_and_its_bytes_deleted(parts: tuple[RealParts, Live], http: httpx.Client) -> None:
    answer = post(http, unique(MARKED, 2), "/v1/screenings?wait=0.1")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert finished(http, answer.headers["location"])["verdict"] == "block"
    assert intake(parts[0].folder) == []


def test_a_worker_does_what_was_put_off(parts: tuple[RealParts, Live], http: httpx.Client) -> None:
    answer = post(http, unique(MARKED, 3), "/v1/screenings?wait=0", **{"idempotency-key": "put-off"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert len(intake(parts[0].folder)) == 1
    loop = parts[1].loop
    worker = parts[0].worker
    assert worker is not None
    while asyncio.run_coroutine_threadsafe(worker.run_once(), loop).result(30):
        pass
    done = finished(http, answer.headers["location"])
    assert (done["id"], done["verdict"]) == (answer.json()["id"], "block")
    assert post(http, unique(MARKED, 3), **{"idempotency-key": "put-off"}).json() == done
    assert intake(parts[0].folder) == []


def test_a_screening_that_was_given_up_says_so_in_the_record_for_good(parts: tuple[RealParts, Live], http: httpx.Client) -> None:
    answer = post(http, unique(QUIET, 4), "/v1/screenings?wait=0", **{"idempotency-key": "given-up"})
    worker, gateway = parts[0].worker, parts[0].gateway
    assert worker is not None
    assert gateway is not None

    async def park_and_end() -> tuple[httpx.Response, int]:
        job = await gateway.queue.take(["screening"], 30.0)
        assert job is not None
        await gateway.queue.fail(job, "three times", retry_in_s=None)
        given_up = await asyncio.to_thread(http.get, answer.headers["location"])
        return given_up, await worker.end_parked()

    given_up, ended = asyncio.run_coroutine_threadsafe(park_and_end(), parts[1].loop).result(30)
    assert ((given_up.json()["status"], given_up.json()["verdict"]), ended) == (("parked", "error"), 1)
    done = finished(http, answer.headers["location"])
    assert (done["verdict"], done["media"]["sha256"]) == ("error", sha256_of(unique(QUIET, 4)))
    assert [(reason["code"], reason["detail"]) for reason in done["reasons"]] == [("could_not_judge", "attempts_exhausted")]
    assert http.get(f"/v1/decisions/{done['id']}").json()["verdict"] == "error"
    assert intake(parts[0].folder) == []
    assert post(http, unique(QUIET, 4), **{"idempotency-key": "given-up"}).json()["verdict"] == "allow"


def finished(http: httpx.Client, location: str) -> dict[str, Any]:
    for _ in range(100):
        found: dict[str, Any] = http.get(location).json()
        if found["status"] == "done":
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def intake(folder: Path) -> list[Path]:
    return [path for path in (folder / "media" / "intake").rglob("*") if path.is_file()]


def test_a_revoked_key_is_refused(parts: tuple[RealParts, Live], http: httpx.Client) -> None:
    keys, tenant = parts[0].gateway.keys, parts[0].made.key.tenant
    making = keys.make(tenant=tenant, scopes=[Scope.AUDIT_READ], policies=[], actor="test")
    made = asyncio.run_coroutine_threadsafe(making, parts[1].loop).result(10)
    headers = {"authorization": f"Bearer {made.text}"}
    assert http.get("/v1/decisions", headers=headers).status_code == 200
    asyncio.run_coroutine_threadsafe(keys.revoke(tenant, made.key.id, "test"), parts[1].loop).result(10)
    assert http.get("/v1/decisions", headers=headers).status_code == 401


def test_ready_says_what_it_looked_at(http: httpx.Client) -> None:
    answer = http.get("/readyz")
    assert answer.json() == {"ready": True, "dependencies": {n: {"ready": True, "reason": None} for n in ("database", "store")}}


# --- OpenAI's client -------------------------------------------------------------------------------


@pytest.fixture
def ai(parts: tuple[RealParts, Live]) -> Iterator[openai.OpenAI]:
    assert parts[0].made is not None
    with httpx.Client(trust_env=False) as transport:
        yield openai.OpenAI(
            base_url=f"{parts[1].url}/v1",
            api_key=parts[0].made.text,
            http_client=cast("Any", transport),
            max_retries=0,
            _strict_response_validation=True,
        )


def image(data: bytes) -> Any:
    return [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(data).decode()}}]


def test_openais_client_validates_the_answer_strictly(ai: openai.OpenAI, http: httpx.Client) -> None:
    answer = ai.moderations.create(model="omni-moderation-latest", input=image(MARKED))
    (result,) = answer.results
    assert result.flagged
    assert result.categories.model_extra == {"test.marker": True}
    assert len(result.category_scores.model_dump(by_alias=True)) == len(OPENAI_KEYS) + 1
    assert result.category_applied_input_types.sexual_minors == []
    assert result.model_extra is not None
    named = result.model_extra["facegate"]["decision_id"]
    assert http.get(f"/v1/decisions/{named}").json()["verdict"] == "block"
    assert not ai.moderations.create(input=image(QUIET)).results[0].flagged


def test_openais_client_raises_its_own_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as text:
        ai.moderations.create(input="hello")
    assert (text.value.code, text.value.param, text.value.type) == ("text_not_supported", "input", "invalid_request_error")
    assert text.value.request_id is not None
    assert text.value.request_id.startswith("req_")
    with pytest.raises(openai.UnprocessableEntityError) as cut:
        ai.moderations.create(input=image(QUIET[:2000]))
    assert cut.value.code == "truncated"
    with pytest.raises(openai.AuthenticationError):
        ai.with_options(api_key="sk-other").moderations.create(input=image(QUIET))


# --- AWS's client ----------------------------------------------------------------------------------


@pytest.fixture
def aws(parts: tuple[RealParts, Live]) -> Any:
    made = parts[0].made
    assert made is not None
    assert made.sigv4 is not None
    return client_with(parts[1].url, made.sigv4.access_key_id, made.sigv4.secret_access_key)


def test_boto3_gets_labels_and_the_decision(aws: Any, http: httpx.Client) -> None:
    answer = aws.detect_moderation_labels(Image={"Bytes": MARKED}, MinConfidence=100)
    (label,) = answer["ModerationLabels"]  # the marker is no category of theirs, and blocks all the same
    assert (label["Name"], label["ParentName"], label["TaxonomyLevel"]) == ("Explicit", "", 1)
    assert answer["ModerationModelVersion"] == "7.0"
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-facegate-verdict"] == "block"
    reason = http.get(f"/v1/decisions/{headers['x-facegate-decision-id']}").json()["reasons"][0]
    assert label["Confidence"] == pytest.approx(100 * float(reason["score"]))
    assert http.get(f"/v1/decisions/{headers['x-facegate-decision-id']}").json()["verdict"] == "block"
    assert answer["ResponseMetadata"]["RequestId"].startswith("req_")


def test_boto3_never_takes_a_stopped_or_unjudged_picture_for_a_clean_one(parts: tuple[RealParts, Live], aws: Any) -> None:
    held = aws.detect_moderation_labels(Image={"Bytes": QUIET + b"something behind the picture"})
    assert held["ResponseMetadata"]["HTTPHeaders"]["x-facegate-verdict"] == "review"
    assert [(label["Name"], label["Confidence"]) for label in held["ModerationLabels"]] == [("Explicit", 100.0)]
    assert aws.detect_moderation_labels(Image={"Bytes": QUIET}, MinConfidence=0.1)["ModerationLabels"] == []
    parts[0].classifier.fault = ClassifierUnavailable("gone")
    with pytest.raises(aws.exceptions.InternalServerError) as fault:
        aws.detect_moderation_labels(Image={"Bytes": unique(QUIET, 5)})
    parts[0].classifier.fault = None
    assert fault.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_boto3_reads_from_a_configured_bucket(parts: tuple[RealParts, Live], aws: Any) -> None:
    (parts[0].folder / "bucket" / "a").mkdir(exist_ok=True)
    (parts[0].folder / "bucket" / "a" / "b.jpg").write_bytes(QUIET)
    answer = aws.detect_moderation_labels(Image={"S3Object": {"Bucket": "pictures", "Name": "a/b.jpg"}}, MinConfidence=10)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-facegate-verdict"] == "allow"
    with pytest.raises(aws.exceptions.InvalidS3ObjectException):
        aws.detect_moderation_labels(Image={"S3Object": {"Bucket": "other", "Name": "a/b.jpg"}})


def test_boto3_raises_the_modelled_classes(parts: tuple[RealParts, Live], aws: Any) -> None:
    with pytest.raises(aws.exceptions.InvalidImageFormatException) as found:
        aws.detect_moderation_labels(Image={"Bytes": b"no picture at all"})
    assert found.value.response["ResponseMetadata"]["HTTPHeaders"]["x-facegate-decision-id"].startswith("dec_")
    with pytest.raises(aws.exceptions.InvalidParameterException):
        aws.detect_moderation_labels(Image={"Bytes": QUIET}, MinConfidence=101)
    with pytest.raises(aws.exceptions.ImageTooLargeException):
        aws.detect_moderation_labels(Image={"Bytes": bytes(5 * 1024 * 1024 + 1)})
    with pytest.raises(ClientError, match="UnknownOperation"):
        aws.detect_faces(Image={"Bytes": QUIET})
    stranger = client_with(parts[1].url, parts[0].made.sigv4.access_key_id, "wrong")
    with pytest.raises(stranger.exceptions.AccessDeniedException):
        stranger.detect_moderation_labels(Image={"Bytes": QUIET})
