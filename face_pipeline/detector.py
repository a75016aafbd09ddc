"""The port `Detector` and two detectors: YuNet, and a fallback that needs no weights of ours.

YuNet finds faces under most poses and gives five points; its own points are coarse (about a tenth of the eyes' distance, drawn
towards an average face), so they are averaged with those of the mirrored face, and the eyes are found by gradients. The fallback joins the LBP cascade that ships with scikit-image
with eye centres by means of gradients (Timm and Barth, 2011); it finds upright frontal faces only and gives two points.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from face_pipeline import blending, geometry
from face_pipeline.errors import DetectorUnavailable, ModelRefused
from face_pipeline.faces import Face, Frame

YUNET_FILE: Final = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256: Final = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"


class Detector(Protocol):
    """Frames in, faces out, in each frame's own pixels."""

    @property
    def name(self) -> str:
        """Its short name in records and messages."""
        ...

    @property
    def version(self) -> str:
        """What ran, exactly: library version or digest of the weights."""
        ...

    @property
    def max_side(self) -> int:
        """Frames are made this small before they are looked at, so a caller may send them so (`shrink`)."""
        ...

    @property
    def is_frontal_only(self) -> bool:
        """Whether turned and tilted faces are missed and the pose is unknown, which the start-up line must say."""
        ...

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        """The faces of each frame, best score first."""
        ...


def shrink(frame: Frame, max_side: int) -> tuple[Frame, float]:
    """The frame with at most `max_side` pixels a side, and the factor that leads its faces back (`Face.scaled`)."""
    height, width = frame.shape[:2]
    factor = geometry.shrink_factor(width, height, max_side)
    if factor == 1:
        return frame, 1.0
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cast("Frame", cv2.resize(frame, size, interpolation=cv2.INTER_AREA)), 1 / factor


class YuNet:
    """OpenCV's YuNet, by a model file whose SHA-256 is checked before it is opened."""

    name: Final = "yunet"
    max_side: Final = 512
    is_frontal_only: Final = False
    # A face that fills the frame is larger than the network's largest anchor: such a frame is looked at smaller as well.
    _SECOND_SIDE: Final = 192
    _MIN_SCORE: Final = 0.7
    _MAX_OVERLAP: Final = 0.3
    _MAX_FACES: Final = 100
    # The points are taken from an upright view of the face, and from its mirror image, so that no side is favoured.
    _VIEW_PX: Final = 192
    _FACE_PX: Final = 124  # of the view is the face's own crop
    _REFINED_FACES: Final = 16  # the largest ones; more faces than that are a crowd, and small

    def __init__(self, model: bytes, *, expected_sha256: str = YUNET_SHA256) -> None:
        """Raises `ModelRefused` when the bytes are not the pinned model, `DetectorUnavailable` when OpenCV cannot open them."""
        found = hashlib.sha256(model).hexdigest()
        if found != expected_sha256:
            raise ModelRefused(self.name, expected_sha256, found)
        self.version = f"2023mar sha256:{found}"
        self._one_at_a_time = threading.Lock()
        buffer = np.frombuffer(model, np.uint8)
        try:
            self._network = cv2.FaceDetectorYN.create(
                "onnx", buffer, np.zeros(0, np.uint8), (self.max_side, self.max_side), self._MIN_SCORE, self._MAX_OVERLAP, self._MAX_FACES
            )
        except cv2.error as error:
            raise DetectorUnavailable(self.name, "OpenCV cannot open the model") from error

    @classmethod
    def from_file(cls, path: Path) -> YuNet:
        """Reads the file once: the bytes that were checked are the bytes that are opened. Raises also `DetectorUnavailable`."""
        try:
            model = path.read_bytes()
        except OSError as error:
            raise DetectorUnavailable(cls.name, f"{path.name} cannot be read") from error
        return cls(model)

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        """See `Detector`."""
        return [self._faces(frame) for frame in frames]

    def _faces(self, frame: Frame) -> tuple[Face, ...]:
        small, back = shrink(frame, self.max_side)
        found = self._seen(small)
        if not found:
            tiny, from_tiny = shrink(small, self._SECOND_SIDE)
            found = [face.scaled(from_tiny) for face in self._seen(tiny)]
        found.sort(key=lambda face: -face.area)
        refined = [self._refined(small, face) for face in found[: self._REFINED_FACES]] + found[self._REFINED_FACES :]
        return tuple(face.scaled(back) for face in sorted(refined, key=lambda face: -face.score))

    def _seen(self, frame: Frame) -> list[Face]:
        """The faces of a frame at the size it has."""
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        with self._one_at_a_time:
            self._network.setInputSize((bgr.shape[1], bgr.shape[0]))
            rows = self._network.detect(bgr)[1]
        if rows is None:
            return []
        return [_from_yunet(row) for row in rows if np.isfinite(row).all() and min(row[2], row[3]) > 0]

    def _refined(self, frame: Frame, face: Face) -> Face:
        """The same face with better points, where a closer look finds it again."""
        try:
            matrix = geometry.similarity(face.array(), geometry.TEMPLATE * self._FACE_PX + (self._VIEW_PX - self._FACE_PX) / 2)
        except ValueError:
            return face
        view = cast("Frame", cv2.warpAffine(frame, matrix, (self._VIEW_PX, self._VIEW_PX), borderMode=cv2.BORDER_REPLICATE))
        expected = geometry.transform(face.array(), matrix)
        upright = _nearest(self._seen(view), expected)
        mirrored = _nearest(self._seen(cast("Frame", cv2.flip(view, 1))), _mirrored(expected, self._VIEW_PX))
        if upright is None or mirrored is None:
            return face
        points = (upright + _mirrored(mirrored, self._VIEW_PX)) / 2
        points[:2] = _finer_eyes(frame, points[:2], matrix, self._VIEW_PX)
        points = geometry.transform(points, geometry.inverse(matrix))
        return dataclasses.replace(face, points=tuple((float(x), float(y)) for x, y in points))


