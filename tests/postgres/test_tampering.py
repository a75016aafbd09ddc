"""Whoever can write everything in the database, and not sign, is found out: each way of it, with its place.

The changes are made as the superuser with triggers off, on a log that the real sealer sealed; the auditor has the public key, the
checkpoint that was last seen, and the verifier.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from sqlalchemy.engine import make_url

from moderation.adapters.tables import MUTABLE
from moderation.adapters.verify_log import Export, read_checkpoint, read_key
from tests.log_kit import ORIGIN, another_signer, checkpoint
from tests.pg import PostgresServer
from tests.sealed_log import SealedLog

pytestmark = pytest.mark.postgres

LAST = 40
"""The index of the last leaf."""


class Tampering:
    """A sealed log of 41 leaves under four seals, and everything that a superuser can do to it."""

    def __init__(self, server: PostgresServer, log: SealedLog) -> None:
        self.log = log
        self.kept: list[str] = []
        for tenant in (0, 1, 0, 1):
            log.write(10, tenant=tenant)
            self.kept.append(log.seal())
        self._to = server.postgres.administrator(make_url(log.urls.owner).database)
        self.do(*[f"CREATE TABLE public.{table} AS TABLE facegate.{table}" for table in ("log", "leaf", "seal")])
        self.do("CREATE TABLE public.entry AS SELECT id, tenant, kind, canonical, xid, recorded_at FROM facegate.entry")

    @contextmanager
    def superuser(self) -> Iterator[Cursor]:
        with closing(psycopg2.connect(**self._to)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            yield cursor

    def do(self, *statements: str, **values: object) -> None:
        with self.superuser() as cursor:
            for statement in statements:
                cursor.execute(statement, values or None)

    def undo(self) -> None:
        self.do(
            *[f"DELETE FROM facegate.{table}" for table in ("leaf", "seal", "entry", "log")],
            "INSERT INTO facegate.log TABLE public.log",
            "INSERT INTO facegate.leaf TABLE public.leaf",
            "INSERT INTO facegate.seal TABLE public.seal",
            "INSERT INTO facegate.entry (id, tenant, kind, canonical, xid, recorded_at) TABLE public.entry",
        )

    def faults(self, **how: Any) -> list[str]:
        return self.log.faults(kept=(self.kept[-1],), needs_entries=True, **how)

    def leaves(self) -> list[bytes]:
        with self.superuser() as cursor:
            cursor.execute("SELECT hash FROM facegate.leaf WHERE log = 1 ORDER BY index")
            return [bytes(hashed) for (hashed,) in cursor.fetchall()]


@pytest.fixture(scope="module")
def sealed(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tampering]:
    with postgres_server.clone() as urls:
        yield Tampering(postgres_server, SealedLog(urls=urls, folder=tmp_path_factory.mktemp("sealer") / "log"))


@pytest.fixture
def tampering(sealed: Tampering) -> Iterator[Tampering]:
    """The same log for all, set right again after each."""
    yield sealed
    sealed.undo()
    assert sealed.faults() == []


ENTRY_OF = "facegate.entry.id = (SELECT entry FROM facegate.leaf WHERE log = 1 AND index = %(index)s)"
REPLACED = "UPDATE facegate.entry SET canonical = convert_to(replace(convert_from(canonical, 'UTF8'), %(old)s, %(new)s), 'UTF8') WHERE "
REHASHED = "UPDATE facegate.leaf SET hash = entry.leaf FROM facegate.entry WHERE entry.id = leaf.entry AND log = 1 AND index = %(index)s"
SHIFTED = (
    "UPDATE facegate.leaf SET index = index + 1000 WHERE log = 1 AND index >= %(index)s",
    "UPDATE facegate.leaf SET index = index - 999 WHERE log = 1 AND index >= 1000",
)


def swapped(one: int, two: int) -> list[str]:
    return [
        f"UPDATE facegate.leaf SET index = 1000 WHERE log = 1 AND index = {one}",
        f"UPDATE facegate.leaf SET index = {one} WHERE log = 1 AND index = {two}",
        f"UPDATE facegate.leaf SET index = {two} WHERE log = 1 AND index = 1000",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"verdict":"allow"', '"verdict":"block"'),
        ('"score":"0.123456"', '"score":"0.123457"'),
        ('"created_at":"2026-11-27', '"created_at":"2026-11-26'),
        ('"tenant":"', '"tenant":"0'),
    ],
    ids=["verdict", "score", "time", "tenant"],
)
def test_a_changed_entry_is_told_by_its_index(tampering: Tampering, old: str, new: str):
    tampering.do(REPLACED + ENTRY_OF, index=17, old=old, new=new)
    assert tampering.faults() == ["line 19: the entry of leaf 17 was changed: it does not have the leaf hash that stands beside it"]


CASES: dict[str, tuple[list[str], str]] = {
    "hash": (
        ["UPDATE facegate.leaf SET hash = set_byte(hash, 5, get_byte(hash, 5) # 1) WHERE index = 17"],
        "the entry of leaf 17 was changed",
    ),
    "entry and hash together": (
        [
            "UPDATE facegate.entry SET canonical = convert_to('{}', 'UTF8') WHERE id = (SELECT entry FROM facegate.leaf WHERE index = 17)",
            "UPDATE facegate.leaf SET hash = entry.leaf FROM facegate.entry WHERE entry.id = leaf.entry AND index = 17",
        ],
        "of the leaves 0 to 40, one or more were changed, put in or taken out",
    ),
    "delete a leaf": (["DELETE FROM facegate.leaf WHERE index = 17"], "line 19: leaf 17 is missing before leaf 18"),
    "delete a leaf and close the gap": (
        [
            "DELETE FROM facegate.leaf WHERE index = 17",
            *[f"UPDATE facegate.leaf SET index = {at - 1} WHERE index = {at}" for at in range(18, 41)],
        ],
        "line 42: a checkpoint over 41 leaves stands behind 40",
    ),
    "delete the last leaf": (["DELETE FROM facegate.leaf WHERE index = 40"], "a checkpoint over 41 leaves stands behind 40"),
    "delete the last checkpoint": (
        ["DELETE FROM facegate.seal WHERE size = 41"],
        "kept-0 covers 41 leaves and this export ends at 31: .*rolled back",
    ),
    "delete an entry": (
        ["DELETE FROM facegate.entry USING facegate.leaf WHERE leaf.entry = entry.id AND index = 17"],
        "line 19: leaf 17 comes without its entry",
    ),
    "insert between": (
        [
            SHIFTED[0] % {"index": 17},
            SHIFTED[1],
            "INSERT INTO facegate.leaf SELECT log, 17, entry, xid, sha256('') FROM facegate.leaf WHERE index = 3",
        ],
        "of the leaves 0 to 40, one or more were changed, put in or taken out",
    ),
    "duplicate": (
        [
            SHIFTED[0] % {"index": 18},
            SHIFTED[1],
            "INSERT INTO facegate.leaf SELECT log, 18, entry, xid, hash FROM facegate.leaf WHERE index = 17",
        ],
        "of the leaves 0 to 40, one or more were changed, put in or taken out",
    ),
    "swap two": (swapped(17, 23), "of the leaves 0 to 40, one or more were changed, put in or taken out"),
    "roll back to a backup": (
        ["DELETE FROM facegate.leaf WHERE index >= 21", "DELETE FROM facegate.seal WHERE size > 21"],
        "kept-0 covers 41 leaves and this export ends at 21: .*rolled back",
    ),
    "a seal that is no note": (["UPDATE facegate.seal SET note = 'x' WHERE size = 41"], "not a signed note"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_way_of_tampering_is_told_with_its_place(tampering: Tampering, name: str):
    statements, fault = CASES[name]
    tampering.do(*statements)
    found = tampering.faults()
    assert any(re.search(fault, line) for line in found), found
    assert all(line.startswith("line ") for line in found)


def test_a_log_that_is_signed_again_with_another_key_is_told(tampering: Tampering):
    tampering.do("UPDATE facegate.seal SET note = %(note)s WHERE size = 41", note=checkpoint(tampering.leaves(), another_signer()))
    assert any("this checkpoint is not signed by a key that you gave" in line for line in tampering.faults())


def test_a_log_of_another_name_is_told(tampering: Tampering):
    tampering.do("UPDATE facegate.log SET origin = 'else.test'")
    assert tampering.faults() == [f"line 1: this log is else.test; the key is for {ORIGIN}"]


def test_a_fork_by_whoever_has_database_and_key_is_told_by_the_checkpoint_that_was_kept(tampering: Tampering):
    """Nothing in the database can show this: it is why checkpoints are kept outside."""
    tampering.do(REPLACED + ENTRY_OF, REHASHED, index=17, old="allow", new="block")
    signer = another_signer()  # stands for the holder of the key: the auditor trusts it
    kept = checkpoint([bytes(hashed) for hashed in original(tampering)], signer)
    tampering.do("UPDATE facegate.seal SET note = %(note)s WHERE size = 41", note=checkpoint(tampering.leaves(), signer))
    found = faults_under(tampering, signer.text, kept)
    assert any(
        "the log is forked: this checkpoint and kept-0 are both signed, over 41 leaves with different roots" in line for line in found
    )
    assert any("what that checkpoint covers was rewritten, in or before leaf 40" in line for line in found)


def original(tampering: Tampering) -> list[bytes]:
    with tampering.superuser() as cursor:
        cursor.execute("SELECT hash FROM public.leaf ORDER BY index")
        return [bytes(hashed) for (hashed,) in cursor.fetchall()]


def faults_under(tampering: Tampering, key: str, kept: str) -> list[str]:
    reading = Export(keys=[read_key(key)], held=[("kept-0", read_checkpoint(kept, [read_key(key)]))])
    reading.read(io.BytesIO(tampering.log.export()))
    return reading.faults


# --- who may change anything at all -----------------------------------------------------------------


def test_every_table_and_every_partition_is_append_only_for_the_service_but_for_a_closed_list(tampering: Tampering):
    changeable = {table.name for table in MUTABLE} | {"alembic_version"}
    with tampering.superuser() as cursor:
        cursor.execute(
            "SELECT c.relname, has_table_privilege('facegate_runtime', c.oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES'),"
            " has_table_privilege('facegate_sealer', c.oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES'),"
            " EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'append_only' AND t.tgenabled <> 'D')"
            " FROM pg_class c WHERE c.relnamespace = 'facegate'::regnamespace AND c.relkind IN ('r', 'p')"
        )
        found = {name: rest for name, *rest in cursor.fetchall()}
    assert len(found) > 100  # with the partitions of eight months
    assert {name for name, (by_service, _, _) in found.items() if by_service} == changeable - {"alembic_version"}
    assert {name for name, (_, by_sealer, _) in found.items() if by_sealer} == set()
    without = {name for name, (_, _, has_trigger) in found.items() if not has_trigger}
    assert {name for name in without if not name.startswith("personal")} == changeable  # personal texts are erased, by one function alone


# --- forty changes a run --------------------------------------------------------------------------


def flip(column: str, table: str, where: str) -> Callable[[random.Random], list[str]]:
    def change(chance: random.Random) -> list[str]:
        index, bit, place = chance.randrange(LAST + 1), 1 << chance.randrange(8), chance.random()
        at = f"floor({place} * octet_length({column}))::int"
        return [
            f"UPDATE facegate.{table} SET {column} = set_byte({column}, {at}, get_byte({column}, {at}) # {bit}) WHERE "
            + where.format(index)
        ]

    return change


def entry_and_leaf(chance: random.Random) -> list[str]:
    index = chance.randrange(LAST + 1)
    entry = f"id = (SELECT entry FROM facegate.leaf WHERE log = 1 AND index = {index})"
    return [*flip("canonical", "entry", entry)(chance), REHASHED % {"index": index}]


def delete_leaf(chance: random.Random) -> list[str]:
    return [f"DELETE FROM facegate.leaf WHERE index = {chance.randrange(LAST + 1)}"]


def delete_entry(chance: random.Random) -> list[str]:
    return [f"DELETE FROM facegate.entry WHERE id = (SELECT entry FROM facegate.leaf WHERE index = {chance.randrange(LAST + 1)})"]


def swap(chance: random.Random) -> list[str]:
    return swapped(*chance.sample(range(LAST + 1), 2))


def insert(chance: random.Random) -> list[str]:
    index, like = chance.randrange(LAST + 1), chance.randrange(LAST + 1)
    return [
        SHIFTED[0] % {"index": index},
        SHIFTED[1],
        f"INSERT INTO facegate.leaf SELECT log, {index}, entry, xid, hash FROM facegate.leaf WHERE index = {like if like < index else like + 1}",
    ]


def roll_back(chance: random.Random) -> list[str]:
    size = chance.choice([11, 21, 31])
    return [f"DELETE FROM facegate.leaf WHERE index >= {size}", f"DELETE FROM facegate.seal WHERE size > {size}"]


def change_seal(chance: random.Random) -> list[str]:
    place, letter = chance.randrange(1, 200), ord(chance.choice("AZaz09+/= \n-"))
    changed = f"overlay(note PLACING chr({letter}) FROM {place} FOR 1)"
    return [f"UPDATE facegate.seal SET note = CASE WHEN {changed} = note THEN note || 'x' ELSE {changed} END WHERE size = 41"]


CHANGES = [
    flip("canonical", "entry", "id = (SELECT entry FROM facegate.leaf WHERE log = 1 AND index = {})"),
    flip("hash", "leaf", "log = 1 AND index = {}"),
    entry_and_leaf,
    delete_leaf,
    delete_entry,
    swap,
    insert,
    roll_back,
    change_seal,
]


def test_forty_random_changes_are_all_found(tampering: Tampering):
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    for number in range(40):
        change = chance.choice(CHANGES)
        statements = change(chance)
        tampering.do(*statements)
        found = tampering.faults()
        assert found, (seed, number, statements)
        assert all(line.startswith("line ") for line in found), (seed, number, found)
        tampering.undo()
