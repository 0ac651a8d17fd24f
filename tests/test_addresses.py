"""Which addresses and URLs relay may call: every refused range from both ends, and every trick with a URL's spelling."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_network
from urllib.parse import urlsplit

import httpx
import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from relay.addresses import AddressPolicy

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
PUBLIC = AddressPolicy((), allow_http=False)
HTTP = AddressPolicy((), allow_http=True)
OPEN = AddressPolicy((*LOOPBACK, ip_network("10.1.0.0/16"), ip_network("fd00::/8")), allow_http=True)
OWN = AddressPolicy(LOOPBACK, True, frozenset({"Relay.example", "127.0.0.1:8000", "[::1]:8000"}))

ADDRESS = "has an address that relay may not call"
SPELLING = "has a host that is neither a plain name nor an address in its usual form"
NO_HOST = "must have a host"
BEHIND = "must have a host, and no more behind it than a port number"
PORT = "must use port 80, 443 or one from 1024 to 65535"
PLAIN = "must be ASCII without blanks, control characters or backslashes (a host as xn--…, else %XX)"
URL = "must be a URL such as https://app.example/hook"

refused_blocks = pytest.mark.parametrize(
    "block",
    "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
    "2001::/23 2001:db8::/32 2002::/16 3fff::/20".split(),
)


@refused_blocks
def test_refused_blocks_end_where_they_end(block: str) -> None:
    """The first and the last address of a block are refused; the ones just outside are public."""
    network = ip_network(block)
    assert not PUBLIC.may_connect(str(network[0]))
    assert not PUBLIC.may_connect(str(network[-1]))
    assert PUBLIC.may_connect(str(network[0] - 1))
    assert PUBLIC.may_connect(str(network[-1] + 1))


@pytest.mark.parametrize(
    ("refused", "public"),
    [
        ("0.0.0.0", "1.0.0.0"),
        ("0.255.255.255", "1.0.0.0"),
        ("224.0.0.0", "223.255.255.255"),
        ("239.255.255.255", "223.255.255.255"),
        ("240.0.0.0", "223.255.255.255"),
        ("255.255.255.255", "223.255.255.255"),
        ("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
        ("4000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff", "64:ff9b::808:808"),
        ("64:ff9b::1:0:0", "64:ff9b::808:808"),
    ],
)
def test_the_ends_of_the_numbers(refused: str, public: str) -> None:
    """Blocks at the end of a family's numbers have one public neighbour."""
    assert not PUBLIC.may_connect(refused)
    assert PUBLIC.may_connect(public)


@refused_blocks
@given(data=st.data())
def test_the_inside_of_a_block_is_refused(block: str, data: st.DataObject) -> None:
    """Every address of a block is refused, also mapped into IPv6 and behind NAT64."""
    network = ip_network(block)
    address = network[data.draw(st.integers(0, network.num_addresses - 1))]
    assert not PUBLIC.may_connect(str(address))
    if isinstance(address, IPv4Address):
        assert not PUBLIC.may_connect(f"::ffff:{address}")
        assert not PUBLIC.may_connect(f"64:ff9b::{address}")


@pytest.mark.parametrize("address", ["::", "::1", "::7f00:1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"])
def test_other_ipv6_is_refused(address: str) -> None:
    """Loopback, link-local, unique-local, site-local, multicast and IPv4-compatible addresses are not called."""
    assert not PUBLIC.may_connect(address)


