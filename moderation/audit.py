"""The record as bytes: a decision becomes an entry, an entry becomes a leaf.

An entry is canonical JSON (RFC 8785) with a 16-byte nonce, so that nobody can guess it from its
hash; its leaf hash is that of RFC 6962, section 2.1: SHA-256 over a zero byte and the entry.
Personal data never stands in an entry. What may have to be erased (`reference`, consent statements)
is represented by a commitment, SHA-256 over a 16-byte salt and the text; deleting salt and text
leaves every proof valid.

An entry tells all that `moderation.policy.decide` was given, so that anyone who holds it and the policy
can decide again: see `evidence_of`.

Law of evolution: fields are only ever added, with a new `format` number; none changes its meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from moderation.canonical import Json, canonical, members_of, number_of, text_of
from moderation.decision import Decision, PolicyRef, Reason, Threshold
from moderation.frames import Fit, InputSpec, Resample
from moderation.media import Facts, Media, MediaKind, Stage, Unscreened
from moderation.people import Appeal, Erasure, Hold, Sweep
from moderation.policy import Policy
from moderation.scores import ClassifierScores, ClassifierVersion, Detection, FrameScores, as_decimal, from_decimal
from moderation.transform import CatalogueSource, ConsentStatement, Options, Original, Release, Review, Showing, Transform

FORMAT: Final = 1
NONCE_BYTES: Final = 16


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and Z. Raises ValueError on a naive time."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no place in the record")
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def commitment(salt: bytes, text: str) -> str:
    """A salted commitment to personal data. Raises ValueError on a short salt."""
    if len(salt) < NONCE_BYTES:
        raise ValueError("a salt has at least 16 bytes")
    return "sha256:" + hashlib.sha256(salt + text.encode()).hexdigest()


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 section 2.1: SHA-256(0x00 || entry), 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def decision_entry(decision: Decision, *, nonce: bytes, reference_commitment: str | None) -> bytes:
    """The canonical bytes of a decision. `nonce` has 16 random bytes.

    Raises TypeError or ValueError where there are none, as `canonical` does.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError("a nonce has 16 bytes")
    # Written member by member, in canonical order: five times faster than a document that is sorted and encoded, and
    # made for every decision. What repeats from decision to decision is more than half of it and made once.
    policy = decision.policy
    return (
        f'{{"actor":{text_of(decision.actor)},"automated":{"true" if decision.automated else "false"}'
        f',"classifiers":[{",".join(map(_sheet_text, decision.sheets))}],"created_at":"{rfc3339(decision.created_at)}"'
        f',"decoder":{text_of(decision.decoder)},"format":{FORMAT},"id":"{decision.id}","kind":"decision"'
        f',"media":{_media_text(decision.media)},"nonce":"{nonce.hex()}","plan":{text_of(decision.plan_digest)}'
        f',"policy":{{"digest":{text_of(policy.digest)},"name":{text_of(policy.name)},"version":{number_of(policy.version)}}}'
        f',"reasons":{_reasons_text(decision.reasons)},"reference":{_text_or_null(reference_commitment)}'
        f',"request_id":{text_of(decision.request_id)},"reused_from":{_id_or_null(decision.reused_from)}'
        f',"stage":"{decision.stage.value}","tenant":"{decision.tenant}","thresholds":{_thresholds_text(decision.thresholds)}'
        f',"transform":{_id_or_null(decision.transform)},"verdict":"{decision.verdict.value}"}}'
    ).encode()


def _sheet_text(sheet: ClassifierScores) -> str:
    """The canonical text of `sheet_document`."""
    head, between, tail = _classifier_parts(sheet.classifier)
    found = canonical(detection_documents(sheet)).decode() if sheet.detections else "[]"
    return f"{head}{found}{between}[{','.join(map(_frame_text, sheet.frames))}]{tail}"


def _frame_text(frame: FrameScores) -> str:
    scores = ",".join([f'{begin}"{as_decimal(frame.scores[name])}"' for name, begin in members_of(tuple(frame.scores))])
    return f'{{"frame":{number_of(frame.frame)},"scores":{{{scores}}},"time_us":{number_of(frame.time_us)}}}'


