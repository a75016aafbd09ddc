"""`/v1/policies`: what is in force, what was, and bringing another version into force."""

from __future__ import annotations

import asyncio
import re
from typing import Final
from uuid import UUID

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.documents import listed
from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, fingerprint, idempotency_key, query_of
from deployments.http.schemas import NoQuery, PolicyList, PolicyView, VersionPage
from deployments.http.uploads import read_body
from deployments.http.wire import json_response
from deployments.policy_file import read_policy
from moderation.access import Key, Scope
from moderation.media import sha256_of
from moderation.policy import Policy, check_coverage
from moderation.ports import Begun

READ: Final = frozenset({Scope.ADMIN, Scope.AUDIT_READ, Scope.AUDIT_ALL})
ADMIN: Final = frozenset({Scope.ADMIN})
NAME: Final = r"^[a-z][a-z0-9_-]{0,63}$"
_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml", "application/json")
_LOW: Final = 32
_MOST_DIGITS: Final = 9


class PolicyRoutes:
    """Policies of the key's tenant."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def in_force(self, request: Request, key: Key) -> Response:
        """The policies by name, each in the version in force."""
        query_of(request, NoQuery)
        found = await self._gateway.policies.list(key.tenant)
        return json_response(listed([policy_document(policy) for policy in found], None))

    async def get(self, request: Request, key: Key) -> Response:
        """The version in force."""
        query_of(request, NoQuery)
        return json_response(policy_document(await self._latest(key, _name(request))))

    async def versions(self, request: Request, key: Key) -> Response:
        """The versions of a policy, newest first."""
        page = query_of(request, VersionPage)
        name = _name(request)
        newest = (await self._latest(key, name)).version
        first = newest if page.cursor is None else min(newest, page.cursor - 1)
        found = await self._gateway.policies.versions(key.tenant, name, newest=first, limit=page.limit)
        following = str(found[-1].version) if found and found[-1].version > 1 else None
        return json_response(listed([policy_document(policy) for policy in found], following))

    async def version(self, request: Request, key: Key) -> Response:
        """One version."""
        query_of(request, NoQuery)
        name, number = _name(request), request.path_params["version"]
        is_number = number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS and number[0] != "0"
        policy = await self._gateway.policies.version(key.tenant, name, int(number)) if is_number else None
        if policy is None:
            raise refused(Code.NOT_FOUND)
        return json_response(policy_document(policy))

    async def publish(self, request: Request, key: Key) -> Response:
        """Bring a policy file (YAML or JSON) into force as the next version of its name. 200 if just that is in force already.

        Refused if it is empty, contradicts itself, or leaves open what a configured classifier can say.
        """
        query_of(request, NoQuery)
        idempotent = idempotency_key(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in _TYPES:
            raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
        body = await read_body(request)
        # The largest files take a second to read: others' requests must not wait for that.
        policy = await asyncio.to_thread(read_policy, body)
        check_coverage(policy, [classifier.version for classifier in self._gateway.classifiers])
        before = await self._gateway.policies.latest(key.tenant, policy.name)
        known = (
            await self._claim(request, key, idempotent, body, policy, 1 if before is None else before.version + 1) if idempotent else None
        )
        if known is not None:
            return json_response(policy_document(known), 201, {"idempotent-replayed": "true"})
        published = await self._gateway.policies.publish(key.tenant, policy.name, policy, key.id)
        is_new = before is None or published.version != before.version
        return json_response(policy_document(published), 201 if is_new else 200)

    async def _claim(self, request: Request, key: Key, idempotent: str, body: bytes, policy: Policy, version: int) -> Policy | None:
        """None if this request is to publish; the policy that an earlier one with the same key has published.

        A policy has no id; the claim's id carries the version that the publication will have.
        """
        own = fingerprint(request, media=sha256_of(body))
        mine = numbered(self._gateway.new_id(), version)
        begun, id = await self._gateway.idempotency.begin(key.tenant, idempotent, own, mine)
        if begun is Begun.MISMATCH:
            raise refused(Code.IDEMPOTENCY_MISMATCH)
        if id == mine:
            return None
        known = await self._gateway.policies.version(key.tenant, policy.name, number_in(id))
        if known is not None and known.digest == policy.digest:
            return known
        if begun is Begun.IN_PROGRESS:
            raise refused(Code.IN_PROGRESS)
        return None

    async def _latest(self, key: Key, name: str) -> Policy:
        policy = await self._gateway.policies.latest(key.tenant, name)
        if policy is None:
            raise refused(Code.NOT_FOUND)
        return policy


def _name(request: Request) -> str:
    """The name in the path. Raises ApiError where no policy can have it."""
    name = str(request.path_params["name"])
    if re.fullmatch(NAME, name) is None:
        raise refused(Code.NOT_FOUND)
    return name


def policy_document(policy: Policy) -> dict[str, object]:
    """The policy object: its place, its digest, and the content that the digest is of."""
    return {"object": "policy", "name": policy.name, "version": policy.version, "digest": policy.digest, "content": policy.content()}


def numbered(id: UUID, number: int) -> UUID:
    """`id` with its last 32 random bits replaced by `number`."""
    return UUID(int=(id.int >> _LOW << _LOW) | number)


def number_in(id: UUID) -> int:
    """The inverse of `numbered`."""
    return id.int & ((1 << _LOW) - 1)


def add_policies(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes = PolicyRoutes(gateway)
    name = {"name": NAME}
    body = {"required": True, "content": {kind: {"schema": {"type": "object" if "json" in kind else "string"}} for kind in _TYPES}}
    publish = Doc(
        summary="Bring a policy into force",
        answers={200: PolicyView, 201: PolicyView},
        errors=(400, 408, 409, 413, 415, 422),
        query=NoQuery,
        headers=(IDEMPOTENCY_PARAMETER,),
        body=body,
        tag="policies",
    )
    add_protected(
        app,
        door,
        "GET",
        "/v1/policies",
        routes.in_force,
        scopes=READ,
        doc=Doc(summary="Policies in force", answers={200: PolicyList}, errors=(422,), query=NoQuery, tag="policies"),
    )
    add_protected(app, door, "POST", "/v1/policies", routes.publish, scopes=ADMIN, doc=publish)
    for path, handler, summary, query, more, model in (
        ("/v1/policies/{name}", routes.get, "One policy", NoQuery, {}, PolicyView),
        ("/v1/policies/{name}/versions", routes.versions, "Versions of a policy", VersionPage, {}, PolicyList),
        ("/v1/policies/{name}/versions/{version}", routes.version, "One version", NoQuery, {"version": "^[1-9][0-9]{0,8}$"}, PolicyView),
    ):
        doc = Doc(summary=summary, answers={200: model}, errors=(404, 422), query=query, path=name | more, tag="policies")
        add_protected(app, door, "GET", path, handler, scopes=READ, doc=doc)
