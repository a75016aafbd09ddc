"""Every report on the small record of `tests.record_kit`, whose answers are worked out by hand there."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from sqlalchemy.engine import make_url
from uuid_utils.compat import uuid7

from deployments.embedded_postgres import DatabaseUrls
from moderation.adapters.database import Database
from moderation.adapters.policies import PostgresPolicies
from moderation.adapters.reports.catalogue import STATEMENTS
from moderation.adapters.reports.reader import PostgresReports
from moderation.adapters.shadows import PostgresShadows, id_beside
from moderation.decision import Decision, ReasonCode, Verdict
from moderation.errors import Overloaded
from moderation.media import Stage
from moderation.policy import Consent, thresholds_under
from moderation.reports import ParameterRefused, names, read_parameters
from moderation.shadow import Shadowed
from tests.builders import LOUD, QUIET, make_classifier_version, make_policy, make_sheet
from tests.pg import PostgresServer, as_role
from tests.record_kit import (
    CALLER,
    FIRST,
    KEY_1,
    KEY_2,
    PERIOD,
    SmallRecord,
    at,
    id_at,
    make_transform_row,
    publish,
    put,
    put_release,
    review,
    sha,
    write_decision,
    write_many,
    write_small_record,
    write_troubled,
)
from tests.sealed_log import SealedLog

pytestmark = pytest.mark.postgres

SEGMENT = {
    "size": 9,
    "type": "image/png",
    "width": 64,
    "height": 48,
    "swapper": "classical 1",
    "is_trained": False,
    "faces_changed": 1,
    "faces_skipped": 0,
}
Ask = Callable[..., Any]


def soon() -> str:
    """What the record's own clock dates is before it."""
    return (datetime.now(UTC) + timedelta(minutes=1)).isoformat()


def asker(urls: DatabaseUrls, tenant: Any) -> Iterator[Ask]:
    """A function that gives a report's rows, and its totals for `totals=True`, whichever way they are asked for."""
    database = Database(urls.runtime)
    reports = PostgresReports(database)

    def ask(name: str, *, totals: bool = False, **asked: str) -> Any:
        report = STATEMENTS[name].report
        bounds = {bound: moment.isoformat() for bound, moment in PERIOD.items()} if report.parameter("from") else {}
        values = read_parameters(report, {**bounds, **asked}, datetime.now(UTC))
        if totals:
            rows, told = asyncio.run(reports.first_page(name, tenant, values, limit=2))
            assert rows == asyncio.run(reports.page(name, tenant, values, after=None, limit=2))
            assert told == asyncio.run(reports.totals(name, tenant, values))
            return dict(told)
        rows = asyncio.run(reports.page(name, tenant, values, after=None, limit=500))
        return [dict(zip(names(report.columns), row, strict=False)) for row in rows]

    yield ask
    database.close()


@pytest.fixture(scope="module")
def ask(small_record: SmallRecord) -> Iterator[Ask]:
    yield from asker(small_record.urls, small_record.tenant)


@pytest.fixture(scope="module")
def odd_record(postgres_server: PostgresServer) -> Iterator[SmallRecord]:
    """The small record, and what is seldom: holds by reference and on bytes in use, a block that comes back, what ended unseen."""
    with postgres_server.clone() as urls:
        record = write_small_record(urls)
        t2, t3 = record.transforms[2], id_at(at(3, 18), 103)
        for number, sha256 in ((700, None), (701, sha("5a"))):
            put(record, "hold", id=id_at(at(4, 13), number), sha256=sha256, actor=KEY_1, at=at(4, 13))
        put(record, "personal", id=id_at(at(4, 13), 700), kind="hold_reference", content="order-3", salt=b"s" * 16)
        for hour, verdict in ((15, Verdict.ALLOW), (16, Verdict.BLOCK), (17, Verdict.BLOCK)):
            review(record, 2, verdict, at(0, hour), 1)
        write_decision(record, 21, at(2, 12, 1), {**QUIET, "sexual.nudity_explicit": 300_000}, stage=Stage.TARGET, transform=t2)
        make_transform_row(record, t3, at(3, 18), target="7a")
        write_decision(record, 22, at(3, 18, 1), stage=Stage.SOURCE, transform=t3, sha256=sha("5a"))
        held = {"stage": "source", "decision": str(record.decisions[22].id), "reasons": []}
        put(record, "transform_event", transform=t3, sequence=1, state="held", held=held)
        yield record


@pytest.fixture(scope="module")
def ask_odd(odd_record: SmallRecord) -> Iterator[Ask]:
    yield from asker(odd_record.urls, odd_record.tenant)


