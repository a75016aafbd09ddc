"""Transforms as callers see them: what they may ask for, and the transform object, a pure function of what is committed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import takewhile
from typing import Annotated, Final, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from deployments.http.documents import reason_document
from deployments.http.errors import Code, refused
from deployments.http.schemas import DECISION_ID, SHA256, TRANSFORM_ID, Document, ReasonView
from deployments.http.wire import decode_object
from deployments.ids import to_wire
from moderation.audit import rfc3339
from moderation.gate import STAGES
from moderation.media import Stage
from moderation.transform import (
    FINAL,
    Basis,
    Committed,
    ConsentStatement,
    Denial,
    Event,
    FaceChoice,
    FaceMode,
    PartKind,
    Release,
    State,
)

SOURCE_ID: Final = r"^src_[0-9a-f]{32}$"
MAX_OPTIONS: Final = 16 * 1024
"""Bytes of the JSON of options."""
_A = TypeVar("_A", bound="Asked")
_FIELD: Final = re.compile("[a-z_]+")
_LONGEST: Final = 2000
_FURTHEST_PX: Final = 100_000
_MOST_FACES: Final = 10_000


# --- what is asked for ------------------------------------------------------------------------------


def _line(text: str) -> str:
    if not text.strip():
        raise ValueError("blank")
    if not text.isprintable():  # surrogates and NUL are not either, and the record takes neither
        raise ValueError("printable characters only")
    return text


def _prose(text: str) -> str:
    _line(text.translate({ord(letter): " " for letter in "\t\n\r"}))
    return text


Line = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_line)]
"""Text of one line."""
Prose = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_prose)]


class Asked(Document):
    """A closed object that a caller sends; nothing in it is converted."""

    model_config = ConfigDict(strict=True, frozen=True)


class ConsentIn(Asked):
    """What the caller says about one face; recorded, never checked."""

    basis: Literal["self", "subject_consent", "licensed"]
    statement: Prose | None = None
    reference: Line | None = None

    def stated(self) -> ConsentStatement:
        """The value."""
        return ConsentStatement(basis=Basis(self.basis), statement=self.statement, reference=self.reference)


class FaceAt(Asked):
    """The one at a place, counted from 0 from left to right."""

    index: int = Field(ge=0, le=_MOST_FACES)


class FaceNear(Asked):
    """The one most like a box."""

    nearest: Annotated[list[Annotated[int, Field(ge=0, le=_FURTHEST_PX)]], Field(min_length=4, max_length=4)] = Field(
        description="left, top, width, height in pixels of the upright target."
    )


class LabelIn(Asked):
    """The visible label; where nothing is said, the policy says whether there is one."""

    visible: bool | None = None
    language: Literal["en", "ko", "both"] = "en"


class OutputIn(Asked):
    """The file that is made; `auto` follows the target, and of a video it is an MP4."""

    format: Literal["auto", "jpeg", "png", "webp", "mp4"] = "auto"
    quality: Annotated[int, Field(ge=50, le=100)] = 90


class TransformOptions(Asked):
    """How a transform is to be done."""

    operation: Literal["face_swap"] = "face_swap"
    consent: ConsentIn | None = Field(None, description="About the source's face.")
    target_consent: ConsentIn | None = Field(None, description="About the target's face.")
    faces: Literal["largest", "all"] | FaceAt | FaceNear = "largest"
    swapper: Literal["auto", "classical", "neural"] = "auto"
    label: LabelIn = LabelIn()
    output: OutputIn = OutputIn()
    policy: Annotated[Line, Field(max_length=64)] | None = Field(None, description="One of the key's policies; its first one by default.")
    reference: Line | None = Field(None, description="The caller's own name for this.")
    callback_url: Annotated[str, Field(max_length=2048), AfterValidator(_line)] | None = Field(
        None, description="Called at the end, by https, on a host that the operator has named."
    )
    source_id: Annotated[str, Field(pattern=SOURCE_ID)] | None = Field(None, description="A face of the catalogue, instead of a source.")

    def choice(self) -> FaceChoice:
        """Which faces are meant. Raises ValueError on a box without an area."""
        if isinstance(self.faces, FaceAt):
            return FaceChoice(mode=FaceMode.INDEX, index=self.faces.index)
        if isinstance(self.faces, FaceNear):
            left, top, width, height = self.faces.nearest
            return FaceChoice(mode=FaceMode.NEAREST, box=(left, top, width, height))
        return FaceChoice(mode=FaceMode(self.faces))


def read_options(data: bytes) -> TransformOptions:
    """The options of a form. Raises ApiError: `invalid_json`, `invalid_parameter` with the place of the first mistake."""
    options = read_asked(data, TransformOptions, param="options")
    try:
        options.choice()
    except ValueError:
        raise refused(Code.INVALID_PARAMETER, param="faces") from None
    return options


def read_asked(data: bytes, model: type[_A], *, param: str | None = None) -> _A:
    """A closed JSON object. Raises ApiError: `invalid_json`, `invalid_parameter` with the place of the first mistake."""
    document = decode_object(data) if len(data) <= MAX_OPTIONS else None
    if document is None:
        raise refused(Code.INVALID_JSON, param=param)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        where = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
        fields = takewhile(lambda step: isinstance(step, str) and _FIELD.fullmatch(step) is not None, where)
        raise refused(Code.INVALID_PARAMETER, param=".".join(map(str, fields)) or param) from None


# --- what is answered -------------------------------------------------------------------------------


class ProgressView(Document):
    """How far it is: of six steps (source and target screened, result made, screened, signed, released), those that are done.

    While a video is made, in frames, with the seconds that are left.
    """

    phase: State
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    eta_s: float | None


class StageDecisions(Document):
    """The decision that counts at each stage, where there is one."""

    source: str | None = Field(pattern=DECISION_ID)
    target: str | None = Field(pattern=DECISION_ID)
    output: str | None = Field(pattern=DECISION_ID)


class DenialView(Document):
    """What stopped it."""

    stage: Stage
    decision_id: str = Field(pattern=DECISION_ID)
    reasons: list[ReasonView]


class FailureView(Document):
    """Why it could not be done."""

    code: str
    message: str
    retryable: bool


class ReleaseView(Document):
    """The file that may be fetched."""

    sha256: str = Field(pattern=SHA256)
    type: str
    bytes: int
    width: int
    height: int
    faces_changed: int = Field(ge=0, description="Of a video, the most in one frame.")
    faces_skipped: int = Field(
        ge=0, description="Asked for and not changed: left as they were in a picture, blurred in a video; of that, the most in one frame."
    )
    duration_s: float | None
    url: str
    expires_at: datetime
    content_credentials: bool


class TransformView(Document):
    """A transform."""

    id: str = Field(pattern=TRANSFORM_ID)
    object: Literal["transform"]
    state: State
    progress: ProgressView
    decisions: StageDecisions
    denial: DenialView | None
    failure: FailureView | None
    release: ReleaseView | None
    created_at: datetime
    finished_at: datetime | None


class TransformList(Document):
    """A page of transforms, newest first."""

    object: Literal["list"]
    data: list[TransformView]
    next_cursor: str | None


# --- parameters -------------------------------------------------------------------------------------


class WaitQuery(BaseModel):
    """How long the request may wait for the end."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Seconds to wait for the end; longer ones end at the service's own bound."
    )


