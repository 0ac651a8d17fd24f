"""The search: whatever an operator has in hand, an id, a provider's id, a URL or metadata, leads to its page."""

from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from relay.web.dashboard.view import PageRoute, Verb, View

LIMIT: Final = 20
EXACT: Final = ("id", "provider_job_id")
KINDS: Final = {
    "job": "Jobs",
    "event": "Events",
    "delivery": "Deliveries",
    "callback": "Callbacks",
    "endpoint": "Endpoints",
    "redelivery": "Redeliveries",
}


async def index(view: View) -> Response:
    """Show what a text may mean; what it surely means is opened."""
    text = view.query("q")
    found = (await view.get("/v1/search", {"q": text, "limit": str(LIMIT)}))["data"] if text else []
    if len(found) == 1 and found[0]["matched"] in EXACT and (to := target(found[0])):
        return RedirectResponse(view.href(to), 303)
    hits = {
        title: [(hit, target(hit)) for hit in found if hit["kind"] == kind]
        for kind, title in KINDS.items()
        if any(hit["kind"] == kind for hit in found)
    }
    return await view.page("search.html", text=text, hits=hits)


def target(hit: dict[str, Any]) -> str | None:
    """Return the path of a hit's page: its own, or that of the job that it is about; None if it has none."""
    kind, id_, job = hit["kind"], hit["id"], hit["job_id"]
    if kind == "endpoint":
        return f"/endpoints/{id_}"
    if kind == "callback" and job is None:
        return "/callbacks"
    anchor = {"callback": "#callbacks", "delivery": "#deliveries", "event": "#deliveries"}.get(kind, "")
    return f"/jobs/{job}{anchor}" if job else None


PAGES: Final = (PageRoute("/search", index),)
VERBS: Final[tuple[Verb, ...]] = ()
