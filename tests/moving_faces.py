"""Short clips of one drawn face, or two, that move; where they are in every frame is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.swap import known
from deployments.drawn_faces import PEOPLE, Shot, draw
from face_pipeline.faces import Face, Frame
from face_pipeline.geometry import transform
from face_pipeline.swapper import AlignedCrop, Identity, Limits, SwappedCrop, SwapTask

FPS: Final = 25
WIDTH, HEIGHT = 320, 240
EYES_PX: Final = 30.0
_HEAD: Final = 150  # pixels a side of the part of the drawing that moves

Path = Callable[[int], tuple[float, float]]
"""Where the middle of a face is in a frame."""


@dataclass
class ToldByFrame:
    """A detector that answers what it was told about each frame, and counts how often it was asked."""

    answers: Mapping[int, tuple[Face, ...]]
    name: str = "told"
    version: str = "1"
    max_side: int = 4096
    is_frontal_only: bool = False
    asked: list[int] = field(default_factory=list)

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        self.asked += [id(frame) for frame in frames]
        return [self.answers.get(id(frame), ()) for frame in frames]


LIMITS: Final = Limits(min_source_px=20, min_target_px=20, max_yaw=30, max_pitch=60)


@dataclass
class Painter:
    """A swapper that paints the face in one colour, as quick as can be, or changes nothing; with the rest it breaks its contract."""

    colour: int | None = 255
    side: int = 64
    confidence: float = 1.0
    answers: int | None = None
    batches: list[int] = field(default_factory=list)
    name: str = "painter"
    version: str = "1"
    is_trained: bool = False
    limits: Limits = LIMITS

    def crop_px(self, natural_px: float) -> int:  # noqa: ARG002
        return 64

    def prepare(self, sources: Sequence[AlignedCrop]) -> list[Identity]:
        return [Identity(swapper=self.name, value=None) for _ in sources]

    def swap(self, tasks: Sequence[SwapTask]) -> list[SwappedCrop]:
        self.batches.append(len(tasks))
        mask = np.zeros((self.side, self.side), np.uint8)
        mask[16:56, 14:50] = 0 if self.colour is None else 255
        pixels = np.full((self.side, self.side, 3), self.colour or 0, np.uint8)
        return [SwappedCrop(pixels=pixels, mask=mask, confidence=self.confidence) for _ in tasks][: self.answers]


@dataclass(frozen=True)
class Clip:
    """Frames, and every face in each of them."""

    frames: tuple[Frame, ...]
    faces: tuple[tuple[Face, ...], ...]

    def detector(self, *, missing: Sequence[int] = (), noise_px: float = 0, turned: Sequence[int] = ()) -> ToldByFrame:
        """One that sees them all, but for some frames; its points off by `noise_px`; some faces turned away by 45 degrees."""
        rng = np.random.default_rng(5)
        answers = {}
        for at, (frame, faces) in enumerate(zip(self.frames, self.faces, strict=True)):
            seen = tuple(off(face, rng.normal(0, noise_px, (5, 2))) for face in faces) if at not in missing else ()
            answers[id(frame)] = tuple(turned_away(face) for face in seen) if at in turned else seen
        return ToldByFrame(answers)


def off(face: Face, by: np.ndarray) -> Face:
    points = face.array() + by
    left, top = np.array([face.left, face.top]) + by.mean(axis=0)
    return Face(left=left, top=top, width=face.width, height=face.height, points=tuple(map(tuple, points.tolist())), score=1.0)


def turned_away(face: Face) -> Face:
    """With the nose at one eye: a profile."""
    points = face.array()
    points[2, 0] = points[1, 0]
    return off(face, points - face.array())


@cache
def head(person: str) -> Shot:
    return draw(PEOPLE[person], side=_HEAD, eyes_px=EYES_PX)


@cache
def background(seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return np.clip(cv2.resize(colours, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def clip(paths: Mapping[str, Path], frames: int, *, scene: int = 1, grain: float = 2.0) -> Clip:
    """These people, each on a path of its own (pixels), `frames` frames long, before one background."""
    rng = np.random.default_rng(scene)
    made, faces = [], []
    for at in range(frames):
        frame = background(scene).astype(np.float32)
        found = []
        for person, path in paths.items():
            shot = head(person)
            x, y = path(at)
            move = np.array([(1, 0, x - _HEAD / 2), (0, 1, y - _HEAD / 2)], np.float64)
            alpha = cv2.warpAffine(_alpha(), move, (WIDTH, HEIGHT))[..., None]
            frame += (cv2.warpAffine(shot.pixels, move, (WIDTH, HEIGHT)) - frame) * alpha
            found.append(known(Shot(pixels=shot.pixels, points=transform(shot.points.astype(np.float64), move).astype(np.float32))))
        noisy = frame + rng.normal(0, grain, (HEIGHT, WIDTH, 1))
        made.append(np.clip(noisy, 0, 255).astype(np.uint8))
        faces.append(tuple(found))
    return Clip(tuple(made), tuple(faces))


def joined(*clips: Clip) -> Clip:
    return Clip(tuple(frame for part in clips for frame in part.frames), tuple(face for part in clips for face in part.faces))


@cache
def _alpha() -> NDArray[np.float32]:
    """1 around the head, falling to 0, so that it does not carry its own background along."""
    y, x = np.mgrid[0:_HEAD, 0:_HEAD] / _HEAD - 0.5
    return np.asarray(np.clip((0.46 - np.hypot(x * 1.25, y)) / 0.08, 0, 1), np.float32)
