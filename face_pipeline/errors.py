"""Errors of the face pipeline: facts about why a face could not be swapped.

    FacePipelineError
    ├── FaceUnusable         the picture is not one that can be used (carries a `Failure` and whose picture it is)
    ├── ModelRefused         a model file is not the one that was pinned
    ├── DetectorUnavailable  the detector's library or model is not there
    ├── SwapFault            a detector or swapper answered something impossible
    └── PipelineUnavailable  a detector or swapper that runs elsewhere did not answer, or had no room

`FaceUnusable` is final for its input: trying again changes nothing. The others are faults of ours, the last one of the moment:
the same work may be tried again after `retry_after_s`.
Constructors are positional, so that every error survives a pickle across a Ray handle.
"""

from __future__ import annotations

from enum import StrEnum


class FacePipelineError(Exception):
    """Something in the face pipeline could not be done."""


class Failure(StrEnum):
    """Why a picture cannot be used. The value is the `failure` code of the answer."""

    NO_FACE = "no_face"
    FACE_TOO_SMALL = "face_too_small"
    FACE_TURNED = "face_turned"
    FACE_CUT_OFF = "face_cut_off"
    FACE_INDEX_ABSENT = "face_index_absent"
    SOURCE_AMBIGUOUS = "source_ambiguous"
    NOTHING_CHANGED = "nothing_changed"


class Role(StrEnum):
    """Whose picture: the one that gives the face, or the one that receives it."""

    SOURCE = "source"
    TARGET = "target"


class FaceUnusable(FacePipelineError):
    """The picture has no face that can be used."""

    def __init__(self, failure: Failure, role: Role, detail: str = "") -> None:
        super().__init__(failure, role, detail)
        self.failure = Failure(failure)
        self.role = Role(role)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.failure} ({self.role}){': ' + self.detail if self.detail else ''}"


class ModelRefused(FacePipelineError):
    """The model file is not the pinned one, and is not opened."""

    def __init__(self, name: str, expected_sha256: str, found_sha256: str) -> None:
        super().__init__(name, expected_sha256, found_sha256)
        self.name = name
        self.expected_sha256 = expected_sha256
        self.found_sha256 = found_sha256

    def __str__(self) -> str:
        return f"{self.name}: SHA-256 {self.found_sha256} where {self.expected_sha256} was expected"


class DetectorUnavailable(FacePipelineError):
    """The detector cannot be made here."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"face detector {self.name}: {self.reason}"


class SwapFault(FacePipelineError):
    """A detector or a swapper broke its contract: a short answer, a wrong shape, a number that is none."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PipelineUnavailable(FacePipelineError):
    """A detector or swapper that runs elsewhere is not there, is too slow, or has no room."""

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason, retry_after_s)
        self.reason = reason
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.reason
