"""What a reviewer is shown of a media: a still picture in full; of anything that moves, or that viewers show in several ways, one frame in all its ways.

The frame is the one that a reason names, and it is made as the classifiers' inputs are made, by the same decoder with the same numbers: what
was held is what is seen, also where a player would not show it (under an edit list, as a cover, on another background).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from deployments.http.gateway import Gateway
from moderation.decision import Decision
from moderation.errors import MediaRefused, Refusal
from moderation.frames import OWN_VIDEO_BYTES, DecodePlan, Fit, Input, InputSpec, Pixels, Resample, Sampling
from moderation.media import Facts, MediaKind, Stage

MOST_PIXELS: Final = 1_300_000
"""Of one rendering: what goes over the map between decode child and parent."""

COVER: Final = "cover"
"""The rendering of a picture that a video carries beside its frames."""

_ONE_FRAME: Final = Sampling(interval_us=1 << 52, min_frames=1, first_and_last=False, scene_cuts=False, seed=0)


async def shown_of(gateway: Gateway, decision: Decision, data: bytes, frame: int | None) -> Sequence[Pixels]:
    """The pictures to show, at least one; of `frame` where the media has several. Raises MediaRefused, DecoderUnavailable, Overloaded."""
    own_bytes = OWN_VIDEO_BYTES if decision.stage is Stage.OUTPUT else None
    plan, facts = DecodePlan(specs=(), limits=gateway.limits, own_bytes=own_bytes), decision.media.facts
    if facts is None or (facts.kind is MediaKind.IMAGE and facts.frames == 1 and len(facts.renderings) == 1):
        return [(await gateway.pictures.picture(data, plan)).pixels]
    number = facts.frame_numbers()[0] if frame is None else frame
    plan = replace(plan, specs=(_spec(facts),))
    shown = await _renderings(gateway, data, replace(plan, only=(number,)), number)
    if COVER in facts.renderings:
        beside = await _renderings(gateway, data, replace(plan, sampling=_ONE_FRAME), None)  # a look at certain frames leaves it out
        shown |= {COVER: beside[COVER]} if COVER in beside else {}
    if not shown:
        raise MediaRefused(Refusal.NO_FRAMES, f"frame {number}")
    return list(shown.values())


def named_frame(decision: Decision, reason: int | None) -> int | None:
    """The frame that this reason names, by default the first that names one and is as grave as the verdict, or else any. Raises IndexError."""
    if reason is not None:
        return decision.reasons[reason].frame
    named = [reason for reason in decision.reasons if reason.frame is not None]
    gravest = [reason for reason in named if reason.verdict is decision.verdict]
    return next((reason.frame for reason in (*gravest, *named)), None)


async def _renderings(gateway: Gateway, data: bytes, plan: DecodePlan, frame: int | None) -> dict[str, Pixels]:
    """By name the renderings of one whole frame, or of all that `plan` asks for."""
    found: dict[str, Pixels] = {}

    async def deliver(inputs: Sequence[Input]) -> None:
        for item in inputs:
            if frame in (None, item.frame) and item.region[:2] == (0, 0):
                found.setdefault(item.rendering, item.pixels)  # of a long picture the whole comes before its parts

    await gateway.decoder.decode(data, plan, deliver)
    return found


def _spec(facts: Facts) -> InputSpec:
    """As large as the frame, or as large as may be."""
    scale = min(1.0, math.sqrt(MOST_PIXELS / (facts.width * facts.height)))
    width, height = (max(1, int(side * scale)) for side in (facts.width, facts.height))
    return InputSpec(width=width, height=height, fit=Fit.STRETCH, resample=Resample.LANCZOS)
