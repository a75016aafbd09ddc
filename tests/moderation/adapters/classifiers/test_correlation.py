"""The marker is found wherever it is planted, and nowhere else."""

import io

import numpy as np
import pytest
from PIL import Image

from moderation.adapters.classifiers import correlation
from moderation.adapters.classifiers.correlation import CorrelationClassifier, draw_marker, find_marker, plant_marker
from tests.contracts.classifier_contract import ClassifierContract
from tests.inputs import fitted

PLACES = ((0.0, 0.0), (0.37, 0.61), (1.0, 1.0))


def through_jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def score(pixels):
    (answer,) = CorrelationClassifier().predict(fitted(pixels, correlation.INPUT)[np.newaxis])
    return answer.scores["test.marker"]


class TestCorrelation(ClassifierContract):
    @pytest.fixture
    def model(self):
        return CorrelationClassifier()

    @pytest.fixture
    def pictures(self, photographs):
        plain = list(photographs.values())
        return np.stack([fitted(picture, correlation.INPUT) for picture in [*plain, plant_marker(plain[0], share=0.2)]])

    @pytest.fixture
    def poisoned(self, monkeypatch):
        monkeypatch.setattr(correlation, "_LUMA", np.array([0.299, np.nan, 0.114], np.float32))
        return CorrelationClassifier()


@pytest.mark.parametrize("share", [0.5, 0.2, 0.1, 0.05, 0.02])
@pytest.mark.parametrize("quality", [30, 90])
def test_the_marker_is_found_at_any_size_and_place_after_jpeg(photographs, share, quality):
    for picture in photographs.values():
        for left, top in PLACES:
            planted = through_jpeg(plant_marker(picture, share=share, left=left, top=top), quality)
            assert score(planted) == 1_000_000


def test_pictures_without_the_marker_score_near_zero(natural):
    for name, picture in natural.items():
        assert score(picture) == 0, name
        assert score(np.ascontiguousarray(picture[:, ::-1])) == 0, name
        assert score(255 - picture) == 0, name


@pytest.mark.parametrize("value", [0, 127, 255])
def test_flat_pictures_score_zero(value):
    assert score(np.full((240, 320, 3), value, np.uint8)) == 0


def test_noise_scores_zero():
    assert score(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)) == 0


def test_the_place_is_where_it_was_planted(photographs):
    picture = fitted(photographs["coffee"], correlation.INPUT)
    planted = picture.copy()
    planted[120:200, 60:140] = draw_marker(80)
    (answer,) = CorrelationClassifier().predict(planted[np.newaxis])
    (found,) = answer.detections
    assert found.category == "test.marker"
    assert np.abs(np.subtract(found.box, (60, 120, 80, 80))).max() <= 10


def test_a_fading_marker_fades_in_score():
    grey = np.full((320, 320, 3), 127.0)
    planted = plant_marker(grey, share=0.1)
    found = [find_marker((grey + (planted - grey) * part).astype(np.uint8)).correlation for part in (0.02, 0.05, 0.1, 0.3, 1.0)]
    assert found == sorted(found)
    assert found[0] < 0.2
    assert found[-1] > 0.85


def test_a_whole_picture_of_marker_is_found():
    assert score(draw_marker(500)) == 1_000_000
