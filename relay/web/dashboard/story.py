"""A job's timeline as its page draws it: one line for each entry, beside rails that branch to the endpoints.

Pure functions of what the API answers; `templates/job.html` draws their result. A rail has three lanes: the first is
the job's, the others belong to one endpoint each. With more endpoints those that lack something have the lanes, and
the lines of the others are folded.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from relay.web.dashboard import formats

Json = dict[str, Any]
LANES: Final = 3
LINES_MAX: Final = 200
"""Lines of a page; of a longer timeline it shows the newest."""
_VERIFIED: Final = {
    "fetch": "A status check confirmed it.",
    "signature": "The callback's signature proves it.",
    "token": "Believed on the callback's token alone.",
}
_RANKS: Final = {"callback": 1, "submission": 2, "check": 2, "state": 3, "event": 4, "delivery": 5, "attempt": 6}
"""The order of what happened in the same millisecond: what was reported, what that led to, who was notified."""
_WHO: Final = {"callback": "callback", "status_check": "status check", "submit_answer": "the submission's answer"}


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the API says about a job: deliveries with their attempts and events, both oldest first."""

    job: Json
    timeline: Sequence[Json]
    next: Json | None
    deliveries: Sequence[Json]
    events: Sequence[Json]
    callbacks: Sequence[Json]
    endpoints: Mapping[str, Json]
    copies: Sequence[Json] = ()

    def name(self, endpoint_id: str) -> str:
        """Return an endpoint as its reader knows it: its URL without scheme and query, or its id if it is gone."""
        found = self.endpoints.get(endpoint_id)
        return formats.url(found["url"]) if found else formats.short(endpoint_id)


class Line(msgspec.Struct, kw_only=True):
    """One line: what it says, its status word and shape, the id that it is about, and its cells of the rail."""

    at: str
    title: str
    rest: str = ""
    word: str | None = None
    shape: str = "idle"
    ref: str | None = None
    to: str = ""
    why: str = ""
    since: str = ""
    rail: tuple[str, ...] = ("", "", "")
    future: bool = False
    lane: int = 0
    endpoint: str | None = None
    delivery: str | None = None
    event: str | None = None


def lines(evidence: Evidence) -> list[Line]:
    """Return the lines of the timeline, oldest first, the future last, with their rails."""
    lanes = lanes_of(evidence)
    found = [line for line in _lines(evidence) if line.endpoint is None or line.endpoint in lanes]
    for line in found:
        line.lane = 0 if line.endpoint is None else lanes[line.endpoint]
    folded = {one["endpoint"] for one in evidence.deliveries} - set(lanes)
    lacking = {one["endpoint"] for one in evidence.deliveries if one["status"] != "delivered"} & folded
    not_drawn = (
        f" {len(folded)} more are not drawn, {f'{len(lacking)} lack something' if lacking else 'all delivered'}."
    )
    for line in found:
        if line.event is not None and folded:
            line.why += not_drawn
    found += _future(evidence, lanes)
    found = found[-LINES_MAX:]
    for earlier, line in pairwise(found):
        line.since = formats.between(earlier.at, line.at)
    _draw(found, evidence, lanes)
    return found


def lanes_of(evidence: Evidence) -> dict[str, int]:
    """Return the lane of each endpoint that has one: all of two at most, else first those that lack something."""
    waiting = [one["endpoint"] for one in evidence.deliveries if one["status"] == "pending"]
    waiting += [one["endpoint"] for one in evidence.deliveries if one["status"] != "delivered"]
    every = [one["endpoint"] for one in evidence.deliveries]
    chosen = list(dict.fromkeys(every if len(set(every)) < LANES else waiting + every))[: LANES - 1]
    order = [endpoint for endpoint in dict.fromkeys(every) if endpoint in chosen]
    return {endpoint: number for number, endpoint in enumerate(order, 1)}


def _lines(evidence: Evidence) -> list[Line]:
    """Return a line for each entry of the API's timeline that its page shows."""
    attempts = {
        attempt["id"]: (delivery, attempt) for delivery in evidence.deliveries for attempt in delivery["attempts"]
    }
    events = {event["id"]: event for event in evidence.events}
    deliveries = {delivery["id"]: delivery for delivery in evidence.deliveries}
    numbers = {"submission": 0, "check": 0}
    found = []
    for entry in sorted(evidence.timeline, key=_order):
        kind, ref = entry["kind"], entry["ref"]
        if kind == "attempt" and ref in attempts:
            found.append(_attempt(evidence, *attempts[ref]))
        elif kind == "delivery":
            delivery = deliveries.get(ref)
            if delivery and delivery["status"] == "canceled":
                found.append(_canceled(evidence, delivery))
        elif kind == "event":
            found.append(_event(entry, events.get(ref), evidence))
        elif kind == "state":
            found.append(_state(entry, evidence.job))
        elif kind == "callback":
            found.append(_callback(entry))
        elif kind in numbers:
            numbers[kind] += ref.startswith("call_") and entry["summary"].startswith(f"{kind} ")
            found.append(_call(entry, numbers[kind], evidence.job))
    return sorted(found, key=lambda line: line.at)


