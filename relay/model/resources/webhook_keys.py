"""The public keys of the projects' `v1a` signatures, as a JWK set."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.security.signatures import PUBLIC_PREFIX, PublicKey


class WebhookKeyResource(msgspec.Struct, frozen=True, kw_only=True):
    """A project's ed25519 key (RFC 8037)."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    alg: Literal["EdDSA"] = "EdDSA"
    use: Literal["sig"] = "sig"
    kid: str
    x: str
    project: str
    whpk: Annotated[str, Meta(pattern="^whpk_", description="The key as Standard Webhooks writes it.")]


class WebhookKeysResource(msgspec.Struct, frozen=True, kw_only=True):
    """A JWK set, newest key last."""

    keys: list[WebhookKeyResource]


def webhook_keys(public: Sequence[PublicKey]) -> WebhookKeysResource:
    """Return the projects' public keys as a JWK set."""
    return WebhookKeysResource(
        keys=[
            WebhookKeyResource(
                kid=hashlib.sha256(one.key).hexdigest()[:16],
                x=base64.urlsafe_b64encode(one.key).decode().rstrip("="),
                project=one.project_id,
                whpk=PUBLIC_PREFIX + base64.b64encode(one.key).decode(),
            )
            for one in public
        ]
    )
