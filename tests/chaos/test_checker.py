"""The checker finds what it is for: a good run breaks nothing, and each invariant notices its break, planted."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import pytest

from tests.chaos.checker import ARCHIVE_LATE_S, DESCRIPTORS_MAX, INVARIANTS, MEMORY_MAX_MB, check
from tests.chaos.manifest import (
    Answer,
    Call,
    Manifest,
    Notification,
    Stored,
    StoredCopy,
    StoredDelivery,
    StoredEvent,
    StoredJob,
    StoredObject,
    StoredPayment,
)

BEGAN_S = 1_795_219_200
SECRETS = {name: "whsec_" + base64.b64encode(name.encode() * 12).decode() for name in ("ep_1", "ep_2", "ep_own")}
EVENTS = (
    ("job.submitted", "submitted", False),
    ("job.expired", "expired", True),
    ("job.succeeded", "succeeded", True),
    ("job.archived", "succeeded", False),
)
WAIT_S = 2
MIDNIGHT_S = BEGAN_S // 86_400 * 86_400


def time_of(seconds: float) -> str:
    """Return a time as relay writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def copied(job: str) -> dict[str, Any]:
    """Return what an event says of the copy of a job's result."""
    return {"state": "archived", "key": f"{job}.mp4", "sha256": f"sha256 of {job}", "bytes": 9}


def signed(endpoint: str, event: StoredEvent, status: str, supersedes: str | None, at_s: int = BEGAN_S) -> Notification:
    """Return a notification as relay sends it."""
    outputs = [{"archive": copied(event.job)}] if status == "succeeded" else []
    job = {"id": event.job, "status": status, "outputs": outputs, "finished_at": time_of(BEGAN_S)}
    data = {"job": job, "sequence": event.sequence, "supersedes": supersedes}
    return sent(endpoint, {"id": event.id, "type": event.type, "timestamp": time_of(BEGAN_S), "data": data}, at_s)


def sent(endpoint: str, told: dict[str, Any], at_s: int = BEGAN_S) -> Notification:
    """Return a notification with this body."""
    body = json.dumps(told).encode()
    key = base64.b64decode(SECRETS[endpoint].removeprefix("whsec_"))
    mac = hmac.digest(key, f"{told['id']}.{at_s}.".encode() + body, hashlib.sha256)
    headers = {"webhook-id": told["id"], "webhook-timestamp": f"{at_s}"}
    headers["webhook-signature"] = "v1,AAAA v1," + base64.b64encode(mac).decode()
    return Notification(endpoint, headers, body, True)


def good() -> Manifest:
    """Return a run of two jobs that expired and then succeeded, at two endpoints and one of the first job alone."""
    run = Manifest(archive_wait_s=WAIT_S, cap_per_job=500, cap_in_a_day=700, began_s=BEGAN_S - 5, ended_s=BEGAN_S + 5)
    run.endpoints = {"ep_1": ((SECRETS["ep_own"], SECRETS["ep_1"]), None), "ep_2": ((SECRETS["ep_2"],), None)}
    run.endpoints["ep_own"] = ((SECRETS["ep_own"],), "job_0")
    stored, position = Stored(), 0
    for number in range(2):
        job, former = f"job_{number}", None
        run.accepted[f"chaos-{number}-"] = {job}
        run.created[f"chaos-{number}-"] = 1
        stored.jobs.append(StoredJob(job, "evolink", "succeeded", True, "before_notify", 1))
        stored.copies.append(StoredCopy(job, 0, "archived", f"{job}.mp4", f"sha256 of {job}", 9, None))
        run.results[job] = run.objects[f"{job}.mp4"] = StoredObject(f"sha256 of {job}", 9)
        for sequence, (kind, status, final) in enumerate(EVENTS, 1):
            position += 1
            event = StoredEvent(f"evt_{number}{sequence}", job, kind, sequence, final, position)
            stored.events.append(event)
            run.streamed.append(event.id)
            for endpoint, (_, of_job) in run.endpoints.items():
                if of_job in (None, job):
                    made = f"dlv_{endpoint}_{event.id}"
                    stored.deliveries.append(StoredDelivery(made, event.id, endpoint, "delivered"))
                    stored.deliveries.append(StoredDelivery(f"{made}c", event.id, endpoint, "canceled"))
                    run.notifications.append(signed(endpoint, event, status, former if final else None))
            former = event.id if final else former
        call = Call("evolink", b'{"id":"%d"}' % number)
        run.callbacks += [call, call]
        stored.callbacks += [call, call, Call("kinovi", call.body)]
        run.ledger[f"0x{number}"] = 350
        stored.payments.append(StoredPayment(job, f"0X{number}", 350, "paid", BEGAN_S * 1000))
    run.answers = [Answer("/v1/jobs", 202, ""), Answer("/v1/jobs", 503, "2"), Answer("/v1/jobs", 409, "")]
    run.memory_mb, run.descriptors = {"serve-0.1": MEMORY_MAX_MB}, {"serve-0.1": DESCRIPTORS_MAX}
    run.stored = stored
    return run


