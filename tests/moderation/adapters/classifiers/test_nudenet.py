"""NudeNet's file under our own loading and after-processing, beside NudeNet's."""

import subprocess
import sys

import numpy as np
import pytest

from moderation.adapters.classifiers import load, nudenet
from moderation.adapters.classifiers.mapping import shipped_mapping
from moderation.adapters.classifiers.nudenet import LABELS, NudeNet
from moderation.errors import ClassifierFault, ModelUnusable
from moderation.frames import Fit
from tests.contracts.classifier_contract import ClassifierContract
from tests.inputs import fitted
from tests.onnx_bytes import with_nan


@pytest.fixture(scope="module")
def detector():
    return NudeNet(device="cpu")


@pytest.fixture(scope="module")
def theirs():
    import nudenet as package  # noqa: PLC0415  # brings OpenCV; only these tests may

    return package.nudenet, package.NudeDetector()


@pytest.fixture(scope="module")
def inputs(photographs):
    return np.stack([fitted(photographs[name], nudenet.INPUT) for name in ("astronaut", "chelsea", "coffee", "rocket", "astronaut")])


class TestNudeNet(ClassifierContract):
    @pytest.fixture
    def model(self, detector):
        return detector

    @pytest.fixture
    def pictures(self, inputs):
        return inputs

    @pytest.fixture
    def poisoned(self):
        return NudeNet(device="cpu", weights=with_nan(nudenet.read_weights()))


def raw_output(seed, places=40):
    """An output as the network could give it: most places empty, some groups of places that overlap."""
    rng = np.random.default_rng(seed)
    output = np.zeros((22, nudenet.PLACES), np.float32)
    output[:4] = rng.uniform(0, nudenet.SIDE, (4, nudenet.PLACES))
    output[4:] = rng.uniform(0, 0.15, (18, nudenet.PLACES))
    for start in range(0, places, 8):
        centre = rng.uniform(20, 300, 2)
        for place in range(start, start + 8):
            output[:4, place] = [*(centre + rng.normal(0, 8, 2)), *rng.uniform(30, 120, 2)]
            output[4 + rng.integers(0, 18), place] = rng.uniform(0.15, 1.0)
    return output


def test_the_spec_is_what_nudenet_pads_and_scales_to(detector):
    spec = detector.version.input
    assert (spec.width, spec.height, spec.fit) == (320, 320, Fit.LETTERBOX)
    assert detector.version.digest == "sha256:c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"


def test_the_network_sees_what_nudenet_shows_it_and_says_the_same(detector, theirs, inputs):
    module, their_detector = theirs
    for picture in inputs:
        blob = module._read_image(picture)[0]
        (expected,) = their_detector.onnx_session.run(None, {their_detector.input_name: blob})
        found = detector.forward(picture[np.newaxis])
        assert np.abs(found[:, 4:] - expected[:, 4:]).max() < 1e-4
        assert np.abs(found[:, :4] - expected[:, :4]).max() < 0.05  # pixels


