"""What `facegate screen` says and how it ends."""

from pathlib import Path

import pytest

from deployments.client import Answer
from deployments.screen_command import ALL_ALLOWED, SOMETHING_STOPPED, SOMETHING_UNJUDGED, exit_status, files_in


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["allow", "allow"], ALL_ALLOWED),
        (["allow", "review"], SOMETHING_STOPPED),
        (["block"], SOMETHING_STOPPED),
        (["allow", "error"], SOMETHING_UNJUDGED),
        (["block", "error"], SOMETHING_UNJUDGED),
        (["allow", "a verdict of the future"], SOMETHING_UNJUDGED),
        ([], SOMETHING_UNJUDGED),
    ],
)
def test_the_exit_status_is_the_gravest_thing_that_happened(verdicts, status):
    assert exit_status(verdicts) == status


def test_folders_are_walked_in_order_and_hidden_files_are_left_out(tmp_path: Path):
    for name in ("b.png", "a.jpg", "sub/c.gif", ".hidden", "sub/.git/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in files_in([tmp_path])] == ["a.jpg", "b.png", "sub/c.gif"]


def test_a_file_that_is_named_is_taken_as_it_is(tmp_path: Path):
    assert list(files_in([tmp_path / ".named"])) == [tmp_path / ".named"]


def test_an_error_answer_is_never_read_as_allow():
    answer = Answer(status=422, body={"error": {"code": "truncated", "decision_id": "dec_1"}})
    assert (answer.verdict, answer.explanation, answer.decision_id) == ("error", "truncated", "dec_1")


def test_an_answer_without_a_verdict_is_never_read_as_allow():
    assert Answer(status=200, body={}).verdict == "error"


def test_the_strongest_reason_is_the_explanation():
    reasons = [{"code": "over_block_threshold", "category": "sexual", "score": "0.900000", "threshold": "0.450000"}]
    answer = Answer(status=200, body={"effective_verdict": "block", "reasons": reasons})
    assert answer.explanation == "sexual 0.900000 >= 0.450000"
