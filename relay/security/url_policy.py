"""May relay call this? Asked of a URL when it is given, and of each resolved address before a connection is made to it.

Whoever gives relay a URL decides where relay's requests go; this keeps them on the public internet and out of the
network that relay itself stands in. The lists are relay's own, because what `ipaddress.is_global` says changes between
patch releases of Python.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# https://www.iana.org/assignments/iana-ipv4-special-registry, multicast, the reserved block, and the address at which
# Azure's machines are served (https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16).
_REFUSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
# https://www.iana.org/assignments/iana-ipv6-special-registry: of all IPv6 only the global unicast block is called, and
# in it neither Teredo and its neighbours, nor documentation, nor 6to4, which would reach any IPv4 address.
_PUBLIC_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64: Final = IPv6Network("64:ff9b::/96")

ALLOW_NETWORKS: Final = "RELAY_ALLOW_NETWORKS"
ALLOW_HTTP: Final = "RELAY_ALLOW_HTTP"
"""The settings that open more, for the texts of refusals."""
_URL_CHARS_MAX = 2048
_HOST_CHARS_MAX = 253
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_UNPRIVILEGED_PORT, _PORT_MAX = 1024, 65535
# Parsers of URLs differ in what they repair (`\`, tabs, missing or extra slashes, full-width letters). Nothing that any
# of them repairs passes here, so the host that is judged is the host that is called.
_PLAIN: Final = re.compile(r"[!-\[\]-~]*")
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)[^#]*(?P<fragment>#.*)?")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[1-9][0-9]{0,4}))?")
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label, it makes the whole host an IPv4 address


class AddressPolicy:
    """The operator's rules: networks opened besides the public ones, plain http, and relay's own hosts.

    An own host is `relay.example` (every port of it) or `127.0.0.1:8000` (that port alone).
    """

    def __init__(
        self, allow_networks: Sequence[Network], allow_http: bool, own_hosts: frozenset[str] = frozenset()
    ) -> None:
        self._allow_networks = tuple(allow_networks)
        self._schemes = ("https", "http") if allow_http else ("https",)
        self._own_hosts = frozenset(host.lower() for host in own_hosts)

    def check_url(self, url: str) -> list[str]:
        """Every reason why the URL may not be an endpoint, none when it may; no address is named in any of them."""
        if len(url) > _URL_CHARS_MAX:
            return [f"must be at most {_URL_CHARS_MAX} characters"]
        if not _PLAIN.fullmatch(url):
            return ["must be ASCII without blanks, control characters or backslashes (a host as xn--…, else %XX)"]
        parts = _URL.fullmatch(url)
        if parts is None:
            return ["must be a URL such as https://app.example/hook"]
        reasons = []
        scheme = parts["scheme"].lower()
        if scheme not in self._schemes:
            wanted = " or ".join(f"{allowed}://" for allowed in self._schemes)
            hint = f" ({ALLOW_HTTP}=1 allows http://)" if scheme == "http" else ""
            reasons.append(f"must begin with {wanted}{hint}")
        if parts["fragment"] is not None:
            reasons.append("must not have a fragment (#…)")
        _, at, location = parts["authority"].rpartition("@")
        if at:
            reasons.append("must not have a user name or password")
        return reasons + self._check_location(location.lower(), _DEFAULT_PORTS.get(scheme, 443))

    def may_connect(self, address: str) -> bool:
        """Whether relay may open a connection to one resolved address; False for what is none, or has a zone id."""
        try:
            return "%" not in address and self._allowed(ip_address(address))
        except ValueError:
            return False

    def _check_location(self, location: str, default_port: int) -> list[str]:
        """What is wrong with `host` or `host:port`."""
        parts = _AUTHORITY.fullmatch(location)
        if parts is None:
            return ["must have a host, and no more behind it than a port number"]
        host, port = parts["host"], int(parts["port"] or default_port)
        if not host:
            return ["must have a host"]
        try:
            literal = _literal(host)
        except ValueError:
            return ["has a host that is neither a plain name nor an address in its usual form"]
        if isinstance(literal, IPv6Address):
            host = f"[{literal.compressed}]"
        reasons = []
        if not self._own_hosts.isdisjoint((host, f"{host}:{port}")):
            reasons.append("must not be relay itself (RELAY_PUBLIC_URL)")
        elif literal is not None and not self._allowed(literal):
            reasons.append(
                f"has an address that relay may not call: it is not public ({ALLOW_NETWORKS} opens networks)"
            )
        usual = port in _DEFAULT_PORTS.values() or port >= _UNPRIVILEGED_PORT
        if port > _PORT_MAX or not (usual or (literal is not None and self._opened(literal))):
            others = f"one from {_UNPRIVILEGED_PORT} to {_PORT_MAX}"
            reasons.append(f"must use port 80, 443 or {others} (any, at an address of {ALLOW_NETWORKS})")
        return reasons

    def _allowed(self, address: Address) -> bool:
        """Whether the address, or the IPv4 address that it leads to, is public or opened."""
        if self._opened(address):
            return True
        reached = _reached(address)
        if isinstance(reached, IPv4Address):
            return not _within(reached, _REFUSED_V4)
        return reached in _PUBLIC_V6 and not _within(reached, _REFUSED_V6)

    def _opened(self, address: Address) -> bool:
        """Whether the operator opened a network that holds the address, or the IPv4 address that it leads to."""
        return _within(address, self._allow_networks) or _within(_reached(address), self._allow_networks)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in networks)


def _reached(address: Address) -> Address:
    """Where a packet ends up: the IPv4 address inside a mapped or NAT64 one, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped or address


def _literal(host: str) -> Address | None:
    """The address a host spells, None for a name; ValueError when it is neither, or an address spelled unusually."""
    if host.startswith("["):
        if "%" in host:
            raise ValueError("a zone id")
        return IPv6Address(host[1:-1])
    if len(host) > _HOST_CHARS_MAX or not _NAME.fullmatch(host):
        raise ValueError("not a name")
    label = host.rpartition(".")[2]
    if label == "localhost":  # RFC 6761 §6.3: this name and those under it are loopback, whatever a resolver says
        return IPv4Address("127.0.0.1")
    return IPv4Address(host) if _NUMBER.fullmatch(label) else None
