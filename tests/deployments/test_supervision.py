"""Nothing that tests have started outlives them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serve_kit import is_alive

SERVICE = """
service = Service(home=folder)
service.start_into(folder / "out", command=["sleep", "600"])
print(service.process.pid, folder, flush=True)
"""
POSTGRES = """
held = home_of_postgres()
home = held.__enter__()
(home / "postgres" / "data").mkdir(parents=True)
server = subprocess.Popen(["sleep", "600"], start_new_session=True)
(home / "postgres" / "data" / "postmaster.pid").write_text(f"{server.pid}\\nand more\\n")
print(server.pid, home, flush=True)
"""
STARTING = """
import subprocess, sys
from pathlib import Path
from tests.pg import home_of_postgres
from tests.serve_kit import Service
folder = Path(sys.argv[1])
{started}
sys.stdin.read()
"""


@pytest.mark.parametrize(("started", "is_left"), [(SERVICE, True), (POSTGRES, False)], ids=["a service", "the database"])
def test_what_tests_have_started_ends_with_them_when_they_are_killed(tmp_path, started, is_left):
    tests = subprocess.Popen(
        [sys.executable, "-c", STARTING.format(started=started), tmp_path],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with tests:
        pid, _, folder = tests.stdout.readline().strip().partition(" ")
        assert is_alive(int(pid))
        os.kill(tests.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while is_alive(int(pid)) or Path(folder).exists() is not is_left:
        assert time.monotonic() < until
        time.sleep(0.02)
