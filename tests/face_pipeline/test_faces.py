from __future__ import annotations

import math
from dataclasses import replace

import pytest

from face_pipeline.faces import AtIndex, Every, Face, Largest, Nearest, choose


def face(left: float, side: float = 100, embedding: tuple[float, ...] | None = None) -> Face:
    return Face(left=left, top=10, width=side, height=side, points=((left, 20), (left + 40, 20)), score=0.9, embedding=embedding)


LEFT, MIDDLE, RIGHT = face(0, 80), face(200, 120), face(400, 100)
ALL = [RIGHT, LEFT, MIDDLE]


def test_faces_are_counted_from_left_to_right():
    assert choose(ALL, Every()) == (LEFT, MIDDLE, RIGHT)
    assert [choose(ALL, AtIndex(n)) for n in range(3)] == [(LEFT,), (MIDDLE,), (RIGHT,)]


def test_the_largest_is_the_largest_box():
    assert choose(ALL, Largest()) == (MIDDLE,)


@pytest.mark.parametrize("index", [3, -1, 100])
def test_an_index_that_is_not_there_is_nobody(index):
    assert choose(ALL, AtIndex(index)) == ()


@pytest.mark.parametrize("choice", [Every(), Largest(), AtIndex(0), Nearest(LEFT)])
def test_of_no_faces_nobody_is_chosen(choice):
    assert choose([], choice) == ()


def test_without_embeddings_the_nearest_is_the_nearest_in_place_and_size():
    assert choose(ALL, Nearest(face(380))) == (RIGHT,)


def test_likeness_outweighs_place():
    like, unlike = replace(LEFT, embedding=(1.0, 0.0)), replace(RIGHT, embedding=(0.0, 1.0))
    reference = replace(RIGHT, embedding=(1.0, 0.0))
    assert choose([like, unlike, MIDDLE], Nearest(reference)) == (like,)


def test_scaling_there_and_back_changes_nothing():
    back = MIDDLE.scaled(3).scaled(1 / 3)
    assert back.points[0] == pytest.approx(MIDDLE.points[0])
    assert (back.left, back.side) == pytest.approx((MIDDLE.left, MIDDLE.side))


@pytest.mark.parametrize("spoilt", [{"width": 0.0}, {"left": math.nan}, {"score": math.inf}, {"points": ((1.0, 1.0),)}])
def test_a_face_without_sense_cannot_be_made(spoilt):
    with pytest.raises(ValueError, match="a face has"):
        replace(LEFT, **spoilt)
