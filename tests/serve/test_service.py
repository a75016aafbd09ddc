"""The whole service in HAProxy mode: a picture in, a committed decision out; and what happens when parts of it die."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from moderation.adapters.classifiers.correlation import plant_marker
from moderation.adapters.notes import open_note
from moderation.audit import leaf_hash
from moderation.log import Checkpoint, VerifierKey
from moderation.merkle import check_inclusion
from tests.builders import jpeg_bytes
from tests.serve_kit import is_alive
from tests.video_kit import clip, drifting

pytestmark = [pytest.mark.serve, pytest.mark.slow]


def send(client: httpx.Client, data: bytes, **options: Any) -> httpx.Response:
    return client.post("/v1/screenings", content=data, headers={"content-type": "image/jpeg", **options.pop("headers", {})}, **options)


def raw(service, data: bytes, *, timeout: float = 20) -> bytes:
    with socket.create_connection(("127.0.0.1", service.port), timeout=timeout) as s:
        s.sendall(data)
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
        return answer


def wait_ready(client: httpx.Client, *, within_s: float = 90) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if client.get("/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready again")


def assert_our_error(answer: httpx.Response) -> None:
    """JSON in our shape, with a time to come back."""
    assert answer.status_code in (429, 503), answer.text
    assert answer.headers["retry-after"]
    assert answer.headers["x-request-id"]
    assert set(answer.json()["error"]) == {"code", "message", "type", "param", "decision_id", "request_id"}


def marked_jpeg() -> bytes:
    frame = np.asarray(Image.open(io.BytesIO(jpeg_bytes(640, 480, seed=99))))
    out = io.BytesIO()
    Image.fromarray(plant_marker(frame, share=0.1)).save(out, "JPEG", quality=92)
    return out.getvalue()


# --- it works ---------------------------------------------------------------------------------------


def test_a_picture_becomes_a_committed_decision(client, fresh_jpeg):
    answer = send(client, fresh_jpeg())
    assert answer.status_code == 200
    decision = answer.json()
    assert decision["status"] == "done"
    assert [c["name"] for c in decision["classifiers"]] == ["nudenet"], "the default policy ignores all that the other one says"
    assert client.get(f"/v1/screenings/{decision['id']}").json() == decision


def test_a_planted_marker_is_blocked_by_the_policy_that_names_it_and_by_no_other(client):
    picture = marked_jpeg()
    assert send(client, picture).json()["verdict"] == "allow"
    answer = client.post("/v1/screenings", files={"media": ("m.jpg", picture, "image/jpeg")}, data={"policy": "marker"})
    assert answer.json()["verdict"] == "block"
    assert answer.json()["reasons"][0]["category"] == "test.marker"
    assert {c["name"] for c in answer.json()["classifiers"]} == {"correlation", "nudenet"}


def test_a_marked_video_is_blocked_and_the_answer_says_from_when_to_when(client):
    """On the route for both; OpenAI's takes pictures only."""
    frames = drifting(50, side=192, seed=3)
    data = clip([plant_marker(frame, share=0.2) if 20 <= number < 35 else frame for number, frame in enumerate(frames)], rate=10)
    answer = client.post("/v1/screenings", content=data, headers={"content-type": "video/mp4"}, params={"policy": "marker"})
    assert answer.status_code == 200, answer.text
    decision = answer.json()
    assert (decision["verdict"], decision["media"]["kind"], decision["media"]["frames_declared"]) == ("block", "video", 50)
    assert decision["media"]["frames"] < 50
    assert decision["segments"] == [{"start_s": 2.0, "end_s": 3.5, "category": "test.marker", "peak": "1.000000"}]
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    refused = client.post("/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": url}}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_every_answer_has_exactly_one_request_id(client, fresh_jpeg):
    for answer in (send(client, fresh_jpeg()), client.get("/nowhere"), client.get("/healthz")):
        assert len(answer.headers.get_list("x-request-id", split_commas=True)) == 1
        assert answer.headers["x-request-id"].startswith("req_")


def test_readyz_names_each_dependency(client):
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert {"database", "store", "sealer", "classifier:correlation", "classifier:nudenet"} <= set(answer.json()["dependencies"])


def test_what_was_decided_is_in_the_signed_log_as_its_receipt_promised(client, fresh_jpeg):
    decision = send(client, fresh_jpeg()).json()
    until = time.monotonic() + 30
    while (answer := client.get(f"/v1/decisions/{decision['id']}/proof")).status_code != 200:
        assert answer.status_code == 409
        assert time.monotonic() < until
        time.sleep(0.1)
    proof = answer.json()
    assert proof["leaf"] == decision["receipt"]["leaf"]
    checkpoint = client.get("/v1/audit/checkpoint").json()
    keys = [VerifierKey.parse(key) for key in checkpoint["keys"]]
    hashes = [bytes.fromhex(one) for one in proof["hashes"]]
    root = Checkpoint.parse(open_note(proof["checkpoint"], keys)[0]).root
    check_inclusion(leaf=leaf_hash(proof["entry"].encode()), index=proof["index"], size=proof["size"], hashes=hashes, root=root)


