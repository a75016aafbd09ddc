"""The record as bytes: what anyone can check."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from moderation.audit import commitment, decision_entry, evidence_of, key_entry, leaf_hash, policy_entry, rfc3339
from moderation.canonical import canonical
from moderation.decision import ReasonCode, Verdict
from moderation.media import Media, MediaKind, Unscreened
from moderation.policy import decide
from tests.builders import (
    LOUD,
    NOW,
    TENANT,
    make_classifier_version,
    make_decision,
    make_detection,
    make_error_decision,
    make_facts,
    make_id,
    make_policy,
    make_sheet,
)

NONCE = bytes(range(16))


def entry_of(decision, reference_commitment=None):
    return decision_entry(decision, nonce=NONCE, reference_commitment=reference_commitment)


def test_the_leaf_hash_is_that_of_rfc_6962():
    """The leaves of the example tree in RFC 6962's reference implementation: the empty leaf and `00`."""
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"\x00").hex() == "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
    assert leaf_hash(b"abc") == hashlib.sha256(b"\x00abc").digest()


def test_an_entry_is_canonical_json_and_the_same_every_time():
    entry = entry_of(make_decision(LOUD))
    assert canonical(json.loads(entry)) == entry
    assert entry == entry_of(make_decision(LOUD))


def test_an_entry_holds_every_fact_an_auditor_may_ask_for():
    classifier = make_classifier_version(calibrated=True, runtime="onnxruntime 1.32")
    sheet = make_sheet(LOUD, classifier=classifier, detections=((0, make_detection(detail="Exposed Female Nipple")),))
    decision = make_decision(LOUD, sheets=(sheet,), reference="order-17", transform=make_id(3), reused_from=make_id(2))
    assert json.loads(entry_of(decision, "sha256:aa")) == {
        "format": 1,
        "kind": "decision",
        "nonce": NONCE.hex(),
        "id": str(make_id()),
        "tenant": str(TENANT),
        "actor": "k" * 20,
        "automated": True,
        "created_at": "2026-09-01T12:00:00.123456Z",
        "request_id": "req_1",
        "reference": "sha256:aa",
        "transform": str(make_id(3)),
        "reused_from": str(make_id(2)),
        "stage": "upload",
        "media": {
            "sha256": "ab" * 32,
            "bytes": 1234,
            "type": "image/jpeg",
            "kind": "image",
            "width": 64,
            "height": 48,
            "frames": 1,
            "frames_declared": 1,
            "duration_us": None,
            "unscreened": [],
            "renderings": ["plain"],
        },
        "verdict": "block",
        "reasons": [
            {
                "code": "over_block_threshold",
                "verdict": "block",
                "category": "sexual.nudity_explicit",
                "score": "0.973100",
                "threshold": "0.450000",
                "classifier": "marker",
                "frame": 0,
                "time_us": None,
                "box": None,
                "detail": None,
            }
        ],
        "thresholds": [
            {"category": "sexual.nudity_explicit", "classifier": "marker", "block_at": "0.450000", "review_at": "0.200000"},
            {"category": "sexual.suggestive", "classifier": "marker", "block_at": None, "review_at": "0.600000"},
        ],
        "classifiers": [
            {
                "name": "marker",
                "version": "1",
                "digest": "sha256:" + "1" * 64,
                "mapping": "sha256:" + "2" * 64,
                "calibrated": True,
                "runtime": "onnxruntime 1.32",
                "categories": ["sexual.nudity_explicit", "sexual.suggestive"],
                "input": {"width": 8, "height": 8, "fit": "stretch", "resample": "bilinear", "resize_to": None},
                "frames": [
                    {"frame": 0, "time_us": None, "scores": {"sexual.nudity_explicit": "0.973100", "sexual.suggestive": "0.120000"}}
                ],
                "detections": [
                    {
                        "frame": 0,
                        "label": "MARKER",
                        "category": "sexual.nudity_explicit",
                        "score": "0.973100",
                        "box": [1, 2, 3, 4],
                        "detail": "Exposed Female Nipple",
                    }
                ],
            }
        ],
        "policy": {"name": "default", "version": 1, "digest": make_policy().digest},
        "plan": "sha256:" + "3" * 64,
        "decoder": "scripted/1",
    }


def test_personal_data_never_stands_in_an_entry():
    reference = "order-17 of Jane Doe"
    entry = entry_of(make_decision(reference=reference), commitment(b"s" * 16, reference))
    assert b"Jane" not in entry
    assert json.loads(entry)["reference"] == "sha256:" + hashlib.sha256(b"s" * 16 + reference.encode()).hexdigest()


def test_two_salts_make_two_commitments_and_a_short_one_none():
    assert commitment(b"a" * 16, "same") != commitment(b"b" * 16, "same")
    with pytest.raises(ValueError, match="16 bytes"):
        commitment(b"a" * 15, "text")


