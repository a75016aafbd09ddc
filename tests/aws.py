"""Rekognition's clients: signing as botocore does, at a time that a test chooses; a bucket; what a refusal looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from unittest import mock

import boto3
import botocore.auth
import httpx
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from moderation.errors import MediaRefused, Refusal
from tests.builders import NOW
from tests.http_kit import KEY_ID, Service


def sign(method: str, url: str, headers: Mapping[str, str], body: bytes, key_id: str, secret: str, at: datetime) -> dict[str, str]:
    """The headers that make the request authentic."""
    request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=at.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(Credentials(key_id, secret), "rekognition", "eu-west-1").add_auth(request)
    return {name: request.headers[name] for name in ("Authorization", "X-Amz-Date")}


def client_with(url: str, key_id: str, secret: str) -> Any:
    """boto3's own client of a service, without retries."""
    return boto3.client(
        "rekognition",
        endpoint_url=url,
        region_name="eu-west-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


async def send(client: httpx.AsyncClient, service: Service, target: str, body: bytes) -> httpx.Response:
    """One signed request of the service's key."""
    service.keys.sigv4[KEY_ID] = "secret"
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
    signed = sign("POST", "http://test/", headers, body, KEY_ID, "secret", NOW)
    return await client.post("/", content=body, headers={**headers, **signed})


def refusal(answer: httpx.Response) -> str:
    """The class of a refusal, which AWS's clients read from the body and the header alike."""
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    assert list(answer.json()) == ["__type", "message"]
    assert answer.headers["x-amzn-errortype"] == answer.json()["__type"]
    kind: str = answer.json()["__type"]
    return kind


@dataclass(kw_only=True)
class DictBucket:
    """BucketReader of one bucket; remembers what was `read` and raises `fault`."""

    name: str
    objects: Mapping[str, bytes]
    read: list[str] = field(default_factory=list)
    fault: BaseException | None = None

    async def get(self, bucket: str, name: str, *, max_bytes: int, admit: Callable[[int], None]) -> bytes | None:
        if self.fault is not None:
            raise self.fault
        data = self.objects.get(name) if bucket == self.name else None
        if data is None:
            return None
        if len(data) > max_bytes:
            raise MediaRefused(Refusal.PAYLOAD_TOO_LARGE)
        admit(len(data))
        self.read.append(name)
        return data
