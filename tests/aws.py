"""Signing as botocore does, at a time that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from unittest import mock

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def sign(method: str, url: str, headers: Mapping[str, str], body: bytes, key_id: str, secret: str, at: datetime) -> dict[str, str]:
    """The headers that make the request authentic."""
    request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=at.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(Credentials(key_id, secret), "rekognition", "eu-west-1").add_auth(request)
    return {name: request.headers[name] for name in ("Authorization", "X-Amz-Date")}
