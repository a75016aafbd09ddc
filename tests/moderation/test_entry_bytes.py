"""An entry is put together from parts that were made before; the bytes are those of the whole document all the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import rfc8785
from hypothesis import given

from moderation.audit import decision_entry, media_document, reason_document, rfc3339, sheet_document, threshold_document
from moderation.decision import Decision
from tests.strategies import decisions

NONCE = bytes(range(16))


def whole_document(decision: Decision, reference: str | None) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": "decision",
        "nonce": NONCE.hex(),
        "id": str(decision.id),
        "tenant": str(decision.tenant),
        "actor": decision.actor,
        "automated": decision.automated,
        "created_at": rfc3339(decision.created_at),
        "request_id": decision.request_id,
        "reference": reference,
        "transform": decision.transform and str(decision.transform),
        "reused_from": decision.reused_from and str(decision.reused_from),
        "stage": decision.stage.value,
        "media": media_document(decision),
        "verdict": decision.verdict.value,
        "reasons": [reason_document(reason) for reason in decision.reasons],
        "thresholds": [threshold_document(threshold) for threshold in decision.thresholds],
        "classifiers": [sheet_document(sheet) for sheet in decision.sheets],
        "policy": {"name": decision.policy.name, "version": decision.policy.version, "digest": decision.policy.digest},
        "plan": decision.plan_digest,
        "decoder": decision.decoder,
    }


@given(decisions())
def test_an_entry_has_the_bytes_of_rfc_8785_over_the_whole_document(decision: Decision):
    reference = None if decision.reference is None else "sha256:" + hashlib.sha256(decision.reference.encode()).hexdigest()
    expected = rfc8785.dumps(whole_document(decision, reference))
    assert decision_entry(decision, nonce=NONCE, reference_commitment=reference) == expected


@given(decisions())
def test_texts_that_look_like_parts_of_an_entry_stay_texts(decision: Decision):

    trap = '"thresholds":[],"classifiers":[],"frames":[],"detections":[]'
    trapped = replace(decision, actor=trap, request_id=trap, decoder=trap, plan_digest=trap)
    assert decision_entry(trapped, nonce=NONCE, reference_commitment=None) == rfc8785.dumps(whole_document(trapped, None))
