"""Canonical bytes and the hashes made of them.

RFC 8785 (JSON Canonicalization Scheme) for the bytes, so that a stranger with any RFC 8785
implementation gets the same ones. Numbers are integers only: a float would tie the bytes to a
language's idea of its shortest form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import rfc8785

Json: TypeAlias = "None | bool | int | str | Sequence[Json] | Mapping[str, Json]"


def canonical(value: Json) -> bytes:
    """RFC 8785 bytes. Raises TypeError on floats, ValueError on what RFC 8785 cannot represent."""
    _refuse_floats(value)
    return rfc8785.dumps(value)


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise TypeError("floats have no place in canonical records; use scaled integers or strings")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)


def digest(value: Json) -> str:
    """`sha256:<hex>` over the canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()
