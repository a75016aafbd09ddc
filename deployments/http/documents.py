"""A decision as callers see it: one pure function, fields in a fixed order, so that the same decision is the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

from deployments.ids import to_wire
from moderation.audit import rfc3339
from moderation.decision import Decision, Reason, ReasonCode
from moderation.log import Receipt
from moderation.media import Media, MediaKind
from moderation.scores import ClassifierScores, as_decimal
from moderation.transform import Review

_T = TypeVar("_T")

_US: Final = 1_000_000


def decision_document(decision: Decision, review: Review | None = None, receipt: Receipt | None = None) -> dict[str, object]:
    """The decision object of the contract. `review` is the latest one, where a person has reviewed it."""
    return {
        "id": to_wire("dec", decision.id),
        "object": "decision",
        "status": "done",
        "verdict": str(decision.verdict),
        "effective_verdict": str(decision.verdict if review is None else review.verdict),
        "superseded_by": None if review is None else to_wire("rev", review.id),
        "stage": str(decision.stage),
        "media": _media(decision.media),
        "reasons": [reason_document(reason) for reason in decision.reasons],
        "scores": _decimals(decision.scores()),
        "segments": list(_segments(decision)),
        "classifiers": [_classifier(sheet) for sheet in decision.sheets],
        "policy": {"name": decision.policy.name, "version": decision.policy.version, "digest": decision.policy.digest},
        "reference": decision.reference,
        "automated": decision.automated,
        "created_at": rfc3339(decision.created_at),
        "receipt": None if receipt is None else {"leaf": receipt.leaf.hex(), "by": rfc3339(receipt.by), "note": receipt.note},
    }


def _media(media: Media) -> dict[str, object]:
    facts = media.facts
    return {
        "sha256": media.sha256,
        "kind": str(facts.kind) if facts else None,
        "type": facts.type if facts else None,
        "bytes": media.size,
        "width": facts.width if facts else None,
        "height": facts.height if facts else None,
        "frames": facts.frames if facts else 0,
        "frames_declared": facts.frames_declared if facts else None,
        "duration_s": _seconds(facts.duration_us) if facts else None,
        "unscreened": [str(what) for what in facts.unscreened] if facts else [],
    }


def reason_document(reason: Reason) -> dict[str, object]:
    """One reason of a decision or a denial."""
    return {
        "code": str(reason.code),
        "category": reason.category,
        "score": _decimal(reason.score),
        "threshold": _decimal(reason.threshold),
        "classifier": reason.classifier,
        "frame": reason.frame,
        "time_s": _seconds(reason.time_us),
        "box": None if reason.box is None else list(reason.box),
        "detail": _detail(reason),
    }


def _detail(reason: Reason) -> str | None:
    """Where a person blocks, the review as callers know it."""
    if reason.code is ReasonCode.BLOCKED_BY_PERSON and reason.detail is not None:
        return to_wire("rev", UUID(reason.detail))
    return reason.detail


def _classifier(sheet: ClassifierScores) -> dict[str, object]:
    version = sheet.classifier
    return {"name": version.name, "version": version.version, "digest": version.digest, "scores": _decimals(sheet.peak())}


def _segments(decision: Decision) -> Iterator[Mapping[str, object]]:
    """Runs of consecutive frames that reach a threshold, each from its first frame to the frame after its last."""
    facts = decision.media.facts
    if facts is None or facts.kind is MediaKind.IMAGE:
        return
    found = [
        segment
        for threshold in decision.thresholds
        for sheet in decision.sheets
        if sheet.classifier.name == threshold.classifier
        for segment in _runs(sheet, threshold.category, _lowest(threshold.block_at, threshold.review_at), facts.duration_us)
    ]
    for start, end, category, peak in sorted(found):
        yield {"start_s": start / _US, "end_s": end / _US, "category": category, "peak": as_decimal(peak)}


def _runs(sheet: ClassifierScores, category: str, level: int | None, duration_us: int | None) -> Iterator[tuple[int, int, str, int]]:
    if level is None:
        return
    times = [frame.time_us or 0 for frame in sheet.frames]
    scores = [frame.scores.get(category, -1) for frame in sheet.frames]
    ends = [*times[1:], max([*times[-1:], duration_us or 0])]
    start = None
    for at, score in enumerate(scores):
        if score >= level and start is None:
            start = at
        if start is not None and (at + 1 == len(scores) or scores[at + 1] < level):
            yield times[start], ends[at], category, max(scores[start : at + 1])
            start = None


def _lowest(*thresholds: int | None) -> int | None:
    return min((threshold for threshold in thresholds if threshold is not None), default=None)


def _decimals(scores: Mapping[str, int]) -> dict[str, object]:
    """Sorted: a mapping that went through the record comes back in another order."""
    return {category: as_decimal(scores[category]) for category in sorted(scores)}


def _decimal(score: int | None) -> str | None:
    return None if score is None else as_decimal(score)


def _seconds(time_us: int | None) -> float | None:
    return None if time_us is None else time_us / _US


def page_of(found: Sequence[_T], limit: int, cursor_of: Callable[[_T], str]) -> tuple[Sequence[_T], str | None]:
    """The first `limit` of what was read, one more than that, and the cursor of the next page where there is one."""
    page = found[:limit]
    return page, cursor_of(page[-1]) if len(found) > len(page) else None


def listed(items: Sequence[object], next_cursor: str | None) -> dict[str, object]:
    """The list object of the contract."""
    return {"object": "list", "data": items, "next_cursor": next_cursor}