def _from_yunet(row: NDArray[Any]) -> Face:
    """A row is box (4), five points (10), score; the points already come in our order."""
    left, top, width, height, *points, score = (float(value) for value in row)
    pairs = tuple(zip(points[0::2], points[1::2], strict=True))
    return Face(left=left, top=top, width=width, height=height, points=pairs, score=score)


def _mirrored(points: geometry.Points, width: int) -> geometry.Points:
    """Five points in the mirror image of a picture of this width, the eyes and mouth corners in their order again."""
    return points[[1, 0, 2, 4, 3]] * (-1, 1) + (width - 1, 0)


def _nearest(found: Sequence[Face], expected: geometry.Points) -> geometry.Points | None:
    """The points of the face that lies where it is expected, within half the eyes' distance; None if there is none."""
    apart = float(np.hypot(*(expected[1] - expected[0])))
    distances = [float(np.hypot(*(face.array() - expected).T).mean()) for face in found]
    if not distances or min(distances) > 0.5 * apart:
        return None
    return found[int(np.argmin(distances))].array()


_EYE_REACH: Final = (0.3, 0.22)  # half the patch around an eye, in eye distances
_EYE_SHIFT: Final = 0.15  # an iris further off than this is something else


def _finer_eyes(frame: Frame, eyes: geometry.Points, matrix: geometry.Matrix, side: int) -> geometry.Points:
    """Both eyes moved to the centres of their irises, where both are found close to where they were thought.

    `eyes` lie in an upright view of `side` pixels into which `matrix` leads from the frame; it is looked at twice as large.
    """
    large = cv2.warpAffine(frame, 2 * matrix + _HALF_PIXEL, (2 * side, 2 * side), borderMode=cv2.BORDER_REPLICATE)
    grey = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)
    apart = float(np.hypot(*(eyes[1] - eyes[0])))
    moved = []
    for x, y in 2 * eyes + 0.5:
        left, top = max(int(x - 2 * _EYE_REACH[0] * apart), 0), max(int(y - 2 * _EYE_REACH[1] * apart), 0)
        patch = grey[top : int(y + 2 * _EYE_REACH[1] * apart) + 2, left : int(x + 2 * _EYE_REACH[0] * apart) + 2]
        if min(patch.shape) < _MIN_PATCH_PX:
            return eyes
        centre, _ = eye_centre(patch)
        moved.append(((left + centre[0] - 0.5) / 2, (top + centre[1] - 0.5) / 2))
    return np.array(moved) if np.hypot(*(np.array(moved) - eyes).T).max() <= _EYE_SHIFT * apart else eyes


_HALF_PIXEL: Final = np.array([(0, 0, 0.5), (0, 0, 0.5)])  # p in the view is 2p + 0.5 in one twice as large


