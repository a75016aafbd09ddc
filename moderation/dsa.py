"""Statements of reasons as the DSA Transparency Database takes them: field names, enumerations, and what makes one valid.

Source: Regulation (EU) 2022/2065, Article 17(3) and 24(5); the database's API documentation and its `StatementStoreRequest`, the
categories and keywords in force since July 2025. A statement never carries personal data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from moderation.decision import Verdict
from moderation.media import Stage
from moderation.scores import as_decimal
from moderation.taxonomy import family_of

VISIBILITIES: Final = frozenset(
    f"DECISION_VISIBILITY_{word}"
    for word in (
        "CONTENT_REMOVED",
        "CONTENT_DISABLED",
        "CONTENT_DEMOTED",
        "CONTENT_AGE_RESTRICTED",
        "CONTENT_INTERACTION_RESTRICTED",
        "CONTENT_LABELLED",
        "OTHER",
    )
)
GROUNDS: Final = frozenset({"DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"})
CONTENT_TYPES: Final = frozenset(
    f"CONTENT_TYPE_{word}" for word in ("APP", "AUDIO", "IMAGE", "PRODUCT", "SYNTHETIC_MEDIA", "TEXT", "VIDEO", "OTHER")
)
CATEGORIES: Final = frozenset(
    f"STATEMENT_CATEGORY_{word}"
    for word in (
        "ANIMAL_WELFARE",
        "CONSUMER_INFORMATION",
        "CYBER_VIOLENCE",
        "CYBER_VIOLENCE_AGAINST_WOMEN",
        "DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
        "ILLEGAL_OR_HARMFUL_SPEECH",
        "INTELLECTUAL_PROPERTY_INFRINGEMENTS",
        "NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
        "NOT_SPECIFIED_NOTICE",
        "OTHER_VIOLATION_TC",
        "PROTECTION_OF_MINORS",
        "RISK_FOR_PUBLIC_SECURITY",
        "SCAMS_AND_FRAUD",
        "SELF_HARM",
        "UNSAFE_AND_PROHIBITED_PRODUCTS",
        "VIOLENCE",
    )
)
KEYWORDS: Final = frozenset(
    f"KEYWORD_{word}"
    for word in (
        "ADULT_SEXUAL_MATERIAL",
        "CHILD_SEXUAL_ABUSE_MATERIAL",
        "CHILD_SEXUAL_ABUSE_MATERIAL_DEEPFAKE",
        "HATE_SPEECH",
        "NON_CONSENSUAL_MATERIAL_DEEPFAKE",
        "NUDITY",
        "SELF_MUTILATION",
    )
)
"""Those that a statement of ours may use; the database knows more."""
SOURCES: Final = frozenset({"SOURCE_ARTICLE_16", "SOURCE_TRUSTED_FLAGGER", "SOURCE_TYPE_OTHER_NOTIFICATION", "SOURCE_VOLUNTARY"})
AUTOMATED: Final = frozenset(f"AUTOMATED_DECISION_{word}" for word in ("FULLY", "PARTIALLY", "NOT_AUTOMATED"))

MOST_FACTS: Final = 5000
MOST_EXPLANATION: Final = 2000
MOST_GROUND: Final = 500
_PUID: Final = re.compile(r"[A-Za-z0-9_-]{1,500}")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement; the fields are the database's."""

    puid: str
    decision_visibility: tuple[str, ...]
    decision_ground: str
    incompatible_content_ground: str
    incompatible_content_explanation: str
    content_type: tuple[str, ...]
    category: str
    category_specification: tuple[str, ...]
    content_date: str
    application_date: str
    decision_facts: str
    source_type: str
    automated_detection: str
    automated_decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """What a statement is about: a `block`, said by the policy, or by a person about what the policy had said (`before`)."""

    id: str
    """Of decision or review, as callers know it."""
    stage: Stage
    kind: str | None
    """Of media; None where the bytes could not be opened."""
    category: str | None
    """Of the gravest reason."""
    score: int | None
    threshold: int | None
    classifier: str | None
    policy: str
    """Name and version."""
    made_on: date
    said_on: date
    by_person: bool
    before: Verdict
    was_released: bool


def statement_of(what: Restriction) -> Statement:
    """The statement of reasons for one restriction."""
    category, keywords = _category(what.category, what.stage)
    is_found = what.category is not None and what.before is not Verdict.ALLOW
    return Statement(
        puid=what.id,
        decision_visibility=(f"DECISION_VISIBILITY_CONTENT_{'REMOVED' if what.was_released else 'DISABLED'}",),
        decision_ground="DECISION_GROUND_INCOMPATIBLE_CONTENT",
        incompatible_content_ground=f"Moderation policy {what.policy}",
        incompatible_content_explanation=_explanation(what),
        content_type=_content_types(what),
        category=category,
        category_specification=keywords,
        content_date=what.made_on.isoformat(),
        application_date=what.said_on.isoformat(),
        decision_facts=_facts(what),
        source_type="SOURCE_VOLUNTARY",
        automated_detection="Yes" if is_found else "No",
        automated_decision=_automation(what),
    )


def problems_in(statement: Statement) -> tuple[str, ...]:
    """What the database would refuse, each as `field: why`; empty for a valid statement. That no puid comes twice is not seen here."""
    return tuple(_problems(statement))