Row = TypeVar("Row", bound=msgspec.Struct)


def replaced(rows: list[Row], number: int, **fields: object) -> list[Row]:
    """Replace fields of a row."""
    rows[number] = msgspec.structs.replace(rows[number], **fields)
    return rows


def paid_at(run: Manifest, at_ms: int, amount: int) -> None:
    """Make the first payment at the first moment of a day, and the second, of an amount, at a time (unix ms)."""
    replaced(run.stored.payments, 0, made_at=MIDNIGHT_S * 1000)
    replaced(run.stored.payments, 1, made_at=at_ms)
    run.ledger["0x1"] = amount


def sent_unsigned(run: Manifest) -> None:
    """Change a signature by one bit."""
    one = run.notifications[0]
    one.headers["webhook-signature"] = one.headers["webhook-signature"].replace("v1,", "v1,B")


def sent_under_another_id(run: Manifest) -> None:
    """Send an event with a valid signature, and another id in its body."""
    event = msgspec.structs.replace(run.stored.events[0], id="evt_other")
    one = signed("ep_1", event, "submitted", None)
    run.notifications.append(
        msgspec.structs.replace(one, body=one.body.replace(b"evt_other", b"evt_01"), headers=one.headers)
    )


def sent_at_another_time(run: Manifest) -> None:
    """Sign an event at a time that is far from the run."""
    run.notifications.append(signed("ep_1", run.stored.events[0], "submitted", None, BEGAN_S + 4000))


def sent_with_another_body(run: Manifest) -> None:
    """Send the same event with other bytes."""
    run.notifications.append(signed("ep_1", run.stored.events[0], "running", None))


def sent_without_being_stored(run: Manifest) -> None:
    """Send an event of a transaction that was not committed."""
    run.notifications.append(
        signed("ep_1", msgspec.structs.replace(run.stored.events[0], id="evt_gone"), "running", None)
    )


def announced_as(run: Manifest, status: str) -> None:
    """Change the status of the last end's notifications, with good signatures."""
    last = run.stored.events[2]
    kept = [one for one in run.notifications if one.event != last.id]
    run.notifications = [*kept, *(signed(name, last, status, "evt_02") for name in SECRETS)]


def superseding(run: Manifest, former: str | None) -> None:
    """Change which event the last end supersedes."""
    last = run.stored.events[2]
    kept = [one for one in run.notifications if one.event != last.id]
    run.notifications = [*kept, *(signed(name, last, "succeeded", former) for name in SECRETS)]


def end_told(run: Manifest, *, after_s: float, **archive: Any) -> None:
    """Send the end of the first job so long after it, and say this of its copy; its other events are as they were."""
    event = run.stored.events[2]
    (first, *_) = [one for one in run.notifications if one.event == event.id]
    told = json.loads(first.body)
    told["timestamp"] = time_of(BEGAN_S + after_s)
    told["data"]["job"]["outputs"] = [{"archive": copied(event.job) | archive if archive.get("state") else None}]
    run.notifications = [one for one in run.notifications if one.event != event.id]
    run.notifications += [sent(name, told) for name in SECRETS]


def failed_copy(run: Manifest, error: str | None, fault: str) -> None:
    """Have the copy of the first job fail, whose server has done wrong."""
    job = run.stored.jobs[0].id
    replaced(run.stored.copies, 0, state="failed", key=None, sha256=None, bytes=None, error=error)
    replaced(run.stored.events, 3, type="job.archive_failed")
    run.result_faults[job] = fault
    del run.objects[f"{job}.mp4"]
    run.notifications = [one for one in run.notifications if b"job_0" not in one.body or b"archive" not in one.body]


