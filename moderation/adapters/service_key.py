"""The service key: what must be recoverable is stored encrypted under it, with AES-256-GCM."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORM: Final = b"\x01"
_TEXT: Final = re.compile(rb"[0-9a-f]{64}\n?")


class ServiceKeyRefused(Exception):
    """The key file cannot be used, or a secret was not sealed under this key; the text is one line."""


class ServiceKey:
    """Seals and opens small secrets. What was sealed for one context opens in no other."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ServiceKeyRefused(f"a service key has {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)

    def seal(self, secret: bytes, context: str) -> bytes:
        """A form byte, 12 bytes of nonce, ciphertext and tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _FORM + nonce + self._cipher.encrypt(nonce, secret, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """The secret. Raises ServiceKeyRefused if it was sealed under another key, for another context, or altered."""
        if not sealed.startswith(_FORM):
            raise ServiceKeyRefused("the sealed secret has a form unknown to this version")
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, context.encode())
        except (InvalidTag, ValueError) as error:
            raise ServiceKeyRefused("the secret was not sealed under this service key") from error


def load_service_key(path: Path, *, make: bool = False) -> ServiceKey:
    """The key in `path`: 64 hex digits, closed to everyone but its owner and, for mounted secrets, a reading group. With `make`, a missing file is made first.

    Raises ServiceKeyRefused if the file is missing, open to others, or not a key.
    """
    if make and not path.exists():
        _make_file(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ServiceKeyRefused(f"service key {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o037:
            raise ServiceKeyRefused(f"service key {path}: others can reach it (mode {mode:04o}); chmod 600 it, or make a new one")
        text = file.read(2 * KEY_BYTES + 2)
    if not _TEXT.fullmatch(text):
        raise ServiceKeyRefused(f"service key {path}: not 64 hex digits")
    return ServiceKey(bytes.fromhex(text.decode().strip()))


def _make_file(path: Path) -> None:
    """Written beside and linked, so that nobody ever reads half a key and the first of several makers wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