class TransformQuery(BaseModel):
    """Which transforms."""

    model_config = ConfigDict(extra="forbid")

    state: State | None = None
    reference: str | None = Field(None, min_length=1, max_length=256)
    cursor: str | None = Field(None, pattern=TRANSFORM_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


# --- documents --------------------------------------------------------------------------------------


def transform_document(committed: Committed, event: Event | None = None) -> dict[str, object]:
    """The transform object of the contract, as it is or as it was right after one of its events."""
    last = event or committed.events[-1]
    decisions = _decisions(committed, last)
    return {
        "id": to_wire("trf", committed.transform.id),
        "object": "transform",
        "state": str(last.state),
        "progress": _progress(committed, last, decisions),
        "decisions": {str(stage): to_wire("dec", decisions[stage]) if stage in decisions else None for stage in STAGES},
        "denial": None if last.denial is None else _denial(last.denial),
        "failure": None
        if last.failure is None
        else {"code": last.failure.code, "message": last.failure.message, "retryable": last.failure.retryable},
        "release": _release(committed) if last.state is State.RELEASED else None,
        "created_at": rfc3339(committed.transform.created_at),
        "finished_at": rfc3339(last.at) if last.state in FINAL else None,
    }


def output_path(transform: UUID) -> str:
    """Where a released file is fetched."""
    return f"/v1/transforms/{to_wire('trf', transform)}/output"


def _decisions(committed: Committed, last: Event) -> dict[Stage, UUID]:
    """The latest decision of each stage at that time; of a released one, those that its release names."""
    if last.state is State.RELEASED and committed.release is not None:
        return dict(committed.release.decisions)
    # The newest event is followed by decisions that belong to its state.
    is_newest = last.sequence == committed.events[-1].sequence
    return {decision.stage: decision.id for decision in committed.decisions if is_newest or decision.created_at <= last.at}


def _progress(committed: Committed, last: Event, decisions: Mapping[Stage, UUID]) -> dict[str, object]:
    is_newest = last.sequence == committed.events[-1].sequence
    is_released = last.state is State.RELEASED
    is_made = last.state in (State.SCREENING_OUTPUT, State.RELEASED) or (is_newest and committed.part(PartKind.ENCODED) is not None)
    if is_newest and last.state is State.TRANSFORMING and committed.progress is not None:
        frames = committed.progress
        return {"phase": str(last.state), "done": frames.done, "total": frames.total, "eta_s": frames.eta_s}
    is_signed = is_released or (is_newest and committed.part(PartKind.SIGNED) is not None)
    done = len(decisions) + is_made + is_signed + is_released
    return {"phase": str(last.state), "done": done, "total": len(STAGES) + 3, "eta_s": None}


def _denial(denial: Denial) -> dict[str, object]:
    return {
        "stage": str(denial.stage),
        "decision_id": to_wire("dec", denial.decision),
        "reasons": [reason_document(reason) for reason in denial.reasons],
    }


def _release(committed: Committed) -> dict[str, object] | None:
    """What is served; None where it is not any more."""
    release, signed = committed.release, committed.part(PartKind.SIGNED)
    if release is None or signed is None or committed.withdrawn or committed.blocks:
        return None
    return {
        "sha256": release.signed_sha256,
        "type": signed.type,
        "bytes": signed.size,
        "width": signed.width,
        "height": signed.height,
        "faces_changed": signed.faces_changed,
        "faces_skipped": signed.faces_skipped,
        "duration_s": _duration_s(committed, release),
        "url": output_path(committed.transform.id),
        "expires_at": rfc3339(release.expires_at),
        "content_credentials": signed.made_of is not None,
    }


def _duration_s(committed: Committed, release: Release) -> float | None:
    """Of a video, as it was seen when it was judged."""
    judged = next((one for one in committed.decisions if one.id == release.decisions[Stage.OUTPUT]), None)
    facts = None if judged is None else judged.media.facts
    return None if facts is None or facts.duration_us is None else facts.duration_us / 1_000_000
