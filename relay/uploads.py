"""An application's image becomes a URL at the provider that shall read it, by that provider's own upload flow.

Each flow is written as the steps that it takes, without any I/O: it yields a request, is given the answer, and returns
where the file is. `Uploads` takes the steps.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any, Final, assert_never
from urllib.parse import quote

import msgspec

from relay.calling import Configured
from relay.clock import Clock, parse_rfc3339, rfc3339
from relay.errors import BodyTooLarge, FieldError, InvalidInput, ProviderNotConfigured, RelayError, Unreadable
from relay.exchange import ApiAnswer, ApiRequest
from relay.outbound.client import NoAnswer, NotSent, ProviderClient
from relay.outbound.uploading import FileClient, FileRequest
from relay.providers import answers
from relay.providers.base import at, check_url, text_or_none

STEP_TIMEOUT_S: Final = 30.0
FILE_TIMEOUT_S: Final = 300.0
IN_FLIGHT_MAX: Final = 8
MEGABYTE: Final = 1_000_000
SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "image/jpeg": (".jpg", ".jpeg"),
    "image/png": (".png",),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
}
START_BYTES: Final = 12
"""What the type of an image is told by."""
EVOLINK_LIFETIME_MS: Final = 72 * 3_600_000
KINOVI_LIFETIME_S: Final = 86_400
_STORES: Final = {"evolink": "https://files-api.evolink.ai", "stablestudio": "https://vercel.com"}
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}/[A-Za-z0-9][\w.+-]{0,60}")
_HEADER_VALUE: Final = re.compile(r"[!-~]{1,4096}")
_UNDECLARED: Final = ("", "application/octet-stream")


class UploadFailed(RelayError):
    """The provider did not take the file, or gave no URL for it."""

    code = "upload_failed"


class Uploaded(msgspec.Struct, frozen=True):
    """Where the file is, and until when (RFC 3339); None where the provider does not say."""

    url: str
    expires_at: str | None


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: a plain name, the type that its first bytes tell, and its size in bytes."""

    name: str
    content_type: str
    size: int


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a provider is: its origin, and that of its file store, which is another at some."""

    origin: str
    store: str
    now_ms: int


class Paid(msgspec.Struct, frozen=True):
    """A step that costs money."""

    request: ApiRequest


class SignedIn(msgspec.Struct, frozen=True):
    """A step for the wallet that paid."""

    request: ApiRequest


Step = ApiRequest | FileRequest | Paid | SignedIn
Steps = Generator[Step, ApiAnswer, Uploaded]
Pay = Callable[[ApiRequest], Awaitable[ApiAnswer]]
SignIn = Callable[[ApiAnswer, str], dict[str, str]]


class Flow(msgspec.Struct, frozen=True):
    """One provider's steps, and the largest file that it is known to take (None: any)."""

    steps: Callable[[File, Place], Steps]
    size_max: int | None
    paid: bool = False


def evolink(file: File, place: Place) -> Steps:
    """One form; a refusal may be HTTP 200 with `success: false`. Kept for 72 hours. https://docs.evolink.ai."""
    url = f"{place.store}/api/v1/files/upload/stream"
    data = _good((yield _form(url, file))).get("data")
    return Uploaded(_public(at(data, "file_url")), _until(at(data, "expires_at"), place.now_ms))


def relaydance(file: File, place: Place) -> Steps:
    """One form; how long the file is kept is not published. https://relaydance.com/docs."""
    body = _good((yield _form(f"{place.origin}/v1/files", file)))
    return Uploaded(_public(body.get("url")), None)


def kinovi(file: File, place: Place) -> Steps:
    """A place is asked for, the bytes are put there, and the URL is good for a day. https://kinovi.ai/docs.

    The place is the provider's data: unless it is behind the configured origin, it is guarded. The confirmation is
    optional and asked for behind that origin alone; the URL stands whatever it answers.
    """
    asked = ApiRequest(method="POST", path="/api/v1/uploads", body={"fileName": file.name})
    given = _good((yield asked))
    target, type_ = given.get("uploadUrl"), given.get("contentType")
    if not isinstance(target, str) or not isinstance(type_, str) or not _MEDIA_TYPE.fullmatch(type_):
        raise UploadFailed("its answer names no place to put the file, or no type for it")
    guarded = not target.startswith(f"{place.origin}/")
    put = FileRequest(method="PUT", url=target, size=file.size, content_type=type_, guarded=guarded)
    _stored((yield put))
    confirm = (text_or_none(given.get("confirmUrl")) or "").removeprefix(place.origin)
    if re.fullmatch(r"/(?!/)[!-\[\]-~]*", confirm):
        yield ApiRequest(method="GET", path=confirm)
    lifetime_s = answers.whole(given.get("assetTtlSeconds"), 1, 366 * 86_400) or KINOVI_LIFETIME_S
    return Uploaded(_public(given.get("url")), rfc3339(place.now_ms + lifetime_s * 1000))


