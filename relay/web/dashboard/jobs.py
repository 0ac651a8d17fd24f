"""The list of jobs: filters, and a row for each job."""

from typing import Final

from starlette.responses import Response

from relay.web.dashboard.view import PageRoute, Verb, View

PAGE: Final = 50


async def index(view: View) -> Response:
    """Show the jobs of the page's filters, newest first."""
    after, before = view.times()
    query = {
        "limit": str(PAGE),
        "cursor": view.query("cursor") or None,
        "status": view.query("status") or None,
        "provider": view.query("provider") or None,
        "created_after": after,
        "created_before": before,
    } | metadata(view.query("metadata"))
    found = await view.get("/v1/jobs", query)
    providers = [one["name"] for one in (await view.get("/v1/providers"))["data"]]
    return await view.page("jobs.html", jobs=found["data"], next_cursor=found["next_cursor"], providers=providers)


def metadata(text: str) -> dict[str, str | None]:
    """Return the filters of a text such as `user=42 scene=3`."""
    pairs = (pair.partition("=") for pair in text.split())
    return {f"metadata[{key}]": value for key, _, value in pairs if key}


PAGES: Final = (PageRoute("/jobs", index),)
VERBS: Final[tuple[Verb, ...]] = ()
