"""A checkpoint's own configuration becomes an InputSpec and numbers, or is refused."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderation.adapters.classifiers.preprocessing import read_preprocessing
from moderation.errors import ModelUnusable
from moderation.frames import Fit, InputSpec, Resample
from tests.inputs import fitted

VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
}
CLIP = {
    **VIT,
    "image_processor_type": "CLIPImageProcessorFast",
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
}
TIMM: dict[str, Any] = {
    "architecture": "vit_tiny_patch16_384",
    "num_classes": 2,
    "label_names": ["NSFW", "SFW"],
    "pretrained_cfg": {
        "input_size": [3, 384, 384],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}


def read(tmp_path, preprocessor=None, config=None):
    if preprocessor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return read_preprocessing(tmp_path, config or {"model_type": "vit"})


def timm(**changes):
    return {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **changes}}


@pytest.mark.parametrize(
    ("preprocessor", "spec"),
    [
        (VIT, InputSpec(width=224, height=224, fit=Fit.STRETCH, resample=Resample.BILINEAR)),
        ({**VIT, "size": 224, "feature_extractor_type": "ViTFeatureExtractor", "image_processor_type": None}, None),
        (
            {**VIT, "size": {"height": 128, "width": 96}, "resample": 1},
            InputSpec(width=96, height=128, fit=Fit.STRETCH, resample=Resample.LANCZOS),
        ),
        (CLIP, InputSpec(width=224, height=224, fit=Fit.CROP, resample=Resample.BICUBIC, resize_to=256)),
        ({**CLIP, "size": 256, "crop_size": 224}, InputSpec(width=224, height=224, fit=Fit.CROP, resample=Resample.BICUBIC, resize_to=256)),
        (
            {**VIT, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875},
            InputSpec(width=224, height=224, fit=Fit.CROP, resample=Resample.BILINEAR, resize_to=256),
        ),
        (
            {**VIT, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875},
            InputSpec(width=384, height=384, fit=Fit.STRETCH, resample=Resample.BILINEAR),
        ),
    ],
)
def test_the_geometric_part_becomes_the_spec(tmp_path, preprocessor, spec):
    expected = spec or InputSpec(width=224, height=224, fit=Fit.STRETCH)
    assert read(tmp_path, preprocessor).input == expected


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (TIMM, InputSpec(width=384, height=384, fit=Fit.CROP, resample=Resample.BICUBIC, resize_to=404)),
        (timm(crop_pct=1.0), InputSpec(width=384, height=384, fit=Fit.CROP, resample=Resample.BICUBIC, resize_to=384)),
        (timm(crop_mode="squash"), InputSpec(width=384, height=384, fit=Fit.STRETCH, resample=Resample.BICUBIC)),
    ],
)
def test_timms_own_configuration_is_read_without_a_preprocessor_file(tmp_path, config, spec):
    assert read(tmp_path, config=config).input == spec


@pytest.mark.parametrize(
    ("preprocessor", "message"),
    [
        ({**VIT, "image_processor_type": "ViltImageProcessor"}, "image processor 'ViltImageProcessor'"),
        ({**VIT, "resample": 0}, "resample 0"),
        ({key: value for key, value in VIT.items() if key != "resample"}, "KeyError: 'resample'"),
        ({**VIT, "do_resize": False}, "do_resize is false"),
        ({**VIT, "do_flip_channel_order": True}, "do_flip_channel_order"),
        ({**VIT, "do_pad": True}, "do_pad"),
        ({**VIT, "size": {"longest_edge": 224}}, "size {'longest_edge': 224}"),
        ({**VIT, "size": {"height": 224, "width": 100_000}}, "side 100000"),
        ({**VIT, "image_std": [0.5, 0.5, 0.0]}, "std"),
        ({**VIT, "image_mean": [0.5]}, "mean"),
        ({**CLIP, "do_center_crop": False}, "any shape"),
        ({**CLIP, "size": {"shortest_edge": 200}}, "centre crop"),
        ([], "not a JSON object"),
    ],
)
def test_what_is_not_understood_entirely_is_refused(tmp_path, preprocessor, message):
    with pytest.raises(ModelUnusable, match=message) as caught:
        read(tmp_path, preprocessor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (timm(interpolation="random"), "interpolation 'random'"),
        (timm(crop_mode="border"), "crop_mode 'border'"),
        (timm(crop_pct=0), "crop_pct"),
        (timm(input_size=[1, 384, 384]), "input_size"),
        (timm(input_size=[3, 384]), "ValueError"),
        ({"model_type": "timm_wrapper"}, "KeyError: 'pretrained_cfg'"),
    ],
)
def test_what_timm_could_say_beyond_that_is_refused(tmp_path, config, message):
    with pytest.raises(ModelUnusable, match=message):
        read(tmp_path, config=config)


def test_a_missing_preprocessor_is_said(tmp_path):
    with pytest.raises(ModelUnusable, match=r"preprocessor_config\.json is missing"):
        read(tmp_path)


@pytest.mark.parametrize("configuration", [VIT, CLIP])
def test_geometry_and_numbers_agree_with_transformers_own_processor(tmp_path, photographs, configuration):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: PLC0415  # slow to import
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil  # noqa: PLC0415

    ours = read(tmp_path, configuration)
    theirs = (ViTImageProcessorPil if configuration is VIT else CLIPImageProcessorPil).from_pretrained(tmp_path)
    for picture in photographs.values():
        expected = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
        pixels = fitted(picture, ours.input).astype(np.float64)
        found = (pixels * np.array(ours.factors) + np.array(ours.terms)).transpose(2, 0, 1)
        assert np.abs(found - expected).max() < 1e-5
