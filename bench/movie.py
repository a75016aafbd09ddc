"""What the making of a video costs, how calm it is, and the contact sheet that people judge it by.

`python -m bench.movie` prints CPU time per 720p frame; `python -m bench.movie --sheet FILE.jpg` draws the sheet. Both take `--yunet MODEL`;
without it the weight-free detector is used.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.swap import around, seen, titled
from bench.table import Figure, show
from deployments import drawn_faces
from deployments.drawn_faces import PEOPLE, Pixels, Pose, Shot
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import Detector, FrontalCascade, YuNet
from face_pipeline.faces import Face
from face_pipeline.motion import Shown, VideoSwap
from face_pipeline.movie import MovieSpec, SegmentEncoder, encode_sound

T = TypeVar("T")

FPS: Final = 24
FRAMES: Final = 48
WIDTH, HEIGHT = 1280, 720
EYES_PX: Final = 96
_SIDE: Final = 480  # of the square in which the head is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Frames, and where the face in each really is."""

    frames: tuple[Pixels, ...]
    shots: tuple[Shot, ...]


@cache
def film(yaw: float = 14) -> Film:
    """The portrait moves to and fro in front of a still background and turns its head by up to `yaw` degrees; with grain."""
    rng = np.random.default_rng(4)
    colours = rng.integers(60, 180, (4, 6, 3), np.uint8)
    behind = cv2.GaussianBlur(cv2.resize(colours, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), (0, 0), 20).astype(np.float32)
    portrait = drawn_faces.portrait(EYES_PX)
    frames, shots = [], []
    for at in range(FRAMES):
        t = at / FPS
        pose = Pose(yaw=float(yaw * np.sin(np.pi * t)), roll=float(4 * np.sin(2 * t)))
        shot = drawn_faces.rephotographed(portrait, pose=pose, eyes_px=EYES_PX, side=_SIDE)
        x, y = (WIDTH - _SIDE) / 2 + 110 * np.sin(2.4 * t), (HEIGHT - _SIDE) / 2 + 16 * np.sin(5 * t)
        move = np.array([(1, 0, x), (0, 1, y)])
        frame = (
            behind
            + (cv2.warpAffine(shot.pixels, move, (WIDTH, HEIGHT)) - behind) * cv2.warpAffine(_oval(), move, (WIDTH, HEIGHT))[..., None]
        )
        frames.append(np.clip(frame + rng.normal(0, 3, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8))
        shots.append(Shot(pixels=shot.pixels, points=shot.points + np.array((x, y), np.float32)))
    return Film(frames=tuple(frames), shots=tuple(shots))


@cache
def _oval() -> NDArray[np.float32]:
    """1 around the head, 0 at the rim of its square."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE - 0.5
    return cast("NDArray[np.float32]", np.clip((0.48 - np.hypot(x * 1.1, y)) / 0.06, 0, 1).astype(np.float32))


class Watched:
    """A detector whose CPU time and calls are counted, and which sees nothing while it is `blind`."""

    is_frontal_only: Final = False
    version: Final = "watched"

    def __init__(self, inner: Detector) -> None:
        self._inner = inner
        self.name, self.max_side = inner.name, inner.max_side
        self.seconds, self.calls, self.blind = 0.0, 0, False

    def detect(self, frames: Sequence[Pixels]) -> list[tuple[Face, ...]]:
        """See `Detector`."""
        found, spent = timed(lambda: self._inner.detect(frames))
        self.seconds, self.calls = self.seconds + spent, self.calls + len(frames)
        return [()] * len(frames) if self.blind else found


def measure(detector: Detector) -> list[Figure]:
    """CPU milliseconds per frame, one thread, of each part and of all; and how much the points tremble."""
    cv2.setNumThreads(1)
    clip, watched = film(), Watched(detector)
    shown, swapping = timed(lambda: swapped(clip, watched))
    _, encoding = timed(lambda: encoded([done.frame for done in shown]))
    parts = {
        f"find the face ({detector.name}, {watched.calls} of {FRAMES} frames)": watched.seconds,
        "follow, swap, lay back": swapping - watched.seconds,
        "label, convert, encode": encoding,
        "all": swapping + encoding,
    }
    figures = [
        Figure(name=f"movie: {name}", value=spent / FRAMES * 1000, unit="ms", note="CPU per 720p frame, one thread, one 256 px face")
        for name, spent in parts.items()
    ]
    alone = [_nearest(pipeline.detect(frame, detector), shot) for frame, shot in zip(clip.frames, clip.shots, strict=True)]
    calm = [done.meant[0] if done.meant else None for done in shown]
    for name, faces in (("as detected in every frame", alone), ("as they are swapped", calm)):
        note = f"root mean square from frame to frame, eyes {EYES_PX} px apart"
        figures.append(Figure(name=f"movie: trembling of the points {name}", value=tremble(faces, clip), unit="px", note=note))
    return figures


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it answers, and its CPU seconds."""
    started = time.process_time()
    made = work()
    return made, time.process_time() - started


def swapped(clip: Film, detector: Watched, blind: range = range(0)) -> list[Shown]:
    """The whole clip with a drawn face; the detector sees nothing in the frames of `blind`."""
    swapper = ClassicalSwapper()
    source = pipeline.prepare_source(drawn_faces.draw(PEOPLE["ada"]).pixels, detector=detector, swapper=swapper)
    detector.seconds, detector.calls = 0.0, 0
    video, shown = VideoSwap(source, detector=detector, swapper=swapper), list[Shown]()
    for at, frame in enumerate(clip.frames):
        detector.blind = at in blind
        shown += video.push(at, at / FPS, frame)
    return shown + video.flush()


def encoded(frames: Sequence[Pixels]) -> int:
    """Bytes of one segment with label and sound."""
    samples = np.random.default_rng(1).integers(-3000, 3000, (len(frames) * 2000, 2), np.int16)
    sound = encode_sound(samples, 48_000, starts_at=Fraction(0), ends_at=Fraction(len(frames), FPS))
    base, rate = Fraction(1, FPS), Fraction(FPS)
    spec = MovieSpec(width=WIDTH, height=HEIGHT, time_base=base, frame_rate=rate, label="en", sound_rate_hz=48_000, sound_channels=2)
    encoder = SegmentEncoder(spec, number=0, soundtrack=sound)
    for at, frame in enumerate(frames):
        encoder.add(frame, at)
    return len(encoder.finish(len(frames), is_last=True).media)


def tremble(faces: Sequence[Face | None], clip: Film) -> float:
    """How far the points' error moves from one frame to the next, in pixels, where it is known in both."""
    errors = [
        None if face is None else face.array() - shot.points[: len(face.points)] for face, shot in zip(faces, clip.shots, strict=True)
    ]
    steps = [later - error for error, later in pairwise(errors) if error is not None and later is not None]
    return float(np.sqrt((np.array(steps) ** 2).sum(axis=-1).mean()))


def _nearest(found: Sequence[Face], shot: Shot) -> Face | None:
    middle = shot.points[:2].mean(axis=0)
    return next((face for face in found if np.hypot(*(face.array()[:2].mean(axis=0) - middle)) < EYES_PX / 2), None)


# The contact sheet: time goes to the right.

_COLUMNS: Final = 12
_BLIND: Final = range(9, 40)
_CHART_PX: Final = 110  # its height; one pixel of error is a sixth of the half


def contact_sheet(detector: Detector) -> Pixels:
    """The target; swapped; with a detector that finds nothing for a while; with a head that turns away; and how the points tremble."""
    calm, far = film(), film(yaw=48)
    shown = swapped(calm, Watched(detector))
    results = [(calm, shown), (calm, swapped(calm, Watched(detector), _BLIND)), (far, swapped(far, Watched(detector)))]
    done = [_row(clip, [one.frame for one in frames], _what(frames)) for clip, frames in results]
    first, second = (_row(clip, clip.frames, ["target"] * FRAMES) for clip in (calm, far))
    rows = [first, done[0], done[1], second, done[2]]
    alone = [_nearest(pipeline.detect(frame, detector), shot) for frame, shot in zip(calm.frames, calm.shots, strict=True)]
    traces = {(200, 60, 40): alone, (30, 120, 40): [done.meant[0] if done.meant else None for done in shown]}
    return np.vstack([*rows, _chart(traces, calm, rows[0].shape[1])])


def _row(clip: Film, frames: Sequence[Pixels], titles: Sequence[str]) -> Pixels:
    columns = [round(column * (FRAMES - 1) / (_COLUMNS - 1)) for column in range(_COLUMNS)]
    return np.hstack([titled(seen(frames[at], around(clip.shots[at])), f"{at / FPS:.2f} s {titles[at]}") for at in columns])


def _what(shown: Sequence[Shown]) -> list[str]:
    return ["covered" if done.covered else "carried" if done.carried else "swapped" if done.changed else "as it was" for done in shown]


def _chart(traces: Mapping[tuple[int, int, int], Sequence[Face | None]], clip: Film, width: int) -> Pixels:
    """The error of one eye's height over time, about its mean; one line for each colour."""
    chart = np.full((_CHART_PX, width, 3), 255, np.uint8)
    text = "height of one eye, off by (pixels, -6 to 6): red as detected in every frame, green as it is swapped"
    cv2.putText(chart, text, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    for colour, faces in traces.items():
        known = [(at, face.points[0][1] - clip.shots[at].points[0][1]) for at, face in enumerate(faces) if face is not None]
        mean = np.mean([error for _, error in known])
        line = [((at + 0.5) * width / FRAMES, _CHART_PX / 2 * (1 + (error - mean) / 6)) for at, error in known]
        cv2.polylines(chart, [np.rint(line).astype(np.int32)], False, colour, 2, cv2.LINE_AA)
    return chart


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--sheet", type=Path, help="write the contact sheet here instead of measuring")
    arguments.add_argument("--yunet", type=Path, help="YuNet's model file; without it the weight-free detector is used")
    given = arguments.parse_args()
    detector = YuNet.from_file(given.yunet) if given.yunet else FrontalCascade()
    if given.sheet:
        cv2.imwrite(str(given.sheet), cv2.cvtColor(contact_sheet(detector), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    else:
        show(measure(detector))


if __name__ == "__main__":
    main()
