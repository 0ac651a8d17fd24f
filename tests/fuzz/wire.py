"""Targets of raw bytes: what the receiving protocol reads of a client, and the sender's connection of a receiver.

Both run on an event loop of their own with a transport that keeps what is written, so no input opens a socket.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import h11
import httptools
import msgspec
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from relay.metrics import Metrics
from relay.model.exchange import HEADERS_MAX_BYTES
from relay.outbound import connection
from relay.outbound.connection import Connection, ExchangeFailed
from relay.outbound.inflating import Inflater
from relay.settings import Settings
from relay.web import whole_request
from relay.web.callback_route import CallbackRoute
from relay.web.connections import ConnectionTracker, limits_of
from relay.web.protocol import BODY_INCOMPLETE, Protocol
from tests.fuzz.target import Choices, Target

LOOP: Final = asyncio.new_event_loop()
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_TURNS: Final = 12
"""Turns of the loop in which an answer is written: the protocol's own, a task's first, and its steps."""
_CUTS: Final = 3
_INFLATED_MAX: Final = 10_000
_ENCODINGS: Final = ("gzip", "deflate", "gzip, deflate", "identity", "br", "x-gzip,gzip", "gzip, gzip, gzip")


class Seen(msgspec.Struct, frozen=True):
    """A request as the application got it; `whole` is whether its body ended."""

    method: str
    target: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    whole: bool


class Written:
    """A transport that keeps what is written."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self.data = bytearray()
        self.closed = self.ended = False
        self._socket = sock

    def write(self, data: bytes) -> None:
        """Keep bytes; none may follow a close."""
        assert not self.closed
        self.data += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the addresses and the socket."""
        known = {"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80), "socket": self._socket}
        return known.get(name, default)

    def close(self) -> None:
        """Note the close."""
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        """Return whether it is closed."""
        return self.closed

    def can_write_eof(self) -> bool:
        """Return True, as a TCP transport does."""
        return True

    def write_eof(self) -> None:
        """Note the end of what relay sends."""
        self.ended = True

    def get_write_buffer_size(self) -> int:
        """Return 0: everything is sent immediately."""
        return 0

    def nothing(self) -> None:
        """Pause and resume reading."""

    pause_reading = resume_reading = nothing


class NoCallbacks:
    """Leaves each callback to the application, so that every request goes through the parser."""

    def receive_whole(self, *_: object) -> bool:
        """Return False: nothing is done."""
        return False


class Conversation:
    """What one connection brought: the requests that the application got, and what was written."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.seen: list[Seen] = []
        self.incomplete: list[bool] = []
        self.transport = Written()
        protocol = _protocol(self._answer)
        protocol.connection_made(self.transport)
        for piece in pieces:
            if self.transport.closed:
                break
            protocol.data_received(piece)
            _turn()
        protocol.connection_lost(None)
        _turn()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request's body, and answer 200 with its length."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.incomplete.append(scope["state"][BODY_INCOMPLETE]())
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.seen.append(Seen(scope["method"], target, scope["headers"], body, not more))
        said = str(len(body)).encode()
        headers = [(b"content-length", str(len(said)).encode()), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else said})


def _turn() -> None:
    """Run the loop until no step is due; no input waits for time."""

    async def turns() -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    LOOP.run_until_complete(turns())


def _protocol(app: Callable[[Scope, Receive, Send], Any]) -> Any:
    """Return the protocol of a new connection, with the limits of the default settings."""
    config = uvicorn.Config(
        app, interface="asgi3", lifespan="off", log_config=None, access_log=False, ws="none", proxy_headers=False
    )
    config.load()
    tracker = LOOP.run_until_complete(_tracker())
    state = ServerState()
    return Protocol(
        cast(CallbackRoute, NoCallbacks()), tracker, config=config, server_state=state, app_state={}, _loop=LOOP
    )


async def _tracker() -> ConnectionTracker:
    """Return a tracker with the limits of the default settings, made on the loop."""
    return ConnectionTracker(limits_of(Settings(), 100), Metrics())


def requests(data: bytes) -> str:
    """Check that requests are framed in one way: however they are cut, and as h11 frames what it accepts."""
    choices = Choices(data)
    cuts = [choices.below(256) for _ in range(_CUTS)]
    raw = choices.rest()
    whole = Conversation([raw])
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(raw[at : at + cut])
        at += cut
    cut_up = Conversation([piece for piece in (*pieces, raw[at:]) if piece])
    complete = [seen for seen in whole.seen if seen.whole]
    assert complete == [seen for seen in cut_up.seen if seen.whole], (complete, cut_up.seen)
    for seen in whole.seen:
        _framed_once(seen)
    statuses = _statuses(bytes(whole.transport.data), [seen.method for seen in whole.seen])
    assert len(statuses) >= len(complete)
    accepted = _by_h11(raw)
    for ours, theirs in zip(complete, accepted, strict=False):
        assert (ours.method.encode(), ours.body) == (theirs.method, theirs.body), (ours, theirs)
        assert ours.target.partition(b"?")[0] in (theirs.target.partition(b"?")[0], b"")
    return f"{min(len(complete), 3)} requests, answered {statuses[-1] if statuses else 'nothing'}"


