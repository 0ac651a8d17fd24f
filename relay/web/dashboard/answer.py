"""The first sentence of a job's page: where the video is, who has it, what blocks it, what comes next; and its states.

Pure functions of what the API answers, as `story.py`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from relay.clock import rfc3339
from relay.model.job import JobState
from relay.storage.endpoint_status import FAILING_MAX_MS
from relay.web.dashboard import formats
from relay.web.dashboard.story import Evidence

Json = dict[str, Any]
ENDS: Final = tuple(state.value for state in JobState if state.final)
_CLAIM: Final = "the callback's "


class Piece(msgspec.Struct, frozen=True):
    """A part of a sentence: a text, a link if it has `to`, or how long ago or ahead a time is."""

    text: str = ""
    to: str | None = None
    age: str | None = None
    left: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The first sentence, what explains it, and the tone of both: ok, warn, bad or run."""

    tone: str
    headline: str
    pieces: Sequence[Piece]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One state on the way that a job went; `took` is the time to the next one, `claim` one that is not proven yet."""

    word: str
    at: str
    note: str = ""
    took: str = ""
    claim: bool = False
    last: bool = False


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint has of the job's last event that ends it."""

    endpoint: str
    name: str
    shape: str
    note: str
    delivery: Json


class Step(msgspec.Struct, frozen=True):
    """What happens next at a time, if nothing else does before."""

    at: str
    text: str
    to: str | None = None


def last_event(evidence: Evidence) -> Json | None:
    """Return the newest event that announces an end, or else the newest event about the job."""
    finals = [event for event in evidence.events if event["final"]]
    return next(reversed(finals or list(evidence.events)), None)


def branches(evidence: Evidence) -> list[Branch]:
    """Return each endpoint's last delivery of that event: those that have it first, then those that wait or gave up."""
    event = last_event(evidence)
    of_event = [one for one in evidence.deliveries if event and one["event"] == event["id"]]
    latest = {one["endpoint"]: one for one in of_event}
    has = {one["endpoint"] for one in of_event if one["status"] == "delivered"}
    found = []
    for endpoint, delivery in latest.items():
        shown = delivery
        if endpoint in has:
            shown = next(one for one in of_event if one["endpoint"] == endpoint and one["status"] == "delivered")
        state = evidence.endpoints.get(endpoint, {}).get("status", "")
        note = _note(shown, state)
        made = shown["attempts_made"]
        shape = {"delivered": "ok", "exhausted": "bad", "canceled": "off"}.get(shown["status"], "run")
        if shape == "run" and (made or state in ("held", "disabled")):
            shape = "warn"
        found.append(Branch(endpoint=endpoint, name=evidence.name(endpoint), shape=shape, note=note, delivery=shown))
    return sorted(found, key=lambda one: one.shape != "ok")


def _note(delivery: Json, endpoint_state: str) -> str:
    """Return what a branch says below its endpoint's name."""
    made = delivery["attempts_made"]
    attempts = f"{made} attempt{'' if made == 1 else 's'}"
    match delivery["status"]:
        case "delivered":
            return f"attempt {made}"
        case "pending":
            held = f", endpoint {endpoint_state}" if endpoint_state in ("held", "disabled") else ""
            return (attempts if made else "not sent yet") + held
        case other:
            return f"{other} after {attempts}"


def states(evidence: Evidence) -> list[State]:
    """Return the states that the job went through, in order of time, with the callback's claim before its proof."""
    job = evidence.job
    found = [State(word="pending", at=job["created_at"])]
    for event in evidence.events:
        word = (event["data"].get("job") or {}).get("status")
        if word is None or event["type"] == "job.output_expiring" or word == found[-1].word:
            continue
        if word in ENDS and (claim := _claim(evidence, event)):
            found.append(claim)
        found.append(State(word=word, at=event["timestamp"], note=_by(event["data"]["job"]) if word in ENDS else ""))
    if job["status"] != found[-1].word and job["status"] not in ENDS:
        found.append(State(word=job["status"], at=job["submitted_at"] or job["updated_at"]))
    if evidence.next and evidence.next["what"].startswith(_CLAIM):
        says = evidence.next["what"].removeprefix(_CLAIM).partition(" ")[0]
        at = max((one["received_at"] for one in evidence.callbacks), default=job["updated_at"])
        found.append(State(word="unconfirmed", at=at, note=f"callback says {says}", claim=True))
    shown = [
        msgspec.structs.replace(state, took=formats.between(state.at, later.at)) for state, later in pairwise(found)
    ]
    return [*shown, msgspec.structs.replace(found[-1], last=True)]


