"""Writes copies of results into a bucket of S3, Google or Azure, by obstore: each by one PUT, whatever its size.

A PUT is atomic: the store keeps all of it or nothing. So no process that is killed leaves a half object, or an upload
in parts for which the operator pays: there are no parts. A small object goes through obstore whole. A larger one is
streamed to a URL that obstore signs, with its length in front, and so without being held in memory.

obstore finds the credentials as the store's own tools do (AWS_…, GOOGLE_…, AZURE_…), and signs by them.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec

from relay.errors import SettingsError
from relay.log import redact
from relay.model.archive import CopyErrorCode
from relay.model.provider_http import FileRequest
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import NoAnswer, NotSent

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

WHOLE_MAX_BYTES: Final = 8 << 20
"""Up to so many bytes an object is held in memory and written whole; obstore holds one copy of it meanwhile."""
PIECE_BYTES: Final = 256 << 10
RANGE_BYTES: Final = 4 << 20
"""An object is read by requests for so many bytes, of which each is held in memory."""
SIGNED_FOR_S: Final = 3600
PUT_TIMEOUT_S: Final = 3600.0
REQUEST_TIMEOUT_S: Final = 30.0
"""The time of each request of obstore's; the deadline of a whole copy is the caller's."""
_REFUSED: Final = {
    "AccessDenied": "the bucket does not allow relay's credentials to do that",
    "AuthenticationFailed": "the bucket refuses relay's key",
    "AuthorizationFailure": "the bucket does not allow relay's credentials to do that",
    "AuthorizationHeaderMalformed": "the bucket is in another region than AWS_REGION says",
    "ContainerNotFound": "there is no such container",
    "ExpiredToken": "relay's credentials for the bucket have expired",
    "IllegalLocationConstraintException": "the bucket is in another region than AWS_REGION says",
    "InvalidAccessKeyId": "the bucket does not know relay's access key",
    "InvalidToken": "the bucket refuses relay's session token",
    "NoSuchBucket": "there is no such bucket",
    "PermanentRedirect": "the bucket is in another region than AWS_REGION says",
    "RequestTimeTooSkewed": "the bucket's clock differs from that of this machine",
    "SignatureDoesNotMatch": "the bucket refuses relay's secret key",
    "TokenRefreshRequired": "relay's credentials for the bucket have expired",
}
"""What an operator has to mend, by the code in the store's answer; most stores that speak S3 use Amazon's codes.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList
https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""
_REFUSING: Final = frozenset({401, 403, 404})
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,64})</Code>")
_OF_ONE: Final = re.compile(r"\(code: ([A-Za-z]{1,64})\)")
"""The code of one object in S3's answer to a deletion, which is 200 all the same."""
_STATUS: Final = re.compile(r"status code: ([1-5][0-9]{2})")
_WITHOUT_KEYS: Final = re.compile(r"/latest/(?:api/token|meta-data)|computeMetadata|/metadata/identity")
"""Where the roles of a machine are asked for; obstore does that if the environment has no credentials."""
_REDIRECTED: Final = "Received redirect without LOCATION"
"""How obstore says that S3 redirects, which names no address: the bucket is in another region."""
_TOO_LARGE: Final = frozenset({"EntityTooLarge", "RequestBodyTooLarge"})
"""The codes of S3 and Azure for an object that is larger than one PUT may be."""
MOVED, BAD_REQUEST, FORBIDDEN, MISSING, CONTENT_TOO_LARGE = 301, 400, 403, 404, 413


