"""What a child is asked, what it answers, and why it may refuse."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.views import Region, Spec
from moderation.errors import Refusal


class Refused(Exception):
    """The media cannot be judged."""

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(refusal, detail)
        self.refusal = refusal
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Which frames of a video are shown; see `moderation.frames.Sampling`."""

    interval_us: int
    min_frames: int
    first_and_last: bool
    scene_cuts: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a child is asked to make of one media; see `moderation.frames.DecodePlan`. `first` is where a film begins; `own` says that we made it, `whole` that a still picture is handed out in full as well."""

    form: Format
    specs: tuple[Spec, ...]
    strict: bool
    image_pixels: int
    total_pixels: int
    min_side: int
    max_side: int
    frames: int
    video_pixels: int = 0
    video_frames: int = 0
    video_seconds: int = 0
    sampled: Sampled | None = None
    only: tuple[int, ...] | None = None
    first: int = 0
    own: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """One input: which spec, of which frame, how rendered, what region of the upright frame, RGB of the spec's size."""

    spec: int
    frame: int
    time_us: int | None
    rendering: str
    region: Region
    pixels: Image.Image