@lru_cache(maxsize=256)
def _classifier_parts(version: ClassifierVersion) -> tuple[str, str, str]:
    """A sheet of this classifier, cut where its detections and its frames belong."""
    empty = canonical(classifier_document(version) | {"frames": [], "detections": []}).decode()
    head, tail = _cut(empty, '"detections":', "[]")
    return (head, *_cut(tail, '"frames":', "[]"))


def _media_text(media: Media) -> str:
    """The canonical text of `media_document`."""
    head, tail = _facts_parts(media.facts)
    return f'{{"bytes":{number_of(media.size)},{head}{text_of(media.sha256)}{tail}'


@lru_cache(maxsize=1024)
def _facts_parts(facts: Facts | None) -> tuple[str, str]:
    """What follows the size of a media, cut where its digest belongs. Callers tend to send pictures of few sizes."""
    return _cut(canonical(facts_document(facts) | {"sha256": ""}).decode().removeprefix("{"), '"sha256":', '""')


def _cut(document: str, name: str, value: str) -> tuple[str, str]:
    """The text before and after the value of a member. No other text of the document can look like it: its quotes are escaped."""
    head, found, tail = document.partition(name + value)
    if not found:
        raise ValueError(f"no {name}{value} to fill")
    return head + name, tail


def _reasons_text(reasons: tuple[Reason, ...]) -> str:
    return canonical([reason_document(reason) for reason in reasons]).decode() if reasons else "[]"


@lru_cache(maxsize=1024)
def _thresholds_text(thresholds: tuple[Threshold, ...]) -> str:
    """The same for all decisions under one policy, and a good part of an entry: made once."""
    return canonical([threshold_document(threshold) for threshold in thresholds]).decode()


def _text_or_null(text: str | None) -> str:
    return "null" if text is None else text_of(text)


def _id_or_null(id: UUID | None) -> str:
    return "null" if id is None else f'"{id}"'


def key_entry(*, id: UUID, tenant: UUID, event: str, actor: str, at: datetime, nonce: bytes, key: Mapping[str, Json]) -> bytes:
    """The canonical bytes of something that happened to a key (`created`, `revoked`). `key` holds its id and what it may do."""
    return _event_entry("key", id=id, tenant=tenant, event=event, actor=actor, at=at, nonce=nonce, facts={"key": key})


def policy_entry(*, id: UUID, tenant: UUID, event: str, actor: str, at: datetime, nonce: bytes, policy: Policy) -> bytes:
    """The canonical bytes of a policy's coming into force (`published`), with its whole content."""
    facts: dict[str, Json] = {
        "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest, "content": policy.content()},
    }
    return _event_entry("policy", id=id, tenant=tenant, event=event, actor=actor, at=at, nonce=nonce, facts=facts)


def transform_entry(transform: Transform, *, nonce: bytes, commitments: Mapping[str, str]) -> bytes:
    """The canonical bytes of a transform's acceptance. `commitments` are to what lies in `personal`, by its kind."""
    facts: dict[str, Json] = {
        "request_id": transform.request_id,
        "policy": _policy_ref(transform.policy),
        "source": _original_document(transform.source),
        "target": _original_document(transform.target),
        "options": options_document(transform.options),
        "consent": _consent_document(transform.consent, commitments.get("consent")),
        "target_consent": _consent_document(transform.target_consent, commitments.get("target_consent")),
        "catalogue_source": None if transform.catalogue_source is None else str(transform.catalogue_source),
        "reference": commitments.get("reference"),
        "callback_url": commitments.get("callback_url"),
    }
    return _event_entry(
        "transform",
        id=transform.id,
        tenant=transform.tenant,
        event="accepted",
        actor=transform.actor,
        at=transform.created_at,
        nonce=nonce,
        facts={"transform": facts},
    )