def _framed_once(seen: Seen) -> None:
    """Raise AssertionError if another parser could end this request elsewhere."""
    named = [name for name, _ in seen.headers]
    assert named.count(b"content-length") <= 1
    assert not (b"content-length" in named and b"transfer-encoding" in named)
    for name, value in seen.headers:
        assert _TOKEN.fullmatch(name), name
        assert not re.search(rb"[\r\n\0]", value), value
        if name == b"content-length":
            assert re.fullmatch(rb"[0-9]+", value.strip()), value
            assert not seen.whole or int(value) == len(seen.body)
        if name == b"transfer-encoding":
            assert value.lower() == b"chunked", value
            assert named.count(name) == 1


class ByH11(msgspec.Struct):
    """A request as h11 reads it."""

    method: bytes
    target: bytes
    body: bytes = b""


def _by_h11(raw: bytes) -> list[ByH11]:
    """Return the whole requests that h11 reads before it refuses something."""
    found: list[ByH11] = []
    peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    begun: ByH11 | None = None
    try:
        peer.receive_data(raw)
        while True:
            match peer.next_event():
                case h11.Request() as request:
                    begun = ByH11(request.method, request.target)
                case h11.Data() as data if begun is not None:
                    begun.body += data.data
                case h11.EndOfMessage() if begun is not None:
                    found.append(begun)
                    peer.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    peer.send(h11.EndOfMessage())
                    if peer.our_state is not h11.DONE or peer.their_state is not h11.DONE:
                        return found
                    peer.start_next_cycle()
                case _:
                    return found
    except h11.RemoteProtocolError:
        return found


class _Answers:
    """What a client's parser reads of the answers."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        """Keep a status."""
        self.statuses.append(self.parser.get_status_code())


def _statuses(written: bytes, methods: Sequence[str]) -> list[int]:
    """Return the statuses of what relay wrote; raise AssertionError if a client could not read it."""
    if "HEAD" in methods or "CONNECT" in methods:
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", written)]
    answers = _Answers()
    try:
        answers.parser.feed_data(written)
    except httptools.HttpParserError as error:
        raise AssertionError(f"relay wrote what is not HTTP: {written!r}") from error
    return [status for status in answers.statuses if status != 100]


class _Parsed:
    """What httptools calls back for a request."""

    def __init__(self) -> None:
        self.url = self.body = b""
        self.ends = 0
        self.headers: list[tuple[str, str]] = []

    def on_url(self, url: bytes) -> None:
        """Keep the URL, which may come in parts."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Count a request's end."""
        self.ends += 1


def whole_callback(data: bytes) -> str:
    """Check that a callback is read whole only if the parser reads the same request and nothing more."""
    read = whole_request.read(data)
    if read is None:
        return "left to the parser"
    parsed = _Parsed()
    parser = httptools.HttpRequestParser(parsed)
    parser.feed_data(data)
    assert (parser.get_method(), parser.get_http_version(), parsed.ends) == (b"POST", "1.1", 1)
    assert parsed.url == f"/callbacks/{read.provider}/{read.token}".encode()
    assert tuple(parsed.headers) == read.headers == tuple(read.fields.items())
    assert parsed.body == read.body
    assert parser.should_keep_alive()
    assert not parser.should_upgrade()
    return "whole"


def answer(data: bytes) -> str:
    """Check that an answer of a receiver has a status or a reason, within the limits, however it is cut."""
    choices = Choices(data)
    cuts = [choices.below(256) for _ in range(_CUTS)]
    raw = choices.rest()
    outcomes = [_exchanged([raw]), _exchanged(_cut(raw, cuts))]
    assert outcomes[0].partition(":")[0] == outcomes[1].partition(":")[0], outcomes
    return outcomes[0]


