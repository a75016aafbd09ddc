"""`/v1/reviews`: what waits for a person, what people say, and the only door to media that is not released.

Nothing is shown before it is written down who looks. What may be a minor is shown to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.asking import REPLAYED, asked_of, claimed
from deployments.http.auth import Door
from deployments.http.documents import page_of
from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway, MediaReader
from deployments.http.record_routes import list_as_they_stand, named_decision
from deployments.http.review_media import named_frame, shown_of
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, inlined, query_of, schema_of
from deployments.http.schemas import DECISION_ID, DecisionList, Document, NoQuery, Paging
from deployments.http.stored import INERT, stored
from deployments.http.transform_documents import Asked, Prose
from deployments.http.wire import json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.adapters.areas import object_name
from moderation.audit import rfc3339
from moderation.decision import Decision, Verdict
from moderation.frames import Pixels
from moderation.media import Stage
from moderation.people import may_say
from moderation.ports import DecisionFilter
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
    reason: int | None = Field(None, ge=0, description="Of what moves: show the frame that this one of the decision's `reasons` names.")


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

        What is held may be allowed or blocked, what is allowed may be blocked; what stands as blocked may be allowed where a person
        blocked it or an appeal is open. What could not be judged is judged by nobody. Needs a key that is bound to a reviewer, who
        neither filed an open appeal nor said what it is against.
        """
        query_of(request, NoQuery)
        subject = subject_of(key)
        asked = await asked_of(request, ReviewIn)
        decision = await named_decision(self._gateway, key, asked.decision_id)
        async with claimed(self._gateway, request, key, asked, self._gateway.reviews.get) as claim:
            if claim.known is not None:
                return json_response(review_document(claim.known), 201, REPLAYED)
            review = Review(
                id=claim.id,
                tenant=key.tenant,
                decision=decision.id,
                verdict=Verdict(asked.verdict),
                reason=asked.reason,
                actor=key.id,
                subject=subject,
                at=self._gateway.clock(),
            )
            await self._add(review, decision)
        return json_response(review_document(review), 201)

    async def media(self, request: Request, key: Key) -> Response:
        """The media of a decision as a JPEG of our making, blurred unless it is asked for clear. That somebody looks is recorded first.

        Of an animation or a video it is the frame that a reason names; where viewers show a frame in several ways, all of them side by side.
        """
        query = query_of(request, RenditionQuery)
        subject = subject_of(key)
        decision = await named_decision(self._gateway, key, request.path_params["decision"])
        if decision.verdict is Verdict.ERROR:
            raise refused(Code.NOT_REVIEWABLE)
        if query.reason is not None and query.reason >= len(decision.reasons):
            raise refused(Code.INVALID_PARAMETER, param="reason")
        await self._refuse_what_is_never_shown(decision)
        area, name = _place(self._gateway, decision)
        data = await stored(self._gateway, area, name)
        if data is None:
            raise refused(Code.MEDIA_GONE)
        pictures = await shown_of(self._gateway, decision, data, named_frame(decision, query.reason))
        shown = await asyncio.to_thread(_rendered, pictures, query.rendition)
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
        """Whether a person may say this of the decision as it stands."""
        standing = (await self._gateway.reviews.latest(decision.tenant, (decision.id,))).get(decision.id)
        appealed = await self._gateway.appeals.find(decision.tenant, decision=decision.id, is_open=True, limit=1)
        return may_say(
            verdict,
            decision.verdict,
            standing=None if standing is None else standing.verdict,
            is_held=await self._is_held(decision),
            is_appealed=bool(appealed),
        )

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


def subject_of(key: Key) -> str:
    """The pseudonym that a key is bound to. Raises ApiError where there is none."""
    if not key.subject:
        raise refused(Code.SUBJECT_REQUIRED)
    return key.subject


def _place(gateway: Gateway, decision: Decision) -> tuple[MediaReader, str]:
    """Where the bytes of a decision lie, if they are kept."""
    if decision.transform is None:
        return gateway.quarantine, object_name(decision.tenant, decision.id, decision.media.sha256)
    area = gateway.quarantine if decision.stage is Stage.OUTPUT else gateway.intake
    return area, object_name(decision.tenant, decision.transform, decision.media.sha256)


def _rendered(pictures: Sequence[Pixels], rendition: str) -> bytes:
    from deployments.http.renditions import Rendition, render  # noqa: PLC0415  # Pillow, which only reviewers need

    return render(pictures, Rendition(rendition))


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
        body={"required": True, "content": {"application/json": {"schema": inlined(schema_of(ReviewIn))}}},
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
