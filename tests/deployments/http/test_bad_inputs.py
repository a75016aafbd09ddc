"""The table of bad inputs through HTTP, with the real decoder: exact status and code, in strict and in default mode.

Rows 4 to 8, 79 and 80 are about HTTP and stand in `test_limits`, `test_screenings` and `test_idempotency`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import httpx
import pytest

from deployments.http.errors import REFUSALS
from moderation.errors import Refusal
from tests.corpus import CASES, OK, Case, plain
from tests.http_kit import Live, Service, bearer, live
from tests.real_http import over_fakes

SLOWEST_S = 20.0


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, Live]]:
    service, make = over_fakes()
    with live(make) as server:
        yield service, server


@pytest.fixture(scope="module")
def client(running: tuple[Service, Live]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running[1].url, headers=bearer(), timeout=SLOWEST_S, trust_env=False) as client:
        yield client


def check(answer: httpx.Response, service: Service, case: Case, expected: frozenset[str]) -> None:
    """One of the answers of the table, with the decision that was committed for it."""
    decision = service.log.decisions[-1]
    if answer.status_code == 200:
        assert OK in expected
        assert answer.json()["id"] == f"dec_{decision.id.hex}"
        assert answer.json()["verdict"] in ("allow", "review", "block")
        found = {reason["category"] for reason in answer.json()["reasons"]}
        assert not case.found or "test.marker" in found
        assert not case.found or answer.json()["verdict"] in ("block", "review")  # a lone frame of an animation is held
        return
    error = answer.json()["error"]
    assert error["code"] in expected
    assert answer.status_code == REFUSALS[Refusal(error["code"])].status
    assert error["decision_id"] == f"dec_{decision.id.hex}"
    assert decision.verdict == "error"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_a_bad_input_gets_the_answer_of_the_table(running: tuple[Service, Live], client: httpx.Client, case: Case, strict: bool) -> None:
    service, _ = running
    before = len(service.log.decisions)
    files = {"media": ("../../x.jpg", case.build(), case.declared or "application/octet-stream")}
    answer = client.post("/v1/screenings", files=files, data={"strict": str(strict).lower()})
    assert len(service.log.decisions) == before + 1
    check(answer, service, case, case.strict if strict else case.expect)


def test_the_rows_that_are_about_bytes_are_all_there() -> None:
    assert {case.row for case in CASES} >= {1, 2, 3} | set(range(10, 58)) - {30}


@pytest.mark.parametrize("seed", range(25))
def test_row_30_a_jpeg_with_flipped_bits_gets_a_verdict_or_422(running: tuple[Service, Live], client: httpx.Client, seed: int) -> None:
    data, chance = bytearray(plain("JPEG")), random.Random(seed)
    for _ in range(4):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    answer = client.post("/v1/screenings", files={"media": ("x", bytes(data))})
    assert answer.status_code in (200, 415 if data[:3] != b"\xff\xd8\xff" else 422, 422)
    assert running[0].log.decisions[-1].media.size == len(data)


def test_an_empty_raw_body_is_400_with_a_decision(client: httpx.Client) -> None:
    answer = client.post("/v1/screenings", content=b"", headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "empty_body")
    assert answer.json()["error"]["decision_id"] is not None


def test_no_child_process_is_left_unreplaced_after_all_of_it(client: httpx.Client) -> None:
    case = next(case for case in CASES if case.found and case.expect == {OK})
    answers = [client.post("/v1/screenings", files={"media": ("x", case.build())}) for _ in range(4)]
    assert [answer.json()["verdict"] for answer in answers] == ["block"] * 4
