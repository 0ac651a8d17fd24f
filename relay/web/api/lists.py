"""Read the query parameters that lists share, and write a page of a list."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

from msgspec import Meta
from starlette.responses import Response

from relay.clock import TIME_FORMS, parse_time
from relay.errors import FieldError, InvalidInput
from relay.model.resources.envelopes import PageResource
from relay.storage.pages import Listing, Page, Span
from relay.validation import must_be_one_of, shown
from relay.web.api.api_request import ApiRequest, Parameter
from relay.web.problems import JSON

LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
CURSOR_IN_WORDS: Final = "the next_cursor of an earlier page"
_LIMIT: Final = Annotated[int, Meta(ge=1, le=LIMIT_MAX)]
TIME: Final = Annotated[str, Meta(description=f"It must be {TIME_FORMS}.")]


def paging(prefix: str) -> tuple[Parameter, Parameter]:
    """Return the parameters of every list, here of items whose ids begin with `prefix`."""
    cursor = Annotated[str, Meta(pattern=f"^{prefix}[!-~]{{1,59}}$")]
    return (
        Parameter("limit", f"How many items; {LIMIT_DEFAULT} if not given.", _LIMIT, "10"),
        Parameter("cursor", "`next_cursor` of the previous page.", cursor),
    )


def cursor_and_limit(given: dict[str, str], prefix: str) -> tuple[str | None, int]:
    """Return the id that a page starts after, which begins with `prefix`, and the largest number of items."""
    errors = []
    cursor, limit = given.get("cursor"), given.get("limit", str(LIMIT_DEFAULT))
    if cursor is not None and not (cursor.startswith(prefix) and cursor.isascii() and len(cursor) < 64):
        errors.append(FieldError("cursor", f"must be {CURSOR_IN_WORDS}, not {shown(cursor)}"))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= LIMIT_MAX):
        errors.append(FieldError("limit", f"must be an integer from 1 to {LIMIT_MAX}, not {shown(limit)}"))
    if errors:
        raise InvalidInput(errors)
    return cursor, int(limit)


def listing(request: ApiRequest, given: dict[str, str], prefix: str) -> Listing:
    """Return where a page starts, how many items it may have, and how many bytes."""
    before, limit = cursor_and_limit(given, prefix)
    return Listing(before=before, limit=limit, bytes_max=request.app.settings.page_max_bytes)


def span_parameters(verb: str) -> tuple[Parameter, Parameter]:
    """Return the parameters that narrow a list to a time; `verb` says what happened to its items then."""
    return (
        Parameter("created_after", f"Only those {verb} after this time.", TIME),
        Parameter("created_before", f"Only those {verb} before this time.", TIME),
    )


def span(given: dict[str, str], now_ms: int) -> Span:
    """Return the times that a list is narrowed to; raise InvalidInput, which names the forms of a time."""
    after, before = (
        None if name not in given else time_param(name, given[name], now_ms)
        for name in ("created_after", "created_before")
    )
    return Span(after=after, before=before)


def page(found: Page[Any], resource: Callable[[Any], Any]) -> Response:
    """Return a page; it may be short or empty although `next_cursor` names another one."""
    return JSON(PageResource(data=[resource(one) for one in found.items], next_cursor=found.next_cursor))


def time_param(name: str, given: str, now_ms: int) -> int:
    """Return a time in unix milliseconds, in any form of `parse_time`; raise InvalidInput, which names the forms.

    A `+` in a query means a space; here it is the `+` of a UTC offset that the client did not escape.
    """
    try:
        return parse_time(given.replace(" ", "+"), now_ms)
    except (ValueError, OverflowError):
        raise InvalidInput([FieldError(name, f"must be {TIME_FORMS}, not {shown(given)}")]) from None


def flag(given: dict[str, str], name: str) -> bool:
    """Return a parameter that must be `true` or `false`; False if it is not given."""
    if (value := given.get(name, "false")) not in ("true", "false"):
        raise InvalidInput([FieldError(name, f"must be true or false, not {shown(value)}")])
    return value == "true"


def choice(given: dict[str, str], name: str, values: Iterable[str]) -> str | None:
    """Return a parameter that must be one of a closed list; None if it is not given."""
    value = given.get(name)
    if value is not None and value not in (known := list(values)):
        raise InvalidInput([FieldError(name, must_be_one_of(known, value))])
    return value


def id_param(given: dict[str, str], name: str, prefix: str) -> str | None:
    """Return a parameter that must be an id, which begins with `prefix`; None if it is not given."""
    value = given.get(name)
    if value is not None and not value.startswith(prefix):
        raise InvalidInput([FieldError(name, f"must be an id that begins with {prefix}, not {shown(value)}")])
    return value
