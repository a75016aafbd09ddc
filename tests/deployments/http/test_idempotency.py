from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from moderation.errors import ClassifierUnavailable, MediaRefused, RecordUnavailable, Refusal
from tests.builders import jpeg_bytes
from tests.fakes import ScriptedClassifier, ScriptedDecoder
from tests.http_kit import Service, bearer, error_of, make_service, status_and_code

PICTURE, OTHER = jpeg_bytes(), jpeg_bytes(seed=1)


def keyed(key: str = "order-17") -> dict[str, str]:
    return {**bearer(), "idempotency-key": key}


async def post(
    client: httpx.AsyncClient, data: bytes = PICTURE, *, key: str = "order-17", url: str = "/v1/screenings", **form: str
) -> httpx.Response:
    return await client.post(url, files={"media": ("x", data, "image/jpeg")}, data=form, headers=keyed(key))


def test_the_same_request_is_answered_with_the_same_bytes(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        first, second = await post(client), await post(client)
        assert first.content == second.content
        assert (first.status_code, second.status_code) == (200, 200)
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"

    service.run(visit)
    assert len(service.log.decisions) == 1


def test_wait_is_no_part_of_what_makes_a_request_the_same(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        first, second = await post(client, url="/v1/screenings?wait=5"), await post(client, url="/v1/screenings?wait=0")
        assert first.content == second.content

    service.run(visit)


@pytest.mark.parametrize("change", [{"data": OTHER}, {"reference": "r"}, {"strict": "true"}, {"url": "/v1/screenings?reference=r"}])
def test_another_request_under_the_same_key_is_422(service: Service, change: dict[str, Any]) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        await post(client)
        assert status_and_code(await post(client, **change)) == (422, "idempotency_mismatch")

    service.run(visit)
    assert len(service.log.decisions) == 1


def test_two_keys_are_two_screenings(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        await post(client, key="a")
        await post(client, key="b")

    service.run(visit)
    assert len(service.log.decisions) == 2


def test_a_refusal_for_the_content_is_stored_and_replayed_byte_for_byte() -> None:
    service = make_service(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TRUNCATED)))

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        first, second = await post(client), await post(client)
        assert first.status_code == second.status_code == 422
        assert first.content == second.content
        assert second.headers["idempotent-replayed"] == "true"
        assert first.headers["x-request-id"] != second.headers["x-request-id"]

    service.run(visit)
    assert len(service.log.decisions) == 1


def test_a_fault_of_ours_is_not_stored() -> None:
    classifier = ScriptedClassifier(fault=ClassifierUnavailable("gone"))
    service = make_service(classifiers=(classifier,))

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        assert (await post(client)).status_code == 503
        classifier.fault = None
        answer = await post(client)
        assert (answer.status_code, answer.json()["verdict"]) == (200, "allow")

    service.run(visit)
    assert [decision.verdict for decision in service.log.decisions] == ["error", "allow"]


def test_trouble_with_the_record_is_not_stored(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        service.log.fault = RecordUnavailable("gone")
        assert (await post(client)).status_code == 503
        service.log.fault = None
        assert (await post(client)).status_code == 200

    service.run(visit)
    assert len(service.log.decisions) == 1


def test_a_refusal_before_the_body_is_not_stored(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        assert (await post(client, policy="not-mine")).status_code == 403
        assert (await post(client)).status_code == 200

    service.run(visit)


def test_the_same_request_twice_at_once_is_one_screening() -> None:
    gate = asyncio.Event()
    service = make_service(classifiers=(ScriptedClassifier(gate=gate),))

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        first = asyncio.create_task(post(client))
        await asyncio.sleep(0.1)
        (resource,) = [resource for _, resource in service.idempotency.claims.values()]
        service.idempotency.in_intake.add(resource)
        second = await post(client)
        assert status_and_code(second) == (409, "in_progress")
        gate.set()
        answer = await first
        service.idempotency.in_intake.clear()
        assert (await post(client)).content == answer.content

    service.run(visit)
    assert len(service.log.decisions) == 1


def test_a_replay_of_what_is_still_running_says_so() -> None:
    gate = asyncio.Event()
    service = make_service(classifiers=(ScriptedClassifier(gate=gate),))

    async def visit(client: httpx.AsyncClient, app: FastAPI) -> None:
        first = await post(client, url="/v1/screenings?wait=0.05")
        second = await post(client, url="/v1/screenings?wait=0.05")
        assert first.status_code == second.status_code == 202
        assert first.json() == second.json()
        gate.set()
        await app.state.screenings.drain()
        third = await post(client)
        assert (third.status_code, third.json()["id"]) == (200, first.json()["id"])

    service.run(visit)


def test_a_claim_whose_work_left_nothing_is_taken_over(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        await post(client)
        service.log.decisions.clear()  # as if the process had died before its commit
        answer = await post(client)
        assert answer.status_code == 200
        assert "idempotent-replayed" not in answer.headers

    service.run(visit)


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "t\tab"])
def test_a_malformed_key_is_400(service: Service, key: str) -> None:
    answer = service.request("POST", "/v1/screenings", files={"media": ("x", PICTURE)}, headers=keyed(key))
    assert status_and_code(answer) == (400, "bad_request")
    assert error_of(answer)["param"] == "Idempotency-Key"


def test_a_key_may_have_255_characters(service: Service) -> None:
    assert service.request("POST", "/v1/screenings", files={"media": ("x", PICTURE)}, headers=keyed("x" * 255)).status_code == 200
