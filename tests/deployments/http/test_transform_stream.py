"""A video is watched while it is made: what passes as it comes, nothing else, and every showing is recorded before it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from deployments.http.gateway import Bounds
from deployments.http.streaming import CutStream
from deployments.ids import new_id
from moderation.adapters.areas import object_name
from moderation.decision import Decision, PolicyRef, Verdict
from moderation.errors import FactsChanged
from moderation.media import Media, Stage
from moderation.policy import Policy
from moderation.screening import Screener
from moderation.transform import Denial, Event, Failure, Options, Original, Part, PartKind, Showing, Span, State
from tests.builders import LOUD, NOW, QUIET, TENANT, make_decision, make_facts, make_part, make_policy, make_release, make_transform
from tests.http_kit import KEY_ID, Live, Service, bearer, live_fakes, make_key, make_service, status_and_code
from tests.transform_kit import HELD_SCORES, make_review, path_of

FAST = Bounds(poll_s=0.01, progress_s=0.01, heartbeat_s=0.1, streams=4, stream_s=20.0, max_wait_s=0.2)
STREAMED = replace(make_policy(), stream="labelled")
HEAD = b"the head of every segment"
FAILURE = Failure(code="no_face", message="None.", retryable=False)
FREE = b"\0\0\0\x08free"


def media_of(number: int) -> bytes:
    return b"<" + str(number).encode() * 1000 + b">"


@dataclass(kw_only=True)
class Filming:
    """Does with one video what a worker does, segment by segment."""

    service: Service
    policy: Policy
    id: Any = None
    job: Any = None

    def begin(self, **changes: Any) -> Filming:
        self.service.policies.shelf[TENANT, "default"] = [self.policy]
        transform = make_transform(
            id=new_id(),
            tenant=TENANT,
            policy=PolicyRef(name="default", version=self.policy.version, digest=self.policy.digest),
            **{"target": Original(sha256="7a" * 32, size=222, type="video/mp4"), **changes},
        )
        self.id = transform.id

        async def story() -> None:
            await self.service.transforms.accept(transform)
            self.job = await self.service.queue.take(("transform",), 30.0)
            await self.service.transforms.advance(self.job, State.SCREENING)

        asyncio.run(story())
        return self

    def judged(self) -> Filming:
        for stage, sha256 in ((Stage.SOURCE, "5a" * 32), (Stage.TARGET, "7a" * 32)):
            self.decide(stage, sha256)
        asyncio.run(self.service.transforms.advance(self.job, State.TRANSFORMING))
        return self

    def decide(self, stage: Stage, sha256: str, scores: Any = QUIET) -> Decision:
        gateway = self.service.gateway()
        screener = Screener(
            decoder=gateway.decoder,
            classifiers=gateway.classifiers,
            log=gateway.log,
            memory=gateway.memory,
            clock=gateway.clock,
            limits=gateway.limits,
        )
        terms = screener.terms(self.policy)
        decision = make_decision(
            scores,
            id=new_id(),
            stage=stage,
            media=Media(sha256=sha256, size=1, facts=make_facts()),
            transform=self.id,
            plan_digest=terms.plan,
            decoder=terms.decoder,
            policy=PolicyRef(name="default", version=self.policy.version, digest=self.policy.digest),
        )
        asyncio.run(self.service.log.append(decision))
        return decision

    def make(self, number: int, *, is_last: bool = False, head: bytes = HEAD) -> Part:
        data = head + media_of(number)
        sha256 = hashlib.sha256(data).hexdigest()
        span = Span(number=number, first_frame=number, frames=1, head=len(head), is_last=is_last)
        part = replace(make_part(), kind=PartKind.SEGMENT, sha256=sha256, size=len(data), type="video/mp4", frame_digest=None, span=span)

        async def story() -> None:
            await self.service.area("quarantine").put(object_name(TENANT, self.id, sha256), data)
            await self.service.transforms.add_part(self.job, part)

        asyncio.run(story())
        return part

    def pass_on(self, number: int, *, is_last: bool = False, scores: Any = QUIET) -> Decision:
        return self.decide(Stage.OUTPUT, self.make(number, is_last=is_last).sha256, scores)

    def end(self, state: State, **facts: Any) -> None:
        asyncio.run(self.service.transforms.end(self.job, Event(sequence=0, state=state, at=NOW, **facts)))

    def deny(self, decision: Decision) -> None:
        self.end(State.DENIED, denial=Denial(stage=decision.stage, decision=decision.id, reasons=decision.reasons))

    @property
    def showings(self) -> list[tuple[int, int, str]]:
        return [(one.first, one.last, one.actor) for one in self.service.transforms.showings]


@pytest.fixture
def running() -> Iterator[tuple[Filming, Live]]:
    service = make_service(changes={"bounds": FAST})
    with live_fakes(service) as server:
        yield Filming(service=service, policy=STREAMED), server


@contextmanager
def watching(server: Live, filming: Filming) -> Iterator[httpx.Response]:
    with httpx.stream("GET", server.url + path_of(filming.id, "/stream"), headers=bearer(), timeout=10, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        yield answer


def more(chunks: Iterator[bytes], until: bytes) -> bytes:
    """What comes until these bytes have come."""
    found = b""
    while not found.endswith(until):
        found += next(chunks)
    return found


def rest_of(chunks: Iterator[bytes]) -> bytes:
    """What comes until the connection is cut."""
    found = []

    with pytest.raises(httpx.RemoteProtocolError):
        found.extend(chunks)
    return b"".join(found)


def ask(filming: Filming) -> httpx.Response:
    return filming.service.request("GET", path_of(filming.id, "/stream"))


def test_segments_come_as_they_pass_with_one_head_and_the_last_one_ends_the_body(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    with watching(server, filming) as answer:
        chunks = answer.iter_raw()
        assert more(chunks, media_of(1)) == HEAD + media_of(1)
        filming.pass_on(2)
        assert more(chunks, media_of(2)).replace(FREE, b"") == media_of(2)
        filming.pass_on(3, is_last=True)
        assert b"".join(chunks).replace(FREE, b"") == media_of(3)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["cache-control"] == "private, no-store"
    assert filming.showings == [(1, 1, KEY_ID), (2, 2, KEY_ID), (3, 3, KEY_ID)]


def test_a_segment_that_is_made_and_not_judged_is_shown_to_nobody(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    with watching(server, filming) as answer:
        chunks = answer.iter_raw()
        more(chunks, media_of(1))
        part = filming.make(2, is_last=True)
        assert next(chunks) == FREE, "a heartbeat and nothing else"
        filming.decide(Stage.OUTPUT, part.sha256)
        assert b"".join(chunks).replace(FREE, b"") == media_of(2)


def test_a_hit_cuts_the_connection_and_its_segment_never_leaves(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    with watching(server, filming) as answer:
        chunks = answer.iter_raw()
        found = more(chunks, media_of(1))
        filming.deny(filming.pass_on(2, scores=LOUD))
        found += rest_of(chunks)
    assert found.replace(FREE, b"") == HEAD + media_of(1)
    assert filming.showings == [(1, 1, KEY_ID)]
    assert status_and_code(ask(filming)) == (403, "denied")


def blocked(filming: Filming, decision: Decision) -> None:
    asyncio.run(filming.service.reviews.add(make_review(decision.id, Verdict.BLOCK)))
    filming.pass_on(2, is_last=True)
    filming.deny(decision)


def cancelled(filming: Filming) -> None:
    asyncio.run(filming.service.transforms.request_cancel(TENANT, filming.id, "key"))
    filming.pass_on(2, is_last=True)
    filming.end(State.CANCELLED)


def held(filming: Filming) -> None:
    decision = filming.pass_on(2, scores=HELD_SCORES)
    filming.end(State.HELD, held=Denial(stage=Stage.OUTPUT, decision=decision.id, reasons=()))


def laxer_no_more(filming: Filming) -> None:
    filming.service.policies.shelf[TENANT, "default"].append(replace(STREAMED, version=2, stream="off"))
    filming.pass_on(2, is_last=True)


STOPS: dict[str, Callable[[Filming], None]] = {
    "a block of what was shown": lambda filming: blocked(filming, filming.service.log.decisions[-1]),
    "a block of the source": lambda filming: blocked(filming, filming.service.log.decisions[0]),
    "a cancel": cancelled,
    "a failure": lambda filming: filming.end(State.FAILED, failure=FAILURE),
    "a segment to look at": held,
    "a policy without streams": laxer_no_more,
}


@pytest.mark.parametrize("what", STOPS)
def test_whatever_stops_a_transform_cuts_its_streams(running: tuple[Filming, Live], what: str) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    with watching(server, filming) as answer:
        chunks = answer.iter_raw()
        more(chunks, media_of(1))
        STOPS[what](filming)
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
    assert filming.showings == [(1, 1, KEY_ID)]


def test_a_key_that_is_revoked_watches_no_longer_than_to_the_next_pause(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    with watching(server, filming) as answer:
        chunks = answer.iter_raw()
        more(chunks, media_of(1))
        filming.service.keys.keys[KEY_ID] = make_key(revoked_at=NOW)
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)


def test_what_the_record_refuses_to_say_is_shown_is_not_shown(running: tuple[Filming, Live], monkeypatch: pytest.MonkeyPatch) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    asked = threading.Event()

    async def refuse(_: Showing) -> None:
        asked.set()
        raise FactsChanged("blocked meanwhile")

    monkeypatch.setattr(filming.service.transforms, "record_showing", refuse)
    with watching(server, filming) as answer:
        assert asked.wait(10)
        filming.end(State.FAILED, failure=FAILURE)
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


def test_altered_bytes_and_bytes_that_are_gone_cut_it(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    second = filming.make(2, is_last=True)
    name = object_name(TENANT, filming.id, second.sha256)
    for change in (lambda files: files.update({("quarantine", name): b"other"}), lambda files: files.pop(("quarantine", name))):
        with watching(server, filming) as answer:
            chunks = answer.iter_raw()
            more(chunks, media_of(1))
            change(filming.service.areas.files)
            if not any(one.media.sha256 == second.sha256 for one in filming.service.log.decisions):
                filming.decide(Stage.OUTPUT, second.sha256)
            with pytest.raises(httpx.RemoteProtocolError):
                assert b"".join(chunks).replace(FREE, b"") == b""
    assert "media_altered" in filming.service.alarms


def test_a_late_reader_gets_all_of_it_from_the_start_also_after_the_release(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    filming.pass_on(2, is_last=True)
    with watching(server, filming) as answer:
        assert answer.read() == HEAD + media_of(1) + media_of(2)
    release(filming)
    with watching(server, filming) as answer:
        assert answer.read() == HEAD + media_of(1) + media_of(2)


def release(filming: Filming, *, expires_at: datetime = NOW + timedelta(days=1)) -> None:
    transform = filming.service.transforms.known[filming.id].transform
    filming.service.transforms.change(filming.id, release=make_release(transform, {}, expires_at=expires_at))
    filming.end(State.RELEASED)


def test_after_the_end_of_its_release_nothing_is_streamed_though_the_segments_are_still_there(running: tuple[Filming, Live]) -> None:
    filming, _ = running
    filming.begin().judged().pass_on(1, is_last=True)
    release(filming, expires_at=NOW)
    assert status_and_code(ask(filming)) == (410, "purged")
    assert filming.showings == []


def test_a_segment_with_another_head_is_never_sent_under_that_of_the_first_one(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    part = filming.make(2, is_last=True, head=b"some other head")
    filming.decide(Stage.OUTPUT, part.sha256)
    with watching(server, filming) as answer:
        assert rest_of(answer.iter_raw()).replace(FREE, b"") == HEAD + media_of(1)
    assert filming.showings == [(1, 1, KEY_ID)]


def test_who_takes_nothing_is_not_waited_for() -> None:
    async def story() -> list[int]:
        async def send(message: Any) -> None:
            sent.append(len(message.get("body", b"")))
            if len(sent) > 2:
                await asyncio.Event().wait()

        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(100_000)

        sent: list[int] = []
        stream = CutStream(pieces(), lambda: sent.append(-1), media_type="video/mp4", headers={}, send_s=0.01)
        await asyncio.wait_for(stream.stream_response(send), 10)
        return sent

    assert asyncio.run(story()) == [0, 65_536, 34_464]


def test_only_so_many_watch_at_once_and_a_slow_one_keeps_nobody_waiting(running: tuple[Filming, Live]) -> None:
    filming, server = running
    filming.begin().judged().pass_on(1)
    with watching(server, filming), watching(server, filming) as answer:
        third = httpx.get(server.url + path_of(filming.id, "/stream"), headers=bearer(), trust_env=False)
        assert status_and_code(third) == (503, "overloaded")
        more(answer.iter_raw(), media_of(1))
    filming.pass_on(2, is_last=True)
    for _ in range(3):  # those who left have made room
        with watching(server, filming) as answer:
            assert answer.read() == HEAD + media_of(1) + media_of(2)


# --- what is refused beforehand --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "changes", "expected"),
    [
        (make_policy(), {}, (403, "stream_not_allowed")),
        (replace(STREAMED, label_visible=False), {"options": Options(label=False)}, (403, "stream_not_allowed")),
        (STREAMED, {"target": Original(sha256="7a" * 32, size=2, type="image/png")}, (409, "not_a_video")),
        (STREAMED, {}, (409, "not_released")),
    ],
    ids=["off", "without a label", "picture", "nothing yet"],
)
def test_what_cannot_be_watched_says_why(policy: Policy, changes: Any, expected: tuple[int, str]) -> None:
    filming = Filming(service=make_service(changes={"bounds": FAST}), policy=policy).begin(**changes)
    assert status_and_code(ask(filming)) == expected


@pytest.mark.parametrize("scores", [LOUD, HELD_SCORES], ids=["blocked", "held"])
def test_nothing_is_shown_of_a_first_segment_that_does_not_pass(scores: Any) -> None:
    filming = Filming(service=make_service(changes={"bounds": FAST}), policy=STREAMED).begin().judged()
    filming.pass_on(1, scores=scores, is_last=True)
    assert status_and_code(ask(filming)) == (409, "not_released")
    assert filming.showings == []


def test_another_tenants_video_is_not_there() -> None:
    filming = Filming(service=make_service(changes={"bounds": FAST}), policy=STREAMED).begin().judged()
    filming.pass_on(1, is_last=True)
    filming.service.keys.keys[KEY_ID] = make_key(tenant=new_id())
    assert status_and_code(ask(filming)) == (404, "not_found")
