from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.http.documents import decision_document
from deployments.http.schemas import DecisionView
from deployments.http.wire import decode_object, encode
from moderation.media import MediaKind
from moderation.policy import decide
from moderation.scores import FrameScores
from tests.builders import LOUD, QUIET, make_decision, make_error_decision, make_facts, make_policy, make_sheet

FIELDS = [
    "id",
    "object",
    "status",
    "verdict",
    "effective_verdict",
    "superseded_by",
    "stage",
    "media",
    "reasons",
    "scores",
    "segments",
    "classifiers",
    "policy",
    "reference",
    "automated",
    "created_at",
    "receipt",
]


def film(*loud: bool, duration_us: int | None = None):
    """A decision about an animation with a frame every half second."""
    sheet = make_sheet(*(LOUD if is_loud else QUIET for is_loud in loud))
    decision = make_decision()
    facts = make_facts(kind=MediaKind.ANIMATION, frames=len(loud), duration_us=duration_us, type="image/gif")
    outcome = decide(stage=decision.stage, facts=facts, required=[sheet.classifier], sheets=[sheet], policy=make_policy())
    return replace(
        decision,
        media=replace(decision.media, facts=facts),
        sheets=(sheet,),
        verdict=outcome.verdict,
        reasons=outcome.reasons,
        thresholds=outcome.thresholds,
    )


def test_the_fields_come_in_the_order_of_the_contract() -> None:
    assert list(decision_document(make_decision())) == FIELDS


@pytest.mark.parametrize("decision", [make_decision(), make_decision(LOUD), make_error_decision(), film(True, False, True)])
def test_a_decision_is_what_the_openapi_page_says(decision) -> None:
    written = encode(decision_document(decision))
    view = DecisionView.model_validate_json(written)
    assert view.model_dump(mode="json", exclude={"created_at"}) == {k: v for k, v in json.loads(written).items() if k != "created_at"}


def test_scores_are_decimal_strings_of_six_places_whatever_order_they_came_in() -> None:
    one, other = make_decision(QUIET), make_decision(dict(reversed(QUIET.items())))
    assert decision_document(one)["scores"] == {"sexual.nudity_explicit": "0.010000", "sexual.suggestive": "0.050000"}
    assert encode(decision_document(one)) == encode(decision_document(other))


def test_a_reason_tells_what_was_over_which_threshold() -> None:
    document: Any = decision_document(make_decision(LOUD))
    (reason,) = document["reasons"]
    assert reason == {
        "code": "over_block_threshold",
        "category": "sexual.nudity_explicit",
        "score": "0.973100",
        "threshold": "0.450000",
        "classifier": "marker",
        "frame": 0,
        "time_s": None,
        "box": None,
        "detail": None,
    }


def test_bytes_that_could_not_be_opened_have_a_name_and_no_facts() -> None:
    media = decision_document(make_error_decision())["media"]
    assert (media["sha256"], media["bytes"], media["frames"]) == ("cd" * 32, 7, 0)
    assert media["kind"] is media["type"] is media["width"] is None


def test_a_picture_has_no_segments() -> None:
    assert decision_document(make_decision(LOUD))["segments"] == []


def test_segments_are_runs_of_flagged_time() -> None:
    segments = decision_document(film(False, True, True, False, True, duration_us=2_500_000))["segments"]
    assert segments == [
        {"start_s": 0.5, "end_s": 1.5, "category": "sexual.nudity_explicit", "peak": "0.973100"},
        {"start_s": 2.0, "end_s": 2.5, "category": "sexual.nudity_explicit", "peak": "0.973100"},
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_segments_cover_exactly_the_flagged_frames(loud: list[bool]) -> None:
    segments = decision_document(film(*loud, duration_us=len(loud) * 500_000))["segments"]
    covered = [any(s["start_s"] <= at * 0.5 < s["end_s"] for s in segments) for at in range(len(loud))]
    assert covered == loud


def test_frames_without_times_do_not_break_segments() -> None:
    decision = film(True, True)
    sheet = decision.sheets[0]
    timeless = replace(sheet, frames=tuple(FrameScores(frame=f.frame, time_us=None, scores=f.scores) for f in sheet.frames))
    document: Any = decision_document(replace(decision, sheets=(timeless,)))
    assert len(document["segments"]) == 1


def test_json_with_twin_keys_constants_depth_or_another_form_is_no_object() -> None:
    for text in (b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100_000, b"[]", b"1", b"", b"\xff", b'{"a":' + b"9" * 5000 + b"}"):
        assert decode_object(text) is None
    assert decode_object(b'{"a":1}') == {"a": 1}
