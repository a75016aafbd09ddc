from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from bench.swap import known
from deployments.drawn_faces import PEOPLE, Pose, Shot, draw
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.errors import FaceUnusable, Failure, Role, SwapFault
from face_pipeline.faces import AtIndex, Every, Face, Frame, Largest
from face_pipeline.swapper import Limits, Moment, Track
from tests.moving_faces import Painter


@dataclass
class Told:
    """A detector that answers what it was told, by the shape of the frame."""

    answers: dict[tuple[int, int], tuple[Face, ...]]
    name: str = "told"
    version: str = "1"
    max_side: int = 4096
    is_frontal_only: bool = False

    def detect(self, frames: Sequence[Frame]) -> list[tuple[Face, ...]]:
        return [self.answers.get(frame.shape[:2], ()) for frame in frames]


LIMITS = Limits(min_source_px=64, min_target_px=40, max_yaw=30, max_pitch=40)


def painter(**changes: Any) -> Painter:
    return Painter(limits=LIMITS, **changes)


def shifted(face: Face, by: float) -> Face:
    return replace(face, left=face.left + by, points=tuple((x + by, y) for x, y in face.points))


SOURCE = draw(PEOPLE["ada"], side=300, eyes_px=60)
TARGET = draw(PEOPLE["bo"], side=360, eyes_px=60)
PAIR = np.hstack([TARGET.pixels, TARGET.pixels])
LEFT, RIGHT = known(TARGET), shifted(known(TARGET), 360)


def told(source: Sequence[Face] = (known(SOURCE),), target: Sequence[Face] = (known(TARGET),)) -> Told:
    return Told({SOURCE.pixels.shape[:2]: tuple(source), TARGET.pixels.shape[:2]: tuple(target), PAIR.shape[:2]: (LEFT, RIGHT)})


def failing(detector: Told, **options) -> FaceUnusable:
    with pytest.raises(FaceUnusable) as failed:
        pipeline.swap_face(SOURCE.pixels, TARGET.pixels, detector=detector, swapper=options.pop("swapper", painter()), **options)
    return failed.value


def turned(yaw: float) -> Face:
    return known(draw(PEOPLE["ada"], pose=Pose(yaw=yaw), side=300, eyes_px=60))


def test_a_face_comes_into_the_target():
    result = pipeline.swap_face(SOURCE.pixels, TARGET.pixels, detector=told(), swapper=ClassicalSwapper())
    assert [swapped.face for swapped in result.swapped] == [known(TARGET)]
    assert (result.frame != TARGET.pixels).any()
    assert result.mask.shape == TARGET.pixels.shape[:2]


@pytest.mark.parametrize(
    ("faces", "failure"),
    [
        ((), Failure.NO_FACE),
        ((known(SOURCE).scaled(0.2),), Failure.FACE_TOO_SMALL),
        ((turned(45),), Failure.FACE_TURNED),
        ((turned(-45),), Failure.FACE_TURNED),
        ((shifted(known(SOURCE), 220),), Failure.FACE_CUT_OFF),
        ((replace(known(SOURCE), points=((150.0, 150.0),) * 5),), Failure.FACE_TURNED),
        ((replace(known(SOURCE), points=((150.0, 150.0),) * 2),), Failure.FACE_TURNED),
    ],
    ids=["none", "small", "turned right", "turned left", "cut off", "five points on one spot", "two eyes on one spot"],
)
@pytest.mark.parametrize("role", Role)
def test_what_cannot_be_used_is_named_with_whose_picture_it_is(faces, failure, role):
    detector = told(source=faces) if role is Role.SOURCE else told(target=faces)
    error = failing(detector)
    assert (error.failure, error.role) == (failure, role)


def test_two_faces_of_like_size_make_a_source_ambiguous():
    face = known(SOURCE)
    rival = replace(face, width=0.7 * face.width, height=0.7 * face.height)
    assert failing(told(source=(face, rival))).failure is Failure.SOURCE_AMBIGUOUS


def test_a_passer_by_does_not_make_a_source_ambiguous():
    face = known(SOURCE)
    passer_by = replace(face, width=0.5 * face.width, height=0.5 * face.height)
    assert pipeline.source_face([passer_by, face], SOURCE.pixels, painter().limits) == face


def test_an_index_that_is_not_there_is_told_from_no_face():
    assert failing(told(), choice=AtIndex(1)).failure is Failure.FACE_INDEX_ABSENT
    assert failing(told(target=()), choice=AtIndex(0)).failure is Failure.NO_FACE


def test_an_input_never_comes_back_as_a_result():
    assert failing(told(), swapper=painter(colour=None)).failure is Failure.NOTHING_CHANGED


def test_all_faces_go_to_the_swapper_at_once():
    swapper = painter()
    result = pipeline.swap_face(SOURCE.pixels, PAIR, detector=told(), swapper=swapper, choice=Every())
    assert swapper.batches == [2]
    assert len(result.swapped) == 2
    assert result.mask[:, :360].any()
    assert result.mask[:, 360:].any()


