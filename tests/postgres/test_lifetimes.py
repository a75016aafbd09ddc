"""How long things stay, on the real record and store: purges, sweeps, holds against both, and months that are dropped."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from deployments.purge import Leftovers, Purge, of_intake, of_quarantine, of_released
from moderation.adapters.areas import object_name
from moderation.adapters.holds import PostgresHolds
from moderation.adapters.keeping import PostgresKeeping
from moderation.adapters.sources import PostgresSources
from moderation.decision import ReasonCode, Verdict
from moderation.media import Stage, sha256_of
from moderation.people import Hold
from moderation.transform import Basis, CatalogueSource, ConsentStatement, PartKind, State
from tests.gate_kit import Yard, face, in_yard, jpeg, marked, unchanged

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
    keeping = PostgresKeeping(yard.database)
    rules = {"intake": of_intake(DAY_S), "quarantine": of_quarantine(DAY_S), "released": of_released}
    return {area: Leftovers(yard.area(area), keeping, rule, settled_s=-1.0) for area, rule in rules.items()}


def files(yard: Yard, area: str) -> set[str]:
    folder = yard.folder / "media" / area
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def make_old(folder: Path) -> None:
    """As if everything had been stored two days ago."""
    then = time.time() - 2 * DAY_S
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


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
        facts = {"id": decision.id, "tenant": yard.tenant, "sha256": sha256_of(data), "size": len(data), "type": "image/jpeg"}
        said = {"decision": decision.id, "consent": ConsentStatement(basis=Basis.SELF), "actor": "k", "created_at": datetime.now(UTC)}
        source = await sources.add(CatalogueSource(**facts, **said))
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
        assert [await sweep() for sweep in sweeps(yard).values()] == [0, 0, 0]
        await let_go(yard, hold)
        return ended.state, kept, [await sweep() for sweep in sweeps(yard).values()]

    assert in_yard(database, tmp_path, story) == (State.RELEASED, (2, 2), [2, 0, 0])


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
