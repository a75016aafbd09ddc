"""The service key: what must be recoverable is stored encrypted under it, with AES-256-GCM, or follows from it (HKDF-SHA256)."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moderation.adapters.private_files import NotPrivate, make_private, read_private

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
        self._key = key

    def derive(self, context: str) -> bytes:
        """A secret of 32 bytes that is this context's own: from none can another, or the key, be told."""
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"facegate " + context.encode()).derive(self._key)

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
        make_private(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    try:
        text = read_private(path, most=2 * KEY_BYTES + 2)
    except OSError as error:
        raise ServiceKeyRefused(f"service key {path}: {error.strerror}") from error
    except NotPrivate as error:
        raise ServiceKeyRefused(f"service key {path}: {error}") from error
    if not _TEXT.fullmatch(text):
        raise ServiceKeyRefused(f"service key {path}: not 64 hex digits")
    return ServiceKey(bytes.fromhex(text.decode().strip()))