class FrontalCascade:
    """scikit-image's LBP cascade for the box, then eye centres by means of gradients. Upright frontal faces only."""

    name: Final = "lbp-cascade"
    max_side: Final = 320
    is_frontal_only: Final = True
    _SCALE_STEP: Final = 1.15
    _SMALLEST_PX: Final = 32

    def __init__(self) -> None:
        """Raises `DetectorUnavailable` where scikit-image (extra `local`) is not installed."""
        try:
            from skimage.data import lbp_frontal_face_cascade_filename  # noqa: PLC0415
            from skimage.feature import Cascade  # noqa: PLC0415
        except ImportError as error:
            raise DetectorUnavailable(self.name, "scikit-image is not installed") from error
        self.version = f"scikit-image {version('scikit-image')}"
        self._cascade = Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
        self._one_at_a_time = threading.Lock()

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        """See `Detector`."""
        return [self._faces(frame) for frame in frames]

    def _faces(self, frame: Frame) -> tuple[Face, ...]:
        small, back = shrink(frame, self.max_side)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        side = min(grey.shape)
        if side < self._SMALLEST_PX:
            return ()
        with self._one_at_a_time:
            boxes = self._cascade.detect_multi_scale(
                img=grey, scale_factor=self._SCALE_STEP, step_ratio=1, min_size=(self._SMALLEST_PX,) * 2, max_size=(side, side)
            )
        fine = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        places = [(box["c"] * back, box["r"] * back, box["width"] * back) for box in boxes]
        found = (_with_eyes(fine, *place) for place in places if not _is_detail(place, places))
        return _without_doubles(face for face in found if face is not None)


_Square = tuple[float, float, float]  # left, top, side


def _is_detail(square: _Square, others: Iterable[_Square]) -> bool:
    """Whether a box lies in the middle of one much larger: then it is a part of that face, a mouth or an ear, that looks like one."""
    left, top, side = square
    x, y = left + side / 2, top + side / 2
    return any(wide > _PART * side and 0 < x - start < wide and 0 < y - above < wide for start, above, wide in others)


_PART: Final = 2.5


def _without_doubles(found: Iterable[Face]) -> tuple[Face, ...]:
    """Best score first; a face whose centre lies inside a better one is the same face."""
    kept: list[Face] = []
    for face in sorted(found, key=lambda face: -face.score):
        if all(math.dist(face.centre, better.centre) > 0.5 * max(face.side, better.side) for better in kept):
            kept.append(face)
    return tuple(kept)


# Where the eyes of an upright face lie in a box of the cascade, as fractions of its side.
_EYE_TOP, _EYE_BOTTOM = 0.24, 0.52
_EYE_LEFT, _EYE_RIGHT = 0.13, 0.46
_PATCH_PX: Final = 40  # the width at which eye patches are searched
_MIN_PATCH_PX: Final = 6  # smaller patches show no iris
_MAX_GRADIENTS: Final = 220  # the strongest ones of a patch; more cost time and add nothing
_MAX_TILT: Final = 20.0  # degrees between the eyes' line and the horizontal
_EYES_APART: Final = (0.32, 0.62)  # of the box's side