class BucketFailed(Exception):
    """The bucket does not take it: `code` says whether it is away or refuses relay; `str()` is the reason.

    `status` is the HTTP status of its answer, if it gave one, and `named` the store's own code in that. `hangs` says
    that it may still do what it did not answer.
    """

    def __init__(
        self,
        code: CopyErrorCode,
        reason: str,
        status: int | None = None,
        *,
        named: str = "",
        hangs: bool = False,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.status = status
        self.named = named
        self.hangs = hangs


class ObjectFailed(Exception):
    """An object cannot be written, which says nothing about others: `code` says why; `str()` is the reason."""

    def __init__(self, code: CopyErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Target(msgspec.Struct, frozen=True):
    """Where to write an object, and its type; `size` is its length, None where only its end shows it."""

    key: str
    content_type: str
    size: int | None


class Bucket(Protocol):
    """A place for copies. Every method raises BucketFailed if the place does not answer, or refuses.

    `write` raises ObjectFailed if it is this object that cannot be written.
    """

    shown: str

    async def write(self, target: Target, pieces: AsyncIterator[bytes]) -> None:
        """Write an object whole or not at all; what `pieces` raises is raised."""

    async def size(self, key: str) -> int | None:
        """Return an object's length; None if there is none."""

    def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes."""

    async def delete(self, key: str) -> None:
        """Delete an object, and what an interrupted write has left of it; nothing happens if there is none."""

    async def link(self, key: str, expires_s: int) -> str | None:
        """Return a URL that answers with the object for so long; None where only `read` does."""


class ObjectStore:
    """A bucket of S3, Google or Azure, and the prefix of the keys in it; `files` sends what is streamed."""

    def __init__(self, url: str, files: FileClient) -> None:
        self.shown = url
        self._store = _opened(url)
        self._files = files
        self._headers = {"x-ms-blob-type": "BlockBlob"} if urlsplit(url).scheme == "az" else {}

    async def write(self, target: Target, pieces: AsyncIterator[bytes]) -> None:
        """Write an object by one PUT; what `pieces` raises is raised."""
        start = bytearray()
        async for piece in pieces:
            start += piece
            if len(start) > WHOLE_MAX_BYTES:
                break
        else:
            await self._put(target, bytes(start))
            return
        if target.size is not None:
            await self._stream(target, target.size, _joined(start, pieces))
            return
        try:
            await self._spool(target, _joined(start, pieces))
        except OSError as error:
            reason = f"the temporary file for a result of unknown length: {error.strerror}"
            raise ObjectFailed(CopyErrorCode.UNREACHABLE, reason) from None

    async def _spool(self, target: Target, pieces: AsyncIterator[bytes]) -> None:
        """Write an object whose length only its end tells, though a PUT begins with its length.

        A file without a name is gone with the process, however that ends.
        """
        with await asyncio.to_thread(TemporaryFile) as spool:
            size = 0
            async for piece in pieces:
                size += await asyncio.to_thread(spool.write, piece)
            await asyncio.to_thread(spool.seek, 0)
            await self._stream(target, size, _read_spool(spool))

    async def _put(self, target: Target, body: bytes) -> None:
        """Write a small object."""
        import obstore  # noqa: PLC0415

        attributes = {"Content-Type": target.content_type}
        try:
            async with _Translated():
                await obstore.put_async(self._store, target.key, body, attributes=attributes, use_multipart=False)
        except FileNotFoundError:  # of a write, all that can be missing is the bucket
            raise BucketFailed(CopyErrorCode.STORE_REFUSED, _REFUSED["NoSuchBucket"]) from None
        except BucketFailed as error:
            _raise_if_too_large(error)
            raise

    async def _stream(self, target: Target, size: int, pieces: AsyncIterator[bytes]) -> None:
        """Write an object of this size as it comes."""
        import obstore  # noqa: PLC0415

        async with _Translated():
            url = await obstore.sign_async(self._store, "PUT", target.key, timedelta(seconds=SIGNED_FOR_S))
        request = FileRequest(method="PUT", url=url, size=size, content_type=target.content_type, headers=self._headers)
        try:
            answer = await self._files.send(request, pieces, "", PUT_TIMEOUT_S)
        except (NotSent, NoAnswer) as error:
            raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, f"the bucket: {error}") from None
        if not 200 <= answer.status_code < 300:
            failed = _failure(answer.status_code, answer.body.decode("utf-8", "replace"))
            _raise_if_too_large(failed)
            raise failed

    async def size(self, key: str) -> int | None:
        """Return an object's length; None if there is none, or if the store does not say.

        S3 answers 403 for a missing object where the credentials may not list the bucket; so a write has to show
        whether they were revoked.
        """
        import obstore  # noqa: PLC0415

        try:
            async with _Translated():
                return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None
        except BucketFailed as error:
            if error.status == FORBIDDEN:
                return None
            raise

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes; raise FileNotFoundError if there is none.

        It is read range by range, each in REQUEST_TIMEOUT_S: the reader may take longer than that for the whole object.
        """
        import obstore  # noqa: PLC0415

        async with _Translated():
            size = int((await obstore.head_async(self._store, key))["size"])
        for start in range(0, size, RANGE_BYTES):
            async with _Translated():
                found = memoryview(
                    await obstore.get_range_async(self._store, key, start=start, end=min(start + RANGE_BYTES, size))
                )
            for at in range(0, len(found), PIECE_BYTES):
                yield bytes(found[at : at + PIECE_BYTES])

    async def delete(self, key: str) -> None:
        """Delete an object; nothing happens if there is none."""
        import obstore  # noqa: PLC0415

        try:
            async with _Translated():
                await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            pass

    async def link(self, key: str, expires_s: int) -> str | None:
        """Return a URL that answers with the object for so long."""
        import obstore  # noqa: PLC0415

        async with _Translated():
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=expires_s))


