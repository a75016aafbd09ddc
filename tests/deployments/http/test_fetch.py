from __future__ import annotations

import asyncio
from ipaddress import ip_address

import httpx
import pytest

from deployments.http.errors import ApiError
from deployments.http.fetch import Address, UrlFetcher, is_public, resolve

PUBLIC = ip_address("93.184.216.34")
PRIVATE = [
    "127.0.0.1", "0.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "64:ff9b::7f00:1", "64:ff9b:1::1",
    "2002:7f00:1::", "2001:0:1::1", "::127.0.0.1", "2001:db8::1",
]  # fmt: skip


def streamed(data: bytes) -> httpx.Response:
    return httpx.Response(200, stream=httpx.ByteStream(data))


def fetch(
    url: str, *, hosts: tuple[str, ...] = ("pics.example",), addresses: tuple[Address, ...] = (PUBLIC,), handler=None, max_bytes: int = 100
) -> bytes:
    async def resolved(_: str) -> list[Address]:
        return list(addresses)

    transport = httpx.MockTransport(handler or (lambda _: streamed(b"bytes")))
    return asyncio.run(UrlFetcher(hosts, max_bytes=max_bytes, resolve=resolved, transport=transport)(url))


def code_of(url: str, **how) -> str:
    with pytest.raises(ApiError) as caught:
        fetch(url, **how)
    assert caught.value.problem.param == "input"
    return caught.value.problem.code


@pytest.mark.parametrize("text", PRIVATE)
def test_an_address_that_is_not_public_is_not_connected_to(text: str) -> None:
    assert not is_public(ip_address(text))
    assert code_of("https://pics.example/x", addresses=(PUBLIC, ip_address(text))) == "url_not_allowed"


@pytest.mark.parametrize("text", ["93.184.216.34", "8.8.8.8", "2606:4700::1111"])
def test_public_addresses_are(text: str) -> None:
    assert is_public(ip_address(text))


def test_the_connection_goes_to_the_address_that_was_checked_under_the_name_that_was_asked_for() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url == "https://93.184.216.34/a/b.png?c=d"
        assert request.headers["host"] == "pics.example"
        assert request.extensions["sni_hostname"] == "pics.example"
        assert "authorization" not in request.headers
        return streamed(b"bytes")

    assert fetch("https://pics.example/a/b.png?c=d", handler=handler) == b"bytes"


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/x", "https://pics.example.evil.example/x", "https://pics.example.:443/x", "https://user:pw@pics.example/x", "https://pics.example:8443/x",
        "ftp://pics.example/x", "https://127.0.0.1/x", "https://2130706433/x", "https://0x7f.1/x", "https://[::1]/x", "https://pics.example\\@evil.example/", "https://", "https://pics.example.evil",
    ],
)  # fmt: skip
def test_anything_but_a_named_host_on_its_own_port_is_not_fetched(url: str) -> None:
    assert code_of(url) == "url_not_allowed"


def test_the_case_of_a_host_does_not_matter() -> None:
    assert fetch("https://PICS.example/x") == b"bytes"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(302, headers={"location": "http://127.0.0.1/"}),
        httpx.Response(404),
        httpx.Response(206, content=b"x"),
        httpx.Response(200, headers={"content-encoding": "gzip"}, content=b""),
    ],
)
def test_redirects_errors_and_packed_answers_are_no_pictures(answer: httpx.Response) -> None:
    assert code_of("https://pics.example/x", handler=lambda _: answer) == "url_unavailable"


def test_a_host_that_cannot_be_reached_is_unavailable_without_its_words() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused by 10.0.0.1")

    assert code_of("https://pics.example/x", handler=handler) == "url_unavailable"


def test_a_name_without_an_address_is_not_fetched() -> None:
    assert code_of("https://pics.example/x", addresses=()) == "url_not_allowed"


def test_reading_stops_at_the_limit() -> None:
    assert fetch("https://pics.example/x", handler=lambda _: streamed(bytes(100))) == bytes(100)
    assert code_of("https://pics.example/x", handler=lambda _: streamed(bytes(101))) == "payload_too_large"


def test_names_are_resolved_to_all_their_addresses() -> None:
    assert ip_address("127.0.0.1") in asyncio.run(resolve("127.0.0.1"))
