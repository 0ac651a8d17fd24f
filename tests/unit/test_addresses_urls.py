"""Which URLs may be endpoints: every reason to refuse one, and that no client would call another host than judged."""

import socket
from ipaddress import IPv4Address, ip_network
from urllib.parse import urlsplit

import httpx
import yarl
from hypothesis import given
from hypothesis import strategies as st

from relay.security.url_policy import AddressPolicy
from tests.support.rows import rows

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
PUBLIC = AddressPolicy((), allow_http=False)
HTTP = AddressPolicy((), allow_http=True)
OPEN = AddressPolicy(LOOPBACK, allow_http=True)
OWN = AddressPolicy(LOOPBACK, True, frozenset({"Relay.example", "127.0.0.1:8000", "[::1]:8000"}))

ADDRESS = "has an address that relay may not call: it is not public (RELAY_ALLOW_NETWORKS opens networks)"
SPELLING = "has a host that is neither a plain name nor an address in its usual form"
NO_HOST = "must have a host"
BEHIND = "must have a host, followed by nothing but a port number"
PORT = "must use port 80, 443 or one from 1024 to 65535 (any, at an address of RELAY_ALLOW_NETWORKS)"
PLAIN = "must be ASCII without blanks, control characters or backslashes (a host as xn--…, else %XX)"
URL = "must be a URL such as https://app.example/hook"
USERINFO = "must not have a user name or password"
FRAGMENT = "must not have a fragment (#…)"
HTTPS = "must begin with https://"
HTTP_CLOSED = "must begin with https:// (RELAY_ALLOW_HTTP=1 allows http://)"

PLAIN_URLS = """
https://app.example/hook https://app.example HTTPS://APP.EXAMPLE:443/ https://app.example:8443/a?b=c&d[]=@:
https://app.example:1024 https://app.example:65535/ https://a_b.xn--fa-hia.example/%C3%A4//..;x
https://8.8.8.8/ https://[2606:4700:4700::1111]:8080/ https://intranet/ https://1.2.3.4.example/
https://0x7f.example/ https://app.example:80/ https://app.example/a@b:c https://3com?x https://app.example/?/../@
"""
UNUSUAL_HOSTS = """
127.1 127.0.1 2130706433 017700000001 0x7f000001 0X7F.1 0x7f.0.0.1 0177.0.0.1 127.0.0.01 127.0.0.1. 127.0.0.0x1 0 0x
169.254.43518 0xa9fea9fe 4294967296 256.0.0.1 1.2.3.4.5 1.2.3 127.0.0.1.1 app.example. .example a..b -a.example
a-.example app%2eexample 127.0.0.%31 app.example%00 app,example a*b [::1%lo] [fe80::1%25eth0] [::1]. [] [::g]
[v1.a] [127.0.0.1] [1:2:3] %6c%6f%63alhost !
"""
ODD_PIECES = """
http: // / \\ @ : # ? . .. % %2e %40 [ ] [::1] a 127.0.0.1 0x7f.1 1 :1 :443 localhost ａ ① 。 xn-- _ - * ; & = ~ a:b@
"""  # noqa: RUF001


@rows("url", PLAIN_URLS.split())
def test_plain_urls_pass(url: str) -> None:
    """What an endpoint usually is has no reason against it."""
    assert PUBLIC.check_url(url) == []


@rows(
    ("url", "reasons"),
    [
        ("", [URL]),
        ("app.example/hook", [URL]),
        ("//app.example/hook", [URL]),
        ("https:app.example", [URL]),
        ("https:/app.example", [URL]),
        ("https://", [NO_HOST]),
        ("https:///app.example", [NO_HOST]),
        ("https://?a=b", [NO_HOST]),
        ("https://:443/", [NO_HOST]),
        ("http://app.example/", [HTTP_CLOSED]),
        ("ftp://app.example/", [HTTPS]),
        ("file:///etc/passwd", [HTTPS, NO_HOST]),
        ("unix://run/app.sock", [HTTPS]),
        ("https://app.example/#", [FRAGMENT]),
        ("https://app.example#@8.8.8.8/", [FRAGMENT]),
        ("https://user@app.example/", [USERINFO]),
        ("https://user:pass@app.example/", [USERINFO]),
        ("https://@app.example/", [USERINFO]),
        ("https://app.example@127.0.0.1/", [USERINFO, ADDRESS]),
        ("https://a@b@app.example/", [USERINFO]),
        ("https://app.example:/", [BEHIND]),
        ("https://app.example:0/", [BEHIND]),
        ("https://app.example:0443/", [BEHIND]),
        ("https://app.example:+443/", [BEHIND]),
        ("https://app.example:443:443/", [BEHIND]),
        ("https://app.example:123456/", [BEHIND]),
        ("https://::1/", [BEHIND]),
        ("https://[::1/", [BEHIND]),
        ("https://[8.8.8.8]x/", [BEHIND]),
        ("https://app.example:22/", [PORT]),
        ("https://app.example:1023/", [PORT]),
        ("https://app.example:65536/", [PORT]),
        ("https://127.0.0.1:22/", [ADDRESS, PORT]),
        ("http://u@[::1]:25/#x", [HTTP_CLOSED, FRAGMENT, USERINFO, ADDRESS, PORT]),
        ("https://" + "a" * 2041, ["must be at most 2048 characters, not 2049"]),
        ("https://" + "a" * 2040, [SPELLING]),
        ("https://" + "a" * 64 + ".example/", [SPELLING]),
        ("https://" + "a." * 126 + "bc/", [SPELLING]),
    ],
)
def test_every_reason_is_told(url: str, reasons: list[str]) -> None:
    """A URL is refused for all its reasons at once, and none names an address."""
    assert PUBLIC.check_url(url) == reasons


