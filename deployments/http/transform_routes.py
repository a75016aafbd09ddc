"""`/v1/transforms`: gated face swaps as requests ask for them, see them and end them. The work itself is done by workers.

What can be told without decoding a pixel is told before the request is accepted; everything else ends in a state. Bytes
are stored before the row that names them is committed, so that an accepted transform never lacks them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.documents import listed, page_of
from deployments.http.errors import ApiError, Code, problem_of, refused
from deployments.http.fetch import named
from deployments.http.front import body_of, request_id_of
from deployments.http.gateway import Gateway
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, fingerprint, idempotency_key, inlined, query_of, schema_of
from deployments.http.schemas import TRANSFORM_ID, NoQuery
from deployments.http.screening_routes import policy_for
from deployments.http.stored import stored
from deployments.http.transform_documents import (
    TransformList,
    TransformOptions,
    TransformQuery,
    TransformView,
    WaitQuery,
    read_options,
    transform_document,
)
from deployments.http.transform_events import LAST_EVENT, TRANSFORM, EventStreams
from deployments.http.transform_lookup import named_transform
from deployments.http.transform_output import RANGE_PARAMETER, OutputRoute
from deployments.http.transform_stream import StreamRoute
from deployments.http.uploads import File, read_files
from deployments.http.wire import encode, json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key
from moderation.adapters.areas import object_name
from moderation.decision import PolicyRef
from moderation.errors import MediaRefused, Overloaded, RecordUnavailable, Refusal
from moderation.frames import DecodePlan
from moderation.media import MediaKind, sha256_of
from moderation.policy import Consent, Policy
from moderation.ports import Begun, KeyUse, TransformFilter
from moderation.screening import limits_under
from moderation.transform import FINAL, Committed, ConsentStatement, Options, Original, State, Transform

_FIRST_POLL_S: Final = 0.05
_ENDED: Final = FINAL | {State.HELD}
"""Where nothing more happens by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The face to bring in. `entry` is that of the catalogue, where it is of it."""

    data: bytes
    entry: UUID | None = None
    consent: ConsentStatement | None = None


class TransformRoutes:
    """Everything but the released file and the events."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._waiting = 0

    async def post(self, request: Request, key: Key) -> Response:
        """Ask for a gated face swap. 202 with the transform; 200 if it ends within `wait`.

        Nothing of the result can be fetched before source, target and result have each been screened and allowed.
        """
        query = query_of(request, WaitQuery)
        id, is_replay = await self._begin(request, key, idempotency_key(request))
        body_of(request).forget()
        wait_s = min(query.wait, self._gateway.bounds.max_wait_s)
        return _accepted(await self._settled(key.tenant, id, wait_s), is_replay=is_replay)

    async def get(self, request: Request, key: Key) -> Response:
        """The transform, as it is now."""
        query_of(request, NoQuery)
        return json_response(transform_document(await named_transform(self._gateway, request, key)))

    async def find(self, request: Request, key: Key) -> Response:
        """Transforms, newest first."""
        query = query_of(request, TransformQuery)
        wanted = TransformFilter(
            state=query.state,
            reference=query.reference,
            before=None if query.cursor is None else from_wire("trf", query.cursor),
            limit=query.limit,
        )
        found = await self._gateway.transforms.find(key.tenant, wanted)
        page, following = page_of(found, wanted.limit, lambda last: to_wire("trf", last.transform.id))
        return json_response(listed([transform_document(committed) for committed in page], following))

    async def cancel(self, request: Request, key: Key) -> Response:
        """Ask for the end of a transform; it comes at the next step. Once it has ended otherwise, there is nothing to cancel: 409."""
        query_of(request, NoQuery)
        idempotent = idempotency_key(request)
        committed = await named_transform(self._gateway, request, key)
        id = committed.transform.id
        is_replay = idempotent is not None and await self._is_known(request, key, idempotent, id)
        state = await self._gateway.transforms.request_cancel(key.tenant, id, key.id)
        if state is None:
            raise refused(Code.NOT_FOUND)
        committed = await named_transform(self._gateway, request, key)
        if not committed.cancel_requested and committed.state is not State.CANCELLED:  # ended, or on its way out after its release
            raise refused(Code.ALREADY_ENDED)
        headers = {"idempotent-replayed": "true"} if is_replay else {}
        return json_response(transform_document(committed), headers=headers)

    # --- before it is accepted --------------------------------------------------------------------

    async def _begin(self, request: Request, key: Key, idempotent: str | None) -> tuple[UUID, bool]:
        """(id, whether an earlier request with this key has made it). Raises ApiError on what is refused beforehand."""
        files = await read_files(request, ("source", "target", "options"))
        options = read_options(files["options"].data if "options" in files else b"{}")
        if "target" not in files:
            raise refused(Code.BAD_REQUEST, param="target", message="The form has no file named target.")
        use = KeyUse(key=idempotent, fingerprint=_fingerprint(request, options, key, files)) if idempotent else None
        known = None if use is None else await self._gateway.transforms.made_with(key.tenant, use)
        if known is not None:  # whatever the policy asks for by now
            return _of_an_earlier_request(*known), True
        policy = await policy_for(self._gateway, key, options.policy)
        self._refuse(options, policy)
        source = await self._source(key, policy, options, files["source"].data if "source" in files else None)
        consent = options.consent.stated() if options.consent else source.consent
        target_consent = options.target_consent.stated() if options.target_consent else None
        _require_consent(policy, consent, target_consent)
        target = files["target"].data
        original, is_video = await self._original("target", target, policy)
        _refuse_output(options, policy, is_video=is_video)
        transform = Transform(
            id=self._gateway.new_id(),
            tenant=key.tenant,
            actor=key.id,
            request_id=request_id_of(request),
            created_at=self._gateway.clock(),
            policy=PolicyRef(name=policy.name, version=policy.version, digest=policy.digest),
            source=(await self._original("source", source.data, policy))[0],
            target=original,
            options=_chosen(options, policy, is_video=is_video),
            consent=consent,
            target_consent=target_consent,
            catalogue_source=source.entry,
            reference=options.reference,
            callback_url=options.callback_url,
        )
        return await self._accept(transform, source.data, target, use)

    def _refuse(self, options: TransformOptions, policy: Policy) -> None:
        """What would weaken the policy, and what is not to be had here."""
        if options.label.visible is False and policy.label_visible:
            raise refused(Code.WEAKENS_POLICY, param="label.visible")
        if options.swapper not in self._gateway.swappers:
            raise refused(Code.SWAPPER_UNAVAILABLE, param="swapper")
        url, schemes = options.callback_url, ("https", "http") if self._gateway.webhook_http else ("https",)
        if url is not None and named(url, self._gateway.webhook_hosts, schemes=schemes) is None:
            raise refused(Code.CALLBACK_NOT_ALLOWED, param="callback_url")

    async def _source(self, key: Key, policy: Policy, options: TransformOptions, sent: bytes | None) -> _Source:
        """The face: sent, or of the catalogue. Raises ApiError where the policy takes faces of the catalogue only and it is none."""
        if (sent is None) is (options.source_id is None):
            raise refused(Code.BAD_REQUEST, param="source", message="Send either a file named source or a source_id.")
        if sent is not None and policy.sources != "catalogue":
            return _Source(data=sent)
        if sent is not None:
            entry = await self._gateway.sources.find(key.tenant, sha256_of(sent))
            if entry is None:
                raise refused(Code.SOURCE_NOT_APPROVED, param="source")
            return _Source(data=sent, entry=entry.id, consent=entry.consent)
        id = from_wire("src", options.source_id or "")
        entry = None if id is None else await self._gateway.sources.get(key.tenant, id)
        if entry is None:
            raise refused(Code.SOURCE_NOT_APPROVED, param="source_id", message="There is no such face in the catalogue.")
        data = await stored(self._gateway, self._gateway.catalogue, object_name(key.tenant, entry.id, entry.sha256))
        if data is None:
            self._gateway.alarm("catalogue_bytes_gone")
            raise RecordUnavailable("an approved face has no bytes")
        return _Source(data=data, entry=entry.id, consent=entry.consent)

    async def _original(self, name: str, data: bytes, policy: Policy) -> tuple[Original, bool]:
        """What one file says of itself, and whether it moves. Raises ApiError with the code of its refusal."""
        plan = DecodePlan(specs=(), limits=limits_under(policy, self._gateway.limits))
        try:
            probe = await self._gateway.pictures.probe(data, plan)
        except MediaRefused as refusal:
            raise ApiError(replace(problem_of(refusal), param=name)) from None
        moves = probe.kind is not MediaKind.IMAGE or probe.type.startswith("video/")
        if moves and name == "source":
            raise ApiError(replace(problem_of(MediaRefused(Refusal.STILL_PICTURE_REQUIRED)), param=name))
        if moves and probe.width * probe.height > plan.limits.video_pixels:
            raise ApiError(replace(problem_of(MediaRefused(Refusal.DIMENSIONS_TOO_LARGE)), param=name))
        return Original(sha256=sha256_of(data), size=len(data), type=probe.type), moves

    # --- accepting --------------------------------------------------------------------------------

    async def _accept(self, transform: Transform, source: bytes, target: bytes, use: KeyUse | None) -> tuple[UUID, bool]:
        """(id, whether an earlier request with this key has made it). First the bytes, then the row that names them."""
        names = {_name(transform, original): data for original, data in ((transform.source, source), (transform.target, target))}
        await asyncio.gather(*(self._gateway.intake.put(name, data) for name, data in names.items()))
        # Where the commit fails it may have come about all the same: the bytes stay, and are found by their age if nobody names them.
        try:
            begun, id = await self._gateway.transforms.accept(transform, use=use)
        except Overloaded:
            await self._forget(*names)
            raise
        if begun is Begun.NEW:
            return id, False
        await self._forget(*names)
        return _of_an_earlier_request(begun, id), True

    async def _forget(self, *names: str) -> None:
        for name in names:
            try:
                await self._gateway.intake.delete(name)
            except RecordUnavailable:
                self._gateway.alarm("intake_not_deleted")

    async def _settled(self, tenant: UUID, id: UUID, wait_s: float) -> Committed:
        """The transform once nothing more happens by itself, or when `wait_s` are over. Only so many wait at once; others do not."""
        if wait_s > 0 and self._waiting < self._gateway.bounds.streams:
            self._waiting += 1
            try:
                await self._wait(tenant, id, wait_s)
            finally:
                self._waiting -= 1
        committed = await self._gateway.transforms.load(tenant, id)
        if committed is None:
            raise refused(Code.NOT_FOUND)
        return committed

    async def _wait(self, tenant: UUID, id: UUID, wait_s: float) -> None:
        until, pause = time.monotonic() + wait_s, _FIRST_POLL_S
        while (left := until - time.monotonic()) > 0:
            events = await self._gateway.transforms.events(tenant, id)
            if not events or events[-1].state in _ENDED:
                return
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, self._gateway.bounds.poll_s)

    async def _is_known(self, request: Request, key: Key, idempotent: str, id: UUID) -> bool:
        """Whether this request came before. Raises ApiError if another one came with this key."""
        begun, owner = await self._gateway.idempotency.begin(key.tenant, idempotent, fingerprint(request), id)
        if begun is Begun.MISMATCH or owner != id:
            raise refused(Code.IDEMPOTENCY_MISMATCH)
        return begun is Begun.KNOWN


