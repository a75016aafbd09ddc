"""Logs and metrics. Both carry ids, hashes, codes and times; never names of files, URLs, scores or anything of a tenant's.

Metrics are summed over all replicas of the machine: every process writes to files in the folder that
`PROMETHEUS_MULTIPROC_DIR` names (set before Python starts, by `facegate serve` and in the container), and whoever is
asked reads them all. Without the folder a process shows its own.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import values as prometheus_values
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.decision import Decision

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that prometheus_client reads when it is imported."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REGISTRY: Final = CollectorRegistry()

SCREENINGS: Final = Counter("facegate_screenings", "Committed decisions.", ("stage", "verdict", "reused"), registry=_REGISTRY)
REFUSALS: Final = Counter("facegate_media_refusals", "Media that could not be judged, by code.", ("code",), registry=_REGISTRY)
FAULTS: Final = Counter("facegate_faults", "Faults of ours while judging or recording, by code.", ("code",), registry=_REGISTRY)
STEPS: Final = Histogram("facegate_step_seconds", "Time of one step of a screening.", ("step",), buckets=_SECONDS, registry=_REGISTRY)
REQUESTS: Final = Histogram(
    "facegate_http_request_seconds", "Time of one HTTP request.", ("method", "route", "status"), buckets=_SECONDS, registry=_REGISTRY
)
BATCH_ROWS: Final = Histogram(
    "facegate_classifier_batch_rows", "Inputs of one forward pass.", ("classifier",), buckets=_ROWS, registry=_REGISTRY
)
BATCH_SECONDS: Final = Histogram(
    "facegate_classifier_batch_seconds", "Time of one forward pass.", ("classifier",), buckets=_SECONDS, registry=_REGISTRY
)
WAITING: Final = Gauge(
    "facegate_classifier_waiting_rows",
    "Inputs waiting at the classifier.",
    ("classifier",),
    multiprocess_mode="livesum",
    registry=_REGISTRY,
)
FACE_ROWS: Final = Histogram(
    "facegate_face_batch_rows", "Frames or crops worked on together.", ("work",), buckets=_ROWS, registry=_REGISTRY
)
FACE_SECONDS: Final = Histogram(
    "facegate_face_batch_seconds", "Time of working on one batch of frames or crops.", ("work",), buckets=_SECONDS, registry=_REGISTRY
)
FACE_WAITING: Final = Gauge(
    "facegate_face_waiting_rows",
    "Frames or crops waiting at a replica.",
    ("deployment",),
    multiprocess_mode="livesum",
    registry=_REGISTRY,
)
COMMIT_ROWS: Final = Histogram("facegate_commit_decisions", "Decisions of one commit.", buckets=_ROWS, registry=_REGISTRY)
ALARMS: Final = Counter("facegate_alarms", "What must not be and needs a person, by code.", ("code",), registry=_REGISTRY)
JOBS: Final = Counter("facegate_jobs", "Queued work that ended, by kind and end.", ("kind", "end"), registry=_REGISTRY)


def configure_logging(level: str = "INFO", **always: str) -> None:
    """JSON lines on standard error, each with `always` (which deployment, which replica)."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        # Neither `sys.stderr` nor `print`: in a replica both are Ray Serve's, which drops what it gets, as INFO, where its own level is WARNING.
        logger_factory=structlog.WriteLoggerFactory(sys.__stderr__),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**always)


def logger() -> structlog.stdlib.BoundLogger:
    """The logger of this process: `logger().info("event", id=…)`."""
    bound: structlog.stdlib.BoundLogger = structlog.get_logger()
    return bound


@contextmanager
def step(name: str) -> Iterator[None]:
    """Time one step of a screening (`decode`, `classify`, `record`, `recall`) or of a transform (`probe`, `picture`)."""
    began = time.perf_counter()
    try:
        yield
    finally:
        STEPS.labels(name).observe(time.perf_counter() - began)


def decided(decision: Decision) -> None:
    """Count a committed decision and why its media was refused, if it was."""
    SCREENINGS.labels(str(decision.stage), str(decision.verdict), "yes" if decision.reused_from else "no").inc()
    for reason in decision.reasons:
        if reason.code == "media_refused":
            REFUSALS.labels(reason.detail or "").inc()


def fault(code: str) -> None:
    """Count a fault of ours."""
    FAULTS.labels(code).inc()


def alarm(code: str) -> None:
    """Count, and say in the log, what must not be: a released file that is not what was released, for one."""
    ALARMS.labels(code).inc()
    logger().error("alarm", code=code)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count one HTTP answer. `route` is the route's template, never the path itself; a client's own method is `other`."""
    REQUESTS.labels(method if method in _METHODS else "other", route, str(status)).observe(seconds)


def forward_pass(classifier: str, rows: int, seconds: float, waiting: int) -> None:
    """Count one forward pass of a classifier."""
    BATCH_ROWS.labels(classifier).observe(rows)
    BATCH_SECONDS.labels(classifier).observe(seconds)
    WAITING.labels(classifier).set(waiting)


def face_batch(work: str, rows: int, seconds: float) -> None:
    """Count one batch of `detect`, `prepare` or `swap`."""
    FACE_ROWS.labels(work).observe(rows)
    FACE_SECONDS.labels(work).observe(seconds)


def face_waiting(deployment: str, rows: int) -> None:
    """Note what waits at this replica."""
    FACE_WAITING.labels(deployment).set(rows)


def committed(decisions: int) -> None:
    """Count one commit."""
    COMMIT_ROWS.observe(decisions)


def job_ended(kind: str, end: str) -> None:
    """Count one piece of queued work: `done`, `failed`, `given_back`, `parked`, `stale`."""
    JOBS.labels(kind, end).inc()


def render() -> str:
    """Prometheus text over all processes of the machine that share the folder."""
    if prometheus_values.ValueClass is prometheus_values.MutexValue:
        return generate_latest(_REGISTRY).decode()
    registry = CollectorRegistry()
    collector = MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    forget_dead(Path(collector._path))  # noqa: SLF001  # the folder that it reads
    return generate_latest(registry).decode()


def forget_dead(folder: Path) -> None:
    """Remove the gauges of processes that are gone; counters and histograms keep counting for them."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            file.unlink(missing_ok=True)
