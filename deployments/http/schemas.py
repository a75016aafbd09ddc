"""The documents of the contract as schemas: they make the OpenAPI page and check lists of parameters.

Answers are not built from them (see `documents`); a test holds the two equal.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from moderation.decision import Verdict
from moderation.media import MediaKind, Stage, Unscreened
from moderation.taxonomy import OPENAI_KEYS

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_YEARS = range(1970, 9000)
"""Far enough from the ends of the calendar to add a month to."""

SHA256 = r"^[0-9a-f]{64}$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
DECISION_ID = r"^dec_[0-9a-f]{32}$"
TRANSFORM_ID = r"^trf_[0-9a-f]{32}$"


def _rfc3339(value: object) -> object:
    """A number would be taken for seconds, so that a date without its hyphens would mean some day in 1970."""
    if isinstance(value, str) and _MOMENT.fullmatch(value) is None:
        raise ValueError("not a time of RFC 3339")
    return value


def _in_reach(value: datetime) -> datetime:
    """In UTC: Postgres reads fewer zones than Python does."""
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of reach") from None
    if moment.year not in _YEARS:
        raise ValueError("out of reach")
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_in_reach)]
"""A time of RFC 3339 with its zone, in a year that can be reckoned with."""

Score = Annotated[str, Field(pattern=r"^[01]\.[0-9]{6}$")]
VerdictWord = Literal["allow", "review", "block", "error"]


class Document(BaseModel):
    """A closed object."""

    model_config = ConfigDict(extra="forbid", use_enum_values=True)


class MediaView(Document):
    """What was judged; null where the bytes could not be opened."""

    sha256: str = Field(pattern=SHA256)
    kind: MediaKind | None
    type: str | None
    bytes: int = Field(ge=0)
    width: int | None
    height: int | None
    frames: int = Field(ge=0, description="Frames that were really screened.")
    frames_declared: int | None
    duration_s: float | None
    unscreened: list[Unscreened] = Field(description="What was present and not judged.")


class ReasonView(Document):
    """Why."""

    code: str
    category: str | None
    score: Score | None
    threshold: Score | None
    classifier: str | None
    frame: int | None
    time_s: float | None
    box: tuple[int, int, int, int] | None = Field(description="left, top, width, height in pixels of the upright frame.")
    detail: str | None = Field(description="For a refused media its code, for unscreened content its kind.")


class SegmentView(Document):
    """A run of flagged time."""

    start_s: float
    end_s: float
    category: str
    peak: Score


class ClassifierView(Document):
    """One classifier and its highest scores."""

    name: str
    version: str
    digest: str
    scores: dict[str, Score]


class PolicyRefView(Document):
    """Which policy decided."""

    name: str
    version: int
    digest: str = Field(pattern=DIGEST)


class DecisionView(Document):
    """A decision."""

    id: str = Field(pattern=DECISION_ID)
    object: Literal["decision"]
    status: Literal["done"]
    verdict: VerdictWord
    effective_verdict: VerdictWord
    superseded_by: str | None
    stage: Stage
    media: MediaView
    reasons: list[ReasonView]
    scores: dict[str, Score]
    segments: list[SegmentView]
    classifiers: list[ClassifierView]
    policy: PolicyRefView
    reference: str | None
    automated: bool
    created_at: datetime
    receipt: dict[str, Any] | None


class PendingView(Document):
    """A screening without a decision yet; `parked` is one that was given up and will have its `error` in a moment."""

    id: str = Field(pattern=DECISION_ID)
    object: Literal["decision"]
    status: Literal["queued", "running", "parked"]
    verdict: Literal["error"] | None


class DecisionList(Document):
    """A page of decisions, newest first."""

    object: Literal["list"]
    data: list[DecisionView]
    next_cursor: str | None


class PolicyView(Document):
    """One version of a policy; `content` is what the digest is of, thresholds in millionths."""

    object: Literal["policy"]
    name: str
    version: int
    digest: str = Field(pattern=DIGEST)
    content: dict[str, Any]


class PolicyList(Document):
    """Policies by name, each in the version in force; or the versions of one."""

    object: Literal["list"]
    data: list[PolicyView]
    next_cursor: str | None


class ErrorBody(Document):
    """What went wrong."""

    code: str
    message: str
    type: Literal["invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "service_error"]
    param: str | None
    decision_id: str | None
    request_id: str


class ErrorView(Document):
    """The one shape of errors."""

    error: ErrorBody


class FacegateView(Document):
    """Our own words beside OpenAI's."""

    verdict: Literal["allow", "review", "block"]
    decision_id: str


