"""What callers see when more decisions wait than the record holds: through HTTP, over the real record, decoder and store."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.postgres import PostgresRecord
from moderation.media import sha256_of
from tests.builders import jpeg_bytes
from tests.http_kit import client_of, status_and_code
from tests.pg import as_role
from tests.real_http import RealParts

pytestmark = pytest.mark.postgres

PICTURES = [jpeg_bytes(64, 64, seed=seed) for seed in range(10)]


def test_a_full_record_is_503_overloaded_and_what_it_refuses_is_recorded_nowhere(database: DatabaseUrls, tmp_path: Path) -> None:
    record = PostgresRecord(database.runtime, capacity=2, answer_s=30.0)
    parts = RealParts(urls=database, folder=tmp_path, changes=dict.fromkeys(("log", "memory", "reader"), record))
    keyed = [{"idempotency-key": f"picture-{number}"} for number in range(len(PICTURES))]

    async def story() -> None:
        async with parts.make() as app, client_of(app) as client:
            assert parts.made is not None
            client.headers["authorization"] = f"Bearer {parts.made.text}"

            async def post(number: int) -> httpx.Response:
                return await client.post("/v1/screenings", files={"media": ("x.jpg", PICTURES[number])}, headers=keyed[number])

            with ExitStack() as locked:
                locked.enter_context(as_role(database.owner)).execute("LOCK TABLE facegate.decision IN SHARE MODE")
                sent = [asyncio.create_task(post(number)) for number in range(len(PICTURES))]
                await asyncio.wait(sent, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            answers = [await answer for answer in sent]
            await app.state.screenings.drain()

            refused = [number for number, answer in enumerate(answers) if answer.status_code != 200]
            assert 0 < len(refused) < len(PICTURES)
            for number in refused:
                assert status_and_code(answers[number]) == (503, "overloaded")
                assert int(answers[number].headers["retry-after"]) >= 1
                history = await client.get(f"/v1/media/{sha256_of(PICTURES[number])}/history")
                assert history.json()["data"] == []
            assert recorded(database, parts) == len(PICTURES) - len(refused)
            assert [(await post(number)).status_code for number in refused] == [200] * len(refused), "under the same keys"
            assert recorded(database, parts) == len(PICTURES)

    with closing(record):
        asyncio.run(story())


def recorded(database: DatabaseUrls, parts: RealParts) -> int:
    """How many decisions there are; as many entries, and no job."""
    assert parts.made is not None
    with as_role(database.runtime, tenant=parts.made.key.tenant) as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM facegate.decision), (SELECT count(*) FROM facegate.entry WHERE kind = 'decision'),"
            " (SELECT count(*) FROM facegate.job)"
        )
        decisions, entries, jobs = cursor.fetchone()
    assert (entries, jobs) == (decisions, 0)
    return int(decisions)