Plant = Callable[[Manifest], object]
PLANTED: dict[str, tuple[str, Plant]] = {
    "an accepted job is not stored": (
        "accepted_jobs_are_stored",
        lambda run: run.accepted.update({"chaos-9-": {"job_9"}}),
    ),
    "a job is accepted twice": ("accepted_jobs_are_stored", lambda run: run.accepted["chaos-0-"].add("job_1")),
    "an accepted callback is not stored": ("accepted_callbacks_are_stored", lambda run: run.stored.callbacks.pop(3)),
    "a callback is stored for another provider": (
        "accepted_callbacks_are_stored",
        lambda run: run.callbacks.append(Call("relaydance", b"{}")),
    ),
    "a job is created twice": ("jobs_are_created_once", lambda run: run.created.update({"chaos-0-": 2})),
    "a job hangs": ("jobs_end", lambda run: replaced(run.stored.jobs, 0, state="running", finished=False)),
    "work is left": ("jobs_end", lambda run: run.unfinished.append("after 40 s: delivery dlv_1 pending")),
    "an event does not arrive": ("events_reach_every_endpoint", lambda run: run.notifications.pop(0)),
    "an event is never accepted": (
        "events_reach_every_endpoint",
        lambda run: replaced(run.notifications, 0, accepted=False),
    ),
    "an event has no delivery": ("deliveries_say_what_happened", lambda run: run.stored.deliveries.pop(0)),
    "a delivery is given up": (
        "deliveries_say_what_happened",
        lambda run: replaced(run.stored.deliveries, 0, state="exhausted"),
    ),
    "a delivery waits": (
        "deliveries_say_what_happened",
        lambda run: replaced(run.stored.deliveries, 1, state="pending"),
    ),
    "a delivery is canceled, and no other made": (
        "deliveries_say_what_happened",
        lambda run: replaced(run.stored.deliveries, 0, state="canceled"),
    ),
    "a delivery says that it arrived": (
        "deliveries_say_what_happened",
        lambda run: run.notifications.pop(0),
    ),
    "an event is sent that is not stored": ("notifications_are_of_stored_events", sent_without_being_stored),
    "an event has two bodies": ("notifications_are_of_stored_events", sent_with_another_body),
    "a signature is wrong": ("notifications_are_signed", sent_unsigned),
    "an id is another in the body": ("notifications_are_signed", sent_under_another_id),
    "a time is another": ("notifications_are_signed", sent_at_another_time),
    "a sequence has a gap": ("sequences_have_no_gap", lambda run: replaced(run.stored.events, 2, sequence=4)),
    "a sequence has a number twice": ("sequences_have_no_gap", lambda run: replaced(run.stored.events, 2, sequence=2)),
    "no end is announced": (
        "ends_are_announced_once",
        lambda run: [replaced(run.stored.events, number, final=False) for number in (1, 2)],
    ),
    "an end is announced twice": (
        "ends_are_announced_once",
        lambda run: replaced(run.stored.events, 1, type="job.succeeded"),
    ),
    "the last end is another": ("ends_are_announced_once", lambda run: announced_as(run, "failed")),
    "an end supersedes nothing": ("ends_are_announced_once", lambda run: superseding(run, None)),
    "the cap of a day is exceeded by one": ("caps_hold", lambda run: run.ledger.update({"0x1": 351})),
    "the cap is exceeded by the first and the last moment of a day": (
        "caps_hold",
        lambda run: paid_at(run, (MIDNIGHT_S + 86_400) * 1000 - 1, amount=351),
    ),
    "the cap of a job is exceeded by one": ("caps_hold", lambda run: run.ledger.update({"0x0": 501, "0x1": 0})),
    "a payment is not stored": ("caps_hold", lambda run: run.stored.payments.pop()),
    "a payment that was made is void": ("caps_hold", lambda run: replaced(run.stored.payments, 0, state="void")),
    "a job has two payments": (
        "caps_hold",
        lambda run: run.stored.payments.append(StoredPayment("job_0", "0x7", 1, "void", BEGAN_S * 1000)),
    ),
    "the stream skips an event": ("streams_skip_nothing", lambda run: run.streamed.pop(2)),
    "the stream repeats an event": ("streams_skip_nothing", lambda run: run.streamed.insert(2, run.streamed[1])),
    "the stream is out of order": ("streams_skip_nothing", lambda run: run.streamed.insert(4, run.streamed.pop(3))),
    "a result has no copy": ("results_are_copied", lambda run: run.stored.copies.pop(0)),
    "a copy is never made": ("results_are_copied", lambda run: replaced(run.stored.copies, 0, state="pending")),
    "an object is not what the result is": (
        "results_are_copied",
        lambda run: run.results.update({"job_0": StoredObject("another", 9)}),
    ),
    "an object is half the result": (
        "results_are_copied",
        lambda run: run.objects.update({"job_0.mp4": StoredObject("sha256 of job_0", 8)}),
    ),
    "a copy fails without a reason": ("results_are_copied", lambda run: failed_copy(run, None, "")),
    "a good result is said to be gone": ("results_are_copied", lambda run: failed_copy(run, "gone", "")),
    "a page is said to be gone": ("results_are_copied", lambda run: failed_copy(run, "gone", "page")),
    "an object is gone that is told of": ("told_copies_are_there", lambda run: run.objects.pop("job_0.mp4")),
    "another hash is told": (
        "told_copies_are_there",
        lambda run: end_told(run, after_s=0, state="archived", sha256="another"),
    ),
    "another length is told": (
        "told_copies_are_there",
        lambda run: end_told(run, after_s=0, state="archived", bytes=8),
    ),
    "an object is no copy's": (
        "no_object_is_left",
        lambda run: run.objects.update({"job_9.mp4": StoredObject("sha256", 9)}),
    ),
    "an object of a failed copy is left": (
        "no_object_is_left",
        lambda run: replaced(run.stored.copies, 0, state="failed"),
    ),
    "a copy's object is to be deleted": (
        "no_object_is_left",
        lambda run: run.stored.left.update(one.key or "" for one in run.stored.copies if one.state == "archived"),
    ),
    "an upload is left": ("no_object_is_left", lambda run: run.unfinished_objects.append("job_1.mp4")),
    "copies are announced twice": (
        "copies_are_announced_once",
        lambda run: run.stored.events.append(StoredEvent("evt_05", "job_0", "job.archived", 5, False, 9)),
    ),
    "copies are not announced": (
        "copies_are_announced_once",
        lambda run: replaced(run.stored.events, 3, type="job.updated"),
    ),
    "a failed copy is announced as archived": (
        "copies_are_announced_once",
        lambda run: replaced(run.stored.copies, 0, state="failed"),
    ),
    "copies of a job without an archive are announced": (
        "copies_are_announced_once",
        lambda run: replaced(run.stored.jobs, 0, archive="off"),
    ),
    "an end does not wait for its copy": (
        "ends_say_which_copies_there_are",
        lambda run: end_told(run, after_s=WAIT_S - 0.001, state="pending"),
    ),
    "an end waits too long": (
        "ends_say_which_copies_there_are",
        lambda run: end_told(run, after_s=WAIT_S + ARCHIVE_LATE_S + 0.001, state="archived"),
    ),
    "an end does not say what became of its copy": (
        "ends_say_which_copies_there_are",
        lambda run: end_told(run, after_s=0),
    ),
    "a 500": ("answers_are_no_server_errors", lambda run: run.answers.append(Answer("/v1/jobs", 500, "1"))),
    "a 503 without Retry-After": (
        "answers_are_no_server_errors",
        lambda run: run.answers.append(Answer("/v1/jobs", 503, "")),
    ),
    "a process ends by itself": ("processes_stay", lambda run: run.exits.append("serve-0.1 ended by itself with 1")),
    "a process logs a fault of its own": ("processes_stay", lambda run: run.log_errors.append("KeyError")),
    "a process grows": ("processes_stay", lambda run: run.memory_mb.update({"serve-0.1": MEMORY_MAX_MB + 0.1})),
    "files stay open": ("processes_stay", lambda run: run.descriptors.update({"serve-0.1": DESCRIPTORS_MAX + 1})),
    "the database is damaged": ("processes_stay", lambda run: run.stored.faults.append("malformed")),
}


