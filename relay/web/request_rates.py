"""Count requests against the rate of their API key, or of their address where nothing proves them.

A key, a session and a callback token prove a request. Every other one counts against its address, except those for
the dashboard's files, and for `/healthz`, `/readyz` and an open `/metrics`, which are needed most under an attack. A
wrong key counts apart from requests without one, so that these do not lock out a key that is used for the first time.
A request counts once, when it begins: so do streams, held requests and uploads. The rates are in
`security/request_rates.py`.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

from starlette.types import Scope

from relay import log
from relay.app import App
from relay.errors import TooManyRequests
from relay.web.client_address import client_address

if TYPE_CHECKING:
    from starlette.responses import Response

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""IPv4 clients of a network that has IPv6 alone: https://www.rfc-editor.org/rfc/rfc6052#section-2.1"""
_logger = log.get("web")


def network_of_client(app: App, scope: Scope) -> str:
    """Return what a request's address is counted by."""
    return network_of(client_address(app.settings.client_ip)(scope))


@lru_cache(4096)
def network_of(address: str | None) -> str:
    """Return what an address is counted by: an IPv4 address, or the /64 of an IPv6 address, which one client has.

    An IPv6 address that stands for an IPv4 one (`::ffff:0:0/96`, and NAT64's `64:ff9b::/96`) is counted by that.
    """
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None or parsed in _NAT64:
        return str(IPv4Address(int(parsed) & 0xFFFFFFFF))
    return str(IPv6Address(int(parsed) >> 64 << 64))


def count_key(app: App, key_id: str, scope: Scope) -> None:
    """Count a request with a valid key, or of a session with one; raise TooManyRequests over the key's rate."""
    now_ms = app.clock.monotonic_ms()
    try:
        app.rates.take_of_key(key_id, now_ms)
    except TooManyRequests as error:
        if app.rates.may_mention(key_id, now_ms):
            client = client_address(app.settings.client_ip)(scope)
            _logger.warning("requests.limited", setting=_setting(error), key=key_id, client=client)
        raise


def count_unproven(app: App, scope: Scope) -> None:
    """Count a request that nothing proves; raise TooManyRequests over the rate of its address."""
    address = network_of_client(app, scope)
    try:
        app.rates.take_of_address(address, app.clock.monotonic_ms())
    except TooManyRequests as error:
        mention_address(app, address, error)
        raise


def mention_address(app: App, address: str, error: TooManyRequests) -> None:
    """Log, once a minute, that requests of an address are refused."""
    if app.rates.may_mention(address, app.clock.monotonic_ms()):
        _logger.warning("requests.limited", setting=_setting(error), client=address)


def refusal(app: App, scope: Scope, key_id: str | None = None) -> "Response | None":
    """Count a request of a session with a key, or (None) one that nothing proves.

    Return the 429 of one over the rate of its key, or of its address; None for any other.
    """
    try:
        if key_id is None:
            count_unproven(app, scope)
        else:
            count_key(app, key_id, scope)
    except TooManyRequests as error:
        from relay.web.problems import error_problem  # noqa: PLC0415 - the callback route counts without Starlette

        app.metrics.refused(error.bound)
        return error_problem(error)
    return None


def _setting(error: TooManyRequests) -> str:
    """Return the setting of the limit that was reached."""
    return f"RELAY_{error.bound}".upper()
