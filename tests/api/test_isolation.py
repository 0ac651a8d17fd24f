"""Who may reach what: every route of relay, with every kind of key, for the objects of another project.

The cases are made of the route list. A route that is added is in them, or a test here fails: it names what the matrix
does not know.
"""

import hmac
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from starlette.routing import Route

from relay.web import auth, dashboard
from relay.web.api.api_request import ApiRoute
from relay.web.request_body import BodyMemory, memory_limits
from relay.web.routes import API, _Pages, routed
from tests.support.browsing import Browser, browser
from tests.support.calling_back import DONE
from tests.support.running import INPUT, KEY, HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

OPEN: Final = {
    "/healthz": "whether the process runs",
    "/readyz": "whether the database accepts writes",
    "/metrics": "numbers; with RELAY_METRICS_KEY only for that key",
    "/openapi.json": "the description of the API",
    "/docs": "the same as a page",
    "/docs/{name}": "its style and script",
    "/.well-known/webhook-keys": "public keys",
    "/signin": "the form to sign in",
    "/assets/{name:path}": "styles, scripts and fonts of the dashboard",
    "/theme": "a cookie that says dark or light",
}
"""The routes that need no key, and what they show."""
ADDED: Final = ("/signout",)
"""Forms of the frame itself."""


def key_of(route: ApiRoute) -> str:
    """Return a route's name in the tests' ids."""
    return f"{route.method} {route.path}"


class Things(msgspec.Struct, kw_only=True):
    """The objects of the project `films`, by the name of their list; `secrets` are texts that nobody else may see."""

    ids: dict[str, str]
    headers: dict[str, dict[str, str]]
    secrets: list[str]

    def path(self, route: ApiRoute) -> str:
        """Return a route's path with the ids of this project's objects; KeyError for an object that it has not."""
        parts = route.path.split("/")
        named = {"{redelivery}": "redeliveries"}
        ids = self.ids | {"outputs": "0"}  # a place in the job, and no id that could be another project's
        return "/".join(
            ids[named.get(part, parts[at - 1])] if part.startswith("{") else part for at, part in enumerate(parts)
        )

    def foreign(self, content: bytes, said: str = "") -> list[str]:
        """Return what of this project an answer shows that the request itself did not say."""
        return [one for one in [*self.ids.values(), *self.secrets] if one.encode() in content and one not in said]


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=clock) as started:
        yield started


async def bearer(running: Running, project: str, *scopes: str) -> tuple[str, dict[str, str]]:
    """Return the id of a new key and its Authorization header."""
    made = await running.app.store.access.create_api_key(project, "", scopes, running.clock.now_ms())
    return made.id, {"authorization": f"Bearer {made.text}"}


@pytest.fixture
async def films(running: Running, clock: HeldClock) -> Things:
    """Return the project `films` with an object of each kind that a path names."""
    keys = {scope: await bearer(running, "films", scope) for scope in ("admin", "submit", "read")}
    headers = {scope: header for scope, (_, header) in keys.items()}
    client, admin = running.client, headers["admin"]
    made = (await client.post("/v1/endpoints", json={"url": running.hook}, headers=admin)).json()
    body = {"provider": "evolink", "input": INPUT, "metadata": {"of": "a-film"}}
    job = (await client.post("/v1/jobs", json=body, headers=headers["submit"])).json()
    await client.post(running.callback_url(), content=DONE, headers={"relay-hop": "1"})
    await clock.advance(1)
    batch = {"since": "-1h", "which": "all"}
    sent = await client.post(f"/v1/endpoints/{made['id']}/redeliveries", json=batch, headers=admin)
    await clock.advance(2)
    lists = {}
    for kind in ("events", "deliveries", "callbacks"):
        lists[kind] = (await client.get(f"/v1/{kind}", headers=admin)).json()["data"][0]["id"]
    ids = {
        "jobs": job["id"],
        "endpoints": made["id"],
        "redeliveries": sent.json()["id"],
        "keys": keys["read"][0],
        "projects": "films",
        **lists,
    }
    return Things(ids=ids, headers=headers, secrets=[made["secret"], "a-film", job["provider_job_id"]])


async def answered(client: httpx.AsyncClient, route: ApiRoute, path: str, **more: Any) -> httpx.Response:
    """Return the answer to a route's request; of a stream its head alone."""
    if route.path.endswith("/stream"):
        async with client.stream(route.method, path, **more) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return answer
            return httpx.Response(200, content=b"")
    if route.method in ("POST", "PATCH") and "content" not in more:
        more["json"] = route.example if isinstance(route.example, dict) else {}
    return await client.request(route.method, path, **more)


def wanting_ids() -> Iterator[ApiRoute]:
    """Yield the routes whose path names an object."""
    return (route for route in API if "{" in route.path)


