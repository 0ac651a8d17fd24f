"""The page of the audit: who changed what, when, and from where."""

from typing import Final

from starlette.responses import Response

from relay.web.dashboard.view import PageRoute, Verb, View

PAGE: Final = 100


async def index(view: View) -> Response:
    """Show the entries of the page's filters, newest first; a key without `admin` may not read them."""
    if not view.may("admin"):
        return await view.page("audit.html", entries=None, next_cursor=None)
    after, before = view.times()
    query = {name: view.query(name) or None for name in ("key", "verb", "target", "via", "cursor")}
    found = await view.get("/v1/audit", query | {"limit": str(PAGE), "created_after": after, "created_before": before})
    return await view.page("audit.html", entries=found["data"], next_cursor=found["next_cursor"])


PAGES: Final = (PageRoute("/audit", index),)
VERBS: Final[tuple[Verb, ...]] = ()
