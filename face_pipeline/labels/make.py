"""Draws the words of the label as masks: `python -m face_pipeline.labels.make NotoSansCJK-Bold.ttc`.

A tool of the developer's; nothing calls it at run time. FONT is Noto Sans CJK Bold (Debian: fonts-noto-cjk), whose face
number 1 is the Korean one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from face_pipeline.labels import WORDS_FILE, all_words

EM_PX: Final = 112
"""At this size a line is as high as the label of a picture of about 3000 pixels; larger ones are enlarged."""
_KOREAN_FACE: Final = 1
_LEVELS: Final = 16
"""Of grey: enough for the rim of a letter, and they make the file a quarter as large."""


def drawn(words: tuple[str, ...], font: ImageFont.FreeTypeFont) -> dict[str, NDArray[np.uint8]]:
    """A mask for each word, 0 to 255; all equally high with the same base line, cut to the word at both sides."""
    boxes = {word: font.getbbox(word, anchor="ls") for word in words}
    top, bottom = round(min(box[1] for box in boxes.values())), round(max(box[3] for box in boxes.values()))
    masks = {}
    for word, (left, _, right, _) in boxes.items():
        picture = Image.new("L", (round(right - left), bottom - top))
        ImageDraw.Draw(picture).text((-left, -top), word, fill=255, font=font, anchor="ls")
        step = 255 // (_LEVELS - 1)
        masks[word] = cast("NDArray[np.uint8]", (np.rint(np.asarray(picture) / step) * step).astype(np.uint8))
    return masks


def main(font_file: str) -> None:
    """Write the file beside this module."""
    font = ImageFont.truetype(font_file, EM_PX, index=_KOREAN_FACE)
    np.savez_compressed(Path(__file__).with_name(WORDS_FILE), **drawn(all_words(), font))  # type: ignore[arg-type]  # keys are words


if __name__ == "__main__":
    main(sys.argv[1])
