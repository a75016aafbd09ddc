"""`/v1/reviews`: what waits for a person, what people say, and the only door to media that is not released.

Nothing is shown before it is written down who looks. What may be a minor is shown to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.documents import page_of
from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway, MediaArea
from deployments.http.record_routes import list_as_they_stand, named_decision
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, fingerprint, idempotency_key, inlined, query_of
from deployments.http.schemas import DECISION_ID, DecisionList, Document, NoQuery, Paging
from deployments.http.stored import INERT, stored
from deployments.http.transform_documents import Asked, Prose, read_asked
from deployments.http.uploads import read_body
from deployments.http.wire import json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.adapters.areas import object_name
from moderation.audit import rfc3339
from moderation.decision import Decision, Verdict
from moderation.errors import ModerationError
from moderation.frames import DecodePlan, Picture
from moderation.media import Stage
from moderation.ports import Begun, DecisionFilter
from moderation.transform import Review, State

REVIEW: Final = frozenset({Scope.REVIEW})
REVIEW_ID: Final = r"^rev_[0-9a-f]{32}$"
NEVER_SHOWN: Final = "sexual.minor_risk"


class ReviewIn(Asked):
    """A person's verdict."""

    decision_id: Annotated[str, Field(pattern=DECISION_ID)]
    verdict: Literal["allow", "block"]
    reason: Prose


class ReviewView(Document):
    """A review."""

    id: str = Field(pattern=REVIEW_ID)
    object: Literal["review"]
    decision_id: str = Field(pattern=DECISION_ID)
    verdict: Literal["allow", "block"]
    reason: str
    subject: str
    created_at: datetime


class RenditionQuery(BaseModel):
    """How the media is shown."""

    model_config = ConfigDict(extra="forbid")

    rendition: Literal["blurred", "clear"] = "blurred"


