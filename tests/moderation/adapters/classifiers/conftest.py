"""Pictures and models that several test files here need."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests import tiny_vit

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""In scikit-image's wheel: NASA's portrait of Eileen Collins (public domain), a cat, a cup, a launch (CC0)."""
TEXTURES = ("brick", "grass", "gravel", "text", "page", "checkerboard", "coins", "moon", "camera", "clock")


@pytest.fixture(scope="session")
def tiny_vit_folder(request):
    return tiny_vit.cached(request.config.cache.mkdir("tiny_vit"))


@pytest.fixture(scope="session")
def photographs():
    return {name: as_rgb(getattr(data, name)()) for name in PHOTOGRAPHS}


@pytest.fixture(scope="session")
def natural(photographs):
    return {**photographs, **{name: as_rgb(getattr(data, name)()) for name in TEXTURES}}


def as_rgb(pixels):
    return np.asarray(Image.fromarray(pixels).convert("RGB"))
