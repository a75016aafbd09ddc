"""Every route x every kind of key, derived from the routes of the application itself: a route without an entry fails."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from deployments.policy_file import write_policy
from moderation.access import Key, Scope, key_text
from moderation.adapters.areas import object_name
from moderation.media import Media, sha256_of
from moderation.people import Hold
from moderation.ports import QueueState
from moderation.transform import Basis, CatalogueSource, ConsentStatement, State
from tests.aws import sign
from tests.builders import NOW, OTHER_TENANT, TENANT, jpeg_bytes, make_decision, make_facts, make_id, make_policy, make_rule
from tests.http_kit import KEY, KEY_ID, SECRET, Service, bearer, error_of, make_key, make_service
from tests.transform_kit import HELD_SCORES, SIGNED, form, worked

DECISION, JOB, HELD = make_id(1), make_id(2), make_id(3)
TRANSFORM, FACE, HOLD = make_id(4), make_id(5), make_id(6)
FORM = form()["files"]
DOCS = {"/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"}
PUBLIC = {"/healthz", "/readyz", "/metrics", "/openapi.json", *DOCS}
REKOGNITION = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "RekognitionService.DetectModerationLabels"}
REKOGNITION_BODY = b'{"Image":{"Bytes":""}}'
POLICY = write_policy(make_policy(make_rule("sexual")))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How a route is called well; the scopes of which one is enough; what another tenant's key with all scopes gets."""

    scopes: set[Scope]
    other: int
    url: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    own: int = 200


