"""The launcher that Ray Serve starts in place of HAProxy: it hardens the generated configuration, then becomes HAProxy.

Ray writes a configuration and runs `RAY_SERVE_HAPROXY_BINARY_PATH -f <file> …`, at start and at every reload. As shipped
it binds statistics and metrics to all interfaces, makes the admin socket world-writable, leaves header time-outs
unset and answers a lost replica with a plain 500. This file rewrites what was generated and executes the real
binary with the same arguments and process id. It fails closed: where a pattern is missing from the configuration
HAProxy is not started, and a test pins the template of the Ray version we depend on.

Standard library only, and run by path: it is started on every reload and must not wait for imports.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "# hardened by facegate"
STRIPPED: Final = ("x-request-timeout-seconds", "x-request-disconnect-disabled", "serve_multiplexed_model_id", "serve-multiplexed-model-id")
"""Request headers by which a client could steer Ray Serve: switch off time-outs, ask for a replica's model."""


class TemplateUnknown(Exception):
    """The configuration is not the one this launcher knows; HAProxy must not run with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardening:
    """What is put into the configuration. Times in seconds, sizes in bytes."""

    header_timeout_s: int = 10
    max_body_bytes: int = 210_000_000
    retry_after_s: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    """Exactly `times` occurrences of `pattern` become `replacement`; None: as many as there are backends."""

    what: str
    pattern: str
    replacement: str
    times: int | None = 1


def harden(config: str, hardening: Hardening, *, errors: str) -> str:
    """The configuration with our rules; `errors` is the folder of the files that `error_files` describes.

    A configuration that already carries our mark is returned as it is. Raises TemplateUnknown.
    """
    if config.startswith(MARK):
        return config
    for edit in _edits(hardening, errors):
        config, count = re.subn(edit.pattern, edit.replacement, config, flags=re.MULTILINE)
        if edit.times is not None and count != edit.times:
            raise TemplateUnknown(f"{edit.what}: found {count} times instead of {edit.times}")
    exposed = re.search(r"^\s*bind\s+(?!127\.0\.0\.1:)(?:\S*):(?:\d+)\s*$", _without_front_door(config), flags=re.MULTILINE)
    if exposed:
        raise TemplateUnknown(f"an unknown listener: {exposed.group().strip()}")
    return f"{MARK}\n{config}"


def error_files(hardening: Hardening) -> dict[str, str]:
    """Whole HTTP answers by file name, for what HAProxy refuses before there is a request that could have an id."""
    return {
        "400.http": _raw(400, "Bad Request", *_NOT_HTTP),
        "408.http": _raw(408, "Request Timeout", *_TOO_SLOW),
        "500.http": _raw(500, "Internal Server Error", *_FAILED),
        "503.http": _raw(503, "Service Unavailable", *_LOST, retry_after_s=hardening.retry_after_s),
    }


_LOST: Final = ("service_unavailable", "The service cannot answer at present; try again.")
_STARTING: Final = ("starting", "The service is starting; try again.")
_FAILED: Final = ("internal_error", "The request could not be handled.")
_NO_METHOD: Final = ("method_not_allowed", "This method does not exist here.")
_TOO_LARGE: Final = ("payload_too_large", "The body is too large.")
_NOT_HTTP: Final = ("bad_request", "The request is not valid HTTP.")
_OF_THE_CALLER: Final = frozenset({"method_not_allowed", "bad_request", "payload_too_large", "request_timeout"})
_TOO_SLOW: Final = ("request_timeout", "The request took too long.")


def _edits(hardening: Hardening, errors: str) -> tuple[_Edit, ...]:
    defaults, front_door = _literal(_defaults(hardening, errors)), _literal(_front_door(hardening))
    starting = _literal(f"http-request return status 503 {_body(*_STARTING)} hdr retry-after {hardening.retry_after_s}")
    return (
        _Edit(what="admin socket", pattern=r"^(    stats socket \S+ mode )666( level admin)", replacement=r"\g<1>600\2"),
        _Edit(what="system log", pattern=r"^    log \S+ local0 info$", replacement="    # no system log: a line a request, to nobody"),
        _Edit(what="error files", pattern=r"^    errorfile 50[234] \S+\n", replacement="", times=3),
        _Edit(what="defaults", pattern=r"^(    balance \S+)$", replacement=rf"{defaults}\n\1"),
        _Edit(what="metrics listener", pattern=r"^(frontend prometheus\n    bind )(:\d+)$", replacement=r"\g<1>127.0.0.1\2"),
        _Edit(what="statistics listener", pattern=r"^(listen stats\n  bind )\*(:\d+)$", replacement=r"\g<1>127.0.0.1\2"),
        # HAProxy passes the end of a reused connection on as silence, for the client to try again; we owe it a 503.
        _Edit(what="reuse", pattern=r"^    http-reuse always$", replacement="    option http-server-close", times=None),
        _Edit(what="front door", pattern=r"^(frontend http_frontend\n    bind \S+)$", replacement=rf"\1\n{front_door}"),
        _Edit(
            what="no application yet",
            pattern=r"^(backend default_backend\n)    http-request return status 404 .*$",
            replacement=rf"\1    {starting}",
        ),
    )


def _defaults(hardening: Hardening, errors: str) -> str:
    return _lines(
        f"timeout http-request {hardening.header_timeout_s}s",
        *(f"errorfile {status} {errors}/{status}.http" for status in (400, 408, 500)),
        *(f"errorfile {status} {errors}/503.http" for status in (502, 503, 504)),
    )


def _front_door(hardening: Hardening) -> str:
    too_large = f"{{ req.hdr_val(content-length) gt {hardening.max_body_bytes} }}"
    plain = "{ res.hdr(content-type) -m beg text/plain }"
    return _lines(
        "unique-id-format req_%[uuid(),regsub(-,,g)]",
        # It names no path, so that no route would match and the service would seem to be starting.
        f"http-request return status 405 {_body(*_NO_METHOD)} hdr allow 'GET, HEAD, POST' if METH_CONNECT",
        f"http-request return status 413 {_body(*_TOO_LARGE)} hdr connection close if {too_large}",
        *(f"http-request del-header {name}" for name in STRIPPED),
        # A screening outlives its client anyway, and Ray answers faster where it need not watch for a disconnect.
        "http-request set-header x-request-disconnect-disabled ?1",
        "http-request set-header x-request-id %[unique-id]",
        # Plain text among the errors is Ray's or the server's: ours are JSON.
        f"http-response return status 503 {_body(*_LOST)} hdr retry-after {hardening.retry_after_s} if {{ status 502:504 }} {plain}",
        f"http-response return status 500 {_body(*_FAILED)} if {{ status 500 }} {plain}",
        f"http-response return status 408 {_body(*_TOO_SLOW)} if {{ status 408 }} {plain}",
        f"http-response return status 400 {_body(*_NOT_HTTP)} if {{ status 400 }} {plain}",
        "http-response del-header server",
        # Ray adds an id of its own to the one of the application.
        "http-after-response set-header x-request-id %[res.fhdr(x-request-id,1)] if { res.fhdr_cnt(x-request-id) gt 1 }",
        "http-after-response set-header x-request-id %[unique-id] if !{ res.hdr(x-request-id) -m found }",
    )


def _lines(*lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _literal(text: str) -> str:
    """`text` for the replacement side of a substitution."""
    return text.replace("\\", "\\\\")


def _without_front_door(config: str) -> str:
    return re.sub(r"^frontend http_frontend\n    bind \S+$", "", config, flags=re.MULTILINE)


def _error(code: str, message: str, request_id: str | None) -> str:
    kind = "invalid_request_error" if code in _OF_THE_CALLER else "service_error"
    error = {"code": code, "message": message, "type": kind, "param": None, "decision_id": None, "request_id": request_id}
    return json.dumps({"error": error}, separators=(",", ":"))


def _body(code: str, message: str) -> str:
    """The arguments of an HAProxy `return` rule that answers with our error shape."""
    return f"content-type application/json lf-string '{_error(code, message, '%[unique-id]')}'"


def _raw(status: int, phrase: str, code: str, message: str, retry_after_s: int | None = None) -> str:
    body = _error(code, message, None)
    headers = [
        f"HTTP/1.1 {status} {phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "connection: close",
        *([f"retry-after: {retry_after_s}"] if retry_after_s is not None else []),
    ]
    return "\r\n".join([*headers, "", body])


# --- as a program -----------------------------------------------------------------------------------


def write_launcher(path: Path, binary: str, hardening: Hardening) -> None:
    """Write the executable that `RAY_SERVE_HAPROXY_BINARY_PATH` names.

    A file of its own, since Ray passes no options and reads no settings of ours.
    """
    words = [sys.executable, "-I", "-S", str(Path(__file__).absolute()), "--binary", binary]
    words += ["--header-timeout", str(hardening.header_timeout_s), "--max-body", str(hardening.max_body_bytes)]
    words += ["--retry-after", str(hardening.retry_after_s)]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} -- "$@"\n', encoding="utf-8")
    path.chmod(0o700)


def main(arguments: list[str]) -> None:
    """Harden the file after `-f` in place, then become HAProxy. Exits with one line where that cannot be done."""
    parser = argparse.ArgumentParser(prog="haproxy-launcher")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--header-timeout", type=int, required=True)
    parser.add_argument("--max-body", type=int, required=True)
    parser.add_argument("--retry-after", type=int, required=True)
    parser.add_argument("haproxy", nargs=argparse.REMAINDER)
    own = parser.parse_args(arguments)
    rest = own.haproxy[1:] if own.haproxy[:1] == ["--"] else own.haproxy
    hardening = Hardening(header_timeout_s=own.header_timeout, max_body_bytes=own.max_body, retry_after_s=own.retry_after)
    try:
        for index, word in enumerate(rest):
            if word == "-f":
                _harden_file(Path(rest[index + 1]), hardening)
    except (TemplateUnknown, OSError, IndexError) as error:
        sys.exit(f"haproxy-launcher: not started: {error}")
    os.execv(own.binary, [own.binary, *rest])  # noqa: S606  # the point of this program


def _harden_file(path: Path, hardening: Hardening) -> None:
    errors = path.parent / "errors"
    errors.mkdir(exist_ok=True)
    for name, text in error_files(hardening).items():
        (errors / name).write_text(text, encoding="utf-8", newline="")
    hardened = harden(path.read_text(encoding="utf-8"), hardening, errors=str(errors))
    new = path.with_name(f"{path.name}.new")
    new.write_text(hardened, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
