"""`python -m bench`: every figure of docs/performance.md, in one run on this machine, each part shown as soon as it is measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Final

import cv2

from bench import evasion, filming, gate, identity, movie, plain, recorder, reports, sealing, swap, verify, video
from bench.load import Result, closed_loop
from bench.pictures import stream
from bench.recording import ListLog, ThreadClassifier, rate
from bench.service import memory_mb
from bench.table import Figure, median_ratio, show
from deployments.databases import upgrade_schema
from deployments.embedded_postgres import EmbeddedPostgres
from deployments.ids import new_id
from deployments.trial_service import TrialService, trial_service
from face_pipeline.detector import FrontalCascade
from moderation.adapters.decode import ChildDecoder
from moderation.adapters.postgres import PostgresRecord

CLIENTS = 16
BASE_PICTURES = 24
_LEAVES = 500_000
"""Of the log that is exported and checked."""


def main() -> None:
    """Measure everything, or what is named; exit with 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of measurements; the median of their ratios is shown")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one measurement")
    parser.add_argument("--encoder", type=Path, help="an ONNX face encoder: how much identity a swap brings over is reported too")
    parser.add_argument("what", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--rows", type=int, default=200_000, help="decisions of the year that reports are asked about")
    asked = parser.parse_args()
    parts = {name: PARTS[name] for name in asked.what or PARTS}
    if asked.encoder is not None:
        parts["identity"] = lambda asked: identity.measure(asked.encoder)
    failed = measure(parts, asked)
    if failed:
        sys.exit("\n".join(f"{name} failed: {fault!r}" for name, fault in failed.items()))


Part = Callable[[argparse.Namespace], Sequence[Figure]]


def measure(parts: Mapping[str, Part], asked: argparse.Namespace) -> dict[str, Exception]:
    """Show the figures of each part once it is done. Those that failed, and why: they keep nothing from the others."""
    failed = {}
    for name, part in parts.items():
        try:
            show(part(asked), part=name)
        except Exception as fault:  # noqa: BLE001  # what the other parts take hours for is not thrown away
            failed[name] = fault
            print(f"{name} failed: {fault!r}", flush=True)
            traceback.print_exc()
    return failed


PARTS: Final[Mapping[str, Part]] = {
    "http": lambda asked: http_figures(asked.rounds, asked.seconds),
    "recording": lambda asked: asyncio.run(recording_figures(asked.rounds, asked.seconds)),
    "recorder": lambda _: [recorder_figure()],
    "swap": lambda _: swap.measure(),
    "gate": lambda _: gate.figures(),
    "filming": lambda asked: asyncio.run(filming.measure(max(1, round(asked.seconds)))),
    "seal": lambda asked: sealing.figures(12 * asked.seconds, asked.rounds),
    "verify": lambda _: verify.figures(_LEAVES),
    "video": lambda asked: video.figures(asked.rounds),
    "movie": lambda _: movie.measure(FrontalCascade()),
    "evasion": lambda _: evasion.figures(),
    "reports": lambda asked: reports.measure(asked.rows),
}


def recorder_figure() -> Figure:
    """How much is committed with nothing else to do."""
    alone = recorder.measure_embedded()
    note = f"{alone.callers} callers, 4 tenants"
    return Figure(name="recorder alone", value=alone.per_second, unit="decisions/s", wanted=">= 5000", note=note)


def http_figures(rounds: int, seconds: float) -> list[Figure]:
    """The service over HTTP against plain loops, in turns."""
    pictures = list(islice(stream(1), BASE_PICTURES))
    fresh = stream(1)  # the same pictures, each time as another file
    with trial_service() as service:
        time.sleep(3)  # let the start settle before memory is read
        idle_mb = memory_mb(service.pid)
        _load(service, fresh, CLIENTS, 3.0)  # warm
        http, bare, detect, one, loop, again, new = [], [], [], [], [], [], []
        for number in range(rounds):
            http.append(_load(service, fresh, CLIENTS, seconds))
            bare.append(plain.plain_rate(pictures, seconds))
            detect.append(plain.nudenet_rate(pictures, seconds))
            one.append(_load(service, fresh, 1, seconds / 2).quantile(0.5))
            loop.append(plain.loop_latency(pictures, seconds / 2))
            repeated = list(islice(stream(100 + number), BASE_PICTURES))
            _load(service, iter(repeated), 1, 60.0, stop_at_end=True)  # every picture once, so that all are known
            again.append(_load(service, cycle(repeated), CLIENTS, seconds / 2).per_second)
            new.append(_load(service, fresh, CLIENTS, seconds / 2).per_second)
        ready_s = service.ready_s
    rates = [result.per_second for result in http]
    faults = sum(count for result in http for status, count in result.statuses.items() if status != 200)
    return [
        Figure(
            name="pictures through HTTP", value=median(rates), unit="/s", note=f"{CLIENTS} clients, 800x600 and 1920x1080, all different"
        ),
        Figure(name="answers other than 200", value=faults, unit="", wanted="<= 0"),
        Figure(name="plain processes", value=median(bare), unit="/s", note="one a core, one thread each, scaled decode"),
        Figure(name="NudeDetector.detect loop", value=median(detect), unit="/s", note="its own default threads"),
        Figure(name="HTTP over plain processes", value=median_ratio(rates, bare), unit="x", wanted=">= 0.75"),
        Figure(name="HTTP over NudeDetector.detect", value=median_ratio(rates, detect), unit="x", wanted=">= 1.5"),
        Figure(name="latency at one client, p50", value=median(one) * 1000, unit="ms"),
        Figure(
            name="latency over the plain loop", value=median_ratio(one, loop), unit="x", wanted="<= 1.7", note="one process, one thread"
        ),
        Figure(name="latency at 16 clients, p99", value=median(r.quantile(0.99) for r in http) * 1000, unit="ms"),
        Figure(name="repeated bytes through HTTP", value=median(again), unit="/s"),
        Figure(name="repeated over new", value=median_ratio(again, new), unit="x", wanted=">= 5"),
        Figure(name="start to ready", value=ready_s, unit="s", wanted="<= 45"),
        Figure(name="idle memory of everything", value=idle_mb, unit="MB", wanted="<= 2500", note="proportional set size"),
    ]


def _load(service: TrialService, bodies: Iterator[bytes], clients: int, seconds: float, *, stop_at_end: bool = False) -> Result:
    return asyncio.run(
        closed_loop(
            host="127.0.0.1",
            port=service.port,
            path="/v1/screenings",
            key=service.key,
            bodies=bodies,
            clients=clients,
            seconds=seconds,
            stop_at_end=stop_at_end,
        )
    )


async def recording_figures(rounds: int, seconds: float) -> list[Figure]:
    """The same screener in one process, over Postgres and over a list, in turns."""
    fresh, tenant = stream(3), new_id()
    decoder, classifier = ChildDecoder(children=2), ThreadClassifier([plain.classifier(), plain.classifier()])
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder))
        urls = postgres.start()
        try:
            upgrade_schema(urls.owner)
            record, nothing = PostgresRecord(urls.runtime), ListLog()
            await decoder.start()
            try:
                await rate(record, record, decoder, classifier, fresh, tenant, 2.0)
                kept, listed = [], []
                for _ in range(rounds):
                    kept.append(await rate(record, record, decoder, classifier, fresh, tenant, seconds))
                    listed.append(await rate(nothing, nothing, decoder, classifier, fresh, tenant, seconds))
            finally:
                await decoder.close()
                record.close()
        finally:
            postgres.stop()
    return [
        Figure(name="screener over Postgres", value=median(kept), unit="/s", note="in process, 16 at once"),
        Figure(name="screener over a list", value=median(listed), unit="/s"),
        Figure(name="Postgres over a list", value=median_ratio(kept, listed), unit="x", wanted=">= 0.95"),
    ]


if __name__ == "__main__":
    cv2.setNumThreads(1)  # as replicas do; some parts do it themselves, and none is to depend on which others were asked for
    main()
