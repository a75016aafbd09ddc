"""`/v1/transforms/{id}/output`: the only door through which a result leaves, and it asks everything again.

Neither the state of the transform nor the name of the object is believed: the release must name the decisions that allow
exactly these files, no person may have blocked one of them or any bytes of the transform since, its time must not be over, and
the bytes must have the SHA-256 that was released. What does not agree is not served, and somebody is told.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.errors import ApiError, Code, Problem, problem
from deployments.http.gateway import Gateway
from deployments.http.routing import query_of
from deployments.http.schemas import NoQuery
from deployments.http.stored import INERT, Checked, checked
from deployments.http.streaming import Cut, CutStream
from deployments.http.transform_lookup import named_transform
from deployments.ids import to_wire
from moderation.access import Key
from moderation.adapters.areas import object_name
from moderation.adapters.media_store import MediaAltered
from moderation.decision import Decision, Verdict
from moderation.errors import RecordUnavailable
from moderation.gate import STAGES
from moderation.media import Stage
from moderation.transform import Committed, Part, PartKind, Release, Review, State

_ENDS: Final[Mapping[State, Code]] = {
    State.FAILED: Code.FAILED,
    State.CANCELLED: Code.CANCELLED,
    State.HELD: Code.HELD,
    State.DENIED: Code.DENIED,
}
_SUFFIXES: Final = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "video/mp4": "mp4"}
RANGE_PARAMETER: Final = {"name": "Range", "in": "header", "schema": {"type": "string", "pattern": "^bytes=[0-9]+-[0-9]*$"}}
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class OutputRoute:
    """The released bytes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def get(self, request: Request, key: Key) -> Response:
        """The released file, as it was released or not at all. One range may be asked for."""
        query_of(request, NoQuery)
        committed = await named_transform(self._gateway, request, key)
        why = why_withheld(committed, self._gateway.clock())
        if why is not None:
            raise self._withheld(why)
        signed = committed.part(PartKind.SIGNED)
        file = None if signed is None else await self._file(committed, signed)
        if signed is None or file is None:
            raise self._withheld(problem(Code.OUTPUT_UNAVAILABLE))
        return _answer(committed, signed, file, request.headers, self._gateway.bounds.send_s)

    async def _file(self, committed: Committed, signed: Part) -> Checked | None:
        name = object_name(committed.transform.tenant, committed.transform.id, signed.sha256)
        try:
            return await checked(self._gateway, self._gateway.released, name, signed.size)
        except MediaAltered:
            return None

    def _withheld(self, why: Problem) -> ApiError:
        """What is released and cannot be served is nobody's ordinary day."""
        if why.code == Code.OUTPUT_UNAVAILABLE:
            self._gateway.alarm("output_withheld")
        return ApiError(why)


def why_withheld(committed: Committed, now: datetime) -> Problem | None:
    """Why nothing of it may be served at `now`, or None. Pure."""
    if committed.state is not State.RELEASED:
        found = problem(_ENDS.get(committed.state, Code.NOT_RELEASED))
        denial = committed.events[-1].denial
        return found if denial is None else replace(found, decision_id=denial.decision)
    release = committed.release
    if release is None:
        return problem(Code.OUTPUT_UNAVAILABLE)
    if (
        committed.withdrawn
        or committed.blocks
        or any(_is_blocked(committed.reviews.get(decision)) for decision in release.decisions.values())
    ):
        return problem(Code.WITHDRAWN)
    if committed.purged or now >= release.expires_at:
        return problem(Code.PURGED)
    return None if _stands(committed, release) else problem(Code.OUTPUT_UNAVAILABLE)


def _is_blocked(review: Review | None) -> bool:
    return review is not None and review.verdict is Verdict.BLOCK


def _stands(committed: Committed, release: Release) -> bool:
    """Whether the release agrees with everything else that is committed."""
    transform, signed = committed.transform, committed.part(PartKind.SIGNED)
    about = {Stage.SOURCE: transform.source.sha256, Stage.TARGET: transform.target.sha256, Stage.OUTPUT: release.encoded_sha256}
    decisions = {decision.id: decision for decision in committed.decisions}
    return (
        (release.transform, release.tenant) == (transform.id, transform.tenant)
        and signed is not None
        and (signed.sha256, signed.made_of) == (release.signed_sha256, release.encoded_sha256)
        and release.decisions.keys() == about.keys()
        and all(_allows(decisions.get(release.decisions[stage]), stage, about[stage], committed) for stage in STAGES)
    )


def _allows(decision: Decision | None, stage: Stage, sha256: str, committed: Committed) -> bool:
    """Whether this is an allow about these bytes: the policy's own, or a person's where they were held."""
    if decision is None or (decision.stage, decision.media.sha256) != (stage, sha256) or decision.transform != committed.transform.id:
        return False
    review = committed.reviews.get(decision.id)
    is_let_pass = decision.verdict is Verdict.REVIEW and review is not None and review.verdict is Verdict.ALLOW
    return decision.verdict is Verdict.ALLOW or is_let_pass


# --- the file over HTTP (RFC 9110) -----------------------------------------------------------------


def _answer(committed: Committed, signed: Part, file: Checked, asked: Headers, send_s: float) -> Response:
    tag = f'"{signed.sha256}"'
    name = f"{to_wire('trf', committed.transform.id)}.{_SUFFIXES.get(signed.type, 'bin')}"
    headers = {
        **INERT,
        "content-disposition": f'attachment; filename="{name}"',
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
        "etag": tag,
        "repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(signed.sha256)).decode()}:",
    }
    if _has(asked.getlist("if-none-match"), tag):
        return Response(None, 304, headers)
    part = part_of(asked.getlist("range"), file.size) if asked.get("if-range", tag) == tag else None
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{file.size}"
    sent = range(file.size) if part is None else part
    headers["content-length"] = str(len(sent))
    status = 200 if part is None else 206
    return CutStream(_pieces(file, sent), _nothing, media_type=signed.type, headers=headers, send_s=send_s, status=status)


async def _pieces(file: Checked, wanted: range) -> AsyncIterator[bytes]:
    """What is sent. Raises Cut where it is not there any more as it was: what was sent is shorter than was said, and no part of anything else."""
    try:
        async for piece in file.bytes_of(wanted):
            yield piece
    except (MediaAltered, RecordUnavailable):
        raise Cut from None


def _nothing() -> None:
    """Nobody has to know when it is over."""


def _has(given: list[str], tag: str) -> bool:
    """Whether one of these lists of entity tags has ours, compared weakly."""
    tags = [one.strip().removeprefix("W/") for line in given for one in line.split(",")]
    return "*" in tags or tag in tags


def part_of(given: list[str], size: int) -> range | None:
    """The one part that is asked for, None for the whole: without a range, and with one that is not understood or of several parts.

    Raises ApiError on a part that lies outside.
    """
    match = _RANGE.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        raise ApiError(replace(problem(Code.RANGE_NOT_SATISFIABLE), headers=(("content-range", f"bytes */{size}"),)))
    return range(start, stop)
