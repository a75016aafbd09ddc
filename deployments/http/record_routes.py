"""`/v1/decisions` and `/v1/media/{sha256}/history`: the record, within one tenant."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.documents import decision_document, listed, page_of
from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from deployments.http.routing import Doc, add_protected, query_of
from deployments.http.schemas import DECISION_ID, SHA256, DecisionList, DecisionQuery, DecisionView, NoQuery, Paging
from deployments.http.wire import json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.decision import Decision
from moderation.log import Receipt
from moderation.ports import DecisionFilter
from moderation.transform import Review

READ: Final = frozenset({Scope.AUDIT_READ, Scope.AUDIT_ALL})


class RecordRoutes:
    """Reads of decisions."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def find(self, request: Request, key: Key) -> Response:
        """Decisions, newest first."""
        query = query_of(request, DecisionQuery)
        wanted = DecisionFilter(
            stage=query.stage,
            verdict=query.verdict,
            category=query.category,
            policy=query.policy,
            classifier=query.classifier,
            automated=query.automated,
            media_sha256=query.media_sha256,
            reference=query.reference,
            transform=_id("trf", query.transform),
            since=query.since,
            until=query.until,
            before=_id("dec", query.cursor),
            limit=query.limit,
        )
        return await self._list(key, wanted)

    async def get(self, request: Request, key: Key) -> Response:
        """One decision."""
        query_of(request, NoQuery)
        decision = await named_decision(self._gateway, key, request.path_params["id"])
        (standing,) = await _as_they_stand(self._gateway, key, (decision,))
        return json_response(decision_document(*standing))

    async def history(self, request: Request, key: Key) -> Response:
        """All decisions about the same bytes, newest first; empty for bytes that were never seen."""
        query = query_of(request, Paging)
        sha256 = request.path_params["sha256"]
        if not re.fullmatch(SHA256, sha256):
            raise refused(Code.NOT_FOUND)
        return await self._list(key, DecisionFilter(media_sha256=sha256, before=_id("dec", query.cursor), limit=query.limit))

    async def _list(self, key: Key, wanted: DecisionFilter) -> Response:
        found = await self._gateway.reader.find(key.tenant, wanted)
        page, following = page_of(found, wanted.limit, lambda last: to_wire("dec", last.id))
        return await list_as_they_stand(self._gateway, key, page, following)


async def named_decision(gateway: Gateway, key: Key, text: str) -> Decision:
    """The decision of this id on the wire. Raises ApiError where the key's tenant has none."""
    id = from_wire("dec", text)
    decision = None if id is None else await gateway.reader.get(key.tenant, id)
    if decision is None:
        raise refused(Code.NOT_FOUND)
    return decision


async def list_as_they_stand(gateway: Gateway, key: Key, decisions: Sequence[Decision], following: str | None) -> Response:
    """The list of these decision objects. It is put together aside: long animations take a second, and others would wait."""
    standing = await _as_they_stand(gateway, key, decisions)
    return await asyncio.to_thread(lambda: json_response(listed([decision_document(*one) for one in standing], following)))


async def _as_they_stand(
    gateway: Gateway, key: Key, decisions: Sequence[Decision]
) -> Sequence[tuple[Decision, Review | None, Receipt | None]]:
    """Each with what a person has said about it last, and its receipt."""
    if not decisions:
        return []
    reviews = await gateway.reviews.latest(key.tenant, [decision.id for decision in decisions])
    receipts = await gateway.receipts.of(key.tenant, {decision.id: decision.created_at for decision in decisions})
    return [(decision, reviews.get(decision.id), receipts.get(decision.id)) for decision in decisions]


def _id(prefix: str, text: str | None) -> UUID | None:
    return None if text is None else from_wire(prefix, text)


def add_record(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = RecordRoutes(gateway)
    many = Doc(summary="Decisions", answers={200: DecisionList}, errors=(422,), query=DecisionQuery, tag="record")
    one = Doc(summary="One decision", answers={200: DecisionView}, errors=(404, 422), query=NoQuery, path={"id": DECISION_ID}, tag="record")
    media = Doc(
        summary="What was decided about a media",
        answers={200: DecisionList},
        errors=(404, 422),
        query=Paging,
        path={"sha256": SHA256},
        tag="record",
    )
    add_protected(app, door, "GET", "/v1/decisions", routes.find, scopes=READ, doc=many)
    add_protected(app, door, "GET", "/v1/decisions/{id}", routes.get, scopes=READ, doc=one)
    add_protected(app, door, "GET", "/v1/media/{sha256}/history", routes.history, scopes=READ, doc=media)
