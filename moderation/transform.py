"""Transforms: one gated face swap, from what was asked for to how it ended.

Everything here is a committed fact or is made of such facts; what follows from them is said in `moderation.gate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from moderation.decision import Decision, PolicyRef, Reason, Verdict
from moderation.frames import Box
from moderation.media import Stage


class State(StrEnum):
    """Where a transform stands. Denied, held, failed and cancelled are different ends with different answers."""

    QUEUED = "queued"
    SCREENING = "screening"
    TRANSFORMING = "transforming"
    SCREENING_OUTPUT = "screening_output"
    RELEASED = "released"
    DENIED = "denied"
    """The policy said no; final, never tried again."""
    HELD = "held"
    """Waits for a person, then goes on from the step it left."""
    FAILED = "failed"
    """A fault or an unusable input; `Failure.retryable` says which."""
    CANCELLED = "cancelled"


FINAL: Final = frozenset({State.RELEASED, State.DENIED, State.FAILED, State.CANCELLED})


class Basis(StrEnum):
    """On what grounds somebody's face may be used."""

    SELF = "self"
    SUBJECT_CONSENT = "subject_consent"
    LICENSED = "licensed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentStatement:
    """What the caller says about one face. It is recorded, never checked: a score proves no consent."""

    basis: Basis
    statement: str | None = None
    reference: str | None = None


class FaceMode(StrEnum):
    """Which faces of the target are meant."""

    LARGEST = "largest"
    ALL = "all"
    INDEX = "index"
    """The one at a place, counted from 0 from left to right."""
    NEAREST = "nearest"
    """The one most like the box that the caller names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceChoice:
    """A mode with what it needs. `box` is (left, top, width, height) in pixels of the upright target."""

    mode: FaceMode = FaceMode.LARGEST
    index: int | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if (self.index is not None) is not (self.mode is FaceMode.INDEX) or (self.box is not None) is not (self.mode is FaceMode.NEAREST):
            raise ValueError("an index goes with mode index and a box with mode nearest")
        if self.index is not None and self.index < 0:
            raise ValueError("an index counts from 0")
        if self.box is not None and min(self.box[2:]) <= 0:
            raise ValueError("a box has an area")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is to be done. They may tighten the policy and never weaken it."""

    faces: FaceChoice = field(default_factory=FaceChoice)
    swapper: str = "auto"
    label: bool = True
    """Whether the visible label is drawn."""
    label_language: str = "en"
    """`en`, `ko` or `both`."""
    format: str = "auto"
    """`auto`, `jpeg`, `png` or `webp`."""
    quality: int = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """One of the two pictures that were sent: its bytes lie in intake under this name."""

    sha256: str
    size: int
    type: str
    """Media type by our own magic check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What was asked for, by whom, on what grounds, under which policy. Committed before it is acknowledged; never changed."""

    id: UUID
    tenant: UUID
    actor: str
    request_id: str
    created_at: datetime
    policy: PolicyRef
    source: Original
    target: Original
    options: Options = field(default_factory=Options)
    consent: ConsentStatement | None = None
    target_consent: ConsentStatement | None = None
    catalogue_source: UUID | None = None
    """The entry of the catalogue of approved faces that the source is, where there is one."""
    reference: str | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why it could not be done. `code` is for programs (`no_face`, `truncated`, …), `message` for people; neither carries a trace."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Which decision stopped it, and why."""

    stage: Stage
    decision: UUID
    reasons: tuple[Reason, ...]


