from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from deployments.http.gateway import Bounds
from deployments.http.transform_documents import TransformView
from moderation.access import key_text
from moderation.errors import RecordUnavailable
from moderation.media import Stage
from moderation.transform import PartKind, State
from tests.builders import LOUD, NOW, OTHER_TENANT
from tests.http_kit import KEY_ID, SECRET, Live, Service, bearer, error_of, live_fakes, make_key, make_service, status_and_code
from tests.transform_kit import ENCODED, Hand, accepted, form, make_part, path_of, worked

FAST = Bounds(poll_s=0.01, progress_s=0.2, heartbeat_s=0.1, streams=4, stream_s=20.0)
WAY = ["queued", "screening", "transforming", "screening_output", "released"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One server-sent event; a comment has the name `:`."""

    name: str
    id: str | None
    data: Any
    at: float


def messages(lines: Iterator[str]) -> Iterator[Message]:
    """What a browser would make of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield Message(name=":", id=None, data=None, at=time.monotonic())
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Message(name=fields["event"], id=fields.get("id"), data=json.loads(fields["data"]), at=time.monotonic())
            fields = {}
        else:
            fields = {}


def told(service: Service, hand: Hand, **headers: str) -> list[Message]:
    """All of a stream that ends."""
    answer = service.request("GET", path_of(hand.id, "/events"), headers={**bearer(), **headers})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    return list(messages(iter(answer.text.split("\n"))))


@pytest.fixture
def running() -> Iterator[tuple[Service, Live]]:
    service = make_service(changes={"bounds": FAST})
    with live_fakes(service) as server:
        yield service, server


@contextmanager
def listening(server: Live, hand: Hand, **headers: str) -> Iterator[Iterator[Message]]:
    url = server.url + path_of(hand.id, "/events")
    with httpx.stream("GET", url, headers={**bearer(), **headers}, timeout=20, trust_env=False) as answer:
        assert answer.status_code == 200
        yield messages(answer.iter_lines())


def states(found: list[Message]) -> list[str]:
    return [message.data["state"] for message in found if message.name == "state"]


# --- what has ended --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "way"),
    [
        (State.RELEASED, WAY),
        (State.DENIED, ["queued", "screening", "denied"]),
        (State.FAILED, ["queued", "failed"]),
        (State.CANCELLED, ["queued", "cancelled"]),
    ],
)
def test_a_stream_tells_everything_from_the_start_and_ends_with_the_transform(service: Service, state: State, way: list[str]) -> None:
    found = told(service, worked(service, state))
    assert states(found) == way
    assert [message.id for message in found] == [str(number) for number in range(1, len(way) + 1)]


def test_every_event_is_the_transform_as_it_was_then(service: Service) -> None:
    hand = worked(service, State.RELEASED)
    found = told(service, hand)
    assert [TransformView.model_validate(message.data).state for message in found] == WAY
    assert [message.data["finished_at"] is not None for message in found] == [False] * 4 + [True]
    assert found[-1].data == service.request("GET", path_of(hand.id)).json()


def test_decisions_that_came_after_an_event_are_not_told_with_it(service: Service) -> None:
    hand = Hand(service=service, id=accepted(service))

    async def later() -> None:
        await hand.screen()
        await hand.produce()
        await hand.screen_output()
        await hand.decide(Stage.OUTPUT, LOUD, created_at=NOW + timedelta(seconds=1))
        await hand.deny(Stage.OUTPUT)

    asyncio.run(later())
    found = told(service, hand)
    second = hand.decisions[Stage.OUTPUT].id.hex
    outputs = [message.data["decisions"]["output"] for message in found]
    assert outputs[-1] == f"dec_{second}"
    assert f"dec_{second}" not in outputs[:-1]
    assert found[-1].data["denial"]["decision_id"] == f"dec_{second}"


@pytest.mark.parametrize(("after", "way"), [("0", WAY), ("2", WAY[2:]), ("4", WAY[4:]), ("5", []), ("999999999", [])])
def test_a_client_goes_on_from_its_last_event(service: Service, after: str, way: list[str]) -> None:
    found = told(service, worked(service, State.RELEASED), **{"last-event-id": after})
    assert states(found) == way
    assert [message.id for message in found] == [str(5 - len(way) + n) for n in range(1, len(way) + 1)]


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "", "9" * 10, "\u0663".encode().decode("latin-1")])
def test_a_last_event_that_cannot_be_is_422(service: Service, after: str) -> None:
    hand = worked(service, State.RELEASED)
    headers = {**bearer(), "last-event-id": after.encode("latin-1")}
    answer = service.request("GET", path_of(hand.id, "/events"), headers=headers)
    assert status_and_code(answer) == (422, "invalid_parameter")
    assert error_of(answer)["param"] == "Last-Event-ID"


# --- while it happens ------------------------------------------------------------------------------


