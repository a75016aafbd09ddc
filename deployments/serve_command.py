"""`facegate serve`: the whole service on this machine, started by one command and gone with it.

Two processes. The *launcher* is the command itself: it checks what can be checked, makes a folder for this run, starts
the *runner* in a session of its own with the environment that Ray reads, passes signals on, and in the end removes
whatever is left. The runner starts Postgres, Ray and the application, says when they are ready, and watches them.
Each adopts the orphans below it and ends with the other, so that neither's death leaves anything running.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Generic, NoReturn, Self, TypeVar

from deployments import cluster, supervision
from deployments.settings import CONFIG, SettingsRefused, load_settings, to_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres
    from deployments.settings import Settings

T = TypeVar("T")

READY_WITHIN_S: Final = 300.0
STOP_WITHIN_S: Final = 40.0
DRAIN_S: Final = 15.0
SEALER_AGAIN_S: Final = (5.0, 60.0)
"""How long after its start a sealer that ended is started again: at first, and at most."""
LOG_BYTES: Final = 20_000_000
_BASES: Final = ("/tmp", "/var/tmp")  # noqa: S108  # mkdtemp makes a private folder there; the path has to be short
_SOCKET_ROOM: Final = 24
"""Longest folder under which all socket paths fit into 107 bytes."""

NUDENET_NOTE: Final = (
    "NudeNet is here for evaluation only: its published recall is about 61 % at a threshold of 0.2 and 38 % at 0.5.\n"
    "A detector explains well and gates poorly alone; set FACEGATE_CLASSIFIERS before you rely on a verdict."
)

FACES_NOTES: Final = {
    "yunet": "Faces are found by YuNet.",
    "lbp-cascade": "Faces are found by a fallback without weights: upright frontal ones only. Better: facegate models pull yunet",
    None: "Face swaps are off, for there is no face detector: facegate models pull yunet, or install facegate[local].",
}
"""By what finds the faces on this machine."""


# --- the launcher -----------------------------------------------------------------------------------


def serve(settings: Settings) -> int:
    """Run until a signal says stop; the exit status. Raises SettingsRefused, in one line, when it cannot start."""
    began = time.monotonic()
    with _locked(settings), _run_folder(settings) as run:
        if not cluster.is_free(settings.host, settings.port):
            raise SettingsRefused(f"port {settings.port} of {settings.host} is taken: set FACEGATE_PORT to another")
        environment = cluster.environment(settings, run, os.environ)
        _write_private(run.path / "start.toml", to_toml(settings))
        supervision.adopt_orphans()
        command = [sys.executable, "-m", "deployments.serve_command", str(run.path), str(os.getpid()), str(began)]
        with _Signals() as signals:
            runner = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603  # ours
            signals.pass_on_to(runner)
            try:
                status = runner.wait()
            finally:
                left = supervision.sweep()
        if status < 0 and not signals.received:
            sys.stderr.write(f"facegate: the service was killed by {signal.Signals(-status).name}; {len(left)} processes ended after it\n")
        return 0 if signals.received else abs(status)


class _Signals:
    """While it lasts, signals to stop go to the runner; the second one, or 40 seconds, kill it."""

    _STOP: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received = 0
        self._runner: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {sign: signal.signal(sign, self._handle) for sign in (*self._STOP, signal.SIGALRM)}
        return self

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    def pass_on_to(self, runner: subprocess.Popen[bytes]) -> None:
        """Name the runner; a signal that came before is passed on now."""
        self._runner = runner
        if self.received:
            self._handle(signal.SIGTERM, None, again=True)

    def _handle(self, sign: int, _: object, *, again: bool = False) -> None:
        if sign != signal.SIGALRM and not again:
            self.received += 1
        if self._runner is None or self._runner.returncode is not None:
            return
        if sign == signal.SIGALRM or self.received > 1:
            self._runner.kill()
        else:
            signal.alarm(int(STOP_WITHIN_S))
            self._runner.terminate()


@contextlib.contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """One service on one data directory."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock: IO[str] = (settings.home / "serve.lock").open("a+")
    except OSError as error:
        raise SettingsRefused(f"the data directory {settings.home} cannot be used: {error.strerror}; set FACEGATE_HOME") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise SettingsRefused(f"process {lock.read().strip() or '?'} serves from {settings.home} already: set FACEGATE_HOME") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextlib.contextmanager
