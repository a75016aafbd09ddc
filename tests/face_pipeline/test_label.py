from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from face_pipeline import labels
from face_pipeline.label import LANGUAGES, Corner, best_corner, draw_label
from face_pipeline.labels import LAYOUTS, all_words

SIZES = [(32, 32), (32, 300), (300, 32), (64, 48), (160, 128), (256, 256), (1024, 1024), (720, 1280), (2160, 3840)]
RNG = np.random.default_rng(7)


def plain(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def changed_box(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what differs."""
    rows, columns = np.nonzero((before != after).any(axis=(1, 2)))[0], np.nonzero((before != after).any(axis=(0, 2)))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance of WCAG 2."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_language_has_a_readable_label_on_frames_of_every_size_and_brightness(language, size):
    for background in (*(plain(size[0], size[1], level) for level in (255, 0, 128)), noise(*size)):
        labelled = draw_label(background, language)
        left, top, right, bottom = changed_box(background, labelled)
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        light = luminance(labelled[top:bottom, left:right])
        # The letters are nearly white, and most of the plate is so dark that they stand out 4.5 to 1, as WCAG asks.
        assert light.max() > 0.7
        assert (light.max() + 0.05) / (np.quantile(light, 0.5) + 0.05) >= 4.5


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_line_is_at_least_twelve_pixels_high_and_grows_with_the_frame(language):
    lines = len(LAYOUTS[language][0])
    for side in (256, 1024, 3000):
        frame = plain(side, side, 255)
        _, top, _, bottom = changed_box(frame, draw_label(frame, language))
        plate = (bottom - top) / (1 + 1.2 * (lines - 1) + 0.6)  # in line heights: lines and padding
        assert plate == pytest.approx(max(12, 0.036 * side), rel=0.1)


def test_the_label_takes_a_small_part_of_an_ordinary_picture():
    frame = plain(768, 1024, 255)
    for language in LANGUAGES:
        left, top, right, bottom = changed_box(frame, draw_label(frame, language))
        assert (right - left) * (bottom - top) < 0.04 * frame.shape[0] * frame.shape[1]


def test_the_frame_itself_is_not_written_to_and_the_rest_of_it_is_kept():
    frame = noise(200, 300)
    before = frame.copy()
    labelled = draw_label(frame, "en")
    assert (frame == before).all()
    left, top, right, bottom = changed_box(frame, labelled)
    outside = np.ones(frame.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert (labelled[outside] == frame[outside]).all()
    assert labelled.dtype == np.uint8


def test_the_same_frame_gets_the_same_label():
    frame = noise(200, 300)
    assert (draw_label(frame, "both") == draw_label(frame, "both")).all()


def test_the_label_stays_away_from_what_is_to_be_seen():
    frame = plain(300, 400, 90)
    avoid = np.zeros((300, 400), np.uint8)
    expected = []
    for rows, columns in ((slice(150, 300), slice(100, 400)), (slice(150, 300), slice(0, 200)), (slice(0, 150), slice(200, 400))):
        expected.append(best_corner(frame, "en", avoid=avoid))
        avoid[rows, columns] = 255
        left, top, right, bottom = changed_box(frame, draw_label(frame, "en", avoid=avoid))
        assert not avoid[top:bottom, left:right].any()
    assert expected[0] is Corner.BOTTOM_RIGHT
    assert best_corner(frame, "en", avoid=avoid) is Corner.TOP_LEFT


def test_where_it_has_to_hide_something_it_hides_least():
    frame = plain(300, 400, 90)
    avoid = np.full((300, 400), 255, np.uint8)
    avoid[:60, :] = 40
    assert best_corner(frame, "ko", avoid=avoid) is Corner.TOP_RIGHT
    assert best_corner(frame, "ko", avoid=np.full((300, 400), 255, np.uint8)) is Corner.BOTTOM_RIGHT


@pytest.mark.parametrize("corner", Corner)
def test_a_corner_that_is_asked_for_is_taken_whatever_is_there(corner):
    frame = plain(300, 400, 90)
    left, top, right, bottom = changed_box(frame, draw_label(frame, "en", corner=corner, avoid=np.full((300, 400), 255, np.uint8)))
    assert ("right" in corner) is (400 - right < left)
    assert ("bottom" in corner) is (300 - bottom < top)


def test_every_word_is_stored_and_none_besides():
    with np.load(Path(labels.__file__).with_name(labels.WORDS_FILE), allow_pickle=False) as stored:
        assert set(stored) == set(all_words())
        assert len({mask.shape[0] for mask in stored.values()}) == 1
        assert all(mask.dtype == np.uint8 and mask.max() == 255 for mask in stored.values())


def test_the_label_claims_nothing_that_is_untrue_of_a_swapper_without_a_network():
    said = " ".join(all_words()).lower()
    assert "ai" not in said.split()
    assert "인공지능" not in said


@pytest.mark.parametrize(
    ("frame", "language", "options"),
    [
        (plain(64, 64, 0), "fr", {}),
        (plain(31, 64, 0), "en", {}),
        (plain(64, 64, 0), "en", {"avoid": np.zeros((64, 65), np.uint8)}),
    ],
    ids=["language", "too small", "another size"],
)
def test_what_cannot_be_labelled_is_refused(frame, language, options):
    with pytest.raises(ValueError, match=r"label|avoid"):
        draw_label(frame, language, **options)