SCREEN = {Scope.SCREEN}
SWAP = {Scope.TRANSFORM}
REVIEW = {Scope.REVIEW}
READ = {Scope.AUDIT_READ, Scope.AUDIT_ALL}
SEE = {Scope.AUDIT_READ, Scope.AUDIT_ALL, Scope.ADMIN}
TABLE: dict[tuple[str, str], Entry] = {
    ("POST", "/v1/screenings"): Entry(scopes=SCREEN, request={"files": {"media": ("x", jpeg_bytes())}}, other=200),
    ("GET", "/v1/screenings/{id}"): Entry(scopes=SCREEN, url=f"/v1/screenings/dec_{DECISION.hex}", other=404),
    ("POST", "/v1/moderations"): Entry(
        scopes=SCREEN,
        request={"json": {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}},
        other=200,
    ),
    ("POST", "/"): Entry(scopes=SCREEN, request={"content": REKOGNITION_BODY}, headers=REKOGNITION, other=200),
    ("POST", "/v1/transforms"): Entry(scopes=SWAP, request={"files": FORM}, own=202, other=202),
    ("GET", "/v1/transforms"): Entry(scopes=SWAP, other=200),
    ("GET", "/v1/transforms/{id}"): Entry(scopes=SWAP, url=f"/v1/transforms/trf_{TRANSFORM.hex}", other=404),
    ("POST", "/v1/transforms/{id}/cancel"): Entry(scopes=SWAP, url=f"/v1/transforms/trf_{TRANSFORM.hex}/cancel", own=409, other=404),
    ("GET", "/v1/transforms/{id}/events"): Entry(scopes=SWAP, url=f"/v1/transforms/trf_{TRANSFORM.hex}/events", other=404),
    ("GET", "/v1/transforms/{id}/output"): Entry(scopes=SWAP, url=f"/v1/transforms/trf_{TRANSFORM.hex}/output", other=404),
    ("GET", "/v1/transforms/{id}/stream"): Entry(scopes=SWAP, url=f"/v1/transforms/trf_{TRANSFORM.hex}/stream", own=409, other=404),
    ("GET", "/v1/reviews"): Entry(scopes=REVIEW, other=200),
    ("POST", "/v1/reviews"): Entry(
        scopes=REVIEW,
        request={"json": {"decision_id": f"dec_{HELD.hex}", "verdict": "block", "reason": "seen"}},
        own=201,
        other=404,
    ),
    ("GET", "/v1/reviews/{decision}/media"): Entry(scopes=REVIEW, url=f"/v1/reviews/dec_{HELD.hex}/media", other=404),
    ("POST", "/v1/appeals"): Entry(
        scopes={Scope.SCREEN, Scope.TRANSFORM, Scope.REVIEW, Scope.ADMIN},
        request={"json": {"decision_id": f"dec_{DECISION.hex}", "reason": "seen"}},
        headers={"idempotency-key": "appeal"},  # one is open at a time
        own=201,
        other=404,
    ),
    ("GET", "/v1/appeals"): Entry(scopes=set(Scope), other=200),
    ("POST", "/v1/holds"): Entry(scopes={Scope.ADMIN}, request={"json": {"reference": "x", "reason": "y"}}, own=201, other=201),
    ("GET", "/v1/holds"): Entry(scopes=SEE, other=200),
    ("POST", "/v1/holds/{id}/release"): Entry(
        scopes={Scope.ADMIN}, url=f"/v1/holds/hld_{HOLD.hex}/release", request={"json": {"reason": "over"}}, other=404
    ),
    ("POST", "/v1/erasures"): Entry(scopes={Scope.ADMIN}, request={"json": {"reference": "x"}}, own=201, other=201),
    ("GET", "/v1/erasures"): Entry(scopes=SEE, other=200),
    ("GET", "/v1/sources"): Entry(scopes={Scope.TRANSFORM, Scope.ADMIN}, other=200),
    ("POST", "/v1/sources"): Entry(
        scopes={Scope.ADMIN},
        request={"files": {"media": ("x", jpeg_bytes()), "options": ("o", b'{"consent":{"basis":"self"}}')}},
        own=201,
        other=201,
    ),
    ("GET", "/v1/sources/{id}"): Entry(scopes={Scope.TRANSFORM, Scope.ADMIN}, url=f"/v1/sources/src_{FACE.hex}", other=404),
    ("DELETE", "/v1/sources/{id}"): Entry(scopes={Scope.ADMIN}, url=f"/v1/sources/src_{FACE.hex}", own=204, other=404),
    ("GET", "/v1/reports"): Entry(scopes=READ, other=200),
    ("GET", "/v1/reports/{name}"): Entry(scopes=READ, url="/v1/reports/verdicts", other=200),
    ("POST", "/v1/reports/policy_replay"): Entry(
        scopes=READ,
        request={"content": b"{name: draft, rules: [{category: sexual, block_at: 0.5}]}"},
        headers={"content-type": "application/yaml"},
        other=200,
    ),
    ("GET", "/v1/decisions"): Entry(scopes=READ, other=200),
    ("GET", "/v1/decisions/{id}"): Entry(scopes=READ, url=f"/v1/decisions/dec_{DECISION.hex}", other=404),
    ("GET", "/v1/media/{sha256}/history"): Entry(scopes=READ, url=f"/v1/media/{'ab' * 32}/history", other=200),
    ("GET", "/v1/policies"): Entry(scopes=SEE, other=200),
    ("POST", "/v1/policies"): Entry(
        scopes={Scope.ADMIN}, request={"content": POLICY}, headers={"content-type": "application/yaml"}, own=201, other=201
    ),
    ("GET", "/v1/policies/{name}"): Entry(scopes=SEE, url="/v1/policies/mine", other=404),
    ("GET", "/v1/policies/{name}/versions"): Entry(scopes=SEE, url="/v1/policies/mine/versions", other=404),
    ("GET", "/v1/audit/checkpoint"): Entry(scopes=READ, other=200),
    ("GET", "/v1/decisions/{id}/proof"): Entry(scopes=READ, url=f"/v1/decisions/dec_{DECISION.hex}/proof", other=404),
    ("GET", "/v1/audit/consistency"): Entry(scopes=READ, url="/v1/audit/consistency?first=1&second=1", other=200),
    ("GET", "/v1/audit/export"): Entry(scopes=READ, other=200),
    ("GET", "/v1/policies/{name}/versions/{version}"): Entry(scopes=SEE, url="/v1/policies/mine/versions/1", other=404),
}


def routes() -> Iterator[tuple[str, str]]:
    for route in make_service().app().routes:
        assert isinstance(route, Route)
        if route.path not in PUBLIC:
            yield from ((method, route.path) for method in sorted(route.methods or ()) if method != "HEAD")


ROUTES = list(routes())
EACH_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])


@pytest.fixture
def service() -> Service:
    """One of everything, all of one tenant."""
    service = make_service(changes={"new_id": lambda: TRANSFORM})
    worked(service, State.RELEASED)
    service.changes = {}
    held = make_decision(HELD_SCORES, id=HELD, media=Media(sha256=sha256_of(SIGNED), size=len(SIGNED), facts=make_facts()))
    service.log.decisions[:0] = [make_decision(id=DECISION), held]
    service.areas.files["quarantine", object_name(TENANT, HELD, held.media.sha256)] = SIGNED
    service.sources.entries[FACE] = CatalogueSource(
        id=FACE,
        tenant=TENANT,
        sha256=sha256_of(SIGNED),
        size=len(SIGNED),
        type="image/jpeg",
        decision=DECISION,
        consent=ConsentStatement(basis=Basis.SELF),
        actor=KEY_ID,
        created_at=NOW,
    )
    service.holds.holds[HOLD] = Hold(id=HOLD, tenant=TENANT, reason="case 7", actor=KEY_ID, at=NOW, reference="order-1")
    service.policies.shelf[TENANT, "mine"] = [make_policy(name="mine")]
    service.queue.states[JOB] = QueueState.QUEUED
    service.sealed.entries, service.sealed.sealed = [(TENANT, DECISION, b'{"kind":"decision"}')], 1
    return service


