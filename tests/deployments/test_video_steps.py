"""What the segments of a video were seen to show, before they are joined."""

from __future__ import annotations

import pytest

from deployments.video_steps import shown_by
from moderation.decision import Verdict
from moderation.errors import CannotJudge, FactsChanged
from moderation.gate import Facts, Judged, Segment
from moderation.media import Media, MediaKind, Stage
from moderation.transform import Committed, State
from tests.builders import make_event, make_facts, make_id, make_screened, make_segment, make_transform

FRAMES = 3


def seen(*frames: int, judged: int | None = None) -> tuple[Committed, Facts]:
    """A video of segments of `FRAMES` frames each, that were seen with so many; the gate knows decisions about `judged` of them."""
    parts = [make_segment(number, frames=FRAMES) for number, _ in enumerate(frames, 1)]
    films = [make_facts(type="video/mp4", kind=MediaKind.VIDEO, frames=count) for count in frames]
    decisions = [
        make_screened(Stage.OUTPUT, id=make_id(20 + number), media=Media(sha256=part.sha256, size=part.size, facts=film))
        for number, (part, film) in enumerate(zip(parts, films, strict=True))
    ]
    passed = [Judged(decision=one.id, pinned=Verdict.ALLOW, in_force=Verdict.ALLOW) for one in decisions[:judged]]
    segments = [Segment(judged=one, is_last=False) for one in (*passed, *[None] * (len(parts) - len(passed)))]
    committed = Committed(
        transform=make_transform(), events=(make_event(State.TRANSFORMING),), decisions=tuple(decisions), parts=tuple(parts)
    )
    return committed, Facts(judged={}, is_video=True, segments=tuple(segments))


def test_what_the_segments_show_is_said_in_their_order():
    committed, facts = seen(FRAMES, FRAMES)
    assert shown_by(committed, facts) == [one.media.facts for one in committed.decisions]


@pytest.mark.parametrize("frames", [(FRAMES - 1, FRAMES), (FRAMES, FRAMES + 1)])
def test_a_segment_that_was_seen_with_other_frames_than_it_was_made_of_is_a_fault_and_not_looked_at_again_and_again(frames):
    with pytest.raises(CannotJudge):
        shown_by(*seen(*frames))


def test_a_segment_that_has_no_decision_any_more_is_looked_at_again():
    with pytest.raises(FactsChanged):
        shown_by(*seen(FRAMES, FRAMES, judged=1))
