"""`/v1/audit`: the log as outsiders check it; checkpoints, proofs, and all of it as a file. See `docs/log-format.md`.

Leaf hashes are everybody's, so that every tenant can verify the whole tree. An entry's bytes are its tenant's; an export for a key with `audit.all`
has those of all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import ApiError, Code, problem, refused
from deployments.http.gateway import MB, Gateway
from deployments.http.record_routes import READ, named_decision
from deployments.http.routing import Doc, add_protected, query_of
from deployments.http.schemas import DECISION_ID, SHA256, Document, Moment, NoQuery
from deployments.http.streaming import EndingStream
from deployments.http.wire import json_response
from deployments.ids import from_wire
from moderation.access import Key, Scope
from moderation.audit import rfc3339
from moderation.errors import Overloaded
from moderation.export import CONSISTENCY_FORMAT, PROOF_FORMAT

NDJSON: Final = "application/x-ndjson"
_LARGEST: Final = 2**53
_AGAIN_S: Final = 1
"""When to ask again for what is not sealed yet: the log is sealed every second."""

Leaf = Annotated[int, Field(ge=0, lt=_LARGEST)]
Size = Annotated[int, Field(ge=1, lt=_LARGEST)]
Hash = Annotated[str, Field(pattern=SHA256)]
Origin = Annotated[
    str | None, Field(min_length=1, max_length=220, description="A log that came before this one; by default the one in force.")
]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    origin: Origin = None


class LogQuery(_Query):
    """Which log."""


class ConsistencyQuery(_Query):
    """Between two sizes of the log."""

    first: Size
    second: Size


class ExportQuery(_Query):
    """How much of the log."""

    since: Leaf | Moment | None = Field(None, alias="from", description="The first leaf, or the moment from which on it was sealed.")
    until: Leaf | Moment | None = Field(
        None,
        alias="to",
        description="The leaf before which the export may end, at the next checkpoint; or the moment before which it was sealed.",
    )


class CheckpointView(Document):
    """The newest checkpoint."""

    object: Literal["checkpoint"]
    origin: str
    size: int
    root: Hash
    checkpoint: str = Field(description="The signed note (C2SP tlog-checkpoint).")
    sealed_at: str
    keys: list[str] = Field(description="The keys that the log was signed with, the newest last. Get yours by a way that you trust.")


class ProofView(Document):
    """That an entry is in the log."""

    format: Literal["facegate-log-proof/1"]
    object: Literal["proof"]
    id: str = Field(pattern=DECISION_ID)
    index: int
    size: int
    leaf: Hash
    entry: str | None = Field(description="What was hashed, as UTF-8; null where it is no text any more.")
    hashes: list[Hash]
    checkpoint: str


class ConsistencyView(Document):
    """That a tree goes on from another."""

    format: Literal["facegate-log-consistency/1"]
    object: Literal["consistency"]
    origin: str
    first: int
    second: int
    hashes: list[Hash]


class AuditRoutes:
    """Reads of the log."""

    def __init__(self, gateway: Gateway, door: Door) -> None:
        self._gateway = gateway
        self._door = door
        self._exports = 0

    async def checkpoint(self, request: Request, key: Key) -> Response:  # noqa: ARG002  # every reader gets the same
        """The newest checkpoint of the log, and the keys that it was signed with. Keep it: it binds the log to what it says now."""
        query = query_of(request, LogQuery)
        seal = await self._gateway.seals.latest(origin=query.origin)
        if seal is None:
            raise _not_sealed() if query.origin is None else refused(Code.NOT_FOUND)
        return json_response(
            {
                "object": "checkpoint",
                "origin": seal.checkpoint.origin,
                "size": seal.checkpoint.size,
                "root": seal.checkpoint.root.hex(),
                "checkpoint": seal.note,
                "sealed_at": rfc3339(seal.sealed_at),
                "keys": [one.text for one in await self._gateway.seals.keys()],
            }
        )

    async def proof(self, request: Request, key: Key) -> Response:
        """That the entry of a decision is in the log, under its newest checkpoint."""
        query_of(request, NoQuery)
        text = request.path_params["id"]
        id = from_wire("dec", text)
        if id is None:
            raise refused(Code.NOT_FOUND)
        proof = await self._gateway.seals.inclusion(_reader(key), id)
        if proof is None:
            await named_decision(self._gateway, key, text)
            raise _not_sealed()
        return json_response(
            {
                "format": PROOF_FORMAT,
                "object": "proof",
                "id": text,
                "index": proof.index,
                "size": proof.seal.checkpoint.size,
                "leaf": proof.leaf.hex(),
                "entry": _text(await self._gateway.exports.entry(_reader(key), id)),
                "hashes": [one.hex() for one in proof.hashes],
                "checkpoint": proof.seal.note,
            }
        )

    async def consistency(self, request: Request, key: Key) -> Response:  # noqa: ARG002  # every reader gets the same
        """That the log of `second` leaves goes on from that of `first`."""
        query = query_of(request, ConsistencyQuery)
        if query.first > query.second:
            raise refused(Code.INVALID_PARAMETER, param="second")
        proof = await self._gateway.seals.consistency(query.first, query.second, origin=query.origin)
        if proof is None:
            raise await self._beyond(query.origin)
        return json_response(
            {
                "format": CONSISTENCY_FORMAT,
                "object": "consistency",
                "origin": proof.origin,
                "first": proof.first,
                "second": proof.second,
                "hashes": [one.hex() for one in proof.hashes],
            }
        )

    async def export(self, request: Request, key: Key) -> Response:
        """The log as lines (NDJSON), from a leaf or a moment on up to a checkpoint; entries of others by their hash only."""
        query = query_of(request, ExportQuery)
        span = await self._gateway.exports.span(first=query.since, last=query.until, origin=query.origin)
        if span is None:
            raise await self._beyond(query.origin)
        if self._exports >= self._gateway.bounds.exports:
            raise Overloaded("exports")
        self._exports += 1
        pieces = self._pieces(request, self._gateway.exports.lines(_reader(key), span))
        headers = {"content-disposition": f'attachment; filename="log-{span.start}-{span.size}.ndjson"'}
        return EndingStream(pieces, self._ended, media_type=NDJSON, headers=headers)

    async def _beyond(self, origin: str | None) -> ApiError:
        """What is said where a log does not reach so far, or is none of ours."""
        is_ours = origin is None or await self._gateway.seals.latest(origin=origin) is not None
        return _not_sealed() if is_ours else refused(Code.NOT_FOUND)

    async def _pieces(self, request: Request, lines: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        """The export cut into messages of a megabyte at most; it breaks off when the key is revoked."""
        async with aclosing(lines):
            async for piece in lines:
                await self._door.bearer(request, READ)
                for at in range(0, len(piece), MB):
                    yield piece[at : at + MB]

    def _ended(self) -> None:
        self._exports -= 1


def _reader(key: Key) -> UUID | None:
    """Whose entries this key may read: its tenant's, or (None) those of all."""
    return None if Scope.AUDIT_ALL in key.scopes else key.tenant


