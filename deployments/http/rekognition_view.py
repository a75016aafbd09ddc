"""Rekognition's answer made of a decision. Pure. Confidences are per cent."""

from __future__ import annotations

from typing import Final

from moderation.decision import Decision
from moderation.scores import ONE
from moderation.taxonomy import rekognition_labels

TAXONOMY: Final = "7.0"
PER_CENT: Final = ONE // 100
_CONTENT_TYPES: Final = {"ctx.animated": "Animated", "ctx.illustrated": "Illustrated"}


def labels_document(decision: Decision, min_confidence: float) -> dict[str, object]:
    """`DetectModerationLabels`: places as level 3 with their parents, and nothing under `min_confidence`."""
    scores = decision.scores()
    labels = rekognition_labels(scores, _leaves(decision))
    return {
        "ModerationLabels": [
            {"Confidence": label.confidence / PER_CENT, "Name": label.name, "ParentName": label.parent, "TaxonomyLevel": label.level}
            for label in labels
            if label.confidence / PER_CENT >= min_confidence
        ],
        "ModerationModelVersion": TAXONOMY,
        "ContentTypes": [
            {"Confidence": scores[code] / PER_CENT, "Name": name}
            for code, name in _CONTENT_TYPES.items()
            if scores.get(code, 0) and scores[code] / PER_CENT >= min_confidence
        ],
    }


def _leaves(decision: Decision) -> dict[str, tuple[str, int]]:
    """By level-3 name the category and the strongest place."""
    found: dict[str, tuple[str, int]] = {}
    for sheet in decision.sheets:
        for _, detection in sheet.detections:
            if detection.detail is not None and detection.score > found.get(detection.detail, ("", -1))[1]:
                found[detection.detail] = (detection.category, detection.score)
    return found
