"""One attempt of one delivery: sign the stored bytes, POST them, and judge the answer."""

from collections.abc import Callable, Sequence
from typing import Final

from relay import __version__, backoff, ids, log
from relay.clock import Clock
from relay.model.delivery import Attempt, DeliveryState, Outcome
from relay.outbound.webhook_sender import Answer, WebhookSender
from relay.security import signatures
from relay.security.encryption import SealBroken
from relay.security.redaction import CUT, SECRET_CHARS_MIN
from relay.security.signatures import HOP_HEADER, SigningKeys
from relay.storage.deliveries import Parcel, Settled

# https://github.com/standard-webhooks/standard-webhooks/pull/291: what a receiver may ask for in its answer.
_logger = log.get("deliver")
DISABLE, ABORT = "disable", "abort-message"
USER_AGENT: Final = f"relay/{__version__}"
HOPS: Final = "1"
"""Every notification begins here: what comes in with a `relay-hop` is no callback, so none is ever passed on."""


class Deliverer:
    """Makes attempts; `schedule_s` is for endpoints that have none of their own."""

    def __init__(
        self,
        sender: WebhookSender,
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

    async def attempt(self, parcel: Parcel) -> Settled:
        """Sends the notification once, and says what becomes of the delivery; no receiver can make it raise."""
        if not self._keys.knows(parcel.project_id):
            await self._learn(parcel.project_id)
        started_at, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
        headers = self._headers(parcel, started_at)
        answer = await self._sender.post(parcel.url, headers, parcel.body, parcel.timeout_s)
        now_ms = self._clock.now_ms()
        state, next_attempt_at = self._judge(parcel, answer, now_ms)
        attempt = Attempt(
            id=ids.new_id(ids.ATTEMPT),
            delivery_id=parcel.delivery_id,
            number=parcel.attempts_made + 1,
            outcome=answer.outcome,
            status_code=answer.status_code,
            error=answer.error,
            started_at=started_at,
            duration_ms=self._clock.monotonic_ms() - began_at,
            response_excerpt=_excerpt(parcel, answer.excerpt),
        )
        gone = "the endpoint answered 410 Gone" if answer.outcome is Outcome.ENDPOINT_GONE else None
        if answer.control == DISABLE:
            gone = "the endpoint asked for it by its webhook-delivery header"
        return Settled(
            attempt=attempt,
            endpoint_id=parcel.endpoint_id,
            state=state,
            next_attempt_at=next_attempt_at,
            at=now_ms,
            gone=gone,
            aborted=answer.control == ABORT,
            retry_after_ms=backoff.parse_retry_after(answer.retry_after, now_ms),
            probe=parcel.probe,
        )

    def _headers(self, parcel: Parcel, now_ms: int) -> dict[str, str]:
        """The endpoint's own headers, then relay's, which nothing can replace."""
        timestamp_s = now_ms // 1000
        headers = {
            **parcel.headers,
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": parcel.event_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": self._signatures(parcel, now_ms, timestamp_s),
            "relay-attempt": str(parcel.attempts_made + 1),
            HOP_HEADER: HOPS,
        }
        if parcel.redelivery:
            headers["relay-redelivery"] = "true"
        return headers

    def _signatures(self, parcel: Parcel, now_ms: int, timestamp_s: int) -> str:
        """One for each live secret, and relay's own that anybody can verify."""
        former_lives = parcel.former_secret is not None and now_ms < (parcel.former_secret_until or 0)
        secrets = [parcel.secret] + ([parcel.former_secret] if former_lives and parcel.former_secret else [])
        symmetric = signatures.sign(secrets, parcel.event_id, timestamp_s, parcel.body)
        if not self._keys.knows(parcel.project_id):
            return symmetric
        return f"{symmetric} {self._keys.sign(parcel.project_id, parcel.event_id, timestamp_s, parcel.body)}"

    async def _learn(self, project_id: str) -> None:
        """Learn a project's key; where it does not open, its notifications carry the endpoints' signatures alone."""
        try:
            await self._keys.learn(project_id)
        except SealBroken as error:
            _logger.error("delivery.signing_key_sealed", project=project_id, error=str(error))

    def _judge(self, parcel: Parcel, answer: Answer, now_ms: int) -> tuple[DeliveryState, int | None]:
        """Delivered, exhausted, or pending until the schedule's next time."""
        if answer.outcome is Outcome.OK:
            return DeliveryState.DELIVERED, None
        if answer.outcome is Outcome.ENDPOINT_GONE or answer.control in (DISABLE, ABORT) or parcel.probe:
            return DeliveryState.EXHAUSTED, None
        schedule_s = parcel.schedule_s or self._schedule_s
        asked_ms = backoff.parse_retry_after(answer.retry_after, now_ms)
        delay_ms = backoff.next_delay_ms(schedule_s, parcel.attempts_made + 1, self._random, asked_ms)
        return (DeliveryState.EXHAUSTED, None) if delay_ms is None else (DeliveryState.PENDING, now_ms + delay_ms)


def _excerpt(parcel: Parcel, excerpt: str | None) -> str | None:
    """What a receiver answered, without the secrets and headers of its endpoint, which some repeat in an error page."""
    if not excerpt:
        return excerpt
    for secret in (parcel.secret, parcel.former_secret, *parcel.headers.values()):
        if secret and len(secret) >= SECRET_CHARS_MIN and secret in excerpt:
            excerpt = excerpt.replace(secret, CUT)
    return log.redact(excerpt)
