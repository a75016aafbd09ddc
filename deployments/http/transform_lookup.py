"""The transform that a path names."""

from __future__ import annotations

from starlette.requests import Request

from deployments.http.errors import Code, refused
from deployments.http.gateway import Gateway
from deployments.ids import from_wire
from moderation.access import Key
from moderation.transform import Committed


async def named_transform(gateway: Gateway, request: Request, key: Key) -> Committed:
    """What is committed about it. Raises ApiError where the key's tenant has none of this id."""
    id = from_wire("trf", request.path_params["id"])
    committed = None if id is None else await gateway.transforms.load(key.tenant, id)
    if committed is None:
        raise refused(Code.NOT_FOUND)
    return committed
