from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from bench.swap import known
from deployments.drawn_faces import PEOPLE, draw
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.errors import Failure
from face_pipeline.faces import AtIndex, Choice, Every, Face, Frame, Largest
from face_pipeline.motion import AHEAD, BATCH, Shown, VideoSwap
from face_pipeline.pipeline import Source, aligned
from face_pipeline.swapper import Identity
from tests.moving_faces import FPS, Clip, Painter, ToldByFrame, clip, joined

SWING = clip({"bo": lambda at: (160 + 40 * math.sin(at / 7), 120)}, 40)
TWO = clip({"ada": lambda at: (90 + at, 110), "bo": lambda at: (230 - at, 130)}, 20, scene=2)
EMPTY = clip({}, 6)
SOURCE = Source(face=SWING.faces[0][0], identity=Identity(swapper="painter", value=None))
LARGEST = Largest()


def swapped(
    film: Clip,
    detector: ToldByFrame,
    *,
    choice: Choice = LARGEST,
    painter: Painter | None = None,
    meant: tuple[Face, ...] = (),
    first: int = 0,
) -> tuple[list[Shown], VideoSwap]:
    video = VideoSwap(SOURCE, detector=detector, swapper=painter or Painter(), choice=choice, meant=meant)
    shown = [done for at, frame in enumerate(film.frames, start=first) for done in video.push(at, at / FPS, frame)]
    return shown + video.flush(), video


def nose(frame: Frame, face: Face) -> np.ndarray:
    """The pixels around the nose."""
    x, y = (round(value) for value in face.points[2])
    return frame[y - 3 : y + 4, x - 3 : x + 4].astype(int)


def is_painted(frame: Frame, face: Face) -> bool:
    return bool(nose(frame, face).mean() > 245)


def detail(frame: Frame, face: Face) -> float:
    """How much a face differs from pixel to pixel: eyes, brows, nostrils, grain."""
    left, top, width, height = (round(value) for value in (face.left, face.top, face.width, face.height))
    part = frame[top : top + height, left : left + width].astype(float)
    return float(np.abs(np.diff(part, axis=1)).mean())


def test_every_frame_comes_back_once_in_order_with_its_own_time_and_nothing_else_changed():
    before = [frame.copy() for frame in SWING.frames]
    shown, video = swapped(SWING, SWING.detector())
    assert [(done.index, done.time_s) for done in shown] == [(at, at / FPS) for at in range(40)]
    for done, frame, old in zip(shown, SWING.frames, before, strict=True):
        assert np.array_equal(frame, old)
        assert np.array_equal(done.frame[done.mask == 0], frame[done.mask == 0])
    assert all(is_painted(done.frame, SWING.faces[done.index][0]) for done in shown)
    assert video.counts == {"frames": 40, "with_faces": 40, "meant": 40, "changed": 40, "carried": 0, "covered": 0}
    assert video.failure is None


def test_no_more_frames_are_held_than_was_said_and_faces_go_to_the_swapper_in_batches():
    painter = Painter()
    video = VideoSwap(SOURCE, detector=SWING.detector(), swapper=painter)
    out = 0
    for at, frame in enumerate(SWING.frames, start=1):
        out += len(video.push(at, at / FPS, frame))
        assert at - out < AHEAD + BATCH
    assert set(painter.batches) == {BATCH}
    assert out + len(video.flush()) == len(SWING.frames)


@pytest.mark.parametrize("seed", range(3))
def test_the_face_never_shows_through_whichever_frames_the_detector_misses(seed):
    missing = [at for at in range(len(SWING.frames)) if at != 6 and np.random.default_rng(seed).random(40)[at] < 0.7]
    shown, video = swapped(SWING, SWING.detector(missing=missing, noise_px=1))
    for done in shown:
        face = SWING.faces[done.index][0]
        assert is_painted(done.frame, face) or detail(done.frame, face) < 0.3 * detail(SWING.frames[done.index], face)
    assert video.counts["frames"] == 40


def test_a_face_that_is_missed_for_long_is_carried_on_and_then_covered():
    shown, video = swapped(SWING, SWING.detector(missing=range(10, 40)))
    kinds = "".join("C" if done.covered else "c" if done.carried else "S" for done in shown)
    assert kinds == "".join(sorted(kinds, key="ScC".index))
    assert {"S", "c", "C"} == set(kinds)
    for done in shown:
        if done.covered:
            face = SWING.faces[done.index][0]
            assert not is_painted(done.frame, face)
            assert detail(done.frame, face) < 0.3 * detail(SWING.frames[done.index], face)
    assert video.counts["covered"] == kinds.count("C")


