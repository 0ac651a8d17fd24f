"""Signs payments: EIP-3009 authorizations in the headers of x402 version 1 and 2. It sends nothing.

The signer, eth-account, is an extra and takes most of a second to load, so it is imported when a wallet is made.
"""

import hmac
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from relay.errors import PaymentRefused, SettingsError, Unreadable
from relay.model import text
from relay.model.provider_http import ProviderResponse
from relay.payments import header
from relay.payments.challenge import Challenge, Offer
from relay.payments.policy import Policy, refusal

if TYPE_CHECKING:
    from eth_account.messages import SignableMessage
    from eth_account.signers.local import LocalAccount

HEADER_NAMES: Final = {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}
SETTLEMENT_HEADERS: Final = ("payment-response", "x-payment-response")
SKEW_S: Final = 600
"""An authorization is valid from this long ago: a chain's clock may be behind, and the nonce limits it to one use."""
_NONCE_PURPOSE: Final = b"relay: the one nonce of a job's payment"
_TRANSFER: Final = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_TEXT_MAX: Final = 200


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """A signed transfer and its header: any holder of the header can execute the transfer, once.

    `amount` is in atomic units, times are in unix seconds. `repr` omits the header.
    """

    nonce: str
    payer: str
    pay_to: str
    asset: str
    chain_id: int
    amount: int
    valid_after: int
    valid_before: int
    header_name: str
    header_value: str

    def __repr__(self) -> str:
        return f"Authorization(nonce={self.nonce!r}, pay_to={self.pay_to!r}, amount={self.amount})"


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's statement about a payment; `transaction` is the hash on the chain."""

    success: bool
    transaction: str | None = None
    payer: str | None = None
    error_reason: str | None = None


class Wallet:
    """Signs with one private key, which no text or error of this class contains.

    Raise SettingsError for a malformed key, or if the extra is not installed.
    """

    def __init__(self, private_key: str) -> None:
        try:
            from eth_account import Account  # noqa: PLC0415
        except ImportError:
            raise SettingsError(
                "RELAY_WALLET_KEY needs eth-account: pip install '.[x402]' in the checkout, or -r requirements-x402.txt"
            ) from None
        try:
            if not _KEY.fullmatch(private_key):  # the library accepts a key with a missing digit, as another wallet's
                raise ValueError
            self._account: LocalAccount = Account.from_key(private_key)
        except ValueError:
            # Without the cause, because the library's message may contain the key.
            raise SettingsError("RELAY_WALLET_KEY is not a private key: 64 hexadecimal digits") from None
        self._nonce_key = hmac.digest(bytes(self._account.key), _NONCE_PURPOSE, "sha256")

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    @property
    def address(self) -> str:
        """Return the wallet's address, with the capitals of EIP-55."""
        return str(self._account.address)

    def nonce(self, job_id: str) -> str:
        """Return the job's nonce, always the same: a token executes an address's nonce once, even if relay loses data.

        https://eips.ethereum.org/EIPS/eip-3009
        """
        return "0x" + hmac.digest(self._nonce_key, job_id.encode(), "sha256").hex()

    def sign_text(self, message: str) -> str:
        """Return a signature of a readable text, which cannot transfer money (https://eips.ethereum.org/EIPS/eip-191)."""
        from eth_account.messages import encode_defunct  # noqa: PLC0415

        return self._sign(encode_defunct(text=message))

    def authorize(self, offer: Offer, challenge: Challenge, policy: Policy, job_id: str, now_s: int) -> Authorization:
        """Return the payment of an offer, the same for the same arguments; raise PaymentRefused if it is refused."""
        if refused := refusal(offer, policy):
            raise PaymentRefused(refused)
        authorization = {
            "from": self.address,
            "to": offer.pay_to,
            "value": str(offer.amount),
            "validAfter": str(max(0, now_s - SKEW_S)),
            "validBefore": str(now_s + policy.validity_s(offer)),
            "nonce": self.nonce(job_id),
        }
        signature = self._sign(transfer_message(authorization, policy))
        payload: dict[str, object] = {"signature": signature, "authorization": authorization}
        return Authorization(
            nonce=authorization["nonce"],
            payer=self.address,
            pay_to=offer.pay_to,
            asset=policy.asset,
            chain_id=policy.chain_id,
            amount=offer.amount,
            valid_after=int(authorization["validAfter"]),
            valid_before=int(authorization["validBefore"]),
            header_name=HEADER_NAMES[offer.version],
            header_value=header.encode(_envelope(offer, challenge, payload)),
        )

    def _sign(self, message: "SignableMessage") -> str:
        """Return the signature, 65 bytes in hexadecimal; always the same for the same message (RFC 6979)."""
        return "0x" + bytes(self._account.sign_message(message).signature).hex()


def transfer_message(authorization: dict[str, str], policy: Policy) -> "SignableMessage":
    """Return the message to sign for a transfer, in the policy's own domain."""
    from eth_account.messages import encode_typed_data  # noqa: PLC0415

    domain = {
        "name": policy.asset_name,
        "version": policy.asset_version,
        "chainId": policy.chain_id,
        "verifyingContract": policy.asset,
    }
    numbers = {name: int(authorization[name]) for name in ("value", "validAfter", "validBefore")}
    return encode_typed_data(domain, _TRANSFER, {**authorization, **numbers})


def settlement(response: ProviderResponse) -> Settlement | None:
    """Return the payment's settlement from the response's header; None without a readable one."""
    for name in SETTLEMENT_HEADERS:
        if name not in response.headers:
            continue
        try:
            fields = header.decode(response.headers[name])
        except Unreadable:
            continue
        if isinstance(fields.get("success"), bool):
            return Settlement(
                success=fields["success"],
                transaction=_text(fields.get("transaction")),
                payer=_text(fields.get("payer")),
                error_reason=_text(fields.get("errorReason")),
            )
    return None


def _envelope(offer: Offer, challenge: Challenge, payload: dict[str, object]) -> dict[str, object]:
    """Return the header's object around the payload: version 2 repeats the provider's own offer."""
    if offer.version == 1:
        return {"x402Version": 1, "scheme": offer.scheme, "network": offer.network, "payload": payload}
    echoed = {"resource": challenge.resource, "extensions": challenge.extensions}
    given = {name: value for name, value in echoed.items() if value is not None}
    return {"x402Version": 2, "payload": payload, "accepted": offer.raw, **given}


def _text(value: Any) -> str | None:
    """Return a provider's text, at most 200 characters of it; None for anything else, or an empty one."""
    return text.kept(value[:_TEXT_MAX]) if isinstance(value, str) and value else None
