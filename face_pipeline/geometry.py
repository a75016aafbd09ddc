"""Coordinates: similarity transforms, the canonical face space, and pose from five points. numpy only.

The canonical face space is a square in which every upright frontal face has its five points at `TEMPLATE`; lengths in
it are fractions of the side. A crop is that square at some number of pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Matrix = NDArray[np.float64]

# The picture-left eye, the other eye, nose tip, the picture-left mouth corner, the other one: the frontal template
# that the published networks were trained with, as fractions of the crop's side.
TEMPLATE: Final[Points] = np.array([(0.35473, 0.45659), (0.64527, 0.45659), (0.5, 0.61154), (0.37913, 0.77688), (0.62087, 0.77688)])
TEMPLATE.setflags(write=False)

# The same five points in space (eye distances; x right, y down, z towards the viewer). An average nose tip stands out by
# about 0.42, but detectors place it nearer to the bridge than it is: 0.28 is what YuNet's point shows on turned heads.
_HEAD: Final = np.array([(-0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.56, 0.28), (-0.41, 1.05, 0.05), (0.41, 1.05, 0.05)])
_FIT: Final = np.linalg.pinv(np.column_stack([_HEAD, np.ones(len(_HEAD))]))[:3]  # least squares, without the shift
_FLAT: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How a head is held, in degrees. Yaw turns the nose to the picture's right, pitch downwards, roll is clockwise."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A rectangle of whole pixels inside a frame."""

    left: int
    top: int
    width: int
    height: int

    @property
    def rows(self) -> slice:
        """For indexing a frame's first axis."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """For indexing a frame's second axis."""
        return slice(self.left, self.left + self.width)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.width <= 0 or self.height <= 0


def similarity(source: Points, destination: Points) -> Matrix:
    """The 2 x 3 matrix of the rotation, uniform scale and shift that brings `source` (N x 2) closest to `destination`.

    Least squares (Umeyama 1991), never a reflection. Two points or more; raises ValueError when the points of either coincide.
    """
    source_middle, destination_middle = source.mean(axis=0), destination.mean(axis=0)
    a, b = source - source_middle, destination - destination_middle
    spread = float((a**2).sum())
    # With z = x + iy the best complex factor is sum(conj(a) b) / sum(|a|^2).
    along = float((a * b).sum()) / max(spread, _FLAT)
    across = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / max(spread, _FLAT)
    if spread < _FLAT or np.hypot(along, across) < _FLAT:
        raise ValueError("the points coincide")
    turn = np.array([(along, -across), (across, along)])
    return np.column_stack([turn, destination_middle - turn @ source_middle])


def inverse(matrix: Matrix) -> Matrix:
    """The 2 x 3 matrix that undoes `matrix`."""
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])


def transform(points: Points, matrix: Matrix) -> Points:
    """N x 2 points through a 2 x 3 matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def scale_of(matrix: Matrix) -> float:
    """By how much a similarity enlarges."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def template(count: int, crop_px: int) -> Points:
    """Where the five points, or only the two eyes, lie in a crop of `crop_px` pixels a side."""
    return TEMPLATE[:count] * crop_px - 0.5


def natural_px(points: Points) -> float:
    """The side that a crop needs for its pixels to be as large as the frame's."""
    return 1 / scale_of(similarity(points, TEMPLATE[: len(points)]))


def covered(matrix: Matrix, box: tuple[float, float, float, float], width: int, height: int) -> Region:
    """The part of a `width` x `height` frame that a box (left, top, right, bottom) covers once `matrix` has moved it."""
    left, top, right, bottom = box
    corners = transform(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), matrix)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width, height))
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, (width, height))
    return Region(left=int(low[0]), top=int(low[1]), width=int(high[0] - low[0]), height=int(high[1] - low[1]))


def shrink_factor(width: int, height: int, max_side: int) -> float:
    """By how much a frame is made smaller so that its longer side has at most `max_side` pixels; never above 1."""
    return min(1.0, max_side / max(width, height))


def pose(points: Points) -> Pose | None:
    """Pose from five points by a scaled orthographic fit of an average head; None from two eyes, which do not tell.

    Raises ValueError when the points coincide. Good to a few degrees in yaw up to 45; pitch also carries
    the length of the particular nose, and is good to about ten.
    """
    if len(points) < len(TEMPLATE):
        return None
    fitted = (_FIT @ points).T  # 2 x 3: scale times the first two rows of the rotation
    left, sizes, right = np.linalg.svd(fitted, full_matrices=False)
    if sizes[-1] < _FLAT:
        raise ValueError("the points coincide")
    rows = left @ right
    (a, b, x), (c, d, y) = rows.tolist()  # the third column, with the third row's a * d - b * c, is the way that the face looks
    roll = math.atan2(c, a)
    sideways = math.cos(roll) * x + math.sin(roll) * y
    down = math.cos(roll) * y - math.sin(roll) * x
    yaw, pitch = math.asin(min(max(sideways, -1.0), 1.0)), math.atan2(down, a * d - b * c)
    return Pose(yaw=math.degrees(yaw), pitch=math.degrees(pitch), roll=math.degrees(roll))
