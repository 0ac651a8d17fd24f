"""Sweeps rows that are due: sends unsent jobs, ends interrupted submissions, expires jobs, proves payments, prunes.

Every timer is a row, so a restart begins with a sweep and continues where the last process stopped.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from relay import log
from relay.context import FlowContext
from relay.jobs.payment import Payer
from relay.jobs.status_checks import Checker
from relay.jobs.submission import MARGIN_MS, Submitter
from relay.lifecycle import checks, output_expiry
from relay.lifecycle.reports import Transition
from relay.model import ids
from relay.model.job import ErrorClass, JobError, ProviderCall
from relay.storage.apply_updates import JobUpdate
from relay.storage.job_rows import Timer
from relay.storage.jobs import DueJob
from relay.storage.retention import PAUSE_MS as PRUNE_PAUSE_MS
from relay.storage.retention import Terms

BATCH: Final = 100
PAUSE_MS: Final = 5_000
FORGET_EVERY_MS: Final = 3_600_000
PRUNE_EVERY_MS: Final = 600_000
DAY_MS: Final = 86_400_000
NEVER: Final = sys.maxsize
_logger = log.get("sweep")


class Sweeper:
    """Runs the loop over due rows."""

    def __init__(self, context: FlowContext, submitter: Submitter, checker: Checker, payer: Payer) -> None:
        self._context = context
        self._payer = payer
        self._store = context.store
        self._submitter = submitter
        self._checker = checker
        self._clock = context.clock
        self._submit_timeout_ms = round(context.settings.submit_timeout_s * 1000)
        self._forget_at = self._clock.monotonic_ms()
        self._retention_ms = context.settings.retention_days * DAY_MS
        self._prune_at = self._clock.monotonic_ms() if self._retention_ms else NEVER
        self._pruned: Counter[str] = Counter()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Sweep now: a process has ended, and its submissions with it."""
        self._wake.set()

    async def run(self) -> None:
        """Sweep immediately, then whenever a row is due, until cancelled."""
        while True:
            self._wake.clear()
            now_ms, began_at = self._clock.now_ms(), self._clock.monotonic_ms()
            await self.once()
            due_at = await self._store.jobs.next_clock() or now_ms + PAUSE_MS
            # A job that was due stays due until its submission has begun, so the next sweep waits at least a little.
            pause_ms = due_at - now_ms if due_at > now_ms else 50
            again_at = min(began_at + min(pause_ms, PAUSE_MS), self._prune_at)
            await self._clock.wait(self._wake, until_monotonic_ms=again_at)

    async def once(self) -> None:
        """Sweep once over everything that is due, in batches."""
        now_ms = self._clock.now_ms()
        jobs = self._store.jobs
        for job in await jobs.due(Timer.SUBMIT, now_ms, BATCH):
            if job.deadline_at > now_ms:
                self._submitter.start(job.id)
            else:
                await self._end_overdue(job, now_ms)
        for unanswered in await jobs.left_in_submission(now_ms - self._submit_timeout_ms - MARGIN_MS, BATCH):
            if not self._submitter.is_under_way(unanswered, now_ms):
                unclear = self._submitter.unclear(unanswered.provider)
                await self._apply(unanswered.id, partial(unclear, error=_interrupted()), now_ms)
        for job in await jobs.due(Timer.CONFIRM, now_ms, BATCH):
            decide = partial(checks.out_of_time, paused=self._checker.paused())
            await self._apply(job.id, decide, now_ms, _out_of_time(job.id, now_ms))
        for job in await jobs.due(Timer.DEADLINE, now_ms, BATCH):
            await self._end_overdue(job, now_ms)
        await self._announce_expiring(now_ms)
        for payment in await self._store.payments.to_prove(now_ms, BATCH):
            await self._payer.prove(payment)
        if self._clock.monotonic_ms() >= self._forget_at:
            await self._forget(now_ms)
            self._forget_at = self._clock.monotonic_ms() + FORGET_EVERY_MS
        if self._clock.monotonic_ms() >= self._prune_at:
            await self._prune(now_ms)

    async def _forget(self, now_ms: int) -> None:
        """Delete Idempotency-Keys past their life, and old sums and entries of the audit past their retention."""
        await self._store.access.forget(now_ms)
        await self._store.statistics.forget(now_ms)
        if days := self._context.settings.audit_retention_days:
            await self._store.audit.forget(now_ms - days * DAY_MS)

    async def _announce_expiring(self, now_ms: int) -> None:
        """Announce results that will soon expire; a batch shares a commit, since many jobs may be due together."""
        due = await self._store.jobs.due(Timer.EXPIRING, now_ms, BATCH)
        announce = partial(output_expiry.announce, enabled=bool(self._context.settings.output_expiring_s))
        await asyncio.gather(*(self._apply(job.id, announce, now_ms) for job in due))

    async def _end_overdue(self, job: DueJob, now_ms: int) -> None:
        """Expire a job whose deadline has passed, or have it checked one last time."""
        askable = bool((known := self._context.providers.get(job.provider)) and known.usable)
        await self._apply(job.id, partial(checks.overdue, askable=askable), now_ms)

    async def _prune(self, now_ms: int) -> None:
        """Delete one batch past the retention limit, and schedule the next: soon, or later if nothing was left."""
        self._prune_at = self._clock.monotonic_ms() + PRUNE_EVERY_MS
        grace_ms = self._context.settings.callback_grace_s * 1000
        kept = not self._context.settings.archive_retention_days
        terms = Terms(now=now_ms, before=now_ms - self._retention_ms, grace_ms=grace_ms, copies_kept=kept)
        removed = await self._store.pruner.batch(terms)
        self._context.metrics.pruned(removed)
        self._pruned.update(removed)
        if removed:
            self._prune_at = self._clock.monotonic_ms() + PRUNE_PAUSE_MS
        elif self._pruned:
            _logger.info("sweep.pruned", **self._pruned)
            self._pruned.clear()

    async def _apply(
        self, job_id: str, decide: Callable[..., Transition], now_ms: int, call: ProviderCall | None = None
    ) -> None:
        """Record what the passing of time decides about a job, with an entry of the timeline, and publish it."""
        update = JobUpdate(job_id=job_id, at=now_ms, transition=partial(decide, now_ms=now_ms), call=call)
        recorded = await self._store.jobs.record(update)
        self._context.publish(recorded)
        _logger.info("job.swept", job=job_id, decision=recorded.reason, announced=recorded.announced)


def _out_of_time(job_id: str, now_ms: int) -> ProviderCall:
    """Return the timeline entry of a job whose status check has not come back in time; the decision says why."""
    return ProviderCall(
        id=ids.new_id(ids.CALL),
        job_id=job_id,
        kind="check",
        started_at=now_ms,
        duration_ms=0,
        outcome="out of time",
        status_code=None,
        summary="the time for a status check is over",
        excerpt=None,
    )


def _interrupted() -> JobError:
    """Return the error of a job whose process ended before the provider's answer was stored."""
    return JobError(
        class_=ErrorClass.UNKNOWN,
        code="submission_interrupted",
        message="relay was stopped while it submitted the job; it may exist at the provider, so it is not sent again",
        retryable=False,
    )
