"""The record as bytes: a decision becomes an entry, an entry becomes a leaf.

An entry is canonical JSON (RFC 8785) with a 16-byte nonce, so that nobody can guess it from its
hash; its leaf hash is that of RFC 6962, section 2.1: SHA-256 over a zero byte and the entry.
Personal data never stands in an entry. What may have to be erased (`reference`, consent statements)
is represented by a commitment, SHA-256 over a 16-byte salt and the text; deleting salt and text
leaves every proof valid.

Law of evolution: fields are only ever added, with a new `format` number; none changes its meaning.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from moderation.canonical import Json, canonical
from moderation.decision import Decision, Reason
from moderation.scores import ClassifierScores, as_decimal

FORMAT: Final = 1
NONCE_BYTES: Final = 16


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and Z. Raises ValueError on a naive time."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no place in the record")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def commitment(salt: bytes, text: str) -> str:
    """A salted commitment to personal data. Raises ValueError on a short salt."""
    if len(salt) < NONCE_BYTES:
        raise ValueError("a salt has at least 16 bytes")
    return "sha256:" + hashlib.sha256(salt + text.encode()).hexdigest()


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 section 2.1: SHA-256(0x00 || entry), 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def decision_entry(decision: Decision, *, nonce: bytes, reference_commitment: str | None) -> bytes:
    """The canonical bytes of a decision. `nonce` has 16 random bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError("a nonce has 16 bytes")
    return canonical(
        {
            "format": FORMAT,
            "kind": "decision",
            "nonce": nonce.hex(),
            "id": str(decision.id),
            "tenant": str(decision.tenant),
            "actor": decision.actor,
            "automated": decision.automated,
            "created_at": rfc3339(decision.created_at),
            "request_id": decision.request_id,
            "reference": reference_commitment,
            "transform": None if decision.transform is None else str(decision.transform),
            "reused_from": None if decision.reused_from is None else str(decision.reused_from),
            "stage": str(decision.stage),
            "media": media_document(decision),
            "verdict": str(decision.verdict),
            "reasons": [reason_document(reason) for reason in decision.reasons],
            "thresholds": [
                {"category": t.category, "classifier": t.classifier, "block_at": _decimal(t.block_at), "review_at": _decimal(t.review_at)}
                for t in decision.thresholds
            ],
            "classifiers": [sheet_document(sheet) for sheet in decision.sheets],
            "policy": {"name": decision.policy.name, "version": decision.policy.version, "digest": decision.policy.digest},
            "plan": decision.plan_digest,
            "decoder": decision.decoder,
        }
    )


def media_document(decision: Decision) -> dict[str, Json]:
    """What the bytes were, as far as they could be opened."""
    facts = decision.media.facts
    document: dict[str, Json] = {"sha256": decision.media.sha256, "bytes": decision.media.size}
    if facts is not None:
        document |= {
            "type": facts.type,
            "kind": str(facts.kind),
            "width": facts.width,
            "height": facts.height,
            "frames": facts.frames,
            "frames_declared": facts.frames_declared,
            "duration_us": facts.duration_us,
            "unscreened": [str(what) for what in facts.unscreened],
            "renderings": list(facts.renderings),
        }
    return document


def reason_document(reason: Reason) -> dict[str, Json]:
    """One reason; scores and thresholds as decimal strings."""
    return {
        "code": str(reason.code),
        "verdict": str(reason.verdict),
        "category": reason.category,
        "score": _decimal(reason.score),
        "threshold": _decimal(reason.threshold),
        "classifier": reason.classifier,
        "frame": reason.frame,
        "time_us": reason.time_us,
        "box": None if reason.box is None else list(reason.box),
        "detail": reason.detail,
    }


def sheet_document(sheet: ClassifierScores) -> dict[str, Json]:
    """All scores of one classifier, frame by frame, with exactly which classifier it was."""
    version = sheet.classifier
    return {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "mapping": version.mapping_digest,
        "calibrated": version.calibrated,
        "runtime": version.runtime,
        "frames": [
            {"frame": f.frame, "time_us": f.time_us, "scores": {c: as_decimal(s) for c, s in f.scores.items()}} for f in sheet.frames
        ],
        "detections": [
            {"frame": frame, "label": d.label, "category": d.category, "score": as_decimal(d.score), "box": list(d.box), "detail": d.detail}
            for frame, d in sheet.detections
        ],
    }


def _decimal(score: int | None) -> str | None:
    return None if score is None else as_decimal(score)
