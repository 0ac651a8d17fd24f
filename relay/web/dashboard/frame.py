"""Answers the dashboard's requests: sign-in, pages, verbs, files; a refusal stays on the page of its form."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, compile_path

import relay
from relay import log
from relay.app import App
from relay.errors import BadBody, Forbidden, NotFound, RelayError, TooManyRequests
from relay.log import request_ids
from relay.model.resources.envelopes import ProblemResource
from relay.storage.audit import Via
from relay.web import problems, request_body, request_rates
from relay.web.api import audited
from relay.web.api.api_request import ApiRoute
from relay.web.auth import Caller
from relay.web.dashboard import rendering
from relay.web.dashboard.in_process import ApiCall, InProcessApi, Refused
from relay.web.dashboard.live import Live
from relay.web.dashboard.rendering import shared_assets, shared_templates
from relay.web.dashboard.session import Session, Sessions, SignedIn, csrf_matches, same_origin, set_cookie
from relay.web.dashboard.view import Desk, Form, FormRoute, Handler, Note, PageRoute, Verb, View, text_of
from relay.web.request_body import BodyMemory

NOTE: Final = "relay-note"
"""The cookie that carries the result of a verb to the page that the browser is sent to."""
NOTE_MAX_CHARS: Final = 600
FIELDS_MAX: Final = 500
_FOREIGN: Final = (
    "This form did not come from a page of this session. Nothing was changed. Open the page anew and try again."
)
_logger = log.get("web.dashboard")

Answer = Callable[[Request], Awaitable[Response]]


class Frame:
    """The dashboard of an open relay."""

    def __init__(self, app: App, api: Iterable[ApiRoute], memory: BodyMemory, pages: Iterable[PageRoute]) -> None:
        pages = tuple(pages)
        assets, base = shared_assets(), urlsplit(app.settings.public_url or "").path.rstrip("/")
        self._app = app
        self._memory = memory
        self._streams = Live(app, sessions := Sessions(app))
        self._desk = Desk(
            app=app,
            api=InProcessApi(app, api, memory),
            sessions=sessions,
            templates=shared_templates(base),
            assets=assets,
            paths=frozenset(page.path for page in pages),
        )
        self._pages = [(compile_path(page.path)[0], page) for page in pages]
        self._home = "/" if "/" in self._desk.paths else pages[0].path

    def routes(self, verbs: Iterable[Verb | FormRoute]) -> list[Route]:
        """Return the routes of the pages and verbs, and the frame's own."""
        home = () if self._home == "/" else (Route("/", self._to_home, methods=["GET"]),)
        return [
            *home,
            Route("/signin", self._signin, methods=["GET"]),
            Route("/signin", self._sign_in, methods=["POST"]),
            Route("/signout", self._guarded(self._sign_out), methods=["POST"]),
            Route("/theme", self._guarded(self._theme), methods=["POST"]),
            Route("/assets/{name:path}", self._asset, methods=["GET"]),
            *(Route(page.path, self._page(page), methods=["GET"]) for _, page in self._pages),
            *(Route(f"/live{page.path}", self._live(page), methods=["GET"]) for _, page in self._pages if page.live),
            *(
                Route(verb.path, answer, methods=["POST"])
                for verb in verbs
                if (answer := self._answer(verb)) is not None
            ),
        ]

    def _live(self, page: PageRoute) -> Answer:
        """Return what answers the stream of a page."""

        async def answer(http: Request) -> Response:
            asked = dict(http.query_params)
            rows = tuple(filter(None, asked.pop("rows", "").split(",")))
            path, query = http.scope["path"].removeprefix("/live"), urlencode(asked).encode()
            own = Request({**http.scope, "path": path, "query_string": query})

            async def render(signed_in: SignedIn) -> Response:
                view = View(
                    desk=self._desk,
                    http=own,
                    caller=signed_in.caller,
                    session=signed_in.session,
                    live="stream",
                    rows=rows,
                )
                return await self._shown(page.handler, view)

            return await self._streams.stream(http, render)

        return answer

    def _page(self, page: PageRoute) -> Answer:
        """Return what answers a page: to a browser without a session with the way to sign in."""

        async def answer(http: Request) -> Response:
            signed_in = await self._session(http)
            if isinstance(signed_in, Response):
                return signed_in
            view = msgspec.structs.replace(self._with_note(signed_in), live="offered" if page.live else "")
            response = await self._shown(page.handler, view)
            self._desk.sessions.keep(http, response, signed_in.session)
            if NOTE in http.cookies:
                response.delete_cookie(NOTE, path="/", httponly=True, samesite="lax")
            return response

        return answer

    async def _session(self, http: Request) -> View | Response:
        """Return the view of a signed-in browser, or the redirect to the sign-in."""
        try:
            found = await self._desk.sessions.read(http)
            if found is None:
                request_rates.count_unproven(self._app, http.scope)
            else:
                request_rates.count_key(self._app, found.caller.key_id, http.scope)
        except RelayError as error:
            return self._refusal(http, "unavailable.html", error)
        if found is None:
            query = f"?{http.url.query}" if http.url.query else ""
            back = urlencode({"next": http.url.path + query}) if http.method == "GET" else ""
            return RedirectResponse(self._desk.templates.href(f"/signin?{back}" if back else "/signin"), 303)
        return View(desk=self._desk, http=http, caller=found.caller, session=found.session)

    def _with_note(self, view: View) -> View:
        """Return the view with the note that a verb left in the browser."""
        cookie = view.http.cookies.get(NOTE)
        note = self._app.cookies.read(NOTE, cookie, Note) if cookie else None
        return msgspec.structs.replace(view, note=note)

    async def _shown(self, handler: Handler, view: View) -> Response:
        """Return the page, or the page of the error that keeps it from being made."""
        try:
            return await handler(view)
        except Refused as refused:
            problem = refused.problem
        except RelayError as error:
            problem = _problem(error)
        except Exception as error:
            _logger.error("page.error", path=view.http.url.path, error=type(error).__name__, exc_info=error)
            problem = msgspec.json.decode(problems.internal_problem().body, type=ProblemResource)
        return await self._error(view, problem)

    async def _error(self, view: View, problem: ProblemResource) -> Response:
        """Return the page of a refusal; one that may be over soon asks again by itself."""
        retries = problem.status == 503 and view.http.method == "GET"
        view = msgspec.structs.replace(view, status=problem.status)
        return await view.page("error.html", problem=problem, request_id=request_ids.CURRENT.get(), retries=retries)

    def _answer(self, verb: Verb | FormRoute) -> Answer | None:
        """Return what answers a form; None if the API has not the route that it calls."""
        if not all(map(self._desk.api.has, verb.routes)):
            return None
        return self._form_route(verb) if isinstance(verb, FormRoute) else self._verb(verb)

    def _verb(self, verb: Verb) -> Answer:
        """Return what answers a form that calls one route."""

        async def act(view: View, form: Form) -> Response:
            call = ApiCall(
                route=verb.route,
                path=view.http.path_params | dict(verb.params(form) if verb.params else {}),
                body=verb.body(form) if verb.body else None,
                idempotency_key=text_of(form, "once") or None,
            )
            response = await view.answer(call)
            given = msgspec.json.decode(response.body) if response.body else None
            if verb.answered is not None:
                again = msgspec.structs.replace(view, form=form)
                return await self._shown(lambda shown: verb.answered(shown, given), again)  # type: ignore[misc]
            return self._done(view, form, Note(kind="ok", title=verb.done(given, form) if verb.done else "Done."))

        return self._posted(verb.title, act)

    def _form_route(self, route: FormRoute) -> Answer:
        """Return what answers a form that calls several routes."""

        async def act(view: View, form: Form) -> Response:
            return self._done(view, form, await route.act(view, form))

        return self._posted(route.title, act)

    def _posted(self, title: str, act: Callable[[View, Form], Awaitable[Response]]) -> Answer:
        """Return what answers a form of a page of this session; a refusal is shown on that page."""

        async def answer(http: Request) -> Response:
            view = await self._session(http)
            if isinstance(view, Response):
                return view
            form: Form = {}
            try:
                form = await self._form(http, view.session.project_id)
                _require_own(http, view.session, form)
                return await act(view, form)
            except Refused as refused:
                return await self._refused(view, title, form, refused.problem)
            except RelayError as error:
                return await self._refused(view, title, form, _problem(error))

        return answer

    def _done(self, view: View, form: Form, note: Note) -> Response:
        """Return the redirect to the page that the form was on, with the note of what was done."""
        back = self._back(form)
        response = RedirectResponse(self._desk.templates.href(back or self._home), 303)
        secure = self._desk.sessions.secure(view.http)
        short = msgspec.structs.replace(note, title=note.title[:NOTE_MAX_CHARS], text=note.text[:NOTE_MAX_CHARS])
        set_cookie(response, NOTE, self._app.cookies.make(NOTE, short), secure=secure)
        self._desk.sessions.keep(view.http, response, view.session)
        return response

    async def _refused(self, view: View, verb: str, form: Form, problem: ProblemResource) -> Response:
        """Return the page that the form was on, with the refusal and with what was typed."""
        kind: Any = "warn" if problem.status in (403, 429) else "bad"
        title = f"{verb} refused: {problem.title[:1].lower()}{problem.title[1:]} ({problem.status} `{problem.code}`)."
        again = msgspec.structs.replace(
            view,
            note=Note(kind=kind, title=title, text=f"{_sentence(problem.detail)} Nothing was changed."),
            form=form,
            status=problem.status,
        )
        found = self._page_at(view.http, self._back(form) or self._home)
        if found is None:
            return await self._error(again, problem)
        handler, http = found
        return await self._shown(handler, msgspec.structs.replace(again, http=http))

    def _page_at(self, http: Request, path: str) -> tuple[Handler, Request] | None:
        """Return the handler of a page and the request for it; None if no page has this path."""
        parts = urlsplit(path)
        for pattern, page in self._pages:
            if match := pattern.match(parts.path):
                scope = {
                    **http.scope,
                    "method": "GET",
                    "path": parts.path,
                    "raw_path": parts.path.encode(),
                    "query_string": parts.query.encode(),
                    "path_params": match.groupdict(),
                }
                return page.handler, Request(scope)
        return None

    def _back(self, form: Form) -> str | None:
        """Return the path of the page that a form was on, None if it names none of this dashboard."""
        path = text_of(form, "back")
        if not path.isprintable() or not path.startswith("/") or path.startswith("//"):
            return None  # a browser and `urlsplit` leave out a tab, and then find a host, which may be malformed
        return path if any(pattern.match(urlsplit(path).path) for pattern, _ in self._pages) else None

    async def _form(self, http: Request, owner: str) -> Form:
        """Return the fields of a form; raise BadBody if it is none."""
        settings = self._app.settings
        limits = request_body.ReadLimits(
            settings.request_body_max_bytes, settings.body_deadline_s, self._memory, request_body.Owner(owner)
        )
        raw = await request_body.read(http.receive, limits)
        try:
            return parse_qs(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
        except ValueError:
            raise BadBody("this is not the form of a page") from None

    def _guarded(self, answer: Answer) -> Answer:
        """Return what answers a refusal with a page of its own."""

        async def guarded(http: Request) -> Response:
            try:
                return await answer(http)
            except RelayError as error:
                return self._refusal(http, "unavailable.html", error)

        return guarded

    async def _to_home(self, _: Request) -> Response:
        """Send the browser to the first page."""
        return RedirectResponse(self._desk.templates.href(self._home), 303)

    async def _signin(self, http: Request) -> Response:
        """Show the form to sign in; a browser with a session goes to its page."""
        found = await self._session(http)
        if not isinstance(found, Response):
            return RedirectResponse(self._desk.templates.href(self._local(http.query_params.get("next", ""))), 303)
        if found.status_code == 429:
            return found
        return self._alone(http, "signin.html", None, next=http.query_params.get("next", ""))

    async def _sign_in(self, http: Request) -> Response:
        """Start a session with the API key of the form."""
        form: Form = {}
        try:
            request_rates.count_unproven(self._app, http.scope)
        except TooManyRequests as error:
            return self._refusal(http, "unavailable.html", error)
        try:
            form = await self._form(http, "")
            if not same_origin(http):
                raise Forbidden(_FOREIGN)
            found = await self._desk.sessions.sign_in(http, text_of(form, "key"))
            await self._record(http, found.caller, "dashboard.sign_in")
        except RelayError as error:
            _logger.info("sign_in.refused", reason=error.code)
            return self._refusal(http, "signin.html", error, next=text_of(form, "next"))
        response = RedirectResponse(self._desk.templates.href(self._local(text_of(form, "next"))), 303)
        session = msgspec.structs.replace(found.session, project=await self._project(http, found.caller))
        self._desk.sessions.start(http, response, session)
        _logger.info("sign_in.done", key=found.session.key_id)
        return response

    async def _sign_out(self, http: Request) -> Response:
        """End the session."""
        view = await self._session(http)
        if isinstance(view, Response) and view.status_code == 429:
            return view
        response = RedirectResponse(self._desk.templates.href("/signin"), 303)
        if isinstance(view, View):
            form = await self._form(http, view.session.project_id)
            _require_own(http, view.session, form)
            await self._record(http, view.caller, "dashboard.sign_out")
            await self._desk.sessions.end(http, response, view.session)
        return response

    async def _project(self, http: Request, caller: Caller) -> str:
        """Return the name of a caller's project, empty if it cannot be read now."""
        try:
            response = await self._desk.api.call(caller, http, ApiCall(route="GET /v1/whoami"))
        except (Refused, RelayError):
            return ""
        return str(msgspec.json.decode(response.body)["project"]["name"])

    async def _record(self, http: Request, caller: Caller, verb: str) -> None:
        """Store an entry of the audit; StorageUnavailable, and then the verb must not be done."""
        entry = audited.entry(self._app, caller, http, verb)
        await self._app.store.audit.record(msgspec.structs.replace(entry, via=Via.DASHBOARD, status=303))

    async def _theme(self, http: Request) -> Response:
        """Set the theme for a browser without JavaScript."""
        request_rates.count_unproven(self._app, http.scope)
        form = await self._form(http, "")
        response = RedirectResponse(self._desk.templates.href(self._back(form) or self._home), 303)
        asked = text_of(form, "theme")
        if asked in rendering.THEMES and same_origin(http):
            secure = self._desk.sessions.secure(http)
            response.set_cookie(rendering.THEME, asked, 31_536_000, path="/", secure=secure, samesite="lax")
        return response

    async def _asset(self, http: Request) -> Response:
        """Answer with a file; its name changes with its content, so it may be kept for ever."""
        asset = self._desk.assets.get(http.path_params["name"])
        if asset is None:
            return problems.problem("not_found", "there is no such file")
        headers = {
            "cache-control": "public, max-age=31536000, immutable",
            "content-type": asset.type,
            "x-content-type-options": "nosniff",
        }
        return Response(asset.content, headers=headers)

    def not_found(self, http: Request) -> Response | None:
        """Return the page for a path that there is not; None for a client that does not want pages."""
        if http.method != "GET" or "text/html" not in http.headers.get("accept", ""):
            return None
        return self._alone(http, "unavailable.html", _problem(NotFound("There is no such page.")))

    def _refusal(self, http: Request, template: str, error: RelayError, **context: Any) -> Response:
        """Return the page of an error that keeps a page from being shown, and count what a limit refused."""
        self._app.metrics.refused(error.bound)
        response = self._alone(http, template, _problem(error), **context)
        if isinstance(error, TooManyRequests):
            response.headers["retry-after"] = str(error.retry_after_s)
        return response

    def _alone(self, http: Request, template: str, problem: ProblemResource | None, **context: Any) -> Response:
        """Return a page without a session: the sign-in, or what keeps it from being shown."""
        frame = {
            "theme": rendering.theme_of(http),
            "settings": self._app.settings,
            "version": relay.__version__,
            "problem": problem,
            "retries": problem is not None and problem.status == 503 and http.method == "GET",
            "request_id": request_ids.CURRENT.get(),
        }
        return rendering.html(
            self._desk.templates.render(template, frame | context), 200 if problem is None else problem.status
        )

    def _local(self, path: str) -> str:
        """Return the path if it is one of a page, else that of the first page."""
        return self._back({"back": [path]}) or self._home


def _require_own(http: Request, session: Session, form: Form) -> None:
    """Raise Forbidden for a form that did not come from a page of this session."""
    if not same_origin(http) or not csrf_matches(session, text_of(form, "csrf")):
        raise Forbidden(_FOREIGN)


def _problem(error: RelayError) -> ProblemResource:
    """Return an error as the API answers it."""
    return msgspec.json.decode(problems.error_problem(error).body, type=ProblemResource)


def _sentence(text: str) -> str:
    """Return a text that ends as a sentence, and begins as one unless it begins with a name."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
