"""The record on Postgres: what goes in comes out, for its tenant only, and faults stay where they are."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.postgres import Named, PostgresRecord, portions
from moderation.audit import commitment, leaf_hash
from moderation.decision import Decision, PolicyRef, Reason, ReasonCode, Verdict
from moderation.errors import Overloaded, RecordUnavailable, StaleLease
from moderation.media import Media, MediaKind, Stage
from moderation.ports import DecisionFilter, Job, ReuseKey
from tests.builders import (
    LOUD,
    QUIET,
    make_classifier_version,
    make_decision,
    make_detection,
    make_error_decision,
    make_facts,
    make_sheet,
)
from tests.pg import as_role
from tests.strategies import decisions

pytestmark = pytest.mark.postgres

TENANT, OTHER = uuid7(), uuid7()


def new_decision(scores=QUIET, **changes) -> Decision:
    """A decision of just now."""
    return make_decision(scores, **{"id": uuid7(), "tenant": TENANT, "created_at": datetime.now(UTC), **changes})


def key_of(decision: Decision) -> ReuseKey:
    return ReuseKey(
        tenant=decision.tenant,
        media_sha256=decision.media.sha256,
        plan_digest=decision.plan_digest,
        decoder=decision.decoder,
        classifiers=tuple(sheet.classifier for sheet in decision.sheets),
    )


def run(*work):
    """Run coroutines side by side and return what they return or raise."""

    async def all_of_them():
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(all_of_them())


def append_all(record: PostgresRecord, *decisions: Decision):
    outcomes = run(*(record.append(decision) for decision in decisions))
    assert outcomes == [None] * len(decisions), outcomes


def fresh(database: DatabaseUrls) -> PostgresRecord:
    """Another process's view: nothing in memory."""
    return PostgresRecord(database.runtime)


# --- round trip -------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(decisions(tenants=[TENANT, OTHER]), min_size=1, max_size=6))
def test_what_is_read_is_exactly_what_was_appended(database: DatabaseUrls, record: PostgresRecord, appended: list[Decision]):
    append_all(record, *appended)
    reader = fresh(database)
    try:
        assert run(*(reader.get(decision.tenant, decision.id) for decision in appended)) == appended
    finally:
        reader.close()


@pytest.mark.parametrize("field", ["actor", "request_id", "decoder", "plan_digest"])
@pytest.mark.parametrize("sign", ["\x00", "\x1d", "\x1e", "\x1f", "\ud800"])
def test_a_text_that_could_not_travel_unchanged_is_refused(record: PostgresRecord, field: str, sign: str):
    (outcome,) = run(record.append(new_decision(**{field: f"a{sign}b"})))
    assert isinstance(outcome, RecordUnavailable)


def test_a_decision_without_a_time_zone_is_refused(record: PostgresRecord):
    (outcome,) = run(record.append(new_decision(created_at=datetime.now(UTC).replace(tzinfo=None))))
    assert isinstance(outcome, RecordUnavailable)


def test_a_decision_far_from_the_time_of_its_id_is_refused(record: PostgresRecord):
    now = datetime.now(UTC)
    outcomes = run(*(record.append(new_decision(created_at=now + away)) for away in (timedelta(days=-2), timedelta(days=40))))
    assert all(isinstance(outcome, RecordUnavailable) for outcome in outcomes)


# --- entries ----------------------------------------------------------------------------------


def test_every_decision_has_an_entry_with_its_leaf_from_the_same_transaction(database: DatabaseUrls, record: PostgresRecord):
    decision = new_decision(LOUD)
    append_all(record, decision)
    with as_role(database.runtime, tenant=TENANT) as cursor:
        cursor.execute(
            "SELECT e.kind, e.canonical, e.leaf, e.xid::text = d.xmin::text FROM facegate.entry e JOIN facegate.decision d USING (tenant, id)"
        )
        ((kind, canonical, leaf, together),) = cursor.fetchall()
    entry = json.loads(bytes(canonical))
    assert kind == entry["kind"] == "decision"
    assert bytes(leaf) == leaf_hash(bytes(canonical))
    assert together
    assert entry["id"] == str(decision.id)
    assert entry["verdict"] == "block"
    assert len(bytes.fromhex(entry["nonce"])) == 16


