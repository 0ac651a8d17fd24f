"""What a page is made from: the request of a signed-in browser, with reads through the API, and a template's context.

`PageRoute` declares a page, `Verb` a form that calls one route of the API.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from relay.app import App
from relay.clock import rfc3339
from relay.errors import RelayError
from relay.web.auth import Caller
from relay.web.dashboard import formats, rendering
from relay.web.dashboard.in_process import ApiCall, InProcessApi, Refused
from relay.web.dashboard.rendering import Assets, Templates
from relay.web.dashboard.session import Session, Sessions

Form = Mapping[str, Sequence[str]]
"""The fields of a form as it was sent, each with its values."""
RANGES: Final = {"1h": "1 h", "24h": "24 h", "7d": "7 d", "30d": "30 d"}
"""The time ranges that every list offers; a page's query has `range`, or `from` and `to`."""
RANGE_DEFAULT: Final = "24h"


NAVIGATION: Final = (
    ("/", "Overview"),
    ("/jobs", "Jobs"),
    ("/endpoints", "Endpoints"),
    ("/callbacks", "Callbacks"),
    ("/providers", "Providers"),
    ("/spend", "Spend"),
    ("/keys", "Keys"),
    ("/audit", "Audit"),
)


ALERTED: Final = {
    "/endpoints": "need a look",
    "/callbacks": "in quarantine",
    "/providers": "need a look",
    "/spend": "need a look",
    "/": "need a look",
}
"""What the badge of a page counts: the open alerts that lead to it."""
_PAGES: Final = {
    "delivery": "/endpoints",
    "endpoint": "/endpoints",
    "callback": "/callbacks",
    "provider": "/providers",
    "spend": "/spend",
    "payment": "/spend",
    "backlog": "/",
}


def page_of(kind: str) -> str | None:
    """Return the page that an alert's kind, such as `endpoint.failing`, leads to."""
    return _PAGES.get(kind.partition(".")[0])


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence at the head of a page: the result of what its reader has done, or a refusal."""

    kind: Literal["ok", "warn", "bad", "run"]
    title: str
    text: str = ""


class Badge(msgspec.Struct, frozen=True):
    """What stands beside a page's name in the navigation: a number or a share, and its meaning."""

    text: str
    title: str


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """What all pages share; `paths` are those of the pages that there are."""

    app: App
    api: InProcessApi
    sessions: Sessions
    templates: Templates
    assets: Assets
    paths: frozenset[str]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a signed-in browser."""

    desk: Desk
    http: Request
    caller: Caller
    session: Session
    note: Note | None = None
    form: Form = {}
    """What was sent with a verb that was refused, so that the page shows it again."""
    status: int = 200
    live: Literal["", "offered", "stream"] = ""
    """Whether the page is one that a stream keeps up to date, and whether it is made for that stream now."""
    rows: tuple[str, ...] = ()
    """The ids of the rows that the browser's page has, for its stream."""

    @property
    def app(self) -> App:
        """Return the open relay."""
        return self.desk.app

    @property
    def now_ms(self) -> int:
        """Return the wall clock's time in unix milliseconds."""
        return self.desk.app.clock.now_ms()

    @property
    def today(self) -> str:
        """Return the day in UTC, as `2026-11-27`."""
        return rfc3339(self.now_ms)[:10]

    @property
    def here(self) -> str:
        """Return the path and query of this page, below the dashboard's root."""
        query = self.http.url.query
        return self.http.url.path + (f"?{query}" if query else "")

    @property
    def section(self) -> str:
        """Return the path of the page's entry in the navigation; one callback (`/callback/…`) belongs to the list."""
        first = "/" + self.http.url.path.split("/")[1]
        return f"{first}s" if f"{first}s" in self.desk.paths else first

    async def _nav(self) -> list[tuple[str, str, Badge | None]]:
        """Return the path, the name and the badge of each page of the navigation; badges are of open alerts."""
        try:
            alerts = (await self.get("/v1/alerts", {"limit": "200"}))["data"]
        except (Refused, RelayError):
            alerts = []
        numbers = Counter(page for one in alerts if (page := page_of(one["kind"])))
        return [
            (path, name, Badge(str(numbers[path]), ALERTED[path]) if numbers[path] else None)
            for path, name in NAVIGATION
            if path in self.desk.paths
        ]

    @property
    def project(self) -> str:
        """Return the project as its reader knows it: by its name, or else by its id."""
        return self.session.project or self.caller.project_id

    @property
    def ranges(self) -> dict[str, str]:
        """Return the time ranges that a list offers."""
        return RANGES

    def href(self, path: str) -> str:
        """Return a path of the dashboard as the browser reaches it."""
        return self.desk.templates.href(path)

    def path(self, name: str) -> str:
        """Return a parameter of the page's path."""
        return str(self.http.path_params[name])

    def query(self, name: str, default: str = "") -> str:
        """Return a parameter of the page's query, without blanks around it."""
        return self.http.query_params.get(name, default).strip()

    def may(self, scope: str) -> bool:
        """Return whether the session's key has a scope."""
        return bool(self.caller.scopes & {scope, "admin"})

    def has(self, route: str) -> bool:
        """Return whether the API has a route, such as `GET /v1/stats`."""
        return self.desk.api.has(route)

    def with_query(self, **changed: str | None) -> str:
        """Return this page with parameters changed, and without its cursor unless that is changed too."""
        query = {name: value for name, value in self.http.query_params.items() if name not in ("cursor", "all")}
        query |= changed  # type: ignore[arg-type]
        kept = urlencode({name: value for name, value in query.items() if value})
        return self.desk.templates.href(self.http.url.path + (f"?{kept}" if kept else ""))

    @staticmethod
    def encoded(**query: str) -> str:
        """Return parameters as a query."""
        return urlencode(query)

    async def get(self, route: str, query: Mapping[str, str | None] | None = None, **path: str) -> Any:
        """Return the JSON of a GET route of the API (`/v1/jobs/{id}`); raise Refused for a problem."""
        response = await self.answer(ApiCall(route=f"GET {route}", path=path, query=query or {}))
        return msgspec.json.decode(response.body)

    async def answer(self, call: ApiCall) -> Response:
        """Return the response of a route of the API; raise Refused for a problem."""
        return await self.desk.api.call(self.caller, self.http, call)

    async def page(self, template: str, **context: Any) -> Response:
        """Return the page of a template."""
        nav = [] if self.live == "stream" else await self._nav()
        frame = self._frame(context.get("rows", ())) | {"nav": nav} | context
        return rendering.html(await self.desk.templates.render_in_steps(template, frame), self.status)

    def _frame(self, rows: Sequence[str]) -> dict[str, Any]:
        """Return what every template may use: `view`, times and the hidden fields."""
        now = rfc3339(self.now_ms)
        return {
            "view": self,
            "caller": self.caller,
            "settings": self.app.settings,
            "note": self.note,
            "form": self.form,
            "now": now,
            "now_ms": self.now_ms,
            "today": now[:10],
            "clock": lambda at, evidence=False: formats.clock(at, now[:10], evidence=evidence),
            "ago": lambda at: formats.age(self.now_ms - formats.ms_of(at)),
            "until": lambda at: formats.span(formats.ms_of(at) - self.now_ms),
            "theme": rendering.theme_of(self.http),
            "csrf": self.session.csrf,
            "once": lambda: secrets.token_urlsafe(12),
            "part": self._part,
            "live_url": self._live_url(rows),
            "section": self.section,
        }

    def _part(self, name: str = "") -> Markup:
        """Return the mark around a part of a page that its stream sends when it changes; the part's id is its name."""
        return Markup("<!--part {}-->").format(name) if self.live == "stream" else Markup()

    def _live_url(self, rows: Sequence[str]) -> str:
        """Return where the stream of this page, with these rows, is; empty if it has none."""
        if self.live != "offered" or self.status != 200:
            return ""
        asked = urlencode({**self.http.query_params, **({"rows": ",".join(rows)} if rows else {})}, safe=",")
        return self.desk.templates.href(f"/live{self.http.url.path}" + (f"?{asked}" if asked else ""))

    @property
    def range(self) -> str:
        """Return the time range of the page's query: one of `RANGES`, or `custom` where `from` or `to` is given."""
        if self.query("from") or self.query("to"):
            return "custom"
        asked = self.query("range", RANGE_DEFAULT)
        return asked if asked in RANGES else RANGE_DEFAULT

    def times(self) -> tuple[str | None, str | None]:
        """Return `created_after` and `created_before` of the page's time range, as the API reads them."""
        if self.range == "custom":
            return utc(self.query("from")) or None, utc(self.query("to")) or None
        return f"-{self.range}", None


