"""JSON as it leaves: one encoder, made once, fields in the order in which they were put."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.responses import Response

_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def encode(document: object) -> bytes:
    """UTF-8 JSON. Raises ValueError on NaN."""
    return _ENCODE(document).encode()


def decode_object(body: bytes) -> dict[str, Any] | None:
    """A JSON object without duplicate keys, or None for anything else."""
    try:
        found = json.loads(body, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer with a JSON body."""
    return Response(encode(document), status, headers, "application/json")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
