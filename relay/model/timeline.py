"""A job's history in order: requests, callbacks, decisions with their reasons, deliveries, and the next step."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from relay.clock import rfc3339
from relay.model import result_urls
from relay.model.delivery import Attempt, Delivery, DeliveryState
from relay.model.job import Job, JobState, ProviderCall, Reason, Verification
from relay.model.payment import PaymentState, usdc
from relay.model.resources.jobs import EntryKind, EntryResource, NextResource, TimelineResource

_BY_TOKEN: Final = (
    "believed on the callback's token alone: confirmation is off, or it could not be confirmed, and the line of the "
    "status check says why"
)
CHECKS: Final = ("check", "result", "lookup")
"""The kinds of calls that ask a provider about a job."""
_LOOKED_UP: Final = "the submission may or may not have arrived: the provider is asked for the job by relay's own id"
_SUBMIT_UNKNOWN: Final = (
    "the submission may or may not have arrived, and without the provider's id the provider cannot be asked: only its "
    "callback can say. Without one the job expires at its deadline; POST …/resubmissions sends it again, "
    "POST …/failures ends it now"
)
_AWAITING_APPROVAL: Final = (
    "an admin key approves what the job costs, or refuses to: POST …/approvals; without that it expires at its deadline"
)
_KNOWN: Final = {
    PaymentState.RESERVED: "it was not sent yet",
    PaymentState.PAID: "it was made, and answered",
    PaymentState.UNKNOWN: "it was sent, and it is not known yet whether it was made",
    PaymentState.LOST: "it was made, and nothing came of it",
    PaymentState.VOID: "it was never made, and can no longer be: its amount is free again",
}


class Entry(msgspec.Struct, frozen=True):
    """One line; `ref` is the id of what it is about."""

    at_ms: int
    kind: EntryKind
    summary: str
    ref: str
    decision: str | None = None
    reason: str | None = None


def of_job(job: Job) -> list[Entry]:
    """Return the entries of the job's creation and end."""
    checked = f'checked: "partly"; relay does not know the model {job.model}' if job.checked else None
    lines = [Entry(job.created_at, "state", "the job was accepted", job.id, decision=JobState.PENDING, reason=checked)]
    if job.approval is not None:
        price = "an unknown price" if job.approval.amount is None else f"a price of {usdc(job.approval.amount)} USD"
        summary = f"an admin key is to approve {price} before anything is sent"
        lines.append(Entry(job.approval.asked_at, "state", summary, job.id, decision=Reason.AWAITING_APPROVAL))
    if job.state.final and job.finished_at is not None:
        warnings = [
            f"result {number}: {said}, so a client may be unable to fetch it"
            for number, one in enumerate(job.outputs)
            if (said := result_urls.warning(one.url))
        ]
        if job.verification is Verification.TOKEN:
            warnings.insert(0, _BY_TOKEN)
        if job.error:
            warnings.insert(0, job.error.message)
        reason = job.reason or "; ".join(warnings) or None
        lines.append(
            Entry(
                job.finished_at,
                "state",
                f"the job is {job.state}, by {job.finished_by}",
                job.id,
                decision=job.state,
                reason=reason,
            )
        )
    return lines


def of_payment(row: Any) -> list[Entry]:
    """Return a payment's entries: what was authorized, and what is known about it; never its header, which is money."""
    amount = f"{usdc(row['amount'])} USDC"
    lines = [Entry(row["created_at"], "submission", f"a payment of {amount} to {row['pay_to']}, authorized", row["id"])]
    if row["settled_at"] is not None:
        state, transaction = PaymentState(row["state"]), row["transaction_hash"]
        known = f"{_KNOWN[state]} (transaction {transaction})" if transaction else _KNOWN[state]
        summary = f"the payment of {amount}"
        lines.append(Entry(row["settled_at"], "submission", summary, row["id"], decision=state, reason=known))
    return lines


def of_call(call: ProviderCall) -> Entry:
    """Return the entry of relay's request to a provider, at its start."""
    status = f"HTTP {call.status_code}" if call.status_code else None
    reason = "; ".join(filter(None, [status, call.decision])) or None
    kind: EntryKind = "check" if call.kind in CHECKS else "submission"
    return Entry(call.started_at, kind, call.summary, call.id, decision=call.outcome, reason=reason)


def of_callback(row: Any) -> Entry:
    """Return a callback's entry."""
    return Entry(
        row["received_at"],
        "callback",
        f"a callback of {row['size']} bytes",
        row["id"],
        decision=row["disposition"],
        reason=row["reason"],
    )