def test_boxes_labels_and_scores_of_photographs_are_those_of_nudenet(detector, theirs, inputs):
    _, their_detector = theirs
    seen = 0
    for picture in inputs:
        expected = their_detector.detect(picture)
        found = nudenet.find_boxes(detector.forward(picture[np.newaxis])[0])
        assert [LABELS[one.label] for one in found] == [one["class"] for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.score == pytest.approx(other["score"], abs=1e-4)
            assert np.abs(np.subtract(one.box, other["box"])).max() <= 1
        seen += len(found)
    assert seen > 0


@pytest.mark.parametrize("seed", range(25))
def test_crowded_outputs_are_selected_and_cut_exactly_as_nudenet_does(theirs, seed):
    module, _ = theirs
    output = raw_output(seed)
    side = nudenet.SIDE
    expected = module._postprocess([output[np.newaxis]], 0, 0, 1.0, 1.0, side, side, side, side)
    found = nudenet.find_boxes(output)
    assert [(LABELS[one.label], one.score, list(one.box)) for one in found] == [
        (one["class"], one["score"], one["box"]) for one in expected
    ]
    assert found


def test_scores_are_the_maximum_over_all_places_and_not_cut_at_any_threshold():
    output = np.zeros((1, 22, nudenet.PLACES), np.float32)
    output[0, 4 + LABELS.index("FEMALE_BREAST_EXPOSED"), 7] = 0.11
    output[0, 4 + LABELS.index("ANUS_EXPOSED"), 9] = 0.05
    (answer,) = nudenet.read_answers(output, shipped_mapping("nudenet"))
    assert answer.scores["sexual.nudity_explicit"] == pytest.approx(110_000, abs=1)
    assert answer.detections == ()


def test_a_class_hidden_behind_a_stronger_one_keeps_its_score_and_gets_its_place():
    output = np.zeros((1, 22, nudenet.PLACES), np.float32)
    output[0, :4, 7] = [100, 120, 40, 60]
    output[0, 4 + LABELS.index("FEMALE_BREAST_COVERED"), 7] = 0.8
    output[0, 4 + LABELS.index("FEMALE_BREAST_EXPOSED"), 7] = 0.5
    (answer,) = nudenet.read_answers(output, shipped_mapping("nudenet"))
    assert answer.scores["sexual.nudity_explicit"] == 500_000
    assert [(found.label, found.box) for found in answer.detections] == [
        ("FEMALE_BREAST_COVERED", (80, 90, 40, 60)),
        ("FEMALE_BREAST_EXPOSED", (80, 90, 40, 60)),
    ]
    assert answer.detections[1].detail == "Exposed Female Nipple"


def test_classes_map_as_the_taxonomy_says():
    def scores(**confidences):
        output = np.zeros((1, 22, nudenet.PLACES), np.float32)
        for label, confidence in confidences.items():
            output[0, 4 + LABELS.index(label), 0] = confidence
        return nudenet.read_answers(output, shipped_mapping("nudenet"))[0].scores

    for label in ("FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED", "BUTTOCKS_EXPOSED", "FEMALE_BREAST_EXPOSED"):
        assert scores(**{label: 0.75})["sexual.nudity_explicit"] == 750_000
    for label in ("FEMALE_GENITALIA_COVERED", "ANUS_COVERED"):
        assert scores(**{label: 0.75})["sexual.nudity_partial"] == 750_000
    for label in ("FEMALE_BREAST_COVERED", "BUTTOCKS_COVERED", "BELLY_EXPOSED"):
        assert scores(**{label: 0.75})["sexual.suggestive"] == 750_000
    assert scores(MALE_BREAST_EXPOSED=1.0)["sexual.nudity_partial"] == 400_000
    assert scores(FACE_MALE=0.75)["ctx.face_count"] == 750_000
    assert set(scores(FEET_EXPOSED=1.0, ARMPITS_EXPOSED=1.0, BELLY_COVERED=1.0).values()) == {0}
    act = scores(FEMALE_GENITALIA_EXPOSED=0.75, MALE_GENITALIA_EXPOSED=0.5, BUTTOCKS_EXPOSED=1.0)
    assert act["sexual.activity"] == 500_000


def test_a_face_is_found_where_it_is(detector, photographs):
    (answer,) = detector.predict(fitted(photographs["astronaut"], nudenet.INPUT)[np.newaxis])
    assert answer.scores["ctx.face_count"] > 600_000
    face = next(found for found in answer.detections if found.category == "ctx.face_count")
    left, top, width, height = face.box
    assert 100 < left + width / 2 < 180
    assert 40 < top + height / 2 < 130


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_batches_of_any_size_are_cut_and_joined_in_order(detector, inputs, count):
    pictures = np.stack([inputs[index % 3] for index in range(count)])
    answers = detector.predict(pictures)
    assert len(answers) == count
    for index, answer in enumerate(answers):
        expected = detector.predict(inputs[index % 3][np.newaxis])[0]
        assert answer.scores["ctx.face_count"] == pytest.approx(expected.scores["ctx.face_count"], abs=100)


def test_an_output_of_another_shape_is_a_fault(detector, monkeypatch):
    monkeypatch.setattr(nudenet, "PLACES", nudenet.PLACES + 1)
    with pytest.raises(ClassifierFault, match="expected an output of 1x22x2101, got 1x22x2100"):
        detector.predict(np.zeros((1, 320, 320, 3), np.uint8))


def test_other_bytes_than_the_pinned_ones_are_never_opened(tmp_path, monkeypatch):
    altered = tmp_path / "nudenet"
    altered.mkdir()
    (altered / nudenet.FILE).write_bytes(nudenet.read_weights()[:-1] + b"x")
    (altered / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "nudenet", raising=False)
    with pytest.raises(ModelUnusable, match="not the pinned file"):
        load("nudenet", models_dir=tmp_path)


def test_a_file_that_is_no_model_is_refused_in_one_line():
    with pytest.raises(ModelUnusable, match="nudenet: ") as caught:
        NudeNet(device="cpu", weights=b"no model")
    assert "\n" not in str(caught.value)


def test_cuda_without_its_runtime_is_refused():
    with pytest.raises(ModelUnusable, match="onnxruntime-gpu"):
        NudeNet(device="cuda")


def test_loading_it_imports_neither_nudenet_nor_opencv_nor_torch():
    code = (
        "import sys, pathlib; from moderation.adapters.classifiers import load; "
        "load('nudenet', models_dir=pathlib.Path('.'), device='cpu'); "
        "print(sorted({'nudenet', 'cv2', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
