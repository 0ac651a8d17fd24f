"""Verifies callbacks by the keys that a provider publishes, and reads the keys again when a callback names a new one.

While the provider's key URL is down, the cached keys are used. If a key is still unknown after reading, the callback is
neither verified nor refused: KeyUnknown makes the provider retry. Reads are limited, however many keys are invented.
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

READS_PER_MINUTE: Final = 6
TIMEOUT_S: Final = 2.0
"""A provider waits five seconds for relay's response, and the callback is not stored yet."""
BODY_MAX_BYTES: Final = 65_536
KEYS_MAX: Final = 20
AGE_MAX_MS: Final = 86_400_000
_MINUTE_MS: Final = 60_000
_ID_MAX: Final = 200
_logger = log.get("keys")

ReadSignature = Callable[[Mapping[str, str], bytes], Signed | None]


class KeySet:
    """One provider's published keys, read from `path` at its origin.

    `read_signature` is the adapter's: it returns what a callback's headers sign, or None for an unsigned callback.
    """

    def __init__(
        self, client: ProviderClient, origin: str, path: str, read_signature: ReadSignature, clock: Clock
    ) -> None:
        self._client = client
        self._origin = origin
        self._request = ProviderRequest(method="GET", path=path, bearer=False)
        self._read_signature = read_signature
        self._clock = clock
        self._keys: dict[str, bytes] = {}
        self._read_at: int | None = None
        self._recent_reads: deque[int] = deque(maxlen=READS_PER_MINUTE)
        self._reads = 0
        self._reading = asyncio.Lock()

    async def verify(self, headers: Mapping[str, str], body: bytes, at_s: int) -> bool:
        """Return True if a published key signed the body, False if the callback is unsigned.

        `at_s` is when it was received. Raise SignatureInvalid if the signature is wrong, KeyUnknown if its key is
        not known and cannot be read now.
        """
        signed = self._read_signature(headers, body)
        if signed is None:
            return False
        signatures.check_age(signed.timestamp_s, at_s)
        unknown = signed.key_id not in self._keys and not self._verifies(signed)
        if unknown or self._older_than(AGE_MAX_MS):
            await self._refresh()
        if self._verifies(signed):
            return True
        if signed.key_id not in self._keys and (signed.key_id is not None or self._older_than(_MINUTE_MS)):
            raise KeyUnknown("the key of the callback's signature is not known")
        raise SignatureInvalid("no published key made the callback's signature")

    def _verifies(self, signed: Signed) -> bool:
        """Return whether the named key, or any key if none is named, made the signature."""
        keys = self._keys.items()
        return any(signatures.is_signed_by(key, signed) for name, key in keys if signed.key_id in (None, name))

    def _older_than(self, age_ms: int) -> bool:
        """Return whether the keys were read more than `age_ms` ago, or never."""
        return self._read_at is None or self._clock.monotonic_ms() - self._read_at > age_ms

    async def _refresh(self) -> None:
        """Read the published keys, unless another call just did or the limit per minute is reached."""
        reads = self._reads
        async with self._reading:
            now_ms = self._clock.monotonic_ms()
            limited = len(self._recent_reads) == READS_PER_MINUTE and now_ms - self._recent_reads[0] < _MINUTE_MS
            if limited or reads != self._reads:
                return
            self._recent_reads.append(now_ms)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self._keys = parse_keys(await self._client.send(self._origin, "", self._request, TIMEOUT_S))
                self._read_at = now_ms
                _logger.info("keys.read", origin=self._origin, keys=len(self._keys))
            except (NotSent, NoAnswer, Unreadable, TimeoutError) as error:
                _logger.warning("keys.not_read", origin=self._origin, error=str(error) or "no whole answer in time")
            finally:
                self._reads += 1


def parse_keys(response: ProviderResponse) -> dict[str, bytes]:
    """Return a JWK set's ed25519 keys (RFC 8037) by their ids, at most KEYS_MAX; raise Unreadable if it has none."""
    if response.status_code != 200 or len(response.body) > BODY_MAX_BYTES:
        raise Unreadable(f"HTTP {response.status_code} with {len(response.body)} bytes is not a JWK set")
    body = response.json()
    listed = body.get("keys") if isinstance(body, dict) else None
    keys = [key for jwk in (listed if isinstance(listed, list) else ()) if (key := _parse_key(jwk))]
    if not keys:
        raise Unreadable("the JWK set has no ed25519 key")
    return dict(keys[:KEYS_MAX])


def _parse_key(jwk: Any) -> tuple[str, bytes] | None:
    """Return a key's id and its 32 bytes, or None for another type of key; the id defaults to the encoded key."""
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
