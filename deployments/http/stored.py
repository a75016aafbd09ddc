"""Media out of the areas of the store, on its way to somebody: what is not what was stored is an alarm and goes nowhere."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from deployments.http.gateway import Gateway, MediaReader, PieceReader
from moderation.adapters.media_store import MediaAltered
from moderation.media import sha256_of

INERT: Final = {"cache-control": "private, no-store", "content-security-policy": "default-src 'none'; sandbox"}
"""With media of any kind: kept by nobody on the way, and run by no browser."""

PIECE: Final = 1 << 20
"""Bytes of a file that are in memory at once."""


async def stored(gateway: Gateway, area: MediaReader, name: str) -> bytes | None:
    """The bytes of a name that ends in their SHA-256, or None. Raises MediaAltered, RecordUnavailable."""
    try:
        data = await area.get(name)
    except MediaAltered:
        gateway.alarm("media_altered")
        raise
    if data is not None and await asyncio.to_thread(sha256_of, data) != name.rpartition("/")[2]:  # whatever the store believes
        gateway.alarm("media_altered")
        raise MediaAltered(name)
    return data


class Checked:
    """A file that is sent piece by piece. All of it was seen to be what its name says, and each piece is compared with what it was then."""

    def __init__(self, gateway: Gateway, area: PieceReader, name: str, size: int, digests: Sequence[bytes]) -> None:
        self._gateway = gateway
        self._area = area
        self._name = name
        self._digests = digests
        self.size = size

    async def bytes_of(self, wanted: range) -> AsyncIterator[bytes]:
        """The bytes at these places. Raises MediaAltered where they are others by now, RecordUnavailable."""
        for number in range(wanted.start // PIECE, -(-wanted.stop // PIECE)):
            start = number * PIECE
            piece = await self._area.piece(self._name, start, min(start + PIECE, self.size))
            if piece is None or await asyncio.to_thread(_digest, piece) != self._digests[number]:
                self._gateway.alarm("media_altered")
                raise MediaAltered(self._name)
            yield piece[max(wanted.start - start, 0) : wanted.stop - start]


async def checked(gateway: Gateway, area: PieceReader, name: str, size: int) -> Checked | None:
    """What lies under a name that ends in its SHA-256, all of it looked at; None where nothing does. Raises MediaAltered, RecordUnavailable."""
    found, whole, digests = await area.size(name), hashlib.sha256(), []
    if found is None:
        return None
    for start in range(0, size if found == size else 0, PIECE):
        piece = await area.piece(name, start, min(start + PIECE, size))
        if piece is None:
            return None
        await asyncio.to_thread(whole.update, piece)
        digests.append(await asyncio.to_thread(_digest, piece))
    if found != size or whole.hexdigest() != name.rpartition("/")[2]:
        gateway.alarm("media_altered")
        raise MediaAltered(name)
    return Checked(gateway, area, name, size, digests)


def _digest(piece: bytes) -> bytes:
    return hashlib.sha256(piece).digest()
