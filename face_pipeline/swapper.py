"""The ports: what puts a face into a crop, and what changes whole frames.

`Swapper` works on aligned crops of model size: that is what is batched across frames and requests and what crosses to
a GPU. `Stage` works on frames: swap now, lips and voice later; it is given a window of frames, the faces' tracks and the
audio of that time, and gives back the frame with a mask of what it changed, so that the next stage and the gate know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from face_pipeline.faces import Face, Frame

Mask = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a swapper can work with; anything beyond is refused before it is asked."""

    min_source_px: float
    """Smallest side of the source's face box."""
    min_target_px: float
    max_yaw: float
    """Degrees to either side, for source and target alike."""
    max_pitch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSizes:
    """The sides of the crops that a swapper wants: the frame's own resolution in steps, within bounds.

    A network with one input size has `least` equal to `most`. As a value it travels to whoever cuts the crops.
    """

    step: int
    least: int
    most: int

    def side(self, natural_px: float) -> int:
        """For a face whose crop would be `natural_px` at the frame's own resolution."""
        return min(max(math.ceil(natural_px / self.step) * self.step, self.least), self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedCrop:
    """A face in canonical space (`geometry.TEMPLATE`)."""

    pixels: Frame
    """RGB uint8, side x side x 3."""
    points: tuple[tuple[float, float], ...]
    """Where the face's five points, or two eyes, really lie in this crop, in its pixels."""
    yaw: float | None
    """Degrees; None where only the eyes are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioWindow:
    """The sound around one frame. Samples keep their own rate; a stage that needs another rate resamples."""

    samples: NDArray[np.float32]
    """Mono, -1 to 1."""
    rate_hz: int
    starts_at_s: float
    """On the time line of the frames; may lie before the frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A source face as one swapper understands it; made once per source by `Swapper.prepare`, and only good for that swapper."""

    swapper: str
    value: Any
    """An embedding for a network, pixels for the classical swapper; picklable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapTask:
    """One face to change."""

    target: AlignedCrop
    identity: Identity
    window: tuple[AlignedCrop, ...] = ()
    """The same track's crops before and after, oldest first, for stages that look around; may be empty."""
    audio: AudioWindow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedCrop:
    """What a swapper made of one task: the crop's new pixels, and how much of each to take."""

    pixels: Frame
    mask: Mask
    """uint8, side x side; 0 keeps the target, 255 takes the new pixel. Zero along the crop's border."""
    confidence: float = 1.0
    """0 to 1; low where something seemed to lie over the face."""


class Swapper(Protocol):
    """Aligned crops and identities in, new crops with masks out. Safe to call from one thread at a time."""

    @property
    def name(self) -> str:
        """Its short name in records and options."""
        ...

    @property
    def version(self) -> str:
        """What ran, exactly: code version, and the digest of the weights where there are any."""
        ...

    @property
    def is_trained(self) -> bool:
        """Whether pixels come out of a trained network, which the content credentials must say."""
        ...

    @property
    def limits(self) -> Limits:
        """What it can work with."""
        ...

    def crop_px(self, natural_px: float) -> int:
        """The side of the crops it wants for a face whose crop would be `natural_px` at the frame's own resolution."""
        ...

    def prepare(self, sources: Sequence[AlignedCrop]) -> list[Identity]:
        """What it needs to know of each source face; may be kept and used for any number of targets."""
        ...

    def swap(self, tasks: Sequence[SwapTask]) -> list[SwappedCrop]:
        """One answer per task, in order, each as large as its target. Raises `SwapFault`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One face over a window of frames."""

    id: int
    faces: tuple[Face | None, ...]
    """One entry per frame of the window; None where it was not seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One frame with what lies around it."""

    frames: tuple[Frame, ...]
    at: int
    """Which frame of the window is meant."""
    time_s: float
    tracks: tuple[Track, ...]
    audio: AudioWindow | None = None

    @property
    def frame(self) -> Frame:
        """The frame that is meant."""
        return self.frames[self.at]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A frame after a stage, and where it differs from the frame before."""

    frame: Frame
    mask: Mask
    """uint8, height x width; 0 exactly where the frame is as it was."""
    tracks: tuple[int, ...]
    """Ids of the tracks whose faces are different now."""


class Stage(Protocol):
    """A step that changes frames: a swap, and later lips, voice-driven motion, restoration."""

    def apply(self, moments: Sequence[Moment]) -> list[Change]:
        """The frame of each moment changed; the moments follow each other, and those of earlier calls.

        A frame without the faces in question comes back as it is, with an empty mask. Raises what its model raises.
        """
        ...