def _not_sealed() -> ApiError:
    return ApiError(replace(problem(Code.NOT_SEALED_YET), headers=(("retry-after", str(_AGAIN_S)),)))


def _text(entry: bytes | None) -> str | None:
    try:
        return None if entry is None else entry.decode()
    except UnicodeDecodeError:
        return None


def add_audit(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = AuditRoutes(gateway, door)
    newest = Doc(summary="The newest checkpoint", answers={200: CheckpointView}, errors=(404, 409, 422), query=LogQuery, tag="record")
    proof = Doc(
        summary="That a decision is in the log",
        answers={200: ProofView},
        errors=(404, 409, 422),
        query=NoQuery,
        path={"id": DECISION_ID},
        tag="record",
    )
    consistency = Doc(
        summary="That the log was only added to",
        answers={200: ConsistencyView},
        errors=(404, 409, 422),
        query=ConsistencyQuery,
        tag="record",
    )
    export = Doc(summary="The log as a file", answers={200: None}, errors=(404, 409, 422), query=ExportQuery, tag="record")
    add_protected(app, door, "GET", "/v1/audit/checkpoint", routes.checkpoint, scopes=READ, doc=newest)
    add_protected(app, door, "GET", "/v1/decisions/{id}/proof", routes.proof, scopes=READ, doc=proof)
    add_protected(app, door, "GET", "/v1/audit/consistency", routes.consistency, scopes=READ, doc=consistency)
    add_protected(app, door, "GET", "/v1/audit/export", routes.export, scopes=READ, doc=export)