def _cut(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the bytes in pieces of these lengths, and the rest."""
    pieces = []
    for cut in cuts:
        pieces.append(raw[:cut])
        raw = raw[cut:]
    return [piece for piece in (*pieces, raw) if piece]


_SOCKETS: Final = socket.socketpair()


def _exchanged(pieces: Sequence[bytes]) -> str:
    """Return the status of an exchange whose answer comes in these pieces before the connection ends, or why none."""
    transport = Written(_SOCKETS[0])
    sender = Connection(LOOP, lambda _: None)
    sender.connection_made(cast(asyncio.BaseTransport, transport))
    waiting = sender.exchange(b"POST / HTTP/1.1\r\n\r\n", LOOP.time() + 60)
    for piece in pieces:
        if not transport.closed:
            sender.data_received(piece)
    sender.connection_lost(None)
    assert waiting.done()
    try:
        response = waiting.result()
    except ExchangeFailed as failed:
        return f"no answer: {failed.args[0]}"
    assert 100 < response.status <= 999
    assert len(response.body) <= connection.EXCERPT_BYTES
    assert sum(map(len, response.lines)) <= HEADERS_MAX_BYTES
    assert response.control is None or response.control == response.control.strip()
    return f"{response.status}: {'whole' if response.whole else 'cut'}"


def inflated(data: bytes) -> str:
    """Check that an encoded body is inflated up to the limit or has a fault, whatever its bytes are."""
    choices = Choices(data)
    encoding, cut = _ENCODINGS[choices.below(len(_ENCODINGS))], choices.below(256)
    raw = choices.rest()
    inflater = Inflater(encoding, _INFLATED_MAX)
    for piece in _cut(raw, [cut]):
        for _ in inflater.feed(piece):
            assert len(inflater.content) <= _INFLATED_MAX
    assert len(inflater.content) <= _INFLATED_MAX
    return "a fault" if inflater.fault else "read"


_HEADS: Final = (
    b"GET /v1/jobs?a=b HTTP/1.1\r\nhost: relay\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nhost: relay\r\ncontent-length: 5\r\n\r\nab\r\ncGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: relay\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: relay\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: a\r\n\r\n",
    b"POST /callbacks/evolink/abc HTTP/1.1\r\nhost: relay\r\ncontent-length: 2\r\n\r\n{}",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
)
_WORDS: Final = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\x0b", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0"),
    *(b"content-length: 0\r\n", b"content-length: 5\r\n", b"Content-Length : 5\r\n", b"content-length: +5\r\n"),
    *(b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n", b"transfer-encoding: identity\r\n"),
    *(b"transfer-encoding: chunked, identity\r\n", b"Transfer-Encoding:\x0bchunked\r\n", b" folded\r\n", b"0x5\r\n"),
    *(b"connection: close\r\n", b"connection: upgrade\r\nupgrade: websocket\r\n", b"POST ", b"GET ", b"CONNECT a:1 "),
    *(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"http://other.example/",
        b"/callbacks/",
        b"%0d%0a",
        b"5;\n",
        b"ffffffffffffffff",
    ),
)
_WHOLE: Final = (
    b"POST /callbacks/evolink/abc-_1 HTTP/1.1\r\nhost: relay\r\nUser-Agent:  provider/1.0\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)
_ANSWERS: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nwebhook-delivery: stop\r\n\r\nok",
    b"HTTP/1.1 429 Too Many\r\nretry-after: 120\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 500 \r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: a\r\nconnection: upgrade\r\n\r\nrest",
    b"HTTP/1.1 410 Gone\ncontent-length: 0\n\nHTTP/1.1 200 OK\r\n\r\n",
)
_GZIP: Final = (
    bytes.fromhex("1f8b0800000000000003ab56ca48cdc9c95752b2520a0a0100b6ab4d350f000000"),
    bytes.fromhex("789cab56ca48cdc9c957b2520a0a01001d2204a5"),
    b"plain",
)

TARGETS: Final = (
    Target(
        name="http-requests",
        check=requests,
        seeds=[b"\x00\x10\x40" + head for head in _HEADS],
        words=_WORDS,
        outcomes=frozenset({"1 requests, answered 200", "2 requests, answered 200"}),
    ),
    Target(
        name="http-callbacks",
        check=whole_callback,
        seeds=[_WHOLE, _WHOLE.replace(b"{}", b'{"a":1}').replace(b": 2", b": 7")],
        words=_WORDS,
        outcomes=frozenset({"whole"}),
    ),
    Target(
        name="http-answers",
        check=answer,
        seeds=[b"\x05\x10\x20" + one for one in _ANSWERS],
        words=(
            *_WORDS,
            b"retry-after: 5\r\n",
            b"webhook-delivery: x\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 100 \r\n\r\n",
        ),
        outcomes=frozenset({"200: whole", "429: whole"}),
    ),
    Target(
        name="encodings",
        check=inflated,
        seeds=[bytes([encoding, 5]) + body for encoding in range(len(_ENCODINGS)) for body in _GZIP],
        words=[b"\x1f\x8b\x08", b"\x78\x9c", b"\0\0\xff\xff", b"\x03\0"],
        outcomes=frozenset({"read", "a fault"}),
    ),
)