def test_the_entry_holds_only_a_salted_commitment_to_the_reference(database: DatabaseUrls, record: PostgresRecord):
    append_all(record, new_decision(reference="order of Mrs Smith"))
    with as_role(database.runtime, tenant=TENANT) as cursor:
        cursor.execute("SELECT canonical FROM facegate.entry")
        canonical = bytes(cursor.fetchone()[0])
        cursor.execute("SELECT kind, salt, content FROM facegate.personal")
        kind, salt, content = cursor.fetchone()
    assert b"Smith" not in canonical
    assert (kind, content) == ("reference", "order of Mrs Smith")
    assert json.loads(canonical)["reference"] == commitment(bytes(salt), content)


def test_once_its_reference_is_erased_a_decision_reads_without_it_and_its_entry_is_untouched(
    database: DatabaseUrls, record: PostgresRecord
):
    decision = new_decision(reference="order of Mrs Smith")
    append_all(record, decision)
    with as_role(database.owner, tenant=TENANT) as cursor:
        cursor.execute("DELETE FROM facegate.personal")
    assert run(record.get(TENANT, decision.id)) == [replace(decision, reference=None)]


# --- tenants ----------------------------------------------------------------------------------


def test_another_tenant_reads_nothing(record: PostgresRecord):
    decision = new_decision(reference="x")
    append_all(record, decision)
    found = run(record.get(OTHER, decision.id), record.find(OTHER, DecisionFilter()), record.find(OTHER, DecisionFilter(reference="x")))
    assert found == [None, [], []]


def test_one_batch_of_many_tenants_lands_with_each_of_them(record: PostgresRecord):
    tenants = [uuid7() for _ in range(20)]
    append_all(record, *(new_decision(tenant=tenants[number % 20]) for number in range(200)))
    found = run(*(record.find(tenant, DecisionFilter()) for tenant in tenants))
    assert [len(decisions) for decisions in found] == [10] * 20
    assert all(decision.tenant == tenant for tenant, decisions in zip(tenants, found, strict=True) for decision in decisions)


# --- score memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [True, False], ids=["from memory", "from the database"])
def test_scores_are_recalled_under_exactly_their_key(database: DatabaseUrls, record: PostgresRecord, remembered: bool):
    decision = new_decision(LOUD, sheets=(make_sheet(LOUD, detections=((0, make_detection()),)),))
    append_all(record, decision)
    memory = record if remembered else fresh(database)
    key = key_of(decision)
    others = [
        replace(key, tenant=OTHER),
        replace(key, media_sha256="cd" * 32),
        replace(key, plan_digest="sha256:" + "9" * 64),
        replace(key, decoder="another"),
        replace(key, classifiers=(make_classifier_version(runtime="another"),)),
        replace(key, classifiers=()),
        replace(key, classifiers=key.classifiers * 2),
    ]
    try:
        recalled, *none = run(memory.recall(key), *(memory.recall(other) for other in others))
    finally:
        if not remembered:
            memory.close()
    assert (recalled.decision, recalled.facts, recalled.sheets) == (decision.id, decision.media.facts, decision.sheets)
    assert none == [None] * len(others)


@pytest.mark.parametrize(
    "decision",
    [
        new_decision(verdict=Verdict.ERROR),
        make_error_decision(id=uuid7(), tenant=TENANT, created_at=datetime.now(UTC)),
        new_decision(reused_from=uuid7()),
        new_decision(media=Media(sha256="ab" * 32, size=1, facts=make_facts(frames=2))),
        new_decision(sheets=(make_sheet({"sexual.suggestive": 1}),)),
        new_decision(sheets=(make_sheet({**QUIET, "sexual.suggestive": 2_000_000}),)),
    ],
    ids=["error", "unopened", "used again", "a frame short", "a category short", "out of range"],
)
def test_what_is_no_complete_first_hand_sheet_is_never_recalled(database: DatabaseUrls, record: PostgresRecord, decision: Decision):
    append_all(record, decision)
    other = fresh(database)
    try:
        assert run(record.recall(key_of(decision)), other.recall(key_of(decision))) == [None, None]
    finally:
        other.close()


