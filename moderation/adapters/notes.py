"""Signed notes (C2SP `signed-note`) with Ed25519: signing, opening, and the file that holds a signing key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moderation.adapters.private_files import NotPrivate, make_private, read_private
from moderation.log import NoteRefused, NoteSignature, VerifierKey, from_base64, note_of, parse_note, to_base64

_PRIVATE: Final = "PRIVATE+KEY+"
_ED25519: Final = b"\x01"
_MOST_BYTES: Final = 1000


class SigningKeyRefused(Exception):
    """The file of a signing key cannot be used; the text is one line."""


class SigningKey:
    """An Ed25519 key with its name. `seed` has 32 bytes."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier: Final = VerifierKey(name=name, public=self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str) -> Self:
        """A new key."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key in `path`. Raises SigningKeyRefused, also where others can reach it; FileNotFoundError where there is none."""
        try:
            text = read_private(path, most=_MOST_BYTES).decode().rstrip("\n")
        except NotPrivate as fault:
            raise SigningKeyRefused(f"signing key {path}: {fault}") from None
        except UnicodeDecodeError:
            raise SigningKeyRefused(f"signing key {path}: not text") from None
        name, _, rest = text.removeprefix(_PRIVATE).partition("+")
        hashed, _, encoded = rest.partition("+")
        try:
            seed = from_base64(encoded)
            made = cls(name, seed.removeprefix(_ED25519))
        except ValueError:
            raise SigningKeyRefused(f"signing key {path}: not a key") from None
        if not text.startswith(_PRIVATE) or seed[:1] != _ED25519 or made.verifier.id.hex() != hashed:
            raise SigningKeyRefused(f"signing key {path}: not a key")
        return made

    def save(self, path: Path) -> None:
        """Write it as `PRIVATE+KEY+name+hash+key`, for nobody else to read; the first of several savers wins. Raises OSError."""
        text = f"{_PRIVATE}{self.verifier.name}+{self.verifier.id.hex()}+{to_base64(_ED25519 + self._private.private_bytes_raw())}\n"
        make_private(path, text.encode())

    def sign(self, text: str) -> NoteSignature:
        """The signature line of a note text. The same text has the same signature always."""
        return NoteSignature(name=self.verifier.name, key_id=self.verifier.id, signature=self._private.sign(text.encode()))


def signed(text: str, keys: Iterable[SigningKey]) -> str:
    """The note of a text under all these keys."""
    return note_of(text, [key.sign(text) for key in keys])


def open_note(note: str, keys: Sequence[VerifierKey]) -> tuple[str, tuple[VerifierKey, ...]]:
    """The text, and which of the known `keys` have signed it: at least one.

    Signatures of others are passed over. Raises NoteRefused, also where a known key's signature does not hold.
    """
    text, signatures = parse_note(note)
    known = {(key.name, key.id): key for key in keys}
    signers = []
    for line in signatures:
        key = known.get((line.name, line.key_id))
        if key is not None:
            _check(key, line.signature, text)
            signers.append(key)
    if not signers:
        raise NoteRefused("the note is not signed by a known key")
    return text, tuple(signers)


def _check(key: VerifierKey, signature: bytes, text: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except InvalidSignature:
        raise NoteRefused(f"the signature of {key.name} does not hold") from None
