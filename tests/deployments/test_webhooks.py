"""Callbacks against a real server on loopback; the queue and the record are lists."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deployments import keys_command
from deployments.http.fetch import Address
from deployments.settings import Settings, SettingsRefused
from deployments.webhooks import RETRY_IN_S, WebhookSender, message_id, secret_text, signed_headers, webhook_secret
from moderation.adapters.keys import tenant_id
from moderation.adapters.queue import ATTEMPTS_OF
from moderation.adapters.service_key import ServiceKey
from moderation.errors import RecordUnavailable
from moderation.ports import Job, QueueState
from moderation.transform import State
from tests.builders import NOW, OTHER_TENANT, TENANT
from tests.http_kit import Service, make_service
from tests.transform_kit import Hand, accepted, path_of, worked

KEY = ServiceKey(bytes(range(32)))


@dataclass
class Receiver:
    """What a receiver has heard, and what it answers."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    heard: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    hang: threading.Event | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook?x=1"


@contextmanager
def receiving(*answers: int | tuple[int, dict[str, str]], tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A server that gives these answers in turn, and 200 afterwards; with `tls`, by https."""
    receiver = Receiver(answers=[answer if isinstance(answer, tuple) else (answer, {}) for answer in answers])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            if receiver.hang is not None:
                receiver.hang.wait(30)
            status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
            self.send_response(status)
            for name, value in {"content-length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:  # as which a redirect would be followed
            self.do_POST()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_address[1]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        if receiver.hang is not None:
            receiver.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()


def service_for(receiver: Receiver) -> Service:
    return make_service(changes={"webhook_hosts": frozenset({receiver.host}), "webhook_http": True})


def sender(
    service: Service, *hosts: str, insecure: bool = True, clock: Callable[[], datetime] | None = None, **changes: Any
) -> WebhookSender:
    return WebhookSender(
        log=service.transforms,
        queue=service.queue,
        key=KEY,
        hosts=hosts,
        clock=clock or service.clock,
        insecure=insecure,
        **changes,
    )


def hooks(service: Service) -> list[Job]:
    return [job for job in service.queue.jobs.values() if job.kind == "webhook"]


def state_of(service: Service) -> QueueState:
    (job,) = hooks(service)
    return service.queue.states[job.id]


def reason_of(service: Service) -> str:
    (job,) = hooks(service)
    return service.queue.reasons[job.id]


def verified(headers: dict[str, str], body: bytes, secret: str) -> Any:
    """What a receiver's library does (Standard Webhooks 1.0, symmetric); the payload."""
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert hmac.compare_digest(headers["webhook-signature"], expected)
    return json.loads(body)


# --- telling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.RELEASED, State.DENIED, State.FAILED, State.CANCELLED])
def test_every_final_state_is_told_once_signed_and_as_the_transform(state: State) -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        hand = worked(service, state, callback_url=receiver.url)
        assert asyncio.run(sender(service, receiver.host).run_once())
        assert not asyncio.run(sender(service, receiver.host).run_once())
    ((path, headers, body),) = receiver.heard
    payload = verified(headers, body, secret_text(webhook_secret(KEY, TENANT)))
    committed = asyncio.run(hand.load())
    assert path == "/hook?x=1"
    assert headers["content-type"] == "application/json"
    assert headers["host"] == receiver.host
    assert headers["webhook-id"] == f"msg_{hand.id.hex}_{committed.events[-1].sequence}"
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert "authorization" not in headers
    assert payload == {
        "type": f"transform.{state}",
        "timestamp": "2026-09-01T12:00:00.123456Z",
        "data": service.request("GET", path_of(hand.id)).json(),
    }
    assert state_of(service) is QueueState.DONE


def test_being_held_is_no_end_and_is_not_told() -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        worked(service, State.HELD, callback_url=receiver.url)
    assert hooks(service) == []


def test_without_a_callback_url_nobody_is_called() -> None:
    service = make_service()
    worked(service, State.RELEASED)
    assert hooks(service) == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_ends_it(status: int) -> None:
    with receiving(status) as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        asyncio.run(sender(service, receiver.host).run_once())
    assert state_of(service) is QueueState.DONE


# --- trying again ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
def test_anything_else_is_tried_again_under_the_same_id_with_a_fresh_time(status: int) -> None:
    now = [NOW]
    with receiving(status) as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        worker = sender(service, receiver.host, clock=lambda: now[0])
        asyncio.run(worker.run_once())
        assert (state_of(service), reason_of(service)) == (QueueState.QUEUED, f"HTTP {status}")
        now[0] = NOW.replace(hour=13)
        asyncio.run(worker.run_once())
    assert state_of(service) is QueueState.DONE
    (_, first, body), (_, second, again) = receiver.heard
    assert (first["webhook-id"], body) == (second["webhook-id"], again)
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 3600
    verified(second, again, secret_text(webhook_secret(KEY, TENANT)))


def test_after_its_last_attempt_it_is_parked_and_not_before() -> None:
    pauses: list[float | None] = []
    with receiving(*[500] * 20) as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        fail = service.queue.fail

        async def noted(job: Job, reason: str, *, retry_in_s: float | None) -> QueueState:
            pauses.append(retry_in_s)
            return await fail(job, reason, retry_in_s=retry_in_s)

        service.queue.fail = noted  # type: ignore[method-assign]
        worker = sender(service, receiver.host)
        while asyncio.run(worker.run_once()):
            pass
    assert state_of(service) is QueueState.PARKED
    assert len(receiver.heard) == ATTEMPTS_OF["webhook"] == len(RETRY_IN_S) + 1 >= 5
    assert pauses[-1] is None
    for pause, planned in zip(pauses, RETRY_IN_S, strict=False):
        assert pause is not None
        assert 0.8 * planned <= pause <= 1.2 * planned


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with receiving() as elsewhere, receiving((status, {"location": f"http://127.0.0.1:{elsewhere.port}/"})) as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        asyncio.run(sender(service, receiver.host, elsewhere.host).run_once())
    assert (state_of(service), reason_of(service)) == (QueueState.QUEUED, f"HTTP {status}")
    assert elsewhere.heard == []


def test_a_receiver_that_is_not_there_is_tried_again() -> None:
    with receiving() as receiver:
        pass
    service = service_for(receiver)
    worked(service, State.FAILED, callback_url=receiver.url)
    asyncio.run(sender(service, receiver.host).run_once())
    assert (state_of(service), reason_of(service)) == (QueueState.QUEUED, "ConnectError")


def test_a_receiver_that_does_not_answer_is_given_up_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.webhooks._TIMEOUT_S", 0.2)
    with receiving() as receiver:
        receiver.hang = threading.Event()
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        asyncio.run(sender(service, receiver.host).run_once())
    assert (state_of(service), reason_of(service)) == (QueueState.QUEUED, "TimeoutError")


def test_trouble_with_the_record_is_an_attempt_like_any_other() -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        service.transforms.fault = RecordUnavailable("x")
        asyncio.run(sender(service, receiver.host).run_once())
        assert (state_of(service), receiver.heard) == (QueueState.QUEUED, [])
        service.transforms.fault = None
        asyncio.run(sender(service, receiver.host).run_once())
    assert state_of(service) is QueueState.DONE


def test_a_sender_whose_lease_was_lost_ends_nothing() -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        (job,) = hooks(service)
        done = service.queue.done

        async def late(held: Job) -> None:
            service.queue.expire(job.id)
            await service.queue.take(("webhook",), 30.0)
            await done(held)

        service.queue.done = late  # type: ignore[method-assign, assignment]
        asyncio.run(sender(service, receiver.host).run_once())
    assert state_of(service) is QueueState.RUNNING


# --- where it does not go --------------------------------------------------------------------------


def test_a_host_that_was_taken_off_the_list_is_not_called() -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        asyncio.run(sender(service, "127.0.0.1", "other.example").run_once())
    assert (state_of(service), receiver.heard) == (QueueState.PARKED, [])


def test_without_the_setting_neither_http_nor_loopback_is_called() -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        worked(service, State.FAILED, callback_url=receiver.url)
        asyncio.run(sender(service, receiver.host, insecure=False).run_once())
    assert (state_of(service), receiver.heard) == (QueueState.PARKED, [])


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_a_name_that_leads_inside_is_not_called(address: str) -> None:
    async def resolved(_: str) -> list[Address]:
        return [ip_address("93.184.216.34"), ip_address(address)]

    service = make_service(changes={"webhook_hosts": frozenset({"hooks.example"})})
    worked(service, State.FAILED, callback_url="https://hooks.example/x")
    asyncio.run(sender(service, "hooks.example", insecure=False, resolve=resolved).run_once())
    assert (state_of(service), reason_of(service)) == (QueueState.QUEUED, "the address is not allowed")


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of this name shows, and what a client believes that trusts it and nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, SHA256())
    )
    file = folder / f"{name}.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + made.public_bytes(Encoding.PEM))
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(file)
    return shown, ssl.create_default_context(cadata=made.public_bytes(Encoding.PEM).decode())


