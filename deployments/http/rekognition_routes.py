"""`POST /` with `X-Amz-Target`: Amazon Rekognition's DetectModerationLabels, as its clients call it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.errors import ApiError, Code, problem, problem_in
from deployments.http.front import body_of, request_id_of
from deployments.http.gateway import MB, Gateway
from deployments.http.rekognition_errors import CONTENT_TYPE
from deployments.http.rekognition_view import labels_document
from deployments.http.routing import Doc, add_self_guarded
from deployments.http.schemas import LabelsView
from deployments.http.screening_routes import SCREEN, new_order
from deployments.http.screenings import Screenings
from deployments.http.uploads import Upload, read_body
from deployments.http.wire import decode_object, encode
from deployments.ids import to_wire
from moderation.decision import Decision
from moderation.errors import MediaRefused

TARGET: Final = "RekognitionService.DetectModerationLabels"
MAX_BYTES: Final = 5 * 1024 * 1024
MAX_OBJECT: Final = 15 * MB
DEFAULT_CONFIDENCE: Final = 50.0
_KNOWN: Final = frozenset({"Image", "MinConfidence", "HumanLoopConfig", "ProjectVersion"})
_HEADERS: Final = ({"name": "X-Amz-Target", "in": "header", "required": True, "schema": {"const": TARGET}},)
_SCHEMA: Final = {
    "type": "object",
    "required": ["Image"],
    "properties": {
        "Image": {
            "type": "object",
            "properties": {
                "Bytes": {"type": "string", "format": "byte"},
                "S3Object": {"type": "object", "properties": {"Bucket": {"type": "string"}, "Name": {"type": "string"}}},
            },
        },
        "MinConfidence": {"type": "number", "minimum": 0, "maximum": 100},
    },
}


class RekognitionRoutes:
    """Rekognition's endpoint."""

    def __init__(self, gateway: Gateway, screenings: Screenings, door: Door) -> None:
        self._gateway = gateway
        self._screenings = screenings
        self._door = door

    async def post(self, request: Request) -> Response:
        """Labels of an image in Rekognition's wire format, signed with Signature Version 4. `x-facegate-decision-id` names the decision."""
        self._screenings.admit()
        body = await read_body(request)
        key = await self._door.sigv4(request, body, SCREEN)
        if request.headers.get("x-amz-target") != TARGET:
            raise _refused("UnknownOperationException", "This operation does not exist here.")
        image, min_confidence = read_request(body)
        upload = Upload(data=await self._bytes(image), declared_type=None)
        order = await new_order(self._gateway, request, key, upload)
        decision = await self._screenings.complete(upload.data, order, body=body_of(request))
        found = problem_in(decision)
        if found is not None:
            raise ApiError(found)
        return self._answer(decision, min_confidence, request)

    async def _bytes(self, image: dict[str, Any]) -> bytes:
        match image:
            case {"Bytes": str() as text, **rest} if not rest:
                return _decoded(text)
            case {"S3Object": {"Bucket": str() as bucket, "Name": str() as name, **rest_of_object}, **rest} if not rest:
                if rest_of_object:
                    raise _refused("InvalidS3ObjectException", "Versions of objects are not read.")
                return await self._object(bucket, name)
            case _:
                raise _refused("InvalidParameterException", "Image holds either Bytes or an S3Object.")

    async def _object(self, bucket: str, name: str) -> bytes:
        try:
            data = await self._gateway.buckets.get(bucket, name, max_bytes=MAX_OBJECT)
        except MediaRefused:
            raise _refused("ImageTooLargeException", "The object is larger than allowed.") from None
        if data is None:
            raise _refused("InvalidS3ObjectException", "There is no such object in a bucket that is read here.")
        return data

    def _answer(self, decision: Decision, min_confidence: float, request: Request) -> Response:
        headers = {
            "x-amzn-requestid": request_id_of(request),
            "x-facegate-decision-id": to_wire("dec", decision.id),
            "x-facegate-verdict": str(decision.verdict),
        }
        return Response(encode(labels_document(decision, min_confidence)), 200, headers, CONTENT_TYPE)


def read_request(body: bytes) -> tuple[dict[str, Any], float]:
    """(Image, MinConfidence). Raises ApiError."""
    document = decode_object(body)
    if document is None:
        raise _refused("SerializationException", "The body is not a JSON object.")
    if not document.keys() <= _KNOWN or document.get("HumanLoopConfig") is not None:
        raise _refused("InvalidParameterException", "A parameter is not known or not served here.")
    if document.get("ProjectVersion") is not None:
        raise _refused("ResourceNotFoundException", "There are no adapters here.")
    image, confidence = document.get("Image"), document.get("MinConfidence", DEFAULT_CONFIDENCE)
    if not isinstance(image, dict):
        raise _refused("InvalidParameterException", "Image is missing.")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 100:  # noqa: PLR2004
        raise _refused("InvalidParameterException", "MinConfidence lies between 0 and 100.")
    return image, float(confidence)


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("SerializationException", "Bytes is not base64.") from None
    if len(data) > MAX_BYTES:
        raise _refused("ImageTooLargeException", "The image is larger than allowed.")
    return data


def _refused(aws_type: str, message: str) -> ApiError:
    return ApiError(replace(problem(Code.BAD_REQUEST, message=message), aws_type=aws_type))


def add_rekognition(app: FastAPI, door: Door, gateway: Gateway, screenings: Screenings) -> None:
    """Add the route."""
    doc = Doc(
        summary="Judge an image as Amazon Rekognition does",
        answers={200: LabelsView},
        headers=_HEADERS,
        body={"required": True, "content": {CONTENT_TYPE: {"schema": _SCHEMA}}},
        security="sigv4",
    )
    add_self_guarded(app, "POST", "/", RekognitionRoutes(gateway, screenings, door).post, scopes=SCREEN, doc=doc)
