"""A swapper without weights: the source's own pixels, brought to the target's features, light, contrast and sharpness.

Everything happens in canonical face space, on the part of the crop that can change (`_WORK`):

1. Bend: the source is resampled so that its points fall on the target's: a similarity, then a smooth displacement.
2. Light: in CIELAB the source's own slow changes of lightness and colour are replaced by the target's, within limits.
3. Contrast and sharpness: what is left of the source is scaled so that its deviations match the target's, within limits.
4. Mask: a face oval with a soft edge that follows the yaw; less of it where either picture shows something that is not
   skin (hair, glasses' ends); the target's mouth is kept as soon as either mouth is open, so that no teeth are pasted.

The result is filter grade: right in pose and light, with the target's head shape and hair; it is not a neural swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from face_pipeline import geometry
from face_pipeline.blending import resized
from face_pipeline.errors import SwapFault
from face_pipeline.faces import Frame
from face_pipeline.swapper import AlignedCrop, CropSizes, Identity, Limits, Mask, SwappedCrop, SwapTask

Plane = NDArray[np.float32]

# All lengths are fractions of the crop's side; an eye distance is 0.29 of it.
_WORK: Final = (0.14, 0.16, 0.86, 1.0)  # left, top, right, bottom of the part that can change
_FIELD: Final = 72  # pixels a side at which slow fields over that part are computed
_MIN_CROP: Final = 96

_OVAL_CENTRE: Final = (0.5, 0.6)
_OVAL_HALF_WIDTH: Final = 0.305
_OVAL_ABOVE, _OVAL_BELOW = 0.325, 0.335  # from the centre to the forehead, and to the chin
_OVAL_POWER: Final = 2.4  # a little squarer than an ellipse
_INNER: Final = 0.8  # of the radius: surely face, for measuring
_OVAL_FEATHER: Final = 0.25  # share of the radius over which the mask falls to nothing

_BEND_REACH: Final = 0.16  # how far the pull of one point is felt
_MAX_BEND: Final = 0.07

_LIGHT_BLUR: Final = 0.075
_MAX_LIGHT: Final = 65.0  # of 100 lightness
_MAX_COLOUR: Final = 30.0  # of about 128 in a* and b*
_DIMMING: Final = (0.25, 1.5)
_GAIN: Final = (0.65, 1.4)  # of contrast, beyond what the light explains
_COLOUR_GAIN: Final = (0.6, 1.3)
_SHARPNESS_BLUR: Final = 0.006
_SHARPNESS_GAIN: Final = (0.25, 1.15)

_OPEN: Final = (0.065, 0.105)  # share of the mouth's width over which a mouth passes from closed to open
_LIPS: Final = 0.19  # a lip's height, in mouth widths
_MOUTH_HALF: Final = 0.68  # a little beyond the corners, since detectors place them inside the real ones


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceFace:
    """What is kept of a source: its crop at several sizes (each half the one before), and its points as fractions."""

    levels: tuple[Frame, ...]
    points: tuple[tuple[float, float], ...]
    opening: tuple[float, float]
    """Of its mouth; see `_opening`."""

    def level(self, crop_px: int) -> Frame:
        """The smallest one that still has as many pixels as the crop wanted."""
        large = [pixels for pixels in self.levels if pixels.shape[0] >= crop_px]
        return large[-1] if large else self.levels[0]

    def __reduce__(self) -> tuple[object, ...]:
        """Only the largest level travels; the others are made of it again, and are the same."""
        return _source_face, (self.levels[0], self.points, self.opening)


class ClassicalSwapper:
    """See the module. CPU only, deterministic; holds nothing between calls."""

    name: str = "classical"
    version: str = "1"
    is_trained: bool = False
    limits: Limits = Limits(min_source_px=64, min_target_px=40, max_yaw=30, max_pitch=35)
    crop_sizes: CropSizes = CropSizes(step=16, least=_MIN_CROP, most=768)

    def crop_px(self, natural_px: float) -> int:
        """The frame's own resolution, in steps, up to what a face of about 550 pixels needs."""
        return self.crop_sizes.side(natural_px)

    def prepare(self, sources: Sequence[AlignedCrop]) -> list[Identity]:
        """See `Swapper`."""
        return [Identity(swapper=self.name, value=_learn(source)) for source in sources]

    def swap(self, tasks: Sequence[SwapTask]) -> list[SwappedCrop]:
        """See `Swapper`. Raises `SwapFault` for an identity that another swapper made."""
        return [_swap(task.target, _source_of(task.identity)) for task in tasks]


