from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from deployments.http.gateway import Bounds
from deployments.http.rekognition_view import labels_document
from moderation.errors import ClassifierUnavailable, MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.media import sha256_of
from tests.aws import DictBucket, refusal, send, sign
from tests.builders import LOUD, NOW, jpeg_bytes, make_decision, make_detection, make_sheet
from tests.fakes import ScriptedClassifier, ScriptedDecoder
from tests.http_kit import KEY_ID, Service, make_service

PICTURE = jpeg_bytes()
BYTES = {"Image": {"Bytes": base64.b64encode(PICTURE).decode()}}
TARGET = "RekognitionService.DetectModerationLabels"


OBJECTS = {"a/b.jpg": PICTURE, "huge": bytes(15_000_001)}


def ask(service: Service, document: Any = None, *, body: bytes | None = None, target: str = TARGET) -> httpx.Response:
    body = json.dumps(BYTES if document is None else document).encode() if body is None else body
    return service.run(lambda client, _: send(client, service, target, body))


def test_labels_come_with_their_parents_each_at_least_as_sure() -> None:
    place = make_detection(detail="Exposed Female Nipple", score=973_100)
    decision = make_decision(LOUD, sheets=(make_sheet(LOUD, detections=((0, place),)),))
    labels = labels_document(decision, 500_000)["ModerationLabels"]
    assert labels == [
        {"Confidence": 97.31, "Name": "Explicit", "ParentName": "", "TaxonomyLevel": 1},
        {"Confidence": 97.31, "Name": "Explicit Nudity", "ParentName": "Explicit", "TaxonomyLevel": 2},
        {"Confidence": 97.31, "Name": "Exposed Female Nipple", "ParentName": "Explicit Nudity", "TaxonomyLevel": 3},
    ]


def test_nothing_under_the_wanted_confidence_is_named() -> None:
    decision = make_decision(LOUD)
    assert [label["Name"] for label in labels_document(decision, 120_000)["ModerationLabels"]] == [
        "Explicit",
        "Explicit Nudity",
        "Swimwear or Underwear",
    ]
    assert labels_document(decision, 973_200)["ModerationLabels"] == []


def test_content_types_are_context_and_no_labels() -> None:
    decision = make_decision({"ctx.illustrated": 900_000, "ctx.animated": 100_000})
    assert labels_document(decision, 500_000)["ContentTypes"] == [{"Confidence": 90.0, "Name": "Illustrated"}]
    assert labels_document(decision, 500_000)["ModerationLabels"] == []


def test_a_signed_picture_is_judged_and_its_decision_named() -> None:
    service = make_service(classifiers=(ScriptedClassifier(scores=LOUD),))
    answer = ask(service)
    (decision,) = service.log.decisions
    assert answer.status_code == 200
    assert answer.json()["ModerationLabels"][0]["Name"] == "Explicit"
    assert answer.json()["ModerationModelVersion"] == "7.0"
    assert answer.headers["x-facegate-decision-id"] == f"dec_{decision.id.hex}"
    assert answer.headers["x-facegate-verdict"] == "block"
    assert answer.headers["x-amzn-requestid"] == answer.headers["x-request-id"] == decision.request_id
    assert decision.media.sha256 == sha256_of(PICTURE)


def test_an_object_is_read_from_a_configured_bucket_only() -> None:
    service = make_service(changes={"buckets": DictBucket(name="pictures", objects=OBJECTS)})
    assert ask(service, {"Image": {"S3Object": {"Bucket": "pictures", "Name": "a/b.jpg"}}}).status_code == 200
    for bucket, name in (("pictures", "none"), ("other", "a/b.jpg"), ("..", "../../etc/passwd")):
        answer = ask(service, {"Image": {"S3Object": {"Bucket": bucket, "Name": name}}})
        assert (answer.status_code, refusal(answer)) == (400, "InvalidS3ObjectException")
    assert refusal(ask(service, {"Image": {"S3Object": {"Bucket": "pictures", "Name": "huge"}}})) == "ImageTooLargeException"
    service.changes["buckets"].fault = RecordUnavailable("no route to bucket.internal")
    down = ask(service, {"Image": {"S3Object": {"Bucket": "pictures", "Name": "a/b.jpg"}}})
    assert (down.status_code, refusal(down)) == (503, "InternalServerError")
    assert "internal" not in down.json()["message"]


