"""Proves to a provider which wallet paid by signing a text, which cannot transfer money: SIGN-IN-WITH-X.

This is separate from paying, so that status checks can sign in and cannot pay.
https://github.com/x402-foundation/x402/blob/main/specs/extensions/sign-in-with-x.md, https://eips.ethereum.org/EIPS/eip-4361
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from relay.clock import parse_rfc3339, rfc3339
from relay.errors import Unreadable
from relay.model.provider_http import ProviderResponse
from relay.payments import header
from relay.payments.challenge import read_challenge
from relay.payments.policy import BASE

HEADER_NAME: Final = "SIGN-IN-WITH-X"
TEXT_MAX, RESOURCES_MAX = 2000, 20
_CHAIN: Final = re.compile(r"eip155:([1-9][0-9]{0,17})")
_NONCE: Final = re.compile(r"[A-Za-z0-9]{8,128}")
_LINES: Final = (
    *("domain", "uri", "version", "chainId", "nonce", "issuedAt"),
    *("expirationTime", "notBefore", "requestId", "statement"),
)
_URI: Final = re.compile(
    r"https?://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?(?:[/?#](?:[A-Za-z0-9._~!$&'()*+,;=:@/?#-]|%[0-9A-Fa-f]{2})*)?"
)
_LINE: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{TEXT_MAX}}}")


class Signer(Protocol):
    """The part of a wallet that a sign-in needs."""

    @property
    def address(self) -> str:
        """Return the address, with the capitals of EIP-55."""

    def sign_text(self, text: str) -> str:
        """Return the signature of a readable text (EIP-191)."""


def sign_in(response: ProviderResponse, url: str, wallet: Signer, now_ms: int) -> dict[str, str]:
    """Return the headers of a sign-in for a 402 from the URL; none if it has no valid sign-in challenge."""
    try:
        info = read_challenge(response).sign_in
        return {HEADER_NAME: sign_in_header(info, wallet, url, now_ms)} if info is not None else {}
    except Unreadable:
        return {}


def sign_in_header(info: Mapping[str, Any], wallet: Signer, uri: str, now_ms: int) -> str:
    """Return the header's value for a challenge of the server at the URI: its fields, the address, the signature.

    Raise Unreadable if the challenge is for another host, has expired, or has a value that is not one line of text.
    """
    assumed = {"uri": uri, "version": "1", "chainId": f"eip155:{BASE}", "issuedAt": rfc3339(now_ms)}
    given = {name: value for name, value in info.items() if value is not None and value != ""}
    challenge = {**assumed, **given, "type": "eip191"}
    _check(challenge, uri, now_ms)
    signed = {**challenge, "address": wallet.address, "signatureScheme": "eip191"}
    return header.encode({**signed, "signature": wallet.sign_text(_text(signed))})


def _check(challenge: Mapping[str, Any], uri: str, now_ms: int) -> None:
    """Raise Unreadable for a challenge that must not be signed."""
    resources = challenge.get("resources", [])
    if not isinstance(resources, list) or len(resources) > RESOURCES_MAX:
        raise Unreadable(f"the challenge's resources are not a list of at most {RESOURCES_MAX}")
    lines = [challenge[name] for name in _LINES if name in challenge] + resources
    if not all(isinstance(line, str) and _LINE.fullmatch(line) for line in lines):
        raise Unreadable("the challenge has a value that is not one line of text")
    here = urlsplit(uri)
    if challenge.get("domain") not in (here.netloc, here.hostname) or _host(challenge["uri"]) != here.hostname:
        raise Unreadable("the challenge is for another host")
    if challenge["version"] != "1" or not _CHAIN.fullmatch(challenge["chainId"]):
        raise Unreadable("the challenge has another version, or names no EVM chain")
    if not _NONCE.fullmatch(challenge.get("nonce", "")):
        raise Unreadable("the challenge has no valid nonce")
    if "expirationTime" in challenge and _unix_ms(challenge["expirationTime"]) <= now_ms:
        raise Unreadable("the challenge has expired")


def _host(uri: str) -> str | None:
    """Return the host of a URI; None if two parsers could disagree about it, as with a backslash or an @."""
    found = _URI.fullmatch(uri)
    return found["host"].lower() if found else None


def _unix_ms(time: str) -> int:
    """Return a time in unix milliseconds; raise Unreadable if it is malformed."""
    try:
        return parse_rfc3339(time)
    except (ValueError, OverflowError):
        raise Unreadable("the challenge has a time that is not RFC 3339") from None


def _text(fields: Mapping[str, Any]) -> str:
    """Return the text of EIP-4361, in which the chain is only a number; a field that is not given has no line."""
    optional = (("Expiration Time", "expirationTime"), ("Not Before", "notBefore"), ("Request ID", "requestId"))
    statement = [fields["statement"], ""] if "statement" in fields else [""]
    return "\n".join(
        [
            f"{fields['domain']} wants you to sign in with your Ethereum account:",
            fields["address"],
            "",
            *statement,
            f"URI: {fields['uri']}",
            f"Version: {fields['version']}",
            f"Chain ID: {fields['chainId'].partition(':')[2]}",
            f"Nonce: {fields['nonce']}",
            f"Issued At: {fields['issuedAt']}",
            *(f"{label}: {fields[name]}" for label, name in optional if name in fields),
            *(
                ["Resources:", *(f"- {resource}" for resource in fields["resources"])]
                if fields.get("resources")
                else []
            ),
        ]
    )