def _require_consent(policy: Policy, consent: ConsentStatement | None, target_consent: ConsentStatement | None) -> None:
    if consent is None and policy.consent is Consent.REQUIRED:
        raise refused(Code.CONSENT_REQUIRED, param="consent")
    if target_consent is None and policy.target_consent is Consent.REQUIRED:
        raise refused(Code.CONSENT_REQUIRED, param="target_consent")


def _refuse_output(options: TransformOptions, policy: Policy, *, is_video: bool) -> None:
    """What the result cannot be. What is shown before its release carries the label, whatever else the policy says of it."""
    if options.output.format != "auto" and (options.output.format == "mp4") is not is_video:
        raise refused(Code.INVALID_PARAMETER, param="output.format", message="What moves becomes an MP4, a picture a picture.")
    if is_video and policy.stream == "labelled" and options.label.visible is False:
        raise refused(Code.WEAKENS_POLICY, param="label.visible")


def _chosen(options: TransformOptions, policy: Policy, *, is_video: bool) -> Options:
    is_streamed = is_video and policy.stream == "labelled"
    return Options(
        faces=options.choice(),
        swapper=options.swapper,
        label=policy.label_visible or is_streamed or options.label.visible is True,
        label_language=options.label.language,
        format="mp4" if is_video else options.output.format,
        quality=options.output.quality,
    )


