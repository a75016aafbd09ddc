"""`/docs`: all of it comes from the service itself."""

from __future__ import annotations

import re

import pytest

from tests.http_kit import Service


def asked_for(page: str) -> list[str]:
    """What a browser fetches for the page."""
    return re.findall(r'(?:src|href)="([^"]+)"', re.sub(r"<noscript>.*?</noscript>", "", page, flags=re.DOTALL))


def test_the_page_asks_for_nothing_from_elsewhere(service: Service) -> None:
    page = service.request("GET", "/docs", headers={}).text
    names = asked_for(page)
    assert {"docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "docs/start.js"} <= set(names)
    assert not [name for name in names if "//" in name]
    assert not re.search(r"<script>|\son\w+=", page)


def test_everything_that_the_page_asks_for_is_there(service: Service) -> None:
    kinds = {}
    for name in asked_for(service.request("GET", "/docs", headers={}).text):
        if not name.startswith("data:"):
            answer = service.request("GET", f"/{name}", headers={})
            assert answer.status_code == 200
            assert answer.content
            kinds[name.rpartition(".")[2]] = answer.headers["content-type"].partition(";")[0]
    assert kinds == {"css": "text/css", "js": "text/javascript"}


def test_the_start_names_the_description_and_no_validator(service: Service) -> None:
    start = service.request("GET", "/docs/start.js", headers={}).text
    assert '"openapi.json"' in start
    assert "validatorUrl: null" in start


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"])
def test_no_answer_is_taken_for_another_kind(service: Service, path: str) -> None:
    assert service.request("GET", path, headers={}).headers["x-content-type-options"] == "nosniff"


def test_browsers_are_told_to_refuse_other_sources_and_frames(service: Service) -> None:
    policy = service.request("GET", "/docs", headers={}).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", ["/docs/", "/docs/../openapi.json%00", "/docs/redoc.standalone.js", "/docs/%2e%2e/core.py"])
def test_there_is_nothing_beside_it(service: Service, path: str) -> None:
    assert service.request("GET", path, headers={}).status_code == 404
