"""What an answer may grow to: a small encoded one is read, a bomb is cut, and memory stays where it was."""

import asyncio
import gzip
import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from functools import cache

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from relay.errors import Unreadable
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound import inflating
from relay.outbound.file_upload import read_response
from relay.outbound.inflating import STEP_BYTES, Inflater
from relay.outbound.jwks import parse_keys
from relay.outbound.provider_client import FAULTY_MAX_BYTES, RESPONSE_MAX_BYTES, ProviderClient
from relay.sandbox.serving import serve
from relay.security.callback_tokens import CallbackTokens
from relay.security.redaction import Redactor
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

TOKEN_PREFIX = CallbackTokens(("a-key-that-is-long-enough-to-sign",), "default").prefix
GROWN_MAX = 16_000_000
"""What reading any answer may take, in bytes: some copies of a mebibyte, and the client around it."""


def raw_deflate(data: bytes) -> bytes:
    """`deflate` as some servers write it, without zlib's header."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield a body as it comes over the wire."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


@rows(
    ("encoding", "pack"),
    [
        ("", bytes), ("identity", bytes), ("gzip", gzip.compress), ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress), ("deflate", raw_deflate),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
        ("deflate, identity, gzip", lambda data: gzip.compress(zlib.compress(data))),
        ("gzip", bytes), ("utf-8", bytes), ("br", bytes),
    ],
)  # fmt: skip
@rows("size", [1_000_000, 7])
async def test_a_small_encoded_answer_is_read(encoding: str, pack: object, size: int) -> None:
    """Read what is encoded in a known way, in whatever pieces it comes; leave alone what is not."""
    assert callable(pack)
    said = json.dumps({"id": "task-1", "note": "x" * 3000}).encode()
    body = await inflating.read_body(in_pieces(pack(said), size), encoding, 10_000)
    assert (body.content, body.fault) == (said, None)


@given(st.binary(max_size=5000), st.integers(1, 600))
async def test_pieces_make_no_difference(data: bytes, size: int) -> None:
    """Inflate the same, however it is cut."""
    packed = gzip.compress(zlib.compress(data))
    body = await inflating.read_body(in_pieces(packed, size), "deflate, gzip", 5000)
    assert (body.content, body.fault) == (data, None)


@rows("encoding", ["", "gzip"])
@rows(("size", "whole"), [(10_000, True), (10_001, False)])
async def test_the_limit_is_the_same_inflated_or_not(encoding: str, size: int, whole: bool) -> None:
    """Cut a body at its limit, and say so."""
    data = os.urandom(size // 2) * 2 + bytes(size % 2)
    packed = gzip.compress(data) if encoding else data
    body = await inflating.read_body(in_pieces(packed, 4096), encoding, 10_000)
    assert body.content == data[:10_000]
    assert (body.fault is None) == whole


async def test_what_is_not_what_it_says_is_told() -> None:
    """Say that a body breaks off in its encoding, and keep what came."""
    packed = gzip.compress(os.urandom(5000))
    broken = packed[:-8] + bytes(8)  # its checksum is another one
    body = await inflating.read_body(in_pieces(broken, 1000), "gzip", 10_000)
    assert (body.fault, 0 < len(body.content) <= 5000) == ("is not what its content-encoding says", True)
    assert (await inflating.read_body(in_pieces(packed, 1000), "gzip, gzip, gzip", 10_000)).fault == (
        "is encoded more than 2 times"
    )


MEBIBYTE = 1 << 20


def zeroes(mebibytes: int) -> bytes:
    """Return zeroes, packed by gzip: one mebibyte is packed and its bytes repeated, since packing all takes seconds."""
    data, checksum = bytes(MEBIBYTE), 0
    for _ in range(mebibytes):
        checksum = zlib.crc32(data, checksum)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
    trailer = struct.pack("<II", checksum, mebibytes * MEBIBYTE)
    return gzip.compress(b"")[:10] + packed * mebibytes + packer.flush() + trailer


@cache
def hollow() -> bytes:
    """Return a stream of empty blocks, which says nothing at all, packed: much work for no byte of an answer."""
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    blocks = b"".join(packer.flush(zlib.Z_FULL_FLUSH) for _ in range(3)) or b""
    return gzip.compress(packer.compress(b"") + blocks + b"\x00\x00\x00\xff\xff" * (1 << 22))


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a gigabyte": ("gzip", lambda: zeroes(1024)),
    "twice": ("gzip, gzip", lambda: gzip.compress(zeroes(1024))),
    "three times": ("gzip, gzip, gzip", lambda: gzip.compress(gzip.compress(zeroes(1024)))),
    "hollow": ("gzip, gzip", hollow),
    "plain": ("", lambda: bytes(50_000_000)),
}
"""Made by the test: each worker that collects the tests would make them all."""


def test_packed_zeroes_are_gzip() -> None:
    """Read the bombs' zeroes by Python's own gzip."""
    assert gzip.decompress(zeroes(3)) == bytes(3 * MEBIBYTE)


@rows("name", BOMBS)
async def test_a_bomb_takes_no_memory(name: str) -> None:
    """Hold no more of an answer than its limit, whatever it would grow to, at every client of a provider."""
    encoding, make = BOMBS[name]
    packed = make()

    async def explode(request: Request) -> Response:
        await request.body()
        pieces = (packed[start : start + 65_536] for start in range(0, len(packed), 65_536))
        return StreamingResponse(pieces, headers={"content-encoding": encoding} if encoding else {})

    app = Starlette(routes=[Route("/", explode, methods=["POST"])])
    async with serve(app) as origin, ProviderClient() as client:
        request = ProviderRequest(method="POST", path="/", body={})
        await client.send(origin, "key", request, 10)  # what is loaded once is not counted
        tracemalloc.start()
        try:
            answer = await client.send(origin, "key", request, 20)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < GROWN_MAX
    assert len(answer.body) <= RESPONSE_MAX_BYTES
    assert answer.fault is not None
    with pytest.raises(Unreadable, match=r"HTTP 200 with a body that is (longer|encoded|not)"):
        answer.json()
    with pytest.raises(Unreadable):
        parse_keys(answer)


def test_the_work_on_a_hollow_answer_ends() -> None:
    """Stop at the limit of every layer: what says nothing may not go on for ever either."""
    inflater = Inflater("gzip, gzip", 10_000)
    for _ in inflater.feed(hollow()):
        pass
    assert inflater.fault == "is longer than 10000 bytes once inflated"


async def test_everything_else_goes_on_while_an_answer_is_inflated() -> None:
    """Give the event loop a turn after each step of work, however much one piece grows to."""
    turns = 0

    async def something_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(something_else())
    try:
        body = await inflating.read_body(in_pieces(gzip.compress(zeroes(4)), 65_536), "gzip, gzip", RESPONSE_MAX_BYTES)
    finally:
        other.cancel()
    assert len(body.content) == RESPONSE_MAX_BYTES
    assert turns >= RESPONSE_MAX_BYTES // STEP_BYTES


@rows(("size", "kept"), [(RESPONSE_MAX_BYTES, RESPONSE_MAX_BYTES), (RESPONSE_MAX_BYTES + 1, FAULTY_MAX_BYTES)])
async def test_of_a_response_with_a_fault_the_start_is_kept(size: int, kept: int) -> None:
    """Keep every byte of a response within the limit, and what may be quoted of one that is a byte longer."""
    secret = "a-key-that-is-not-to-be-seen"
    content = secret.encode() + b"." * (size - len(secret))
    read = await read_response(httpx.Response(200, stream=httpx.ByteStream(content)), Redactor([secret], TOKEN_PREFIX))
    assert (read.fault is None) == (size == kept)
    assert secret.encode() not in read.body
    assert read.body.count(b".") == kept - len(secret)


def test_an_answer_that_was_cut_is_never_read_as_whole() -> None:
    """Refuse to read a body as JSON where a part of it is missing, though what is there would be JSON."""
    answer = ProviderResponse(
        status_code=200, content_type="application/json", body=b"{}", fault="is longer than 2 bytes"
    )
    with pytest.raises(Unreadable, match="longer than 2 bytes"):
        answer.json()
