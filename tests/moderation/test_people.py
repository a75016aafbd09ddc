"""What a reviewer may say of a decision, said a second time as sentences; and values that refuse what makes no sense."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from moderation.decision import Verdict
from moderation.people import Appeal, Closing, Hold, Outcome, may_say
from tests.builders import NOW, TENANT, make_id

ALLOW, REVIEW, BLOCK, ERROR = Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK, Verdict.ERROR
CASES = [
    {"said": said, "decided": decided, "standing": standing, "is_held": is_held, "is_appealed": is_appealed}
    for said, decided, standing, is_held, is_appealed in product(
        (ALLOW, BLOCK), Verdict, (None, ALLOW, BLOCK), (False, True), (False, True)
    )
]


def says(case: dict) -> bool:
    facts = dict(case)
    return may_say(facts.pop("said"), facts.pop("decided"), **facts)


def where(**facts: object) -> list[dict]:
    found = [case for case in CASES if all(case[name] == value for name, value in facts.items())]
    assert found
    return found


def test_what_could_not_be_judged_is_judged_by_nobody():
    assert not any(map(says, where(decided=ERROR)))


def test_what_is_held_by_the_policy_or_appealed_against_is_open_to_either_word():
    assert all(map(says, where(decided=REVIEW)))
    assert all(says(case) for case in where(is_appealed=True) if case["decided"] is not ERROR)


def test_what_was_allowed_can_be_blocked_at_any_time():
    assert all(map(says, where(decided=ALLOW, said=BLOCK)))


def test_an_allow_answers_a_pause_or_takes_a_block_back_and_is_nothing_else():
    for case in where(decided=ALLOW, said=ALLOW, is_appealed=False):
        assert says(case) is (case["is_held"] or case["standing"] is BLOCK)


def test_what_the_policy_blocked_is_opened_by_an_appeal_alone_and_closed_again_by_anybody():
    assert not any(map(says, where(decided=BLOCK, said=ALLOW, is_appealed=False)))
    for case in where(decided=BLOCK, said=BLOCK, is_appealed=False):
        assert says(case) is (case["standing"] is ALLOW)


@pytest.mark.parametrize(
    ("stood", "said", "outcome"), [(ALLOW, ALLOW, "upheld"), (BLOCK, ALLOW, "overturned"), (ALLOW, BLOCK, "overturned")]
)
def test_an_appeal_is_overturned_by_the_other_verdict_and_upheld_by_the_same(stood, said, outcome):
    facts: Any = {"id": make_id(1), "tenant": TENANT, "decision": make_id(2), "review": None, "reason": "x", "actor": "k", "subject": None}
    appeal = Appeal(**facts, stood=stood, at=NOW, closing=Closing(review=make_id(3), verdict=said, at=NOW))
    assert appeal.outcome is Outcome(outcome)


@pytest.mark.parametrize("on", [{}, {"reference": "a", "sha256": "ab" * 32}, {"decision": make_id(1), "transform": make_id(2)}])
def test_a_hold_is_on_exactly_one_thing(on):
    with pytest.raises(ValueError, match="one thing"):
        Hold(id=make_id(), tenant=TENANT, reason="x", actor="k", at=NOW, **on)
