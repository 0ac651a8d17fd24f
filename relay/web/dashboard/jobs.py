"""The list of jobs: filters, a row for each job, and verbs on those that are ticked or on all that match."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.responses import RedirectResponse, Response

from relay.errors import BadBody
from relay.web.dashboard import formats
from relay.web.dashboard.in_process import ApiCall, Refused
from relay.web.dashboard.view import Form, FormRoute, Note, PageRoute, View, text_of, ticked

Json = dict[str, Any]
PAGE: Final = 50
REREAD_MAX: Final = 20
"""Rows that left the filter and are read one by one, at each look of a page's stream."""
TICKED_MAX: Final = 200
NAMED_MAX: Final = 5
"""Refusals that a result names, each with its reason; the others are counted."""
BATCH: Final = 200
BULK_MAX_MS: Final = 20_000
"""How long one press of a verb on all that match works; the rest is for the next one."""
FILTERS: Final = ("status", "provider", "reason", "undelivered", "expiring_undelivered", "copies")
BULK: Final = "POST /v1/bulk-actions"


class Action(msgspec.Struct, frozen=True):
    """A verb on many jobs: its route for one, the scope that it needs, and its words."""

    route: str
    scope: str
    name: str
    done: str


ACTIONS: Final = {
    "check": Action("POST /v1/jobs/{id}/status-checks", "submit", "Status check", "checked"),
    "redeliver": Action("", "admin", "Redelivery", "redelivered"),
    "resubmit": Action("POST /v1/jobs/{id}/resubmissions", "submit", "Resubmission", "resubmitted"),
    "cancel": Action("POST /v1/jobs/{id}/cancellations", "submit", "Cancellation", "canceled"),
    "copy": Action("POST /v1/jobs/{id}/copies", "submit", "Copy order", "ordered"),
    "fail": Action("POST /v1/jobs/{id}/failures", "submit", "Failure", "failed"),
}


async def index(view: View) -> Response:
    """Show the jobs of the page's filters, newest first; a search goes to its own page."""
    if view.query("q"):
        return RedirectResponse(view.href(f"/search?{view.encoded(q=view.query('q'))}"), 303)
    query = {"limit": str(PAGE), "cursor": view.query("cursor") or None} | filters(view)
    found = await view.get("/v1/jobs", query)
    jobs, newer = found["data"], 0
    if view.live == "stream":
        jobs, newer = await _rows(view, jobs)
    matched = await _matched(view) if view.query("all") and view.has(BULK) and view.live != "stream" else None
    return await view.page(
        "jobs.html",
        jobs=jobs,
        newer=newer,
        next_cursor=found["next_cursor"],
        providers=[one["name"] for one in (await view.get("/v1/providers"))["data"]],
        rows=[job["id"] for job in jobs],
        matched=matched,
        bulk_filter=msgspec.json.encode(_bulk_filter(filters(view))).decode(),
        bulk=view.has(BULK),
    )


def filters(view: View) -> dict[str, str | None]:
    """Return the page's filters as the API's parameters."""
    after, before = view.times()
    given = {name: view.query(name) or None for name in FILTERS}
    return given | {"created_after": after, "created_before": before} | metadata(view.query("metadata"))


def metadata(text: str) -> dict[str, str | None]:
    """Return the filters of a text such as `user=42 scene=3`."""
    return {f"metadata[{key}]": value for key, value in _pairs(text).items()}


def _pairs(text: str) -> dict[str, str]:
    """Return the pairs of a text such as `user=42 scene=3`."""
    pairs = (pair.partition("=") for pair in text.split())
    return {key: value for key, _, value in pairs if key}


async def _rows(view: View, jobs: list[Json]) -> tuple[list[Json], int]:
    """Return the jobs whose rows the browser has, as they are now, and how many newer ones there are.

    A job that matches the filter no more keeps its row, with its present state.
    """
    known, newest = set(view.rows), max(view.rows, default="")
    found = {job["id"]: job for job in jobs}
    gone = [id_ for id_ in view.rows if id_ not in found][:REREAD_MAX]
    for id_ in gone:
        try:
            found[id_] = {"reached": None} | await view.get("/v1/jobs/{id}", id=id_)
        except Refused as refused:
            if refused.problem.status != 404:
                raise
    return [job for id_, job in found.items() if id_ in known], sum(job["id"] > newest for job in jobs)


async def _matched(view: View) -> Json:
    """Return how many jobs match the page's filters now, and the time that this count is of."""
    call = ApiCall(route=BULK, body={"action": "check", "filter": _bulk_filter(filters(view)), "dry_run": True})
    counted: Json = msgspec.json.decode((await view.answer(call)).body)
    return counted


