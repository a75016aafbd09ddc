"""Gated transforms through the whole running service: HTTP, Ray, Postgres, stores, credentials."""

import hashlib
import io
import json
import os
import signal
import time
from dataclasses import replace

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.drawn_faces import PEOPLE, draw
from deployments.policy_file import shipped_policy, write_policy
from face_pipeline.label import Corner, draw_label
from moderation.adapters.classifiers.correlation import plant_marker
from moderation.adapters.provenance import COMPOSITE, read_credentials
from moderation.policy import InputSampling
from tests.video_kit import clip

pytestmark = [pytest.mark.serve, pytest.mark.slow]

ENDS = {"released", "denied", "held", "failed", "cancelled"}
YAML = {"content-type": "application/yaml"}
OPTIONS = {"consent": {"basis": "self"}, "policy": "marker", "reference": "serve-test"}
RATE = 10
FRAMES = 60
SEGMENT = 20
"""Frames of a segment, which lasts two seconds."""
MARKED = 33
_NUMBER = iter(range(1_000_000))


def picture(who: str, *, marked: bool = False) -> bytes:
    """A drawn face whose bytes nobody has sent before."""
    frame = draw(PEOPLE[who], side=320, eyes_px=72).pixels.copy()
    frame[:2, :2] = next(_NUMBER) % 256
    out = io.BytesIO()
    Image.fromarray(plant_marker(frame, share=0.06, left=0.0, top=1.0) if marked else frame).save(out, "JPEG", quality=92)
    return out.getvalue()


def film(*, marked: int | None = None) -> bytes:
    """A drawn face that moves, with a tone; nobody has sent it before. One frame shows a marker, if that is asked for."""
    head = draw(PEOPLE["bo"], side=256, eyes_px=64).pixels.copy()
    head[:8, :8] = next(_NUMBER) % 256
    frames = [np.roll(head, number, axis=1) for number in range(FRAMES)]
    if marked is not None:
        frames[marked] = plant_marker(frames[marked], share=0.06, left=0.0, top=0.1)
    return clip(frames, rate=RATE)


def shown_by(data: bytes) -> list[tuple[float, np.ndarray]]:
    """The frames that a player shows, and when."""
    with av.open(io.BytesIO(data), "r", format="mp4") as file:
        return [(frame.time, frame.to_ndarray(format="rgb24").astype(int)) for frame in file.decode(video=0)]


def heard_s(data: bytes) -> float:
    """Seconds of sound."""
    with av.open(io.BytesIO(data), "r", format="mp4") as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


def ask(client, source: bytes, target: bytes, headers=None, **options):
    kind = ("b.mp4", target, "video/mp4") if target[4:8] == b"ftyp" else ("b.jpg", target, "image/jpeg")
    files = {"source": ("a.jpg", source, "image/jpeg"), "target": kind}
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


@pytest.fixture(scope="module")
def streamed(client):
    """The policy shows videos while they are made, and looks at one frame of an upload."""
    shipped = shipped_policy("marker")
    barely = InputSampling(interval_ms=60_000, min_frames=1, first_and_last=False, scene_cuts=False)
    published = client.post("/v1/policies", content=write_policy(replace(shipped, stream="labelled", sampling=barely)), headers=YAML)
    assert published.status_code == 201, published.text
    time.sleep(1.1)  # what is in force is remembered for a second
    yield
    assert client.post("/v1/policies", content=write_policy(shipped), headers=YAML).status_code == 201


def watched(client, id: str, *, at_first=lambda: None) -> tuple[bytes, bool]:
    """All that is shown of a video, and whether it came to its end. `at_first` is called once something is shown."""
    body = bytearray()
    with client.stream("GET", f"/v1/transforms/{id}/stream") as answer:
        if answer.status_code != 200:
            return answer.read()[:0], False
        try:
            for chunk in answer.iter_raw():
                if not body:
                    at_first()
                body += chunk
        except httpx.RemoteProtocolError:
            return bytes(body), False
    return bytes(body), True


