"""Shadow classifiers: asked after the decision, recorded whatever becomes of them, and without a say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from moderation.decision import Decision, Verdict
from moderation.errors import ClassifierUnavailable, MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.frames import DecodePlan, Limits
from moderation.media import MediaKind, Stage
from moderation.screening import Screener
from moderation.shadow import Shadowed, Shadows
from tests.builders import LOUD, QUIET, TENANT, make_classifier_version, make_facts, make_id, make_order, make_spec
from tests.fakes import DictScoreMemory, FixedClock, ListDecisionLog, ScriptedClassifier, ScriptedDecoder

NEWCOMER = make_classifier_version(name="newcomer", input=make_spec(width=64, height=64))


@dataclass
class ListShadowLog:
    heard: list[Shadowed] = field(default_factory=list)
    fault: BaseException | None = None

    async def write(self, tenant: UUID, heard: Sequence[Shadowed]) -> None:
        if self.fault is not None:
            raise self.fault
        assert {one.tenant for one in heard} == {tenant}
        self.heard += heard


@dataclass
class Hall:
    """A screener and who listens to it, with separate decoders."""

    newcomer: ScriptedClassifier = field(default_factory=lambda: ScriptedClassifier(version=NEWCOMER))
    decoder: ScriptedDecoder = field(default_factory=ScriptedDecoder)
    log: ListShadowLog = field(default_factory=ListShadowLog)
    find: Callable[[], Any] | None = None
    facts: Any = field(default_factory=make_facts)
    bounds: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def screen(self, *orders: dict[str, Any], data: bytes = b"x") -> list[Decision]:
        """Each order in turn; everybody is heard when this returns."""
        ids = count(1000)

        shadows = self.shadows(id_beside=lambda _: make_id(next(ids)))
        memory = DictScoreMemory()
        screener = Screener(
            decoder=ScriptedDecoder(facts=self.facts),
            classifiers=(ScriptedClassifier(),),
            log=ListDecisionLog(decisions=self.decisions, memory=memory),
            memory=memory,
            clock=FixedClock(),
            limits=Limits(),
            shadow=shadows,
        )
        made = [await screener.screen(data, make_order(**{"id": make_id(number), **order})) for number, order in enumerate(orders, 1)]
        if self.newcomer.gate is not None:
            self.newcomer.gate.set()
        await shadows.drain()
        return made

    def shadows(self, **changes: Any) -> Shadows:
        async def found() -> ScriptedClassifier:
            self.asked.set()
            return self.newcomer

        parts: dict[str, Any] = {
            "decoder": self.decoder,
            "classifiers": {"transformers:newcomer": self.find or found},
            "log": self.log,
            "clock": FixedClock(),
            "id_beside": lambda id: id,
            "fault": self.faults.append,
        }
        return Shadows(**{**parts, **self.bounds, **changes})


def test_its_scores_are_recorded_beside_the_decision_and_change_nothing_of_it():
    hall = Hall(newcomer=ScriptedClassifier(version=NEWCOMER, scores=LOUD))
    (decision,) = asyncio.run(hall.screen({}))
    (heard,) = hall.log.heard
    assert (decision.verdict, [sheet.classifier.name for sheet in decision.sheets]) == (Verdict.ALLOW, ["marker"])
    assert (heard.tenant, heard.decision, heard.name, heard.fault) == (TENANT, decision.id, "newcomer", None)
    assert (heard.sheet.classifier, heard.sheet.peak()) == (NEWCOMER, LOUD)
    assert {(one.category, one.classifier) for one in heard.thresholds} == {(category, "newcomer") for category in LOUD}
    assert [plan.specs for plan in hall.decoder.plans] == [(NEWCOMER.input,)]


def test_nobody_waits_for_it():
    """The decision is there while the newcomer has not even been asked."""
    hall = Hall(newcomer=ScriptedClassifier(version=NEWCOMER, gate=asyncio.Event()))
    (decision,) = asyncio.run(hall.screen({}))
    assert (decision.verdict, len(hall.log.heard)) == (Verdict.ALLOW, 1)


async def _nobody_there() -> ScriptedClassifier:
    raise ClassifierUnavailable("not started")


@pytest.mark.parametrize(
    ("hall", "fault"),
    [
        (Hall(newcomer=ScriptedClassifier(version=NEWCOMER, fault=ClassifierUnavailable("down"))), "classifier_unavailable"),
        (Hall(newcomer=ScriptedClassifier(version=NEWCOMER, short=1)), "classifier_fault"),
        (Hall(newcomer=ScriptedClassifier(version=NEWCOMER, fault=Overloaded("newcomer"))), "overloaded"),
        (Hall(newcomer=ScriptedClassifier(version=NEWCOMER, fault=ZeroDivisionError())), "could_not_judge"),
        (Hall(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TRUNCATED))), "media_refused"),
        (Hall(decoder=ScriptedDecoder(facts=make_facts(kind=MediaKind.ANIMATION, frames=2))), "could_not_judge"),
        (Hall(find=_nobody_there), "classifier_unavailable"),
    ],
    ids=["down", "short", "full", "broken", "refused", "other frames", "absent"],
)
def test_whatever_goes_wrong_with_it_is_recorded_and_the_decision_is_as_without_it(hall, fault):
    (decision,) = asyncio.run(hall.screen({}))
    assert (decision.verdict, decision.reasons) == (Verdict.ALLOW, ())
    (heard,) = hall.log.heard
    assert (heard.sheet, heard.thresholds, heard.fault, heard.name) == (None, (), fault, "transformers:newcomer")
    assert hall.faults == [f"shadow_{fault}"]


def test_a_record_that_does_not_take_it_is_no_fault_of_the_decision():
    hall = Hall(log=ListShadowLog(fault=RecordUnavailable("down")))
    (decision,) = asyncio.run(hall.screen({}))
    assert (decision.verdict, hall.faults) == (Verdict.ALLOW, ["shadow_not_recorded"])


@pytest.mark.parametrize("bounds", [{"most_waiting": 1}, {"most_bytes": 1}])
def test_of_more_than_can_wait_it_is_recorded_that_nobody_was_asked(bounds):
    hall = Hall(newcomer=ScriptedClassifier(version=NEWCOMER, gate=asyncio.Event()), bounds=bounds)
    decisions = asyncio.run(hall.screen({}, {"strict": True}, {"strict": True}))
    assert [(one.decision, one.fault) for one in sorted(hall.log.heard, key=lambda one: one.decision)] == [
        (decisions[0].id, None),
        (decisions[1].id, "overloaded"),
        (decisions[2].id, "overloaded"),
    ]


def test_what_could_not_be_opened_and_what_was_judged_before_is_not_asked_about():
    hall = Hall()
    first, again = asyncio.run(hall.screen({}, {}))
    assert again.reused_from == first.id
    assert [one.decision for one in hall.log.heard] == [first.id]


def test_of_a_video_it_sees_the_frames_that_were_decided_on():
    facts = make_facts(kind=MediaKind.VIDEO, type="video/mp4", frames=3, frames_declared=90, sampled=(0, 1, 2), seed=1)
    hall = Hall(facts=facts, decoder=ScriptedDecoder(facts=facts))
    asyncio.run(hall.screen({}))
    assert [plan.only for plan in hall.decoder.plans] == [(0, 1, 2)]
    assert [frame.frame for frame in hall.log.heard[0].sheet.frames] == [0, 1, 2]


def test_of_what_we_made_ourselves_it_sees_every_frame():
    hall = Hall()
    asyncio.run(hall.screen({"stage": Stage.OUTPUT}))
    (plan,) = hall.decoder.plans
    assert (plan.only, plan.sampling) == (None, None)
    assert hall.log.heard[0].sheet.peak() == QUIET


def test_what_waits_is_given_up_on_closing():
    async def story():
        hall = Hall(newcomer=ScriptedClassifier(version=NEWCOMER, gate=asyncio.Event()))
        (decision,) = await Hall().screen({})
        shadows = hall.shadows()
        shadows.begin(b"x", decision, DecodePlan(specs=()), make_order().policy)
        await hall.asked.wait()
        await shadows.close()
        return hall.log.heard

    assert asyncio.run(story()) == []
