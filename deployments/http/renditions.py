"""How a reviewer is shown pictures: made anew from its pixels, so that nothing else of the file leaves. Needs Pillow: import it late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from face_pipeline.encoding import encode_picture
from moderation.frames import Pixels

MEDIA_TYPE: Final = "image/jpeg"
BLOCK_PX: Final = 16
BLOCKS: Final = 12
"""Along the longer side, however large the picture: people know a face from about 18 blocks across it on (Bachmann 1991)."""
_SOFT_PX: Final = BLOCK_PX / 2
_LONGEST_PX: Final = 4096
_QUALITY: Final = 90
_GAP_PX: Final = 8
_GREY: Final = (128, 128, 128)


class Rendition(StrEnum):
    """What a reviewer may ask for."""

    BLURRED = "blurred"
    CLEAR = "clear"


def render(pictures: Sequence[Pixels], rendition: Rendition) -> bytes:
    """A JPEG of the pictures side by side, at most 4096 px a side; blurred, each of blocks in which nothing can be recognised. Takes its time."""
    images = [Image.fromarray(pixels) for pixels in pictures]
    if rendition is Rendition.BLURRED:
        images = [_blurred(image) for image in images]
    return encode_picture(np.asarray(_fitting(_tiled(images))), "jpeg", _QUALITY)


def _tiled(images: Sequence[Image.Image]) -> Image.Image:
    """In rows of about as many as there are rows."""
    if len(images) == 1:
        return images[0]
    columns = math.ceil(math.sqrt(len(images)))
    width, height = (max(sides) + _GAP_PX for sides in zip(*(image.size for image in images), strict=True))
    sheet = Image.new("RGB", (columns * width - _GAP_PX, math.ceil(len(images) / columns) * height - _GAP_PX), _GREY)
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    return sheet


def _blurred(image: Image.Image) -> Image.Image:
    """Each block is the mean of what it covers; then a Gaussian over the edges."""
    scale = BLOCKS / max(image.size)
    columns, rows = (max(1, math.ceil(side * scale)) for side in image.size)
    blocks = image.resize((columns, rows), Image.Resampling.BOX)
    large = blocks.resize((columns * BLOCK_PX, rows * BLOCK_PX), Image.Resampling.NEAREST)
    return large.filter(ImageFilter.GaussianBlur(_SOFT_PX))


def _fitting(image: Image.Image) -> Image.Image:
    if max(image.size) <= _LONGEST_PX:
        return image
    scale = _LONGEST_PX / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
