"""Detector and swapper in the running service, called as a worker calls them, from a process of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve_kit import command_of

pytestmark = [pytest.mark.serve, pytest.mark.slow]

ROUNDS = 5
REQUESTS = 6


def call(service, *task: object) -> dict:
    """What `tests.face_caller` says, joined to the service's Ray."""
    (runner,) = service.pids(r"deployments\.serve_command")
    (raylet,) = service.pids(r"raylet/raylet ")
    address = re.search(r"--gcs-address=(\S+)", command_of(raylet))[1]
    pairs = [entry.partition(b"=") for entry in Path(f"/proc/{runner}/environ").read_bytes().split(b"\0") if entry]
    run = subprocess.run(
        [sys.executable, "-m", "tests.face_caller", address, *map(str, task)],
        cwd=Path(__file__).parents[2],
        env={name.decode(): value.decode() for name, _, value in pairs},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def batches(client, work: str) -> tuple[int, int]:
    """How many there were, and their rows."""
    text = client.get("/metrics").text
    found = [re.search(rf'^facegate_face_batch_rows_{what}{{work="{work}"}} (\S+)$', text, re.MULTILINE) for what in ("count", "sum")]
    count, rows = (int(float(one[1])) if one else 0 for one in found)
    return count, rows


def test_a_render_through_the_service_is_the_render_in_process(service, client):
    before = batches(client, "detect")
    answer = call(service, "render")
    assert answer["detector"] == "lbp-cascade"
    assert answer["same"]
    assert answer["changed"] > 1000
    assert batches(client, "detect")[1] == before[1] + 2


def test_crops_of_requests_side_by_side_share_a_batch(service, client):
    """Every request sends one crop in a message of its own, so a batch with more crops than one is shared by several."""
    for _ in range(ROUNDS):  # on a busy machine they may come too far apart for each other
        count, rows = batches(client, "swap")
        assert call(service, "requests", REQUESTS) == {"right": REQUESTS}
        new_count, new_rows = batches(client, "swap")
        assert new_rows - rows == REQUESTS
        if new_count - count < REQUESTS:
            return
    raise AssertionError(f"{REQUESTS} crops in {REQUESTS} batches, {ROUNDS} times")


def test_a_killed_swapper_is_replaced_and_renders_go_on(service):
    (swapper,) = service.pids("ray::ServeReplica:facegate:FaceSwapper")
    assert call(service, "outlive", swapper)["changed"]
    assert service.wait_pids("ray::ServeReplica:facegate:FaceSwapper") != [swapper]
