"""Count requests against the rate of their API key, or of their address where nothing proves them.

A key, a session and a callback token prove a request. Every other one counts against its address, except those for
the dashboard's files, and for `/healthz`, `/readyz` and an open `/metrics`, which are needed most under an attack. A
request counts once, when it begins: so do streams, held requests and uploads. The rates are in
`security/request_rates.py`.
"""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from starlette.types import Scope

from relay import log
from relay.app import App
from relay.errors import TooManyRequests
from relay.web.client_address import client_address

if TYPE_CHECKING:
    from starlette.responses import Response

_logger = log.get("web")


def network_of_client(app: App, scope: Scope) -> str:
    """Return what a request's address is counted by."""
    return network_of(client_address(app.settings.client_ip)(scope))


@lru_cache(4096)
def network_of(address: str | None) -> str:
    """Return what an address is counted by: an IPv4 address, or the /64 of an IPv6 address, which one client has."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


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


def refusal(app: App, scope: Scope) -> "Response | None":
    """Count a request that nothing proves; return the 429 of one over the rate of its address, None for another."""
    try:
        count_unproven(app, scope)
    except TooManyRequests as error:
        from relay.web.problems import error_problem  # noqa: PLC0415 - the callback route counts without Starlette

        app.metrics.refused(error.bound)
        return error_problem(error)
    return None


def _setting(error: TooManyRequests) -> str:
    """Return the setting of the limit that was reached."""
    return f"RELAY_{error.bound}".upper()
