from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from deployments.http.gateway import Bounds
from moderation.errors import ClassifierUnavailable, RecordUnavailable
from tests.http_kit import Service, live_fakes, make_service, status_and_code


async def fine() -> None:
    return None


def failing(error: Exception):
    async def probe() -> None:
        raise error

    return probe


async def hanging() -> None:
    await asyncio.sleep(60)


def test_health_says_only_that_the_process_lives(service: Service) -> None:
    answer = service.request("GET", "/healthz", headers={})
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_load_balancer_may_ask_without_wanting_the_body(path: str) -> None:
    service = make_service(probes={"database": fine})
    with live_fakes(service) as server:
        answer = server.raw(f"HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\ncontent-type: application/json" in head
    assert body == b""


def test_a_head_is_as_ready_as_a_get() -> None:
    service = make_service(probes={"database": failing(RecordUnavailable("x"))})
    answer = service.request("HEAD", "/readyz", headers={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert status_and_code(service.request("POST", "/readyz", headers={})) == (405, "method_not_allowed")


def test_ready_names_every_dependency() -> None:
    service = make_service(probes={"database": fine, "store": fine})
    answer = service.request("GET", "/readyz", headers={})
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "dependencies": {n: {"ready": True, "reason": None} for n in ("database", "store")}}


def test_not_ready_says_which_dependency_and_nothing_of_its_words() -> None:
    probes = {
        "database": failing(RecordUnavailable("password authentication failed for user x")),
        "classifier:nudenet": failing(ClassifierUnavailable("actor died")),
        "store": failing(ZeroDivisionError("bug")),
        "decoder": hanging,
        "other": fine,
    }
    answer = make_service(probes=probes, changes={"bounds": Bounds(probe_s=0.05)}).request("GET", "/readyz", headers={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    reasons = {name: found["reason"] for name, found in answer.json()["dependencies"].items()}
    assert reasons == {
        "database": "unavailable",
        "classifier:nudenet": "unavailable",
        "store": "failed",
        "decoder": "no answer in time",
        "other": None,
    }
    assert "password" not in answer.text


def test_many_who_ask_at_once_are_one_round_of_probes() -> None:
    asked = []

    async def probe() -> None:
        asked.append(1)
        await asyncio.sleep(0.02)

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> None:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}

    make_service(probes={"database": probe}).run(visit)
    assert len(asked) == 1


def test_metrics_are_text(service: Service) -> None:
    answer = service.request("GET", "/metrics", headers={})
    assert answer.text == "facegate_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_however_many_ask_the_metrics_are_put_together_once_at_a_time() -> None:
    renderings = []

    async def render() -> str:
        renderings.append(1)
        await asyncio.sleep(0.05)
        return f"facegate_up {len(renderings)}\n"

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[str]:
        together = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
        return [*{answer.text for answer in together}, (await client.get("/metrics")).text]

    assert make_service(changes={"metrics": render}).run(visit) == ["facegate_up 1\n", "facegate_up 2\n"]
