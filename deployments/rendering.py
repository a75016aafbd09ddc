"""Step 7 of the gate for a picture: from the bytes of source and target to the bytes of the result.

Opens both in the decode child, swaps, draws the visible label, encodes from the worked frame and nothing else, so that no
metadata of either input is in it. Knows no policy: it is called once both inputs are allowed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from deployments import telemetry
from face_pipeline.detector import Detector
from face_pipeline.encoding import MAX_SIDE_PX, encode_picture
from face_pipeline.errors import FacePipelineError, FaceUnusable
from face_pipeline.errors import Failure as FaceFailure
from face_pipeline.faces import AtIndex, Choice, Every, Face, Largest, Nearest
from face_pipeline.label import draw_label
from face_pipeline.pipeline import Rendered, swap_face
from face_pipeline.swapper import Swapper
from moderation.errors import CannotJudge, MediaRefused, Refusal
from moderation.frames import DecodePlan, Limits, Picture
from moderation.ports import PictureDecoder
from moderation.transform import FaceChoice, FaceMode, Failure, Options

AUTO: Final[Mapping[str, str]] = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp", "image/avif": "webp"}
"""What `auto` means by the target's type; whatever else there is becomes PNG."""

MESSAGES: Final[Mapping[FaceFailure, str]] = {
    FaceFailure.NO_FACE: "No face was found in the {role}.",
    FaceFailure.FACE_TOO_SMALL: "The face in the {role} is too small.",
    FaceFailure.FACE_TURNED: "The face in the {role} is turned too far.",
    FaceFailure.FACE_CUT_OFF: "The face in the {role} is cut off by the border.",
    FaceFailure.FACE_INDEX_ABSENT: "The target has no face at that place.",
    FaceFailure.SOURCE_AMBIGUOUS: "The source shows more than one face that could be meant.",
    FaceFailure.NOTHING_CHANGED: "The swap changed nothing in the target.",
}

CREDENTIALS_BYTES: Final = 64 * 1024
"""Room for what signing adds to a file, which is looked at once more afterwards."""

_TOO_LARGE: Final = Failure(
    code=str(Refusal.PAYLOAD_TOO_LARGE),
    message="The result has more bytes than can be judged; ask for another format, or for less quality.",
    retryable=False,
)


class CannotTransform(Exception):  # an answer, not a fault
    """The pictures cannot be used; final."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The encoded result and what is known of it."""

    data: bytes
    type: str
    width: int
    height: int
    swapper: str
    is_trained: bool
    faces_changed: int
    faces_skipped: int


AtHand = tuple[Picture | None, Picture | None]
"""Source and target, decoded already."""
NOTHING_AT_HAND: Final[AtHand] = (None, None)


class Renderer(Protocol):
    """Step 7."""

    async def render(self, source: bytes, target: bytes, target_type: str, options: Options, at_hand: AtHand = NOTHING_AT_HAND) -> Product:
        """The result; of what is `at_hand` the bytes need not be opened. Raises CannotTransform, MediaRefused, CannotJudge (a fault of ours), Overloaded."""


class PictureRenderer:
    """Swaps faces of still pictures. `detector` and `swapper` may block; they are called in a thread."""

    def __init__(self, *, pictures: PictureDecoder, detector: Detector, swapper: Swapper, limits: Limits) -> None:
        self._pictures = pictures
        self._detector = detector
        self._swapper = swapper
        self._plan = DecodePlan(specs=(), limits=limits)

    async def render(self, source: bytes, target: bytes, target_type: str, options: Options, at_hand: AtHand = NOTHING_AT_HAND) -> Product:
        """See `Renderer`."""
        with telemetry.step("open"):
            theirs, ours = await asyncio.gather(self._opened(source, at_hand[0]), self._opened(target, at_hand[1]))
        name = format_of(options, target_type, max(ours.pixels.shape[:2]))
        swapper = f"{self._swapper.name} {self._swapper.version}"  # said before: afterwards another version may have come
        with telemetry.step("swap"):
            try:
                rendered = await asyncio.to_thread(
                    swap_face,
                    theirs.pixels,
                    ours.pixels,
                    detector=self._detector,
                    swapper=self._swapper,
                    choice=choice_of(options.faces),
                )
            except FaceUnusable as unusable:
                raise CannotTransform(failure_of(unusable)) from unusable
            except FacePipelineError as fault:
                raise CannotJudge(f"{type(fault).__name__}: {fault}") from fault
        height, width = rendered.frame.shape[:2]
        with telemetry.step("encode"):
            data = await asyncio.to_thread(_finish, rendered, options, name)
        if len(data) + CREDENTIALS_BYTES > self._plan.limits.image_bytes:  # nobody could judge it, and the next try would be as large
            raise CannotTransform(_TOO_LARGE)
        return Product(
            data=data,
            type=f"image/{name}",
            width=width,
            height=height,
            swapper=swapper,
            is_trained=self._swapper.is_trained,
            faces_changed=len(rendered.swapped),
            faces_skipped=len(rendered.skipped),
        )

    async def _opened(self, data: bytes, at_hand: Picture | None) -> Picture:
        return at_hand or await self._pictures.picture(data, self._plan)


def _finish(rendered: Rendered, options: Options, name: str) -> bytes:
    frame = draw_label(rendered.frame, options.label_language, avoid=rendered.mask) if options.label else rendered.frame
    return encode_picture(frame, name, options.quality)


def format_of(options: Options, target_type: str, side_px: int) -> str:
    """In which format the result is written; `side_px` is its longer side. Raises CannotTransform where the asked one cannot hold it."""
    name = AUTO.get(target_type, "png") if options.format == "auto" else options.format
    if side_px <= MAX_SIDE_PX[name]:
        return name
    if options.format == "auto":
        return "png"
    message = f"The result is too large for {name}; ask for another format."
    raise CannotTransform(Failure(code=str(Refusal.DIMENSIONS_TOO_LARGE), message=message, retryable=False))


@contextmanager
def refusals_final(about: Collection[Refusal] = frozenset(Refusal)) -> Iterator[None]:
    """Raises CannotTransform for a refusal of these: it lies in what was sent, and trying again would change nothing."""
    try:
        yield
    except MediaRefused as refused:
        if refused.refusal not in about:
            raise
        message = "What was sent cannot be worked on because of what it is."
        raise CannotTransform(Failure(code=str(refused.refusal), message=message, retryable=False)) from refused


def choice_of(choice: FaceChoice) -> Choice:
    """The pipeline's word for which faces are meant."""
    if choice.mode is FaceMode.INDEX and choice.index is not None:
        return AtIndex(choice.index)
    if choice.mode is FaceMode.NEAREST and choice.box is not None:
        left, top, width, height = map(float, choice.box)
        eyes = ((left + 0.3 * width, top + 0.4 * height), (left + 0.7 * width, top + 0.4 * height))
        return Nearest(Face(left=left, top=top, width=width, height=height, points=eyes, score=1.0))
    return Every() if choice.mode is FaceMode.ALL else Largest()


def failure_of(unusable: FaceUnusable) -> Failure:
    """The answer's words."""
    message = MESSAGES[unusable.failure].format(role=unusable.role)
    return Failure(code=str(unusable.failure), message=message, retryable=False)