def _source_of(identity: Identity) -> _SourceFace:
    if not isinstance(identity.value, _SourceFace):
        raise SwapFault(f"an identity made by {identity.swapper}")
    return identity.value


def _learn(source: AlignedCrop) -> _SourceFace:
    points = _fractions(source)
    return _source_face(source.pixels, points, _opening(source.pixels, np.array(points)))


def _source_face(pixels: Frame, points: tuple[tuple[float, float], ...], opening: tuple[float, float]) -> _SourceFace:
    levels = [pixels]
    while levels[-1].shape[0] >= 2 * _MIN_CROP:
        half = levels[-1].shape[0] // 2
        levels.append(cast("Frame", cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA)))
    return _SourceFace(levels=tuple(levels), points=points, opening=opening)


def _fractions(crop: AlignedCrop) -> tuple[tuple[float, float], ...]:
    side = crop.pixels.shape[0]
    return tuple(((x + 0.5) / side, (y + 0.5) / side) for x, y in crop.points)


def _swap(target: AlignedCrop, source: _SourceFace) -> SwappedCrop:
    side = target.pixels.shape[0]
    points = np.array(_fractions(target))
    left, top, right, bottom = (round(edge * side) for edge in _WORK)
    part = np.ascontiguousarray(target.pixels[top:bottom, left:right])
    brought = _bent(source, points, side, (left, top, right, bottom))
    old, new = _lab(part), _lab(brought)
    oval = _oval(target.yaw or 0.0)
    skin, confidence = _skin(_field(old), _field(new), oval)
    lit = _relit(old, new, oval, side)
    keep = _kept_mouth((source.opening, _opening(target.pixels, points)), points)
    weight = _soft(oval) * skin * (1 - keep)
    pixels, mask = target.pixels.copy(), np.zeros((side, side), np.uint8)
    pixels[top:bottom, left:right] = _rgb(lit)
    full = resized(weight, right - left, bottom - top)
    mask[top:bottom, left:right] = np.rint(255 * np.clip(full, 0, 1)).astype(np.uint8)
    return SwappedCrop(pixels=pixels, mask=cast("Mask", mask), confidence=confidence)


# 1. Bend


def _bent(source: _SourceFace, points: geometry.Points, side: int, part: tuple[int, int, int, int]) -> Frame:
    """The source's pixels for this part of the crop, its points brought onto the target's `points`."""
    left, top, right, bottom = part
    pixels = source.level(side)
    x, y = _places()
    shift_x, shift_y = _bend(np.array(source.points), points, x, y)
    scale = pixels.shape[0]
    map_x = resized(((x + shift_x) * scale - 0.5).astype(np.float32), right - left, bottom - top)
    map_y = resized(((y + shift_y) * scale - 0.5).astype(np.float32), right - left, bottom - top)
    return cast("Frame", cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@cache
def _places() -> tuple[Plane, Plane]:
    """Where the samples of a field lie in the crop, as fractions of its side."""
    left, top, right, bottom = _WORK
    along = (np.arange(_FIELD, dtype=np.float32) + 0.5) / _FIELD
    x, y = np.meshgrid(left + along * (right - left), top + along * (bottom - top))
    return x.astype(np.float32), y.astype(np.float32)


def _bend(source: geometry.Points, target: geometry.Points, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """How far from each place in the target crop the matching place in the source crop lies.

    First the similarity between the points that both have (five, or the two eyes), then a pull for what is left at each.
    """
    count = min(len(source), len(target))
    source, target = source[:count], target[:count]
    matrix = geometry.similarity(target, source)
    left = np.clip(source - geometry.transform(target, matrix), -_MAX_BEND, _MAX_BEND)
    between = ((target[:, None] - target[None]) ** 2).sum(axis=-1)
    # The small diagonal keeps neighbouring points that pull apart from bending the skin between them too far.
    weights = np.linalg.solve(np.exp(-between / (2 * _BEND_REACH**2)) + 0.05 * np.eye(count), left)
    shift_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] - x
    shift_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] - y
    for (px, py), (wx, wy) in zip(target, weights, strict=True):
        pull = np.exp(-((x - px) ** 2 + (y - py) ** 2) / np.float32(2 * _BEND_REACH**2))
        shift_x, shift_y = shift_x + wx * pull, shift_y + wy * pull
    return shift_x.astype(np.float32), shift_y.astype(np.float32)