def _claim(evidence: Evidence, event: Json) -> State | None:
    """Return the state between a callback that says the end and the status check that confirms it; None without."""
    job = event["data"]["job"]
    if job["finished_by"] != "callback" or job["verification"] != "fetch":
        return None
    times = [
        one["received_at"]
        for one in evidence.callbacks
        if one["verdict"] == "recorded" and one["received_at"] <= event["timestamp"]
    ]
    return (
        State(word="unconfirmed", at=max(times), note=f"callback says {job['status']}", claim=True) if times else None
    )


def _by(job: Json) -> str:
    """Return how an end is proven, or what brought it."""
    proven = {"fetch": "confirmed by fetch", "signature": "signed by the provider", "token": "by token alone"}
    return proven.get(job["verification"]) or f"by {(job['finished_by'] or 'relay').replace('_', ' ')}"


def answer(evidence: Evidence, now_ms: int) -> Answer:
    """Return where the video is."""
    job, status = evidence.job, evidence.job["status"]
    if status == "succeeded":
        return _ready(evidence, now_ms)
    if status in ENDS:
        return _ended(evidence)
    if job["reason"] == "submit_unknown":
        text = (
            f"{job['provider']} did not answer the submission, so the job may run and may be charged. relay waits for "
            "a callback, never resubmits by itself, and cannot ask without the provider’s id."
        )
        return Answer("warn", "It is not known whether the provider has this job.", [Piece(text)])
    return _open(evidence)


def _open(evidence: Evidence) -> Answer:
    """Return what is known of a job that has not ended."""
    job = evidence.job
    if job["reason"] == "awaiting_approval":
        return Answer("warn", "The job waits for an approval.", [Piece("Nothing was signed or sent.")])
    if job["status"] == "pending":
        headline = f"The job is not at {job['provider']} yet."
    elif evidence.next and evidence.next["what"].startswith(_CLAIM):
        says = evidence.next["what"].removeprefix(_CLAIM).partition(" ")[0]
        headline = f"{job['provider']} says {says}, and relay confirms it."
    else:
        headline = f"{job['provider']} makes the video."
    since = job["submitted_at"] or job["created_at"]
    done = f", {job['progress']} % done." if job["progress"] is not None else "."
    pieces = [Piece("Submitted " if job["submitted_at"] else "Accepted "), Piece(age=since), Piece(done)]
    if evidence.next:
        pieces += [Piece(f" Next: {evidence.next['what']} ("), Piece(left=evidence.next["at"]), Piece(").")]
    return Answer("run", headline, pieces)


def _ready(evidence: Evidence, now_ms: int) -> Answer:
    """Return who has a result, and until when it can be fetched."""
    found = branches(evidence)
    having = [one for one in found if one.shape == "ok"]
    if not found:
        headline, tone = "The video is ready. No endpoint subscribes to it.", "ok"
    elif len(having) == len(found):
        headline = f"The video is ready. {_all(len(found))} it."
        tone = "ok"
    else:
        headline = (
            f"The video is ready. {len(having)} of {len(found)} endpoints {'has' if len(having) == 1 else 'have'} it."
        )
        tone = "warn" if having else "bad"
    if evidence.job["late"]:
        headline += " It came after the job had ended otherwise."
    pieces = _who(evidence, found)
    expires = [one["expires_at"] for one in evidence.job["outputs"] if one["expires_at"]]
    if expires:
        if formats.ms_of(min(expires)) > now_ms:
            pieces += [Piece(" The result expires "), Piece(left=min(expires)), Piece(".")]
        else:
            pieces.append(Piece(" The result has expired."))
    return Answer(tone, headline, pieces)


def _ended(evidence: Evidence) -> Answer:
    """Return why there is no result, and which endpoints received that."""
    job, found = evidence.job, branches(evidence)
    error = job["error"]
    headline = {
        "failed": f"The job failed: {error['message']}" if error else "The job failed.",
        "canceled": "The job was canceled.",
        "expired": f"The job expired: {job['provider']} did not end it in time.",
    }[job["status"]]
    having = [one for one in found if one.shape == "ok"]
    received = (
        f"{_all(len(found))} received it."
        if len(having) == len(found)
        else f"{len(having)} of {len(found)} endpoints received it."
    )
    tone = {"failed": "bad", "expired": "warn"}.get(job["status"], "run")
    if len(having) < len(found):
        tone = "bad" if job["status"] == "failed" else "warn"
    pieces = [Piece(received if found else "No endpoint subscribes to it.")]
    if len(having) < len(found):
        pieces += [Piece(" "), *_who(evidence, found)]
    if job["reason"] == "detached":
        pieces.append(Piece(f" {job['provider']} may go on with it."))
    return Answer(tone, headline if headline[-1] in ".!?" else f"{headline}.", pieces)


