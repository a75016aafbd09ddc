"""How a reviewer is shown a picture: made anew from its pixels, so that nothing else of the file leaves. Needs Pillow: import it late."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from face_pipeline.encoding import encode_picture
from moderation.frames import Picture

MEDIA_TYPE: Final = "image/jpeg"
BLOCK_PX: Final = 16
BLOCKS: Final = 12
"""Along the longer side, however large the picture: people know a face from about 18 blocks across it on (Bachmann 1991)."""
_SOFT_PX: Final = BLOCK_PX / 2
_LONGEST_PX: Final = 4096
_QUALITY: Final = 90


class Rendition(StrEnum):
    """What a reviewer may ask for."""

    BLURRED = "blurred"
    CLEAR = "clear"


def render(picture: Picture, rendition: Rendition) -> bytes:
    """A JPEG of the picture, at most 4096 px a side; blurred, of blocks in which nothing can be recognised. Takes its time."""
    image = Image.fromarray(picture.pixels)
    image = _blurred(image) if rendition is Rendition.BLURRED else _fitting(image)
    return encode_picture(np.asarray(image), "jpeg", _QUALITY)


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
