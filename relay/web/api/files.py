"""`POST /v1/files`: an image becomes a URL at the provider that shall read it.

The form is read as it comes and its file is kept on disk until it is sent: a provider wants to know the size first, and
a file must be whole and of the declared kind before any of it leaves. Memory holds a piece of it at a time.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Final

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.responses import Response

from relay import validation
from relay.errors import BadBody, BodyTooLarge, Bound, FieldError, InvalidInput, RelayError, StorageUnavailable
from relay.model import text
from relay.model.payment import max_cost
from relay.uploads.file_uploads import GivenFile, Upload, Uploads
from relay.web import request_body
from relay.web.api.api_request import ProviderRequest, once
from relay.web.problems import JSON

FORM_S: Final = 300.0
"""The longest that a whole form may take, at whatever pace."""
AROUND_MAX_BYTES: Final = 64 * 1024
"""What a form may hold besides its file."""
PROVIDER_MAX_BYTES: Final = 64
NAME_MAX_CHARS: Final = 255
PIECE_BYTES: Final = 256 * 1024
FIELDS: Final = ("file", "provider", "max_cost")
REQUIRED: Final = FIELDS[:2]


class UnsupportedMedia(RelayError):
    """The body is no form."""

    code = "unsupported_media_type"


async def create(call: ProviderRequest) -> Response:
    """`POST /v1/files`: `{"url","expires_at"}`; the body is read here, piece by piece.

    An Idempotency-Key stands for the provider and the file's name, type and bytes: clients write the same form with
    another boundary each time.
    """
    call.query()
    uploads, boundary = call.app.uploads, _boundary(call)
    with uploads.shares.reserve(call.project_id):
        try:
            with tempfile.TemporaryFile() as file:
                form = Form(uploads, file, boundary, call.app.settings.upload_max_bytes)
                await _read(call, form)
                form.check()
                return await once(call, form.content() + form.bound, lambda call: _sent(call, form))
        except OSError as error:
            raise StorageUnavailable(f"the file could not be kept while it is sent: {error.strerror}") from None


async def _sent(call: ProviderRequest, form: "Form") -> Response:
    """The answer, when the provider has the file.

    The same form with the same Idempotency-Key, or again without one, is one upload: what it buys is paid for once.
    """
    same = msgspec.json.encode([call.project_id, call.idempotency_key]) + form.content()
    upload = Upload(call.project_id, f"file_{hashlib.sha256(same).hexdigest()[:32]}", form.max_cost)
    uploads = call.app.uploads
    given = GivenFile(form.filename, form.content_type, form.pieces(), form.size)
    done = await uploads.upload(upload, form.provider, given)
    return JSON({"url": done.url, "expires_at": done.expires_at})


def _boundary(call: ProviderRequest) -> bytes:
    """What stands between the parts of the form; an error for what is none, or can be seen to be too large."""
    kind, options = parse_options_header(call.request.headers.get("content-type"))
    if kind.lower() != b"multipart/form-data":
        raise UnsupportedMedia("the body must be multipart/form-data with the fields file and provider")
    if not options.get(b"boundary"):
        raise BadBody("multipart/form-data needs its boundary in the content-type")
    length, most = call.request.headers.get("content-length", ""), call.app.settings.upload_max_bytes
    if length.isascii() and length.isdigit() and int(length[:20]) > most + AROUND_MAX_BYTES:
        raise BodyTooLarge(f"the file is over its limit of {most} bytes", bound=Bound.UPLOAD_MAX_BYTES)
    return options[b"boundary"]


async def _read(call: ProviderRequest, form: "Form") -> None:
    """Reads the form to its end; BodyTooSlow, BodyCut, or what the form has against it.

    It has the time of any other body, and a second more for each `upload_min_bytes_per_s` that came: who sends a few
    bytes at a time does not keep an upload open.
    """
    first_s, pace = call.app.settings.body_deadline_s, call.app.settings.upload_min_bytes_per_s
    loop = asyncio.get_running_loop()
    ends_at, latest = loop.time() + first_s, loop.time() + FORM_S
    try:
        async with asyncio.timeout_at(min(ends_at, latest)) as limit:
            while True:
                part = await call.request.receive()
                if part["type"] != "http.request":
                    raise request_body.BodyCut
                await form.take(part.get("body", b""))
                if not part.get("more_body"):
                    return
                ends_at += len(part.get("body", b"")) / pace
                limit.reschedule(min(ends_at, latest))
    except TimeoutError:
        raise request_body.BodyTooSlow(
            f"the form came at less than {pace} bytes a second, after {first_s:g} s to begin, or took {FORM_S:g} s",
            bound=Bound.UPLOAD_MIN_BYTES_PER_S,
        ) from None


class Form:
    """A form as it comes in: `provider` as text, `file` on disk, an error for everything else."""

    def __init__(self, uploads: Uploads, file: IO[bytes], boundary: bytes, size_max: int) -> None:
        self.provider = ""
        self.filename = ""
        self.content_type: str | None = None
        self.max_cost: int | None = None
        self.bound = b""
        """The `max_cost` as it was written: how much may be paid is no part of what makes two uploads the same."""
        self.size = 0
        self._uploads = uploads
        self._file = file
        self._size_max = size_max
        self._came = 0
        self._unwritten = bytearray()
        self._digest = hashlib.sha256()
        self._seen: list[str] = []
        self._errors: list[FieldError] = []
        self._whole = False
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._part = ""
        self._text = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError:
            raise BadBody("the boundary of the form is too long") from None

    async def take(self, data: bytes) -> None:
        """The next piece of the body; BodyTooLarge, InvalidInput, ProviderNotConfigured or BadBody once it shows."""
        self._came += len(data)
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadBody("the form cannot be read: it is not what its boundary says") from None
        if self._came - self.size > AROUND_MAX_BYTES:
            too_much = f"the form holds more than {AROUND_MAX_BYTES} bytes besides its file"
            raise BodyTooLarge(too_much, bound=Bound.UPLOAD_MAX_BYTES)
        if len(self._unwritten) >= PIECE_BYTES:
            await self._write()

    def check(self) -> None:
        """Whether the form is whole and right; InvalidInput names every field that is wrong."""
        if not self._whole:
            raise BadBody("the form has no end")
        missing = [FieldError(name, "is required") for name in REQUIRED if name not in self._seen]
        if errors := [*self._errors, *missing]:
            raise InvalidInput(errors)

    def content(self) -> bytes:
        """What makes this form the same as another."""
        return msgspec.json.encode([self.provider, self.filename, self.content_type, self._digest.hexdigest()])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file from its beginning."""
        await self._write()
        await asyncio.to_thread(self._file.seek, 0)
        while piece := await asyncio.to_thread(self._file.read, PIECE_BYTES):
            yield piece

    async def _write(self) -> None:
        """Puts what has come onto the disk; a full one is not for the event loop to wait on."""
        data, self._unwritten = bytes(self._unwritten), bytearray()
        await asyncio.to_thread(self._file.write, data)

    def _begin(self) -> None:
        self._headers, self._part, self._text = {}, "", bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _headers_end(self) -> None:
        """A part's name is known: it is one of two, and there once."""
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        shown = validation.clipped(self._part)
        if self._part not in FIELDS:
            known = f"{validation.UNKNOWN_FIELD}; there are {', '.join(FIELDS)}"
            self._errors.append(FieldError(shown, known if shown else "a part of the form has no name"))
        elif self._part in self._seen:
            self._errors.append(FieldError(shown, "is there twice"))
            self._part = ""
        elif self._part == "file":
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")[:NAME_MAX_CHARS]
            if text.NUL in self.filename:
                self._errors.append(FieldError(shown, f"has a name that {text.REFUSAL}"))
            declared = self._headers.get(b"content-type")
            self.content_type = None if declared is None else declared.decode("latin-1")
        self._seen.append(self._part)

    def _data(self, data: bytes, start: int, end: int) -> None:
        """A piece of a part."""
        if self._part == "file":
            self.size += end - start
            self._check_size()
            self._digest.update(data[start:end])
            self._unwritten += data[start:end]
        elif self._part in ("provider", "max_cost") and len(self._text) <= PROVIDER_MAX_BYTES:
            self._text += data[start:end]

    def _end(self) -> None:
        """The provider is known: from here on its own limit counts."""
        if self._part == "provider":
            self.provider = self._text[:PROVIDER_MAX_BYTES].decode("utf-8", "replace")
            self._size_max = self._uploads.size_max(self.provider)
            self._check_size()
        elif self._part == "max_cost":
            self.bound = bytes(self._text)
            try:
                self.max_cost = max_cost(self.bound.decode("utf-8", "replace"))
            except InvalidInput as error:
                self._errors += error.errors

    def _finish(self) -> None:
        self._whole = True

    def _check_size(self) -> None:
        """BodyTooLarge for a file over the limit that is known by now."""
        if self.size > self._size_max:
            whose = f" of {self.provider}" if self.provider else ""
            too_large = f"the file is over the limit{whose}: {self._size_max} bytes"
            raise BodyTooLarge(too_large, bound=Bound.UPLOAD_MAX_BYTES)
