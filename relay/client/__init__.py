"""A client of relay's API, for programs that submit jobs and receive notifications.

`AsyncRelay` and `Relay` do the same, with and without asyncio; `verify` proves that a notification is genuine. It needs
httpx and msgspec, and nothing of relay's server. Answers are the Structs of `types`: a client ignores fields that it
does not know, so it also works with a newer relay.
"""

from relay.client.aio import AsyncRelay
from relay.client.notifications import Notification, verify
from relay.client.requests import RelayError, RelayUnavailable
from relay.client.sync import Relay
from relay.security.signatures import SignatureInvalid

__all__ = ["AsyncRelay", "Notification", "Relay", "RelayError", "RelayUnavailable", "SignatureInvalid", "verify"]
