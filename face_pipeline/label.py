"""The visible label: words on a plate in a corner, which tell whoever looks at the picture that a face in it was altered."""

from __future__ import annotations

from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from face_pipeline.faces import Frame
from face_pipeline.geometry import Region
from face_pipeline.labels import LAYOUTS, WORDS_FILE
from face_pipeline.swapper import Mask

Letters = NDArray[np.uint8]  # height x width; 255 where a letter is, 0 where none is

LANGUAGES: Final = tuple(LAYOUTS)
MIN_SIDE_PX: Final = 32
"""Of a frame; on anything smaller no word can be read."""
_TEXT_SHARE: Final = 0.036  # a line's height, of the frame's short side
_MIN_TEXT_PX: Final = 12
_ROOM: Final = ((0.6, 0.2), (0.8, 0.35))  # share of the frame's width and height that a label may take: little, if it can
_SPACE: Final = 0.24  # between words, of a line's height; all below likewise
_LEADING: Final = 1.2  # from line to line
_PADDING: Final = 0.3  # of the plate around the words
_MARGIN: Final = 0.5  # from the plate to the frame's edge
_ROUNDING: Final = 0.3
_PLATE: Final = 16  # grey level of the plate
_LETTER: Final = 255
_PLATE_STRENGTH: Final = 0.72  # how much of it covers the picture; over white it still leaves a contrast of 8 to 1


class Corner(StrEnum):
    """Where the label goes; in this order where several do equally well."""

    BOTTOM_RIGHT = "bottom_right"
    BOTTOM_LEFT = "bottom_left"
    TOP_RIGHT = "top_right"
    TOP_LEFT = "top_left"


def draw_label(frame: Frame, language: str, *, avoid: Mask | None = None, corner: Corner | None = None) -> Frame:
    """A copy of the frame with the label in a corner.

    `language` is one of `LANGUAGES`. `avoid` (uint8, height x width) is above 0 where the label should not lie, such as the swapped faces:
    the corner is chosen where it hides least of that. `corner` settles the choice, for the frames of one video.
    Raises ValueError for another language, a smaller frame than `MIN_SIDE_PX`, or an `avoid` of another size.
    """
    plate = _plate(language, frame.shape[1], frame.shape[0])
    place = _placed(plate, corner or best_corner(frame, language, avoid=avoid), frame)
    labelled = frame.copy()
    part = labelled[place.rows, place.columns]
    cover, letters = plate
    below = part * (1 - cover[..., None]) + _PLATE * cover[..., None]
    part[:] = np.rint(below * (1 - letters[..., None]) + _LETTER * letters[..., None]).astype(np.uint8)
    return labelled


def best_corner(frame: Frame, language: str, *, avoid: Mask | None = None) -> Corner:
    """Where `draw_label` would put it."""
    if avoid is None:
        return Corner.BOTTOM_RIGHT
    if avoid.shape != frame.shape[:2]:
        raise ValueError(f"avoid is {avoid.shape} for a frame of {frame.shape[:2]}")
    plate = _plate(language, frame.shape[1], frame.shape[0])

    def hidden(corner: Corner) -> int:
        place = _placed(plate, corner, frame)
        return int(avoid[place.rows, place.columns].sum(dtype=np.int64))

    return min(Corner, key=hidden)


_Plate = tuple[NDArray[np.float32], NDArray[np.float32]]  # how strong the plate and the letters are, 0 to 1, equally large


