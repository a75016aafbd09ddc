"""What a request brings: the bytes and the options, from a multipart form or a raw body.

A form is parsed in memory while it comes, within the bounds of its body: nothing of an upload ever touches a disk, and
names that a client gives to its files are not looked at. A file that turns out to be no video is bounded as a picture is.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from deployments.http.errors import Code, refused
from deployments.http.front import body_of
from moderation.adapters.decode.sniff import sniff

MAX_PARTS: Final = 8
MAX_OPTION: Final = 1024
MAX_REFERENCE: Final = 256
MAX_POLICY: Final = 64
SNIFFED: Final = 1024
"""Bytes of a file that say what it is."""
_HEADER_BYTES: Final = 16 * 1024
_OPTIONS: Final = frozenset({"policy", "reference", "strict"})
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One media as it came. `declared_type` is the media type the client claims, or None."""

    data: bytes
    declared_type: str | None
    policy: str | None = None
    reference: str | None = None
    strict: bool = False


@dataclass(slots=True, kw_only=True)
class _Part:
    """One part of a form."""

    headers: dict[str, str] = field(default_factory=dict)
    gathered: io.BytesIO = field(default_factory=io.BytesIO)

    def data(self) -> bytes:
        """What it holds: the buffer itself, not a copy."""
        return self.gathered.getvalue()

    def is_video(self) -> bool:
        form = sniff(bytes(self.gathered.getbuffer()[:SNIFFED]))
        return form is not None and form.is_video


async def read_body(request: Request) -> bytes:
    """The whole body. Raises what `limits.Body` raises, ClientDisconnect."""
    whole = io.BytesIO()
    async for piece in request.stream():
        whole.write(piece)
    return whole.getvalue()


async def read_upload(request: Request, query: Mapping[str, str]) -> Upload:
    """The upload of a native request; options may stand in the form or, for raw bytes too, in the query.

    Raises ApiError: `unsupported_media_type` on bodies that are neither, `bad_request` on a malformed form,
    `invalid_parameter` on options with impossible values.
    """
    content_type = request.headers.get("content-type", "")
    kind, parameters = parse_options_header(content_type)
    media_type = kind.decode("latin-1").strip().lower()
    if media_type == "multipart/form-data":
        data, declared, form = _form(await _parts(request, parameters.get(b"boundary", b"")))
        twice = form.keys() & query.keys()
        if twice:
            raise refused(Code.BAD_REQUEST, param=min(twice), message="This option is given twice.")
        return _upload(data, declared, {**query, **form})
    if not media_type.startswith(("image/", "video/")):
        raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
    return _upload(await read_body(request), media_type, query)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a form. `declared_type` is the media type the client claims, or None."""

    data: bytes
    declared_type: str | None


async def read_files(request: Request, names: Collection[str]) -> dict[str, File]:
    """The files of a form that has none but these, each at most once, by name.

    Raises ApiError: `unsupported_media_type` on a body that is no form, `bad_request` on a malformed one.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind.decode("latin-1").strip().lower() != "multipart/form-data":
        raise refused(Code.UNSUPPORTED_MEDIA_TYPE)
    parts = await _parts(request, parameters.get(b"boundary", b""))
    says = f"The form has {', '.join(sorted(names))}, each at most once, and nothing else."
    files, _ = _sorted(parts, files=names, texts=(), says=says)
    return {name: File(data=part.data(), declared_type=_declared(part)) for name, part in files.items()}


def _upload(data: bytes, declared: str | None, options: Mapping[str, str]) -> Upload:
    strict = _BOOLEANS.get(options.get("strict", "false").lower())
    if strict is None:
        raise refused(Code.INVALID_PARAMETER, param="strict", message="strict is true or false.")
    return Upload(
        data=data,
        declared_type=declared if declared != "application/octet-stream" else None,
        policy=_text(options, "policy", MAX_POLICY),
        reference=_text(options, "reference", MAX_REFERENCE),
        strict=strict,
    )


def _text(options: Mapping[str, str], name: str, longest: int) -> str | None:
    """An option's text; an empty one is none."""
    text = options.get(name) or None
    if text is not None and (len(text) > longest or not text.isprintable()):
        raise refused(Code.INVALID_PARAMETER, param=name, message=f"{name} is at most {longest} printable characters.")
    return text


def _form(parts: Iterable[_Part]) -> tuple[bytes, str | None, dict[str, str]]:
    """(media, its declared type, options). Exactly one file, named `media`; every option at most once."""
    says = "Send one file named media, and policy, reference and strict at most once."
    files, options = _sorted(parts, files=("media",), texts=_OPTIONS, says=says)
    if "media" not in files:
        raise _malformed("The form has no file named media.")
    return files["media"].data(), _declared(files["media"]), options


def _sorted(
    parts: Iterable[_Part], *, files: Collection[str], texts: Collection[str], says: str
) -> tuple[dict[str, _Part], dict[str, str]]:
    """Files and texts by name, each at most once; whatever else there is, is refused with `says`."""
    found: dict[str, _Part] = {}
    options: dict[str, str] = {}
    for part in parts:
        _, disposition = parse_options_header(part.headers.get("content-disposition", ""))
        name = disposition.get(b"name", b"").decode("latin-1")
        if name in files and name not in found:
            found[name] = part
        elif name in texts and name not in options and b"filename" not in disposition:
            options[name] = _option(name, part)
        else:
            raise _malformed(says)
    return found, options


def _declared(part: _Part) -> str | None:
    declared = parse_options_header(part.headers.get("content-type", ""))[0].decode("latin-1").strip().lower()
    return declared or None


def _option(name: str, part: _Part) -> str:
    data = part.data()
    try:
        if len(data) <= MAX_OPTION:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise refused(Code.INVALID_PARAMETER, param=name)


async def _parts(request: Request, boundary: bytes) -> list[_Part]:
    reader = _Reader(body_of(request).picture_bytes)
    if not boundary:
        raise _malformed("The form has no boundary.")
    try:
        parser = MultipartParser(boundary, reader.callbacks(), max_header_size=_HEADER_BYTES)  # type: ignore[arg-type]  # a plain dict of callbacks
        async for piece in request.stream():
            parser.write(piece)
        parser.finalize()
    except FormParserError:
        raise _malformed("The form is malformed.") from None
    if not reader.is_complete:
        raise _malformed("The form is cut off.")
    return reader.parts


class _Reader:
    """Gathers what the parser finds. A part that is no video has at most `picture_bytes`."""

    def __init__(self, picture_bytes: int) -> None:
        self._picture_bytes = picture_bytes
        self.parts: list[_Part] = []
        self.is_complete = False
        self._name = b""
        self._value = b""

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise _malformed("The form has too many parts.")
        self.parts.append(_Part())

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.gathered.write(memoryview(data)[start:end])
        if part.gathered.tell() > self._picture_bytes and not part.is_video():
            raise refused(Code.PAYLOAD_TOO_LARGE)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name = self._name.decode("latin-1").strip().lower()
        if name in self.parts[-1].headers:
            raise _malformed("A part of the form has a header twice.")
        self.parts[-1].headers[name] = self._value.decode("latin-1")
        self._name = self._value = b""

    def _end(self) -> None:
        self.is_complete = True


def _malformed(message: str) -> Exception:
    return refused(Code.BAD_REQUEST, message=message)
