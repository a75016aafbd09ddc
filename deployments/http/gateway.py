"""What the HTTP surface needs of the rest: ports and settings values, in one place.

Whoever runs the surface (an `Api` replica, a test) builds a `Gateway` and gives it to
`deployments.http_api.create_api`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, TypeAlias
from uuid import UUID

from deployments.ids import new_id
from moderation.frames import Limits
from moderation.log import Receipt
from moderation.ports import (
    AppealLog,
    Classifier,
    Clock,
    DecisionLog,
    DecisionReader,
    Decoder,
    ErasureLog,
    HoldLog,
    Idempotency,
    KeyRing,
    LogExport,
    LogReader,
    MediaStore,
    PictureDecoder,
    PolicyShelf,
    Queue,
    Receipts,
    ReportReader,
    ReviewLog,
    ScoreMemory,
    Shadow,
    SourceCatalogue,
    TransformLog,
)

MB: Final = 1_000_000

Probe: TypeAlias = Callable[[], Awaitable[object]]
"""Returns when the dependency is there, raises when it is not."""

Metrics: TypeAlias = Callable[[], Awaitable[str]]
"""The text for `/metrics`, in Prometheus' exposition format."""

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
"""The bytes at an http(s) URL. Raises `deployments.http.errors.ApiError` on hosts that are not allowed and on failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One answered request, for metrics and logs. `route` is the route's template, never the path itself."""

    method: str
    route: str
    status: int
    seconds: float
    request_id: str


class BucketReader(Protocol):
    """Stores of others, read by configured name."""

    async def get(self, bucket: str, name: str, *, max_bytes: int, admit: Callable[[int], None]) -> bytes | None:
        """The object, or None. Raises MediaRefused (payload_too_large), RecordUnavailable, and what `admit` raises of its size."""


class MediaReader(Protocol):
    """One area of the media store, to be read only. Raises RecordUnavailable."""

    async def get(self, name: str) -> bytes | None:
        """The bytes of this name, or None. MediaAltered if there are others by now."""


class PieceReader(Protocol):
    """One area of the media store, to be read piece by piece. Raises RecordUnavailable."""

    async def size(self, name: str) -> int | None:
        """How many bytes of this name there are, or None."""

    async def piece(self, name: str, start: int, stop: int) -> bytes | None:
        """These of them, or None; compared with nothing."""


class MediaArea(MediaReader, Protocol):
    """One area of the media store; see `moderation.adapters.areas`. All raise RecordUnavailable."""

    async def put(self, name: str, data: bytes) -> None:
        """Store; returns once the bytes are durable."""

    async def delete(self, name: str) -> None:
        """Remove; absent is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBuckets:
    """Where no bucket is configured."""

    async def get(self, *_: object, **__: object) -> bytes | None:
        """None, whatever is asked for."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is taken in. Bytes and seconds.

    `picture` and `video` bound one media, `json`, `rekognition` and `other` bound one body; `in_memory` all bodies that are being received or
    screened together. A body must go on arriving within `idle_s` and be complete within `body_s`, and the time that what has come of it
    takes at `slowest`, bytes a second.
    """

    picture: int = 20 * MB
    video: int = 200 * MB
    json: int = 28 * MB
    rekognition: int = 7 * MB
    other: int = MB
    in_memory: int = 512 * MB
    idle_s: float = 10.0
    body_s: float = 60.0
    slowest: int = MB // 2
    requests: int = 256
    """Screenings at once; more are answered 503."""
    wait_s: float = 30.0
    max_wait_s: float = 60.0
    lease_s: float = 30.0
    probe_s: float = 2.0
    poll_s: float = 0.25
    """How often the record is asked whether something has happened, where a caller waits for it."""
    streams: int = 64
    """Event streams at once, half of them for one tenant, more are answered 503; and transforms that are waited for, more are answered without waiting."""
    stream_s: float = 900.0
    """How long one lasts; its client then goes on from its last event."""
    send_s: float = 30.0
    """How long one who watches a video may take nothing of it."""
    heartbeat_s: float = 10.0
    progress_s: float = 1.0
    exports: int = 2
    """Exports of the log at once; more are answered 503."""


class NoReceipts:
    """Where there is no key to give receipts under."""

    async def of(self, tenant: UUID, entries: Mapping[UUID, datetime]) -> Mapping[UUID, Receipt]:  # noqa: ARG002  # the port's signature
        """None for any."""
        return {}


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Ports and settings values. `limits` bound what is opened, `bounds` what is received."""

    decoder: Decoder
    classifiers: tuple[Classifier, ...]
    log: DecisionLog
    memory: ScoreMemory
    reader: DecisionReader
    keys: KeyRing
    policies: PolicyShelf
    idempotency: Idempotency
    queue: Queue
    store: MediaStore
    transforms: TransformLog
    reviews: ReviewLog
    appeals: AppealLog
    holds: HoldLog
    erasures: ErasureLog
    sources: SourceCatalogue
    seals: LogReader
    exports: LogExport
    reports: ReportReader
    pictures: PictureDecoder
    intake: MediaArea
    quarantine: MediaArea
    released: PieceReader
    """Only a worker puts anything there, after the release."""
    catalogue: MediaArea
    clock: Clock
    probes: Mapping[str, Probe]
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    shadow: Shadow | None = None
    """Listens to what is decided."""
    receipts: Receipts = field(default_factory=NoReceipts)
    buckets: BucketReader = field(default_factory=NoBuckets)
    url_hosts: frozenset[str] = frozenset()
    fetch: Fetch | None = None
    """None: fetch from `url_hosts` over the network."""
    openai_text: str = "refuse"
    swappers: frozenset[str] = frozenset({"auto", "classical"})
    """What a transform may ask for."""
    webhook_hosts: frozenset[str] = frozenset()
    """Where callbacks may go: host, or host:port."""
    webhook_http: bool = False
    """Whether http will do for them too."""
    new_id: Callable[[], UUID] = new_id
    seen: Callable[[Seen], None] = _nothing
    alarm: Callable[[str], None] = _nothing
    """Told of what must not be and needs a person, by a code: a released file that is not what was released, for one."""
    request_id_echoed: bool = False
    """Whether the server in front already puts a request's `x-request-id` on its answer (Ray Serve does)."""
