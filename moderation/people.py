"""What people may ask of the record beside a verdict, what goes by itself when its time is over, and what a reviewer may say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from moderation.decision import Verdict


class Outcome(StrEnum):
    """How an appeal ended."""

    UPHELD = "upheld"
    OVERTURNED = "overturned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The first review of the decision after the appeal, which closes it."""

    review: UUID
    verdict: Verdict
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Appeal:
    """Somebody's objection to what stands about a decision. It is closed by the next review, which is somebody else's."""

    id: UUID
    tenant: UUID
    decision: UUID
    stood: Verdict
    """`allow` or `block`: what the appeal is against."""
    review: UUID | None
    """The review that said so; None where the policy did."""
    reason: str
    actor: str
    subject: str | None
    """The pseudonym to which the key is bound, if it is."""
    at: datetime
    closing: Closing | None = None

    @property
    def outcome(self) -> Outcome | None:
        """None while it is open."""
        if self.closing is None:
            return None
        return Outcome.UPHELD if self.closing.verdict is self.stood else Outcome.OVERTURNED


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A duty to keep. What it covers is neither purged, nor erased, nor dropped with its month, until the hold is released.

    It names one of decision, transform, bytes or reference. With a decision goes its transform, with a transform its decisions.
    """

    id: UUID
    tenant: UUID
    reason: str
    actor: str
    at: datetime
    decision: UUID | None = None
    transform: UUID | None = None
    sha256: str | None = None
    reference: str | None = None
    released_at: datetime | None = None
    release_reason: str | None = None

    def __post_init__(self) -> None:
        if [self.decision, self.transform, self.sha256, self.reference].count(None) != 3:  # noqa: PLR2004  # all but one
            raise ValueError("a hold is on one thing")


class Selector(StrEnum):
    """By what an erasure finds its texts."""

    REFERENCE = "reference"
    """What was asked under it, and what people wrote about that."""
    SUBJECT = "subject"
    """What the person of this pseudonym has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was removed from the texts that may be erased. The text that was asked for is not in it."""

    id: UUID
    tenant: UUID
    selector: Selector
    erased: int
    held: int
    """Texts that stay because they are under hold."""
    in_progress: int
    """Texts that stay because they are being worked on: ask again."""
    holds: tuple[UUID, ...]
    is_complete: bool
    """Whether there was no more than is erased at once."""
    actor: str
    at: datetime


class Swept(StrEnum):
    """What a sweep goes through: an area of the media store, or a table."""

    INTAKE = "intake"
    QUARANTINE = "quarantine"
    RELEASED = "released"
    """What no release names any more; a released file has a purge of its own."""
    CATALOGUE = "catalogue"
    """What no approved face names any more."""
    JOBS = "jobs"
    IDEMPOTENCY = "idempotency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one run removed of one tenant's because its time was over, or stays although it is."""

    id: UUID
    tenant: UUID
    what: Swept
    removed: int
    held: int
    """What stays because it is under hold."""
    first: UUID | None
    """The oldest transform, decision or job of which something was removed; None where nothing was, or it has no id."""
    last: UUID | None
    """The newest."""
    since: datetime
    """When the first of it was removed or found."""
    actor: str
    """Which part of the service it was."""
    at: datetime


def may_say(said: Verdict, decided: Verdict, *, standing: Verdict | None, is_held: bool, is_appealed: bool) -> bool:
    """Whether a person may say `said` of a decision. Pure.

    `decided` is the policy's verdict, `standing` what a person said last, `is_held` whether a transform waits because of it,
    `is_appealed` whether an appeal against it is open. What was held may be allowed or blocked, and what was allowed be blocked, at
    any time; what stands as blocked is only allowed where that reverses a person or answers an appeal. What could not be
    judged is judged by nobody.
    """
    if decided is Verdict.ERROR:
        return False
    if decided is Verdict.REVIEW or is_appealed:
        return True
    if decided is Verdict.ALLOW:
        return said is Verdict.BLOCK or is_held or standing is Verdict.BLOCK
    return said is Verdict.BLOCK and standing is Verdict.ALLOW
