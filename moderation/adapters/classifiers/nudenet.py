"""NudeNet's small detector (320n, a YOLOv8 network), read straight from the wheel that carries it.

The wheel's own Python is never imported: it would bring OpenCV, choose its own threads and scan every one
of the 2,100 places of a picture in a Python loop. Which places are reported, and where, is the same as there
(`find_boxes`, compared in the tests). Scores differ on purpose: they are the maximum over all places, so they are
continuous and not cut at 0.2, and a class is not hidden by another one at the same place.

Pixels go in as RGB, as the network was trained. `NudeDetector.detect` given a file or bytes swaps red and blue
twice too few and feeds BGR; given an RGB array it feeds RGB.

Measured on one core: a batch of 4 is no faster per picture than four single ones and a batch of 8 is slower
(caches), so batches on a CPU are cut into groups of 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from moderation.adapters.classifiers.mapping import LabelMapping, shipped_mapping
from moderation.adapters.classifiers.model import CHANNELS, Device, check_output, check_pixels, member, one_line, sha256_digest
from moderation.errors import ClassifierFault, ModelUnusable
from moderation.frames import Box, Fit, InputSpec, Pixels
from moderation.scores import ClassifierVersion, Detection, InputScores

PACKAGE: Final = "nudenet"
FILE: Final = "320n.onnx"
SHA256: Final = "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"
"""Of `320n.onnx` in the wheel of nudenet 3.4.2."""
SIDE: Final = 320
PLACES: Final = 2100
"""Anchors of a 320 x 320 input: 40 x 40 + 20 x 20 + 10 x 10."""
LABELS: Final = (
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
)
COORDINATES: Final = 4
DETECTION_THRESHOLD: Final = 0.25
"""A place is reported when its best class scores more than this."""
OVERLAP_THRESHOLD: Final = 0.45
"""Of two places that overlap more than this (intersection over union), only the stronger is reported."""
PLACE_THRESHOLD: Final = 0.2
"""From here on a category's score comes with a place, if need be one that the detector's own selection hides."""
CPU_GROUP: Final = 4
CUDA_GROUP: Final = 64

INPUT: Final = InputSpec(width=SIDE, height=SIDE, fit=Fit.LETTERBOX)


@dataclass(frozen=True, slots=True)
class Found:
    """One place that the detector reports: index into LABELS, confidence, box in pixels of the input."""

    label: int
    score: float
    box: Box


class NudeNet:
    """The detector as a `Model`. Needs the extra `local` (AGPL-3.0, so never a hard dependency)."""

    def __init__(self, *, device: str = Device.AUTO, threads: int = 1, weights: bytes | None = None) -> None:
        """Load. `weights` replaces the wheel's file in tests only; `threads` is for one forward pass.

        Raises ModelUnusable when the wheel is not there, the file is not the pinned one, or the device is missing.
        """
        data = read_weights() if weights is None else weights
        mapping = shipped_mapping(PACKAGE)
        mapping.check_labels(LABELS)
        self._mapping = mapping
        self._session, provider, runtime = _session(data, device, threads)
        self._input = self._session.get_inputs()[0].name
        self._group = CUDA_GROUP if provider.startswith("CUDA") else CPU_GROUP
        self.version = ClassifierVersion(
            name=mapping.classifier,
            version=_package_version(),
            digest=sha256_digest(data),
            mapping_digest=mapping.digest,
            categories=mapping.categories,
            input=INPUT,
            calibrated=mapping.calibrated,
            runtime=f"{runtime} {provider} fp32",
        )

    def predict(self, pixels: Pixels) -> list[InputScores]:
        """See `Model.predict`. Detections are those of NudeNet itself, and the peak of each category that has none."""
        check_pixels(pixels, INPUT)
        answers: list[InputScores] = []
        for start in range(0, len(pixels), self._group):
            answers.extend(read_answers(self.forward(pixels[start : start + self._group]), self._mapping))
        return answers

    def forward(self, pixels: Pixels) -> NDArray[np.float32]:
        """The network's raw output, N x 22 x 2100: centre x, y, width, height in pixels, then 18 confidences."""
        blob = np.empty((len(pixels), CHANNELS, SIDE, SIDE), np.float32)
        np.multiply(pixels.transpose(0, 3, 1, 2), np.float32(1 / 255), out=blob)
        try:
            output: NDArray[np.float32] = self._session.run(None, {self._input: blob})[0]
        except Exception as error:  # the runtime's own exceptions have no common parent
            raise ClassifierFault(f"{PACKAGE}: {one_line(error)}") from error
        check_output(output, (len(pixels), COORDINATES + len(LABELS), PLACES), PACKAGE)
        return output


def wheel_file() -> Path | None:
    """The model file in the installed wheel, found without importing the wheel; None when it is not installed."""
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    return next((Path(folder) / FILE for folder in folders or () if (Path(folder) / FILE).is_file()), None)