def test_a_face_is_changed_in_the_frames_before_it_was_found():
    shown, _ = swapped(SWING, SWING.detector(missing=range(6)))
    assert all(is_painted(done.frame, SWING.faces[done.index][0]) for done in shown)
    assert [bool(done.carried) for done in shown[:6]] == [True] * 6


def test_a_face_that_is_turned_too_far_is_covered_and_the_cover_comes_and_goes_smoothly():
    shown, video = swapped(SWING, SWING.detector(turned=range(15, 24)))
    covered = [done.index for done in shown if done.covered]
    assert covered == list(range(covered[0], covered[-1] + 1))
    assert set(range(18, 23)) <= set(covered)
    assert not any(is_painted(done.frame, SWING.faces[done.index][0]) for done in shown if done.covered)
    light = [nose(done.frame, SWING.faces[done.index][0]).mean() for done in shown]
    assert max(abs(a - b) for a, b in itertools.pairwise(light)) < 0.6 * (max(light) - min(light))  # at once it would be 1
    assert video.failure is None


def test_a_pose_at_the_limit_does_not_flicker():
    shown, _ = swapped(SWING, SWING.detector(turned=[at for at in range(9, 28) if at % 6 < 3]))
    switches = sum(bool(a.covered) != bool(b.covered) for a, b in itertools.pairwise(shown))
    assert switches == 2


def test_who_was_chosen_stays_chosen_while_somebody_else_becomes_larger():
    grown = {
        id(frame): (faces[0], replace(faces[1], width=faces[1].width * (0.8 + 0.04 * at), height=faces[1].height * (0.8 + 0.04 * at)))
        for at, (frame, faces) in enumerate(zip(TWO.frames, TWO.faces, strict=True))
    }
    shown, _ = swapped(TWO, ToldByFrame(grown))
    for done in shown:
        first, second = TWO.faces[done.index]
        assert (is_painted(done.frame, first), is_painted(done.frame, second)) == (True, False)


@pytest.mark.parametrize(("choice", "expected"), [(Every(), (True, True)), (AtIndex(1), (False, True)), (AtIndex(0), (True, False))])
def test_a_choice_holds_for_the_whole_shot(choice, expected):
    shown, _ = swapped(TWO, TWO.detector(), choice=choice)
    for done in shown:
        assert tuple(is_painted(done.frame, face) for face in TWO.faces[done.index]) == expected


def test_who_jumps_further_than_can_be_followed_is_not_shown_there_as_somebody_else():
    film = clip({"ada": lambda at: (70, 120) if at < 9 else (240, 110)}, 20)
    shown, _ = swapped(film, film.detector())
    for done in shown:
        face = film.faces[done.index][0]
        assert np.abs(nose(done.frame, face) - nose(film.frames[done.index], face)).mean() > 25
    assert all(is_painted(done.frame, film.faces[done.index][0]) for done in shown[9:])
    assert all(done.changed == 1 for done in shown)  # and nobody is painted where nobody is any more


def test_a_face_that_the_swapper_leaves_as_it_was_is_covered():
    shown, video = swapped(SWING, SWING.detector(), painter=Painter(colour=None))
    assert video.failure is Failure.NOTHING_CHANGED
    for done in shown:
        assert (done.changed, done.covered) == (0, 1)
        assert detail(done.frame, SWING.faces[done.index][0]) < 0.3 * detail(SWING.frames[done.index], SWING.faces[done.index][0])


def test_each_shot_is_chosen_anew():
    film = joined(Clip(TWO.frames[:8], TWO.faces[:8]), clip({"eve": lambda at: (150 + at, 120)}, 8, scene=5))
    shown, _ = swapped(film, film.detector(), choice=AtIndex(0))
    assert all(is_painted(done.frame, film.faces[done.index][0]) for done in shown)


def test_somebody_who_comes_later_is_chosen_when_nobody_else_is_there():
    late = joined(EMPTY, clip({"ada": lambda at: (160 + at, 120)}, 10))
    shown, video = swapped(late, late.detector())
    assert [done.changed for done in shown] == [0] * 6 + [1] * 10
    assert all(np.array_equal(done.frame, late.frames[done.index]) and not done.mask.any() for done in shown[:6])
    assert video.counts["with_faces"] == 10


