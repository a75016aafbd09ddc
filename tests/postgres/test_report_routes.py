"""Reports over HTTP: formats, pages, scopes, refusals, and answers that come piece by piece."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pyarrow.parquet
import pytest

from deployments.http_api import create_api
from moderation.access import Scope, key_text
from moderation.adapters.database import Database
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.adapters.reports.reader import PostgresReports
from moderation.reports import Asked
from tests.http_kit import SECRET, bearer, client_of, make_key, make_service, status_and_code
from tests.record_kit import FIRST, PERIOD, SmallRecord

pytestmark = pytest.mark.postgres

BOUNDS: dict[str, Any] = {name: moment.strftime("%Y-%m-%dT%H:%M:%SZ") for name, moment in PERIOD.items()}
NAMES = [
    "timeline",
    "verdicts",
    "released_without_checks",
    "output_blocked_after_pass",
    "thresholds_in_force",
    "policy_replay",
    "degraded_decisions",
    "copies",
    "reviewer_activity",
    "overturns",
    "time_to_action",
    "erasures",
    "log_gaps",
    "random_audit_sample",
    "dsa_statements",
    "model_comparison",
]


class Asker:
    """Asks with the key of a scope, over the small record."""

    def __init__(self, record: SmallRecord, database: Database) -> None:
        self.record = record
        service = make_service(
            changes={"reports": PostgresReports(database), "policies": PostgresPolicies(database), "clock": lambda: datetime.now(UTC)}
        )
        for place, scope in enumerate(Scope):
            id = str(place) * 20
            service.keys.keys[id] = make_key(id, tenant=record.tenant, scopes=frozenset({scope}))
        self.app = create_api(service.gateway())

    def __call__(
        self, path: str, *, scope: Scope = Scope.AUDIT_READ, method: str = "GET", body: str | None = None, **parameters: Any
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with client_of(self.app) as client:
                headers = bearer(key_text(str(list(Scope).index(scope)) * 20, SECRET))
                headers |= {"content-type": "application/yaml"} if body else {}
                return await client.request(method, path, params=parameters, headers=headers, content=body)

        return asyncio.run(ask())

    def bounds(self, name: str) -> dict[str, str]:
        return BOUNDS if STATEMENTS[name].report.parameter("from") else {}

    def needed(self, name: str) -> dict[str, Any]:
        """What the report cannot do without."""
        required = {"timeline": {"media_sha256": "aa" * 32}, "copies": {"media_sha256": "cc" * 32}, "policy_replay": {"policy": "default"}}
        return {**self.bounds(name), **required.get(name, {})}


@pytest.fixture(scope="module")
def ask(small_record: SmallRecord) -> Iterator[Asker]:
    database = Database(small_record.urls.runtime)
    yield Asker(small_record, database)
    database.close()


def test_the_list_says_what_every_report_takes_and_gives(ask: Asker) -> None:
    answer = ask("/v1/reports").json()
    assert [report["name"] for report in answer["data"]] == NAMES
    for report in answer["data"]:
        assert report["title"]
        assert report["columns"][0]["name"] == "tenant"
        assert all(parameter["type"] in set(Asked) for parameter in report["parameters"])


@pytest.mark.parametrize("name", NAMES)
def test_every_format_says_the_same(ask: Asker, name: str) -> None:
    path, asked = f"/v1/reports/{name}", ask.needed(name)
    if name == "random_audit_sample":
        asked |= {"seed": "7", "verdict": "any"}
    answer = ask(path, **asked, limit=500)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    columns = [column["name"] for column in document["columns"]]
    assert all(list(row) == columns for row in document["data"])
    lines = ask(path, **asked, format="ndjson")
    assert [json.loads(line) for line in lines.text.splitlines()] == document["data"]
    table = list(csv.reader(io.StringIO(ask(path, **asked, format="csv").text)))
    assert table[0] == columns
    assert len(table) == 1 + len(document["data"])
    parquet = ask(path, **asked, format="parquet")
    found = pyarrow.parquet.read_table(io.BytesIO(parquet.content))
    assert (found.column_names, found.num_rows) == (columns, len(document["data"]))
    assert parquet.headers["content-type"] == "application/vnd.apache.parquet"
    cursor: Any = {}
    pages = []
    while cursor is not None:
        page = ask(path, **asked, limit=1, **cursor).json()
        pages += page["data"]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
        assert (page["totals"] is None) == (len(pages) > 1 or not STATEMENTS[name].report.totals)
    assert pages == document["data"]


def test_values_have_their_types_in_parquet(ask: Asker) -> None:
    found = pyarrow.parquet.read_table(
        io.BytesIO(ask("/v1/reports/output_blocked_after_pass", **BOUNDS, format="parquet").content)
    ).to_pylist()
    assert [(row["at"].tzinfo is not None, row["score"], row["classifiers"]) for row in found] == [
        (True, Decimal("0.973100"), ["marker 1"])
    ]
    days = pyarrow.parquet.read_table(io.BytesIO(ask("/v1/reports/verdicts", **BOUNDS, format="parquet").content)).to_pylist()
    assert (days[0]["day"], type(days[0]["day"])) == (FIRST.date(), date)


def test_a_cursor_goes_on_with_what_the_first_page_was_about(ask: Asker) -> None:
    first = ask("/v1/reports/random_audit_sample", **{"from": BOUNDS["from"]}, verdict="any", limit=3).json()
    seed = first["parameters"]["seed"]
    second = ask("/v1/reports/random_audit_sample", cursor=first["next_cursor"], limit=500).json()
    assert second["parameters"] == first["parameters"]
    again = ask("/v1/reports/random_audit_sample", **{"from": BOUNDS["from"]}, verdict="any", seed=seed, limit=500).json()
    assert first["data"] + second["data"] == again["data"]


def test_a_tenants_auditor_sees_its_own_and_an_auditor_of_all_sees_each(ask: Asker) -> None:
    def tenants(**asked: Any) -> list[tuple[str, int]]:
        rows = [
            row for row in ask("/v1/reports/verdicts", **BOUNDS, **asked).json()["data"] if row["category"] is None and row["automated"]
        ]
        return sorted(
            {name: sum(row["decisions"] for row in rows if row["tenant"] == name) for name in {row["tenant"] for row in rows}}.items()
        )

    assert tenants() == [("first", 16)]
    assert tenants(scope=Scope.AUDIT_ALL) == [("first", 16), ("second", 1)]
    assert tenants(scope=Scope.AUDIT_ALL, tenant="second") == [("second", 1)]
    assert ask("/v1/reports/verdicts", **BOUNDS, scope=Scope.AUDIT_ALL).json()["totals"] == {"decisions": 17, "reviews": 5}
    told = [
        ask("/v1/reports/verdicts", **BOUNDS, **asked).json()["parameters"].get("tenant_id")
        for asked in ({}, {"scope": Scope.AUDIT_ALL}, {"scope": Scope.AUDIT_ALL, "tenant": "first"})
    ]
    assert told == [told[2], None, told[2]], "whose entries in the log it is about"
    assert UUID(told[2])
    assert status_and_code(ask("/v1/reports/verdicts", tenant="second")) == (404, "not_found")
    for scope in Scope:
        expected = 200 if scope in (Scope.AUDIT_READ, Scope.AUDIT_ALL) else 403
        assert ask("/v1/reports/log_gaps", scope=scope).status_code == expected


def test_a_cursor_of_another_tenant_leads_nowhere(ask: Asker) -> None:
    cursor = ask("/v1/reports/verdicts", **BOUNDS, scope=Scope.AUDIT_ALL, tenant="second", limit=1)
    assert cursor.json()["next_cursor"] is None
    name, told, _, keys = ["verdicts", {}, "", ["2026-01-01", "upload", "", "allow", "True"]]
    forged = base64.urlsafe_b64encode(json.dumps([name, told, ask.record.other.hex, keys]).encode()).decode()
    assert status_and_code(ask("/v1/reports/verdicts", cursor=forged)) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    ("told", "at"),
    [
        ({"media_sha256": "cc" * 32}, "2026-01-01 00:00:00+23:59"),  # which Python reads and Postgres does not
        ({"media_sha256": "cc" * 32}, "0000-01-01 00:00:00+00:00"),
        ({"media_sha256": "cc" * 32, "\ud800": "x"}, "2026-01-01 00:00:00+00:00"),
        ({"media_sha256": "\ud800"}, "2026-01-01 00:00:00+00:00"),
    ],
)
def test_a_cursor_that_nobody_was_given_is_refused(ask: Asker, told: dict[str, str], at: str) -> None:
    forged = base64.urlsafe_b64encode(json.dumps(["copies", told, ask.record.tenant.hex, [at, str(UUID(int=0))]]).encode()).decode()
    assert status_and_code(ask("/v1/reports/copies", cursor=forged)) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    ("name", "asked", "param"),
    [
        ("verdicts", {"form": "x"}, "form"),
        ("verdicts", {"from": "2026-01-01"}, "from"),
        ("verdicts", {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ("verdicts", {"stage": "somewhere"}, "stage"),
        ("verdicts", {"format": "xml"}, "format"),
        ("verdicts", {"limit": "501"}, "limit"),
        ("verdicts", {"limit": "²"}, "limit"),
        ("verdicts", {"cursor": "nonsense"}, "cursor"),
        ("verdicts", {"cursor": "W10"}, "cursor"),
        ("verdicts", {"format": "csv", "limit": "5"}, "limit"),
        ("copies", {}, "media_sha256"),
        ("copies", {"media_sha256": "AA" * 32}, "media_sha256"),
        ("timeline", {}, "media_sha256"),
        ("timeline", {"media_sha256": "aa" * 32, "reference": "x"}, "media_sha256"),
        ("timeline", {"decision": "trf_" + "0" * 32}, "decision"),
        ("policy_replay", {"policy": "nobody"}, "policy"),
        ("policy_replay", {"policy": "default", "version": "9"}, "version"),
        ("policy_replay", {"policy": "default", "version": "9", "format": "csv"}, "version"),
        ("random_audit_sample", {"per_stratum": "0"}, "per_stratum"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_name(ask: Asker, name: str, asked: dict[str, Any], param: str) -> None:
    answer = ask(f"/v1/reports/{name}", **asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_a_report_that_there_is_not_is_not_found(ask: Asker) -> None:
    assert status_and_code(ask("/v1/reports/secrets")) == (404, "not_found")


def test_a_policy_that_is_in_force_nowhere_can_be_replayed(ask: Asker) -> None:
    policy = "name: draft\nrules: [{category: sexual, block_at: 0.26}]\n"
    answer = ask("/v1/reports/policy_replay", method="POST", body=policy, **BOUNDS)
    assert answer.status_code == 200, answer.text
    blocked = {row["example"] for row in answer.json()["data"] if row["replayed"] == "block" and row["differs"]}
    assert blocked == {ask.record.wire(3), ask.record.wire(15)}
    assert status_and_code(ask("/v1/reports/policy_replay", method="POST", body="name: x", **BOUNDS)) == (422, "policy_refused")
