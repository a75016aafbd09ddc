"""Every call of docs/reports.md is run as it stands there, on the small record; its days are shifted to the record's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.http_api import create_api
from moderation.access import Scope
from moderation.adapters.database import Database
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.adapters.reports.reader import PostgresReports
from tests.http_kit import KEY_ID, bearer, client_of, make_key, make_service
from tests.record_kit import FIRST, SmallRecord

pytestmark = pytest.mark.postgres

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reports.md").read_text()
CALLS = re.findall(r"```http\nGET (\S+)\n```\n```json\n(.*?)\n```", PAGE, re.DOTALL)
SHIFT = FIRST.date() - date(2026, 9, 1)


def shifted(text: str) -> str:
    """The days of the page as days of the record."""
    return re.sub(r"2026-09-0\d", lambda day: (date.fromisoformat(day[0]) + SHIFT).isoformat(), text)


def holds(found: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is there, however much there is beside it."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(name in found and holds(found[name], value) for name, value in wanted.items())
    return bool(found == wanted)


@pytest.fixture(scope="module")
def app(small_record: SmallRecord) -> Iterator[Any]:
    database = Database(small_record.urls.runtime)
    service = make_service(changes={"reports": PostgresReports(database), "clock": lambda: datetime.now(UTC) + timedelta(minutes=1)})
    service.keys.keys[KEY_ID] = make_key(tenant=small_record.tenant, scopes=frozenset({Scope.AUDIT_READ}))
    yield create_api(service.gateway())
    database.close()


@pytest.mark.parametrize(("call", "lines"), CALLS, ids=[call.partition("?")[0].rpartition("/")[2] for call, _ in CALLS])
def test_a_documented_call_gives_what_the_page_says(app: Any, call: str, lines: str) -> None:
    async def ask() -> Any:
        async with client_of(app) as client:
            return await client.get(shifted(call), headers=bearer())

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    document = answer.json()
    for line in map(json.loads, map(shifted, lines.splitlines())):
        places = [document] if line.keys() <= {"totals", "parameters"} else document["data"]
        assert any(holds(place, line) for place in places), (line, document)


def test_the_fourteen_questions_and_all_reports_are_there() -> None:
    assert re.findall(r"^### (\d+)\. ", PAGE, re.MULTILINE) == [str(number) for number in range(1, 15)]
    assert {re.search(r"/v1/reports/(\w+)", call)[1] for call, _ in CALLS} == set(STATEMENTS)
    assert len(CALLS) == 16
