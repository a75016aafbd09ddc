"""How much of the source's identity a swap brings over, by an encoder that is not the swapper's: needs an encoder file.

Any ONNX face encoder that takes 1 x 3 x 112 x 112, RGB in [-1, 1], aligned as for ArcFace (arXiv 1801.07698), will do. The classical
swapper has no encoder of its own, so none can flatter it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.swap import known
from bench.table import Figure
from deployments.drawn_faces import PEOPLE, Pixels, Shot, draw, portrait
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper

SIDE: Final = 112
TEMPLATE: Final = np.array([(0.35473, 0.45659), (0.64527, 0.45659), (0.5, 0.61154), (0.37913, 0.77688), (0.62087, 0.77688)]) * SIDE


class Encoder:
    """Aligned faces in, unit vectors out."""

    def __init__(self, file: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def embed(self, pixels: Pixels, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """The face at these five points of an RGB frame."""
        matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE.astype(np.float32), method=cv2.LMEDS)
        crop = cv2.warpAffine(pixels, matrix, (SIDE, SIDE)).astype(np.float32)
        (vector,) = self._session.run(None, {self._input: ((crop / 255 - 0.5) / 0.5).transpose(2, 0, 1)[np.newaxis]})[0]
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


def measure(file: Path) -> list[Figure]:
    """Mean cosine of the result to its source and to its target, over every pair of faces."""
    encoder, swapper = Encoder(file), ClassicalSwapper()
    shots = [portrait(), *(draw(PEOPLE[name]) for name in ("ada", "bo", "dag"))]
    near, left, between = [], [], []
    for source in shots:
        learnt = _learn(source, swapper)
        for target in shots:
            if target is source:
                continue
            result = pipeline.change(target.pixels, [known(target)], learnt, swapper=swapper).frame
            ours, theirs = encoder.embed(target.pixels, target.points), encoder.embed(source.pixels, source.points)
            made = encoder.embed(result, target.points)
            near.append(float(made @ theirs))
            left.append(float(made @ ours))
            between.append(float(ours @ theirs))
    return [_figure("to source", near), _figure("to target", left), _figure("of source to target, for comparison", between)]


def _learn(source: Shot, swapper: ClassicalSwapper) -> pipeline.Source:
    face = known(source)
    crop, _ = pipeline.aligned(source.pixels, face, swapper)
    return pipeline.Source(face=face, identity=swapper.prepare([crop])[0])


def _figure(what: str, cosines: Sequence[float]) -> Figure:
    return Figure(name=f"identity: cosine {what}", value=statistics.mean(cosines), unit="", note=f"{len(cosines)} pairs")
