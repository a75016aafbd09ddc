from __future__ import annotations

import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from bench.pictures import picture
from deployments.drawn_faces import PEOPLE, Light, Pose, draw, portrait
from face_pipeline import geometry
from face_pipeline.detector import YUNET_FILE, YuNet, eye_centre, shrink
from face_pipeline.errors import DetectorUnavailable, ModelRefused
from face_pipeline.pipeline import detect


def off(face, shot, count):
    """The worst error of the points, in eye distances."""
    apart = np.hypot(*(shot.points[1] - shot.points[0]))
    return np.hypot(*(face.array()[:count] - shot.points[:count]).T).max() / apart


def test_a_model_that_is_not_the_pinned_one_is_not_opened():
    with pytest.raises(ModelRefused) as refused:
        YuNet(b"another file")
    assert refused.value.found_sha256 != refused.value.expected_sha256


def test_a_pinned_file_that_is_no_model_is_a_fact_and_not_a_crash():
    with pytest.raises(DetectorUnavailable):
        YuNet(b"nothing", expected_sha256=hashlib.sha256(b"nothing").hexdigest())


def test_a_missing_model_is_named_without_its_folder(tmp_path):
    with pytest.raises(DetectorUnavailable) as gone:
        YuNet.from_file(tmp_path / YUNET_FILE)
    assert str(tmp_path) not in str(gone.value)


def test_a_frame_is_made_no_larger():
    frame = np.zeros((40, 1000, 3), np.uint8)
    small, back = shrink(frame, 500)
    assert (small.shape, back) == ((20, 500, 3), 2.0)
    assert shrink(small, 500)[0] is small


def test_an_iris_is_found_where_it_is():
    y, x = np.mgrid[0:30, 0:40]
    patch = np.where((x - 23) ** 2 + (y - 13) ** 2 < 36, 40, 200).astype(np.uint8)
    centre, agreement = eye_centre(patch)
    assert centre == pytest.approx((23, 13), abs=1)
    assert agreement > 0.6


def test_a_plain_patch_has_no_iris():
    assert eye_centre(np.full((20, 30), 90, np.uint8)) == ((14.5, 9.5), 0.0)


@pytest.mark.parametrize("name", sorted(PEOPLE))
def test_yunet_finds_drawn_people(yunet, name):
    shot = draw(PEOPLE[name], pose=Pose(yaw=12, roll=-18), side=400, eyes_px=70)
    (face,) = yunet.detect([shot.pixels])[0]
    assert off(face, shot, 2) < 0.1
    assert off(face, shot, 5) < 0.2


@pytest.mark.parametrize(("yaw", "is_too_far"), [(-45, True), (-15, False), (0, False), (15, False), (45, True)])
def test_yunet_tells_a_turned_head(yunet, yaw, is_too_far):
    (face,) = yunet.detect([draw(PEOPLE["chi"], pose=Pose(yaw=yaw), side=400, eyes_px=70).pixels])[0]
    assert (abs(geometry.pose(face.array()).yaw) > 30) == is_too_far


def test_yunet_answers_in_the_pixels_of_each_frame(yunet):
    shots = [draw(PEOPLE["bo"], side=800, eyes_px=90), draw(PEOPLE["bo"], side=300, eyes_px=60)]
    for shot, faces in zip(shots, yunet.detect([shot.pixels for shot in shots]), strict=True):
        assert off(faces[0], shot, 2) < 0.1


def test_yunet_sees_a_face_that_fills_the_frame(yunet):
    shot = draw(PEOPLE["ada"], side=420, eyes_px=180)
    assert off(yunet.detect([shot.pixels])[0][0], shot, 2) < 0.15


def test_the_fallback_finds_upright_faces_by_their_eyes(cascade):
    for shot in (portrait(), draw(PEOPLE["ada"], side=400, eyes_px=80), draw(PEOPLE["bo"], side=400, eyes_px=80)):
        found = detect(shot.pixels, cascade)
        assert len(found) == 1
        assert len(found[0].points) == 2
        assert off(found[0], shot, 2) < 0.15


def test_the_fallback_sees_no_face_in_what_is_none(cascade):
    textures = [np.asarray(Image.open(BytesIO(picture(seed, 400, 300)))) for seed in range(3)]
    assert cascade.detect([*textures, np.full((300, 300, 3), 128, np.uint8)]) == [(), (), (), ()]


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 300, 3), (300, 8, 3), (32, 32, 3)])
def test_small_frames_have_no_face_and_do_no_harm(cascade, shape):
    assert cascade.detect([np.full(shape, 128, np.uint8)]) == [()]


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 300, 3), (300, 8, 3), (32, 32, 3)])
def test_yunet_is_not_harmed_by_small_frames(yunet, shape):
    assert yunet.detect([np.full(shape, 128, np.uint8)]) == [()]


def test_yunet_finds_faces_in_hard_light(yunet):
    shot = draw(PEOPLE["chi"], light=Light(direction=(1, -0.2, 0.5), ambient=0.25), side=400, eyes_px=70)
    assert off(yunet.detect([shot.pixels])[0][0], shot, 2) < 0.1