@pytest.mark.parametrize("nonce", [b"", bytes(15), bytes(17)])
def test_a_nonce_has_16_bytes(nonce):
    with pytest.raises(ValueError, match="16 bytes"):
        decision_entry(make_decision(), nonce=nonce, reference_commitment=None)


def test_two_nonces_make_two_leaves_of_one_decision():
    decision = make_decision()
    assert entry_of(decision) != decision_entry(decision, nonce=bytes(16), reference_commitment=None)


def test_times_are_utc_with_microseconds():
    there = timezone(timedelta(hours=9))
    assert rfc3339(datetime(2026, 9, 1, 9, 0, 0, 5, tzinfo=there)) == "2026-09-01T00:00:00.000005Z"
    assert rfc3339(datetime(2026, 9, 1, tzinfo=UTC)) == "2026-09-01T00:00:00.000000Z"
    with pytest.raises(ValueError, match="zone"):
        rfc3339(datetime(2026, 9, 1))  # noqa: DTZ001 -- what is refused


def test_media_that_could_not_be_opened_has_its_name_and_size_only():
    entry = entry_of(make_error_decision())
    assert json.loads(entry)["media"] == {"sha256": "cd" * 32, "bytes": 7}
    assert evidence_of(entry) is None


def test_what_decide_was_given_is_read_back_from_the_entry():
    facts = make_facts(
        kind=MediaKind.ANIMATION,
        frames=2,
        frames_declared=None,
        duration_us=5,
        unscreened=(Unscreened.AUDIO,),
        renderings=("plain", "on_white"),
    )
    sheet = make_sheet(LOUD, LOUD, detections=((1, make_detection()),))
    decision = make_decision(sheets=(sheet,), media=Media(sha256="ab" * 32, size=1, facts=facts))
    evidence = evidence_of(entry_of(decision))
    assert (evidence.stage, evidence.facts, evidence.sheets) == (decision.stage, facts, (sheet,))
    assert evidence.required == (sheet.classifier,)


def test_another_policy_can_be_tried_on_an_entry():
    evidence = evidence_of(entry_of(make_decision({"sexual.nudity_explicit": 300_000, "sexual.suggestive": 0})))
    strict = make_policy(replace(make_policy().rules[0], block_at=300_000), make_policy().rules[1])
    for policy, verdict in ((make_policy(), Verdict.REVIEW), (strict, Verdict.BLOCK)):
        said = decide(stage=evidence.stage, facts=evidence.facts, required=evidence.required, sheets=evidence.sheets, policy=policy)
        assert said.verdict is verdict


def test_an_entry_without_the_sheet_of_a_classifier_that_was_asked_is_never_allowed_again():
    evidence = evidence_of(entry_of(make_decision(sheets=())))
    said = decide(stage=evidence.stage, facts=evidence.facts, required=evidence.required, sheets=evidence.sheets, policy=make_policy())
    assert said.verdict is Verdict.ERROR
    assert [reason.code for reason in said.reasons] == [ReasonCode.SCORE_MISSING]


@pytest.mark.parametrize(
    ("entry_of_event", "facts", "kind"),
    [
        (key_entry, {"key": {"id": "k" * 20, "scopes": ["screen"]}}, "key"),
        (policy_entry, {"policy": make_policy()}, "policy"),
    ],
)
def test_what_happens_to_keys_and_policies_is_an_entry_of_its_own(entry_of_event, facts, kind):
    event = {"id": make_id(), "tenant": TENANT, "event": "created", "actor": "local", "at": NOW}
    entry = entry_of_event(**event, nonce=NONCE, **facts)
    document = json.loads(entry)
    assert canonical(document) == entry
    assert (document["kind"], document["event"], document["actor"], document["at"]) == (kind, "created", "local", rfc3339(NOW))
    assert document[kind] == (facts[kind] if kind == "key" else _placed(make_policy()))
    with pytest.raises(ValueError, match="not a decision"):
        evidence_of(entry)
    with pytest.raises(ValueError, match="16 bytes"):
        entry_of_event(**event, nonce=b"", **facts)


def _placed(policy):
    return {"name": policy.name, "version": policy.version, "digest": policy.digest, "content": policy.content()}


def _without(field):
    document = json.loads(entry_of(make_decision()))
    del document[field]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff",
        b"[]",
        b"1",
        b"{}",
        b'{"format":2,"kind":"decision"}',
        b'{"format":1,"kind":"release"}',
        entry_of(make_decision()).replace(b'"0.010000"', b'"NaN"'),
        entry_of(make_decision()).replace(b'"kind":"image"', b'"kind":"sound"'),
        _without("media"),
        _without("stage"),
        _without("thresholds"),
        _without("classifiers"),
    ],
)
def test_damaged_bytes_are_no_evidence(damaged):
    with pytest.raises(ValueError, match=r".*"):
        evidence_of(damaged)
