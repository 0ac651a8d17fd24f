"""How the text of a setting is read: each function returns the value, or raises a ValueError that says what it must be.

An error begins with `must`. It never repeats the text, which may be a secret, but for a number out of range.
"""

import ipaddress
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final
from urllib.parse import SplitResult, urlsplit

SECRET_KEY_CHARS_MIN: Final = 32
"""A key of `openssl rand -base64 32` has 44 characters, one of `openssl rand -hex 24` has 48."""
API_KEY_CHARS_MIN: Final = 16
"""It cannot be guessed offline: the database keeps nothing of it."""
FORMER_KEY_CHARS_MIN: Final = 16
PIECE: Final = 3
PIECES_SHARE: Final = 0.65
"""Of a random key, 46 of 48 pieces of three hexadecimal digits are different, and never fewer than 40."""
STEPS_MIN: Final = 6
LETTERS_MIN: Final = 7
MAKE_SECRET: Final = "make one with: openssl rand -base64 32"
RETENTION_MIN_DAYS: Final = 5
"""The default schedule of a delivery takes up to four."""
RETENTION_MAX_DAYS: Final = 3_650
_DIGITS_MAX: Final = 12

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def number(low: float, high: float, kind: type[int] | type[float] = int) -> Callable[[str], int | float]:
    """Read a number between two bounds."""
    must = f"must be {'an integer' if kind is int else 'a number'} from {low} to {high}"

    def read(text: str) -> int | float:
        value = _number(kind, text, must)
        if not low <= value <= high:
            raise ValueError(f"{must}, not {text if len(text) <= _DIGITS_MAX else 'so long a number'}")
        return value

    return read


def _number(kind: type[int] | type[float], text: str, must: str) -> int | float:
    """The number in the text; ValueError says what it must be, and what kind of text this is."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{must}, not {_form(text)}") from None


def _form(text: str) -> str:
    """What a text that is no number looks like, without repeating it."""
    return f"a text of {len(text)} character{'' if len(text) == 1 else 's'}"


def retention_days(text: str) -> int:
    """Days that are longer than the longest usual delivery schedule; 0 for ever."""
    must = f"must be 0 (for ever) or an integer from {RETENTION_MIN_DAYS} to {RETENTION_MAX_DAYS}"
    days = int(_number(int, text, must))
    if days != 0 and not RETENTION_MIN_DAYS <= days <= RETENTION_MAX_DAYS:
        raise ValueError(must)
    return days


def header_text(text: str) -> str:
    """Text that an HTTP header can carry, and no placeholder such as `…` or `...`."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be ASCII without blanks, such as sk-4f1c9a27e0 (is the text of an example still in it?)")
    if not text.strip(".*<>xX-_"):
        raise ValueError("must be the provider's key, not a placeholder")
    return text


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
        raise ValueError("must be 1 or 0 (or true, false, yes, no, on, off)")
    return words[text.lower()]


def items(text: str) -> tuple[str, ...]:
    """A comma list without its blanks."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def secret_keys(text: str) -> tuple[str, ...]:
    """Keys to sign and seal with: the newest, which is last, must not be guessable.

    Those before it are only as long as they always had to be, since a weak one is retired with its successor beside it.
    """
    keys = items(text)
    if any(len(key) < FORMER_KEY_CHARS_MIN for key in keys[:-1]):
        raise ValueError(f"each key needs at least {FORMER_KEY_CHARS_MIN} characters ({MAKE_SECRET})")
    if keys and (weakness := guessable(keys[-1], SECRET_KEY_CHARS_MIN)):
        raise ValueError(
            f"must end with a key that cannot be guessed; the last {weakness} ({MAKE_SECRET}; where a database is "
            "sealed with the present one, add the new one behind it, comma between, and see SECURITY.md)"
        )
    return keys


def api_key(text: str) -> str:
    """A key that gives everything."""
    if weakness := guessable(text, API_KEY_CHARS_MIN):
        raise ValueError(
            f"must be a key that cannot be guessed; this one {weakness} (make one with: openssl rand -hex 24)"
        )
    return text


def guessable(key: str, chars_min: int) -> str | None:
    """Return what makes a key easy to guess, None for one that looks random: long, and of pieces that do not repeat."""
    if len(key) < chars_min:
        return f"has fewer than {chars_min} characters"
    if len({key[at : at + PIECE] for at in range(len(key) - PIECE + 1)}) < len(key) * PIECES_SHARE:
        return "repeats itself"
    if len({ord(after) - ord(before) for before, after in pairwise(key)}) < STEPS_MIN:
        return "is a row of neighbours"
    if len(set(key.lower())) < LETTERS_MIN:
        return f"has fewer than {LETTERS_MIN} different characters"
    return None


def rpc_url(text: str) -> str:
    """The URL of a node, whose path or query may hold a key."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("must be an http or https URL such as https://mainnet.base.org")
    return text


def networks(text: str) -> tuple[Network, ...]:
    """A comma list of CIDR networks."""
    try:
        return tuple(ipaddress.ip_network(item, strict=False) for item in items(text))
    except ValueError:
        raise ValueError("must be a comma list of networks such as 10.0.0.0/8,fd00::/8,127.0.0.1/32") from None


def schedule(text: str) -> tuple[int, ...]:
    """Seconds before each attempt, the first entry being the first attempt."""
    must = "must be a comma list of 1 to 50 integers, seconds from 0 to 604800, such as 0,5,300,3600"
    delays = tuple(int(_number(int, item, must)) for item in items(text))
    if not 1 <= len(delays) <= 50 or any(not 0 <= delay <= 604_800 for delay in delays):
        raise ValueError(must)
    return delays


def origin(text: str) -> str:
    """An origin: scheme, host and port, nothing behind it."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ValueError("must be an origin, without a path, such as https://api.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def public_url(text: str) -> str:
    """The public URL may have a path in front of relay's own."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be a URL such as https://relay.example.com")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _split(text: str) -> SplitResult:
    """The parts of a URL; empty ones for a text that has none, such as an open bracket."""
    try:
        return urlsplit(text.strip().rstrip("/"))
    except ValueError:
        return urlsplit("")


def confirm(text: str) -> bool:
    """`always` or `never`."""
    return choice("always", "never")(text) == "always"


def webhook_secret(text: str) -> str:
    """A secret of Standard Webhooks: `whsec_` and base64."""
    if not re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,}={0,2}", text):
        raise ValueError("must be whsec_ and at least 24 bytes in base64, as the provider shows it")
    return text


def wallet_key(text: str) -> str:
    """A private key: 32 bytes in hexadecimal."""
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text) or int(text, 16) == 0:
        raise ValueError("must be a private key: 64 hexadecimal digits, with or without 0x in front")
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
        raise ValueError(
            "must be an address: 0x and 40 hexadecimal digits, such as 0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
        )
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
