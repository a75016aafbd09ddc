"""The real service in its own processes, as `facegate serve` starts it, with a data directory of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

READY_WITHIN_S: Final = 180
STOPPED_WITHIN_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service: where it is, its key, its launcher's process id, and how long it took to be ready."""

    host: str
    port: int
    key: str
    pid: int
    ready_s: float


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(**settings: str) -> Iterator[Service]:
    """Start the service, yield when it is ready, stop it. Settings are FACEGATE_* names in lower case."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="facegate-bench-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FACEGATE_")}
        environment |= {"FACEGATE_HOME": home, "FACEGATE_PORT": str(port)}
        environment |= {f"FACEGATE_{name.upper()}": value for name, value in settings.items()}
        start = time.perf_counter()
        log = Path(home) / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "facegate"), "serve"], env=environment, stdout=sink, stderr=subprocess.STDOUT
            )
        try:
            _wait_ready(process, port, log)
            ready_s = time.perf_counter() - start
            key = (Path(home) / "local.key").read_text().strip()
            yield Service(host="127.0.0.1", port=port, key=key, pid=process.pid, ready_s=ready_s)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOPPED_WITHIN_S)


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with status {process.returncode}:\n{log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"not ready within {READY_WITHIN_S} s:\n{log.read_text()[-4000:]}")


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and all its descendants, and of their Postgres, in MB."""
    total = 0
    for member in descendants(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def descendants(pid: int) -> set[int]:
    """The process and everything below it, also what detached itself but kept its session's parentage."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more
