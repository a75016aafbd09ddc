from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from face_pipeline import geometry
from face_pipeline.faces import Face, Frame
from face_pipeline.tracks import COVER_S, DETECT_EVERY, Sights, Tracker, colours, is_cut, overlap
from tests.moving_faces import FPS, HEIGHT, WIDTH, Clip, ToldByFrame, background, clip, joined

HELD = 10


def swing(at: int) -> tuple[float, float]:
    """To and fro, up to 6 pixels a frame."""
    return 160 + 50 * math.sin(at / 8), 120 + 8 * math.sin(at / 5)


SWING = clip({"ada": swing}, 30)
BESIDE = clip({"ada": lambda at: (90 + 1.5 * at, 110), "bo": lambda at: (230 - 1.5 * at, 130)}, 24, scene=2)


def tracked(film: Clip, detector: ToldByFrame, *, every: int = DETECT_EVERY, fps: float = FPS) -> list[Sights]:
    """As they are known `HELD` frames later."""
    tracker, taken = Tracker(detector, every=every), []
    for at, frame in enumerate(film.frames):
        tracker.see(at, at / fps, frame)
        if at >= HELD:
            taken.append(tracker.take())
    return taken + [tracker.take() for _ in film.frames[:HELD]]


def points_of(sights: list[Sights]) -> np.ndarray:
    """Of the only track."""
    return np.array([next(iter(frame.tracks.values())).face.points for frame in sights])


def truth(film: Clip) -> np.ndarray:
    return np.array([faces[0].points for faces in film.faces])


def tremble(points: np.ndarray, film: Clip) -> float:
    """How far the error moves from frame to frame, in pixels."""
    return float(np.sqrt((np.diff(points - truth(film), axis=0) ** 2).sum(axis=-1).mean()))


@pytest.mark.parametrize("every", [1, DETECT_EVERY])
def test_points_tremble_far_less_than_the_detectors_and_do_not_lag(every):
    detector = SWING.detector(noise_px=1.5)
    before = np.array([detector.answers[id(frame)][0].points for frame in SWING.frames])
    after = points_of(tracked(SWING, detector, every=every))
    assert tremble(after, SWING) < 0.25 * tremble(before, SWING)
    speed = np.gradient(truth(SWING)[:, 0, 0])
    late = (truth(SWING) - after).mean(axis=1)[:, 0] * np.sign(speed)
    assert abs(late[8:].mean()) < 0.3  # pixels; a filter of the points alone would be several behind


def test_the_detector_is_asked_on_every_third_frame_of_a_shot():
    detector = SWING.detector()
    tracked(SWING, detector)
    assert len(detector.asked) == math.ceil(len(SWING.frames) / DETECT_EVERY)


def test_a_face_that_jumps_is_asked_about_at_once():
    still = clip({"ada": lambda at: (100, 120) if at < 4 else (220, 110)}, 9)
    detector = still.detector()
    sights = tracked(still, detector)
    assert id(still.frames[4]) in detector.asked
    (there,) = [sight.face for sight in sights[4].tracks.values() if sight.certainty > 0]
    assert there.points[0] == pytest.approx(still.faces[4][0].points[0], abs=2)


def test_two_people_keep_their_tracks_whatever_the_order_in_which_they_are_found():
    detector = BESIDE.detector()
    shuffled = {id(frame): faces[:: (-1) ** at] for at, (frame, faces) in enumerate(zip(BESIDE.frames, BESIDE.faces, strict=True))}
    sights = tracked(BESIDE, ToldByFrame({**detector.answers, **shuffled}), every=1)
    for at, frame in enumerate(sights):
        assert frame.tracks.keys() == {0, 1}
        for track, face in zip((0, 1), BESIDE.faces[at], strict=True):
            assert overlap(frame.tracks[track].face, face) > 0.8


def test_a_gap_is_bridged_where_the_face_really_is():
    missing = range(7, 17)
    sights = tracked(SWING, SWING.detector(missing=missing))
    for at, frame in enumerate(sights):
        (sight,) = frame.tracks.values()
        assert sight.certainty > 0
        assert np.hypot(*(sight.face.array() - truth(SWING)[at]).T).max() < 2.5
    assert {frame.tracks[0].is_carried for frame in sights[9:17]} == {True}
    assert not any(frame.tracks[0].is_carried for frame in sights[18:])


