"""How a route comes into being: who may call it, what its parameters are, and what the OpenAPI page says of it.

A route is added with its scopes or as public; there is no third way, so a forgotten check cannot happen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import Code, refused
from deployments.http.schemas import ErrorView
from moderation.access import Key, Scope
from moderation.canonical import Json, canonical

Handler: TypeAlias = Callable[[Request, Key], Awaitable[Response]]
Public: TypeAlias = Callable[[Request], Awaitable[Response]]
_Q = TypeVar("_Q", bound=BaseModel)

MAX_IDEMPOTENCY_KEY: Final = 255
IDEMPOTENCY_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY, "pattern": "^[!-~]+$"},
}
_COMPONENTS: Final = "#/components/schemas/{model}"
_WORDS: Final = {
    200: "Done.",
    201: "Made.",
    202: "Accepted; the result is still to come.",
    204: "Gone.",
    206: "A part of it.",
    304: "It is what you have.",
    400: "The request is malformed.",
    401: "No valid key.",
    403: "The key may not do this.",
    404: "Nothing of this name.",
    405: "No such method.",
    408: "The body came too slowly.",
    409: "Not in this state, or the first request with this Idempotency-Key is still in progress.",
    410: "It was here and is no longer.",
    413: "Too large.",
    415: "Not a type that is taken.",
    416: "No such part.",
    422: "Understood and refused.",
    503: "Trouble of the service's own; nothing was allowed. Try again after `Retry-After`.",
}
# By name and not as a model: FastAPI would make a validator of its own for each of some 250 answers, most of the time that the application takes to begin.
_ERROR: Final = {"application/json": {"schema": {"$ref": _COMPONENTS.format(model=ErrorView.__name__)}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Doc:
    """What the OpenAPI page says of a route beyond its handler's docstring."""

    summary: str
    answers: Mapping[int, Any] = field(default_factory=dict)
    """By status a schema, a union of schemas, or None for an answer that is not JSON."""
    errors: Sequence[int] = ()
    query: type[BaseModel] | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    """Path parameters and their patterns."""
    headers: Sequence[Mapping[str, Any]] = ()
    body: Mapping[str, Any] | None = None
    security: str = "key"
    tag: str = "moderation"


def add_protected(app: FastAPI, door: Door, method: str, path: str, handler: Handler, *, scopes: frozenset[Scope], doc: Doc) -> None:
    """A route for bearers of a key with one of `scopes`."""

    async def endpoint(request: Request) -> Response:
        return await handler(request, await door.bearer(request, scopes))

    _add(app, method, path, endpoint, handler.__doc__, doc, scopes)


def add_self_guarded(app: FastAPI, method: str, path: str, handler: Public, *, scopes: frozenset[Scope], doc: Doc) -> None:
    """A route whose handler checks who asks by itself, since it needs the body for that."""
    _add(app, method, path, handler, handler.__doc__, doc, scopes)


def add_public(app: FastAPI, method: str, path: str, handler: Public, *, doc: Doc) -> None:
    """A route for everybody; tells nothing about tenants."""
    _add(app, method, path, handler, handler.__doc__, doc, None)


def parameters_of(request: Request) -> dict[str, str]:
    """The query parameters as texts. Raises ApiError on repeated ones and on texts that the record cannot hold."""
    given = request.query_params
    if len(given) != len(given.multi_items()):
        raise refused(Code.INVALID_PARAMETER, message="A parameter is given twice.")
    for name, value in given.items():
        if "\0" in value:  # no text of the record has one, and Postgres takes none
            raise refused(Code.INVALID_PARAMETER, param=name)
    return dict(given)


def query_of(request: Request, model: type[_Q]) -> _Q:
    """The query parameters. Raises ApiError on unknown, repeated and impossible ones: a misspelt filter must not widen a list."""
    given = parameters_of(request)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        where = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
        raise refused(Code.INVALID_PARAMETER, param=str(where[0]) if where else None) from None


def idempotency_key(request: Request) -> str | None:
    """The checked header, None where there is none."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    key = given[0]
    if len(given) > 1 or not 0 < len(key) <= MAX_IDEMPOTENCY_KEY or not all("!" <= letter <= "~" for letter in key):
        raise refused(Code.BAD_REQUEST, param="Idempotency-Key", message="Idempotency-Key is 1 to 255 visible ASCII characters.")
    return key


def fingerprint(request: Request, **facts: Json) -> str:
    """What makes two requests with one Idempotency-Key the same one: method, path and these facts of what was asked."""
    return hashlib.sha256(canonical({"method": request.method, "path": request.url.path, **facts})).hexdigest()


def _add(app: FastAPI, method: str, path: str, endpoint: Public, text: str | None, doc: Doc, scopes: frozenset[Scope] | None) -> None:
    errors = sorted({*doc.errors, *(() if scopes is None else (401, 403, 503))})
    responses: dict[int | str, dict[str, Any]] = {status: _answer(status, model) for status, model in doc.answers.items()}
    if doc.security == "key":
        responses |= {status: {"content": _ERROR, "description": _WORDS[status]} for status in errors if status not in responses}
    extra: dict[str, Any] = {"parameters": _parameters(doc)}
    if doc.body is not None:
        extra["requestBody"] = doc.body
    if scopes is not None:
        extra |= {"security": [{doc.security: []}], "x-scopes": sorted(scopes)}
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_class=Response,
        response_model=None,
        status_code=min(doc.answers, default=200),
        summary=doc.summary,
        description=" ".join((text or "").split()),
        operation_id=f"{method.lower()} {path}".replace("/", "_").replace("{", "").replace("}", "").replace(" ", ""),
        responses=responses,
        tags=[doc.tag],
        openapi_extra=extra,
    )


def _answer(status: int, model: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _WORDS.get(status, "")}
    return described if model is None else {**described, "model": model}


def _parameters(doc: Doc) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}
        for name, pattern in doc.path.items()
    ]
    if doc.query is not None:
        schema = schema_of(doc.query)
        for name, about in schema.get("properties", {}).items():
            found.append({"name": name, "in": "query", "required": False, "schema": inlined(about, schema.get("$defs"))})
    return [*found, *doc.headers]


@cache
def schema_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """Its JSON schema, which is made once: not to be written to."""
    return model.model_json_schema()


def error_components() -> dict[str, Any]:
    """The schemas that the answers of all routes name."""
    schema = ErrorView.model_json_schema(ref_template=_COMPONENTS)
    return {**schema.pop("$defs", {}), ErrorView.__name__: schema}


def inlined(about: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """A schema without references into definitions that the page does not have; by default they are its own."""
    if isinstance(about, list):
        return [inlined(item, definitions) for item in about]
    if not isinstance(about, dict):
        return about
    known = about.get("$defs", {}) if definitions is None else definitions
    if "$ref" in about:
        return inlined(known[about["$ref"].rpartition("/")[2]], known)
    return {key: inlined(value, known) for key, value in about.items() if key != "$defs" and not (key == "default" and value is None)}
