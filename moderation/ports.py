"""What the domain needs of the world, each in one or two methods.

The real ones live in `moderation.adapters` and `deployments`; the fakes in `tests/fakes.py` are a page.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from moderation.access import Key
from moderation.canonical import Json
from moderation.decision import Decision, Verdict
from moderation.export import Span
from moderation.frames import DecodePlan, FilmFacts, FilmFrame, Input, Picture, Sound
from moderation.log import ConsistencyProof, InclusionProof, Receipt, Seal, VerifierKey
from moderation.media import Facts, Probe, Stage
from moderation.people import Appeal, Erasure, Hold, Selector, Sweep
from moderation.policy import Policy
from moderation.reports import Report
from moderation.scores import ClassifierScores, ClassifierVersion, InputScores
from moderation.transform import CatalogueSource, Committed, Event, Part, Progress, Release, Review, Showing, State, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseKey:
    """When two screenings would give the same scores."""

    tenant: UUID
    media_sha256: str
    plan_digest: str
    decoder: str
    classifiers: tuple[ClassifierVersion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What was remembered, and which decision first recorded it."""

    decision: UUID
    facts: Facts
    sheets: tuple[ClassifierScores, ...]


Deliver: TypeAlias = Callable[[Sequence[Input]], Awaitable[None]]
"""Takes the next inputs."""
Keep: TypeAlias = Callable[[Picture], None]
"""Takes a still picture in full."""


class Decoder(Protocol):
    """Opens uploaded bytes; the only one that does."""

    @property
    def version(self) -> str:
        """Names the decoder and everything it decodes with; part of the key of score reuse."""

    async def decode(self, data: bytes, plan: DecodePlan, deliver: Deliver, *, keep: Keep | None = None) -> Facts:
        """Decode all that `plan` asks for, calling `deliver` with inputs in frame order.

        Inputs are owned by the receiver. Every frame yields at least one input for every spec of the plan.
        `keep` is given a still picture in full as well (`PictureDecoder.picture`), by the same decoding; of animations and videos nothing.
        Raises MediaRefused for the media's faults, DecoderUnavailable for ours, Overloaded when full,
        and whatever `deliver` raises.
        """


class PictureDecoder(Protocol):
    """Opens uploaded bytes for those who work on a picture. `plan.specs` are not looked at.

    All raise MediaRefused for the media's faults, DecoderUnavailable for ours, Overloaded when full.
    """

    async def picture(self, data: bytes, plan: DecodePlan) -> Picture:
        """The one picture of a file in full, as it is usually shown: upright, sRGB, alpha on white.

        Of a file of several pictures without time it is the first. An animation is refused with STILL_PICTURE_REQUIRED.
        """

    async def frame_digest(self, data: bytes, plan: DecodePlan) -> str:
        """What names that picture (`moderation.media.FrameDigest`); it is decoded in full and not handed out. Refused as `picture` is."""

    async def probe(self, data: bytes, plan: DecodePlan) -> Probe:
        """What can be told without decoding a pixel, which takes milliseconds: kind, size, frames, structure, limits.

        A media that passes may still be refused once it is decoded; one that is refused here would have been refused then.
        """


class Film(Protocol):
    """A video that is being decoded. Nothing holds more than a few frames of it: the decoder waits until one was taken."""

    @property
    def facts(self) -> FilmFacts:
        """What a player shows, as the file states it; true once the last frame was taken."""

    def __aiter__(self) -> AsyncIterator[FilmFrame]:
        """The frames in the order in which they are shown. Raises MediaRefused and DecoderUnavailable."""


class FilmDecoder(Protocol):
    """Opens uploaded videos for those who work on what a player presents: edit lists applied. `plan.specs` are not looked at.

    All raise MediaRefused for the media's faults, DecoderUnavailable for ours, Overloaded when full.
    """

    def film(self, data: bytes, plan: DecodePlan, *, first: int = 0) -> AbstractAsyncContextManager[Film]:
        """The video from its presented frame `first` on. On leaving, the decoding ends."""

    async def digests(self, data: bytes, plan: DecodePlan) -> Sequence[str]:
        """What names each frame that is shown, in order (`moderation.frames.FilmDigest`); every frame is decoded and none is handed out.

        Also raises MediaRefused where frames are coded that are not shown, or shown more than once.
        """

    async def sound(self, data: bytes, plan: DecodePlan) -> Sound | None:
        """The whole sound of the first audio stream, as a player presents it, or None where there is none."""


