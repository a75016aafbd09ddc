"""Boxes: from pixels of what a classifier saw to pixels of the upright frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.frames import Fit, Picture, film_digest, joined_digest
from moderation.media import FrameDigest, Media
from tests.builders import make_facts, make_spec

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("fit", "region", "box", "expected"),
    [
        (Fit.STRETCH, (0, 0, 64, 48), (0, 0, 8, 8), (0, 0, 64, 48)),
        (Fit.STRETCH, (0, 0, 64, 48), (1, 2, 3, 4), (8, 12, 24, 24)),
        (Fit.STRETCH, (100, 50, 16, 8), (4, 4, 4, 4), (108, 54, 8, 4)),
        (Fit.CROP, (10, 0, 48, 48), (0, 0, 4, 8), (10, 0, 24, 48)),
        (Fit.LETTERBOX, (0, 0, 64, 32), (0, 0, 8, 4), (0, 0, 64, 32)),
        (Fit.LETTERBOX, (0, 0, 64, 32), (0, 0, 8, 8), (0, 0, 64, 32)),
        (Fit.LETTERBOX, (0, 0, 32, 64), (2, 2, 2, 2), (16, 16, 16, 16)),
        (Fit.STRETCH, (0, 0, 8, 8), (-5, -5, 30, 30), (0, 0, 8, 8)),
    ],
)
def test_a_box_lands_where_the_picture_was(fit, region, box, expected):
    assert make_spec(fit=fit).region_box(box, region) == expected


@given(
    st.sampled_from(Fit),
    st.tuples(SIDES, SIDES, SIDES, SIDES),
    st.tuples(*[st.floats(-50, 700)] * 2, *[st.floats(0, 700)] * 2),
)
def test_a_box_never_leaves_its_region(fit, region, box):
    left, top, width, height = make_spec(width=320, height=320, fit=fit).region_box(box, region)
    assert region[0] <= left <= left + width <= region[0] + region[2]
    assert region[1] <= top <= top + height <= region[1] + region[3]


def test_media_is_named_by_its_bytes_even_if_it_cannot_be_opened():
    """The example `abc` of FIPS 180-4."""
    media = Media.of(b"abc")
    assert media.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (media.size, media.facts) == (3, None)


# --- pictures and what they show --------------------------------------------------------------------


def picture(pixels: np.ndarray) -> Picture:
    height, width, _ = pixels.shape
    return Picture.of(pixels, replace(make_facts(), width=width, height=height))


def named(pixels: np.ndarray) -> str:
    height, width, _ = pixels.shape
    digest = FrameDigest(width, height)
    digest.add(pixels.tobytes())
    return digest.text()


def test_the_digest_of_a_frame_is_stable():
    """Signed files of years ago are checked with it. The value is what sha256sum says of those bytes."""
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert named(pixels) == "sha256:b067572e3b0c47d820d11eb0a4efacf568383853f3a58506a9023aa4dde333b5"


def test_one_pixel_or_another_shape_changes_the_digest():
    pixels = np.zeros((4, 6, 3), np.uint8)
    other = pixels.copy()
    other[3, 5, 2] = 1
    assert len({named(shown) for shown in (pixels, other, pixels.reshape(6, 4, 3), pixels.reshape(2, 12, 3))}) == 4


def test_rows_may_come_in_parts():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    parts = FrameDigest(8, 5)
    parts.add(pixels[:2].tobytes())
    parts.add(pixels[2:].tobytes())
    assert parts.text() == named(pixels)


def test_what_is_joined_is_named_by_what_each_was_seen_to_show_in_order():
    """The values are what sha256sum says of those bytes."""
    one, other = (film_digest([f"sha256:{number:064x}"]) for number in (1, 2))
    assert one == "sha256:1176d1abca5207f20cdbefb5a6bdc71ecac1f2cfa870fbd1704f5380e4591ffe"
    assert joined_digest([one, other]) == "sha256:0b01d95a94c99ca3935a98834434836178245b24adaa1c4716a9a5708efa9c30"
    assert len({joined_digest(parts) for parts in ([one, other], [other, one], [one], [])}) == 4


def test_a_picture_keeps_its_own_pixels():
    pixels = np.zeros((4, 4, 3), np.uint8)
    made = picture(pixels)
    pixels[:] = 9
    assert made.pixels.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        made.pixels[0] = 1


@pytest.mark.parametrize("pixels", [np.zeros((3, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_a_picture_has_the_size_that_its_facts_name(pixels):
    with pytest.raises(ValueError, match="expected"):
        Picture.of(pixels, replace(make_facts(), width=4, height=4))
