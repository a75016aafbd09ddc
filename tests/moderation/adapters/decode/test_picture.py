"""The one picture of a file in full, through the real children; Pillow's own reading in this process is what it is compared with."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from moderation.adapters.classifiers.correlation import INPUT
from moderation.adapters.decode import ChildDecoder, pool, wire
from moderation.errors import DecoderUnavailable, MediaRefused, Overloaded, Refusal
from moderation.frames import DecodePlan, Input, Limits, Picture
from moderation.media import Facts, MediaKind, Unscreened
from tests import corpus, video_corpus
from tests.builders import make_spec
from tests.corpus import CASES, OK
from tests.impostor import INPUT_BYTES, OUTPUT, Impostor

PLAN = DecodePlan(specs=())
WIDTH, HEIGHT = 1600, 1100
"""More pixels than go into one message."""

DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ROOT = Path(__file__).parents[4]


@functools.cache
def large() -> Image.Image:
    return corpus.marked(WIDTH, HEIGHT)


@functools.cache
def in_palette() -> Image.Image:
    return large().quantize(64, Image.Quantize.FASTOCTREE)


def alpha() -> Image.Image:
    """Every alpha there is, across."""
    return Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)))


@functools.cache
def with_alpha() -> Image.Image:
    im = large().copy()
    im.putalpha(alpha())
    return im


def grey16() -> np.ndarray:
    return np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))


def rgb16() -> np.ndarray:
    return np.asarray(large()).astype(np.uint16) * 257


def with_orientation(form: str, im: Image.Image, value: int) -> bytes:
    """`im` as stored, and a file that says how to turn it."""
    options: Any = {
        "TIFF": {"tiffinfo": {274: value}, "compression": "tiff_lzw"},
        "AVIF": {"speed": 10},
        "WEBP": {"method": 0},
        "PNG": {"compress_level": 1},
    }.get(form, {})
    exif = {} if form == "TIFF" else {"exif": (b"Exif\0\0" if form == "JPEG" else b"") + corpus.exif_of(value)}
    return corpus.encode(im, form, **options, **exif)


def by_pillow(data: bytes) -> np.ndarray:
    """Upright, RGB, on white."""
    im = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if im.has_transparency_data:
        im = im.convert("RGBA")
        ground = Image.new("RGB", im.size, "white")
        ground.paste(im, mask=im.getchannel("A"))
        im = ground
    return np.asarray(im.convert("RGB"))


def in_srgb(data: bytes, mode: str = "RGB") -> np.ndarray:
    """The same through the profile in the file, by littlecms and in one piece."""
    im = Image.open(io.BytesIO(data))
    made = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(im.info["icc_profile"])),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGBA" if mode == "RGBA" else "RGB",
    )
    return np.asarray(ImageCms.applyTransform(im.convert(mode), made))


def furthest(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


async def collected(
    decoder: ChildDecoder, data: bytes, plan: DecodePlan, keep: Callable[[Picture], None] | None = None
) -> tuple[list[Input], Facts]:
    inputs: list[Input] = []

    async def deliver(delivered: Sequence[Input]) -> None:
        inputs.extend(delivered)

    facts = await decoder.decode(data, replace(plan, specs=(INPUT,)), deliver, keep=keep)
    return inputs, facts


async def outcome_of(work) -> tuple[str, object]:
    try:
        return OK, await work
    except MediaRefused as refused:
        return str(refused.refusal), None


@pytest.fixture
def shown(loop, decoder):
    """`shown(data)` is its picture."""
    return lambda data, **plan: loop.run_until_complete(decoder.picture(data, replace(PLAN, **plan)))


@pytest.fixture
def named(loop, decoder):
    """`named(data)` is the digest of what it shows."""
    return lambda data, **plan: loop.run_until_complete(decoder.frame_digest(data, replace(PLAN, **plan)))


@pytest.fixture
def probed(loop, decoder):
    return lambda data, **plan: loop.run_until_complete(decoder.probe(data, replace(PLAN, **plan)))


# --- pixels ------------------------------------------------------------------------------------------

EXACT = {
    "jpeg": lambda: corpus.plain("JPEG", large()),
    "jpeg-progressive": lambda: corpus.encode(large(), "JPEG", progressive=True, subsampling=0),
    "jpeg-grey": lambda: corpus.plain("JPEG", large().convert("L")),
    "jpeg-cmyk": lambda: corpus.encode(large().convert("CMYK"), "JPEG", quality=95),
    "png": lambda: corpus.plain("PNG", large()),
    "png-alpha": lambda: corpus.plain("PNG", with_alpha()),
    "png-grey-alpha": lambda: corpus.plain("PNG", with_alpha().convert("LA")),
    "png-palette": lambda: corpus.plain("PNG", in_palette()),
    "png-palette-and-transparency": lambda: corpus.encode(in_palette(), "PNG", transparency=bytes(range(0, 256, 4))),
    "png-palette-and-one-transparent": lambda: corpus.encode(in_palette(), "PNG", transparency=3),
    "png-of-one-bit": lambda: corpus.plain("PNG", large().convert("1")),
    "png-16-rgb": lambda: corpus.png(WIDTH, HEIGHT, 16, 2, corpus.rows_of(rgb16())),
    "png-16-rgba": lambda: corpus.png(WIDTH, HEIGHT, 16, 6, corpus.rows_of(np.asarray(with_alpha()).astype(np.uint16) * 257)),
    "webp": lambda: corpus.encode(large(), "WEBP", quality=80, method=0),
    "webp-lossless-alpha": lambda: corpus.encode(with_alpha(), "WEBP", lossless=True, method=0, quality=0, exact=True),
    "avif": lambda: corpus.encode(large(), "AVIF", quality=60, speed=10),
    "avif-alpha": lambda: corpus.encode(with_alpha(), "AVIF", quality=60, speed=10),
    "bmp": lambda: corpus.plain("BMP", large()),
    "bmp-palette": lambda: corpus.plain("BMP", in_palette()),
    "gif": lambda: corpus.plain("GIF", in_palette()),
    "gif-transparency": lambda: corpus.encode(in_palette(), "GIF", transparency=3),
    "tiff": lambda: corpus.plain("TIFF", large()),
    "tiff-uncompressed": lambda: corpus.encode(large(), "TIFF"),
    "tiff-cmyk": lambda: corpus.plain("TIFF", large().convert("CMYK")),
    "tiff-alpha": lambda: corpus.plain("TIFF", with_alpha()),
}


@functools.cache
def exact(name: str) -> bytes:
    return EXACT[name]()


@pytest.mark.parametrize("name", EXACT)
def test_a_picture_has_exactly_the_pixels_that_pillow_reads(shown, name):
    data = exact(name)
    picture = shown(data)
    assert np.array_equal(picture.pixels, by_pillow(data))
    assert (picture.facts.width, picture.facts.height) == (WIDTH, HEIGHT)
    assert picture.pixels.dtype == np.uint8


@pytest.mark.parametrize("name", ["png-alpha", "webp-lossless-alpha", "tiff-alpha"])
def test_alpha_is_laid_on_white(shown, name):
    picture = shown(exact(name))
    colours, covers = np.asarray(large()).astype(float), np.asarray(alpha())[:, :, None] / 255
    assert np.abs(picture.pixels - (colours * covers + 255 * (1 - covers))).max() <= 1
    assert picture.facts.renderings == ("on_white",)


def test_a_bmp_whose_alpha_is_empty_has_none_in_any_row(shown):
    pixels = np.asarray(large())
    emptied = shown(corpus.bmp32(np.zeros((HEIGHT, WIDTH), np.uint8), pixels))
    assert np.array_equal(emptied.pixels, pixels)
    covers = np.zeros((HEIGHT, WIDTH), np.uint8)
    covers[0] = 255  # one row of alpha anywhere makes the rest of it true
    cleared = shown(corpus.bmp32(covers, pixels))
    assert np.array_equal(cleared.pixels[0], pixels[0])
    assert (cleared.pixels[1:] == 255).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: corpus.png(WIDTH, HEIGHT, 16, 0, corpus.rows_of(grey16())),
        lambda: corpus.tiff(grey16(), (16,), 1),
        lambda: corpus.encode(Image.fromarray(grey16()), "TIFF", big_endian=True),
    ],
    ids=["png", "tiff", "big-endian"],
)
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(shown, build):
    picture = shown(build())
    assert np.abs(picture.pixels - np.repeat(grey16()[:, :, None], 3, axis=2) / 257).max() < 1


def test_cmyk_without_a_word_about_inks_is_read_as_most_viewers_do(shown):
    data = corpus.without_segments(corpus.encode(large().convert("CMYK"), "JPEG", quality=95), [0xEE])
    assert np.array_equal(shown(data).pixels, by_pillow(data))


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_every_orientation_comes_out_upright(shown, probed, form, value):
    data = with_orientation(form, large(), value)
    picture = shown(data)
    assert np.array_equal(picture.pixels, by_pillow(data))
    size = (HEIGHT, WIDTH) if value >= 5 else (WIDTH, HEIGHT)
    assert (picture.facts.width, picture.facts.height) == size
    assert (probed(data).width, probed(data).height) == size


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_that_means_nothing_turns_nothing(shown, form, value):
    if form == "TIFF":  # libtiff writes no such value
        upside_down = corpus.encode(large(), "TIFF", tiffinfo={274: 3})
        data = corpus.swap(upside_down, struct.pack("<HHIH", 274, 3, 1, 3), struct.pack("<HHIH", 274, 3, 1, value))
    else:
        data = with_orientation(form, large(), value)
    plain = corpus.encode(large(), form, **({"method": 0} if form == "WEBP" else {}))
    assert np.array_equal(shown(data).pixels, by_pillow(plain))


def test_what_exif_says_of_the_way_up_comes_before_what_xmp_says(shown):
    stored = corpus.stored_for(6)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + corpus.xmp_of('tiff:Orientation="3"')
    only_exif = corpus.with_segment(corpus.plain("JPEG", stored), 0xE1, b"Exif\0\0" + corpus.exif_of(6))
    both = corpus.with_segment(corpus.with_segment(corpus.plain("JPEG", stored), 0xE1, xmp), 0xE1, b"Exif\0\0" + corpus.exif_of(6))
    assert np.array_equal(shown(both).pixels, shown(only_exif).pixels)


# --- colour ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_wide_gamut_profile_is_carried_out(shown, form):
    data = corpus.encode(large(), form, icc_profile=corpus.profile(2.2, DISPLAY_P3), **({"speed": 10} if form == "AVIF" else {}))
    picture = shown(data)
    assert np.array_equal(picture.pixels, in_srgb(data))
    assert furthest(picture.pixels, by_pillow(data)) > 20
    assert picture.facts.renderings == ("icc",)


def test_display_p3_becomes_the_srgb_that_its_definition_says(shown):
    """By hand, through XYZ of D65: what littlecms does is not taken on trust."""
    to_xyz = np.array([[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0.0, 0.0451134, 1.0439444]])
    from_xyz = np.array([[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]])
    colours = np.array([[200, 100, 100], [90, 160, 90], [120, 120, 180], [128, 128, 128], [255, 255, 255], [0, 0, 0]])
    linear = np.clip((colours / 255) ** 2.2 @ to_xyz.T @ from_xyz.T, 0, 1)
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    patches = Image.fromarray(np.repeat(np.repeat(colours.astype(np.uint8)[None], 64, axis=0), 64, axis=1))
    picture = shown(corpus.encode(patches, "PNG", icc_profile=corpus.profile(2.2, DISPLAY_P3)))
    assert np.abs(picture.pixels[32, 32::64] - expected).max() < 3


def test_a_profile_and_alpha_and_a_turn_go_together(shown):
    profile = corpus.profile(1.8, DISPLAY_P3)
    data = corpus.encode(with_alpha(), "PNG", icc_profile=profile, exif=corpus.exif_of(7))
    picture = shown(data)
    seen = Image.fromarray(in_srgb(data, "RGBA"))
    ground = Image.new("RGB", seen.size, "white")
    ground.paste(seen, mask=seen.getchannel("A"))
    assert np.array_equal(picture.pixels, np.asarray(ground.transpose(Image.Transpose.TRANSVERSE)))
    assert picture.facts.renderings == ("icc_on_white",)


@pytest.mark.parametrize(
    "raw", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"nonsense" * 20], ids=["srgb", "none"]
)
def test_a_profile_that_says_nothing_new_changes_no_pixel(shown, raw):
    data = corpus.encode(large(), "PNG", icc_profile=raw)
    picture = shown(data)
    assert np.array_equal(picture.pixels, np.asarray(large()))
    assert picture.facts.renderings == ("plain",)


def test_the_gamma_of_a_png_is_carried_out(shown):
    data = corpus.with_chunk(corpus.plain("PNG", large()), corpus.chunk(b"gAMA", struct.pack(">I", 100_000)))
    linear = np.asarray(large()) / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    picture = shown(data)
    assert np.abs(picture.pixels - expected).max() < 3
    assert picture.facts.renderings == ("gamma",)


# --- facts and which picture -------------------------------------------------------------------------


def test_facts_are_those_of_one_still_picture(shown):
    facts = shown(exact("webp")).facts
    assert (facts.type, facts.kind, facts.frames, facts.frames_declared) == ("image/webp", MediaKind.IMAGE, 1, 1)
    assert (facts.duration_us, facts.renderings, facts.unscreened) == (None, ("plain",), ())


def test_what_else_is_in_the_file_is_listed(shown):
    by_name = {case.name: case for case in CASES}
    assert shown(by_name["jpeg-and-zip"].build()).facts.unscreened == (Unscreened.TRAILING_DATA,)
    assert shown(by_name["thumbnail"].build()).facts.unscreened == (Unscreened.THUMBNAIL,)


@pytest.mark.parametrize(
    "data",
    [
        *(corpus.animation(form, 2, 1) for form in ("GIF", "WEBP", "PNG", "AVIF")),
        corpus.apng(corpus.quiet(160, 120), [corpus.quiet(160, 120)]),
        corpus.still_beside_sequence(),
    ],
    ids=["gif", "webp", "png", "avif", "png-with-a-default-picture", "avif-still-beside-a-sequence"],
)
def test_an_animation_is_refused_as_one_and_the_child_lives(loop, decoder, data):
    before = decoder.pids
    outcome, _ = loop.run_until_complete(outcome_of(decoder.picture(data, PLAN)))
    assert outcome == Refusal.STILL_PICTURE_REQUIRED
    assert decoder.pids == before


def test_an_animation_of_one_frame_is_a_still_picture(shown):
    data = corpus.apng(None, [corpus.marked(160, 120)])
    assert np.array_equal(shown(data).pixels, np.asarray(corpus.marked(160, 120)))


def test_of_several_jpegs_the_first_is_shown(shown, probed):
    first = corpus.plain("JPEG", large())
    data = corpus.jpeg_pictures(first, corpus.plain("JPEG", corpus.quiet()))
    picture = shown(data)
    assert np.array_equal(picture.pixels, by_pillow(first))
    assert (picture.facts.frames, picture.facts.frames_declared) == (1, 2)
    assert (probed(data).width, probed(data).height, probed(data).frames) == (WIDTH, HEIGHT, 2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_is_refused_by_all_three_questions_or_shown_by_all(loop, decoder, case):
    async def ignore(_):
        pass

    async def story():
        plan = replace(PLAN, declared_type=case.declared)
        judged, facts = await outcome_of(decoder.decode(case.build(), replace(plan, specs=(INPUT,)), ignore))
        looked, probe = await outcome_of(decoder.probe(case.build(), plan))
        worked, picture = await outcome_of(decoder.picture(case.build(), plan))
        return judged, facts, looked, probe, worked, picture

    judged, facts, looked, probe, worked, picture = loop.run_until_complete(story())
    assert looked in (OK, judged)
    if judged != OK:
        # Screening alone cuts a picture into tiles, of which a very long one would need too many.
        assert worked in (judged, Refusal.STILL_PICTURE_REQUIRED, OK if case.name == "a-thread" else judged)
        return
    assert (probe.type, probe.width, probe.height, probe.frames) == (facts.type, facts.width, facts.height, facts.frames)
    if facts.kind is MediaKind.ANIMATION:
        assert worked == Refusal.STILL_PICTURE_REQUIRED
    else:
        assert picture.pixels.shape == (facts.height, facts.width, 3)
        assert set(picture.facts.unscreened) >= set(facts.unscreened)


def test_a_strict_plan_holds_for_pictures_and_probes(loop, decoder):
    data = corpus.plain("JPEG") + b"more"
    plan = replace(PLAN, strict=True)
    assert loop.run_until_complete(outcome_of(decoder.picture(data, plan)))[0] == Refusal.TRAILING_DATA
    assert loop.run_until_complete(outcome_of(decoder.probe(data, plan)))[0] == Refusal.TRAILING_DATA


# --- kept by the decoding that is screened -------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_what_is_kept_while_it_is_screened_is_the_picture_that_is_handed_out(loop, decoder, shown, name):
    kept: list[Picture] = []
    inputs, facts = loop.run_until_complete(collected(decoder, exact(name), PLAN, kept.append))
    (picture,) = kept
    assert np.array_equal(picture.pixels, shown(exact(name)).pixels)
    assert (picture.facts, picture.pixels.flags.writeable) == (facts, False)
    assert inputs


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_whatever_is_sent_is_judged_alike_and_kept_as_it_is_handed_out(loop, decoder, case):
    kept: list[Picture] = []
    alone = loop.run_until_complete(outcome_of(collected(decoder, case.build(), PLAN)))
    both = loop.run_until_complete(outcome_of(collected(decoder, case.build(), PLAN, kept.append)))
    worked, picture = loop.run_until_complete(outcome_of(decoder.picture(case.build(), PLAN)))
    assert both[0] == alone[0]
    if both[0] == OK and both[1][1].kind is MediaKind.IMAGE and both[1][1].frames == 1:
        assert both[1][1] == alone[1][1]
        assert worked == OK
        assert np.array_equal(kept[0].pixels, picture.pixels)
    else:
        assert kept == []
    if both[0] == OK:  # so that scores may be used again, whoever asked for them
        both_inputs, alone_inputs = both[1][0], alone[1][0]
        assert [(one.frame, one.rendering, one.region) for one in both_inputs] == [
            (one.frame, one.rendering, one.region) for one in alone_inputs
        ]
        assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(both_inputs, alone_inputs, strict=True))


def test_of_animations_and_videos_nothing_is_kept(loop, decoder):
    kept: list[Picture] = []
    assert loop.run_until_complete(collected(decoder, corpus.animation("GIF", 3, 1), PLAN, kept.append))[1].frames == 3
    assert loop.run_until_complete(collected(decoder, video_corpus.plain_clip(), PLAN, kept.append))[1].frames > 1
    assert kept == []


LIMITS = [
    (Limits(image_pixels=corpus.WIDTH * corpus.HEIGHT - 1), Refusal.DIMENSIONS_TOO_LARGE),
    (Limits(max_side=corpus.WIDTH - 1), Refusal.DIMENSIONS_TOO_LARGE),
    (Limits(min_side=corpus.HEIGHT + 1), Refusal.TOO_SMALL),
    (Limits(image_bytes=100), Refusal.PAYLOAD_TOO_LARGE),
]


@pytest.mark.parametrize(("limits", "refusal"), LIMITS)
@pytest.mark.parametrize("form", corpus.FORMATS)
def test_limits_of_the_plan_hold_for_pictures_and_probes_of_every_format(loop, decoder, form, limits, refusal):
    plan = replace(PLAN, limits=limits)
    assert loop.run_until_complete(outcome_of(decoder.picture(corpus.plain(form), plan)))[0] == refusal
    assert loop.run_until_complete(outcome_of(decoder.probe(corpus.plain(form), plan)))[0] == refusal


# --- digests -----------------------------------------------------------------------------------------


def documented(pixels: np.ndarray) -> str:
    """The digest of these pixels, written a second time."""
    height, width, _ = pixels.shape
    said = b"facegate frame 1\n" + struct.pack(">II", width, height) + pixels.tobytes()
    return f"sha256:{hashlib.sha256(said).hexdigest()}"


@pytest.mark.parametrize("name", EXACT)
def test_the_digest_is_the_documented_one_of_the_picture_that_is_handed_out(shown, named, name):
    assert named(exact(name)) == documented(shown(exact(name)).pixels)


def test_a_picture_of_many_rows_that_lies_turned_in_its_file_has_the_digest_of_what_is_shown(shown, named):
    noise = np.random.default_rng(5).integers(0, 256, (333, 500, 3), np.uint8)
    data = corpus.encode(Image.fromarray(noise), "JPEG", exif=b"Exif\0\0" + corpus.exif_of(6))
    assert shown(data).pixels.shape == (500, 333, 3)
    assert named(data) == documented(shown(data).pixels)


def test_a_jpeg_has_one_digest_and_the_same_picture_saved_again_another(shown, named):
    data = exact("jpeg")
    again = corpus.encode(Image.fromarray(shown(data).pixels), "JPEG", quality=90)
    assert named(data) == named(data) != named(again)


def test_metadata_does_not_change_the_digest(named):
    data = corpus.plain("JPEG")
    other = corpus.with_segment(corpus.with_segment(data, 0xFE, b"a comment"), 0xEB, b"JP\0\1" + bytes(600))
    assert named(other) == named(data)


def test_the_same_pixels_have_the_same_digest_in_every_lossless_format(named):
    assert len({named(exact(name)) for name in ("png", "bmp", "tiff", "tiff-uncompressed")}) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_what_we_made_is_named_as_it_is_screened_and_what_was_sent_is_not(loop, decoder, named, form):
    """Of a large JPEG that was sent, the decoder leaves out what no input can show."""
    noise = np.random.default_rng(6).integers(0, 256, (1100, 1500, 3), np.uint8)
    data = corpus.encode(Image.fromarray(noise), form)
    inputs, own = loop.run_until_complete(collected(decoder, data, replace(PLAN, own_bytes=1_000_000)))
    _, sent = loop.run_until_complete(collected(decoder, data, PLAN))
    assert (own.frame_digest, sent.frame_digest) == (named(data), None)
    assert own == replace(sent, frame_digest=named(data))
    assert inputs


def test_an_animation_that_we_would_have_made_has_no_digest_of_a_frame(loop, decoder):
    data = corpus.animation("GIF", 3, 1)
    assert loop.run_until_complete(collected(decoder, data, replace(PLAN, own_bytes=1_000_000)))[1].frame_digest is None


def test_neither_an_animation_nor_a_video_has_a_digest_of_its_frame(loop, decoder):
    with pytest.raises(MediaRefused, match="still_picture_required"):
        loop.run_until_complete(decoder.frame_digest(corpus.animation("GIF", 3, 1), PLAN))
    with pytest.raises(MediaRefused, match="unsupported_media_type"):
        loop.run_until_complete(decoder.frame_digest(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(64), PLAN))


def test_nobody_can_change_pixels_under_their_digest(shown):
    with pytest.raises(ValueError, match="read-only"):
        shown(corpus.plain("PNG")).pixels[0, 0] = 0


# --- probe -------------------------------------------------------------------------------------------


def without_pixels(form: str) -> bytes:
    """A file whose structure is sound and whose pixels are noise that no decoder takes."""
    noise = np.random.default_rng(3).bytes(400)
    if form == "PNG":
        head = corpus.chunk(b"IHDR", struct.pack(">IIBBBBB", 640, 480, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + corpus.chunk(b"IDAT", noise) + corpus.chunk(b"IEND", b"")
    if form == "GIF":
        return corpus.gif(640, 480, corpus.gif_frame(0, 0, 640, 480, b"\x0c\x04\xff\xff\xff\xff\x00"))
    data = bytearray(corpus.plain(form, corpus.quiet(640, 480)))
    at = {"WEBP": 40, "AVIF": data.find(b"mdat") + 8}[form]
    data[at:] = np.random.default_rng(3).bytes(len(data) - at)
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "AVIF"])
def test_a_probe_decodes_no_pixel(loop, decoder, probed, form):
    """Noise in the place of pixels is nothing to a probe, and the end for whoever decodes."""
    data = without_pixels(form)
    found = probed(data)
    assert (found.type, found.width, found.height, found.frames) == (f"image/{form.lower()}", 640, 480, 1)
    assert loop.run_until_complete(outcome_of(decoder.picture(data, PLAN)))[0] in (Refusal.DECODE_FAILED, Refusal.TRUNCATED)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_a_probe_counts_frames(probed, form):
    found = probed(corpus.animation(form, 6, 3))
    assert (found.width, found.height, found.frames) == (160, 120, 6)


@pytest.mark.parametrize("form", corpus.FORMATS)
def test_a_file_cut_anywhere_is_refused_by_a_probe(loop, decoder, form):
    whole = corpus.plain(form, corpus.quiet(64, 48))
    for cut in np.random.default_rng(1).integers(1, len(whole), 40):
        outcome, _ = loop.run_until_complete(outcome_of(decoder.probe(whole[:cut], PLAN)))
        assert outcome in (Refusal.TRUNCATED, Refusal.DECODE_FAILED, Refusal.UNSUPPORTED_MEDIA_TYPE), cut


def test_a_probe_says_what_is_wrong_with_what_is_no_picture(loop, decoder):
    for name, refusal in {
        "empty": Refusal.EMPTY_BODY,
        "zip": Refusal.UNSUPPORTED_MEDIA_TYPE,
        "png-of-31": Refusal.TOO_SMALL,
        "png-of-169-megapixels": Refusal.DIMENSIONS_TOO_LARGE,
        "gif-of-100000": Refusal.TOO_MANY_FRAMES,
        "thousand-scans": Refusal.DECODE_TOO_SLOW,
        "text-that-unfolds": Refusal.DECODE_FAILED,
    }.items():
        data = next(case for case in CASES if case.name == name).build()
        assert loop.run_until_complete(outcome_of(decoder.probe(data, PLAN)))[0] == refusal, name


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bombs() -> dict[str, bytes]:
    """Small files that take seconds or gigabytes to decode; the first two are within all limits."""
    row = b"\0" + bytes(4 * 8000)
    return {
        "png": corpus.png(8000, 8000, 8, 6, row * 8000),
        "apng": corpus.apng(None, [Image.new("RGB", (1000, 1000))] * 50),
        "webp": corpus.webp_canvas(16384, 16384),
        "unfolding": next(case for case in CASES if case.name == "itxt-that-unfolds").build(),
        "avif": corpus.avif_sized(17000, 17000),
    }


def test_a_bomb_is_probed_in_milliseconds():
    async def story():
        decoder = ChildDecoder(1)
        await decoder.start()
        try:
            (pid,) = decoder.pids
            for name, data in bombs().items():
                before = processor_s(pid)
                outcome, _ = await outcome_of(decoder.probe(data, PLAN))
                assert (outcome == OK) is (name in ("png", "apng")), name
                assert processor_s(pid) - before < 0.15, name
            assert decoder.pids == (pid,)
        finally:
            await decoder.close()

    asyncio.run(story())


# --- property: no bytes whatever do anything but come out or be refused ------------------------------


@pytest.mark.parametrize("form", corpus.FORMATS)
def test_flipped_bits_are_shown_or_refused(loop, decoder, form):
    whole = corpus.plain(form)
    chance = np.random.default_rng(5)
    plan = replace(PLAN, limits=Limits(decode_cpu_s=3, decode_wall_s=6))
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(4):
            data[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
        for question in (decoder.picture, decoder.probe):
            outcome, _ = loop.run_until_complete(outcome_of(question(bytes(data), plan)))
            assert outcome in {OK, *map(str, Refusal)}


def test_nothing_is_imported_while_a_picture_is_made(tmp_path):
    """After confinement no file can be opened, so a late import would make a good file look broken."""
    files = [data for case in CASES if "cut-at" not in case.name and len(data := case.build()) < 100_000]
    files += [exact(name) for name in EXACT]
    for number, data in enumerate(files):
        (tmp_path / f"{number:03}").write_bytes(data)
    script = """
