"""Values of a transform as rows and JSON, and back: what is read equals what was written.

Personal texts (statements of consent, reasons of reviews, references) lie in a table of their own; once they are erased they
read as None, or as `ERASED` where there must be a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy.dialects import postgresql

from moderation.adapters import tables
from moderation.audit import options_document, reason_document
from moderation.canonical import Json, canonical
from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Verdict
from moderation.frames import Box
from moderation.media import Stage
from moderation.scores import from_decimal
from moderation.transform import (
    Basis,
    Block,
    CatalogueSource,
    Committed,
    ConsentStatement,
    Denial,
    Event,
    FaceChoice,
    FaceMode,
    Failure,
    Options,
    Original,
    Part,
    PartKind,
    Progress,
    Release,
    Review,
    Span,
    State,
    Transform,
)

REFERENCE: Final = "reference"
CONSENT: Final = "consent"
TARGET_CONSENT: Final = "target_consent"
CALLBACK_URL: Final = "callback_url"
REVIEW_REASON: Final = "review_reason"
SUBJECT: Final = "subject"
LABEL: Final = "label"
"""Kinds of `personal`."""

ERASED: Final = "(erased)"

_TYPES: Final = postgresql.dialect()  # type: ignore[no-untyped-call]
PART_COLUMNS: Final[Mapping[str, str]] = {
    column.name: column.type.compile(dialect=_TYPES)
    for column in tables.part.columns
    if column.name not in ("tenant", "transform", "recorded_at")
}
"""The columns of `part` but for whose it is, with their types."""

Row = Mapping[str, Any]
"""A row of the table in question, as `to_jsonb` gives it: times and ids as text, bytes as `\\x` and hex."""


# --- to rows --------------------------------------------------------------------------------------


def transform_row(transform: Transform) -> dict[str, Any]:
    """The columns of `transform`."""
    return {
        "id": transform.id,
        "tenant": transform.tenant,
        "actor": transform.actor,
        "request_id": transform.request_id,
        "created_at": transform.created_at,
        "policy_name": transform.policy.name,
        "policy_version": transform.policy.version,
        "policy_digest": transform.policy.digest,
        "source_sha256": bytes.fromhex(transform.source.sha256),
        "source_size": transform.source.size,
        "source_type": transform.source.type,
        "target_sha256": bytes.fromhex(transform.target.sha256),
        "target_size": transform.target.size,
        "target_type": transform.target.type,
        "options": options_document(transform.options),
        "consent_basis": None if transform.consent is None else str(transform.consent.basis),
        "target_consent_basis": None if transform.target_consent is None else str(transform.target_consent.basis),
        "catalogue_source": transform.catalogue_source,
    }


def transform_texts(transform: Transform) -> dict[str, str | None]:
    """The personal texts of a transform by kind."""
    return {
        REFERENCE: transform.reference,
        CONSENT: consent_text(transform.consent),
        TARGET_CONSENT: consent_text(transform.target_consent),
        CALLBACK_URL: transform.callback_url,
    }


def consent_text(consent: ConsentStatement | None) -> str | None:
    """What was said about a consent beside its basis, as one text; None where nothing was."""
    if consent is None or (consent.statement is None and consent.reference is None):
        return None
    return canonical({"statement": consent.statement, "reference": consent.reference}).decode()


def part_row(part: Part) -> dict[str, Any]:
    """The columns of `part` but for whose it is."""
    span = part.span
    return {
        "kind": str(part.kind),
        "sha256": bytes.fromhex(part.sha256),
        "size": part.size,
        "type": part.type,
        "width": part.width,
        "height": part.height,
        "frame_digest": part.frame_digest,
        "made_of": None if part.made_of is None else bytes.fromhex(part.made_of),
        "swapper": part.swapper,
        "is_trained": part.is_trained,
        "faces_changed": part.faces_changed,
        "faces_skipped": part.faces_skipped,
        "number": 0 if span is None else span.number,
        "first_frame": None if span is None else span.first_frame,
        "frames": None if span is None else span.frames,
        "head": None if span is None else span.head,
        "is_last": None if span is None else span.is_last,
        "meant": None if span is None else json.dumps(span.meant),
    }


def source_row(source: CatalogueSource) -> dict[str, Any]:
    """The columns of `source`."""
    return {
        "id": source.id,
        "tenant": source.tenant,
        "sha256": bytes.fromhex(source.sha256),
        "size": source.size,
        "type": source.type,
        "decision": source.decision,
        "consent_basis": str(source.consent.basis),
        "actor": source.actor,
        "created_at": source.created_at,
    }


def source_texts(source: CatalogueSource) -> dict[str, str | None]:
    """The personal texts of a catalogue's entry by kind."""
    return {CONSENT: consent_text(source.consent), LABEL: source.label}


