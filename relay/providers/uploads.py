"""How each provider takes an image: the steps of its own upload flow, without any I/O.

A flow yields a request, is given the answer, and returns where the file is.
"""

import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from relay.clock import parse_rfc3339, rfc3339
from relay.errors import RelayError, Unreadable
from relay.model.provider_http import FileRequest, ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.base import at, check_url, text_or_none

MEGABYTE: Final = 1_000_000
EVOLINK_LIFETIME_MS: Final = 72 * 3_600_000
KINOVI_LIFETIME_S: Final = 86_400
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}/[A-Za-z0-9][\w.+-]{0,60}")
_HEADER_VALUE: Final = re.compile(r"[!-~]{1,4096}")


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

    request: ProviderRequest


class SignedIn(msgspec.Struct, frozen=True):
    """A step for the wallet that paid."""

    request: ProviderRequest


Step = ProviderRequest | FileRequest | Paid | SignedIn
Steps = Generator[Step, ProviderResponse, Uploaded]


class Flow(msgspec.Struct, frozen=True):
    """One provider's steps, the largest file that it is known to take (None: any), and the origin of its file store.

    `store` is None where files go to the provider itself; it is left aside where the provider's origin is not its own.
    """

    steps: Callable[[File, Place], Steps]
    size_max: int | None
    store: str | None = None
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
    asked = ProviderRequest(method="POST", path="/api/v1/uploads", body={"fileName": file.name})
    given = _good((yield asked))
    target, type_ = given.get("uploadUrl"), given.get("contentType")
    if not isinstance(target, str) or not isinstance(type_, str) or not _MEDIA_TYPE.fullmatch(type_):
        raise UploadFailed("its answer names no place to put the file, or no type for it")
    guarded = not target.startswith(f"{place.origin}/")
    put = FileRequest(method="PUT", url=target, size=file.size, content_type=type_, guarded=guarded)
    _stored((yield put))
    confirm = (text_or_none(given.get("confirmUrl")) or "").removeprefix(place.origin)
    if re.fullmatch(r"/(?!/)[!-\[\]-~]*", confirm):
        yield ProviderRequest(method="GET", path=confirm)
    lifetime_s = answers.whole(given.get("assetTtlSeconds"), 1, 366 * 86_400) or KINOVI_LIFETIME_S
    return Uploaded(_public(given.get("url")), rfc3339(place.now_ms + lifetime_s * 1000))


def stablestudio(file: File, place: Place) -> Steps:
    """A paid request for a token, the bytes to the blob store, and a confirmation by the wallet that paid.

    https://stablestudio.dev, and https://vercel.com/docs/vercel-blob for the second step.
    """
    body: dict[str, object] = {"filename": file.name, "contentType": file.content_type, "size": file.size}
    given = _good((yield Paid(ProviderRequest(method="POST", path="/api/upload", body=body, bearer=False))))
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
    confirmation = ProviderRequest(method="POST", path="/api/upload/confirm", body=said, bearer=False)
    confirmed = _good((yield SignedIn(confirmation)))
    return Uploaded(_public(at(confirmed, "upload", "blobUrl") or blob_url), None)


FLOWS: Final[Mapping[str, Flow]] = {
    # its store takes 100 MB, its video route images of 30
    "evolink": Flow(evolink, 30 * MEGABYTE, "https://files-api.evolink.ai"),
    "relaydance": Flow(relaydance, 30 * MEGABYTE),  # nothing is published: what is usual for an image
    "kinovi": Flow(kinovi, None),
    "stablestudio": Flow(stablestudio, 30 * MEGABYTE, "https://vercel.com", paid=True),
    "sandbox": Flow(evolink, 30 * MEGABYTE),
}


def _form(url: str, file: File) -> FileRequest:
    """The file in a form, with the provider's key."""
    return FileRequest(
        method="POST", url=url, size=file.size, content_type=file.content_type, filename=file.name, bearer=True
    )


def _good(answer: ProviderResponse) -> dict[str, Any]:
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


def _stored(answer: ProviderResponse) -> None:
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
