"""Appeals, holds and erasures through HTTP over the real record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from deployments.embedded_postgres import DatabaseUrls
from deployments.ids import from_wire, new_id
from moderation.access import Scope
from moderation.decision import Decision
from tests.builders import LOUD, QUIET, make_decision
from tests.http_kit import client_of, status_and_code
from tests.real_http import RealParts
from tests.transform_kit import HELD_SCORES

pytestmark = pytest.mark.postgres


class Visit:
    """A client with the key of all scopes, which is bound to reviewer-1, and clients of others of the tenant."""

    def __init__(self, client: httpx.AsyncClient, parts: RealParts) -> None:
        self.client = client
        self._parts = parts
        assert parts.made is not None
        assert parts.gateway is not None
        self.tenant: UUID = parts.made.key.tenant
        self.gateway = parts.gateway

    async def other(self, subject: str | None = None, *scopes: Scope) -> dict[str, str]:
        """The headers of another key."""
        keys: Any = self.gateway.keys
        made = await keys.make(tenant=self.tenant, scopes=list(scopes or Scope), policies=["marker"], actor="test", subject=subject)
        return {"authorization": f"Bearer {made.text}"}

    async def decided(self, scores: Any = LOUD, **changes: Any) -> Decision:
        decision = make_decision(scores, **{"id": new_id(), "tenant": self.tenant, "created_at": datetime.now(UTC), **changes})
        await self.gateway.log.append(decision)
        return decision

    async def appeal(self, decision: Decision, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        body = {"decision_id": f"dec_{decision.id.hex}", "reason": "it is a statue", **changes}
        return await self.client.post("/v1/appeals", json=body, headers=headers)

    async def review(self, decision: Decision, verdict: str, headers: dict[str, str] | None = None) -> httpx.Response:
        body = {"decision_id": f"dec_{decision.id.hex}", "verdict": verdict, "reason": "looked at it"}
        return await self.client.post("/v1/reviews", json=body, headers=headers)

    async def shown(self, decision: Decision) -> dict[str, Any]:
        return (await self.client.get(f"/v1/decisions/dec_{decision.id.hex}")).json()


def visited(urls: DatabaseUrls, folder: Path, story: Callable[[Visit], Awaitable[None]]) -> None:
    async def main() -> None:
        parts = RealParts(urls=urls, folder=folder)
        async with parts.make() as app, client_of(app) as client:
            assert parts.made is not None
            client.headers["authorization"] = f"Bearer {parts.made.text}"
            await story(Visit(client, parts))

    asyncio.run(main())


def test_an_appeal_opens_a_block_to_a_review_by_somebody_else_and_the_decision_tells_what_stands(database, tmp_path):
    async def story(visit: Visit) -> None:
        decision = await visit.decided()
        assert status_and_code(await visit.review(decision, "allow")) == (422, "not_reviewable")
        shop, second = await visit.other(None, Scope.SCREEN), await visit.other("reviewer-2")
        opened = await visit.appeal(decision, {**shop, "idempotency-key": "a"})
        assert (opened.status_code, opened.json()["status"], opened.json()["stood"]) == (201, "open", "block")
        again = await visit.appeal(decision, {**shop, "idempotency-key": "a"})
        assert (again.content, again.headers["idempotent-replayed"]) == (opened.content, "true")
        assert status_and_code(await visit.appeal(decision)) == (409, "already_appealed")
        review = await visit.review(decision, "allow", second)
        assert review.status_code == 201
        shown = await visit.shown(decision)
        assert (shown["verdict"], shown["effective_verdict"], shown["superseded_by"]) == ("block", "allow", review.json()["id"])
        (closed,) = (await visit.client.get("/v1/appeals?status=closed")).json()["data"]
        assert (closed["id"], closed["outcome"], closed["review_id"]) == (opened.json()["id"], "overturned", review.json()["id"])
        assert (await visit.client.get("/v1/appeals?status=open")).json()["data"] == []

    visited(database, tmp_path, story)


def test_who_appealed_and_who_is_appealed_against_may_not_decide(database, tmp_path):
    async def story(visit: Visit) -> None:
        decision = await visit.decided(QUIET)
        assert (await visit.review(decision, "block")).status_code == 201
        shop = await visit.other("shop")
        assert (await visit.appeal(decision, shop)).status_code == 201
        for headers in (None, shop, await visit.other("shop"), await visit.other("reviewer-1")):
            assert status_and_code(await visit.review(decision, "allow", headers)) == (403, "own_appeal")
        assert (await visit.review(decision, "allow", await visit.other("reviewer-2"))).status_code == 201

    visited(database, tmp_path, story)


def test_what_does_not_stand_and_what_is_not_there_cannot_be_appealed(database, tmp_path):
    async def story(visit: Visit) -> None:
        assert status_and_code(await visit.appeal(await visit.decided(HELD_SCORES))) == (422, "not_appealable")
        assert status_and_code(await visit.appeal(make_decision(id=new_id()))) == (404, "not_found")
        assert status_and_code(await visit.appeal(await visit.decided(), reason=" ")) == (422, "invalid_parameter")
        reader = await visit.other(None, Scope.AUDIT_READ)
        assert status_and_code(await visit.appeal(await visit.decided(), reader)) == (403, "forbidden")

    visited(database, tmp_path, story)


def test_a_hold_keeps_texts_from_an_erasure_until_it_is_released(database, tmp_path):
    async def story(visit: Visit) -> None:
        decision = await visit.decided(QUIET, reference="Jane")
        body = {"decision_id": f"dec_{decision.id.hex}", "reason": "case 7"}
        placed = await visit.client.post("/v1/holds", json=body, headers={"idempotency-key": "h"})
        assert (placed.status_code, placed.json()["decision_id"]) == (201, body["decision_id"])
        assert (await visit.client.post("/v1/holds", json=body, headers={"idempotency-key": "h"})).content == placed.content
        kept = (await visit.client.post("/v1/erasures", json={"reference": "Jane"})).json()
        assert (kept["erased"], kept["held"], kept["holds"]) == (0, 1, [placed.json()["id"]])
        path = f"/v1/holds/{placed.json()['id']}/release"
        released = await visit.client.post(path, json={"reason": "over"})
        assert (released.status_code, released.json()["release_reason"]) == (200, "over")
        assert (await visit.client.post(path, json={"reason": "again"})).content == released.content
        assert [one["id"] for one in (await visit.client.get("/v1/holds?in_force=true")).json()["data"]] == []
        erased = (await visit.client.post("/v1/erasures", json={"reference": "Jane"})).json()
        assert (erased["by"], erased["erased"], erased["held"]) == ("reference", 1, 0)
        assert (await visit.shown(decision))["reference"] is None
        listed = (await visit.client.get("/v1/erasures")).json()["data"]
        assert listed == [erased, kept]
        assert "Jane" not in str(listed)

    visited(database, tmp_path, story)


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "on nothing"},
        {"reason": "on two", "reference": "a", "media_sha256": "ab" * 32},
        {"reference": "no reason"},
        {"reason": "x", "decision_id": "dec_1"},
    ],
)
def test_a_hold_is_on_one_thing_and_says_why(database, tmp_path, body):
    async def story(visit: Visit) -> None:
        assert status_and_code(await visit.client.post("/v1/holds", json=body)) == (422, "invalid_parameter")

    visited(database, tmp_path, story)


def test_holds_and_erasures_are_for_administrators_and_within_their_tenant(database, tmp_path):
    async def story(visit: Visit) -> None:
        reader = await visit.other(None, Scope.AUDIT_READ)
        for path, body in (("/v1/holds", {"reference": "a", "reason": "b"}), ("/v1/erasures", {"reference": "a"})):
            assert status_and_code(await visit.client.post(path, json=body, headers=reader)) == (403, "forbidden")
            assert (await visit.client.get(path, headers=reader)).status_code == 200
        missing = {"reason": "x", "transform_id": f"trf_{new_id().hex}"}
        assert status_and_code(await visit.client.post("/v1/holds", json=missing)) == (404, "not_found")
        gone = await visit.client.post(f"/v1/holds/hld_{new_id().hex}/release", json={"reason": "x"})
        assert status_and_code(gone) == (404, "not_found")
        for nobody in ({}, {"reference": "a", "subject": "b"}):
            assert status_and_code(await visit.client.post("/v1/erasures", json=nobody)) == (422, "invalid_parameter")

    visited(database, tmp_path, story)


def test_pages_of_holds_follow_their_cursor(database, tmp_path):
    async def story(visit: Visit) -> None:
        made = [(await visit.client.post("/v1/holds", json={"reference": f"r{n}", "reason": "x"})).json()["id"] for n in range(3)]
        first = (await visit.client.get("/v1/holds?limit=2")).json()
        rest = (await visit.client.get(f"/v1/holds?limit=2&cursor={first['next_cursor']}")).json()
        assert [one["id"] for one in first["data"] + rest["data"]] == made[::-1]
        assert rest["next_cursor"] is None
        assert from_wire("hld", made[0]) is not None

    visited(database, tmp_path, story)