def denial_document(denial: Denial | None) -> dict[str, Json] | None:
    """The inverse of `_denial`."""
    if denial is None:
        return None
    return {
        "stage": str(denial.stage),
        "decision": str(denial.decision),
        "reasons": [reason_document(reason) for reason in denial.reasons],
    }


def failure_document(failure: Failure | None, *, cause: str | None = None) -> dict[str, Json] | None:
    """The inverse of `_failure`. `cause` is for the operator and is not read back."""
    if failure is None:
        return None
    document: dict[str, Json] = {"code": failure.code, "message": failure.message, "retryable": failure.retryable}
    return document if cause is None else document | {"cause": cause}


# --- from rows ------------------------------------------------------------------------------------


def committed_of(rows: Mapping[str, Sequence[Row]], known: Mapping[UUID, Decision]) -> Committed:
    """Everything about one transform. `rows` are those of each table, by what they are; `known` has the decisions that they name."""
    (transform,) = rows["transform"]
    decisions = sorted(rows.get("decision", ()), key=lambda row: (moment_of(row["recorded_at"]), row["id"]))
    reviews = sorted(rows.get("review", ()), key=lambda row: (moment_of(row["recorded_at"]), row["id"]))
    events = sorted(rows["event"], key=lambda row: int(row["sequence"]))
    releases = rows.get("release", ())
    return Committed(
        transform=transform_of(transform, {row["kind"]: row["content"] for row in rows.get("personal", ())}),
        events=tuple(map(event_of, events)),
        decisions=tuple(replace(known[UUID(row["id"])], reference=row["reference"]) for row in decisions),
        reviews={UUID(row["decision"]): review_of(row) for row in reviews},  # the latest comes last and stays
        parts=tuple(_part(row) for row in sorted(rows.get("part", ()), key=lambda row: (str(row["kind"]), int(row["number"])))),
        release=release_of(releases[0]) if releases else None,
        withdrawn=bool(rows.get("withdrawal")),
        purged=bool(rows.get("purge")),
        cancel_requested=bool(rows.get("cancel")),
        progress=next((_progress(row) for row in rows.get("progress", ())), None),
        blocks={_hex(row["sha256"]): _block(row) for row in rows.get("block", ())},
        source_removed=bool(rows.get("source_removed")),
    )


def transform_of(row: Row, personal: Mapping[str, str]) -> Transform:
    """A row of `transform` with its personal texts by kind."""
    return Transform(
        id=UUID(row["id"]),
        tenant=UUID(row["tenant"]),
        actor=row["actor"],
        request_id=row["request_id"],
        created_at=moment_of(row["created_at"]),
        policy=PolicyRef(name=row["policy_name"], version=row["policy_version"], digest=row["policy_digest"]),
        source=Original(sha256=_hex(row["source_sha256"]), size=row["source_size"], type=row["source_type"]),
        target=Original(sha256=_hex(row["target_sha256"]), size=row["target_size"], type=row["target_type"]),
        options=_options(row["options"]),
        consent=None if row["consent_basis"] is None else _consent(row["consent_basis"], personal.get(CONSENT)),
        target_consent=(
            None if row["target_consent_basis"] is None else _consent(row["target_consent_basis"], personal.get(TARGET_CONSENT))
        ),
        catalogue_source=None if row["catalogue_source"] is None else UUID(row["catalogue_source"]),
        reference=personal.get(REFERENCE),
        callback_url=personal.get(CALLBACK_URL),
    )


def _consent(basis: str, text: str | None) -> ConsentStatement:
    """A basis with what `consent_text` made of the rest."""
    said = {} if text is None else json.loads(text)
    return ConsentStatement(basis=Basis(basis), statement=said.get("statement"), reference=said.get("reference"))


def event_of(row: Row) -> Event:
    """A row of `transform_event`."""
    return Event(
        sequence=row["sequence"],
        state=State(row["state"]),
        at=moment_of(row["recorded_at"]),
        denial=_denial(row["denial"]),
        failure=_failure(row["failure"]),
        held=_denial(row["held"]),
    )