class _Translated:
    """Turns what obstore raises into BucketFailed; FileNotFoundError stays, unless the whole bucket is missing.

    That is every exception: obstore panics at an answer that it does not expect, such as one about another object.
    """

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, FileNotFoundError) and _code(str(error)) not in _REFUSED:
            return
        raise _translated(str(error)) from None


def _translated(text: str) -> BucketFailed:
    """Return the failure that an error of obstore describes. Its text has URLs, and the store's answer after them."""
    if _WITHOUT_KEYS.search(text):
        return BucketFailed(CopyErrorCode.STORE_REFUSED, "there are no credentials for the bucket in the environment")
    found = _STATUS.search(text)
    if found is None and _REDIRECTED in text:
        return _failure(MOVED, text)
    if found is None and (of_one := _OF_ONE.search(text)):
        known = _REFUSED.get(of_one[1])
        code = CopyErrorCode.STORE_UNAVAILABLE if known is None else CopyErrorCode.STORE_REFUSED
        return BucketFailed(code, f"{known or 'the bucket does not delete it'} ({of_one[1]})")
    if found is None:
        return BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, "the bucket does not answer")
    # An answer to HEAD has no body with a code; S3 answers it 400 for expired credentials and for a wrong region.
    headless = int(found[1]) == BAD_REQUEST and "Error performing HEAD" in text
    return _failure(int(found[1]), text, refused=headless)


def _failure(status: int, answer: str, *, refused: bool = False) -> BucketFailed:
    """Return the failure that a store's answer means."""
    named = _code(answer)
    known = _REFUSED.get({MOVED: "PermanentRedirect", MISSING: named or "NoSuchBucket"}.get(status, named))
    if known is None and (refused or status in _REFUSING):
        known = "the bucket refuses relay's credentials, or does not know its region"
    shown = f"{named}, HTTP {status}" if named else f"HTTP {status}"
    if known is None:
        reason = f"the bucket does not take it ({shown})"
        return BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, reason, status, named=named)
    return BucketFailed(CopyErrorCode.STORE_REFUSED, f"{known} ({shown})", status, named=named)


def _raise_if_too_large(error: BucketFailed) -> None:
    """Raise ObjectFailed for an answer that refuses an object for its size; a proxy before the bucket names no code."""
    if error.status == CONTENT_TOO_LARGE or error.named in _TOO_LARGE:
        raise ObjectFailed(CopyErrorCode.TOO_LARGE, str(error)) from None


def _code(answer: str) -> str:
    """Return the code in a store's answer; nothing if it has none."""
    found = _CODE.search(answer)
    return found[1] if found else ""


def _opened(url: str) -> "S3Store | GCSStore | AzureStore":
    """Return obstore's store for a URL; raise SettingsError without the extra, or for what obstore refuses."""
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import from_url  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "RELAY_ARCHIVE_URL needs obstore (pip install '.[archive]' in the checkout, or -r requirements-all.txt), "
            "or file:///path"
        ) from None
    retries: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=REQUEST_TIMEOUT_S)}
    options: Any = {"timeout": timedelta(seconds=REQUEST_TIMEOUT_S), "allow_http": True}
    try:
        store: Any = from_url(url, client_options=options, retry_config=retries)
    except (BaseError, ValueError) as error:
        raise SettingsError(f"RELAY_ARCHIVE_URL cannot be used: {redact(str(error).partition(chr(10))[0])}") from None
    return store  # type: ignore[no-any-return]


async def _joined(start: bytearray, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what was read, and then the rest, in pieces that are worth a write."""
    held = bytearray(start)
    start.clear()
    while len(held) > PIECE_BYTES:
        yield bytes(held[:PIECE_BYTES])
        del held[:PIECE_BYTES]
    async for piece in pieces:
        held += piece
        if len(held) >= PIECE_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def _read_spool(spool: Any) -> AsyncIterator[bytes]:
    """Yield a file's bytes."""
    while piece := await asyncio.to_thread(spool.read, PIECE_BYTES):
        yield piece
