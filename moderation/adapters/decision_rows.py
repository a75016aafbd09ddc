"""A decision as rows, and rows as the decision again: what `from_row` returns equals what `to_row` was given.

Classifiers and applied thresholds repeat from decision to decision; each distinct one is a row of its own, named by its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy.dialects import postgresql

from moderation.adapters import tables
from moderation.audit import NONCE_BYTES, commitment, decision_entry, facts_document, leaf_hash, read_facts, rfc3339
from moderation.canonical import Json, canonical, list_of, members_of, number_of
from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Threshold, Verdict
from moderation.frames import Box, Fit, InputSpec, Resample
from moderation.media import Facts, Media, Stage
from moderation.ports import ReuseKey
from moderation.scores import ClassifierScores, ClassifierVersion, Detection, FrameScores, is_score

REFERENCE: Final = "reference"
"""The kind of a `personal` row that holds a decision's reference."""

COLUMNS: Final = tuple(column.name for column in tables.decision.columns if column.name not in ("tenant", "recorded_at"))
"""The columns of `decision` in the order of `DecisionRow.fields`; the tenant is that of the whole group."""

_DIALECT: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
SQL_TYPES: Final = tuple(tables.decision.c[name].type.compile(dialect=_DIALECT) for name in COLUMNS)

FIELD: Final = "\x1f"
ROW: Final = "\x1e"
NULL: Final = "\x1d"
"""Separators of a batch on its way to Postgres, and the sign for null; no field may contain them."""

_json: Final[Callable[[Json], str]] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """Everything that one decision writes.

    `line` is the row of `decision` and the canonical entry as text, ready to travel, `leaf` the entry's leaf hash. `salt` is set where there is a reference,
    `reuse` where the scores may be used again.
    """

    decision: Decision
    line: str
    leaf: bytes
    reuse: bytes | None
    salt: bytes | None
    classifiers: Mapping[bytes, ClassifierVersion]
    thresholds: tuple[bytes, str]

    @property
    def tenant(self) -> UUID:
        """Whose decision it is."""
        return self.decision.tenant


def to_row(decision: Decision) -> DecisionRow:
    """Raises TypeError or ValueError for a decision that has no canonical bytes or could not travel unchanged."""
    salt = os.urandom(NONCE_BYTES) if decision.reference is not None else None
    entry = decision_entry(
        decision,
        nonce=os.urandom(NONCE_BYTES),
        reference_commitment=None if salt is None or decision.reference is None else commitment(salt, decision.reference),
    )
    classifiers = [classifier_id(sheet.classifier) for sheet in decision.sheets]
    thresholds = thresholds_row(decision.thresholds)
    reuse = _reuse_key(decision, classifiers)
    fields = _fields(decision, classifiers, thresholds[0], reuse)
    texts = "".join([field for field in fields if field is not None])  # an entry has no control characters, JSON escapes them
    if FIELD in texts or NULL in texts or ROW in texts or "\x00" in texts:
        raise ValueError("a text of this decision contains a control character that the record cannot carry")
    return DecisionRow(
        decision=decision,
        line=FIELD.join([NULL if field is None else field for field in fields] + [entry.decode()]),
        leaf=leaf_hash(entry),
        reuse=reuse,
        salt=salt,
        classifiers={name: sheet.classifier for name, sheet in zip(classifiers, decision.sheets, strict=True)},
        thresholds=thresholds,
    )


def _fields(decision: Decision, classifiers: Sequence[bytes], thresholds: bytes, reuse: bytes | None) -> list[str | None]:
    """Text forms in the order of COLUMNS."""
    media, policy = decision.media, decision.policy
    values: dict[str, str | None] = {
        "id": str(decision.id),
        "actor": decision.actor,
        "automated": "t" if decision.automated else "f",
        "created_at": rfc3339(decision.created_at),
        "request_id": decision.request_id,
        "transform": None if decision.transform is None else str(decision.transform),
        "reused_from": None if decision.reused_from is None else str(decision.reused_from),
        "stage": decision.stage.value,
        "media_sha256": "\\x" + media.sha256,
        "media_bytes": str(media.size),
        "media_facts": None if media.facts is None else _facts_text(media.facts),
        "verdict": decision.verdict.value,
        "categories": _categories(decision.reasons) if decision.reasons else "{}",
        "reasons": _json([_reason_document(reason) for reason in decision.reasons]) if decision.reasons else "[]",
        "thresholds": _bytea(thresholds),
        "classifiers": _array([_bytea(name) for name in classifiers]),
        "sheets": f"[{','.join(map(sheet_text, decision.sheets))}]",
        "policy_name": policy.name,
        "policy_version": str(policy.version),
        "policy_digest": policy.digest,
        "plan_digest": decision.plan_digest,
        "decoder": decision.decoder,
        "reuse_key": None if reuse is None else _bytea(reuse),
    }
    return [values[name] for name in COLUMNS]