class Classifier(Protocol):
    """Inputs in, scores out."""

    @property
    def version(self) -> ClassifierVersion:
        """Exactly which classifier this is."""

    async def classify(self, inputs: Sequence[Input]) -> Sequence[InputScores]:
        """One answer per input, in order. All inputs have this classifier's spec.

        Raises ClassifierUnavailable, ClassifierFault or Overloaded.
        """


class DecisionLog(Protocol):
    """The record."""

    async def append(self, decision: Decision, *, job: Job | None = None, keep_job: bool = False) -> None:
        """Return once the decision is committed. Raises RecordUnavailable if that is not certain, Overloaded when full.

        With `job`, the job becomes done in the same transaction, or goes on running with `keep_job`; StaleLease if its
        fence is no longer the newest or it has ended.
        """


class ScoreMemory(Protocol):
    """Scores of earlier screenings of the same bytes, within one tenant."""

    async def recall(self, key: ReuseKey) -> Recalled | None:
        """Complete scores given earlier under exactly this key, or None. Raises RecordUnavailable."""


class Clock(Protocol):
    """Aware UTC time."""

    def __call__(self) -> datetime:
        """Now."""


# --- what the HTTP surface needs of the record ----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFilter:
    """Which decisions; None means any. `since` is inclusive, `until` exclusive; `before` is a cursor (an id)."""

    stage: Stage | None = None
    verdict: Verdict | None = None
    category: str | None = None
    policy: str | None = None
    classifier: str | None = None
    automated: bool | None = None
    media_sha256: str | None = None
    reference: str | None = None
    transform: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None
    limit: int = 50


class DecisionReader(Protocol):
    """Reads of the record, always within one tenant. All raise RecordUnavailable."""

    async def get(self, tenant: UUID, decision: UUID) -> Decision | None:
        """The decision exactly as it was appended, or None (another tenant's as well)."""

    async def find(self, tenant: UUID, wanted: DecisionFilter) -> Sequence[Decision]:
        """Newest first, at most `wanted.limit` + 1, so that the caller knows whether there are more."""


class KeyRing(Protocol):
    """Keys by their public id."""

    async def find(self, key_id: str) -> Key | None:
        """The key as stored, live or not, or None. Raises RecordUnavailable."""

    async def find_sigv4(self, access_key_id: str) -> tuple[Key, str] | None:
        """The key and its recoverable secret for SigV4, or None. Raises RecordUnavailable."""


class PolicyShelf(Protocol):
    """Policies by name, all versions kept."""

    async def latest(self, tenant: UUID, name: str) -> Policy | None:
        """The version in force. Raises RecordUnavailable."""

    async def version(self, tenant: UUID, name: str, version: int) -> Policy | None:
        """One version. Raises RecordUnavailable."""

    async def versions(self, tenant: UUID, name: str, *, newest: int, limit: int) -> Sequence[Policy]:
        """At most `limit` versions from `newest` down. Raises RecordUnavailable."""

    async def list(self, tenant: UUID) -> Sequence[Policy]:
        """The version in force of each policy, by name. Raises RecordUnavailable."""

    async def publish(self, tenant: UUID, name: str, content: Policy, actor: str) -> Policy:
        """Put a new version in force and return it; the same content returns the version that exists."""


class Begun(StrEnum):
    """What an idempotency key says about a request."""

    NEW = "new"
    """Go on; this request owns the id."""
    KNOWN = "known"
    """The same request came before; answer with its resource."""
    IN_PROGRESS = "in_progress"
    """The same request is still in intake."""
    MISMATCH = "mismatch"
    """The key was used for another request."""


class Idempotency(Protocol):
    """Idempotency keys, scope (tenant, key), kept for 24 hours."""

    async def begin(self, tenant: UUID, key: str, fingerprint: str, resource: UUID) -> tuple[Begun, UUID]:
        """Claim `key` for `resource`; the id in the answer is the one to use. Raises RecordUnavailable."""

    async def forget(self, tenant: UUID, key: str, resource: UUID, *, recorded: bool = False) -> None:
        """Release a claim after a 5xx or a refusal that is not stored.

        What is committed stays known, unless `recorded` says that it is a fault of ours which a retry must not meet again.
        """


