"""`facegate seal` as a process of its own: it seals while it runs, ends politely, survives being killed, and is alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments import doctor, sealer
from deployments.doctor import Finding, findings
from deployments.embedded_postgres import DatabaseUrls
from deployments.settings import Settings, SettingsRefused, to_toml
from moderation.adapters.checkpoint_copies import CopyFailed, GitRepository, ObjectPlace, checkpoint_places
from moderation.adapters.notes import open_note
from moderation.adapters.sealer_folder import SealerFolder, SealingRefused
from moderation.audit import leaf_hash
from moderation.log import Checkpoint, Seal, VerifierKey
from tests.log_kit import checkpoint
from tests.pg import as_role
from tests.s3 import Bucket
from tests.sealed_log import ORIGIN, SealedLog

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings(database: DatabaseUrls, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", sealer_database_url=database.sealer, log_name=ORIGIN)


@pytest.fixture
def log(database: DatabaseUrls, settings: Settings) -> SealedLog:
    return SealedLog(urls=database, folder=settings.sealer)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts sealers and ends those that are left."""
    started: list[subprocess.Popen[str]] = []

    def start(settings: Settings) -> subprocess.Popen[str]:
        config = tmp_path / f"{len(started)}.toml"
        config.write_text(to_toml(settings))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FACEGATE_")}
        command = [str(Path(sys.executable).parent / "facegate"), "seal"]
        process = subprocess.Popen(command, env=clean | {"FACEGATE_CONFIG": str(config)}, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def sealed(log: SealedLog) -> int:
    with as_role(log.urls.sealer) as cursor:
        cursor.execute("SELECT coalesce(max(size), 0) FROM facegate.seal")
        return int(cursor.fetchone()[0])


def wait_for(log: SealedLog, size: int) -> None:
    until = time.monotonic() + 30
    while sealed(log) < size:
        assert time.monotonic() < until, sealed(log)
        time.sleep(0.05)


def test_a_sealer_seals_while_it_runs_is_alone_and_seals_what_is_there_before_it_ends(
    settings: Settings, log: SealedLog, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
):
    git, remote = tmp_path / "git", tmp_path / "remote"
    subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
    subprocess.run(["git", "clone", "-q", str(remote), str(git)], check=True, stderr=subprocess.DEVNULL)  # says that it is empty
    copies = {"checkpoint_copies": (str(tmp_path / "copies"), f"git+{git}")}
    running = start(settings.model_copy(update=copies))
    log.write(3)
    wait_for(log, 4)
    second = start(settings)
    _, said = second.communicate(timeout=30)
    assert (second.returncode, said) == (1, f"facegate: process {running.pid} seals from {settings.sealer} already\n")
    with as_role(log.urls.sealer) as cursor:
        cursor.execute("SELECT extract(epoch FROM max(sealed_at) - min(sealed_at)) FROM facegate.seal")
        assert cursor.fetchone()[0] >= 0.9  # at most one checkpoint a second
    log.write(2)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (0, "")
    note = SealerFolder(settings.sealer).checkpoint()
    checkpoint = Checkpoint.parse(open_note(note, [VerifierKey.parse(log.key)])[0])
    assert (checkpoint.origin, checkpoint.size) == (ORIGIN, 6)
    name = ORIGIN.replace("/", "%2F")
    assert (tmp_path / "copies" / name / f"{6:020}.checkpoint").read_text() == note
    assert (git / f"{name}.checkpoint").read_text() == note
    history = subprocess.run(["git", "-C", str(remote), "log", "--all", "--format=%s"], check=True, capture_output=True, text=True).stdout
    assert history.splitlines()[0] == f"{ORIGIN} 6"
    assert log.faults() == []
    shutil.rmtree(tmp_path / "copies")
    again = start(settings.model_copy(update=copies))  # with nothing new: what was not copied before a death is copied now
    until = time.monotonic() + 30
    while not (tmp_path / "copies" / name / f"{6:020}.checkpoint").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    again.terminate()
    assert again.wait(30) == 0


def test_a_sealer_that_is_killed_again_and_again_leaves_no_gap(
    settings: Settings, log: SealedLog, start: Callable[..., subprocess.Popen[str]]
):
    for life in range(2):
        running = start(settings)
        wait_for(log, 1)
        log.write(50)
        log.write(50, tenant=1)
        wait_for(log, 1 + 100 * life + 50)
        running.kill()
        running.wait()
    log.seal()
    assert sealed(log) == 201
    assert log.faults() == []


def test_a_key_is_rotated_under_a_sealer_that_runs_and_without_one(
    settings: Settings, log: SealedLog, start: Callable[..., subprocess.Popen[str]]
):
    with pytest.raises(SealingRefused, match="nothing was sealed from there yet"):
        sealer.rotate(settings)
    running = start(settings)
    wait_for(log, 1)
    first = log.key
    second = sealer.rotate(settings)
    assert second == log.key != first
    running.terminate()
    running.wait(30)
    third = sealer.rotate(settings)
    assert third == log.key not in {first, second}
    with as_role(log.urls.sealer) as cursor:
        cursor.execute("SELECT note FROM facegate.seal ORDER BY size")
        notes = [note for (note,) in cursor.fetchall()]
    keys = [VerifierKey.parse(text) for text in (first, second, third)]
    assert [len(open_note(note, keys)[1]) for note in notes] == [1, 2, 2]


def test_a_restart_is_for_a_log_that_cannot_go_on_and_says_its_origin(settings: Settings, log: SealedLog):
    log.write(1)
    log.seal()
    with pytest.raises(SealingRefused, match="nothing to restart"):
        sealer.restart(settings, "for fun")
    (settings.sealer / "checkpoint").unlink()
    with pytest.raises(SealingRefused, match="no checkpoint is kept"):
        log.seal()
    assert sealer.restart(settings, "folder lost") == f"{ORIGIN}/restart-2"
    log.seal()


def test_a_place_for_copies_never_forgets_and_says_when_it_would_have_to(tmp_path: Path, log: SealedLog):
    with pytest.raises(ValueError, match="not a working copy"):
        checkpoint_places([f"git+{tmp_path}"])
    with pytest.raises(ValueError, match="media store"):
        checkpoint_places(["ftp://example.test"])
    place = ObjectPlace(str(tmp_path / "copies"))
    log.seal()
    made = seal_of(log)
    place.keep(made)
    place.keep(made)
    (kept,) = (tmp_path / "copies").rglob("*.checkpoint")
    kept.write_text("another")
    with pytest.raises(CopyFailed, match="another checkpoint"):
        place.keep(made)


def test_a_bucket_for_copies_never_forgets_either(s3_bucket: Bucket, log: SealedLog):
    place = ObjectPlace(s3_bucket.url)
    log.seal()
    made = seal_of(log)
    place.keep(made)
    place.keep(made)
    (key,) = s3_bucket.keys()
    assert s3_bucket.client.get_object(Bucket=s3_bucket.name, Key=key)["Body"].read() == made.note.encode()
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=key, Body=b"another")
    with pytest.raises(CopyFailed, match="another checkpoint"):
        place.keep(made)


