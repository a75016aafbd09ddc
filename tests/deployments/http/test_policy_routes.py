from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI

from deployments.http.policy_routes import number_in, numbered
from deployments.policy_file import write_policy
from tests.builders import TENANT, make_id, make_policy, make_rule
from tests.http_kit import KEY_ID, Service, bearer, error_of, status_and_code

YAML = {"content-type": "application/yaml"}
STRICTER = make_policy(make_rule(block_at=300_000), make_rule("sexual", block_at=None, review_at=500_000))
STRICTEST = make_policy(make_rule(block_at=100_000, review_at=None), make_rule("sexual", block_at=None, review_at=100_000))


def publish(service: Service, policy=STRICTER, **headers: str) -> httpx.Response:
    return service.request("POST", "/v1/policies", content=write_policy(policy), headers={**bearer(), **YAML, **headers})


def test_what_is_in_force_is_listed_with_its_digest(service: Service) -> None:
    (found,) = service.request("GET", "/v1/policies").json()["data"]
    assert (found["name"], found["version"], found["digest"]) == ("default", 1, make_policy().digest)


def test_a_new_version_comes_into_force_for_the_next_screening(service: Service) -> None:
    answer = publish(service)
    assert (answer.status_code, answer.json()["version"], answer.json()["digest"]) == (201, 2, STRICTER.digest)
    assert service.screen(b"x").json()["policy"]["version"] == 2


def test_the_same_content_again_is_the_version_that_is_there(service: Service) -> None:
    assert publish(service).status_code == 201
    again = publish(service)
    assert (again.status_code, again.json()["version"]) == (200, 2)


def test_a_policy_may_be_json(service: Service) -> None:
    rules = [{"category": "sexual", "block_at": 0.5}]
    answer = service.request("POST", "/v1/policies", json={"name": "plain", "rules": rules})
    assert (answer.status_code, answer.json()["name"], answer.json()["version"]) == (201, "plain", 1)


def test_a_page_of_versions_is_asked_for_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(service)
    asked: list[int] = []
    monkeypatch.setattr(service.policies, "version", lambda *key: asked.append(key[-1]))
    assert len(service.request("GET", "/v1/policies/default/versions?limit=500").json()["data"]) == 2
    assert asked == []


def test_versions_are_kept_and_paged_newest_first(service: Service) -> None:
    publish(service)
    publish(service, STRICTEST)
    page = service.request("GET", "/v1/policies/default/versions?limit=2").json()
    assert ([policy["version"] for policy in page["data"]], page["next_cursor"]) == ([3, 2], "2")
    rest = service.request("GET", "/v1/policies/default/versions?limit=2&cursor=2").json()
    assert ([policy["version"] for policy in rest["data"]], rest["next_cursor"]) == ([1], None)
    assert service.request("GET", "/v1/policies/default/versions?cursor=1").json()["data"] == []
    assert service.request("GET", "/v1/policies/default").json()["version"] == 3
    assert service.request("GET", "/v1/policies/default/versions/2").json()["digest"] == STRICTER.digest


@pytest.mark.parametrize(
    "path",
    [
        "/v1/policies/none",
        "/v1/policies/none/versions",
        "/v1/policies/default/versions/2",
        "/v1/policies/default/versions/0",
        "/v1/policies/default/versions/one",
        "/v1/policies/default/versions/" + "9" * 40,
        "/v1/policies/%00",
        "/v1/policies/%00/versions",
        "/v1/policies/a%00b/versions/1",
    ],
)
def test_what_is_not_there_is_404(service: Service, path: str) -> None:
    assert status_and_code(service.request("GET", path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("name: x\nrules: []\n", "rules"),
        ("name: x\nrules:\n  - {category: violence, block_at: 0.5}\n", "sexual"),
        ("name: x\nrules:\n  - {category: sexual, block_at: 2}\n", "(0, 1]"),
        ("name: x\nruels: []\n", "ruels"),
        ("name: x\nrules:\n  - {category: sexual, block_at: 0.5}\nrequires: [violence]\n", "requires violence"),
        ("name: x\nrules:\n  - {category: sexual, block_at: 0.5}\nlimits: {frames: 999999999999999999}\n", "whole number"),
        ("name: x\nrules:\n  - {category: sexual, block_at: 0.5}\ncombine: {k: 1, of: 999999999999999999}\n", "whole number"),
        ("{" * 1000, ""),
        ("name: [&a x, *a]", ""),
    ],
)
def test_a_policy_that_cannot_come_into_force_is_422_and_says_why(service: Service, text: str, says: str) -> None:
    answer = service.request("POST", "/v1/policies", content=text.encode(), headers={**bearer(), **YAML})
    assert status_and_code(answer) == (422, "policy_refused")
    assert says in error_of(answer)["message"]
    assert len(service.policies.shelf[TENANT, "default"]) == 1


def test_a_body_that_is_no_policy_file_is_415(service: Service) -> None:
    answer = service.request("POST", "/v1/policies", content=b"x", headers={**bearer(), "content-type": "image/png"})
    assert status_and_code(answer) == (415, "unsupported_media_type")


def test_the_author_of_a_version_is_the_key(service: Service) -> None:
    authors = []
    publish_there = service.policies.publish

    async def noted(tenant, name, content, actor):
        authors.append(actor)
        return await publish_there(tenant, name, content, actor)

    service.policies.publish = noted  # type: ignore[method-assign]
    publish(service)
    assert authors == [KEY_ID]


def test_a_retried_publication_does_not_undo_a_later_one(service: Service) -> None:
    first = publish(service, STRICTER, **{"idempotency-key": "a"})
    publish(service, STRICTEST)
    again = publish(service, STRICTER, **{"idempotency-key": "a"})
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert service.request("GET", "/v1/policies/default").json()["digest"] == STRICTEST.digest


def test_another_policy_under_the_same_key_is_422(service: Service) -> None:
    publish(service, STRICTER, **{"idempotency-key": "a"})
    assert status_and_code(publish(service, STRICTEST, **{"idempotency-key": "a"})) == (422, "idempotency_mismatch")


def test_a_publication_in_progress_is_409(service: Service) -> None:
    async def visit(client: httpx.AsyncClient, _: FastAPI) -> httpx.Response:
        headers = {**bearer(), **YAML, "idempotency-key": "a"}
        await client.post("/v1/policies", content=write_policy(STRICTER), headers=headers)
        del service.policies.shelf[TENANT, "default"][1:]  # as if it had not got that far yet
        service.idempotency.in_intake |= {resource for _, resource in service.idempotency.claims.values()}
        return await client.post("/v1/policies", content=write_policy(STRICTER), headers=headers)

    assert status_and_code(service.run(visit)) == (409, "in_progress")


def test_a_number_survives_in_an_id() -> None:
    id = numbered(make_id(12345), 7)
    assert number_in(id) == 7
    assert id.version == 7


def test_the_content_is_what_the_digest_is_of(service: Service) -> None:
    found = service.request("GET", "/v1/policies/default").json()
    assert found["content"] == json.loads(json.dumps(make_policy().content()))
