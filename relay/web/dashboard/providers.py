"""The page of the providers: whether each works, how its jobs end, and what it accepts."""

from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay.web.dashboard.view import PageRoute, Verb, View

Json = dict[str, Any]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A provider with its numbers of the page's time; `shape` is that of its `word`."""

    provider: Json
    numbers: Json | None
    word: str
    shape: str

    @property
    def ended(self) -> int:
        """Return how many of its jobs ended in this time."""
        return sum(self.numbers["finished_by"].values()) if self.numbers else 0


async def index(view: View) -> Response:
    """Show every provider, those that have trouble first, then those that are configured."""
    chosen = view.range if view.range in view.ranges else "24h"
    providers = (await view.get("/v1/providers"))["data"]
    stats = await view.get("/v1/stats", {"from": f"-{chosen}"})
    numbers = {one["provider"]: one for one in stats["providers"]}
    rows = [_row(one, numbers.get(one["name"])) for one in providers]
    order = {"bad": 0, "warn": 1, "ok": 2, "off": 3}
    return await view.page("providers.html", listed=sorted(rows, key=lambda row: order[row.shape]), chosen=chosen)


def _row(provider: Json, numbers: Json | None) -> Row:
    """Return a provider with the word for how it is."""
    word, shape = "works", "ok"
    if not provider["configured"]:
        word, shape = "not configured", "off"
    elif provider["key_refused_at"]:
        word, shape = "refuses the key", "bad"
    elif numbers and provider["finished_by"] == "callback" and _silent(numbers["finished_by"]):
        word, shape = "silent", "warn"
    return Row(provider=provider, numbers=numbers, word=word, shape=shape)


def _silent(by: dict[str, int]) -> bool:
    """Return whether jobs ended, and none by a callback."""
    return by["callback"] == 0 and by["status_check"] > 0


PAGES: Final = (PageRoute("/providers", index),)
VERBS: Final[tuple[Verb, ...]] = ()
