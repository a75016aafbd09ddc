"""AWS Signature Version 4, the header form, as a service must check it.

After the public description "Create a signed AWS API request" (IAM user guide). Pure: the parts of
a request, a secret and the time go in; None or what is wrong comes out. Only whole bodies whose hash
is signed are accepted: pre-signed URLs, chunked signing, unsigned payloads, temporary credentials
and SigV4A are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final
from urllib.parse import quote, unquote_to_bytes

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MAX_SKEW: Final = timedelta(minutes=5)
_MAX_AUTHORIZATION: Final = 4096
_AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} +Credential=(?P<id>[0-9A-Za-z]{{16,128}})/(?P<date>[0-9]{{8}})/(?P<region>[0-9a-z-]{{1,32}})"
    r"/(?P<service>[0-9a-z-]{1,32})/aws4_request *, *SignedHeaders=(?P<signed>[!#$%&'*+.^_`|~0-9a-z;-]+)"
    r" *, *Signature=(?P<signature>[0-9a-f]{64})"
)
_AMZ_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_AMZ_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_PRESIGNED: Final = frozenset({"x-amz-algorithm", "x-amz-credential", "x-amz-signature", "x-amz-security-token"})
_ONCE: Final = frozenset({"authorization", "host", "x-amz-date", "date", "x-amz-content-sha256", "content-type", "x-amz-target"})
_NO_SECRET: Final = "an unknown key costs the same work as a known one"  # noqa: S105 - it opens nothing


class SigV4Fault(StrEnum):
    """Why a request is not authentic. For logs and metrics; callers of all kinds get one and the same answer."""

    MISSING = "missing"
    """No SigV4 header at all."""
    MALFORMED = "malformed"
    PRESIGNED = "presigned"
    STREAMING = "streaming"
    """The payload is chunk-signed or not signed."""
    TEMPORARY_CREDENTIALS = "temporary_credentials"
    WRONG_SERVICE = "wrong_service"
    WRONG_REGION = "wrong_region"
    UNSIGNED_HEADER = "unsigned_header"
    """A header that must be signed is not, or a signed one is absent."""
    SKEWED = "skewed"
    """The time is more than five minutes off, or not that of the credential's scope."""
    WRONG_BODY = "wrong_body"
    """`x-amz-content-sha256` is not the hash of the body that came."""
    WRONG_SIGNATURE = "wrong_signature"
    """Also the answer for a key that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """A request as it arrived.

    `path` is percent-encoded as on the wire, `query` is without the question mark, `headers` are in
    order and may repeat, values as latin-1 text. The body's hash is taken here, of `body`.
    """

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What the Authorization header claims."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        """`date/region/service/aws4_request`."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def read_credential(request: ReceivedRequest) -> Credential | SigV4Fault:
    """The claim, so that its key can be looked up; nothing is checked against a secret yet."""
    if any(_lower_name(pair) in _PRESIGNED for pair in request.query.split("&")):
        return SigV4Fault.PRESIGNED
    given = request.values("authorization")
    if not given or not given[0].startswith("AWS4-"):
        return SigV4Fault.MISSING
    match = _AUTHORIZATION.fullmatch(given[0].strip()) if len(given[0]) <= _MAX_AUTHORIZATION else None
    if match is None or any(len(request.values(name)) > 1 for name in _ONCE):
        return SigV4Fault.MALFORMED
    signed = tuple(match["signed"].split(";"))
    if "" in signed or list(signed) != sorted(set(signed)):
        return SigV4Fault.MALFORMED
    return Credential(
        access_key_id=match["id"],
        date=match["date"],
        region=match["region"],
        service=match["service"],
        signed=signed,
        signature=match["signature"],
    )


