"""Settings: environment over file, unknown names refused in one line, and the form in which they are handed on."""

import os
from pathlib import Path
from typing import Any

import pytest

from deployments import settings as settings_module
from deployments.app import ClassifierArgs, one_machine
from deployments.settings import SettingsRefused, load_settings, to_toml
from moderation.frames import Limits


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):

    for name in list(os.environ):
        if name.startswith("FACEGATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FACEGATE_HOME", str(tmp_path / "home"))


def test_defaults_are_one_machine_on_loopback(tmp_path):
    settings = load_settings()
    assert (settings.host, settings.port, settings.home) == ("127.0.0.1", 8000, tmp_path / "home")
    assert settings.database_url is None
    assert settings.models == tmp_path / "home" / "models"
    assert settings.media.startswith("file:///")
    assert settings.limits == Limits()


def test_lists_and_pairs_are_written_with_commas(monkeypatch):
    monkeypatch.setenv("FACEGATE_CLASSIFIERS", "nudenet, transformers:Falconsai/nsfw@abc")
    monkeypatch.setenv("FACEGATE_BUCKETS", "in=s3://one/two,out=file:///three")
    settings = load_settings()
    assert settings.classifiers == ("nudenet", "transformers:Falconsai/nsfw@abc")
    assert settings.buckets == {"in": "s3://one/two", "out": "file:///three"}


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    file = tmp_path / "facegate.toml"
    file.write_text('port = 1234\nimage_bytes = 5\nclassifiers = ["correlation"]\n')
    monkeypatch.setenv("FACEGATE_CONFIG", str(file))
    monkeypatch.setenv("FACEGATE_PORT", "4321")
    settings = load_settings()
    assert (settings.port, settings.image_bytes, settings.classifiers) == (4321, 5, ("correlation",))
    assert settings.limits.image_bytes == 5


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FACEGATE_PROT", "1", "FACEGATE_PROT is not a setting"),
        ("FACEGATE_PORT", "99999", "FACEGATE_PORT"),
        ("FACEGATE_CLASSIFIERS", "", "FACEGATE_CLASSIFIERS"),
        ("FACEGATE_CLASSIFIERS", "nudenet,nudenet", "named twice"),
        ("FACEGATE_BUCKETS", "nonsense", "name=url"),
        ("FACEGATE_DEVICE", "tpu", "FACEGATE_DEVICE"),
        ("FACEGATE_CONFIG", "/nowhere.toml", "cannot read /nowhere.toml"),
        ("FACEGATE_C2PA_KEY_FILE", "/somewhere/key.pem", "certificate and key go together"),
        ("FACEGATE_C2PA_CERTIFICATE_FILE", "/somewhere/chain.pem", "certificate and key go together"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsRefused) as refused:
        load_settings()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["prot = 1\n", "port = \n", "[port]\nx = 1\n"])
def test_a_file_that_cannot_be_is_refused_in_one_line(monkeypatch, tmp_path, text):
    file = tmp_path / "facegate.toml"
    file.write_text(text)
    monkeypatch.setenv("FACEGATE_CONFIG", str(file))
    with pytest.raises(SettingsRefused) as refused:
        load_settings()
    assert "\n" not in str(refused.value)


def test_a_refused_secret_is_not_repeated(monkeypatch, tmp_path):
    file = tmp_path / "facegate.toml"
    file.write_text('database_url = ["hunter2"]\n')
    monkeypatch.setenv("FACEGATE_CONFIG", str(file))
    with pytest.raises(SettingsRefused) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_passwords_do_not_show(monkeypatch):
    monkeypatch.setenv("FACEGATE_DATABASE_URL", "postgresql://me:hunter2@db/facegate")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert settings.database() == "postgresql://me:hunter2@db/facegate"


def test_settings_written_as_toml_read_back_as_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("FACEGATE_DATABASE_URL", 'postgresql://me:"quo\\ted"@/db?host=/tmp/x y')
    monkeypatch.setenv("FACEGATE_BUCKETS", "a-b.c=s3://x/y")
    monkeypatch.setenv("FACEGATE_CLASSIFIER_GPUS", "0.25")
    settings = load_settings()
    file = tmp_path / "run.toml"
    file.write_text(to_toml(settings))
    for name in ("DATABASE_URL", "BUCKETS", "CLASSIFIER_GPUS", "HOME"):
        monkeypatch.delenv(f"FACEGATE_{name}")
    assert load_settings(file) == settings
    assert "owner_database_url" not in to_toml(settings, without=frozenset({"owner_database_url"}))


def test_nothing_is_frozen_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]  # this is what it is about


def of(spec: str, **settings: Any) -> ClassifierArgs:
    gpus = settings.pop("gpus", 0.0)
    made = load_settings().model_copy(update={"classifiers": (spec,), **settings})
    return one_machine(made, gpus=gpus).classifiers[0]


def test_gpus_go_to_those_who_can_use_them():
    assert of("nudenet", gpus=1.0).gpus == 0.0
    assert of("transformers:a@b", gpus=1.0).gpus == 1.0
    assert of("transformers:a@b", gpus=1.0).replicas == 1
    assert of("transformers:a@b", gpus=0.0).gpus == 0.0
    assert of("transformers:a@b", gpus=1.0, classifier_gpus=0.25, classifier_replicas=3) == ClassifierArgs(
        spec="transformers:a@b", replicas=3, cpus=0.01, gpus=0.25
    )


def faces_of(*, gpus: float = 0.0, **settings: object):
    return one_machine(load_settings().model_copy(update={"face_detector": "fallback", **settings}), gpus=gpus).faces


def test_face_swaps_are_off_where_nothing_finds_faces(tmp_path):
    assert faces_of(face_detector="yunet", models_dir=tmp_path) is None


def test_a_swapper_takes_the_share_of_a_gpu_that_it_is_given_if_it_can_use_one():
    pytest.importorskip("skimage", reason="scikit-image (extra local) is not installed")
    assert faces_of(gpus=1.0, swapper_gpus=0.3).swapper.gpus == 0.0
    assert faces_of(gpus=0.0, swapper_gpus=0.3, swapper="neural:x").swapper.gpus == 0.0
    assert faces_of(gpus=1.0, swapper_gpus=0.3, swapper="neural:x").swapper.gpus == 0.3
    assert of("transformers:a@b", gpus=1.0, swapper_gpus=0.25, swapper="neural:x", face_detector="fallback").gpus == 0.75


def test_the_home_of_root_is_not_that_of_others(monkeypatch):

    monkeypatch.setattr(settings_module.os, "geteuid", lambda: 0)
    assert settings_module.default_home() == Path("/var/lib/facegate")
    monkeypatch.setattr(settings_module.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings_module.default_home() == Path("/data/facegate")


def test_shadow_classifiers_are_others_than_those_that_decide_and_have_one_replica_each(monkeypatch):
    monkeypatch.setenv("FACEGATE_CLASSIFIERS", "nudenet")
    monkeypatch.setenv("FACEGATE_SHADOW_CLASSIFIERS", "transformers:a@b, correlation")
    monkeypatch.setenv("FACEGATE_CLASSIFIER_REPLICAS", "4")
    args = one_machine(load_settings())
    assert [(one.spec, one.replicas) for one in args.classifiers] == [("nudenet", 4)]
    assert [(one.spec, one.replicas) for one in args.shadows] == [("transformers:a@b", 1), ("correlation", 1)]
    monkeypatch.setenv("FACEGATE_SHADOW_CLASSIFIERS", "nudenet")
    with pytest.raises(SettingsRefused, match="one is named twice"):
        load_settings()
