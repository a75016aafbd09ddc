"""The real service in its own processes, as `facegate serve` starts it, for the tests that need all of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from deployments.cluster import free_ports
from deployments.supervision import descendants, die_with

READY_WITHIN_S = 240
STOPPED_WITHIN_S = 60


@dataclass
class Service:
    """A started service. `settings` are FACEGATE_* names in lower case."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None
    seen: set[int] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.home / "local.key").read_text().strip()

    @property
    def output(self) -> str:
        return (self.home.parent / f"{self.home.name}.out").read_text()

    @property
    def run(self) -> Path:
        return Path((self.home / "run").read_text())

    def start(self) -> None:
        self.start_into(self.home.parent / f"{self.home.name}.out")

    def start_into(
        self, output: Path, *, command: list[str] | None = None, environment: dict[str, str] | None = None, **options: Any
    ) -> None:
        """Start with this environment added, everything it says going to `output`. However the tests end, it is told to stop then."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FACEGATE_", "RAY_"))}
        clean |= {"FACEGATE_HOME": str(self.home), "FACEGATE_PORT": str(self.port)}
        clean |= {f"FACEGATE_{name.upper()}": value for name, value in self.settings.items()}
        command = command or [str(Path(sys.executable).parent / "facegate"), "serve"]
        end_with_us = partial(die_with, os.getpid(), signal.SIGTERM)
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                env=clean | (environment or {}),
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_us,  # noqa: PLW1509  # before it is another program; no thread of ours holds a lock that this needs
                **options,
            )

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "never started"
        return self.process

    def wait_ready(self) -> None:
        until = time.monotonic() + READY_WITHIN_S
        while "is ready after" not in self.output:
            assert self.runs, f"ended with {self._started.returncode}: {self.output}{self.service_log()}"
            assert time.monotonic() < until, f"not ready: {self.output}{self.service_log()}"
            time.sleep(0.1)

    def service_log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.home / "logs" / "service.log").read_text()[-6000:]
        return ""

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """The exit status; fails if anything that was started is still there."""
        self.note_processes()
        self._started.send_signal(sign)
        status = self._started.wait(STOPPED_WITHIN_S)
        self.assert_gone()
        return status

    def note_processes(self) -> None:
        self.seen |= set(descendants(self._started.pid))

    def assert_gone(self, within_s: float = 0.5) -> None:
        until = time.monotonic() + within_s
        while (left := [pid for pid in self.seen if is_alive(pid)]) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left, f"still running: {[command_of(pid) for pid in left]}"

    def pids(self, pattern: str) -> list[int]:
        """Processes of this service whose command line matches."""
        return [pid for pid in descendants(self._started.pid) if re.search(pattern, command_of(pid))]

    def wait_pids(self, pattern: str, *, within_s: float = READY_WITHIN_S) -> list[int]:
        until = time.monotonic() + within_s
        while not (found := self.pids(pattern)):
            assert self.runs
            assert time.monotonic() < until, pattern
            time.sleep(0.05)
        return found

    def wait_logged(self, event: str, *, within_s: float = READY_WITHIN_S) -> dict[str, Any]:
        """The first line with this event that a replica has written to standard error."""
        until = time.monotonic() + within_s
        while True:
            lines: Iterator[dict[str, Any]] = (
                json.loads(line) for line in self.log_records().splitlines() if line.startswith("{") and line.endswith("}")
            )
            found = next((line for line in lines if line.get("event") == event), None)
            if found is not None:
                return found
            assert self.runs
            assert time.monotonic() < until, event
            time.sleep(0.05)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=60, **options)

    def log_records(self) -> str:
        """What replicas wrote to standard error."""
        return "".join(file.read_text(errors="replace") for file in self.run.glob("ray/session_latest/logs/worker-*.err"))


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