def test_scores_that_were_never_committed_are_not_remembered(record: PostgresRecord):
    decision = new_decision(created_at=datetime.now(UTC) - timedelta(days=3))
    (outcome,) = run(record.append(decision))
    assert isinstance(outcome, RecordUnavailable)
    assert run(record.recall(key_of(decision))) == [None]


def test_each_commit_is_observed_with_the_decisions_that_it_had(database: DatabaseUrls):
    seen: list[int] = []
    record = PostgresRecord(database.runtime, observe=seen.append)
    append_all(record, *(new_decision() for _ in range(50)))
    twice = new_decision()
    append_all(record, twice, twice)
    gone = Job(id=uuid7(), tenant=TENANT, kind="screening", payload={}, fence=1, attempt=1)
    (late,) = run(record.append(new_decision(), job=gone))
    record.close()
    assert isinstance(late, StaleLease)
    assert sum(seen) == 51
    assert 0 < len(seen) < 51
    assert all(seen)


def test_trouble_with_counting_is_no_trouble_with_the_record(database: DatabaseUrls):
    def broken(_: int) -> None:
        raise OSError("no space left on device")

    record = PostgresRecord(database.runtime, observe=broken)
    decisions = [new_decision() for _ in range(3)]
    for decision in decisions:
        append_all(record, decision)
    assert run(record.find(TENANT, DecisionFilter())) == [decisions[::-1]]
    record.close()


# --- find -------------------------------------------------------------------------------------


def animation_of(frames: int, **changes) -> Decision:
    return new_decision(sheets=(make_sheet(*[QUIET] * frames),), **changes)


@pytest.mark.parametrize("is_judged", [True, False])
def test_a_page_of_long_animations_is_read_in_portions_that_one_answer_has_time_for(record: PostgresRecord, monkeypatch, is_judged):
    facts = make_facts(kind=MediaKind.ANIMATION, frames=300, frames_declared=300) if is_judged else None
    media = Media(sha256="ab" * 32, size=1234, facts=facts)
    decisions = [animation_of(300, media=media) for _ in range(40)]
    append_all(record, *decisions)
    read: list[int] = []
    load = Named.load

    def counting(*arguments):
        loaded = load(*arguments)
        read.append(sum(len(sheet.frames) for decision in loaded for sheet in decision.sheets))
        return loaded

    monkeypatch.setattr(Named, "load", counting)
    assert run(record.find(TENANT, DecisionFilter(limit=39))) == [decisions[::-1]]
    assert sum(read) == 40 * 300
    assert max(read) <= 3000


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([], []), ([1, 2, 3, 4], [[0, 1, 2], [3]]), ([9, 1], [[0], [1]]), ([6, 6, 7, 1], [[0], [1], [2], [3]]), ([0, 6, 0], [[0, 1, 2]])],
)
def test_portions_keep_the_order_and_weigh_no_more_than_they_may_unless_they_are_one(weights, expected):
    ids = [UUID(int=number) for number in range(len(weights))]
    assert portions(zip(ids, weights, strict=True), 6) == [[ids[at] for at in run] for run in expected]