class ModerationResult(Document):
    """OpenAI's 13 keys in all three maps, our own categories beside them."""

    flagged: bool
    categories: dict[str, bool] = Field(json_schema_extra={"required": list(OPENAI_KEYS)})
    category_scores: dict[str, float] = Field(json_schema_extra={"required": list(OPENAI_KEYS)})
    category_applied_input_types: dict[str, list[Literal["image"]]] = Field(json_schema_extra={"required": list(OPENAI_KEYS)})
    facegate: FacegateView


class ModerationView(Document):
    """OpenAI's moderation object."""

    id: str
    model: str
    results: list[ModerationResult]


class LabelView(BaseModel):
    """One Rekognition label."""

    Confidence: float
    Name: str
    ParentName: str
    TaxonomyLevel: int


class ContentTypeView(BaseModel):
    """One Rekognition content type."""

    Confidence: float
    Name: str


class LabelsView(BaseModel):
    """Rekognition's answer."""

    ModerationLabels: list[LabelView]
    ModerationModelVersion: str
    ContentTypes: list[ContentTypeView]


class JobView(BaseModel):
    """Rekognition's answer to StartContentModeration."""

    JobId: str = Field(pattern=DECISION_ID, description="The id of the screening and of its decision.")


class S3ObjectView(BaseModel):
    """An object as the caller named it."""

    Bucket: str
    Name: str


class VideoView(BaseModel):
    """Where a video was read."""

    S3Object: S3ObjectView


class SightingView(BaseModel):
    """A label at one time, or over a segment of time; milliseconds."""

    Timestamp: int
    ModerationLabel: LabelView
    StartTimestampMillis: int | None = None
    EndTimestampMillis: int | None = None
    DurationMillis: int | None = None
    ContentTypes: list[ContentTypeView]


class VideoMetadataView(BaseModel):
    """What is known of a video."""

    Format: str | None = None
    FrameWidth: int | None = None
    FrameHeight: int | None = None
    DurationMillis: int | None = None
    FrameRate: float | None = None


class GetRequestView(BaseModel):
    """How labels were asked for."""

    SortBy: Literal["NAME", "TIMESTAMP"]
    AggregateBy: Literal["TIMESTAMPS", "SEGMENTS"]


class ContentModerationView(BaseModel):
    """Rekognition's answer to GetContentModeration."""

    JobStatus: Literal["IN_PROGRESS", "SUCCEEDED", "FAILED"]
    StatusMessage: str | None = None
    VideoMetadata: VideoMetadataView | None = None
    ModerationLabels: list[SightingView]
    NextToken: str | None = None
    ModerationModelVersion: str | None = None
    JobId: str = Field(pattern=DECISION_ID)
    Video: VideoView
    JobTag: str | None = None
    GetRequestMetadata: GetRequestView


class HealthView(Document):
    """The process lives."""

    status: Literal["alive"]


class DependencyView(Document):
    """One dependency."""

    ready: bool
    reason: str | None


class ReadyView(Document):
    """Whether work can be done, and each dependency by name."""

    ready: bool
    dependencies: dict[str, DependencyView]


# --- parameters ------------------------------------------------------------------------------------


class Paging(BaseModel):
    """A page of a list, newest first."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, pattern=DECISION_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


class DecisionQuery(Paging):
    """Which decisions."""

    stage: Stage | None = None
    verdict: Verdict | None = None
    category: str | None = Field(None, min_length=1, max_length=100, description="Decisions with a reason of this category.")
    policy: str | None = Field(None, min_length=1, max_length=64)
    classifier: str | None = Field(None, min_length=1, max_length=200)
    automated: bool | None = None
    media_sha256: str | None = Field(None, pattern=SHA256)
    reference: str | None = Field(None, min_length=1, max_length=256)
    transform: str | None = Field(None, pattern=TRANSFORM_ID)
    since: Moment | None = Field(None, alias="from", description="Inclusive.")
    until: Moment | None = Field(None, alias="to", description="Exclusive.")


class VersionPage(BaseModel):
    """A page of versions, newest first."""

    model_config = ConfigDict(extra="forbid")

    cursor: int | None = Field(None, ge=1, le=10**9, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


class NoQuery(BaseModel):
    """No parameters at all."""

    model_config = ConfigDict(extra="forbid")


class ScreeningQuery(BaseModel):
    """How a screening is asked for; the options may also stand in the form."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="Seconds to wait for the decision; longer ones end at the service's own bound."
    )
    policy: str | None = Field(None, description="One of the key's policies; its first one by default.")
    reference: str | None = Field(None, max_length=256, description="The caller's own name for this.")
    strict: str | None = Field(None, description="`true` refuses files that can be shown or read in more than one way.")
