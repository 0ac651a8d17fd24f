"""Result URLs as providers give them: relay passes them on and does not call them, so it judges their form little.

A result URL is announced as the provider wrote it, trimmed. Only text that is no http or https URL at all,
and a host of a private network that the operator did not open, is no result; the job's error keeps that text.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

import msgspec

from relay.model.job import Output, OutputKind, Report

URL_MAX_CHARS: Final = 16_384
"""Presigned URLs take up to four thousand."""
USUAL_MAX_CHARS: Final = 2_048
TEXT_MAX_CHARS: Final = 2_048
"""Of text that is no URL, so much is kept."""
_INVISIBLE: Final = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_EDGES: Final = "".join(chr(code) for code in range(0x3001) if code <= 0x20 or chr(code).isspace()) + _INVISIBLE
"""Controls, what Unicode calls a space (the last one is U+3000), and what takes no room."""
_URL: Final = re.compile(r"https?://(?:[^/?#@\\]*@)?(\[[^\]]*\]|[^/?#:\\]+)(?::\d{1,5})?(?:[/?#\\]|\Z)", re.IGNORECASE)
_ODD: Final = re.compile(rf"[\s\x00-\x20{_INVISIBLE}\\]")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "lan", "intranet", "home.arpa")
_LOCAL_ENDS: Final = tuple(f".{name}" for name in _LOCAL_NAMES)


def trimmed(text: str) -> str:
    """Return the text without blanks and invisible characters at its ends."""
    return text.strip(_EDGES)


def is_url(text: str) -> bool:
    """Return whether the text is an http or https URL with a host, whatever stands behind that."""
    return _host(text) is not None


def warning(url: str) -> str | None:
    """Return why a client may be unable to fetch the URL as it stands; None where it can be fetched."""
    host = _host(url) or ""
    reasons = [
        reason
        for reason, found in (
            (f"it has over {USUAL_MAX_CHARS} characters", len(url) > USUAL_MAX_CHARS),
            ("it holds a blank, an invisible character or a backslash", _ODD.search(url) is not None),
            ("its host is private", not is_public(host)),
            ("it is not https", not url[:8].lower().startswith("https://")),
        )
        if found
    ]
    return " and ".join(reasons) or None


def parted(outputs: Iterable[Output]) -> tuple[tuple[Output, ...], tuple[str, ...]]:
    """Return the outputs whose URLs are URLs (none where no video is among them), and the texts of the others."""
    usable: list[Output] = []
    unusable: list[str] = []
    video = False
    for one in outputs:
        if is_url(one.url):
            usable.append(one)
            video = video or one.kind is OutputKind.VIDEO
        else:
            unusable.append(one.url[:TEXT_MAX_CHARS])  # not before: the start of a URL that is too long is one too
    return tuple(usable) if video else (), tuple(unusable)


def first(outputs: Iterable[Output]) -> tuple[Output, ...]:
    """Return the likeliest of several places for one video: a public URL, else any URL, else text that is none."""
    return tuple(sorted(outputs, key=lambda one: (not is_url(one.url), not is_public(_host(one.url) or "")))[:1])


def judged(report: Report, opened: Callable[[str], bool]) -> Report:
    """Return the report without results at private hosts, other than those of which `opened` is True."""
    refused = [one for one in report.outputs if not is_public(host := _host(one.url) or "") and not opened(host)]
    if not refused:
        return report
    unusable = report.unusable + tuple(one.url[:TEXT_MAX_CHARS] for one in refused)
    kept, _ = parted(one for one in report.outputs if one not in refused)
    return msgspec.structs.replace(report, outputs=kept, unusable=unusable)


def opener(origin: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> Callable[[str], bool]:
    """Return what says whether the operator opened a private host for the results of the provider at `origin`.

    A host is open that is the provider's own, or an address in one of the networks; a local name is, where the
    provider's own host is private too.
    """
    own = _host(origin) or ""

    def opened(host: str) -> bool:
        address = _address(host)
        if address is None:
            return host == own or not is_public(own)
        return host == own or any(address in network for network in networks if network.version == address.version)

    return opened


@lru_cache(1024)
def is_public(host: str) -> bool:
    """Return whether the host may be on the internet, as far as its spelling shows; nothing is resolved."""
    address = _address(host)
    if address is not None:
        reached = getattr(address, "ipv4_mapped", None) or address
        return bool(reached.is_global and not reached.is_multicast)
    name = host.rstrip(".").lower()
    if re.fullmatch(r"\d+|0x[0-9a-f]*", name.rpartition(".")[2]):
        return False
    return "." in name and name not in _LOCAL_NAMES and not name.endswith(_LOCAL_ENDS)


def _host(url: str) -> str | None:
    """Return the host of an http or https URL, without the brackets of an address; None if it has none."""
    return _found_host(url) if len(url) <= URL_MAX_CHARS else None


@lru_cache(64)  # each URL is asked about a few times while its report is read
def _found_host(url: str) -> str | None:
    """Return the host of an http or https URL of any length; None if it has none."""
    found = _URL.match(url)
    return found[1].strip("[]").lower() if found and found[1].strip() else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that the host spells, None for a name."""
    text = host.rstrip(".")
    if ":" not in text and not text[-1:].isdigit():  # a name, as nearly always: an exception costs 3 µs
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
