"""The face pipeline's replicas: a detector and a swapper, each behind a micro-batcher. Called through `face_handles`.

As the other replicas they know nothing of Ray. What travels is small: frames as large as the detector looks at them, aligned
crops and what the swapper knows of a source; original files and full frames stay with the worker.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import cv2
import numpy as np

from deployments import telemetry
from deployments.batcher import MicroBatcher
from deployments.faults import FACES
from deployments.settings import load_settings
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import YUNET_FILE, FrontalCascade, YuNet
from face_pipeline.errors import DetectorUnavailable, PipelineUnavailable
from face_pipeline.geometry import template
from face_pipeline.swapper import AlignedCrop, CropSizes, Identity, Limits, SwappedCrop, Swapper, SwapTask
from moderation.adapters.classifiers.registry import find_known, model_folder
from moderation.errors import ModelUnusable

if TYPE_CHECKING:
    from pathlib import Path

    from face_pipeline.detector import Detector
    from face_pipeline.faces import Face, Frame

CPU_BATCH: Final = 4
GPU_BATCH: Final = 32
MAX_WAITING: Final = 512
"""Frames or crops in the queue of one replica. Their bytes are bounded by its messages (`FaceArgs.ongoing`), each of 4 MB at most."""
YUNET: Final = "yunet"
_WARM_PX: Final = 128


class OtherFaceService(PipelineUnavailable):
    """The replica runs another detector or swapper than the caller believes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorVersion:
    """What a `FaceAnalyzer` says of itself: the properties of `face_pipeline.detector.Detector`."""

    name: str
    version: str
    max_side: int
    is_frontal_only: bool

    @property
    def fingerprint(self) -> str:
        """What a caller and a replica must agree on."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapperVersion:
    """What a `FaceSwapper` says of itself: the properties of `face_pipeline.swapper.Swapper`, the crops' sizes as a value."""

    name: str
    version: str
    is_trained: bool
    limits: Limits
    crop_sizes: CropSizes

    @property
    def fingerprint(self) -> str:
        """What a caller and a replica must agree on: an identity is only good for the swapper that made it."""
        return f"{self.name} {self.version}"


class FaceAnalyzer:
    """Finds faces in frames that are already as small as the detector looks at them."""

    def __init__(self) -> None:
        settings = load_settings()
        telemetry.configure_logging(settings.log_level, deployment="FaceAnalyzer")
        cv2.setNumThreads(1)
        detector = load_detector(settings.face_detector, settings.models)
        self._version = DetectorVersion(
            name=detector.name, version=detector.version, max_side=detector.max_side, is_frontal_only=detector.is_frontal_only
        )
        detector.detect([np.zeros((_WARM_PX, _WARM_PX, 3), np.uint8)])  # the first is the slowest, and shows whether it works at all
        self._timeout_s, self._wedged_after_s = settings.face_timeout_s, settings.wedged_after_s
        self._batcher: MicroBatcher[Frame, tuple[Face, ...]] = MicroBatcher(
            detector.detect, name="face detector", max_batch=CPU_BATCH, max_waiting=MAX_WAITING, faults=FACES, observe=self._observe
        )

    async def describe(self) -> DetectorVersion:
        """Exactly which detector this replica runs."""
        return self._version

    async def detect(self, frames: list[Frame], wanted: str) -> list[tuple[Face, ...] | Exception]:
        """For each frame its faces, or its SwapFault. Raises OtherFaceService, PipelineUnavailable."""
        _agree(self._version.fingerprint, wanted)
        return await self._batcher.submit(frames, timeout_s=self._timeout_s)

    async def check_health(self) -> None:
        """Raise when a batch does not come back: Ray Serve then replaces this replica."""
        _check_not_wedged(self._batcher, self._version.name, self._wedged_after_s)

    def _observe(self, rows: Sequence[object], seconds: float) -> None:
        telemetry.face_batch("detect", len(rows), seconds)
        telemetry.face_waiting("FaceAnalyzer", self._batcher.waiting)


