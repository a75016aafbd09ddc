from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from face_pipeline.faces import Frame
from face_pipeline.label import draw_label
from face_pipeline.movie import CRF, LABEL_CORNER, MovieSpec, Segment, SegmentEncoder, Soundtrack, encode_sound, init_of, join

BASE = Fraction(1, 30_000)
TIMES = tuple(1001 * tick for tick in (0, 1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 20))  # variable: three frames last longer
END = 1001 * 21
CUTS = (0, 5, 9, 12)
RATE = 44_100
WIDTH, HEIGHT = 129, 97

PICTURE = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (200, 300, 3), np.uint8), (0, 0), 7).astype(np.uint8)
cv2.normalize(PICTURE, PICTURE, 0, 255, cv2.NORM_MINMAX)
FRAMES = tuple(np.ascontiguousarray(PICTURE[5 * n : 5 * n + HEIGHT, 7 * n : 7 * n + WIDTH]) for n in range(len(TIMES)))


def noise(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """Sound in which any shift shows: noise whose loudness goes up and down."""
    count = round(rate * seconds)
    loud = 6000 * (1.2 + np.sin(np.arange(count) / rate * 40))
    slow = cv2.GaussianBlur(np.random.default_rng(7).normal(0, 1, (1, count)), (0, 0), 4)[0]
    return np.repeat((loud * slow * 3).astype(np.int16)[:, None], channels, axis=1)


SOUND = noise(RATE, float(END * BASE) + 0.02)


def sound(samples: np.ndarray = SOUND, rate: int = RATE, starts_at: Fraction = Fraction(0)) -> Soundtrack:
    track = encode_sound(samples, rate, starts_at=starts_at, ends_at=END * BASE)
    assert track is not None
    return track


TRACK = sound()
SPEC = MovieSpec(width=WIDTH, height=HEIGHT, time_base=BASE, frame_rate=Fraction(17), label=None, sound_rate_hz=RATE, sound_channels=1)
SILENT = MovieSpec(width=WIDTH, height=HEIGHT, time_base=BASE, frame_rate=Fraction(17), label=None)


def segment(number: int, spec: MovieSpec = SPEC, frames: Sequence[Frame] = FRAMES, track: Soundtrack | None = TRACK) -> Segment:
    encoder = SegmentEncoder(spec, number=number, soundtrack=track if spec.sound_rate_hz else None)
    first, last = CUTS[number], CUTS[number + 1]
    for frame, pts in zip(frames[first:last], TIMES[first:last], strict=True):
        encoder.add(frame, pts)
    return encoder.finish((*TIMES, END)[last], is_last=last == len(TIMES))


def segments(spec: MovieSpec = SPEC, frames: Sequence[Frame] = FRAMES, track: Soundtrack | None = TRACK) -> list[Segment]:
    return [segment(number, spec, frames, track) for number in range(len(CUTS) - 1)]


def shown(data: bytes) -> tuple[list[int], list[Frame]]:
    """Times in units of BASE, and pixels, of every frame."""
    with av.open(io.BytesIO(data), "r", format="mp4") as film:
        frames = list(film.decode(video=0))
    return [int(frame.pts * frame.time_base / BASE) for frame in frames], [
        np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in frames
    ]


def heard(data: bytes) -> tuple[Fraction, np.ndarray]:
    """When the first sample is heard, and the samples, -1 to 1, of the first channel."""
    with av.open(io.BytesIO(data), "r", format="mp4") as film:
        frames = list(film.decode(audio=0))
    return Fraction(frames[0].pts * frames[0].time_base), np.concatenate([frame.to_ndarray()[0] for frame in frames])


def delay(got: np.ndarray, wanted: np.ndarray) -> int:
    """By how many samples `got` lies behind `wanted`, at most 60 either way."""
    count = min(len(got), len(wanted)) - 120
    return min(range(-60, 61), key=lambda by: float(np.square(got[60 + by : 60 + by + count] - wanted[60 : 60 + count]).sum()))


def whole(parts: Sequence[Segment]) -> bytes:
    return parts[0].init + b"".join(part.media for part in parts)


PARTS = segments()


@pytest.mark.parametrize("data", [whole(PARTS), join(PARTS[0].init, [part.media for part in PARTS])], ids=["fragmented", "joined"])
def test_every_frame_is_there_at_its_own_time_and_the_sound_is_in_step(data):
    times, frames = shown(data)
    assert times == list(TIMES)
    away = [np.abs(frame[:HEIGHT, :WIDTH].astype(int) - wanted).mean() for frame, wanted in zip(frames, FRAMES, strict=True)]
    assert max(away) < 4
    starts_at, samples = heard(data)
    assert starts_at == 0
    assert abs(delay(samples, SOUND[:, 0] / 32768)) <= 1


def test_a_joined_file_says_how_long_it_is_and_has_its_index_in_front():
    data = join(PARTS[0].init, (part.media for part in PARTS))
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data), "r", format="mp4") as film:
        video, sound = film.streams.video[0], film.streams.audio[0]
        assert (video.duration * video.time_base, video.frames) == (END * BASE, len(TIMES))
        assert abs(sound.duration * sound.time_base - END * BASE) < Fraction(2, RATE)
        assert b"Lavf" not in data


