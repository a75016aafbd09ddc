from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

import moderation.adapters.decode
import moderation.adapters.postgres  # noqa: F401  # its own error classes are looked at as well
from deployments.http.errors import (
    DOMAIN,
    FAULTS,
    REFUSALS,
    TABLE,
    ApiError,
    Code,
    is_fault,
    problem,
    problem_in,
    problem_of,
    type_of,
)
from deployments.http.rekognition_errors import aws_type
from moderation.decision import Reason, ReasonCode, Verdict
from moderation.errors import (
    CannotJudge,
    ClassifierFault,
    ClassifierUnavailable,
    MediaRefused,
    ModerationError,
    Overloaded,
    PolicyRefused,
    RecordUnavailable,
    Refusal,
)
from tests.builders import make_decision, make_error_decision

MODELLED = {
    "AccessDeniedException",
    "IdempotentParameterMismatchException",
    "ImageTooLargeException",
    "InternalServerError",
    "InvalidImageFormatException",
    "InvalidParameterException",
    "ProvisionedThroughputExceededException",
}
ANSWERS = {
    "empty_body": 400,
    "unsupported_media_type": 415,
    "payload_too_large": 413,
}
"""The statuses of refused media by the table of bad inputs; all others are 422."""


def all_errors() -> set[type[ModerationError]]:
    return all_subclasses(ModerationError)


def all_subclasses(kind: type[ModerationError]) -> set[type[ModerationError]]:
    return {kind}.union(*(all_subclasses(sub) for sub in kind.__subclasses__()))


def test_every_code_of_the_surface_has_a_row() -> None:
    assert set(TABLE) == set(Code)


def test_every_refusal_of_a_media_has_a_row_with_the_status_of_the_table_of_bad_inputs() -> None:
    assert {str(refusal): row.status for refusal, row in REFUSALS.items()} == {str(r): ANSWERS.get(r, 422) for r in Refusal}


def test_every_error_class_of_the_domain_has_a_row() -> None:
    declared = {kind for kind in all_errors() if kind.__module__ == "moderation.errors"}
    assert declared == {*DOMAIN, *FAULTS, MediaRefused}


def test_an_error_class_of_an_adapter_is_answered_as_its_parent() -> None:
    for kind in all_errors() - {PolicyRefused}:
        parent = next(base for base in kind.__mro__ if base.__module__ == "moderation.errors")
        if parent is not MediaRefused:
            assert problem_of(kind("x")).status == problem_of(parent("x")).status


@pytest.mark.parametrize(
    "error", [RecordUnavailable("x"), ClassifierUnavailable("x"), ClassifierFault("x"), CannotJudge("x"), Overloaded("x")]
)
def test_trouble_of_ours_is_503_and_says_when_to_try_again(error: ModerationError) -> None:
    found = problem_of(error)
    assert found.status == 503
    assert ("retry-after", "1") in found.all_headers()


def test_what_is_in_no_table_is_a_500_in_our_words() -> None:
    found = problem_of(ZeroDivisionError("/etc/passwd"))
    assert (found.status, found.code) == (500, "internal_error")
    assert "passwd" not in found.body("req_1").decode()


def test_messages_never_carry_the_text_of_an_exception() -> None:
    secret = "postgresql://user:password@host/db /srv/x.py pid 4711"
    for kind in all_errors() - {PolicyRefused}:
        if not issubclass(kind, MediaRefused):
            assert secret not in problem_of(kind(secret)).message
    assert secret not in problem_of(MediaRefused(Refusal.DECODE_FAILED, secret)).message


def test_what_is_wrong_with_a_policy_is_told_to_its_author() -> None:
    found = problem_of(PolicyRefused("line 3: block_at: not a number"))
    assert (found.status, found.code, found.message) == (422, "policy_refused", "line 3: block_at: not a number")


def test_the_retry_time_of_an_overloaded_part_is_told() -> None:
    assert ("retry-after", "7") in problem_of(Overloaded("x", 7.2)).all_headers()


def test_an_http_error_of_the_framework_is_answered_in_our_words() -> None:
    found = problem_of(HTTPException(405, "whatever", {"Allow": "GET"}))
    assert (found.status, found.code, found.headers) == (405, "method_not_allowed", (("allow", "GET"),))
    assert problem_of(HTTPException(418, "short and stout")).code == "bad_request"
    assert problem_of(HTTPException(501, "x")).code == "internal_error"


def test_types_are_those_that_openai_clients_know() -> None:
    assert [type_of(status) for status in (400, 401, 403, 404, 422, 429, 500, 503)] == [
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "invalid_request_error",
        "invalid_request_error",
        "rate_limit_error",
        "service_error",
        "service_error",
    ]


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refused_media_is_answered_by_its_refusal_and_names_the_decision(refusal: Refusal) -> None:
    reason = Reason(code=ReasonCode.MEDIA_REFUSED, verdict=Verdict.ERROR, detail=str(refusal))
    decision = make_error_decision(reasons=(reason,))
    found = problem_in(decision)
    assert found is not None
    assert (found.status, found.code, found.decision_id) == (REFUSALS[refusal].status, str(refusal), decision.id)
    assert not is_fault(decision)


@pytest.mark.parametrize("code", [code for code in ReasonCode if code not in (ReasonCode.MEDIA_REFUSED, ReasonCode.NO_FRAMES)])
def test_every_other_reason_for_no_verdict_is_a_503_of_its_own_code(code: ReasonCode) -> None:
    decision = make_error_decision(reasons=(Reason(code=code, verdict=Verdict.ERROR),))
    found = problem_in(decision)
    assert found is not None
    assert (found.status, found.code) == (503, str(code))
    assert is_fault(decision)


def test_a_decision_without_frames_is_the_medias_fault() -> None:
    found = problem_in(make_error_decision(reasons=(Reason(code=ReasonCode.NO_FRAMES, verdict=Verdict.ERROR),)))
    assert found is not None
    assert (found.status, found.code) == (422, "no_frames")


def test_an_error_decision_without_reasons_is_still_no_verdict() -> None:
    assert is_fault(make_error_decision())


def test_a_verdict_is_no_problem() -> None:
    assert problem_in(make_decision()) is None


def test_a_problem_in_a_decision_is_the_same_bytes_for_every_request() -> None:
    found = problem_in(make_error_decision(request_id="req_first"))
    assert found is not None
    assert found.body("req_second") == found.body("req_third")
    assert b"req_first" in found.body("req_second")


def test_every_row_has_a_modelled_class_on_the_rekognition_route() -> None:
    problems = [problem(code) for code in Code] + [problem_of(MediaRefused(refusal)) for refusal in Refusal]
    problems += [problem_of(kind("x")) for kind in FAULTS]
    assert {aws_type(found) for found in problems} == MODELLED
    for found in problems:
        may_be_retried = found.status >= 500 or found.code == Code.IN_PROGRESS
        assert (aws_type(found) in ("InternalServerError", "ProvisionedThroughputExceededException")) == may_be_retried


def test_an_api_error_carries_its_problem() -> None:
    assert problem_of(ApiError(problem(Code.NOT_FOUND))) == problem(Code.NOT_FOUND)
