"""Walks over files without decoding them.

Decoders are silent about much: they take half a file for a picture, ignore what follows the end, and show one
of several pictures. A walk follows the container's own lengths and says what it found. It never raises for what
a file says, decides nothing, and is linear in the file's size.
"""

from __future__ import annotations

import struct
from typing import Final

from moderation.adapters.decode.containers.avif import walk_avif
from moderation.adapters.decode.containers.bmp import walk_bmp
from moderation.adapters.decode.containers.gif import walk_gif
from moderation.adapters.decode.containers.jpeg import walk_jpeg
from moderation.adapters.decode.containers.layout import Data, Layout
from moderation.adapters.decode.containers.matroska import walk_matroska
from moderation.adapters.decode.containers.mp4 import walk_mp4
from moderation.adapters.decode.containers.png import walk_png
from moderation.adapters.decode.containers.tiff import walk_tiff
from moderation.adapters.decode.containers.webp import walk_webp
from moderation.adapters.decode.sniff import Format

__all__ = ["Data", "Layout", "walk", "walk_video"]

_VIDEO_WALKS: Final = {Format.MP4: walk_mp4, Format.MOV: walk_mp4, Format.MATROSKA: walk_matroska, Format.WEBM: walk_matroska}
_WALKS: Final = {
    Format.JPEG: walk_jpeg,
    Format.PNG: walk_png,
    Format.GIF: walk_gif,
    Format.WEBP: walk_webp,
    Format.AVIF: walk_avif,
    Format.BMP: walk_bmp,
    Format.TIFF: walk_tiff,
}


def walk(data: bytes, form: Format) -> Layout:
    """Follow the container's structure to its end or to where it breaks off."""
    layout = Layout()
    try:
        _WALKS[form](data, layout)
    except (struct.error, IndexError):
        layout.truncated = True
    return layout


def walk_video(data: Data, form: Format) -> Layout:
    """The same for a video. What breaks off inside of a box that fits the file is broken and not cut."""
    layout = Layout()
    try:
        _VIDEO_WALKS[form](data, layout)
    except (struct.error, IndexError):
        if _VIDEO_WALKS[form] is walk_matroska:
            layout.truncated = True
        else:
            layout.broken = layout.broken or "a box that does not hold what it says"
    return layout