def _order(entry: Json) -> tuple[str, int]:
    """Return the place of an entry of the timeline."""
    return entry["at"], 0 if entry["decision"] == "pending" else _RANKS[entry["kind"]]


def _state(entry: Json, job: Json) -> Line:
    """Return the line of a job's beginning or end."""
    word = entry["decision"]
    if word == "pending":
        why = _sentence(entry["reason"]) or "Stored before the provider was called."
        return Line(at=entry["at"], title="Accepted", word=word, shape="idle", why=why)
    by = _WHO.get(job["finished_by"] or "", job["finished_by"] or "relay")
    why = " ".join(filter(None, (_VERIFIED.get(job["verification"], ""), _sentence(entry["reason"]))))
    return Line(at=entry["at"], title=f"Job {word}", rest=f", finished by {by}", word=word, shape=_shape(word), why=why)


def _call(entry: Json, number: int, job: Json) -> Line:
    """Return the line of relay's request to the provider, of a payment, or of an intervention."""
    word, summary = entry["decision"], entry["summary"]
    if summary.startswith("submission "):
        title, rest = f"Submission {number}", f" to {job['provider']}"
    elif summary.startswith("check "):
        title, rest = f"Status check {number}", f" at {job['provider']}"
    elif summary.startswith(("result ", "lookup ")):
        title, rest = {"r": "Result", "l": "Look-up"}[summary[0]], f" at {job['provider']}"
    else:
        title, rest = summary[:1].upper() + summary[1:], ""
    return Line(
        at=entry["at"], title=title, rest=rest, word=word, shape=_call_shape(word or ""), why=_sentence(entry["reason"])
    )


def _callback(entry: Json) -> Line:
    """Return the line of a callback, or of its reprocessing."""
    size = entry["summary"].removeprefix("a callback of ").removesuffix(" bytes")
    whole = size != entry["summary"]
    return Line(
        at=entry["at"],
        title="Callback" if whole else entry["summary"][:1].upper() + entry["summary"][1:],
        rest=f", {formats.number(int(size))} bytes" if whole and size.isdigit() else "",
        word=entry["decision"],
        shape=_shape(entry["decision"] or ""),
        ref=entry["ref"],
        to="#callbacks",
        why=_sentence(entry["reason"]),
    )


def _event(entry: Json, event: Json | None, evidence: Evidence) -> Line:
    """Return the line of an event, which its deliveries branch from."""
    number = len({one["endpoint"] for one in evidence.deliveries if one["event"] == entry["ref"]})
    wanted = {0: "No endpoint wants it.", 1: "1 endpoint wants it."}.get(number, f"{number} endpoints want it.")
    kind = entry["summary"].partition(",")[0]
    rest = (
        f" {kind}"
        + (f", number {event['sequence']}" if event else "")
        + (", final" if event and event["final"] else "")
    )
    return Line(
        at=entry["at"], title="Event", rest=rest, ref=entry["ref"], to="#deliveries", why=wanted, event=entry["ref"]
    )


def _attempt(evidence: Evidence, delivery: Json, attempt: Json) -> Line:
    """Return the line of an attempt."""
    took = formats.span(attempt["duration_ms"])
    said = (
        f"HTTP {attempt['status_code']} in {took}" if attempt["status_code"] else attempt["error"] or attempt["outcome"]
    )
    done = attempt["outcome"] == "ok"
    return Line(
        at=attempt["started_at"],
        title=evidence.name(delivery["endpoint"]),
        rest=f", attempt {attempt['number']}: {said}",
        word="delivered" if done else attempt["outcome"],
        shape="ok" if done else "bad",
        ref=delivery["id"],
        to="#deliveries",
        why=after_attempt(evidence, delivery, attempt),
        endpoint=delivery["endpoint"],
        delivery=delivery["id"],
    )


def _canceled(evidence: Evidence, delivery: Json) -> Line:
    """Return the line of a delivery that was canceled, which no attempt shows."""
    return Line(
        at=delivery["finished_at"] or delivery["created_at"],
        title=evidence.name(delivery["endpoint"]),
        rest=": the delivery was canceled",
        word="canceled",
        shape="off",
        ref=delivery["id"],
        to="#deliveries",
        endpoint=delivery["endpoint"],
        delivery=delivery["id"],
    )


