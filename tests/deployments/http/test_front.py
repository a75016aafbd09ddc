from __future__ import annotations

import pytest

from deployments.http.gateway import Seen
from tests.http_kit import Service, bearer, error_of, make_service, status_and_code


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/healthz", 200), ("GET", "/nowhere", 404), ("GET", "/v1/decisions", 200), ("PUT", "/", 405)]
)
def test_every_answer_has_its_request_id_and_is_not_kept_or_guessed_at(service: Service, method: str, path: str, status: int) -> None:
    answer = service.request(method, path)
    assert answer.status_code == status
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_a_well_formed_request_id_is_kept(service: Service) -> None:
    given = "req_01a20ab8c17473c6a06391d2d789e7b9"
    answer = service.request("GET", "/nowhere", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == error_of(answer)["request_id"] == given


@pytest.mark.parametrize("given", ["", "short", "x" * 65, "with space in it", "<script>alert</script>", "päivää-tässä"])
def test_a_malformed_request_id_is_replaced(service: Service, given: str) -> None:
    answer = service.request("GET", "/nowhere", headers={"x-request-id": given.encode("latin-1")})
    assert answer.headers["x-request-id"] != given
    assert error_of(answer)["request_id"] == answer.headers["x-request-id"]


def test_where_the_server_in_front_repeats_the_id_it_is_said_once() -> None:
    service = make_service(changes={"request_id_echoed": True})
    given = {"x-request-id": "0b4ff7a0-9b1e-4b52-a1b4-3e4f6f2f8f10"}
    answer = service.request("GET", "/nowhere", headers=given)
    assert "x-request-id" not in answer.headers
    assert error_of(answer)["request_id"] == given["x-request-id"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/screenings/", "/V1/screenings", "/openapi.yaml", "/redoc"])
def test_unknown_routes_are_404_in_the_one_shape(service: Service, path: str) -> None:
    assert status_and_code(service.request("GET", path)) == (404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_405_in_the_one_shape_and_name_those_there_are(service: Service, method: str) -> None:
    answer = service.request(method, "/v1/screenings")
    assert status_and_code(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_what_was_answered_is_told_by_route_and_never_by_path() -> None:
    seen: list[Seen] = []
    service = make_service(changes={"seen": seen.append})
    service.request("GET", "/v1/decisions/dec_secret")
    service.request("GET", "/nowhere/secret", headers=bearer())
    assert [(each.method, each.route, each.status) for each in seen] == [("GET", "/v1/decisions/{id}", 404), ("GET", "unknown", 404)]
    assert all(each.seconds >= 0 for each in seen)