@pytest.mark.parametrize(("name", "is_told"), [("hooks.example", True), ("other.example", False)])
def test_by_https_only_who_has_the_names_certificate_is_told(tmp_path: Path, name: str, is_told: bool) -> None:
    """The connection goes to the checked address; the certificate is asked of the name."""
    shown, believed = certificate(tmp_path, "hooks.example")

    async def resolved(_: str) -> list[Address]:
        return [ip_address("127.0.0.1")]

    with receiving(tls=shown) as receiver:
        host = f"{name}:{receiver.port}"
        service = make_service(changes={"webhook_hosts": frozenset({host})})
        worked(service, State.FAILED, callback_url=f"https://{host}/x")
        asyncio.run(sender(service, host, resolve=resolved, tls=believed).run_once())
    assert (len(receiver.heard) == 1) is is_told
    assert state_of(service) is (QueueState.DONE if is_told else QueueState.QUEUED)


def test_a_certificate_that_nobody_vouches_for_is_not_believed(tmp_path: Path) -> None:
    shown, _ = certificate(tmp_path, "hooks.example")

    async def resolved(_: str) -> list[Address]:
        return [ip_address("127.0.0.1")]

    with receiving(tls=shown) as receiver:
        host = f"hooks.example:{receiver.port}"
        service = make_service(changes={"webhook_hosts": frozenset({host})})
        worked(service, State.FAILED, callback_url=f"https://{host}/x")
        asyncio.run(sender(service, host, resolve=resolved).run_once())
    assert (state_of(service), receiver.heard) == (QueueState.QUEUED, [])


