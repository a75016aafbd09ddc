"""What every record of transforms and reviews promises, the ones in memory and the real ones alike."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Verdict
from moderation.errors import FactsChanged, StaleLease
from moderation.media import Media, Stage, sha256_of
from moderation.ports import Begun, DecisionLog, Job, KeyUse, PolicyShelf, Queue, QueueState, ReviewLog, TransformFilter, TransformLog
from moderation.transform import (
    Basis,
    Block,
    ConsentStatement,
    Denial,
    FaceChoice,
    FaceMode,
    Failure,
    Options,
    Original,
    PartKind,
    Progress,
    Release,
    Review,
    Showing,
    State,
    Transform,
)
from tests.builders import (
    LOUD,
    QUIET,
    make_decision,
    make_event,
    make_facts,
    make_part,
    make_policy,
    make_release,
    make_review,
    make_rule,
    make_seen,
    make_segment,
    make_transform,
)

DUE = {"sexual.nudity_explicit": 300_000, "sexual.suggestive": 50_000}
"""Scores over `review_at` of `make_policy()`."""
TIGHTER = {"rules": (make_rule(block_at=200_001), make_rule("sexual", block_at=None, review_at=600_000))}
FAILURE = Failure(code="no_face", message="No face was found.", retryable=False)
STAGES = (Stage.SOURCE, Stage.TARGET, Stage.OUTPUT)
FACES = ((0.1, 2.0, 30.25, 1e-7, 1.0, 0.1 + 0.2, 4.0, 5.0, 6.0), (1.0, 2.0, 3.0, 4.0, 0.5, 1.0, 2.0, 3.0, 4.0))
VIDEO = {"target": Original(sha256="7a" * 32, size=222, type="video/mp4")}


@dataclass(kw_only=True)
class World:
    """One log with everything around it, and two tenants that have published `make_policy()`."""

    log: TransformLog
    reviews: ReviewLog
    queue: Queue
    decisions: DecisionLog
    policies: PolicyShelf
    tenant: UUID
    other: UUID

    async def publish(self, **changes: Any) -> PolicyRef:
        made = await self.policies.publish(self.tenant, "default", make_policy(**changes), "operator")
        return PolicyRef(name=made.name, version=made.version, digest=made.digest)

    def transform(self, **changes: Any) -> Transform:
        return make_transform(**{"id": uuid7(), "tenant": self.tenant, "created_at": datetime.now(UTC), **changes})

    async def accepted(self, **changes: Any) -> Transform:
        transform = self.transform(**changes)
        assert await self.log.accept(transform) == (Begun.NEW, transform.id)
        return transform

    async def begun(self, **changes: Any) -> tuple[Transform, Job]:
        """An accepted transform and the lease on its work."""
        transform = await self.accepted(**changes)
        return transform, await self.taken()

    async def taken(self, lease_s: float = 30.0) -> Job:
        job = await self.queue.take(("transform",), lease_s)
        assert job is not None
        return job

    async def stale(self, job: Job) -> Job:
        """Let another worker take the job; the new lease."""
        await self.queue.fail(job, "too slow", retry_in_s=-1)  # due at once
        return await self.taken()

    async def decided(self, transform: Transform, stage: Stage, scores: Any = QUIET, **changes: Any) -> Decision:
        sha256 = {Stage.SOURCE: transform.source.sha256, Stage.TARGET: transform.target.sha256, Stage.OUTPUT: make_part().sha256}[stage]
        decision = make_decision(
            scores,
            **{
                "id": uuid7(),
                "tenant": transform.tenant,
                "created_at": datetime.now(UTC),
                "stage": stage,
                "media": Media(sha256=sha256, size=1, facts=make_seen(stage)),
                "transform": transform.id,
                "policy": transform.policy,
                **changes,
            },
        )
        await self.decisions.append(decision)
        return decision

    async def elsewhere(self, stage: Stage, sha256: str, **changes: Any) -> Decision:
        """A decision about these bytes that waits for a person, in no work of this record's."""
        media = Media(sha256=sha256, size=1, facts=make_facts())
        facts = {"id": uuid7(), "tenant": self.tenant, "created_at": datetime.now(UTC), "stage": stage, "media": media, **changes}
        decision = make_decision(DUE, **facts)
        await self.decisions.append(decision)
        return decision

    async def worked(self, scores: Any = None, **changes: Any) -> tuple[Transform, Job, Release]:
        """A transform of which everything but its release is committed, and that release."""
        transform, job = await self.begun(**changes)
        decisions = {stage: await self.decided(transform, stage, (scores or {}).get(stage, QUIET)) for stage in STAGES}
        await self.log.add_part(job, make_part())
        await self.log.add_part(job, make_part(PartKind.SIGNED))
        return transform, job, make_release(transform, {stage: decision.id for stage, decision in decisions.items()})

    async def released(self, **changes: Any) -> tuple[Transform, Release]:
        transform, job, release = await self.worked(**changes)
        await self.log.release(job, release)
        await self.log.end(job, make_event(State.RELEASED))
        return transform, release

    async def held(self, **changes: Any) -> tuple[Transform, Decision]:
        transform, job = await self.begun(**changes)
        decision = await self.decided(transform, Stage.SOURCE, DUE)
        await self.log.end(job, make_event(State.HELD, held=denial(decision)))
        return transform, decision

    def review(self, decision: Decision | UUID, verdict: Verdict = Verdict.ALLOW, **changes: Any) -> Review:
        about = decision if isinstance(decision, UUID) else decision.id
        named = make_decision(id=about, tenant=self.tenant)
        return make_review(named, verdict, **{"id": uuid7(), "at": datetime.now(UTC), **changes})

    async def states(self, transform: Transform) -> list[State]:
        events = await self.log.events(transform.tenant, transform.id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        return [event.state for event in events]

    async def job_state(self, transform: Transform) -> QueueState | None:
        return await self.queue.state(transform.tenant, transform.id, kind="transform")


def denial(decision: Decision) -> Denial:
    return Denial(stage=decision.stage, decision=decision.id, reasons=decision.reasons)


async def outcome_of(writing) -> type | None:
    try:
        await writing
    except (FactsChanged, StaleLease, ValueError) as refused:
        return type(refused)
    return None


def under_lease(world: World, job: Job, release: Release) -> dict[str, Any]:
    """Everything that is written under a lease."""
    return {
        "advance": world.log.advance(job, State.TRANSFORMING),
        "add_part": world.log.add_part(job, make_part(PartKind.SIGNED)),
        "release": world.log.release(job, release),
        "end": world.log.end(job, make_event(State.FAILED, failure=FAILURE)),
    }


class TransformLogContract:
    @pytest.fixture
    def world(self) -> World:
        """Empty but for the policy."""
        raise NotImplementedError

    # --- accepting and reading ----------------------------------------------------------------

    def test_what_was_accepted_is_read_back_exactly(self, world):
        choice = FaceChoice(mode=FaceMode.NEAREST, box=(1, 2, 3, 4))
        full = {
            "options": Options(faces=choice, swapper="classical", label=False, label_language="ko", format="png", quality=75),
            "consent": ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement="she agreed", reference="c-1"),
            "target_consent": ConsentStatement(basis=Basis.LICENSED, reference="ü"),
            "reference": "order-17",
            "callback_url": "https://example.test/called?key=1",
        }

        async def story():
            await world.publish()
            plain, whole = await world.accepted(consent=None), await world.accepted(**full)
            return [(one, await world.log.load(world.tenant, one.id)) for one in (plain, whole)]

        for asked, committed in asyncio.run(story()):
            assert committed.transform == asked
            assert [(event.sequence, event.state) for event in committed.events] == [(1, State.QUEUED)]
            assert (committed.decisions, committed.reviews, committed.parts, committed.release) == ((), {}, (), None)
            assert (committed.withdrawn, committed.purged, committed.cancel_requested) == (False, False, False)

    def test_what_was_accepted_is_work_of_the_same_id(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            return transform, job, await world.queue.state(world.tenant, transform.id)

        transform, job, as_screening = asyncio.run(story())
        assert (job.id, job.tenant, job.kind, job.payload) == (transform.id, world.tenant, "transform", {"transform": transform.id.hex})
        assert as_screening is None

    def test_another_tenant_reads_nothing_and_ends_nothing(self, world):
        async def story():
            await world.publish()
            transform = await world.accepted()
            seen = (
                await world.log.load(world.other, transform.id),
                await world.log.find(world.other, TransformFilter()),
                await world.log.events(world.other, transform.id),
                await world.log.request_cancel(world.other, transform.id, "k"),
            )
            return seen, await world.log.load(world.tenant, transform.id)

        seen, committed = asyncio.run(story())
        assert seen == (None, [], [], None)
        assert not committed.cancel_requested

    def test_the_same_key_gives_the_first_transform_and_another_request_under_it_is_a_mismatch(self, world):
        async def story():
            await world.publish()
            first, again, other = (world.transform() for _ in range(3))
            said = [
                await world.log.accept(first, use=KeyUse(key="k", fingerprint="a")),
                await world.log.accept(again, use=KeyUse(key="k", fingerprint="a")),
                await world.log.accept(other, use=KeyUse(key="k", fingerprint="b")),
            ]
            return first, said, await world.log.find(world.tenant, TransformFilter())

        first, said, found = asyncio.run(story())
        assert said == [(Begun.NEW, first.id), (Begun.KNOWN, first.id), (Begun.MISMATCH, first.id)]
        assert [committed.transform for committed in found] == [first]

    def test_what_a_key_has_made_can_be_asked_for_without_claiming_it(self, world):
        async def story():
            await world.publish()
            before = await world.log.made_with(world.tenant, KeyUse(key="k", fingerprint="a"))
            first = world.transform()
            await world.log.accept(first, use=KeyUse(key="k", fingerprint="a"))
            asked = [(world.tenant, "k", "a"), (world.tenant, "k", "b"), (world.other, "k", "a"), (world.tenant, "another", "a")]
            return before, first, [await world.log.made_with(one, KeyUse(key=key, fingerprint=mark)) for one, key, mark in asked]

        before, first, said = asyncio.run(story())
        assert before is None
        assert said == [(Begun.KNOWN, first.id), (Begun.MISMATCH, first.id), None, None]

    def test_transforms_come_newest_first_and_one_more_than_asked_for(self, world):
        async def story():
            await world.publish()
            made = [await world.accepted() for _ in range(5)]
            first = await world.log.find(world.tenant, TransformFilter(limit=2))
            return made, first, await world.log.find(world.tenant, TransformFilter(limit=2, before=first[1].transform.id))

        made, first, second = asyncio.run(story())
        newest = [transform.id for transform in reversed(made)]
        assert [one.transform.id for one in first] == newest[:3]
        assert [one.transform.id for one in second] == newest[2:5]

    def test_filters_keep_what_they_name(self, world):
        async def story():
            await world.publish()
            held, _ = await world.held()
            failed, job = await world.begun(reference="order-17")
            await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
            went_on, decision = await world.held()
            await world.reviews.add(world.review(decision), to_wake=went_on.id)
            await world.log.advance(await world.taken(), State.SCREENING)
            wanted = (
                TransformFilter(state=State.HELD),
                TransformFilter(state=State.SCREENING),
                TransformFilter(state=State.RELEASED),
                TransformFilter(reference="order-17"),
                TransformFilter(reference="order-1"),
                TransformFilter(state=State.HELD, reference="order-17"),
            )
            found = [[one.transform.id for one in await world.log.find(world.tenant, one)] for one in wanted]
            return found, [[held.id], [went_on.id], [], [failed.id], [], []]

        found, expected = asyncio.run(story())
        assert found == expected

    # --- under a lease ------------------------------------------------------------------------

    def test_states_are_numbered_without_gaps_and_none_is_written_twice_in_a_row(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            for state in (State.SCREENING, State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT, State.SCREENING_OUTPUT):
                await world.log.advance(job, state)
            return await world.states(transform), await world.log.events(world.tenant, transform.id, after=3)

        states, later = asyncio.run(story())
        assert states == [State.QUEUED, State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT]
        assert [event.sequence for event in later] == [4]

    @pytest.mark.parametrize("state", [State.QUEUED, State.HELD, State.RELEASED, State.DENIED, State.FAILED, State.CANCELLED])
    def test_nobody_advances_to_a_state_in_which_nobody_works(self, world, state):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            return await outcome_of(world.log.advance(job, state)), await world.states(transform)

        assert asyncio.run(story()) == (ValueError, [State.QUEUED])

    @pytest.mark.parametrize("what", ["advance", "add_part", "release", "end"])
    @pytest.mark.parametrize("why", ["taken over", "waits", "ended"])
    def test_a_worker_without_its_lease_writes_nothing(self, world, what, why):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            decisions = {stage: (await world.decided(transform, stage)).id for stage in STAGES}
            await world.log.add_part(job, make_part())
            if why == "taken over":
                await world.stale(job)
            elif why == "waits":
                await world.queue.fail(job, "too slow", retry_in_s=3600)
            else:
                await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
            before = await world.log.load(world.tenant, transform.id)
            writing = under_lease(world, job, make_release(transform, decisions))
            outcome = await outcome_of(writing.pop(what))
            for coroutine in writing.values():
                coroutine.close()
            return outcome, before, await world.log.load(world.tenant, transform.id)

        outcome, before, after = asyncio.run(story())
        assert outcome is StaleLease
        assert before == after

    def test_parts_are_read_back_exactly_and_the_first_of_a_kind_stays(self, world):
        encoded, signed = make_part(faces_skipped=2), make_part(PartKind.SIGNED, is_trained=True)

        async def story():
            await world.publish()
            transform, job = await world.begun()
            await world.log.add_part(job, encoded)
            await world.log.add_part(job, signed)
            second = await outcome_of(world.log.add_part(job, replace(encoded, sha256="00" * 32)))
            return second, await world.log.load(world.tenant, transform.id)

        second, committed = asyncio.run(story())
        assert second is StaleLease
        assert committed.parts == (encoded, signed)
        assert committed.part(PartKind.ENCODED) == encoded

    def test_decisions_are_those_of_the_transform_oldest_first(self, world):
        async def story():
            await world.publish()
            transform, other = await world.accepted(), await world.accepted()
            first = await world.decided(transform, Stage.TARGET)
            await world.decided(other, Stage.SOURCE)
            second = await world.decided(transform, Stage.SOURCE, DUE)
            return await world.log.load(world.tenant, transform.id), (first, second)

        committed, expected = asyncio.run(story())
        assert committed.decisions == expected

    # --- release ------------------------------------------------------------------------------

    def test_a_release_is_read_back_exactly_and_its_work_goes_on(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            await world.log.release(job, release)
            return release, await world.log.load(world.tenant, transform.id), await world.job_state(transform)

        release, committed, state = asyncio.run(story())
        assert committed.release == release
        assert state is QueueState.RUNNING

    def test_the_same_release_again_is_no_error_and_another_one_is_refused(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            await world.log.release(job, release)
            again = await outcome_of(world.log.release(job, replace(release, released_at=release.released_at + timedelta(seconds=1))))
            other = await outcome_of(world.log.release(job, replace(release, signed_sha256="00" * 32)))
            return again, other, release, (await world.log.load(world.tenant, transform.id)).release

        again, other, release, kept = asyncio.run(story())
        assert (again, other) == (None, StaleLease)
        assert kept == release

    def test_a_policy_tightened_since_stops_the_release(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            await world.publish(**TIGHTER)
            outcome = await outcome_of(world.log.release(job, release))
            newest = await world.publish(**TIGHTER)
            second = await outcome_of(world.log.release(job, replace(release, in_force=newest)))
            return outcome, second, (await world.log.load(world.tenant, transform.id)).release

        outcome, second, kept = asyncio.run(story())
        assert (outcome, second) == (FactsChanged, None)
        assert (kept.pinned.version, kept.in_force.version) == (1, 2)

    def test_a_request_for_the_end_stops_the_release(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            await world.log.request_cancel(world.tenant, transform.id, "k")
            return await outcome_of(world.log.release(job, release)), (await world.log.load(world.tenant, transform.id)).release

        assert asyncio.run(story()) == (FactsChanged, None)

    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize(
        ("verdicts", "outcome"),
        [((Verdict.BLOCK,), FactsChanged), ((Verdict.ALLOW, Verdict.BLOCK), FactsChanged), ((Verdict.BLOCK, Verdict.ALLOW), None)],
    )
    def test_what_a_person_said_last_of_a_decision_counts_for_the_release(self, world, stage, verdicts, outcome):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            for verdict in verdicts:
                await world.reviews.add(world.review(release.decisions[stage], verdict), to_wake=transform.id)
            return await outcome_of(world.log.release(job, release))

        assert asyncio.run(story()) is outcome

    @pytest.mark.parametrize("stage", STAGES)
    def test_what_a_person_blocks_is_blocked_whichever_decision_about_it_is_named(self, world, stage):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            newer = await world.decided(transform, stage)
            await world.reviews.add(world.review(release.decisions[stage], Verdict.BLOCK))
            changed = replace(release, decisions={**release.decisions, stage: newer.id})
            return await outcome_of(world.log.release(job, changed))

        assert asyncio.run(story()) is FactsChanged

    def test_what_waits_for_a_person_is_released_once_one_allows_it_and_not_before(self, world):
        async def story():
            await world.publish()
            _, job, release = await world.worked({Stage.OUTPUT: DUE})
            before = await outcome_of(world.log.release(job, release))
            await world.reviews.add(world.review(release.decisions[Stage.OUTPUT]))
            return before, await outcome_of(world.log.release(job, release))

        assert asyncio.run(story()) == (ValueError, None)

    @pytest.mark.parametrize(
        "wrong",
        [
            "signed file",
            "encoded file",
            "pinned version",
            "pinned digest",
            "swapped decisions",
            "decision of another transform",
            "decision on other bytes",
            "decision that does not say what is shown",
            "decision under another policy",
            "block",
            "error",
        ],
    )
    def test_a_release_that_the_record_does_not_bear_out_is_refused(self, world, wrong):
        async def story():
            await world.publish()
            elsewhere = await world.accepted()
            foreign = await world.decided(elsewhere, Stage.SOURCE)
            await world.queue.fail(await world.taken(), "in the way", retry_in_s=None)
            transform, job, release = await world.worked()
            changed = await self.spoiled(world, transform, release, wrong, foreign)
            return await outcome_of(world.log.release(job, changed)), (await world.log.load(world.tenant, transform.id)).release

        assert asyncio.run(story()) == (ValueError, None)

    async def spoiled(self, world, transform, release, wrong, foreign) -> Release:
        named = release.decisions

        async def naming(stage, **changes):
            return {"decisions": {**named, stage: (await world.decided(transform, stage, **changes)).id}}

        if wrong in ("block", "error"):
            return replace(release, **await naming(Stage.TARGET, verdict=Verdict(wrong)))
        if wrong == "decision on other bytes":
            return replace(release, **await naming(Stage.OUTPUT, media=Media(sha256="00" * 32, size=1, facts=make_seen(Stage.OUTPUT))))
        if wrong == "decision that does not say what is shown":
            return replace(release, **await naming(Stage.OUTPUT, media=Media(sha256=make_part().sha256, size=1, facts=make_facts())))
        if wrong == "decision under another policy":
            return replace(release, **await naming(Stage.TARGET, policy=PolicyRef(name="default", version=1, digest="sha256:00")))
        changes = {
            "signed file": {"signed_sha256": "00" * 32},
            "encoded file": {"encoded_sha256": "00" * 32},
            "pinned version": {"pinned": replace(release.pinned, version=2)},
            "pinned digest": {"pinned": replace(release.pinned, digest="sha256:00")},
            "swapped decisions": {"decisions": {**named, Stage.SOURCE: named[Stage.TARGET], Stage.TARGET: named[Stage.SOURCE]}},
            "decision of another transform": {"decisions": {**named, Stage.SOURCE: foreign.id}},
        }
        return replace(release, **changes[wrong])

    def test_a_signed_file_that_was_made_of_another_or_shows_something_else_is_never_released(self, world):
        async def outcome_with(**changes):
            transform, job = await world.begun()
            decisions = {stage: (await world.decided(transform, stage)).id for stage in STAGES}
            await world.log.add_part(job, make_part())
            await world.log.add_part(job, make_part(PartKind.SIGNED, **changes))
            return await outcome_of(world.log.release(job, make_release(transform, decisions)))

        async def story():
            await world.publish()
            return [await outcome_with(made_of="00" * 32), await outcome_with(frame_digest="sha256:0"), await outcome_with()]

        assert asyncio.run(story()) == [ValueError, ValueError, None]

    # --- videos -------------------------------------------------------------------------------

    def test_segments_are_read_back_exactly_and_in_order_and_the_first_of_a_number_stays(self, world):
        first, second = make_segment(1, meant=FACES), make_segment(2, is_last=True, faces_skipped=1)

        async def story():
            await world.publish()
            transform, job = await world.begun(**VIDEO)
            for part in (first, second, make_part()):
                await world.log.add_part(job, part)
            again = await outcome_of(world.log.add_part(job, replace(second, sha256="00" * 32)))
            return again, await world.log.load(world.tenant, transform.id)

        again, committed = asyncio.run(story())
        assert again is StaleLease
        assert committed.segments == (first, second)
        assert set(committed.parts) == {first, second, make_part()}

    def test_attempts_that_make_a_segment_are_not_counted_against_a_video_and_others_are(self, world):
        async def story():
            await world.publish()
            _, job = await world.begun(**VIDEO)
            said = []
            for number in range(1, 6):
                await world.log.add_part(job, make_segment(number))
                said.append(await world.queue.fail(job, "died", retry_in_s=-1))
                job = await world.taken()
            said.append(await world.queue.fail(job, "died", retry_in_s=-1))
            return said, await world.queue.fail(await world.taken(), "died", retry_in_s=-1)

        assert asyncio.run(story()) == ([QueueState.QUEUED] * 6, QueueState.PARKED)

    def test_progress_is_said_again_and_again_hears_of_a_cancel_and_is_gone_at_the_end(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun(**VIDEO)
            said = [(await world.log.load(world.tenant, transform.id)).progress]
            for progress in (Progress(done=3, total=50), Progress(done=25, total=50, eta_s=4)):
                await world.log.note_progress(job, progress)
                said.append((await world.log.load(world.tenant, transform.id)).progress)
            await world.log.request_cancel(world.tenant, transform.id, "key")
            stopped = await outcome_of(world.log.note_progress(job, Progress(done=26, total=50)))
            await world.log.end(job, make_event(State.CANCELLED))
            said.append((await world.log.load(world.tenant, transform.id)).progress)
            return said, stopped, await outcome_of(world.log.note_progress(job, Progress(done=27, total=50)))

        said, stopped, ended = asyncio.run(story())
        assert said == [None, Progress(done=3, total=50), Progress(done=25, total=50, eta_s=4), None]
        assert (stopped, ended) == (FactsChanged, StaleLease)

    async def filmed(
        self, world, scores=(QUIET, QUIET), *, is_whole=True, whole=QUIET, **judged
    ) -> tuple[Transform, Job, Release, tuple[Decision, ...]]:
        """A video of which everything but its release is committed, that release, and the decisions about its segments."""
        transform, job = await world.begun(**VIDEO)
        inputs = {stage: await world.decided(transform, stage) for stage in STAGES[:2]}
        segments = []
        for number, shown in enumerate(scores, 1):
            part = make_segment(number, is_last=is_whole and number == len(scores))
            await world.log.add_part(job, part)
            if shown is not None:
                media = Media(sha256=part.sha256, size=1, facts=make_facts())
                segments.append(await world.decided(transform, Stage.OUTPUT, shown, media=media, **judged))
        judged_whole = await world.decided(transform, Stage.OUTPUT, whole)
        for kind in (PartKind.ENCODED, PartKind.SIGNED):
            await world.log.add_part(job, make_part(kind))
        decisions = {stage: decision.id for stage, decision in {**inputs, Stage.OUTPUT: judged_whole}.items()}
        return transform, job, make_release(transform, decisions), tuple(segments)

    @pytest.mark.parametrize(
        ("scores", "is_whole", "outcome"),
        [
            ((QUIET, QUIET), True, None),
            ((QUIET, None), True, ValueError),
            ((QUIET, LOUD), True, ValueError),
            ((QUIET, DUE), True, ValueError),
            ((QUIET, QUIET), False, ValueError),
            ((), True, ValueError),
        ],
        ids=["passed", "not judged", "blocked", "held", "the last is missing", "no segment"],
    )
    def test_a_video_is_released_only_if_each_of_its_segments_was_let_pass(self, world, scores, is_whole, outcome):
        async def story():
            await world.publish()
            _, job, release, _ = await self.filmed(world, scores, is_whole=is_whole)
            return await outcome_of(world.log.release(job, release))

        assert asyncio.run(story()) is outcome

    def test_a_persons_word_about_a_segment_counts_for_the_release_of_the_whole(self, world):
        async def story():
            await world.publish()
            _, job, release, (_, held) = await self.filmed(world, (QUIET, DUE))
            await world.reviews.add(world.review(held))
            let = await outcome_of(world.log.release(job, release))
            _, other_job, other, (_, blocked) = await self.filmed(world)
            await world.reviews.add(world.review(blocked, Verdict.BLOCK))
            return let, await outcome_of(world.log.release(other_job, other))

        assert asyncio.run(story()) == (None, FactsChanged)

    def test_a_persons_word_about_the_whole_counts_for_its_segments_and_these_do_not_wait_by_themselves(self, world):
        async def story():
            await world.publish()
            transform, job, release, segments = await self.filmed(world, (DUE, QUIET, DUE), whole=DUE)
            held = await outcome_of(world.log.release(job, release))
            waiting = await world.reviews.waiting(world.tenant, before=None, limit=50)
            showing = {"tenant": world.tenant, "transform": transform.id, "actor": "k" * 20, "at": datetime.now(UTC)}
            show = {"first": 1, "last": 3, "in_force": transform.policy}
            unseen = await outcome_of(world.log.record_showing(Showing(id=uuid7(), **showing | show)))
            (whole,) = waiting
            await world.reviews.add(world.review(whole))
            let = await outcome_of(world.log.record_showing(Showing(id=uuid7(), **showing | show)))
            released = await outcome_of(world.log.release(job, release))
            return held, [one.id for one in waiting], unseen, let, released, release.decisions[Stage.OUTPUT], segments

        held, waiting, unseen, let, released, whole, segments = asyncio.run(story())
        assert (held, unseen, let, released) == (ValueError, FactsChanged, None, None)
        assert waiting == [whole]
        assert whole not in {one.id for one in segments}

    def test_what_is_shown_before_the_release_was_let_pass_and_is_refused_once_anything_speaks_against_it(self, world):
        async def story():
            await world.publish()
            said = {}

            async def show(name, transform, first=1, last=1, **changes):
                showing = {"id": uuid7(), "tenant": world.tenant, "transform": transform.id, "actor": "k" * 20, "at": datetime.now(UTC)}
                asked = {"first": first, "last": last, "in_force": transform.policy}
                said[name] = await outcome_of(world.log.record_showing(Showing(**showing | asked | changes)))

            transform, _, _, (first, _) = await self.filmed(world)
            await show("one", transform)
            await show("both", transform, last=2)
            await show("one that is not there", transform, last=3)
            await show("of another tenant", transform, tenant=world.other)
            await world.reviews.add(world.review(first, Verdict.BLOCK))
            await show("after a block", transform, first=2, last=2)
            await world.reviews.add(world.review(first))
            await show("after it was taken back", transform)
            await world.log.request_cancel(world.tenant, transform.id, "key")
            await show("after a cancel", transform)
            for name, scores in {
                "not judged": (None,),
                "held": (DUE,),
                "allowed by a person": (DUE,),
                "beside a block": (QUIET, LOUD),
            }.items():
                transform, _, _, segments = await self.filmed(world, scores)
                if name == "allowed by a person":
                    await world.reviews.add(world.review(segments[0]))
                await show(name, transform)
            transform, job, _, _ = await self.filmed(world)
            await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
            await show("after its end", transform)
            transform, job, release, _ = await self.filmed(world)
            release = replace(release, expires_at=datetime.now(UTC) + timedelta(days=1))
            await world.log.release(job, release)
            await world.log.end(job, make_event(State.RELEASED))
            await show("after the release", transform)
            await show("once its time is over", transform, at=release.expires_at)
            newest = await world.publish(**TIGHTER)
            await show("under a policy that is no longer in force", transform)
            await show("judged again under the one in force", transform, in_force=newest)
            transform, _, _, _ = await self.filmed(world, policy=newest)
            await show("judged under another policy than the pinned one", transform, in_force=newest)
            return said

        said = asyncio.run(story())
        passed = {name for name, outcome in said.items() if outcome is None}
        assert passed == {
            *("one", "both", "after it was taken back", "allowed by a person", "after the release"),
            "judged again under the one in force",
        }
        assert set(said.values()) == {None, FactsChanged}

    # --- ends ---------------------------------------------------------------------------------

    def test_an_end_is_read_back_exactly_and_ends_the_work(self, world):
        reason = Reason(code=ReasonCode.OVER_BLOCK_THRESHOLD, verdict=Verdict.BLOCK, category="c", score=1, threshold=2, box=(1, 2, 3, 4))
        no = Denial(stage=Stage.TARGET, decision=uuid7(), reasons=(reason, Reason(code=ReasonCode.SCORE_MISSING, verdict=Verdict.ERROR)))

        async def story():
            await world.publish()
            seen = []
            for event in (make_event(State.DENIED, denial=no), make_event(State.FAILED, failure=FAILURE)):
                transform, job = await world.begun()
                await world.log.end(job, event)
                seen.append(((await world.log.load(world.tenant, transform.id)).events[-1], await world.job_state(transform)))
            return seen

        denied, failed = asyncio.run(story())
        assert (denied[0].sequence, denied[0].denial, denied[1]) == (2, no, QueueState.DONE)
        assert (failed[0].sequence, failed[0].failure, failed[1]) == (2, FAILURE, QueueState.DONE)

    def test_an_end_that_the_record_contradicts_is_refused(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            early = [
                await outcome_of(world.log.end(job, make_event(state)))
                for state in (State.RELEASED, State.CANCELLED, State.SCREENING, State.QUEUED)
            ]
            await world.log.release(job, release)
            no = denial(await world.decided(transform, Stage.SOURCE, DUE))
            late = [
                await outcome_of(world.log.end(job, make_event(State.DENIED, denial=no))),
                await outcome_of(world.log.end(job, make_event(State.HELD, held=no))),
                await outcome_of(world.log.end(job, make_event(State.CANCELLED))),
            ]
            return early, late, await world.states(transform), await world.job_state(transform)

        early, late, states, job = asyncio.run(story())
        assert early == [ValueError] * 4
        assert late == [ValueError] * 3
        assert (states, job) == ([State.QUEUED], QueueState.RUNNING)

    def test_a_final_event_calls_the_callback_url_and_a_pause_does_not(self, world):
        async def story():
            await world.publish()
            transform, decision = await world.held(callback_url="https://example.test/")
            paused = await world.queue.take(("webhook",), 30)
            await world.reviews.add(world.review(decision, Verdict.BLOCK), to_wake=transform.id)
            await world.log.end(await world.taken(), make_event(State.DENIED, denial=denial(decision)))
            called = await world.queue.take(("webhook",), 30)
            _, job = await world.begun()
            await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
            return transform, paused, called, await world.queue.take(("webhook",), 30)

        transform, paused, called, without = asyncio.run(story())
        assert (paused, without) == (None, None)
        assert (called.tenant, called.payload) == (world.tenant, {"transform": transform.id.hex, "sequence": 3})

    def test_what_is_held_waits_until_a_person_has_spoken_and_then_goes_on(self, world):
        async def story():
            await world.publish()
            transform, decision = await world.held()
            committed = await world.log.load(world.tenant, transform.id)
            before = await world.queue.take(("transform",), 30)
            await world.reviews.add(world.review(decision), to_wake=transform.id)
            job = await world.taken()
            await world.log.advance(job, State.SCREENING)
            return decision, committed, before, job, await world.states(transform)

        decision, committed, before, job, states = asyncio.run(story())
        assert committed.events[-1].held == denial(decision)
        assert before is None
        assert (job.fence, job.attempt) == (2, 1)
        assert states == [State.QUEUED, State.HELD, State.SCREENING]

    def test_holding_on_the_same_decision_again_writes_no_second_event(self, world):
        async def story():
            await world.publish()
            transform, first = await world.held()
            second = await world.decided(transform, Stage.TARGET, DUE)
            unrelated = await world.decided(transform, Stage.OUTPUT, DUE)
            for held in (first, second):
                await world.reviews.add(world.review(unrelated), to_wake=transform.id)
                await world.log.end(await world.taken(), make_event(State.HELD, held=denial(held)))
            return second, (await world.log.load(world.tenant, transform.id)).events, await world.job_state(transform)

        second, events, state = asyncio.run(story())
        assert [event.state for event in events] == [State.QUEUED, State.HELD, State.HELD]
        assert events[-1].held.decision == second.id
        assert state is QueueState.DONE

    @pytest.mark.parametrize("said", [(Verdict.ALLOW,), (Verdict.BLOCK, Verdict.ALLOW)])
    def test_what_is_allowed_beside_it_does_not_keep_a_person_from_being_asked(self, world, said):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            decision = await world.decided(transform, Stage.SOURCE, DUE)
            other = await world.decided(transform, Stage.TARGET, DUE)
            for verdict in said:
                await world.reviews.add(world.review(other, verdict), to_wake=transform.id)
            await world.log.end(job, make_event(State.HELD, held=denial(decision)))
            return await world.states(transform)

        assert asyncio.run(story()) == [State.QUEUED, State.HELD]

    @pytest.mark.parametrize("news", ["review", "block of another", "cancel"])
    def test_nobody_is_held_on_what_was_answered_meanwhile(self, world, news):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            decision = await world.decided(transform, Stage.SOURCE, DUE)
            other = await world.decided(transform, Stage.TARGET, DUE)
            if news == "block of another":
                await world.reviews.add(world.review(other, Verdict.ALLOW), to_wake=transform.id)
                await world.reviews.add(world.review(other, Verdict.BLOCK), to_wake=transform.id)
            elif news == "review":
                await world.reviews.add(world.review(decision), to_wake=transform.id)
            else:
                await world.log.request_cancel(world.tenant, transform.id, "k")
            outcome = await outcome_of(world.log.end(job, make_event(State.HELD, held=denial(decision))))
            return outcome, await world.states(transform), await world.job_state(transform)

        assert asyncio.run(story()) == (FactsChanged, [State.QUEUED], QueueState.RUNNING)

    # --- cancel -------------------------------------------------------------------------------

    def test_an_end_that_was_asked_for_is_written_once_and_wakes_what_waits(self, world):
        async def story():
            await world.publish()
            transform, _ = await world.held()
            said = [await world.log.request_cancel(world.tenant, transform.id, "k") for _ in range(2)]
            committed = await world.log.load(world.tenant, transform.id)
            await world.log.end(await world.taken(), make_event(State.CANCELLED))
            said.append(await world.log.request_cancel(world.tenant, transform.id, "k"))
            return said, committed, await world.states(transform), await world.log.request_cancel(world.tenant, uuid7(), "k")

        said, committed, states, unknown = asyncio.run(story())
        assert said == [State.HELD, State.HELD, State.CANCELLED]
        assert committed.cancel_requested
        assert states == [State.QUEUED, State.HELD, State.CANCELLED]
        assert unknown is None

    def test_a_cancel_wakes_what_waits_for_another_attempt_and_leaves_what_runs(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            await world.queue.fail(job, "trouble", retry_in_s=3600)
            await world.log.request_cancel(world.tenant, transform.id, "k")
            woken = await world.taken()
            running, job = await world.begun()
            await world.log.request_cancel(world.tenant, running.id, "k")
            return transform, woken, await world.job_state(running), await world.queue.renew(job, 30)

        transform, woken, state, is_held = asyncio.run(story())
        assert woken.id == transform.id
        assert (state, is_held) == (QueueState.RUNNING, True)

    def test_a_worker_hears_of_a_cancel_before_it_begins_the_next_step(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            await world.log.advance(job, State.SCREENING)
            await world.log.request_cancel(world.tenant, transform.id, "k")
            with pytest.raises(FactsChanged):
                await world.log.advance(job, State.TRANSFORMING)
            return await world.states(transform)

        assert asyncio.run(story())[-1] is State.SCREENING

    def test_after_the_release_a_cancel_writes_nothing(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            await world.log.release(job, release)
            await world.log.request_cancel(world.tenant, transform.id, "k")
            before = await world.log.load(world.tenant, transform.id)
            await world.log.end(job, make_event(State.RELEASED))
            return before, await world.log.request_cancel(world.tenant, transform.id, "k"), await world.job_state(transform)

        before, said, state = asyncio.run(story())
        assert (before.cancel_requested, said, state) == (False, State.RELEASED, QueueState.DONE)

    # --- given up -----------------------------------------------------------------------------

    def test_what_was_given_up_ends_as_failed_once(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun(callback_url="https://example.test/")
            await world.accepted()
            for _ in range(2):
                job = await world.stale(job)
            parked = await world.queue.fail(job, "trouble", retry_in_s=0)
            counts = [await world.log.end_parked() for _ in range(2)]
            called = await world.queue.take(("webhook",), 30)
            return parked, counts, (await world.log.load(world.tenant, transform.id)).events[-1], called, await world.job_state(transform)

        parked, counts, event, called, state = asyncio.run(story())
        assert (parked, counts) == (QueueState.PARKED, [1, 0])
        assert (event.sequence, event.state, event.failure.code, event.failure.retryable) == (2, State.FAILED, "attempts_exhausted", True)
        assert called.payload["sequence"] == 2
        assert state is QueueState.DONE

    def test_what_is_released_and_was_given_up_is_tried_again_until_it_is_published(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            await world.log.release(job, release)
            await world.queue.fail(job, "no store", retry_in_s=None)
            return await world.log.end_parked(), await world.states(transform), await world.job_state(transform)

        assert asyncio.run(story()) == (0, [State.QUEUED], QueueState.QUEUED)

    def test_what_was_given_up_after_somebody_asked_for_its_end_is_cancelled(self, world):
        async def story():
            await world.publish()
            transform, job = await world.begun()
            await world.log.request_cancel(world.tenant, transform.id, "k")
            await world.queue.fail(job, "no store", retry_in_s=None)
            return await world.log.end_parked(), await world.states(transform)

        assert asyncio.run(story()) == (1, [State.QUEUED, State.CANCELLED])

    # --- what people say of bytes -------------------------------------------------------------

    @pytest.mark.parametrize(("which", "at"), [(Stage.SOURCE, Stage.SOURCE), (Stage.TARGET, Stage.OUTPUT), (Stage.OUTPUT, Stage.UPLOAD)])
    def test_a_block_of_its_bytes_said_of_other_work_is_loaded_and_stops_its_release_until_a_later_review_allows(self, world, which, at):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            sha256 = {Stage.SOURCE: transform.source.sha256, Stage.TARGET: transform.target.sha256, Stage.OUTPUT: make_part().sha256}
            elsewhere = await world.elsewhere(at, sha256[which])
            block = world.review(elsewhere, Verdict.BLOCK)
            await world.reviews.add(block)
            seen = (await world.log.load(world.tenant, transform.id)).blocks
            refused = await outcome_of(world.log.release(job, release))
            await world.reviews.add(world.review(elsewhere, Verdict.ALLOW))
            after = (await world.log.load(world.tenant, transform.id)).blocks
            expected = {sha256[which]: Block(stage=at, decision=elsewhere.id, review=block.id)}
            return seen == expected, refused, after, await outcome_of(world.log.release(job, release))

        assert asyncio.run(story()) == (True, FactsChanged, {}, None)

    def test_an_allow_at_one_stage_takes_no_block_back_at_another(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            blocked, allowed = [await world.elsewhere(stage, transform.target.sha256) for stage in (Stage.TARGET, Stage.UPLOAD)]
            await world.reviews.add(world.review(blocked, Verdict.BLOCK))
            await world.reviews.add(world.review(allowed, Verdict.ALLOW))
            return await outcome_of(world.log.release(job, release))

        assert asyncio.run(story()) is FactsChanged

    def test_another_tenants_block_of_the_same_bytes_is_nothing_here(self, world):
        async def story():
            await world.publish()
            transform, job, release = await world.worked()
            foreign = await world.elsewhere(Stage.TARGET, transform.target.sha256, tenant=world.other)
            await world.reviews.add(world.review(foreign, Verdict.BLOCK, tenant=world.other))
            return (await world.log.load(world.tenant, transform.id)).blocks, await outcome_of(world.log.release(job, release))

        assert asyncio.run(story()) == ({}, None)

    # --- reviews ------------------------------------------------------------------------------

    def test_reviews_are_read_back_exactly_and_the_latest_counts(self, world):
        async def story():
            await world.publish()
            transform, decision = await world.held()
            other = await world.decided(transform, Stage.TARGET)
            said = [world.review(decision, verdict, reason=f"ß {verdict}") for verdict in (Verdict.ALLOW, Verdict.BLOCK, Verdict.ALLOW)]
            for review in said:
                await world.reviews.add(review, to_wake=transform.id)
            await world.reviews.add(said[1], to_wake=transform.id)  # once more changes nothing
            latest = await world.reviews.latest(world.tenant, [decision.id, other.id])
            one = [await world.reviews.get(tenant, said[1].id) for tenant in (world.tenant, world.other)]
            elsewhere = await world.reviews.latest(world.other, [decision.id])
            return decision, said, latest, one, elsewhere, (await world.log.load(world.tenant, transform.id)).reviews

        decision, said, latest, one, elsewhere, loaded = asyncio.run(story())
        assert latest == loaded == {decision.id: said[2]}
        assert one == [said[1], None]
        assert elsewhere == {}

    def test_a_block_withdraws_the_release_for_good(self, world):
        async def story():
            await world.publish()
            transform, release = await world.released()
            withdrawn = []
            for verdict in (Verdict.ALLOW, Verdict.BLOCK, Verdict.BLOCK, Verdict.ALLOW):
                await world.reviews.add(world.review(release.decisions[Stage.TARGET], verdict), to_wake=transform.id)
                withdrawn.append((await world.log.load(world.tenant, transform.id)).withdrawn)
            return withdrawn, await world.states(transform), await world.job_state(transform)

        withdrawn, states, job = asyncio.run(story())
        assert withdrawn == [False, True, True, True]
        assert (states[-1], job) == (State.RELEASED, QueueState.DONE)

    def test_a_block_withdraws_every_release_of_the_tenant_with_the_same_bytes_whatever_they_are_there(self, world):
        same, other = Original(sha256="5a" * 32, size=111, type="image/jpeg"), Original(sha256="0e" * 32, size=111, type="image/jpeg")
        stranger = replace(world, tenant=world.other, other=world.tenant)

        async def story():
            for owner in (world, stranger):
                await owner.publish()
            asked = ({"source": same}, {"source": same, "target": other}, {"source": other, "target": same}, {"source": other})
            made = [(await world.released(**pictures))[0].id for pictures in asked]
            foreign, _ = await stranger.released(source=same)
            unreleased, _, _ = await world.worked(source=same)
            withdrawn = []
            for blocked in (same.sha256, make_part(PartKind.SIGNED).sha256):
                await world.reviews.add(world.review(await world.elsewhere(Stage.UPLOAD, blocked), Verdict.BLOCK))
                withdrawn.append([(await world.log.load(world.tenant, id)).withdrawn for id in (*made, unreleased.id)])
            return withdrawn, (await world.log.load(world.other, foreign.id)).withdrawn

        first, then = [True, True, True, False, False], [True, True, True, True, False]
        assert asyncio.run(story()) == ([first, then], False)

    def test_a_review_of_nothing_or_of_another_transforms_decision_is_refused(self, world):
        async def story():
            await world.publish()
            transform, decision = await world.held()
            return [
                await outcome_of(world.reviews.add(world.review(uuid7()))),
                await outcome_of(world.reviews.add(world.review(decision, tenant=world.other))),
                await outcome_of(world.reviews.add(world.review(decision), to_wake=uuid7())),
                (await world.log.load(world.tenant, transform.id)).reviews,
            ]

        assert asyncio.run(story()) == [ValueError, ValueError, ValueError, {}]

    def test_what_waits_for_a_person_is_listed_until_one_has_spoken(self, world):
        async def story():
            await world.publish()
            alone = make_decision(DUE, id=uuid7(), tenant=world.tenant, created_at=datetime.now(UTC))
            await world.decisions.append(alone)
            _, decision = await world.held()
            transform, job = await world.begun()
            allowed = await world.decided(transform, Stage.SOURCE)  # allowed when it was made, held under a later policy
            await world.log.end(job, make_event(State.HELD, held=denial(allowed)))
            first = await world.reviews.waiting(world.tenant, before=None, limit=50)
            page = await world.reviews.waiting(world.tenant, before=allowed.id, limit=1)
            elsewhere = await world.reviews.waiting(world.other, before=None, limit=50)
            for one in (alone, allowed):
                await world.reviews.add(world.review(one))
            return (alone, decision, allowed), first, page, elsewhere, await world.reviews.waiting(world.tenant, before=None, limit=50)

        (alone, decision, allowed), first, page, elsewhere, rest = asyncio.run(story())
        assert first == [allowed, decision, alone]
        assert page == [decision, alone]
        assert elsewhere == []
        assert rest == [decision]

    # --- purge --------------------------------------------------------------------------------

    def test_bytes_are_purged_when_their_time_is_over_or_they_were_withdrawn_and_only_then(self, world):
        async def story():
            await world.publish()
            made = {}
            for name, days in (("over", -1), ("withdrawn", 1), ("kept", 1)):
                _, job, release = await world.worked(source=Original(sha256=sha256_of(name.encode()), size=9, type="image/png"))
                made[name] = replace(release, expires_at=release.released_at + timedelta(days=10_000 * days))
                await world.log.release(job, made[name])
                await world.log.end(job, make_event(State.RELEASED))
            await world.reviews.add(world.review(made["withdrawn"].decisions[Stage.SOURCE], Verdict.BLOCK))
            first = list(await world.log.expired())
            for _ in range(2):
                await world.log.record_purge(world.tenant, made["over"].transform, {"bytes": "removed"})
            purged = [(await world.log.load(world.tenant, release.transform)).purged for release in made.values()]
            return made, first, list(await world.log.expired()), purged

        made, first, then, purged = asyncio.run(story())
        assert sorted(first, key=lambda release: release.transform) == [made["over"], made["withdrawn"]]
        assert then == [made["withdrawn"]]
        assert purged == [True, False, False]

    def test_bytes_that_are_not_published_yet_are_purged_once_they_are(self, world):
        async def story():
            await world.publish()
            _, job, release = await world.worked()
            await world.log.release(job, release)
            await world.reviews.add(world.review(release.decisions[Stage.OUTPUT], Verdict.BLOCK))
            before = list(await world.log.expired())
            await world.log.end(job, make_event(State.RELEASED))
            return release, before, list(await world.log.expired())

        release, before, after = asyncio.run(story())
        assert (before, after) == ([], [release])
