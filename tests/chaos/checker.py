"""What must be true of a run, whatever went wrong in it: pure functions from a manifest to what breaks an invariant.

Each has a test that plants its break (test_checker.py).
"""

import base64
import hashlib
import hmac
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final

import msgspec

from tests.chaos.manifest import Manifest, Notification, StoredEvent, StoredObject

MEMORY_MAX_MB: Final = 220.0
DESCRIPTORS_MAX: Final = 160
SKEW_S: Final = 120
"""How far the time of a signature may be from the run; the manifest's times include the steps of the clock."""
FINAL: Final = ("succeeded", "failed", "canceled", "expired")
EVENTS_OF_ENDS: Final = ("job.succeeded", "job.failed", "job.canceled", "job.expired")
EVENTS_OF_COPIES: Final = ("job.archived", "job.archive_failed")
BAD_RESULTS: Final = {
    "gone": ("gone", "forbidden"),
    "wrong_type": ("page",),
    "too_large": ("too_large",),
    "address_refused": (),
    "key_refused": (),
    "withdrawn": (),
}
"""Which faults of a result's server each reason is that of; the other reasons are those of connections and buckets."""
ARCHIVE_LATE_S: Final = 30.0
"""How much longer than it should an event may wait: every process may be down, or the database."""
DAY_MS: Final = 86_400_000
SERVER_ERROR, UNAVAILABLE = 500, 503

Check = Callable[[Manifest], Iterator[str]]


class Broken(msgspec.Struct, frozen=True):
    """An invariant that does not hold, and what shows it."""

    invariant: str
    what: str


def accepted_jobs_are_stored(run: Manifest) -> Iterator[str]:
    """Each job that relay answered 202 is a row, one for each request however often it was repeated."""
    stored = {job.id for job in run.stored.jobs}
    for marker, ids in run.accepted.items():
        if len(ids) > 1:
            yield f"{marker} was accepted as {sorted(ids)}"
        for lost in sorted(ids - stored):
            yield f"{marker} was accepted as {lost}, which is not stored"


def accepted_callbacks_are_stored(run: Manifest) -> Iterator[str]:
    """Each callback that relay answered 200 is a row with its bytes, as often as it was answered."""
    stored = Counter((one.provider, one.body) for one in run.stored.callbacks)
    answered = Counter((one.provider, one.body) for one in run.callbacks)
    for (provider, body), times in answered.items():
        if stored[provider, body] < times:
            yield f"{provider}: answered 200 {times} times, stored {stored[provider, body]} times: {body[:120]!r}"


def jobs_are_created_once(run: Manifest) -> Iterator[str]:
    """No provider created two jobs for one."""
    for marker, times in run.created.items():
        if times > 1:
            yield f"{marker} was created {times} times"


def jobs_end(run: Manifest) -> Iterator[str]:
    """Every stored job has ended, and nothing waits any more."""
    yield from run.unfinished
    for job in run.stored.jobs:
        if not job.finished or job.state not in FINAL:
            yield f"{job.id} of {job.provider} is {job.state}"


def _wanted(run: Manifest) -> Iterator[tuple[str, StoredEvent]]:
    """Yield each endpoint with each event that it wants: of every job, or of its own alone."""
    for endpoint, (_, of_job) in run.endpoints.items():
        for event in run.stored.events:
            if of_job in (None, event.job) and event.type.startswith("job."):
                yield endpoint, event


def events_reach_every_endpoint(run: Manifest) -> Iterator[str]:
    """Each event was answered 2xx by each endpoint that wants it."""
    arrived = {(one.endpoint, one.event) for one in run.notifications if one.accepted}
    for endpoint, event in _wanted(run):
        if (endpoint, event.id) not in arrived:
            yield f"{event.id} ({event.type} of {event.job}) never reached {endpoint}"


