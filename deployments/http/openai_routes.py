"""`POST /v1/moderations`, as OpenAI's clients call it."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import ApiError, Code, problem_in, refused
from deployments.http.fetch import UrlFetcher
from deployments.http.front import body_of
from deployments.http.gateway import Gateway
from deployments.http.openai_view import DEFAULT_MODEL, moderation_document
from deployments.http.routing import Doc, add_protected, query_of
from deployments.http.schemas import ModerationView, NoQuery
from deployments.http.screening_routes import SCREEN, new_order
from deployments.http.screenings import Screenings
from deployments.http.uploads import Upload, read_body
from deployments.http.wire import decode_object, json_response
from moderation.access import Key

_MODEL: Final = re.compile(r"[\w.:/@-]{1,128}", re.ASCII)
_DATA_URL: Final = re.compile(
    r"data:(?P<type>[\w.+-]{1,64}/[\w.+-]{1,64})?(;[\w.+-]{1,64}=[\w.+-]{1,64})*;base64,", re.ASCII | re.IGNORECASE
)
_LONGEST_URL: Final = 2048
_PART: Final = {
    "oneOf": [
        {
            "type": "object",
            "required": ["type", "image_url"],
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}},
            },
        },
        {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": {"type": "string"}}},
    ]
}
_SCHEMA: Final = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "array", "items": _PART}]},
        "model": {"type": "string"},
    },
}
_BODY: Final = {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request holds."""

    urls: tuple[str, ...]
    has_text: bool
    model: str


class ModerationRoutes:
    """OpenAI's endpoint."""

    def __init__(self, gateway: Gateway, screenings: Screenings) -> None:
        self._gateway = gateway
        self._screenings = screenings
        self._fetch = gateway.fetch or UrlFetcher(gateway.url_hosts, max_bytes=gateway.bounds.picture)

    async def post(self, request: Request, key: Key) -> Response:
        """Judge one image in OpenAI's wire format. `flagged` is true unless the verdict is `allow`; `facegate` names the decision."""
        query_of(request, NoQuery)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
        self._screenings.admit()
        asked = read_input(await read_body(request))
        upload = await self._picture(asked)
        order = await new_order(self._gateway, request, key, upload, pictures_only=True)
        decision = await self._screenings.complete(upload.data, order, body=body_of(request))
        found = problem_in(decision)
        if found is not None:
            raise ApiError(found)
        return json_response(moderation_document(decision, asked.model))

    async def _picture(self, asked: Asked) -> Upload:
        if len(asked.urls) > 1:
            raise refused(Code.TOO_MANY_IMAGES, param="input")
        if not asked.urls or (asked.has_text and self._gateway.openai_text != "ignore"):
            # Text alone stays refused even where text beside an image is ignored: what nobody judged is not "not flagged".
            raise refused(Code.TEXT_NOT_SUPPORTED, param="input")
        url = asked.urls[0]
        if url[:5].lower() == "data:":
            return picture_of(url)
        if not url.lower().startswith(("http://", "https://")) or len(url) > _LONGEST_URL:
            raise refused(Code.INVALID_IMAGE_URL, param="input")
        return Upload(data=await self._fetch(url), declared_type=None)


def read_input(body: bytes) -> Asked:
    """The images and texts of a request. Raises ApiError."""
    document = decode_object(body)
    if document is None:
        raise refused(Code.INVALID_JSON)
    model = document.get("model")
    if model is not None and (not isinstance(model, str) or not _MODEL.fullmatch(model)):
        raise refused(Code.INVALID_JSON, param="model")
    given = document.get("input")
    parts = [given] if isinstance(given, str) else given
    if not isinstance(parts, list) or not parts:
        raise refused(Code.INVALID_JSON, param="input")
    urls = [_url(part) for part in parts]
    return Asked(urls=tuple(url for url in urls if url is not None), has_text=None in urls, model=model or DEFAULT_MODEL)


def _url(part: Any) -> str | None:
    """The URL of an image part, None for text."""
    match part:
        case str() | {"type": "text", "text": str()}:
            return None
        case {"type": "image_url", "image_url": {"url": str() as url}}:
            return url
        case _:
            raise refused(Code.INVALID_JSON, param="input")


def picture_of(url: str) -> Upload:
    """The bytes of a base64 data URL. Raises ApiError on any other form."""
    match = _DATA_URL.match(url)
    if match is None:
        raise refused(Code.INVALID_IMAGE_URL, param="input")
    try:
        data = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise refused(Code.INVALID_IMAGE_URL, param="input") from None
    declared = match["type"]
    return Upload(data=data, declared_type=declared.lower() if declared else None)


def add_moderations(app: FastAPI, door: Door, gateway: Gateway, screenings: Screenings) -> None:
    """Add the route."""
    routes = ModerationRoutes(gateway, screenings)
    doc = Doc(
        summary="Judge an image as OpenAI's API does",
        answers={200: ModerationView},
        errors=(400, 408, 413, 415, 422),
        query=NoQuery,
        body=_BODY,
    )
    add_protected(app, door, "POST", "/v1/moderations", routes.post, scopes=SCREEN, doc=doc)
