"""The dashboard at `/`: pages made on the server, which read and act through the API's own handlers alone.

How a page is added:

1. A module of its own, `<noun>.py`, with `async def index(view: View) -> Response`. It reads by
   `await view.get("/v1/endpoints/{id}", {"limit": "50"}, id=view.path("id"))`, which returns the API's JSON; a refusal
   becomes the error page. It ends with `return await view.page("<noun>.html", name=value)`.
2. `templates/<noun>.html`, which extends `layout.html` and imports the macros of `parts.html`.
3. `PAGES` (`PageRoute(path, handler)`) and `VERBS` in the module, its module added to `NOUNS` below, and a line in the
   navigation of `layout.html`.

A verb is a form that calls one route of the API (`view.Verb`): its form begins with `{{ hidden() }}`. When relay
refuses it, the reader stays on the page, with the reason and with what was typed. A page draws a verb only if
`view.may(scope)`. Everything works without JavaScript; `static/app.js` and htmx only keep a page's place and
make it live. No `style=` and no inline script: the policy of `rendering.HEADERS` allows neither.
"""

from collections.abc import Iterable
from typing import Final

from relay.app import App
from relay.web.api.api_request import ApiRoute
from relay.web.dashboard import (
    audit,
    callbacks,
    copies,
    endpoints,
    job,
    jobs,
    keyboard,
    keys,
    overview,
    providers,
    search,
    spend,
)
from relay.web.dashboard.frame import Frame
from relay.web.dashboard.view import FormRoute, PageRoute, Verb
from relay.web.request_body import BodyMemory

NOUNS: Final = (
    overview,
    jobs,
    job,
    copies,
    search,
    keyboard,
    endpoints,
    callbacks,
    providers,
    keys,
    spend,
    audit,
)
PAGES: Final[tuple[PageRoute, ...]] = tuple(page for noun in NOUNS for page in noun.PAGES)
VERBS: Final[tuple[Verb | FormRoute, ...]] = tuple(verb for noun in NOUNS for verb in noun.VERBS)


def frame(app: App, api: Iterable[ApiRoute], memory: BodyMemory) -> Frame:
    """Return the dashboard of an open relay."""
    return Frame(app, api, memory, PAGES)
