"""Whether a cheaper form of a model would decide as the exact one does.

Mean differences of scores say little; what matters is on which side of each threshold a score falls. A picture agrees
when all of its scores fall on the same side of all thresholds. Pictures and thresholds come from a file that the operator
makes of own material, an `.npz` with

    inputs      uint8, N x height x width x 3, model-sized pictures as the decoder makes them
    thresholds  probabilities, optional; `THRESHOLDS` without
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from moderation.adapters.classifiers.model import Model, one_line
from moderation.errors import ModelUnusable
from moderation.frames import Pixels
from moderation.scores import InputScores, to_score

NEEDED: Final = 0.99
"""The share of pictures that must agree."""
FEWEST: Final = 32
"""Fewer pictures prove nothing."""
THRESHOLDS: Final = (0.20, 0.45, 0.50, 0.80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """`agreed` of `pictures`."""

    agreed: int
    pictures: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.agreed / self.pictures


def compare(exact: Sequence[InputScores], cheaper: Sequence[InputScores], thresholds: Sequence[int]) -> Agreement:
    """How many pictures have every score on the same side of every threshold (scores). Both in the same order."""
    agreed = sum(_sides(one, thresholds) == _sides(other, thresholds) for one, other in zip(exact, cheaper, strict=True))
    return Agreement(agreed=agreed, pictures=len(exact))


def require_agreement(exact: Model, cheaper: Model, inputs: Pixels, thresholds: Sequence[int], needed: float = NEEDED) -> Agreement:
    """Compare two models on `inputs`. Raises ModelUnusable when too few pictures agree, or too few were given."""
    if len(inputs) < FEWEST:
        raise ModelUnusable(f"agreement: {len(inputs)} pictures prove nothing, at least {FEWEST} are needed")
    found = compare(exact.predict(inputs), cheaper.predict(inputs), thresholds)
    if found.share < needed:
        raise ModelUnusable(
            f"agreement: {cheaper.version.name} decides alike on {found.agreed} of {found.pictures} pictures, {needed:.1%} are needed"
        )
    return found


def read_inputs(path: Path) -> tuple[Pixels, tuple[int, ...]]:
    """Pictures and thresholds (as scores) from an `.npz`. Raises ModelUnusable."""
    try:
        with np.load(path, allow_pickle=False) as content:
            inputs = content["inputs"]
            thresholds = content["thresholds"] if "thresholds" in content else np.array(THRESHOLDS)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelUnusable(f"agreement {path}: {one_line(error)}") from None
    if thresholds.ndim != 1 or thresholds.size == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ModelUnusable(f"agreement {path}: thresholds must be probabilities")
    return inputs, tuple(to_score(value) for value in thresholds)


def _sides(answer: InputScores, thresholds: Sequence[int]) -> dict[str, list[bool]]:
    return {category: [score >= threshold for threshold in thresholds] for category, score in answer.scores.items()}
