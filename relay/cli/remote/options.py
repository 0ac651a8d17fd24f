"""Declare options that commands share, and check their values before a request is sent.

A value that can be checked without relay is a wrong use of the command: click names the option and exits with 2. Only
relay knows its providers, jobs and limits; it refuses a wrong one with 422, which is exit status 1.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from relay.cli.remote.connection import Json
from relay.cli.remote.output import document
from relay.clock import TIME_FORMS, parse_time
from relay.errors import InvalidInput
from relay.model.job import EventType
from relay.model.payment import max_cost
from relay.security.signatures import is_event_id

SHOWN_CHARS: Final = 60
"""An error shows so much of a wrong value."""
ID_MAX_CHARS: Final = 63
IDEMPOTENCY_KEY_MAX_CHARS: Final = 255


def time_text(text: str) -> str:
    """Return a time as it was given, because relay reads it by its own clock; raise BadParameter for another text."""
    return _checked(text, lambda: parse_time(text, 0), TIME_FORMS)


def age_text(text: str) -> str:
    """Return an age as it was given; raise BadParameter for another text."""
    return _checked(text, lambda: parse_time(f"-{text}", 0), "an age such as 90s, 30m, 2h or 7d")


def usd_text(text: str) -> str:
    """Return an amount of USD as it was given; raise BadParameter for another text."""
    return _checked(text, lambda: max_cost(text), "an amount of USD such as 0.50, with six decimal places at most")


def idempotency_key(text: str) -> str:
    """Return an Idempotency-Key; raise BadParameter for one that relay does not take."""
    if not (1 <= len(text) <= IDEMPOTENCY_KEY_MAX_CHARS and text.isascii() and text.isprintable()):
        raise _wrong(text, f"1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters")
    return text


def webhook_id(text: str) -> str:
    """Return a `webhook-id`; raise BadParameter for one that cannot be signed."""
    if not is_event_id(text):
        raise _wrong(text, "visible ASCII without a full stop")
    return text


def id_of(prefix: str, *, optional: bool = False) -> Callable[[str], str]:
    """Return what checks that a text can be an id with this prefix, or if `optional` the empty text."""

    def an_id(text: str) -> str:
        fits = text.startswith(prefix) and len(text) <= ID_MAX_CHARS and text.isascii() and text.isprintable()
        if not fits and not (optional and not text):
            raise _wrong(text, f"an id that begins with {prefix}")
        return text

    return an_id


def one_of(values: Iterable[str], *more: str) -> click.Choice[str]:
    """Return the choice between the values of a closed list; `--help` shows them."""
    return click.Choice([*more, *map(str, values)])


class Finite(click.FloatRange):
    """A finite number in a range: `nan` is in every range for a comparison, and no wait ends after it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail for one that is outside of the range or not finite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"must be a finite number, not {value}", param, ctx)
        return number


def limited(function: Callable[..., None]) -> Callable[..., None]:
    """Give a list its `--limit`, `--since` and `--until`."""
    limit = click.IntRange(1, 100_000)
    return click.option("--limit", type=limit, default=50, show_default=True, help="So many at most, newest first.")(
        since_until(function)
    )


def since_until(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command its `--since` and `--until`."""
    function = click.option("--until", type=time_text, metavar="TIME", help="Not after: as --since.")(function)
    return click.option(
        "--since", type=time_text, metavar="TIME", help="Not before: 2026-11-26, an RFC 3339 time, or -24h."
    )(function)


def made_between(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command over jobs its `--since` and `--until`, by when they were made."""
    function = click.option("--until", "created_before", type=time_text, metavar="TIME", help="Not made after.")(
        function
    )
    told = "Not made before: a date, an RFC 3339 time, or -24h."
    return click.option("--since", "created_after", type=time_text, metavar="TIME", help=told)(function)


def typed(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option `--type` of an event; its help wraps the list, which is too long for one line."""
    types = ", ".join(EventType)
    return click.option(
        "--type", "kind", type=one_of(EventType), metavar="TYPE", help=f"Only events of this type: {types}."
    )(function)


def json_object(text: str | None, name: str) -> Json | None:
    """Return the JSON object of an option, which `document` reads; raise BadParameter for other JSON."""
    if text is None:
        return None
    try:
        found = document(text, name)
    except RecursionError:
        raise click.BadParameter("is JSON with too many levels", param_hint=name) from None
    if not isinstance(found, dict):
        raise click.BadParameter('must be a JSON object, such as \'{"prompt": "slow push in"}\'', param_hint=name)
    return found


def _checked(text: str, read: Callable[[], object], must: str) -> str:
    """Return the text if it can be read; raise BadParameter, which says what it must be, if not."""
    try:
        read()
    except (ValueError, OverflowError, InvalidInput):
        raise _wrong(text, must) from None
    return text


def _wrong(text: str, must: str) -> click.BadParameter:
    """Return the error of a wrong value; click adds the name of its option."""
    return click.BadParameter(f"must be {must}, not {text[:SHOWN_CHARS]!r}")
