"""One try of one copy: from the result's URL into the bucket, in pieces, hashed on the way.

It decides nothing about what follows of a failure; `archiver.py` does.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from relay.archive.content_types import START_BYTES, allowed, sniffed
from relay.archive.keys import object_key
from relay.context import ConfiguredProvider
from relay.model.archive import CopyErrorCode
from relay.outbound.download import Download, Downloader, DownloadFailed
from relay.outbound.object_store import Bucket, Target
from relay.storage.copies import DueCopy

TURN_BYTES: Final = 256 << 10
TURN_PAUSE_S: Final = 0.02
"""After so many bytes a copy pauses so long, which is 12 MB/s: copies must not slow notifications."""


class CopyLimits(msgspec.Struct, frozen=True):
    """What is copied, under which key, and how long it may take."""

    key: str
    types: tuple[str, ...]
    max_bytes: int
    timeout_s: float


class Copied(msgspec.Struct, frozen=True):
    """What was written: its key and type, its length in bytes and the SHA-256 of these."""

    key: str
    content_type: str
    size: int
    sha256: str


Named = Callable[[str, str], Awaitable[Any]]
"""Stores the key and type that are about to be written to."""


class Copier:
    """Copies results into a bucket."""

    def __init__(self, downloader: Downloader, bucket: Bucket, limits: CopyLimits) -> None:
        self._downloader = downloader
        self._bucket = bucket
        self._limits = limits

    async def copy(self, copy: DueCopy, provider: ConfiguredProvider | None, named: Named) -> Copied:
        """Return what was written within the time limit; raise DownloadFailed or BucketFailed.

        A copy that an earlier try has written, whose end was not stored, is not downloaded again.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                if copy.key is not None and (found := await self._written(copy.key)) is not None:
                    return found
                return await self._download(copy, provider, named)
        except TimeoutError:
            reason = f"it took longer than {self._limits.timeout_s:g} s (RELAY_ARCHIVE_TIMEOUT_S)"
            raise DownloadFailed(CopyErrorCode.TOO_SLOW, reason) from None

    async def _written(self, key: str) -> Copied | None:
        """Return what is under a key already: it is whole, because each object is written whole or not at all."""
        if await self._bucket.size(key) is None:
            return None
        measured = _Measured(self._limits.max_bytes)
        start = bytearray()
        async for piece in measured.of(self._bucket.read(key)):
            start += piece[: START_BYTES - len(start)]
        return measured.copied(key, sniffed(bytes(start)))

    async def _download(self, copy: DueCopy, provider: ConfiguredProvider | None, named: Named) -> Copied:
        """Copy the result."""
        authorize = _Authorization(copy, provider)
        async with self._downloader.open(copy.url, authorize) as download:
            self._require_size(download)
            measured = _Measured(self._limits.max_bytes)
            pieces = measured.of(download.pieces)
            start = await _start(pieces)
            content_type = sniffed(bytes(start[:START_BYTES]))
            if not allowed(content_type, self._limits.types):
                reason = f"its first bytes are those of {content_type}, which RELAY_ARCHIVE_TYPES does not name"
                raise DownloadFailed(CopyErrorCode.WRONG_TYPE, reason)
            key = object_key(self._limits.key, copy, content_type)
            await named(key, content_type)
            await self._bucket.write(Target(key, content_type, download.size), _chained(bytes(start), pieces))
            return measured.copied(key, content_type)

    def _require_size(self, download: Download) -> None:
        """Raise DownloadFailed for a result that says that it is too large."""
        if download.size is not None and download.size > self._limits.max_bytes:
            raise _too_large(self._limits.max_bytes)


class _Measured:
    """Counts and hashes what passes through."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._sha256 = hashlib.sha256()

    async def of(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the pieces; raise DownloadFailed where they are too many. Others have their turn between them."""
        since_turn = 0
        async for piece in pieces:
            self._size += len(piece)
            if self._size > self._max_bytes:
                raise _too_large(self._max_bytes)
            self._sha256.update(piece)
            yield piece
            since_turn += len(piece)
            if since_turn >= TURN_BYTES:
                since_turn = 0
                await asyncio.sleep(TURN_PAUSE_S)

    def copied(self, key: str, content_type: str) -> Copied:
        """Return what has passed through, as what is under a key."""
        return Copied(key, content_type, self._size, self._sha256.hexdigest())


class _Authorization:
    """The provider's API key for a result that needs it, at the provider's configured origin and nowhere else."""

    def __init__(self, copy: DueCopy, provider: ConfiguredProvider | None) -> None:
        self._provider = provider if copy.needs_key else None

    def __call__(self, url: str) -> str | None:
        """Return the header for a URL."""
        provider = self._provider
        if provider is None or not provider.api_key or not url.startswith(provider.origin + "/"):
            return None
        return provider.authorization


def _too_large(max_bytes: int) -> DownloadFailed:
    """Return the failure of a result that is too large."""
    return DownloadFailed(CopyErrorCode.TOO_LARGE, f"it is larger than {max_bytes} bytes (RELAY_ARCHIVE_MAX_BYTES)")


async def _start(pieces: AsyncIterator[bytes]) -> bytearray:
    """Return the first START_BYTES or a few more; raise DownloadFailed if there are none at all."""
    start = bytearray()
    while len(start) < START_BYTES and (piece := await anext(pieces, None)) is not None:
        start += piece
    if not start:
        raise DownloadFailed(CopyErrorCode.UNREACHABLE, "the result is empty")
    return start


async def _chained(start: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the start, and then the rest."""
    yield start
    async for piece in pieces:
        yield piece
