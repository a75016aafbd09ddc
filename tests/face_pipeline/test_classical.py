from __future__ import annotations

import dataclasses
import pickle

import cv2
import numpy as np
import pytest

from bench.swap import known
from deployments.drawn_faces import PEOPLE, Light, Pose, Shot, draw
from face_pipeline import classical, pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.errors import SwapFault
from face_pipeline.swapper import Identity, SwapTask

SWAPPER = ClassicalSwapper()


def learnt(shot: Shot) -> pipeline.Source:
    crop, _ = pipeline.aligned(shot.pixels, known(shot), SWAPPER)
    return pipeline.Source(face=known(shot), identity=SWAPPER.prepare([crop])[0])


def swapped(source: Shot, target: Shot) -> pipeline.Rendered:
    return pipeline.change(target.pixels, [known(target)], learnt(source), swapper=SWAPPER)


def lab(pixels):
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def cheeks(shot: Shot, pixels=None):
    """Mean Lab of a patch on each cheek."""
    picture, apart = lab(shot.pixels if pixels is None else pixels), np.hypot(*(shot.points[1] - shot.points[0]))
    places = [(shot.points[eye] + shot.points[mouth]) / 2 for eye, mouth in ((0, 3), (1, 4))]
    return np.array([picture[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5].mean(axis=(0, 1)) for x, y in places]), apart


def eyes_of(shot: Shot, pixels):
    """The eye region in canonical space, its light evened out: what makes one drawn person differ from another."""
    crop, _ = pipeline.blending.cut(pixels, shot.points.astype(float), 128)
    part = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[42:68, 30:98].astype(np.float32)
    part -= cv2.GaussianBlur(part, (0, 0), 8)
    return part / part.std()


def likeness(one, other):
    return float((one * other).mean())


def test_the_eyes_become_those_of_the_source(ada, bo):
    result = swapped(bo, ada).frame
    after = eyes_of(ada, result)
    assert likeness(after, eyes_of(bo, bo.pixels)) > 0.9
    assert likeness(after, eyes_of(bo, bo.pixels)) > likeness(after, eyes_of(ada, ada.pixels)) + 0.03


@pytest.mark.parametrize("light", [Light(), Light(colour=(1, 0.75, 0.5), exposure=0.7), Light(direction=(1, -0.2, 0.5), ambient=0.3)])
def test_the_skin_keeps_the_colour_and_light_of_the_target(bo, light):
    target = draw(PEOPLE["chi"], light=light, side=320, eyes_px=72)
    before, _ = cheeks(target)
    after, _ = cheeks(target, swapped(bo, target).frame)
    assert np.abs(after - before).max() < 12


@pytest.mark.parametrize("pose", [Pose(), Pose(roll=30), Pose(yaw=18, pitch=8), Pose(yaw=-18, roll=-20)])
def test_nothing_changes_outside_the_mask_and_the_mask_stays_on_the_face(ada, pose):
    target = draw(PEOPLE["bo"], pose=pose, side=320, eyes_px=60)
    result = swapped(ada, target)
    differs = (result.frame != target.pixels).any(axis=2)
    assert not differs[result.mask == 0].any()
    assert differs[result.mask > 128].mean() > 0.7
    y, x = np.nonzero(result.mask)
    apart = np.hypot(*(target.points[1] - target.points[0]))
    centre = target.points.mean(axis=0)
    assert np.hypot(x - centre[0], y - centre[1]).max() < 1.6 * apart / np.cos(np.radians(pose.yaw))


def test_a_mouth_that_is_open_is_kept(ada, eve):
    result = swapped(ada, eve)
    x, y = ((eve.points[3] + eve.points[4]) / 2).astype(int)
    mouth = np.s_[y - 2 : y + 8, x - 14 : x + 14]
    assert np.array_equal(result.frame[mouth], eve.pixels[mouth])


def test_no_teeth_are_pasted_over_closed_lips(ada, eve):
    result = swapped(eve, ada)
    x, y = ((ada.points[3] + ada.points[4]) / 2).astype(int)
    mouth = np.s_[y - 4 : y + 6, x - 14 : x + 14]
    assert np.array_equal(result.frame[mouth], ada.pixels[mouth])


def test_two_closed_mouths_give_the_sources_lips(ada, bo):
    result = swapped(bo, ada)
    x, y = ((ada.points[3] + ada.points[4]) / 2).astype(int)
    assert result.mask[y, x] == 255