@rows("char", [*map(chr, range(0x21)), *"\\\x7f\x85\xa0ä。①\u200b\ud800"])
@rows("form", ["{}https://a.example/", "ht{}tps://a.example/", "https://a{}.example/", "https://a.example/{}?"])
def test_characters_that_parsers_repair(char: str, form: str) -> None:
    """Blanks, control characters, backslashes and all that is not ASCII are refused wherever they stand."""
    assert PUBLIC.check_url(form.format(char)) == [PLAIN]


@rows("host", UNUSUAL_HOSTS.split())
def test_unusual_spellings_are_refused(host: str) -> None:
    """Whatever a resolver would make of it: an address in an unusual spelling is refused, and so is what is no name."""
    for policy in (HTTP, OPEN):
        assert policy.check_url(f"http://{host}/") in ([SPELLING], [BEHIND])


@given(st.text("0123456789abcdefxX.", min_size=1, max_size=20))
def test_no_address_passes_for_a_name(host: str) -> None:
    """A host that the C library reads as an address either passes as exactly that public address, or is refused."""
    try:
        meant = str(IPv4Address(socket.inet_aton(host)))
    except OSError:
        return
    judged = [] if PUBLIC.may_connect(meant) else [ADDRESS]
    assert HTTP.check_url(f"http://{host}/") == (judged if host == meant else [SPELLING])


@rows(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "localhost", "LocalHost", "a.localhost"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::a00:1]", "[fe80::1]"),
    ],
)
def test_refused_addresses_in_urls(host: str) -> None:
    """An address in a URL is judged as a resolved one is, and `localhost` is what it is."""
    assert HTTP.check_url(f"http://{host}:8080/") == [ADDRESS]


@rows("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"])
def test_an_opened_network_opens_every_port(host: str) -> None:
    """The operator's own networks may be called by address, on any port."""
    for port in ("", ":1", ":81", ":8000", ":65535"):
        assert OPEN.check_url(f"http://{host}{port}/hook") == []
    assert OPEN.check_url(f"http://{host}:65536/hook") == [PORT]
    assert OPEN.check_url("http://app.example:81/hook") == [PORT]
    assert OPEN.check_url("http://8.8.8.8:81/hook") == [PORT]


@rows("host", ["relay.example", "RELAY.EXAMPLE", "relay.example:8443", "127.0.0.1:8000", "[0::1]:8000"])
def test_relay_does_not_call_itself(host: str) -> None:
    """Relay's own host is refused: by name on every port, with a port on that one."""
    assert OWN.check_url(f"http://{host}/") == ["must not be relay itself (RELAY_PUBLIC_URL)"]


@rows("host", ["a.relay.example", "relay.example.org", "127.0.0.1:8001", "127.0.0.1", "[::1]:8001"])
def test_other_hosts_are_not_relay_itself(host: str) -> None:
    """Neighbours of relay's own host are called."""
    assert OWN.check_url(f"http://{host}/") == []


pieces = st.sampled_from([*ODD_PIECES.split(), *"\t\n \0"]) | st.text(max_size=2)


@given(st.sampled_from([*PLAIN_URLS.split(), "http://app.example:8080/", ""]), st.lists(pieces, max_size=2), st.data())
def test_clients_agree_on_what_passes(url: str, inserted: list[str], data: st.DataObject) -> None:
    """Of a URL that passes, three other parsers find the same scheme, host and port as plain splitting does."""
    for piece in inserted:
        position = data.draw(st.integers(0, len(url)))
        url = url[:position] + piece + url[position:]
    if HTTP.check_url(url):
        return
    scheme, _, after = url.partition("://")
    authority = after.replace("?", "/").partition("/")[0].lower()
    host, port = (authority[1:].split("]") if authority[0] == "[" else authority.partition(":")[::2])[:2]
    expected = (scheme.lower(), host, int(port.removeprefix(":") or {"http": 80, "https": 443}[scheme.lower()]))
    split, by_yarl, by_httpx = urlsplit(url), yarl.URL(url), httpx.URL(url)
    assert (split.scheme, split.hostname, split.port or expected[2]) == expected
    assert (by_yarl.scheme, by_yarl.raw_host, by_yarl.port) == expected
    assert (by_httpx.scheme, by_httpx.raw_host.decode().strip("[]"), by_httpx.port or expected[2]) == expected


@given(st.text(st.characters()))
def test_any_text_is_judged(url: str) -> None:
    """No text raises, and a reason is text for a person."""
    for policy in (PUBLIC, OPEN):
        assert all(reason.startswith(("must ", "has ")) for reason in policy.check_url(url))
        assert policy.check_url("https://" + url) is not None
