"""Proves to a provider which wallet paid, by signing a text that moves no money: SIGN-IN-WITH-X.

It is separate from paying, so that status checks can sign in and cannot pay.
https://github.com/x402-foundation/x402/blob/main/specs/extensions/sign-in-with-x.md, https://eips.ethereum.org/EIPS/eip-4361
"""

import re
import secrets
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
LIFE_MS: Final = 300_000
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
    """The part of a wallet that signing in needs."""

    @property
    def address(self) -> str:
        """Return the address, with the capitals of EIP-55."""

    def sign_text(self, text: str) -> str:
        """Return the signature of a readable text (EIP-191)."""


def sign_in(answer: ProviderResponse, url: str, wallet: Signer, now_ms: int) -> dict[str, str]:
    """Return the headers that answer a 402 which wants a sign-in at the URL; none where it wants none or a bad one."""
    try:
        info = read_challenge(answer).sign_in
        return {HEADER_NAME: sign_in_header(info, wallet, url, now_ms)} if info is not None else {}
    except Unreadable:
        return {}


def sign_in_header(info: Mapping[str, Any], wallet: Signer, uri: str, now_ms: int) -> str:
    """Return the header's value for a challenge of the server at the URI: its fields, the address, the signature.

    Unreadable where the challenge is another host's, has expired, or holds what no line of the text can.
    """
    assumed = {"uri": uri, "version": "1", "chainId": f"eip155:{BASE}", "issuedAt": rfc3339(now_ms)}
    given = {name: value for name, value in info.items() if value is not None and value != ""}
    said = {**assumed, **given, "type": "eip191"}
    _check(said, uri, now_ms)
    signed = {**said, "address": wallet.address, "signatureScheme": "eip191"}
    return header.encode({**signed, "signature": wallet.sign_text(_text(signed))})


def own_challenge(uri: str, now_ms: int) -> dict[str, Any]:
    """Return a challenge for the server at the URI, valid for five minutes, which saves a request for one."""
    return {
        "domain": urlsplit(uri).netloc,
        "uri": uri,
        "version": "1",
        "chainId": f"eip155:{BASE}",
        "type": "eip191",
        "nonce": secrets.token_hex(16),
        "issuedAt": rfc3339(now_ms),
        "expirationTime": rfc3339(now_ms + LIFE_MS),
        "resources": [uri],
    }


def _check(said: Mapping[str, Any], uri: str, now_ms: int) -> None:
    """Raise Unreadable for a challenge that must not be signed."""
    resources = said.get("resources", [])
    if not isinstance(resources, list) or len(resources) > RESOURCES_MAX:
        raise Unreadable(f"the resources to sign for are not a list of at most {RESOURCES_MAX}")
    lines = [said[name] for name in _LINES if name in said] + resources
    if not all(isinstance(line, str) and _LINE.fullmatch(line) for line in lines):
        raise Unreadable("the challenge holds a value that is not one line of text")
    here = urlsplit(uri)
    if said.get("domain") not in (here.netloc, here.hostname) or _host(said["uri"]) != here.hostname:
        raise Unreadable("the challenge is for another host")
    if said["version"] != "1" or not _CHAIN.fullmatch(said["chainId"]) or not _NONCE.fullmatch(said.get("nonce", "")):
        raise Unreadable("the challenge is of another version, for no such chain, or without a proper nonce")
    if "expirationTime" in said and _at(said["expirationTime"]) <= now_ms:
        raise Unreadable("the challenge is over")


def _host(uri: str) -> str | None:
    """Return the host of a URI; None where two parsers could disagree about it, as with a backslash or an @."""
    found = _URI.fullmatch(uri)
    return found["host"].lower() if found else None


def _at(time: str) -> int:
    """Return a time in unix milliseconds; Unreadable where it is none."""
    try:
        return parse_rfc3339(time)
    except (ValueError, OverflowError):
        raise Unreadable("the challenge holds a time that relay cannot read") from None


def _text(said: Mapping[str, Any]) -> str:
    """Return the text of EIP-4361, in which the chain is a bare number; a field that is not given has no line."""
    optional = (("Expiration Time", "expirationTime"), ("Not Before", "notBefore"), ("Request ID", "requestId"))
    statement = [said["statement"], ""] if "statement" in said else [""]
    return "\n".join(
        [
            f"{said['domain']} wants you to sign in with your Ethereum account:",
            said["address"],
            "",
            *statement,
            f"URI: {said['uri']}",
            f"Version: {said['version']}",
            f"Chain ID: {said['chainId'].partition(':')[2]}",
            f"Nonce: {said['nonce']}",
            f"Issued At: {said['issuedAt']}",
            *(f"{label}: {said[name]}" for label, name in optional if name in said),
            *(["Resources:", *(f"- {resource}" for resource in said["resources"])] if said.get("resources") else []),
        ]
    )
