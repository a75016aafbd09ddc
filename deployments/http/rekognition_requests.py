"""What Rekognition's operations are asked, read from their documents. Pure. All raise ApiError with the modelled class.

Its clients check almost nothing before they send, so that everything is checked here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar
from uuid import UUID

from deployments.http.rekognition_errors import aws_refused
from deployments.http.wire import decode_object
from deployments.ids import from_wire
from moderation.scores import ONE

_W = TypeVar("_W", bound=StrEnum)

PER_CENT: Final = ONE // 100
MAX_BYTES: Final = 5 * 1024 * 1024
MAX_PAGE: Final = 1000
_LONGEST_TOKEN: Final = 255
_CLIENT_TOKEN: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_JOB_ID: Final = _CLIENT_TOKEN
_JOB_TAG: Final = re.compile(r"[a-zA-Z0-9_.\-:+=/]{1,1024}")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Object:
    """An object of a bucket, by the names that the caller gave."""

    bucket: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect:
    """DetectModerationLabels: bytes or where they are, and the least score that is told."""

    image: bytes | S3Object
    at_least: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """StartContentModeration. `token` makes a repeated request the same job, `tag` is the caller's own name for it."""

    video: S3Object
    at_least: int
    token: str | None
    tag: str | None


class SortBy(StrEnum):
    """In which order labels of a video come."""

    TIMESTAMP = "TIMESTAMP"
    NAME = "NAME"


class AggregateBy(StrEnum):
    """Labels of each frame that was looked at, or of runs of such frames."""

    TIMESTAMPS = "TIMESTAMPS"
    SEGMENTS = "SEGMENTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """GetContentModeration: at most `most` labels of a job, from where `next_token` says on."""

    job: UUID
    most: int
    next_token: str | None
    sort_by: SortBy
    aggregate_by: AggregateBy


def read_document(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """The JSON object of a request, in which nothing stands that is not `known`. A null is as if it were not there."""
    document = decode_object(body)
    if document is None:
        raise aws_refused("SerializationException", "The body is not a JSON object.")
    given = {name: value for name, value in document.items() if value is not None}
    if not given.keys() <= set(known):
        raise aws_refused("InvalidParameterException", "A parameter is not known or not served here.")
    return given


def read_detect(body: bytes) -> Detect:
    """A DetectModerationLabels. Human loops are not served, and there are no adapters."""
    document = read_document(body, ("Image", "MinConfidence", "ProjectVersion"))
    if "ProjectVersion" in document:
        raise aws_refused("ResourceNotFoundException", "There are no adapters here.")
    match document.get("Image"):
        case {"Bytes": str() as text, **rest} if not rest:
            return Detect(image=_decoded(text), at_least=_confidence(document))
        case {"S3Object": dict() as named, **rest} if not rest:
            return Detect(image=_object(named, "Image"), at_least=_confidence(document))
        case _:
            raise aws_refused("InvalidParameterException", "Image holds either Bytes or an S3Object.")


def read_start(body: bytes) -> Start:
    """A StartContentModeration. A NotificationChannel is refused: who waits for a message that is never sent waits for ever."""
    document = read_document(body, ("Video", "MinConfidence", "ClientRequestToken", "JobTag", "NotificationChannel"))
    if "NotificationChannel" in document:
        raise aws_refused("InvalidParameterException", "Notifications are not sent; ask with GetContentModeration.")
    match document.get("Video"):
        case {"S3Object": dict() as named, **rest} if not rest:
            return Start(
                video=_object(named, "Video"),
                at_least=_confidence(document),
                token=_text(document, "ClientRequestToken", _CLIENT_TOKEN),
                tag=_text(document, "JobTag", _JOB_TAG),
            )
        case _:
            raise aws_refused("InvalidParameterException", "Video holds an S3Object.")


def read_get(body: bytes) -> Get:
    """A GetContentModeration."""
    document = read_document(body, ("JobId", "MaxResults", "NextToken", "SortBy", "AggregateBy"))
    name = _text(document, "JobId", _JOB_ID)
    if name is None:
        raise aws_refused("InvalidParameterException", "JobId is missing.")
    job = from_wire("dec", name)
    if job is None:
        raise no_such_job()
    most, token = document.get("MaxResults", MAX_PAGE), document.get("NextToken")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise aws_refused("InvalidParameterException", "MaxResults is a number from 1.")
    if token is not None and (not isinstance(token, str) or len(token) > _LONGEST_TOKEN):
        raise no_such_page()
    return Get(
        job=job,
        most=min(most, MAX_PAGE),
        next_token=token,
        sort_by=_one_of(document, "SortBy", SortBy.TIMESTAMP),
        aggregate_by=_one_of(document, "AggregateBy", AggregateBy.TIMESTAMPS),
    )


def no_such_job() -> Exception:
    """What is said of a job that never was, is another tenant's, or is kept no longer."""
    return aws_refused("ResourceNotFoundException", "There is no job of this id, or its result is kept no longer.")


