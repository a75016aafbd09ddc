"""Every row of the table of bad inputs that is about bytes, as a file, through the real children."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.adapters.classifiers.correlation import INPUT, SURE, find_marker, plant_marker
from moderation.errors import MediaRefused, Refusal
from moderation.frames import DecodePlan, Fit, InputSpec, Limits
from moderation.media import MediaKind, Unscreened
from tests import corpus
from tests.corpus import CASES, OK

SURE_ENOUGH = SURE - 0.05


async def decoded(decoder, data, **plan):
    """(outcome, facts, inputs): the outcome is `ok` or the refusal's code."""
    inputs = []

    async def deliver(batch):
        inputs.extend(batch)

    try:
        facts = await decoder.decode(data, DecodePlan(**{"specs": (INPUT,), **plan}), deliver)
    except MediaRefused as refused:
        return str(refused.refusal), None, inputs
    return OK, facts, inputs


def best_match(inputs) -> float:
    return max(find_marker(item.pixels).correlation for item in inputs)


@pytest.mark.parametrize("strict", [False, True], ids=["gated", "strict"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_bad_input_gets_the_answer_of_the_table(loop, decoder, case, strict):
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, case.build(), strict=strict, declared_type=case.declared))
    assert outcome in (case.strict if strict else case.expect)
    if outcome == OK:
        assert {item.frame for item in inputs} == set(range(facts.frames))
        assert all(item.pixels.shape == (INPUT.height, INPUT.width, 3) for item in inputs)
        assert set(facts.renderings) == {item.rendering for item in inputs}
        if case.found:
            assert best_match(inputs) >= SURE_ENOUGH


def test_the_pictures_without_the_marker_are_told_from_those_with_it(loop, decoder):
    for form in corpus.FORMATS:
        _, _, inputs = loop.run_until_complete(decoded(decoder, corpus.plain(form, corpus.quiet())))
        assert best_match(inputs) < 0.65


def facts_of(loop, decoder, data, **plan):
    outcome, facts, _ = loop.run_until_complete(decoded(decoder, data, **plan))
    assert outcome == OK
    return facts


def test_facts_name_type_kind_and_size(loop, decoder):
    for form in corpus.FORMATS:
        facts = facts_of(loop, decoder, corpus.plain(form))
        assert (facts.type, facts.kind, facts.width, facts.height, facts.frames) == (
            f"image/{form.lower()}",
            MediaKind.IMAGE,
            corpus.WIDTH,
            corpus.HEIGHT,
            1,
        )
        assert facts.duration_us is None


def test_width_and_height_are_those_of_the_upright_frame(loop, decoder):
    data = corpus.with_segment(corpus.plain("JPEG", corpus.stored_for(6)), 0xE1, b"Exif\0\0" + corpus.exif_of(6))
    facts = facts_of(loop, decoder, data)
    assert (facts.width, facts.height) == (corpus.WIDTH, corpus.HEIGHT)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_has_every_frame_with_its_time(loop, decoder, form):
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, corpus.animation(form, 6, 3)))
    assert outcome == OK
    assert (facts.kind, facts.frames, facts.frames_declared) == (MediaKind.ANIMATION, 6, 6)
    times = [item.time_us for item in inputs]
    assert times == sorted(times)
    assert times[:3] == [0, 40_000, 80_000]
    assert facts.duration_us == 240_000
    assert {item.frame for item in inputs if find_marker(item.pixels).correlation > SURE_ENOUGH} == {3}


def test_every_picture_of_an_mpo_is_a_frame_without_time(loop, decoder):
    data = corpus.jpeg_pictures(corpus.plain("JPEG", corpus.quiet()), corpus.plain("JPEG"))
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, data))
    assert (outcome, facts.kind, facts.frames) == (OK, MediaKind.IMAGE, 2)
    assert [(item.frame, item.time_us) for item in inputs] == [(0, None), (1, None)]


