"""Mapping files: from a classifier's own labels to our categories.

A mapping is YAML, strictly read. Every label that the classifier has is either mapped or listed as `ignored`,
and nothing else is:

    classifier: nudenet              # the name under which policies know it
    calibrated: false                # whether scores may be compared with those of other calibrated classifiers
    combine: max                     # or sum, where the labels exclude each other (softmax)
    labels:
      FEMALE_BREAST_EXPOSED: {category: sexual.nudity_explicit, detail: Exposed Female Nipple}
      MALE_BREAST_EXPOSED: {category: sexual.nudity_partial, weight: 0.4}
      nsfw: {category: sexual, calibration: {temperature: 1.7}}
    together:                        # several different labels at once mean more than each alone
      - {category: sexual.activity, count: 2, labels: [ANUS_EXPOSED, MALE_GENITALIA_EXPOSED]}
    ignored: [FEET_COVERED]

A label's probability goes through its calibration, then times its `weight`; a category gets the highest of its
labels, or their sum up to 1. Calibrations act on one label's probability p, and never fall as p rises: `{temperature: t}` divides the
log-odds of p, `{platt: [a, b]}` turns them into a times the log-odds plus b, `{isotonic: [[p, q], ...]}`
interpolates in a table that begins at p = 0 and ends at p = 1. `detail` is the Rekognition name of what was found.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from moderation.adapters.classifiers.model import one_line, sha256_digest
from moderation.errors import ClassifierFault, ModelUnusable
from moderation.scores import to_score
from moderation.taxonomy import is_known

Probabilities = NDArray[np.float64]

NEVER_FROM_A_SCORE: Final = frozenset({"sexual.minor_risk", "sexual.ncii_deepfake"})
"""Categories that need a hash match, a consent record or a person."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
MAX_BYTES: Final = 1_000_000
_ODDS_FLOOR: Final = 1e-12
_PAIR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Platt:
    """Log-odds times `slope` plus `offset`; a temperature t is slope 1/t, offset 0."""

    slope: float
    offset: float

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        """Calibrated probabilities, in [0, 1]."""
        held = np.clip(probabilities, _ODDS_FLOOR, 1.0 - _ODDS_FLOOR)
        odds = np.clip(self.slope * np.log(held / (1.0 - held)) + self.offset, -700.0, 700.0)
        calibrated: Probabilities = 1.0 / (1.0 + np.exp(-odds))
        return calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class Isotonic:
    """Linear interpolation in a table that never falls."""

    given: tuple[float, ...]
    means: tuple[float, ...]

    def __call__(self, probabilities: Probabilities) -> Probabilities:
        """Calibrated probabilities, in [0, 1]."""
        return np.interp(probabilities, self.given, self.means)


Calibration = Platt | Isotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """What one label means. `weight` is in (0, 1]."""

    category: str
    detail: str | None = None
    weight: float = 1.0
    calibration: Calibration | None = None

    def apply(self, probabilities: Probabilities) -> Probabilities:
        """The label's probabilities as this mapping scores them."""
        calibrated = probabilities if self.calibration is None else self.calibration(probabilities)
        return calibrated * self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """A category that is as likely as the `count`-th likeliest of some labels."""

    category: str
    count: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapping:
    """A mapping file as read. `exclusive` says that labels of one category add up; `digest` is of the file's bytes."""

    classifier: str
    calibrated: bool
    exclusive: bool
    labels: Mapping[str, LabelRule]
    ignored: frozenset[str]
    together: tuple[Together, ...]
    digest: str

    @property
    def categories(self) -> tuple[str, ...]:
        """Everything that can be emitted, in the order of the file."""
        return tuple(dict.fromkeys([rule.category for rule in self.labels.values()] + [rule.category for rule in self.together]))

    def check_labels(self, labels: Iterable[str]) -> None:
        """Raise ModelUnusable unless the mapping speaks of exactly the classifier's labels."""
        own, spoken = set(labels), set(self.labels) | self.ignored
        if own - spoken:
            raise ModelUnusable(f"mapping {self.classifier}: labels neither mapped nor ignored: {', '.join(sorted(own - spoken))}")
        if spoken - own:
            raise ModelUnusable(f"mapping {self.classifier}: the classifier has no label {', '.join(sorted(spoken - own))}")

    def label_scores(self, label: str, probabilities: NDArray[np.floating]) -> list[int]:
        """Scores of one mapped label. Raises ClassifierFault like `scores`."""
        return [to_score(value) for value in self.labels[label].apply(probabilities.astype(np.float64))]

    def scores(self, labels: Sequence[str], probabilities: NDArray[np.floating]) -> list[dict[str, int]]:
        """Scores of every category for each row of `probabilities` (N x labels, in the order of `labels`).

        Raises ClassifierFault on NaN and on anything outside [0, 1].
        """
        if not ((probabilities >= 0) & (probabilities <= 1)).all():  # NaN is neither
            raise ClassifierFault(f"{self.classifier}: a probability is not in [0, 1]")
        columns = {
            label: self.labels[label].apply(_column(probabilities, index)) for index, label in enumerate(labels) if label in self.labels
        }
        best: dict[str, Probabilities] = {}
        for label, rule in self.labels.items():
            seen = best.get(rule.category)
            best[rule.category] = columns[label] if seen is None else self._combine(seen, columns[label])
        for both in self.together:
            ranked = np.sort(np.stack([columns[label] for label in both.labels]), axis=0)[-both.count]
            seen = best.get(both.category)
            best[both.category] = ranked if seen is None else np.maximum(seen, ranked)
        return [{category: to_score(values[row]) for category, values in best.items()} for row in range(len(probabilities))]

    def _combine(self, one: Probabilities, other: Probabilities) -> Probabilities:
        return np.minimum(one + other, 1.0) if self.exclusive else np.maximum(one, other)


