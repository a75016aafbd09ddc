from __future__ import annotations

import pickle

import pytest

from face_pipeline.errors import (
    DetectorUnavailable,
    FacePipelineError,
    FaceUnusable,
    Failure,
    ModelRefused,
    PipelineUnavailable,
    Role,
    SwapFault,
)

EXAMPLES = [
    FaceUnusable(Failure.FACE_TURNED, Role.TARGET, "yaw"),
    ModelRefused("yunet", "aa", "bb"),
    DetectorUnavailable("yunet", "gone"),
    SwapFault("short"),
    PipelineUnavailable("the swapper is full", 2.5),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_survives_a_pickle(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_every_class_has_an_example():
    assert {type(error) for error in EXAMPLES} == set(FacePipelineError.__subclasses__())


def test_the_codes_are_those_of_the_contract():
    assert {"no_face", "face_too_small", "face_turned", "source_ambiguous"} <= {str(failure) for failure in Failure}