def test_every_filter_finds_what_it_says_and_nothing_else(record: PostgresRecord):
    now = datetime.now(UTC)
    transform = uuid7()
    special = new_decision(
        LOUD,
        stage=Stage.OUTPUT,
        media=Media(sha256="ef" * 32, size=1, facts=make_facts()),
        policy=PolicyRef(name="other", version=1, digest="d"),
        sheets=(make_sheet(LOUD, classifier=make_classifier_version("second")),),
        automated=False,
        reference="order-17",
        transform=transform,
        created_at=now - timedelta(hours=2),
    )
    ordinary = new_decision(created_at=now)
    append_all(record, special, ordinary)
    only_special: list[dict[str, Any]] = [
        {"stage": Stage.OUTPUT},
        {"verdict": Verdict.BLOCK},
        {"category": "sexual.nudity_explicit"},
        {"policy": "other"},
        {"classifier": "second"},
        {"automated": False},
        {"media_sha256": "ef" * 32},
        {"reference": "order-17"},
        {"transform": transform},
        {"until": now - timedelta(hours=1)},
        {"since": special.created_at, "until": special.created_at + timedelta(microseconds=1)},
        {"stage": Stage.OUTPUT, "verdict": Verdict.BLOCK, "reference": "order-17", "classifier": "second"},
    ]
    nothing: list[dict[str, Any]] = [
        {"category": "sexual.suggestive"},
        {"classifier": "third"},
        {"reference": "order-1"},
        {"since": now + timedelta(seconds=1)},
        {"until": special.created_at},
        {"stage": Stage.UPLOAD, "verdict": Verdict.BLOCK},
    ]
    found = run(*(record.find(TENANT, DecisionFilter(**wanted)) for wanted in only_special + nothing))
    assert found == [[special]] * len(only_special) + [[]] * len(nothing)
    assert run(record.find(TENANT, DecisionFilter(since=now)), record.find(TENANT, DecisionFilter())) == [[ordinary], [ordinary, special]]


@pytest.mark.parametrize("sha256", [None, "be" * 32])
def test_pages_by_cursor_show_everything_once_and_newest_first(record: PostgresRecord, sha256: str | None):
    about = {} if sha256 is None else {"media": Media(sha256=sha256, size=1, facts=make_facts())}
    appended = [new_decision(**about) for _ in range(23)]
    append_all(record, *appended)
    if sha256 is not None:
        append_all(record, *[new_decision() for _ in range(5)])  # about other bytes

    async def pages():
        seen, before = [], None
        while True:
            page = await record.find(TENANT, DecisionFilter(media_sha256=sha256, limit=5, before=before))
            seen += page[:5]
            if len(page) <= 5:
                return seen
            before = page[4].id

    assert asyncio.run(pages()) == sorted(appended, key=lambda decision: decision.id, reverse=True)


# --- group commit -----------------------------------------------------------------------------


def test_a_row_that_postgres_refuses_fails_alone(record: PostgresRecord):
    good = [new_decision() for _ in range(60)]
    poison = [new_decision(reasons=(Reason(code=ReasonCode.MEDIA_REFUSED, verdict=Verdict.ERROR, detail="nul \x00"),)) for _ in range(3)]
    mixed = good[:10] + poison[:1] + good[10:30] + poison[1:] + good[30:]
    outcomes = dict(zip((decision.id for decision in mixed), run(*map(record.append, mixed)), strict=True))
    assert [outcomes[decision.id] for decision in good] == [None] * 60
    assert all(isinstance(outcomes[decision.id], RecordUnavailable) for decision in poison)
    assert len(run(record.find(TENANT, DecisionFilter(limit=100)))[0]) == 60


def test_the_same_decision_twice_is_recorded_once_and_a_different_one_under_its_id_is_refused(
    database: DatabaseUrls, record: PostgresRecord
):
    decision = new_decision()
    append_all(record, decision)
    append_all(record, decision)
    (outcome,) = run(record.append(replace(decision, verdict=Verdict.BLOCK)))
    assert isinstance(outcome, RecordUnavailable)
    with as_role(database.runtime, tenant=TENANT) as cursor:
        cursor.execute("SELECT count(*) FROM facegate.entry")
        assert cursor.fetchone() == (1,)


def test_a_caller_that_goes_away_loses_nothing(record: PostgresRecord):
    decisions = [new_decision() for _ in range(50)]

    async def hand_over_and_leave():
        tasks = [asyncio.create_task(record.append(decision)) for decision in decisions]
        await asyncio.sleep(0)  # each has handed over and waits
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(hand_over_and_leave())
    deadline = time.monotonic() + 5
    while len(run(record.find(TENANT, DecisionFilter(limit=100)))[0]) < 50:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_closing_writes_what_was_handed_over(database: DatabaseUrls, record: PostgresRecord):
    own = fresh(database)
    decision = new_decision()

    async def hand_over():
        task = asyncio.create_task(own.append(decision))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, own.close)
        await task

    asyncio.run(hand_over())
    assert run(record.get(TENANT, decision.id)) == [decision]
    assert isinstance(run(own.append(new_decision()))[0], RecordUnavailable)