class PartKind(StrEnum):
    """A file of our own making, in quarantine."""

    SEGMENT = "segment"
    """A piece of a video result, whole groups of pictures, that plays alone; each has an output decision of its own."""
    ENCODED = "encoded"
    """The result as encoded from the worked frames, or all segments joined; what the output decision is about."""
    SIGNED = "signed"
    """The same file with content credentials; what is released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which frames of a video a segment shows, and with whom the work goes on after it. Its file is a `head`, the same for all segments of a video, and then its own frames."""

    number: int
    """From 1 without gaps."""
    first_frame: int
    """From 0, on the time line of the whole."""
    frames: int
    head: int
    """Bytes."""
    is_last: bool
    meant: tuple[tuple[float, ...], ...] = ()
    """The faces that were being changed where whoever goes on begins to look: left, top, width, height, score, x and y of each point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One such file. `made_of` is the encoded file's SHA-256 for a signed one, None otherwise; `span` is that of a segment."""

    kind: PartKind
    sha256: str
    size: int
    type: str
    width: int
    height: int
    frame_digest: str | None
    """Of a signed file: names what it was seen to show, which must be what the output decision says (`moderation.media.Facts.frame_digest`).

    Of an encoded video: what all its segments were seen to show (`moderation.frames.joined_digest`). None for an encoded picture and for
    a segment: what they show is said by their decisions.
    """
    made_of: str | None = None
    span: Span | None = None
    swapper: str = ""
    """Name and version of what made it."""
    is_trained: bool = False
    faces_changed: int = 0
    faces_skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The record that a file may be served, naming the decisions that allow it. At most one per transform."""

    transform: UUID
    tenant: UUID
    signed_sha256: str
    encoded_sha256: str
    decisions: Mapping[Stage, UUID]
    """Source, target and output."""
    pinned: PolicyRef
    in_force: PolicyRef
    """The policies under both of which all three allow."""
    released_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueSource:
    """An approved face: these bytes may be a transform's source where the policy asks for the catalogue."""

    id: UUID
    tenant: UUID
    sha256: str
    size: int
    type: str
    decision: UUID
    """The allow that it was approved on."""
    consent: ConsentStatement
    actor: str
    created_at: datetime
    label: str | None = None
    """What people call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A person's verdict on a decision: `allow` or `block`, with a reason. Reversals are new rows."""

    id: UUID
    tenant: UUID
    decision: UUID
    verdict: Verdict
    reason: str
    actor: str
    subject: str
    """The reviewer's pseudonym, to which the key is bound."""
    at: datetime

    def __post_init__(self) -> None:
        if self.verdict not in (Verdict.ALLOW, Verdict.BLOCK) or not self.reason.strip() or not self.subject:
            raise ValueError("a review allows or blocks, gives its reason and names its reviewer's subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A person's block of bytes, in force for all that the tenant does with them: no later review of them at that stage allows."""

    stage: Stage
    decision: UUID
    """What was reviewed; it may belong to other work."""
    review: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of state; `sequence` counts from 1 without gaps within a transform."""

    sequence: int
    state: State
    at: datetime
    denial: Denial | None = None
    failure: Failure | None = None
    held: Denial | None = None
    """What a person has to look at, with state `held`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the making of a video is, in frames; seconds until it is made, where that can be told."""

    done: int
    total: int
    eta_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """Somebody was handed segments `first` to `last` of a video before its release, as the policy pinned and the one in force let them."""

    id: UUID
    tenant: UUID
    transform: UUID
    first: int
    last: int
    in_force: PolicyRef
    actor: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Everything the record holds about one transform, read in one transaction."""

    transform: Transform
    events: tuple[Event, ...]
    """Oldest first; never empty."""
    decisions: tuple[Decision, ...] = ()
    """All of its decisions, oldest first."""
    reviews: Mapping[UUID, Review] = field(default_factory=dict)
    """The latest review by decision."""
    parts: tuple[Part, ...] = ()
    release: Release | None = None
    withdrawn: bool = False
    purged: bool = False
    """Whether the released bytes are gone because their time was over."""
    cancel_requested: bool = False
    progress: Progress | None = None
    """Of a video that is being made."""
    blocks: Mapping[str, Block] = field(default_factory=dict)
    """What people block, by the SHA-256 of pictures and files of this transform, whichever work it was said about."""
    source_removed: bool = False
    """Whether the entry of the catalogue that the source is was removed."""

    @property
    def is_video(self) -> bool:
        """Whether the result is made in segments: of a video, and of an animation, which becomes one."""
        return self.transform.target.type.startswith("video/") or self.transform.options.format == "mp4"

    @property
    def segments(self) -> tuple[Part, ...]:
        """The committed segments in their order."""
        return tuple(sorted((part for part in self.parts if part.span is not None), key=_number))

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.events[-1].state

    def part(self, kind: PartKind) -> Part | None:
        """The committed file of this kind."""
        return next((part for part in self.parts if part.kind is kind), None)


def _number(part: Part) -> int:
    return 0 if part.span is None else part.span.number
