"""The table of categories, row by row, and what other services would say."""

from __future__ import annotations

import pytest

from moderation.scores import ONE
from moderation.taxonomy import (
    CATEGORIES,
    CATEGORY_PATTERN,
    OPENAI_KEYS,
    ModerationLabel,
    azure_severities,
    family_of,
    is_context,
    is_known,
    openai_scores,
    rekognition_labels,
    stopping_path,
)

ROWS = {  # code: severity, OpenAI keys, Rekognition path, Azure category and its severity
    "sexual": (3, {"sexual"}, ("Explicit",), ("Sexual", 4)),
    "sexual.activity": (4, {"sexual"}, ("Explicit", "Explicit Sexual Activity"), ("Sexual", 6)),
    "sexual.nudity_explicit": (4, {"sexual"}, ("Explicit", "Explicit Nudity"), ("Sexual", 6)),
    "sexual.objects": (3, {"sexual"}, ("Explicit", "Sex Toys"), ("Sexual", 4)),
    "sexual.nudity_partial": (2, {"sexual"}, ("Non-Explicit Nudity of Intimate parts and Kissing", "Non-Explicit Nudity"), ("Sexual", 4)),
    "sexual.suggestive": (1, set(), ("Swimwear or Underwear",), ("Sexual", 2)),
    "sexual.minor_risk": (4, set(), (), None),
    "sexual.ncii_deepfake": (4, set(), (), None),
    "violence": (3, {"violence"}, ("Violence",), ("Violence", 4)),
    "violence.graphic": (4, {"violence", "violence/graphic"}, ("Violence", "Graphic Violence"), ("Violence", 6)),
    "violence.weapon": (1, {"violence"}, ("Violence", "Weapons"), ("Violence", 2)),
    "selfharm": (3, {"self-harm"}, ("Violence", "Graphic Violence"), ("SelfHarm", 4)),
    "selfharm.depiction": (3, {"self-harm"}, ("Violence", "Graphic Violence"), ("SelfHarm", 4)),
    "hate": (3, set(), ("Hate Symbols",), ("Hate", 4)),
    "hate.symbol": (3, set(), ("Hate Symbols",), ("Hate", 4)),
    "substance.drug_tobacco_alcohol": (1, set(), ("Drugs & Tobacco",), None),
    "other.rude_gambling": (1, set(), ("Rude Gestures",), None),
    "ctx.illustrated": (0, set(), (), None),
    "ctx.animated": (0, set(), (), None),
    "ctx.medical": (0, set(), (), None),
    "ctx.synthetic": (0, set(), (), None),
    "ctx.face_count": (0, set(), (), None),
}


def test_the_table_has_exactly_these_rows():
    assert set(CATEGORIES) == set(ROWS)


@pytest.mark.parametrize("code", ROWS)
def test_each_row_says_the_same_in_every_view(code):
    severity, openai, rekognition, azure = ROWS[code]
    assert CATEGORIES[code].severity == severity
    assert CATEGORIES[code].meaning
    assert openai_scores({code: 700_000}) == dict.fromkeys(openai, 700_000)
    assert {label.name for label in rekognition_labels({code: 700_000}, {})} == set(rekognition)
    assert azure_severities({code: 700_000}, {code: 700_000}) == (dict([azure]) if azure else {})
    assert azure_severities({code: 699_999}, {code: 700_000}) == ({azure[0]: 0} if azure else {})


@pytest.mark.parametrize("code", ROWS)
def test_every_code_is_well_formed_and_so_is_its_family(code):
    assert CATEGORY_PATTERN.fullmatch(code)
    assert is_known(code)
    assert is_known(family_of(code))
    assert is_context(code) == code.startswith("ctx.")


@pytest.mark.parametrize("code", ["test", "test.marker", "ctx", "substance", "other"])
def test_planted_markers_and_bare_families_are_known(code):
    assert is_known(code)


@pytest.mark.parametrize("code", ["", ".", "sexual.", "sexual.nudty", "nudity", "test.", "test.a.b", "Test.marker", "test.x\n", "*"])
def test_anything_else_is_not_known(code):
    assert not is_known(code)


def test_only_openai_keys_come_out_and_those_judged_by_nothing_are_absent():
    view = openai_scores(dict.fromkeys([*CATEGORIES, "test.marker"], 1))
    assert set(view) <= set(OPENAI_KEYS)
    assert len(OPENAI_KEYS) == 13
    assert not {"hate", "sexual/minors", "harassment", "illicit"} & set(view)


def test_an_openai_key_is_the_highest_of_its_members():
    assert openai_scores({"sexual.activity": 3, "sexual.objects": 8, "violence.graphic": 5, "violence.weapon": 6}) == {
        "sexual": 8,
        "violence": 6,
        "violence/graphic": 5,
    }


def test_a_rekognition_leaf_comes_with_parents_at_least_as_confident():
    labels = rekognition_labels({"sexual.nudity_explicit": 600_000}, {"Exposed Female Nipple": ("sexual.nudity_explicit", 900_000)})
    assert labels == [
        ModerationLabel(name="Explicit", parent="", level=1, confidence=900_000),
        ModerationLabel(name="Explicit Nudity", parent="Explicit", level=2, confidence=900_000),
        ModerationLabel(name="Exposed Female Nipple", parent="Explicit Nudity", level=3, confidence=900_000),
    ]


def test_labels_without_any_confidence_and_categories_without_a_label_are_left_out():
    assert rekognition_labels({"sexual": 0, "ctx.medical": ONE, "test.marker": ONE}, {"Leaf": ("ctx.medical", ONE)}) == []


@pytest.mark.parametrize("code", [*ROWS, "test.marker", "substance", "other", "ctx", None])
def test_whatever_stops_a_media_has_a_label_and_its_own_where_there_is_one(code):
    path = stopping_path(code)
    assert path == (ROWS[code][2] if code in ROWS and ROWS[code][2] else path[:1])
    labels = rekognition_labels({code: 200_000} if code else {}, {}, at_least=500_000, causes={code: 200_000})
    assert [(label.name, label.confidence) for label in labels] == [(name, 200_000 if code else ONE) for name in path]


def test_an_azure_category_without_a_threshold_is_shown_as_severity_zero():
    assert azure_severities({"sexual": ONE, "violence": 10}, {"violence": 10}) == {"Sexual": 0, "Violence": 4}
