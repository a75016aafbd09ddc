"""What every classifier is, and the checks all of them share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from moderation.errors import ClassifierFault, ModelUnusable
from moderation.frames import InputSpec, Pixels
from moderation.scores import ClassifierVersion, InputScores

CHANNELS: Final = 3


class Model(Protocol):
    """A loaded classifier. One caller at a time; several may live in one process."""

    @property
    def version(self) -> ClassifierVersion:
        """Exactly which classifier this is, and what input it wants."""

    def predict(self, pixels: Pixels) -> list[InputScores]:
        """Judge `pixels`, uint8 RGB of N x height x width x 3 as `version.input` says; one answer per picture, in order.

        Every answer holds a score for each of `version.categories`. Raises ClassifierFault for an input of
        another shape or type, and for an output that is not finite or not in range.
        """


class Device(StrEnum):
    """Where a model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """In which numbers a `transformers` checkpoint computes; the other classifiers always use fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


def check_pixels(pixels: Pixels, spec: InputSpec) -> None:
    """Raise ClassifierFault unless `pixels` is N x height x width x 3, uint8."""
    wanted = (spec.height, spec.width, CHANNELS)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != len(wanted) + 1 or pixels.shape[1:] != wanted:
        got = f"{pixels.dtype} {'x'.join(map(str, pixels.shape))}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ClassifierFault(f"expected uint8 Nx{'x'.join(map(str, wanted))}, got {got}")


def check_output(output: NDArray[np.floating], shape: Sequence[int], classifier: str) -> None:
    """Raise ClassifierFault unless the network's output has this shape and every number in it is finite."""
    if output.shape != tuple(shape):
        raise ClassifierFault(f"{classifier}: expected an output of {'x'.join(map(str, shape))}, got {'x'.join(map(str, output.shape))}")
    if not np.isfinite(output).all():
        raise ClassifierFault(f"{classifier}: the output is not finite")


def one_line(error: BaseException) -> str:
    """The first line of what a library says, for messages to the operator."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def sha256_digest(data: bytes) -> str:
    """`sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def member(kind: type[Device | Precision], value: str) -> str:
    """`value` if it is one of `kind`. Raises ModelUnusable that names the choices."""
    if value not in set(kind):
        raise ModelUnusable(f"{kind.__name__.lower()} {value!r} is none of {', '.join(kind)}")
    return value
