"""Lists, page by page: a page reads a bounded number of rows and bytes, and comes back short rather than reading on.

A filter that few rows pass would read all that there is. So a filtered page reads no more than WINDOW rows in their
order; where these have too few, it is short, and its cursor goes on behind the last row that was read.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from relay.model import ids
from relay.storage.engine.database import Database, Params, Purpose, Row

Item = TypeVar("Item")
WINDOW: Final = 2_000
"""Rows that a filtered page reads."""
FIRST: Final = 8
"""Rows that are read before it is known how large they are; of the largest there are, these are some 16 MiB."""
PAGE_BYTES: Final = 4 << 20
SKEW_MS: Final = 10_000
"""By how much the time of an id may differ from the time that its row shows: a row is stamped when something happens,
and its id is made when that is written. Clocks are set, and a writer waits for the database."""


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """The items of a page, newest first, and where the next one begins; None where this is the last."""

    items: list[Item]
    next_cursor: str | None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a page is read with: `before` an id, at most `limit` items, and `bytes_max` of them, one at least."""

    before: str | None
    limit: int
    bytes_max: int = PAGE_BYTES


class Span(msgspec.Struct, frozen=True):
    """The rows made after one time and before another, both excluded, in unix milliseconds; None: without that end."""

    after: int | None = None
    before: int | None = None

    def narrow(self, listing: Listing, prefix: str) -> tuple[Listing, str | None]:
        """Return where a page of ids with `prefix` begins, and the lowest id that it can hold; None without one.

        Ids begin with the time they were made at, so the rows of a span are a range of them, give or take SKEW_MS: the
        statement compares the times too.
        """
        last = None if self.after is None else ids.first_at(prefix, self.after - SKEW_MS)
        if self.before is None:
            return listing, last
        first = ids.first_at(prefix, self.before + SKEW_MS)
        before = first if listing.before is None else min(first, listing.before)
        return msgspec.structs.replace(listing, before=before), last

    def params(self) -> dict[str, Any]:
        """Return the parameters of a statement that compares the times."""
        return {"created_after": self.after, "created_before": self.before}


EVER: Final = Span()


async def floor(database: Database, name: str, params: Params) -> str | None:
    """Return the id of the last row that a filtered page reads; None where the rows end before it."""
    found = await database.rows(name, {**params, "window": WINDOW - 1}, Purpose.LIST)
    return found[0]["id"] if found else None


async def bounds(
    database: Database, name: str | None, params: dict[str, Any], lowest: str | None
) -> tuple[dict[str, Any], str | None]:
    """Return `params` with the `floor` of a page, and the id where its reading ends although there may be more.

    `lowest` is the lowest id that the list can hold; `name` is the statement that finds the last row a filtered page
    reads, None where nothing is filtered.
    """
    window = None if name is None else await floor(database, name, params)
    if window is not None and (lowest is None or window > lowest):
        return params | {"floor": window}, window
    return params | {"floor": lowest}, None


async def collect(
    listing: Listing,
    read: Callable[[str | None, int], Awaitable[Sequence[Row]]],
    made: Callable[[Row], Item],
    floor_id: str | None = None,
) -> Page[Item]:
    """Return a page of what `read` gives, asked with the id to begin before and how many rows.

    The size of the first few rows decides how many more are read together.
    """
    rows: list[Row] = []
    weight, before, asked = 0, listing.before, min(listing.limit, FIRST)
    while True:
        found = await read(before, asked + 1)
        for row in found[:asked]:
            weight += weight_of(row)
            if rows and weight > listing.bytes_max:
                return Page([made(one) for one in rows], rows[-1]["id"])
            rows.append(row)
        if len(found) <= asked:
            return Page([made(one) for one in rows], floor_id)
        before = rows[-1]["id"]
        if len(rows) == listing.limit:
            return Page([made(one) for one in rows], before)
        more = max(1, (listing.bytes_max - weight) * len(rows) // max(1, weight))
        asked = min(listing.limit - len(rows), more)


def weight_of(row: Row) -> int:
    """About how many bytes a row is: its texts and bytes."""
    values = row.values()
    return sum(len(value) for value in values if isinstance(value, str | bytes))