def _of_an_earlier_request(begun: Begun, id: UUID) -> UUID:
    """The id of what an earlier request with this key has made. Raises ApiError where it was another one, or is still in intake."""
    if begun is Begun.MISMATCH:
        raise refused(Code.IDEMPOTENCY_MISMATCH)
    if begun is Begun.IN_PROGRESS:
        raise refused(Code.IN_PROGRESS)
    return id


def _name(transform: Transform, original: Original) -> str:
    return object_name(transform.tenant, transform.id, original.sha256)


def _fingerprint(request: Request, options: TransformOptions, key: Key, files: Mapping[str, File]) -> str:
    """What makes two requests the same one: everything but `wait` and the framing of the body."""
    source = files.get("source")
    return fingerprint(
        request,
        query={},
        options={**options.model_dump(mode="json"), "policy": options.policy or next(iter(key.policies), None)},
        source=None if source is None else sha256_of(source.data),
        target=sha256_of(files["target"].data),
    )


def _accepted(committed: Committed, *, is_replay: bool) -> Response:
    headers = {"idempotent-replayed": "true"} if is_replay else {}
    if committed.state not in _ENDED:
        headers |= {"location": f"/v1/transforms/{to_wire('trf', committed.transform.id)}", "retry-after": "1"}
    status = 200 if committed.state in _ENDED else 202
    return Response(encode(transform_document(committed)), status, headers, "application/json")


