"""Transforms through HTTP over fakes: asking for one, and a worker that does its steps through the ports, one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpx

from deployments.ids import from_wire, new_id
from moderation.adapters.areas import object_name
from moderation.decision import Decision, PolicyRef, Verdict
from moderation.media import Media, Stage, sha256_of
from moderation.ports import Job
from moderation.transform import Committed, Denial, Event, Failure, Part, PartKind, Release, Review, State
from tests.builders import LOUD, NOW, QUIET, SHOWN, TENANT, jpeg_bytes, make_decision, make_policy, make_seen
from tests.http_kit import Service, bearer

SOURCE, TARGET = jpeg_bytes(seed=1), jpeg_bytes(seed=2)
ENCODED, SIGNED = jpeg_bytes(seed=3), jpeg_bytes(96, 64, seed=4)
CONSENT: Final = {"basis": "self", "statement": "It is me.", "reference": None}
HELD_SCORES: Final = {**QUIET, "sexual.nudity_explicit": 300_000}
EXPIRES = NOW + timedelta(days=7)


def form(source: bytes | None = SOURCE, target: bytes | None = TARGET, **options: Any) -> dict[str, Any]:
    """What httpx takes; the consent that the policy requires is given unless `options` say otherwise."""
    given = {"consent": CONSENT, **options}
    parts: dict[str, bytes | None] = {"source": source, "target": target, "options": json.dumps(given).encode()}
    return {"files": {name: (name, data, "application/octet-stream") for name, data in parts.items() if data is not None}}


def ask(service: Service, *, url: str = "/v1/transforms", key: str | None = None, **parts: Any) -> httpx.Response:
    headers = bearer() if key is None else {**bearer(), "idempotency-key": key}
    return service.request("POST", url, headers=headers, **form(**parts))


def accepted(service: Service, **parts: Any) -> UUID:
    """The id of a transform that was accepted."""
    answer = ask(service, **parts)
    assert answer.status_code == 202, answer.text
    id = from_wire("trf", answer.json()["id"])
    assert id is not None
    return id


def path_of(id: UUID, rest: str = "") -> str:
    return f"/v1/transforms/trf_{id.hex}{rest}"


@dataclass(kw_only=True)
class Hand:
    """Does with one transform what a worker does, as far as a test says."""

    service: Service
    id: UUID
    tenant: UUID = TENANT
    decisions: dict[Stage, Decision] = field(default_factory=dict)
    job: Job | None = None

    async def take(self) -> Job:
        self.job = await self.service.queue.take(("transform",), 30.0)
        assert self.job is not None
        assert self.job.id == self.id
        return self.job

    async def load(self) -> Committed:
        found = await self.service.transforms.load(self.tenant, self.id)
        assert found is not None
        return found

    async def held_job(self) -> Job:
        return self.job or await self.take()

    async def decide(self, stage: Stage, scores: Mapping[str, int] = QUIET, **changes: Any) -> Decision:
        transform = (await self.load()).transform
        sha256 = {Stage.SOURCE: transform.source.sha256, Stage.TARGET: transform.target.sha256}.get(stage, sha256_of(ENCODED))
        media = Media(sha256=sha256, size=1234, facts=make_seen(stage))
        decision = make_decision(scores, **{"id": new_id(), "stage": stage, "media": media, "transform": self.id, **changes})
        await self.service.log.append(decision, job=await self.held_job(), keep_job=True)
        self.decisions[stage] = decision
        return decision

    async def screen(self, source: Mapping[str, int] = QUIET, target: Mapping[str, int] = QUIET) -> None:
        await self.service.transforms.advance(await self.held_job(), State.SCREENING)
        await self.decide(Stage.SOURCE, source)
        await self.decide(Stage.TARGET, target)

    async def produce(self) -> None:
        await self.service.transforms.advance(await self.held_job(), State.TRANSFORMING)
        await self.service.area("quarantine").put(object_name(self.tenant, self.id, sha256_of(ENCODED)), ENCODED)
        await self.service.transforms.add_part(await self.held_job(), make_part(PartKind.ENCODED, ENCODED))

    async def screen_output(self, scores: Mapping[str, int] = QUIET) -> None:
        await self.service.transforms.advance(await self.held_job(), State.SCREENING_OUTPUT)
        await self.decide(Stage.OUTPUT, scores)

    async def sign(self, data: bytes = SIGNED) -> None:
        await self.service.area("quarantine").put(object_name(self.tenant, self.id, sha256_of(data)), data)
        await self.service.transforms.add_part(await self.held_job(), make_part(PartKind.SIGNED, data, made_of=sha256_of(ENCODED)))

    async def release(self, **changes: Any) -> None:
        policy = make_policy()
        ref = PolicyRef(name=policy.name, version=policy.version, digest=policy.digest)
        facts: dict[str, Any] = {
            "transform": self.id,
            "tenant": self.tenant,
            "signed_sha256": sha256_of(SIGNED),
            "encoded_sha256": sha256_of(ENCODED),
            "decisions": {stage: decision.id for stage, decision in self.decisions.items()},
            "pinned": ref,
            "in_force": ref,
            "released_at": NOW,
            "expires_at": EXPIRES,
        }
        await self.service.transforms.release(await self.held_job(), Release(**{**facts, **changes}))

    async def publish(self, data: bytes = SIGNED) -> None:
        await self.service.area("released").put(object_name(self.tenant, self.id, sha256_of(SIGNED)), data)
        await self.end(State.RELEASED)

    async def end(self, state: State, **changes: Any) -> None:
        await self.service.transforms.end(await self.held_job(), Event(sequence=0, state=state, at=NOW, **changes))
        self.job = None

    async def deny(self, stage: Stage) -> None:
        decision = self.decisions[stage]
        await self.end(State.DENIED, denial=Denial(stage=stage, decision=decision.id, reasons=decision.reasons))

    async def hold(self, stage: Stage) -> None:
        decision = self.decisions[stage]
        await self.end(State.HELD, held=Denial(stage=stage, decision=decision.id, reasons=decision.reasons))

    async def fail(self, code: str = "no_face") -> None:
        await self.end(State.FAILED, failure=Failure(code=code, message="No face was found in the source.", retryable=False))

    async def to(self, state: State) -> None:
        """The whole way to a state."""
        if state is State.CANCELLED:
            await self.service.transforms.request_cancel(self.tenant, self.id, "key")
            await self.end(state)
        elif state is State.FAILED:
            await self.fail()
        elif state is State.DENIED:
            await self.screen(source=LOUD)
            await self.deny(Stage.SOURCE)
        elif state is State.HELD:
            await self.screen(target=HELD_SCORES)
            await self.hold(Stage.TARGET)
        else:
            await self._towards_release(state)

    async def _towards_release(self, state: State) -> None:
        steps = {
            State.SCREENING: self.screen,
            State.TRANSFORMING: self.produce,
            State.SCREENING_OUTPUT: self.screen_output,
        }
        if state is State.QUEUED:
            return
        for name, step in steps.items():
            await step()
            if name is state:
                return
        await self.sign()
        await self.release()
        await self.publish()


def worked(service: Service, state: State, **parts: Any) -> Hand:
    """A transform that was accepted and has come to a state."""
    hand = Hand(service=service, id=accepted(service, **parts))
    asyncio.run(hand.to(state))
    return hand


def make_review(decision: UUID, verdict: Verdict = Verdict.BLOCK, **changes: Any) -> Review:
    facts: dict[str, Any] = {
        "id": new_id(),
        "tenant": TENANT,
        "decision": decision,
        "verdict": verdict,
        "reason": "looked at it",
        "actor": "key",
        "subject": "reviewer-1",
        "at": NOW,
    }
    return Review(**{**facts, **changes})


def make_part(kind: PartKind, data: bytes, made_of: str | None = None) -> Part:
    return Part(
        kind=kind,
        sha256=sha256_of(data),
        size=len(data),
        type="image/jpeg",
        width=64,
        height=48,
        frame_digest=SHOWN if kind is PartKind.SIGNED else None,
        made_of=made_of,
        swapper="test 1",
        faces_changed=1,
        faces_skipped=2,
    )