def test_a_sealer_that_is_killed_is_started_again_and_goes_on(service, client, fresh_jpeg):
    (sealer,) = service.wait_pids(r"deployments\.sealer")
    before = client.get("/v1/audit/checkpoint").json()["size"]
    os.kill(sealer, signal.SIGKILL)
    send(client, fresh_jpeg())
    until = time.monotonic() + 60
    while client.get("/v1/audit/checkpoint").json()["size"] <= before:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_metrics_cover_api_and_classifier_replicas(client, fresh_jpeg):
    send(client, fresh_jpeg())
    text = client.get("/metrics").text
    for name in (
        "facegate_screenings_total",
        'facegate_classifier_batch_rows_count{classifier="nudenet"}',
        "facegate_http_request_seconds",
    ):
        assert name in text
    (commits,) = (float(line.split()[1]) for line in text.splitlines() if line.startswith("facegate_commit_decisions_count "))
    assert commits > 0


def test_many_frames_cross_the_handle_in_messages_of_bounded_size(client):
    """40 frames are 12 MB of inputs; gRPC between replicas refuses 4 MiB."""
    frames = [Image.fromarray(np.asarray(Image.open(io.BytesIO(jpeg_bytes(320, 320, seed=1000 + n))))) for n in range(40)]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100, quality=60)
    answer = client.post("/v1/screenings", content=out.getvalue(), headers={"content-type": "image/webp"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["media"]["frames"] == 40


def test_side_by_side_callers_all_get_their_own_answer(client, fresh_jpeg):
    pictures = [fresh_jpeg() for _ in range(20)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda data: send(client, data), pictures))
    assert [a.status_code for a in answers] == [200] * 20
    assert len({a.json()["id"] for a in answers}) == 20
    assert len({a.json()["media"]["sha256"] for a in answers}) == 20


# --- limits ---------------------------------------------------------------------------------------


def test_a_declared_body_over_every_limit_is_413_in_json(service):
    answer = raw(service, b"POST /v1/screenings HTTP/1.1\r\nhost: x\r\ncontent-length: 900000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "payload_too_large"


def test_a_body_over_the_route_limit_is_413_also_when_it_does_not_say_its_length(client):
    def endless():
        for _ in range(60):
            yield b"\xff" * 1_000_000

    try:
        answer = client.post("/v1/screenings", content=endless(), headers={"content-type": "image/jpeg"})
    except httpx.WriteError:
        return  # cut off while sending, which is a refusal too
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"


def test_slow_headers_are_cut_off_with_408(service):
    began = time.monotonic()
    answer = raw(service, b"POST /v1/screenings HTTP/1.1\r\nhost: x\r\nx-slow: ")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 10


def test_too_many_at_once_are_told_to_come_back(service, client):
    """24 may be screened at once; pictures of 16 MP keep the decode children busy."""
    big = [jpeg_bytes(4096, 4096, seed=n, quality=30) for n in range(3)]
    with service.client(limits=httpx.Limits(max_connections=80)) as wide, ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda n: send(wide, big[n % 3] + bytes([n])), range(60)))
    codes = {a.status_code for a in answers}
    assert codes <= {200, 429, 503}
    refused = [a for a in answers if a.status_code != 200]
    assert refused
    for answer in refused:
        assert_our_error(answer)
    assert send(client, jpeg_bytes(seed=77_777)).status_code == 200


