"""Transforms, reviews and the catalogue through HTTP over the real record, decoder and store; no worker runs."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.embedded_postgres import DatabaseUrls
from deployments.ids import new_id
from moderation.adapters.areas import object_name
from moderation.adapters.classifiers.correlation import plant_marker
from moderation.media import Media, sha256_of
from tests.builders import encoded, make_decision, make_facts, picture
from tests.http_kit import client_of, status_and_code
from tests.pg import as_role
from tests.real_http import RealParts
from tests.transform_kit import HELD_SCORES, form

pytestmark = pytest.mark.postgres

SOURCE, TARGET = (encoded(picture(256, 256, seed), "JPEG") for seed in (1, 2))


def visited(urls: DatabaseUrls, folder: Path, visit: Callable[[httpx.AsyncClient, RealParts], Awaitable[None]]) -> None:
    async def main() -> None:
        parts = RealParts(urls=urls, folder=folder)
        async with parts.make() as app, client_of(app) as client:
            assert parts.made is not None
            client.headers["authorization"] = f"Bearer {parts.made.text}"
            await visit(client, parts)
            await app.state.screenings.drain()
        assert parts.alarms == []

    asyncio.run(main())


def asked(**options: Any) -> dict[str, Any]:
    return form(SOURCE, TARGET, **options)


def stored(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder / "media").parts[0] for path in (folder / "media").rglob("*") if path.is_file())


def test_a_request_that_is_sent_again_is_one_transform(database: DatabaseUrls, tmp_path: Path) -> None:
    async def visit(client: httpx.AsyncClient, _: RealParts) -> None:
        keyed = {"idempotency-key": "order-17"}
        every = await asyncio.gather(*(client.post("/v1/transforms", headers=keyed, **asked()) for _ in range(6)))
        assert {answer.status_code for answer in every} == {202}
        (id,) = {answer.json()["id"] for answer in every}
        assert sum("idempotent-replayed" in answer.headers for answer in every) == 5
        assert stored(tmp_path) == ["intake", "intake"]
        other = await client.post("/v1/transforms", headers=keyed, **asked(faces="all"))
        assert status_and_code(other) == (422, "idempotency_mismatch")
        assert stored(tmp_path) == ["intake", "intake"]
        assert [one["id"] for one in (await client.get("/v1/transforms?state=queued")).json()["data"]] == [id]
        assert (await client.get(f"/v1/transforms/{id}")).json() == every[0].json()
        assert status_and_code(await client.get(f"/v1/transforms/{id}/output")) == (409, "not_released")

    visited(database, tmp_path, visit)


def test_a_transform_is_cancelled_once_and_the_key_stays_its_own(database: DatabaseUrls, tmp_path: Path) -> None:
    async def visit(client: httpx.AsyncClient, _: RealParts) -> None:
        one, other = [(await client.post("/v1/transforms", **asked())).json()["id"] for _ in range(2)]
        keyed = {"idempotency-key": "stop"}
        first = await client.post(f"/v1/transforms/{one}/cancel", headers=keyed)
        again = await client.post(f"/v1/transforms/{one}/cancel", headers=keyed)
        assert (first.status_code, again.status_code, again.headers["idempotent-replayed"]) == (200, 200, "true")
        assert status_and_code(await client.post(f"/v1/transforms/{other}/cancel", headers=keyed)) == (422, "idempotency_mismatch")

    visited(database, tmp_path, visit)


def test_a_face_is_approved_used_and_removed(database: DatabaseUrls, tmp_path: Path) -> None:
    async def visit(client: httpx.AsyncClient, _: RealParts) -> None:
        files = {"media": ("x", SOURCE), "options": ("o", json.dumps({"consent": {"basis": "self"}, "label": "Ada"}).encode())}
        keyed = {"idempotency-key": "ada"}
        made = await client.post("/v1/sources", headers=keyed, files=files)
        again = await client.post("/v1/sources", headers=keyed, files=files)
        unkeyed = await client.post("/v1/sources", files=files)
        assert (made.status_code, again.content, unkeyed.json()["id"]) == (201, made.content, made.json()["id"])
        id = made.json()["id"]
        taken = await client.post("/v1/transforms", **form(None, TARGET, source_id=id, consent=None))
        assert taken.status_code == 202, taken.text
        assert (await client.delete(f"/v1/sources/{id}")).status_code == 204
        gone = await client.post("/v1/transforms", **form(None, TARGET, source_id=id, consent=None))
        assert status_and_code(gone) == (422, "source_not_approved")
        assert (await client.get("/v1/sources")).json()["data"] == []
        late = await client.post("/v1/sources", headers=keyed, files=files)
        assert status_and_code(late) == (422, "not_approved"), "a request that is sent again brings nothing back"
        assert "catalogue" not in stored(tmp_path)
        assert (await client.post("/v1/sources", files=files)).status_code == 201

    visited(database, tmp_path, visit)


def test_a_face_that_is_marked_is_not_approved(database: DatabaseUrls, tmp_path: Path) -> None:
    marked = encoded(Image.fromarray(plant_marker(np.asarray(picture(512, 512)), share=0.2, left=0.5, top=0.5)), "PNG")

    async def visit(client: httpx.AsyncClient, _: RealParts) -> None:
        files = {"media": ("x", marked), "options": ("o", b'{"consent":{"basis":"self"}}')}
        assert status_and_code(await client.post("/v1/sources", files=files)) == (422, "not_approved")
        assert stored(tmp_path) == []

    visited(database, tmp_path, visit)


def test_what_a_person_says_is_on_record_and_told_with_the_decision(database: DatabaseUrls, tmp_path: Path) -> None:
    async def visit(client: httpx.AsyncClient, _: RealParts) -> None:
        id = (await client.post("/v1/screenings", files={"media": ("x", SOURCE)})).json()["id"]
        body = {"decision_id": id, "verdict": "block", "reason": "Somebody complained."}
        keyed = {"idempotency-key": "complaint"}
        made = await client.post("/v1/reviews", headers=keyed, json=body)
        again = await client.post("/v1/reviews", headers=keyed, json=body)
        assert (made.status_code, again.content, again.headers["idempotent-replayed"]) == (201, made.content, "true")
        shown = (await client.get(f"/v1/decisions/{id}")).json()
        assert (shown["verdict"], shown["effective_verdict"], shown["superseded_by"]) == ("allow", "block", made.json()["id"])
        assert status_and_code(await client.get(f"/v1/reviews/{id}/media")) == (410, "media_gone")

    visited(database, tmp_path, visit)


def test_who_looks_at_held_media_is_on_record_first(database: DatabaseUrls, tmp_path: Path) -> None:
    async def visit(client: httpx.AsyncClient, parts: RealParts) -> None:
        assert parts.made is not None
        assert parts.gateway is not None
        tenant, sha256 = parts.made.key.tenant, sha256_of(SOURCE)
        media = Media(sha256=sha256, size=len(SOURCE), facts=make_facts(width=256, height=256))
        held = make_decision(HELD_SCORES, id=new_id(), tenant=tenant, media=media, created_at=datetime.now(UTC))
        await parts.gateway.log.append(held)
        await parts.gateway.quarantine.put(object_name(tenant, held.id, sha256), SOURCE)
        assert [one["id"] for one in (await client.get("/v1/reviews")).json()["data"]] == [f"dec_{held.id.hex}"]
        shown = await client.get(f"/v1/reviews/dec_{held.id.hex}/media?rendition=clear")
        assert Image.open(io.BytesIO(shown.content)).size == (256, 256)
        with as_role(database.runtime, tenant=tenant) as cursor:
            cursor.execute("SELECT decision, rendition FROM facegate.review_view")
            assert [(str(decision), rendition) for decision, rendition in cursor.fetchall()] == [(str(held.id), "clear")]

    visited(database, tmp_path, visit)
