"""A video that was joined from pieces is judged on what these were given, as one video, and only where that is sound."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from moderation.decision import Decision, Verdict
from moderation.frames import Limits
from moderation.media import Media, MediaKind, Stage, Unscreened
from moderation.policy import decide
from moderation.scores import InputScores
from moderation.screening import MAX_DETECTIONS, Screener, joined_sheets
from tests.builders import LOUD, QUIET, make_detection, make_facts, make_id, make_order, make_policy
from tests.fakes import DictScoreMemory, FixedClock, ListDecisionLog, ScriptedClassifier, ScriptedDecoder

HELD = {"sexual.nudity_explicit": 300_000, "sexual.suggestive": 50_000}
FRAMES = 3
VIDEO = make_facts(type="video/mp4", kind=MediaKind.VIDEO, frames=FRAMES, frames_declared=FRAMES, duration_us=1_500_000)


class Bench:
    """A screener whose classifier gives these scores to the frames of piece after piece."""

    def __init__(self, *scores, **changes):
        self._given = iter(scores)
        self.log = ListDecisionLog()
        self.decoder = ScriptedDecoder(facts=VIDEO, **changes)
        self.classifier = ScriptedClassifier(answer=lambda _: next(self._given))
        self.screener = Screener(
            decoder=self.decoder,
            classifiers=(self.classifier,),
            log=self.log,
            memory=DictScoreMemory(),
            clock=FixedClock(),
            limits=Limits(),
        )

    def piece(self, number: int, **order) -> Decision:
        return asyncio.run(self.screener.screen(b"piece %d" % number, make_order(id=make_id(number), stage=Stage.OUTPUT, **order)))

    def join(self, *pieces: Decision, frames: int = 2 * FRAMES, **order) -> Decision:
        media = Media(sha256="ab" * 32, size=99, facts=replace(VIDEO, frames=frames, duration_us=3_000_000))
        return asyncio.run(self.screener.join(media, make_order(id=make_id(9), stage=Stage.OUTPUT, **order), pieces))


def answers(*scores) -> list[InputScores]:
    return [InputScores(scores=one) for one in scores]


def two_pieces(*scores) -> tuple[Bench, Decision, Decision]:
    bench = Bench(*answers(*scores))
    return bench, bench.piece(1), bench.piece(2)


def test_scores_go_on_counting_in_frames_and_in_time():
    bench, first, second = two_pieces(QUIET, QUIET, HELD, QUIET, LOUD, QUIET)
    (sheet,) = joined_sheets([first, second])
    assert [row.frame for row in sheet.frames] == list(range(6))
    assert [row.time_us for row in sheet.frames] == [0, 500_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000]
    assert [row.scores for row in sheet.frames] == [QUIET, QUIET, HELD, QUIET, LOUD, QUIET]
    assert sheet.classifier == bench.classifier.version


def test_times_of_a_piece_count_from_its_own_beginning_wherever_its_decoder_began():
    _, first, second = two_pieces(*[QUIET] * 6)
    late = replace(second.sheets[0], frames=tuple(replace(row, time_us=row.time_us + 77_000) for row in second.sheets[0].frames))
    assert joined_sheets([first, replace(second, sheets=(late,))]) == joined_sheets([first, second])


def test_the_whole_is_decided_as_a_video_with_these_scores_would_be():
    for scores, verdict in (([QUIET] * 6, Verdict.ALLOW), ([*[QUIET] * 5, HELD], Verdict.REVIEW), ([LOUD, *[QUIET] * 5], Verdict.BLOCK)):
        bench, first, second = two_pieces(*scores)
        whole = bench.join(first, second)
        assert whole.verdict is verdict
        again = decide(
            stage=Stage.OUTPUT,
            facts=whole.media.facts,
            required=[bench.classifier.version],
            sheets=whole.sheets,
            policy=make_policy(),
        )
        assert (again.verdict, again.reasons) == (whole.verdict, whole.reasons)
        assert bench.log.decisions == [first, second, whole]
        assert (whole.media.sha256, whole.media.size, whole.stage) == ("ab" * 32, 99, Stage.OUTPUT)
        assert (whole.plan_digest, whole.decoder, whole.policy) == (first.plan_digest, first.decoder, first.policy)


def test_the_strongest_places_of_all_pieces_stay_with_the_numbers_of_their_frames():
    found = [make_detection(score=10_000 + number) for number in range(40)]
    bench = Bench(*[InputScores(scores=QUIET, detections=tuple(found))] * 6)
    whole = bench.join(bench.piece(1), bench.piece(2))
    places = whole.sheets[0].detections
    assert len(places) == MAX_DETECTIONS
    assert [frame for frame, _ in places[:6]] == list(range(6))
    assert places[0][1].score == 10_039


def test_what_was_not_judged_in_any_piece_was_not_judged_in_the_whole():
    bench, first, second = two_pieces(*[QUIET] * 6)
    heard = replace(second, media=replace(second.media, facts=replace(VIDEO, unscreened=(Unscreened.AUDIO,))))
    policy = make_policy(unscreened={Unscreened.AUDIO: Verdict.BLOCK})
    with pytest.raises(ValueError, match="judged"):
        bench.join(first, heard, policy=policy)
    assert bench.join(first, heard).media.facts.unscreened == (Unscreened.AUDIO,)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"plan_digest": "sha256:" + "0" * 64},
        {"decoder": "scripted/2"},
        {"sheets": ()},
        {"policy": None},
    ],
    ids=["plan", "decoder", "classifiers", "policy"],
)
def test_pieces_that_were_not_judged_as_the_whole_would_be_are_no_ground(spoiled):
    bench, first, second = two_pieces(*[QUIET] * 6)
    changed = {"policy": replace(first.policy, digest="sha256:00")} if "policy" in spoiled else spoiled
    for pieces in ((first, replace(second, **changed)), (replace(first, **changed),) * 2, ()):
        with pytest.raises(ValueError, match="not judged"):
            bench.join(*pieces)
    assert len(bench.log.decisions) == 2


@pytest.mark.parametrize("frames", [5, 7])
def test_a_whole_with_other_frames_than_its_pieces_is_refused(frames):
    bench, first, second = two_pieces(*[QUIET] * 6)
    with pytest.raises(ValueError, match="other frames"):
        bench.join(first, second, frames=frames)
    assert len(bench.log.decisions) == 2