def _run_folder(settings: Settings) -> Iterator[cluster.RunFolder]:
    """A private folder with a short path; that of a run that crashed is removed first."""
    note = settings.home / "run"
    with contextlib.suppress(OSError):
        _remove_run(Path(note.read_text(encoding="utf-8")))
    path = Path(tempfile.mkdtemp(prefix="fg-", dir=_short_base()))
    note.write_text(str(path), encoding="utf-8")
    run = cluster.RunFolder(path=path)
    run.metrics.mkdir()
    try:
        yield run
    finally:
        _keep_logs(run, settings.home / "logs" / "ray")
        _remove_run(path)
        note.unlink(missing_ok=True)


def _short_base() -> str:
    for base in (tempfile.gettempdir(), *_BASES):
        if len(base) <= _SOCKET_ROOM - len("/fg-12345678") and os.access(base, os.W_OK | os.X_OK):
            return base
    raise SettingsRefused(f"no writable folder with a short path: looked at {', '.join(_BASES)}; set TMPDIR")


def _remove_run(path: Path) -> None:
    if path.name.startswith("fg-") and path.is_dir() and path.stat().st_uid == os.geteuid():
        shutil.rmtree(path, ignore_errors=True)


def _keep_logs(run: cluster.RunFolder, to: Path) -> None:
    """The logs of Ray and of the replicas outlive the run, until the next one ends."""
    for logs in run.ray.glob("session_[0-9]*/logs"):
        shutil.rmtree(to, ignore_errors=True)
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copytree(logs, to, symlinks=True)


def _write_private(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)


# --- the runner -------------------------------------------------------------------------------------


class _Stopped(BaseException):
    """A signal said stop. Not an Exception: nothing on the way may take it for an error."""


class _Failed(Exception):  # the service's, not a bug's
    """The service cannot start or go on; the text is one line."""