@pytest.mark.parametrize("payload", [{"transform": "00" * 16, "sequence": 1}, {"transform": None, "sequence": 99}])
def test_a_callback_about_nothing_is_parked(payload: dict[str, Any]) -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        hand = worked(service, State.FAILED)
        payload = {**payload, "transform": payload["transform"] or hand.id.hex}
        asyncio.run(service.queue.put(id=UUID(int=7), tenant=TENANT, kind="webhook", payload=payload))
        asyncio.run(sender(service, receiver.host).run_once())
    assert (state_of(service), receiver.heard) == (QueueState.PARKED, [])


def test_another_tenants_transform_is_not_told_of() -> None:
    with receiving() as receiver:
        service = service_for(receiver)
        hand = Hand(service=service, id=accepted(service, callback_url=receiver.url))
        payload = {"transform": hand.id.hex, "sequence": 1}
        asyncio.run(service.queue.put(id=UUID(int=7), tenant=OTHER_TENANT, kind="webhook", payload=payload))
        asyncio.run(sender(service, receiver.host).run_once())
    assert (state_of(service), receiver.heard) == (QueueState.PARKED, [])


# --- secrets ---------------------------------------------------------------------------------------


def test_signatures_are_those_of_the_specifications_example() -> None:
    """The example of Standard Webhooks, as in the libraries of its authors."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    now = datetime.fromtimestamp(1614265330, UTC)
    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", now, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_tenant_has_a_secret_of_its_own_that_follows_from_the_service_key() -> None:
    assert webhook_secret(KEY, TENANT) == webhook_secret(ServiceKey(bytes(range(32))), TENANT)
    others = {webhook_secret(KEY, OTHER_TENANT), webhook_secret(ServiceKey(bytes(32)), TENANT), bytes(range(32))}
    assert webhook_secret(KEY, TENANT) not in others
    assert len(webhook_secret(KEY, TENANT)) == 32


def test_the_command_prints_what_receivers_check_with(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    printed = keys_command.secret_of_webhooks(settings, tenant="local")
    assert printed == keys_command.secret_of_webhooks(settings, tenant="local")
    assert printed.startswith("whsec_")
    key = ServiceKey(bytes.fromhex((tmp_path / "service.key").read_text().strip()))
    assert printed == secret_text(webhook_secret(key, tenant_id("local")))


def test_a_service_key_that_others_can_read_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "service.key").write_text("00" * 32)
    (tmp_path / "service.key").chmod(0o644)
    with pytest.raises(SettingsRefused, match="others can reach it"):
        keys_command.secret_of_webhooks(Settings(home=tmp_path), tenant="local")


def test_the_id_of_a_message_is_that_of_its_event() -> None:
    service = make_service()
    committed = asyncio.run(worked(service, State.RELEASED).load())
    assert len({message_id(committed.transform.id, event) for event in committed.events}) == len(committed.events)
