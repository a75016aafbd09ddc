from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from face_pipeline.encoding import MEDIA_TYPES, encode_picture

RNG = np.random.default_rng(3)
NOISE = RNG.integers(0, 256, (180, 247, 3), dtype=np.uint8)
SMOOTH = cv2.GaussianBlur(NOISE, (0, 0), 6).astype(np.uint8)
cv2.normalize(SMOOTH, SMOOTH, 0, 255, cv2.NORM_MINMAX)
# The marker segments that a JPEG of pixels alone may have, and the chunks of the two others.
JPEG_MARKERS = {0xD8, 0xE0, 0xDB, 0xC0, 0xC4, 0xDA}


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def jpeg_markers(data: bytes) -> set[int]:
    """Of all segments up to the scan."""
    found, at = {data[1]}, 2
    while data[at + 1] != 0xDA:
        found.add(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found | {0xDA}


def chunks(data: bytes, at: int, *, png: bool) -> list[bytes]:
    found = []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big") if png else int.from_bytes(data[at + 4 : at + 8], "little")
        found.append(data[at + 4 : at + 8] if png else data[at : at + 4])
        at += 12 + length if png else 8 + length + length % 2
    return found


@pytest.mark.parametrize("format", MEDIA_TYPES)
@pytest.mark.parametrize("frame", [SMOOTH, NOISE, NOISE[:32, :32], SMOOTH[:, :33]], ids=["smooth", "noise", "small", "odd"])
def test_what_is_written_opens_as_one_picture_of_that_size_and_type(format, frame):
    picture = opened(encode_picture(frame, format))
    assert (picture.width, picture.height, picture.mode) == (frame.shape[1], frame.shape[0], "RGB")
    assert Image.MIME[picture.format] == MEDIA_TYPES[format]
    assert getattr(picture, "n_frames", 1) == 1


@pytest.mark.parametrize("format", MEDIA_TYPES)
@pytest.mark.parametrize("quality", [1, 50, 84, 85, 95, 100])
def test_every_quality_can_be_written_of_the_hardest_picture(format, quality):
    """Of noise: a file that is larger than its encoder expects."""
    assert opened(encode_picture(np.tile(NOISE, (3, 4, 1)), format, quality)).size == (4 * 247, 3 * 180)


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_the_same_frame_gives_the_same_bytes(format):
    assert encode_picture(SMOOTH, format, 90) == encode_picture(SMOOTH.copy(), format, 90)


def test_png_keeps_every_pixel_and_the_others_stay_close():
    assert (np.asarray(opened(encode_picture(NOISE, "png"))) == NOISE).all()
    for format, quality, most in (("jpeg", 90, 3.0), ("webp", 90, 5.0)):
        away = np.asarray(opened(encode_picture(SMOOTH, format, quality))).astype(int) - SMOOTH
        assert np.abs(away).mean() < most


def test_files_hold_pixels_and_nothing_else():
    assert jpeg_markers(encode_picture(SMOOTH, "jpeg")) == JPEG_MARKERS
    assert set(chunks(encode_picture(SMOOTH, "png"), 8, png=True)) == {b"IHDR", b"IDAT", b"IEND"}
    assert chunks(encode_picture(SMOOTH, "webp"), 12, png=False) == [b"VP8 "]


def test_high_qualities_keep_colour_at_full_resolution():
    """The sampling factors of the first component, in the frame header."""

    def sampling(quality: int) -> int:
        data = encode_picture(SMOOTH, "jpeg", quality)
        return data[data.index(b"\xff\xc0") + 11]

    assert [sampling(quality) for quality in (84, 85)] == [0x22, 0x11]


@pytest.mark.parametrize(
    ("frame", "format", "quality"),
    [
        (SMOOTH, "gif", 90),
        (SMOOTH, "auto", 90),
        (SMOOTH, "jpeg", 0),
        (SMOOTH, "jpeg", 101),
        (np.zeros((32, 16_384, 3), np.uint8), "webp", 90),
        (np.zeros((65_501, 32, 3), np.uint8), "jpeg", 90),
    ],
)
def test_what_cannot_be_written_is_refused(frame, format, quality):
    with pytest.raises(ValueError, match=r"format|quality|holds"):
        encode_picture(frame, format, quality)


def test_the_largest_side_that_is_promised_can_be_written():
    for format, side in (("webp", 16_383), ("jpeg", 65_500)):
        assert opened(encode_picture(np.zeros((32, side, 3), np.uint8), format)).width == side
