"""Boxes: from pixels of what a classifier saw to pixels of the upright frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.frames import Fit
from moderation.media import Media
from tests.builders import make_spec

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
