"""A service of its own for as long as a demonstration or a measurement takes, in its own processes and data directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from deployments.client import ServiceFault

READY_WITHIN_S: Final = 240.0
STOPPED_WITHIN_S: Final = 60.0
_LOG_TAIL: Final = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialService:
    """Where it is, its key, its launcher's process id, and how many seconds it took to be ready."""

    url: str
    port: int
    key: str
    pid: int
    ready_s: float


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(url: str) -> bool:
    """Whether a service answers there and is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@contextmanager
def trial_service(**settings: str) -> Iterator[TrialService]:
    """Start `facegate serve`, yield when it is ready, stop it. Settings are FACEGATE_* names in lower case.

    Raises ServiceFault with the end of its log when it does not come up.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="facegate-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FACEGATE_")}
        environment |= {"FACEGATE_HOME": home, "FACEGATE_PORT": str(port)}
        environment |= {f"FACEGATE_{name.upper()}": value for name, value in settings.items()}
        start, log = time.monotonic(), Path(home) / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603  # our own program, fixed arguments
                [str(Path(sys.executable).parent / "facegate"), "serve"], env=environment, stdout=sink, stderr=subprocess.STDOUT
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(process, url, log)
            key = (Path(home) / "local.key").read_text().strip()
            yield TrialService(url=url, port=port, key=key, pid=process.pid, ready_s=time.monotonic() - start)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOPPED_WITHIN_S)


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise ServiceFault(f"the service ended with status {process.returncode}:\n{log.read_text()[-_LOG_TAIL:]}")
        if is_ready(url):
            return
        time.sleep(0.1)
    raise ServiceFault(f"not ready within {READY_WITHIN_S:.0f} s:\n{log.read_text()[-_LOG_TAIL:]}")
