"""`/v1/reports`: the questions that the record answers, as JSON page by page, or whole as CSV, NDJSON or Parquet.

A key with `audit.read` asks about its own tenant. One with `audit.all` asks about all of them, one after the other, or about the one
that `tenant` names; rows say which tenant they are of.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlencode
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from deployments.http.auth import Door
from deployments.http.documents import listed
from deployments.http.errors import ApiError, Code, refused
from deployments.http.gateway import Gateway
from deployments.http.report_formats import MEDIA_TYPES, WRITERS, document_of, written
from deployments.http.routing import Doc, add_protected, parameters_of, query_of
from deployments.http.schemas import Document, NoQuery
from deployments.http.uploads import read_body
from deployments.http.wire import json_response
from deployments.ids import to_wire
from deployments.policy_file import read_policy
from moderation.access import Key, Scope
from moderation.audit import rfc3339
from moderation.reports import Asked, Column, Kind, ParameterRefused, Report, Value, read_keys, read_parameters

READ: Final = frozenset({Scope.AUDIT_READ, Scope.AUDIT_ALL})
NAME: Final = "^[a-z_]{1,40}$"
TENANT: Final = Column(name="tenant", kind=Kind.TEXT, title="Tenant")
REPLAY: Final = "policy_replay"
_FORMATS: Final = ("json", *MEDIA_TYPES)
_PAGE: Final = 50
_MOST: Final = 500
_OWN: Final = ("format", "cursor", "limit", "tenant")
"""Parameters of the route, not of a report."""
_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked: which report, of which tenants, with which parameters, and where a page begins."""

    report: Report
    tenants: Sequence[tuple[UUID, str]]
    values: dict[str, Any]
    format: str
    limit: int
    after: tuple[UUID, tuple[str, ...]] | None

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those of the report, the tenant's name first."""
        return (TENANT, *self.report.columns)

    @property
    def told(self) -> dict[str, Any]:
        """The parameters as they applied; where they are about one tenant alone, with the id that its entries in the log bear."""
        about = {"tenant_id": str(self.tenants[0][0])} if len(self.tenants) == 1 else {}
        return _told(self.values) | about


_Found: TypeAlias = tuple[UUID, list[Any], Sequence[str]]
"""A row: its tenant, its values with the tenant's name first, and its keys."""


