"""The sealer on a real Postgres: contiguous, without gap or fork wherever it dies, and silent where it must not sign."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.notes import open_note
from moderation.adapters.sealer_folder import SealerFolder, SealingRefused
from moderation.adapters.seals import Sealer
from moderation.audit import leaf_hash
from moderation.log import OPERATOR, Checkpoint, Seal, VerifierKey
from moderation.merkle import Edge
from tests.pg import PostgresServer, as_role, make_tenant

pytestmark = pytest.mark.postgres

NAME = "example.test/log"


@contextmanager
def sealing(database: DatabaseUrls, folder: Path, **options: Any) -> Iterator[Sealer]:
    with SealerFolder(folder) as own, Sealer(database.sealer, own, name=NAME, **options) as sealer:
        yield sealer


@contextmanager
def begun(database: DatabaseUrls, folder: Path, **options: Any) -> Iterator[Sealer]:
    with sealing(database, folder, **options) as sealer:
        sealer.begin()
        yield sealer


def seal_all(database: DatabaseUrls, folder: Path, **options: Any) -> list[Seal]:
    with begun(database, folder, **options) as sealer:
        return list(iter(sealer.seal, None))


def write(database: DatabaseUrls, tenant: UUID, *texts: str) -> list[str]:
    ids = [str(uuid7()) for _ in texts]
    for id, text in zip(ids, texts, strict=True):
        with as_role(database.runtime, tenant=tenant) as cursor:
            cursor.execute(
                "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'decision', %s)", (id, str(tenant), text.encode())
            )
    return ids


def leaves(database: DatabaseUrls, log: int = 1) -> list[tuple[int, str, bytes]]:
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT index, entry, hash FROM facegate.leaf WHERE log = %s ORDER BY index", (log,))
        return [(index, str(entry), bytes(hashed)) for index, entry, hashed in cursor.fetchall()]


def seals(database: DatabaseUrls, log: int = 1) -> list[str]:
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT note FROM facegate.seal WHERE log = %s ORDER BY size", (log,))
        return [note for (note,) in cursor.fetchall()]


def keys(folder: Path) -> list[VerifierKey]:
    return [key.verifier for key in (SealerFolder(folder).key(), SealerFolder(folder).next_key()) if key is not None]


def check(database: DatabaseUrls, keys: list[VerifierKey], log: int = 1) -> Checkpoint:
    """Every entry is one leaf, without gap, and every seal is signed over the leaves up to it; the newest one."""
    found = leaves(database, log)
    assert [index for index, _, _ in found] == list(range(len(found)))
    edge, roots = Edge.of(0, []), {}
    for _, _, hashed in found:
        list(edge.append(hashed))
        roots[edge.size] = edge.root
    checkpoints = [Checkpoint.parse(open_note(note, keys)[0]) for note in seals(database, log)]
    assert [checkpoint.root for checkpoint in checkpoints] == [roots[checkpoint.size] for checkpoint in checkpoints]
    assert checkpoints[-1].size == len(found)
    return checkpoints[-1]


def sealed_entries(database: DatabaseUrls) -> list[str]:
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT entry FROM facegate.leaf")
        return sorted(str(entry) for (entry,) in cursor.fetchall())


def all_entries(database: DatabaseUrls) -> list[str]:
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT id FROM facegate.entry")
        return sorted(str(entry) for (entry,) in cursor.fetchall())


# --- sealing --------------------------------------------------------------------------------------


def test_entries_become_leaves_in_order_and_every_head_is_signed_and_kept_outside(database: DatabaseUrls, tenant: UUID, tmp_path: Path):
    ids = write(database, tenant, "a", "b", "c")
    with begun(database, tmp_path, most=2) as sealer:
        made = list(iter(sealer.seal, None))
        assert [seal.checkpoint.size for seal in made] == [1, 3, 4]
        more = write(database, make_tenant(database.runtime, "other"), "d")
        made.append(sealer.seal())
    opening, *rest = leaves(database)
    assert [(entry, hashed) for _, entry, hashed in rest] == [
        (id, leaf_hash(text)) for id, text in zip(ids + more, (b"a", b"b", b"c", b"d"), strict=True)
    ]
    assert check(database, keys(tmp_path)) == Checkpoint(origin=NAME, size=5, root=made[-1].checkpoint.root)
    assert seals(database) == [seal.note for seal in made]
    assert SealerFolder(tmp_path).checkpoint() == made[-1].note
    with as_role(database.runtime, tenant=tenant) as cursor:  # what the log says of itself is everybody's to read
        cursor.execute("SELECT tenant, canonical FROM facegate.entry WHERE id = %s", (opening[1],))
        owner, canonical = cursor.fetchone()
    assert owner == str(OPERATOR)
    assert json.loads(bytes(canonical))["log"] == {"origin": NAME, "key": keys(tmp_path)[0].text, "reason": None, "former": None}
    assert {(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir() if path.name != "lock"} == {
        ("seal.key", 0o600), ("checkpoint", 0o600), ("cluster", 0o600),
    }  # fmt: skip


def test_nothing_new_is_no_new_checkpoint(database: DatabaseUrls, tmp_path: Path):
    seal_all(database, tmp_path)
    assert seal_all(database, tmp_path) == []
    assert len(seals(database)) == 1


def test_an_entry_whose_transaction_still_runs_is_sealed_after_its_commit_and_holds_later_ones_back(
    database: DatabaseUrls, tenant: UUID, tmp_path: Path
):
    with begun(database, tmp_path) as sealer:
        list(iter(sealer.seal, None))
        with as_role(database.runtime, tenant=tenant) as slow:
            early = str(uuid7())
            slow.execute("INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'decision', '')", (early, str(tenant)))
            late = write(database, tenant, "late")
            assert sealer.seal() is None
        assert sealer.seal() is not None
    assert [entry for _, entry, _ in leaves(database)[1:]] == [early, *late]


def test_two_tenants_with_the_same_entry_id_are_both_sealed(database: DatabaseUrls, tenant: UUID, tmp_path: Path):
    other, id = make_tenant(database.runtime, "other"), str(uuid7())
    for owner in (tenant, other):
        with as_role(database.runtime, tenant=owner) as cursor:
            cursor.execute(
                "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'decision', %s)",
                (id, str(owner), str(owner).encode()),
            )
    seal_all(database, tmp_path, most=1)
    check(database, keys(tmp_path))
    assert {hashed for _, entry, hashed in leaves(database) if entry == id} == {leaf_hash(str(owner).encode()) for owner in (tenant, other)}


def test_a_log_goes_on_where_transactions_are_counted_anew(database: DatabaseUrls, tenant: UUID, tmp_path: Path):
    """As after a restore from a dump on another server: old entries bear numbers that are still to come."""
    write(database, tenant, "old")
    seal_all(database, tmp_path)
    strange = str(uuid7())
    with as_role(database.owner, tenant=tenant) as cursor:
        cursor.execute(
            "INSERT INTO facegate.entry (id, tenant, kind, canonical, xid) VALUES (%s, %s, 'decision', 'x', '99999999999')",
            (strange, str(tenant)),
        )
    (tmp_path / "cluster").write_text("another")
    with as_role(database.owner) as cursor:
        cursor.execute("ALTER TABLE facegate.seal DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.seal SET through = '88888888888'")
    write(database, tenant, "new")
    seal_all(database, tmp_path, most=1)
    check(database, keys(tmp_path))
    assert sealed_entries(database) == all_entries(database)
    write(database, tenant, "newer")
    seal_all(database, tmp_path)
    assert sealed_entries(database) == all_entries(database)


# --- dying ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """As from a signal."""


STEPS = ("extend", "keep", "write", "commit", "go on")


@pytest.mark.parametrize("step", STEPS)
def test_a_sealer_that_dies_at_any_step_is_followed_by_one_that_goes_on_without_gap_or_fork(
    database: DatabaseUrls, tenant: UUID, tmp_path: Path, step: str
):
    promised = []

    def die(reached: str) -> None:
        if reached == step:
            raise Killed

    for life in range(3):  # the first of them ends in the very first checkpoint
        write(database, tenant, *(f"{life}.{number}" for number in range(7)))
        with pytest.raises(Killed), begun(database, tmp_path, before=die) as sealer:
            sealer.seal()
        promised.append(SealerFolder(tmp_path).checkpoint())
        write(database, tenant, f"{life} while nobody seals")
        made = seal_all(database, tmp_path, most=3)
        assert made == [] or made[-1].note == SealerFolder(tmp_path).checkpoint()
        check(database, keys(tmp_path))
        assert sealed_entries(database) == all_entries(database)
    assert {note for note in promised if note is not None} <= set(seals(database))


@contextmanager
def once_after(statement: str, do: Callable[[], object]) -> Iterator[None]:
    """Do something right after the next statement that has these words, in the midst of its transaction."""
    waiting = [do]

    def ran(_connection: object, _cursor: object, ran: str, *_rest: object) -> None:
        if statement in ran and waiting:
            waiting.pop()()

    event.listen(Engine, "after_cursor_execute", ran)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", ran)


def test_what_begins_and_commits_in_the_midst_of_a_reading_is_not_sealed_before_what_still_runs(
    database: DatabaseUrls, tenant: UUID, tmp_path: Path
):
    def die(reached: str) -> None:
        if reached == "commit":
            raise Killed

    seal_all(database, tmp_path)
    (early,) = write(database, tenant, "early")
    late: list[str] = []
    with as_role(database.runtime, tenant=tenant) as slow:
        running = str(uuid7())
        slow.execute("INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'decision', '')", (running, str(tenant)))
        in_between = once_after("pg_snapshot_xmin", lambda: late.extend(write(database, tenant, "late")))
        with pytest.raises(Killed), begun(database, tmp_path, before=die) as sealer, in_between:
            sealer.seal()
    assert late, "it was in the midst of a reading"
    seal_all(database, tmp_path)
    assert [entry for _, entry, _ in leaves(database)[1:]] == [early, running, *late]
    check(database, keys(tmp_path))


# --- refusing -------------------------------------------------------------------------------------


def test_a_second_sealer_is_refused_by_the_folder_and_by_the_database(database: DatabaseUrls, tmp_path: Path):
    with begun(database, tmp_path / "one"):
        with pytest.raises(SealingRefused, match=r"process \d+ seals from .*one already"), begun(database, tmp_path / "one"):
            pass
        with pytest.raises(SealingRefused, match="another process seals this database already"), begun(database, tmp_path / "two"):
            pass
    with begun(database, tmp_path / "one"):
        pass


@contextmanager
def set_back(server: PostgresServer, database: DatabaseUrls, backup: str) -> Iterator[None]:
    """A copy of the database that can be put in its place."""
    name = database.owner.rpartition("/")[2].partition("?")[0]
    server.administer(f"CREATE DATABASE {backup} TEMPLATE {name} OWNER facegate_owner STRATEGY file_copy")
    try:
        yield
        server.administer(f"ALTER DATABASE {name} RENAME TO {backup}_gone")
        server.administer(f"ALTER DATABASE {backup} RENAME TO {name}")
    finally:
        server.administer(f"DROP DATABASE IF EXISTS {backup}_gone WITH (FORCE)")


def test_a_database_that_was_set_back_is_not_signed_until_the_log_is_opened_again_under_another_origin(
    postgres_server: PostgresServer, database: DatabaseUrls, tenant: UUID, tmp_path: Path
):
    write(database, tenant, "early")
    seal_all(database, tmp_path)
    with set_back(postgres_server, database, "backup"):
        write(database, tenant, "lost", "lost too")
        lost = seal_all(database, tmp_path)[-1]
    write(database, tenant, "after the restore", "and another", "and one more")
    kept = (tmp_path / "checkpoint").read_text()
    with pytest.raises(SealingRefused, match=r"example.test/log with 4 entries was signed.*goes back to 2"):
        seal_all(database, tmp_path)
    assert (tmp_path / "checkpoint").read_text() == kept == lost.note
    with sealing(database, tmp_path) as sealer:
        assert sealer.reopen("disk lost, backup of 12:00") == f"{NAME}/restart-2"
        list(iter(sealer.seal, None))
    assert check(database, keys(tmp_path)).size == 2  # the old log is as it was
    again = check(database, keys(tmp_path), log=2)
    assert (again.origin, again.size) == (f"{NAME}/restart-2", 4)
    assert sealed_entries(database) == all_entries(database)
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT canonical FROM facegate.entry JOIN facegate.leaf ON entry.id = leaf.entry WHERE log = 2 AND index = 0")
        said = json.loads(bytes(cursor.fetchone()[0]))
    assert said["event"] == "restarted"
    assert said["log"] == {
        "origin": f"{NAME}/restart-2", "key": keys(tmp_path)[0].text, "reason": "disk lost, backup of 12:00", "former": lost.note,
    }  # fmt: skip
    with sealing(database, tmp_path) as sealer, pytest.raises(SealingRefused, match="nothing to restart"):
        sealer.reopen("no reason")


def test_an_origin_is_never_used_twice_even_where_the_restart_itself_was_set_back(
    postgres_server: PostgresServer, database: DatabaseUrls, tenant: UUID, tmp_path: Path
):
    write(database, tenant, "early")
    seal_all(database, tmp_path)
    with set_back(postgres_server, database, "backup"):
        (tmp_path / "checkpoint").unlink()
        with sealing(database, tmp_path) as sealer:
            sealer.reopen("one")
            sealer.seal()
    with pytest.raises(SealingRefused, match=r"goes on with example.test/log, and example.test/log/restart-2 with 1 entries is kept"):
        seal_all(database, tmp_path)
    with sealing(database, tmp_path) as sealer:
        assert sealer.reopen("two") == f"{NAME}/restart-3"


def test_an_empty_database_is_not_a_new_log_where_a_checkpoint_is_kept(
    postgres_server: PostgresServer, database: DatabaseUrls, tmp_path: Path
):
    seal_all(database, tmp_path)
    with postgres_server.clone() as empty:
        with pytest.raises(SealingRefused, match=r"the database has no log, and example.test/log with 1 entries is kept"):
            seal_all(empty, tmp_path)
        with sealing(empty, tmp_path) as sealer:
            sealer.reopen("a new server")
            sealer.seal()
        assert check(empty, keys(tmp_path), log=2).origin == f"{NAME}/restart-2"


def test_a_lost_folder_is_told(database: DatabaseUrls, tmp_path: Path):
    seal_all(database, tmp_path / "lost")
    with pytest.raises(SealingRefused, match="its key is not in"):
        seal_all(database, tmp_path / "new")
    with sealing(database, tmp_path / "new") as sealer:
        assert sealer.reopen("the folder is gone") == f"{NAME}/restart-2"
        sealer.seal()
    assert check(database, keys(tmp_path / "new"), log=2).size == 1


def test_another_key_than_the_log_has_named_does_not_sign_even_before_the_first_seal(database: DatabaseUrls, tmp_path: Path):
    with begun(database, tmp_path / "first"):
        pass  # opened, and nothing sealed yet
    SealerFolder(tmp_path / "second").make_key(NAME)
    with pytest.raises(SealingRefused, match=f"is none that {NAME} has named"):
        seal_all(database, tmp_path / "second")
    with sealing(database, tmp_path / "second") as sealer:
        assert sealer.reopen("the first folder is gone") == f"{NAME}/restart-2"
        sealer.seal()
    assert check(database, keys(tmp_path / "second"), log=2).size == 1


def test_a_checkpoint_that_cannot_be_read_is_not_named_by_a_restart_but_has_to_be_put_aside(database: DatabaseUrls, tmp_path: Path):
    (made,) = seal_all(database, tmp_path)
    (tmp_path / "checkpoint").write_text(made.note.replace("\n1\n", "\n2\n"))
    for _ in range(2):
        with sealing(database, tmp_path) as sealer, pytest.raises(SealingRefused, match="does not hold"):
            sealer.reopen("spoilt")
    (tmp_path / "checkpoint").unlink()
    with sealing(database, tmp_path) as sealer:
        assert sealer.reopen("spoilt") == f"{NAME}/restart-2"


def test_an_older_copy_of_the_folder_is_gone_on_with_where_the_database_goes_on_from_it(
    database: DatabaseUrls, tenant: UUID, tmp_path: Path
):
    seal_all(database, tmp_path / "now")
    shutil.copytree(tmp_path / "now", tmp_path / "copy")
    write(database, tenant, "more")
    seal_all(database, tmp_path / "now")
    write(database, tenant, "and more")
    seal_all(database, tmp_path / "copy")
    assert check(database, keys(tmp_path / "copy")).size == 3


TAMPERED = {
    "leaf": "UPDATE facegate.leaf SET hash = sha256('') WHERE index = 2",
    "missing leaf": "DELETE FROM facegate.leaf WHERE index = 2",
    "root": "UPDATE facegate.seal SET root = sha256('') WHERE size = 3",
    "missing seal": "DELETE FROM facegate.seal WHERE size = 3",
    "note": "UPDATE facegate.seal SET note = replace(note, E'\\n3\\n', E'\\n4\\n') WHERE size = 3",
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_tree_that_was_changed_is_not_gone_on_with(database: DatabaseUrls, tenant: UUID, tmp_path: Path, change: str):
    write(database, tenant, "a", "b")
    seal_all(database, tmp_path)
    table = TAMPERED[change].split()[1 if TAMPERED[change].startswith("UPDATE") else 2]
    with as_role(database.owner) as cursor:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        cursor.execute(TAMPERED[change])
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT count(*) FROM facegate.seal")
        before = cursor.fetchone()
    write(database, tenant, "c")
    with pytest.raises(SealingRefused, match=r"tree|holes|signature|account for"):
        seal_all(database, tmp_path)
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT count(*) FROM facegate.seal")
        assert cursor.fetchone() == before


# --- another key ----------------------------------------------------------------------------------


def test_a_new_key_takes_over_with_a_checkpoint_under_both(database: DatabaseUrls, tenant: UUID, tmp_path: Path):
    with begun(database, tmp_path) as sealer:
        list(iter(sealer.seal, None))
        (former,) = keys(tmp_path)
        new = SealerFolder(tmp_path).make_next_key(NAME).verifier
        list(iter(sealer.seal, None))
        write(database, tenant, "after")
        last = sealer.seal()
    assert keys(tmp_path) == [new]
    both, only_new = seals(database)[-2:]
    assert open_note(both, [former, new])[1] == (former, new)
    assert open_note(only_new, [former, new])[1] == (new,)
    assert only_new == last.note
    with as_role(database.sealer) as cursor:
        cursor.execute("SELECT canonical FROM facegate.entry JOIN facegate.leaf ON entry.id = leaf.entry WHERE index = 1")
        said = json.loads(bytes(cursor.fetchone()[0]))
    note = said["log"].pop("note")
    assert (said["event"], said["log"]) == ("rotated", {"origin": NAME, "key": new.text, "former_key": former.text})
    assert open_note(note, [former, new]) == (f"facegate/key-change\n{NAME}\n{new.text}\n", (former, new))
    assert seal_all(database, tmp_path) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_rotation_that_is_cut_at_any_step_is_finished_by_the_next_sealer(database: DatabaseUrls, tmp_path: Path, step: str):
    seal_all(database, tmp_path)
    (former,) = keys(tmp_path)
    new = SealerFolder(tmp_path).make_next_key(NAME).verifier

    def die(reached: str) -> None:
        if reached == step:
            raise Killed

    with pytest.raises(Killed), begun(database, tmp_path, before=die) as sealer:
        sealer.seal()
    seal_all(database, tmp_path)
    assert keys(tmp_path) == [new]
    check(database, [former, new])
    assert any(open_note(note, [former, new])[1] == (former, new) for note in seals(database))
