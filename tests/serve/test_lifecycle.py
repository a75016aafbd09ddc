"""Starting and stopping: one command, and whatever ends it, nothing is left running."""

import io
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from deployments import cluster
from tests import tiny_vit
from tests.builders import jpeg_bytes
from tests.serve_kit import Service

pytestmark = [pytest.mark.serve, pytest.mark.slow]

LIGHT = {"classifiers": "correlation", "classifier_replicas": "1", "api_replicas": "1"}


def make(folder: Path, **settings: str) -> Service:
    return Service(home=folder / "home", settings=LIGHT | settings)


def marked_png() -> bytes:
    (_, marked), _ = tiny_vit.samples(2, seed=5)
    out = io.BytesIO()
    Image.fromarray(marked).resize((192, 192)).save(out, "PNG")
    return out.getvalue()


def screen(service: Service) -> dict[str, object]:
    with service.client() as client:
        answer = client.post("/v1/screenings", content=jpeg_bytes(seed=5), headers={"content-type": "image/jpeg"})
    assert answer.status_code in (200, 503), answer.text
    return answer.json()


def fails(folder: Path, **settings: str) -> str:
    """What a start that is refused says; it has to be one line."""
    refused = make(folder, **settings)
    refused.port = int(settings.get("port", refused.port))
    refused.start()
    assert refused.process.wait(60) == 1
    assert refused.output.count("\n") == 1, refused.output
    return refused.output


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A service beside the session's, always on the same data directory. A test finds it running or not, and leaves it either way."""
    service = make(tmp_path_factory.mktemp("other"))
    yield service
    if service.runs:
        assert service.stop() == 0


def up(service: Service) -> None:
    if not service.runs:
        service.start()
        service.wait_ready()


def begin(service: Service, until: str) -> None:
    """Start it as far as to this process."""
    if service.runs:
        assert service.stop() == 0
    service.start()
    service.wait_pids(until)
    service.note_processes()


@pytest.mark.parametrize("until", ["deployments.serve_command", "gcs_server", "ray::ServeController", "ray::ServeReplica"])
def test_an_interrupted_start_leaves_nothing(other, until):
    begin(other, until)
    run = other.run
    assert other.stop() == 0
    assert "ready" not in other.output
    assert not run.exists()


def test_a_killed_runner_is_said_in_one_line_and_takes_everything_with_it(other):
    begin(other, "ray::ServeReplica")
    [runner] = other.pids("deployments.serve_command")
    os.kill(runner, signal.SIGKILL)
    assert other.process.wait(60) != 0
    other.assert_gone()
    assert "the service was killed by SIGKILL" in other.output


def test_a_classifier_that_cannot_be_loaded_is_said_in_one_line(tmp_path):
    service = make(tmp_path, classifiers="transformers:/nowhere@main")
    service.start()
    assert service.process.wait(180) == 1
    assert service.output.count("\n") == 1, service.output
    assert "/nowhere" in service.output


def test_the_default_mode_serves_beside_another_service_and_the_record_is_there_again_after_a_restart(service, other, request):
    """Ray Serve's own proxy instead of HAProxy, and a checkpoint as a hub would give it; then HAProxy on the same data directory."""
    checkpoint = tiny_vit.cached(request.config.cache.mkdir("tiny_vit"))
    if other.runs:
        assert other.stop() == 0
    default = Service(home=other.home, settings=LIGHT | {"serve_mode": "default", "classifiers": f"transformers:{checkpoint}@tiny"})
    up(default)
    assert default.pids("haproxy") == []
    with default.client() as client:
        answer = client.post("/v1/screenings?wait=20", content=jpeg_bytes(seed=5), headers={"content-type": "image/jpeg"})
        assert answer.status_code != 500
        assert answer.headers.get_list("x-request-id", split_commas=True)
        assert client.get("/readyz").status_code == 200
        marked = client.post("/v1/screenings", files={"media": ("a.png", marked_png(), "image/png")}, data={"policy": "marker"})
        assert marked.status_code == 200, marked.text
        decision = marked.json()
        assert (decision["verdict"], [one["name"] for one in decision["classifiers"]]) == ("block", ["tiny-vit"])
        in_force = client.get("/v1/policies/default").json()
    told = default.wait_logged("policy in force is not served by the classifiers")
    assert (told["digest"], told["deployment"]) == (in_force["digest"], "TransformWorker")
    key = default.key
    assert default.stop(signal.SIGTERM) == 0
    assert not (default.home / "run").exists()

    up(other)
    assert other.pids("haproxy")
    assert other.key == key
    with other.client() as client:
        assert client.get(f"/v1/decisions/{decision['id']}").json() == decision
    with service.client() as client:
        assert client.get("/readyz").status_code == 200


