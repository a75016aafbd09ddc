"""Errors of the domain: facts about why something could not be done.

    ModerationError
    ├── PolicyRefused            a policy document that must not come into force
    ├── ModelUnusable            a model that must not be used: absent, not the pinned bytes, not understood
    ├── MediaRefused             the media itself cannot be judged (carries a `Refusal`)
    ├── CannotJudge              a fault of ours while judging; never an allow
    │   ├── DecoderUnavailable
    │   ├── ClassifierUnavailable
    │   └── ClassifierFault      an answer that is short, NaN, out of range or of the wrong shape
    ├── CannotSign               content credentials could not be put into a file of ours; it is not released
    ├── RecordUnavailable        the record cannot be read or written; nothing may go on
    ├── StaleLease               another worker holds this job by now; the result is discarded
    ├── FactsChanged             what a step relied on is no longer so; look again
    ├── OwnAppeal                who appealed, or said what the appeal is against, does not decide it
    └── Overloaded               no room at present; try again after `retry_after_s`

Constructors are positional, so that every error survives a pickle across a Ray handle.
Messages are for people who run the service; answers to callers are made from codes, never from these texts.
"""

from __future__ import annotations

from enum import StrEnum


class ModerationError(Exception):
    """Something in moderation could not be done."""


class PolicyRefused(ModerationError):
    """The policy document is empty, contradicts itself, or leaves a category uncovered."""


class ModelUnusable(ModerationError):
    """A model, its files or its mapping cannot be used; the text is one line for the operator."""


class Refusal(StrEnum):
    """Why a media cannot be judged. The value is the code in the answer and in the record."""

    EMPTY_BODY = "empty_body"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    DECODE_FAILED = "decode_failed"
    DECODE_TOO_SLOW = "decode_too_slow"
    TRUNCATED = "truncated"
    TOO_SMALL = "too_small"
    DIMENSIONS_TOO_LARGE = "dimensions_too_large"
    TOO_MANY_FRAMES = "too_many_frames"
    NO_FRAMES = "no_frames"
    TOO_LONG = "too_long"
    TOO_MANY_STREAMS = "too_many_streams"
    MULTIPLE_VIDEO_STREAMS = "multiple_video_streams"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    TYPE_MISMATCH = "type_mismatch"
    TRAILING_DATA = "trailing_data"
    AMBIGUOUS_CONTENT = "ambiguous_content"
    AMBIGUOUS_RENDERING = "ambiguous_rendering"
    STILL_PICTURE_REQUIRED = "still_picture_required"


class MediaRefused(ModerationError):
    """The media cannot be judged because of what it is."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(refusal, detail)
        self.refusal = Refusal(refusal)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.refusal}: {self.detail}" if self.detail else str(self.refusal)


class CannotJudge(ModerationError):
    """The service, not the media, is at fault; the decision is `error`."""

    code = "could_not_judge"


class DecoderUnavailable(CannotJudge):
    """No decode child could be started or it died for a reason that is not the media's."""

    code = "decoder_unavailable"


class ClassifierUnavailable(CannotJudge):
    """A classifier did not answer in time or is not running."""

    code = "classifier_unavailable"


class ClassifierFault(CannotJudge):
    """A classifier answered with something that is not a score sheet."""

    code = "classifier_fault"


class CannotSign(ModerationError):
    """Content credentials could not be put into a file of ours."""


class RecordUnavailable(ModerationError):
    """The record cannot be read or written."""


class StaleLease(ModerationError):
    """The job was leased again under a newer fence."""


class FactsChanged(ModerationError):
    """What a step relied on was changed before its commit; nothing was written."""


class OwnAppeal(ModerationError):
    """Who filed an appeal, or said what it is against, does not decide it."""


class Overloaded(ModerationError):
    """There is no room for more work at present."""

    def __init__(self, what: str, retry_after_s: float = 1.0) -> None:
        super().__init__(what, retry_after_s)
        self.what = what
        self.retry_after_s = retry_after_s