class ReviewRoutes:
    """For reviewers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def waiting(self, request: Request, key: Key) -> Response:
        """Decisions that wait for a person, newest first."""
        query = query_of(request, Paging)
        before = None if query.cursor is None else from_wire("dec", query.cursor)
        found = await self._gateway.reviews.waiting(key.tenant, before=before, limit=query.limit)
        page, following = page_of(found, query.limit, lambda last: to_wire("dec", last.id))
        return await list_as_they_stand(self._gateway, key, page, following)

    async def post(self, request: Request, key: Key) -> Response:
        """Say what holds for a decision, and why. A held transform goes on or ends; a block withdraws what was released.

        What is held may be allowed or blocked, what is allowed may be blocked; what is blocked stays so, and what could not be
        judged is judged by nobody. Needs a key that is bound to a reviewer.
        """
        query_of(request, NoQuery)
        subject = _subject(key)
        idempotent = idempotency_key(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
        asked = read_asked(await read_body(request), ReviewIn)
        decision = await named_decision(self._gateway, key, asked.decision_id)
        id, known = await self._claimed(request, key, idempotent, asked)
        if known is not None:
            return json_response(review_document(known), 201, {"idempotent-replayed": "true"})
        review = Review(
            id=id,
            tenant=key.tenant,
            decision=decision.id,
            verdict=Verdict(asked.verdict),
            reason=asked.reason,
            actor=key.id,
            subject=subject,
            at=self._gateway.clock(),
        )
        try:
            await self._add(review, decision)
        except Exception:
            await self._release(key, idempotent, id)
            raise
        return json_response(review_document(review), 201)

    async def media(self, request: Request, key: Key) -> Response:
        """The media of a decision as a JPEG of our making, blurred unless it is asked for clear. That somebody looks is recorded first."""
        query = query_of(request, RenditionQuery)
        subject = _subject(key)
        decision = await named_decision(self._gateway, key, request.path_params["decision"])
        if decision.verdict is Verdict.ERROR:
            raise refused(Code.NOT_REVIEWABLE)
        await self._refuse_what_is_never_shown(decision)
        area, name = _place(self._gateway, decision)
        data = await stored(self._gateway, area, name)
        if data is None:
            raise refused(Code.MEDIA_GONE)
        picture = await self._gateway.pictures.picture(data, DecodePlan(specs=(), limits=self._gateway.limits))
        shown = await asyncio.to_thread(_rendered, picture, query.rendition)
        await self._gateway.reviews.viewed(
            tenant=key.tenant,
            decision=decision.id,
            actor=key.id,
            subject=subject,
            rendition=query.rendition,
            at=self._gateway.clock(),
        )
        headers = {**INERT, "content-disposition": "inline"}
        return Response(shown, 200, headers, "image/jpeg")

    async def _add(self, review: Review, decision: Decision) -> None:
        if not await self._may_be(review.verdict, decision):
            raise refused(Code.NOT_REVIEWABLE, param="verdict")
        await self._gateway.reviews.add(review, to_wake=decision.transform)

    async def _may_be(self, verdict: Verdict, decision: Decision) -> bool:
        """Whether a person may say this of the decision."""
        if decision.verdict is Verdict.REVIEW:
            return True
        if decision.verdict is not Verdict.ALLOW:
            return False
        return verdict is Verdict.BLOCK or await self._is_held(decision)

    async def _is_held(self, decision: Decision) -> bool:
        """Whether a transform waits because of it: the policy that came into force since may hold what was allowed."""
        committed = None if decision.transform is None else await self._gateway.transforms.load(decision.tenant, decision.transform)
        if committed is None or committed.state is not State.HELD:
            return False
        held = committed.events[-1].held
        return held is not None and held.decision == decision.id

    async def _refuse_what_is_never_shown(self, decision: Decision) -> None:
        """Whatever decision said it of these bytes."""
        wanted = DecisionFilter(media_sha256=decision.media.sha256, category=NEVER_SHOWN, limit=1)
        if any(reason.category == NEVER_SHOWN for reason in decision.reasons) or await self._gateway.reader.find(decision.tenant, wanted):
            raise refused(Code.NEVER_SHOWN)

    async def _release(self, key: Key, idempotent: str | None, id: UUID) -> None:
        """Give a claim back, unless the review is committed all the same; in trouble its own lease ends it."""
        if idempotent is not None:
            with contextlib.suppress(ModerationError):
                await self._gateway.idempotency.forget(key.tenant, idempotent, id)

    async def _claimed(self, request: Request, key: Key, idempotent: str | None, asked: ReviewIn) -> tuple[UUID, Review | None]:
        """(the id of the review, what an earlier request with this key has made)."""
        mine = self._gateway.new_id()
        if idempotent is None:
            return mine, None
        own = fingerprint(request, options=asked.model_dump())
        begun, id = await self._gateway.idempotency.begin(key.tenant, idempotent, own, mine)
        if begun is Begun.MISMATCH:
            raise refused(Code.IDEMPOTENCY_MISMATCH)
        if id == mine:
            return mine, None
        known = await self._gateway.reviews.get(key.tenant, id)
        if known is None and begun is Begun.IN_PROGRESS:
            raise refused(Code.IN_PROGRESS)
        return id, known


def _subject(key: Key) -> str:
    if not key.subject:
        raise refused(Code.SUBJECT_REQUIRED)
    return key.subject


def _place(gateway: Gateway, decision: Decision) -> tuple[MediaArea, str]:
    """Where the bytes of a decision lie, if they are kept."""
    if decision.transform is None:
        return gateway.quarantine, object_name(decision.tenant, decision.id, decision.media.sha256)
    area = gateway.quarantine if decision.stage is Stage.OUTPUT else gateway.intake
    return area, object_name(decision.tenant, decision.transform, decision.media.sha256)


def _rendered(picture: Picture, rendition: str) -> bytes:
    from deployments.http.renditions import Rendition, render  # noqa: PLC0415  # Pillow, which only reviewers need

    return render(picture, Rendition(rendition))


def review_document(review: Review) -> dict[str, object]:
    """The review object."""
    return {
        "id": to_wire("rev", review.id),
        "object": "review",
        "decision_id": to_wire("dec", review.decision),
        "verdict": str(review.verdict),
        "reason": review.reason,
        "subject": review.subject,
        "created_at": rfc3339(review.at),
    }


def add_reviews(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = ReviewRoutes(gateway)
    waiting = Doc(summary="What waits for a person", answers={200: DecisionList}, errors=(422,), query=Paging, tag="reviews")
    say = Doc(
        summary="Review a decision",
        answers={201: ReviewView},
        errors=(400, 404, 408, 409, 413, 415, 422),
        query=NoQuery,
        headers=(IDEMPOTENCY_PARAMETER,),
        body={"required": True, "content": {"application/json": {"schema": inlined(ReviewIn.model_json_schema())}}},
        tag="reviews",
    )
    look = Doc(
        summary="See the media of a decision",
        answers={200: None},
        errors=(404, 410, 413, 415, 422),
        query=RenditionQuery,
        path={"decision": DECISION_ID},
        tag="reviews",
    )
    add_protected(app, door, "GET", "/v1/reviews", routes.waiting, scopes=REVIEW, doc=waiting)
    add_protected(app, door, "POST", "/v1/reviews", routes.post, scopes=REVIEW, doc=say)
    add_protected(app, door, "GET", "/v1/reviews/{decision}/media", routes.media, scopes=REVIEW, doc=look)
