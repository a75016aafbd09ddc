"""Specs."""

import pytest

from moderation.adapters.classifiers import load
from moderation.errors import ModelUnusable


def test_each_spec_gives_its_model(tmp_path, tiny_vit_folder):
    assert load("correlation", models_dir=tmp_path).version.name == "correlation"
    assert load("nudenet", models_dir=tmp_path, device="cpu").version.name == "nudenet"
    assert load(f"transformers:{tiny_vit_folder}", models_dir=tmp_path, device="cpu").version.name == "tiny-vit"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("nsfwjs", {}, "'nsfwjs' is none of nudenet"),
        ("", {}, "'' is none of"),
        ("correlation", {"device": "tpu"}, "device 'tpu' is none of auto, cpu, cuda"),
        ("correlation", {"precision": "fp8"}, "precision 'fp8' is none of fp32, bf16, int8"),
        ("correlation", {"threads": 0}, "threads must be at least 1"),
        ("transformers:", {}, "write <folder or hub id>"),
        ("transformers:vit", {}, "neither an absolute path nor a hub id"),
        ("transformers:owner/name", {}, "name a revision"),
        ("transformers:owner/name@main", {}, "is not in .*facegate models pull owner/name"),
        ("transformers:Falconsai/nsfw_image_detection", {}, "@96cb0d0342c7afb80cab76ecc58b265fa44da256 is not in"),
        ("transformers:/no/such/folder", {}, "/no/such/folder is not a folder"),
        ("transformers:owner/name@main?remote=code", {}, "options are mapping and agreement"),
        ("transformers:owner/name@main?mapping", {}, "options are name=value"),
        ("transformers:owner/../../etc@main", {}, "neither an absolute path nor a hub id"),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused_in_one_line(tmp_path, spec, options, message):
    with pytest.raises(ModelUnusable, match=message) as caught:
        load(spec, models_dir=tmp_path, **options)
    assert "\n" not in str(caught.value)
