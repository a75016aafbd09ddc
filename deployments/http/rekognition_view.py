"""Rekognition's answer made of a decision. Pure. Confidences are per cent on the wire, scores until then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from deployments.http.rekognition_requests import PER_CENT
from moderation.decision import Decision, Verdict
from moderation.scores import ONE, Detection
from moderation.taxonomy import ModerationLabel, rekognition_labels

TAXONOMY: Final = "7.0"
_CONTENT_TYPES: Final = {"ctx.animated": "Animated", "ctx.illustrated": "Illustrated"}


def labels_document(decision: Decision, at_least: int) -> dict[str, object]:
    """`DetectModerationLabels`: places as level 3 with their parents; under `at_least` only what stops the picture."""
    scores = decision.scores()
    places = [place for sheet in decision.sheets for _, place in sheet.detections]
    return {
        "ModerationLabels": [label_document(label) for label in labels_of(scores, places, at_least, causes_of(decision))],
        "ModerationModelVersion": TAXONOMY,
        "ContentTypes": content_types(scores, at_least),
    }


def causes_of(decision: Decision, review: Verdict | None = None) -> Mapping[str | None, int]:
    """From which score on each category is why the media is stopped, None for what no classifier scores; empty where nothing stops it.

    Clients that know nothing of verdicts take a media without labels for clean. `review` is what a person has said last, if anybody.
    """
    if (review or decision.verdict) is Verdict.ALLOW:
        return {}
    causes: dict[str | None, int] = {}
    for reason in decision.reasons:
        if reason.verdict in (Verdict.BLOCK, Verdict.REVIEW):
            causes[reason.category] = min(reason.threshold or 0, causes.get(reason.category, ONE))
    return causes or {None: 0}


def labels_of(
    scores: Mapping[str, int], places: Iterable[Detection], at_least: int, causes: Mapping[str | None, int]
) -> list[ModerationLabel]:
    """The labels of these scores, and of places that have a level-3 name, from `at_least` up, and of `causes` in any case."""
    return rekognition_labels(scores, _leaves(places), at_least=at_least, causes=causes)


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
