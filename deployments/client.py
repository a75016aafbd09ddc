"""A small client of the service, for the command line.

Speaks only the public HTTP contract, so that everything the command line can do, a caller can do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

RETRIES: Final = 4
POLL_S: Final = 0.2
STREAM_S: Final = 300.0
"""How long a piece of a stream may take: a report counts before it tells."""
OCTETS: Final = "application/octet-stream"
ENDS: Final = frozenset({"released", "denied", "held", "failed", "cancelled"})
"""States of a transform in which nothing more happens by itself."""


class ServiceFault(Exception):
    """The service cannot be reached or refuses the key; nothing was judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back for one media: the decision, or the error and the decision it names."""

    status: int
    body: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """`allow`, `review`, `block`, or `error` for everything that could not be judged."""
        return str(self.body.get("effective_verdict") or "error")

    @property
    def decision_id(self) -> str | None:
        """The committed decision, if one was named."""
        error = self.body.get("error")
        return error.get("decision_id") if isinstance(error, Mapping) else self.body.get("id")

    @property
    def explanation(self) -> str:
        """One line: the strongest reason, or the error code."""
        error = self.body.get("error")
        if isinstance(error, Mapping):
            return str(error.get("code"))
        for reason in self.body.get("reasons", ()):
            what = reason.get("category") or reason.get("detail") or reason["code"]
            return f"{what} {reason['score']} >= {reason['threshold']}" if reason.get("score") else f"{reason['code']}: {what}"
        return ""


class Client:
    """Use as a context manager. Raises ServiceFault when the service cannot be asked at all."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0) -> None:
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def screen(self, data: bytes, *, media_type: str = OCTETS, policy: str | None = None, reference: str | None = None) -> Answer:
        """Screen bytes and wait for the decision, however long it takes."""
        form = {name: value for name, value in (("policy", policy), ("reference", reference)) if value}
        answer = self._send("POST", "/v1/screenings", files={"media": ("media", data, media_type)}, data=form)
        while answer.status == httpx.codes.ACCEPTED or answer.body.get("status") in ("queued", "running"):
            time.sleep(0.5)
            answer = self._send("GET", f"/v1/screenings/{answer.body['id']}")
        return answer

    def transform(self, source: bytes, target: bytes, options: Mapping[str, object]) -> Answer:
        """Ask for a gated face swap; the transform as accepted, or the error."""
        files = {"source": ("source", source, OCTETS), "target": ("target", target, OCTETS)}
        return self._send("POST", "/v1/transforms", files=files, data={"options": json.dumps(options)})

    def follow(self, transform: Answer) -> Iterator[Answer]:
        """The transform again and again, until it has ended or waits for a person."""
        while True:
            yield transform
            if transform.body.get("state") in ENDS or transform.status >= httpx.codes.BAD_REQUEST:
                return
            time.sleep(POLL_S)
            transform = self._send("GET", f"/v1/transforms/{transform.body['id']}")

    def download(self, path: str) -> bytes:
        """Released bytes. Raises ServiceFault where there are none."""
        try:
            response = self._http.get(path)
        except httpx.TransportError as fault:
            raise ServiceFault(f"no service at {self._http.base_url}") from fault
        if response.status_code != httpx.codes.OK:
            raise ServiceFault(f"nothing is served there (HTTP {response.status_code})")
        return response.content

    def stream(self, path: str, *, content: str | None = None, media_type: str = OCTETS, **parameters: str) -> Iterator[bytes]:
        """The bytes of an answer as they come; with `content` it is asked with a document.

        Raises ServiceFault where there are none, before anything is done with them, or later where they break off.
        """
        pieces = self._pieces(path, content=content, media_type=media_type, **parameters)
        return chain([next(pieces, b"")], pieces)

    def _pieces(self, path: str, *, content: str | None, media_type: str, **parameters: str) -> Iterator[bytes]:
        method = "GET" if content is None else "POST"
        headers = {} if content is None else {"content-type": media_type}
        body = None if content is None else content.encode()
        try:
            with self._http.stream(method, path, params=parameters, content=body, headers=headers, timeout=STREAM_S) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    error = response.json().get("error", {})
                    raise ServiceFault(f"{error.get('code', response.status_code)}: {error.get('message', 'refused')}")
                yield from response.iter_raw()
        except (httpx.TransportError, ValueError) as fault:
            raise ServiceFault(f"{self._http.base_url} broke off, or there is no service") from fault

    def get(self, path: str, **parameters: str) -> Answer:
        """Read one resource or list."""
        return self._send("GET", path, params=parameters)

    def post(self, path: str, *, content: str, media_type: str) -> Answer:
        """Send one document."""
        return self._send("POST", path, content=content.encode(), headers={"content-type": media_type})

    def _send(self, method: str, path: str, **request: Any) -> Answer:
        for attempt in range(RETRIES + 1):
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as fault:
                raise ServiceFault(f"no service at {self._http.base_url}: start it with `facegate serve`") from fault
            if response.status_code not in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE) or attempt == RETRIES:
                break
            time.sleep(min(5.0, float(response.headers.get("retry-after", "1"))))
        try:
            body = response.json()
        except ValueError as fault:
            raise ServiceFault(f"{self._http.base_url} does not answer like facegate (HTTP {response.status_code})") from fault
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise ServiceFault(f"the key is refused: {body.get('error', {}).get('message', response.status_code)}")
        return Answer(status=response.status_code, body=body)


def read_key(path: Path) -> str:
    """The key that `facegate serve` left in the data directory. Raises ServiceFault with what to do instead."""
    try:
        return path.read_text().strip()
    except OSError as fault:
        raise ServiceFault(f"no key: give --key, or let `facegate serve` make one ({path} cannot be read)") from fault
