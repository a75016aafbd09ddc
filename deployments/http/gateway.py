"""What the HTTP surface needs of the rest: ports and settings values, in one place.

Whoever runs the surface (an `Api` replica, a test) builds a `Gateway` and gives it to
`deployments.http_api.create_api`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias
from uuid import UUID

from deployments.ids import new_id
from moderation.frames import Limits
from moderation.ports import (
    Classifier,
    Clock,
    DecisionLog,
    DecisionReader,
    Decoder,
    Idempotency,
    KeyRing,
    MediaStore,
    PolicyShelf,
    Queue,
    ScoreMemory,
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

    async def get(self, bucket: str, name: str, *, max_bytes: int) -> bytes | None:
        """The object, or None. Raises MediaRefused (payload_too_large), RecordUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBuckets:
    """Where no bucket is configured."""

    async def get(self, bucket: str, name: str, *, max_bytes: int) -> bytes | None:  # noqa: ARG002  # the port's signature
        """None, whatever is asked for."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is taken in. Bytes and seconds.

    `picture`, `json`, `rekognition` and `other` bound one body; `in_memory` all bodies that are being received or
    screened together. A body must go on arriving within `idle_s` and be complete within `body_s`.
    """

    picture: int = 20 * MB
    json: int = 28 * MB
    rekognition: int = 7 * MB
    other: int = MB
    in_memory: int = 512 * MB
    idle_s: float = 10.0
    body_s: float = 60.0
    requests: int = 256
    """Screenings at once; more are answered 503."""
    wait_s: float = 30.0
    max_wait_s: float = 60.0
    lease_s: float = 30.0
    probe_s: float = 2.0


def _nothing(_: Seen) -> None:
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
    clock: Clock
    probes: Mapping[str, Probe]
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    buckets: BucketReader = field(default_factory=NoBuckets)
    url_hosts: frozenset[str] = frozenset()
    fetch: Fetch | None = None
    """None: fetch from `url_hosts` over the network."""
    openai_text: str = "refuse"
    new_id: Callable[[], UUID] = new_id
    seen: Callable[[Seen], None] = _nothing
    request_id_echoed: bool = False
    """Whether the server in front already puts a request's `x-request-id` on its answer (Ray Serve does)."""
