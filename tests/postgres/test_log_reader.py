"""Proofs from what is stored, and whether the sealer keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Database
from moderation.adapters.log_reader import PostgresLog
from moderation.adapters.notes import open_note
from moderation.errors import RecordUnavailable
from moderation.log import Checkpoint, VerifierKey
from moderation.merkle import check_consistency, check_inclusion
from tests.pg import as_role
from tests.sealed_log import SealedLog

pytestmark = pytest.mark.postgres


@pytest.fixture
def log(database: DatabaseUrls, tmp_path: Path) -> SealedLog:
    return SealedLog(urls=database, folder=tmp_path)


@pytest.fixture
def reader(database: DatabaseUrls) -> Iterator[PostgresLog]:
    with closing(Database(database.runtime, connections=1)) as pool:
        yield PostgresLog(pool)


def entries(log: SealedLog, tenant: int) -> list[UUID]:
    with as_role(log.urls.runtime, tenant=log.tenant(tenant)) as cursor:
        cursor.execute("SELECT id FROM facegate.entry WHERE tenant = %s ORDER BY id", (str(log.tenant(tenant)),))
        return [UUID(id) for (id,) in cursor.fetchall()]


def test_every_entry_is_proved_under_the_newest_seal_to_its_tenant_and_to_an_auditor_alone(log: SealedLog, reader: PostgresLog):
    for size in (30, 1, 6):
        log.write(size)
        log.write(2, tenant=1)
        log.seal()

    async def prove() -> None:
        newest = await reader.latest()
        (key,) = await reader.keys()
        assert newest is not None
        assert key == VerifierKey.parse(log.key)
        assert Checkpoint.parse(open_note(newest.note, [key])[0]) == newest.checkpoint
        indexes = set()
        for tenant in (0, 1):
            for entry in entries(log, tenant):
                proof = await reader.inclusion(log.tenant(tenant), entry)
                assert proof is not None
                assert proof.seal == newest
                check_inclusion(leaf=proof.leaf, index=proof.index, size=44, hashes=proof.hashes, root=newest.checkpoint.root)
                assert await reader.inclusion(None, entry) == proof
                assert await reader.inclusion(log.tenant(1 - tenant), entry) is None
                indexes.add(proof.index)
        assert indexes == set(range(1, 44))

    asyncio.run(prove())


def test_any_two_sizes_are_proved_consistent_and_none_beyond_the_newest_seal(log: SealedLog, reader: PostgresLog):
    roots = {}
    for size in (20, 1, 18):
        log.write(size)
        checkpoint = Checkpoint.parse(log.seal().rpartition("\n\n")[0] + "\n")
        roots[checkpoint.size] = checkpoint.root

    async def prove() -> None:
        for (first, first_root), (second, second_root) in product(roots.items(), repeat=2):
            proof = await reader.consistency(first, second)
            assert (proof is None) == (first > second)
            if proof is not None:
                check_consistency(first=first, second=second, hashes=proof.hashes, first_root=first_root, second_root=second_root)
        assert await reader.consistency(20, 41) is None
        assert await reader.consistency(-1, 20) is None
        assert await reader.consistency(1, 2, origin="another") is None

    asyncio.run(prove())


def test_a_proof_that_would_not_hold_is_not_given(log: SealedLog, reader: PostgresLog):
    log.write(20)
    log.seal()
    with as_role(log.urls.owner) as cursor:
        cursor.execute("ALTER TABLE facegate.leaf DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.leaf SET hash = sha256('') WHERE index = 2")
    with pytest.raises(RecordUnavailable, match="not the one that was sealed"):
        asyncio.run(reader.inclusion(log.tenant(0), entries(log, 0)[2]))


def test_an_entry_that_was_changed_is_no_unsealed_one_but_has_the_leaf_that_was_sealed_for_it(log: SealedLog, reader: PostgresLog):
    log.write(20)
    log.seal()
    changed = entries(log, 0)[2]
    sealed = asyncio.run(reader.inclusion(log.tenant(0), changed))
    with as_role(log.urls.owner, tenant=log.tenant(0)) as cursor:
        cursor.execute("ALTER TABLE facegate.entry DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.entry SET canonical = '{}' WHERE id = %s RETURNING leaf", (str(changed),))
        ((leaf,),) = cursor.fetchall()
    for tenant in (log.tenant(0), None):
        proof = asyncio.run(reader.inclusion(tenant, changed))
        assert proof == sealed
        assert proof is not None
        assert proof.leaf != bytes(leaf)


def test_before_the_first_seal_there_is_nothing_and_an_entry_that_is_not_sealed_has_no_proof(log: SealedLog, reader: PostgresLog):
    log.write(1)

    async def ask() -> None:
        assert await reader.latest() is None
        assert await reader.keys() == []
        assert await reader.inclusion(log.tenant(0), entries(log, 0)[0]) is None
        assert await reader.consistency(0, 0) is None

    asyncio.run(ask())


def test_the_log_is_ready_while_no_entry_waits_for_long(log: SealedLog, reader: PostgresLog):
    asyncio.run(reader.ping())
    log.write(1)
    asyncio.run(reader.ping())  # not for long yet
    log.seal()
    old = "INSERT INTO facegate.entry (id, tenant, kind, canonical, recorded_at) VALUES (%s, %s, 'decision', '{}', now() - interval '1 minute')"
    with as_role(log.urls.owner, tenant=log.tenant(0)) as cursor:
        cursor.execute(old, (str(uuid7()), str(log.tenant(0))))
    with pytest.raises(RecordUnavailable, match="has waited for 60 s to be sealed"):
        asyncio.run(reader.ping())
    log.seal()
    asyncio.run(reader.ping())