def release_entry(release: Release, *, id: UUID, actor: str, nonce: bytes) -> bytes:
    """The canonical bytes of a release: which file may be served, and which decisions allow it under which policies."""
    facts: dict[str, Json] = {
        "transform": str(release.transform),
        "signed_sha256": release.signed_sha256,
        "encoded_sha256": release.encoded_sha256,
        "decisions": {str(stage): str(decision) for stage, decision in release.decisions.items()},
        "pinned": _policy_ref(release.pinned),
        "in_force": _policy_ref(release.in_force),
        "expires_at": rfc3339(release.expires_at),
    }
    return _event_entry(
        "release",
        id=id,
        tenant=release.tenant,
        event="released",
        actor=actor,
        at=release.released_at,
        nonce=nonce,
        facts={"release": facts},
    )


def withdrawal_entry(*, id: UUID, transform: UUID, review: Review, nonce: bytes) -> bytes:
    """The canonical bytes of a release's end because of a review."""
    facts: dict[str, Json] = {"transform": str(transform), "review": str(review.id)}
    return _event_entry(
        "withdrawal",
        id=id,
        tenant=review.tenant,
        event="withdrawn",
        actor=review.actor,
        at=review.at,
        nonce=nonce,
        facts={"withdrawal": facts},
    )


def purge_entry(*, id: UUID, tenant: UUID, transform: UUID, actor: str, at: datetime, nonce: bytes, result: Mapping[str, Json]) -> bytes:
    """The canonical bytes of a released file's removal, with what came of it."""
    facts: dict[str, Json] = {"transform": str(transform), "result": dict(result)}
    return _event_entry("purge", id=id, tenant=tenant, event="purged", actor=actor, at=at, nonce=nonce, facts={"purge": facts})


def review_entry(review: Review, *, nonce: bytes, commitments: Mapping[str, str]) -> bytes:
    """The canonical bytes of a person's verdict. `commitments` are to reason and subject."""
    facts: dict[str, Json] = {
        "decision": str(review.decision),
        "verdict": str(review.verdict),
        "reason": commitments["review_reason"],
        "subject": commitments["subject"],
    }
    return _event_entry(
        "review",
        id=review.id,
        tenant=review.tenant,
        event="reviewed",
        actor=review.actor,
        at=review.at,
        nonce=nonce,
        facts={"review": facts},
    )


def view_entry(
    *, id: UUID, tenant: UUID, decision: UUID, actor: str, subject_commitment: str, rendition: str, at: datetime, nonce: bytes
) -> bytes:
    """The canonical bytes of somebody's looking at the media of a decision."""
    facts: dict[str, Json] = {"decision": str(decision), "rendition": rendition, "subject": subject_commitment}
    return _event_entry("view", id=id, tenant=tenant, event="viewed", actor=actor, at=at, nonce=nonce, facts={"view": facts})


def showing_entry(showing: Showing, *, sha256: Sequence[str], nonce: bytes) -> bytes:
    """The canonical bytes of somebody's being shown segments of a video before its release. `sha256` are those of their files."""
    facts: dict[str, Json] = {
        "transform": str(showing.transform),
        "first_segment": showing.first,
        "last_segment": showing.last,
        "sha256": list(sha256),
    }
    return _event_entry(
        "showing",
        id=showing.id,
        tenant=showing.tenant,
        event="shown",
        actor=showing.actor,
        at=showing.at,
        nonce=nonce,
        facts={"showing": facts},
    )


def source_entry(
    source: CatalogueSource, *, id: UUID, event: str, actor: str, at: datetime, nonce: bytes, commitments: Mapping[str, str] | None
) -> bytes:
    """The canonical bytes of an approved face's coming (`approved`, with all that is known of it) and going (`removed`, without)."""
    facts: dict[str, Json] = {"id": str(source.id), "sha256": source.sha256}
    if commitments is not None:
        facts |= {
            "bytes": source.size,
            "type": source.type,
            "decision": str(source.decision),
            "consent": _consent_document(source.consent, commitments.get("consent")),
            "label": commitments.get("label"),
        }
    return _event_entry("source", id=id, tenant=source.tenant, event=event, actor=actor, at=at, nonce=nonce, facts={"source": facts})


