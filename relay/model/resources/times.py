"""How times are shown: RFC 3339 in UTC with milliseconds."""

from typing import Annotated

from msgspec import Meta

from relay.clock import rfc3339

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def time_or_none(at_ms: int | None) -> str | None:
    """Return the time as RFC 3339, None for None."""
    return None if at_ms is None else rfc3339(at_ms)
