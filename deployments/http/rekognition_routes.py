"""`POST /` with `X-Amz-Target`: Amazon Rekognition's moderation of images and videos, as its clients call it.

A video's job is a screening like any other: its id is the decision's, a worker does it, and `/v1/screenings` tells of it as well.
What only Rekognition asks for (the object's names, MinConfidence) is kept with the work, and so for as long as the queue keeps that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import ApiError, problem_in, problem_of
from deployments.http.front import body_of, request_id_of
from deployments.http.gateway import MB, Gateway
from deployments.http.rekognition_errors import CONTENT_TYPE, aws_refused
from deployments.http.rekognition_requests import SCHEMAS, Detect, S3Object, Start, no_such_job, read_detect, read_get, read_start
from deployments.http.rekognition_video_view import moderation_document
from deployments.http.rekognition_view import labels_document
from deployments.http.routing import Doc, add_self_guarded, fingerprint
from deployments.http.schemas import ContentModerationView, JobView, LabelsView
from deployments.http.screening_routes import SCREEN, new_order
from deployments.http.screenings import Outcome, Pending, Screenings
from deployments.http.uploads import Upload, read_body
from deployments.http.wire import encode
from deployments.ids import to_wire
from deployments.screening_worker import note_of
from moderation.access import Key
from moderation.canonical import Json
from moderation.decision import Decision, Verdict
from moderation.errors import MediaRefused, Overloaded
from moderation.media import sha256_of
from moderation.ports import KeyUse, QueueState
from moderation.screening import Order, limits_under

SERVICE: Final = "RekognitionService."
MAX_OBJECT: Final = 15 * MB
NOTE: Final = "rekognition"
_GIVEN_UP: Final = "could_not_judge: It was tried several times; the video is not allowed."

Operation: TypeAlias = Callable[[Request, Key, bytes], Awaitable[Response]]


class RekognitionRoutes:
    """Rekognition's endpoint."""

    def __init__(self, gateway: Gateway, screenings: Screenings, door: Door) -> None:
        self._gateway = gateway
        self._screenings = screenings
        self._door = door
        self._operations: Mapping[str, Operation] = {
            SERVICE + "DetectModerationLabels": self._detect,
            SERVICE + "StartContentModeration": self._start,
            SERVICE + "GetContentModeration": self._get,
        }

    @property
    def targets(self) -> list[str]:
        """What `X-Amz-Target` may be."""
        return list(self._operations)

    async def post(self, request: Request) -> Response:
        """Labels of an image or a video in Rekognition's wire format, signed with Signature Version 4. `x-facegate-decision-id` names the decision."""
        self._screenings.admit()
        body = await read_body(request)
        key = await self._door.sigv4(request, body, SCREEN)
        operation = self._operations.get(request.headers.get("x-amz-target", ""))
        if operation is None:
            raise aws_refused("UnknownOperationException", "This operation does not exist here.")
        return await operation(request, key, body)

    async def _detect(self, request: Request, key: Key, body: bytes) -> Response:
        """DetectModerationLabels: screened at once, however long it takes."""
        asked = read_detect(body)
        upload = Upload(data=await self._image(request, asked), declared_type=None)
        order = await new_order(self._gateway, request, key, upload, pictures_only=True)
        decision = await self._screenings.complete(upload.data, order, body=body_of(request))
        found = problem_in(decision)
        if found is not None:
            raise ApiError(found)
        return _answer(request, labels_document(decision, asked.at_least), _told(decision))

    async def _start(self, request: Request, key: Key, body: bytes) -> Response:
        """StartContentModeration: the bytes are taken now, so that what is judged is what was asked about; the rest is a worker's."""
        asked = read_start(body)
        order = await new_order(self._gateway, request, key, Upload(data=b"", declared_type=None, reference=asked.tag))
        most = limits_under(order.policy, self._gateway.limits).video_bytes
        data = await self._object(request, asked.video, most, "VideoTooLargeException")
        use = None
        if asked.token is not None:
            sha256 = await asyncio.to_thread(sha256_of, data)  # some 200 MB at most
            use = KeyUse(key=f"{NOTE}:{asked.token}", fingerprint=_fingerprint(request, asked, order, sha256))
        try:
            job = await self._screenings.put_off(data, order, use=use, note=_note(asked), body=body_of(request))
        except Overloaded as full:
            raise ApiError(replace(problem_of(full), aws_type="LimitExceededException")) from None
        return _answer(request, {"JobId": to_wire("dec", job)})

    async def _get(self, request: Request, key: Key, body: bytes) -> Response:
        """GetContentModeration: SUCCEEDED whatever the verdict, FAILED where there is none."""
        asked = read_get(body)
        payload = await self._gateway.queue.payload(key.tenant, asked.job)
        note = note_of(payload or {})
        outcome = await self._screenings.look_up(key.tenant, asked.job)
        if payload is None or note is None or outcome is None or note.get("for") != NOTE:
            raise no_such_job()
        document: dict[str, object] = {
            "JobStatus": "IN_PROGRESS",
            "ModerationLabels": [],
            "JobId": to_wire("dec", asked.job),
            "Video": {"S3Object": {"Bucket": note["bucket"], "Name": note["name"]}},
            "GetRequestMetadata": {"SortBy": str(asked.sort_by), "AggregateBy": str(asked.aggregate_by)},
        }
        if payload["reference"] is not None:
            document["JobTag"] = payload["reference"]
        failure, review = _failure(outcome), await self._review(outcome)
        if failure is not None:
            document |= {"JobStatus": "FAILED", "StatusMessage": failure}
        elif isinstance(outcome, Decision):
            document |= {"JobStatus": "SUCCEEDED", **moderation_document(outcome, asked, note["at_least"], review=review)}
        if isinstance(outcome, Decision):
            return _answer(request, document, {**_told(outcome), "x-facegate-effective-verdict": str(review or outcome.verdict)})
        return _answer(request, document)

    async def _image(self, request: Request, asked: Detect) -> bytes:
        if isinstance(asked.image, bytes):
            return asked.image
        return await self._object(request, asked.image, MAX_OBJECT, "ImageTooLargeException")

    async def _object(self, request: Request, named: S3Object, max_bytes: int, too_large: str) -> bytes:
        """An object of a configured bucket; its bytes count as the request's own."""
        try:
            data = await self._gateway.buckets.get(named.bucket, named.name, max_bytes=max_bytes, admit=body_of(request).also)
        except MediaRefused:
            raise aws_refused(too_large, "The object is larger than allowed.") from None
        if data is None:
            raise aws_refused("InvalidS3ObjectException", "There is no such object in a bucket that is read here.")
        return data

    async def _review(self, outcome: Outcome) -> Verdict | None:
        """What a person has said last about a decision."""
        if not isinstance(outcome, Decision):
            return None
        review = (await self._gateway.reviews.latest(outcome.tenant, (outcome.id,))).get(outcome.id)
        return None if review is None else review.verdict


