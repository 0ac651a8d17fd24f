"""Run a request once for each Idempotency-Key, and answer its repetitions with the stored response.

The key is reserved before the work; the work's own transaction ties the response to it (`ApiRequest.tie`), so that no
crash comes between the two. Rows are in `storage/idempotency.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay.app import App
from relay.errors import Conflict, IdempotencyConflict, ReservationLost
from relay.model.resources import jobs as resources
from relay.storage.api_keys import Known, Reservation

WAIT_MAX_S: Final = 25.0
"""The longest `Prefer: wait`; routers close a request that is not answered within 30 s."""
REPLAY_MARGIN_MS: Final = 2_000
"""A first request unanswered for the longest wait and this much more is not running any more: its process ended."""
REPLAY_POLL_S: Final = 0.05
"""Seconds between two polls for the first request's response; in real time, like the wait for the provider."""
NO_CONTENT: Final = 204


class StoredResponse(msgspec.Struct, frozen=True):
    """A response as stored with its key; one that is not `final` shows how its job began."""

    status: int
    body: msgspec.Raw
    location: str | None
    final: bool = msgspec.field(name="whole", default=True)


async def run_once(app: App, reservation: Reservation, work: Callable[[Reservation], Awaitable[Response]]) -> Response:
    """Return the response of `work`, or the stored one if the key was used with the same content.

    Raise IdempotencyConflict if the key was used with other content, and Conflict if the first request is unfinished.
    If another request takes the key over while this one stands still, this one's work is rolled back and it is
    answered with what is stored.
    """
    reserved = await app.store.access.reserve(reservation)
    outcome: Reservation | Response = reservation if reserved else await _replay(app, reservation)
    while isinstance(outcome, Reservation):
        try:
            response = await work(outcome)
        except ReservationLost:
            outcome = await _replay(app, outcome)
            continue
        except BaseException:
            await asyncio.shield(app.store.access.release(outcome))
            raise
        await app.store.access.answer(outcome, encoded(response, final=True))
        return response
    return outcome


def encoded(response: Response, *, final: bool) -> bytes:
    """Return a response as it is stored; an empty body as null."""
    body = msgspec.Raw(bytes(response.body) or b"null")
    return msgspec.json.encode(StoredResponse(response.status_code, body, response.headers.get("location"), final))


async def _replay(app: App, reservation: Reservation) -> Reservation | Response:
    """Return the response stored for the key, after waiting for it if the first request is still running.

    Return a reservation if the first request failed and released the key: this request has it now.
    """
    wait_ms = round(max(app.settings.submit_wait_s, WAIT_MAX_S) * 1000) + REPLAY_MARGIN_MS
    while True:
        first = await app.store.access.known(reservation.project_id, reservation.key)
        if first is None:
            reservation = msgspec.structs.replace(reservation, now=app.clock.now_ms())
            if await app.store.access.reserve(reservation):
                return reservation
            continue
        if first.fingerprint != reservation.fingerprint:
            raise IdempotencyConflict("this Idempotency-Key was used for another request; use a new one")
        stored = None if first.answer is None else msgspec.json.decode(first.answer, type=StoredResponse)
        if stored is not None and stored.final:
            return _replayed(stored)
        if app.clock.now_ms() >= first.reserved_at + wait_ms:
            return await _replay_unfinished(app, reservation, first, stored)
        await asyncio.sleep(REPLAY_POLL_S)


async def _replay_unfinished(
    app: App, reservation: Reservation, first: Known, stored: StoredResponse | None
) -> Response:
    """Return the present state of the job of a first request that was never answered, in its stored response.

    Raise Conflict if the first request has stored nothing.
    """
    job = await app.store.jobs.get(first.job_id, reservation.project_id) if first.job_id else None
    if job is None:
        if stored is not None:
            return _replayed(stored)
        raise Conflict("the first request with this Idempotency-Key is not finished; try again")
    if stored is None:  # stored by an older relay, which kept only the job's id
        body = msgspec.Raw(msgspec.json.encode(resources.job(job)))
        return _replayed(StoredResponse(202, body, f"/v1/jobs/{job.id}"))
    shown = msgspec.json.decode(stored.body, type=dict[str, Any]) | msgspec.to_builtins(resources.job(job))
    return _replayed(StoredResponse(stored.status, msgspec.Raw(msgspec.json.encode(shown)), stored.location))


def _replayed(stored: StoredResponse) -> Response:
    """Return a stored response, with the header that marks it as a repetition."""
    headers = {"idempotent-replayed": "true"} | ({"location": stored.location} if stored.location else {})
    if stored.status == NO_CONTENT:
        return Response(None, stored.status, headers)
    return Response(bytes(stored.body), stored.status, headers, media_type="application/json")
