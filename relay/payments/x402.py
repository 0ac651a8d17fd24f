"""The wallet, and the payments that it signs: EIP-3009 authorizations in the headers of x402 version 1 and 2.

The signer, eth-account, is an extra and takes most of a second to load, so it is imported where a wallet is made.
"""

import hmac
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from relay.errors import PaymentRefused, SettingsError, Unreadable
from relay.model import text
from relay.model.provider_http import ApiAnswer
from relay.payments import header
from relay.payments.challenge import Challenge, Offer
from relay.payments.policy import Policy, refusal

if TYPE_CHECKING:
    from eth_account.messages import SignableMessage
    from eth_account.signers.local import LocalAccount

HEADER_NAMES: Final = {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}
SETTLEMENT_HEADERS: Final = ("payment-response", "x-payment-response")
SKEW_S: Final = 600
"""An authorization is good from this long ago: a chain's clock may be behind ours, and the nonce is what limits it."""
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
    """A signed transfer and the header that carries it: whoever has it can have it executed, once.

    `amount` is in atomic units, the times are unix seconds. The header is left out where an authorization is shown.
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
    """What the provider says became of a payment; `transaction` is the hash on the chain."""

    success: bool
    transaction: str | None = None
    payer: str | None = None
    error_reason: str | None = None


class Wallet:
    """Signs with one private key, which nothing that is shown or raised here contains.

    SettingsError for a bad key, or where the extra is not installed.
    """

    def __init__(self, private_key: str) -> None:
        try:
            from eth_account import Account  # noqa: PLC0415
        except ImportError:
            raise SettingsError(
                "RELAY_WALLET_KEY needs eth-account: pip install '.[x402]' in the checkout, or -r requirements-x402.txt"
            ) from None
        try:
            if not _KEY.fullmatch(private_key):  # the library would take a digit less for another wallet's key
                raise ValueError
            self._account: LocalAccount = Account.from_key(private_key)
        except ValueError:
            # Not with the cause: what a library says of a key may hold the key.
            raise SettingsError("RELAY_WALLET_KEY is not a private key: 64 hexadecimal digits") from None
        self._nonce_key = hmac.digest(bytes(self._account.key), _NONCE_PURPOSE, "sha256")

    def __repr__(self) -> str:
        return f"Wallet({self.address})"

    @property
    def address(self) -> str:
        """The wallet's address, with the capitals of EIP-55."""
        return str(self._account.address)

    def nonce(self, job_id: str) -> str:
        """The job's nonce, the same for ever: a token pays an address's nonce once, whatever relay forgets.

        https://eips.ethereum.org/EIPS/eip-3009
        """
        return "0x" + hmac.digest(self._nonce_key, job_id.encode(), "sha256").hex()

    def sign_text(self, words: str) -> str:
        """A signature of a text for people (https://eips.ethereum.org/EIPS/eip-191), which can move nothing."""
        from eth_account.messages import encode_defunct  # noqa: PLC0415

        return self._sign(encode_defunct(text=words))

    def authorize(self, offer: Offer, challenge: Challenge, policy: Policy, job_id: str, now_s: int) -> Authorization:
        """The payment of an offer for a job; the same for the same arguments. PaymentRefused against the policy."""
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
        """The signature, in 65 bytes of hexadecimal; always the same for the same message (RFC 6979)."""
        return "0x" + bytes(self._account.sign_message(message).signature).hex()


def transfer_message(authorization: dict[str, str], policy: Policy) -> "SignableMessage":
    """What is signed for a transfer, in the policy's own domain; numbers as they are sent, in decimal."""
    from eth_account.messages import encode_typed_data  # noqa: PLC0415

    domain = {
        "name": policy.asset_name,
        "version": policy.asset_version,
        "chainId": policy.chain_id,
        "verifyingContract": policy.asset,
    }
    numbers = {name: int(authorization[name]) for name in ("value", "validAfter", "validBefore")}
    return encode_typed_data(domain, _TRANSFER, {**authorization, **numbers})


def settlement(answer: ApiAnswer) -> Settlement | None:
    """What the answer's header says of the payment; None where it says nothing that can be read."""
    for name in SETTLEMENT_HEADERS:
        if name not in answer.headers:
            continue
        try:
            said = header.decode(answer.headers[name])
        except Unreadable:
            continue
        if isinstance(said.get("success"), bool):
            return Settlement(
                success=said["success"],
                transaction=_text(said.get("transaction")),
                payer=_text(said.get("payer")),
                error_reason=_text(said.get("errorReason")),
            )
    return None


def _envelope(offer: Offer, challenge: Challenge, payload: dict[str, object]) -> dict[str, object]:
    """What goes around the payload: version 2 repeats to the provider what it said itself."""
    if offer.version == 1:
        return {"x402Version": 1, "scheme": offer.scheme, "network": offer.network, "payload": payload}
    echoed = {"resource": challenge.resource, "extensions": challenge.extensions}
    said = {name: value for name, value in echoed.items() if value is not None}
    return {"x402Version": 2, "payload": payload, "accepted": offer.raw, **said}


def _text(value: Any) -> str | None:
    """A text of the provider's, if it is one and not empty, and no more of it than a row should hold."""
    return text.kept(value[:_TEXT_MAX]) if isinstance(value, str) and value else None
