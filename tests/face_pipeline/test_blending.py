from __future__ import annotations

import numpy as np
import pytest

from face_pipeline import blending
from face_pipeline.geometry import TEMPLATE


def test_a_blend_is_exact_at_both_ends_and_rounds_between():
    rng = np.random.default_rng(1)
    below, above = rng.integers(0, 256, (2, 40, 40, 3), np.uint8)
    assert np.array_equal(blending.blend(below, above, np.zeros((40, 40), np.uint8)), below)
    assert np.array_equal(blending.blend(below, above, np.full((40, 40), 255, np.uint8)), above)
    mask = rng.integers(0, 256, (40, 40), np.uint8)
    wanted = below + (above.astype(float) - below) * mask[..., None] / 255
    assert np.abs(blending.blend(below, above, mask) - wanted).max() <= 0.51


@pytest.mark.parametrize("scale", [0.9, 2.5, 6.0])
def test_a_crop_laid_back_where_it_was_cut_changes_little(scale):
    y, x = np.mgrid[0:700, 0:800].astype(np.float32)
    frame = np.stack([127 + 60 * np.sin(x / 60), 127 + 60 * np.cos(y / 50), (x + y) / 8], -1).astype(np.uint8)
    points = TEMPLATE * 100 * scale + (60, 40)
    crop, matrix = blending.cut(frame, points, 100)
    changed, result = np.zeros(frame.shape[:2], np.uint8), frame.copy()
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 20:80] = 255
    blending.lay_back(result, changed, crop, mask, matrix)
    assert changed.any()
    assert np.abs(result.astype(int) - frame)[changed > 0].max() <= 8
    assert np.array_equal(result[changed == 0], frame[changed == 0])


def test_a_crop_that_hangs_over_the_edge_is_laid_back_as_far_as_there_is_frame():
    frame = np.zeros((60, 60, 3), np.uint8)
    crop, matrix = blending.cut(frame, TEMPLATE * 100 - 50, 100)
    changed = np.zeros((60, 60), np.uint8)
    blending.lay_back(frame, changed, np.full_like(crop, 255), np.full((100, 100), 255, np.uint8), matrix)
    assert frame[:45, :45].min() > 200
    assert frame[52:, 52:].max() == 0


def test_an_empty_mask_changes_nothing():
    frame, changed = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60), np.uint8)
    crop, matrix = blending.cut(frame, TEMPLATE * 50, 50)
    blending.lay_back(frame, changed, np.full_like(crop, 255), np.zeros((50, 50), np.uint8), matrix)
    assert not frame.any()
    assert not changed.any()