_PICTURE: Final = {"type": "string", "format": "binary"}


def _form_schema() -> dict[str, object]:
    """The form, with the options' own schema in it."""
    options = inlined(schema_of(TransformOptions))
    return {"type": "object", "required": ["target"], "properties": {"source": _PICTURE, "target": _PICTURE, "options": options}}


def add_transforms(app: FastAPI, door: Door, gateway: Gateway) -> None:
    """Add the routes."""
    routes, output, events, stream = TransformRoutes(gateway), OutputRoute(gateway), EventStreams(gateway, door), StreamRoute(gateway, door)
    path = {"id": TRANSFORM_ID}
    media = {"multipart/form-data": {"schema": _form_schema(), "encoding": {"options": {"contentType": "application/json"}}}}
    ask = Doc(
        summary="Ask for a gated face swap",
        answers={200: TransformView, 202: TransformView},
        errors=(400, 408, 409, 413, 415, 422),
        query=WaitQuery,
        headers=(IDEMPOTENCY_PARAMETER,),
        body={"required": True, "content": media},
        tag="transforms",
    )
    many = Doc(summary="Transforms", answers={200: TransformList}, errors=(422,), query=TransformQuery, tag="transforms")
    one = Doc(summary="One transform", answers={200: TransformView}, errors=(404, 422), query=NoQuery, path=path, tag="transforms")
    end = Doc(
        summary="Cancel a transform",
        answers={200: TransformView},
        errors=(400, 404, 409, 422),
        query=NoQuery,
        path=path,
        headers=(IDEMPOTENCY_PARAMETER,),
        tag="transforms",
    )
    follow = Doc(
        summary="Follow a transform",
        answers={200: None},
        errors=(404, 422),
        query=NoQuery,
        path=path,
        headers=(LAST_EVENT,),
        tag="transforms",
    )
    fetch = Doc(
        summary="Fetch the released file",
        answers={200: None, 206: None, 304: None},
        errors=(404, 409, 410, 416, 422),
        query=NoQuery,
        path=path,
        headers=(RANGE_PARAMETER,),
        tag="transforms",
    )
    watch = Doc(
        summary="Watch a video while it is made",
        answers={200: None},
        errors=(404, 409, 410, 422),
        query=NoQuery,
        path=path,
        tag="transforms",
    )
    add_protected(app, door, "POST", "/v1/transforms", routes.post, scopes=TRANSFORM, doc=ask)
    add_protected(app, door, "GET", "/v1/transforms", routes.find, scopes=TRANSFORM, doc=many)
    add_protected(app, door, "GET", "/v1/transforms/{id}", routes.get, scopes=TRANSFORM, doc=one)
    add_protected(app, door, "POST", "/v1/transforms/{id}/cancel", routes.cancel, scopes=TRANSFORM, doc=end)
    add_protected(app, door, "GET", "/v1/transforms/{id}/events", events.get, scopes=TRANSFORM, doc=follow)
    add_protected(app, door, "GET", "/v1/transforms/{id}/output", output.get, scopes=TRANSFORM, doc=fetch)
    add_protected(app, door, "GET", "/v1/transforms/{id}/stream", stream.get, scopes=TRANSFORM, doc=watch)