def test_more_decisions_than_may_wait_are_refused_at_once(database: DatabaseUrls):
    small = PostgresRecord(database.runtime, capacity=10)
    try:
        outcomes = run(*(small.append(new_decision()) for _ in range(400)))
    finally:
        small.close()
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert refused
    assert {(type(outcome), outcome.what) for outcome in refused} == {(Overloaded, "record")}
    assert len(refused) < 400


def test_a_statement_that_waits_for_a_lock_too_long_is_refused_and_the_next_succeeds(database: DatabaseUrls):
    impatient = PostgresRecord(database.runtime, answer_s=0.6)
    try:
        append_all(impatient, new_decision())
        with as_role(database.owner) as cursor:
            cursor.execute("LOCK TABLE facegate.entry IN ACCESS EXCLUSIVE MODE")
            begun = time.monotonic()
            (outcome,) = run(impatient.append(new_decision()))
            assert isinstance(outcome, RecordUnavailable)
            assert time.monotonic() - begun < 2
        append_all(impatient, new_decision())
    finally:
        impatient.close()


# --- jobs -------------------------------------------------------------------------------------


def put_job(database: DatabaseUrls, tenant: UUID, fence: int, state: str = "running") -> Job:
    job = Job(id=uuid7(), tenant=tenant, kind="screening", payload={}, fence=fence, attempt=1)
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(
            "INSERT INTO facegate.job (id, tenant, kind, payload, state, fence) VALUES (%s, %s, 'screening', '{}', %s, %s)",
            (str(job.id), str(tenant), state, fence),
        )
    return job


def state_of(database: DatabaseUrls, job: Job) -> str:
    with as_role(database.runtime, tenant=job.tenant) as cursor:
        cursor.execute("SELECT state FROM facegate.job WHERE id = %s", (str(job.id),))
        return cursor.fetchone()[0]


def test_the_job_is_done_in_the_same_transaction(database: DatabaseUrls, record: PostgresRecord):
    job, decision = put_job(database, TENANT, fence=3), new_decision()
    assert run(record.append(decision, job=job)) == [None]
    assert state_of(database, job) == "done"
    with as_role(database.runtime, tenant=TENANT) as cursor:
        cursor.execute("SELECT (SELECT xmin::text FROM facegate.job) = (SELECT xmin::text FROM facegate.decision)")
        assert cursor.fetchone() == (True,)


@pytest.mark.parametrize("state", ["queued", "done", "parked"])
def test_a_job_that_is_not_running_any_more_is_stale(database: DatabaseUrls, record: PostgresRecord, state: str):
    job = put_job(database, TENANT, fence=3, state=state)
    assert [type(outcome) for outcome in run(record.append(new_decision(), job=job))] == [StaleLease]
    assert state_of(database, job) == state


def test_a_late_result_is_discarded_and_its_neighbours_are_recorded(database: DatabaseUrls, record: PostgresRecord):
    job, foreign = put_job(database, TENANT, fence=3), put_job(database, OTHER, fence=1)
    late, stranger, neighbours = new_decision(), new_decision(), [new_decision() for _ in range(5)]
    outcomes = run(
        record.append(late, job=replace(job, fence=2)),
        record.append(stranger, job=foreign),
        *map(record.append, neighbours),
    )
    assert [type(outcome) for outcome in outcomes[:2]] == [StaleLease, StaleLease]
    assert outcomes[2:] == [None] * 5
    assert run(record.get(TENANT, late.id), record.get(TENANT, stranger.id)) == [None, None]
    assert (state_of(database, job), state_of(database, foreign)) == ("running", "running")


def test_of_two_fences_in_one_batch_the_newest_wins(database: DatabaseUrls, record: PostgresRecord):
    job = put_job(database, TENANT, fence=2)
    old, new = new_decision(), new_decision()
    outcomes = run(record.append(old, job=replace(job, fence=1)), record.append(new, job=job))
    assert [type(outcome) for outcome in outcomes] == [StaleLease, type(None)]
    assert run(record.get(TENANT, old.id), record.get(TENANT, new.id)) == [None, new]