def test_work_that_was_interrupted_goes_on_with_the_same_person():
    whole, _ = swapped(TWO, TWO.detector(), choice=AtIndex(1))
    rest = Clip(TWO.frames[9:], TWO.faces[9:])
    shown, _ = swapped(rest, rest.detector(), meant=whole[8].meant, first=9)
    assert all(is_painted(done.frame, TWO.faces[done.index][1]) for done in shown)
    assert not any(is_painted(done.frame, TWO.faces[done.index][0]) for done in shown)


def test_nobody_goes_on_from_where_a_person_is_hidden_but_from_before_and_then_with_the_same_person():
    """The one who is meant is away from the 13th to the 18th frame; the other one is not meant in all that time."""
    film = clip({"ada": lambda at: (90 + at, 110 if not 12 <= at < 18 else 900), "bo": lambda at: (250 - at, 130)}, 30, scene=2)
    told = ToldByFrame(
        {
            id(frame): faces if not 12 <= at < 18 else faces[1:]
            for at, (frame, faces) in enumerate(zip(film.frames, film.faces, strict=True))
        }
    )
    whole, _ = swapped(film, told, choice=AtIndex(0))
    assert all(one.meant for one in whole[:10])
    assert not any(one.meant for one in whole[13:18])
    assert all(one.meant for one in whole[22:])
    again, _ = swapped(Clip(film.frames[9:], film.faces[9:]), told, choice=Largest(), meant=whole[9].meant, first=9)
    for shown in (whole[24:], again[15:]):
        assert all(is_painted(one.frame, film.faces[one.index][0]) for one in shown)
        assert not any(is_painted(one.frame, film.faces[one.index][1]) for one in shown)


def test_frames_made_after_a_restart_some_frames_earlier_go_on_where_the_others_ended():
    """Nothing jumps at the seam: the face is where it would have been, to a small part of what a detection is off by."""
    whole, _ = swapped(SWING, SWING.detector(noise_px=1.5))
    again, _ = swapped(Clip(SWING.frames[5:], SWING.faces[5:]), SWING.detector(noise_px=1.5), first=5)
    apart = [np.abs(one.meant[0].array() - other.meant[0].array()).max() for one, other in zip(whole[30:], again[25:], strict=True)]
    assert [done.index for done in again] == list(range(5, 40))
    assert max(apart) < 0.6


@pytest.mark.parametrize(
    ("film", "detector", "choice", "failure"),
    [
        (EMPTY, EMPTY.detector(), Largest(), Failure.NO_FACE),
        (SWING, SWING.detector(missing=range(40)), Largest(), Failure.NO_FACE),
        (TWO, TWO.detector(), AtIndex(2), Failure.FACE_INDEX_ABSENT),
        (SWING, SWING.detector(turned=range(40)), Largest(), Failure.FACE_TURNED),
    ],
    ids=["nobody", "nobody found", "not so many", "always turned"],
)
def test_when_nothing_was_changed_it_is_said_why(film, detector, choice, failure):
    shown, video = swapped(film, detector, choice=choice)
    assert video.failure is failure
    assert not any(done.changed for done in shown)


def test_a_face_at_the_border_is_covered_as_far_as_it_is_in_the_frame():
    leaving = clip({"bo": lambda at: (60 - 4 * at, 120)}, 14)
    shown, _ = swapped(leaving, leaving.detector())
    assert shown[0].changed == 1
    assert any(done.covered for done in shown[6:])


def test_the_real_swapper_gives_a_calm_picture_where_the_detector_trembles():
    """Looked at where the face is: how much it changes from frame to frame, against the same swap frame by frame."""
    swapper = ClassicalSwapper()
    shot = draw(PEOPLE["ada"], side=200, eyes_px=50)
    crop, _ = aligned(shot.pixels, known(shot), swapper)
    source = Source(face=known(shot), identity=swapper.prepare([crop])[0])
    still = clip({"bo": lambda _: (160, 120)}, 16, grain=1)
    detector = still.detector(noise_px=1.5)
    video = VideoSwap(source, detector=detector, swapper=swapper)
    calm = [done.frame for at, frame in enumerate(still.frames) for done in video.push(at, at / FPS, frame)]
    calm += [done.frame for done in video.flush()]
    alone = []
    for frame in still.frames:
        one = VideoSwap(source, detector=detector, swapper=swapper)
        assert one.push(0, 0.0, frame) == []
        alone += [done.frame for done in one.flush()]
    assert swim(calm) < 0.5 * swim(alone)


def swim(frames: list[Frame]) -> float:
    stack = np.array(frames)[:, 90:160, 130:190].astype(float)
    return float(stack.std(axis=0).mean())