def test_certainty_falls_while_nothing_is_found_and_ends_at_0():
    sights = tracked(SWING, SWING.detector(missing=range(5, 30)))
    certainties = [frame.tracks[0].certainty for frame in sights[6:]]
    assert certainties == sorted(certainties, reverse=True)
    assert certainties[-1] == 0


def test_a_face_that_is_found_late_has_been_there_before():
    sights = tracked(SWING, SWING.detector(missing=range(6)))
    for at in range(6):
        (sight,) = sights[at].tracks.values()
        assert sight.certainty > 0
        assert np.hypot(*(sight.face.array() - truth(SWING)[at]).T).max() < 2.5


def test_nobody_is_looked_back_into_frames_where_nobody_was():
    empty = clip({}, 5)
    sights = tracked(joined(empty, clip({"ada": lambda _: (160, 120)}, 6)), ToldByFrame({}))
    assert not any(frame.tracks for frame in sights)
    film = joined(empty, clip({"ada": lambda _: (160, 120)}, 6))
    sights = tracked(film, film.detector())
    assert [bool(frame.tracks) for frame in sights[:5]] == [False] * 5
    assert all(frame.tracks for frame in sights[6:])


def test_a_new_shot_has_new_tracks_and_is_looked_at_in_its_first_frame():
    second = clip({"bo": lambda at: (150 + at, 120)}, 6, scene=5)
    film = joined(Clip(SWING.frames[:7], SWING.faces[:7]), second)
    detector = film.detector()
    sights = tracked(film, detector)
    assert [frame.is_cut for frame in sights] == [True, *[False] * 6, True, *[False] * 5]
    assert {id(film.frames[7])} <= set(detector.asked)
    assert [set(frame.tracks) for frame in sights] == [{0}] * 7 + [{1}] * 6


def test_moving_pictures_and_a_light_that_changes_are_no_cuts_but_another_scene_is():
    wide = np.tile(background(3), (1, 2, 1))
    panned = [np.ascontiguousarray(wide[:, step : step + WIDTH]) for step in (0, 12, 24)]

    def cut(first: Frame, second: Frame) -> bool:
        return is_cut(colours(first), colours(second))

    assert not cut(panned[0], panned[1])
    assert not cut(panned[1], panned[2])
    assert not cut(panned[0], np.asarray(cv2.convertScaleAbs(panned[0], alpha=0.8), np.uint8))
    assert cut(panned[0], background(4))
    assert cut(panned[0], np.zeros((HEIGHT, WIDTH, 3), np.uint8))


def test_who_leaves_is_given_up_after_a_while_and_not_before():
    film = joined(clip({"ada": lambda _: (160, 120)}, 3), clip({}, 14))
    sights = tracked(film, film.detector(), every=1, fps=4)
    assert not any(frame.is_cut for frame in sights[1:])
    assert [bool(frame.tracks) for frame in sights] == [True] * (3 + int(4 * COVER_S)) + [False] * (14 - int(4 * COVER_S))
    assert all(sight.certainty == 0 for frame in sights[6:] for sight in frame.tracks.values())


def test_the_same_clip_gives_the_same_tracks():
    detector = SWING.detector(noise_px=1)
    assert tracked(SWING, detector) == tracked(SWING, detector)


def test_points_on_one_spot_make_no_track():
    face = SWING.faces[0][0]
    spot = Face(left=face.left, top=face.top, width=face.width, height=face.height, points=((50.0, 50.0),) * 5, score=1.0)
    sights = tracked(SWING, ToldByFrame({id(frame): (spot,) for frame in SWING.frames}))
    assert not any(frame.tracks for frame in sights)
    assert sights[0].found == 1


def test_two_points_are_tracked_as_well_as_five():
    eyes = {
        id(frame): tuple(Face(left=f.left, top=f.top, width=f.width, height=f.height, points=f.points[:2], score=1.0) for f in faces)
        for frame, faces in zip(SWING.frames, SWING.faces, strict=True)
    }
    after = points_of(tracked(SWING, ToldByFrame(eyes)))
    assert np.abs(after - truth(SWING)[:, :2]).max() < 2
    assert len(geometry.TEMPLATE) == 5
