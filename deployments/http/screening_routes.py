"""`/v1/screenings`: the native way to have a media judged."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from deployments.http.auth import Door
from deployments.http.documents import decision_document
from deployments.http.errors import Code, problem_in, refused
from deployments.http.front import body_of, request_id_of
from deployments.http.gateway import Gateway
from deployments.http.routing import IDEMPOTENCY_PARAMETER, Doc, add_protected, fingerprint, idempotency_key, query_of
from deployments.http.schemas import DECISION_ID, DecisionView, NoQuery, PendingView, ScreeningQuery
from deployments.http.screenings import Outcome, Pending, Screenings
from deployments.http.uploads import Upload, read_upload
from deployments.http.wire import encode, json_response
from deployments.ids import from_wire, to_wire
from moderation.access import Key, Scope
from moderation.decision import Decision
from moderation.log import Receipt
from moderation.media import Stage, sha256_of
from moderation.policy import Policy
from moderation.ports import KeyUse, QueueState
from moderation.screening import Order
from moderation.transform import Review

SCREEN: Final = frozenset({Scope.SCREEN})
_FORM: Final = {
    "type": "object",
    "required": ["media"],
    "properties": {
        "media": {"type": "string", "format": "binary"},
        "policy": {"type": "string", "maxLength": 64},
        "reference": {"type": "string", "maxLength": 256},
        "strict": {"type": "string", "enum": ["true", "false"]},
    },
}
_RAW: Final = {"schema": {"type": "string", "format": "binary"}}
_BODY: Final = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}, "image/*": _RAW, "video/*": _RAW}}


class ScreeningRoutes:
    """POST and GET of screenings."""

    def __init__(self, gateway: Gateway, screenings: Screenings) -> None:
        self._gateway = gateway
        self._screenings = screenings

    async def post(self, request: Request, key: Key) -> Response:
        """Screen one media. 200 with the decision, whatever its verdict; 202 when it takes longer than `wait`.

        A media that cannot be judged because of what it is is answered 4xx and names its decision.
        """
        query = query_of(request, ScreeningQuery)
        idempotent = idempotency_key(request)
        self._screenings.admit()
        given = {name: value for name, value in request.query_params.items() if name != "wait"}
        upload = await read_upload(request, given)
        order = await new_order(self._gateway, request, key, upload)
        submitted = await self._screenings.submit(
            upload.data,
            order,
            wait_s=min(query.wait if "wait" in query.model_fields_set else self._gateway.bounds.wait_s, self._gateway.bounds.max_wait_s),
            use=KeyUse(key=idempotent, fingerprint=_fingerprint(request, given, upload, order.policy)) if idempotent else None,
            body=body_of(request),
        )
        review = await self._review(submitted.outcome) if submitted.is_replay else None
        receipt = await self._receipt(submitted.outcome)
        return _answer(submitted.outcome, request, review, receipt, is_replay=submitted.is_replay)

    async def get(self, request: Request, key: Key) -> Response:
        """The decision of a screening, or how far it is."""
        query_of(request, NoQuery)
        id = from_wire("dec", request.path_params["id"])
        found = None if id is None else await self._screenings.look_up(key.tenant, id)
        if found is None:
            raise refused(Code.NOT_FOUND)
        return json_response(_document(found, await self._review(found), await self._receipt(found)))

    async def _review(self, outcome: Outcome) -> Review | None:
        """What a person has said about it last."""
        if isinstance(outcome, Pending):
            return None
        return (await self._gateway.reviews.latest(outcome.tenant, (outcome.id,))).get(outcome.id)

    async def _receipt(self, outcome: Outcome) -> Receipt | None:
        if isinstance(outcome, Pending):
            return None
        return (await self._gateway.receipts.of(outcome.tenant, {outcome.id: outcome.created_at})).get(outcome.id)


async def new_order(
    gateway: Gateway, request: Request, key: Key, upload: Upload, *, stage: Stage = Stage.UPLOAD, pictures_only: bool = False
) -> Order:
    """What `key` asks to be screened. Raises ApiError on a policy that it may not use or that is not there."""
    return Order(
        id=gateway.new_id(),
        tenant=key.tenant,
        actor=key.id,
        request_id=request_id_of(request),
        stage=stage,
        policy=await policy_for(gateway, key, upload.policy),
        strict=upload.strict,
        declared_type=upload.declared_type,
        reference=upload.reference,
        pictures_only=pictures_only,
    )


async def policy_for(gateway: Gateway, key: Key, name: str | None) -> Policy:
    """The policy in force of this name, by default of the key's first. Raises ApiError on one that it may not use or that is not there."""
    chosen = name or next(iter(key.policies), None)
    if chosen is None or chosen not in key.policies:
        raise refused(Code.POLICY_NOT_ALLOWED, param="policy")
    policy = await gateway.policies.latest(key.tenant, chosen)
    if policy is None:
        raise refused(Code.POLICY_NOT_FOUND, param="policy")
    return policy


def _fingerprint(request: Request, query: dict[str, str], upload: Upload, policy: Policy) -> str:
    """What makes two requests the same one: everything but `wait` and the framing of the body."""
    return fingerprint(
        request,
        query=query,
        options={
            "policy": policy.name,
            "reference": upload.reference,
            "strict": upload.strict,
            "declared_type": upload.declared_type,
        },
        media=sha256_of(upload.data),
    )


def _answer(outcome: Outcome, request: Request, review: Review | None, receipt: Receipt | None, *, is_replay: bool) -> Response:
    headers = {"idempotent-replayed": "true"} if is_replay else {}
    if isinstance(outcome, Decision):
        found = problem_in(outcome)
        if found is None:
            return json_response(decision_document(outcome, review, receipt), headers=headers)
        return Response(found.body(request_id_of(request)), found.status, {**dict(found.all_headers()), **headers})
    where = f"/v1/screenings/{to_wire('dec', outcome.id)}"
    return Response(encode(_document(outcome)), 202, {**headers, "location": where, "retry-after": "1"}, "application/json")


def _document(outcome: Outcome, review: Review | None = None, receipt: Receipt | None = None) -> dict[str, object]:
    return pending_document(outcome) if isinstance(outcome, Pending) else decision_document(outcome, review, receipt)


def pending_document(pending: Pending) -> dict[str, object]:
    """The object of a screening without a decision. One that was given up is no longer waited for and not allowed."""
    verdict = "error" if pending.state is QueueState.PARKED else None
    return {"id": to_wire("dec", pending.id), "object": "decision", "status": str(pending.state), "verdict": verdict}


def add_screenings(app: FastAPI, door: Door, gateway: Gateway, screenings: Screenings) -> None:
    """Add the routes."""
    routes = ScreeningRoutes(gateway, screenings)
    doc = Doc(
        summary="Screen a picture",
        answers={200: DecisionView, 202: PendingView},
        errors=(400, 408, 409, 413, 415, 422),
        query=ScreeningQuery,
        headers=(IDEMPOTENCY_PARAMETER,),
        body=_BODY,
    )
    add_protected(app, door, "POST", "/v1/screenings", routes.post, scopes=SCREEN, doc=doc)
    one = Doc(
        summary="One screening", answers={200: DecisionView | PendingView}, errors=(404, 422), query=NoQuery, path={"id": DECISION_ID}
    )
    add_protected(app, door, "GET", "/v1/screenings/{id}", routes.get, scopes=SCREEN, doc=one)
