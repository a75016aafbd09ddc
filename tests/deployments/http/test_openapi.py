"""The OpenAPI page against the application: schemathesis makes requests from it and checks the answers with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.http_kit import Live, bearer, live_fakes, make_service

PAGE = schemathesis.openapi.from_dict(make_service().app().openapi())
OPERATIONS = [found.ok() for found in PAGE.get_all_operations() if found.ok().path != "/"]
"""All but the one whose requests are signed."""
NOT_FOR_US = [ignored_auth, positive_data_acceptance]
"""The key is sent with every request (`test_access` leaves it out), and well-formed requests are refused for what they mean."""


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


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_operation_answers_as_the_page_says(running: Live, operation: schemathesis.APIOperation) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def answers_as_the_page_says(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=running.url, headers=bearer(), excluded_checks=NOT_FOR_US)

    answers_as_the_page_says()
