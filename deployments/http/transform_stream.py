"""`/v1/transforms/{id}/stream`: a video while it is made, as fragmented MP4 of its committed segments.

The same is asked as before a release, segment by segment and each time anew: its own output decision lets it pass under the policy that was
pinned and the one in force, nobody blocks anything of this transform, and nobody asked for its end. That it is shown, and to whom, is
committed before its first byte leaves. Bytes come from quarantine, one segment at a time and only as fast as they are taken; who is slow
or late keeps nobody waiting. When a later segment does not pass, the connection is cut: what was sent is not taken for a whole video.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import ApiError, Code, Problem, problem, refused
from deployments.http.gateway import Gateway
from deployments.http.routing import query_of
from deployments.http.schemas import NoQuery
from deployments.http.stored import INERT, stored
from deployments.http.streaming import Cut, CutStream, Places
from deployments.http.transform_lookup import named_transform
from moderation import gate
from moderation.access import Key, Scope
from moderation.adapters.areas import object_name
from moderation.adapters.media_store import MediaAltered
from moderation.decision import PolicyRef
from moderation.errors import FactsChanged, RecordUnavailable
from moderation.policy import Policy
from moderation.screening import Screener
from moderation.transform import Committed, Part, Showing, State

MEDIA_TYPE: Final = "video/mp4"
TRANSFORM: Final = frozenset({Scope.TRANSFORM})

_ENDS: Final[Mapping[State, Code]] = {
    State.FAILED: Code.FAILED,
    State.CANCELLED: Code.CANCELLED,
    State.HELD: Code.HELD,
    State.DENIED: Code.DENIED,
}
_NOTHING: Final = bytes((0, 0, 0, 8)) + b"free"
"""An empty box of ISO 14496-12, which every player passes over: that the connection is still good."""


class StreamRoute:
    """The route, and who watches in this process."""

    def __init__(self, gateway: Gateway, door: Door) -> None:
        self._gateway = gateway
        self._door = door
        self._places = Places("streams")
        self._screener = Screener(
            decoder=gateway.decoder,
            classifiers=gateway.classifiers,
            log=gateway.log,
            memory=gateway.memory,
            clock=gateway.clock,
            limits=gateway.limits,
        )

    async def get(self, request: Request, key: Key) -> Response:
        """A video before its release, while it is made: each segment once it was screened and passes, where the policy says `stream: labelled`.

        Begins with the first segment and ends with the last one. A connection that ends without the end of the body means that a
        segment did not pass, or that the transform was stopped. Segments carry the visible label and no content credentials.
        """
        query_of(request, NoQuery)
        committed = await named_transform(self._gateway, request, key)
        if not committed.is_video:
            raise refused(Code.NOT_A_VIDEO)
        self._places.take(key.tenant, self._gateway.bounds.streams)
        ended = partial(self._places.free, key.tenant)
        reader = _Reader(self._gateway, self._door, self._screener, request, key, committed)
        try:
            await reader.wait()
        except BaseException:
            ended()
            raise
        headers = {**INERT, "x-content-type-options": "nosniff", "x-accel-buffering": "no"}
        return CutStream(reader.chunks(), ended, media_type=MEDIA_TYPE, headers=headers, send_s=self._gateway.bounds.send_s)


class _Reader:
    """One who watches one transform."""

    def __init__(self, gateway: Gateway, door: Door, screener: Screener, request: Request, key: Key, committed: Committed) -> None:
        self._gateway = gateway
        self._door = door
        self._screener = screener
        self._request = request
        self._key = key
        self._committed = committed
        self._in_force: PolicyRef | None = None
        self._again = gate.Again()
        self._head: bytes | None = None
        self._until = time.monotonic() + gateway.bounds.stream_s

    async def wait(self) -> None:
        """Return once the first segment may be shown. Raises ApiError where none will be, or none is yet after some time."""
        until = time.monotonic() + self._gateway.bounds.max_wait_s
        while True:
            facts = await self._facts()
            if facts is None or not facts.may_stream:
                raise refused(Code.STREAM_NOT_ALLOWED)
            why = _stopped(self._committed, self._gateway.clock())
            if why is not None:
                raise ApiError(why)
            if gate.shown(facts):
                return
            if self._committed.state is State.RELEASED:
                raise refused(Code.PURGED)
            if time.monotonic() >= until:
                raise ApiError(replace(problem(Code.NOT_RELEASED), headers=(("retry-after", "1"),)))
            await self._look_again()

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is sent. Raises Cut where it must end before its end."""
        number, said_at = 0, time.monotonic()
        while True:
            data = await self._segment(number + 1)
            if data is not None:
                number, said_at = number + 1, time.monotonic()
                yield data
                if _is_last(self._committed.segments[number - 1]):
                    return
                continue
            if time.monotonic() >= self._until:
                raise Cut
            if time.monotonic() - said_at >= self._gateway.bounds.heartbeat_s:
                if not await self._is_welcome():
                    raise Cut
                said_at = time.monotonic()
                if number:
                    yield _NOTHING
            await self._look_again()

    async def _segment(self, number: int) -> bytes | None:
        """The bytes of one segment, once it is committed that they are shown; None where they may not be by now."""
        try:
            facts = await self._facts()
        except RecordUnavailable:
            return None
        if facts is None or self._in_force is None or not facts.may_stream:
            raise Cut
        if _stopped(self._committed, self._gateway.clock()) is not None:
            raise Cut
        if gate.shown(facts) < number:
            return None
        part = self._committed.segments[number - 1]
        data = await self._bytes(part)
        head = data[: 0 if part.span is None else part.span.head]
        self._head = self._head or head
        if head != self._head:  # a player would show something else than what was screened
            raise Cut
        transform = self._committed.transform
        showing = Showing(
            id=self._gateway.new_id(),
            tenant=transform.tenant,
            transform=transform.id,
            first=number,
            last=number,
            in_force=self._in_force,
            actor=self._key.id,
            at=self._gateway.clock(),
        )
        try:
            await self._gateway.transforms.record_showing(showing)
        except (FactsChanged, RecordUnavailable):  # nobody saw anything; look again
            return None
        return data if number == 1 else data[len(head) :]

    async def _bytes(self, part: Part) -> bytes:
        transform = self._committed.transform
        try:
            data = await stored(self._gateway, self._gateway.quarantine, object_name(transform.tenant, transform.id, part.sha256))
        except (MediaAltered, RecordUnavailable):
            raise Cut from None
        if data is None:  # its time is over
            raise Cut
        return data

    async def _facts(self) -> gate.Facts | None:
        """What the gate knows of it now; None where a policy cannot be had."""
        transform = self._committed.transform
        pinned = await self._gateway.policies.version(transform.tenant, transform.policy.name, transform.policy.version)
        in_force = await self._gateway.policies.latest(transform.tenant, transform.policy.name)
        if pinned is None or in_force is None or pinned.digest != transform.policy.digest:
            return None
        self._in_force = PolicyRef(name=in_force.name, version=in_force.version, digest=in_force.digest)
        return self._facts_under(pinned, in_force)

    def _facts_under(self, pinned: Policy, in_force: Policy) -> gate.Facts:
        return gate.facts_of(
            self._committed,
            pinned=pinned,
            in_force=in_force,
            terms=self._screener.terms(pinned),
            required_now=self._screener.judges(in_force),
            again=self._again,
        )

    async def _look_again(self) -> None:
        """Read the record again, a little later."""
        await asyncio.sleep(self._gateway.bounds.progress_s)
        transform = self._committed.transform
        try:
            self._committed = await self._gateway.transforms.load(transform.tenant, transform.id) or self._committed
        except RecordUnavailable:
            return  # it may be there again before anything has to be said

    async def _is_welcome(self) -> bool:
        try:
            await self._door.bearer(self._request, TRANSFORM)
        except ApiError:
            return False
        except RecordUnavailable:
            return True
        return True


def _stopped(committed: Committed, now: datetime) -> Problem | None:
    """Why nothing more will be shown of it, or None. Pure."""
    if committed.withdrawn:
        return problem(Code.WITHDRAWN)
    if committed.purged or (committed.release is not None and committed.release.expires_at <= now):
        return problem(Code.PURGED)
    code, denial = _ENDS.get(committed.state), committed.events[-1].denial
    if code is None:
        return None
    return problem(code) if denial is None else replace(problem(code), decision_id=denial.decision)


def _is_last(part: Part) -> bool:
    return part.span is not None and part.span.is_last