def appeal_entry(appeal: Appeal, *, nonce: bytes, commitments: Mapping[str, str]) -> bytes:
    """The canonical bytes of an appeal. `commitments` are to what was said and by whom."""
    facts: dict[str, Json] = {
        "decision": str(appeal.decision),
        "stood": str(appeal.stood),
        "review": None if appeal.review is None else str(appeal.review),
        "reason": commitments["appeal_reason"],
        "subject": commitments.get("subject"),
    }
    return _event_entry(
        "appeal",
        id=appeal.id,
        tenant=appeal.tenant,
        event="appealed",
        actor=appeal.actor,
        at=appeal.at,
        nonce=nonce,
        facts={"appeal": facts},
    )


def hold_entry(hold: Hold, *, id: UUID, event: str, actor: str, at: datetime, nonce: bytes, commitments: Mapping[str, str]) -> bytes:
    """The canonical bytes of a hold's coming (`placed`, with what it is on) and going (`released`)."""
    facts: dict[str, Json] = {"id": str(hold.id), "reason": commitments["hold_reason"]}
    if event == "placed":
        facts |= {
            "decision": None if hold.decision is None else str(hold.decision),
            "transform": None if hold.transform is None else str(hold.transform),
            "sha256": hold.sha256,
            "reference": commitments.get("hold_reference"),
        }
    return _event_entry("hold", id=id, tenant=hold.tenant, event=event, actor=actor, at=at, nonce=nonce, facts={"hold": facts})


def erasure_entry(erasure: Erasure, *, nonce: bytes, texts: Mapping[str, Sequence[str]]) -> bytes:
    """The canonical bytes of an erasure. `texts` are the ids of those that are gone, by kind: whose commitments nobody can open any more."""
    facts: dict[str, Json] = {
        "selector": str(erasure.selector),
        "erased": erasure.erased,
        "held": erasure.held,
        "in_progress": erasure.in_progress,
        "holds": [str(hold) for hold in erasure.holds],
        "is_complete": erasure.is_complete,
        "texts": {kind: list(ids) for kind, ids in texts.items()},
    }
    return _event_entry(
        "erasure",
        id=erasure.id,
        tenant=erasure.tenant,
        event="erased",
        actor=erasure.actor,
        at=erasure.at,
        nonce=nonce,
        facts={"erasure": facts},
    )


def months_entry(*, id: UUID, tenant: UUID, actor: str, at: datetime, nonce: bytes, months: Sequence[Json]) -> bytes:
    """The canonical bytes of the dropping of old months: of each month and table how many rows, and from which id to which."""
    return _event_entry(
        "purge", id=id, tenant=tenant, event="dropped", actor=actor, at=at, nonce=nonce, facts={"purge": {"months": list(months)}}
    )


def sweep_entry(sweep: Sweep, *, nonce: bytes) -> bytes:
    """The canonical bytes of what one run removed because its time was over: how much, and from which id to which."""
    facts: dict[str, Json] = {
        "swept": str(sweep.what),
        "removed": sweep.removed,
        "held": sweep.held,
        "first": None if sweep.first is None else str(sweep.first),
        "last": None if sweep.last is None else str(sweep.last),
        "since": rfc3339(sweep.since),
    }
    return _event_entry(
        "purge",
        id=sweep.id,
        tenant=sweep.tenant,
        event="swept",
        actor=sweep.actor,
        at=sweep.at,
        nonce=nonce,
        facts={"purge": facts},
    )


def shadow_entry(
    *, id: UUID, tenant: UUID, decision: UUID, name: str, sheet: ClassifierScores | None, fault: str | None, at: datetime, nonce: bytes
) -> bytes:
    """The canonical bytes of what a shadow classifier gave for the media of a decision: all its scores, or its fault."""
    facts: dict[str, Json] = {
        "decision": str(decision),
        "name": name,
        "classifier": None if sheet is None else sheet_document(sheet),
        "fault": fault,
    }
    return _event_entry("shadow", id=id, tenant=tenant, event="listened", actor="shadow", at=at, nonce=nonce, facts={"shadow": facts})


def log_entry(*, id: UUID, tenant: UUID, event: str, actor: str, at: datetime, nonce: bytes, facts: Mapping[str, Json]) -> bytes:
    """The canonical bytes of something that happened to the log itself: it was `opened`, `restarted`, or its key `rotated`."""
    return _event_entry("log", id=id, tenant=tenant, event=event, actor=actor, at=at, nonce=nonce, facts={"log": dict(facts)})