def review_of(row: Row) -> Review:
    """A row of `review` with its `reason` and `subject`."""
    return Review(
        id=UUID(row["id"]),
        tenant=UUID(row["tenant"]),
        decision=UUID(row["decision"]),
        verdict=Verdict(row["verdict"]),
        reason=row["reason"] or ERASED,
        actor=row["actor"],
        subject=row["subject"] or ERASED,
        at=moment_of(row["at"]),
    )


def release_of(row: Row) -> Release:
    """A row of `release`."""
    return Release(
        transform=UUID(row["transform"]),
        tenant=UUID(row["tenant"]),
        signed_sha256=_hex(row["signed_sha256"]),
        encoded_sha256=_hex(row["encoded_sha256"]),
        decisions={stage: UUID(row[f"{stage}_decision"]) for stage in (Stage.SOURCE, Stage.TARGET, Stage.OUTPUT)},
        pinned=PolicyRef(name=row["policy_name"], version=row["pinned_version"], digest=row["pinned_digest"]),
        in_force=PolicyRef(name=row["policy_name"], version=row["in_force_version"], digest=row["in_force_digest"]),
        released_at=moment_of(row["released_at"]),
        expires_at=moment_of(row["expires_at"]),
    )


def source_of(row: Row) -> CatalogueSource:
    """A row of `source` with its `consent` and `label`."""
    return CatalogueSource(
        id=UUID(row["id"]),
        tenant=UUID(row["tenant"]),
        sha256=_hex(row["sha256"]),
        size=row["size"],
        type=row["type"],
        decision=UUID(row["decision"]),
        consent=_consent(row["consent_basis"], row[CONSENT]),
        actor=row["actor"],
        created_at=moment_of(row["created_at"]),
        label=row[LABEL],
    )


def moment_of(text: str) -> datetime:
    """A time as JSON says it, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _part(row: Row) -> Part:
    return Part(
        kind=PartKind(row["kind"]),
        sha256=_hex(row["sha256"]),
        size=row["size"],
        type=row["type"],
        width=row["width"],
        height=row["height"],
        frame_digest=row["frame_digest"],
        made_of=None if row["made_of"] is None else _hex(row["made_of"]),
        swapper=row["swapper"],
        is_trained=row["is_trained"],
        faces_changed=row["faces_changed"],
        faces_skipped=row["faces_skipped"],
        span=None if row["number"] == 0 else _span(row),
    )


def _span(row: Row) -> Span:
    return Span(
        number=row["number"],
        first_frame=row["first_frame"],
        frames=row["frames"],
        head=row["head"],
        is_last=row["is_last"],
        meant=tuple(tuple(map(float, face)) for face in row["meant"] or ()),
    )


def _progress(row: Row) -> Progress:
    return Progress(done=row["done"], total=row["total"], eta_s=row["eta_s"])


def _block(row: Row) -> Block:
    return Block(stage=Stage(row["stage"]), decision=UUID(row["decision"]), review=UUID(row["review"]))


def _options(document: Row) -> Options:
    faces = document["faces"]
    return Options(
        faces=FaceChoice(mode=FaceMode(faces["mode"]), index=faces["index"], box=_box(faces["box"])),
        swapper=document["swapper"],
        label=document["label"],
        label_language=document["label_language"],
        format=document["format"],
        quality=document["quality"],
    )


def _denial(document: Row | None) -> Denial | None:
    if document is None:
        return None
    return Denial(
        stage=Stage(document["stage"]),
        decision=UUID(document["decision"]),
        reasons=tuple(_reason(reason) for reason in document["reasons"]),
    )


def _failure(document: Row | None) -> Failure | None:
    if document is None:
        return None
    return Failure(code=document["code"], message=document["message"], retryable=document["retryable"])


def _reason(document: Row) -> Reason:
    """The inverse of `moderation.audit.reason_document`."""
    return Reason(
        code=ReasonCode(document["code"]),
        verdict=Verdict(document["verdict"]),
        category=document["category"],
        score=_score(document["score"]),
        threshold=_score(document["threshold"]),
        classifier=document["classifier"],
        frame=document["frame"],
        time_us=document["time_us"],
        box=_box(document["box"]),
        detail=document["detail"],
    )


def _score(text: str | None) -> int | None:
    return None if text is None else from_decimal(text)


def _box(values: Sequence[int] | None) -> Box | None:
    if values is None:
        return None
    left, top, width, height = values
    return (left, top, width, height)


def _hex(text: str) -> str:
    return text.removeprefix("\\x")
