"""The commands beside `serve`, `screen` and `keys`: what they print, against a live service or a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deployments import demo, models_command, policy_command
from deployments.cli import app
from deployments.client import Client, ServiceFault
from deployments.settings import SettingsRefused
from moderation.adapters.classifiers.registry import KNOWN
from moderation.errors import ModelUnusable, PolicyRefused
from tests.builders import TENANT
from tests.http_kit import KEY, KEY_ID, Service, live, live_fakes, make_key, make_service
from tests.real_http import marker_policy, over_fakes


@pytest.fixture
def out() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


# --- policy -----------------------------------------------------------------------------------------


@pytest.fixture
def running() -> Iterator[tuple[Service, Client]]:
    service = make_service()
    with live_fakes(service) as server, Client(server.url, KEY) as client:
        yield service, client


def test_a_policy_file_comes_into_force_and_is_shown(running: tuple[Service, Client], tmp_path: Path, out: Console) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text("name: default\nrules:\n  - {category: sexual, block_at: 0.1}\n")
    policy_command.apply(running[1], file, out=out)
    policy_command.show(running[1], None, as_json=False, out=out)
    policy_command.show(running[1], "default", as_json=True, out=out)
    assert "default version 2 is in force (sha256:" in printed(out)
    assert '"block_at": 100000' in printed(out)


def test_a_mistake_in_a_policy_file_is_named_with_its_place(running: tuple[Service, Client], tmp_path: Path, out: Console) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("name: default\nrules:\n  - {category: sexual, blok_at: 0.1}\n")
    with pytest.raises(PolicyRefused, match=r"wrong\.yaml: line 3, rules\[0\]: unknown field \"blok_at\""):
        policy_command.apply(running[1], file, out=out)


def test_what_the_service_refuses_is_one_line(running: tuple[Service, Client], tmp_path: Path, out: Console) -> None:
    file = tmp_path / "hole.yaml"
    file.write_text("name: default\nrules:\n  - {category: violence, block_at: 0.1}\n")
    with pytest.raises(ServiceFault, match=r"policy_refused: policy default: .* has no rule at stage"):
        policy_command.apply(running[1], file, out=out)
    with pytest.raises(ServiceFault, match="not_found"):
        policy_command.show(running[1], "nothing", as_json=False, out=out)
    running[0].keys.keys[KEY_ID] = make_key(scopes=frozenset())
    with pytest.raises(ServiceFault, match="the key is refused"):
        policy_command.show(running[1], None, as_json=False, out=out)


# --- models -----------------------------------------------------------------------------------------


def test_every_known_model_is_listed_with_its_licence(tmp_path: Path, out: Console) -> None:
    models_command.show(tmp_path, out)
    for model in KNOWN:
        assert model.licence.split()[0] in printed(out)
        assert model.name.split("/")[-1][:12] in printed(out)


def test_a_spoilt_model_is_found_and_ends_with_1(tmp_path: Path, out: Console) -> None:
    assert models_command.verify(tmp_path, out) == 0
    folder = tmp_path / "yunet" / "2023mar"
    folder.mkdir(parents=True)
    file = {"name": "face_detection_yunet_2023mar.onnx", "sha256": "8f" * 32}
    (folder / "manifest.json").write_text(json.dumps({"name": "yunet", "revision": "2023mar", "files": [file]}))
    (folder / file["name"]).write_bytes(b"not the pinned bytes")
    assert models_command.verify(tmp_path, out) == 1
    assert "altered" in printed(out)


def test_what_cannot_be_pulled_is_one_line_and_leaves_nothing(tmp_path: Path, out: Console) -> None:
    for name, error in (("nonsense", ModelUnusable), ("nudenet", ModelUnusable), ("somebody/model", ModelUnusable)):
        with pytest.raises(error) as refused:
            models_command.pull(tmp_path, name, revision=None, pins=(), out=out)
        assert "\n" not in str(refused.value)
    with pytest.raises(SettingsRefused, match="FILE=HEX"):
        models_command.pull(tmp_path, "yunet", revision=None, pins=("abc",), out=out)
    assert list(tmp_path.iterdir()) == []


# --- demo -------------------------------------------------------------------------------------------


def test_every_scene_of_the_demonstration_becomes_what_it_says(tmp_path: Path, out: Console) -> None:
    service, make = over_fakes()
    service.policies.shelf[TENANT, "marker"] = [marker_policy()]
    service.keys.keys[KEY_ID] = make_key(policies=("default", "marker"))
    with live(make) as server, Client(server.url, KEY) as client:
        demo.run(client, tmp_path / "pictures", out)
    verdicts = [str(decision.verdict) for decision in service.log.decisions]
    assert verdicts == ["allow", "allow", "block", "block", "review", "block", "error"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {scene.file for scene in demo.scenes()}
    assert "The record holds 7 decisions with reference 'demo'" in printed(out)


# --- the command line itself --------------------------------------------------------------------------


def test_every_command_of_the_contract_is_there_and_explains_itself() -> None:
    for words in (
        ["serve"],
        ["screen"],
        ["demo"],
        ["doctor"],
        ["models", "list"],
        ["models", "pull"],
        ["models", "verify"],
        ["policy", "show"],
        ["policy", "apply"],
        ["keys", "create"],
        ["keys", "list"],
        ["keys", "revoke"],
        ["db", "upgrade"],
        ["db", "status"],
        ["db", "drop-months"],
        ["audit", "verify"],
        ["audit", "show"],
        ["audit", "export"],
        ["audit", "restart"],
    ):
        result = CliRunner().invoke(app, [*words, "--help"])
        assert result.exit_code == 0, words
        assert "Usage" in result.output
