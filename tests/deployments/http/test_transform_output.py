from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.http.stored import checked
from deployments.http.transform_output import part_of, why_withheld
from deployments.ids import new_id
from moderation.adapters.areas import Area, object_name
from moderation.adapters.media_store import MediaAltered, ObjectMediaStore
from moderation.decision import Verdict
from moderation.errors import RecordUnavailable
from moderation.media import Media, Stage, sha256_of
from moderation.transform import Committed, PartKind, State
from tests.builders import LOUD, NOW, QUIET, TENANT, make_decision, make_facts
from tests.http_kit import Service, bearer, error_of, make_service, status_and_code
from tests.transform_kit import ENCODED, EXPIRES, HELD_SCORES, SIGNED, SOURCE, TARGET, Hand, accepted, make_review, path_of, worked

STAGES = [Stage.SOURCE, Stage.TARGET, Stage.OUTPUT]


@pytest.fixture
def released(service: Service) -> Hand:
    return worked(service, State.RELEASED)


def fetch(hand: Hand, **headers: str) -> httpx.Response:
    return hand.service.request("GET", path_of(hand.id, "/output"), headers={**bearer(), **headers})


def file_of(hand: Hand) -> tuple[str, str]:
    return "released", object_name(TENANT, hand.id, sha256_of(SIGNED))


def leaks(answer: httpx.Response) -> bool:
    """Whether any picture, or a good part of one, is in the answer."""
    return any(data[100:200] in answer.content for data in (SIGNED, ENCODED, SOURCE, TARGET))


# --- what is served --------------------------------------------------------------------------------


def test_the_released_bytes_are_served_with_everything_that_makes_them_harmless(released: Hand) -> None:
    answer = fetch(released)
    assert (answer.status_code, answer.content) == (200, SIGNED)
    digest = base64.b64encode(hashlib.sha256(SIGNED).digest()).decode()
    expected = {
        "content-type": "image/jpeg",
        "content-length": str(len(SIGNED)),
        "content-disposition": f'attachment; filename="trf_{released.id.hex}.jpg"',
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-store",
        "accept-ranges": "bytes",
        "etag": f'"{sha256_of(SIGNED)}"',
        "repr-digest": f"sha-256=:{digest}:",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    assert len(answer.headers.get_list("cache-control")) == 1
    assert released.service.alarms == []


def test_the_url_of_the_release_leads_there_and_its_hash_is_that_of_the_bytes(released: Hand) -> None:
    release = released.service.request("GET", path_of(released.id)).json()["release"]
    answer = released.service.request("GET", release["url"])
    assert (sha256_of(answer.content), len(answer.content), answer.headers["content-type"]) == (
        release["sha256"],
        release["bytes"],
        release["type"],
    )


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, None),
        ("bytes=-10", -10, None),
        ("bytes=0-", 0, None),
        ("bytes=5-5", 5, 5),
        ("bytes=0-99999999", 0, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_part_is_served_as_a_part_of_the_whole(released: Hand, asked: str, first: int, last: int | None) -> None:
    answer = fetch(released, range=asked)
    wanted = SIGNED[first:] if last is None else SIGNED[first : last + 1]
    begin = len(SIGNED) + first if first < 0 else first
    assert (answer.status_code, answer.content) == (206, wanted)
    assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(wanted) - 1}/{len(SIGNED)}"
    assert answer.headers["repr-digest"] == fetch(released).headers["repr-digest"]
    assert answer.headers["content-disposition"].startswith("attachment")


def test_the_parts_make_the_whole(released: Hand) -> None:
    parts = [fetch(released, range=f"bytes={start}-{start + 299}").content for start in range(0, len(SIGNED), 300)]
    assert b"".join(parts) == SIGNED