def _note(asked: Start) -> dict[str, Json]:
    """What GetContentModeration must know again of a StartContentModeration."""
    return {"for": NOTE, "bucket": asked.video.bucket, "name": asked.video.name, "at_least": asked.at_least}


def _fingerprint(request: Request, asked: Start, order: Order, sha256: str) -> str:
    """What makes two requests with one token the same one. Other bytes under the same name are another request: they were not judged."""
    return fingerprint(request, **_note(asked), tag=asked.tag, policy=order.policy.name, media=sha256)


def _failure(outcome: Outcome) -> str | None:
    """Why there will be no labels, None where there are or may be."""
    if isinstance(outcome, Pending):
        return _GIVEN_UP if outcome.state is QueueState.PARKED else None
    found = problem_in(outcome)
    return None if found is None else f"{found.code}: {found.message}"


def _told(decision: Decision) -> dict[str, str]:
    return {"x-facegate-decision-id": to_wire("dec", decision.id), "x-facegate-verdict": str(decision.verdict)}


def _answer(request: Request, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(document), 200, {"x-amzn-requestid": request_id_of(request), **(headers or {})}, CONTENT_TYPE)


def add_rekognition(app: FastAPI, door: Door, gateway: Gateway, screenings: Screenings) -> None:
    """Add the route."""
    routes = RekognitionRoutes(gateway, screenings, door)
    doc = Doc(
        summary="Judge an image or a video as Amazon Rekognition does",
        answers={200: LabelsView | JobView | ContentModerationView},
        headers=({"name": "X-Amz-Target", "in": "header", "required": True, "schema": {"enum": routes.targets}},),
        body={"required": True, "content": {CONTENT_TYPE: {"schema": {"anyOf": list(SCHEMAS)}}}},
        security="sigv4",
    )
    add_self_guarded(app, "POST", "/", routes.post, scopes=SCREEN, doc=doc)