def test_a_good_run_breaks_nothing() -> None:
    """Find nothing in a run whose every figure is at its limit."""
    assert check(good()) == []


def test_each_day_has_its_cap() -> None:
    """Let a run that goes past midnight pay the cap of both days."""
    run = good()
    paid_at(run, (MIDNIGHT_S + 86_400) * 1000, amount=500)
    run.ledger["0x0"] = 500
    assert check(run) == []


@pytest.mark.parametrize(
    ("after_s", "state"), [(0, "archived"), (WAIT_S, "pending"), (WAIT_S + ARCHIVE_LATE_S, "archived")]
)
def test_an_end_that_waits_as_it_should_breaks_nothing(after_s: float, state: str) -> None:
    """Find nothing in an end that has its copy, or has waited for it as long as it should."""
    run = good()
    end_told(run, after_s=after_s, state=state)
    assert check(run) == []


@pytest.mark.parametrize(("error", "fault"), [("gone", "forbidden"), ("wrong_type", "page"), ("store_refused", "")])
def test_a_copy_that_failed_for_its_reason_breaks_nothing(error: str, fault: str) -> None:
    """Find nothing wrong with a copy that failed because its result is bad, or its bucket was."""
    run = good()
    failed_copy(run, error, fault)
    assert [one for one in check(run) if one.invariant in ("results_are_copied", "copies_are_announced_once")] == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_break_is_found(name: str) -> None:
    """Name the invariant that was broken."""
    invariant, plant = PLANTED[name]
    run = good()
    plant(run)
    assert invariant in {one.invariant for one in check(run)}


def test_every_invariant_is_planted() -> None:
    """Have a planted break for each invariant."""
    assert {invariant for invariant, _ in PLANTED.values()} == {invariant.__name__ for invariant in INVARIANTS}
