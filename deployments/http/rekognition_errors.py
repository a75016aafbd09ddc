"""The table of errors once more, in the words of Rekognition's service model.

Clients choose the exception class by `__type` and retry by class or by a status of 500 and above, so only what
may be retried says `ProvisionedThroughputExceededException` or has such a status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from deployments.http.errors import ApiError, Code, Problem, problem
from deployments.http.wire import encode
from deployments.ids import to_wire
from moderation.errors import Refusal

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_TYPES: Final[Mapping[str, str]] = {
    Code.UNAUTHORIZED: "AccessDeniedException",
    Code.FORBIDDEN: "AccessDeniedException",
    Code.POLICY_NOT_ALLOWED: "AccessDeniedException",
    Code.PAYLOAD_TOO_LARGE: "ImageTooLargeException",
    Code.OVERLOADED: "ProvisionedThroughputExceededException",
    Code.IN_PROGRESS: "ProvisionedThroughputExceededException",
    Code.IDEMPOTENCY_MISMATCH: "IdempotentParameterMismatchException",
    Refusal.DIMENSIONS_TOO_LARGE: "ImageTooLargeException",
    Refusal.EMPTY_BODY: "InvalidParameterException",
    Refusal.TOO_SMALL: "InvalidParameterException",
    Refusal.UNSUPPORTED_MEDIA_TYPE: "InvalidImageFormatException",
}
_BAD_REQUESTS: Final = frozenset(str(code) for code in Code)
_KEEP: Final = frozenset({408, 413})
_FAULT: Final = 500


def aws_type(found: Problem) -> str:
    """The modelled class of a problem."""
    if found.code in _TYPES:
        return _TYPES[found.code]
    if found.status >= _FAULT:
        return "InternalServerError"
    return "InvalidParameterException" if found.code in _BAD_REQUESTS else "InvalidImageFormatException"


def aws_refused(kind: str, message: str) -> ApiError:
    """A refusal in words of that service alone."""
    return ApiError(replace(problem(Code.BAD_REQUEST, message=message), aws_type=kind))


def aws_answer(found: Problem, request_id: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """(status, headers, body) of a problem. Faults of the caller are 400, as that service answers them."""
    kind = found.aws_type or aws_type(found)
    status = found.status if found.status in _KEEP or kind == "InternalServerError" else 400
    headers = [("content-type", CONTENT_TYPE), ("x-amzn-requestid", request_id), ("x-amzn-errortype", kind)]
    if found.decision_id is not None:
        headers.append(("x-facegate-decision-id", to_wire("dec", found.decision_id)))
    headers += [pair for pair in found.all_headers() if pair[0] == "retry-after"]
    return status, headers, encode({"__type": kind, "message": found.message})
