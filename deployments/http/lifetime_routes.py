"""`/v1/holds` and `/v1/erasures`: what must be kept, and what must go."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.asking import REPLAYED, asked_of, claimed
from deployments.http.auth import Door
from deployments.http.documents import listed, page_of
from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, inlined, query_of, schema_of
from deployments.http.schemas import DECISION_ID, SHA256, TRANSFORM_ID, Document, NoQuery
from deployments.http.transform_documents import Asked, Line, Prose
from deployments.http.wire import json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.audit import rfc3339
from moderation.people import Erasure, Hold, Selector

ADMIN: Final = frozenset({Scope.ADMIN})
READ: Final = frozenset({Scope.ADMIN, Scope.AUDIT_READ, Scope.AUDIT_ALL})
HOLD_ID: Final = r"^hld_[0-9a-f]{32}$"
ERASURE_ID: Final = r"^era_[0-9a-f]{32}$"


class HoldIn(Asked):
    """A duty to keep one of these, and why."""

    decision_id: Annotated[str, Field(pattern=DECISION_ID)] | None = None
    transform_id: Annotated[str, Field(pattern=TRANSFORM_ID)] | None = None
    media_sha256: Annotated[str, Field(pattern=SHA256)] | None = None
    reference: Line | None = None
    reason: Prose

    @model_validator(mode="after")
    def _is_on_one(self) -> Self:
        if [self.decision_id, self.transform_id, self.media_sha256, self.reference].count(None) != 3:  # noqa: PLR2004  # all but one
            raise ValueError("a hold is on one thing")
        return self


class ReleaseIn(Asked):
    """Why a hold ends."""

    reason: Prose


class HoldView(Document):
    """A hold; in force until `released_at`."""

    id: str = Field(pattern=HOLD_ID)
    object: Literal["hold"]
    decision_id: str | None = Field(pattern=DECISION_ID)
    transform_id: str | None = Field(pattern=TRANSFORM_ID)
    media_sha256: str | None = Field(pattern=SHA256)
    reference: str | None
    reason: str
    created_at: datetime
    released_at: datetime | None
    release_reason: str | None


class HoldList(Document):
    """A page of holds, newest first."""

    object: Literal["list"]
    data: list[HoldView]
    next_cursor: str | None


class HoldQuery(BaseModel):
    """Which holds."""

    model_config = ConfigDict(extra="forbid")

    in_force: bool | None = None
    cursor: str | None = Field(None, pattern=HOLD_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


class ErasureIn(Asked):
    """Whose texts are to go: those under a reference, or those that the person of a pseudonym has written."""

    reference: Line | None = None
    subject: Line | None = None

    @model_validator(mode="after")
    def _is_by_one(self) -> Self:
        if (self.reference is None) is (self.subject is None):
            raise ValueError("an erasure is by a reference or by a subject")
        return self


class ErasureView(Document):
    """What came of an erasure. `held` texts stay under `holds`; `in_progress` ones, and what is not complete, are to be asked for again."""

    id: str = Field(pattern=ERASURE_ID)
    object: Literal["erasure"]
    by: Literal["reference", "subject"]
    erased: int = Field(ge=0)
    held: int = Field(ge=0)
    holds: list[Annotated[str, Field(pattern=HOLD_ID)]]
    in_progress: int = Field(ge=0)
    is_complete: bool
    created_at: datetime


class ErasureList(Document):
    """A page of erasures, newest first."""

    object: Literal["list"]
    data: list[ErasureView]
    next_cursor: str | None


class ErasureQuery(BaseModel):
    """A page of erasures."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, pattern=ERASURE_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


