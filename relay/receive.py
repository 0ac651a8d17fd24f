"""A callback comes in: its token is proven before a byte is read, its bytes are kept, and what it says goes to the job.

The answer to the provider is given after the commit. Whatever the body is, a good token gets 200: a provider that is
refused retries for seconds and then gives up.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from relay import ids, jsonbody, lifecycle, log
from relay.clock import Clock
from relay.errors import BadBody, Unreadable
from relay.model import FinishedBy, Report, Verdict, Verification
from relay.providers.base import Provider
from relay.storage.record import Arrival, Fact, Fresh, Recorded
from relay.storage.store import Store
from relay.tokens import CallbackTokens, Claims

_CONTROL_FIELDS: Final = frozenset(
    {
        "id",
        "taskid",
        "task_id",
        "status",
        "state",
        "url",
        "output",
        "results",
        "data",
        "content",
        "metadata",
        "error",
        "result_url",
        "video_url",
    }
)
EVIDENCE_BYTES: Final = 65536
_logger = log.get("receive")


class Receiver:
    """Takes callbacks; `hand_over` gives dispatch what one caused, `check_soon` has doubtful ones asked about."""

    def __init__(
        self,
        *,
        store: Store,
        providers: Mapping[str, Provider],
        tokens: CallbackTokens,
        clock: Clock,
        hand_over: Callable[[tuple[Fresh, ...]], None],
        check_soon: Callable[[], None],
    ) -> None:
        self._store = store
        self._providers = providers
        self._tokens = tokens
        self._clock = clock
        self._hand_over = hand_over
        self._check_soon = check_soon

    def claims(self, provider: str, token: str) -> Claims | None:
        """What the token says, None when it is not good here; no I/O."""
        return self._tokens.read(provider, token, self._clock.now_ms())

    async def receive(
        self, provider: str, claims: Claims, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> Recorded:
        """Stores the callback and what follows from it; returns after COMMIT, or StorageUnavailable."""
        now_ms = self._clock.now_ms()
        report, unreadable = self._read(provider, headers, body, now_ms)
        arrival = Arrival(
            id=ids.new_id(ids.CALLBACK),
            provider=provider,
            received_at=now_ms,
            headers=headers,
            body=body,
            size=len(body),
            digest=lifecycle.digest(report) if report else None,
            unreadable=unreadable,
            foreign=claims.foreign,
        )
        return await self._record(claims, arrival, report)

    async def note_unread(
        self, provider: str, claims: Claims, headers: tuple[tuple[str, str], ...], body: bytes, reason: str
    ) -> Recorded:
        """A callback whose body was too large or too slow: what came of it is kept as evidence."""
        now_ms = self._clock.now_ms()
        arrival = Arrival(
            id=ids.new_id(ids.CALLBACK),
            provider=provider,
            received_at=now_ms,
            headers=headers,
            body=body[:EVIDENCE_BYTES],
            size=len(body),
            unreadable=reason,
            foreign=claims.foreign,
        )
        return await self._record(claims, arrival, None)

    async def _record(self, claims: Claims, arrival: Arrival, report: Report | None) -> Recorded:
        """The one transaction, then dispatch is woken."""
        move = None
        if report is not None:
            move = partial(
                lifecycle.hear,
                report=report,
                source=FinishedBy.CALLBACK,
                verification=Verification.TOKEN,
                now_ms=arrival.received_at,
            )
        recorded = await self._store.jobs.record(
            Fact(job_id=claims.job_id, at=arrival.received_at, move=move, arrival=arrival)
        )
        self._hand_over(recorded.fresh)
        if recorded.verdict in (Verdict.UNREADABLE, Verdict.MISMATCHED):
            self._check_soon()
        _logger.info(
            "callback.received",
            job=claims.job_id,
            provider=arrival.provider,
            callback=arrival.id,
            verdict=recorded.verdict,
            reason=recorded.reason,
            announced=recorded.announced,
            size=arrival.size,
        )
        return recorded

    def _read(
        self, provider: str, headers: tuple[tuple[str, str], ...], body: bytes, now_ms: int
    ) -> tuple[Report | None, str | None]:
        """What the body says, or why it cannot be read."""
        encoding = next((value for name, value in headers if name == "content-encoding"), "identity")
        if encoding.lower() != "identity":
            return None, "the body is compressed"
        adapter = self._providers.get(provider)
        if adapter is None:
            return None, "this relay has no such provider"
        try:
            parsed = jsonbody.parse(body)
            doubled = {name for name in parsed.duplicates if name.lower() in _CONTROL_FIELDS}
            if doubled:
                return None, f"the body has {min(doubled)} twice"
            if not isinstance(parsed.value, dict):
                return None, "the body is not a JSON object"
            return adapter.read_callback(parsed.value, now_ms), None
        except (BadBody, Unreadable) as error:
            return None, str(error)[:300]
