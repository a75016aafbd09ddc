"""Faces over time: who is who from frame to frame, where a face is when the detector does not say, and points that do not tremble.

1. Cut: a frame that looks unlike the one before begins a new shot, and with it new tracks.
2. Follow: each track is carried along by what moved in the picture: optical flow, looked at forth and back, at a grid inside the face for all
   of it, and at each of its points, which move against each other when a head turns.
3. Find: on the first frame of a shot, on every third one, where following failed and while a face is missed, the detector is asked; its faces are matched to
   the tracks by overlap and by the distance of the eyes.
4. Smooth: a detector's points are off by a different amount in each frame, the flow's are not. So a track moves with the flow
   and only leans towards what was detected (an EMA along the motion; nothing lags behind as a filter of the points alone would).
5. Look back: a face that was found late is followed backwards through the frames that are still held, so that it has been there before.

A track that is not found is carried on with falling certainty; at 0 it is known only that the face may still be there. It is given up when
nothing there has looked like it for `COVER_S`.
Deterministic; CPU only.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from face_pipeline import geometry
from face_pipeline.detector import Detector
from face_pipeline.faces import Face, Frame
from face_pipeline.pipeline import detect

Grey = NDArray[np.uint8]
Histogram = NDArray[np.float32]

DETECT_EVERY: Final = 3
"""Frames; see docs/performance.md: with the flow between, points are as good as when every frame is asked about."""
CARRY_S: Final = 0.5
"""How long a face that the detector misses is taken to be where the flow says."""
COVER_S: Final = 2.0
"""How long it is taken to be possibly there, once nothing looks like it."""

FORGET_S: Final = 10.0
"""And how long until a face that comes again is somebody new."""

_SMALL_PX: Final = 480  # frames are shrunk by a whole factor until their longer side has at most this much
_GAIN: Final = 0.2  # how far a track leans towards a detection; more at its beginning: the mean of the first few
_JUMP: Final = 0.5  # eye distances between track and detection beyond which the track starts again from the detection
_CUT: Final = (
    0.6  # mean Bhattacharyya distance of local colours; a quick pan or a flash of light stays below 0.55, another scene is above 0.7
)
_CELLS: Final = 4  # places across and down in which colours are counted, 4 levels of each

# Where the flow is looked at, in canonical space: the face without its rim, where the background shows through.
_GRID: Final = np.array([(x, y) for y in np.linspace(0.3, 0.88, 6) for x in np.linspace(0.26, 0.74, 6)])
_FLOW_WINDOW: Final = (15, 15)
_FLOW_LEVELS: Final = 3
_BACK_PX: Final = 0.5  # how far a point may come back from where it started
_MIN_POINTS: Final = 8  # of the grid
_OWN_WAY: Final = 0.15  # eye distances that a point of the face may move against the grid in one frame
_REGION: Final = 1.0  # face sides around the box in which the face may have moved until the next frame

_PATCH: Final = 24  # pixels a side of a track's look
_ALIKE: Final = 0.6  # correlation of two looks of one face
_NEAR: Final = 0.8  # eye distances between a track and its detection
_FASTER: Final = 1.5  # and so many more for each second that it was not seen, up to
_FAR: Final = 4.0
_SIZES: Final = 1.6  # ratio of their sizes
_OVERLAP: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One track in one frame."""

    track: int
    face: Face
    """Smoothed; in the frame's pixels."""
    certainty: float
    """1 where it was found; falls while it is only carried on; 0 where it may still be, somewhere here."""
    is_carried: bool
    """Whether the detector was asked and did not find it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """What is known of one frame."""

    time_s: float
    is_cut: bool
    """Whether a shot begins here; true for the first frame."""
    found: int
    """Faces that the detector found; 0 where it was not asked."""
    tracks: Mapping[int, Sight]


@dataclass(slots=True, kw_only=True)
class _Track:
    id: int
    face: Face
    look: NDArray[np.float32]
    seen_at: float
    alike_at: float
    detections: int = 1
    is_missed: bool = False
    is_lost: bool = False
    """The flow has lost it: its place is the last one known."""
    is_strange: bool = False
    """What is there does not look like it."""


@dataclass(slots=True, kw_only=True)
class _Held:
    """A frame that has not been taken yet."""

    grey: Grey
    sights: Sights
    tracks: dict[int, Sight] = field(default_factory=dict)


class Tracker:
    """`see` each frame in order, all of one size; `take` each frame's sights in the same order, as much later as is affordable."""

    def __init__(self, detector: Detector, *, every: int = DETECT_EVERY) -> None:
        self._detector = detector
        self._every = every
        self._held: deque[_Held] = deque()
        self._tracks: list[_Track] = []
        self._next_id = 0
        self._before: tuple[list[Histogram], Grey] | None = None

    def see(self, index: int, time_s: float, frame: Frame) -> None:
        """The next frame. Raises what the detector raises."""
        small, shrink = _small(frame)
        grey = cast("Grey", cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        # 1. Cut
        counts = colours(small)
        cut = self._before is None or is_cut(self._before[0], counts)
        if cut:
            self._tracks = []
        # 2. Follow
        self._tracks = [track for track in self._tracks if time_s - track.seen_at <= FORGET_S]
        doubts = [self._follow(track, grey, shrink, time_s) for track in self._tracks]
        # 3. Find
        # By the frame's own number, so that whoever begins in the middle asks about the same frames.
        asked = cut or index % self._every == 0 or any(doubts)
        found = detect(frame, self._detector) if asked else ()
        held = _Held(grey=grey, sights=Sights(time_s=time_s, is_cut=cut, found=len(found), tracks={}))
        self._held.append(held)
        if asked:
            self._match(found, grey, shrink, time_s)
        for track in self._tracks:
            if sight := _sight(track, time_s):
                held.tracks[track.id] = sight
        # 5. Look back
        for track in self._tracks:
            if track.seen_at == time_s and not cut:
                self._look_back(track, shrink)
        self._before = counts, grey

    def take(self) -> Sights:
        """The oldest frame that has not been taken. Raises IndexError when there is none."""
        held = self._held.popleft()
        return replace(held.sights, tracks=held.tracks)

    @property
    def remembered(self) -> frozenset[int]:
        """The tracks of this shot that may still come again: those that were found in the last `FORGET_S`."""
        return frozenset(track.id for track in self._tracks)

    def ahead(self) -> list[Mapping[int, Sight]]:
        """What is known of the frames after the one that `take` gives next, as far as they belong to the same shot."""
        later = itertools.islice(self._held, 1, None)
        return [held.tracks for held in itertools.takewhile(lambda held: not held.sights.is_cut, later)]

    def _follow(self, track: _Track, grey: Grey, shrink: float, time_s: float) -> bool:
        """Moves a track to where its face is now; answers whether that is doubtful enough to ask the detector."""
        if self._before is None or time_s - track.alike_at > COVER_S:
            return False
        moved = followed(track.face, self._before[1], grey, shrink)
        was_sure = not (track.is_lost or track.is_missed)
        track.is_lost = moved is None
        track.face = moved or track.face
        track.is_strange = alike(track.look, look(grey, track.face, shrink)) < _ALIKE
        if track.is_lost or track.is_strange:
            return was_sure
        track.alike_at = time_s
        return track.is_missed and time_s - track.seen_at <= CARRY_S

    def _match(self, found: Sequence[Face], grey: Grey, shrink: float, time_s: float) -> None:
        """4. as well: the tracks lean towards the faces that are theirs; the others become new tracks."""
        costs = sorted(
            (cost, number, at)
            for number, track in enumerate(self._tracks)
            for at, face in enumerate(found)
            if (cost := _cost(track, face, time_s)) is not None
        )
        theirs: dict[int, int] = {}
        for _, number, at in costs:
            if number not in theirs and at not in theirs.values():
                theirs[number] = at
        for number, track in enumerate(self._tracks):
            if number not in theirs:
                track.is_missed = True
                continue
            track.detections += 1
            leant = _leant(track, found[theirs[number]])
            if leant is not found[theirs[number]]:
                self._spread(track, leant.array() - track.face.array())
            track.face = leant
            track.look = look(grey, track.face, shrink)
            track.seen_at = track.alike_at = time_s
            track.is_missed = track.is_lost = track.is_strange = False
        for at, face in enumerate(found):
            if at not in theirs.values():
                self._begin(face, grey, shrink, time_s)

    def _spread(self, track: _Track, lean: geometry.Points) -> None:
        """Lets the frames that are still held share a lean, the later ones more of it, so that it is no step."""
        count = len(self._held)
        for at in range(count - 2, -1, -1):
            sight = self._held[at].tracks.get(track.id)
            if sight is None or len(sight.face.points) != len(lean):
                return
            face = replace(sight.face, points=_pairs(sight.face.array() + lean * (at + 1) / count))
            self._held[at].tracks[track.id] = replace(sight, face=face)

    def _begin(self, face: Face, grey: Grey, shrink: float, time_s: float) -> None:
        try:
            seen = look(grey, face, shrink)
        except ValueError:
            return  # points on one spot cannot be followed, and cannot be swapped either
        self._tracks.append(_Track(id=self._next_id, face=face, look=seen, seen_at=time_s, alike_at=time_s))
        self._next_id += 1

    def _look_back(self, track: _Track, shrink: float) -> None:
        """Into earlier frames of the shot in which the track is unknown or uncertain, as long as the face is plainly there."""
        face, seen_at = track.face, track.seen_at
        frames = list(self._held)
        for after, held in zip(frames[:0:-1], frames[-2::-1], strict=False):
            known = held.tracks.get(track.id)
            moved = None if after.sights.is_cut or (known and known.certainty > 0) else followed(face, after.grey, held.grey, shrink)
            if moved is None or alike(track.look, look(held.grey, moved, shrink)) < _ALIKE:
                return
            face = moved
            certainty = max(0.0, 1 - (seen_at - held.sights.time_s) / CARRY_S)
            held.tracks[track.id] = Sight(track=track.id, face=face, certainty=certainty, is_carried=True)


def _sight(track: _Track, time_s: float) -> Sight | None:
    """What is known of a track now; None once it is given up."""
    if time_s - track.alike_at > COVER_S:
        return None
    certainty = 1.0
    if track.is_lost or (track.is_missed and track.is_strange):
        certainty = 0.0
    elif track.is_missed:
        certainty = max(0.0, 1 - (time_s - track.seen_at) / CARRY_S)
    return Sight(track=track.id, face=track.face, certainty=certainty, is_carried=track.is_missed or track.is_lost)


def _cost(track: _Track, face: Face, time_s: float) -> float | None:
    """How ill a detection fits a track, in eye distances; None where it cannot be the same face."""
    apart = _eyes_apart(track.face)
    away = float(np.hypot(*(face.array()[:2] - track.face.array()[:2]).T).mean()) / apart
    reach = min(_FAR, _NEAR + _FASTER * (time_s - track.seen_at))
    ratio = face.side / track.face.side
    if not 1 / _SIZES < ratio < _SIZES or (away > reach and overlap(track.face, face) < _OVERLAP):
        return None
    return away - overlap(track.face, face)


def _leant(track: _Track, found: Face) -> Face:
    """The track's face, moved some way towards the detection."""
    if len(found.points) != len(track.face.points):
        return found
    away = float(np.hypot(*(found.array() - track.face.array()).T).mean())
    if track.is_lost or away > _JUMP * _eyes_apart(track.face):
        track.detections = 1
        return found
    gain = max(_GAIN, 1 / track.detections)

    def lean(old: float, new: float) -> float:
        return old + gain * (new - old)

    points = track.face.array() + gain * (found.array() - track.face.array())
    return replace(
        found,
        left=lean(track.face.left, found.left),
        top=lean(track.face.top, found.top),
        width=lean(track.face.width, found.width),
        height=lean(track.face.height, found.height),
        points=_pairs(points),
    )


def followed(face: Face, before: Grey, after: Grey, shrink: float) -> Face | None:
    """The face where the flow from one small grey frame to the next takes it; None where the flow cannot be trusted.

    `shrink` is by how much frames are larger than the small ones.
    """
    part = _around(face, shrink, before.shape)
    corner = np.array([part.left, part.top], np.float64)
    inside = (face.array() + 0.5) / shrink - 0.5 - corner
    try:
        start = geometry.transform(_GRID, geometry.similarity(geometry.TEMPLATE[: len(inside)], inside))
    except ValueError:
        return None
    old, new = before[part.rows, part.columns], after[part.rows, part.columns]
    if part.is_empty or min(old.shape) < _FLOW_WINDOW[0]:
        return None
    start = np.concatenate([inside, start])
    there, is_there = _flow(old, new, start)
    back, is_back = _flow(new, old, there)
    good = is_there & is_back & (np.hypot(*(back - start).T) < _BACK_PX)
    own, grid = slice(None, len(inside)), slice(len(inside), None)
    if good[grid].sum() < _MIN_POINTS:
        return None
    try:
        matrix = _steady(start[grid][good[grid]], there[grid][good[grid]])
    except ValueError:
        return None
    carried = geometry.transform(inside, matrix)
    is_near = np.hypot(*(there[own] - carried).T) < _OWN_WAY * math.dist(*inside[:2])
    points = np.where((good[own] & is_near)[:, None], there[own], carried)
    return _moved(face, matrix, points, corner, shrink)


def _flow(old: Grey, new: Grey, points: geometry.Points) -> tuple[geometry.Points, NDArray[np.bool_]]:
    start = points.astype(np.float32).reshape(-1, 1, 2)
    end, status, _ = cv2.calcOpticalFlowPyrLK(old, new, start, None, winSize=_FLOW_WINDOW, maxLevel=_FLOW_LEVELS)  # type: ignore[call-overload]
    return end[:, 0].astype(np.float64), status[:, 0].astype(bool)


def _steady(start: geometry.Points, end: geometry.Points) -> geometry.Matrix:
    """The similarity that most points agree on: three fits, each without the points that the one before explains badly.

    Raises ValueError when the points coincide.
    """
    for _ in range(3):
        matrix = geometry.similarity(start, end)
        off = np.hypot(*(geometry.transform(start, matrix) - end).T)
        kept = off <= max(2 * float(np.median(off)), 1e-3)
        start, end = start[kept], end[kept]
    return matrix


def _moved(face: Face, matrix: geometry.Matrix, points: geometry.Points, corner: NDArray[np.float64], shrink: float) -> Face:
    """The face with its box through a similarity of the small part that begins at `corner`, and with these points of that part."""
    scale = geometry.scale_of(matrix)
    ((x, y),) = (geometry.transform((np.array([face.centre]) + 0.5) / shrink - 0.5 - corner, matrix) + corner + 0.5) * shrink - 0.5
    width, height = face.width * scale, face.height * scale
    left, top = float(x) - width / 2, float(y) - height / 2
    return replace(face, left=left, top=top, width=width, height=height, points=_pairs((points + corner + 0.5) * shrink - 0.5))


def _around(face: Face, shrink: float, shape: tuple[int, ...]) -> geometry.Region:
    reach = _REGION * face.side
    box = (face.left - reach, face.top - reach, face.left + face.width + reach, face.top + face.height + reach)
    return geometry.covered(np.array([(1 / shrink, 0.0, 0.0), (0.0, 1 / shrink, 0.0)]), box, shape[1], shape[0])


def look(grey: Grey, face: Face, shrink: float) -> NDArray[np.float32]:
    """How a face looks in a small grey frame, aligned and without light and contrast. Raises ValueError when its points coincide."""
    matrix = geometry.similarity((face.array() + 0.5) / shrink - 0.5, geometry.template(len(face.points), _PATCH))
    patch = cv2.warpAffine(grey, matrix, (_PATCH, _PATCH), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    patch = patch[_PATCH // 5 :, _PATCH // 6 : -_PATCH // 6]  # brows to chin
    return cast("NDArray[np.float32]", (patch - patch.mean()) / max(float(patch.std()), 1.0))


def alike(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Correlation of two looks, -1 to 1."""
    return float((first * second).mean())


def is_cut(before: Sequence[Histogram], after: Sequence[Histogram]) -> bool:
    """Whether a new shot begins with the second of two frames, of which the `colours` are given."""
    apart = [cv2.compareHist(first, second, cv2.HISTCMP_BHATTACHARYYA) for first, second in zip(before, after, strict=True)]
    return float(np.mean(apart)) > _CUT


def colours(frame: Frame) -> list[Histogram]:
    """A histogram of each cell of a small frame."""
    few = np.ascontiguousarray(frame[::2, ::2])
    cells = [cell for row in np.array_split(few, _CELLS) for cell in np.array_split(row, _CELLS, axis=1) if cell.size]
    return [cv2.calcHist([np.ascontiguousarray(cell)], [0, 1, 2], None, [4] * 3, [0, 256] * 3) for cell in cells]  # type: ignore[misc]


def overlap(first: Face, second: Face) -> float:
    """Intersection over union of two boxes."""
    width = min(first.left + first.width, second.left + second.width) - max(first.left, second.left)
    height = min(first.top + first.height, second.top + second.height) - max(first.top, second.top)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (first.area + second.area - shared)


def _small(frame: Frame) -> tuple[Frame, float]:
    """The frame shrunk by a whole factor (the quick way), and the factor."""
    height, width = frame.shape[:2]
    factor = math.ceil(max(height, width) / _SMALL_PX)
    if factor == 1:
        return frame, 1.0
    whole = frame[: max(factor, height // factor * factor), : max(factor, width // factor * factor)]
    size = (max(1, width // factor), max(1, height // factor))
    return cast("Frame", cv2.resize(whole, size, interpolation=cv2.INTER_AREA)), float(factor)


def _eyes_apart(face: Face) -> float:
    return max(math.dist(*face.points[:2]), 1.0)


def _pairs(points: geometry.Points) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in points)