def deliveries_say_what_happened(run: Manifest) -> Iterator[str]:
    """Each wanted event has a delivery that says `delivered`, and arrived; another may only have been canceled."""
    arrived = {(one.endpoint, one.event) for one in run.notifications if one.accepted}
    of_jobs = {event.id for event in run.stored.events}
    delivered = {(one.endpoint, one.event) for one in run.stored.deliveries if one.state == "delivered"}
    for endpoint, event in _wanted(run):
        if (endpoint, event.id) not in delivered:
            yield f"{event.id} of {event.job} has no delivery to {endpoint} that is delivered"
    for delivery in run.stored.deliveries:
        if delivery.state not in ("delivered", "canceled") and delivery.event in of_jobs:
            yield f"{delivery.id} is {delivery.state}"
    for endpoint, event_id in sorted(delivered - arrived):
        if event_id in of_jobs:
            yield f"{event_id} is delivered, but {endpoint} never accepted it"


def notifications_are_of_stored_events(run: Manifest) -> Iterator[str]:
    """Nothing was announced that is not stored, and one event always has the same bytes."""
    stored, bodies = {event.id for event in run.stored.events}, defaultdict[str, set[bytes]](set)
    for one in run.notifications:
        if msgspec.json.decode(one.body)["type"].startswith("job."):
            bodies[one.event].add(one.body)
    for event, texts in bodies.items():
        if event not in stored:
            yield f"{event} was sent, and is not stored"
        if len(texts) > 1:
            yield f"{event} was sent with {len(texts)} different bodies"


def notifications_are_signed(run: Manifest) -> Iterator[str]:
    """Each request of relay is signed with its endpoint's secret, for its own id, at about the time of the run."""
    for one in run.notifications:
        secrets, _ = run.endpoints.get(one.endpoint, ((), None))
        signed_s = int(one.headers.get("webhook-timestamp", "0"))
        signatures = one.headers.get("webhook-signature", "").split()
        if not any(_signature(secret, one) in signatures for secret in secrets):
            yield f"{one.event} at {one.endpoint} has no valid signature"
        if msgspec.json.decode(one.body)["id"] != one.event:
            yield f"{one.event} at {one.endpoint} has another id in its body"
        if not run.began_s - SKEW_S <= signed_s <= run.ended_s + SKEW_S:
            yield f"{one.event} at {one.endpoint} was signed at {signed_s}, and the run was {run.began_s:.0f}"


def _signature(secret: str, one: Notification) -> str:
    """Return the signature that Standard Webhooks asks for; not by relay's own code."""
    content = f"{one.event}.{one.headers.get('webhook-timestamp', '')}.".encode() + one.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def _of_jobs(run: Manifest) -> dict[str, list[StoredEvent]]:
    """Return the events of each job by their number."""
    found: dict[str, list[StoredEvent]] = {job.id: [] for job in run.stored.jobs}
    for event in sorted(run.stored.events, key=lambda event: event.sequence):
        found.setdefault(event.job, []).append(event)
    return found


def sequences_have_no_gap(run: Manifest) -> Iterator[str]:
    """Require the events of a job to be numbered 1, 2, 3 …; their places are those of their transactions."""
    for job, events in _of_jobs(run).items():
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            yield f"{job} has the events {[event.sequence for event in events]}"


def ends_are_announced_once(run: Manifest) -> Iterator[str]:
    """Each job's end is announced, the last one is the job's status, and no kind of end twice."""
    states = {job.id: job.state for job in run.stored.jobs}
    told = {one.event: msgspec.json.decode(one.body) for one in run.notifications}
    for job, events in _of_jobs(run).items():
        finals = [event for event in events if event.final]
        kinds = Counter(event.type for event in finals if event.type in EVENTS_OF_ENDS)
        if not finals:
            yield f"{job} is {states.get(job)}, and no end is announced"
        yield from (f"{job} has {times} {kind}" for kind, times in kinds.items() if times > 1)
        said = [told[event.id]["data"] for event in finals if event.id in told]
        if len(said) < len(finals):
            continue  # what did not arrive is reported by another invariant
        if said and said[-1]["job"]["status"] != states.get(job):
            yield f"{job} is {states.get(job)}, and was last announced as {said[-1]['job']['status']}"
        superseded = [one["supersedes"] for one in said]
        if superseded != [None, *(event.id for event in finals)][: len(finals)]:
            yield f"{job}: its ends {[event.id for event in finals]} supersede {superseded}"