@pytest.mark.parametrize("piece", [1, 7, 100, len(SIGNED) - 1, len(SIGNED), len(SIGNED) + 1])
def test_a_file_is_sent_in_pieces_of_which_one_is_in_memory_at_once(released: Hand, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("deployments.http.stored.PIECE", piece)
    read: list[int] = []
    real = released.service.areas.piece

    async def counted(area: str, name: str, start: int, stop: int) -> bytes | None:
        read.append(stop - start)
        return await real(area, name, start, stop)

    monkeypatch.setattr(released.service.areas, "piece", counted)
    last = len(SIGNED) - 1
    for asked, wanted in {"": SIGNED, "bytes=5-5": SIGNED[5:6], "bytes=99-200": SIGNED[99:201], f"bytes={last}-": SIGNED[last:]}.items():
        assert fetch(released, range=asked).content == wanted
    assert max(read) <= piece


@pytest.mark.parametrize("there", [None, ENCODED, SIGNED[:250] + bytes([SIGNED[250] ^ 1]) + SIGNED[251:]])
def test_what_is_altered_while_it_is_sent_is_sent_no_further(released: Hand, monkeypatch: pytest.MonkeyPatch, there: bytes | None) -> None:
    monkeypatch.setattr("deployments.http.stored.PIECE", 100)
    service, sent = released.service, list[bytes]()

    async def story() -> None:
        file = await checked(service.gateway(), Area(service.areas, "released"), file_of(released)[1], len(SIGNED))
        assert file is not None
        async for piece in file.bytes_of(range(50, len(SIGNED))):
            sent.append(piece)
            if len(sent) == 2:
                service.areas.files.pop(file_of(released))
                service.areas.files |= {} if there is None else {file_of(released): there}

    with pytest.raises(MediaAltered):
        asyncio.run(story())
    assert SIGNED[50:].startswith(b"".join(sent))
    assert 2 <= len(sent) < len(SIGNED) // 100
    assert service.alarms == ["media_altered"]


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_part_outside_of_the_file_is_416(released: Hand, asked: str) -> None:
    answer = fetch(released, range=asked)
    assert status_and_code(answer) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(SIGNED)}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,3-4", "pages=1-2", "bytes=9-1", "bytes=-", "bytes=a-b", "bytes", "", "bytes=0-1;x", "bytes=" + "9" * 40 + "-"]
)
def test_what_is_no_single_range_gets_the_whole(released: Hand, asked: str) -> None:
    answer = fetch(released, range=asked)
    assert (answer.status_code, answer.content) == (200, SIGNED)


def test_two_range_headers_get_the_whole() -> None:
    assert part_of(["bytes=0-1", "bytes=2-3"], 10) is None
    assert part_of([], 10) is None


def test_a_part_of_another_file_is_not_mixed_in(released: Hand) -> None:
    tag = fetch(released).headers["etag"]
    assert fetch(released, range="bytes=0-9", **{"if-range": tag}).status_code == 206
    for other in ('"other"', f"W/{tag}", "Tue, 01 Sep 2026 12:00:00 GMT"):
        assert fetch(released, range="bytes=0-9", **{"if-range": other}).content == SIGNED


@pytest.mark.parametrize("given", ["{tag}", "*", 'W/{tag}, "x"', '"x", {tag}'])
def test_who_has_it_already_is_told_so(released: Hand, given: str) -> None:
    tag = fetch(released).headers["etag"]
    answer = fetch(released, **{"if-none-match": given.format(tag=tag)})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert fetch(released, **{"if-none-match": '"x"'}).status_code == 200


# --- before, during and after ----------------------------------------------------------------------


def test_at_no_point_of_its_way_anything_can_be_fetched_before_the_release(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))
    for step in (None, hand.take, hand.screen, hand.produce, hand.screen_output, hand.sign, hand.release):
        if step is not None:
            asyncio.run(step())
        answer = fetch(hand)
        assert status_and_code(answer) == (409, "not_released")
        assert not leaks(answer)
    asyncio.run(hand.publish())
    assert fetch(hand).content == SIGNED


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [(State.HELD, 409, "held"), (State.FAILED, 409, "failed"), (State.CANCELLED, 409, "cancelled"), (State.DENIED, 403, "denied")],
)
def test_each_end_has_its_own_answer(service: Service, state: State, status: int, code: str) -> None:
    hand = worked(service, state)
    answer = fetch(hand)
    assert status_and_code(answer) == (status, code)
    assert not leaks(answer)
    assert service.alarms == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_denial_names_its_decision(service: Service, stage: Stage) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def deny() -> None:
        await hand.screen(source=LOUD if stage is Stage.SOURCE else QUIET, target=LOUD if stage is Stage.TARGET else QUIET)
        if stage is Stage.OUTPUT:
            await hand.produce()
            await hand.screen_output(LOUD)
        await hand.deny(stage)

    asyncio.run(deny())
    answer = fetch(hand)
    assert status_and_code(answer) == (403, "denied")
    assert error_of(answer)["decision_id"] == f"dec_{hand.decisions[stage].id.hex}"
    assert not leaks(answer)


