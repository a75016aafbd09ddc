from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments import telemetry
from deployments.job_loop import GIVEN_BACK_AT_MOST
from deployments.screening_worker import AREA, KIND, HeldMedia, ScreeningWorker, job_payload, order_of
from moderation.adapters.areas import Area, object_name
from moderation.adapters.queue import MAX_ATTEMPTS
from moderation.decision import Decision, ReasonCode, Verdict
from moderation.errors import ClassifierUnavailable, DecoderUnavailable, MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.frames import Limits
from moderation.media import Media, sha256_of
from moderation.ports import Job, QueueState
from moderation.screening import Screener
from tests.builders import LOUD, QUIET, TENANT, jpeg_bytes, make_id, make_order, make_policy
from tests.fakes import (
    DictMediaStore,
    DictPolicyShelf,
    DictScoreMemory,
    FixedClock,
    ListDecisionLog,
    ListQueue,
    ScriptedClassifier,
    ScriptedDecoder,
)

PICTURE = jpeg_bytes()
NAME = object_name(TENANT, make_id(), sha256_of(PICTURE))


class Workshop:
    """A worker over fakes with one job that waits for it."""

    def __init__(self, **parts: Any) -> None:
        self.queue = ListQueue()
        self.log = ListDecisionLog(queue=self.queue)
        self.store = DictMediaStore(files={(AREA, NAME): PICTURE})
        self.areas = DictMediaStore()
        self.alarms: list[str] = []
        self.policies = DictPolicyShelf(shelf={(TENANT, "default"): [make_policy()]})
        self.decoder = parts.get("decoder", ScriptedDecoder())
        self.classifier = parts.get("classifier", ScriptedClassifier())
        screener = Screener(
            decoder=self.decoder,
            classifiers=[self.classifier],
            log=self.log,
            memory=DictScoreMemory(),
            clock=FixedClock(),
            limits=Limits(),
        )
        self.worker = ScreeningWorker(
            screener=screener,
            reader=self.log,
            policies=self.policies,
            queue=self.queue,
            store=self.store,
            keep=HeldMedia(Area(self.areas, "quarantine"), self.alarms.append),
            lease_s=parts.get("lease_s", 30.0),
        )
        self.order = make_order(reference="order-17", strict=True, declared_type="image/jpeg")

    def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            await self.queue.put(id=self.order.id, tenant=TENANT, kind=KIND, payload=job_payload(self.order, Media.of(PICTURE)))
            return await work()

        return asyncio.run(main())

    def once(self) -> bool:
        done: bool = self.run(self.worker.run_once)
        return done

    def attempts(self, number: int) -> None:
        """Put the job, and take it so many times."""

        async def repeatedly() -> None:
            for _ in range(number):
                await self.worker.run_once()

        self.run(repeatedly)

    def said(self) -> tuple[Verdict, ReasonCode, str | None]:
        """What the one decision says first."""
        (decision,) = self.log.decisions
        assert isinstance(decision, Decision)
        return decision.verdict, decision.reasons[0].code, decision.reasons[0].detail

    @property
    def state(self) -> QueueState:
        return self.queue.states[self.order.id]


def test_a_job_becomes_the_decision_that_the_request_would_have_become() -> None:
    shop = Workshop()
    assert shop.once()
    (decision,) = shop.log.decisions
    assert (decision.id, decision.tenant, decision.actor) == (shop.order.id, TENANT, shop.order.actor)
    assert (decision.request_id, decision.reference) == (shop.order.request_id, "order-17")
    assert shop.decoder.plans[0].strict
    assert shop.decoder.plans[0].declared_type == "image/jpeg"
    assert shop.state is QueueState.DONE
    assert shop.store.files == {}