def receipt_key_entry(*, id: UUID, tenant: UUID, actor: str, at: datetime, nonce: bytes, key: str) -> bytes:
    """The canonical bytes of a key's first use for receipts; `key` is its public half as `name+hash+key`."""
    return _event_entry(
        "receipt_key", id=id, tenant=tenant, event="created", actor=actor, at=at, nonce=nonce, facts={"receipt_key": {"key": key}}
    )


def options_document(options: Options) -> dict[str, Json]:
    """How a transform is to be done."""
    return {
        "faces": {
            "mode": str(options.faces.mode),
            "index": options.faces.index,
            "box": None if options.faces.box is None else list(options.faces.box),
        },
        "swapper": options.swapper,
        "label": options.label,
        "label_language": options.label_language,
        "format": options.format,
        "quality": options.quality,
    }


def _policy_ref(policy: PolicyRef) -> dict[str, Json]:
    return {"name": policy.name, "version": policy.version, "digest": policy.digest}


def _original_document(original: Original) -> dict[str, Json]:
    return {"sha256": original.sha256, "bytes": original.size, "type": original.type}


def _consent_document(consent: ConsentStatement | None, said: str | None) -> dict[str, Json] | None:
    """The basis in clear; what was said only as a commitment."""
    return None if consent is None else {"basis": str(consent.basis), "said": said}


def _event_entry(
    kind: str, *, id: UUID, tenant: UUID, event: str, actor: str, at: datetime, nonce: bytes, facts: Mapping[str, Json]
) -> bytes:
    if len(nonce) != NONCE_BYTES:
        raise ValueError("a nonce has 16 bytes")
    head: dict[str, Json] = {"format": FORMAT, "kind": kind, "nonce": nonce.hex(), "id": str(id), "tenant": str(tenant)}
    return canonical({**head, "event": event, "actor": actor, "at": rfc3339(at), **facts})


def media_document(decision: Decision) -> dict[str, Json]:
    """What the bytes were, as far as they could be opened."""
    return {"sha256": decision.media.sha256, "bytes": decision.media.size, **facts_document(decision.media.facts)}


