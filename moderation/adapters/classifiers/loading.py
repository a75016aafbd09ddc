"""From a spec to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from moderation.adapters.classifiers.model import Device, Model, Precision, member
from moderation.errors import ModelUnusable

TRANSFORMERS: Final = "transformers:"


def load(spec: str, *, models_dir: Path, device: str = "auto", threads: int = 1, precision: str = "fp32") -> Model:
    """Load the classifier that `spec` names; nothing is downloaded.

    Specs: `nudenet`, `correlation`, `transformers:<folder or hub id>@<revision>[?mapping=<file>]` (see `checkpoints`).
    `device` is auto, cpu or cuda; `threads` those of one forward pass on a CPU; `precision` (fp32, bf16, int8) concerns
    `transformers` checkpoints, the others always compute in fp32. Raises ModelUnusable, in one line.
    """
    member(Device, device)
    member(Precision, precision)
    if threads < 1:
        raise ModelUnusable(f"threads must be at least 1, not {threads}")
    if spec == "nudenet":
        from moderation.adapters.classifiers.nudenet import NudeNet  # noqa: PLC0415  # a replica loads one model only

        return NudeNet(device=device, threads=threads)
    if spec == "correlation":
        from moderation.adapters.classifiers.correlation import CorrelationClassifier  # noqa: PLC0415

        return CorrelationClassifier()
    if spec.startswith(TRANSFORMERS):
        from moderation.adapters.classifiers.checkpoints import load_checkpoint  # noqa: PLC0415

        return load_checkpoint(spec.removeprefix(TRANSFORMERS), models_dir=models_dir, device=device, threads=threads, precision=precision)
    raise ModelUnusable(f"classifier {spec!r} is none of nudenet, correlation, transformers:<folder or hub id>@<revision>")