class LifetimeRoutes:
    """The holds and erasures of the key's tenant."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # --- holds ------------------------------------------------------------------------------------

    async def place(self, request: Request, key: Key) -> Response:
        """Keep a decision, a transform, bytes, or what was asked under a reference.

        It is neither purged, nor erased, nor dropped with its month. With a decision goes its transform, with a transform its decisions.
        """
        query_of(request, NoQuery)
        asked = await asked_of(request, HoldIn)
        async with claimed(self._gateway, request, key, asked, self._gateway.holds.get) as claim:
            if claim.known is not None:
                return json_response(hold_document(claim.known), 201, REPLAYED)
            hold = Hold(
                id=claim.id,
                tenant=key.tenant,
                reason=asked.reason,
                actor=key.id,
                at=self._gateway.clock(),
                decision=_id("dec", asked.decision_id),
                transform=_id("trf", asked.transform_id),
                sha256=asked.media_sha256,
                reference=asked.reference,
            )
            try:
                await self._gateway.holds.place(hold)
            except ValueError:
                raise refused(Code.NOT_FOUND) from None
        return json_response(hold_document(hold), 201)

    async def release(self, request: Request, key: Key) -> Response:
        """End a hold, and say why. One that has ended stays as it is."""
        query_of(request, NoQuery)
        asked = await asked_of(request, ReleaseIn)
        id = from_wire("hld", request.path_params["id"])
        at = self._gateway.clock()
        hold = None if id is None else await self._gateway.holds.release(key.tenant, id, reason=asked.reason, actor=key.id, at=at)
        if hold is None:
            raise refused(Code.NOT_FOUND)
        return json_response(hold_document(hold))

    async def holds(self, request: Request, key: Key) -> Response:
        """Holds, newest first."""
        query = query_of(request, HoldQuery)
        found = await self._gateway.holds.find(key.tenant, in_force=query.in_force, before=_id("hld", query.cursor), limit=query.limit)
        page, following = page_of(found, query.limit, lambda last: to_wire("hld", last.id))
        return json_response(listed([hold_document(hold) for hold in page], following))

    # --- erasures ---------------------------------------------------------------------------------

    async def erase(self, request: Request, key: Key) -> Response:
        """Remove a person's texts: references, statements of consent, callback URLs, and what people wrote about it.

        Decisions, scores and every proof stay. What is under hold stays too, and the answer says so.
        """
        query_of(request, NoQuery)
        asked = await asked_of(request, ErasureIn)
        async with claimed(self._gateway, request, key, asked, self._gateway.erasures.get) as claim:
            if claim.known is not None:
                return json_response(erasure_document(claim.known), 201, REPLAYED)
            erasure = await self._gateway.erasures.erase(
                id=claim.id,
                tenant=key.tenant,
                selector=Selector.SUBJECT if asked.reference is None else Selector.REFERENCE,
                text=asked.reference or asked.subject or "",
                actor=key.id,
                at=self._gateway.clock(),
            )
        return json_response(erasure_document(erasure), 201)

    async def erasures(self, request: Request, key: Key) -> Response:
        """Erasures, newest first. What was asked for is not among what is kept of them."""
        query = query_of(request, ErasureQuery)
        found = await self._gateway.erasures.find(key.tenant, before=_id("era", query.cursor), limit=query.limit)
        page, following = page_of(found, query.limit, lambda last: to_wire("era", last.id))
        return json_response(listed([erasure_document(erasure) for erasure in page], following))


def _id(prefix: str, text: str | None) -> UUID | None:
    return None if text is None else from_wire(prefix, text)


def hold_document(hold: Hold) -> dict[str, object]:
    """The hold object."""
    return {
        "id": to_wire("hld", hold.id),
        "object": "hold",
        "decision_id": None if hold.decision is None else to_wire("dec", hold.decision),
        "transform_id": None if hold.transform is None else to_wire("trf", hold.transform),
        "media_sha256": hold.sha256,
        "reference": hold.reference,
        "reason": hold.reason,
        "created_at": rfc3339(hold.at),
        "released_at": None if hold.released_at is None else rfc3339(hold.released_at),
        "release_reason": hold.release_reason,
    }


def erasure_document(erasure: Erasure) -> dict[str, object]:
    """The erasure object."""
    return {
        "id": to_wire("era", erasure.id),
        "object": "erasure",
        "by": str(erasure.selector),
        "erased": erasure.erased,
        "held": erasure.held,
        "holds": [to_wire("hld", hold) for hold in erasure.holds],
        "in_progress": erasure.in_progress,
        "is_complete": erasure.is_complete,
        "created_at": rfc3339(erasure.at),
    }


def _body(asked: type[Asked]) -> dict[str, object]:
    return {"required": True, "content": {"application/json": {"schema": inlined(schema_of(asked))}}}


def add_lifetimes(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = LifetimeRoutes(gateway)

    errors = (400, 404, 408, 409, 413, 415, 422)
    key, path = (IDEMPOTENCY_PARAMETER,), {"id": HOLD_ID}
    place = Doc(
        summary="Place a hold", answers={201: HoldView}, errors=errors, query=NoQuery, headers=key, body=_body(HoldIn), tag="people"
    )
    release = Doc(
        summary="Release a hold", answers={200: HoldView}, errors=errors, query=NoQuery, path=path, body=_body(ReleaseIn), tag="people"
    )
    erase = Doc(
        summary="Erase a person's texts",
        answers={201: ErasureView},
        errors=errors,
        query=NoQuery,
        headers=key,
        body=_body(ErasureIn),
        tag="people",
    )
    holds = Doc(summary="Holds", answers={200: HoldList}, errors=(422,), query=HoldQuery, tag="people")
    erasures = Doc(summary="Erasures", answers={200: ErasureList}, errors=(422,), query=ErasureQuery, tag="people")
    add_protected(app, door, "POST", "/v1/holds", routes.place, scopes=ADMIN, doc=place)
    add_protected(app, door, "GET", "/v1/holds", routes.holds, scopes=READ, doc=holds)
    add_protected(app, door, "POST", "/v1/holds/{id}/release", routes.release, scopes=ADMIN, doc=release)
    add_protected(app, door, "POST", "/v1/erasures", routes.erase, scopes=ADMIN, doc=erase)
    add_protected(app, door, "GET", "/v1/erasures", routes.erasures, scopes=READ, doc=erasures)
