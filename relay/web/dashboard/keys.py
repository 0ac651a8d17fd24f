"""The page of API keys and projects: make a key, whose text is shown once, and revoke one."""

from typing import Any, Final

from starlette.responses import Response

from relay.web.dashboard.view import Form, PageRoute, Verb, View, text_of

Json = dict[str, Any]
LIST: Final = 200


async def index(view: View) -> Response:
    """Show the keys and projects that the session's key manages; a key without `admin` sees its own description."""
    me = await view.get("/v1/whoami")
    if not view.may("admin"):
        return await view.page("keys.html", me=me, keys=[], projects=[], project="")
    project = view.query("project")
    query = {"limit": str(LIST), "live": "true" if view.query("all") != "1" else None}
    if me["operator"] and project:
        query["project"] = project
    keys = (await view.get("/v1/keys", query))["data"]
    projects = (await view.get("/v1/projects", {"limit": str(LIST)}))["data"]
    return await view.page("keys.html", me=me, keys=keys, projects=projects, project=project)


def _new(form: Form) -> Json:
    """Return the key that a form describes."""
    fields: Json = {"name": text_of(form, "name"), "scopes": list(form.get("scopes", ()))}
    return fields | ({"project": text_of(form, "project")} if text_of(form, "project") else {})


async def _made(view: View, answer: Json) -> Response:
    """Show the text of a new key once."""
    return await view.page("key.html", key=answer)


PAGES: Final = (PageRoute("/keys", index),)
VERBS: Final = (
    Verb(path="/keys/new", route="POST /v1/keys", title="New key", body=_new, answered=_made),
    Verb(
        path="/keys/{id}/revocations",
        route="POST /v1/keys/{id}/revocations",
        title="Revocation",
        done=lambda answer, _form: f"The key `{answer['name']}` is revoked: the next request with it is refused.",
    ),
    Verb(
        path="/projects/new",
        route="POST /v1/projects",
        title="New project",
        body=lambda form: {"name": text_of(form, "name")},
        done=lambda answer, _form: f"Project `{answer['name']}` is made: `{answer['id']}`.",
    ),
)
