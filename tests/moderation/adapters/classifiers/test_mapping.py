"""Mapping files are read strictly and scored exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.adapters.classifiers.mapping import parse_mapping, read_mapping, shipped_mapping
from moderation.adapters.classifiers.nudenet import LABELS
from moderation.adapters.classifiers.registry import KNOWN
from moderation.errors import ClassifierFault, ModelUnusable

GOOD = """
classifier: demo
labels:
  bad: {category: sexual}
ignored: [good]
"""


def one_label(rule):
    return parse_mapping(f"classifier: demo\nlabels:\n  bad: {{category: sexual, {rule}}}\n".encode(), "demo")


def score_of(mapping, *probabilities):
    return [row["sexual"] for row in mapping.scores(["bad"], np.array(probabilities)[:, np.newaxis])]


def test_a_good_mapping_is_read(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(GOOD)
    mapping = read_mapping(path)
    assert mapping.classifier == "demo"
    assert mapping.categories == ("sexual",)
    assert mapping.calibrated is False
    assert mapping.digest.startswith("sha256:")
    mapping.check_labels(["good", "bad"])


def test_the_digest_changes_with_any_byte():
    assert parse_mapping(GOOD.encode(), "a").digest != parse_mapping((GOOD + "\n").encode(), "a").digest


@pytest.mark.parametrize("name", sorted({model.mapping for model in KNOWN if model.mapping} | {"nudenet", "correlation"}))
def test_shipped_mappings_are_good(name):
    mapping = shipped_mapping(name)
    assert mapping.classifier == name
    assert mapping.categories


def test_nudenets_mapping_speaks_of_all_its_labels():
    shipped_mapping("nudenet").check_labels(LABELS)


def test_labels_that_nobody_mentions_are_refused():
    mapping = parse_mapping(GOOD.encode(), "demo")
    with pytest.raises(ModelUnusable, match="neither mapped nor ignored: ugly"):
        mapping.check_labels(["good", "bad", "ugly"])
    with pytest.raises(ModelUnusable, match="has no label good"):
        mapping.check_labels(["bad"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a mapping of names"),
        ("[]", "not a mapping of names"),
        ("{", "not YAML"),
        ("labels: {}", "classifier is missing"),
        ("classifier: demo\nlabels: {}", "at least one label"),
        ("classifier: 'De mo'\nlabels: {a: {category: sexual}}", "not a name"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\nlabls: {}", "labls is not known here"),
        ("classifier: demo\nlabels: {a: sexual}", "a: not a mapping of names"),
        ("classifier: demo\nlabels: {a: {}}", "a: category is missing"),
        ("classifier: demo\nlabels: {a: {category: nsfw}}", "'nsfw' is not a category"),
        ("classifier: demo\nlabels: {a: {category: sexual.feet}}", "'sexual.feet' is not a category"),
        ("classifier: demo\nlabels: {a: {category: sexual.minor_risk}}", "never comes from a score"),
        ("classifier: demo\nlabels: {a: {category: sexual.ncii_deepfake}}", "never comes from a score"),
        ("classifier: demo\nlabels: {a: {category: sexual, wieght: 1}}", "a: wieght is not known here"),
        ("classifier: demo\nlabels: {a: {category: sexual, weight: 0}}", "`weight` must be over 0"),
        ("classifier: demo\nlabels: {a: {category: sexual, weight: 1.5}}", "`weight` must be over 0"),
        ("classifier: demo\nlabels: {a: {category: sexual, weight: .nan}}", "must be a number"),
        ("classifier: demo\nlabels: {a: {category: sexual, weight: yes}}", "must be a number"),
        ("classifier: demo\nlabels: {a: {category: sexual, detail: 3}}", "`detail` must be a text"),
        ("classifier: demo\nlabels: {a: {category: sexual}, a: {category: hate}}", "'a' is there twice"),
        ("classifier: demo\nlabels: {1: {category: sexual}}", "the key 1 is not a text"),
        ("classifier: demo\nlabels: {[a]: {category: sexual}}", "is not a text"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\nignored: [a]", "both mapped and ignored: a"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\nignored: [b, b]", "names one twice"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\nignored: b", "list of texts"),
        ("classifier: demo\ncalibrated: maybe\nlabels: {a: {category: sexual}}", "`calibrated` must be true or false"),
        ("classifier: demo\ncombine: mean\nlabels: {a: {category: sexual}}", "`combine` must be max or sum"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\ntogether: [{category: hate, count: 2, labels: [a]}]", "`count` must be"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\ntogether: [{category: hate, count: 2, labels: [a, b]}]", "not mapped: b"),
        ("classifier: demo\nlabels: {a: {category: sexual}}\ntogether: a", "`together` must be a list"),
        ("classifier: !!python/object/apply:os.system [ls]\nlabels: {}", "not YAML"),
    ],
)
def test_anything_that_is_not_a_mapping_is_refused_in_one_line(text, message):
    with pytest.raises(ModelUnusable, match=message) as caught:
        parse_mapping(text.encode(), "demo")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said_in_one_line(tmp_path):
    with pytest.raises(ModelUnusable, match="No such file"):
        read_mapping(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ("{temperature: 0}", "over 0"),
        ("{temperature: -1}", "over 0"),
        ("{platt: [1]}", "slope, offset"),
        ("{platt: [-1, 0]}", "slope must be over 0"),
        ("{isotonic: [[0, 0]]}", "at least two rows"),
        ("{isotonic: [[0.1, 0], [1, 1]]}", "rise from 0 to 1"),
        ("{isotonic: [[0, 0], [0, 0.5], [1, 1]]}", "rise from 0 to 1"),
        ("{isotonic: [[0, 0.5], [1, 0.4]]}", "must not fall"),
        ("{isotonic: [[0, 0], [1, 1.1]]}", "must not fall"),
        ("{beta: 1}", "none of"),
        ("{temperature: 1, platt: [1, 0]}", "must be one of"),
        ("7", "must be one of"),
    ],
)
def test_calibrations_that_make_no_sense_are_refused(calibration, message):
    with pytest.raises(ModelUnusable, match=message):
        one_label(f"calibration: {calibration}")


def test_temperature_divides_the_log_odds():
    p, t = 0.9, 2.0
    expected = 1 / (1 + math.exp(-math.log(p / (1 - p)) / t))
    assert score_of(one_label("calibration: {temperature: 2.0}"), p)[0] == pytest.approx(expected * 1e6, abs=1)


def test_platt_scales_and_shifts_the_log_odds():
    expected = 1 / (1 + math.exp(-(1.5 * math.log(0.3 / 0.7) - 0.2)))
    assert score_of(one_label("calibration: {platt: [1.5, -0.2]}"), 0.3)[0] == pytest.approx(expected * 1e6, abs=1)


def test_isotonic_interpolates():
    mapping = one_label("calibration: {isotonic: [[0, 0], [0.5, 0.1], [1, 0.9]]}")
    assert score_of(mapping, 0.0, 0.25, 0.5, 0.75, 1.0) == [0, 50_000, 100_000, 500_000, 900_000]


def test_weights_scale_after_calibration():
    assert score_of(one_label("weight: 0.4"), 1.0) == [400_000]


def test_exclusive_labels_of_one_category_add_up_and_others_take_the_highest():
    text = "classifier: demo\ncombine: {}\nlabels: {{a: {{category: sexual}}, b: {{category: sexual}}}}\nignored: [c]"
    probabilities = np.array([[0.25, 0.5, 0.25], [1.0, 1.0, 0.0]])
    for combine, expected in (("sum", [750_000, 1_000_000]), ("max", [500_000, 1_000_000])):
        mapping = parse_mapping(text.format(combine).encode(), "demo")
        assert [row["sexual"] for row in mapping.scores(["a", "b", "c"], probabilities)] == expected


@pytest.mark.parametrize("value", [math.nan, -0.01, 1.01, math.inf])
@pytest.mark.parametrize("rule", ["weight: 0.5", "calibration: {temperature: 2}", "calibration: {isotonic: [[0, 0], [1, 1]]}"])
def test_a_number_that_is_no_probability_is_a_fault_whatever_the_calibration(value, rule):
    with pytest.raises(ClassifierFault):
        score_of(one_label(rule), value)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-5, 5))
def test_no_calibration_ever_turns_the_order_round(probabilities, slope, offset):
    ordered = sorted(probabilities)
    scored = score_of(one_label(f"calibration: {{platt: [{slope:.9f}, {offset:.9f}]}}"), *ordered)
    assert scored == sorted(scored)
    assert all(0 <= score <= 1_000_000 for score in scored)
