"""How a checkpoint wants its pictures, read from its own configuration, without torchvision.

The geometric part becomes an `InputSpec`, which the decoder carries out while the picture is still large; the numeric part
(rescale, normalise) is a factor and a term per channel. Only what is understood entirely is accepted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moderation.adapters.classifiers.model import CHANNELS, one_line
from moderation.errors import ModelUnusable
from moderation.frames import Fit, InputSpec, Resample

CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
MAX_SIDE: Final = 1024
_RESAMPLE: Final = {1: Resample.LANCZOS, 2: Resample.BILINEAR, 3: Resample.BICUBIC, 4: Resample.BOX, 5: Resample.HAMMING}
"""Pillow's numbers; 0 is nearest, which shows parts of a picture only."""
_SHORT_SIDE: Final = frozenset({"CLIP", "Bit", "ConvNext", "MobileNetV2"})
"""Processors for which a bare number as `size` is the short side."""
_BOTH_SIDES: Final = frozenset({"ViT", "DeiT", "Beit", "Siglip"})
"""Processors for which it is both sides."""
_SWITCHES: Final = frozenset({"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"})
_CONVNEXT_STRETCHES_FROM: Final = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """`input` for the decoder; then value x factor + term for each channel of a pixel of 0 to 255."""

    input: InputSpec
    factors: tuple[float, float, float]
    terms: tuple[float, float, float]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelUnusable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelUnusable(f"{path.parent}: {path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(f"{path}: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ModelUnusable(f"{path}: not a JSON object")
    return content


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of timm's, which transformers loads through its wrapper."""
    return "pretrained_cfg" in config or config.get("model_type") == "timm_wrapper"


def read_preprocessing(folder: Path, config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of the checkpoint in `folder`, whose `config.json` is `config`. Raises ModelUnusable."""
    try:
        if is_timm(config):
            return _from_timm(config["pretrained_cfg"])
        return _from_transformers(read_json(folder / PREPROCESSOR))
    except _NotUnderstood as error:
        raise ModelUnusable(f"{folder}: preprocessing not understood: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(f"{folder}: preprocessing not understood: {one_line(error)}") from None


class _NotUnderstood(Exception):
    """What is not understood."""


def _from_timm(content: Mapping[str, Any]) -> Preprocessing:
    """`crop_mode` squash stretches; center resizes the short side to floor(size / crop_pct) and crops."""
    channels, height, width = content["input_size"]
    mode, share = content.get("crop_mode", "center"), float(content.get("crop_pct", 0.875))
    if channels != CHANNELS or not 0.0 < share <= 1.0:
        raise _NotUnderstood(f"input_size {content['input_size']}, crop_pct {share}")
    try:
        resample = Resample(content["interpolation"])
    except ValueError:
        raise _NotUnderstood(f"interpolation {content['interpolation']!r}") from None
    if mode == "squash":
        spec = InputSpec(width=width, height=height, fit=Fit.STRETCH, resample=resample)
    elif mode == "center" and width == height:
        spec = InputSpec(width=width, height=height, fit=Fit.CROP, resample=resample, resize_to=math.floor(width / share))
    else:
        raise _NotUnderstood(f"crop_mode {mode!r} with {width}x{height}")
    return _numbers(spec, 1 / 255, content["mean"], content["std"])


def _from_transformers(content: Mapping[str, Any]) -> Preprocessing:
    kind = _kind(content)
    if odd := sorted(key for key, value in content.items() if key.startswith("do_") and key not in _SWITCHES and value):
        raise _NotUnderstood(", ".join(odd))
    if not content.get("do_resize", True):
        raise _NotUnderstood("do_resize is false: the checkpoint takes pictures of any size")
    resample = _RESAMPLE.get(content["resample"])
    if resample is None:
        raise _NotUnderstood(f"resample {content['resample']!r}")
    factor = float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0
    normalize = content.get("do_normalize", True)
    mean, std = (content["image_mean"], content["image_std"]) if normalize else ([0.0] * CHANNELS, [1.0] * CHANNELS)
    return _numbers(_geometry(content, kind, resample), factor, mean, std)


def _kind(content: Mapping[str, Any]) -> str:
    name = content.get("image_processor_type") or content.get("feature_extractor_type") or ""
    kind = str(name)
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if kind not in _SHORT_SIDE | _BOTH_SIDES:
        raise _NotUnderstood(f"image processor {name!r}")
    return kind


def _geometry(content: Mapping[str, Any], kind: str, resample: Resample) -> InputSpec:
    height, width, short = _size(content["size"], short_side=kind in _SHORT_SIDE)
    if kind == "ConvNext" and short is not None:
        return _convnext(short, content, resample)
    if content.get("do_center_crop"):
        high, wide, _ = _size(content["crop_size"], short_side=False)
        if short is None or high is None or wide is None or short < max(high, wide):
            raise _NotUnderstood("a centre crop that is not cut out of the resized short side")
        return InputSpec(width=wide, height=high, fit=Fit.CROP, resample=resample, resize_to=short)
    if height is None or width is None:
        raise _NotUnderstood("only the short side is resized: the checkpoint takes pictures of any shape")
    return InputSpec(width=width, height=height, fit=Fit.STRETCH, resample=resample)


def _convnext(side: int, content: Mapping[str, Any], resample: Resample) -> InputSpec:
    """ConvNext's own rule: large inputs are stretched, smaller ones cropped out of side / crop_pct."""
    if side >= _CONVNEXT_STRETCHES_FROM:
        return InputSpec(width=side, height=side, fit=Fit.STRETCH, resample=resample)
    return InputSpec(width=side, height=side, fit=Fit.CROP, resample=resample, resize_to=int(side / float(content["crop_pct"])))


def _size(value: Any, *, short_side: bool) -> tuple[int | None, int | None, int | None]:
    """Height, width, short side; what is not said is None."""
    if isinstance(value, int):
        value = {"shortest_edge": value} if short_side else {"height": value, "width": value}
    if set(value) == {"height", "width"}:
        return _side(value["height"]), _side(value["width"]), None
    if set(value) == {"shortest_edge"}:
        return None, None, _side(value["shortest_edge"])
    raise _NotUnderstood(f"size {value}")


def _side(value: Any) -> int:
    if not isinstance(value, int) or not 0 < value <= MAX_SIDE:
        raise _NotUnderstood(f"side {value!r}")
    return value


def _numbers(spec: InputSpec, factor: float, mean: Any, std: Any) -> Preprocessing:
    means, spreads = [float(value) for value in mean], [float(value) for value in std]
    if len(means) != CHANNELS or len(spreads) != CHANNELS or not all(spread > 0 for spread in spreads):
        raise _NotUnderstood(f"mean {mean}, std {std}")
    if max(spec.width, spec.height, spec.resize_to or 0) > MAX_SIDE:
        raise _NotUnderstood(f"inputs over {MAX_SIDE} pixels a side")
    red, green, blue = ((factor / spread, -middle / spread) for middle, spread in zip(means, spreads, strict=True))
    return Preprocessing(input=spec, factors=(red[0], green[0], blue[0]), terms=(red[1], green[1], blue[1]))