# 2 and 3. Light, contrast, sharpness


def _relit(old: Plane, new: Plane, oval: Plane, side: int) -> Plane:
    """The source (`new`, Lab) in the light of the target (`old`, Lab)."""
    small_old, small_new = _field(old), _field(new)
    trust = np.clip(_soft(oval), 0.02, None) * _plain()
    blur = _LIGHT_BLUR / (_WORK[2] - _WORK[0]) * _FIELD
    slow_old, slow_new = _slow(small_old, trust, blur), _slow(small_new, trust, blur)
    inside = oval < _INNER
    reach = np.array([_MAX_LIGHT, _MAX_COLOUR, _MAX_COLOUR], np.float32)
    light = slow_new + np.clip(slow_old - slow_new, -reach, reach)
    # In less light the same face has less contrast, in lightness and in colour alike.
    dimming = np.clip(light[..., :1] / slow_new[..., :1].clip(1), *_DIMMING)
    dimming = dimming * _gain(small_old - slow_old, (small_new - slow_new) * dimming, inside)
    height, width = new.shape[:2]
    result = (new - resized(slow_new, width, height)) * resized(dimming, width, height) + resized(light, width, height)
    return _sharpened(result, old, side)


def _slow(field: Plane, trust: Plane, blur: float) -> Plane:
    """A field's slow part, taken only from where it can be trusted."""
    weighted = cv2.GaussianBlur(field * trust[..., None], (0, 0), blur)
    return cast("Plane", weighted / cv2.GaussianBlur(trust, (0, 0), blur)[..., None].clip(1e-4))


def _gain(old: Plane, new: Plane, inside: NDArray[np.bool_]) -> Plane:
    ratio = old[inside].std(axis=0) / new[inside].std(axis=0).clip(0.3)
    low, high = np.array([_GAIN, _COLOUR_GAIN, _COLOUR_GAIN], np.float32).T
    return np.asarray(np.clip(ratio, low, high), np.float32)


def _sharpened(result: Plane, old: Plane, side: int) -> Plane:
    """The finest lightness detail of the result made as strong as the target's: blurred pictures and grain stay what they are."""
    blur = max(0.8, _SHARPNESS_BLUR * side)
    fine_old = old[..., 0] - cv2.GaussianBlur(old[..., 0], (0, 0), blur)
    fine_new = result[..., 0] - cv2.GaussianBlur(result[..., 0], (0, 0), blur)
    ratio = float(np.abs(fine_old).mean() / max(float(np.abs(fine_new).mean()), 0.05))
    result[..., 0] += (float(np.clip(ratio, *_SHARPNESS_GAIN)) - 1) * fine_new
    return result


# 4. Mask


def _oval(yaw: float) -> Plane:
    """Distance from the oval's centre over the field: below 1 inside. The side that is turned away becomes narrower."""
    x, y = _places()
    turn = float(np.clip(yaw, -45, 45)) / 45
    # A nose turned to the right (yaw above 0) hides the cheek on the right.
    half = _OVAL_HALF_WIDTH * np.where(x > _OVAL_CENTRE[0], 1 - 0.42 * turn, 1 + 0.42 * turn).clip(0.6, 1.08)
    down = y - _OVAL_CENTRE[1]
    tall = np.where(down < 0, _OVAL_ABOVE, _OVAL_BELOW)
    across, along = np.abs(x - _OVAL_CENTRE[0]) / half, np.abs(down) / tall
    return cast("Plane", ((across**_OVAL_POWER + along**_OVAL_POWER) ** (1 / _OVAL_POWER)).astype(np.float32))