class ReportRoutes:
    """Reads of the record in aggregate."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reports = gateway.reports

    async def catalogue(self, request: Request, key: Key) -> Response:  # noqa: ARG002  # the handlers' signature
        """The reports, with their parameters and columns."""
        query_of(request, NoQuery)
        return json_response(listed([report_document(report) for report in self._reports.catalogue.values()], None))

    async def get(self, request: Request, key: Key) -> Response:
        """One report. `from` and `to` bound the time it is about; the other parameters are those that the list names.

        JSON comes in pages with totals on the first; `csv`, `ndjson` and `parquet` are whole.
        """
        return await self._answer(await self._asked(request, key, parameters_of(request)))

    async def replay(self, request: Request, key: Key) -> Response:
        """Replay with a policy that is sent (YAML or JSON) and not in force anywhere. Otherwise as `GET /v1/reports/policy_replay`."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _TYPES:
            raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
        given = parameters_of(request)
        for name in ("policy", "version"):
            if name in given:
                raise refused(Code.INVALID_PARAMETER, param=name, message="The policy is the one in the body.")
        policy = await asyncio.to_thread(read_policy, await read_body(request))
        question = await self._asked(request, key, given | {"policy": policy.name}, name=REPLAY)
        question.values["content"] = policy
        return await self._answer(question)

    # --- what is asked ------------------------------------------------------------------------

    async def _asked(self, request: Request, key: Key, given: Mapping[str, str], *, name: str | None = None) -> _Question:
        report = self._reports.catalogue.get(name or request.path_params["name"])
        if report is None:
            raise refused(Code.NOT_FOUND)
        format = given.get("format", "json")
        if format not in _FORMATS:
            raise refused(Code.INVALID_PARAMETER, param="format", message=f"format is one of {', '.join(_FORMATS)}.")
        whole = sorted({"cursor", "limit"} & given.keys()) if format != "json" else []
        if whole:
            raise refused(Code.INVALID_PARAMETER, param=whole[0], message=f"{format} is always whole.")
        limit = given.get("limit", str(_PAGE))
        if not (limit.isascii() and limit.isdigit() and len(limit) <= len(str(_MOST)) and 1 <= int(limit) <= _MOST):
            raise refused(Code.INVALID_PARAMETER, param="limit", message=f"limit is 1 to {_MOST}.")
        told, after = _read_cursor(report, given["cursor"]) if "cursor" in given else ({}, None)
        texts = told | {name: text for name, text in given.items() if name not in _OWN}
        try:
            values: dict[str, Any] = read_parameters(report, texts, self._gateway.clock())
        except ParameterRefused as refusal:
            raise _not_taken(refusal) from None
        if "seed" in values and values["seed"] is None:
            values["seed"] = secrets.token_hex(8)
        tenants = await self._tenants(key, given.get("tenant"))
        if after is not None and after[0] not in [id for id, _ in tenants]:
            raise refused(Code.INVALID_PARAMETER, param="cursor")
        return _Question(report=report, tenants=tenants, values=values, format=format, limit=int(limit), after=after)

    async def _tenants(self, key: Key, wanted: str | None) -> Sequence[tuple[UUID, str]]:
        found = await self._reports.tenants(None if Scope.AUDIT_ALL in key.scopes else key.tenant)
        if wanted is not None:
            found = [(id, name) for id, name in found if name == wanted]
            if not found:
                raise refused(Code.NOT_FOUND)
        return found

    # --- what is answered ---------------------------------------------------------------------

    async def _answer(self, question: _Question) -> Response:
        seal = await self._gateway.seals.latest()
        checkpoint = None if seal is None else seal.note
        try:
            await self._reports.check(question.report.name, [id for id, _ in question.tenants], question.values)
            if question.format == "json":
                return await self._page(question, checkpoint)
            return await self._whole(question, checkpoint)
        except ParameterRefused as refusal:
            raise _not_taken(refusal) from None

    async def _page(self, question: _Question, checkpoint: str | None) -> Response:
        report = question.report
        found, totals = await (self._first(question) if question.after is None else self._following(question, question.after))
        page = found[: question.limit]
        following = _cursor(report, question.values, page[-1][0], page[-1][2]) if len(found) > len(page) else None
        document = {
            "object": "report",
            "name": report.name,
            "title": report.title,
            "parameters": question.told,
            "columns": [_column_document(column) for column in question.columns],
            "data": [document_of(question.columns, row) for _, row, _ in page],
            "totals": totals or None,
            "checkpoint": checkpoint,
            "next_cursor": following,
        }
        return json_response(document)

    async def _first(self, question: _Question) -> tuple[list[_Found], dict[str, int]]:
        """One row more than a page has, and the totals of all tenants."""
        name, values = question.report.name, question.values
        found: list[_Found] = []
        sums = dict.fromkeys(question.report.totals, 0)
        for tenant in question.tenants:
            wanted = question.limit + 1 - len(found)
            if wanted > 0:
                rows, totals = await self._reports.first_page(name, tenant[0], values, limit=wanted)
                found += _found(question, tenant, rows)
            elif sums:
                totals = await self._reports.totals(name, tenant[0], values)
            else:
                break
            for total, number in totals.items():
                sums[total] += number
        return found, sums

    async def _following(self, question: _Question, after: tuple[UUID, tuple[str, ...]]) -> tuple[list[_Found], dict[str, int]]:
        """One row more than a page has, from the row with these keys on."""
        found: list[_Found] = []
        place = next(place for place, (id, _) in enumerate(question.tenants) if id == after[0])
        for tenant in question.tenants[place:]:
            wanted = question.limit + 1 - len(found)
            begin = after[1] if after[0] == tenant[0] else None
            rows = await self._reports.page(question.report.name, tenant[0], question.values, after=begin, limit=wanted)
            found += _found(question, tenant, rows)
            if len(found) > question.limit:
                break
        return found, {}

    async def _whole(self, question: _Question, checkpoint: str | None) -> Response:
        pieces = written(WRITERS[question.format](question.columns), self._rows(question))
        try:
            first = await anext(pieces, b"")  # whatever is refused is refused before the answer begins
        except BaseException:
            await pieces.aclose()  # type: ignore[attr-defined]  # it is a generator
            raise
        headers = {
            "content-disposition": f'attachment; filename="{question.report.name}.{question.format}"',
            "x-facegate-parameters": urlencode({name: str(value) for name, value in question.told.items() if value is not None}),
        }
        if checkpoint is not None:
            headers["x-facegate-checkpoint"] = base64.b64encode(checkpoint.encode()).decode()
        return StreamingResponse(_onward(first, pieces), headers=headers, media_type=MEDIA_TYPES[question.format])

    async def _rows(self, question: _Question) -> AsyncIterator[Sequence[Sequence[Any]]]:
        width = len(question.report.columns)
        for id, name in question.tenants:
            async with aclosing(self._reports.stream(question.report.name, id, question.values)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    yield [(name, *row[:width]) for row in batch]


async def _onward(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(pieces):  # type: ignore[type-var]  # it is a generator
        yield first
        async for piece in pieces:
            yield piece


def _found(question: _Question, tenant: tuple[UUID, str], rows: Sequence[Sequence[Any]]) -> list[_Found]:
    id, name = tenant
    width = len(question.report.columns)
    return [(id, [name, *row[:width]], [str(value) for value in row[width:]]) for row in rows]


def _not_taken(refusal: ParameterRefused) -> ApiError:
    return refused(Code.INVALID_PARAMETER, param=refusal.name, message=f"{refusal.name}: {refusal.why}.")


# --- cursors --------------------------------------------------------------------------------------


def _cursor(report: Report, values: Mapping[str, Any], tenant: UUID, keys: Sequence[str]) -> str:
    """Where a page has ended, with the parameters as they applied, so that the next one is about the same."""
    told = {name: str(value) for name, value in _told(values).items() if value is not None}
    text = json.dumps([report.name, told, tenant.hex, list(keys)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(report: Report, text: str) -> tuple[dict[str, str], tuple[UUID, tuple[str, ...]]]:
    """The inverse of `_cursor`: parameters, tenant and keys. Raises ApiError on anything else; a key sees no more by making one up."""
    try:
        name, told, tenant, keys = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        texts = {str(name): value for name, value in told.items() if name.isascii() and isinstance(value, str) and "\0" not in value}
        if name == report.name and len(texts) == len(told):
            return texts, (UUID(hex=tenant), read_keys(report, keys))
    except (ValueError, TypeError, AttributeError, RecursionError):  # binascii.Error is a ValueError
        pass
    raise refused(Code.INVALID_PARAMETER, param="cursor")


# --- documents ------------------------------------------------------------------------------------


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a caller would give them."""
    return {name: _wire(name, value) for name, value in values.items() if name != "content"}


def _wire(name: str, value: Value) -> Any:
    match value:
        case datetime():
            return rfc3339(value)
        case UUID():
            return to_wire({"decision": "dec", "transform": "trf"}[name], value)
        case _:
            return value


def _column_document(column: Column) -> dict[str, str]:
    return {"name": column.name, "type": str(column.kind), "title": column.title}


def report_document(report: Report) -> dict[str, object]:
    """What a report takes and gives."""
    return {
        "name": report.name,
        "title": report.title,
        "parameters": [
            {
                "name": parameter.name,
                "type": str(parameter.asked),
                "title": parameter.title,
                "required": parameter.required,
                "default": parameter.default,
                "choices": list(parameter.choices) if parameter.asked is Asked.CHOICE else None,
            }
            for parameter in report.parameters
        ],
        "one_of": list(report.one_of),
        "columns": [_column_document(column) for column in (TENANT, *report.columns)],
        "totals": dict(report.totals),
    }


class ParameterView(Document):
    """One parameter of a report."""

    name: str
    type: str
    title: str
    required: bool
    default: str | int | None
    choices: list[str] | None


class ColumnView(Document):
    """One column of a report."""

    name: str
    type: str
    title: str


class CatalogueEntry(Document):
    """One report; exactly one of `one_of` must be given."""

    name: str
    title: str
    parameters: list[ParameterView]
    one_of: list[str]
    columns: list[ColumnView]
    totals: dict[str, str]


class CatalogueView(Document):
    """All reports."""

    object: Literal["list"]
    data: list[CatalogueEntry]
    next_cursor: None


class ReportView(Document):
    """A page of a report. `checkpoint` is the newest seal of the log when it was made, null until there is one."""

    object: Literal["report"]
    name: str
    title: str
    parameters: dict[str, str | int | None]
    columns: list[ColumnView]
    data: list[dict[str, Any]]
    totals: dict[str, int] | None
    checkpoint: str | None
    next_cursor: str | None


class ReportQuery(BaseModel):
    """What every report takes; each has parameters of its own beside these."""

    model_config = ConfigDict(extra="allow")

    format: Literal["json", "csv", "ndjson", "parquet"] = "json"
    since: str | None = Field(None, alias="from", description="Inclusive; RFC 3339 with a zone. By default 30 days before `to`.")
    until: str | None = Field(None, alias="to", description="Exclusive; by default now.")
    tenant: str | None = Field(None, description="One tenant by its name, for keys with audit.all.")
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


def add_reports(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = ReportRoutes(gateway)
    catalogue = Doc(summary="The reports", answers={200: CatalogueView}, errors=(422,), query=NoQuery, tag="reports")
    one = Doc(summary="One report", answers={200: ReportView}, errors=(404, 422), query=ReportQuery, path={"name": NAME}, tag="reports")
    body = {"required": True, "content": {kind: {"schema": {"type": "object" if "json" in kind else "string"}} for kind in _TYPES}}
    replay = Doc(
        summary="Replay with a policy that is sent",
        answers={200: ReportView},
        errors=(400, 404, 408, 413, 415, 422),
        query=ReportQuery,
        body=body,
        tag="reports",
    )
    add_protected(app, door, "GET", "/v1/reports", routes.catalogue, scopes=READ, doc=catalogue)
    add_protected(app, door, "GET", "/v1/reports/{name}", routes.get, scopes=READ, doc=one)
    add_protected(app, door, "POST", f"/v1/reports/{REPLAY}", routes.replay, scopes=READ, doc=replay)
