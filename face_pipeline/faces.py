"""A found face, and which of several faces is meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from face_pipeline import geometry

Frame = NDArray[np.uint8]  # RGB, height x width x 3
EYES: Final = 2
FIVE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One face in one frame, in the pixels of that frame."""

    left: float
    top: float
    width: float
    height: float
    points: tuple[tuple[float, float], ...]
    """Five points (the eye at the picture's left, the other eye, nose tip, mouth corners likewise) or only the two eyes."""
    score: float
    """The detector's own confidence, 0 to 1; not comparable between detectors."""
    embedding: tuple[float, ...] | None = None
    """Unit vector of an identity encoder, where one ran."""

    def __post_init__(self) -> None:
        numbers = [self.left, self.top, self.width, self.height, self.score, *(value for point in self.points for value in point)]
        if len(self.points) not in {EYES, FIVE} or not all(map(math.isfinite, numbers)) or min(self.width, self.height) <= 0:
            raise ValueError("a face has a box with an area, two or five points, and finite numbers")

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return self.width * self.height

    @property
    def side(self) -> float:
        """The longer side of the box in pixels: what "a 256 px face" means."""
        return max(self.width, self.height)

    @property
    def centre(self) -> tuple[float, float]:
        """Of the box: x, y."""
        return self.left + self.width / 2, self.top + self.height / 2

    def array(self) -> geometry.Points:
        """The points as an N x 2 array."""
        return np.array(self.points, np.float64)

    def scaled(self, factor: float) -> Face:
        """The same face in a frame that is `factor` times as large."""
        points = tuple(((x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5) for x, y in self.points)
        return replace(
            self, left=self.left * factor, top=self.top * factor, width=self.width * factor, height=self.height * factor, points=points
        )


@dataclass(frozen=True, slots=True)
class Largest:
    """The face with the largest box."""


@dataclass(frozen=True, slots=True)
class Every:
    """All faces."""


@dataclass(frozen=True, slots=True)
class AtIndex:
    """The face at this place, counted from 0, from left to right."""

    index: int


@dataclass(frozen=True, slots=True)
class Nearest:
    """The face most like a reference: by embedding where both have one, otherwise by place and size in the frame."""

    reference: Face


Choice = Largest | Every | AtIndex | Nearest


def choose(faces: Sequence[Face], choice: Choice) -> tuple[Face, ...]:
    """The faces that are meant, from left to right; empty when there is none, or none at the index asked for."""
    ordered = sorted(faces, key=lambda face: face.centre)
    match choice:
        case _ if not ordered:
            return ()
        case Every():
            return tuple(ordered)
        case Largest():
            return (max(ordered, key=lambda face: face.area),)
        case AtIndex(index):
            return (ordered[index],) if 0 <= index < len(ordered) else ()
        case Nearest(reference):
            return (min(ordered, key=lambda face: _distance(face, reference)),)


def _distance(face: Face, reference: Face) -> tuple[int, float]:
    """Faces with an embedding come before faces without, so that a likeness is never outweighed by a place."""
    if reference.embedding is not None and face.embedding is not None:
        return 0, 1 - float(np.dot(face.embedding, reference.embedding))
    away = math.dist(face.centre, reference.centre) / reference.side
    return 1, away + abs(math.log(face.side / reference.side))
