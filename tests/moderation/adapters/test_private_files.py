"""Files with secrets: who may open them, and what is there after races, faults and a full disk."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moderation.adapters.private_files import NotPrivate, make_private, read_private

ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_file_and_its_folder_are_closed_whatever_the_process_is_set_to(tmp_path, umask):
    path = tmp_path / "folder" / "secret"
    before = os.umask(umask)
    try:
        make_private(path, b"one")
        make_private(path, b"two", replace=True)
    finally:
        os.umask(before)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert read_private(path, most=100) == b"two"
    assert names(path.parent) == ["secret"]


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path):
    path = tmp_path / "secret"
    make_private(path, b"one")
    make_private(path, b"two")
    assert read_private(path, most=100) == b"one"
    assert names(tmp_path) == ["secret"]


def _make_from(path: Path, barrier, text: bytes) -> None:
    barrier.wait()
    make_private(path, text)


def test_of_processes_that_make_one_at_once_the_first_wins_for_all(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, path = context.Barrier(3), tmp_path / "secret"
    texts = [bytes([65 + number]) * 50_000 for number in range(3)]
    racers = [context.Process(target=_make_from, args=(path, barrier, text)) for text in texts]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert read_private(path, most=100_000) in texts
    assert names(tmp_path) == ["secret"]


def test_nobody_reads_half_of_a_file_that_is_being_replaced(tmp_path):
    path, texts, is_over = tmp_path / "secret", [b"a" * 200_000, b"b" * 300_000], threading.Event()
    make_private(path, texts[0])

    def replace() -> None:
        for number in range(40):
            make_private(path, texts[number % 2], replace=True)
        is_over.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(replace)
        seen = set()
        while not is_over.is_set() and not writing.done():
            seen.add(read_private(path, most=1_000_000))
        writing.result()
    assert seen
    assert seen <= set(texts)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from moderation.adapters.private_files import make_private
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    make_private(Path(sys.argv[1]), b"x" * 5000, replace=True)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("kept", [[], ["secret"]])
def test_a_file_that_cannot_be_written_whole_leaves_what_was_there_and_no_draft(tmp_path, kept):
    path = tmp_path / "secret"
    for _ in kept:
        make_private(path, b"earlier")
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "File too large"
    assert names(tmp_path) == kept
    assert not kept or read_private(path, most=100) == b"earlier"


@pytest.mark.parametrize("replace", [False, True])
def test_nothing_is_written_through_a_link_that_somebody_laid(tmp_path, replace):
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "secret"
    elsewhere.write_bytes(b"theirs")
    path.symlink_to(elsewhere)
    make_private(path, b"ours", replace=replace)
    assert elsewhere.read_bytes() == b"theirs"
    assert path.is_symlink() is not replace


@pytest.mark.parametrize("bits", [0o604, 0o602, 0o601, 0o620, 0o610, 0o644, 0o666, 0o777])
def test_a_file_that_others_can_reach_is_not_read_and_the_text_is_one_line_with_its_mode(tmp_path, bits):
    path = tmp_path / "secret"
    make_private(path, b"hunter2")
    path.chmod(bits)
    with pytest.raises(NotPrivate, match=f"mode {bits:04o}") as refused:
        read_private(path, most=100)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("bits", [0o600, 0o400, 0o440, 0o640, 0o700])
def test_the_owner_and_a_group_that_only_reads_may_have_it(tmp_path, bits):
    path = tmp_path / "secret"
    make_private(path, b"hunter2")
    path.chmod(bits)
    assert read_private(path, most=100) == b"hunter2"


def test_the_mode_that_counts_is_that_of_the_file_behind_a_link(tmp_path):
    path, link = tmp_path / "data", tmp_path / "secret"
    make_private(path, b"mounted")
    link.symlink_to(path)
    assert read_private(link, most=100) == b"mounted"
    path.chmod(0o644)
    with pytest.raises(NotPrivate):
        read_private(link, most=100)


def test_no_more_is_read_than_was_asked_for(tmp_path):
    path = tmp_path / "secret"
    make_private(path, b"0123456789")
    assert read_private(path, most=4) == b"0123"


def test_what_is_no_file_is_named_and_leaves_nothing_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    for path, said in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory"), (tmp_path / "missing" / "x", "No such file")):
        with pytest.raises(OSError, match=said) as fault:
            read_private(path, most=100)
        assert fault.value.filename == str(path)
    assert os.listdir("/proc/self/fd") == before
