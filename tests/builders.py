"""Values for tests: valid by default, one keyword to spoil. No I/O, no randomness but by seed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import numpy as np
from PIL import Image

from moderation.decision import Decision, PolicyRef, Verdict
from moderation.frames import FilmFacts, Fit, Input, InputSpec
from moderation.media import Facts, Media, MediaKind, Stage
from moderation.policy import Policy, Rule, decide
from moderation.scores import ClassifierScores, ClassifierVersion, Detection, FrameScores, InputScores
from moderation.screening import Order
from moderation.transform import (
    Basis,
    ConsentStatement,
    Event,
    Original,
    Part,
    PartKind,
    Release,
    Review,
    Span,
    State,
    Transform,
)

TENANT = UUID("01890000-0000-7000-8000-00000000000a")
OTHER_TENANT = UUID("01890000-0000-7000-8000-00000000000b")
NOW = datetime(2026, 9, 1, 12, 0, 0, 123456, tzinfo=UTC)
CATEGORIES = ("sexual.nudity_explicit", "sexual.suggestive")
QUIET = {"sexual.nudity_explicit": 10_000, "sexual.suggestive": 50_000}
"""Scores under every threshold of `make_policy()`."""
LOUD = {"sexual.nudity_explicit": 973_100, "sexual.suggestive": 120_000}
"""Scores over `block_at` of `make_policy()`."""


def make_id(number: int = 1) -> UUID:
    """A UUIDv7 that is the same in every run; greater for greater numbers."""
    return UUID(int=(0x01890000_0000_7000_8000 << 48) | number)


def make_spec(**changes: Any) -> InputSpec:
    return InputSpec(**{"width": 8, "height": 8, "fit": Fit.STRETCH, **changes})


def make_classifier_version(name: str = "marker", categories: Sequence[str] = CATEGORIES, **changes: Any) -> ClassifierVersion:
    defaults: dict[str, Any] = {
        "version": "1",
        "digest": "sha256:" + "1" * 64,
        "mapping_digest": "sha256:" + "2" * 64,
        "input": make_spec(),
    }
    return ClassifierVersion(**{"name": name, "categories": tuple(categories), **defaults, **changes})


def make_scores(scores: Mapping[str, int] = QUIET, detections: Sequence[Detection] = ()) -> InputScores:
    return InputScores(scores=dict(scores), detections=tuple(detections))


def make_detection(**changes: Any) -> Detection:
    defaults: dict[str, Any] = {
        "label": "MARKER",
        "category": "sexual.nudity_explicit",
        "score": 973_100,
        "box": (1, 2, 3, 4),
        "detail": None,
    }
    return Detection(**{**defaults, **changes})


def make_sheet(*frames: Mapping[str, int], classifier: ClassifierVersion | None = None, **changes: Any) -> ClassifierScores:
    """One sheet with these scores, frame by frame, half a second apart; one quiet frame by default."""
    frames = frames or (QUIET,)
    return ClassifierScores(
        **{
            "classifier": classifier or make_classifier_version(),
            "frames": tuple(
                FrameScores(frame=number, time_us=number * 500_000 if len(frames) > 1 else None, scores=dict(scores))
                for number, scores in enumerate(frames)
            ),
            **changes,
        }
    )


SHOWN = "sha256:" + "f" * 64
"""Names what the results of all transforms here show."""


def make_facts(**changes: Any) -> Facts:
    defaults: dict[str, Any] = {"type": "image/jpeg", "kind": MediaKind.IMAGE, "width": 64, "height": 48, "frames": 1, "frames_declared": 1}
    return Facts(**{**defaults, **changes})


def make_seen(stage: Stage, **changes: Any) -> Facts:
    """What is seen of a picture at this stage: of what we made ourselves also what it shows."""
    return make_facts(**{"frame_digest": SHOWN if stage is Stage.OUTPUT else None, **changes})


def make_film_facts(**changes: Any) -> FilmFacts:
    """A silent MP4 of ten frames of 64 x 48, 25 a second."""
    facts = make_facts(type="video/mp4", kind=MediaKind.VIDEO, frames=10, frames_declared=10, duration_us=400_000)
    defaults: dict[str, Any] = {
        "facts": facts,
        "time_base": Fraction(1, 12800),
        "frame_rate": Fraction(25),
        "start": 0,
        "duration": 5120,
        "frames": 10,
        "has_sound": False,
    }
    return FilmFacts(**{**defaults, **changes})


def make_rule(category: str = "sexual.nudity_explicit", **changes: Any) -> Rule:
    """block_at 0.45, review_at 0.20."""
    return Rule(**{"category": category, "block_at": 450_000, "review_at": 200_000, **changes})


def make_policy(*rules: Rule, **changes: Any) -> Policy:
    """Explicit nudity blocks at 0.45 and holds at 0.20; everything else sexual holds at 0.60; `ctx.*` is ignored."""
    defaults: dict[str, Any] = {"name": "default", "version": 1, "ignore": ("ctx.*",)}
    return Policy(**{"rules": rules or (make_rule(), make_rule("sexual", block_at=None, review_at=600_000)), **defaults, **changes})


def make_decision(scores: Mapping[str, int] = QUIET, **changes: Any) -> Decision:
    """A decision as `Screener` would make it from these scores of one picture; LOUD makes a block."""
    policy, facts, sheets = make_policy(), make_facts(), (make_sheet(scores),)
    outcome = decide(stage=Stage.UPLOAD, facts=facts, required=[sheet.classifier for sheet in sheets], sheets=sheets, policy=policy)
    defaults: dict[str, Any] = {
        "id": make_id(),
        "tenant": TENANT,
        "actor": "k" * 20,
        "stage": Stage.UPLOAD,
        "media": Media(sha256="ab" * 32, size=1234, facts=facts),
        "verdict": outcome.verdict,
        "reasons": outcome.reasons,
        "thresholds": outcome.thresholds,
        "sheets": sheets,
        "policy": PolicyRef(name=policy.name, version=policy.version, digest=policy.digest),
        "plan_digest": "sha256:" + "3" * 64,
        "decoder": "scripted/1",
        "created_at": NOW,
        "request_id": "req_1",
    }
    return Decision(**{**defaults, **changes})


def make_error_decision(**changes: Any) -> Decision:
    """A decision about bytes that could not be opened."""
    return make_decision(
        **{"verdict": Verdict.ERROR, "sheets": (), "thresholds": (), "reasons": (), "media": Media(sha256="cd" * 32, size=7), **changes}
    )


def make_order(**changes: Any) -> Order:
    defaults: dict[str, Any] = {
        "id": make_id(),
        "tenant": TENANT,
        "actor": "k" * 20,
        "request_id": "req_1",
        "stage": Stage.UPLOAD,
        "policy": make_policy(),
    }
    return Order(**{**defaults, **changes})


def make_input(frame: int = 0, **changes: Any) -> Input:
    spec = make_spec()
    defaults: dict[str, Any] = {
        "spec": spec,
        "time_us": None,
        "rendering": "plain",
        "region": (0, 0, 64, 48),
        "pixels": np.zeros((spec.height, spec.width, 3), np.uint8),
    }
    return Input(**{"frame": frame, **defaults, **changes})


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A soft coloured gradient; another one for each seed."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    return Image.fromarray(corners, "RGB").resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes of a picture in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg_bytes(width: int = 64, height: int = 48, seed: int = 0, quality: int = 90) -> bytes:
    """A small valid JPEG; other bytes for each seed."""
    return encoded(picture(width, height, seed), "JPEG", quality=quality)


def png_bytes(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """A small valid PNG; other bytes for each seed."""
    return encoded(picture(width, height, seed), "PNG")


# --- transforms -----------------------------------------------------------------------------------


def make_transform(**changes: Any) -> Transform:
    """Accepted under `make_policy()`; about a face with consent."""
    policy = make_policy()
    defaults: dict[str, Any] = {
        "id": make_id(),
        "tenant": TENANT,
        "actor": "k" * 20,
        "request_id": "req_1",
        "created_at": NOW,
        "policy": PolicyRef(name=policy.name, version=policy.version, digest=policy.digest),
        "source": Original(sha256="5a" * 32, size=111, type="image/jpeg"),
        "target": Original(sha256="7a" * 32, size=222, type="image/png"),
        "consent": ConsentStatement(basis=Basis.SELF),
    }
    return Transform(**{**defaults, **changes})


def make_part(kind: PartKind = PartKind.ENCODED, **changes: Any) -> Part:
    """The encoded file, or the file that was signed from it."""
    is_signed = kind is PartKind.SIGNED
    defaults: dict[str, Any] = {
        "sha256": "51" * 32 if is_signed else "ec" * 32,
        "size": 444 if is_signed else 333,
        "type": "image/png",
        "width": 64,
        "height": 48,
        "frame_digest": SHOWN if is_signed else None,
        "made_of": "ec" * 32 if is_signed else None,
        "swapper": "classical 1",
        "faces_changed": 1,
    }
    return Part(**{"kind": kind, **defaults, **changes})


def make_segment(
    number: int = 1, *, frames: int = 50, is_last: bool = False, meant: tuple[tuple[float, ...], ...] = (), **changes: Any
) -> Part:
    """A segment of a video, each as long as the others."""
    span = Span(number=number, first_frame=(number - 1) * frames, frames=frames, head=700, is_last=is_last, meant=meant)
    return make_part(PartKind.SEGMENT, **{"sha256": f"{number:064x}", "type": "video/mp4", "frame_digest": None, "span": span, **changes})


def make_screened(
    stage: Stage,
    scores: Mapping[str, int] = QUIET,
    *,
    policy: Policy | None = None,
    classifiers: Sequence[ClassifierVersion] | None = None,
    **changes: Any,
) -> Decision:
    """The decision that screening one stage of `make_transform()` and `make_part()` ends in, each classifier giving these scores."""
    policy = policy or make_policy()
    judges = classifiers or (make_classifier_version(),)
    named = {Stage.SOURCE: make_transform().source.sha256, Stage.TARGET: make_transform().target.sha256, Stage.OUTPUT: make_part().sha256}
    facts = make_seen(stage)
    sheets = tuple(make_sheet({name: scores.get(name, 0) for name in judge.categories}, classifier=judge) for judge in judges)
    outcome = decide(stage=stage, facts=facts, required=judges, sheets=sheets, policy=policy)
    made = {
        "stage": stage,
        "media": Media(sha256=named[stage], size=1234, facts=facts),
        "verdict": outcome.verdict,
        "reasons": outcome.reasons,
        "thresholds": outcome.thresholds,
        "sheets": sheets,
        "policy": PolicyRef(name=policy.name, version=policy.version, digest=policy.digest),
        "transform": make_transform().id,
    }
    return make_decision(**{**made, **changes})


def make_release(transform: Transform, decisions: Mapping[Stage, UUID], **changes: Any) -> Release:
    """Of `make_part()`s, under the policy that was pinned."""
    defaults: dict[str, Any] = {
        "transform": transform.id,
        "tenant": transform.tenant,
        "signed_sha256": make_part(PartKind.SIGNED).sha256,
        "encoded_sha256": make_part().sha256,
        "decisions": dict(decisions),
        "pinned": transform.policy,
        "in_force": transform.policy,
        "released_at": NOW,
        "expires_at": NOW + timedelta(days=7),
    }
    return Release(**{**defaults, **changes})


def make_review(decision: Decision, verdict: Verdict = Verdict.ALLOW, **changes: Any) -> Review:
    defaults: dict[str, Any] = {
        "id": make_id(),
        "tenant": decision.tenant,
        "reason": "looked at it",
        "actor": "r" * 20,
        "subject": "reviewer-1",
        "at": NOW,
    }
    return Review(**{"decision": decision.id, "verdict": verdict, **defaults, **changes})


def make_event(state: State, **changes: Any) -> Event:
    """What a worker hands over: number and time are the record's to give."""
    return Event(**{"sequence": 0, "state": state, "at": NOW, **changes})
