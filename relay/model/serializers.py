"""The public JSON of relay's objects: one function an object, used by the API and by the notifications alike."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from relay.clock import rfc3339
from relay.model.delivery import Attempt, Delivery, Endpoint, Outcome, Redelivery
from relay.model.job import Callback, CallbackHead, Event, EventType, Job, Reprocessing
from relay.security.signatures import PUBLIC_PREFIX, PublicKey

Json = dict[str, Any]


def time_or_none(at_ms: int | None) -> str | None:
    """Return the time as RFC 3339, None for None."""
    return None if at_ms is None else rfc3339(at_ms)


def job(job: Job) -> Json:
    """Return a job; its `request` is the provider's body without the callback URL."""
    return {
        "id": job.id,
        "object": "job",
        "provider": job.provider,
        "provider_job_id": job.provider_job_id,
        "status": job.state,
        "reason": job.reason,
        "progress": job.progress,
        "model": job.model,
        "input": job.input,
        "request": job.request,
        "outputs": job.outputs,
        "error": job.error,
        "cost": job.cost,
        "metadata": job.metadata,
        "finished_by": job.finished_by,
        "verification": job.verification,
        "late": job.late,
        "created_at": rfc3339(job.created_at),
        "submitted_at": time_or_none(job.submitted_at),
        "updated_at": rfc3339(job.updated_at),
        "finished_at": time_or_none(job.finished_at),
        "deadline_at": rfc3339(job.deadline_at),
        "links": {
            "self": f"/v1/jobs/{job.id}",
            "events": f"/v1/events?job={job.id}",
            "timeline": f"/v1/jobs/{job.id}/timeline",
        },
    }


def notification(event_id: str, kind: EventType, at_ms: int, project_id: str, data: Json) -> bytes:
    """Return the body of a notification, byte for byte as every attempt signs and sends it."""
    return msgspec.json.encode(
        {"id": event_id, "type": kind, "timestamp": rfc3339(at_ms), "project": project_id, "data": data}
    )


def job_event(event_id: str, kind: EventType, at_ms: int, subject: Job, sequence: int, supersedes: str | None) -> bytes:
    """Return the body of a notification about a job."""
    data = {"job": job(subject), "sequence": sequence, "final": kind.final, "supersedes": supersedes}
    return notification(event_id, kind, at_ms, subject.project_id, data)


def event(event: Event, deliveries: dict[str, int]) -> Json:
    """Return an event, with the number of its deliveries by status."""
    body = msgspec.json.decode(event.body)
    counts = {state: deliveries.get(state, 0) for state in ("pending", "delivered", "exhausted", "canceled")}
    return {
        "id": event.id,
        "object": "event",
        "type": event.type,
        "job": event.job_id,
        "sequence": event.sequence,
        "final": event.final,
        "timestamp": rfc3339(event.created_at),
        "data": body["data"],
        "deliveries": counts,
    }


def endpoint(endpoint: Endpoint) -> Json:
    """Return an endpoint without its secret, its header values redacted."""
    return {
        "id": endpoint.id,
        "object": "endpoint",
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "description": endpoint.description,
        "metadata": endpoint.metadata,
        "headers": dict.fromkeys(endpoint.headers, "[redacted]"),
        "providers": endpoint.providers,
        "rate_limit_per_s": endpoint.rate_limit_per_s,
        "in_flight_max": endpoint.in_flight_max,
        "timeout_s": endpoint.timeout_s,
        "schedule_s": endpoint.schedule_s,
        "status": "disabled" if endpoint.disabled_at is not None else "held" if endpoint.held_until else "active",
        "disabled_at": time_or_none(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": time_or_none(endpoint.failing_since),
        "last_success_at": time_or_none(endpoint.last_success_at),
        "last_failure_at": time_or_none(endpoint.last_failure_at),
        "created_at": rfc3339(endpoint.created_at),
        "updated_at": rfc3339(endpoint.updated_at),
        "project": endpoint.project_id,
        "secret_readable": endpoint.secret != "",
    }


def delivery(delivery: Delivery) -> Json:
    """Return a delivery as a list shows it."""
    return {
        "id": delivery.id,
        "object": "delivery",
        "event": delivery.event_id,
        "endpoint": delivery.endpoint_id,
        "job": delivery.job_id,
        "status": delivery.state,
        "attempts_made": delivery.attempts_made,
        "next_attempt_at": time_or_none(delivery.next_attempt_at),
        "redelivery": delivery.redelivery,
        "created_at": rfc3339(delivery.created_at),
        "finished_at": time_or_none(delivery.finished_at),
    }


def redelivery(batch: Redelivery) -> Json:
    """Return a batch of redeliveries and its progress."""
    return {
        "id": batch.id,
        "object": "redelivery",
        "endpoint": batch.endpoint_id,
        "which": batch.which,
        "since": rfc3339(batch.since_at),
        "until": rfc3339(batch.until_at),
        "count": batch.total,
        "made": batch.made,
        "created_at": rfc3339(batch.created_at),
        "finished_at": time_or_none(batch.finished_at),
    }


def webhook_keys(public: Sequence[PublicKey]) -> Json:
    """Return the projects' public keys as a JWK set (RFC 8037), each with project and `whpk_` form; newest last."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "alg": "EdDSA",
                "use": "sig",
                "kid": hashlib.sha256(one.key).hexdigest()[:16],
                "x": base64.urlsafe_b64encode(one.key).decode().rstrip("="),
                "project": one.project_id,
                "whpk": PUBLIC_PREFIX + base64.b64encode(one.key).decode(),
            }
            for one in public
        ]
    }


def attempt(attempt: Attempt) -> Json:
    """Return an attempt of a delivery."""
    return {
        "id": attempt.id,
        "number": attempt.number,
        "outcome": attempt.outcome,
        "status_code": attempt.status_code,
        "error": None if attempt.outcome is Outcome.OK else attempt.error,
        "note": attempt.error if attempt.outcome is Outcome.OK else None,
        "started_at": rfc3339(attempt.started_at),
        "duration_ms": attempt.duration_ms,
        "response_excerpt": attempt.response_excerpt,
    }


def callback_head(callback: CallbackHead) -> Json:
    """Return a callback as a list shows it."""
    return {
        "id": callback.id,
        "object": "callback",
        "job": callback.job_id,
        "provider": callback.provider,
        "verdict": callback.disposition,
        "reason": callback.reason,
        "received_at": rfc3339(callback.received_at),
        "size": callback.size,
        "headers": [list(header) for header in callback.headers],
    }


def reprocessing(reprocessing: Reprocessing) -> Json:
    """Return the result of a quarantined callback's reprocessing."""
    return {
        "id": reprocessing.id,
        "at": rfc3339(reprocessing.at),
        "by": reprocessing.key_id,
        "verdict": reprocessing.disposition,
        "reason": reprocessing.reason,
    }


def callback(callback: Callback) -> Json:
    """Return a callback with its body as received, in base64, and as text if it is text."""
    try:
        text = callback.body.decode()
    except UnicodeDecodeError:
        text = None
    return callback_head(callback) | {"body": base64.b64encode(callback.body).decode(), "body_text": text}