def test_a_denied_output_in_quarantine_stays_there(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def deny() -> None:
        await hand.screen()
        await hand.produce()
        await hand.screen_output(LOUD)
        await hand.deny(Stage.OUTPUT)

    asyncio.run(deny())
    assert ENCODED in service.areas.files.values()
    answers = [fetch(hand), fetch(hand, range="bytes=0-9"), fetch(hand, **{"if-none-match": "*"})]
    assert {status_and_code(answer) for answer in answers} == {(403, "denied")}


def test_even_a_denied_result_that_was_put_where_it_is_served_is_not(service: Service) -> None:
    hand = worked(service, State.DENIED)
    service.areas.files[file_of(hand)] = SIGNED
    assert status_and_code(fetch(hand)) == (403, "denied")


def test_its_time_is_over_at_its_moment(released: Hand) -> None:
    released.service.clock.now = EXPIRES - timedelta(microseconds=1)
    assert fetch(released).status_code == 200
    released.service.clock.now = EXPIRES
    assert status_and_code(fetch(released)) == (410, "purged")
    assert released.service.alarms == []


def test_what_was_purged_is_gone(released: Hand) -> None:
    released.service.transforms.change(released.id, purged=True)
    assert status_and_code(fetch(released)) == (410, "purged")


@pytest.mark.parametrize("stage", STAGES)
def test_a_later_block_of_any_of_its_decisions_withdraws_it(released: Hand, stage: Stage) -> None:
    asyncio.run(released.service.reviews.add(make_review(released.decisions[stage].id), to_wake=released.id))
    for answer in (fetch(released), fetch(released, range="bytes=0-9"), fetch(released, **{"if-none-match": "*"})):
        assert status_and_code(answer) == (410, "withdrawn")
        assert not leaks(answer)


@pytest.mark.parametrize("stage", STAGES)
def test_a_block_counts_even_where_nobody_wrote_the_withdrawal(released: Hand, stage: Stage) -> None:
    asyncio.run(released.service.reviews.add(make_review(released.decisions[stage].id)))
    assert status_and_code(fetch(released)) == (410, "withdrawn")


def test_a_block_of_the_same_bytes_in_other_work_counts_even_where_nobody_wrote_the_withdrawal(released: Hand) -> None:
    async def block() -> None:
        elsewhere = make_decision(media=released.decisions[Stage.TARGET].media, id=new_id())
        await released.service.log.append(elsewhere)
        await released.service.reviews.add(make_review(elsewhere.id))

    asyncio.run(block())
    released.service.transforms.change(released.id, withdrawn=False)
    assert status_and_code(fetch(released)) == (410, "withdrawn")
    assert released.service.request("GET", path_of(released.id), headers=bearer()).json()["release"] is None


def test_what_a_person_let_pass_is_served_until_a_person_blocks_it(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def review_and_release() -> None:
        await hand.screen(target=HELD_SCORES)
        await service.reviews.add(make_review(hand.decisions[Stage.TARGET].id, Verdict.ALLOW))
        await hand.produce()
        await hand.screen_output()
        await hand.sign()
        await hand.release()
        await hand.publish()

    asyncio.run(review_and_release())
    assert fetch(hand).content == SIGNED
    asyncio.run(service.reviews.add(make_review(hand.decisions[Stage.TARGET].id, Verdict.BLOCK)))
    assert status_and_code(fetch(hand)) == (410, "withdrawn")


# --- what must not be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bytes_there",
    [SIGNED[:-1], SIGNED + b"x", bytes([SIGNED[0] ^ 1]) + SIGNED[1:], SIGNED[:50] + b"\0" + SIGNED[51:], ENCODED, SOURCE, b"", None],
    ids=["shorter", "longer", "flipped", "changed", "unsigned", "source", "empty", "gone"],
)
def test_bytes_that_are_not_those_that_were_released_are_never_served(released: Hand, bytes_there: bytes | None) -> None:
    files = released.service.areas.files
    if bytes_there is None:
        del files[file_of(released)]
    else:
        files[file_of(released)] = bytes_there
    for answer in (fetch(released), fetch(released, range="bytes=0-9"), fetch(released, **{"if-none-match": "*"})):
        assert status_and_code(answer) == (503, "output_unavailable")
        assert not leaks(answer)
    assert "output_withheld" in released.service.alarms


def test_an_altered_file_in_a_real_store_is_never_served(tmp_path: Path) -> None:
    store = Area(ObjectMediaStore(str(tmp_path)), "released")
    service = make_service(changes={"released": store})
    hand = worked(service, State.RELEASED)
    _, name = file_of(hand)
    asyncio.run(store.put(name, SIGNED))
    assert fetch(hand).content == SIGNED
    (tmp_path / "released" / name).write_bytes(ENCODED)
    answer = fetch(hand)
    assert status_and_code(answer) == (503, "output_unavailable")
    assert not leaks(answer)
    assert set(service.alarms) == {"media_altered", "output_withheld"}


def test_a_store_that_is_away_is_503_and_no_alarm(released: Hand) -> None:
    released.service.areas.fault = RecordUnavailable("x")
    assert status_and_code(fetch(released)) == (503, "record_unavailable")
    assert released.service.alarms == []


def spoil(committed: Committed, what: str) -> Committed:
    """A record in which one thing does not agree with the rest."""
    release, signed = committed.release, committed.part(PartKind.SIGNED)
    encoded = committed.part(PartKind.ENCODED)
    assert release is not None
    assert signed is not None
    assert encoded is not None
    other = "ee" * 32

    def with_release(**changes: Any) -> Committed:
        return replace(committed, release=replace(release, **changes))

    def with_decision(stage: Stage, **changes: Any) -> Committed:
        decisions = [replace(one, **changes) if one.stage is stage else one for one in committed.decisions]
        return replace(committed, decisions=tuple(decisions))

    changed: dict[str, Committed] = {
        "no release": replace(committed, release=None),
        "a release of another transform": with_release(transform=new_id()),
        "a release of another tenant": with_release(tenant=new_id()),
        "another signed file": with_release(signed_sha256=other),
        "another encoded file": with_release(encoded_sha256=other),
        "no signed file": replace(committed, parts=(encoded,)),
        "a file that was never signed": replace(committed, parts=(encoded, replace(signed, made_of=None))),
        "a file made of another one": replace(committed, parts=(encoded, replace(signed, made_of=other))),
        "a stage that was not decided": with_release(decisions={k: v for k, v in release.decisions.items() if k is not Stage.OUTPUT}),
        "a decision that is not there": with_release(decisions={**release.decisions, Stage.OUTPUT: new_id()}),
        "one decision for all": with_release(decisions=dict.fromkeys(release.decisions, release.decisions[Stage.SOURCE])),
        "decisions of other stages": with_release(
            decisions={**release.decisions, Stage.SOURCE: release.decisions[Stage.TARGET], Stage.TARGET: release.decisions[Stage.SOURCE]}
        ),
        "a decision about other bytes": with_decision(Stage.OUTPUT, media=Media(sha256=other, size=1, facts=make_facts())),
        "a decision of another transform": with_decision(Stage.TARGET, transform=new_id()),
        "a decision of no transform": with_decision(Stage.TARGET, transform=None),
        "a block": with_decision(Stage.OUTPUT, verdict=Verdict.BLOCK),
        "an error": with_decision(Stage.OUTPUT, verdict=Verdict.ERROR),
        "a hold that nobody reviewed": with_decision(Stage.SOURCE, verdict=Verdict.REVIEW),
    }
    return changed[what]


SPOILT = [
    "no release", "a release of another transform", "a release of another tenant", "another signed file", "another encoded file", "no signed file",
    "a file that was never signed", "a file made of another one", "a stage that was not decided", "a decision that is not there", "one decision for all",
    "decisions of other stages", "a decision about other bytes", "a decision of another transform", "a decision of no transform", "a block", "an error",
    "a hold that nobody reviewed",
]  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_a_release_that_does_not_agree_with_the_record_serves_nothing(released: Hand, what: str) -> None:
    committed = asyncio.run(released.load())
    assert why_withheld(committed, NOW) is None
    why = why_withheld(spoil(committed, what), NOW)
    assert why is not None
    assert (why.status, why.code) == (503, "output_unavailable")


def test_and_raises_an_alarm(released: Hand) -> None:
    released.service.transforms.change(released.id, release=None)
    answer = fetch(released)
    assert status_and_code(answer) == (503, "output_unavailable")
    assert not leaks(answer)
    assert released.service.alarms == ["output_withheld"]


def test_an_allow_of_a_person_does_not_lift_a_block_of_the_policy(released: Hand) -> None:
    committed = spoil(asyncio.run(released.load()), "a block")
    (blocked,) = (one for one in committed.decisions if one.verdict is Verdict.BLOCK)
    why = why_withheld(replace(committed, reviews={blocked.id: make_review(blocked.id, Verdict.ALLOW)}), NOW)
    assert why is not None


def test_no_parameter_opens_anything(released: Hand) -> None:
    answer = released.service.request("GET", path_of(released.id, "/output?token=x"))
    assert status_and_code(answer) == (422, "invalid_parameter")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_an_output_cannot_be_written(released: Hand, method: str) -> None:
    answer = released.service.request(method, path_of(released.id, "/output"), content=b"x")
    assert status_and_code(answer) == (405, "method_not_allowed")
    assert fetch(released).content == SIGNED