def _bulk_filter(given: dict[str, str | None]) -> Json:
    """Return filters as the body of a bulk action has them."""
    plain: Json = {name: value for name, value in given.items() if value is not None and "[" not in name}
    flags = {name: True for name in ("undelivered", "expiring_undelivered") if plain.get(name)}
    pairs = {name[9:-1]: value for name, value in given.items() if name.startswith("metadata[")}
    return plain | flags | ({"metadata": pairs} if pairs else {})


def _given_filter(form: Form) -> Any:
    """Return the filter that a form was counted by; raise BadBody for what is no JSON."""
    try:
        return msgspec.json.decode(text_of(form, "filter") or "{}")
    except (msgspec.DecodeError, RecursionError):
        raise BadBody("the filter of this form is not JSON: count the jobs anew") from None


async def act(view: View, form: Form) -> Note:
    """Do a verb to the ticked jobs, or to all that matched when they were counted."""
    wanted = ACTIONS.get(text_of(form, "action"))
    if wanted is None:
        return Note(kind="warn", title="No verb was chosen.", text="Nothing was changed.")
    body: Json = {}
    if wanted is ACTIONS["fail"]:
        body = {"reason": text_of(form, "reason")}
    if wanted is ACTIONS["resubmit"]:
        body = {"accept_double_charge": ticked(form, "accept_double_charge")}
    if text_of(form, "as_of"):
        return await _all(view, form, wanted, body)
    ids = list(dict.fromkeys(form.get("job", ())))[:TICKED_MAX]
    if not wanted.route:
        return Note(kind="warn", title="A redelivery is for all jobs that match.", text="Nothing was changed.")
    if not ids:
        return Note(kind="warn", title="No job was ticked.", text="Nothing was changed.")
    refused = []
    for id_ in ids:
        try:
            await view.answer(ApiCall(route=wanted.route, path={"id": id_}, body=body or None))
        except Refused as error:
            problem = error.problem
            refused.append(f"{short(id_)} ({problem.status} `{problem.code}`: {problem.detail})")
    return result(wanted, len(ids) - len(refused), refused)


async def _all(view: View, form: Form, wanted: Action, body: Json) -> Note:
    """Do a verb to all jobs that matched at the time of their count, in batches."""
    kind = next(name for name, one in ACTIONS.items() if one is wanted)
    asked: Json = {
        "action": kind,
        "filter": _given_filter(form),
        "dry_run": False,
        "as_of": text_of(form, "as_of"),
        "limit": BATCH,
    } | body
    refused: list[str] = []
    done, cursor = 0, None
    until_ms = view.app.clock.monotonic_ms() + BULK_MAX_MS
    while True:
        response = await view.answer(ApiCall(route=BULK, body=asked | ({"cursor": cursor} if cursor else {})))
        answered = msgspec.json.decode(response.body)
        done += len(answered["done"])
        refused += [f"{short(one['job'])} (`{one['code']}`: {one['detail']})" for one in answered["refused"]]
        cursor = answered["next_cursor"]
        if cursor is None:
            return result(wanted, done, refused)
        if view.app.clock.monotonic_ms() >= until_ms:
            note = result(wanted, done, refused)
            more = " It was stopped after 20 s: count anew and go on with the rest."
            return msgspec.structs.replace(note, kind="warn", text=note.text + more)


def short(id_: str) -> str:
    """Return an id as code, short."""
    return f"`{formats.short(id_)}`"


def result(wanted: Action, done: int, refused: Iterable[str]) -> Note:
    """Return what became of a verb on many jobs: both numbers, and the reasons of the first refusals."""
    refused = list(refused)
    number = done + len(refused)
    jobs = f"{formats.number(number)} job{'' if number == 1 else 's'}"
    if not refused:
        return Note(kind="ok", title=f"{wanted.name} of {jobs} finished: all {wanted.done}.")
    named = "; ".join(refused[:NAMED_MAX])
    more = f"; and {len(refused) - NAMED_MAX} more" if len(refused) > NAMED_MAX else ""
    title = f"{wanted.name} of {jobs} finished: {done} {wanted.done}, {len(refused)} refused."
    return Note(kind="warn", title=title, text=f"{named}{more}.")


PAGES: Final = (PageRoute("/jobs", index, live=True),)
_ROUTES: Final = (*(action.route for action in ACTIONS.values() if action.route), BULK)
VERBS: Final = (FormRoute(path="/jobs/actions", routes=_ROUTES, title="Action", act=act),)
