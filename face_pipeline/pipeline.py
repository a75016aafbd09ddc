"""The whole render as one function over an injected detector and swapper.

1. Find the face in the source: exactly one that dominates, large enough, turned little enough.
2. Align it and let the swapper learn it (`prepare_source`); this may be kept and used for many targets.
3. Find the faces in the target, choose those that are meant, leave out what cannot be swapped, and say so.
4. Cut, swap, lay back.
5. Check that something changed: an input never comes back as if it were a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np

from face_pipeline import blending, faces, geometry
from face_pipeline.detector import Detector, shrink
from face_pipeline.errors import FaceUnusable, Failure, Role, SwapFault
from face_pipeline.faces import Choice, Face, Frame, Largest
from face_pipeline.swapper import AlignedCrop, AudioWindow, Change, Identity, Limits, Mask, Moment, SwappedCrop, Swapper, SwapTask

# A second face in the source with at least this share of the first one's area could be the one that is meant.
DOMINANCE: Final = 0.4
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source face that was found, accepted and learnt; picklable, usable with the swapper that made it."""

    face: Face
    identity: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """One face of the target that was changed."""

    face: Face
    confidence: float
    """The swapper's; low where something seemed to lie over the face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """One face of the target that was meant but could not be changed."""

    face: Face
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A new frame, where it differs from the target, and what happened to every face that was meant."""

    frame: Frame
    mask: Mask
    """uint8, height x width; 0 exactly where the frame is as it was."""
    swapped: tuple[Swapped, ...]
    skipped: tuple[Skipped, ...]


def swap_face(source: Frame, target: Frame, *, detector: Detector, swapper: Swapper, choice: Choice = Largest()) -> Rendered:  # noqa: B008  frozen
    """The source's face in the target. Neither input is written to. Raises `FaceUnusable` and `SwapFault`."""
    return render(target, prepare_source(source, detector=detector, swapper=swapper), detector=detector, swapper=swapper, choice=choice)


def prepare_source(frame: Frame, *, detector: Detector, swapper: Swapper) -> Source:
    """Steps 1 and 2. Raises `FaceUnusable` with role source."""
    face = source_face(detect(frame, detector), frame, swapper.limits)
    crop, _ = aligned(frame, face, swapper)
    (identity,) = _counted(swapper.prepare([crop]), 1)
    return Source(face=face, identity=identity)


def render(target: Frame, source: Source, *, detector: Detector, swapper: Swapper, choice: Choice = Largest()) -> Rendered:  # noqa: B008
    """Steps 3 to 5. Raises `FaceUnusable` with role target when no face that is meant could be changed."""
    found = detect(target, detector)
    if not found:
        raise FaceUnusable(Failure.NO_FACE, Role.TARGET)
    meant = faces.choose(found, choice)
    if not meant:
        raise FaceUnusable(Failure.FACE_INDEX_ABSENT, Role.TARGET, f"{len(found)} faces")
    return change(target, meant, source, swapper=swapper)


def change(target: Frame, meant: Sequence[Face], source: Source, *, swapper: Swapper) -> Rendered:
    """Steps 4 and 5 for faces that are known already. Raises as `render` does."""
    skipped = [Skipped(face=face, failure=failure) for face in meant if (failure := unusable(face, target, Role.TARGET, swapper.limits))]
    usable = [face for face in meant if all(face is not left.face for left in skipped)]
    if not usable:
        raise FaceUnusable(skipped[0].failure, Role.TARGET)
    frame, mask, confidences = _laid_back(target, usable, source, swapper)
    swapped = [Swapped(face=face, confidence=sure) for face, sure in zip(usable, confidences, strict=True) if sure is not None]
    if not swapped:
        raise FaceUnusable(Failure.NOTHING_CHANGED, Role.TARGET)
    same = (face for face, sure in zip(usable, confidences, strict=True) if sure is None)
    skipped += [Skipped(face=face, failure=Failure.NOTHING_CHANGED) for face in same]
    return Rendered(frame=frame, mask=mask, swapped=tuple(swapped), skipped=tuple(skipped))


def detect(frame: Frame, detector: Detector) -> tuple[Face, ...]:
    """The faces of one frame, which is made as small as the detector wants it before it is handed over."""
    small, back = shrink(frame, detector.max_side)
    (found,) = _counted(detector.detect([small]), 1)
    return tuple(face.scaled(back) for face in found)


def source_face(found: Sequence[Face], frame: Frame, limits: Limits) -> Face:
    """Step 1 on found faces. Raises `FaceUnusable`: no_face, source_ambiguous, or why the one face will not do."""
    if not found:
        raise FaceUnusable(Failure.NO_FACE, Role.SOURCE)
    first, *others = sorted(found, key=lambda face: -face.area)
    rivals = sum(face.area >= DOMINANCE * first.area for face in others)
    if rivals:
        raise FaceUnusable(Failure.SOURCE_AMBIGUOUS, Role.SOURCE, f"{rivals + 1} faces of similar size")
    if failure := unusable(first, frame, Role.SOURCE, limits):
        raise FaceUnusable(failure, Role.SOURCE)
    return first


