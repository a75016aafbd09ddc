"""What arrives on a socket, however wrong, over a real server with both of its HTTP parsers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from deployments.http.gateway import Bounds
from deployments.http.limits import Budget
from moderation.errors import Overloaded
from tests.builders import jpeg_bytes
from tests.http_kit import KEY, Live, Service, live_fakes, make_service

PICTURE = jpeg_bytes()
BOUNDS = Bounds(picture=100_000, json=50_000, rekognition=30_000, other=10_000, idle_s=0.5, body_s=1.5)


@pytest.fixture(params=["httptools", "h11"])
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Service, Live]]:
    service = make_service(changes={"bounds": BOUNDS})
    with live_fakes(service, http=request.param) as server:
        yield service, server


def head(*lines: str, method: str = "POST", path: str = "/v1/screenings", kind: str = "image/jpeg") -> bytes:
    given = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", f"content-type: {kind}", *lines, "", ""]
    return "\r\n".join(given).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def parse(answer: bytes) -> tuple[int, dict[str, str], str]:
    """(status, headers, error code) of the only answer on a connection that the server closed."""
    front, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = front.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert body.count(b"HTTP/1.1") == 0
    return int(status.split()[1]), headers, json.loads(body)["error"]["code"] if b'"error"' in body else ""


def test_a_declared_length_over_the_limit_is_413_before_a_byte_is_read(running: tuple[Service, Live]) -> None:
    status, headers, code = parse(running[1].raw(head("content-length: 100001")))
    assert (status, code, headers["connection"]) == (413, "payload_too_large", "close")


def test_a_client_that_waits_for_permission_is_not_given_it(running: tuple[Service, Live]) -> None:
    status, _, code = parse(running[1].raw(head("content-length: 100001", "expect: 100-continue")))
    assert (status, code) == (413, "payload_too_large")


def test_a_chunked_body_over_the_limit_is_413_and_the_connection_closed(running: tuple[Service, Live]) -> None:
    status, headers, code = parse(running[1].raw(head("transfer-encoding: chunked"), *[chunk(bytes(10_000))] * 11))
    assert (status, code, headers["connection"]) == (413, "payload_too_large", "close")


def test_a_body_of_exactly_the_limit_is_taken(running: tuple[Service, Live]) -> None:
    data = PICTURE + bytes(BOUNDS.picture - len(PICTURE))
    status, _, _ = parse(running[1].raw(head(f"content-length: {len(data)}", "connection: close"), data))
    assert status == 200


def test_a_chunked_body_is_taken(running: tuple[Service, Live]) -> None:
    service, server = running
    answer = server.raw(head("transfer-encoding: chunked", "connection: close"), chunk(PICTURE[:100]), chunk(PICTURE[100:]), b"0\r\n\r\n")
    assert parse(answer)[0] == 200
    assert service.log.decisions[0].media.size == len(PICTURE)


def test_a_client_that_stalls_is_408(running: tuple[Service, Live]) -> None:
    began = time.monotonic()
    status, headers, code = parse(running[1].raw(head("content-length: 5000"), PICTURE))
    assert (status, code, headers["connection"]) == (408, "upload_timeout", "close")
    assert 0.4 < time.monotonic() - began < 3


def test_a_client_that_sends_a_byte_now_and_then_is_408(running: tuple[Service, Live]) -> None:
    import socket  # noqa: PLC0415

    with socket.create_connection(("127.0.0.1", running[1].port), timeout=5) as connection:
        connection.sendall(head("content-length: 5000"))
        began = time.monotonic()
        connection.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - began < 5:
            connection.sendall(b"x")
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert parse(answer)[0] == 408
    assert 1.2 < time.monotonic() - began < 4


def test_two_lengths_for_one_body_are_400(running: tuple[Service, Live]) -> None:
    service, server = running
    smuggled = b"0\r\n\r\nGET /v1/decisions HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = server.raw(head(f"content-length: {len(smuggled)}", "transfer-encoding: chunked"), smuggled)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    assert service.log.decisions == []


@pytest.mark.parametrize("lengths", [("content-length: 5", "content-length: 6"), ("content-length: -1",), ("content-length: 0x10",)])
def test_a_length_that_is_none_is_400(running: tuple[Service, Live], lengths: tuple[str, ...]) -> None:
    assert running[1].raw(head(*lengths), PICTURE).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("path", "kind", "limit"),
    [
        ("/v1/moderations", "application/json", BOUNDS.json),
        ("/v1/policies", "application/yaml", BOUNDS.other),
        ("/nowhere", "text/plain", BOUNDS.other),
    ],
)
def test_each_route_has_its_limit(running: tuple[Service, Live], path: str, kind: str, limit: int) -> None:
    _, server = running
    assert parse(server.raw(head(f"content-length: {limit + 1}", path=path, kind=kind)))[::2] == (413, "payload_too_large")
    within = server.raw(head(f"content-length: {limit}", "connection: close", path=path, kind=kind), bytes(limit))
    assert parse(within)[0] in (400, 404, 422)


def test_the_rekognition_route_says_it_in_its_own_words(running: tuple[Service, Live]) -> None:
    answer = running[1].raw(head(f"content-length: {BOUNDS.rekognition + 1}", path="/", kind="application/x-amz-json-1.1"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"__type":"ImageTooLargeException"' in answer


def test_a_connection_serves_one_request_after_the_other(running: tuple[Service, Live]) -> None:
    service, server = running
    one, last = head(f"content-length: {len(PICTURE)}") + PICTURE, head("connection: close", method="GET", path="/healthz")
    answer = server.raw(one, one, last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert len(service.log.decisions) == 2


def test_a_refusal_without_reading_closes_the_connection(running: tuple[Service, Live]) -> None:
    unread = head(f"content-length: {len(PICTURE)}").replace(KEY.encode(), b"nobody")
    status, headers, code = parse(running[1].raw(unread))
    assert (status, code, headers["connection"]) == (401, "unauthorized", "close")


def test_a_budget_gives_what_is_there_and_no_more() -> None:
    budget = Budget(10)
    budget.take(7)
    with pytest.raises(Overloaded):
        budget.take(4)
    budget.give(7)
    budget.take(10)
    assert budget.left == 0