class QueueState(StrEnum):
    """Where queued work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    PARKED = "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One lease on one piece of queued work. A result is accepted only under the newest `fence`."""

    id: UUID
    tenant: UUID
    kind: str
    payload: Mapping[str, Json]
    fence: int
    attempt: int


class Queue(Protocol):
    """Durable work. Leases run on database time. All raise RecordUnavailable."""

    async def put(self, *, id: UUID, tenant: UUID, kind: str, payload: Mapping[str, Json], leased_for_s: float | None = None) -> Job | None:
        """Enqueue; with `leased_for_s` the caller itself begins, holding the returned lease.

        Raises Overloaded, and nothing is enqueued, where the tenant has too much work of this kind and the caller does not begin itself.
        """

    async def take(self, kinds: Sequence[str], lease_s: float) -> Job | None:
        """Lease the next due job (FOR UPDATE SKIP LOCKED), or None."""

    async def take_parked(self, kind: str, lease_s: float) -> Job | None:
        """Lease what was given up so that its end can be committed, or None. No attempt begins."""

    async def renew(self, job: Job, lease_s: float) -> bool:
        """Extend the lease; False when another fence has been given."""

    async def fail(self, job: Job, reason: str, *, retry_in_s: float | None) -> QueueState:
        """Give up this attempt: due again after `retry_in_s`, or parked (also after the third attempt; of a webhook, after the seventh)."""

    async def give_back(self, job: Job, *, after_s: float = 0.0) -> None:
        """Return the job unharmed, due `after_s` from now: this attempt does not count. Raises StaleLease."""

    async def done(self, job: Job) -> None:
        """The work has ended and has nothing to commit beside that. Raises StaleLease if the job is another's by now, or has ended."""

    async def state(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> QueueState | None:
        """Where the work of this kind stands, or None if there is none: an id of another kind's work is no answer."""

    async def payload(self, tenant: UUID, id: UUID, *, kind: str = "screening") -> Mapping[str, Json] | None:
        """What was put with this work, for as long as the queue keeps it, ended or not; otherwise None."""


class MediaStore(Protocol):
    """Bytes by area and name."""

    async def put(self, area: str, name: str, data: bytes) -> None:
        """Store; the same name and bytes twice is no error. Raises RecordUnavailable."""

    async def get(self, area: str, name: str) -> bytes | None:
        """The bytes, or None. Raises RecordUnavailable."""

    async def delete(self, area: str, name: str) -> None:
        """Remove; absent is no error. Raises RecordUnavailable."""


# --- transforms -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """An idempotency key and what it is used for."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformFilter:
    """Which transforms; None means any. `before` is a cursor (an id)."""

    state: State | None = None
    reference: str | None = None
    before: UUID | None = None
    limit: int = 50


class TransformLog(Protocol):
    """The record of transforms. What happens to one is written under the fence of its job, so that a late worker writes nothing.

    All raise RecordUnavailable; those that take a job raise StaleLease when it is another's by now, or has ended.
    """

    async def accept(self, transform: Transform, *, use: KeyUse | None = None) -> tuple[Begun, UUID]:
        """Commit request, first event, entry, job (kind `transform`, the same id) and key in one transaction; the id to answer with.

        With `use`, an earlier request with this key makes it KNOWN or MISMATCH, and nothing is written. Nor is it where the tenant has
        too many transforms that wait or run: Overloaded.
        """

    async def made_with(self, tenant: UUID, use: KeyUse) -> tuple[Begun, UUID] | None:
        """What an earlier request with this key has made (KNOWN), or that it was another request (MISMATCH); None where there is none."""

    async def load(self, tenant: UUID, id: UUID, *, known: Sequence[Decision] = ()) -> Committed | None:
        """Everything about one transform, of one moment; None for another tenant's.

        Which decisions there are is said by the record; those that the caller has in hand already, `known`, need not be read again.
        """

    async def find(self, tenant: UUID, wanted: TransformFilter) -> Sequence[Committed]:
        """Newest first, at most `wanted.limit` + 1."""

    async def events(self, tenant: UUID, id: UUID, *, after: int = 0) -> Sequence[Event]:
        """What happened after the event of this number, oldest first."""

    async def advance(self, job: Job, to: State) -> None:
        """Write that the work is in this state now; the job goes on. No event where it is there already.

        Raises FactsChanged where somebody asked for the transform's end.
        """

    async def add_part(self, job: Job, part: Part) -> None:
        """Write the name of a file of ours; the job goes on.

        The first one of a kind, and of a segment's number, stays: a second is refused with StaleLease. With a segment the attempts
        are counted anew: what ends a video are attempts that make none.
        """

    async def note_progress(self, job: Job, progress: Progress) -> None:
        """Say how far the making of a video is; forgotten at its end. Raises FactsChanged where somebody asked for the transform's end."""

    async def heed(self, job: Job) -> None:
        """Look whether the work is still wanted. Raises FactsChanged where somebody asked for the transform's end, StaleLease, RecordUnavailable."""

    async def record_showing(self, showing: Showing) -> None:
        """Write with its entry that segments are shown to somebody; returns once that is committed, and only then may they be.

        In the same transaction it is made sure that each of them has an output decision under the pinned policy that lets it pass, that
        `showing.in_force` is in force, that nobody blocks any picture of this transform, that it has neither been stopped nor asked to,
        and that its release, where there is one, is not over: otherwise `FactsChanged`, and nothing is written.
        """

    async def release(self, job: Job, release: Release) -> None:
        """Write the release with its entry; the job goes on. One per transform.

        In the same transaction it is made sure that the newest policy of that name is still `release.in_force`, that nobody asked for
        the transform's end, that no person blocks one of its decisions or, wherever that was said, its bytes, and that the face was
        not removed from the catalogue since: otherwise `FactsChanged`.
        """

    async def end(self, job: Job, event: Event) -> None:
        """Write a final event or `held`, end the job, and queue the call to the callback URL (at final events), in one transaction.

        `event.sequence` and `event.at` are the record's to give; what is passed there is not looked at. With `held`, `FactsChanged`
        where meanwhile somebody reviewed that decision, blocks another one or asked for the transform's end: nobody would wake it. Raises ValueError
        for an end that the record contradicts: `released` without a release, `cancelled` without a request, `denied` or `cancelled`
        after a release.
        """

    async def request_cancel(self, tenant: UUID, id: UUID, actor: str) -> State | None:
        """Write that an end is asked for and wake the work if it waits; the state it had then, None where there is no such transform.

        Writes nothing where it has ended or its release is committed.
        """

    async def end_parked(self) -> int:
        """End all transforms whose job was given up (its worker died too often) and say how many, over all tenants.

        They end as failed, or as cancelled where somebody asked for that. One whose release is committed is not ended but tried again: what is released will be published.
        """

    async def expired(self, limit: int = 100, *, after: UUID | None = None) -> Sequence[Release]:
        """Releases of all tenants whose time is over or that were withdrawn, whose work has ended, and whose bytes are not yet purged.

        In the order of their transforms' ids, beginning after `after`.
        """

    async def record_purge(self, tenant: UUID, transform: UUID, result: Mapping[str, Json]) -> None:
        """Write with its entry that a release's bytes are gone; what is recorded already stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """Bytes at rest: `owner` is the transform, decision or source that they belong to."""

    owner: UUID
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the record says of bytes at rest."""

    is_held: bool
    """A hold covers them: they stay."""
    ended: State | None
    """How their transform ended; None if it has not, or they are of none."""
    is_wanted: bool
    """There is work of their owner that has not ended: a transform, or a screening."""
    is_served: bool
    """A release that was not purged, or an approved face that was not removed, names exactly these bytes."""


class Keeping(Protocol):
    """What must be kept of the bytes at rest, and what need not. All raise RecordUnavailable."""

    async def is_held(self, tenant: UUID, transform: UUID) -> bool:
        """Whether a hold covers this transform."""

    async def look(self, tenant: UUID, objects: Sequence[StoredObject]) -> Mapping[StoredObject, Standing]:
        """What the record says of each of them, of one moment."""


class Shadow(Protocol):
    """Whoever listens to what was decided and never has a say (`moderation.shadow`)."""

    def begin(self, data: bytes, decision: Decision, plan: DecodePlan, policy: Policy) -> None:
        """Told of a committed decision and what it was made of. Never waits and never raises."""


class SweepLog(Protocol):
    """What was removed because its time was over."""

    async def write(self, sweep: Sweep) -> None:
        """Write a sweep with its entry; the same id again is no error. Raises RecordUnavailable."""


class ReviewLog(Protocol):
    """What people say and see. All raise RecordUnavailable."""

    async def add(self, review: Review, *, to_wake: UUID | None = None) -> None:
        """Write a review with its entry, and what follows from it, in one transaction.

        The transform that the decision belongs to (`to_wake`, where the caller knows it) is queued again if it is held; a `block`
        withdraws its release, and every other one of the tenant's whose source, target or files are the same bytes. The same review
        again is no error. Raises ValueError for a decision that the tenant does not have, or one that belongs to another transform
        than `to_wake`; OwnAppeal while an appeal is open that this person filed, or that is against what this person has said.
        """

    async def get(self, tenant: UUID, id: UUID) -> Review | None:
        """The review, or None (another tenant's as well)."""

    async def latest(self, tenant: UUID, decisions: Sequence[UUID]) -> Mapping[UUID, Review]:
        """The latest review of each decision that has one."""

    async def waiting(self, tenant: UUID, *, before: UUID | None, limit: int) -> Sequence[Decision]:
        """Decisions that wait for a person: verdict `review`, or a transform is held because of it, and no review yet.

        Newest first, at most `limit` + 1.
        """

    async def viewed(self, *, tenant: UUID, decision: UUID, actor: str, subject: str, rendition: str, at: datetime) -> None:
        """Write with its entry that somebody looks at the media of a decision; returns once that is committed."""


class AppealLog(Protocol):
    """Objections to what stands. All raise RecordUnavailable."""

    async def file(self, *, id: UUID, tenant: UUID, decision: UUID, reason: str, actor: str, subject: str | None, at: datetime) -> Appeal:
        """Write an appeal with its entry against what stands about the decision; of a decision that has an open one, that one.

        Raises ValueError for a decision that the tenant does not have, and where neither an allow nor a block stands.
        """

    async def get(self, tenant: UUID, id: UUID) -> Appeal | None:
        """The appeal as it stands, or None (another tenant's as well)."""

    async def find(
        self, tenant: UUID, *, decision: UUID | None = None, is_open: bool | None = None, before: UUID | None = None, limit: int = 50
    ) -> Sequence[Appeal]:
        """Newest first, at most `limit` + 1."""


class HoldLog(Protocol):
    """Duties to keep. All raise RecordUnavailable."""

    async def place(self, hold: Hold) -> None:
        """Write a hold with its entry; the same again is no error. Raises ValueError where what it names is not there."""

    async def release(self, tenant: UUID, id: UUID, *, reason: str, actor: str, at: datetime) -> Hold | None:
        """End a hold, with entry; the hold as it is then, also where it had ended before. None where there is none."""

    async def get(self, tenant: UUID, id: UUID) -> Hold | None:
        """The hold as it stands, or None (another tenant's as well)."""

    async def find(self, tenant: UUID, *, in_force: bool | None = None, before: UUID | None = None, limit: int = 50) -> Sequence[Hold]:
        """Newest first, at most `limit` + 1."""


class ErasureLog(Protocol):
    """Removal of what may be removed. All raise RecordUnavailable."""

    async def erase(self, *, id: UUID, tenant: UUID, selector: Selector, text: str, actor: str, at: datetime) -> Erasure:
        """Remove the texts that are found by `text`, but for what is under hold or being worked on, with entry; what came of it.

        The same id again gives what came of it then.
        """

    async def get(self, tenant: UUID, id: UUID) -> Erasure | None:
        """The erasure, or None (another tenant's as well)."""

    async def find(self, tenant: UUID, *, before: UUID | None = None, limit: int = 50) -> Sequence[Erasure]:
        """Newest first, at most `limit` + 1."""


class SourceCatalogue(Protocol):
    """Approved faces of a tenant. All raise RecordUnavailable.

    One is live until it is removed or a person blocks its bytes.
    """

    async def add(self, source: CatalogueSource) -> CatalogueSource:
        """Approve with event and entry; the same bytes again give the live entry that there is.

        Raises ValueError where the decision that it names does not allow exactly these bytes, and for an entry that was removed.
        """

    async def remove(self, tenant: UUID, id: UUID, actor: str) -> CatalogueSource | None:
        """Remove with event and entry, also what a person blocks; what it was, None if there is no such entry or it was removed before."""

    async def find(self, tenant: UUID, sha256: str) -> CatalogueSource | None:
        """The live entry of these bytes."""

    async def get(self, tenant: UUID, id: UUID) -> CatalogueSource | None:
        """The live entry of this id."""

    async def list(self, tenant: UUID, *, before: UUID | None = None, limit: int = 50) -> Sequence[CatalogueSource]:
        """The live entries, newest first, at most `limit` + 1."""


# --- content credentials --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the credentials of a file say. `title` is an id of ours, never a name that a caller gave."""

    title: str
    media_type: str
    is_trained: bool
    """Whether pixels came out of a trained network."""
    swapper: str
    """Name and version of what changed the picture."""


class Signer(Protocol):
    """Puts content credentials into a file of ours."""

    async def sign(self, data: bytes, claim: Claim) -> bytes:
        """The same file, showing the same, with credentials. Raises CannotSign, and then nothing may be released."""


# --- the log --------------------------------------------------------------------------------------


class LogReader(Protocol):
    """Reads of the signed log. All raise RecordUnavailable.

    Leaf hashes, seals and keys are everybody's; the bytes of an entry are its tenant's. `origin` is one of the log's; None is the
    one that is in force.
    """

    async def latest(self, *, origin: str | None = None) -> Seal | None:
        """The newest seal, or None before the first."""

    async def keys(self) -> Sequence[VerifierKey]:
        """The keys that seals were signed with, the newest last. Whoever verifies has pinned theirs."""

    async def inclusion(self, tenant: UUID | None, entry: UUID) -> InclusionProof | None:
        """That an entry of this tenant (None: of any) is under the newest seal of its origin; None while it is not sealed.

        The leaf is what was sealed, whatever the entry says by now.
        """

    async def consistency(self, first: int, second: int, *, origin: str | None = None) -> ConsistencyProof | None:
        """Between two sizes that need not have been sealed; None where `second` is beyond the newest seal, or before `first`."""


class LogExport(Protocol):
    """The log as a file for outsiders: see `moderation.export`. All raise RecordUnavailable."""

    async def span(self, *, first: int | datetime | None, last: int | datetime | None, origin: str | None = None) -> Span | None:
        """From leaf `first` up to `last`, without it, and on to the next seal; or what was sealed between two moments. None where nothing is."""

    async def entry(self, tenant: UUID | None, id: UUID) -> bytes | None:
        """The bytes of a sealed entry of this tenant (None: of any); None where there is none, or none any more."""

    def lines(self, tenant: UUID | None, span: Span) -> AsyncGenerator[bytes, None]:
        """The export, in pieces of many lines; the entries of this tenant and of the log itself (None: of all)."""


class ReportReader(Protocol):
    """Reports (`moderation.reports`), each about one tenant. Rows are the values of its columns, then of its keys.

    All raise RecordUnavailable; Overloaded when too many are being read; ParameterRefused for what only the record can tell.
    """

    @property
    def catalogue(self) -> Mapping[str, Report]:
        """All reports by name."""

    async def tenants(self, only: UUID | None) -> Sequence[tuple[UUID, str]]:
        """(id, name) of all tenants by name, or of this one."""

    async def check(self, name: str, tenants: Sequence[UUID], values: Mapping[str, Any]) -> None:
        """Raise ParameterRefused where there is nothing to answer for any of these tenants."""

    async def page(
        self, name: str, tenant: UUID, values: Mapping[str, Any], *, after: Sequence[str] | None, limit: int
    ) -> Sequence[Sequence[Any]]:
        """At most `limit` rows that follow the row with the keys `after`."""

    async def first_page(
        self, name: str, tenant: UUID, values: Mapping[str, Any], *, limit: int
    ) -> tuple[Sequence[Sequence[Any]], Mapping[str, int]]:
        """The first `limit` rows with the report's totals."""

    async def totals(self, name: str, tenant: UUID, values: Mapping[str, Any]) -> Mapping[str, int]:
        """The report's totals."""

    def stream(self, name: str, tenant: UUID, values: Mapping[str, Any]) -> AsyncIterator[Sequence[Sequence[Any]]]:
        """All rows, in batches."""


class Receipts(Protocol):
    """What callers get with a decision: the promise that it will be in the log."""

    async def of(self, tenant: UUID, entries: Mapping[UUID, datetime]) -> Mapping[UUID, Receipt]:
        """The receipt of each entry, by its id; `entries` say when each decision was made. Raises RecordUnavailable."""
