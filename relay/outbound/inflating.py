"""Reads and inflates a response's body within a limit: 2 KB of gzip can inflate to gigabytes.

Requests ask for `identity`, but some servers encode anyway. The inflated size is checked after each step, so an encoded
body costs no more memory or time than a plain one of the same limit.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import msgspec

ENCODINGS_MAX: Final = 2
STEP_BYTES: Final = 65_536


class Body(msgspec.Struct, frozen=True):
    """The bytes read of a body; `fault` says why they are incomplete or could not be decoded."""

    content: bytes
    fault: str | None = None


class _Deflate:
    """Decodes `deflate` as servers send it: a zlib stream, or raw deflate without the zlib header."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()
        self._started = False

    def decompress(self, data: bytes, length_max: int) -> bytes:
        """Return at most `length_max` bytes; the input left over is in `unconsumed_tail`."""
        try:
            out = self._inner.decompress(data, length_max)
        except zlib.error:
            if self._started:
                raise
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
            out = self._inner.decompress(data, length_max)
        self._started = self._started or bool(data)
        return out

    @property
    def unconsumed_tail(self) -> bytes:
        """Return the input that `decompress` did not use."""
        return self._inner.unconsumed_tail


_LAYERS: Final[dict[str, Callable[[], "zlib._Decompress | _Deflate"]]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "deflate": _Deflate,
}


class Inflater:
    """Decodes a body piece by piece and keeps at most `length_max` bytes.

    Unknown encodings are ignored, and so is an encoding that already the first piece contradicts.
    `fault` says why decoding stopped, or is None.
    """

    def __init__(self, content_encoding: str, length_max: int) -> None:
        names = [name.strip().lower() for name in content_encoding.split(",")]
        known = [name for name in names if name in _LAYERS]
        self._length_max = length_max
        self._body = bytearray()
        self.fault = None if len(known) <= ENCODINGS_MAX else f"is encoded more than {ENCODINGS_MAX} times"
        self._layers = [_LAYERS[name]() for name in reversed(known[:ENCODINGS_MAX])]
        self._inflated_bytes = [0] * len(self._layers)
        self._fed = False

    @property
    def content(self) -> bytes:
        """Return the bytes decoded so far."""
        return bytes(self._body)

    def feed(self, piece: bytes) -> Iterator[None]:
        """Decode another piece, yielding after each step of at most STEP_BYTES; do nothing once there is a fault."""
        if self.fault is not None:
            return
        try:
            yield from self._decode(piece, 0)
        except zlib.error:
            if self._fed or any(self._inflated_bytes):
                self.fault = "is not what its content-encoding says"
            else:
                self._layers = []
                yield from self._decode(piece, 0)
        self._fed = True

    def _decode(self, data: bytes, place: int) -> Iterator[None]:
        """Decode data by the layers from `place` on; keep the result of the last one."""
        if place == len(self._layers):
            self._body += data[: self._length_max - len(self._body) + 1]
            if len(self._body) > self._length_max:
                del self._body[self._length_max :]
                self.fault = f"is longer than {self._length_max} bytes" + (" once inflated" if self._layers else "")
            return
        layer = self._layers[place]
        while self.fault is None:
            out = layer.decompress(data, STEP_BYTES)
            data = layer.unconsumed_tail
            self._inflated_bytes[place] += len(out)
            if self._inflated_bytes[place] > self._length_max + STEP_BYTES:
                self.fault = f"is longer than {self._length_max} bytes once inflated"
            if out:
                yield from self._decode(out, place + 1)
            yield
            if not data and len(out) < STEP_BYTES:
                return


async def read_body(pieces: AsyncIterator[bytes], content_encoding: str, length_max: int) -> Body:
    """Return a body from its received pieces; stop reading beyond `length_max` bytes, received or inflated.

    Inflating one piece may take milliseconds, so the event loop runs other work between the steps.
    """
    inflater, received_bytes = Inflater(content_encoding, length_max), 0
    async for piece in pieces:
        received_bytes += len(piece)
        for _ in inflater.feed(piece):
            await asyncio.sleep(0)
        if inflater.fault is not None or received_bytes > length_max:
            break
    fault = inflater.fault or (f"is longer than {length_max} bytes" if received_bytes > length_max else None)
    return Body(inflater.content, fault)
