"""Writes copies of results into a bucket of S3, Google or Azure, by obstore: each by one PUT, whatever its size.

A PUT is atomic: the store keeps all of it or nothing. So no process that is killed leaves a half object, or an upload
in parts for which the operator pays: there are no parts. A small object goes through obstore whole. A larger one is
streamed to a URL that obstore signs, with its length in front, and so without being held in memory.

obstore finds the credentials as the store's own tools do (AWS_…, GOOGLE_…, AZURE_…), and signs by them.
"""

import asyncio
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
SIGNED_FOR_S: Final = 3600
PUT_TIMEOUT_S: Final = 3600.0
REQUEST_TIMEOUT_S: Final = 30.0
"""The time of a request without a stream; the deadline of a whole copy is the caller's."""
_REFUSED: Final = frozenset({"PermissionDeniedError", "UnauthenticatedError"})
_PROBE: Final = "relay-doctor"


class BucketFailed(Exception):
    """The bucket does not take it: `code` says whether it is away or refuses relay; `str()` is the reason."""

    def __init__(self, code: CopyErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Target(msgspec.Struct, frozen=True):
    """Where to write an object, and its type; `size` is its length, None where only its end tells it."""

    key: str
    content_type: str
    size: int | None


class Bucket(Protocol):
    """A place for copies. Every method raises BucketFailed if the place does not answer, or refuses."""

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
        # A PUT begins with its length. A file without a name is gone with the process, however that ends.
        with await asyncio.to_thread(TemporaryFile) as spool:
            size = 0
            async for piece in _joined(start, pieces):
                size += await asyncio.to_thread(spool.write, piece)
            await asyncio.to_thread(spool.seek, 0)
            await self._stream(target, size, _read_spool(spool))

    async def _put(self, target: Target, body: bytes) -> None:
        """Write a small object."""
        import obstore  # noqa: PLC0415

        attributes = {"Content-Type": target.content_type}
        async with _Translated():
            await obstore.put_async(self._store, target.key, body, attributes=attributes, use_multipart=False)

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
            refused = answer.status_code in (401, 403, 404)
            code = CopyErrorCode.STORE_REFUSED if refused else CopyErrorCode.STORE_UNAVAILABLE
            raise BucketFailed(code, f"the bucket answers HTTP {answer.status_code}")

    async def size(self, key: str) -> int | None:
        """Return an object's length; None if there is none."""
        import obstore  # noqa: PLC0415

        try:
            async with _Translated():
                return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes."""
        import obstore  # noqa: PLC0415

        async with _Translated():
            found = await obstore.get_async(self._store, key)
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

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
    """Turns what obstore raises into BucketFailed; FileNotFoundError stays, unless the whole bucket is missing."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        from obstore.exceptions import BaseError  # noqa: PLC0415

        text = redact(str(error).partition("\n")[0])
        if isinstance(error, FileNotFoundError):
            if "NoSuchBucket" in str(error):
                raise BucketFailed(CopyErrorCode.STORE_REFUSED, "there is no such bucket") from None
            return
        if type(error).__name__ in _REFUSED:
            raise BucketFailed(CopyErrorCode.STORE_REFUSED, f"the bucket refuses relay's credentials{_status(text)}")
        if isinstance(error, BaseError | OSError | ValueError):
            raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, f"the bucket does not answer{_status(text)}") from None


def _status(text: str) -> str:
    """Return the HTTP status that an error of obstore names, for its reason; its text has URLs."""
    _, found, status = text.partition("status code: ")
    return f" (HTTP {status[:3]})" if found else ""


def _opened(url: str) -> "S3Store | GCSStore | AzureStore":
    """Return obstore's store for a URL; raise SettingsError without the extra, or for what obstore refuses."""
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import from_url  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            "RELAY_ARCHIVE_URL needs the extra archive (pip install '.[archive]' in the checkout), or file:///path"
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
