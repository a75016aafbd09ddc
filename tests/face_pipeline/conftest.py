"""Drawn faces are made once; the real detectors are opened once, where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.drawn_faces import PEOPLE, Shot, draw
from face_pipeline.detector import YUNET_FILE, FrontalCascade, YuNet

# Beside the repository, where somebody who wants these tests has put the model; nothing of the project needs it.
_YUNET = Path(__file__).parents[2].parent / "shared" / "models" / YUNET_FILE


@pytest.fixture(scope="session")
def ada() -> Shot:
    return draw(PEOPLE["ada"], side=320, eyes_px=72)


@pytest.fixture(scope="session")
def bo() -> Shot:
    return draw(PEOPLE["bo"], side=320, eyes_px=72)


@pytest.fixture(scope="session")
def eve() -> Shot:
    return draw(PEOPLE["eve"], side=320, eyes_px=72)


@pytest.fixture(scope="session")
def yunet() -> YuNet:
    if not _YUNET.exists():
        pytest.skip(f"no YuNet model: {YUNET_FILE} is not in ../shared/models")
    return YuNet.from_file(_YUNET)


@pytest.fixture(scope="session")
def cascade() -> FrontalCascade:
    pytest.importorskip("skimage", reason="scikit-image (extra local) is not installed")
    return FrontalCascade()