def _soft(oval: Plane) -> Plane:
    return _rising(1 - oval, 0.0, _OVAL_FEATHER)


@cache
def _plain() -> Plane:
    """1 on plain skin, little at eyes, brows and mouth: there the slow light is carried over from around."""
    x, y = _places()
    features = [(*geometry.TEMPLATE[0], 0.075, 0.06), (*geometry.TEMPLATE[1], 0.075, 0.06), (0.5, 0.777, 0.1, 0.045)]
    covered = sum(np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2)) for cx, cy, sx, sy in features)
    return np.asarray(1 - 0.92 * np.clip(covered, 0, 1), np.float32)


def _skin(old: Plane, new: Plane, oval: Plane) -> tuple[Plane, float]:
    """How far both pictures show skin around the features, 0 to 1; and how much of the oval agrees.

    Only what reaches in from outside the oval (hair, a hand, the background) is left out: brows and eyes are part of the face.
    """
    likely = np.minimum(_likeness(old, oval), _likeness(new, oval))
    inside = _soft(oval)
    agreement = float((likely * inside).sum() / inside.sum())
    strange = ((likely < 0.5) & ~_core()) | (oval > 1)  # noqa: PLR2004
    _, labels = cv2.connectedComponents(strange.astype(np.uint8), connectivity=4)
    entering = (labels == labels[0, 0]) & strange
    free = cv2.GaussianBlur(np.where(entering & (oval < 1), np.float32(0), np.float32(1)), (0, 0), 1.5)
    return _rising(cast("Plane", free), 0.35, 0.95), min(1.0, agreement)


@cache
def _core() -> NDArray[np.bool_]:
    """Eyes, brows, nose and mouth: always taken from the source."""
    x, y = _places()
    brows = (np.abs(x - 0.5) < 0.24) & (np.abs(y - 0.43) < 0.09)  # noqa: PLR2004
    return cast("NDArray[np.bool_]", brows | (((x - 0.5) / 0.17) ** 2 + ((y - 0.65) / 0.2) ** 2 < 1))


def _likeness(field: Plane, oval: Plane) -> Plane:
    """1 where lightness and colour are as on the cheeks and nose, allowing for shade; 0 where they are far from it."""
    x, y = _places()
    middle = (np.abs(x - 0.5) < 0.17) & (np.abs(y - 0.62) < 0.08)  # noqa: PLR2004  cheeks and nose
    typical = np.median(field[middle], axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(field[middle] - typical), axis=0), (7.0, 3.5, 3.5))
    slow = cv2.GaussianBlur(field, (0, 0), 1.0)
    off = np.abs(slow - typical) / spread
    distance = np.sqrt((0.55 * off[..., 0]) ** 2 + off[..., 1] ** 2 + off[..., 2] ** 2).astype(np.float32)
    return np.where(oval < 1.2, 1 - _rising(distance, 2.6, 4.4), 0).astype(np.float32)  # noqa: PLR2004


def _kept_mouth(openings: Sequence[tuple[float, float]], points: geometry.Points) -> Plane:
    """Where the target's mouth is kept: nothing while both mouths are closed, lips and opening once either is open."""
    x, y = _places()
    amount = float(_rising(np.float32(max(bottom - top for top, bottom in openings)), *_OPEN))
    if amount == 0:
        return np.zeros_like(x)
    first, second = _corners(points)
    width = float(np.hypot(*(second - first)))
    unit, middle = (second - first) / width, (first + second) / 2
    u = ((x - middle[0]) * unit[0] + (y - middle[1]) * unit[1]) / width
    v = ((y - middle[1]) * unit[0] - (x - middle[0]) * unit[1]) / width
    top, bottom = min(top for top, _ in openings) - _LIPS, max(bottom for _, bottom in openings) + _LIPS
    centre, half = (top + bottom) / 2, (bottom - top) / 2 * (0.7 + 0.3 * amount)
    away = ((np.abs(u) / _MOUTH_HALF) ** _OVAL_POWER + (np.abs(v - centre) / half) ** _OVAL_POWER) ** (1 / _OVAL_POWER)
    return cast("Plane", amount * (1 - _rising(away, 0.85, 1.2)))


