"""The swap over time: frames in, in order; the same frames out, a little later, with the faces changed.

1. Track every face (`tracks`); a frame waits until the `AHEAD` frames after it are known.
2. Choose which tracks are meant, in the first frame of a shot in which there are any, and keep to it: who is meant stays meant until the
   shot ends. While nobody who is meant is in sight, it is asked again. Who appears while somebody who is meant is lost may be that person, and is meant as well.
3. Swap where a track is certain and the swapper can work with the face, all faces of several frames in one batch.
4. Cover what is meant and cannot be swapped: a face that is lost, turned too far, too small or cut off, or that the swap left as it was, is
   blurred beyond recognition and never shown. Covers come and go over a few frames, and do not flicker.

Beyond that, a face is shown as it was only where nothing has told of it: before it was found for the first time in its shot, further back
than it can be followed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from face_pipeline import blending, faces
from face_pipeline.detector import Detector
from face_pipeline.errors import Failure, Role
from face_pipeline.faces import Choice, Face, Frame, Largest
from face_pipeline.pipeline import Source, SwapStage, unusable
from face_pipeline.swapper import Change, Mask, Moment, Swapper, Track
from face_pipeline.tracks import Sight, Tracker, overlap

AHEAD: Final = 8
"""Frames that are known before one is finished; with `BATCH` also the most frames that are held."""
BATCH: Final = 4
"""Frames that are finished together."""
_FADE: Final = 4  # frames over which a cover comes and goes
_GAP: Final = 6  # frames: covers with no more than this between them are one
_SAME: Final = 0.2  # overlap of a face with where it was when the work was interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One finished frame."""

    index: int
    time_s: float
    frame: Frame
    mask: Mask
    """uint8, height x width; 0 exactly where the frame is as it was."""
    changed: int
    """Faces that were swapped, those that were carried on among them."""
    carried: int
    """Faces that were swapped where the detector did not see them."""
    covered: int
    """Faces that were meant and were blurred instead."""
    meant: tuple[Face, ...]
    """Every face that was meant, where it is; `VideoSwap` may begin again from here. Empty where one of them is out of sight: then it may not."""