@pytest.mark.parametrize("address", ["100::1", "2001:0:5ef5:79fb::1", "2002:7f00:1::", "64:ff9b:1::a00:1", "5f00::1"])
def test_other_transitions_are_refused(address: str) -> None:
    """Discard, Teredo, 6to4, local NAT64 and segment routing lead to addresses that nobody judged."""
    assert not PUBLIC.may_connect(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_called(address: str) -> None:
    """Public addresses pass, in IPv4, IPv6, mapped and NAT64."""
    assert PUBLIC.may_connect(address)


@given(st.integers(0, (1 << 32) - 1).map(IPv4Address))
def test_mapped_and_nat64_are_judged_by_their_ipv4(address: IPv4Address) -> None:
    """The same IPv4 address gets the same answer in all three forms."""
    answers = {PUBLIC.may_connect(form) for form in (f"{address}", f"::ffff:{address}", f"64:ff9b::{address}")}
    assert len(answers) == 1


@given(st.integers(0, (1 << 128) - 1).map(IPv6Address))
def test_ipv6_outside_its_public_block_is_refused(address: IPv6Address) -> None:
    """Outside 2000::/3 only mapped and NAT64 addresses can pass."""
    special = address in ip_network("::ffff:0:0/96") or address in ip_network("64:ff9b::/96")
    assert special or address in ip_network("2000::/3") or not PUBLIC.may_connect(str(address))


@pytest.mark.parametrize("text", ["", "localhost", "8.8.8.8 ", "8.8.8", "08.8.8.8", "0x8.8.8.8", "134744072", "8.8.8.8:80"])
@pytest.mark.parametrize("suffix", ["", "%eth0", "\0", "é", "\ud800"])
def test_only_addresses_are_connected_to(text: str, suffix: str) -> None:
    """What is not exactly an address is refused and not an error."""
    assert not OPEN.may_connect(text + suffix)


@pytest.mark.parametrize("address", ["2606:4700::1111%eth0", "fe80::1%1", "::1%lo", "127.0.0.1%lo"])
def test_zones_are_refused(address: str) -> None:
    """An address with a zone id is some interface's own, whatever is opened."""
    assert not OPEN.may_connect(address)


def test_an_operator_opens_networks() -> None:
    """What is listed is called, in every form; its neighbours and the rest stay refused."""
    for address in ("127.0.0.1", "127.255.255.255", "::1", "10.1.0.0", "::ffff:10.1.2.3", "64:ff9b::127.0.0.1", "fd00::1"):
        assert OPEN.may_connect(address)
        assert not PUBLIC.may_connect(address)
    for address in ("0.0.0.0", "10.0.255.255", "10.2.0.0", "169.254.169.254", "::", "::2", "fe80::1", "fc00::1"):
        assert not OPEN.may_connect(address)


@pytest.mark.parametrize(
    "url",
    "https://app.example/hook https://app.example HTTPS://APP.EXAMPLE:443/ https://app.example:8443/a?b=c&d[]=@: "
    "https://app.example:1024 https://app.example:65535/ https://a_b.xn--fa-hia.example/%C3%A4//..;x "
    "https://8.8.8.8/ https://[2606:4700:4700::1111]:8080/ https://intranet/ https://1.2.3.4.example/ "
    "https://0x7f.example/ https://app.example:80/ https://app.example/a@b:c https://3com".split(),
)
def test_plain_urls_pass(url: str) -> None:
    """What an endpoint usually is has no reason against it."""
    assert PUBLIC.check_url(url) == []


@pytest.mark.parametrize(
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
        ("http://app.example/", ["must begin with https://"]),
        ("ftp://app.example/", ["must begin with https://"]),
        ("file:///etc/passwd", ["must begin with https://", NO_HOST]),
        ("unix://run/app.sock", ["must begin with https://"]),
        ("https://app.example/#", ["must not have a fragment (#…)"]),
        ("https://app.example#@8.8.8.8/", ["must not have a fragment (#…)"]),
        ("https://user@app.example/", ["must not have a user name or password"]),
        ("https://user:pass@app.example/", ["must not have a user name or password"]),
        ("https://@app.example/", ["must not have a user name or password"]),
        ("https://app.example@127.0.0.1/", ["must not have a user name or password", ADDRESS]),
        ("https://a@b@app.example/", ["must not have a user name or password"]),
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
        ("http://u@[::1]:25/#x", ["must begin with https://", "must not have a fragment (#…)"]
         + ["must not have a user name or password", ADDRESS, PORT]),
        ("https://" + "a" * 2041, ["must be at most 2048 characters"]),
        ("https://" + "a" * 2040, [SPELLING]),
        ("https://" + "a" * 64 + ".example/", [SPELLING]),
        ("https://" + "a." * 126 + "bc/", [SPELLING]),
    ],
)  # fmt: skip
def test_every_reason_is_told(url: str, reasons: list[str]) -> None:
    """A URL is refused for all its reasons at once, and none names an address."""
    assert PUBLIC.check_url(url) == reasons


