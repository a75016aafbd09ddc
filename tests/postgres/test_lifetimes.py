"""How long things stay, on the real record and store: purges, sweeps, holds against both, and months that are dropped."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2.errors
import pytest
from uuid_utils.compat import uuid7

from deployments.databases import drop_months_before
from deployments.embedded_postgres import DatabaseUrls
from deployments.purge import CountedArea, Leftovers, Purge, Removals, of_intake, of_quarantine, of_released
from deployments.settings import SettingsRefused
from moderation.adapters.areas import object_name
from moderation.adapters.holds import PostgresHolds
from moderation.adapters.keeping import PostgresKeeping
from moderation.adapters.media_store import ObjectMediaStore
from moderation.adapters.months import MonthsRefused
from moderation.adapters.sources import PostgresSources
from moderation.adapters.sweeps import PostgresSweeps
from moderation.adapters.tables import PARTITIONED
from moderation.decision import Decision, ReasonCode, Verdict
from moderation.errors import RecordUnavailable
from moderation.media import Media, Stage, sha256_of
from moderation.people import Hold, Sweep
from moderation.transform import Basis, CatalogueSource, ConsentStatement, PartKind, State
from tests.builders import LOUD, QUIET, make_event, make_facts
from tests.gate_kit import Yard, face, in_yard, jpeg, marked, unchanged
from tests.pg import as_role
from tests.postgres.test_people import People, people
from tests.postgres.test_seals import seal_all

__all__ = ["people"]

pytestmark = pytest.mark.postgres

DAY_S = 24 * 3600.0


async def held(yard: Yard, **on) -> Hold:
    hold = Hold(id=uuid7(), tenant=yard.tenant, reason="case 7", actor="k", at=datetime.now(UTC), **on)
    await PostgresHolds(yard.database).place(hold)
    return hold


async def let_go(yard: Yard, hold: Hold) -> None:
    await PostgresHolds(yard.database).release(yard.tenant, hold.id, reason="over", actor="k", at=datetime.now(UTC))


def sweeps(yard: Yard) -> dict[str, Leftovers]:
    """As they are wired, for files of any age."""
    keeping, swept = PostgresKeeping(yard.database), Removals(PostgresSweeps(yard.database), "housekeeping", clock=yard.clock)
    rules = {"intake": of_intake(DAY_S), "quarantine": of_quarantine(DAY_S), "released": of_released, "catalogue": of_released}
    return {area: Leftovers(yard.area(area), keeping, swept, rule, settled_s=-1.0) for area, rule in rules.items()}


def files(yard: Yard, area: str) -> set[str]:
    folder = yard.folder / "media" / area
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def make_old(folder: Path) -> None:
    """As if everything had been stored two days ago."""
    then = time.time() - 2 * DAY_S
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def source_of(decision: Decision, **changes: Any) -> CatalogueSource:
    """The approval of the face that this decision is about, as the API would store it."""
    facts: dict[str, Any] = {"id": decision.id, "tenant": decision.tenant, "decision": decision.id, "created_at": datetime.now(UTC)}
    media = {"sha256": decision.media.sha256, "size": decision.media.size, "type": "image/jpeg"}
    return CatalogueSource(**{**facts, **media, "consent": ConsentStatement(basis=Basis.SELF), "actor": "k", **changes})


# --- a person's block, and the catalogue ------------------------------------------------------------


def test_what_a_person_blocks_stops_the_next_transform_with_the_same_bytes_until_a_later_review_allows(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        first = await yard.swap(face("ada"), face("bo"))
        await yard.review(first, Stage.TARGET, Verdict.BLOCK)
        denied = await yard.swap(face("ada"), face("bo"))
        as_source = await yard.swap(face("bo"), face("ada"))
        await yard.review(first, Stage.TARGET, Verdict.ALLOW)
        return first, denied, as_source, await yard.swap(face("ada"), face("bo"))

    first, denied, as_source, allowed = in_yard(database, tmp_path, story)
    assert (denied.state, as_source.state, allowed.state) == (State.DENIED, State.DENIED, State.RELEASED)
    assert denied.decisions == (), "nothing of it was even screened"
    blocked = next(decision for decision in first.decisions if decision.stage is Stage.TARGET)
    for committed, stage in ((denied, Stage.TARGET), (as_source, Stage.SOURCE)):
        denial = committed.events[-1].denial
        (reason,) = denial.reasons
        assert (denial.stage, denial.decision) == (stage, blocked.id)
        assert (reason.code, UUID(reason.detail)) == (ReasonCode.BLOCKED_BY_PERSON, next(iter(denied.blocks.values())).review)


def test_a_face_that_is_removed_from_the_catalogue_stops_what_was_accepted_with_it(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        sources, data = PostgresSources(yard.database), jpeg(face("ada"))
        decision = (await yard.swap(data, face("bo"))).decisions[0]
        source = await sources.add(source_of(decision))
        before = await yard.swap(data, face("bo"), catalogue_source=source.id)
        accepted = await yard.accept(data, face("bo"), catalogue_source=source.id)
        await sources.remove(yard.tenant, source.id, "k")
        await yard.worker().run_once()
        return before, await yard.load(accepted)

    before, after = in_yard(database, tmp_path, story)
    assert before.state is State.RELEASED
    assert (after.state, after.events[-1].failure.code) == (State.FAILED, "source_removed")


# --- released files ---------------------------------------------------------------------------------


def test_a_released_file_under_hold_is_purged_once_the_hold_is_released_and_not_before(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        long_ago = datetime.now(UTC) - timedelta(days=30)
        kept, gone = [await yard.swap(face("ada"), face(who)) for who in ("bo", "chi")]
        hold = await held(yard, sha256=kept.part(PartKind.SIGNED).sha256)
        late = Purge(
            type(yard.log)(yard.database, clock=lambda: long_ago + timedelta(days=60)),
            yard.area("released"),
            PostgresKeeping(yard.database),
        )
        first = await late(), await yard.served(kept) is not None, await yard.served(gone)
        await let_go(yard, hold)
        return first, await late(), await yard.served(kept), [(await yard.load(one.transform.id)).purged for one in (kept, gone)]

    first, then, served, purged = in_yard(database, tmp_path, story)
    assert first == (1, True, None)
    assert (then, served, purged) == (1, None, [True, True])


def test_what_a_late_worker_puts_among_the_released_files_is_swept_and_what_is_released_is_not(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        released = await yard.swap(face("ada"), face("bo"))
        purged = await yard.swap(face("ada"), face("chi"))
        data = await yard.served(purged)
        await yard.log.record_purge(yard.tenant, purged.transform.id, {"bytes": "deleted"})
        await yard.area("released").put(object_name(yard.tenant, uuid7(), sha256_of(data)), data)
        swept = await sweeps(yard)["released"]()
        return swept, files(yard, "released"), object_name(yard.tenant, released.transform.id, released.part(PartKind.SIGNED).sha256)

    swept, left, name = in_yard(database, tmp_path, story)
    assert (swept, left) == (2, {name})


def test_of_the_catalogue_stays_what_is_approved_and_goes_what_never_was_or_was_removed(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        sources, names = PostgresSources(yard.database), []
        for who in ("ada", "bo", "chi"):
            data = jpeg(face(who))
            decision = next(one for one in (await yard.swap(data, face("dag"))).decisions if one.stage is Stage.SOURCE)
            names.append(object_name(yard.tenant, decision.id, sha256_of(data)))
            await yard.area("catalogue").put(names[-1], data)
            if who != "chi":
                await sources.add(source_of(decision))
            if who == "bo":
                await sources.remove(yard.tenant, decision.id, "k")
        hold = await held(yard, sha256=names[2].rpartition("/")[2])
        first = await sweeps(yard)["catalogue"](), files(yard, "catalogue")
        await let_go(yard, hold)
        return names, first, await sweeps(yard)["catalogue"](), files(yard, "catalogue")

    (live, _, unapproved), first, second, left = in_yard(database, tmp_path, story)
    assert first == (1, {live, unapproved})
    assert (second, left) == (1, {live})


# --- intake and quarantine --------------------------------------------------------------------------


def test_what_was_sent_for_a_transform_that_has_ended_is_swept_and_what_is_still_to_be_done_is_not(database, tmp_path):
    async def story(yard: Yard):
        given_up, waiting = [await yard.accept(face("ada"), face("bo")) for _ in range(2)]
        job = await yard.queue.take(("transform",), 30)
        await yard.queue.fail(job, "three times", retry_in_s=None)
        assert job.id == given_up
        await yard.log.end_parked()
        before = len(files(yard, "intake"))
        return before, await sweeps(yard)["intake"](), files(yard, "intake"), waiting

    before, swept, left, waiting = in_yard(database, tmp_path, story)
    assert (before, swept, len(left)) == (4, 2, 2)
    assert all(waiting.hex in name for name in left)


def test_what_was_sent_and_never_accepted_is_swept_and_a_screening_that_waits_is_not(database, tmp_path):
    async def story(yard: Yard):
        owners = {name: uuid7() for name in ("never accepted", "waiting", "given up", "done")}
        for owner in owners.values():
            await yard.area("intake").put(object_name(yard.tenant, owner, sha256_of(b"sent")), b"sent")
        for name in ("done", "given up", "waiting"):
            await yard.queue.put(id=owners[name], tenant=yard.tenant, kind="screening", payload={})
            if name != "waiting":
                job = await yard.queue.take(("screening",), 30)
                assert job.id == owners[name]
                await (yard.queue.done(job) if name == "done" else yard.queue.fail(job, "three times", retry_in_s=None))
        swept = await sweeps(yard)["intake"]()
        return swept, {name for name, owner in owners.items() if owner.hex in str(files(yard, "intake"))}

    assert in_yard(database, tmp_path, story) == (2, {"waiting", "given up"}), "what was given up waits for a person, until its age"


def test_what_is_old_is_swept_but_for_what_is_under_hold(database, tmp_path):
    async def story(yard: Yard):
        kept, gone = [await yard.accept(face("ada"), face(who)) for who in ("bo", "chi")]
        stray = object_name(yard.tenant, uuid7(), sha256_of(b"held bytes"))
        await yard.area("intake").put(stray, b"held bytes")
        holds = [await held(yard, transform=kept), await held(yard, sha256=sha256_of(b"held bytes"))]
        assert await sweeps(yard)["intake"]() == 0
        make_old(yard.folder / "media")
        first = await sweeps(yard)["intake"](), files(yard, "intake")
        for hold in holds:
            await let_go(yard, hold)
        return kept, gone, stray, first, await sweeps(yard)["intake"](), files(yard, "intake")

    kept, gone, stray, (first, left), second, nothing = in_yard(database, tmp_path, story)
    assert (first, second, nothing) == (2, 3, set())
    assert stray in left
    assert {name.split("/")[1] for name in left - {stray}} == {kept.hex}
    assert gone.hex not in str(left)


def test_a_transform_under_hold_keeps_its_pictures_and_files_when_it_ends(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        accepted = await yard.accept(face("ada"), face("bo"))
        hold = await held(yard, transform=accepted)
        await yard.worker().run_once()
        ended = await yard.load(accepted)
        kept = len(files(yard, "intake")), len(files(yard, "quarantine"))
        assert [await sweep() for sweep in sweeps(yard).values()] == [0, 0, 0, 0]
        await let_go(yard, hold)
        return ended.state, kept, [await sweep() for sweep in sweeps(yard).values()]

    assert in_yard(database, tmp_path, story) == (State.RELEASED, (2, 2), [2, 0, 0, 0])


def test_files_of_what_was_cancelled_leave_quarantine_and_those_of_what_was_denied_can_be_looked_at(database, tmp_path):
    async def story(yard: Yard):
        states = {}
        for state in (State.CANCELLED, State.DENIED):
            id = await yard.accept(face("ada"), marked(face("bo")) if state is State.DENIED else face("bo"))
            states[state] = object_name(yard.tenant, id, sha256_of(b"a part"))
            await yard.area("quarantine").put(states[state], b"a part")
            if state is State.CANCELLED:
                await yard.log.request_cancel(yard.tenant, id, "k")
            assert (await yard.finish(id)).state is state
        await sweeps(yard)["quarantine"]()
        return states, files(yard, "quarantine")

    states, left = in_yard(database, tmp_path, story)
    assert states[State.DENIED] in left
    assert states[State.CANCELLED] not in left


# --- what is written down ---------------------------------------------------------------------------


def entries_of_sweeps(database: DatabaseUrls, tenant: UUID) -> list[dict[str, Any]]:
    """The entries, oldest first; each has its row, which says the same."""
    with as_role(database.runtime, tenant=tenant) as cursor:
        cursor.execute(
            "SELECT e.canonical, s.what, s.removed, s.held, s.first_id::text, s.last_id::text FROM facegate.sweep s"
            " JOIN facegate.entry e ON e.id = s.id AND e.kind = 'purge' ORDER BY s.id"
        )
        found = [(json.loads(bytes(row[0])), row[1:]) for row in cursor.fetchall()]
    for entry, row in found:
        assert tuple(entry["purge"][name] for name in ("swept", "removed", "held", "first", "last")) == row
    return [entry for entry, _ in found]


def test_each_run_that_removes_something_is_an_entry_with_counts_and_bounds_and_no_other_is(database, tmp_path):
    async def story(yard: Yard):
        ids = [await yard.accept(face("ada"), face(who)) for who in ("bo", "chi", "bo")]
        await held(yard, transform=ids[1])
        assert await sweeps(yard)["intake"]() == 0
        make_old(yard.folder / "media")
        removed = await sweeps(yard)["intake"](), await sweeps(yard)["intake"]()
        return yard.tenant, ids, removed

    tenant, ids, removed = in_yard(database, tmp_path, story)
    (entry,) = entries_of_sweeps(database, tenant)
    assert removed == (4, 0)
    assert (entry["event"], entry["actor"], entry["purge"]["swept"]) == ("swept", "housekeeping", "intake")
    assert {name: entry["purge"][name] for name in ("removed", "held", "first", "last")} == {
        "removed": 4,
        "held": 2,
        "first": str(ids[0]),
        "last": str(ids[2]),
    }


def test_what_workers_delete_at_the_end_of_their_work_is_written_down_together(database, tmp_path):
    async def story(yard: Yard):
        yard.renderer = unchanged()
        forgotten = Removals(PostgresSweeps(yard.database), "worker", clock=yard.clock)
        store = ObjectMediaStore(str(yard.folder / "media"))
        counted = {name: CountedArea(store, name, forgotten) for name in ("intake", "quarantine")}
        ids = [await yard.accept(face("ada"), face(who)) for who in ("bo", "chi")]
        for _ in ids:
            await yard.worker(**counted).run_once()
        return yard.tenant, ids, await forgotten(), await forgotten()

    tenant, ids, *written = in_yard(database, tmp_path, story)
    assert written == [8, 0]
    found = {entry["purge"]["swept"]: (entry["actor"], entry["purge"]["removed"]) for entry in entries_of_sweeps(database, tenant)}
    assert found == {"intake": ("worker", 4), "quarantine": ("worker", 4)}
    for entry in entries_of_sweeps(database, tenant):
        assert [entry["purge"][bound] for bound in ("first", "last")] == list(map(str, ids))


def test_what_could_not_be_written_down_is_written_down_the_next_time_and_once(database, tmp_path):
    @dataclass
    class Doubtful:
        """Commits, and the answer is lost the first time."""

        log: PostgresSweeps
        answers: bool = False

        async def write(self, sweep: Sweep) -> None:
            await self.log.write(sweep)
            if not self.answers:
                self.answers = True
                raise RecordUnavailable("no answer")

    async def story(yard: Yard):
        await yard.area("intake").put(object_name(yard.tenant, uuid7(), sha256_of(b"x")), b"x")
        make_old(yard.folder / "media")
        removals = Removals(Doubtful(PostgresSweeps(yard.database)), "housekeeping", clock=yard.clock)
        sweep = Leftovers(yard.area("intake"), PostgresKeeping(yard.database), removals, of_intake(DAY_S), settled_s=-1.0)
        with pytest.raises(RecordUnavailable):
            await sweep()
        return yard.tenant, await sweep()

    tenant, removed = in_yard(database, tmp_path, story)
    assert removed == 1
    assert [entry["purge"]["removed"] for entry in entries_of_sweeps(database, tenant)] == [1]


# --- months -----------------------------------------------------------------------------------------

JANUARY = datetime(2026, 1, 15, 12, tzinfo=UTC)


def id_of(moment: datetime) -> UUID:
    """A UUIDv7 of that time."""
    return UUID(int=int(moment.timestamp() * 1000) << 80 | uuid7().int & (1 << 80) - 1)


@pytest.fixture
def archive(people: People) -> People:
    """A record that reaches back to January."""
    with as_role(people.urls.owner) as cursor:
        for table in PARTITIONED:
            for month in ("2026-01-01", "2026-02-01"):
                cursor.execute("SELECT facegate.make_partition(%s, %s)", (table.name, month))
    return people


async def january(people: People, scores: Any = QUIET, *, say: str | None = None, **changes: Any) -> Decision:
    """A decision of January with a media of its own, and what somebody said of it then."""
    media = Media(sha256=sha256_of(uuid7().bytes), size=5, facts=make_facts())
    decision = await people.decided(scores, **{"id": id_of(JANUARY), "created_at": JANUARY, "media": media, **changes})
    if say is not None:
        await people.said(decision, Verdict.BLOCK, reason=say, id=id_of(JANUARY), at=JANUARY)
    return decision


def left(people: People, table: str) -> set[UUID]:
    return {UUID(str(id)) for (id,) in people.rows(f"SELECT id FROM facegate.{table} WHERE id < '{id_of(JANUARY + timedelta(days=20))}'")}


def keys_of(people: People) -> list[tuple[Any, ...]]:
    with as_role(people.urls.owner) as cursor:
        cursor.execute(
            "SELECT conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'facegate'::regnamespace ORDER BY 1, 2"
        )
        return cursor.fetchall()


def leaves_of(people: People) -> dict[UUID, bytes]:
    with as_role(people.urls.sealer) as cursor:
        cursor.execute("SELECT entry, hash FROM facegate.leaf")
        return {UUID(str(entry)): bytes(hashed) for entry, hashed in cursor.fetchall()}


def test_an_old_month_is_dropped_but_for_what_is_held_or_named_by_what_stays(archive, tmp_path):
    people = archive

    async def fill():
        gone = await january(people, reference="gone", say="gone too")
        cancelled = await people.accepted(id=id_of(JANUARY), created_at=JANUARY, reference="gone")
        await people.transforms.request_cancel(people.tenant, cancelled.id, "k")
        await people.transforms.end(await people.queue.take(("transform",), 30), make_event(State.CANCELLED))
        held = await january(people, reference="held", say="stays too")
        hold = await people.held(decision=held.id)
        late = await january(people)
        await people.said(late, Verdict.BLOCK)
        appealed = await january(people, LOUD)
        await people.appealed(appealed, id=id_of(JANUARY), at=JANUARY)
        face = await january(people, stage=Stage.SOURCE)
        await PostgresSources(people.pool).add(source_of(face, created_at=JANUARY, label="Ada"))
        return gone, held, hold, {held.id, late.id, appealed.id, face.id}

    gone, held, hold, kept = asyncio.run(fill())
    seal_all(people.urls, tmp_path)
    leaves, keys = leaves_of(people), keys_of(people)
    dropped = drop_months_before(people.urls.owner, "2026-02")

    assert left(people, "decision") == kept
    assert left(people, "transform") == set()
    assert people.rows("SELECT count(*) FROM facegate.transform_cancel") == [(0,)]
    assert {review.reason for review in asyncio.run(people.reviews.latest(people.tenant, list(kept))).values()} == {
        "stays too",
        "looked at it",
    }
    assert people.texts() >= {"held", "stays too", "it is a statue", "Ada"}
    assert not people.texts() & {"gone", "gone too"}
    assert (asyncio.run(people.record.get(people.tenant, gone.id)), asyncio.run(people.record.get(people.tenant, held.id)).reference) == (
        None,
        "held",
    )
    # every key is there again and holds; every leaf outlives its entry, and what stays is what was sealed
    assert keys_of(people) == keys
    assert leaves_of(people) == leaves
    entries = dict(people.rows("SELECT id, leaf FROM facegate.entry WHERE kind <> 'purge'"))
    assert {UUID(str(id)) for id in entries} >= kept
    assert gone.id not in {UUID(str(id)) for id in entries}
    assert all(leaves[UUID(str(id))] == bytes(leaf) for id, leaf in entries.items())
    # and it is written down
    of_decisions = next(one for one in dropped if one.relation == "decision")
    assert (of_decisions.month, of_decisions.dropped, of_decisions.kept, of_decisions.first) == (date(2026, 1, 1), 1, 4, gone.id)
    (entry,) = people.entries("purge")
    assert (entry["event"], entry["tenant"]) == ("dropped", str(people.tenant))
    rows = people.rows("SELECT to_char(month, 'YYYY-MM'), relation, dropped, kept, first_id::text, last_id::text FROM facegate.month_purge")
    told = [tuple(one[name] for name in ("month", "table", "dropped", "kept", "first", "last")) for one in entry["purge"]["months"]]
    assert sorted(told) == sorted(map(tuple, rows))
    # what people said of bytes is known though the decision is gone
    assert people.rows(f"SELECT review IS NOT NULL FROM facegate.blocks('{people.tenant}', '\\x{gone.media.sha256}')") == [(True,)]

    asyncio.run(people.holds.release(people.tenant, hold.id, reason="over", actor="k", at=datetime.now(UTC)))
    seal_all(people.urls, tmp_path)
    assert [one.dropped for one in drop_months_before(people.urls.owner, "2026-02") if one.relation == "decision"] == [1]
    assert left(people, "decision") == kept - {held.id}


def test_the_run_time_role_still_sees_its_own_tenant_only_after_months_were_dropped(archive, tmp_path):
    people = archive
    decision = asyncio.run(january(people))
    asyncio.run(people.held(decision=decision.id))
    seal_all(people.urls, tmp_path)
    drop_months_before(people.urls.owner, "2026-02")
    assert left(people, "decision") == {decision.id}
    assert people.rows("SELECT id FROM facegate.decision", people.other) == []
    with as_role(people.urls.owner) as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'facegate'::regnamespace AND relrowsecurity AND NOT relforcerowsecurity"
        )
        assert cursor.fetchall() == []
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_role(people.urls.owner, tenant=people.tenant) as cursor:
        cursor.execute("DELETE FROM facegate.decision_2026_01")


@pytest.mark.parametrize("why", ["not sealed", "not ended", "not over", "the next month", "no month"])
def test_a_month_that_cannot_be_dropped_is_left_as_it_is(archive, tmp_path, why):
    people = archive

    async def fill():
        await january(people)
        if why == "not ended":
            await people.accepted(id=id_of(JANUARY), created_at=JANUARY)

    asyncio.run(fill())
    if why != "not sealed":
        seal_all(people.urls, tmp_path)
    now = datetime.now(UTC)
    before = {"not over": f"{now:%Y-%m}", "the next month": f"{now + timedelta(days=31):%Y-%m}", "no month": "January"}.get(why, "2026-02")
    with pytest.raises((MonthsRefused, SettingsRefused)) as refused:
        drop_months_before(people.urls.owner, before)
    assert {"not sealed": "no signed checkpoint", "not ended": "have not ended", "no month": "YYYY-MM"}.get(why, "still written to") in str(
        refused.value
    )
    assert len(left(people, "decision")) == 1
    assert people.rows("SELECT count(*) FROM facegate.month_purge") == [(0,)]


def test_a_month_with_an_entry_that_was_changed_is_not_dropped_and_the_entry_is_named(archive, tmp_path):
    people = archive
    whole, changed = [asyncio.run(january(people)).id for _ in range(2)]
    seal_all(people.urls, tmp_path)
    with as_role(people.urls.owner, tenant=people.tenant) as cursor:
        cursor.execute("ALTER TABLE facegate.entry DISABLE TRIGGER append_only")
        cursor.execute("UPDATE facegate.entry SET canonical = '{}' WHERE id = %s", (str(changed),))
    with pytest.raises(MonthsRefused, match=f"there are 1 entries that are not what was sealed: {changed}$"):
        drop_months_before(people.urls.owner, "2026-02")
    assert left(people, "decision") == {whole, changed}


def test_nobody_but_the_owner_drops_months(archive, tmp_path):
    asyncio.run(january(archive))
    seal_all(archive.urls, tmp_path)
    with pytest.raises(RecordUnavailable):
        drop_months_before(archive.urls.runtime, "2026-02")
    with pytest.raises(SettingsRefused, match="only the owner"):
        drop_months_before("", "2026-02")
    assert len(left(archive, "decision")) == 1
