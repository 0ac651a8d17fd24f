"""How the text of a setting is read: each function gives the value, or a ValueError that says what it must be.

No error repeats the text, which may be a secret.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

RETENTION_MIN_DAYS: Final = 5
"""The default schedule of a delivery takes up to four."""
RETENTION_MAX_DAYS: Final = 3_650

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def number(low: float, high: float, kind: type[int] | type[float] = int) -> Callable[[str], int | float]:
    """Reads a number between two bounds."""

    def read(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return read


def retention_days(text: str) -> int:
    """Days that are longer than the longest usual delivery schedule; 0 for ever."""
    days = int(text)
    if days != 0 and not RETENTION_MIN_DAYS <= days <= RETENTION_MAX_DAYS:
        raise ValueError(f"must be 0, or from {RETENTION_MIN_DAYS} to {RETENTION_MAX_DAYS}")
    return days


def flag(text: str) -> bool:
    """`1`/`0`, and the words people write instead."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
        "": False,
    }
    if text.lower() not in words:
        raise ValueError("must be 1 or 0")
    return words[text.lower()]


def items(text: str) -> tuple[str, ...]:
    """A comma list without its blanks."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def secret_keys(text: str) -> tuple[str, ...]:
    """Keys long enough to sign with."""
    keys = items(text)
    if any(len(key) < 16 for key in keys):
        raise ValueError("each key needs at least 16 characters (make one with: openssl rand -base64 32)")
    return keys


def rpc_url(text: str) -> str:
    """The URL of a node, whose path or query may hold a key."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("must be an http or https URL")
    return text


def networks(text: str) -> tuple[Network, ...]:
    """A comma list of CIDR networks."""
    return tuple(ipaddress.ip_network(item, strict=False) for item in items(text))


def schedule(text: str) -> tuple[int, ...]:
    """Seconds before each attempt, the first entry being the first attempt."""
    delays = tuple(int(item) for item in items(text))
    if not 1 <= len(delays) <= 50 or any(not 0 <= delay <= 604_800 for delay in delays):
        raise ValueError("must be 1 to 50 numbers of seconds, each from 0 to 604800")
    return delays


def origin(text: str) -> str:
    """An origin: scheme, host and port, nothing behind it."""
    parts = urlsplit(text.strip().rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ValueError("must be an origin such as https://relay.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def public_url(text: str) -> str:
    """The public URL may have a path in front of relay's own."""
    parts = urlsplit(text.strip().rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be a URL such as https://relay.example.com")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def confirm(text: str) -> bool:
    """`always` or `never`."""
    return choice("always", "never")(text) == "always"


def webhook_secret(text: str) -> str:
    """A secret of Standard Webhooks: `whsec_` and base64."""
    if not re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,}={0,2}", text):
        raise ValueError("must be whsec_ and at least 24 bytes in base64")
    return text


def wallet_key(text: str) -> str:
    """A private key: 32 bytes in hexadecimal."""
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text) or int(text, 16) == 0:
        raise ValueError("must be a private key: 64 hexadecimal digits")
    return text


def usdc(text: str) -> int:
    """An amount of USDC in atomic units, a millionth of one each."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise ValueError("must be an amount of USDC such as 2.50, with six decimals at most")
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0") or "0")


def address(text: str) -> str:
    """An address on the chain, in lower case."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        raise ValueError("must be an address: 0x and 40 hexadecimal digits")
    return text.lower()


def addresses(text: str) -> tuple[str, ...]:
    """A comma list of addresses."""
    return tuple(address(item) for item in items(text))


def choice(*words: str) -> Callable[[str], str]:
    """One of a few words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return read
