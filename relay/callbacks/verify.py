"""How far a callback is proven: by its token alone, or by a signature as well.

Every callback that reaches this point carries a good token. A signature is asked for where the operator set a callback
secret, or where the provider publishes keys; one that does not fit quarantines the callback.
"""

from collections.abc import Mapping

import msgspec

from relay.context import ConfiguredProvider
from relay.model.job import Verification
from relay.outbound.jwks import KeySet
from relay.security import signatures
from relay.security.signatures import SignatureInvalid


class Proof(msgspec.Struct, frozen=True):
    """How far a callback is proven; `forged` says what is wrong with its signature, None where nothing is."""

    verification: Verification
    forged: str | None = None


BY_TOKEN = Proof(Verification.TOKEN)


def verify(provider: ConfiguredProvider | None, headers: Mapping[str, str], body: bytes, at_ms: int) -> Proof:
    """Return how far the callback secret proves the callback, as of `at_ms`; no I/O."""
    if signatures.HOP_HEADER in headers:
        return Proof(Verification.TOKEN, "it is the notification of a relay, which no provider sends")
    if provider is None or provider.callback_secret is None:
        return BY_TOKEN
    try:
        signatures.verify(provider.callback_secret, headers, body, at_ms // 1000)
    except SignatureInvalid as error:
        return Proof(Verification.TOKEN, str(error))
    return Proof(Verification.SIGNATURE)


async def verify_by_key(keys: KeySet, headers: Mapping[str, str], body: bytes, at_ms: int) -> Proof:
    """Return how far the provider's published keys prove the callback; raise KeyUnknown if a key cannot be read now."""
    if signatures.HOP_HEADER in headers:
        return Proof(Verification.TOKEN, "it is the notification of a relay, which no provider sends")
    try:
        signed = await keys.verify(headers, body, at_ms // 1000)
    except SignatureInvalid as error:
        return Proof(Verification.TOKEN, str(error))
    return Proof(Verification.SIGNATURE) if signed else BY_TOKEN