class VideoSwap:
    """One video. `push` its frames in order, take what comes back, `flush` at the end, then look at `failure`."""

    def __init__(
        self,
        source: Source,
        *,
        detector: Detector,
        swapper: Swapper,
        choice: Choice = Largest(),  # noqa: B008  frozen
        meant: Sequence[Face] = (),
    ) -> None:
        """`meant` is for going on after an interruption: `Shown.meant` of the first frame, or of the one before it."""
        self._tracker = Tracker(detector)
        self._stage = SwapStage(source, swapper)
        self._limits = swapper.limits
        self._choice = choice
        self._resumed = tuple(meant)
        self._window: deque[tuple[int, float, Frame]] = deque()
        self._meant: set[int] = set()
        self._known: set[int] = set()
        self._needs: deque[Mapping[int, Failure | None]] = deque(maxlen=_GAP)
        self._counts: Counter[str] = Counter()
        self._failures: Counter[Failure] = Counter()

    def push(self, index: int, time_s: float, frame: Frame) -> list[Shown]:
        """The next frame of the video, its number and time; it is not written to. Answers the frames that are finished now. Raises what detector and swapper raise."""
        self._tracker.see(index, time_s, frame)
        self._window.append((index, time_s, frame))
        return self._finish(BATCH) if len(self._window) >= AHEAD + BATCH else []

    def flush(self) -> list[Shown]:
        """The frames that are left."""
        shown: list[Shown] = []
        while self._window:
            shown += self._finish(min(BATCH, len(self._window)))
        return shown

    @property
    def counts(self) -> Mapping[str, int]:
        """So far: `frames`; those `with_faces`; those `changed`, `carried`, `covered` (with at least one such face)."""
        return dict(self._counts)

    @property
    def failure(self) -> Failure | None:
        """Why no frame was changed; None as soon as one was."""
        if self._counts["changed"]:
            return None
        if not self._counts["with_faces"]:
            return Failure.NO_FACE
        if not self._counts["meant"]:
            return Failure.FACE_INDEX_ABSENT
        return self._failures.most_common(1)[0][0] if self._failures else Failure.NOTHING_CHANGED

    def _finish(self, count: int) -> list[Shown]:
        plans = [self._plan(*self._window.popleft()) for _ in range(count)]
        changes = self._stage.apply([plan.moment for plan in plans])
        return [self._shown(plan, change) for plan, change in zip(plans, changes, strict=True)]

    def _plan(self, index: int, time_s: float, frame: Frame) -> _Plan:
        """Steps 2 and 4 for the oldest frame."""
        ahead = self._tracker.ahead()
        sights = self._tracker.take()
        if sights.is_cut:
            self._meant.clear()
            self._known.clear()
            self._needs.clear()
            if self._counts["frames"]:
                self._resumed = ()
        self._choose(sights.tracks, ahead)
        self._counts["frames"] += 1
        self._counts["with_faces"] += bool(sights.tracks)
        here = self._why_not(sights.tracks, frame)
        # Further than a cover fades only matters where there has been one.
        reach = _GAP if any(why for whys in self._needs for why in whys.values()) else _FADE - 1
        later = [self._why_not(tracks, frame) for tracks in ahead[:reach]]
        covers = {track: _strength(track, list(self._needs), here, later) for track in here}
        self._needs.append(here)
        tracks = tuple(
            Track(id=track, faces=(sights.tracks[track].face,)) for track, why in here.items() if why is None and covers[track] < 1
        )
        self._failures.update(why for why in here.values() if why is not None)
        return _Plan(
            index=index,
            moment=Moment(frames=(frame,), at=0, time_s=time_s, tracks=tracks),
            covers={track: strength for track, strength in covers.items() if strength > 0},
            sights={track: sights.tracks[track] for track in here},
            is_settled=all(track in here and not sights.tracks[track].is_carried for track in self._meant & self._tracker.remembered),
        )

    def _choose(self, here: Mapping[int, Sight], ahead: Sequence[Mapping[int, Sight]]) -> None:
        """Step 2, with what is known of this frame and the following ones of its shot."""
        if here and not any(self._meant & tracks.keys() for tracks in (here, *ahead)):
            seen = {track: sight.face for track, sight in here.items()}
            before, self._resumed = self._resumed, ()
            again = {track for face in before for track in _best(face, seen)}
            chosen = {id(face) for face in faces.choose(list(seen.values()), self._choice)}
            self._meant |= again or {track for track, face in seen.items() if id(face) in chosen}
            if again:  # whoever else is here was here before, and was not meant
                self._known |= seen.keys()
        for tracks in (here, *ahead):
            if any(track not in tracks or tracks[track].is_carried for track in self._meant):
                self._meant |= tracks.keys() - self._known
            self._known |= tracks.keys()

    def _why_not(self, tracks: Mapping[int, Sight], frame: Frame) -> dict[int, Failure | None]:
        """For each track that is meant, why it cannot be swapped in a frame; None where it can."""
        return {
            track: Failure.NO_FACE if sight.certainty == 0 else unusable(sight.face, frame, Role.TARGET, self._limits)
            for track, sight in tracks.items()
            if track in self._meant
        }

    def _shown(self, plan: _Plan, change: Change) -> Shown:
        same = {track.id: 1.0 for track in plan.moment.tracks if track.id not in change.tracks}
        self._failures.update(Failure.NOTHING_CHANGED for _ in same)
        covers = {**plan.covers, **same}
        for track, strength in covers.items():
            blending.cover(change.frame, change.mask, plan.sights[track].face, strength, plan.moment.frame)
        shown = Shown(
            index=plan.index,
            time_s=plan.moment.time_s,
            frame=change.frame,
            mask=change.mask,
            changed=len(change.tracks),
            carried=sum(plan.sights[track].is_carried for track in change.tracks),
            covered=sum(strength == 1 for strength in covers.values()),
            meant=tuple(sight.face for sight in plan.sights.values()) if plan.is_settled else (),
        )
        for name, count in (
            ("changed", shown.changed),
            ("carried", shown.carried),
            ("covered", shown.covered),
            ("meant", len(plan.sights)),
        ):
            self._counts[name] += bool(count)
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to happen to one frame."""

    index: int
    moment: Moment
    covers: Mapping[int, float]
    sights: Mapping[int, Sight]
    is_settled: bool
    """Whether everybody who is meant is in sight."""


def _strength(
    track: int,
    before: Sequence[Mapping[int, Failure | None]],
    here: Mapping[int, Failure | None],
    later: Sequence[Mapping[int, Failure | None]],
) -> float:
    """How strongly a track is covered: fully where it has to be or where that lies shortly before and shortly after; less beside that."""

    def distance(frames: Sequence[Mapping[int, Failure | None]]) -> int:
        return next((away for away, whys in enumerate(frames, start=1) if whys.get(track) is not None), _GAP + 1)

    past, future = distance(before[::-1]), distance(later)
    if here[track] is not None or past + future <= _GAP + 1:
        return 1.0
    return max(0.0, 1 - min(past, future) / _FADE)


def _best(face: Face, candidates: Mapping[int, Face]) -> list[int]:
    """The track that lies where a face was, if any does."""
    best = max(candidates, key=lambda track: overlap(face, candidates[track]), default=None)
    return [] if best is None or overlap(face, candidates[best]) < _SAME else [best]
