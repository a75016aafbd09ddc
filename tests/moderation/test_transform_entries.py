"""Entries of transforms as bytes: what anyone can check, and nothing that may have to be erased."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from moderation.audit import (
    appeal_entry,
    erasure_entry,
    hold_entry,
    months_entry,
    purge_entry,
    release_entry,
    review_entry,
    rfc3339,
    sweep_entry,
    transform_entry,
    view_entry,
    withdrawal_entry,
)
from moderation.canonical import Json, canonical
from moderation.decision import Verdict
from moderation.media import Stage
from moderation.people import Appeal, Erasure, Hold, Selector, Sweep, Swept
from moderation.transform import Basis, ConsentStatement, FaceChoice, FaceMode, Options
from tests.builders import NOW, TENANT, make_decision, make_id, make_policy, make_release, make_review, make_transform

NONCE = bytes(range(16))
LATER = ("appeal_reason", "hold_reason", "hold_reference")
COMMITTED = {
    kind: f"sha256:{kind}" for kind in ("reference", "consent", "target_consent", "callback_url", "review_reason", "subject", *LATER)
}
HEAD = {"format": 1, "nonce": NONCE.hex(), "tenant": str(TENANT), "at": "2026-09-01T12:00:00.123456Z"}
POLICY = {"name": "default", "version": 1, "digest": make_policy().digest}


def test_the_entry_of_a_transform_holds_every_fact_and_only_commitments_to_what_is_personal():
    said = ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement="Jane agreed", reference="c-jane")
    transform = make_transform(
        consent=said,
        target_consent=replace(said, basis=Basis.LICENSED),
        reference="order of Jane",
        callback_url="https://example.test/jane",
        catalogue_source=make_id(9),
        options=Options(faces=FaceChoice(mode=FaceMode.INDEX, index=2), label_language="ko"),
    )
    entry = transform_entry(transform, nonce=NONCE, commitments=COMMITTED)
    assert json.loads(entry) == HEAD | {
        "kind": "transform",
        "id": str(transform.id),
        "event": "accepted",
        "actor": transform.actor,
        "transform": {
            "request_id": "req_1",
            "policy": POLICY,
            "source": {"sha256": "5a" * 32, "bytes": 111, "type": "image/jpeg"},
            "target": {"sha256": "7a" * 32, "bytes": 222, "type": "image/png"},
            "options": {
                "faces": {"mode": "index", "index": 2, "box": None},
                "swapper": "auto",
                "label": True,
                "label_language": "ko",
                "format": "auto",
                "quality": 90,
            },
            "consent": {"basis": "subject_consent", "said": "sha256:consent"},
            "target_consent": {"basis": "licensed", "said": "sha256:target_consent"},
            "catalogue_source": str(make_id(9)),
            "reference": "sha256:reference",
            "callback_url": "sha256:callback_url",
        },
    }
    assert b"ane" not in entry


def test_what_was_not_said_is_null():
    said = json.loads(transform_entry(make_transform(), nonce=NONCE, commitments={}))["transform"]
    assert (said["consent"], said["target_consent"], said["reference"]) == ({"basis": "self", "said": None}, None, None)


def test_the_entry_of_a_release_binds_file_decisions_and_both_policies():
    decisions = {stage: make_id(number) for number, stage in enumerate((Stage.SOURCE, Stage.TARGET, Stage.OUTPUT), 5)}
    release = make_release(make_transform(), decisions)
    release = replace(release, in_force=replace(release.pinned, version=2, digest="sha256:22"))
    assert json.loads(release_entry(release, id=make_id(4), actor="k", nonce=NONCE)) == HEAD | {
        "kind": "release",
        "id": str(make_id(4)),
        "event": "released",
        "actor": "k",
        "release": {
            "transform": str(make_id()),
            "signed_sha256": "51" * 32,
            "encoded_sha256": "ec" * 32,
            "decisions": {"source": str(make_id(5)), "target": str(make_id(6)), "output": str(make_id(7))},
            "pinned": POLICY,
            "in_force": {"name": "default", "version": 2, "digest": "sha256:22"},
            "expires_at": "2026-09-08T12:00:00.123456Z",
        },
    }


HOLD = Hold(id=make_id(8), tenant=TENANT, reason="about Jane", actor="k", at=NOW, reference="Jane")
APPEAL = Appeal(
    id=make_id(9),
    tenant=TENANT,
    decision=make_id(2),
    stood=Verdict.BLOCK,
    review=make_id(3),
    reason="Jane objects",
    actor="k",
    subject="Jim",
    at=NOW,
)
ERASURE = Erasure(
    id=make_id(10),
    tenant=TENANT,
    selector=Selector.REFERENCE,
    erased=2,
    held=1,
    in_progress=0,
    holds=(make_id(8),),
    is_complete=True,
    actor="k",
    at=NOW,
)
MONTH: dict[str, Json] = {
    "month": "2026-01",
    "table": "decision",
    "dropped": 2,
    "kept": 1,
    "first": str(make_id(1)),
    "last": str(make_id(2)),
}
REVIEW = make_review(make_decision(id=make_id(2)), Verdict.BLOCK, id=make_id(3), reason="Jane objects", subject="Jim")
ENTRIES = {
    "review": lambda nonce: review_entry(REVIEW, nonce=nonce, commitments=COMMITTED),
    "withdrawal": lambda nonce: withdrawal_entry(id=make_id(4), transform=make_id(), review=REVIEW, nonce=nonce),
    "view": lambda nonce: view_entry(
        id=make_id(5),
        tenant=TENANT,
        decision=make_id(2),
        actor="k",
        subject_commitment="sha256:subject",
        rendition="clear",
        at=NOW,
        nonce=nonce,
    ),
    "appeal": lambda nonce: appeal_entry(APPEAL, nonce=nonce, commitments=COMMITTED),
    "hold": lambda nonce: hold_entry(HOLD, id=HOLD.id, event="placed", actor="k", at=NOW, nonce=nonce, commitments=COMMITTED),
    "erasure": lambda nonce: erasure_entry(ERASURE, nonce=nonce, texts={"reference": [str(make_id(1)), str(make_id(2))]}),
    "purge": lambda nonce: purge_entry(
        id=make_id(6), tenant=TENANT, transform=make_id(), actor="housekeeping", at=NOW, nonce=nonce, result={"bytes": "removed"}
    ),
}
FACTS = {
    "appeal": {
        "decision": str(make_id(2)),
        "stood": "block",
        "review": str(make_id(3)),
        "reason": "sha256:appeal_reason",
        "subject": "sha256:subject",
    },
    "hold": {
        "id": str(make_id(8)),
        "reason": "sha256:hold_reason",
        "decision": None,
        "transform": None,
        "sha256": None,
        "reference": "sha256:hold_reference",
    },
    "erasure": {
        "selector": "reference",
        "erased": 2,
        "held": 1,
        "in_progress": 0,
        "holds": [str(make_id(8))],
        "is_complete": True,
        "texts": {"reference": [str(make_id(1)), str(make_id(2))]},
    },
    "review": {"decision": str(make_id(2)), "verdict": "block", "reason": "sha256:review_reason", "subject": "sha256:subject"},
    "withdrawal": {"transform": str(make_id()), "review": str(make_id(3))},
    "view": {"decision": str(make_id(2)), "rendition": "clear", "subject": "sha256:subject"},
    "purge": {"transform": str(make_id()), "result": {"bytes": "removed"}},
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_what_happens_later_is_an_entry_of_its_own(kind):
    entry = ENTRIES[kind](NONCE)
    document = json.loads(entry)
    assert canonical(document) == entry
    assert document[kind] == FACTS[kind]
    assert {name: document[name] for name in HEAD} == HEAD
    assert (document["kind"], b"Jane" in entry, b"Jim" in entry) == (kind, False, False)


def test_the_end_of_a_hold_is_an_entry_of_its_own_that_names_the_hold():
    entry = hold_entry(HOLD, id=make_id(11), event="released", actor="k2", at=NOW, nonce=NONCE, commitments=COMMITTED)
    document = json.loads(entry)
    assert (document["id"], document["event"], document["actor"]) == (str(make_id(11)), "released", "k2")
    assert document["hold"] == {"id": str(make_id(8)), "reason": "sha256:hold_reason"}


def test_the_dropping_of_months_is_an_entry_with_counts_and_ranges():
    entry = months_entry(id=make_id(12), tenant=TENANT, actor="operator", at=NOW, nonce=NONCE, months=[MONTH])
    document = json.loads(entry)
    assert canonical(document) == entry
    assert (document["kind"], document["event"], document["purge"]) == ("purge", "dropped", {"months": [MONTH]})


def test_a_sweep_is_an_entry_with_counts_and_bounds():
    counts: Any = {"removed": 3, "held": 1, "first": make_id(1), "last": make_id(2)}
    sweep = Sweep(id=make_id(13), tenant=TENANT, what=Swept.INTAKE, since=NOW, actor="housekeeping", at=NOW, **counts)
    entry = sweep_entry(sweep, nonce=NONCE)
    document = json.loads(entry)
    assert canonical(document) == entry
    assert (document["kind"], document["event"], document["actor"]) == ("purge", "swept", "housekeeping")
    assert document["purge"] == {**counts, "first": str(make_id(1)), "last": str(make_id(2)), "swept": "intake", "since": rfc3339(NOW)}


@pytest.mark.parametrize("kind", ENTRIES)
def test_every_entry_has_a_nonce_of_16_bytes(kind):
    with pytest.raises(ValueError, match="16 bytes"):
        ENTRIES[kind](bytes(15))