import sys
from pathlib import Path
from moderation.adapters.decode import child, pictures
from moderation.adapters.decode.sniff import sniff
from moderation.adapters.decode.task import Refused, Task
pictures.prepare()
child._version()
before = set(sys.modules)
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    form = sniff(data)
    task = form and Task(form=form, specs=(), strict=False, image_pixels=10**7, total_pixels=10**8, min_side=32, max_side=30000, frames=300)
    for ask in (lambda: pictures.probe(data, task), lambda: pictures.picture(data, task, lambda made: made.rows(0, 9).tobytes())):
        try:
            if form:
                ask()
        except Refused:
            pass
print(sorted(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"


# --- size --------------------------------------------------------------------------------------------


def run(story, **settings):
    """Run `story(decoder)` with a decoder of one child."""

    async def told():
        decoder = ChildDecoder(1, **settings)
        await decoder.start()
        try:
            return await story(decoder)
        finally:
            await decoder.close()

    return asyncio.run(told())


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sixty_four_megapixels(form: str) -> bytes:
    """Half-transparent in two colours, the upper left quarter in another; WebP needs the most memory of all formats."""
    if form == "PNG":
        left, right = bytes([200, 100, 50, 128]), bytes([0, 0, 0, 128])
        row, quarter = b"\0" + left * 8000, b"\0" + right * 4000 + left * 4000
        return corpus.with_chunk(corpus.png(8000, 8000, 8, 6, quarter * 4000 + row * 4000), corpus.chunk(b"eXIf", corpus.exif_of(6)))
    im = Image.new("RGBA", (8000, 8000), (200, 100, 50, 128))
    im.paste((0, 0, 0, 128), (0, 0, 4000, 4000))
    return corpus.encode(im, "WEBP", lossless=True, method=0, quality=0, exif=corpus.exif_of(6))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_the_largest_picture_allowed_comes_out_whole_and_its_memory_is_given_back(form):
    data = sixty_four_megapixels(form)

    async def story(decoder):
        (pid,) = decoder.pids
        await decoder.picture(corpus.plain(form), PLAN)
        before = resident_bytes(pid)
        picture = await decoder.picture(data, PLAN)
        assert picture.pixels.shape == (8000, 8000, 3)
        expected = np.full((8000, 8000, 3), (227, 177, 152), np.uint8)
        expected[:4000, 4000:] = 127  # a quarter turn to the right
        assert np.array_equal(picture.pixels, expected)
        # The two halves of the output area stay, and what little the allocator keeps; a copy of the picture would be 256 MB.
        assert resident_bytes(pid) - before < 2 * wire.HALF_BYTES + 60_000_000
        assert decoder.bytes_in_flight == 0
        assert (await decoder.picture(corpus.plain(form), PLAN)).facts.width == corpus.WIDTH
        assert decoder.pids == (pid,)

    run(story)


def test_a_picture_that_needs_more_memory_than_there_is_is_refused_and_the_child_lives():
    async def story(decoder):
        (pid,) = decoder.pids
        data = corpus.png(7000, 7000, 8, 2, (b"\0" + bytes(3 * 7000)) * 7000)
        assert (await outcome_of(decoder.picture(data, PLAN)))[0] == Refusal.DIMENSIONS_TOO_LARGE
        assert np.array_equal((await decoder.picture(corpus.plain("PNG"), PLAN)).pixels, np.asarray(corpus.marked()))
        assert decoder.pids == (pid,)

    run(story, memory_bytes=100_000_000)


# --- children that die, are stopped or cancelled between two bands -----------------------------------


@pytest.fixture
def band(monkeypatch):
    """An event that is set once the parent has copied the first band of a picture."""
    arrived = asyncio.Event()
    copy = pool._Showing.copy_rows

    def watched(self, *asked):
        count = copy(self, *asked)
        arrived.set()
        return count

    monkeypatch.setattr(pool._Showing, "copy_rows", watched)
    return arrived


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Twenty-six bands, which take a child a second or so."""
    return corpus.encode(Image.new("RGB", (6000, 6000), "red"), "PNG", compress_level=1, icc_profile=corpus.profile(2.2, DISPLAY_P3))


def test_a_cancelled_picture_kills_its_child_and_never_answers_the_next_one(band, slow):
    async def story(decoder):
        (pid,) = decoder.pids
        task = asyncio.create_task(decoder.picture(slow, PLAN))
        await band.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pid not in decoder.pids
        assert decoder.bytes_in_flight == 0
        assert np.array_equal((await decoder.picture(corpus.plain("PNG"), PLAN)).pixels, np.asarray(corpus.marked()))
        assert (await decoder.probe(corpus.plain("PNG"), PLAN)).width == corpus.WIDTH

    run(story)


@pytest.mark.parametrize("delay", [0, 0.001, 0.01, 0.05, 0.2])
def test_a_picture_cancelled_at_any_time_never_answers_the_next_one(slow, delay):
    async def story(decoder):
        task = asyncio.create_task(decoder.picture(slow, PLAN))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert np.array_equal((await decoder.picture(corpus.plain("PNG"), PLAN)).pixels, np.asarray(corpus.marked()))

    run(story)


@pytest.mark.parametrize(
    ("number", "refusal"),
    [
        (signal.SIGKILL, None),
        (signal.SIGSEGV, Refusal.DECODE_FAILED),
        (signal.SIGXCPU, Refusal.DECODE_TOO_SLOW),
        (signal.SIGSTOP, Refusal.DECODE_TOO_SLOW),
    ],
    ids=["killed", "crashed", "out-of-time", "stopped"],
)
def test_a_child_lost_between_two_bands_gives_no_picture(band, slow, number, refusal):
    async def story(decoder):
        (pid,) = decoder.pids
        task = asyncio.create_task(decoder.picture(slow, replace(PLAN, limits=Limits(decode_wall_s=4))))
        await band.wait()
        os.kill(pid, number)
        with pytest.raises(MediaRefused if refusal else DecoderUnavailable) as error:
            await task
        assert getattr(error.value, "refusal", None) is refusal
        assert pid not in decoder.pids
        assert (await decoder.picture(corpus.plain("PNG"), PLAN)).facts.width == corpus.WIDTH

    run(story)


def test_what_does_not_fit_beside_the_media_in_flight_is_turned_away(slow):
    async def story(decoder):
        task = asyncio.create_task(decoder.picture(slow, PLAN))
        await asyncio.sleep(0)
        for question in (decoder.picture, decoder.probe):
            with pytest.raises(Overloaded):
                await question(slow, PLAN)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert decoder.bytes_in_flight == 0

    run(story, max_bytes_in_flight=len(slow) + 10)


def test_a_decoder_that_is_closed_shows_and_probes_nothing():
    async def story(decoder):
        await decoder.close()
        for question in (decoder.picture, decoder.probe):
            with pytest.raises(DecoderUnavailable):
                await question(corpus.plain("PNG"), PLAN)

    run(story)


# --- a child that is somebody else's by now ----------------------------------------------------------

GOOD_FACTS = {
    "animated": False,
    "width": 8,
    "height": 6,
    "frames": 1,
    "frames_declared": 1,
    "duration_us": None,
    "unscreened": [],
    "renderings": ["plain"],
}
BEGUN = {"t": "picture", "width": 8, "height": 6}


def rows(first, count, at=OUTPUT):
    return {"t": "rows", "first": first, "count": count, "at": at}


def done(inputs=(), **facts):
    return {"t": "done", "facts": {**GOOD_FACTS, **facts}, "inputs": list(inputs)}


LIES = {
    "no-picture": [done()],
    "rows-of-nothing": [rows(0, 6), done()],
    "no-rows": [BEGUN, done()],
    "too-few-rows": [BEGUN, rows(0, 5), done()],
    "too-many-rows": [BEGUN, rows(0, 7), done()],
    "one-row-too-many": [BEGUN, rows(0, 6), rows(6, 1), done()],
    "a-gap": [BEGUN, rows(0, 3), rows(4, 2), done()],
    "a-gap-at-the-top": [BEGUN, rows(1, 5), done()],
    "an-overlap": [BEGUN, rows(0, 3), rows(2, 4), done()],
    "the-same-rows-twice": [BEGUN, rows(0, 3), rows(0, 3), done()],
    "no-row-at-a-time": [BEGUN, rows(0, 0), rows(0, 6), done()],
    "fewer-than-no-rows": [BEGUN, rows(0, 6), rows(6, -1), done()],
    "rows-before-the-first": [BEGUN, rows(-1, 7), done()],
    "rows-that-are-no-number": [BEGUN, rows(0, "6"), done()],
    "rows-that-are-true": [BEGUN, rows(False, 6), done()],
    "rows-without-a-place": [BEGUN, {"t": "rows", "first": 0, "count": 6}, done()],
    "rows-of-the-file": [BEGUN, rows(0, 6, 0), done()],
    "rows-before-the-output": [BEGUN, rows(0, 6, OUTPUT - 1), done()],
    "rows-past-the-map": [BEGUN, rows(0, 6, OUTPUT + 2 * wire.HALF_BYTES - 8 * 6 * 3 + 1), done()],
    "rows-far-away": [BEGUN, rows(0, 6, 10**15), done()],
    "begun-twice": [BEGUN, rows(0, 6), BEGUN, done()],
    "no-width": [{"t": "picture", "width": 0, "height": 6}],
    "no-height": [{"t": "picture", "width": 8}],
    "too-wide": [{"t": "picture", "width": 30_001, "height": 1}],
    "too-high": [{"t": "picture", "width": 1, "height": 30_001}],
    "too-many-pixels": [{"t": "picture", "width": 8000, "height": 8001}],
    "more-than-a-half-at-once": [{"t": "picture", "width": 8000, "height": 8000}, rows(0, wire.HALF_BYTES // 24_000 + 1)],
    "another-width": [BEGUN, rows(0, 6), done(width=7)],
    "another-height": [BEGUN, rows(0, 6), done(height=5)],
    "turned": [BEGUN, rows(0, 6), done(width=6, height=8)],
    "an-animation": [BEGUN, rows(0, 6), done(animated=True)],
    "two-frames": [BEGUN, rows(0, 6), done(frames=2)],
    "with-an-input": [BEGUN, rows(0, 6), done([[0, 0, None, "plain", 0, 0, 8, 6, OUTPUT]])],
    "inputs": [{"t": "inputs", "inputs": []}],
    "no-facts": [BEGUN, rows(0, 6), {"t": "done"}],
    "unheard-of": [BEGUN, rows(0, 6), {"t": "finished"}],
    "nonsense": [BEGUN, b"\xff"],
    "silence": [BEGUN, rows(0, 6), b""],
}


def exchange(kind, *messages):
    async def story():
        child: Any = Impostor(*messages)
        child.map[OUTPUT : OUTPUT + 144] = bytes(range(144))
        try:
            return await kind(child, b"x" * 100, pool.Format.PNG, PLAN).run()
        finally:
            child.close()

    return asyncio.run(story())


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_lies_about_a_picture_is_not_believed(lie):
    with pytest.raises((MediaRefused, DecoderUnavailable)) as error:
        exchange(pool._Showing, *LIES[lie])
    assert not isinstance(error.value, pool._Orderly)


def screening(child, data, form, plan, *, wanted=True):
    """Of a picture that is wanted in full, or not."""
    spec = make_spec(width=4, height=4)
    kept: list[Picture] = []

    async def ignore(_: Sequence[Input]) -> None:
        pass

    exchange = pool._Screening(child, data, form, replace(plan, specs=(spec,)), ignore, kept.append if wanted else None)
    exchange.kept = kept
    return exchange


VIEW = [0, 0, None, "plain", 0, 0, 8, 6, OUTPUT + 4096]


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie not in ("with-an-input", "inputs", "an-animation", "two-frames")])
def test_a_child_that_lies_about_a_picture_while_it_is_screened_is_not_believed(lie):
    messages = [
        {**message, "inputs": [VIEW]} if isinstance(message, dict) and message.get("t") == "done" and "facts" in message else message
        for message in LIES[lie]
    ]
    with pytest.raises((MediaRefused, DecoderUnavailable)) as error:
        exchange(screening, *messages)
    assert not isinstance(error.value, pool._Orderly)


def test_a_picture_that_nobody_wants_in_full_is_a_lie():
    with pytest.raises(MediaRefused, match="misbehaved"):
        exchange(functools.partial(screening, wanted=False), BEGUN, rows(0, 6), done([VIEW]))


def test_a_child_that_tells_the_truth_while_it_screens_is_believed():
    facts = exchange(screening, {"t": "inputs", "inputs": [VIEW]}, BEGUN, rows(0, 6), done())
    assert facts.frames == 1


def test_a_child_that_tells_the_truth_about_a_picture_is_believed():
    picture = exchange(pool._Showing, BEGUN, rows(0, 4), rows(4, 2, OUTPUT + 96), done())
    assert picture.pixels.tobytes() == bytes(range(144))


def test_rows_that_wait_already_leave_others_their_turn():
    async def story():
        child: Any = Impostor(BEGUN, *(rows(row, 1) for row in range(6)), done())
        task = asyncio.create_task(pool._Showing(child, b"x" * 100, pool.Format.PNG, PLAN).run())
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        child.close()
        assert task.result().pixels.shape == (6, 8, 3)
        return turns

    assert asyncio.run(story()) > 6


def test_a_size_is_checked_before_there_is_room_for_it(monkeypatch):
    """A child must not be able to make its parent ask for memory."""
    asked = []
    monkeypatch.setattr(pool.np, "empty", lambda *args: asked.append(args))
    for lie in ("too-wide", "too-high", "too-many-pixels"):
        with pytest.raises(MediaRefused):
            exchange(pool._Showing, *LIES[lie])
    assert asked == []


@pytest.mark.parametrize(
    "message",
    [
        {"t": "done", "facts": {"width": 8, "height": 6}, "inputs": []},
        {"t": "done", "facts": {"width": 0, "height": 6, "frames": 1}, "inputs": []},
        {"t": "done", "facts": {"width": 8000, "height": 8001, "frames": 1}, "inputs": []},
        {"t": "done", "facts": {"width": 8, "height": 6, "frames": 301}, "inputs": []},
        {"t": "done", "facts": {"width": 8, "height": 6, "frames": "1"}, "inputs": []},
        {"t": "done", "facts": {"width": 8, "height": 6, "frames": 1}, "inputs": [[]]},
        {"t": "done", "facts": [8, 6, 1], "inputs": []},
        {"t": "inputs", "inputs": []},
        BEGUN,
        b"",
    ],
    ids=lambda message: str(message)[:60],
)
def test_a_child_that_lies_to_a_probe_is_not_believed(message):
    with pytest.raises((MediaRefused, DecoderUnavailable)) as error:
        exchange(pool._Probing, message)
    assert not isinstance(error.value, pool._Orderly)


LYING_CHILD = """
import sys
sys.path[:0] = sys.argv[1].split(chr(10))
from moderation.adapters.decode import child
truth = child._Outlet._send
def lie(self, message):
    if message.get("t") == "rows" and message["first"]:
        message["first"] -= 1
    truth(self, message)
child._Outlet._send = lie
child.main(sys.argv[2])
"""


def test_a_real_child_that_lies_is_killed_and_replaced(monkeypatch):
    honest = pool._BOOT
    monkeypatch.setattr(pool, "_BOOT", LYING_CHILD)

    async def story(decoder):
        (pid,) = decoder.pids
        assert (await decoder.picture(corpus.plain("PNG"), PLAN)).facts.width == corpus.WIDTH  # one band leaves no room for this lie
        (child,) = decoder._pictures.living
        monkeypatch.setattr(pool, "_BOOT", honest)
        outcome, _ = await outcome_of(decoder.picture(exact("png"), PLAN))
        assert outcome == Refusal.DECODE_FAILED
        assert pid not in decoder.pids
        assert await child.exit == -signal.SIGKILL
        assert np.array_equal((await decoder.picture(exact("png"), PLAN)).pixels, np.asarray(large()))

    run(story)


def test_messages_of_an_impostor_lie_where_those_of_a_child_do():
    assert ChildDecoder()._max_media_bytes == INPUT_BYTES
