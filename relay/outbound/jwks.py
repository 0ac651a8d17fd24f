"""The keys that a provider publishes for its signatures: kept, and looked up again when a callback names another.

While the place where they are published is down, the kept ones serve. A key that is not known then, or after a look, is
no verdict about the callback: the provider is told to come again. Looks are few, however many keys are made up.
"""

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from relay import log
from relay.clock import Clock
from relay.errors import KeyUnknown, Unreadable
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound.provider_client import NoAnswer, NotSent, ProviderClient
from relay.security import signatures
from relay.security.signatures import SignatureInvalid, Signed

LOOKS_PER_MINUTE: Final = 6
TIMEOUT_S: Final = 2.0
"""A provider waits five seconds for its answer, and the callback is still to be stored."""
BODY_MAX_BYTES: Final = 65_536
KEYS_MAX: Final = 20
AGE_MAX_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000
_ID_MAX: Final = 200
_logger = log.get("keys")

Read = Callable[[Mapping[str, str], bytes], Signed | None]


class KeySet:
    """One provider's keys, from `path` at its origin; `read` is its adapter's: what a callback's headers sign."""

    def __init__(self, client: ProviderClient, origin: str, path: str, read: Read, clock: Clock) -> None:
        self._client = client
        self._origin = origin
        self._request = ProviderRequest(method="GET", path=path, bearer=False)
        self._read = read
        self._clock = clock
        self._keys: dict[str, bytes] = {}
        self._read_at: int | None = None
        self._looked_at: deque[int] = deque(maxlen=LOOKS_PER_MINUTE)
        self._looks = 0
        self._looking = asyncio.Lock()

    async def verify(self, headers: Mapping[str, str], body: bytes, at_s: int) -> bool:
        """True when a published key signed the body at that time, False when nobody signed it.

        SignatureInvalid when a signature does not fit; KeyUnknown when its key is not known, and cannot be now.
        """
        signed = self._read(headers, body)
        if signed is None:
            return False
        signatures.check_age(signed.timestamp_s, at_s)
        unknown = signed.key_id not in self._keys and not self._proves(signed)
        if unknown or self._older_than(AGE_MAX_MS):
            await self._look()
        if self._proves(signed):
            return True
        if signed.key_id not in self._keys and (signed.key_id is not None or self._older_than(_MINUTE_MS)):
            raise KeyUnknown("the key of the callback's signature is not known")
        raise SignatureInvalid("no published key made the callback's signature")

    def _proves(self, signed: Signed) -> bool:
        """Whether the key that is named, or any where none is, made the signature."""
        keys = self._keys.items()
        return any(signatures.proves(key, signed) for name, key in keys if signed.key_id in (None, name))

    def _older_than(self, age_ms: int) -> bool:
        """Whether the keys were read so long ago, or never."""
        return self._read_at is None or self._clock.monotonic_ms() - self._read_at > age_ms

    async def _look(self) -> None:
        """Reads what is published now, unless somebody else did while this one waited, or it was done too often."""
        looks = self._looks
        async with self._looking:
            now_ms = self._clock.monotonic_ms()
            often = len(self._looked_at) == LOOKS_PER_MINUTE and now_ms - self._looked_at[0] < _MINUTE_MS
            if often or looks != self._looks:
                return
            self._looked_at.append(now_ms)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self._keys = read_keys(await self._client.send(self._origin, "", self._request, TIMEOUT_S))
                self._read_at = now_ms
                _logger.info("keys.read", origin=self._origin, keys=len(self._keys))
            except (NotSent, NoAnswer, Unreadable, TimeoutError) as error:
                _logger.warning("keys.not_read", origin=self._origin, error=str(error) or "no whole answer in time")
            finally:
                self._looks += 1


def read_keys(answer: ProviderResponse) -> dict[str, bytes]:
    """The ed25519 keys of a JWK set (RFC 8037) by their ids, 20 at most; Unreadable where there is none in it."""
    if answer.status_code != 200 or len(answer.body) > BODY_MAX_BYTES:
        raise Unreadable(f"HTTP {answer.status_code} with {len(answer.body)} bytes is no set of keys")
    body = answer.json()
    listed = body.get("keys") if isinstance(body, dict) else None
    found = [key for jwk in (listed if isinstance(listed, list) else ()) if (key := _key(jwk))]
    if not found:
        raise Unreadable("there is no ed25519 key in the set")
    return dict(found[:KEYS_MAX])


def _key(jwk: Any) -> tuple[str, bytes] | None:
    """The id and the 32 bytes of a key; one without an id goes by its bytes. None for a key of another kind."""
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        return None
    text = jwk.get("x")
    name = jwk.get("kid", text)
    if not isinstance(text, str) or not isinstance(name, str) or len(name) > _ID_MAX:
        return None
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return (name, key) if len(key) == signatures.PUBLIC_BYTES else None