async def test_every_route_is_of_the_matrix(running: Running) -> None:
    """Find each route of the server in the API, among the dashboard's pages and forms, or in OPEN with its reason."""
    memory = BodyMemory(memory_limits(running.app.settings))
    served = [*routed(running.app, memory).routes, *await _Pages(running.app, memory)._made()]
    known = {route.path for route in API} | set(OPEN) | set(ADDED)
    known |= {page.path for page in dashboard.PAGES} | {f"/live{page.path}" for page in dashboard.PAGES}
    known |= {verb.path for verb in dashboard.VERBS}
    paths = {route.path for route in served if isinstance(route, Route)}
    assert len(paths) == len({route.path for route in served if hasattr(route, "path")}) > 60
    assert paths - known == set()
    assert set(OPEN) <= paths


async def test_no_route_of_the_api_answers_without_its_key_and_scope(running: Running, films: Things) -> None:
    """Answer 401 without a key and with an unknown one, and 403 to each key of the project that has not the scope."""
    async with http_client(running.origin, None) as client:
        for route in API:
            path = films.path(route)
            for given in ({}, {"authorization": "Bearer rk_unknown"}, {"authorization": "Basic YTpi"}):
                answer = await answered(client, route, path, headers=given)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), key_of(route)
                assert films.foreign(answer.content, path) == [], key_of(route)
            for scope, header in films.headers.items():
                if route.scope in (scope, auth.ANY_SCOPE) or scope == "admin":
                    continue
                answer = await answered(client, route, path, headers=header)
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (key_of(route), scope)
                assert films.foreign(answer.content, path) == [], key_of(route)


async def test_another_projects_object_is_like_one_that_is_not_there(running: Running, films: Things) -> None:
    """Answer alike, whichever route names it, for another project's object and for one that there is not."""
    _, stranger = await bearer(running, "strangers", "admin")
    before = await everything(running, films)
    async with http_client(running.origin, None) as client:
        for route in wanting_ids():
            path = films.path(route)
            nothing = re.sub(r"(?<=_)[0-9a-z]+", "0" * 26, path)
            assert nothing != path
            theirs = await answered(client, route, path, headers=stranger)
            absent = await answered(client, route, nothing, headers=stranger)
            assert theirs.status_code == absent.status_code == 404, (key_of(route), theirs.text, absent.text)
            assert theirs.content.replace(path.encode(), b"") == absent.content.replace(nothing.encode(), b"")
            assert films.foreign(theirs.content, path) == [], key_of(route)
    assert await everything(running, films) == before


async def test_no_list_shows_another_projects_objects(running: Running, films: Things) -> None:
    """Show none of another project's ids and texts in any list, whichever of its parameters names them."""
    _, stranger = await bearer(running, "strangers", "admin")
    async with http_client(running.origin, None) as client:
        for route in API:
            if route.method != "GET" or "{" in route.path:
                continue
            queries: list[dict[str, str]] = [{}]
            for parameter in route.query:
                name = parameter.name.replace("[]", "[of]")
                queries += [{name: one} for one in [*films.ids.values(), *films.secrets, "films", "true", "1"]]
            for query in queries:
                answer = await answered(client, route, route.path, params=query, headers=stranger)
                assert answer.status_code in (200, 403, 404, 422), (key_of(route), query)
                assert films.foreign(answer.content, str(query)) == [], (key_of(route), query)


async def test_no_verb_reaches_another_projects_objects_by_its_body(running: Running, films: Things) -> None:
    """Change nothing of another project by a body that names its objects in any field."""
    _, stranger = await bearer(running, "strangers", "admin")
    before = await everything(running, films)
    async with http_client(running.origin, None) as client:
        for route in API:
            if route.method not in ("POST", "PATCH") or "{" in route.path or route.fields is None:
                continue
            for field in msgspec.structs.fields(route.fields):
                for one in [*films.ids.values(), "films"]:
                    for value in (one, [one], {"ids": [one], "job": one}):
                        body = (route.example if isinstance(route.example, dict) else {}) | {field.encode_name: value}
                        answer = await answered(client, route, route.path, content=json.dumps(body), headers=stranger)
                        assert answer.status_code < 500, (key_of(route), body)
                        assert films.foreign(answer.content, json.dumps(body)) == [], (key_of(route), body)
    assert await everything(running, films) == before


async def everything(running: Running, films: Things) -> dict[str, Any]:
    """Return what an admin of the project sees of it."""
    found = {}
    for kind in ("jobs", "endpoints", "events", "deliveries", "callbacks", "alerts", "payments"):
        found[kind] = (await running.client.get(f"/v1/{kind}?limit=200", headers=films.headers["admin"])).json()["data"]
    keys = (await running.client.get("/v1/keys", headers=films.headers["admin"])).json()["data"]
    return found | {"keys": [(one["id"], one["revoked_at"]) for one in keys]}


def filled(path: str, films: Things) -> str:
    """Return the path of a page or form of the dashboard with the ids of the project's objects."""
    named = {"/jobs/": "jobs", "/endpoints/": "endpoints", "/callback/": "callbacks", "/keys/": "keys"}
    named |= {"/spend/": "jobs", "/redeliveries/": "redeliveries", "/outputs/": "outputs"}
    ids = films.ids | {"outputs": "0"}  # a place in the job
    return re.sub(r"(/\w+/)\{\w+\}", lambda found: found[1] + ids[named[found[1]]], path)


