"""`/v1/sources`: the catalogue of approved faces, for policies that take no others.

A face is screened at stage `source`; only what the policy allows is approved. The id of an entry is that of its decision, so
that a retry finds what came of it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.documents import listed, page_of
from deployments.http.errors import ApiError, Code, problem, problem_in, problem_of, refused
from deployments.http.front import body_of
from deployments.http.gateway import Gateway
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, fingerprint, idempotency_key, inlined, query_of, schema_of
from deployments.http.schemas import DECISION_ID, SHA256, Document, NoQuery
from deployments.http.screening_routes import new_order
from deployments.http.screenings import Screenings
from deployments.http.transform_documents import SOURCE_ID, Asked, ConsentIn, Line, read_asked
from deployments.http.uploads import Upload, read_files
from deployments.http.wire import json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.adapters.areas import object_name
from moderation.audit import rfc3339
from moderation.decision import Decision, Verdict
from moderation.errors import MediaRefused, RecordUnavailable, Refusal
from moderation.media import MediaKind, Stage, sha256_of
from moderation.ports import KeyUse
from moderation.transform import CatalogueSource

READ: Final = frozenset({Scope.TRANSFORM, Scope.ADMIN})
ADMIN: Final = frozenset({Scope.ADMIN})


class SourceOptions(Asked):
    """What is said of a face."""

    consent: ConsentIn
    label: Line | None = Field(None, description="What people call it.")
    policy: Annotated[Line, Field(max_length=64)] | None = Field(None, description="One of the key's policies; its first one by default.")


class ConsentView(Document):
    """On what grounds it may be used."""

    basis: Literal["self", "subject_consent", "licensed"]
    statement: str | None
    reference: str | None


class SourceView(Document):
    """An approved face."""

    id: str = Field(pattern=SOURCE_ID)
    object: Literal["source"]
    sha256: str = Field(pattern=SHA256)
    type: str
    bytes: int
    decision_id: str = Field(pattern=DECISION_ID)
    consent: ConsentView
    label: str | None
    created_at: datetime


class SourceList(Document):
    """A page of approved faces, newest first."""

    object: Literal["list"]
    data: list[SourceView]
    next_cursor: str | None


class SourceQuery(BaseModel):
    """A page of the catalogue."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, pattern=SOURCE_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


class SourceRoutes:
    """The catalogue of the key's tenant."""

    def __init__(self, gateway: Gateway, screenings: Screenings) -> None:
        self._gateway = gateway
        self._screenings = screenings

    async def find(self, request: Request, key: Key) -> Response:
        """The approved faces, newest first."""
        query = query_of(request, SourceQuery)
        before = None if query.cursor is None else from_wire("src", query.cursor)
        found = await self._gateway.sources.list(key.tenant, before=before, limit=query.limit)
        page, following = page_of(found, query.limit, lambda last: to_wire("src", last.id))
        return json_response(listed([source_document(source) for source in page], following))

    async def get(self, request: Request, key: Key) -> Response:
        """One approved face."""
        query_of(request, NoQuery)
        return json_response(source_document(await self._live(request, key)))

    async def post(self, request: Request, key: Key) -> Response:
        """Screen a face and approve it. The same bytes again give the entry that there is.

        A face that is not allowed is refused and names its decision. Where that is held, the same request with the same
        Idempotency-Key approves the face once a person has allowed it.
        """
        query_of(request, NoQuery)
        idempotent = idempotency_key(request)
        self._screenings.admit()
        files = await read_files(request, ("media", "options"))
        if "media" not in files:
            raise refused(Code.BAD_REQUEST, param="media", message="The form has no file named media.")
        options = read_asked(files["options"].data if "options" in files else b"{}", SourceOptions, param="options")
        data = files["media"].data
        order = await new_order(
            self._gateway, request, key, Upload(data=data, declared_type=None, policy=options.policy), stage=Stage.SOURCE
        )
        submitted = await self._screenings.submit(
            data,
            order,
            wait_s=float("inf"),
            use=KeyUse(key=idempotent, fingerprint=_fingerprint(request, options, order.policy.name, data)) if idempotent else None,
            body=body_of(request),
        )
        if not isinstance(submitted.outcome, Decision):
            raise refused(Code.IN_PROGRESS)
        source = await self._approve(key, submitted.outcome, options, data)
        return json_response(source_document(source), 201, {"idempotent-replayed": "true"} if submitted.is_replay else None)

    async def remove(self, request: Request, key: Key) -> Response:
        """Take a face out of the catalogue and delete its bytes. Transforms that were accepted with it and are not released yet fail."""
        query_of(request, NoQuery)
        id = from_wire("src", request.path_params["id"])
        source = None if id is None else await self._gateway.sources.remove(key.tenant, id, key.id)
        if source is None:
            raise refused(Code.NOT_FOUND)
        await self._forget(source)
        return Response(None, 204)

    async def _live(self, request: Request, key: Key) -> CatalogueSource:
        id = from_wire("src", request.path_params["id"])
        source = None if id is None else await self._gateway.sources.get(key.tenant, id)
        if source is None:
            raise refused(Code.NOT_FOUND)
        return source

    async def _is_allowed(self, decision: Decision) -> bool:
        """By the policy, or by a person where the policy held it; what a person blocked is not."""
        review = (await self._gateway.reviews.latest(decision.tenant, (decision.id,))).get(decision.id)
        said = decision.verdict if review is None else review.verdict
        return said is Verdict.ALLOW and decision.verdict in (Verdict.ALLOW, Verdict.REVIEW)

    async def _approve(self, key: Key, decision: Decision, options: SourceOptions, data: bytes) -> CatalogueSource:
        """First the bytes, then the row that names them. Raises ApiError on a decision that is no allow."""
        found = problem_in(decision)
        if found is not None:
            raise ApiError(found)
        if not await self._is_allowed(decision) or decision.media.facts is None:
            raise ApiError(replace(problem(Code.NOT_APPROVED), decision_id=decision.id))
        if decision.media.facts.kind is not MediaKind.IMAGE:  # it can be judged, and no transform would take it
            refusal = MediaRefused(Refusal.STILL_PICTURE_REQUIRED)
            raise ApiError(replace(problem_of(refusal), param="media", decision_id=decision.id))
        source = CatalogueSource(
            id=decision.id,
            tenant=key.tenant,
            sha256=decision.media.sha256,
            size=decision.media.size,
            type=decision.media.facts.type,
            decision=decision.id,
            consent=options.consent.stated(),
            actor=key.id,
            created_at=self._gateway.clock(),
            label=options.label,
        )
        known = await self._gateway.sources.find(key.tenant, source.sha256)
        if known is not None:
            return known
        await self._gateway.catalogue.put(_name(source), data)
        try:
            added = await self._gateway.sources.add(source)
        except ValueError:  # removed since, or blocked by a person: a request that is sent again brings nothing back
            await self._forget(source)
            raise ApiError(replace(problem(Code.NOT_APPROVED), decision_id=decision.id)) from None
        if added.id != source.id:  # another request with the same bytes was faster
            await self._forget(source)
        return added

    async def _forget(self, source: CatalogueSource) -> None:
        try:
            await self._gateway.catalogue.delete(_name(source))
        except RecordUnavailable:
            self._gateway.alarm("catalogue_not_deleted")


