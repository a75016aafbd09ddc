"""Rekognition's answer made of a decision. Pure. Confidences are per cent on the wire, scores until then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from deployments.http.rekognition_requests import PER_CENT
from moderation.decision import Decision
from moderation.scores import Detection
from moderation.taxonomy import ModerationLabel, rekognition_labels

TAXONOMY: Final = "7.0"
_CONTENT_TYPES: Final = {"ctx.animated": "Animated", "ctx.illustrated": "Illustrated"}


def labels_document(decision: Decision, at_least: int) -> dict[str, object]:
    """`DetectModerationLabels`: places as level 3 with their parents, and nothing under `at_least`."""
    scores = decision.scores()
    places = [place for sheet in decision.sheets for _, place in sheet.detections]
    return {
        "ModerationLabels": [label_document(label) for label in labels_of(scores, places, at_least)],
        "ModerationModelVersion": TAXONOMY,
        "ContentTypes": content_types(scores, at_least),
    }


def labels_of(scores: Mapping[str, int], places: Iterable[Detection], at_least: int) -> list[ModerationLabel]:
    """The labels of these scores, and of places that have a level-3 name, from `at_least` up; parents are as sure as their children."""
    return [label for label in rekognition_labels(scores, _leaves(places)) if label.confidence >= at_least]


def label_document(label: ModerationLabel) -> dict[str, object]:
    """One label."""
    return {"Confidence": label.confidence / PER_CENT, "Name": label.name, "ParentName": label.parent, "TaxonomyLevel": label.level}


def content_types(scores: Mapping[str, int], at_least: int) -> list[dict[str, object]]:
    """What kind of picture it is: context, never a label."""
    return [
        {"Confidence": scores[code] / PER_CENT, "Name": name}
        for code, name in _CONTENT_TYPES.items()
        if scores.get(code, 0) and scores[code] >= at_least
    ]


def _leaves(places: Iterable[Detection]) -> dict[str, tuple[str, int]]:
    """By level-3 name the category and the strongest place."""
    found: dict[str, tuple[str, int]] = {}
    for place in places:
        if place.detail is not None and place.score > found.get(place.detail, ("", -1))[1]:
            found[place.detail] = (place.category, place.score)
    return found
