"""Keys at the door. Whatever is wrong with a key, the answer is one and the same."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import structlog
from starlette.requests import Request

from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from moderation.access import SECRET_BYTES, Key, Scope, admit, parse_key
from moderation.adapters.sigv4 import Credential, ReceivedRequest, SigV4Fault, read_credential, verify

_NOBODY: Final = ("", bytes(SECRET_BYTES))
_LOG = structlog.get_logger("facegate.http")


class Door:
    """Who is asking, and may they. Raises ApiError (401, 403), RecordUnavailable."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def bearer(self, request: Request, scopes: Collection[Scope]) -> Key:
        """The live key of `Authorization: Bearer …` that has one of `scopes`."""
        given = request.headers.getlist("authorization")
        kind, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        parsed = parse_key(text.strip()) if kind.lower() == "bearer" else None
        key_id, secret = parsed or _NOBODY
        key = admit(await self._gateway.keys.find(key_id) if parsed else None, secret, self._gateway.clock())
        if key is None:
            raise refused(Code.UNAUTHORIZED)
        return _having(key, scopes)

    async def sigv4(self, request: Request, body: bytes, scopes: Collection[Scope]) -> Key:
        """The live key that signed this request."""
        received = ReceivedRequest(
            method=request.method,
            path=(request.scope.get("raw_path") or request.scope["path"].encode()).decode("latin-1"),
            query=request.scope["query_string"].decode("latin-1"),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]],
            body=body,
        )
        claim = read_credential(received)
        if not isinstance(claim, Credential):
            raise _unsigned(claim)
        found = await self._gateway.keys.find_sigv4(claim.access_key_id)
        now = self._gateway.clock()
        fault = verify(received, claim, found[1] if found else None, now=now)
        if fault is not None or found is None or not found[0].is_live(now):
            raise _unsigned(fault or SigV4Fault.WRONG_SIGNATURE)
        return _having(found[0], scopes)


def _unsigned(fault: SigV4Fault) -> Exception:
    _LOG.info("signature refused", fault=str(fault))
    return refused(Code.UNAUTHORIZED, message="The request is not signed with a valid key.")


def _having(key: Key, scopes: Collection[Scope]) -> Key:
    if key.scopes.isdisjoint(scopes):
        raise refused(Code.FORBIDDEN)
    return key