def utc(text: str) -> str:
    """Return a time that a reader typed (`2026-11-27 02:03`) in the form of the API; other texts unchanged."""
    text = text.strip()
    date, _, clock = text.replace("T", " ").removesuffix(" UTC").removesuffix("Z").partition(" ")
    if not clock or not date[:4].isdigit():
        return text
    return f"{date}T{clock if clock.count(':') > 1 else f'{clock}:00'}Z"


Handler = Callable[[View], Awaitable[Response]]


class PageRoute(msgspec.Struct, frozen=True):
    """A page, at a path such as `/endpoints/{id}`; with `live` a stream keeps it up to date.

    The template marks what may change: `{{ part("health") }}<div id="health">…</div>{{ part() }}`.
    """

    path: str
    handler: Handler
    live: bool = False


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """A form that calls one route of the API: the parameters of its path have the names of that route's.

    `title` begins what is said of a refusal (“Test refused: …”). `body` makes the request's body of the form, and
    `params` those parameters of the path that the form has. When it
    is done the browser returns to the page with the sentence of `done`; with `answered` it gets that page instead,
    for an answer that is shown once.
    """

    path: str
    route: str
    title: str
    body: Callable[[Form], Any] | None = None
    params: Callable[[Form], Mapping[str, str]] | None = None
    done: Callable[[Any, Form], str] | None = None
    answered: Callable[[View, Any], Awaitable[Response]] | None = None

    @property
    def routes(self) -> tuple[str, ...]:
        """Return the routes of the API that it calls."""
        return (self.route,)


class FormRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A form that calls several routes of the API: `act` does it, and returns what is said on the page after that."""

    path: str
    routes: tuple[str, ...]
    title: str
    act: Callable[[View, Form], Awaitable[Note]]


def text_of(form: Form, name: str) -> str:
    """Return a field of a form without blanks around it, empty if it was not sent."""
    return next(iter(form.get(name, ())), "").strip()


def ticked(form: Form, name: str) -> bool:
    """Return whether a box was ticked."""
    return name in form
