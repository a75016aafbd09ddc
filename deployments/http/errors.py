"""One table from what went wrong to what a caller is told.

Every native and OpenAI-compatible route answers errors in one shape (`Problem.document`); the Rekognition route
says the same facts in AWS's words. Messages are written here and never come from an exception, so that no
answer carries a trace, a path or the words of another service. The one exception is `PolicyRefused`, whose
text is about the document that the caller sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

from starlette.exceptions import HTTPException

from deployments.http.wire import encode
from deployments.ids import to_wire
from moderation.decision import Decision, ReasonCode, Verdict
from moderation.errors import (
    CannotJudge,
    CannotSign,
    ClassifierFault,
    ClassifierUnavailable,
    DecoderUnavailable,
    FactsChanged,
    MediaRefused,
    ModelUnusable,
    ModerationError,
    Overloaded,
    OwnAppeal,
    PolicyRefused,
    RecordUnavailable,
    Refusal,
    StaleLease,
)

Headers: TypeAlias = tuple[tuple[str, str], ...]


class Code(StrEnum):
    """Codes of the surface itself; those of refused media are `Refusal`, those of failed judgements `ReasonCode`."""

    BAD_REQUEST = "bad_request"
    INVALID_JSON = "invalid_json"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    POLICY_NOT_ALLOWED = "policy_not_allowed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UPLOAD_TIMEOUT = "upload_timeout"
    IN_PROGRESS = "in_progress"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_PARAMETER = "invalid_parameter"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    POLICY_REFUSED = "policy_refused"
    POLICY_NOT_FOUND = "policy_not_found"
    TEXT_NOT_SUPPORTED = "text_not_supported"
    TOO_MANY_IMAGES = "too_many_images"
    INVALID_IMAGE_URL = "invalid_image_url"
    URL_NOT_ALLOWED = "url_not_allowed"
    URL_UNAVAILABLE = "url_unavailable"
    CONSENT_REQUIRED = "consent_required"
    WEAKENS_POLICY = "weakens_policy"
    SOURCE_NOT_APPROVED = "source_not_approved"
    SWAPPER_UNAVAILABLE = "swapper_unavailable"
    CALLBACK_NOT_ALLOWED = "callback_not_allowed"
    ALREADY_ENDED = "already_ended"
    NOT_RELEASED = "not_released"
    HELD = "held"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DENIED = "denied"
    PURGED = "purged"
    WITHDRAWN = "withdrawn"
    NOT_A_VIDEO = "not_a_video"
    STREAM_NOT_ALLOWED = "stream_not_allowed"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    OUTPUT_UNAVAILABLE = "output_unavailable"
    SUBJECT_REQUIRED = "subject_required"
    NOT_REVIEWABLE = "not_reviewable"
    NEVER_SHOWN = "never_shown"
    MEDIA_GONE = "media_gone"
    NOT_APPROVED = "not_approved"
    NOT_SEALED_YET = "not_sealed_yet"
    OWN_APPEAL = "own_appeal"
    NOT_APPEALABLE = "not_appealable"
    ALREADY_APPEALED = "already_appealed"
    INTERNAL_ERROR = "internal_error"
    RECORD_UNAVAILABLE = "record_unavailable"
    OVERLOADED = "overloaded"
    TAKEN_OVER = "taken_over"


@dataclass(frozen=True, slots=True)
class Row:
    """Status and words of one code."""

    status: int
    message: str


TABLE: Final[Mapping[Code, Row]] = {
    Code.BAD_REQUEST: Row(400, "The request is malformed."),
    Code.INVALID_JSON: Row(400, "The body is not a JSON object of the expected form."),
    Code.UNAUTHORIZED: Row(401, "A valid key is required: Authorization: Bearer fg_…"),
    Code.FORBIDDEN: Row(403, "This key lacks the scope for this request."),
    Code.POLICY_NOT_ALLOWED: Row(403, "This key may not use that policy."),
    Code.NOT_FOUND: Row(404, "There is nothing here under this name."),
    Code.METHOD_NOT_ALLOWED: Row(405, "This method does not exist here."),
    Code.UPLOAD_TIMEOUT: Row(408, "The body did not arrive in time."),
    Code.IN_PROGRESS: Row(409, "The first request with this Idempotency-Key is still in progress."),
    Code.PAYLOAD_TOO_LARGE: Row(413, "The body is larger than this route takes."),
    Code.UNSUPPORTED_MEDIA_TYPE: Row(415, "This route does not take bodies of this content type."),
    Code.INVALID_PARAMETER: Row(422, "A parameter has a value that it cannot have."),
    Code.IDEMPOTENCY_MISMATCH: Row(422, "This Idempotency-Key was used for another request."),
    Code.POLICY_REFUSED: Row(422, "The policy cannot come into force."),
    Code.POLICY_NOT_FOUND: Row(422, "There is no policy of this name."),
    Code.TEXT_NOT_SUPPORTED: Row(400, "Text is not judged here; send an image."),
    Code.TOO_MANY_IMAGES: Row(400, "At most one image is judged in a request."),
    Code.INVALID_IMAGE_URL: Row(400, "The image URL is neither a base64 data URL nor an http(s) URL."),
    Code.URL_NOT_ALLOWED: Row(400, "Images are not fetched from this URL."),
    Code.URL_UNAVAILABLE: Row(400, "The image could not be fetched from its URL."),
    Code.CONSENT_REQUIRED: Row(422, "The policy requires a statement of consent about this face."),
    Code.WEAKENS_POLICY: Row(422, "Options may be stricter than the policy, never laxer."),
    Code.SOURCE_NOT_APPROVED: Row(422, "The policy takes only faces of the catalogue of approved ones."),
    Code.SWAPPER_UNAVAILABLE: Row(422, "This swapper does not run here."),
    Code.CALLBACK_NOT_ALLOWED: Row(422, "Callbacks go by https to hosts that the operator has named, and nowhere else."),
    Code.ALREADY_ENDED: Row(409, "The transform has ended; there is nothing left to cancel."),
    Code.NOT_RELEASED: Row(409, "The transform has not come to its end; there is nothing to fetch yet."),
    Code.HELD: Row(409, "The transform waits for a person."),
    Code.FAILED: Row(409, "The transform could not be done; there is nothing to fetch."),
    Code.CANCELLED: Row(409, "The transform was cancelled; there is nothing to fetch."),
    Code.DENIED: Row(403, "The policy denies this transform."),
    Code.PURGED: Row(410, "The time for which the result was kept is over."),
    Code.WITHDRAWN: Row(410, "The release was withdrawn."),
    Code.NOT_A_VIDEO: Row(409, "Only a video can be watched while it is made."),
    Code.STREAM_NOT_ALLOWED: Row(403, "The policy shows nothing before its release."),
    Code.RANGE_NOT_SATISFIABLE: Row(416, "The range lies outside of the file."),
    Code.OUTPUT_UNAVAILABLE: Row(503, "The result cannot be served as it was released; it is not served at all."),
    Code.SUBJECT_REQUIRED: Row(403, "Reviews need a key that is bound to a reviewer."),
    Code.NOT_REVIEWABLE: Row(422, "A review cannot say this about this decision."),
    Code.NEVER_SHOWN: Row(403, "This media is shown to nobody."),
    Code.MEDIA_GONE: Row(410, "The media of this decision is not kept, or no longer."),
    Code.NOT_APPROVED: Row(422, "The face was not approved."),
    Code.OWN_APPEAL: Row(403, "An appeal is decided by somebody who neither filed it nor said what it is against."),
    Code.NOT_APPEALABLE: Row(422, "There is no allow and no block here that an appeal could be against."),
    Code.ALREADY_APPEALED: Row(409, "An appeal against this decision is open already."),
    Code.NOT_SEALED_YET: Row(409, "The log does not reach so far yet; what is recorded is sealed within seconds."),
    Code.INTERNAL_ERROR: Row(500, "The service failed on this request; nothing was allowed."),
    Code.RECORD_UNAVAILABLE: Row(503, "The record cannot be read or written at present; nothing was decided."),
    Code.OVERLOADED: Row(503, "There is no room for more work at present."),
    Code.TAKEN_OVER: Row(503, "Another worker has taken this work over; ask again for its result."),
}

REFUSALS: Final[Mapping[Refusal, Row]] = {
    Refusal.EMPTY_BODY: Row(400, "There are no bytes to judge."),
    Refusal.UNSUPPORTED_MEDIA_TYPE: Row(415, "The bytes are not of a kind that is judged here."),
    Refusal.PAYLOAD_TOO_LARGE: Row(413, "The file is larger than allowed."),
    Refusal.DECODE_FAILED: Row(422, "The file cannot be decoded."),
    Refusal.DECODE_TOO_SLOW: Row(422, "The file takes too long to decode."),
    Refusal.TRUNCATED: Row(422, "The file is cut off."),
    Refusal.TOO_SMALL: Row(422, "The picture is too small to be judged."),
    Refusal.DIMENSIONS_TOO_LARGE: Row(422, "The picture has more pixels than allowed."),
    Refusal.TOO_MANY_FRAMES: Row(422, "The file has more frames than allowed."),
    Refusal.NO_FRAMES: Row(422, "The file has no frames."),
    Refusal.TOO_LONG: Row(422, "The video is longer than allowed."),
    Refusal.TOO_MANY_STREAMS: Row(422, "The file has more streams than allowed."),
    Refusal.MULTIPLE_VIDEO_STREAMS: Row(422, "The file has more than one video stream."),
    Refusal.UNSUPPORTED_ENCODING: Row(422, "The file uses an encoding that is not judged here."),
    Refusal.TYPE_MISMATCH: Row(422, "The bytes are of another type than declared."),
    Refusal.TRAILING_DATA: Row(422, "The file carries data behind its picture."),
    Refusal.AMBIGUOUS_CONTENT: Row(422, "The file can be read as something else as well."),
    Refusal.AMBIGUOUS_RENDERING: Row(422, "Viewers may show the file differently."),
    Refusal.STILL_PICTURE_REQUIRED: Row(422, "The file is an animation; a still picture is needed here."),
}

FAULTS: Final[Mapping[type[ModerationError], Row]] = {
    CannotJudge: Row(503, "The media could not be judged; it is not allowed."),
    DecoderUnavailable: Row(503, "The decoder is not available; the media is not allowed."),
    ClassifierUnavailable: Row(503, "A classifier is not available; the media is not allowed."),
    ClassifierFault: Row(503, "A classifier gave an unusable answer; the media is not allowed."),
}

DOMAIN: Final[Mapping[type[ModerationError], Code]] = {
    ModerationError: Code.INTERNAL_ERROR,
    ModelUnusable: Code.INTERNAL_ERROR,
    PolicyRefused: Code.POLICY_REFUSED,
    RecordUnavailable: Code.RECORD_UNAVAILABLE,
    StaleLease: Code.TAKEN_OVER,
    FactsChanged: Code.TAKEN_OVER,
    CannotSign: Code.OUTPUT_UNAVAILABLE,
    OwnAppeal: Code.OWN_APPEAL,
    Overloaded: Code.OVERLOADED,
}

_REASONS_OF_MEDIA: Final[Mapping[ReasonCode, Refusal]] = {ReasonCode.NO_FRAMES: Refusal.NO_FRAMES}
_NOT_JUDGED: Final = FAULTS[CannotJudge]
RETRY_AFTER_S: Final = 1.0


def type_of(status: int) -> str:
    """The family of an error, in the words that OpenAI's clients know."""
    if status == 401:  # noqa: PLR2004  # HTTP's own numbers
        return "authentication_error"
    if status == 403:  # noqa: PLR2004
        return "permission_error"
    if status == 429:  # noqa: PLR2004
        return "rate_limit_error"
    return "service_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error answer. `request_id` None means that of the request which is being answered."""

    status: int
    code: str
    message: str
    param: str | None = None
    decision_id: UUID | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    headers: Headers = ()
    aws_type: str | None = None
    """The class to name on the Rekognition route, where the code alone does not say it."""

    def document(self, request_id: str) -> dict[str, object]:
        """The one shape, fields in this order."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "type": type_of(self.status),
                "param": self.param,
                "decision_id": None if self.decision_id is None else to_wire("dec", self.decision_id),
                "request_id": self.request_id or request_id,
            }
        }

    def body(self, request_id: str) -> bytes:
        """The document as JSON."""
        return encode(self.document(request_id))

    def all_headers(self) -> list[tuple[str, str]]:
        """Content type, what the status demands, and what this problem adds."""
        found = [("content-type", "application/json"), *self.headers]
        if self.status == 401:  # noqa: PLR2004
            found.append(("www-authenticate", "Bearer"))
        if self.status in (429, 503):
            found.append(("retry-after", str(max(1, round(self.retry_after_s or RETRY_AFTER_S)))))
        return found


class ApiError(Exception):
    """Ends a request with a problem."""

    def __init__(self, what: Problem) -> None:
        super().__init__(what.code)
        self.problem = what


def problem(code: Code, *, param: str | None = None, message: str | None = None) -> Problem:
    """The problem of a code, with its own words unless `message` says it better."""
    row = TABLE[code]
    return Problem(status=row.status, code=str(code), message=message or row.message, param=param)


def refused(code: Code, *, param: str | None = None, message: str | None = None) -> ApiError:
    """`problem` as something to raise."""
    return ApiError(problem(code, param=param, message=message))


def problem_of(error: BaseException) -> Problem:
    """What a caller is told about an exception. Whatever is in no table is `internal_error`."""
    match error:
        case ApiError():
            found = error.problem
        case MediaRefused():
            found = _refusal(error.refusal)
        case CannotJudge():
            row = next((FAULTS[kind] for kind in type(error).__mro__ if kind in FAULTS), _NOT_JUDGED)
            found = Problem(status=row.status, code=error.code, message=row.message)
        case Overloaded():
            found = replace(problem(DOMAIN[Overloaded]), retry_after_s=error.retry_after_s)
        case PolicyRefused():
            found = problem(DOMAIN[PolicyRefused], message=str(error))
        case ModerationError():
            found = problem(next(DOMAIN[kind] for kind in type(error).__mro__ if kind in DOMAIN))
        case HTTPException():
            found = _of_http(error)
        case _:
            found = problem(Code.INTERNAL_ERROR)
    return found


def problem_in(decision: Decision) -> Problem | None:
    """None for a verdict; for `error` why the media could not be judged. A pure function of the decision."""
    if decision.verdict is not Verdict.ERROR:
        return None
    found = _undecided(decision)
    return replace(found, decision_id=decision.id, request_id=decision.request_id)


def is_fault(decision: Decision) -> bool:
    """Whether the service, not the media, is why there is no verdict: trying again may help."""
    found = problem_in(decision)
    return found is not None and found.status >= 500  # noqa: PLR2004


def _undecided(decision: Decision) -> Problem:
    """A reason that lies in the media outweighs none of ours: a fault of ours may hide what the media is."""
    reasons = [reason for reason in decision.reasons if reason.verdict is Verdict.ERROR]
    for reason in reasons:
        if reason.code is ReasonCode.MEDIA_REFUSED:
            return _refusal(Refusal(reason.detail or Refusal.DECODE_FAILED))
        if reason.code in _REASONS_OF_MEDIA:
            return _refusal(_REASONS_OF_MEDIA[reason.code])
    code = reasons[0].code if reasons else CannotJudge.code
    row = next((row for kind, row in FAULTS.items() if getattr(kind, "code", None) == code), _NOT_JUDGED)
    return Problem(status=row.status, code=str(code), message=row.message)


def _refusal(refusal: Refusal) -> Problem:
    row = REFUSALS[refusal]
    return Problem(status=row.status, code=str(refusal), message=row.message)


_BY_STATUS: Final = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.PAYLOAD_TOO_LARGE, 415: Code.UNSUPPORTED_MEDIA_TYPE}


def _of_http(error: HTTPException) -> Problem:
    code = _BY_STATUS.get(error.status_code, Code.BAD_REQUEST if error.status_code < 500 else Code.INTERNAL_ERROR)  # noqa: PLR2004
    allow = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
    return replace(problem(code), headers=(("allow", allow),) if allow else ())
