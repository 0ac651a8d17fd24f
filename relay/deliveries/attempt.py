"""One attempt of one delivery: prepare the signed request, send it, and handle success or failure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from relay import __version__, log
from relay.clock import Clock
from relay.model import backoff, exchange, ids
from relay.model.delivery import Attempt, Delivery, DeliveryState, Endpoint, Outcome
from relay.outbound.tracing import Post
from relay.outbound.webhook_sender import PostResult
from relay.security import signatures
from relay.security.encryption import DecryptionFailed
from relay.security.redaction import CUT, SECRET_CHARS_MIN
from relay.security.signatures import HOP_HEADER, SigningKeys
from relay.storage.deliveries import AttemptResult, DueDelivery

_logger = log.get("deliver")
# What a receiver may ask for in its answer: https://github.com/standard-webhooks/standard-webhooks/pull/291
DISABLE, ABORT = "disable", "abort-message"
USER_AGENT: Final = f"relay/{__version__}"
HOPS: Final = "1"
"""Every notification starts here: a request that arrives with a `relay-hop` is no callback, so none is relayed."""


class Deliverer:
    """Makes attempts; `schedule_s` is the retry schedule of endpoints that have none of their own."""

    def __init__(
        self,
        sender: Post,
        clock: Clock,
        schedule_s: Sequence[int],
        random: Callable[[], float],
        keys: SigningKeys,
    ) -> None:
        self._sender = sender
        self._keys = keys
        self._clock = clock
        self._schedule_s = schedule_s
        self._random = random

    async def attempt(self, delivery: DueDelivery) -> AttemptResult:
        """Send the notification once; return the attempt and the delivery's next state. A receiver causes no error."""
        if not self._keys.has(delivery.project_id):
            await self._load_key(delivery.project_id)
        started_at, began_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        headers = self._prepare(delivery, started_at)
        answer = await self._sender.post(delivery.url, headers, delivery.body, delivery.timeout_s)
        attempt = Attempt(
            id=ids.new_id(ids.ATTEMPT),
            delivery_id=delivery.delivery_id,
            number=delivery.attempts_made + 1,
            outcome=answer.outcome,
            status_code=answer.status_code,
            error=answer.error,
            started_at=started_at,
            duration_ms=self._clock.monotonic_ms() - began_ms,
            response_excerpt=answer.excerpt and _redacted(delivery, answer.excerpt),
            exchange=_redacted(delivery, exchange.written(answer.timings, answer.headers)),
        )
        if answer.outcome is Outcome.OK:
            return self._handle_success(delivery, attempt, answer)
        return self._handle_failure(delivery, attempt, answer)

    def _prepare(self, delivery: DueDelivery, now_ms: int) -> dict[str, str]:
        """Return the request's headers: the endpoint's own, then relay's, which those cannot replace."""
        timestamp_s = now_ms // 1000
        signature = self._signatures(delivery, now_ms, timestamp_s)
        headers = _headers(delivery.headers, delivery.event_id, timestamp_s, signature, delivery.attempts_made + 1)
        if delivery.redelivery:
            headers["relay-redelivery"] = "true"
        return headers

    def _signatures(self, delivery: DueDelivery, now_ms: int, timestamp_s: int) -> str:
        """Return a signature by each valid secret, and one by the project's key, whose public part is published."""
        secrets = [delivery.secret]
        if delivery.former_secret is not None and now_ms < (delivery.former_secret_until or 0):
            secrets.append(delivery.former_secret)
        signed = signatures.sign(secrets, delivery.event_id, timestamp_s, delivery.body)
        if not self._keys.has(delivery.project_id):
            return signed
        return f"{signed} {self._keys.sign(delivery.project_id, delivery.event_id, timestamp_s, delivery.body)}"

    async def _load_key(self, project_id: str) -> None:
        """Load the project's signing key; where it cannot be decrypted, the endpoints' signatures stand alone."""
        try:
            await self._keys.load(project_id)
        except DecryptionFailed as error:
            _logger.error("delivery.signing_key_unreadable", project=project_id, error=str(error))

    def _handle_success(self, delivery: DueDelivery, attempt: Attempt, answer: PostResult) -> AttemptResult:
        """Return the delivery as delivered; even then the endpoint may ask to be disabled."""
        return AttemptResult(
            attempt=attempt,
            project_id=delivery.project_id,
            endpoint_id=delivery.endpoint_id,
            state=DeliveryState.DELIVERED,
            next_attempt_at=None,
            at=self._clock.now_ms(),
            gone=_disable_reason(answer),
            probe=delivery.probe,
        )

    def _handle_failure(self, delivery: DueDelivery, attempt: Attempt, answer: PostResult) -> AttemptResult:
        """Return the delivery as pending until the schedule's next time, or as exhausted where there is none.

        One whose endpoint is disabled is canceled, as all others of it are: enabling it sends the event again.
        """
        now_ms = self._clock.now_ms()
        retry_after_ms = backoff.parse_retry_after(answer.retry_after, now_ms)
        disable_reason, aborted = _disable_reason(answer), answer.control == ABORT
        delay_ms = None
        if not (disable_reason or aborted or delivery.probe or delivery.to_disabled):
            schedule_s = delivery.schedule_s or self._schedule_s
            delay_ms = backoff.next_delay_ms(schedule_s, delivery.attempts_made + 1, self._random, retry_after_ms)
        ended = DeliveryState.CANCELED if delivery.to_disabled else DeliveryState.EXHAUSTED
        return AttemptResult(
            attempt=attempt,
            project_id=delivery.project_id,
            endpoint_id=delivery.endpoint_id,
            state=ended if delay_ms is None else DeliveryState.PENDING,
            next_attempt_at=None if delay_ms is None else now_ms + delay_ms,
            at=now_ms,
            gone=disable_reason,
            aborted=aborted,
            retry_after_ms=retry_after_ms,
            probe=delivery.probe,
            to_disabled=delivery.to_disabled,
        )


def _disable_reason(answer: PostResult) -> str | None:
    """Return why the endpoint is to be disabled, if its answer asks for that."""
    if answer.control == DISABLE:
        return "the endpoint asked for it by its webhook-delivery header"
    return "the endpoint answered 410 Gone" if answer.outcome is Outcome.ENDPOINT_GONE else None


def _redacted(delivery: DueDelivery, text: str) -> str:
    """Return a part of an answer without the endpoint's secrets and headers, which some receivers repeat."""
    for secret in (delivery.secret, delivery.former_secret, *delivery.headers.values()):
        if secret and len(secret) >= SECRET_CHARS_MIN and secret in text:
            text = text.replace(secret, CUT)
    return log.redact(text)


def _headers(custom: Mapping[str, str], event_id: str, timestamp_s: int, signature: str, number: int) -> dict[str, str]:
    """Return a request's headers: the endpoint's own, then relay's, which those cannot replace."""
    return {
        **custom,
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature,
        "relay-attempt": str(number),
        HOP_HEADER: HOPS,
    }


def headers_shown(endpoint: Endpoint, delivery: Delivery, attempt: Attempt) -> dict[str, str]:
    """Return the headers that an attempt was sent with, without the endpoint's values and the signatures.

    They are made again from the endpoint as it is now, since no request is stored. While two secrets are valid there
    are two signatures `v1`; one is shown.
    """
    signature = f"v1,{CUT} v1a,{CUT}"
    custom = dict.fromkeys(endpoint.headers, CUT)
    headers = _headers(custom, delivery.event_id, attempt.started_at // 1000, signature, attempt.number)
    return headers | ({"relay-redelivery": "true"} if delivery.redelivery else {})
