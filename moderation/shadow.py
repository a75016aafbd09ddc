"""Shadow classifiers: heard beside those that decide, and never listened to.

A newcomer is compared with what is in force on the media that really come in, before any policy relies on it. So it is asked once the
decision is committed, on the same bytes and the same frames, through a decode child and a queue of its own: nobody waits for it,
nothing that decides has less room because of it, and whatever goes wrong with it is recorded beside the decision and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol, TypeAlias
from uuid import UUID

from moderation.decision import Decision, ReasonCode, Threshold
from moderation.errors import CannotJudge, MediaRefused, Overloaded, RecordUnavailable
from moderation.frames import DecodePlan
from moderation.media import MediaKind
from moderation.policy import Policy, thresholds_under
from moderation.ports import Classifier, Clock, Decoder
from moderation.scores import ClassifierScores
from moderation.screening import Gathering

MOST_WAITING: Final = 64
"""Media that wait for the shadow classifiers; of more it is recorded that nobody was asked."""
MOST_BYTES: Final = 64_000_000
"""Bytes of these together."""
_MOST_UNWRITTEN: Final = 10_000
OVERLOADED: Final = "overloaded"
_logger: Final = logging.getLogger(__name__)

Find: TypeAlias = Callable[[], Awaitable[Classifier]]
"""Gives the classifier. Raises ClassifierUnavailable while there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """What one shadow classifier gave for the media of one decision: all its scores, or why there are none."""

    id: UUID
    tenant: UUID
    decision: UUID
    name: str
    """The classifier's, or where it was never reached that under which it is configured."""
    sheet: ClassifierScores | None
    thresholds: tuple[Threshold, ...]
    """What would have applied to its scores under the policy that decided."""
    fault: str | None
    at: datetime


class ShadowLog(Protocol):
    """Where it is kept."""

    async def write(self, tenant: UUID, heard: Sequence[Shadowed]) -> None:
        """Commit all of it with its entries. Raises RecordUnavailable."""


class Shadows:
    """Asks shadow classifiers about what was decided, one media after the other."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        classifiers: Mapping[str, Find],
        log: ShadowLog,
        clock: Clock,
        id_beside: Callable[[UUID], UUID],
        fault: Callable[[str], None] = lambda _code: None,
        most_waiting: int = MOST_WAITING,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._decoder = decoder
        self._classifiers = classifiers
        self._log = log
        self._clock = clock
        self._id_beside = id_beside
        self._fault = fault
        self._most_waiting = most_waiting
        self._most_bytes = most_bytes
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._unwritten: list[Shadowed] = []

    def begin(self, data: bytes, decision: Decision, plan: DecodePlan, policy: Policy) -> None:
        """Have the media of a committed decision judged in its shadow, some time later. Never waits and never raises."""
        if decision.media.facts is None or decision.reused_from is not None:
            return  # nothing was there to judge, or nobody was asked this time
        if len(self._tasks) >= self._most_waiting or (self._tasks and self._bytes + len(data) > self._most_bytes):
            self._note(self._nobody(decision, name, OVERLOADED) for name in self._classifiers)
            return
        self._bytes += len(data)
        task = asyncio.get_running_loop().create_task(self._judge(data, decision, plan, policy))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(done, len(data)))

    async def drain(self) -> None:
        """Return when nothing waits any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Give up what waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[None], size: int) -> None:
        self._tasks.discard(task)
        self._bytes -= size
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a shadow was lost", exc_info=task.exception())

    async def _judge(self, data: bytes, decision: Decision, plan: DecodePlan, policy: Policy) -> None:
        async with self._turn:
            for name, find in self._classifiers.items():
                self._note([await self._heard(name, find, data, decision, plan, policy)])
            while self._unwritten:  # also what was noted meanwhile
                await self._write()

    async def _heard(self, name: str, find: Find, data: bytes, decision: Decision, plan: DecodePlan, policy: Policy) -> Shadowed:
        try:
            classifier = await find()
            sheet = await self._sheet(classifier, data, decision, plan)
        except CannotJudge as fault:
            return self._nobody(decision, name, fault.code)
        except Overloaded:
            return self._nobody(decision, name, OVERLOADED)
        except MediaRefused:  # what one decoder took, another may refuse while versions change
            return self._nobody(decision, name, ReasonCode.MEDIA_REFUSED)
        except Exception:  # a fault nobody foresaw is recorded like all others
            _logger.exception("shadow classifier %s", name)
            return self._nobody(decision, name, CannotJudge.code)
        applied = tuple(thresholds_under(decision.stage, (classifier.version,), policy))
        return replace(self._nobody(decision, classifier.version.name, None), sheet=sheet, thresholds=applied)

    async def _sheet(self, classifier: Classifier, data: bytes, decision: Decision, plan: DecodePlan) -> ClassifierScores:
        """Its scores for exactly the frames that were decided on. Raises CannotJudge where it does not have one for each."""
        facts = decision.media.facts
        is_sampled = facts is not None and facts.kind is MediaKind.VIDEO and facts.sampled
        own = replace(plan, specs=(classifier.version.input,), only=facts.sampled if facts is not None and is_sampled else None)
        async with Gathering((classifier,)) as gathering:
            await self._decoder.decode(data, own, gathering.deliver)
            (sheet,) = await gathering.finish()
        if facts is None or tuple(frame.frame for frame in sheet.frames) != facts.frame_numbers():
            raise CannotJudge("it has not seen the frames that were decided on")
        return sheet

    def _note(self, heard: Iterable[Shadowed]) -> None:
        for one in heard:
            if one.fault is not None:
                self._fault(f"shadow_{one.fault}")
            if len(self._unwritten) < _MOST_UNWRITTEN:
                self._unwritten.append(one)

    async def _write(self) -> None:
        """Write down what is known by now. What cannot be written is lost: nothing depends on it."""
        heard, self._unwritten = self._unwritten, []
        by_tenant: dict[UUID, list[Shadowed]] = defaultdict(list)
        for one in heard:
            by_tenant[one.tenant].append(one)
        for tenant, own in by_tenant.items():
            try:
                await self._log.write(tenant, own)
            except RecordUnavailable as fault:
                self._fault("shadow_not_recorded")
                _logger.warning("%d answers in shadow not recorded: %s", len(own), fault)

    def _nobody(self, decision: Decision, name: str, fault: str | None) -> Shadowed:
        return Shadowed(
            id=self._id_beside(decision.id),
            tenant=decision.tenant,
            decision=decision.id,
            name=name,
            sheet=None,
            thresholds=(),
            fault=fault,
            at=self._clock(),
        )
