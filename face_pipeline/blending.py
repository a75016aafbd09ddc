"""Cutting an aligned crop out of a frame, laying a changed one back, and covering a face that cannot be changed."""

from __future__ import annotations

from functools import cache
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from face_pipeline import geometry
from face_pipeline.faces import Face, Frame
from face_pipeline.swapper import Mask

_LEAN: Final = 0.45  # of a new mask beside the one of the frame before
_COVER_REACH: Final = 1.6  # side of a cover in face sides: its full strength reaches over the whole box but its corners
_COVER_BLOCKS: Final = 5  # colours across a cover, about three of them across the face
_COVER_FEATHER: Final = 0.2  # share of a cover's radius over which it falls to nothing
_SHRINK_FIRST: Final = 0.6  # below this scale bilinear sampling would skip pixels


def cut(frame: Frame, points: geometry.Points, crop_px: int) -> tuple[Frame, geometry.Matrix]:
    """The crop in canonical space and the 2 x 3 matrix from frame to crop. Outside the frame its edge is repeated.

    Raises ValueError when the points coincide.
    """
    matrix = geometry.similarity(points, geometry.template(len(points), crop_px))
    small, small_matrix = frame, matrix
    scale = geometry.scale_of(matrix)
    if scale < _SHRINK_FIRST:
        small, small_matrix = _shrunk_part(frame, matrix, crop_px, scale)
    crop = cv2.warpAffine(small, small_matrix, (crop_px, crop_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cast("Frame", crop), matrix


def _shrunk_part(frame: Frame, matrix: geometry.Matrix, crop_px: int, scale: float) -> tuple[Frame, geometry.Matrix]:
    """The part of the frame that the crop shows, averaged down to about the crop's resolution, and the matrix from there."""
    height, width = frame.shape[:2]
    part = geometry.covered(geometry.inverse(matrix), (0, 0, crop_px, crop_px), width, height)
    if part.is_empty:
        return frame, matrix
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    small = cv2.resize(frame[part.rows, part.columns], size, interpolation=cv2.INTER_AREA)
    ratio = np.array([part.width / size[0], part.height / size[1]])
    # A point p of the small part lies at ratio * (p + 0.5) - 0.5 + corner in the frame.
    shift = 0.5 * ratio - 0.5 + (part.left, part.top)
    return cast("Frame", small), np.column_stack([matrix[:, :2] * ratio, matrix[:, :2] @ shift + matrix[:, 2]])


def lay_back(frame: Frame, changed: Mask, crop: Frame, crop_mask: Mask, matrix: geometry.Matrix) -> bool:
    """Blends the crop into the frame, in place, and notes in `changed` (height x width) where and how strongly.

    Pixels where the crop's mask is 0 keep their bytes; `changed` is at least 1 wherever a byte may differ.
    Answers whether any byte does.
    """
    rows, columns = np.nonzero(crop_mask.any(axis=1))[0], np.nonzero(crop_mask.any(axis=0))[0]
    if len(rows) == 0:
        return False
    box = (float(columns[0] - 1), float(rows[0] - 1), float(columns[-1] + 1), float(rows[-1] + 1))
    part = geometry.covered(geometry.inverse(matrix), box, frame.shape[1], frame.shape[0])
    if part.is_empty:
        return False
    local = matrix.copy()  # from the part's own pixels to the crop
    local[:, 2] += matrix[:, :2] @ (part.left, part.top)
    size, flags = (part.width, part.height), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpAffine(crop, local, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(crop_mask, local, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    place = frame[part.rows, part.columns]
    blended = blend(place, cast("Frame", pixels), cast("Mask", mask))
    is_other = not np.array_equal(blended, place)
    place[:] = blended
    noted = changed[part.rows, part.columns]
    np.maximum(noted, mask, out=noted)
    return is_other


def leaning(mask: Mask, before: Mask | None) -> Mask:
    """A crop's mask, drawn towards the mask that the same face had in the frame before; crops may differ in size."""
    if before is None:
        return mask
    last = before if before.shape == mask.shape else cast("Mask", cv2.resize(before, mask.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return cast("Mask", cv2.addWeighted(mask, _LEAN, last, 1 - _LEAN, 0))


def cover(frame: Frame, changed: Mask, face: Face, strength: float, original: Frame) -> None:
    """Makes a face and what is around it unrecognisable, in place, and notes it in `changed`.

    What covers is `original`, in a few blurred colours; at a strength below 1 the frame shines through.
    """
    side = _COVER_REACH * face.side
    x, y = face.centre
    left, top, size = round(x - side / 2), round(y - side / 2), max(round(side), 1)
    height, width = frame.shape[:2]
    rows, columns = slice(max(top, 0), min(top + size, height)), slice(max(left, 0), min(left + size, width))
    place = frame[rows, columns]
    if place.size == 0:
        return
    shown = max(1, round(_COVER_BLOCKS * place.shape[1] / size)), max(1, round(_COVER_BLOCKS * place.shape[0] / size))
    few = cv2.resize(original[rows, columns], shown, interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(few, place.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    whole = np.rint(cv2.resize(_disc(), (size, size), interpolation=cv2.INTER_LINEAR) * np.float32(255 * strength)).astype(np.uint8)
    mask = whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    place[:] = blend(place, cast("Frame", blurred), cast("Mask", mask))
    noted = changed[rows, columns]
    np.maximum(noted, mask, out=noted)


@cache
def _disc() -> NDArray[np.float32]:
    """1 in the middle of a square, 0 outside the circle in it, smooth between."""
    along = (np.arange(64, dtype=np.float32) + 0.5) / 32 - 1
    radius = np.hypot(along[:, None], along[None])
    return np.clip((1 - radius) / np.float32(_COVER_FEATHER), 0, 1)


def blend(below: Frame, above: Frame, mask: Mask) -> Frame:
    """`above` over `below` by a mask of 0 to 255; exact at both ends."""
    weight = cv2.merge([mask, mask, mask]).astype(np.int16)
    difference = above.astype(np.int32) - below
    # (x * 257 + 2^15) >> 16 is x / 255 rounded, for every product of two bytes of either sign.
    step = (difference * weight * 257 + 32768) >> 16
    return cast("Frame", (below + step).astype(np.uint8))


def resized(plane: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """A smooth field at another resolution, bilinear."""
    return cast("NDArray[np.float32]", cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR))
