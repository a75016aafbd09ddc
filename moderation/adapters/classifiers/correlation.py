"""A classifier without weights that finds one planted marker, for tests and for showing a refusal.

The marker is a square of 7 x 7 black and white cells: the outer product of the Barker sequence of length 7 with
itself, a pattern that resembles nothing but itself. The picture is reduced to a ladder of sizes, so that at one of them
a cell is two pixels; there the 49 cell means under every position are correlated with the marker, normalised by
their own spread. Real pictures reach about 0.55, a marker of 2 % of the area or more stays over 0.85 after JPEG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from moderation.adapters.classifiers.mapping import shipped_mapping
from moderation.adapters.classifiers.model import check_pixels, sha256_digest
from moderation.errors import ClassifierFault
from moderation.frames import Fit, InputSpec, Pixels
from moderation.scores import ClassifierVersion, Detection, InputScores

Plane = NDArray[np.float32]

LABEL: Final = "MARKER"
SIDE: Final = 320
CELLS: Final = 7
BARKER: Final = (1, 1, 1, -1, -1, 1, -1)
PATTERN: Final = np.outer(BARKER, BARKER)
BLACK: Final = 16
WHITE: Final = 239
CELL: Final = 2
"""Pixels of a cell where the comparison is made."""
SMALLEST: Final = 28.0
"""Side of the smallest marker looked for, in pixels of the input; 2 % of a 16:9 picture is 34."""
STEP: Final = 1.2
QUIET: Final = 0.6
"""Correlation up to which the score is 0."""
SURE: Final = 0.8
"""Correlation from which the score is 1."""
PLAIN: Final = 12.0
"""Spread of the cell means, in grey levels, that counts as no contrast; keeps flat regions from being amplified."""
PLACE_THRESHOLD: Final = 200_000
"""Score from which the place is reported."""
INPUT: Final = InputSpec(width=SIDE, height=SIDE, fit=Fit.LETTERBOX)
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)


def draw_marker(side: int) -> Pixels:
    """The marker, `side` x `side` x 3; at least 7 pixels."""
    cell = np.arange(side) * CELLS // side
    grey = np.where(PATTERN[np.ix_(cell, cell)] > 0, WHITE, BLACK).astype(np.uint8)
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def plant_marker(frame: Pixels, *, share: float, left: float = 0.5, top: float = 0.5) -> Pixels:
    """A copy of `frame` with a marker of `share` of its area (or as large as fits) at these fractions of the room left."""
    height, width = frame.shape[:2]
    side = max(CELLS, min(round((share * width * height) ** 0.5), width, height))
    x, y = round((width - side) * left), round((height - side) * top)
    planted = frame.copy()
    planted[y : y + side, x : x + side] = draw_marker(side)
    return planted


@dataclass(frozen=True, slots=True)
class Match:
    """The best place: correlation in [-1, 1], left, top and side in pixels of the input."""

    correlation: float
    left: float
    top: float
    side: float


class CorrelationClassifier:
    """Finds the marker: `test.marker`, near 0 on pictures without it."""

    def __init__(self) -> None:
        self._mapping = shipped_mapping("correlation")
        self._mapping.check_labels([LABEL])
        self.version = ClassifierVersion(
            name=self._mapping.classifier,
            version="1",
            digest=sha256_digest(_parameters()),
            mapping_digest=self._mapping.digest,
            categories=self._mapping.categories,
            input=INPUT,
            calibrated=self._mapping.calibrated,
            runtime=f"numpy {np.__version__}",
        )

    def predict(self, pixels: Pixels) -> list[InputScores]:
        """See `Model.predict`."""
        check_pixels(pixels, INPUT)
        return [self._judge(picture) for picture in pixels]

    def _judge(self, picture: Pixels) -> InputScores:
        match = find_marker(picture)
        likelihood = min(max((match.correlation - QUIET) / (SURE - QUIET), 0.0), 1.0)
        (scores,) = self._mapping.scores([LABEL], np.array([[likelihood]]))
        rule = self._mapping.labels[LABEL]
        score = scores[rule.category]
        if score < PLACE_THRESHOLD:
            return InputScores(scores=scores)
        box = (int(match.left), int(match.top), round(match.side), round(match.side))
        return InputScores(scores=scores, detections=(Detection(label=LABEL, category=rule.category, score=score, box=box),))


def find_marker(picture: Pixels) -> Match:
    """The place of a SIDE x SIDE x 3 picture that is most like the marker, over all sizes."""
    grey = (picture.reshape(-1, 3).astype(np.float32) @ _LUMA).reshape(SIDE, SIDE) - np.float32(127.5)
    best = Match(-1.0, 0.0, 0.0, 0.0)
    side, reduced = SMALLEST, 1
    while side <= SIDE:
        while side / (CELLS * CELL * reduced) >= CELL:  # go on from a half-size picture, which loses little
            grey, reduced = _halve(grey), 2 * reduced
        ratio = side / (CELLS * CELL)
        correlation = _correlate(_shrink(grey, ratio / reduced))
        index = int(correlation.argmax())
        peak = float(correlation.flat[index])
        if not math.isfinite(peak):
            raise ClassifierFault("correlation: the output is not finite")
        if peak > best.correlation:
            top, left = divmod(index, correlation.shape[1])
            best = Match(peak, left * ratio, top * ratio, side)
        side *= STEP
    return best


def _correlate(picture: Plane) -> Plane:
    """Normalised correlation of the marker with the 49 cell means under each position."""
    rows = picture[:-1] + picture[1:]
    cells = rows[:, :-1] + rows[:, 1:]
    cells *= np.float32(1 / (CELL * CELL))
    against = _weighted(cells)
    mean = _summed(cells) * np.float32(1 / CELLS**2)
    spread = _summed(cells * cells)
    spread *= np.float32(1 / CELLS**2)
    spread -= mean * mean
    np.maximum(spread, 0, out=spread)
    spread += np.float32(PLAIN * PLAIN)
    mean_of_marker = PATTERN.mean()
    mean *= np.float32(mean_of_marker * CELLS**2)
    against -= mean
    spread *= np.float32((1 - mean_of_marker**2) * CELLS**4)
    against /= np.sqrt(spread, out=spread)
    return against


def _weighted(cells: Plane) -> Plane:
    """Correlation with the pattern, which is separable: down the rows, then along them, with the signs of the sequence."""
    height, width = (side - CELL * (CELLS - 1) for side in cells.shape)
    down = cells[:height].copy()
    for number, sign in enumerate(BARKER[1:], start=1):
        (np.add if sign > 0 else np.subtract)(down, cells[CELL * number : CELL * number + height], out=down)
    across = down[:, :width].copy()
    for number, sign in enumerate(BARKER[1:], start=1):
        (np.add if sign > 0 else np.subtract)(across, down[:, CELL * number : CELL * number + width], out=across)
    return across


def _summed(cells: Plane) -> Plane:
    """Sums over the same 49 cells: seven as four, two and one, down the rows and then along them."""
    height, width = (side - CELL * (CELLS - 1) for side in cells.shape)
    two = cells[:-CELL] + cells[CELL:]
    down = two[:height] + two[2 * CELL : 2 * CELL + height]
    down += two[4 * CELL : 4 * CELL + height]
    down += cells[6 * CELL : 6 * CELL + height]
    two = down[:, :-CELL] + down[:, CELL:]
    across = two[:, :width] + two[:, 2 * CELL : 2 * CELL + width]
    across += two[:, 4 * CELL : 4 * CELL + width]
    across += down[:, 6 * CELL : 6 * CELL + width]
    return across


def _halve(picture: Plane) -> Plane:
    """Means of 2 x 2; an odd last row or column is left out."""
    height, width = (side - side % 2 for side in picture.shape)
    even = picture[:height, :width]
    rows = even[0::2] + even[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _shrink(picture: Plane, ratio: float) -> Plane:
    """Means over areas of `ratio` x `ratio`."""
    return _shrink_rows(_shrink_rows(picture, ratio).T, ratio).T


def _shrink_rows(picture: Plane, ratio: float) -> Plane:
    """Means over `ratio` rows, from a running sum read between its entries."""
    running = np.zeros((len(picture) + 1, picture.shape[1]), np.float32)
    np.cumsum(picture, axis=0, out=running[1:])
    edges = np.arange(int(len(picture) / ratio) + 1) * ratio
    low = np.minimum(edges.astype(np.intp), len(picture) - 1)
    part = (edges - low).astype(np.float32)[:, np.newaxis]
    at = running[low] + part * picture[low]
    means: Plane = (at[1:] - at[:-1]) * np.float32(1 / ratio)
    return means


def _parameters() -> bytes:
    """All that its scores depend on, as bytes to hash."""
    return repr((BARKER, CELL, SMALLEST, STEP, QUIET, SURE, PLAIN, SIDE)).encode()