def _placed(plate: _Plate, corner: Corner, frame: Frame) -> Region:
    height, width = plate[0].shape
    margin = round(_MARGIN * _text_px(frame.shape[1], frame.shape[0]))
    free_x, free_y = frame.shape[1] - width, frame.shape[0] - height
    x, y = min(margin, free_x // 2), min(margin, free_y // 2)
    left = x if corner in {Corner.BOTTOM_LEFT, Corner.TOP_LEFT} else free_x - x
    top = y if corner in {Corner.TOP_LEFT, Corner.TOP_RIGHT} else free_y - y
    return Region(left=left, top=top, width=width, height=height)


def _text_px(width: int, height: int) -> int:
    return max(_MIN_TEXT_PX, round(_TEXT_SHARE * min(width, height)))


@lru_cache(maxsize=8)  # the frames of a video are all of one size
def _plate(language: str, width: int, height: int) -> _Plate:
    """The label for frames of this size."""
    if language not in LAYOUTS:
        raise ValueError(f"no label in {language!r}, only in {', '.join(LANGUAGES)}")
    if min(width, height) < MIN_SIDE_PX:
        raise ValueError(f"no label fits on {width} x {height} pixels")
    lines, text_px = _fitting(language, width, height)
    letters = _set(lines, text_px)
    padding = max(1, round(_PADDING * text_px))
    padding_x, padding_y = min(padding, (width - letters.shape[1]) // 2), min(padding, (height - letters.shape[0]) // 2)
    letters = np.pad(letters, ((padding_y, padding_y), (padding_x, padding_x)))
    cover = _rounded(letters.shape[1], letters.shape[0], round(_ROUNDING * text_px))
    plate = cover * np.float32(_PLATE_STRENGTH), letters.astype(np.float32) / np.float32(255)
    for part in plate:
        part.setflags(write=False)
    return plate


def _fitting(language: str, width: int, height: int) -> tuple[tuple[str, ...], int]:
    """The lines and their height in pixels: the full wording in the least room; the short one, as large as it can be, where that does not fit."""
    *full, short = LAYOUTS[language]
    wanted = _text_px(width, height)
    padding = 2 * _PADDING * wanted
    for share_x, share_y in _ROOM:
        for lines in full:
            across, down = _extent(lines)
            if across * wanted + padding <= share_x * width and down * wanted + padding <= share_y * height:
                return lines, wanted
    across, down = _extent(short)
    return short, max(1, min(wanted, int(width / across), int(height / down)))


def _extent(lines: tuple[str, ...]) -> tuple[float, float]:
    """Width and height of the lines, in line heights."""
    return max(_line(line).shape[1] / _line(line).shape[0] for line in lines), 1 + _LEADING * (len(lines) - 1)


def _set(lines: tuple[str, ...], text_px: int) -> Letters:
    """The lines one below the other, each `text_px` high, their left edges aligned."""
    small = [_scaled(_line(line), text_px) for line in lines]
    leading = round(_LEADING * text_px)
    page = np.zeros((text_px + leading * (len(lines) - 1), max(line.shape[1] for line in small)), np.uint8)
    for number, line in enumerate(small):
        page[number * leading : number * leading + text_px, : line.shape[1]] = line
    return page


def _scaled(line: Letters, height: int) -> Letters:
    width = max(1, int(line.shape[1] * height / line.shape[0]))
    way = cv2.INTER_AREA if height < line.shape[0] else cv2.INTER_CUBIC
    return cast("Letters", cv2.resize(line, (width, height), interpolation=way))


@cache
def _line(line: str) -> Letters:
    """One line at the size in which its words are stored."""
    words = [_words()[word] for word in line.split()]
    space = np.zeros((words[0].shape[0], round(_SPACE * words[0].shape[0])), np.uint8)
    spaced = [part for word in words for part in (space, word)][1:]
    return np.concatenate(spaced, axis=1)


@cache
def _words() -> dict[str, Letters]:
    with resources.files("face_pipeline.labels").joinpath(WORDS_FILE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def _rounded(width: int, height: int, radius: int) -> NDArray[np.float32]:
    """1 on a rectangle with round corners, 0 outside."""
    large = 4  # drawn so many times as large, for a smooth rim
    plate = np.zeros((height * large, width * large), np.uint8)
    r = min(radius, width // 2, height // 2) * large
    cv2.rectangle(plate, (r, 0), (width * large - 1 - r, height * large - 1), 1, -1)
    cv2.rectangle(plate, (0, r), (width * large - 1, height * large - 1 - r), 1, -1)
    for x in (r, width * large - 1 - r):
        for y in (r, height * large - 1 - r):
            cv2.circle(plate, (x, y), r, 1, -1)
    return cast("NDArray[np.float32]", cv2.resize(plate.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA))
