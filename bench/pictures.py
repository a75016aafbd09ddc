"""Photo-like JPEGs made from a seed: all different, about the size of camera pictures of their dimensions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

SIZES: Final = ((800, 600), (1920, 1080))
_OCTAVES: Final = (4, 9, 20, 45, 100, 220)


def picture(seed: int, width: int, height: int) -> bytes:
    """One JPEG (quality 85, 4:2:0): smooth shapes, edges, and fine grain, as in photographs."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3), np.float32)
    for cells in _OCTAVES:
        coarse = rng.random((max(2, cells * height // width), cells, 3), np.float32)
        layer = Image.fromarray((coarse * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        canvas += np.asarray(layer, np.float32) * (1.6 / cells**0.6)
    canvas += rng.normal(0, 2.0, (height, width, 1)).astype(np.float32)
    for _ in range(6):
        left, top = int(rng.integers(0, width - 40)), int(rng.integers(0, height - 40))
        right, bottom = left + int(rng.integers(20, width // 4)), top + int(rng.integers(20, height // 4))
        canvas[top:bottom, left:right] += rng.normal(0, 40, 3).astype(np.float32)
    canvas -= canvas.min()
    canvas *= 255 / canvas.max()
    out = io.BytesIO()
    Image.fromarray(canvas.astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def fresh(base: bytes, number: int) -> bytes:
    """The same picture under another name: a JPEG comment makes the bytes, and so the SHA-256, new.

    Nothing can be answered from memory, and making thousands of pictures costs nothing.
    """
    comment = f"picture {number}".encode()
    return base[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + base[2:]


def stream(seed: int, kinds: int = 12) -> Iterator[bytes]:
    """Endless distinct pictures, both sizes in turn."""
    bases = [picture(seed + n, *SIZES[n % len(SIZES)]) for n in range(kinds)]
    number = seed * 1_000_000
    while True:
        for base in bases:
            number += 1
            yield fresh(base, number)