def _all(number: int) -> str:
    """Return the beginning of a sentence about all of so many endpoints."""
    return "Its endpoint has" if number == 1 else f"All {number} endpoints have"


def _who(evidence: Evidence, found: Sequence[Branch]) -> list[Piece]:
    """Return one sentence for the first endpoint that has it, and one for each that does not, three at most."""
    pieces: list[Piece] = []
    having = [one for one in found if one.shape == "ok"]
    if having and len(having) < len(found):
        pieces += [Piece(having[0].name, f"/endpoints/{having[0].endpoint}"), Piece(" has it. ")]
    for one in [branch for branch in found if branch.shape != "ok"][:3]:
        delivery = one.delivery
        pieces.append(Piece(one.name, f"/endpoints/{one.endpoint}"))
        pieces.append(Piece(_lacks(evidence, one.endpoint, delivery) + " "))
    return pieces


def _lacks(evidence: Evidence, endpoint: str, delivery: Json) -> str:
    """Return why an endpoint has it not: what its last attempt met, and whether relay goes on."""
    made, attempts = delivery["attempts_made"], delivery["attempts"]
    if not made:
        said = " was not reached yet"
    else:
        last = attempts[-1] if attempts else None
        met = "" if last is None else f" (last: {last['status_code'] or last['outcome'].replace('_', ' ')})"
        said = f" refused it {made} time{'' if made == 1 else 's'}{met}"
    state = evidence.endpoints.get(endpoint, {}).get("status")
    if delivery["status"] == "exhausted":
        return f"{said}, and its schedule is exhausted. Redeliver it when it works again."
    if delivery["status"] == "canceled":
        return f"{said}, and the delivery was canceled."
    if state == "held":
        return f"{said} and is held: relay waits before it tries again."
    if state == "disabled":
        return f"{said} and is disabled."
    return (
        f"{said}; the next attempt is at {delivery['next_attempt_at'][11:19]}."
        if delivery["next_attempt_at"]
        else f"{said}."
    )


def steps(evidence: Evidence, now_ms: int, expiring_before_ms: int) -> list[Step]:
    """Return what happens next, in order of time."""
    job = evidence.job
    found = []
    if job["finished_at"] is None:
        if evidence.next:
            found.append(Step(evidence.next["at"], _sentence(evidence.next["what"])))
        if not evidence.next or evidence.next["at"] != job["deadline_at"]:
            found.append(Step(job["deadline_at"], "The deadline: after one last status check the job expires."))
    elif evidence.next and not any(one["status"] == "pending" for one in evidence.deliveries):
        found.append(Step(evidence.next["at"], _sentence(evidence.next["what"])))
    for delivery in evidence.deliveries:
        if delivery["status"] != "pending" or not delivery["next_attempt_at"]:
            continue
        endpoint = evidence.endpoints.get(delivery["endpoint"], {})
        name, to = evidence.name(delivery["endpoint"]), f"/endpoints/{delivery['endpoint']}"
        number = delivery["attempts_made"] + 1
        held = " It is held: one probe goes first, then what waits for it." if endpoint.get("status") == "held" else ""
        found.append(Step(delivery["next_attempt_at"], f"Attempt {number} for {name}.{held}", to))
        if endpoint.get("failing_since") and endpoint.get("status") != "disabled":
            off = formats.ms_of(endpoint["failing_since"]) + FAILING_MAX_MS
            text = f"If {name} has only failed until then, relay disables it and cancels this delivery."
            found.append(Step(rfc3339(off), f"{text} Redelivery stays possible.", to))
    found += [
        Step(copy["next_try_at"], f"Try {copy['tries'] + 1} of the copy of result {copy['number']}.")
        for copy in evidence.copies
        if copy["next_try_at"]
    ]
    for expires in {one["expires_at"] for one in job["outputs"] if one["expires_at"]}:
        if formats.ms_of(expires) > now_ms:
            found.append(Step(expires, "The result’s URL expires."))
            announced = formats.ms_of(expires) - expiring_before_ms
            if expiring_before_ms and announced > now_ms:
                found.append(Step(rfc3339(announced), "`job.output_expiring` is sent."))
    unique = {(step.at, step.text): step for step in found}
    return sorted(unique.values(), key=lambda step: step.at)


def _sentence(text: str) -> str:
    """Return a text as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".!?" else ".")
