"""A small record whose every answer can be worked out by hand, written through the run-time role.

Five days of one tenant and one decision of another. Days count from `FIRST`; `PERIOD` spans them all.

    day 0   10:00  D1   upload allow            11:00  D2   upload block, bytes AA
            12:00  D3   upload held, 0.300000   14:00       reviewer-1 allows D3 after a blurred and a clear look
    day 1   12:00  D4   upload held, 0.250000, nobody looks
            13:00  D5   upload: classifier unavailable, bytes CC      13:10  D6  upload allow, bytes CC again
            14:00  D7   upload: truncated
    day 2   10:00  T1: D8 source, D9 target, D10 output all allow; released, purged a day after; consent: self
            12:00  T2: D11 source, D12 target allow, D13 output blocks; denied; consent: the subject's, and licensed for the target
            15:00  policy version 2 comes into force: explicit nudity blocks from 0.30
    day 3   08:00  D14  upload allow; reviewer-1 allows it at 09:00, reviewer-2 blocks it at 10:00
            08:30  D15  upload held, 0.400000; reviewer-1 blocks it at 09:30; appeal at 12:00; reviewer-2 allows it at 15:00
    day 4   10:00  D16  an animation of 3 frames, allow
            11:00  a hold on bytes AA; 12:00 the reference of D1 and D2 is erased, that of D2 stays under the hold
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Database
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.postgres import PostgresRecord
from moderation.adapters.reviews import PostgresReviews
from moderation.decision import Decision, Reason, ReasonCode, Verdict
from moderation.media import Media, MediaKind, Stage
from moderation.policy import Policy, decide
from moderation.transform import Review
from tests.builders import (
    LOUD,
    QUIET,
    make_decision,
    make_error_decision,
    make_facts,
    make_policy,
    make_rule,
    make_sheet,
)
from tests.fakes import FixedClock
from tests.pg import as_role, make_tenant

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
FIRST = TODAY - timedelta(days=6)
PERIOD = {"from": FIRST - timedelta(days=2), "to": FIRST + timedelta(days=5)}
CALLER, KEY_1, KEY_2 = "c" * 20, "1" * 20, "2" * 20


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return FIRST + timedelta(days=day, hours=hour, minutes=minute)


def id_at(moment: datetime, number: int) -> UUID:
    """A UUIDv7 of that moment, the same for the same number."""
    return UUID(int=int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0x2 << 62 | number)


def sha(letters: str) -> str:
    return letters * 32


@dataclass
class SmallRecord:
    """What was written, by the names of the table above."""

    urls: DatabaseUrls
    tenant: UUID
    other: UUID
    decisions: dict[int, Decision] = field(default_factory=dict)
    transforms: dict[int, UUID] = field(default_factory=dict)
    reviews: list[Review] = field(default_factory=list)

    def wire(self, number: int) -> str:
        return f"dec_{self.decisions[number].id.hex}"


def write_small_record(urls: DatabaseUrls) -> SmallRecord:
    record = SmallRecord(urls, make_tenant(urls.runtime, "first"), make_tenant(urls.runtime, "second"))
    _policies(record)
    _transforms(record)
    _decisions(record)
    _releases(record)
    _reviews(record)
    _lifetimes(record)
    return record


def _policies(record: SmallRecord) -> None:
    stricter = make_policy(make_rule(block_at=300_000), make_rule("sexual", block_at=None, review_at=600_000))
    for tenant in (record.tenant, record.other):
        for policy, moment, actor in ((make_policy(), at(-1), KEY_1), (stricter, at(2, 15), KEY_2)):
            publish(record, policy, moment, actor, tenant=tenant)


def publish(record: SmallRecord, policy: Policy, moment: datetime, actor: str = KEY_2, *, tenant: UUID | None = None) -> None:
    """The next version of the policy."""
    database = Database(record.urls.runtime, connections=1)
    try:
        shelf = PostgresPolicies(database, clock=FixedClock(now=moment))
        asyncio.run(shelf.publish(tenant or record.tenant, "default", policy, actor))
    finally:
        database.close()


def _decision(record: SmallRecord, number: int, moment: datetime, scores: Mapping[str, int] = QUIET, **changes: Any) -> Decision:
    stage = changes.pop("stage", Stage.UPLOAD)
    sha256 = changes.pop("sha256", sha(f"{number:02x}"))
    made = make_decision(scores)
    outcome = decide(
        stage=stage,
        facts=make_facts(),
        required=[sheet.classifier for sheet in made.sheets],
        sheets=made.sheets,
        policy=make_policy(),
    )
    defaults = {
        "id": id_at(moment, number),
        "tenant": record.tenant,
        "actor": CALLER,
        "stage": stage,
        "media": Media(sha256=sha256, size=1000 + number, facts=make_facts()),
        "verdict": outcome.verdict,
        "reasons": outcome.reasons,
        "created_at": moment,
        "request_id": f"req_{number}",
    }
    return make_decision(scores, **{**defaults, **changes})


def _decisions(record: SmallRecord) -> None:
    def held(score: int) -> dict[str, int]:
        return {**QUIET, "sexual.nudity_explicit": score}

    def error(number: int, moment: datetime, sha256: str, reason: Reason) -> Decision:
        made = {"id": id_at(moment, number), "tenant": record.tenant, "actor": CALLER, "created_at": moment, "request_id": f"req_{number}"}
        return make_error_decision(media=Media(sha256=sha256, size=7), reasons=(reason,), **made)

    t1, t2 = record.transforms[1], record.transforms[2]
    unavailable = Reason(code=ReasonCode.CLASSIFIER_UNAVAILABLE, verdict=Verdict.ERROR, classifier="marker")
    truncated = Reason(code=ReasonCode.MEDIA_REFUSED, verdict=Verdict.ERROR, detail="truncated")
    one = record.decisions
    one[1] = _decision(record, 1, at(0, 10), reference="order-2")
    one[2] = _decision(record, 2, at(0, 11), LOUD, sha256=sha("aa"), reference="order-2")
    one[3] = _decision(record, 3, at(0, 12), held(300_000), reference="order-3")
    one[4] = _decision(record, 4, at(1, 12), held(250_000))
    one[5] = error(5, at(1, 13), sha("cc"), unavailable)
    one[6] = _decision(record, 6, at(1, 13, 10), sha256=sha("cc"))
    one[7] = error(7, at(1, 14), sha("07"), truncated)
    one[8] = _decision(record, 8, at(2, 10, 1), stage=Stage.SOURCE, transform=t1, sha256=sha("5a"))
    one[9] = _decision(record, 9, at(2, 10, 1), stage=Stage.TARGET, transform=t1, sha256=sha("7a"))
    one[10] = _decision(record, 10, at(2, 10, 2), stage=Stage.OUTPUT, transform=t1, sha256=sha("e1"))
    one[11] = _decision(record, 11, at(2, 12, 1), stage=Stage.SOURCE, transform=t2, sha256=sha("5a"))
    one[12] = _decision(record, 12, at(2, 12, 1), stage=Stage.TARGET, transform=t2, sha256=sha("7b"))
    one[13] = _decision(record, 13, at(2, 12, 2), LOUD, stage=Stage.OUTPUT, transform=t2, sha256=sha("e2"))
    one[14] = _decision(record, 14, at(3, 8))
    one[15] = _decision(record, 15, at(3, 8, 30), held(400_000))
    one[16] = _animation(record)
    _append(record, [*one.values(), _decision(record, 20, at(0, 10), tenant=record.other)])


def write_decision(record: SmallRecord, number: int, moment: datetime, scores: Mapping[str, int] = QUIET, **changes: Any) -> None:
    """One more decision."""
    record.decisions[number] = _decision(record, number, moment, scores, **changes)
    _append(record, [record.decisions[number]])


def write_many(record: SmallRecord, many: int) -> None:
    """So many more, numbered from 1000 and spread over the days of the period; of seven one is held and one blocks."""
    drawn = random.Random(many)
    added = {}
    for number in range(1000, 1000 + many):
        moment = at(0) + timedelta(seconds=drawn.randrange(5 * 86400))
        scores = {**QUIET, "sexual.nudity_explicit": {0: 300_000, 1: 900_000}.get(number % 7, 1)}
        stage, sha256 = (Stage.UPLOAD, Stage.SOURCE, Stage.TARGET)[number % 3], hashlib.sha256(str(number).encode()).hexdigest()
        added[number] = _decision(record, number, moment, scores, stage=stage, sha256=sha256)
    record.decisions.update(added)
    _append(record, list(added.values()))


def write_troubled(record: SmallRecord, many: int) -> None:
    """So many more, numbered from 3000: few bytes and transforms come again and again, of four decisions one misses a classifier, one blocks, one
    both and one is held; some are reviewed again and again, and of some transforms there are releases that are withdrawn, purged or neither."""
    drawn = random.Random(many)
    missing = Reason(code=ReasonCode.CLASSIFIER_UNAVAILABLE, verdict=Verdict.ERROR, classifier="marker")
    transforms = [id_at(at(0, 1, number), 3000 + number) for number in range(8)]
    for accepted in transforms:
        make_transform_row(record, accepted, at(0, 1), target="7a")
    added = {}
    for number in range(3000, 3000 + many):
        moment = at(0, 2) + timedelta(seconds=drawn.randrange(4 * 86400))
        stage = drawn.choice(list(Stage))
        transform = None if stage is Stage.UPLOAD else drawn.choice(transforms)
        about = {"stage": stage, "transform": transform, "sha256": sha(f"{drawn.randrange(many // 8) + 0x20:02x}")}
        scores = {**QUIET, "sexual.nudity_explicit": (1, 900_000, 900_000, 300_000)[number % 4]}
        made = _decision(record, number, moment, scores, **about)
        if number % 4 == 0:
            made = replace(made, verdict=Verdict.ERROR, reasons=(missing,), sheets=())
        elif number % 4 == 2:
            made = replace(made, reasons=(*made.reasons, missing))
        added[number] = made
    record.decisions.update(added)
    _append(record, list(added.values()))
    for number in drawn.sample(sorted(added), many // 4):
        for minutes in sorted(drawn.sample(range(1, 2000), drawn.choice((1, 2, 3)))):
            review(record, number, drawn.choice((Verdict.ALLOW, Verdict.BLOCK)), added[number].created_at + timedelta(minutes=minutes), 1)
    for number, released in enumerate(transforms):
        put_release(record, released, number=3000 + number, expires_at=at(1 + number % 4, number))
        if number % 3 == 0:
            withdrawn = at(1 + number % 3, 2 * number)
            review_id = record.reviews[-1 - number].id
            put(
                record,
                "release_withdrawal",
                transform=released,
                id=id_at(withdrawn, 3100 + number),
                review=review_id,
                actor=KEY_2,
                at=withdrawn,
            )
        if number % 2 == 0:
            purged = at(2 + number % 3, 12)
            put(record, "release_purge", transform=released, id=id_at(purged, 3200 + number), result={"deleted": True}, purged_at=purged)


def _append(record: SmallRecord, decisions: Sequence[Decision]) -> None:
    log = PostgresRecord(record.urls.runtime, answer_s=10.0)

    async def write() -> None:
        await asyncio.gather(*map(log.append, decisions))

    try:
        asyncio.run(write())
    finally:
        log.close()


def _animation(record: SmallRecord) -> Decision:
    """Three frames, the second of them at 0.35 and so held, until version 2 of the policy would block it; alone, it stays held."""
    facts = make_facts(type="image/gif", kind=MediaKind.ANIMATION, frames=3, frames_declared=3)
    sheet = make_sheet(QUIET, {**QUIET, "sexual.nudity_explicit": 350_000}, QUIET)
    outcome = decide(stage=Stage.UPLOAD, facts=facts, required=[sheet.classifier], sheets=[sheet], policy=make_policy())
    return _decision(
        record,
        16,
        at(4, 10),
        media=Media(sha256=sha("16"), size=1016, facts=facts),
        sheets=(sheet,),
        verdict=outcome.verdict,
        reasons=outcome.reasons,
    )


def put(record: SmallRecord, table: str, **values: Any) -> None:
    """One row, as the run-time role."""
    given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    given = {name: str(value) if isinstance(value, UUID) else value for name, value in given.items()}
    given = {
        name: bytes.fromhex(value) if name.endswith("sha256") or name == "made_of" else value
        for name, value in given.items()
        if value is not None
    }
    columns, marks = ", ".join(("tenant", *given)), ", ".join(["%s"] * (len(given) + 1))
    with as_role(record.urls.runtime, tenant=record.tenant) as cursor:
        cursor.execute(f"INSERT INTO facegate.{table} ({columns}) VALUES ({marks})", (str(record.tenant), *given.values()))


def _transforms(record: SmallRecord) -> None:
    stated = {"consent_basis": "subject_consent", "target_consent_basis": "licensed"}
    for number, moment, target, changes in ((1, at(2, 10), "7a", {}), (2, at(2, 12), "7b", stated)):
        record.transforms[number] = id_at(moment, 100 + number)
        make_transform_row(record, record.transforms[number], moment, target=target, **changes)


def make_transform_row(record: SmallRecord, id: UUID, moment: datetime, *, target: str, **changes: Any) -> None:
    """A transform that was accepted, of the face 5A into this target."""
    values = {
        "id": id,
        "actor": CALLER,
        "request_id": f"req_{id.hex[-3:]}",
        "created_at": moment,
        "policy_name": "default",
        "policy_version": 1,
        "policy_digest": make_policy().digest,
        "source_sha256": sha("5a"),
        "source_size": 111,
        "source_type": "image/jpeg",
        "target_sha256": sha(target),
        "target_size": 222,
        "target_type": "image/png",
        "options": {"label": True},
        "consent_basis": "self",
    }
    put(record, "transform", **{**values, **changes})


def _releases(record: SmallRecord) -> None:
    t1, t2 = record.transforms[1], record.transforms[2]
    for transform, encoded, signed in ((t1, "e1", "f1"), (t2, "e2", None)):
        common = {"size": 9, "type": "image/png", "width": 64, "height": 48, "frame_digest": "sha256:" + "f" * 64}
        made = {"swapper": "classical 1", "is_trained": False, "faces_changed": 1, "faces_skipped": 2}
        put(record, "part", transform=transform, kind="encoded", sha256=sha(encoded), **common, **made)
        if signed:
            put(record, "part", transform=transform, kind="signed", sha256=sha(signed), made_of=sha(encoded), **common, **made)
    put(record, "transform_event", transform=t1, sequence=1, state="queued")
    put_release(record, t1, number=1)
    put(record, "transform_event", transform=t1, sequence=2, state="released")
    put(record, "transform_event", transform=t2, sequence=1, state="queued")
    denial = {"stage": "output", "decision": str(record.decisions[13].id), "reasons": []}
    put(record, "transform_event", transform=t2, sequence=2, state="denied", denial=denial)
    put(record, "release_purge", transform=t1, id=id_at(at(3, 11), 300), result={"deleted": True}, purged_at=at(3, 11))
    put(record, "entry", id=id_at(at(3, 11), 300), kind="purge", canonical=b"{}")


def put_release(record: SmallRecord, transform: UUID, *, number: int, **changes: Any) -> None:
    """The release of T1, or one that should never have been."""
    digest = make_policy().digest
    id = id_at(at(2, 10, 3), 200 + number)
    values = {
        "id": id,
        "signed_sha256": sha("f1"),
        "encoded_sha256": sha("e1"),
        "source_decision": record.decisions[8].id,
        "target_decision": record.decisions[9].id,
        "output_decision": record.decisions[10].id,
        "policy_name": "default",
        "pinned_version": 1,
        "pinned_digest": digest,
        "in_force_version": 1,
        "in_force_digest": digest,
        "released_at": at(2, 10, 3),
        "expires_at": at(3, 10, 3),
    }
    put(record, "release", transform=transform, **{**values, **changes})
    put(record, "entry", id=id, kind="release", canonical=b"{}")


def review(record: SmallRecord, number: int, verdict: Verdict, moment: datetime, reviewer: int) -> None:
    """What a reviewer says about a decision."""
    said = Review(
        id=id_at(moment, 400 + number),
        tenant=record.tenant,
        decision=record.decisions[number].id,
        verdict=verdict,
        reason="looked at it",
        actor=KEY_1 if reviewer == 1 else KEY_2,
        subject=f"reviewer-{reviewer}",
        at=moment,
    )
    record.reviews.append(said)
    _with_reviews(record, lambda log: log.add(said))


def _look(record: SmallRecord, number: int, rendition: str) -> None:
    """A look is written with an id of this moment, and so belongs to it."""
    who: dict[str, Any] = {"actor": KEY_1, "subject": "reviewer-1", "rendition": rendition, "at": datetime.now(UTC)}
    _with_reviews(record, lambda log: log.viewed(tenant=record.tenant, decision=record.decisions[number].id, **who))


def _with_reviews(record: SmallRecord, work: Callable[[PostgresReviews], Coroutine[Any, Any, None]]) -> None:
    database = Database(record.urls.runtime, connections=1)
    try:
        asyncio.run(work(PostgresReviews(database)))
    finally:
        database.close()


def _reviews(record: SmallRecord) -> None:
    review(record, 3, Verdict.ALLOW, at(0, 14), 1)
    review(record, 14, Verdict.ALLOW, at(3, 9), 1)
    review(record, 14, Verdict.BLOCK, at(3, 10), 2)
    review(record, 15, Verdict.BLOCK, at(3, 9, 30), 1)
    appeal = {"decision": record.decisions[15].id, "stood": "block", "review": record.reviews[-1].id, "actor": CALLER, "at": at(3, 12)}
    put(record, "appeal", id=id_at(at(3, 12), 500), **appeal)
    put(record, "entry", id=id_at(at(3, 12), 500), kind="appeal", canonical=b"{}")
    review(record, 15, Verdict.ALLOW, at(3, 15), 2)
    for rendition in ("blurred", "clear"):
        _look(record, 3, rendition)


def _lifetimes(record: SmallRecord) -> None:
    hold = id_at(at(4, 11), 600)
    put(record, "hold", id=hold, sha256=sha("aa"), actor=KEY_1, at=at(4, 11))
    put(record, "entry", id=hold, kind="hold", canonical=b"{}")
    erasure = str(id_at(at(4, 12), 601))
    with as_role(record.urls.runtime, tenant=record.tenant) as cursor:
        cursor.execute("SELECT facegate.erase(%s, 'reference', 'order-2', %s, %s)", (erasure, KEY_1, at(4, 12)))
        entry = (erasure, str(record.tenant), "erasure", b"{}")
        cursor.execute("INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, %s, %s)", entry)
