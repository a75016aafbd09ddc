"""Media out of the areas of the store, on its way to somebody: what is not what was stored is an alarm and goes nowhere."""

from __future__ import annotations

import asyncio
from typing import Final

from deployments.http.gateway import Gateway, MediaReader
from moderation.adapters.media_store import MediaAltered
from moderation.media import sha256_of

INERT: Final = {"cache-control": "private, no-store", "content-security-policy": "default-src 'none'; sandbox"}
"""With media of any kind: kept by nobody on the way, and run by no browser."""


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