def test_openings_are_measured():
    widths = []
    for opening in (0.0, 0.1, 0.2, 0.3):
        shot = draw(dataclasses.replace(PEOPLE["bo"], mouth_open=opening), side=320, eyes_px=72)
        crop, _ = pipeline.aligned(shot.pixels, known(shot), SWAPPER)
        top, bottom = classical._opening(crop.pixels, np.array(classical._fractions(crop)))
        widths.append(bottom - top)
    assert widths[0] < 0.07
    assert widths[1] > 0.1
    assert widths == sorted(widths)


def test_a_blurred_target_stays_blurred(ada):
    target = draw(PEOPLE["dag"], side=320, eyes_px=72)
    blurred = Shot(pixels=np.asarray(cv2.GaussianBlur(target.pixels, (0, 0), 3), np.uint8), points=target.points)

    def detail(pixels):
        light = lab(pixels)[120:200, 110:210, 0]
        return np.abs(light - cv2.GaussianBlur(light, (0, 0), 1.2)).mean()

    assert detail(swapped(ada, blurred).frame) < 0.6 * detail(swapped(ada, target).frame)


def test_a_fringe_over_the_targets_forehead_stays(ada):
    target = draw(dataclasses.replace(PEOPLE["chi"], fringe=0.9), side=320, eyes_px=72)
    result = swapped(ada, target)
    apart = 72
    x, y = target.points[:2].mean(axis=0)
    hair = np.s_[int(y - 0.85 * apart) : int(y - 0.7 * apart), int(x - 0.5 * apart) : int(x + 0.5 * apart)]
    assert np.abs(result.frame[hair].astype(int) - target.pixels[hair]).mean() < 6


def test_swapping_is_deterministic_and_writes_to_no_input(ada, bo):
    before = ada.pixels.copy(), bo.pixels.copy()
    first, second = swapped(bo, ada), swapped(bo, ada)
    assert np.array_equal(first.frame, second.frame)
    assert np.array_equal(ada.pixels, before[0])
    assert np.array_equal(bo.pixels, before[1])


def test_an_identity_survives_a_pickle(ada, bo):
    source = pickle.loads(pickle.dumps(learnt(bo)))  # noqa: S301  our own
    again = pipeline.change(ada.pixels, [known(ada)], source, swapper=SWAPPER)
    assert np.array_equal(again.frame, swapped(bo, ada).frame)


def test_an_identity_travels_without_what_can_be_made_again(bo):
    identity = learnt(bo).identity
    sent = pickle.dumps(identity)
    largest = identity.value.levels[0].nbytes
    assert len(identity.value.levels) > 1
    assert largest < len(sent) < 1.05 * largest
    again = pickle.loads(sent)  # noqa: S301  our own
    assert [(level == other).all() for level, other in zip(again.value.levels, identity.value.levels, strict=True)] == [True, True]


def test_another_swappers_identity_is_a_fault(ada):
    crop, _ = pipeline.aligned(ada.pixels, known(ada), SWAPPER)
    with pytest.raises(SwapFault, match="neural"):
        SWAPPER.swap([SwapTask(target=crop, identity=Identity(swapper="neural", value=(0.0,)))])


@pytest.mark.parametrize(("natural", "crop"), [(10.0, 96), (96.5, 112), (300.0, 304), (5000.0, 768)])
def test_crops_have_the_frames_resolution_within_bounds(natural, crop):
    assert SWAPPER.crop_px(natural) == crop


@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_pictures_do_not_break_the_arithmetic(ada, value):
    plain = np.full_like(ada.pixels, value)
    result = pipeline._laid_back(plain, [known(ada)], learnt(ada), SWAPPER)
    assert result[0].dtype == np.uint8
    grey = Shot(pixels=plain, points=ada.points)
    assert pipeline._laid_back(ada.pixels, [known(ada)], learnt(grey), SWAPPER)[0].shape == ada.pixels.shape


def test_two_eyes_are_enough(ada, bo):
    face = dataclasses.replace(known(ada), points=known(ada).points[:2])
    result = pipeline.change(ada.pixels, [face], learnt(bo), swapper=SWAPPER)
    after = eyes_of(ada, result.frame)
    assert likeness(after, eyes_of(bo, bo.pixels)) > likeness(after, eyes_of(ada, ada.pixels))
