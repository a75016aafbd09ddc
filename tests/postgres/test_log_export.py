"""The log out of a real Postgres as the file that outsiders get."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters import verify_log
from moderation.adapters.database import Database
from moderation.adapters.log_export import PostgresExport
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.receipts import PostgresReceipts
from moderation.adapters.sealer_folder import SealerFolder, SealingRefused
from moderation.adapters.seals import Sealer
from moderation.adapters.service_key import ServiceKey
from moderation.audit import log_entry
from moderation.log import OPERATOR
from tests import second_verifier
from tests.log_kit import ORIGIN, another_signer
from tests.pg import as_role
from tests.sealed_log import SealedLog, entries_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def log(database: DatabaseUrls, tmp_path: Path) -> SealedLog:
    return SealedLog(urls=database, folder=tmp_path / "sealer")


def test_an_export_holds_before_both_verifiers_whatever_its_portions(log: SealedLog):
    log.write(30)
    log.seal()
    log.write(30, tenant=1)
    log.seal()
    whole = log.export(portion=1000)
    assert log.faults(whole) == []
    assert second_verifier.is_good(whole, log.key)
    assert [log.export(portion=portion) for portion in (1, 7, 61)] == [whole] * 3
    assert json.loads(whole.splitlines()[0])["size"] == 61  # with the entry that opens the log


def test_a_tenant_verifies_the_whole_tree_and_sees_its_own_entries_and_those_about_the_log(log: SealedLog):
    log.write(5, tenant=0, text="mine")
    log.write(5, tenant=1, text="theirs")
    log.seal()
    data = log.export(0)
    assert log.faults(data) == []
    assert b"mine" in data
    assert b"theirs" not in data
    assert [entry["kind"] for entry in entries_of(data).values()] == ["log", *["decision"] * 5]
    assert len(entries_of(log.export(None))) == 11


def test_an_export_goes_from_a_checkpoint_to_the_next_seal_and_is_compared_with_it(log: SealedLog):
    checkpoints = []
    for _ in range(5):
        log.write(7)
        checkpoints.append(log.seal())
    part = log.export(first=15, last=20)
    header = json.loads(part.splitlines()[0])
    assert (header["start"], header["size"]) == (15, 22)
    assert part.splitlines()[1].startswith(b'{"checkpoint":')  # that of 15 leaves
    assert log.faults(part, kept=tuple(checkpoints[1:3])) == []
    assert log.faults(log.export(first=16), kept=(checkpoints[4],)) == []
    assert log.faults(log.export(first=36)) == []  # nothing new


def test_an_export_between_two_moments_holds_what_was_sealed_then(log: SealedLog):
    log.write(3)
    log.seal()
    between = datetime.now(UTC)
    log.write(4)
    log.seal()
    early, late = log.export(last=between), log.export(first=between)
    assert [json.loads(data.splitlines()[0])[name] for data in (early, late) for name in ("start", "size")] == [0, 4, 4, 8]
    assert log.faults(early) == log.faults(late) == []


def test_nothing_sealed_is_no_span(log: SealedLog):
    async def ask() -> list[object]:
        with closing(Database(log.urls.runtime, connections=1)) as database:
            exports = PostgresExport(database)
            wanted = [(None, None, None), (9, None, None), (None, datetime(2020, 1, 1, tzinfo=UTC), None), (None, None, "else.test")]
            return [await exports.span(first=first, last=last, origin=origin) for first, last, origin in wanted]

    assert asyncio.run(ask()) == [None] * 4
    log.write(1)
    log.seal()
    spans = asyncio.run(ask())
    assert spans[0] is not None
    assert spans[1:] == [None] * 3


def test_long_entries_end_a_portion_and_are_all_there(log: SealedLog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("moderation.adapters.log_export.BYTES", 5000)
    log.write(20, text="x" * 2000)
    log.seal()
    assert log.faults(log.export(portion=1000), needs_entries=True) == []


def test_letters_beyond_ascii_and_bytes_that_are_no_text_come_through(log: SealedLog):
    log.write(2, text='Käse 🧀 \u2028 \\ "')
    with as_role(log.urls.runtime, tenant=log.tenant()) as cursor:
        for number, entry in enumerate((b'{"a":"\xff"}', b'{"a":\n1}', b"x", b"")):
            cursor.execute(
                "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (facegate.uuid_floor(now() + %s * interval '1 s'), %s, 'decision', %s)",
                (number, str(log.tenant()), entry),
            )
    log.seal()
    faults = log.faults()
    assert len(faults) == 4
    assert all("has its leaf hash and is not what an entry looks like" in fault for fault in faults)


def test_after_a_restore_that_lost_entries_the_log_goes_on_under_another_origin_and_says_which_checkpoint_it_could_not_keep(
    log: SealedLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log.write(5)
    log.seal()
    log.write(5)
    lost = log.seal()
    with as_role(log.urls.owner) as cursor:  # the state of an hour ago
        for table, rows in (("leaf", "index >= 6"), ("seal", "size > 6")):
            cursor.execute(f"ALTER TABLE facegate.{table} DISABLE TRIGGER append_only")
            cursor.execute(f"DELETE FROM facegate.{table} WHERE {rows}")
            cursor.execute(f"ALTER TABLE facegate.{table} ENABLE TRIGGER append_only")
        cursor.execute("ALTER TABLE facegate.entry DISABLE TRIGGER append_only, NO FORCE ROW LEVEL SECURITY")
        cursor.execute("DELETE FROM facegate.entry WHERE id NOT IN (SELECT entry FROM facegate.leaf)")
        cursor.execute("ALTER TABLE facegate.entry ENABLE TRIGGER append_only, FORCE ROW LEVEL SECURITY")
    with pytest.raises(SealingRefused):
        log.seal()
    with SealerFolder(log.folder) as folder, Sealer(log.urls.sealer, folder) as sealer:
        assert sealer.reopen("the disk was lost") == f"{ORIGIN}/restart-2"
    log.write(3)
    log.seal()
    again = log.export()
    assert log.faults(again) == []
    assert log.faults(again, kept=(lost,)) == []  # it is the very one that the restart names
    first = entries_of(again)[0]
    assert (first["event"], first["log"]["reason"], first["log"]["former"]) == ("restarted", "the disk was lost", lost)
    before = log.export(origin=ORIGIN)
    assert any("rolled back" in fault for fault in log.faults(before, kept=(lost,)))
    for name, data in (("now", again), ("before", before), ("kept", lost.encode())):
        (tmp_path / name).write_bytes(data)
    asked = [str(tmp_path / "now"), "--key", log.key, "--checkpoint", str(tmp_path / "kept"), "--former", str(tmp_path / "before")]
    assert verify_log.main(asked) == 3
    said = capsys.readouterr().out
    assert f"it goes on from {ORIGIN} with 11 leaves after a restart: the disk was lost" in said
    assert f"covers 11 leaves of {ORIGIN}, of which 6 are left: a restart says why" in said


def test_the_first_key_is_enough_for_a_log_whose_key_was_rotated_and_a_forged_rotation_is_not_followed(log: SealedLog):
    log.write(3)
    log.seal()
    first = log.key
    SealerFolder(log.folder).make_next_key(ORIGIN)
    log.write(2)
    log.seal()
    log.write(300)
    log.seal()
    assert log.key != first
    for data in (log.export(), log.export(portion=4), log.export(first=4)):
        reading = verify_log.Export(keys=[verify_log.read_key(first)])
        reading.read(io.BytesIO(data))
        assert (reading.faults, [key.text for key in reading.followed]) == ([], [log.key])
    assert second_verifier.is_good(log.export(), first)
    thief = another_signer(33)
    facts = {"origin": ORIGIN, "key": thief.text, "former_key": log.key, "note": None}
    id = uuid7()
    entry = log_entry(id=id, tenant=OPERATOR, event="rotated", actor="sealer", at=datetime.now(UTC), nonce=bytes(16), facts=facts)
    with as_role(log.urls.sealer, tenant=OPERATOR) as cursor:
        cursor.execute(
            "INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, 'log', %s)", (str(id), str(OPERATOR), entry)
        )
    log.seal()
    reading = verify_log.Export(keys=[verify_log.read_key(first)])
    reading.read(io.BytesIO(log.export()))
    assert (reading.faults, reading.heirs) == ([], [])


def test_after_ten_minutes_without_a_sealer_a_receipt_is_late_and_nothing_is_lost(
    log: SealedLog, record: PostgresRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made_at = datetime.now(UTC) - timedelta(minutes=10)

    async def receipts() -> list[str]:
        with closing(Database(log.urls.runtime, connections=1)) as database:
            promised = PostgresReceipts(database, ServiceKey(bytes(32)), record.leaves)
            found = await promised.of(log.tenant(), dict.fromkeys(log.entries(0), made_at))
            return [json.dumps({"note": receipt.note}) + "\n" for receipt in found.values()]

    def checked() -> tuple[int, str]:
        (tmp_path / "export").write_bytes(log.export(0))
        status = verify_log.main([str(tmp_path / "export"), "--key", log.key, "--receipts", str(tmp_path / "receipts")])
        return status, capsys.readouterr().out

    log.write(3)
    asyncio.run(receipts())  # which announces their key
    log.seal()
    log.write(2)
    (tmp_path / "receipts").write_text("".join(asyncio.run(receipts())))
    status, out = checked()
    assert (status, out.count("was promised to be in the log by")) == (1, 2)
    assert "3 of 5 receipts are in the log" in out
    log.seal()
    status, out = checked()
    assert (status, out.splitlines()[-2:]) == (0, ["5 of 5 receipts are in the log", "holds"])