def read_weights() -> bytes:
    """The pinned bytes. Raises ModelUnusable."""
    path = wheel_file()
    if path is None:
        raise ModelUnusable(
            "nudenet is not installed; install the extra `local` (pip install 'facegate[local]'), whose licence is AGPL-3.0"
        )
    data = path.read_bytes()
    if sha256_digest(data) != f"sha256:{SHA256}":
        raise ModelUnusable(f"nudenet: {FILE} is not the pinned file; install nudenet 3.4.2 anew")
    return data


def read_answers(output: NDArray[np.float32], mapping: LabelMapping) -> list[InputScores]:
    """Scores and detections for each picture of a raw output (N x 22 x 2100)."""
    peaks = output[:, COORDINATES:].max(axis=2)
    scores = mapping.scores(LABELS, peaks)
    return [
        InputScores(scores=row, detections=_detections(picture, peak, mapping))
        for row, picture, peak in zip(scores, output, peaks, strict=True)
    ]


def find_boxes(picture: NDArray[np.float32]) -> list[Found]:
    """The places that NudeNet reports for one raw output (22 x 2100), strongest first.

    Each place counts for its best class only, and a stronger place silences those that overlap it, of whatever class.
    """
    confidences = picture[COORDINATES:]
    best = confidences.max(axis=0)
    places = np.flatnonzero(best > DETECTION_THRESHOLD)
    places = places[np.argsort(-best[places], kind="stable")]
    boxes = _boxes(picture[:COORDINATES, places])
    labels = confidences[:, places].argmax(axis=0)
    return [Found(int(labels[i]), float(best[places[i]]), _whole(boxes[i])) for i in _without_overlaps(boxes)]


def _detections(picture: NDArray[np.float32], peak: NDArray[np.float32], mapping: LabelMapping) -> tuple[Detection, ...]:
    found = find_boxes(picture)
    shown = {mapping.labels[LABELS[one.label]].category for one in found if LABELS[one.label] in mapping.labels}
    for label, name in enumerate(LABELS):
        if peak[label] >= PLACE_THRESHOLD and name in mapping.labels and mapping.labels[name].category not in shown:
            place = int(picture[COORDINATES + label].argmax())
            found.append(Found(label, float(peak[label]), _whole(_boxes(picture[:COORDINATES, [place]])[0])))
    kept = (_detection(one, mapping) for one in found if LABELS[one.label] in mapping.labels)
    return tuple(sorted(kept, key=lambda one: -one.score))


def _detection(found: Found, mapping: LabelMapping) -> Detection:
    name = LABELS[found.label]
    rule = mapping.labels[name]
    (score,) = mapping.label_scores(name, np.array([found.score]))
    return Detection(label=name, category=rule.category, score=score, box=found.box, detail=rule.detail)


def _boxes(coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Left, top, width, height (K x 4), cut to the input in NudeNet's way: a box that begins outside keeps its width."""
    x, y, width, height = coordinates
    left = np.clip(x - width / 2, 0, SIDE)
    top = np.clip(y - height / 2, 0, SIDE)
    return np.stack([left, top, np.minimum(width, SIDE - left), np.minimum(height, SIDE - top)], axis=1)


def _whole(box: NDArray[np.float32]) -> Box:
    left, top, width, height = (int(value) for value in box)
    return (left, top, width, height)


def _without_overlaps(boxes: NDArray[np.float32]) -> list[int]:
    """Greedy suppression over boxes in order of strength."""
    left, top = boxes[:, 0], boxes[:, 1]
    right, bottom, area = left + boxes[:, 2], top + boxes[:, 3], boxes[:, 2] * boxes[:, 3]
    kept: list[int] = []
    open_ = np.ones(len(boxes), bool)
    for index in range(len(boxes)):
        if not open_[index]:
            continue
        kept.append(index)
        across = np.minimum(right, right[index]) - np.maximum(left, left[index])
        down = np.minimum(bottom, bottom[index]) - np.maximum(top, top[index])
        shared = np.maximum(across, 0) * np.maximum(down, 0)
        open_ &= shared <= OVERLAP_THRESHOLD * (area + area[index] - shared)
    return kept


def _session(data: bytes, device: str, threads: int) -> tuple[Any, str, str]:
    """An onnxruntime session, its provider in a word, and the runtime's version."""
    import onnxruntime  # noqa: PLC0415  # only where this model runs

    there = onnxruntime.get_available_providers()
    wanted = member(Device, device)
    if wanted == Device.CUDA and "CUDAExecutionProvider" not in there:
        raise ModelUnusable("nudenet: device cuda needs onnxruntime-gpu")
    on_gpu = wanted != Device.CPU and "CUDAExecutionProvider" in there
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the core to neighbours
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        raise ModelUnusable(f"nudenet: {one_line(error)}") from error
    return session, session.get_providers()[0].removesuffix("ExecutionProvider"), f"onnxruntime {onnxruntime.__version__}"


def _package_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"
