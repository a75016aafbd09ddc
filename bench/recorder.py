"""How many decisions a second the recorder commits, by itself: `python -m bench.recorder`.

Callers append as fast as they are answered; each decision has one classifier with five categories, its thresholds, its
entry, and is committed to an embedded Postgres with default durability before its caller goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from deployments.databases import upgrade_schema
from deployments.embedded_postgres import EmbeddedPostgres
from deployments.ids import new_id
from moderation.adapters.postgres import PostgresRecord
from moderation.decision import Decision, PolicyRef, Threshold, Verdict
from moderation.frames import Fit, InputSpec
from moderation.media import Facts, Media, MediaKind, Stage
from moderation.scores import ClassifierScores, ClassifierVersion, FrameScores

CATEGORIES: Final = ("sexual.nudity_explicit", "sexual.nudity_partial", "sexual.activity", "sexual.suggestive", "violence.graphic")
_CLASSIFIER: Final = ClassifierVersion(
    name="bench",
    version="1",
    digest="sha256:" + "1" * 64,
    mapping_digest="sha256:" + "2" * 64,
    categories=CATEGORIES,
    input=InputSpec(width=320, height=320, fit=Fit.LETTERBOX),
)
_POLICY: Final = PolicyRef(name="default", version=1, digest="sha256:" + "3" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderFigures:
    """`per_second` over the whole run; waits of a caller for its commit in milliseconds."""

    decisions: int
    seconds: float
    callers: int
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Committed decisions per second."""
        return self.decisions / self.seconds


def make_decision(tenant: UUID) -> Decision:
    """A decision about one picture that nobody has seen before."""
    noise = os.urandom(40)
    scores = {category: int.from_bytes(noise[32 + at : 34 + at], "big") * 3 for at, category in enumerate(CATEGORIES)}
    facts = Facts(type="image/jpeg", kind=MediaKind.IMAGE, width=1920, height=1080, frames=1, frames_declared=None)
    return Decision(
        id=new_id(),
        tenant=tenant,
        actor="k" * 20,
        stage=Stage.UPLOAD,
        media=Media(sha256=noise[:32].hex(), size=312_456, facts=facts),
        verdict=Verdict.ALLOW,
        reasons=(),
        thresholds=tuple(Threshold(category=c, classifier="bench", block_at=450_000, review_at=200_000) for c in CATEGORIES),
        sheets=(ClassifierScores(classifier=_CLASSIFIER, frames=(FrameScores(frame=0, time_us=None, scores=scores),)),),
        policy=_POLICY,
        plan_digest="sha256:" + "4" * 64,
        decoder="pillow-13.0.0",
        created_at=datetime.now(UTC),
        request_id=f"req_{noise[:16].hex()}",
    )


async def measure(record: PostgresRecord, *, tenants: Sequence[UUID], callers: int, decisions: int) -> RecorderFigures:
    """Let `callers` append so many decisions, spread over `tenants`, that were made before."""
    waits: list[float] = []
    made = [make_decision(tenants[number % len(tenants)]) for number in range(decisions)]
    gc.freeze()  # a service does not hold thousands of decisions while it records; walking over them is no work of the recorder's

    async def call(_number: int) -> None:
        while made:
            begun = time.perf_counter()
            await record.append(made.pop())
            waits.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*map(call, range(callers)))
    taken = time.perf_counter() - begun
    gc.unfreeze()
    waits.sort()
    return RecorderFigures(
        decisions=len(waits),
        seconds=taken,
        callers=callers,
        p50_ms=waits[len(waits) // 2] * 1000,
        p99_ms=waits[len(waits) * 99 // 100] * 1000,
    )


def measure_embedded(*, callers: int = 512, tenants: int = 4, decisions: int = 25_000) -> RecorderFigures:
    """The same on a Postgres of its own in a temporary folder, after a short warming up."""
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder))
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            record = PostgresRecord(urls.runtime)
            try:
                ids = [new_id() for _ in range(tenants)]
                asyncio.run(measure(record, tenants=ids, callers=callers, decisions=2_000))
                return asyncio.run(measure(record, tenants=ids, callers=callers, decisions=decisions))
            finally:
                record.close()
        finally:
            postgres.stop()


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=512)
    parser.add_argument("--tenants", type=int, default=4)
    parser.add_argument("--decisions", type=int, default=25_000)
    asked = parser.parse_args()
    figures = measure_embedded(callers=asked.callers, tenants=asked.tenants, decisions=asked.decisions)
    print(  # the result
        f"{figures.per_second:,.0f} committed decisions/s ({figures.callers} callers, {asked.tenants} tenants,"
        f" wait p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms)"
    )


if __name__ == "__main__":
    main()