def _problems(s: Statement) -> Iterator[str]:
    if _PUID.fullmatch(s.puid) is None:
        yield "puid: 1 to 500 letters, digits, _ and -"
    yield from _unknown("decision_visibility", s.decision_visibility, VISIBILITIES, least=1)
    yield from _unknown("decision_ground", (s.decision_ground,), GROUNDS)
    yield from _unknown("content_type", s.content_type, CONTENT_TYPES, least=1)
    yield from _unknown("category", (s.category,), CATEGORIES)
    yield from _unknown("category_specification", s.category_specification, KEYWORDS)
    yield from _unknown("source_type", (s.source_type,), SOURCES)
    yield from _unknown("automated_detection", (s.automated_detection,), frozenset({"Yes", "No"}))
    yield from _unknown("automated_decision", (s.automated_decision,), AUTOMATED)
    for name, text, most in (
        ("incompatible_content_ground", s.incompatible_content_ground, MOST_GROUND),
        ("incompatible_content_explanation", s.incompatible_content_explanation, MOST_EXPLANATION),
        ("decision_facts", s.decision_facts, MOST_FACTS),
    ):
        if not 0 < len(text) <= most:
            yield f"{name}: 1 to {most} characters"
    for name, text in (("content_date", s.content_date), ("application_date", s.application_date)):
        if not _is_date(text):
            yield f"{name}: YYYY-MM-DD"


def _unknown(name: str, given: Sequence[str], known: frozenset[str], *, least: int = 0) -> Iterator[str]:
    if len(given) < least:
        yield f"{name}: at least {least}"
    for word in given:
        if word not in known:
            yield f"{name}: {word} is not one of the database's"


def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


# What a score cannot tell is not claimed: a sexual result of a swap is no proof of a lack of consent.
_OF_CATEGORY: Final = {
    "sexual.ncii_deepfake": ("STATEMENT_CATEGORY_CYBER_VIOLENCE", ("KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE",)),
    "sexual.nudity_explicit": ("STATEMENT_CATEGORY_OTHER_VIOLATION_TC", ("KEYWORD_NUDITY",)),
    "sexual.nudity_partial": ("STATEMENT_CATEGORY_OTHER_VIOLATION_TC", ("KEYWORD_NUDITY",)),
}
_OF_FAMILY: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "sexual": ("STATEMENT_CATEGORY_OTHER_VIOLATION_TC", ("KEYWORD_ADULT_SEXUAL_MATERIAL",)),
    "violence": ("STATEMENT_CATEGORY_VIOLENCE", ()),
    "selfharm": ("STATEMENT_CATEGORY_SELF_HARM", ("KEYWORD_SELF_MUTILATION",)),
    "hate": ("STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH", ("KEYWORD_HATE_SPEECH",)),
}
_OF_ANYTHING_ELSE: Final = ("STATEMENT_CATEGORY_OTHER_VIOLATION_TC", ())


def _category(category: str | None, stage: Stage) -> tuple[str, tuple[str, ...]]:
    """Category and keywords for one of ours."""
    if category == "sexual.minor_risk":
        made = "_DEEPFAKE" if stage is Stage.OUTPUT else ""
        return "STATEMENT_CATEGORY_PROTECTION_OF_MINORS", (f"KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL{made}",)
    return _OF_CATEGORY.get(category or "") or _OF_FAMILY.get(family_of(category or ""), _OF_ANYTHING_ELSE)


def _content_types(what: Restriction) -> tuple[str, ...]:
    kind = {"image": "CONTENT_TYPE_IMAGE", "animation": "CONTENT_TYPE_VIDEO", "video": "CONTENT_TYPE_VIDEO"}
    shown = kind.get(what.kind or "", "CONTENT_TYPE_OTHER")
    return ("CONTENT_TYPE_SYNTHETIC_MEDIA", shown) if what.stage is Stage.OUTPUT else (shown,)


def _automation(what: Restriction) -> str:
    if not what.by_person:
        return "AUTOMATED_DECISION_FULLY"
    return "AUTOMATED_DECISION_NOT_AUTOMATED" if what.before is Verdict.ALLOW else "AUTOMATED_DECISION_PARTIALLY"


_PLACES: Final = {
    Stage.UPLOAD: "content that was submitted for moderation",
    Stage.SOURCE: "a picture submitted as the source of a face swap",
    Stage.TARGET: "content submitted as the target of a face swap",
    Stage.OUTPUT: "the result of a face swap",
}


def _facts(what: Restriction) -> str:
    """Facts and circumstances, without anything about a person."""
    found = (
        f" The classifier {what.classifier} gave {what.category} a score of {as_decimal(what.score)};"
        f" the policy acts from {as_decimal(what.threshold)}."
        if what.category is not None and what.score is not None and what.threshold is not None
        else ""
    )
    who = "A reviewer decided after looking at it." if what.by_person else "The policy decided without a person."
    return f"Own-initiative screening of {_PLACES[what.stage]}.{found} {who}"


def _explanation(what: Restriction) -> str:
    about = f"{what.category} at or above its threshold" if what.category is not None else "content that could not be cleared"
    return f"Policy {what.policy} does not allow {about} in {_PLACES[what.stage]}."
