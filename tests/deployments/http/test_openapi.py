"""The OpenAPI page against the application: schemathesis makes requests from it and checks the answers with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.http_kit import Live, bearer, live_fakes, make_service

PAGE = make_service().app().openapi()
OPERATIONS = [(method, path) for path, methods in PAGE["paths"].items() for method in methods if path != "/"]
"""All but the one whose requests are signed."""


@pytest.fixture(scope="module")
def running() -> Iterator[Live]:
    with live_fakes(make_service()) as server:
        yield server


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    found: dict[str, Any] = make_service().request("GET", "/openapi.json").json()
    return found


def test_the_page_names_every_route_with_its_key(page: dict[str, Any]) -> None:
    operations = {(method, path): operation for path, methods in page["paths"].items() for method, operation in methods.items()}
    assert {path for _, path in operations} >= {"/", "/v1/screenings", "/v1/moderations", "/v1/decisions", "/v1/policies", "/readyz"}
    for (method, path), operation in operations.items():
        assert operation["summary"]
        assert operation["description"]
        assert ("security" in operation) == (path not in ("/healthz", "/readyz", "/metrics")), (method, path)


def test_every_route_is_told_in_the_page_of_the_contract(page: dict[str, Any]) -> None:
    told = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    assert [path for path in page["paths"] if path not in told] == []


def test_every_reference_of_the_page_leads_somewhere(page: dict[str, Any]) -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from ([part["$ref"]] if isinstance(part.get("$ref"), str) else [])
            part = list(part.values())
        if isinstance(part, list):
            for item in part:
                yield from references(item)

    for reference in references(page):
        found: Any = page
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


@pytest.fixture(scope="module")
def operations() -> Any:
    """The page as something that makes requests."""
    import schemathesis  # noqa: PLC0415  # takes seconds, which a process that runs other files should not

    return schemathesis.openapi.from_dict(PAGE)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_every_operation_answers_as_the_page_says(running: Live, operations: Any, method: str, path: str) -> None:
    from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance  # noqa: PLC0415

    # The key is sent with every request (`test_access` leaves it out), and well-formed requests are refused for what they mean.
    not_for_us = [ignored_auth, positive_data_acceptance]

    @given(case=operations[path][method].as_strategy())
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def answers_as_the_page_says(case: Any) -> None:
        case.call_and_validate(base_url=running.url, headers=bearer(), excluded_checks=not_for_us)

    answers_as_the_page_says()