@pytest.mark.usefixtures("streamed")
def test_a_video_is_shown_while_it_is_made_and_released_with_all_its_frames_its_sound_and_the_label(client):
    target = film()
    id = ask(client, picture("ada"), target).json()["id"]
    body, is_whole = watched(client, id)
    done = ended(client, id)
    assert (done["state"], is_whole) == ("released", True), done
    output = client.get(f"/v1/transforms/{id}/output")
    assert hashlib.sha256(output.content).hexdigest() == done["release"]["sha256"]
    assert read_credentials(output.content, "video/mp4", anchors=None).state == "Valid"
    assert (body.count(b"moof"), output.content.count(b"moof")) == (3, 0), "in three segments, and as one ordinary file"
    shown, made = shown_by(body), shown_by(output.content)
    for frames, data in ((shown, body), (made, output.content)):
        assert [time for time, _ in frames] == pytest.approx([number / RATE for number in range(FRAMES)])
        assert heard_s(data) == pytest.approx(FRAMES / RATE, abs=0.1)
    for (_, released), (_, streamed), (_, old) in zip(made, shown, shown_by(target), strict=True):
        assert np.array_equal(released, streamed), "what was shown is what is released"
        labelled = draw_label(old.astype(np.uint8), "en", corner=Corner.BOTTOM_RIGHT).astype(int)
        words = np.abs(labelled - old).max(axis=2) > 60
        assert np.abs(released - labelled)[words].mean() < np.abs(labelled - old)[words].mean() / 4
        assert np.abs(released - labelled)[~words].max() > 60, "and another face"


@pytest.mark.usefixtures("streamed")
def test_a_video_whose_result_would_be_marked_in_one_frame_is_denied_and_nobody_sees_that_frame(client):
    for _ in range(3):  # the one frame that is looked at beforehand may be just that
        id = ask(client, picture("ada"), film(marked=MARKED)).json()["id"]
        body, is_whole = watched(client, id)
        done = ended(client, id)
        if done["denial"]["stage"] != "target":
            break
    assert (done["state"], done["denial"]["stage"], done["denial"]["reasons"][0]["category"]) == ("denied", "output", "test.marker")
    assert (len(shown_by(body)), is_whole) == (SEGMENT, False), "the segment before that of the marker, and no more"
    for path in ("output", "stream"):
        refused = client.get(f"/v1/transforms/{id}/{path}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "denied")


@pytest.mark.usefixtures("streamed")
def test_a_worker_that_is_killed_loses_nothing_goes_on_with_a_video_where_it_was_and_releases_once(service, client):
    """In the midst of a video that somebody watches, with pictures waiting."""
    id, ids = ask(client, picture("ada"), film()).json()["id"], []

    def outputs() -> list[dict]:
        found = client.get("/v1/decisions", params={"transform": id, "stage": "output"}).json()["data"]
        return sorted(found, key=lambda decision: decision["created_at"])

    def kill() -> None:
        for pid in service.pids(r"ray::ServeReplica:facegate:TransformWorker"):
            os.kill(pid, signal.SIGKILL)
        before.extend(outputs())
        ids.extend(ask(client, picture("ada"), picture("bo")).json()["id"] for _ in range(4))

    before: list[dict] = []
    body, is_whole = watched(client, id, at_first=kill)
    assert (len(shown_by(body)), is_whole) == (FRAMES, True), "who watches sees all of it"
    found = [ended(client, one, within_s=150) for one in (id, *ids)]
    assert [one["state"] for one in found] == ["released"] * 5
    for one in found:
        assert client.get(f"/v1/transforms/{one['id']}/output").status_code == 200
    assert 1 <= len(before) < 3, "killed after the first segment and before the last one"
    assert outputs()[: len(before)] == before
    assert len({decision["media"]["sha256"] for decision in outputs()}) == len(outputs()) == 4, "three segments and the whole, each once"


def test_a_picture_without_a_face_fails_with_a_code(client, fresh_jpeg):
    done = ended(client, ask(client, fresh_jpeg(), picture("bo")).json()["id"])
    assert (done["state"], done["failure"]["code"], done["failure"]["retryable"]) == ("failed", "no_face", False)