@dataclass(slots=True, kw_only=True)
class _Runner:
    """Everything that runs, in the order in which it was started."""

    settings: Settings
    run: cluster.RunFolder
    out: IO[str]
    began: float
    postgres: EmbeddedPostgres | None = None
    sealer: SealerProcess | None = None
    node: Any = None
    application: bool = False

    def start(self) -> str:
        """Start all of it; returns the local key once `/readyz` says ready. Postgres and Ray start side by side."""
        record = _Aside(self._start_record)
        self.node = cluster.start_head(self.settings, self.run)
        signal.signal(signal.SIGTERM, _raise_stopped)  # Ray has put its own handler before ours
        self._start_serve()
        key = record.result()
        self._deploy()
        self._await_ready()
        return key

    def _start_record(self) -> str:
        """The record and what has to be in it; then the settings as the replicas read them, without the owner's login."""
        from deployments.first_run import prepare  # noqa: PLC0415  # while Ray starts

        urls = self._database()
        resolved = self.settings.model_copy(update={"database_url": _secret(urls.runtime)})
        _write_private(self.run.settings, to_toml(resolved, without=frozenset({"owner_database_url", "sealer_database_url"})))
        key = prepare(self.settings, urls)
        if urls.sealer:
            self.sealer = SealerProcess(self.settings.model_copy(update={"sealer_database_url": _secret(urls.sealer)}), self.run)
            self.sealer.start()
        return key

    def _database(self) -> DatabaseUrls:
        from deployments.embedded_postgres import DatabaseUrls, EmbeddedPostgres  # noqa: PLC0415

        given = self.settings
        if given.database_url is None:
            self.postgres = EmbeddedPostgres(given.home)
            return self.postgres.start()
        return DatabaseUrls(
            owner=given.owner_database_url.get_secret_value() if given.owner_database_url else "",
            runtime=given.database_url.get_secret_value(),
            sealer=given.sealer_database_url.get_secret_value() if given.sealer_database_url else "",
        )

    def _start_serve(self) -> None:
        from ray import serve as ray_serve  # noqa: PLC0415
        from ray.serve.schema import LoggingConfig  # noqa: PLC0415

        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": self.settings.host,
                "port": self.settings.port,
                "request_timeout_s": None if self.settings.serve_mode == "haproxy" else self._patience_s(),
            },
            logging_config=LoggingConfig(encoding="JSON", log_level="WARNING", enable_access_log=False),
        )

    def _patience_s(self) -> float:
        return self.settings.max_wait_s + self.settings.body_timeout_s + 30.0

    def _deploy(self) -> None:
        from ray import serve as ray_serve  # noqa: PLC0415

        from deployments.app import APPLICATION, build_app, one_machine  # noqa: PLC0415

        self.application = True
        try:
            ray_serve.run(build_app(one_machine(self.settings, gpus=self._gpus())), name=APPLICATION, route_prefix="/")
        except RuntimeError:
            raise _Failed(_why_not_deployed(APPLICATION)) from None

    def _gpus(self) -> float:
        """GPUs that Ray has found."""
        import ray  # noqa: PLC0415

        found = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
        if self.settings.device == "cuda" and not found:
            raise _Failed("FACEGATE_DEVICE is cuda, and there is no GPU")
        return found

    def _await_ready(self) -> None:
        url = f"{self.url}/readyz"
        deadline = time.monotonic() + READY_WITHIN_S
        said = "no answer"
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own http URL
                    if answer.status == 200:  # noqa: PLR2004
                        return
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(2000).decode(errors="replace")
            except OSError:
                pass
            time.sleep(0.05)
        raise _Failed(f"not ready within {READY_WITHIN_S:.0f} s: {said}")

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{cluster.serving_host(self.settings.host)}:{self.settings.port}"

    def watch(self) -> NoReturn:
        """Until a signal: start a dead embedded Postgres again; give up when a part of Ray is dead that nothing replaces."""
        while True:
            time.sleep(1.0)
            dead = cluster.dead_part(self.node)
            if dead is not None:
                self.application = False  # nobody is left to drain it
                raise _Failed(f"Ray's {dead} has ended; its logs are in {self.settings.home / 'logs' / 'ray'}")
            if self.postgres is not None and self.postgres.pid is None:
                self._restart_postgres(self.postgres)
            if self.sealer is not None and self.sealer.start_again():
                self.say("the sealer has ended; it is started again. Its reason is in the log of the service")

    def _restart_postgres(self, postgres: EmbeddedPostgres) -> None:
        from deployments.embedded_postgres import EmbeddedPostgresError  # noqa: PLC0415

        self.say("Postgres has ended; it is started again")
        try:
            postgres.start()
        except EmbeddedPostgresError as error:
            self.say(f"Postgres: {error}; trying again")
            time.sleep(5.0)

    def stop(self) -> None:
        """Finish what is being answered, then end everything, the record last."""
        if self.application:
            _within(DRAIN_S, _shut_down_serve)
        if self.node is not None:
            _within(DRAIN_S, lambda: cluster.stop_head(self.node))
        if self.sealer is not None:
            self.sealer.stop()
        postgres, self.postgres = self.postgres, None
        if postgres is not None:
            postgres.stop()

    def say(self, text: str) -> None:
        """One line to whoever started us."""
        with contextlib.suppress(OSError):
            self.out.write(f"{text}\n")
            self.out.flush()

    def announce(self, key: str) -> None:
        """What a new user needs next."""
        seconds = time.monotonic() - self.began
        local = self.settings.home / "local.key"
        self.say(f"facegate is ready after {seconds:.1f} s (Ctrl-C stops it)")
        self.say(f"  URL   {self.url}    description of the API: {self.url}/docs")
        self.say(f"  key   {key}    kept in {local}")
        self.say(
            f'  try   curl -sS -H "Authorization: Bearer $(cat {shlex.quote(str(local))})" -F media=@picture.jpg {self.url}/v1/screenings'
        )
        self.say(f"  logs  {self.settings.home / 'logs' / 'service.log'}, {self.run.ray / 'session_latest' / 'logs'}")
        if self.sealer is None:
            self.say("  log   not sealed from here: set FACEGATE_SEALER_DATABASE_URL, or run facegate seal elsewhere")
        if "nudenet" in self.settings.classifiers:
            self.say(NUDENET_NOTE)
        self._announce_faces()

    def _announce_faces(self) -> None:
        from deployments.face_replicas import detector_here  # noqa: PLC0415  # there by now

        self.say(FACES_NOTES[detector_here(self.settings.face_detector, self.settings.models)])