def _with_eyes(grey: NDArray[Any], left: float, top: float, side: float) -> Face | None:
    """The face in a box of the cascade, or None where there is no plausible pair of eyes."""
    eyes, strengths = [], []
    for start in (_EYE_LEFT, 1 - _EYE_RIGHT):
        corner = (round(left + start * side), round(top + _EYE_TOP * side))
        size = (round((_EYE_RIGHT - _EYE_LEFT) * side), round((_EYE_BOTTOM - _EYE_TOP) * side))
        patch = grey[max(corner[1], 0) : corner[1] + size[1], max(corner[0], 0) : corner[0] + size[0]]
        if min(patch.shape) < max(_MIN_PATCH_PX, min(size) // 2):
            return None
        (x, y), strength = eye_centre(patch)
        eyes.append((max(corner[0], 0) + x, max(corner[1], 0) + y))
        strengths.append(strength)
    across = np.subtract(eyes[1], eyes[0])
    apart, tilt = float(np.hypot(*across)) / side, float(np.degrees(np.arctan2(across[1], across[0])))
    if not _EYES_APART[0] <= apart <= _EYES_APART[1] or abs(tilt) > _MAX_TILT:
        return None
    detail = _detail(grey, np.array(eyes))
    if detail is None:
        return None
    above, below = _alike(detail[_EYES_BAND]), _alike(detail[_MOUTH_BAND])
    if above < _MIN_SYMMETRY or below < _MIN_BELOW or _lighter_eye(detail) > -_MIN_DARKNESS:
        return None
    score = float(np.clip((above + below + min(strengths)) / 3, 0, 1))
    return Face(left=left, top=top, width=side, height=side, points=tuple(eyes), score=score)


_PAIR_PX: Final = 96
_EYES_BAND: Final = (slice(32, 58), slice(19, 77))  # rows and columns of that picture
_MOUTH_BAND: Final = (slice(58, 86), slice(24, 72))
_MIN_SYMMETRY: Final = 0.1  # side light costs a true pair much of it; texture that only looks like a face has less
_MIN_DARKNESS: Final = 0.5  # standard deviations below the surroundings, for the lighter of the two eyes


_MIN_BELOW: Final = 0.25  # the same for nose and mouth


def _detail(grey: NDArray[Any], eyes: geometry.Points) -> NDArray[np.float32] | None:
    """The face in canonical space, without slow changes of light and of contrast; None where the eyes coincide."""
    try:
        crop, _ = blending.cut(grey, eyes, _PAIR_PX)
    except ValueError:
        return None
    plain = cv2.GaussianBlur(crop.astype(np.float32), (0, 0), 1.2)
    detail = plain - cv2.GaussianBlur(plain, (0, 0), 7)
    return cast("NDArray[np.float32]", detail / np.sqrt(cv2.GaussianBlur(detail**2, (0, 0), 9) + 4))


def _alike(band: NDArray[np.float32]) -> float:
    """How much a band resembles its mirror image, -1 to 1."""
    return float((band * band[:, ::-1]).mean() - band.mean() ** 2) / max(float(band.var()), 1e-6)


def _lighter_eye(detail: NDArray[np.float32]) -> float:
    """How far the lighter of the two eyes is below its surroundings, in standard deviations, as a negative number."""
    places = [(round(x), round(y)) for x, y in geometry.template(2, _PAIR_PX)]
    return max(float(detail[y - 2 : y + 3, x - 3 : x + 4].mean()) for x, y in places)


def eye_centre(patch: NDArray[Any]) -> tuple[tuple[float, float], float]:
    """The centre of the iris in a grey patch around one eye, in its pixels, and how well the gradients agree (0 to 1).

    Timm and Barth 2011: the point from which most strong gradients point straight away, dark points preferred.
    """
    factor = _PATCH_PX / patch.shape[1]
    size = (_PATCH_PX, max(8, round(patch.shape[0] * factor)))
    small = cv2.GaussianBlur(cv2.resize(patch, size, interpolation=cv2.INTER_AREA).astype(np.float32), (0, 0), 1.2)
    slope_x, slope_y = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    strength = np.hypot(slope_x, slope_y)
    threshold = max(float(strength.mean() + 0.5 * strength.std()), float(np.partition(strength.ravel(), -_MAX_GRADIENTS)[-_MAX_GRADIENTS]))
    rows, columns = np.nonzero(strength > threshold)
    if len(rows) == 0:
        return ((patch.shape[1] - 1) / 2, (patch.shape[0] - 1) / 2), 0.0
    unit_x, unit_y = slope_x[rows, columns] / strength[rows, columns], slope_y[rows, columns] / strength[rows, columns]
    agreement = _agreement(rows, columns, unit_x, unit_y, small.shape)
    darkness = 1 - (small - small.min()) / max(float(np.ptp(small)), 1.0)
    # The rim of the patch holds brows and hair; the eye is meant to be near the middle.
    y, x = np.mgrid[0 : small.shape[0], 0 : small.shape[1]].astype(np.float32)
    middle = np.exp(-0.5 * (((x / (size[0] - 1) - 0.5) / 0.3) ** 2 + ((y / (size[1] - 1) - 0.5) / 0.3) ** 2))
    merit = agreement * (0.3 + darkness) * middle
    row, column = np.unravel_index(int(merit.argmax()), merit.shape)
    scale_x, scale_y = patch.shape[1] / size[0], patch.shape[0] / size[1]
    centre = ((float(column) + 0.5) * scale_x - 0.5, (float(row) + 0.5) * scale_y - 0.5)
    return centre, float(np.sqrt(agreement[row, column]))


def _agreement(
    rows: NDArray[Any], columns: NDArray[Any], unit_x: NDArray[Any], unit_y: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """For every point, the mean over the gradients of the squared cosine between "away from here" and the gradient."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    away_x, away_y = columns[:, None, None] - x, rows[:, None, None] - y
    length = np.maximum(np.hypot(away_x, away_y), 1e-3)
    cosine = np.clip((away_x * unit_x[:, None, None] + away_y * unit_y[:, None, None]) / length, 0, None)
    return cast("NDArray[np.float32]", (cosine**2).mean(axis=0))
