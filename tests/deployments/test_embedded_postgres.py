"""The embedded Postgres: quick, closed to everybody else, and back after whatever happened."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from deployments.embedded_postgres import ROLES, DatabaseUrls, EmbeddedPostgres, EmbeddedPostgresError
from tests.pg import as_role, memory

pytestmark = pytest.mark.postgres


@contextmanager
def a_home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="facegate-test-", dir=memory()))
    yield folder
    shutil.rmtree(folder)


@contextmanager
def a_server(home: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(home, durable=False)
    yield made
    made.stop()


@pytest.fixture
def home() -> Iterator[Path]:
    with a_home() as folder:
        yield folder


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    with a_server(home) as made:
        yield made


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedPostgres]:
    """One that was started; whoever looks at it leaves it so."""
    with a_home() as home, a_server(home) as made:
        made.start()
        yield made


def asks(url: str, question: str = "SELECT current_user") -> str:
    with as_role(url) as cursor:
        cursor.execute(question)
        return str(cursor.fetchone()[0])


def leave_a_mark(urls: DatabaseUrls) -> None:
    with as_role(urls.owner) as cursor:
        cursor.execute("CREATE TABLE mark AS SELECT 'still here' AS word")


def mark(urls: DatabaseUrls) -> str:
    return asks(urls.owner, "SELECT word FROM mark")


def test_each_role_gets_in_with_its_own_password(running: EmbeddedPostgres):
    urls = running.start()
    assert [asks(getattr(urls, name)) for name in ROLES] == list(ROLES.values())


def test_nobody_gets_in_without_the_right_password_or_as_anybody_else(running: EmbeddedPostgres):
    urls = running.start()
    host = running.administrator()["host"]
    for user in (*ROLES.values(), "postgres", "nobody", "root"):
        for password in ("", "wrong"):
            with pytest.raises(psycopg2.OperationalError):
                psycopg2.connect(host=host, user=user, dbname="facegate", password=password)
    with as_role(urls.owner) as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolsuper OR rolbypassrls OR rolcreaterole")
        assert cursor.fetchall() == [("postgres",)]


def test_it_listens_on_its_socket_only_and_the_socket_is_closed_to_others(running: EmbeddedPostgres):
    urls = running.start()
    sockets = Path(running.administrator()["host"])
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(host="127.0.0.1", port=5432, user=ROLES["runtime"], dbname="facegate", connect_timeout=1)
    assert asks(urls.runtime, "SELECT current_setting('listen_addresses')") == ""


def test_passwords_data_and_log_are_for_their_owner_only(running: EmbeddedPostgres):
    home = running.data.parents[1]
    passwords = home / "postgres" / "passwords"
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o700
    assert sorted(file.name for file in passwords.iterdir()) == ["owner", "postgres", "runtime", "sealer"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in passwords.iterdir()} == {0o600}
    assert stat.S_IMODE(running.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(running.log.stat().st_mode) == 0o600
    assert not list((home / "postgres" / "run").glob("initial"))


def test_data_and_passwords_outlive_a_stop(server: EmbeddedPostgres):
    urls = server.start()
    leave_a_mark(urls)
    server.stop()
    assert server.pid is None
    assert server.running_urls() is None
    assert server.start() == urls
    assert mark(urls) == "still here"


def test_starting_what_runs_already_changes_nothing(running: EmbeddedPostgres):
    urls = running.start()
    pid = running.pid
    assert running.start() == urls
    assert running.pid == pid


def test_a_second_one_on_the_same_folder_refuses_in_one_line_and_can_find_the_first(running: EmbeddedPostgres):
    home = running.data.parents[1]
    urls = running.start()
    second = EmbeddedPostgres(home)
    with pytest.raises(EmbeddedPostgresError) as refused:
        second.start()
    assert str(refused.value) == f"the database in {home}/postgres is already in use by process {os.getpid()}"
    assert second.running_urls() == urls
    assert mark_is_possible(urls)


def mark_is_possible(urls: DatabaseUrls) -> bool:
    leave_a_mark(urls)
    return mark(urls) == "still here"


def test_it_starts_again_after_it_was_killed(server: EmbeddedPostgres):
    urls = server.start()
    leave_a_mark(urls)
    os.kill(server.pid or 0, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.01)
    assert server.start() == urls
    assert mark(urls) == "still here"


def test_the_pid_of_a_dead_server_may_belong_to_somebody_else_by_now(server: EmbeddedPostgres):
    urls = server.start()
    leave_a_mark(urls)
    server.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        pid_file = server.data / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{server.data}\n1\n5432\n/nowhere\n\n1 1\nready\n")
        shutil.copyfile(pid_file, server.data.parent / "kept")
        assert server.start() == urls
        assert mark(urls) == "still here"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_whose_starter_was_killed_is_stopped_and_replaced(server: EmbeddedPostgres, home: Path):
    start_and_die = (
        "import os, pathlib, signal\n"
        "from deployments.embedded_postgres import EmbeddedPostgres\n"
        f"server = EmbeddedPostgres(pathlib.Path({str(home)!r}), durable=False)\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    orphan = int(subprocess.run([sys.executable, "-c", start_and_die], capture_output=True, check=False, text=True).stdout)
    assert Path(f"/proc/{orphan}").exists()
    urls = server.start()
    assert server.pid != orphan
    assert not Path(f"/proc/{orphan}/cwd").exists() or not Path(f"/proc/{orphan}/cwd").samefile(server.data)
    assert asks(urls.runtime) == "facegate_runtime"


def test_an_interrupted_first_start_is_begun_anew(server: EmbeddedPostgres, home: Path):
    half = home / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    assert asks(server.start().runtime) == "facegate_runtime"


@pytest.mark.parametrize("name", ["with space", "comma,and'quote", "ü" * 20, "long" * 40])
def test_it_runs_under_any_path_even_where_others_cannot_go(home: Path, name: str):
    closed = home / name
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "inner", durable=False)
    try:
        urls = server.start()
        assert asks(urls.runtime) == "facegate_runtime"
        elsewhere = Path(server.administrator()["host"]).parent
    finally:
        server.stop()
    assert elsewhere.is_relative_to(closed) or not elsewhere.exists()


def test_a_lost_password_of_the_administrator_is_said_in_one_line(server: EmbeddedPostgres, home: Path):
    server.start()
    server.stop()
    (home / "postgres" / "passwords" / "postgres").unlink()
    with pytest.raises(EmbeddedPostgresError, match="is gone"):
        server.start()
    assert server.pid is None


def test_a_lost_password_of_another_role_is_replaced(server: EmbeddedPostgres, home: Path):
    before = server.start()
    server.stop()
    (home / "postgres" / "passwords" / "runtime").unlink()
    after = server.start()
    assert after.runtime != before.runtime
    assert asks(after.runtime) == "facegate_runtime"


def test_a_damaged_cluster_is_said_in_one_line(server: EmbeddedPostgres):
    server.start()
    server.stop()
    shutil.rmtree(server.data / "global")
    with pytest.raises(EmbeddedPostgresError, match="did not start") as refused:
        server.start()
    assert "\n" not in str(refused.value)
    assert server.pid is None


def test_ctrl_c_in_the_terminal_is_left_to_the_starter(running: EmbeddedPostgres):
    assert os.getpgid(running.pid or 0) != os.getpgid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to somebody else")
def test_as_root_the_server_runs_as_an_ordinary_user(running: EmbeddedPostgres):
    assert Path(f"/proc/{running.pid}").stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to somebody else")
def test_where_the_installed_binaries_are_out_of_reach_a_copy_runs(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deployments.embedded_postgres._reaches", lambda _account, _folder: False)
    urls = server.start()
    program = Path(f"/proc/{server.pid}/exe").resolve()
    assert program.is_relative_to(Path(server.administrator()["host"]).parent)
    assert asks(urls.runtime) == "facegate_runtime"
    server.stop()
    assert not program.exists()