async def test_no_page_and_no_form_answers_without_a_session(running: Running, films: Things) -> None:
    """Send a browser without a session to the sign-in from every page and form, and end every stream."""
    async with http_client(running.origin, None) as client:
        for page in dashboard.PAGES:
            answer = await client.get(filled(page.path, films))
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/signin"), page.path
            live = await client.get(f"/live{filled(page.path, films)}")
            assert (live.status_code, live.content) == (204 if page.live else 404, live.content), page.path
            assert films.foreign(live.content, page.path) == []
        for path in [*(verb.path for verb in dashboard.VERBS), "/signout"]:
            answer = await client.post(filled(path, films), data={"csrf": "x"})
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/signin"), path


FORGED: Final = {
    "no value": ({}, {}),
    "another session's value": ({"csrf": "other"}, {}),
    "another site": ({"csrf": "own"}, {"origin": "https://evil.example"}),
    "another port": ({"csrf": "own"}, {"origin": "http://127.0.0.1:1"}),
    "no origin": ({"csrf": "own"}, {"origin": "null"}),
    "a site that a browser names": ({"csrf": "own"}, {"sec-fetch-site": "cross-site"}),
    "a sibling site": ({"csrf": "own"}, {"sec-fetch-site": "same-site"}),
}


async def test_no_form_of_another_site_does_anything(running: Running, films: Things) -> None:
    """Refuse every form that is not of a page of this session, with 403, and change nothing."""
    key = films.headers["admin"]["authorization"].removeprefix("Bearer ")
    before = await everything(running, films)
    async with browser(running, key) as reader, browser(running, key) as other:
        values = {"own": await csrf_of(reader), "other": await csrf_of(other)}
        for path in [*(verb.path for verb in dashboard.VERBS), "/signout"]:
            for name, (fields, headers) in FORGED.items():
                form = {field: values[value] for field, value in fields.items()}
                answer = await reader.client.post(filled(path, films), data=form, headers=headers)
                assert answer.status_code == 403, (path, name, answer.text)
        assert (await reader.get("/jobs")).path == "/jobs"
    assert await everything(running, films) == before


async def csrf_of(reader: Browser) -> str:
    """Return the value that the forms of a browser's session send back."""
    return (await reader.get("/jobs")).fields("/signout")["csrf"]


async def test_no_page_and_no_form_shows_another_projects_objects(running: Running, films: Things) -> None:
    """Show none of another project's ids and texts on any page, and refuse every form about its objects."""
    text = (await bearer(running, "strangers", "admin"))[1]["authorization"].removeprefix("Bearer ")
    before = await everything(running, films)
    async with browser(running, text) as reader:
        csrf = await csrf_of(reader)
        for page in dashboard.PAGES:
            path = filled(page.path, films)
            shown = await reader.get(path)
            assert shown.status == (404 if "{" in page.path else 200), (page.path, shown.text)
            assert films.foreign(shown.html.encode(), path) == [], page.path
        for verb in dashboard.VERBS:
            path = filled(verb.path, films)
            if path == verb.path:
                continue
            form = {"csrf": csrf, "delivery": films.ids["deliveries"], "once": path}
            answer = await reader.client.post(path, data=form, follow_redirects=True)
            assert films.foreign(answer.content, str(form) + path) == [], verb.path
    assert await everything(running, films) == before


class Watched:
    """Counts what is asked of the database and what is compared."""

    def __init__(self, running: Running, patched: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        database, compare = running.app.store.database, hmac.compare_digest
        rows = database.rows

        async def asked(name: str, *more: Any) -> Any:
            """Note a statement about keys, and run it; others are relay's own loops'."""
            if "key" in name:
                self.done.append(name)
            return await rows(name, *more)

        def compared(left: bytes, right: bytes) -> bool:
            """Note a comparison with its lengths, and make it."""
            self.done.append(f"compared {len(left)} with {len(right)}")
            return compare(left, right)

        patched.setattr(database, "rows", asked)
        patched.setattr("hmac.compare_digest", compared)


async def test_each_wrong_key_costs_the_same_work(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the same lengths and ask the database the same for any key that is unknown, cut or revoked."""
    access, now_ms = running.app.store.access, running.clock.now_ms()
    revoked = await access.create_api_key("films", "", ("admin",), now_ms)
    await access.revoke_api_key(revoked.id, now_ms)
    live = (await access.create_api_key("films", "", ("admin",), now_ms)).text
    wrong = [
        "x",
        KEY[:-1],
        f"{KEY}x",
        f"x{KEY[1:]}",
        f"{KEY[:-1]}x",
        live[:-1],
        f"{live[:-1]}-",
        revoked.text,
        "ü" * 500,
    ]
    with monkeypatch.context() as patched:
        watched, costs = Watched(running, patched), []
        for text in wrong:
            watched.done.clear()
            assert await auth.caller_of(running.app, text) is None
            costs.append(list(watched.done))
    assert costs == [["compared 32 with 32", "api_key_by_digest"]] * len(wrong)