def test_each_segment_is_shown_without_the_others():
    for number, part in enumerate(PARTS):
        times, frames = shown(part.init + part.media)
        assert times == list(TIMES[CUTS[number] : CUTS[number + 1]])
        assert (part.start, part.duration, part.frames) == (times[0], (*TIMES, END)[CUTS[number + 1]] - times[0], len(frames))


@pytest.mark.parametrize("rate", [Fraction(3 << 40, 100_001), Fraction(1, 1 << 40), Fraction(1 << 40)], ids=["odd", "slow", "fast"])
def test_any_mean_rate_of_frames_can_be_written(rate):
    spec = MovieSpec(width=WIDTH, height=HEIGHT, time_base=Fraction(1, 1_000_000), frame_rate=rate, label=None)
    encoder = SegmentEncoder(spec, number=0)
    times = (0, 3, 1_000_003)
    for frame, pts in zip(FRAMES, times, strict=False):
        encoder.add(frame, pts)
    part = encoder.finish(2_000_000, is_last=True)
    with av.open(io.BytesIO(part.init + part.media), "r", format="mp4") as film:
        assert [frame.pts * frame.time_base * 1_000_000 for frame in film.decode(video=0)] == list(times)


def test_what_goes_in_front_is_the_same_for_all_segments_and_comes_from_nothing_but_the_spec():
    assert {part.init for part in PARTS} == {init_of(SPEC)}
    assert init_of(SILENT) != init_of(SPEC)
    init_of.cache_clear()
    assert init_of(SPEC) == PARTS[0].init


def test_a_segment_made_again_by_somebody_else_is_the_same_and_takes_its_place():
    again = segment(1, track=sound(SOUND.copy()))
    assert again == PARTS[1]


def test_the_sound_is_shared_out_without_a_gap_or_a_double():
    times = [time * BASE for time in (*(TIMES[cut] for cut in CUTS[1:-1]),)]
    shares = [list(TRACK.numbers(start, until)) for start, until in pairwise([None, *times, None])]
    assert [number for share in shares for number in share] == list(range(len(TRACK.packets)))
    lasts = sum(TRACK.lasts(number) for number in range(len(TRACK.packets)))
    assert lasts == TRACK.samples + 1024
    assert TRACK.samples == round(END * BASE * RATE)


@pytest.mark.parametrize("starts_at", [Fraction(-1, 20), Fraction(1, 7)], ids=["begins before", "begins later"])
def test_sound_that_does_not_begin_with_the_picture_stays_where_it_was(starts_at):
    _, samples = heard(whole(segments(track=sound(SOUND, starts_at=starts_at))))
    shift = round(starts_at * RATE)
    wanted = SOUND[-shift:, 0] if shift < 0 else np.concatenate([np.zeros(shift), SOUND[:, 0]])
    assert abs(delay(samples, wanted / 32768)) <= 1


def test_sound_at_a_rate_that_aac_lacks_becomes_48_khz_and_stays_in_step():
    track = sound(noise(37_800, 0.8, 2), 37_800)
    assert (track.rate_hz, track.channels) == (48_000, 2)
    assert track.samples == pytest.approx(float(END * BASE) * 48_000, abs=2)
    spec = MovieSpec(
        width=WIDTH, height=HEIGHT, time_base=BASE, frame_rate=Fraction(17), label=None, sound_rate_hz=48_000, sound_channels=2
    )
    _, samples = heard(whole(segments(spec, track=track)))
    slow = noise(37_800, 0.8)[:, 0] / 32768
    wanted = np.interp(np.arange(track.samples) / 48_000, np.arange(len(slow)) / 37_800, slow)
    assert abs(delay(samples, wanted)) <= 1


