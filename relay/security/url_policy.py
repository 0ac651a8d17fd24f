"""Decides whether relay may call a URL: when a client provides it, and for each resolved address before connecting.

Clients' URLs decide where relay's requests go; the policy keeps them on the public internet and out of relay's own
network. The lists are relay's own, because `ipaddress.is_global` changes between patch releases of Python.
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
# https://www.iana.org/assignments/iana-ipv6-special-registry: only the global unicast block is allowed, and in it
# neither Teredo and its neighbours, nor documentation, nor 6to4, which would reach any IPv4 address.
_PUBLIC_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64: Final = IPv6Network("64:ff9b::/96")

ALLOW_NETWORKS: Final = "RELAY_ALLOW_NETWORKS"
ALLOW_HTTP: Final = "RELAY_ALLOW_HTTP"
"""The settings that allow more, named in the reasons of refusals."""
_URL_CHARS_MAX = 2048
_HOST_CHARS_MAX = 253
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_UNPRIVILEGED_PORT, _PORT_MAX = 1024, 65535
# Parsers of URLs differ in what they repair (`\`, tabs, missing or extra slashes, full-width letters). Anything that
# one of them repairs is refused here, so the host that is checked is the host that is called.
_PLAIN: Final = re.compile(r"[!-\[\]-~]*")
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)[^#]*(?P<fragment>#.*)?")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[1-9][0-9]{0,4}))?")
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label, it makes the whole host an IPv4 address


class AddressPolicy:
    """The operator's rules: `allow_networks` besides the public internet, plain http, and relay's own hosts.

    An own host is never called. It is `relay.example` (every port of it) or `127.0.0.1:8000` (that port alone).
    """

    def __init__(
        self, allow_networks: Sequence[Network], allow_http: bool, own_hosts: frozenset[str] = frozenset()
    ) -> None:
        self._allow_networks = tuple(allow_networks)
        self._schemes = ("https", "http") if allow_http else ("https",)
        self._own_hosts = frozenset(host.lower() for host in own_hosts)

    def check_url(self, url: str, chars_max: int = _URL_CHARS_MAX) -> list[str]:
        """Return the reasons why the URL may not be called, empty if it may; no reason repeats an address."""
        if len(url) > chars_max:
            return [f"must be at most {chars_max} characters, not {len(url)}"]
        if not _PLAIN.fullmatch(url):
            return ["must be ASCII without blanks, control characters or backslashes (a host as xn--…, else %XX)"]
        parts = _URL.fullmatch(url)
        if parts is None:
            return ["must be a URL such as https://app.example/hook"]
        reasons = []
        scheme = parts["scheme"].lower()
        if scheme not in self._schemes:
            wanted = " or ".join(f"{allowed}://" for allowed in self._schemes)
            advice = f" ({ALLOW_HTTP}=1 allows http://)" if scheme == "http" else ""
            reasons.append(f"must begin with {wanted}{advice}")
        if parts["fragment"] is not None:
            reasons.append("must not have a fragment (#…)")
        _, at, location = parts["authority"].rpartition("@")
        if at:
            reasons.append("must not have a user name or password")
        return reasons + self._check_location(location.lower(), _DEFAULT_PORTS.get(scheme, 443))

    def may_connect(self, address: str) -> bool:
        """Return whether relay may connect to a resolved address; False if it is malformed or has a zone id."""
        try:
            return "%" not in address and self._is_allowed(ip_address(address))
        except ValueError:
            return False

    def _check_location(self, location: str, default_port: int) -> list[str]:
        """Return the reasons why `host` or `host:port` is refused."""
        parts = _AUTHORITY.fullmatch(location)
        if parts is None:
            return ["must have a host, followed by nothing but a port number"]
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
        elif literal is not None and not self._is_allowed(literal):
            reasons.append(
                f"has an address that relay may not call: it is not public ({ALLOW_NETWORKS} opens networks)"
            )
        usual = port in _DEFAULT_PORTS.values() or port >= _UNPRIVILEGED_PORT
        if port > _PORT_MAX or not (usual or (literal is not None and self._is_opened(literal))):
            others = f"one from {_UNPRIVILEGED_PORT} to {_PORT_MAX}"
            reasons.append(f"must use port 80, 443 or {others} (any, at an address of {ALLOW_NETWORKS})")
        return reasons

    def _is_allowed(self, address: Address) -> bool:
        """Return whether the address, or the IPv4 address that it maps to, is public or allowed by the operator."""
        if self._is_opened(address):
            return True
        destination = _destination(address)
        if isinstance(destination, IPv4Address):
            return not _within(destination, _REFUSED_V4)
        return destination in _PUBLIC_V6 and not _within(destination, _REFUSED_V6)

    def _is_opened(self, address: Address) -> bool:
        """Return whether the address, or the IPv4 address that it maps to, is in one of the operator's networks."""
        return _within(address, self._allow_networks) or _within(_destination(address), self._allow_networks)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    """Return whether one of the networks contains the address."""
    return any(address in network for network in networks)


def _destination(address: Address) -> Address:
    """Return where packets end up: the IPv4 address of a mapped or NAT64 address, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped or address


def _literal(host: str) -> Address | None:
    """Return a host's address, None for a name; raise ValueError if it is neither, or an unusual spelling."""
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
