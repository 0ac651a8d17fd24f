"""`POST /v1/files`: upload an image to a provider, which returns a URL for a job's `images`.

The form is parsed while it arrives, and its file is kept on disk until it is sent: a provider needs the size first, and
nothing is sent before the whole file is there and has the declared type. Memory holds one chunk at a time. How a
provider receives a file is in `uploads/`.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from typing import IO, Annotated, Final

import msgspec
from msgspec import Meta
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.responses import Response

from relay import validation
from relay.errors import BadBody, BodyTooLarge, Bound, FieldError, InvalidInput, RelayError, StorageUnavailable
from relay.model import text
from relay.model.payment import max_cost
from relay.model.resources.providers import FileResource
from relay.providers.uploads import FLOWS
from relay.uploads.file_uploads import GivenFile, Upload, Uploads
from relay.web import request_body
from relay.web.api.adapters import load_adapters
from relay.web.api.api_request import ApiRequest, ApiRoute
from relay.web.problems import JSON

FORM_MAX_S: Final = 300.0
"""The longest time that a form may take, at any rate."""
OTHER_MAX_BYTES: Final = 64 * 1024
"""The largest size of a form without its file."""
FIELD_MAX_BYTES: Final = 64
NAME_MAX_CHARS: Final = 255
CHUNK_BYTES: Final = 256 * 1024
PAUSE_S: Final = 0.02
"""The pause for each chunk: an upload has at most 13.1 MB a second, which leaves disk and processor to others."""
FIELDS: Final = ("file", "provider", "max_cost")
REQUIRED: Final = FIELDS[:2]


class UnsupportedMedia(RelayError):
    """The body is not multipart/form-data."""

    code = "unsupported_media_type"


async def create(request: ApiRequest) -> Response:
    """`POST /v1/files`: 200 with `url` and `expires_at`; the body is read here, chunk by chunk.

    The content of an Idempotency-Key is the provider and the file's name, type and bytes: clients send the same form
    with another boundary each time.
    """
    request.query()
    uploads, boundary = request.app.uploads, _boundary(request)
    await load_adapters(request.app, FLOWS)
    with uploads.shares.reserve(request.project_id):
        try:
            with tempfile.TemporaryFile() as file:
                form = Form(uploads, file, boundary, request.app.settings.upload_max_bytes)
                await _read(request, form)
                form.require_valid()
                content = form.content() + form.max_cost_text
                return await request.idempotent(content, lambda request: _upload(request, form))
        except OSError as error:
            raise StorageUnavailable(f"the file could not be kept while it is sent: {error.strerror}") from None


async def _upload(request: ApiRequest, form: "Form") -> Response:
    """Send the file to the provider, and return its URL.

    The same form with the same Idempotency-Key, or repeated without a key, is one upload, which is paid for once.
    """
    same = msgspec.json.encode([request.project_id, request.idempotency_key]) + form.content()
    upload = Upload(request.project_id, f"file_{hashlib.sha256(same).hexdigest()[:32]}", form.max_cost)
    given = GivenFile(form.filename, form.content_type, form.chunks(), form.size)
    done = await request.app.uploads.upload(upload, form.provider, given)
    return JSON(FileResource(url=done.url, expires_at=done.expires_at))


def _boundary(request: ApiRequest) -> bytes:
    """Return the form's boundary.

    Raise UnsupportedMedia or BadBody if the body is not a form, BodyTooLarge if its Content-Length is over the limit.
    """
    media_type, options = parse_options_header(request.http.headers.get("content-type"))
    if media_type.lower() != b"multipart/form-data":
        raise UnsupportedMedia("the body must be multipart/form-data with the fields file and provider")
    if not options.get(b"boundary"):
        raise BadBody("multipart/form-data needs its boundary in the content-type")
    length, most = request.http.headers.get("content-length", ""), request.app.settings.upload_max_bytes
    if length.isascii() and length.isdigit() and float(length) > most + OTHER_MAX_BYTES:
        raise BodyTooLarge(f"the file is over its limit of {most} bytes", bound=Bound.UPLOAD_MAX_BYTES)
    return options[b"boundary"]


async def _read(request: ApiRequest, form: "Form") -> None:
    """Read the form to its end; raise BodyTooSlow, BodyIncomplete, or what `Form.feed` raises.

    The deadline is that of any body, and one second later for each `upload_min_bytes_per_s` received: a client that
    sends a few bytes at a time cannot keep an upload open.
    """
    settings = request.app.settings
    loop = asyncio.get_running_loop()
    deadline_s, latest_s = loop.time() + settings.body_deadline_s, loop.time() + FORM_MAX_S
    try:
        async with asyncio.timeout_at(min(deadline_s, latest_s)) as timeout:
            while True:
                part = await request.http.receive()
                if part["type"] != "http.request":
                    raise request_body.BodyIncomplete("the connection was closed before the form was complete")
                await form.feed(part.get("body", b""))
                if not part.get("more_body"):
                    return
                deadline_s += len(part.get("body", b"")) / settings.upload_min_bytes_per_s
                timeout.reschedule(min(deadline_s, latest_s))
    except TimeoutError:
        raise request_body.BodyTooSlow(
            f"the form arrived at less than {settings.upload_min_bytes_per_s} bytes a second, after "
            f"{settings.body_deadline_s:g} s to begin, or took {FORM_MAX_S:g} s",
            bound=Bound.UPLOAD_MIN_BYTES_PER_S,
        ) from None


class Form:
    """A form parsed while it arrives: `provider` and `max_cost` as text, `file` on disk; other fields are errors."""

    def __init__(self, uploads: Uploads, file: IO[bytes], boundary: bytes, size_max: int) -> None:
        self.provider = ""
        self.filename = ""
        self.content_type: str | None = None
        self.max_cost: int | None = None
        self.max_cost_text = b""
        """`max_cost` as sent; `content` leaves it out, because what may be paid does not make it another upload."""
        self.size = 0
        self._uploads = uploads
        self._file = file
        self._size_max = size_max
        self._received_bytes = 0
        self._unwritten = bytearray()
        self._digest = hashlib.sha256()
        self._names: list[str] = []
        self._errors: list[FieldError] = []
        self._complete = False
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

    async def feed(self, data: bytes) -> None:
        """Parse the next bytes of the body; raise BodyTooLarge, InvalidInput, ProviderNotConfigured or BadBody."""
        self._received_bytes += len(data)
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadBody("the form cannot be read: it is not what its boundary says") from None
        if self._received_bytes - self.size > OTHER_MAX_BYTES:
            too_much = f"the form holds more than {OTHER_MAX_BYTES} bytes besides its file"
            raise BodyTooLarge(too_much, bound=Bound.UPLOAD_MAX_BYTES)
        if len(self._unwritten) >= CHUNK_BYTES:
            await _pause_after(await self._write())

    def require_valid(self) -> None:
        """Raise BadBody for a form without an end, and InvalidInput, which names every wrong field."""
        if not self._complete:
            raise BadBody("the form has no end")
        missing = [FieldError(name, "is required") for name in REQUIRED if name not in self._names]
        if errors := [*self._errors, *missing]:
            raise InvalidInput(errors)

    def content(self) -> bytes:
        """Return the provider and the file's name, type and hash; equal for two forms that ask for the same upload."""
        return msgspec.json.encode([self.provider, self.filename, self.content_type, self._digest.hexdigest()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file from its beginning."""
        await self._write()
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, CHUNK_BYTES):
            yield chunk
            await _pause_after(len(chunk))

    async def _write(self) -> int:
        """Write what was received to disk, in a thread: a slow disk must not block the event loop; return its size."""
        data, self._unwritten = bytes(self._unwritten), bytearray()
        await asyncio.to_thread(self._file.write, data)
        return len(data)

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
        """Check the part's name, which must be known and new, and keep the file's own name and type."""
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        shown = validation.clipped(self._part)
        if self._part not in FIELDS:
            known = f"{validation.UNKNOWN_FIELD}; there are {', '.join(FIELDS)}"
            self._errors.append(FieldError(shown, known if shown else "a part of the form has no name"))
        elif self._part in self._names:
            self._errors.append(FieldError(shown, "is there twice"))
            self._part = ""
        elif self._part == "file":
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")[:NAME_MAX_CHARS]
            if text.NUL in self.filename:
                self._errors.append(FieldError(shown, f"has a name that {text.REFUSAL}"))
            declared = self._headers.get(b"content-type")
            self.content_type = None if declared is None else declared.decode("latin-1")
        self._names.append(self._part)

    def _data(self, data: bytes, start: int, end: int) -> None:
        """Keep a part's next bytes: of the file for the disk, of a text within its limit."""
        if self._part == "file":
            self.size += end - start
            self._check_size()
            self._digest.update(data[start:end])
            self._unwritten += data[start:end]
        elif self._part in ("provider", "max_cost") and len(self._text) <= FIELD_MAX_BYTES:
            self._text += data[start:end]

    def _end(self) -> None:
        """Read a text field; from the provider on, its own size limit applies."""
        if self._part == "provider":
            self.provider = self._text[:FIELD_MAX_BYTES].decode("utf-8", "replace")
            self._size_max = self._uploads.size_max(self.provider)
            self._check_size()
        elif self._part == "max_cost":
            self.max_cost_text = bytes(self._text)
            try:
                self.max_cost = max_cost(self.max_cost_text.decode("utf-8", "replace"))
            except InvalidInput as error:
                self._errors += error.errors

    def _finish(self) -> None:
        self._complete = True

    def _check_size(self) -> None:
        """Raise BodyTooLarge for a file over the limit: relay's, or the provider's if it is known already."""
        if self.size > self._size_max:
            whose = f" of {self.provider}" if self.provider else ""
            too_large = f"the file is over the limit{whose}: {self._size_max} bytes"
            raise BodyTooLarge(too_large, bound=Bound.UPLOAD_MAX_BYTES)


async def _pause_after(size: int) -> None:
    """Return after PAUSE_S for each chunk of so many bytes: one read of the body may make one of more than a chunk."""
    await asyncio.sleep(PAUSE_S * size / CHUNK_BYTES)


class FileForm(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form, for `/openapi.json`."""

    file: Annotated[bytes, Meta(description="JPEG, PNG, WebP or GIF.")]
    provider: str
    max_cost: Annotated[str, Meta(description="USD as text: no more is paid for the upload.")] | None = None


ROUTES: Final = (
    ApiRoute(
        method="POST",
        path="/v1/files",
        handler=create,
        scope="submit",
        summary="Upload an image to a provider",
        fields=FileForm,
        answers={200: FileResource},
        problems=(
            *("unsupported_media_type", "provider_not_configured", "upload_failed", "paid_once"),
            *("spend_cap_reached", "payment_refused", "too_many_requests"),
        ),
        streams=True,
    ),
)