def days(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    """Rows as tuples, days counted from the first."""
    return [tuple((row[name] - FIRST.date()).days if name == "day" else row[name] for name in columns) for row in rows]


# --- what happened --------------------------------------------------------------------------------


def test_a_timeline_tells_what_happened_to_a_transform_in_order(ask: Ask, small_record: SmallRecord) -> None:
    transform = f"trf_{small_record.transforms[1].hex}"
    rows = ask("timeline", transform=transform)
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    # The rows that the record's own clock dates come last here, since the small record is of other days.
    assert [row["event"] for row in rows[:6]] == ["transform accepted", "decision", "decision", "decision", "released", "purged"]
    assert {row["event"] for row in rows[6:]} == {"file made: encoded", "file made: signed", "state"}
    assert (rows[0]["detail"]["consent"], rows[0]["detail"]["target_consent"]) == ("self", None)
    made = next(row["detail"] for row in rows if row["event"] == "file made: encoded")
    assert (made["faces_changed"], made["faces_skipped"]) == (1, 2)
    source = rows[1]
    assert (source["id"], source["stage"], source["verdict"], source["actor"]) == (small_record.wire(8), "source", "allow", CALLER)
    assert source["policy"].startswith("default 1 sha256:")
    assert source["classifiers"] == ["marker 1 sha256:" + "1" * 64]
    assert source["scores"][0]["frames"][0]["scores"] == QUIET
    assert {t["category"]: t["block_at"] for t in source["thresholds"]} == {"sexual.nudity_explicit": 450_000, "sexual.suggestive": None}


@pytest.mark.parametrize(
    ("asked", "events"),
    [
        ({"media_sha256": sha("aa")}, ["decision", "hold"]),
        ({"media_sha256": sha("f1")}, ["transform accepted", "decision", "decision", "decision", "released", "purged"]),
        ({"reference": "order-3"}, ["decision", "review"]),
    ],
)
def test_a_timeline_is_found_by_bytes_and_by_the_callers_name(ask: Ask, asked: dict[str, str], events: list[str]) -> None:
    rows = [row for row in ask("timeline", **asked) if row["at"] < PERIOD["to"]]
    assert [row["event"] for row in rows] == events


def test_a_timeline_tells_who_reviewed_who_looked_and_who_appealed(ask: Ask, small_record: SmallRecord) -> None:
    held = ask("timeline", decision=small_record.wire(3))
    assert [(row["event"], row["actor"]) for row in held] == [
        ("decision", CALLER),
        ("review", KEY_1),
        ("media seen", KEY_1),
        ("media seen", KEY_1),
    ]
    assert [row["detail"]["rendition"] for row in held[2:]] == ["blurred", "clear"]
    assert held[1]["detail"]["said"] == {"subject": "reviewer-1", "review_reason": "looked at it"}
    appealed = ask("timeline", decision=small_record.wire(15))
    assert [(row["event"], row["verdict"]) for row in appealed] == [
        ("decision", "review"),
        ("review", "block"),
        ("appeal", "block"),
        ("review", "allow"),
    ]


def test_a_timeline_tells_of_holds_on_a_reference_and_on_the_bytes(ask_odd: Ask, odd_record: SmallRecord) -> None:
    by_reference, on_bytes = (f"hld_{id_at(at(4, 13), number).hex}" for number in (700, 701))
    for asked, holds in (
        ({"reference": "order-3"}, [by_reference]),
        ({"decision": odd_record.wire(3)}, [by_reference]),
        ({"decision": odd_record.wire(8)}, [on_bytes]),
        ({"transform": f"trf_{odd_record.transforms[2].hex}"}, [on_bytes]),
        ({"decision": odd_record.wire(4)}, []),
    ):
        assert [row["id"] for row in ask_odd("timeline", **asked) if row["event"] == "hold"] == holds


def test_copies_are_all_decisions_about_the_same_bytes_and_files_of_ours(ask: Ask, small_record: SmallRecord) -> None:
    twice = ask("copies", media_sha256=sha("cc"))
    assert [(row["decision"], row["verdict"], row["status"], row["consent"]) for row in twice] == [
        (small_record.wire(6), "allow", None, None),
        (small_record.wire(5), "error", None, None),
    ]
    source = ask("copies", media_sha256=sha("5a"))
    assert [(row["seen_as"], row["status"], row["consent"], row["target_consent"]) for row in source] == [
        ("source", "denied", "subject_consent", "licensed"),
        ("source", "purged", "self", None),
    ]
    assert [(row["seen_as"], row["status"]) for row in ask("copies", media_sha256=sha("f1"))] == [("signed", "purged")]
    assert [row["effective_verdict"] for row in ask("copies", media_sha256=sha("0e"))] == ["block"]


# --- counts ---------------------------------------------------------------------------------------


def recounted(record: SmallRecord) -> dict[tuple[Any, ...], int]:
    """What `verdicts` must say, counted one by one."""
    expected: Counter[tuple[Any, ...]] = Counter()
    by_id = {decision.id: decision for decision in record.decisions.values()}
    for decision in by_id.values():
        for category in (None, *{reason.category for reason in decision.reasons if reason.category}):
            expected[decision.created_at.date(), str(decision.stage), category, str(decision.verdict), True] += 1
    for said in record.reviews:
        decision = by_id[said.decision]
        for category in (None, *{reason.category for reason in decision.reasons if reason.category}):
            expected[said.at.date(), str(decision.stage), category, str(said.verdict), False] += 1
    return dict(expected)


def counted(ask: Ask) -> dict[tuple[Any, ...], int]:
    """What `verdicts` does say."""
    rows = ask("verdicts")
    found = {tuple(row[name] for name in ("day", "stage", "category", "verdict", "automated")): row["decisions"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_verdicts_are_those_of_a_full_recount(ask: Ask, small_record: SmallRecord) -> None:
    assert counted(ask) == recounted(small_record)
    assert ask("verdicts", totals=True) == {"decisions": 16, "reviews": 5}
    assert {row["stage"] for row in ask("verdicts", stage="output")} == {"output"}
    assert ask("verdicts", policy="nobody") == []


def test_what_comes_late_is_in_every_count_as_soon_as_it_is_there(database: DatabaseUrls) -> None:
    record = write_small_record(database)
    for ask in asker(database, record.tenant):
        before = counted(ask)
        write_many(record, 700)  # into days that were asked about
        for number in range(1000, 1020):
            review(record, number, Verdict.BLOCK if number % 2 else Verdict.ALLOW, at(5, -1, number - 1000), 2)
        assert before != counted(ask) == recounted(record)
        decided = Counter((str(one.stage), str(one.verdict)) for one in record.decisions.values())
        overturns = ask("overturns")
        assert {(row["stage"], row["verdict"]): row["decided"] for row in overturns} == decided
        assert sum(row["reviewed"] for row in overturns) == len({said.decision for said in record.reviews})
        # The largest strata have more than are looked at closely, the least have fewer than are wanted.
        drawn = ask("random_audit_sample", seed="late", per_stratum="3", verdict="any")
        expected = [
            (*stratum, size, place, record_id)
            for stratum, size in sorted(decided.items())
            for place, record_id in enumerate(least_of(record, "late", stratum)[:3], 1)
        ]
        assert [(*(row[name] for name in ("stage", "verdict", "stratum_size", "place", "decision")),) for row in drawn] == expected
        activity = next(row for row in ask("reviewer_activity", to=soon()) if row["actor"] == KEY_2)
        assert activity["reviews"] == sum(said.actor == KEY_2 for said in record.reviews)
        statements = ask("dsa_statements")
        assert [row["at"] for row in statements] == sorted((row["at"] for row in statements), reverse=True)
        assert len(statements) == ask("dsa_statements", totals=True)["statements"]
        assert {row["puid"] for row in statements if row["puid"].startswith("dec_")} == {
            f"dec_{one.id.hex}" for one in record.decisions.values() if one.verdict is Verdict.BLOCK
        }
        assert ask("log_gaps") == []


@pytest.mark.parametrize("bounds", [{}, {"from": at(1, 7).isoformat(), "to": at(3, 7).isoformat()}])
def test_totals_are_those_of_all_rows_and_of_a_recount(troubled_record: SmallRecord, bounds: dict[str, str]) -> None:
    since, until = (datetime.fromisoformat(bounds[name]) if bounds else PERIOD[name] for name in ("from", "to"))
    made = [one for one in troubled_record.decisions.values() if one.created_at < until]
    lacking = [one for one in made if one.created_at >= since and is_short(one)]
    unresolved = [one for one in lacking if not any(follows(later, one) for later in made)]
    outputs = [one for one in made if one.created_at >= since and one.stage is Stage.OUTPUT and one.verdict is not Verdict.ERROR]
    blocked = [
        one for one in outputs if one.verdict is Verdict.BLOCK and all(passed(made, one, stage) for stage in (Stage.SOURCE, Stage.TARGET))
    ]
    for ask in asker(troubled_record.urls, troubled_record.tenant):
        rows = {name: ask(name, **bounds) for name in ("degraded_decisions", "output_blocked_after_pass", "dsa_statements", "erasures")}
        totals = {name: ask(name, totals=True, **bounds) for name in rows}
        assert 0 < len(unresolved) < len(lacking)
        assert totals["degraded_decisions"] == {"degraded": len(lacking), "unresolved": len(unresolved)}
        assert [row["resolved_by"] is None for row in rows["degraded_decisions"]].count(True) == len(unresolved)
        assert len(rows["degraded_decisions"]) == len(lacking)
        assert 0 < len(blocked) < len(outputs)
        assert totals["output_blocked_after_pass"] == {"blocked": len(blocked), "outputs": len(outputs)}
        assert {row["decision"] for row in rows["output_blocked_after_pass"]} == {f"dec_{one.id.hex}" for one in blocked}
        restricted = [one for one in made if one.created_at >= since and one.verdict is Verdict.BLOCK]
        assert totals["dsa_statements"] == {"statements": len(restricted) + brought_back(troubled_record, since, until)}
        assert len(rows["dsa_statements"]) == totals["dsa_statements"]["statements"]
        due = [row for row in rows["erasures"] if row["status"] == "due"]
        assert totals["erasures"] == {"due": len(due)}
        assert [row["at"] for row in rows["erasures"]] == sorted((row["at"] for row in rows["erasures"]), reverse=True)
        assert ask("erasures", kind="released file", **bounds) == [row for row in rows["erasures"] if row["kind"] == "released file"]
        for name in (
            "verdicts",
            "overturns",
            "time_to_action",
            "reviewer_activity",
            "released_without_checks",
            "log_gaps",
            "random_audit_sample",
        ):
            ask(name, totals=True, **bounds | ({"seed": "s"} if name == "random_audit_sample" else {}))  # which compares ways to ask


@pytest.fixture(scope="module")
def troubled_record(postgres_server: PostgresServer) -> Iterator[SmallRecord]:
    """The small record, and much that was degraded, blocked, reviewed again, withdrawn and purged."""
    with postgres_server.clone() as urls:
        record = write_small_record(urls)
        write_troubled(record, 160)
        yield record


def is_short(one: Decision) -> bool:
    """Whether something of ours was missing."""
    return any(
        reason.verdict is Verdict.ERROR and reason.code not in (ReasonCode.MEDIA_REFUSED, ReasonCode.NO_FRAMES) for reason in one.reasons
    )


def follows(later: Decision, one: Decision) -> bool:
    """Whether it is a full decision about the same."""
    same = (later.media.sha256, later.stage) == (one.media.sha256, one.stage) and one.transform in (None, later.transform)
    return same and later.id > one.id and later.verdict is not Verdict.ERROR


def passed(made: list[Decision], output: Decision, stage: Stage) -> bool:
    """Whether an input of its transform was let pass before."""
    return any(
        one.transform == output.transform and one.stage is stage and one.id < output.id and one.verdict in (Verdict.ALLOW, Verdict.REVIEW)
        for one in made
    )


def brought_back(record: SmallRecord, since: datetime, until: datetime) -> int:
    """Blocks by people where what stood was none; what is said later in the order of recording stands."""
    stood = {one.id: one.verdict for one in record.decisions.values()}
    many = 0
    for said in record.reviews:
        many += said.verdict is Verdict.BLOCK and stood[said.decision] is not Verdict.BLOCK and since <= said.at < until
        stood[said.decision] = said.verdict
    return many


def least_of(record: SmallRecord, seed: str, stratum: tuple[str, str]) -> list[str]:
    """The decisions of a stratum in the order of a draw."""
    ids = [one.id.hex for one in record.decisions.values() if (str(one.stage), str(one.verdict)) == stratum]
    return [f"dec_{id}" for id in sorted(ids, key=lambda id: hashlib.sha256(f"{seed} {id}".encode()).digest())]


def test_outputs_that_were_blocked_after_source_and_target_passed(ask: Ask, small_record: SmallRecord) -> None:
    (row,) = ask("output_blocked_after_pass")
    assert (row["decision"], row["source_decision"], row["target_decision"]) == tuple(map(small_record.wire, (13, 11, 12)))
    assert (row["classifiers"], row["swapper"], row["category"]) == (["marker 1"], "classical 1", "sexual.nudity_explicit")
    assert (row["score"], row["threshold"]) == (LOUD["sexual.nudity_explicit"], 450_000)
    assert (row["consent"], row["target_consent"]) == ("subject_consent", "licensed")
    assert ask("output_blocked_after_pass", totals=True) == {"blocked": 1, "outputs": 2}
    assert len(ask("output_blocked_after_pass", classifier="marker")) == 1
    assert ask("output_blocked_after_pass", classifier="another") == []


def test_degraded_decisions_say_what_was_missing_and_how_it_was_resolved(ask: Ask, small_record: SmallRecord) -> None:
    (row,) = ask("degraded_decisions")
    assert (row["decision"], row["faults"]) == (small_record.wire(5), ["classifier_unavailable marker"])
    assert (row["resolved_by"], row["resolved_verdict"], row["resolved_after_s"]) == (small_record.wire(6), "allow", 600.0)
    assert ask("degraded_decisions", totals=True) == {"degraded": 1, "unresolved": 0}


# --- policies -------------------------------------------------------------------------------------


def test_thresholds_in_force_say_since_when_and_who_brought_them(ask: Ask) -> None:
    rows = [row for row in ask("thresholds_in_force") if row["category"] == "sexual.nudity_explicit"]
    assert [(row["version"], row["since"], row["until"], row["actor"], row["review_at"], row["block_at"]) for row in rows] == [
        (1, at(-1), at(2, 15), KEY_1, 200_000, 450_000),
        (2, at(2, 15), None, KEY_2, 200_000, 300_000),
    ]
    on_a_day = ask("thresholds_in_force", **{"from": at(3).isoformat(), "to": at(4).isoformat()})
    assert {row["version"] for row in on_a_day} == {2}


def test_replay_counts_what_the_stricter_version_would_have_decided(ask: Ask, small_record: SmallRecord) -> None:
    rows = ask("policy_replay", policy="default", version="2")
    assert days([row for row in rows if row["differs"]], "day", "stage", "verdict", "replayed", "decisions", "example") == [
        (0, "upload", "review", "block", 1, small_record.wire(3)),
        (3, "upload", "review", "block", 1, small_record.wire(15)),
    ]
    assert sum(row["decisions"] for row in rows) == len(small_record.decisions)
    assert not any(row["differs"] for row in ask("policy_replay", policy="default", version="1"))


def test_a_policy_that_one_tenant_has_is_replayed_for_that_one(odd_record: SmallRecord) -> None:
    database = Database(odd_record.urls.runtime)
    reports, report = PostgresReports(database), STATEMENTS["policy_replay"].report
    own = {bound: moment.isoformat() for bound, moment in PERIOD.items()} | {"policy": "own"}
    values = read_parameters(report, own, datetime.now(UTC))

    async def story() -> list[int]:
        with pytest.raises(ParameterRefused):
            await reports.check(report.name, [odd_record.tenant, odd_record.other], values)
        await PostgresPolicies(database).publish(odd_record.other, "own", make_policy(), KEY_1)
        await reports.check(report.name, [odd_record.tenant, odd_record.other], values)
        return [
            len(await reports.page(report.name, tenant, values, after=None, limit=9)) for tenant in (odd_record.tenant, odd_record.other)
        ]

    try:
        assert asyncio.run(story()) == [0, 1]
    finally:
        database.close()


def test_each_classifier_alone_is_compared_with_what_was_decided(ask: Ask) -> None:
    rows = [row for row in ask("model_comparison") if row["stage"] == "upload"]
    assert [(row["classifier"], row["verdict"], row["alone"], row["agrees"], row["decisions"], row["share"]) for row in rows] == [
        ("marker", "allow", "allow", True, 3, 0.375),
        ("marker", "block", "block", True, 1, 0.125),
        ("marker", "review", "review", True, 4, 0.5),
    ]


def test_a_shadow_classifier_is_compared_with_what_was_decided_on_the_same_media(database: DatabaseUrls) -> None:
    record = write_small_record(database)
    newcomer = make_classifier_version(name="newcomer")

    def heard(number: int, *frames: dict[str, int], fault: str | None = None) -> Shadowed:
        decision = record.decisions[number]
        sheet = make_sheet(*frames, classifier=newcomer) if frames else None
        return Shadowed(
            id=id_beside(decision.id),
            tenant=record.tenant,
            decision=decision.id,
            name="newcomer" if frames else "transformers:newcomer",
            sheet=sheet,
            thresholds=tuple(thresholds_under(decision.stage, (newcomer,), make_policy())) if frames else (),
            fault=fault,
            at=decision.created_at,
        )

    pool = Database(database.runtime)
    try:
        said = [heard(1, LOUD), heard(2, LOUD), heard(6, QUIET), heard(16, QUIET, LOUD, QUIET), heard(4, fault="classifier_unavailable")]
        asyncio.run(PostgresShadows(pool).write(record.tenant, said))
    finally:
        pool.close()
    for ask in asker(database, record.tenant):
        rows = [row for row in ask("model_comparison") if row["role"] == "shadow"]
        wanted = ("stage", "classifier", "version", "verdict", "alone", "agrees", "decisions", "share", "example")
        assert [tuple(row[name] for name in wanted) for row in rows] == [
            ("upload", "newcomer", "1", "allow", "allow", True, 1, 0.25, record.wire(6)),
            ("upload", "newcomer", "1", "allow", "block", False, 1, 0.25, record.wire(1)),
            ("upload", "newcomer", "1", "block", "block", True, 1, 0.25, record.wire(2)),
            ("upload", "newcomer", "1", "review", "block", False, 1, 0.25, record.wire(16)),
            ("upload", "transformers:newcomer", "", "review", "error", False, 1, 1.0, record.wire(4)),
        ]
        assert {row["role"] for row in ask("model_comparison") if row["classifier"] == "marker"} == {"deciding"}
        (listened,) = [row for row in ask("timeline", decision=record.wire(1)) if row["event"] == "judged in shadow"]
        assert (listened["classifiers"], listened["scores"]["frames"][0]["scores"]) == ([f"newcomer 1 {newcomer.digest}"], LOUD)
        assert ask("degraded_decisions") == [row for row in ask("degraded_decisions") if "newcomer" not in str(row)]
        assert ask("log_gaps", to=soon()) == []


# --- people ---------------------------------------------------------------------------------------


def test_reviewer_activity_counts_words_and_looks(small_record: SmallRecord) -> None:
    for ask in asker(small_record.urls, small_record.tenant):
        rows = ask("reviewer_activity", to=soon())
        wanted = ("subject", "actor", "reviews", "allowed", "blocked", "own_work", "items_seen", "blurred_views", "clear_views")
        assert [tuple(row[name] for name in wanted) for row in rows] == [
            ("reviewer-1", KEY_1, 3, 2, 1, 0, 1, 1, 1),
            ("reviewer-2", KEY_2, 2, 1, 1, 0, 0, 0, 0),
        ]
        assert all(row["child_safety_views"] == 0 for row in rows)


def test_overturns_have_wilson_intervals(ask: Ask) -> None:
    rows = {(row["stage"], row["verdict"]): row for row in ask("overturns")}
    allowed, held = rows["upload", "allow"], rows["upload", "review"]
    assert [allowed[name] for name in ("decided", "reviewed", "blocked", "overturned", "disputed")] == [3, 1, 1, 1, 1]
    assert [held[name] for name in ("decided", "reviewed", "allowed", "disputed", "appealed", "appeals_succeeded")] == [4, 2, 2, 1, 1, 1]
    # 1 of 1 and 2 of 2 by the formula: n / (n + z2), z2 = 3.841459.
    assert (allowed["share"], allowed["low"], allowed["high"]) == (1.0, pytest.approx(1 / 4.841459, abs=1e-6), 1.0)
    assert held["low"] == pytest.approx(2 / 5.841459, abs=1e-6)
    assert rows["output", "allow"]["share"] is None


def test_time_to_action_tells_what_is_open_and_how_old(ask: Ask, small_record: SmallRecord) -> None:
    appeal, held = ask("time_to_action")
    assert (appeal["notice"], appeal["noticed"], appeal["acted"], appeal["median_s"], appeal["open"]) == ("appeal", 1, 1, 3 * 3600, 0)
    # D3 waited 2 h and D15 1 h; D4 is 84 h old and D16 14 h at the end of the period.
    assert [held[name] for name in ("noticed", "acted", "median_s", "worst_s", "open")] == [4, 2, 1.5 * 3600, 7200, 2]
    assert held["p95_s"] == pytest.approx(7020)
    assert [held[name] for name in ("open_near_48h", "open_past_48h", "open_near_14d", "open_past_14d")] == [0, 1, 0, 0]
    assert [(item["id"], item["age_s"]) for item in held["oldest"]] == [
        (small_record.wire(4), 84 * 3600),
        (small_record.wire(16), 14 * 3600),
    ]
    (near,) = ask("time_to_action", to=at(3, 10, 30).isoformat())
    assert (near["open_near_48h"], near["open_past_48h"]) == (1, 0)


def test_nobody_waits_for_a_person_once_the_transform_has_ended(ask_odd: Ask, odd_record: SmallRecord) -> None:
    held = next(row for row in ask_odd("time_to_action", to=soon()) if row["notice"] == "held")
    assert [held[name] for name in ("noticed", "acted", "ended", "open")] == [6, 2, 1, 3]
    # A policy that came into force later held what had been allowed.
    assert {item["id"] for item in held["oldest"]} == {odd_record.wire(number) for number in (4, 16, 22)}


# --- lifetimes, log, samples, statements ----------------------------------------------------------


def test_erasures_say_what_was_due_what_is_gone_and_what_a_hold_keeps(ask: Ask) -> None:
    erasure, hold, file = ask("erasures")
    assert [erasure[name] for name in ("kind", "status", "removed", "kept", "why_kept")] == ["erasure", "partly", 1, 1, [hold["id"]]]
    assert [hold[name] for name in ("kind", "status", "actor")] == ["hold", "in force", KEY_1]
    assert [file[name] for name in ("kind", "at", "status", "done_at")] == ["released file", at(3, 10, 3), "done", at(3, 11)]
    (due,) = ask("erasures", kind="released file", to=at(3, 10, 30).isoformat())
    assert due["status"] == "due"


def test_a_released_file_past_its_time_says_which_hold_keeps_it(ask_odd: Ask) -> None:
    (file,) = ask_odd("erasures", kind="released file", to=at(3, 10, 30).isoformat())
    assert [file[name] for name in ("status", "done_at", "removed", "kept", "why_kept")] == [
        "due",
        None,
        0,
        1,
        [f"hld_{id_at(at(4, 13), 701).hex}"],
    ]


def test_the_log_of_the_small_record_has_no_gaps(ask: Ask) -> None:
    assert ask("log_gaps") == []
    assert ask("log_gaps", totals=True) == {"gaps": 0}


def test_a_sample_is_drawn_by_the_least_hashes_of_seed_and_id(ask: Ask, small_record: SmallRecord) -> None:
    rows = ask("random_audit_sample", seed="s", per_stratum="2", stage="upload")
    allowed = [one.id.hex for one in small_record.decisions.values() if (one.stage, one.verdict) == (Stage.UPLOAD, Verdict.ALLOW)]
    drawn = sorted(allowed, key=lambda id: hashlib.sha256(f"s {id}".encode()).digest())[:2]
    assert [(row["decision"], row["place"], row["stratum_size"]) for row in rows] == [(f"dec_{id}", n, 3) for n, id in enumerate(drawn, 1)]
    assert rows[0]["scores"] == {"marker": QUIET}
    assert rows == ask("random_audit_sample", seed="s", per_stratum="2", stage="upload")
    every = ask("random_audit_sample", seed="s", verdict="any")
    assert len(every) == len(small_record.decisions)


@pytest.mark.parametrize("guess", ["00", "08", "40", "ffffffffff"])
def test_a_sample_is_the_same_however_the_size_of_strata_was_guessed(
    monkeypatch: pytest.MonkeyPatch, troubled_record: SmallRecord, guess: str
) -> None:
    sample = STATEMENTS["random_audit_sample"]
    guessing, counting = sample.first
    monkeypatch.setitem(STATEMENTS, "random_audit_sample", replace(sample, first=(guessing.replace("ffffffffff", guess), counting)))
    strata = Counter((str(one.stage), str(one.verdict)) for one in troubled_record.decisions.values())
    for ask in asker(troubled_record.urls, troubled_record.tenant):
        for seed, per_stratum in (("a\\b é", 1), ("1", 3), ("2", 20), ("3", 1000)):
            rows = ask("random_audit_sample", seed=seed, per_stratum=str(per_stratum), verdict="any")
            expected = [
                (*stratum, size, place, id)
                for stratum, size in sorted(strata.items())
                for place, id in enumerate(least_of(troubled_record, seed, stratum)[:per_stratum], 1)
            ]
            assert [(*(row[name] for name in ("stage", "verdict", "stratum_size", "place", "decision")),) for row in rows] == expected


def test_every_restriction_has_a_valid_statement_of_reasons(ask: Ask, small_record: SmallRecord) -> None:
    rows = ask("dsa_statements")
    assert [row["problems"] for row in rows] == [[]] * 4
    by_person, after_review, output, upload = rows
    assert by_person["puid"] == f"rev_{small_record.reviews[2].id.hex}"
    assert (by_person["automated_detection"], by_person["automated_decision"]) == ("No", "AUTOMATED_DECISION_NOT_AUTOMATED")
    assert (after_review["automated_detection"], after_review["automated_decision"]) == ("Yes", "AUTOMATED_DECISION_PARTIALLY")
    assert (output["puid"], output["content_type"]) == (small_record.wire(13), ["CONTENT_TYPE_SYNTHETIC_MEDIA", "CONTENT_TYPE_IMAGE"])
    assert upload["decision_facts"] == (
        "Own-initiative screening of content that was submitted for moderation. The classifier marker 1 gave sexual.nudity_explicit a"
        " score of 0.973100; the policy acts from 0.450000. The policy decided without a person."
    )


def test_a_block_that_a_person_brings_back_has_a_statement_of_its_own(ask_odd: Ask, odd_record: SmallRecord) -> None:
    again = next(said for said in odd_record.reviews if said.at == at(0, 16))
    rows = {row["puid"]: row for row in ask_odd("dsa_statements") if row["decision"] == odd_record.wire(2)}
    assert list(rows) == [f"rev_{again.id.hex}", odd_record.wire(2)]
    assert [row["automated_decision"] for row in rows.values()] == ["AUTOMATED_DECISION_PARTIALLY", "AUTOMATED_DECISION_FULLY"]


# --- what must be empty ---------------------------------------------------------------------------


def test_a_release_with_all_its_checks_is_not_reported(ask: Ask) -> None:
    assert ask("released_without_checks") == []
    assert ask("released_without_checks", totals=True) == {"missing": 0, "releases": 1}


@pytest.mark.forges_releases
def test_a_release_without_a_check_is_reported_with_what_is_missing(database: DatabaseUrls) -> None:
    record = write_small_record(database)
    borrowed, denied = id_at(at(2, 10), 103), record.transforms[2]
    held, said, blocked = (id_at(at(2, 10), number) for number in (104, 105, 106))
    for transform in (borrowed, held, said, blocked):
        make_transform_row(record, transform, at(2, 10), target="7a")
    # The decisions of another transform; one that blocks; one that nobody has looked at; one that a person allowed, and one blocked.
    put_release(record, borrowed, number=3)
    own = {"source_decision": record.decisions[11].id, "target_decision": record.decisions[12].id}
    put_release(record, denied, number=2, encoded_sha256=sha("e2"), output_decision=record.decisions[13].id, **own)
    for number, transform in ((30, held), (40, said), (50, blocked)):
        for place, stage, letters, scores in (
            (1, Stage.SOURCE, "5a", {**QUIET, "sexual.nudity_explicit": 300_000}),
            (2, Stage.TARGET, "7a", QUIET),
            (3, Stage.OUTPUT, "e1", QUIET),
        ):
            write_decision(record, number + place, at(2, 10, 1), scores, stage=stage, transform=transform, sha256=sha(letters))
    review(record, 41, Verdict.ALLOW, at(2, 10, 2), 1)
    review(record, 51, Verdict.BLOCK, at(2, 10, 2), 1)
    for number, transform in ((30, held), (40, said), (50, blocked)):
        named = {f"{stage}_decision": record.decisions[number + place].id for place, stage in enumerate(("source", "target", "output"), 1)}
        signed = {"sha256": sha("f1"), "made_of": sha("e1"), "frame_digest": "sha256:" + "f" * 64}
        put(record, "part", transform=transform, kind="signed", **signed, **SEGMENT)
        put_release(record, transform, number=number, **named)
    put(
        record, "part", transform=said, kind="segment", number=1, first_frame=0, frames=5, head=9, is_last=True, sha256=sha("e7"), **SEGMENT
    )
    for ask in asker(database, record.tenant):
        found = {row["transform"]: row["missing"] for row in ask("released_without_checks")}
        assert found == {
            f"trf_{borrowed.hex}": ["output", "signed file", "source", "target"],
            f"trf_{denied.hex}": ["output", "signed file"],
            f"trf_{held.hex}": ["source"],
            f"trf_{said.hex}": ["segment 1"],
            f"trf_{blocked.hex}": ["source"],
        }
        assert ask("released_without_checks", totals=True) == {"missing": 5, "releases": 6}


@pytest.mark.forges_releases
def test_a_release_without_what_its_policies_ask_for_beside_verdicts_is_reported(database: DatabaseUrls) -> None:
    record = write_small_record(database)
    strict = make_policy(target_consent=Consent.REQUIRED, sources="catalogue")
    lax = make_policy(consent=Consent.OPTIONAL, label_visible=False)
    for policy, moment in ((strict, at(2, 16)), (lax, at(2, 17))):
        publish(record, policy, moment)
    # By (what it was accepted with, the versions of its release): 1 asks for consent and the label, 3 for all, 4 for nothing.
    cases: dict[int, tuple[dict[str, Any], tuple[int, int], list[str]]] = {
        50: ({"consent_basis": None}, (1, 1), ["consent"]),
        60: ({"consent_basis": "licensed"}, (1, 3), ["catalogue source", "target consent"]),
        70: ({"target_consent_basis": "self", "options": {"label": False}}, (1, 1), ["label"]),
        80: ({"consent_basis": None, "options": {}}, (4, 1), ["consent", "label"]),
        90: ({"target_consent_basis": "self"}, (1, 1), []),
        30: ({"consent_basis": None, "options": {"label": False}}, (4, 4), []),
    }
    transforms = {number: id_at(at(2, 10), 100 + number) for number in cases}
    for number, (accepted, (pinned, in_force), _) in cases.items():
        make_transform_row(record, transforms[number], at(2, 10), target="7a", **accepted)
        versions = {"pinned_version": pinned, "in_force_version": in_force}
        put_checked_release(record, transforms[number], number, **versions)
    for ask in asker(database, record.tenant):
        rows = {row["transform"]: row for row in ask("released_without_checks")}
        found = {number: row["missing"] for number, id in transforms.items() if (row := rows.get(f"trf_{id.hex}"))}
        assert found == {number: missing for number, (_, _, missing) in cases.items() if missing}
        shown = {number: rows[f"trf_{transforms[number].hex}"] for number in found}
        assert {number: (row["consent"], row["target_consent"]) for number, row in shown.items()} == {
            50: (None, None),
            60: ("licensed", None),
            70: ("self", "self"),
            80: (None, None),
        }
        assert ask("released_without_checks", totals=True) == {"missing": 4, "releases": 7}


def put_checked_release(record: SmallRecord, transform: UUID, number: int, **changes: Any) -> None:
    """A release with all its decisions, which get the numbers after this one."""
    named = {}
    for place, (stage, letters) in enumerate({Stage.SOURCE: "5a", Stage.TARGET: "7a", Stage.OUTPUT: "e1"}.items(), number + 1):
        write_decision(record, place, at(2, 10, 1), stage=stage, transform=transform, sha256=sha(letters))
        named[f"{stage}_decision"] = record.decisions[place].id
    signed = {"sha256": sha("f1"), "made_of": sha("e1"), "frame_digest": "sha256:" + "f" * 64}
    put(record, "part", transform=transform, kind="signed", **signed, **SEGMENT)
    put_release(record, transform, number=number, **{**named, **changes})


def test_a_withdrawal_is_in_the_timeline_of_the_block_that_caused_it_and_of_whatever_it_withdrew(database: DatabaseUrls) -> None:
    record = write_small_record(database)
    write_decision(record, 23, at(3, 19), sha256=sha("7a"))  # uploaded: the target of the first transform
    review(record, 23, Verdict.BLOCK, at(3, 20), 2)
    said = record.reviews[-1]
    for ask in asker(database, record.tenant):
        for asked in (
            {"decision": record.wire(23)},
            {"decision": record.wire(10)},
            {"transform": f"trf_{record.transforms[1].hex}"},
            {"media_sha256": sha("e1")},
        ):
            (withdrawn,) = [row for row in ask("timeline", **asked) if row["event"] == "withdrawn"]
            assert (withdrawn["id"], withdrawn["actor"]) == (f"trf_{record.transforms[1].hex}", KEY_2)
            assert withdrawn["detail"] == {"review": f"rev_{said.id.hex}", "decision": record.wire(23), "media_sha256": sha("7a")}
        assert not [row for row in ask("timeline", transform=f"trf_{record.transforms[2].hex}") if row["event"] == "withdrawn"]


def test_what_is_missing_in_the_log_is_reported(database: DatabaseUrls) -> None:
    record = write_small_record(database)
    ghost = id_at(at(1), 900)
    with as_role(database.runtime, tenant=record.tenant) as cursor:
        entry = (str(ghost), str(record.tenant), "decision", b"{}")
        cursor.execute("INSERT INTO facegate.entry (id, tenant, kind, canonical) VALUES (%s, %s, %s, %s)", entry)
    unsaid = id_at(at(1), 901)
    put(record, "review", id=unsaid, decision=record.decisions[4].id, verdict="allow", actor=KEY_1, at=at(1))
    for ask in asker(database, record.tenant):
        assert [(row["gap"], row["kind"], row["id"]) for row in ask("log_gaps")] == [
            ("no decision", "decision", f"dec_{ghost.hex}"),
            ("no entry", "review", f"rev_{unsaid.hex}"),
        ]


def test_what_is_cut_out_of_the_log_is_reported_wherever_it_was(
    postgres_server: PostgresServer, database: DatabaseUrls, tmp_path: Path
) -> None:
    record = write_small_record(database)
    put(record, "release_withdrawal", transform=record.transforms[1], id=uuid7(), review=record.reviews[0].id, actor=KEY_1, at=at(3, 9))
    SealedLog(urls=database, folder=tmp_path / "log").seal()
    to_superuser = postgres_server.postgres.administrator(make_url(database.owner).database)

    def do(*statements: str) -> None:
        with closing(psycopg2.connect(**to_superuser)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            for statement in statements:
                cursor.execute(statement)

    for ask in asker(database, record.tenant):
        assert [(row["gap"], row["kind"]) for row in ask("log_gaps", to=soon())] == [("no entry", "withdrawal")]
        do("UPDATE facegate.leaf SET hash = sha256('x') WHERE index = 0")  # that the log was opened, which is no tenant's
        assert ("not what was sealed", "log", "1:0") in [(row["gap"], row["kind"], row["position"]) for row in ask("log_gaps", to=soon())]
        last = ask("log_gaps", to=soon(), totals=True)["gaps"]
        assert last == 2
        do(
            "DELETE FROM facegate.leaf WHERE index IN (0, 5, (SELECT max(size) - 1 FROM facegate.seal))",
            "DELETE FROM facegate.entry WHERE kind IN ('review', 'view', 'appeal', 'hold', 'erasure', 'purge')",
        )
        rows = ask("log_gaps", to=soon())
        cut = [row["position"].split(":")[1].split("-") for row in rows if row["gap"] == "indexes are missing"]
        assert [(begin == end) for begin, end in cut] == [True] * 3
        assert {begin for begin, _ in cut} >= {"0", "5"}
        assert {row["kind"] for row in rows if row["gap"] == "no entry"} == {
            "review",
            "view",
            "appeal",
            "hold",
            "erasure",
            "purge",
            "withdrawal",
        }


def test_one_report_too_many_is_refused_and_the_next_is_not(small_record: SmallRecord) -> None:
    database = Database(small_record.urls.runtime, connections=2)
    reports = PostgresReports(database, at_once=1)
    values = read_parameters(STATEMENTS["verdicts"].report, {}, datetime.now(UTC))

    async def story() -> int:
        first = reports.stream("verdicts", small_record.tenant, values)
        begun = len(await anext(first))
        with pytest.raises(Overloaded):
            await reports.page("verdicts", small_record.tenant, values, after=None, limit=1)
        await first.aclose()
        await reports.page("verdicts", small_record.tenant, values, after=None, limit=1)
        return begun

    try:
        assert asyncio.run(story()) > 0
    finally:
        database.close()
