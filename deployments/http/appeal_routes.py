"""`/v1/appeals`: objections to what stands about a decision. The next review closes an appeal, and is somebody else's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.asking import REPLAYED, asked_of, claimed
from deployments.http.auth import Door
from deployments.http.documents import listed, page_of
from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from deployments.http.record_routes import named_decision
from deployments.http.review_routes import REVIEW_ID
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, inlined, query_of, schema_of
from deployments.http.schemas import DECISION_ID, Document, NoQuery
from deployments.http.transform_documents import Asked, Prose
from deployments.http.wire import json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.audit import rfc3339
from moderation.people import Appeal

FILE: Final = frozenset({Scope.SCREEN, Scope.TRANSFORM, Scope.REVIEW, Scope.ADMIN})
READ: Final = FILE | {Scope.AUDIT_READ, Scope.AUDIT_ALL}
APPEAL_ID: Final = r"^apl_[0-9a-f]{32}$"


class AppealIn(Asked):
    """An objection."""

    decision_id: Annotated[str, Field(pattern=DECISION_ID)]
    reason: Prose


class AppealView(Document):
    """An appeal. It is against what stood then: the policy's verdict, or that of the review `against_review_id`."""

    id: str = Field(pattern=APPEAL_ID)
    object: Literal["appeal"]
    decision_id: str = Field(pattern=DECISION_ID)
    status: Literal["open", "closed"]
    stood: Literal["allow", "block"]
    against_review_id: str | None = Field(pattern=REVIEW_ID)
    outcome: Literal["upheld", "overturned"] | None
    review_id: str | None = Field(pattern=REVIEW_ID, description="The review that closed it.")
    reason: str
    subject: str | None
    created_at: datetime
    closed_at: datetime | None


class AppealList(Document):
    """A page of appeals, newest first."""

    object: Literal["list"]
    data: list[AppealView]
    next_cursor: str | None


class AppealQuery(BaseModel):
    """Which appeals."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["open", "closed"] | None = None
    decision_id: str | None = Field(None, pattern=DECISION_ID)
    cursor: str | None = Field(None, pattern=APPEAL_ID, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=500)


class AppealRoutes:
    """The appeals of the key's tenant."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def post(self, request: Request, key: Key) -> Response:
        """Object to what stands about a decision, an allow or a block.

        It is decided by a review of somebody who neither filed it nor said what it is against.
        """
        query_of(request, NoQuery)
        asked = await asked_of(request, AppealIn)
        decision = await named_decision(self._gateway, key, asked.decision_id)
        async with claimed(self._gateway, request, key, asked, self._gateway.appeals.get) as claim:
            if claim.known is not None:
                return json_response(appeal_document(claim.known), 201, REPLAYED)
            try:
                appeal = await self._gateway.appeals.file(
                    id=claim.id,
                    tenant=key.tenant,
                    decision=decision.id,
                    reason=asked.reason,
                    actor=key.id,
                    subject=key.subject,
                    at=self._gateway.clock(),
                )
            except ValueError:
                raise refused(Code.NOT_APPEALABLE, param="decision_id") from None
            if appeal.id != claim.id:
                raise refused(Code.ALREADY_APPEALED, param="decision_id")
        return json_response(appeal_document(appeal), 201)

    async def find(self, request: Request, key: Key) -> Response:
        """Appeals, newest first."""
        query = query_of(request, AppealQuery)
        found = await self._gateway.appeals.find(
            key.tenant,
            decision=None if query.decision_id is None else from_wire("dec", query.decision_id),
            is_open=None if query.status is None else query.status == "open",
            before=None if query.cursor is None else from_wire("apl", query.cursor),
            limit=query.limit,
        )
        page, following = page_of(found, query.limit, lambda last: to_wire("apl", last.id))
        return json_response(listed([appeal_document(appeal) for appeal in page], following))


def appeal_document(appeal: Appeal) -> dict[str, object]:
    """The appeal object."""
    closing = appeal.closing
    return {
        "id": to_wire("apl", appeal.id),
        "object": "appeal",
        "decision_id": to_wire("dec", appeal.decision),
        "status": "open" if closing is None else "closed",
        "stood": str(appeal.stood),
        "against_review_id": None if appeal.review is None else to_wire("rev", appeal.review),
        "outcome": None if appeal.outcome is None else str(appeal.outcome),
        "review_id": None if closing is None else to_wire("rev", closing.review),
        "reason": appeal.reason,
        "subject": appeal.subject,
        "created_at": rfc3339(appeal.at),
        "closed_at": None if closing is None else rfc3339(closing.at),
    }


def add_appeals(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = AppealRoutes(gateway)
    object_to = Doc(
        summary="Appeal against a decision",
        answers={201: AppealView},
        errors=(400, 404, 408, 409, 413, 415, 422),
        query=NoQuery,
        headers=(IDEMPOTENCY_PARAMETER,),
        body={"required": True, "content": {"application/json": {"schema": inlined(schema_of(AppealIn))}}},
        tag="people",
    )
    many = Doc(summary="Appeals", answers={200: AppealList}, errors=(422,), query=AppealQuery, tag="people")
    add_protected(app, door, "POST", "/v1/appeals", routes.post, scopes=FILE, doc=object_to)
    add_protected(app, door, "GET", "/v1/appeals", routes.find, scopes=READ, doc=many)