def test_a_client_that_goes_away_leaves_a_decision(service, client, fresh_jpeg):
    picture = fresh_jpeg(1200, 900)
    head = (
        f"POST /v1/screenings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\nidempotency-key: gone-{time.time()}\r\n"
        f"content-type: image/jpeg\r\ncontent-length: {len(picture)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as s:
        s.sendall(head.encode() + picture)
    key = head.partition("idempotency-key: ")[2].partition("\r\n")[0]
    until = time.monotonic() + 20
    while time.monotonic() < until:
        answer = send(client, picture, headers={"idempotency-key": key})
        if answer.status_code == 200 and answer.headers.get("idempotent-replayed") == "true":
            assert answer.json()["status"] == "done"
            return
        time.sleep(0.1)
    raise AssertionError(f"no decision: {answer.status_code} {answer.text}")


def test_steering_headers_of_ray_change_nothing(client, fresh_jpeg):
    headers = {"x-request-timeout-seconds": "0.001", "x-request-disconnect-disabled": "?0", "serve_multiplexed_model_id": "x"}
    assert send(client, fresh_jpeg(), headers=headers).status_code == 200


# --- who may reach what -----------------------------------------------------------------------------


def listeners(service) -> list[tuple[str, int, str]]:
    lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    ours = {f"pid={pid}," for pid in [service.process.pid, *service.pids("")]}
    for line in lines:
        if any(pid in line for pid in ours):
            address, _, port = line.split()[3].rpartition(":")
            found.append((address.strip("[]"), int(port), line.partition('(("')[2].partition('"')[0]))
    return found


def test_only_the_replicas_grpc_listens_beyond_loopback_and_it_wants_the_token(service):
    open_ones = [one for one in listeners(service) if not one[0].removeprefix("::ffff:").startswith("127.")]
    assert {name for _, _, name in open_ones} <= {"ray::ServeRepli"}
    for _, port, _ in open_ones:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_run_folder_is_private_and_no_replica_knows_the_owners_password(service):
    assert service.run.stat().st_mode & 0o077 == 0
    owner = (service.home / "postgres" / "passwords" / "owner").read_text()
    assert owner not in (service.run / "settings.toml").read_text()
    for pid in service.pids("ray::"):
        assert owner.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


# --- parts die --------------------------------------------------------------------------------------


class Load:
    """Callers that keep sending new pictures, and what they were told."""

    def __init__(self, service, callers: int = 4) -> None:
        self._service = service
        self._stop = threading.Event()
        self.answers: list[httpx.Response] = []
        self.broken: list[Exception] = []
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(callers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        with self._service.client() as client:
            count = 0
            while not self._stop.is_set():
                count += 1
                try:
                    self.answers.append(send(client, jpeg_bytes(200, 150, seed=10_000_000 + number * 100_000 + count)))
                except httpx.HTTPError as error:
                    self.broken.append(error)

    def check(self, client: httpx.Client) -> None:
        """All got JSON; everything acknowledged is in the record."""
        assert not self.broken
        assert {a.status_code for a in self.answers} <= {200, 503}
        for answer in self.answers:
            if answer.status_code == 200:
                assert client.get(f"/v1/decisions/{answer.json()['id']}").status_code == 200
            else:
                assert_our_error(answer)
        assert any(a.status_code == 200 for a in self.answers)


def wait_replaced(service, pattern: str, killed: int, count: int, *, within_s: float = 90) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        now = service.pids(pattern)
        if killed not in now and len(now) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{pattern} is not back")


def test_a_killed_classifier_replica_loses_nothing_acknowledged(service, client):
    pattern = "ray::ServeReplica:facegate:NsfwClassifier-nudenet"
    replicas = service.pids(pattern)
    assert len(replicas) == 2
    with Load(service) as load:
        time.sleep(1)
        os.kill(replicas[0], signal.SIGKILL)
        wait_replaced(service, pattern, replicas[0], 2)
        wait_ready(client)
        time.sleep(0.5)
    load.check(client)
    assert load.answers[-1].status_code == 200


def test_all_replicas_of_a_classifier_killed_is_503_until_they_are_back(service, client):
    pattern = "ray::ServeReplica:facegate:NsfwClassifier-nudenet"
    replicas = service.pids(pattern)
    with Load(service) as load:
        time.sleep(0.5)
        for pid in replicas:
            os.kill(pid, signal.SIGKILL)
        wait_replaced(service, pattern, replicas[0], 2)
        wait_ready(client)
        time.sleep(0.5)
    load.check(client)
    assert load.answers[-1].status_code == 200


def test_a_killed_api_replica_is_503_in_json_until_it_is_back(service, client):
    [api] = service.pids("ray::ServeReplica:facegate:Api")
    with Load(service) as load:
        time.sleep(1)
        os.kill(api, signal.SIGKILL)
        wait_replaced(service, "ray::ServeReplica:facegate:Api", api, 1)
        wait_ready(client)
        time.sleep(0.5)
    load.check(client)
    assert load.answers[-1].status_code == 200


def test_a_killed_decode_child_is_replaced(service, client, fresh_jpeg):
    children = service.pids(r"moderation\.adapters\.decode\.child|sys\.path\[:0\]")
    assert children
    os.kill(children[0], signal.SIGKILL)
    answers = [send(client, fresh_jpeg()) for _ in range(10)]
    assert {a.status_code for a in answers} <= {200, 503}
    assert answers[-1].status_code == 200


def test_killed_postgres_is_503_and_named_until_it_is_back(service, client, fresh_jpeg):
    [postmaster] = service.pids(r"bin/postgres -D")
    before = send(client, fresh_jpeg()).json()
    os.kill(postmaster, signal.SIGSTOP)  # silent at first, so that the time-outs are tried as well
    try:
        for backend in service.pids("^postgres: "):
            os.kill(backend, signal.SIGKILL)
        answer = send(client, fresh_jpeg())
        assert_our_error(answer)
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["dependencies"]["database"]["ready"] is False
        assert ready.json()["dependencies"]["classifier:nudenet"]["ready"] is True
    finally:
        os.kill(postmaster, signal.SIGKILL)
    wait_ready(client)
    assert not is_alive(postmaster)
    assert client.get(f"/v1/decisions/{before['id']}").json() == before
    assert send(client, fresh_jpeg()).status_code == 200
    assert "Postgres has ended" in service.output
