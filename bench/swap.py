"""The classical swapper's figures, and the contact sheet that people judge it by.

`python -m bench.swap` prints CPU time on one core; `python -m bench.swap --sheet FILE.jpg [--yunet MODEL]` draws the sheet.
CPU time is what counts here: it is the same on a busy machine, and a replica has one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from bench.table import Figure, show
from deployments import drawn_faces as faces
from deployments.drawn_faces import PEOPLE, Light, Pixels, Pose, Shot
from face_pipeline import pipeline
from face_pipeline.classical import ClassicalSwapper
from face_pipeline.detector import Detector, FrontalCascade, YuNet
from face_pipeline.errors import FaceUnusable
from face_pipeline.faces import Face
from face_pipeline.swapper import SwapTask

_EYES_PX: Final = 96  # between the eyes of a drawn face whose box is 256 px high
_ROUNDS: Final = 40


def known(shot: Shot) -> Face:
    """The face of a drawn picture without a detector: its points are known, and its box is as a detector would draw it."""
    apart = float(np.hypot(*(shot.points[1] - shot.points[0])))
    middle = shot.points[:2].mean(axis=0)
    height, width = 2.67 * apart, 2.0 * apart
    points = tuple((float(x), float(y)) for x, y in shot.points)
    return Face(
        left=float(middle[0]) - width / 2, top=float(middle[1]) - 0.4 * height, width=width, height=height, points=points, score=1.0
    )


def cpu_ms(work: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """Median CPU time of one call in milliseconds, after three calls to warm up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times) * 1000


def measure(detectors: Sequence[Detector] = ()) -> list[Figure]:
    """A swap of a 256 px face with known points in a 1024 px picture, and its parts; and each detector on that picture."""
    cv2.setNumThreads(1)
    swapper = ClassicalSwapper()
    target = faces.draw(PEOPLE["bo"], side=1024, eyes_px=_EYES_PX)
    source_shot = faces.draw(PEOPLE["ada"], side=1024, eyes_px=_EYES_PX)
    face, source_face = known(target), known(source_shot)
    crop, _ = pipeline.aligned(source_shot.pixels, source_face, swapper)
    source = pipeline.Source(face=source_face, identity=swapper.prepare([crop])[0])
    task = SwapTask(target=pipeline.aligned(target.pixels, face, swapper)[0], identity=source.identity)
    note = f"box {face.side:.0f} px, CPU, one thread"
    figures = [
        Figure(
            name="swap: align, swap, lay back",
            value=cpu_ms(lambda: pipeline.change(target.pixels, [face], source, swapper=swapper)),
            unit="ms",
            wanted="<= 20",
            note=f"{note}, 1024 px frame",
        ),
        Figure(
            name="swap: the swapper alone",
            value=cpu_ms(lambda: swapper.swap([task])),
            unit="ms",
            note=f"{note}, {crop.pixels.shape[0]} px crop",
        ),
        Figure(name="swap: learning a source", value=cpu_ms(lambda: swapper.prepare([crop])), unit="ms", note=note),
    ]
    for detector in detectors:
        took = cpu_ms(partial(detector.detect, [target.pixels]), 8)
        figures.append(Figure(name=f"detect: {detector.name}", value=took, unit="ms", note="one 1024 px frame, one face"))
    return figures


# The contact sheet: sources down, targets across.

CELL: Final = 168
_WARM: Final = Light(colour=(1.0, 0.76, 0.52), exposure=0.7)
_SIDE: Final = Light(direction=(1, -0.2, 0.5), ambient=0.3)
_LOW: Final = Light(direction=(-0.5, -0.6, 0.6), ambient=0.3, exposure=0.4)


def _sources() -> dict[str, Shot]:
    return {"portrait": faces.portrait(), **{name: faces.draw(PEOPLE[name]) for name in ("ada", "bo", "dag")}}


def _targets() -> dict[str, Shot]:
    portrait = faces.portrait()
    blurred = faces.draw(PEOPLE["dag"], light=_WARM)
    return {
        "portrait": portrait,
        "yaw 20": faces.rephotographed(portrait, pose=Pose(yaw=20)),
        "yaw -20, side light": faces.rephotographed(portrait, pose=Pose(yaw=-20), light=_SIDE),
        "dark skin": faces.draw(PEOPLE["bo"]),
        "roll 25, yaw 15": faces.draw(PEOPLE["ada"], pose=Pose(yaw=15, roll=25)),
        "side light": faces.draw(PEOPLE["chi"], light=_SIDE),
        "low light": faces.draw(PEOPLE["chi"], pose=Pose(pitch=10), light=_LOW, grain=6),
        "open mouth": faces.draw(PEOPLE["eve"]),
        "warm, blurred": Shot(pixels=np.asarray(cv2.GaussianBlur(blurred.pixels, (0, 0), 3), np.uint8), points=blurred.points),
        "glasses": faces.draw(PEOPLE["fox"]),
        "yaw 45": faces.draw(PEOPLE["fox"], pose=Pose(yaw=45)),
    }


def contact_sheet(detector: Detector) -> Pixels:
    """Every source in every target; a refusal is shown as its code."""
    swapper, targets = ClassicalSwapper(), _targets()
    places = {name: around(shot) for name, shot in targets.items()}
    rows = [
        np.hstack(
            [titled(np.full((CELL, CELL, 3), 255, np.uint8), detector.name)]
            + [titled(seen(targets[name].pixels, places[name]), name) for name in targets]
        )
    ]
    for name, shot in _sources().items():
        source = pipeline.prepare_source(shot.pixels, detector=detector, swapper=swapper)
        row = [titled(seen(shot.pixels, around(shot)), name)]
        for title, target in targets.items():
            try:
                result = pipeline.render(target.pixels, source, detector=detector, swapper=swapper)
                row.append(seen(result.frame, places[title]))
            except FaceUnusable as refusal:
                row.append(titled(np.full((CELL, CELL, 3), 235, np.uint8), refusal.failure))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def around(shot: Shot) -> tuple[float, float, float]:
    """Centre and half side of the square around a head."""
    middle = shot.points.mean(axis=0)
    apart = float(np.hypot(*(shot.points[3:].mean(axis=0) - shot.points[:2].mean(axis=0))))
    return float(middle[0]), float(middle[1]), 1.75 * apart


def seen(pixels: Pixels, place: tuple[float, float, float]) -> Pixels:
    """A head as a cell of a sheet."""
    x, y, half = place
    scale = CELL / (2 * half)
    matrix = np.array([(scale, 0, (half - x) * scale), (0, scale, (half - y) * scale)])
    calm = cv2.GaussianBlur(pixels, (0, 0), max(0.3, 0.4 / scale))
    return np.asarray(cv2.warpAffine(calm, matrix, (CELL, CELL), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def titled(cell: Pixels, title: str) -> Pixels:
    """A cell with a line of text."""
    picture = cell.copy()
    picture[:16] = 255
    cv2.putText(picture, title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--sheet", type=Path, help="write the contact sheet here instead of measuring")
    arguments.add_argument("--yunet", type=Path, help="YuNet's model file; without it the weight-free detector is used")
    given = arguments.parse_args()
    detectors: list[Detector] = [YuNet.from_file(given.yunet)] if given.yunet else []
    if given.sheet:
        sheet = contact_sheet(detectors[0] if detectors else FrontalCascade())
        cv2.imwrite(str(given.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 86])
    else:
        show(measure([*detectors, FrontalCascade()]))


if __name__ == "__main__":
    main()