KNOWN = 5
"""Decisions that are there: two stand-alone ones and those of a transform."""


Who = Key | str | None
"""Asks: a key, which is made known first, or the text of one, or nobody."""


def calls(service: Service, *asked: tuple[tuple[str, str], Who]) -> list[httpx.Response]:
    """Call routes well, one after the other; on the Rekognition route whoever asks signs."""

    async def visit(client: httpx.AsyncClient, _: FastAPI) -> list[httpx.Response]:
        return [await client.request(**_request(service, route, who)) for route, who in asked]

    return service.run(visit)


def _request(service: Service, route: tuple[str, str], who: Who) -> dict[str, Any]:
    entry, (method, path) = TABLE[route], route
    headers = dict(entry.headers)
    if isinstance(who, Key):
        service.keys.keys[who.id] = who
        service.keys.sigv4[who.id] = SECRET.hex()
    if path == "/":
        id, secret = (who.id, SECRET.hex()) if isinstance(who, Key) else ("", "")
        if isinstance(who, str):
            id, secret = (who.split("_")[1], who) if who.count("_") == 3 else ("z" * 20, who)
        headers |= sign(method, "http://test/", headers, REKOGNITION_BODY, id, secret, NOW) if id else {}
    elif who is not None:
        headers |= bearer(key_text(who.id, SECRET) if isinstance(who, Key) else who)
    return {"method": method, "url": entry.url or path, "headers": headers, **entry.request}


def call(service: Service, route: tuple[str, str], who: Who = None) -> httpx.Response:
    [answer] = calls(service, (route, who))
    return answer


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """(status, code); on the Rekognition route (401 or 403, its class), told apart by the words that belong to them."""
    document = answer.json()
    if "__type" in document:
        assert (answer.status_code, document["__type"]) == (400, "AccessDeniedException")
        return (401, "unauthorized") if "signed" in document["message"] else (403, "forbidden")
    return answer.status_code, error_of(answer)["code"]


def body_without_id(answer: httpx.Response) -> str:
    return answer.text.replace(answer.headers["x-request-id"], "")


def test_every_route_has_an_entry_and_no_entry_is_stale() -> None:
    assert set(ROUTES) == set(TABLE)


def test_what_needs_no_key_is_a_closed_list() -> None:
    app = make_service().app()
    assert {route.path for route in app.routes if isinstance(route, Route)} >= PUBLIC
    open_routes = {r.path for r in app.routes if isinstance(r, APIRoute) and not (r.openapi_extra or {}).get("security")}
    assert open_routes == {"/healthz", "/readyz", "/metrics"}


@EACH_ROUTE
def test_a_good_key_gets_in_with_any_one_of_the_scopes(service: Service, route: tuple[str, str]) -> None:
    for scope in TABLE[route].scopes:
        answer = call(service, route, make_key(scopes=frozenset({scope})))
        assert answer.status_code == TABLE[route].own
        service.policies.shelf.pop((make_key().tenant, "default"), None) if route == ("POST", "/v1/policies") else None


@EACH_ROUTE
def test_no_key_is_401(service: Service, route: tuple[str, str]) -> None:
    assert refusal(call(service, route)) == (401, "unauthorized")


@EACH_ROUTE
def test_whatever_is_wrong_with_a_key_the_answer_is_one_and_the_same(service: Service, route: tuple[str, str]) -> None:
    wrong: list[Who] = [
        None,
        "nonsense",
        KEY[:-1] + "x",
        key_text("u" * 20, SECRET),
        key_text(KEY_ID, bytes(32)),
        make_key(expires_at=NOW),
        make_key(revoked_at=NOW - timedelta(days=1)),
        make_key(revoked_at=NOW + timedelta(days=1)),
    ]
    answers = calls(service, *[(route, who) for who in wrong])
    assert {refusal(answer) for answer in answers} == {(401, "unauthorized")}
    assert len({body_without_id(answer) for answer in answers}) == 1
    assert len(service.log.decisions) == KNOWN


