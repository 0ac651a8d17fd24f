"""How pages write times, ages, sizes, durations and ids: one form for each, made on the server, in UTC."""

import re
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from relay.clock import parse_rfc3339

NONE: Final = "–"
ID_TAIL: Final = 8
_ID: Final = re.compile(r"[a-z]{2,4}_[0-9a-z]{9,}")

STATUS_SHAPES: Final = {
    **dict.fromkeys(
        ("succeeded", "delivered", "ok", "active", "archived", "recorded", "confirmed", "paid", "enabled", "done"), "ok"
    ),
    **dict.fromkeys(("failed", "exhausted", "refused", "lost", "error"), "bad"),
    **dict.fromkeys(
        ("bad_status", "timeout", "dns_failed", "unreachable", "tls_failed", "address_refused", "response_too_large"),
        "bad",
    ),
    **dict.fromkeys(("endpoint_gone", "not_sent", "unauthorized"), "bad"),
    **dict.fromkeys(("expired", "held", "orphaned", "mismatched", "unreadable", "quarantined", "warning"), "warn"),
    **dict.fromkeys(("submit_unknown", "unknown", "awaiting_approval", "unconfirmed", "waiting"), "warn"),
    **dict.fromkeys(("submitted", "running", "sending", "open", "reserved"), "run"),
    **dict.fromkeys(("pending", "idle"), "idle"),
    **dict.fromkeys(
        ("repeated", "stale", "canceled", "disabled", "revoked", "void", "skipped", "ended", "deleted"), "off"
    ),
}
"""The shape of each status word: never colour alone."""


def shape(word: str) -> str:
    """Return the class of a status word: ok, bad, warn, run, idle or off."""
    return STATUS_SHAPES.get(word, "idle")


def full(at: str) -> str:
    """Return a time as people write it, with milliseconds: `2026-11-27 02:03:04.005 UTC`."""
    return f"{at[:10]} {at[11:23]} UTC"


def clock(at: str, today: str, *, evidence: bool = False) -> str:
    """Return the time of day, with the date if it is another day than `today` (`2026-11-27`); ms on evidence."""
    when = at[11:23] if evidence else at[11:19]
    if at[:10] == today:
        return when
    day = datetime.fromisoformat(at[:10]).replace(tzinfo=UTC)
    year = "" if at[:4] == today[:4] else f" {day.year}"
    return f"{day.day} {day:%b}{year} {when}"


def span(ms: float) -> str:
    """Return a duration with the unit that its size asks for: `98 ms`, `4.7 s`, `67 s`, `5 min 15 s`, `1 h 9 min`."""
    ms = max(0, ms)
    if ms < 1000:
        return f"{round(ms)} ms"
    seconds = ms / 1000
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    minutes = whole // 60
    if minutes < 24 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, rest = divmod(minutes // 60, 24)
    return f"{days} d {rest} h" if rest else f"{days} d"


def age(ms: float) -> str:
    """Return an age in one unit, two above an hour: `now`, `4 s`, `22 min`, `1 h 9 min`, `3 d`."""
    seconds = max(0, ms) / 1000
    if seconds < 1:
        return "now"
    if seconds < 100:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if seconds < 86_400:
        return span(seconds // 60 * 60_000)
    return f"{int(seconds // 86_400)} d"


def ms_of(at: str) -> int:
    """Return the unix milliseconds of a time in an answer of the API."""
    return parse_rfc3339(at)


def between(earlier: str | None, later: str | None) -> str:
    """Return the duration between two times; nothing if one is missing."""
    return "" if earlier is None or later is None else span(ms_of(later) - ms_of(earlier))


def short(id_: str) -> str:
    """Return an id as a list shows it: `job_…tr4sjm6r`; another text unchanged."""
    if not _ID.fullmatch(id_):
        return id_
    head, _, rest = id_.partition("_")
    return f"{head}_…{rest[-ID_TAIL:]}"


def number(value: int) -> str:
    """Return an integer with commas, exact at any size."""
    return f"{value:,}"


def amount(text: str) -> str:
    """Return an amount with two decimals or as many as it needs, exact: `0.50`, `0.000001`, `2,600.00`."""
    whole, _, rest = text.partition(".")
    return f"{int(whole):,}.{rest.rstrip('0').ljust(2, '0')}"


def size(count: int) -> str:
    """Return a number of bytes, exact."""
    return f"{count:,} bytes"


def url(text: str) -> str:
    """Return a URL without its scheme and its query, which may hold a signature."""
    return re.sub(r"^https?://", "", text).partition("?")[0].removesuffix("/")


def code(text: str) -> Markup:
    """Return a text of relay's with what stands between backticks as code."""
    pieces = (escape(piece) for piece in text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))
