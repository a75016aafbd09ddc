"""How a service behind a handle speaks of its trouble: the same few facts in the words of those who call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from face_pipeline.errors import PipelineUnavailable, SwapFault
from moderation.errors import ClassifierFault, ClassifierUnavailable, ModerationError, Overloaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Constructors of errors. `fault` and `unavailable` take one line for the operator."""

    own: tuple[type[Exception], ...]
    """What may come out of the service as it is."""
    fault: type[Exception]
    """The work itself went wrong: an exception in the model, an answer that is none."""
    unavailable: type[Exception]
    """Nobody answered, or not in time."""
    overloaded: Callable[[str, float], Exception]
    """No room: takes what is full, and the seconds after which to come back."""


CLASSIFIER: Final = Faults(own=(ModerationError,), fault=ClassifierFault, unavailable=ClassifierUnavailable, overloaded=Overloaded)
FACES: Final = Faults(
    own=(SwapFault, PipelineUnavailable),
    fault=SwapFault,
    unavailable=PipelineUnavailable,
    overloaded=lambda what, retry_after_s: PipelineUnavailable(f"{what} is full", retry_after_s),
)
