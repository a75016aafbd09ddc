"""Pulling over real HTTP from this machine, pins checked before anything is in place."""

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moderation.adapters.classifiers import load, registry
from moderation.adapters.classifiers.registry import KNOWN, KnownModel, ModelFile, Origin, State, list_models, pull, pull_model, verify
from moderation.errors import ModelUnusable
from tests import tiny_vit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


class Hub:
    """Serves paths from a dictionary the way the hub does: an entity tag and a commit with each file."""

    def __init__(self):
        self.files = {}
        self.seen = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.seen.append((self.command, self.path, dict(self.headers)))
                body = hub.files.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                if body is not None:
                    self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')  # noqa: S324  # as git does
                    self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET" and body is not None:
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  # the library's name

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hub(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Hub()
    yield server
    server.close()


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Nobody asks here what it knows."""
    return tiny_vit.build(tmp_path_factory.mktemp("untrained"), steps=0)


@pytest.fixture
def checkpoint(hub, untrained):
    """The tiny ViT offered as acme/tiny; its digests."""
    for name in FILES:
        hub.files[f"/acme/tiny/resolve/{COMMIT}/{name}"] = (untrained / name).read_bytes()
    return {name: digest((untrained / name).read_bytes()) for name in FILES}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def detector(hub, body=b"a face detector", **changes):
    hub.files["/face.onnx"] = body
    file = ModelFile(name="face.onnx", sha256=digest(b"a face detector"), size=len(b"a face detector"))
    defaults = {
        "name": "face",
        "origin": Origin.URL,
        "purpose": "finds faces",
        "source": "https://example.org",
        "licence": "MIT",
        "revision": "1",
        "files": (file,),
        "url": f"{hub.address}/face.onnx",
    }
    return KnownModel(**{**defaults, **changes})


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_the_registry_says_where_everything_comes_from(tmp_path):
    assert {model.name for model in KNOWN} == {
        "nudenet",
        "Falconsai/nsfw_image_detection",
        "AdamCodd/vit-base-nsfw-detector",
        "Marqo/nsfw-image-detection-384",
        "Freepik/nsfw_image_detector",
        "yunet",
    }
    for model in KNOWN:
        assert model.licence
        assert model.source.startswith("https://")
        assert all(file.sha256 is None or registry._SHA256.fullmatch(file.sha256) for file in model.files)
        assert model.origin is not Origin.HUB or registry._COMMIT.fullmatch(model.revision)
    states = {status.model.name: status.state for status in list_models(tmp_path)}
    assert states.pop("nudenet") is State.HERE
    assert set(states.values()) == {State.ABSENT}


def test_a_hub_checkpoint_is_pulled_verified_and_loaded(hub, checkpoint, tmp_path):
    lines = []
    models = tmp_path / "models"
    pulled = pull("acme/tiny", models_dir=models, revision=COMMIT, sha256=checkpoint, tell=lines.append, endpoint=hub.address)
    assert pulled.fresh
    assert pulled.folder == models / "acme--tiny" / COMMIT
    assert lines[0].startswith(f"acme/tiny@{COMMIT}: licence ")
    manifest = json.loads((pulled.folder / "manifest.json").read_text())
    assert (manifest["name"], manifest["revision"], manifest["licence"]) == ("acme/tiny", COMMIT, pulled.licence)
    assert {file["name"]: (file["sha256"], file["pinned_by"]) for file in manifest["files"]} == {
        name: (sha256, "operator") for name, sha256 in checkpoint.items()
    }
    assert sorted(path.name for path in pulled.folder.iterdir()) == sorted([*FILES, "manifest.json"])
    assert leftovers(models) == sorted(["acme--tiny", COMMIT, *FILES, "manifest.json"])
    assert not any("authorization" in {key.lower() for key in headers} for _, _, headers in hub.seen)

    mapping = tmp_path / "tiny.yaml"
    mapping.write_text(tiny_vit.MAPPING)
    model = load(f"transformers:acme/tiny@{COMMIT}?mapping={mapping}", models_dir=models, device="cpu")
    assert model.version.version == COMMIT
    assert model.predict(tiny_vit.samples(2, seed=1)[0])


def test_what_is_there_unaltered_is_not_fetched_again(hub, checkpoint, tmp_path):
    options = {"models_dir": tmp_path, "revision": COMMIT, "sha256": checkpoint, "endpoint": hub.address}
    pull("acme/tiny", **options)
    asked = len(hub.seen)
    assert not pull("acme/tiny", **options).fresh
    assert len(hub.seen) == asked


def test_an_altered_file_is_named_refused_and_mended_by_pulling_again(hub, checkpoint, tmp_path):
    options = {"models_dir": tmp_path, "revision": COMMIT, "sha256": checkpoint, "endpoint": hub.address}
    folder = pull("acme/tiny", **options).folder
    assert {check.state for check in verify(tmp_path)} == {State.HERE}
    (folder / "config.json").write_text("{}")
    (folder / "evil.py").write_text("")
    (folder / "model.safetensors").unlink()
    found = {check.file: check.state for check in verify(tmp_path) if check.model == f"acme/tiny@{COMMIT}"}
    assert found == {
        "config.json": State.ALTERED,
        "model.safetensors": State.ABSENT,
        "preprocessor_config.json": State.HERE,
        "evil.py": State.UNEXPECTED,
    }
    with pytest.raises(ModelUnusable, match=r"config\.json is altered"):
        load(f"transformers:acme/tiny@{COMMIT}", models_dir=tmp_path)
    assert pull("acme/tiny", **options).fresh
    assert {check.state for check in verify(tmp_path)} == {State.HERE}
    assert not (folder / "evil.py").exists()


def test_other_bytes_than_pinned_never_get_their_name(hub, checkpoint, tmp_path):
    hub.files[f"/acme/tiny/resolve/{COMMIT}/config.json"] = b'{"model_type": "evil"}'
    with pytest.raises(ModelUnusable, match=r"config\.json has SHA-256 .*, pinned is .*; nothing was kept"):
        pull("acme/tiny", models_dir=tmp_path, revision=COMMIT, sha256=checkpoint, endpoint=hub.address)
    assert leftovers(tmp_path) == []


def test_a_failed_pull_leaves_the_earlier_one_alone(hub, tmp_path):
    model = detector(hub)
    folder = pull_model(model, models_dir=tmp_path).folder
    hub.files["/face.onnx"] = b"other bytes ..."
    other = replace(model, files=(replace(model.files[0], sha256="0" * 64),))
    with pytest.raises(ModelUnusable, match="nothing was kept"):
        pull_model(other, models_dir=tmp_path)
    assert (folder / "face.onnx").read_bytes() == b"a face detector"


def test_a_file_by_address_is_pulled_with_its_licence(hub, tmp_path):
    lines = []
    pulled = pull_model(detector(hub), models_dir=tmp_path, tell=lines.append)
    assert (pulled.folder / "face.onnx").read_bytes() == b"a face detector"
    assert lines == ["face@1: licence MIT, from https://example.org", "fetching face.onnx"]
    (file,) = json.loads((pulled.folder / "manifest.json").read_text())["files"]
    assert (file["pinned_by"], file["bytes"]) == ("registry", 15)


@pytest.mark.parametrize(
    ("body", "changes", "message"),
    [
        (b"a face DETECTOR", {}, "has SHA-256"),
        (b"a face detector and more", {}, "larger than 15 bytes"),
        (b"", {}, "has SHA-256"),
        (b"", {"url": "http://127.0.0.1:9/face.onnx"}, "cannot be fetched: ConnectError"),
        (b"", {"url": "{address}/none"}, "answered 404"),
        (b"", {"files": (ModelFile(name="../face.onnx", sha256="0" * 64),)}, "not a file that is ever pulled"),
        (b"", {"files": (ModelFile(name="face.bin", sha256="0" * 64),)}, "not a file that is ever pulled"),
        (b"", {"files": (ModelFile(name="face.onnx"),)}, r"no SHA-256 is known for face\.onnx; .* --sha256 face\.onnx=HEX"),
    ],
)
def test_a_file_that_cannot_be_had_is_one_line_and_leaves_nothing(hub, tmp_path, body, changes, message):
    if "url" in changes:
        changes = {**changes, "url": changes["url"].format(address=hub.address)}
    model = detector(hub, body, **changes)
    with pytest.raises(ModelUnusable, match=message) as caught:
        pull_model(model, models_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("acme", {}, "no known model and no hub id"),
        ("acme/tiny", {}, "name its --revision"),
        ("acme/tiny", {"revision": COMMIT, "sha256": {"config.json": "0" * 64}}, "name its --revision"),
        ("acme/tiny", {"revision": "main", "sha256": {"config.json": "0" * 64, "model.safetensors": "0" * 64}}, "can move"),
        ("acme/tiny", {"revision": COMMIT, "sha256": {"config.json": "0" * 64, "model.safetensors": "xyz"}}, "not a SHA-256"),
        ("AdamCodd/vit-base-nsfw-detector", {}, r"no SHA-256 is known for config\.json, preprocessor_config\.json"),
        ("Falconsai/nsfw_image_detection", {"sha256": {"config.json": "0" * 64}}, "pinned to another SHA-256"),
        ("Falconsai/nsfw_image_detection", {"sha256": {"evil.json": "0" * 64}}, "evil.json is not one of its files"),
        ("Falconsai/nsfw_image_detection", {"revision": COMMIT}, r"no SHA-256 is known for config\.json, .*, model\.safetensors"),
        ("yunet", {"revision": "2022"}, "only revision 2023mar is known"),
        ("nudenet", {}, "comes with its wheel"),
    ],
)
def test_nothing_is_asked_for_without_a_pin_for_every_file(hub, tmp_path, name, options, message):
    with pytest.raises(ModelUnusable, match=message):
        pull(name, models_dir=tmp_path, endpoint=hub.address, **options)
    assert hub.seen == []
    assert leftovers(tmp_path) == []


def test_a_hub_that_lacks_the_file_is_one_line(hub, tmp_path):
    with pytest.raises(ModelUnusable, match=r"config\.json cannot be fetched") as caught:
        pull("Falconsai/nsfw_image_detection", models_dir=tmp_path, endpoint=hub.address)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def test_a_manifest_that_vouches_for_other_bytes_than_the_registry_does_not_help(tmp_path):
    known = registry.find_known("yunet")
    folder = registry.model_folder(tmp_path, "yunet", known.revision)
    folder.mkdir(parents=True)
    (folder / known.files[0].name).write_bytes(b"evil")
    manifest = {"name": "yunet", "revision": known.revision, "files": [{"name": known.files[0].name, "sha256": digest(b"evil")}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert [check.state for check in verify(tmp_path) if check.model.startswith("yunet")] == [State.ALTERED]
    with pytest.raises(ModelUnusable, match="altered"):
        registry.checked_folder(tmp_path, "yunet", known.revision)


def test_a_broken_manifest_is_said(tmp_path):
    folder = tmp_path / "acme--tiny" / COMMIT
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ModelUnusable, match=r"manifest\.json"):
        verify(tmp_path)


def test_a_models_folder_that_cannot_be_made_is_one_line(hub, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelUnusable, match="File exists"):
        pull_model(detector(hub), models_dir=tmp_path / "models")