def of_reprocessing(row: Any) -> Entry:
    """Return the entry of a callback's reprocessing."""
    summary = f"the callback was reprocessed by {row['key_id']}"
    return Entry(row["at"], "callback", summary, row["callback_id"], decision=row["disposition"], reason=row["reason"])


def of_event(row: Any) -> Entry:
    """Return an event's entry."""
    return Entry(row["created_at"], "event", f"{row['type']}, number {row['sequence']} of this job", row["id"])


def of_delivery(delivery: Delivery, host: str | None) -> Entry:
    """Return a delivery's entry; `host` is that of its endpoint, None if that was deleted."""
    return Entry(
        delivery.created_at,
        "delivery",
        f"to {delivery.endpoint_id}" + (f" at {host}" if host else ""),
        delivery.id,
        decision=delivery.state,
        reason=delivery.event_id,
    )


def of_attempt(attempt: Attempt, to: str) -> Entry:
    """Return an attempt's entry; `to` is the name of its endpoint."""
    summary = f"attempt {attempt.number} to {to}" + (f": HTTP {attempt.status_code}" if attempt.status_code else "")
    return Entry(attempt.started_at, "attempt", summary, attempt.id, decision=attempt.outcome, reason=attempt.error)


def endpoint_hosts(urls: Mapping[str, str]) -> dict[str, str]:
    """Return the host of each endpoint's URL, and its port; its path and query may be secret."""
    return {id_: urlsplit(url).netloc.rpartition("@")[2] for id_, url in urls.items()}


def endpoint_names(hosts: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each endpoint by its id: its host and port, with its id if others have the same."""
    shared = Counter(hosts.values())
    return {id_: host if shared[host] == 1 else f"{host} ({id_})" for id_, host in hosts.items()}


def timeline(job: Job, entries: list[Entry], deliveries: list[Delivery]) -> TimelineResource:
    """Return the entries by time, equal times in the given order, and what comes next."""
    data = [
        EntryResource(
            at=rfc3339(one.at_ms),
            kind=one.kind,
            summary=one.summary,
            decision=one.decision,
            reason=one.reason,
            ref=one.ref,
        )
        for one in sorted(entries, key=lambda one: one.at_ms)
    ]
    return TimelineResource(data=data, next=what_next(job, deliveries))


def what_next(job: Job, deliveries: list[Delivery]) -> NextResource | None:
    """Return what relay waits for or does next, and by when; None if all is done."""
    if not job.state.final:
        if job.next_submit_at is not None:
            return NextResource(what="the job is sent to the provider", at=rfc3339(job.next_submit_at))
        if job.unconfirmed and job.confirm_by is not None and not job.unconfirmed.tries:
            return NextResource(
                what=f"the callback's {job.unconfirmed.report.state} is confirmed by a status check, "
                "or believed by then",
                at=rfc3339(job.confirm_by),
            )
        if job.next_check_at is not None and job.reason == Reason.SUBMIT_UNKNOWN:
            return NextResource(what=_LOOKED_UP, at=rfc3339(job.next_check_at))
        if job.next_check_at is not None and job.next_check_at <= job.deadline_at:
            return NextResource(
                what="a status check, unless the provider's callback comes first", at=rfc3339(job.next_check_at)
            )
        if job.reason == Reason.AWAITING_APPROVAL:
            return NextResource(what=_AWAITING_APPROVAL, at=rfc3339(job.deadline_at))
        if job.reason == Reason.SUBMIT_UNKNOWN:
            return NextResource(what=_SUBMIT_UNKNOWN, at=rfc3339(job.deadline_at))
        if job.state is JobState.PENDING and job.provider_job_id is None and job.submission_started_at is not None:
            what = "the provider's answer to the submission is awaited; without one, whether it arrived is unknown"
            return NextResource(what=what, at=rfc3339(job.deadline_at))
        return NextResource(
            what="the provider's callback is awaited; the job expires at its deadline", at=rfc3339(job.deadline_at)
        )
    if job.unconfirmed and job.next_check_at is not None:
        what = f"a status check decides whether {job.unconfirmed.report.state}, as a later callback says, is right"
        return NextResource(what=what, at=rfc3339(job.next_check_at))
    due = [d.next_attempt_at for d in deliveries if d.state is DeliveryState.PENDING and d.next_attempt_at is not None]
    return NextResource(what="the next attempt of a delivery", at=rfc3339(min(due))) if due else None
