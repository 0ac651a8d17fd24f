"""One try of one copy: from the result's URL into the bucket, in pieces, hashed on the way.

It decides nothing about what follows of a failure; `archiver.py` does.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from relay.archive.content_types import START_BYTES, allowed, sniffed
from relay.archive.keys import object_key
from relay.clock import Clock
from relay.context import ConfiguredProvider
from relay.model.archive import CopyErrorCode
from relay.outbound.download import Download, Downloader, DownloadFailed, ResultKey
from relay.outbound.object_store import Bucket, Target
from relay.storage.copies import CopyName, DueCopy

TURN_PAUSE_MS: Final = 4
"""How long all copies pause after each turn of one: copies must not slow notifications."""


class CopyLimits(msgspec.Struct, frozen=True):
    """What is copied, under which key, how long one may take, and how fast all are together."""

    key: str
    types: tuple[str, ...]
    max_bytes: int
    timeout_s: float
    bytes_per_s: int


class Copied(msgspec.Struct, frozen=True):
    """What was written: its bucket, key and type, its length in bytes and the SHA-256 of these."""

    bucket: str
    key: str
    content_type: str
    size: int
    sha256: str


Named = Callable[[CopyName], Awaitable[bool]]
"""Stores the key that is about to be written to; False if the copy's lease is another's by now."""


class LeaseLost(Exception):
    """Another process makes the copy, or it is not to be made any more; nothing was written."""


class Copier:
    """Copies results into a bucket."""

    def __init__(self, downloader: Downloader, bucket: Bucket, limits: CopyLimits, clock: Clock) -> None:
        self._pace = _Pace(clock, limits.bytes_per_s)
        self._downloader = downloader
        self._bucket = bucket
        self._limits = limits

    async def copy(self, copy: DueCopy, provider: ConfiguredProvider | None, named: Named) -> Copied:
        """Return what was written within the time limit; raise DownloadFailed, ObjectFailed, BucketFailed or LeaseLost.

        A copy that an earlier try has written, whose end was not stored, is not downloaded again.
        """
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                here = copy.key is not None and copy.bucket in ("", self._bucket.shown)
                if copy.key is not None and here and (found := await self._written(copy.key)) is not None:
                    return found
                return await self._download(copy, provider, named)
        except TimeoutError:
            reason = f"it took longer than {self._limits.timeout_s:g} s (RELAY_ARCHIVE_TIMEOUT_S)"
            raise DownloadFailed(CopyErrorCode.TOO_SLOW, reason) from None

    async def _written(self, key: str) -> Copied | None:
        """Return what is under a key already: it is whole, because each object is written whole or not at all."""
        if await self._bucket.size(key) is None:
            return None
        measured = _Measured(self._limits.max_bytes, self._pace)
        start = bytearray()
        try:
            async for piece in measured.of(self._bucket.read(key)):
                start += piece[: START_BYTES - len(start)]
        except FileNotFoundError:  # it was deleted meanwhile
            return None
        return measured.copied(self._bucket.shown, key, sniffed(bytes(start)))

    async def _download(self, copy: DueCopy, provider: ConfiguredProvider | None, named: Named) -> Copied:
        """Copy the result."""
        async with self._downloader.open(copy.url, _key(copy, provider)) as download:
            self._require_size(download)
            measured = _Measured(self._limits.max_bytes, self._pace)
            pieces = measured.of(download.pieces)
            start = await _start(pieces)
            content_type = sniffed(bytes(start[:START_BYTES]))
            if not allowed(content_type, self._limits.types):
                reason = f"its first bytes are those of {content_type}, which RELAY_ARCHIVE_TYPES does not name"
                raise DownloadFailed(CopyErrorCode.WRONG_TYPE, reason)
            name = self._name(copy, content_type)
            if not await named(name):
                raise LeaseLost
            await self._bucket.write(Target(name.key, content_type, download.size), _chained(bytes(start), pieces))
            return measured.copied(name.bucket, name.key, content_type)

    def _name(self, copy: DueCopy, content_type: str) -> CopyName:
        """Return the key to write to: that of the last try, if it has ended and would have this one, else the next."""
        bucket, writes = self._bucket.shown, copy.writes
        key = object_key(self._limits.key, copy, content_type, writes)
        if copy.writing or (copy.bucket or bucket, copy.key) != (bucket, key):
            writes += 1
            key = object_key(self._limits.key, copy, content_type, writes)
        return CopyName(
            id=copy.id,
            leased_until=copy.leased_until,
            bucket=bucket,
            key=key,
            content_type=content_type,
            writes=writes,
        )

    def _require_size(self, download: Download) -> None:
        """Raise DownloadFailed for a result that says that it is too large."""
        if download.size is not None and download.size > self._limits.max_bytes:
            raise _too_large(self._limits.max_bytes)


class _Pace:
    """What all copies share: together they are as fast as one alone, however many are under way.

    A turn is `turn_bytes` of one copy, after which there is a pause.
    """

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        self._clock = clock
        self._pausing = asyncio.Lock()
        self.turn_bytes = bytes_per_s * TURN_PAUSE_MS // 1000

    async def pause(self) -> None:
        """Return after a pause that begins when those before it are over."""
        async with self._pausing:
            await self._clock.sleep(TURN_PAUSE_MS)


class _Measured:
    """Counts and hashes what passes through."""

    def __init__(self, max_bytes: int, pace: _Pace) -> None:
        self._max_bytes = max_bytes
        self._pace = pace
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
            while since_turn >= self._pace.turn_bytes:
                since_turn -= self._pace.turn_bytes
                await self._pace.pause()

    def copied(self, bucket: str, key: str, content_type: str) -> Copied:
        """Return what has passed through, as what is under a key."""
        return Copied(bucket, key, content_type, self._size, self._sha256.hexdigest())


def _key(copy: DueCopy, provider: ConfiguredProvider | None) -> ResultKey | None:
    """Return the provider's API key for a result that needs it, None for all others."""
    if not copy.needs_key or provider is None:
        return None
    return ResultKey(provider.origin, provider.authorization if provider.api_key else None)


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
