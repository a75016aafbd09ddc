"""What Ray Serve runs. The classes know nothing of Ray: they get settings and handles, and tests make them by hand."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from deployments import telemetry
from deployments.batcher import MicroBatcher
from deployments.handles import HandleClassifier, OtherVersion, fingerprint, stacked
from deployments.settings import load_settings
from moderation.adapters.classifiers import load
from moderation.errors import ClassifierUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from fastapi import FastAPI
    from numpy.typing import NDArray

    from deployments.face_handles import FaceRefs
    from deployments.settings import Settings
    from deployments.wiring import Wired
    from moderation.scores import ClassifierVersion, InputScores
    from moderation.shadow import Find

CPU_BATCH: Final = 4
"""On a CPU a larger batch is no faster, and makes the first of it wait for the last."""
GPU_BATCH: Final = 64
CLASSIFIER_START_S: Final = 300.0
MESSAGES_PER_REPLICA: Final = 2
"""One that it works on, one that it finds waiting."""


class ClassifierRef(NamedTuple):
    """A classifier as `Api` and `TransformWorker` are given it."""

    handle: Any
    """A `ClassifierHandle`; an application until Ray Serve has made a handle of it."""
    replicas: int
    on_gpu: bool


class NsfwClassifier:
    """One classifier with its micro-batcher. Called through `HandleClassifier`."""

    def __init__(self, spec: str, *, on_gpu: bool = False) -> None:
        settings = load_settings()
        telemetry.configure_logging(settings.log_level, deployment="NsfwClassifier", classifier=spec)
        model = load(
            spec,
            models_dir=settings.models,
            device=settings.device,
            threads=settings.classifier_threads,
            precision=settings.precision,
        )
        self._version = model.version
        self._fingerprint = fingerprint(model.version)
        self._timeout_s = settings.classify_timeout_s
        self._wedged_after_s = settings.wedged_after_s
        # The first pass is the slowest, and shows whether the model works at all: before anybody waits for it.
        size = model.version.input
        model.predict(np.zeros((1, size.height, size.width, 3), np.uint8))
        self._batcher: MicroBatcher[NDArray[np.uint8], InputScores] = MicroBatcher(
            lambda rows: model.predict(stacked(rows)),
            name=model.version.name,
            max_batch=_batch(settings, on_gpu=on_gpu),
            max_waiting=settings.max_waiting,
            alike=lambda row: row.shape,
            observe=self._observe,
        )

    async def describe(self) -> ClassifierVersion:
        """Exactly which classifier this replica runs."""
        return self._version

    async def classify(self, pixels: NDArray[np.uint8], wanted: str) -> list[InputScores | Exception]:
        """For each row of `pixels` (N x H x W x 3, RGB) its scores or its fault, if this is the classifier that is wanted.

        Raises OtherVersion, Overloaded, ClassifierUnavailable.
        """
        if wanted != self._fingerprint:
            raise OtherVersion(f"this replica runs {self._fingerprint}")
        return await self._batcher.submit(list(pixels), timeout_s=self._timeout_s)

    async def check_health(self) -> None:
        """Raise when a forward pass does not come back: Ray Serve then replaces this replica."""
        age = self._batcher.running_for_s
        if age > self._wedged_after_s:
            raise ClassifierUnavailable(f"{self._version.name}: a forward pass runs for {age:.0f} s")

    def _observe(self, rows: Sequence[object], seconds: float) -> None:
        telemetry.forward_pass(self._version.name, len(rows), seconds, self._batcher.waiting)


class Api:
    """The front: HTTP, decoding, policy, record. Ray Serve asks it for its ASGI application."""

    def __init__(
        self,
        *classifiers: ClassifierRef,
        worker: object = None,  # noqa: ARG002  # bound, so that it runs
        swappers: tuple[str, ...] = (),
        shadows: Mapping[str, ClassifierRef] = MappingProxyType({}),
    ) -> None:
        self._classifiers = classifiers
        self._shadows = shadows
        self._swappers = frozenset(swappers)
        self._wired: Wired | None = None
        self._application: FastAPI | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:  # Ray Serve's name for it
        """Connect to everything, then make the application."""
        from deployments.http_api import create_api  # noqa: PLC0415  # only this replica needs it
        from deployments.wiring import wire  # noqa: PLC0415

        settings = load_settings()
        telemetry.configure_logging(settings.log_level, deployment="Api")
        classifiers = await _connect(self._classifiers, settings)
        shadows = {name: _late(ref, settings) for name, ref in self._shadows.items()}
        self._wired = await wire(settings, classifiers, behind_ray=True, swappers=self._swappers, shadows=shadows)
        self._application = create_api(self._wired.gateway)
        return self._application

    async def check_health(self) -> None:
        """Raise when this replica can do nothing useful any more; a database that is away is no such reason."""
        if self._wired is not None:
            self._wired.check()

    async def __del__(self) -> None:  # Ray Serve awaits it
        """Let screenings that outlived their requests come to their commit, then stop decode children and connections."""
        if self._application is not None:
            await self._application.state.screenings.drain()
        if self._wired is not None:
            await self._wired.close()


class TransformWorker:
    """Takes durable work off the queue and does it, until stopped."""

    def __init__(
        self, *classifiers: ClassifierRef, faces: FaceRefs | None = None, shadows: Mapping[str, ClassifierRef] = MappingProxyType({})
    ) -> None:
        self._classifiers = classifiers
        self._shadows = shadows
        self._faces = faces
        self._running = asyncio.create_task(self._run())

    async def check_health(self) -> None:
        """Raise when the loop has ended: Ray Serve then starts another worker."""
        if self._running.done():
            self._running.result()
            raise RuntimeError("the worker's loop has ended")

    async def _run(self) -> None:
        from deployments.face_handles import connect_faces  # noqa: PLC0415
        from deployments.wiring import wire_worker  # noqa: PLC0415

        settings = load_settings()
        telemetry.configure_logging(settings.log_level, deployment="TransformWorker")
        classifiers = await _connect(self._classifiers, settings)
        faces = None if self._faces is None else await connect_faces(self._faces, settings)
        worker = await wire_worker(
            settings, classifiers, faces, shadows={name: _late(ref, settings) for name, ref in self._shadows.items()}
        )
        try:
            await worker.run()
        finally:
            await worker.close()

    async def __del__(self) -> None:  # Ray Serve awaits it
        """Give the work in hand back, so that another takes it at once."""
        self._running.cancel()
        await asyncio.wait([self._running], timeout=5)


async def _connect(classifiers: tuple[ClassifierRef, ...], settings: Settings) -> tuple[HandleClassifier, ...]:
    """Ask all classifiers who they are; they load side by side with this replica."""
    return tuple(await asyncio.gather(*(_connected(classifier, settings, CLASSIFIER_START_S) for classifier in classifiers)))


def _connected(classifier: ClassifierRef, settings: Settings, start_s: float) -> Awaitable[HandleClassifier]:
    return HandleClassifier.connect(
        classifier.handle,
        timeout_s=settings.classify_timeout_s,
        start_timeout_s=start_s,
        in_flight=MESSAGES_PER_REPLICA * classifier.replicas,
        rows=_batch(settings, on_gpu=classifier.on_gpu),
    )


def _late(classifier: ClassifierRef, settings: Settings) -> Find:
    """Connects when it is first asked for, and again until it answers: nobody's start waits for a shadow classifier."""
    known: list[HandleClassifier] = []

    async def find() -> HandleClassifier:
        if not known:
            known.append(await _connected(classifier, settings, settings.classify_timeout_s))
        return known[0]

    return find


def _batch(settings: Settings, *, on_gpu: bool) -> int:
    return settings.max_batch or (GPU_BATCH if on_gpu else CPU_BATCH)