@EACH_ROUTE
def test_a_key_without_the_scope_is_403(service: Service, route: tuple[str, str]) -> None:
    others = [make_key(scopes=frozenset({scope})) for scope in Scope if scope not in TABLE[route].scopes]
    answers = calls(service, *[(route, who) for who in (make_key(scopes=frozenset()), *others)])
    assert [refusal(answer) for answer in answers] == [(403, "forbidden")] * len(answers)
    assert len(service.log.decisions) == KNOWN


def belongings(service: Service) -> Any:
    """What the first tenant has, for another to change."""
    decisions = [decision for decision in service.log.decisions if decision.tenant == TENANT]
    media = {name for _, name in service.areas.files if name.startswith(TENANT.hex)}
    return decisions, media, service.sources.entries[FACE], service.holds.holds[HOLD], service.policies.shelf[TENANT, "mine"]


@EACH_ROUTE
def test_another_tenant_sees_nothing_of_it(service: Service, route: tuple[str, str]) -> None:
    before = belongings(service)
    answer = call(service, route, make_key("o" * 20, tenant=OTHER_TENANT, scopes=frozenset(Scope) - {Scope.AUDIT_ALL}))
    assert answer.status_code == TABLE[route].other
    if answer.status_code == 404:
        assert error_of(answer)["code"] == "not_found"
    elif route[0] == "GET" and not route[1].startswith(("/v1/audit/", "/v1/reports")):  # leaf hashes and the catalogue are everybody's
        names = [item.get("name", "decision") for item in answer.json()["data"]]
        assert names == (["default"] if route[1] == "/v1/policies" else [])
    assert DECISION.hex not in answer.text
    assert belongings(service) == before


@EACH_ROUTE
def test_a_key_in_the_url_is_no_key(service: Service, route: tuple[str, str]) -> None:
    method, path = route
    url = f"{TABLE[route].url or path}?key={KEY}&access_token={KEY}&authorization=Bearer%20{KEY}"
    answer = service.request(method, url, headers=dict(TABLE[route].headers), **TABLE[route].request)
    assert refusal(answer) == (401, "unauthorized")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY} x",
        f"Bearer {KEY}{KEY}",
        f"Bearer {KEY.upper()}",
        "Bearer \xff",
        "AWS4-HMAC-SHA256 x",
    ],
)
def test_another_form_of_authorization_is_401(service: Service, value: str) -> None:
    answer = service.request("GET", "/v1/decisions", headers={"authorization": value.encode("latin-1")})
    assert (answer.status_code, error_of(answer)["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_two_authorizations_are_none(service: Service) -> None:
    headers = [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")]
    assert service.request("GET", "/v1/decisions", headers=headers).status_code == 401


def test_the_word_bearer_may_be_written_as_one_likes(service: Service) -> None:
    assert service.request("GET", "/v1/decisions", headers={"authorization": f"bearer {KEY}"}).status_code == 200


def test_a_key_expires_at_its_moment(service: Service) -> None:
    service.keys.keys[KEY_ID] = make_key(expires_at=NOW + timedelta(seconds=1))
    assert service.request("GET", "/v1/decisions").status_code == 200
    service.clock.now = NOW + timedelta(seconds=1)
    assert service.request("GET", "/v1/decisions").status_code == 401


def test_another_tenants_job_is_404(service: Service) -> None:
    answer = service.screen(jpeg_bytes(), url="/v1/screenings?wait=0")
    service.keys.keys["o" * 20] = make_key("o" * 20, tenant=OTHER_TENANT)
    theirs = service.request("GET", answer.headers["location"], headers=bearer(key_text("o" * 20, SECRET)))
    assert theirs.status_code == 404
    assert service.request("GET", answer.headers["location"]).status_code == 200


def test_an_idempotency_key_is_the_tenants_own(service: Service) -> None:
    service.keys.keys["o" * 20] = make_key("o" * 20, tenant=OTHER_TENANT)
    picture = {"files": {"media": ("x", jpeg_bytes())}}
    mine = service.request("POST", "/v1/screenings", headers={**bearer(), "idempotency-key": "k"}, **picture)
    theirs = service.request("POST", "/v1/screenings", headers={**bearer(key_text("o" * 20, SECRET)), "idempotency-key": "k"}, **picture)
    assert theirs.status_code == 200
    assert theirs.json()["id"] != mine.json()["id"]


def test_no_answer_names_a_tenant(service: Service) -> None:
    for answer in calls(service, *[(route, make_key()) for route in ROUTES]):
        for tenant in (make_key().tenant, OTHER_TENANT):
            assert tenant.hex not in answer.text
            assert str(tenant) not in json.dumps(dict(answer.headers)) + answer.text
