"""Statements of reasons: our words in the Transparency Database's, and what it would refuse."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from moderation.decision import Verdict
from moderation.dsa import Restriction, problems_in, statement_of
from moderation.media import Stage
from moderation.taxonomy import CATEGORIES


def make_restriction(**changes: Any) -> Restriction:
    defaults = {
        "id": "dec_" + "0" * 32,
        "stage": Stage.UPLOAD,
        "kind": "image",
        "category": "sexual.nudity_explicit",
        "score": 973_100,
        "threshold": 450_000,
        "classifier": "nudenet 3.4.2",
        "policy": "default version 1",
        "made_on": date(2026, 9, 1),
        "said_on": date(2026, 9, 2),
        "by_person": False,
        "before": Verdict.BLOCK,
        "was_released": False,
    }
    return Restriction(**{**defaults, **changes})


@pytest.mark.parametrize("category", [None, *CATEGORIES, "test.marker"])
@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("before", [Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK])
def test_every_restriction_becomes_a_statement_that_would_be_taken(category: str | None, stage: Stage, before: Verdict) -> None:
    for kind in ("image", "animation", "video", None):
        statement = statement_of(
            make_restriction(category=category, stage=stage, before=before, by_person=before is Verdict.ALLOW, kind=kind)
        )
        assert problems_in(statement) == ()


@pytest.mark.parametrize(
    ("category", "stage", "expected", "keywords"),
    [
        ("sexual.minor_risk", Stage.UPLOAD, "PROTECTION_OF_MINORS", ("KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL",)),
        ("sexual.minor_risk", Stage.OUTPUT, "PROTECTION_OF_MINORS", ("KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL_DEEPFAKE",)),
        ("sexual.ncii_deepfake", Stage.OUTPUT, "CYBER_VIOLENCE", ("KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE",)),
        ("sexual.activity", Stage.OUTPUT, "OTHER_VIOLATION_TC", ("KEYWORD_ADULT_SEXUAL_MATERIAL",)),
        ("violence.graphic", Stage.TARGET, "VIOLENCE", ()),
        ("hate.symbol", Stage.SOURCE, "ILLEGAL_OR_HARMFUL_SPEECH", ("KEYWORD_HATE_SPEECH",)),
    ],
)
def test_categories_are_the_databases_and_claim_no_more_than_a_score_can_tell(
    category: str, stage: Stage, expected: str, keywords: tuple[str, ...]
) -> None:
    statement = statement_of(make_restriction(category=category, stage=stage))
    assert (statement.category, statement.category_specification) == (f"STATEMENT_CATEGORY_{expected}", keywords)


def test_who_detected_and_who_decided_is_told_apart() -> None:
    def automation(**changes: Any) -> tuple[str, str]:
        statement = statement_of(make_restriction(**changes))
        return statement.automated_detection, statement.automated_decision

    assert automation() == ("Yes", "AUTOMATED_DECISION_FULLY")
    assert automation(by_person=True, before=Verdict.REVIEW) == ("Yes", "AUTOMATED_DECISION_PARTIALLY")
    assert automation(by_person=True, before=Verdict.ALLOW) == ("No", "AUTOMATED_DECISION_NOT_AUTOMATED")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"puid": "with space"}, "puid: 1 to 500 letters, digits, _ and -"),
        ({"decision_visibility": ()}, "decision_visibility: at least 1"),
        ({"content_type": ("CONTENT_TYPE_HOLOGRAM",)}, "content_type: CONTENT_TYPE_HOLOGRAM is not one of the database's"),
        ({"category": "STATEMENT_CATEGORY_PORNOGRAPHY_OR_SEXUALIZED_CONTENT"}, None),
        ({"decision_facts": "x" * 5001}, "decision_facts: 1 to 5000 characters"),
        ({"incompatible_content_explanation": ""}, "incompatible_content_explanation: 1 to 2000 characters"),
        ({"application_date": "2026-02-30"}, "application_date: YYYY-MM-DD"),
        ({"automated_decision": "AUTOMATED_DECISION_MOSTLY"}, "automated_decision: AUTOMATED_DECISION_MOSTLY is not one of the database's"),
    ],
)
def test_what_the_database_would_refuse_is_said(changes: dict[str, Any], problem: str | None) -> None:
    (found,) = problems_in(replace(statement_of(make_restriction()), **changes))
    assert problem in (found, None)
