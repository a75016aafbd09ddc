from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from moderation.adapters.service_key import ServiceKey, ServiceKeyRefused, load_service_key


def test_what_was_sealed_opens_in_its_context_only():
    key = ServiceKey(b"k" * 32)
    sealed = key.seal(b"secret", "sigv4/tenant/key")
    assert key.open(sealed, "sigv4/tenant/key") == b"secret"
    assert b"secret" not in sealed
    assert key.seal(b"secret", "sigv4/tenant/key") != sealed
    for cipher, context in ((key, "sigv4/tenant/other"), (ServiceKey(b"K" * 32), "sigv4/tenant/key")):
        with pytest.raises(ServiceKeyRefused):
            cipher.open(sealed, context)


@pytest.mark.parametrize("position", [0, 1, 12, 13, -1])
def test_an_altered_byte_is_noticed(position):
    key = ServiceKey(b"k" * 32)
    sealed = bytearray(key.seal(b"secret", "c"))
    sealed[position] ^= 1
    with pytest.raises(ServiceKeyRefused):
        key.open(bytes(sealed), "c")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + b"n" * 12, b"\x02" + b"n" * 40])
def test_what_is_no_sealed_secret_is_refused(sealed):
    with pytest.raises(ServiceKeyRefused):
        ServiceKey(b"k" * 32).open(sealed, "c")


def test_a_key_file_is_made_once_and_private(tmp_path):
    path = tmp_path / "home" / "service.key"
    before = os.umask(0)
    try:
        with ThreadPoolExecutor(8) as threads:
            keys = list(threads.map(lambda _: load_service_key(path, make=True), range(16)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["service.key"]
    sealed = keys[0].seal(b"secret", "c")
    assert {key.open(sealed, "c") for key in keys} == {b"secret"}


def test_a_missing_file_is_not_made_unasked(tmp_path):
    with pytest.raises(ServiceKeyRefused, match="No such file"):
        load_service_key(tmp_path / "service.key")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_reach_is_refused(tmp_path, mode):
    path = tmp_path / "service.key"
    load_service_key(path, make=True)
    path.chmod(mode)
    with pytest.raises(ServiceKeyRefused, match="others can reach it"):
        load_service_key(path)


def test_a_mounted_secret_may_be_a_link_that_a_group_reads(tmp_path):
    path, link = tmp_path / "data", tmp_path / "service.key"
    load_service_key(path, make=True)
    path.chmod(0o440)
    link.symlink_to(path)
    load_service_key(link)


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "zz" * 32, "00" * 32 + "\n\n", "AB" * 32])
def test_a_file_that_holds_no_key_is_refused(tmp_path, text):
    path = tmp_path / "service.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ServiceKeyRefused, match="64 hex digits"):
        load_service_key(path)
