"""Receipts: each decision has one, always the same, and the log keeps what it promises."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Database
from moderation.adapters.log_reader import PostgresLog
from moderation.adapters.notes import open_note
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.receipts import PostgresReceipts
from moderation.adapters.service_key import ServiceKey
from moderation.audit import rfc3339
from moderation.log import Receipt, VerifierKey, to_base64
from tests.builders import jpeg_bytes, make_decision
from tests.http_kit import client_of
from tests.pg import as_role, make_tenant
from tests.real_http import RealParts
from tests.sealed_log import SealedLog

pytestmark = pytest.mark.postgres


def logged_keys(database: DatabaseUrls) -> list[VerifierKey]:
    """The keys of receipts as the sealed log tells them."""
    with as_role(database.sealer) as cursor:
        cursor.execute(
            "SELECT canonical FROM facegate.entry JOIN facegate.leaf ON leaf.entry = entry.id AND hash = entry.leaf"
            " WHERE kind = 'receipt_key' ORDER BY entry.id"
        )
        return [VerifierKey.parse(json.loads(bytes(canonical))["receipt_key"]["key"]) for (canonical,) in cursor.fetchall()]


def test_every_answer_about_a_decision_has_the_same_receipt_and_the_log_keeps_it(database: DatabaseUrls, tmp_path: Path):
    parts = RealParts(urls=database, folder=tmp_path)
    files = {"media": ("x.jpg", jpeg_bytes(seed=1), "image/jpeg")}

    async def story() -> dict[str, str]:
        async with parts.make() as app, client_of(app) as client:
            client.headers["authorization"] = f"Bearer {parts.made.text}"
            first = await client.post("/v1/screenings", files=files, headers={"idempotency-key": "one"})
            again = await client.post("/v1/screenings", files=files, headers={"idempotency-key": "one"})
            assert (again.headers["idempotent-replayed"], again.content) == ("true", first.content)
            one = first.json()
            listed = (await client.get("/v1/decisions")).json()["data"]
            others = [(await client.get(f"/v1/{route}/{one['id']}")).json() for route in ("screenings", "decisions")]
            assert [other["receipt"] for other in (*listed, *others)] == [one["receipt"]] * 3
            return one

    answer = asyncio.run(story())
    SealedLog(urls=database, folder=tmp_path / "sealer").seal()
    (key,) = logged_keys(database)
    kind, entry, leaf, by = open_note(answer["receipt"]["note"], [key])[0].splitlines()
    assert kind == "facegate/receipt"
    assert (leaf, by) == (to_base64(bytes.fromhex(answer["receipt"]["leaf"])), answer["receipt"]["by"])
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT hash FROM facegate.leaf WHERE entry = %s", (entry,))
        assert bytes(cursor.fetchone()[0]).hex() == answer["receipt"]["leaf"]
    assert answer["id"].removeprefix("dec_") == entry.replace("-", "")


def test_replicas_and_later_processes_give_the_same_receipt_under_a_key_of_the_day_that_is_told_once(database: DatabaseUrls):
    tenant, other = make_tenant(database.runtime), make_tenant(database.runtime, "other")
    noon = datetime.now(UTC).replace(hour=12)
    decisions = [make_decision(id=uuid7(), tenant=tenant, created_at=noon + timedelta(days=day)) for day in (0, 1)]
    wanted = {decision.id: decision.created_at for decision in decisions}

    async def given(*, append: bool) -> dict[UUID, Receipt]:
        record, pool = PostgresRecord(database.runtime), Database(database.runtime, connections=2)
        try:
            for decision in decisions if append else ():
                await record.append(decision)
                await record.append(decision)  # the same again has another nonce, and is not what was recorded
            receipts = PostgresReceipts(pool, ServiceKey(bytes(32)), record.leaves)
            assert await receipts.of(other, wanted) == {}
            first, second = await asyncio.gather(receipts.of(tenant, wanted), receipts.of(tenant, wanted))
            assert first == second
            assert await PostgresLog(pool).latest() is None
            return dict(first)
        finally:
            record.close()
            pool.close()

    fresh, read = asyncio.run(given(append=True)), asyncio.run(given(append=False))
    assert fresh == read
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute("SELECT key FROM facegate.receipt_key ORDER BY recorded_at")
        keys = [VerifierKey.parse(key) for (key,) in cursor.fetchall()]
        cursor.execute("SELECT id, leaf FROM facegate.entry WHERE tenant = %s", (str(tenant),))
        leaves = {id: bytes(leaf) for id, leaf in cursor.fetchall()}
        cursor.execute("SELECT count(*) FROM facegate.entry WHERE kind = 'receipt_key'")
        assert cursor.fetchone() == (2,)
    for decision, key in zip(decisions, keys, strict=True):
        receipt = fresh[decision.id]
        assert (receipt.leaf, receipt.by) == (leaves[str(decision.id)], decision.created_at + timedelta(seconds=60))
        assert open_note(receipt.note, keys)[1] == (key,)
        assert rfc3339(receipt.by) in receipt.note
