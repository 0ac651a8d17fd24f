"""The strict form of a callback's request: whatever is read in it, the parser reads alike, and nothing else is read."""

from typing import Any

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from relay.web import whole_request
from relay.web.whole_request import WholeCallback
from tests.support.rows import rows

BODY = b'{"status":"completed"}'
LINES = (b"host: relay", b"User-Agent:  provider/1.0", b"x-empty:")


def request(*lines: bytes, path: bytes = b"/callbacks/evolink/abc-_1", body: bytes = BODY, length: str = "") -> bytes:
    """Return a request with these header lines before its length."""
    size = (length or str(len(body))).encode()
    return b"\r\n".join((b"POST %b HTTP/1.1" % path, *lines, b"Content-Length: " + size, b"", body))


class Parsed:
    """What httptools calls back for a read."""

    def __init__(self, data: bytes) -> None:
        self.url, self.body, self.ends = b"", b"", 0
        self.headers: list[tuple[str, str]] = []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Keep the URL, which may come in parts."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers.append((name.decode().lower(), value.decode()))

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Count a request's end."""
        self.ends += 1


def read_alike(data: bytes) -> WholeCallback | None:
    """Return what is read of the bytes, after comparing it with what the parser reads."""
    whole = whole_request.read(data)
    if whole is not None:
        parsed = Parsed(data)
        assert (parsed.parser.get_method(), parsed.parser.get_http_version(), parsed.ends) == (b"POST", "1.1", 1)
        assert parsed.url.decode() == f"/callbacks/{whole.provider}/{whole.token}"
        assert tuple(parsed.headers) == whole.headers == tuple(whole.fields.items())
        assert parsed.body == whole.body
        assert parsed.parser.should_keep_alive()
        assert not parsed.parser.should_upgrade()
        assert whole.head_bytes + len(whole.body) == len(data)
    return whole


@rows("body", [BODY, b"", b"\x00\xff\r\n\r\n", b"POST /callbacks/a/b HTTP/1.1\r\n\r\n"])
def test_a_callback_is_read_whole(body: bytes) -> None:
    """Return path, headers in lower case, and body, whatever the body's bytes are."""
    whole = read_alike(request(*LINES, body=body))
    assert whole is not None
    assert (whole.provider, whole.token, whole.body) == ("evolink", "abc-_1", body)
    assert whole.headers == (
        ("host", "relay"),
        ("user-agent", "provider/1.0"),
        ("x-empty", ""),
        ("content-length", str(len(body))),
    )


@rows(
    "data",
    [
        request(b"transfer-encoding: chunked"),
        request(b"Transfer-Encoding : chunked"),
        request(b"connection: close"),
        request(b"connection: keep-alive, upgrade"),
        request(b"proxy-connection: close"),
        request(b"expect: 100-continue"),
        request(b"upgrade: h2c"),
        request(b"te: trailers"),
        request(b"trailer: x"),
        request(b"http2-settings: x"),
        request(b"content-length: 22"),
        request(b"x-a: 1", b"x-a: 2"),
        request(b"x-a: 1 "),
        request(b"x-a: 1\t"),
        request(b"x-a: \xe9"),
        request(b"x-a: 1\r\n 2"),
        request(b"x-a : 1"),
        request(b": 1"),
        request(b"x-a: 1\n"),
        request(b"x-a: \x00"),
        request(length="+22"),
        request(length="22,22"),
        request(length="0x16"),
        request(length="22;"),
        request(length="-1"),
        request(length="00000000022"),
        request(length="21"),
        request(length="23"),
        request()[:-1],
        request() + b"\r\n",
        request() + request(),
        request(path=b"/callbacks/evolink/abc/"),
        request(path=b"/callbacks/evolink/abc?a=1"),
        request(path=b"/callbacks/evolink/a%62c"),
        request(path=b"/callbacks/Evolink/abc"),
        request(path=b"/callbacks//abc"),
        request(path=b"/callbacks/evolink/" + b"a" * 401),
        request(path=b"/callbacks/" + b"a" * 65 + b"/abc"),
        request().replace(b"HTTP/1.1", b"HTTP/1.0"),
        request().replace(b"POST ", b"POST  "),
        request().replace(b"POST", b"PUT"),
        request().replace(b"\r\n", b"\n"),
        b"\r\n" + request(),
        b"POST /callbacks/evolink/abc HTTP/1.1\r\n\r\n",
        b"POST /callbacks/evolink/abc HTTP/1.1\r\nhost: relay\r\n\r\n",
    ],
)
def test_every_other_form_is_left_to_the_parser(data: bytes) -> None:
    """Return None for what another parser might read in another way, and for what changes how it is answered."""
    assert whole_request.read(data) is None


@rows("line", [b"connection: keep-alive", b"Connection: Keep-Alive"])
def test_a_connection_that_is_kept_anyway_may_say_so(line: bytes) -> None:
    """Read a request that names the default of HTTP/1.1, as many clients do."""
    assert read_alike(request(line)) is not None


@rows(("provider", "token"), [(64, 400), (1, 1)])
def test_the_longest_path_is_read(provider: int, token: int) -> None:
    """Read a provider's name of 64 characters and a token of 400."""
    assert read_alike(request(path=b"/callbacks/" + b"a" * provider + b"/" + b"b" * token)) is not None


BYTES = st.sampled_from([bytes([code]) for code in range(256)])
EDITS = st.lists(st.tuples(st.integers(0, 140), st.integers(0, 2), st.one_of(BYTES, st.just(b"\r\n"))), max_size=3)


@example([(0, 0, b"\r\n")])
@given(EDITS)
def test_no_request_is_read_that_the_parser_reads_otherwise(edits: list[Any]) -> None:
    """Whatever a few bytes are replaced with, what is still read is what the parser reads."""
    data = request(*LINES)
    for place, removed, put in edits:
        data = data[:place] + put + data[place + removed :]
    read_alike(data)