def test_what_was_not_judged_is_listed(loop, decoder):
    by_name = {case.name: case for case in CASES}
    for name, expected in {
        "jpeg-and-zip": (Unscreened.TRAILING_DATA,),
        "junk-between-jpeg-segments": (Unscreened.TRAILING_DATA,),
        "padding-between-jpeg-segments": (),
        "gain-map": (Unscreened.GAIN_MAP,),
        "thumbnail": (Unscreened.THUMBNAIL,),
        "plain-jpeg": (),
        "jpeg-and-padding": (),
    }.items():
        assert facts_of(loop, decoder, by_name[name].build()).unscreened == expected


@pytest.mark.parametrize(
    ("what", "becomes"), [(b":auxiliary:alpha", b":auxiliary:depth"), (b"av01Alpha", b"tmapAlpha")], ids=["depth", "gain map"]
)
def test_what_an_avif_carries_beside_its_picture_is_listed_and_strictly_refused(loop, decoder, what, becomes):
    """Rows 46 and 53: viewers show neither, so the marker in it is in no input."""
    data = corpus.swap(corpus.encode(corpus.swap_alpha_to(255), "AVIF", quality=85), what, becomes)
    outcome, facts, inputs = loop.run_until_complete(decoded(decoder, data))
    assert (outcome, facts.unscreened) == (OK, (Unscreened.GAIN_MAP,))
    assert best_match(inputs) < 0.65
    assert loop.run_until_complete(decoded(decoder, data, strict=True))[0] == Refusal.AMBIGUOUS_RENDERING


def test_a_strict_caller_gets_the_embedded_thumbnail_screened(loop, decoder):
    data = next(case for case in CASES if case.name == "thumbnail").build()
    _, facts, inputs = loop.run_until_complete(decoded(decoder, data, strict=True))
    assert facts.unscreened == ()
    assert best_match([item for item in inputs if item.rendering == "thumbnail"]) >= SURE_ENOUGH


def test_sixteen_bits_are_scaled_and_not_clipped(loop, decoder):
    ramp = np.tile(np.linspace(0, 65535, corpus.WIDTH).astype(np.uint16), (corpus.HEIGHT, 1))
    data = corpus.png(corpus.WIDTH, corpus.HEIGHT, 16, 0, corpus.rows_of(ramp))
    _, _, inputs = loop.run_until_complete(decoded(decoder, data, specs=(InputSpec(width=256, height=64, fit=Fit.STRETCH),)))
    means = inputs[0].pixels[:, :, 0].mean(axis=0)
    assert np.abs(means - np.arange(256)).max() < 3


