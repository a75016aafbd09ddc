"""Pictures by URL, from hosts that the operator has named and from nowhere else.

The name is resolved once, every address it has must be a public one, and the connection goes to the address that
was checked, so that a second answer of the name server changes nothing. No redirects, no user names, default ports only.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeAlias

import httpx

from deployments.http.errors import Code, refused

Address: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str], Awaitable[list[Address]]]
_TIMEOUT_S: Final = 10.0
_NAT64: Final = (b"\x00\x64\xff\x9b", b"\x20\x02", b"\x20\x01\x00\x00")
"""Prefixes of IPv6 addresses that carry an IPv4 one: NAT64, 6to4, Teredo."""


def is_public(address: Address) -> bool:
    """Whether an address may be connected to: reachable from anywhere, and not another address in disguise."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address.packed.startswith(_NAT64) or address.is_site_local):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolve(host: str) -> list[Address]:
    """All addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def named(url: str, hosts: Collection[str], *, schemes: Collection[str] = ("http", "https")) -> httpx.URL | None:
    """The URL if it goes by one of `schemes` to one of `hosts` and carries no user name, otherwise None.

    A host stands in the list in lower case, with its port unless that is the scheme's own.
    """
    try:
        where = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return None
    # httpx leaves a scheme's own port out of `netloc`.
    is_named = where.scheme in schemes and not where.userinfo and where.netloc.decode("ascii", "replace") in hosts
    return where if is_named else None


async def address_of(host: str, resolve: Resolve, may_connect: Callable[[Address], bool]) -> Address | None:
    """An address of the name, if all that it has may be connected to; otherwise None. Raises OSError, UnicodeError."""
    addresses = await resolve(host)
    return addresses[0] if addresses and all(map(may_connect, addresses)) else None


def aimed(client: httpx.AsyncClient, method: str, where: httpx.URL, address: Address, **rest: Any) -> httpx.Request:
    """A request to the address that was checked, under the name that was asked for."""
    headers = {"host": where.netloc.decode(), "accept-encoding": "identity", **rest.pop("headers", {})}
    extensions = {"sni_hostname": where.host}
    return client.build_request(method, where.copy_with(host=str(address)), headers=headers, extensions=extensions, **rest)


class UrlFetcher:
    """Implements `gateway.Fetch` over allow-listed hosts."""

    def __init__(
        self,
        hosts: Collection[str],
        *,
        max_bytes: int,
        resolve: Resolve = resolve,
        may_connect: Callable[[Address], bool] = is_public,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._may_connect = may_connect
        self._transport = transport

    async def __call__(self, url: str) -> bytes:
        """The bytes. Raises ApiError: `url_not_allowed`, `url_unavailable`, `payload_too_large`."""
        where = self._checked(url)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                address = await self._address(where.host)
                return await self._read(where, address)
        except (httpx.HTTPError, OSError, TimeoutError, UnicodeError):
            raise refused(Code.URL_UNAVAILABLE, param="input") from None

    def _checked(self, url: str) -> httpx.URL:
        where = named(url, self._hosts)
        if where is None:
            raise refused(Code.URL_NOT_ALLOWED, param="input")
        return where

    async def _address(self, host: str) -> Address:
        address = await address_of(host, self._resolve, self._may_connect)
        if address is None:
            raise refused(Code.URL_NOT_ALLOWED, param="input")
        return address

    async def _read(self, where: httpx.URL, address: Address) -> bytes:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=limits, transport=self._transport) as client:
            answer = await client.send(aimed(client, "GET", where, address), stream=True)
            try:
                return await self._body(answer)
            finally:
                await answer.aclose()

    async def _body(self, answer: httpx.Response) -> bytes:
        if answer.status_code != httpx.codes.OK or answer.headers.get("content-encoding", "identity") != "identity":
            raise refused(Code.URL_UNAVAILABLE, param="input")
        data = bytearray()
        async for piece in answer.aiter_raw():
            data += piece
            if len(data) > self._max_bytes:
                raise refused(Code.PAYLOAD_TOO_LARGE, param="input")
        return bytes(data)
