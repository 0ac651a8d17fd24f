"""Asking instead of being told: jobs whose callback is late, or said nothing sure, are checked at their provider.

What the provider answers goes the same way as a callback. An answer that is no verdict about the job (not found yet,
too many requests, an outage) only moves the next check further away.
"""

import asyncio
from functools import partial
from typing import Final

from relay import backoff, lifecycle, log
from relay.errors import StorageUnavailable, Unreadable
from relay.exchange import ApiAnswer
from relay.lifecycle import Move
from relay.model import FinishedBy, Job, Report, Verdict, Verification
from relay.outbound.client import NoAnswer, NotSent
from relay.storage.record import Fact
from relay.submit import Calling

IN_FLIGHT_MAX: Final = 20
PER_PROVIDER_MAX: Final = 5
TIMEOUT_S: Final = 15.0
LEASE_MS: Final = 60_000
PAUSE_MS: Final = 5_000
_logger = log.get("check")


class Checker:
    """The loop over status checks."""

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        self._store = calling.store
        self._providers = calling.providers
        self._client = calling.client
        self._clock = calling.clock
        self._first_s = calling.settings.status_check_first_s
        self._hand_over = calling.hand_over
        self._under_way: set[asyncio.Task[None]] = set()
        self._turns = {name: asyncio.Semaphore(PER_PROVIDER_MAX) for name in calling.providers}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Checks what is due, until it is cancelled."""
        try:
            while True:
                self._wake.clear()
                now_ms = self._clock.now_ms()
                await self._start()
                due_at = await self._store.jobs.next_check() or now_ms + PAUSE_MS
                again_at = due_at if due_at > now_ms else now_ms + PAUSE_MS  # due still: there was no room for it
                await self._clock.wait(self._wake, min(again_at, now_ms + PAUSE_MS))
        finally:
            for under_way in self._under_way:
                under_way.cancel()

    def wake(self) -> None:
        """Something is due sooner than it was."""
        self._wake.set()

    async def _start(self) -> None:
        """Claims what is due, as far as there is room, and starts it."""
        room = IN_FLIGHT_MAX - len(self._under_way)
        if room <= 0:
            return
        now_ms = self._clock.now_ms()
        for job in await self._store.jobs.claim_checks(now_ms, now_ms + LEASE_MS, room):
            checking = asyncio.create_task(self._check(job), name=f"check {job.id}")
            self._under_way.add(checking)
            checking.add_done_callback(self._done)

    async def _check(self, job: Job) -> None:
        """One status check, from the request to its commit; what fails in between is due again when the lease ends."""
        async with self._turns[job.provider]:
            started_at = self._clock.now_ms()
            report, outcome, answer = await self._ask(job)
        now_ms = self._clock.now_ms()
        call = self._calling.told(job, "check", started_at, outcome, answer)
        again_at = now_ms + self._delay_ms(job)
        move = partial(_moved, report=report, again_at=again_at, now_ms=now_ms)
        try:
            recorded = await self._store.jobs.record(Fact(job_id=job.id, at=now_ms, move=move, call=call))
        except StorageUnavailable:
            return
        self._hand_over(recorded.fresh)
        _logger.info(
            "job.checked", job=job.id, provider=job.provider, outcome=outcome, verdict=recorded.verdict, next=again_at
        )

    async def _ask(self, job: Job) -> tuple[Report | None, str, ApiAnswer | None]:
        """What the provider says (None: nothing about the job), in a word, and its answer."""
        provider = self._providers[job.provider]
        if job.provider_job_id is None:
            return None, "no id to ask by", None
        request = provider.adapter.status_check(job.provider_job_id)
        try:
            answer = await self._client.send(provider.origin, provider.api_key or "", request, TIMEOUT_S)
        except (NotSent, NoAnswer) as error:
            return None, str(error), None
        try:
            report = provider.adapter.read_status(answer, self._clock.now_ms())
        except Unreadable as error:
            return None, f"no verdict: {str(error)[:200]}", answer
        return report, report.state or f"unknown word {report.word[:40]!r}", answer

    def _delay_ms(self, job: Job) -> int:
        """How long until the next check of a job that is still open."""
        first_s = self._first_s or self._providers[job.provider].adapter.limits.expected_s * backoff.CHECK_MARGIN
        return backoff.check_delay_ms(first_s, job.checks_made)

    def _done(self, checking: "asyncio.Task[None]") -> None:
        """Makes room, and tells of a check that failed inside relay."""
        self._under_way.discard(checking)
        self._wake.set()
        if not checking.cancelled() and (error := checking.exception()):
            _logger.error("job.check_broke", error=type(error).__name__, exc_info=error)


def _moved(job: Job, report: Report | None, again_at: int, now_ms: int) -> Move:
    """The job after a check, and when it is asked about again if it is still open."""
    if report is None:
        return lifecycle.asked_later(Move(job, Verdict.RECORDED, "no verdict about the job"), again_at)
    heard = lifecycle.hear(job, report, FinishedBy.STATUS_CHECK, Verification.FETCH, now_ms)
    return lifecycle.asked_later(heard, again_at)
