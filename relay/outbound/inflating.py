"""Reads an answer's body within a bound, as it came and inflated: 2 KB of gzip can stand for gigabytes.

Requests ask for no encoding, but some servers encode whatever they are asked. What a body grows to is bounded at every
step, so neither memory nor time goes beyond what an answer that is not encoded may take.
"""

import zlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

ENCODINGS_MAX: Final = 2
STEP_BYTES: Final = 65_536


class Body(msgspec.Struct, frozen=True):
    """What was read of a body; `fault` says why that is not all of it, or not what it should be."""

    content: bytes
    fault: str | None = None


class _Deflate:
    """`deflate` as servers write it: a zlib stream, or without its header."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj()
        self._begun = False

    def decompress(self, data: bytes, length_max: int) -> bytes:
        """At most so many bytes; what is left over is in `unconsumed_tail`."""
        try:
            out = self._inner.decompress(data, length_max)
        except zlib.error:
            if self._begun:
                raise
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
            out = self._inner.decompress(data, length_max)
        self._begun = self._begun or bool(data)
        return out

    @property
    def unconsumed_tail(self) -> bytes:
        """What `decompress` had no room for."""
        return self._inner.unconsumed_tail


_LAYERS: Final[dict[str, Callable[[], "zlib._Decompress | _Deflate"]]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "x-gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "deflate": _Deflate,
}


class Inflater:
    """Takes a body in pieces and holds what it says, at most `length_max` bytes of it.

    An encoding that relay does not know is left as it is, and so is a body that is plainly not encoded as it says.
    """

    def __init__(self, content_encoding: str, length_max: int) -> None:
        words = [word.strip().lower() for word in content_encoding.split(",")]
        named = [word for word in words if word in _LAYERS]
        self._length_max = length_max
        self._body = bytearray()
        self.fault = None if len(named) <= ENCODINGS_MAX else f"is encoded more than {ENCODINGS_MAX} times"
        self._layers = [_LAYERS[word]() for word in reversed(named[:ENCODINGS_MAX])]
        self._grown = [0] * len(self._layers)
        self._fed = False

    @property
    def content(self) -> bytes:
        """What there is so far."""
        return bytes(self._body)

    def feed(self, piece: bytes) -> None:
        """Takes another piece; nothing more once there is a fault."""
        if self.fault is not None:
            return
        try:
            self._through(piece, 0)
        except zlib.error:
            if self._fed or any(self._grown):
                self.fault = "is not what its content-encoding says"
            else:
                self._layers = []
                self._through(piece, 0)
        self._fed = True

    def _through(self, data: bytes, place: int) -> None:
        """Passes data through the layers from this one on."""
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
            self._grown[place] += len(out)
            if self._grown[place] > self._length_max + STEP_BYTES:
                self.fault = f"is longer than {self._length_max} bytes once inflated"
            if out:
                self._through(out, place + 1)
            if not data and len(out) < STEP_BYTES:
                return


async def read(pieces: AsyncIterator[bytes], content_encoding: str, length_max: int) -> Body:
    """A body, from its pieces as they came over the wire; reading ends where it is longer than `length_max`."""
    inflater, came = Inflater(content_encoding, length_max), 0
    async for piece in pieces:
        came += len(piece)
        inflater.feed(piece)
        if inflater.fault is not None or came > length_max:
            break
    fault = inflater.fault or (f"is longer than {length_max} bytes" if came > length_max else None)
    return Body(inflater.content, fault)