class FaceSwapper:
    """Learns source faces and puts them into crops of targets. `spec` says which swapper; see `load_swapper`."""

    def __init__(self, spec: str, *, on_gpu: bool = False) -> None:
        settings = load_settings()
        telemetry.configure_logging(settings.log_level, deployment="FaceSwapper", swapper=spec)
        cv2.setNumThreads(1)
        swapper = load_swapper(spec)
        self._version = SwapperVersion(
            name=swapper.name,
            version=swapper.version,
            is_trained=swapper.is_trained,
            limits=swapper.limits,
            crop_sizes=swapper.crop_sizes,
        )
        self._swapper = swapper
        self._warm_up()
        # Both kinds of work on one thread: a swapper is called by one at a time.
        self._timeout_s, self._wedged_after_s = settings.face_timeout_s, settings.wedged_after_s
        self._batcher: MicroBatcher[AlignedCrop | SwapTask, Identity | SwappedCrop] = MicroBatcher(
            self._do,
            name="swapper",
            max_batch=GPU_BATCH if on_gpu else CPU_BATCH,
            max_waiting=MAX_WAITING,
            alike=_kind,
            faults=FACES,
            observe=self._observe,
        )

    async def describe(self) -> SwapperVersion:
        """Exactly which swapper this replica runs."""
        return self._version

    async def prepare(self, sources: list[AlignedCrop], wanted: str) -> list[Identity | Exception]:
        """For each source its identity, or its SwapFault. Raises OtherFaceService, PipelineUnavailable."""
        _agree(self._version.fingerprint, wanted)
        return cast("list[Identity | Exception]", await self._batcher.submit(sources, timeout_s=self._timeout_s))

    async def swap(self, tasks: list[SwapTask], wanted: str) -> list[SwappedCrop | Exception]:
        """For each task its crop, or its SwapFault. Raises OtherFaceService, PipelineUnavailable."""
        _agree(self._version.fingerprint, wanted)
        return cast("list[SwappedCrop | Exception]", await self._batcher.submit(tasks, timeout_s=self._timeout_s))

    async def check_health(self) -> None:
        """Raise when a batch does not come back: Ray Serve then replaces this replica."""
        _check_not_wedged(self._batcher, self._version.name, self._wedged_after_s)

    def _observe(self, rows: Sequence[AlignedCrop | SwapTask], seconds: float) -> None:
        telemetry.face_batch(_kind(rows[0]), len(rows), seconds)
        telemetry.face_waiting("FaceSwapper", self._batcher.waiting)

    def _do(self, rows: Sequence[AlignedCrop | SwapTask]) -> Sequence[Identity | SwappedCrop]:
        if _kind(rows[0]) == "prepare":
            return self._swapper.prepare(cast("Sequence[AlignedCrop]", rows))
        return self._swapper.swap(cast("Sequence[SwapTask]", rows))

    def _warm_up(self) -> None:
        side = self._version.crop_sizes.least
        pixels = np.full((side, side, 3), 128, np.uint8)
        crop = AlignedCrop(pixels=pixels, points=tuple((float(x), float(y)) for x, y in template(5, side)), yaw=0.0)
        self._swapper.swap([SwapTask(target=crop, identity=self._swapper.prepare([crop])[0])])


def _kind(row: AlignedCrop | SwapTask) -> str:
    return "prepare" if isinstance(row, AlignedCrop) else "swap"


def _agree(fingerprint: str, wanted: str) -> None:
    if wanted != fingerprint:
        raise OtherFaceService(f"this replica runs {fingerprint}")


def _check_not_wedged(batcher: MicroBatcher[Any, Any], name: str, after_s: float) -> None:
    age = batcher.running_for_s
    if age > after_s:
        raise PipelineUnavailable(f"{name}: a batch runs for {age:.0f} s")


# --- what a replica is made of ------------------------------------------------------------------------


class ServedSwapper(Swapper, Protocol):
    """A swapper whose crop sizes are a value, so that whoever cuts the crops need not ask for each."""

    @property
    def crop_sizes(self) -> CropSizes:
        """What `crop_px` goes by."""
        ...


SWAPPERS: Final[Mapping[str, Callable[[], ServedSwapper]]] = {"classical": ClassicalSwapper}
"""By spec. One with weights will be made from `kind:folder`."""


def load_swapper(spec: str) -> ServedSwapper:
    """The swapper of this spec. Raises ModelUnusable."""
    if spec not in SWAPPERS:
        raise ModelUnusable(f"{spec!r} is no swapper; known: {', '.join(SWAPPERS)}")
    return SWAPPERS[spec]()


def load_detector(choice: str, models_dir: Path) -> Detector:
    """The detector of this choice: `yunet`, `fallback`, or `auto`, which is YuNet where its model file is.

    A file that is there and is not the pinned one is refused, never passed over. Raises ModelRefused, DetectorUnavailable.
    """
    file = yunet_file(models_dir)
    if choice == "yunet" and not file.is_file():
        raise DetectorUnavailable(YUNET, f"{file.name} is not in {models_dir}: facegate models pull {YUNET}")
    return YuNet.from_file(file) if choice == "yunet" or (choice == "auto" and file.is_file()) else FrontalCascade()


def yunet_file(models_dir: Path) -> Path:
    """Where `facegate models pull yunet` puts it; a copy put there by hand does as well, for its bytes are checked when it is opened."""
    known = find_known(YUNET)
    if known is None:
        raise AssertionError("the registry lost YuNet")
    return model_folder(models_dir, known.name, known.revision) / YUNET_FILE


def detector_here(choice: str, models_dir: Path) -> str | None:
    """Which detector `load_detector` would make on this machine; None where there is none. Opens nothing."""
    if choice != "fallback" and yunet_file(models_dir).is_file():
        return YuNet.name
    return FrontalCascade.name if choice != "yunet" and importlib.util.find_spec("skimage") else None
