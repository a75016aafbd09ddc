"""Pictures out: a frame becomes the bytes of a file that holds its pixels and nothing else.

No metadata, no colour profile (the pixels are sRGB, which is what a file without one means), no thumbnail, one frame. The same
frame with the same options gives the same bytes, as long as Pillow and its codecs are the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from PIL import Image

from face_pipeline.faces import Frame

MEDIA_TYPES: Final[Mapping[str, str]] = MappingProxyType({"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"})
"""The formats, and what a file of each is served as."""
MAX_SIDE_PX: Final[Mapping[str, int]] = MappingProxyType({"jpeg": 65_500, "png": 65_500, "webp": 16_383})
"""JPEG's limit is that of libjpeg, WebP's that of the format; PNG is held to what every viewer opens."""

_FULL_CHROMA_FROM: Final = 85
"""JPEG quality from which colour keeps its full resolution: whoever asks for that much wants lips, eyes and label without fringes."""
_PNG_LEVEL: Final = 4  # of zlib; the usual 6 takes more than three times as long for nothing on photographs
_WEBP_METHOD: Final = 4


def encode_picture(frame: Frame, format: str, quality: int = 90) -> bytes:
    """The file. `frame` is RGB uint8; `quality` is 1 to 100 and means nothing to png, which is lossless.

    Raises ValueError for an unknown format, a quality out of range, or a frame that the format cannot hold.
    """
    if format not in MEDIA_TYPES:
        raise ValueError(f"no format {format!r}, only {', '.join(MEDIA_TYPES)}")
    if not 1 <= quality <= 100:  # noqa: PLR2004  said in the docstring
        raise ValueError(f"quality {quality} is not 1 to 100")
    if max(frame.shape[:2]) > MAX_SIDE_PX[format]:
        raise ValueError(f"{format} holds at most {MAX_SIDE_PX[format]} pixels a side, not {frame.shape[1]} x {frame.shape[0]}")
    out = io.BytesIO()
    Image.fromarray(frame).save(out, format=format.upper(), **_options(format, quality))
    return out.getvalue()


def _options(format: str, quality: int) -> dict[str, Any]:
    match format:
        case "jpeg":
            chroma = "4:4:4" if quality >= _FULL_CHROMA_FROM else "4:2:0"
            # Neither progressive nor with Huffman tables of its own: both need the whole file in a buffer whose size Pillow
            # guesses, and a noisy frame is larger than the guess and cannot be saved. They would also take five times as long.
            return {"quality": quality, "subsampling": chroma}
        case "png":
            return {"compress_level": _PNG_LEVEL}
        case "webp":
            return {"quality": quality, "method": _WEBP_METHOD}
        case _:
            raise ValueError(f"no options for {format!r}")
