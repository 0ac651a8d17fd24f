"""Find the address of a client, by the one rule of RELAY_CLIENT_IP, for the log and for limits of an address.

A client can send any `X-Forwarded-For`, so only what a known proxy has written counts: the entries that it appended
on the right, or a header that it replaces.
"""

from collections.abc import Callable, Iterable
from functools import cache
from ipaddress import ip_address

from starlette.types import Scope

from relay import log

_logger = log.get("web")
AddressOf = Callable[[Scope], str | None]


@cache
def client_address(rule: str) -> AddressOf:
    """Return what finds a request's client by `peer`, `xff:N` or `header:NAME`; None where it has no address.

    Where the rule finds no address, that of the connection counts.
    """
    kind, _, argument = rule.partition(":")
    if kind == "xff":
        return lambda scope: _forwarded(scope["headers"], int(argument)) or _peer(scope)
    if kind == "header":
        return lambda scope: _from_header(scope["headers"], argument.encode()) or _peer(scope)
    return _peer


class ProxyNotice:
    """Logs once, for a process, that a proxy seems to be in front which RELAY_CLIENT_IP does not name.

    A client may send the header itself, so it changes nothing but the log.
    """

    def __init__(self, rule: str) -> None:
        self._due = rule == "peer"

    def note(self, scope: Scope) -> None:
        """Log the first request with X-Forwarded-For, while the address of the connection counts as the client's."""
        if self._due and any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
            self._due = False
            _logger.warning(
                "settings.client_ip",
                peer=_peer(scope),
                advice="requests carry X-Forwarded-For: if a proxy in front of relay sends it, set RELAY_CLIENT_IP "
                "(xff:1 behind one proxy); until then all of its clients count as one address",
            )


def _peer(scope: Scope) -> str | None:
    """Return the address at the other end of the connection."""
    return scope["client"][0] if scope.get("client") else None


def _forwarded(headers: Iterable[tuple[bytes, bytes]], proxies: int) -> str | None:
    """Return the entry that the outermost of so many proxies appended to X-Forwarded-For."""
    listed = b",".join(value for name, value in headers if name == b"x-forwarded-for").split(b",")
    return _address(listed[-proxies]) if len(listed) >= proxies else None


def _from_header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    """Return the address in a header; None where it was sent twice, since then a proxy has not replaced it."""
    values = [value for name, value in headers if name == wanted]
    return _address(values[0]) if len(values) == 1 else None


def _address(text: bytes) -> str | None:
    """Return the address of a text; None where it is none."""
    try:
        return str(ip_address(text.strip().decode("ascii")))
    except ValueError:
        return None