def unusable(face: Face, frame: Frame, role: Role, limits: Limits) -> Failure | None:
    """Why this face cannot be used, or None."""
    height, width = frame.shape[:2]
    points = face.array()
    if face.side < (limits.min_source_px if role is Role.SOURCE else limits.min_target_px):
        return Failure.FACE_TOO_SMALL
    if (points < 0).any() or (points > (width - 1, height - 1)).any():
        return Failure.FACE_CUT_OFF
    try:
        pose = geometry.pose(points)
        geometry.natural_px(points)
    except ValueError:
        return Failure.FACE_TURNED  # points on one spot: a profile, or no face that could be aligned
    if pose and (abs(pose.yaw) > limits.max_yaw or abs(pose.pitch) > limits.max_pitch):
        return Failure.FACE_TURNED
    return None


class SwapStage:
    """The swap as a `Stage`: changes the faces of the given tracks, all of one call in one batch.

    A track's mask leans on its mask in the frame before, in canonical space, so that its rim does not flicker.
    """

    def __init__(self, source: Source, swapper: Swapper) -> None:
        self._source, self._swapper = source, swapper
        self._masks: dict[int, Mask] = {}

    def apply(self, moments: Sequence[Moment]) -> list[Change]:
        """See `Stage`. Every face has to be one that `unusable` lets pass. Raises `SwapFault` and what the swapper raises."""
        seen = [(at, track.id, face) for at, moment in enumerate(moments) for track in moment.tracks if (face := track.faces[moment.at])]
        cuts = [aligned(moments[at].frame, face, self._swapper) for at, _, face in seen]
        audio = [moments[at].audio for at, _, _ in seen]
        crops = _swapped([crop for crop, _ in cuts], self._source, self._swapper, audio)
        changes = [Change(frame=moment.frame.copy(), mask=np.zeros(moment.frame.shape[:2], np.uint8), tracks=()) for moment in moments]
        for at in range(len(moments)):
            masks: dict[int, Mask] = {}
            for (frame_at, track, _), (_, matrix), crop in zip(seen, cuts, crops, strict=True):
                if frame_at != at:
                    continue
                masks[track] = blending.leaning(crop.mask, self._masks.get(track))
                if blending.lay_back(changes[at].frame, changes[at].mask, crop.pixels, masks[track], matrix):
                    changes[at] = replace(changes[at], tracks=(*changes[at].tracks, track))
            self._masks = masks
        return changes


def _laid_back(target: Frame, usable: Sequence[Face], source: Source, swapper: Swapper) -> tuple[Frame, Mask, list[float | None]]:
    """A copy of the target with every face swapped, all in one batch; per face the confidence, or None where nothing changed."""
    cuts = [aligned(target, face, swapper) for face in usable]
    crops = _swapped([crop for crop, _ in cuts], source, swapper, [None] * len(cuts))
    frame, mask = target.copy(), np.zeros(target.shape[:2], np.uint8)
    confidences: list[float | None] = []
    for (_, matrix), crop in zip(cuts, crops, strict=True):
        is_other = blending.lay_back(frame, mask, crop.pixels, crop.mask, matrix)
        confidences.append(crop.confidence if is_other else None)
    return frame, mask, confidences


def _swapped(cuts: Sequence[AlignedCrop], source: Source, swapper: Swapper, audio: Sequence[AudioWindow | None]) -> list[SwappedCrop]:
    tasks = [SwapTask(target=cut, identity=source.identity, audio=sound) for cut, sound in zip(cuts, audio, strict=True)]
    crops = _counted(swapper.swap(tasks), len(tasks)) if tasks else []
    for cut, crop in zip(cuts, crops, strict=True):
        _check(crop, cut)
    return crops


def aligned(frame: Frame, face: Face, swapper: Swapper) -> tuple[AlignedCrop, geometry.Matrix]:
    """The face's crop as this swapper wants it, and the matrix from frame to crop. Raises ValueError when the points coincide."""
    points = face.array()
    pixels, matrix = blending.cut(frame, points, swapper.crop_px(geometry.natural_px(points)))
    pose = geometry.pose(points)
    inside = tuple((float(x), float(y)) for x, y in geometry.transform(points, matrix))
    return AlignedCrop(pixels=pixels, points=inside, yaw=pose.yaw if pose else None), matrix


def _check(crop: SwappedCrop, cut: AlignedCrop) -> None:
    expected = cut.pixels.shape
    if crop.pixels.shape != expected or crop.mask.shape != expected[:2] or crop.pixels.dtype != np.uint8 or crop.mask.dtype != np.uint8:
        raise SwapFault(f"a crop of shape {crop.pixels.shape} and mask {crop.mask.shape} where {expected} was given")
    if not 0 <= crop.confidence <= 1:
        raise SwapFault("a confidence outside 0 to 1")


def _counted(answers: list[T], expected: int) -> list[T]:
    if len(answers) != expected:
        raise SwapFault(f"{len(answers)} answers to {expected} questions")
    return answers
