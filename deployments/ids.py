"""Ids: UUID version 7 inside, a prefix and 32 hex digits on the wire."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from uuid_utils import compat

_HEX: Final = re.compile(r"[0-9a-f]{32}")


def new_id() -> UUID:
    """A UUIDv7; ids made by one process increase."""
    return compat.uuid7()


def to_wire(prefix: str, value: UUID) -> str:
    """`dec` and a UUID -> `dec_` and 32 hex digits."""
    return f"{prefix}_{value.hex}"


def from_wire(prefix: str, text: str) -> UUID | None:
    """The inverse of `to_wire`; None for anything that it would not have written."""
    head, _, digits = text.partition("_")
    return UUID(hex=digits) if head == prefix and _HEX.fullmatch(digits) else None
