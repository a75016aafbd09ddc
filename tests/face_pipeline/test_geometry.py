from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.drawn_faces import PEOPLE, Pose, draw
from face_pipeline import geometry
from face_pipeline.geometry import TEMPLATE


@given(angle=st.floats(-3.1, 3.1), scale=st.floats(0.05, 20), x=st.floats(-500, 500), y=st.floats(-500, 500), count=st.sampled_from([2, 5]))
def test_a_similarity_is_found_again(angle, scale, x, y, count):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wanted = np.column_stack([turn, (x, y)])
    points = TEMPLATE[:count] * 100
    found = geometry.similarity(points, geometry.transform(points, wanted))
    assert np.allclose(found, wanted, atol=1e-6 * max(1, scale, abs(x), abs(y)))
    assert geometry.scale_of(found) == pytest.approx(scale)
    assert np.allclose(geometry.transform(geometry.transform(points, found), geometry.inverse(found)), points, atol=1e-6)


def test_a_mirror_image_is_never_answered_with_a_reflection():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(geometry.similarity(TEMPLATE, mirrored)[:, :2]) > 0


def test_coinciding_points_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        geometry.similarity(np.zeros((5, 2)), TEMPLATE)
    with pytest.raises(ValueError, match="coincide"):
        geometry.similarity(TEMPLATE, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="coincide"):
        geometry.pose(np.zeros((5, 2)))


def test_the_natural_crop_has_the_pixels_of_the_frame():
    assert geometry.natural_px(TEMPLATE * 300 + 40) == pytest.approx(300)
    assert geometry.natural_px(TEMPLATE[:2] * 300) == pytest.approx(300)


def test_what_a_crop_covers_stays_within_the_frame():
    shift = np.array([(1.0, 0, -30), (0, 1.0, 90)])
    assert geometry.covered(shift, (0, 0, 100, 100), 200, 120) == geometry.Region(left=0, top=90, width=71, height=30)
    assert geometry.covered(shift, (0, 100, 10, 110), 200, 120).is_empty


@pytest.mark.parametrize("yaw", [-45, -35, -20, 0, 20, 35, 45])
def test_yaw_has_the_right_sign_and_order(yaw):
    points = draw(PEOPLE["ada"], pose=Pose(yaw=yaw, roll=12), side=64, eyes_px=20).points.astype(float)
    pose = geometry.pose(points)
    assert pose is not None
    assert np.sign(round(pose.yaw / 10)) == np.sign(yaw)
    assert (abs(pose.yaw) > 30) == (abs(yaw) >= 35)
    assert pose.roll == pytest.approx(12, abs=4)


def test_two_eyes_do_not_tell_the_pose():
    assert geometry.pose(TEMPLATE[:2]) is None