@pytest.mark.parametrize("char", [*map(chr, range(0x21)), "\\", "\x7f", "\x85", "\xa0", "ä", "。", "①", "\u200b", "\ud800"])
@pytest.mark.parametrize("form", ["{}https://app.example/", "ht{}tps://app.example/", "https://app{}.example/"]
                         + ["https://app.example{}/", "https://app.example/a{}b", "https://app.example/?{}"])  # fmt: skip
def test_characters_that_parsers_repair(char: str, form: str) -> None:
    """Blanks, control characters, backslashes and all that is not ASCII are refused wherever they stand."""
    assert PUBLIC.check_url(form.format(char)) == [PLAIN]


@pytest.mark.parametrize(
    "host",
    "127.1 127.0.1 2130706433 017700000001 0x7f000001 0X7F.1 0x7f.0.0.1 0177.0.0.1 127.0.0.01 127.0.0.1. 127.0.0.0x1 0 0x "
    "169.254.43518 0xa9fea9fe 4294967296 256.0.0.1 1.2.3.4.5 1.2.3 127.0.0.1.1 app.example. .example a..b -a.example "
    "a-.example app%2eexample 127.0.0.%31 app.example%00 app,example a*b [::1%lo] [fe80::1%25eth0] [::1]. [] [::g] "
    "[v1.a] [127.0.0.1] [1:2:3] %6c%6f%63alhost !".split(),
)
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
    assert HTTP.check_url(f"http://{host}/") == ([] if host == meant and PUBLIC.may_connect(meant) else [ADDRESS]
                                                 if host == meant else [SPELLING])  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "localhost", "LocalHost", "a.localhost"]
                         + ["[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::a00:1]", "[fe80::1]"])  # fmt: skip
def test_refused_addresses_in_urls(host: str) -> None:
    """An address in a URL is judged as a resolved one is, and `localhost` is what it is."""
    assert HTTP.check_url(f"http://{host}:8080/") == [ADDRESS]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"])
def test_an_opened_network_opens_every_port(host: str) -> None:
    """The operator's own networks may be called by address, on any port."""
    for port in ("", ":1", ":81", ":8000", ":65535"):
        assert OPEN.check_url(f"http://{host}{port}/hook") == []
    assert OPEN.check_url(f"http://{host}:65536/hook") == [PORT]
    assert OPEN.check_url("http://app.example:81/hook") == [PORT]
    assert OPEN.check_url("http://8.8.8.8:81/hook") == [PORT]


@pytest.mark.parametrize("host", ["relay.example", "RELAY.EXAMPLE", "relay.example:8443", "127.0.0.1:8000", "[0::1]:8000"])
def test_relay_does_not_call_itself(host: str) -> None:
    """Relay's own host is refused: by name on every port, with a port on that one."""
    assert OWN.check_url(f"http://{host}/") == ["must not be relay itself"]


@pytest.mark.parametrize("host", ["a.relay.example", "relay.example.org", "127.0.0.1:8001", "127.0.0.1", "[::1]:8001"])
def test_other_hosts_are_not_relay_itself(host: str) -> None:
    """Neighbours of relay's own host are called."""
    assert OWN.check_url(f"http://{host}/") == []


parts = st.sampled_from("http:// https:// http: / // \\ @ : # ? . .. % %2e [ ] [::1] a app.example 127.0.0.1 0x7f.1 1 443 "
                        "localhost ａ ① 。 xn--a _ - * ; & = ~ user:pass@".split() + ["\t", "\n", " ", "\0"])  # noqa: RUF001  # fmt: skip


@given(st.lists(parts | st.text(max_size=2), max_size=8).map("".join), st.booleans())
def test_clients_agree_on_what_passes(rest: str, prefixed: bool) -> None:
    """Of a URL that passes, three other parsers find the same scheme, host and port as one that only splits it."""
    url = f"http://{rest}" if prefixed else rest
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
