"""Our verifier against botocore's own signer, and against every change on the way."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from moderation.adapters import sigv4
from moderation.adapters.sigv4 import Credential, ReceivedRequest, SigV4Fault, read_credential, verify

KEY_ID = "01k2abcdefghjkmnpqrs"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
BODY = json.dumps({"Image": {"Bytes": "aGVsbG8="}}).encode()
TARGET = "RekognitionService.DetectModerationLabels"
HEADERS = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET}


def signed(url="http://127.0.0.1:8000/", *, method="POST", body=BODY, headers=None, service="rekognition", region="eu-west-1", token=None):
    request = AWSRequest(method=method, url=url, data=body, headers=dict(HEADERS if headers is None else headers))
    SigV4Auth(Credentials(KEY_ID, SECRET, token), service, region).add_auth(request)
    return received(request, body)


def received(request, body):
    parts = urlsplit(request.url)
    pairs = [(name.lower(), value if isinstance(value, str) else value.decode()) for name, value in request.headers.items()]
    return ReceivedRequest(
        method=request.method,
        path=parts.path,
        query=parts.query,
        headers=[("host", parts.netloc), *pairs],
        body=body,
    )


def check(request, *, secret=SECRET, now=None, regions=None):
    credential = read_credential(request)
    if isinstance(credential, SigV4Fault):
        return credential
    return verify(request, credential, secret, now=now or datetime.now(UTC), regions=regions)


def with_header(request, name, value):
    """`request` with one header changed, added, or (value None) removed."""
    kept = [(key, old) for key, old in request.headers if key != name]
    return replace(request, headers=kept if value is None else [*kept, (name, value)])


def header(request, name):
    return request.values(name)[0]


def test_a_request_signed_by_botocore_is_authentic():
    assert check(signed()) is None


def test_the_claim_is_read_before_any_secret_is_known():
    credential = read_credential(signed(region="ap-southeast-2"))
    assert isinstance(credential, Credential)
    assert (credential.access_key_id, credential.region, credential.service) == (KEY_ID, "ap-southeast-2", "rekognition")
    assert credential.signed == ("content-type", "host", "x-amz-date", "x-amz-target")


def test_a_client_that_signs_the_date_header_is_authentic():
    assert check(signed(headers={**HEADERS, "Date": "Thu, 01 Jan 1970 00:00:00 GMT"})) is None


def test_a_client_that_sends_the_hash_of_its_body_is_authentic():
    assert check(signed(headers={**HEADERS, "X-Amz-Content-SHA256": hashlib.sha256(BODY).hexdigest()})) is None


def test_the_region_may_be_limited_to_a_list():
    assert check(signed(region="us-east-1"), regions={"us-east-1"}) is None
    assert check(signed(region="us-east-1"), regions={"eu-west-1"}) is SigV4Fault.WRONG_REGION


segment = st.text(st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cs"]), max_size=8)


@given(
    path=st.lists(segment | st.sampled_from([".", "..", "", "a b", "%2e%2e"]), max_size=5),
    query=st.lists(st.tuples(segment, segment), max_size=4),
    body=st.binary(max_size=64),
    agent=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
)
def test_any_path_query_body_and_spacing_that_botocore_signs_is_authentic(path, query, body, agent):
    pairs = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query)
    url = "http://front.example:8000/" + "/".join(quote(part, safe="-_.~") for part in path) + (f"?{pairs}" if pairs else "")
    assert check(signed(url, body=body, headers={**HEADERS, "X-Amz-Meta": f"  {agent}  b"})) is None


MUTATIONS = {
    "another secret": lambda r: r,
    "method": lambda r: replace(r, method="PUT"),
    "path": lambda r: replace(r, path="/other"),
    "query": lambda r: replace(r, query="a=1"),
    "a byte of the body": lambda r: replace(r, body=r.body[:-1] + b"\x00"),
    "the body is longer": lambda r: replace(r, body=r.body + b" "),
    "an empty body": lambda r: replace(r, body=b""),
    "host": lambda r: with_header(r, "host", "127.0.0.1:8001"),
    "content type": lambda r: with_header(r, "content-type", "application/json"),
    "target": lambda r: with_header(r, "x-amz-target", "RekognitionService.StartContentModeration"),
    "date a second on": lambda r: with_header(
        r,
        "x-amz-date",
        (datetime.strptime(header(r, "x-amz-date") + "+0000", "%Y%m%dT%H%M%SZ%z") + timedelta(seconds=1)).strftime("%Y%m%dT%H%M%SZ"),
    ),
    "region in the scope": lambda r: with_header(r, "authorization", header(r, "authorization").replace("eu-west-1", "eu-west-2")),
    "last digit of the signature": lambda r: with_header(
        r, "authorization", header(r, "authorization")[:-1] + ("0" if header(r, "authorization")[-1] != "0" else "1")
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_change_of_any_signed_part_gives_a_wrong_signature(name):
    secret = SECRET[:-1] if name == "another secret" else SECRET
    assert check(MUTATIONS[name](signed()), secret=secret) is SigV4Fault.WRONG_SIGNATURE


def test_a_changed_query_parameter_gives_a_wrong_signature():
    request = signed("http://h:1/?a=1&b=2")
    assert check(request) is None
    assert check(replace(request, query="a=2&b=1")) is SigV4Fault.WRONG_SIGNATURE


def test_an_unknown_key_is_answered_as_a_wrong_signature_even_if_signed_with_the_stand_in():
    assert check(signed(), secret=None) is SigV4Fault.WRONG_SIGNATURE
    request = AWSRequest(method="POST", url="http://h:1/", data=BODY, headers=dict(HEADERS))
    SigV4Auth(Credentials(KEY_ID, sigv4._NO_SECRET), "rekognition", "eu-west-1").add_auth(request)
    assert check(received(request, BODY), secret=None) is SigV4Fault.WRONG_SIGNATURE


@pytest.mark.parametrize(("minutes", "fault"), [(4.9, None), (-4.9, None), (5.1, SigV4Fault.SKEWED), (-5.1, SigV4Fault.SKEWED)])
def test_five_minutes_of_skew_are_forgiven_and_no_more(minutes, fault):
    assert check(signed(), now=datetime.now(UTC) + timedelta(minutes=minutes)) is fault


def test_the_scope_must_be_of_the_signed_day():
    request = signed()
    today = header(request, "x-amz-date")[:8]
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y%m%d")
    moved = header(request, "authorization").replace(f"/{today}/", f"/{yesterday}/")
    assert check(with_header(request, "authorization", moved)) is SigV4Fault.SKEWED


@pytest.mark.parametrize("stamp", ["", "now", "20261301T000000Z", "2026-11-23T00:00:00Z", "20260230T101010Z", "٢٠٢٦١١٢٣T١٠١٠١٠Z"])  # noqa: RUF001
def test_a_time_that_is_none_is_malformed(stamp):
    assert check(with_header(signed(), "x-amz-date", stamp)) is SigV4Fault.MALFORMED


@pytest.mark.parametrize("stamp", ["", "yesterday", "Thu, 99 Jan 1970 00:00:00 GMT"])
def test_a_date_header_that_is_none_is_malformed(stamp):
    request = signed(headers={**HEADERS, "Date": "Thu, 01 Jan 1970 00:00:00 GMT"})
    assert check(with_header(request, "date", stamp)) is SigV4Fault.MALFORMED


@pytest.mark.parametrize("name", ["host", "content-type", "x-amz-target", "x-amz-date"])
def test_a_header_taken_out_of_the_signed_list_is_refused(name):
    request = signed()
    listed = "content-type;host;x-amz-date;x-amz-target"
    fewer = ";".join(part for part in listed.split(";") if part != name)
    changed = with_header(request, "authorization", header(request, "authorization").replace(listed, fewer))
    assert check(changed) is SigV4Fault.UNSIGNED_HEADER


def test_an_unsigned_amz_header_added_on_the_way_is_refused():
    assert check(with_header(signed(), "x-amz-meta-policy", "lenient")) is SigV4Fault.UNSIGNED_HEADER


def test_a_signed_header_that_did_not_arrive_is_refused():
    request = signed(headers={**HEADERS, "X-Custom": "1"})
    assert check(with_header(request, "x-custom", None)) is SigV4Fault.UNSIGNED_HEADER


def test_what_a_proxy_adds_unsigned_does_no_harm():
    assert check(with_header(signed(), "x-forwarded-for", "10.0.0.1")) is None


@pytest.mark.parametrize("name", ["authorization", "host", "x-amz-date", "x-amz-target", "content-type"])
def test_a_header_that_may_come_once_and_comes_twice_is_malformed(name):
    request = signed()
    assert check(replace(request, headers=[*request.headers, (name, header(request, name))])) is SigV4Fault.MALFORMED


def test_a_presigned_url_is_refused():
    request = AWSRequest(method="POST", url="http://h:1/", data=BODY, headers=dict(HEADERS))
    SigV4QueryAuth(Credentials(KEY_ID, SECRET), "rekognition", "eu-west-1").add_auth(request)
    assert check(received(request, BODY)) is SigV4Fault.PRESIGNED
    assert check(replace(signed(), query="%58-Amz-Signature=00")) is SigV4Fault.PRESIGNED


@pytest.mark.parametrize("value", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"])
def test_a_payload_that_is_not_signed_whole_is_refused(value):
    assert check(signed(headers={**HEADERS, "X-Amz-Content-SHA256": value})) is SigV4Fault.STREAMING


def test_a_declared_hash_that_is_not_the_bodys_is_refused():
    assert check(signed(headers={**HEADERS, "X-Amz-Content-SHA256": "0" * 64})) is SigV4Fault.WRONG_BODY


def test_temporary_credentials_are_refused():
    assert check(signed(token="FwoGZXIvYXdzE")) is SigV4Fault.TEMPORARY_CREDENTIALS


def test_another_services_signature_is_refused():
    assert check(signed(service="s3")) is SigV4Fault.WRONG_SERVICE


@pytest.mark.parametrize("value", [None, "", "Bearer fg_x", "Basic eDp5"])
def test_without_a_sigv4_header_it_is_missing(value):
    assert check(with_header(signed(), "authorization", value)) is SigV4Fault.MISSING


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        lambda text: text.replace("aws4_request", "aws4"),
        lambda text: text + ", Extra=1",
        lambda text: text.replace("SignedHeaders=content-type;host", "SignedHeaders=host;content-type"),
        lambda text: text.replace("host;", "host;host;"),
        lambda text: text.replace("host;", "host;;"),
        lambda text: text.replace("host;", "HOST;"),
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text[:-64] + text[-64:].upper() if text[-64:].upper() != text[-64:] else text[:-1],
        lambda text: text + " " * 5000,
        lambda text: text.replace(KEY_ID, "../../etc/passwd"),
    ],
)
def test_a_header_that_is_not_of_the_published_form_is_malformed(spoil):
    request = signed()
    spoilt = spoil(header(request, "authorization"))
    expected = None if spoilt.strip() == header(request, "authorization") and len(spoilt) < 4096 else SigV4Fault.MALFORMED
    assert check(with_header(request, "authorization", spoilt)) is expected


@given(st.text(max_size=200))
def test_no_text_in_the_header_raises(text):
    assert isinstance(check(with_header(signed(), "authorization", "AWS4-" + text)), SigV4Fault)


@given(st.text(max_size=50), st.text(max_size=50), st.text(max_size=50))
def test_no_text_in_path_query_or_header_raises(path, query, value):
    request = with_header(replace(signed(), path=path, query=query), "x-amz-target", value)
    assert check(request) is None or isinstance(check(request), SigV4Fault)


def test_what_boto3_really_sends_is_authentic():
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            path, _, query = self.path.partition("?")
            seen.append(ReceivedRequest(method=self.command, path=path, query=query, headers=self.headers.items(), body=body))
            answer = b'{"ModerationLabels": []}'
            self.send_response(200)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        client = boto3.client(
            "rekognition",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
        client.detect_moderation_labels(Image={"Bytes": b"\xff\xd8" * 1000})
        client.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [check(request) for request in seen] == [None]