def stablestudio(file: File, place: Place) -> Steps:
    """A paid request for a token, the bytes to the blob store, and a confirmation by the wallet that paid.

    https://stablestudio.dev, and https://vercel.com/docs/vercel-blob for the second step.
    """
    body: dict[str, object] = {"filename": file.name, "contentType": file.content_type, "size": file.size}
    given = _good((yield Paid(ApiRequest(method="POST", path="/api/upload", body=body, bearer=False))))
    token, path, upload_id = (text_or_none(given.get(name), 4096) for name in ("clientToken", "pathname", "uploadId"))
    if not token or not path or not upload_id or not _HEADER_VALUE.fullmatch(token):
        raise UploadFailed("its answer lacks the token, the path or the id of the upload")
    put = FileRequest(
        method="PUT",
        url=f"{place.store}/api/blob/?pathname={quote(path, safe='')}",
        size=file.size,
        content_type=file.content_type,
        headers={"authorization": f"Bearer {token}", "x-content-type": file.content_type, "x-api-version": "11"},
    )
    blob_url = _public(_good((yield put)).get("url"))
    said: dict[str, object] = {"uploadId": upload_id, "blobUrl": blob_url}
    confirmation = ApiRequest(method="POST", path="/api/upload/confirm", body=said, bearer=False)
    confirmed = _good((yield SignedIn(confirmation)))
    return Uploaded(_public(at(confirmed, "upload", "blobUrl") or blob_url), None)


FLOWS: Final[Mapping[str, Flow]] = {
    "evolink": Flow(evolink, 30 * MEGABYTE),  # its store takes 100 MB, its video route images of 30
    "relaydance": Flow(relaydance, 30 * MEGABYTE),  # nothing is published: what is usual for an image
    "kinovi": Flow(kinovi, None),
    "stablestudio": Flow(stablestudio, 30 * MEGABYTE, paid=True),
    "sandbox": Flow(evolink, 30 * MEGABYTE),
}


class Uploads:
    """Takes the steps. `room` bounds how many files are on their way at once; a whole upload is done within it.

    `pay` pays for a request and `sign_in` answers a 402 that wants the payer's signature, for a URL; without them what
    is paid for is refused.
    """

    def __init__(
        self,
        providers: Mapping[str, Configured],
        client: ProviderClient,
        files: FileClient,
        clock: Clock,
        *,
        size_max: int,
        pay: Pay | None = None,
        sign_in: SignIn | None = None,
    ) -> None:
        self._providers = providers
        self._client = client
        self._files = files
        self._clock = clock
        self._size_max = size_max
        self._pay = pay
        self._sign_in = sign_in
        self.room = asyncio.Semaphore(IN_FLIGHT_MAX)

    def size_max(self, provider: str) -> int:
        """The largest file in bytes; InvalidInput and ProviderNotConfigured say why none can be taken."""
        flow, _ = self._usable(provider)
        return min(self._size_max, flow.size_max or self._size_max)

    async def upload(
        self, provider: str, filename: str, content_type: str | None, pieces: AsyncIterator[bytes], size: int
    ) -> Uploaded:
        """The file, at the provider. `pieces` are its bytes, `size` in all; they are read once, and never held whole.

        InvalidInput for what is no image or another one than is declared, BodyTooLarge, ProviderNotConfigured, and
        UploadFailed with the provider's words. Nothing is sent before the file is known to be good.
        """
        flow, configured = self._usable(provider)
        if size > self.size_max(provider):
            raise BodyTooLarge(f"{provider} takes files of at most {self.size_max(provider)} bytes")
        start, pieces = await _peeked(pieces)
        type_ = checked_type(start, content_type)
        file = File(name=plain_name(filename, type_), content_type=type_, size=size)
        published = configured.origin == configured.adapter.base_url
        store = _STORES.get(provider, configured.origin) if published else configured.origin
        place = Place(origin=configured.origin, store=store, now_ms=self._clock.now_ms())
        try:
            return await self._taken(flow.steps(file, place), configured, pieces)
        except (UploadFailed, Unreadable) as error:
            raise UploadFailed(f"{provider}: {error}") from None
        except (NotSent, NoAnswer) as error:
            raise UploadFailed(f"{provider} could not be reached or gave no answer: {error}") from None

    def _usable(self, provider: str) -> tuple[Flow, Configured]:
        """The flow of a provider that is configured."""
        flow, configured = FLOWS.get(provider), self._providers.get(provider)
        if configured is None:
            there = ", ".join(sorted(self._providers))
            raise ProviderNotConfigured(f"there is no provider {provider[:64]!r} here; there are {there}")
        if flow is None:
            message = f"{provider} has no place for files: give a public URL to the job"
            raise InvalidInput([FieldError("provider", message)])
        if flow.paid and self._pay is None:
            raise ProviderNotConfigured(f"{provider} is paid for each file: that needs a wallet (RELAY_WALLET_KEY)")
        if not flow.paid and not configured.api_key:
            raise ProviderNotConfigured(f"{provider} is not configured: RELAY_{provider.upper()}_API_KEY is not set")
        return flow, configured

    async def _taken(self, steps: Steps, configured: Configured, pieces: AsyncIterator[bytes]) -> Uploaded:
        """Step after step, to the end."""
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._answer(step, configured, pieces))
        except StopIteration as done:
            uploaded: Uploaded = done.value
            return uploaded

    async def _answer(self, step: Step, configured: Configured, pieces: AsyncIterator[bytes]) -> ApiAnswer:
        """The answer to one step."""
        key, origin = configured.api_key or "", configured.origin
        match step:
            case ApiRequest():
                return await self._client.send(origin, key, step, STEP_TIMEOUT_S)
            case FileRequest():
                return await self._files.send(step, pieces, key, FILE_TIMEOUT_S)
            case Paid():
                assert self._pay is not None, "_usable has looked"
                return await self._pay(step.request)
            case SignedIn():
                return await self._signed(origin, step.request)
            case _:
                assert_never(step)

    async def _signed(self, origin: str, request: ApiRequest) -> ApiAnswer:
        """The answer; where the provider wants the wallet that paid to sign in, that of the second request."""
        answer = await self._client.send(origin, "", request, STEP_TIMEOUT_S)
        if answer.status_code != 402 or self._sign_in is None:
            return answer
        headers = await asyncio.to_thread(self._sign_in, answer, origin + request.path)
        if not headers:
            return answer
        signed = msgspec.structs.replace(request, headers={**request.headers, **headers})
        return await self._client.send(origin, "", signed, STEP_TIMEOUT_S)


