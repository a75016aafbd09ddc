"""Rekognition's answer about a video made of a decision. Pure. Times are milliseconds on the wire, microseconds until then.

Labels are those of the frames that were looked at, from the job's MinConfidence up, and in any case those of what stops the video; what
has no place in time stands at the first frame. A segment is a run of such frames
that follow each other, from the first one to the frame after the last, as in the `segments` of our own answers.
Level 3 names places, of which only the strongest are kept (`moderation.screening.MAX_DETECTIONS`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from deployments.http.rekognition_requests import AggregateBy, Get, SortBy, no_such_page
from deployments.http.rekognition_view import TAXONOMY, causes_of, content_types, label_document, labels_of
from moderation.decision import Decision, Verdict
from moderation.media import Facts
from moderation.scores import Detection
from moderation.taxonomy import ModerationLabel

_FORMATS: Final = {"video/mp4": "MP4", "video/quicktime": "MOV", "video/x-matroska": "MKV", "video/webm": "WEBM"}
_TOKEN: Final = re.compile(r"([0-9]{1,9})-([0-9a-f]{32})")
_US_IN_MS: Final = 1000
_US_IN_S: Final = 1_000_000

_Key: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One frame that was looked at: over all classifiers the highest scores, and the places that were kept. It lasts until `until_us`."""

    at_us: int
    until_us: int
    scores: Mapping[str, int]
    places: Sequence[Detection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A label at one moment, or over the segment that begins there. `context` holds the highest scores of its moments."""

    label: ModerationLabel
    at_us: int
    until_us: int
    context: Mapping[str, int]


def moderation_document(decision: Decision, asked: Get, at_least: int, *, review: Verdict | None = None) -> dict[str, object]:
    """The part of `GetContentModeration` that a decision tells, and a person's word about it. Raises ApiError on a token of another list."""
    found = sightings(decision, asked, at_least, causes_of(decision, review))
    first = _first(asked, len(found))
    page = found[first : first + asked.most]
    document: dict[str, object] = {
        "VideoMetadata": {} if decision.media.facts is None else _metadata(decision.media.facts),
        "ModerationLabels": [_sighting_document(sighting, asked.aggregate_by, at_least) for sighting in page],
        "ModerationModelVersion": TAXONOMY,
    }
    if first + len(page) < len(found):
        document["NextToken"] = _token(asked, first + len(page), len(found))
    return document


def sightings(decision: Decision, asked: Get, at_least: int, causes: Mapping[str | None, int]) -> list[Sighting]:
    """All labels of a video from `at_least` up, and of `causes`, in the order that was asked for."""
    each = list(_labels_of_moments(_moments(decision), at_least, causes))
    found = list(_segments(each)) if asked.aggregate_by is AggregateBy.SEGMENTS else [sighting for here in each for sighting in here]
    if asked.sort_by is SortBy.NAME:
        return sorted(found, key=lambda one: (one.label.name, one.label.parent, -one.label.confidence, one.at_us))
    return sorted(found, key=lambda one: (one.at_us, -one.label.confidence, one.label.level, one.label.name))


def _moments(decision: Decision) -> list[Moment]:
    """The frames that were looked at, in order."""
    times: dict[int, int] = {}
    scores: dict[int, dict[str, int]] = {}
    places: dict[int, list[Detection]] = {}
    for sheet in decision.sheets:
        for frame in sheet.frames:
            times[frame.frame] = frame.time_us or 0
            scores[frame.frame] = _highest(scores.get(frame.frame, {}), frame.scores)
        for number, place in sheet.detections:
            places.setdefault(number, []).append(place)
    numbers = sorted(times)
    facts = decision.media.facts
    last = times[numbers[-1]] if numbers else 0
    ends = [*(times[number] for number in numbers[1:]), max(last, (facts and facts.duration_us) or 0)]
    return [
        Moment(at_us=times[number], until_us=end, scores=scores[number], places=places.get(number, ()))
        for number, end in zip(numbers, ends, strict=True)
    ]


def _labels_of_moments(moments: Sequence[Moment], at_least: int, causes: Mapping[str | None, int]) -> Iterator[list[Sighting]]:
    """The labels of each moment."""
    for now in moments:
        yield [
            Sighting(label=label, at_us=now.at_us, until_us=now.until_us, context=now.scores)
            for label in labels_of(now.scores, now.places, at_least, causes)
        ]
        causes = {category: score for category, score in causes.items() if category is not None}


def _segments(each: Sequence[Sequence[Sighting]]) -> Iterator[Sighting]:
    """Runs of moments that follow each other, joined label by label; the surest moment says how sure a segment is."""
    running: dict[_Key, Sighting] = {}
    for here in each:
        now = {_key(sighting.label): sighting for sighting in here}
        yield from (segment for key, segment in running.items() if key not in now)
        running = {key: _joined(running[key], sighting) if key in running else sighting for key, sighting in now.items()}
    yield from running.values()


def _joined(segment: Sighting, now: Sighting) -> Sighting:
    surest = max(segment.label, now.label, key=lambda label: label.confidence)
    return replace(segment, label=surest, until_us=now.until_us, context=_highest(segment.context, now.context))


def _key(label: ModerationLabel) -> _Key:
    return label.name, label.parent, label.level


def _highest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def _sighting_document(found: Sighting, aggregate_by: AggregateBy, at_least: int) -> dict[str, object]:
    start, end = found.at_us // _US_IN_MS, found.until_us // _US_IN_MS
    span = {"StartTimestampMillis": start, "EndTimestampMillis": end, "DurationMillis": end - start}
    return {
        "Timestamp": start,
        "ModerationLabel": label_document(found.label),
        **(span if aggregate_by is AggregateBy.SEGMENTS else {}),
        "ContentTypes": content_types(found.context, at_least),
    }


def _metadata(facts: Facts) -> dict[str, object]:
    """What is known of the video; codec and range of colours are not."""
    found: dict[str, object] = {
        "Format": _FORMATS.get(facts.type, facts.type.rpartition("/")[2].upper()),
        "FrameWidth": facts.width,
        "FrameHeight": facts.height,
    }
    if facts.duration_us:
        found["DurationMillis"] = facts.duration_us // _US_IN_MS
        if facts.frames_declared:
            found["FrameRate"] = round(facts.frames_declared * _US_IN_S / facts.duration_us, 3)
    return found


def _first(asked: Get, total: int) -> int:
    """Where the page begins."""
    if asked.next_token is None:
        return 0
    given = _TOKEN.fullmatch(asked.next_token)
    first = int(given[1]) if given else 0
    if not 0 < first < total or asked.next_token != _token(asked, first, total):
        raise no_such_page()
    return first


def _token(asked: Get, first: int, total: int) -> str:
    """Names a page of just this list, so that one of another list, job or order is told. It opens nothing that is not open anyway."""
    bound = f"{asked.job} {asked.sort_by} {asked.aggregate_by} {first} {total}"
    return f"{first}-{hashlib.sha256(bound.encode()).hexdigest()[:32]}"
