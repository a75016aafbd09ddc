"""Replay: what a policy would have decided on stored scores, without inference.

Every answer is `moderation.policy.decide`'s own. A verdict depends on scores only by which thresholds they reach, so decisions about
one picture each that reach the same thresholds under the same circumstances are one case, and each case is decided once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.decision import Verdict
from moderation.errors import PolicyRefused
from moderation.media import Facts, MediaKind, Stage, Unscreened
from moderation.policy import Policy, check_coverage, decide
from moderation.scores import ONE, ClassifierScores, ClassifierVersion, FrameScores, is_score

_NEVER: Final = ONE + 1
"""A threshold that no score reaches."""
_REMEMBERED: Final = 100_000
"""Cases of several frames that are kept."""
_MOST_DIGITS: Final = 39
"""So many digits to the base 3 fit an integer of 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What decisions about one picture each have in common: stage, what was heard, and what was there and not judged."""

    stage: Stage
    classifiers: tuple[ClassifierVersion, ...]
    unscreened: tuple[Unscreened, ...] = ()

    @property
    def columns(self) -> list[tuple[int, str]]:
        """The columns of a table of scores."""
        return columns_of(self.classifiers)


def columns_of(classifiers: Sequence[ClassifierVersion]) -> list[tuple[int, str]]:
    """The columns of a table of the scores of these: place of the classifier, and category."""
    return [(place, category) for place, version in enumerate(classifiers) for category in version.categories]


class Replay:
    """One policy, applied to scores that are there already.

    Classifiers that it ignores altogether would not have run and are not heard. Where it could not have been in force with the
    classifiers that were heard (a category without a rule, a classifier that never ran), it gives `error`: nobody knows.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._fits: dict[tuple[ClassifierVersion, ...], bool] = {}
        self._known: dict[tuple[Circumstances, int | bytes], Verdict] = {}
        self._cases: dict[Hashable, Verdict] = {}
        self._by_name: dict[tuple[ClassifierVersion, Stage], dict[str, tuple[int, int]]] = {}
        self._scales: dict[Circumstances, npt.NDArray[np.int64]] = {}

    def once(self, *, stage: Stage, facts: Facts, required: Sequence[ClassifierVersion], sheets: Sequence[ClassifierScores]) -> Verdict:
        """The verdict on what one decision was made of. What reaches the same thresholds in the same frames is decided once."""
        case = self._case(stage, facts, required, sheets)
        known = None if case is None else self._cases.get(case)
        if known is not None:
            return known
        verdict = self._decided(stage, facts, required, sheets)
        if case is not None and len(self._cases) < _REMEMBERED:
            self._cases[case] = verdict
        return verdict

    def _case(
        self, stage: Stage, facts: Facts, required: Sequence[ClassifierVersion], sheets: Sequence[ClassifierScores]
    ) -> Hashable | None:
        """Everything that the verdict can depend on; None where a sheet is not whole, and only `decide` knows what that means."""
        reached: list[Hashable] = []
        for sheet in sheets:
            scale = self._scale(sheet.classifier, stage)
            for frame in sheet.frames:
                if frame.scores.keys() != scale.keys() or not all(map(is_score, frame.scores.values())):
                    return None
                reached.append(
                    (frame.frame, frame.time_us, tuple([(s >= scale[c][0]) + (s >= scale[c][1]) for c, s in frame.scores.items()]))
                )
            reached.append(sheet.classifier.identity)
        return stage, facts, tuple(version.identity for version in required), tuple(reached)

    def _scale(self, version: ClassifierVersion, stage: Stage) -> dict[str, tuple[int, int]]:
        known = self._by_name.get((version, stage))
        if known is None:
            known = {category: self._thresholds(version.name, category, stage) for category in version.categories}
            self._by_name[version, stage] = known
        return known

    def _decided(self, stage: Stage, facts: Facts, required: Sequence[ClassifierVersion], sheets: Sequence[ClassifierScores]) -> Verdict:
        if not self._is_fit(tuple(required)):
            return Verdict.ERROR
        heard = [version for version in required if self._is_heard(version)]
        given = [sheet for sheet in sheets if sheet.classifier in heard or sheet.classifier not in required]
        return decide(stage=stage, facts=facts, required=heard, sheets=given, policy=self._policy).verdict

    def many(self, which: Circumstances, scores: npt.NDArray[np.int64]) -> list[tuple[Verdict, int, int]]:
        """(verdict, how many, the first row of them), for a table (N, columns of `which`) of complete scores of one picture each."""
        reached = self._reached(which, scores)
        cases, first, counts = np.unique(reached, return_index=True, return_counts=True, axis=0 if reached.ndim > 1 else None)
        found: dict[Verdict, tuple[int, int]] = {}
        for case, row, count in zip(cases, first.tolist(), counts.tolist(), strict=True):
            verdict = self._verdict(which, case.tobytes() if reached.ndim > 1 else int(case), scores[row])
            before, earliest = found.get(verdict, (0, row))
            found[verdict] = before + count, min(earliest, row)
        return [(verdict, count, row) for verdict, (count, row) in found.items()]

    def _reached(self, which: Circumstances, scores: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """For each row which thresholds are reached: as one number to the base 3, or as digits where there are too many."""
        scale = self._scales.get(which)
        if scale is None:
            names = [version.name for version in which.classifiers]
            found = [self._thresholds(names[place], category, which.stage) for place, category in which.columns]
            scale = self._scales[which] = np.array(found, np.int64).reshape(-1, 2)
        digits = (scores >= scale[:, 0]).astype(np.int64) + (scores >= scale[:, 1])
        return digits if digits.shape[1] > _MOST_DIGITS else digits @ (3 ** np.arange(digits.shape[1], dtype=np.int64))

    def _thresholds(self, classifier: str, category: str, stage: Stage) -> tuple[int, int]:
        """(review, block), ascending."""
        rule = None if self._policy.is_ignored(category) else self._policy.rule_for(category, stage, classifier)
        block = _NEVER if rule is None or rule.block_at is None else rule.block_at
        review = block if rule is None or rule.review_at is None else rule.review_at
        return review, block

    def _verdict(self, which: Circumstances, case: int | bytes, scores: npt.NDArray[np.int64]) -> Verdict:
        known = self._known.get((which, case))
        if known is None:
            known = self._known[which, case] = self._judged(which, scores.tolist())
        return known

    def _judged(self, which: Circumstances, scores: Sequence[int]) -> Verdict:
        rows: list[dict[str, int]] = [{} for _ in which.classifiers]
        for (place, category), score in zip(which.columns, scores, strict=True):
            rows[place][category] = score
        sheets = [
            ClassifierScores(classifier=version, frames=(FrameScores(frame=0, time_us=None, scores=row),))
            for version, row in zip(which.classifiers, rows, strict=True)
        ]
        facts = Facts(type="", kind=MediaKind.IMAGE, width=0, height=0, frames=1, frames_declared=None, unscreened=which.unscreened)
        return self._decided(which.stage, facts, which.classifiers, sheets)

    def _is_heard(self, version: ClassifierVersion) -> bool:
        return not all(map(self._policy.is_ignored, version.categories))

    def _is_fit(self, classifiers: tuple[ClassifierVersion, ...]) -> bool:
        known = self._fits.get(classifiers)
        if known is None:
            try:
                check_coverage(self._policy, [version for version in classifiers if self._is_heard(version)])
                known = True
            except PolicyRefused:
                known = False
            self._fits[classifiers] = known
        return known
