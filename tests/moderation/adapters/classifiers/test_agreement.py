"""What counts as deciding alike."""

import pytest

from moderation.adapters.classifiers.agreement import compare, read_inputs
from moderation.errors import ModelUnusable
from moderation.scores import InputScores


def answers(*scores):
    return [InputScores(scores={"sexual": score, "violence": 0}) for score in scores]


def test_only_the_side_of_a_threshold_counts():
    found = compare(answers(100_000, 440_000, 900_000), answers(190_000, 460_000, 450_000), [200_000, 450_000])
    assert (found.agreed, found.pictures) == (2, 3)
    assert found.share == pytest.approx(2 / 3)


def test_reaching_a_threshold_is_being_over_it():
    assert compare(answers(450_000), answers(449_999), [450_000]).agreed == 0
    assert compare(answers(450_000), answers(450_001), [450_000]).agreed == 1


def test_a_file_that_is_not_one_is_refused(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"PK nothing")
    for name in ("own.npz", "none.npz"):
        with pytest.raises(ModelUnusable, match=r"agreement .*npz: "):
            read_inputs(tmp_path / name)
