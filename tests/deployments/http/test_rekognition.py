from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.http.gateway import Bounds
from deployments.http.rekognition_requests import PER_CENT
from deployments.http.rekognition_view import labels_document
from moderation.decision import Decision, Reason, ReasonCode, Verdict
from moderation.errors import ClassifierUnavailable, MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.media import Stage, Unscreened, sha256_of
from moderation.policy import decide
from moderation.scores import ONE
from moderation.taxonomy import CATEGORIES, family_of, is_context, stopping_path
from tests.aws import DictBucket, refusal, send, sign
from tests.builders import (
    LOUD,
    NOW,
    QUIET,
    jpeg_bytes,
    make_classifier_version,
    make_decision,
    make_detection,
    make_facts,
    make_policy,
    make_rule,
    make_sheet,
)
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


def told(decision: Decision, at_least: int) -> list[tuple[str, float]]:
    """(name, confidence) of each label."""
    labels: Any = labels_document(decision, at_least)["ModerationLabels"]
    return [(label["Name"], label["Confidence"]) for label in labels]


def test_under_the_wanted_confidence_only_what_stops_the_picture_is_named() -> None:
    assert told(make_decision(LOUD), 120_000) == [("Explicit", 97.31), ("Explicit Nudity", 97.31), ("Swimwear or Underwear", 12.0)]
    assert told(make_decision(LOUD), 973_200) == [("Explicit", 97.31), ("Explicit Nudity", 97.31)]
    assert told(make_decision({"sexual.nudity_explicit": 200_000, "sexual.suggestive": 599_999}), 600_000) == [
        ("Explicit", 20.0),
        ("Explicit Nudity", 20.0),
    ]
    assert told(make_decision({"sexual.nudity_explicit": 199_999, "sexual.suggestive": 599_999}), 600_000) == []


def test_a_place_that_stops_the_picture_is_named_whatever_was_wanted_and_a_weaker_one_is_not() -> None:
    places = ((0, make_detection(detail="Exposed Female Nipple", score=250_000)), (0, make_detection(detail="Exposed Anus", score=150_000)))
    scores = {**QUIET, "sexual.nudity_explicit": 250_000}
    held = make_decision(scores, sheets=(make_sheet(scores, detections=places),))
    assert told(held, 500_000) == [("Explicit", 25.0), ("Explicit Nudity", 25.0), ("Exposed Female Nipple", 25.0)]


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("sexual.minor_risk", "Explicit"),
        ("test.marker", "Explicit"),
        ("substance", "Drugs & Tobacco"),
        ("other", "Rude Gestures"),
        ("hate", "Hate Symbols"),
    ],
)
def test_what_has_no_label_of_theirs_stops_under_the_nearest(category: str, name: str) -> None:
    reason = Reason(code=ReasonCode.OVER_BLOCK_THRESHOLD, verdict=Verdict.BLOCK, category=category, score=460_000, threshold=450_000)
    sheet = make_sheet({category: 460_000}, classifier=make_classifier_version("one", (category,)))
    assert told(make_decision(sheets=(sheet,), verdict=Verdict.BLOCK, reasons=(reason,)), 500_000) == [(name, 46.0)]
    assert told(make_decision(sheets=(sheet,), verdict=Verdict.ALLOW, reasons=()), 500_000) == []


def test_what_nobody_could_look_at_is_told_as_certain() -> None:
    reason = Reason(code=ReasonCode.UNSCREENED_CONTENT, verdict=Verdict.REVIEW, detail="trailing_data")
    assert told(make_decision(verdict=Verdict.REVIEW, reasons=(reason,)), 500_000) == [("Explicit", 100.0)]


CODES = [code for code in CATEGORIES if not is_context(code)] + ["test.marker", "substance", "other"]


@given(
    scores=st.fixed_dictionaries(dict.fromkeys(CODES, st.integers(0, ONE) | st.just(0))),
    thresholds=st.lists(st.integers(1, ONE), min_size=2, max_size=2),
    unscreened=st.sets(st.sampled_from(Unscreened)),
    at_least=st.integers(0, ONE),
)
def test_no_stopped_picture_is_without_labels_and_no_label_is_surer_than_what_was_seen(
    scores: dict[str, int], thresholds: list[int], unscreened: set[Unscreened], at_least: int
) -> None:
    review_at, block_at = sorted(thresholds)
    families = sorted({family_of(code) for code in CODES})
    policy = make_policy(*(make_rule(family, review_at=review_at, block_at=block_at) for family in families))
    facts = make_facts(unscreened=tuple(sorted(unscreened)))
    sheets = (make_sheet(scores, classifier=make_classifier_version("all", tuple(CODES))),)
    found = decide(stage=Stage.UPLOAD, facts=facts, required=[sheets[0].classifier], sheets=sheets, policy=policy)
    decision = make_decision(sheets=sheets, verdict=found.verdict, reasons=found.reasons)
    labels = dict(told(decision, at_least))
    if found.verdict is Verdict.ALLOW:
        assert all(confidence >= at_least / PER_CENT for confidence in labels.values())
        return
    assert labels
    for reason in found.reasons:
        seen = 100.0 if reason.score is None else reason.score / PER_CENT
        assert all(labels[name] >= seen for name in stopping_path(reason.category))
    most = ONE if any(reason.category is None for reason in found.reasons) else max(scores.values())
    assert max(labels.values()) <= most / PER_CENT


def test_content_types_are_context_and_no_labels() -> None:
    decision = make_decision({"ctx.illustrated": 900_000, "ctx.animated": 100_000}, verdict=Verdict.ALLOW)
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
