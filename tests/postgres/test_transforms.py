"""What only a real Postgres can show of transforms: commits that race, entries, and what stays after a refusal."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import timedelta

import psycopg2.errors
import pytest
from uuid_utils.compat import uuid7

from moderation.adapters.database import Context
from moderation.adapters.idempotency import PostgresIdempotency
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.queue import PostgresQueue
from moderation.adapters.reviews import PostgresReviews
from moderation.adapters.transforms import PostgresTransforms
from moderation.canonical import canonical
from moderation.decision import PolicyRef, Verdict
from moderation.errors import FactsChanged, Overloaded, RecordUnavailable, StaleLease
from moderation.media import Stage
from moderation.ports import Begun, KeyUse, QueueState, TransformFilter
from moderation.transform import Basis, ConsentStatement, Original, PartKind, State
from tests.builders import make_event, make_part
from tests.contracts.transform_log_contract import DUE, FAILURE, TIGHTER, World, denial, outcome_of
from tests.pg import as_role, make_tenant

pytestmark = pytest.mark.postgres
WORK = (State.SCREENING, State.TRANSFORMING, State.SCREENING_OUTPUT)
ROUNDS = 12
"""How often two commits race in one test."""


@pytest.fixture
def world(database, record, pool):
    return World(
        log=PostgresTransforms(pool),
        reviews=PostgresReviews(pool),
        queue=PostgresQueue(pool),
        decisions=record,
        policies=PostgresPolicies(pool, remember_s=0.0),
        tenant=make_tenant(database.runtime, "one"),
        other=make_tenant(database.runtime, "two"),
    )


def rows(database, world, statement, *values):
    with as_role(database.runtime, tenant=world.tenant) as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def count(database, world, table):
    return rows(database, world, f"SELECT count(*) FROM facegate.{table}")[0][0]


async def at_once(*writing: Awaitable[object]) -> Sequence[type | None]:
    """What each of these came to, all begun at the same time."""
    return await asyncio.gather(*(outcome_of(one) for one in writing))


# --- accepting --------------------------------------------------------------------------------


def test_of_twenty_accepts_with_one_key_at_once_one_is_new_and_all_get_its_id(world, database):
    async def story():
        await world.publish()
        use = KeyUse(key="k", fingerprint="a")
        return await asyncio.gather(*(world.log.accept(world.transform(), use=use) for _ in range(20)))

    said = asyncio.run(story())
    assert Counter(begun for begun, _ in said) == {Begun.NEW: 1, Begun.KNOWN: 19}
    assert len({id for _, id in said}) == 1
    assert [count(database, world, table) for table in ("transform", "transform_event", "job", "idempotency")] == [1, 1, 1, 1]


def test_a_key_in_intake_elsewhere_is_in_progress_and_nothing_is_written(world, pool, database):
    async def story():
        await world.publish()
        _, owner = await PostgresIdempotency(pool).begin(world.tenant, "k", "a", uuid7())
        return owner, await world.log.accept(world.transform(), use=KeyUse(key="k", fingerprint="a"))

    owner, said = asyncio.run(story())
    assert said == (Begun.IN_PROGRESS, owner)
    assert [count(database, world, table) for table in ("transform", "job")] == [0, 0]


def test_a_claim_that_lapsed_is_taken_over_under_the_id_whose_bytes_are_stored(world, pool):
    async def story():
        await world.publish()
        await PostgresIdempotency(pool, lease_s=-1).begin(world.tenant, "k", "a", uuid7())
        transform = world.transform()
        said = await world.log.accept(transform, use=KeyUse(key="k", fingerprint="a"))
        return transform, said, await world.log.accept(world.transform(), use=KeyUse(key="k", fingerprint="a"))

    transform, first, second = asyncio.run(story())
    assert (first, second) == ((Begun.NEW, transform.id), (Begun.KNOWN, transform.id))


def test_a_transform_stays_known_by_its_key_when_its_work_is_long_gone(world, pool, database):
    async def story():
        await world.publish()
        transform = world.transform()
        use = KeyUse(key="k", fingerprint="a")
        await world.log.accept(transform, use=use)
        await world.log.end(await world.taken(), make_event(State.FAILED, failure=FAILURE))
        assert await world.queue.purge(ended_before_s=-1) == 1
        idempotency = PostgresIdempotency(pool)
        await idempotency.forget(world.tenant, "k", transform.id)
        return transform, await world.log.accept(world.transform(), use=use), await idempotency.begin(world.tenant, "k", "a", uuid7())

    transform, again, begun = asyncio.run(story())
    assert again == begun == (Begun.KNOWN, transform.id)
    assert count(database, world, "transform") == 1


def test_of_a_transform_too_many_nothing_is_written_and_its_key_stays_free(world, pool, database):
    log, use = PostgresTransforms(pool, max_queued=1), KeyUse(key="k", fingerprint="a")
    tables = ("transform", "transform_event", "job", "entry", "personal", "idempotency")

    async def story():
        await world.publish()
        await log.accept(world.transform())
        before = [count(database, world, table) for table in tables]
        with pytest.raises(Overloaded):
            await log.accept(world.transform(reference="r"), use=use)
        assert [count(database, world, table) for table in tables] == before
        await world.log.end(await world.taken(), make_event(State.FAILED, failure=FAILURE))
        transform = world.transform()
        return transform, await log.accept(transform, use=use)

    transform, said = asyncio.run(story())
    assert said == (Begun.NEW, transform.id)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": PolicyRef(name="absent", version=1, digest="sha256:00")},
        {"catalogue_source": uuid7()},
        {"reference": "nul \x00"},
        {"actor": "nul \x00"},
        {"reference": "half a pair \ud800"},
        {"consent": ConsentStatement(basis=Basis.SELF, statement="half a pair \ud800")},
    ],
    ids=["policy", "catalogue", "text", "actor", "surrogate", "statement"],
)
def test_what_the_record_refuses_leaves_nothing_not_even_the_key(world, database, changes):
    async def story():
        await world.publish()
        with pytest.raises(RecordUnavailable):
            await world.log.accept(world.transform(**changes), use=KeyUse(key="k", fingerprint="a"))
        return await world.log.accept(world.transform(), use=KeyUse(key="k", fingerprint="a"))

    assert asyncio.run(story())[0] is Begun.NEW
    assert [count(database, world, table) for table in ("transform", "job", "personal")] == [1, 1, 0]


def test_one_id_is_accepted_once(world):
    async def story():
        await world.publish()
        transform = await world.accepted()
        with pytest.raises(RecordUnavailable, match="transform"):
            await world.log.accept(replace(transform, request_id="req_2"))
        return transform, await world.log.load(world.tenant, transform.id)

    transform, committed = asyncio.run(story())
    assert committed.transform == transform


# --- races ------------------------------------------------------------------------------------


def test_of_many_releases_at_once_there_is_one(world, database):
    async def story():
        await world.publish()
        transform, job, release = await world.worked()
        decisions = [
            {**release.decisions, stage: (await world.decided(transform, stage)).id} for stage in release.decisions for _ in (1, 2)
        ]
        said = await at_once(*(world.log.release(job, replace(release, decisions=one)) for one in (release.decisions, *decisions)))
        return said, (await world.log.load(world.tenant, transform.id)).release

    said, kept = asyncio.run(story())
    assert Counter(said) == {None: 1, StaleLease: 6}
    assert kept is not None
    assert count(database, world, "release") == 1
    assert rows(database, world, "SELECT count(*) FROM facegate.entry WHERE kind = 'release'") == [(1,)]


def test_a_release_and_a_new_policy_never_pass_each_other(world, database):
    async def story():
        seen = []
        for number in range(ROUNDS):
            in_force = await world.publish(**(TIGHTER if number % 2 else {}))
            transform, job, release = await world.worked(policy=in_force)
            tightened = world.publish(**({} if number % 2 else TIGHTER))
            outcome, _ = await at_once(world.log.release(job, release), tightened)
            seen.append((transform.id, outcome))
        return seen

    for transform, outcome in asyncio.run(story()):
        found = rows(
            database,
            world,
            "SELECT (SELECT min(p.recorded_at) FROM facegate.policy p WHERE p.version > r.in_force_version) > r.recorded_at"
            " FROM facegate.release r WHERE r.transform = %s",
            str(transform),
        )
        assert found == ([(True,)] if outcome is None else [])
        assert outcome in (None, FactsChanged)


def test_either_the_release_comes_first_or_the_request_for_the_end(world):
    async def story():
        await world.publish()
        seen = []
        for _ in range(ROUNDS):
            transform, job, release = await world.worked()
            outcome, _ = await at_once(world.log.release(job, release), world.log.request_cancel(world.tenant, transform.id, "k"))
            committed = await world.log.load(world.tenant, transform.id)
            seen.append((outcome, committed.release is not None, committed.cancel_requested))
        return seen

    assert set(asyncio.run(story())) <= {(None, True, False), (FactsChanged, False, True)}


def test_a_block_either_stops_the_release_or_withdraws_it(world):
    async def story():
        await world.publish()
        seen = []
        for stage in (Stage.SOURCE, Stage.OUTPUT) * (ROUNDS // 2):
            transform, job, release = await world.worked()
            review = world.review(release.decisions[stage], Verdict.BLOCK)
            outcome, _ = await at_once(world.log.release(job, release), world.reviews.add(review, to_wake=transform.id))
            committed = await world.log.load(world.tenant, transform.id)
            seen.append((outcome, committed.release is not None, committed.withdrawn))
        return seen

    assert set(asyncio.run(story())) <= {(None, True, True), (FactsChanged, False, False)}


def face(number: int) -> dict[str, Original]:
    return {"source": Original(sha256=f"{number:064x}", size=111, type="image/jpeg")}


def test_a_block_said_elsewhere_stops_or_withdraws_whatever_is_being_released_with_the_same_bytes(world, database):
    async def story():
        await world.publish()
        seen = []
        for number in range(ROUNDS // 3):
            before, _ = await world.released(**face(number))
            begun = [await world.worked(**face(number)) for _ in range(3)]
            block = world.review(await world.elsewhere(Stage.UPLOAD, face(number)["source"].sha256), Verdict.BLOCK)
            said = await at_once(*(world.log.release(job, release) for _, job, release in begun), world.reviews.add(block))
            now = [await world.log.load(world.tenant, transform.id) for transform, _, _ in begun]
            seen += [(outcome, one.release is not None, one.withdrawn) for outcome, one in zip(said, now, strict=False)]
            seen.append((said[-1], True, (await world.log.load(world.tenant, before.id)).withdrawn))
        return seen

    assert set(asyncio.run(story())) <= {(None, True, True), (FactsChanged, False, False)}
    entries = "SELECT count(*) FROM facegate.entry e JOIN facegate.release_withdrawal w ON w.id = e.id AND e.kind = 'withdrawal'"
    assert rows(database, world, entries) == [(count(database, world, "release_withdrawal"),)]


def test_a_block_waits_for_a_release_that_has_looked_for_blocks_already_and_withdraws_it(world, database):
    async def until(cursor, what):
        waits = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = %s"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        while cursor.execute(waits, (what,)) or cursor.fetchone() == (0,):  # noqa: ASYNC110  # who waits for a lock tells nobody
            await asyncio.sleep(0.01)

    async def story():
        await world.publish()
        transform, job, release = await world.worked()
        decision = await world.elsewhere(Stage.UPLOAD, transform.source.sha256)
        with as_role(database.owner) as cursor:
            cursor.execute("LOCK TABLE facegate.release IN SHARE MODE")  # the release gets as far as its own row
            releasing = asyncio.create_task(world.log.release(job, release))
            await until(cursor, "relation")
            blocking = asyncio.create_task(world.reviews.add(world.review(decision, Verdict.BLOCK)))
            await until(cursor, "advisory")
        await asyncio.gather(releasing, blocking)
        return await world.log.load(world.tenant, transform.id)

    committed = asyncio.run(story())
    assert (committed.release is not None, committed.withdrawn) == (True, True)


def test_blocks_of_different_bytes_of_the_same_releases_never_wait_for_each_other_in_a_ring(world, database):
    async def story():
        await world.publish()
        for number in range(ROUNDS):
            await world.released(**face(number % 3))
        about = [face(number)["source"].sha256 for number in range(3)] + [
            make_part(kind).sha256 for kind in (PartKind.ENCODED, PartKind.SIGNED)
        ]
        blocks = [world.review(await world.elsewhere(Stage.UPLOAD, sha256), Verdict.BLOCK) for sha256 in about]
        return await at_once(*map(world.reviews.add, blocks))

    assert asyncio.run(story()) == [None] * 5
    assert [count(database, world, table) for table in ("release", "release_withdrawal")] == [ROUNDS, ROUNDS]


@pytest.mark.parametrize("news", ["review", "cancel"])
def test_nobody_waits_for_what_has_been_said(world, news):
    """Whoever comes first, the pause or its answer: the work goes on afterwards."""

    async def story():
        await world.publish()
        seen = []
        for _ in range(ROUNDS):
            transform, job = await world.begun()
            decision = await world.decided(transform, Stage.SOURCE, DUE)
            if news == "review":
                said = world.reviews.add(world.review(decision), to_wake=transform.id)
            else:
                said = world.log.request_cancel(world.tenant, transform.id, "k")
            outcome, _ = await at_once(world.log.end(job, make_event(State.HELD, held=denial(decision))), said)
            seen.append((outcome, await world.job_state(transform)))
            job = job if outcome else await world.taken()
            await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
        return seen

    assert set(asyncio.run(story())) <= {(None, QueueState.QUEUED), (FactsChanged, QueueState.RUNNING)}


def test_whoever_gives_up_work_it_is_ended_once(world, database):
    async def story():
        await world.publish()
        ids = []
        for _ in range(6):
            transform, job = await world.begun(callback_url="https://example.test/")
            await world.queue.fail(job, "trouble with \x00 and more", retry_in_s=None)
            ids.append(transform.id)
        counts = await asyncio.gather(*(world.log.end_parked() for _ in range(4)))
        return sum(counts), [await world.states(one.transform) for one in await world.log.find(world.tenant, TransformFilter())]

    ended, states = asyncio.run(story())
    assert ended == 6
    assert states == [[State.QUEUED, State.FAILED]] * 6
    assert rows(database, world, "SELECT count(*) FROM facegate.job WHERE kind = 'webhook'") == [(6,)]
    causes = rows(database, world, "SELECT DISTINCT failure->>'cause' FROM facegate.transform_event WHERE state = 'failed'")
    assert causes == [("trouble with  and more",)]


def test_a_stale_worker_and_its_successor_leave_one_line_of_events(world):
    async def story():
        await world.publish()
        transform, old = await world.begun()
        new = await world.stale(old)
        late = asyncio.create_task(at_once(*(world.log.advance(old, state) for state in WORK)))
        for state in WORK:
            await world.log.advance(new, state)
        return await late, await world.states(transform)

    assert asyncio.run(story()) == ([StaleLease] * 3, [State.QUEUED, *WORK])


def test_what_is_loaded_is_of_one_moment(world):
    """A block and the withdrawal that it causes are one commit: nobody sees one of them alone."""

    async def watch(transform, seen, begun):
        while not seen or not seen[-1][0]:
            committed = await world.log.load(world.tenant, transform.id)
            seen.append((committed.withdrawn, any(review.verdict is Verdict.BLOCK for review in committed.reviews.values())))
            begun.set()

    async def story():
        await world.publish()
        seen = []
        for _ in range(3):
            transform, release = await world.released()
            mine, begun = [], asyncio.Event()
            watching = asyncio.create_task(watch(transform, mine, begun))
            await begun.wait()
            await world.reviews.add(world.review(release.decisions[Stage.TARGET], Verdict.BLOCK))
            await watching
            seen += mine
            await world.reviews.add(world.review(release.decisions[Stage.TARGET], Verdict.ALLOW))  # the next one has the same pictures
        return seen

    assert set(asyncio.run(story())) == {(False, False), (True, True)}


# --- work that waits --------------------------------------------------------------------------


def test_held_work_outlives_the_purge_of_ended_work_and_its_fence_goes_on(world):
    async def story():
        await world.publish()
        transform, decision = await world.held()
        await world.queue.purge(ended_before_s=-1)
        await world.reviews.add(world.review(decision), to_wake=transform.id)
        job = await world.taken()
        await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
        return job, await world.queue.purge(ended_before_s=-1), await world.job_state(transform)

    job, purged, state = asyncio.run(story())
    assert (job.fence, purged, state) == (2, 1, None)


def test_a_release_is_withdrawn_although_its_work_is_long_gone(world):
    async def story():
        await world.publish()
        transform, release = await world.released()
        assert await world.queue.purge(ended_before_s=-1) == 1
        blocks = [world.reviews.add(world.review(release.decisions[stage], Verdict.BLOCK)) for stage in release.decisions]
        said = await at_once(*blocks)
        return said, (await world.log.load(world.tenant, transform.id)).withdrawn

    assert asyncio.run(story()) == ([None] * 3, True)


def test_a_lease_that_ran_out_unnoticed_still_commits_until_somebody_else_has_taken_the_work(world):
    async def story():
        await world.publish()
        await world.accepted()
        job = await world.taken(lease_s=-1)
        before = await outcome_of(world.log.advance(job, State.SCREENING))
        await world.taken()
        return before, await outcome_of(world.log.advance(job, State.TRANSFORMING))

    assert asyncio.run(story()) == (None, StaleLease)


def test_other_work_of_the_same_lease_numbers_writes_nothing(world):
    async def story():
        await world.publish()
        transform = await world.accepted()
        job = await world.queue.put(id=uuid7(), tenant=world.tenant, kind="screening", payload={}, leased_for_s=30)
        return await outcome_of(world.log.end(job, make_event(State.FAILED, failure=FAILURE))), await world.states(transform)

    assert asyncio.run(story()) == (StaleLease, [State.QUEUED])


# --- what the database itself holds -----------------------------------------------------------


def test_postgres_refuses_a_second_end_a_second_release_and_a_gap_filled_twice(world, database):
    async def story():
        await world.publish()
        transform, _ = await world.released()
        return transform

    transform = asyncio.run(story())
    whose = (str(world.tenant), str(transform.id))
    for statement in (
        "INSERT INTO facegate.transform_event (tenant, transform, sequence, state) VALUES (%s, %s, 9, 'cancelled')",
        "INSERT INTO facegate.transform_event (tenant, transform, sequence, state) VALUES (%s, %s, 1, 'screening')",
    ):
        with pytest.raises(psycopg2.errors.UniqueViolation):
            rows(database, world, statement, *whose)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        rows(
            database,
            world,
            "INSERT INTO facegate.release (tenant, transform, id, signed_sha256, encoded_sha256, source_decision, target_decision,"
            " output_decision, policy_name, pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at)"
            " SELECT tenant, transform, %s, signed_sha256, encoded_sha256, source_decision, target_decision, output_decision, policy_name,"
            " pinned_version, pinned_digest, in_force_version, in_force_digest, released_at, expires_at FROM facegate.release",
            str(uuid7()),
        )


def test_postgres_refuses_an_end_without_its_facts(world, database):
    async def story():
        await world.publish()
        return await world.accepted()

    transform = asyncio.run(story())
    for state in ("denied", "failed", "held"):
        with pytest.raises(psycopg2.errors.CheckViolation):
            rows(
                database,
                world,
                "INSERT INTO facegate.transform_event (tenant, transform, sequence, state) VALUES (%s, %s, 2, %s)",
                str(world.tenant),
                str(transform.id),
                state,
            )


# --- entries and personal data ----------------------------------------------------------------

PERSONAL = {"reference": "order-17 of Jane", "callback_url": "https://example.test/jane"}
CONSENT = ConsentStatement(basis=Basis.SUBJECT_CONSENT, statement="Jane agreed", reference="c-jane")


def entries_of(database, world):
    """Every entry by kind, oldest first; each is canonical."""
    found: dict[str, list] = {}
    for kind, id, data in rows(database, world, "SELECT kind, id, canonical FROM facegate.entry ORDER BY recorded_at"):
        document = json.loads(bytes(data))
        assert canonical(document) == bytes(data)
        assert (document["kind"], document["id"], document["tenant"]) == (kind, str(id), str(world.tenant))
        found.setdefault(kind, []).append(document)
    return found


def commitments_of(database, world, about):
    """Each personal text about this id as anyone would commit to it who knows salt and text."""
    kept = rows(database, world, "SELECT kind, salt, content FROM facegate.personal WHERE id = %s", str(about))
    return {kind: "sha256:" + hashlib.sha256(bytes(salt) + content.encode()).hexdigest() for kind, salt, content in kept}


def test_the_whole_way_is_in_the_entries_and_nothing_personal_is(world, database):
    async def story():
        await world.publish()
        transform, release = await world.released(consent=CONSENT, target_consent=ConsentStatement(basis=Basis.LICENSED), **PERSONAL)
        review = world.review(release.decisions[Stage.OUTPUT], Verdict.BLOCK, reason="Jane objects", subject="reviewer Jim")
        await world.reviews.add(review, to_wake=transform.id)
        await world.reviews.viewed(
            tenant=world.tenant,
            decision=review.decision,
            actor="r",
            subject="reviewer Jim",
            rendition="blurred",
            at=review.at,
        )
        await world.log.record_purge(world.tenant, transform.id, {"bytes": "removed"})
        return transform, release, review

    transform, release, review = asyncio.run(story())
    found = entries_of(database, world)
    assert {kind: len(every) for kind, every in found.items()} == {
        "policy": 1,
        "transform": 1,
        "decision": 3,
        "release": 1,
        "review": 1,
        "withdrawal": 1,
        "view": 1,
        "purge": 1,
    }
    assert [word for word in ("Jane", "jane", "Jim") if word in json.dumps(found)] == []
    kept = commitments_of(database, world, transform.id)
    (accepted,), (released,), (reviewed,) = found["transform"], found["release"], found["review"]
    assert accepted["transform"]["reference"] == kept["reference"]
    assert accepted["transform"]["callback_url"] == kept["callback_url"]
    assert accepted["transform"]["consent"] == {"basis": "subject_consent", "said": kept["consent"]}
    assert accepted["transform"]["target_consent"] == {"basis": "licensed", "said": None}
    assert released["release"]["decisions"] == {str(stage): str(id) for stage, id in release.decisions.items()}
    assert (released["release"]["transform"], released["actor"]) == (str(transform.id), transform.actor)
    of_review = commitments_of(database, world, review.id)
    assert (reviewed["review"]["reason"], reviewed["review"]["subject"]) == (of_review["review_reason"], of_review["subject"])
    assert found["withdrawal"][0]["withdrawal"] == {"transform": str(transform.id), "review": str(review.id)}
    assert found["purge"][0]["purge"] == {"transform": str(transform.id), "result": {"bytes": "removed"}}
    named = rows(
        database,
        world,
        "SELECT r.id, w.id, p.id FROM facegate.release r JOIN facegate.release_withdrawal w USING (tenant, transform)"
        " JOIN facegate.release_purge p USING (tenant, transform)",
    )
    assert [str(id) for id in named[0]] == [found[kind][0]["id"] for kind in ("release", "withdrawal", "purge")]


def test_what_is_erased_reads_as_erased_and_everything_else_stays(world, database):
    async def story():
        await world.publish()
        transform, decision = await world.held(consent=CONSENT, **PERSONAL)
        await world.reviews.add(world.review(decision, reason="Jane objects", subject="Jim"), to_wake=transform.id)
        before = await world.log.load(world.tenant, transform.id)
        with as_role(database.owner, tenant=world.tenant) as cursor:
            cursor.execute("DELETE FROM facegate.personal")
        job = await world.taken()
        await world.log.end(job, make_event(State.FAILED, failure=FAILURE))
        return before, await world.log.load(world.tenant, transform.id), await world.queue.take(("webhook",), 30)

    before, after, called = asyncio.run(story())
    assert after.transform == replace(before.transform, consent=ConsentStatement(basis=CONSENT.basis), reference=None, callback_url=None)
    (said,), (then,) = after.reviews.values(), before.reviews.values()
    assert said == replace(then, reason="(erased)", subject="(erased)")
    assert called is None


# --- purge ------------------------------------------------------------------------------------


def test_the_purge_looks_across_tenants_and_nobody_else_does(world, pool):
    async def story():
        await world.publish()
        _, release = await world.released()
        late = PostgresTransforms(pool, clock=lambda: release.expires_at + timedelta(seconds=1))
        early = PostgresTransforms(pool, clock=lambda: release.expires_at - timedelta(seconds=1))
        found = (await early.expired(), await late.expired())
        await late.record_purge(release.tenant, release.transform, {})
        seen = await pool.run(
            Context(tenant=world.other), lambda connection: connection.exec_driver_sql("SELECT count(*) FROM facegate.release").scalar()
        )
        return release, found, await late.expired(), seen

    release, found, then, seen = asyncio.run(story())
    assert found == ([], [release])
    assert then == []
    assert seen == 0


def test_the_purge_of_what_was_never_released_is_refused(world):
    async def story():
        await world.publish()
        transform = await world.accepted()
        await world.log.record_purge(world.tenant, transform.id, {})

    with pytest.raises(RecordUnavailable):
        asyncio.run(story())
