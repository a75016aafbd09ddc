"""Videos through real children: the rows of the table, which frames are looked at, and films as a player presents them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import struct
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from PIL import Image

from moderation.adapters.classifiers.correlation import INPUT, SURE, find_marker
from moderation.adapters.decode import ChildDecoder, pool, videos
from moderation.adapters.decode.containers import Layout, walk_video
from moderation.adapters.decode.scenes import MOST_CUTS
from moderation.adapters.decode.sniff import Format
from moderation.adapters.decode.task import Refused
from moderation.adapters.decode.videos import _as_it_says
from moderation.errors import DecoderUnavailable, MediaRefused, Refusal
from moderation.frames import DecodePlan, Fit, InputSpec, Limits, Resample, Sampling, film_digest
from moderation.media import MediaKind
from tests.corpus import OK, encode, quiet
from tests.impostor import OUTPUT, Impostor
from tests.video_corpus import (
    RATE,
    TABLE,
    TRACK,
    VIDEO_CASES,
    box,
    boxes,
    clip,
    edited,
    fragmented,
    hidden_by_edits,
    pictures,
    plain_clip,
    turned,
    with_edit_list,
)

PLAN = DecodePlan(specs=(INPUT,))
SAMPLING = Sampling(interval_us=500_000, min_frames=8, first_and_last=True, scene_cuts=True, seed=1)
NO_CUTS = replace(SAMPLING, scene_cuts=False)


async def decoded(decoder, data, **plan):
    """(outcome, facts, inputs): the outcome is `ok` or the refusal's code."""
    inputs = []

    async def deliver(batch):
        inputs.extend(batch)

    try:
        facts = await decoder.decode(data, replace(PLAN, **plan), deliver)
    except MediaRefused as refused:
        return str(refused.refusal), None, inputs
    return OK, facts, inputs


async def sampled(decoder, data, **changes):
    """The facts of a clip that is sampled."""
    outcome, facts, inputs = await decoded(decoder, data, sampling=replace(SAMPLING, **changes))
    assert outcome == OK
    assert {item.frame for item in inputs} == set(facts.frame_numbers())
    return facts


async def watched(decoder, data, first=0):
    """(facts, frames) of a film."""
    async with decoder.film(data, PLAN, first=first) as film:
        return film.facts, [frame async for frame in film]


def is_marked(pixels) -> bool:
    return find_marker(pixels).correlation >= SURE - 0.05


# --- the table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True], ids=["gated", "strict"])
@pytest.mark.parametrize("case", VIDEO_CASES, ids=lambda case: case.id)
def test_a_bad_video_gets_the_answer_of_the_table(loop, decoder, case, strict):
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, case.build(), strict=strict, sampling=SAMPLING))
    assert outcome in (case.strict if strict else case.expect)
    if outcome == OK:
        assert facts.kind is MediaKind.VIDEO
        assert {item.frame for item in inputs} == set(facts.frame_numbers())
        assert not case.found or any(is_marked(item.pixels) for item in inputs)