def _name(source: CatalogueSource) -> str:
    return object_name(source.tenant, source.id, source.sha256)


def _fingerprint(request: Request, options: SourceOptions, policy: str, data: bytes) -> str:
    return fingerprint(request, options={**options.model_dump(mode="json"), "policy": policy}, media=sha256_of(data))


def source_document(source: CatalogueSource) -> dict[str, object]:
    """The source object."""
    consent = source.consent
    return {
        "id": to_wire("src", source.id),
        "object": "source",
        "sha256": source.sha256,
        "type": source.type,
        "bytes": source.size,
        "decision_id": to_wire("dec", source.decision),
        "consent": {"basis": str(consent.basis), "statement": consent.statement, "reference": consent.reference},
        "label": source.label,
        "created_at": rfc3339(source.created_at),
    }


def add_sources(app: FastAPI, door: Door, gateway: Gateway, screenings: Screenings) -> None:
    """Add the routes."""
    routes = SourceRoutes(gateway, screenings)
    path = {"id": SOURCE_ID}
    options = inlined(schema_of(SourceOptions))
    form = {
        "type": "object",
        "required": ["media", "options"],
        "properties": {"media": {"type": "string", "format": "binary"}, "options": options},
    }
    approve = Doc(
        summary="Approve a face",
        answers={201: SourceView},
        errors=(400, 408, 409, 413, 415, 422),
        query=NoQuery,
        headers=(IDEMPOTENCY_PARAMETER,),
        body={
            "required": True,
            "content": {"multipart/form-data": {"schema": form, "encoding": {"options": {"contentType": "application/json"}}}},
        },
        tag="sources",
    )
    many = Doc(summary="Approved faces", answers={200: SourceList}, errors=(422,), query=SourceQuery, tag="sources")
    one = Doc(summary="One approved face", answers={200: SourceView}, errors=(404, 422), query=NoQuery, path=path, tag="sources")
    gone = Doc(summary="Remove a face", answers={204: None}, errors=(404, 422), query=NoQuery, path=path, tag="sources")
    add_protected(app, door, "GET", "/v1/sources", routes.find, scopes=READ, doc=many)
    add_protected(app, door, "POST", "/v1/sources", routes.post, scopes=ADMIN, doc=approve)
    add_protected(app, door, "GET", "/v1/sources/{id}", routes.get, scopes=READ, doc=one)
    add_protected(app, door, "DELETE", "/v1/sources/{id}", routes.remove, scopes=ADMIN, doc=gone)
