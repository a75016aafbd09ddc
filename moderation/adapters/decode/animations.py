"""From the bytes of an animated picture to the frames that a viewer plays, once through, as those of a film.

Runs in a decode child for videos only. What is judged of an animation is for `pictures`: every frame in every way in which viewers may show it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate, pairwise
from math import lcm
from typing import Final

from PIL import Image

from moderation.adapters.decode.demux import check_seconds, check_size
from moderation.adapters.decode.pictures import presented, refusing
from moderation.adapters.decode.renderings import Upright, upright_size
from moderation.adapters.decode.task import Refused, Task
from moderation.errors import Refusal

COARSEST: Final = 100
"""Units a second of a film's times, at least."""

FINEST: Final = 1_000_000
"""Units a second of a film's times. An animation whose times have no common unit as large as that has them to the nearest microsecond."""


def film(
    data: bytes | memoryview,
    task: Task,
    begin: Callable[[dict[str, object]], None],
    show: Callable[[int, int, int, Image.Image], None],
) -> dict[str, object]:
    """Begin with what a viewer plays, then show every frame from `task.first` on: (index, pts, duration, RGB with alpha on white).

    The frames are decoded twice, first only for how long each lasts. Raises Refused or MemoryError.
    """
    with refusing():
        return _film(bytes(data), task, begin, show)


def _film(
    data: bytes, task: Task, begin: Callable[[dict[str, object]], None], show: Callable[[int, int, int, Image.Image], None]
) -> dict[str, object]:
    sizes: list[tuple[int, int]] = []
    lasts: list[Fraction] = []
    for shot, layout, seconds in presented(data, task):
        sizes.append(upright_size(shot, layout, task))
        lasts.append(seconds)
    width, height = sizes[0]
    check_size(width + width % 2, height + height % 2, task)  # as it will be in the file of ours
    total = sum(lasts, Fraction(0))
    check_seconds(float(total), task)
    if task.first >= len(lasts):
        raise Refused(Refusal.NO_FRAMES, f"frame {task.first} of {len(lasts)}")
    units = min(lcm(COARSEST, *(seconds.denominator for seconds in lasts)), FINEST)
    times = [round(time * units) for time in accumulate(lasts, initial=Fraction(0))]
    if any(until == time for time, until in pairwise(times)):
        raise Refused(Refusal.UNSUPPORTED_ENCODING, "frames that begin within the same microsecond")
    facts: dict[str, object] = {
        "animated": True,
        "width": width,
        "height": height,
        "frames": len(lasts),
        "frames_declared": len(lasts),
        "duration_us": round(total * 1_000_000),
        "unscreened": [],
        "renderings": ["plain"],
    }
    rate = len(lasts) / total
    begin(
        {
            "facts": facts,
            "time_base": [1, units],
            "frame_rate": [rate.numerator, rate.denominator],
            "start": 0,
            "duration": times[-1],
            "has_sound": False,
        }
    )
    for number, (shot, layout, _) in enumerate(presented(data, task)):
        if number < task.first:
            continue
        upright = Upright(shot, layout, task)
        if upright.size != (width, height):
            raise Refused(Refusal.UNSUPPORTED_ENCODING, "the size of its pictures changes")
        show(number, times[number], times[number + 1] - times[number], upright.rows(0, height))
    return facts
