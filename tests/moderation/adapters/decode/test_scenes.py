"""Scene cuts: what is looked at, whatever flashes beside it, and that nothing is left out without being counted."""

from __future__ import annotations

import random

import av
import numpy as np
import pytest
from PIL import Image

from moderation.adapters.decode.scenes import MOST_CUTS, Watcher
from tests.corpus import marked, quiet

SIZE = (96, 72)
SQUARE = 12


def looked_at(pictures, *, every=12, seed=1):
    """(numbers of the frames that were looked at as cuts, how many were left out); every so many frames one is looked at anyway."""
    watcher = Watcher(random.Random(seed), len(pictures))
    found = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_image(picture).reformat(format="yuv420p")
        is_chosen = number % every == 0
        if watcher.looks_at(frame, is_chosen=is_chosen) and not is_chosen:
            found.append(number)
    return found, watcher.left_out


def scene(length, squares, colour, hidden=(), share=0.05):
    """A quiet scene with squares along its upper edge, of the colour that `colour(number, square)` says; `hidden` frames have the marker."""
    plain, with_marker = quiet(*SIZE), marked(*SIZE, share)
    frames = []
    for number in range(length):
        frame = (with_marker if number in hidden else plain).copy()
        for square in range(squares):
            left, top = square * SQUARE % SIZE[0], square * SQUARE // SIZE[0] * SQUARE
            frame.paste((colour(number, square),) * 3, (left, top, left + SQUARE, top + SQUARE))
        frames.append(frame)
    return frames


def by_turns(number, square):
    """Each square has a rhythm of its own."""
    return 255 * (number // (square + 1) % 2)


def by_chance():
    chance = random.Random(9)
    return lambda number, square: chance.randrange(256)  # noqa: ARG005 - as `scene` calls it


def natural(seed):
    """480 x 200, with as much of each scale as photographs have."""
    chance = np.random.default_rng(seed)
    height, width = 200, 480
    scale = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    scale[0, 0] = np.inf
    grey = np.real(np.fft.ifft2(np.fft.fft2(chance.normal(size=(height, width))) / scale))
    return Image.fromarray((grey / grey.std() * 55 + 120).clip(0, 255).astype(np.uint8)).convert("RGB")


def other_pictures(count):
    """Each a picture of its own."""
    wide, chance = natural(2), random.Random(3)
    places = [(chance.randrange(480 - SIZE[0]), chance.randrange(200 - SIZE[1])) for _ in range(count)]
    return [wide.crop((left, top, left + SIZE[0], top + SIZE[1])) for left, top in places]


def test_what_blinks_in_several_places_hides_no_cut_and_uses_up_nothing():
    found, left_out = looked_at(scene(200, 2, by_turns, hidden=[101]))
    assert (found, left_out) == ([1, 2, 3, 101], 0)


@pytest.mark.parametrize("squares", [2, 8])
def test_what_flickers_by_chance_hides_no_cut_in_a_part_that_is_at_rest(squares):
    found, left_out = looked_at(scene(600, squares, by_chance(), hidden=[499, 581]))
    assert {499, 581} <= {*found}
    assert left_out > 100
    assert len(found) <= MOST_CUTS


def test_where_all_flashes_cuts_are_left_out_all_over_the_video_and_counted():
    found, left_out = looked_at(other_pictures(600))
    assert len(found) <= MOST_CUTS
    assert len(found) + left_out == 600 - 600 // 12
    assert all(sum(first <= number < first + 60 for number in found) >= 4 for first in range(0, 600, 60))


def test_nothing_that_differs_is_passed_over_without_being_counted():
    """Whatever a caller plays beside it, a picture of its own for one frame is looked at or counted as left out."""
    frames = scene(400, 48, by_chance())
    others = range(301, 400, 9)
    for number, picture in zip(others, other_pictures(len(others)), strict=True):
        frames[number] = picture
    found, left_out = looked_at(frames)
    assert len(found) + left_out == 399 - len(range(12, 400, 12))
    assert left_out > 0


@pytest.mark.parametrize("speed", [1, 3])
def test_a_camera_that_pans_makes_few_cuts(speed):
    """By 1 and 3 of 160 pixels a frame."""
    wide = natural(1)
    found, left_out = looked_at([wide.crop((speed * number, 50, speed * number + 160, 170)) for number in range(100)])
    assert (len(found) < 15, left_out) == (True, 0)