def no_such_page() -> Exception:
    """What is said of a token that this request cannot have been given."""
    return aws_refused("InvalidPaginationTokenException", "NextToken belongs to another request.")


def _object(named: Mapping[str, Any], where: str) -> S3Object:
    match named:
        case {"Bucket": str() as bucket, "Name": str() as name, **rest}:
            if any(value is not None for value in rest.values()):
                raise aws_refused("InvalidS3ObjectException", "Versions of objects are not read.")
            return S3Object(bucket=bucket, name=name)
        case _:
            raise aws_refused("InvalidParameterException", f"The S3Object of {where} has a Bucket and a Name.")


def _confidence(document: Mapping[str, Any]) -> int:
    """MinConfidence, per cent, as a score."""
    given = document.get("MinConfidence", 50.0)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 100:  # noqa: PLR2004  # per cent
        raise aws_refused("InvalidParameterException", "MinConfidence lies between 0 and 100.")
    return round(given * PER_CENT)


def _text(document: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str | None:
    given = document.get(name)
    if given is None:
        return None
    if not isinstance(given, str) or pattern.fullmatch(given) is None:
        raise aws_refused("InvalidParameterException", f"{name} is no text of the form that it has.")
    return given


def _one_of(document: Mapping[str, Any], name: str, default: _W) -> _W:
    kind = type(default)
    try:
        return kind(document.get(name, default))
    except ValueError:
        raise aws_refused("InvalidParameterException", f"{name} is one of {', '.join(kind)}.") from None


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise aws_refused("SerializationException", "Bytes is not base64.") from None
    if len(data) > MAX_BYTES:
        raise aws_refused("ImageTooLargeException", "The image is larger than allowed.")
    return data


# --- the same for the OpenAPI page ----------------------------------------------------------------

_OBJECT: Final = {
    "type": "object",
    "required": ["Bucket", "Name"],
    "properties": {"Bucket": {"type": "string"}, "Name": {"type": "string"}},
}
_CONFIDENCE: Final = {"type": "number", "minimum": 0, "maximum": 100, "default": 50}


def _of(name: str, required: str, **properties: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"title": name, "type": "object", "required": [required], "properties": properties}


def _pattern(pattern: re.Pattern[str]) -> Mapping[str, Any]:
    return {"type": "string", "pattern": f"^{pattern.pattern}$"}


SCHEMAS: Final = (
    _of(
        "DetectModerationLabels",
        "Image",
        Image={"type": "object", "properties": {"Bytes": {"type": "string", "format": "byte"}, "S3Object": _OBJECT}},
        MinConfidence=_CONFIDENCE,
    ),
    _of(
        "StartContentModeration",
        "Video",
        Video={"type": "object", "required": ["S3Object"], "properties": {"S3Object": _OBJECT}},
        MinConfidence=_CONFIDENCE,
        ClientRequestToken=_pattern(_CLIENT_TOKEN),
        JobTag=_pattern(_JOB_TAG),
    ),
    _of(
        "GetContentModeration",
        "JobId",
        JobId=_pattern(_JOB_ID),
        MaxResults={"type": "integer", "minimum": 1, "default": MAX_PAGE},
        NextToken={"type": "string", "maxLength": _LONGEST_TOKEN},
        SortBy={"enum": list(SortBy), "default": SortBy.TIMESTAMP},
        AggregateBy={"enum": list(AggregateBy), "default": AggregateBy.TIMESTAMPS},
    ),
)