def verify(
    request: ReceivedRequest,
    credential: Credential,
    secret: str | None,
    *,
    now: datetime,
    service: str = "rekognition",
    regions: Collection[str] | None = None,
) -> SigV4Fault | None:
    """None if `request` was signed with `secret` within five minutes of `now` (aware), otherwise what is wrong.

    `secret` is None for an unknown key: the same work is done and WRONG_SIGNATURE returned.
    `regions` None accepts any region.
    """
    moment = _signed_time(request)
    fault = _check_claim(request, credential, service, regions) or _check_time(moment, credential, now)
    if fault is not None or moment is None:
        return fault
    body_hash = hashlib.sha256(request.body).hexdigest()
    if any(not _equal(value, body_hash) for value in request.values("x-amz-content-sha256")):
        return SigV4Fault.WRONG_BODY
    text = canonical_request(request, credential.signed, body_hash)
    if text is None:
        return SigV4Fault.MALFORMED
    string_to_sign = f"{ALGORITHM}\n{moment.strftime(_AMZ_DATE_FORMAT)}\n{credential.scope}\n{hashlib.sha256(text).hexdigest()}"
    key = signing_key(_NO_SECRET if secret is None else secret, credential)
    expected = hmac.new(key, string_to_sign.encode(), hashlib.sha256).hexdigest()
    if not _equal(expected, credential.signature) or secret is None:
        return SigV4Fault.WRONG_SIGNATURE
    return None


def canonical_request(request: ReceivedRequest, signed: Sequence[str], body_hash: str) -> bytes | None:
    """The canonical request, as raw bytes of what came; None if a header or the method cannot have come by HTTP."""
    lines = [request.method.upper(), _canonical_path(request.path), _canonical_query(request.query)]
    lines += [f"{name}:{','.join(' '.join(value.split()) for value in request.values(name))}" for name in signed]
    lines += ["", ";".join(signed), body_hash]
    try:
        return "\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        return None


def signing_key(secret: str, credential: Credential) -> bytes:
    """The key of one day, region and service, 32 bytes."""
    key = f"AWS4{secret}".encode()
    for part in (credential.date, credential.region, credential.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _check_claim(request: ReceivedRequest, credential: Credential, service: str, regions: Collection[str] | None) -> SigV4Fault | None:
    payload = request.values("x-amz-content-sha256")
    if any(value.startswith("STREAMING-") or value == "UNSIGNED-PAYLOAD" for value in payload):
        return SigV4Fault.STREAMING
    if request.values("x-amz-security-token"):
        return SigV4Fault.TEMPORARY_CREDENTIALS
    if credential.service != service:
        return SigV4Fault.WRONG_SERVICE
    if regions is not None and credential.region not in regions:
        return SigV4Fault.WRONG_REGION
    present = {name.lower() for name, _ in request.headers}
    must = {"host"} | {name for name in present if name.startswith("x-amz-") or name == "content-type"}
    if "x-amz-date" not in present:
        must.add("date")
    return None if must <= set(credential.signed) <= present else SigV4Fault.UNSIGNED_HEADER


def _check_time(moment: datetime | None, credential: Credential, now: datetime) -> SigV4Fault | None:
    if moment is None:
        return SigV4Fault.MALFORMED
    same_day = moment.strftime("%Y%m%d") == credential.date
    return None if same_day and abs(now - moment) <= MAX_SKEW else SigV4Fault.SKEWED


def _signed_time(request: ReceivedRequest) -> datetime | None:
    """`x-amz-date`, or `date` where a client leaves that out; aware UTC."""
    try:
        if stamps := request.values("x-amz-date"):
            stamp = stamps[0].strip()
            return datetime.strptime(stamp, _AMZ_DATE_FORMAT).replace(tzinfo=UTC) if _AMZ_DATE.fullmatch(stamp) else None
        moment = parsedate_to_datetime(request.values("date")[0])
        # RFC 5322's zone "-0000", which botocore writes, parses as naive and is UTC.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, IndexError, OverflowError):
        return None


def _canonical_path(path: str) -> str:
    """Without dot segments and doubled slashes, then encoded once more than on the wire (every service but S3)."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    slash = "/" if segments and path.endswith("/") else ""
    return quote("/" + "/".join(segments) + slash, safe="/~")


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    encoded = sorted((_encoded(name), _encoded(value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="-_.~")


def _lower_name(pair: str) -> str:
    return unquote_to_bytes(pair.partition("=")[0]).decode("latin-1").lower()


def _equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