def after_attempt(evidence: Evidence, delivery: Json, attempt: Json) -> str:
    """Return what came after an attempt: acceptance and its latency, the next attempt, or the end of the schedule."""
    if attempt["outcome"] == "ok":
        since = _callback_before(evidence, delivery)
        ended_ms = formats.ms_of(attempt["started_at"]) + attempt["duration_ms"]
        return f"{formats.span(ended_ms - formats.ms_of(since))} after the callback." if since else ""
    later = [one for one in delivery["attempts"] if one["number"] > attempt["number"]]
    ended_ms = formats.ms_of(attempt["started_at"]) + attempt["duration_ms"]
    if later:
        return f"Retry {formats.span(formats.ms_of(later[0]['started_at']) - ended_ms)} later."
    if delivery["status"] == "pending" and delivery["next_attempt_at"]:
        return f"Retry {formats.span(formats.ms_of(delivery['next_attempt_at']) - ended_ms)} later."
    return {"exhausted": "The schedule is exhausted: relay sends it no more by itself."}.get(delivery["status"], "")


def _callback_before(evidence: Evidence, delivery: Json) -> str | None:
    """Return when the callback was received that led to a delivery's final event; None for other events."""
    event = next((one for one in evidence.events if one["id"] == delivery["event"] and one["final"]), None)
    if event is None or delivery["redelivery"] or evidence.job["finished_by"] != "callback":
        return None
    times = [one["received_at"] for one in evidence.callbacks if one["verdict"] == "recorded"]
    return max((at for at in times if at <= event["timestamp"]), default=None)


def _future(evidence: Evidence, lanes: Mapping[str, int]) -> list[Line]:
    """Return the line of what comes next, if anything does."""
    if evidence.next is None:
        return []
    due = [d for d in evidence.deliveries if d["status"] == "pending" and d["endpoint"] in lanes]
    first = min(due, key=lambda one: one["next_attempt_at"] or one["created_at"], default=None)
    open_ = evidence.job["finished_at"] is None
    what = f"Next: {evidence.next['what']}"
    if first is not None and not open_:
        what = f"Next: attempt {first['attempts_made'] + 1} for {evidence.name(first['endpoint'])}"
    return [Line(at=evidence.next["at"], title=what, future=True)]


def _draw(found: Sequence[Line], evidence: Evidence, lanes: Mapping[str, int]) -> None:
    """Set the cells of the rail: each delivery's lane runs from its event's line to its last attempt, or on."""
    events = {line.event: row for row, line in enumerate(found) if line.event}
    last_job = max((row for row, line in enumerate(found) if line.lane == 0 and not line.future), default=0)
    ahead = len(found) - 1 if found and found[-1].future else None
    open_ = evidence.job["finished_at"] is None
    runs: dict[int, list[tuple[int, int]]] = {lane: [] for lane in lanes.values()}
    for delivery in evidence.deliveries:
        lane = lanes.get(delivery["endpoint"])
        rows = [row for row, line in enumerate(found) if line.delivery == delivery["id"]]
        begins = events.get(delivery["event"], rows[0] if rows else None)
        if lane is None or begins is None:
            continue
        ends = ahead if delivery["status"] == "pending" and ahead is not None else max(rows, default=begins)
        if ends > begins:
            runs[lane].append((begins, ends))
    for row, line in enumerate(found):
        branches = {lane for lane, spans in runs.items() if any(begins == row for begins, _ in spans)}
        cells = [_job_cell(row, last_job, ahead if open_ else None)]
        cells += [_lane_cell(row, spans, lane in branches) for lane, spans in sorted(runs.items())]
        cells += [""] * (LANES - len(cells))
        if line.event and branches:
            cells[0] += " h"
            for lane in range(1, max(branches) + 1):
                cells[lane] += " v" if lane == max(branches) else " w"
        if line.future:
            cells = [f"p {cell} dot" if "e" in cell.split() else cell for cell in cells]
        else:
            cells[line.lane] += f" dot {line.shape if line.shape in ('ok', 'bad', 'run', 'warn') else ''}"
        line.rail = tuple(" ".join(cell.split()) for cell in cells)


def _job_cell(row: int, last: int, ahead: int | None) -> str:
    """Return the class of the job's own lane: start, line, end or nothing."""
    last = last if ahead is None else ahead
    if row == 0:
        return "s" if last else ""
    return "l" if row < last else "e" if row == last else ""


def _lane_cell(row: int, spans: Sequence[tuple[int, int]], begins: bool) -> str:
    """Return the class of an endpoint's lane: line, end, beginning or nothing."""
    through = any(start < row < end for start, end in spans)
    ends = any(row == end for _, end in spans)
    if through or (ends and begins):
        return "l"
    return "b" if begins else "e" if ends else ""


def _shape(word: str) -> str:
    """Return the shape of a status word."""
    return formats.shape(word)


def _call_shape(word: str) -> str:
    """Return the shape of what became of a request to the provider."""
    if word in ("accepted", "submitted", "running", "queued", "processing", "pending", "no_change"):
        return "run"
    if word in ("by hand", ""):
        return "idle"
    found = formats.shape(word)
    return found if found != "idle" else "warn"


def _sentence(text: str | None) -> str:
    """Return a reason of the timeline as sentences, empty without one."""
    if not text:
        return ""
    text = text[:1].upper() + text[1:]
    return text if text[-1] in ".!?" else f"{text}."