@pytest.mark.parametrize(
    ("form", "codec"), [("mp4", "libx265"), ("webm", "libvpx-vp9"), ("webm", "libvpx"), ("mp4", "mpeg4"), ("mov", "libx264")]
)
def test_every_frame_of_a_sound_video_is_shown_with_its_time(loop, decoder, form, codec):
    options = {"x265-params": "log-level=none:pools=1"} if codec == "libx265" else {}
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, clip(pictures(30), form=form, codec=codec, options=options)))
    assert (outcome, facts.frames, facts.frames_declared, facts.sampled) == (OK, 30, 30, ())
    times = [item.time_us for item in inputs]
    assert all(abs(time - number * 1_000_000 // RATE) <= 1000 for number, time in enumerate(times))
    assert abs(facts.duration_us - 1_200_000) <= 41_000


def test_a_still_picture_is_asked_for_and_a_video_sent(loop, decoder):
    with pytest.raises(MediaRefused) as refused:
        loop.run_until_complete(decoder.picture(plain_clip(), PLAN))
    assert refused.value.refusal is Refusal.STILL_PICTURE_REQUIRED


def test_a_probe_says_what_a_video_is_without_decoding_it(loop, decoder):
    probe = loop.run_until_complete(decoder.probe(turned(90), PLAN))
    assert (probe.kind, probe.width, probe.height, probe.frames, probe.duration_us) == (MediaKind.VIDEO, 160, 120, 8, 320_000)


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_flipped_bits_are_shown_or_refused(loop, decoder, form):
    chance = np.random.default_rng(3)
    limits = Limits(video_cpu_s=3, video_wall_s=6)
    for _ in range(15):
        data = bytearray(plain_clip(form))
        for _ in range(6):
            data[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
        outcome, _, _ = loop.run_until_complete(decoded(decoder, bytes(data), limits=limits))
        assert outcome in {OK, *map(str, Refusal)}


# --- which frames --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    """Ten seconds of which nothing moves."""
    return clip(pictures(10 * RATE), options={"g": "50", "bf": "2"})


def test_one_frame_in_every_interval_is_looked_at_from_a_random_one_on(loop, decoder, long_clip):
    one, same, other = (loop.run_until_complete(sampled(decoder, long_clip, seed=seed)) for seed in (1, 1, 2))
    assert one.sampled == same.sampled != other.sampled
    assert (one.seed, other.seed) == (1, 2)
    assert one.sampled[0] == 0
    assert one.sampled[-1] == 249
    gaps = np.diff(one.sampled)
    assert max(gaps) <= RATE // 2 + 1
    assert one.frames == len(one.sampled) <= 24
    assert (one.frames_declared, one.undecoded, one.frame_digest) == (250, 0, None)


def test_a_short_video_is_looked_at_often_enough(loop, decoder):
    facts = loop.run_until_complete(sampled(decoder, clip(pictures(20)), scene_cuts=False))
    assert 8 <= facts.frames < 20
    assert loop.run_until_complete(sampled(decoder, clip(pictures(8)), scene_cuts=False)).sampled == ()


@pytest.mark.parametrize("place", [1, 77, 248])
def test_a_frame_that_differs_from_the_one_before_is_looked_at(loop, decoder, place):
    data = clip(pictures(10 * RATE, [place], share=0.05), options={"g": "250"})
    facts = loop.run_until_complete(sampled(decoder, data))
    assert place in facts.sampled
    assert facts.frames < 30


def test_what_blinks_in_two_corners_hides_no_cut_in_the_rest(loop, decoder):
    frames = pictures(4 * RATE, [60], share=0.05)
    for number, image in enumerate(frames):
        image.paste((255 * (number % 2),) * 3, (0, 0, 16, 16))
        image.paste((255 * (number // 2 % 2),) * 3, (144, 0, 160, 16))
    assert 60 in loop.run_until_complete(sampled(decoder, clip(frames, options={"g": "250"}))).sampled


def test_more_cuts_than_there_is_room_for_are_counted(loop, decoder):
    chance = np.random.default_rng(1)
    frames = [Image.fromarray(chance.integers(0, 256, (4, 4, 3), np.uint8)).resize((64, 64), Image.Resampling.NEAREST) for _ in range(500)]
    data = clip(frames, options={"g": "500", "bf": "0"})
    facts = loop.run_until_complete(sampled(decoder, data, interval_us=10_000_000))
    assert facts.frames + facts.cuts_left_out == 500
    assert 100 < facts.frames <= MOST_CUTS + 12
    assert facts.sampled == loop.run_until_complete(sampled(decoder, data, interval_us=10_000_000)).sampled


def test_frames_that_no_other_needs_are_left_out_where_nobody_looks_at_them_and_that_is_said(loop, decoder):
    data = clip(pictures(10 * RATE, [101]), options={"g": "50", "x264-params": "bframes=3:b-pyramid=none:log-level=none"})
    facts = loop.run_until_complete(sampled(decoder, data, scene_cuts=False))
    assert facts.undecoded > 100
    assert loop.run_until_complete(sampled(decoder, data)).undecoded == 0
    first = loop.run_until_complete(decoded(decoder, data, only=facts.sampled))[2]
    again = loop.run_until_complete(decoded(decoder, data, sampling=replace(NO_CUTS, seed=facts.seed)))[2]
    assert [item.pixels.tobytes() for item in first] == [item.pixels.tobytes() for item in again]


def test_a_second_look_is_at_the_frames_that_it_names(loop, decoder, long_clip):
    whole = {item.frame: item for item in loop.run_until_complete(decoded(decoder, long_clip))[2]}
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, long_clip, only=(60, 61, 120)))
    assert (outcome, facts.sampled) == (OK, (60, 61, 120))
    assert [item.time_us for item in inputs] == [whole[number].time_us for number in (60, 61, 120)]
    assert all(item.pixels.tobytes() == whole[item.frame].pixels.tobytes() for item in inputs)
    assert loop.run_until_complete(decoded(decoder, long_clip, only=(249, 250)))[0] == "decode_failed"


def test_many_frames_within_an_instant_are_not_one(loop, decoder):
    """All but two of 400 frames lie within 5 ms: as many samples as their number asks for."""
    data = clip(pictures(400), times=[*range(399), 90_000], time_base=Fraction(1, 90_000), options={"bf": "0"})
    facts = loop.run_until_complete(sampled(decoder, data, scene_cuts=False))
    assert max(np.diff(facts.sampled)) <= 31


# --- films ---------------------------------------------------------------------------------------------


def test_a_film_is_what_a_player_presents(loop, decoder):
    data = hidden_by_edits()
    about, frames = loop.run_until_complete(watched(decoder, data))
    assert [frame.index for frame in frames] == list(range(about.frames)) == [0, 1, 2, 3]
    assert not any(is_marked(np.asarray(Image.fromarray(frame.pixels).resize((320, 320)))) for frame in frames)
    assert [frame.pts for frame in frames] == [about.start + n * 512 for n in range(4)]
    assert sum(frame.duration for frame in frames) == about.duration
    outcome, facts, _ = loop.run_until_complete(decoded(decoder, data))
    assert (outcome, facts.frames) == (OK, 12)


@pytest.mark.parametrize(
    "edits",
    [[(0, 60)], [(20, 90)], [(15, 55)], [(15, 40), (35, 60)], [(45, 70), (5, 30)], [(26, 41), (7, 29), (33, 38)], [(61, 78), (61, 75)]],
    ids=["end", "key-frame", "both-ends", "repeated", "reordered", "both", "twice"],
)
@pytest.mark.parametrize("between", [0, 2], ids=["no-b-frames", "b-frames"])
def test_a_trimmed_film_is_its_edits_from_whatever_frame_on(loop, decoder, edits, between):
    data = clip(pictures(90, range(0, 90, 7)), options={"g": "10", "bf": str(between)})
    shown = [frame.pixels.tobytes() for frame in loop.run_until_complete(watched(decoder, data))[1]]
    late = 1024 if between else 0  # frames out of order begin two frames later in the media's own time
    cut = with_edit_list(data, *((40 * (end - first), 512 * first + late) for first, end in edits))
    about, frames = loop.run_until_complete(watched(decoder, cut))
    assert [frame.pixels.tobytes() for frame in frames] == [pixels for first, end in edits for pixels in shown[first:end]]
    assert [frame.pts for frame in frames] == [512 * number for number in range(about.frames)]
    for first in (1, 12, about.frames - 1):
        rest = loop.run_until_complete(watched(decoder, cut, first))[1]
        assert [frame.pixels.tobytes() for frame in rest] == [frame.pixels.tobytes() for frame in frames[first:]]


def test_what_edits_leave_out_has_to_be_there_all_the_same(loop, decoder):
    """One more sample is stated than there is."""
    data = clip(pictures(30), options={"g": "10", "bf": "0"})
    more = edited(data, (*TABLE, b"stsz"), lambda body: box(b"stsz", body[:8], (31).to_bytes(4, "big"), body[12:], (9).to_bytes(4, "big")))
    with pytest.raises(MediaRefused) as refused:
        loop.run_until_complete(watched(decoder, with_edit_list(more, (800, 0))))
    assert refused.value.refusal is Refusal.TRUNCATED


def _covered(kind: int) -> bytes:
    """An MP4 with a cover that says it is of this kind."""
    data = clip(pictures(), cover=encode(quiet(64, 64), "JPEG"))
    at = data.index(b"covr") + 12
    return data[:at] + struct.pack(">I", kind) + data[at + 4 :]


def _attached(kind: str) -> bytes:
    cover = encode(quiet(64, 64), kind.upper())

    def attach(file: av.container.OutputContainer) -> None:
        file.add_attachment(f"cover.{kind}", f"image/{kind}", cover)

    return clip(pictures(), form="matroska", on_container=attach)


@pytest.mark.parametrize(
    ("build", "is_shown"),
    [(lambda: _covered(13), True), (lambda: _covered(99), False), (lambda: _attached("jpeg"), True), (lambda: _attached("webp"), False)],
    ids=["mp4-jpeg", "mp4-unknown", "matroska-jpeg", "matroska-webp"],
)
def test_an_attached_picture_is_shown_to_classifiers_or_listed(loop, decoder, build, is_shown):
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, build()))
    assert outcome == OK
    assert any(item.rendering == "cover" for item in inputs) is is_shown
    assert ("data" in facts.unscreened) is not is_shown


def test_a_film_whose_frames_are_nearer_than_a_file_can_tell_is_refused_and_its_frames_are_screened(loop, decoder):
    times = [0, 400_000, 400_001, 800_000]
    data = clip(pictures(4), times=times, time_base=Fraction(1, 10_000_000), options={"bf": "0"})
    with pytest.raises(MediaRefused) as refused:
        loop.run_until_complete(watched(decoder, data))
    assert refused.value.refusal is Refusal.UNSUPPORTED_ENCODING
    outcome, facts, _ = loop.run_until_complete(decoded(decoder, data))
    assert (outcome, facts.frames) == (OK, 4)


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_the_longest_video_may_have_sound_and_frames_out_of_order(loop, decoder, form):
    limits = Limits(video_seconds=2)
    for frames, expected in ((2 * RATE, OK), (2 * RATE + 1, "too_long")):
        data = clip(pictures(frames), form=form, sound=True, options={"bf": "2"})
        assert loop.run_until_complete(decoded(decoder, data, limits=limits))[0] == expected
        if expected == OK:
            assert loop.run_until_complete(_shown(decoder, data, limits)) == frames


async def _shown(decoder, data, limits) -> int:
    async with decoder.film(data, replace(PLAN, limits=limits)) as film:
        return len([frame async for frame in film])


def nameless(_: object) -> None:
    """What is beside a frame, of a kind that PyAV has no name for."""
    raise ValueError("28 is not a valid Type")


def test_a_frame_with_something_nameless_beside_it_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(videos, "SideDataContainer", nameless)
    with pytest.raises(Refused) as refused:
        _as_it_says(None, Layout(), None)
    assert refused.value.refusal is Refusal.UNSUPPORTED_ENCODING


def test_a_film_that_begins_before_its_time_line_is_refused_and_its_frames_are_screened(loop, decoder):
    """Offsets below zero, and no edit list that puts them right: no file of ours could keep these times."""
    data = clip(pictures(8, [0]), options={"bf": "2"})
    data = edited(data, TRACK, lambda body: box(b"trak", *(box(name, inner) for name, inner in boxes(body) if name != b"edts")))
    data = edited(data, (*TABLE, b"ctts"), lambda body: box(b"ctts", b"\1\0\0\0", body[4:8], *_earlier(body[8:], 2048)))
    outcome, _, inputs = loop.run_until_complete(decoded(decoder, data))
    assert outcome == OK
    assert is_marked(inputs[0].pixels)
    with pytest.raises(MediaRefused) as refused:
        loop.run_until_complete(watched(decoder, data))
    assert refused.value.refusal is Refusal.UNSUPPORTED_ENCODING


def _earlier(entries: bytes, by: int) -> list[bytes]:
    return [struct.pack(">Ii", frames, offset - by) for frames, offset in struct.iter_unpack(">Ii", entries)]


@pytest.mark.parametrize("kind", [b"dvcC", b"dvvC"])
@pytest.mark.parametrize(("base", "expected"), [(0, "Dolby Vision"), (1, "Dolby Vision"), (2, "")])
def test_dolby_vision_in_matroska_is_told_by_what_blocks_carry_beside_their_frame(kind, base, expected):
    record = element(0x41ED, bytes([1, 0, 16, 45, base << 4]) + bytes(19))
    track = element(0xAE, element(0xD7, b"\1") + element(0x83, b"\1") + element(0x41E4, element(0x41E7, kind) + record))
    data = element(0x1A45DFA3, b"") + element(0x18538067, element(0x1654AE6B, track))
    assert walk_video(data, Format.MATROSKA).unsupported == expected


def element(id: int, body: bytes) -> bytes:
    """Of EBML, its length in two bytes."""
    return id.to_bytes((id.bit_length() + 7) // 8, "big") + (0x4000 | len(body)).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    ("track", "movie", "size"), [(0, 90, (160, 120)), (90, 90, (120, 160)), (90, -90, (120, 160)), (180, 90, (160, 120))]
)
def test_the_movies_own_matrix_counts_as_well_as_the_tracks(loop, decoder, track, movie, size):
    """Stored as 120 x 160."""
    data = clip(pictures(4, size=(120, 160)), on_stream=lambda stream: stream.set_display_rotation(-track))
    sign = movie // 90
    matrix = struct.pack(">9i", 0, sign << 16, 0, -sign << 16, 0, 0, 0, 0, 1 << 30)
    data = edited(data, (b"moov", b"mvhd"), lambda body: box(b"mvhd", body[:36], matrix, body[72:]))
    probe = loop.run_until_complete(decoder.probe(data, PLAN))
    assert (probe.width, probe.height) == size


def test_a_file_of_our_own_may_be_larger_than_an_upload(loop, decoder):
    data, limits = plain_clip(), Limits(video_bytes=1000)
    assert loop.run_until_complete(decoded(decoder, data, limits=limits))[0] == "payload_too_large"
    assert loop.run_until_complete(decoded(decoder, data, limits=limits, own_bytes=len(data) - 1))[0] == "payload_too_large"
    assert loop.run_until_complete(decoded(decoder, data, limits=limits, own_bytes=len(data)))[0] == OK


@pytest.mark.parametrize("own_bytes", [None, 1 << 30], ids=["upload", "our-own"])
def test_colours_are_those_of_each_sample_and_not_of_what_samples_average_to(loop, decoder, own_bytes):
    """Fine green and black on the left, on the right what they average to; with half the chroma that black is beyond all colours."""
    side = 960
    green = np.where(np.arange(side) < side // 2, 255 * (np.indices((side, side)).sum(axis=0) % 2), 127)
    frame = np.stack([np.zeros_like(green), green, np.zeros_like(green)], axis=-1).astype(np.uint8)
    outcome, _, inputs = loop.run_until_complete(decoded(decoder, clip([Image.fromarray(frame)] * 2), own_bytes=own_bytes))
    assert outcome == OK
    for item in inputs:
        left, right = np.split(item.pixels[:, :, 0], 2, axis=1)
        assert left[:, :-4].mean() > 30
        assert right[:, 4:].mean() < 2


def wide() -> bytes:
    """Samples of ten bits, pixels that are twice as wide as tall, of full range, and a width that leaves room between rows."""

    def tagged(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.codec_context.color_range, stream.codec_context.colorspace = 2, 9

    return clip(pictures(4, [2], size=(158, 118)), pixels="yuv420p10le", on_stream=tagged)


@pytest.mark.parametrize(
    ("build", "about"),
    [
        (fragmented, "yuv420p 160 120 160 120 1 2 0 2 2 0"),
        (plain_clip, "yuv420p 160 120 160 120 1 2 0 2 2 0"),
        (lambda: turned(90), "yuv420p 120 160 160 120 6 2 0 2 2 0"),
        (lambda: plain_clip("webm", "libvpx-vp9"), "yuv420p 160 120 160 120 1 2 1 2 2 0"),
        (wide, "yuv420p10le 158 118 316 118 1 9 2 2 2 0"),
    ],
)
def test_screening_every_frame_names_what_a_player_shows(loop, decoder, build, about):
    """The digest as it is documented, made here from the samples that PyAV hands out."""
    data, digests = build(), []
    with av.open(io.BytesIO(data)) as file:
        for frame in file.decode(video=0):
            digest = hashlib.sha256(f"facegate film frame 1\n{about}\n".encode())
            for plane, component in zip(frame.planes, frame.format.components, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
                digest.update(rows[:, : plane.width * -(-component.bits // 8)].tobytes())
            digests.append(f"sha256:{digest.hexdigest()}")
    assert len(set(digests)) > 1
    assert loop.run_until_complete(decoder.digests(data, PLAN)) == tuple(digests)
    assert loop.run_until_complete(decoder.digests(data, replace(PLAN, own_bytes=len(data)))) == tuple(digests)
    assert loop.run_until_complete(decoded(decoder, data))[1].frame_digest == film_digest(digests)
    whole = hashlib.sha256(b"facegate film 2\n" + b"".join(bytes.fromhex(digest[7:]) for digest in digests))
    assert film_digest(digests) == f"sha256:{whole.hexdigest()}"


@pytest.mark.parametrize("build", [hidden_by_edits, lambda: with_edit_list(plain_clip(), (200, 0), (200, 0))], ids=["left-out", "twice"])
def test_a_file_of_which_players_show_different_frames_has_no_digests(loop, decoder, build):
    with pytest.raises(MediaRefused) as refused:
        loop.run_until_complete(decoder.digests(build(), PLAN))
    assert refused.value.refusal is Refusal.AMBIGUOUS_RENDERING


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("resample", [Resample.BOX, Resample.BILINEAR, Resample.BICUBIC, Resample.LANCZOS, Resample.HAMMING])
def test_inputs_that_are_scaled_while_colours_are_converted_show_what_the_whole_frame_shows(loop, decoder, fit, resample):
    """Turned, with pixels that are not square; against Pillow, from the frame in full."""
    scene = Image.fromarray(np.random.default_rng(3).integers(0, 256, (12, 15, 3), np.uint8)).resize((300, 240), Image.Resampling.BICUBIC)

    def odd(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(-90)

    data = clip([scene] * 2, on_stream=odd, options={"crf": "1"}, pixels="yuv444p")
    spec = InputSpec(width=112, height=96, fit=fit, resample=resample, resize_to=112)
    frame = Image.fromarray(loop.run_until_complete(watched(decoder, data))[1][0].pixels)
    assert frame.size == (240, 400)
    _, _, inputs = loop.run_until_complete(decoded(decoder, data, specs=(spec, INPUT)))
    shown = [item for item in inputs if item.frame == 0 and item.spec == spec]
    assert len(shown) == (2 if fit is Fit.CROP else 1)
    for item in shown:
        left, top, width, height = item.region
        size = (58, 96) if fit is Fit.LETTERBOX else (112, 96)
        expected = np.asarray(frame.resize(size, Image.Resampling[resample.name], (left, top, left + width, top + height)))
        assert np.abs(item.pixels[:, : size[0]].astype(int) - expected).mean() < 3
        assert not item.pixels[:, size[0] :].any()


@pytest.mark.parametrize(("matrix", "tag"), [("ITU709", 1), ("ITU601", 6), ("BT2020", 9)])
@pytest.mark.parametrize(("range_", "low", "high"), [("MPEG", 16, 235), ("JPEG", 0, 255)])
def test_inputs_have_the_colours_that_the_file_says(loop, decoder, matrix, tag, range_, low, high):
    """Patches whose samples are worked out here, by the definition of the matrix."""
    patches = np.array([[255, 255, 255], [0, 0, 0], [220, 40, 30], [30, 200, 60], [40, 60, 210], [200, 160, 130]], float) / 255
    red, blue = {"ITU709": (0.2126, 0.0722), "ITU601": (0.299, 0.114), "BT2020": (0.2627, 0.0593)}[matrix]
    luma = patches @ [red, 1 - red - blue, blue]
    blueness, redness = (patches[:, 2] - luma) / (2 - 2 * blue), (patches[:, 0] - luma) / (2 - 2 * red)
    scale = (high - low) * (224 / 219 if low else 1)
    samples = np.stack([low + (high - low) * luma, 128 + scale * blueness, 128 + scale * redness]).round().clip(0, 255).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(np.repeat(np.repeat(samples[:, np.newaxis], 64, axis=1), 64, axis=2), format="yuv444p")
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"crf": "0", "x264-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 6 * 64, 64, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, ColorRange[range_]
        frame.colorspace, frame.color_range = tag, ColorRange[range_]
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    spec = InputSpec(width=192, height=32, fit=Fit.STRETCH)
    (shown,) = loop.run_until_complete(decoded(decoder, out.getvalue(), specs=(spec,)))[2][:1]
    seen = shown.pixels[16, 16::32].astype(int)
    assert np.abs(seen - (255 * patches)).max() <= 4, seen


@pytest.mark.parametrize("first", [1, 30, 49])
def test_a_film_goes_on_from_any_frame(loop, decoder, first):
    groups = "keyint=12:min-keyint=12:scenecut=0:bframes=2:open-gop=1:log-level=none"  # the first frames of a group need the one before
    data = clip(pictures(50, range(0, 50, 7)), options={"x264-params": groups})
    _, whole = loop.run_until_complete(watched(decoder, data))
    _, rest = loop.run_until_complete(watched(decoder, data, first))
    assert [(f.index, f.pts, f.duration, f.pixels.tobytes()) for f in rest] == [
        (f.index, f.pts, f.duration, f.pixels.tobytes()) for f in whole[first:]
    ]


def test_a_film_that_nobody_takes_waits_and_one_that_is_left_ends():
    async def story():
        decoder = ChildDecoder(1, videos=1)
        await decoder.start()
        try:
            data = clip(pictures(40, size=(640, 480)))
            async with decoder.film(data, PLAN) as film:
                (pid,) = decoder.video_pids
                frames = film.__aiter__()
                await anext(frames)
                await _until_blocked(pid)
                before = _processor_ticks(pid)
                await asyncio.sleep(0)
                assert _processor_ticks(pid) == before
                assert decoder.bytes_in_flight == len(data)
            assert decoder.bytes_in_flight == 0
            outcome, _, _ = await decoded(decoder, data)
            assert outcome == OK
            assert decoder.video_pids != (pid,)
        finally:
            await decoder.close()

    asyncio.run(story())


async def _until_blocked(pid: int) -> None:
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


def _processor_ticks(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_sound_is_decoded_and_lies_where_it_is_heard(loop, decoder, form):
    data = clip(pictures(2 * RATE), form=form, codec="libx264" if form == "mp4" else "libvpx", sound=True)
    sound = loop.run_until_complete(decoder.sound(data, PLAN))
    assert (sound.rate_hz, sound.samples.shape[1], sound.samples.dtype) == (48_000, 1, np.int16)
    assert abs(sound.starts_at) <= Fraction(1, 40)
    assert abs(len(sound.samples) - 96_000) <= 2048
    spectrum = np.abs(np.fft.rfft(sound.samples[24_000:72_000, 0]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert loop.run_until_complete(watched(decoder, data))[0].has_sound


def test_a_silent_video_has_no_sound(loop, decoder):
    assert loop.run_until_complete(decoder.sound(plain_clip(), PLAN)) is None


# --- children ------------------------------------------------------------------------------------------


def test_children_for_videos_are_confined_and_those_for_pictures_have_no_ffmpeg(loop, decoder):
    loop.run_until_complete(decoded(decoder, plain_clip()))
    if not decoder.video_pids:  # that was the last one's last video
        loop.run_until_complete(decoded(decoder, plain_clip()))
    video, picture = decoder.video_pids[0], decoder.pids[0]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{video}/status").read_text().splitlines() if ":\t" in line)
    assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
    with suppress(PermissionError):
        assert "libavformat" in Path(f"/proc/{video}/maps").read_text()
        assert "libavformat" not in Path(f"/proc/{picture}/maps").read_text()


def test_children_for_videos_stay_for_the_next_ones():
    async def both(decoder) -> set[int]:
        async with decoder.film(plain_clip(), PLAN) as one, decoder.film(plain_clip(), PLAN) as other:
            _ = [[frame async for frame in film] for film in (one, other)]
        return set(decoder.video_pids)

    async def story():
        decoder = ChildDecoder(1, videos=2)
        await decoder.start()
        try:
            first = await both(decoder)
            assert len(first) == 2
            assert await both(decoder) == first
        finally:
            await decoder.close()

    asyncio.run(story())


def test_a_killed_video_child_is_our_fault_and_the_next_video_gets_another():
    async def story():
        decoder = ChildDecoder(1, videos=1)
        await decoder.start()
        try:
            with pytest.raises(DecoderUnavailable):
                await _watched_and_killed(decoder)
            outcome, _, _ = await decoded(decoder, plain_clip())
            assert outcome == OK
        finally:
            await decoder.close()

    asyncio.run(story())


async def _watched_and_killed(decoder) -> None:
    async with decoder.film(plain_clip(), PLAN) as film:
        for pid in decoder.video_pids:
            os.kill(pid, signal.SIGKILL)
        _ = [frame async for frame in film]


def test_a_video_waits_for_another_where_only_one_is_decoded_at_once():
    async def story():
        decoder = ChildDecoder(1, videos=1)
        await decoder.start()
        try:
            outcomes = await asyncio.gather(*(decoded(decoder, plain_clip()) for _ in range(3)))
            assert [outcome for outcome, _, _ in outcomes] == [OK] * 3
            assert len(decoder.video_pids) == 1
        finally:
            await decoder.close()

    asyncio.run(story())


ABOUT: dict[str, Any] = {
    "frames_declared": 2,
    "duration_us": 80_000,
    "unscreened": [],
    "renderings": ["plain"],
    "width": 4,
    "height": 2,
    "frames": 2,
}
FILM = {"t": "film", "facts": ABOUT, "time_base": [1, 25], "frame_rate": [25, 1], "start": 0, "duration": 2, "has_sound": False}
FRAME = {"t": "frame", "index": 0, "pts": 0, "duration": 1}
ROWS = {"t": "rows", "first": 0, "count": 2, "at": OUTPUT}
DONE = {"t": "done", "facts": ABOUT, "inputs": []}
LIES: dict[str, list[dict[str, Any]]] = {
    "no-film": [FRAME],
    "no-time": [{**FILM, "time_base": [0, 1]}],
    "too-large": [{**FILM, "facts": {**ABOUT, "width": 1 << 20}}],
    "too-many": [{**FILM, "facts": {**ABOUT, "frames": 1 << 20}}],
    "rows-first": [FILM, ROWS],
    "another-frame": [FILM, {**FRAME, "index": 1}],
    "too-many-rows": [FILM, FRAME, {**ROWS, "count": 3}],
    "outside": [FILM, FRAME, {**ROWS, "at": 0}],
    "ends-early": [FILM, FRAME, ROWS, DONE],
    "one-too-many": [FILM, FRAME, ROWS, {**FRAME, "index": 1}, ROWS, {**FRAME, "index": 2}],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_lies_about_a_film_is_not_believed(monkeypatch, lie):
    async def story():
        child: Any = Impostor(*LIES[lie])
        monkeypatch.setattr(pool._Film, "_ask", _asked_nothing)
        try:
            with pytest.raises(MediaRefused) as refused:
                await _all_of(pool._Film(child, b"", pool.Format.MP4, PLAN, 0))
            assert not isinstance(refused.value, pool._Orderly)
        finally:
            child.close()

    asyncio.run(story())


NAMES = {"t": "digests", "digests": ["0" * 64]}


@pytest.mark.parametrize(
    "said",
    [
        [NAMES, DONE],
        [NAMES, NAMES, NAMES, DONE],
        [NAMES, {**NAMES, "digests": ["0" * 63]}, DONE],
        [NAMES, {**NAMES, "digests": "0" * 64}, DONE],
        [{**NAMES, "digests": ["0" * 64] * 241}, DONE],
    ],
    ids=["too-few", "too-many", "no-digest", "no-list", "more-than-a-video-has"],
)
def test_a_child_that_names_other_frames_than_it_says_there_are_is_not_believed(monkeypatch, said):
    async def story():
        child: Any = Impostor(*said)
        monkeypatch.setattr(pool._Naming, "_ask", _asked_nothing)
        try:
            with pytest.raises(MediaRefused) as refused:
                await pool._Naming(child, b"", pool.Format.MP4, replace(PLAN, limits=Limits(video_seconds=1))).run()
            assert not isinstance(refused.value, pool._Orderly)
        finally:
            child.close()

    asyncio.run(story())


SHOWN = [[0, number, 0, "plain", 0, 0, 4, 2, OUTPUT] for number in (0, 2)]


@pytest.mark.parametrize(("of", "sampled"), [(3, (0, 2)), (9, (0, 2)), (2, None), (1, None)])
def test_which_frames_were_sampled_is_what_the_parent_saw(monkeypatch, of, sampled):
    async def story():
        facts = {**ABOUT, "of": of, "sampled": [0, 1]}
        child: Any = Impostor({"t": "done", "facts": facts, "inputs": SHOWN})
        monkeypatch.setattr(pool._Screening, "_ask", _asked_nothing)
        try:
            return await pool._Screening(child, b"", pool.Format.MP4, replace(PLAN, sampling=SAMPLING), _asked_nothing).run()
        finally:
            child.close()

    if sampled is None:
        with pytest.raises(MediaRefused):
            asyncio.run(story())
    else:
        facts = asyncio.run(story())
        assert (facts.sampled, facts.seed) == (sampled, SAMPLING.seed)


def test_a_child_that_shows_other_frames_than_it_was_asked_for_is_not_believed(monkeypatch):
    async def story():
        facts = {**ABOUT, "of": 9}
        child: Any = Impostor({"t": "done", "facts": facts, "inputs": SHOWN})
        monkeypatch.setattr(pool._Screening, "_ask", _asked_nothing)
        try:
            with pytest.raises(MediaRefused):
                await pool._Screening(child, b"", pool.Format.MP4, replace(PLAN, only=(0, 1, 2)), _asked_nothing).run()
        finally:
            child.close()

    asyncio.run(story())


async def _all_of(film) -> None:
    await film.begin()
    _ = [frame async for frame in film]


async def _asked_nothing(_) -> None:
    pass
