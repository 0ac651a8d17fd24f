"""The list of callbacks, with those in quarantine first, and the page of one: its bytes and what became of it."""

import base64
from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay.model.job import Disposition
from relay.web.dashboard.job import indented
from relay.web.dashboard.view import PageRoute, Verb, View

Json = dict[str, Any]
PAGE: Final = 50
HELD_BACK: Final = (Disposition.QUARANTINED, Disposition.ORPHANED)
"""What can be released."""
HELD_BACK_MAX: Final = 10
"""So many of each are shown above the list, with their bodies."""
BODY_CHARS_MAX: Final = 100_000


class Shown(msgspec.Struct, frozen=True):
    """A callback with its body as text; `released` is whether it was applied meanwhile."""

    head: Json
    body: str
    released: bool


async def index(view: View) -> Response:
    """Show the callbacks of the page's filters, newest first, and above them what waits for a release."""
    after, before = view.times()
    verdict = view.query("verdict") or None
    query = {"limit": str(PAGE), "cursor": view.query("cursor") or None, "verdict": verdict}
    found = await view.get("/v1/callbacks", query | {"created_after": after, "created_before": before})
    return await view.page(
        "callbacks.html",
        callbacks=found["data"],
        next_cursor=found["next_cursor"],
        waiting=await _waiting(view),
        verdicts=[str(one) for one in Disposition],
    )


async def _waiting(view: View) -> list[Shown]:
    """Return the newest callbacks that can be released and were not yet."""
    found: list[Shown] = []
    for verdict in HELD_BACK:
        query = {"verdict": str(verdict), "limit": str(HELD_BACK_MAX)}
        heads = (await view.get("/v1/callbacks", query))["data"]
        found += [await _shown(view, head["id"]) for head in heads]
    return [one for one in found if not one.released]


async def _shown(view: View, id_: str) -> Shown:
    """Return a callback with its body."""
    one: Json = await view.get("/v1/callbacks/{id}", id=id_)
    text = one["body_text"]
    if text is None:
        return Shown(one, f"{one['body'][:BODY_CHARS_MAX]}\n(not text; in base64)", _released(one))
    return Shown(one, indented(text.encode()) or text[:BODY_CHARS_MAX], _released(one))


def _released(one: Json) -> bool:
    """Return whether a callback was applied by a release."""
    return any(done["verdict"] != Disposition.UNREADABLE for done in one["reprocessings"])


async def show(view: View) -> Response:
    """Show a callback as received, and what became of it."""
    return await view.page("callback.html", one=await _shown(view, view.path("id")), held_back=HELD_BACK)


async def raw(view: View) -> Response:
    """Send the bytes of a callback's body as a file."""
    one: Json = await view.get("/v1/callbacks/{id}", id=view.path("id"))
    headers = {
        "content-disposition": f'attachment; filename="{one["id"]}.bin"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Response(base64.b64decode(one["body"]), headers=headers, media_type="application/octet-stream")


def _done(answer: Json, _form: Any) -> str:
    """Return what a release did."""
    last = answer["reprocessings"][-1]
    why = f": {last['reason']}" if last["reason"] else ""
    return f"Released. It is now `{last['verdict']}`{why}."


# The paths begin with `callback`, since what is below /callbacks/ are the callback URLs of jobs.
PAGES: Final = (
    PageRoute("/callbacks", index),
    PageRoute("/callback/{id}", show),
    PageRoute("/callback/{id}/body", raw),
)
VERBS: Final = (
    Verb(path="/callback/{id}/releases", route="POST /v1/callbacks/{id}/releases", title="Release", done=_done),
)
