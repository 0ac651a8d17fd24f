"""The page of the shortcuts, where single keys can be turned off."""

from typing import Final

from starlette.responses import Response

from relay.web.dashboard.view import PageRoute, Verb, View

KEYS: Final = (
    ("/", "search"),
    ("g, then o j e c p s k a", "go to overview, jobs, endpoints, callbacks, providers, spend, keys, audit"),
    ("j, k", "next row, previous row"),
    ("Enter", "open the row; with Ctrl in a new tab"),
    ("x", "tick the row; with Shift the rows since the last one"),
    ("c", "copy the id"),
    ("r", "open the form of the redelivery; it sends nothing"),
    ("p", "pause the live updates, or go on"),
    ("t", "the other theme"),
    ("Esc", "close what is open"),
    ("?", "this page"),
)


async def index(view: View) -> Response:
    """Show the shortcuts."""
    return await view.page("keyboard.html", keys=KEYS, off=view.http.cookies.get("relay-keys") == "off")


PAGES: Final = (PageRoute("/keyboard", index),)
VERBS: Final[tuple[Verb, ...]] = ()
