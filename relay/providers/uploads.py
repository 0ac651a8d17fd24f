"""Defines each provider's upload of an image as a generator of steps, without I/O.

A flow yields a request, receives its response, and returns the file's URL. `uploads/file_uploads.py` sends the steps.
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
    """The provider did not accept the file, or returned no URL for it."""

    code = "upload_failed"


class Uploaded(msgspec.Struct, frozen=True):
    """A file's URL, and when it expires (RFC 3339), None if the provider does not say."""

    url: str
    expires_at: str | None


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file to send: a plain name, the content type by its first bytes, and its size in bytes."""

    name: str
    content_type: str
    size: int


class UploadTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's origin and its file store's origin, which may be the same."""

    origin: str
    store: str
    now_ms: int


class PaidStep(msgspec.Struct, frozen=True):
    """A step that must be paid."""

    request: ProviderRequest


class SignedInStep(msgspec.Struct, frozen=True):
    """A step that the wallet that paid must sign."""

    request: ProviderRequest


Step = ProviderRequest | FileRequest | PaidStep | SignedInStep
Steps = Generator[Step, ProviderResponse, Uploaded]


class Flow(msgspec.Struct, frozen=True):
    """One provider's steps; `size_max` is the largest file that it is known to accept, None for any size.

    `store` is the origin of its file store, None if that is the provider's own. It is not used if the operator
    configured another origin for the provider.
    """

    steps: Callable[[File, UploadTarget], Steps]
    size_max: int | None
    store: str | None = None
    paid: bool = False


def evolink(file: File, target: UploadTarget) -> Steps:
    """Send one form; a refusal may be HTTP 200 with `success: false`. Kept for 72 hours. https://docs.evolink.ai."""
    url = f"{target.store}/api/v1/files/upload/stream"
    data = _checked_body((yield _form(url, file))).get("data")
    return Uploaded(_public_url(at(data, "file_url")), _evolink_expiry(at(data, "expires_at"), target.now_ms))


def relaydance(file: File, target: UploadTarget) -> Steps:
    """Send one form; how long the file is kept is not published. https://relaydance.com/docs."""
    body = _checked_body((yield _form(f"{target.origin}/v1/files", file)))
    return Uploaded(_public_url(body.get("url")), None)


def kinovi(file: File, target: UploadTarget) -> Steps:
    """Request an upload URL and PUT the bytes there; the file is kept for a day. https://kinovi.ai/docs.

    The upload URL is guarded unless it is on the configured origin. The confirmation is optional and sent to that
    origin only; whatever it answers, the file's URL is valid.
    """
    asked = ProviderRequest(method="POST", path="/api/v1/uploads", body={"fileName": file.name})
    given = _checked_body((yield asked))
    upload_url, type_ = given.get("uploadUrl"), given.get("contentType")
    if not isinstance(upload_url, str) or not isinstance(type_, str) or not _MEDIA_TYPE.fullmatch(type_):
        raise UploadFailed("its answer has no upload URL, or no content type for it")
    guarded = not upload_url.startswith(f"{target.origin}/")
    put = FileRequest(method="PUT", url=upload_url, size=file.size, content_type=type_, guarded=guarded)
    stored = yield put
    if not 200 <= stored.status_code < 300:  # the store's error page may repeat the URL's signature: it is left out
        raise UploadFailed(f"its store answered HTTP {stored.status_code}")
    confirm = (text_or_none(given.get("confirmUrl")) or "").removeprefix(target.origin)
    if re.fullmatch(r"/(?!/)[!-\[\]-~]*", confirm):
        yield ProviderRequest(method="GET", path=confirm)
    lifetime_s = answers.whole(given.get("assetTtlSeconds"), 1, 366 * 86_400) or KINOVI_LIFETIME_S
    return Uploaded(_public_url(given.get("url")), rfc3339(target.now_ms + lifetime_s * 1000))


def stablestudio(file: File, target: UploadTarget) -> Steps:
    """Pay for a token, PUT the bytes to the blob store, and confirm as the wallet that paid.

    https://stablestudio.dev, and https://vercel.com/docs/vercel-blob for the second step.
    """
    body: dict[str, object] = {"filename": file.name, "contentType": file.content_type, "size": file.size}
    given = _checked_body((yield PaidStep(ProviderRequest(method="POST", path="/api/upload", body=body, bearer=False))))
    token, path, upload_id = (text_or_none(given.get(name), 4096) for name in ("clientToken", "pathname", "uploadId"))
    if not token or not path or not upload_id or not _HEADER_VALUE.fullmatch(token):
        raise UploadFailed("its answer lacks the token, the path or the id of the upload")
    put = FileRequest(
        method="PUT",
        url=f"{target.store}/api/blob/?pathname={quote(path, safe='')}",
        size=file.size,
        content_type=file.content_type,
        headers={"authorization": f"Bearer {token}", "x-content-type": file.content_type, "x-api-version": "11"},
    )
    blob_url = _public_url(_checked_body((yield put)).get("url"))
    confirmed_upload: dict[str, object] = {"uploadId": upload_id, "blobUrl": blob_url}
    confirmation = ProviderRequest(method="POST", path="/api/upload/confirm", body=confirmed_upload, bearer=False)
    confirmed = _checked_body((yield SignedInStep(confirmation)))
    return Uploaded(_public_url(at(confirmed, "upload", "blobUrl") or blob_url), None)


FLOWS: Final[Mapping[str, Flow]] = {
    # its store accepts 100 MB, its video route images of 30 MB
    "evolink": Flow(evolink, 30 * MEGABYTE, "https://files-api.evolink.ai"),
    "relaydance": Flow(relaydance, 30 * MEGABYTE),  # not published: a usual limit for an image
    "kinovi": Flow(kinovi, None),
    "stablestudio": Flow(stablestudio, 30 * MEGABYTE, "https://vercel.com", paid=True),
    "sandbox": Flow(evolink, 30 * MEGABYTE),
}


def _form(url: str, file: File) -> FileRequest:
    """Return the request that sends the file in a form, with the provider's key."""
    return FileRequest(
        method="POST", url=url, size=file.size, content_type=file.content_type, filename=file.name, bearer=True
    )


def _checked_body(response: ProviderResponse) -> dict[str, Any]:
    """Return the object of a 2xx without `success: false`; raise UploadFailed with the provider's text otherwise."""
    try:
        body = response.json()
    except Unreadable:
        body = None
    if not 200 <= response.status_code < 300 or at(body, "success") is False:
        reason = str(answers.complaint(body))
        raise UploadFailed(f"HTTP {response.status_code}" + (f": {reason[:300]}" if reason else ""))
    if not isinstance(body, dict):
        raise UploadFailed(f"HTTP {response.status_code} with a body that is no JSON object")
    return body


def _public_url(url: object) -> str:
    """Return the file's URL; raise UploadFailed if it is not public."""
    if not isinstance(url, str) or check_url(url, ""):
        raise UploadFailed("its answer has no public URL of the file")
    return url


def _evolink_expiry(given: object, now_ms: int) -> str:
    """Return when EvoLink deletes the file: the given time if it is plausible, else 72 hours from now."""
    last_ms = now_ms + EVOLINK_LIFETIME_MS
    try:
        at_ms = parse_rfc3339(given) if isinstance(given, str) else 0
    except (ValueError, OverflowError):
        at_ms = 0
    return rfc3339(at_ms if now_ms < at_ms <= last_ms + 86_400_000 else last_ms)
