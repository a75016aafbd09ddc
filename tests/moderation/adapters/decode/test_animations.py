"""Animations as films: every frame that a viewer plays, once, each for exactly as long as the file says."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from moderation.errors import MediaRefused, Refusal
from moderation.frames import DecodePlan, Limits
from moderation.media import MediaKind
from tests import corpus

PLAN = DecodePlan(specs=())
COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20)]


def film_of(loop, decoder, data, first=0, limits=PLAN.limits):
    """(facts, frames)."""

    async def watched():
        async with decoder.film(data, DecodePlan(specs=(), limits=limits), first=first) as film:
            return film.facts, [frame async for frame in film]

    return loop.run_until_complete(watched())


def refusal_of(loop, decoder, data, **asked):
    with pytest.raises(MediaRefused) as refused:
        film_of(loop, decoder, data, **asked)
    return refused.value.refusal


def animation(form, durations, **options):
    """A frame of one colour for each duration in milliseconds."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (65, 48), colour) for colour in COLOURS[: len(durations)]]
    frames[0].save(out, form, save_all=True, append_images=frames[1:], duration=durations, **options)
    return out.getvalue()


def seconds_of(about, frames):
    return [frame.duration * about.time_base for frame in frames]


@pytest.mark.parametrize(
    ("form", "durations"),
    [
        ("GIF", [40, 50, 1230, 70]),
        ("WEBP", [33, 50, 1, 70]),
        ("PNG", [1000 / 30, 1000 / 24, 1001 / 24, 7]),
        ("AVIF", [33, 50, 1230, 70]),
    ],
)
def test_every_frame_of_an_animation_is_shown_for_exactly_its_time(loop, decoder, form, durations):
    about, frames = film_of(loop, decoder, animation(form, durations, **({"lossless": True} if form == "WEBP" else {})))
    exact = [Fraction(duration / 1000).limit_denominator(65_535) for duration in durations]
    assert seconds_of(about, frames) == exact
    assert [frame.pts * about.time_base for frame in frames] == [sum(exact[:number]) for number in range(4)]
    assert (about.start, about.duration * about.time_base, about.frames) == (0, sum(exact), 4)
    assert (about.facts.kind, about.facts.width, about.facts.height, about.has_sound) == (MediaKind.ANIMATION, 65, 48, False)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert np.abs(frame.pixels.astype(int) - colour).max() <= 12
    later = film_of(loop, decoder, animation(form, durations, **({"lossless": True} if form == "WEBP" else {})), first=2)[1]
    assert [(frame.index, frame.pts) for frame in later] == [(frame.index, frame.pts) for frame in frames[2:]]


def test_a_frame_that_says_no_time_is_shown_as_long_as_viewers_show_it(loop, decoder):
    about, frames = film_of(loop, decoder, animation("GIF", [0, 40]))
    assert seconds_of(about, frames) == [Fraction(1, 10), Fraction(1, 25)]


def test_the_picture_for_those_who_show_no_animations_is_no_frame(loop, decoder):
    frames = [Image.new("RGB", (64, 48), colour) for colour in COLOURS[:2]]
    about, shown = film_of(loop, decoder, corpus.apng(Image.new("RGB", (64, 48), COLOURS[3]), frames, delay_ms=20))
    assert [tuple(frame.pixels[0, 0]) for frame in shown] == COLOURS[:2]
    assert seconds_of(about, shown) == [Fraction(1, 50)] * 2


def test_what_is_transparent_lies_on_white(loop, decoder):
    out = io.BytesIO()
    frames = [Image.new("RGBA", (64, 48), (*colour, alpha)) for colour, alpha in zip(COLOURS, (255, 0), strict=False)]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=40, lossless=True)
    assert [tuple(frame.pixels[5, 5]) for frame in film_of(loop, decoder, out.getvalue())[1]] == [COLOURS[0], (255, 255, 255)]


@pytest.mark.parametrize(
    ("build", "asked", "refusal"),
    [
        (lambda: corpus.plain("PNG"), {}, Refusal.UNSUPPORTED_MEDIA_TYPE),
        (lambda: corpus.plain("JPEG"), {}, Refusal.UNSUPPORTED_MEDIA_TYPE),
        (lambda: animation("GIF", [40] * 4)[:-40], {}, Refusal.TRUNCATED),
        (lambda: animation("GIF", [1010] * 2), {"limits": Limits(video_seconds=2)}, Refusal.TOO_LONG),
        (lambda: animation("WEBP", [40] * 4), {"limits": Limits(frames=3)}, Refusal.TOO_MANY_FRAMES),
        (lambda: animation("GIF", [40] * 2), {"limits": Limits(video_pixels=65 * 48)}, Refusal.DIMENSIONS_TOO_LARGE),
        (lambda: animation("GIF", [40] * 2), {"first": 2}, Refusal.NO_FRAMES),
    ],
    ids=["png", "jpeg", "cut off", "too long", "too many frames", "one column too many", "after its end"],
)
def test_what_is_no_film_is_refused_by_name_and_the_child_goes_on(loop, decoder, build, asked, refusal):
    assert refusal_of(loop, decoder, build(), **asked) is refusal
    pids = decoder.video_pids
    assert film_of(loop, decoder, animation("GIF", [40, 40]))[0].frames == 2
    assert decoder.video_pids == pids


def test_frames_that_no_file_of_ours_can_tell_apart_are_refused(loop, decoder):
    """A clock of four thousand million units a second."""
    data = animation("AVIF", [40, 40])
    at = data.index(b"mdhd") + 4
    long = data[at]
    place = at + 4 + (16 if long else 8)
    spoilt = data[:place] + struct.pack(">I", 0xFFFFFFFF) + data[place + 4 :]
    assert refusal_of(loop, decoder, spoilt) is Refusal.UNSUPPORTED_ENCODING
