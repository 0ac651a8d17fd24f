"""The list of endpoints, and the page of one: its health, its history, its deliveries, and its verbs."""

from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay.clock import rfc3339
from relay.web.dashboard import charts
from relay.web.dashboard.charts import Plot, Series
from relay.web.dashboard.formats import clock, ms_of, span, url
from relay.web.dashboard.view import Form, Note, PageRoute, Verb, View, text_of, utc

Json = dict[str, Any]
LIST: Final = 200
"""So many endpoints are listed, the newest; those with trouble stand first among them."""
RECENT: Final = 200
"""So many deliveries of an endpoint are counted for its charts, the newest."""
SPARKED: Final = 20
"""So many endpoints of the list, those with trouble first, have a picture of their newest deliveries."""
SPARK_BARS: Final = 20
SHOWN: Final = 25
BARS: Final = 24
DAY_MS: Final = 86_400_000
_ORDER: Final = {"held": 0, "active": 1, "disabled": 2}
WHICH: Final = {
    "undelivered": "undelivered: all that it did not receive",
    "failed": "failed: every attempt was used",
    "missing": "missing: never made",
    "all": "all, also what it has",
}
GRACES: Final = {"86400": "1 day", "3600": "1 hour", "604800": "7 days", "0": "none: the old secret stops now"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of the list, with a picture of its newest deliveries where there is room for it."""

    endpoint: Json
    waiting: int
    spark: str | None
    delivered: str


async def index(view: View) -> Response:
    """Show the standing endpoints, those with trouble first."""
    page = await view.get("/v1/endpoints", {"limit": str(LIST)})
    wanted, needle = view.query("status"), view.query("q").lower()
    everything: list[Json] = sorted(page["data"], key=_trouble)
    counts = {status: sum(one["status"] == status for one in everything) for status in _ORDER}
    found = [
        one
        for one in everything
        if wanted in ("", one["status"]) and needle in f"{one['url']} {one['id']} {one['description'] or ''}".lower()
    ]
    rows = [await _row(view, one, index < SPARKED) for index, one in enumerate(found)]
    return await view.page(
        "endpoints.html",
        listed=rows,
        counts=counts,
        all=len(everything),
        more=page["next_cursor"] is not None,
        LIST=LIST,
    )


def _trouble(endpoint: Json) -> tuple[int, bool, str]:
    """Return the order of the list: held, then failing, then by URL; disabled ones last."""
    return _ORDER[endpoint["status"]], endpoint["failing_since"] is None, endpoint["url"]


async def _row(view: View, endpoint: Json, whole: bool) -> Row:
    """Return an endpoint as the list shows it."""
    if not whole:
        return Row(endpoint=endpoint, waiting=0, spark=None, delivered="")
    after, before = view.times()
    query = {"endpoint": endpoint["id"], "limit": str(RECENT), "created_after": after, "created_before": before}
    recent: list[Json] = (await view.get("/v1/deliveries", query))["data"]
    good, bad = _binned(recent, SPARK_BARS)
    done = sum(one["status"] == "delivered" for one in recent)
    ended = sum(one["status"] in ("delivered", "exhausted") for one in recent)
    return Row(
        endpoint=endpoint,
        waiting=sum(one["status"] == "pending" for one in recent),
        spark=charts.spark(good, bad, f"The newest {len(recent)} deliveries: {done} delivered") if recent else None,
        delivered=f"{100 * done / ended:.1f} %".replace("100.0", "100") if ended else "–",
    )


def _binned(recent: list[Json], number: int) -> tuple[list[float], list[float]]:
    """Return how many of the deliveries were accepted and how many failed or wait, in so many parts of their time."""
    good, bad = [0.0] * number, [0.0] * number
    if not recent:
        return good, bad
    first, last = ms_of(recent[-1]["created_at"]), ms_of(recent[0]["created_at"])
    for one in recent:
        place = min(number - 1, (ms_of(one["created_at"]) - first) * number // max(1, last - first + 1))
        (good if one["status"] == "delivered" else bad)[place] += 1
    return good, bad


async def show(view: View, counted: int | None = None) -> Response:
    """Show an endpoint; `counted` is what a redelivery of the page's form would send."""
    id_ = view.path("id")
    endpoint: Json = await view.get("/v1/endpoints/{id}", id=id_)
    query = {"endpoint": id_, "status": view.query("status") or None, "cursor": view.query("cursor") or None}
    deliveries = await view.get("/v1/deliveries", query | {"limit": str(SHOWN)})
    recent: list[Json] = (await view.get("/v1/deliveries", {"endpoint": id_, "limit": str(RECENT)}))["data"]
    batches: list[Json] = (await view.get("/v1/endpoints/{id}/redeliveries", {"limit": "5"}, id=id_))["data"]
    history = (await view.get("/v1/endpoints/{id}/history", {"limit": "12"}, id=id_))["data"]
    return await view.page(
        "endpoint.html",
        endpoint=endpoint,
        name=url(endpoint["url"]),
        health=await _health(view, endpoint, recent),
        deliveries=deliveries["data"],
        next_cursor=deliveries["next_cursor"],
        counts={word: sum(one["status"] == word for one in recent) for word in ("pending", "delivered", "exhausted")},
        recent=len(recent),
        RECENT=RECENT,
        batches=[one for one in batches if one["status"] in ("running", "waiting")],
        past_batches=[one for one in batches if one["status"] not in ("running", "waiting")],
        history=history,
        chart=_chart(recent),
        counted=counted,
        WHICH=WHICH,
        GRACES=GRACES,
        from_=text_of(view.form, "since") or endpoint["created_at"][:16].replace("T", " "),
        to=text_of(view.form, "until"),
        which=text_of(view.form, "which") or "undelivered",
    )


async def _health(view: View, endpoint: Json, recent: list[Json]) -> Note:
    """Return the first sentence of the page: how the endpoint is, why, and what comes next."""
    waiting = sum(one["status"] == "pending" for one in recent)
    them = f"{waiting}{' or more' if len(recent) == RECENT else ''} deliver{'y waits' if waiting == 1 else 'ies wait'}"
    last = await _last_failure(view, recent)
    if endpoint["status"] == "disabled":
        text = "It receives nothing; when it is enabled again, relay sends what it missed."
        return Note(kind="warn", title=f"Disabled: {endpoint['disabled_reason'] or 'by hand'}.", text=text)
    if endpoint["status"] == "held":
        at = endpoint["held_until"]
        probe = f" relay tries it again at {clock(at, at[:10])}; if it answers 2xx they are sent." if at else ""
        since = endpoint["failing_since"]
        accepted = f"; nothing was accepted since {clock(since, view.today)}" if since else ""
        return Note(
            kind="bad",
            title=f"Held: ten failures in a row or more{accepted}.",
            text=f"{last} {them} and use no attempt.{probe}".strip(),
        )
    if endpoint["failing_since"]:
        since = span(view.now_ms - ms_of(endpoint["failing_since"]))
        return Note(kind="warn", title=f"Nothing was accepted for {since}.", text=f"{last} {them}.".strip())
    if endpoint["last_success_at"] is None:
        return Note(kind="run", title="Nothing was sent yet.", text="Send a test to see whether it answers.")
    return Note(kind="ok", title="It accepts notifications.", text=f"{last} {them}." if waiting else last)


async def _last_failure(view: View, recent: list[Json]) -> str:
    """Return a sentence on the newest failed attempt among the newest deliveries; empty without one."""
    tried = next((one for one in recent if one["attempts_made"] > (one["status"] == "delivered")), None)
    if tried is None:
        return ""
    attempts = (await view.get("/v1/deliveries/{id}", id=tried["id"]))["attempts"]
    failed = [one for one in attempts if one["outcome"] != "ok"]
    if not failed:
        return ""
    one = failed[-1]
    what = f"HTTP {one['status_code']}" if one["status_code"] else one["error"] or one["outcome"]
    excerpt = f", “{one['response_excerpt'][:80].strip()}”" if one["response_excerpt"] else ""
    return f"Last failure at {clock(one['started_at'], view.today)}: {what} in {span(one['duration_ms'])}{excerpt}."


def _chart(recent: list[Json]) -> Plot | None:
    """Return the newest deliveries by their time and status; None without any."""
    if not recent:
        return None
    first, last = ms_of(recent[-1]["created_at"]), ms_of(recent[0]["created_at"])
    step = max(1, -(-(last - first + 1) // BARS))
    begun = [rfc3339(first + step * index) for index in range(BARS)]
    names = [at[11:19] if last - first < DAY_MS else f"{at[8:10]}.{at[5:7]}. {at[11:16]}" for at in begun]
    counts = {word: [0.0] * BARS for word in ("exhausted", "canceled", "pending", "delivered")}
    for one in recent:
        counts[one["status"]][min(BARS - 1, (ms_of(one["created_at"]) - first) // step)] += 1
    styles = {"exhausted": "f-bad", "canceled": "f-off", "pending": "f-2", "delivered": "f-ok"}
    series = [Series(name=word, style=styles[word], values=values) for word, values in counts.items()]
    return charts.bars(names, series, f"The newest {len(recent)} deliveries by status")


def _selection(form: Form) -> Json:
    """Return the batch that a form asks for."""
    times = {name: utc(text_of(form, name)) for name in ("since", "until")}
    return {"which": text_of(form, "which")} | {name: text for name, text in times.items() if text}


async def _counted(view: View, answer: Json) -> Response:
    """Show the endpoint with the number that the form would send."""
    return await show(view, answer["count"])


async def _secret(view: View, answer: Json) -> Response:
    """Show a secret once."""
    return await view.page(
        "secret.html", secret=answer["secret"], until=answer.get("former_secret_until"), id=view.path("id")
    )


async def _made(view: View, answer: Json) -> Response:
    """Show the secret of a new endpoint once."""
    return await view.page("secret.html", secret=answer["secret"], until=None, id=answer["id"])


def _new(form: Form) -> Json:
    """Return the endpoint that a form describes."""
    types = text_of(form, "event_types").replace(",", " ").split()
    fields: Json = {"url": text_of(form, "url"), "description": text_of(form, "description") or None}
    return fields | ({"event_types": types} if types else {})


def _changes(form: Form) -> Json:
    """Return what a form changes."""
    rate = text_of(form, "rate_limit_per_s")
    return {
        "url": text_of(form, "url"),
        "description": text_of(form, "description") or None,
        "event_types": text_of(form, "event_types").replace(",", " ").split(),
        "in_flight_max": _number(text_of(form, "in_flight_max")),
        "timeout_s": _number(text_of(form, "timeout_s")),
        "rate_limit_per_s": _number(rate) if rate else None,
    }


def _number(text: str) -> float | int | str:
    """Return a number that was typed; a text that is none as it is, for the API to refuse."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


PAGES: Final = (PageRoute("/endpoints", index, live=True), PageRoute("/endpoints/{id}", show, live=True))
VERBS: Final[tuple[Verb, ...]] = (
    Verb(path="/endpoints/new", route="POST /v1/endpoints", title="New endpoint", body=_new, answered=_made),
    Verb(
        path="/endpoints/{id}/changes",
        route="PATCH /v1/endpoints/{id}",
        title="Edit",
        body=_changes,
        done=lambda _answer, _form: "The endpoint is changed, from the next attempt on.",
    ),
    Verb(
        path="/endpoints/{id}/status",
        route="PATCH /v1/endpoints/{id}",
        title="Change of status",
        body=lambda form: {"status": text_of(form, "status")},
        done=lambda answer, _form: (
            "It is enabled; what it missed is sent."
            if answer["status"] != "disabled"
            else "It is disabled; its pending deliveries are canceled."
        ),
    ),
    Verb(
        path="/endpoints/{id}/tests",
        route="POST /v1/endpoints/{id}/tests",
        title="Test",
        done=lambda answer, _form: f"A `relay.test` is on its way, as delivery `{answer['id']}`.",
    ),
    Verb(
        path="/endpoints/{id}/probes",
        route="POST /v1/endpoints/{id}/probes",
        title="Probe",
        done=lambda answer, _form: f"The probe is `{answer['status']}`.",
    ),
    Verb(
        path="/endpoints/{id}/secret-rotations",
        route="POST /v1/endpoints/{id}/secret-rotations",
        title="Rotation",
        body=lambda form: {"grace_s": _number(text_of(form, "grace_s"))},
        answered=_secret,
    ),
    Verb(
        path="/endpoints/{id}/count",
        route="POST /v1/endpoints/{id}/redeliveries",
        title="Count",
        body=lambda form: _selection(form) | {"dry_run": True},
        answered=_counted,
    ),
    Verb(
        path="/endpoints/{id}/redeliveries",
        route="POST /v1/endpoints/{id}/redeliveries",
        title="Redelivery",
        body=_selection,
        done=lambda answer, _form: f"A batch of {answer['count']:,} is on its way.",
    ),
    Verb(
        path="/endpoints/{id}/redeliveries/{redelivery}/cancellations",
        route="POST /v1/endpoints/{id}/redeliveries/{redelivery}/cancellations",
        title="Stop",
        done=lambda answer, _form: f"Stopped after {answer['made']:,} of {answer['count']:,}; those stay.",
    ),
)
