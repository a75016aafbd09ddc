"""Requests that make something and say what in a JSON body: reading it, and the id of what it makes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from uuid import UUID

from starlette.requests import Request

from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from deployments.http.routing import fingerprint, idempotency_key
from deployments.http.transform_documents import Asked, read_asked
from deployments.http.uploads import read_body
from moderation.access import Key
from moderation.errors import ModerationError
from moderation.ports import Begun

_A = TypeVar("_A", bound=Asked)
_T = TypeVar("_T")
REPLAYED: Final = {"idempotent-replayed": "true"}


async def asked_of(request: Request, model: type[_A]) -> _A:
    """The body as a closed JSON object. Raises ApiError: `unsupported_media_type`, `invalid_json`, `invalid_parameter`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
    return read_asked(await read_body(request), model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed(Generic[_T]):
    """The id of what is to be made; `known` is what an earlier request with the same Idempotency-Key has made."""

    id: UUID
    known: _T | None = None


@asynccontextmanager
async def claimed(
    gateway: Gateway, request: Request, key: Key, asked: Asked, find: Callable[[UUID, UUID], Awaitable[_T | None]]
) -> AsyncIterator[Claimed[_T]]:
    """An id for what this request makes. What it raises gives the claim back, unless something of this id is committed.

    Raises ApiError: `idempotency_mismatch`, `in_progress`, `bad_request` for what is no Idempotency-Key.
    """
    idempotent = idempotency_key(request)
    claim: Claimed[_T] = Claimed(id=gateway.new_id())
    if idempotent is not None:
        claim = await _claim(gateway, request, key, idempotent, asked, claim.id, find)
    try:
        yield claim
    except Exception:
        if idempotent is not None:
            with contextlib.suppress(ModerationError):  # in trouble, its own lease ends it
                await gateway.idempotency.forget(key.tenant, idempotent, claim.id)
        raise


async def _claim(
    gateway: Gateway,
    request: Request,
    key: Key,
    idempotent: str,
    asked: Asked,
    mine: UUID,
    find: Callable[[UUID, UUID], Awaitable[_T | None]],
) -> Claimed[_T]:
    begun, id = await gateway.idempotency.begin(key.tenant, idempotent, fingerprint(request, options=asked.model_dump()), mine)
    if begun is Begun.MISMATCH:
        raise refused(Code.IDEMPOTENCY_MISMATCH)
    if id == mine:
        return Claimed(id=mine)
    known = await find(key.tenant, id)
    if known is None and begun is Begun.IN_PROGRESS:
        raise refused(Code.IN_PROGRESS)
    return Claimed(id=id, known=known)