def test_without_buckets_no_object_is_there(service: Service) -> None:
    assert refusal(ask(service, {"Image": {"S3Object": {"Bucket": "pictures", "Name": "a/b.jpg"}}})) == "InvalidS3ObjectException"


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({}, "InvalidParameterException"),
        ({"Image": {}}, "InvalidParameterException"),
        ({"Image": {**BYTES["Image"], "S3Object": {"Bucket": "a", "Name": "b"}}}, "InvalidParameterException"),
        ({"Image": {"S3Object": {"Bucket": "a"}}}, "InvalidParameterException"),
        ({"Image": {"S3Object": {"Bucket": "a", "Name": "b", "Version": "1"}}}, "InvalidS3ObjectException"),
        ({"Image": {"Bytes": "no base64!"}}, "SerializationException"),
        ({"Image": {"Bytes": 5}}, "InvalidParameterException"),
        ({**BYTES, "MinConfidence": 101}, "InvalidParameterException"),
        ({**BYTES, "MinConfidence": -1}, "InvalidParameterException"),
        ({**BYTES, "MinConfidence": "50"}, "InvalidParameterException"),
        ({**BYTES, "MinConfidence": True}, "InvalidParameterException"),
        ({**BYTES, "HumanLoopConfig": {"HumanLoopName": "x"}}, "InvalidParameterException"),
        ({**BYTES, "ProjectVersion": "arn"}, "ResourceNotFoundException"),
        ({**BYTES, "Colour": 1}, "InvalidParameterException"),
        ({"Image": {"Bytes": base64.b64encode(bytes(5 * 1024 * 1024 + 1)).decode()}}, "ImageTooLargeException"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused_with_its_class(service: Service, document: Any, kind: str) -> None:
    answer = ask(service, document)
    assert (answer.status_code, refusal(answer)) == (400, kind)
    assert service.log.decisions == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"Image":NaN}'])
def test_a_body_that_is_no_json_object_is_refused(service: Service, body: bytes) -> None:
    assert refusal(ask(service, body=body)) == "SerializationException"


def test_an_object_counts_as_memory_before_it_is_read() -> None:
    service = make_service(changes={"buckets": DictBucket(name="pictures", objects=OBJECTS), "bounds": Bounds(in_memory=len(PICTURE))})
    full = ask(service, {"Image": {"S3Object": {"Bucket": "pictures", "Name": "a/b.jpg"}}})
    assert (full.status_code, refusal(full)) == (400, "ProvisionedThroughputExceededException")
    assert service.changes["buckets"].read == []


@pytest.mark.parametrize("target", ["RekognitionService.StartLabelDetection", "RekognitionService.DetectFaces", "x"])
def test_another_operation_does_not_exist(service: Service, target: str) -> None:
    answer = ask(service, target=target)
    assert (answer.status_code, refusal(answer)) == (400, "UnknownOperationException")


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (Refusal.EMPTY_BODY, "InvalidParameterException"),
        (Refusal.TOO_SMALL, "InvalidParameterException"),
        (Refusal.DIMENSIONS_TOO_LARGE, "ImageTooLargeException"),
        (Refusal.PAYLOAD_TOO_LARGE, "ImageTooLargeException"),
        (Refusal.UNSUPPORTED_MEDIA_TYPE, "InvalidImageFormatException"),
        (Refusal.TRUNCATED, "InvalidImageFormatException"),
    ],
)
def test_a_picture_that_cannot_be_judged_has_its_class_and_its_decision(refused: Refusal, kind: str) -> None:
    service = make_service(decoder=ScriptedDecoder(fault=MediaRefused(refused)))
    answer = ask(service)
    assert refusal(answer) == kind
    assert answer.headers["x-facegate-decision-id"] == f"dec_{service.log.decisions[0].id.hex}"


def test_trouble_of_ours_is_what_clients_try_again_on() -> None:
    down = ask(make_service(classifiers=(ScriptedClassifier(fault=ClassifierUnavailable("x")),)))
    assert (down.status_code, refusal(down), down.headers["retry-after"]) == (503, "InternalServerError", "1")
    full = ask(make_service(decoder=ScriptedDecoder(fault=Overloaded("x"))))
    assert (full.status_code, refusal(full)) == (400, "ProvisionedThroughputExceededException")


def test_a_changed_body_or_header_is_not_authentic(service: Service) -> None:
    service.keys.sigv4[KEY_ID] = "secret"
    body = json.dumps(BYTES).encode()
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": TARGET}
    signed = {**headers, **sign("POST", "http://test/", headers, body, KEY_ID, "secret", NOW)}
    for changed, text in (
        (signed, body + b" "),
        ({**signed, "x-amz-target": "RekognitionService.DetectFaces"}, body),
        ({**signed, "host": "evil"}, body),
    ):
        answer = service.request("POST", "/", content=text, headers=changed)
        assert (answer.status_code, refusal(answer)) == (400, "AccessDeniedException")
    assert service.log.decisions == []