def test_changes_are_told_as_they_happen(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = Hand(service=service, id=accepted(service))
    steps = [hand.screen, hand.produce, hand.screen_output, hand.sign, hand.release, hand.publish]
    with listening(server, hand) as heard:
        assert next(heard).data["state"] == "queued"
        for number, step in enumerate(steps):
            asyncio.run(step())
            if number in (0, 1, 2, 5):
                message = next(one for one in heard if one.name == "state")
                assert message.data["state"] == WAY[1 if number == 0 else number + 1 if number < 5 else 4]
        assert list(heard) == []


def test_progress_is_told_without_an_id_and_not_more_often_than_it_should_be(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = worked(service, State.SCREENING)
    with listening(server, hand, **{"last-event-id": "2"}) as heard:
        asyncio.run(hand.decide(Stage.OUTPUT))  # a third decision: one step more
        first = next(one for one in heard if one.name == "progress")
        assert hand.job is not None
        asyncio.run(service.transforms.add_part(hand.job, make_part(PartKind.ENCODED, ENCODED)))
        second = next(one for one in heard if one.name == "progress")
    assert (first.id, first.data["progress"]["done"]) == (None, 3)
    assert (second.data["state"], second.data["progress"]["done"]) == ("screening", 4)
    assert second.at - first.at >= 0.15


def test_a_held_transform_goes_on_being_told_of(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = worked(service, State.HELD)
    with listening(server, hand) as heard:
        assert states([next(heard) for _ in range(3)]) == ["queued", "screening", "held"]
        assert next(heard).name == ":"
        service.request("POST", path_of(hand.id, "/cancel"))
        asyncio.run(hand.end(State.CANCELLED))
        assert states(list(heard)) == ["cancelled"]


def test_silence_is_filled_with_heartbeats(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = Hand(service=service, id=accepted(service))
    with listening(server, hand, **{"last-event-id": "1"}) as heard:
        beats = [next(heard) for _ in range(3)]
    assert {beat.name for beat in beats} == {":"}
    assert beats[2].at - beats[0].at >= 0.15


def test_trouble_with_the_record_is_waited_out(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = Hand(service=service, id=accepted(service))
    with listening(server, hand) as heard:
        next(heard)
        service.transforms.fault = RecordUnavailable("x")
        assert [next(heard).name, next(heard).name] == [":", ":"]
        service.transforms.fault = None
        asyncio.run(hand.fail())
        assert states(list(heard)) == ["failed"]


def test_a_revoked_key_hears_nothing_more(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = Hand(service=service, id=accepted(service))
    with listening(server, hand) as heard:
        next(heard)
        service.keys.keys[KEY_ID] = make_key(revoked_at=NOW)
        assert states(list(heard)) == []


def test_a_tenant_has_half_of_the_places_and_who_goes_makes_room(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = Hand(service=service, id=accepted(service))
    service.keys.keys["o" * 20] = make_key("o" * 20, tenant=OTHER_TENANT)
    text = key_text("o" * 20, SECRET)
    with listening(server, hand) as one, listening(server, hand) as other:
        next(one)
        next(other)
        third = httpx.get(server.url + path_of(hand.id, "/events"), headers=bearer(), trust_env=False)
        assert (status_and_code(third), third.headers["retry-after"]) == ((503, "overloaded"), "1")
        theirs = service.request("POST", "/v1/transforms", headers=bearer(text), **form()).json()["id"]
        with httpx.stream("GET", f"{server.url}/v1/transforms/{theirs}/events", headers=bearer(text), trust_env=False) as fourth:
            assert fourth.status_code == 200
    asyncio.run(hand.fail())
    until = time.monotonic() + 10
    while httpx.get(server.url + path_of(hand.id, "/events"), headers=bearer(), trust_env=False).status_code == 503:
        assert time.monotonic() < until


def test_a_stream_does_not_last_for_ever() -> None:
    service = make_service(changes={"bounds": Bounds(poll_s=0.01, stream_s=0.1)})
    assert states(told(service, Hand(service=service, id=accepted(service)))) == ["queued"]


def test_a_listener_that_goes_leaves_nothing_running(running: tuple[Service, Live]) -> None:
    service, server = running
    hand = Hand(service=service, id=accepted(service))
    before = threading.active_count()
    for _ in range(5):
        with listening(server, hand) as heard:
            next(heard)
    loads: list[int] = []
    events = service.transforms.events

    async def counted(*args: Any, **rest: Any) -> Any:
        loads.append(1)
        return await events(*args, **rest)

    until = time.monotonic() + 10
    while True:  # the server notices within one message
        service.transforms.events = counted  # type: ignore[method-assign]
        loads.clear()
        time.sleep(0.3)
        if not loads:
            break
        assert time.monotonic() < until
    assert threading.active_count() <= before + 1