class SealerProcess:
    """`facegate seal` below the runner, with the sealer's login and no other."""

    def __init__(self, settings: Settings, run: cluster.RunFolder) -> None:
        self._config = run.path / "sealer.toml"
        _write_private(self._config, to_toml(settings, without=frozenset({"database_url", "owner_database_url"})))
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s, self._most_s = SEALER_AGAIN_S
        self._again_at = 0.0

    def start(self) -> None:
        """Start it."""
        self._again_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._most_s)
        command = [sys.executable, "-m", "deployments.sealer"]
        self._process = subprocess.Popen(command, env=os.environ | {CONFIG: str(self._config)}, stdin=subprocess.DEVNULL)  # noqa: S603  # ours

    def start_again(self) -> bool:
        """Start it where it has ended, not too often; whether it was so."""
        if self._process is None or self._process.poll() is None or time.monotonic() < self._again_at:
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Let it seal what is there, and end."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(DRAIN_S)


class _Aside(Generic[T]):
    """One function on a thread; `result` gives what it returned or raises what it raised."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._done: Future[T] = Future()
        threading.Thread(target=self._do, args=(work,), daemon=True).start()

    def _do(self, work: Callable[[], T]) -> None:
        try:
            self._done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            self._done.set_exception(error)

    def result(self) -> T:
        """Wait for it, in short steps, so that a signal is noticed."""
        while True:
            with contextlib.suppress(TimeoutError):
                return self._done.result(0.1)


def _within(seconds: float, work: Callable[[], object]) -> None:
    """Do it, but do not wait for ever, and whatever goes wrong: what hangs is ended by the sweep."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)


def _shut_down_serve() -> None:
    from ray import serve as ray_serve  # noqa: PLC0415

    ray_serve.shutdown()  # type: ignore[no-untyped-call]


def _secret(text: str) -> Any:
    from pydantic import SecretStr  # noqa: PLC0415

    return SecretStr(text)


def _why_not_deployed(application: str) -> str:
    """The last line of what the first unhappy deployment says."""
    from ray import serve as ray_serve  # noqa: PLC0415

    found = ray_serve.status().applications.get(application)
    for name, deployment in (found.deployments if found else {}).items():
        lines = [line.strip() for line in deployment.message.splitlines() if line.strip()]
        if lines and deployment.status != "HEALTHY":
            return f"{name} does not start: {lines[-1]}"
    return "the application does not start"


def main(arguments: list[str]) -> int:
    """The runner: `run folder`, `launcher's process id`, `time.monotonic() of the start`."""
    run = cluster.RunFolder(path=Path(arguments[0]))
    supervision.adopt_orphans()
    signal.signal(signal.SIGTERM, _raise_stopped)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    settings = load_settings(run.path / "start.toml")
    (run.path / "start.toml").unlink()
    _redirect(settings.home / "logs" / "service.log")
    runner = _Runner(settings=settings, run=run, out=out, began=float(arguments[2]))
    status = 0
    try:
        supervision.die_with(int(arguments[1]), signal.SIGTERM)
        key = runner.start()
        runner.announce(key)
        runner.watch()
    except _Stopped:
        pass
    except Exception as error:  # noqa: BLE001  # whatever it is, one line for the person and the rest for the log
        status = 1
        _log_failure(error)
        runner.say(f"facegate: {_one_line(error)}")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        runner.stop()
        supervision.sweep()
    return status


def _raise_stopped(_: int, __: object) -> NoReturn:
    # Ray's own handler, which passes the signal on to this one, also sets an alarm that would end us in the midst of stopping.
    signal.alarm(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def _redirect(log: Path) -> None:
    """From here on, what this process and everything below it prints goes to a file."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _log_failure(error: Exception) -> None:
    import traceback  # noqa: PLC0415

    traceback.print_exception(error)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, _Failed) else text[:500]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