def read_mapping(path: Path) -> LabelMapping:
    """A mapping from a file. Raises ModelUnusable when it cannot be read or is not a mapping."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelUnusable(f"mapping {path}: larger than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise ModelUnusable(f"mapping {path}: {error.strerror or error}") from None
    return parse_mapping(data, str(path))


def shipped_mapping(name: str) -> LabelMapping:
    """One of the mappings that come with the package, by its file name without `.yaml`."""
    return parse_mapping((files("moderation.adapters.classifiers.mappings") / f"{name}.yaml").read_bytes(), name)


def parse_mapping(data: bytes, where: str) -> LabelMapping:
    """A mapping from its bytes; `where` is for messages. Raises ModelUnusable, in one line."""
    try:
        content = yaml.load(data.decode("utf-8"), Loader=_Strict)  # noqa: S506  # a SafeLoader that also refuses repeated keys
        return _mapping(content, sha256_digest(data))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ModelUnusable(f"mapping {where}: not YAML: {one_line(error)}") from None
    except _Wrong as error:
        raise ModelUnusable(f"mapping {where}: {error}") from None


class _Wrong(Exception):
    """What is wrong with a mapping, without saying which."""


class _Strict(yaml.SafeLoader):
    """Refuses repeated keys, which YAML readers otherwise resolve in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _Wrong(f"the key {name!r} is not a text")
            if name in seen:
                raise _Wrong(f"{name!r} is there twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def _mapping(content: object, digest: str) -> LabelMapping:
    fields = _fields(content, "the file", needed={"classifier", "labels"}, allowed={"calibrated", "combine", "ignored", "together"})
    labels = fields["labels"]
    if not isinstance(labels, dict) or not labels:
        raise _Wrong("`labels` must map at least one label")
    rules = {label: _rule(rule, label) for label, rule in labels.items()}
    ignored = _texts(fields.get("ignored", []), "ignored")
    if both := sorted(set(ignored) & set(rules)):
        raise _Wrong(f"both mapped and ignored: {', '.join(both)}")
    together = fields.get("together", [])
    if not isinstance(together, list):
        raise _Wrong("`together` must be a list")
    classifier, calibrated = fields["classifier"], fields.get("calibrated", False)
    if not isinstance(classifier, str) or NAME.fullmatch(classifier) is None:
        raise _Wrong(f"`classifier` {classifier!r} is not a name of a-z, 0-9, dot, dash and underscore")
    if not isinstance(calibrated, bool):
        raise _Wrong("`calibrated` must be true or false")
    if (combine := fields.get("combine", "max")) not in {"max", "sum"}:
        raise _Wrong("`combine` must be max or sum")
    return LabelMapping(
        classifier=classifier,
        calibrated=calibrated,
        exclusive=combine == "sum",
        labels=rules,
        ignored=frozenset(ignored),
        together=tuple(_together(rule, rules) for rule in together),
        digest=digest,
    )


def _rule(content: object, label: str) -> LabelRule:
    fields = _fields(content, label, needed={"category"}, allowed={"detail", "weight", "calibration"})
    detail, weight = fields.get("detail"), fields.get("weight", 1.0)
    if detail is not None and (not isinstance(detail, str) or not detail):
        raise _Wrong(f"{label}: `detail` must be a text")
    if not 0.0 < _number(weight, f"{label}: weight") <= 1.0:
        raise _Wrong(f"{label}: `weight` must be over 0 and at most 1")
    calibration = fields.get("calibration")
    return LabelRule(
        category=_category(fields["category"], label),
        detail=detail,
        weight=float(weight),
        calibration=None if calibration is None else _calibration(calibration, label),
    )


def _together(content: object, rules: Mapping[str, LabelRule]) -> Together:
    fields = _fields(content, "together", needed={"category", "count", "labels"}, allowed=set())
    labels, count = _texts(fields["labels"], "together: labels"), fields["count"]
    if unmapped := sorted(set(labels) - set(rules)):
        raise _Wrong(f"together: not mapped: {', '.join(unmapped)}")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 < count <= len(labels):
        raise _Wrong("together: `count` must be at least 2 and at most the number of labels")
    return Together(category=_category(fields["category"], "together"), count=count, labels=tuple(labels))


def _calibration(content: object, label: str) -> Calibration:
    if not isinstance(content, dict) or len(content) != 1:
        raise _Wrong(f"{label}: `calibration` must be one of temperature, platt, isotonic")
    ((kind, value),) = content.items()
    where = f"{label}: {kind}"
    if kind == "temperature":
        temperature = _number(value, where)
        if temperature <= 0.0:
            raise _Wrong(f"{where} must be over 0")
        return Platt(slope=1.0 / temperature, offset=0.0)
    if kind == "platt":
        if not isinstance(value, list) or len(value) != _PAIR:
            raise _Wrong(f"{where} must be [slope, offset]")
        slope, offset = (_number(item, where) for item in value)
        if slope <= 0.0:
            raise _Wrong(f"{where}: the slope must be over 0")
        return Platt(slope=slope, offset=offset)
    if kind == "isotonic":
        return _isotonic(value, where)
    raise _Wrong(f"{where} is none of temperature, platt, isotonic")


def _isotonic(value: object, where: str) -> Isotonic:
    if not isinstance(value, list) or len(value) < _PAIR or not all(isinstance(row, list) and len(row) == _PAIR for row in value):
        raise _Wrong(f"{where} must be at least two rows of [given, meant]")
    given = tuple(_number(row[0], where) for row in value)
    means = tuple(_number(row[1], where) for row in value)
    if given[0] != 0.0 or given[-1] != 1.0 or any(low >= high for low, high in itertools.pairwise(given)):
        raise _Wrong(f"{where}: the first column must rise from 0 to 1")
    if not (means[0] >= 0.0 and means[-1] <= 1.0) or any(low > high for low, high in itertools.pairwise(means)):
        raise _Wrong(f"{where}: the second column must not fall and stay in 0 to 1")
    return Isotonic(given=given, means=means)


def _fields(content: object, where: str, *, needed: set[str], allowed: set[str]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _Wrong(f"{where}: not a mapping of names to values")
    if missing := sorted(needed - content.keys()):
        raise _Wrong(f"{where}: {', '.join(missing)} is missing")
    if unknown := sorted(content.keys() - needed - allowed):
        raise _Wrong(f"{where}: {', '.join(unknown)} is not known here")
    return content


def _category(value: object, where: str) -> str:
    if not isinstance(value, str) or not is_known(value):
        raise _Wrong(f"{where}: {value!r} is not a category")
    if value in NEVER_FROM_A_SCORE:
        raise _Wrong(f"{where}: {value} never comes from a score")
    return value


def _texts(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Wrong(f"`{where}` must be a list of texts")
    if len(set(value)) != len(value):
        raise _Wrong(f"`{where}` names one twice")
    return value


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _Wrong(f"{where} must be a number")
    return float(value)


def _column(probabilities: NDArray[np.floating], index: int) -> Probabilities:
    return probabilities[:, index].astype(np.float64)
