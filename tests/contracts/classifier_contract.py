"""What every classifier promises, whatever computes it. Subclasses give the fixtures `model`, `pictures` and `poisoned`."""

import numpy as np
import pytest

from moderation.adapters.classifiers.model import Model
from moderation.errors import ClassifierFault
from moderation.scores import InputScores, is_score
from moderation.taxonomy import is_known


class ClassifierContract:
    TOLERANCE = 100
    """Batches may be computed in another order: 1e-4."""

    @pytest.fixture
    def model(self) -> Model:
        raise NotImplementedError

    @pytest.fixture
    def pictures(self):
        """At least five different inputs of the model's size."""
        raise NotImplementedError

    @pytest.fixture
    def poisoned(self) -> Model:
        """The same model with NaN among its weights."""
        raise NotImplementedError

    def test_its_version_names_everything_that_scores_depend_on(self, model):
        version = model.version
        assert version.name
        assert version.version
        assert version.runtime
        assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in (version.digest, version.mapping_digest))
        assert version.categories
        assert all(is_known(category) for category in version.categories)

    def test_every_answer_has_a_score_for_every_category(self, model, pictures):
        for answer in model.predict(pictures):
            assert isinstance(answer, InputScores)
            assert tuple(sorted(answer.scores)) == tuple(sorted(model.version.categories))
            assert all(is_score(score) for score in answer.scores.values())

    def test_detections_lie_inside_the_input_and_never_outscore_their_category(self, model, pictures):
        spec = model.version.input
        for answer in model.predict(pictures):
            for found in answer.detections:
                left, top, width, height = found.box
                assert 0 <= left <= left + width <= spec.width
                assert 0 <= top <= top + height <= spec.height
                assert found.score <= answer.scores[found.category]

    def test_a_batch_scores_like_its_pictures_one_by_one(self, model, pictures):
        together = model.predict(pictures)
        alone = [model.predict(picture[np.newaxis])[0] for picture in pictures]
        assert len(together) == len(pictures)
        for one, other in zip(together, alone, strict=True):
            for category in model.version.categories:
                assert abs(one.scores[category] - other.scores[category]) <= self.TOLERANCE

    def test_the_same_pictures_score_the_same_again(self, model, pictures):
        assert model.predict(pictures) == model.predict(pictures)

    def test_read_only_and_strided_pictures_are_taken(self, model, pictures):
        mirrored = pictures[:, :, ::-1]
        mirrored.flags.writeable = False
        assert model.predict(mirrored) == model.predict(np.ascontiguousarray(mirrored))

    def test_no_pictures_give_no_answers(self, model, pictures):
        assert model.predict(pictures[:0]) == []

    def test_another_shape_is_refused_with_expected_and_got(self, model, pictures):
        spec = model.version.input
        wanted = f"expected uint8 Nx{spec.height}x{spec.width}x3, got "
        with pytest.raises(ClassifierFault, match=wanted + f"uint8 {len(pictures)}x{spec.height - 1}x{spec.width}x3"):
            model.predict(pictures[:, 1:])
        with pytest.raises(ClassifierFault, match=wanted + f"uint8 {spec.height}x{spec.width}x3"):
            model.predict(pictures[0])
        with pytest.raises(ClassifierFault, match=wanted + f"float32 {len(pictures)}x"):
            model.predict(pictures.astype(np.float32))
        with pytest.raises(ClassifierFault, match=wanted + "list"):
            model.predict([picture for picture in pictures])  # noqa: C416  # a list on purpose

    def test_nan_among_the_weights_is_a_fault_and_never_a_low_score(self, poisoned, pictures):
        with pytest.raises(ClassifierFault):
            poisoned.predict(pictures)