def test_cmyk_has_the_right_colours(loop, decoder):
    red = corpus.encode(Image.new("RGB", (64, 64), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    _, _, inputs = loop.run_until_complete(decoded(decoder, red, specs=(InputSpec(width=32, height=32, fit=Fit.STRETCH),)))
    assert np.abs(inputs[0].pixels.astype(int) - (200, 30, 30)).max() < 6


def test_an_opaque_picture_with_alpha_is_shown_once(loop, decoder):
    data = corpus.encode(corpus.marked().convert("RGBA"), "PNG")
    _, facts, inputs = loop.run_until_complete(decoded(decoder, data))
    assert facts.renderings == ("plain",)
    assert len(inputs) == 1


# --- scaling and tiles ------------------------------------------------------------------------------


def test_an_image_that_only_careless_scaling_would_show_is_not_seen(loop, decoder):
    """The scaling attack: sparse pixels that nearest-neighbour sampling would pick spell the marker."""
    scale = 5
    small = np.asarray(corpus.marked(320, 320, 0.5))
    large = np.asarray(corpus.quiet(320 * scale, 320 * scale)).copy()
    large[scale // 2 :: scale, scale // 2 :: scale] = small
    _, _, inputs = loop.run_until_complete(decoded(decoder, corpus.encode(Image.fromarray(large), "PNG")))
    assert find_marker(large[scale // 2 :: scale, scale // 2 :: scale]).correlation > SURE_ENOUGH
    shown = inputs[0].pixels.astype(float)
    averaged = np.asarray(Image.fromarray(large).resize((320, 320), Image.Resampling.BOX)).astype(float)
    assert np.abs(shown - averaged).mean() < 6


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("size", [(3000, 200), (200, 3000), (1400, 100)])
def test_a_marker_in_a_long_picture_is_found_wherever_it_is(loop, decoder, size, place):
    planted = plant_marker(np.asarray(corpus.quiet(*size)), share=0.5 * min(size) ** 2 / (size[0] * size[1]), left=place, top=place)
    _, _, inputs = loop.run_until_complete(decoded(decoder, corpus.encode(Image.fromarray(planted), "PNG")))
    assert best_match(inputs) >= SURE_ENOUGH


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (900, 200), (224, 224), (64, 1600)])
@pytest.mark.parametrize("fit", list(Fit))
def test_inputs_together_show_every_pixel(loop, decoder, size, fit):
    spec = InputSpec(width=224, height=224, fit=fit, resize_to=256 if fit is Fit.CROP else None)
    _, facts, inputs = loop.run_until_complete(decoded(decoder, corpus.encode(corpus.quiet(*size), "PNG"), specs=(spec,)))
    covered = np.zeros((facts.height, facts.width), bool)
    for item in inputs:
        left, top, width, height = item.region
        assert left + width <= facts.width
        assert top + height <= facts.height
        if item.region != (0, 0, *size) or len(inputs) == 1:
            covered[top : top + height, left : left + width] = True
    assert covered.all()


def test_a_region_is_what_the_input_shows(loop, decoder):
    frame = np.zeros((300, 600, 3), np.uint8)
    frame[:, 400:440] = 255
    spec = InputSpec(width=100, height=100, fit=Fit.CROP, resize_to=100)
    _, _, inputs = loop.run_until_complete(decoded(decoder, corpus.encode(Image.fromarray(frame), "PNG"), specs=(spec,)))
    lit = [item for item in inputs if item.pixels.max() > 200]
    for item in lit:
        column = int(item.pixels[:, :, 0].mean(axis=0).argmax())
        left, _, width, _ = spec.region_box((column, 0, 1, 1), item.region)
        assert 395 <= left <= 440
        assert width >= 1
    assert lit


def test_the_scaled_decoder_changes_little(loop, decoder):
    """A JPEG large enough to be scaled while decoding looks like its PNG twin."""
    large = corpus.marked(2400, 1800)
    seen = []
    for form in ("JPEG", "PNG"):
        _, _, inputs = loop.run_until_complete(decoded(decoder, corpus.encode(large, form, **({"quality": 95} if form == "JPEG" else {}))))
        seen.append(inputs[0].pixels.astype(float))
    assert np.abs(seen[0] - seen[1]).mean() < 2


def test_several_specs_each_get_every_frame(loop, decoder):
    specs = (INPUT, InputSpec(width=224, height=224, fit=Fit.CROP, resize_to=256), InputSpec(width=64, height=32, fit=Fit.STRETCH))
    _, facts, inputs = loop.run_until_complete(decoded(decoder, corpus.animation("WEBP", 42, 41, quality=85), specs=specs))
    assert facts.frames == 42
    assert {(item.frame, item.spec) for item in inputs} == {(frame, spec) for frame in range(42) for spec in specs}
    assert [item.frame for item in inputs] == sorted(item.frame for item in inputs)


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "refusal"),
    [(Limits(image_pixels=WHOLE - 1), Refusal.DIMENSIONS_TOO_LARGE) for WHOLE in (corpus.WIDTH * corpus.HEIGHT,)]
    + [
        (Limits(max_side=corpus.WIDTH - 1), Refusal.DIMENSIONS_TOO_LARGE),
        (Limits(min_side=corpus.HEIGHT + 1), Refusal.TOO_SMALL),
        (Limits(image_bytes=100), Refusal.PAYLOAD_TOO_LARGE),
    ],
)
@pytest.mark.parametrize("form", corpus.FORMATS)
def test_limits_of_the_plan_hold_for_every_format(loop, decoder, form, limits, refusal):
    outcome, _, inputs = loop.run_until_complete(decoded(decoder, corpus.plain(form), limits=limits))
    assert outcome == refusal
    assert not inputs


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_frames_and_their_pixels_together_are_limited(loop, decoder, form):
    data = corpus.animation(form, 6, 3)
    assert loop.run_until_complete(decoded(decoder, data, limits=Limits(frames=5)))[0] == Refusal.TOO_MANY_FRAMES
    assert loop.run_until_complete(decoded(decoder, data, limits=Limits(total_pixels=5 * 160 * 120)))[0] == Refusal.DIMENSIONS_TOO_LARGE
    assert loop.run_until_complete(decoded(decoder, data, limits=Limits(frames=6, total_pixels=6 * 160 * 120)))[0] == OK


# --- property: no bytes whatever do anything but decode or be refused ---------------------------------


@pytest.mark.parametrize("form", [*corpus.FORMATS, "animated GIF", "animated WEBP", "animated PNG"])
def test_flipped_bits_are_decoded_or_refused(loop, decoder, form):
    whole = corpus.animation(form.split()[1], 6, 1) if " " in form else corpus.plain(form)
    outcomes = set()
    for seed in range(60):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(4):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        outcomes.add(loop.run_until_complete(decoded(decoder, bytes(data), limits=Limits(decode_cpu_s=3, decode_wall_s=6)))[0])
    assert outcomes <= {OK, *map(str, Refusal)}


@pytest.mark.parametrize("form", corpus.FORMATS)
def test_a_file_cut_anywhere_is_never_taken_for_a_picture(loop, decoder, form):
    whole = corpus.plain(form, corpus.quiet(64, 48))
    for seed in range(40):
        cut = random.Random(seed).randrange(1, len(whole))
        outcome, _, _ = loop.run_until_complete(decoded(decoder, whole[:cut]))
        assert outcome not in (OK, Refusal.TOO_SMALL), cut


def test_noise_behind_every_magic_is_refused(loop, decoder):
    chance = random.Random(11)
    for case in (case for case in CASES if case.row == 0):
        head = case.build()[:40]
        for length in (0, 10, 1000, 100_000):
            outcome, _, _ = loop.run_until_complete(decoded(decoder, head + chance.randbytes(length)))
            assert outcome != OK


def test_nothing_is_imported_while_decoding(tmp_path):
    """After confinement no file can be opened, so a late import would make a good file look broken."""
    (tmp_path / "files").mkdir()
    for number, case in enumerate(case for case in CASES if "cut-at" not in case.name):
        (tmp_path / "files" / f"{number:03}").write_bytes(case.build())
    script = """
import sys
from pathlib import Path
from PIL import Image
from moderation.adapters.decode import child, pictures
from moderation.adapters.decode.sniff import sniff
from moderation.adapters.decode.task import Refused, Task
from moderation.adapters.decode.views import Spec
class Looking:
    def put(self, view): view.pixels.tobytes()
    def send(self): pass
    def show(self, upright): upright.rows(0, 1)
pictures.prepare()
child._version()
before = set(sys.modules)
spec = Spec(0, 64, 64, "crop", Image.Resampling.BILINEAR, 72)
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    form = sniff(data)
    for strict in (False, True) if len(data) < 100_000 else (False,):
        try:
            if form:
                task = Task(form=form, specs=(spec,), strict=strict, image_pixels=10**7, total_pixels=10**8, min_side=32, max_side=30000, frames=300, own=strict, whole=not strict)
                pictures.screen(data, task, Looking())
        except Refused:
            pass
print(sorted(set(sys.modules) - before))
"""
    root = Path(__file__).parents[4]
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path / "files")], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout.strip() == "[]"


def test_every_row_of_the_table_that_is_about_bytes_has_a_case():
    about_http = {4, 5, 6, 7, 8, 9}
    flips = {30}
    assert {case.row for case in CASES} | about_http | flips >= set(range(1, 58))
    assert len({case.id for case in CASES}) == len(CASES)
