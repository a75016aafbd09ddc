"""Decisions: a verdict with its reasons and everything that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from moderation.frames import Box
from moderation.media import Media, Stage
from moderation.scores import ClassifierScores


class Verdict(StrEnum):
    """The four ends of a screening. Only `allow` lets anything pass."""

    ALLOW = "allow"
    REVIEW = "review"
    """Held for a person."""
    BLOCK = "block"
    ERROR = "error"
    """Could not be judged; never an allow."""


class ReasonCode(StrEnum):
    """Why. `media_refused` carries the `moderation.errors.Refusal` as its `detail`."""

    OVER_BLOCK_THRESHOLD = "over_block_threshold"
    OVER_REVIEW_THRESHOLD = "over_review_threshold"
    ISOLATED_FRAME = "isolated_frame"
    """Over `block_at`, but not in a run of samples: held instead of blocked."""
    TOO_FEW_AGREE = "too_few_agree"
    """Over `block_at`, but fewer than k classifiers say so: held instead of blocked."""
    UNSCREENED_CONTENT = "unscreened_content"
    CUTS_LEFT_OUT = "cuts_left_out"
    """A video has more scene cuts than are looked at; `detail` says how many more."""
    UNCOVERED_CATEGORY = "uncovered_category"
    NO_FRAMES = "no_frames"
    NO_CLASSIFIER = "no_classifier"
    FRAMES_SHORT = "frames_short"
    """Not exactly one row of scores for every frame."""
    SCORE_MISSING = "score_missing"
    SCORE_INVALID = "score_invalid"
    UNEXPECTED_SCORES = "unexpected_scores"
    """Scores that nobody asked for: of another classifier, twice, or of a category that was not declared."""
    MEDIA_REFUSED = "media_refused"
    DECODER_UNAVAILABLE = "decoder_unavailable"
    CLASSIFIER_UNAVAILABLE = "classifier_unavailable"
    CLASSIFIER_FAULT = "classifier_fault"
    BLOCKED_BY_PERSON = "blocked_by_person"
    """In a denial only: a review, whose id is the `detail`, says so, whatever the scores were."""
    COULD_NOT_JUDGE = "could_not_judge"
    """A fault of ours that has no name of its own; the service's own log tells more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One sentence of the explanation, as data. `verdict` is what this reason alone would say."""

    code: ReasonCode
    verdict: Verdict
    category: str | None = None
    score: int | None = None
    threshold: int | None = None
    classifier: str | None = None
    frame: int | None = None
    time_us: int | None = None
    box: Box | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The thresholds that applied to one category of one classifier; both None where it was ignored."""

    category: str
    classifier: str
    block_at: int | None
    review_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `decide` says."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    thresholds: tuple[Threshold, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """Which policy decided."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything an auditor may ask about one judgement. Never changed once made; reversals are new rows."""

    id: UUID
    tenant: UUID
    actor: str
    """Who asked: the id of the key."""
    stage: Stage
    media: Media
    verdict: Verdict
    reasons: tuple[Reason, ...]
    thresholds: tuple[Threshold, ...]
    sheets: tuple[ClassifierScores, ...]
    policy: PolicyRef
    plan_digest: str
    decoder: str
    created_at: datetime
    request_id: str
    reference: str | None = None
    automated: bool = True
    reused_from: UUID | None = None
    """The decision whose scores were used again, or None if the classifiers ran."""
    transform: UUID | None = None

    def scores(self) -> Mapping[str, int]:
        """The highest score of each category over all classifiers and frames."""
        peaks: dict[str, int] = {}
        for sheet in self.sheets:
            for category, score in sheet.peak().items():
                peaks[category] = max(score, peaks.get(category, 0))
        return peaks