def image_type(start: bytes) -> str | None:
    """The type that an image's first 12 bytes tell: JPEG, PNG, GIF or WebP; None for anything else.

    https://mimesniff.spec.whatwg.org/#matching-an-image-type-pattern
    """
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None


def checked_type(start: bytes, declared: str | None) -> str:
    """The type of a file; InvalidInput where its bytes are no image that providers take, or not the declared one.

    A file without a type, or of `application/octet-stream`, is not declared: its bytes alone count.
    """
    if not start:
        raise InvalidInput([FieldError("file", "is empty")])
    found, said = image_type(start), (declared or "").partition(";")[0].strip().lower()
    said = "image/jpeg" if said == "image/jpg" else said
    if found is None or said not in (*SUFFIXES, *_UNDECLARED):
        must = f"must be one of {', '.join(SUFFIXES)}"
        was = "its first bytes are none of these" if said in (*SUFFIXES, *_UNDECLARED) else "it is declared otherwise"
        raise InvalidInput([FieldError("file", f"{must}; {was}")])
    if said not in (found, *_UNDECLARED):
        raise InvalidInput([FieldError("file", f"is declared as {said}, and its first bytes are those of {found}")])
    return found


def plain_name(name: str, type_: str) -> str:
    """A file's name without its folders, in letters that every header and URL takes, with its type's own ending."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[-80:].lstrip(".-") or "image"
    return plain if plain.lower().endswith(SUFFIXES[type_]) else plain + SUFFIXES[type_][0]


async def _peeked(pieces: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes, and all of them still to be read."""
    start = b""
    while len(start) < START_BYTES and (piece := await anext(pieces, None)) is not None:
        start += piece

    async def whole() -> AsyncIterator[bytes]:
        yield start
        async for piece in pieces:
            yield piece

    return start[:START_BYTES], whole()


def _form(url: str, file: File) -> FileRequest:
    """The file in a form, with the provider's key."""
    return FileRequest(
        method="POST", url=url, size=file.size, content_type=file.content_type, filename=file.name, bearer=True
    )


def _good(answer: ApiAnswer) -> dict[str, Any]:
    """The object of a 2xx that does not take itself back; UploadFailed with the provider's own words for any other."""
    try:
        body = answer.json()
    except Unreadable:
        body = None
    if not 200 <= answer.status_code < 300 or at(body, "success") is False:
        code, text = answers.complaint(body)
        said = ": ".join(part for part in (code, text) if part)
        raise UploadFailed(f"HTTP {answer.status_code}" + (f": {said[:300]}" if said else ""))
    if not isinstance(body, dict):
        raise UploadFailed(f"HTTP {answer.status_code} with a body that is no JSON object")
    return body


def _stored(answer: ApiAnswer) -> None:
    """A bare 2xx; what a store's page says of a refusal may repeat its signature, and is left out."""
    if not 200 <= answer.status_code < 300:
        raise UploadFailed(f"its store answered HTTP {answer.status_code}")


def _public(url: object) -> str:
    """The URL of the file, if it is one that a provider can be given."""
    if not isinstance(url, str) or check_url(url, ""):
        raise UploadFailed("its answer holds no public URL of the file")
    return url


def _until(said: object, now_ms: int) -> str:
    """When EvoLink deletes the file: what it says where that can be true, else 72 hours from now."""
    last_ms = now_ms + EVOLINK_LIFETIME_MS
    try:
        at_ms = parse_rfc3339(said) if isinstance(said, str) else 0
    except (ValueError, OverflowError):
        at_ms = 0
    return rfc3339(at_ms if now_ms < at_ms <= last_ms + 86_400_000 else last_ms)