def test_only_the_face_that_is_meant_is_changed():
    result = pipeline.swap_face(SOURCE.pixels, PAIR, detector=told(), swapper=painter(), choice=AtIndex(1))
    assert not result.mask[:, :360].any()
    assert np.array_equal(result.frame[:, :360], PAIR[:, :360])


def test_a_face_that_cannot_be_changed_is_named_beside_those_that_were():
    small = LEFT.scaled(0.2)
    detector = Told({SOURCE.pixels.shape[:2]: (known(SOURCE),), PAIR.shape[:2]: (small, RIGHT)})
    result = pipeline.swap_face(SOURCE.pixels, PAIR, detector=detector, swapper=painter(), choice=Every())
    assert [(skipped.face, skipped.failure) for skipped in result.skipped] == [(small, Failure.FACE_TOO_SMALL)]
    assert [swapped.face for swapped in result.swapped] == [RIGHT]


@pytest.mark.parametrize("swapper", [painter(answers=0), painter(side=32), painter(confidence=float("nan")), painter(confidence=2)])
def test_a_swapper_that_breaks_its_contract_is_a_fault_of_ours(swapper):
    with pytest.raises(SwapFault):
        pipeline.swap_face(SOURCE.pixels, TARGET.pixels, detector=told(), swapper=swapper)


def test_a_short_answer_of_the_detector_is_a_fault_of_ours():
    class Silent(Told):
        def detect(self, frames):  # noqa: ARG002
            return []

    with pytest.raises(SwapFault):
        pipeline.swap_face(SOURCE.pixels, TARGET.pixels, detector=Silent({}), swapper=painter())


def test_the_detector_gets_small_frames_and_its_answers_are_led_back():
    half = known(TARGET).scaled(0.5)
    detector = Told({(180, 180): (half,)}, max_side=180)
    (face,) = pipeline.detect(TARGET.pixels, detector)
    assert face.points[0] == pytest.approx(known(TARGET).points[0])


def test_as_a_stage_it_changes_the_tracks_it_is_given_and_nothing_else():
    source = pipeline.prepare_source(SOURCE.pixels, detector=told(), swapper=painter())
    swapper = painter()
    stage = pipeline.SwapStage(source, swapper)
    seen, unseen = Track(id=1, faces=(LEFT, None)), Track(id=2, faces=(None, None))
    moments = [Moment(frames=(PAIR, PAIR), at=at, time_s=0.04 * at, tracks=(seen, unseen)) for at in (0, 1)]
    changed, passed = stage.apply(moments)
    assert swapper.batches == [1]
    assert changed.tracks == (1,)
    assert changed.mask[:, :360].any()
    assert not changed.mask[:, 360:].any()
    assert np.array_equal(passed.frame, PAIR)
    assert not passed.mask.any()


def test_as_a_stage_it_lets_a_mask_change_only_bit_by_bit_from_frame_to_frame():
    source = pipeline.prepare_source(SOURCE.pixels, detector=told(), swapper=painter())
    moment = Moment(frames=(PAIR,), at=0, time_s=0.0, tracks=(Track(id=1, faces=(LEFT,)),))

    class Flickering(Painter):
        def swap(self, tasks):
            return [replace(crop, mask=crop.mask * (len(self.batches) % 2)) for crop in super().swap(tasks)]

    stage = pipeline.SwapStage(source, Flickering())
    peaks = [int(stage.apply([moment])[0].mask.max()) for _ in range(4)]
    assert peaks[0] == 255
    assert all(100 < peak < 255 for peak in peaks[1:])


def test_the_real_detector_and_swapper_work_together(yunet):
    portrait_like = draw(PEOPLE["dag"], pose=Pose(yaw=10), side=400, eyes_px=80)
    result = pipeline.swap_face(SOURCE.pixels, portrait_like.pixels, detector=yunet, swapper=ClassicalSwapper(), choice=Largest())
    assert len(result.swapped) == 1
    too_far = draw(PEOPLE["dag"], pose=Pose(yaw=48), side=400, eyes_px=80)
    with pytest.raises(FaceUnusable, match="face_turned"):
        pipeline.swap_face(SOURCE.pixels, too_far.pixels, detector=yunet, swapper=ClassicalSwapper())


def test_the_fallback_is_enough_for_a_swap(cascade):
    source, target = draw(PEOPLE["ada"], side=400, eyes_px=80), draw(PEOPLE["bo"], side=400, eyes_px=80)
    result = pipeline.swap_face(source.pixels, target.pixels, detector=cascade, swapper=ClassicalSwapper())
    middle = tuple(int(v) for v in target.points[2])
    assert result.mask[middle[1], middle[0]] == 255


def test_a_scene_without_people_is_no_face(cascade):
    scene = Shot(pixels=np.random.default_rng(3).integers(0, 256, (200, 200, 3), np.uint8), points=TARGET.points)
    with pytest.raises(FaceUnusable, match="no_face"):
        pipeline.prepare_source(scene.pixels, detector=cascade, swapper=ClassicalSwapper())