def from_row(
    row: Mapping[str, Any],
    *,
    reference: str | None,
    classifiers: Mapping[bytes, ClassifierVersion],
    thresholds: tuple[Threshold, ...],
) -> Decision:
    """The decision of a row of `decision` with what it names."""
    facts = row["media_facts"]
    return Decision(
        id=row["id"],
        tenant=row["tenant"],
        actor=row["actor"],
        stage=Stage(row["stage"]),
        media=Media(sha256=bytes(row["media_sha256"]).hex(), size=row["media_bytes"], facts=None if facts is None else read_facts(facts)),
        verdict=Verdict(row["verdict"]),
        reasons=tuple(_reason(document) for document in row["reasons"]),
        thresholds=thresholds,
        sheets=tuple(
            sheet_of(document, classifiers[bytes(name)]) for name, document in zip(row["classifiers"], row["sheets"], strict=True)
        ),
        policy=PolicyRef(name=row["policy_name"], version=row["policy_version"], digest=row["policy_digest"]),
        plan_digest=row["plan_digest"],
        decoder=row["decoder"],
        created_at=row["created_at"].astimezone(UTC),
        request_id=row["request_id"],
        reference=reference,
        automated=row["automated"],
        reused_from=row["reused_from"],
        transform=row["transform"],
    )


# --- names by content -------------------------------------------------------------------------


@lru_cache(maxsize=256)
def classifier_id(version: ClassifierVersion) -> bytes:
    """SHA-256 over everything that makes this classifier this one."""
    return hashlib.sha256(canonical(classifier_document(version))).digest()


def classifier_document(version: ClassifierVersion) -> dict[str, Json]:
    """The columns of `classifier` but for its id."""
    return {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "mapping_digest": version.mapping_digest,
        "categories": list(version.categories),
        "input": {
            "width": version.input.width,
            "height": version.input.height,
            "fit": str(version.input.fit),
            "resample": str(version.input.resample),
            "resize_to": version.input.resize_to,
        },
        "calibrated": version.calibrated,
        "runtime": version.runtime,
    }


def classifier_of(row: Mapping[str, Any]) -> ClassifierVersion:
    """The inverse of `classifier_document`, from a row of `classifier`."""
    spec = row["input"]
    return ClassifierVersion(
        name=row["name"],
        version=row["version"],
        digest=row["digest"],
        mapping_digest=row["mapping_digest"],
        categories=tuple(row["categories"]),
        input=InputSpec(
            width=spec["width"],
            height=spec["height"],
            fit=Fit(spec["fit"]),
            resample=Resample(spec["resample"]),
            resize_to=spec["resize_to"],
        ),
        calibrated=row["calibrated"],
        runtime=row["runtime"],
    )


@lru_cache(maxsize=1024)
def thresholds_row(applied: tuple[Threshold, ...]) -> tuple[bytes, str]:
    """Id and content of a row of `thresholds`."""
    document: list[Json] = [
        {"category": t.category, "classifier": t.classifier, "block_at": t.block_at, "review_at": t.review_at} for t in applied
    ]
    text = canonical(document)
    return hashlib.sha256(text).digest(), text.decode()


def thresholds_of(applied: Sequence[Mapping[str, Any]]) -> tuple[Threshold, ...]:
    """The thresholds of a row of `thresholds`."""
    return tuple(
        Threshold(category=t["category"], classifier=t["classifier"], block_at=t["block_at"], review_at=t["review_at"]) for t in applied
    )


def reuse_key_of(decision: Decision) -> bytes | None:
    """What a later screening must match to use these scores again, or None where none may.

    Never an `error`, never scores that were themselves used again (the first ones are there), never an incomplete sheet.
    """
    return _reuse_key(decision, [classifier_id(sheet.classifier) for sheet in decision.sheets])


def reuse_key(key: ReuseKey) -> bytes:
    """SHA-256 over a reuse key; the tenant is a column of its own."""
    return _hash_of_reuse(key.media_sha256, key.plan_digest, key.decoder, [classifier_id(version) for version in key.classifiers])