def facts_document(facts: Facts | None) -> dict[str, Json]:
    """What decoding found out; empty where the bytes could not be opened. What only videos and pictures of our own have is left out where it says nothing."""
    if facts is None:
        return {}
    further: dict[str, Json] = {}
    if facts.sampled:
        further["sampled"] = list(facts.sampled)
    if facts.dense:
        further["dense"] = list(facts.dense)
    if facts.seed is not None:
        further["seed"] = facts.seed
    if facts.undecoded:
        further["undecoded"] = facts.undecoded
    if facts.cuts_left_out:
        further["cuts_left_out"] = facts.cuts_left_out
    if facts.frame_digest is not None:
        further["frame_digest"] = facts.frame_digest
    return {
        **further,
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


def threshold_document(threshold: Threshold) -> dict[str, Json]:
    """The thresholds that applied to one category of one classifier, as decimal strings."""
    return {
        "category": threshold.category,
        "classifier": threshold.classifier,
        "block_at": _decimal(threshold.block_at),
        "review_at": _decimal(threshold.review_at),
    }


def sheet_document(sheet: ClassifierScores) -> dict[str, Json]:
    """All scores of one classifier, frame by frame, with exactly which classifier it was."""
    return classifier_document(sheet.classifier) | {"frames": frame_documents(sheet), "detections": detection_documents(sheet)}


def classifier_document(version: ClassifierVersion) -> dict[str, Json]:
    """What makes this classifier this one."""
    spec = version.input
    return {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "mapping": version.mapping_digest,
        "calibrated": version.calibrated,
        "runtime": version.runtime,
        "categories": list(version.categories),
        "input": {
            "width": spec.width,
            "height": spec.height,
            "fit": str(spec.fit),
            "resample": str(spec.resample),
            "resize_to": spec.resize_to,
        },
    }


def frame_documents(sheet: ClassifierScores) -> list[Json]:
    """Every score of every frame, as decimal strings."""
    return [{"frame": f.frame, "time_us": f.time_us, "scores": {c: as_decimal(s) for c, s in f.scores.items()}} for f in sheet.frames]


def detection_documents(sheet: ClassifierScores) -> list[Json]:
    """What was found where, strongest first."""
    return [
        {"frame": frame, "label": d.label, "category": d.category, "score": as_decimal(d.score), "box": list(d.box), "detail": d.detail}
        for frame, d in sheet.detections
    ]


def _decimal(score: int | None) -> str | None:
    return None if score is None else as_decimal(score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What `moderation.policy.decide` was given beside the policy; the fields are its arguments."""

    stage: Stage
    facts: Facts
    required: tuple[ClassifierVersion, ...]
    sheets: tuple[ClassifierScores, ...]


def evidence_of(entry: bytes) -> Evidence | None:
    """Read back from an entry what its decision was made on; None where nothing could be judged.

    Boxes of frames are not in an entry, so reasons made again have none; verdict, scores and thresholds
    are the same. Raises ValueError on anything that is not the entry of a decision.
    """
    try:
        document = json.loads(entry)
        if (document["format"], document["kind"]) != (FORMAT, "decision"):
            raise ValueError("not a decision entry of a known format")
        if "type" not in document["media"]:
            return None
        sheets = tuple(_read_sheet(sheet) for sheet in document["classifiers"])
        heard = {sheet.classifier.name: sheet.classifier for sheet in sheets}
        asked = dict.fromkeys(threshold["classifier"] for threshold in document["thresholds"])
        return Evidence(
            stage=Stage(document["stage"]),
            facts=read_facts(document["media"]),
            required=tuple(heard.get(name) or _silent(name) for name in asked),
            sheets=sheets,
        )
    except (KeyError, TypeError, AttributeError) as damage:
        raise ValueError("not a decision entry") from damage


def read_facts(media: Mapping[str, Any]) -> Facts:
    """The inverse of `facts_document`. Raises KeyError, TypeError or ValueError on anything else."""
    return Facts(
        type=media["type"],
        kind=MediaKind(media["kind"]),
        width=media["width"],
        height=media["height"],
        frames=media["frames"],
        frames_declared=media["frames_declared"],
        duration_us=media["duration_us"],
        unscreened=tuple(map(Unscreened, media["unscreened"])),
        renderings=tuple(media["renderings"]),
        sampled=tuple(media.get("sampled", ())),
        dense=tuple(media.get("dense", ())),
        seed=media.get("seed"),
        undecoded=media.get("undecoded", 0),
        cuts_left_out=media.get("cuts_left_out", 0),
        frame_digest=media.get("frame_digest"),
    )


def _read_sheet(sheet: Mapping[str, Any]) -> ClassifierScores:
    spec = sheet["input"]
    return ClassifierScores(
        classifier=ClassifierVersion(
            name=sheet["name"],
            version=sheet["version"],
            digest=sheet["digest"],
            mapping_digest=sheet["mapping"],
            categories=tuple(sheet["categories"]),
            input=InputSpec(
                width=spec["width"],
                height=spec["height"],
                fit=Fit(spec["fit"]),
                resample=Resample(spec["resample"]),
                resize_to=spec["resize_to"],
            ),
            calibrated=sheet["calibrated"],
            runtime=sheet["runtime"],
        ),
        frames=tuple(
            FrameScores(frame=row["frame"], time_us=row["time_us"], scores={c: from_decimal(s) for c, s in row["scores"].items()})
            for row in sheet["frames"]
        ),
        detections=tuple(
            (
                found["frame"],
                Detection(
                    label=found["label"],
                    category=found["category"],
                    score=from_decimal(found["score"]),
                    box=tuple(found["box"]),
                    detail=found["detail"],
                ),
            )
            for found in sheet["detections"]
        ),
    )


def _silent(name: str) -> ClassifierVersion:
    """Stands for a classifier that was asked and is not in the entry, so that its scores stay missing."""
    return ClassifierVersion(
        name=name, version="", digest="", mapping_digest="", categories=(), input=InputSpec(width=1, height=1, fit=Fit.STRETCH)
    )
