"""How far a callback is proven: by its token alone, or by a signature as well.

Every callback that reaches this point carries a valid token. A signature is required if the operator set a callback
secret, or if the provider publishes keys; a wrong one quarantines the callback. One that does not cover the body leaves
the callback as far proven as its token does.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from relay.context import ConfiguredProvider
from relay.model.job import Verification
from relay.outbound.jwks import KeySet
from relay.security import callback_signatures, signatures
from relay.security.callback_signatures import Proven
from relay.security.signatures import SignatureInvalid


class Proof(msgspec.Struct, frozen=True):
    """How far a callback is proven; `forged` says what is wrong with its signature, None where nothing is."""

    verification: Verification
    forged: str | None = None


BY_TOKEN: Final = Proof(Verification.TOKEN)
BY_SIGNATURE: Final = Proof(Verification.SIGNATURE)


def verify(provider: ConfiguredProvider | None, headers: Mapping[str, str], body: bytes, at_ms: int) -> Proof:
    """Return how far the callback secret proves the callback, as of `at_ms`; no I/O."""
    if signatures.HOP_HEADER in headers:
        return Proof(Verification.TOKEN, "it is the notification of a relay, which no provider sends")
    if provider is None or not provider.callback_secrets:
        return BY_TOKEN
    try:
        proven = callback_signatures.verify(
            provider.adapter.verifier, provider.callback_secrets, headers, body, at_ms // 1000
        )
    except SignatureInvalid as error:
        return Proof(Verification.TOKEN, str(error))
    return BY_SIGNATURE if proven is Proven.WHOLE_BODY else BY_TOKEN


async def verify_by_key(keys: KeySet, headers: Mapping[str, str], body: bytes, at_ms: int) -> Proof:
    """Return how far the provider's published keys prove the callback; raise KeyUnknown if a key cannot be read now."""
    if signatures.HOP_HEADER in headers:
        return Proof(Verification.TOKEN, "it is the notification of a relay, which no provider sends")
    try:
        signed = await keys.verify(headers, body, at_ms // 1000)
    except SignatureInvalid as error:
        return Proof(Verification.TOKEN, str(error))
    return BY_SIGNATURE if signed else BY_TOKEN
