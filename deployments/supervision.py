"""Process trees: know everything we started, however deep, and leave nothing of it running.

Linux only in full: a process that adopts orphans (`PR_SET_CHILD_SUBREAPER`) has all its descendants below it
for good, also those that detached themselves, as Postgres and Ray's workers do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> None:
    """From here on, orphans below this process become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int, sign: signal.Signals) -> None:
    """Be sent `sign` when the parent process ends; at once where it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, int(sign))
    if os.getppid() != parent:
        os.kill(os.getpid(), sign)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, the deepest last. Zombies are left out."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    below.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in below.get(parent, ())]
        found += level
    return found


def sweep(*, patience_s: float = 3.0) -> list[int]:
    """End every process below this one: politely, then by force. Returns those that had to be ended."""
    found = descendants(os.getpid())
    for sign, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        sent: set[int] = set()
        while left := descendants(os.getpid()):
            for pid in left:
                if pid not in sent:  # those that were adopted meanwhile too
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, sign)
                    sent.add(pid)
            reap()
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    reap()
    return found


def reap() -> None:
    """Collect the status of children that ended, ours and adopted ones."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
