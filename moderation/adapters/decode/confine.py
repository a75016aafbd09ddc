"""What a decode child gives up before it sees the first uploaded byte.

Every layer stands for itself: limits first (no file can be opened, none can grow, no core is written, memory
is capped), then an unprivileged user where we are root, then no_new_privs and a seccomp filter that lets pass
what decoding in memory needs and answers everything else with EPERM. What could not be put on is missing from
the returned names; limits are not optional.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import struct
from pathlib import Path
from typing import Final

NOBODY: Final = 65534

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_CAPS_TO_DROP_USER: Final = (1 << 5) | (1 << 6) | (1 << 7)
"""CAP_KILL, CAP_SETGID, CAP_SETUID: without the first our parent could not kill a child of another user."""

_LD_ABS: Final = 0x20
_JEQ: Final = 0x15
_JGE: Final = 0x35
_RET: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_EPERM: Final = 0x00050001
_X32_BIT: Final = 0x40000000

# Memory, the control socket, signals to oneself, clocks, and the end. prlimit64 is treated apart: on oneself only.
_X86_64: Final = {
    "audit": 0xC000003E,
    "prlimit64": 302,
    # read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn mremap madvise
    # sched_yield sendto recvfrom sendmsg recvmsg getpid exit futex sched_getaffinity getrusage gettid clock_gettime
    # clock_nanosleep exit_group getrandom rseq sigaltstack restart_syscall getrlimit
    "allowed": (
        0,
        1,
        3,
        5,
        8,
        9,
        10,
        11,
        12,
        13,
        14,
        15,
        25,
        28,
        24,
        44,
        45,
        46,
        47,
        39,
        60,
        202,
        204,
        98,
        186,
        228,
        230,
        231,
        318,
        334,
        131,
        219,
        97,
    ),
}
_AARCH64: Final = {
    "audit": 0xC00000B7,
    "prlimit64": 261,
    "allowed": (
        63,
        64,
        57,
        80,
        62,
        222,
        226,
        215,
        214,
        134,
        135,
        139,
        216,
        233,
        124,
        206,
        207,
        211,
        212,
        172,
        93,
        98,
        123,
        165,
        178,
        113,
        115,
        94,
        278,
        293,
        132,
        128,
        163,
    ),
}
_TABLES: Final = {"x86_64": _X86_64, "aarch64": _AARCH64}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine(memory_bytes: int, highest_fd: int) -> list[str]:
    """Give up everything but memory and the descriptors up to `highest_fd`; returns the names of what took hold.

    `memory_bytes` is what may be mapped on top of what is mapped now.
    """
    gc.collect()
    libc = ctypes.CDLL(None, use_errno=True)
    os.closerange(highest_fd + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    done = ["limits"]
    if _may_change_user():
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        done.append("user")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, highest_fd + 1),
        (resource.RLIMIT_AS, mapped + memory_bytes),
    ):
        resource.setrlimit(limit, (value, value))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        done.append("no_new_privs")
        if _filter_calls(libc):
            done.append("seccomp")
    return done


def limit_cpu(seconds: int) -> None:
    """Let this process use `seconds` more of processor time; SIGXCPU within a second after that."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + seconds, resource.RLIM_INFINITY))


def _may_change_user() -> bool:
    if os.geteuid() != 0:
        return False
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & _CAPS_TO_DROP_USER == _CAPS_TO_DROP_USER
    return False


def _filter_calls(libc: ctypes.CDLL) -> bool:
    table = _TABLES.get(platform.machine())
    if table is None:
        return False
    code = _program(table["audit"], table["prlimit64"], table["allowed"])  # type: ignore[arg-type]
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _program(audit: int, prlimit: int, allowed: tuple[int, ...]) -> bytes:
    """Classic BPF over `struct seccomp_data {int nr; u32 arch; u64 ip; u64 args[6]}`."""
    lines: list[tuple[int, int, int, int]] = [
        (_LD_ABS, 0, 0, 4),
        (_JEQ, 1, 0, audit),
        (_RET, 0, 0, _EPERM),
        (_LD_ABS, 0, 0, 0),
        (_JGE, 0, 1, _X32_BIT),
        (_RET, 0, 0, _EPERM),
    ]
    for number in allowed:
        lines += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
    lines += [
        (_JEQ, 0, 3, prlimit),
        (_LD_ABS, 0, 0, 16),  # its first argument, the process: 0 is oneself
        (_JEQ, 0, 1, 0),
        (_RET, 0, 0, _ALLOW),
        (_RET, 0, 0, _EPERM),
    ]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