def test_sound_outside_the_movie_is_none():
    for starts_at in (END * BASE, Fraction(-2)):
        assert encode_sound(SOUND, RATE, starts_at=starts_at, ends_at=END * BASE) is None


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (96, 61)])
def test_odd_sides_get_their_last_row_or_column_twice_and_nothing_is_cut_off(size):
    width, height = size
    spec = MovieSpec(width=width, height=height, time_base=BASE, frame_rate=Fraction(17), label=None)
    frames = [np.ascontiguousarray(frame[:height, :width]) for frame in FRAMES]
    _, got = shown(whole(segments(spec, frames)))
    assert got[0].shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(got[0][:height, :width].astype(int) - frames[0]).mean() < 4


def test_colours_are_declared_and_come_back():
    plain = [np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)] * 3]
    data = whole(segments(SILENT, plain))
    _, got = shown(data)
    assert max(np.abs(frame.astype(int) - wanted[0, 0]).max() for frame, wanted in zip(got, plain, strict=True)) <= 4
    with av.open(io.BytesIO(data), "r", format="mp4") as film:
        context = film.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)


def test_each_segment_is_one_closed_group_in_the_quality_that_was_meant():
    for part in PARTS:
        assert f"crf={CRF}.0".encode() in part.media  # the encoder notes its settings
        with av.open(io.BytesIO(part.init + part.media), "r", format="mp4") as film:
            packets = [packet for packet in film.demux(video=0) if packet.dts is not None]
        assert [packet.is_keyframe for packet in packets] == [True, *[False] * (part.frames - 1)]
        assert all(packet.dts == packet.pts for packet in packets)


def test_the_label_is_on_every_frame_at_the_same_place():
    spec = MovieSpec(width=WIDTH, height=HEIGHT, time_base=BASE, frame_rate=Fraction(17), label="en")
    _, labelled = shown(whole(segments(spec)))
    wanted = draw_label(FRAMES[0], "en", corner=LABEL_CORNER)
    rows, columns = np.nonzero((wanted != FRAMES[0]).any(axis=2))
    plate = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    for frame, plain in zip(labelled, FRAMES, strict=True):
        expected = draw_label(plain, "en", corner=LABEL_CORNER)
        assert np.abs(frame[plate].astype(int) - expected[plate]).mean() < 12 < np.abs(plain[plate].astype(int) - expected[plate]).mean()


@pytest.mark.parametrize(
    ("base", "times", "exact"),
    [
        (Fraction(1, 1000), (0, 40, 119_000, 120_000), True),
        (Fraction(1001, 24_000), (0, 1, 2, 5), True),
        (Fraction(1, 90_000), (0, 1, 2, 3), True),
        (Fraction(2), (1, 2, 40, 41), True),
        (Fraction(1, 1_000_000_007), (0, 40_000_000, 119_000_000_000, 120_000_000_000), False),
    ],
    ids=["milliseconds", "film rate", "frames that nobody sees", "slides", "finer than a file can say"],
)
def test_times_are_kept_whatever_they_are_counted_in(base, times, exact):
    spec = MovieSpec(width=32, height=32, time_base=base, frame_rate=Fraction(24), label=None)
    encoder = SegmentEncoder(spec, number=0)
    for pts in times[:-1]:
        encoder.add(FRAMES[0][:32, :32], pts)
    part = encoder.finish(times[-1], is_last=True)
    with av.open(io.BytesIO(join(part.init, [part.media])), "r", format="mp4") as film:
        got = [(frame.pts * frame.time_base, frame.duration * frame.time_base) for frame in film.decode(video=0)]
    wanted = [(start * base, (end - start) * base) for start, end in pairwise(times)]
    assert np.allclose(np.array(got, float), np.array(wanted, float), rtol=0, atol=2e-7)
    assert (got == wanted) is exact


def test_what_cannot_be_a_movie_is_refused():
    with pytest.raises(ValueError, match="movie"):
        MovieSpec(width=0, height=10, time_base=BASE, frame_rate=Fraction(25), label=None)
    with pytest.raises(ValueError, match="soundtrack"):
        SegmentEncoder(SILENT, number=0, soundtrack=TRACK)
    encoder = SegmentEncoder(SILENT, number=0)
    with pytest.raises(ValueError, match="segment"):
        encoder.finish(END)
    encoder.add(FRAMES[0], 10)
    with pytest.raises(ValueError, match="after"):
        encoder.add(FRAMES[1], 10)
    with pytest.raises(ValueError, match="in a movie"):
        encoder.add(FRAMES[1][:-2], 20)
    with pytest.raises(ValueError, match="segment"):
        encoder.finish(10)
