"""Gated transforms through the whole running service: HTTP, Ray, Postgres, stores, credentials."""

import hashlib
import io
import json
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from deployments.drawn_faces import PEOPLE, draw
from moderation.adapters.classifiers.correlation import plant_marker
from moderation.adapters.provenance import COMPOSITE, read_credentials

pytestmark = [pytest.mark.serve, pytest.mark.slow]

ENDS = {"released", "denied", "held", "failed", "cancelled"}
OPTIONS = {"consent": {"basis": "self"}, "policy": "marker", "reference": "serve-test"}
_NUMBER = iter(range(1_000_000))


def picture(who: str, *, marked: bool = False) -> bytes:
    """A drawn face whose bytes nobody has sent before."""
    frame = draw(PEOPLE[who], side=320, eyes_px=72).pixels.copy()
    frame[:2, :2] = next(_NUMBER) % 256
    out = io.BytesIO()
    Image.fromarray(plant_marker(frame, share=0.06, left=0.0, top=1.0) if marked else frame).save(out, "JPEG", quality=92)
    return out.getvalue()


def ask(client, source: bytes, target: bytes, headers=None, **options):
    files = {"source": ("a.jpg", source, "image/jpeg"), "target": ("b.jpg", target, "image/jpeg")}
    return client.post("/v1/transforms", files=files, data={"options": json.dumps(OPTIONS | options)}, headers=headers)


def ended(client, id: str, *, within_s: float = 90) -> dict:
    until = time.monotonic() + within_s
    while (found := client.get(f"/v1/transforms/{id}").json())["state"] not in ENDS:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found


def test_a_swap_is_released_served_by_its_hash_and_carries_its_credentials(client):
    source, target = picture("ada"), picture("bo")
    accepted = ask(client, source, target)
    assert accepted.status_code == 202
    id = accepted.json()["id"]
    done = ended(client, id)
    assert done["state"] == "released", done
    output = client.get(f"/v1/transforms/{id}/output")
    assert output.status_code == 200
    assert hashlib.sha256(output.content).hexdigest() == done["release"]["sha256"]
    assert output.headers["x-content-type-options"] == "nosniff"
    credentials = read_credentials(output.content, done["release"]["type"], anchors=None)
    assert (credentials.state, credentials.source_type) == ("Valid", COMPOSITE)
    shown, before = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (output.content, target))
    assert np.abs(shown - before).max() > 60
    decisions = [client.get(f"/v1/decisions/{name}").json() for name in done["decisions"].values()]
    assert [(one["stage"], one["verdict"]) for one in decisions] == [("source", "allow"), ("target", "allow"), ("output", "allow")]
    listed = client.get("/v1/decisions", params={"transform": id}).json()["data"]
    assert {one["id"] for one in listed} == {one["id"] for one in decisions}
    with client.stream("GET", f"/v1/transforms/{id}/events") as events:
        states = [json.loads(line[5:])["state"] for line in events.iter_lines() if line.startswith("data:")]
    assert states == ["queued", "screening", "transforming", "screening_output", "released"]


@pytest.mark.parametrize("stage", ["source", "target"])
def test_a_marked_input_is_denied_and_nothing_can_be_fetched(client, stage):
    pictures = {"source": picture("ada", marked=stage == "source"), "target": picture("bo", marked=stage == "target")}
    id = ask(client, **pictures).json()["id"]
    done = ended(client, id)
    assert (done["state"], done["denial"]["stage"], done["denial"]["reasons"][0]["category"]) == ("denied", stage, "test.marker")
    refused = client.get(f"/v1/transforms/{id}/output")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "denied")
    assert done["release"] is None


def test_without_consent_nothing_is_accepted(client):
    refused = ask(client, picture("ada"), picture("bo"), consent=None)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "consent_required")


def test_the_same_key_gives_the_same_transform_and_other_bytes_are_refused(client):
    source, target, key = picture("ada"), picture("bo"), {"idempotency-key": f"swap-{time.time_ns()}"}
    first = ask(client, source, target, headers=key)
    again = ask(client, source, target, headers=key)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    other = ask(client, source, picture("eve"), headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    ended(client, first.json()["id"])


def test_a_worker_that_is_killed_loses_nothing_and_releases_once(service, client):
    ids = [ask(client, picture("ada"), picture("bo")).json()["id"] for _ in range(4)]
    for pid in service.pids(r"ray::ServeReplica:facegate:TransformWorker"):
        os.kill(pid, signal.SIGKILL)
    found = [ended(client, id, within_s=150) for id in ids]
    assert [one["state"] for one in found] == ["released"] * 4
    for one in found:
        assert client.get(f"/v1/transforms/{one['id']}/output").status_code == 200


def test_a_picture_without_a_face_fails_with_a_code(client, fresh_jpeg):
    done = ended(client, ask(client, fresh_jpeg(), picture("bo")).json()["id"])
    assert (done["state"], done["failure"]["code"], done["failure"]["retryable"]) == ("failed", "no_face", False)
