"""`/docs`: the OpenAPI page for people, without anything from elsewhere.

Swagger UI's own files come from the `fastapi-offline` wheel, of which nothing but these files is used: FastAPI's page loads
them from a public server, which shows nothing on a machine without one and hands that server the page on which
people paste keys. The policy below makes browsers refuse any other source.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>facegate: HTTP</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<noscript>The description of the API as JSON: <a href="openapi.json">openapi.json</a></noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START: Final = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
"""
"""A file of its own, so that no script stands in the page; without the badge that would show the page to a validator elsewhere."""

_HEADERS: Final = {
    # Swagger UI sets styles on its elements and draws its icons from data URLs.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
_FILES: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def add_docs(app: FastAPI) -> None:
    """Add the page and its files; they are not part of the API that the page describes."""
    folder = _assets()
    _add(app, "/docs", lambda: Response(PAGE, media_type="text/html", headers=_HEADERS))
    _add(app, "/docs/start.js", lambda: Response(START, media_type="text/javascript"))
    for name, kind in _FILES.items():
        _add(app, f"/docs/{name}", _file(folder / name, kind))


def _file(path: Path, kind: str) -> Callable[[], Response]:
    return lambda: FileResponse(path, media_type=kind)


def _add(app: FastAPI, path: str, make: Callable[[], Response]) -> None:
    async def endpoint(_: Request) -> Response:
        return make()

    handler: Callable[[Request], Awaitable[Response]] = endpoint
    app.add_route(path, handler, methods=["GET"], include_in_schema=False)


def _assets() -> Path:
    """Where the wheel was installed; found without running anything of it."""
    found = find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("fastapi-offline is not installed; it carries the files of /docs")
    return Path(found.origin).parent / "static"
