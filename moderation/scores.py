"""Scores: integers of 1e-6, rounded up at the classifier border.

Decide, record and replay see only these integers, so that the stored numbers are the numbers
that were decided on, on every machine and in every language.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from moderation.errors import ClassifierFault
from moderation.frames import Box, InputSpec

ONE: Final = 1_000_000
"""The score 1.0 in units of 1e-6."""

_DECIMAL: Final = re.compile(r"0\.[0-9]{6}|1\.0{6}")


def to_score(value: float) -> int:
    """Turn a probability into a score, rounding up so that no threshold is missed by rounding.

    Raises ClassifierFault on NaN and on anything outside [0, 1].
    """
    number = float(value)
    if not 0.0 <= number <= 1.0:  # False for NaN as well
        raise ClassifierFault(f"score {number!r} is not in [0, 1]")
    return min(ONE, math.ceil(number * ONE))


def is_score(value: object) -> TypeGuard[int]:
    """Whether a value read back or received is a score at all: a plain integer in [0, ONE]."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= ONE


def as_decimal(score: int) -> str:
    """The wire form: a decimal string with six places."""
    return f"0.{score:06d}" if 0 <= score < ONE else f"{score // ONE}.{score % ONE:06d}"


def from_decimal(text: str) -> int:
    """The inverse of `as_decimal`. Raises ValueError on any other form."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"not a score: {text!r}")
    return int(text[0] + text[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierVersion:
    """Exactly which classifier gave a score.

    `digest` and `mapping_digest` are `sha256:<hex>` of the weights and of the mapping file
    (labels to categories, calibration). `categories` is everything it can emit; every answer
    holds a score for each of them. `calibrated` says that scores may be compared with those of
    other calibrated classifiers.
    """

    name: str
    version: str
    digest: str
    mapping_digest: str
    categories: tuple[str, ...]
    input: InputSpec
    calibrated: bool = False
    runtime: str = ""

    @property
    def identity(self) -> str:
        """What makes two score sheets come from the same classifier: name, version, weights and mapping."""
        return f"{self.name} {self.version} {self.digest} {self.mapping_digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One thing found at one place.

    `box` is (left, top, width, height) in pixels of the input as the classifier got it; `Screener`
    turns it into pixels of the upright frame. `label` is the classifier's own word;
    `detail` the Rekognition v7 leaf that its mapping file names, or None.
    """

    label: str
    category: str
    score: int
    box: Box
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputScores:
    """A classifier's answer for one input: a score for each of its categories."""

    scores: Mapping[str, int]
    detections: tuple[Detection, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores:
    """The worst score of each category over all inputs made from one frame."""

    frame: int
    time_us: int | None
    scores: Mapping[str, int]
    boxes: Mapping[str, Box] = field(default_factory=dict)
    """Where the score of a category comes from, for classifiers that show places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierScores:
    """All of one classifier's scores for a media, one entry per frame in order.

    `detections` are the strongest, strongest first, each with the number of its frame; their boxes are
    in pixels of the upright frame.
    """

    classifier: ClassifierVersion
    frames: tuple[FrameScores, ...]
    detections: tuple[tuple[int, Detection], ...] = ()

    def peak(self) -> dict[str, int]:
        """The highest score of each category over all frames."""
        worst: dict[str, int] = {}
        for frame in self.frames:
            for category, score in frame.scores.items():
                if score > worst.get(category, -1):
                    worst[category] = score
        return worst
