"""A server that speaks S3, on loopback, once per session, and buckets on it. The environment says where it is, as on a machine of an operator's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import boto3
import pytest


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """An empty bucket, with a client of it that shares no code with ours."""

    client: Any
    name: str

    @property
    def url(self) -> str:
        """Of a store within it."""
        return f"s3://{self.name}/kept"

    def keys(self) -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]


@pytest.fixture(scope="session")
def s3_client() -> Iterator[Any]:
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  # takes seconds, which few tests need

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    try:
        yield client
    finally:
        client.close()
        server.stop()
        assert server._server is not None
        server._server.server_close()


@pytest.fixture
def s3_bucket(s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    stated = {"ENDPOINT_URL": s3_client.meta.endpoint_url, "ALLOW_HTTP": "true", "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    for name, value in stated.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = Bucket(client=s3_client, name=f"media-{uuid4().hex}")
    s3_client.create_bucket(Bucket=bucket.name)
    return bucket
