"""The catalogue of approved faces on Postgres keeps the contract of every catalogue, races and entries included."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from moderation.adapters.database import Database
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.sources import PostgresSources
from moderation.canonical import canonical
from moderation.errors import RecordUnavailable
from moderation.transform import Basis, ConsentStatement
from tests.contracts.source_catalogue_contract import Shelf, SourceCatalogueContract
from tests.pg import as_role, make_tenant

pytestmark = pytest.mark.postgres


@pytest.fixture
def shelf(database, record):
    connections = Database(database.runtime, connections=4)
    yield Shelf(
        sources=PostgresSources(connections),
        decisions=record,
        reviews=PostgresReviews(connections),
        tenant=make_tenant(database.runtime, "one"),
        other=make_tenant(database.runtime, "two"),
    )
    connections.close()


class TestPostgresSources(SourceCatalogueContract):
    @pytest.fixture
    def shelf(self, shelf):
        return shelf


def rows(database, shelf, statement):
    with as_role(database.runtime, tenant=shelf.tenant) as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_of_many_approvals_of_the_same_bytes_at_once_there_is_one(shelf, database):
    async def story():
        return await asyncio.gather(*(shelf.added() for _ in range(8)))

    assert len({source.id for source in asyncio.run(story())}) == 1
    assert rows(database, shelf, "SELECT count(*) FROM facegate.source_event") == [(1,)]


def test_of_many_removals_at_once_one_removes(shelf):
    async def story():
        source = await shelf.added()
        return await asyncio.gather(*(shelf.sources.remove(shelf.tenant, source.id, "k") for _ in range(8)))

    assert sum(removed is not None for removed in asyncio.run(story())) == 1


def test_coming_and_going_are_in_the_entries_and_nothing_personal_is(shelf, database):
    async def story():
        source = await shelf.added(label="Jane", consent=ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement="Jane agreed"))
        await shelf.sources.remove(shelf.tenant, source.id, "remover")
        return source

    source = asyncio.run(story())
    written = rows(database, shelf, "SELECT canonical FROM facegate.entry WHERE kind = 'source' ORDER BY recorded_at")
    documents = [json.loads(bytes(data)) for (data,) in written]
    assert [canonical(document) for document in documents] == [bytes(data) for (data,) in written]
    assert [(document["event"], document["actor"]) for document in documents] == [("approved", source.actor), ("removed", "remover")]
    kept = {
        kind: "sha256:" + hashlib.sha256(bytes(salt) + content.encode()).hexdigest()
        for kind, salt, content in rows(database, shelf, "SELECT kind, salt, content FROM facegate.personal")
    }
    came, went = (document["source"] for document in documents)
    assert came == {
        "id": str(source.id),
        "sha256": source.sha256,
        "bytes": source.size,
        "type": source.type,
        "decision": str(source.decision),
        "consent": {"basis": "subject_consent", "said": kept["consent"]},
        "label": kept["label"],
    }
    assert went == {"id": str(source.id), "sha256": source.sha256}
    assert "Jane" not in json.dumps(documents)


def test_an_id_is_used_once(shelf):
    async def story():
        source = await shelf.added()
        await shelf.added("fb" * 32, id=source.id)

    with pytest.raises(RecordUnavailable):
        asyncio.run(story())