def test_a_working_copy_never_goes_back_nor_to_another_checkpoint_of_the_same_size(tmp_path: Path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    place = GitRepository(tmp_path)

    def made(*entries: bytes) -> Seal:
        note = checkpoint([leaf_hash(entry) for entry in entries])
        return Seal(checkpoint=Checkpoint.parse(note.rpartition("\n\n")[0] + "\n"), note=note, sealed_at=datetime.now(UTC))

    two = made(b"a", b"b")
    for one in (made(b"a"), two, two):
        place.keep(one)
    for other in (made(b"a"), made(b"a", b"c")):
        with pytest.raises(CopyFailed, match="has another checkpoint, over 2 leaves"):
            place.keep(other)
    (file,) = tmp_path.glob("*.checkpoint")
    assert file.read_text() == two.note
    place.keep(made(b"a", b"b", b"c"))
    file.write_text("spoilt")
    with pytest.raises(CopyFailed, match="is no checkpoint"):
        place.keep(made(b"a", b"b", b"c", b"d"))


class Unsteady:
    """A place that fails a few times, each time in another way, and says when it was asked and when it has got something."""

    def __init__(self, *faults: Exception) -> None:
        self.faults, self.asked, self.kept = list(faults), 0, threading.Event()

    def keep(self, _seal: Seal) -> None:
        self.asked += 1
        if self.faults:
            raise self.faults.pop(0)
        self.kept.set()


def test_a_copy_that_failed_is_made_again_though_nothing_is_sealed_meanwhile_and_where_it_worked_only_once(
    log: SealedLog, caplog: pytest.LogCaptureFixture
):
    log.seal()
    steady, unsteady = Unsteady(), Unsteady(CopyFailed("full"), RuntimeError("odd"))
    copies = sealer.Copies([unsteady, steady], every_s=0.01)
    copies.offer(seal_of(log))
    assert unsteady.kept.wait(30)
    copies.close()
    assert (steady.asked, unsteady.asked) == (1, 3)
    assert [record.levelname for record in caplog.records if "not copied" in record.message] == ["ERROR", "ERROR"]


def seal_of(log: SealedLog) -> Seal:
    note = SealerFolder(log.folder).checkpoint()
    return Seal(checkpoint=Checkpoint.parse(note.rpartition("\n\n")[0] + "\n"), note=note, sealed_at=datetime.now(UTC))


def test_doctor_says_what_is_sealed_and_warns_where_nobody_else_has_its_checkpoints(settings: Settings, log: SealedLog, tmp_path: Path):
    def said(settings: Settings) -> Finding:
        return next(finding for finding in findings(settings, {"signed log": doctor._log}))

    assert said(settings) == Finding(what="signed log", is_good=True, detail="none yet (made on first start)")
    log.write(2)
    log.seal()
    alone = said(settings)
    assert (alone.is_warning, alone.detail.startswith(f"{ORIGIN}, 3 entries sealed; nobody else")) == (True, True)
    copied = said(settings.model_copy(update={"checkpoint_copies": (str(tmp_path / "copies"),)}))
    assert (copied.is_warning, copied.detail) == (False, f"{ORIGIN}, 3 entries sealed; copied to {tmp_path / 'copies'}")
    (settings.sealer / "checkpoint").write_text("something else")
    assert not said(settings).is_good


def test_without_the_role_of_the_sealer_nothing_is_sealed(database: DatabaseUrls, tmp_path: Path):
    with pytest.raises(SettingsRefused, match="FACEGATE_SEALER_DATABASE_URL"):
        sealer.seal(Settings(home=tmp_path, database_url=database.runtime))