def _reuse_key(decision: Decision, classifiers: Sequence[bytes]) -> bytes | None:
    facts = decision.media.facts
    if decision.verdict is Verdict.ERROR or decision.reused_from is not None or facts is None or not decision.sheets:
        return None
    numbers = facts.frame_numbers()
    if not all(_is_complete(sheet, numbers) for sheet in decision.sheets):
        return None
    return _hash_of_reuse(decision.media.sha256, decision.plan_digest, decision.decoder, classifiers)


def _hash_of_reuse(media_sha256: str, plan_digest: str, decoder: str, classifiers: Sequence[bytes]) -> bytes:
    # Separated, and the part of variable length last, so that no two keys read the same.
    return hashlib.sha256(FIELD.join((media_sha256, plan_digest, decoder, b"".join(classifiers).hex())).encode()).digest()


def _is_complete(sheet: ClassifierScores, numbers: Sequence[int]) -> bool:
    needed = frozenset(sheet.classifier.categories)
    return len(sheet.frames) == len(numbers) and all(
        frame.frame == number and needed <= frame.scores.keys() and all(map(is_score, frame.scores.values()))
        for number, frame in zip(numbers, sheet.frames, strict=True)
    )


# --- documents inside a row -------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _facts_text(facts: Facts) -> str:
    """Callers tend to send pictures of few sizes."""
    return _json(facts_document(facts))


def _reason_document(reason: Reason) -> dict[str, Json]:
    document: dict[str, Json] = {
        "code": str(reason.code),
        "verdict": str(reason.verdict),
        "category": reason.category,
        "score": reason.score,
        "threshold": reason.threshold,
        "classifier": reason.classifier,
        "frame": reason.frame,
        "time_us": reason.time_us,
        "box": None if reason.box is None else list(reason.box),
        "detail": reason.detail,
    }
    return {name: value for name, value in document.items() if value is not None}


def _reason(document: Mapping[str, Any]) -> Reason:
    return Reason(
        code=ReasonCode(document["code"]),
        verdict=Verdict(document["verdict"]),
        category=document.get("category"),
        score=document.get("score"),
        threshold=document.get("threshold"),
        classifier=document.get("classifier"),
        frame=document.get("frame"),
        time_us=document.get("time_us"),
        box=_box(document["box"]) if "box" in document else None,
        detail=document.get("detail"),
    )


def sheet_text(sheet: ClassifierScores) -> str:
    """JSON of everything in a sheet but its classifier; by hand, since it is made for every decision."""
    found: list[Json] = [
        {"frame": frame, "label": d.label, "category": d.category, "score": d.score, "box": list(d.box), "detail": d.detail}
        for frame, d in sheet.detections
    ]
    return f'{{"frames":[{",".join(map(_frame_text, sheet.frames))}],"detections":{_json(found) if found else "[]"}}}'


def _frame_text(frame: FrameScores) -> str:
    scores = ",".join([begin + number_of(frame.scores[name]) for name, begin in members_of(tuple(frame.scores))])
    boxes = ",".join([begin + list_of(frame.boxes[name]) for name, begin in members_of(tuple(frame.boxes))]) if frame.boxes else ""
    return f'{{"frame":{number_of(frame.frame)},"time_us":{number_of(frame.time_us)},"scores":{{{scores}}},"boxes":{{{boxes}}}}}'


def sheet_of(document: Mapping[str, Any], classifier: ClassifierVersion) -> ClassifierScores:
    """One sheet of a row of `decision`."""
    return ClassifierScores(
        classifier=classifier,
        frames=tuple(
            FrameScores(frame=f["frame"], time_us=f["time_us"], scores=f["scores"], boxes={c: _box(box) for c, box in f["boxes"].items()})
            for f in document["frames"]
        ),
        detections=tuple(
            (
                d["frame"],
                Detection(label=d["label"], category=d["category"], score=d["score"], box=_box(d["box"]), detail=d["detail"]),
            )
            for d in document["detections"]
        ),
    )


def _box(values: Sequence[int]) -> Box:
    left, top, width, height = values
    return (left, top, width, height)


# --- text forms of Postgres -------------------------------------------------------------------


def _bytea(value: bytes) -> str:
    return "\\x" + value.hex()


def _categories(reasons: Sequence[Reason]) -> str:
    return _array(sorted({reason.category for reason in reasons if reason.category is not None}))


def _array(values: Sequence[str]) -> str:
    return "{" + ",".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values) + "}"
