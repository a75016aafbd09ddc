"""Categories: two-level `family.class`, and how other services would say the same.

A classifier that cannot tell classes apart emits a bare family (`sexual`) and no subclass is
invented for it. `ctx.*` describes and never blocks by itself; `test.*` is reserved for planted
markers. `sexual.minor_risk` and `sexual.ncii_deepfake` never come from a score alone: they need a
hash match, a consent record or a person.

Sources of the outward views: OpenAI's moderation object (13 keys, omni-moderation), Amazon
Rekognition's moderation taxonomy version 7, Azure AI Content Safety image severities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from moderation.scores import ONE

CATEGORY_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


def family_of(category: str) -> str:
    """`sexual.suggestive` -> `sexual`; a bare family is its own."""
    return category.partition(".")[0]


def is_context(category: str) -> bool:
    """Context flags describe and never block."""
    return family_of(category) == "ctx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One row of the table. `openai` are the keys it feeds; `rekognition` its (L1, L2) path;
    `azure` its Azure category; `severity` is ordinal, 0 to 4."""

    code: str
    meaning: str
    severity: int
    openai: tuple[str, ...] = ()
    rekognition: tuple[str, ...] = ()
    azure: str | None = None


_TABLE: Final = (
    Category(code="sexual", meaning="sexual, class not resolved", severity=3, openai=("sexual",), rekognition=("Explicit",), azure="Sexual"),
    Category(code="sexual.activity", meaning="sexual act, explicit", severity=4, openai=("sexual",), rekognition=("Explicit", "Explicit Sexual Activity"), azure="Sexual"),
    Category(code="sexual.nudity_explicit", meaning="genitals, anus, female nipple, bare buttocks", severity=4, openai=("sexual",), rekognition=("Explicit", "Explicit Nudity"), azure="Sexual"),
    Category(code="sexual.objects", meaning="sex toys", severity=3, openai=("sexual",), rekognition=("Explicit", "Sex Toys"), azure="Sexual"),
    Category(code="sexual.nudity_partial", meaning="implied or partial nudity, obstructed parts", severity=2, openai=("sexual",), rekognition=("Non-Explicit Nudity of Intimate parts and Kissing", "Non-Explicit Nudity"), azure="Sexual"),
    Category(code="sexual.suggestive", meaning="swimwear, underwear, kissing, pose", severity=1, rekognition=("Swimwear or Underwear",), azure="Sexual"),
    Category(code="sexual.minor_risk", meaning="sexual with an apparent minor, or a known hash", severity=4),
    Category(code="sexual.ncii_deepfake", meaning="sexual on an identified person without consent", severity=4),
    Category(code="violence", meaning="violence, class not resolved", severity=3, openai=("violence",), rekognition=("Violence",), azure="Violence"),
    Category(code="violence.graphic", meaning="gore, injury, corpse", severity=4, openai=("violence", "violence/graphic"), rekognition=("Violence", "Graphic Violence"), azure="Violence"),
    Category(code="violence.weapon", meaning="weapon without harm", severity=1, openai=("violence",), rekognition=("Violence", "Weapons"), azure="Violence"),
    Category(code="selfharm", meaning="self-harm, class not resolved", severity=3, openai=("self-harm",), rekognition=("Violence", "Graphic Violence"), azure="SelfHarm"),
    Category(code="selfharm.depiction", meaning="self-injury, emaciation", severity=3, openai=("self-harm",), rekognition=("Violence", "Graphic Violence"), azure="SelfHarm"),
    Category(code="hate", meaning="hate, class not resolved", severity=3, rekognition=("Hate Symbols",), azure="Hate"),
    Category(code="hate.symbol", meaning="extremist symbol", severity=3, rekognition=("Hate Symbols",), azure="Hate"),
    Category(code="substance.drug_tobacco_alcohol", meaning="use or product", severity=1, rekognition=("Drugs & Tobacco",)),
    Category(code="other.rude_gambling", meaning="gesture, gambling", severity=1, rekognition=("Rude Gestures",)),
    Category(code="ctx.illustrated", meaning="drawn or rendered", severity=0),
    Category(code="ctx.animated", meaning="moves", severity=0),
    Category(code="ctx.medical", meaning="medical setting", severity=0),
    Category(code="ctx.synthetic", meaning="likely generated", severity=0),
    Category(code="ctx.face_count", meaning="a face is present", severity=0),
)

CATEGORIES: Final[Mapping[str, Category]] = {row.code: row for row in _TABLE}


def is_known(category: str) -> bool:
    """Whether a classifier may emit it: in the table, or a planted marker `test.*`."""
    return category in CATEGORIES or (family_of(category) == "test" and CATEGORY_PATTERN.fullmatch(category) is not None)


OPENAI_KEYS: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def openai_scores(scores: Mapping[str, int]) -> dict[str, int]:
    """The highest member score for each OpenAI key that any of our categories feeds.

    Keys that nothing feeds are absent: the caller shows them as not applied, never as "safe".
    """
    view: dict[str, int] = {}
    for code, score in scores.items():
        row = CATEGORIES.get(code)
        for key in row.openai if row else ():
            view[key] = max(view.get(key, 0), score)
    return view


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationLabel:
    """A Rekognition label; `confidence` is a score (millionths), `level` 1 to 3."""

    name: str
    parent: str
    level: int
    confidence: int


_AZURE_SEVERITY: Final = (0, 2, 4, 4, 6)
"""Our ordinal severity 0..4 as Azure's four levels."""


def rekognition_labels(scores: Mapping[str, int], leaves: Mapping[str, tuple[str, int]]) -> list[ModerationLabel]:
    """Labels with their parents, each parent at least as confident as its children.

    `leaves` maps a level-3 name (`Exposed Female Nipple`) to its category and score; level 3 exists
    only where a classifier showed a place.
    """
    best: dict[tuple[str, str, int], int] = {}

    def add(path: tuple[str, ...], score: int) -> None:
        for level, name in enumerate(path, start=1):
            key = (name, path[level - 2] if level > 1 else "", level)
            best[key] = max(best.get(key, 0), score)

    for code, score in scores.items():
        row = CATEGORIES.get(code)
        if row and row.rekognition:
            add(row.rekognition, score)
    for name, (code, score) in leaves.items():
        row = CATEGORIES.get(code)
        if row and row.rekognition:
            add((*row.rekognition, name), score)
    labels = [ModerationLabel(name=n, parent=p, level=lv, confidence=s) for (n, p, lv), s in best.items() if s > 0]
    return sorted(labels, key=lambda label: (-label.confidence, label.level, label.name))


def azure_severities(scores: Mapping[str, int], thresholds: Mapping[str, int]) -> dict[str, int]:
    """Azure's severity for each of its categories that is covered here.

    A category counts with its full severity once its score reaches `thresholds[code]`, otherwise
    with severity 0, since Azure's levels are ordinal and not probabilities.
    """
    view: dict[str, int] = {}
    for code, score in scores.items():
        row = CATEGORIES.get(code)
        if row is None or row.azure is None:
            continue
        reached = score >= thresholds.get(code, ONE + 1)
        view[row.azure] = max(view.get(row.azure, 0), _AZURE_SEVERITY[row.severity] if reached else 0)
    return view
