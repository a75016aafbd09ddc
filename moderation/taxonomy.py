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
from types import MappingProxyType
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
    """One row of the table.

    `severity` is ordinal, 0 to 4. `openai` are the keys it feeds, `rekognition` its path from level 1
    down, `azure` its Azure category.
    """

    code: str
    meaning: str
    severity: int
    openai: tuple[str, ...] = ()
    rekognition: tuple[str, ...] = ()
    azure: str | None = None


# fmt: off
# Code, meaning, severity, OpenAI keys, Rekognition path, Azure category.
_TABLE: Final[tuple[tuple[str, str, int, tuple[str, ...], tuple[str, ...], str | None], ...]] = (
    ("sexual",                         "sexual, class not resolved",                     3, ("sexual",),                      ("Explicit",),                                                                "Sexual"),
    ("sexual.activity",                "sexual act, explicit",                           4, ("sexual",),                      ("Explicit", "Explicit Sexual Activity"),                                     "Sexual"),
    ("sexual.nudity_explicit",         "genitals, anus, female nipple, bare buttocks",   4, ("sexual",),                      ("Explicit", "Explicit Nudity"),                                              "Sexual"),
    ("sexual.objects",                 "sex toys",                                       3, ("sexual",),                      ("Explicit", "Sex Toys"),                                                     "Sexual"),
    ("sexual.nudity_partial",          "implied or partial nudity, obstructed parts",    2, ("sexual",),                      ("Non-Explicit Nudity of Intimate parts and Kissing", "Non-Explicit Nudity"), "Sexual"),
    ("sexual.suggestive",              "swimwear, underwear, kissing, pose",             1, (),                               ("Swimwear or Underwear",),                                                   "Sexual"),
    ("sexual.minor_risk",              "sexual with an apparent minor, or a known hash", 4, (),                               (),                                                                           None),
    ("sexual.ncii_deepfake",           "sexual on an identified person without consent", 4, (),                               (),                                                                           None),
    ("violence",                       "violence, class not resolved",                   3, ("violence",),                    ("Violence",),                                                                "Violence"),
    ("violence.graphic",               "gore, injury, corpse",                           4, ("violence", "violence/graphic"), ("Violence", "Graphic Violence"),                                             "Violence"),
    ("violence.weapon",                "weapon without harm",                            1, ("violence",),                    ("Violence", "Weapons"),                                                      "Violence"),
    ("selfharm",                       "self-harm, class not resolved",                  3, ("self-harm",),                   ("Violence", "Graphic Violence"),                                             "SelfHarm"),
    ("selfharm.depiction",             "self-injury, emaciation",                        3, ("self-harm",),                   ("Violence", "Graphic Violence"),                                             "SelfHarm"),
    ("hate",                           "hate, class not resolved",                       3, (),                               ("Hate Symbols",),                                                            "Hate"),
    ("hate.symbol",                    "extremist symbol",                               3, (),                               ("Hate Symbols",),                                                            "Hate"),
    ("substance.drug_tobacco_alcohol", "use or product",                                 1, (),                               ("Drugs & Tobacco",),                                                         None),
    ("other.rude_gambling",            "gesture, gambling",                              1, (),                               ("Rude Gestures",),                                                           None),
    ("ctx.illustrated",                "drawn or rendered",                              0, (),                               (),                                                                           None),
    ("ctx.animated",                   "moves",                                          0, (),                               (),                                                                           None),
    ("ctx.medical",                    "medical setting",                                0, (),                               (),                                                                           None),
    ("ctx.synthetic",                  "likely generated",                               0, (),                               (),                                                                           None),
    ("ctx.face_count",                 "a face is present",                              0, (),                               (),                                                                           None),
)
# fmt: on

CATEGORIES: Final[Mapping[str, Category]] = {
    code: Category(code=code, meaning=meaning, severity=severity, openai=openai, rekognition=rekognition, azure=azure)
    for code, meaning, severity, openai, rekognition, azure in _TABLE
}
FAMILIES: Final = frozenset(family_of(code) for code in CATEGORIES)


def is_known(category: str) -> bool:
    """Whether it may be emitted and ruled on: in the table, a bare family of it, or a planted marker `test.*`."""
    return (
        category in CATEGORIES
        or category in FAMILIES
        or (family_of(category) == "test" and CATEGORY_PATTERN.fullmatch(category) is not None)
    )


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


_NO_CAUSES: Final[Mapping[str | None, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModerationLabel:
    """A Rekognition label; `confidence` is a score (millionths), `level` 1 to 3."""

    name: str
    parent: str
    level: int
    confidence: int


_UNNAMED: Final = ("Explicit",)


def stopping_path(category: str | None) -> tuple[str, ...]:
    """The Rekognition labels, from level 1 down, that tell what stopped a media; never empty.

    Where it has none for a category, level 1 of the family is the nearest. What belongs to no family of theirs (a planted marker),
    or to no category at all (what nobody could look at, a person's word), is told as `Explicit`: clients act on names that they know.
    """
    row = CATEGORIES.get(category or "")
    if row and row.rekognition:
        return row.rekognition
    family = family_of(category or "")
    return next((other.rekognition[:1] for code, other in CATEGORIES.items() if family_of(code) == family and other.rekognition), _UNNAMED)


_AZURE_SEVERITY: Final = (0, 2, 4, 4, 6)
"""Our ordinal severity 0..4 as Azure's four levels."""


def rekognition_labels(
    scores: Mapping[str, int], leaves: Mapping[str, tuple[str, int]], *, at_least: int = 1, causes: Mapping[str | None, int] = _NO_CAUSES
) -> list[ModerationLabel]:
    """Labels from `at_least` up with their parents, each parent at least as confident as its children.

    `leaves` maps a level-3 name (`Exposed Female Nipple`) to its category and score; level 3 exists
    only where a classifier showed a place. `causes` says from which score on a category stops the media; what reaches that is told
    whatever `at_least` is, by the nearest label if it has none. Its key None, for what no classifier scores, is told as certain.
    """
    best: dict[tuple[str, str, int], int] = {}
    told: set[tuple[str, str, int]] = set()

    def add(code: str | None, score: int, *leaf: str) -> None:
        row, is_cause = CATEGORIES.get(code or ""), score >= causes.get(code, ONE + 1)
        path = (*stopping_path(code), *leaf) if is_cause else (*row.rekognition, *leaf) if row and row.rekognition else ()
        for level, name in enumerate(path, start=1):
            key = (name, path[level - 2] if level > 1 else "", level)
            best[key] = max(best.get(key, 0), score)
            if is_cause:
                told.add(key)

    for code, score in scores.items():
        add(code, score)
    for name, (code, score) in leaves.items():
        add(code, score, name)
    if None in causes:
        add(None, ONE)
    wanted = {key: score for key, score in best.items() if score >= max(at_least, 1) or key in told}
    labels = [ModerationLabel(name=n, parent=p, level=lv, confidence=s) for (n, p, lv), s in wanted.items()]
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
