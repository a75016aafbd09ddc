"""The HTTP service as one ASGI application over a `Gateway`. Imports nothing of Ray; runs under any ASGI server."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.appeal_routes import add_appeals
from deployments.http.audit_routes import add_audit
from deployments.http.auth import Door
from deployments.http.docs_page import add_docs
from deployments.http.front import Front
from deployments.http.gateway import Gateway
from deployments.http.lifetime_routes import add_lifetimes
from deployments.http.limits import Budget
from deployments.http.openai_routes import add_moderations
from deployments.http.operation import add_operation
from deployments.http.policy_routes import add_policies
from deployments.http.record_routes import add_record
from deployments.http.rekognition_routes import add_rekognition
from deployments.http.report_routes import add_reports
from deployments.http.review_routes import add_reviews
from deployments.http.routing import error_components
from deployments.http.screening_routes import add_screenings
from deployments.http.screenings import Screenings
from deployments.http.source_routes import add_sources
from deployments.http.transform_routes import add_transforms


def create_api(gateway: Gateway) -> FastAPI:
    """The application. `app.state.screenings.drain()` waits for screenings that outlived their requests."""
    app = FastAPI(
        title="facegate",
        version=version("facegate"),
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    screenings = Screenings(gateway)
    door = Door(gateway)
    app.state.screenings = screenings
    app.add_middleware(Front, gateway=gateway, budget=Budget(gateway.bounds.in_memory))
    app.add_exception_handler(HTTPException, _to_front)
    add_screenings(app, door, gateway, screenings)
    add_moderations(app, door, gateway, screenings)
    add_rekognition(app, door, gateway, screenings)
    add_transforms(app, door, gateway)
    add_sources(app, door, gateway, screenings)
    add_record(app, door, gateway)
    add_audit(app, door, gateway)
    add_reports(app, door, gateway)
    add_reviews(app, door, gateway)
    add_appeals(app, door, gateway)
    add_lifetimes(app, door, gateway)
    add_policies(app, door, gateway)
    add_operation(app, gateway)
    add_docs(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _to_front(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Unknown routes and methods are answered where everything else is."""
    raise error


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        page = get_openapi(
            title=app.title,
            version=app.version,
            routes=app.routes,
            description="Moderation of images and gated face swaps: decisions that explain themselves, committed before they are told.",
        )
        components = page.setdefault("components", {})
        components.setdefault("schemas", {}).update(error_components())
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "`fg_<key id>_<secret>_<checksum>`"},
            "sigv4": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "AWS Signature Version 4"},
        }
        app.openapi_schema = page
    return app.openapi_schema