def ended() -> dict[str, float]:
    """How many screenings have ended in which way so far, as `/metrics` says it."""
    lines = [line for line in telemetry.render().splitlines() if line.startswith("facegate_jobs_total{")]
    return {line.split('end="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines if f'kind="{KIND}"' in line}


def test_how_work_ended_is_counted() -> None:
    before = ended()
    Workshop().once()
    broken, full = Workshop(), Workshop(decoder=ScriptedDecoder(fault=Overloaded("x")))
    broken.log.fault = RecordUnavailable("x")
    full.once()
    broken.attempts(MAX_ATTEMPTS)
    after, ends = ended(), {"done": 1, "failed": MAX_ATTEMPTS - 1, "parked": 1, "given_back": 1}
    assert {end: after[end] - before.get(end, 0) for end in ends} == ends


def test_an_order_survives_its_payload() -> None:
    order = make_order(reference="r", strict=True, declared_type="image/png")
    job = Job(id=order.id, tenant=order.tenant, kind=KIND, payload=job_payload(order, Media.of(PICTURE)), fence=1, attempt=1)
    assert order_of(job, order.policy) == order


def test_without_a_job_nothing_is_done() -> None:
    shop = Workshop()
    assert not asyncio.run(shop.worker.run_once())


def test_the_policy_is_the_version_that_was_in_force_at_acceptance() -> None:
    shop = Workshop()
    shop.policies.shelf[TENANT, "default"].append(make_policy(version=2, ignore=("ctx.*", "test.*")))
    shop.once()
    assert shop.log.decisions[0].policy.version == 1


def test_a_refusal_of_the_media_is_final_at_once() -> None:
    shop = Workshop(decoder=ScriptedDecoder(fault=MediaRefused(Refusal.TRUNCATED)))
    shop.once()
    assert shop.said() == (Verdict.ERROR, ReasonCode.MEDIA_REFUSED, "truncated")
    assert shop.state is QueueState.DONE
    assert shop.store.files == {}


FAULTS = [
    ({"classifier": ScriptedClassifier(fault=ClassifierUnavailable("x"))}, ReasonCode.CLASSIFIER_UNAVAILABLE),
    ({"classifier": ScriptedClassifier(scores={"sexual.nudity_explicit": 0})}, ReasonCode.CLASSIFIER_FAULT),
    ({"decoder": ScriptedDecoder(fault=DecoderUnavailable("x"))}, ReasonCode.DECODER_UNAVAILABLE),
    ({"decoder": ScriptedDecoder(fault=ZeroDivisionError())}, ReasonCode.COULD_NOT_JUDGE),
]


@pytest.mark.parametrize(("parts", "code"), FAULTS, ids=[code for _, code in FAULTS])
def test_a_fault_of_ours_leaves_no_decision_until_the_last_attempt_which_says_it(parts: dict[str, Any], code: ReasonCode) -> None:
    shop = Workshop(**parts)
    shop.attempts(MAX_ATTEMPTS - 1)
    assert (shop.log.decisions, shop.state, len(shop.store.files)) == ([], QueueState.QUEUED, 1)
    asyncio.run(shop.worker.run_once())
    assert shop.said() == (Verdict.ERROR, code, None)
    assert shop.state is QueueState.DONE
    assert shop.store.files == {}


def test_a_fault_that_passes_loses_nothing() -> None:
    shop = Workshop(classifier=ScriptedClassifier(fault=ClassifierUnavailable("x")))
    shop.once()
    shop.classifier.fault = None
    asyncio.run(shop.worker.run_once())
    assert [decision.verdict for decision in shop.log.decisions] == [Verdict.ALLOW]
    assert shop.state is QueueState.DONE


@pytest.mark.parametrize("part", ["log", "store", "policies"])
def test_trouble_of_ours_puts_the_job_back_with_its_bytes(part: str) -> None:
    shop = Workshop()
    getattr(shop, part).fault = RecordUnavailable("x")
    shop.once()
    assert shop.state is QueueState.QUEUED
    assert shop.queue.reasons == {shop.order.id: "RecordUnavailable"}
    assert shop.log.decisions == []
    assert len(shop.store.files) == 1


def test_an_attempt_without_room_is_none_and_comes_back_when_there_may_be_some() -> None:
    shop = Workshop(decoder=ScriptedDecoder(fault=Overloaded("x", retry_after_s=17.0)))
    assert not shop.once()
    assert (shop.state, shop.log.decisions, shop.queue.jobs[shop.order.id].attempt) == (QueueState.QUEUED, [], 0)
    for _ in range(9):
        asyncio.run(shop.worker.run_once())
    assert shop.queue.jobs[shop.order.id].attempt == 0
    assert all(17.0 <= pause_s <= 45.0 for pause_s in shop.queue.pauses_s)
    shop.decoder.fault = None
    asyncio.run(shop.worker.run_once())
    assert [decision.verdict for decision in shop.log.decisions] == [Verdict.ALLOW]


def test_want_of_room_that_does_not_end_is_at_last_said() -> None:
    shop = Workshop(decoder=ScriptedDecoder(fault=Overloaded("x")))
    shop.attempts(GIVEN_BACK_AT_MOST + MAX_ATTEMPTS)
    assert len(shop.queue.pauses_s) == GIVEN_BACK_AT_MOST
    assert shop.state is QueueState.PARKED
    assert asyncio.run(shop.worker.end_parked()) == 1
    assert shop.said() == (Verdict.ERROR, ReasonCode.COULD_NOT_JUDGE, "attempts_exhausted")


def test_a_job_whose_bytes_are_gone_is_decided_as_that() -> None:
    shop = Workshop()
    shop.store.files.clear()
    shop.once()
    assert shop.said() == (Verdict.ERROR, ReasonCode.COULD_NOT_JUDGE, "bytes_gone")
    assert shop.state is QueueState.DONE


def test_what_was_given_up_gets_its_decision_with_all_that_is_known_of_it() -> None:
    shop = Workshop()
    shop.store.fault = RecordUnavailable("x")
    shop.attempts(MAX_ATTEMPTS)
    assert (shop.state, shop.log.decisions) == (QueueState.PARKED, [])
    shop.store.fault = None
    assert asyncio.run(shop.worker.end_parked()) == 1
    (decision,) = shop.log.decisions
    assert (decision.id, decision.media, decision.policy.version) == (shop.order.id, Media.of(PICTURE), 1)
    assert (decision.request_id, decision.reference, decision.stage) == (shop.order.request_id, "order-17", shop.order.stage)
    assert (shop.state, shop.store.files) == (QueueState.DONE, {})
    assert asyncio.run(shop.worker.end_parked()) == 0


def test_a_given_up_screening_whose_end_cannot_be_written_stays_and_ends_later() -> None:
    shop = Workshop()
    shop.log.fault = RecordUnavailable("x")
    shop.attempts(MAX_ATTEMPTS)
    with pytest.raises(RecordUnavailable):
        asyncio.run(shop.worker.end_parked())
    shop.log.fault = None
    shop.queue.states[shop.order.id] = QueueState.PARKED  # as `take` leaves it once the lease has run out
    asyncio.run(shop.worker.end_parked())
    assert shop.said() == (Verdict.ERROR, ReasonCode.COULD_NOT_JUDGE, "attempts_exhausted")


def test_a_given_up_screening_that_was_decided_is_not_decided_again_and_what_waits_for_a_person_is_kept() -> None:
    shop = Workshop(classifier=ScriptedClassifier(scores=HELD))
    shop.once()
    shop.areas.files.clear()
    shop.store.files[AREA, NAME] = PICTURE
    shop.queue.states[shop.order.id] = QueueState.PARKED
    asyncio.run(shop.worker.end_parked())
    assert shop.said()[0] is Verdict.REVIEW
    assert (shop.state, shop.areas.files, shop.store.files) == (QueueState.DONE, {("quarantine", NAME): PICTURE}, {})


def test_the_worker_ends_by_itself_what_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.job_loop.PARKED_EVERY_S", 0.01)
    shop = Workshop()

    async def main() -> None:
        shop.queue.states[shop.order.id] = QueueState.PARKED
        tried, decided = asyncio.Event(), asyncio.Event()
        append = shop.log.append

        async def fails_once(decision: Decision, **more: Any) -> None:
            if not tried.is_set():
                tried.set()
                raise ZeroDivisionError
            await append(decision, **more)
            decided.set()

        shop.log.append = fails_once  # type: ignore[method-assign]
        running = asyncio.create_task(shop.worker.run())
        await tried.wait()
        shop.queue.states[shop.order.id] = QueueState.PARKED
        await decided.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    shop.run(main)
    assert shop.said() == (Verdict.ERROR, ReasonCode.COULD_NOT_JUDGE, "attempts_exhausted")


def test_a_job_that_is_decided_already_is_not_decided_twice() -> None:
    shop = Workshop()
    shop.once()
    shop.store.files[AREA, NAME] = PICTURE
    shop.queue.expire(shop.order.id)
    asyncio.run(shop.worker.run_once())
    assert len(shop.log.decisions) == 1
    assert shop.store.files == {}


HELD = {"sexual.nudity_explicit": 300_000, "sexual.suggestive": 0}


@pytest.mark.parametrize(("scores", "kept"), [(QUIET, {}), (HELD, {("quarantine", NAME): PICTURE}), (LOUD, {})])
def test_bytes_are_kept_for_a_person_only_if_they_wait_for_one(scores: dict[str, int], kept: dict[tuple[str, str], bytes]) -> None:
    shop = Workshop(classifier=ScriptedClassifier(scores=scores))
    shop.once()
    assert shop.areas.files == kept
    assert (shop.store.files, shop.alarms) == ({}, [])


def test_held_bytes_that_cannot_be_kept_lose_no_decision_and_raise_an_alarm() -> None:
    shop = Workshop(classifier=ScriptedClassifier(scores=HELD))
    shop.areas.fault = RecordUnavailable("x")
    shop.once()
    assert [decision.verdict for decision in shop.log.decisions] == [Verdict.REVIEW]
    assert shop.state is QueueState.DONE
    assert shop.alarms == ["held_media_not_kept"]


def test_a_job_whose_decision_is_known_still_keeps_what_waits_for_a_person() -> None:
    shop = Workshop(classifier=ScriptedClassifier(scores=HELD))
    shop.once()
    shop.areas.files.clear()
    shop.store.files[AREA, NAME] = PICTURE
    shop.queue.expire(shop.order.id)
    asyncio.run(shop.worker.run_once())
    assert shop.areas.files == {("quarantine", NAME): PICTURE}
    assert len(shop.log.decisions) == 1


def test_a_result_under_an_old_fence_is_thrown_away() -> None:
    gate = asyncio.Event()
    shop = Workshop(classifier=ScriptedClassifier(gate=gate))

    async def two_workers() -> None:
        slow = asyncio.create_task(shop.worker.run_once())
        await asyncio.sleep(0.05)
        shop.queue.expire(shop.order.id)
        fast = asyncio.create_task(shop.worker.run_once())
        await asyncio.sleep(0.05)
        gate.set()
        assert await slow
        assert await fast

    shop.run(two_workers)
    assert len(shop.log.decisions) == 1
    assert shop.state is QueueState.DONE


def test_the_lease_is_renewed_through_trouble_with_the_queue() -> None:
    gate = asyncio.Event()
    shop = Workshop(classifier=ScriptedClassifier(gate=gate), lease_s=0.03)
    asked = []
    renew = shop.queue.renew

    async def counted(job: Job, lease_s: float) -> bool:
        asked.append(1)
        if len(asked) == 2:
            raise RecordUnavailable("for a moment")
        return await renew(job, lease_s)

    shop.queue.renew = counted  # type: ignore[method-assign]

    async def slowly() -> None:
        work = asyncio.create_task(shop.worker.run_once())
        await asyncio.sleep(0.12)
        gate.set()
        await work

    shop.run(slowly)
    assert len(asked) > 3
    assert shop.state is QueueState.DONE


def test_bytes_that_cannot_be_deleted_do_not_undo_the_decision() -> None:
    shop = Workshop()

    async def no_delete(area: str, name: str) -> None:
        raise RecordUnavailable(f"{area}/{name}")

    shop.store.delete = no_delete  # type: ignore[method-assign]
    shop.once()
    assert shop.state is QueueState.DONE


def test_the_loop_goes_on_until_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.job_loop._IDLE_S", 0.01)
    monkeypatch.setattr("deployments.job_loop._TROUBLE_S", 0.01)
    shop = Workshop()

    async def main() -> None:
        shop.queue.fault = RecordUnavailable("not yet")
        running = asyncio.create_task(shop.worker.run())
        await asyncio.sleep(0.05)
        shop.queue.fault = None
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    shop.run(main)
    assert shop.state is QueueState.DONE