def test_a_killed_launcher_takes_everything_with_it(other):
    up(other)
    other.note_processes()
    other.process.kill()
    other.process.wait()
    other.assert_gone(within_s=40)
    # The folder of the run is removed by the next start, which is not disturbed by what the crash left.
    left = other.run
    assert left.exists()
    other.seen.clear()
    up(other)
    assert not left.exists()


def test_a_dead_part_of_ray_ends_the_service_with_a_line(other):
    up(other)
    other.note_processes()
    [gcs] = other.pids("gcs_server")
    os.kill(gcs, signal.SIGKILL)
    assert other.process.wait(60) == 1
    other.assert_gone()
    assert "has ended; its logs are in" in other.output


def test_a_taken_port_is_said_in_one_line(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken" in fails(tmp_path, port=str(port))


def test_a_data_directory_in_use_is_said_in_one_line(service, tmp_path):
    refused = Service(home=service.home, settings=LIGHT)
    refused.start_into(tmp_path / "out")
    assert refused.process.wait(60) == 1
    assert f"process {service.process.pid} serves from {service.home} already" in (tmp_path / "out").read_text()


def test_settings_that_cannot_be_are_said_in_one_line(tmp_path):
    assert "FACEGATE_PROT is not a setting" in fails(tmp_path, prot="1")
    assert "FACEGATE_CLASSIFIER_REPLICAS" in fails(tmp_path, classifier_replicas="none")


def test_it_runs_as_an_ordinary_user():
    """Started by root as `nobody`, with an interpreter that this user can execute."""
    if os.geteuid() != 0:
        pytest.skip("we are an ordinary user already, as every other test shows")
    nobody = pwd.getpwnam("nobody")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = next((path for path in (sys.executable, f"/usr/bin/{version}") if _may_execute(path, nobody.pw_uid)), None)
    if python is None:
        pytest.skip("no interpreter of this version that other users may execute")
    folder = Path(tempfile.mkdtemp(prefix="fgt-"))
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    service = make(folder)
    try:
        site = Path(pytest.__file__).parents[1]
        service.start_into(
            folder / "home.out",
            command=[python, "-c", "from deployments.cli import main; main()", "serve"],
            environment={"PYTHONPATH": f"{site}:{Path(cluster.__file__).parents[1]}", "HOME": str(folder)},
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd=folder,
        )
        service.wait_ready()
        assert screen(service)
        assert (service.home / "local.key").stat().st_uid == nobody.pw_uid
        assert (service.home / "local.key").stat().st_mode & 0o077 == 0
        service.note_processes()
        owners = {os.stat(f"/proc/{pid}").st_uid for pid in service.pids("")}  # noqa: PTH116  # a folder of proc
        assert owners == {nobody.pw_uid}
        assert service.stop() == 0
    finally:
        if service.process is not None and service.process.poll() is None:
            service.process.kill()
            time.sleep(5)
        subprocess.run(["rm", "-rf", folder], check=False)


def _may_execute(path: str, uid: int) -> bool:
    try:
        return subprocess.run([path, "-c", "pass"], user=uid, check=False, capture_output=True).returncode == 0
    except OSError:
        return False
