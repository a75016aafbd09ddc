"""Frames to classifier inputs, as the decoder makes them, for tests that need no decoder."""

import math

import numpy as np
from PIL import Image

from moderation.frames import Fit, InputSpec, Pixels


def fitted(pixels: Pixels, spec: InputSpec) -> Pixels:
    """One input (height x width x 3) of a frame; for CROP the one in the centre."""
    image = Image.fromarray(pixels)
    resample = Image.Resampling[spec.resample.name]
    if spec.fit is Fit.STRETCH:
        return np.asarray(image.resize((spec.width, spec.height), resample))
    if spec.fit is Fit.LETTERBOX:
        scale = min(spec.width / image.width, spec.height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        canvas = Image.new("RGB", (spec.width, spec.height))
        canvas.paste(image.resize(size, resample))
        return np.asarray(canvas)
    assert spec.resize_to is not None
    short = min(image.size)
    size = (math.floor(image.width * spec.resize_to / short), math.floor(image.height * spec.resize_to / short))
    left, top = (size[0] - spec.width) // 2, (size[1] - spec.height) // 2
    return np.asarray(image.resize(size, resample).crop((left, top, left + spec.width, top + spec.height)))