def caps_hold(run: Manifest) -> Iterator[str]:
    """No more was paid than the caps allow, and every payment that was made is known.

    A cap is that of a day (UTC) by relay's clock, and a run may go past midnight, by itself or by a step of the clock.
    """
    payments = {payment.nonce.lower(): payment for payment in run.stored.payments}
    days: Counter[int] = Counter()
    for nonce, amount in run.ledger.items():
        days[payments[nonce].made_at // DAY_MS if nonce in payments else 0] += amount
    yield from (
        f"{paid} paid on day {day}, and the cap is {run.cap_in_a_day}"
        for day, paid in days.items()
        if paid > run.cap_in_a_day
    )
    for nonce, amount in run.ledger.items():
        if amount > run.cap_per_job:
            yield f"{nonce}: {amount} paid for one job, and the cap is {run.cap_per_job}"
        if nonce not in payments:
            yield f"{nonce}: {amount} paid, and no payment is stored"
        elif payments[nonce].state == "void":
            yield f"{nonce}: {amount} paid, and the payment of {payments[nonce].job} is void"
    jobs = Counter(payment.job for payment in run.stored.payments)
    yield from (f"{job} has {times} payments" for job, times in jobs.items() if times > 1)


def streams_skip_nothing(run: Manifest) -> Iterator[str]:
    """Each event is read once and in order by a client of the event stream, however often that is cut."""
    positions = {event.id: event.position for event in run.stored.events}
    seen = [one for one in run.streamed if one in positions]
    for event, times in Counter(seen).items():
        if times > 1:
            yield f"{event} was read {times} times"
    if not seen:
        return
    wanted = {event for event, position in positions.items() if position >= positions[seen[0]]}
    yield from (f"{event} was skipped" for event in sorted(wanted - set(seen)))
    order = [positions[event] for event in seen]
    if order != sorted(order):
        yield "events were read out of order"


def results_are_copied(run: Manifest) -> Iterator[str]:
    """Each result of an archived job has a copy that ended: the object that the result is, or a failure with a reason.

    What says that the result itself is bad is the reason of a bad result alone.
    """
    copies = {(one.job, one.number): one for one in run.stored.copies}
    for job in run.stored.jobs:
        if job.state != "succeeded" or job.archive == "off":
            continue
        for number in range(job.outputs):
            copy = copies.get((job.id, number))
            if copy is None or copy.state not in ("archived", "failed"):
                yield f"result {number} of {job.id} has {'no copy' if copy is None else f'a copy that is {copy.state}'}"
            elif copy.state == "failed":
                fault = run.result_faults.get(job.id, "")
                if not copy.error or fault not in BAD_RESULTS.get(copy.error, (fault,)):
                    yield f"result {number} of {job.id} was not copied: {copy.error}; its server did {fault or 'well'}"
            elif (is_ := run.objects.get(copy.key or "")) != run.results.get(job.id):
                yield f"result {number} of {job.id} is {is_}, and the result is {run.results.get(job.id)}"


def _told_archives(run: Manifest) -> Iterator[tuple[StoredEvent, Mapping[str, Any]]]:
    """Yield each event that arrived with what it says of each copy."""
    events = {event.id: event for event in run.stored.events}
    for one in {one.event: one for one in run.notifications if one.event in events}.values():
        for output in msgspec.json.decode(one.body)["data"]["job"].get("outputs") or ():
            if output.get("archive") is not None:
                yield events[one.event], output["archive"]


def told_copies_are_there(run: Manifest) -> Iterator[str]:
    """Each copy that an event tells of is an object with the told hash and length."""
    for event, told in _told_archives(run):
        if told["state"] == "archived":
            is_, said = run.objects.get(told["key"]), StoredObject(told["sha256"], told["bytes"])
            if is_ != said:
                yield f"{event.id} of {event.job} tells of {told['key']} as {said}, and it is {is_}"


def no_object_is_left(run: Manifest) -> Iterator[str]:
    """Each object is that of a copy that is archived, and no write is left unfinished, unless it is to be deleted."""
    left = run.stored.left
    shown = {one.key for one in run.stored.copies if one.state == "archived" and one.key is not None}
    yield from (f"{key} is no copy's object" for key in sorted(run.objects.keys() - shown - left))
    parts = {str(PurePath(key).with_name(f".{PurePath(key).name}.part")) for key in left}
    yield from (f"{name} was begun, and is left" for name in run.unfinished_objects if name not in parts)
    yield from (f"{key} is to be deleted, and is a copy's object" for key in sorted(shown & left))


def copies_are_announced_once(run: Manifest) -> Iterator[str]:
    """Require one event for all copies of a job, which says what became of them, and none for another job."""
    failed = {one.job for one in run.stored.copies if one.state == "failed"}
    jobs = {job.id: job for job in run.stored.jobs}
    for name, events in _of_jobs(run).items():
        told, job = [event.type for event in events if event.type in EVENTS_OF_COPIES], jobs.get(name)
        if job is None or (job.state != "succeeded" and len(told) <= 1):
            continue  # a job may turn out to have failed after its results were copied
        copied = job.state == "succeeded" and job.archive != "off" and job.outputs > 0
        wanted = [EVENTS_OF_COPIES[name in failed]] if copied else []
        if told != wanted:
            yield f"{name} is {job.state}, archive {job.archive}: its copies are announced by {told}, not {wanted}"


def ends_say_which_copies_there_are(run: Manifest) -> Iterator[str]:
    """`job.succeeded` with `before_notify` waits for the copies, but no longer than that, and says which there are."""
    modes = {job.id: job.archive for job in run.stored.jobs}
    for one in {one.event: one for one in run.notifications}.values():
        body = msgspec.json.decode(one.body)
        if body["type"] != "job.succeeded" or modes.get(body["data"]["job"]["id"]) != "before_notify":
            continue
        job = body["data"]["job"]
        copies = [output.get("archive") for output in job.get("outputs") or ()]
        if None in copies:
            yield f"{one.event} of {job['id']} does not say what became of its copies"
            continue
        waited_s = (_time(body["timestamp"]) - _time(job["finished_at"])).total_seconds()
        pending = any(copy["state"] == "pending" for copy in copies)
        if run.clocks_agree and pending and waited_s < run.archive_wait_s:
            yield f"{one.event} of {job['id']} waited {waited_s} s for a copy that is pending"
        if run.clocks_agree and waited_s > run.archive_wait_s + ARCHIVE_LATE_S:
            yield f"{one.event} of {job['id']} waited {waited_s} s for its copies"


def _time(text: str) -> datetime:
    """Return a time of relay's."""
    return datetime.fromisoformat(text)


def answers_are_no_server_errors(run: Manifest) -> Iterator[str]:
    """relay answers no 5xx but 503, which says when to try again."""
    for one in run.answers:
        if one.status >= SERVER_ERROR and one.status != UNAVAILABLE:
            yield f"{one.asked} was answered {one.status}"
        if one.status == UNAVAILABLE and not one.retry_after:
            yield f"{one.asked} was answered 503 without Retry-After"


def processes_stay(run: Manifest) -> Iterator[str]:
    """No process ends by itself, logs a fault of its own, or grows; the database is whole."""
    yield from run.exits
    yield from run.log_errors
    yield from run.stored.faults
    for process, held_mb in run.memory_mb.items():
        if held_mb > MEMORY_MAX_MB:
            yield f"{process} held {held_mb:.0f} MB"
    for process, opened in run.descriptors.items():
        if opened > DESCRIPTORS_MAX:
            yield f"{process} has {opened} files open"


INVARIANTS: Final[tuple[Check, ...]] = (
    accepted_jobs_are_stored,
    accepted_callbacks_are_stored,
    jobs_are_created_once,
    jobs_end,
    events_reach_every_endpoint,
    deliveries_say_what_happened,
    notifications_are_of_stored_events,
    notifications_are_signed,
    sequences_have_no_gap,
    ends_are_announced_once,
    caps_hold,
    streams_skip_nothing,
    results_are_copied,
    told_copies_are_there,
    no_object_is_left,
    copies_are_announced_once,
    ends_say_which_copies_there_are,
    answers_are_no_server_errors,
    processes_stay,
)


def check(run: Manifest) -> list[Broken]:
    """Return what a run has broken; nothing for a good one."""
    return [Broken(invariant.__name__, what) for invariant in INVARIANTS for what in invariant(run)]
