"""Which addresses relay may connect to: every refused block from both ends, in every form an address can take."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.security.url_policy import AddressPolicy
from tests.support.rows import rows

PUBLIC = AddressPolicy((), allow_http=False)
OPENED = ("127.0.0.0/8", "::1/128", "10.1.0.0/16", "fd00::/8")
OPEN = AddressPolicy([ip_network(network) for network in OPENED], allow_http=True)

BLOCKS = """
10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
2001::/23 2001:db8::/32 2002::/16 3fff::/20
"""
refused_blocks = pytest.mark.parametrize("block", BLOCKS.split())


@refused_blocks
def test_refused_blocks_end_where_they_end(block: str) -> None:
    """The first and the last address of a block are refused; the ones just outside are public."""
    network = ip_network(block)
    assert not PUBLIC.may_connect(str(network[0]))
    assert not PUBLIC.may_connect(str(network[-1]))
    assert PUBLIC.may_connect(str(network[0] - 1))
    assert PUBLIC.may_connect(str(network[-1] + 1))


@rows(
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


@rows("address", ["::", "::1", "::7f00:1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1"])
def test_other_ipv6_is_refused(address: str) -> None:
    """Loopback, link-local, unique-local, site-local, multicast and IPv4-compatible addresses are not called."""
    assert not PUBLIC.may_connect(address)


@rows("address", ["100::1", "2001:0:5ef5:79fb::1", "2002:7f00:1::", "64:ff9b:1::a00:1", "5f00::1"])
def test_other_transitions_are_refused(address: str) -> None:
    """Discard, Teredo, 6to4, local NAT64 and segment routing lead to addresses that nobody judged."""
    assert not PUBLIC.may_connect(address)


@rows("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
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


@rows("text", ["", "localhost", "8.8.8.8 ", "8.8.8", "08.8.8.8", "0x8.8.8.8", "134744072", "8.8.8.8:80"])
@rows("suffix", ["", "%eth0", "\0", "é", "\ud800"])
def test_only_addresses_are_connected_to(text: str, suffix: str) -> None:
    """What is not exactly an address is refused and not an error."""
    assert not OPEN.may_connect(text + suffix)


@rows("address", ["2606:4700::1111%eth0", "fe80::1%1", "::1%lo", "127.0.0.1%lo"])
def test_zones_are_refused(address: str) -> None:
    """An address with a zone id is some interface's own, whatever is opened."""
    assert not OPEN.may_connect(address)


def test_an_operator_opens_networks() -> None:
    """What is listed is called, in every form; its neighbours and the rest stay refused."""
    for address in ("127.0.0.1", "127.255.255.255", "::1", "10.1.0.0", "::ffff:10.1.2.3", "64:ff9b::7f00:1", "fd00::1"):
        assert OPEN.may_connect(address)
        assert not PUBLIC.may_connect(address)
    for address in ("0.0.0.0", "10.0.255.255", "10.2.0.0", "169.254.169.254", "::", "::2", "fe80::1", "fc00::1"):
        assert not OPEN.may_connect(address)