def _corners(points: geometry.Points) -> geometry.Points:
    """The mouth's corners, or where they are on an average face when only the eyes are known."""
    return points[3:5] if len(points) == len(geometry.TEMPLATE) else geometry.TEMPLATE[3:5]


_PATCH: Final = (48, 48)  # pixels, width and height, in which a mouth is looked at, its corners level
_PATCH_MOUTH: Final = 36  # pixels between the corners
_NEAR: Final = (-0.15, 0.3)  # an opening begins somewhere here, in mouth widths below the line between the corners
_FAR: Final = (-0.3, 0.75)  # and ends within this


def _opening(crop: Frame, points: geometry.Points) -> tuple[float, float]:
    """Top and bottom of the mouth's opening, in mouth widths below the line between the corners; equal when it is closed.

    Inside an open mouth it is dark, or bright without the lips' and the skin's red.
    """
    ends = _corners(points) * crop.shape[0] - 0.5
    margin = (_PATCH[0] - _PATCH_MOUTH) / 2
    level = geometry.similarity(ends, np.array([(margin, _PATCH[1] / 3), (_PATCH[0] - margin, _PATCH[1] / 3)]))
    patch = _lab(cast("Frame", cv2.warpAffine(crop, level, _PATCH, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)))
    around = np.concatenate([patch[:, :6], patch[:, -6:]], axis=1).reshape(-1, 3)
    skin_light = float(np.median(around[:, 0]))
    dark = patch[..., 0] < 0.45 * skin_light
    pale = _chroma(patch) < 0.66 * float(np.median(_chroma(around)))
    teeth = pale & (patch[..., 0] > 0.8 * skin_light)
    rows = (dark | teeth)[:, _PATCH[0] // 3 : -_PATCH[0] // 3].mean(axis=1) > 0.5  # noqa: PLR2004  most of the row
    return _run(rows, (np.arange(_PATCH[1]) + 0.5 - _PATCH[1] / 3) / _PATCH_MOUTH)


def _chroma(lab: Plane) -> Plane:
    """Colourfulness for the lightness."""
    return cast("Plane", np.hypot(lab[..., 1], lab[..., 2]) / lab[..., 0].clip(5))


def _run(rows: NDArray[np.bool_], places: NDArray[np.float64]) -> tuple[float, float]:
    """The longest run of rows that touches `_NEAR` and stays within `_FAR`, as places of its two ends."""
    step = float(places[1] - places[0])
    allowed = rows & (places > _FAR[0]) & (places < _FAR[1])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], allowed, [False]])))
    runs = [(float(places[start]) - step / 2, float(places[end - 1]) + step / 2) for start, end in edges.reshape(-1, 2)]
    near = [run for run in runs if run[1] > _NEAR[0] and run[0] < _NEAR[1]]
    return max(near, key=lambda run: run[1] - run[0], default=(0.0, 0.0))


# Shared


def _rising(value: Plane | np.float32, low: float, high: float) -> Plane:
    """0 up to `low`, 1 from `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return cast("Plane", (t * t * (3 - 2 * t)).astype(np.float32))


def _field(picture: Plane) -> Plane:
    return cast("Plane", cv2.resize(picture, (_FIELD, _FIELD), interpolation=cv2.INTER_AREA))


def _lab(pixels: Frame) -> Plane:
    """CIELAB: L 0 to 100, a and b about -128 to 127."""
    return cast("Plane", cv2.cvtColor(pixels.astype(np.float32) * np.float32(1 / 255), cv2.COLOR_RGB2LAB))


def _rgb(lab: Plane) -> Frame:
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return cast("Frame", np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8))
