from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from deployments.http import record_routes
from deployments.http.documents import decision_document
from deployments.http.schemas import DecisionQuery
from moderation.decision import Verdict
from moderation.media import Stage
from tests.builders import LOUD, NOW, OTHER_TENANT, make_decision, make_error_decision, make_id
from tests.http_kit import Service, bearer, make_service, status_and_code


@pytest.fixture
def service() -> Service:
    """Decisions 1 to 5 of the tenant, a minute apart, and one of another tenant's."""
    service = make_service()
    media = make_decision().media
    service.log.decisions += [
        make_decision(id=make_id(1), created_at=NOW),
        make_decision(LOUD, id=make_id(2), created_at=NOW + timedelta(minutes=1), reference="order-17"),
        make_error_decision(id=make_id(3), created_at=NOW + timedelta(minutes=2)),
        make_decision(id=make_id(4), created_at=NOW + timedelta(minutes=3), stage=Stage.OUTPUT, transform=make_id(77)),
        make_decision(id=make_id(5), created_at=NOW + timedelta(minutes=4), automated=False, media=replace(media, sha256="ef" * 32)),
        make_decision(id=make_id(6), tenant=OTHER_TENANT),
    ]
    return service


def numbers(service: Service, query: str = "", path: str = "/v1/decisions") -> list[int]:
    answer = service.request("GET", f"{path}?{query}")
    assert answer.status_code == 200
    return [int(item["id"][-4:], 16) for item in answer.json()["data"]]


def test_decisions_come_newest_first_and_only_the_tenants_own(service: Service) -> None:
    assert numbers(service) == [5, 4, 3, 2, 1]


def test_others_are_answered_while_a_list_is_put_together(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, others_answered = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> dict[str, object]:
        begun.set()
        assert others_answered.wait(20)
        return decision_document(*arguments)

    monkeypatch.setattr(record_routes, "decision_document", slow)

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[int]:
        listing = asyncio.create_task(client.get("/v1/decisions", headers=bearer()))
        assert await asyncio.to_thread(begun.wait, 20)
        answer = await client.get("/healthz")
        others_answered.set()
        return [answer.status_code, (await listing).status_code]

    assert service.run(visit) == [200, 200]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("stage=output", [4]),
        ("verdict=block", [2]),
        ("verdict=error", [3]),
        ("category=sexual.nudity_explicit", [2]),
        ("policy=default", [5, 4, 3, 2, 1]),
        ("policy=other", []),
        ("classifier=marker", [5, 4, 2, 1]),
        ("automated=false", [5]),
        ("automated=true", [4, 3, 2, 1]),
        (f"media_sha256={'ef' * 32}", [5]),
        ("reference=order-17", [2]),
        (f"transform=trf_{make_id(77).hex}", [4]),
        ("from=2026-09-01T12:02:00.123456Z", [5, 4, 3]),
        ("to=2026-09-01T12:02:00.123456Z", [2, 1]),
        ("from=2026-09-01T14:01:00%2B02:00&to=2026-09-01T12:03:00Z", [3, 2]),
        ("verdict=allow&stage=upload&limit=1", [5]),
    ],
)
def test_every_filter_of_the_contract(service: Service, query: str, expected: list[int]) -> None:
    assert numbers(service, query) == expected


def test_pages_follow_each_other_without_gap_or_overlap(service: Service) -> None:
    seen, cursor = [], ""
    while True:
        page = service.request("GET", f"/v1/decisions?limit=2{cursor}").json()
        seen += [item["id"] for item in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [int(id[-4:], 16) for id in seen] == [5, 4, 3, 2, 1]


def test_a_list_is_the_list_of_the_contract(service: Service) -> None:
    assert list(service.request("GET", "/v1/decisions?limit=1").json()) == ["object", "data", "next_cursor"]


@pytest.mark.parametrize(
    "query",
    [
        "stage=upstream",
        "verdict=maybe",
        "automated=perhaps",
        "media_sha256=abc",
        "transform=dec_" + "0" * 32,
        "from=yesterday",
        "from=2026-09-01T12:00:00",
        "limit=0",
        "limit=501",
        "limit=ten",
        "cursor=5",
        "cursor=dec_zz",
        "colour=red",
        "verdict=allow&verdict=block",
        "category=",
        "reference=" + "x" * 300,
        "reference=%00",
        "category=a%00b",
        "policy=%00",
        "classifier=%00",
        "from=20260901",
        "from=0001-01-01T00:00:00Z",
        "to=9999-12-31T23:59:59Z",
        "to=9999-12-31T23:59:59-14:00",
        "from=0001-01-01T00:00:00%2B14:00",
        "from=1970-01-01T00:00:00%2B14:00",
    ],
)
def test_a_filter_that_cannot_be_is_refused_and_never_ignored(service: Service, query: str) -> None:
    assert status_and_code(service.request("GET", f"/v1/decisions?{query}")) == (422, "invalid_parameter")


def test_a_time_is_compared_in_utc_whatever_its_zone() -> None:
    query = DecisionQuery.model_validate({"from": "2026-06-01T00:00:00+23:59"})  # a zone that Postgres would not read
    assert str(query.since) == "2026-05-31 00:01:00+00:00"


def test_one_decision_is_the_same_object_as_in_the_list(service: Service) -> None:
    listed = service.request("GET", "/v1/decisions?verdict=block").json()["data"][0]
    assert service.request("GET", f"/v1/decisions/{listed['id']}").json() == listed


def test_another_tenants_decision_is_404_like_one_that_is_not(service: Service) -> None:
    for id in (make_id(6), make_id(99)):
        assert status_and_code(service.request("GET", f"/v1/decisions/dec_{id.hex}")) == (404, "not_found")


def test_the_history_of_a_media_is_all_that_was_decided_about_its_bytes(service: Service) -> None:
    assert numbers(service, path=f"/v1/media/{'ab' * 32}/history") == [4, 2, 1]
    assert numbers(service, "limit=1", path=f"/v1/media/{'ab' * 32}/history") == [4]
    assert numbers(service, path=f"/v1/media/{'00' * 32}/history") == []


@pytest.mark.parametrize("name", ["abc", "AB" * 32, "zz" * 32])
def test_what_is_no_sha256_has_no_history(service: Service, name: str) -> None:
    assert status_and_code(service.request("GET", f"/v1/media/{name}/history")) == (404, "not_found")


def test_every_verdict_can_be_asked_for(service: Service) -> None:
    assert sum(len(numbers(service, f"verdict={verdict}")) for verdict in Verdict) == 5
