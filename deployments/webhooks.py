"""Callbacks at the end of a transform, by the Standard Webhooks headers (version 1, symmetric).

The record queues a job with the end of a transform; here it is told to the caller's URL. Only hosts that the operator has
named are called, on addresses that were checked, without redirects. The same event has the same `webhook-id` however often it
is sent, since a receiver may see it more than once: it is sent again until an answer of 2xx was read, and then the job is done.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import random
import ssl
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import httpx

from deployments import telemetry
from deployments.http.fetch import Address, Resolve, address_of, aimed, is_public, named, resolve
from deployments.http.transform_documents import transform_document
from deployments.http.wire import encode
from deployments.job_loop import LEASE_S, JobLoop, park
from moderation.adapters.queue import WEBHOOK
from moderation.adapters.service_key import ServiceKey
from moderation.audit import rfc3339
from moderation.ports import Clock, Job, Queue, QueueState, TransformLog
from moderation.transform import Committed, Event

KIND: Final = WEBHOOK
_PREFIX: Final = "whsec_"
RETRY_IN_S: Final = (5.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)
"""After each failed attempt but the last, spread by a fifth to either side: some nine hours in all. The queue parks after the last."""
_TIMEOUT_S: Final = 10.0
_OK: Final = range(200, 300)


class WebhookSender(JobLoop):
    """Takes callbacks off the queue. `hosts` are those that may be called: host, or host:port.

    Only by https and on public addresses, unless `insecure`: then by http too, and on any address. `tls` says whose
    certificates are believed; by default those of the authorities that certifi lists.
    """

    def __init__(
        self,
        *,
        log: TransformLog,
        queue: Queue,
        key: ServiceKey,
        hosts: Collection[str],
        clock: Clock,
        insecure: bool = False,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        lease_s: float = LEASE_S,
        parallel: int = 2,
    ) -> None:
        super().__init__(queue, KIND, self._work, lease_s=lease_s, parallel=parallel)
        self._log = log
        self._key = key
        self._hosts = frozenset(host.lower() for host in hosts)
        self._clock = clock
        self._schemes = ("https", "http") if insecure else ("https",)
        self._may_connect: Callable[[Address], bool] = (lambda _: True) if insecure else is_public
        self._resolve = resolve
        self._tls = tls or httpx.create_ssl_context(trust_env=False)

    async def _work(self, job: Job) -> None:
        committed = await self._log.load(job.tenant, UUID(hex=str(job.payload["transform"])))
        event = None if committed is None else _event(committed, int(str(job.payload["sequence"])))
        if committed is None or event is None or committed.transform.callback_url is None:
            await park(self._queue, job, "there is nothing to tell")
            return
        where = named(committed.transform.callback_url, self._hosts, schemes=self._schemes)
        if where is None:
            await park(self._queue, job, "this host is not called any more")
            return
        fault = await self._send(where, committed, event)
        if fault is None:
            await self._queue.done(job)
            telemetry.job_ended(KIND, "done")
            return
        state = await self._queue.fail(job, fault, retry_in_s=_pause(job.attempt))
        telemetry.job_ended(KIND, "parked" if state is QueueState.PARKED else "failed")

    async def _send(self, where: httpx.URL, committed: Committed, event: Event) -> str | None:
        """One attempt: None when it was taken, otherwise why not, in a word for the operator."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                address = await address_of(where.host, self._resolve, self._may_connect)
                if address is None:
                    return "the address is not allowed"
                status = await self._post(where, address, committed, event)
        except (httpx.HTTPError, OSError, TimeoutError, UnicodeError) as error:
            return type(error).__name__
        return None if status in _OK else f"HTTP {status}"

    async def _post(self, where: httpx.URL, address: Address, committed: Committed, event: Event) -> int:
        """The status of the answer, of which nothing else is read."""
        body = message(committed, event)
        headers = signed_headers(
            webhook_secret(self._key, committed.transform.tenant), message_id(committed.transform.id, event), self._clock(), body
        )
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, limits=limits) as client:
            answer = await client.send(aimed(client, "POST", where, address, content=body, headers=headers), stream=True)
            await answer.aclose()
            return answer.status_code


def _event(committed: Committed, sequence: int) -> Event | None:
    return next((event for event in committed.events if event.sequence == sequence), None)


def _pause(attempt: int) -> float | None:
    """How long to wait after this attempt (from 1); None after the last."""
    if attempt > len(RETRY_IN_S):
        return None
    return RETRY_IN_S[attempt - 1] * random.uniform(0.8, 1.2)  # noqa: S311  # spreads load, hides nothing


# --- the message -----------------------------------------------------------------------------------


def message(committed: Committed, event: Event) -> bytes:
    """The body: what happened, when, and the transform as it was then."""
    return encode({"type": f"transform.{event.state}", "timestamp": rfc3339(event.at), "data": transform_document(committed, event)})


def message_id(transform: UUID, event: Event) -> str:
    """The same for the same event, however often it is sent."""
    return f"msg_{transform.hex}_{event.sequence}"


def signed_headers(secret: bytes, id: str, now: datetime, body: bytes) -> Mapping[str, str]:
    """The headers of Standard Webhooks; the signature is `v1,` and the base64 of HMAC-SHA256 over `<id>.<seconds>.<body>`."""
    seconds = int(now.timestamp())
    signature = hmac.digest(secret, f"{id}.{seconds}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "user-agent": "facegate-webhooks",
        "webhook-id": id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def webhook_secret(key: ServiceKey, tenant: UUID) -> bytes:
    """What a tenant's callbacks are signed with; follows from the service key and is stored nowhere."""
    return key.derive(f"webhook secret of {tenant}")


def secret_text(secret: bytes) -> str:
    """A secret as receivers' libraries take it."""
    return _PREFIX + base64.b64encode(secret).decode()
