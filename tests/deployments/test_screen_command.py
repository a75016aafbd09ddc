"""What `facegate screen` says and how it ends."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from deployments.client import Answer, Client
from deployments.screen_command import ALL_ALLOWED, SOMETHING_STOPPED, SOMETHING_UNJUDGED, exit_status, files_in, screen_files
from tests.builders import jpeg_bytes
from tests.http_kit import KEY, live_fakes, make_service


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


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / ("a long name " * 5).strip()
    folder.mkdir()
    (folder / "one.jpg").write_bytes(jpeg_bytes(seed=1))
    (folder / "two.jpg").write_bytes(jpeg_bytes(seed=2))
    (folder / "gone.jpg").symlink_to(folder / "nothing")
    return folder


def screened(album: Path, *, as_json: bool = False) -> tuple[int, str, list[str]]:
    """(exit status, what is printed on a narrow screen, ids of the decisions that were committed)."""
    service = make_service()
    out = io.StringIO()
    files = [album / "one.jpg", album / "two.jpg", album / "gone.jpg"]
    with live_fakes(service) as server, Client(server.url, KEY) as client:
        status = screen_files(
            client, files, policy=None, as_json=as_json, out=Console(file=out, width=80), progress=Console(file=io.StringIO())
        )
    return status, out.getvalue(), [f"dec_{decision.id.hex}" for decision in service.log.decisions]


def test_names_and_ids_are_never_cut_short_however_narrow_the_screen(album: Path):
    status, text, ids = screened(album)
    whole = "".join(letter for letter in text if letter.isalnum() or letter == "_")
    assert status == SOMETHING_UNJUDGED
    assert len(ids) == 2
    assert "…" not in text
    columns = list(zip(*(line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")), strict=True))
    assert all(id in "".join(map(str.strip, columns[-1])) for id in ids)
    assert "onejpg" in whole


def test_json_has_one_line_for_each_file_in_the_order_given(album: Path):
    _, text, ids = screened(album, as_json=True)
    rows = [json.loads(line) for line in text.splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["one.jpg", "two.jpg", "gone.jpg"]
    assert {row["answer"]["id"] for row in rows[:2]} == set(ids)
    assert (rows[2]["verdict"], rows[2]["answer"], rows[2]["fault"]) == ("error", None, "No such file or directory")
