"""From an upright picture to inputs of a classifier's size that together show all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

MAX_TILES: Final = 96
"""Tiles of one still picture. One that needs more is too long to be judged."""

MAX_TILES_MOVING: Final = 12
"""The same for every frame of an animation."""

LONG: Final = 3.0
"""Sides in a ratio above this are shown whole and in tiles."""

SCALE_KEPT: Final = 2.0
"""Cheap scaling (by whole numbers, or while colours are converted) leaves at least this many times the wanted size."""

_TILE_RATIO: Final = 2.0
_TILE_STEP: Final = 1.5

Region = tuple[int, int, int, int]


class TooLong(Exception):
    """More tiles than allowed would be needed to show everything at a useful scale."""


@dataclass(frozen=True, slots=True)
class Spec:
    """`moderation.frames.InputSpec` as it travels to a child."""

    index: int
    width: int
    height: int
    fit: str
    resample: Image.Resampling
    resize_to: int

    def scale(self, region: Region) -> float:
        """How many pixels of the region become one of the input, on the side that is scaled down less."""
        across, down = region[2] / self.width, region[3] / self.height
        return max(across, down) if self.fit == "letterbox" else min(across, down)

    def regions(self, width: int, height: int, most: int) -> list[Region]:
        """What of a `width` x `height` frame each input shows. Raises TooLong."""
        whole = (0, 0, width, height)
        is_long = max(width, height) > LONG * min(width, height)
        if self.fit == "crop":
            tiles = self._crops(width, height)
        elif is_long:
            tiles = _long_tiles(width, height)
        else:
            return [whole]
        if len(tiles) > most:
            raise TooLong
        return [whole, *tiles] if is_long else tiles

    def _crops(self, width: int, height: int) -> list[Region]:
        """Centre-sized crops of the picture as resized, as many as cover it, evenly spread and overlapping."""
        scale = min(width, height) / self.resize_to
        wide, tall = min(round(self.width * scale), width), min(round(self.height * scale), height)
        lefts, tops = _spread(width, max(wide, 1)), _spread(height, max(tall, 1))
        return [(left, top, wide, tall) for top in tops for left in lefts]

    def show(self, im: Image.Image, region: Region, shrunk: float) -> Image.Image:
        """The input, in the mode of `im`, which is the frame scaled down `shrunk` times."""
        left, top, width, height = region
        right, bottom = min((left + width) / shrunk, im.width), min((top + height) / shrunk, im.height)
        box = (min(left / shrunk, right - 0.5), min(top / shrunk, bottom - 0.5), right, bottom)
        return im.resize(self.size_of(region), self.resample, box, reducing_gap=3.0)

    def size_of(self, region: Region) -> tuple[int, int]:
        """Width and height of what shows the region: all of the input, or what a letterbox fills of it."""
        if self.fit != "letterbox":
            return self.width, self.height
        scale = self.scale(region)
        return min(max(round(region[2] / scale), 1), self.width), min(max(round(region[3] / scale), 1), self.height)

    def pad(self, im: Image.Image) -> Image.Image:
        """An RGB input of full size: a letterboxed one gets its black rest."""
        if im.size == (self.width, self.height):
            return im
        full = Image.new("RGB", (self.width, self.height))
        full.paste(im, (0, 0))
        return full


def cheap_scale(specs: Sequence[Spec], width: int, height: int, most: int) -> float:
    """How many times a frame may be scaled down by cheap means and still serve every spec. Raises TooLong."""
    return min(spec.scale(region) for spec in specs for region in spec.regions(width, height, most)) / SCALE_KEPT


def on_backgrounds(im: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """An RGBA picture as viewers lay it on white, black and grey."""
    for name, level in (("on_white", 255), ("on_black", 0), ("on_grey", 128)):
        ground = Image.new("RGB", im.size, (level, level, level))
        ground.paste(im, mask=im.getchannel("A"))
        yield name, ground


def _spread(whole: int, part: int) -> list[int]:
    count = math.ceil(whole / part)
    if count == 1:
        return [(whole - part) // 2]
    return [round(i * (whole - part) / (count - 1)) for i in range(count)]


def _long_tiles(width: int, height: int) -> list[Region]:
    """Tiles twice as long as the short side, each sharing a quarter with the next."""
    short, long = min(width, height), max(width, height)
    tile = round(_TILE_RATIO * short)
    count = math.ceil((long - tile) / (_TILE_STEP * short)) + 1
    starts = [round(i * (long - tile) / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [(at, 0, tile, height) if width > height else (0, at, width, tile) for at in starts]
